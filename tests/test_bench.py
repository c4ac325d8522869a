"""The measuring scripts run to their ends and print what they promise. No figure is judged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.build import ROOT

BENCH = ROOT / "tests" / "bench"


def run(script: Path, *arguments: str, code: int = 0, **env: str) -> str:
    """Return what the script prints, on stderr if `code` is not 0."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **env},
        timeout=100,
    )
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code)
    return done.stderr if code else done.stdout


def rows(printed: str) -> list[list[str]]:
    table = [
        line.strip("|").split("|")
        for line in printed.splitlines()
        if line.startswith("|")
    ]
    return [[cell.strip() for cell in row] for row in table[:1] + table[2:]]


def test_bench_measures_every_executor_in_both_placements() -> None:
    floor = str(ROOT / "build" / "bench" / "floor")
    head, *found = rows(run(BENCH / "bench.py", "--quick", "--executor", floor))
    subjects = ["C floor", "this executor", floor]
    assert head[2:] == [
        f"{place}: {name}"
        for place in ("same core", "placed by the kernel")
        for name in subjects
    ]
    assert {row[0] for row in found} == {"tiny", "100 strings", "1 MiB", "7 MiB"}
    for row in found:
        given = row[2:] if "locate_request" not in row[1] else row[3::3]
        assert all(float(cell.split(" (")[0]) > 0 for cell in given), row


def test_startup_measures_every_way() -> None:
    found = rows(run(BENCH / "startup.py", "--rounds", "1"))[1:]
    assert len(found) == 6
    assert all(float(row[1]) > 0 and row[2].endswith("×") for row in found)


@pytest.mark.parametrize(
    ("program", "complaint"),
    [
        ("/nonexistent/executor", "No such file or directory"),
        ("/bin/true", "it ended without a reply"),
    ],
)
def test_bench_says_what_is_wrong_with_an_executor(
    program: str, complaint: str
) -> None:
    printed = run(BENCH / "bench.py", "--quick", "--executor", program, code=1)
    assert printed.startswith("bench: ")
    assert program in printed
    assert complaint in printed
