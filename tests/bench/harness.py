"""What the measuring scripts share: building with cc, starting executors, driving them, and reading what they use.

Everything is built into build/bench/ of the project. Times are taken in driver.c, which is loaded with ctypes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple, NoReturn, Sequence

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
BUILD = ROOT / "build" / "bench"
PACKAGES = BUILD / "packages"

sys.path.insert(0, str(ROOT))
import protocol  # noqa: E402

ECHO = "echo_0000"
REPLY_SIZE_MAX = protocol.FRAME_HEADER_SIZE + protocol.FRAME_BODY_MAX
# Longer than any block of requests takes; an executor that hangs ends the run.
BLOCK_TIMEOUT_SECONDS = 60


class BenchError(Exception):
    """Something that the person at the terminal has to know: a build that failed, an executor that ended."""


def executor_command() -> list[str]:
    """How the README says to start this project's executor: the executable file, made for this very interpreter."""
    # Each interpreter its own: two may be measured, or their tests run, at the same time.
    target = BUILD / f"python-{platform.python_version()}" / "spider-task-executor"
    with replacing(target) as made:
        make = [sys.executable, str(ROOT / ".ci" / "executable.py"), str(made), sys.executable]
        subprocess.run(make, check=True, timeout=60)
    return [str(target)]


def compile_c(source: Path, target: Path, *flags: str) -> None:
    """Compile, unless `target` is newer than the source and the headers beside it."""
    newest = max(file.stat().st_mtime for file in (source, *source.parent.glob("*.h")))
    if target.exists() and target.stat().st_mtime > newest:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise BenchError(f"no C compiler: {compiler} is not on PATH (CC names another)")
    command = [compiler, "-std=gnu99", "-O2", "-Wall", "-Wextra", *flags, str(source), "-ldl"]
    with replacing(target) as made:
        command += ["-o", str(made)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        if done.returncode != 0:
            raise BenchError(f"{shlex.join(command)}\n{done.stdout}")


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A path to write to, which then takes the place of `target` at once: another run may be using that."""
    made = target.with_name(f"{target.name}.{os.getpid()}")
    yield made
    made.replace(target)


def library_path(package: str, directory: Path = PACKAGES) -> Path:
    return directory / package / f"lib{package}.so"


def build() -> None:
    compile_c(BENCH / "driver.c", BUILD / "driver.so", "-shared", "-fPIC")
    compile_c(BENCH / "floor.c", BUILD / "floor")
    compile_c(BENCH / "echo.c", library_path(ECHO), "-shared", "-fPIC")
    tasks = "integration_test_tasks"
    compile_c(ROOT / "native" / (tasks + ".c"), library_path(tasks), "-shared", "-fPIC")


def request_frame(package: str, task: str, inputs: bytes) -> bytes:
    context = protocol.TaskContext(job_id=1, task_instance_id=1, resource_group_id=1).encode()
    return protocol.encode_frame(protocol.encode_request(protocol.Execute(package, task, context, inputs)))


def paths_payload(count: int = 100) -> bytes:
    """A list of strings such as tasks get: one value of about 60 bytes a path."""
    paths = [f"/data/warehouse/job-{n:06d}/partition-{n * 7:04d}/part-{n * 13:05d}.parquet" for n in range(count)]
    return protocol.pack_values(paths)


def bytes_payload(size: int) -> bytes:
    return protocol.pack_values(bytes(size))


class _Request(ctypes.Structure):
    _fields_ = [("frame", ctypes.c_char_p), ("size", ctypes.c_size_t)]


class Block(NamedTuple):
    """What a number of requests in a row took."""

    round_trip_ns: list[int]
    elapsed_us: list[int]
    cpu_ns: int
    """CPU time of the executor, all requests together."""


class Driver:
    """driver.so, and the buffers it fills."""

    def __init__(self) -> None:
        library = ctypes.CDLL(str(BUILD / "driver.so"))
        self._run = library.driver_run
        self._run.restype = ctypes.c_int64
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        self._run.argtypes = [ctypes.c_int, ctypes.c_int, pointer, size, size, pointer, size, pointer, pointer]
        self.cpu_ns = library.driver_cpu_ns
        self.cpu_ns.restype = ctypes.c_uint64
        self._reply = ctypes.create_string_buffer(REPLY_SIZE_MAX)

    def run(self, peer: Peer, frames: Sequence[bytes], count: int) -> tuple[Block, bytes]:
        """Send `count` requests, `frames` in turn, each after the reply to the one before; also the last reply."""
        requests = (_Request * len(frames))(*(_Request(frame, len(frame)) for frame in frames))
        round_trips, elapsed = (ctypes.c_uint64 * count)(), (ctypes.c_uint64 * count)()
        signal.signal(signal.SIGALRM, _raise_timeout)
        signal.alarm(BLOCK_TIMEOUT_SECONDS)
        try:
            before = self.cpu_ns(peer.pid)
            size = self._run(
                peer.to_child,
                peer.from_child,
                requests,
                len(frames),
                count,
                self._reply,
                REPLY_SIZE_MAX,
                round_trips,
                elapsed,
            )
            cpu_ns = self.cpu_ns(peer.pid) - before
        finally:
            signal.alarm(0)
        if size < 0:
            raise BenchError(f"{shlex.join(peer.command)}: {self._problem(-size)}")
        return Block(list(round_trips), list(elapsed), cpu_ns), bytes(memoryview(self._reply)[:size])

    def _problem(self, code: int) -> str:
        if code == errno.EPIPE:
            return "it ended without a reply"
        if code != errno.EBADMSG:
            return os.strerror(code)
        body, _ = protocol.decode_frame(bytes(self._reply))
        outcome = protocol.decode_response(body)[0].outcome
        assert isinstance(outcome, protocol.Failure)
        return f"the task failed: {protocol.decode_executor_error(outcome.error)[0]}"


def _raise_timeout(*_: Any) -> None:
    raise BenchError(f"no reply within {BLOCK_TIMEOUT_SECONDS} seconds")


def environment(**more: str) -> dict[str, str]:
    """Ours, with the packages of the bench and without the variables that change what an executor does."""
    kept = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
    return {**kept, "SPIDER_TDL_PACKAGE_DIR": str(PACKAGES), **more}


class Peer:
    """An executor at the other end of two pipes. A context manager: leaving it kills and reaps the executor."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None, quiet: bool = False) -> None:
        self.command = list(command)
        stdin, self.to_child = os.pipe()
        self.from_child, stdout = os.pipe()
        actions: list[tuple[Any, ...]] = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        if quiet:
            actions.append((os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0))
        try:
            self.pid = os.posix_spawn(
                self.command[0], self.command, environment() if env is None else env, file_actions=actions
            )
        except OSError as error:
            raise BenchError(f"cannot start {self.command[0]}: {error.strerror}") from None
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


def spawn_to_exit_ns(command: list[str]) -> int:
    start = time.perf_counter_ns()
    pid = os.posix_spawn(command[0], command, environment())
    os.waitpid(pid, 0)
    return time.perf_counter_ns() - start


def peak_kib(pid: int) -> int:
    """The most memory that the process has had in RAM."""
    return _kib(pid, "status", "VmHWM")


def proportional_kib(pid: int) -> int:
    """Memory in RAM, with what n processes share counted as an n-th of it."""
    return _kib(pid, "smaps_rollup", "Pss")


def resident_kib(pid: int) -> int:
    return _kib(pid, "smaps_rollup", "Rss")


def _kib(pid: int, file: str, field: str) -> int:
    text = Path(f"/proc/{pid}/{file}").read_text()
    found = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    if found is None:
        raise BenchError(f"/proc/{pid}/{file} has no {field}")
    return int(found.group(1))


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def percentile(values: Sequence[float], percent: float) -> float:
    return sorted(values)[int((len(values) - 1) * percent / 100)]


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 2) -> str:
    """Columns padded, so that the source can be read as well; the first ones hold words, the others figures."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]

    def line(cells: Sequence[str]) -> str:
        return "| {} |".format(
            " | ".join(
                cell.ljust(width) if at < words else cell.rjust(width)
                for at, (cell, width) in enumerate(zip(cells, widths))
            )
        )

    rule = "|{}|".format(
        "|".join("-" * (width + 2) if at < words else "-" * (width + 1) + ":" for at, width in enumerate(widths))
    )
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


class Progress:
    """One line on a terminal that says what is being measured; nothing where stderr is not a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._shown = sys.stderr.isatty()

    def step(self, what: str) -> None:
        self._done += 1
        if self._shown:
            filled = 30 * self._done // self._total
            sys.stderr.write("\r\x1b[K[{}{}] {}".format("#" * filled, "." * (30 - filled), what))
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def run(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main`, and say what went wrong in one line."""
    try:
        status = main()
    except BenchError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def machine() -> str:
    """The machine in words, for whoever reads the table."""
    model = "a processor of unknown model"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    release = os.uname().release
    python = ".".join(map(str, sys.version_info[:3]))
    return f"{os.cpu_count()} × {model}, Linux {release}, CPython {python}"
