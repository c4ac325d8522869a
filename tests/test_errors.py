"""TdlError and ExecutorError: their texts, and every form of a TdlError."""

import copy
import pickle
import struct

import pytest
import vectors
from helpers.rows import rows

from protocol import (
    EXECUTOR_ERROR_VARIANTS,
    TDL_ERROR_VARIANTS,
    ExecutorError,
    TdlError,
    TruncatedError,
    decode_tdl_error,
)

TEXTS = {
    "Custom: no licence": TdlError("Custom", "no licence"),
    "InvalidLibrary: a.so: cut short": ExecutorError(
        "InvalidLibrary", "a.so: cut short"
    ),
    "TaskError: Custom: x": ExecutorError("TaskError", TdlError("Custom", "x")),
    "IncompatibleVersion: the package was built for 0.2.30, this executor is 0.1.4": (
        ExecutorError("IncompatibleVersion", (0, 2, 30, 0, 1, 4))
    ),
}


@pytest.mark.parametrize("text", TEXTS)
def test_an_error_is_an_exception_with_a_text(text):
    error = TEXTS[text]
    assert str(error) == text
    assert isinstance(error, Exception)
    assert not isinstance(error, ValueError)


@pytest.mark.parametrize("text", TEXTS)
def test_a_copy_of_an_error_is_equal(text):
    error = TEXTS[text]
    for copied in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert copied == error
        assert hash(copied) == hash(error)
        assert (type(copied), vars(copied)) == (type(error), vars(error))


def test_errors_are_equal_if_class_variant_and_content_are():
    different = [
        TdlError(variant="Custom", text="x"),
        TdlError("Custom", "y"),
        TdlError("ExecutionError", "x"),
        ExecutorError(variant="InvalidUtf8", content="x"),
        ExecutorError("TaskError", TdlError("Custom", "x")),
        ExecutorError("TaskError", TdlError("Custom", "y")),
        Exception("Custom", "x"),
    ]
    for position, error in enumerate(different):
        same = [index for index, other in enumerate(different) if error == other]
        assert same == [position]
    assert len({*different, TdlError("Custom", "x")}) == len(different)


@rows(
    "error, variants, wrong",
    {
        "tdl": (TdlError, TDL_ERROR_VARIANTS, "TaskError"),
        "executor": (ExecutorError, EXECUTOR_ERROR_VARIANTS, "Custom"),
    },
)
def test_an_unknown_variant_is_refused(error, variants, wrong):
    with pytest.raises(ValueError, match="expected") as caught:
        error(wrong, "x")
    assert (
        str(caught.value) == f"expected one of {', '.join(variants)}, found '{wrong}'"
    )


def every_form(text):
    """Return a text as str and as bin, in every width that holds it."""
    data = text.encode()
    size = len(data)
    heads = [bytes((0xA0 | size,)), bytes((0xD9, size)), bytes((0xC4, size))]
    heads += [struct.pack(">BH", marker, size) for marker in (0xDA, 0xC5)]
    heads += [struct.pack(">BI", marker, size) for marker in (0xDB, 0xC6)]
    return [head + data for head in heads]


@pytest.mark.parametrize(
    ("index", "variant"),
    [
        pytest.param(index, error.variant, id=error.variant)
        for index, (_, _, error) in enumerate(vectors.TDL_ERRORS)
    ],
)
def test_every_form_of_a_tdl_error(index, variant):
    expected = TdlError(variant, "é")
    indexes = [bytes((index,)), bytes((0xCC, index))]
    for marker, layout in ((0xCD, ">BH"), (0xCE, ">BI"), (0xCF, ">BQ")):
        indexes.append(struct.pack(layout, marker, index))
    for head in (b"\x81", b"\xde\x00\x01", b"\xdf\x00\x00\x00\x01"):
        for key in every_form(variant) + indexes:
            for text in every_form("é"):
                data = head + key + text
                assert decode_tdl_error(data + b"\xc1") == (expected, len(data))
                with pytest.raises(TruncatedError):
                    decode_tdl_error(data[:-1])
