"""The logs: RUST_LOG, lines of JSON, whose task it was, and a stderr that breaks."""

import datetime
import json
import os
import re
import resource
import select
import socket
import time

import pytest
import vectors
from helpers import build, executor, process
from helpers.executor import request
from helpers.rows import lines, rows

from protocol import TaskContext

ours = pytest.mark.ours

STARTS = "Executor starts."
SHUTDOWN = "Received shutdown request."
EXITS = "Executor exits."

# ---------------------------------------------------------------------------- RUST_LOG

# What is logged at each level if there is no package directory and rubbish follows a
# request, and values of RUST_LOG that give this program that level. A target alone is
# TRACE, and it matches as a prefix. The longest match wins; among equals, the last.
LEVELS = """
OFF   |                   | off info,spider=off spider=off,info info,off
ERROR | ERROR             | error spider=info,spider=error
  trace,spider_task_executor=error,spider_task=trace
WARN  | WARN WARN ERROR   | warn wArN tokio=trace,hyper=debug,warn
INFO  | INFO WARN WARN ERROR | info 3 ,info,, s=info info,xspider=off
  info,spider-task=off info,spider_task_executor_x=off
  info,spider_task_executor::serve=off spider=off,spider_task_executor=info
  spider_task_executor=info,spider=off off,spider_task=info,spider=warn off,info
DEBUG | INFO WARN DEBUG WARN DEBUG ERROR | debug 4 5 spider
"""
LIFE = {level: life.split() for level, (life, _) in lines(LEVELS).items()}
FILTERS = [
    (value, level)
    for level, (_, values) in lines(LEVELS).items()
    for value in values.split()
]
# Spider's executor takes these in another way. Spans are for Rust packages, which read
# the same variable.
OWN_FILTERS = {
    None: "ERROR",
    "": "ERROR",
    ",": "ERROR",
    "other-target": "ERROR",
    " info ": "INFO",
    "  spider = info , tokio = trace ": "INFO",
    "off, info": "INFO",
    "warn , spider_task_executor = debug": "DEBUG",
    "[task{job_id=1}]=debug": "ERROR",
    "task{job_id=1}=debug": "ERROR",
    "[task]": "ERROR",
    "spider_task_executor[task]=trace": "ERROR",
    "info,spider[{job_id}]=off": "INFO",
}


HIDDEN = ("DEBUG", "TRACE")


@pytest.mark.parametrize(("text", "level"), FILTERS)
def test_rust_log_sets_the_level(spawn, text, level):
    child = spawn(env={"RUST_LOG": text})
    assert child.finish() == (b"", 0)
    shown = [line for line in child.log_lines() if line["level"] not in HIDDEN]
    messages = [line["fields"]["message"] for line in shown]
    assert messages == ([STARTS, EXITS] if "INFO" in LIFE[level] else [])


@ours
@pytest.mark.parametrize(("text", "level"), [*FILTERS, *OWN_FILTERS.items()])
def test_each_level_has_its_lines(spawn, tmp_path, text, level):
    child = spawn(tmp_path / "none", env={"RUST_LOG": text})
    assert child.finish(request("none", "task") + bytes(4))[1] == 1
    assert [line["level"] for line in child.log_lines()] == LIFE[level]


# Directives that cannot be parsed.
UNREADABLE = """
verbose  | verbose=
no name  | =info
neither  | =
no level | spider=loud
6        | spider=6
-1       | spider=-1
two of = | x=y=z
quoted   | "\\"
blank    | a b
no UTF-8 | \udcff\udcfe=info
"""
DIRECTIVES = [text for (text,) in lines(UNREADABLE).values()]


@ours
@rows("text", UNREADABLE, ours={"all": ",".join(DIRECTIVES)})
def test_an_unreadable_directive_is_a_warning_at_each_level(spawn, text):
    child = spawn(env={"RUST_LOG": f"off,{text}"})
    assert child.finish() == (b"", 0)
    found = [(line["level"], line["fields"]["directive"]) for line in child.log_lines()]
    assert found == [("WARN", directive) for directive in text.split(",")]


# ------------------------------------------------------------------- whose task it was

IDS = {"job_id": 7, "task_id": 3, "task_instance_id": 12}
CONTEXT = TaskContext(**IDS).encode()

# The context, and the ids in the lines.
COMMIT = TaskContext(1, "Commit", 2).encode()
COMMIT_IDS = {"job_id": 1, "task_id": "Commit", "task_instance_id": 2}
WIDEST = """
dd 00000005 cf 0000000000000007 df 00000001 db 00000005 'Index' cf 0000000000000003
cf 000000000000000c cf 0000000000000000 c0
"""
LARGEST = TaskContext(*[2**64 - 1] * 4).encode()
CONTEXTS = {
    "index": (CONTEXT, IDS),
    "commit": (COMMIT, COMMIT_IDS),
    "cleanup": (
        TaskContext(1, "Cleanup", 2).encode(),
        {**COMMIT_IDS, "task_id": "Cleanup"},
    ),
    "largest ids": (LARGEST, dict.fromkeys(IDS, 2**64 - 1)),
    "widest forms": (vectors.hexed(WIDEST), IDS),
    # Its last field is an array of 8,000,000 zeros.
    "largest commit": (
        COMMIT[:-1] + vectors.hexed("dd007a1200 00*8000000"),
        COMMIT_IDS,
    ),
    "the ids alone": (CONTEXT[:11], IDS),
    "cut in the ids": (CONTEXT[:10], {}),
    "empty": (b"", {}),
    "reserved": (b"\xc1", {}),
    "array of 4": (b"\x94" + CONTEXT[1:], {}),
    "negative job": (b"\x95\xff" + CONTEXT[2:], {}),
    "unknown kind of task": (b"\x95\x07\xa5Other" + CONTEXT[10:], {}),
}
CASES = {name: ("odd::inputs", "success", *row) for name, row in CONTEXTS.items()}


# The other tasks, and their outcome.
OUTCOMES = """
buffers::zeros:8000000         | success
buffers::empty_null            | success
buffers::no_such_task          | TaskError
buffers::zeros:9000000         | TaskError
buffers::error_of_size:8000000 | TaskError
buffers::error_of_size:9000000 | TaskError
buffers::empty_error_null      | ErrorPayloadDeserializationFailure
none::task                     | InvalidLibrary
"""
for name, (outcome,) in lines(OUTCOMES).items():
    CASES[name] = (name, outcome, CONTEXT, IDS)


@ours
@rows("task, outcome, context, ids", CASES)
def test_lines_name_the_task_and_tell_its_outcome(spawn, task, outcome, context, ids):
    child = spawn(env={"RUST_LOG": "debug"})
    child.send(executor.raw_request(*task.split("::"), b"outputs", context))
    result = child.receive()
    assert child.finish() == (b"", 0)
    found = [line["fields"] for line in child.log_lines() if line["level"] == "DEBUG"]
    sent = result.outcome
    end = {
        "outcome": outcome,
        "elapsed_us": result.elapsed_us,
        "response_size": len(sent.outputs if outcome == "success" else sent.error),
    }
    assert found == [
        {"message": "Task starts.", "task": task, **ids},
        {"message": "Task ended.", "task": task, **ids, **end},
    ]


@ours
def test_the_line_before_a_call_is_written_before_it(spawn):
    """So the last line before a crash, a timeout or the OOM killer names the job."""
    child = spawn(env={"RUST_LOG": "debug"})
    assert child.serves()
    child.send(request("crashing", "raise:9", context=CONTEXT))
    assert child.read_to_end() == (b"", -9)
    expected = {"message": "Task starts.", "task": "crashing::raise:9", **IDS}
    assert child.log_lines()[-1]["fields"] == expected


@ours
def test_a_response_that_nobody_reads_names_its_task(spawn):
    child = spawn(env={"RUST_LOG": "debug"})
    assert child.call("odd", "answer") == [1]
    child.close_output()
    child.send(request("odd", "answer", context=CONTEXT))
    assert child.wait() == 1
    error = child.only_error()
    # The watchdog may be faster.
    assert "The parent " in error.pop("message")
    assert error.pop("err", "[Errno 32] Broken pipe") == "[Errno 32] Broken pipe"
    assert error == {"task": "odd::answer", **IDS}
    assert child.stderr().count("Task ended.") == 1


# ------------------------------------------------------------------------------- lines


def test_the_info_lines_of_a_life(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    assert child.finish(executor.SHUTDOWN) == (b"", 0)
    lines = child.stderr().splitlines()
    assert len(lines) == 3
    for line, message in zip(lines, (STARTS, SHUTDOWN, EXITS)):
        entry = json.loads(line)
        keys = ["timestamp", "level", "fields", "filename", "line_number"]
        assert list(entry) == keys
        assert entry["level"] == "INFO"
        assert entry["fields"] == {"message": message}
        assert type(entry["line_number"]) is int
        # Without blanks, as Spider writes it.
        assert line == json.dumps(entry, separators=(",", ":"), ensure_ascii=False)


@ours
def test_timestamps_are_utc_with_microseconds(spawn):
    child = spawn(env={"RUST_LOG": "debug", "TZ": "Asia/Tokyo"})
    tenths = []

    def are_three_early():
        before = time.time_ns() // 1000
        assert child.serves()
        # The line after it may not be complete yet.
        *_, line = re.findall(".*Task starts.*", child.stderr())
        text = json.loads(line)["timestamp"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", text)
        moment = datetime.datetime.fromisoformat(f"{text[:-1]}+00:00")
        found = round(moment.timestamp() * 1_000_000)
        assert before <= found <= time.time_ns() // 1000
        tenths.append(text[20])
        return tenths.count("0") > 2

    executor.wait_for(are_three_early, "three lines in the first tenth of a second")


@ours
def test_the_line_number_is_where_it_was_written(spawn):
    child = spawn(env={"RUST_LOG": "info"})
    child.finish()
    source = (build.ROOT / "spider_executor.py").read_text().splitlines()
    for entry in child.log_lines():
        assert entry["filename"] == "spider_executor.py"
        assert entry["fields"]["message"] in source[entry["line_number"] - 1]


NAMES = {
    "quotes": 'quote"backslash\\',
    "whitespace": "line\nfeed\r\ttab",
    "printable": "é 日本 🕷",
    "control": "\x00\x01\x1f\x7f",
    "separators": "\u2028\x85\u202e\u2066",
    "beyond 16 bits": "\U000e0001",
}


@ours
@rows("name", NAMES)
def test_text_from_outside_is_escaped(spawn, name):
    """Even if there is no descriptor with which a codec could be imported."""
    child = spawn(env={"RUST_LOG": "debug"})
    assert child.serves()
    assert child.call("process", f"limit:{resource.RLIMIT_NOFILE}") == [1]
    assert child.call("buffers", name).variant == "TaskError"
    assert child.finish() == (b"", 0)
    (line,) = (line for line in child.stderr().split("\n") if "TaskError" in line)
    assert json.loads(line)["fields"]["task"] == f"buffers::{name}"
    assert all(character.isprintable() for character in line)


@pytest.fixture
def stderr():
    """Both ends of a stderr that keeps the writes apart."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(executor.DEADLINE)
        yield ours, theirs


@ours
@pytest.mark.parametrize("character", ["x", "\udcff", "\U000e0001"], ids=ascii)
def test_a_line_is_one_write_of_less_than_64_kib(spawn, stderr, character):
    """The parent drops longer ones. Each character of the texts may be escaped."""
    reader, writer = stderr
    text = character * (100_000 // len(os.fsencode(character)))
    child = spawn(stderr=writer, env={"RUST_LOG": f"debug,={text}"})
    # No task has a name with a lone surrogate.
    task = text.replace("\udcff", "\0")
    assert child.call("buffers", task).variant == "TaskError"
    assert child.finish() == (b"", 0)
    fields = []
    for level in ("INFO", "WARN", "DEBUG", "DEBUG", "INFO"):
        line = reader.recv(1 << 20)
        assert len(line) < 65536
        assert line.endswith(b"}\n")
        # Without blanks, as Spider writes it.
        assert b', "' not in line
        entry = json.loads(line)
        assert entry["level"] == level
        fields.append(entry["fields"])
    cut = {f"={text}": fields[1]["directive"], f"buffers::{task}": fields[2]["task"]}
    for whole, shown in cut.items():
        assert len(shown) > 1000
        assert shown.endswith("...")
        assert whole.startswith(shown[:-3])


# ------------------------------------------------------------------------------ stderr


@ours
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2</dev/null", "2>&-"])
def test_a_stderr_that_cannot_be_written_does_no_harm(spawn, redirection):
    child = spawn(shell=f'exec "$@" {redirection}', env={"RUST_LOG": "trace,bad="})
    assert child.call("descriptors", "print:10") == [10]
    child.end_silently()


@pytest.fixture
def broken(spawn):
    """An executor, and the reading end of its stderr."""
    log, stderr = os.pipe()
    child = spawn(stderr=stderr, env={"RUST_LOG": "trace"})
    os.close(stderr)
    with open(log, "rb", 0) as reader:
        yield child, reader


@ours
def test_prints_go_nowhere_after_stderr_broke(broken):
    """A failed write would end tasks in Rust and Go.

    `write_by_default` gives SIGPIPE its default action.
    """
    child, reader = broken
    assert child.serves()
    before = process.descriptors(child.pid)
    replaced = {fd: "/dev/null" for fd in before if before[fd] == before[2]}
    reader.close()
    executor.wait_for(
        lambda: process.descriptors(child.pid) == {**before, **replaced},
        f"{replaced} among the descriptors",
    )
    for fd in (1, 2):
        assert child.call("descriptors", f"write_by_default:{fd}") == [0]
    assert child.call("descriptors", "print:10000") == [10000]
    # Programs have a stdout and a stderr, too.
    (lines,) = child.call("descriptors", "list_of_child:1")
    assert "\n1 /dev/null\n2 /dev/null\n" in lines
    assert child.finish() == (b"", 0)


@ours
@pytest.mark.parametrize(
    "before",
    [
        "descriptors::dup_over_standard",
        "descriptors::close_standard",
        # In some versions of Python, the end of a thread needs a descriptor.
        f"process::limit:{resource.RLIMIT_NOFILE}",
    ],
)
def test_what_a_task_did_to_stderr_stays(broken, before):
    child, reader = broken
    assert child.serves()
    assert child.call(*before.split("::")) == [1]
    threads = process.threads(child.pid)
    found = process.descriptors(child.pid)
    reader.close()
    time.sleep(0.5)
    assert process.threads(child.pid) == threads
    after = process.descriptors(child.pid)
    assert after.keys() == found.keys()
    assert "dup_over" not in before or [after[1], after[2]] == [found[1], found[2]]
    assert child.serves()
    assert child.finish() == (b"", 0)


@ours
def test_without_the_log_descriptor_lines_go_to_stderr(broken):
    child, reader = broken
    assert child.serves()
    before = process.descriptors(child.pid)
    log_fd = max(fd for fd in before if before[fd] == before[2])
    assert child.call("process", f"close:{log_fd}") == [1]
    assert child.call("odd", "answer") == [1]
    assert b'"task":"odd::answer"' in reader.read(1 << 16)
    reader.close()
    time.sleep(0.5)
    del before[log_fd]
    assert process.descriptors(child.pid).keys() == before.keys()
    assert child.finish() == (b"", 0)


@ours
def test_a_stderr_that_is_read_late_loses_nothing(broken):
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
