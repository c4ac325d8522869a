"""Packages that are written with the SDK, called by packages/sdk/driver.c.

Case, payload, commit           a call of a task, and the outcome that it must have
Raw, float32                    values that are msgpack already
Driver                          compiles and runs the driver and packages, sanitized
Compilation, package, run_all   run compilers on files or texts
exported                        the symbols of a library
compilers                       those that this machine has
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import protocol
from helpers import build
from protocol import TdlError, pack

SOURCES = build.PACKAGES / "sdk"
SANITIZE = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREADS = ("-O1", "-g1", "-fsanitize=thread")
STARVED = ("-include", str(SOURCES / "starved.h"))
STRICT = (
    "-Wall",
    "-Wextra",
    "-Wshadow",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wswitch-enum",
    "-pedantic",
    "-Werror",
)
STRICT_C = (*STRICT, "-Wmissing-prototypes", "-Wstrict-prototypes")
EXPORTED = {
    f"__spider_tdl_package_{name}"
    for name in ("get_version", "get_name", "init", "execute")
}
CONTEXT = protocol.TaskContext(1, 2, 3, 4).encode()


class Raw(bytes):
    """A value in msgpack, whatever is in it."""


def float32(value: float) -> Raw:
    return Raw(b"\xca" + struct.pack(">f", value))


def packed(value: Any) -> bytes:
    return value if isinstance(value, Raw) else pack(value)


def payload(*values: Any) -> bytes:
    return protocol.encode_payload(map(packed, values))


def commit(graph_outputs: bytes, as_bin: bool = False) -> bytes:
    """The context of a commit task."""
    return pack([1, "Commit", 3, 4, graph_outputs if as_bin else list(graph_outputs)])


def wrong(text: str) -> TdlError:
    return TdlError("DeserializationError", text)


def rows(name: str) -> list[tuple[str, list[Any], Any]]:
    """A table of packages/sdk: what is done, its arguments, and its outcome.

    The outcome is a list of outputs, an error (`kind! text`), or any other text.
    """
    table = []
    for line in (SOURCES / name).read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        do, arguments, outcome = line.split(" | ")
        kind, mark, text = outcome.partition("! ")
        result: Any = TdlError(kind, text) if mark else outcome
        if outcome.startswith("["):
            result = eval(outcome, {"Raw": Raw})
        table.append((do, eval(arguments, {"Raw": Raw}), result))
    return table


class Case(NamedTuple):
    task: str
    inputs: bytes
    expected: bytes | TdlError
    context: bytes = CONTEXT

    def encode(self) -> bytes:
        """The case as the driver reads it."""
        is_error = isinstance(self.expected, TdlError)
        outcome = self.expected.encode() if is_error else self.expected
        parts = (
            self.task.encode(errors="surrogateescape"),
            self.context,
            self.inputs,
            outcome,
        )
        return bytes([is_error]) + b"".join(
            struct.pack("<I", len(part)) + part for part in parts
        )


class Driver:
    """Calls tasks in a process of its own, which can refuse packages memory."""

    def __init__(
        self,
        directory: Path,
        build_package: build.PackageBuilder,
        flags: tuple[str, ...],
    ) -> None:
        self.directory = directory
        self.build_package = build_package
        self.flags = flags if build.has("sanitizers") else ()
        self.program = directory / "driver"
        command = [
            build.CC,
            "-std=gnu99",
            *self.flags,
            f"-I{build.NATIVE}",
            "-rdynamic",
            "-pthread",
        ]
        command += ["-o", str(self.program), str(SOURCES / "driver.c"), "-ldl"]
        subprocess.run(command, check=True, timeout=120)

    def libraries(self, *sources: Path) -> list[Path]:
        """Compile packages, several at a time."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(self.library, sources))

    def library(self, source: Path) -> Path:
        flags = [*self.flags, *(STARVED if source.suffix == ".c" else ())]
        if source.stem == "kitchen_sink" and build.has("zstd.h"):
            flags += ["-DSPIDER_TDL_WITH_ZSTD", "-lzstd"]
        return self.build_package(source, *flags)

    def run(
        self, mode: str, library: Path, cases: list[Case], *arguments: object
    ) -> list[int]:
        """Returns the numbers that the driver prints."""
        file = self.directory / "cases"
        file.write_bytes(b"".join(case.encode() for case in cases))
        env = {
            **os.environ,
            "TSAN_OPTIONS": "halt_on_error=1",
            "ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1",
        }
        command = [
            str(self.program),
            mode,
            str(library),
            str(file),
            *map(str, arguments),
        ]
        done = subprocess.run(command, capture_output=True, env=env, timeout=100)
        assert done.returncode == 0, done.stderr.decode(errors="replace")[-8000:]
        return [
            int(word)
            for word in done.stdout.decode().replace(",", "").split()
            if word.isdigit()
        ]

    def replay(self, library: Path, cases: list[Case], mode: str = "replay") -> None:
        """Check that each case has its outcome."""
        assert cases
        assert self.run(mode, library, cases) == [len(cases)]


def exported(library: Path) -> dict[str, str]:
    """The symbols that a library exports, but musl's own, and nm's letters."""
    command = ["nm", "-D", "-C", "--defined-only", str(library)]
    lines = (
        subprocess.run(command, capture_output=True, check=True, timeout=60)
        .stdout.decode()
        .splitlines()
    )
    symbols = {name: kind for _, kind, name in (line.split(" ", 2) for line in lines)}
    return {
        name: kind for name, kind in symbols.items() if name not in ("_init", "_fini")
    }


def compilers(*commands: str | None) -> list[str]:
    """Those of the commands that are there, each compiler once."""
    found = {
        os.path.realpath(path): path
        for path in map(shutil.which, filter(None, commands))
        if path
    }
    return list(found.values())


C_COMPILERS = compilers(build.CC, "gcc", "clang")
CXX_COMPILERS = compilers(build.CXX, "g++", "clang++") if build.CXX else []


class Compilation(NamedTuple):
    """A compiler and its arguments, and a file, or a text that includes the SDK."""

    compiler: str
    standard: str
    source: Path | str
    flags: tuple[object, ...] = ("-fsyntax-only",)

    def run(self) -> tuple[int, str]:
        """Returns the exit code, and what the compiler says."""
        libraries = [flag for flag in map(str, self.flags) if flag.startswith("-l")]
        command = [
            self.compiler,
            f"-std={self.standard}",
            f"-I{build.NATIVE}",
            *(str(flag) for flag in self.flags if str(flag) not in libraries),
            "-x",
        ]
        command += [
            "c++" if "++" in self.standard else "c",
            "-" if isinstance(self.source, str) else str(self.source),
            *(["-x", "none"] if libraries else []),
            *libraries,
        ]
        text = self.source.encode() if isinstance(self.source, str) else None
        done = subprocess.run(command, input=text, capture_output=True, timeout=100)
        return done.returncode, done.stderr.decode(errors="replace")

    def succeeds(self) -> None:
        assert self.run() == (0, ""), self


def strict(compiler: str) -> tuple[str, ...]:
    """The flags with which a compiler must have nothing to say."""
    if compiler in C_COMPILERS:
        return STRICT_C
    probe = Compilation(compiler, "c++17", "", ("-fsyntax-only", "-Wuseless-cast"))
    return STRICT if "useless-cast" in probe.run()[1] else (*STRICT, "-Wuseless-cast")


def package(
    source: Path | str,
    path: Path,
    compiler: str = build.CC,
    standard: str = "c99",
    flags: tuple[str, ...] = (),
) -> Path:
    """Compile a stripped package to where it is to be."""
    path.parent.mkdir(exist_ok=True)
    options = ("-O2", "-s", "-fPIC", "-shared", "-o", path)
    Compilation(compiler, standard, source, (*options, *flags)).succeeds()
    return path


def run_all(compilations: list[Compilation]) -> Iterator[tuple[Compilation, int, str]]:
    """Run compilers, as many at a time as there are processors."""
    assert compilations
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for compilation, (code, text) in zip(
            compilations, pool.map(Compilation.run, compilations)
        ):
            yield compilation, code, text
