"""Facts about a process, from /proc.

memory(pid, field)          a field of status, in bytes: "VmRSS", "VmHWM", "VmData", ...
limit_memory(pid, more)     lets the process have so many bytes more than now
descriptors(pid)            {fd: target} of what is open
threads(pid)                the ids of its threads
blocked_signals(pid, tid)   the signals that a thread blocks
children(pid)               the pids of the main thread's children
maps(pid)                   the text of maps; "" when the process has ended
is_gone(pid)                whether it has ended, reaped or not
"""

from __future__ import annotations

import os
import resource
from pathlib import Path


def _status(pid: int, field: str, tid: int | None = None) -> str:
    path = Path(
        f"/proc/{pid}/status" if tid is None else f"/proc/{pid}/task/{tid}/status"
    )
    for line in path.read_text().splitlines():
        if line.startswith(field + ":"):
            return line.split()[1]
    raise AssertionError(f"no {field}")


def memory(pid: int, field: str) -> int:
    return int(_status(pid, field)) * 1024


def limit_memory(pid: int, more: int) -> None:
    limit = memory(pid, "VmData") + more
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def descriptors(pid: int) -> dict[int, str]:
    found = {}
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
        except FileNotFoundError:
            pass  # the descriptor of the listing itself
    return found


def threads(pid: int) -> list[int]:
    return sorted(map(int, os.listdir(f"/proc/{pid}/task")))


def blocked_signals(pid: int, tid: int) -> set[int]:
    mask = int(_status(pid, "SigBlk", tid), 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def children(pid: int) -> list[int]:
    try:
        return list(
            map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        )
    except (FileNotFoundError, ProcessLookupError):
        return []


def maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in (
            "Z",
            "X",
        )
    except (FileNotFoundError, ProcessLookupError):
        return True
