"""Packages that are missing, broken, changed under way or not what they seem: an error to act on, and no harm done."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import struct
from pathlib import Path

import pytest
from helpers import build, executor, process

from protocol import (
    Custom,
    DuplicatePackage,
    ErrorPayloadDeserializationFailure,
    IncompatibleVersion,
    InvalidLibrary,
    InvalidUtf8,
    PackageInitError,
    TaskError,
    TaskNotFound,
)
from spider_executor import ExecutorHandle, TaskTimeout

VARIANT = build.PACKAGES / "odd.c"
UNIQUE = VARIANT.with_name("unique.cpp")

needs_cxx = pytest.mark.skipif(build.CXX is None, reason="there is no C++ compiler")


@pytest.fixture
def start(spawn):
    return spawn


@pytest.fixture
def packages(package_dir, tmp_path):
    """A directory with the good package `buffers`, for others to be put beside it."""
    build.stage(tmp_path, "buffers", package_dir / "buffers" / "libbuffers.so")
    return tmp_path


@pytest.fixture
def variant(build_package):
    """Builds odd.c with macros."""

    def build(**macros):
        return build_package(VARIANT, *(f"-D{name}={value}" for name, value in macros.items()))

    return build


def replace(package_dir, name, library):
    """Put another file in the place of a package's, as one is to be deployed: the old one stays what it was."""
    target = package_dir / name / f"lib{name}.so"
    target.parent.mkdir(exist_ok=True)
    shutil.copy(library, target.with_suffix(".new"))
    target.with_suffix(".new").rename(target)


def refusal(child, name, error_type):
    """The error of a request for a package that cannot be loaded, with the executor none the worse for it."""
    error = child.call(name, "answer")
    assert type(error) is error_type, error
    assert child.call(name, "answer") == error  # It was not remembered, or only as an error.
    assert child.serves()
    return error


def text_of(error):
    return error.args[0]


# ------------------------------------------------------------------------------------------------ what cannot be loaded


def put(kind, target, good):
    """Make something at `target` that is no library."""
    data = good.read_bytes()
    if kind == "directory":
        target.mkdir()
    elif kind == "empty":
        target.write_bytes(b"")
    elif kind == "text":
        target.write_bytes(b"#!/bin/sh\nexit 0\n" * 100)
    elif kind == "zeros":
        target.write_bytes(bytes(5000))
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(target))
    elif kind == "device":
        target.symlink_to("/dev/zero")
    elif kind == "unreadable":
        target.symlink_to("/proc/self/mem")  # Opens, and then cannot be read at 0, whoever asks.
    elif kind == "loop":
        target.symlink_to(target)
    elif kind == "dangling":
        target.symlink_to("nowhere")
    elif kind == "32-bit":
        target.write_bytes(data[:4] + b"\x01" + data[5:])
    elif kind == "big-endian":
        target.write_bytes(data[:5] + b"\x02" + data[6:])
    elif kind == "machine":
        other = 62 if platform.machine() == "aarch64" else 183
        target.write_bytes(data[:18] + struct.pack("<H", other) + data[20:])
    elif kind == "segments":
        target.write_bytes(data[:32] + b"\xff" * 8 + data[40:])  # Where the program headers are.
    elif kind == "segment-size":
        target.write_bytes(data[:54] + b"\xff" * 4 + data[58:])  # How large each is, and how many there are.


# What an operator is to be told, beside the file's name.
NOT_LIBRARIES = [
    ("directory", ["directory"]),
    ("empty", ["too short"]),
    ("text", ["invalid ELF header"]),
    ("zeros", ["invalid ELF header"]),
    pytest.param("fifo", ["special file"], marks=pytest.mark.ours),
    ("socket", ["No such device"]),
    pytest.param("device", ["special file"], marks=pytest.mark.ours),
    pytest.param("unreadable", ["error"], marks=pytest.mark.ours),
    ("loop", ["symbolic links"]),
    ("dangling", ["No such file"]),
    pytest.param("32-bit", ["another machine", "32-bit", platform.machine()], marks=pytest.mark.ours),
    pytest.param("big-endian", ["another machine"], marks=pytest.mark.ours),
    pytest.param("machine", ["another machine", "x86_64", "aarch64"], marks=pytest.mark.ours),
    pytest.param("segments", ["cut short"], marks=pytest.mark.ours),
    pytest.param("segment-size", ["cut short"], marks=pytest.mark.ours),
]


@pytest.mark.parametrize(("kind", "words"), NOT_LIBRARIES)
def test_what_is_no_library(start, packages, variant, kind, words):
    target = packages / "odd" / "libodd.so"
    target.parent.mkdir()
    put(kind, target, variant())
    child = start(packages)
    text = text_of(refusal(child, "odd", InvalidLibrary))
    for word in [str(target), *words]:
        assert word in text

    # Mended, without a restart.
    target.rmdir() if kind == "directory" else target.unlink()
    build.stage(packages, "odd", variant())
    assert child.call("odd", "answer") == [1]
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.parametrize("name", ["missing", "no/package", "Variant", "variant "])
def test_a_package_that_is_not_there(start, packages, variant, name):
    child = start(packages)
    build.stage(packages, "odd", variant())
    text = text_of(refusal(child, name, InvalidLibrary))
    assert str(packages) in text
    assert name in text


@pytest.mark.ours
def test_a_package_cut_short_anywhere(start, packages, variant):
    """The loader maps the file; where the file ends before a segment does, a look at it would be SIGBUS."""
    data = variant().read_bytes()
    target = packages / "odd" / "libodd.so"
    target.parent.mkdir()
    child = start(packages)
    refused = 0
    for size in range(0, len(data), 512):
        target.write_bytes(data[:size])
        outcome = child.call("odd", "answer")
        if outcome == [1]:
            break  # All that is missing is what a linker needs.
        assert isinstance(outcome, InvalidLibrary)
        assert str(target) in text_of(outcome)
        assert "short" in text_of(outcome)
        refused += 1
    assert refused > 10
    assert child.call("odd", "answer") == [1]
    assert child.serves()


BROKEN = {
    "no version": ({"NO_VERSION": 1}, InvalidLibrary, "__spider_tdl_package_get_version"),
    "no name": ({"NO_NAME": 1}, InvalidLibrary, "__spider_tdl_package_get_name"),
    "no execute": ({"NO_EXECUTE": 1}, InvalidLibrary, "__spider_tdl_package_execute"),
    "undefined": ({"UNDEFINED": 1}, InvalidLibrary, "nothing_defines_this"),
    "undefined call": ({"UNDEFINED_CALL": 1}, InvalidLibrary, "nothing_defines_this"),
    "not UTF-8": ({"NAME": '"\\xff\\xfe"'}, InvalidUtf8, ""),
    "newer": ({"VERSION": "0,2,7"}, IncompatibleVersion, ""),
    "init": ({"INIT": 'failure("Custom","no_database")'}, PackageInitError, ""),
    "init garbage": ({"INIT": 'copied(1,"garbage",7)'}, ErrorPayloadDeserializationFailure, ""),
    "init nothing": ({"INIT": "(Result){1,(void*)1,0}"}, ErrorPayloadDeserializationFailure, ""),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.ours if kind == "undefined call" else ()) for kind in BROKEN]
)
def test_a_broken_package_and_its_mending(start, packages, variant, kind):
    macros, error_type, word = BROKEN[kind]
    target = build.stage(packages, "odd", variant(**macros))
    child = start(packages)
    error = refusal(child, "odd", error_type)
    if error_type is InvalidLibrary:
        assert str(target) in text_of(error)
        assert word in text_of(error)
    elif error_type is IncompatibleVersion:
        assert error == IncompatibleVersion((0, 2, 7), (0, 1, 0))
    elif error_type is PackageInitError:
        assert error == PackageInitError(Custom("no_database"))

    replace(packages, "odd", variant(VALUE=2))
    assert child.call("odd", "answer") == [2]
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


def test_a_refused_package_may_be_overwritten_in_place(start, packages, variant):
    child = start(packages)
    for macros in ({"VERSION": "0,2,7"}, {"NO_EXECUTE": 1}, {"VERSION": "9,1,7"}):
        build.stage(packages, "odd", variant(**macros))
        assert isinstance(child.call("odd", "answer"), (IncompatibleVersion, InvalidLibrary))
    build.stage(packages, "odd", variant(VALUE=3))
    assert child.call("odd", "answer") == [3]


@pytest.mark.ours
@needs_cxx
def test_a_refused_package_that_the_loader_will_not_unload(start, packages, build_package):
    """A C++ library with an inline function's static variable stays loaded, and would be found again by its path."""
    child = start(packages)
    for attempt in range(3):
        replace(
            packages, "unique", build_package(UNIQUE, f'-DINIT=failure("Custom","{attempt}")', f"-DVALUE={attempt}")
        )
        for _ in range(2):
            assert child.call("unique", "answer") == PackageInitError(Custom(str(attempt)))
    assert "/unique/" in Path(f"/proc/{child.pid}/maps").read_text()
    replace(packages, "unique", build_package(UNIQUE, "-DVALUE=7"))
    assert child.call("unique", "answer") == [7]
    assert child.serves()


def test_a_package_is_refused_a_thousand_times_and_mended(start, packages, build_package):
    child = start(packages)
    replace(packages, "unique", build_package(UNIQUE, '-DINIT=failure("Custom","closed")'))
    for _ in range(2200):  # as many as a path of "./" has room for
        assert child.call("unique", "answer") == PackageInitError(Custom("closed"))
    replace(packages, "unique", build_package(UNIQUE, "-DVALUE=7"))
    assert child.call("unique", "answer") == [7]


@pytest.mark.ours
def test_a_child_forked_in_a_constructor_runs_no_task(start, packages, build_package, tmp_path):
    trace = tmp_path / "trace"
    constructor = f'({{ if (fork() == 0) {{ (void)!write(open("{trace}", 65, 420), "x", 1); }} }})'
    flags = ["-include", "fcntl.h", "-include", "unistd.h"]
    replace(packages, "odd", build_package(VARIANT, f"-DCONSTRUCTOR={constructor}", *flags))
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    executor.wait_for(lambda: trace.exists() and child.errors(), "the child")
    assert child.finish() == (b"", 0)
    (error,) = child.errors()
    assert error["fields"]["message"].startswith("A process that a task forked returned into the executor")


@pytest.mark.ours
def test_a_declared_name_of_impossible_length(start, packages, build_package, tmp_path):
    source = tmp_path / "boundless.c"
    source.write_text(
        '#include "abi.h"\n'
        "EXPORT Version __spider_tdl_package_get_version(void) { Version v = {0, 1, 0}; return v; }\n"
        'EXPORT View __spider_tdl_package_get_name(void) { View v = {"boundless", (size_t)-1}; return v; }\n'
    )
    target = build.stage(packages, "boundless", build_package(source, f"-I{VARIANT.parent}"))
    text = text_of(refusal(start(packages), "boundless", InvalidLibrary))
    assert str(target) in text
    assert "name" in text


@pytest.fixture
def dependent(packages, build_package, tmp_path):
    """A package that needs libdependency.so.7, and a place where the loader would find that."""
    (tmp_path / "dependency.c").write_text("int dependency;\n")
    (tmp_path / "dependent.c").write_text(
        f'#include "{VARIANT}"\nextern int dependency;\nint *use_dependency = &dependency;\n'
    )
    shutil.copy(build_package(tmp_path / "dependency.c", "-Wl,-soname,libdependency.so.7"), tmp_path / "libdep.so")
    flags = (f"-I{VARIANT.parent}", f"-L{tmp_path}", "-ldep", f"-Wl,-rpath,{tmp_path}")
    return build.stage(packages, "dependent", build_package(tmp_path / "dependent.c", *flags))


def test_a_missing_dependency(start, packages, dependent, tmp_path):
    child = start(packages)
    assert "libdependency.so.7" in text_of(refusal(child, "dependent", InvalidLibrary))
    (tmp_path / "libdep.so").rename(tmp_path / "libdependency.so.7")
    assert child.call("dependent", "answer") == [1]


@pytest.mark.ours
def test_a_missing_dependency_is_reported_with_who_needs_it(start, packages, dependent):
    assert str(dependent) in text_of(refusal(start(packages), "dependent", InvalidLibrary))


def test_a_name_that_another_package_has(start, packages, variant):
    build.stage(packages, "odd", variant())
    build.stage(packages, "other", variant(VALUE=2))
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    assert refusal(child, "other", DuplicatePackage) == DuplicatePackage("odd")
    assert child.call("odd", "answer") == [1]

    replace(packages, "other", variant(VALUE=2, NAME='"other"'))
    assert child.call("other", "answer") == [2]


@pytest.mark.ours
def test_the_init_of_a_duplicate_does_not_run(start, packages, variant):
    build.stage(packages, "odd", variant())
    build.stage(packages, "other", variant(INIT='(write(2,"init",4),number(0))'))
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    refusal(child, "other", DuplicatePackage)
    assert child.stderr() == ""


# ---------------------------------------------------------------------------------------------------------------- names


@pytest.mark.ours
@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "/", "../buffers", "buffers/../buffers", "buffers/", "/etc", "buffers\0", "\0", "buffers\0/x"],
    ids=ascii,
)
def test_names_that_are_no_directory_of_the_packages(start, packages, name):
    (packages / "inside").mkdir()
    child = start(packages / "inside")
    error = child.call(name, "echo")
    assert isinstance(error, InvalidLibrary)
    assert ascii(name) in text_of(error)
    assert str(packages / "inside") in text_of(error)
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.parametrize(
    "name",
    ["n" * 10_000, "ñ" * 10_000, "n" * 1_000_000, "$ORIGIN", "$LIB", "%s%n", "\n\r\x1b[31m"],
    ids=lambda name: ascii(name[:8]),
)
def test_odd_names(start, packages, name):
    child = start(packages, env={"RUST_LOG": "trace"})
    text = text_of(refusal(child, name, InvalidLibrary))
    assert str(packages) in text
    assert child.finish() == (b"", 0)
    assert all(len(line) < 64 << 10 for line in child.stderr().splitlines())


@pytest.mark.ours
def test_the_loader_expands_no_name(start, packages, variant):
    """dlopen replaces $LIB by lib or lib/x86_64-linux-gnu, and would find a file that the name does not lead to."""
    for lib in ("lib", "lib64", f"lib/{platform.machine()}-linux-gnu"):
        target = packages / lib / f"lib{lib}.so"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(variant(), target)
    child = start(packages)
    refusal(child, "$LIB", InvalidLibrary)
    refusal(child, "missing", InvalidLibrary)


@pytest.mark.parametrize("locale", ["C", "C.UTF-8", "nonsense"])
def test_names_beyond_ascii(start, packages, variant, locale):
    name = "días-日本-🕷"
    build.stage(packages, name, variant(NAME=f'"{name}"'))
    child = start(packages, env={"LC_ALL": locale})
    assert child.call(name, "answer") == [1]
    assert child.serves()


@pytest.mark.ours
def test_a_crash_in_a_package_whose_name_is_beyond_ascii(start, packages, package_dir):
    build.stage(packages, "日本", package_dir / "crashing" / "libcrashing.so")
    child = start(packages)
    child.send(executor.request("日本", "sigsegv"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)
    assert r"\u65e5\u672c::sigsegv" in child.stderr()


@pytest.mark.parametrize(
    "task", ["t" * 10_000, "t" * 8_000_000, "", "\0", "ñ\n\x1b[31m"], ids=lambda task: str(len(task))
)
def test_odd_names_of_tasks(start, packages, task):
    child = start(packages)
    error = child.call("buffers", task)
    assert isinstance(error, TaskError)
    assert isinstance(error.error, TaskNotFound)
    assert child.serves()


@pytest.mark.ours
def test_a_crash_in_a_task_with_a_long_name(start):
    child = start()
    child.send(executor.request("crashing", "sigsegv:" + "0" * 100_000))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)
    assert "crashing::sigsegv:0000" in child.stderr()
    assert len(child.stderr()) < 10_000


# ---------------------------------------------------------------------------------------------------- changed under way


@pytest.mark.parametrize("change", ["replaced", "removed", "broken"])
def test_a_loaded_package_keeps_answering(start, packages, variant, change):
    build.stage(packages, "odd", variant())
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    if change == "replaced":
        replace(packages, "odd", variant(VALUE=2))
    elif change == "removed":
        shutil.rmtree(packages / "odd")
    else:
        replace(packages, "odd", VARIANT)
    assert child.call("odd", "answer") == [1]
    assert child.call("odd", "answer") == [1]
    assert child.serves()

    another = start(packages)
    outcome = another.call("odd", "answer")
    assert outcome == [2] if change == "replaced" else isinstance(outcome, InvalidLibrary)


def test_packages_that_come_and_go(start, packages, variant):
    child = start(packages)
    for _ in range(3):
        refusal(child, "late", InvalidLibrary)
    build.stage(packages, "late", variant(NAME='"late"'))
    assert child.call("late", "answer") == [1]


# -------------------------------------------------------------------------------------------------- while it is loaded


def test_a_constructor_that_hangs_is_the_parents_timeout(executor_command, packages, variant):
    build.stage(packages, "odd", variant(CONSTRUCTOR="for(;;)pause()"))
    with ExecutorHandle(packages, executor_command) as handle:
        assert handle.execute("odd", "answer", timeout=0.3) == TaskTimeout(0.3)
        assert process.is_gone(handle.pid)


@pytest.mark.ours
@pytest.mark.parametrize("where", ["CONSTRUCTOR", "INIT"])
def test_a_crash_while_a_package_is_loaded_names_it(start, packages, variant, where):
    build.stage(packages, "odd", variant(**{where: "abort()" if where == "CONSTRUCTOR" else "(abort(),number(0))"}))
    child = start(packages)
    child.send(executor.request("odd", "answer"))
    assert child.read_to_end() == (b"", -signal.SIGABRT)
    assert "in odd (loading)\n" in child.stderr()


@pytest.mark.ours
def test_exit_while_a_package_is_loaded(start, packages, variant):
    # The loader's lock is held until then: time for the executor's other thread to want it.
    build.stage(packages, "odd", variant(CONSTRUCTOR="usleep(50000);exit(0)"))
    child = start(packages)
    child.send(executor.request("odd", "answer"))
    assert child.read_to_end() == (b"", 1)
    (error,) = child.errors()
    assert error["fields"] == {"message": "exit(0) was called by native code.", "task": "odd (loading)"}


def test_a_constructor_that_forks(start, packages, variant):
    build.stage(packages, "odd", variant(CONSTRUCTOR="usleep(50000);if(fork()==0)_exit(0)"))
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    assert child.serves()


@pytest.mark.ours
def test_a_constructor_that_prints_and_reads(start, packages, variant):
    build.stage(packages, "odd", variant(CONSTRUCTOR='printf("constructed %zd",read(0,NULL,0)+getchar())'))
    child = start(packages)
    assert child.call("odd", "answer") == [1]
    assert child.stderr() == "constructed -1"
