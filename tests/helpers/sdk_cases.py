"""Calls of the tasks of native/kitchen_sink.c and what they return, byte for byte.

typed.cpp has most of these tasks, too.
"""

from __future__ import annotations

import functools
import itertools
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any

from helpers.sdk import Case, Raw, commit, float32, packed, payload, wrong
from protocol import MSGPACK_DEPTH_MAX, TDL_ERROR_KINDS, TdlError, pack

INTEGERS = {
    f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)
}
INTEGERS.update({f"uint{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)})
SCALARS = (*INTEGERS, "float", "double", "boolean", "string", "bytes")
# A task for each type, and a value that it returns as it is.
TASKS = {
    **dict.fromkeys(INTEGERS, 7),
    "float": float32(1.5),
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
# What their errors expect, if it is not the task's name.
EXPECTED = {
    "bytes": "Bytes",
    "option": "a value or nil",
    "any": "a value",
    "swap": "int64",
}
END = "the end of the bytes (truncated), or the reserved marker c1"

NUMBERS = {
    sign * 2**n + more
    for n in (0, 5, 7, 8, 15, 16, 31, 32, 63, 64)
    for more in (-1, 0, 1)
    for sign in (1, -1)
}
NUMBERS = sorted(number for number in NUMBERS if -(2**63) <= number < 2**64)
FLOATS = [
    0.0,
    -0.0,
    1.5,
    math.inf,
    -math.inf,
    2.0**-149,
    2.0**127,
    3.4028234663852886e38,
]
DOUBLES = [*FLOATS, 5e-324, 1.7976931348623157e308, -1e300, 0.1, 2.0**53 + 2]
TEXTS = [
    "",
    "é",
    "日本語",
    "🕷️ spider",
    "\0",
    *("a" * n for n in (31, 32, 255, 256, 65535, 65536)),
    "é" * 32768,
]
TEXTS += [
    chr(c)
    for c in (0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF)
]
# An extension, and its length.
EXTENSIONS = [(bytes([0xD4 + n, 1]) + b"a" * 2**n, 2**n) for n in range(5)]
EXTENSIONS += [
    (b"\xc7\0\1", 0),
    (b"\xc7\2\1ab", 2),
    (b"\xc8\0\2\1ab", 2),
    (b"\xc9\0\0\0\2\1ab", 2),
]


def samples() -> Iterator[tuple[bytes, str, Any, str]]:
    """Each kind of value in each form: bytes, kind, value, and what an error says."""
    yield b"\xc0", "nil", None, "nil"
    yield b"\xc1", "reserved", None, "a reserved type"
    yield b"\xc2", "boolean", False, "the boolean false"
    yield b"\xc3", "boolean", True, "the boolean true"
    yield from (
        (pack(number), "integer", number, f"the integer {number}") for number in NUMBERS
    )
    for marker, layout in enumerate(
        (">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), 0xCC
    ):  # wider than necessary
        for number in (5, -5) if layout.islower() else (5,):
            yield (
                bytes([marker]) + struct.pack(layout, number),
                "integer",
                number,
                f"the integer {number}",
            )
    yield from ((float32(number), "float", number, "a float") for number in FLOATS)
    yield from ((pack(number), "float", number, "a double") for number in DOUBLES)
    yield from (
        (
            pack(text),
            "string",
            text.encode(),
            f"a string of length {len(text.encode())}",
        )
        for text in TEXTS
    )
    yield from (
        (head + b"ab", "string", b"ab", "a string of length 2")
        for head in (b"\xd9\2", b"\xda\0\2", b"\xdb\0\0\0\2")
    )
    for data in (b"", b"abc", b"\xff", bytes(300)):
        yield pack(data), "binary", data, f"binary of length {len(data)}"
    yield from (
        (head + b"ab", "binary", b"ab", "binary of length 2")
        for head in (b"\xc5\0\2", b"\xc6\0\0\0\2")
    )
    for array in ([], [1], [0, 255], [127, 128]):
        yield pack(array), "array", array, f"an array of length {len(array)}"
    yield b"\xdc\0\x02\xd0\x05\xcd\0\x05", "array", [5, 5], "an array of length 2"
    for mapping in ({}, {"a": 1}, {1: 2, 3: 4}):
        yield pack(mapping), "map", mapping, f"a map of length {len(mapping)}"
    for extension, length in EXTENSIONS:
        yield extension, "extension", None, f"an extension of length {length}"


def convert(task: str, kind: str, value: Any, found: str) -> bytes | str:
    """What a task writes after it has read a sample, or what its error finds."""
    if (
        task in INTEGERS
        and kind == "integer"
        and INTEGERS[task][0] <= value <= INTEGERS[task][1]
    ):
        return pack(value)
    if task == "double" and kind in ("integer", "float"):
        return pack(float(value))
    if task == "float" and kind in ("integer", "float"):
        try:
            return float32(value)
        except OverflowError:
            return float32(math.copysign(math.inf, value))  # as Rust does
    if task == kind == "boolean":
        return pack(value)
    if task == "string" and kind in ("string", "binary"):
        try:
            return pack(value.decode())
        except UnicodeDecodeError:
            return "bytes that are not UTF-8"
    return (
        pack(list(value)) if task == "bytes" and kind in ("array", "binary") else found
    )


def scalars() -> Iterator[Case]:
    for task, (sample, *what) in itertools.product(SCALARS, samples()):
        outcome = convert(task, *what)
        if isinstance(outcome, bytes):
            for more in (b"", b"more"):
                yield Case(
                    task, payload(Raw(sample + more)) + more, payload(Raw(outcome))
                )
        else:
            text = f"inputs[0]: expected {EXPECTED.get(task, task)}, found {outcome}"
            yield Case(task, payload(Raw(sample)), wrong(text))
    # A NaN keeps its bits. An integer is rounded once, not by way of a double.
    for task, value, outcome in (
        ("float", Raw(b"\xca\x7f\xc0\0\1"), Raw(b"\xca\x7f\xc0\0\1")),
        ("double", Raw(b"\xcb\x7f\xf8\0\0\0\0\0\1"), Raw(b"\xcb\x7f\xf8\0\0\0\0\0\1")),
        ("float", 0xFFFFD280000001FF, Raw(b"\xca\x5f\x7f\xff\xd3")),
    ):
        yield Case(task, payload(value), payload(outcome))


def utf8() -> Iterator[Case]:
    """Python's decoder decides what is UTF-8. The SDK checks several bytes at once."""
    texts = [
        bytes([lead, *rest])
        for lead in range(0x80, 0x100)
        for rest in ([], [0x80], [0x80] * 2, [0xBF] * 3)
    ]
    for lead, second in itertools.product(
        (0xC1, 0xC2, 0xE0, 0xED, 0xEF, 0xF0, 0xF4),
        (0, 0x7F, 0x8F, 0x90, 0x9F, 0xA0, 0xC0),
    ):
        texts += [
            bytes([lead, second]),
            bytes([lead, second, 0x80]),
            bytes([lead, second, 0x80, 0x80]),
        ]
    texts += [b"a" * 45 + text + b"b" * 3 for text in texts]
    texts += [
        b"a" * i + text + b"b" * (80 - i)
        for i in range(81)
        for text in (b"\xff", "🕷".encode(), b"\xe2\x82")
    ]
    for text in texts:
        outcome = convert("string", "string", text, "")
        error = wrong(f"inputs[0]: expected string, found {outcome}")
        head = pack("x" * len(text))[: -len(text)]
        yield Case(
            "string",
            payload(Raw(head + text)),
            payload(Raw(outcome)) if isinstance(outcome, bytes) else error,
        )


def containers() -> Iterator[Case]:
    for size in (0, 1, 15, 16, 255, 256, 65535, 65536):
        yield Case(
            "bytes",
            payload(bytes(i % 256 for i in range(size))),
            payload([i % 256 for i in range(size)]),
        )
        for task, value in (
            ("bytes", [i % 256 for i in range(size)]),
            ("list", list(range(size))),
            ("map", {f"{i:06}": float(i) for i in range(size)}),
        ):
            yield Case(task, payload(value), payload(value))
    for task, value in (
        ("list", NUMBERS[: NUMBERS.index(2**63)]),
        ("struct", [2**64 - 1, "é", [0, 127, 128, 255]]),
        ("struct", [0, "", []]),
        ("tuple", [True, ""]),
        ("option", None),
        ("option", ""),
        ("option", "x"),
    ):
        yield Case(task, payload(value), payload(value))
    yield Case("swap", payload(-5, "é"), payload("é", -5))
    yield Case(
        "list", payload(b"\x01\xff"), payload([1, 255])
    )  # binary is a list of integers, too
    for task, value, text in WRONG:
        yield Case(task, payload(value), wrong(f"inputs[0]{text}"))


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
    (
        "map",
        {"a": 1, "b": "x"},
        "[value 1]: expected double, found a string of length 1",
    ),
    (
        "map",
        Raw(b"\x83\xa0\x01\xa0\x01\xa0"),
        f": expected map, found {END}",
    ),  # three pairs in five bytes
    ("struct", 5, ": expected a struct of 3 (id, name, data), found the integer 5"),
    (
        "struct",
        [1] * 2,
        ": expected a struct of 3 (id, name, data), found an array of length 2",
    ),
    (
        "struct",
        [1] * 65536,
        ": expected a struct of 3 (id, name, data), found an array of length 65536",
    ),
    ("struct", [-1, "x", []], ".id: expected uint64, found the integer -1"),
    ("struct", [1, None, []], ".name: expected string, found nil"),
    ("struct", [1, "x", [1, 256]], ".data[1]: expected uint8, found the integer 256"),
    ("tuple", {}, ": expected a tuple of 2, found a map of length 0"),
    ("tuple", [True], ": expected a tuple of 2, found an array of length 1"),
    ("tuple", [True, "x", 1], ": expected a tuple of 2, found an array of length 3"),
    ("tuple", [1, "x"], "[0]: expected boolean, found the integer 1"),
    ("option", 5, ": expected string, found the integer 5"),
    *(
        (task, Raw(b""), f": expected {EXPECTED.get(task, task)}, found {END}")
        for task in TASKS
    ),
    *(
        (
            task,
            Raw(head + struct.pack(">I", size)),
            f": expected {EXPECTED.get(task, task)}, found {END}",
        )
        for task in ("bytes", "list", "map", "string", "struct", "tuple", "any")
        for head in (b"\xdd", b"\xdb", b"\xdf", b"\xc6", b"\xc9")
        for size in (1, 2**16, 2**31, 2**32 - 1)
    ),
    *(
        ("uint64", Raw(pack(2**64 - 1)[:size]), f": expected uint64, found {END}")
        for size in range(2, 9)
    ),
]


def map_structs() -> Iterator[Case]:
    """Structs that come as maps: in any order, with other entries, each field once."""
    value = [7, "é", [1, 200]]
    fields = dict(zip(("id", "name", "data"), value))
    four = b"\x84" + pack(fields)[1:]
    for form in (
        {
            "other": [1, {"a": 2}],
            **fields,
            "more": None,
            9: 9,
        },
        {b"name": "é", b"data": b"\x01\xc8", b"id": 7},
        *(
            dict(order)
            for order in itertools.permutations(
                [*fields.items(), ("other", {"id": [1]})]
            )
        ),
        *(Raw(four + pack("other") + extension) for extension, _ in EXTENSIONS),
    ):
        yield Case("struct", payload(form), payload(value))
    for ending in (
        b"\xc1",
        *(
            extension[:size]
            for extension, _ in EXTENSIONS
            for size in range(len(extension))
        ),
    ):
        error = wrong(f"inputs[0]: expected a value, found {END}")
        yield Case("struct", payload(Raw(four + pack("other") + ending)), error)
    for field, kind in (("id", "uint64"), ("name", "string"), ("data", "Bytes")):
        again = pack(field) + pack(fields[field])
        for form, found in (
            (
                {key: value for key, value in fields.items() if key != field},
                f"{kind}, but the field is missing",
            ),
            ({**fields, field: None}, f"{kind}, found nil"),
            (Raw(four + again), "one value, found the field twice"),
            (Raw(b"\x84" + again + four[1:]), "one value, found the field twice"),
        ):
            yield Case(
                "struct", payload(form), wrong(f"inputs[0].{field}: expected {found}")
            )


def nested(depth: int, make: Any) -> Any:
    value: Any = None
    for _ in range(depth):
        value = make(value)
    return value


def any_values() -> Iterator[Case]:
    makers = (
        lambda v: [v],
        lambda v: {"k": v},
        lambda v: [1, {"a": v}, "x"],
        lambda v: {1: [v], 2: 3},
    )
    values = [nested(depth, make) for make in makers for depth in (1, 30, 511)]
    values += [
        None,
        True,
        *NUMBERS,
        *map(float32, FLOATS),
        *DOUBLES,
        *TEXTS,
        list(range(70000)),
        [{}] * 70000,
    ]
    values += [
        {i: str(i) for i in range(70000)},
        [[[]], {}, {"": []}],
        Raw(b"\x91" * MSGPACK_DEPTH_MAX + b"\x01"),
    ]
    for value in values:
        yield Case("any", payload(value), payload(value))
    for several in ([], values[:40], [1] * 70000):
        yield Case("all", payload(*several), payload(*several))
    yield Case("any", payload({"b": b"\x01\xff"}), payload({"b": [1, 255]}))
    error = wrong(
        "inputs[0]"
        + "[0]" * 38
        + "[...]: expected at most 1023 levels, found deeper nesting"
    )
    for deep in (
        b"\x91" * (MSGPACK_DEPTH_MAX + 1),
        b"\x91" * 100_000,
        b"\x91" * MSGPACK_DEPTH_MAX + b"\x90",
    ):
        yield Case("any", payload(Raw(deep + b"\x01")), error)
    yield Case("nil", payload(None), payload(None))
    yield Case(
        "nil", payload([]), wrong("inputs[0]: expected nil, found an array of length 0")
    )


def short_of(count: int, size: int) -> str:
    return (
        f": expected a count of 4 bytes and {count} values, "
        f"found only {size} bytes (truncated)"
    )


def arguments() -> Iterator[Case]:
    """Too few, too many, and payloads that end too early."""
    for task, valid in (*TASKS.items(), ("swap", 5), ("any", 5)):
        first = "nil" if task == "any" else EXPECTED.get(task, task)
        for inputs in (payload(), b"", payload() + b"more"):
            yield Case(
                task,
                inputs,
                wrong(f"inputs[0]: expected {first}, found nothing (0 values given)"),
            )
        for count, size in ((0, 1), (0, 2), (0, 3), (2, 8), (2**32 - 1, 8)):
            text = f"inputs{short_of(count, size)}"
            yield Case(task, struct.pack("<II", count, 0)[:size], wrong(text))
        if task not in ("swap", "any"):
            yield Case(
                task, payload(valid, valid), wrong("inputs: expected 1 value, found 2")
            )
            yield Case(
                task,
                payload(valid, Raw(b"")),
                wrong("inputs: expected 1 value, found 2"),
            )
    yield Case(
        "uint8",
        struct.pack("<II", 1, 2) + b"\x01",
        wrong(f"inputs[0]: expected uint8, found {END}"),
    )
    yield Case(
        "swap",
        payload(5),
        wrong("inputs[1]: expected string, found nothing (1 value given)"),
    )
    yield Case("swap", payload(5, "x", 1), wrong("inputs: expected 2 values, found 3"))
    yield Case(
        "swap", payload(5, 6), wrong("inputs[1]: expected string, found the integer 6")
    )
    yield Case("context", payload(1), wrong("inputs: expected 0 values, found 1"))


def contexts() -> Iterator[Case]:
    top, which = 2**64 - 1, "expected one of Index(), Commit, Cleanup, found"
    for context, outcome in (
        ([1, {"Index": 7}, 3, 4, None], [1, "index", 7, 3, 4]),
        (
            Raw(pack([1, {"Index": 7}, 3, 4, None]) + b"\xc1 more"),
            [1, "index", 7, 3, 4],
        ),
        ([1, "Commit", 3, 4, b"\0\0\0\0\0"], [1, "commit", 0, 3, 4]),
        ([1, "Cleanup", 3, 4, None], [1, "cleanup", 0, 3, 4]),
        ([top, {"Index": top}, top, top, None], [top, "index", top, top, top]),
        (Raw(b""), f": expected an array of length 5, found {END}"),
        (None, ": expected an array of length 5, found nil"),
        (
            [1, 2, 3, 4],
            ": expected an array of length 5, found one of length 4, "
            "as an older Spider sends",
        ),
        (
            [1, "Commit", 3, 4, None, 6],
            ": expected an array of length 5, found one of length 6",
        ),
        ([-1, "Commit", 3, 4, None], ".job_id: expected uint64, found the integer -1"),
        (
            [1, "Commit", "x", 4, None],
            ".task_instance_id: expected uint64, found a string of length 1",
        ),
        (
            [1, "Commit", 3, None, None],
            ".resource_group_id: expected uint64, found nil",
        ),
        ([1, "Index", 3, 4, None], f".task_id: {which} Index without its content"),
        ([1, {2: None}, 3, 4, None], [1, "cleanup", 0, 3, 4]),
        ([1, 1, 3, 4, None], [1, "commit", 0, 3, 4]),
        ([1, "commit", 3, 4, None], f".task_id: {which} the name commit"),
        ([1, None, 3, 4, None], f".task_id: {which} nil"),
        (
            [1, {"Commit": 1}, 3, 4, None],
            f".task_id[value 0]: {which} Commit with content",
        ),
        (
            [1, {"Index": "x"}, 3, 4, None],
            ".task_id.Index: expected uint64, found a string of length 1",
        ),
        ([1, {}, None, 4, None], f".task_id: {which} a map of length 0"),
        (
            [1, {"Index": 7, 5: 6}, None, 4, None],
            f".task_id: {which} a map of length 2",
        ),
        (
            [1, "Commit", 3, 4, "x"],
            ".graph_outputs: expected Bytes, found a string of length 1",
        ),
        (
            [1, "Commit", 3, 4, [1, 256]],
            ".graph_outputs[1]: expected uint8, found the integer 256",
        ),
    ):
        expected = (
            payload(*outcome)
            if isinstance(outcome, list)
            else wrong(f"task.context{outcome}")
        )
        yield Case("context", payload(), expected, packed(context))
    # The inputs of a cleanup task may have no bytes.
    yield Case(
        "context", b"", payload(1, "cleanup", 0, 3, 4), pack([1, "Cleanup", 3, 4, None])
    )


def graph_outputs() -> Iterator[Case]:
    plain, large = (
        payload(1, "é", [1, {"a": None}], 2.5),
        payload("x" * 100_000, *[Raw(b"\xcc\xff")] * 1000),
    )
    for as_bin, buffer, outcome in (
        *(
            (as_bin, outputs + more, outputs)
            for as_bin in (False, True)
            for outputs in (plain, payload(), large)
            for more in (b"", b"more")
        ),
        *(
            (
                False,
                bytes(size),
                short_of(0, size),
            )
            for size in range(4)
        ),
        (
            True,
            b"\2\0\0\0",
            short_of(2, 4),
        ),
        (True, struct.pack("<II", 1, 2) + b"a", f"[0]: expected a value, found {END}"),
    ):
        expected = (
            outcome if isinstance(outcome, bytes) else wrong(f"graph_outputs{outcome}")
        )
        yield Case("graph_outputs", payload(), expected, commit(b"\0" + buffer, as_bin))
    for buffer, found in ((b"", "no bytes"), (b"\2" + plain, "another")):
        expected = "expected a first byte of 0 (plain) or 1 (zstd)"
        text = f"graph_outputs: {expected}, found {found}"
        yield Case("graph_outputs", payload(), wrong(text), commit(buffer))
    none = TdlError(
        "InvalidTaskContext",
        "graph_outputs: only a commit task has graph outputs",
    )
    for task_id in ({"Index": 2}, "Cleanup", "Commit"):
        yield Case("graph_outputs", payload(), none, pack([1, task_id, 3, 4, None]))
    # A commit task that does not look at them does not mind.
    yield Case("uint8", payload(7), payload(7), commit(b"\2damaged"))


def failures() -> Iterator[Case]:
    for number, kind in enumerate(TDL_ERROR_KINDS):
        for text in (
            "",
            "é",
            "100 %s %n",
            *("x" * size for size in (31, 32, 255, 256, 4095)),
        ):
            yield Case("fail", payload(number, text), TdlError(kind, text))
    yield Case("fail", payload(6, "x"), payload("x"))
    for name in ("", "Int8", "int8 ", "int", "int88", "é", "a\0b", "x" * 70_000):
        yield Case(name, payload(1), TdlError("TaskNotFound", name))
    yield Case(
        "\udcff", payload(1), TdlError("TaskNotFound", "?")
    )  # a name that no executor sends


MAKERS = (
    scalars,
    utf8,
    containers,
    map_structs,
    any_values,
    arguments,
    contexts,
    graph_outputs,
    failures,
)


@functools.lru_cache(maxsize=None)
def cases_of(make: Callable[[], Iterator[Case]]) -> list[Case]:
    return list(make())


def all_cases(largest: int = 2**32) -> list[Case]:
    """Those whose inputs have at most so many bytes."""
    return [
        case
        for make in MAKERS
        for case in cases_of(make)
        if len(case.inputs) <= largest
    ]
