"""The command line around its commands: help, usage, streams, signals, starts."""

import json
import os
import signal
import subprocess
import sys

import pytest
from helpers import build, cli, executor, odd, process
from helpers.rows import rows

import spider_executor

pytestmark = pytest.mark.ours

FIBONACCI = "run integration_test_tasks fibonacci 10"


@pytest.fixture
def call(package_dir):
    """Run a command, as one text, with the packages."""

    def call(command, **options):
        options = {"SPIDER_TDL_PACKAGE_DIR": str(package_dir), **options}
        return cli.call(*command.split(" "), **options)

    return call


# ----------------------------------------------------------------------- help, usage


MANUALS = {
    "--help": "run one task|check that packages load|--version|SPIDER_TDL_PACKAGE_DIR"
    "|RUST_LOG: off, error (default), warn, info, debug|exit codes: 0 success"
    "|1 failure|2 usage|3 no response|130 Ctrl-C|141 stdout closed|examples:"
    "|gdb -ex 'set follow-fork-mode child' --args python3 spider_executor.py",
    "run -h": "--package-dir DIR|default: $SPIDER_TDL_PACKAGE_DIR|--timeout SECONDS"
    "|--repeat N|minimum and median|--raw|--commit|--executor PATH|@FILE"
    "|Options go before PACKAGE|null: none; an array: list, struct or Bytes;"
    " an object: map or struct|PACKAGE TASK",
    "check --help": "--package-dir DIR|--timeout SECONDS|(default: 10)|spider_check"
    "|lib*.so|sorted by name|the first one serves, and the second one fails|PACKAGE",
}


@pytest.mark.parametrize("command", MANUALS)
def test_help_is_the_manual(call, command):
    done = call(command)
    assert (done.status, done.stderr) == (0, "")
    text = done.stdout.decode("ascii")
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert [part for part in MANUALS[command].split("|") if part not in words] == []
    assert "in-process" not in text


def test_the_help_keeps_its_lines():
    text = cli.call("--help").stdout.decode("ascii")
    assert "\nexit codes:\n  0 success, " in text


def test_version():
    done = cli.call("--version")
    text = f"spider-task-executor {spider_executor.__version__}\n"
    assert done == (0, text.encode(), "")


@rows(
    "command, text",
    """
command     | rnu                | rnu
nothing     |                    | invalid choice: ''
no package  | run                | arguments are required: PACKAGE, TASK; see --help
no task     | run p              | arguments are required: TASK; see --help
unknown     | run --tiemout 1 p t | --tiemout
abbreviated | run --time 1 p t   | --time
no seconds  | run --timeout      | --timeout: expected one argument
soon        | run --timeout soon p t | --timeout: invalid float value: 'soon'
0 seconds   | run --timeout 0 p t | --timeout: expected a positive number, found 0.0
nan seconds | run --timeout nan p t | --timeout: expected a positive number, found nan
0 times     | run --repeat 0 p t | --repeat: expected a positive number, found 0
1.5 times   | run --repeat 1.5 p t | --repeat: invalid int value: '1.5'
no executor | run --executor  p t | : Permission denied
old option  | run --in-process p t | --in-process
of run      | check --commit     | --commit
unit        | check --timeout=1s | --timeout: invalid float value: '1s'
-1 second   | check --timeout -1 | --timeout: expected a positive number, found -1.0
""",
)
def test_wrong_usage_is_one_line_and_2(call, command, text):
    done = call(command, SPIDER_TDL_PACKAGE_DIR="/")
    assert (done.status, done.stdout) == (2, b"")
    assert text in done.complaint


NO_DIRECTORY = (
    "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the environment"
)
NO_DIRECTORIES = {
    "none": ("", {}, NO_DIRECTORY),
    "empty": ("", {"SPIDER_TDL_PACKAGE_DIR": ""}, NO_DIRECTORY),
    "variable": (
        "",
        {"SPIDER_TDL_PACKAGE_DIR": "/nowhere"},
        "/nowhere: No such file or directory",
    ),
    "option": (
        " --package-dir /etc/passwd",
        {"SPIDER_TDL_PACKAGE_DIR": "/"},
        "/etc/passwd: Not a directory",
    ),
}


@pytest.mark.parametrize("command", ["run{} p t", "check{}"])
@rows("option, env, complaint", NO_DIRECTORIES)
def test_the_directory_of_the_packages_must_be_one(command, option, env, complaint):
    done = cli.call(*command.format(option).split(), **env)
    assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)


# --------------------------------------------------------------------------- streams


UNWRITABLE = {
    "full": ('exec "$@" > /dev/full', 1, b"", "stdout: No space left on device"),
    "closed": ('exec "$@" >&-', 1, b"", "stdout: Bad file descriptor"),
    "all closed": ('exec "$@" >&- 2>&- <&-', 1, b"", ""),
    "unread": (cli.UNREAD_STDOUT, 0, b"141\n", ""),
}


@rows("shell, status, stdout, stderr", UNWRITABLE)
@pytest.mark.parametrize("command", ["--help", "check complex", FIBONACCI])
def test_a_stdout_that_cannot_be_written_is_an_exit_code(
    call, shell, status, stdout, stderr, command
):
    done = call(command, shell=shell)
    assert (done.status, done.stdout) == (status, stdout)
    assert stderr in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("shell", ['exec "$@" 2>&-', 'exec "$@" <&-'])
def test_stdin_and_stderr_may_be_closed(call, shell):
    assert call(FIBONACCI, shell=shell)[:2] == (0, b"[55]\n")


SHOWN = {
    "--version": b"spider-task-executor ",
    FIBONACCI: b"[55]\n",
    "check complex": b"complex    serves\n",
}


@pytest.mark.parametrize("command", SHOWN)
def test_the_root_directory_need_not_be_readable(call, command):
    """An audit hook refuses it, as mode 0711 does for another user."""
    shell = cli.prepared_by("""
def refuse(event, arguments):
    if event == "open" and arguments[0] == "/":
        raise PermissionError("the root directory")
sys.addaudithook(refuse)
""")
    done = call(command, shell=shell)
    assert done.status == 0, done.stderr
    assert done.stdout.startswith(SHOWN[command])


# Control characters of both kinds, one that reverses the text, a line separator, and
# one that has no meaning.
UNSAFE = "\x1b[2J\n\x7f\x9b\u202e\u2028\ue000"


def unsafe(text):
    return [ch for ch in text if not ch.isprintable() and ch != "\n"]


SHORT_UNSAFE = UNSAFE.replace("\n", "").replace("\x1b", "")
# Where the characters are, and the exit code.
PLACES = {
    "value": (["buffers", "echo", f'"{SHORT_UNSAFE}"'], 0),
    "escaped": (["buffers", "echo", json.dumps(UNSAFE)], 0),
    "task": (["buffers", f"task{UNSAFE}"], 1),
    "package": ([f"package{UNSAFE}", "t"], 1),
    "json": (["buffers", "echo", f"[1, {UNSAFE}]"], 2),
    "file": (["buffers", "echo", f"@{UNSAFE}"], 2),
    "executor": (["--executor", f"/{UNSAFE}", "p", "t"], 2),
    "timeout": (["--timeout", UNSAFE, "p", "t"], 2),
    "option": ([f"--option{UNSAFE}", "p", "t"], 2),
    "directory": (["--package-dir", UNSAFE, "p", "t"], 2),
}


@rows("arguments, status", PLACES)
def test_what_goes_to_a_terminal_or_a_pipe_is_safe(package_dir, arguments, status):
    arguments = ["run", "--package-dir", package_dir, *arguments]
    piped = cli.call(*arguments)
    shown = cli.call_on_terminal(*arguments)
    assert (piped.status, shown.status) == (status, status)
    for text in (shown.stderr, piped.stderr + piped.stdout.decode()):
        assert unsafe(text) == []
        assert text.count("\n") <= 2
        assert "u202e" in text


def test_check_shows_names_and_errors_safely(tmp_path):
    for name in (f"a{UNSAFE}b".encode(), b"bad\xff"):
        directory = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(directory)
        open(os.path.join(directory, b"lib.so"), "w").close()
    done = cli.call_on_terminal("check", "--package-dir", tmp_path, RUST_LOG="off")
    assert done.status == 1
    assert unsafe(done.stderr) == []
    first, second, last = done.stderr.splitlines()
    shown = r"a\u001b[2J\u000a\u007f\u009b\u202e\u2028\ue000b    InvalidLibrary: "
    assert first.startswith(shown)
    assert second.startswith(r"bad\udcff")
    assert last == "0 of 2 packages serve"


# --------------------------------------------------------------------------- signals


# The exit code, or the number of the signal.
SIGNALS = {"SIGINT": 130, "SIGTERM": -15, "SIGHUP": -1, "SIGKILL": -9}


@pytest.mark.parametrize("command", ["run hang t", "check --timeout 100"])
@pytest.mark.parametrize("name", SIGNALS)
def test_no_executor_outlives_a_command(build_package, tmp_path, command, name):
    flag = "-DINIT=(pause(),number(1))"
    build.stage(tmp_path, "hang", odd.build(build_package, flag))
    executors = []

    def ready(pid):
        executors[:] = process.children(pid)
        return any("libhang.so" in process.maps(child) for child in executors)

    options = {"number": signal.Signals[name], "SPIDER_TDL_PACKAGE_DIR": str(tmp_path)}
    done = cli.interrupt(ready, *command.split(), **options)
    assert done.status == SIGNALS[name]
    for pid in executors:
        executor.wait_for(lambda pid=pid: process.is_gone(pid), "its end")


def test_nohup_holds_for_the_commands(package_dir):
    arguments = ["run", "--package-dir", package_dir, "process", "sleep:500"]
    options = {"number": signal.SIGHUP, "shell": 'trap "" HUP; exec "$@"'}
    done = cli.interrupt(process.children, *arguments, **options)
    assert done[:2] == (0, b"[500]\n")


# ---------------------------------------------------------------------------- starts


@pytest.fixture(params=["link", "module", "file", "own command"])
def start(request, package_dir, tmp_path):
    """Ways to start the program, in a directory that has another `protocol`."""
    program = build.ROOT / "spider_executor.py"
    (tmp_path / "link").symlink_to(program)
    (tmp_path / "protocol.py").write_text("raise SystemExit('the wrong module')\n")
    command = {
        "link": [sys.executable, "-IS", tmp_path / "link"],
        "module": [sys.executable, "-m", "spider_executor"],
        "file": [sys.executable, program],
        "own command": spider_executor.own_command(),
    }[request.param]
    cwd = build.ROOT if request.param == "module" else tmp_path
    env = cli.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir))
    options = {"capture_output": True, "timeout": executor.DEADLINE}

    def start(*arguments):
        return subprocess.run([*command, *arguments], cwd=cwd, env=env, **options)

    return start


def test_the_modules_are_found_wherever_the_program_is(start):
    done = start(*FIBONACCI.split())
    assert (done.returncode, done.stdout) == (0, b"[55]\n")


FAILED = {"check nowhere": 1, "run nowhere t": 1, "rnu": 2}


@pytest.mark.parametrize("command", FAILED)
def test_a_failed_command_is_an_exit_code_of_the_process(start, command):
    assert start(*command.split()).returncode == FAILED[command]


@pytest.mark.parametrize("command", ["check", FIBONACCI])
def test_a_frozen_program_says_that_it_needs_a_command(call, command):
    done = call(command, shell=cli.prepared_by("sys.frozen = True"))
    assert (done.status, done.stdout) == (2, b"")
    assert done.complaint.startswith("executor: expected `command`")
