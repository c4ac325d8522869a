"""Tasks that print, fork, crash, hang, leave things behind, or return odd buffers: the parent must see the truth."""

from __future__ import annotations

import os
import resource
import signal

import pytest
from helpers import build, executor, process

import protocol
from protocol import (
    Custom,
    ErrorPayloadDeserializationFailure,
    Failure,
    SerializationError,
    Success,
    TaskError,
    TaskNotFound,
)
from spider_executor import TaskCrash, TaskSuccess, TaskTimeout

# The largest outputs that fit a response.
OUTPUTS_MAX = protocol.FRAME_BODY_MAX - protocol.RESPONSE_OVERHEAD


@pytest.fixture
def start(spawn):
    return spawn


needs_cxx = pytest.mark.skipif(build.CXX is None, reason="there is no C++ compiler")


# ---------------------------------------------------------------------------------------------------- print and read


@pytest.mark.ours
@pytest.mark.parametrize(
    ("package", "task", "text"),
    [
        ("descriptors", "print:1", "printed line 0\n"),
        ("descriptors", "print_unflushed", "unflushed"),
        ("descriptors", "write:1", "written\n"),
        pytest.param("cxx", "print:1", "streamed line 0\n", marks=needs_cxx),
        pytest.param("cxx", "print_unflushed", "unflushed", marks=needs_cxx),
    ],
)
def test_what_a_task_prints_is_in_stderr_when_its_reply_is_there(start, package, task, text):
    child = start()
    assert child.call(package, task) in ([1], [0])
    assert child.stderr() == text
    assert child.serves()
    assert child.finish() == (b"", 0)
    assert child.stderr() == text


@pytest.mark.ours
@pytest.mark.parametrize("package", ["descriptors", pytest.param("cxx", marks=needs_cxx)])
def test_megabytes_printed(start, package):
    child = start()
    assert child.call(package, "print:200000") == [200000]
    lines = child.stderr().splitlines()
    assert len(lines) == 200000
    assert lines[-1].endswith("line 199999")
    assert child.serves()


@pytest.mark.ours
def test_what_a_task_printed_survives_its_crash(start):
    child = start()
    child.send(executor.request("descriptors", "print_and_crash"))
    assert child.read_to_end() == (b"", -signal.SIGABRT)
    assert "last words" in child.stderr()


@pytest.mark.ours
def test_stdin_is_at_its_end_for_a_task(start):
    child = start()
    assert child.call("descriptors", "read_stdin") == [1]
    assert child.serves()


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("close_standard", marks=pytest.mark.ours),
        pytest.param("close_stdio", marks=pytest.mark.ours),
        pytest.param("dup_over_standard", marks=pytest.mark.ours),
        pytest.param("non_blocking", marks=pytest.mark.ours),
        "close_below:1024",
    ],
)
def test_descriptors_may_be_lost(start, task):
    child = start()
    assert child.call("descriptors", task) == [1]
    assert child.serves()
    large = "x" * 5_000_000
    assert child.call("buffers", "echo", large) == [large]
    assert child.call("odd", "answer") == [1]  # loaded only now
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_logs_are_written_after_descriptors_are_lost(start):
    child = start(env={"RUST_LOG": "info"})
    assert child.call("descriptors", "close_standard") == [1]
    assert child.call("descriptors", "close_below:1024") == [1]
    assert child.finish() == (b"", 0)
    assert child.log_lines()[-1]["fields"]["message"] == "Executor exits."


@pytest.mark.ours
def test_a_task_that_closes_the_pipes_themselves(start):
    child = start()
    child.send(executor.request("descriptors", "close_below:20000"))
    assert child.read_to_end() == (b"", 1)


# -------------------------------------------------------------------------------------------------------------- fork


@pytest.fixture
def group(start):
    """An executor that leads a process group, which is ended with all that tasks have left in it."""
    child = start(start_new_session=True)
    yield child
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.ours
def test_a_child_that_returns_into_the_executor_is_ended(group):
    assert group.call("forking", "return_twice") == [1]  # the child's exit status
    assert group.serves()
    assert group.finish() == (b"", 0)
    (error,) = group.errors()
    assert error["fields"]["message"].startswith("A process that a task forked returned into the executor")


@pytest.mark.ours
def test_a_child_of_the_system_call_that_returns_is_ended(group):
    assert group.call("forking", "return_twice_by_clone") == [1]
    assert group.serves()
    assert group.finish() == (b"", 0)
    (error,) = group.errors()
    assert error["fields"]["message"].startswith("A process that a task forked returned into the executor")


@pytest.mark.parametrize("task", ["fork_twice", "close_and_fork"])
def test_a_childs_child(group, task):
    assert group.call("forking", task) == [0]
    assert group.serves()
    assert group.finish() == (b"", 0)
    assert group.stderr() == ""


@pytest.mark.parametrize("status", [0, 5])
def test_a_child_may_exit(group, status):
    assert group.call("forking", f"exit_in_child:{status}") == [status]
    assert group.serves()
    assert group.finish() == (b"", 0)
    assert group.stderr() == ""


@pytest.mark.ours
@pytest.mark.parametrize("task", ["leave_child", "leave_program"])
def test_what_outlives_a_crashed_executor_does_not_delay_the_end(group, task):
    group.send(executor.request("forking", task + "_and_crash"))
    assert group.read_to_end() == (b"", -signal.SIGABRT)
    os.killpg(group.pid, 0)  # it did outlive it


@pytest.mark.ours
@pytest.mark.parametrize("task", ["leave_child", "leave_program"])
def test_what_outlives_a_killed_executor_does_not_delay_the_end(group, task):
    (left,) = group.call("forking", task)
    os.kill(group.pid, signal.SIGKILL)
    assert group.read_to_end() == (b"", -signal.SIGKILL)
    os.kill(left, 0)


@pytest.mark.ours
def test_a_program_inherits_no_pipe(start):
    child = start()
    for how in (0, 1):
        (lines,) = child.call("descriptors", f"list_of_child:{how}")
        assert "pipe:" not in lines
        assert [line.split()[0] for line in lines.splitlines()] == ["0", "1", "2"]


def test_a_thread_forks_while_requests_are_served(group):
    assert group.call("forking", "start_forking:1") == [1]
    request = executor.request("buffers", "echo")
    for _ in range(50):
        (forks,) = group.call("forking", "count_forks")
        group.exchange(request * 200, 32 * 200)
        executor.wait_for(lambda before=forks: group.call("forking", "count_forks") > [before], "a fork")
    assert group.call("forking", "stop_forking") == [0]
    assert group.finish() == (b"", 0)


# ------------------------------------------------------------------------------------------------------------- crash

CRASHES = [
    ("crashing", "sigsegv", signal.SIGSEGV),
    ("crashing", "sigabrt", signal.SIGABRT),
    ("crashing", "sigbus", signal.SIGBUS),
    ("crashing", "sigfpe", signal.SIGFPE),
    pytest.param("crashing", "stack_overflow", signal.SIGSEGV, marks=pytest.mark.ours),
    ("crashing", f"raise:{int(signal.SIGILL)}", signal.SIGILL),
    ("crashing", "crash_in_a_thread", signal.SIGSEGV),
    pytest.param("cxx", "uncaught", signal.SIGABRT, marks=needs_cxx),
    pytest.param("cxx", "forget_thread", signal.SIGABRT, marks=needs_cxx),
]


@pytest.mark.parametrize(("package", "task", "number"), [*CRASHES, ("crashing", "raise:9", signal.SIGKILL)])
def test_the_exit_status_tells_what_killed_the_executor(start, package, task, number):
    child = start()
    assert child.serves()
    child.send(executor.request(package, task))
    assert child.read_to_end() == (b"", -number)


@pytest.mark.ours
@pytest.mark.parametrize(("package", "task", "number"), CRASHES)
def test_a_crash_names_package_and_task(start, package, task, number):
    child = start()
    child.send(executor.request(package, task))
    assert child.read_to_end() == (b"", -number)
    assert f"in {package}::{task}\n" in child.stderr()


@pytest.mark.ours
def test_a_crash_names_the_task_at_fault_and_no_other(start):
    child = start()
    for _ in range(3):
        assert child.call("descriptors", "print_unflushed") == [1]
        assert child.call("crashing", "no_such_task") == TaskError(TaskNotFound("no_such_task"))
    child.send(executor.request("crashing", "sigsegv"))
    child.read_to_end()
    assert child.stderr().count("::") == 1


@pytest.mark.ours
def test_a_crash_of_a_task_that_took_the_signals_away(start):
    child = start()
    assert child.call("signals", "restore_defaults") == [1]
    child.send(executor.request("crashing", "sigsegv"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)


@pytest.mark.ours
@pytest.mark.parametrize(("task", "status"), [("exit:0", 0), ("exit:3", 3), ("exit_from_a_thread:0", 0)])
def test_exit_in_a_task_is_no_clean_end(start, task, status):
    child = start()
    child.send(executor.request("exiting" if "exit" in task else "crashing", task))
    assert child.read_to_end() == (b"", 1)
    (error,) = child.log_lines()
    assert error["level"] == "ERROR"
    assert error["fields"] == {"message": f"exit({status}) was called by native code.", "task": f"exiting::{task}"}


@pytest.mark.parametrize("status", [0, 7])
def test__exit_in_a_task_is_the_end_at_once(start, status):
    child = start()
    child.send(executor.request("exiting", f"_exit:{status}"))
    assert child.read_to_end() == (b"", status)


@pytest.mark.parametrize("task", ["sigsegv", "exit:0", "_exit:0"])
def test_the_handle_reports_a_crash(handle, task):
    outcome = handle.execute("exiting" if "exit" in task else "crashing", task, timeout=executor.DEADLINE)
    assert isinstance(outcome, TaskCrash)


# ------------------------------------------------------------------------------------------------------------- leave


@pytest.mark.parametrize(
    "task",
    [
        "threads:8",
        "block_all",
        # Spider's executor unloads the package before it exits, and the next signal's handler is gone.
        pytest.param("interrupt", marks=pytest.mark.ours),
        pytest.param("change_directory", marks=pytest.mark.ours),
        "change_environment",
        "clear_environment",
        "change_umask",
        "change_locale",
        "restore_defaults",
        *(
            pytest.param(f"limit:{getattr(resource, name)}", id=name)
            for name in ("RLIMIT_CORE", "RLIMIT_FSIZE", "RLIMIT_MEMLOCK", "RLIMIT_NPROC")
        ),
        *(
            pytest.param(f"limit:{getattr(resource, name)}", id=name, marks=pytest.mark.ours)
            for name in ("RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_NOFILE", "RLIMIT_STACK")
        ),
    ],
)
def test_what_a_task_leaves_behind_does_not_matter_to_the_next(start, package_dir, task):
    # A relative directory, to which the process's own no longer leads when it has changed it.
    child = start(package_dir.name, cwd=str(package_dir.parent))
    package = "signals" if task in ("block_all", "interrupt", "restore_defaults") else "process"
    assert child.call(package, task) == [1]
    for _ in range(100):
        assert child.serves()
    assert child.call("odd", "answer") == [1]  # loaded only now
    assert isinstance(child.call("missing", "task"), protocol.InvalidLibrary)
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.ours
def test_a_signal_that_a_thread_of_the_executors_handles_is_no_vanished_parent(start):
    child = start()
    # The main thread takes no signals any more, so the timer's go to the one that watches for the parent.
    assert child.call("signals", "block_all") == [1]
    assert child.call("signals", "interrupt") == [1]
    assert child.call("integration_test_tasks", "fibonacci", 34) == [5702887]
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


def test_the_parent_can_still_end_an_executor_whose_signals_are_blocked(start):
    child = start()
    assert child.call("signals", "block_all") == [1]
    assert child.serves()
    child.process.kill()
    assert child.read_to_end() == (b"", -signal.SIGKILL)


# ----------------------------------------------------------------------------------------------------------- buffers


def reply(child, task, raw_inputs=b"\0\0\0\0"):
    """The outcome of a task of `buffers`, undecoded."""
    request = protocol.Execute("buffers", task, protocol.TaskContext().encode(), raw_inputs)
    child.send(protocol.encode_frame(protocol.encode_request(request)))
    return child.receive().outcome


def error_of(outcome):
    assert isinstance(outcome, Failure)
    error, end = protocol.decode_executor_error(outcome.error)
    assert end == len(outcome.error)
    return error


@pytest.mark.parametrize("task", ["empty_dangling", "empty_null"])
def test_outputs_of_no_bytes(start, task):
    child = start()
    for _ in range(3):
        assert reply(child, task) == Success(b"")
    assert child.serves()


@pytest.mark.parametrize("task", ["empty_error_dangling", "empty_error_null"])
def test_an_error_of_no_bytes(start, task):
    child = start()
    for _ in range(3):
        assert isinstance(error_of(reply(child, task)), ErrorPayloadDeserializationFailure)
    assert child.serves()


@pytest.mark.ours
def test_null_pointers_with_a_length(start):
    child = start()
    error = error_of(reply(child, "null_with_length:5"))
    assert error == TaskError(SerializationError("the task returned a NULL pointer as outputs of 5 bytes"))
    assert isinstance(error_of(reply(child, "null_error_with_length:5")), ErrorPayloadDeserializationFailure)
    assert child.serves()


@pytest.mark.parametrize(
    "is_error",
    [1, *(pytest.param(value, marks=pytest.mark.ours) for value in (2, 128, 255))],
)
def test_is_error_is_any_byte_but_0(start, is_error):
    child = start()
    error = protocol.pack({"Custom": "text"})
    assert error_of(reply(child, f"echo_error:{is_error}", error)) == TaskError(Custom("text"))
    assert reply(child, "echo_error:0", error) == Success(error)
    assert child.serves()


@pytest.mark.parametrize(
    "error",
    [
        b"\xc1",
        b"\x00",
        b"\xc0",
        b"\xff" * 1000,
        b"\x81\xa6Custom\xdb\xff\xff\xff\xff",
        b"\x81\xa6Custom\xa2\xff\xfe",
        protocol.pack("Custom"),
        protocol.pack(["Custom", "text"]),
        protocol.pack({"Unknown": "text"}),
        protocol.pack({"custom": "text"}),
        protocol.pack({"Custom": "text", "ExecutionError": "text"}),
        protocol.pack({"Custom": 5}),
        protocol.pack({9: "text"}),
        b"\x91" * 100_000,
    ],
    ids=lambda error: error[:12].hex(),
)
def test_an_error_that_is_no_tdl_error(start, error):
    child = start()
    assert isinstance(error_of(reply(child, "echo_error:1", error)), ErrorPayloadDeserializationFailure)
    assert child.serves()


def test_outputs_of_the_largest_size(start):
    child = start()
    outcome = reply(child, f"zeros:{OUTPUTS_MAX}")
    assert outcome == Success(bytes(OUTPUTS_MAX))
    assert child.serves()


@pytest.mark.ours
@pytest.mark.parametrize("size", [OUTPUTS_MAX + 1, 64 << 20])
def test_outputs_that_are_too_large(start, size):
    child = start()
    error = error_of(reply(child, f"zeros:{size}"))
    assert isinstance(error, TaskError)
    assert isinstance(error.error, SerializationError)
    assert str(size) in error.error.text
    assert str(OUTPUTS_MAX) in error.error.text
    assert child.serves()


@pytest.mark.ours
@pytest.mark.parametrize("size", [OUTPUTS_MAX, 10 << 20, 64 << 20])
def test_an_error_that_is_too_large(start, size):
    child = start()
    error = error_of(reply(child, f"error_of_size:{size + 13}"))
    assert isinstance(error, TaskError)
    assert isinstance(error.error, SerializationError)
    assert str(OUTPUTS_MAX) in error.error.text
    assert child.serves()


def test_an_error_of_five_megabytes(start):
    child = start()
    assert error_of(reply(child, "error_of_size:5000013")) == TaskError(Custom("e" * 5_000_000))
    assert child.serves()


@pytest.mark.ours
def test_a_length_that_no_buffer_has(start):
    child = start()
    error = error_of(reply(child, "endless_outputs:0"))
    assert isinstance(error, TaskError)
    assert isinstance(error.error, SerializationError)
    assert str((1 << 64) - 1) in error.error.text
    assert isinstance(error_of(reply(child, "endless_outputs:1")), ErrorPayloadDeserializationFailure)
    assert child.serves()


@pytest.mark.ours
def test_nothing_leaks(start):
    """Every way in which a task's buffer is taken, over and over, with room for four more megabytes."""
    context = protocol.TaskContext().encode()

    def request(package, task, raw_inputs=b"\0\0\0\0"):
        body = protocol.encode_request(protocol.Execute(package, task, context, raw_inputs))
        return protocol.encode_frame(body)

    child = start()
    requests = [
        request("buffers", "zeros:1000"),
        request("buffers", "zeros:5000"),
        request("buffers", "echo", bytes(100)),
        request("buffers", "echo_error:1", protocol.pack({"Custom": "text"})),
        request("buffers", "echo_error:1", b"garbage"),
        request("buffers", "empty_dangling"),
        request("buffers", "no_such_task"),
    ]
    sizes = []
    for frame in requests:
        child.send(frame)
        sizes.append(len(protocol.encode_response(child.receive())) + protocol.FRAME_HEADER_SIZE)
    child.exchange(b"".join(requests) * 100, sum(sizes) * 100)

    process.limit_memory(child.pid, 4 << 20)
    chunk = 500
    for _ in range(200_000 // (len(requests) * chunk)):
        child.exchange(b"".join(requests) * chunk, sum(sizes) * chunk)
    for _ in range(1000):
        assert isinstance(child.call("missing", "task"), protocol.InvalidLibrary)
        assert len(reply(child, "zeros:3000000").outputs) == 3_000_000
    assert child.finish() == (b"", 0)
    assert child.errors() == []


# -------------------------------------------------------------------------------------------------------------- hang


@pytest.mark.parametrize("task", ["hang", "spin"])
def test_a_task_that_hangs_is_a_timeout(handle, task):
    assert isinstance(handle.execute("buffers", "echo", 1, timeout=executor.DEADLINE), TaskSuccess)
    assert handle.execute("crashing", task, timeout=0.2) == TaskTimeout(0.2)
    assert process.is_gone(handle.pid)
