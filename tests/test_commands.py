"""The command line around its commands: help, usage, what goes to a terminal, signals, and what a start imports."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from helpers import build, cli, executor, odd, process

import spider_executor

pytestmark = pytest.mark.ours

TASKS = "integration_test_tasks"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--help",
            "run,check,--version,SPIDER_TDL_PACKAGE_DIR,RUST_LOG,exit codes,0 ,1 ,2 ,3 ,130 ,141 ,examples,gdb",
        ),
        (
            "run -h",
            "--timeout SECONDS,--repeat N,--raw,--commit,--executor PATH,--in-process,@FILE,before PACKAGE",
        ),
        (
            "check --help",
            "--package-dir DIR,--timeout SECONDS,PACKAGE,execute,spider_check,order",
        ),
    ],
)
def test_help_is_the_manual(arguments, words):
    done = cli.call(*arguments.split())
    assert (done.status, done.stderr) == (0, "")
    text = done.stdout.decode("ascii")
    assert max(map(len, text.splitlines())) <= 80
    assert [word for word in words.split(",") if word not in text] == []


def test_version():
    done = cli.call("--version")
    assert (done.status, done.stderr) == (0, "")
    assert re.fullmatch(
        rf"spider-task-executor {re.escape(spider_executor.__version__)}\b.*\n",
        done.stdout.decode(),
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["rnu"], "rnu"),
        ([""], "invalid choice"),
        (["run"], "PACKAGE, TASK"),
        (["run", "p"], "TASK"),
        (["run", "--tiemout", "1", "p", "t"], "--tiemout"),
        (["run", "--time", "1", "p", "t"], "--time"),
        (["run", "--timeout"], "--timeout: expected one argument"),
        (["run", "--timeout", "soon", "p", "t"], "--timeout"),
        (["run", "--timeout", "0", "p", "t"], "--timeout"),
        (["run", "--timeout", "nan", "p", "t"], "--timeout"),
        (["run", "--repeat", "0", "p", "t"], "--repeat"),
        (["run", "--repeat", "1.5", "p", "t"], "--repeat"),
        (["run", "--executor", "", "p", "t"], ""),
        (["run", "--in-process", "--timeout", "1", "p", "t"], "--in-process"),
        (["run", "--in-process", "--executor", "x", "p", "t"], "--in-process"),
        (["check", "--commit"], "--commit"),
        (["check", "--timeout=1s"], "--timeout"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments, text):
    done = cli.call(*arguments, SPIDER_TDL_PACKAGE_DIR="/")
    assert (done.status, done.stdout) == (2, b"")
    assert text in done.complaint


@pytest.mark.parametrize("command", [["run", "p", "t"], ["check"]])
@pytest.mark.parametrize(
    ("options", "variable", "complaint"),
    [
        (
            [],
            None,
            "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the environment",
        ),
        (
            [],
            "",
            "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the environment",
        ),
        ([], "/nowhere", "/nowhere/.: No such file or directory"),
        (["--package-dir", "/etc/passwd"], "/", "/etc/passwd/.: Not a directory"),
    ],
)
def test_the_directory_of_the_packages_must_be_one(
    command, options, variable, complaint
):
    env = {} if variable is None else {"SPIDER_TDL_PACKAGE_DIR": variable}
    done = cli.call(*command[:1], *options, *command[1:], **env)
    assert (done.status, done.stdout) == (2, b"")
    assert complaint in done.complaint


@pytest.mark.parametrize(
    ("shell", "status", "stdout", "stderr"),
    [
        ('exec "$@" > /dev/full', 1, b"", "No space left on device"),
        ('exec "$@" >&-', 1, b"", "Bad file descriptor"),
        ('exec "$@" >&- 2>&- <&-', 1, b"", ""),
        (cli.UNREAD_STDOUT, 0, b"141\n", ""),
    ],
)
def test_a_stdout_that_is_full_or_closed_is_an_exit_code(
    package_dir, shell, status, stdout, stderr
):
    directory = ["--package-dir", package_dir]
    for arguments in (
        ["--help"],
        ["check", *directory, "complex"],
        ["run", *directory, TASKS, "fibonacci", "10"],
    ):
        done = cli.call(*arguments, shell=shell)
        assert (done.status, done.stdout) == (status, stdout)
        assert stderr in done.stderr
        assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("shell", ['exec "$@" 2>&-', 'exec "$@" <&-'])
def test_stdin_and_stderr_may_be_closed(package_dir, shell):
    done = cli.call(
        "run", "--package-dir", package_dir, TASKS, "fibonacci", "10", shell=shell
    )
    assert (done.status, done.stdout) == (0, b"[55]\n")


# Control characters of both kinds, one that reverses the text, a line separator, and one that has no meaning.
UNSAFE = "\x1b[2J\n\x7f\x9b\u202e\u2028\ue000"


@pytest.mark.parametrize(
    "arguments",
    [
        [
            "buffers",
            "echo",
            json.dumps(UNSAFE, ensure_ascii=False).replace("\x7f", "\\u007f"),
        ],
        ["buffers", "echo", json.dumps(UNSAFE)],
        ["buffers", f"task{UNSAFE}"],
        [f"package{UNSAFE}", "t"],
        ["buffers", "echo", f"[1, {UNSAFE}]"],
        ["buffers", "echo", f"@{UNSAFE}"],
        ["--executor", f"/{UNSAFE}", "p", "t"],
        ["--timeout", UNSAFE, "p", "t"],
        [f"--option{UNSAFE}", "p", "t"],
        ["--package-dir", UNSAFE, "p", "t"],
    ],
    ids=range(10),
)
def test_what_goes_to_a_terminal_or_a_pipe_is_safe_to_show(package_dir, arguments):
    arguments = ["run", "--package-dir", package_dir, *arguments]
    piped = cli.call(*arguments)
    shown = cli.call_on_terminal(*arguments)
    assert shown.status == piped.status
    for text in (shown.stderr, piped.stderr, piped.stdout.decode()):
        assert [
            character
            for character in text
            if not character.isprintable() and character != "\n"
        ] == []
    assert (
        max(
            len(shown.stderr.splitlines()),
            len((piped.stderr + piped.stdout.decode()).splitlines()),
        )
        <= 2
    )
    assert "u202e" in shown.stderr
    if piped.status == 0:
        assert json.loads(piped.stdout) == [UNSAFE]


def test_check_shows_names_and_errors_safely(tmp_path):
    os.makedirs(os.fsencode(tmp_path) + b"/bad\xff")
    (tmp_path / f"a{UNSAFE}b").mkdir()
    done = cli.call_on_terminal("check", "--package-dir", tmp_path)
    assert done.status == 1
    assert all(
        character.isprintable() or character == "\n" for character in done.stderr
    )
    first, second, last = done.stderr.splitlines()
    assert first.startswith(
        r"a\u001b[2J\u000a\u007f\u009b\u202e\u2028\ue000b    InvalidLibrary: "
    )
    assert second.startswith(r"bad\udcff")
    assert last == "0 of 2 packages serve"


@pytest.mark.parametrize(
    "arguments", [["run", "hang", "t"], ["check", "--timeout", "100"]]
)
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
)
def test_no_executor_outlives_a_command(build_package, tmp_path, arguments, number):
    build.stage(
        tmp_path, "hang", odd.build(build_package, "-DINIT=(pause(),number(1))")
    )
    executors = []

    def ready(pid):
        executors[:] = process.children(pid)
        return any("libhang.so" in process.maps(child) for child in executors)

    done = cli.interrupt(
        ready, *arguments, number=number, SPIDER_TDL_PACKAGE_DIR=str(tmp_path)
    )
    assert done.status == {signal.SIGINT: 130, signal.SIGKILL: -9}.get(
        number, 128 + number
    )
    assert "Traceback" not in done.stderr
    executor.wait_for(
        lambda: all(map(process.is_gone, executors)), "the executor to end"
    )


def test_nohup_holds_for_the_commands(package_dir):
    arguments = ["run", "--package-dir", package_dir, "process", "sleep:500"]
    done = cli.interrupt(
        process.children,
        *arguments,
        number=signal.SIGHUP,
        shell='trap "" HUP; exec "$@"',
    )
    assert (done.status, done.stdout) == (0, b"[500]\n")


def test_the_modules_are_found_wherever_the_program_is_started(package_dir, tmp_path):
    env = cli.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir))
    (tmp_path / "link").symlink_to(build.ROOT / "spider_executor.py")
    (tmp_path / "protocol.py").write_text("raise SystemExit('the wrong module')\n")
    for start in (
        ["-IS", tmp_path / "link"],
        ["-m", "spider_executor"],
        [build.ROOT / "spider_executor.py"],
    ):
        cwd = build.ROOT if "-m" in start else tmp_path
        command = [sys.executable, *start, "run", TASKS, "fibonacci", "10"]
        assert (
            subprocess.check_output(
                command, cwd=cwd, env=env, timeout=executor.DEADLINE
            )
            == b"[55]\n"
        )
