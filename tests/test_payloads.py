"""Payloads of Python values."""

import pytest
from helpers.rows import rows

from protocol import ProtocolError, TruncatedError, pack_values, unpack_values

VALUES = r"""
none      | `[]`
each kind | `[None, True, -1, 1.5, 'é', b'\x01', [1, [2]], {'k': [3]}]`
empty     | `['', b'', [], {}]`
"""


@rows("values", VALUES)
def test_values_of_a_payload(values):
    payload = pack_values(*values)
    assert unpack_values(payload) == values
    assert unpack_values(bytearray(payload + b"more")) == values


def test_a_value_ends_within_its_length():
    followed = bytes.fromhex("02000000 03000000 0ac1c1 01000000 0b")
    assert unpack_values(followed) == [10, 11]
    with pytest.raises(TruncatedError):
        unpack_values(bytes.fromhex("02000000 01000000 a1 01000000 78"))


def test_errors_of_the_codec_are_value_errors():
    assert issubclass(ProtocolError, ValueError)
    assert issubclass(TruncatedError, ProtocolError)
