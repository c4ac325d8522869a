"""The command line around its commands: help, version, wrong usage, and what a start must not import."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers import build, cli, executor

import spider_executor

pytestmark = pytest.mark.ours


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"], ["run", "--help"], ["check", "-h"]])
def test_help_is_the_manual(arguments):
    done = cli.call(*arguments)
    assert (done.status, done.stderr) == (0, "")
    text = done.stdout.decode("ascii")
    assert max(map(len, text.splitlines())) < 80
    for options in spider_executor._OPTIONS.values():
        for name, metavar in options.items():
            assert re.search(rf"^  {name}{f' {metavar}' if metavar else ''}  ", text, re.MULTILINE)
    for code in (0, spider_executor.EXIT_FAILURE, spider_executor.EXIT_USAGE, spider_executor.EXIT_NO_REPLY, 130, 141):
        assert re.search(rf"^ +{code}  ", text, re.MULTILINE)
    for word in ("SPIDER_TDL_PACKAGE_DIR", "RUST_LOG", "Usage", "Examples"):
        assert word in text


def test_version():
    done = cli.call("--version")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.decode() == f"spider-task-executor {spider_executor.__version__}, package ABI 0.1.0\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["rnu"], "unknown command rnu; did you mean run?; see --help"),
        (["chekc", "p"], "unknown command chekc; did you mean check?; see --help"),
        (["serve"], "unknown command serve; see --help"),
        ([""], "unknown command ; see --help"),
        (["--verison"], "unknown option --verison; did you mean --version?; see --help"),
        (["run", "--tiemout", "1", "p", "t"], "run: unknown option --tiemout; did you mean --timeout?; see --help"),
        (["run", "--packagedir=x"], "run: unknown option --packagedir; did you mean --package-dir?; see --help"),
        (["check", "--jsno"], "check: unknown option --jsno; did you mean --json?; see --help"),
        (["check", "--commit"], "check: unknown option --commit; see --help"),
        (["check", "-x"], "check: unknown option -x; see --help"),
        (["check", "--json=yes"], "check: --json takes no value"),
        (["check", "--timeout"], "check: --timeout: expected SECONDS"),
        (["run", "--executor="], "run: --executor: expected PATH"),
    ],
)
def test_wrong_usage(arguments, complaint):
    done = cli.call(*arguments, SPIDER_TDL_PACKAGE_DIR="/")
    assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)


@pytest.mark.parametrize("command", [["run", "p", "t"], ["check"]])
def test_the_directory_of_the_packages(command, tmp_path):
    variable = "SPIDER_TDL_PACKAGE_DIR: expected the directory of the task packages"
    hint = "; --package-dir DIR names it as well"
    for arguments, env, complaint in (
        ([], {}, f"{variable}, it is not set{hint}"),
        ([], {"SPIDER_TDL_PACKAGE_DIR": ""}, f"{variable}, it is empty{hint}"),
        ([], {"SPIDER_TDL_PACKAGE_DIR": "/nonexistent"}, f"{variable}, found /nonexistent{hint}"),
        (
            ["--package-dir", "/etc/passwd"],
            {},
            "--package-dir: expected the directory of the task packages, found /etc/passwd",
        ),
    ):
        done = cli.call(*command, *arguments, **env)
        assert (done.status, done.stdout, done.complaint) == (2, b"", complaint)


def test_help_to_a_closed_stdout_and_to_a_full_disk():
    line = f"{' '.join(cli.COMMAND)} --help"
    for redirection, status in ((">&-", 0), ("> /dev/full", 1)):
        done = subprocess.run(
            ["sh", "-c", f"{line} {redirection}"], capture_output=True, timeout=executor.DEADLINE, check=False
        )
        assert done.returncode == status
        assert b"Traceback" not in done.stderr


def test_a_start_imports_little():
    unwanted = {
        *("argparse", "dataclasses", "difflib", "enum", "json", "logging", "pathlib"),
        *("random", "re", "shlex", "signal", "subprocess", "tempfile", "threading", "typing"),
    }
    code = f"import sys; sys.path.insert(0, {str(build.ROOT)!r}); import spider_executor; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-IS", "-c", code], stdout=subprocess.PIPE, timeout=executor.DEADLINE, check=True
    ).stdout
    assert unwanted & set(loaded.decode().split()) == set()
