"""TdlError and ExecutorError: kinds, texts, and which bytes are a TdlError when a package returns them."""

import copy
import pickle
import struct

import pytest
import vectors
from helpers.codec import END, refuses

import protocol
from protocol import (
    ExecutorError,
    TdlError,
    TruncatedError,
    decode_executor_error,
    decode_tdl_error,
)

ONE_TDL_KIND = "one of " + ", ".join(protocol.TDL_ERROR_KINDS)
ONE_EXECUTOR_KIND = "one of " + ", ".join(protocol.EXECUTOR_ERROR_KINDS)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TdlError("Custom", "no licence"), "Custom: no licence"),
        (
            ExecutorError("InvalidLibrary", "a.so: cut short"),
            "InvalidLibrary: a.so: cut short",
        ),
        (
            ExecutorError("IncompatibleVersion", (0, 2, 30, 0, 1, 4)),
            "IncompatibleVersion: the package was built for 0.2.30, this executor is 0.1.4",
        ),
        (ExecutorError("TaskError", TdlError("Custom", "x")), "TaskError: Custom: x"),
    ],
)
def test_an_error_is_an_exception_with_a_text(error, text):
    assert str(error) == text
    assert isinstance(error, Exception)
    assert not isinstance(error, ValueError)
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert copied == error
        assert hash(copied) == hash(error)
        assert str(copied) == text
        assert (type(copied), vars(copied)) == (type(error), vars(error))


def test_errors_are_equal_if_class_kind_and_content_are():
    different = [
        TdlError("Custom", "x"),
        TdlError("Custom", "y"),
        TdlError("ExecutionError", "x"),
        ExecutorError("InvalidUtf8", "x"),
        ExecutorError("TaskError", TdlError("Custom", "x")),
        ExecutorError("TaskError", TdlError("Custom", "y")),
        Exception("Custom", "x"),
    ]
    for position, error in enumerate(different):
        assert [error == other for other in different] == [
            index == position for index in range(len(different))
        ]
    assert len(set(different)) == len(different)
    assert different[:1] == [TdlError(kind="Custom", text="x")]
    assert different[3:4] == [ExecutorError(kind="InvalidUtf8", content="x")]


def test_an_unknown_kind_is_refused():
    with pytest.raises(
        ValueError, match=f"^expected {ONE_TDL_KIND}, found 'TaskError'$"
    ):
        TdlError("TaskError", "x")
    with pytest.raises(
        ValueError, match=f"^expected {ONE_EXECUTOR_KIND}, found 'Custom'$"
    ):
        ExecutorError("Custom", "x")


def every_form(text):
    """Return a text as str and as bin, in every width that holds it."""
    data = text.encode()
    size = len(data)
    heads = [bytes((0xA0 | size,)), bytes((0xD9, size)), bytes((0xC4, size))]
    heads += [marker + struct.pack(">H", size) for marker in (b"\xda", b"\xc5")]
    heads += [marker + struct.pack(">I", size) for marker in (b"\xdb", b"\xc6")]
    return [head + data for head in heads]


@pytest.mark.parametrize("index", range(6))
def test_every_form_of_a_tdl_error(index):
    kind = vectors.TDL_ERRORS[index][0].kind
    expected = TdlError(kind, "é")
    indexes = [bytes((index,)), bytes((0xCC, index))]
    indexes += [
        struct.pack(form, marker, index)
        for form, marker in ((">BH", 0xCD), (">BI", 0xCE), (">BQ", 0xCF))
    ]
    for head in (b"\x81", b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"):
        for key in every_form(kind) + indexes:
            for text in every_form("é"):
                data = head + key + text
                assert decode_tdl_error(data + b"\xc1") == (expected, len(data))
                with pytest.raises(TruncatedError):
                    decode_tdl_error(data[:-1])


CUSTOM = "81 a6 437573746f6d"
ONE_ENTRY, KIND, TEXT = (
    "a map of one entry",
    "the kind of an error",
    "the text of Custom",
)


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("", f"a msgpack value, {END} 0 bytes", 0),
        ("c1", "nil, bool, a number, str, bin, array or map, found marker c1", 0),
        ("c0", f"{ONE_ENTRY}, found nil", 0),
        ("c3", f"{ONE_ENTRY}, found bool True", 0),
        ("07", f"{ONE_ENTRY}, found uint 7", 0),
        ("ca3fc00000", f"{ONE_ENTRY}, found float 1.5", 0),
        ("a6 437573746f6d", f"{ONE_ENTRY}, found str of 6 bytes", 0),
        ("c403 8105a0", f"{ONE_ENTRY}, found bin of 3 bytes", 0),
        ("91 a178", f"{ONE_ENTRY}, found array of 1 items", 0),
        ("de0002 05a0 05a0", f"{ONE_ENTRY}, found map of 2 entries", 0),
        ("81", f"a msgpack value, {END} 0 bytes", 1),
        ("81 c0 a178", f"{KIND}, found nil", 1),
        ("81 06 a178", f"{KIND}, found uint 6", 1),
        ("81 cf0000000100000000 a178", f"{KIND}, found uint 4294967296", 1),
        ("81 d30000000000000005 a178", f"{KIND}, found int 5", 1),
        (
            "81 d40005 a178",
            "nil, bool, a number, str, bin, array or map, found marker d4",
            1,
        ),
        ("81 a6 637573746f6d a178", f"{ONE_TDL_KIND}, found 'custom'", 1),
        ("81 a6 437573746fff a178", f"{KIND} in UTF-8, found byte ff", 7),
        ("81 d930" + "78" * 48 + "a178", f"{ONE_TDL_KIND}, found '{'x' * 20}'", 1),
        (CUSTOM, f"a msgpack value, {END} 0 bytes", 8),
        (CUSTOM + "c0", f"{TEXT}, found nil", 8),
        (CUSTOM + "a2 61ff", f"{TEXT} in UTF-8, found byte ff", 10),
        (CUSTOM + "c403 eda080", f"{TEXT} in UTF-8, found byte ed", 10),
        (CUSTOM + "dbffffffff 78", f"{TEXT} of 4294967295 bytes, {END} 1 bytes", 13),
    ],
)
def test_bytes_that_are_not_a_tdl_error(data, text, offset):
    refuses(decode_tdl_error, data, text, offset)
    refuses(decode_executor_error, "81 a9 5461736b4572726f72" + data, text, 11 + offset)


VERSION = "81 b3 496e636f6d70617469626c6556657273696f6e"
SIX = "an array of six u32 version numbers, found another value"


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("c0", f"{ONE_ENTRY}, found nil", 0),
        ("81 04 8105a0", f"{KIND}, found uint 4", 1),
        ("81 a6 437573746f6d a178", f"{ONE_EXECUTOR_KIND}, found 'Custom'", 1),
        ("81 d930" + "78" * 48 + "a178", f"{ONE_EXECUTOR_KIND}, found '{'x' * 20}'", 1),
        (
            "81 ae 496e76616c69644c696272617279 c0",
            "the text of InvalidLibrary, found nil",
            16,
        ),
        (VERSION + "c0", SIX, 21),
        (VERSION + "95 0001000001", SIX, 21),
        (VERSION + "97 00010000010000", SIX, 21),
        (VERSION + "96 0001000001c3", SIX, 21),
        (VERSION + "96 000100ff0100", SIX, 21),
        (VERSION + "96 00cf000000010000000000000000", SIX, 21),
        (VERSION + "96 0001000001", f"array of 6 items, {END} 5 bytes", 22),
        # Deeper than Python's own recursion limit.
        pytest.param(VERSION + "91" * 1022 + "00", SIX, 21, id="nested"),
    ],
)
def test_bytes_that_are_not_an_executor_error(data, text, offset):
    refuses(decode_executor_error, data, text, offset)
