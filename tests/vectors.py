"""Golden vectors: values, and the bytes that Spider's own encoders write for them (bincode 1.3, rmp-serde 1.3).

The bytes are hexadecimal. Spaces part the fields and mean nothing.
"""

from math import inf

from protocol import (
    Execute,
    ExecutorError,
    Failure,
    Result,
    Shutdown,
    Success,
    TaskContext,
    TdlError,
)

U64_MAX = 2**64 - 1


def vectors(*pairs):
    return [(value, bytes.fromhex(text)) for value, text in pairs]


REQUESTS = vectors(
    (Shutdown(), "01000000"),
    (
        Execute("", "", b"", b""),
        "00000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000",
    ),
    (
        Execute("p", "t", b"\xc0", b""),
        "00000000 0100000000000000 70 0100000000000000 74 0100000000000000 c0 0000000000000000",
    ),
    (
        Execute("é", "🕷\0", b"\x00\xff", bytes(4)),
        "00000000 0200000000000000 c3a9 0500000000000000 f09f95b700 0200000000000000 00ff 0400000000000000 00000000",
    ),
)

RESPONSES = vectors(
    (Result(Success(b""), 7), "00000000 00000000 0000000000000000 0700000000000000"),
    (
        Result(Success(bytes(4)), 256),
        "00000000 00000000 0400000000000000 00000000 0001000000000000",
    ),
    (
        Result(Failure(b""), U64_MAX),
        "00000000 01000000 0000000000000000 ffffffffffffffff",
    ),
    (
        Result(
            Failure(
                bytes.fromhex(
                    "81a95461736b4572726f7281ae457865637574696f6e4572726f72a178"
                )
            ),
            9,
        ),
        "00000000 01000000 1d00000000000000"
        "81 a9 5461736b4572726f72 81 ae 457865637574696f6e4572726f72 a1 78 0900000000000000",
    ),
)

# A body, and the frame around it.
FRAMES = vectors(
    (b"", "00000000"),
    (bytes(range(7)), "00000007 00010203040506"),
    (
        REQUESTS[2][1],
        "00000027 00000000 0100000000000000 70 0100000000000000 74 0100000000000000 c0 0000000000000000",
    ),
    (RESPONSES[0][1], "00000018 00000000 00000000 0000000000000000 0700000000000000"),
)

PAYLOADS = vectors(
    ([], "00000000"),
    ([b""], "01000000 00000000"),
    (
        [b"\xcd\x01\x2c", b"\x0a", b"\xa2\xc3\xa9"],
        "03000000 03000000 cd012c 01000000 0a 03000000 a2c3a9",
    ),
)

# Only written.
CONTEXTS = vectors(
    (TaskContext(), "95 00 81 a5 496e646578 00 00 00 c0"),
    (TaskContext(1, 2, 3, 4), "95 01 81 a5 496e646578 02 03 04 c0"),
    (
        TaskContext(*[U64_MAX] * 4),
        "95 cf{0} 81 a5 496e646578 cf{0} cf{0} cf{0} c0".format("ff" * 8),
    ),
    (TaskContext(1, "Cleanup", 3, 4), "95 01 a7 436c65616e7570 03 04 c0"),
    (TaskContext(1, "Commit", 3, 4, b""), "95 01 a6 436f6d6d6974 03 04 90"),
    (
        # The graph's outputs are 5 and -5. The last byte of the buffer is fb, as an integer cc fb.
        TaskContext(
            1, "Commit", 3, 4, bytes.fromhex("00 02000000 01000000 05 01000000 fb")
        ),
        "95 01 a6 436f6d6d6974 03 04 9f 00 02000000 01000000 05 01000000 ccfb",
    ),
)

TDL_ERRORS = vectors(
    (TdlError("TaskNotFound", ""), "81 ac 5461736b4e6f74466f756e64 a0"),
    (
        TdlError("DeserializationError", "x"),
        "81 b4 446573657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (
        TdlError("SerializationError", "x"),
        "81 b2 53657269616c697a6174696f6e4572726f72 a1 78",
    ),
    (
        TdlError("ExecutionError", "日🕷"),
        "81 ae 457865637574696f6e4572726f72 a7 e697a5f09f95b7",
    ),
    (
        TdlError("InvalidTaskContext", 'a\n\0"'),
        "81 b2 496e76616c69645461736b436f6e74657874 a4 610a0022",
    ),
    (TdlError("Custom", "x" * 256), "81 a6 437573746f6d da0100" + "78" * 256),
)

EXECUTOR_ERRORS = vectors(
    (
        ExecutorError("InvalidLibrary", "日🕷"),
        "81 ae 496e76616c69644c696272617279 a7 e697a5f09f95b7",
    ),
    (
        ExecutorError("IncompatibleVersion", (0, 2, 127, 128, 65536, 2**32 - 1)),
        "81 b3 496e636f6d70617469626c6556657273696f6e 96 00 02 7f cc80 ce00010000 ceffffffff",
    ),
    (
        ExecutorError("DuplicatePackage", ""),
        "81 b0 4475706c69636174655061636b616765 a0",
    ),
    (ExecutorError("InvalidUtf8", "x"), "81 ab 496e76616c696455746638 a1 78"),
    (
        ExecutorError("TaskError", TdlError("ExecutionError", "x")),
        "81 a9 5461736b4572726f72 81 ae 457865637574696f6e4572726f72 a1 78",
    ),
    (
        ExecutorError("PackageInitError", TdlError("Custom", "x")),
        "81 b0 5061636b616765496e69744572726f72 81 a6 437573746f6d a1 78",
    ),
    (
        ExecutorError("ErrorPayloadDeserializationFailure", "x"),
        "81 d922 4572726f725061796c6f6164446573657269616c697a6174696f6e4661696c757265 a1 78",
    ),
)

VALUES = vectors(
    (None, "c0"),
    (False, "c2"),
    (True, "c3"),
    (0, "00"),
    (127, "7f"),
    (128, "cc80"),
    (255, "ccff"),
    (256, "cd0100"),
    (65535, "cdffff"),
    (65536, "ce00010000"),
    (2**32 - 1, "ceffffffff"),
    (2**32, "cf0000000100000000"),
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
    (-1.5, "cbbff8000000000000"),
    (0.1, "cb3fb999999999999a"),
    (inf, "cb7ff0000000000000"),
    ("", "a0"),
    ("日🕷\0", "a8 e697a5f09f95b700"),
    ("x" * 31, "bf" + "78" * 31),
    ("é" * 16, "d920" + "c3a9" * 16),
    ("x" * 255, "d9ff" + "78" * 255),
    ("x" * 256, "da0100" + "78" * 256),
    (b"", "c400"),
    (bytes(255), "c4ff" + "00" * 255),
    (bytes(256), "c50100" + "00" * 256),
    ([], "90"),
    ([True] * 15, "9f" + "c3" * 15),
    ([True] * 16, "dc0010" + "c3" * 16),
    ([[[[]], []], [[[1]]]], "92 92 91 90 90 91 91 91 01"),
    ([1, "a", True, None, 2.5, {}], "96 01 a161 c3 c0 cb4004000000000000 80"),
    ({0: 0}, "81 00 00"),
    ({"Struct": [-200, [1, 200]]}, "81 a6 537472756374 92 d1ff38 92 01 ccc8"),
    (
        {n: [n] for n in range(15)},
        "8f" + "".join(f"{n:02x} 91 {n:02x}" for n in range(15)),
    ),
    (
        {n: [n] for n in range(16)},
        "de0010" + "".join(f"{n:02x} 91 {n:02x}" for n in range(16)),
    ),
)
