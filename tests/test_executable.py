"""The executable file that `make dist/spider-task-executor` makes of the modules."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile

import pytest
from helpers import build, cli, executor
from helpers.rows import rows

pytestmark = pytest.mark.ours

TASK = ["integration_test_tasks", "fibonacci"]
# Linux before 5.1 reads as many bytes of the first line, and drops the rest.
LINE_MAX = 127
# Not the link in a virtual environment, whose path may be too long for a first line.
PYTHON = os.path.realpath(sys.executable)
if len(PYTHON) > 60:
    link = os.path.join(tempfile.mkdtemp(), "python3")
    os.symlink(PYTHON, link)
    PYTHON = link


def run_make(directory, interpreter, **env):
    """Run make in a copy of the project. Return its exit code and what it said."""
    for name in ("Makefile", "protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, directory)
    variables = [f"PYTHON={PYTHON}", f"INTERPRETER={interpreter}"]
    done = subprocess.run(
        ["make", "-s", *variables, "dist/spider-task-executor"],
        cwd=directory,
        # `make test` would pass its own variables on.
        env={"PATH": os.environ["PATH"], **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=executor.DEADLINE,
    )
    return done.returncode, done.stdout.decode()


def make(directory, interpreter=PYTHON, **env):
    """Make the file. Return its path."""
    status, said = run_make(directory, interpreter, **env)
    assert status == 0, f"expected a file, found: {said}"
    return directory / "dist" / "spider-task-executor"


def first_line(path):
    return path.read_bytes().partition(b"\n")[0].decode()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file alone in a directory."""
    directory = tmp_path_factory.mktemp("make")
    alone = tmp_path_factory.mktemp("bin") / "spider-task-executor"
    target = make(directory).rename(alone)
    shutil.rmtree(directory)
    return target


@pytest.fixture
def works(package_dir, spawn):
    """Check that a command serves, runs tasks and checks packages."""
    env = cli.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir))

    def works(command, **options):
        served = spawn(command=command, **options)
        assert served.call(*TASK, 10) == [55]
        assert served.finish() == (b"", 0)
        for arguments, status, expected in (
            (["run", *TASK, "10"], 0, b"[55]\n"),
            (["check", "none"], 1, b"0 of 1 packages serve\n"),
        ):
            line = [*command, *arguments]
            done = subprocess.run(line, env=env, stdout=subprocess.PIPE, **options)
            assert done.returncode == status
            assert done.stdout.endswith(expected)

    return works


@pytest.mark.parametrize(
    "command",
    ["{file}", "{link}", "./link", "{python} -IS {file}", "{python} link"],
)
def test_it_works_however_it_is_started(works, file, tmp_path, command):
    link = tmp_path / "link"
    link.symlink_to(file)
    (tmp_path / "protocol.py").write_text("raise SystemExit('the wrong module')\n")
    words = command.format(file=file, link=link, python=sys.executable).split()
    works(words, cwd=tmp_path)


@rows(
    "interpreter, start",
    {
        "given": (PYTHON, f"#!{PYTHON} -IS"),
        "default": ("", "#!/usr/bin/env -S python3 -IS"),
    },
)
def test_its_first_line_starts_the_interpreter(works, tmp_path, interpreter, start):
    path = make(tmp_path, interpreter)
    assert first_line(path).startswith(start)
    assert len(first_line(path)) <= LINE_MAX
    works([path])


def test_the_first_line_may_have_as_many_bytes_as_linux_reads(tmp_path):
    rest = len(first_line(make(tmp_path, "/x"))) - len("/x")
    assert rest + len("/usr/local/bin/python3") <= LINE_MAX
    longest = "/" + "x" * (LINE_MAX - rest - 1)
    assert len(first_line(make(tmp_path, longest))) == LINE_MAX
    status, said = run_make(tmp_path, f"{longest}x")
    assert status != 0
    reason = "the first line of the executable file would have 128 bytes"
    assert f"INTERPRETER: the path is too long: {reason}" in said
    assert "Linux before 5.1 reads 127" in said


@rows(
    "interpreter, reason",
    r"""
name     | python3            | expected an absolute path, found 'python3'
relative | ../bin/python3     | expected an absolute path, found '../bin/python3'
blank    | /my python/python3 | expected a path without blanks, found '/my python/
tab | `'/opt/python3\t'` | `"expected a path without blanks, found '/opt/python3\t'"`
""",
)
def test_an_interpreter_that_no_first_line_can_have(tmp_path, interpreter, reason):
    status, said = run_make(tmp_path, interpreter)
    assert status != 0
    assert f"INTERPRETER: {reason}" in said
    assert not (tmp_path / "dist" / "spider-task-executor").exists()


def test_the_interpreter_makes_the_bytecode(tmp_path):
    """Another Python might not be able to read it."""
    interpreter = tmp_path / "python3"
    arguments = tmp_path / "arguments"
    interpreter.write_text(
        f'#!/bin/sh\necho "$@" >>{arguments}\nexec {PYTHON} "$@"\n',
    )
    interpreter.chmod(0o755)
    make(tmp_path, interpreter)
    assert "-m compileall" in arguments.read_text()


def test_equal_sources_give_equal_files(file, tmp_path):
    """At another time and under other settings. Archives count in two seconds."""
    made_at = file.stat().st_mtime
    executor.wait_for(lambda: time.time() > made_at + 2.1, "the clock")
    previous = os.umask(0o077)
    try:
        path = make(tmp_path, PYTHONHASHSEED="5", TZ="UTC7")
    finally:
        os.umask(previous)
    assert path.stat().st_mode == file.stat().st_mode
    assert path.read_bytes() == file.read_bytes()


@pytest.mark.parametrize("useless", [".py", ".pyc"])
def test_it_works_from_bytecode_or_sources(works, file, tmp_path, useless):
    """Another Python cannot read the bytecode.

    Without any source, this Python shows that it does.
    """
    target = tmp_path / file.name
    with file.open("rb") as old, target.open("wb") as new:
        new.write(old.readline())
        with zipfile.ZipFile(old) as archive, zipfile.ZipFile(new, "w") as changed:
            names = archive.namelist()
            for name in names:
                is_useless = name.endswith(useless) and not name.startswith("__main__")
                changed.writestr(name, b"?" * 100 if is_useless else archive.read(name))
    modules = ("boot", "protocol", "spider_executor")
    expected = {f"{module}{end}" for module in modules for end in (".py", ".pyc")}
    assert {*names} == {"__main__.py", *expected}
    target.chmod(0o755)
    works([target])


def test_a_handle_from_the_file_starts_the_file(file, package_dir, tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(file)!r})
from spider_executor import ExecutorHandle
with ExecutorHandle({str(package_dir)!r}) as handle:
    assert handle.execute("integration_test_tasks", "fibonacci", 10) == [55]
    print(open(f"/proc/{{handle.pid}}/cmdline").read())
"""
    command = [sys.executable, "-c", script]
    shown = subprocess.check_output(command, cwd=tmp_path, timeout=executor.DEADLINE)
    assert str(file) in shown.decode()
