"""Compares the executor with the least that a C child can do, in one table.

    python3 tests/bench/bench.py [--executor PATH]... [--cores one|two|any] [--rounds N]

The executor is the executable file, made for this Python. Each payload gets new
executors, all alive at once. They take turns, a block of requests each, round after
round, so that whatever else the machine does falls on all of them alike. The first
round is a warm-up.
"""

import argparse
import os
from contextlib import ExitStack
from statistics import median
from typing import NamedTuple

import harness
from harness import ECHO, TASKS, Peer

import protocol

MIB = 1 << 20
FLOOR = "C floor"
ROUND_TRIP = "round trip, µs"
OVERHEAD = "overhead, µs"
CPU = "CPU per request, µs"
PEAK = "peak memory, MiB"
SMALL = (ROUND_TRIP, OVERHEAD, CPU)
# Strings of about 60 bytes, such as tasks get.
PATHS = [
    f"/data/warehouse/job-{n:06d}/partition-{n * 7:04d}/part-{n * 13:05d}.parquet"
    for n in range(100)
]
NOTES = """
Times are medians. In parentheses: the multiple of the C floor's figure, measured in
the same run. The overhead is the round trip less the time that the executor reports
for the task, in whole microseconds. 100 strings are {} bytes. Parent and executor:
{}.
{}"""
# The cores of the parent and of the executor, of all that there are.
CORES = {
    "one": ("on one core", slice(-1, None), slice(-1, None)),
    "two": ("on a core each", slice(0, 1), slice(-1, None)),
    "any": ("placed by the kernel", slice(None), slice(None)),
}


class Payload(NamedTuple):
    """A value that a task returns as it is, sent `block` times in a row."""

    name: str
    package: str
    task: str
    value: object
    block: int
    measures: tuple


PAYLOADS = (
    Payload("tiny", TASKS, "fibonacci", 1, 250, SMALL),
    Payload("4 KiB", ECHO, "echo", bytes(4096), 250, SMALL),
    Payload("100 strings", ECHO, "echo", PATHS, 250, SMALL),
    Payload("1 MiB", ECHO, "echo", bytes(MIB), 10, (ROUND_TRIP, CPU)),
    Payload("7 MiB", ECHO, "echo", bytes(7 * MIB), 2, (ROUND_TRIP, CPU, PEAK)),
)


class Bench:
    def __init__(self, commands, cores, rounds):
        self.commands = commands
        self.rounds = rounds
        everywhere = sorted(os.sched_getaffinity(0))
        self.placement, ours, theirs = CORES[cores]
        self.our_cores = everywhere[ours]
        self.their_cores = everywhere[theirs]

    def measure(self, payload):
        """Return the figures of each executor."""
        inputs = protocol.pack_values(payload.value)
        frame = harness.request_frame(payload.package, payload.task, inputs)
        blocks = {name: [] for name in self.commands}
        with ExitStack() as stack:
            os.sched_setaffinity(0, self.their_cores)
            peers = {
                name: stack.enter_context(Peer(command, harness.environment()))
                for name, command in self.commands.items()
            }
            os.sched_setaffinity(0, self.our_cores)
            for number in range(1 + self.rounds):
                harness.progress(f"{payload.name}, round {number} of {self.rounds}")
                for name in harness.in_turn(list(peers), number):
                    block = peers[name].run(frame, inputs, payload.block)
                    blocks[name].append(block)
            return {name: figures(blocks[name][1:], peers[name]) for name in peers}

    def starts(self):
        """Return the milliseconds from the start of each executor to its reply."""
        times = {name: [] for name in self.commands}
        os.sched_setaffinity(0, self.their_cores)
        for number in range(self.rounds // 4):
            harness.progress(f"start, round {number} of {self.rounds // 4}")
            for name in harness.in_turn(list(times), number):
                taken = harness.start_ns(self.commands[name], harness.environment())
                times[name].append(taken)
        return {name: median(taken) / 1e6 for name, taken in times.items()}

    def rows(self):
        table = []
        for payload in PAYLOADS:
            found = self.measure(payload)
            for measure in payload.measures:
                values = {name: found[name][measure] for name in found}
                table.append(row(f"{payload.name}: {measure}", values))
        table.append(row("start to first reply, ms", self.starts()))
        harness.progress("")
        return table


def figures(blocks, peer):
    round_trips = []
    overheads = []
    for block in blocks:
        round_trips += block.round_trip_ns
        for taken, elapsed in zip(block.round_trip_ns, block.elapsed_us):
            overheads.append(taken - elapsed * 1000)
    cpu = [block.cpu_ns / len(block.elapsed_us) for block in blocks]
    return {
        ROUND_TRIP: median(round_trips) / 1000,
        OVERHEAD: median(overheads) / 1000,
        CPU: median(cpu) / 1000,
        PEAK: peer.peak_memory() / MIB,
    }


def row(title, values):
    floor, *others = values.values()
    cells = [harness.cell(value, floor) for value in others]
    return [title, harness.figure(floor), *cells]


def main():
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
        "--cores",
        choices=CORES,
        default="one",
        help="how many parent and executor have (%(default)s)",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=200,
        help="blocks of requests for each payload (%(default)s)",
    )
    options = parser.parse_args()
    harness.compile_all()
    commands = {
        FLOOR: [harness.FLOOR],
        "this executor": [harness.executable_file(harness.python())],
    }
    for path in options.executor:
        commands[path] = [os.path.abspath(path)]
    bench = Bench(commands, options.cores, options.rounds)
    rows = bench.rows()
    harness.print_table(["", *commands], rows)
    strings = len(protocol.pack_values(PATHS))
    print(NOTES.format(strings, bench.placement, harness.machine()))


if __name__ == "__main__":
    harness.run(main)
