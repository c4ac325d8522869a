"""What the measuring scripts share: compile with cc, start executors, drive them, and read what they use.

Everything is built into build/bench/ of the project. Times are taken in driver.c, which is loaded with ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple, NoReturn, Sequence

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
BUILD = ROOT / "build" / "bench"
PACKAGES = BUILD / "packages"

sys.path.insert(0, str(ROOT))
import protocol  # noqa: E402

TASKS, ECHO = "integration_test_tasks", "echo_0000"
# Strings of about 60 bytes, such as tasks get.
PATHS = [
    f"/data/warehouse/job-{n:06d}/partition-{n * 7:04d}/part-{n * 13:05d}.parquet"
    for n in range(100)
]
SHARED = ("-shared", "-fPIC")
REPLY_SIZE_MAX = protocol.FRAME_HEADER_SIZE + protocol.FRAME_BODY_MAX
# An executor that hangs ends the run.
BLOCK_TIMEOUT_SECONDS = 60


class BenchError(Exception):
    """A build failed, or an executor did."""


def compile_c(source: Path, target: Path, *flags: str) -> None:
    """Compile, unless `target` is newer than the source."""
    if target.exists() and target.stat().st_mtime > source.stat().st_mtime:
        return
    compiler = os.environ.get("CC", "cc")
    target.parent.mkdir(parents=True, exist_ok=True)
    # Another run may be using the target.
    made = target.with_name(f"{target.name}.{os.getpid()}")
    command = [
        compiler,
        "-std=gnu99",
        "-O2",
        *flags,
        f"-I{ROOT / 'native'}",
        "-o",
        str(made),
        str(source),
        "-ldl",
    ]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode != 0:
        raise BenchError(f"{shlex.join(command)}\n{done.stdout}")
    made.replace(target)


def library_path(package: str) -> Path:
    return PACKAGES / package / f"lib{package}.so"


def build() -> None:
    compile_c(BENCH / "floor.c", BUILD / "floor")
    compile_c(BENCH / "driver.c", BUILD / "driver.so", *SHARED)
    compile_c(BENCH / "echo.c", library_path(ECHO), *SHARED)
    compile_c(ROOT / "native" / f"{TASKS}.c", library_path(TASKS), *SHARED)


def request_frame(package: str, task: str, inputs: bytes) -> bytes:
    context = protocol.TaskContext(
        job_id=1, task_instance_id=1, resource_group_id=1
    ).encode()
    return protocol.encode_frame(
        protocol.encode_request(protocol.Execute(package, task, context, inputs))
    )


class _Request(ctypes.Structure):
    _fields_ = [("frame", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class Block(NamedTuple):
    """What a number of requests in a row took. `cpu_ns` is the executor's for all of them."""

    round_trip_ns: list[int]
    elapsed_us: list[int]
    cpu_ns: int


class Driver:
    """driver.so, and the buffer that it reads replies into."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(BUILD / "driver.so"))
        self._run, self._cpu_ns = library.driver_run, library.driver_cpu_ns
        self._run.restype, self._cpu_ns.restype = ctypes.c_int64, ctypes.c_uint64
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._run.argtypes = [
            ctypes.c_int,
            ctypes.c_int,
            pointer,
            size,
            size,
            pointer,
            size,
            pointer,
            pointer,
        ]
        self._reply = ctypes.create_string_buffer(REPLY_SIZE_MAX)

    def run(
        self, peer: Peer, frames: Sequence[bytes], count: int
    ) -> tuple[Block, bytes]:
        """Send `count` requests, `frames` in turn, each after the last one's reply. Also return the last reply."""
        requests = (_Request * len(frames))(
            *(_Request(frame, len(frame)) for frame in frames)
        )
        times, elapsed = (ctypes.c_uint64 * count)(), (ctypes.c_uint64 * count)()
        pipes, space = (peer.to_child, peer.from_child), (self._reply, REPLY_SIZE_MAX)
        signal.signal(signal.SIGALRM, _raise_timeout)
        signal.alarm(BLOCK_TIMEOUT_SECONDS)
        try:
            before = self._cpu_ns(peer.pid)
            size = self._run(
                *pipes, requests, len(frames), count, *space, times, elapsed
            )
            cpu_ns = self._cpu_ns(peer.pid) - before
        finally:
            signal.alarm(0)
        if size < 0:
            raise BenchError(f"{shlex.join(peer.command)}: {self._problem(-size)}")
        return Block(list(times), list(elapsed), cpu_ns), self._reply[:size]

    def _problem(self, code: int) -> str:
        if code == errno.EPIPE:
            return "it ended without a reply"
        if code != errno.EBADMSG:
            return os.strerror(code)
        outcome = protocol.decode_response(self._reply, protocol.FRAME_HEADER_SIZE)[
            0
        ].outcome
        assert isinstance(outcome, protocol.Failure)
        return f"the task failed: {protocol.decode_executor_error(outcome.error)[0]}"


def _raise_timeout(*_: Any) -> None:
    raise BenchError(f"no reply within {BLOCK_TIMEOUT_SECONDS} seconds")


def environment(**more: str) -> dict[str, str]:
    """Ours, with the packages of the bench, and without logs."""
    kept = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    return {**kept, "SPIDER_TDL_PACKAGE_DIR": str(PACKAGES), **more}


class Peer:
    """An executor at the other end of two pipes. A context manager, which kills and reaps it at the end."""

    def __init__(
        self, command: Sequence[str], env: dict[str, str] | None = None
    ) -> None:
        self.command = list(command)
        stdin, self.to_child = os.pipe()
        self.from_child, stdout = os.pipe()
        actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        try:
            self.pid = os.posix_spawn(
                self.command[0],
                self.command,
                env or environment(),
                file_actions=actions,
            )
        finally:
            os.close(stdin)
            os.close(stdout)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: Any) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.to_child)
        os.close(self.from_child)

    def kib(self, file: str, field: str) -> int:
        """Read a field of /proc/PID/FILE: VmHWM of status is the peak memory, Rss of smaps_rollup the current one."""
        text = Path(f"/proc/{self.pid}/{file}").read_text()
        found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
        assert found is not None, text
        return int(found.group(1))


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[int((len(values) - 1) * percent / 100)]


def markdown_table(
    head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2
) -> str:
    """Align the columns: the first ones hold words, the others figures."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    rule = [
        "-" * width if at < words else "-" * (width - 1) + ":"
        for at, width in enumerate(widths)
    ]
    lines = []
    for cells in (head, rule, *rows):
        padded = (
            f"{cell:{'<' if at < words else '>'}{widths[at]}}"
            for at, cell in enumerate(cells)
        )
        lines.append(f"| {' | '.join(padded)} |\n")
    return "".join(lines)


def progress(what: str) -> None:
    """Say what is measured, on one line of a terminal. The empty string clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main`, and say what went wrong in one line."""
    try:
        status = main()
    except (BenchError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def machine() -> str:
    """Describe the machine for whoever reads the table."""
    found = re.search(
        r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE
    )
    model = found.group(1) if found else "a processor of unknown model"
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} × {model}, Linux {os.uname().release}, CPython {python}"
