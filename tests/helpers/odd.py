"""Packages that differ from a good one in one thing: tests/packages/odd.c with -D.

build(build_package, *flags)    the library; odd.c lists flags such as "-DNO_NAME"
declares(name)                  the flag for the declared name
init_fails(error)               the flag for an init that returns these bytes as error
INIT_GOOD                       the flag for an init that succeeds
Trace                           which functions of the package were called
"""

import os

from helpers.build import PACKAGES

INIT_GOOD = "-DINIT=number(0)"


def build(build_package, *flags):
    return build_package(PACKAGES / "odd.c", *flags)


def _c_string(data):
    """A C string literal of these bytes."""
    octal = "".join(f"\\{byte:03o}" for byte in data)
    return f'"{octal}"'


def declares(name):
    return f"-DNAME={_c_string(os.fsencode(name))}"


def init_fails(error):
    return f"-DINIT=copied(1,{_c_string(error)},{len(error)})"


class Trace:
    """The file in which the functions of a package leave their names.

    `env` is for the environment of the executor.
    """

    def __init__(self, directory):
        self.path = directory / "trace"
        self.env = {"ODD_TRACE": str(self.path)}

    def take(self):
        """The names of the functions called since the last time."""
        if not self.path.exists():
            return []
        names = self.path.read_text().split()
        self.path.unlink()
        return names
