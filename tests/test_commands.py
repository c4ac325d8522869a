"""The command line around its commands: help, usage, streams, signals, starts."""

import json
import os
import signal
import subprocess
import sys

import pytest
from helpers import build, cli, executor, odd, process

import spider_executor

pytestmark = pytest.mark.ours

TASKS = "integration_test_tasks"
FIBONACCI = (TASKS, "fibonacci", "10")


# ----------------------------------------------------------------------- help, usage


@pytest.mark.parametrize(
    ("arguments", "phrases"),
    [
        (
            ["--help"],
            "run one task|check that packages load|--version|SPIDER_TDL_PACKAGE_DIR"
            "|RUST_LOG: off, error (default), warn, info, debug|exit codes: 0 success"
            "|1 failure|2 usage|3 no response|130 Ctrl-C|141 stdout closed|examples:"
            "|gdb -ex 'set follow-fork-mode child' --args python3 spider_executor.py",
        ),
        (
            ["run", "-h"],
            "--package-dir DIR|default: $SPIDER_TDL_PACKAGE_DIR|--timeout SECONDS"
            "|--repeat N|minimum and median|--raw|--commit|--executor PATH|@FILE"
            "|Options go before PACKAGE|null: none; an array: list, struct or Bytes;"
            " an object: map or struct|PACKAGE TASK",
        ),
        (
            ["check", "--help"],
            "--package-dir DIR|--timeout SECONDS|(default: 10)|spider_check|lib*.so"
            "|sorted by name|the first one serves, and the second one fails|PACKAGE",
        ),
    ],
    ids=["program", "run", "check"],
)
def test_help_is_the_manual(arguments, phrases):
    done = cli.call(*arguments)
    assert (done.status, done.stderr) == (0, "")
    text = done.stdout.decode("ascii")
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    assert [phrase for phrase in phrases.split("|") if phrase not in words] == []
    assert "in-process" not in text


def test_the_help_keeps_its_lines():
    text = cli.call("--help").stdout.decode("ascii")
    assert "\nexit codes:\n  0 success, " in text


def test_version():
    done = cli.call("--version")
    text = f"spider-task-executor {spider_executor.__version__}\n"
    assert done == (0, text.encode(), "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("rnu", "rnu"),
        ("", "invalid choice: ''"),
        ("run", "the following arguments are required: PACKAGE, TASK; see --help"),
        ("run p", "the following arguments are required: TASK; see --help"),
        ("run --tiemout 1 p t", "--tiemout"),
        ("run --time 1 p t", "--time"),
        ("run --timeout", "--timeout: expected one argument"),
        ("run --timeout soon p t", "--timeout: invalid float value: 'soon'"),
        ("run --timeout 0 p t", "--timeout: expected a positive number, found 0.0"),
        ("run --timeout nan p t", "--timeout: expected a positive number, found nan"),
        ("run --repeat 0 p t", "--repeat: expected a positive number, found 0"),
        ("run --repeat 1.5 p t", "--repeat: invalid int value: '1.5'"),
        ("run --executor  p t", ": Permission denied"),
        ("run --in-process p t", "--in-process"),
        ("check --commit", "--commit"),
        ("check --timeout=1s", "--timeout: invalid float value: '1s'"),
        ("check --timeout -1", "--timeout: expected a positive number, found -1.0"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments, text):
    done = cli.call(*arguments.split(" "), SPIDER_TDL_PACKAGE_DIR="/")
    assert (done.status, done.stdout) == (2, b"")
    assert text in done.complaint


@pytest.mark.parametrize(
    "command", [["run", "p", "t"], ["check"]], ids=["run", "check"]
)
@pytest.mark.parametrize(
    ("options", "env", "complaint"),
    [
        (
            [],
            {},
            "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the environment",
        ),
        (
            [],
            {"SPIDER_TDL_PACKAGE_DIR": ""},
            "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the environment",
        ),
        (
            [],
            {"SPIDER_TDL_PACKAGE_DIR": "/nowhere"},
            "/nowhere: No such file or directory",
        ),
        (
            ["--package-dir", "/etc/passwd"],
            {"SPIDER_TDL_PACKAGE_DIR": "/"},
            "/etc/passwd: Not a directory",
        ),
    ],
    ids=["none", "empty", "variable", "option"],
)
def test_the_directory_of_the_packages_must_be_one(command, options, env, complaint):
    done = cli.call(command[0], *options, *command[1:], **env)
    assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)


# --------------------------------------------------------------------------- streams


@pytest.mark.parametrize(
    ("shell", "status", "stdout", "stderr"),
    [
        ('exec "$@" > /dev/full', 1, b"", "stdout: No space left on device"),
        ('exec "$@" >&-', 1, b"", "stdout: Bad file descriptor"),
        ('exec "$@" >&- 2>&- <&-', 1, b"", ""),
        (cli.UNREAD_STDOUT, 0, b"141\n", ""),
    ],
    ids=["full", "closed", "all closed", "unread"],
)
@pytest.mark.parametrize(
    "arguments", [["--help"], ["check", "complex"], ["run", *FIBONACCI]]
)
def test_a_stdout_that_cannot_be_written_is_an_exit_code(
    package_dir, shell, status, stdout, stderr, arguments
):
    env = {"SPIDER_TDL_PACKAGE_DIR": str(package_dir)}
    done = cli.call(*arguments, shell=shell, **env)
    assert (done.status, done.stdout) == (status, stdout)
    assert stderr in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("shell", ['exec "$@" 2>&-', 'exec "$@" <&-'])
def test_stdin_and_stderr_may_be_closed(package_dir, shell):
    done = cli.call("run", "--package-dir", package_dir, *FIBONACCI, shell=shell)
    assert done[:2] == (0, b"[55]\n")


@pytest.mark.parametrize(
    ("arguments", "stdout"),
    [
        (["--version"], b"spider-task-executor "),
        (["run", *FIBONACCI], b"[55]\n"),
        (["check", TASKS], b"integration_test_tasks    serves\n"),
    ],
    ids=["version", "run", "check"],
)
def test_the_root_directory_need_not_be_readable(package_dir, arguments, stdout):
    """An audit hook refuses it, as mode 0711 does for another user."""
    shell = cli.prepared_by("""
def refuse(event, arguments):
    if event == "open" and arguments[0] == "/":
        raise PermissionError("the root directory")
sys.addaudithook(refuse)
""")
    env = {"SPIDER_TDL_PACKAGE_DIR": str(package_dir)}
    done = cli.call(*arguments, shell=shell, **env)
    assert (done.status, done.stdout[: len(stdout)]) == (0, stdout), done.stderr


# Control characters of both kinds, one that reverses the text, a line separator, and
# one that has no meaning.
UNSAFE = "\x1b[2J\n\x7f\x9b\u202e\u2028\ue000"


def unsafe(text):
    return [ch for ch in text if not ch.isprintable() and ch != "\n"]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["buffers", "echo", f'"{UNSAFE}"'.replace("\n", "").replace("\x1b", "")], 0),
        (["buffers", "echo", json.dumps(UNSAFE)], 0),
        (["buffers", f"task{UNSAFE}"], 1),
        ([f"package{UNSAFE}", "t"], 1),
        (["buffers", "echo", f"[1, {UNSAFE}]"], 2),
        (["buffers", "echo", f"@{UNSAFE}"], 2),
        (["--executor", f"/{UNSAFE}", "p", "t"], 2),
        (["--timeout", UNSAFE, "p", "t"], 2),
        ([f"--option{UNSAFE}", "p", "t"], 2),
        (["--package-dir", UNSAFE, "p", "t"], 2),
    ],
    ids=[
        *("value", "escaped", "task", "package", "json", "file"),
        *("executor", "timeout", "option", "directory"),
    ],
)
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


@pytest.mark.parametrize(
    "arguments", [["run", "hang", "t"], ["check", "--timeout", "100"]]
)
@pytest.mark.parametrize(
    ("number", "status"),
    [
        (signal.SIGINT, 130),
        (signal.SIGTERM, -15),
        (signal.SIGHUP, -1),
        (signal.SIGKILL, -9),
    ],
)
def test_no_executor_outlives_a_command(
    build_package, tmp_path, arguments, number, status
):
    flag = "-DINIT=(pause(),number(1))"
    build.stage(tmp_path, "hang", odd.build(build_package, flag))
    executors = []

    def ready(pid):
        executors[:] = process.children(pid)
        return any("libhang.so" in process.maps(child) for child in executors)

    env = {"SPIDER_TDL_PACKAGE_DIR": str(tmp_path)}
    assert cli.interrupt(ready, *arguments, number=number, **env).status == status
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
    done = start("run", *FIBONACCI)
    assert (done.returncode, done.stdout) == (0, b"[55]\n")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(["check", "nowhere"], 1), (["run", "nowhere", "t"], 1), (["rnu"], 2)],
)
def test_a_failed_command_is_an_exit_code_of_the_process(start, arguments, status):
    assert start(*arguments).returncode == status


@pytest.mark.parametrize("arguments", [["check"], ["run", *FIBONACCI]])
def test_a_frozen_program_says_that_it_needs_a_command(package_dir, arguments):
    env = {"SPIDER_TDL_PACKAGE_DIR": str(package_dir)}
    done = cli.call(*arguments, shell=cli.prepared_by("sys.frozen = True"), **env)
    assert (done.status, done.stdout) == (2, b"")
    assert done.complaint.startswith("executor: expected `command`")
