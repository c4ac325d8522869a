"""The msgpack that payloads are made of: every marker, the smallest form, limits, and what is refused."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc

import pytest

import protocol
from protocol import Float32, ProtocolError, TruncatedError, pack, unpack

SEED = 20261124


def value_of(text: str) -> object:
    data = bytes.fromhex(text)
    value, end = unpack(data)
    assert end == len(data)
    return value


# For each marker, bytes that may follow it, and the value of the whole.
MARKERS = {
    **{marker: (b"", marker) for marker in range(0x80)},
    **{0x80 | n: (b"".join(bytes((i, 0xC0)) for i in range(n)), dict.fromkeys(range(n))) for n in range(16)},
    **{0x90 | n: (b"\xc3" * n, [True] * n) for n in range(16)},
    **{0xA0 | n: (b"z" * n, "z" * n) for n in range(32)},
    0xC0: (b"", None),
    0xC2: (b"", False),
    0xC3: (b"", True),
    0xC4: (b"\x02\x00\xff", b"\x00\xff"),
    0xC5: (b"\x00\x02\x00\xff", b"\x00\xff"),
    0xC6: (b"\x00\x00\x00\x02\x00\xff", b"\x00\xff"),
    0xCA: (b"\xbf\xc0\x00\x00", -1.5),
    0xCB: (b"\xbf\xf8\x00\x00\x00\x00\x00\x00", -1.5),
    0xCC: (b"\xfe", 0xFE),
    0xCD: (b"\xfe\x01", 0xFE01),
    0xCE: (b"\xfe\x01\x02\x03", 0xFE010203),
    0xCF: (b"\xfe\x01\x02\x03\x04\x05\x06\x07", 0xFE01020304050607),
    0xD0: (b"\xfe", -2),
    0xD1: (b"\xfe\x01", -0x1FF),
    0xD2: (b"\xfe\x01\x02\x03", -0x1FEFDFD),
    0xD3: (b"\xff\xff\xff\xff\xff\xff\xff\x80", -0x80),
    0xD9: (b"\x02\xc3\xa9", "é"),
    0xDA: (b"\x00\x02\xc3\xa9", "é"),
    0xDB: (b"\x00\x00\x00\x02\xc3\xa9", "é"),
    0xDC: (b"\x00\x02\x01\x02", [1, 2]),
    0xDD: (b"\x00\x00\x00\x02\x01\x02", [1, 2]),
    0xDE: (b"\x00\x01\xa1k\x01", {"k": 1}),
    0xDF: (b"\x00\x00\x00\x01\xa1k\x01", {"k": 1}),
    **{0x100 + n: (b"", n) for n in range(-32, 0)},
}
EXT = {0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8}


def test_every_marker_is_known():
    assert set(MARKERS) | EXT | {0xC1} == set(range(256))


@pytest.mark.parametrize("marker", sorted(MARKERS), ids="{:02x}".format)
def test_marker(marker):
    behind, expected = MARKERS[marker]
    data = bytes((marker,)) + behind
    for around in (b"", b"\xc1" * 8):
        value, end = unpack(data + around)
        assert (value, type(value), end) == (expected, type(expected), len(data))
    # Within a container, too, and as a map's value.
    assert unpack(b"\x92" + data + data)[0] == [expected, expected]
    assert unpack(b"\x81\x07" + data)[0] == {7: expected}
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            unpack(data[:size])


@pytest.mark.parametrize("marker", sorted(EXT), ids="{:02x}".format)
def test_ext_is_refused_by_name(marker):
    for prefix in (b"", b"\x91", b"\x81\x00", b"\x81"):
        with pytest.raises(ProtocolError, match=rf"ext \(marker {marker:02x}\) at offset {len(prefix)}$") as caught:
            unpack(prefix + bytes((marker,)) + bytes(40))
        assert not isinstance(caught.value, TruncatedError)


def test_the_reserved_marker_is_refused():
    with pytest.raises(ProtocolError, match=r"reserved marker c1 at offset 1$"):
        unpack(b"\x91\xc1")


@pytest.mark.parametrize(
    ("value", "head", "size"),
    [
        ("x" * 65535, "daffff", 65538),
        ("x" * 65536, "db00010000", 65541),
        (b"x" * 65535, "c5ffff", 65538),
        (b"x" * 65536, "c600010000", 65541),
        ([None] * 65535, "dcffff", 65538),
        ([None] * 65536, "dd00010000", 65541),
        (dict.fromkeys(range(65535)), "deffff00c0", None),
        (dict.fromkeys(range(65536)), "df0001000000c0", None),
    ],
    ids=["str-u16", "str-u32", "bin-u16", "bin-u32", "array-u16", "array-u32", "map-u16", "map-u32"],
)
def test_large_sizes(value, head, size):
    data = pack(value)
    assert data.startswith(bytes.fromhex(head))
    assert size is None or len(data) == size
    assert unpack(data) == (value, len(data))
    with pytest.raises(TruncatedError):
        unpack(data[:-1])


@pytest.mark.parametrize("text", ["00", "cc00", "cd0000", "ce00000000", "cf0000000000000000", "d000", "d10000"])
def test_a_small_number_in_a_wide_form(text):
    assert value_of(text) == 0


def test_sequences_that_rust_has():
    assert pack((1, (2, 3))) == pack([1, [2, 3]])
    assert pack(bytearray(b"ab")) == pack(b"ab")
    # A Vec<u8>, as Rust writes it.
    assert pack(list(b"\x07\xff")) == b"\x92\x07\xcc\xff"
    # bool is not the integer that it is in Python.
    assert pack([True, 1, False, 0]) == b"\x94\xc3\x01\xc2\x00"


def test_float32():
    assert pack(Float32(0.1)) == bytes.fromhex("ca3dcccccd")
    assert value_of("ca3dcccccd") == struct.unpack(">f", bytes.fromhex("3dcccccd"))[0]
    assert type(value_of("ca3dcccccd")) is float
    assert pack(Float32(3.4028234663852886e38)) == bytes.fromhex("ca7f7fffff")
    with pytest.raises(ProtocolError, match=r"1e\+39 does not fit a 32-bit float"):
        pack(Float32(1e39))


def test_floats_keep_their_bits():
    for bits in ("8000000000000000", "7ff8000000000000", "fff8000000000001", "0010000000000000"):
        assert pack(value_of("cb" + bits)) == bytes.fromhex("cb" + bits)
    assert math.copysign(1, value_of("ca80000000")) == -1
    assert math.isnan(value_of("ca7fc00000"))


@pytest.mark.parametrize("number", [2**64, -(2**63) - 1, 2**80, -(2**80)])
def test_an_integer_too_large(number):
    with pytest.raises(ProtocolError, match="integers from -2\\^63 to 2\\^64 - 1"):
        pack(number)


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j, range(3), len, ..., memoryview(b"x")])
def test_a_value_of_no_msgpack_type(value):
    for wrapped in (value, [value], {"k": [value]}):
        with pytest.raises(ProtocolError, match=f"not {type(value).__name__}"):
            pack(wrapped)


def test_text_that_is_not_utf8():
    with pytest.raises(ProtocolError, match="lone surrogate at character 1"):
        pack("a\ud800")
    for text, at in (
        ("a1ff", 1),
        ("a3e282ff", 1),
        ("a261c0", 2),
        ("a3eda080", 1),
        ("a4f4908080", 1),
        ("d901ff", 2),
    ):
        with pytest.raises(ProtocolError, match=rf"UTF-8.* at offset {at}$"):
            unpack(bytes.fromhex(text))


# ---------------------------------------------------------------------------------------------------------------- maps


def test_map_keys():
    assert value_of("85 c0 01 c3 02 d0fb 03 a16b 04 c4016b 05") == {None: 1, True: 2, -5: 3, "k": 4, b"k": 5}
    assert value_of("81 cb3ff8000000000000 c0") == {1.5: None}


def test_of_two_equal_keys_the_later_one_wins():
    assert value_of("83 a16b 01 a16a 02 a16b 03") == {"k": 3, "j": 2}


@pytest.mark.parametrize("key", ["90", "9101", "80", "810102", "dc0000", "df00000000"])
def test_a_container_is_no_key(key):
    for head in ("81", "82 a16b 00", "91 81"):
        with pytest.raises(ProtocolError, match=r"a map key that is no container, found (array|map)"):
            unpack(bytes.fromhex(head + key + "00" * 8))


def test_a_map_needs_keys_and_values():
    for text in ("81", "8101", "82010203", "de0001a16b", "8181"):
        with pytest.raises(ProtocolError):
            unpack(bytes.fromhex(text))


# --------------------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize("head", ["91", "8100", "dc0001", "dd00000001", "de000100", "df0000000100"])
def test_nesting(head):
    head = bytes.fromhex(head)
    value, end = unpack(head * 1023 + b"\x2a" + b"\xc1")
    assert end == len(head) * 1023 + 1
    depth = 0
    while isinstance(value, (list, dict)):
        value, depth = value[0], depth + 1
    assert (value, depth) == (42, 1023)
    for count in (1024, 100_000):
        with pytest.raises(ProtocolError, match=f"nests deeper than 1023 at offset {1023 * len(head)}"):
            unpack(head * count + b"\x2a")
    with pytest.raises(TruncatedError):
        unpack(head * 1000)


def test_an_empty_container_counts_as_nesting():
    assert unpack(b"\x91" * 1022 + b"\x90")[1] == 1023
    for last in (b"\x90", b"\x80", b"\xdc\0\0"):
        with pytest.raises(ProtocolError, match="nests deeper"):
            unpack(b"\x91" * 1023 + last)


def test_wide_is_not_deep():
    value = [[]] * 5000
    assert unpack(pack(value))[0] == value


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {0: value}])
def test_nesting_is_limited_when_written_too(wrap):
    value: object = 42
    for _ in range(1023):
        value = wrap(value)
    data = pack(value)
    assert pack(unpack(data)[0]) == data
    with pytest.raises(ProtocolError, match="nests at most 1023 deep"):
        pack(wrap(value))


def test_a_value_within_itself():
    value: list[object] = []
    value.append(value)
    with pytest.raises(ProtocolError, match="nests at most"):
        pack(value)


def test_sizes_that_the_bytes_cannot_hold():
    """An array of n needs n bytes at least, a map twice as many: less is refused before it is walked."""
    for text, expected in (
        ("92c0", "array of 2 entries"),
        ("dd00000005c0c0c0c0", "array of 5 entries"),
        ("8300010001", "map of 3 entries"),
        ("df80000000" + "c0" * 30, "map of 2147483648 entries"),
        ("d905" + "61" * 4, "str of 5 bytes"),
        ("c6ffffffff00", "bin of 4294967295 bytes"),
    ):
        with pytest.raises(TruncatedError, match=f"expected {expected}"):
            unpack(bytes.fromhex(text))


def test_hostile_nesting_of_sizes_allocates_little():
    """Each level announces as much as there is left; none of it is taken at its word."""
    data = b"".join(b"\xdd" + struct.pack(">I", 5 * (1000 - level)) for level in range(1000)) + bytes(10)
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError):
            unpack(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20


def test_the_end_is_respected():
    data = pack(["abc", 300, b"xyz"])
    for end in range(len(data)):
        with pytest.raises(TruncatedError):
            unpack(data, 0, end)
    assert unpack(data, 1, 5) == ("abc", 5)


# ---------------------------------------------------------------------------------------------------------- round trips


def random_value(rng: random.Random, depth: int = 0) -> object:
    kind = rng.randrange(7 if depth > 4 else 9)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind in (1, 2):
        sign = rng.choice([1, -1])
        number = sign * rng.getrandbits(rng.choice([1, 5, 7, 8, 15, 16, 31, 32, 63]))
        return number + rng.choice([0, 0, 1, -1]) if abs(number) < 2**62 else number
    if kind == 3:
        return rng.choice([rng.random(), rng.uniform(-1e300, 1e300), -0.0, math.inf, 5e-324])
    if kind in (4, 5):
        size = rng.choice([0, 1, 5, 31, 32, 40, 255, 256, 300])
        return "".join(rng.choice('aé日🕷\0"\\') for _ in range(size))
    if kind == 6:
        return bytes(rng.getrandbits(8) for _ in range(rng.choice([0, 1, 31, 32, 255, 256])))
    count = rng.choice([0, 1, 2, 3, 15, 16, 17]) if depth < 2 else rng.randrange(3)
    if kind == 7:
        return [random_value(rng, depth + 1) for _ in range(count)]
    keys = [rng.choice([f"k{n}", n, -n - 1, b"k%d" % n, n + 0.5]) for n in range(count)]
    return {key: random_value(rng, depth + 1) for key in keys}


def smallest(value: object) -> int:
    """How many bytes the smallest form takes, by the specification."""
    if value is None or isinstance(value, bool):
        return 1
    if isinstance(value, int):
        for low, high, size in (
            (-32, 127, 1),
            (-(2**7), 2**8 - 1, 2),
            (-(2**15), 2**16 - 1, 3),
            (-(2**31), 2**32 - 1, 5),
        ):
            if low <= value <= high:
                return size
        return 9
    if isinstance(value, float):
        return 9
    if isinstance(value, str):
        size = len(value.encode())
        return size + (1 if size < 32 else 2 if size < 256 else 3)
    if isinstance(value, bytes):
        return len(value) + (2 if len(value) < 256 else 3)
    items = [part for pair in value.items() for part in pair] if isinstance(value, dict) else value
    return (1 if len(value) < 16 else 3) + sum(map(smallest, items))


def test_round_trips():
    rng = random.Random(SEED)
    for _ in range(3000):
        value = random_value(rng)
        data = pack(value)
        assert len(data) == smallest(value)
        found, end = unpack(data)
        assert end == len(data)
        assert pack(found) == data
        assert found == value


def test_payload_and_context_round_trips():
    rng = random.Random(SEED)
    for _ in range(500):
        values = [random_value(rng, 2) for _ in range(rng.randrange(5))]
        assert protocol.unpack_values(protocol.pack_values(*values)) == values
        numbers = [rng.getrandbits(rng.choice([1, 8, 64])) for _ in range(4)]
        context = protocol.TaskContext(
            numbers[0],
            rng.choice([numbers[1], "Commit", "Cleanup"]),
            numbers[2],
            numbers[3],
            rng.choice([None, b"\x00" + protocol.pack_values(*values)]),
        )
        data = context.encode()
        assert protocol.decode_context(data) == (context, len(data))
