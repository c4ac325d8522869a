"""The wire format between a Spider execution manager and its task executors.

Everything here turns bytes into values or values into bytes. Nothing here does I/O.
The layers, from the outside in:

    frame    u32 BIG-endian length of the body | body of at most 8 MiB
    body     a request or a response in bincode 1.3: little-endian, fixed width.
             An enum is a u32 index, then the fields of that variant in order.
             A string or a byte vector is a u64 length, then its bytes.
    payload  u32 LE count | count x (u32 LE length | value)
    value    one msgpack value, as Rust's rmp-serde writes it: a struct is an array

    Request  = 0 Execute  { package: string, task_func: string,
                            raw_ctx: bytes, raw_inputs: bytes }
             | 1 Shutdown
    Response = 0 Result   { outcome: Outcome, elapsed_us: u64 }
    Outcome  = 0 Success  { outputs: bytes }
             | 1 Failure  { error: bytes }

`raw_inputs` and `outputs` are payloads: the arguments of a task and what it returned.
`raw_ctx` is a TaskContext in msgpack, and `error` an ExecutorError in msgpack.

Decoders take `(buffer, offset[, end])` and return `(value, offset after it)`. The
buffer is bytes, a bytearray or a memoryview of bytes. A decoder reads nothing at or
after `end`, which is the end of the buffer by default. It ignores bytes after a
complete value. Malformed bytes raise ProtocolError and nothing else. Nothing is
allocated for a size before it was compared with the bytes that are left. A value can
still be larger than its bytes: 1 MiB of nils becomes a list of 8 MB.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Union

    Buffer = Union[bytes, bytearray, memoryview]

__all__ = [
    "EXECUTOR_ERROR_VARIANTS",
    "FAILURE",
    "FRAME_BODY_MAX",
    "FRAME_HEADER_SIZE",
    "MSGPACK_DEPTH_MAX",
    "RESPONSE_DATA_MAX",
    "SUCCESS",
    "TDL_ERROR_VARIANTS",
    "Execute",
    "ExecutorError",
    "Failure",
    "ProtocolError",
    "Result",
    "Shutdown",
    "Success",
    "TaskContext",
    "TdlError",
    "TruncatedError",
    "decode_executor_error",
    "decode_frame",
    "decode_names",
    "decode_payload",
    "decode_request",
    "decode_response",
    "decode_task_ids",
    "decode_tdl_error",
    "encode_frame",
    "encode_payload",
    "encode_request",
    "encode_response",
    "frame_end",
    "locate_request",
    "pack",
    "pack_values",
    "response_head",
    "response_tail",
    "unpack",
    "unpack_values",
]

_BE_U32 = Struct(">I")
_LE_U32 = Struct("<I")
_LE_U64 = Struct("<Q")


class ProtocolError(ValueError):
    """Malformed bytes, or a value that cannot be encoded."""


class TruncatedError(ProtocolError):
    """The bytes are valid so far, but the input ends before the value is complete."""


def _unexpected(expected: str, found: str, offset: int) -> ProtocolError:
    return ProtocolError(f"expected {expected}, found {found} at offset {offset}")


class _Reader:
    """Reads one value after another. The parameter `name` is for its errors."""

    def __init__(
        self,
        buffer: Buffer,
        offset: int,
        end: int | None,
    ) -> None:
        self.buffer = buffer
        self.offset = offset
        self.end = len(buffer) if end is None else end

    def truncated(self, expected: str) -> TruncatedError:
        return TruncatedError(
            f"expected {expected}, found the end after {self.end - self.offset} bytes "
            f"at offset {self.offset}"
        )

    def number(self, layout: Struct, name: str) -> Any:
        start = self.offset
        if layout.size > self.end - start:
            raise self.truncated(f"{name} ({layout.size} bytes)")
        self.offset += layout.size
        return layout.unpack_from(self.buffer, start)[0]

    def data(self, size: int, name: str) -> bytes:
        start = self.offset
        if size > self.end - start:
            raise self.truncated(f"{name} of {size} bytes")
        self.offset += size
        return bytes(self.buffer[start : self.offset])

    def text(self, size: int, name: str) -> str:
        start = self.offset
        data = self.data(size, name)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            at = error.start
            found = f"byte {data[at]:02x}"
            raise _unexpected(f"{name} in UTF-8", found, start + at) from None


def _encode_text(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProtocolError(
            f"expected text, found a lone surrogate at character {error.start}"
        ) from None


class _Record:
    """A value with named fields. Records are compared by their fields."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and vars(other) == vars(self)

    def __repr__(self) -> str:
        fields = (f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({', '.join(fields)})"


# ------------------------------------------------------------------------------ frames

FRAME_HEADER_SIZE = 4
FRAME_BODY_MAX = 8 * 1024 * 1024


def encode_frame(body: Buffer) -> bytes:
    """Put the length before `body`.

    Raises ProtocolError if the body has more than FRAME_BODY_MAX bytes.
    """
    if len(body) > FRAME_BODY_MAX:
        raise _body_too_large(len(body))
    return b"".join((_BE_U32.pack(len(body)), body))


def decode_frame(buffer: Buffer, offset: int = 0) -> tuple[bytes, int]:
    """Read one frame. Return its body and the offset after it.

    Raises TruncatedError if the frame is not complete yet, and ProtocolError if its
    length is more than FRAME_BODY_MAX.
    """
    reader = _Reader(buffer, offset, None)
    # This raises TruncatedError. frame_end reads the number.
    reader.number(_BE_U32, "a frame header")
    size = frame_end(buffer, offset) - reader.offset
    return reader.data(size, "a frame body"), reader.offset


def frame_end(buffer: Buffer, offset: int) -> int:
    """Return the offset after the frame that starts at `offset`.

    The buffer must hold at least its 4-byte header. Raises ProtocolError if the length
    in the header is more than FRAME_BODY_MAX.
    """
    length: int = _BE_U32.unpack_from(buffer, offset)[0]
    if length > FRAME_BODY_MAX:
        raise _body_too_large(length)
    return offset + FRAME_HEADER_SIZE + length


def _body_too_large(length: int) -> ProtocolError:
    return ProtocolError(
        f"expected a frame body of at most {FRAME_BODY_MAX} bytes, "
        f"found a length of {length}"
    )


# ---------------------------------------------------------------------------- requests

_EXECUTE = 0
_SHUTDOWN = 1
_TAG_AND_LENGTH = Struct("<IQ")


class Execute(_Record):
    """The request to run a task: `task_func` of `package`.

    `raw_ctx` is a TaskContext in msgpack, and `raw_inputs` a payload.
    """

    def __init__(
        self,
        package: str,
        task_func: str,
        raw_ctx: bytes,
        raw_inputs: bytes,
    ) -> None:
        self.package = package
        self.task_func = task_func
        self.raw_ctx = raw_ctx
        self.raw_inputs = raw_inputs


class Shutdown(_Record):
    """The request to exit. It has no response."""


def encode_request(request: Execute | Shutdown) -> bytes:
    """Return the body of a request.

    Raises ProtocolError if a name contains a lone surrogate.
    """
    if isinstance(request, Shutdown):
        return _LE_U32.pack(_SHUTDOWN)
    parts = [_LE_U32.pack(_EXECUTE)]
    for field in (
        _encode_text(request.package),
        _encode_text(request.task_func),
        request.raw_ctx,
        request.raw_inputs,
    ):
        parts += (_LE_U64.pack(len(field)), field)
    return b"".join(parts)


def decode_request(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[Execute | Shutdown, int]:
    """Read the body of a request."""
    reader = _Reader(buffer, offset, end)
    tag = _read_tag(reader, "a request", "0 (Execute)", "1 (Shutdown)")
    if tag == _SHUTDOWN:
        return Shutdown(), reader.offset
    request = Execute(
        _read_string(reader, "package"),
        _read_string(reader, "task_func"),
        _read_vector(reader, "raw_ctx"),
        _read_vector(reader, "raw_inputs"),
    )
    return request, reader.offset


def decode_names(
    buffer: Buffer,
    offset: int,
    end: int,
) -> tuple[str, str, int]:
    """Read package and task_func of the Execute that starts at `offset`.

    Return both and the offset after them.
    """
    reader = _Reader(buffer, offset + 4, end)  # after the tag
    package = _read_string(reader, "package")
    task_func = _read_string(reader, "task_func")
    return package, task_func, reader.offset


def _read_tag(reader: _Reader, name: str, *variants: str) -> int:
    """Read the index of a variant of an enum."""
    start = reader.offset
    tag: int = reader.number(_LE_U32, f"{name} tag")
    if tag >= len(variants):
        expected = f"{name} tag, {' or '.join(variants)}"
        raise _unexpected(expected, f"tag {tag}", start)
    return tag


def _read_string(reader: _Reader, name: str) -> str:
    return reader.text(reader.number(_LE_U64, f"the length of {name}"), name)


def _read_vector(reader: _Reader, name: str) -> bytes:
    return reader.data(reader.number(_LE_U64, f"the length of {name}"), name)


def locate_request(
    buffer: Buffer,
    offset: int,
    end: int,
) -> tuple[int, int, int, int, int, int] | None:
    """Find the fields of the Execute between `offset` and `end` without copying them.

    Return the offset and the size in bytes of task_func, raw_ctx and raw_inputs. Return
    None for everything that is not a complete Execute: `decode_request` tells a
    Shutdown from an error.
    """
    # tag 4 | size 8, package | size 8, task_func | size 8, raw_ctx | size 8, raw_inputs
    try:
        tag, package_size = _TAG_AND_LENGTH.unpack_from(buffer, offset)
        task_at = offset + 20 + package_size
        (task_size,) = _LE_U64.unpack_from(buffer, task_at - 8)
        ctx_at = task_at + task_size + 8
        (ctx_size,) = _LE_U64.unpack_from(buffer, ctx_at - 8)
        inputs_at = ctx_at + ctx_size + 8
        (inputs_size,) = _LE_U64.unpack_from(buffer, inputs_at - 8)
    except (StructError, OverflowError):
        return None  # A length points past the end of the buffer.
    # Bytes after `end` may have been read. No size is negative: if the last field is
    # within `end`, all of them are.
    if inputs_at + inputs_size <= end and tag == _EXECUTE:
        return task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size
    return None


# --------------------------------------------------------------------------- responses

_RESULT = 0
SUCCESS = 0
FAILURE = 1
_TAGS_AND_LENGTH = Struct("<IIQ")
# The body of a response has two tags and a length before the outputs or the error, and
# elapsed_us after them.
_RESPONSE_OVERHEAD = 24
RESPONSE_DATA_MAX = FRAME_BODY_MAX - _RESPONSE_OVERHEAD


class Success(_Record):
    """The outcome of a task that returned. `outputs` is its payload."""

    def __init__(self, outputs: bytes) -> None:
        self.outputs = outputs


class Failure(_Record):
    """The outcome of a task that failed or did not run.

    `error` is an ExecutorError in msgpack.
    """

    def __init__(self, error: bytes) -> None:
        self.error = error


class Result(_Record):
    """The response to Execute.

    `elapsed_us` is the time that the executor took, in microseconds.
    """

    def __init__(self, outcome: Success | Failure, elapsed_us: int) -> None:
        self.outcome = outcome
        self.elapsed_us = elapsed_us


def response_head(outcome_tag: int, size: int) -> bytes:
    """Return everything before the data of a response frame.

    The data is `size` bytes of outputs (the tag is SUCCESS) or of an error (FAILURE).
    """
    header = _BE_U32.pack(size + _RESPONSE_OVERHEAD)
    return header + _TAGS_AND_LENGTH.pack(_RESULT, outcome_tag, size)


# Returns everything after the data of a response frame, which is `elapsed_us`.
response_tail = _LE_U64.pack


def encode_response(response: Result) -> bytes:
    """Return the body of a response."""
    outcome = response.outcome
    if isinstance(outcome, Success):
        tag = SUCCESS
        data = outcome.outputs
    else:
        tag = FAILURE
        data = outcome.error
    head = response_head(tag, len(data))[FRAME_HEADER_SIZE:]
    return head + data + response_tail(response.elapsed_us)


def decode_response(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[Result, int]:
    """Read the body of a response."""
    reader = _Reader(buffer, offset, end)
    _read_tag(reader, "a response", "0 (Result)")
    tag = _read_tag(reader, "an outcome", "0 (Success)", "1 (Failure)")
    outcome: Success | Failure
    if tag == SUCCESS:
        outcome = Success(_read_vector(reader, "outputs"))
    else:
        outcome = Failure(_read_vector(reader, "error"))
    return Result(outcome, reader.number(_LE_U64, "elapsed_us")), reader.offset


# ---------------------------------------------------------------------------- payloads


def encode_payload(values: Iterable[bytes]) -> bytes:
    """Return the payload of values that are msgpack already."""
    parts = [_LE_U32.pack(len(value)) + value for value in values]
    return _LE_U32.pack(len(parts)) + b"".join(parts)


def decode_payload(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[list[bytes], int]:
    """Read a payload. Its values stay msgpack."""
    reader = _Reader(buffer, offset, end)
    values = []
    for index in range(reader.number(_LE_U32, "a payload count")):
        size = reader.number(_LE_U32, f"the length of value {index}")
        values.append(reader.data(size, f"value {index}"))
    return values, reader.offset


def pack_values(*values: Any) -> bytes:
    """Return the payload of Python values; see `pack`."""
    return encode_payload(map(pack, values))


def unpack_values(payload: Buffer) -> list[Any]:
    """Return the Python values in a payload; see `unpack`."""
    return [unpack(value)[0] for value in decode_payload(payload)[0]]


# ----------------------------------------------------------------------------- msgpack
#
# https://github.com/msgpack/msgpack/blob/master/spec.md
#
# A value starts with a marker byte. The markers c0, c2 and c3 are nil, false and true.
# Every other marker has a number: the value itself, or the size of a str or bin in
# bytes, of an array in items, of a map in entries. Small numbers are inside the marker.
# Others follow it in big-endian.

# For each kind: the numbers that can be inside the marker, and what is added to them to
# get the marker. Then the first of the markers whose number follows, and the layouts of
# these numbers in the notation of `struct`, one for each successive marker.
_KINDS = {
    "uint": (range(128), 0x00, 0xCC, "BHIQ"),
    "int": (range(-32, 0), 0x100, 0xD0, "bhiq"),
    "float": ((), 0, 0xCA, "fd"),
    "str": (range(32), 0xA0, 0xD9, "BHI"),
    "bin": ((), 0, 0xC4, "BHI"),
    "array": (range(16), 0x90, 0xDC, "HI"),
    "map": (range(16), 0x80, 0xDE, "HI"),
}
_LAYOUTS = {code: Struct(">" + code) for code in "BHIQbhiqfd"}
# For each marker: its kind, the number inside it or the layout of the one that follows.
_MARKERS: dict[int, tuple[str, Any, Struct | None]] = {
    0xC0: ("nil", None, None),
    0xC2: ("bool", False, None),
    0xC3: ("bool", True, None),
}
for _kind, (_numbers, _base, _first, _codes) in _KINDS.items():
    for _number in _numbers:
        _MARKERS[_base + _number] = (_kind, _number, None)
    for _marker, _code in enumerate(_codes, _first):
        _MARKERS[_marker] = (_kind, None, _LAYOUTS[_code])

# The most containers inside one another that pack and unpack take.
MSGPACK_DEPTH_MAX = 256
_TOO_DEEP = "expected fewer nested containers, found more than Python's stack can hold"


def pack(value: Any) -> bytes:
    """Return one value in msgpack, as rmp-serde writes it: in the shortest form.

    Takes None, bool, int (-2^63 to 2^64 - 1), float (always 64 bits), str, bytes and
    bytearray (bin), list and tuple (array), dict (map), and subclasses of these. Rust
    writes a `Vec<u8>` as an array of integers, `list(b"...")`, but also reads bin.

    Raises ProtocolError for anything else, and for containers nested more deeply than
    MSGPACK_DEPTH_MAX or than the rest of Python's stack allows.
    """
    out = bytearray()
    try:
        _pack_into(out, value, 0)
    except RecursionError:
        raise ProtocolError(_TOO_DEEP) from None
    return bytes(out)


def _pack_into(
    out: bytearray,
    value: Any,
    depth: int,
) -> None:
    """Append a value that is inside `depth` containers."""
    if value is None:
        out.append(0xC0)
    elif isinstance(value, bool):
        out.append(0xC2 + value)
    elif isinstance(value, int):
        out += _pack_number("int" if value < 0 else "uint", value)
    elif isinstance(value, float):
        out += b"\xcb" + _LAYOUTS["d"].pack(value)
    elif isinstance(value, str):
        text = _encode_text(value)
        out += _pack_number("str", len(text)) + text
    elif isinstance(value, (bytes, bytearray)):
        out += _pack_number("bin", len(value)) + value
    elif not isinstance(value, (list, tuple, dict)):
        raise ProtocolError(
            "expected None, bool, int, float, str, bytes, list or dict, "
            f"found {type(value).__name__}"
        )
    elif depth == MSGPACK_DEPTH_MAX:
        raise ProtocolError(
            f"expected at most {MSGPACK_DEPTH_MAX} nested containers, found more"
        )
    elif isinstance(value, dict):
        out += _pack_number("map", len(value))
        for key, item in value.items():
            _pack_into(out, key, depth + 1)
            _pack_into(out, item, depth + 1)
    else:
        out += _pack_number("array", len(value))
        for item in value:
            _pack_into(out, item, depth + 1)


def _pack_number(kind: str, number: int) -> bytes:
    """Pack a number or a size in the shortest form of its kind."""
    numbers, base, first, codes = _KINDS[kind]
    if number in numbers:
        return bytes((base + number,))
    bits = (~number).bit_length() + 1 if number < 0 else number.bit_length()
    for marker, code in enumerate(codes, first):
        layout = _LAYOUTS[code]
        if bits <= 8 * layout.size:
            return bytes((marker,)) + layout.pack(number)
    raise ProtocolError(
        f"expected a msgpack {kind} of at most {8 * layout.size} bits, "
        f"found one of {bits} bits"
    )


def unpack(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[Any, int]:
    """Read one msgpack value.

    An array that is the key of a map becomes a tuple. A map cannot be a key. If two
    keys are equal in Python (1 == True), the last one wins. Raises ProtocolError also
    for containers nested more deeply than MSGPACK_DEPTH_MAX or than the rest of
    Python's stack allows.
    """
    reader = _Reader(buffer, offset, end)
    try:
        return _unpack_from(reader, 0, False), reader.offset
    except RecursionError:
        raise ProtocolError(f"{_TOO_DEEP} at offset {offset}") from None


def _unpack_from(
    reader: _Reader,
    depth: int,
    is_key: bool,
) -> Any:
    """Read a value inside `depth` containers. `is_key`: in the key of a map."""
    start = reader.offset
    kind, value = _read_marker(reader)
    if kind == "bin":
        return reader.data(value, kind)
    if kind == "str":
        return reader.text(value, kind)
    if kind not in ("array", "map"):
        return value
    if is_key and kind == "map":
        raise _unexpected("a map key that is not a map", _describe(kind, value), start)
    # Each value in a container has at least one byte.
    least = 2 * value if kind == "map" else value
    if least > reader.end - reader.offset:
        raise reader.truncated(_describe(kind, value))
    if depth == MSGPACK_DEPTH_MAX:
        expected = f"at most {MSGPACK_DEPTH_MAX} nested containers"
        raise _unexpected(expected, "another one", start)
    if kind == "map":
        entries = {}
        for _ in range(value):
            key = _unpack_from(reader, depth + 1, True)
            entries[key] = _unpack_from(reader, depth + 1, False)
        return entries
    items = []
    for _ in range(value):
        items.append(_unpack_from(reader, depth + 1, is_key))
    return tuple(items) if is_key else items


def _read_marker(reader: _Reader) -> tuple[str, Any]:
    """Read a marker and the number after it, if there is one.

    Return the kind and the number or size.
    """
    start = reader.offset
    if start >= reader.end:
        raise reader.truncated("a msgpack value")
    marker = reader.buffer[start]
    if marker not in _MARKERS:
        expected = "nil, bool, a number, str, bin, array or map"
        raise _unexpected(expected, f"marker {marker:02x}", start)
    reader.offset += 1
    kind, number, layout = _MARKERS[marker]
    if layout is not None:
        number = reader.number(layout, "the number after a marker")
    return kind, number


_UNITS = {"str": "bytes", "bin": "bytes", "array": "items", "map": "entries"}


def _describe(kind: str, number: Any) -> str:
    """Describe what `_read_marker` returned, for errors."""
    if kind in _UNITS:
        return f"{kind} of {number} {_UNITS[kind]}"
    return "nil" if number is None else f"{kind} {number}"


def _read_count(reader: _Reader, kind: str, count: int) -> None:
    """Read the marker of a container of `count` items or entries."""
    start = reader.offset
    found = _read_marker(reader)
    if found != (kind, count):
        raise _unexpected(_describe(kind, count), _describe(*found), start)


def _read_unsigned(reader: _Reader, bits: int) -> int:
    start = reader.offset
    kind, number = _read_marker(reader)
    if kind not in ("uint", "int") or not 0 <= number < 1 << bits:
        raise _unexpected(f"a u{bits}", _describe(kind, number), start)
    return int(number)


def _read_text(reader: _Reader, name: str) -> str:
    """Read text that is a str or a bin."""
    start = reader.offset
    kind, size = _read_marker(reader)
    if kind not in ("str", "bin"):
        raise _unexpected(name, _describe(kind, size), start)
    return reader.text(size, name)


def _read_variant(reader: _Reader, variants: tuple[str, ...]) -> str:
    """Read the name of a variant of an enum."""
    start = reader.offset
    variant = _read_text(reader, "the name of a variant")
    if variant not in variants:
        expected = f"one of {', '.join(variants)}"
        raise _unexpected(expected, repr(variant[:20]), start)
    return variant


# ------------------------------------------------------------------------ task context


class TaskContext(_Record):
    """What a task is told about itself: an array of five values in msgpack.

    `task_id` is the index of the task in its job ({"Index": n} in msgpack), "Commit" or
    "Cleanup". `graph_outputs` is None, except in a commit task. There it is one byte,
    then the payload of the job's outputs: plain if the byte is 0, compressed with zstd
    if it is 1. In msgpack it is an array of integers.
    """

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
        """Return the context in msgpack, for the `raw_ctx` of a request."""
        task_id: Any = self.task_id
        if not isinstance(task_id, str):
            task_id = {"Index": task_id}
        outputs: Any = self.graph_outputs
        if outputs is not None:
            outputs = list(outputs)
        return pack(
            [
                self.job_id,
                task_id,
                self.task_instance_id,
                self.resource_group_id,
                outputs,
            ]
        )


def decode_task_ids(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[tuple[int, int | str, int], int]:
    """Read job_id, task_id and task_instance_id, with which a TaskContext starts.

    Returns the three and the offset after them. What follows is not looked at.
    """
    reader = _Reader(buffer, offset, end)
    _read_count(reader, "array", 5)
    job_id = _read_unsigned(reader, 64)
    task_id: int | str
    start = reader.offset
    if _read_marker(reader) == ("map", 1):
        _read_variant(reader, ("Index",))
        task_id = _read_unsigned(reader, 64)
    else:
        reader.offset = start
        task_id = _read_variant(reader, ("Commit", "Cleanup"))
    task_instance_id = _read_unsigned(reader, 64)
    return (job_id, task_id, task_instance_id), reader.offset


# ------------------------------------------------------------------------------ errors

# In the order of the Rust definition: a package may send the index of a variant instead
# of its name.
TDL_ERROR_VARIANTS = (
    "TaskNotFound",
    "DeserializationError",
    "SerializationError",
    "ExecutionError",
    "InvalidTaskContext",
    "Custom",
)
EXECUTOR_ERROR_VARIANTS = (
    "InvalidLibrary",
    "IncompatibleVersion",
    "DuplicatePackage",
    "InvalidUtf8",
    "TaskError",
    "PackageInitError",
    "ErrorPayloadDeserializationFailure",
)


class _Error(Exception):
    """A variant of a Rust enum and its content. Errors are compared by both."""

    _variants: tuple[str, ...]

    def __init__(self, variant: str, content: Any) -> None:
        if variant not in self._variants:
            raise ValueError(
                f"expected one of {', '.join(self._variants)}, found {variant!r}"
            )
        super().__init__(variant, content)
        self.variant = variant

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.args == self.args

    def __hash__(self) -> int:
        return hash(self.args)

    def __str__(self) -> str:
        return f"{self.variant}: {self.args[1]}"

    def encode(self) -> bytes:
        """Return the error in msgpack: {variant: content}."""
        content = self.args[1]
        if isinstance(content, _Error):
            content = {content.variant: content.args[1]}
        return pack({self.variant: content})


class TdlError(_Error):
    """The error that a package returned: one of TDL_ERROR_VARIANTS and a text.

    In msgpack it is {variant: text}. Raises ValueError for any other variant.
    """

    _variants = TDL_ERROR_VARIANTS

    def __init__(self, variant: str, text: str) -> None:
        super().__init__(variant, text)
        self.text = text


class ExecutorError(_Error):
    """The error in a Failure: one of EXECUTOR_ERROR_VARIANTS and its content.

    The content is a TdlError in TaskError and PackageInitError. It is a tuple of six
    integers in IncompatibleVersion: major, minor and patch that the package was built
    for, then those of the executor. In all others it is a str. In msgpack the error is
    {variant: content}. Raises ValueError for any other variant.
    """

    _variants = EXECUTOR_ERROR_VARIANTS

    def __init__(
        self,
        variant: str,
        content: str | TdlError | tuple[int, ...],
    ) -> None:
        super().__init__(variant, content)
        self.content = content

    def __str__(self) -> str:
        if not isinstance(self.content, tuple):
            return super().__str__()
        text = "{}: the package was built for {}.{}.{}, this executor is {}.{}.{}"
        return text.format(self.variant, *self.content)


def decode_tdl_error(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[TdlError, int]:
    """Read a TdlError.

    Its variant may be a name (str or bin) or an index (any unsigned form), and its text
    str or bin.
    """
    reader = _Reader(buffer, offset, end)
    _read_count(reader, "map", 1)
    start = reader.offset
    kind, index = _read_marker(reader)
    if kind == "uint" and index < len(TDL_ERROR_VARIANTS):
        variant = TDL_ERROR_VARIANTS[index]
    else:
        reader.offset = start
        variant = _read_variant(reader, TDL_ERROR_VARIANTS)
    text = _read_text(reader, f"the text of {variant}")
    return TdlError(variant, text), reader.offset


def decode_executor_error(
    buffer: Buffer,
    offset: int = 0,
    end: int | None = None,
) -> tuple[ExecutorError, int]:
    """Read an ExecutorError as `ExecutorError.encode` writes it."""
    reader = _Reader(buffer, offset, end)
    _read_count(reader, "map", 1)
    variant = _read_variant(reader, EXECUTOR_ERROR_VARIANTS)
    content: Any
    if variant in ("TaskError", "PackageInitError"):
        content, reader.offset = decode_tdl_error(buffer, reader.offset, end)
    elif variant == "IncompatibleVersion":
        _read_count(reader, "array", 6)
        content = tuple(_read_unsigned(reader, 32) for _ in range(6))
    else:
        content = _read_text(reader, f"the text of {variant}")
    return ExecutorError(variant, content), reader.offset
