"""The command line as its users call it: a process with arguments, its two streams, and an exit status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import NamedTuple

import support

# What the executable file's first line says.
COMMAND = [sys.executable, "-IS", str(support.ROOT / "spider_executor.py")]


class Done(NamedTuple):
    status: int
    stdout: bytes
    stderr: str

    @property
    def complaint(self) -> str:
        """What stderr says, if it is one line that names the program."""
        name, _, text = self.stderr.partition(": ")
        assert name == "spider-task-executor"
        assert text.count("\n") == 1, self.stderr
        return text.rstrip("\n")


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without what steers an executor, and with `changes`."""
    steering = ("SPIDER_TDL_PACKAGE_DIR", "RUST_LOG", "SPIDER_INSTRUMENT_SLEEP_US")
    return {**{name: value for name, value in os.environ.items() if name not in steering}, **changes}


def call(*arguments: object, stdin: bytes = b"", **env: str) -> Done:
    """Run a command to its end. A traceback in what it says fails the test, whatever the test is about."""
    command = [*COMMAND, *map(os.fspath, arguments)]
    done = subprocess.run(
        command, input=stdin, capture_output=True, env=environment(**env), timeout=support.DEADLINE, check=False
    )
    stderr = done.stderr.decode("utf-8")
    assert "Traceback" not in stderr, stderr
    return Done(done.returncode, done.stdout, stderr)


def interrupt(ready: object, *arguments: object, **env: str) -> Done:
    """Start a command, press Ctrl-C when `ready(process)` holds, and see it end with all that it started."""
    with subprocess.Popen(
        [*COMMAND, *map(os.fspath, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**env),
        start_new_session=True,
    ) as process:
        try:
            support.wait_for(lambda: ready(process.pid), "the command to be under way")
            os.killpg(process.pid, signal.SIGINT)
            stdout, stderr = process.communicate(timeout=support.DEADLINE)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return Done(process.returncode, stdout, stderr.decode("utf-8"))
