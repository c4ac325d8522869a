"""Shared libraries, changed byte by byte.

patched(data, at, new)      other bytes at an offset
segments_end(data)          where the last byte of a segment ends in the file
without_sections(data)      no section headers, and nothing after the segments: sstrip
with_page_before(data)      the ELF header lies in no segment, as Zig's linker writes it
with_null_segments(data)    PT_GNU_EH_FRAME becomes PT_NULL with nonsense in it
COUNT, SHENTSIZE, ...       offsets in the header
"""

from __future__ import annotations

import struct

CLASS = 4
BYTE_ORDER = 5
MACHINE = 18
SEGMENT_SIZE = 54
SEGMENT_COUNT = 56
_SEGMENTS_AT = 32
_SECTIONS_AT = 40
_SECTION_SIZE = 58
_PT_LOAD = 1
_PT_GNU_EH_FRAME = 0x6474E550


def patched(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def _segments(data: bytes) -> list[tuple[int, int]]:
    """Where each program header is, and its type."""
    at, size, count = struct.unpack_from("<Q14xHH", data, _SEGMENTS_AT)
    places = range(at, at + size * count, size)
    return [
        (place, int.from_bytes(data[place : place + 4], "little")) for place in places
    ]


def segments_end(data: bytes) -> int:
    ends = []
    for at, kind in _segments(data):
        if kind == _PT_LOAD:
            offset, size = struct.unpack_from("<Q16xQ", data, at + 8)
            ends.append(offset + size)
    return max(ends)


def without_sections(data: bytes) -> bytes:
    headers = patched(data, _SECTIONS_AT, bytes(8))
    return patched(headers, _SECTION_SIZE, bytes(6))[: segments_end(data)]


def with_page_before(data: bytes) -> bytes:
    # A multiple of every page size.
    shift = 64 << 10
    moved = bytearray(data)
    for at, _ in _segments(data):
        (offset,) = struct.unpack_from("<Q", data, at + 8)
        struct.pack_into("<Q", moved, at + 8, offset + shift)
    first = bytes(moved[:4096])
    sections_at = int.from_bytes(data[_SECTIONS_AT : _SECTIONS_AT + 8], "little")
    first = patched(first, _SECTIONS_AT, struct.pack("<Q", sections_at + shift))
    return first.ljust(shift, b"\0") + data


def with_null_segments(data: bytes) -> bytes:
    for at, kind in _segments(data):
        if kind == _PT_GNU_EH_FRAME:
            data = patched(data, at, bytes(4) + b"\xff" * 52)
    return data
