"""ExecutorHandle: every outcome is what it is, and nothing is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

import pytest
from helpers import build, executor, odd

import protocol
import spider_executor
from protocol import (
    Custom,
    Execute,
    ExecutionError,
    Failure,
    InvalidLibrary,
    ProtocolError,
    Result,
    Success,
    TaskContext,
    TaskError,
)
from spider_executor import ExecutorGone, ExecutorHandle, TaskCrash, TaskFailure, TaskSuccess, TaskTimeout

TASKS = "integration_test_tasks"


def open_files() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def is_gone(pid: int) -> bool:
    """Neither running nor waiting to be reaped."""
    return not os.path.exists(f"/proc/{pid}")


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """No test here may leave an open file, a thread or a child process, dead or alive."""
    before = open_files()
    yield
    assert open_files() == before
    assert threading.active_count() == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def start(executor_command, package_dir):
    """Makes a handle over the executor under test, with an environment of its own."""
    handles = []

    def make(package_dir=package_dir, command=executor_command, **env):
        handle = ExecutorHandle(package_dir, command, {**os.environ, **env}, stderr=subprocess.DEVNULL)
        handles.append(handle)
        return handle

    yield make
    for handle in handles:
        handle.close()


@pytest.fixture
def odd_dir(build_package, tmp_path):
    build.stage(tmp_path, "odd", odd.build(build_package))
    return tmp_path


def run(handle, task, *values, package=TASKS, timeout=executor.DEADLINE, **options):
    return handle.execute(package, task, *values, timeout=timeout, **options)


# ------------------------------------------------------------------------------------------------------------- outcomes


def test_success(start):
    handle = start()
    outcome = run(handle, "fibonacci", 10)
    assert outcome == TaskSuccess([55], outcome.elapsed_us)
    assert 0 <= outcome.elapsed_us < executor.DEADLINE * 1e6
    assert run(handle, "sleep_and_echo", ["a", "é"]).outputs == [["a", "é"]]
    assert run(handle, "assert_initialized").outputs == []


def test_failure(start):
    handle = start()
    outcome = run(handle, "always_fail")
    assert isinstance(outcome, TaskFailure)
    assert outcome.error == TaskError(ExecutionError("always_fail: intentional failure"))
    assert outcome.elapsed_us >= 0
    outcome = run(handle, "complex::always_fail", package="complex")
    assert outcome.error == TaskError(Custom("this task always fails"))
    assert isinstance(run(handle, "t", package="nowhere").error, InvalidLibrary)
    # A failure is not the end.
    assert run(handle, "fibonacci", 10).outputs == [55]


@pytest.mark.parametrize("seconds", [0.3, 0, -1])
def test_timeout(start, seconds):
    """The executor has been killed when it is reported."""
    handle = start(SPIDER_INSTRUMENT_SLEEP_US="60000000")
    pid = handle.pid
    assert run(handle, "sleep_and_echo", ["x"], timeout=seconds) == TaskTimeout(seconds)
    assert is_gone(pid)
    with pytest.raises(ExecutorGone, match=rf"executor {pid} has ended: killed by SIGKILL"):
        run(handle, "fibonacci", 10)


def test_a_timeout_while_the_request_is_written(start):
    """A task that runs does not read the next request; here the executor reads none at all."""
    handle = start(command=["sleep", "60"])
    assert run(handle, "sleep_and_echo", ["x" * (4 << 20)], timeout=0.3) == TaskTimeout(0.3)
    assert is_gone(handle.pid)


def test_a_timeout_in_the_middle_of_the_reply(start):
    handle = start(command=fake("write(response[:20]); wait()"))
    assert run(handle, "fibonacci", 10, timeout=0.5) == TaskTimeout(0.5)
    assert is_gone(handle.pid)


def test_an_executor_that_is_slow_to_die_is_killed(start):
    """SIGTERM would not do."""
    handle = start(command=fake("import signal; signal.signal(15, signal.SIG_IGN); write(response[:4]); wait()"))
    assert run(handle, "fibonacci", 10, timeout=0.5) == TaskTimeout(0.5)
    assert is_gone(handle.pid)


def test_a_deadline_that_is_met(start):
    handle = start()
    for _ in range(3):
        assert run(handle, "fibonacci", 10, timeout=executor.DEADLINE).outputs == [55]
    assert handle.execute(TASKS, "fibonacci", 10).outputs == [55]


@pytest.mark.parametrize(
    ("task", "number", "crash", "text"),
    [
        ("_exit", 0, TaskCrash(0, None), "exit code 0"),
        ("_exit", 7, TaskCrash(7, None), "exit code 7"),
        ("_exit", 255, TaskCrash(255, None), "exit code 255"),
        ("sigsegv", 8, TaskCrash(None, "SIGSEGV"), "killed by SIGSEGV"),
        ("raise", signal.SIGABRT, TaskCrash(None, "SIGABRT"), "killed by SIGABRT"),
        ("raise", signal.SIGKILL, TaskCrash(None, "SIGKILL"), "killed by SIGKILL"),
        ("raise", signal.SIGTERM, TaskCrash(None, "SIGTERM"), "killed by SIGTERM"),
        ("raise", 40, TaskCrash(None, "signal 40"), "killed by signal 40"),
    ],
)
def test_crash(start, task, number, crash, text):
    handle = start()
    package = "exiting" if task == "_exit" else "crashing"
    request = Execute(package, f"{task}:{int(number)}", TaskContext().encode(), bytes(4))
    found = handle.request(request, executor.DEADLINE)
    assert found == crash
    assert str(found) == text
    assert is_gone(handle.pid)
    with pytest.raises(ExecutorGone, match=text):
        handle.request(request, executor.DEADLINE)


def test_an_executor_that_does_not_start(start, tmp_path):
    handle = start(tmp_path / "nowhere", command=[sys.executable, "-c", "raise SystemExit(3)"])
    assert run(handle, "fibonacci", 10) == TaskCrash(3, None)


@pytest.mark.ours
def test_a_package_directory_that_is_none(start, tmp_path):
    assert run(start(tmp_path / "nowhere"), "fibonacci", 10) == TaskCrash(1, None)


def test_a_command_that_is_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        ExecutorHandle(tmp_path, [str(tmp_path / "nowhere")])


def test_an_executor_killed_while_idle(start):
    handle = start()
    assert run(handle, "fibonacci", 10).outputs == [55]
    os.kill(handle.pid, signal.SIGKILL)
    assert run(handle, "sleep_and_echo", ["x" * (4 << 20)]) == TaskCrash(None, "SIGKILL")
    assert is_gone(handle.pid)


def test_a_crash_in_the_middle_of_the_reply(start):
    for size in (1, 4, 20):
        assert run(start(command=fake(f"write(response[:{size}]); os._exit(5)")), "t") == TaskCrash(5, None)


def test_an_executor_that_closes_stdout_and_stays_gets_no_more_than_the_timeout(start):
    handle = start(command=fake("os.close(1); wait()"))
    assert run(handle, "t", timeout=0.3) == TaskTimeout(0.3)
    assert is_gone(handle.pid)


@pytest.mark.parametrize("timeout", [float("inf"), 3e9])
def test_a_timeout_beyond_what_poll_takes(start, timeout):
    assert run(start(), "fibonacci", 10, timeout=timeout).outputs == [55]


@pytest.mark.parametrize(
    ("task", "values", "timeout", "kind"),
    [("always_panic", [], executor.DEADLINE, TaskCrash), ("sleep_and_echo", [["a"]], 0.3, TaskTimeout)],
)
def test_no_pipe_stays_open_once_the_executor_has_ended(executor_command, package_dir, task, values, timeout, kind):
    before = open_files()
    env = {**os.environ, "SPIDER_INSTRUMENT_SLEEP_US": "60000000"}
    with ExecutorHandle(package_dir, executor_command, env, stderr=subprocess.DEVNULL) as handle:
        assert isinstance(run(handle, task, *values, timeout=timeout), kind)
        assert open_files() == before
        with pytest.raises(ExecutorGone):
            run(handle, task)
        assert handle.shutdown() in (-signal.SIGABRT, -signal.SIGKILL)


def test_an_executor_that_closes_stdout_and_stays(start, monkeypatch):
    monkeypatch.setattr(spider_executor, "_END_TIMEOUT", 0.2)
    handle = start(command=fake("os.close(1); wait()"))
    assert run(handle, "t") == TaskCrash(None, "SIGKILL")
    assert is_gone(handle.pid)


# ------------------------------------------------------------------------------------------------ replies, odd or split


# Of the scripts that stand for an executor.
READ_AND_WRITE = """\
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data))
    return data
def write(data):
    while data:
        data = data[os.write(1, data):]
"""


def fake(action: str) -> list[str]:
    """The command of an executor that reads one request and then does as told."""
    response = protocol.encode_frame(protocol.encode_response(Result(Success(protocol.pack_values(55, "x" * 99)), 7)))
    script = f"""
import array, fcntl, os, termios, time
response = {response!r}
{READ_AND_WRITE}def drained():
    left = array.array("i", [1])
    while left[0]:
        fcntl.ioctl(1, termios.FIONREAD, left)
        time.sleep(0.0002)
def wait():
    while True:
        time.sleep(60)
read(int.from_bytes(read(4), "big"))
{action}
"""
    return [sys.executable, "-IS", "-c", script]


def test_a_reply_split_at_every_byte(start):
    """Cut once at each place, and in single bytes: the rest is written when what came before has been read."""
    size = 4 + 24 + 4 + 4 + 1 + 4 + 101
    script = f"""
for cut in list(range(1, {size})) + [None]:
    pieces = [bytes((byte,)) for byte in response] if cut is None else [response[:cut], response[cut:]]
    for piece in pieces:
        write(piece)
        drained()
    if cut is not None:
        read(int.from_bytes(read(4), "big"))
"""
    handle = start(command=fake(script))
    for _ in range(size):
        assert run(handle, "t") == TaskSuccess([55, "x" * 99], 7)


@pytest.mark.parametrize(
    ("action", "text"),
    [
        ("write(b'GET / HTTP/1.1')", "at most 8388608"),
        ("write(b'\\0\\x80\\0\\x01')", "at most 8388608"),
        ("write(b'\\0\\0\\0\\0')", "expected a response tag"),
        ("write(b'\\0\\0\\0\\4\\7\\0\\0\\0')", "expected response tag 0"),
        ("write(response + b'x')", "expected one response, found 1 bytes behind it"),
        ("write(response + response)", "bytes behind it"),
    ],
)
def test_a_reply_that_is_none(start, action, text):
    """The two no longer agree on the language: the executor is killed."""
    handle = start(command=fake(action + "; wait()"))
    with pytest.raises(ProtocolError, match=text):
        run(handle, "t")
    assert is_gone(handle.pid)
    with pytest.raises(ExecutorGone):
        run(handle, "t")


def test_outputs_that_are_no_payload(start, odd_dir):
    """That is the package's fault: the executor lives, and `request` shows what came."""
    handle = start(odd_dir)
    with pytest.raises(ProtocolError):
        run(handle, "task name that is given back", package="odd")
    assert handle.request(Execute("odd", "inputs", b"", b"\xff"), executor.DEADLINE).outcome == Success(b"\xff")


def test_request_is_raw(start):
    handle = start()
    request = Execute(TASKS, "fibonacci", TaskContext().encode(), protocol.pack_values(10))
    response = handle.request(request, executor.DEADLINE)
    assert response == Result(Success(protocol.pack_values(55)), response.elapsed_us)
    request = Execute(TASKS, "always_fail", TaskContext().encode(), bytes(4))
    assert isinstance(handle.request(request, executor.DEADLINE).outcome, Failure)


def test_a_context(start):
    handle = start()
    context = TaskContext(1, "Commit", 2, 3, b"\0" + protocol.pack_values(5, -5))
    assert run(handle, "assert_outputs_sum_zero", context=context).outputs == []


# ----------------------------------------------------------------------------------------------------------- large data


@pytest.mark.parametrize("size", [65536, 1 << 20, 8_388_400])
def test_large_payloads_both_ways(start, size):
    """More than a pipe holds, in both directions: neither side waits for the other."""
    handle = start()
    text = "z" * size
    for _ in range(2):
        assert run(handle, "sleep_and_echo", [text]).outputs == [[text]]


def test_an_executor_that_answers_before_it_has_read_all(start):
    """It writes 4 MiB before it reads the other 4 MiB: a handle that did one after the other would hang."""
    outputs = protocol.encode_payload([protocol.pack("y" * (4 << 20))])
    head, tail = protocol.response_head(0, len(outputs)), protocol.response_tail(1)
    script = f"""
import os
from struct import unpack
{READ_AND_WRITE}size, = unpack(">I", read(4))
write({head!r} + {outputs[:16]!r})
write(b"y" * {len(outputs) - 16})
read(size)
write({tail!r})
"""
    assert outputs[16:17] == b"y"
    handle = start(command=[sys.executable, "-IS", "-c", script])
    assert run(handle, "t", ["x" * (4 << 20)]) == TaskSuccess(["y" * (4 << 20)], 1)


def test_a_request_that_is_too_large_is_not_sent(start):
    handle = start()
    for value in ("x" * protocol.FRAME_BODY_MAX, object(), 1 << 64):
        with pytest.raises(ProtocolError):
            run(handle, "sleep_and_echo", value)
    # Nothing was sent, so the executor is still there.
    assert run(handle, "fibonacci", 10).outputs == [55]


# -------------------------------------------------------------------------------------------------------------- its end


def test_the_context_manager(executor_command, package_dir):
    before = open_files()
    with ExecutorHandle(package_dir, executor_command) as handle:
        pid = handle.pid
        assert run(handle, "fibonacci", 10).outputs == [55]
        assert not is_gone(pid)
    assert is_gone(pid)
    assert open_files() == before
    with pytest.raises(ExecutorGone):
        run(handle, "fibonacci", 10)


def test_the_context_manager_on_an_exception(executor_command, package_dir):
    with pytest.raises(KeyError), ExecutorHandle(package_dir, executor_command) as handle:
        raise KeyError
    assert is_gone(handle.pid)


def test_an_interrupted_wait_ends_the_executor(start, monkeypatch):
    """After KeyboardInterrupt a reply may still come: a handle in that state would mix up replies."""
    handle = start(command=fake("os.kill(os.getppid(), 2); wait()"))
    with pytest.raises(KeyboardInterrupt):
        run(handle, "t")
    assert is_gone(handle.pid)
    with pytest.raises(ExecutorGone):
        run(handle, "fibonacci", 10)


def test_shutdown(start):
    handle = start()
    assert run(handle, "fibonacci", 10).outputs == [55]
    assert handle.shutdown() == 0
    assert is_gone(handle.pid)
    assert handle.shutdown() == 0
    handle.close()
    with pytest.raises(ExecutorGone, match="exit code 0"):
        run(handle, "fibonacci", 10)


def test_shutdown_sends_the_request(start, tmp_path):
    """It does not only close the pipe."""
    script = f"import os, sys; open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read()); sys.exit(4)"
    handle = start(command=[sys.executable, "-IS", "-c", script])
    assert handle.shutdown(executor.DEADLINE) == 4
    assert (tmp_path / "got").read_bytes() == bytes.fromhex("00000004 01000000")


def test_shutdown_of_an_executor_that_has_ended(start):
    handle = start()
    os.kill(handle.pid, signal.SIGKILL)
    assert handle.shutdown() == -signal.SIGKILL
    handle = start(SPIDER_INSTRUMENT_SLEEP_US="60000000")
    run(handle, "sleep_and_echo", ["x"], timeout=0.1)
    assert handle.shutdown() == -signal.SIGKILL


def test_an_executor_that_does_not_end_is_killed(start):
    handle = start(command=["sleep", "60"])
    handle.close(timeout=0.1)
    assert is_gone(handle.pid)
    handle = start(command=["sleep", "60"])
    assert handle.shutdown(timeout=0.1) == -signal.SIGKILL


def test_close_lets_the_executor_end_by_itself(executor_command, odd_dir):
    trace = odd.Trace(odd_dir)
    with ExecutorHandle(odd_dir, executor_command, {**os.environ, **trace.env}) as handle:
        handle.request(Execute("odd", "inputs", b"", b""), executor.DEADLINE)
    assert trace.take()[-1] == "unload"


def test_stderr(executor_command, package_dir):
    env = {**os.environ, "RUST_LOG": "info"}
    with ExecutorHandle(package_dir, executor_command, env, stderr=subprocess.PIPE) as handle:
        assert run(handle, "fibonacci", 10).outputs == [55]
        assert b"Executor starts." in handle.stderr.readline()


def test_two_executors_at_once(start):
    first, second = start(), start()
    assert first.pid != second.pid
    for n in range(5):
        assert run(first, "fibonacci", n).outputs == run(second, "fibonacci", n).outputs
    # One does not hold the other's pipes: it sees the end of its input although the other lives.
    assert first.shutdown() == 0
    assert run(second, "fibonacci", 10).outputs == [55]


def test_the_environment_is_its_own(start, monkeypatch):
    monkeypatch.setenv("SPIDER_TDL_PACKAGE_DIR", "/nowhere")
    assert run(start(), "fibonacci", 10).outputs == [55]
    assert os.environ["SPIDER_TDL_PACKAGE_DIR"] == "/nowhere"


@pytest.mark.ours
def test_the_command_is_this_program_if_none_is_given(package_dir):
    for directory in (package_dir, str(package_dir), os.fsencode(package_dir)):
        with ExecutorHandle(directory) as handle:
            assert run(handle, "fibonacci", 10).outputs == [55]


def test_it_does_not_spin(start, monkeypatch):
    """It waits in the kernel, and wakes up when there is something to do."""
    waits = []

    class CountingPoll:
        def __init__(self):
            self.poll_object = poll()

        def __getattr__(self, name):
            return getattr(self.poll_object, name)

        def poll(self, timeout):
            waits.append(timeout)
            return self.poll_object.poll(timeout)

    poll = select.poll
    monkeypatch.setattr(select, "poll", CountingPoll)
    handle = start(SPIDER_INSTRUMENT_SLEEP_US="300000")
    assert run(handle, "sleep_and_echo", ["x"]).outputs == [["x"]]
    assert 1 < len(waits) < 10
