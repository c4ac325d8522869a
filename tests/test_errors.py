"""ExecutorError and TdlError: variants, texts, and what counts as a TdlError when a package returns one."""

from __future__ import annotations

import copy
import pickle
import re
import struct

import pytest
import vectors

import protocol
from protocol import (
    Custom,
    DeserializationError,
    DuplicatePackage,
    ErrorPayloadDeserializationFailure,
    ExecutionError,
    ExecutorError,
    IncompatibleVersion,
    InvalidLibrary,
    InvalidTaskContext,
    InvalidUtf8,
    PackageInitError,
    ProtocolError,
    SerializationError,
    TaskError,
    TaskNotFound,
    TdlError,
    TruncatedError,
    decode_executor_error,
    decode_tdl_error,
)

VARIANTS = [
    "TaskNotFound",
    "DeserializationError",
    "SerializationError",
    "ExecutionError",
    "InvalidTaskContext",
    "Custom",
]


def test_the_variants_and_their_order():
    assert [variant.__name__ for variant in protocol.TDL_VARIANTS] == VARIANTS
    assert {variant.__name__ for variant in TdlError.__subclasses__()} == set(VARIANTS)
    leaves = {
        item.__name__
        for item in vars(protocol).values()
        if isinstance(item, type) and issubclass(item, ExecutorError) and not item.__subclasses__()
    }
    assert leaves == {
        "InvalidLibrary",
        "IncompatibleVersion",
        "DuplicatePackage",
        "InvalidUtf8",
        "TaskError",
        "PackageInitError",
        "ErrorPayloadDeserializationFailure",
    }


def test_every_variant_has_a_golden_vector():
    errors = [error for error, _ in vectors.EXECUTOR_ERRORS]
    assert {type(error) for error in errors} == {
        InvalidLibrary,
        IncompatibleVersion,
        DuplicatePackage,
        InvalidUtf8,
        TaskError,
        PackageInitError,
        ErrorPayloadDeserializationFailure,
    }
    for wrapper in (TaskError, PackageInitError):
        assert {type(error.error).__name__ for error in errors if isinstance(error, wrapper)} == set(VARIANTS)
    assert {type(error).__name__ for error, _ in vectors.TDL_ERRORS} == set(VARIANTS)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InvalidLibrary("a.so: cut short"), "InvalidLibrary: a.so: cut short"),
        (
            IncompatibleVersion((0, 2, 30), (0, 1, 0)),
            "IncompatibleVersion: the package was built for 0.2.30, this executor is 0.1.0",
        ),
        (DuplicatePackage("complex"), "DuplicatePackage: complex"),
        (InvalidUtf8("byte ff"), "InvalidUtf8: byte ff"),
        (TaskError(ExecutionError("no disk")), "TaskError: ExecutionError: no disk"),
        (PackageInitError(Custom("no licence")), "PackageInitError: Custom: no licence"),
        (ErrorPayloadDeserializationFailure("nil"), "ErrorPayloadDeserializationFailure: nil"),
    ],
)
def test_text_and_fields(error, text):
    assert str(error) == text
    assert isinstance(error, ExecutorError)
    assert error == type(error)(*error.args)
    assert hash(error) == hash(type(error)(*error.args))
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert copied == error
        assert str(copied) == text


def test_fields():
    error = IncompatibleVersion((0, 2, 3), (0, 1, 0))
    assert (error.package, error.executor) == ((0, 2, 3), (0, 1, 0))
    assert TaskError(Custom("x")).error == Custom("x")
    assert Custom("x").text == "x"


def test_different_errors_are_not_equal():
    assert Custom("x") != Custom("y")
    assert Custom("x") != ExecutionError("x")
    assert TaskError(Custom("x")) != PackageInitError(Custom("x"))
    assert TaskError(Custom("x")) != TaskError(ExecutionError("x"))
    assert InvalidUtf8("x") != DuplicatePackage("x")


# ------------------------------------------------------------------------------------------ what a package may return


def every_form(text: str) -> list[bytes]:
    """A text as str and as bin, in every width that holds it."""
    data = text.encode()
    size = len(data)
    forms = [b"\xda" + struct.pack(">H", size), b"\xdb" + struct.pack(">I", size)]
    forms += [b"\xc5" + struct.pack(">H", size), b"\xc6" + struct.pack(">I", size)]
    if size < 32:
        forms.append(bytes((0xA0 | size,)))
    if size < 256:
        forms += [bytes((0xD9, size)), bytes((0xC4, size))]
    return [form + data for form in forms]


@pytest.mark.parametrize("index", range(6))
def test_every_form_of_a_tdl_error(index):
    expected = protocol.TDL_VARIANTS[index]("é")
    assert type(expected).__name__ == VARIANTS[index]
    keys = [*every_form(VARIANTS[index]), bytes((index,)), bytes((0xCC, index))]
    canonical = b"\x81" + bytes((0xA0 | len(VARIANTS[index]),)) + VARIANTS[index].encode() + b"\xa2\xc3\xa9"
    for head in (b"\x81", b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"):
        for key in keys:
            for text in every_form("é"):
                data = head + key + text
                for behind in (b"", b"\xc1", b"\x00" * 9):
                    found, end = decode_tdl_error(data + behind)
                    assert (found, end) == (expected, len(data))
                    assert found.encode() == canonical
                with pytest.raises(TruncatedError):
                    decode_tdl_error(data[:-1])


CUSTOM = "a6 437573746f6d"


@pytest.mark.parametrize(
    "data",
    [
        "",
        "c1",
        "c0",
        "c3",
        "00",
        "ff",
        "a0",
        CUSTOM,
        "90",
        "91 a178",
        "92" + CUSTOM + "a178",
        "dc0001 a178",
        "80",
        "de0000",
        "82" + (CUSTOM + "a178") * 2,
        "df00000002" + (CUSTOM + "a178") * 2,
        "c4 03 81 05 a0",
        "d6 ff 00000000",
        "81",
        "81 c0 a178",
        "81 c1 a178",
        "81 c2 a178",
        "81 90 a178",
        "81 80 a178",
        "81 06 a178",
        "81 7f a178",
        "81 ff a178",
        "81 cc06 a178",
        "81 ccff a178",
        # An index in a wider or a signed form.
        "81 cd0005 a178",
        "81 ce00000005 a178",
        "81 cf0000000000000005 a178",
        "81 d005 a178",
        "81 d10005 a178",
        "81 d200000005 a178",
        "81 d30000000000000005 a178",
        "81 ca40a00000 a178",
        "81 cb4014000000000000 a178",
        "81 d4 00 05 a178",
        "81 a6 637573746f6d a178",
        "81 a6 435553544f4d a178",
        "81 a7 437573746f6d20 a178",
        "81 a7 437573746f6d00 a178",
        "81 a5 437573746f a178",
        "81 a0 a178",
        "81 a1 35 a178",
        "81 a6 437573746fff a178",
        "81" + CUSTOM,
        "81" + CUSTOM + "c0",
        "81" + CUSTOM + "00",
        "81" + CUSTOM + "c3",
        "81" + CUSTOM + "91 a178",
        "81" + CUSTOM + "81 00 a178",
        "81" + CUSTOM + "92 01 02",
        "81" + CUSTOM + "c1",
        "81" + CUSTOM + "d4 00 05",
        "81" + CUSTOM + "ca00000000",
        "81" + CUSTOM + "a1 ff",
        "81" + CUSTOM + "c401 ff",
        "81" + CUSTOM + "a3 eda080",
        "81" + CUSTOM + "a2 c080",
        "81" + CUSTOM + "a2 78",
        "81" + CUSTOM + "dbffffffff 78",
        "81 05",
        "81 05 a1",
        "81 dbffffffff",
    ],
)
def test_what_is_no_tdl_error(data):
    data = bytes.fromhex(data)
    with pytest.raises(ProtocolError):
        decode_tdl_error(data)
    with pytest.raises(ProtocolError):
        decode_tdl_error(b"\x81" + data, 1)
    with pytest.raises(ProtocolError):
        decode_tdl_error(data + b"\x81\x05\xa1x", 0, len(data))


def test_what_is_said_of_it():
    for data, text in (
        (b"", "expected a msgpack value, found the end"),
        (b"\xc0", "expected a map of one entry, found nil at offset 0"),
        (b"\x92\x00\x00", "expected a map of one entry, found array 2 at offset 0"),
        (b"\x81\xa4Nope\xa0", "expected one of TaskNotFound, .*, Custom, found 'Nope' at offset 1"),
        (b"\x81\x09\xa0", "expected one of TaskNotFound, .*, Custom, found int 9 at offset 1"),
        (b"\x81\x05\xc3", "expected the text of Custom, found constant at offset 2"),
        (b"\x81\x05\xa1\xff", "expected the text of Custom in UTF-8, found byte ff at offset 3"),
    ):
        with pytest.raises(ProtocolError, match=text):
            decode_tdl_error(data)


def test_a_long_variant_is_not_repeated_in_full():
    with pytest.raises(ProtocolError) as caught:
        decode_tdl_error(b"\x81\xdb\x00\x01\x00\x00" + b"N" * 65536 + b"\xa0")
    assert len(str(caught.value)) < 400


# --------------------------------------------------------------------------------------------------- ExecutorError read

VERSION_KEY = "81 b3 496e636f6d70617469626c6556657273696f6e"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("c0", "a map of one entry"),
        ("80", "a map of one entry"),
        ("82 a9 5461736b4572726f72 8105a0 a9 5461736b4572726f72 8105a0", "a map of one entry"),
        ("81 c0 a178", "one of InvalidLibrary, .*found nil"),
        ("81 a4 4e6f7065 a178", "one of InvalidLibrary, .*found str of 4 bytes"),
        ("81 a6 437573746f6d a178", "one of InvalidLibrary"),
        ("81 ae 496e76616c69644c696272617279 c0", "the text of InvalidLibrary, found nil"),
        ("81 ae 496e76616c69644c696272617279 91a178", "the text of InvalidLibrary, found an array of 1"),
        ("81 a9 5461736b4572726f72 a178", "a map of one entry"),
        ("81 a9 5461736b4572726f72 81a0a178", "one of TaskNotFound"),
        ("81 b0 5061636b616765496e69744572726f72 c0", "a map of one entry"),
        (VERSION_KEY + "c0", "six version numbers, found nil"),
        (VERSION_KEY + "95 0001000001", "six version numbers, found an array of 5"),
        (VERSION_KEY + "97 00010000010000", "six version numbers, found an array of 7"),
        (VERSION_KEY + "96 0001000001c3", "version numbers as u32"),
        (VERSION_KEY + "96 0001000001ff", "version numbers as u32"),
        (VERSION_KEY + "96 00010000cf000000010000000000", "version numbers as u32"),
    ],
)
def test_what_is_no_executor_error(data, text):
    with pytest.raises(ProtocolError, match=f"expected .*{text}"):
        decode_executor_error(bytes.fromhex(data))


def test_a_reading_error_is_no_failure_of_a_task():
    assert not issubclass(ExecutorError, ProtocolError)
    assert not issubclass(TdlError, ProtocolError)
    for error in (TaskNotFound, DeserializationError, SerializationError, InvalidTaskContext):
        assert re.match(rf"{error.__name__}: why", str(error("why")))
