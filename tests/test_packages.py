"""Packages: how they are found, the order in which they are loaded, what is refused, and the library's classes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from helpers import build, executor, odd

import protocol
import spider_executor
from protocol import (
    Custom,
    DeserializationError,
    DuplicatePackage,
    ErrorPayloadDeserializationFailure,
    Execute,
    ExecutionError,
    ExecutorError,
    Failure,
    IncompatibleVersion,
    InvalidLibrary,
    InvalidUtf8,
    PackageInitError,
    Success,
    TaskError,
)
from spider_executor import TdlPackage, TdlPackageManager

CONTEXT = protocol.TaskContext().encode()


def ask(child: executor.Executor, package: str, task: str, raw_inputs: bytes = b"", raw_ctx: bytes = CONTEXT) -> object:
    """Run a task; returns its outputs as they are, or the ExecutorError."""
    child.send(protocol.encode_frame(protocol.encode_request(Execute(package, task, raw_ctx, raw_inputs))))
    outcome = child.receive().outcome
    if isinstance(outcome, Success):
        return outcome.outputs
    return protocol.decode_executor_error(outcome.error)[0]


@pytest.fixture
def trace(tmp_path):
    return odd.Trace(tmp_path)


@pytest.fixture
def packages(tmp_path):
    """An empty package directory."""
    directory = tmp_path / "packages"
    directory.mkdir()
    return directory


@pytest.fixture
def add(packages, build_package):
    """Puts an odd package into the directory."""

    def stage(name: str, *flags: str) -> Path:
        return build.stage(packages, name, odd.build(build_package, *flags))

    return stage


# ---------------------------------------------------------------------------------------------------------- load order


def test_the_order_of_loading(spawn, packages, add, trace):
    add("odd", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert ask(child, "odd", "inputs", b"x") == b"x"
    assert trace.take() == ["load", "version", "name", "init", "execute"]
    # Loaded once, and only when it is asked for.
    assert ask(child, "odd", "inputs", b"y") == b"y"
    assert ask(child, "odd", "other task") == b"other task"
    assert trace.take() == ["execute", "execute"]
    assert child.finish() == (b"", 0)
    assert trace.take() == ["unload"]


def test_init_is_optional(spawn, packages, add, trace):
    add("odd")
    child = spawn(packages, env=trace.env)
    assert ask(child, "odd", "inputs", b"x") == b"x"
    assert trace.take() == ["load", "version", "name", "execute"]


@pytest.mark.parametrize(
    ("flags", "error", "called"),
    [
        (["-DVERSION=0,2,0"], IncompatibleVersion((0, 2, 0), (0, 1, 0)), ["version"]),
        (["-DNO_VERSION"], InvalidLibrary, []),
        (["-DNO_NAME"], InvalidLibrary, ["version"]),
        ([odd.declares(b"n\xffme")], InvalidUtf8, ["version", "name"]),
        ([odd.init_fails(b"\x81\x03\xa1x")], PackageInitError(ExecutionError("x")), ["version", "name", "init"]),
        ([odd.init_fails(b"")], ErrorPayloadDeserializationFailure, ["version", "name", "init"]),
        ([odd.init_fails(b"\xa1x")], ErrorPayloadDeserializationFailure, ["version", "name", "init"]),
        ([odd.INIT_GOOD, "-DNO_EXECUTE"], InvalidLibrary, ["version", "name", "init"]),
        # What comes first is what counts.
        (["-DVERSION=9,9,9", "-DNO_NAME"], IncompatibleVersion((9, 9, 9), (0, 1, 0)), ["version"]),
        ([odd.declares(b"\xc0"), odd.INIT_GOOD, "-DNO_EXECUTE"], InvalidUtf8, ["version", "name"]),
    ],
)
def test_loading_stops_at_the_first_failure(spawn, packages, add, trace, flags, error, called):
    path = add("odd", *([] if any("INIT" in flag for flag in flags) else [odd.INIT_GOOD]), *flags)
    child = spawn(packages, env=trace.env)
    for _ in range(2):
        # It is not remembered: the whole is done again, from the start.
        found = ask(child, "odd", "inputs", b"x")
        if isinstance(error, type):
            assert type(found) is error
            assert str(found)
        else:
            assert found == error
        assert [line for line in trace.take() if line not in ("load", "unload")] == called
    if error is InvalidLibrary:
        assert str(path) in str(found)
    # Mended on disk, it loads.
    path.unlink()
    add("odd")
    assert ask(child, "odd", "inputs", b"x") == b"x"


@pytest.mark.ours
def test_a_missing_symbol_is_named(spawn, packages, add):
    for flag, symbol in (("-DNO_VERSION", "get_version"), ("-DNO_NAME", "get_name"), ("-DNO_EXECUTE", "execute")):
        path = add(flag, flag, odd.declares(flag))
        error = ask(spawn(packages), flag, "t")
        assert isinstance(error, InvalidLibrary)
        assert f"__spider_tdl_package_{symbol}" in str(error)
        assert str(path) in str(error)


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("0,1,0", True),
        ("0,1,1", True),
        ("0,1,4294967295", True),
        ("0,0,0", False),
        ("0,0,9", False),
        ("0,2,0", False),
        ("1,0,0", False),
        ("1,1,0", False),
        ("4294967295,4294967295,4294967295", False),
        ("0,257,0", False),
    ],
)
def test_versions(spawn, packages, add, version, fits):
    add("odd", f"-DVERSION={version}")
    found = ask(spawn(packages), "odd", "inputs", b"x")
    assert found == (b"x" if fits else IncompatibleVersion(tuple(map(int, version.split(","))), (0, 1, 0)))


def test_a_version_error_in_bytes(spawn, packages, add):
    add("odd", "-DVERSION=0,200,3")
    child = spawn(packages)
    child.send(executor.request("odd", "t"))
    assert child.receive().outcome == Failure(
        bytes.fromhex("81 b3 496e636f6d70617469626c6556657273696f6e 96 00 ccc8 03 00 01 00")
    )


@pytest.mark.parametrize("name", ["odd", "", "nämé 🕷", "with space", "x" * 300, 'quote"\\\n'])
def test_declared_names(spawn, packages, add, name):
    """Any UTF-8 will do, and its length is what the view says."""
    add("here", odd.declares(name))
    child = spawn(packages)
    assert ask(child, "here", "declared") == name.encode()


# -------------------------------------------------------------------------------------------------------- the call


def test_what_a_task_is_given(spawn, packages, add):
    add("odd")
    child = spawn(packages)
    for data in (b"", b"\0", bytes(range(256)) * 20, b"x" * 100_000):
        assert ask(child, "odd", "inputs", data) == data
        assert ask(child, "odd", "context", b"inputs", data) == data
    for task in ("", "outpu", "outputs2", "tâche 🕷", "a\0b", "t" * 10_000):
        assert ask(child, "odd", task, b"x" * 20) == task.encode()
    # Never NULL, even if there is nothing.
    assert ask(child, "odd", "pointers", b"", b"") == protocol.pack_values(2**64 - 1)[:8] + b"\xcf" + bytes(7) + b"\1"


def test_tasks_run_on_the_main_thread(spawn, packages, add):
    assert spawn().call("process", "is_main_thread") == [1]


def test_an_error_is_sent_on_in_its_canonical_form(spawn, packages, add):
    add("odd")
    child = spawn(packages)
    name = b"DeserializationError"
    for error in (
        b"\x81\xb4" + name + b"\xa2\xc3\xa9",
        b"\xde\x00\x01\xd9\x14" + name + b"\xd9\x02\xc3\xa9",
        b"\xdf\x00\x00\x00\x01\xc5\x00\x14" + name + b"\xc6\x00\x00\x00\x02\xc3\xa9",
        b"\x81\x01\xa2\xc3\xa9",
        b"\x81\xcc\x01\xa2\xc3\xa9",
        b"\x81\x01\xa2\xc3\xa9 and more",
    ):
        child.send(protocol.encode_frame(protocol.encode_request(Execute("odd", "error", CONTEXT, error))))
        assert child.receive().outcome == Failure(b"\x81\xa9TaskError\x81\xb4DeserializationError\xa2\xc3\xa9")
    for error in (b"", b"\xc1", b"\xa6Custom", b"\x81\xa6custom\xa0", b"\x81\x06\xa0", b"\x81\x05\xa1\xff"):
        assert isinstance(ask(child, "odd", "error", error), ErrorPayloadDeserializationFailure)
    assert ask(child, "odd", "inputs", b"alive") == b"alive"


# ------------------------------------------------------------------------------------------------- where packages are


def test_a_missing_package(spawn, packages, add):
    child = spawn(packages)
    for _ in range(2):
        error = ask(child, "odd", "t")
        assert isinstance(error, InvalidLibrary)
        assert str(packages / "odd" / "libodd.so") in str(error)
    # Added later, it is found.
    add("odd")
    assert ask(child, "odd", "inputs", b"x") == b"x"


def test_files_that_are_no_package(spawn, packages, add):
    child = spawn(packages)
    for name, content in (
        ("empty", b""),
        ("text", b"#!/bin/sh\n"),
        ("short", b"\x7fELF"),
        ("elf", b"\x7fELF" + bytes(60)),
    ):
        path = packages / name / f"lib{name}.so"
        path.parent.mkdir()
        path.write_bytes(content)
        error = ask(child, name, "t")
        assert isinstance(error, InvalidLibrary)
        assert str(path) in str(error)
    add("odd")
    assert ask(child, "odd", "inputs", b"x") == b"x"


def test_symlinks(spawn, packages, build_package, tmp_path):
    """Of the file, of the directory, of the package directory itself, and all of them."""
    library = odd.build(build_package)
    elsewhere = tmp_path / "elsewhere"
    build.stage(elsewhere, "odd", library)
    (packages / "file").mkdir()
    (packages / "file" / "libfile.so").symlink_to(elsewhere / "odd" / "libodd.so")
    (packages / "odd").symlink_to(elsewhere / "odd")
    assert ask(spawn(packages), "file", "inputs", b"x") == b"x"
    assert ask(spawn(packages), "odd", "inputs", b"x") == b"x"
    (tmp_path / "link").symlink_to(packages)
    assert ask(spawn(tmp_path / "link"), "odd", "inputs", b"x") == b"x"
    (packages / "file" / "libfile.so").unlink()
    (packages / "file" / "libfile.so").symlink_to("nowhere")
    assert isinstance(ask(spawn(packages), "file", "t"), InvalidLibrary)


def test_other_names_of_directories(spawn, packages, add):
    child = spawn(packages)
    for name in ("nämé 🕷", "with space", "..odd", "a.b", "-x", "lib", "x" * 200):
        add(name, odd.declares(name))
        assert ask(child, name, "declared") == name.encode()


@pytest.mark.ours
@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../odd", "odd/", "/odd", "odd\0", "\0"])
def test_refused_names(spawn, packages, add, trace, name):
    """A name that is no directory's is refused by itself, whatever is there."""
    add("odd")
    for path in (packages / "lib.so", packages / "liba.so", packages.parent / "lib...so"):
        shutil.copy(packages / "odd" / "libodd.so", path)
    child = spawn(packages, env=trace.env)
    error = ask(child, name, "t")
    assert isinstance(error, InvalidLibrary)
    assert str(packages) in str(error)
    assert trace.take() == []
    assert ask(child, "odd", "inputs", b"x") == b"x"


@pytest.mark.ours
def test_a_name_that_no_file_can_have(spawn, packages):
    child = spawn(packages)
    for name in ("x" * 300, "x" * 10_000, "\x7f" * 5000):
        error = ask(child, name, "t")
        assert isinstance(error, InvalidLibrary)
        assert len(error.encode()) < 65536
    assert child.finish() == (b"", 0)


def test_a_relative_package_directory(spawn, packages, add):
    add("odd")
    child = spawn(packages.name, cwd=packages.parent)
    assert ask(child, "odd", "inputs", b"x") == b"x"


# ---------------------------------------------------------------------------------------------- aliases and duplicates


@pytest.mark.ours
def test_a_package_that_declares_another_name(spawn, packages, add, trace):
    add("directory", odd.declares("declared"), odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    for _ in range(3):
        assert ask(child, "directory", "declared") == b"declared"
    # A request is answered by the file that its name leads to, and there is none for this one.
    assert isinstance(ask(child, "declared", "declared"), InvalidLibrary)
    assert trace.take() == ["load", "version", "name", "init", "execute", "execute", "execute"]
    # Nor is it answered by another directory's package once there is one.
    add("declared", odd.declares("third"))
    assert ask(child, "declared", "declared") == b"third"


@pytest.mark.ours
def test_two_names_of_one_file_are_one_package(spawn, packages, add, trace):
    path = add("odd", odd.INIT_GOOD)
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    (packages / "hard").mkdir()
    os.link(path, packages / "hard" / "libhard.so")
    for order in (("odd", "link", "hard"), ("hard", "link", "odd")):
        child = spawn(packages, env=trace.env)
        for name in order * 2:
            assert ask(child, name, "inputs", b"x") == b"x"
        assert ask(child, order[1], "calls")[-1:] == b"\7"
        assert trace.take() == ["load", "version", "name", "init"] + ["execute"] * 7
        child.kill()


@pytest.mark.ours
def test_two_files_that_declare_one_name(spawn, packages, add, trace):
    add("first", odd.INIT_GOOD)
    add("second", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert ask(child, "first", "inputs", b"x") == b"x"
    assert "init" in trace.take()
    for _ in range(2):
        assert ask(child, "second", "inputs", b"x") == DuplicatePackage("odd")
        assert "init" not in trace.take()
    # The first one stays; the second can be mended.
    assert ask(child, "first", "inputs", b"x") == b"x"
    (packages / "second" / "libsecond.so").unlink()
    add("second", odd.declares("second"))
    assert ask(child, "second", "declared") == b"second"


def test_a_duplicate(spawn, packages, add):
    """In Spider's executor too, when neither name has been asked for before and both differ from the declared one."""
    add("first")
    add("second")
    child = spawn(packages)
    assert ask(child, "first", "inputs", b"x") == b"x"
    assert ask(child, "second", "inputs", b"x") == DuplicatePackage("odd")


def test_a_package_that_failed_to_load_holds_no_name(spawn, packages, add):
    add("first", odd.init_fails(b"\x81\x05\xa1x"))
    add("second", odd.declares("odd"), "-DNO_EXECUTE")
    add("odd")
    child = spawn(packages)
    assert ask(child, "first", "t") == PackageInitError(Custom("x"))
    assert isinstance(ask(child, "second", "t"), InvalidLibrary)
    assert ask(child, "odd", "inputs", b"x") == b"x"


def test_packages_with_the_same_symbols_do_not_mix(spawn, packages, add):
    names = ["one", "two", "three"]
    for name in names:
        add(name, odd.declares(name))
    child = spawn(packages)
    for name in names * 2:
        assert ask(child, name, "declared") == name.encode()


# ------------------------------------------------------------------------------------------------------- as a library


def test_tdl_package(packages, add, trace, monkeypatch):
    monkeypatch.setenv("ODD_TRACE", trace.env["ODD_TRACE"])
    path = add("here", odd.declares("declared"), "-DVERSION=0,1,7", odd.INIT_GOOD)
    for form in (path, str(path), os.fsencode(path)):
        package = TdlPackage.load(form)
        assert (package.path, package.name, package.version) == (str(path), "declared", (0, 1, 7))
    assert package.execute("inputs", CONTEXT, b"\0x") == Success(b"\0x")
    assert package.execute("context", b"", b"") == Success(b"")
    assert package.execute("pointers", b"", b"").outputs[-1:] == b"\1"
    assert package.execute("tâche", b"", bytes(8)) == Success("tâche".encode())
    assert package.execute("error", b"", b"\x81\x01\xa1x") == Failure(TaskError(DeserializationError("x")).encode())
    failure = package.execute("error", b"", b"")
    assert isinstance(protocol.decode_executor_error(failure.error)[0], ErrorPayloadDeserializationFailure)


def test_tdl_package_refuses(packages, add):
    with pytest.raises(IncompatibleVersion):
        TdlPackage.load(add("version", "-DVERSION=0,2,0"))
    with pytest.raises(PackageInitError):
        TdlPackage.load(add("init", odd.init_fails(b"\x81\x05\xa1x")))
    with pytest.raises(InvalidLibrary, match="nowhere"):
        TdlPackage.load(packages / "nowhere.so")

    def refuse(package):
        raise DuplicatePackage(package.name)

    with pytest.raises(DuplicatePackage, match="odd"):
        TdlPackage.load(add("duplicate"), refuse)


def test_a_path_without_a_directory(packages, add, monkeypatch):
    """It is a file of the working directory, not a library of the system."""
    path = add("odd")
    monkeypatch.chdir(path.parent)
    assert TdlPackage.load("libodd.so").name == "odd"
    with pytest.raises(InvalidLibrary, match=r"libc\.so"):
        TdlPackage.load("libc.so.6")


def test_a_refused_package_is_closed(packages, add, trace, monkeypatch):
    monkeypatch.setenv("ODD_TRACE", trace.env["ODD_TRACE"])
    with pytest.raises(PackageInitError):
        TdlPackage.load(add("closed", odd.init_fails(b"\x81\x05\xa1x")))
    assert trace.take() == ["load", "version", "name", "init", "unload"]


def test_the_manager(packages, add):
    add("odd")
    add("directory", odd.declares("other"))
    add("twin", odd.declares("odd"))
    manager = TdlPackageManager(str(packages))
    assert manager.names() == []
    assert manager.get("odd") is None
    package = manager.load("odd")
    assert manager.load("odd") is package
    assert manager.get("odd") is package
    assert manager.load("directory").name == "other"
    assert manager.get("directory") is manager.load("directory")
    assert manager.get("other") is None
    with pytest.raises(DuplicatePackage, match="odd"):
        manager.load("twin")
    with pytest.raises(InvalidLibrary):
        manager.load("other")
    assert manager.get("twin") is None
    assert manager.names() == ["odd", "other"]
    # Another manager knows nothing of it.
    assert TdlPackageManager(os.fsencode(packages)).names() == []


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a/b", "../odd", "odd/", "odd\0", "lone \ud800"])
def test_the_manager_refuses_names(packages, add, name):
    add("odd")
    manager = TdlPackageManager(packages)
    with pytest.raises(ExecutorError) as caught:
        manager.load(name)
    assert isinstance(caught.value, InvalidLibrary)
    assert caught.value.encode()
    assert manager.names() == []


def test_the_manager_follows_symlinks(packages, add, tmp_path):
    path = add("odd")
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    (packages / "directory").symlink_to(packages / "odd")
    manager = TdlPackageManager(packages)
    assert manager.load("link") is manager.load("odd")
    assert manager.names() == ["odd"]
    # The directory's own name decides what the file must be called.
    with pytest.raises(InvalidLibrary, match=r"libdirectory\.so"):
        manager.load("directory")


def test_the_manager_keeps_its_directory(packages, add, tmp_path, monkeypatch):
    add("odd")
    monkeypatch.chdir(packages.parent)
    manager = TdlPackageManager(packages.name)
    monkeypatch.chdir("/")
    assert manager.load("odd").name == "odd"


def test_the_version_of_the_abi():
    assert spider_executor.ABI_VERSION == (0, 1, 0)
    assert spider_executor.PACKAGE_DIR_VARIABLE == "SPIDER_TDL_PACKAGE_DIR"
