"""Measures the ways to start the executor, from the spawn to the first reply, and prints one table.

    python tests/bench/startup.py [--rounds N] [--console-script PATH]

Warm: the bytecode of the two modules is in __pycache__. Cold: it is removed before every start, as in an image that is
read-only or has never run them. Where a way has no bytecode of its own, both are the same. All ways take turns.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import zipapp
from pathlib import Path
from typing import NamedTuple

import harness
from harness import ROOT, Driver, Peer, Progress, percentile

import protocol

STAGE = harness.BUILD / "startup"
MODULES = ("protocol.py", "spider_executor.py")
LAUNCHER = """\
import sys
sys.path.insert(0, {directory!r})
import spider_executor
sys.exit(spider_executor.main())
"""


class Way(NamedTuple):
    name: str
    command: list[str]
    shown: str
    directory: Path | None
    """Where the modules and their __pycache__ are; None if it keeps no bytecode."""

    missing: str = ""


def stage(name: str) -> Path:
    """A directory with the two modules in it, and nothing else."""
    directory = STAGE / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    for module in MODULES:
        shutil.copy(ROOT / module, directory)
    return directory


def ways(console_script: Path | None) -> list[Way]:
    python = sys.executable
    found = []

    directory = stage("file")
    file = directory / "spider_executor.py"
    file.chmod(0o755)
    found.append(Way("the file", [python, "-IS", str(file)], "python3 -IS spider_executor.py", directory))
    found.append(Way("the file, by its first line", [str(file)], "./spider_executor.py", directory))

    directory = stage("launcher")
    launcher = STAGE / "launcher.py"
    launcher.write_text(LAUNCHER.format(directory=str(directory)))
    found.append(
        Way("a launcher that imports it", [python, "-IS", str(launcher)], "python3 -IS launcher.py", directory)
    )

    directory = stage("module")
    # Not isolated: such an interpreter does not look for modules in the working directory.
    command = [python, "-S", "-m", "spider_executor"]
    found.append(Way("-m, beside the modules", command, "python3 -S -m spider_executor", directory))

    archive = STAGE / "spider_executor.pyz"
    zipapp.create_archive(stage("zipapp"), archive, main="spider_executor:main")
    found.append(Way("zipapp", [python, "-IS", str(archive)], "python3 -IS spider_executor.pyz", None))

    script = console_script or Path(python).with_name("spider-task-executor")
    missing = "" if script.exists() else "not installed: `pip install .`, or --console-script"
    found.append(Way("console script", [str(script)], "spider-task-executor", installed_modules(script), missing))

    program = harness.executor_command()[0]
    found.append(Way("the executable file", [program], "spider-task-executor", None))
    found.append(Way("the same, as an archive", [python, "-IS", program], "python3 -IS spider-task-executor", None))
    by_env = STAGE / "by_env"
    subprocess.run([python, str(ROOT / ".ci" / "executable.py"), str(by_env)], check=True, timeout=60)
    found.append(Way("the same, by env", [str(by_env)], "spider-task-executor (env)", None))
    return found


def installed_modules(script: Path) -> Path | None:
    """The site-packages directory of the environment that a console script belongs to."""
    return next((path.parent for path in script.parent.parent.glob("lib/python3*/*/spider_executor.py")), None)


def remove_bytecode(directory: Path) -> None:
    for module in MODULES:
        for file in (directory / "__pycache__").glob(Path(module).stem + ".*.pyc"):
            file.unlink()


def measure(found: list[Way], rounds: int) -> list[list[str]]:
    driver = Driver()
    frame = harness.request_frame(harness.ECHO, "echo", protocol.pack_values(1))
    present = [way for way in found if not way.missing]
    bare = [sys.executable, "-IS", "-c", "pass"]
    bare_times: list[int] = []
    # [warm, cold] of each way
    times: list[list[list[int]]] = [[[], []] for _ in present]

    def start(way: Way) -> int:
        os.chdir(way.directory or STAGE)
        began = time.perf_counter_ns()
        with Peer(way.command) as peer:
            driver.run(peer, [frame], 1)
            return time.perf_counter_ns() - began

    with Progress(2 * (rounds + 1)) as progress:
        for cold in (0, 1):
            # The first round writes the bytecode, and is not counted.
            for at in range(rounds + 1):
                progress.step(f"{'cold' if cold else 'warm'} start, round {at}")
                bare_time = harness.spawn_to_exit_ns(bare)
                for way, taken in zip(present, times):
                    if cold and way.directory is not None:
                        remove_bytecode(way.directory)
                    spent = start(way)
                    if at:
                        taken[cold].append(spent)
                if at:
                    bare_times.append(bare_time)

    bare_p50 = percentile(bare_times, 50)
    rows = [["nothing: a bare interpreter", "python3 -IS -c pass", f"{bare_p50 / 1e6:.2f}", "", "", "", ""]]
    measured = {way.name: taken for way, taken in zip(present, times)}
    for way in found:
        row = [way.name, way.shown]
        for spent_all in measured.get(way.name, []):
            p50 = percentile(spent_all, 50)
            row += [f"{p50 / 1e6:.2f}", f"{p50 / bare_p50:.2f}×"]
        rows.append(row + [""] * (6 - len(row)) + [way.missing])
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the ways to start the executor.")
    parser.add_argument(
        "--rounds", type=int, metavar="N", default=40, help="starts of each way, warm and cold (%(default)s)"
    )
    parser.add_argument(
        "--console-script", type=Path, metavar="PATH", help="the installed script (default: beside this interpreter)"
    )
    options = parser.parse_args()
    harness.build()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = measure(ways(options.console_script), options.rounds)
    head = ["way", "command", "warm P50, ms", "of bare", "cold P50, ms", "of bare", ""]
    print(harness.markdown_table(head, rows), end="")
    print(f"\n{harness.machine()}")
    return 0


if __name__ == "__main__":
    harness.run(main)
