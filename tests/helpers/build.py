"""Compile packages and stage them; find out which tools this machine has.

ROOT, PACKAGES, NATIVE          directories of the project
CC, CXX                         the compilers' commands; CXX is None if there is none
PackageBuilder                  compiles a source file once for each set of flags
stage, replace                  put a library where an executor looks for it
TOOLS, has, needs, missing      tools, and the tests that need them
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NATIVE = ROOT / "native"
PACKAGES = ROOT / "tests" / "packages"

CC = os.environ.get("CC", "cc")
# An empty CXX in the environment means that there is no C++ compiler.
CXX = (
    os.environ.get("CXX", next(filter(shutil.which, ("c++", "g++", "clang++")), None))
    or None
)


class PackageBuilder:
    """Compiles a source file into a shared library, once for each set of flags."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.built: dict[tuple[Path, tuple[str, ...]], Path] = {}
        self.numbers = itertools.count()

    def __call__(self, source: Path, *flags: str) -> Path:
        key = (source, flags)
        if key not in self.built:
            library = self.directory / f"{next(self.numbers)}-{source.stem}.so"
            compiler = (
                [CC, "-std=gnu99"]
                if source.suffix == ".c"
                else [str(CXX), "-std=c++17"]
            )
            includes = [f"-I{NATIVE}", f"-I{PACKAGES}"]
            command = [
                *compiler,
                "-O2",
                "-fPIC",
                "-shared",
                *includes,
                "-o",
                str(library),
                str(source),
                *flags,
            ]
            subprocess.run(command, check=True, timeout=120)
            self.built[key] = library
        return self.built[key]

    def all_of(self, sources: list[Path]) -> list[Path]:
        """Compile several files, as many at a time as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self, sources))


def package_sources() -> list[Path]:
    """The source files of tests/packages/, those in C++ only if there is a compiler for it."""
    return sorted(PACKAGES.glob("*.c" if CXX is None else "*.c*"))


def stage(package_dir: Path, name: str, library: Path) -> Path:
    """Copy a library to where an executor looks for the package `name`. An existing file is overwritten."""
    target = package_dir / name / f"lib{name}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library, target)
    return target


def replace(package_dir: Path, name: str, library: Path) -> Path:
    """Like `stage`, but by renaming a new file, so that a process that has mapped the old file keeps it."""
    target = package_dir / name / f"lib{name}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library, target.with_suffix(".new"))
    target.with_suffix(".new").rename(target)
    return target


# ---------------------------------------------------------------------------------------------------------------- tools


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    except OSError:
        return False


def _compiles(compiler: str, text: str, *flags: str) -> bool:
    command = [compiler, "-x", "c", "-o", os.devnull, "-", *flags]
    try:
        return (
            subprocess.run(
                command, input=text.encode(), capture_output=True, timeout=60
            ).returncode
            == 0
        )
    except OSError:
        return False


SANITIZERS = "-fsanitize=address,undefined"

# A tool, how to see that it is there, and the tests that do not run without it.
TOOLS = {
    "C++ compiler": (lambda: CXX is not None, "packages in C++"),
    "clang": (
        lambda: shutil.which("clang") is not None,
        "the SDK's header under a second compiler",
    ),
    "sanitizers": (
        lambda: _compiles(CC, "int main(void) { return 0; }", SANITIZERS),
        "the SDK under sanitizers",
    ),
    "gcc's sanitizers": (
        lambda: (
            has("sanitizers")
            and not _compiles(CC, "#ifndef __clang__\n#error\n#endif\n", "-c")
        ),
        "the guide's example with sanitizers",
    ),
    "ThreadSanitizer": (
        lambda: _compiles(CC, "int main(void) { return 0; }", "-fsanitize=thread"),
        "threads in the SDK",
    ),
    "zstd.h": (
        lambda: _compiles(CC, "#include <zstd.h>\n", "-c"),
        "commit tasks with compressed outputs",
    ),
    "gdb": (lambda: shutil.which("gdb") is not None, "the guide's example with gdb"),
    # valgrind cannot run every build of Python.
    "valgrind": (
        lambda: _runs("valgrind", "-q", sys.executable, "--version"),
        "the guide's example with valgrind",
    ),
    "unprivileged user": (
        lambda: unprivileged() is not None,
        "executors of another user",
    ),
}


@functools.lru_cache(maxsize=None)
def has(tool: str) -> bool:
    return bool(TOOLS[tool][0]())


def needs(*tools: str) -> pytest.MarkDecorator:
    """A mark that skips a test without these tools."""
    absent = [tool for tool in tools if not has(tool)]
    return pytest.mark.skipif(
        bool(absent), reason=f"this machine has no {', no '.join(absent)}"
    )


def missing() -> list[str]:
    """One line for each tool that is not there."""
    return [
        f"not run: {tests} (no {tool})"
        for tool, (_, tests) in TOOLS.items()
        if not has(tool)
    ]


@functools.lru_cache(maxsize=None)
def unprivileged() -> tuple[str, ...] | None:
    """The start of a command that runs this Python without root's rights, or None if there is no way."""
    if os.geteuid() != 0:
        return ()
    ways = (
        ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        ("unshare", "--user"),
    )
    return next(
        (way for way in ways if _runs(*way, sys.executable, "-IS", "-c", "")), None
    )
