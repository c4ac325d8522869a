"""Payloads and the task context."""

import pytest
import vectors
from helpers.codec import END, refuses

from protocol import TruncatedError, decode_payload, pack_values, unpack_values


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("000000", f"a payload count (4 bytes), {END} 3 bytes", 0),
        (
            "02000000 01000000 c0 0000",
            f"the length of value 1 (4 bytes), {END} 2 bytes",
            9,
        ),
        ("01000000 02000000 c0", f"value 0 of 2 bytes, {END} 1 bytes", 8),
        ("01000000 ffffffff c0", f"value 0 of 4294967295 bytes, {END} 1 bytes", 8),
        ("00000001 01000000 c0", f"the length of value 1 (4 bytes), {END} 0 bytes", 9),
    ],
)
def test_an_incomplete_payload(data, text, offset):
    refuses(decode_payload, data, text, offset)


@pytest.mark.parametrize(
    "values", [[], [None, True, -1, 1.5, "é", b"\x01", [1, [2]], {"k": [3]}]]
)
def test_values_of_a_payload(values):
    payload = pack_values(*values)
    assert unpack_values(payload) == values
    assert unpack_values(bytearray(payload + b"more")) == values


def test_a_value_ends_within_its_length():
    assert unpack_values(bytes.fromhex("02000000 03000000 0ac1c1 01000000 0b")) == [
        10,
        11,
    ]
    with pytest.raises(TruncatedError):
        unpack_values(bytes.fromhex("02000000 01000000 a1 01000000 78"))


@pytest.mark.parametrize(("context", "data"), vectors.CONTEXTS)
def test_golden_context(context, data):
    assert context.encode() == data
