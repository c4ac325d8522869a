"""The logs: which lines RUST_LOG lets through, and that every line is one JSON object."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time

import pytest
from helpers import build, executor, odd

from spider_executor import DEBUG, ERROR, INFO, TRACE, WARN, Log, parse_log_filter

OFF = 0
STARTS, SHUTDOWN, EXITS = "Executor starts.", "Received shutdown request.", "Executor exits."

# What RUST_LOG says to a program whose target is spider_task_executor.
FILTERS = [
    ("error", ERROR),
    ("warn", WARN),
    ("info", INFO),
    ("debug", DEBUG),
    ("trace", TRACE),
    ("off", OFF),
    ("INFO", INFO),
    ("Off", OFF),
    ("wArN", WARN),
    ("0", OFF),
    ("1", ERROR),
    ("2", WARN),
    ("3", INFO),
    ("4", DEBUG),
    ("5", TRACE),
    ("spider=info", INFO),
    ("spider_task_executor=info", INFO),
    ("spider_task_executor=3", INFO),
    ("spider_task_executor=INFO", INFO),
    ("s=info", INFO),
    ("spider_task_executor", TRACE),
    ("spider", TRACE),
    # The longest match wins, wherever it stands.
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
    # What is for others does not matter to it.
    ("info,tokio=off", INFO),
    ("info,spider_task_executor_x=off", INFO),
    ("info,spider_task_executor::serve=off", INFO),
    ("info,xspider=off", INFO),
    ("tokio=trace,hyper=debug,warn", WARN),
    ("info,", INFO),
    (",info,,", INFO),
]
# What Spider's own executor takes in another way.
OWN_FILTERS = [
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


@pytest.mark.parametrize(("text", "level"), FILTERS + OWN_FILTERS)
def test_filter(text, level):
    assert parse_log_filter(text) == (level, [])


@pytest.mark.parametrize(
    ("text", "level", "bad"),
    [
        ("verbose=", ERROR, ["verbose="]),
        ("=info", ERROR, ["=info"]),
        ("=", ERROR, ["="]),
        ("spider=loud", ERROR, ["spider=loud"]),
        ("spider=6", ERROR, ["spider=6"]),
        ("spider=-1", ERROR, ["spider=-1"]),
        ("a b", ERROR, ["a b"]),
        ("info,spider=loud", INFO, ["spider=loud"]),
        ("spider=loud,info", INFO, ["spider=loud"]),
        ("x=y=z,spider=debug,?", DEBUG, ["x=y=z", "?"]),
    ],
)
def test_a_directive_that_cannot_be_parsed_is_skipped(text, level, bad):
    assert parse_log_filter(text) == (level, bad)


# ----------------------------------------------------------------------------------------------------- real executors

# An empty body is an error; it comes behind the INFO line of the start.
EMPTY_BODY = bytes(4)


@pytest.mark.parametrize(("text", "level"), FILTERS)
def test_rust_log(spawn, text, level):
    child = spawn(env={"RUST_LOG": text})
    assert child.finish() == (b"", 0)
    shown = [line["fields"]["message"] for line in child.log_lines() if line["level"] in ("INFO", "WARN", "ERROR")]
    assert shown == ([STARTS, EXITS] if level >= INFO else [])


@pytest.mark.ours
@pytest.mark.parametrize(("text", "level"), [("error", ERROR), ("warn", WARN), ("off", OFF), ("0", OFF), *OWN_FILTERS])
def test_rust_log_and_errors(spawn, text, level):
    child = spawn(env={"RUST_LOG": text})
    assert child.finish(EMPTY_BODY) == (b"", 1)
    levels = [line["level"] for line in child.log_lines()]
    assert levels == ["INFO"] * (level >= INFO) + ["ERROR"] * (level >= ERROR)


@pytest.mark.ours
def test_rust_log_unset(spawn):
    child = spawn(env={"RUST_LOG": None})
    assert child.finish(EMPTY_BODY) == (b"", 1)
    assert [line["level"] for line in child.log_lines()] == ["ERROR"]


@pytest.mark.ours
@pytest.mark.parametrize("level", ["", "info,", "off,"])
def test_one_warning_for_each_bad_directive(spawn, level):
    """Whatever the filter says."""
    child = spawn(env={"RUST_LOG": level + 'spider=loud, "quoted\\",tokio=info'})
    assert child.finish() == (b"", 0)
    warnings = [line["fields"] for line in child.log_lines() if line["level"] == "WARN"]
    assert [warning["directive"] for warning in warnings] == ["spider=loud", '"quoted\\"']
    assert all("RUST_LOG" in warning["message"] for warning in warnings)


@pytest.mark.ours
def test_a_filter_that_is_no_utf8(spawn):
    child = spawn(env={"RUST_LOG": "info,\udcff\udcfe=info"})
    assert child.finish() == (b"", 0)
    assert [line["level"] for line in child.log_lines()] == ["INFO", "WARN", "INFO"]


def test_info_lines_of_a_life(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    assert [line["fields"]["message"] for line in child.log_lines()] == [STARTS, SHUTDOWN, EXITS]
    assert {line["level"] for line in child.log_lines()} == {"INFO"}


@pytest.mark.ours
def test_no_line_by_default(spawn):
    """A life without errors says nothing, tasks that fail included."""
    child = spawn()
    child.call("integration_test_tasks", "fibonacci", 10)
    child.call("integration_test_tasks", "always_fail")
    child.call("no_such_package", "task")
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    assert child.stderr() == ""


def test_the_shape_of_a_line(spawn):
    before = time.time()
    child = spawn(env={"RUST_LOG": "info", "TZ": "Asia/Tokyo"})
    child.finish()
    lines = child.stderr().splitlines(keepends=True)
    assert len(lines) == 2
    for line in lines:
        assert line.endswith("}\n")
        entry = json.loads(line)
        assert list(entry) == ["timestamp", "level", "fields", "filename", "line_number"]
        assert list(entry["fields"]) == ["message"]
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$", entry["timestamp"])
        assert entry["filename"]
        assert type(entry["line_number"]) is int
        # Without blanks, as Spider writes it.
        assert line == json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n"
        # In UTC.
        seconds = time.mktime(time.strptime(entry["timestamp"][:19], "%Y-%m-%dT%H:%M:%S")) - time.timezone
        assert int(before) <= seconds <= time.time()


@pytest.mark.ours
def test_the_line_number_is_where_it_was_written(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    source = (build.ROOT / "spider_executor.py").read_text().splitlines()
    for entry in child.log_lines():
        assert entry["filename"] == "spider_executor.py"
        assert entry["fields"]["message"] in source[entry["line_number"] - 1]


@pytest.mark.ours
def test_fields_behind_the_message(spawn):
    child = spawn(env={"RUST_LOG": "error"})
    child.finish(EMPTY_BODY)
    (entry,) = child.log_lines()
    assert list(entry["fields"]) == ["message", "err"]


@pytest.mark.ours
@pytest.mark.parametrize(
    "name",
    ['quote"backslash\\', "line\nfeed\r\ttab", "é 日本 🕷", "\x01\x1f\x7f", "\u2028\x85", "no utf-8 \udcff\udc80"],
)
def test_text_from_outside_is_escaped(spawn, tmp_path, name):
    """One line of JSON, whatever the directory is called; bytes that are not UTF-8 are shown by their number."""
    path = str(tmp_path / name)
    child = spawn(env={"SPIDER_TDL_PACKAGE_DIR": path})
    assert child.wait() == 1
    assert child.stderr().count("\n") == 1
    entry = json.loads(child.stderr())
    assert os.fsencode(path).decode("utf-8", "backslashreplace") in entry["fields"]["err"]


@pytest.mark.ours
def test_names_of_packages_and_tasks_in_the_log(spawn, build_package, tmp_path):
    name = 'p"\n🕷'
    build.stage(tmp_path, name, odd.build(build_package))
    child = spawn(tmp_path, env={"RUST_LOG": "debug"})
    task = '"task\\\n\x00🕷'
    child.send(executor.request(name, task))
    child.finish()
    lines = child.log_lines()
    (loaded,) = [line["fields"] for line in lines if "loaded" in line["fields"]["message"]]
    assert (loaded["package"], loaded["version"]) == (name, "0.1.0")
    assert loaded["path"] == str(tmp_path / name / f"lib{name}.so")
    (answered,) = [line for line in lines if line["level"] == "DEBUG"]
    assert (answered["fields"]["package"], answered["fields"]["task"]) == (name, task)
    (warning,) = [line["fields"] for line in lines if line["level"] == "WARN"]
    assert (warning["package"], warning["declared"]) == (name, "odd")


@pytest.mark.ours
def test_a_package_under_another_name_is_not_loaded_again(spawn, build_package, tmp_path):
    (tmp_path / "alias").mkdir()
    (tmp_path / "alias" / "libalias.so").symlink_to(build.stage(tmp_path, "odd", odd.build(build_package)))
    child = spawn(tmp_path, env={"RUST_LOG": "info"})
    child.send(executor.request("odd", "task") + executor.request("alias", "task") + executor.request("odd", "task"))
    child.finish()
    fields = [line["fields"] for line in child.log_lines()]
    assert [line["package"] for line in fields if line["message"] == "Package loaded."] == ["odd"]
    assert [line["package"] for line in fields if "another name" in line["message"]] == ["alias"]


@pytest.mark.ours
def test_a_call_is_traced_before_it_is_made(spawn):
    child = spawn(env={"RUST_LOG": "trace"})
    child.send(executor.request("crashing", "sigsegv"))
    assert child.wait() == -signal.SIGSEGV
    (line,) = [json.loads(line) for line in child.stderr().split("\n") if '"TRACE"' in line]
    assert (line["fields"]["package"], line["fields"]["task"]) == ("crashing", "sigsegv")


# ------------------------------------------------------------------------------------------------------- class Log


@pytest.fixture
def sink():
    """A log, and what it wrote: one item for each `write`."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        log = Log(theirs.fileno(), TRACE)

        def written() -> list[bytes]:
            found = []
            while True:
                try:
                    found.append(ours.recv(1 << 20))
                except BlockingIOError:
                    return found

        yield log, written


TEXTS = [
    "",
    "plain",
    'quote " backslash \\ slash /',
    "".join(map(chr, range(0x20))) + "\x7f",
    "é 日本 🕷 \u2028\u2029\x85",
]


@pytest.mark.parametrize("text", TEXTS)
def test_one_write_a_line(sink, text):
    log, written = sink
    log.error(text, err=text, number=7, negative=-1, error=ValueError(text))
    (line,) = written()
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    entry = json.loads(line.decode("utf-8"))
    assert entry["fields"] == {"message": text, "err": text, "number": 7, "negative": -1, "error": text}
    assert list(entry["fields"]) == ["message", "err", "number", "negative", "error"]


def test_a_long_text_is_cut(sink):
    """The parent drops a line of more than 64 KiB."""
    log, written = sink
    for text in ("x" * 100_000, "\0" * 100_000, "🕷" * 100_000, "\ud800" * 100_000):
        log.error("long", err=text, task=text, package=text, other=text)
        (line,) = written()
        assert len(line) < 65536
        assert json.loads(line)["fields"]["err"].startswith(text[:1000])


def test_a_lone_surrogate_is_written(sink):
    log, written = sink
    log.warn("a\ud800b\udcff")
    (line,) = written()
    assert json.loads(line.decode("utf-8"))["fields"]["message"] == "a\ud800b\udcff"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (OFF, []),
        (ERROR, ["ERROR"]),
        (WARN, ["ERROR", "WARN"]),
        (INFO, ["ERROR", "WARN", "INFO"]),
        (DEBUG, ["ERROR", "WARN", "INFO", "DEBUG"]),
        (TRACE, ["ERROR", "WARN", "INFO", "DEBUG"]),
    ],
)
def test_levels(sink, level, expected):
    log, written = sink
    log.level = level
    log.error("e")
    log.warn("w")
    log.info("i")
    log.debug("d")
    assert [json.loads(line)["level"] for line in written()] == expected


def test_a_log_that_nobody_reads_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    try:
        Log(writing, TRACE).error("lost")
    finally:
        os.close(writing)
    Log(writing, TRACE).error("lost, too")
