"""Libraries for LD_PRELOAD, from tests/packages/preload. Each function returns variables for an executor's environment.

clock(build_package, step)      a monotonic clock that moves so many nanoseconds at each look
mallopt(build_package)          a mallopt that ends the process
files(build_package, how)       an odd file system: "inodes", "no-dev-null", "no-proc", "early-file"
BufferCounts                    whether each buffer that packages returned was freed once
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from helpers.build import PACKAGES, PackageBuilder


def _library(build_package: PackageBuilder, name: str) -> str:
    return str(build_package(PACKAGES / "preload" / f"{name}.c", "-ldl"))


def clock(build_package: PackageBuilder, step: int = -1_000_000_000) -> dict[str, str]:
    return {"LD_PRELOAD": _library(build_package, "clock"), "CLOCK_STEP": str(step)}


def mallopt(build_package: PackageBuilder) -> dict[str, str]:
    return {"LD_PRELOAD": _library(build_package, "mallopt")}


def files(build_package: PackageBuilder, how: str) -> dict[str, str]:
    return {"LD_PRELOAD": _library(build_package, "files"), "ODD_FILES": how}


class Buffers(NamedTuple):
    returned: int
    freed: int
    freed_again: int


class BufferCounts:
    """Counts the buffers of a process that ends by itself. Freed buffers are overwritten with 0xDD."""

    def __init__(self, build_package: PackageBuilder, directory: Path) -> None:
        self.path = directory / "buffer-counts"
        self.env = {
            "LD_PRELOAD": _library(build_package, "buffers"),
            "BUFFER_COUNTS": str(self.path),
        }

    def read(self) -> Buffers:
        """The counts, after the process has ended."""
        return Buffers(*map(int, self.path.read_text().split()))
