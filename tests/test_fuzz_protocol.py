"""Seeded fuzz of every decoder: whatever the bytes, a value or a ProtocolError, and nothing read behind the end."""

from __future__ import annotations

import random
import tracemalloc

import pytest
import vectors

import protocol
from protocol import (
    ProtocolError,
    TruncatedError,
    decode_context,
    decode_executor_error,
    decode_frame,
    decode_payload,
    decode_request,
    decode_response,
    decode_tdl_error,
    locate_request,
    unpack,
)

SEED = 3
INPUTS_EACH = 8000

# Decoders that take an end, and what their inputs are made from.
BOUNDED = {
    "request": (decode_request, vectors.REQUESTS),
    "locate_request": (locate_request, vectors.REQUESTS),
    "response": (decode_response, vectors.RESPONSES),
    "payload": (decode_payload, vectors.PAYLOADS),
    "value": (unpack, vectors.VALUES),
    "context": (decode_context, vectors.CONTEXTS),
    "tdl_error": (decode_tdl_error, vectors.TDL_ERRORS),
    "executor_error": (decode_executor_error, vectors.EXECUTOR_ERRORS),
}
UNBOUNDED = {
    "frame": (decode_frame, vectors.FRAMES),
    "values": (protocol.unpack_values, vectors.PAYLOADS),
}

# Bytes that mean something: markers, their neighbours, the ends of ranges.
TELLING = bytes.fromhex("00010205067f808182859093a0a1bfc0c1c2c3c4c5c6c7cacbcccdcecfd0d3d4d8d9dadbdcdddedfe0fe8a96aeff")


def sources(pairs):
    return [data for _, data in pairs if len(data) <= 300]


def fuzzed(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Bytes that are nearly right, now and then ones that are not at all."""
    if rng.random() < 0.2:
        alphabet = rng.choice([TELLING, bytes(range(256)), b"\x00\x01\x91\x81\xa1"])
        return bytes(rng.choice(alphabet) for _ in range(rng.randrange(40)))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        at = rng.randrange(len(data) + 1)
        change = rng.randrange(6)
        if change == 0:
            data[at : at + 1] = bytes((rng.choice(TELLING),))
        elif change == 1:
            data[at : at + 1] = bytes((rng.getrandbits(8),))
        elif change == 2:
            del data[at : at + rng.choice([1, 1, 2, 8])]
        elif change == 3:
            data[at:at] = bytes(rng.choice(TELLING) for _ in range(rng.choice([1, 1, 4])))
        elif change == 4:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            width = rng.choice([2, 4, 8])
            data[at : at + width] = rng.choice([b"\xff", b"\x7f", b"\x00"]) * width
    return bytes(data)


def attempt(decode, *arguments):
    """What a decoder gives: its value, shown (NaN is not equal to itself), or its error and nothing else."""
    try:
        return repr(decode(*arguments))
    except ProtocolError as error:
        text = str(error)
        assert text
        assert len(text) < 1000
        return type(error), text


@pytest.mark.parametrize("name", sorted(BOUNDED))
def test_decoder(name):
    decode, pairs = BOUNDED[name]
    seeds = sources(pairs)
    rng = random.Random(f"{SEED} {name}")
    good = 0
    for _ in range(INPUTS_EACH):
        data = fuzzed(rng, seeds)
        size = len(data)
        found = attempt(decode, data, 0, size)
        # What stands behind the end changes nothing.
        assert attempt(decode, data + rng.choice([b"\xc1" * 9, b"\x00" * 9, data]), 0, size) == found
        assert attempt(decode, bytearray(data), 0, size) == found
        assert attempt(decode, memoryview(data), 0, size) == found
        # Nor does what stands in front of the start, but for the offsets.
        moved = attempt(decode, b"\x81\x00" + data, 2, 2 + size)
        if not isinstance(found, str):
            assert moved[0] is found[0]
        elif decode is not locate_request:
            good += 1
            value, end = decode(data)
            assert 0 < end <= size
            assert moved == repr((value, end + 2))
            # Exactly what was read is needed.
            assert attempt(decode, data, 0, end) == found
            assert attempt(decode, data, 0, rng.randrange(end))[0] is TruncatedError
    # The inputs are neither all right nor all wrong.
    assert decode is locate_request or INPUTS_EACH // 20 < good < INPUTS_EACH * 19 // 20


@pytest.mark.parametrize("name", sorted(UNBOUNDED))
def test_decoder_of_a_whole_buffer(name):
    decode, pairs = UNBOUNDED[name]
    seeds = sources(pairs)
    rng = random.Random(f"{SEED} {name}")
    for _ in range(INPUTS_EACH):
        data = fuzzed(rng, seeds)
        found = attempt(decode, data)
        assert attempt(decode, memoryview(data)) == found


def test_what_was_read_can_be_written_and_read_again():
    """Any bytes that decode are a value that encodes; reading that gives the same value."""
    codecs = (
        (decode_request, protocol.encode_request, vectors.REQUESTS),
        (decode_response, protocol.encode_response, vectors.RESPONSES),
        (decode_payload, protocol.encode_payload, vectors.PAYLOADS),
        (unpack, protocol.pack, vectors.VALUES),
        (decode_context, protocol.TaskContext.encode, vectors.CONTEXTS),
        (decode_tdl_error, protocol.TdlError.encode, vectors.TDL_ERRORS),
        (decode_executor_error, protocol.ExecutorError.encode, vectors.EXECUTOR_ERRORS),
    )
    rng = random.Random(SEED)
    for decode, encode, pairs in codecs:
        seeds = sources(pairs)
        good = 0
        for _ in range(1000):
            try:
                value, _ = decode(fuzzed(rng, seeds))
            except ProtocolError:
                continue
            good += 1
            data = encode(value)
            again, end = decode(data)
            assert (repr(again), end) == (repr(value), len(data))
        assert good > 50


def test_memory():
    """No input of some hundred bytes makes a decoder take more than a small multiple of that."""
    decoders = list(BOUNDED.values())
    rng = random.Random(SEED)
    inputs = []
    for decode, pairs in decoders:
        seeds = sources(pairs)
        inputs += [(decode, fuzzed(rng, seeds)) for _ in range(300)]
    for decode, data in inputs:
        attempt(decode, data, 0, len(data))
    tracemalloc.start()
    try:
        for decode, data in inputs:
            attempt(decode, data, 0, len(data))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024
