"""The command line as its users call it: a process with arguments, two streams and an exit code.

call(*arguments, stdin=b"", **env)          runs a command to its end
interrupt(ready, *arguments, **env)         presses Ctrl-C when ready(pid) holds
Done                                        status, stdout (bytes), stderr (text), complaint (its one line)
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

from helpers import executor
from helpers.build import ROOT

# As the first line of the executable file starts it.
COMMAND = [sys.executable, "-IS", str(ROOT / "spider_executor.py")]


class Done(NamedTuple):
    status: int
    stdout: bytes
    stderr: str

    @property
    def complaint(self) -> str:
        """The text of stderr, which must be one line that starts with the program's name."""
        name, _, text = self.stderr.partition(": ")
        assert name == "spider-task-executor"
        assert text.count("\n") == 1, self.stderr
        return text.rstrip("\n")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment with `changes`, and without the variables that steer an executor."""
    steering = ("SPIDER_TDL_PACKAGE_DIR", "RUST_LOG", "SPIDER_INSTRUMENT_SLEEP_US")
    return {**{name: value for name, value in os.environ.items() if name not in steering}, **changes}


def call(*arguments: object, stdin: bytes = b"", **env: str) -> Done:
    """A traceback on stderr fails the test, whatever the test is about."""
    done = subprocess.run(
        [*COMMAND, *map(os.fspath, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(**env),
        timeout=executor.DEADLINE,
        check=False,
    )
    stderr = done.stderr.decode("utf-8")
    assert "Traceback" not in stderr, stderr
    return Done(done.returncode, done.stdout, stderr)


def interrupt(ready: Callable[[int], object], *arguments: object, **env: str) -> Done:
    """The command leads a process group, which gets SIGINT as a terminal sends it."""
    with subprocess.Popen(
        [*COMMAND, *map(os.fspath, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**env),
        start_new_session=True,
    ) as process:
        try:
            executor.wait_for(lambda: ready(process.pid), "the command to be at work")
            os.killpg(process.pid, signal.SIGINT)
            stdout, stderr = process.communicate(timeout=executor.DEADLINE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return Done(process.returncode, stdout, stderr.decode("utf-8"))
