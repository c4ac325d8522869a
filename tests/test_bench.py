"""The measuring scripts run to the end and print what they promise. What they measure is never judged here."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BENCH = ROOT / "tests" / "bench"
FLOOR = ROOT / "build" / "bench" / "floor"

MEASURES = [
    "round trip P50, µs",
    "round trip P99, µs",
    "executor FFI P50, µs",
    "IPC overhead P50, µs",
    "IPC overhead P99, µs",
    "CPU per request, µs",
    "peak memory, MiB",
]


def run(script: Path, *arguments: str, status: int = 0, **env: str) -> tuple[str, str]:
    """What the script prints on stdout and on stderr."""
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        encoding="utf-8",
        env={**os.environ, **env},
        timeout=100,
    )
    assert done.returncode == status, done.stderr
    return done.stdout, done.stderr


def cells(table: str) -> list[list[str]]:
    """The rows of a markdown table, the head first, without its rule."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in rows}) == 1, "rows of different widths"
    assert set("".join(rows[1])) <= set("-:"), "no rule under the head"
    return [rows[0], *rows[2:]]


def figure(cell: str) -> float:
    return float(cell.split(" ")[0])


def test_bench_prints_one_table_and_writes_it_with_a_chart(tmp_path: Path) -> None:
    printed, complaints = run(BENCH / "bench.py", "--quick", "--output", str(tmp_path), "--executor", str(FLOOR))
    head, *rows = cells(printed)
    subjects = ["C floor", "this executor", str(FLOOR), "ProcessPoolExecutor", "python3 -IS"]
    assert head == ["payload", "measure", *subjects, "at most", ""]
    payloads = ["tiny", "100 strings", "1 MiB", "7 MiB"]
    expected = [(payload, measure) for payload in payloads for measure in MEASURES]
    expected.insert(len(MEASURES), ("tiny, `RUST_LOG=debug`", "IPC overhead P50, µs"))
    expected += [("tiny", "spawn to first reply P50, ms"), ("tiny, 3 idle", "PSS of the largest, MiB")]
    assert [(row[0], row[1]) for row in rows] == expected
    for row in rows:
        assert all(figure(cell) >= 0 for cell in row[2:5]), row
        assert (row[8] in ("met", "not met")) == bool(row[7]), row
    limited = [(row[0], row[1]) for row in rows if row[7]]
    assert limited == [
        ("tiny", "IPC overhead P50, µs"),
        ("tiny", "CPU per request, µs"),
        ("tiny", "peak memory, MiB"),
        ("tiny, `RUST_LOG=debug`", "IPC overhead P50, µs"),
        ("100 strings", "IPC overhead P50, µs"),
        ("1 MiB", "round trip P50, µs"),
        ("7 MiB", "round trip P50, µs"),
        ("tiny", "spawn to first reply P50, ms"),
        ("tiny, 3 idle", "PSS of the largest, MiB"),
    ]
    assert complaints == "", "progress is for terminals"
    assert (tmp_path / "bench.md").read_text(encoding="utf-8") == printed

    chart = xml.etree.ElementTree.parse(tmp_path / "bench.svg").getroot()
    namespace = "{http://www.w3.org/2000/svg}"
    bars = chart.findall(f".//{namespace}rect")
    assert len(bars) == 5 * 4
    assert all(float(bar.get("width", "0")) > 0 for bar in bars)
    texts = [text.text for text in chart.iter(f"{namespace}text")]
    assert texts.count("this executor") == 5


@pytest.mark.parametrize(
    ("program", "complaint"),
    [("/nonexistent/executor", "No such file or directory"), ("/bin/true", "it ended without a reply")],
)
def test_bench_says_what_is_wrong_with_an_executor(program: str, complaint: str, tmp_path: Path) -> None:
    printed, complaints = run(BENCH / "bench.py", "--quick", "--output", str(tmp_path), "--executor", program, status=1)
    assert printed == ""
    assert complaints.startswith("bench: ")
    assert program in complaints
    assert complaint in complaints
    assert complaints.count("\n") == 1


def test_startup_measures_every_way_or_says_that_it_is_missing(tmp_path: Path) -> None:
    absent = tmp_path / "spider-task-executor"
    printed, _ = run(BENCH / "startup.py", "--rounds", "1", "--console-script", str(absent))
    head, *rows = cells(printed)
    assert head == ["way", "command", "warm P50, ms", "of bare", "cold P50, ms", "of bare", ""]
    assert [row[0] for row in rows] == [
        "nothing: a bare interpreter",
        "the file",
        "the file, by its first line",
        "a launcher that imports it",
        "-m, beside the modules",
        "zipapp",
        "console script",
        "the executable file",
        "the same, as an archive",
        "the same, by env",
    ]
    assert rows[0][2]
    for row in rows[1:]:
        if row[6]:
            assert row[2:6] == [""] * 4
        else:
            assert figure(row[2]) > 0
            assert figure(row[4]) > 0
    assert [row[0] for row in rows if row[6].startswith("not installed")] == ["console script"]


def test_overhead_instrument_prints_and_writes_its_table(
    request: pytest.FixtureRequest, package_dir: Path, tmp_path: Path
) -> None:
    executor = request.config.getoption("--executor")
    printed, _ = run(
        ROOT / "tests" / "overhead_instrument.py",
        *("--iterations", "150", "--package-dir", str(package_dir)),
        *(() if executor is None else ("--executor", executor)),
        SPIDER_TEST_INSTRUMENT_OUTPUT_DIR=str(tmp_path / "made"),
        SPIDER_INSTRUMENT_SLEEP_US="700",
    )
    head, *rows = cells(printed)
    assert head == ["Metric (µs)", "Count", "Avg", "P50", "P95", "P99"]
    assert [row[:2] for row in rows] == [
        ["E2E (parent)", "150"],
        ["Executor FFI", "150"],
        ["Executor internal (FFI − sleep)", "150"],
        ["IPC overhead (E2E − FFI)", "150"],
    ]
    end_to_end, ffi, internal, ipc = ([float(cell) for cell in row[2:]] for row in rows)
    for index in range(4):
        assert end_to_end[index] > ffi[index] >= 700
        assert internal[index] == pytest.approx(ffi[index] - 700, abs=0.2)
    assert ipc[0] == pytest.approx(end_to_end[0] - ffi[0], abs=0.2)
    for values in (end_to_end, ffi, internal, ipc):
        assert values[1] <= values[2] <= values[3]
    assert (tmp_path / "made" / "task_executor_overhead.md").read_text(encoding="utf-8") == printed


def test_overhead_instrument_refuses_a_sleep_that_is_no_number() -> None:
    printed, complaints = run(ROOT / "tests" / "overhead_instrument.py", status=1, SPIDER_INSTRUMENT_SLEEP_US="50us")
    assert printed == ""
    expected = "SPIDER_INSTRUMENT_SLEEP_US: expected a whole number of microseconds, found '50us'"
    assert complaints == f"overhead_instrument: {expected}\n"
