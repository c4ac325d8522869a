"""Shows that what an executor has done already makes the next request neither slower nor larger.

    python tests/bench/soak.py [--quick]

Prints one table. Memory and descriptors have limits, and the exit code is 1 if one is exceeded. Times have none. Each
comes from two executors that take turns, one that has done little and one that has done much.
"""

from __future__ import annotations

import argparse
import os
from contextlib import ExitStack
from typing import Sequence

import harness
from harness import ECHO, Driver, Peer, percentile

import protocol
from spider_executor import own_command

GROWTH_LIMIT_KIB = 1024
BLOCK = 1000
ONE = protocol.pack_values(1)


def frame(package: str = ECHO, task: str = "echo", inputs: bytes = ONE) -> bytes:
    return harness.request_frame(package, task, inputs)


def build_packages(count: int) -> list[str]:
    """Make packages of one build that differ in the name that they declare. Return their names."""
    image = harness.library_path(ECHO).read_bytes()
    names = [f"echo_{number:04d}" for number in range(count)]
    for name in names:
        path = harness.library_path(name)
        if not path.exists():
            with harness.replacing(path) as made:
                made.write_bytes(image.replace(ECHO.encode(), name.encode()))
    return names


class Soak:
    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.driver = Driver()
        self.rows: list[list[str]] = []
        self.exceeded = False

    def send(self, peer: Peer, frames: Sequence[bytes], count: int) -> None:
        for done in range(0, count, BLOCK):
            self.driver.run(peer, frames, min(BLOCK, count - done))

    def growth(self, subject: str, peer: Peer, frames: list[bytes], settled: int, requests: int) -> None:
        """Compare what the executor holds at request `settled` and at the last one."""
        harness.progress(subject)
        self.send(peer, frames, settled)
        before = peer.kib("smaps_rollup", "Rss"), peer.descriptors()
        self.send(peer, frames, requests - settled)
        after = peer.kib("smaps_rollup", "Rss"), peer.descriptors()
        measures = ("resident memory, KiB", GROWTH_LIMIT_KIB), ("open descriptors", 0)
        for (measure, limit), old, new in zip(measures, before, after):
            name = f"{measure}, since request {settled:,}"
            verdict = "met" if new - old <= limit else "exceeded"
            self.exceeded |= new - old > limit
            self.rows.append([subject, name, str(old), f"{new} ({new - old:+d})", f"+{limit}", verdict])

    def compare(self, subject: str, young: Peer, old: Peer, young_frames: list[bytes], old_frames: list[bytes]) -> None:
        """Compare the round trips of two executors that take turns."""
        harness.progress(subject)
        times: list[list[int]] = [[], []]
        for at in range(self.rounds):
            turns = [(young, young_frames, times[0]), (old, old_frames, times[1])]
            for peer, frames, into in turns if at % 2 else turns[::-1]:
                # A block has each frame at least once.
                into += self.driver.run(peer, frames, max(BLOCK, len(frames)))[0].round_trip_ns
        before, after = (percentile(taken, 50) / 1000 for taken in times)
        row = [subject, "round trip P50, µs", f"{before:.1f}", f"{after:.1f} ({after / before:.2f}×)", "", ""]
        self.rows.append(row)

    def many_requests(self, requests: int) -> None:
        with ExitStack() as stack:
            young, old = (stack.enter_context(Peer(own_command())) for _ in range(2))
            self.send(young, [frame()], 1000)
            self.growth(f"{requests:,} tiny requests", old, [frame()], 10_000, requests)
            self.compare(f"1,000 and {requests:,} requests answered", young, old, [frame()], [frame()])

    def many_large_requests(self, settled: int, requests: int) -> None:
        with Peer(own_command()) as peer:
            large = [frame(inputs=protocol.pack_values(bytes(1 << 20)))]
            self.growth(f"{requests:,} requests of 1 MiB", peer, large, settled, requests)

    def many_names(self, what: str, frames: list[bytes]) -> None:
        """One package or task used, and many: asked for the same one again, and for each of them in turn."""
        one = frames[:1]
        with ExitStack() as stack:
            young, old = (stack.enter_context(Peer(own_command())) for _ in range(2))
            self.send(young, one, len(frames))
            self.send(old, frames, len(frames))
            subject = f"1 and {len(frames):,} {what}"
            self.compare(f"{subject}, the same again", young, old, one, one)
            self.compare(f"{subject}, each in turn", young, old, one, frames)


def main() -> int:
    parser = argparse.ArgumentParser(description="Show that an executor's past makes it neither slower nor larger.")
    parser.add_argument("--quick", action="store_true", help="a fraction of the requests: shows that it runs")
    divisor = 25 if parser.parse_args().quick else 1
    harness.build()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    soak = Soak(50 // divisor)
    soak.many_requests(1_000_000 // divisor)
    soak.many_large_requests(200, 10_000 // divisor)
    soak.many_names("packages loaded", [frame(package=name) for name in build_packages(500 // divisor)])
    soak.many_names("task names used", [frame(task=f"task_{number}") for number in range(10_000 // divisor)])
    harness.progress("")
    print(harness.markdown_table(["executor", "measure", "before", "after", "at most", ""], soak.rows), end="")
    return int(soak.exceeded)


if __name__ == "__main__":
    harness.run(main)
