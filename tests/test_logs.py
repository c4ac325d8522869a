"""The logs: what RUST_LOG lets through, one JSON object per line, and a stderr that is full, broken or closed."""

from __future__ import annotations

import datetime
import json
import os
import re
import select
import signal
import socket
import time

import pytest
from helpers import build, executor, process
from helpers.executor import request

STARTS, SHUTDOWN, EXITS = "Executor starts.", "Received shutdown request.", "Executor exits."
OFF, ERROR, WARN, INFO, DEBUG, TRACE = range(6)

# RUST_LOG, and the level of this program.
FILTERS = [
    ("off", OFF),
    ("error", ERROR),
    ("warn", WARN),
    ("info", INFO),
    ("debug", DEBUG),
    ("trace", TRACE),
    ("wArN", WARN),
    ("INFO", INFO),
    ("0", OFF),
    ("1", ERROR),
    ("2", WARN),
    ("3", INFO),
    ("4", DEBUG),
    ("5", TRACE),
    ("spider=info", INFO),
    ("s=info", INFO),
    ("spider_task_executor=INFO", INFO),
    ("spider_task_executor=3", INFO),
    ("spider_task_executor=off", OFF),
    ("spider_task_executor", TRACE),
    ("spider", TRACE),
    # The longest match wins, wherever it is.
    ("info,spider=off", OFF),
    ("spider=off,info", OFF),
    ("spider=off,spider_task_executor=info", INFO),
    ("spider_task_executor=info,spider=off", INFO),
    ("off,spider_task=info,spider=warn", INFO),
    ("trace,spider_task_executor=error,spider_task=trace", ERROR),
    # Among equals, the last.
    ("info,off", OFF),
    ("off,info", INFO),
    ("spider=info,spider=error", ERROR),
    # Directives for other targets.
    ("info,tokio=off", INFO),
    ("info,spider_task_executor_x=off", INFO),
    ("info,spider_task_executor::serve=off", INFO),
    ("info,xspider=off", INFO),
    ("tokio=trace,hyper=debug,warn", WARN),
    ("info,", INFO),
    (",info,,", INFO),
]
# Spider's executor takes these in another way.
OWN_FILTERS = [
    (None, ERROR),
    ("", ERROR),
    (",", ERROR),
    ("   ", ERROR),
    ("tokio=trace", ERROR),
    ("other", ERROR),
    ("tokio=off", ERROR),
    (" info ", INFO),
    ("  spider = info , tokio = trace ", INFO),
    ("warn , spider_task_executor = debug", DEBUG),
    ("off, info", INFO),
]
# Directives that cannot be parsed: RUST_LOG, the level, and the directives.
BAD_FILTERS = [
    ("verbose=", ERROR, ["verbose="]),
    ("=info", ERROR, ["=info"]),
    ("=", ERROR, ["="]),
    ("spider=loud", ERROR, ["spider=loud"]),
    ("spider=6", ERROR, ["spider=6"]),
    ("spider=-1", ERROR, ["spider=-1"]),
    ("a b", ERROR, ["a b"]),
    ("off,spider=loud", OFF, ["spider=loud"]),
    ("spider=loud,info", INFO, ["spider=loud"]),
    ("x=y=z,spider=debug,?", DEBUG, ["x=y=z", "?"]),
    ('"quoted\\"', ERROR, ['"quoted\\"']),
    ("info,\udcff\udcfe=info", INFO, ["\udcff\udcfe=info"]),
]


@pytest.mark.parametrize(("text", "level"), FILTERS)
def test_rust_log(spawn, text, level):
    child = spawn(env={"RUST_LOG": text})
    assert child.finish() == (b"", 0)
    lines = [line["fields"]["message"] for line in child.log_lines() if line["level"] in ("INFO", "WARN", "ERROR")]
    assert lines == ([STARTS, EXITS] if level >= INFO else [])


@pytest.mark.ours
@pytest.mark.parametrize(
    ("text", "level", "bad"), [(text, level, []) for text, level in FILTERS + OWN_FILTERS] + BAD_FILTERS
)
def test_each_level_has_its_lines_and_each_bad_directive_a_warning(spawn, tmp_path, text, level, bad):
    """The executor has no package directory, answers one request, and gets rubbish."""
    child = spawn(tmp_path / "none", env={"RUST_LOG": text})
    assert child.finish(request("none", "task") + bytes(4))[1] == 1
    lines = child.log_lines()
    warnings = [line for line in lines if "RUST_LOG" in line["fields"]["message"]]
    assert [line["fields"]["directive"] for line in warnings] == bad
    assert {line["level"] for line in warnings} <= {"WARN"}
    levels = [line["level"] for line in lines if line not in warnings]
    life = [("INFO", INFO), ("WARN", WARN), ("DEBUG", DEBUG), ("ERROR", ERROR)]
    assert levels == [name for name, needed in life if level >= needed]


def test_the_info_lines_of_a_life(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    assert [line["fields"]["message"] for line in child.log_lines()] == [STARTS, SHUTDOWN, EXITS]
    assert {line["level"] for line in child.log_lines()} == {"INFO"}


@pytest.mark.ours
def test_no_line_by_default(spawn):
    """Even if tasks fail."""
    child = spawn()
    assert child.serves()
    assert child.call("buffers", "none").kind == "TaskError"
    assert child.call("none", "task").kind == "InvalidLibrary"
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    assert child.stderr() == ""


# ---------------------------------------------------------------------------------------------------------------- lines


def test_the_shape_of_a_line(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    lines = child.stderr().splitlines(keepends=True)
    assert len(lines) == 2
    for line in lines:
        entry = json.loads(line)
        assert list(entry) == ["timestamp", "level", "fields", "filename", "line_number"]
        assert list(entry["fields"]) == ["message"]
        assert entry["filename"]
        assert type(entry["line_number"]) is int
        # Without blanks, as Spider writes it.
        assert line == json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n"


@pytest.mark.ours
def test_timestamps_are_utc_with_six_digits_of_microseconds(spawn):
    """A hundred of them: of ten, one starts with a zero."""
    child = spawn(env={"RUST_LOG": "debug", "TZ": "Asia/Tokyo"})
    assert child.serves()
    digits = set()
    for _ in range(100):
        count = len(child.log_lines())
        before = time.time_ns() // 1000
        assert child.serves()
        executor.wait_for(lambda count=count: len(child.log_lines()) > count, "the line")
        text = child.log_lines()[-1]["timestamp"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
        moment = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ") - datetime.datetime(1970, 1, 1)
        assert before <= moment // datetime.timedelta(microseconds=1) <= time.time_ns() // 1000
        digits.add(text[20])
    assert len(digits) > 1


@pytest.mark.ours
def test_the_line_number_is_where_it_was_written(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    source = (build.ROOT / "spider_executor.py").read_text().splitlines()
    for entry in child.log_lines():
        assert entry["filename"] == "spider_executor.py"
        assert entry["fields"]["message"] in source[entry["line_number"] - 1]


NAMES = ['quote"backslash\\', "line\nfeed\r\ttab", "é 日本 🕷", "\x01\x1f\x7f", "\u2028\x85\u202e\u2066", "\x00"]


@pytest.mark.ours
@pytest.mark.parametrize("name", NAMES)
def test_text_from_outside_is_escaped(spawn, name):
    child = spawn(env={"RUST_LOG": "debug"})
    child.send(request("buffers", name))
    child.receive()
    assert child.finish() == (b"", 0)
    answered = child.stderr().split("\n")[1]
    assert json.loads(answered)["fields"]["task"] == f"buffers::{name}"
    assert all(character.isprintable() for character in answered)
    assert name not in answered or name.isprintable()


@pytest.mark.ours
def test_a_path_that_is_not_utf8(spawn, tmp_path):
    child = spawn(f"{tmp_path}/no utf-8 \udcff\udc80", env={"RUST_LOG": "warn"})
    assert child.finish() == (b"", 0)
    (line,) = child.log_lines()
    assert line["fields"]["path"].startswith(f"{tmp_path}/no utf-8 ")


@pytest.fixture
def log():
    """A stderr, and a function that returns what was written to it: one item for each write."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)

        def written():
            found = []
            while True:
                try:
                    found.append(ours.recv(1 << 20))
                except BlockingIOError:
                    return found

        yield theirs, written


@pytest.mark.ours
def test_a_line_is_one_write(spawn, log):
    stderr, written = log
    child = spawn(stderr=stderr, env={"RUST_LOG": "debug,bad="})
    assert child.serves()
    assert child.finish(bytes(4)) == (b"", 1)
    lines = written()
    assert [json.loads(line)["level"] for line in lines] == ["INFO", "WARN", "DEBUG", "ERROR"]
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)


@pytest.mark.ours
@pytest.mark.parametrize("character", ["x", "\udcff", "\U000e0001"], ids=ascii)
def test_a_line_has_less_than_64_kib(spawn, log, character):
    """The parent drops longer ones. The task and the directive are long, and each character may be escaped."""
    stderr, written = log
    size = 100_000 // len(os.fsencode(character))
    child = spawn(stderr=stderr, env={"RUST_LOG": f"debug,={character * size}"})
    task = ("\0" if character == "\udcff" else character) * size
    assert child.call("buffers", task).kind == "TaskError"
    assert child.finish() == (b"", 0)
    lines = written()
    assert len(lines) == 4
    assert max(map(len, lines)) < 65536
    fields = [json.loads(line)["fields"] for line in lines]
    assert fields[1]["directive"].startswith(f"={character * 1000}")
    assert fields[2]["task"].startswith(f"buffers::{task[:300]}")


# --------------------------------------------------------------------------------------------------------------- stderr


@pytest.mark.ours
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2</dev/null", "2>&-"])
def test_a_stderr_that_cannot_be_written_changes_nothing_else(spawn, redirection):
    child = spawn(shell=f'exec "$@" {redirection}', env={"RUST_LOG": "trace,bad="})
    assert child.call("descriptors", "print:10") == [10]
    assert child.serves()
    assert child.call("odd", "answer") == [1]
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.fixture
def broken(spawn):
    """An executor, and the reading end of its stderr."""
    log, stderr = os.pipe()
    child = spawn(stderr=stderr, env={"RUST_LOG": "trace"})
    os.close(stderr)
    with open(log, "rb", 0) as reader:
        yield child, reader


@pytest.mark.ours
def test_prints_go_nowhere_after_the_reader_of_stderr_has_gone(broken):
    """A failed write would end tasks in Rust and Go. `write_by_default` gives SIGPIPE its default action."""
    child, reader = broken
    assert child.serves()
    reader.close()
    executor.wait_for(lambda: process.descriptors(child.pid)[2] == "/dev/null", "fd 2 to be /dev/null")
    assert process.descriptors(child.pid)[1] == "/dev/null"
    for fd in (1, 2):
        assert child.call("descriptors", f"write_by_default:{fd}") == [0]
    assert child.call("descriptors", "print:10000") == [10000]
    assert child.serves()
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_prints_go_nowhere_while_a_task_runs(broken):
    child, reader = broken
    child.send(request("process", "sleep:1000") + request("descriptors", "write_by_default:2"))
    reader.close()
    assert executor.outcome(child.receive()) == [1000]
    assert executor.outcome(child.receive()) == [0]
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_what_a_task_has_put_in_the_place_of_stderr_stays(broken):
    child, reader = broken
    assert child.call("descriptors", "dup_over_standard") == [1]
    before = process.descriptors(child.pid)
    reader.close()
    time.sleep(0.5)
    after = process.descriptors(child.pid)
    assert [after[fd] for fd in (1, 2)] == [before[fd] for fd in (1, 2)]
    assert child.serves()
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_a_crash_report_to_a_broken_stderr_does_not_change_the_exit_status(broken):
    child, reader = broken
    assert child.serves()
    reader.close()
    child.send(request("crashing", "sigsegv"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)


def test_a_stderr_that_nobody_reads_for_a_while_loses_nothing(broken):
    child, reader = broken
    child.send(request("descriptors", "print:20000"))
    assert select.select([child.process.stdout], [], [], 0.3) == ([], [], [])
    text = b""
    while b"printed line 19999\n" not in text:
        assert select.select([reader], [], [], executor.DEADLINE)[0]
        text += reader.read(1 << 16)
    assert executor.outcome(child.receive()) == [20000]
    printed = [line for line in text.decode().splitlines() if not line.startswith("{")]
    assert printed == [f"printed line {number}" for number in range(20000)]
    assert child.finish() == (b"", 0)


@pytest.mark.ours
def test_logs_are_written_after_a_task_has_closed_fd_2(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    assert child.call("descriptors", "close_standard") == [1]
    assert child.finish(bytes(4)) == (b"", 1)
    assert [line["level"] for line in child.log_lines()] == ["INFO", "ERROR"]
