"""The command `run`: real executors, real packages, and what a shell gets to see of them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import pytest
from helpers import cli, executor

import protocol
import spider_executor

pytestmark = pytest.mark.ours

TASKS = "integration_test_tasks"


@pytest.fixture
def run(package_dir):
    def run(*arguments, **options):
        return cli.call("run", "--package-dir", package_dir, *arguments, **options)

    return run


@pytest.fixture
def show(run, tmp_path):
    """What `run` makes of given bytes as a task's outputs."""

    def show(outputs, *options):
        path = tmp_path / "outputs"
        path.write_bytes(outputs)
        return run("odd", "context", "--context", path, *options)

    return show


# --------------------------------------------------------------------------------------------------- values and outputs


def test_the_outputs_are_one_array_and_the_time_goes_to_stderr(run):
    done = run(TASKS, "fibonacci", "30")
    assert (done.status, done.stdout) == (0, b"[832040]\n")
    assert re.fullmatch(r"elapsed: \d+ µs\n", done.stderr)


def test_no_outputs_are_an_empty_array(run):
    assert run(TASKS, "assert_initialized")[:2] == (0, b"[]\n")


def test_the_directory_may_come_from_the_environment(package_dir):
    done = cli.call("run", TASKS, "fibonacci", "10", SPIDER_TDL_PACKAGE_DIR=str(package_dir))
    assert (done.status, done.stdout) == (0, b"[55]\n")


def test_json_goes_in_as_msgpack(run):
    values = {
        "1": "01",
        "1.0": "cb3ff0000000000000",
        "-5": "fb",
        "-1e3": "cbc08f400000000000",
        "18446744073709551615": "cfffffffffffffffff",
        "-9223372036854775808": "d38000000000000000",
        "-Infinity": "cbfff0000000000000",
        "NaN": "cb7ff8000000000000",
        '"\u00e9\\n"': "a3c3a90a",
        "[1, [2.5], []]": "930191cb400400000000000090",
        '{"k": true}': "81a16bc3",
        "false": "c2",
        "null": "c0",
    }
    done = run("buffers", "echo", "--raw", *values)
    assert (done.status, done.stdout) == (0, protocol.encode_payload(map(bytes.fromhex, values.values())))


def test_outputs_come_out_as_json(run):
    values = ['["\u00e9", 1, 2.5, true, null]', '{"a": {"b": []}}', "-Infinity"]
    assert run("buffers", "echo", *values).stdout.decode() == f"[{', '.join(values)}]\n"


def test_what_json_lacks_comes_out_readable(show):
    done = show(protocol.pack_values({1: "a", 2.5: "b", None: b"\x00\xff", b"\x01\x02": [b""]}, float("nan")))
    assert (done.status, done.stdout) == (0, b'[{"1": "a", "2.5": "b", "null": [0, 255], "[1, 2]": [[]]}, NaN]\n')


def test_the_deepest_outputs_come_out(show):
    depth = protocol.MSGPACK_DEPTH_MAX
    done = show(protocol.encode_payload([b"\x91" * depth + b"\x01"]))
    assert (done.status, done.stdout) == (0, b"[" * (depth + 1) + b"1" + b"]" * (depth + 1) + b"\n")


def test_outputs_that_are_no_payload_are_a_failed_task(show):
    done = show(b"\x02\x00\x00\x00\x01\x00\x00\x00\xc1")
    assert (done.status, done.stdout) == (1, b"")
    assert "the task's outputs cannot be read: expected" in done.stderr
    assert "--raw" in done.stderr


@pytest.mark.parametrize(
    "outputs", [b"", b"\x02\x00\x00\x00\x01", bytes(range(256)) * 4096], ids=["empty", "torn", "large"]
)
def test_raw_outputs_come_out_as_they_are(show, outputs):
    assert show(outputs, "--raw")[:2] == (0, outputs)


def test_values_come_from_files_and_stdin(run, tmp_path):
    path = tmp_path / "file.json"
    path.write_text('["a", "\u00e9"]\n', encoding="utf-8")
    done = run("buffers", "echo", "0", f"@{path}", "-", stdin=b'{"x": 1.5}')
    assert json.loads(done.stdout) == [0, ["a", "\u00e9"], {"x": 1.5}]


def test_options_may_stand_anywhere_before_a_double_dash(run):
    assert run("buffers", "--timeout=20", "echo", "1", "--repeat", "1", "--", "-2").stdout == b"[1, -2]\n"


def test_a_commit_task_takes_the_values_as_its_graph_outputs(run):
    assert run("--commit", TASKS, "assert_outputs_sum_zero", "3", "-3")[:2] == (0, b"[]\n")
    done = run("--commit", TASKS, "assert_outputs_sum_zero", "3", "-5")
    assert (done.status, done.stdout) == (1, b"")
    assert done.complaint.endswith("do not sum to zero: got -2")


def test_a_context_is_sent_as_it_is(run, tmp_path):
    path = tmp_path / "context"
    outputs = b"\x00" + protocol.pack_values(1, 2)
    path.write_bytes(protocol.TaskContext(task_id=protocol.COMMIT, graph_outputs=outputs).encode())
    done = run("--context", path, TASKS, "assert_outputs_sum_zero")
    assert done.status == 1
    assert done.complaint.endswith("do not sum to zero: got 3")


# ------------------------------------------------------------------------------------------------------ how it can fail


def test_a_failed_task(run):
    done = run(TASKS, "always_fail")
    assert (done.status, done.stdout) == (1, b"")
    assert done.complaint == f"{TASKS} always_fail: TaskError: ExecutionError: always_fail: intentional failure"


def test_an_unknown_task(run):
    done = run(TASKS, "fibonaci", "1")
    assert done.status == 1
    assert done.complaint.endswith("TaskNotFound: fibonaci")


def test_an_unknown_package_and_the_one_that_was_meant(run):
    done = run("integration_test_task", "fibonacci", "1")
    assert (done.status, done.stdout) == (1, b"")
    assert "InvalidLibrary" in done.complaint
    assert done.complaint.endswith("No such file or directory; did you mean integration_test_tasks?")


def test_text_from_a_package_stays_on_one_line(run):
    done = run("buffers", "no\nsuch\x1b[2Jt\u00e4sk")
    assert done.status == 1
    assert done.complaint.endswith(r"TaskNotFound: no\nsuch\x1b[2Jt" + "\u00e4sk")


@pytest.mark.parametrize(
    ("package", "task", "ending"),
    [(TASKS, "always_panic", "killed by SIGABRT"), ("exiting", "_exit:7", "exit code 7")],
)
def test_a_crash(run, package, task, ending):
    done = run(package, task)
    assert (done.status, done.stdout) == (3, b"")
    assert done.stderr.endswith(f"spider-task-executor: run: the executor ended without a reply: {ending}\n")


def test_a_timeout(run):
    done = run("crashing", "hang", "--timeout", "0.3")
    assert (done.status, done.stdout) == (3, b"")
    assert done.stderr.endswith("spider-task-executor: run: no reply within 0.3 s; the executor was killed\n")


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("hello", """value 3: expected JSON: Expecting value: .*; a string needs quotes of its own: '"hello"'"""),
        ("[1,", "value 3: expected JSON: Expecting value: .*"),
        ("", "value 3: expected JSON: .*"),
        ("-", r"value 3 \(stdin\): expected JSON: .*"),
        ("[" * 100000, "value 3: expected JSON: it is nested too deep"),
        ("[" * 1024 + "]" * 1024, "no request can carry this: msgpack nests at most 1023 deep"),
        ("18446744073709551616", "no request can carry this: msgpack carries integers from .*"),
        ("-9223372036854775809", "no request can carry this: msgpack carries integers from .*"),
        ('"\\ud800"', "no request can carry this: text holds a lone surrogate at character 0"),
        ("1e400", "value 3: expected JSON: 1e400 does not fit a double"),
        ("@", "value 3: expected the name of a file behind @"),
    ],
    ids=range(11),
)
def test_a_value_that_cannot_be_sent(run, value, complaint):
    done = run("buffers", "echo", "1", "2", value)
    assert (done.status, done.stdout) == (2, b"")
    assert re.fullmatch(f"run: {complaint}", done.complaint)


def test_a_request_that_is_too_large(run):
    done = run("buffers", "echo", "-", stdin=b'"' + b"x" * (8 << 20) + b'"')
    assert done.status == 2
    assert done.complaint.startswith(
        "run: no request can carry this: a frame's body holds at most 8388608 bytes, not 8388"
    )


def test_files_that_cannot_be_read(run, tmp_path):
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe\xfd")
    for arguments, complaint in (
        ([f"@{tmp_path}/none.json"], f"{tmp_path}/none.json: No such file or directory"),
        ([f"@{tmp_path}"], f"{tmp_path}: Is a directory"),
        (["--context", f"{tmp_path}/none"], f"{tmp_path}/none: No such file or directory"),
    ):
        done = run("buffers", "echo", *arguments)
        assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)
    done = run("buffers", "echo", f"@{tmp_path}/bad.json")
    assert done.status == 2
    assert done.complaint.startswith(f"run: value 1 ({tmp_path}/bad.json): expected JSON: ")


def mapped_files(pid):
    try:
        with open(f"/proc/{pid}/maps") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def test_ctrl_c_ends_the_executor_too(package_dir):
    def ready(pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            executors[:] = file.read().split()
        return any("libcrashing.so" in mapped_files(executor) for executor in executors)

    executors = []
    done = cli.interrupt(ready, "run", "--package-dir", package_dir, "crashing", "hang")
    assert done[:2] == (130, b"")
    assert done[2] in ("", "hanging\n")  # The library is mapped a little before its task prints.
    assert [os.path.exists(f"/proc/{executor}") for executor in executors] == [False]


# ----------------------------------------------------------------------------------------------------------- many times


def test_repeat_prints_the_outputs_once_and_a_summary(run):
    done = run("--repeat", "20", TASKS, "fibonacci", "12")
    assert (done.status, done.stdout) == (0, b"[144]\n")
    head, *rows = done.stderr.splitlines()
    assert re.fullmatch(r"µs, 20 requests +min +P50 +P99 +max", head)
    assert [row[:20].rstrip() for row in rows] == ["in the executor", "round trip"]
    for row in rows:
        times = [int(cell) for cell in row[20:].split()]
        assert len(times) == 4
        assert times == sorted(times)


def test_repeat_keeps_one_executor(run):
    done = run("--repeat", "3", "process", "change_directory", RUST_LOG="info")
    assert done.status == 0
    assert done.stderr.count("Package loaded.") == 1


def test_repeat_ends_at_the_first_failure(run):
    done = run("--repeat", "1000000000", TASKS, "always_fail")
    assert (done.status, done.stdout) == (1, b"")
    assert "always_fail: intentional failure" in done.complaint


# ---------------------------------------------------------------------------------------------------------- in-process


def test_in_process_gives_the_same(run):
    assert run("--in-process", TASKS, "fibonacci", "20")[:2] == (0, b"[6765]\n")
    done = run("--in-process", TASKS, "always_fail")
    assert done == run(TASKS, "always_fail")
    assert done.status == 1
    assert run("--in-process", "none", "fibonacci").status == 1


def test_in_process_is_this_very_process(run):
    assert run("--in-process", "crashing", "sigsegv").status == -signal.SIGSEGV
    assert run("--in-process", "exiting", "_exit:7").status == 7


@pytest.mark.parametrize("where", [[], ["--in-process"]])
def test_what_a_task_prints_is_no_output(run, where):
    done = run(*where, "descriptors", "print:2")
    assert (done.status, done.stdout) == (0, b"[2]\n")
    assert {"printed line 0", "printed line 1"} < set(done.stderr.splitlines())


def test_ctrl_c_ends_a_task_in_process(package_dir):
    done = cli.interrupt(
        lambda pid: "libcrashing.so" in mapped_files(pid),
        "run",
        "--in-process",
        "--package-dir",
        package_dir,
        "crashing",
        "hang",
    )
    assert (done.status, done.stdout) == (-signal.SIGINT, b"")


# ---------------------------------------------------------------------------------------------------- another executor


@pytest.fixture
def script(tmp_path):
    def script(text):
        path = tmp_path / "executor"
        path.write_text(text)
        path.chmod(0o755)
        return path

    return script


def test_another_executor(run, script, tmp_path):
    command = " ".join(f"'{part}'" for part in cli.COMMAND)
    path = script(f"#!/bin/sh\necho $# > {tmp_path}/started\nexec {command}\n")
    done = run("--executor", path, TASKS, "fibonacci", "10")
    assert (done.status, done.stdout) == (0, b"[55]\n")
    assert (tmp_path / "started").read_text() == "0\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("exit 9", "run: the executor ended without a reply: exit code 9"),
        ("echo this is no frame", "run: the executor's reply cannot be read: expected a frame's header of at most .*"),
        (r"printf '\0\0\0\4\0\0\0\7'", "run: the executor's reply cannot be read: expected response tag 0 .*"),
    ],
)
def test_an_executor_that_does_not_reply(run, script, text, complaint):
    done = run("--executor", script(f"#!/bin/sh\n{text}\n"), TASKS, "fibonacci", "10")
    assert (done.status, done.stdout) == (3, b"")
    assert re.fullmatch(complaint, done.complaint)


def test_an_executor_that_does_not_start(run, script, tmp_path):
    done = run("--executor", tmp_path / "none", TASKS, "fibonacci", "10")
    assert (done.status, done.complaint) == (2, f"{tmp_path}/none: No such file or directory")
    path = script("no program\n")
    done = run("--executor", path, TASKS, "fibonacci", "10")
    assert (done.status, done.complaint) == (2, f"{path}: Exec format error")


# --------------------------------------------------------------------------------------------------------------- usage


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "run: expected PACKAGE TASK [VALUE ...]; see --help"),
        (["p"], "run: expected PACKAGE TASK [VALUE ...]; see --help"),
        (["p", "t", "--in-process", "--timeout", "1"], "run: --in-process and --timeout exclude each other"),
        (["p", "t", "--in-process", "--executor", "x"], "run: --in-process and --executor exclude each other"),
        (["p", "t", "--commit", "--context", "x"], "run: --commit and --context exclude each other"),
        (["p", "t", "--repeat", "0"], "--repeat: expected a positive number (int) up to 1000000000, found 0"),
        (["p", "t", "--repeat=1.5"], "--repeat: expected a positive number (int) up to 1000000000, found 1.5"),
        (["p", "t", "--timeout", "nan"], "--timeout: expected a positive number (float) up to 1000000, found nan"),
        (["p", "t", "--timeout", "-1"], "--timeout: expected a positive number (float) up to 1000000, found -1"),
        (["p", "t", "--timeout", "inf"], "--timeout: expected a positive number (float) up to 1000000, found inf"),
    ],
)
def test_wrong_usage(run, arguments, complaint):
    done = run(*arguments)
    assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)


def test_help_behind_a_double_dash_is_a_value(run):
    done = run(TASKS, "fibonacci", "--", "--help")
    assert done.status == 2
    assert "expected JSON" in done.complaint


def test_values_are_utf8_in_any_locale(package_dir):
    environment = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = cli.call("run", "--package-dir", package_dir, TASKS, "sleep_and_echo", '["é"]', **environment)
    assert (done.status, done.stdout.decode()) == (0, '[["é"]]\n')


def test_percentiles():
    samples = iter(range(1, 1001))
    lines = []

    def execute():
        return protocol.Result(protocol.Success(b""), next(samples))

    spider_executor._repeat(1000, execute, lines.append)
    assert lines[1].split() == ["in", "the", "executor", "1", "500", "990", "1000"]


# -------------------------------------------------------------------------------------------------------------- stdout


def shell(package_dir, redirection):
    """Run fibonacci with its stdout as a shell redirects it."""
    command = " ".join(f"'{part}'" for part in cli.COMMAND)
    line = f"{command} run --package-dir '{package_dir}' {TASKS} fibonacci 10 {redirection}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=executor.DEADLINE, check=False)
    return done.returncode, done.stdout, done.stderr.decode()


def test_a_full_disk(package_dir):
    status, _, stderr = shell(package_dir, "> /dev/full")
    assert status == 1
    assert stderr.endswith("spider-task-executor: No space left on device\n")
    assert len(stderr.splitlines()) == 2


def test_a_closed_stdout_and_a_closed_stdin(package_dir):
    status, stdout, stderr = shell(package_dir, ">&- <&-")
    assert (status, stdout) == (0, b"")
    assert stderr.startswith("elapsed: ")


def test_a_closed_stderr(package_dir):
    assert shell(package_dir, "2>&-") == (0, b"[55]\n", "")


def test_nobody_reads_stdout(package_dir):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [*cli.COMMAND, "run", "--package-dir", str(package_dir), TASKS, "fibonacci", "10"],
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=executor.DEADLINE,
            check=False,
        )
    assert done.returncode == 141
    assert re.fullmatch(r"elapsed: \d+ µs\n", done.stderr.decode())
