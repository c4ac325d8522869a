"""The executable file that `make dist/spider-task-executor` makes of the two modules."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile

import pytest
from helpers import build, cli, executor, process

from spider_executor import START

pytestmark = pytest.mark.ours

TASK = ["integration_test_tasks", "fibonacci"]
INTERPRETER_MAX = 255 - len(f"#! -ISc{START}")
# Not the link in a virtual environment, whose path may be too long for a first line.
PYTHON = os.path.realpath(sys.executable)
if len(PYTHON) > INTERPRETER_MAX:
    link = os.path.join(tempfile.mkdtemp(), "python3")
    os.symlink(PYTHON, link)
    PYTHON = link


def make(directory, interpreter=PYTHON, fails=False, **env):
    """Make the file in a copy of the project. Return its path and what make said."""
    for name in ("Makefile", "protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, directory)
    command = [
        "make",
        "-s",
        f"PYTHON={PYTHON}",
        f"INTERPRETER={interpreter}",
        "dist/spider-task-executor",
    ]
    # `make test` passes its own variables on.
    env = {
        **{
            name: value
            for name, value in os.environ.items()
            if "MAKE" not in name and name != "DIST"
        },
        **env,
    }
    done = subprocess.run(
        command,
        cwd=directory,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=executor.DEADLINE,
    )
    assert bool(done.returncode) is fails, done.stdout
    return directory / "dist" / "spider-task-executor", done.stdout.decode()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The file alone in a directory."""
    directory = tmp_path_factory.mktemp("make")
    target = make(directory)[0].rename(
        tmp_path_factory.mktemp("bin") / "spider-task-executor"
    )
    shutil.rmtree(directory)
    return target


@pytest.fixture
def works(package_dir, spawn):
    env = cli.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir))

    def works(command, **options):
        served = spawn(command=command, **options)
        assert served.call(*TASK, 10) == [55]
        assert served.finish() == (b"", 0)
        options = {"env": env, "timeout": executor.DEADLINE, **options}
        assert (
            subprocess.check_output([*command, "run", *TASK, "10"], **options)
            == b"[55]\n"
        )
        checked = subprocess.check_output([*command, "check", "complex"], **options)
        assert checked == b"complex    serves\n1 of 1 packages serve\n"

    return works


def test_it_works_however_it_is_started(works, file, tmp_path):
    (tmp_path / "link").symlink_to(file)
    (tmp_path / "protocol.py").write_text("raise SystemExit('the wrong module')\n")
    for command in (
        [file],
        [tmp_path / "link"],
        ["./link"],
        [sys.executable, "-IS", file],
        [sys.executable, "link"],
    ):
        works(command, cwd=tmp_path)


@pytest.mark.parametrize("interpreter", [PYTHON, ""])
def test_its_first_line_names_the_interpreter(works, tmp_path, interpreter):
    path, _ = make(tmp_path, interpreter)
    line = path.read_bytes().partition(b"\n")[0].decode()
    assert line.startswith(f"#!{interpreter or '/usr/bin/env -S python3'} -IS")
    assert os.access(path, os.X_OK)
    works([path])


def test_a_first_line_may_have_255_bytes(tmp_path):
    path, _ = make(tmp_path, "/" + "x" * (INTERPRETER_MAX - 1))
    assert len(path.read_bytes().partition(b"\n")[0]) == 255


@pytest.mark.parametrize(
    ("interpreter", "text"),
    [
        ("python3", "expected an absolute path, found 'python3'"),
        ("../bin/python3", "expected an absolute path"),
        ("/opt/my python/bin/python3", "expected a path without blanks"),
        ("/opt/python3\t", "expected a path without blanks"),
        (
            "/" + "x" * INTERPRETER_MAX,
            "too long; the first line has 256 bytes, and Linux reads 255",
        ),
    ],
)
def test_an_interpreter_that_no_first_line_can_have_is_refused(
    tmp_path, interpreter, text
):
    path, output = make(tmp_path, interpreter, fails=True)
    assert "INTERPRETER" in output
    assert text in output
    assert not path.exists()


def test_equal_sources_give_equal_files(file, tmp_path):
    """At another time, since an archive counts in steps of two seconds, and under other settings."""
    made_at = file.stat().st_mtime
    executor.wait_for(lambda: time.time() > made_at + 2.1, "the clock")
    previous = os.umask(0o077)
    try:
        path, _ = make(tmp_path, PYTHONHASHSEED="5", TZ="UTC7")
    finally:
        os.umask(previous)
    assert (path.stat().st_mode, path.read_bytes()) == (
        file.stat().st_mode,
        file.read_bytes(),
    )


@pytest.mark.parametrize("useless", [".py", ".pyc"])
def test_it_works_from_the_bytecode_or_from_the_sources(works, file, tmp_path, useless):
    """Another Python cannot read the bytecode. Without any source, this Python shows that it does."""
    target = tmp_path / file.name
    with file.open("rb") as old, target.open("wb") as new:
        new.write(old.readline())
        with zipfile.ZipFile(old) as archive, zipfile.ZipFile(new, "w") as changed:
            names = archive.namelist()
            for name in names:
                is_useless = name.endswith(useless) and not name.startswith("__main__")
                changed.writestr(name, b"?" * 100 if is_useless else archive.read(name))
    assert {
        "protocol.py",
        "protocol.pyc",
        "spider_executor.py",
        "spider_executor.pyc",
    } < set(names)
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
    shown = subprocess.check_output(
        [sys.executable, "-c", script], cwd=tmp_path, timeout=executor.DEADLINE
    )
    assert str(file) in shown.decode()


def test_ctrl_c_while_it_starts_kills_it_without_a_traceback(file, package_dir):
    """From its first line on. What the interpreter does before that is not in the hands of this program."""
    env = cli.environment(SPIDER_TDL_PACKAGE_DIR=str(package_dir))
    for number in range(20):
        with subprocess.Popen(
            [file], env=env, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        ) as started:
            deadline = time.monotonic() + executor.DEADLINE
            while "_ctypes" not in process.maps(
                started.pid
            ):  # It is among the imports.
                assert time.monotonic() < deadline
            time.sleep(number * 0.0003)
            started.send_signal(signal.SIGINT)
            stderr = started.stderr.read()
        assert (started.returncode, stderr) == (-signal.SIGINT, b"")
