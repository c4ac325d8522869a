"""What packages written with native/spider_tdl.h are asked and must answer: tables, made by an oracle in Python.

A case is a task of native/kitchen_sink.c with a context and inputs, and its outcome byte for byte. The same cases go
through a real executor, and through tests/sdk/driver.c under the sanitizers.
"""

from __future__ import annotations

import itertools
import math
import struct
from typing import Any, Iterator, NamedTuple

import protocol
from protocol import Float32, pack

CONTEXT = protocol.TaskContext(1, 2, 3, 4).encode()


class Case(NamedTuple):
    name: str
    inputs: bytes
    expected: bytes | protocol.TdlError
    context: bytes = CONTEXT

    def encode(self) -> bytes:
        """The case as the driver reads it."""
        is_error = isinstance(self.expected, protocol.TdlError)
        expected = self.expected.encode() if is_error else self.expected
        parts = (self.name.encode(errors="surrogateescape"), self.context, self.inputs, expected)
        return bytes([is_error]) + b"".join(struct.pack("<I", len(part)) + part for part in parts)


def payload(*values: bytes) -> bytes:
    return protocol.encode_payload(values)


def wrong(text: str) -> protocol.DeserializationError:
    return protocol.DeserializationError(text)


# ---- Types: the name of a scalar, or a tuple of a container's name and what is in it. ----

INTEGERS = {f"{sign}int{bits}": (sign, bits) for bits in (8, 16, 32, 64) for sign in ("", "u")}
SCALARS = [*INTEGERS, "float", "double", "boolean", "string", "bytes"]
TASKS: dict[str, Any] = {name: name for name in SCALARS}
TASKS["list"] = ("list", "int64")
TASKS["map"] = ("map", "string", "double")
TASKS["struct"] = ("struct", {"id": "uint64", "name": "string", "data": "bytes"})
TASKS["tuple"] = ("tuple", "boolean", "string")
TASKS["option"] = ("option", "string")

EXPECTED_NAMES = {"bytes": "Bytes", "list": "list", "map": "map", "tuple": "a tuple of 2"}
EXPECTED_NAMES["struct"] = "a struct of 3 (id, name, data)"
EXPECTED_NAMES["option"] = "string"

END = "the end of the bytes (truncated)"


def expected_first(name: str) -> str:
    """What a task expects whose argument is there, but has no bytes."""
    return {"bytes": "Bytes", "option": "string", "swap": "int64", "any": "a value"}.get(name, name)


# A valid value of every type, to put a wrong one into.
VALID: dict[str, Any] = {
    **dict.fromkeys(INTEGERS, 7),
    "float": Float32(1.5),
    "double": 2.5,
    "boolean": True,
    "string": "spider",
    "bytes": [1, 200],
    "list": [1, -2, 3],
    "map": {"a": 1.5, "b": 2.5},
    "struct": [1, "name", [1, 255]],
    "tuple": [True, "x"],
    "option": "x",
}


class Sample(NamedTuple):
    """A msgpack value, its kind, its value in Python, and how an error text calls it."""

    packed: bytes
    kind: str
    value: Any
    found: str


def integer(value: int, packed: bytes | None = None) -> Sample:
    return Sample(pack(value) if packed is None else packed, "integer", value, f"the integer {value}")


def samples() -> list[Sample]:
    """Every kind of value, in every form: what is put into every position."""
    found = [
        Sample(b"\xc0", "nil", None, "nil"),
        Sample(b"\xc2", "boolean", False, "the boolean false"),
        Sample(b"\xc3", "boolean", True, "the boolean true"),
        Sample(b"\xc1", "extension", None, "a reserved or extension type"),
        *(
            Sample(bytes([marker]) + bytes(20), "extension", None, "a reserved or extension type")
            for marker in (0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8)
        ),
        *(Sample(pack(Float32(x)), "float", x, "a float") for x in (1.5, math.inf, -0.0)),
        *(Sample(pack(x), "double", x, "a double") for x in (1.5, -1e300, math.inf)),
        *(Sample(pack(x), "string", x.encode(), f"a string of length {len(x.encode())}") for x in ("", "é", "5" * 300)),
        Sample(b"\xa2a\xff", "string", b"a\xff", "a string of length 2"),
        Sample(b"\xd9\x01a", "string", b"a", "a string of length 1"),
        Sample(b"\xda\0\x01a", "string", b"a", "a string of length 1"),
        Sample(b"\xdb\0\0\0\x01a", "string", b"a", "a string of length 1"),
        *(Sample(pack(x), "binary", x, f"binary of length {len(x)}") for x in (b"", b"abc", b"\xff", bytes(300))),
        Sample(b"\xc5\0\x01a", "binary", b"a", "binary of length 1"),
        Sample(b"\xc6\0\0\0\x01a", "binary", b"a", "binary of length 1"),
        *(Sample(pack(x), "array", x, f"an array of length {len(x)}") for x in ([], [1], [1, 2], [255, 256], ["x"])),
        *(Sample(pack(x), "map", x, f"a map of length {len(x)}") for x in ({}, {"a": 1}, {1: 2})),
    ]
    for power in (0, 5, 7, 8, 15, 16, 31, 32, 63, 64):
        for value in (2**power - 1, 2**power, 2**power + 1, -(2**power) + 1, -(2**power), -(2**power) - 1):
            if -(2**63) <= value < 2**64:
                found.append(integer(value))
    for marker, width, form in (
        (0xCC, 1, ">B"), (0xCD, 2, ">H"), (0xCE, 4, ">I"), (0xCF, 8, ">Q"),
        (0xD0, 1, ">b"), (0xD1, 2, ">h"), (0xD2, 4, ">i"), (0xD3, 8, ">q"),
    ):  # fmt: skip
        assert struct.calcsize(form) == width
        found.append(integer(5, bytes([marker]) + struct.pack(form, 5)))
        if marker >= 0xD0:
            found.append(integer(-5, bytes([marker]) + struct.pack(form, -5)))
    return found


def to_float32(value: float) -> Float32:
    try:
        return Float32(struct.unpack(">f", struct.pack(">f", value))[0])
    except OverflowError:
        return Float32(math.copysign(math.inf, value))


def convert(kind: str, sample: Sample) -> bytes | str:
    """What a task writes that read a scalar of this kind; or, as text, what it found instead of one."""
    refused = sample.found
    if kind in INTEGERS:
        sign, bits = INTEGERS[kind]
        low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return pack(sample.value) if sample.kind == "integer" and low <= sample.value <= high else refused
    if kind in ("float", "double"):
        if sample.kind not in ("integer", "float", "double"):
            return refused
        return pack(float(sample.value) if kind == "double" else to_float32(float(sample.value)))
    if kind == "string":
        if sample.kind not in ("string", "binary"):
            return refused
        try:
            return pack(sample.value.decode())
        except UnicodeDecodeError:
            return "bytes that are not UTF-8"
    if kind == "bytes":
        if sample.kind == "binary":
            return pack(list(sample.value))
        return pack(sample.value) if sample.kind == "array" and isinstance(sample.value, list) else refused
    assert kind == "boolean"
    return sample.packed if sample.kind == "boolean" else refused


def expect(kind: Any, position: str, sample: Sample) -> bytes | protocol.TdlError:
    """The output that comes of a sample where a value of this type should be, or the error."""
    name = kind if isinstance(kind, str) else kind[0]
    expected = EXPECTED_NAMES.get(name, name)
    if name == "bytes" and sample.kind == "array":
        for index, item in enumerate(sample.value):
            if not isinstance(item, int):
                return wrong(f"{position}[{index}]: expected uint8, found a string of length {len(item)}")
            if item > 255:
                return wrong(f"{position}[{index}]: expected uint8, found the integer {item}")
    if name == "option":
        return b"\xc0" if sample.kind == "nil" else expect(kind[1], position, sample)
    if isinstance(kind, str):
        converted = convert(kind, sample)
        return wrong(f"{position}: expected {expected}, found {converted}") if isinstance(converted, str) else converted
    return container(kind, position, sample, expected)


def container(kind: Any, position: str, sample: Sample, expected: str) -> bytes | protocol.TdlError:
    """Samples are no valid containers of these types, but for some that are empty or of integers."""
    name = kind[0]
    refused = wrong(f"{position}: expected {expected}, found {sample.found}")
    if name == "list" and sample.kind == "array":
        if all(isinstance(item, int) for item in sample.value):
            return pack(sample.value)
        return wrong(f"{position}[0]: expected int64, found a string of length 1")
    if name == "map" and sample.kind == "map":
        if 1 in sample.value:
            return wrong(f"{position}[key 0]: expected string, found the integer 1")
        return pack({key: float(value) for key, value in sample.value.items()})
    if name == "struct" and sample.kind == "map":
        return wrong(f"{position}.id: expected uint64, found no such field")
    if name == "tuple" and sample.kind == "array" and len(sample.value) == 2:
        return wrong(f"{position}[0]: expected boolean, found the integer {sample.value[0]}")
    return refused


def positions(name: str) -> Iterator[tuple[str, Any, Any]]:
    """Every position in a task's argument: how it is called, its type, and what puts packed bytes there."""
    kind = TASKS[name]
    valid = VALID[name]
    yield "inputs[0]", kind, lambda packed: packed
    if name == "list":
        for index in range(3):
            yield f"inputs[0][{index}]", "int64", lambda p, i=index: join(b"\x93", [pack(x) for x in valid], i, p)
    elif name == "map":
        flat = [pack(x) for pair in valid.items() for x in pair]
        for index in range(4):
            place = f"inputs[0][{'key' if index % 2 == 0 else 'value'} {index // 2}]"
            yield place, kind[1 + index % 2], lambda p, i=index: join(b"\x82", flat, i, p)
    elif name in ("struct", "tuple"):
        flat = [pack(x) for x in valid]
        kinds = list(kind[1].items()) if name == "struct" else [(None, inner) for inner in kind[1:]]
        for index, (field, inner) in enumerate(kinds):
            place = f"inputs[0].{field}" if field else f"inputs[0][{index}]"
            yield place, inner, lambda p, i=index: join(bytes([0x90 + len(flat)]), flat, i, p)


def join(head: bytes, parts: list[bytes], index: int, packed: bytes) -> bytes:
    return head + b"".join([*parts[:index], packed, *parts[index + 1 :]])


def wrong_types() -> Iterator[Case]:
    """Every sample in every position of every task: the right ones are taken, the wrong ones named."""
    for name in TASKS:
        for place, kind, put in positions(name):
            for sample in samples():
                expected = expect(kind, place, sample)
                if isinstance(expected, bytes):
                    expected = payload(put(expected))
                    if name == "map" and not is_sorted(protocol.unpack_values(expected)[0]):
                        continue  # the C++ task sorts, and keeps the last of two equal keys
                yield Case(name, payload(put(sample.packed)), expected)


def is_sorted(value: dict[str, Any]) -> bool:
    return len(value) != 1 and list(value) == sorted(value, key=str.encode)


# ---- Round trips ----

POWERS = (0, 5, 7, 8, 15, 16, 31, 32, 63, 64)
NUMBERS = sorted({sign * 2**power + delta for power in POWERS for delta in (-1, 0, 1) for sign in (1, -1)})
INT64S = [n for n in NUMBERS if -(2**63) <= n < 2**63]
TEXTS = ["", "a", "é", "日本語", "🕷️ spider", "\0", "a" * 31, "a" * 32, "a" * 255, "a" * 256, "é" * 32767, "é" * 32768]
TEXTS += [chr(c) for c in (0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF)]
FLOATS = [0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, math.nan, 1.5, 2.0**-149, 2.0**127, 3.4028234663852886e38]
DOUBLES = [*FLOATS, 5e-324, 1.7976931348623157e308, 0.1, 2.0**53 + 2]


def round_trips() -> Iterator[Case]:
    """Every type at its limits: what goes in comes out, byte for byte."""
    values: list[tuple[str, Any]] = []
    for name, (sign, bits) in INTEGERS.items():
        low, high = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        values += [(name, n) for n in NUMBERS if low <= n <= high]
    values += [("float", Float32(x)) for x in FLOATS] + [("double", x) for x in DOUBLES]
    values += [("boolean", False), ("boolean", True)]
    values += [("string", text) for text in TEXTS] + [("string", "x" * 70000)]
    values += [("bytes", list(data)) for data in (b"", b"\0", bytes(range(256)), bytes(65535), b"\xff" * 65536)]
    values += [("bytes", [i % 256 for i in range(70000)])]
    values += [("list", list(range(n))) for n in (0, 1, 15, 16, 65535, 65536, 70000)] + [("list", INT64S)]
    values += [("map", {f"{i:06}": float(i) for i in range(n)}) for n in (0, 1, 15, 16, 65535, 65536, 70000)]
    values += [("struct", [0, "", []]), ("struct", [2**64 - 1, "é", [0, 127, 128, 255]])]
    values += [("tuple", [True, ""]), ("tuple", [False, "é"]), ("option", None), ("option", ""), ("option", "x")]
    for name, value in values:
        yield Case(name, payload(pack(value)), payload(pack(value)))
        if name in ("string", "list", "map", "boolean", "bytes"):
            continue
        yield Case(name, payload(pack(value) + b"\xc1 behind") + b"behind", payload(pack(value)))
    for kind, packed in (
        ("float", b"\xca\x7f\x80\0\1"),
        ("double", b"\xcb\x7f\xf0\0\0\0\0\0\1"),
        ("float", b"\xca\xff\xc1\2\3"),
    ):
        yield Case(kind, payload(packed), payload(packed))  # a NaN keeps its bits
    # To the nearest float at once, not by way of a double.
    yield Case("float", payload(pack(0xFFFFD280000001FF)), payload(b"\xca\x5f\x7f\xff\xd3"))
    yield Case("swap", payload(pack(-5), pack("é")), payload(pack("é"), pack(-5)))


def nested(depth: int, make: Any) -> Any:
    value: Any = make(None)
    for _ in range(depth - 1):
        value = make(value)
    return value


def any_values() -> Iterator[Case]:
    """Values of no declared type, through kitchen_sink's `any` and `all`."""
    makers = (lambda v: [v], lambda v: {"k": v}, lambda v: [1, {"a": v}, "x"], lambda v: {1: [v], 2: 3})
    values = [nested(depth, make) for make in makers for depth in (1, 30, 511)]
    values += [None, True, *INT64S, 2**64 - 1, *(Float32(x) for x in FLOATS), *DOUBLES, *TEXTS]
    values += [list(range(70000)), {i: str(i) for i in range(70000)}, [[[]], {}, [{}], {"": []}], [{}] * 70000]
    for value in values:
        yield Case("any", payload(pack(value)), payload(pack(value)))
    yield Case("all", payload(), payload())
    yield Case("all", payload(*(pack(v) for v in values[:40])), payload(*(pack(v) for v in values[:40])))
    yield Case("all", payload(*[b"\x01"] * 70000), payload(*[b"\x01"] * 70000))
    yield Case("any", payload(pack({"b": b"\x01\xff"})), payload(pack({"b": [1, 255]})))
    deep = protocol.MSGPACK_DEPTH_MAX
    yield Case("any", payload(b"\x91" * deep + b"\x01"), payload(b"\x91" * deep + b"\x01"))
    path = "inputs[0]" + "[0]" * 200
    for packed in (b"\x91" * (deep + 1) + b"\x01", b"\x91" * 100000, b"\x91" * deep + b"\x90"):
        yield Case(
            "any", payload(packed), wrong(f"{cut_path(path)}: expected at most 1023 levels, found deeper nesting")
        )


def cut_path(path: str) -> str:
    """Paths are cut short where an error text would become too long."""
    used = len("inputs[0]")
    while 512 - used >= 64:
        used += 3
    return path[:used] + "[...]"


def counts() -> Iterator[Case]:
    """Too few arguments, too many, and payloads that end too early."""
    for name in (*TASKS, "swap", "nil", "any"):
        first = {"swap": "int64", "any": "nil", "option": "a value or nil"}.get(name, expected_first(name))
        for inputs in (payload(), b"", payload() + b"behind"):
            yield Case(name, inputs, wrong(f"inputs[0]: expected {first}, found nothing (0 values given)"))
        yield Case(name, payload(b""), wrong(f"inputs[0]: expected {expected_first(name)}, found {END}"))
        for size in (1, 2, 3):
            text = f"inputs: expected a count of 4 bytes, found only {size} bytes"
            yield Case(name, b"\0" * size, wrong(text))
        for count in (2, 3, 2**32 - 1):
            inputs = struct.pack("<I", count) + b"\0\0\0\0"
            text = f"inputs: expected {count} values, found only 4 bytes (truncated)"
            yield Case(name, inputs, wrong(text))
        first = "a value or nil" if name == "option" else expected_first(name)
        inputs = struct.pack("<II", 1, 2**32 - 1) + b"\x01"
        yield Case(name, inputs, wrong(f"inputs[0]: expected {first}, found {END}"))
    for name in TASKS:
        value = pack(VALID[name])
        yield Case(name, payload(value, value), wrong("inputs: expected 1 value, found 2"))
        yield Case(name, payload(value, b""), wrong("inputs: expected 1 value, found 2"))
    one = payload(pack(5))
    yield Case("swap", one, wrong("inputs[1]: expected string, found nothing (1 value given)"))
    yield Case("swap", payload(pack(5), pack("x"), pack(1)), wrong("inputs: expected 2 values, found 3"))
    yield Case("swap", payload(pack("x"), pack(5)), wrong("inputs[0]: expected int64, found a string of length 1"))
    yield Case("swap", payload(pack(5), pack(5)), wrong("inputs[1]: expected string, found the integer 5"))
    yield Case("context", payload(b"\x01"), wrong("inputs: expected 0 values, found 1"))


def structs() -> Iterator[Case]:
    """Structs from maps, by name or by number, in any order."""
    value = [7, "é", [1, 200]]
    fields = dict(zip(("id", "name", "data"), value))
    good = [
        fields,
        dict(reversed(list(fields.items()))),
        {"other": [1, {"a": 2}], **fields, "more": None, 9: 9, -1: 1},
        {0: 7, 1: "é", 2: [1, 200]},
        {b"name": "é", b"data": b"\x01\xc8", b"id": 7},
        {None: 1, 1.5: 2, **fields},
        *(dict(order) for order in itertools.permutations([*fields.items(), ("other", {"id": [1]})])),
    ]
    for form in good:
        yield Case("struct", payload(pack(form)), payload(pack(value)))
        yield Case("struct", payload(pack(form) + b"behind"), payload(pack(value)))
    # Extensions that nobody wants are stepped over, and each is cut at its end; c1 is no value at all.
    damaged = "expected a value, found truncated bytes, or the reserved marker c1"
    for extension in (
        b"\xd4\1a", b"\xd5\1ab", b"\xd6\1" + b"a" * 4, b"\xd7\1" + b"a" * 8, b"\xd8\1" + b"a" * 16,
        b"\xc7\0\1", b"\xc7\2\1ab", b"\xc8\0\2\1ab", b"\xc9\0\0\0\2\1ab",
    ):  # fmt: skip
        packed = b"\x84" + pack(fields)[1:] + pack("other")
        yield Case("struct", payload(packed + extension), payload(pack(value)))
        yield Case("struct", payload(b"\x84" + pack("other") + extension + pack(fields)[1:]), payload(pack(value)))
        for size in range(len(extension)):
            yield Case("struct", payload(packed + extension[:size]), wrong(f"inputs[0].data: {damaged}"))
    reserved = b"\x84" + pack("other") + b"\xc1" + pack(fields)[1:]
    yield Case("struct", payload(reserved), wrong(f"inputs[0].id: {damaged}"))
    for field, kind in (("id", "uint64"), ("name", "string"), ("data", "Bytes")):
        less = {key: value for key, value in fields.items() if key != field}
        text = f"inputs[0].{field}: expected {kind}, found no such field"
        yield Case("struct", payload(pack(less)), wrong(text))
        again = pack(field) + pack(fields[field])
        for twice in (pack(fields)[1:] + again, again + pack(fields)[1:]):
            text = f"inputs[0].{field}: expected one value, found the field twice"
            yield Case("struct", payload(b"\x84" + twice), wrong(text))
        bad = {**fields, field: None}
        yield Case("struct", payload(pack(bad)), wrong(f"inputs[0].{field}: expected {kind}, found nil"))
    for size in (0, 1, 2, 4, 16, 65536):
        text = f"inputs[0]: expected a struct of 3 (id, name, data), found an array of length {size}"
        yield Case("struct", payload(pack([1] * size)), wrong(text))
    for size in (0, 1, 3, 16):
        text = f"inputs[0]: expected a tuple of 2, found an array of length {size}"
        yield Case("tuple", payload(pack([True] * size)), wrong(text))


def hostile() -> Iterator[Case]:
    """Lengths that promise more than there is."""
    for head in (b"\xdd", b"\xdb", b"\xdf", b"\xc6"):
        for size in (1, 2**16, 2**31, 2**32 - 1):
            packed = head + struct.pack(">I", size)
            for name in (*TASKS, "any"):
                yield Case(name, payload(packed), wrong(f"inputs[0]: expected {expected_first(name)}, found {END}"))
    for size in range(2, 9):
        packed = pack(2**64 - 1)[:size]
        yield Case("uint64", payload(packed), wrong(f"inputs[0]: expected uint64, found {END}"))
    for packed in (b"\x83\xa0\x01\xa0\x01\xa0", b"\xde\0\3\xa0\x01\xa0\x01\xa0"):  # three pairs in five bytes
        yield Case("map", payload(packed), wrong(f"inputs[0]: expected map, found {END}"))
    packed = b"\x93\x01\x02\xcd\x01"
    yield Case("list", payload(packed), wrong(f"inputs[0][2]: expected int64, found {END}"))


def contexts() -> Iterator[Case]:
    """Every form of the context that Rust accepts, and what it refuses."""
    out = [1, "index", 7, 3, 4]
    nothing = payload()

    def case(context: bytes, *outputs: Any) -> Case:
        return Case("context", nothing, payload(*(pack(v) for v in outputs)), context)

    for task_id in ({"Index": 7}, {b"Index": 7}, {0: 7}):
        yield case(pack([1, task_id, 3, 4, None]), *out)
    for kind, number in (("Commit", 1), ("Cleanup", 2)):
        for task_id in (kind, kind.encode(), number, {kind: None}, {number: None}):
            yield case(pack([1, task_id, 3, 4, None]), 1, kind.lower(), 0, 3, 4)
    top = 2**64 - 1
    yield case(pack([top, {"Index": top}, top, top, None]) + b"behind", top, "index", top, top, top)
    names = ("job_id", "task_id", "task_instance_id", "resource_group_id", "graph_outputs")
    fields = (1, {"Index": 7}, 3, 4, None)
    yield case(pack(dict(zip(names, fields))), *out)
    yield case(pack(dict(reversed(list(zip(names, fields))))), *out)
    yield case(pack(dict(zip(names[:4], fields))), *out)
    yield Case("context", b"", payload(*(pack(v) for v in (1, "cleanup", 0, 3, 4))), pack([1, "Cleanup", 3, 4, None]))

    def bad(context: bytes, text: str) -> Case:
        return Case("context", nothing, wrong(text), context)

    listed = "a struct of 5 (job_id, task_id, task_instance_id, resource_group_id, graph_outputs)"
    yield bad(b"", f"context: expected struct, found {END}")
    yield bad(b"\xc0", f"context: expected {listed}, found nil")
    yield bad(pack([1, 2, 3, 4]), f"context: expected {listed}, found an array of length 4")
    yield bad(pack([*fields, 6]), f"context: expected {listed}, found an array of length 6")
    yield bad(pack([-1, *fields[1:]]), "context.job_id: expected uint64, found the integer -1")
    which = "expected Index with a number, Commit or Cleanup"
    for task_id, found in (
        ("Index", "a string of length 5"), ("commit", "a string of length 6"), (0, "the integer 0"),
        (3, "the integer 3"), (None, "nil"), ({}, "a map of length 0"), ({"Index": 1, "x": 2}, "a map of length 2"),
    ):  # fmt: skip
        yield bad(pack([1, task_id, 3, 4, None]), f"context.task_id: {which}, found {found}")
    yield bad(pack([1, {"X": 1}, 3, 4, None]), f"context.task_id[key 0]: {which}, found a string of length 1")
    yield bad(
        pack([1, {"Index": "x"}, 3, 4, None]), "context.task_id[value 0]: expected uint64, found a string of length 1"
    )
    yield bad(pack([1, {"Commit": 1}, 3, 4, None]), "context.task_id[value 0]: expected nil, found the integer 1")
    yield bad(pack([*fields[:4], "x"]), "context.graph_outputs: expected Bytes, found a string of length 1")
    yield bad(pack([*fields[:4], [1, 256]]), "context.graph_outputs[1]: expected uint8, found the integer 256")


def commit(buffer: bytes, as_bin: bool = False) -> bytes:
    outputs = buffer if as_bin else list(buffer)
    return pack([1, "Commit", 3, 4, outputs])


def graph_outputs() -> Iterator[Case]:
    nothing = payload()
    values = [1, "é", [1, {"a": None}], 2.5]
    plain = payload(*(pack(v) for v in values))
    for as_bin in (False, True):
        yield Case("graph_outputs", nothing, plain, commit(b"\0" + plain, as_bin))
        yield Case("graph_outputs", nothing, payload(), commit(b"\0" + payload(), as_bin))
        text = "graph_outputs: expected a count of 4 bytes, found only 0 bytes"
        yield Case("graph_outputs", nothing, wrong(text), commit(b"\0", as_bin))
        yield Case("graph_outputs", nothing, plain, commit(b"\0" + plain + b"behind", as_bin))
    large = payload(pack("x" * 100000), *[b"\xcc\xff"] * 1000)
    yield Case("graph_outputs", nothing, large, commit(b"\0" + large))
    first = "graph_outputs: expected a first byte of 0 (plain) or 1 (zstd), found"
    yield Case("graph_outputs", nothing, wrong(f"{first} no bytes"), commit(b""))
    yield Case("graph_outputs", nothing, wrong(f"{first} 2"), commit(b"\2" + plain))
    text = "graph_outputs: expected a count of 4 bytes, found only 3 bytes"
    yield Case("graph_outputs", nothing, wrong(text), commit(b"\0abc"))
    text = f"graph_outputs[0]: expected a value, found {END}"
    yield Case("graph_outputs", nothing, wrong(text), commit(b"\0" + struct.pack("<II", 1, 2) + b"a"))
    yield Case("graph_outputs", nothing, wrong("graph_outputs[0][0]: expected nil, found a reserved or extension type"),
               commit(b"\0" + payload(b"\x91\xc1")))  # fmt: skip
    none = protocol.InvalidTaskContext("graph_outputs: there are none, only a commit task has them")
    for context in (CONTEXT, pack([1, "Cleanup", 3, 4, None]), pack([1, "Commit", 3, 4, None])):
        yield Case("graph_outputs", nothing, none, context)


def failures() -> Iterator[Case]:
    kinds = (
        protocol.TaskNotFound, protocol.DeserializationError, protocol.SerializationError,
        protocol.ExecutionError, protocol.InvalidTaskContext, protocol.Custom,
    )  # fmt: skip
    for index, kind in enumerate(kinds):
        for text in ("", "é", "100 %s %n", "x" * 31, "x" * 32, "x" * 255, "x" * 256, "x" * 65535, "x" * 65536):
            yield Case("fail", payload(pack(index), pack(text)), kind(text))
    yield Case("fail", payload(pack(6), pack("x")), payload(pack("x")))
    for name in ("", "Int8", "int8 ", "int", "é", "x" * 70000, "a\0b"):
        yield Case(name, payload(pack(1)), protocol.TaskNotFound(name))


def not_utf8() -> Iterator[Case]:
    """What Python's own decoder refuses, and nothing else, is refused."""
    leads = [bytes([lead, *rest]) for lead in range(0x80, 0x100) for rest in ([], [0x80], [0x80] * 2, [0xBF] * 3)]
    seconds = [bytes([lead, second, 0x80, 0x80][:size])
               for lead, size in ((0xC1, 2), (0xC2, 2), (0xE0, 3), (0xED, 3), (0xEF, 3), (0xF0, 4), (0xF4, 4))
               for second in (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)]  # fmt: skip
    texts = [text for data in (*leads, *seconds) for text in (data, b"a" * 45 + data + b"b" * 3)]
    # At every place of a text that is looked through in steps of 8 and 128 bytes.
    texts += [b"a" * i + data + b"b" * (300 - i) for i in range(301) for data in (b"\xff", "\N{SPIDER}".encode())]
    for text in texts:
        try:
            expected: bytes | protocol.TdlError = payload(pack(text.decode()))
        except UnicodeDecodeError:
            expected = wrong("inputs[0]: expected string, found bytes that are not UTF-8")
        head = pack("x" * len(text))[: -len(text)]
        yield Case("string", payload(head + text), expected)
        yield Case("string", payload(pack(text)), expected)


MAKERS = (wrong_types, round_trips, any_values, counts, structs, hostile, contexts, graph_outputs, failures, not_utf8)


def all_cases() -> list[Case]:
    return [case for make in MAKERS for case in make()]
