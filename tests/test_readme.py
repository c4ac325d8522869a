"""What the README says can be done, done."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from helpers.build import ROOT
from helpers.executor import DEADLINE

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
pytestmark = pytest.mark.ours


def test_there_are_examples():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("example", EXAMPLES, ids=range(1, len(EXAMPLES) + 1))
def test_an_example(package_dir, example, tmp_path):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r})\npackage_dir = {str(package_dir)!r}\n{example}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, timeout=DEADLINE)
    assert done.returncode == 0, done.stderr.decode()


def test_the_c_example_is_a_package(build_package, tmp_path):
    (source,) = re.findall(r"^```c\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    file = tmp_path / "sums.c"
    file.write_text(source)
    library = build_package(file)
    command = [sys.executable, "-m", "spider_executor", "run", "--package-dir", str(tmp_path), "sums", "add", "1", "2"]
    (tmp_path / "sums").mkdir()
    library.rename(tmp_path / "sums" / "libsums.so")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=DEADLINE)
    assert (done.stdout, done.returncode) == (b"[3]\n", 0), done.stderr.decode()


def test_the_commands_print_what_the_readme_shows(package_dir):
    shown = re.findall(r"^\$ python3 -m spider_executor (run .*)\n(\[.*\])$", README, re.MULTILINE)
    assert len(shown) == 3
    for command, output in shown:
        line = f"{sys.executable} -m spider_executor {command}"
        env = {"SPIDER_TDL_PACKAGE_DIR": str(package_dir), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(["sh", "-c", line], cwd=ROOT, env=env, capture_output=True, timeout=DEADLINE)
        assert (done.stdout.decode(), done.returncode) == (f"{output}\n", 0), done.stderr.decode()
