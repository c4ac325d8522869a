"""Mutated streams of requests: right replies, or an end with one ERROR line.

The executor has 64 MiB of memory at most. A small reader in this file says what is
right; it shares nothing with the executor's. Stream `n` is always the same. There are
600, or 20,000 with SPIDER_FUZZ_FULL.
"""

import collections
import os
import random
import select
import struct

import pytest
from helpers import executor, process

import protocol
from protocol import ExecutorError, Success, TdlError

STREAMS = 20_000 if "SPIDER_FUZZ_FULL" in os.environ else 600
BATCHES = 5
BODY_MAX = 8 << 20
# How a stream ends.
BETWEEN_FRAMES = "between two frames"
INSIDE_A_FRAME = "inside a frame"
SHUT_DOWN = "with a Shutdown"
NOT_THE_PROTOCOL = "with malformed bytes"
ENDINGS = (BETWEEN_FRAMES, INSIDE_A_FRAME, SHUT_DOWN, NOT_THE_PROTOCOL)

CONTEXT = protocol.TaskContext(1, 2, 3, 4).encode()
ERROR = protocol.pack({"Custom": "text"})
# Lengths at which something changes.
EDGES = [0, 1, 3, 4, 7, 8, 255, 256, 0xFFFF]
EDGES += [BODY_MAX, BODY_MAX + 1, 2**31 - 1, 2**32 - 1, 2**32]
EDGES += [2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


# ------------------------------------------------------------------------ what is right


def read_body(body):
    """Return (package, task, inputs), or None if it is not that of an Execute."""
    if body[:4] != bytes(4):
        return None
    fields = []
    at = 4
    for _ in range(4):
        start = at + 8
        at = start + int.from_bytes(body[at:start], "little")
        if at > len(body):
            return None
        fields.append(body[start:at])
    try:
        return fields[0].decode(), fields[1].decode(), fields[3]
    except UnicodeDecodeError:
        return None


def read_stream(stream):
    """Return the requests that get a response, and how the stream ends."""
    requests = []
    while stream:
        size = int.from_bytes(stream[:4], "big")
        if len(stream) >= 4 and size > BODY_MAX:
            return requests, NOT_THE_PROTOCOL
        if len(stream) < 4 + size:
            return requests, INSIDE_A_FRAME
        body = stream[4 : 4 + size]
        if body[:4] == b"\1\0\0\0":
            return requests, SHUT_DOWN
        request = read_body(body)
        if request is None:
            return requests, NOT_THE_PROTOCOL
        requests.append(request)
        stream = stream[4 + size :]
    return requests, BETWEEN_FRAMES


def is_right(request, outcome):
    """Whether it is right. The streams name the packages `buffers` and `missing`."""
    package, task, inputs = request
    name, _, digits = task.partition(":")
    argument = 0
    for byte in digits.encode():
        argument = argument * 10 + byte - ord("0")
    is_success = name == "echo" or (name == "echo_error" and argument % 256 == 0)
    if package == "buffers" and is_success:
        return outcome == Success(inputs or bytes(4))
    error, end = protocol.decode_executor_error(outcome.error)
    if package != "buffers":
        return end == len(outcome.error) and error.variant == "InvalidLibrary"
    if name == "echo_error" and inputs == ERROR:
        return error == ExecutorError("TaskError", TdlError("Custom", "text"))
    return error.variant != "InvalidLibrary"


# -------------------------------------------------------------------------- the streams


def make_body(rng):
    if rng.random() < 0.03:
        return b"\1\0\0\0"
    inputs = rng.getrandbits(8 * 64).to_bytes(64, "little")
    inputs = inputs[: rng.choice((0, 4, 20, 64))]
    if rng.random() < 0.05:
        inputs *= 2000
    requests = [
        (b"buffers", b"echo", inputs),
        (b"buffers", b"echo", inputs),
        (b"buffers", b"echo_error:1", ERROR),
        (b"buffers", b"echo_error:1", inputs),
        (b"buffers", b"no_such_task", inputs),
        (b"missing", b"echo", inputs),
    ]
    package, task, inputs = rng.choice(requests)
    fields = (package, task, CONTEXT, inputs)
    return bytes(4) + b"".join(
        struct.pack("<Q", len(field)) + field for field in fields
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
        length = rng.choice(EDGES) % (1 << 8 * width)
        data[at : at + width] = length.to_bytes(width, order)
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
    frames = []
    # Mutate within frames that stay whole, so that most requests are answered.
    for _ in range(rng.choice((1, 1, 2, 3, 6))):
        body = make_body(rng)
        if rng.random() < 0.1:
            body = mutate(rng, body, make_body(rng))
        frames.append(struct.pack(">I", len(body)) + body)
    stream = b"".join(frames)
    # Then mutate anywhere.
    for _ in range(rng.choice((0, 0, 0, 1, 3))):
        stream = mutate(rng, stream, make_body(rng))
    return stream


# ----------------------------------------------------------------------------- the test


def exchange(child, stream, count):
    """Write a stream and read until `count` responses have come, or stdout ends."""
    input_fd = child.process.stdin.fileno()
    output_fd = child.process.stdout.fileno()
    os.set_blocking(input_fd, False)
    unsent = memoryview(stream)
    received = b""
    while unsent or len(split(received)) < count:
        inputs = [input_fd] if unsent else []
        ready = select.select([output_fd], inputs, [], executor.DEADLINE)
        assert any(ready), "expected a reply, found none"
        if ready[0]:
            chunk = os.read(output_fd, 1 << 20)
            if not chunk:
                break
            received += chunk
        elif ready[1]:
            try:
                written = os.write(input_fd, unsent)
            except BrokenPipeError:
                written = len(unsent)
            unsent = unsent[written:]
    return received


def split(received):
    """Return the bodies of the responses that are whole."""
    bodies = []
    while len(received) >= 4:
        end = 4 + int.from_bytes(received[:4], "big")
        if len(received) < end:
            break
        bodies.append(received[4:end])
        received = received[end:]
    return bodies


def check_replies(requests, received):
    bodies = split(received)
    size = sum(4 + len(body) for body in bodies)
    assert size == len(received), f"expected whole responses, found {received[size:]}"
    assert len(bodies) == len(requests), f"expected {requests}, found {bodies}"
    for request, body in zip(requests, bodies):
        outcome = protocol.decode_response(body)[0].outcome
        assert is_right(request, outcome), f"asked for {request}, found {outcome}"


def check_end(child, ending):
    finish = child.finish if ending == INSIDE_A_FRAME else child.read_to_end
    status = int(ending != SHUT_DOWN)
    assert finish() == (b"", status)
    assert len(child.errors()) == len(child.log_lines()) == status


# Spider takes a header without a body for a clean end, and looks up names with '/'.
@pytest.mark.ours
@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_mutated_stream_gets_replies_or_a_reported_end(spawn, batch):
    endings = collections.Counter()
    child = None
    for number in range(batch, STREAMS, BATCHES):
        stream = make_stream(number)
        requests, ending = read_stream(stream)
        endings[ending] += 1
        if child is None:
            child = spawn()
            assert child.serves()
            process.limit_memory(child.pid, 64 << 20)
        try:
            check_replies(requests, exchange(child, stream, len(requests)))
            if ending != BETWEEN_FRAMES:
                check_end(child, ending)
                child.kill()
                child = None
        except (AssertionError, ValueError, OSError) as error:
            text = f"stream {number}, which ends {ending}: {error}\n{stream.hex()}"
            raise AssertionError(text) from error
    # There are enough of each kind for the test to mean something.
    fewest = min(endings[ending] for ending in ENDINGS)
    assert fewest >= STREAMS // BATCHES // 100, endings
