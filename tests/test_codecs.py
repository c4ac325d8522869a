"""What holds for every codec: golden vectors whole, cut and surrounded; mutations."""

import ctypes
import os
import random

import pytest
import vectors
from helpers.codec import BUFFERS, outcome, refuses

import protocol
from protocol import (
    ExecutorError,
    ProtocolError,
    TaskContext,
    TdlError,
    TruncatedError,
    decode_request,
    locate_request,
)


def decode_frame(buffer, offset=0, end=None):
    return protocol.decode_frame(buffer[:end], offset)


# For each codec: decoder, encoder, vectors that are written and read, vectors that are
# only read, and malformed bytes.
CODECS = {
    "frame": (
        decode_frame,
        protocol.encode_frame,
        vectors.FRAMES,
        [],
        vectors.NOT_FRAMES,
    ),
    "request": (
        decode_request,
        protocol.encode_request,
        vectors.REQUESTS,
        [],
        vectors.NOT_REQUESTS,
    ),
    "response": (
        protocol.decode_response,
        protocol.encode_response,
        vectors.RESPONSES,
        [],
        vectors.NOT_RESPONSES,
    ),
    "payload": (
        protocol.decode_payload,
        protocol.encode_payload,
        vectors.PAYLOADS,
        [],
        vectors.NOT_PAYLOADS,
    ),
    "value": (
        protocol.unpack,
        protocol.pack,
        vectors.FIXED_VALUES + vectors.VALUES,
        vectors.READ_VALUES,
        vectors.NOT_VALUES,
    ),
    "task ids": (
        protocol.decode_task_ids,
        None,
        [],
        vectors.TASK_IDS,
        vectors.NOT_TASK_IDS,
    ),
    "tdl_error": (
        protocol.decode_tdl_error,
        TdlError.encode,
        vectors.TDL_ERRORS,
        [],
        vectors.NOT_TDL_ERRORS,
    ),
    "executor_error": (
        protocol.decode_executor_error,
        ExecutorError.encode,
        vectors.EXECUTOR_ERRORS,
        [],
        vectors.NOT_EXECUTOR_ERRORS,
    ),
}
WRITTEN = [
    pytest.param(encode, data, value, id=f"{codec}: {name}")
    for codec, (_, encode, written, _, _) in CODECS.items()
    for name, data, value in written
]
WRITTEN += [
    pytest.param(TaskContext.encode, data, context, id=f"context: {name}")
    for name, data, context in vectors.CONTEXTS
]
READ = [
    pytest.param(decode, data, repr(value), id=f"{codec}: {name}")
    for codec, (decode, _, written, read, _) in CODECS.items()
    for name, data, value in written + read
]
MALFORMED = [
    pytest.param(decode, *row, id=f"{codec}: {name}")
    for codec, (decode, _, _, _, malformed) in CODECS.items()
    for name, *row in malformed
]


@pytest.mark.parametrize(("encode", "data", "value"), WRITTEN)
def test_golden_vector_is_written(encode, data, value):
    written = encode(value)
    assert (written.hex(), type(written)) == (data.hex(), bytes)


@pytest.mark.parametrize(("decode", "data", "shown"), READ)
def test_golden_vector_is_read(decode, data, shown):
    expected = (shown, len(data))
    value, end = decode(data)
    assert (repr(value), end) == expected
    for buffer in BUFFERS:
        for after in (b"", b"\0", b"\xff" * 9, data):
            around = buffer(b"\xc1\xc1\xc1" + data + after)
            assert outcome(decode, around, 3, len(around)) == expected


@pytest.mark.parametrize(("decode", "data", "shown"), READ)
def test_golden_vector_cut_at_every_byte(decode, data, shown):
    """A decoder that is fed byte by byte asks for more until the last byte is there."""
    for size in range(len(data)):
        found = outcome(decode, data[:size], 0, size)
        assert found[0] is TruncatedError
        assert outcome(decode, data, 0, size) == found
        assert outcome(decode, b"\x01\x02" + data, 2, 2 + size) == found


@pytest.mark.parametrize(("decode", "data", "text", "offset"), MALFORMED)
def test_malformed_bytes_are_refused(decode, data, text, offset):
    refuses(decode, data, text, offset)


# --------------------------------------------------------------------------- mutations

SEED = 20261124
COUNT = 50_000 if os.environ.get("SPIDER_FUZZ_FULL") else 500
# Markers, tags, and the ends of their ranges.
TELLING = bytes.fromhex(
    "00010205067f808182859093a0a1bfc0c1c2c3c4c5c6c7cacbcccdcecfd0d3d4d8d9dadbdcdddedfe0"
    "8a96aefeff"
)


def mutated(rng, name):
    """Return a golden vector with a few changes, or bytes at random."""
    if rng.random() < 0.1:
        return bytes(rng.choices(TELLING, k=rng.randrange(40)))
    _, _, written, read, _ = CODECS[name]
    seeds = [row[1] for row in written + read if len(row[1]) < 300]
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        size = rng.choice([0, 1, 1, 1, 2, 4, 8])
        wide = rng.choice([b"\xff", b"\x7f", b"\x00"]) * size
        byte = bytes((rng.choice([rng.getrandbits(8), *rng.choices(TELLING, k=2)]),))
        part = rng.choice([b"", byte, byte, byte, wide, rng.choice(seeds)])
        data[at : at + size] = part
    return bytes(data)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "frame"])
def test_mutations(name):
    """Any bytes give a value or a ProtocolError, whatever is around them."""
    decode, encode, *_ = CODECS[name]
    rng = random.Random(f"{SEED} {name}")
    values = 0
    for _ in range(COUNT):
        data = mutated(rng, name)
        size = len(data)
        found = outcome(decode, data, 0, size)
        around = b"\x81\x00" + data + rng.choice([b"\xc1" * 9, bytes(9), data])
        for buffer in BUFFERS:
            assert outcome(decode, buffer(around), 2, 2 + size) == found
        if found[0] is ProtocolError:
            # All bytes before the wrong one are right.
            assert outcome(decode, data, 0, found[2])[0] is TruncatedError
        elif found[0] is not TruncatedError:
            values += 1
            cut = rng.randrange(found[1])
            assert outcome(decode, data, 0, cut)[0] is TruncatedError
            if encode is None:
                continue
            written = encode(decode(data)[0])
            expected = (found[0], len(written))
            assert outcome(decode, written, 0, len(written)) == expected
    assert COUNT // 20 < values < COUNT * 19 // 20


def test_locate_request_agrees_with_decode_request():
    rng = random.Random(SEED)
    located = 0
    for _ in range(COUNT):
        data = mutated(rng, "request")
        end = 3 + len(data)
        # Bytes of the next frame, or of the last one, do not complete a body.
        after = rng.choice([bytes(50), b"\xff" * 50, data])
        buffer = ctypes.create_string_buffer(b"\x00\x01\x02" + data + after)
        fields = locate_request(buffer, 3, end)
        found = outcome(decode_request, data, 0, len(data))
        if fields is None:
            assert found[0] in (ProtocolError, TruncatedError, "Shutdown()")
        elif found[0] is ProtocolError:
            # locate_request does not decode the names.
            names = outcome_of_names(data, fields[0] + fields[1] - 3)
            assert names == found
        else:
            located += 1
            short = fields[4] + fields[5] - rng.randint(1, 40)
            assert locate_request(buffer, 3, short) is None
            request, _ = decode_request(data)
            places = zip(fields[::2], fields[1::2])
            assert [buffer[at : at + size] for at, size in places] == [
                request.task_func.encode(),
                request.raw_ctx,
                request.raw_inputs,
            ]
    assert located > COUNT // 20


def outcome_of_names(data, end):
    def decode(buffer, offset, end):
        *names, after = protocol.decode_names(buffer, offset, end)
        return names, after

    return outcome(decode, data, 0, end)
