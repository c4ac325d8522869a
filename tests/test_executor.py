"""The executor's process: serving, framing on the wire, how it ends, what it takes from its environment."""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import termios
import time

import pytest
import vectors
from helpers import build, executor, odd, process
from helpers.executor import SHUTDOWN
from helpers.executor import request as execute

import protocol
from protocol import Custom, Execute, Success, TaskError, encode_frame, encode_request

TASKS = "integration_test_tasks"
FIBONACCI = execute(TASKS, "fibonacci", 10)


def drain(fd: int) -> None:
    """Wait until the reader of a pipe has taken all that is in it."""
    left = array.array("i", [0])

    def empty() -> bool:
        fcntl.ioctl(fd, termios.FIONREAD, left)
        return left[0] == 0

    deadline = time.monotonic() + executor.DEADLINE
    while not empty():
        assert time.monotonic() < deadline, "the executor does not read its input"
        time.sleep(0.0002)


def send_drained(child: executor.Executor, data: bytes) -> None:
    child.send(data)
    drain(child.process.stdin.fileno())


# ------------------------------------------------------------------------------------------------------------- serving


def test_pipelined_requests_are_answered_in_order(spawn):
    child = spawn()
    numbers = list(range(20)) * 25
    requests = [execute(TASKS, "fibonacci", n) for n in numbers]
    requests[100] = execute("complex", "complex::always_fail")
    requests[300] = execute(TASKS, "sleep_and_echo", ["x" * 3000])
    output, status = child.finish(b"".join(requests))
    expected = [0, 1]
    while len(expected) < 20:
        expected.append(expected[-1] + expected[-2])
    found = executor.responses(output)
    assert found[100] == TaskError(Custom("this task always fails"))
    assert found[300] == [["x" * 3000]]
    del found[300], found[100], numbers[300], numbers[100]
    assert found == [[expected[n]] for n in numbers]
    assert status == 0


def test_the_bytes_on_the_wire(spawn):
    """One frame, in full: only the elapsed time is not known."""
    child = spawn()
    assert (
        bytes.fromhex(
            "00000059 00000000 1600000000000000 696e746567726174696f6e5f746573745f7461736b73"
            "0900000000000000 6669626f6e61636369 0d00000000000000 950081a5496e646578000000c0"
            "0900000000000000 01000000010000000a"
        )
        == FIBONACCI
    )
    output, status = child.finish(FIBONACCI)
    assert output[:-8] == bytes.fromhex("00000021 00000000 00000000 0900000000000000 010000000100000037")
    assert len(output) == 4 + 33
    assert status == 0


def test_requests_split_at_every_byte(spawn):
    """Two frames, cut once, at each place: what has come is read before the rest is sent."""
    child = spawn()
    stream = FIBONACCI + execute("complex", "complex::always_fail")
    for cut in range(1, len(stream)):
        send_drained(child, stream[:cut])
        child.send(stream[cut:])
        assert executor.outcome(child.receive()) == [55], cut
        assert executor.outcome(child.receive()) == TaskError(Custom("this task always fails")), cut
    assert child.finish() == (b"", 0)


def test_requests_one_byte_at_a_time(spawn):
    child = spawn()
    for byte in FIBONACCI + FIBONACCI:
        send_drained(child, bytes((byte,)))
    assert [executor.outcome(child.receive()) for _ in range(2)] == [[55], [55]]


def test_responses_read_one_byte_at_a_time(spawn):
    child = spawn()
    child.send(FIBONACCI * 3)
    output = b"".join(child.read(1) for _ in range(3 * 37))
    assert executor.responses(output) == [[55]] * 3


def test_frames_of_many_sizes(spawn):
    """Coalesced in all ways with their neighbours, and larger than a pipe holds."""
    child = spawn()
    sizes = [0, 1, 4000, 65536, 3, 70_000, 1 << 20, 5, 0, 3 << 20, 17]
    for size in sizes:
        child.send(execute(TASKS, "sleep_and_echo", ["x" * size]))
        assert executor.outcome(child.receive()) == [["x" * size]]
    output, status = child.finish(b"".join(execute(TASKS, "sleep_and_echo", ["y" * size]) for size in sizes))
    assert executor.responses(output) == [[["y" * size]] for size in sizes]
    assert status == 0


def test_the_largest_request(spawn):
    overhead = len(execute(TASKS, "sleep_and_echo", ["x" * 70_000])) - 4 - 70_000
    text = "z" * (protocol.FRAME_BODY_MAX - overhead)
    frame = execute(TASKS, "sleep_and_echo", [text])
    assert frame[:4] == bytes.fromhex("00800000")
    child = spawn()
    for _ in range(2):
        child.send(frame)
        assert executor.outcome(child.receive()) == [[text]]
    child.send(FIBONACCI)
    assert executor.outcome(child.receive()) == [55]


def test_elapsed_us(spawn):
    """In microseconds: not less than the task took, not more than the parent waited."""
    child = spawn(env={"SPIDER_INSTRUMENT_SLEEP_US": "20000"})
    for _ in range(2):
        started = time.monotonic_ns()
        child.send(execute(TASKS, "sleep_and_echo", ["x"]))
        response = child.receive()
        waited = (time.monotonic_ns() - started) // 1000
        assert 20000 <= response.elapsed_us <= waited


def test_elapsed_us_includes_loading(spawn, build_package, tmp_path):
    slow = odd.build(build_package, "-DCONSTRUCTOR=usleep(20000)")
    build.stage(tmp_path, "odd", slow)
    child = spawn(tmp_path)
    child.send(execute("odd", "inputs"))
    assert child.receive().elapsed_us >= 20000


# ------------------------------------------------------------------------------------------- bytes behind, bytes wrong


def test_bytes_behind_a_request_are_ignored(spawn):
    child = spawn()
    frames = []
    for behind in (b"\0", b"\xff" * 100, FIBONACCI):
        frames.append(encode_frame(FIBONACCI[4:] + behind))
    output, status = child.finish(b"".join(frames) + encode_frame(SHUTDOWN[4:] + b"behind") + b"and garbage")
    assert executor.responses(output) == [[55]] * 3
    assert status == 0


@pytest.mark.ours
def test_a_warning_about_bytes_behind_a_request(spawn):
    child = spawn(env={"RUST_LOG": "warn"})
    child.finish(encode_frame(FIBONACCI[4:] + b"behind") + FIBONACCI)
    (line,) = child.log_lines()
    assert line["level"] == "WARN"
    assert (line["fields"]["package"], line["fields"]["task"], line["fields"]["size"]) == (TASKS, "fibonacci", 6)


BODIES = [
    "",
    "00",
    "010000",
    "00000000",
    "02000000",
    "ffffffff",
    "00000001",
    "02000000" + "00" * 40,
    "00000000 ffffffffffffffff" + "00" * 40,
    "00000000 0000000000000000 ffffffffffffff7f" + "00" * 40,
    "00000000" + "0000000000000000" * 3 + "0100000000000000",
    "00000000 0100000000000000 ff 0000000000000000 0000000000000000 0000000000000000",
    "00000000 0000000000000000 0200000000000000 c328 0000000000000000 0000000000000000",
]


@pytest.mark.parametrize("body", BODIES)
def test_a_body_that_does_not_decode(spawn, body):
    """No reply, and nothing behind it is served; what came before has been."""
    child = spawn()
    output, status = child.finish(FIBONACCI + encode_frame(bytes.fromhex(body)) + FIBONACCI)
    assert executor.responses(output) == [[55]]
    assert status == 1


@pytest.mark.parametrize("cut", range(len(vectors.REQUESTS[2][1])))
def test_a_body_cut_short(spawn, cut):
    child = spawn()
    assert child.finish(encode_frame(vectors.REQUESTS[2][1][:cut])) == (b"", 1)


@pytest.mark.parametrize("header", ["00800001", "01000000", "7fffffff", "ffffffff"])
def test_a_frame_too_long(spawn, header):
    """Its header is enough: the executor does not wait for the body."""
    child = spawn()
    child.send(FIBONACCI + bytes.fromhex(header))
    assert executor.outcome(child.receive()) == [55]
    assert child.wait() == 1


@pytest.mark.ours
@pytest.mark.parametrize(
    ("data", "text"),
    [
        (encode_frame(b""), "expected a request tag of 4 bytes, found the end after 0 bytes at offset 0"),
        (encode_frame(b"\7\0\0\0"), "expected request tag 0 (Execute) or 1 (Shutdown), found tag 7 at offset 0"),
        (encode_frame(bytes(4)), "expected the length of package (8 bytes), found the end"),
        (
            encode_frame(bytes(4) + b"\xff" * 8 + bytes(9)),
            "expected package of 18446744073709551615 bytes, found the end",
        ),
        (
            bytes.fromhex("00800001"),
            "expected a frame's header of at most 8388608 bytes, found one that announces 8388609",
        ),
        (FIBONACCI[:50], "expected the rest of a frame, found the end of the input 50 bytes into it"),
    ],
)
def test_one_error_line_says_what_is_wrong(spawn, data, text):
    child = spawn(env={"RUST_LOG": "error"})
    assert child.finish(data) == (b"", 1)
    (line,) = child.log_lines()
    assert line["level"] == "ERROR"
    assert text in line["fields"]["err"]


@pytest.mark.ours
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"\7\0\0\0", "found tag 7 at offset 0"),
        (bytes(4) + b"\1" + bytes(7) + b"\xff" + bytes(24), "expected package in UTF-8, found byte ff at offset 12"),
        (
            bytes(12) + b"\2" + bytes(7) + b"a\xff" + bytes(16),
            "expected task_func in UTF-8, found byte ff at offset 21",
        ),
    ],
)
def test_an_offset_counts_from_the_start_of_the_body(spawn, body, text):
    """However the frames arrive: behind others in one read, or alone."""
    for ahead in (b"", FIBONACCI):
        child = spawn()
        child.finish(ahead + encode_frame(body))
        (line,) = child.log_lines()
        assert line["fields"]["err"].endswith(text)


# ------------------------------------------------------------------------------------------------------ how it ends


def test_the_input_ends_between_frames(spawn):
    assert spawn().finish() == (b"", 0)
    child = spawn()
    output, status = child.finish(FIBONACCI)
    assert executor.responses(output) == [[55]]
    assert status == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6, 40, len(FIBONACCI) - 1])
@pytest.mark.parametrize("before", [b"", FIBONACCI])
def test_the_input_ends_inside_a_frame(spawn, size, before):
    output, status = spawn().finish(before + FIBONACCI[:size])
    assert executor.responses(output) == [[55]] * bool(before)
    assert status == 1


@pytest.mark.ours
@pytest.mark.parametrize("before", [b"", FIBONACCI])
def test_the_input_ends_behind_a_header(spawn, before):
    output, status = spawn().finish(before + FIBONACCI[:4])
    assert executor.responses(output) == [[55]] * bool(before)
    assert status == 1


def test_shutdown(spawn):
    """It is not answered; the executor does not wait for the end of the input."""
    child = spawn()
    child.send(FIBONACCI + SHUTDOWN)
    assert executor.outcome(child.receive()) == [55]
    assert child.wait() == 0
    assert child.process.stdout.read() == b""


@pytest.mark.parametrize("behind", [b"\xff" * 4, b"\0\0", FIBONACCI, encode_frame(b"\xff" * 9)])
def test_what_is_behind_shutdown_is_ignored(spawn, behind):
    assert spawn().finish(SHUTDOWN + behind) == (b"", 0)


@pytest.mark.parametrize(
    ("end", "status"), [(b"", 0), (SHUTDOWN, 0), (encode_frame(b"\xff" * 9), 1), (b"\xff" * 4, 1), (b"\0", 1)]
)
def test_destructors_and_atexit_handlers_run(spawn, build_package, tmp_path, end, status):
    trace = odd.Trace(tmp_path)
    build.stage(tmp_path, "odd", odd.build(build_package))
    child = spawn(tmp_path, env=trace.env)
    output, found = child.finish(execute("odd", "atexit") + end)
    assert (executor.responses(output), found) == ([[1]], status)
    assert sorted(trace.take()[-2:]) == ["atexit", "unload"]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it(spawn, number, busy):
    child = spawn()
    assert child.serves()
    if busy:
        child.send(execute("crashing", "hang"))
        executor.wait_for(child.stderr, "the task to hang")
    child.process.send_signal(number)
    assert child.wait() == -number
    assert child.process.stdout.read() == b""


@pytest.mark.parametrize(
    ("package", "task", "status"),
    [
        ("exiting", "_exit:0", 0),
        ("exiting", "_exit:1", 1),
        ("exiting", "_exit:77", 77),
        ("crashing", "sigsegv:8", -signal.SIGSEGV),
        ("crashing", f"raise:{int(signal.SIGABRT)}", -signal.SIGABRT),
        ("crashing", "raise:9", -signal.SIGKILL),
    ],
)
def test_a_crash_is_seen_in_the_status(spawn, package, task, status):
    child = spawn()
    output, found = child.finish(execute(package, task) + execute("odd", "inputs"))
    assert (output, found) == (b"", status)


# --------------------------------------------------------------------------------------------------------- environment


def test_no_package_directory(spawn):
    """Said before anything is read."""
    child = spawn(env={"SPIDER_TDL_PACKAGE_DIR": None})
    assert child.wait() != 0
    assert "SPIDER_TDL_PACKAGE_DIR" in child.stderr()
    assert child.process.stdout.read() == b""


@pytest.mark.ours
@pytest.mark.parametrize("kind", ["unset", "empty", "missing", "file", "loop"])
def test_a_package_directory_that_is_none(spawn, tmp_path, kind):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    value = {"unset": None, "empty": ""}.get(kind, str(tmp_path / kind))
    child = spawn(env={"SPIDER_TDL_PACKAGE_DIR": value})
    assert child.wait() == 1
    assert child.process.stdout.read() == b""
    (line,) = child.log_lines()
    assert line["level"] == "ERROR"
    text = line["fields"]["err"]
    assert text.startswith("SPIDER_TDL_PACKAGE_DIR: expected ")
    assert {"unset": "not set", "empty": "empty"}.get(kind, str(tmp_path / kind)) in text


def test_a_relative_package_directory(spawn, package_dir):
    child = spawn(package_dir.name, cwd=package_dir.parent)
    assert child.call(TASKS, "fibonacci", 10) == [55]
    child = spawn(".", cwd=package_dir)
    assert child.call(TASKS, "fibonacci", 10) == [55]


def test_a_package_directory_that_is_no_utf8(spawn, package_dir, tmp_path):
    """Paths are bytes."""
    directory = os.path.join(os.fsencode(tmp_path), b"d\xff\xc3\xa9")
    os.symlink(package_dir, directory)
    child = spawn(os.fsdecode(directory))
    assert child.call(TASKS, "fibonacci", 10) == [55]


def test_tasks_see_the_environment(spawn):
    child = spawn(env={"SPIDER_INSTRUMENT_SLEEP_US": "0"})
    assert child.call(TASKS, "sleep_and_echo", ["x"]) == [["x"]]
    child = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": ""})
    assert isinstance(child.call(TASKS, "fibonacci", 10), protocol.PackageInitError)


@pytest.mark.ours
@pytest.mark.parametrize("form", ["module", "script", "executable"])
def test_ways_to_start_it(tmp_path, package_dir, form):
    (tmp_path / "python3").symlink_to(sys.executable)
    program = str(build.ROOT / "spider_executor.py")
    commands = {
        "module": [sys.executable, "-m", "spider_executor"],
        "script": [sys.executable, program],
        "executable": [program],
    }
    environment = {**os.environ, "SPIDER_TDL_PACKAGE_DIR": str(package_dir)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    done = subprocess.run(
        commands[form],
        input=FIBONACCI,
        capture_output=True,
        cwd=build.ROOT,
        env=environment,
        timeout=executor.DEADLINE,
    )
    assert executor.responses(done.stdout) == [[55]]
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.ours
def test_two_files_are_enough(tmp_path, package_dir):
    """Vendored elsewhere, started from anywhere, through a link."""
    vendored = tmp_path / "vendored"
    vendored.mkdir()
    for name in ("spider_executor.py", "protocol.py"):
        shutil.copy(build.ROOT / name, vendored)
    (tmp_path / "spider-task-executor").symlink_to(vendored / "spider_executor.py")
    for path in (vendored / "spider_executor.py", tmp_path / "spider-task-executor"):
        child = executor.Executor([sys.executable, "-IS", str(path)], package_dir, cwd="/")
        try:
            assert child.call(TASKS, "fibonacci", 10) == [55]
            assert child.finish() == (b"", 0)
        finally:
            child.kill()


@pytest.mark.ours
def test_stdin_is_a_terminal(spawn, package_dir):
    """A person is told what it waits for; it can still be a parent."""
    parent, child_end = os.openpty()
    try:
        child = spawn(stdin=child_end, env={"RUST_LOG": "off"})
        os.close(child_end)
        executor.wait_for(child.stderr, "a line on stderr")
        (line,) = child.log_lines()
        assert "stdin" in line["fields"]["message"]
        assert "--help" in line["fields"]["message"]
        assert child.process.poll() is None
    finally:
        os.close(parent)


def test_outputs_of_zero_bytes_are_sent_on(spawn, build_package, tmp_path):
    build.stage(tmp_path, "odd", odd.build(build_package))
    child = spawn(tmp_path)
    child.send(encode_frame(encode_request(Execute("odd", "inputs", b"", b""))))
    assert child.receive().outcome == Success(b"")


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.ours
def test_the_names_of_tasks_do_not_fill_the_memory(spawn):
    child = spawn()
    sizes = []
    for first in range(0, 60_000, 500):
        child.send(b"".join(executor.request("complex", f"no task {n}") for n in range(first, first + 500)))
        for _ in range(500):
            assert isinstance(executor.outcome(child.receive()), protocol.TaskError)
        sizes.append(process.memory(child.pid, "VmRSS"))
    # A call that is kept takes most of a KiB, and 40,000 more of them would.
    assert sizes[-1] - sizes[39] < 8 << 20
