"""ExecutorHandle: a result is that of its own request, each ending is reported as it was, nothing is left behind."""

import doctest
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from helpers import build, executor, odd, process

import protocol
import spider_executor
from protocol import (
    Execute,
    ExecutorError,
    Failure,
    ProtocolError,
    Result,
    Success,
    TaskContext,
    TdlError,
)
from spider_executor import ExecutorCrash, ExecutorHandle, TaskTimeout

TASKS = "integration_test_tasks"
ANSWER = [55, "x" * 99]
REPLY = protocol.encode_frame(
    protocol.encode_response(Result(Success(protocol.pack_values(*ANSWER)), 7))
)
LARGE = "x" * (4 << 20)
PYTHON = [sys.executable, "-IS", "-c"]


def open_files():
    return set(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_left_behind():
    before = open_files()
    yield
    gc.collect()
    assert open_files() == before
    assert threading.active_count() == 1
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.fixture
def start(executor_command, package_dir):
    with ExitStack() as stack:

        def make(command=executor_command):
            handle = ExecutorHandle(package_dir, command, stderr=subprocess.DEVNULL)
            stack.callback(handle.close, timeout=0)
            return handle

        yield make


# An executor that answers one request, so that its start does not count, reads the header of a second one, and then
# runs a script.
FAKE = f"""\
import array, fcntl, os, signal, sys, termios, time
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data))
    return data
def read_size():
    return int.from_bytes(read(4), "big")
def write(data):
    while data:
        data = data[os.write(1, data):]
def drain():
    left = array.array("i", [1])
    while left[0]:
        fcntl.ioctl(1, termios.FIONREAD, left)
        time.sleep(0.0002)
def wait():
    time.sleep(100)
REPLY = {REPLY!r}
read(read_size())
write(REPLY)
size = read_size()
"""


@pytest.fixture
def start_fake(start):
    def make(script):
        handle = start([*PYTHON, FAKE + script])
        assert run(handle, "t") == ANSWER
        return handle

    return make


def run(handle, task, *values, package=TASKS, timeout=executor.DEADLINE):
    return handle.execute(package, task, *values, timeout=timeout)


def assert_ended(handle):
    assert not os.path.exists(f"/proc/{handle.pid}")
    with pytest.raises(RuntimeError, match="has ended"):
        handle.execute(TASKS, "fibonacci", 10)


@pytest.mark.parametrize("timeout", [executor.DEADLINE, 3e9, float("inf"), None])
def test_execute_returns_the_outputs(handle, timeout):
    assert run(handle, "fibonacci", 10, timeout=timeout) == [55]
    assert run(handle, "sleep_and_echo", ["a", "é"], timeout=timeout) == [["a", "é"]]
    assert run(handle, "assert_initialized", timeout=timeout) == []


@pytest.mark.parametrize(
    ("package", "task", "kind", "text"),
    [
        (
            TASKS,
            "always_fail",
            "TaskError",
            "TaskError: ExecutionError: always_fail: intentional failure",
        ),
        (
            "complex",
            "complex::always_fail",
            "TaskError",
            "TaskError: Custom: this task always fails",
        ),
        ("nowhere", "t", "InvalidLibrary", "InvalidLibrary: "),
    ],
)
def test_a_failure_is_raised_and_the_executor_goes_on(
    handle, package, task, kind, text
):
    with pytest.raises(ExecutorError, match=text) as raised:
        run(handle, task, package=package)
    assert raised.value.kind == kind
    assert run(handle, "fibonacci", 10) == [55]


def test_request_returns_the_response_undecoded(handle):
    def request(task, raw_inputs):
        return handle.request(
            Execute(TASKS, task, TaskContext().encode(), raw_inputs), executor.DEADLINE
        )

    error = ExecutorError(
        "TaskError", TdlError("ExecutionError", "always_fail: intentional failure")
    )
    assert request("always_fail", bytes(4)).outcome == Failure(error.encode())
    assert request("fibonacci", protocol.pack_values(10)).outcome == Success(
        protocol.pack_values(55)
    )
    assert request("fibonacci", protocol.pack_values(25)).elapsed_us > 0


@pytest.mark.parametrize(
    "value",
    ["x" * protocol.FRAME_BODY_MAX, object(), 1 << 64],
    ids=["large", "type", "integer"],
)
def test_a_value_that_cannot_be_sent_is_an_error_before_anything_is_sent(handle, value):
    with pytest.raises(ProtocolError):
        run(handle, "sleep_and_echo", value)
    assert run(handle, "fibonacci", 10) == [55]


@pytest.mark.ours
def test_the_examples_in_the_docstrings_hold(package_dir):
    results = doctest.testmod(spider_executor, extraglobs={"package_dir": package_dir})
    assert (results.attempted > 0, results.failed) == (True, 0)


def test_a_reply_may_be_split_at_any_byte(start_fake):
    """Once at each byte, then at all of them. The rest is written when the handle has read what came before."""
    handle = start_fake("""
for cut in list(range(1, len(REPLY))) + [None]:
    pieces = [bytes((byte,)) for byte in REPLY] if cut is None else [REPLY[:cut], REPLY[cut:]]
    read(size)
    for piece in pieces:
        write(piece)
        drain()
    size = read_size() if cut else 0
""")
    for _ in range(len(REPLY)):
        assert run(handle, "t") == ANSWER


@pytest.mark.parametrize("size", [65536, 1 << 20, 8_388_400])
def test_large_values_go_both_ways(handle, size):
    for _ in range(2):
        assert run(handle, "sleep_and_echo", ["z" * size]) == [["z" * size]]


def test_an_executor_may_answer_before_it_has_read_the_request(start_fake):
    """A handle that wrote all of the request before it reads would block."""
    reply = protocol.encode_frame(
        protocol.encode_response(
            Result(Success(protocol.pack_values("y" * (4 << 20))), 1)
        )
    )
    head, tail = reply[: reply.index(b"y")], reply[reply.rindex(b"y") + 1 :]
    handle = start_fake(
        f'write({head!r} + b"y" * (4 << 20)); read(size); write({tail!r}); wait()'
    )
    assert run(handle, "t", LARGE) == ["y" * (4 << 20)]


@pytest.mark.parametrize("unread", ["os.close(0)", "read(100000); os.close(0)"])
def test_an_executor_that_stops_reading_may_still_answer(start_fake, unread):
    assert run(start_fake(f"{unread}; write(REPLY); wait()"), "t", LARGE) == ANSWER


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ("b'GET / HTTP/1.1'", "expected a frame body of at most 8388608 bytes"),
        ("b'\\0\\x80\\0\\x01'", "expected a frame body of at most 8388608 bytes"),
        ("b'\\0\\0\\0\\0'", "expected"),
        ("b'\\0\\0\\0\\4\\7\\0\\0\\0'", "expected"),
        ("REPLY + b'x'", "expected one response, found 1 more bytes"),
        ("REPLY + REPLY", "expected one response, found .* more bytes"),
    ],
)
def test_a_reply_that_breaks_the_protocol_is_an_error_and_ends_the_executor(
    start_fake, written, text
):
    handle = start_fake(f"write({written}); wait()")
    with pytest.raises(ProtocolError, match=text):
        run(handle, "t")
    assert_ended(handle)


@pytest.mark.parametrize("timeout", [0.3, 0, -1])
def test_an_executor_that_does_not_answer_in_time_is_killed(start, timeout):
    handle = start()
    with pytest.raises(TaskTimeout) as raised:
        run(handle, "hang", package="crashing", timeout=timeout)
    assert isinstance(raised.value, TimeoutError)
    assert_ended(handle)
    assert handle.close() == -signal.SIGKILL


@pytest.mark.parametrize(
    "script",
    [
        "wait()",
        "write(REPLY[:3]); wait()",
        "write(REPLY[:20]); wait()",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); wait()",
        "os.close(1); wait()",
        # These would answer or end within a timeout that starts anew with an event, and not within the first.
        "read(size)\nfor at in range(len(REPLY)): write(REPLY[at : at + 1]); time.sleep(0.05)",
        "for _ in range(40): read(size // 40); time.sleep(0.05)\nread(size % 40); write(REPLY)",
        "write(REPLY[:20]); time.sleep(0.2); os.close(1); time.sleep(2); os._exit(7)",
    ],
)
def test_one_timeout_holds_for_everything(start_fake, script):
    handle = start_fake(script)
    with pytest.raises(TaskTimeout):
        run(handle, "t", LARGE, timeout=0.8)
    assert_ended(handle)


@pytest.mark.parametrize(
    ("package", "task", "exit_code", "name"),
    [
        ("exiting", "_exit:0", 0, None),
        ("exiting", "_exit:7", 7, None),
        ("exiting", "_exit:255", 255, None),
        ("crashing", "raise:11", None, "SIGSEGV"),
        ("crashing", "raise:9", None, "SIGKILL"),
        ("crashing", "raise:40", None, "signal 40"),
    ],
)
def test_a_crash_is_raised_with_its_exit_code_or_its_signal(
    start, package, task, exit_code, name
):
    before = open_files()
    handle = start()
    with pytest.raises(ExecutorCrash, match=name or f"exit code {exit_code}") as raised:
        run(handle, task, package=package)
    assert (raised.value.exit_code, raised.value.signal) == (exit_code, name)
    assert open_files() == before
    assert_ended(handle)


@pytest.mark.parametrize("size", [0, 1, 4, 20])
@pytest.mark.parametrize("unread", ["pass", "os.close(0)", "read(100000); os.close(0)"])
def test_a_crash_is_the_same_wherever_the_exchange_was(start_fake, unread, size):
    handle = start_fake(f"{unread}; write(REPLY[:{size}]); os._exit(5)")
    with pytest.raises(ExecutorCrash, match="exit code 5"):
        run(handle, "t", LARGE)
    assert_ended(handle)


def test_an_executor_that_ended_while_idle_has_crashed(start):
    handle = start()
    os.kill(handle.pid, signal.SIGTERM)
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ExecutorCrash, match="SIGTERM"):
        run(handle, "sleep_and_echo", LARGE)
    assert_ended(handle)


def test_an_executor_that_the_handle_had_to_kill_has_not_crashed(start_fake):
    """It closes its stdout and lives on. It gets some seconds to end."""
    handle = start_fake("os.close(1); wait()")
    with pytest.raises(TaskTimeout, match="closed its stdout"):
        handle.execute("p", "t")
    assert_ended(handle)


def test_a_second_caller_gets_an_error_at_once_and_the_first_its_own_reply(
    start_fake, tmp_path
):
    asked, told = tmp_path / "asked", tmp_path / "told"
    waiting = f"while not os.path.exists({str(told)!r}): time.sleep(0.01)"
    handle = start_fake(
        f"os.mkdir({str(asked)!r})\n{waiting}\nread(size); write(REPLY); wait()"
    )
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, handle, "t", "first")
        try:
            executor.wait_for(asked.exists, "the first request to arrive")
            for call in (lambda: run(handle, "t", "second"), handle.close):
                with pytest.raises(RuntimeError, match="another thread"):
                    call()
        finally:
            told.touch()
    assert first.result() == ANSWER


def test_no_thread_gets_a_reply_to_another_threads_request(handle):
    refused = []

    def work(number):
        served = 0
        for count in range(200):
            value = f"{number} {count}" * 50
            try:
                assert run(handle, "echo", value, package="buffers") == [value]
                served += 1
            except RuntimeError as error:
                refused.append(str(error))
        return served

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(work, range(4))) > 0
    assert all("another thread" in text for text in refused)


def test_close_sends_shutdown_and_returns_the_exit_code(start, tmp_path):
    script = f"open({str(tmp_path / 'got')!r}, 'wb').write(sys.stdin.buffer.read()); sys.exit(4)"
    handle = start([*PYTHON, f"import sys; {script}"])
    assert handle.close(executor.DEADLINE) == 4
    assert (tmp_path / "got").read_bytes() == executor.SHUTDOWN
    assert_ended(handle)


def test_close_lets_the_executor_end_by_itself(
    executor_command, build_package, tmp_path
):
    build.stage(tmp_path, "odd", odd.build(build_package))
    trace = odd.Trace(tmp_path)
    with ExecutorHandle(
        tmp_path, executor_command, {**os.environ, **trace.env}
    ) as handle:
        handle.request(Execute("odd", "inputs", b"", b""), executor.DEADLINE)
    assert trace.take()[-1] == "unload"
    assert handle.close() == handle.close() == 0
    assert_ended(handle)


@pytest.mark.parametrize(
    ("script", "status"), [("sys.exit(6)", 6), ("os.kill(os.getpid(), 15)", -15)]
)
def test_close_of_an_executor_that_has_ended_returns_its_status(start, script, status):
    handle = start([*PYTHON, f"import os, sys; {script}"])
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
    assert handle.close() == handle.close() == status


def test_close_kills_an_executor_that_does_not_end(start_fake):
    handle = start_fake("wait()")
    assert handle.close(timeout=0.1) == -signal.SIGKILL
    assert_ended(handle)


@pytest.mark.parametrize(
    "call",
    [lambda handle: run(handle, "t"), ExecutorHandle.close],
    ids=["execute", "close"],
)
def test_ctrl_c_ends_the_executor(start_fake, call):
    """A reply may still come after it: a handle that went on would take it for that to the next request."""
    handle = start_fake("os.kill(os.getppid(), signal.SIGINT); wait()")
    with pytest.raises(KeyboardInterrupt):
        call(handle)
    assert_ended(handle)


def test_an_exception_in_the_block_ends_the_executor(executor_command, package_dir):
    with pytest.raises(KeyError), ExecutorHandle(
        package_dir, executor_command
    ) as handle:
        raise KeyError
    assert_ended(handle)


def test_a_handle_that_is_dropped_ends_the_executor(package_dir):
    handle = ExecutorHandle(package_dir, [*PYTHON, FAKE + "wait()"])
    assert run(handle, "t") == ANSWER
    pid = handle.pid
    del handle
    gc.collect()
    assert not os.path.exists(f"/proc/{pid}")


def test_a_handle_that_cannot_be_made_leaves_nothing(package_dir):
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        ExecutorHandle(package_dir, ["/nonexistent"])
    with pytest.raises(ValueError, match="log lines would break the protocol"):
        ExecutorHandle(package_dir, [sys.executable], stderr=subprocess.STDOUT)


@pytest.mark.parametrize("as_type", [str, os.fsencode, lambda path: path])
def test_the_environment_is_replaced_and_has_the_package_directory(
    executor_command, package_dir, as_type
):
    env = {"A": "1", "SPIDER_TDL_PACKAGE_DIR": "/nowhere"}
    with ExecutorHandle(as_type(package_dir), executor_command, env) as handle:
        (lines,) = run(handle, "environment", package="process")
    assert sorted(lines.splitlines()) == [
        "A=1",
        f"SPIDER_TDL_PACKAGE_DIR={package_dir}",
    ]
    assert env == {"A": "1", "SPIDER_TDL_PACKAGE_DIR": "/nowhere"}


def test_stderr_goes_where_the_caller_says_and_is_readable_after_the_end(
    executor_command, package_dir, tmp_path
):
    env = {**os.environ, "RUST_LOG": "info"}
    with ExecutorHandle(
        package_dir, executor_command, env, stderr=subprocess.PIPE
    ) as handle:
        assert run(handle, "fibonacci", 10) == [55]
    with handle.stderr:
        assert b"Executor exits." in handle.stderr.read()
    with (tmp_path / "log").open("wb") as log, ExecutorHandle(
        package_dir, executor_command, env, log
    ) as handle:
        assert handle.stderr is None
    assert b"Executor exits." in (tmp_path / "log").read_bytes()


@pytest.mark.ours
def test_the_default_command_is_this_program(package_dir):
    with ExecutorHandle(package_dir) as handle:
        assert run(handle, "fibonacci", 10) == [55]
        with open(f"/proc/{handle.pid}/cmdline", "rb") as file:
            assert (
                list(map(os.fsdecode, file.read().split(b"\0")[:-1]))
                == spider_executor.own_command()
            )


@pytest.fixture
def parent(executor_command, package_dir, tmp_path):
    """Run a program that uses handles. Return its exit status and what it said."""

    def parent(script, before="", command=executor_command):
        program = f"""
import select, sys
{before}
import gc, os, signal, subprocess, threading
sys.path.insert(0, {str(build.ROOT)!r})
from spider_executor import ExecutorHandle
def run(handle):
    return handle.execute({TASKS!r}, "fibonacci", 10, timeout={executor.DEADLINE})
def say(*values):
    with open({str(tmp_path / "said")!r}, "w") as file:
        print(*values, file=file)
def make():
    return ExecutorHandle({str(package_dir)!r}, {command!r}, stderr=subprocess.DEVNULL)
{script}
"""
        done = subprocess.run(
            [sys.executable, "-c", program], timeout=executor.DEADLINE
        )
        return done.returncode, (tmp_path / "said").read_text()

    return parent


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_the_pipes_are_above_2_if_standard_descriptors_are_closed(parent, closed):
    script = f"""
for fd in {closed}:
    os.close(fd)
with make() as handle:
    found = [run(handle)]
    for fd in {closed}:
        try:
            os.write(fd, b"print")
        except OSError as error:
            found.append(error.errno)
    say(*found, run(handle))
"""
    assert parent(script) == (0, f"[55] {'9 ' * len(closed)}[55]\n")


def test_select_may_lack_poll(parent):
    """eventlet and gevent take it away."""
    # From CPython 3.15 on, subprocess cannot do without select.poll.
    gone = (
        "select.epoll" if sys.version_info >= (3, 15) else "select.poll, select.epoll"
    )
    assert parent("with make() as handle: say(run(handle))", f"del {gone}") == (
        0,
        "[55]\n",
    )


@pytest.mark.parametrize(
    "sibling",
    [
        "signal.pause()",
        "del handle; gc.collect(); os.kill(os.getpid(), signal.SIGSTOP)",
    ],
)
def test_a_sibling_with_a_copy_of_the_handle_neither_ends_the_executor_nor_delays_close(
    parent, sibling
):
    script = f"""
handle = make()
sibling = os.fork()
if sibling == 0:
    {sibling}
if "STOP" in {sibling!r}:
    os.waitpid(sibling, os.WUNTRACED)
answer = run(handle)
status = handle.close()
os.kill(sibling, signal.SIGKILL)
os.waitpid(sibling, 0)
say(answer, status)
"""
    assert parent(script) == (0, "[55] 0\n")


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("def inner(handle): raise SystemExit(4)\ninner(handle)", 4),
        ("handle.itself = handle", 0),
        ("threading.Thread(target=sys.exit).start()", 0),
    ],
)
def test_a_parent_that_ends_without_close_leaves_no_executor(parent, end, status):
    """This executor does not end when its stdin is closed."""
    found, said = parent(
        f"handle = make()\nrun(handle)\nsay(handle.pid)\n{end}",
        command=[*PYTHON, FAKE + "wait()"],
    )
    assert found == status
    executor.wait_for(lambda: process.is_gone(int(said)), "the executor to end")
