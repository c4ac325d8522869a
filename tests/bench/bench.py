"""Measures the executor beside the least that a C child can do (floor.c), and prints one table.

    python tests/bench/bench.py [--executor PATH]... [--quick] [--output DIR]

Every payload gets fresh executors, all alive at once; each sends and receives a block of requests in its turn, round
after round, so that whatever else the machine does falls on all of them alike. The first round is a warm-up and is not
counted. All processes are kept on one core: where the kernel would put a parent and its child, on one core or on two,
differs from run to run and costs ten times what is measured here. `bench.md` and `bench.svg` go to DIR (default:
build/bench/).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

import chart
import harness
from harness import BenchError, Driver, Peer, Progress, percentile

import protocol

MIB = 1024 * 1024
SUCCESS_OVERHEAD = protocol.FRAME_HEADER_SIZE + protocol.RESPONSE_OVERHEAD

FLOOR, OURS, POOL = "C floor", "this executor", "ProcessPoolExecutor"
BARE = "python3 -IS"
# An interpreter that has started, and waits.
IDLE = "__import__('posix').read(0, 1)"


class Payload(NamedTuple):
    name: str
    package: str
    task: str
    inputs: bytes
    outputs: bytes
    block: int
    rounds: int
    pool_block: int


def payloads() -> list[Payload]:
    """The echo package returns its inputs: the least that a task can do, so that the executor is what is measured."""
    one = protocol.pack_values(1)
    found = [Payload("tiny", "integration_test_tasks", "fibonacci", one, one, 500, 120, 20)]
    for name, inputs, block, rounds, pool_block in (
        ("100 strings", harness.paths_payload(), 500, 100, 20),
        ("1 MiB", harness.bytes_payload(MIB), 25, 100, 5),
        ("7 MiB", harness.bytes_payload(7 * MIB), 6, 60, 2),
    ):
        found.append(Payload(name, harness.ECHO, "echo", inputs, inputs, block, rounds, pool_block))
    return found


class Effort(NamedTuple):
    rounds_divisor: int
    block_divisor: int
    spawns: int
    idle: int


FULL = Effort(rounds_divisor=1, block_divisor=1, spawns=100, idle=16)
QUICK = Effort(rounds_divisor=60, block_divisor=5, spawns=3, idle=3)


class Samples:
    """What was measured of one subject with one payload. Times in nanoseconds."""

    def __init__(self) -> None:
        self.round_trip: list[int] = []
        self.ffi: list[int] = []
        self.ipc: list[int] = []
        self.cpu = 0
        self.peak_kib = 0

    def add(self, block: harness.Block) -> None:
        self.round_trip += block.round_trip_ns
        self.ffi += [elapsed * 1000 for elapsed in block.elapsed_us]
        self.ipc += [whole - elapsed * 1000 for whole, elapsed in zip(block.round_trip_ns, block.elapsed_us)]
        self.cpu += block.cpu_ns

    def cpu_per_request(self) -> float:
        return self.cpu / len(self.round_trip)


def identity(value: bytes) -> bytes:
    return value


class Pool:
    """concurrent.futures.ProcessPoolExecutor with one worker, for a reader's sense of scale."""

    def __init__(self) -> None:
        # Ctrl-C is for the bench.
        self._executor = ProcessPoolExecutor(1, None, signal.signal, (signal.SIGINT, signal.SIG_IGN))
        self.pid = self._executor.submit(os.getpid).result()

    def run(self, driver: Driver, value: bytes, count: int) -> harness.Block:
        before, round_trips = driver.cpu_ns(self.pid), []
        for _ in range(count):
            start = time.perf_counter_ns()
            result = self._executor.submit(identity, value).result()
            round_trips.append(time.perf_counter_ns() - start)
            assert len(result) == len(value)
        return harness.Block(round_trips, [0] * count, driver.cpu_ns(self.pid) - before)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()


Commands = Dict[str, List[str]]


def frame_of(payload: Payload) -> bytes:
    return harness.request_frame(payload.package, payload.task, payload.inputs)


def measure_payload(
    driver: Driver, commands: Commands, payload: Payload, effort: Effort, progress: Progress, debug: bool
) -> tuple[dict[str, Samples], dict[str, Samples]]:
    """Samples of each subject; and, if asked, of each subject that logs at debug level to /dev/null."""
    frame = frame_of(payload)
    block = max(payload.block // effort.block_divisor, 1)
    pool_block = max(payload.pool_block // effort.block_divisor, 1)
    samples = {name: Samples() for name in (*commands, POOL)}
    debug_samples = {name: Samples() for name in commands} if debug else {}
    with ExitStack() as stack:
        # First, because its worker inherits every descriptor that is open when it starts.
        pool = stack.enter_context(Pool())
        turns = []
        for name, command in commands.items():
            turns.append((stack.enter_context(Peer(command)), samples[name]))
            if debug:
                env = harness.environment(RUST_LOG="debug")
                turns.append((stack.enter_context(Peer(command, env, quiet=True)), debug_samples[name]))
        for at in range(1 + max(payload.rounds // effort.rounds_divisor, 1)):
            progress.step(f"{payload.name}, round {at}")
            for peer, into in turns if at % 2 else turns[::-1]:
                measured, reply = driver.run(peer, [frame], block)
                outputs = reply[SUCCESS_OVERHEAD - 8 : -8]
                if outputs != payload.outputs:
                    raise BenchError(f"{peer.command[-1]}: not the outputs expected of {payload.task}")
                if at:
                    into.add(measured)
            measured = pool.run(driver, payload.inputs, pool_block)
            if at:
                samples[POOL].add(measured)
        for peer, into in turns:
            into.peak_kib = harness.peak_kib(peer.pid)
        samples[POOL].peak_kib = harness.peak_kib(pool.pid)
    return samples, debug_samples


def measure_spawn(
    driver: Driver, commands: Commands, payload: Payload, effort: Effort, progress: Progress
) -> dict[str, float]:
    """P50 of the nanoseconds from before the spawn to behind the first reply; of BARE, to the exit of `-c pass`."""
    frame = frame_of(payload)
    times: dict[str, list[int]] = {name: [] for name in (*commands, POOL, BARE)}
    for at in range(1 + effort.spawns):
        progress.step(f"spawn to first reply, round {at}")
        taken = {BARE: harness.spawn_to_exit_ns([sys.executable, "-IS", "-c", "pass"])}
        for name, command in commands.items():
            start = time.perf_counter_ns()
            with Peer(command) as peer:
                driver.run(peer, [frame], 1)
                taken[name] = time.perf_counter_ns() - start
        start = time.perf_counter_ns()
        with Pool() as pool:
            pool.run(driver, payload.inputs, 1)
            taken[POOL] = time.perf_counter_ns() - start
        if at:
            for name, nanoseconds in taken.items():
                times[name].append(nanoseconds)
    return {name: percentile(taken_all, 50) for name, taken_all in times.items()}


def measure_idle(
    driver: Driver, commands: Commands, payload: Payload, effort: Effort, progress: Progress
) -> dict[str, int]:
    """PSS in KiB of the largest of a number of idle executors that are alive together, after 50 requests each."""
    frame = frame_of(payload)
    largest = {}
    for name, command in {**commands, BARE: [sys.executable, "-IS", "-c", IDLE]}.items():
        progress.step(f"proportional memory, {name}")
        with ExitStack() as stack:
            peers = [stack.enter_context(Peer(command)) for _ in range(effort.idle)]
            if name == BARE:
                time.sleep(0.5)
            else:
                for peer in peers:
                    driver.run(peer, [frame], 50)
            largest[name] = max(harness.proportional_kib(peer.pid) for peer in peers)
    return largest


def bare_peak_kib() -> int:
    with Peer([sys.executable, "-IS", "-c", IDLE]) as peer:
        time.sleep(0.5)
        return harness.peak_kib(peer.pid)


class Row(NamedTuple):
    payload: str
    measure: str
    values: dict[str, float]
    digits: int = 0
    limit: tuple[float, str] | None = None
    """The most that OURS may be, and how that is said."""


def limit_of_floor(factor: float, values: dict[str, float]) -> tuple[float, str]:
    return factor * values[FLOOR], f"{factor:g} × floor"


def payload_rows(payload: str, samples: dict[str, Samples], limits: dict[str, float]) -> list[Row]:
    def row(measure: str, digits: int, values: dict[str, float]) -> Row:
        limit = limit_of_floor(limits[measure], values) if measure in limits else None
        return Row(payload, measure, values, digits, limit)

    def of(measure: str, percent: float, subjects: Sequence[str]) -> dict[str, float]:
        return {name: percentile(getattr(samples[name], measure), percent) / 1000 for name in subjects}

    everyone = list(samples)
    executors = [name for name in everyone if name != POOL]
    return [
        row("round trip P50, µs", 1, of("round_trip", 50, everyone)),
        row("round trip P99, µs", 1, of("round_trip", 99, everyone)),
        row("executor FFI P50, µs", 0, of("ffi", 50, executors)),
        row("IPC overhead P50, µs", 1, of("ipc", 50, executors)),
        row("IPC overhead P99, µs", 1, of("ipc", 99, executors)),
        row("CPU per request, µs", 1, {name: samples[name].cpu_per_request() / 1000 for name in everyone}),
        row("peak memory, MiB", 1, {name: samples[name].peak_kib / 1024 for name in everyone}),
    ]


# The most that each measure may be, as a multiple of the floor's in the same run.
LIMITS = {
    "tiny": {"IPC overhead P50, µs": 1.5, "CPU per request, µs": 2.6},
    "100 strings": {"IPC overhead P50, µs": 1.8},
    "1 MiB": {"round trip P50, µs": 1.05},
    "7 MiB": {"round trip P50, µs": 1.1},
}
DEBUG_LIMIT = 6
SPAWN_LIMIT = 1.5
PEAK_LIMIT_MIB = 2
IDLE_LIMIT_MIB = 1.5


def measure(commands: Commands, effort: Effort) -> list[Row]:
    driver = Driver()
    sizes = payloads()
    tiny = sizes[0]
    rounds = sum(1 + max(payload.rounds // effort.rounds_divisor, 1) for payload in sizes)
    rows: list[Row] = []
    for command in commands.values():
        # Once before all: an executor may keep bytecode, and compiling takes memory.
        with Peer(command) as peer:
            driver.run(peer, [frame_of(tiny)], 1)
    with Progress(rounds + 1 + effort.spawns + len(commands) + 1) as progress:
        for payload in sizes:
            samples, debug = measure_payload(driver, commands, payload, effort, progress, debug=payload is tiny)
            rows += payload_rows(payload.name, samples, LIMITS[payload.name])
            if debug:
                rows[-1] = peak_row(rows[-1])
                rows.append(debug_row(samples, debug))
        rows.append(spawn_row(measure_spawn(driver, commands, tiny, effort, progress)))
        rows.append(idle_row(measure_idle(driver, commands, tiny, effort, progress), effort))
    return rows


def peak_row(row: Row) -> Row:
    """The row, with a bare interpreter's peak, and the limit that comes from it."""
    bare = bare_peak_kib() / 1024
    limit = (bare + PEAK_LIMIT_MIB, f"{BARE} + {PEAK_LIMIT_MIB:g} MiB")
    return row._replace(values={**row.values, BARE: bare}, limit=limit)


def debug_row(samples: dict[str, Samples], debug: dict[str, Samples]) -> Row:
    """What logging costs; beside the floor as it is, which has no logs."""
    overhead = {name: percentile(measured.ipc, 50) / 1000 for name, measured in debug.items()}
    overhead[FLOOR] = percentile(samples[FLOOR].ipc, 50) / 1000
    limit = limit_of_floor(DEBUG_LIMIT, overhead)
    return Row("tiny, `RUST_LOG=debug`", "IPC overhead P50, µs", overhead, 1, limit)


def spawn_row(spawn_ns: dict[str, float]) -> Row:
    spawn = {name: nanoseconds / 1e6 for name, nanoseconds in spawn_ns.items()}
    limit = (SPAWN_LIMIT * spawn[BARE], f"{SPAWN_LIMIT} × {BARE}")
    return Row("tiny", "spawn to first reply P50, ms", spawn, 2, limit)


def idle_row(idle_kib: dict[str, int], effort: Effort) -> Row:
    idle = {name: kib / 1024 for name, kib in idle_kib.items()}
    limit = (idle[BARE] + IDLE_LIMIT_MIB, f"{BARE} + {IDLE_LIMIT_MIB:g} MiB")
    return Row(f"tiny, {effort.idle} idle", "PSS of the largest, MiB", idle, 2, limit)


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = []
    for row in rows:
        cells = []
        for name in columns:
            value = row.values.get(name)
            if value is None:
                cells.append("")
                continue
            cell = f"{value:.{row.digits}f}"
            if name != FLOOR and row.values[FLOOR]:
                cell += f" ({value / row.values[FLOOR]:.2f}×)"
            cells.append(cell)
        limit, verdict = "", ""
        if row.limit is not None:
            most, limit = row.limit
            verdict = "met" if row.values[OURS] <= most else "not met"
        lines.append([row.payload, row.measure, *cells, limit, verdict])
    return harness.markdown_table(["payload", "measure", *columns, "at most", ""], lines)


def explanation() -> str:
    return (
        f"In parentheses: the multiple of the floor's figure. All on one core of {harness.machine()}. "
        "This executor is the executable file that `make dist` makes, with the interpreter's path in its first line. "
        "Executor FFI is what the executor says that finding the package and the call took, in whole microseconds; "
        "IPC overhead is the round trip less that, for every executor alike. "
        f"{BARE} is a bare interpreter: its peak and proportional memory while idle, and what `-c pass` takes.\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the executor beside the least that a C child can do.")
    parser.add_argument(
        "--executor", metavar="PATH", action="append", default=[], help="another executor to put beside (repeatable)"
    )
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it runs, not how fast it is")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, default=harness.BUILD, help="where bench.md and bench.svg go"
    )
    options = parser.parse_args()
    harness.build()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    commands = {FLOOR: [str(harness.BUILD / "floor")], OURS: harness.executor_command()}
    for path in options.executor:
        commands[path] = [os.path.abspath(path)]
    rows = measure(commands, QUICK if options.quick else FULL)
    columns = [*commands, POOL, BARE]
    text = table(rows, columns) + "\n" + explanation()
    print(text, end="")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "bench.md").write_text(text, encoding="utf-8")
    (options.output / "bench.svg").write_text(chart.draw(rows, [*commands, POOL]), encoding="utf-8")
    return 0


if __name__ == "__main__":
    harness.run(main)
