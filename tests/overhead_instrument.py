"""What the executor adds to a task, measured from its parent: one long-lived executor, `sleep_and_echo` with 100 paths.

    python tests/overhead_instrument.py [--executor PATH] [--package-dir DIR] [--iterations N]

Prints a markdown table, and writes it to ${SPIDER_TEST_INSTRUMENT_OUTPUT_DIR}/task_executor_overhead.md if that is set.
The task sleeps for SPIDER_INSTRUMENT_SLEEP_US microseconds (default: 50). What a sleep takes beyond that is counted as
the executor's.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent / "bench"))
import harness
from harness import TASKS, BenchError, Driver, Peer, percentile

import protocol
from spider_executor import own_command

OUTPUT_DIR_VARIABLE = "SPIDER_TEST_INSTRUMENT_OUTPUT_DIR"
SLEEP_VARIABLE = "SPIDER_INSTRUMENT_SLEEP_US"
WARM_UP, BLOCK = 100, 1000


def measure(command: Sequence[str], package_dir: Path, iterations: int, sleep_us: int) -> list[list[str]]:
    paths = protocol.pack_values(harness.PATHS)
    frame = harness.request_frame(TASKS, "sleep_and_echo", paths)
    driver = Driver()
    env = harness.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir), **{SLEEP_VARIABLE: str(sleep_us)})
    with Peer(command, env) as peer:
        driver.run(peer, [frame], WARM_UP)
        end_to_end: list[float] = []
        ffi: list[int] = []
        while len(ffi) < iterations:
            block, reply = driver.run(peer, [frame], min(BLOCK, iterations - len(ffi)))
            end_to_end += [nanoseconds / 1000 for nanoseconds in block.round_trip_ns]
            ffi += block.elapsed_us
    if protocol.decode_response(reply, protocol.FRAME_HEADER_SIZE)[0].outcome != protocol.Success(paths):
        raise BenchError("sleep_and_echo did not return its input")
    return [
        row("E2E (parent)", end_to_end),
        row("Executor FFI", ffi),
        row("Executor internal (FFI − sleep)", [elapsed - sleep_us for elapsed in ffi]),
        row("IPC overhead (E2E − FFI)", [whole - elapsed for whole, elapsed in zip(end_to_end, ffi)]),
    ]


def row(name: str, values: Sequence[float]) -> list[str]:
    figures = [sum(values) / len(values), *(percentile(values, percent) for percent in (50, 95, 99))]
    return [name, str(len(values)), *(f"{figure:.1f}" for figure in figures)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the executor adds to a task.")
    parser.add_argument("--executor", metavar="PATH", help="another spider-task-executor (default: this project's)")
    parser.add_argument("--package-dir", metavar="DIR", type=Path, help=f"where {TASKS} is (default: it is built)")
    parser.add_argument("--iterations", metavar="N", type=int, default=1000, help="counted requests (%(default)s)")
    options = parser.parse_args()
    sleep = os.environ.get(SLEEP_VARIABLE) or "50"
    if not sleep.isdecimal() or options.iterations < 1:
        raise BenchError(
            f"expected whole numbers, found {SLEEP_VARIABLE}={sleep} and --iterations {options.iterations}"
        )
    harness.build()
    command = [os.path.abspath(options.executor)] if options.executor else own_command()
    rows = measure(command, options.package_dir or harness.PACKAGES, options.iterations, int(sleep))
    table = harness.markdown_table(["Metric (µs)", "Count", "Avg", "P50", "P95", "P99"], rows, words=1)
    print(table, end="")
    output_dir = os.environ.get(OUTPUT_DIR_VARIABLE)
    if output_dir:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        (Path(output_dir) / "task_executor_overhead.md").write_text(table, encoding="utf-8")
    return 0


if __name__ == "__main__":
    harness.run(main)
