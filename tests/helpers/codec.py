"""What a decoder returns or raises, anywhere in each kind of buffer."""

import re
import tracemalloc

from protocol import ProtocolError, TruncatedError

BUFFERS = (bytes, bytearray, memoryview)
ERROR = re.compile(
    r"expected (.+, found (?:the end after (\d+) bytes|.+)) at offset (\d+)", re.DOTALL
)


def outcome(decode, buffer, start, end):
    """Return the value as text and its size, or an error's class, text and offset."""
    try:
        value, after = decode(buffer, start, end)
    except ProtocolError as error:
        text, missing, offset = ERROR.fullmatch(str(error)).groups()
        offset = int(offset)
        if type(error) is TruncatedError:
            assert offset + int(missing) == end
        else:
            assert start <= offset < end
        return type(error), text, offset - start
    assert start < after <= end
    return repr(value), after - start


def refuses(decode, data, text, offset):
    """Check the error for `data`. A size in it must not be allocated.

    A text that does not say what was found is that of a TruncatedError.
    """
    kind = ProtocolError
    if ", found " not in text:
        kind = TruncatedError
        text += f", found the end after {len(data) - offset} bytes"
    for buffer in BUFFERS:
        for before in (b"", b"\xff" * 5):
            around = buffer(before + data)
            tracemalloc.start()
            found = outcome(decode, around, len(before), len(around))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert found == (kind, text, offset)
            assert peak < 256 * 1024
