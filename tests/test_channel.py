"""The pipes to the parent: frames however they arrive, the pipes' sizes, descriptors, and parents that go away."""

import array
import errno
import fcntl
import os
import random
import resource
import select
import socket
import struct
import termios
import tty

import pytest
from helpers import build, executor, preload, process
from helpers.executor import request

import protocol
from protocol import FRAME_BODY_MAX, Success

ECHO = request("buffers", "echo", 7)
ECHO_REPLY_SIZE = len(
    protocol.encode_frame(
        protocol.encode_response(protocol.Result(Success(bytes(9)), 0))
    )
)
F_GETPIPE_SZ = 1032


def cannot_start(child):
    assert child.wait() == 1
    assert child.only_error()["message"] == "The executor cannot start."
    return child.only_error()["err"]


# --------------------------------------------------------------------------------------------------------------- frames


def send_and_drain(child, data):
    """Send `data` and wait until the executor has read all of it."""
    child.send(data)
    left = array.array("i", [0])

    def is_empty():
        fcntl.ioctl(child.process.stdin.fileno(), termios.FIONREAD, left)
        return left[0] == 0

    executor.wait_for(is_empty, "the executor to read its input")


def test_the_bytes_of_a_response(spawn):
    output, status = spawn().finish(request("integration_test_tasks", "fibonacci", 10))
    assert output[:-8] == bytes.fromhex(
        "00000021 00000000 00000000 0900000000000000 010000000100000037"
    )
    assert (len(output), status) == (4 + 33, 0)


def test_two_frames_cut_at_any_byte(spawn):
    child = spawn()
    stream = ECHO + request("integration_test_tasks", "always_fail")
    for cut in range(1, len(stream)):
        send_and_drain(child, stream[:cut])
        if cut in (1, 4, 20):
            assert select.select([child.process.stdout], [], [], 0.1) == ([], [], [])
        child.send(stream[cut:])
        assert executor.outcome(child.receive()) == [7], cut
        assert executor.outcome(child.receive()).variant == "TaskError", cut
    assert child.finish() == (b"", 0)


def test_frames_that_arrive_and_are_read_byte_by_byte(spawn):
    child = spawn()
    for byte in ECHO * 2:
        send_and_drain(child, bytes([byte]))
    output = b"".join(child.read(1) for _ in range(2 * ECHO_REPLY_SIZE))
    assert executor.responses(output) == [[7], [7]]


def test_frames_of_many_sizes_up_to_the_largest(spawn):
    """Each by itself, then all of them at once. Outputs are copied up to 32 KiB, and a pipe holds 64 KiB."""
    child = spawn()
    around = len(executor.raw_request("buffers", "echo")) - protocol.FRAME_HEADER_SIZE
    # Random, so that a byte in a wrong place is seen.
    largest = (
        random.Random(1)
        .getrandbits(8 * (FRAME_BODY_MAX - around))
        .to_bytes(FRAME_BODY_MAX - around, "little")
    )
    assert executor.raw_request("buffers", "echo", largest)[:4] == bytes.fromhex(
        "00800000"
    )
    edges = [
        edge + step
        for edge in (32 << 10, 64 << 10, 256 << 10)
        for step in (-24, -1, 0, 1)
    ]
    inputs = [
        (bytes(range(251)) * (size // 251 + 1))[:size]
        for size in (4, 4000, *edges, 5, 3 << 20, 17, 1 << 20)
    ]
    inputs += [b"small", largest, largest, b"small"]
    for data in inputs:
        assert child.call_raw("buffers", "echo", data) == data
    output, status = child.finish(
        b"".join(executor.raw_request("buffers", "echo", data) for data in inputs)
    )
    for data in inputs:
        body, end = protocol.decode_frame(output)
        assert protocol.decode_response(body)[0].outcome == Success(data)
        output = output[end:]
    assert (output, status) == (b"", 0)


def test_a_hundred_thousand_pipelined_requests_are_answered_in_order(spawn):
    child = spawn()
    count, size = 100_000, 4 + 24 + 4
    requests = b"".join(
        executor.raw_request("buffers", "echo", struct.pack("<I", number))
        for number in range(count)
    )
    output = child.exchange(requests, size * count)
    numbers = [
        struct.unpack_from("<I", output, size * number + 20)[0]
        for number in range(count)
    ]
    assert numbers == list(range(count))
    assert child.finish() == (b"", 0)


# ---------------------------------------------------------------------------------------------------------------- pipes


@pytest.mark.ours
@pytest.mark.parametrize(
    ("task", "inputs_size", "grown"),
    [
        ("no_such_task", 0, (False, False)),
        ("no_such_task", (64 << 10) - 200, (False, False)),
        ("no_such_task", 100_000, (True, False)),
        ("zeros:65000", 0, (False, False)),
        ("zeros:100000", 0, (False, True)),
        ("echo", 3_000_000, (True, True)),
    ],
)
def test_a_pipe_grows_only_for_a_frame_that_does_not_fit(
    spawn, task, inputs_size, grown
):
    """All pipes of a user share a budget. Idle executors must leave it to others."""
    child = spawn()
    assert child.serves()
    child.call_raw("buffers", task, bytes(inputs_size))
    sizes = [
        fcntl.fcntl(stream, F_GETPIPE_SZ)
        for stream in (child.process.stdin, child.process.stdout)
    ]
    assert sizes == [256 << 10 if large else 64 << 10 for large in grown]
    assert child.serves()


@pytest.mark.ours
def test_pipes_that_do_not_block(spawn):
    input_fd, to_child = os.pipe()
    from_child, output_fd = os.pipe()
    os.set_blocking(input_fd, False)
    os.set_blocking(output_fd, False)
    child = spawn(stdin=input_fd, stdout=output_fd)
    os.close(input_fd)
    os.close(output_fd)
    with open(to_child, "wb", 0) as writer, open(from_child, "rb", 0) as reader:
        child.process.stdin, child.process.stdout = writer, reader
        for _ in range(2):
            assert select.select([reader], [], [], 0.1) == (
                [],
                [],
                [],
            )  # the executor waits, and does not end
            child.send(request("buffers", "zeros:4000000"))
            executor.wait_for(
                lambda: select.select([reader], [], [], 0)[0], "the first byte"
            )
            assert child.receive().outcome == Success(bytes(4_000_000))
        assert child.finish() == (b"", 0)


def test_a_socket(spawn):
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = spawn(stdin=theirs, stdout=theirs)
        child.process.stdin = child.process.stdout = ours
        for text in ("a", "b" * 3_000_000):
            assert child.call("buffers", "echo", text) == [text]
        ours.shutdown(socket.SHUT_WR)
        assert child.read_to_end() == (b"", 0)
    assert child.stderr() == ""


def test_regular_files(spawn, tmp_path):
    """The watchdog must not take a file for a parent that is gone: one task runs for a while."""
    frames = [request("buffers", "echo", number) for number in range(1000)]
    (tmp_path / "in").write_bytes(b"".join([*frames, request("process", "sleep:300")]))
    with open(tmp_path / "in", "rb") as requests, open(
        tmp_path / "out", "wb"
    ) as replies:
        child = spawn(stdin=requests, stdout=replies)
        assert child.wait() == 0
    expected = [[number] for number in range(1000)]
    assert executor.responses((tmp_path / "out").read_bytes()) == [*expected, [300]]
    assert child.stderr() == ""


@pytest.mark.ours
def test_a_terminal(spawn):
    """One WARN line, at any log level, tells a person what the executor waits for."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    child = spawn(stdin=theirs, env={"RUST_LOG": "off"})
    os.close(theirs)
    with open(ours, "wb", 0) as child.process.stdin:
        assert child.serves()
        (line,) = child.log_lines()
        assert line["level"] == "WARN"
        assert "--help" in line["fields"]["message"]
        child.send(b"help\r\n")
        assert child.read_to_end() == (b"", 1)


UNUSUAL = {
    "0</dev/null": None,
    "0</dev/full": "expected a request tag",
    "0</dev/zero": "expected a request tag",
    "0>/dev/null": os.strerror(errno.EBADF),
    "1>/dev/full": os.strerror(errno.ENOSPC),
    "1</dev/null": os.strerror(errno.EBADF),
}


@pytest.mark.ours
@pytest.mark.parametrize("redirection", UNUSUAL)
def test_unusual_files_as_stdin_or_stdout(spawn, redirection):
    child = spawn(shell=f'exec "$@" {redirection}')
    assert child.finish(ECHO) == (b"", 0 if UNUSUAL[redirection] is None else 1)
    assert (
        UNUSUAL[redirection] is None
        or UNUSUAL[redirection] in child.only_error()["err"]
    )


# ---------------------------------------------------------------------------------------------------------- descriptors


@pytest.mark.ours
@pytest.mark.parametrize("early_file", [False, True])
@pytest.mark.parametrize(
    ("closing", "name"), [("0<&-", "stdin"), ("1>&-", "stdout"), ("0<&- 1>&-", "stdin")]
)
def test_a_stream_that_is_closed_at_start_is_named(
    spawn, build_package, closing, name, early_file
):
    """Even if a library (libffi 3.5 and later) has opened a file of its own under that number."""
    env = preload.files(build_package, "early-file") if early_file else {}
    child = spawn(shell=f'exec "$@" {closing}', env=env)
    assert (
        cannot_start(child)
        == f"{name} is closed; expected a pipe from the execution manager"
    )


@pytest.mark.ours
@pytest.mark.parametrize("closing", ["0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_nobody_can_be_told(spawn, closing):
    child = spawn(shell=f'exec "$@" {closing}')
    assert child.read_to_end() == (b"", 1)
    assert child.stderr() == ""


@pytest.mark.ours
@pytest.mark.parametrize("limit", [5, 6, 7])
def test_no_free_descriptor(spawn, limit):
    reason = cannot_start(spawn(shell=f'ulimit -n {limit}; exec "$@"'))
    assert any(os.strerror(number) in reason for number in (errno.EMFILE, errno.EBADF))


@pytest.mark.ours
def test_no_dev_null(spawn, build_package):
    child = spawn(env=preload.files(build_package, "no-dev-null"))
    assert child.serves()
    assert child.call("descriptors", "read_stdin") == [1]
    assert child.call("descriptors", "print:1") == [1]
    assert child.finish() == (b"", 0)
    assert child.stderr() == "printed line 0\n"


@pytest.mark.ours
def test_without_stderr_prints_go_to_dev_null(spawn):
    """A file of a task, or of a program that it starts, must not become fd 2."""
    child = spawn(shell='exec "$@" 2>&-', env={"RUST_LOG": "trace"})
    for task in ("list", "list_of_child:0", "list_of_child:1"):
        (lines,) = child.call("descriptors", task)
        assert "2 /dev/null" in lines.splitlines()
    assert child.serves()
    child.send(request("exiting", "exit:0"))
    assert child.read_to_end() == (b"", 1)


@pytest.mark.ours
def test_tasks_and_the_programs_that_they_start_have_no_pipe_to_the_parent(spawn):
    """Their stdin is at its end, and their stdout is stderr."""
    child = spawn()
    assert child.call("descriptors", "read_stdin") == [1]
    pipes = {
        os.readlink(f"/proc/self/fd/{s.fileno()}")
        for s in (child.process.stdin, child.process.stdout)
    }
    for task in ("list", "list_of_child:0", "list_of_child:1"):
        found = dict(
            line.split(" ", 1)
            for line in child.call("descriptors", task)[0].splitlines()
        )
        assert found["1"] == found["2"]
        assert pipes.isdisjoint(found[fd] for fd in "012")
        assert task == "list" or sorted(found) == ["0", "1", "2"]


@pytest.mark.ours
@pytest.mark.parametrize(
    "limit", [100, 1024, resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
)
def test_the_private_descriptors_have_numbers_just_below_the_limit(spawn, limit):
    child = spawn(shell=f'ulimit -n {limit} && exec "$@"')
    assert child.serves()
    # libffi 3.5 and later opens a file of its own, which is fd 3.
    numbers = set(process.descriptors(child.pid)) - {0, 1, 2, 3}
    assert len(numbers) == 3
    assert min(numbers) >= min(limit, 4096) - 16
    assert child.call("descriptors", f"close_below:{min(limit, 4096) - 16}") == [1]
    assert child.call("odd", "answer") == [1]


def test_no_descriptor_stays_open(spawn):
    child = spawn()
    outcomes = [
        ("buffers", "echo"),
        ("buffers", "none"),
        ("none", "task"),
        ("../odd", "task"),
        ("odd", "answer"),
    ]
    for package, task in outcomes:
        child.call_raw(package, task)
    before = process.descriptors(child.pid)
    for number in range(50):
        for package, task in outcomes:
            child.call_raw(package, task)
        child.call_raw(f"none-{number}", "task")
    assert process.descriptors(child.pid) == before


@pytest.mark.ours
@pytest.mark.parametrize(
    "task",
    [
        "close_standard",
        "close_stdio",
        "dup_over_standard",
        "non_blocking",
        "close_below:48",
    ],
)
def test_what_a_task_does_to_its_descriptors_does_not_harm_the_channel(spawn, task):
    child = spawn(shell='ulimit -n 64; exec "$@"', env={"RUST_LOG": "info"})
    assert child.call("descriptors", task) == [1]
    assert child.serves()
    large = "x" * 5_000_000
    assert child.call("buffers", "echo", large) == [large]
    assert child.call("odd", "answer") == [1]  # loaded only now
    assert child.finish() == (b"", 0)
    assert child.log_lines()[-1]["fields"]["message"] == "Executor exits."


@pytest.mark.ours
def test_a_task_that_closes_every_descriptor_ends_the_executor(spawn):
    child = spawn()
    child.send(request("descriptors", "close_below:20000"))
    assert child.read_to_end() == (b"", 1)
    assert child.errors()  # through fd 2


@pytest.mark.ours
@pytest.mark.parametrize(
    ("package", "task", "text"),
    [
        ("descriptors", "print:1", "printed line 0\n"),
        ("descriptors", "print_unflushed", "unflushed"),
        ("descriptors", "write:1", "written\n"),
        pytest.param(
            "cxx", "print:1", "streamed line 0\n", marks=build.needs("C++ compiler")
        ),
        pytest.param(
            "cxx", "print_unflushed", "unflushed", marks=build.needs("C++ compiler")
        ),
    ],
)
def test_what_a_task_prints_is_in_stderr_before_its_reply(spawn, package, task, text):
    child = spawn()
    assert child.call(package, task) in ([1], [0])
    assert child.stderr() == text
    assert child.finish() == (b"", 0)
    assert child.stderr() == text


# --------------------------------------------------------------------------------------------------- parents that leave


def test_a_parent_that_stalls_loses_nothing(spawn):
    child = spawn()
    child.send((request("buffers", "zeros:3000000") + ECHO) * 3)
    child.send(ECHO[:30])
    executor.wait_for(
        lambda: select.select([child.process.stdout], [], [], 0)[0], "the first byte"
    )
    assert select.select([], [], [], 0.3) == ([], [], [])
    for _ in range(3):
        assert child.receive().outcome == Success(bytes(3_000_000))
        assert executor.outcome(child.receive()) == [7]
    child.send(ECHO[30:])
    assert executor.outcome(child.receive()) == [7]
    assert child.finish() == (b"", 0)


# What is sent, how many bytes of stdout are read before both pipes break, then the exit code and the messages that may
# say so: a task may be running at that moment.
GONE = "The parent is gone while a task runs."
VANISHED = {
    "between two frames": (ECHO, ECHO_REPLY_SIZE, 0, [[]]),
    "in a header": (
        ECHO + ECHO[:2],
        ECHO_REPLY_SIZE,
        1,
        [["Protocol error on stdin."]],
    ),
    "in a body": (ECHO + ECHO[:30], ECHO_REPLY_SIZE, 1, [["Protocol error on stdin."]]),
    "in a small reply": (
        ECHO * 2000,
        40,
        1,
        [["The parent no longer reads responses."], [GONE]],
    ),
    "in a large reply": (
        request("buffers", "zeros:8000000"),
        1000,
        1,
        [["The parent no longer reads responses."]],
    ),
}


@pytest.mark.ours
@pytest.mark.parametrize("kind", VANISHED)
def test_a_parent_vanishes(spawn, kind):
    """Its death closes the pipes. Nothing else of it is noticed."""
    sent, size, status, messages = VANISHED[kind]
    child = spawn()
    child.send(sent)
    child.read(size)
    child.close_output()
    child.close_input()
    assert child.wait() == status
    assert [error["fields"]["message"] for error in child.errors()] in messages
