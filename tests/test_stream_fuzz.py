"""Whole streams of requests, mutated: right replies, or an end with one ERROR line, and never more than 64 MiB.

What is right is told by a small reader of the protocol in this file, which shares nothing with the executor's. The
streams come from a seed: number `n` is always the same. 5,000 of them by default, 20,000 by `make fuzz`.
"""

from __future__ import annotations

import collections
import json
import os
import random
import resource
import select
import struct
import time

import pytest
from helpers import build, executor, process

import protocol
from protocol import InvalidLibrary, Success, TaskError

STREAMS = 20_000 if "SPIDER_FUZZ_FULL" in os.environ else 5_000
BATCHES = 10
FRAME_BODY_MAX = 8 << 20
MEMORY_MAX = 64 << 20

# How a stream ends.
BETWEEN_FRAMES, INSIDE_A_FRAME, SHUT_DOWN, NOT_THE_PROTOCOL = range(4)


# ------------------------------------------------------------------------------------------------------- what is right


def read_stream(stream):
    """The requests in a stream that are to be answered, as (package, task, inputs), and how it ends."""
    requests, at = [], 0
    while at < len(stream):
        if len(stream) - at < 4:
            return requests, INSIDE_A_FRAME
        (size,) = struct.unpack_from(">I", stream, at)
        if size > FRAME_BODY_MAX:
            return requests, NOT_THE_PROTOCOL
        body = stream[at + 4 : at + 4 + size]
        if len(body) < size:
            return requests, INSIDE_A_FRAME
        at += 4 + size
        tag = body[:4]
        if tag == b"\1\0\0\0":
            return requests, SHUT_DOWN
        fields, rest = [], body[4:]
        for _ in range(4):
            length = int.from_bytes(rest[:8], "little")
            if len(rest) < 8 or length > len(rest) - 8:
                return requests, NOT_THE_PROTOCOL
            fields.append(rest[8 : 8 + length])
            rest = rest[8 + length :]
        try:
            names = [field.decode("utf-8") for field in fields[:2]]
        except UnicodeDecodeError:
            return requests, NOT_THE_PROTOCOL
        if tag != bytes(4):
            return requests, NOT_THE_PROTOCOL
        requests.append((*names, fields[3]))
    return requests, BETWEEN_FRAMES


def is_right(request, outcome):
    """Whether an outcome is what the package `buffers`, the only one there is, makes of a request."""
    package, task, inputs = request
    name, _, digits = task.partition(":")
    argument = 0
    for byte in digits.encode():
        argument = argument * 10 + byte - ord("0")
    if package == "buffers" and (name == "echo" or (name == "echo_error" and argument % 256 == 0)):
        return outcome == Success(inputs)
    error, end = protocol.decode_executor_error(outcome.error)
    if end != len(outcome.error):
        return False
    if package != "buffers":
        return isinstance(error, InvalidLibrary)
    if name == "echo_error" and inputs == ERROR:
        return error == TaskError(protocol.Custom("text"))
    return not isinstance(error, InvalidLibrary)


# ---------------------------------------------------------------------------------------------------------- the streams

CONTEXT = protocol.TaskContext(1, 2, 3, 4).encode()
ERROR = protocol.pack({"Custom": "text"})
# Lengths at which something changes.
EDGES = [0, 1, 3, 4, 7, 8, 255, 256, 0xFFFF, FRAME_BODY_MAX, FRAME_BODY_MAX + 1, (1 << 31) - 1, (1 << 32) - 1]
EDGES += [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1]


def make_body(rng):
    if rng.random() < 0.03:
        return b"\1\0\0\0"
    inputs = rng.getrandbits(8 * 64).to_bytes(64, "little")[: rng.choice((0, 4, 20, 64))]
    if rng.random() < 0.05:
        inputs *= 2000
    package, task, inputs = rng.choice(
        (
            (b"buffers", b"echo", inputs),
            (b"buffers", b"echo", inputs),
            (b"buffers", b"echo_error:1", ERROR),
            (b"buffers", b"echo_error:1", inputs),
            (b"buffers", b"no_such_task", inputs),
            (b"missing", b"echo", inputs),
        )
    )
    return bytes(4) + b"".join(struct.pack("<Q", len(field)) + field for field in (package, task, CONTEXT, inputs))


def mutate(rng, data, other):
    """Change bits, a length, or what is there at all."""
    if not data:
        return other
    data = bytearray(data)
    kind = rng.randrange(8)
    at = rng.randrange(len(data))
    end = min(len(data), at + rng.choice((1, 2, 4, 8, 50)))
    if kind < 3:
        for _ in range(rng.choice((1, 1, 2, 10))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        edge = rng.choice(EDGES)
        width, order = rng.choice(((4, "big"), (8, "little"), (4, "little")))
        data[at : at + width] = (edge % (1 << 8 * width)).to_bytes(width, order)
    elif kind == 4:
        data[at:at] = other[: rng.randrange(len(other) + 1)]
    elif kind == 5:
        del data[at:end]
    elif kind == 6:
        data[at:at] = data[at:end]
    else:
        del data[at:]
    return bytes(data)


def make_stream(number):
    rng = random.Random(number)
    bodies = [make_body(rng) for _ in range(rng.choice((1, 1, 2, 3, 6)))]
    # Within frames that stay whole, so that most requests are answered; then anywhere.
    for index in range(len(bodies)):
        if rng.random() < 0.1:
            bodies[index] = mutate(rng, bodies[index], make_body(rng))
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        if rng.random() < 0.6:
            stream = mutate(rng, stream, make_body(rng))
    return stream


# ------------------------------------------------------------------------------------------------------- the executors


class Executors:
    """Executors, of which the first takes the next stream, while others start."""

    def __init__(self, command, package_dir):
        self.command = command
        self.package_dir = package_dir
        self.started = collections.deque()

    def first(self):
        while len(self.started) < 4:
            child = executor.Executor(self.command, self.package_dir)
            resource.prlimit(child.pid, resource.RLIMIT_DATA, (MEMORY_MAX, MEMORY_MAX))
            os.set_blocking(child.process.stdin.fileno(), False)
            self.started.append(child)
        return self.started[0]

    def drop_first(self):
        self.started.popleft().kill()

    def close(self):
        while self.started:
            self.drop_first()


@pytest.fixture(scope="module")
def executors(executor_command, package_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("fuzz")
    build.stage(directory, "buffers", package_dir / "buffers" / "libbuffers.so")
    executors = Executors(executor_command, directory)
    yield executors
    executors.close()


def replies(child, stream, count):
    """Write a stream and read until there are `count` responses; fewer if stdout ends before."""
    input_fd, output_fd = child.process.stdin.fileno(), child.process.stdout.fileno()
    received, found, at = bytearray(), [], 0
    deadline = time.monotonic() + executor.DEADLINE
    unsent = memoryview(stream)
    while unsent or len(found) < count:
        readable, writable, _ = select.select([output_fd], [input_fd] if unsent else [], [], executor.DEADLINE)
        assert readable or writable, "no reply"
        assert time.monotonic() < deadline, "not done in time"
        if writable:
            try:
                unsent = unsent[os.write(input_fd, unsent) :]
            except BrokenPipeError:
                unsent = unsent[:0]
        if readable:
            chunk = os.read(output_fd, 1 << 20)
            if not chunk:
                break
            received += chunk
            while len(received) - at >= 4 and len(received) - at - 4 >= struct.unpack_from(">I", received, at)[0]:
                body, at = protocol.decode_frame(received, at)
                response, end = protocol.decode_response(body)
                assert end == len(body)
                found.append(response.outcome)
    assert at == len(received), "a torn response"
    return found


def check_end(child, ending):
    """Whether the executor ends as it should, and says why in one line."""
    rest, status = child.finish() if ending == INSIDE_A_FRAME else child.read_to_end()
    assert rest == b""
    assert status == (0 if ending == SHUT_DOWN else 1)
    levels = [line["level"] for line in map(json.loads, child.stderr().splitlines())]
    assert levels.count("ERROR") == (0 if ending == SHUT_DOWN else 1)


def run_stream(executors, number):
    stream = make_stream(number)
    requests, ending = read_stream(stream)
    child = executors.first()
    try:
        found = replies(child, stream, len(requests))
        assert len(found) == len(requests)
        for request, outcome in zip(requests, found):
            assert is_right(request, outcome), (request, outcome)
        if ending == BETWEEN_FRAMES:
            assert process.memory(child.pid, "VmHWM") <= MEMORY_MAX
        else:
            check_end(child, ending)
    except (AssertionError, ValueError, OSError) as error:
        log = child.stderr()
        executors.drop_first()
        raise AssertionError(f"stream {number}, {stream.hex()}: {error}; stderr: {log!r}") from error
    if ending != BETWEEN_FRAMES:
        child.check_log()
        executors.drop_first()
    return ending


@pytest.mark.ours  # Spider takes a header without a body for a clean end, and looks up names with '/' in them.
@pytest.mark.parametrize("batch", range(BATCHES))
def test_mutated_streams(executors, batch):
    size = STREAMS // BATCHES
    endings = collections.Counter(run_stream(executors, number) for number in range(batch * size, (batch + 1) * size))
    # Of every kind there are enough for the test to mean something.
    assert min(endings[kind] for kind in range(4)) >= size // 100, endings
