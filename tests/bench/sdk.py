"""What the package SDK costs: times per task, and the size of packages.

    python3 tests/bench/sdk.py [DIRECTORY]

"x floor" is the time of a call as a multiple of malloc and memcpy of its payload.
DIRECTORY has another version of spider_tdl.h; each of its figures follows in
parentheses, with the ratio to it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent.parent / "native"
CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX", "c++")
ROUNDS = 5

SUMS_C = """
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"
static void add(spider_task *task)
{
    int64_t a = spider_read_int64(task->in);
    int64_t b = spider_read_int64(task->in);
    spider_write_int64(task->out, a + b);
}
SPIDER_TDL_PACKAGE("sums", NULL, {"add", add});
"""
SUMS_CXX = """
#define SPIDER_TDL_IMPLEMENTATION
#if __has_include("spider_tdl.hpp")
#include "spider_tdl.hpp"
#else
#include "spider_tdl.h"
#endif
static std::int64_t add(std::int64_t a, std::int64_t b) { return a + b; }
SPIDER_TDL_PACKAGE("sums", nullptr, {"add", spider::typed<add>});
"""


def compile_one(command: list[str], directory: Path) -> float:
    start = time.perf_counter()
    subprocess.run([*command, f"-I{directory}"], check=True)
    return (time.perf_counter() - start) * 1e3


def packages(directory: Path, work: Path) -> dict[str, float]:
    """The size of a stripped package of one task, and the milliseconds to compile it."""
    figures = {}
    for name, text, command in (
        ("C", SUMS_C, [CC, "-std=c99"]),
        ("C++", SUMS_CXX, [CXX, "-std=c++17"]),
    ):
        source = work / ("sums.c" if name == "C" else "sums.cpp")
        source.write_text(text)
        library = work / "libsums.so"
        command = [
            *command,
            "-O2",
            "-shared",
            "-fPIC",
            "-s",
            "-o",
            str(library),
            str(source),
        ]
        milliseconds = min(compile_one(command, directory) for _ in range(ROUNDS))
        figures[f"package of one task in {name}, bytes"] = library.stat().st_size
        figures[f"package of one task in {name}, ms to compile"] = milliseconds
    return figures


def main() -> None:
    directories = [NATIVE, *map(Path, sys.argv[1:2])]
    columns: list[dict[str, float]] = [{} for _ in directories]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for index, directory in enumerate(directories):
            command = [
                CC,
                "-std=c99",
                "-O2",
                "-o",
                str(work / f"bench{index}"),
                str(HERE / "sdk.c"),
            ]
            compile_one(command, directory)
        # In turn, so that each has the machine's better and worse moments.
        for _ in range(ROUNDS):
            for index, column in enumerate(columns):
                program = [str(work / f"bench{index}")]
                printed = subprocess.run(
                    program, check=True, stdout=subprocess.PIPE, encoding="ascii"
                ).stdout
                for line in printed.splitlines():
                    name, nanoseconds, multiple = line.split("\t")
                    for key, figure in (
                        (f"{name}, ns each", nanoseconds),
                        (f"{name}, x floor", multiple),
                    ):
                        column[key] = min(float(figure), column.get(key, float("inf")))
        for column, directory in zip(columns, directories):
            column.update(packages(directory, work))
    for name, value in columns[0].items():
        if len(columns) == 1:
            print(f"{name:55} {value:12,.1f}")
        else:
            other = columns[1][name]
            print(f"{name:55} {value:12,.1f} ({other:,.1f}) {value / other:6.2f}")


if __name__ == "__main__":
    main()
