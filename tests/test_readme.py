"""What the README shows, done."""

from __future__ import annotations

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
        command,
        cwd=directory,
        env=cli.environment(**env),
        capture_output=True,
        timeout=executor.DEADLINE,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.mark.parametrize("example", blocks("python"))
def test_an_example_in_python_runs(package_dir, example, tmp_path):
    program = f"package_dir = {str(package_dir)!r}\n{example}"
    run(
        [sys.executable, "-W", "error", "-c", program],
        tmp_path,
        PYTHONPATH=str(build.ROOT),
    )


def test_the_example_in_c_prints_what_is_shown(build_package, tmp_path):
    (source,) = blocks("c")
    (block,) = [block for block in blocks("console") if "sums.c" in block]
    (tmp_path / "sums.c").write_text(source)
    build.stage(
        tmp_path / "build" / "readme", "sums", build_package(tmp_path / "sums.c")
    )
    shown = re.findall(
        r"^\$ python3 -m spider_executor (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE
    )
    assert [command.split()[0] for command, _ in shown] == ["run", "check"]
    for command, output in shown:
        stdout = "".join(
            line for line in output.splitlines(True) if not line.startswith("elapsed")
        )
        assert run([*cli.COMMAND, *command.split()], tmp_path) == stdout
