"""Frames: the length and its limit. And what protocol.py imports."""

import subprocess
import sys

import pytest
import vectors
from helpers import build
from helpers.codec import END, refuses

from protocol import (
    ProtocolError,
    TruncatedError,
    decode_frame,
    encode_frame,
    frame_end,
)


@pytest.mark.parametrize(("body", "frame"), vectors.FRAMES)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_golden_frame(body, frame, kind):
    assert encode_frame(kind(body)) == frame
    assert decode_frame(kind(frame)) == (body, len(frame))
    assert decode_frame(kind(b"\xff" + frame + b"\0"), 1) == (body, 1 + len(frame))
    assert frame_end(kind(b"\xff" + frame[:4]), 1) == 1 + len(frame)
    for size in range(len(frame)):
        with pytest.raises(TruncatedError):
            decode_frame(kind(frame[:size]))


def test_an_incomplete_frame():
    refuses(decode_frame, "000000", f"a frame header (4 bytes), {END} 3 bytes", 0)
    refuses(
        decode_frame, "00800000 00", f"a frame body of 8388608 bytes, {END} 1 bytes", 4
    )


def test_the_largest_body():
    body = bytes(8388608)
    frame = encode_frame(body)
    assert frame[:4].hex() == "00800000"
    assert decode_frame(frame) == (body, 8388612)
    with pytest.raises(
        ProtocolError, match=r"of at most 8388608 bytes, found a length of 8388609$"
    ):
        encode_frame(bytes(8388609))


@pytest.mark.parametrize("header", ["00800001", "7fffffff", "80000000", "ffffffff"])
def test_a_length_that_is_too_large_is_refused_before_the_body_arrives(header):
    text = f"^expected a frame body of at most 8388608 bytes, found a length of {int(header, 16)}$"
    for decode in (decode_frame, lambda buffer: frame_end(buffer, 0)):
        with pytest.raises(ProtocolError, match=text) as caught:
            decode(bytes.fromhex(header))
        assert type(caught.value) is ProtocolError


def test_protocol_imports_nothing_but_struct():
    script = "import sys; sys.path.append(sys.argv[1]); old = {*sys.modules}; import protocol; print(*{*sys.modules} - old)"
    command = [sys.executable, "-IS", "-c", script, str(build.ROOT)]
    new = (
        subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60)
        .stdout.decode()
        .split()
    )
    assert (
        {"protocol", "struct"}
        <= {*new}
        <= {"protocol", "struct", "_struct", "__future__"}
    )
