"""Facts about a process, from /proc.

memory(pid, field)          a field of status, in bytes: "VmRSS", "VmHWM", "VmData", ...
limit_memory(pid, more)     lets the process have so many bytes more than now
descriptors(pid)            {fd: target} of what is open
threads(pid)                the ids of its threads
blocked_signals(pid, tid)   the signals that a thread blocks
children(pid)               the pids of the main thread's children; [] after its end
maps(pid)                   the text of maps; "" after its end
state(pid, tid)             what a thread does: "R" runs, "S" sleeps; "" after its end
is_gone(pid)                whether it has ended, reaped or not
"""

import os
import resource
from pathlib import Path


def _text(pid, name):
    """The text of a file of /proc/PID; "" if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _field(pid, name, field):
    """The first word of a field."""
    text = _text(pid, name)
    for line in text.splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1]
    raise AssertionError(f"expected {field} in /proc/{pid}/{name}, found {text!r}")


def memory(pid, field):
    return int(_field(pid, "status", field)) * 1024


def limit_memory(pid, more):
    limit = memory(pid, "VmData") + more
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def descriptors(pid):
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found


def threads(pid):
    return sorted(map(int, os.listdir(f"/proc/{pid}/task")))


def blocked_signals(pid, tid):
    mask = int(_field(pid, f"task/{tid}/status", "SigBlk"), 16)
    return {
        number
        for number in range(1, 65)
        if mask & 1 << (number - 1)
    }  # fmt: skip


def children(pid):
    pids = _text(pid, f"task/{pid}/children")
    return list(map(int, pids.split()))


def maps(pid):
    return _text(pid, "maps")


def state(pid, tid):
    # The state follows the program's name, which is in parentheses.
    _, _, rest = _text(pid, f"task/{tid}/stat").rpartition(") ")
    return rest[:1]


def is_gone(pid):
    return state(pid, pid) in ("", "Z", "X")
