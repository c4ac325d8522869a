"""Libraries for LD_PRELOAD, from tests/packages/preload.

Each function returns variables for the environment of an executor.

clock(build_package, step)      a monotonic clock that moves by `step` ns at each look
mallopt(build_package)          a mallopt that ends the process
threads(build_package)          no thread starts
frame(build_package, how)       the buffer for the largest frame: "refused", "watched"
files(build_package, how)       an odd file system: "inodes", "no-dev-null",
                                "no-proc", "early-file"
BufferCounts                    whether each buffer of a package was freed once
"""

from __future__ import annotations

from pathlib import Path

from helpers.build import PACKAGES, PackageBuilder


def _preload(
    build_package: PackageBuilder, name: str, **variables: str
) -> dict[str, str]:
    library = build_package(PACKAGES / "preload" / f"{name}.c", "-ldl")
    return {
        "LD_PRELOAD": str(library),
        **variables,
    }


def clock(build_package: PackageBuilder, step: int = -1_000_000_000) -> dict[str, str]:
    return _preload(build_package, "clock", CLOCK_STEP=str(step))


def mallopt(build_package: PackageBuilder) -> dict[str, str]:
    return _preload(build_package, "mallopt")


def threads(build_package: PackageBuilder) -> dict[str, str]:
    return _preload(build_package, "threads")


def frame(build_package: PackageBuilder, how: str) -> dict[str, str]:
    return _preload(build_package, "frame", FRAME_BUFFER=how)


def files(build_package: PackageBuilder, how: str) -> dict[str, str]:
    return _preload(build_package, "files", ODD_FILES=how)


class BufferCounts:
    """Counts the buffers of a process that ends by itself.

    Freed buffers are overwritten with 0xDD.
    """

    def __init__(self, build_package: PackageBuilder, directory: Path) -> None:
        self.path = directory / "counts"
        path = str(self.path)
        self.env = _preload(build_package, "buffers", BUFFER_COUNTS=path)

    def read(self) -> tuple[int, ...]:
        """How many buffers were returned, freed, and freed again, after the end."""
        words = self.path.read_text().split()
        return tuple(map(int, words))
