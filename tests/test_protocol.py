"""Frames, bodies, payloads and contexts: the bytes, and what is said of bytes that are wrong."""

from __future__ import annotations

import mmap
import re
import subprocess
import sys
import tracemalloc

import pytest
import vectors
from helpers import build

import protocol
from protocol import (
    FRAME_BODY_MAX,
    Execute,
    Failure,
    ProtocolError,
    Result,
    Shutdown,
    Success,
    TaskContext,
    TruncatedError,
    decode_context,
    decode_frame,
    decode_names,
    decode_payload,
    decode_request,
    decode_response,
    encode_frame,
    encode_payload,
    encode_request,
    encode_response,
    frame_end,
    locate_request,
    pack,
)

CODECS = {
    "frame": (vectors.FRAMES, decode_frame, encode_frame),
    "request": (vectors.REQUESTS, decode_request, encode_request),
    "response": (vectors.RESPONSES, decode_response, encode_response),
    "context": (vectors.CONTEXTS, decode_context, TaskContext.encode),
    "payload": (vectors.PAYLOADS, decode_payload, encode_payload),
    "tdl_error": (vectors.TDL_ERRORS, protocol.decode_tdl_error, protocol.TdlError.encode),
    "executor_error": (vectors.EXECUTOR_ERRORS, protocol.decode_executor_error, protocol.ExecutorError.encode),
    "value": (vectors.VALUES, protocol.unpack, pack),
}
GOLDEN = [
    pytest.param(value, data, decode, encode, id=f"{name}-{position}")
    for name, (pairs, decode, encode) in CODECS.items()
    for position, (value, data) in enumerate(pairs)
]


@pytest.mark.parametrize(("value", "data", "decode", "encode"), GOLDEN)
def test_golden_vector(value, data, decode, encode):
    assert encode(value) == data
    assert decode(data) == (value, len(data))


@pytest.mark.parametrize(("value", "data", "decode", "encode"), GOLDEN)
def test_golden_vector_with_more_around_it(value, data, decode, encode):
    for behind in (b"\x00", b"\xff", b"\xc1" * 9, data):
        assert decode(data + behind) == (value, len(data))
        assert decode(b"\xc1\xc1\xc1" + data + behind, 3) == (value, 3 + len(data))


@pytest.mark.parametrize(("value", "data", "decode", "encode"), GOLDEN)
def test_golden_vector_cut_at_every_prefix(value, data, decode, encode):
    """Fed byte by byte, it is incomplete until it is complete; what stands behind the end is not read."""
    for size in range(len(data)):
        with pytest.raises(TruncatedError):
            decode(data[:size])
        if decode is not decode_frame:
            with pytest.raises(TruncatedError):
                decode(data, 0, size)
            with pytest.raises(TruncatedError):
                decode(b"\x01" + data, 1, 1 + size)


@pytest.mark.parametrize("name", sorted(CODECS))
def test_every_kind_of_buffer(name):
    pairs, decode, _ = CODECS[name]
    for value, data in pairs:
        mapped = mmap.mmap(-1, len(data) + 2)
        mapped[1 : 1 + len(data)] = data
        for buffer in (bytearray(mapped), memoryview(bytearray(mapped)), memoryview(bytes(mapped)), mapped):
            assert decode(buffer, 1) == (value, 1 + len(data))
        mapped.close()


# Tags, sizes and names as other programs know them: a change here breaks the wire.
def test_constants():
    assert {name: value for name, value in vars(protocol).items() if name.isupper() and type(value) in (int, str)} == {
        "FRAME_HEADER_SIZE": 4,
        "FRAME_BODY_MAX": 8388608,
        "EXECUTE": 0,
        "SHUTDOWN": 1,
        "RESULT": 0,
        "SUCCESS": 0,
        "FAILURE": 1,
        "RESPONSE_OVERHEAD": 24,
        "MSGPACK_DEPTH_MAX": 1023,
        "PLAIN": 0,
        "ZSTD": 1,
        "COMMIT": "Commit",
        "CLEANUP": "Cleanup",
    }


def test_it_does_no_io():
    """Imported on its own, it brings in nothing that could."""
    script = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import protocol
print(*set(sys.modules) - before)
"""
    command = [sys.executable, "-IS", "-c", script, str(build.ROOT)]
    brought = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=20).stdout.decode().split()
    assert set(brought) <= {"protocol", "itertools", "struct", "_struct", "__future__"}
    assert "protocol" in brought


def test_one_error_tree():
    errors = [item for item in vars(protocol).values() if isinstance(item, type) and issubclass(item, Exception)]
    assert issubclass(ProtocolError, ValueError)
    assert issubclass(TruncatedError, ProtocolError)
    assert issubclass(TruncatedError, EOFError)
    # What a package or an executor says of a failure is data, not an error of a decoder.
    assert {item for item in errors if issubclass(item, ValueError)} == {ProtocolError, TruncatedError}


# --------------------------------------------------------------------------------------------------------------- frames


def test_the_largest_frame():
    frame = encode_frame(bytes(FRAME_BODY_MAX))
    assert frame[:4].hex() == "00800000"
    assert decode_frame(frame) == (bytes(FRAME_BODY_MAX), 4 + FRAME_BODY_MAX)


def test_a_body_too_large_is_not_sent():
    with pytest.raises(ProtocolError, match=r"8388608.*8388609"):
        encode_frame(bytes(FRAME_BODY_MAX + 1))


@pytest.mark.parametrize("header", ["00800001", "7fffffff", "80000000", "ffffffff"])
def test_an_announced_length_too_large(header):
    """Refused as soon as the header is there, rather than when a body that never comes is complete."""
    data = bytes.fromhex(header)
    for decode in (decode_frame, lambda buffer: frame_end(buffer, 0)):
        with pytest.raises(ProtocolError, match=rf"at most 8388608 bytes.*{int(header, 16)}") as caught:
            decode(data)
        assert not isinstance(caught.value, TruncatedError)


def test_frame_end():
    assert frame_end(bytes.fromhex("00000000"), 0) == 4
    assert frame_end(bytes.fromhex("ff 00000102"), 1) == 5 + 258
    assert frame_end(bytes.fromhex("00800000"), 0) == 4 + FRAME_BODY_MAX


def test_frames_in_a_row():
    buffer = b"".join(data for _, data in vectors.FRAMES)
    found, offset = [], 0
    while offset < len(buffer):
        body, offset = decode_frame(buffer, offset)
        found.append(body)
    assert found == [body for body, _ in vectors.FRAMES]


# ------------------------------------------------------------------------------------------------- requests, responses


@pytest.mark.parametrize(("request_", "data"), vectors.REQUESTS)
def test_locate_request(request_, data):
    """The fields are where decode_request finds them."""
    found = locate_request(b"\xff" + data + b"\xff", 1, 1 + len(data))
    if isinstance(request_, Shutdown):
        assert found is None
        return
    whole = b"\xff" + data
    parts = [whole[at : at + size] for at, size in zip(found[::2], found[1::2])]
    names = [request_.package.encode(), request_.task_func.encode()]
    assert parts == [*names, request_.raw_ctx, request_.raw_inputs]
    assert found[-2] + found[-1] == len(whole)
    task_at, task_size = found[2:4]
    assert decode_names(whole[1 : task_at + task_size]) == (request_.package, request_.task_func)


EXECUTE_P_T = "00000000 0100000000000000 70 0100000000000000 74 0100000000000000 c0 0000000000000000"


@pytest.mark.parametrize(
    ("data", "error", "offset", "text"),
    [
        ("", TruncatedError, 0, "request tag"),
        ("00", TruncatedError, 0, "request tag"),
        ("02000000", ProtocolError, 0, "tag 2"),
        ("ffffffff", ProtocolError, 0, "tag 4294967295"),
        ("00000001", ProtocolError, 0, "tag 16777216"),  # Shutdown, big-endian
        ("02000000" + "00" * 60, ProtocolError, 0, "tag 2"),
        ("00000000", TruncatedError, 4, "package"),
        ("00000000 01000000000000", TruncatedError, 4, "package"),
        ("00000000 0200000000000000 70", TruncatedError, 12, "package of 2 bytes"),
        ("00000000 ffffffffffffffff" + "00" * 50, TruncatedError, 12, "package of 18446744073709551615 bytes"),
        ("00000000 0100000000000000 70 01", TruncatedError, 13, "task_func"),
        ("00000000 0100000000000000 70 0000000000000000", TruncatedError, 21, "the length of raw_ctx"),
        ("00000000 0100000000000000 70 0100000000000000", TruncatedError, 21, "task_func of 1 bytes"),
        ("00000000 0100000000000000 70 0300000000000000 74 00", TruncatedError, 21, "task_func of 3 bytes"),
        ("00000000 0000000000000000 0000000000000080" + "00" * 50, TruncatedError, 20, "task_func of"),
        ("00000000 0100000000000000 70 0100000000000000 74 01", TruncatedError, 22, "raw_ctx"),
        ("00000000" + "0000000000000000" * 2 + "ffffffffffffff7f" + "00" * 50, TruncatedError, 28, "raw_ctx of"),
        ("00000000" + "0000000000000000" * 3, TruncatedError, 28, "the length of raw_inputs"),
        ("00000000" + "0000000000000000" * 3 + "00", TruncatedError, 28, "the length of raw_inputs"),
        ("00000000" + "0000000000000000" * 3 + "0100000000000000", TruncatedError, 36, "raw_inputs of 1 bytes"),
        ("00000000" + "0000000000000000" * 3 + "ffffffffffffffff 00", TruncatedError, 36, "raw_inputs of"),
        (EXECUTE_P_T.replace("70", "ff"), ProtocolError, 12, "package in UTF-8"),
        (EXECUTE_P_T.replace("74", "80"), ProtocolError, 21, "task_func in UTF-8"),
        (
            "00000000 0100000000000000 70 0400000000000000 7474eda0 0000000000000000 0000000000000000",
            ProtocolError,
            23,
            "task_func in UTF-8",
        ),
        # The same bytes twice: the first of them is to blame.
        (
            "00000000 0200000000000000 61c0 0200000000000000 61c0 0000000000000000 0000000000000000",
            ProtocolError,
            13,
            "package in UTF-8",
        ),
    ],
)
def test_a_request_that_is_none(data, error, offset, text):
    data = bytes.fromhex(data)
    for buffer, start in ((data, 0), (b"\0\0\0\0\0" + data, 5), (memoryview(data), 0)):
        with pytest.raises(ProtocolError) as caught:
            decode_request(buffer, start)
        assert type(caught.value) is error
        assert re.match(rf"expected .*{re.escape(text)}|expected .*found {re.escape(text)}", str(caught.value))
        assert str(caught.value).endswith(f" at offset {start + offset}")


@pytest.mark.parametrize(
    ("data", "error", "offset", "text"),
    [
        ("", TruncatedError, 0, "response tag"),
        ("000000", TruncatedError, 0, "response tag"),
        ("01000000" + "00" * 20, ProtocolError, 0, "tag 1"),
        ("00000000", TruncatedError, 4, "outcome tag"),
        ("00000000 02000000" + "00" * 16, ProtocolError, 4, "tag 2"),
        ("00000000 00000000 00000000000000", TruncatedError, 8, "the length of outputs"),
        ("00000000 01000000 00000000000000", TruncatedError, 8, "the length of error"),
        ("00000000 00000000 0200000000000000 00", TruncatedError, 16, "outputs of 2 bytes"),
        ("00000000 01000000 ffffffffffffffff" + "00" * 50, TruncatedError, 16, "error of 18446744073709551615"),
        ("00000000 00000000 0100000000000000 aa 00000000000000", TruncatedError, 17, "elapsed_us"),
        ("00000000 00000000 0800000000000000 0000000000000000", TruncatedError, 24, "elapsed_us"),
    ],
)
def test_a_response_that_is_none(data, error, offset, text):
    with pytest.raises(ProtocolError, match=rf"expected .*{text}.* at offset {offset}$") as caught:
        decode_response(bytes.fromhex(data))
    assert type(caught.value) is error


def test_names_that_cannot_be_sent():
    for request in (Execute("\ud800", "t", b"", b""), Execute("p", "a\udfff", b"", b"")):
        with pytest.raises(ProtocolError, match="lone surrogate"):
            encode_request(request)


def test_response_head_and_tail_are_a_response():
    for outcome, tag, data in ((Success(b"abc"), 0, b"abc"), (Failure(b"\x81"), 1, b"\x81")):
        frame = encode_frame(encode_response(Result(outcome, 513)))
        assert protocol.response_head(tag, len(data)) + data + protocol.response_tail(513) == frame
        assert len(frame) == 4 + protocol.RESPONSE_OVERHEAD + len(data)


def test_records_compare_and_show_their_fields():
    assert Execute("p", "t", b"", b"") == Execute("p", "t", b"", b"")
    assert Execute("p", "t", b"", b"") != Execute("p", "u", b"", b"")
    assert Success(b"x") != Failure(b"x")
    assert len({Success(b"x"), Success(b"x"), Failure(b"x"), Shutdown(), Shutdown()}) == 3
    assert repr(Result(Success(b"\0"), 7)) == "Result(outcome=Success(outputs=b'\\x00'), elapsed_us=7)"


# ------------------------------------------------------------------------------------------------------------- payloads


@pytest.mark.parametrize(
    ("data", "offset", "text"),
    [
        ("", 0, "a payload count"),
        ("000000", 0, "a payload count"),
        ("01000000", 4, "1 values"),
        ("ffffffff" + "00" * 40, 4, "4294967295 values"),
        ("02000000 00000000", 4, "2 values"),
        ("02000000 01000000 c0 000000", 9, "the length of value 1"),
        ("01000000 02000000 c0", 8, "value 0 of 2 bytes"),
        ("02000000 01000000 c0 ffffffff 00", 13, "value 1 of 4294967295 bytes"),
        ("00000001 00000001 c0", 4, "16777216 values"),  # big-endian
    ],
)
def test_a_payload_that_is_none(data, offset, text):
    with pytest.raises(TruncatedError, match=rf"expected {text}.* at offset {offset}$"):
        decode_payload(bytes.fromhex(data))


def test_values_of_a_payload():
    values = [None, True, -1, 1.5, "é", b"\x01", [1, [2]], {"k": [3]}]
    payload = protocol.pack_values(*values)
    assert protocol.unpack_values(payload) == values
    assert protocol.unpack_values(payload + b"behind") == values
    assert protocol.pack_values() == bytes(4)
    assert protocol.unpack_values(bytes(4)) == []


def test_bytes_behind_a_value_in_its_own_length_are_ignored():
    assert protocol.unpack_values(bytes.fromhex("02000000 03000000 0ac1c1 01000000 0b")) == [10, 11]


def test_a_value_does_not_reach_into_the_next():
    with pytest.raises(TruncatedError):
        protocol.unpack_values(bytes.fromhex("02000000 01000000 a1 01000000 78"))


def test_the_length_of_a_payload_value_has_a_limit():
    class Huge(bytes):
        def __len__(self):
            return 1 << 32

    with pytest.raises(ProtocolError, match="less than 4 GiB"):
        encode_payload([Huge()])


# ------------------------------------------------------------------------------------------------------------- contexts


def test_a_context_takes_graph_outputs_as_bin():
    """An array of integers is what Rust writes; it reads bin as well, and any width of an integer."""
    expected = TaskContext(1, "Commit", 3, 4, b"\x00\xff")
    data = bytes.fromhex("95 cd0001 c406 436f6d6d6974 03 04 c402 00ff")
    assert decode_context(bytes.fromhex("95 01 a6 436f6d6d6974 03 04 c402 00ff"))[0] == expected
    assert decode_context(bytes.fromhex("dc0005 01 a6 436f6d6d6974 03 04 dd00000002 00 cd00ff"))[0] == expected
    with pytest.raises(ProtocolError):
        decode_context(data)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("c0", "5 fields, found nil"),
        ("94 00 81a5496e64657800 00 00", "5 fields, found an array of 4"),
        ("96 00 81a5496e64657800 00 00 c0 c0", "5 fields, found an array of 6"),
        ("80", "5 fields, found a map of 0"),
        ("a0", "5 fields, found str of 0 bytes"),
        ("95 c0 81a5496e64657800 00 00 c0", "job_id as an unsigned integer, found nil"),
        ("95 ff 81a5496e64657800 00 00 c0", "job_id as an unsigned integer, found int -1"),
        ("95 c3 81a5496e64657800 00 00 c0", "job_id as an unsigned integer, found bool True"),
        ("95 a0 81a5496e64657800 00 00 c0", "job_id as an unsigned integer, found str"),
        ("95 cb0000000000000000 81a5496e64657800 00 00 c0", "job_id as an unsigned integer, found float 0.0"),
        ("95 00 81a5496e64657800 ff 00 c0", "task_instance_id as an unsigned integer, found int -1"),
        ("95 00 81a5496e64657800 00 90 c0", "resource_group_id as an unsigned integer, found an array of 0"),
        ("95 00 07 00 00 c0", "task_id"),
        ("95 00 c0 00 00 c0", "task_id"),
        ("95 00 90 00 00 c0", "task_id"),
        ("95 00 80 00 00 c0", "task_id"),
        ("95 00 82a5496e64657800a5696e64657800 00 00 c0", "task_id"),
        ("95 00 81a5696e64657800 00 00 c0", "task_id"),
        ("95 00 a6636f6d6d6974 00 00 c0", "task_id"),
        ("95 00 a5496e646578 00 00 c0", "task_id"),
        ("95 00 81a5496e646578ff 00 00 c0", "task_id as an unsigned integer, found int -1"),
        ("95 00 81a5496e646578c0 00 00 c0", "task_id as an unsigned integer, found nil"),
        ("95 00 81a5496e646578a178 00 00 c0", "task_id as an unsigned integer, found str of 1 bytes"),
        ("95 00 a6436f6d6d6974 00 00 00", "graph_outputs as nil or bytes, found int 0"),
        ("95 00 a6436f6d6d6974 00 00 a178", "graph_outputs as nil or bytes, found str"),
        ("95 00 a6436f6d6d6974 00 00 80", "graph_outputs as nil or bytes, found a map of 0"),
        ("95 00 a6436f6d6d6974 00 00 91cd0100", "graph_outputs as an array of bytes"),
        ("95 00 a6436f6d6d6974 00 00 91ff", "graph_outputs as an array of bytes"),
        ("95 00 a6436f6d6d6974 00 00 91c3", "graph_outputs as an array of bytes"),
    ],
)
def test_a_context_that_is_none(data, text):
    with pytest.raises(ProtocolError, match=re.escape(text)) as caught:
        decode_context(bytes.fromhex(data))
    assert not isinstance(caught.value, TruncatedError)


def test_graph_payload():
    payload = protocol.pack_values(5, -5)
    assert TaskContext(task_id="Commit", graph_outputs=b"\x00" + payload).graph_payload() == payload
    for outputs, text in ((None, "none"), (b"", "none"), (b"\x01" + payload, "zstd"), (b"\x02" + payload, "found 2")):
        with pytest.raises(ProtocolError, match=text):
            TaskContext(task_id="Commit", graph_outputs=outputs).graph_payload()


# -------------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    ("decode", "data"),
    [
        (decode_request, "00000000 0000008000000000"),
        (decode_request, "00000000 ffffffffffffffff"),
        (decode_request, "00000000" + "0000000000000000" * 3 + "000000ffffffff7f"),
        (decode_response, "00000000 00000000 ffffffff00000000"),
        (decode_payload, "ffffffff"),
        (decode_payload, "01000000 ffffffff"),
        (protocol.unpack, "c6 ffffffff"),
        (protocol.unpack, "db ffffffff"),
        (protocol.unpack, "dd ffffffff"),
        (protocol.unpack, "df ffffffff"),
        (protocol.unpack, "df 80000000"),
        (protocol.unpack, "91" * 500 + "ddffffffff"),
        (protocol.decode_tdl_error, "81 db ffffffff"),
        (protocol.decode_tdl_error, "81 00 c6 ffffffff"),
        (protocol.decode_executor_error, "81 db ffffffff"),
        (protocol.decode_executor_error, "81 a9 5461736b4572726f72 81 00 dbffffffff"),
        (decode_context, "95 ddffffffff"),
    ],
)
def test_an_announced_size_allocates_nothing(decode, data):
    data = bytes.fromhex(data) + bytes(64)
    with pytest.raises(TruncatedError):
        decode(data)
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError):
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 256 * 1024
