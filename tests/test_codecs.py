"""What holds for every decoder: golden vectors whole, cut and surrounded, and then mutations of them."""

import ctypes
import os
import random
import re

import pytest
import vectors

import protocol
from protocol import (
    ProtocolError,
    TruncatedError,
    decode_names,
    decode_request,
    locate_request,
)

# Golden vectors, the function that reads them, and the function that writes them.
CODECS = {
    "request": (vectors.REQUESTS, decode_request, protocol.encode_request),
    "response": (vectors.RESPONSES, protocol.decode_response, protocol.encode_response),
    "payload": (vectors.PAYLOADS, protocol.decode_payload, protocol.encode_payload),
    "value": (vectors.VALUES, protocol.unpack, protocol.pack),
    "tdl_error": (
        vectors.TDL_ERRORS,
        protocol.decode_tdl_error,
        protocol.TdlError.encode,
    ),
    "executor_error": (
        vectors.EXECUTOR_ERRORS,
        protocol.decode_executor_error,
        protocol.ExecutorError.encode,
    ),
}
GOLDEN = [
    pytest.param(name, value, data, id=f"{name}-{index}")
    for name, (pairs, _, _) in CODECS.items()
    for index, (value, data) in enumerate(pairs)
]
ERROR = re.compile(
    r"(expected .+), found (the end after (?P<count>\d+) bytes|.+) at offset (?P<offset>\d+)",
    re.DOTALL,
)


def outcome(decode, buffer, start, end):
    """Return the shown value and the bytes read, or the class, the text and the relative offset of the error."""
    try:
        value, after = decode(buffer, start, end)
    except ProtocolError as error:
        text = str(error)
        assert len(text) < 1000
        match = ERROR.fullmatch(text)
        offset = int(match["offset"])
        is_right = (
            offset + int(match["count"]) == end
            if type(error) is TruncatedError
            else start <= offset < end
        )
        assert is_right, text
        return type(error), text[: match.start("offset")], offset - start
    assert start < after <= end
    return repr(value), after - start


@pytest.mark.parametrize(("name", "value", "data"), GOLDEN)
def test_golden_vector(name, value, data):
    _, decode, encode = CODECS[name]
    written = encode(value)
    assert (written, type(written)) == (data, bytes)
    for kind in (bytes, bytearray, memoryview):
        for before in (b"", b"\xc1\xc1\xc1"):
            for after in (b"", b"\0", b"\xff" * 9, data):
                found, end = decode(kind(before + data + after), len(before))
                assert (found, type(found), end) == (
                    value,
                    type(value),
                    len(before) + len(data),
                )


@pytest.mark.parametrize(("name", "value", "data"), GOLDEN)
def test_golden_vector_cut_at_every_byte(name, value, data):
    """A decoder that is fed byte by byte says that bytes are missing until the last one is there."""
    decode = CODECS[name][1]
    for size in range(len(data)):
        found = outcome(decode, data[:size], 0, size)
        assert found[0] is TruncatedError
        assert outcome(decode, data, 0, size) == found
        assert outcome(decode, b"\x01\x02" + data, 2, 2 + size) == found


# ------------------------------------------------------------------------------------------------------------ mutations

SEED = 20261124
COUNT = 50_000 if os.environ.get("SPIDER_FUZZ_FULL") else 500
# Markers, tags, and the ends of their ranges.
TELLING = bytes.fromhex(
    "00010205067f808182859093a0a1bfc0c1c2c3c4c5c6c7cacbcccdcecfd0d3d4d8d9dadbdcdddedfe0fe8a96aeff"
)


def mutated(rng, name):
    """Return a golden vector with a few changes, or bytes at random."""
    seeds = [data for _, data in CODECS[name][0] if len(data) < 300]
    if rng.random() < 0.1:
        return bytes(rng.choice(TELLING) for _ in range(rng.randrange(40)))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 8])):
        at, size = rng.randrange(len(data) + 1), rng.choice([0, 1, 1, 1, 2, 4, 8])
        wide = rng.choice([b"\xff", b"\x7f", b"\x00"]) * size
        byte = bytes((rng.choice([rng.getrandbits(8), *rng.choices(TELLING, k=2)]),))
        data[at : at + size] = rng.choice(
            [b"", byte, byte, byte, wide, rng.choice(seeds)]
        )
    return bytes(data)


@pytest.mark.parametrize("name", CODECS)
def test_mutations(name):
    """Any bytes give a value or a ProtocolError. It depends on nothing outside them, and its offset is right."""
    _, decode, encode = CODECS[name]
    rng = random.Random(f"{SEED} {name}")
    values = 0
    for _ in range(COUNT):
        data = mutated(rng, name)
        size = len(data)
        found = outcome(decode, data, 0, size)
        around = b"\x81\x00" + data + rng.choice([b"\xc1" * 9, bytes(9), data])
        for kind in (bytes, bytearray, memoryview):
            assert outcome(decode, kind(around), 2, 2 + size) == found
        if found[0] is ProtocolError:
            # All bytes before the wrong one are right.
            assert outcome(decode, data, 0, found[2])[0] is TruncatedError
        elif found[0] is not TruncatedError:
            values += 1
            assert (
                outcome(decode, data, 0, rng.randrange(found[1]))[0] is TruncatedError
            )
            value = decode(data)[0]
            written = encode(value)
            assert outcome(decode, written, 0, len(written)) == (
                repr(value),
                len(written),
            )
    assert COUNT // 20 < values < COUNT * 19 // 20


def test_locate_request_agrees_with_decode_request():
    rng = random.Random(SEED)
    located = 0
    for _ in range(COUNT):
        data = mutated(rng, "request")
        end = 3 + len(data)
        # Bytes of the next frame, or of the last one, do not complete a body.
        buffer = ctypes.create_string_buffer(
            b"\x00\x01\x02" + data + rng.choice([bytes(50), b"\xff" * 50, data])
        )
        fields = locate_request(buffer, 3, end)
        found = outcome(decode_request, data, 0, len(data))
        if fields is None:
            assert found[0] in (ProtocolError, TruncatedError, "Shutdown()")
        elif found[0] is ProtocolError:
            # The names are decoded later. locate_request knows only their sizes.
            assert outcome(decode_names, data, 0, fields[0] + fields[1] - 3) == found
        else:
            located += 1
            assert (
                locate_request(buffer, 3, fields[4] + fields[5] - rng.randint(1, 40))
                is None
            )
            request, _ = decode_request(data)
            parts = [
                buffer[at : at + size] for at, size in zip(fields[::2], fields[1::2])
            ]
            assert parts == [
                request.task_func.encode(),
                request.raw_ctx,
                request.raw_inputs,
            ]
    assert located > COUNT // 20
