"""What the tests of hostile tasks, packages, parents and streams share."""

from __future__ import annotations

import json
import os
import resource
import select
import time
from pathlib import Path

import support

# Set by `make fuzz`, for the full counts.
FULL = "SPIDER_FUZZ_FULL" in os.environ
LEAK_ITERATIONS = 1_000_000 if FULL else 200_000


def checked(spawn):
    """Starts executors; whatever they went through, their logs must be fit to read."""
    children = []

    def start(*arguments, **options):
        child = spawn(*arguments, **options)
        children.append(child)
        return child

    yield start
    for child in children:
        check_logs(child.stderr())


def check_logs(text):
    assert "Traceback (most recent call last)" not in text
    for line in text.splitlines():
        if line.startswith('{"timestamp"'):
            json.loads(line)


def serves(child):
    """Whether a request that nothing is wrong with gets its reply."""
    return child.call("buffers", "echo", "still", 1) == ["still", 1]


def end_of(child):
    """Read stdout to its end, without closing stdin; returns what came and the exit status."""
    fd, output, deadline = child.process.stdout.fileno(), b"", time.monotonic() + support.DEADLINE
    while True:
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"stdout stays open; stderr: {child.stderr()!r}"
        chunk = os.read(fd, 1 << 20)
        if not chunk:
            return output, child.wait()
        output += chunk


def exchange(child, data, size):
    """Write `data` and read `size` bytes at the same time; returns them."""
    input_fd, output_fd = child.process.stdin.fileno(), child.process.stdout.fileno()
    os.set_blocking(input_fd, False)
    unsent, received, deadline = memoryview(data), bytearray(), time.monotonic() + support.DEADLINE
    while len(received) < size:
        readable, writable, _ = select.select([output_fd], [input_fd] if unsent else [], [], support.DEADLINE)
        assert readable or writable, f"stalled; stderr: {child.stderr()!r}"
        assert time.monotonic() < deadline, f"not done in time; stderr: {child.stderr()!r}"
        if writable:
            unsent = unsent[os.write(input_fd, unsent[: 1 << 20]) :]
        if readable:
            chunk = os.read(output_fd, 1 << 20)
            assert chunk, f"end of stdout, exit status {child.wait()}; stderr: {child.stderr()!r}"
            received += chunk
    return bytes(received)


def memory(pid, field):
    """A field of /proc/<pid>/status, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {field}")


def limit_memory(pid, more):
    """Let a process have at most `more` bytes of memory than it has now."""
    limit = memory(pid, "VmData") + more
    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def is_gone(pid):
    """Whether a process that is not our child has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True
