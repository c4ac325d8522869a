"""README.md: its examples run, its commands print what it shows, its prose is whole.

In what README shows, `...` is any text.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import build, cli

pytestmark = pytest.mark.ours

README = (build.ROOT / "README.md").read_text(encoding="utf-8")
TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "native/README.md")
LINES_MAX = 240
COLUMNS_MAX = 100
# Seconds, which only a hang exceeds.
DEADLINE = 100


def blocks(language: str) -> list[str]:
    block = rf"^```{language}\n(.*?)^```$"
    return re.findall(block, README, re.DOTALL | re.MULTILINE)


# ------------------------------------------------------------------------- examples


@pytest.fixture
def project(package_dir: Path, tmp_path: Path) -> Path:
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


def run(command: list[str], directory: Path, **env: str) -> tuple[int, str]:
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


def pattern(shown: str) -> str:
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
TOOLS = [
    pytest.param("gdb", "#0 .*crash.*= 0x10", marks=build.needs("gdb"), id="gdb"),
    pytest.param(
        "AddressSanitizer",
        "address 0x000000000010.*#0 .* in crash ",
        marks=build.needs("gcc's sanitizers"),
        id="AddressSanitizer",
    ),
]


@is_program
@pytest.mark.parametrize(("tool", "shown"), TOOLS)
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

# A line may begin a clause with code only after one of these words, or a comma.
JOINS = {"a", "after", "and", "as", "because", "before", "but", "by", "if", "in", "or"}
JOINS |= {"so", "than", "that", "the", "then", "to", "until", "when", "where", "while"}
VERBS = "are|calls?|can|do|does|has|have|is|loads?|must|names?|prints?|runs?|shows?"
# The start of an item of a list.
ITEM = r"(?:[-*]|\d+\.) +"
CLAUSE = re.compile(rf"(\S+)\n *(`[^`\n]+`) (?:{VERBS})\b")
LOWER_CASE = re.compile(r"(?<![A-Z.])[.!?]\)?\s+(?!std)[a-z]\w*")


def paragraphs(text: str) -> list[tuple[str, str]]:
    """Split Markdown into paragraphs and items, each with the text after it."""
    text = re.sub(r"^```.*?^```$", "```", text, flags=re.DOTALL | re.MULTILINE)
    chunks = re.split(rf"\n\s*\n|\n(?={ITEM})", text)
    found = []
    for chunk, after in zip(chunks, [*chunks[1:], ""]):
        lines = chunk.strip("\n").split("\n")
        prose = [line for line in lines if not line.startswith(("#", "|", "```"))]
        if prose:
            paragraph = re.sub(f"^{ITEM}", "", "\n".join(prose))
            found.append((paragraph, after))
    return found


def faults(text: str) -> list[str]:
    """Return what is wrong with the prose of a text in Markdown."""
    found = []
    for paragraph, after in paragraphs(text):
        end = paragraph[-60:]
        ends = (".", ".)")
        if re.match(rf"\s*(?:```|\||{ITEM})", after):
            ends = (".", ".)", ":")
        if not end.endswith(ends):
            found.append(f"expected a full stop at the end, found {end!r}")
        if re.match("[a-z]", paragraph):
            found.append(f"expected a capital letter, found {paragraph[:60]!r}")
        for match in LOWER_CASE.finditer(paragraph):
            found.append(f"expected a capital letter, found {match.group()!r}")
        for match in CLAUSE.finditer(paragraph):
            before = match.group(1)
            if before[-1] not in ".,:;)" and before not in JOINS:
                found.append(f"expected the end of a sentence, found {match.group()!r}")
    return found


def uneven_rows(text: str) -> list[str]:
    """Return the rows of tables that have more or fewer cells than the first row."""
    found = []
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = re.sub(r"`[^`\n]*`", "", table).splitlines()
        cells = rows[0].count("|")
        found += [row for row in rows if row.count("|") != cells]
    return found


@pytest.mark.parametrize("name", TEXTS)
def test_prose_is_whole(name):
    path = build.ROOT / name
    text = path.read_text(encoding="utf-8")
    assert faults(text) + uneven_rows(text) == []


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("`run --x` runs it\n`--help` has the rest.", id="cut sentence"),
        pytest.param("This is one sentence", id="no full stop"),
        pytest.param("- One item\n- Another one.", id="item without a full stop"),
        pytest.param("See below:\n\nNo block.", id="colon without a block"),
        pytest.param("It ends. and goes on.", id="sentence in lower case"),
        pytest.param("has no beginning.", id="paragraph in lower case"),
    ],
)
def test_broken_prose_is_noticed(text):
    assert faults(text) != []


def test_readme_has_few_lines_and_short_ones():
    lines = re.sub(r"^\|.*$", "|", README, flags=re.MULTILINE).splitlines()
    longest = max(lines, key=len)
    assert len(lines) <= LINES_MAX
    assert len(longest) <= COLUMNS_MAX, longest
