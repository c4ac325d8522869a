"""What the measuring scripts share: builds, executors on pipes, and tables.

Everything is built into build/bench/ of the project. Times are taken in driver.c.
"""

import ctypes
import errno
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BENCH = ROOT / "tests" / "bench"
BUILD = ROOT / "build" / "bench"
PACKAGES = BUILD / "packages"
FLOOR = str(BUILD / "floor")

sys.path.insert(0, str(ROOT))
import protocol  # noqa: E402

TASKS = "integration_test_tasks"
ECHO = "echo_0000"
REPLY_SIZE_MAX = protocol.FRAME_HEADER_SIZE + protocol.FRAME_BODY_MAX
# The outputs of a success are between these.
OUTPUTS_AT = protocol.FRAME_HEADER_SIZE + 16
ELAPSED_SIZE = 8
# An executor that hangs ends the run.
DEADLINE_SECONDS = 60


class BenchError(Exception):
    """A build failed, or an executor did."""


# ----------------------------------------------------------------------------- build


def build(command):
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    if done.returncode != 0:
        raise BenchError(f"{shlex.join(command)}\n{done.stdout}")


def compile_c(source, target, *flags):
    target.parent.mkdir(parents=True, exist_ok=True)
    compiler = [os.environ.get("CC", "cc"), "-std=gnu99", "-O2", *flags]
    compiler += [f"-I{ROOT / 'native'}", "-o", str(target)]
    build([*compiler, str(source), "-ldl"])


def compile_all():
    """Compile the floor, the driver, and the packages whose tasks are measured."""
    shared = ("-shared", "-fPIC")
    compile_c(BENCH / "floor.c", Path(FLOOR))
    compile_c(BENCH / "driver.c", BUILD / "driver.so", *shared)
    for name, directory in ((ECHO, BENCH), (TASKS, ROOT / "native")):
        library = PACKAGES / name / f"lib{name}.so"
        compile_c(directory / f"{name}.c", library, *shared)


def python():
    """This Python, and not a link in a virtual environment: a first line is short."""
    return os.path.realpath(sys.executable)


def executable_file(interpreter):
    """Make the executable file with bytecode for this Python; return its path."""
    kind = "interpreter" if interpreter else "env"
    version = sys.version.split()[0]
    directory = (BUILD / f"{kind}-{version}").relative_to(ROOT)
    target = f"{directory}/spider-task-executor"
    variables = [
        f"PYTHON={sys.executable}",
        f"INTERPRETER={interpreter}",
        f"DIST={directory}",
    ]
    build(["make", "-s", "-C", str(ROOT), *variables, target])
    return str(ROOT / target)


# ------------------------------------------------------------------------- executors


def request_frame(package, task, inputs):
    context = protocol.TaskContext().encode()
    execute = protocol.Execute(package, task, context, inputs)
    return protocol.encode_frame(protocol.encode_request(execute))


def environment(**more):
    """Ours, with the packages of the bench, and without logs."""
    variables = dict(os.environ, SPIDER_TDL_PACKAGE_DIR=str(PACKAGES), **more)
    variables.pop("RUST_LOG", None)
    return variables


class Block(NamedTuple):
    """What requests in a row took. `cpu_ns` is the executor's for all of them."""

    round_trip_ns: list
    elapsed_us: list
    cpu_ns: int


@functools.lru_cache(maxsize=None)
def _driver():
    library = ctypes.CDLL(str(BUILD / "driver.so"))
    library.driver_run.restype = ctypes.c_int64
    library.driver_run.argtypes = [
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_void_p,
        ctypes.c_void_p,
    ]
    library.driver_cpu_ns.restype = ctypes.c_uint64
    return library


def _raise_timeout(*_):
    raise BenchError(f"no reply within {DEADLINE_SECONDS} seconds")


class Peer:
    """An executor at the other end of two pipes, killed at the end of the block."""

    reply = ctypes.create_string_buffer(REPLY_SIZE_MAX)

    def __init__(self, command, env):
        self.command = command
        stdin, self.to_child = os.pipe()
        self.from_child, stdout = os.pipe()
        moves = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, stdout, 1)]
        try:
            self.pid = os.posix_spawn(command[0], command, env, file_actions=moves)
        finally:
            os.close(stdin)
            os.close(stdout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.to_child)
        os.close(self.from_child)

    def run(self, frame, outputs, count):
        """Send a request `count` times, each time after the last one's reply.

        Raises BenchError if the last outputs are not the expected ones.
        """
        times = (ctypes.c_uint64 * count)()
        elapsed = (ctypes.c_uint64 * count)()
        signal.signal(signal.SIGALRM, _raise_timeout)
        signal.alarm(DEADLINE_SECONDS)
        before = _driver().driver_cpu_ns(self.pid)
        size = _driver().driver_run(
            self.to_child,
            self.from_child,
            frame,
            len(frame),
            count,
            self.reply,
            REPLY_SIZE_MAX,
            times,
            elapsed,
        )
        cpu_ns = _driver().driver_cpu_ns(self.pid) - before
        signal.alarm(0)
        self._check(size, outputs)
        return Block(list(times), list(elapsed), cpu_ns)

    def _check(self, size, outputs):
        if size >= 0 and self.reply[OUTPUTS_AT : size - ELAPSED_SIZE] == outputs:
            return
        problem = f"expected a success with {outputs!r:.99}, found {self.reply[:99]!r}"
        if size == -errno.EPIPE:
            problem = "it ended without a reply"
        elif size < 0 and size != -errno.EBADMSG:
            problem = os.strerror(-size)
        raise BenchError(f"{shlex.join(self.command)}: {problem}")

    def peak_memory(self):
        """In bytes."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024


def start_ns(command, env):
    """The time from the start of an executor to its first reply."""
    inputs = protocol.pack_values(1)
    frame = request_frame(ECHO, "echo", inputs)
    start = time.perf_counter_ns()
    with Peer(command, env) as peer:
        peer.run(frame, inputs, 1)
        return time.perf_counter_ns() - start


# ---------------------------------------------------------------------------- output


def in_turn(names, round_number):
    """The names, in the other order every other round."""
    return names[:: -1 if round_number % 2 else 1]


def figure(value):
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def cell(value, base):
    """A figure, and what multiple it is of another one."""
    return f"{figure(value)} ({value / base:.2f} ×)"


def print_table(head, rows):
    """Print Markdown. The first column holds words, the others figures."""
    widths = [max(map(len, column)) for column in zip(head, *rows)]
    rule = ["-" * (width - 1) + ":" for width in widths]
    rule[0] = "-" * widths[0]
    for cells in (head, rule, *rows):
        padded = [text.rjust(width) for text, width in zip(cells, widths)]
        padded[0] = cells[0].ljust(widths[0])
        print(f"| {' | '.join(padded)} |")


def progress(what):
    """Say what is measured, on one line of a terminal. The empty string clears it."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{what}", end="", file=sys.stderr, flush=True)


def run(main):
    """Run a script's `main`, and say what went wrong in one line."""
    status = 1
    try:
        main()
        status = 0
    except (BenchError, OSError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)


def machine():
    """Describe the machine for whoever reads the table."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    model = found.group(1) if found else "unknown processor"
    kernel = os.uname().release
    version = sys.version.split()[0]
    return f"{os.cpu_count()} × {model}, Linux {kernel}, CPython {version}"
