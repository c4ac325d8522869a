"""What is distributed: the version, and the executable file that the Makefile makes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.build import ROOT

import spider_executor

NAME = "dist/spider-task-executor"
# Not the link in a virtual environment: a first line is short.
PYTHON = os.path.realpath(sys.executable)


def make(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Make the executable file in a copy of the project."""
    if not directory.exists():
        directory.mkdir()
        for name in ("Makefile", "protocol.py", "spider_executor.py"):
            shutil.copy(ROOT / name, directory)
    # `make test` hands its variables down to every make below it.
    without = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    command = ["make", "-s", NAME, f"PYTHON={PYTHON}"]
    return subprocess.run(
        command, cwd=directory, env={**without, **environment}, capture_output=True, text=True, timeout=60
    )


@pytest.fixture(scope="module")
def executable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("executable") / "project"
    done = make(directory, INTERPRETER=PYTHON)
    assert done.returncode == 0, done.stderr
    return directory / NAME


def test_the_version_is_the_same_in_both_places() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.*)"$', text, re.MULTILINE) == [spider_executor.__version__]


def test_the_first_line_starts_the_interpreter(executable: Path) -> None:
    first = executable.read_bytes().split(b"\n")[0].decode()
    assert first == f"#!{PYTHON} -ISc{spider_executor.START}"


@pytest.mark.parametrize("way", ["by its first line", "as an archive"])
def test_it_runs_tasks(executable: Path, package_dir: Path, tmp_path: Path, way: str) -> None:
    command = [str(executable)] if way == "by its first line" else [PYTHON, "-IS", str(executable)]
    arguments = [
        "run",
        "--package-dir",
        str(package_dir),
        "--timeout",
        "60",
        "integration_test_tasks",
        "fibonacci",
        "9",
    ]
    # The executor that `run` starts is the same program, wherever it is started.
    done = subprocess.run([*command, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "[34]\n")


@pytest.mark.parametrize(("suffix", "content"), [(".py", b"raise AssertionError"), (".pyc", b"of another Python")])
def test_it_needs_either_the_bytecode_or_the_sources(
    executable: Path, tmp_path: Path, suffix: str, content: bytes
) -> None:
    changed = tmp_path / "spider-task-executor"
    changed.write_bytes(executable.read_bytes().split(b"\n")[0] + b"\n")
    with zipfile.ZipFile(executable) as old, zipfile.ZipFile(changed, "a") as new:
        for info in old.infolist():
            new.writestr(info, content if info.filename.endswith(suffix) else old.read(info))
    changed.chmod(0o755)
    # Times in an archive are local ones; bytecode that depended on them would not be used elsewhere.
    command = [str(changed), "--version"]
    done = subprocess.run(command, env={"TZ": "Asia/Tokyo"}, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout.startswith(f"spider-task-executor {spider_executor.__version__}")


def test_equal_sources_give_equal_files(executable: Path, tmp_path: Path) -> None:
    other = tmp_path / "another place"
    old_mask = os.umask(0o077)
    try:
        done = make(other, INTERPRETER=PYTHON, TZ="Asia/Tokyo", PYTHONHASHSEED="7")
    finally:
        os.umask(old_mask)
    assert done.returncode == 0, done.stderr
    assert (other / NAME).read_bytes() == executable.read_bytes()


def test_it_holds_both_modules_and_their_bytecode(executable: Path) -> None:
    names = ["__main__.py", "protocol.py", "protocol.pyc", "spider_executor.py", "spider_executor.pyc"]
    assert zipfile.ZipFile(executable).namelist() == names


def test_without_an_interpreter_env_finds_python(executable: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    assert make(project).returncode == 0
    first = (project / NAME).read_bytes().split(b"\n")[0].decode()
    assert first == f'#!/usr/bin/env -S python3 -ISc "{spider_executor.START}"'
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").symlink_to(PYTHON)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        [str(project / NAME), "--version"], env=environment, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert done.stdout.startswith(f"spider-task-executor {spider_executor.__version__}")


LONGEST = 255 - len(f"#! -ISc{spider_executor.START}")


@pytest.mark.parametrize(
    ("interpreter", "complaint"),
    [
        ("python3", "expected an absolute path, found 'python3'"),
        ("/usr/bin/py thon3", "expected a path without blanks, found '/usr/bin/py thon3'"),
        ("/" + "x" * (LONGEST - 1), None),
        ("/" + "x" * LONGEST, "too long; the first line has 256 bytes, and Linux reads 255"),
    ],
    ids=["relative", "blank", "longest", "too long"],
)
def test_an_interpreter_that_cannot_start_is_refused(tmp_path: Path, interpreter: str, complaint: str | None) -> None:
    done = make(tmp_path / "project", INTERPRETER=interpreter)
    assert (done.returncode == 0) == (complaint is None), done.stderr
    assert (tmp_path / "project" / NAME).exists() == (complaint is None)
    assert complaint is None or f"INTERPRETER: {complaint}\n" in done.stdout
