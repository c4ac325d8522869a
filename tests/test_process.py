"""How the process starts and ends, its package directory, and what tasks see of it."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import vectors
from helpers import build, cli, executor, odd, preload, process
from helpers.executor import SHUTDOWN, request
from helpers.rows import rows

from protocol import encode_frame

ECHO = request("buffers", "echo", 7)
ours = pytest.mark.ours


# ------------------------------------------------------------------------------ the end

# What is sent before the end of stdin, and the outcomes that come back.
CLEAN_ENDS = {
    "nothing": (b"", []),
    "a request": (ECHO, [[7]]),
    "a request and a shutdown": (ECHO + SHUTDOWN, [[7]]),
    "a slow request": (request("process", "sleep:300"), [[300]]),
    "a shutdown": (SHUTDOWN, []),
    "a shutdown and a large length": (SHUTDOWN + b"\xff" * 4, []),
    "a shutdown and a request": (SHUTDOWN + ECHO, []),
    "a longer shutdown": (encode_frame(SHUTDOWN[4:] + b"more"), []),
}


@rows("data, replies", CLEAN_ENDS)
def test_a_clean_end(spawn, data, replies):
    child = spawn()
    output, status = child.finish(data)
    assert executor.responses(output) == replies
    assert status == 0
    assert child.stderr() == ""


REST = "expected the rest of a frame, found the end after"
LENGTH = "expected a frame body of at most 8388608 bytes, found a length of"
# The bytes, and what the ERROR line says. Offsets count from the start of the body.
MALFORMED = {
    "a body cut short": (ECHO[:20], f"{REST} 20 bytes", ""),
    "a body one byte too long": (b"\0\x80\0\1", f"{LENGTH} 8388609", ""),
    "the longest body": (b"\xff" * 4, f"{LENGTH} 4294967295", ""),
}
for name, body, text, at in vectors.NOT_REQUESTS:
    MALFORMED[name] = (encode_frame(body), f"expected {text}", f" at offset {at}")
# Spider's executor takes these for a clean end.
HEADERS = {
    "a header cut short": (ECHO[:3], f"{REST} 3 bytes", ""),
    "a header without a body": (ECHO[:4], f"{REST} 4 bytes", ""),
}


@rows("data, text, end", MALFORMED)
def test_malformed_input_ends_it_without_a_reply(spawn, data, text, end):
    if REST not in text:
        data += ECHO
    child = spawn()
    output, status = child.finish(ECHO + data)
    assert executor.responses(output) == [[7]]
    assert status == 1


@ours
@rows("data, text, end", {**MALFORMED, **HEADERS})
def test_one_error_line_says_what_is_malformed(spawn, data, text, end):
    for before in (b"", ECHO):
        child = spawn()
        assert child.finish(before + data)[1] == 1
        fields = child.only_error()
        assert list(fields) == ["message", "err"]
        assert fields["message"] == "Protocol error on stdin."
        assert text in fields["err"]
        assert end in fields["err"]


# What ends the process, its exit status, and whether that needs the end of stdin.
ENDS = {
    "the end of stdin": (b"", 0, True),
    "a body cut short": (ECHO[:9], 1, True),
    "a shutdown": (SHUTDOWN, 0, False),
    "a body one byte too long": (b"\x00\x80\x00\x01", 1, False),
    "the longest body": (b"\xff" * 4, 1, False),
    "an unknown tag": (encode_frame(b"\7\0\0\0"), 1, False),
}


@rows("data, status, closes", ENDS)
def test_exit_handlers_and_destructors_run(
    spawn, build_package, tmp_path, data, status, closes
):
    trace = odd.Trace(tmp_path)
    build.stage(tmp_path, "odd", odd.build(build_package))
    child = spawn(tmp_path, env=trace.env)
    assert child.call("odd", "atexit") == [1]
    child.send(data)
    if closes:
        child.close_input()
    assert child.read_to_end() == (b"", status)
    assert sorted(trace.take()[-2:]) == ["atexit", "unload"]


@rows(
    "busy",
    {
        "idle": False,
        "busy": True,
    },
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_it_idle_or_busy(spawn, number, busy):
    child = spawn()
    assert child.serves()
    if busy:
        child.send(request("crashing", "hang"))
        executor.wait_for(child.stderr, "the task to hang")
    child.process.send_signal(number)
    assert child.read_to_end() == (b"", -number)


@ours
def test_running_out_of_memory_in_the_loop_is_an_error(spawn):
    """Each task takes a little memory when it is first called."""
    names = (f"empty_dangling:{number:0400}" for number in range(16_000))
    requests = b"".join(request("buffers", name) for name in names)
    said = 0
    for _ in range(5):
        child = spawn()
        assert child.serves()
        process.limit_memory(child.pid, 1 << 20)
        assert child.finish(requests)[1] == 1
        # What there is no memory to say is left out.
        for error in child.errors():
            assert error["fields"]["message"] == "Out of memory."
            assert error["fields"]["err"]
            said += 1
        child.check_log()
        child.kill()
    assert said


# ---------------------------------------------------------------------------- the start


@ours
def test_a_start_without_a_thread_fails_before_any_reply(spawn, build_package):
    child = spawn(env=preload.env(build_package, "threads"))
    assert child.finish(ECHO) == (b"", 1)
    reason = "can't start new thread"
    assert child.only_error() == {
        "message": "The executor cannot start.",
        "err": reason,
    }


@pytest.mark.parametrize("value", [None, pytest.param("", marks=ours)])
def test_without_a_package_directory_it_does_not_start(spawn, value):
    child = spawn(env={"SPIDER_TDL_PACKAGE_DIR": value})
    output, status = child.read_to_end()
    assert output == b""
    assert status != 0
    assert "SPIDER_TDL_PACKAGE_DIR" in child.stderr()


# A line of sh that makes the directory $1, and the reason why requests fail.
NO_DIRECTORIES = """
missing | true             | No such file
a file  | touch "$1"       | Not a directory
a loop  | ln -s "$1" "$1"  | Too many levels of symbolic links
"""


@rows("line, reason", NO_DIRECTORIES)
def test_requests_fail_until_the_package_directory_exists(
    spawn, tmp_path, package_dir, line, reason
):
    directory = tmp_path / "packages"
    subprocess.run(["sh", "-c", line, "sh", directory], check=True, timeout=60)
    child = spawn(directory)
    for _ in range(2):
        error = child.call("buffers", "echo")
        assert error.variant == "InvalidLibrary"
        assert str(directory / "buffers" / "libbuffers.so") in error.content
        assert reason in error.content
    (tmp_path / "new").symlink_to(package_dir)
    (tmp_path / "new").rename(directory)
    assert child.serves()
    assert child.finish() == (b"", 0)


# ----------------------------------------------------------------------- what tasks see

# The executor is started with these variables and its package directory only.
ENVIRONMENTS = [
    pytest.param("", id="nothing"),
    "LANG=C",
    "LANG=C.UTF-8 LC_ALL=C.UTF-8",
    "LC_ALL=POSIX",
    "LC_CTYPE=C",
    "LC_CTYPE=C.UTF-8 LC_NUMERIC=C",
    "LC_CTYPE=",
    "XLC_CTYPE=x LANG=",
    "PYTHONHOME=/nowhere PYTHONUTF8=1 PYTHONCOERCECLOCALE=1 PYTHONPATH=/nowhere",
    "MALLOC_ARENA_MAX=2 GLIBC_TUNABLES=glibc.malloc.trim_threshold=100",
    "TZ=Asia/Tokyo EMPTY=",
]


@pytest.fixture
def environment_of_tasks(spawn, executor_command, package_dir):
    """What tasks see if the executor gets these variables and the package directory."""

    def see(given):
        directory = f"SPIDER_TDL_PACKAGE_DIR={package_dir}"
        child = spawn(command=["env", "-i", directory, *given, *executor_command])
        assert child.call("process", "locale") == ["C"]
        (lines,) = child.call("process", "environment")
        return sorted(set(lines.splitlines()) - {directory})

    return see


@pytest.mark.parametrize("variables", ENVIRONMENTS)
def test_tasks_see_the_environment_and_the_c_locale(environment_of_tasks, variables):
    given = variables.split()
    assert environment_of_tasks(given) == sorted(given)


# These are the values that Python sets, so it may have done that.
WITHOUT_PROC = """
C.UTF-8     | LC_ALL=C LC_CTYPE=C.UTF-8     | LC_ALL=C
C.utf8      | LC_ALL=C LC_CTYPE=C.utf8      | LC_ALL=C
UTF-8       | LC_ALL=C LC_CTYPE=UTF-8       | LC_ALL=C
de_DE.UTF-8 | LC_ALL=C LC_CTYPE=de_DE.UTF-8 | LC_ALL=C LC_CTYPE=de_DE.UTF-8
empty       | LC_ALL=C LC_CTYPE=            | LC_ALL=C LC_CTYPE=
none        | LANG=C                        | LANG=C
alone       | LC_CTYPE=C                    |
"""


@ours
@rows("given, seen", WITHOUT_PROC)
def test_without_proc_tasks_see_no_lc_ctype_of_python(
    environment_of_tasks, build_package, given, seen
):
    hidden = [
        f"{k}={v}" for k, v in preload.env(build_package, "files", "no-proc").items()
    ]
    found = environment_of_tasks([*given.split(), *hidden])
    assert found == sorted([*seen.split(), *hidden])


@ours
def test_tasks_of_the_commands_see_the_environment(package_dir):
    task = ["--package-dir", package_dir, "process", "environment"]
    done = cli.call("run", *task, shell='exec env -i A=1 "$@"')
    (lines,) = json.loads(done.stdout)
    given = ["A=1", f"SPIDER_TDL_PACKAGE_DIR={package_dir}"]
    assert sorted(lines.splitlines()) == given


def test_tasks_see_what_the_parent_set_up(spawn, tmp_path):
    child = spawn(shell='umask 037; ulimit -c 0; exec "$@"', cwd=tmp_path)
    assert child.call("process", "cwd") == [str(tmp_path)]
    assert child.call("process", "mask") == [0o37]
    assert child.call("process", "is_main_thread") == [1]
    (lines,) = child.call("process", "limits")
    for line in lines.splitlines():
        # "Unlimited" is -1 before CPython 3.15.
        number, *found = (int(word) % 2**64 for word in line.split())
        expected = [limit % 2**64 for limit in resource.getrlimit(number)]
        if number == resource.RLIMIT_CORE:
            expected = [0, 0]
        assert found == expected, f"expected {expected}, found {found} for {number}"


def dispositions(child):
    """The signals of a process that are not in their default state."""
    (lines,) = child.call("signals", "dispositions")
    return {line for line in lines.splitlines() if not line.endswith("default")}


def test_signals_have_their_default_actions_except_sigpipe(spawn):
    reported = ("SEGV", "FPE", "ABRT", "BUS", "ILL")
    handled = {f"{int(signal.Signals['SIG' + name])} handled" for name in reported}
    assert dispositions(spawn()) - handled == {f"{int(signal.SIGPIPE)} ignored"}


def test_signals_that_the_parent_ignores_or_blocks_stay_so(spawn):
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        child = spawn(shell="trap '' INT HUP TERM; exec \"$@\"")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    ignored = {signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM}
    expected = {f"{int(number)} ignored" for number in ignored}
    expected.add(f"blocked {int(signal.SIGUSR1)}")
    found = {line for line in dispositions(child) if "handled" not in line}
    assert found == expected


def test_the_executor_changes_no_limit(spawn, build_package, tmp_path, package_dir):
    """Not even back to what it was, after an init function has changed it."""
    init = "-DINIT=(setrlimit(RLIMIT_NOFILE, &(struct rlimit){100, 4096}), number(0))"
    changing = odd.build(build_package, "-include", "sys/resource.h", init)
    build.stage(tmp_path, "odd", changing)
    for name in ("process", "buffers"):
        (tmp_path / name).symlink_to(package_dir / name)

    child = spawn(tmp_path, shell='ulimit -n 4096; ulimit -Sn 64; exec "$@"')
    name = int(resource.RLIMIT_NOFILE)
    assert f"\n{name} 64 4096\n" in child.call("process", "limits")[0]
    assert child.call("odd", "answer") == [1]
    assert child.call("none", "task").variant == "InvalidLibrary"
    assert child.serves()
    assert f"\n{name} 100 4096\n" in child.call("process", "limits")[0]


@ours
def test_the_settings_of_malloc_are_the_operators(spawn, build_package):
    """The preloaded mallopt ends the process."""
    child = spawn(env=preload.env(build_package, "mallopt"))
    assert child.serves()
    assert child.finish() == (b"", 0)


# ------------------------------------------------------------------------ ways to start


@pytest.fixture
def place(package_dir):
    """A directory that every user can reach.

    In it are a package and a copy of the executor that was never started.
    """
    directory = Path(tempfile.mkdtemp(prefix="spider-executor-test-"))
    (directory / "bin").mkdir()
    for name in ("protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, directory / "bin")
    library = package_dir / "buffers" / "libbuffers.so"
    build.stage(directory / "packages", "buffers", library)
    subprocess.run(["chmod", "-R", "a=rX", directory], check=True, timeout=60)
    (directory / "bin").chmod(0o777)
    yield directory
    subprocess.run(["chmod", "-R", "u+rwx", directory], check=True, timeout=60)
    shutil.rmtree(directory)


PYTHON = sys.executable


@ours
@pytest.mark.parametrize(
    "command",
    [
        f"cd bin; exec {PYTHON} -m spider_executor",
        f"exec {PYTHON} -IS bin/spider_executor.py",
        "exec bin/spider_executor.py",
        "exec ./link",
    ],
)
def test_ways_to_start_it(spawn, place, command):
    """From a directory with only the two files, with the python3 that PATH has."""
    (place / "python3").symlink_to(PYTHON)
    (place / "link").symlink_to("bin/spider_executor.py")
    path = {"PATH": f"{place}:{os.environ['PATH']}"}
    child = spawn(place / "packages", env=path, shell=command, cwd=place)
    assert child.serves()
    child.end_silently()


DIRECTORY = 'SPIDER_TDL_PACKAGE_DIR="$SPIDER_TDL_PACKAGE_DIR"'
# A line of sh for each. Batch systems have large stacks.
ODD_PLACES = f"""
another user         | exec "$@"
no HOME              | unset HOME; exec "$@"
no environment       | exec env -i {DIRECTORY} "$@"
no working directory | cd "$(mktemp -d)" && rmdir "$PWD" && exec "$@"
umask 0777           | umask 0777; exec "$@"
16 files             | ulimit -n 16; exec "$@"
17 files             | ulimit -n 17; exec "$@"
18 files             | ulimit -n 18; exec "$@"
20 files             | ulimit -n 20; exec "$@"
a stack as large as all memory | ulimit -s 2097152; ulimit -v 2097152; exec "$@"
"""


@ours
@build.needs("unprivileged user")
@rows("line", ODD_PLACES)
def test_odd_places_to_start_in(spawn, place, line):
    """Two at a time, without bytecode, before there is any, and when there is some."""
    program = str(place / "bin" / "spider_executor.py")
    command = [*build.unprivileged(), PYTHON, "-IS", program]
    for mode in (0o555, 0o777, 0o777):
        (place / "bin").chmod(mode)
        children = [spawn(place / "packages", command, shell=line) for _ in range(2)]
        for child in children:
            output, status = child.finish(ECHO)
            assert executor.responses(output) == [[7]]
            assert (status, child.stderr()) == (0, "")
        assert (place / "bin" / "__pycache__").exists() == (mode == 0o777)


# Modules that take long to import.
SLOW = """
argparse asyncio collections contextlib dataclasses datetime enum functools inspect json
logging pathlib random re shutil signal site socket subprocess tempfile threading
traceback typing unittest
"""


@ours
def test_nothing_slow_is_imported(spawn):
    """In a life with all levels of the log and each kind of outcome."""
    python, *arguments = executor.OWN_COMMAND
    command = [python, "-X", "importtime", *arguments]
    child = spawn(command=command, env={"RUST_LOG": "trace,bad=directive"})
    assert child.serves()
    assert child.call("buffers", "no_such_task").variant == "TaskError"
    assert child.call("none", "task").variant == "InvalidLibrary"
    assert child.finish(bytes(4)) == (b"", 1)
    imported = set(re.findall(r"(?m)^import time:.*\| *(\S*)$", child.stderr()))
    assert {"protocol", "ctypes", "struct"} <= imported
    # On some versions of CPython, ctypes itself imports some of them.
    program = [PYTHON, "-ISc", "import ctypes, sys; print(*sys.modules)"]
    needed = subprocess.check_output(program, text=True, timeout=executor.DEADLINE)
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
