"""Measures the ways to start the executor, from the start to the first reply.

    python3 tests/bench/startup.py [--rounds N]

All ways take turns on one core. The first round is a warm-up, which also writes
bytecode. Python keeps no bytecode of a script.
"""

import argparse
import os
import time
from statistics import median

import harness

from spider_executor import own_command

BARE = "python3 -IS -c pass, to its end"


def ways():
    python = harness.python()
    program = harness.executable_file(python)
    script = str(harness.ROOT / "spider_executor.py")
    return {
        BARE: [python, "-IS", "-c", "pass"],
        "the executable file with INTERPRETER": [program],
        "the executable file by env": [harness.executable_file("")],
        "python3 -IS spider-task-executor": [python, "-IS", program],
        "ExecutorHandle": own_command(),
        "python3 -IS spider_executor.py": [python, "-IS", script],
        "C floor": [harness.FLOOR],
    }


def bare_ns(command, env):
    start = time.perf_counter_ns()
    os.waitpid(os.posix_spawn(command[0], command, env), 0)
    return time.perf_counter_ns() - start


def measure(commands, rounds):
    """Return the median of each way in milliseconds."""
    # For the way that starts python3 by env.
    path = f"{os.path.dirname(harness.python())}:{os.environ['PATH']}"
    env = harness.environment(PATH=path)
    times = {name: [] for name in commands}
    for number in range(1 + rounds):
        harness.progress(f"starts, round {number} of {rounds}")
        for name in harness.in_turn(list(commands), number):
            clock = bare_ns if name == BARE else harness.start_ns
            times[name].append(clock(commands[name], env))
    harness.progress("")
    return {name: median(taken[1:]) / 1e6 for name, taken in times.items()}


def main():
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
    rounds = parser.parse_args().rounds
    harness.compile_all()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    found = measure(ways(), rounds)
    rows = [[name, harness.cell(value, found[BARE])] for name, value in found.items()]
    harness.print_table(["start to first reply", "ms"], rows)
    print(f"\nMedians, in multiples of the first row.\n{harness.machine()}")


if __name__ == "__main__":
    harness.run(main)
