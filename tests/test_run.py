"""The command `run`: real executors, real packages, and what a shell sees of them."""

import errno
import functools
import os
import re
import sys
import time

import pytest
from helpers import build, cli, odd
from helpers.rows import lines, rows

import protocol

pytestmark = pytest.mark.ours

FIBONACCI = ("integration_test_tasks", "fibonacci", "10")


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


# The arguments, without blanks in one, and the outputs.
LINES = """
integer        | integration_test_tasks fibonacci 30             | `'[832040]'`
nothing        | integration_test_tasks assert_initialized       | `'[]'`
several values | buffers echo ["é",2.5,null] {}          | `'[["é", 2.5, null], {}]'`
negative       | buffers echo -1 -1e5                            | `'[-1, -100000.0]'`
after dashes   | buffers echo -- -1                              | `'[-1]'`
option, dashes | --repeat 3 -- buffers echo 1                    | `'[1]'`
option, late   | buffers --repeat=3 echo 1                       | `'[1]'`
commit         | --commit integration_test_tasks assert_outputs_sum_zero 3 -3 | `'[]'`
"""


@rows("arguments, line", LINES)
def test_the_outputs_are_one_line_of_json(run, arguments, line):
    done = run(*arguments.split())
    assert (done.status, done.stdout.decode()) == (0, f"{line}\n"), done.stderr


def test_values_are_sent_as_the_msgpack_of_their_json(run):
    values = lines(r"""
1                    | 01
1.0                  | cb 3ff0000000000000
-5                   | fb
-1e3                 | cb c08f400000000000
18446744073709551615 | cf ffffffffffffffff
-9223372036854775808 | d3 8000000000000000
-Infinity            | cb fff0000000000000
NaN                  | cb 7ff8000000000000
"é\n"                | a3 c3a90a
[1, [2.5], []]       | 93 01 91 cb4004000000000000 90
{"k": true}          | 81 a16b c3
false                | c2
null                 | c0
""")
    done = run("--raw", "buffers", "echo", *values)
    items = [bytes.fromhex(data) for (data,) in values.values()]
    payload = protocol.encode_payload(items)
    assert (done.status, done.stdout) == (0, payload)


LOCALES = {
    "usual": {},
    "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@rows("locale", LOCALES)
def test_values_are_utf8_in_any_locale(run, tmp_path, locale):
    path = tmp_path / "é.json"
    path.write_text('["a", "é"]\n', encoding="utf-8")
    options = {"stdin": '{"é": 1.5}'.encode(), **locale}
    done = run("buffers", "echo", '"é"', f"@{path}", "-", **options)
    assert (done.status, done.stdout.decode()) == (0, '["é", ["a", "é"], {"é": 1.5}]\n')


NO_JSON = """expected JSON: .* (a string is written as '"text"', a file as @FILE)"""
OPTION = "expected JSON: .* (options go before PACKAGE)"
TOO_MUCH = "no request can carry this: "
# The complaint, with .* for any text.
NOT_SENT = {
    "hello": f"VALUE hello: {NO_JSON}",
    "[1, x]": f"VALUE [1, x]: {NO_JSON}",
    "": f"VALUE : {NO_JSON}",
    "x" * 99999: f"VALUE {'x' * 40}: {NO_JSON}",
    "[" * 99999: f"VALUE {'[' * 40}: {NO_JSON}",
    "--timeout": f"VALUE --timeout: {OPTION}",
    "--help": f"VALUE --help: {OPTION}",
    "-": f"VALUE -: {NO_JSON}",
    "@": f"VALUE @: {NO_JSON}",
    "@/dev/null": f"VALUE @/dev/null: {NO_JSON}",
    "@/nonexistent": "/nonexistent: No such file or directory",
    "@/": "/: Is a directory",
    "[" * 257 + "]" * 257: f"{TOO_MUCH}expected at most 256 .*",
    "18446744073709551616": f"{TOO_MUCH}.*64 bits.*",
    '"\\ud800"': f"{TOO_MUCH}.*surrogate.*",
}


@pytest.mark.parametrize("value", NOT_SENT, ids=lambda text: text[:15])
def test_a_value_that_cannot_be_sent_is_wrong_usage(run, value):
    done = run("buffers", "echo", "1", value)
    assert (done.status, done.stdout) == (2, b"")
    pattern = ".*".join(map(re.escape, NOT_SENT[value].split(".*")))
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


NAN = float("nan")
pack = protocol.pack_values
KEYS = pack({1: "a", 2.5: "b", None: b"\x00\xff"})
DEEP = b"\x91" * 255 + b"\x01"
# The outputs, and what is printed.
OUTPUTS = {
    "keys": (KEYS, b'[{"1": "a", "2.5": "b", "null": [0, 255]}]\n'),
    "bytes": (pack(b"", [b"\x01"]), b"[[], [[1]]]\n"),
    "deep": (protocol.encode_payload([DEEP]), b"[" * 256 + b"1" + b"]" * 256 + b"\n"),
    "nan": (pack(NAN), b""),
    "infinity": (pack([-float("inf")]), b""),
    "nan as key": (pack({NAN: 1}), b""),
    "bytes as key": (pack({b"k": 1}), b""),
    "empty": (b"", b""),
    "cut": (b"\2\0\0\0\1", b""),
    "no payload": (bytes(range(256)) * 4000, b""),
}


@rows("outputs, stdout", OUTPUTS)
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


@rows(
    "package, task, text",
    """
failure    | integration_test_tasks | always_fail
  | TaskError: ExecutionError: always_fail: intentional
no task    | integration_test_tasks | fibonaci | TaskError: TaskNotFound: fibonaci
no package | none | t | `"InvalidLibrary: "`
no name    | ..   | t | `"InvalidLibrary: "`
""",
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


@rows("shell", {"plain": cli.EXEC, "without SIGCHLD": cli.WITHOUT_SIGCHLD})
@rows(
    "arguments, text",
    """
exit 7 | exiting _exit:7  | exit code 7
exit 0 | exiting _exit:0  | exit code 0
crash  | crashing raise:6 | SIGABRT
hang   | --timeout 0.5 crashing hang | killed
""",
)
def test_no_reply_is_told_from_a_failure(run, arguments, text, shell):
    """SIGCHLD is ignored by some parents. Then the system keeps no exit status."""
    done = run(*arguments.split(), shell=shell)
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


@rows(
    "elapsed, text",
    """
one  | `[7]`              | elapsed: 7 µs
odd  | `[9, 2, 70, 3, 5]` | elapsed_us: minimum 2 µs, median 5 µs
even | `[8, 70, 5, 2]`    | elapsed_us: minimum 2 µs, median 5 µs
""",
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
        done = run("--executor", name, *FIBONACCI, shell=shell)
        assert done[:2] == (0, b"[55]\n")
        assert (tmp_path / "started").read_text() == "0\n"


@rows(
    "mode, text, status, complaint",
    r"""
end       | `0o755` | `"#!/bin/sh\nexit 9"`   | 3 | exit code 9$
no frame  | `0o755` | `"#!/bin/sh\necho not a frame"` | 3 | expected a frame body of at
no tag    | `0o755` | `"#!/bin/sh\nprintf '\\0\\0\\0\\4\\0\\0\\0\\7'"` | 3 | expected
mode      | `0o644` | #!/bin/sh             | 2 | executor: Permission denied$
text      | `0o755` | not a program         | 2 | executor: Exec format error$
no python | `0o755` | #!/nonexistent/python | 2 | executor: the interpreter in its first
""",
)
def test_an_executor_that_does_not_serve(run, other, text, mode, status, complaint):
    done = run("--executor", other(f"{text}\n", mode), *FIBONACCI)
    assert (done.status, done.stdout) == (status, b"")
    assert re.search(complaint, done.complaint), done.complaint


def test_an_executor_that_does_not_exist_is_named(run):
    done = run("--executor", "/nonexistent", *FIBONACCI)
    text = "/nonexistent: No such file or directory"
    assert (done.status, done.complaint) == (2, text)


def test_a_lack_of_descriptors_is_not_blamed_on_stdout(run):
    done = run(*FIBONACCI, shell='ulimit -n 6; exec "$@"')
    text = f"executor: cannot be started: {os.strerror(errno.EMFILE)}"
    assert (done.status, done.complaint) == (1, text)
