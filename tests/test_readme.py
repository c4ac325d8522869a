"""What the README shows, done."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from helpers import build, cli, executor

pytestmark = pytest.mark.ours

README = (build.ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def run(command: list[str], directory: object, **env: str) -> str:
    """Run a command, which must succeed. Return its stdout."""
    done = subprocess.run(
        command, cwd=directory, env=cli.environment(**env), capture_output=True, timeout=executor.DEADLINE
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_there_are_examples():
    assert len(blocks("python")) >= 3


@pytest.mark.parametrize("example", blocks("python"), ids=range(1, len(blocks("python")) + 1))
def test_an_example_in_python_runs(package_dir, example, tmp_path):
    program = f"package_dir = {str(package_dir)!r}\n{example}"
    run([sys.executable, "-W", "error", "-c", program], tmp_path, PYTHONPATH=str(build.ROOT))


def test_the_example_in_c_is_a_package(build_package, tmp_path):
    (source,) = blocks("c")
    (tmp_path / "sums.c").write_text(source)
    build.stage(tmp_path, "sums", build_package(tmp_path / "sums.c"))
    assert run([*cli.COMMAND, "run", "--package-dir", str(tmp_path), "sums", "add", "1", "2"], tmp_path) == "[3]\n"


def test_the_commands_print_what_is_shown(package_dir):
    shown = re.findall(
        r"^\$ (?:python3 -m spider_executor|spider-task-executor) (run .*)\n(\[.*\])$", README, re.MULTILINE
    )
    assert len(shown) >= 3
    for command, output in shown:
        line = f"'{sys.executable}' -m spider_executor {command}"
        path = os.environ.get("PATH", os.defpath)
        assert run(["sh", "-c", line], build.ROOT, PATH=path, SPIDER_TDL_PACKAGE_DIR=str(package_dir)) == f"{output}\n"
