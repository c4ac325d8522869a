"""Requests and responses: what is wrong with a body, and where the executor finds the fields of a request."""

import copy
import pickle

import pytest
from helpers.codec import END, refuses

import protocol
from protocol import (
    Execute,
    Failure,
    ProtocolError,
    Result,
    Shutdown,
    Success,
    decode_request,
    locate_request,
)

ZERO = "0000000000000000"
# What a request needs after task_func.
REST = ZERO + ZERO


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("000000", f"a request tag (4 bytes), {END} 3 bytes", 0),
        ("02000000", "request tag 0 (Execute) or 1 (Shutdown), found tag 2", 0),
        (
            "00000001",
            "request tag 0 (Execute) or 1 (Shutdown), found tag 16777216",
            0,
        ),  # Shutdown, big-endian
        (
            "00000000 01000000000000",
            f"the length of package (8 bytes), {END} 7 bytes",
            4,
        ),
        ("00000000 0200000000000000 70", f"package of 2 bytes, {END} 1 bytes", 12),
        (
            "00000000 ffffffffffffffff" + REST,
            f"package of 18446744073709551615 bytes, {END} 16 bytes",
            12,
        ),
        (
            "00000000 0100000000000000 70 01",
            f"the length of task_func (8 bytes), {END} 1 bytes",
            13,
        ),
        (
            "00000000 0100000000000000 70 0300000000000000 74",
            f"task_func of 3 bytes, {END} 1 bytes",
            21,
        ),
        ("00000000" + ZERO * 2, f"the length of raw_ctx (8 bytes), {END} 0 bytes", 20),
        (
            "00000000" + ZERO * 2 + "0200000000000080 00",
            f"raw_ctx of 9223372036854775810 bytes, {END} 1 bytes",
            28,
        ),
        (
            "00000000" + ZERO * 3 + "00",
            f"the length of raw_inputs (8 bytes), {END} 1 bytes",
            28,
        ),
        (
            "00000000" + ZERO * 3 + "0100000000000000",
            f"raw_inputs of 1 bytes, {END} 0 bytes",
            36,
        ),
        (
            "00000000 0100000000000000 ff" + ZERO + REST,
            "package in UTF-8, found byte ff",
            12,
        ),
        (
            "00000000 0200000000000000 61c0 0100000000000000 c0" + REST,
            "package in UTF-8, found byte c0",
            13,
        ),
        (
            "00000000" + ZERO + "0400000000000000 7474eda0" + REST,
            "task_func in UTF-8, found byte ed",
            22,
        ),
        (
            "00000000" + ZERO + "0300000000000000 74e697" + REST,
            "task_func in UTF-8, found byte e6",
            21,
        ),
    ],
)
def test_a_body_that_is_not_a_request(data, text, offset):
    refuses(decode_request, data, text, offset)


@pytest.mark.parametrize(
    ("data", "text", "offset"),
    [
        ("01000000" + REST, "response tag 0 (Result), found tag 1", 0),
        ("00000000", f"an outcome tag (4 bytes), {END} 0 bytes", 4),
        (
            "00000000 02000000" + REST,
            "outcome tag 0 (Success) or 1 (Failure), found tag 2",
            4,
        ),
        (
            "00000000 00000000 00000000000000",
            f"the length of outputs (8 bytes), {END} 7 bytes",
            8,
        ),
        (
            "00000000 01000000 00000000000000",
            f"the length of error (8 bytes), {END} 7 bytes",
            8,
        ),
        (
            "00000000 00000000 0200000000000000 00",
            f"outputs of 2 bytes, {END} 1 bytes",
            16,
        ),
        (
            "00000000 01000000 ffffffffffffffff" + ZERO,
            f"error of 18446744073709551615 bytes, {END} 8 bytes",
            16,
        ),
        (
            "00000000 00000000 0100000000000000 aa 000000",
            f"elapsed_us (8 bytes), {END} 3 bytes",
            17,
        ),
        (
            "00000000 01000000 0800000000000000" + ZERO,
            f"elapsed_us (8 bytes), {END} 0 bytes",
            24,
        ),
    ],
)
def test_a_body_that_is_not_a_response(data, text, offset):
    refuses(protocol.decode_response, data, text, offset)


@pytest.mark.parametrize("names", [("p\ud800", "t"), ("p", "t\udfff")])
def test_a_name_with_a_lone_surrogate_is_not_sent(names):
    with pytest.raises(
        ProtocolError, match=r"^expected text, found a lone surrogate at character 1$"
    ):
        protocol.encode_request(Execute(*names, b"", b""))


@pytest.mark.parametrize("at", [4, 12, 20, 28])
@pytest.mark.parametrize("size", [1, 2**31, 2**32, 2**63 - 8, 2**63, 2**64 - 1])
def test_locate_request_refuses_a_length_that_leads_out_of_the_body(at, size):
    data = bytearray(36)
    data[at : at + 8] = size.to_bytes(8, "little")
    assert locate_request(data, 0, 36) is None
    assert locate_request(data + bytes(2**16), 0, 36) is None


@pytest.mark.parametrize(
    ("outcome", "tag", "data"),
    [(Success(b"ab"), 0, b"ab"), (Failure(b"\x81"), 1, b"\x81")],
)
def test_head_and_tail_make_the_frame_of_a_response(outcome, tag, data):
    frame = protocol.encode_frame(protocol.encode_response(Result(outcome, 513)))
    assert (
        protocol.response_head(tag, len(data)) + data + protocol.response_tail(513)
        == frame
    )


def test_the_largest_response():
    body = protocol.encode_response(
        Result(Success(bytes(protocol.RESPONSE_DATA_MAX)), 1)
    )
    assert len(body) == 8388608
    assert protocol.response_head(0, protocol.RESPONSE_DATA_MAX)[:4].hex() == "00800000"


def test_records_compare_and_show_their_fields():
    result = Result(Success(b"\0"), 7)
    assert repr(result) == "Result(outcome=Success(outputs=b'\\x00'), elapsed_us=7)"
    assert copy.deepcopy(result) == pickle.loads(pickle.dumps(result)) == result
    different = [
        Shutdown(),
        Success(b"x"),
        Failure(b"x"),
        Success(b"y"),
        Failure(b"y"),
        (b"x",),
    ]
    different += [
        Result(Success(data), elapsed)
        for data, elapsed in ((b"x", 1), (b"y", 1), (b"x", 2))
    ]
    different += [
        Execute(*fields)
        for fields in (("a", "b", b"", b""), ("b", "b", b"", b""), ("a", "a", b"", b""))
    ]
    different += [protocol.TaskContext(), protocol.TaskContext(graph_outputs=b"")]
    for position, record in enumerate(different):
        assert [record == other for other in different] == [
            index == position for index in range(len(different))
        ]
