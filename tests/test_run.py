"""The command `run`: real executors, real packages, and what a shell sees of them."""

import functools
import os
import re
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import build, cli, odd, preload, process

import protocol

pytestmark = pytest.mark.ours

TASKS = "integration_test_tasks"
PLACES = pytest.mark.parametrize(
    "place", [[], ["--in-process"]], ids=["executor", "in process"]
)


@pytest.fixture
def run(package_dir):
    return functools.partial(cli.call, "run", "--package-dir", package_dir)


@pytest.fixture
def other(tmp_path):
    """A file for --executor."""
    path = tmp_path / "executor"
    path.touch(0o755)
    return path


@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [
        ([TASKS, "fibonacci", "30"], "[832040]\n"),
        ([TASKS, "assert_initialized"], "[]\n"),
        (
            ["buffers", "echo", '["é", 2.5, null]', '{"a": {"b": []}}'],
            '[["é", 2.5, null], {"a": {"b": []}}]\n',
        ),
        (
            ["buffers", "echo", "-1", "-1e5", "-Infinity"],
            "[-1, -100000.0, -Infinity]\n",
        ),
        (["buffers", "echo", "--", "-1"], "[-1]\n"),
        (["--repeat", "3", "--", "buffers", "echo", "1"], "[1]\n"),
        (["buffers", "--repeat=3", "echo", "1"], "[1]\n"),
        (["--commit", TASKS, "assert_outputs_sum_zero", "3", "-3"], "[]\n"),
    ],
)
@PLACES
def test_the_outputs_are_one_line_of_json(run, place, arguments, stdout):
    done = run(*place, *arguments)
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
    assert (done.status, done.stdout) == (
        0,
        protocol.encode_payload(map(bytes.fromhex, values.values())),
    )


@pytest.mark.parametrize(
    "locale", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_values_come_from_arguments_files_and_stdin_as_utf8_in_any_locale(
    run, tmp_path, locale
):
    (tmp_path / "file.json").write_text('["a", "é"]\n', encoding="utf-8")
    done = run(
        "buffers",
        "echo",
        '"é"',
        f"@{tmp_path}/file.json",
        "-",
        stdin='{"é": 1.5}'.encode(),
        **locale,
    )
    assert (done.status, done.stdout.decode()) == (0, '["é", ["a", "é"], {"é": 1.5}]\n')


@pytest.mark.parametrize(
    ("value", "texts"),
    [
        ("hello", ["expected JSON, found hello:", "a string is written as"]),
        ("[1, x]", ["expected JSON, found [1, x]:"]),
        ("", ["expected JSON, found"]),
        ("--timeout", ["expected JSON, found --timeout:", "options go before PACKAGE"]),
        ("--help", ["expected JSON, found --help:", "options go before PACKAGE"]),
        ("-", ["expected JSON"]),
        ("@", ["@"]),
        ("@/nonexistent/file", ["/nonexistent/file: No such file or directory"]),
        ("@/", ["/: Is a directory"]),
        ("[" * 100000, ["expected JSON, found [[[["]),
        ("[" * 1024 + "]" * 1024, ["no request can carry this", "1023"]),
        ("18446744073709551616", ["no request can carry this", "64 bits"]),
        ('"\\ud800"', ["no request can carry this", "surrogate"]),
    ],
    ids=range(13),
)
def test_a_value_that_cannot_be_sent_is_wrong_usage_and_is_shown(run, value, texts):
    done = run("buffers", "echo", "1", value)
    assert (done.status, done.stdout) == (2, b"")
    for text in texts:
        assert text in done.complaint
    assert len(done.complaint) < 500


def test_a_request_that_is_too_large_is_wrong_usage(run):
    done = run("buffers", "echo", "-", stdin=b'"' + b"x" * (8 << 20) + b'"')
    assert (done.status, done.stdout) == (2, b"")
    assert (
        "no request can carry this: expected a frame body of at most 8388608 bytes"
        in done.complaint
    )


@pytest.mark.parametrize(
    ("outputs", "stdout"),
    [
        (
            protocol.pack_values({1: "a", 2.5: "b", None: b"\x00\xff"}),
            b'[{"1": "a", "2.5": "b", "null": [0, 255]}]\n',
        ),
        (protocol.pack_values(float("nan"), [b"", [b"\x01"]]), b"[NaN, [[], [[1]]]]\n"),
        (
            protocol.encode_payload([b"\x91" * 1023 + b"\x01"]),
            b"[" * 1024 + b"1" + b"]" * 1024 + b"\n",
        ),
        (b"", b""),
        (b"\2\0\0\0\1", b""),
        (bytes(range(256)) * 4000, b""),
        (protocol.pack_values({b"k": 1}), b""),
    ],
    ids=["keys", "bytes", "deep", "empty", "cut", "large", "key"],
)
def test_outputs_that_json_lacks_are_readable_or_for_raw(run, other, outputs, stdout):
    reply = protocol.encode_frame(
        protocol.encode_response(protocol.Result(protocol.Success(outputs), 1))
    )
    other.write_text(f"#!{sys.executable} -IS\nimport os\nos.write(1, {reply!r})\n")
    done = run("--executor", other, "p", "t")
    assert (done.status, done.stdout) == (0 if stdout else 1, stdout), done.stderr
    assert ("--raw" in done.stderr) == (not stdout)
    assert run("--raw", "--executor", other, "p", "t")[:2] == (0, outputs)


@pytest.mark.parametrize(
    ("package", "task", "text"),
    [
        (
            TASKS,
            "always_fail",
            f"{TASKS} always_fail: TaskError: ExecutionError: always_fail: intentional failure",
        ),
        (TASKS, "fibonaci", "TaskError: TaskNotFound: fibonaci"),
        ("none", "t", "InvalidLibrary: "),
        ("..", "t", "InvalidLibrary: "),
    ],
)
@PLACES
def test_a_failed_task_is_shown_in_its_own_words(run, place, package, task, text):
    done = run(*place, package, task)
    assert (done.status, done.stdout) == (1, b"")
    assert text in done.complaint


@PLACES
def test_a_directory_that_cannot_be_listed_is_no_failure(
    run, place, build_package, tmp_path
):
    """As with mode 0711, for another user than the owner."""
    build.stage(tmp_path, "odd", odd.build(build_package))
    tmp_path.chmod(0o311)
    options = {"shell": cli.WITHOUT_RIGHTS, "ODD_TRACE": ""}
    done = run("--package-dir", tmp_path, *place, "odd", "error", **options)
    assert (done.status, done.stdout) == (1, b"")
    assert "odd error: ErrorPayloadDeserializationFailure" in done.complaint
    assert run("--package-dir", tmp_path, *place, "odd", "answer", **options)[:2] == (
        0,
        b"[1]\n",
    )


@pytest.mark.parametrize(
    ("options", "task", "text"),
    [
        ([], ["exiting", "_exit:7"], "exit code 7"),
        ([], ["exiting", "_exit:0"], "exit code 0"),
        ([], ["crashing", "raise:6"], "SIGABRT"),
        (["--timeout", "0.5"], ["crashing", "hang"], "killed"),
    ],
)
def test_no_reply_is_told_from_a_failure(run, options, task, text):
    """SIGCHLD is ignored by some parents. Then the system keeps no exit status."""
    for shell in ('exec "$@"', cli.WITHOUT_SIGCHLD):
        done = run(*options, *task, shell=shell)
        assert (done.status, done.stdout) == (3, b"")
        last = done.stderr.splitlines()[-1]
        assert last.startswith("spider-task-executor: ")
        assert text in last


@PLACES
def test_the_time_is_that_of_the_task(run, place):
    started = time.monotonic()
    done = run(*place, "process", "sleep:50")
    round_trip = (time.monotonic() - started) * 1e6
    (elapsed,) = re.fullmatch(r"elapsed: (\d+) µs\n", done.stderr).groups()
    assert 50_000 <= int(elapsed) < round_trip


def test_repeat_asks_one_executor_and_prints_how_times_are_distributed(run):
    done = run("--repeat", "20", "process", "sleep:2", RUST_LOG="info")
    assert done.stderr.count("Executor starts.") == 1
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert [line[:15].strip() for line in lines] == ["in the executor", "round trip"]
    for line in lines:
        times = list(map(int, re.findall(r"(\d+) µs", line)))
        assert len(times) == 4
        assert times == sorted(times)
        assert times[0] >= 2000


def test_a_terminal_is_told_after_some_seconds_how_to_limit_the_wait(run, package_dir):
    notice, directory = (
        "still waiting; --timeout SECONDS limits the wait",
        ["--package-dir", package_dir],
    )
    slow = ["process", "sleep:6000"]
    with ThreadPoolExecutor() as pool:
        limited = pool.submit(
            cli.call_on_terminal, "run", *directory, "--timeout", "15", *slow
        )
        piped = pool.submit(run, *slow)
        waiting = cli.call_on_terminal(
            "run", *directory, "crashing", "hang", until=notice
        )
    assert waiting.status == 130
    assert waiting.stderr.count(notice) == 1
    for done in (limited.result(), piped.result()):
        assert done.status == 0
        assert "still waiting" not in done.stderr


@pytest.mark.parametrize(
    ("task", "status"), [(["crashing", "raise:11"], -11), (["exiting", "_exit:7"], 7)]
)
def test_in_process_is_this_very_process(run, task, status):
    assert run("--in-process", *task).status == status


@PLACES
def test_what_a_task_prints_is_no_output(run, place):
    done = run(*place, "descriptors", "print:2")
    assert (done.status, done.stdout) == (0, b"[2]\n")
    assert {"printed line 0", "printed line 1"} < set(done.stderr.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_task_in_process(package_dir, number):
    task = ("--in-process", "--package-dir", package_dir, "crashing", "hang")
    done = cli.interrupt(
        lambda pid: "libcrashing.so" in process.maps(pid), "run", *task, number=number
    )
    assert (done.status, done.stdout) == (-number, b"")


@pytest.mark.parametrize(
    ("task", "status", "count"),
    [
        ("echo", 0, 5),
        ("echo_error:1", 1, 1),
        ("error_of_size:99", 1, 1),
        ("zeros:8388585", 1, 1),
        ("empty_null", 1, 0),
    ],
)
def test_in_process_frees_each_buffer_once(
    run, build_package, tmp_path, task, status, count
):
    counts = preload.BufferCounts(build_package, tmp_path)
    done = run("--in-process", "--repeat", "5", "buffers", task, '"text"', **counts.env)
    assert (done.status, done.stdout) == (status, b"" if status else b'["text"]\n')
    assert counts.read() == (count, count, 0)


def test_another_executor_is_started_without_arguments(run, other, tmp_path):
    command = " ".join(f"'{part}'" for part in cli.COMMAND)
    other.write_text(f"#!/bin/sh\necho $# > {tmp_path}/started\nexec {command}\n")
    for name in (other, os.path.relpath(other)):
        assert run("--executor", name, TASKS, "fibonacci", "10")[:2] == (0, b"[55]\n")
        assert (tmp_path / "started").read_text() == "0\n"


@pytest.mark.parametrize(
    ("text", "mode", "status", "complaint"),
    [
        ("#!/bin/sh\nexit 9\n", 0o755, 3, "exit code 9"),
        (
            "#!/bin/sh\necho not a frame\n",
            0o755,
            3,
            "expected a frame body of at most 8388608 bytes",
        ),
        ("#!/bin/sh\nprintf '\\0\\0\\0\\4\\0\\0\\0\\7'\n", 0o755, 3, "expected"),
        ("#!/bin/sh\n", 0o644, 2, "executor: Permission denied"),
        ("not a program\n", 0o755, 2, "executor: Exec format error"),
        ("#!/nonexistent/python\n", 0o755, 2, "executor: .*interpreter"),
        (None, None, 2, "executor: No such file or directory$"),
    ],
)
def test_an_executor_that_does_not_serve(run, other, text, mode, status, complaint):
    if text is None:
        other.unlink()
    else:
        other.write_text(text)
        other.chmod(mode)
    done = run("--executor", other, TASKS, "fibonacci", "10")
    assert (done.status, done.stdout) == (status, b"")
    assert re.search(complaint, done.complaint)
