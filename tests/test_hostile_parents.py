"""Parents that vanish, close, stall, send rubbish or pass odd descriptors, and odd places to start in."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import tty
from pathlib import Path

import pytest
from helpers import build, executor, process

import protocol
from protocol import FRAME_BODY_MAX

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def start(spawn):
    return spawn


@pytest.fixture
def start_in_shell(spawn, executor_command, package_dir):
    """Starts executors by a line of shell that ends in `exec "$@"`."""

    def start(line, command=executor_command, package_dir=package_dir, **options):
        return spawn(package_dir, command, shell=line, **options)

    return start


def only_error(child):
    """The fields of the one line in the log, which is an ERROR."""
    (line,) = child.log_lines()
    assert line["level"] == "ERROR"
    return line["fields"]


# --------------------------------------------------------------------------------------------------------------- vanish

PARENT = """
import os, signal, sys
input_fd, to_executor = os.pipe()
from_executor, output_fd = os.pipe()
pid = os.fork()
if pid == 0:
    os.dup2(input_fd, 0)
    os.dup2(output_fd, 1)
    os.execv(sys.argv[1], sys.argv[1:])
os.close(input_fd)
os.close(output_fd)
print(pid, flush=True)
os.write(to_executor, sys.stdin.buffer.read())
if os.read(from_executor, 4):
    print("reading", flush=True)
signal.pause()
"""


class KilledParent:
    """A parent with an executor, which sends what it is told, reads 4 bytes, and waits to be killed."""

    def __init__(self, command, package_dir, request, stderr):
        self.stderr = stderr
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", PARENT, shutil.which(command[0]), *command[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, "SPIDER_TDL_PACKAGE_DIR": str(package_dir)},
        )
        self.executor = int(self.process.stdout.readline())
        self.process.stdin.write(request)
        self.process.stdin.close()

    def log(self):
        return os.pread(self.stderr.fileno(), 1 << 20, 0).decode()

    def kill(self):
        """Kill the parent, and see the executor end."""
        self.process.kill()
        self.process.wait(executor.DEADLINE)
        executor.wait_for(lambda: process.is_gone(self.executor), "the executor's end")
        assert "Traceback" not in self.log()

    def close(self):
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait(executor.DEADLINE)
        try:
            os.kill(self.executor, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.stdout.close()


@pytest.fixture
def parent(executor_command, package_dir, tmp_path):
    parents = []

    def start(request):
        parents.append(KilledParent(executor_command, package_dir, request, stderr))
        return parents[-1]

    with open(tmp_path / "stderr", "w+b") as stderr:
        yield start
        for parent in parents:
            parent.close()


def test_a_parent_is_killed_while_the_executor_is_idle(parent):
    parent = parent(executor.request("buffers", "echo"))
    assert parent.process.stdout.readline() == b"reading\n"
    parent.kill()
    assert parent.log() == ""


@pytest.mark.ours
@pytest.mark.parametrize("task", ["hang", "spin"])
def test_a_parent_is_killed_in_the_middle_of_a_task(parent, task):
    parent = parent(executor.request("crashing", task))
    executor.wait_for(lambda: "hanging\n" in parent.log(), "the task")
    parent.kill()
    assert '"The parent is gone while a task runs.","task":"crashing::' + task + '"' in parent.log()


def test_a_parent_is_killed_in_the_middle_of_a_large_reply(parent):
    parent = parent(executor.request("buffers", "zeros:8000000"))
    assert parent.process.stdout.readline() == b"reading\n"  # and 8 MB more do not fit the pipe
    parent.kill()


@pytest.mark.ours
def test_a_parent_is_killed_in_the_middle_of_a_request(parent):
    parent = parent(executor.request("buffers", "echo") + b"\0\0")
    assert parent.process.stdout.readline() == b"reading\n"
    parent.kill()
    assert "found the end of the input 2 bytes into it" in parent.log()


# ---------------------------------------------------------------------------------------------------------------- close


def test_stdin_is_closed_in_the_middle_of_a_task(start):
    child = start(env={"SPIDER_INSTRUMENT_SLEEP_US": "300000"})
    output, status = child.finish(executor.request("integration_test_tasks", "sleep_and_echo", ["a"]))
    assert executor.responses(output) == [[["a"]]]
    assert status == 0
    assert child.stderr() == ""


@pytest.mark.ours
@pytest.mark.parametrize("task", ["hang", "spin"])
def test_stdout_is_closed_in_the_middle_of_a_task(start, task):
    child = start()
    child.send(executor.request("crashing", task))
    executor.wait_for(child.stderr, "the task")
    child.process.stdout.close()
    assert child.wait() == 1
    (error,) = child.errors()
    assert error["fields"] == {"message": "The parent is gone while a task runs.", "task": f"crashing::{task}"}


@pytest.mark.ours
def test_stdout_is_closed_between_requests(start):
    child = start()
    assert child.serves()
    child.process.stdout.close()
    child.send(executor.request("buffers", "echo"))
    assert child.wait() == 1
    assert only_error(child)["message"] == "The parent no longer reads responses."


@pytest.mark.ours
def test_stdout_is_closed_in_the_middle_of_a_large_reply(start):
    child = start()
    child.send(executor.request("buffers", "zeros:8000000"))
    assert os.read(child.process.stdout.fileno(), 1000)
    child.process.stdout.close()
    assert child.wait() == 1
    assert only_error(child)["message"] == "The parent no longer reads responses."


# ------------------------------------------------------------------------------------------------------- send and stall


def test_a_parent_that_stops_reading_for_a_while_loses_nothing(start):
    child = start()
    request = executor.request("buffers", "zeros:3000000") + executor.request("buffers", "echo", "last")
    child.send(request * 5)
    time.sleep(0.3)
    for _ in range(5):
        assert child.receive().outcome == protocol.Success(bytes(3_000_000))
        assert executor.outcome(child.receive()) == ["last"]
    assert child.finish() == (b"", 0)


def test_frames_one_byte_at_a_time(start):
    child = start()
    for number in range(3):
        for byte in executor.request("buffers", "echo", number):
            child.send(bytes([byte]))
        assert executor.outcome(child.receive()) == [number]
    assert child.finish() == (b"", 0)


def test_a_hundred_thousand_pipelined_requests(start):
    child = start()
    context = protocol.TaskContext().encode()
    count = 100_000
    frames = []
    for number in range(count):
        request = protocol.Execute("buffers", "echo", context, struct.pack("<I", number))
        frames.append(protocol.encode_frame(protocol.encode_request(request)))
    size = protocol.FRAME_HEADER_SIZE + protocol.RESPONSE_OVERHEAD + 4
    output = child.exchange(b"".join(frames), size * count)
    for number in range(count):
        body, _ = protocol.decode_frame(output, number * size)
        assert protocol.decode_response(body)[0].outcome == protocol.Success(struct.pack("<I", number))
    assert child.finish() == (b"", 0)


def test_a_request_of_the_largest_size(start):
    child = start()
    around = len(executor.request("buffers", "echo")) - protocol.FRAME_HEADER_SIZE - 4
    inputs = random.Random(1).getrandbits(8 * (FRAME_BODY_MAX - around)).to_bytes(FRAME_BODY_MAX - around, "little")
    request = protocol.encode_request(protocol.Execute("buffers", "echo", protocol.TaskContext().encode(), inputs))
    assert len(request) == FRAME_BODY_MAX
    size = protocol.FRAME_HEADER_SIZE + protocol.RESPONSE_OVERHEAD + len(inputs)
    output = child.exchange(protocol.encode_frame(request), size)
    assert protocol.decode_response(protocol.decode_frame(output)[0])[0].outcome == protocol.Success(inputs)
    assert child.serves()


RUBBISH = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "text": b"hello\n" * 100,
    "ones": b"\xff" * 100,
    "one byte too long": struct.pack(">I", FRAME_BODY_MAX + 1) + bytes(100),
    "longest": b"\xff\xff\xff\xff",
    "little-endian": struct.pack("<I", 39) + bytes(39),
    "empty body": bytes(4),
    "unknown tag": struct.pack(">II", 4, 2),
    "no package": struct.pack(">I", 4) + bytes(4),
    "lengths that overflow": struct.pack(">I", 28) + bytes(4) + b"\xff" * 24,
    "not UTF-8": executor.request("buffers", "echo").replace(b"buffers", b"buff\xffrs"),
}


@pytest.mark.parametrize("after", [0, 3])
@pytest.mark.parametrize("kind", RUBBISH)
def test_rubbish(start, kind, after):
    child = start()
    for _ in range(after):
        assert child.serves()
    child.send(RUBBISH[kind])
    assert child.read_to_end() == (b"", 1)


@pytest.mark.ours
@pytest.mark.parametrize("kind", RUBBISH)
def test_what_is_logged_of_rubbish(start, kind):
    child = start()
    child.send(RUBBISH[kind])
    assert child.read_to_end() == (b"", 1)
    fields = only_error(child)
    assert fields["message"] == "The input is not what the protocol says."
    assert "expected" in fields["err"]
    assert "found" in fields["err"]


def test_replies_before_rubbish_are_not_lost(start):
    child = start()
    output, status = child.finish(executor.request("buffers", "echo", 1) * 50 + b"\xff" * 8)
    assert executor.responses(output) == [[1]] * 50
    assert status == 1


@pytest.mark.parametrize(
    "size", [*(pytest.param(size, marks=pytest.mark.ours) for size in (1, 2, 3, 4)), 5, 20, 60], ids=str
)
def test_a_torn_frame_and_nothing_more(start, size):
    frame = executor.request("buffers", "echo", "torn")
    child = start()
    assert child.serves()
    child.send(frame[:size])
    # It waits for the rest, however long that takes.
    assert select.select([child.process.stdout], [], [], 0.1) == ([], [], [])
    assert child.process.poll() is None
    assert child.finish() == (b"", 1)


@pytest.mark.ours
@pytest.mark.parametrize("size", [1, 4, 20])
def test_what_is_logged_of_a_torn_frame(start, size):
    child = start()
    child.send(executor.request("buffers", "echo", "torn")[:size])
    assert child.finish() == (b"", 1)
    assert f"found the end of the input {size} bytes into it" in only_error(child)["err"]


def test_a_frame_that_was_torn_for_a_while(start):
    frame = executor.request("buffers", "echo", "whole")
    child = start()
    for size in range(1, len(frame), 7):
        child.send(frame[:size])
        time.sleep(0.001)
        child.send(frame[size:])
        assert executor.outcome(child.receive()) == ["whole"]
    assert child.finish() == (b"", 0)


# ---------------------------------------------------------------------------------------------------------- descriptors


@pytest.mark.ours
@pytest.mark.parametrize(
    ("closing", "name"),
    [("0<&-", "stdin"), ("1>&-", "stdout"), ("0<&- 1>&-", "stdin"), ("0<&- 2>&-", None), ("1>&- 2>&-", None)],
)
def test_no_stdin_or_no_stdout(start_in_shell, closing, name):
    child = start_in_shell(f'exec "$@" {closing}')
    assert child.wait() == 1
    if name is None:
        assert child.stderr() == ""
    else:
        fields = only_error(child)
        assert fields["message"] == "The executor cannot start."
        assert fields["err"].startswith(f"{name}: expected a pipe from the parent, found ")


def test_no_stderr(start_in_shell):
    child = start_in_shell('exec "$@" 2>&-')
    for _ in range(3):
        assert child.serves()
    assert child.call("odd", "answer") == [1]
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_no_stderr_and_a_task_that_prints(start_in_shell):
    child = start_in_shell('exec "$@" 2>&-')
    assert child.call("descriptors", "print:100") == [100]
    assert child.serves()
    child.send(executor.request("exiting", "exit:0"))
    assert child.read_to_end() == (b"", 1)


@pytest.mark.ours
def test_no_descriptor_at_all(start_in_shell):
    assert start_in_shell('exec "$@" 0<&- 1>&- 2>&-').wait() == 1


@pytest.mark.parametrize("redirection", ["0</dev/full", "0</dev/zero", "0</dev/urandom"])
def test_devices_as_stdin(start_in_shell, redirection):
    child = start_in_shell(f'exec "$@" {redirection}')
    assert child.read_to_end()[1] == 1


def test_dev_null_as_stdin(start_in_shell):
    child = start_in_shell('exec "$@" 0</dev/null')
    assert child.read_to_end() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.parametrize("redirection", ["0</", pytest.param("0>/dev/null", marks=pytest.mark.ours)])
def test_a_stdin_that_cannot_be_read(start_in_shell, redirection):
    child = start_in_shell(f'exec "$@" {redirection}')
    assert child.read_to_end() == (b"", 1)
    assert child.stderr()


@pytest.mark.ours
@pytest.mark.parametrize(("redirection", "reason"), [("1>/dev/full", "No space left"), ("1</dev/null", "Bad file")])
def test_a_stdout_that_cannot_be_written(start_in_shell, redirection, reason):
    child = start_in_shell(f'exec "$@" {redirection}')
    child.send(executor.request("buffers", "echo"))
    assert child.wait() == 1
    assert reason in only_error(child)["err"]


@pytest.mark.ours
def test_a_stderr_that_cannot_be_written(start_in_shell):
    child = start_in_shell('exec "$@" 2>/dev/full', env={"RUST_LOG": "trace"})
    assert child.call("descriptors", "print:10") == [10]
    assert child.serves()
    assert child.finish() == (b"", 0)


def test_regular_files(start, tmp_path):
    (tmp_path / "in").write_bytes(b"".join(executor.request("buffers", "echo", number) for number in range(1000)))
    with open(tmp_path / "in", "rb") as requests, open(tmp_path / "out", "wb") as replies:
        child = start(stdin=requests, stdout=replies)
        assert child.wait() == 0
    assert executor.responses((tmp_path / "out").read_bytes()) == [[number] for number in range(1000)]
    assert child.stderr() == ""


@pytest.mark.ours
def test_a_regular_file_while_a_task_runs(start, tmp_path):
    """The watchdog must not take a file for a parent that is gone."""
    (tmp_path / "in").write_bytes(executor.request("integration_test_tasks", "sleep_and_echo", ["a", "b"]))
    with open(tmp_path / "in", "rb") as requests, open(tmp_path / "out", "wb") as replies:
        child = start(stdin=requests, stdout=replies, env={"SPIDER_INSTRUMENT_SLEEP_US": "300000"})
        assert child.wait() == 0
    assert executor.responses((tmp_path / "out").read_bytes()) == [[["a", "b"]]]


def receive_all(read, size):
    data = b""
    while len(data) < size:
        chunk = read(min(size - len(data), 1 << 16))
        assert chunk
        data += chunk
    return data


def test_a_socket(start):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = start(stdin=theirs, stdout=theirs)
        ours.settimeout(executor.DEADLINE)
        for text in ("a", "b" * 3_000_000):
            request = executor.request("buffers", "echo", text)
            ours.sendall(request)
            (size,) = struct.unpack(">I", receive_all(ours.recv, 4))
            assert executor.outcome(protocol.decode_response(receive_all(ours.recv, size))[0]) == [text]
        ours.shutdown(socket.SHUT_WR)
        assert child.wait() == 0
    assert child.stderr() == ""


@pytest.mark.ours
def test_a_socket_is_closed_in_the_middle_of_a_task(start):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = start(stdin=theirs, stdout=theirs)
        ours.sendall(executor.request("crashing", "hang"))
        executor.wait_for(child.stderr, "the task")
    assert child.wait() == 1
    (error,) = child.errors()
    assert error["fields"]["message"] == "The parent is gone while a task runs."


@pytest.mark.ours
def test_pipes_that_do_not_block(start):
    """The parent's mode of its own ends is ours as well if it is one descriptor that we both have."""
    input_fd, to_child = os.pipe()
    from_child, output_fd = os.pipe()
    for fd in (input_fd, output_fd):
        os.set_blocking(fd, False)
    try:
        child = start(stdin=input_fd, stdout=output_fd)
        os.write(to_child, executor.request("buffers", "zeros:4000000"))
        time.sleep(0.2)
        (size,) = struct.unpack(">I", receive_all(lambda size: os.read(from_child, size), 4))
        body = receive_all(lambda size: os.read(from_child, size), size)
        assert protocol.decode_response(body)[0].outcome == protocol.Success(bytes(4_000_000))
    finally:
        for fd in (input_fd, to_child, from_child, output_fd):
            os.close(fd)
    assert child.wait() == 0


@pytest.mark.ours
def test_a_terminal(start):
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    child = start(stdin=theirs, stdout=theirs)
    os.close(theirs)
    try:
        os.write(ours, executor.request("buffers", "echo", "x" * 1000))
        assert select.select([ours], [], [], executor.DEADLINE)[0]
        (size,) = struct.unpack(">I", receive_all(lambda size: os.read(ours, size), 4))
        body = receive_all(lambda size: os.read(ours, size), size)
        assert executor.outcome(protocol.decode_response(body)[0]) == ["x" * 1000]
    finally:
        os.close(ours)
    assert child.wait() in (0, 1)
    assert "Waiting for requests from a Spider execution manager" in child.stderr()


@pytest.mark.ours
def test_a_person_at_a_terminal(start):
    ours, theirs = os.openpty()
    child = start(stdin=theirs, stdout=theirs)
    os.close(theirs)
    try:
        os.write(ours, b"help\n")
        assert child.wait() == 1
    finally:
        os.close(ours)
    (error,) = child.errors()
    assert error["fields"]["message"] == "The input is not what the protocol says."


# --------------------------------------------------------------------------------------------------- places to start in


@pytest.fixture
def place(package_dir):
    """A directory that every user can reach, with a copy of the executor, never started, and a package."""
    directory = Path(tempfile.mkdtemp(prefix="spider-executor-test-"))
    try:
        (directory / "bin").mkdir()
        for name in ("protocol.py", "spider_executor.py"):
            shutil.copy(ROOT / name, directory / "bin" / name)
            os.chmod(directory / "bin" / name, 0o444)
        build.stage(directory / "packages", "buffers", package_dir / "buffers" / "libbuffers.so")
        for path in (directory, directory / "packages", directory / "packages" / "buffers"):
            path.chmod(0o755)
        (directory / "packages" / "buffers" / "libbuffers.so").chmod(0o444)
        (directory / "bin").chmod(0o777)
        yield directory
    finally:
        for path in (directory / "bin", directory / "bin" / "__pycache__"):
            if path.exists():
                path.chmod(0o700)
        shutil.rmtree(directory)


def command_in(place):
    return [sys.executable, "-IS", str(place / "bin" / "spider_executor.py")]


@pytest.fixture(scope="module")
def unprivileged():
    """The start of a command that gives up the right to read and write what it likes."""
    if os.geteuid() != 0:
        return []
    for prefix in (["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"], ["unshare", "--user"]):
        try:
            if subprocess.run([*prefix, sys.executable, "-IS", "-c", ""], stderr=subprocess.DEVNULL).returncode == 0:
                return prefix
        except FileNotFoundError:
            pass
    pytest.skip("no way to be another user that can run this Python")


def all_serve(children):
    for child in children:
        child.send(executor.request("buffers", "echo", 7))
    for child in children:
        assert executor.outcome(child.receive()) == [7]
        assert child.finish() == (b"", 0)
        assert child.stderr() == ""


@pytest.mark.ours
def test_several_start_at_once_without_bytecode(start_in_shell, place):
    for _ in range(2):  # and then with it
        all_serve([start_in_shell('exec "$@"', command_in(place), place / "packages") for _ in range(8)])
    assert len(list((place / "bin" / "__pycache__").glob("protocol.*.pyc"))) == 1


ODD_PLACES = {
    "another user": 'exec "$@"',
    "no HOME": 'unset HOME; exec "$@"',
    "no environment": 'exec env -i SPIDER_TDL_PACKAGE_DIR="$SPIDER_TDL_PACKAGE_DIR" "$@"',
    "no working directory": 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"',
    "umask 0777": 'umask 0777; exec "$@"',
    "no core, few files": 'ulimit -c 0; ulimit -n 20; exec "$@"',
}


@pytest.mark.ours
@pytest.mark.parametrize("kind", ODD_PLACES)
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_odd_places(start_in_shell, place, unprivileged, kind, writable):
    if not writable:
        (place / "bin").chmod(0o555)
    command = [*unprivileged, *command_in(place)]
    for _ in range(2):
        all_serve([start_in_shell(ODD_PLACES[kind], command, place / "packages") for _ in range(2)])
    assert (place / "bin" / "__pycache__").exists() == writable
