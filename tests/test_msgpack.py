"""msgpack: what is packed and what is not, large sizes, and nesting."""

import sys

import pytest
import vectors
from helpers.codec import refuses
from helpers.rows import rows

from protocol import MSGPACK_DEPTH_MAX, ProtocolError, TruncatedError, pack, unpack


def test_every_marker_has_a_vector():
    rows = vectors.FIXED_VALUES + vectors.VALUES + vectors.READ_VALUES
    markers = {data[0] for _, data, _ in rows}
    assert markers | {*vectors.UNKNOWN_MARKERS} == set(range(256))
    assert not markers & {*vectors.UNKNOWN_MARKERS}


@pytest.mark.parametrize(
    ("data", "value"),
    [pytest.param(*row, id=name) for name, *row in vectors.PACKED_VALUES],
)
def test_subclasses_and_other_types_are_packed(data, value):
    assert pack(value).hex() == data.hex()


@rows(
    "head, value",
    {
        "str 16": ("daffff", "x" * 65535),
        "str 32": ("db00010000", "x" * 65536),
        "bin 16": ("c5ffff", b"x" * 65535),
        "bin 32": ("c600010000", b"x" * 65536),
        "array 16": ("dcffff", [None] * 65535),
        "array 32": ("dd00010000", [None] * 65536),
        "map 16": ("deffff", vectors.pairs(65535)),
        "map 32": ("df00010000", vectors.pairs(65536)),
    },
)
def test_large_sizes(head, value):
    data = pack(value)
    assert data.hex().startswith(head)
    assert unpack(data) == (value, len(data))
    with pytest.raises(TruncatedError):
        unpack(data[:-1])


@pytest.mark.parametrize("bits", ["8000000000000000", "fff8000000000001"])
def test_floats_keep_their_bits(bits):
    data = bytes.fromhex("cb" + bits)
    assert pack(unpack(data)[0]) == data


KINDS = "None, bool, int, float, str, bytes, list or dict"


@rows(
    "value, text",
    {
        "2^64": (2**64, "a msgpack uint of at most 64 bits, found one of 65 bits"),
        "-2^63 - 1": (
            -(2**63) - 1,
            "a msgpack int of at most 64 bits, found one of 65 bits",
        ),
        "surrogate": ("a\ud800", "text, found a lone surrogate at character 1"),
        "complex": (1j, f"{KINDS}, found complex"),
        "memoryview": (memoryview(b"x"), f"{KINDS}, found memoryview"),
    },
)
def test_what_cannot_be_packed(value, text):
    for wrapped in (value, [0, value], {"k": (value,)}, {value: "v"}):
        with pytest.raises(ProtocolError) as caught:
            pack(wrapped)
        assert str(caught.value) == f"expected {text}"


# ----------------------------------------------------------------------------- nesting


def nested(inner, levels):
    for _ in range(levels):
        inner = [inner]
    return inner


@pytest.mark.parametrize("head", ["91", "8100", "dc0001", "df0000000100"])
def test_256_levels_are_read(head):
    assert MSGPACK_DEPTH_MAX == 256
    levels = bytes.fromhex(head) * 256
    value, end = unpack(levels + b"\x2a\xc1")
    assert end == len(levels) + 1
    for _ in range(256):
        value = value[0]
    assert value == 42
    for inner in ("90", "80", "dc0000", head * 99_000):
        text = "at most 256 nested containers, found another one"
        refuses(unpack, levels + bytes.fromhex(inner), text, len(levels))


@pytest.mark.parametrize("inner", [[], {}, [0], {0: 0}, (1,)], ids=repr)
def test_256_levels_are_packed(inner):
    data = pack(nested(inner, 255))
    assert pack(unpack(data)[0]) == data
    text = "^expected at most 256 nested containers, found more$"
    for deep in (nested(inner, 256), nested({(): 0}, 255), nested({0: ()}, 255)):
        with pytest.raises(ProtocolError, match=text):
            pack(deep)


def test_keys_are_nested_and_compared_256_levels_deep():
    key = b"\x91" * 255 + b"\x01"
    value, _ = unpack(b"\x82" + key + b"\x02" + key + b"\x03")
    assert [*value.values()] == [3]


def call_from(depth, function):
    """Call a function from `depth` more frames."""
    return call_from(depth - 1, function) if depth else function()


def deepest_call():
    """Return how many frames leave room for a function that calls another one."""
    depth = 0
    try:
        while True:
            call_from(depth + 3, lambda: ValueError("room"))
            depth += 1
    except RecursionError:
        return depth - 1


DATA = b"\x91" * 200 + b"\xc0"
VALUE = nested(None, 200)
KEYS = b"\x82" + DATA + b"\x01" + DATA + b"\x02"


@pytest.mark.parametrize("limit", [1000, 400])
@rows(
    "function, argument",
    {
        "pack": (pack, VALUE),
        "unpack": (unpack, DATA),
        "equal keys": (unpack, KEYS),
    },
)
def test_no_recursion_error_escapes_from_deep_in_the_stack(function, argument, limit):
    def result():
        try:
            return repr(function(argument))
        except ProtocolError as error:
            return str(error)

    complete = result()
    refused = (
        "expected fewer nested containers, found more than Python's stack can hold"
    )
    old = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        deepest = deepest_call()
        depths = range(deepest - 250, deepest)
        found = [call_from(depth, result) for depth in depths]
    finally:
        sys.setrecursionlimit(old)
    assert {text.partition(" at offset")[0] for text in found} == {complete, refused}
