"""The language that a Spider execution manager and its task executors speak.

Everything here turns bytes into values or values into bytes; nothing here does I/O. The layers, from the outside in:

    frame     u32 BIG-endian body length | body                                at most 8 MiB of body
    body      a request or a response, in bincode 1.3: little-endian, fixed width; an enum is a u32 index and then
              its fields; a string or a byte vector is a u64 length and then its bytes
    payload   u32 LE count | count x (u32 LE length | value)                   a task's inputs, or its outputs
    value     one msgpack value, as Rust's rmp-serde writes it (structs are arrays, without field names)

    Request   = 0 Execute  { package: string, task_func: string, raw_ctx: bytes, raw_inputs: bytes }
              | 1 Shutdown
    Response  = 0 Result   { outcome: Outcome, elapsed_us: u64 }
    Outcome   = 0 Success  { outputs: bytes }         a payload
              | 1 Failure  { error: bytes }           an ExecutorError in msgpack

`raw_ctx` is a TaskContext in msgpack; `raw_inputs` and `outputs` are payloads. The executor looks into neither.

Decoders take `(buffer, offset, end)` and return `(value, offset behind it)`; they never read at or past `end`, never
allocate from a length that the buffer does not hold, and raise ProtocolError and nothing else, whatever the bytes.
Bytes behind a complete value are the caller's business.
"""

from __future__ import annotations

from struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Tuple, Union

    Buffer = Union[bytes, bytearray, memoryview]
    Version = Tuple[int, int, int]

FRAME_HEADER_SIZE = 4
FRAME_BODY_MAX = 8 * 1024 * 1024

# Indices of the enums, in the order of their Rust definitions.
EXECUTE, SHUTDOWN = 0, 1
RESULT = 0
SUCCESS, FAILURE = 0, 1

# What a response's body holds around the outputs or the error: two tags, a length, the elapsed time.
RESPONSE_OVERHEAD = 24

# How many containers rmp-serde reads inside one another.
MSGPACK_DEPTH_MAX = 1023

_BE_U32 = Struct(">I")
_LE_U32 = Struct("<I")
_LE_U64 = Struct("<Q")
_TAG_AND_LENGTH = Struct("<IQ")
_RESULT_HEAD = Struct("<IIQ")


class ProtocolError(ValueError):
    """Bytes that are not what the format says, or a value that the format cannot carry."""


class TruncatedError(ProtocolError, EOFError):
    """Bytes that are right as far as they go, but end too soon."""


class Record:
    """A value with named fields, compared and shown by them."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._fields() == self._fields()

    def __hash__(self) -> int:
        return hash((type(self), self._fields()))

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


# --------------------------------------------------------------------------------------------------------------- frames


def encode_frame(body: Buffer) -> bytes:
    """Put the length in front of `body`. Raises ProtocolError if the body is larger than FRAME_BODY_MAX."""
    if len(body) > FRAME_BODY_MAX:
        raise ProtocolError(f"a frame's body holds at most {FRAME_BODY_MAX} bytes, not {len(body)}")
    return b"".join((_BE_U32.pack(len(body)), body))


def frame_end(buffer: Buffer, offset: int) -> int:
    """Offset just behind the frame that starts at `offset`, read from its 4-byte header, which must be in the buffer.

    Raises ProtocolError if the header announces more than FRAME_BODY_MAX bytes of body.
    """
    (length,) = _BE_U32.unpack_from(buffer, offset)
    if length > FRAME_BODY_MAX:
        raise ProtocolError(
            f"expected a frame's header of at most {FRAME_BODY_MAX} bytes, found one that announces {length}"
        )
    return offset + FRAME_HEADER_SIZE + int(length)


def decode_frame(buffer: Buffer, offset: int = 0) -> tuple[bytes, int]:
    """Read one frame; returns its body and the offset behind it.

    Raises TruncatedError if the frame is not complete yet, ProtocolError if it announces too long a body.
    """
    if len(buffer) - offset < FRAME_HEADER_SIZE:
        raise _truncated("a frame header of 4 bytes", len(buffer) - offset, offset)
    end = frame_end(buffer, offset)
    start = offset + FRAME_HEADER_SIZE
    if end > len(buffer):
        raise _truncated(f"a frame body of {end - start} bytes", len(buffer) - start, start)
    return bytes(buffer[start:end]), end


def _truncated(expected: str, found: int, offset: int) -> TruncatedError:
    return TruncatedError(f"expected {expected}, found the end after {found} bytes at offset {offset}")


def _unexpected(expected: str, found: str, offset: int) -> ProtocolError:
    return ProtocolError(f"expected {expected}, found {found} at offset {offset}")


# ------------------------------------------------------------------------------------------------------------- requests


class Execute(Record):
    """Request to run `task_func` of `package` with a context and a payload of inputs."""

    __slots__ = ("package", "task_func", "raw_ctx", "raw_inputs")

    def __init__(self, package: str, task_func: str, raw_ctx: bytes, raw_inputs: bytes) -> None:
        self.package = package
        self.task_func = task_func
        self.raw_ctx = raw_ctx
        self.raw_inputs = raw_inputs


class Shutdown(Record):
    """Request to exit, which is not answered."""

    __slots__ = ()


def encode_request(request: Execute | Shutdown) -> bytes:
    """The body of a request. Raises ProtocolError if a name holds a lone surrogate."""
    if isinstance(request, Shutdown):
        return _LE_U32.pack(SHUTDOWN)
    package, task_func = _encode_text(request.package), _encode_text(request.task_func)
    return b"".join(
        (
            _TAG_AND_LENGTH.pack(EXECUTE, len(package)),
            package,
            _LE_U64.pack(len(task_func)),
            task_func,
            _LE_U64.pack(len(request.raw_ctx)),
            request.raw_ctx,
            _LE_U64.pack(len(request.raw_inputs)),
            request.raw_inputs,
        )
    )


def locate_request(buffer: Buffer, offset: int, end: int) -> tuple[int, int, int, int, int, int, int, int] | None:
    """Find the fields of the request between `offset` and `end`, copying nothing.

    Returns None for Shutdown. For Execute: offset and size in bytes of package, of task_func, of raw_ctx and of
    raw_inputs; `decode_names` makes texts of the first two. The request ends where raw_inputs ends; bytes from there to
    `end` are not part of it.
    """
    tag, package_size = _TAG_AND_LENGTH.unpack_from(buffer, offset) if end - offset >= 12 else (None, 0)
    if tag != EXECUTE:
        _check_shutdown(buffer, offset, end)
        return None

    package_at = offset + 12
    length_at = package_at + package_size
    task_at = length_at + 8
    if task_at > end:
        raise _field_truncated(buffer, package_at, end, "package", "task_func")
    (task_size,) = _LE_U64.unpack_from(buffer, length_at)

    ctx_length_at = task_at + task_size
    ctx_at = ctx_length_at + 8
    if ctx_at > end:
        raise _field_truncated(buffer, task_at, end, "task_func", "raw_ctx")
    (ctx_size,) = _LE_U64.unpack_from(buffer, ctx_length_at)

    inputs_length_at = ctx_at + ctx_size
    inputs_at = inputs_length_at + 8
    if inputs_at > end:
        raise _field_truncated(buffer, ctx_at, end, "raw_ctx", "raw_inputs")
    (inputs_size,) = _LE_U64.unpack_from(buffer, inputs_length_at)
    if inputs_at + inputs_size > end:
        raise _field_truncated(buffer, inputs_at, end, "raw_inputs", None)

    return package_at, package_size, task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size


def decode_names(head: bytes, offset: int = 0) -> tuple[str, str]:
    """package and task_func from the body of an Execute up to where task_func ends, as locate_request found it.

    Raises ProtocolError if one is not UTF-8, at an offset that counts from `offset`.
    """
    (package_size,) = _LE_U64.unpack_from(head, 4)
    package_end = 12 + package_size
    task_at = package_end + 8
    return (
        _utf8("package", head[12:package_end], offset + 12),
        _utf8("task_func", head[task_at:], offset + task_at),
    )


def _check_shutdown(buffer: Buffer, offset: int, end: int) -> None:
    """Raise unless this is Shutdown."""
    if end - offset < 4:
        raise _truncated("a request tag of 4 bytes", end - offset, offset)
    (tag,) = _LE_U32.unpack_from(buffer, offset)
    if tag == EXECUTE:
        raise _truncated("the length of package (8 bytes)", end - offset - 4, offset + 4)
    if tag != SHUTDOWN:
        raise _unexpected("request tag 0 (Execute) or 1 (Shutdown)", f"tag {tag}", offset)


def _field_truncated(buffer: Buffer, at: int, end: int, name: str, following: str | None) -> TruncatedError:
    """The error for the field `name` at `at`, or for the length of the field that follows it, behind `end`."""
    (size,) = _LE_U64.unpack_from(buffer, at - 8)
    if size > end - at or following is None:
        return _truncated(f"{name} of {size} bytes", end - at, at)
    return _truncated(f"the length of {following} (8 bytes)", end - at - size, at + size)


def decode_request(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[Execute | Shutdown, int]:
    """Read one request body; returns the request and the offset behind it."""
    end = len(buffer) if end is None else end
    fields = locate_request(buffer, offset, end)
    if fields is None:
        return Shutdown(), offset + 4
    _, _, task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size = fields
    package, task_func = decode_names(bytes(buffer[offset : task_at + task_size]), offset)
    behind = inputs_at + inputs_size
    request = Execute(package, task_func, bytes(buffer[ctx_at : ctx_at + ctx_size]), bytes(buffer[inputs_at:behind]))
    return request, behind


# ------------------------------------------------------------------------------------------------------------ responses


class Success(Record):
    """Outcome of a task that returned: `outputs` is its payload."""

    __slots__ = ("outputs",)

    def __init__(self, outputs: bytes) -> None:
        self.outputs = outputs


class Failure(Record):
    """Outcome of a task that failed or could not be run: `error` is an ExecutorError in msgpack."""

    __slots__ = ("error",)

    def __init__(self, error: bytes) -> None:
        self.error = error


class Result(Record):
    """Response to Execute; `elapsed_us` is the time that the request took in the executor, in whole microseconds."""

    __slots__ = ("outcome", "elapsed_us")

    def __init__(self, outcome: Success | Failure, elapsed_us: int) -> None:
        self.outcome = outcome
        self.elapsed_us = elapsed_us


def response_head(outcome_tag: int, size: int) -> bytes:
    """Header of a response frame and its body up to the `size` bytes of outputs (SUCCESS) or of the error (FAILURE)."""
    return _BE_U32.pack(size + RESPONSE_OVERHEAD) + _RESULT_HEAD.pack(RESULT, outcome_tag, size)


# What stands behind the outputs or the error: the elapsed time, u64 microseconds.
response_tail = _LE_U64.pack


def encode_response(response: Result) -> bytes:
    """The body of a response."""
    if isinstance(response.outcome, Success):
        tag, data = SUCCESS, response.outcome.outputs
    else:
        tag, data = FAILURE, response.outcome.error
    return response_head(tag, len(data))[FRAME_HEADER_SIZE:] + data + response_tail(response.elapsed_us)


def decode_response(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[Result, int]:
    """Read one response body; returns the response and the offset behind it."""
    end = len(buffer) if end is None else end
    tag = _tag(buffer, offset, end, "a response tag")
    if tag != RESULT:
        raise _unexpected("response tag 0 (Result)", f"tag {tag}", offset)
    outcome_tag = _tag(buffer, offset + 4, end, "an outcome tag")
    if outcome_tag not in (SUCCESS, FAILURE):
        raise _unexpected("outcome tag 0 (Success) or 1 (Failure)", f"tag {outcome_tag}", offset + 4)

    name = "outputs" if outcome_tag == SUCCESS else "error"
    data_at = offset + 16
    if data_at > end:
        raise _truncated(f"the length of {name} (8 bytes)", end - offset - 8, offset + 8)
    (size,) = _LE_U64.unpack_from(buffer, offset + 8)
    if size > end - data_at:
        raise _truncated(f"{name} of {size} bytes", end - data_at, data_at)
    elapsed_at = data_at + size
    if end - elapsed_at < 8:
        raise _truncated("elapsed_us (8 bytes)", end - elapsed_at, elapsed_at)
    (elapsed_us,) = _LE_U64.unpack_from(buffer, elapsed_at)

    data = bytes(buffer[data_at:elapsed_at])
    return Result(Success(data) if outcome_tag == SUCCESS else Failure(data), elapsed_us), elapsed_at + 8


def _tag(buffer: Buffer, offset: int, end: int, what: str) -> int:
    if end - offset < 4:
        raise _truncated(f"{what} of 4 bytes", end - offset, offset)
    return int(_LE_U32.unpack_from(buffer, offset)[0])


# ------------------------------------------------------------------------------------------------------------- payloads


def encode_payload(values: Iterable[bytes]) -> bytes:
    """Frame values that are msgpack already: a count, then each with its length."""
    values = list(values)
    parts = [_LE_U32.pack(len(values))]
    for value in values:
        if len(value) >= 1 << 32:
            raise ProtocolError(f"a payload's value holds less than 4 GiB, not {len(value)} bytes")
        parts.append(_LE_U32.pack(len(value)))
        parts.append(value)
    return b"".join(parts)


def decode_payload(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[list[bytes], int]:
    """Read a payload's values, each still in msgpack; returns them and the offset behind the payload."""
    end = len(buffer) if end is None else end
    count = _tag(buffer, offset, end, "a payload count")
    offset += 4
    if count * 4 > end - offset:
        raise _truncated(f"{count} values", end - offset, offset)
    values = []
    for position in range(count):
        if end - offset < 4:
            raise _truncated(f"the length of value {position} (4 bytes)", end - offset, offset)
        (size,) = _LE_U32.unpack_from(buffer, offset)
        offset += 4
        if size > end - offset:
            raise _truncated(f"value {position} of {size} bytes", end - offset, offset)
        values.append(bytes(buffer[offset : offset + size]))
        offset += size
    return values, offset


def pack_values(*values: Any) -> bytes:
    """The payload of Python values: `pack` each, then `encode_payload`."""
    return encode_payload(map(pack, values))


def unpack_values(payload: Buffer) -> list[Any]:
    """The Python values in a payload. Bytes behind the payload, and behind a value in its own length, are ignored."""
    return [unpack(value)[0] for value in decode_payload(payload)[0]]


# -------------------------------------------------------------------------------------------------------------- msgpack
#
# https://github.com/msgpack/msgpack/blob/master/spec.md; ext types are refused: no TDL type is written as one.
#
#   00-7f int    80-8f map    90-9f array    a0-bf str    c0 nil    c2 c3 bool    c4-c6 bin    ca cb float
#   cc-cf uint   d0-d3 int    d9-db str      dc dd array  de df map   e0-ff negative int     c1 reserved
#
# nil None | bool bool | int int | float float | str str | bin bytes | array list | map dict


class Float32(float):
    """A float that is written as f32; one that is read is a plain float."""

    __slots__ = ()


_NUMBERS = {
    0xCA: (Struct(">f"), "f32"),
    0xCB: (Struct(">d"), "f64"),
    0xCC: (Struct(">B"), "u8"),
    0xCD: (Struct(">H"), "u16"),
    0xCE: (Struct(">I"), "u32"),
    0xCF: (Struct(">Q"), "u64"),
    0xD0: (Struct(">b"), "i8"),
    0xD1: (Struct(">h"), "i16"),
    0xD2: (Struct(">i"), "i32"),
    0xD3: (Struct(">q"), "i64"),
}
_SIZED = {
    0xC4: ("bin", Struct(">B")),
    0xC5: ("bin", Struct(">H")),
    0xC6: ("bin", Struct(">I")),
    0xD9: ("str", Struct(">B")),
    0xDA: ("str", Struct(">H")),
    0xDB: ("str", Struct(">I")),
    0xDC: ("array", Struct(">H")),
    0xDD: ("array", Struct(">I")),
    0xDE: ("map", Struct(">H")),
    0xDF: ("map", Struct(">I")),
}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
_REFUSED = {0xC1: "the reserved marker c1"}
_REFUSED.update((marker, f"ext (marker {marker:02x})") for marker in (0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8))

_PACK_FLOAT64 = Struct(">Bd").pack
_PACK_FLOAT32 = Struct(">Bf").pack
# The smallest form that fits: (lowest, highest, marker, packer).
_PACK_INT = (
    (0, 0xFF, 0xCC, Struct(">BB").pack),
    (0, 0xFFFF, 0xCD, Struct(">BH").pack),
    (0, 0xFFFFFFFF, 0xCE, Struct(">BI").pack),
    (0, 0xFFFFFFFFFFFFFFFF, 0xCF, Struct(">BQ").pack),
    (-0x80, -1, 0xD0, Struct(">Bb").pack),
    (-0x8000, -1, 0xD1, Struct(">Bh").pack),
    (-0x80000000, -1, 0xD2, Struct(">Bi").pack),
    (-0x8000000000000000, -1, 0xD3, Struct(">Bq").pack),
)
# A size goes into the marker if it is below the limit, else behind the marker of 1, 2 or 4 bytes that holds it.
_PACK_SIZE = {
    "str": (0xA0, 32, 0xD9, 0xDA, 0xDB),
    "bin": (None, 0, 0xC4, 0xC5, 0xC6),
    "array": (0x90, 16, None, 0xDC, 0xDD),
    "map": (0x80, 16, None, 0xDE, 0xDF),
}


def pack(value: Any) -> bytes:
    """One value in msgpack, every number and length in its smallest form, as rmp-serde writes it.

    Takes None, bool, int (-2^63 to 2^64 - 1), float (f64), Float32, str, bytes and bytearray (bin), list and tuple
    (array), dict (map). Rust reads a `Vec<u8>` from bin as well, but writes an array of integers: `list(b"...")`.
    Raises ProtocolError for anything else, and for nesting deeper than MSGPACK_DEPTH_MAX.
    """
    out = bytearray()
    pending: list[Iterator[Any]] = [iter((value,))]
    while pending:
        for item in pending[-1]:
            if item is None:
                out.append(0xC0)
            elif isinstance(item, bool):
                out.append(0xC3 if item else 0xC2)
            elif isinstance(item, int):
                out += _pack_int(item)
            elif isinstance(item, float):
                out += _pack_float(item)
            elif isinstance(item, str):
                text = _encode_text(item)
                out += _pack_size("str", len(text))
                out += text
            elif isinstance(item, (bytes, bytearray)):
                out += _pack_size("bin", len(item))
                out += item
            elif isinstance(item, (list, tuple, dict)):
                if len(pending) > MSGPACK_DEPTH_MAX:
                    raise ProtocolError(f"msgpack nests at most {MSGPACK_DEPTH_MAX} deep")
                if isinstance(item, dict):
                    out += _pack_size("map", len(item))
                    pending.append(part for entry in item.items() for part in entry)
                else:
                    out += _pack_size("array", len(item))
                    pending.append(iter(item))
                break
            else:
                raise ProtocolError(
                    f"msgpack carries None, bool, int, float, str, bytes, list and dict, not {type(item).__name__}"
                )
        else:
            pending.pop()
    return bytes(out)


def _pack_int(value: int) -> bytes:
    if -32 <= value < 128:
        return bytes((value & 0xFF,))
    for lowest, highest, marker, packer in _PACK_INT:
        if lowest <= value <= highest:
            return packer(marker, value)
    raise ProtocolError(f"msgpack carries integers from -2^63 to 2^64 - 1, not one of {value.bit_length()} bits")


def _pack_float(value: float) -> bytes:
    if not isinstance(value, Float32):
        return _PACK_FLOAT64(0xCB, value)
    try:
        return _PACK_FLOAT32(0xCA, value)
    except OverflowError:
        raise ProtocolError(f"{float(value)!r} does not fit a 32-bit float") from None


def _pack_size(kind: str, size: int) -> bytes:
    fixed, limit, marker_u8, marker_u16, marker_u32 = _PACK_SIZE[kind]
    if fixed is not None and size < limit:
        return bytes((fixed | size,))
    if marker_u8 is not None and size <= 0xFF:
        return bytes((marker_u8, size))
    if size <= 0xFFFF:
        return Struct(">BH").pack(marker_u16, size)
    if size <= 0xFFFFFFFF:
        return Struct(">BI").pack(marker_u32, size)
    raise ProtocolError(f"a msgpack {kind} holds less than 2^32 items, not {size}")


def _encode_text(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProtocolError(f"text holds a lone surrogate at character {error.start}") from None


def unpack(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[Any, int]:
    """Read one msgpack value; returns it and the offset behind it.

    A map's keys must be nil, bool, number, str or bin; of two that are equal in Python (1 and true are) the later wins.
    """
    end = len(buffer) if end is None else end
    # One entry for each open container: its items, how many of them it has (two to a map's entry), whether it is a map.
    pending: list[tuple[list[Any], int, bool]] = []
    while True:
        at = offset
        kind, value, offset = _head(buffer, offset, end)
        if kind == "str" or kind == "bin":
            value, offset = _data(buffer, kind, value, offset, end)
        elif kind == "array" or kind == "map":
            is_map = kind == "map"
            size = value * 2 if is_map else value
            if pending and pending[-1][2] and len(pending[-1][0]) % 2 == 0:
                raise _unexpected("a map key that is no container", kind, at)
            if size > end - offset:
                raise _truncated(f"{kind} of {value} entries", end - offset, offset)
            if len(pending) == MSGPACK_DEPTH_MAX:
                raise ProtocolError(f"msgpack nests deeper than {MSGPACK_DEPTH_MAX} at offset {at}")
            if size:
                pending.append(([], size, is_map))
                continue
            value = {} if is_map else []

        while pending:
            items, size, is_map = pending[-1]
            items.append(value)
            if len(items) < size:
                break
            pending.pop()
            value = dict(zip(items[::2], items[1::2])) if is_map else items
        else:
            return value, offset


def _head(buffer: Buffer, offset: int, end: int) -> tuple[str, Any, int]:
    """Read a marker and what belongs to it: a kind, the scalar itself or the container's size, the offset behind."""
    if offset >= end:
        raise _truncated("a msgpack value", 0, offset)
    marker = buffer[offset]
    at, offset = offset, offset + 1
    if marker <= 0x7F:
        return "int", marker, offset
    if marker <= 0x8F:
        return "map", marker & 0x0F, offset
    if marker <= 0x9F:
        return "array", marker & 0x0F, offset
    if marker <= 0xBF:
        return "str", marker & 0x1F, offset
    if marker >= 0xE0:
        return "int", marker - 0x100, offset
    if marker in _CONSTANTS:
        return "constant", _CONSTANTS[marker], offset
    if marker in _REFUSED:
        raise _unexpected("a msgpack value of a TDL type", _REFUSED[marker], at)
    if marker in _NUMBERS:
        layout, kind = _NUMBERS[marker]
    else:
        kind, layout = _SIZED[marker]
    if layout.size > end - offset:
        raise _truncated(f"the {layout.size} bytes behind marker {marker:02x}", end - offset, offset)
    return kind, layout.unpack_from(buffer, offset)[0], offset + layout.size


def _data(buffer: Buffer, kind: str, size: int, offset: int, end: int) -> tuple[str | bytes, int]:
    """Read the `size` bytes of a str or a bin."""
    if size > end - offset:
        raise _truncated(f"{kind} of {size} bytes", end - offset, offset)
    data = bytes(buffer[offset : offset + size])
    if kind == "bin":
        return data, offset + size
    return _utf8(kind, data, offset), offset + size


def _utf8(what: str, data: bytes, at: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(what, error, at) from None


def _not_utf8(what: str, error: UnicodeDecodeError, at: int) -> ProtocolError:
    return _unexpected(f"{what} in UTF-8", f"byte {error.object[error.start]:02x}", at + error.start)


# --------------------------------------------------------------------------------------------------------- task context

PLAIN, ZSTD = 0, 1
COMMIT, CLEANUP = "Commit", "Cleanup"


class TaskContext(Record):
    """What a task is told about itself, in msgpack: an array of five.

    `task_id` is the index of the task in its job's graph, or COMMIT, or CLEANUP. `graph_outputs` is None but for a
    commit task, where it is a buffer: a byte PLAIN or ZSTD, then the payload of the job's outputs, plain or compressed.
    """

    __slots__ = ("job_id", "task_id", "task_instance_id", "resource_group_id", "graph_outputs")

    def __init__(
        self,
        job_id: int = 0,
        task_id: int | str = 0,
        task_instance_id: int = 0,
        resource_group_id: int = 0,
        graph_outputs: bytes | None = None,
    ) -> None:
        self.job_id = job_id
        self.task_id = task_id
        self.task_instance_id = task_instance_id
        self.resource_group_id = resource_group_id
        self.graph_outputs = graph_outputs

    def encode(self) -> bytes:
        """The context's msgpack, `raw_ctx` of a request."""
        task_id = self.task_id if isinstance(self.task_id, str) else {"Index": self.task_id}
        outputs = None if self.graph_outputs is None else list(self.graph_outputs)
        return pack([self.job_id, task_id, self.task_instance_id, self.resource_group_id, outputs])

    def graph_payload(self) -> bytes:
        """The payload in `graph_outputs`. Raises ProtocolError if there is none, or if it is compressed."""
        if not self.graph_outputs:
            raise ProtocolError("expected graph outputs, found none")
        if self.graph_outputs[0] == ZSTD:
            raise ProtocolError("expected plain graph outputs (first byte 0), found zstd-compressed ones (1)")
        if self.graph_outputs[0] != PLAIN:
            raise _unexpected("0 (plain) or 1 (zstd)", f"{self.graph_outputs[0]}", 0)
        return self.graph_outputs[1:]


def decode_context(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[TaskContext, int]:
    """Read a TaskContext; returns it and the offset behind it."""
    fields, behind = unpack(buffer, offset, end)
    if not isinstance(fields, list) or len(fields) != 5:
        raise _unexpected("a task context of 5 fields", _describe(fields), offset)
    job_id, task_id, task_instance_id, resource_group_id, outputs = fields
    index = 0
    if isinstance(task_id, dict) and list(task_id) == ["Index"]:
        task_id = index = task_id["Index"]
    elif task_id not in (COMMIT, CLEANUP):
        raise _unexpected('task_id {"Index": n}, "Commit" or "Cleanup"', _describe(task_id), offset)
    for name, number in zip(
        ("job_id", "task_id", "task_instance_id", "resource_group_id"),
        (job_id, index, task_instance_id, resource_group_id),
    ):
        if type(number) is not int or number < 0:
            raise _unexpected(f"{name} as an unsigned integer", _describe(number), offset)
    if isinstance(outputs, list):
        if not all(type(byte) is int and 0 <= byte <= 255 for byte in outputs):
            raise _unexpected("graph_outputs as an array of bytes", "another item in it", offset)
        outputs = bytes(outputs)
    elif outputs is not None and not isinstance(outputs, bytes):
        raise _unexpected("graph_outputs as nil or bytes", _describe(outputs), offset)
    return TaskContext(job_id, task_id, task_instance_id, resource_group_id, outputs), behind


def _describe(value: Any) -> str:
    if isinstance(value, (list, dict)):
        return f"{'an array' if isinstance(value, list) else 'a map'} of {len(value)}"
    if isinstance(value, (str, bytes)):
        return f"{'str' if isinstance(value, str) else 'bin'} of {len(value)} bytes"
    return "nil" if value is None else f"{type(value).__name__} {value}"


# --------------------------------------------------------------------------------------------------------------- errors


class TdlError(Exception):
    """What a package says of its failure: a variant (the class) and a text. In msgpack: {"Variant": text}."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.text}"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))

    def encode(self) -> bytes:
        return pack({type(self).__name__: self.text})


class TaskNotFound(TdlError):
    """The package has no task of this name."""


class DeserializationError(TdlError):
    """The inputs or the context are not what the task takes."""


class SerializationError(TdlError):
    """The outputs could not be written, or do not fit a response."""


class ExecutionError(TdlError):
    """The task ran and failed."""


class InvalidTaskContext(TdlError):
    """The context is readable, but not one that this task can run in."""


class Custom(TdlError):
    """Any other failure, in the package's own words."""


# In the order of the Rust definition: the index of a variant is another way to write it.
TDL_VARIANTS: tuple[type[TdlError], ...] = (
    TaskNotFound,
    DeserializationError,
    SerializationError,
    ExecutionError,
    InvalidTaskContext,
    Custom,
)
_TDL_BY_NAME: dict[str, type[TdlError]] = {variant.__name__: variant for variant in TDL_VARIANTS}


def decode_tdl_error(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[TdlError, int]:
    """Read a TdlError: a map of one entry, from a variant's name or index to a text.

    The name and the text may be str or bin, in any width; the index a fixint or u8.
    """
    end = len(buffer) if end is None else end
    at = offset
    kind, count, offset = _head(buffer, offset, end)
    if kind != "map" or count != 1:
        raise _unexpected("a map of one entry", f"{kind} {count}" if kind != "constant" else _describe(count), at)

    at = offset
    kind, key, offset = _head(buffer, offset, end)
    if kind in ("str", "bin"):
        name, offset = _text(buffer, "a variant's name", kind, key, offset, end)
        variant = _TDL_BY_NAME.get(name)
        found = f"{name[:40]!r}"
    else:
        is_index = (kind == "int" or kind == "u8") and 0 <= key < len(TDL_VARIANTS)
        variant = TDL_VARIANTS[key] if is_index else None
        found = f"{kind} {key}"
    if variant is None:
        raise _unexpected(f"one of {', '.join(_TDL_BY_NAME)}", found, at)

    at = offset
    kind, size, offset = _head(buffer, offset, end)
    if kind not in ("str", "bin"):
        raise _unexpected(f"the text of {variant.__name__}", kind, at)
    text, offset = _text(buffer, f"the text of {variant.__name__}", kind, size, offset, end)
    return variant(text), offset


def _text(buffer: Buffer, what: str, kind: str, size: int, offset: int, end: int) -> tuple[str, int]:
    """Read the `size` bytes of a str or a bin as UTF-8."""
    data, behind = _data(buffer, "bin", size, offset, end)
    assert isinstance(data, bytes)
    return _utf8(what, data, offset), behind


class ExecutorError(Exception):
    """What an executor says of a request that did not succeed; the classes below are its variants.

    In msgpack: {"Variant": content}, where the content is a text but for three of them.
    """

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))

    def __str__(self) -> str:
        return f"{type(self).__name__}: {self.args[0]}"

    def _content(self) -> Any:
        return self.args[0]

    def encode(self) -> bytes:
        return pack({type(self).__name__: self._content()})


class InvalidLibrary(ExecutorError):
    """The package's file could not be loaded, or lacks a symbol."""


class DuplicatePackage(ExecutorError):
    """Another file has registered the name that this one declares."""


class InvalidUtf8(ExecutorError):
    """The name that the package declares is not UTF-8."""


class ErrorPayloadDeserializationFailure(ExecutorError):
    """The task or the init function failed, and what it returned is not a TdlError."""


class IncompatibleVersion(ExecutorError):
    """The package was built for another version of the package ABI."""

    def __init__(self, package: Version, executor: Version) -> None:
        super().__init__(package, executor)
        self.package = package
        self.executor = executor

    def __str__(self) -> str:
        package, executor = (".".join(map(str, version)) for version in self.args)
        return f"IncompatibleVersion: the package was built for {package}, this executor is {executor}"

    def _content(self) -> Any:
        return self.package + self.executor


class _WithTdlError(ExecutorError):
    def __init__(self, error: TdlError) -> None:
        super().__init__(error)
        self.error = error

    def _content(self) -> Any:
        return {type(self.error).__name__: self.error.text}


class TaskError(_WithTdlError):
    """The task returned an error."""


class PackageInitError(_WithTdlError):
    """The package's init function returned an error."""


_EXECUTOR_BY_NAME: dict[str, type[ExecutorError]] = {
    variant.__name__: variant
    for variant in (
        InvalidLibrary,
        IncompatibleVersion,
        DuplicatePackage,
        InvalidUtf8,
        TaskError,
        PackageInitError,
        ErrorPayloadDeserializationFailure,
    )
}


def decode_executor_error(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[ExecutorError, int]:
    """Read an ExecutorError as `ExecutorError.encode` writes it."""
    end = len(buffer) if end is None else end
    kind, count, at = _head(buffer, offset, end)
    if kind != "map" or count != 1:
        raise _unexpected("an ExecutorError, a map of one entry", f"{kind} {count}", offset)
    name, content_at = unpack(buffer, at, end)
    variant = _EXECUTOR_BY_NAME.get(name) if isinstance(name, str) else None
    if variant is None:
        raise _unexpected(f"one of {', '.join(_EXECUTOR_BY_NAME)}", _describe(name), at)
    if issubclass(variant, _WithTdlError):
        error, behind = decode_tdl_error(buffer, content_at, end)
        return variant(error), behind

    content, behind = unpack(buffer, content_at, end)
    if variant is IncompatibleVersion:
        if not isinstance(content, list) or len(content) != 6:
            raise _unexpected("six version numbers", _describe(content), content_at)
        if not all(type(part) is int and 0 <= part < 1 << 32 for part in content):
            raise _unexpected("version numbers as u32", "another item among them", content_at)
        return IncompatibleVersion(tuple(content[:3]), tuple(content[3:])), behind
    if not isinstance(content, str):
        raise _unexpected(f"the text of {name}", _describe(content), content_at)
    return variant(content), behind
