"""Packages: how they are found and loaded, and what is refused with which text."""

import os
import platform
import re
import resource
import shutil
import signal
import subprocess

import pytest
import vectors
from helpers import build, cli, elf, odd, preload, process
from helpers.rows import rows

from protocol import ExecutorError, TdlError
from spider_executor import TdlPackage, TdlPackageManager

ours = pytest.mark.ours
# musl's loader has words of its own.
GLIBC = platform.libc_ver()[0] == "glibc"
CUSTOM = TdlError("Custom", "x")
INIT_FAILS = odd.init_fails(CUSTOM.encode())
# In bytes. The end of a longer text is cut off on its way to the user.
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

    def add(name, *flags):
        return build.replace(packages, name, odd.build(build_package, *flags))

    return add


@pytest.fixture
def trace(tmp_path):
    return odd.Trace(tmp_path)


def refused(child, name, variant):
    """The error of a package that cannot be loaded, which every request gets."""
    error = child.call(name, "answer")
    assert isinstance(error, ExecutorError), f"expected {variant}, found {error}"
    assert error.variant == variant, f"expected {variant}, found {error}"
    assert child.call(name, "answer") == error
    assert child.serves()
    return error


def refused_text(child, name, variant="InvalidLibrary"):
    """The text of the error. It is short and has each path once."""
    text = refused(child, name, variant).content
    size = len(text.encode())
    assert size <= TEXT_MAX, f"expected at most {TEXT_MAX} bytes, found {size}: {text}"
    paths = re.findall(r"[^ :'\"]+/lib[^ :'\"]*\.so", text)
    assert len(paths) == len(set(paths)), f"expected each path once, found {text}"
    return text


# ----------------------------------------------------------------------- load order


def test_a_package_is_loaded_once_when_first_requested(spawn, packages, add, trace):
    add("odd", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert child.serves()
    assert trace.take() == []
    assert child.call("odd", "answer") == [1]
    assert trace.take() == ["load", "version", "name", "init", "execute"]
    assert child.call("odd", "calls") == [2]
    assert trace.take() == ["execute"]
    assert child.finish() == (b"", 0)
    assert trace.take() == ["unload"]


@rows("flag", {"dangling": '-DINIT=copied(0,"",0)', "NULL": "-DINIT=owned(0,NULL,0)"})
def test_init_may_return_no_buffer(spawn, packages, add, flag):
    add("odd", flag)
    assert spawn(packages).call("odd", "answer") == [1]


OTHER_VERSION = "-DVERSION=0,2,7"
NOT_UTF8 = odd.declares(b"n\xff")
ERRORS = {
    "IncompatibleVersion": ExecutorError("IncompatibleVersion", (0, 2, 7, 0, 1, 0)),
    "PackageInitError": ExecutorError("PackageInitError", CUSTOM),
}
NO_TDL_ERROR = "ErrorPayloadDeserializationFailure"
# The flags, the functions that are called, and the variant of the error.
FAILURES = f"""
version missing     | -DNO_VERSION           |              | InvalidLibrary
version wrong       | {OTHER_VERSION}        | version      | IncompatibleVersion
version before name | {OTHER_VERSION} -DNO_NAME | version   | IncompatibleVersion
name missing        | -DNO_NAME              | version      | InvalidLibrary
name before execute | {NOT_UTF8} -DNO_EXECUTE | version name | InvalidUtf8
symbol undefined    | -DUNDEFINED            |              | InvalidLibrary
init fails          | {INIT_FAILS}           | version name init | PackageInitError
init fails emptily  | {odd.init_fails(b"")}  | version name init | {NO_TDL_ERROR}
init fails oddly    | {odd.init_fails(b"!")} | version name init | {NO_TDL_ERROR}
execute missing     | -DNO_EXECUTE           | version name init | InvalidLibrary
"""
OUR_FAILURES = "call undefined | -DUNDEFINED_CALL | | InvalidLibrary"


@rows("flags, called, variant", FAILURES, ours=OUR_FAILURES)
def test_loading_stops_at_a_failure(
    spawn, packages, add, trace, flags, called, variant
):
    add("odd", odd.INIT_GOOD, *flags.split())
    child = spawn(packages, env=trace.env)
    for _ in range(2):
        found = child.call("odd", "answer")
        assert found.variant == variant
        assert found == ERRORS.get(variant, found)
        names = [name for name in trace.take() if name not in ("load", "unload")]
        assert names == called.split()
    # The name is free: in the same place, unless init has run.
    other = "other" if "init" in called else "odd"
    add(other)
    assert child.call(other, "answer") == [1]


# Whether the loader lets go of it each time.
REFUSED = {
    "version": ("-DVERSION=0,2,0", True),
    "name": ("-DNO_NAME", True),
    "init": (INIT_FAILS, False),
}


@ours
@rows("flag, is_closed", REFUSED)
def test_a_library_is_closed_if_refused_before_init(
    spawn, packages, add, trace, flag, is_closed
):
    add("odd", flag)
    child = spawn(packages, env=trace.env)
    for _ in range(3):
        child.call("odd", "answer")
    names = trace.take()
    found = (names.count("load"), names.count("unload"))
    assert found == ((3, 3) if is_closed else (1, 0))


@ours
def test_a_failed_init_keeps_its_file(spawn, packages, add):
    add("odd", INIT_FAILS)
    child = spawn(packages)
    error = refused(child, "odd", "PackageInitError")
    add("odd")
    assert child.call("odd", "answer") == error


LEFT = {"a thread": "leave_thread()", "a handler": "leave_handler()"}


@ours
@rows("left", LEFT)
def test_what_a_failed_init_leaves_finds_its_code(spawn, packages, add, left):
    add("odd", f'-DINIT=({left},failure("Custom","x"))')
    child = spawn(packages)
    refused(child, "odd", "PackageInitError")
    if "handler" in left:
        os.kill(child.pid, signal.SIGUSR1)
    for _ in range(200):
        assert child.serves()
    assert child.finish() == (b"", 0)


VERSIONS = """
equal                   | `(0, 1, 0)`                    | True
greatest patch          | `(0, 1, 4294967295)`           | True
lower minor             | `(0, 0, 9)`                    | False
higher minor            | `(0, 2, 0)`                    | False
minor of two bytes      | `(0, 257, 0)`                  | False
higher major            | `(1, 0, 0)`                    | False
major of two bytes      | `(256, 1, 0)`                  | False
other major, same minor | `(1, 1, 0)`                    | False
greatest                | `(4294967295, 4294967295, 4294967295)` | False
"""


@rows("version, serves", VERSIONS)
def test_major_and_minor_version_must_match(spawn, packages, add, version, serves):
    add("odd", "-DVERSION=" + ",".join(map(str, version)))
    error = ExecutorError("IncompatibleVersion", (*version, 0, 1, 0))
    found = spawn(packages).call("odd", "answer")
    assert found == ([1] if serves else error)


# --------------------------------------------------------------------------- warnings


def warnings(child):
    """The fields of the log, which has nothing but WARN lines."""
    lines = child.log_lines()
    levels = {line["level"] for line in lines}
    assert levels <= {"WARN"}, f"expected WARN lines, found {lines}"
    return [line["fields"] for line in lines]


WARNED = r"""
missing                 | missing             | missing
no name for a directory | ..                  | ..
a control character     | `'a\x1b\U000e0001'` | `'a\x1b\U000e0001'`
refused                 | odd                 | odd
"""


@ours
@rows("name, shown", WARNED)
def test_a_package_that_cannot_be_loaded_is_logged(spawn, packages, add, name, shown):
    add("odd", "-DVERSION=9,0,0")
    child = spawn(packages, env={"RUST_LOG": "warn"})
    error = refused(child, name, child.call(name, "answer").variant)
    line = {
        "message": "A package cannot be loaded.",
        "package": shown,
        "err": str(error),
    }
    assert warnings(child) == [line] * 3


@ours
def test_another_declared_name_is_logged_once(spawn, packages, add):
    path = add("odd", odd.declares("clp"))
    add("same", odd.declares("same"))
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    child = spawn(packages, env={"RUST_LOG": "warn"})
    for name in ("odd", "odd", "same", "link", "link"):
        child.call_raw(name, "declared")
    message = "A package declares another name."
    line = {"message": message, "package": "odd", "declared": "clp"}
    assert warnings(child) == [line, {**line, "package": "link"}]


# ------------------------------------------------------------------------------ names

DECLARED = f"""
longest         | -DNAME="{"x" * 65536}"         | True
too long        | -DNAME="{"x" * 65537}"         | False
endless         | -DNAME_SIZE=(size_t)-1         | False
NULL, empty     | -DNAME_AT=NULL -DNAME_SIZE=0   | True
NULL, not empty | -DNAME_AT=NULL -DNAME_SIZE=1   | False
"""


@ours
@rows("flags, serves", DECLARED)
def test_a_declared_name_has_an_address_and_a_bound(
    spawn, packages, add, flags, serves
):
    path = add("odd", *flags.split())
    child = spawn(packages)
    if serves:
        assert child.call("odd", "answer") == [1]
    else:
        assert str(path) in refused_text(child, "odd")


NAMES = {
    "letters of Unicode": "d\u00edas-\u65e5\u672c-\U0001f577",
    "blank": "with space",
    "two dots before": "..odd",
    "dot": "a.b",
    "dash": "-x",
    "lib": "lib",
    "long": "x" * 200,
    "percent signs": "%s%n",
    "control characters": 'quote"\\\n\x1b',
}


@rows("name", NAMES)
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_a_directory_may_have_any_name(spawn, packages, add, name, locale):
    add(name, odd.declares(name))
    child = spawn(packages, env={"LC_ALL": locale, "RUST_LOG": "trace"})
    assert child.call(name, "answer") == [1]


NOT_NAMES = {
    "empty": "",
    "one dot": ".",
    "two dots": "..",
    "slash": "/",
    "slash inside": "a/b",
    "way out": "../packages/odd",
    "slash after": "odd/",
    "slash before": "/odd",
    "NUL after": "odd\0",
    "NUL": "\0",
    "long": "../" * 3000,
}
NAME_RULE = "a package name is not empty, '.' or '..' and has no '/' or NUL"


@ours
@rows("name", NOT_NAMES)
def test_a_name_of_no_directory_is_refused_unseen(spawn, packages, add, trace, name):
    library = add("odd")
    # Where such names would lead to.
    for place in ("lib.so", "liba.so", "../lib...so", "odd/lib.so"):
        shutil.copy(library, packages / place)
    child = spawn(packages, env=trace.env)
    text = refused_text(child, name)
    start, dots, _ = text.partition("...")
    whole = f"{NAME_RULE}; found {name!a}: {packages}"
    assert text == whole if len(name) < 100 else whole.startswith(start) and dots
    assert text.endswith(str(packages))
    assert trace.take() == []
    assert child.call("odd", "answer") == [1]


MISSING = {
    "plain": "missing",
    "case": "Buffers",
    "blank after": "buffers ",
    "control character": "a\x1b\U000e0001",
}
# Their paths are too long for the kernel.
TOO_LONG = {
    "300": "n" * 300,
    "10,000 bytes": "\u00f1" * 5_000,
    "1,000,000 control characters": "\x7f" * 1_000_000,
}


@rows("name", MISSING)
def test_a_missing_package_is_looked_for_again(spawn, packages, add, name):
    child = spawn(packages, env={"RUST_LOG": "trace"})
    text = refused(child, name, "InvalidLibrary").content
    assert str(packages / name) in text
    assert "No such file" in text
    add(name, odd.declares(name))
    assert child.call(name, "answer") == [1]


@rows("name", {**TOO_LONG, "expanded by the loader": "$ORIGIN"})
def test_a_package_cannot_have_the_name(spawn, packages, name):
    child = spawn(packages, env={"RUST_LOG": "trace"})
    refused(child, name, "InvalidLibrary")
    assert child.finish() == (b"", 0)
    longest = max(map(len, child.stderr_bytes().splitlines()))
    assert longest < 64 << 10


@ours
@rows("name", {**MISSING, **TOO_LONG})
def test_no_free_descriptor_refuses_a_package(spawn, packages, name):
    child = spawn(packages, env={"RUST_LOG": "debug"})
    _, most = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
    assert child.serves()
    resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, most))
    refused(child, name, "InvalidLibrary")
    resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (100, most))
    assert child.finish() == (b"", 0)
    assert child.errors() == []


# ---------------------------------------------------------------------------- locales


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """A directory for LOCPATH."""
    directory = tmp_path_factory.mktemp("locales")
    for language, encoding in (("de_DE", "ISO-8859-1"), ("ja_JP", "EUC-JP")):
        target = str(directory / f"{language}.{encoding}")
        command = ["localedef", "-i", language, "-f", encoding, target]
        subprocess.run(command, check=True, timeout=100)
    return directory


LOCALES = {"8 bits": "de_DE.ISO-8859-1", "EUC": "ja_JP.EUC-JP"}
OUTSIDE = """
letters | für
kanji   | 日本
emoji   | 🕷
"""


@ours
@build.needs("localedef")
@rows("locale", LOCALES)
@rows("name", OUTSIDE)
def test_errors_do_not_depend_on_the_locale(
    spawn, packages, add, locales, locale, name
):
    env = {"LOCPATH": str(locales), "LC_ALL": locale}
    child = spawn(packages, env=env)
    for flag in (None, "-DNO_VERSION", "-DUNDEFINED"):
        if flag is not None:
            add(name, flag)
        expected = refused(spawn(packages, env={"LC_ALL": "C"}), name, "InvalidLibrary")
        assert child.call(name, "answer") == expected
        assert name in expected.content
    add(name, odd.declares(name))
    assert child.call(name, "answer") == [1]
    checked = cli.call("check", "--package-dir", packages, **env).stdout.decode()
    assert re.search(f"^{name} +serves$", checked, re.MULTILINE)


# ---------------------------------------------------------------------- the directory


@pytest.fixture
def two_places(tmp_path, build_package):
    """`link/../packages` is deep/packages, which gives 1, and not packages (2)."""
    (tmp_path / "deep" / "down").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "down")
    for directory, value in (("deep/packages", 1), ("packages", 2)):
        library = odd.build(build_package, f"-DVALUE={value}")
        build.stage(tmp_path / directory, "odd", library)
    return tmp_path


DIRECTORIES = {"relative": "link/../packages", "absolute": "{}/link/../packages"}


@rows("directory", DIRECTORIES)
def test_the_directory_is_used_as_it_is_given(spawn, two_places, directory):
    child = spawn(directory.format(two_places), cwd=two_places)
    assert child.call("odd", "answer") == [1]
    error = child.call("missing", "answer")
    assert "link/../packages/missing/libmissing.so" in error.content


@ours
def test_a_relative_directory_of_a_lost_place(spawn, two_places):
    gone = two_places / "gone"
    gone.mkdir()
    child = spawn("packages", cwd=gone, shell='rmdir "$PWD"; exec "$@"')
    error = child.call("odd", "answer")
    assert error.variant == "InvalidLibrary"
    assert "packages/odd/libodd.so" in error.content
    assert child.call("odd", "answer") == error
    assert child.finish() == (b"", 0)


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


# --------------------------------------------------------------- identity, duplicates


@ours
@rows("order", {"file first": "odd link", "link first": "link odd"})
def test_two_names_of_one_real_path_are_one_package(spawn, packages, add, trace, order):
    path = add("odd", odd.INIT_GOOD)
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    child = spawn(packages, env=trace.env)
    found = [child.call(name, "calls") for name in order.split() * 2]
    assert found == [[1], [2], [3], [4]]
    assert trace.take() == ["load", "version", "name", "init"] + ["execute"] * 4


@rows("how", {"usual": None}, ours={"equal inode numbers": "inodes"})
def test_packages_do_not_mix(spawn, packages, add, build_package, how):
    """They export functions of the same names."""
    add("one", odd.declares("one"), "-DVALUE=1")
    add("two", odd.declares("two"), "-DVALUE=2")
    child = spawn(
        packages,
        env=preload.env(build_package, "files", how) if how else {},
    )
    found = [child.call(name, "answer") for name in ("one", "two") * 2]
    assert found == [[1], [2], [1], [2]]


DUPLICATE = ExecutorError("DuplicatePackage", "odd")


@ours
def test_a_hard_link_is_a_duplicate(spawn, packages, add):
    """The loader takes it for the file that it has."""
    path = add("odd")
    (packages / "hard").mkdir()
    os.link(path, packages / "hard" / "libhard.so")
    child = spawn(packages)
    assert child.call("odd", "calls") == [1]
    assert refused(child, "hard", "DuplicatePackage") == DUPLICATE
    assert child.call("odd", "calls") == [2]


@ours
def test_a_second_file_of_a_name_is_not_initialized(spawn, packages, add, trace):
    add("first")
    add("second", odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert child.call("first", "answer") == [1]
    assert refused(child, "second", "DuplicatePackage") == DUPLICATE
    assert child.call("first", "calls") == [2]
    assert "init" not in trace.take()
    add("second", odd.declares("second"), "-DVALUE=2")
    assert child.call("second", "answer") == [2]


@ours
def test_a_request_is_answered_by_the_file_it_names(spawn, packages, add, trace):
    add("directory", odd.declares("declared"), odd.INIT_GOOD)
    child = spawn(packages, env=trace.env)
    assert [child.call("directory", "calls") for _ in range(3)] == [[1], [2], [3]]
    refused(child, "declared", "InvalidLibrary")
    assert trace.take() == ["load", "version", "name", "init"] + ["execute"] * 3
    add("declared", odd.declares("third"), "-DVALUE=3")
    assert child.call("declared", "answer") == [3]


# ----------------------------------------------------------------------- broken files


def damage(library, how):
    """Put something in the place of a good library."""
    if how == "whole":
        return
    data = library.read_bytes()
    library.unlink()
    kind, _, rest = how.partition(" ")
    if kind == "directory":
        library.mkdir()
    elif kind == "FIFO":
        os.mkfifo(library)
    elif kind == "link":
        library.symlink_to(rest)
    elif kind == "bytes":
        library.write_bytes(vectors.hexed(rest))
    elif kind == "cut":
        library.write_bytes(data[: int(rest)])
    else:
        # Other bytes at an offset in the ELF header.
        library.write_bytes(elf.patched(data, int(kind), bytes.fromhex(rest)))


OTHER_MACHINE = "3e00" if platform.machine() == "aarch64" else "b700"
LONG_SYMBOL = "n" * 430
WIDE_SYMBOL = "\u65e5" * 130
# A flag, what is put in the place of the library, and how the error begins.
CAUSES = f"""
no file     | | link nowhere         | cannot open shared object file: No such file
FIFO        | | FIFO                 | not a regular file
script      | | bytes '#!/bin/sh'*99 | invalid ELF header
machine     | | 18 {OTHER_MACHINE}   | built for another machine
cut         | | cut 5000             | file cut short: expected
no version  | -DNO_VERSION | whole | undefined symbol: __spider_tdl_package_get_version
no name     | -DNO_NAME    | whole | undefined symbol: __spider_tdl_package_get_name
no execute  | -DNO_EXECUTE | whole | undefined symbol: __spider_tdl_package_execute
symbol      | -DUNDEFINED  | whole | undefined symbol: nothing_defines_this
long symbol | -DUNDEFINED -DMISSING="{LONG_SYMBOL}" | whole
  | undefined symbol: {LONG_SYMBOL[:100]}
long symbol of Unicode | -DUNDEFINED -DMISSING="{WIDE_SYMBOL}" | whole
  | undefined symbol: {WIDE_SYMBOL[:30]}
endless name   | -DNAME_SIZE=99999 | whole | the declared name has 99999 bytes
name not UTF-8 | {odd.declares(b"x" + bytes([255]))} | whole
  | the declared name: 'utf-8' codec can't decode byte 0xff in position 1
"""
# The loader has other texts for these, or they depend on the machine.
OTHER_CAUSES = """
directory      | | directory       |
link to itself | | link libodd.so  | symbolic links
empty          | | bytes           | short
zeros          | | bytes 00*5000   | invalid ELF header
segment size   | | 54 0000         |
"""
OUR_CAUSES = f"""{CAUSES}\
device         | | link /dev/zero      | not a regular file
file that cannot be read | | link /proc/self/mem |
32 bits        | | 4 01                | this one is {platform.machine()}
big-endian     | | 5 02                | another machine
many segments  | | 56 ffff             | cut short
more segments  | | 56 dc00             | cut short
no address | -DNO_EXECUTE -Wl,--defsym,__spider_tdl_package_execute=0 | whole
  | a function of the package is NULL
"""


@pytest.fixture
def caused(build_package):
    """Put a library of CAUSES into a directory. Return its path and the variant."""

    def caused(directory, name, flags, how, cause):
        target = build.stage(directory, name, odd.build(build_package, *flags.split()))
        damage(target, how)
        return str(target), "InvalidUtf8" if "utf-8" in cause else "InvalidLibrary"

    return caused


@rows("flags, how, cause", OTHER_CAUSES, ours=OUR_CAUSES)
def test_what_is_not_a_package_is_refused_until_mended(
    spawn, packages, add, caused, flags, how, cause
):
    path, variant = caused(packages, "odd", flags, how, cause)
    child = spawn(packages)
    assert child.serves()
    before = process.descriptors(child.pid)
    text = refused_text(child, "odd", variant)
    assert cause in text or not GLIBC
    assert path in text
    assert process.descriptors(child.pid) == before
    shutil.rmtree(packages / "odd")
    # Init has run where only the execute function is missing.
    other = "other" if "-DNO_EXECUTE" in flags else "odd"
    add(other)
    assert child.call(other, "answer") == [1]


UNUSUAL = {
    "without section headers": elf.without_sections,
    "header in no segment": elf.with_page_before,
    "PT_NULL": elf.with_null_segments,
    "section headers cut off": lambda data: data[: elf.segments_end(data)],
    "bytes after": lambda data: data + bytes(1000),
}


@rows("change", UNUSUAL)
def test_an_unusual_library_is_loaded(spawn, packages, add, change):
    path = add("odd")
    path.write_bytes(change(path.read_bytes()))
    assert spawn(packages).call("odd", "answer") == [1]


CUTS = ("bytes after", "without section headers", "header in no segment")


@ours
@rows("change", {name: UNUSUAL[name] for name in CUTS})
def test_a_library_that_is_cut_anywhere_is_refused(spawn, packages, add, change):
    target = add("odd")
    target.write_bytes(change(target.read_bytes()))
    data = target.read_bytes()
    end = elf.segments_end(data)
    child = spawn(packages)
    for size in [*range(0, end, 500), end - 1]:
        target.write_bytes(data[:size])
        text = refused_text(child, "odd")
        assert "short" in text or not GLIBC
        if size > 4096:
            assert f"cut short: expected {end} bytes, found {size}" in text
    target.write_bytes(data)
    assert child.call("odd", "answer") == [1]


# Offset and size in bytes of each field after the magic number. The place and the
# number of the segments are left out: others in the file can be valid and wrong.
HEADER_FIELDS = [*((at, 1) for at in range(4, 16)), (16, 2), (18, 2), (20, 4), (24, 8)]
HEADER_FIELDS += [(40, 8), (48, 4), (52, 2), (54, 2), (58, 2), (60, 2), (62, 2)]
NEW_VALUES = [0, 1, 2, 3, 8, 56, 64, 127, 200, 255, -1, -8, -56, -64]


@ours
def test_no_elf_header_ends_the_executor(spawn, packages, build_package):
    library = odd.build(build_package, odd.declares("mutant-00-000"))
    data = library.read_bytes()
    child = spawn(packages)
    served = 0
    for at, size in HEADER_FIELDS:
        for value in NEW_VALUES:
            name = f"mutant-{at:02}-{value:03}"
            new = (value % (1 << 8 * size)).to_bytes(size, "little")
            mutant = elf.patched(data, at, new).replace(b"mutant-00-000", name.encode())
            build.stage(packages, name, library).write_bytes(mutant)
            found = child.call(name, "answer")
            assert found == [1] or found.variant == "InvalidLibrary"
            served += found == [1]
    assert served > 50, f"expected libraries that are loaded, found {served}"
    assert child.serves()


# -------------------------------------------------------------------- the error texts


@pytest.fixture
def deep(tmp_path, package_dir, monkeypatch):
    """A package directory with a path of over 3,000 bytes, which are not all ASCII."""
    monkeypatch.chdir(tmp_path)
    for _ in range(16):
        os.mkdir("tiefes-\u00e4-" * 20)
        os.chdir("tiefes-\u00e4-" * 20)
    directory = type(tmp_path)(os.getcwd())
    build.stage(directory, "buffers", package_dir / "buffers" / "libbuffers.so")
    assert 3000 < len(os.fsencode(directory)) < 3900
    return directory


@ours
@rows("flags, how, cause", CAUSES)
@rows("name", {"short name": "odd", "long name": "n\u00e4me-" * 30})
def test_a_long_text_is_the_cause_and_the_files_end(
    spawn, deep, caused, name, flags, how, cause
):
    path, variant = caused(deep, name, flags, how, cause)
    text = refused_text(spawn(deep), name, variant)
    start, dots, end = text.rpartition(": ...")
    assert dots, f"expected ... where the path is cut, found {text}"
    assert start.startswith(cause) or not GLIBC
    assert path.endswith(end)
    assert len(end.encode()) > 150


LIBRARY = "int missing(void);\nint library(void) { return RESULT; }\n"
DEPENDENT = """
#include "odd.c"
int library(void);
int use(void) { return library(); }
"""
# What the library that a package needs has in place of the result 1, the version of
# its symbol (the package needs V1), and the cause of the error.
DEPENDENCIES = """
symbol  | missing() | V1 | undefined symbol: missing
version | 1         | V2 | version `V1' not found
file    | None    | V1 | `'liblibrary.so.7: '`
"""


@pytest.fixture
def dependent(build_package, tmp_path):
    """Put the package `odd` into a directory, with the library that it needs."""

    def library(result, version):
        script = tmp_path / version
        script.write_text(f"{version} {{ global: library; }};\n")
        return build_package(
            tmp_path / "library.c",
            "-Wl,-soname,liblibrary.so.7",
            f"-Wl,--version-script={script}",
            f"-DRESULT={result}",
        )

    def put(directory, result, version):
        shutil.copy(library("1", "V1"), tmp_path / "liblibrary.so")
        options = (f"-L{tmp_path}", "-llibrary", f"-Wl,-rpath,{directory}")
        package = build_package(tmp_path / "dependent.c", *options)
        build.replace(directory, "odd", package)
        target = directory / "liblibrary.so.7"
        target.unlink(missing_ok=True)
        if result is not None:
            shutil.copy(library(result, version), target)

    (tmp_path / "library.c").write_text(LIBRARY)
    (tmp_path / "dependent.c").write_text(DEPENDENT)
    return put


@ours
@rows("result, version, cause", DEPENDENCIES)
@pytest.mark.parametrize("where", ["packages", "deep"])
def test_a_cause_in_a_dependency_is_told(
    request, spawn, dependent, where, result, version, cause
):
    directory = request.getfixturevalue(where)
    dependent(directory, result, version)
    child = spawn(directory)
    if GLIBC or version == "V1":  # musl does not look at versions.
        text = refused_text(child, "odd")
        assert "libodd.so" in text
        assert cause in text or not GLIBC
    dependent(directory, "1", "V1")
    assert child.call("odd", "answer") == [1]


# While the package directory has these, a flag for the package: the cause.
CAUSES_OF_A_LIFE = {
    "-DNO_VERSION": "No such file",
    "-DUNDEFINED": "undefined symbol: __spider_tdl_package_get_version",
    "-DVALUE=1": "undefined symbol: nothing_defines_this",
}


@ours
def test_a_path_that_is_not_utf_8_is_shown(spawn, tmp_path, build_package):
    directory = tmp_path / os.fsdecode(b"\xff-\xc3")
    child = spawn(directory, env={"RUST_LOG": "trace"})
    # The flag is for the package that comes after the error.
    for flag, cause in CAUSES_OF_A_LIFE.items():
        text = child.call("odd", "answer").content
        assert r"\xff-\xc3" in text
        assert cause in text or not GLIBC
        build.replace(directory, "odd", odd.build(build_package, flag))
    assert child.call("odd", "answer") == [1]


# ------------------------------------------------------------ while a package is loaded


def test_too_much_static_tls_is_refused_or_works(spawn, packages, add):
    tls = "static __thread volatile char big[1<<20];big[0]=1"
    add("odd", "-ftls-model=initial-exec", f"-DCONSTRUCTOR={tls}")
    child = spawn(packages)
    found = child.call("odd", "answer")
    assert found == [1] or "TLS" in found.content
    assert child.serves()
    add("odd")
    assert child.call("odd", "answer") == [1]


UNIQUE = {"version": "-DVERSION=0,2,7", "name": "-DNO_NAME", "init": INIT_FAILS}


@build.needs("C++ compiler")
@rows("flag", UNIQUE)
def test_a_refused_library_of_unique_symbols_is_harmless(
    spawn, packages, build_package, flag
):
    """The loader cannot unload it."""
    source = build.PACKAGES / "unique.cpp"
    build.replace(packages, "unique", build_package(source, flag))
    child = spawn(packages)
    error = refused(child, "unique", child.call("unique", "answer").variant)
    build.replace(packages, "unique", build_package(source, "-DVALUE=7"))
    assert child.call("unique", "answer") in ([7], error)
    assert child.serves()
    assert child.finish() == (b"", 0)
    assert spawn(packages).call("unique", "answer") == [7]


def test_a_loaded_package_does_not_need_its_file(spawn, packages, add):
    """It answers after the file was replaced, and after it was removed."""
    path = add("odd")
    child = spawn(packages)
    assert child.call("odd", "answer") == [1]
    add("odd", "-DVALUE=2")
    assert child.call("odd", "answer") == [1]
    assert spawn(packages).call("odd", "answer") == [2]
    shutil.rmtree(path.parent)
    assert child.call("odd", "answer") == [1]
    refused(spawn(packages), "odd", "InvalidLibrary")


# ------------------------------------------------------------------------- as classes


def test_a_manager_keeps_its_packages(packages, add):
    path = add("odd")
    add("twin")
    add("other", odd.declares("another"))
    (packages / "link").mkdir()
    (packages / "link" / "liblink.so").symlink_to(path)
    manager = TdlPackageManager(packages)
    package = manager.load("odd")
    assert package is manager.load("odd") is manager.load("link")
    assert manager.load("other").name == "another"
    for name in ("twin", "missing", "a/b"):
        with pytest.raises(ExecutorError):
            manager.load(name)
    assert sorted(manager.loaded) == ["link", "odd", "other"]


def test_a_manager_keeps_its_directory(packages, add, monkeypatch):
    add("odd")
    monkeypatch.chdir(packages.parent)
    manager = TdlPackageManager(os.fsencode(packages.name))
    monkeypatch.chdir("/")
    assert manager.load("odd").name == "odd"


def test_a_package_has_its_name_and_its_function(packages, add):
    package = TdlPackage(os.fsencode(add("odd", odd.declares("d\u00eda"))))
    assert package.name == "d\u00eda"
    assert callable(package.execute)


def test_a_taken_name_is_refused(packages, add):
    with pytest.raises(ExecutorError, match="DuplicatePackage: odd"):
        TdlPackage(os.fsencode(add("odd")), {"odd"})
