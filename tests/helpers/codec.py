"""The check of a decoder's error."""

from __future__ import annotations

import tracemalloc

import pytest

from protocol import ProtocolError, TruncatedError

END = "found the end after"


def refuses(decode, data: str, text: str, offset: int) -> None:
    """Check which error a decoder raises, anywhere in each kind of buffer. A size in `data` must not be allocated."""
    for kind in (bytes, bytearray, memoryview):
        for start in (0, 5):
            buffer = kind(b"\xff" * start + bytes.fromhex(data))
            tracemalloc.start()
            try:
                with pytest.raises(ProtocolError) as caught:
                    decode(buffer, start)
                assert tracemalloc.get_traced_memory()[1] < 256 * 1024
            finally:
                tracemalloc.stop()
            found = (type(caught.value), str(caught.value))
            expected = (
                TruncatedError if END in text else ProtocolError,
                f"expected {text} at offset {start + offset}",
            )
            assert found == expected, f"{found} is not {expected}"
