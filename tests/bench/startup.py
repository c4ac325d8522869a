"""Measures the ways to start the executor, from the spawn to the first reply, and prints one table.

    python tests/bench/startup.py [--rounds N]

All ways take turns. The bytecode that Python keeps is there, but Python keeps none of a script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

import harness
from harness import ECHO, ROOT, BenchError, Driver, Peer, percentile

import protocol
from spider_executor import own_command

STAGE = harness.BUILD / f"python-{sys.version.split()[0]}"
BARE = "python3 -IS -c pass, to its end"


def make_executable(name: str, interpreter: str) -> str:
    """Make the executable file, for this Python."""
    target = (STAGE / name).relative_to(ROOT)
    variables = [
        f"PYTHON={sys.executable}",
        f"INTERPRETER={interpreter}",
        f"DIST={target}",
    ]
    command = [
        "make",
        "-s",
        "-C",
        str(ROOT),
        *variables,
        f"{target}/spider-task-executor",
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60
    )
    if done.returncode:
        raise BenchError(done.stdout)
    return str(ROOT / target / "spider-task-executor")


def ways() -> dict[str, list[str]]:
    # Not the link in a virtual environment: a first line is short.
    python = os.path.realpath(sys.executable)
    program = make_executable("interpreter", python)
    return {
        BARE: [python, "-IS", "-c", "pass"],
        "the executable file with INTERPRETER": [program],
        "the same, by env": [make_executable("env", "")],
        "the same, python3 -IS spider-task-executor": [python, "-IS", program],
        "as ExecutorHandle starts it": own_command(),
        "python3 -IS spider_executor.py": [
            python,
            "-IS",
            str(ROOT / "spider_executor.py"),
        ],
    }


def measure(found: dict[str, list[str]], rounds: int) -> dict[str, list[int]]:
    driver = Driver()
    frame = harness.request_frame(ECHO, "echo", protocol.pack_values(1))
    # For the way that starts python3 by env.
    environment = harness.environment(
        PATH=f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"
    )
    times: dict[str, list[int]] = {name: [] for name in found}
    for at in range(1 + rounds):
        harness.progress(f"starts, round {at} of {rounds}")
        for name, command in list(found.items())[:: 1 if at % 2 else -1]:
            start = time.perf_counter_ns()
            if name == BARE:
                os.waitpid(os.posix_spawn(command[0], command, environment), 0)
                taken = time.perf_counter_ns() - start
            else:
                with Peer(command, environment) as peer:
                    driver.run(peer, [frame], 1)
                    taken = time.perf_counter_ns() - start
            # The first round writes bytecode.
            if at:
                times[name].append(taken)
    harness.progress("")
    return times


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Measure the ways to start the executor."
    )
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        default=40,
        help="starts of each way (%(default)s)",
    )
    options = parser.parse_args()
    harness.build()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    medians = {
        name: percentile(taken, 50)
        for name, taken in measure(ways(), options.rounds).items()
    }
    rows = [
        [name, f"{taken / 1e6:.2f}", f"{taken / medians[BARE]:.2f}×"]
        for name, taken in medians.items()
    ]
    print(
        harness.markdown_table(
            ["start to first reply", "P50, ms", "of the first row"], rows, words=1
        ),
        end="",
    )
    print(f"\nAll on one core of {harness.machine()}.")
    return 0


if __name__ == "__main__":
    harness.run(main)
