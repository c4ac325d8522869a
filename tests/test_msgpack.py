"""msgpack: every marker, limits, map keys, and what is refused."""

import math

import pytest
from helpers.codec import END, refuses

from protocol import ProtocolError, TruncatedError, pack, unpack

# For each marker, the bytes after it, and the value of the whole.
MARKERS = {
    **{marker: ("", marker) for marker in range(0x80)},
    **{
        0x80 | n: ("".join(f"{i:02x} c0" for i in range(n)), dict.fromkeys(range(n)))
        for n in range(16)
    },
    **{0x90 | n: ("c3" * n, [True] * n) for n in range(16)},
    **{0xA0 | n: ("7a" * n, "z" * n) for n in range(32)},
    0xC0: ("", None),
    0xC2: ("", False),
    0xC3: ("", True),
    0xC4: ("02 00ff", b"\x00\xff"),
    0xC5: ("0002 00ff", b"\x00\xff"),
    0xC6: ("00000002 00ff", b"\x00\xff"),
    0xCA: ("bfc00000", -1.5),
    0xCB: ("bff8000000000000", -1.5),
    0xCC: ("fe", 0xFE),
    0xCD: ("fe01", 0xFE01),
    0xCE: ("fe010203", 0xFE010203),
    0xCF: ("fe01020304050607", 0xFE01020304050607),
    0xD0: ("fe", -2),
    0xD1: ("fe01", -0x1FF),
    0xD2: ("fe010203", -0x1FEFDFD),
    0xD3: ("ffffffffffffff80", -0x80),
    0xD9: ("02 c3a9", "é"),
    0xDA: ("0002 c3a9", "é"),
    0xDB: ("00000002 c3a9", "é"),
    0xDC: ("0002 0102", [1, 2]),
    0xDD: ("00000002 0102", [1, 2]),
    0xDE: ("0001 a16b01", {"k": 1}),
    0xDF: ("00000001 a16b01", {"k": 1}),
    **{0x100 + n: ("", n) for n in range(-32, 0)},
}
UNKNOWN = {0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8}


def test_every_marker_is_in_the_tables():
    assert set(MARKERS) | UNKNOWN == set(range(256))


@pytest.mark.parametrize("marker", MARKERS, ids="{:02x}".format)
def test_marker(marker):
    after, expected = MARKERS[marker]
    data = bytes((marker,)) + bytes.fromhex(after)
    value, end = unpack(data + b"\xc1")
    assert (value, type(value), end) == (expected, type(expected), len(data))
    assert unpack(b"\x92" + data + data)[0] == [expected, expected]
    assert unpack(b"\x81\x07" + data)[0] == {7: expected}
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            unpack(data[:size])


@pytest.mark.parametrize("marker", UNKNOWN, ids="{:02x}".format)
@pytest.mark.parametrize(
    "before", ["", "91", "8100", "81"], ids=["alone", "item", "value", "key"]
)
def test_ext_and_the_reserved_marker_are_refused(marker, before):
    text = f"nil, bool, a number, str, bin, array or map, found marker {marker:02x}"
    refuses(unpack, f"{before} {marker:02x} 000000", text, len(before) // 2)


@pytest.mark.parametrize(
    ("value", "head"),
    [
        ("x" * 65535, "daffff"),
        ("x" * 65536, "db00010000"),
        (b"x" * 65535, "c5ffff"),
        (b"x" * 65536, "c600010000"),
        ([None] * 65535, "dcffff"),
        ([None] * 65536, "dd00010000"),
        (dict.fromkeys(range(65535)), "deffff 00c0"),
        (dict.fromkeys(range(65536)), "df00010000 00c0"),
    ],
    ids=[
        "str-16",
        "str-32",
        "bin-16",
        "bin-32",
        "array-16",
        "array-32",
        "map-16",
        "map-32",
    ],
)
def test_large_sizes(value, head):
    data = pack(value)
    assert data.startswith(bytes.fromhex(head))
    assert unpack(data) == (value, len(data))
    with pytest.raises(TruncatedError):
        unpack(data[:-1])


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ((1, (2, 3)), "92 01 92 02 03"),
        (bytearray(b"ab"), "c402 6162"),
        ([True, 1, False, 0], "94 c3 01 c2 00"),
        (
            {True: 1.0, None: 2, b"k": 3, 0.5: 4},
            "84 c3 cb3ff0000000000000 c0 02 c4016b 03 cb3fe0000000000000 04",
        ),
        ({(7, 255): 1}, "81 92 07 ccff 01"),
    ],
)
def test_what_is_packed(value, data):
    assert pack(value).hex() == data.replace(" ", "")


@pytest.mark.parametrize(
    "bits",
    ["8000000000000000", "7ff8000000000000", "fff8000000000001", "0000000000000001"],
)
def test_floats_keep_their_bits(bits):
    data = bytes.fromhex("cb" + bits)
    assert pack(unpack(data)[0]) == data


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2**64, "a msgpack uint of at most 64 bits, found one of 65 bits"),
        (-(2**63) - 1, "a msgpack int of at most 64 bits, found one of 65 bits"),
        ("a\ud800", "text, found a lone surrogate at character 1"),
        (1j, "None, bool, int, float, str, bytes, list or dict, found complex"),
        (
            memoryview(b"x"),
            "None, bool, int, float, str, bytes, list or dict, found memoryview",
        ),
    ],
    ids=ascii,
)
def test_what_cannot_be_packed(value, text):
    for wrapped in (value, [0, value], {"k": (value,)}, {value: "v"}):
        with pytest.raises(ProtocolError, match=f"^expected {text}$"):
            pack(wrapped)


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("", f"a msgpack value, {END} 0 bytes", 0),
        ("cd01", f"the number after a marker (2 bytes), {END} 1 bytes", 1),
        ("d905 61616161", f"str of 5 bytes, {END} 4 bytes", 2),
        ("c6ffffffff 00", f"bin of 4294967295 bytes, {END} 1 bytes", 5),
        # An array of n needs at least n bytes, a map twice as many: less is refused before any of them is read.
        ("92 c0", f"array of 2 items, {END} 1 bytes", 1),
        ("dd00000005 c0c1c0c0", f"array of 5 items, {END} 4 bytes", 5),
        ("83 00010001c1", f"map of 3 entries, {END} 5 bytes", 1),
        ("df80000000 00", f"map of 2147483648 entries, {END} 1 bytes", 5),
        ("a3 e282ff", "str in UTF-8, found byte e2", 1),
        ("92 00 a3 61eda080", "str in UTF-8, found byte ed", 4),
        ("81 81 00 00 00", "a map key that is not a map, found map of 1 entries", 1),
        ("82 00 90 91 80 00", "a map key that is not a map, found map of 0 entries", 4),
    ],
)
def test_malformed_bytes(data, text, offset):
    refuses(unpack, data, text, offset)


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (
            "94 ca80000000 ca7fc00000 caff800000 ca3dcccccd",
            [-0.0, math.nan, -math.inf, 0.10000000149011612],
        ),
        (
            "86 c0 01 c3 02 d0fb 03 a16b 04 c4016b 05 cb3ff8000000000000 06",
            {None: 1, True: 2, -5: 3, "k": 4, b"k": 5, 1.5: 6},
        ),
        ("84 a16b 01 a16a 02 a16b 03 a16a 04", {"k": 3, "j": 4}),
        ("82 01 a0 c3 a178", {1: "x"}),
        # Rust writes a key that is a Vec<u8> as an array. A list cannot be a key in Python.
        ("82 92 07 ccff 01 90 02", {(7, 255): 1, (): 2}),
        ("82 91 92 01 90 c0 c0 91 00", {((1, ()),): None, None: [0]}),
    ],
)
def test_what_is_read(data, value):
    found = unpack(bytes.fromhex(data))[0]
    assert repr(found) == repr(value)
    assert repr(unpack(pack(found))[0]) == repr(value)


@pytest.mark.parametrize("head", ["91", "8100", "dc0001", "df0000000100"])
def test_containers_nest_1023_deep(head):
    data = bytes.fromhex(head) * 1023 + b"\x2a"
    value, end = unpack(data + b"\xc1")
    assert end == len(data)
    for _ in range(1023):
        value = value[0]
    assert value == 42
    text = "at most 1023 nested containers, found another one"
    for inner in ("90", "80", "dc0000", head * 99_000):
        refuses(unpack, head * 1023 + inner, text, 1023 * len(head) // 2)


@pytest.mark.parametrize("inner", [[], {}, [0], {0: 0}, (1,)], ids=repr)
def test_containers_are_packed_1023_deep(inner):
    for _ in range(1022):
        inner = [inner]
    data = pack(inner)
    assert pack(unpack(data)[0]) == data
    with pytest.raises(
        ProtocolError, match=r"^expected at most 1023 nested containers, found more$"
    ):
        pack([inner])
