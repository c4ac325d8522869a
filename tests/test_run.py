"""The command `run`: real executors, real packages, and what a shell sees of them."""

import errno
import functools
import os
import re
import sys
import time

import pytest
from helpers import build, cli, odd

import protocol

pytestmark = pytest.mark.ours

TASKS = "integration_test_tasks"


@pytest.fixture
def run(package_dir):
    return functools.partial(cli.call, "run", "--package-dir", package_dir)


@pytest.fixture
def other(tmp_path):
    """A file for --executor, with its text."""

    def other(text, mode=0o755):
        path = tmp_path / "executor"
        path.write_text(text)
        path.chmod(mode)
        return path

    return other


@pytest.fixture
def replies(other):
    """An executor that answers each request with the next of some results."""

    def replies(*results):
        frames = [
            protocol.encode_frame(protocol.encode_response(result))
            for result in results
        ]
        return other(f"""#!{sys.executable} -IS
import sys
for frame in {frames!r}:
    size = int.from_bytes(sys.stdin.buffer.read(4), "big")
    sys.stdin.buffer.read(size)
    sys.stdout.buffer.write(frame)
    sys.stdout.flush()
""")

    return replies


def success(outputs, elapsed_us=1):
    return protocol.Result(protocol.Success(outputs), elapsed_us)


# ---------------------------------------------------------------- values and outputs


@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [
        ([TASKS, "fibonacci", "30"], "[832040]\n"),
        ([TASKS, "assert_initialized"], "[]\n"),
        (["buffers", "echo", '["é", 2.5, null]', "{}"], '[["é", 2.5, null], {}]\n'),
        (["buffers", "echo", "-1", "-1e5"], "[-1, -100000.0]\n"),
        (["buffers", "echo", "--", "-1"], "[-1]\n"),
        (["--repeat", "3", "--", "buffers", "echo", "1"], "[1]\n"),
        (["buffers", "--repeat=3", "echo", "1"], "[1]\n"),
        (["--commit", TASKS, "assert_outputs_sum_zero", "3", "-3"], "[]\n"),
    ],
)
def test_the_outputs_are_one_line_of_json(run, arguments, stdout):
    done = run(*arguments)
    assert (done.status, done.stdout.decode()) == (0, stdout), done.stderr


def test_values_are_sent_as_the_msgpack_of_their_json(run):
    values = {
        "1": "01",
        "1.0": "cb3ff0000000000000",
        "-5": "fb",
        "-1e3": "cbc08f400000000000",
        "18446744073709551615": "cfffffffffffffffff",
        "-9223372036854775808": "d38000000000000000",
        "-Infinity": "cbfff0000000000000",
        "NaN": "cb7ff8000000000000",
        '"é\\n"': "a3c3a90a",
        "[1, [2.5], []]": "930191cb400400000000000090",
        '{"k": true}': "81a16bc3",
        "false": "c2",
        "null": "c0",
    }
    done = run("--raw", "buffers", "echo", *values)
    payload = protocol.encode_payload(map(bytes.fromhex, values.values()))
    assert (done.status, done.stdout) == (0, payload)


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_values_are_utf8_in_any_locale(run, tmp_path, locale):
    path = tmp_path / "é.json"
    path.write_text('["a", "é"]\n', encoding="utf-8")
    options = {"stdin": '{"é": 1.5}'.encode(), **locale}
    done = run("buffers", "echo", '"é"', f"@{path}", "-", **options)
    assert (done.status, done.stdout.decode()) == (0, '["é", ["a", "é"], {"é": 1.5}]\n')


TEXT_HINT = """ (a string is written as '"text"', a file as @FILE)"""
OPTION_HINT = " (options go before PACKAGE)"


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("hello", f"VALUE hello: expected JSON: .*{TEXT_HINT}"),
        ("[1, x]", f"VALUE [1, x]: expected JSON: .*{TEXT_HINT}"),
        ("", f"VALUE : expected JSON: .*{TEXT_HINT}"),
        ("x" * 99999, f"VALUE {'x' * 40}: expected JSON: .*{TEXT_HINT}"),
        ("[" * 99999, f"VALUE {'[' * 40}: expected JSON: .*{TEXT_HINT}"),
        ("--timeout", f"VALUE --timeout: expected JSON: .*{OPTION_HINT}"),
        ("--help", f"VALUE --help: expected JSON: .*{OPTION_HINT}"),
        ("-", f"VALUE -: expected JSON: .*{TEXT_HINT}"),
        ("@", f"VALUE @: expected JSON: .*{TEXT_HINT}"),
        ("@/dev/null", f"VALUE @/dev/null: expected JSON: .*{TEXT_HINT}"),
        ("@/nonexistent", "/nonexistent: No such file or directory"),
        ("@/", "/: Is a directory"),
        ("[" * 257 + "]" * 257, "no request can carry this: expected at most 256 .*"),
        ("18446744073709551616", "no request can carry this: .*64 bits.*"),
        ('"\\ud800"', "no request can carry this: .*surrogate.*"),
    ],
    ids=lambda text: text[:15],
)
def test_a_value_that_cannot_be_sent_is_wrong_usage(run, value, complaint):
    done = run("buffers", "echo", "1", value)
    assert (done.status, done.stdout) == (2, b"")
    pattern = ".*".join(map(re.escape, complaint.split(".*")))
    assert re.fullmatch(pattern, done.complaint), done.complaint


def test_a_stdin_that_cannot_be_read_is_named(run):
    done = run("buffers", "echo", "-", shell='exec "$@" 0>/dev/null')
    assert (done.status, done.complaint) == (2, "stdin: Bad file descriptor")


def test_a_request_that_is_too_large_is_wrong_usage(run):
    done = run("buffers", "echo", "-", stdin=b'"' + b"x" * (8 << 20) + b'"')
    assert (done.status, done.stdout) == (2, b"")
    text = "no request can carry this: expected a frame body of at most 8388608 bytes"
    assert text in done.complaint


def test_a_pipe_that_does_not_block_gets_all_of_the_outputs(run):
    """Node.js makes such pipes."""
    value = b'"' + b"x" * (3 << 20) + b'"'
    unblocked = cli.started_by("os.set_blocking(1, False)")
    late = f"({unblocked}) | (sleep 0.2; cat)"
    done = run("buffers", "echo", "-", stdin=value, shell=late)
    assert (done.status, len(done.stdout)) == (0, len(value) + 3)
    assert done.stdout == b"[" + value + b"]\n"


def test_a_stdin_that_does_not_block_is_read_to_its_end(run):
    unblocked = cli.started_by("os.set_blocking(0, False)")
    late = f"(sleep 0.2; cat) | ({unblocked})"
    done = run("buffers", "echo", "-", stdin=b"[1]", shell=late)
    assert (done.status, done.stdout) == (0, b"[[1]]\n")


NAN, DEEP = float("nan"), b"\x91" * 255 + b"\x01"


@pytest.mark.parametrize(
    ("outputs", "stdout"),
    [
        (
            protocol.pack_values({1: "a", 2.5: "b", None: b"\x00\xff"}),
            b'[{"1": "a", "2.5": "b", "null": [0, 255]}]\n',
        ),
        (protocol.pack_values(b"", [b"\x01"]), b"[[], [[1]]]\n"),
        (protocol.encode_payload([DEEP]), b"[" * 256 + b"1" + b"]" * 256 + b"\n"),
        (protocol.pack_values(NAN), b""),
        (protocol.pack_values([-float("inf")]), b""),
        (protocol.pack_values({NAN: 1}), b""),
        (protocol.pack_values({b"k": 1}), b""),
        (b"", b""),
        (b"\2\0\0\0\1", b""),
        (bytes(range(256)) * 4000, b""),
    ],
    ids=["keys", "bytes", "deep", "nan", "inf", "nan key", "key", "empty", "cut", "x"],
)
def test_outputs_that_json_lacks_are_for_raw(run, replies, outputs, stdout):
    other = replies(success(outputs))
    done = run("--executor", other, "p", "t")
    assert (done.status, done.stdout) == (0 if stdout else 1, stdout), done.stderr
    text = "spider-task-executor: the outputs cannot be printed as JSON: "
    assert (text in done.stderr) == (not stdout)
    assert run("--raw", "--executor", other, "p", "t")[:2] == (0, outputs)


def test_what_a_task_prints_is_no_output(run):
    done = run("descriptors", "print:2")
    assert (done.status, done.stdout) == (0, b"[2]\n")
    assert {"printed line 0", "printed line 1"} < set(done.stderr.splitlines())


def test_a_task_has_the_environment_of_the_command(run):
    """Python adds LC_CTYPE to its own in the C locale."""
    shell = 'unset LC_ALL LC_CTYPE LANG; exec "$@"'
    done = run("process", "environment", shell=shell, A="b")
    assert done.status == 0
    assert b"A=b" in done.stdout
    assert b"LC_CTYPE" not in done.stdout


# --------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("package", "task", "text"),
    [
        (TASKS, "always_fail", "TaskError: ExecutionError: always_fail: intentional"),
        (TASKS, "fibonaci", "TaskError: TaskNotFound: fibonaci"),
        ("none", "t", "InvalidLibrary: "),
        ("..", "t", "InvalidLibrary: "),
    ],
)
def test_a_failed_task_is_shown_in_its_own_words(run, package, task, text):
    done = run(package, task)
    assert (done.status, done.stdout) == (1, b"")
    assert done.complaint.startswith(f"{package} {task}: {text}")


def test_a_directory_need_not_be_listed(run, build_package, tmp_path):
    """As with mode 0711, for another user than the owner."""
    build.stage(tmp_path, "odd", odd.build(build_package))
    tmp_path.chmod(0o311)
    options = {"shell": cli.WITHOUT_RIGHTS, "ODD_TRACE": ""}
    done = run("--package-dir", tmp_path, "odd", "answer", **options)
    assert done[:2] == (0, b"[1]\n")


@pytest.mark.parametrize(
    "shell", [cli.EXEC, cli.WITHOUT_SIGCHLD], ids=["plain", "without SIGCHLD"]
)
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["exiting", "_exit:7"], "exit code 7"),
        (["exiting", "_exit:0"], "exit code 0"),
        (["crashing", "raise:6"], "SIGABRT"),
        (["--timeout", "0.5", "crashing", "hang"], "killed"),
    ],
)
def test_no_reply_is_told_from_a_failure(run, arguments, text, shell):
    """SIGCHLD is ignored by some parents. Then the system keeps no exit status."""
    done = run(*arguments, shell=shell)
    assert (done.status, done.stdout) == (3, b"")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("spider-task-executor: run: no reply: ")
    assert text in last


# ------------------------------------------------------------------------------ times


def test_the_time_is_that_of_the_task(run):
    started = time.monotonic()
    done = run("process", "sleep:50")
    round_trip = (time.monotonic() - started) * 1e6
    (elapsed,) = re.fullmatch(r"elapsed: (\d+) µs\n", done.stderr).groups()
    assert 50_000 <= int(elapsed) < round_trip


def test_repeat_asks_one_executor(run):
    done = run("--repeat", "20", "process", "sleep:2", RUST_LOG="info")
    assert done.stderr.count("Executor starts.") == 1
    round_trip = next(line for line in done.stderr.splitlines() if line[0] != "{")
    pattern = r"round trip: minimum (\d+) µs, median (\d+) µs"
    minimum, median = re.fullmatch(pattern, round_trip).groups()
    assert 2000 <= int(minimum) <= int(median)


@pytest.mark.parametrize(
    ("elapsed", "text"),
    [
        ([7], "elapsed: 7 µs"),
        ([9, 2, 70, 3, 5], "elapsed_us: minimum 2 µs, median 5 µs"),
        ([8, 70, 5, 2], "elapsed_us: minimum 2 µs, median 5 µs"),
    ],
)
def test_repeat_shows_minimum_median_and_the_last_outputs(run, replies, elapsed, text):
    results = [success(protocol.pack_values(time), time) for time in elapsed]
    options = ["--repeat", len(elapsed), "--executor", replies(*results)]
    done = run(*map(str, options), "p", "t")
    assert done[:2] == (0, b"[%d]\n" % elapsed[-1])
    assert done.stderr.splitlines()[-1] == text


# ------------------------------------------------------------------- other executors


def test_another_executor_is_started_without_arguments(run, other, tmp_path):
    command = " ".join(f"'{part}'" for part in cli.COMMAND)
    path = other(f"#!/bin/sh\necho $# > {tmp_path}/started\nexec {command}\n")
    shell = f'cd {tmp_path} && exec "$@"'
    for name in (path, "executor"):
        done = run("--executor", name, TASKS, "fibonacci", "10", shell=shell)
        assert done[:2] == (0, b"[55]\n")
        assert (tmp_path / "started").read_text() == "0\n"


@pytest.mark.parametrize(
    ("text", "mode", "status", "complaint"),
    [
        ("#!/bin/sh\nexit 9\n", 0o755, 3, "exit code 9$"),
        ("#!/bin/sh\necho not a frame\n", 0o755, 3, "expected a frame body of at most"),
        ("#!/bin/sh\nprintf '\\0\\0\\0\\4\\0\\0\\0\\7'\n", 0o755, 3, "expected"),
        ("#!/bin/sh\n", 0o644, 2, "executor: Permission denied$"),
        ("not a program\n", 0o755, 2, "executor: Exec format error$"),
        ("#!/nonexistent/python\n", 0o755, 2, "executor: the interpreter in its first"),
    ],
)
def test_an_executor_that_does_not_serve(run, other, text, mode, status, complaint):
    done = run("--executor", other(text, mode), TASKS, "fibonacci", "10")
    assert (done.status, done.stdout) == (status, b"")
    assert re.search(complaint, done.complaint), done.complaint


def test_an_executor_that_does_not_exist_is_named(run):
    done = run("--executor", "/nonexistent", TASKS, "fibonacci", "10")
    text = "/nonexistent: No such file or directory"
    assert (done.status, done.complaint) == (2, text)


def test_a_lack_of_descriptors_is_not_blamed_on_stdout(run):
    done = run(TASKS, "fibonacci", "10", shell='ulimit -n 6; exec "$@"')
    text = f"executor: cannot be started: {os.strerror(errno.EMFILE)}"
    assert (done.status, done.complaint) == (1, text)
