"""Shared libraries, changed byte by byte.

patched(data, at, new)      other bytes at an offset
segments_end(data)          where the last byte of a segment ends in the file
without_sections(data)      no section headers, and nothing after the segments: sstrip
with_page_before(data)      the ELF header lies in no segment, as Zig's linker writes it
with_null_segments(data)    PT_GNU_EH_FRAME becomes PT_NULL with nonsense in it
"""

import struct

_SECTIONS_AT = 40
_SECTION_SIZE = 58
_PT_LOAD = 1
_PT_GNU_EH_FRAME = b"\x50\xe5\x74\x64"


def patched(data, at, new):
    end = at + len(new)
    return data[:at] + new + data[end:]


def _segments(data):
    """Where the program headers are."""
    at, size, count = struct.unpack_from("<Q14xHH", data, 32)
    return range(at, at + size * count, size)


def segments_end(data):
    ends = []
    for at in _segments(data):
        kind, offset, size = struct.unpack_from("<I4xQ16xQ", data, at)
        if kind == _PT_LOAD:
            ends.append(offset + size)
    return max(ends)


def without_sections(data):
    data = data[: segments_end(data)]
    data = patched(data, _SECTIONS_AT, bytes(8))
    return patched(data, _SECTION_SIZE, bytes(6))


def with_page_before(data):
    # A multiple of every page size.
    shift = 64 << 10
    first = data[:4096]
    offsets_at = [at + 8 for at in _segments(data)]
    for at in (_SECTIONS_AT, *offsets_at):
        (offset,) = struct.unpack_from("<Q", data, at)
        first = patched(first, at, struct.pack("<Q", offset + shift))
    return first.ljust(shift, b"\0") + data


def with_null_segments(data):
    for at in _segments(data):
        if data.startswith(_PT_GNU_EH_FRAME, at):
            nonsense = bytes(4) + b"\xff" * 52
            data = patched(data, at, nonsense)
    return data
