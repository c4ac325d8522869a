"""Requests and responses: names, where the executor finds fields, and records."""

import copy
import pickle

import pytest

import protocol
from protocol import (
    Execute,
    Failure,
    ProtocolError,
    Result,
    Shutdown,
    Success,
    TaskContext,
    locate_request,
)


@pytest.mark.parametrize("names", [("p\ud800", "t"), ("p", "t\udfff")], ids=ascii)
def test_a_name_with_a_lone_surrogate_is_not_sent(names):
    text = "^expected text, found a lone surrogate at character 1$"
    with pytest.raises(ProtocolError, match=text):
        protocol.encode_request(Execute(*names, b"", b""))


@pytest.mark.parametrize("at", [4, 12, 20, 28])
@pytest.mark.parametrize("size", [1, 2**31, 2**32, 2**63 - 8, 2**63, 2**64 - 1])
def test_a_length_that_leads_out_of_the_body_is_not_located(at, size):
    data = bytearray(36)
    assert locate_request(data, 0, 36) == (20, 0, 28, 0, 36, 0)
    data[at : at + 8] = size.to_bytes(8, "little")
    assert locate_request(data, 0, 36) is None
    assert locate_request(data + bytes(2**16), 0, 36) is None


def test_head_and_tail_make_the_frame_of_a_response():
    for tag, outcome in ((0, Success(b"ab")), (1, Failure(b"ab"))):
        frame = protocol.encode_frame(protocol.encode_response(Result(outcome, 513)))
        head = protocol.response_head(tag, 2)
        assert head + b"ab" + protocol.response_tail(513) == frame
    assert (protocol.SUCCESS, protocol.FAILURE) == (0, 1)


def test_the_largest_response():
    size = protocol.RESPONSE_DATA_MAX
    body = protocol.encode_response(Result(Success(bytes(size)), 1))
    assert len(body) == 8388608
    assert protocol.response_head(0, size)[:4].hex() == "00800000"


def test_a_record_shows_its_fields_and_can_be_copied():
    result = Result(Success(b"\0"), 7)
    assert repr(result) == "Result(outcome=Success(outputs=b'\\x00'), elapsed_us=7)"
    assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == result


def test_records_are_equal_if_class_and_fields_are():
    different = [
        Shutdown(),
        Success(b"x"),
        Success(b"y"),
        Failure(b"x"),
        Result(Success(b"x"), 1),
        Result(Success(b"y"), 1),
        Result(Success(b"x"), 2),
        Execute("a", "b", b"", b""),
        Execute("b", "b", b"", b""),
        Execute("a", "a", b"", b""),
        TaskContext(),
        TaskContext(graph_outputs=b""),
        (b"x",),
    ]
    for position, record in enumerate(different):
        same = [index for index, other in enumerate(different) if record == other]
        assert same == [position]
