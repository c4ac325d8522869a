"""Packages: how they are found and loaded, what is refused and with which text, and the classes that load them."""

import os
import platform
import random
import shutil
import signal
import struct

import pytest
from helpers import build, odd, preload, process

import protocol
from protocol import Execute, ExecutorError, Failure, Success, TdlError
from spider_executor import TdlPackageManager

ours = pytest.mark.ours
# musl's loader has words of its own.
GLIBC = platform.libc_ver()[0] == "glibc"
MUTANTS = 20_000 if "SPIDER_FUZZ_FULL" in os.environ else 0
CUSTOM = TdlError("Custom", "x")
INIT_FAILS = odd.init_fails(CUSTOM.encode())
# In bytes. Longer texts of the executor's own lose their end on their way to the user.
TEXT_MAX = 450


@pytest.fixture
def packages(package_dir, tmp_path):
    """A directory with the package `buffers`."""
    directory = tmp_path / "packages"
    build.stage(directory, "buffers", package_dir / "buffers" / "libbuffers.so")
    return directory


@pytest.fixture
def add(packages, build_package):
    """Put an odd package into the directory, as a new file."""
    return lambda name, *flags: build.replace(
        packages, name, odd.build(build_package, *flags)
    )


@pytest.fixture
def trace(tmp_path):
    return odd.Trace(tmp_path)


def refused(child, name, kind):
    """The error of a request for a package that cannot be loaded. The executor goes on and tries again each time."""
    error = child.call(name, "answer")
    assert error.variant == kind, error
    assert child.call(name, "answer") == error
    assert child.serves()
    return error


# ----------------------------------------------------------------------------------------------------------- load order


def test_a_package_is_loaded_once_when_it_is_first_requested(
    spawn, packages, add, trace
):
    add("odd", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert child.serves()
    assert trace.take() == []
    assert child.call("odd", "answer") == [1]
    assert trace.take() == ["load", "version", "name", "init", "execute"]
    assert child.call("odd", "calls") == [2]
    assert child.call("odd", "answer") == [1]
    assert trace.take() == ["execute", "execute"]
    assert child.finish() == (b"", 0)
    assert trace.take() == ["unload"]


VERSION_ERROR = ExecutorError("IncompatibleVersion", (0, 2, 7, 0, 1, 0))
FAILURES = [
    (["-DNO_VERSION"], "InvalidLibrary", []),
    (["-DVERSION=0,2,7"], VERSION_ERROR, ["version"]),
    (["-DNO_NAME"], "InvalidLibrary", ["version"]),
    ([odd.declares(b"n\xffme")], "InvalidUtf8", ["version", "name"]),
    (["-DUNDEFINED"], "InvalidLibrary", []),
    pytest.param(["-DUNDEFINED_CALL"], "InvalidLibrary", [], marks=ours),
    (
        [INIT_FAILS],
        ExecutorError("PackageInitError", CUSTOM),
        ["version", "name", "init"],
    ),
    (
        [odd.init_fails(b"")],
        "ErrorPayloadDeserializationFailure",
        ["version", "name", "init"],
    ),
    (
        [odd.init_fails(b"\xa1x")],
        "ErrorPayloadDeserializationFailure",
        ["version", "name", "init"],
    ),
    ([odd.INIT_GOOD, "-DNO_EXECUTE"], "InvalidLibrary", ["version", "name", "init"]),
    (["-DVERSION=0,2,7", "-DNO_NAME"], VERSION_ERROR, ["version"]),
    ([odd.declares(b"\xc0"), "-DNO_EXECUTE"], "InvalidUtf8", ["version", "name"]),
]


@pytest.mark.parametrize(("flags", "error", "called"), FAILURES)
def test_loading_stops_at_a_failure_and_holds_no_name(
    spawn, packages, add, trace, flags, error, called
):
    path = add("odd", *([] if "init" in called else [odd.INIT_GOOD]), *flags)
    child = spawn(packages, env=trace.env)
    for _ in range(2):
        found = child.call("odd", "answer")
        assert found == error or found.variant == error
        assert [
            name for name in trace.take() if name not in ("load", "unload")
        ] == called
    before = process.descriptors(child.pid)
    child.call("odd", "answer")
    assert process.descriptors(child.pid) == before
    if error == "InvalidLibrary":
        assert str(path) in found.content
    # Another file may have the name, in the same place unless init has run.
    directory = "other" if "init" in called else "odd"
    add(directory)
    assert child.call(directory, "answer") == [1]


@ours
@pytest.mark.parametrize(
    ("flag", "is_closed"),
    [("-DVERSION=0,2,0", True), ("-DNO_NAME", True), (INIT_FAILS, False)],
)
def test_a_library_is_closed_only_if_it_was_refused_before_init(
    spawn, packages, add, build_package, trace, flag, is_closed
):
    """After it was closed, its file may even be overwritten in place."""
    add("odd", flag)
    child = spawn(packages, env=trace.env)
    error = refused(child, "odd", child.call("odd", "answer").variant)
    loads = 3 if is_closed else 1
    names = trace.take()
    assert (names.count("load"), names.count("unload")) == (
        loads,
        loads if is_closed else 0,
    )
    (build.stage if is_closed else build.replace)(
        packages, "odd", odd.build(build_package)
    )
    assert child.call("odd", "answer") == ([1] if is_closed else error)


@pytest.mark.parametrize("left", ["leave_thread()", "leave_handler()"])
def test_what_a_failed_init_leaves_behind_finds_its_code(spawn, packages, add, left):
    add("odd", f'-DINIT=({left},failure("Custom","x"))')
    child = spawn(packages)
    refused(child, "odd", "PackageInitError")
    if "handler" in left:
        os.kill(child.pid, signal.SIGUSR1)
    for _ in range(200):
        assert child.serves()
    assert child.finish() == (b"", 0)


VERSIONS = [
    (0, 1, 0),
    (0, 1, 2**32 - 1),
    (0, 0, 9),
    (0, 2, 0),
    (0, 257, 0),
    (1, 0, 0),
    (1, 1, 0),
    (2**32 - 1,) * 3,
]


@pytest.mark.parametrize("version", VERSIONS)
def test_major_and_minor_version_must_match(spawn, packages, add, version):
    add("odd", "-DVERSION=" + ",".join(map(str, version)))
    error = ExecutorError("IncompatibleVersion", (*version, 0, 1, 0))
    assert spawn(packages).call("odd", "answer") == (
        [1] if version[:2] == (0, 1) else error
    )


# ---------------------------------------------------------------------------------------------------------------- names


DECLARED = [
    ([f'-DNAME="{"x" * 65536}"'], True),
    ([f'-DNAME="{"x" * 65537}"'], False),
    (["-DNAME_SIZE=(size_t)-1"], False),
    (["-DNAME_AT=NULL", "-DNAME_SIZE=0"], True),
    (["-DNAME_AT=NULL", "-DNAME_SIZE=1"], False),
]


@ours
@pytest.mark.parametrize(
    ("flags", "serves"), DECLARED, ids=lambda value: str(value)[:20]
)
def test_a_declared_name_has_a_pointer_and_a_bound(spawn, packages, add, flags, serves):
    path = add("odd", *flags)
    if serves:
        assert spawn(packages).call("odd", "answer") == [1]
    else:
        assert str(path) in refused(spawn(packages), "odd", "InvalidLibrary").content


NAMES = [
    "d\u00edas-\u65e5\u672c-\U0001f577",
    "with space",
    "..odd",
    "a.b",
    "-x",
    "lib",
    "x" * 200,
    "%s%n",
]
NAMES += ['quote"\\\n\x1b']
NOT_NAMES = [
    "",
    ".",
    "..",
    "/",
    "a/b",
    "../packages/odd",
    "odd/",
    "/odd",
    "odd\0",
    "\0",
    "../" * 3000,
]
MISSING = [
    "missing",
    "Buffers",
    "buffers ",
    "$ORIGIN",
    "n" * 300,
    "\u00f1" * 5_000,
    "\x7f" * 1_000_000,
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_directory_may_have_any_name(spawn, packages, add, name, locale):
    add(name, odd.declares(name))
    child = spawn(packages, env={"LC_ALL": locale, "RUST_LOG": "trace"})
    assert child.call(name, "answer") == [1]


@ours
@pytest.mark.parametrize("name", NOT_NAMES, ids=lambda name: ascii(name[:20]))
def test_a_name_that_is_not_a_directorys_is_refused_without_a_look(
    spawn, packages, add, trace, name
):
    library = add("odd")
    for path in (
        packages / "lib.so",
        packages / "liba.so",
        packages.parent / "lib...so",
        packages / "odd" / "lib.so",
    ):
        shutil.copy(library, path)
    child = spawn(packages, env=trace.env)
    text = refused(child, name, "InvalidLibrary").content
    assert ascii(name[:20]) in text
    assert str(packages) in text
    assert len(text) <= TEXT_MAX
    assert trace.take() == []
    assert child.call("odd", "answer") == [1]


@pytest.mark.parametrize("name", MISSING, ids=lambda name: ascii(name[:20]))
def test_a_package_that_is_missing_is_looked_for_again(spawn, packages, add, name):
    child = spawn(packages, env={"RUST_LOG": "trace"})
    text = refused(child, name, "InvalidLibrary").content
    if len(name) < 100:
        assert str(packages / name) in text
        assert "No such file" in text
        add(name, odd.declares(name))
        # The loader expands names with a dollar sign.
        assert name[0] == "$" or child.call(name, "answer") == [1]
    assert child.finish() == (b"", 0)
    assert all(len(line) < 64 << 10 for line in child.stderr().splitlines())


# ------------------------------------------------------------------------------------------------ identity, duplicates


def test_links_are_followed_and_need_not_be_utf8(
    spawn, packages, tmp_path, build_package
):
    library = build.stage(tmp_path / "elsewhere", "odd", odd.build(build_package))
    (packages / "file").mkdir()
    (packages / "file" / "libfile.so").symlink_to(library)
    (packages / "odd").symlink_to(library.parent)
    link = tmp_path / os.fsdecode(b"d\xff\xc3\xa9")
    link.symlink_to(packages)
    for directory, name in ((packages, "file"), (packages, "odd"), (link, "odd")):
        assert spawn(directory).call(name, "answer") == [1]


@ours
@pytest.mark.parametrize("order", [("odd", "link"), ("link", "odd")])
def test_two_names_of_one_real_path_are_one_package(spawn, packages, add, trace, order):
    path = add("odd", odd.INIT_GOOD)
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    child = spawn(packages, env=trace.env)
    assert [child.call(name, "calls") for name in order * 2] == [[1], [2], [3], [4]]
    assert trace.take() == ["load", "version", "name", "init"] + ["execute"] * 4


@pytest.mark.parametrize("how", ["", pytest.param("inodes", marks=ours)])
def test_packages_do_not_mix(spawn, packages, add, build_package, how):
    """They export functions of the same names. Their files may even have equal inode numbers."""
    add("one", odd.declares("one"), "-DVALUE=1")
    add("two", odd.declares("two"), "-DVALUE=2")
    child = spawn(packages, env=preload.files(build_package, how) if how else {})
    assert [child.call(name, "answer") for name in ("one", "two") * 2] == [
        [1],
        [2],
        [1],
        [2],
    ]


@ours
def test_a_file_that_the_loader_takes_for_another_is_a_duplicate(spawn, packages, add):
    path = add("odd")
    (packages / "hard").mkdir()
    os.link(path, packages / "hard" / "libhard.so")
    child = spawn(packages)
    assert child.call("odd", "calls") == [1]
    assert refused(child, "hard", "DuplicatePackage") == ExecutorError(
        "DuplicatePackage", "odd"
    )
    assert child.call("odd", "calls") == [2]


@ours
def test_a_second_file_that_declares_a_name_is_a_duplicate_and_not_initialized(
    spawn, packages, add, trace
):
    add("first")
    add("second", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert child.call("first", "answer") == [1]
    assert refused(child, "second", "DuplicatePackage") == ExecutorError(
        "DuplicatePackage", "odd"
    )
    assert child.call("first", "calls") == [2]
    assert "init" not in trace.take()
    add("second", odd.declares("second"), "-DVALUE=2")
    assert child.call("second", "answer") == [2]


@ours
def test_a_request_is_answered_by_the_file_that_its_name_leads_to(
    spawn, packages, add, trace
):
    add("directory", odd.declares("declared"), odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert [child.call("directory", "calls") for _ in range(3)] == [[1], [2], [3]]
    refused(child, "declared", "InvalidLibrary")
    assert trace.take() == ["load", "version", "name", "init"] + ["execute"] * 3
    add("declared", odd.declares("third"), "-DVALUE=3")
    assert child.call("declared", "answer") == [3]


# ----------------------------------------------------------------------------------------- broken files and error texts


def put(what, target, data):
    """Make a link, something else that has no content, or a changed copy of a library's `data`."""
    if isinstance(what, str):
        target.symlink_to(what)
    elif what in (os.mkdir, os.mkfifo):
        what(target)
    else:
        target.write_bytes(what(data))


OTHER_MACHINE = struct.pack("<H", 62 if platform.machine() == "aarch64" else 183)
NOT_LIBRARIES = [
    (os.mkdir, ""),
    ("libodd.so", "symbolic links"),
    ("nowhere", "No such file"),
    (lambda data: b"", "short"),
    (lambda data: b"#!/bin/sh\nexit 0\n" * 100, "invalid ELF header"),
    (lambda data: bytes(5000), "invalid ELF header"),
    (lambda data: data[:54] + bytes(2) + data[56:], ""),  # the size of a program header
]
OUR_TEXTS = [
    (os.mkfifo, "not a regular file"),
    ("/dev/zero", "not a regular file"),
    ("/proc/self/mem", ""),  # It cannot be read at offset 0.
    (lambda data: data[:4] + b"\1" + data[5:], "another machine"),  # 32 bits
    (lambda data: data[:5] + b"\2" + data[6:], "another machine"),  # big-endian
    (lambda data: data[:18] + OTHER_MACHINE + data[20:], platform.machine()),
    (
        lambda data: data[:58] + b"\xff" * 4 + data[62:],
        "cut short",
    ),  # the size and the number of section headers
]


@pytest.mark.parametrize(
    ("what", "word"),
    [*NOT_LIBRARIES, *(pytest.param(*row, marks=ours) for row in OUR_TEXTS)],
)
def test_what_is_not_a_library_is_refused_until_it_is_mended(
    spawn, packages, build_package, what, word
):
    library = odd.build(build_package)
    target = packages / "odd" / "libodd.so"
    target.parent.mkdir()
    put(what, target, library.read_bytes())
    child = spawn(packages)
    assert child.serves()
    before = process.descriptors(child.pid)
    text = refused(child, "odd", "InvalidLibrary").content
    assert str(target) in text
    assert word in text or not GLIBC
    assert process.descriptors(child.pid) == before
    target.rmdir() if what is os.mkdir else target.unlink()
    build.stage(packages, "odd", library)
    assert child.call("odd", "answer") == [1]


@ours
def test_a_library_that_is_cut_short_anywhere_is_refused(
    spawn, packages, build_package
):
    data = odd.build(build_package).read_bytes()
    target = packages / "odd" / "libodd.so"
    target.parent.mkdir()
    child = spawn(packages)
    for size in [*range(0, len(data), 500), len(data) - 1]:
        target.write_bytes(data[:size])
        error = child.call("odd", "answer")
        assert error.variant == "InvalidLibrary"
        assert "short" in error.content
    target.write_bytes(data)
    assert child.call("odd", "answer") == [1]


def test_a_program_header_of_type_pt_null_is_ignored(spawn, packages, add):
    path = add("odd")
    data = bytearray(path.read_bytes())
    at, size, count = struct.unpack_from("<Q14xHH", data, 32)
    for start in range(at, at + size * count, size):
        if data[start : start + 4] == b"\x50\xe5\x74\x64":  # PT_GNU_EH_FRAME
            data[start : start + size] = bytes(4) + b"\xff" * (size - 4)
    path.write_bytes(data)
    assert spawn(packages).call("odd", "answer") == [1]


def elf_headers(data):
    """Headers in which one field after the magic number has a value that means something, and then several have any."""
    fields = [(at, 1) for at in range(4, 16)] + [
        (16, 2),
        (18, 2),
        (20, 4),
        (24, 8),
        (32, 8),
        (40, 8),
        (48, 4),
    ]
    fields += [(at, 2) for at in range(52, 64, 2)]
    edges = [(field, edge) for field in fields for edge in range(18)]
    rng = random.Random(12)
    for number in range(len(edges) + MUTANTS):
        header = bytearray(data[:64])
        for (at, size), edge in (
            [edges[number]]
            if number < len(edges)
            else rng.choices(edges, k=rng.choice((2, 3, 6)))
        ):
            value, limit = (
                int.from_bytes(header[at : at + size], "little"),
                1 << 8 * size,
            )
            values = [value + 56 * count for count in (-1, 1, 2, 3, 4, 5, 6, 7, 8)] + [
                value + 1,
                value + 8,
                value - 1,
            ]
            values += [0, 1, limit - 1, limit >> 1, len(data), rng.randrange(limit)]
            header[at : at + size] = (values[edge] % limit).to_bytes(size, "little")
        yield bytes(header)


@ours
def test_no_elf_header_ends_the_executor(spawn, packages, build_package):
    data = odd.build(build_package, odd.declares("mutant-000000")).read_bytes()
    child = spawn(packages)
    served = 0
    for number, header in enumerate(elf_headers(data)):
        name = f"mutant-{number:06}"
        target = packages / name / f"lib{name}.so"
        target.parent.mkdir()
        target.write_bytes(header + data[64:].replace(b"mutant-000000", name.encode()))
        try:
            outcome = child.call(name, "answer")
        except (AssertionError, OSError) as error:
            raise AssertionError(f"{header.hex()}: {error}") from None
        assert outcome == [1] or outcome.variant == "InvalidLibrary"
        served += outcome == [1]
        shutil.rmtree(target.parent)
    assert served > 50
    assert child.serves()


@pytest.fixture
def deep(tmp_path, package_dir, monkeypatch):
    """A package directory with a path of more than 3,000 bytes, which are not all ASCII."""
    monkeypatch.chdir(tmp_path)
    for _ in range(16):
        os.mkdir("tiefes-\u00e4-" * 20)
        os.chdir("tiefes-\u00e4-" * 20)
    directory = type(tmp_path)(os.getcwd())
    build.stage(directory, "buffers", package_dir / "buffers" / "libbuffers.so")
    assert 3000 < len(os.fsencode(directory)) < 3900
    return directory


CAUSES = [
    ("nowhere", "cannot open shared object file: No such file"),
    (os.mkfifo, "not a regular file"),
    (lambda data: b"#!/bin/sh" * 100, "invalid ELF header"),
    (lambda data: data[:18] + OTHER_MACHINE + data[20:], "built for another machine"),
    (lambda data: data[: len(data) // 2], "file cut short"),
    ("-DNO_VERSION", "undefined symbol: __spider_tdl_package_get_version"),
    ("-DNO_NAME", "undefined symbol: __spider_tdl_package_get_name"),
    ("-DNO_EXECUTE", "undefined symbol: __spider_tdl_package_execute"),
    ("-DUNDEFINED", "undefined symbol: nothing_defines_this"),
    ("-DNAME_SIZE=99999", "the declared name has 99999 bytes"),
    (
        odd.declares(b"x\xff"),
        "the declared name: 'utf-8' codec can't decode byte 0xff in position 1",
    ),
]


@ours
@pytest.mark.parametrize(("what", "cause"), CAUSES)
@pytest.mark.parametrize("name", ["odd", "n\u00e4me-" * 30], ids=len)
def test_a_long_error_text_begins_with_the_cause_and_ends_with_the_file(
    spawn, deep, build_package, what, cause, name
):
    is_flag = isinstance(what, str) and what.startswith("-D")
    library = odd.build(build_package, *[what] * is_flag)
    target = build.stage(deep, name, library)
    if not is_flag:
        target.unlink()
        put(what, target, library.read_bytes())
    text = refused(
        spawn(deep), name, "InvalidUtf8" if "utf-8" in cause else "InvalidLibrary"
    ).content
    assert text.startswith(cause) or not GLIBC
    assert text.endswith(f"lib{name}.so"[-100:])
    assert len(text.encode()) <= TEXT_MAX


@pytest.fixture
def add_dependent(build_package, tmp_path):
    """Put a package into a directory, with a library that it needs in the version V1."""
    (tmp_path / "library.c").write_text(
        "int missing(void);\nint library(void) { return RESULT; }\n"
    )
    (tmp_path / "dependent.c").write_text(
        '#include "odd.c"\nint library(void);\nint use(void) { return library(); }\n'
    )
    for version in ("V1", "V2"):
        (tmp_path / version).write_text(f"{version} {{ global: library; }};\n")

    def put_both(directory, result, version="V1"):
        options = (
            "-Wl,-soname,liblibrary.so.7",
            f"-DRESULT={result}",
            f"-Wl,--version-script={tmp_path}/",
        )
        shutil.copy(
            build_package(tmp_path / "library.c", *options[:2], f"{options[2]}V1"),
            tmp_path / "liblibrary.so",
        )
        target = directory / "liblibrary.so.7"
        shutil.copy(
            build_package(tmp_path / "library.c", *options[:2], options[2] + version),
            target,
        )
        options = (f"-L{tmp_path}", "-llibrary", f"-Wl,-rpath,{directory}")
        build.replace(
            directory, "odd", build_package(tmp_path / "dependent.c", *options)
        )

    return put_both


@ours
@pytest.mark.parametrize("where", ["packages", "deep"])
def test_a_cause_in_a_dependency_is_told(request, spawn, add_dependent, where):
    directory = request.getfixturevalue(where)
    child = spawn(directory)

    def text():
        text = refused(child, "odd", "InvalidLibrary").content
        assert len(text.encode()) <= TEXT_MAX
        assert "libodd.so" in text
        return text

    add_dependent(directory, "missing()")
    assert "undefined symbol: missing" in text() or not GLIBC
    if GLIBC:  # musl does not look at versions.
        add_dependent(directory, "1", "V2")
        assert "version `V1' not found" in text()
    (directory / "liblibrary.so.7").unlink()
    assert "liblibrary.so.7: " in text()
    add_dependent(directory, "1")
    assert child.call("odd", "answer") == [1]


@ours
def test_a_path_that_is_not_utf_8_is_shown(spawn, tmp_path, build_package):
    directory = tmp_path / os.fsdecode(b"\xff-\xc3")
    child = spawn(directory, env={"RUST_LOG": "trace"})
    for flag in ("-DNO_VERSION", "-DUNDEFINED", "-DVALUE=1"):
        assert r"\xff-\xc3" in child.call("odd", "answer").content
        build.replace(directory, "odd", odd.build(build_package, flag))
    assert child.call("odd", "answer") == [1]


# ------------------------------------------------------------------------------------------- while a package is loaded


def test_too_much_static_tls_is_refused_or_works(spawn, packages, add):
    tls = "static __thread volatile char big[1<<20];big[0]=1"
    add("odd", "-ftls-model=initial-exec", f"-DCONSTRUCTOR={tls}")
    child = spawn(packages)
    outcome = child.call("odd", "answer")
    assert outcome == [1] or (
        outcome.variant == "InvalidLibrary" and "TLS" in outcome.content
    )
    assert child.serves()
    add("odd")
    assert child.call("odd", "answer") == [1]


@build.needs("C++ compiler")
@pytest.mark.parametrize("flag", ["-DVERSION=0,2,7", "-DNO_NAME", INIT_FAILS])
def test_a_refused_library_that_the_loader_cannot_unload_does_no_harm(
    spawn, packages, build_package, flag
):
    source = build.PACKAGES / "unique.cpp"
    build.replace(packages, "unique", build_package(source, flag))
    child = spawn(packages)
    error = refused(child, "unique", child.call("unique", "answer").variant)
    build.replace(packages, "unique", build_package(source, "-DVALUE=7"))
    assert child.call("unique", "answer") in ([7], error)
    assert child.serves()
    assert child.finish() == (b"", 0)
    assert spawn(packages).call("unique", "answer") == [7]


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_loaded_package_keeps_answering(spawn, packages, add, change):
    path = add("odd")
    child = spawn(packages)
    assert child.call("odd", "answer") == [1]
    shutil.rmtree(path.parent) if change == "removed" else add("odd", "-DVALUE=2")
    assert child.call("odd", "answer") == [1]
    found = spawn(packages).call("odd", "answer")
    assert found == [2] if change == "replaced" else found.variant == "InvalidLibrary"


# ----------------------------------------------------------------------------------------------------------- as classes


def test_a_manager_runs_tasks_in_its_process(packages, add):
    add("here", odd.declares("declared"), odd.INIT_GOOD)
    add("bad", INIT_FAILS)
    manager = TdlPackageManager(packages)

    def outcome(package, task, raw_ctx, raw_inputs):
        return manager.execute(Execute(package, task, raw_ctx, raw_inputs)).outcome

    assert outcome("here", "inputs", b"context", b"\0x") == Success(b"\0x")
    assert outcome("here", "inputs", b"context", b"") == Success(bytes(4))
    assert outcome("here", "context", b"context", b"inputs") == Success(b"context")
    assert outcome("here", "t\u00e2che", b"", b"") == Success("t\u00e2che".encode())
    assert outcome("here", "pointers", b"", b"").outputs[-1:] == b"\1"
    for package, kind in (("here", "TaskError"), ("bad", "PackageInitError")):
        assert outcome(package, "error", b"", CUSTOM.encode()) == Failure(
            ExecutorError(kind, CUSTOM).encode()
        )
    error, _ = protocol.decode_executor_error(
        outcome("here", "error", b"", b"\xc1").error
    )
    assert error.variant == "ErrorPayloadDeserializationFailure"


def test_a_manager_keeps_its_packages_and_its_directory(packages, add, monkeypatch):
    path = add("odd")
    add("other", odd.declares("another"))
    add("twin")
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    monkeypatch.chdir(packages.parent)
    manager = TdlPackageManager(packages.name)
    monkeypatch.chdir("/")
    package = manager.load("odd")
    assert package is manager.load("odd") is manager.load("link")
    assert manager.load("other").name == "another"
    for name, kind in (
        ("twin", "DuplicatePackage"),
        ("another", "InvalidLibrary"),
        ("a/b", "InvalidLibrary"),
    ):
        with pytest.raises(ExecutorError) as caught:
            manager.load(name)
        assert caught.value.variant == kind
    # Another manager has packages of its own.
    assert TdlPackageManager(os.fsencode(packages)).load("twin").name == "odd"
