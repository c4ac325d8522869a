"""Packages that differ from a good one in one thing: tests/packages/odd.c with -D.

build(build_package, *flags)    the library; odd.c lists flags such as "-DNO_NAME"
declares(name)                  the flag for the declared name
init_fails(error)               the flag for an init that returns these bytes as error
INIT_GOOD                       the flag for an init that succeeds
Trace                           which functions of the package were called
"""

from __future__ import annotations

import os
from pathlib import Path

from helpers.build import PACKAGES, PackageBuilder

INIT_GOOD = "-DINIT=number(0)"


def build(build_package: PackageBuilder, *flags: str) -> Path:
    return build_package(PACKAGES / "odd.c", *flags)


def _c_string(data: bytes) -> str:
    """A C string literal of these bytes."""
    octal = "".join(f"\\{byte:03o}" for byte in data)
    return f'"{octal}"'


def declares(name: str | bytes) -> str:
    return f"-DNAME={_c_string(os.fsencode(name))}"


def init_fails(error: bytes) -> str:
    return f"-DINIT=copied(1,{_c_string(error)},{len(error)})"


class Trace:
    """The file in which the functions of a package leave their names.

    `env` is for the environment of the executor.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "trace"
        self.env = {"ODD_TRACE": str(self.path)}

    def take(self) -> list[str]:
        """The names of the functions called since the last time."""
        if not self.path.exists():
            return []
        names = self.path.read_text().split()
        self.path.unlink()
        return names
