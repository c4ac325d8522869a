"""Streams of requests, mutated: right replies, or an end with one ERROR line, with at most 64 MiB of memory.

A small reader in this file says what is right. It shares nothing with the executor's. Stream `n` is always the same.
There are 600, or 20,000 with SPIDER_FUZZ_FULL.
"""

import collections
import os
import random
import select
import struct

import pytest
from helpers import executor

import protocol
from protocol import ExecutorError, Success, TdlError

STREAMS = 20_000 if "SPIDER_FUZZ_FULL" in os.environ else 600
BATCHES = 5
BODY_MAX = 8 << 20
# How a stream ends.
BETWEEN_FRAMES, INSIDE_A_FRAME, SHUT_DOWN, NOT_THE_PROTOCOL = range(4)

CONTEXT = protocol.TaskContext(1, 2, 3, 4).encode()
ERROR = protocol.pack({"Custom": "text"})
# Lengths at which something changes.
EDGES = [
    0,
    1,
    3,
    4,
    7,
    8,
    255,
    256,
    0xFFFF,
    BODY_MAX,
    BODY_MAX + 1,
    (1 << 31) - 1,
    (1 << 32) - 1,
]
EDGES += [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 8, (1 << 64) - 1]


def read_stream(stream):
    """Return the requests of a stream that get a response, as (package, task, inputs), and how the stream ends."""
    requests, at = [], 0
    while at < len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        if len(stream) - at >= 4 and size > BODY_MAX:
            return requests, NOT_THE_PROTOCOL
        if len(stream) - at < 4 + size:
            return requests, INSIDE_A_FRAME
        tag, rest = stream[at + 4 : at + 4 + size][:4], stream[at + 8 : at + 4 + size]
        at += 4 + size
        if tag == b"\1\0\0\0":
            return requests, SHUT_DOWN
        fields = []
        for _ in range(4):
            length = int.from_bytes(rest[:8], "little")
            if len(rest) < 8 or length > len(rest) - 8:
                return requests, NOT_THE_PROTOCOL
            fields.append(rest[8 : 8 + length])
            rest = rest[8 + length :]
        try:
            package, task = (field.decode() for field in fields[:2])
        except UnicodeDecodeError:
            return requests, NOT_THE_PROTOCOL
        if tag != bytes(4):
            return requests, NOT_THE_PROTOCOL
        requests.append((package, task, fields[3]))
    return requests, BETWEEN_FRAMES


def is_right(request, outcome):
    """Whether an outcome is the right one. `buffers` and `missing` are packages that the streams name on purpose."""
    package, task, inputs = request
    name, _, digits = task.partition(":")
    is_error = 0
    for byte in digits.encode():
        is_error = is_error * 10 + byte - ord("0")
    if package == "buffers" and (
        name == "echo" or (name == "echo_error" and is_error % 256 == 0)
    ):
        return outcome == Success(inputs or bytes(4))
    error, end = protocol.decode_executor_error(outcome.error)
    if package != "buffers":
        return end == len(outcome.error) and error.variant == "InvalidLibrary"
    if name == "echo_error" and inputs == ERROR:
        return error == ExecutorError("TaskError", TdlError("Custom", "text"))
    return error.variant != "InvalidLibrary"


def make_body(rng):
    if rng.random() < 0.03:
        return b"\1\0\0\0"
    inputs = rng.getrandbits(8 * 64).to_bytes(64, "little")[
        : rng.choice((0, 4, 20, 64))
    ]
    inputs *= 2000 if rng.random() < 0.05 else 1
    package, task, inputs = rng.choice(
        [(b"buffers", b"echo", inputs)] * 2
        + [(b"buffers", b"echo_error:1", ERROR), (b"buffers", b"echo_error:1", inputs)]
        + [(b"buffers", b"no_such_task", inputs), (b"missing", b"echo", inputs)]
    )
    return bytes(4) + b"".join(
        struct.pack("<Q", len(field)) + field
        for field in (package, task, CONTEXT, inputs)
    )


def mutate(rng, data, other):
    """Flip bits, set a length, insert, delete, repeat or cut off."""
    data = bytearray(data or other)
    kind = rng.randrange(8)
    at = rng.randrange(len(data))
    end = at + rng.choice((1, 2, 4, 8, 50))
    if kind < 3:
        for _ in range(rng.choice((1, 1, 2, 10))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 3:
        width, order = rng.choice(((4, "big"), (8, "little"), (4, "little")))
        data[at : at + width] = (rng.choice(EDGES) % (1 << 8 * width)).to_bytes(
            width, order
        )
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
    # Mutate within frames that stay whole, so that most requests are answered; then anywhere.
    bodies = [
        mutate(rng, body, make_body(rng)) if rng.random() < 0.1 else body
        for body in bodies
    ]
    stream = b"".join(struct.pack(">I", len(body)) + body for body in bodies)
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        stream = mutate(rng, stream, make_body(rng))
    return stream


def replies(child, stream, count):
    """Write a stream and read `count` responses. They are fewer if stdout ends before."""
    input_fd, output_fd = child.process.stdin.fileno(), child.process.stdout.fileno()
    os.set_blocking(input_fd, False)
    unsent, received, outcomes, at = memoryview(stream), b"", [], 0
    while unsent or len(outcomes) < count:
        readable, writable, _ = select.select(
            [output_fd], [input_fd] if unsent else [], [], executor.DEADLINE
        )
        assert readable or writable, "no reply"
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
            while (
                len(received) - at >= 4
                and len(received) - at - 4 >= struct.unpack_from(">I", received, at)[0]
            ):
                body, at = protocol.decode_frame(received, at)
                outcomes.append(protocol.decode_response(body)[0].outcome)
    assert at == len(received), "a torn response"
    return outcomes


@pytest.mark.ours  # Spider takes a header without a body for a clean end, and looks up names with '/' in them.
@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_mutated_stream_gets_right_replies_or_a_reported_end(spawn, batch):
    endings = collections.Counter()
    child = None
    for number in range(batch, STREAMS, BATCHES):
        stream = make_stream(number)
        requests, ending = read_stream(stream)
        endings[ending] += 1
        child = child or spawn(shell='ulimit -d 65536; exec "$@"')
        try:
            outcomes = replies(child, stream, len(requests))
            assert len(outcomes) == len(requests)
            for request, outcome in zip(requests, outcomes):
                assert is_right(request, outcome), (request, outcome)
            if ending != BETWEEN_FRAMES:
                end = child.finish if ending == INSIDE_A_FRAME else child.read_to_end
                assert end() == (b"", ending != SHUT_DOWN)
                assert (
                    len(child.errors())
                    == len(child.log_lines())
                    == (ending != SHUT_DOWN)
                )
                child.kill()
                child = None
        except (AssertionError, ValueError, OSError) as error:
            raise AssertionError(
                f"stream {number}, {stream.hex()[:5000]}: {error}"
            ) from error
    # There are enough of each kind for the test to mean something.
    assert min(endings[kind] for kind in range(4)) >= STREAMS // BATCHES // 100, endings
