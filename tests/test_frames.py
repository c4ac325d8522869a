"""Frames: the length and its limit. And what protocol.py imports and exports."""

import subprocess
import sys
import types

import pytest
import vectors
from helpers import build
from helpers.codec import BUFFERS

import protocol
from protocol import ProtocolError, decode_frame, encode_frame, frame_end


@pytest.mark.parametrize("buffer", BUFFERS)
def test_frames_in_each_kind_of_buffer(buffer):
    for _, frame, body in vectors.FRAMES:
        assert encode_frame(buffer(body)) == frame
        around = buffer(b"\xff" + frame + b"\0")
        assert decode_frame(around, 1) == (body, 1 + len(frame))
        assert frame_end(around[:5], 1) == 1 + len(frame)


def test_the_largest_body():
    body = bytes(8388608)
    frame = encode_frame(body)
    assert frame[:4].hex() == "00800000"
    assert decode_frame(frame) == (body, 8388612)
    text = "of at most 8388608 bytes, found a length of 8388609$"
    with pytest.raises(ProtocolError, match=text):
        encode_frame(bytes(8388609))


@pytest.mark.parametrize("header", ["00800001", "7fffffff", "80000000", "ffffffff"])
def test_a_too_large_length_is_refused_before_the_body(header):
    text = "expected a frame body of at most 8388608 bytes, found a length of "
    for decode in (decode_frame, frame_end):
        with pytest.raises(ProtocolError) as caught:
            decode(bytes.fromhex(header), 0)
        assert str(caught.value) == text + str(int(header, 16))
        assert type(caught.value) is ProtocolError


def test_protocol_imports_nothing_but_struct():
    script = """
import sys
sys.path.append(sys.argv[1])
old = {*sys.modules}
import protocol
print(*{*sys.modules} - old - {"_struct", "__future__"})
"""
    command = [sys.executable, "-IS", "-c", script, str(build.ROOT)]
    printed = subprocess.check_output(command, timeout=60)
    assert {*printed.decode().split()} == {"protocol", "struct"}


def test_public_names_are_in_all():
    public = {
        name
        for name, value in vars(protocol).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    imported = {"Struct", "StructError", "TYPE_CHECKING", "annotations"}
    assert sorted(public - imported) == sorted(protocol.__all__)
