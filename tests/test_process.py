"""How the process starts and ends, its package directory, and what tasks see of it."""

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from helpers import build, executor, odd, preload, process
from helpers.executor import SHUTDOWN, request

from protocol import encode_frame

FULL = "SPIDER_FUZZ_FULL" in os.environ
ECHO = request("buffers", "echo", 7)


# -------------------------------------------------------------------------------------------------------------- the end


@pytest.mark.parametrize(
    ("data", "replies"),
    [
        *(
            (b"", []),
            (ECHO, [[7]]),
            (ECHO + SHUTDOWN, [[7]]),
            (request("process", "sleep:300"), [[300]]),
        ),
        *(
            (SHUTDOWN + rest, [])
            for rest in (b"", b"\xff" * 4, b"\0\0", ECHO, encode_frame(b"\xff" * 9))
        ),
        (encode_frame(SHUTDOWN[4:] + b"more"), []),
    ],
)
def test_a_clean_end(spawn, data, replies):
    child = spawn()
    output, status = child.finish(data)
    assert executor.responses(output) == replies
    assert status == 0
    assert child.stderr() == ""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (SHUTDOWN, 0),
        (b"\x00\x80\x00\x01", 1),
        (b"\xff" * 4, 1),
        (encode_frame(b"\7\0\0\0"), 1),
    ],
)
def test_the_end_does_not_wait_for_more_bytes(spawn, data, status):
    child = spawn()
    child.send(ECHO + data)
    assert executor.outcome(child.receive()) == [7]
    assert child.read_to_end() == (b"", status)


def little(number, size=8):
    return number.to_bytes(size, "little")


NO_PACKAGE = little(0, 4)
# What is wrong, the bytes, and what the ERROR line says.
MALFORMED = {
    "a header cut short": (
        ECHO[:3],
        "expected the rest of a frame, found the end after 3 bytes",
    ),
    "a header without a body": (
        ECHO[:4],
        "expected the rest of a frame, found the end after 4 bytes",
    ),
    "a body cut short": (
        ECHO[:20],
        "expected the rest of a frame, found the end after 20 bytes",
    ),
    "one byte missing": (ECHO[:-1], f"found the end after {len(ECHO) - 1} bytes"),
    "a body one byte too long": (
        b"\x00\x80\x00\x01",
        "at most 8388608 bytes, found a length of 8388609",
    ),
    "the longest body": (
        b"\xff" * 4,
        "at most 8388608 bytes, found a length of 4294967295",
    ),
    "HTTP": (
        b"GET / HTTP/1.1\r\n\r\n",
        "at most 8388608 bytes, found a length of 1195725856",
    ),
    "a little-endian length": (
        little(39, 4) + bytes(39),
        "found a length of 654311424",
    ),
    "an empty body": (bytes(4), "offset 0"),
    "half a tag": (encode_frame(b"\0\0"), "offset 0"),
    "an unknown tag": (encode_frame(little(7, 4)), "found tag 7 at offset 0"),
    "a big-endian tag": (encode_frame(b"\0\0\0\1"), "found tag 16777216 at offset 0"),
    "no fields": (encode_frame(NO_PACKAGE), "offset 4"),
    "a package past the end": (
        encode_frame(NO_PACKAGE + little(2**64 - 1) + bytes(40)),
        "package",
    ),
    "a task past the end": (
        encode_frame(NO_PACKAGE + little(0) + little(2**63 - 1) + bytes(40)),
        "task_func",
    ),
    "a context past the end": (
        encode_frame(NO_PACKAGE + little(0) * 2 + little(99) + bytes(16)),
        "raw_ctx",
    ),
    "inputs past the end": (
        encode_frame(NO_PACKAGE + little(0) * 3 + little(1)),
        "raw_inputs",
    ),
    "a package that is not UTF-8": (
        encode_frame(NO_PACKAGE + little(1) + b"\xff" + bytes(24)),
        "byte ff at offset 12",
    ),
    "a task that is not UTF-8": (
        encode_frame(NO_PACKAGE + little(0) + little(1) + b"\xff" + bytes(16)),
        "offset 20",
    ),
}
KINDS = list(MALFORMED)
# Spider's executor takes the first two for a clean end.
KINDS[:2] = [pytest.param(kind, marks=pytest.mark.ours) for kind in KINDS[:2]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [0, 1])
def test_malformed_input_ends_it_without_a_reply(spawn, kind, before):
    child = spawn()
    data, text = MALFORMED[kind]
    more = b"" if "found the end after" in text else ECHO
    output, status = child.finish(ECHO * before + data + more)
    assert executor.responses(output) == [[7]] * before
    assert status == 1


@pytest.mark.ours
@pytest.mark.parametrize("kind", MALFORMED)
def test_one_error_line_says_what_is_malformed(spawn, kind):
    """Offsets count from the start of the body, however the frames arrived."""
    data, text = MALFORMED[kind]
    for before in (b"", ECHO):
        child = spawn()
        assert child.finish(before + data)[1] == 1
        fields = child.only_error()
        assert list(fields)[:2] == ["message", "err"]
        assert fields["message"] == "Protocol error on stdin."
        assert "expected " in fields["err"]
        assert text in fields["err"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 0),
        (SHUTDOWN, 0),
        (encode_frame(b"\xff" * 9), 1),
        (b"\xff" * 4, 1),
        (ECHO[:9], 1),
    ],
)
def test_exit_handlers_and_destructors_run(
    spawn, build_package, tmp_path, data, status
):
    trace = odd.Trace(tmp_path)
    build.stage(tmp_path, "odd", odd.build(build_package))
    child = spawn(tmp_path, env=trace.env)
    output, found = child.finish(request("odd", "atexit") + data)
    assert (executor.responses(output), found) == ([[1]], status)
    assert sorted(trace.take()[-2:]) == ["atexit", "unload"]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_idle_or_busy(spawn, number, busy):
    child = spawn()
    assert child.serves()
    if busy:
        child.send(request("crashing", "hang"))
        executor.wait_for(child.stderr, "the task to hang")
    child.process.send_signal(number)
    assert child.read_to_end() == (b"", -number)


@pytest.mark.ours
def test_sigint_during_the_start_kills_it_without_a_traceback(spawn):
    delays = random.Random(1)
    for _ in range(200 if FULL else 15):
        child = spawn(env={"RUST_LOG": "info"})
        # The imports are under way when ctypes is loaded; a part of Python's own start cannot be protected.
        executor.wait_for(
            lambda child=child: "_ctypes" in process.maps(child.pid) or child.stderr(),
            "the imports",
        )
        time.sleep(delays.uniform(0, 0.02))
        child.process.send_signal(signal.SIGINT)
        assert child.read_to_end() == (b"", -signal.SIGINT)
        assert "Interrupt" not in child.stderr()


# ---------------------------------------------------------------------------------------------------- package directory


@pytest.mark.parametrize("value", [None, pytest.param("", marks=pytest.mark.ours)])
def test_without_a_package_directory_it_does_not_start(spawn, value):
    child = spawn(env={"SPIDER_TDL_PACKAGE_DIR": value})
    output, status = child.read_to_end()
    assert output == b""
    assert status != 0
    assert "SPIDER_TDL_PACKAGE_DIR" in child.stderr()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file"),
        ("a file", "Not a directory"),
        ("a loop", "Too many levels of symbolic links"),
    ],
)
def test_a_package_directory_that_is_none_is_the_error_of_each_request(
    spawn, tmp_path, package_dir, kind, reason
):
    directory = tmp_path / kind
    if kind == "a file":
        directory.write_bytes(b"")
    elif kind == "a loop":
        directory.symlink_to(kind)
    child = spawn(directory)
    for _ in range(2):
        error = child.call("buffers", "echo")
        assert error.variant == "InvalidLibrary"
        assert str(directory / "buffers" / "libbuffers.so") in error.content
        assert reason in error.content
    if kind != "missing":
        directory.unlink()
    directory.symlink_to(package_dir)
    assert child.serves()
    assert child.finish() == (b"", 0)


# ------------------------------------------------------------------------------------------------------- what tasks see

# The executor is started with these variables and its package directory, and with nothing else.
ENVIRONMENTS = [
    {},
    {"LANG": "C"},
    {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"},
    {"LC_ALL": "POSIX"},
    {"LC_CTYPE": "C"},
    {"LC_CTYPE": "C.UTF-8", "LC_NUMERIC": "C"},
    {"LC_CTYPE": ""},
    {"XLC_CTYPE": "x", "LANG": ""},
    {
        "PYTHONHOME": "/nowhere",
        "PYTHONUTF8": "1",
        "PYTHONCOERCECLOCALE": "1",
        "PYTHONPATH": "/nowhere",
    },
    {
        "MALLOC_ARENA_MAX": "2",
        "GLIBC_TUNABLES": "glibc.malloc.trim_threshold=100",
        "TZ": "Asia/Tokyo",
        "EMPTY": "",
    },
]


@pytest.mark.parametrize("variables", ENVIRONMENTS, ids=str)
def test_tasks_see_the_environment_and_the_c_locale(
    spawn, executor_command, package_dir, variables
):
    given = [
        f"{name}={value}"
        for name, value in {**variables, "SPIDER_TDL_PACKAGE_DIR": package_dir}.items()
    ]
    child = spawn(command=["env", "-i", *given, *executor_command])
    (lines,) = child.call("process", "environment")
    assert sorted(lines.splitlines()) == sorted(given)
    assert child.call("process", "locale") == ["C"]


def test_tasks_see_the_directory_the_umask_and_the_limits_of_the_parent_on_the_main_thread(
    spawn, tmp_path
):
    child = spawn(shell='umask 037; ulimit -c 0; exec "$@"', cwd=tmp_path)
    assert child.call("process", "cwd") == [str(tmp_path)]
    assert child.call("process", "mask") == [0o37]
    assert child.call("process", "is_main_thread") == [1]
    (lines,) = child.call("process", "limits")
    for number, line in enumerate(lines.splitlines()):
        expected = (
            (0, 0) if number == resource.RLIMIT_CORE else resource.getrlimit(number)
        )
        # "Unlimited" is -1 before CPython 3.15.
        assert [int(word) % 2**64 for word in line.split()] == [
            number,
            *(limit % 2**64 for limit in expected),
        ]


def dispositions(child):
    """The signals of a process that are not in their default state."""
    (lines,) = child.call("signals", "dispositions")
    return {line for line in lines.splitlines() if not line.endswith("default")}


def test_signals_have_their_default_actions_except_sigpipe(spawn):
    # The crash report handles these.
    crashes = (
        signal.SIGSEGV,
        signal.SIGFPE,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
    )
    handled = {f"{int(number)} handled" for number in crashes}
    assert dispositions(spawn()) - handled == {f"{int(signal.SIGPIPE)} ignored"}


def test_signals_that_the_parent_ignores_or_blocks_stay_so(spawn):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        child = spawn(shell="trap '' INT HUP TERM; exec \"$@\"")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    ignored = {signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
    assert {line for line in dispositions(child) if "handled" not in line} == {
        f"blocked {int(signal.SIGUSR1)}",
        *(f"{int(number)} ignored" for number in ignored),
    }
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        child.process.send_signal(number)
    assert child.serves()


@pytest.mark.parametrize("soft", [64, 4096])
def test_the_executor_changes_no_limit(
    spawn, build_package, tmp_path, package_dir, soft
):
    """Not even back to what it was, after an init function has changed it."""
    init = "-DINIT=(setrlimit(RLIMIT_NOFILE, &(struct rlimit){100, 4096}), number(0))"
    build.stage(
        tmp_path, "odd", odd.build(build_package, "-include", "sys/resource.h", init)
    )
    for name in ("process", "buffers"):
        build.stage(tmp_path, name, package_dir / name / f"lib{name}.so")

    child = spawn(tmp_path, shell=f'ulimit -n 4096 && ulimit -Sn {soft} && exec "$@"')
    name = int(resource.RLIMIT_NOFILE)
    assert f"\n{name} {soft} 4096\n" in child.call("process", "limits")[0]
    assert child.call("odd", "answer") == [1]
    assert child.call("none", "task").variant == "InvalidLibrary"
    assert child.serves()
    assert f"\n{name} 100 4096\n" in child.call("process", "limits")[0]


@pytest.mark.ours
def test_the_settings_of_malloc_are_the_operators(spawn, build_package):
    """The preloaded mallopt ends the process."""
    child = spawn(env=preload.mallopt(build_package))
    assert child.serves()
    assert child.finish() == (b"", 0)


# -------------------------------------------------------------------------------------------------------- ways to start


@pytest.fixture
def place(package_dir):
    """A directory that every user can reach, with a copy of the executor that was never started, and a package."""
    directory = Path(tempfile.mkdtemp(prefix="spider-executor-test-"))
    try:
        (directory / "bin").mkdir()
        for name in ("protocol.py", "spider_executor.py"):
            shutil.copy(build.ROOT / name, directory / "bin" / name)
            (directory / "bin" / name).chmod(0o555)
        build.stage(
            directory / "packages", "buffers", package_dir / "buffers" / "libbuffers.so"
        )
        for path in (directory, *directory.glob("packages/**/")):
            path.chmod(0o755)
        (directory / "bin").chmod(0o777)
        yield directory
    finally:
        for path in directory.glob("bin/**/"):
            path.chmod(0o700)
        shutil.rmtree(directory)


@pytest.mark.ours
@pytest.mark.parametrize("form", ["module", "script", "executable", "link"])
def test_ways_to_start_it(spawn, place, form):
    """From a directory with nothing but the two files, with the python3 that PATH has."""
    program = place / "bin" / "spider_executor.py"
    (place / "python3").symlink_to(sys.executable)
    (place / "spider-task-executor").symlink_to(program)
    command, cwd = {
        "module": ([sys.executable, "-m", "spider_executor"], place / "bin"),
        "script": ([sys.executable, "-IS", str(program)], "/"),
        "executable": ([str(program)], "/"),
        "link": ([str(place / "spider-task-executor")], "/"),
    }[form]
    child = spawn(
        place / "packages",
        command,
        env={"PATH": f"{place}:{os.environ['PATH']}"},
        cwd=cwd,
    )
    assert child.serves()
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


# A line of sh for each.
ODD_PLACES = {
    "another user": 'exec "$@"',
    "no HOME": 'unset HOME; exec "$@"',
    "no environment": 'exec env -i SPIDER_TDL_PACKAGE_DIR="$SPIDER_TDL_PACKAGE_DIR" "$@"',
    "no working directory": 'cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"',
    "umask 0777": 'umask 0777; exec "$@"',
    "few files": 'ulimit -n 20; exec "$@"',
}


@pytest.mark.ours
@build.needs("unprivileged user")
@pytest.mark.parametrize("kind", ODD_PLACES)
@pytest.mark.parametrize("writable", [True, False], ids=["writable", "read-only"])
def test_odd_places_to_start_in(spawn, place, kind, writable):
    """Several at a time, before and after there is bytecode."""
    if not writable:
        (place / "bin").chmod(0o555)
    command = [
        *build.unprivileged(),
        sys.executable,
        "-IS",
        str(place / "bin" / "spider_executor.py"),
    ]
    for _ in range(2):
        children = [
            spawn(place / "packages", command, shell=ODD_PLACES[kind]) for _ in range(2)
        ]
        for child in children:
            output, status = child.finish(ECHO)
            assert executor.responses(output) == [[7]]
            assert (status, child.stderr()) == (0, "")
    assert (place / "bin" / "__pycache__").exists() == writable


# Modules that take long to import.
SLOW = (
    "argparse asyncio collections contextlib dataclasses datetime enum functools inspect json logging pathlib random re"
    " shutil signal site socket subprocess tempfile threading traceback typing unittest"
)


@pytest.mark.ours
def test_nothing_slow_is_imported(spawn):
    """Over a life with tasks that return and fail, a missing package, every level of the log, and an error."""
    command = [executor.OWN_COMMAND[0], "-X", "importtime", *executor.OWN_COMMAND[1:]]
    child = spawn(command=command, env={"RUST_LOG": "trace,bad=directive"})
    assert child.serves()
    assert child.call("buffers", "no_such_task").variant == "TaskError"
    assert child.call("none", "task").variant == "InvalidLibrary"
    assert child.finish(bytes(4)) == (b"", 1)
    imported = set(re.findall(r"(?m)^import time:.*\| *(\S*)$", child.stderr()))
    assert {"protocol", "ctypes", "struct"} <= imported
    # On some versions of CPython, ctypes itself imports some of them.
    program = [sys.executable, "-ISc", "import ctypes, sys; print(*sys.modules)"]
    needed = subprocess.run(
        program, stdout=subprocess.PIPE, encoding="utf-8", timeout=executor.DEADLINE
    ).stdout
    assert imported & set(SLOW.split()) - set(needed.split()) == set()


def test_the_thread_that_spawned_it_may_end(spawn):
    """A parent spawns executors from a pool of threads."""
    children = []
    thread = threading.Thread(target=lambda: children.append(spawn()))
    thread.start()
    thread.join(executor.DEADLINE)
    (child,) = children
    assert child.call("process", "sleep:300") == [300]
    assert child.finish() == (b"", 0)
