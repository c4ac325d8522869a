"""README.md: its examples run, its commands print what it shows, its prose is whole.

In what README shows, `...` is any text.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import build, cli
from helpers.rows import lines, rows

pytestmark = pytest.mark.ours

README = (build.ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "native/README.md")
LINES_MAX = 240
COLUMNS_MAX = 100
# Seconds, which only a hang exceeds.
DEADLINE = 100


def blocks(language):
    block = rf"^```{language}\n(.*?)^```$"
    return re.findall(block, README, re.DOTALL | re.MULTILINE)


# ------------------------------------------------------------------------- examples


@pytest.fixture
def project(package_dir, tmp_path):
    """A directory in which the commands of README find what they need."""
    for name in ("protocol.py", "spider_executor.py", "native"):
        (tmp_path / name).symlink_to(build.ROOT / name)
    (source,) = blocks("c")
    (tmp_path / "sums.c").write_text(source, encoding="utf-8")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "tdl_packages").symlink_to(package_dir)
    python = tmp_path / "bin" / "python3"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\nexec '{sys.executable}' \"$@\"\n")
    python.chmod(0o755)
    cc = shutil.which(build.CC.split()[0])
    if cc is not None:
        (tmp_path / "bin" / "cc").symlink_to(cc)
    return tmp_path


def run(command, directory, **env):
    """Run a command. Return its exit code and all that it printed."""
    done = subprocess.run(
        command,
        cwd=directory,
        env=cli.environment(**env),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=DEADLINE,
        encoding="utf-8",
    )
    return done.returncode, done.stdout


def pattern(shown):
    """Return the regular expression of an output that README shows."""
    parts = shown.split("...")
    return ".*?".join(map(re.escape, parts))


def test_the_example_in_python_runs(package_dir, tmp_path):
    (example,) = blocks("python")
    program = f"package_dir = {str(package_dir)!r}\n{example}"
    command = [sys.executable, "-W", "error", "-c", program]
    printed = run(command, tmp_path, PYTHONPATH=str(build.ROOT))
    (shown,) = re.findall(r"# (.*)$", example, re.MULTILINE)
    assert printed == (0, f"{shown}\n")


@pytest.mark.parametrize("word", ["sums.c", "always_panic"])
def test_commands_print_what_is_shown(project, word):
    (block,) = [block for block in blocks("console") if word in block]
    commands = re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.MULTILINE)
    script = "\necho '=='\n".join(command for command, _ in commands)
    path = f"{project / 'bin'}:/usr/bin:/bin"
    _, printed = run(["sh", "-c", script], project, PATH=path)
    outputs = printed.split("==\n")
    assert len(outputs) == len(commands)
    for (command, shown), output in zip(commands, outputs):
        assert re.fullmatch(pattern(shown), output, re.DOTALL), (
            f"{command}: expected {shown!r}, found {output!r}"
        )


CRASH = """
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"
static void crash(spider_task *task) { *(volatile size_t *)(size_t)16 = task->job_id; }
SPIDER_TDL_PACKAGE("broken", NULL, {"crash", crash});
"""
PYTHON = Path(sys.executable).resolve()
# An emulator is started by a script, which no debugger can run.
is_program = pytest.mark.skipif(
    PYTHON.read_bytes()[:4] != b"\x7fELF", reason="this Python is a script"
)
# The tool that a test needs, and a pattern for what is shown.
TOOLS = """
gdb              | gdb              | #0 .*crash.*= 0x10
AddressSanitizer | gcc's sanitizers | address 0x000000000010.*#0 .* in crash
"""


@is_program
@pytest.mark.parametrize(
    ("tool", "shown"),
    [
        pytest.param(tool, shown, marks=build.needs(needed), id=tool)
        for tool, (needed, shown) in lines(TOOLS).items()
    ],
)
def test_a_tool_shows_where_a_task_crashed(project, build_package, tool, shown):
    (row,) = re.findall(rf"^\| {tool}\b.*$", README, re.MULTILINE)
    *_, command = re.findall("`([^`]*) run …`", row)
    source = project / "broken.c"
    source.write_text(CRASH)
    flags = ["-g"] + ["-fsanitize=address"] * (tool == "AddressSanitizer")
    build.stage(project, "broken", build_package(source, *flags))
    script = command.replace(" python3 ", f" '{PYTHON}' ")
    script += f" run --package-dir '{project}' broken crash"
    if tool == "gdb":
        # What a person enters.
        script = f"echo 'bt 1\np $_siginfo._sifields._sigfault' | {script}"
    path = f"{project / 'bin'}:/usr/bin:/bin"
    _, printed = run(["sh", "-c", script], project, PATH=path)
    assert re.search(shown, printed, re.DOTALL), printed


# ---------------------------------------------------------------------------- prose


def faults(text):
    """Return the paragraphs and sentences of Markdown that have no start or no end."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^[#|].*$", "", text, flags=re.MULTILINE)
    chunks = re.split(r"\n\s*\n|\n(?:[-*]|\d+\.) +", text)
    paragraphs = list(filter(None, map(str.strip, chunks)))
    ends = (".", ".)", ":")
    found = [text[-60:] for text in paragraphs if not text.endswith(ends)]
    found += [text[:60] for text in paragraphs if text[0].islower()]
    found += re.findall(r"(?<![A-Z.])[.!?]\)?\s+(?!std)[a-z]\w*", text)
    return found


def uneven_rows(text):
    """Return the rows of tables that have more or fewer cells than the first row."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        first, *others = re.sub(r"`[^`\n]*`", "", table).splitlines()
        found += [row for row in others if row.count("|") != first.count("|")]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_prose_is_whole(name):
    path = build.ROOT / name
    text = path.read_text(encoding="utf-8")
    assert faults(text) + uneven_rows(text) == []


BROKEN = """
no end       | This is one sentence
no start     | has no beginning.
two in one   | It ends. and goes on.
item         | `"- One item\\n- Another one."`
"""


@rows("text", BROKEN)
def test_broken_prose_is_noticed(text):
    assert len(faults(text)) == 1


def test_readme_has_few_lines_and_short_ones():
    shown = re.sub(r"^\|.*$", "|", README, flags=re.MULTILINE).splitlines()
    longest = max(shown, key=len)
    assert len(shown) <= LINES_MAX
    assert len(longest) <= COLUMNS_MAX, longest
