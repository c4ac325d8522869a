"""Shows that what an executor has done already makes the next request neither slower nor larger.

    python tests/bench/soak.py [--quick]

Prints one table. Memory and descriptors have limits, and the exit status is 1 if one is not met. Times have none: they
are for reading. Each comes from two executors, one with a short past and one with a long one, that take turns.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import NamedTuple, Sequence

import harness
from harness import Driver, Peer, Progress, percentile

import protocol

GROWTH_LIMIT_KIB = 1024
BLOCK = 1000
ROUNDS = 20
ONE = protocol.pack_values(1)


class Effort(NamedTuple):
    requests: int
    settled: int
    """The request from which on memory is not to grow."""
    large_requests: int
    large_settled: int
    packages: int
    tasks: int


FULL = Effort(1_000_000, 10_000, 10_000, 1_000, 500, 10_000)
QUICK = Effort(100_000, 10_000, 1_000, 200, 50, 10_000)


class Row(NamedTuple):
    subject: str
    measure: str
    before: str
    after: str
    limit: str = ""
    verdict: str = ""


def package_name(number: int) -> str:
    return f"echo_{number:04d}"


def build_packages(count: int) -> None:
    """Packages of one build that differ in the name they declare."""
    image = harness.library_path(harness.ECHO).read_bytes()
    for number in range(count):
        name = package_name(number)
        path = harness.library_path(name)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            with harness.replacing(path) as made:
                made.write_bytes(image.replace(harness.ECHO.encode(), name.encode()))


def frame(package: str = harness.ECHO, task: str = "echo", inputs: bytes = ONE) -> bytes:
    return harness.request_frame(package, task, inputs)


class Soak:
    def __init__(self, driver: Driver, progress: Progress) -> None:
        self._driver, self._progress = driver, progress

    def send(self, peer: Peer, frames: Sequence[bytes], count: int) -> None:
        for done in range(0, count, BLOCK):
            self._driver.run(peer, frames, min(BLOCK, count - done))

    def compare(self, subject: str, young: Peer, old: Peer, young_frames: list[bytes], old_frames: list[bytes]) -> Row:
        """P50 of the round trips of two executors that take turns."""
        self._progress.step(subject)
        times: list[list[int]] = [[], []]
        for at in range(ROUNDS):
            turns = [(young, young_frames, times[0]), (old, old_frames, times[1])]
            for peer, frames, into in turns if at % 2 else turns[::-1]:
                # Each frame once per block at least, so that a block sees all of them.
                into += self._driver.run(peer, frames, max(BLOCK, len(frames)))[0].round_trip_ns
        before, after = (percentile(taken, 50) / 1000 for taken in times)
        ratio = f"{after:.1f} ({after / before:.2f}×)"
        return Row(subject, "round trip P50, µs", f"{before:.1f}", ratio)

    def requests(self, effort: Effort) -> list[Row]:
        """1,000 requests answered, and very many."""
        one = [frame()]
        with ExitStack() as stack:
            young, old = (stack.enter_context(Peer(harness.executor_command())) for _ in range(2))
            self.send(young, one, 1000)
            kept = self.kept(f"{count(effort.requests)} tiny requests", old, one, effort.settled, effort.requests)
            subject = f"1,000 and {count(effort.requests)} requests answered"
            return [self.compare(subject, young, old, one, one), *kept]

    def kept(self, subject: str, peer: Peer, frames: list[bytes], settled: int, requests: int) -> list[Row]:
        """What the executor holds at request `settled`, and at the last one."""
        self.send(peer, frames, settled)
        memory, descriptors = harness.resident_kib(peer.pid), harness.descriptors(peer.pid)
        steps = 10
        for _ in range(steps):
            self._progress.step(subject)
            self.send(peer, frames, (requests - settled) // steps)
        grown, held = harness.resident_kib(peer.pid), harness.descriptors(peer.pid)
        since = f"since request {count(settled)}"
        return [
            Row(
                subject,
                f"resident memory, KiB, {since}",
                str(memory),
                f"{grown} ({grown - memory:+d})",
                f"+{GROWTH_LIMIT_KIB}",
                verdict(grown - memory < GROWTH_LIMIT_KIB),
            ),
            Row(subject, f"open descriptors, {since}", str(descriptors), str(held), "+0", verdict(held <= descriptors)),
        ]

    def large_requests(self, effort: Effort) -> list[Row]:
        one = [frame(inputs=harness.bytes_payload(1024 * 1024))]
        with Peer(harness.executor_command()) as peer:
            subject = f"{count(effort.large_requests)} requests of 1 MiB"
            return self.kept(subject, peer, one, effort.large_settled, effort.large_requests)

    def many(self, what: str, frames: list[bytes]) -> list[Row]:
        """One package or task used, and many: asked for the same one again, and for each of them in turn."""
        one = frames[:1]
        with ExitStack() as stack:
            young, old = (stack.enter_context(Peer(harness.executor_command())) for _ in range(2))
            self.send(young, one, len(frames))
            self.send(old, frames, len(frames))
            subject = f"1 and {count(len(frames))} {what}"
            return [
                self.compare(subject + ", the same again", young, old, one, one),
                self.compare(subject + ", each in turn", young, old, one, frames),
            ]


def count(number: int) -> str:
    return f"{number:,}"


def verdict(met: bool) -> str:
    return "met" if met else "not met"


def measure(effort: Effort) -> list[Row]:
    with Progress(25) as progress:
        soak = Soak(Driver(), progress)
        return [
            *soak.requests(effort),
            *soak.large_requests(effort),
            *soak.many("packages loaded", [frame(package_name(number)) for number in range(effort.packages)]),
            *soak.many("task names used", [frame(task=f"task_{number}") for number in range(effort.tasks)]),
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description="Show that an executor's past makes it neither slower nor larger.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests")
    effort = QUICK if parser.parse_args().quick else FULL
    harness.build()
    build_packages(effort.packages)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = measure(effort)
    print(harness.markdown_table(["executor", "measure", "before", "after", "at most", ""], rows), end="")
    return 1 if any(row.verdict == "not met" for row in rows) else 0


if __name__ == "__main__":
    harness.run(main)
