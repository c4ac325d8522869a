"""Compile packages and stage them; find out which tools this machine has.

ROOT, PACKAGES, NATIVE          directories of the project
CC, CXX                         the compilers' commands; CXX is None if there is none
PackageBuilder                  compiles a source file once for each set of flags
stage, replace                  put a library where an executor looks for it
TOOLS, has, needs, missing      tools, and the tests that need them
"""

import functools
import itertools
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
NATIVE = ROOT / "native"
PACKAGES = ROOT / "tests" / "packages"

CC = os.environ.get("CC", "cc")
# An empty CXX in the environment means that there is no C++ compiler.
_CXX_FOUND = next(filter(shutil.which, ("c++", "g++", "clang++")), None)
CXX = os.environ.get("CXX", _CXX_FOUND) or None


class PackageBuilder:
    """Compiles a source file into a shared library, once for each set of flags."""

    def __init__(self, directory):
        self.directory = directory
        self.built = {}
        self.numbers = itertools.count()

    def __call__(self, source, *flags):
        """Return the library. The first line of a failure is the command."""
        key = (source, flags)
        if key not in self.built:
            library = self.directory / f"{next(self.numbers)}-{source.stem}.so"
            self._compile(source, library, flags)
            self.built[key] = library
        return self.built[key]

    def _compile(self, source, library, flags):
        language = [CC, "-std=gnu99"]
        if source.suffix != ".c":
            language = [str(CXX), "-std=c++17"]
        command = [*language, "-O2", "-fPIC", "-shared"]
        command += [f"-I{NATIVE}", f"-I{PACKAGES}"]
        command += ["-o", str(library), str(source), *flags]
        done = subprocess.run(command, capture_output=True, timeout=120)
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, f"failed: {shlex.join(command)}\n{said}"

    def all_of(self, sources):
        """Compile several files, as many at a time as there are processors."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self, sources))


def package_sources():
    """The files of tests/packages/, those in C++ only if there is a compiler."""
    return sorted(PACKAGES.glob("*.c" if CXX is None else "*.c*"))


def stage(package_dir, name, library):
    """Copy a library to where an executor looks for the package `name`.

    An existing file is overwritten, also in processes that have mapped it.
    """
    target = package_dir / name / f"lib{name}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library, target)
    return target


def replace(package_dir, name, library):
    """Like `stage`, but processes that have mapped the old file keep it."""
    (package_dir / name / f"lib{name}.so").unlink(missing_ok=True)
    return stage(package_dir, name, library)


# ---------------------------------------------------------------------------- tools

_PROGRAM = b"""
#if defined ONLY_GCC && defined __clang__
#error "this is clang"
#endif
int main(void) { return 0; }
"""


def _runs(*command):
    """Whether a command, which gets _PROGRAM as its input, ends with 0."""
    try:
        done = subprocess.run(command, input=_PROGRAM, capture_output=True, timeout=60)
    except OSError:
        return False
    return done.returncode == 0


@functools.lru_cache(maxsize=None)
def unprivileged():
    """The start of a command that runs without root's rights, or that fails."""
    if os.geteuid() != 0:
        return ("env",)
    ways = (
        ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        ("unshare", "--user"),
    )
    for way in ways:
        if _runs(*way, sys.executable, "-IS", "-c", ""):
            return way
    return ("false",)


_COMPILE = (CC, "-x", "c", "-o", os.devnull, "-")
_SANITIZE = (*_COMPILE, "-fsanitize=address,undefined")
_LOCALE_SOURCE = "/usr/share/i18n/locales/de_DE"
# A tool, the tests that need it, and a command that succeeds if it is here.
TOOLS = {
    "C++ compiler": ("all of C++", [CXX or "false", "--version"]),
    "gcc": ("the SDK's headers with gcc", ["gcc", "--version"]),
    "g++": ("the SDK's headers with g++", ["g++", "--version"]),
    "clang": ("the SDK's headers with clang", ["clang", "--version"]),
    "zstd.h": ("all of zstd", [*_COMPILE, "-include", "zstd.h", "-lzstd"]),
    "sanitizers": ("the SDK under sanitizers", _SANITIZE),
    "gcc's sanitizers": (
        "the guide's example with sanitizers",
        [*_SANITIZE, "-DONLY_GCC"],
    ),
    "ThreadSanitizer": ("threads in the SDK", [*_COMPILE, "-fsanitize=thread"]),
    "gdb": ("the guide's example with gdb", ["gdb", "--version"]),
    # valgrind cannot run every build of Python.
    "valgrind": (
        "the guide's example with valgrind",
        ["valgrind", "-q", sys.executable, "--version"],
    ),
    "unprivileged user": (
        "executors of another user",
        [*unprivileged(), "true"],
    ),
    "localedef": (
        "executors in an 8-bit locale",
        ["sh", "-c", f"command -v localedef && test -e {_LOCALE_SOURCE}"],
    ),
}


@functools.lru_cache(maxsize=None)
def has(tool):
    return _runs(*TOOLS[tool][1])


def needs(*tools):
    """A mark that skips a test without these tools."""
    absent = [tool for tool in tools if not has(tool)]
    reason = f"this machine has no {', no '.join(absent)}"
    return pytest.mark.skipif(bool(absent), reason=reason)


def missing():
    """One line for each tool that is not here: what is not run without it."""
    return [
        f"not run: {tests} (no {tool})"
        for tool, (tests, _) in TOOLS.items()
        if not has(tool)
    ]
