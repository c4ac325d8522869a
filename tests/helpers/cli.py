"""The command line as its users call it: a process with arguments, two streams and an exit code.

call(*arguments, stdin=b"", shell=LINE, **env)      runs a command to its end; LINE of sh starts it
call_on_terminal(*arguments, until="", **env)       the same with a terminal; presses Ctrl-C when it shows `until`
interrupt(ready, *arguments, number, shell, **env)  sends a signal to the command when ready(pid) holds
Done                                                status, stdout (bytes), stderr (text), complaint (its one line)
WITHOUT_RIGHTS, WITHOUT_SIGCHLD, UNREAD_STDOUT      such LINEs: permissions hold for root; SIGCHLD is ignored;
                                                    nobody reads stdout
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import Popen
from typing import NamedTuple

from helpers import executor
from helpers.build import ROOT

# As the first line of the executable file starts it.
COMMAND = [sys.executable, "-IS", str(ROOT / "spider_executor.py")]
EXEC = 'exec "$@"'


def started_by(code: str) -> str:
    """A line of sh for `call`: a Python program changes the process before the command starts in it."""
    return f"""exec '{sys.executable}' -c 'import os, sys; {code}; os.execv(sys.argv[1], sys.argv[1:])' "$@\""""


# Takes CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from the capabilities that a program can have.
WITHOUT_RIGHTS = started_by(
    "import ctypes; [ctypes.CDLL(None).prctl(24, n, 0, 0, 0) for n in (1, 2)]"
)
WITHOUT_SIGCHLD = started_by(
    "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
)
# Writes until the reader has gone, then runs the command and writes its exit code.
UNREAD_STDOUT = """(exec 3>&1; { trap '' PIPE; while echo; do :; done 2>&-; "$@"; echo $? >&3; } | true)"""


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
    return {
        **{name: value for name, value in os.environ.items() if name not in steering},
        **changes,
    }


def call(*arguments: object, stdin: bytes = b"", shell: str = EXEC, **env: str) -> Done:
    """Run the command to its end. A traceback on stderr fails the test, whatever the test is about."""
    command = ["sh", "-c", shell, "sh", *COMMAND, *arguments]
    options = {"env": environment(**env), "timeout": executor.DEADLINE}
    done = subprocess.run(command, input=stdin, capture_output=True, **options)
    stderr = done.stderr.decode("utf-8")
    assert "Traceback" not in stderr, stderr
    return Done(done.returncode, done.stdout, stderr)


@contextmanager
def _started(
    arguments: tuple[object, ...], output: int, env: dict[str, str], shell: str = EXEC
) -> Iterator[Popen]:
    """Start the command in a process group of its own. At the end, kill it and what it has left."""
    options = {
        "stdout": output,
        "stderr": output,
        "env": environment(**env),
        "start_new_session": True,
    }
    with Popen(
        ["sh", "-c", shell, "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        **options,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def call_on_terminal(*arguments: object, until: str = "", **env: str) -> Done:
    """Run the command on a terminal, which is its stdout and its stderr. The text is in `stderr` of the result."""
    terminal, its_end = os.openpty()
    shown, deadline = b"", time.monotonic() + executor.DEADLINE
    with _started(arguments, its_end, env) as process, open(
        terminal, "rb", buffering=0
    ) as reader:
        os.close(its_end)
        while True:
            assert select.select([reader], [], [], deadline - time.monotonic())[0], (
                shown
            )
            try:
                shown += reader.read(65536)
            except OSError:  # Every process that had the terminal has ended.
                break
            if until and until.encode() in shown:
                until = ""
                os.killpg(process.pid, signal.SIGINT)
        status = process.wait(executor.DEADLINE)
    assert not until, shown
    return Done(status, b"", shown.decode("utf-8").replace("\r\n", "\n"))


def interrupt(
    ready: Callable[[int], object],
    *arguments: object,
    number: int,
    shell: str = EXEC,
    **env: str,
) -> Done:
    """Send a signal to the command, but not to its child processes, when `ready(pid)` holds."""
    with _started(arguments, subprocess.PIPE, env, shell) as process:
        executor.wait_for(lambda: ready(process.pid), "the command to be at work")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=executor.DEADLINE)
    return Done(process.returncode, stdout, stderr.decode("utf-8"))
