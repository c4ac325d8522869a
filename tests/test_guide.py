"""native/README.md: its sources compile, and its commands print what it shows.

The commands of a console block run in one shell, after the earlier commands of the same section. `...` in what is shown
is any text, and a number of microseconds is any number. `python3` is a script, as with pyenv.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest
from helpers import build, cli

pytestmark = pytest.mark.ours

GUIDE = (build.NATIVE / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
SOURCE = re.compile(r"^(?:/\* (\w+\.c) \*/|// (\w+\.cpp))$", re.MULTILINE)
SOURCES = [text for language, text in BLOCK.findall(GUIDE) if language in ("c", "cpp")]
TOOLS = {"c++ ": "C++ compiler", "gdb ": "gdb", "valgrind ": "valgrind", "LD_PRELOAD": "sanitizers"}
SEPARATOR = "\x1e"
DEADLINE = 100  # seconds, which only a hang exceeds


class Command(NamedTuple):
    line: str
    shown: str

    def tools(self) -> list[str]:
        return [tool for word, tool in TOOLS.items() if word in self.line]


def console_blocks() -> list[object]:
    """The commands of each block, and those that must have run before them."""
    blocks: list[object] = []
    exports = [command for command in map(Command._make, COMMAND.findall(GUIDE)) if command.line.startswith("export ")]
    for section in GUIDE.split("\n## ")[1:]:
        before = exports
        for number, text in enumerate((text for language, text in BLOCK.findall(section) if language == "console"), 1):
            commands = [Command(*found) for found in COMMAND.findall(text)]
            assert "".join(f"$ {line}\n{shown}" for line, shown in commands) == text
            tools = {tool for command in before + commands for tool in command.tools()}
            name = f"{section.splitlines()[0]}, {number}"
            blocks.append(pytest.param(before, commands, marks=build.needs(*sorted(tools)), id=name))
            before = before + [command for command in commands if not command.tools()]
    return blocks


@pytest.fixture
def run(tmp_path):
    """Run commands in one shell, in a directory with the guide's sources. Return what each of them printed."""
    (tmp_path / "native").symlink_to(build.NATIVE)
    for name in ("protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, tmp_path)
    for text in SOURCES:
        _, *files = SOURCE.split(text)
        for c_name, cpp_name, code in zip(files[::3], files[1::3], files[2::3]):
            (tmp_path / (c_name or cpp_name)).write_text(code, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, target in (("python3", sys.executable), ("cc", build.CC), ("c++", build.CXX or "c++")):
        (tmp_path / "bin" / name).write_text(f'#!/bin/sh\nexec {shlex.quote(str(shutil.which(target)))} "$@"\n')
        (tmp_path / "bin" / name).chmod(0o755)
    env = cli.environment(PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}")

    def run_lines(lines: list[str]) -> list[str]:
        script = "\n".join(f"printf '\\036'\n{line}" for line in lines)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(["sh", "-c", script], cwd=tmp_path, env=env, start_new_session=True, **pipes) as shell:
            try:
                output = shell.communicate(timeout=DEADLINE)[0].decode("utf-8", "replace")
            except subprocess.TimeoutExpired:
                os.killpg(shell.pid, signal.SIGKILL)
                raise
        return output.split(SEPARATOR)[1:]

    return run_lines


@pytest.mark.parametrize(("before", "commands"), console_blocks())
def test_commands_print_what_is_shown(run, before, commands):
    printed = run([command.line for command in before + commands])[len(before) :]
    assert len(printed) == len(commands)
    for command, text in zip(commands, printed):
        pattern = re.sub(r"\d+ µs", r"\\d+ µs", re.escape(command.shown).replace(r"\.\.\.", ".*").replace("\\ ", " "))
        assert re.fullmatch(pattern, text, re.DOTALL), f"$ {command.line}\n{text}"


@build.needs("C++ compiler", "sanitizers")
def test_a_throw_under_the_sanitizers(run):
    lines = [line for line, _ in COMMAND.findall(GUIDE)]
    (build_line,) = [line.replace("-O2", "-fsanitize=address,undefined") for line in lines if line.startswith("c++ ")]
    (call,) = [line.replace("broken nth '[1, 2, 3]' 3", "words find '[]' '\"x\"'") for line in lines if "ASAN" in line]
    settings = [line for line in lines if re.match("export |run=|preload=", line)]
    *_, printed = run([*settings, "mkdir -p build/guide/words", build_line, call])
    assert printed == "spider-task-executor: words find: TaskError: ExecutionError: no such word: x\n"


def test_every_source_is_compiled():
    lines = " ".join(line for line, _ in COMMAND.findall(GUIDE))
    names = [c_name or cpp_name for text in SOURCES for c_name, cpp_name in SOURCE.findall(text)]
    assert len(names) >= len(SOURCES) >= 5
    assert not [name for name in names if f" {name}" not in lines]
    assert {language for language, _ in BLOCK.findall(GUIDE)} == {"c", "cpp", "console"}
