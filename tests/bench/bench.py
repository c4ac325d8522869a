"""Compares the executor with the least that a C child can do (floor.c), and prints one table.

    python tests/bench/bench.py [--executor PATH]... [--quick]

Every payload gets new executors, all alive at once. They take turns, a block of requests each, round after round, so
that whatever else the machine does falls on all of them alike. The first round is a warm-up. All of it is done twice:
with parent and executor on one core, and where the kernel puts them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from contextlib import ExitStack
from typing import Dict, List, NamedTuple, Sequence

import harness
from harness import ECHO, PACKAGES, TASKS, BenchError, Block, Driver, Peer, percentile

import protocol
from spider_executor import ExecutorHandle, own_command

MIB = 1 << 20
FLOOR, OURS = "C floor", "this executor"
SAME_CORE, BY_KERNEL = "same core", "placed by the kernel"
ROUND_TRIP, IPC = "round trip P50, µs", "IPC overhead P50, µs"
CPU, PEAK = "CPU per request, µs", "peak memory, MiB"
HANDLE, LOCATE = "ExecutorHandle.execute P50, µs", "protocol.locate_request, µs"

Commands = Dict[str, List[str]]


class Payload(NamedTuple):
    """One value that a task returns as it is. `block` requests are sent in a row, `rounds` times."""

    name: str
    task: tuple[str, str]
    value: object
    block: int
    rounds: int
    measures: Sequence[str]


PAYLOADS = (
    Payload(
        "tiny",
        (TASKS, "fibonacci"),
        1,
        250,
        240,
        (ROUND_TRIP, IPC, CPU, HANDLE, LOCATE),
    ),
    Payload(
        "100 strings", (ECHO, "echo"), harness.PATHS, 250, 200, (ROUND_TRIP, IPC, CPU)
    ),
    Payload("1 MiB", (ECHO, "echo"), bytes(MIB), 10, 200, (ROUND_TRIP, CPU)),
    Payload(
        "7 MiB", (ECHO, "echo"), bytes(7 * MIB), 3, 100, (ROUND_TRIP, CPU, HANDLE, PEAK)
    ),
)


def measure(
    driver: Driver, commands: Commands, payload: Payload, block: int, rounds: int
) -> dict[str, dict[str, float]]:
    """Return the value of each measure for each executor."""
    inputs = protocol.pack_values(payload.value)
    frame = harness.request_frame(*payload.task, inputs)
    blocks: dict[str, list[Block]] = {name: [] for name in commands}
    found: dict[str, dict[str, float]] = {measure: {} for measure in payload.measures}
    with ExitStack() as stack:
        peers = {
            name: stack.enter_context(Peer(command))
            for name, command in commands.items()
        }
        for at in range(1 + rounds):
            harness.progress(f"{payload.name}, round {at} of {rounds}")
            for name in list(commands)[:: 1 if at % 2 else -1]:
                measured, reply = driver.run(peers[name], [frame], block)
                if protocol.decode_response(reply, protocol.FRAME_HEADER_SIZE)[
                    0
                ].outcome != protocol.Success(inputs):
                    raise BenchError(
                        f"{commands[name][-1]}: not the outputs that {payload.task[1]} returns"
                    )
                if at:
                    blocks[name].append(measured)
        for name, peer in peers.items():
            for measure, value in figures(blocks[name], peer).items():
                if measure in found:
                    found[measure][name] = value
    if HANDLE in found:
        found[HANDLE] = measure_handle(commands, payload, max(block // 10, 1), rounds)
    if LOCATE in found:
        found[LOCATE][OURS] = measure_locate(frame, rounds)
    return found


def figures(blocks: Sequence[Block], peer: Peer) -> dict[str, float]:
    round_trips = [taken for block in blocks for taken in block.round_trip_ns]
    elapsed = [taken * 1000 for block in blocks for taken in block.elapsed_us]
    return {
        ROUND_TRIP: percentile(round_trips, 50) / 1000,
        IPC: percentile([whole - part for whole, part in zip(round_trips, elapsed)], 50)
        / 1000,
        CPU: percentile([block.cpu_ns / len(block.elapsed_us) for block in blocks], 50)
        / 1000,
        PEAK: peer.kib("status", "VmHWM") / 1024,
    }


def measure_handle(
    commands: Commands, payload: Payload, block: int, rounds: int
) -> dict[str, float]:
    times: dict[str, list[int]] = {name: [] for name in commands}
    with ExitStack() as stack:
        handles = {}
        for name, command in commands.items():
            handles[name] = stack.enter_context(
                ExecutorHandle(PACKAGES, command, harness.environment())
            )
            handles[name].execute(
                *payload.task, payload.value, timeout=harness.BLOCK_TIMEOUT_SECONDS
            )
        for at in range(rounds):
            harness.progress(
                f"{payload.name} through ExecutorHandle, round {at} of {rounds}"
            )
            for name in list(commands)[:: 1 if at % 2 else -1]:
                for _ in range(block):
                    start = time.perf_counter_ns()
                    handles[name].execute(
                        *payload.task,
                        payload.value,
                        timeout=harness.BLOCK_TIMEOUT_SECONDS,
                    )
                    times[name].append(time.perf_counter_ns() - start)
    return {name: percentile(taken, 50) / 1000 for name, taken in times.items()}


def measure_locate(frame: bytes, rounds: int) -> float:
    """The best of some blocks of 1,000 calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter_ns()
        for _ in range(1000):
            protocol.locate_request(frame, protocol.FRAME_HEADER_SIZE, len(frame))
        times.append(time.perf_counter_ns() - start)
    return min(times) / 1e6


def rows(commands: Commands, quick: bool) -> list[list[str]]:
    driver = Driver()
    everywhere = os.sched_getaffinity(0)
    table = []
    for payload in PAYLOADS:
        block, rounds = (
            (max(payload.block // 10, 1), 2)
            if quick
            else (payload.block, payload.rounds)
        )
        found = {}
        for placement, cores in (
            (SAME_CORE, {max(everywhere)}),
            (BY_KERNEL, everywhere),
        ):
            os.sched_setaffinity(0, cores)
            found[placement] = measure(driver, commands, payload, block, rounds)
        for name in payload.measures:
            cells = (
                cell(values[name], subject)
                for values in found.values()
                for subject in commands
            )
            table.append([payload.name, name, *cells])
    harness.progress("")
    return table


def cell(values: dict[str, float], subject: str) -> str:
    if subject not in values:
        return ""
    text = f"{values[subject]:.{1 if values[subject] >= 1 else 2}f}"
    return (
        f"{text} ({values[subject] / values[FLOOR]:.2f}×)"
        if subject != FLOOR and FLOOR in values
        else text
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Compare the executor with the least that a C child can do."
    )
    parser.add_argument(
        "--executor",
        metavar="PATH",
        action="append",
        default=[],
        help="measure another one, too",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few samples: shows that it runs, not how fast it is",
    )
    options = parser.parse_args()
    harness.build()
    commands = {FLOOR: [str(harness.BUILD / "floor")], OURS: own_command()}
    for path in options.executor:
        commands[path] = [os.path.abspath(path)]
    # The first start may compile the modules, which takes memory.
    subprocess.run(
        commands[OURS],
        stdin=subprocess.DEVNULL,
        env=harness.environment(),
        check=True,
        timeout=60,
    )
    columns = [
        f"{placement}: {name}"
        for placement in (SAME_CORE, BY_KERNEL)
        for name in commands
    ]
    print(
        harness.markdown_table(
            ["payload", "measure", *columns], rows(commands, options.quick)
        ),
        end="",
    )
    print(
        "\nIn parentheses: the multiple of the floor's figure in the same run. IPC overhead is the round trip less what"
        f" the executor says that the task took, in whole microseconds.\n{harness.machine()}"
    )
    return 0


if __name__ == "__main__":
    harness.run(main)
