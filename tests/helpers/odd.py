"""Packages that differ from a good one in one thing: tests/packages/odd.c with the compiler's -D flags.

build(build_package, *flags)    the library; flags such as "-DNO_NAME" are listed at the top of odd.c
declares(name)                  the flag for the declared name
init_fails(error)               the flag for an init function that returns these bytes as an error
INIT_GOOD                       the flag for an init function that succeeds
Trace                           which functions of the package were called
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers import build as building

INIT_GOOD = "-DINIT=number(0)"


def build(build_package: building.PackageBuilder, *flags: str) -> Path:
    return build_package(building.PACKAGES / "odd.c", *flags)


def c_string(data: bytes) -> str:
    """A C string literal of these bytes."""
    return '"' + "".join(f"\\{byte:03o}" for byte in data) + '"'


def declares(name: str | bytes) -> str:
    return f"-DNAME={c_string(os.fsencode(name))}"


def init_fails(error: bytes) -> str:
    return f"-DINIT=copied(1,{c_string(error)},{len(error)})"


class Trace:
    """The file in which the functions of a package leave their names. `env` goes into the executor's environment."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "trace"
        self.env = {"ODD_TRACE": str(self.path)}

    def take(self) -> list[str]:
        """The names of the functions called since the last time."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split()
        self.path.unlink()
        return lines
