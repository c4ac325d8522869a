"""The logs: what RUST_LOG lets through, one JSON object per line, and a stderr that is full, broken or closed."""

import datetime
import json
import os
import re
import resource
import select
import socket
import time

import pytest
from helpers import build, executor, process
from helpers.executor import request

STARTS, SHUTDOWN, EXITS = (
    "Executor starts.",
    "Received shutdown request.",
    "Executor exits.",
)
OFF, ERROR, WARN, INFO, DEBUG, TRACE = range(6)

# The level of this program, and values of RUST_LOG that give it. The longest match wins; among equals, the last.
LEVELS = {
    OFF: "off 0 spider_task_executor=off info,spider=off spider=off,info info,off",
    ERROR: "error 1 spider=info,spider=error trace,spider_task_executor=error,spider_task=trace",
    WARN: "warn wArN 2 tokio=trace,hyper=debug,warn",
    INFO: "info INFO 3 spider=info s=info spider_task_executor=INFO spider_task_executor=3 info, ,info,, off,info"
    " spider=off,spider_task_executor=info spider_task_executor=info,spider=off off,spider_task=info,spider=warn"
    " info,tokio=off info,xspider=off info,spider_task_executor_x=off info,spider_task_executor::serve=off",
    DEBUG: "debug 4",
    TRACE: "trace 5 spider spider_task_executor",
}
FILTERS = [(text, level) for level, texts in LEVELS.items() for text in texts.split()]
# Spider's executor takes these in another way.
OWN_LEVELS = {
    ERROR: [None, "", ",", "   ", "tokio=trace", "other", "tokio=off"],
    INFO: [" info ", "  spider = info , tokio = trace ", "off, info"],
    DEBUG: ["warn , spider_task_executor = debug"],
}
OWN_FILTERS = [(text, level) for level, texts in OWN_LEVELS.items() for text in texts]
# Directives that cannot be parsed.
BAD_WORDS = (
    'verbose= =info = spider=loud spider=6 spider=-1 x=y=z ? "\\" \udcff\udcfe=info'
)
BAD = [*BAD_WORDS.split(), "a b"]


@pytest.mark.parametrize(("text", "level"), FILTERS)
def test_rust_log(spawn, text, level):
    child = spawn(env={"RUST_LOG": text})
    assert child.finish() == (b"", 0)
    lines = [
        line["fields"]["message"]
        for line in child.log_lines()
        if line["level"] in ("INFO", "WARN", "ERROR")
    ]
    assert lines == ([STARTS, EXITS] if level >= INFO else [])


@pytest.mark.ours
@pytest.mark.parametrize(
    ("text", "level", "bad"),
    [
        *((text, level, []) for text, level in FILTERS + OWN_FILTERS),
        *((text, ERROR, [text]) for text in BAD),
        (",".join([*BAD, "debug"]), DEBUG, BAD),
        (f"off,{BAD[0]}", OFF, BAD[:1]),
    ],
)
def test_each_level_has_its_lines_and_each_bad_directive_a_warning(
    spawn, tmp_path, text, level, bad
):
    """The executor has no package directory, answers one request, and gets rubbish."""
    child = spawn(tmp_path / "none", env={"RUST_LOG": text})
    assert child.finish(request("none", "task") + bytes(4))[1] == 1
    lines = child.log_lines()
    warnings = [line for line in lines if "RUST_LOG" in line["fields"]["message"]]
    assert [(line["level"], line["fields"]["directive"]) for line in warnings] == [
        ("WARN", text) for text in bad
    ]
    life = [("INFO", INFO), ("WARN", WARN), ("DEBUG", DEBUG), ("ERROR", ERROR)]
    assert [line["level"] for line in lines if line not in warnings] == [
        name for name, at in life if level >= at
    ]


def test_the_info_lines_of_a_life(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    assert [line["fields"]["message"] for line in child.log_lines()] == [
        STARTS,
        SHUTDOWN,
        EXITS,
    ]
    assert {line["level"] for line in child.log_lines()} == {"INFO"}


# ---------------------------------------------------------------------------------------------------------------- lines


def test_the_shape_of_a_line(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    for line in child.stderr().splitlines(keepends=True):
        entry = json.loads(line)
        assert list(entry) == [
            "timestamp",
            "level",
            "fields",
            "filename",
            "line_number",
        ]
        assert list(entry["fields"]) == ["message"]
        assert type(entry["line_number"]) is int
        # Without blanks, as Spider writes it.
        assert (
            line == json.dumps(entry, separators=(",", ":"), ensure_ascii=False) + "\n"
        )


@pytest.mark.ours
def test_timestamps_are_utc_with_six_digits_of_microseconds(spawn):
    """At least one of them has a zero after the point."""
    child = spawn(env={"RUST_LOG": "debug", "TZ": "Asia/Tokyo"})
    text = ""
    for _ in range(10):
        executor.wait_for(
            lambda: time.time_ns() % 10**9 < 50_000_000, "the start of a second"
        )
        count = child.stderr().count("\n")
        before = time.time_ns() // 1000
        assert child.serves()
        executor.wait_for(
            lambda count=count: child.stderr().count("\n") > count, "the line"
        )
        text = child.log_lines()[-1]["timestamp"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
        moment = datetime.datetime.strptime(
            text, "%Y-%m-%dT%H:%M:%S.%fZ"
        ) - datetime.datetime(1970, 1, 1)
        assert (
            before
            <= moment // datetime.timedelta(microseconds=1)
            <= time.time_ns() // 1000
        )
        if text[20] == "0":
            return
    pytest.fail(
        f"no request was answered in the first tenth of a second, the last one at {text}"
    )


@pytest.mark.ours
def test_the_line_number_is_where_it_was_written(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    source = (build.ROOT / "spider_executor.py").read_text().splitlines()
    for entry in child.log_lines():
        assert entry["filename"] == "spider_executor.py"
        assert entry["fields"]["message"] in source[entry["line_number"] - 1]


NAMES = [
    'quote"backslash\\',
    "line\nfeed\r\ttab",
    "é 日本 🕷",
    "\x01\x1f\x7f",
    "\u2028\x85\u202e\u2066",
    "\x00",
]


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
def stderr():
    """Both ends of a stderr that keeps the writes apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(executor.DEADLINE)
        yield ours, theirs


@pytest.mark.ours
def test_a_line_is_one_write(spawn, stderr):
    ours, theirs = stderr
    child = spawn(stderr=theirs, env={"RUST_LOG": "debug,bad="})
    assert child.serves()
    assert child.finish(bytes(4)) == (b"", 1)
    lines = [ours.recv(1 << 20) for _ in range(4)]
    assert [json.loads(line)["level"] for line in lines] == [
        "INFO",
        "WARN",
        "DEBUG",
        "ERROR",
    ]
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)


@pytest.mark.ours
@pytest.mark.parametrize("character", ["x", "\udcff", "\U000e0001"], ids=ascii)
def test_a_line_has_less_than_64_kib(spawn, stderr, character):
    """The parent drops longer ones. The task and the directive are long, and each character may be escaped."""
    ours, theirs = stderr
    size = 100_000 // len(os.fsencode(character))
    child = spawn(stderr=theirs, env={"RUST_LOG": f"debug,={character * size}"})
    task = ("\0" if character == "\udcff" else character) * size
    assert child.call("buffers", task).variant == "TaskError"
    assert child.finish() == (b"", 0)
    lines = [ours.recv(1 << 20) for _ in range(4)]
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
    executor.wait_for(
        lambda: process.descriptors(child.pid)[2] == "/dev/null", "fd 2 to be /dev/null"
    )
    assert process.descriptors(child.pid)[1] == "/dev/null"
    for fd in (1, 2):
        assert child.call("descriptors", f"write_by_default:{fd}") == [0]
    assert child.call("descriptors", "print:10000") == [10000]
    assert child.serves()
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
def test_the_watchdog_lives_on_if_a_limit_keeps_it_from_working(broken):
    """On some versions of Python, the end of a thread needs a descriptor and ends the process."""
    child, reader = broken
    assert child.serves()
    assert child.call("process", f"limit:{resource.RLIMIT_NOFILE}") == [1]
    threads = process.threads(child.pid)
    reader.close()
    time.sleep(0.5)
    assert process.threads(child.pid) == threads
    assert child.serves()
    assert child.finish() == (b"", 0)


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
