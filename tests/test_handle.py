"""ExecutorHandle: its results, its errors, and what it leaves behind."""

import asyncio
import doctest
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import pytest
from helpers import build, executor, odd, process
from helpers.rows import rows

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
PYTHON = [sys.executable, "-IS", "-c"]
LARGE = "x" * (4 << 20)
ANSWER = [55, "x" * 99]


def reply_of(*values):
    result = Result(Success(protocol.pack_values(*values)), 7)
    return protocol.encode_frame(protocol.encode_response(result))


def run(handle, task, *values, package=TASKS, timeout=executor.DEADLINE):
    return handle.execute(package, task, *values, timeout=timeout)


def open_files():
    return set(os.listdir("/proc/self/fd"))


def assert_ended(handle):
    assert not os.path.exists(f"/proc/{handle.pid}")
    with pytest.raises(RuntimeError, match="has ended"):
        run(handle, "fibonacci", 10)


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


# An executor that answers one request, so that its start does not count, reads the
# header of a second one, and runs a script. It ends at the end of its input.
FAKE = f"""\
import array, fcntl, os, select, signal, sys, termios, time
REPLY = {reply_of(*ANSWER)!r}
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit(0)
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
def wait(fd=0):
    end = select.poll()
    end.register(fd, 0)
    end.poll()
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


# ------------------------------------------------------------------------- requests


@pytest.mark.parametrize("timeout", [20, Fraction(20), True, 3e9, float("inf"), None])
def test_execute_returns_the_outputs(handle, timeout):
    assert run(handle, "fibonacci", 10, timeout=timeout) == [55]
    assert run(handle, "sleep_and_echo", ["a", "é"], timeout=timeout) == [["a", "é"]]
    assert run(handle, "assert_initialized", timeout=timeout) == []


FAILURES = """
failure | integration_test_tasks | always_fail | TaskError | ExecutionError: always_fail
custom     | complex | complex::always_fail       | TaskError | Custom:
no package | nowhere | t                          | InvalidLibrary |
"""


@rows("package, task, variant, text", FAILURES)
def test_a_failure_is_raised_and_the_executor_goes_on(
    handle, package, task, variant, text
):
    with pytest.raises(ExecutorError, match=f"{variant}: {text}") as raised:
        run(handle, task, package=package)
    assert raised.value.variant == variant
    assert run(handle, "fibonacci", 10) == [55]


def test_request_returns_the_response_undecoded(handle):
    def request(task, *values):
        inputs = protocol.pack_values(*values)
        execute = Execute(TASKS, task, TaskContext().encode(), inputs)
        return handle.request(execute, executor.DEADLINE)

    text = "always_fail: intentional failure"
    error = ExecutorError("TaskError", TdlError("ExecutionError", text))
    assert request("always_fail").outcome == Failure(error.encode())
    assert request("fibonacci", 10).outcome == Success(protocol.pack_values(55))
    assert request("fibonacci", 25).elapsed_us > 0


WRONG = {
    "large": ("x" * protocol.FRAME_BODY_MAX, 9, ProtocolError),
    "type": (object(), 9, ProtocolError),
    "integer": (1 << 64, 9, ProtocolError),
    "str": ("x", "2", TypeError),
    "bytes": ("x", b"2", TypeError),
}


@rows("value, timeout, error", WRONG)
def test_a_wrong_argument_is_refused_before_it_is_sent(handle, value, timeout, error):
    with pytest.raises(error):
        run(handle, "sleep_and_echo", value, timeout=timeout)
    with pytest.raises(TypeError):
        handle.close("2")
    assert run(handle, "fibonacci", 10) == [55]


@pytest.mark.ours
def test_the_examples_in_the_docstrings_hold(package_dir):
    results = doctest.testmod(spider_executor, extraglobs={"package_dir": package_dir})
    assert (results.attempted > 0, results.failed) == (True, 0)


# ------------------------------------------------------------------------- exchange


def test_a_reply_may_be_split_at_any_byte(start_fake):
    """At each byte, then at all. The rest is written after what came before is read."""
    handle = start_fake("""
for cut in list(range(1, len(REPLY))) + [None]:
    pieces = [bytes((byte,)) for byte in REPLY]
    if cut:
        pieces = [REPLY[:cut], REPLY[cut:]]
    read(size)
    for piece in pieces:
        write(piece)
        drain()
    size = read_size() if cut else 0
""")
    for _ in reply_of(*ANSWER):
        assert run(handle, "t") == ANSWER


@pytest.mark.parametrize("size", [65536, 1 << 20, 8_388_400])
def test_large_values_go_both_ways(handle, size):
    for _ in range(2):
        assert run(handle, "sleep_and_echo", ["z" * size]) == [["z" * size]]


def test_a_reply_may_come_while_the_request_is_written(start_fake):
    """A handle that wrote all of the request before it reads would block."""
    reply = reply_of("y" * (4 << 20))
    head, tail = reply[: reply.index(b"y")], reply[reply.rindex(b"y") + 1 :]
    handle = start_fake(
        f'write({head!r} + b"y" * (4 << 20)); read(size); write({tail!r}); wait()'
    )
    assert run(handle, "t", LARGE) == ["y" * (4 << 20)]


def test_a_reply_before_the_request_leaves_the_next_one_whole(start_fake):
    handle = start_fake(
        "write(REPLY); time.sleep(0.1); read(size); read(read_size()); write(REPLY)"
    )
    assert run(handle, "t", LARGE) == ANSWER
    assert run(handle, "t") == ANSWER


@pytest.mark.parametrize("unread", ["os.close(0)", "read(100000); os.close(0)"])
def test_an_executor_that_stops_reading_may_still_answer(start_fake, unread):
    assert run(start_fake(f"{unread}; write(REPLY); wait(1)"), "t", LARGE) == ANSWER


MALFORMED = {
    "text": (b"GET / HTTP/1.1", "expected a frame body of at most 8388608 bytes"),
    "size": (b"\0\x80\0\1", "expected a frame body of at most 8388608 bytes"),
    "empty": (bytes(4), "expected"),
    "tag": (b"\0\0\0\4\7\0\0\0", "expected"),
    "byte": (reply_of(1) + b"x", "expected one response, found 1 more bytes"),
    "two": (reply_of(1) * 2, "expected one response, found .* more bytes"),
    "5 KB": (reply_of("y" * 5000) + b"x", "found 1 more bytes"),
    "100 KB": (reply_of("y" * 100_000) + b"x", "found 1 more bytes"),
}


@rows("written, text", MALFORMED)
def test_a_malformed_reply_is_raised_and_ends_the_executor(start_fake, written, text):
    handle = start_fake(f"write({written!r}); wait()")
    with pytest.raises(ProtocolError, match=text):
        run(handle, "t")
    assert_ended(handle)


# ------------------------------------------------------------------ timeouts, crashes


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
        "wait(1)",
        "write(REPLY[:3]); wait(1)",
        "write(REPLY[:20]); wait(1)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); wait(1)",
        "os.close(1); wait()",
        # These end within a timeout that starts anew with each event.
        "read(size)\nfor byte in REPLY: write(bytes([byte])); time.sleep(0.05)",
        "for _ in range(40): read(size // 40); time.sleep(0.05)\nwrite(REPLY)",
        "write(REPLY[:20]); time.sleep(0.2); os.close(1); time.sleep(2); os._exit(7)",
    ],
)
def test_one_timeout_holds_for_everything(start_fake, script):
    handle = start_fake(script)
    with pytest.raises(TaskTimeout):
        run(handle, "t", LARGE, timeout=0.8)
    assert_ended(handle)


CRASHES = """
exit with 0   | exiting  | _exit:0   | 0    | None
exit with 255 | exiting  | _exit:255 | 255  | None
SIGINT        | crashing | raise:2   | None | SIGINT
SIGABRT       | crashing | raise:6   | None | SIGABRT
SIGKILL       | crashing | raise:9   | None | SIGKILL
real time     | crashing | raise:40  | None | signal 40
"""


@rows("package, task, exit_code, name", CRASHES)
def test_a_crash_has_an_exit_code_or_a_signal(start, package, task, exit_code, name):
    before = open_files()
    handle = start()
    with pytest.raises(ExecutorCrash, match=name or f"exit code {exit_code}") as raised:
        run(handle, task, package=package)
    copied = pickle.loads(pickle.dumps(raised.value))
    for crash in (raised.value, copied):
        assert (crash.exit_code, crash.signal) == (exit_code, name)
    assert open_files() == before
    assert_ended(handle)


@pytest.mark.parametrize("size", [0, 1, 4, 20])
@pytest.mark.parametrize("unread", ["pass", "os.close(0)", "read(100000); os.close(0)"])
def test_a_crash_is_the_same_wherever_the_exchange_was(start_fake, unread, size):
    handle = start_fake(f"{unread}; write(REPLY[:{size}]); os._exit(5)")
    with pytest.raises(ExecutorCrash, match="exit code 5"):
        run(handle, "t", LARGE)
    assert_ended(handle)


@rows(
    "value",
    {
        "small": "small",
        "large": LARGE,
    },
)
def test_an_executor_that_ended_while_idle_has_crashed(start, value):
    handle = start()
    os.kill(handle.pid, signal.SIGTERM)
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(ExecutorCrash, match="SIGTERM"):
        run(handle, "sleep_and_echo", value)
    assert_ended(handle)


def test_an_executor_that_closes_its_stdout_may_take_a_while(start_fake):
    handle = start_fake("os.close(1); time.sleep(1); os._exit(3)")
    with pytest.raises(ExecutorCrash, match="exit code 3"):
        handle.execute("p", "t")


def test_an_executor_that_the_handle_had_to_kill_did_not_crash(start_fake):
    handle = start_fake("os.close(1); wait()")
    with pytest.raises(TaskTimeout, match="closed its stdout"):
        handle.execute("p", "t")
    assert_ended(handle)


# -------------------------------------------------------------------------- threads


@pytest.fixture
def busy(start_fake, tmp_path):
    """A handle that a thread uses, the thread's future, and a file that ends the task.

    The executor also ends the task when its input ends.
    """
    asked, told = tmp_path / "asked", tmp_path / "told"
    handle = start_fake(f"""
os.mkdir({str(asked)!r})
end = select.poll()
end.register(0, select.POLLHUP)
read(size)
while not os.path.exists({str(told)!r}):
    if end.poll(10):
        sys.exit(1)
write(REPLY)
wait()
""")
    with ThreadPoolExecutor() as pool:
        future = pool.submit(run, handle, "t", "first")
        try:
            executor.wait_for(asked.exists, "the request to arrive")
            yield handle, future, told
        finally:
            told.touch()


def test_a_second_caller_gets_an_error_and_the_first_its_reply(busy):
    handle, future, told = busy
    for call in (lambda: run(handle, "t", "second"), handle.close):
        with pytest.raises(RuntimeError, match="another thread"):
            call()
    told.touch()
    assert future.result() == ANSWER


def end_block(handle):
    with handle:
        pass


@rows("end", {"kill": ExecutorHandle.kill, "block": end_block})
def test_kill_and_the_end_of_a_block_end_a_request(busy, end):
    handle, future, _ = busy
    end(handle)
    with pytest.raises(ExecutorCrash, match="SIGKILL"):
        future.result()
    assert_ended(handle)


def test_a_block_under_asyncio_can_be_given_up(start):
    async def give_up(pool):
        with start() as handle:
            call = (handle.execute, "crashing", "hang")
            request = asyncio.get_running_loop().run_in_executor(pool, *call)
            await asyncio.wait_for(request, 0.3)

    with ThreadPoolExecutor() as pool, pytest.raises(asyncio.TimeoutError):
        asyncio.run(give_up(pool))


def test_kill_ends_an_idle_executor_and_can_be_repeated(start):
    handle = start()
    before = open_files()
    handle.kill()
    assert len(before - open_files()) == 2
    handle.kill()
    assert_ended(handle)
    assert handle.close() == -signal.SIGKILL


def test_a_signal_handler_may_kill_the_executor_of_its_thread(start_fake):
    handle = start_fake("os.kill(os.getppid(), signal.SIGUSR1); wait()")
    before = signal.signal(signal.SIGUSR1, lambda *_: handle.kill())
    try:
        with pytest.raises(ExecutorCrash, match="SIGKILL"):
            run(handle, "t")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert_ended(handle)


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


# ------------------------------------------------------------------------------ end


def test_close_sends_shutdown_and_waits_for_the_exit_code(start, tmp_path):
    """It takes longer than an impatient handle would wait."""
    got = tmp_path / "got"
    handle = start([
        *PYTHON,
        "import sys, time; data = sys.stdin.buffer.read(); time.sleep(1);"
        f" open({str(got)!r}, 'wb').write(data); sys.exit(4)",
    ])  # fmt: skip
    assert handle.close() == 4
    assert got.read_bytes() == executor.SHUTDOWN
    assert_ended(handle)


def test_close_lets_the_executor_end_by_itself(
    executor_command, build_package, tmp_path
):
    build.stage(tmp_path, "odd", odd.build(build_package))
    trace = odd.Trace(tmp_path)
    env = {**os.environ, **trace.env}
    with ExecutorHandle(tmp_path, executor_command, env) as handle:
        handle.request(Execute("odd", "inputs", b"", b""), executor.DEADLINE)
    assert trace.take()[-1] == "unload"
    assert handle.close() == handle.close() == 0
    assert_ended(handle)


@rows(
    "script, status",
    {"exit": ("sys.exit(6)", 6), "signal": ("os.kill(os.getpid(), 15)", -15)},
)
def test_close_of_an_ended_executor_returns_its_status(start, script, status):
    handle = start([*PYTHON, f"import os, sys; {script}"])
    os.waitid(os.P_PID, handle.pid, os.WEXITED | os.WNOWAIT)
    assert handle.close() == handle.close() == status


def test_close_kills_an_executor_that_does_not_end(start_fake):
    handle = start_fake("wait(1)")
    assert handle.close(timeout=0.1) == -signal.SIGKILL
    assert_ended(handle)


@rows(
    "call", {"execute": lambda handle: run(handle, "t"), "close": ExecutorHandle.close}
)
def test_ctrl_c_ends_the_executor(start_fake, call):
    """Otherwise its late reply would be taken for that to the next request."""
    handle = start_fake("os.kill(os.getppid(), signal.SIGINT); wait(1)")
    with pytest.raises(KeyboardInterrupt):
        call(handle)
    assert_ended(handle)


def test_an_exception_in_the_block_ends_the_executor(start):
    handle = start()
    with pytest.raises(KeyError), handle:
        raise KeyError
    assert_ended(handle)


def test_a_handle_that_is_dropped_ends_the_executor(package_dir):
    handle = ExecutorHandle(package_dir, [*PYTHON, FAKE + "wait(1)"])
    assert run(handle, "t") == ANSWER
    pid = handle.pid
    del handle
    gc.collect()
    assert not os.path.exists(f"/proc/{pid}")


# ---------------------------------------------------------------------------- start


def test_a_handle_that_cannot_be_made_leaves_nothing(package_dir):
    with pytest.raises(FileNotFoundError, match="/nonexistent"):
        ExecutorHandle(package_dir, ["/nonexistent"])
    with pytest.raises(ValueError, match="log lines would break the protocol"):
        ExecutorHandle(package_dir, [sys.executable], stderr=subprocess.STDOUT)


def test_other_child_processes_do_not_inherit_the_pipes(start):
    listing = {"args": ["ls", "/proc/self/fd"], "close_fds": False}
    before = subprocess.check_output(**listing)
    start()
    assert subprocess.check_output(**listing) == before


@rows(
    "name, value",
    """
frozen   | frozen     | True
empty    | executable |
none     | executable | None
""",
)
def test_a_program_without_an_interpreter_needs_a_command(
    start, package_dir, monkeypatch, name, value
):
    monkeypatch.setattr(sys, name, value, raising=False)
    with pytest.raises(ValueError, match="command"):
        ExecutorHandle(package_dir)
    assert run(start(), "fibonacci", 10) == [55]


ENVIRONMENTS = {
    "str": (str, {}),
    "bytes": (os.fsencode, {"A": "1"}),
    "path": (Path, {"SPIDER_TDL_PACKAGE_DIR": "/"}),
}


@rows("as_type, env", ENVIRONMENTS)
def test_the_environment_is_replaced_and_has_the_directory(
    executor_command, package_dir, as_type, env
):
    before = dict(env)
    with ExecutorHandle(as_type(package_dir), executor_command, env) as handle:
        (lines,) = run(handle, "environment", package="process")
    expected = {**env, "SPIDER_TDL_PACKAGE_DIR": str(package_dir)}
    assert dict(line.split("=", 1) for line in lines.splitlines()) == expected
    assert env == before


def test_stderr_goes_where_the_caller_says(executor_command, package_dir, tmp_path):
    env = {**os.environ, "RUST_LOG": "info"}
    path = tmp_path / "log"
    with path.open("wb") as log, ExecutorHandle(
        package_dir, executor_command, env, log
    ) as handle:
        assert handle.stderr is None
    assert b"Executor exits." in path.read_bytes()


def test_a_stderr_pipe_can_be_read_after_the_end(executor_command, package_dir):
    env = {**os.environ, "RUST_LOG": "info"}
    with ExecutorHandle(package_dir, executor_command, env, subprocess.PIPE) as handle:
        assert run(handle, "fibonacci", 10) == [55]
    with handle.stderr:
        assert b"Executor exits." in handle.stderr.read()


@pytest.mark.ours
def test_the_default_command_is_this_program(package_dir):
    with ExecutorHandle(package_dir) as handle:
        assert run(handle, "fibonacci", 10) == [55]
        with open(f"/proc/{handle.pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")[:-1]
    assert list(map(os.fsdecode, arguments)) == spider_executor.own_command()


# ------------------------------------------------------------------- other programs


@pytest.fixture
def program(executor_command, package_dir, tmp_path):
    """Run a program that uses handles. Return its exit status and what it said."""

    def program(script, before="", command=executor_command):
        said = tmp_path / "said"
        said.touch()
        text = f"""
import gc, os, signal, subprocess, sys, threading
sys.path.insert(0, {str(build.ROOT)!r})
{before}
from spider_executor import ExecutorCrash, ExecutorHandle
said = os.open({str(said)!r}, os.O_WRONLY)
def say(*values):
    os.write(said, " ".join(map(str, values)).encode() + b"\\n")
def make(stderr=subprocess.DEVNULL):
    return ExecutorHandle({str(package_dir)!r}, {command!r}, stderr=stderr)
def run(handle, package={TASKS!r}, task="fibonacci"):
    return handle.execute(package, task, 10, timeout={executor.DEADLINE})
def crash(handle):
    try:
        run(handle, "crashing", "raise:6")
    except ExecutorCrash as error:
        say(error, error.exit_code, error.signal)
{script}
"""
        command = [sys.executable, "-Werror", "-c", text]
        options = {"timeout": executor.DEADLINE, "cwd": build.ROOT}
        done = subprocess.run(command, stderr=subprocess.PIPE, **options)
        assert done.stderr == b""
        return done.returncode, said.read_text()

    return program


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_pipes_are_above_2_if_standard_streams_are_closed(program, closed):
    """Several threads make handles at the same time, and take a while."""
    script = f"""
import time
pipe = os.pipe
os.pipe = lambda: (time.sleep(0.05), pipe())[1]
for fd in {closed}:
    os.close(fd)
handles = []
make_one = lambda: handles.append(make(subprocess.PIPE))
threads = [threading.Thread(target=make_one) for _ in range(4)]
for thread in threads:
    thread.start()
    time.sleep(0.03)
for thread in threads:
    thread.join()
for fd in {closed}:
    try:
        say(os.fstat(fd))
    except OSError as error:
        say(error.errno)
for handle in handles:
    say(run(handle))
    handle.stderr.close()
    handle.close()
"""
    assert program(script) == (0, "9\n" * len(closed) + "[55]\n" * 4)


def test_no_descriptor_is_lost_near_the_limit(program):
    script = """
import resource
make().close()
limits = resource.getrlimit(resource.RLIMIT_NOFILE)
for limit in range(4, 20):
    made = False
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limits[1]))
    try:
        handle = make(subprocess.PIPE)
        made = True
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    if made:
        handle.stderr.close()
        handle.close()
    say(limit, made, len(os.listdir("/proc/self/fd")))
"""
    status, said = program(script)
    lines = [line.split() for line in said.splitlines()]
    assert (status, lines[0][1], lines[-1][1]) == (0, "False", "True")
    assert {files for _, _, files in lines} == {lines[-1][2]}


def test_a_lost_exit_status_is_no_exit_code(program):
    """The system keeps none for a program that ignores SIGCHLD."""
    ignore = "signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
    status, said = program("crash(make()); say(make().close())", ignore)
    assert status == 0
    assert "its exit status is lost, because this program ignores SIGCHLD" in said
    assert said.endswith(" None None\nNone\n")


@pytest.mark.ours
def test_a_relative_path_of_the_modules_may_be_left(program, tmp_path):
    """Only in an archive are the paths of modules relative."""
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        for name in ("protocol.py", "spider_executor.py"):
            archive.write(build.ROOT / name, name)
    leave = f"""
os.chdir({str(tmp_path)!r})
sys.path[0] = "archive"
import spider_executor
os.chdir("/")
"""
    script = "with make() as handle: say(run(handle))"
    assert program(script, leave, command=None) == (0, "[55]\n")


@rows(
    "last, said",
    r"""
execute | say(run(handle)) | `'[55]\n'`
crash   | crash(handle)    | `'the executor was killed by SIGABRT None SIGABRT\n'`
""",
)
def test_a_generator_may_end_with_the_interpreter(program, last, said):
    script = f"""
def generate():
    with make() as handle:
        try:
            yield
        finally:
            {last}
generator = generate()
next(generator)
"""
    assert program(script) == (0, said)


@rows(
    "action, said",
    r"""
keep    | pass                           |
drop    | del handle; gc.collect()       |
kill    | handle.kill()                  |
block   | with handle: pass              |
close   | say(handle.close())            | `"None\n"`
execute | `"try: run(handle)\n    except RuntimeError as error: say(error)"`
  | `"this handle belongs to the process that made it;"
     " spawn another executor in this one\n"`
""",
)
def test_a_fork_of_the_program_can_only_let_go(program, action, said):
    """It neither ends the executor nor talks to it, and close does not wait for it."""
    script = f"""
handle = make()
if not (sibling := os.fork()):
    {action}
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(sibling, os.WUNTRACED)
say(run(handle), handle.close())
os.kill(sibling, signal.SIGKILL)
os.waitpid(sibling, 0)
"""
    assert program(script) == (0, f"{said}[55] 0\n")


def test_a_fork_beside_a_busy_thread_lets_go(program):
    script = """
import time, warnings
warnings.simplefilter("ignore")  # CPython warns of forks in programs with threads.
def hang():
    try:
        run(handle, "crashing", "hang")
    except ExecutorCrash:
        say("crash")
def count():
    return len(os.listdir("/proc/self/fd"))
handle = make()
thread = threading.Thread(target=hang)
thread.start()
time.sleep(0.3)
if not (sibling := os.fork()):
    before = count()
    handle.close()
    say(before - count())
    os._exit(0)
os.waitpid(sibling, 0)
handle.kill()
thread.join()
"""
    assert program(script) == (0, "2\ncrash\n")


@rows(
    "end, status",
    r"""
end    |                                | 0
exit   | `'def inner(handle): raise SystemExit(4)\ninner(handle)'` | 4
cycle  | handle.itself = handle         | 0
thread | threading.Thread(target=sys.exit).start() | 0
""",
)
def test_a_program_that_ends_without_close_kills_its_executor(program, end, status):
    """This executor would go on for a minute."""
    script = f"handle = make(); run(handle); say(handle.pid)\n{end}"
    command = [*PYTHON, FAKE + "time.sleep(60)"]
    found, said = program(script, command=command)
    assert found == status
    executor.wait_for(lambda: process.is_gone(int(said)), "the executor to end")
