"""native/README.md: its sources compile, and its commands print what it shows.

The commands of a console block run in one shell, after the earlier commands of the same
section. In what the guide shows, `...` is any text, and a number of microseconds is any
number. `python3` is a script, as with pyenv.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from helpers import build, cli

pytestmark = pytest.mark.ours

GUIDE = (build.NATIVE / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
SOURCE_NAME = re.compile(r"^(?:/\*|//) (\w+\.(?:c|cpp))\b.*\n", re.MULTILINE)
TOOLS = {
    "c++ ": "C++ compiler",
    "gdb ": "gdb",
    "valgrind ": "valgrind",
    "LD_PRELOAD": "gcc's sanitizers",
}
DEADLINE = 100  # seconds, which only a hang exceeds


def commands(text: str) -> list[tuple[str, str]]:
    """The commands of the console blocks in a text, each with what it prints."""
    return COMMAND.findall(
        "".join(
            block for language, block in BLOCK.findall(text) if language == "console"
        )
    )


def sources() -> dict[str, str]:
    """The names and texts of the source files. A block can have several."""
    texts = [
        SOURCE_NAME.split(block)
        for language, block in BLOCK.findall(GUIDE)
        if language in ("c", "cpp")
    ]
    assert not any(text[0] for text in texts), (
        "each source begins with a comment that names the file"
    )
    return {
        name: f"/* {name} */\n{code}"
        for text in texts
        for name, code in zip(text[1::2], text[2::2])
    }


def tools(lines: list[str]) -> list[str]:
    return [tool for word, tool in TOOLS.items() if any(word in line for line in lines)]


def console_blocks() -> list[object]:
    """The commands of each block, and the lines that must have run before."""
    blocks: list[object] = []
    exports = [line for line, _ in commands(GUIDE) if line.startswith("export ")]
    for section in GUIDE.split("\n## ")[1:]:
        before = exports
        for block in re.findall(
            r"^```console\n.*?^```$", section, re.DOTALL | re.MULTILINE
        ):
            lines = [line for line, _ in commands(block)]
            name = f"{section.splitlines()[0]}: {lines[-1].split()[0]}"
            blocks.append(
                pytest.param(
                    before, commands(block), marks=build.needs(*tools(lines)), id=name
                )
            )
            before = before + [line for line in lines if not tools([line])]
    return blocks


@pytest.fixture
def run(tmp_path):
    """Run lines in one shell beside the guide's sources. Return what each printed."""
    (tmp_path / "native").symlink_to(build.NATIVE)
    for name in ("protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, tmp_path)
    for name, code in sources().items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, target in (
        ("python3", sys.executable),
        ("cc", build.CC),
        ("c++", build.CXX or "false"),
    ):
        (tmp_path / "bin" / name).write_text(
            f'#!/bin/sh\nexec {shlex.quote(str(shutil.which(target)))} "$@"\n'
        )
        (tmp_path / "bin" / name).chmod(0o755)
    env = cli.environment(
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    )

    def run_lines(lines: list[str]) -> list[str]:
        command = ["sh", "-c", "\n".join(f"printf '\\036'\n{line}" for line in lines)]
        pipes = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
        }
        with subprocess.Popen(
            command, cwd=tmp_path, env=env, start_new_session=True, **pipes
        ) as shell:
            try:
                output = shell.communicate(timeout=DEADLINE)[0].decode(
                    "utf-8", "replace"
                )
            finally:
                if shell.poll() is None:
                    os.killpg(shell.pid, signal.SIGKILL)
        return output.split("\x1e")[1:]

    return run_lines


@pytest.mark.parametrize(("before", "shown"), console_blocks())
def test_commands_print_what_is_shown(run, before, shown):
    printed = run(before + [line for line, _ in shown])[len(before) :]
    assert len(printed) == len(shown)
    for (line, expected), text in zip(shown, printed):
        pattern = re.sub(
            r"\d+\\? µs", r"\\d+ µs", re.escape(expected).replace(r"\.\.\.", ".*")
        )
        assert re.fullmatch(pattern, text, re.DOTALL), f"$ {line}\n{text}"


@build.needs("C++ compiler", "gcc's sanitizers")
def test_a_throw_under_the_sanitizers(run):
    lines = [line for line, _ in commands(GUIDE)]
    (compile_line,) = [
        line.replace("-O2", "-fsanitize=address,undefined")
        for line in lines
        if line[:4] == "c++ "
    ]
    (call,) = [
        line.replace("broken nth '[1, 2, 3]' 3", "words find '[]' '\"x\"'")
        for line in lines
        if "ASAN" in line
    ]
    settings = [line for line in lines if re.match("export |run=|preload=", line)]
    *_, printed = run([*settings, "mkdir -p build/guide/words", compile_line, call])
    error = "words find: TaskError: ExecutionError: no such word: x"
    assert printed == f"spider-task-executor: {error}\n"


def test_every_block_is_run():
    assert set(sources()) <= set(" ".join(line for line, _ in commands(GUIDE)).split())
    assert len(sources()) >= 5
    assert {language for language, _ in BLOCK.findall(GUIDE)} == {"c", "cpp", "console"}
