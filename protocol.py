"""The wire format between a Spider execution manager and its task executors.

Everything here turns bytes into values or values into bytes. Nothing here does I/O. The layers, from the outside in:

    frame     u32 BIG-endian length of the body | body                         a body has at most 8 MiB
    body      a request or a response in bincode 1.3: little-endian, fixed width; an enum is a u32 index, then its
              fields; a string or a byte vector is a u64 length, then its bytes
    payload   u32 LE count | count x (u32 LE length | value)                   the inputs or the outputs of a task
    value     one msgpack value as Rust's rmp-serde writes it (a struct is an array, without field names)

    Request   = 0 Execute  { package: string, task_func: string, raw_ctx: bytes, raw_inputs: bytes }
              | 1 Shutdown
    Response  = 0 Result   { outcome: Outcome, elapsed_us: u64 }
    Outcome   = 0 Success  { outputs: bytes }         a payload
              | 1 Failure  { error: bytes }           an ExecutorError in msgpack

`raw_ctx` is a TaskContext in msgpack. `raw_inputs` is a payload. The executor looks into neither.

Every decoder takes `(buffer, offset, end)` and returns `(value, offset after it)`. A decoder never reads at or past
`end`, never allocates more than the buffer holds, and raises ProtocolError and nothing else. It ignores bytes after a
complete value.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Union

    Buffer = Union[bytes, bytearray, memoryview]

__all__ = [
    "EXECUTOR_ERROR_KINDS",
    "FAILURE",
    "FRAME_BODY_MAX",
    "FRAME_HEADER_SIZE",
    "MSGPACK_DEPTH_MAX",
    "RESPONSE_DATA_MAX",
    "SUCCESS",
    "TDL_ERROR_KINDS",
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
_BE_F64 = Struct(">d")
_LE_U32 = Struct("<I")
_LE_U64 = Struct("<Q")


class ProtocolError(ValueError):
    """Malformed bytes, or a value that cannot be encoded."""


class TruncatedError(ProtocolError):
    """The bytes are valid so far, but the input ends before the value is complete."""


def _unexpected(expected: str, found: str, offset: int) -> ProtocolError:
    return ProtocolError(f"expected {expected}, found {found} at offset {offset}")


def _truncated(expected: str, found: int, offset: int) -> TruncatedError:
    return TruncatedError(
        f"expected {expected}, found the end after {found} bytes at offset {offset}"
    )


def _number(
    layout: Struct, buffer: Buffer, offset: int, end: int, name: str
) -> tuple[int, int]:
    """Read one number. `name` is its name in the error."""
    if end - offset < layout.size:
        raise _truncated(f"{name} ({layout.size} bytes)", end - offset, offset)
    return layout.unpack_from(buffer, offset)[0], offset + layout.size


def _data(
    size: int, buffer: Buffer, offset: int, end: int, name: str
) -> tuple[bytes, int]:
    """Read `size` bytes."""
    if size > end - offset:
        raise _truncated(f"{name} of {size} bytes", end - offset, offset)
    return bytes(buffer[offset : offset + size]), offset + size


def _field(
    layout: Struct, buffer: Buffer, offset: int, end: int, name: str
) -> tuple[bytes, int]:
    """Read a length and that many bytes."""
    size, offset = _number(layout, buffer, offset, end, f"the length of {name}")
    return _data(size, buffer, offset, end, name)


def _decode_text(data: bytes, offset: int, name: str) -> str:
    """Decode UTF-8 that was read at `offset`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _unexpected(
            f"{name} in UTF-8", f"byte {data[error.start]:02x}", offset + error.start
        ) from None


def _encode_text(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ProtocolError(
            f"expected text, found a lone surrogate at character {error.start}"
        ) from None


class _Record:
    """A value with named fields. Records are compared by their fields."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._fields() == self._fields()

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__name__}({fields})"


# --------------------------------------------------------------------------------------------------------------- frames

FRAME_HEADER_SIZE = 4
FRAME_BODY_MAX = 8 * 1024 * 1024


def encode_frame(body: Buffer) -> bytes:
    """Put the length before `body`. Raises ProtocolError if the body has more than FRAME_BODY_MAX bytes."""
    if len(body) > FRAME_BODY_MAX:
        raise _body_too_large(len(body))
    return b"".join((_BE_U32.pack(len(body)), body))


def decode_frame(buffer: Buffer, offset: int = 0) -> tuple[bytes, int]:
    """Read one frame. Returns its body and the offset after it.

    Raises TruncatedError if the frame is not complete yet, ProtocolError if its length is more than FRAME_BODY_MAX.
    """
    start = offset + FRAME_HEADER_SIZE
    if start > len(buffer):
        raise _truncated("a frame header (4 bytes)", len(buffer) - offset, offset)
    return _data(
        frame_end(buffer, offset) - start, buffer, start, len(buffer), "a frame body"
    )


def frame_end(buffer: Buffer, offset: int) -> int:
    """Return the offset after the frame that starts at `offset`. The buffer must hold at least its 4-byte header.

    Raises ProtocolError if the length in the header is more than FRAME_BODY_MAX.
    """
    length: int = _BE_U32.unpack_from(buffer, offset)[0]
    if length > FRAME_BODY_MAX:
        raise _body_too_large(length)
    return offset + FRAME_HEADER_SIZE + length


def _body_too_large(length: int) -> ProtocolError:
    return ProtocolError(
        f"expected a frame body of at most {FRAME_BODY_MAX} bytes, found a length of {length}"
    )


# ------------------------------------------------------------------------------------------------------------- requests

_EXECUTE, _SHUTDOWN = 0, 1
_TAG_AND_LENGTH = Struct("<IQ")


class Execute(_Record):
    """The request to run the task `task_func` of `package` with a TaskContext in msgpack and a payload of inputs."""

    __slots__ = ("package", "task_func", "raw_ctx", "raw_inputs")

    def __init__(
        self, package: str, task_func: str, raw_ctx: bytes, raw_inputs: bytes
    ) -> None:
        self.package = package
        self.task_func = task_func
        self.raw_ctx = raw_ctx
        self.raw_inputs = raw_inputs


class Shutdown(_Record):
    """The request to exit. It has no response."""

    __slots__ = ()


def encode_request(request: Execute | Shutdown) -> bytes:
    """Return the body of a request. Raises ProtocolError if a name contains a lone surrogate."""
    if isinstance(request, Shutdown):
        return _LE_U32.pack(_SHUTDOWN)
    parts = [_LE_U32.pack(_EXECUTE)]
    names = (_encode_text(request.package), _encode_text(request.task_func))
    for field in (*names, request.raw_ctx, request.raw_inputs):
        parts += (_LE_U64.pack(len(field)), field)
    return b"".join(parts)


def decode_request(
    buffer: Buffer, offset: int = 0, end: int | None = None
) -> tuple[Execute | Shutdown, int]:
    """Read the body of a request."""
    end = len(buffer) if end is None else end
    tag, at = _number(_LE_U32, buffer, offset, end, "a request tag")
    if tag == _SHUTDOWN:
        return Shutdown(), at
    if tag != _EXECUTE:
        raise _unexpected(
            "request tag 0 (Execute) or 1 (Shutdown)", f"tag {tag}", offset
        )
    package, task_func, at = decode_names(buffer, offset, end)
    raw_ctx, at = _field(_LE_U64, buffer, at, end, "raw_ctx")
    raw_inputs, at = _field(_LE_U64, buffer, at, end, "raw_inputs")
    return Execute(package, task_func, raw_ctx, raw_inputs), at


def decode_names(buffer: Buffer, offset: int, end: int) -> tuple[str, str, int]:
    """Read package and task_func of the Execute that starts at `offset`. Returns both and the offset after them."""
    package, task_at = _field(_LE_U64, buffer, offset + 4, end, "package")
    task_func, after = _field(_LE_U64, buffer, task_at, end, "task_func")
    package_text = _decode_text(package, offset + 12, "package")
    return package_text, _decode_text(task_func, task_at + 8, "task_func"), after


def locate_request(
    buffer: Buffer, offset: int, end: int
) -> tuple[int, int, int, int, int, int] | None:
    """Find the fields of the Execute between `offset` and `end` without copying anything.

    Returns the offset and the size in bytes of task_func, raw_ctx and raw_inputs. Returns None for everything that is
    not a complete Execute: `decode_request` tells a Shutdown from an error.
    """
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
    # No size is negative. If the last field is within `end`, all of them are.
    if inputs_at + inputs_size <= end and tag == _EXECUTE:
        return task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size
    return None


# ------------------------------------------------------------------------------------------------------------ responses

_RESULT = 0
SUCCESS, FAILURE = 0, 1
_RESULT_TAG = _LE_U32.pack(_RESULT)
# The body of a response has two tags and a length before the outputs or the error, and the elapsed time after it.
_RESPONSE_OVERHEAD = 24
RESPONSE_DATA_MAX = FRAME_BODY_MAX - _RESPONSE_OVERHEAD


class Success(_Record):
    """The outcome of a task that returned. `outputs` is its payload."""

    __slots__ = ("outputs",)

    def __init__(self, outputs: bytes) -> None:
        self.outputs = outputs


class Failure(_Record):
    """The outcome of a task that failed or did not run. `error` is an ExecutorError in msgpack."""

    __slots__ = ("error",)

    def __init__(self, error: bytes) -> None:
        self.error = error


class Result(_Record):
    """The response to Execute. `elapsed_us` is the time that the executor took, in microseconds."""

    __slots__ = ("outcome", "elapsed_us")

    def __init__(self, outcome: Success | Failure, elapsed_us: int) -> None:
        self.outcome = outcome
        self.elapsed_us = elapsed_us


def response_head(outcome_tag: int, size: int) -> bytes:
    """Return everything before the data of a response frame, which is `size` bytes of outputs or of an error."""
    return (
        _BE_U32.pack(size + _RESPONSE_OVERHEAD)
        + _RESULT_TAG
        + _TAG_AND_LENGTH.pack(outcome_tag, size)
    )


# Returns everything after the data of a response frame, which is `elapsed_us`.
response_tail = _LE_U64.pack


def encode_response(response: Result) -> bytes:
    """Return the body of a response."""
    if isinstance(response.outcome, Success):
        tag, data = SUCCESS, response.outcome.outputs
    else:
        tag, data = FAILURE, response.outcome.error
    return (
        response_head(tag, len(data))[FRAME_HEADER_SIZE:]
        + data
        + response_tail(response.elapsed_us)
    )


def decode_response(
    buffer: Buffer, offset: int = 0, end: int | None = None
) -> tuple[Result, int]:
    """Read the body of a response."""
    end = len(buffer) if end is None else end
    tag, outcome_at = _number(_LE_U32, buffer, offset, end, "a response tag")
    if tag != _RESULT:
        raise _unexpected("response tag 0 (Result)", f"tag {tag}", offset)
    outcome_tag, at = _number(_LE_U32, buffer, outcome_at, end, "an outcome tag")
    outcome: Success | Failure
    if outcome_tag == SUCCESS:
        data, at = _field(_LE_U64, buffer, at, end, "outputs")
        outcome = Success(data)
    elif outcome_tag == FAILURE:
        data, at = _field(_LE_U64, buffer, at, end, "error")
        outcome = Failure(data)
    else:
        raise _unexpected(
            "outcome tag 0 (Success) or 1 (Failure)", f"tag {outcome_tag}", outcome_at
        )
    elapsed_us, at = _number(_LE_U64, buffer, at, end, "elapsed_us")
    return Result(outcome, elapsed_us), at


# ------------------------------------------------------------------------------------------------------------- payloads


def encode_payload(values: Iterable[bytes]) -> bytes:
    """Return the payload of values that are msgpack already."""
    parts: list[bytes] = []
    for value in values:
        parts += (_LE_U32.pack(len(value)), value)
    return b"".join((_LE_U32.pack(len(parts) // 2), *parts))


def decode_payload(
    buffer: Buffer, offset: int = 0, end: int | None = None
) -> tuple[list[bytes], int]:
    """Read a payload. Its values stay msgpack."""
    end = len(buffer) if end is None else end
    count, offset = _number(_LE_U32, buffer, offset, end, "a payload count")
    values = []
    for index in range(count):
        value, offset = _field(_LE_U32, buffer, offset, end, f"value {index}")
        values.append(value)
    return values, offset


def pack_values(*values: Any) -> bytes:
    """Return the payload of Python values; see `pack`."""
    return encode_payload(map(pack, values))


def unpack_values(payload: Buffer) -> list[Any]:
    """Return the Python values in a payload; see `unpack`."""
    return [unpack(value)[0] for value in decode_payload(payload)[0]]


# -------------------------------------------------------------------------------------------------------------- msgpack
#
# https://github.com/msgpack/msgpack/blob/master/spec.md. A small number or size is inside the marker byte. A larger one
# follows it in the narrowest form that holds it. The forms of each kind, narrowest first:

_FORMS = {
    "bin": ((0xC4, Struct(">B")), (0xC5, Struct(">H")), (0xC6, Struct(">I"))),
    "float": ((0xCA, Struct(">f")), (0xCB, _BE_F64)),
    "uint": (
        (0xCC, Struct(">B")),
        (0xCD, Struct(">H")),
        (0xCE, Struct(">I")),
        (0xCF, Struct(">Q")),
    ),
    "int": (
        (0xD0, Struct(">b")),
        (0xD1, Struct(">h")),
        (0xD2, Struct(">i")),
        (0xD3, Struct(">q")),
    ),
    "str": ((0xD9, Struct(">B")), (0xDA, Struct(">H")), (0xDB, Struct(">I"))),
    "array": ((0xDC, Struct(">H")), (0xDD, Struct(">I"))),
    "map": ((0xDE, Struct(">H")), (0xDF, Struct(">I"))),
}
# For each marker: its kind, the layout of the number after it (None: there is none), and the value inside it.
_MARKERS: dict[int, tuple[str, Struct | None, Any]] = {
    **{n: ("uint", None, n) for n in range(0x80)},
    **{0x80 + n: ("map", None, n) for n in range(16)},
    **{0x90 + n: ("array", None, n) for n in range(16)},
    **{0xA0 + n: ("str", None, n) for n in range(32)},
    0xC0: ("nil", None, None),
    0xC2: ("bool", None, False),
    0xC3: ("bool", None, True),
    **{
        marker: (kind, layout, None)
        for kind, forms in _FORMS.items()
        for marker, layout in forms
    },
    **{0x100 + n: ("int", None, n) for n in range(-32, 0)},  # e0 to ff
}

# rmp-serde reads at most this many containers inside one another.
MSGPACK_DEPTH_MAX = 1023


def pack(value: Any) -> bytes:
    """Return one value in msgpack. Numbers and sizes have the smallest form, as rmp-serde writes them.

    Takes None, bool, int (-2^63 to 2^64 - 1), float (written as f64), str, bytes and bytearray (bin), list and tuple
    (array), and dict (map). Rust writes a `Vec<u8>` as an array of integers, `list(b"...")`, but reads it from bin too.
    Raises ProtocolError for anything else, and for containers nested deeper than MSGPACK_DEPTH_MAX.
    """
    out = bytearray()
    # For each open container, an iterator over the items that remain.
    open_containers: list[Iterator[Any]] = [iter((value,))]
    while open_containers:
        for item in open_containers[-1]:
            if item is None:
                out.append(0xC0)
            elif isinstance(item, bool):
                out.append(0xC3 if item else 0xC2)
            elif isinstance(item, int):
                if -32 <= item < 128:
                    out.append(item & 0xFF)
                else:
                    out += _pack_number("uint" if item >= 0 else "int", item)
            elif isinstance(item, float):
                out += b"\xcb" + _BE_F64.pack(item)
            elif isinstance(item, str):
                text = _encode_text(item)
                out += _pack_size("str", 0xA0, 32, len(text))
                out += text
            elif isinstance(item, (bytes, bytearray)):
                out += _pack_number("bin", len(item))
                out += item
            elif isinstance(item, (list, tuple, dict)):
                if len(open_containers) > MSGPACK_DEPTH_MAX:
                    raise ProtocolError(
                        f"expected at most {MSGPACK_DEPTH_MAX} nested containers, found more"
                    )
                if isinstance(item, dict):
                    out += _pack_size("map", 0x80, 16, len(item))
                    open_containers.append(
                        part for entry in item.items() for part in entry
                    )
                else:
                    out += _pack_size("array", 0x90, 16, len(item))
                    open_containers.append(iter(item))
                break
            else:
                raise ProtocolError(
                    f"expected None, bool, int, float, str, bytes, list or dict, found {type(item).__name__}"
                )
        else:
            open_containers.pop()
    return bytes(out)


def _pack_size(kind: str, marker: int, limit: int, size: int) -> bytes:
    """Pack a size inside `marker` if it is below `limit`, otherwise after a marker."""
    return bytes((marker | size,)) if size < limit else _pack_number(kind, size)


def _pack_number(kind: str, number: int) -> bytes:
    """Pack a number or a size in the narrowest form of its kind."""
    bits = number.bit_length() if number >= 0 else (~number).bit_length() + 1
    for marker, layout in _FORMS[kind]:
        if bits <= 8 * layout.size:
            return bytes((marker,)) + layout.pack(number)
    raise ProtocolError(
        f"expected a msgpack {kind} of at most {8 * layout.size} bits, found one of {bits} bits"
    )


def unpack(buffer: Buffer, offset: int = 0, end: int | None = None) -> tuple[Any, int]:
    """Read one msgpack value.

    An array that is the key of a map becomes a tuple. A map cannot be a key. If two keys are equal in Python (1 ==
    True), the last one wins.
    """
    end = len(buffer) if end is None else end
    # For each open container: its kind, its items so far, and how many there will be (two for an entry of a map).
    # The kind of an array is "key" if it is the key of a map or part of one.
    open_containers: list[tuple[str, list[Any], int]] = []
    while True:
        at = offset
        kind, value, offset = _head(buffer, offset, end)
        if kind in ("str", "bin"):
            data, after = _data(value, buffer, offset, end, kind)
            value = data if kind == "bin" else _decode_text(data, offset, kind)
            offset = after
        elif kind in ("array", "map"):
            count = 2 * value if kind == "map" else value
            parent, siblings, _ = (
                open_containers[-1] if open_containers else ("", [], 0)
            )
            is_key = parent == "key" or (parent == "map" and len(siblings) % 2 == 0)
            if is_key and kind == "map":
                raise _unexpected(
                    "a map key that is not a map", _found(kind, value), at
                )
            if count > end - offset:
                raise _truncated(_found(kind, value), end - offset, offset)
            if len(open_containers) == MSGPACK_DEPTH_MAX:
                raise _unexpected(
                    f"at most {MSGPACK_DEPTH_MAX} nested containers", "another one", at
                )
            if count:
                open_containers.append(("key" if is_key else kind, [], count))
                continue
            value = {} if kind == "map" else () if is_key else []

        while open_containers:
            kind, items, count = open_containers[-1]
            items.append(value)
            if len(items) < count:
                break
            open_containers.pop()
            value = (
                dict(zip(items[::2], items[1::2]))
                if kind == "map"
                else tuple(items)
                if kind == "key"
                else items
            )
        else:
            return value, offset


def _head(buffer: Buffer, offset: int, end: int) -> tuple[str, Any, int]:
    """Read a marker and the number after it. Returns the kind, the number or size, and the offset after both."""
    if offset >= end:
        raise _truncated("a msgpack value", 0, offset)
    marker = buffer[offset]
    if marker not in _MARKERS:
        raise _unexpected(
            "nil, bool, a number, str, bin, array or map",
            f"marker {marker:02x}",
            offset,
        )
    kind, layout, value = _MARKERS[marker]
    if layout is None:
        return kind, value, offset + 1
    value, after = _number(layout, buffer, offset + 1, end, "the number after a marker")
    return kind, value, after


def _found(kind: str, value: Any) -> str:
    """Describe what `_head` returned, for errors."""
    if kind in ("array", "map"):
        return f"{kind} of {value} {'items' if kind == 'array' else 'entries'}"
    if kind in ("str", "bin"):
        return f"{kind} of {value} bytes"
    return kind if kind == "nil" else f"{kind} {value}"


# --------------------------------------------------------------------------------------------------------- task context


class TaskContext(_Record):
    """What a task is told about itself: an array of five values in msgpack.

    `task_id` is the index of the task in its job, "Commit" or "Cleanup". `graph_outputs` is None, except in a commit
    task: there it is one byte (0 for a plain payload, 1 for one compressed with zstd), then the payload of the job's
    outputs.
    """

    __slots__ = (
        "job_id",
        "task_id",
        "task_instance_id",
        "resource_group_id",
        "graph_outputs",
    )

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
        task_id = (
            self.task_id if isinstance(self.task_id, str) else {"Index": self.task_id}
        )
        outputs = None if self.graph_outputs is None else list(self.graph_outputs)
        return pack(
            [
                self.job_id,
                task_id,
                self.task_instance_id,
                self.resource_group_id,
                outputs,
            ]
        )


# --------------------------------------------------------------------------------------------------------------- errors

# In the order of the Rust definition: a package may send the index of a kind instead of its name.
TDL_ERROR_KINDS = (
    "TaskNotFound",
    "DeserializationError",
    "SerializationError",
    "ExecutionError",
    "InvalidTaskContext",
    "Custom",
)
EXECUTOR_ERROR_KINDS = (
    "InvalidLibrary",
    "IncompatibleVersion",
    "DuplicatePackage",
    "InvalidUtf8",
    "TaskError",
    "PackageInitError",
    "ErrorPayloadDeserializationFailure",
)


class _Error(Exception):
    """An error that is compared by its arguments."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and other.args == self.args

    def __hash__(self) -> int:
        return hash((type(self), self.args))


class TdlError(_Error):
    """The error that a package returned: one of TDL_ERROR_KINDS and a text. In msgpack: {kind: text}."""

    def __init__(self, kind: str, text: str) -> None:
        if kind not in TDL_ERROR_KINDS:
            raise ValueError(
                f"expected one of {', '.join(TDL_ERROR_KINDS)}, found {kind!r}"
            )
        super().__init__(kind, text)
        self.kind = kind
        self.text = text

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    def encode(self) -> bytes:
        return pack({self.kind: self.text})


class ExecutorError(_Error):
    """The error in a Failure: one of EXECUTOR_ERROR_KINDS and its content. In msgpack: {kind: content}.

    The content is a TdlError in TaskError and PackageInitError, a tuple of six integers in IncompatibleVersion (major,
    minor and patch that the package was built for, then those of the executor), and a str in all others.
    """

    def __init__(self, kind: str, content: str | TdlError | tuple[int, ...]) -> None:
        if kind not in EXECUTOR_ERROR_KINDS:
            raise ValueError(
                f"expected one of {', '.join(EXECUTOR_ERROR_KINDS)}, found {kind!r}"
            )
        super().__init__(kind, content)
        self.kind = kind
        self.content = content

    def __str__(self) -> str:
        if isinstance(self.content, tuple):
            package, executor = (
                ".".join(map(str, part))
                for part in (self.content[:3], self.content[3:])
            )
            return f"{self.kind}: the package was built for {package}, this executor is {executor}"
        return f"{self.kind}: {self.content}"

    def encode(self) -> bytes:
        content = self.content
        return pack(
            {
                self.kind: {content.kind: content.text}
                if isinstance(content, TdlError)
                else content
            }
        )


def decode_tdl_error(
    buffer: Buffer, offset: int = 0, end: int | None = None
) -> tuple[TdlError, int]:
    """Read a TdlError. Its kind may be a name (str or bin) or an index (any unsigned form), its text str or bin."""
    end = len(buffer) if end is None else end
    at = _one_entry(buffer, offset, end)
    form, index, after = _head(buffer, at, end)
    if form == "uint" and index < len(TDL_ERROR_KINDS):
        kind = TDL_ERROR_KINDS[index]
    else:
        kind, after = _kind(TDL_ERROR_KINDS, buffer, at, end)
    text, after = _text(buffer, after, end, f"the text of {kind}")
    return TdlError(kind, text), after


def decode_executor_error(
    buffer: Buffer, offset: int = 0, end: int | None = None
) -> tuple[ExecutorError, int]:
    """Read an ExecutorError as `ExecutorError.encode` writes it."""
    end = len(buffer) if end is None else end
    kind, content_at = _kind(
        EXECUTOR_ERROR_KINDS, buffer, _one_entry(buffer, offset, end), end
    )
    content: str | TdlError | tuple[int, ...]
    if kind in ("TaskError", "PackageInitError"):
        content, after = decode_tdl_error(buffer, content_at, end)
    elif kind == "IncompatibleVersion":
        numbers, after = unpack(buffer, content_at, end)
        is_array = isinstance(numbers, list) and len(numbers) == 6
        if not is_array or not all(
            type(number) is int and 0 <= number < 1 << 32 for number in numbers
        ):
            raise _unexpected(
                "an array of six u32 version numbers", "another value", content_at
            )
        content = tuple(numbers)
    else:
        content, after = _text(buffer, content_at, end, f"the text of {kind}")
    return ExecutorError(kind, content), after


def _one_entry(buffer: Buffer, offset: int, end: int) -> int:
    """Read the head of a map of one entry. Returns the offset of its key."""
    form, count, after = _head(buffer, offset, end)
    if form != "map" or count != 1:
        raise _unexpected("a map of one entry", _found(form, count), offset)
    return after


def _kind(
    kinds: tuple[str, ...], buffer: Buffer, offset: int, end: int
) -> tuple[str, int]:
    """Read the name of one of `kinds`."""
    kind, after = _text(buffer, offset, end, "the kind of an error")
    if kind not in kinds:
        raise _unexpected(f"one of {', '.join(kinds)}", repr(kind[:20]), offset)
    return kind, after


def _text(buffer: Buffer, offset: int, end: int, name: str) -> tuple[str, int]:
    """Read text that is a str or a bin."""
    form, size, at = _head(buffer, offset, end)
    if form not in ("str", "bin"):
        raise _unexpected(name, _found(form, size), offset)
    data, after = _data(size, buffer, at, end, name)
    return _decode_text(data, at, name), after
