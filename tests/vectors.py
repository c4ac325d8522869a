"""Golden vectors: bytes, and what they mean.

Rows of values become `(name, bytes, value)`. Spider's own encoders (bincode 1.3,
rmp-serde 1.3) write these bytes for these values. The plain tables (VALUES, TDL_ERRORS,
...) are written and read, READ_... is only read, and PACKED_VALUES is only written.
VALUES and FIXED_VALUES are msgpack in its shortest form, READ_VALUES in other forms.

Rows of malformed bytes (NOT_...) become `(name, bytes, text, offset)`: what the error
says was expected and found, and where. A text that does not say what was found belongs
to a TruncatedError, whose input ended.

Names are unique in a table. Bytes are written as in `hexed`.
"""

import collections
import enum

from helpers.rows import lines

import protocol
from protocol import EXECUTOR_ERROR_VARIANTS, TDL_ERROR_VARIANTS, TaskContext


def hexed(text):
    """Return the bytes in groups such as 81 (hexadecimal), 'Custom' or 00*7."""
    data = b""
    for group in text.split():
        part, _, times = group.partition("*")
        one = part.strip("'").encode() if "'" in part else bytes.fromhex(part)
        data += one * int(times or 1)
    return data


def golden(table):
    """Read lines of name | bytes | the value in Python."""
    names = {**vars(protocol), **globals(), "inf": float("inf"), "nan": float("nan")}
    cells = lines(table).items()
    return [(name, hexed(data), eval(value, names)) for name, (data, value) in cells]


def malformed(table):
    """Read lines of name | offset | bytes | text."""
    cells = lines(table).items()
    return [(name, hexed(data), text, int(at)) for name, (at, data, text) in cells]


# ---------------------------------------------------------------------------- requests

REQUESTS = golden(r"""
shutdown | 01000000                           | Shutdown()
empty    | 00*4 00*8 00*8 00*8 00*8           | Execute("", "", b"", b"")
nil      | 00*4 01 00*7 'p' 01 00*7 't' 01 00*7 c0 00*8
    | Execute("p", "t", b"\xc0", b"")
utf-8    | 00*4 02 00*7 c3a9 05 00*7 f09f95b700 02 00*7 00ff 04 00*7 00*4
    | Execute("é", "🕷\0", b"\x00\xff", bytes(4))
""")
NOT_REQUESTS = malformed("""
no tag       |  0 |                                    | a request tag (4 bytes)
tag cut      |  0 | 000000                             | a request tag (4 bytes)
tag 2      |  0 | 02000000 | a request tag, 0 (Execute) or 1 (Shutdown), found tag 2
swapped | 0 | 00*3 01 | a request tag, 0 (Execute) or 1 (Shutdown), found tag 16777216
length cut   |  4 | 00*4 01 00*6                       | the length of package (8 bytes)
package      | 12 | 00*4 02 00*7 'p'                   | package of 2 bytes
package 2^64 | 12 | 00*4 ff*8 00*16              | package of 18446744073709551615 bytes
no task      | 13 | 00*4 01 00*7 'p' 01              | the length of task_func (8 bytes)
task cut     | 21 | 00*4 01 00*7 'p' 03 00*7 't'       | task_func of 3 bytes
no raw_ctx   | 20 | 00*4 00*16                         | the length of raw_ctx (8 bytes)
raw_ctx 2^63 | 28 | 00*4 00*16 02 00*6 80 00      | raw_ctx of 9223372036854775810 bytes
no inputs    | 28 | 00*4 00*24 00                   | the length of raw_inputs (8 bytes)
inputs cut   | 36 | 00*4 00*24 01 00*7                 | raw_inputs of 1 bytes
package ff   | 12 | 00*4 01 00*7 ff 00*24              | package in UTF-8, found byte ff
package c0   | 13 | 00*4 02 00*7 61c0 01 00*7 c0 00*16 | package in UTF-8, found byte c0
surrogate    | 22 | 00*4 00*8 04 00*7 7474eda0 00*16 | task_func in UTF-8, found byte ed
text cut     | 21 | 00*4 00*8 03 00*7 74e697 00*16   | task_func in UTF-8, found byte e6
""")

# --------------------------------------------------------------------------- responses

RESPONSES = golden(r"""
empty    | 00*4 00*4 00*8 07 00*7             | Result(Success(b""), 7)
payload  | 00*4 00*4 04 00*7 00*4 0001 00*6   | Result(Success(bytes(4)), 256)
no error | 00*4 01000000 00*8 ff*8            | Result(Failure(b""), 2**64 - 1)
error    | 00*4 01000000 1d 00*7 81 a9 'TaskError' 81 ae 'ExecutionError' a1 'x' 09 00*7
    | Result(Failure(hexed("81 a9 'TaskError' 81 ae 'ExecutionError' a1 'x'")), 9)
""")
NOT_RESPONSES = malformed("""
no tag     |  0 |                             | a response tag (4 bytes)
tag 1      |  0 | 01000000 00*16              | a response tag, 0 (Result), found tag 1
no outcome |  4 | 00*4                        | an outcome tag (4 bytes)
outcome 2  |  4 | 00*4 02 00*3 | an outcome tag, 0 (Success) or 1 (Failure), found tag 2
length cut |  8 | 00*4 00*4 00*7              | the length of outputs (8 bytes)
error cut  |  8 | 00*4 01000000 00*7          | the length of error (8 bytes)
outputs    | 16 | 00*4 00*4 02 00*7 00        | outputs of 2 bytes
error 2^64 | 16 | 00*4 01000000 ff*8 00*8     | error of 18446744073709551615 bytes
elapsed    | 17 | 00*4 00*4 01 00*7 aa 000000 | elapsed_us (8 bytes)
no elapsed | 24 | 00*4 01000000 08 00*7 00*8  | elapsed_us (8 bytes)
""")

# ------------------------------------------------------------------------------ frames

FRAMES = golden(r"""
empty       | 00000000                | b""
seven bytes | 00000007 00010203040506 | bytes(range(7))
256 bytes   | 00000100 'x'*256        | b"x" * 256
""")
NOT_FRAMES = malformed("""
header cut | 0 | 000000      | a frame header (4 bytes)
body cut   | 4 | 00800000 00 | a frame body of 8388608 bytes
""")

# ---------------------------------------------------------------------------- payloads

PAYLOADS = golden(r"""
no value     | 00000000                           | []
empty value  | 01000000 00000000                  | [b""]
three values | 03000000 03000000 cd012c 01000000 0a 03000000 a2c3a9
    | [b"\xcd\x01\x2c", b"\x0a", b"\xa2\xc3\xa9"]
""")
NOT_PAYLOADS = malformed("""
count cut     | 0 | 000000                    | a payload count (4 bytes)
length cut    | 9 | 02000000 01000000 c0 0000 | the length of value 1 (4 bytes)
value cut     | 8 | 01000000 02000000 c0      | value 0 of 2 bytes
value of 4 GB | 8 | 01000000 ffffffff c0      | value 0 of 4294967295 bytes
big-endian    | 9 | 00000001 01000000 c0      | the length of value 1 (4 bytes)
""")

# ----------------------------------------------------------------------------- msgpack


def pairs(count):
    """Return {0: 1, 2: 3, 4: 5} and so on."""
    return {2 * n: 2 * n + 1 for n in range(count)}


FIXED_VALUES = [
    *((f"fixint {n}", bytes((n,)), n) for n in range(128)),
    *((f"fixint {n}", bytes((n + 256,)), n) for n in range(-32, 0)),
    *((f"fixstr {n}", bytes((0xA0 + n,)) + b"z" * n, "z" * n) for n in range(32)),
    *((f"fixarray {n}", bytes((0x90 + n, *range(n))), [*range(n)]) for n in range(16)),
    *((f"fixmap {n}", bytes((0x80 + n, *range(2 * n))), pairs(n)) for n in range(16)),
]
VALUES = golden(r"""
nil                 | c0                                 | None
false               | c2                                 | False
true                | c3                                 | True
2^7                 | cc 80                              | 128
2^8 - 1             | cc ff                              | 255
2^8                 | cd 0100                            | 256
2^16 - 1            | cd ffff                            | 65535
2^16                | ce 00010000                        | 65536
2^32 - 1            | ce ffffffff                        | 2**32 - 1
2^32                | cf 0000000100000000                | 2**32
2^64 - 1            | cf ffffffffffffffff                | 2**64 - 1
-33                 | d0 df                              | -33
-2^7                | d0 80                              | -128
-2^7 - 1            | d1 ff7f                            | -129
-2^15               | d1 8000                            | -32768
-2^15 - 1           | d2 ffff7fff                        | -32769
-2^31               | d2 80000000                        | -2147483648
-2^31 - 1           | d3 ffffffff7fffffff                | -2147483649
-2^63               | d3 8000000000000000                | -(2**63)
0.0                 | cb 0000000000000000                | 0.0
-0.0                | cb 8000000000000000                | -0.0
-1.5                | cb bff8000000000000                | -1.5
0.1                 | cb 3fb999999999999a                | 0.1
smallest float      | cb 0000000000000001                | 5e-324
infinity            | cb 7ff0000000000000                | inf
nan                 | cb 7ff8000000000000                | nan
utf-8               | a8 e697a5f09f95b700                | "日🕷\0"
str of 32 bytes     | d9 20 c3a9*16                      | "é" * 16
str of 255 bytes    | d9 ff 'x'*255                      | "x" * 255
str of 256 bytes    | da 0100 'x'*256                    | "x" * 256
empty bin           | c4 00                              | b""
bin of 255 bytes    | c4 ff 00*255                       | bytes(255)
bin of 256 bytes    | c5 0100 00*256                     | bytes(256)
array of 16         | dc 0010 c3*16                      | [True] * 16
map of 16           | de 0010 000102030405060708090a0b0c0d0e0f
    101112131415161718191a1b1c1d1e1f
    | pairs(16)
nested arrays       | 92 92 91 90 90 91 91 91 01         | [[[[]], []], [[[1]]]]
each kind           | 95 01 a1 'a' c3 c0 cb 40 00*7      | [1, "a", True, None, 2.0]
variant             | 81 a1 'S' 92 d1ff38 92 01 ccc8     | {"S": [-200, [1, 200]]}
empty values        | 95 a0 c400 90 80 c0                | ["", b"", [], {}, None]
map of empty values | 83 a0 90 01 a0 c400 c0             | {"": [], 1: "", b"": None}
array as key        | 82 92 07 ccff 01 90 02             | {(7, 255): 1, (): 2}
nested keys         | 82 91 92 01 90 c0 c0 91 00 | {((1, ()),): None, None: [0]}
other keys          | 86 c0 01 c3 02 d0df 03 a1 'k' 04 c401 'j' 05 cb 3ff8 00*6 06
    | {None: 1, True: 2, -33: 3, "k": 4, b"j": 5, 1.5: 6}
""")
READ_VALUES = golden(r"""
bin 16                | c5 0002 00ff                       | b"\x00\xff"
bin 32                | c6 00000002 00ff                   | b"\x00\xff"
float 32              | ca bfc00000                        | -1.5
float 32 of 0.1       | ca 3dcccccd                        | 0.10000000149011612
float 32 of nan       | ca 7fc00000                        | nan
float 32 of -infinity | ca ff800000                        | -inf
uint 8                | cc 05                              | 5
uint 16               | cd 00fe                            | 0xFE
uint 32               | ce 0000fe01                        | 0xFE01
uint 64               | cf 00000000fe010203                | 0xFE010203
int 8                 | d0 05                              | 5
int 16                | d1 fffe                            | -2
int 32                | d2 fffffe01                        | -0x1FF
int 64                | d3 fffffffffe010203                | -0x1FEFDFD
str 8                 | d9 02 c3a9                         | "é"
str 16                | da 0002 c3a9                       | "é"
str 32                | db 00000002 c3a9                   | "é"
array 16              | dc 0002 0102                       | [1, 2]
array 32              | dd 00000002 0102                   | [1, 2]
map 16                | de 0001 a16b01                     | {"k": 1}
map 32                | df 00000001 a16b01                 | {"k": 1}
empty                 | 94 db 00*4 c6 00*4 dd 00*4 df 00*4 | ["", b"", [], {}]
equal keys            | 84 a16b 01 a16a 02 a16b 03 a16a 04 | {"k": 3, "j": 4}
1 == true             | 82 01 a0 c3 a178                   | {1: "x"}
""")


class _Number(enum.IntEnum):
    MANY = 300


class _Flag(enum.IntFlag):
    ALL = 255


class _Text(str, enum.Enum):
    A = "a"


_Float64 = type("float64", (float,), {"__repr__": lambda self: "np.float64(1.5)"})
_Bytes = type("bytes_", (bytes,), {})
_Pair = collections.namedtuple("_Pair", "x y")
PACKED_VALUES = golden(r"""
tuple                     | 92 01 92 02 03         | (1, (2, 3))
bytearray                 | c4 02 'ab'             | bytearray(b"ab")
empty tuple and bytearray | 92 90 c400             | [(), bytearray()]
true is not 1             | 94 c3 01 c2 00         | [True, 1, False, 0]
int enum                  | 92 cd012c ccff         | [_Number.MANY, _Flag.ALL]
str enum                  | 82 a1 'a' 01 01 a1 'a' | {_Text.A: 1, 1: _Text.A}
float subclass            | cb 3ff8 00*6           | _Float64(1.5)
bytes subclass            | c4 01 'a'              | _Bytes(b"a")
named tuple               | 92 01 a1 'a'           | _Pair(1, "a")
named tuple as key        | 81 92 01 02 03         | {_Pair(1, 2): 3}
ordered dict              | 82 a1 'b' 01 a1 'a' 02 | collections.OrderedDict(b=1, a=2)
default dict              | 81 01 90
    | collections.defaultdict(list, {1: []})
""")

MARKER = "nil, bool, a number, str, bin, array or map, found marker"
UNKNOWN_MARKERS = (0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8)
NOT_VALUES = malformed("""
nothing      | 0 |                      | a msgpack value
number cut   | 1 | cd 01                | the number after a marker (2 bytes)
str cut      | 2 | d9 05 61616161       | str of 5 bytes
bin of 4 GB  | 5 | c6 ffffffff 00       | bin of 4294967295 bytes
array cut    | 1 | 92 c0                | array of 2 items
array + c1   | 5 | dd 00000005 c0c1c0c0 | array of 5 items
map + c1     | 1 | 83 00010001c1        | map of 3 entries
map of 2^31  | 5 | df 80000000 00       | map of 2147483648 entries
text cut     | 1 | a3 e282ff            | str in UTF-8, found byte e2
surrogate    | 4 | 92 00 a3 61eda080    | str in UTF-8, found byte ed
map as key   | 1 | 81 81 00 00 00  | a map key that is not a map, found map of 1 entries
in a key     | 4 | 82 00 90 91 80 | a map key that is not a map, found map of 0 entries
""")
NOT_VALUES += [
    (
        f"{where} {marker:02x}",
        before + bytes((marker, 0, 0)),
        f"{MARKER} {marker:02x}",
        at,
    )
    for where, before, at in (
        ("marker", b"", 0),
        ("item", b"\x91", 1),
        ("key", b"\x81", 1),
    )
    for marker in UNKNOWN_MARKERS
]

# ------------------------------------------------------------------------ task context

COMMIT = TaskContext(1, "Commit", 3, 4, b"\x7f\xff")
CONTEXTS = golden(r"""
zeros      | 95 00 81 a5 'Index' 00 00 00 c0    | TaskContext()
index      | 95 01 81 a5 'Index' 02 03 04 c0    | TaskContext(1, 2, 3, 4)
largest    | 95 cf ff*8 81 a5 'Index' cf ff*8 cf ff*8 cf ff*8 c0
    | TaskContext(*[2**64 - 1] * 4)
cleanup    | 95 01 a7 'Cleanup' 03 04 c0        | TaskContext(1, "Cleanup", 3, 4)
outputs    | 95 01 a6 'Commit' 03 04 92 7f ccff | COMMIT
no outputs | 95 01 a6 'Commit' 02 03 90         | TaskContext(1, "Commit", 2, 3, b"")
""")
# The first three values of a context, which log lines show.
TASK_IDS = golden(r"""
zeros     | 95 00 81 a5 'Index' 00 00          | (0, 0, 0)
index     | 95 01 81 a5 'Index' 02 03          | (1, 2, 3)
largest   | 95 cf ff*8 81 a5 'Index' cf ff*8 cf ff*8
    | (2**64 - 1, 2**64 - 1, 2**64 - 1)
cleanup   | 95 01 a7 'Cleanup' 03              | (1, "Cleanup", 3)
commit    | 95 01 a6 'Commit' 03               | (1, "Commit", 3)
wide text | 95 01 c4 06 'Commit' d003          | (1, "Commit", 3)
wide      | dc0005 d001 de0001 d905 'Index' d3 00*7 02 03 | (1, 2, 3)
""")
NOT_TASK_IDS = malformed("""
nil         |  0 | c0                                    | array of 5 items, found nil
map         |  0 | 85 00*10                   | array of 5 items, found map of 5 entries
4 items     |  0 | 94 00*4                    | array of 5 items, found array of 4 items
6 items     |  0 | 96 00*6                    | array of 5 items, found array of 6 items
job -1      |  1 | 95 ff a6 'Commit' 03 04 c0            | a u64, found int -1
job true    |  1 | 95 c3 a6 'Commit' 03 04 c0            | a u64, found bool True
task 2      |  2 | 95 01 02 03 04 c0               | the name of a variant, found uint 2
other name  |  2 | 95 01 a5 'Index' 03 04 c0     | one of Commit, Cleanup, found 'Index'
no entry    |  2 | 95 01 80 03 04 c0     | the name of a variant, found map of 0 entries
2 entries   |  2 | 95 01 82 a5 'Index'   | the name of a variant, found map of 2 entries
commit map  |  3 | 95 01 81 a6 'Commit' 02 03 04 c0      | one of Index, found 'Commit'
index nil   |  9 | 95 01 81 a5 'Index' c0 03 04 c0       | a u64, found nil
instance    | 10 | 95 01 81 a5 'Index' 02 ca3fc00000     | a u64, found float 1.5
""")

# ------------------------------------------------------------------------------ errors


def one_of(variants):
    return f"one of {', '.join(variants)}, found"


# In the order of the indexes of the variants.
TDL_ERRORS = golden(r"""
empty              | 81 ac 'TaskNotFound' a0            | TdlError("TaskNotFound", "")
read               | 81 b4 'DeserializationError' a1 'x'
    | TdlError("DeserializationError", "x")
write              | 81 b2 'SerializationError' a1 'x'
    | TdlError("SerializationError", "x")
utf-8              | 81 ae 'ExecutionError' a7 e697a5f09f95b7
    | TdlError("ExecutionError", "日🕷")
control characters | 81 b2 'InvalidTaskContext' a4 610a0022
    | TdlError("InvalidTaskContext", 'a\n\0"')
long               | 81 a6 'Custom' da0100 'x'*256 | TdlError("Custom", "x" * 256)
""")
NOT_TDL_ERRORS = malformed(f"""
nothing    |  0 |                              | a msgpack value
nil        |  0 | c0                           | map of 1 entries, found nil
true       |  0 | c3                           | map of 1 entries, found bool True
uint       |  0 | 01                           | map of 1 entries, found uint 1
float      |  0 | ca3fc00000                   | map of 1 entries, found float 1.5
bare str   |  0 | a6 'Custom'                  | map of 1 entries, found str of 6 bytes
bin        |  0 | c403 8105a0                  | map of 1 entries, found bin of 3 bytes
array      |  0 | 91 a178                     | map of 1 entries, found array of 1 items
no entry   |  0 | 80                          | map of 1 entries, found map of 0 entries
2 entries  |  0 | de0002 05a0 05a0            | map of 1 entries, found map of 2 entries
no key     |  1 | 81                           | a msgpack value
nil key    |  1 | 81 c0 a178                   | the name of a variant, found nil
index 6    |  1 | 81 06 a178                   | the name of a variant, found uint 6
index 2^32 |  1 | 81 cf0000000100000000   | the name of a variant, found uint 4294967296
int index  |  1 | 81 d30000000000000005        | the name of a variant, found int 5
index -1   |  1 | 81 ff a178                   | the name of a variant, found int -1
key ff     |  7 | 81 a6 'Custo' ff a178  | the name of a variant in UTF-8, found byte ff
no text    |  8 | 81 a6 'Custom'               | a msgpack value
nil text   |  8 | 81 a6 'Custom' c0            | the text of Custom, found nil
text ff    | 10 | 81 a6 'Custom' a2 61ff    | the text of Custom in UTF-8, found byte ff
bin ed     | 10 | 81 a6 'Custom' c402 ed80  | the text of Custom in UTF-8, found byte ed
4 GB text  | 13 | 81 a6 'Custom' dbffffffff 78 | the text of Custom of 4294967295 bytes
extension  |  1 | 81 d4 00 05                  | {MARKER} d4
wrong case |  1 | 81 a6 'custom'               | {one_of(TDL_ERROR_VARIANTS)} 'custom'
long key   |  1 | 81 d9 30 'x'*48 | {one_of(TDL_ERROR_VARIANTS)} 'xxxxxxxxxxxxxxxxxxxx'
""")
EXECUTOR_ERRORS = golden(r"""
library   | 81 ae 'InvalidLibrary' a7 e697a5f09f95b7
    | ExecutorError("InvalidLibrary", "日🕷")
version   | 81 b3 'IncompatibleVersion' 96 00 02 7f cc80 ce00010000 ceffffffff
    | ExecutorError("IncompatibleVersion", (0, 2, 127, 128, 65536, 2**32 - 1))
duplicate | 81 b0 'DuplicatePackage' a0        | ExecutorError("DuplicatePackage", "")
utf-8     | 81 ab 'InvalidUtf8' a1 'x'         | ExecutorError("InvalidUtf8", "x")
task      | 81 a9 'TaskError' 81 ae 'ExecutionError' a1 'x'
    | ExecutorError("TaskError", TdlError("ExecutionError", "x"))
init      | 81 b0 'PackageInitError' 81 a6 'Custom' a1 'x'
    | ExecutorError("PackageInitError", TdlError("Custom", "x"))
payload   | 81 d9 22 'ErrorPayloadDeserializationFailure' a1 'x'
    | ExecutorError("ErrorPayloadDeserializationFailure", "x")
""")
NOT_EXECUTOR_ERRORS = malformed(f"""
nil      |  0 | c0                        | map of 1 entries, found nil
index    |  1 | 81 04 8105a0              | the name of a variant, found uint 4
nil text | 16 | 81 ae 'InvalidLibrary' c0 | the text of InvalidLibrary, found nil
tdl error | 1 | 81 a6 'Custom' a0        | {one_of(EXECUTOR_ERROR_VARIANTS)} 'Custom'
long key | 1 | 81 d9 30 'x'*48
  | {one_of(EXECUTOR_ERROR_VARIANTS)} 'xxxxxxxxxxxxxxxxxxxx'
""")
NOT_VERSIONS = malformed("""
nil       | 0 | c0                 | array of 6 items, found nil
5 numbers | 0 | 95 00*5            | array of 6 items, found array of 5 items
7 numbers | 0 | 97 00*7            | array of 6 items, found array of 7 items
nested    | 0 | 91*1022 00         | array of 6 items, found array of 1 items
true      | 6 | 96 00*5 c3         | a u32, found bool True
-1        | 4 | 96 00*3 ff         | a u32, found int -1
2^32      | 1 | 96 cf 00*3 01 00*4 | a u32, found uint 4294967296
cut       | 6 | 96 00*5            | a msgpack value
""")
# The content of an IncompatibleVersion is six numbers, that of a TaskError a TdlError.
for variant, head, contents in (
    ("version", b"\x81\xb3IncompatibleVersion", NOT_VERSIONS),
    ("task", b"\x81\xa9TaskError", NOT_TDL_ERRORS),
):
    NOT_EXECUTOR_ERRORS += [
        (f"{variant}: {name}", head + data, text, len(head) + offset)
        for name, data, text, offset in contents
    ]
