"""The pipes to the parent: frames in any pieces, descriptors, and lost parents."""

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
from helpers import executor, preload, process
from helpers.executor import request
from helpers.rows import rows

import protocol
from protocol import FRAME_BODY_MAX, Success

ours = pytest.mark.ours
ECHO = request("buffers", "echo", 7)
RESULT = protocol.encode_response(protocol.Result(Success(bytes(9)), 0))
ECHO_REPLY_SIZE = len(protocol.encode_frame(RESULT))
F_GETPIPE_SZ = 1032


def cannot_start(child):
    """The reason why the executor did not start."""
    assert child.wait() == 1
    error = child.only_error()
    assert error["message"] == "The executor cannot start."
    return error["err"]


# ----------------------------------------------------------------------------- frames


def send_and_drain(child, data):
    """Send `data` and wait until the executor has read all of it."""
    child.send(data)
    left = array.array("i", [0])

    def is_empty():
        fcntl.ioctl(child.process.stdin.fileno(), termios.FIONREAD, left)
        return left[0] == 0

    executor.wait_for(is_empty, "the executor to read its input")


def has_output(child, seconds):
    return bool(select.select([child.process.stdout], [], [], seconds)[0])


def test_the_bytes_of_a_response(spawn):
    output, status = spawn().finish(request("integration_test_tasks", "fibonacci", 10))
    start = "00000021 00000000 00000000 0900000000000000 010000000100000037"
    assert output[:-8] == bytes.fromhex(start)
    assert (len(output), status) == (4 + 33, 0)


def test_two_frames_cut_at_any_byte(spawn):
    child = spawn()
    stream = ECHO + request("integration_test_tasks", "always_fail")
    for cut in range(1, len(stream)):
        send_and_drain(child, stream[:cut])
        assert cut not in (1, 4, 20) or not has_output(child, 0.1)
        child.send(stream[cut:])
        found = [executor.outcome(child.receive()) for _ in range(2)]
        assert found[0] == [7], f"cut after {cut} bytes: expected [7], found {found}"
        assert found[1].variant == "TaskError"
    assert child.finish() == (b"", 0)


# Random, so that a byte in a wrong place is seen.
LARGEST_SIZE = FRAME_BODY_MAX - len(executor.raw_request("buffers", "echo")) + 4
LARGEST = (
    random.Random(1).getrandbits(8 * LARGEST_SIZE).to_bytes(LARGEST_SIZE, "little")
)
# Around what is copied, and what a pipe of each size holds.
EDGES = [edge + step for edge in (2**15, 2**16, 2**18) for step in (-24, -1, 0, 1)]
INPUTS = [LARGEST[:size] for size in (4, 4000, *EDGES, 5, 3 << 20, 17, 1 << 20)]
INPUTS += [b"small", LARGEST, LARGEST, b"small"]
FRAMES = [executor.raw_request("buffers", "echo", data) for data in INPUTS]


def test_frames_of_many_sizes_up_to_the_largest(spawn):
    assert max(frame[:4] for frame in FRAMES) == bytes.fromhex("00800000")
    child = spawn()
    for data in INPUTS:
        assert child.call_raw("buffers", "echo", data) == data


def test_frames_of_many_sizes_at_once(spawn, build_package):
    """Nothing is written beside the buffer for the largest of them."""
    child = spawn(env=preload.env(build_package, "frame", "watched"))
    output, status = child.finish(b"".join(FRAMES))
    for data in INPUTS:
        body, end = protocol.decode_frame(output)
        assert protocol.decode_response(body)[0].outcome == Success(data)
        output = output[end:]
    assert (output, status) == (b"", 0)


@ours
def test_no_memory_for_the_largest_frame(spawn, build_package):
    child = spawn(env=preload.env(build_package, "frame", "refused"))
    assert cannot_start(child) == "there is no memory for the largest frame"


def test_100_000_pipelined_requests_are_answered_in_order(spawn):
    child = spawn()
    numbers = [struct.pack("<I", number) for number in range(100_000)]
    frames = [executor.raw_request("buffers", "echo", number) for number in numbers]
    size = 4 + 24 + 4
    output = child.exchange(b"".join(frames), size * len(frames))
    assert [output[at : at + 4] for at in range(20, len(output), size)] == numbers
    assert child.finish() == (b"", 0)


# ------------------------------------------------------------------------------ pipes

# The task, the size of its inputs, and whether stdin and stdout have grown.
GROWN = """
small            | no_such_task | 0       | `(False, False)`
inputs that fit  | no_such_task | 65336   | `(False, False)`
inputs           | no_such_task | 100000  | `(True, False)`
outputs that fit | zeros:65000  | 0       | `(False, False)`
outputs          | zeros:100000 | 0       | `(False, True)`
both             | echo         | 3000000 | `(True, True)`
"""


@ours
@rows("task, inputs_size, grown", GROWN)
def test_a_pipe_grows_if_a_frame_does_not_fit(spawn, task, inputs_size, grown):
    """All pipes of a user share a budget, which idle executors leave to others."""
    child = spawn()
    assert child.serves()
    frame = executor.raw_request("buffers", task, bytes(inputs_size))
    # Small frames, too, can arrive in pieces.
    send_and_drain(child, frame[:30])
    child.send(frame[30:])
    child.receive()
    streams = (child.process.stdin, child.process.stdout)
    sizes = [fcntl.fcntl(stream, F_GETPIPE_SZ) for stream in streams]
    assert sizes == [256 << 10 if is_large else 64 << 10 for is_large in grown]
    assert child.serves()


@ours
def test_a_pipe_that_is_not_of_the_default_size_stays(spawn):
    child = spawn()
    for stream in (child.process.stdin, child.process.stdout):
        fcntl.fcntl(stream, 1031, 4096)  # F_SETPIPE_SZ
    data = bytes(1_000_000)
    assert child.call_raw("buffers", "echo", data) == data
    for stream in (child.process.stdin, child.process.stdout):
        assert fcntl.fcntl(stream, F_GETPIPE_SZ) == 4096


def set_non_blocking():
    os.set_blocking(0, False)
    os.set_blocking(1, False)


@ours
def test_pipes_that_do_not_block(spawn):
    child = spawn(preexec_fn=set_non_blocking)
    for _ in range(2):
        # The executor waits, and does not end.
        assert not has_output(child, 0.1)
        child.send(request("buffers", "zeros:4000000"))
        executor.wait_for(lambda: has_output(child, 0), "the first byte")
        assert child.receive().outcome == Success(bytes(4_000_000))
    assert child.finish() == (b"", 0)


def test_a_socket(spawn):
    parents, childs = socket.socketpair()
    with parents:
        with childs:
            child = spawn(stdin=childs, stdout=childs)
        child.process.stdin = parents
        child.process.stdout = parents
        for text in ("a", "b" * 3_000_000):
            assert child.call("buffers", "echo", text) == [text]
        parents.shutdown(socket.SHUT_WR)
        assert child.read_to_end() == (b"", 0)
    assert child.stderr() == ""


def test_regular_files(spawn, tmp_path):
    """The watchdog does not take a file for a lost parent while a task runs."""
    frames = [request("buffers", "echo", number) for number in range(1000)]
    frames.append(request("process", "sleep:300"))
    (tmp_path / "in").write_bytes(b"".join(frames))
    with open(tmp_path / "in", "rb") as data, open(tmp_path / "out", "wb") as replies:
        child = spawn(stdin=data, stdout=replies)
        assert child.wait() == 0
    found = executor.responses((tmp_path / "out").read_bytes())
    assert found == [*([number] for number in range(1000)), [300]]
    assert child.stderr() == ""


@ours
def test_a_terminal(spawn):
    """One WARN line, at any log level, tells a person what the executor waits for."""
    persons, theirs = os.openpty()
    tty.setraw(theirs)
    child = spawn(stdin=theirs, env={"RUST_LOG": "off"})
    os.close(theirs)
    with open(persons, "wb", 0) as child.process.stdin:
        assert child.serves()
        (line,) = child.log_lines()
        assert line["level"] == "WARN"
        assert "--help" in line["fields"]["message"]
        child.send(b"help\r\n")
        assert child.read_to_end() == (b"", 1)


# What sh does, and words of the ERROR line.
UNUSUAL = f"""
endless stdin      | 0</dev/zero | expected a request tag
full endless stdin | 0</dev/full | expected a request tag
stdin for writing  | 0>/dev/null | {os.strerror(errno.EBADF)}
full stdout        | 1>/dev/full | {os.strerror(errno.ENOSPC)}
stdout for reading | 1</dev/null | {os.strerror(errno.EBADF)}
"""


@ours
@rows("redirection, words", UNUSUAL)
def test_unusual_files_end_it_with_a_reason(spawn, redirection, words):
    child = spawn(shell=f'exec "$@" {redirection}')
    assert child.finish(ECHO) == (b"", 1)
    assert words in child.only_error()["err"]


def test_dev_null_as_stdin_is_a_clean_end(spawn):
    assert spawn(shell='exec "$@" 0</dev/null').finish(ECHO) == (b"", 0)


# ------------------------------------------------------------------------ descriptors

CLOSED = """
stdin  | 0<&-      | stdin
stdout | 1>&-      | stdout
both   | 0<&- 1>&- | stdin
"""


@ours
@rows("closing, name", CLOSED)
@rows(
    "taken",
    {
        "free": False,
        "taken": True,
    },
)
def test_a_stream_that_is_closed_at_start_is_named(
    spawn, build_package, closing, name, taken
):
    """A library (libffi 3.5 and later) takes that number for a file of its own."""
    env = preload.env(build_package, "files", "early-file") if taken else {}
    child = spawn(shell=f'exec "$@" {closing}', env=env)
    text = f"{name} is closed; expected a pipe from the execution manager"
    assert cannot_start(child) == text


@ours
@pytest.mark.parametrize("closing", ["0<&- 2>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_nobody_can_be_told(spawn, closing):
    child = spawn(shell=f'exec "$@" {closing}')
    assert child.read_to_end() == (b"", 1)
    assert child.stderr() == ""


@ours
@pytest.mark.parametrize("limit", [5, 6, 7])
def test_no_free_descriptor(spawn, limit):
    reason = cannot_start(spawn(shell=f'ulimit -n {limit}; exec "$@"'))
    texts = (os.strerror(errno.EMFILE), os.strerror(errno.EBADF))
    assert any(text in reason for text in texts), f"expected {texts}, found {reason}"


@ours
@pytest.mark.parametrize("limit", range(12, 25))
def test_few_descriptors_are_enough(spawn, limit):
    child = spawn(shell=f'ulimit -n {limit}; exec "$@"')
    assert child.serves()
    assert child.call("descriptors", "read_stdin") == [1]
    child.send(request("exiting", "exit:0"))
    assert child.read_to_end() == (b"", 1)
    assert child.only_error()["message"] == "Native code called exit."


@ours
def test_no_dev_null(spawn, build_package):
    child = spawn(env=preload.env(build_package, "files", "no-dev-null"))
    assert child.serves()
    assert child.call("descriptors", "read_stdin") == [1]
    assert child.call("descriptors", "print:1") == [1]
    assert child.finish() == (b"", 0)
    assert child.stderr() == "printed line 0\n"


@ours
def test_neither_stderr_nor_dev_null(spawn, build_package):
    env = preload.env(build_package, "files", "no-dev-null")
    child = spawn(shell='exec "$@" 2>&-', env=env)
    assert child.call("descriptors", "print:1") == [1]
    assert child.serves()
    assert child.finish() == (b"", 0)


# The descriptors of the task, and of programs that it starts.
LISTS = ["list", "list_of_child:0", "list_of_child:1"]


def listed(child, task):
    """{fd: target} of a process."""
    (lines,) = child.call("descriptors", task)
    return dict(line.split(" ", 1) for line in lines.splitlines())


@ours
@pytest.mark.parametrize("task", LISTS)
def test_without_stderr_prints_go_to_dev_null(spawn, task):
    """A file of a task, or of a program that it starts, must not become fd 2."""
    child = spawn(shell='exec "$@" 2>&-', env={"RUST_LOG": "trace"})
    found = listed(child, task)
    assert [found["1"], found["2"]] == ["/dev/null", "/dev/null"]
    child.send(request("exiting", "exit:0"))
    assert child.read_to_end() == (b"", 1)


@ours
@pytest.mark.parametrize("task", LISTS)
def test_tasks_have_no_pipe_to_the_parent(spawn, task):
    """Their stdout is stderr, and programs have no other descriptor."""
    child = spawn()
    found = listed(child, task)
    streams = (child.process.stdin, child.process.stdout)
    pipes = {os.readlink(f"/proc/self/fd/{stream.fileno()}") for stream in streams}
    assert found["1"] == found["2"]
    assert pipes.isdisjoint(found[fd] for fd in "012")
    assert task == "list" or sorted(found) == ["0", "1", "2"]


HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def own_descriptors(child):
    """What is open, except for a file that libffi 3.5 and later opens for itself."""
    found = process.descriptors(child.pid)
    return {fd for fd, target in found.items() if "libffi" not in target}


@ours
@pytest.mark.parametrize("limit", [100, 1024, HARD_LIMIT])
def test_private_descriptors_are_just_below_the_limit(spawn, limit):
    child = spawn(shell=f'ulimit -n {limit} && exec "$@"')
    assert child.serves()
    lowest = min(limit, 4096) - 16
    assert own_descriptors(child) == {0, 1, 2, lowest, lowest + 1, lowest + 2}
    assert child.call("descriptors", f"close_below:{lowest}") == [1]
    assert child.call("odd", "answer") == [1]


@ours
def test_without_stderr_no_other_descriptor_is_open(spawn):
    child = spawn(shell='ulimit -n 100; exec "$@" 2>&-')
    assert child.serves()
    assert own_descriptors(child) == {0, 1, 2, 84, 85, 86}


OUTCOMES = [
    "buffers::echo",
    "buffers::none",
    "none::task",
    "../odd::task",
    "odd::answer",
]


def test_no_descriptor_stays_open(spawn):
    child = spawn()
    outcomes = [outcome.split("::") for outcome in OUTCOMES]
    for package, task in outcomes:
        child.call_raw(package, task)
    before = process.descriptors(child.pid)
    for number in range(50):
        for package, task in outcomes:
            child.call_raw(package, task)
        child.call_raw(f"none-{number}", "task")
    assert process.descriptors(child.pid) == before


HARMFUL = ["close_standard", "close_stdio", "dup_over_standard", "non_blocking"]


@ours
@pytest.mark.parametrize("task", [*HARMFUL, "close_below:48"])
def test_a_task_cannot_harm_the_channel(spawn, task):
    child = spawn(shell='ulimit -n 64; exec "$@"', env={"RUST_LOG": "info"})
    assert child.call("descriptors", task) == [1]
    assert child.serves()
    large = "x" * 5_000_000
    assert child.call("buffers", "echo", large) == [large]
    assert child.call("odd", "answer") == [1]  # loaded only now
    assert child.finish() == (b"", 0)
    assert child.log_lines()[-1]["fields"]["message"] == "Executor exits."


@ours
def test_a_task_that_closes_every_descriptor_ends_it(spawn):
    child = spawn()
    child.send(request("descriptors", "close_below:20000"))
    assert child.read_to_end() == (b"", 1)
    assert child.errors()  # through fd 2


PRINTS = r"""
printf               | descriptors | print:1         | `"printed line 0\n"`
printf, no newline   | descriptors | print_unflushed | unflushed
write                | descriptors | write:1         | `"written\n"`
"""
CXX_PRINTS = r"""
iostream             | cxx         | print:1         | `"streamed line 0\n"`
iostream, no newline | cxx         | print_unflushed | unflushed
"""


@ours
@rows("package, task, text", PRINTS, cxx=CXX_PRINTS)
def test_prints_are_in_stderr_before_the_reply(spawn, package, task, text):
    child = spawn()
    assert child.call(package, task) in ([1], [0])
    assert child.stderr() == text
    assert child.finish() == (b"", 0)
    assert child.stderr() == text


# ------------------------------------------------------------------- parents that leave


def test_a_parent_that_stalls_loses_nothing(spawn):
    child = spawn()
    child.send((request("buffers", "zeros:3000000") + ECHO) * 3)
    child.send(ECHO[:30])
    executor.wait_for(lambda: has_output(child, 0), "the first byte")
    assert select.select([], [], [], 0.3) == ([], [], [])
    for _ in range(3):
        assert child.receive().outcome == Success(bytes(3_000_000))
        assert executor.outcome(child.receive()) == [7]
    child.send(ECHO[30:])
    assert executor.outcome(child.receive()) == [7]
    assert child.finish() == (b"", 0)


OUT_OF_STEP = "Protocol error on stdin."
UNREAD = "The parent no longer reads responses."
GONE = "The parent is gone while a task runs."
LARGE = request("buffers", "zeros:8000000")
# What is sent, how many bytes of stdout are read before both pipes break, the exit
# code, and the messages that may say so: a task may be running at that moment.
VANISHED = {
    "between two frames": (ECHO, ECHO_REPLY_SIZE, 0, [[]]),
    "in a header": (ECHO + ECHO[:2], ECHO_REPLY_SIZE, 1, [[OUT_OF_STEP]]),
    "in a body": (ECHO + ECHO[:30], ECHO_REPLY_SIZE, 1, [[OUT_OF_STEP]]),
    "in a small reply": (ECHO * 2000, 40, 1, [[UNREAD], [GONE]]),
    "in a large reply": (LARGE, 1000, 1, [[UNREAD]]),
}


@ours
@rows("sent, size, status, messages", VANISHED)
def test_a_parent_vanishes(spawn, sent, size, status, messages):
    """Its death closes the pipes. Nothing else of it is noticed."""
    child = spawn()
    child.send(sent)
    child.read(size)
    child.close_output()
    child.close_input()
    assert child.wait() == status
    assert [error["fields"]["message"] for error in child.errors()] in messages
