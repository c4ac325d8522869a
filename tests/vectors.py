"""Golden vectors: values, and the bytes that Spider's own encoders write for them (bincode 1.3, rmp-serde 1.3).

Errors are written as in the contract: TaskError(ExecutionError("x")). Blanks between hexadecimal digits mean nothing.
"""

from __future__ import annotations

from functools import partial
from math import inf

import protocol
from protocol import Execute, Failure, Result, Shutdown, Success, TaskContext


def kind(error_type, name):
    """What makes an error of this kind from its content."""
    return getattr(protocol, name, None) or partial(error_type, name)


TaskNotFound = kind(protocol.TdlError, "TaskNotFound")
DeserializationError = kind(protocol.TdlError, "DeserializationError")
SerializationError = kind(protocol.TdlError, "SerializationError")
ExecutionError = kind(protocol.TdlError, "ExecutionError")
InvalidTaskContext = kind(protocol.TdlError, "InvalidTaskContext")
Custom = kind(protocol.TdlError, "Custom")

InvalidLibrary = kind(protocol.ExecutorError, "InvalidLibrary")
DuplicatePackage = kind(protocol.ExecutorError, "DuplicatePackage")
InvalidUtf8 = kind(protocol.ExecutorError, "InvalidUtf8")
TaskError = kind(protocol.ExecutorError, "TaskError")
PackageInitError = kind(protocol.ExecutorError, "PackageInitError")
ErrorPayloadDeserializationFailure = kind(protocol.ExecutorError, "ErrorPayloadDeserializationFailure")


def IncompatibleVersion(*numbers):
    if hasattr(protocol, "IncompatibleVersion"):
        return protocol.IncompatibleVersion(numbers[:3], numbers[3:])
    return protocol.ExecutorError("IncompatibleVersion", numbers)


U64_MAX = 2**64 - 1


def vectors(*pairs):
    return [(value, bytes.fromhex(text)) for value, text in pairs]


# Whole frames: the first two examples of the contract.
REQUEST_FRAME = (
    Execute("p", "t", b"\xc0", b""),
    bytes.fromhex("00000027 00000000 0100000000000000 70 0100000000000000 74 0100000000000000 c0 0000000000000000"),
)
RESPONSE_FRAME = (
    Result(Success(b""), 7),
    bytes.fromhex("00000018 00000000 00000000 0000000000000000 0700000000000000"),
)

FRAMES = vectors(
    (b"", "00000000"),
    (b"\x01\x00\x00\x00", "00000004 01000000"),
    (bytes(range(7)), "00000007 00010203040506"),
)

REQUESTS = vectors(
    (Shutdown(), "01000000"),
    (Execute("", "", b"", b""), "00000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000"),
    (
        Execute("p", "t", b"\xc0", b""),
        "00000000 0100000000000000 70 0100000000000000 74 0100000000000000 c0 0000000000000000",
    ),
    (
        Execute("pkg", "", b"", bytes(4)),
        "00000000 0300000000000000 706b67 0000000000000000 0000000000000000 0400000000000000 00000000",
    ),
    (
        Execute("pâté", "ñ::日本🕷", b"\x00\xff", b"\x80"),
        "00000000 0600000000000000 70c3a274c3a9 0e00000000000000 c3b13a3ae697a5e69cacf09f95b7"
        "0200000000000000 00ff 0100000000000000 80",
    ),
    (
        Execute("a\0b", "\0", b"", b""),
        "00000000 0300000000000000 610062 0100000000000000 00 0000000000000000 0000000000000000",
    ),
    (
        Execute(
            "integration_test_tasks",
            "fibonacci",
            TaskContext(1, 2, 3, 4).encode(),
            b"\x01\x00\x00\x00\x01\x00\x00\x00\x0a",
        ),
        "00000000 1600000000000000 696e746567726174696f6e5f746573745f7461736b73 0900000000000000 6669626f6e61636369"
        "0d00000000000000 950181a5496e646578020304c0 0900000000000000 01000000010000000a",
    ),
)

RESPONSES = vectors(
    (Result(Success(b""), 0), "00000000 00000000 0000000000000000 0000000000000000"),
    (Result(Success(b""), 7), "00000000 00000000 0000000000000000 0700000000000000"),
    (Result(Success(b""), 256), "00000000 00000000 0000000000000000 0001000000000000"),
    (Result(Success(b""), U64_MAX), "00000000 00000000 0000000000000000 ffffffffffffffff"),
    (Result(Success(bytes(4)), 42), "00000000 00000000 0400000000000000 00000000 2a00000000000000"),
    (Result(Failure(b""), 0), "00000000 01000000 0000000000000000 0000000000000000"),
    (
        Result(Failure(TaskError(ExecutionError("x")).encode()), 9),
        "00000000 01000000 1d00000000000000"
        "81 a9 5461736b4572726f72 81 ae 457865637574696f6e4572726f72 a1 78 0900000000000000",
    ),
)

TDL_ERRORS = vectors(
    (TaskNotFound(""), "81 ac 5461736b4e6f74466f756e64 a0"),
    (TaskNotFound("x"), "81 ac 5461736b4e6f74466f756e64 a1 78"),
    (DeserializationError("x"), "81 b4 446573657269616c697a6174696f6e4572726f72 a1 78"),
    (SerializationError("x"), "81 b2 53657269616c697a6174696f6e4572726f72 a1 78"),
    (ExecutionError("échec 日本 🕷"), "81 ae 457865637574696f6e4572726f72 b2 c3a96368656320e697a5e69cac20f09f95b7"),
    (InvalidTaskContext('a\n\0"b'), "81 b2 496e76616c69645461736b436f6e74657874 a5 610a002262"),
    (Custom("x" * 31), "81 a6 437573746f6d bf" + "78" * 31),
    (Custom("x" * 32), "81 a6 437573746f6d d920" + "78" * 32),
    (Custom("x" * 255), "81 a6 437573746f6d d9ff" + "78" * 255),
    (Custom("x" * 256), "81 a6 437573746f6d da0100" + "78" * 256),
)

EXECUTOR_ERRORS = vectors(
    (InvalidLibrary("x"), "81 ae 496e76616c69644c696272617279 a1 78"),
    (InvalidLibrary("échec 日本 🕷"), "81 ae 496e76616c69644c696272617279 b2 c3a96368656320e697a5e69cac20f09f95b7"),
    (IncompatibleVersion(0, 2, 0, 0, 1, 0), "81 b3 496e636f6d70617469626c6556657273696f6e 96 000200 000100"),
    (IncompatibleVersion(1, 0, 0, 0, 1, 0), "81 b3 496e636f6d70617469626c6556657273696f6e 96 010000 000100"),
    (
        IncompatibleVersion(127, 128, 255, 256, 65535, 65536),
        "81 b3 496e636f6d70617469626c6556657273696f6e 96 7f cc80 ccff cd0100 cdffff ce00010000",
    ),
    (
        IncompatibleVersion(*[2**32 - 1] * 6),
        "81 b3 496e636f6d70617469626c6556657273696f6e 96" + "ceffffffff" * 6,
    ),
    (DuplicatePackage(""), "81 b0 4475706c69636174655061636b616765 a0"),
    (DuplicatePackage("x"), "81 b0 4475706c69636174655061636b616765 a1 78"),
    (InvalidUtf8("x"), "81 ab 496e76616c696455746638 a1 78"),
    (TaskError(TaskNotFound("x")), "81 a9 5461736b4572726f72 81 ac 5461736b4e6f74466f756e64 a1 78"),
    (
        TaskError(DeserializationError("x")),
        "81 a9 5461736b4572726f72 81 b4 446573657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (
        TaskError(SerializationError("x")),
        "81 a9 5461736b4572726f72 81 b2 53657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (TaskError(ExecutionError("x")), "81 a9 5461736b4572726f72 81 ae 457865637574696f6e4572726f72 a1 78"),
    (TaskError(InvalidTaskContext("x")), "81 a9 5461736b4572726f72 81 b2 496e76616c69645461736b436f6e74657874 a1 78"),
    (TaskError(Custom("x")), "81 a9 5461736b4572726f72 81 a6 437573746f6d a1 78"),
    (
        PackageInitError(TaskNotFound("x")),
        "81 b0 5061636b616765496e69744572726f72 81 ac 5461736b4e6f74466f756e64 a1 78",
    ),
    (
        PackageInitError(DeserializationError("x")),
        "81 b0 5061636b616765496e69744572726f72 81 b4 446573657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (
        PackageInitError(SerializationError("x")),
        "81 b0 5061636b616765496e69744572726f72 81 b2 53657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (
        PackageInitError(ExecutionError("x")),
        "81 b0 5061636b616765496e69744572726f72 81 ae 457865637574696f6e4572726f72 a1 78",
    ),
    (
        PackageInitError(InvalidTaskContext("x")),
        "81 b0 5061636b616765496e69744572726f72 81 b2 496e76616c69645461736b436f6e74657874 a1 78",
    ),
    (PackageInitError(Custom("x")), "81 b0 5061636b616765496e69744572726f72 81 a6 437573746f6d a1 78"),
    (
        ErrorPayloadDeserializationFailure("x"),
        "81 d922 4572726f725061796c6f6164446573657269616c697a6174696f6e4661696c757265 a1 78",
    ),
)

CONTEXTS = vectors(
    (TaskContext(), "95 00 81 a5 496e646578 00 00 00 c0"),
    (TaskContext(1, 2, 3, 4), "95 01 81 a5 496e646578 02 03 04 c0"),
    (TaskContext(1, 128, 3, 4), "95 01 81 a5 496e646578 cc80 03 04 c0"),
    (
        TaskContext(U64_MAX, U64_MAX, U64_MAX, U64_MAX),
        "95 cf{0} 81 a5 496e646578 cf{0} cf{0} cf{0} c0".format("ff" * 8),
    ),
    (TaskContext(1, "Cleanup", 3, 4), "95 01 a7 436c65616e7570 03 04 c0"),
    (TaskContext(1, "Commit", 3, 4), "95 01 a6 436f6d6d6974 03 04 c0"),
    (TaskContext(1, "Commit", 3, 4, b""), "95 01 a6 436f6d6d6974 03 04 90"),
    (TaskContext(1, "Commit", 3, 4, bytes(5)), "95 01 a6 436f6d6d6974 03 04 95 0000000000"),
    (
        # The graph's outputs are 5 and -5; the last byte of the buffer is fb, as an integer cc fb.
        TaskContext(1, "Commit", 3, 4, bytes.fromhex("00 02000000 01000000 05 01000000 fb")),
        "95 01 a6 436f6d6d6974 03 04 9f 00 02000000 01000000 05 01000000 ccfb",
    ),
    (
        TaskContext(1, "Commit", 3, 4, bytes.fromhex("0128b52ffd0058490000010000000100000000")),
        "95 01 a6 436f6d6d6974 03 04 dc0013 01 28 ccb5 2f ccfd 0058490000010000000100000000",
    ),
)

PAYLOADS = vectors(
    ([], "00000000"),
    ([b"\x0a"], "01000000 01000000 0a"),
    ([b""], "01000000 00000000"),
    (
        [b"\xcd\x01\x2c", b"\xa2\xc3\xa9", bytes.fromhex("92 cb3ff8000000000000 cb8000000000000000")],
        "03000000 03000000 cd012c 03000000 a2c3a9 13000000 92 cb3ff8000000000000 cb8000000000000000",
    ),
)

# Read only. These are what rmp-serde writes for an f32.
READ_ONLY = vectors(
    (1.5, "ca3fc00000"),
    (-inf, "caff800000"),
    (0.10000000149011612, "ca3dcccccd"),
)

# Read and written.
VALUES = vectors(
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (0, "00"),
    (1, "01"),
    (127, "7f"),
    (128, "cc80"),
    (255, "ccff"),
    (256, "cd0100"),
    (32767, "cd7fff"),
    (32768, "cd8000"),
    (65535, "cdffff"),
    (65536, "ce00010000"),
    (2**31 - 1, "ce7fffffff"),
    (2**31, "ce80000000"),
    (2**32 - 1, "ceffffffff"),
    (2**32, "cf0000000100000000"),
    (2**63 - 1, "cf7fffffffffffffff"),
    (2**63, "cf8000000000000000"),
    (U64_MAX, "cfffffffffffffffff"),
    (-1, "ff"),
    (-32, "e0"),
    (-33, "d0df"),
    (-128, "d080"),
    (-129, "d1ff7f"),
    (-32768, "d18000"),
    (-32769, "d2ffff7fff"),
    (-(2**31), "d280000000"),
    (-(2**31) - 1, "d3ffffffff7fffffff"),
    (-(2**63), "d38000000000000000"),
    (0.0, "cb0000000000000000"),
    (1.0, "cb3ff0000000000000"),
    (-1.5, "cbbff8000000000000"),
    (0.1, "cb3fb999999999999a"),
    (inf, "cb7ff0000000000000"),
    (-inf, "cbfff0000000000000"),
    (1.7976931348623157e308, "cb7fefffffffffffff"),
    (5e-324, "cb0000000000000001"),
    ("", "a0"),
    ("x", "a178"),
    ("é", "a2c3a9"),
    ("日本🕷\0", "ab e697a5e69cacf09f95b700"),
    ("x" * 31, "bf" + "78" * 31),
    ("x" * 32, "d920" + "78" * 32),
    ("é" * 16, "d920" + "c3a9" * 16),
    ("x" * 255, "d9ff" + "78" * 255),
    ("x" * 256, "da0100" + "78" * 256),
    (b"", "c400"),
    (b"\x00", "c40100"),
    (bytes(range(255)), "c4ff" + bytes(range(255)).hex()),
    (bytes(range(256)), "c50100" + bytes(range(256)).hex()),
    ([], "90"),
    ([0], "9100"),
    (list(range(15)), "9f000102030405060708090a0b0c0d0e"),
    (list(range(16)), "dc0010000102030405060708090a0b0c0d0e0f"),
    ([[[[]], []], [[[1]]]], "929291909091919101"),
    ([1, "a", True, None, 2.5], "9501a161c3c0cb4004000000000000"),
    ({}, "80"),
    ({0: 0}, "810000"),
    ({"Newtype": 300}, "81a74e657774797065cd012c"),
    ({"Struct": [-200, [1, 200]]}, "81a653747275637492d1ff389201ccc8"),
    ({n: n * n for n in range(15)}, "8f00000101020403090410051906240731084009510a640b790ccc900dcca90eccc4"),
    ({n: n * n for n in range(16)}, "de001000000101020403090410051906240731084009510a640b790ccc900dcca90eccc40fcce1"),
)
