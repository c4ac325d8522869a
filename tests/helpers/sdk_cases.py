"""Calls of the tasks of native/kitchen_sink.c and what they return, byte for byte. typed.cpp has most of them, too."""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from helpers.sdk import Case, Raw, commit, float32, packed, payload, wrong

from protocol import MSGPACK_DEPTH_MAX, TDL_ERROR_KINDS, TdlError, pack

INTEGERS = {f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)}
INTEGERS.update({f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)})
# A task for each type, a value that it returns as it is, and what its errors expect.
TASKS = {
    **dict.fromkeys(INTEGERS, 7), "float": float32(1.5), "double": 2.5, "boolean": True, "string": "spider",
    "bytes": [1, 200], "list": [1, -2, 3], "map": {"a": 1.5, "b": 2.5}, "struct": [1, "name", [1, 255]],
    "tuple": [True, "x"], "option": "x",
}  # fmt: skip
EXPECTED = {**dict.fromkeys(TASKS, ""), "bytes": "Bytes", "any": "a value", "option": "a value or nil"}
END = "the end of the bytes (truncated), or the reserved marker c1"


def expected(task: str) -> str:
    return EXPECTED.get(task) or task


# ------------------------------------------------------------------------------------- each value for each scalar reader


class Sample(NamedTuple):
    """A value, its kind, and how an error describes it."""

    packed: bytes
    kind: str
    value: Any
    found: str


POWERS = (0, 5, 7, 8, 15, 16, 31, 32, 63, 64)
NUMBERS = sorted({sign * 2**power + delta for power in POWERS for delta in (-1, 0, 1) for sign in (1, -1)})
NUMBERS = [number for number in NUMBERS if -(2**63) <= number < 2**64]
FLOATS = [0.0, -0.0, 1.0, 1.5, math.inf, -math.inf, 2.0**-149, 2.0**127, 3.4028234663852886e38]
DOUBLES = [*FLOATS, 5e-324, 1.7976931348623157e308, -1e300, 0.1, 2.0**53 + 2]
TEXTS = ["", "a", "é", "日本語", "🕷️ spider", "\0", *("a" * n for n in (31, 32, 255, 256, 65535, 65536, 70000))]
TEXTS += [chr(c) for c in (0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)] + ["é" * 32768]
INTEGER_FORMS = (
    (0xCC, ">B"), (0xCD, ">H"), (0xCE, ">I"), (0xCF, ">Q"), (0xD0, ">b"), (0xD1, ">h"), (0xD2, ">i"), (0xD3, ">q"),
)  # fmt: skip
EXTENSIONS = [b"\xd4\1a", b"\xd5\1ab", b"\xd6\1" + b"a" * 4, b"\xd7\1" + b"a" * 8, b"\xd8\1" + b"a" * 16]
EXTENSIONS += [b"\xc7\0\1", b"\xc7\2\1ab", b"\xc8\0\2\1ab", b"\xc9\0\0\0\2\1ab"]
LENGTHS = (1, 2, 4, 8, 16, 0, 2, 2, 2)


def samples() -> Iterator[Sample]:
    yield Sample(b"\xc0", "nil", None, "nil")
    yield Sample(b"\xc1", "reserved", None, "a reserved type")
    yield Sample(b"\xc2", "boolean", False, "the boolean false")
    yield Sample(b"\xc3", "boolean", True, "the boolean true")
    for number in NUMBERS:
        yield Sample(pack(number), "integer", number, f"the integer {number}")
    for marker, form in INTEGER_FORMS:  # wider than necessary
        for number in (5, -5) if form.islower() else (5,):
            yield Sample(bytes([marker]) + struct.pack(form, number), "integer", number, f"the integer {number}")
    for number in FLOATS:
        yield Sample(float32(number), "float", number, "a float")
    for number in DOUBLES:
        yield Sample(pack(number), "float", number, "a double")
    for text in TEXTS:
        yield Sample(pack(text), "text", text.encode(), f"a string of length {len(text.encode())}")
    for head in (b"\xd9\x02", b"\xda\0\x02", b"\xdb\0\0\0\x02"):
        yield Sample(head + b"ab", "text", b"ab", "a string of length 2")
    yield Sample(b"\xa2a\xff", "text", b"a\xff", "a string of length 2")
    for data in (b"", b"abc", b"\xff", bytes(300)):
        yield Sample(pack(data), "text", data, f"binary of length {len(data)}")
    for head in (b"\xc5\0\x02", b"\xc6\0\0\0\x02"):
        yield Sample(head + b"ab", "text", b"ab", "binary of length 2")
    for array in ([], [1], [0, 255], [127, 128]):
        yield Sample(pack(array), "array", array, f"an array of length {len(array)}")
    yield Sample(b"\xdc\0\x02\xd0\x05\xcd\0\x05", "array", [5, 5], "an array of length 2")
    for mapping in ({}, {"a": 1}, {1: 2, 3: 4}):
        yield Sample(pack(mapping), "map", mapping, f"a map of length {len(mapping)}")
    for extension, length in zip(EXTENSIONS, LENGTHS):
        yield Sample(extension, "extension", None, f"an extension of length {length}")


def to_float32(number: float) -> Raw:
    try:
        return float32(number)
    except OverflowError:
        return float32(math.copysign(math.inf, number))  # as Rust does


def convert(task: str, sample: Sample) -> bytes | str:
    """What a task writes after it has read the sample, or what its error finds."""
    kind, value = sample.kind, sample.value
    is_binary = sample.found.startswith("binary")
    if task in INTEGERS and kind == "integer" and INTEGERS[task][0] <= value <= INTEGERS[task][1]:
        return pack(value)
    if task == "double" and kind in ("integer", "float"):
        return pack(float(value))
    if task == "float" and kind in ("integer", "float"):
        return to_float32(float(value))
    if task == "boolean" and kind == "boolean":
        return pack(value)
    if task == "string" and kind == "text":
        try:
            return pack(value.decode())
        except UnicodeDecodeError:
            return "bytes that are not UTF-8"
    if task == "bytes" and (kind == "array" or is_binary):
        return pack(list(value))
    return sample.found


def scalars() -> Iterator[Case]:
    for task in (*INTEGERS, "float", "double", "boolean", "string", "bytes"):
        for sample in samples():
            outcome = convert(task, sample)
            if isinstance(outcome, bytes):
                yield Case(task, payload(Raw(sample.packed)), payload(Raw(outcome)))
                yield Case(task, payload(Raw(sample.packed + b"more")) + b"more", payload(Raw(outcome)))
            else:
                text = f"inputs[0]: expected {expected(task)}, found {outcome}"
                yield Case(task, payload(Raw(sample.packed)), wrong(text))
    # A NaN keeps its bits. An integer is rounded once, not by way of a double.
    yield Case("float", payload(Raw(b"\xca\x7f\xc0\0\1")), payload(Raw(b"\xca\x7f\xc0\0\1")))
    yield Case("double", payload(Raw(b"\xcb\x7f\xf8\0\0\0\0\0\1")), payload(Raw(b"\xcb\x7f\xf8\0\0\0\0\0\1")))
    yield Case("float", payload(0xFFFFD280000001FF), payload(Raw(b"\xca\x5f\x7f\xff\xd3")))


def utf8() -> Iterator[Case]:
    """Python's decoder decides what is UTF-8."""
    texts = [bytes([lead, *rest]) for lead in range(0x80, 0x100) for rest in ([], [0x80], [0x80] * 2, [0xBF] * 3)]
    for lead, size in ((0xC1, 2), (0xC2, 2), (0xE0, 3), (0xED, 3), (0xEF, 3), (0xF0, 4), (0xF4, 4)):
        seconds = (0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0)
        texts += [bytes([lead, second, 0x80, 0x80][:size]) for second in seconds]
    texts += [b"a" * 45 + text + b"b" * 3 for text in texts]
    # At each place of a text that is looked through in steps.
    texts += [b"a" * i + text + b"b" * (80 - i) for i in range(81) for text in (b"\xff", "🕷".encode(), b"\xe2\x82")]
    for text in texts:
        head = pack("x" * len(text))[: -len(text)]
        try:
            outcome: bytes | TdlError = payload(text.decode())
        except UnicodeDecodeError:
            outcome = wrong("inputs[0]: expected string, found bytes that are not UTF-8")
        yield Case("string", payload(Raw(head + text)), outcome)


# ------------------------------------------------------------------------------------------------------------ containers


def sizes(*values: int) -> Iterator[tuple[str, Any]]:
    for size in values:
        yield "bytes", [i % 256 for i in range(size)]
        yield "list", list(range(size))
        yield "map", {f"{i:06}": float(i) for i in range(size)}


def round_trips() -> Iterator[Case]:
    values = [*sizes(0, 1, 15, 16, 255, 256, 65535, 65536, 70000), ("list", [n for n in NUMBERS if n < 2**63])]
    values += [("struct", [0, "", []]), ("struct", [2**64 - 1, "é", [0, 127, 128, 255]]), ("option", None)]
    values += [("tuple", [True, ""]), ("tuple", [False, "é"]), ("option", ""), ("option", "x")]
    for task, value in values:
        yield Case(task, payload(value), payload(value))
    yield Case("swap", payload(-5, "é"), payload("é", -5))
    yield Case("list", payload(b"\x01\xff"), payload([1, 255]))  # binary is a list of integers, too
    yield Case("list", payload(b""), payload([]))


# A task, an argument that is wrong, and the error without "inputs[0]".
WRONG = [
    ("list", {}, ": expected list, found a map of length 0"),
    ("list", [1, "x", 3], "[1]: expected int64, found a string of length 1"),
    ("list", [1, 2, 2**63], f"[2]: expected int64, found the integer {2**63}"),
    ("list", Raw(b"\x93\x01\x02\xcd\x01"), f"[2]: expected int64, found {END}"),
    ("bytes", [1, 256], "[1]: expected uint8, found the integer 256"),
    ("bytes", [1, 2, "x"], "[2]: expected uint8, found a string of length 1"),
    ("map", [], ": expected map, found an array of length 0"),
    ("map", {"a": 1, 2: 3}, "[key 1]: expected string, found the integer 2"),
    ("map", {"a": 1, "b": "x"}, "[value 1]: expected double, found a string of length 1"),
    ("map", Raw(b"\x83\xa0\x01\xa0\x01\xa0"), f": expected map, found {END}"),  # three pairs in five bytes
    ("struct", 5, ": expected a struct of 3 (id, name, data), found the integer 5"),
    *(
        ("struct", [1] * size, f": expected a struct of 3 (id, name, data), found an array of length {size}")
        for size in (0, 2, 4, 65536)
    ),
    ("struct", [-1, "x", []], ".id: expected uint64, found the integer -1"),
    ("struct", [1, None, []], ".name: expected string, found nil"),
    ("struct", [1, "x", [1, 256]], ".data[1]: expected uint8, found the integer 256"),
    ("tuple", {}, ": expected a tuple of 2, found a map of length 0"),
    *(("tuple", [True] * size, f": expected a tuple of 2, found an array of length {size}") for size in (0, 1, 3)),
    ("tuple", [1, "x"], "[0]: expected boolean, found the integer 1"),
    ("option", 5, ": expected string, found the integer 5"),
    *(
        (task, Raw(b""), f": expected {expected(task)}, found {END}")
        for task in TASKS
        if task not in ("struct", "tuple")
    ),
    *(
        (task, Raw(head + struct.pack(">I", size)), f": expected {expected(task)}, found {END}")
        for task in ("bytes", "list", "map", "string", "struct", "any")
        for head in (b"\xdd", b"\xdb", b"\xdf", b"\xc6", b"\xc9")
        for size in (1, 2**16, 2**31, 2**32 - 1)
    ),
    *(("uint64", Raw(pack(2**64 - 1)[:size]), f": expected uint64, found {END}") for size in range(2, 9)),
]


def wrong_containers() -> Iterator[Case]:
    for task, value, text in WRONG:
        yield Case(task, payload(value), wrong(f"inputs[0]{text}"))


def map_structs() -> Iterator[Case]:
    """Structs that come as maps: in any order, with other entries, but with each field once."""
    value = [7, "é", [1, 200]]
    fields = dict(zip(("id", "name", "data"), value))
    good: list[Any] = [
        {"other": [1, {"a": 2}], **fields, "more": None, 9: 9},
        {b"name": "é", b"data": b"\x01\xc8", b"id": 7},
        {None: 1, 1.5: 2, (1, 2): 3, **fields},
        *(dict(order) for order in itertools.permutations([*fields.items(), ("other", {"id": [1]})])),
    ]
    four = b"\x84" + pack(fields)[1:]
    good += [Raw(four + pack("other") + extension) for extension in EXTENSIONS]
    for form in good:
        yield Case("struct", payload(form), payload(value))
    damaged = f"expected a value, found {END}"
    for ending in (b"\xc1", *(extension[:size] for extension in EXTENSIONS for size in range(len(extension)))):
        yield Case("struct", payload(Raw(four + pack("other") + ending)), wrong(f"inputs[0]: {damaged}"))
    for field, kind in (("id", "uint64"), ("name", "string"), ("data", "Bytes")):
        at = f"inputs[0].{field}: expected"
        less = {key: value for key, value in fields.items() if key != field}
        yield Case("struct", payload(less), wrong(f"{at} {kind}, found no such field"))
        yield Case("struct", payload({**fields, field: None}), wrong(f"{at} {kind}, found nil"))
        again = pack(field) + pack(fields[field])
        for twice in (pack(fields)[1:] + again, again + pack(fields)[1:]):
            yield Case("struct", payload(Raw(b"\x84" + twice)), wrong(f"{at} one value, found the field twice"))


def nested(depth: int, make: Any) -> Any:
    value: Any = make(None)
    for _ in range(depth - 1):
        value = make(value)
    return value


def any_values() -> Iterator[Case]:
    makers = (lambda v: [v], lambda v: {"k": v}, lambda v: [1, {"a": v}, "x"], lambda v: {1: [v], 2: 3})
    values = [nested(depth, make) for make in makers for depth in (1, 30, 511)]
    values += [None, True, *NUMBERS, *map(float32, FLOATS), *DOUBLES, *TEXTS, list(range(70000)), [{}] * 70000]
    values += [
        {i: str(i) for i in range(70000)},
        [[[]], {}, [{}], {"": []}],
        Raw(b"\x91" * MSGPACK_DEPTH_MAX + b"\x01"),
    ]
    for value in values:
        yield Case("any", payload(value), payload(value))
    for several in ([], values[:40], [1] * 70000):
        yield Case("all", payload(*several), payload(*several))
    yield Case("any", payload({"b": b"\x01\xff"}), payload({"b": [1, 255]}))
    place = "inputs[0]" + "[0]" * 147 + "[...]"
    for deep in (b"\x91" * (MSGPACK_DEPTH_MAX + 1), b"\x91" * 100_000, b"\x91" * MSGPACK_DEPTH_MAX + b"\x90"):
        text = f"{place}: expected at most 1023 levels, found deeper nesting"
        yield Case("any", payload(Raw(deep + b"\x01")), wrong(text))
    yield Case("nil", payload(None), payload(None))
    yield Case("nil", payload([]), wrong("inputs[0]: expected nil, found an array of length 0"))


# -------------------------------------------------------------------------------------- arguments, context, graph outputs


def arguments() -> Iterator[Case]:
    """Too few, too many, and payloads that end too early."""
    for task, valid in (*TASKS.items(), ("swap", 5), ("nil", None), ("any", 5)):
        first = {"swap": "int64", "any": "nil"}.get(task, expected(task))
        for inputs in (payload(), b"", payload() + b"more"):
            yield Case(task, inputs, wrong(f"inputs[0]: expected {first}, found nothing (0 values given)"))
        for count, size in ((0, 1), (0, 2), (0, 3), (2, 8), (2**32 - 1, 8)):
            inputs = struct.pack("<I", count)[:size] + bytes(max(size - 4, 0))
            text = f"inputs: expected a count of 4 bytes and {count} values, found only {size} bytes (truncated)"
            yield Case(task, inputs, wrong(text))
        if task not in ("swap", "any"):
            yield Case(task, payload(valid, valid), wrong("inputs: expected 1 value, found 2"))
            yield Case(task, payload(valid, Raw(b"")), wrong("inputs: expected 1 value, found 2"))
    yield Case("uint8", struct.pack("<II", 1, 2) + b"\x01", wrong(f"inputs[0]: expected uint8, found {END}"))
    yield Case("swap", payload(5), wrong("inputs[1]: expected string, found nothing (1 value given)"))
    yield Case("swap", payload(5, "x", 1), wrong("inputs: expected 2 values, found 3"))
    yield Case("swap", payload(5, 6), wrong("inputs[1]: expected string, found the integer 6"))
    yield Case("context", payload(1), wrong("inputs: expected 0 values, found 1"))


def contexts() -> Iterator[Case]:
    def case(context: Any, outcome: Any, more: bytes = b"", inputs: bytes = payload()) -> Case:
        outcome = payload(*outcome) if isinstance(outcome, list) else wrong(f"task.context{outcome}")
        return Case("context", inputs, outcome, packed(context) + more)

    top = 2**64 - 1
    for more in (b"", b"\xc1 more"):
        yield case([1, {"Index": 7}, 3, 4, None], [1, "index", 7, 3, 4], more)
        yield case([1, "Commit", 3, 4, b"\0\0\0\0\0"], [1, "commit", 0, 3, 4], more)
        yield case([top, {"Index": top}, top, top, None], [top, "index", top, top, top], more)
    yield case([1, "Cleanup", 3, 4, None], [1, "cleanup", 0, 3, 4])
    yield case([1, "Cleanup", 3, 4, None], [1, "cleanup", 0, 3, 4], inputs=b"")
    five, older = "expected an array of length 5", "one of length 4, as an older Spider sends"
    yield case(Raw(b""), f": {five}, found {END}")
    yield case(None, f": {five}, found nil")
    yield case([1, 2, 3, 4], f": {five}, found {older}")
    yield case([1, "Commit", 3, 4, None, 6], f": {five}, found one of length 6")
    yield case([-1, "Commit", 3, 4, None], ".job_id: expected uint64, found the integer -1")
    yield case([1, "Commit", "x", 4, None], ".task_instance_id: expected uint64, found a string of length 1")
    yield case([1, "Commit", 3, None, None], ".resource_group_id: expected uint64, found nil")
    which = "expected Index with a number, Commit or Cleanup, found"
    yield case([1, "Index", 3, 4, None], f".task_id: {which} Index")
    yield case([1, "commit", 3, 4, None], f".task_id: {which} commit")
    yield case([1, None, 3, 4, None], ".task_id: expected string, found nil")
    yield case([1, {"Commit": 1}, 3, 4, None], f".task_id[key 0]: {which} Commit")
    yield case([1, {"Index": "x"}, 3, 4, None], ".task_id[value 0]: expected uint64, found a string of length 1")
    for mapping in ({}, {"Index": 7, 5: 6}):
        yield case([1, mapping, None, 4, None], f".task_id: {which} a map of length {len(mapping)}")
    yield case([1, "Commit", 3, 4, "x"], ".graph_outputs: expected Bytes, found a string of length 1")
    yield case([1, "Commit", 3, 4, [1, 256]], ".graph_outputs[1]: expected uint8, found the integer 256")


def graph_outputs() -> Iterator[Case]:
    def case(buffer: bytes, outcome: bytes | TdlError, as_bin: bool = False) -> Case:
        return Case("graph_outputs", payload(), outcome, commit(buffer, as_bin))

    plain, large = payload(1, "é", [1, {"a": None}], 2.5), payload("x" * 100_000, *[Raw(b"\xcc\xff")] * 1000)
    for as_bin in (False, True):
        yield case(b"\0" + plain, plain, as_bin)
        yield case(b"\0" + payload() + b"more", payload(), as_bin)
        yield case(b"\0" + large, large, as_bin)
    count = "graph_outputs: expected a count of 4 bytes and"
    yield case(b"\0", wrong(f"{count} 0 values, found only 0 bytes (truncated)"))
    yield case(b"\0abc", wrong(f"{count} 0 values, found only 3 bytes (truncated)"))
    yield case(b"\0\2\0\0\0", wrong(f"{count} 2 values, found only 4 bytes (truncated)"))
    yield case(b"\0" + struct.pack("<II", 1, 2) + b"a", wrong(f"graph_outputs[0]: expected a value, found {END}"))
    first = "graph_outputs: expected a first byte of 0 (plain) or 1 (zstd), found"
    yield case(b"", wrong(f"{first} no bytes"))
    yield case(b"\2" + plain, wrong(f"{first} another"))
    none = TdlError("InvalidTaskContext", "graph_outputs: there are none, only a commit task has them")
    for context in ([1, {"Index": 2}, 3, 4, None], [1, "Cleanup", 3, 4, None], [1, "Commit", 3, 4, None]):
        yield Case("graph_outputs", payload(), none, pack(context))
    # A commit task that does not look at them does not mind.
    yield Case("uint8", payload(7), payload(7), commit(b"\2damaged"))


def failures() -> Iterator[Case]:
    for number, kind in enumerate(TDL_ERROR_KINDS):
        for text in ("", "é", "100 %s %n", *("x" * size for size in (31, 32, 255, 256, 4095))):
            yield Case("fail", payload(number, text), TdlError(kind, text))
    yield Case("fail", payload(6, "x"), payload("x"))
    for name in ("", "Int8", "int8 ", "int", "int88", "é", "a\0b", "x" * 70_000):
        yield Case(name, payload(1), TdlError("TaskNotFound", name))
    yield Case("\udcff", payload(1), TdlError("TaskNotFound", "?"))  # a name that no executor sends


MAKERS = (
    scalars, utf8, round_trips, wrong_containers, map_structs, any_values, arguments, contexts, graph_outputs, failures,
)  # fmt: skip


def all_cases() -> list[Case]:
    return [case for make in MAKERS for case in make()]
