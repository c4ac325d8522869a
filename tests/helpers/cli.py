"""The command line as its users call it: arguments, two streams and an exit code.

call(*arguments, stdin=b"", shell=LINE, **env)  runs a command; LINE of sh starts it
call_on_terminal(*arguments, **env)             the same with a terminal
interrupt(ready, *arguments, number, shell=LINE, **env)
                                                sends a signal when ready(pid) holds
Done                                            status, stdout (bytes), stderr (text),
                                                complaint (its one line)
WITHOUT_RIGHTS, WITHOUT_SIGCHLD, UNREAD_STDOUT  such LINEs: permissions hold for root;
                                                SIGCHLD is ignored; nobody reads stdout
"""

import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from subprocess import Popen
from typing import NamedTuple

from helpers import executor
from helpers.build import ROOT

# As the first line of the executable file starts it.
COMMAND = [sys.executable, "-IS", str(ROOT / "spider_executor.py")]
EXEC = 'exec "$@"'


def started_by(code):
    """A line of sh for `call`: Python code changes the process before the command."""
    code = f"import os, sys; {code}; os.execv(sys.argv[1], sys.argv[1:])"
    return f"""exec '{sys.executable}' -c '{code}' "$@\""""


def prepared_by(code):
    """A line of sh for `call`: the command runs in a Python that has run this code."""
    code = f"""
import sys
{code}
sys.path.insert(0, "{ROOT}")
import spider_executor
sys.exit(spider_executor.main())
"""
    return f"""shift {len(COMMAND)}; exec '{sys.executable}' -c '{code}' "$@\""""


# Takes CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH from what a program can have.
WITHOUT_RIGHTS = started_by(
    "import ctypes; [ctypes.CDLL(None).prctl(24, n, 0, 0, 0) for n in (1, 2)]"
)
WITHOUT_SIGCHLD = started_by(
    "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)"
)
# Writes until the reader has gone, then runs the command and writes its exit code.
UNREAD_STDOUT = """
(exec 3>&1; { trap '' PIPE; while echo; do :; done 2>&-; "$@"; echo $? >&3; } | true)
"""


class Done(NamedTuple):
    status: int
    stdout: bytes
    stderr: str

    @property
    def complaint(self):
        """The one line of stderr, without the program's name."""
        name, _, text = self.stderr.partition(": ")
        one_line = (name, text.count("\n")) == ("spider-task-executor", 1)
        assert one_line, f"expected one line, found {self.stderr}"
        return text.rstrip("\n")


def environment(**changes):
    """This process's environment, changed, without variables that steer an executor."""
    variables = dict(os.environ)
    for name in ("SPIDER_TDL_PACKAGE_DIR", "RUST_LOG", "SPIDER_INSTRUMENT_SLEEP_US"):
        variables.pop(name, None)
    return {**variables, **changes}


def _done(status, stdout, stderr):
    """A traceback fails the test, whatever the test is about."""
    text = stderr.decode("utf-8")
    assert "Traceback" not in text, f"expected no traceback, found {text}"
    return Done(status, stdout, text)


def call(*arguments, stdin=b"", shell=EXEC, **env):
    """Run the command to its end."""
    command = [*COMMAND, *arguments]
    # A shell of another machine's kind cannot load what the command is to preload.
    if shell != EXEC:
        command = ["sh", "-c", shell, "sh", *command]
    options = {"env": environment(**env), "timeout": executor.DEADLINE}
    done = subprocess.run(command, input=stdin, capture_output=True, **options)
    return _done(done.returncode, done.stdout, done.stderr)


@contextmanager
def _started(arguments, output, shell, env):
    """Start the command in a process group. At the end, kill all of the group."""
    with Popen(
        ["sh", "-c", shell, "sh", *COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment(**env),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def call_on_terminal(*arguments, **env):
    """Run the command with stdout and stderr on a terminal. `stderr` has the text."""
    terminal, its_end = os.openpty()
    shown = b""
    with _started(arguments, its_end, EXEC, env) as process, open(
        terminal, "rb", buffering=0
    ) as reader:
        os.close(its_end)
        with suppress(OSError):  # Every process that had the terminal has ended.
            while select.select([reader], [], [], executor.DEADLINE)[0]:
                shown += reader.read(65536)
        status = process.wait(executor.DEADLINE)
    return _done(status, b"", shown.replace(b"\r\n", b"\n"))


def interrupt(
    ready,
    *arguments,
    number,
    shell=EXEC,
    **env,
):
    """Send a signal to the command, not to its children, when `ready(pid)` holds."""
    with _started(arguments, subprocess.PIPE, shell, env) as process:
        executor.wait_for(lambda: ready(process.pid), "the command to be at work")
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=executor.DEADLINE)
    return _done(process.returncode, stdout, stderr)
