"""The command `check`: what an operator learns of packages that are well, and of those that are not."""

from __future__ import annotations

import json
import os
import platform
import shlex
import shutil
import signal
import subprocess

import pytest
from helpers import build, cli, executor

pytestmark = pytest.mark.ours

PREFIX = "__spider_tdl_package_"
VARIANT = build.PACKAGES / "odd.c"


def report(directory, *arguments, **env):
    """The exit status, and the packages by name."""
    done = cli.call("check", "--json", "--package-dir", directory, *arguments, **env)
    assert done.stderr == ""
    whole = json.loads(done.stdout)
    assert whole["all_serve"] is (done.status == 0)
    assert all(package["serves"] is not bool(package["problems"]) for package in whole["packages"])
    return done.status, {package["package"]: package for package in whole["packages"]}


def patched(library, target, offset, data):
    """A copy of a library with other bytes at an offset."""
    shutil.copy(library, target)
    with open(target, "r+b") as file:
        file.seek(offset)
        file.write(data)


def link_against_nothing(directory, target):
    """Link a library that needs libraries of which none is found in the end, one of them through another."""
    source = directory / "empty.c"
    source.write_text("")

    def link(output, *needed):
        names = [f"-l:{name}" for name in needed]
        flags = ["-shared", "-fPIC", "-Wl,--no-as-needed", f"-Wl,-rpath,{directory}", f"-L{directory}"]
        subprocess.run([build.CC, *flags, "-o", output, source, *names], check=True, timeout=60)

    link(directory / "libinner_gone.so")
    link(directory / "libouter_gone.so.2")
    link(directory / "libfound.so", "libinner_gone.so")
    link(target, "libouter_gone.so.2", "libfound.so")
    (directory / "libinner_gone.so").unlink()
    (directory / "libouter_gone.so.2").unlink()


@pytest.fixture(scope="module")
def unwell(tmp_path_factory, build_package):
    """A directory of packages each of which lacks something else, and what `check` says of them."""
    directory = tmp_path_factory.mktemp("unwell")

    def variant(name, *flags):
        build.stage(directory, name, build_package(VARIANT, f'-DNAME="{name}"', *flags))

    variant("no_version", "-DNO_VERSION")
    variant("no_name", "-DNO_NAME")
    variant("no_execute", "-DNO_EXECUTE")
    variant("other_abi", "-DVERSION=3,4,7")
    variant("init_fails", '-DINIT=failure("ExecutionError","no\\x20licence")')
    variant("init_babbles", '-DINIT=copied(1,"\\xc1",1)')
    variant("init_crashes", "-DINIT=(abort(),number(1))")
    variant("init_exits", '-DINIT=(puts("no\\x20licence"),exit(0),number(1))')
    variant("constructor_crashes", "-DCONSTRUCTOR=raise(SIGSEGV)", "-include", "signal.h")
    variant("undefined", "-DUNDEFINED")
    build.stage(directory, "not_utf8", build_package(VARIANT, '-DNAME="\\xff"'))

    good = build_package(VARIANT)
    for name in ("foreign", "small", "short", "text", "needy", "pipe", "dangling", "misnamed"):
        (directory / name).mkdir()
    patched(good, directory / "foreign" / "libforeign.so", 18, b"\x16\x00")
    patched(good, directory / "small" / "libsmall.so", 4, b"\x01")
    (directory / "short" / "libshort.so").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (directory / "text" / "libtext.so").write_text("INPUT(libreal.so)\n" * 10)
    link_against_nothing(tmp_path_factory.mktemp("needed"), directory / "needy" / "libneedy.so")
    os.mkfifo(directory / "pipe" / "libpipe.so")
    (directory / "dangling" / "libdangling.so").symlink_to("/nonexistent/lib.so")
    shutil.copy(good, directory / "misnamed" / "libanother.so")
    (directory / "gone").symlink_to("nowhere")
    shutil.copy(good, directory / "libstray.so")
    (directory / "README").write_text("no package")
    (directory / ".cache").mkdir()
    status, packages = report(directory)
    assert status == 1
    return packages


STARTS_A_PROCESS = """\
#include <stdio.h>
#include <unistd.h>
#include "spider_tdl.h"

static void init(spider_task *task) {
    (void)task;
    pid_t child = fork();
    if (child == 0) {
        sleep(600);
        _exit(0);
    }
    FILE *file = fopen(getenv("STARTED"), "w");
    fprintf(file, "%d", (int)child);
    fclose(file);
}

static void nothing(spider_task *task) { (void)task; }

SPIDER_TDL_PACKAGE("starts", init, {"nothing", nothing});
"""
ALL = ["get_version", "get_name", "init", "execute"]


@pytest.mark.parametrize(
    ("name", "symbols", "init", "text", "advice"),
    [
        ("no_version", ["get_name", "execute"], "not reached", f"undefined symbol: {PREFIX}get_version", "Export"),
        ("no_name", ["get_version", "execute"], "not reached", f"undefined symbol: {PREFIX}get_name", "Export"),
        ("no_execute", ["get_version", "get_name"], "none", f"undefined symbol: {PREFIX}execute", "Export"),
        ("other_abi", ["get_version", "get_name", "execute"], "not reached", "3.4.7, this executor is 0.1.0", "0.1"),
        ("init_fails", ALL, "failed", "PackageInitError: ExecutionError: no licence", "Init says why"),
        ("init_babbles", ALL, "failed", "is not a TdlError", "TdlError"),
        ("init_crashes", ALL, "failed", "init: the process ended, killed by SIGABRT", "gdb"),
        ("init_exits", ALL, "failed", "init: the process ended, exit code 0; it printed: no licence", "gdb"),
        ("constructor_crashes", None, "not reached", "a constructor: the process ended, killed by SIGSEGV", "gdb"),
        ("undefined", None, "not reached", "undefined symbol: nothing_defines_this", "Link it with"),
        ("not_utf8", ["get_version", "get_name", "execute"], "not reached", "InvalidUtf8", "UTF-8"),
        (
            "foreign",
            None,
            "not reached",
            "another machine: expected 64-bit {machine}, found 64-bit machine 22",
            "Build",
        ),
        ("small", None, "not reached", "another machine: expected 64-bit {machine}, found 32-bit {machine}", "Build"),
        ("short", None, "not reached", "file cut short", "Copy it again"),
        ("text", None, "not reached", "invalid ELF header", "Stage a shared library"),
        ("pipe", None, "not reached", "expected a shared library, found a special file", "Stage a shared library"),
        ("dangling", None, "not reached", "/nonexistent/lib.so: No such file or directory", "Stage the library there"),
        ("misnamed", None, "not reached", "libmisnamed.so: No such file or directory", "Stage the library there"),
        ("gone", None, "not reached", "No such file or directory", "Stage the library there"),
        ("libstray.so", None, "not reached", "Not a directory", "Stage the library there"),
    ],
)
def test_a_package_that_would_not_serve(unwell, name, symbols, init, text, advice):
    package = unwell[name]
    (problem,) = package["problems"]
    assert text.format(machine=platform.machine()) in problem["text"]
    assert advice in problem["advice"]
    assert package["init"] == init
    assert package["symbols"] == (symbols and [PREFIX + symbol for symbol in symbols])
    assert package["warnings"] == []


def test_the_advice_on_a_crash_is_a_command_that_crashes(unwell):
    for name, status in (("init_crashes", -signal.SIGABRT), ("constructor_crashes", -signal.SIGSEGV)):
        _, _, command = unwell[name]["problems"][0]["advice"].partition("gdb --args ")
        assert subprocess.run(shlex.split(command), timeout=executor.DEADLINE, check=False).returncode == status


def test_all_missing_libraries_are_named(unwell):
    package = unwell["needy"]
    assert package["missing_dependencies"] == ["libouter_gone.so.2", "libinner_gone.so"]
    (problem,) = package["problems"]
    assert problem["text"] == "the loader does not find libouter_gone.so.2, libinner_gone.so"
    assert problem["advice"].startswith("Install what is missing")


def test_what_is_no_package_is_left_out(unwell):
    assert "README" not in unwell
    assert ".cache" not in unwell
    assert len(unwell) == 21


def test_what_is_known_is_told_of_a_package_that_would_not_serve(unwell):
    assert unwell["other_abi"]["abi_version"] == "3.4.7"
    assert unwell["init_crashes"]["declared_name"] == "init_crashes"
    assert (unwell["foreign"]["elf_class"], unwell["foreign"]["machine"]) == ("64-bit", "machine 22")
    assert (unwell["small"]["elf_class"], unwell["small"]["machine"]) == ("32-bit", platform.machine())
    assert (unwell["text"]["elf_class"], unwell["text"]["machine"]) == (None, None)
    assert unwell["dangling"]["leads_to"] == "/nonexistent/lib.so"


def test_packages_that_would_serve(package_dir):
    status, packages = report(package_dir, "integration_test_tasks", "complex")
    assert status == 0
    assert list(packages) == ["integration_test_tasks", "complex"]
    assert packages["complex"] == {
        "package": "complex",
        "path": f"{package_dir}/complex/libcomplex.so",
        "leads_to": None,
        "elf_class": "64-bit",
        "machine": platform.machine(),
        "abi_version": "0.1.0",
        "declared_name": "complex",
        "symbols": [PREFIX + name for name in ALL],
        "missing_dependencies": [],
        "init": "succeeded",
        "problems": [],
        "warnings": [],
        "serves": True,
    }


def test_init_sees_the_environment_of_the_command(package_dir):
    status, packages = report(package_dir, "integration_test_tasks", SPIDER_TEST_TDL_INIT_SHOULD_FAIL="1")
    assert status == 1
    assert "PackageInitError" in packages["integration_test_tasks"]["problems"][0]["text"]


def test_init_sees_the_directory_as_in_an_executor(tmp_path, build_package):
    init = '-DINIT=getenv("SPIDER_TDL_PACKAGE_DIR")?number(1):failure("ExecutionError","unset")'
    build.stage(tmp_path, "odd", build_package(VARIANT, init))
    assert report(tmp_path)[0] == 0


def test_where_links_lead_and_aliases_are_no_duplicates(tmp_path, build_package):
    real = build.stage(tmp_path / "store", "odd", build_package(VARIANT))
    directory = tmp_path / "packages"
    directory.mkdir()
    (directory / "odd").symlink_to(real.parent)
    (directory / "alias").mkdir()
    (directory / "alias" / "libalias.so").symlink_to(real)
    status, packages = report(directory)
    assert status == 0
    assert [package["leads_to"] for package in packages.values()] == [str(real), str(real)]
    assert packages["odd"]["warnings"] == []
    (warning,) = packages["alias"]["warnings"]
    assert warning["text"].endswith(": odd")
    assert warning["advice"].startswith("Rename")


def test_two_files_that_declare_one_name(tmp_path, build_package):
    for name in ("one", "two", "three"):
        build.stage(tmp_path, name, build_package(VARIANT, f'-DNAME="{name.replace("two", "one")}"'))
    status, packages = report(tmp_path)
    assert status == 1
    assert packages["one"]["problems"][0]["text"].startswith("two declares the name one too")
    assert packages["two"]["problems"][0]["text"].startswith("one declares the name one too")
    assert packages["three"]["serves"]
    assert report(tmp_path, "one")[0] == 0


def test_a_package_that_hangs(tmp_path, build_package):
    build.stage(tmp_path, "hang", build_package(VARIANT, '-DNAME="hang"', "-DINIT=(pause(),number(1))"))
    status, packages = report(tmp_path, "--timeout", "1")
    assert status == 1
    assert packages["hang"]["problems"][0]["text"].endswith(": no end after 1 s")


def test_ctrl_c_ends_what_hangs(tmp_path, build_package):
    library = build_package(VARIANT, '-DNAME="hang"', f'-DINIT=(fclose(fopen("{tmp_path}/pid","w")),pause(),number(1))')
    build.stage(tmp_path / "packages", "hang", library)
    probes = []

    def ready(pid):
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            probes[:] = file.read().split()
        return (tmp_path / "pid").exists()

    done = cli.interrupt(ready, "check", "--package-dir", tmp_path / "packages")
    assert done == (130, b"", "")
    assert len(probes) == 1
    assert not os.path.exists(f"/proc/{probes[0]}")


def test_a_misspelt_name(package_dir):
    status, packages = report(package_dir, "complx")
    assert status == 1
    assert packages["complx"]["problems"][0]["advice"] == "Stage the library there; did you mean complex?"


def test_the_name_itself_is_no_suggestion(tmp_path):
    (tmp_path / "empty").mkdir()
    _, packages = report(tmp_path)
    assert packages["empty"]["problems"][0]["advice"] == "Stage the library there."


@pytest.mark.parametrize("name", ["", "..", "/etc", "a/b"])
def test_a_name_that_no_executor_takes(package_dir, name):
    done = cli.call("check", "--package-dir", package_dir, name)
    assert (done.status, done.stdout) == (2, b"")
    assert "expected the name of a directory" in done.complaint


def test_what_a_package_starts_is_ended(tmp_path, build_package):
    source = tmp_path / "starts.c"
    source.write_text(STARTS_A_PROCESS)
    build.stage(tmp_path, "starts", build_package(source))
    status, _ = report(tmp_path, "starts", STARTED=str(tmp_path / "pid"))
    assert status == 0
    pid = int((tmp_path / "pid").read_text())
    executor.wait_for(lambda: not os.path.exists(f"/proc/{pid}"), "the process to end")


# ------------------------------------------------------------------------------------------------------- for people


def test_the_table(package_dir, tmp_path, build_package):
    for name in ("integration_test_tasks", "complex"):
        shutil.copytree(package_dir / name, tmp_path / name)
    build.stage(tmp_path, "plain", build_package(VARIANT, '-DNAME="plain"'))
    done = cli.call("check", SPIDER_TDL_PACKAGE_DIR=str(tmp_path))
    assert (done.status, done.stderr) == (0, "")
    machine = f"64-bit {platform.machine()}"
    expected = """\
PACKAGE                 SERVES  DECLARES                ABI    BUILT FOR  SYMBOLS  INIT       LIBRARY
complex                 yes     complex                 0.1.0  MACHINE  all      succeeded  DIR/complex/libcomplex.so
integration_test_tasks  yes     integration_test_tasks  0.1.0  MACHINE  all      succeeded  DIR/LONG
plain                   yes     plain                   0.1.0  MACHINE  all      none       DIR/plain/libplain.so
"""
    for short, long in (
        ("BUILT FOR", f"{'BUILT FOR':{len(machine)}}"),
        ("MACHINE", machine),
        ("DIR", str(tmp_path)),
        ("LONG\n", "integration_test_tasks/libintegration_test_tasks.so\n"),
    ):
        expected = expected.replace(short, long)
    assert done.stdout.decode() == expected


def test_problems_and_warnings_below_the_table(tmp_path, build_package):
    build.stage(tmp_path, "a", build_package(VARIANT, '-DNAME="a\\x1b[2J\\n"'))
    build.stage(tmp_path, "b", build_package(VARIANT, "-DVERSION=0,9,7"))
    done = cli.call("check", "--package-dir", tmp_path)
    assert (done.status, done.stderr) == (1, "")
    head, row_a, row_b, *rest = done.stdout.decode().splitlines()
    assert head.split()[:3] == ["PACKAGE", "SERVES", "DECLARES"]
    assert row_a.split()[:3] == ["a", "yes", r"a\x1b[2J\n"]
    assert row_b.split()[:4] == ["b", "NO", "-", "0.9.7"]
    assert rest == [
        "",
        r"a: warning: it declares another name than its directory's: a\x1b[2J\n",
        "    Rename one of the two; Spider's own executor refuses all but the first request for such a package.",
        "",
        "b: problem: IncompatibleVersion: the package was built for 0.9.7, this executor is 0.1.0",
        "    Build it for version 0.1 of the package ABI.",
    ]


def test_an_empty_directory(tmp_path):
    done = cli.call("check", "--package-dir", tmp_path)
    assert (done.status, done.stdout) == (1, b"")
    assert done.complaint == f"check: no packages in {tmp_path}"
    status, packages = report(tmp_path)
    assert (status, packages) == (1, {})
