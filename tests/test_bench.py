"""The measuring scripts run to their ends and print what they promise. No figure is judged."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.build import ROOT

BENCH = ROOT / "tests" / "bench"
INSTRUMENT = ROOT / "tests" / "overhead_instrument.py"


def run(script: Path, *arguments: str, code: int = 0, **env: str) -> str:
    """Return what the script prints, on stderr if `code` is not 0."""
    command = [sys.executable, str(script), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env={**os.environ, **env}, timeout=100)
    assert done.returncode == code, done.stderr
    assert bool(done.stderr) == bool(code)
    return done.stderr if code else done.stdout


def rows(printed: str) -> list[list[str]]:
    table = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in table[:1] + table[2:]]


def test_bench_measures_every_executor_in_both_placements() -> None:
    floor = str(ROOT / "build" / "bench" / "floor")
    head, *found = rows(run(BENCH / "bench.py", "--quick", "--executor", floor))
    subjects = ["C floor", "this executor", floor]
    assert head[2:] == [f"{place}: {name}" for place in ("same core", "placed by the kernel") for name in subjects]
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
    [("/nonexistent/executor", "No such file or directory"), ("/bin/true", "it ended without a reply")],
)
def test_bench_says_what_is_wrong_with_an_executor(program: str, complaint: str) -> None:
    printed = run(BENCH / "bench.py", "--quick", "--executor", program, code=1)
    assert printed.startswith("bench: ")
    assert program in printed
    assert complaint in printed


def test_instrument_prints_and_writes_its_table(tmp_path: Path) -> None:
    env = {"SPIDER_TEST_INSTRUMENT_OUTPUT_DIR": str(tmp_path / "made"), "SPIDER_INSTRUMENT_SLEEP_US": "700"}
    printed = run(INSTRUMENT, "--iterations", "150", **env)
    assert (tmp_path / "made" / "task_executor_overhead.md").read_text(encoding="utf-8") == printed
    head, *found = rows(printed)
    assert head == ["Metric (µs)", "Count", "Avg", "P50", "P95", "P99"]
    names = ["E2E (parent)", "Executor FFI", "Executor internal (FFI − sleep)", "IPC overhead (E2E − FFI)"]
    assert [row[:2] for row in found] == [[name, "150"] for name in names]
    end_to_end, ffi, internal, ipc = ([float(cell) for cell in row[2:]] for row in found)
    assert all(whole > part >= 0 for whole, part in zip(end_to_end, ffi))
    assert internal == pytest.approx([part - 700 for part in ffi], abs=0.2)
    assert ipc[0] == pytest.approx(end_to_end[0] - ffi[0], abs=0.2)


def test_instrument_refuses_a_sleep_that_is_not_a_number() -> None:
    assert "SPIDER_INSTRUMENT_SLEEP_US=50us" in run(INSTRUMENT, code=1, SPIDER_INSTRUMENT_SLEEP_US="50us")
