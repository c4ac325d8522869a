"""The command `check`: one executor is asked for a task of each package."""

import json
import os
import re
import shutil

import pytest
from helpers import build, cli, odd, preload
from helpers.rows import rows

pytestmark = pytest.mark.ours


@pytest.fixture
def stage(tmp_path, build_package):
    """Stage packages, each with its own flags for odd.c. Return their directory."""

    def stage(**packages):
        for name, flags in packages.items():
            library = odd.build(build_package, odd.declares(name), *flags)
            build.stage(tmp_path, name, library)
        return tmp_path

    return stage


def check(directory, *arguments, shell=cli.EXEC, **env):
    """Run the command. Return its exit status, the verdicts by package, and stderr.

    The log lines of executors are not in it.
    """
    done = cli.call("check", "--package-dir", directory, *arguments, shell=shell, **env)
    *lines, last = done.stdout.decode().splitlines() or [""]
    verdicts = dict(re.split(" {4,}", line, maxsplit=1) for line in lines)
    serving = list(verdicts.values()).count("serves")
    if done.status < 2:
        assert last == f"{serving} of {len(verdicts)} packages serve"
        assert done.status == (serving < len(verdicts))
    stderr = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    return done.status, verdicts, stderr


def test_stdout_is_one_line_per_package_and_a_sum(stage):
    """What a package prints goes to stderr."""
    directory = stage(
        complex=['-DINIT=(printf("hello\\n"),number(1))'], a=["-DVERSION=0,9,7"]
    )
    done = cli.call("check", SPIDER_TDL_PACKAGE_DIR=str(directory), RUST_LOG="off")
    assert (done.status, done.stderr) == (1, "hello\n")
    version = "the package was built for 0.9.7, this executor is 0.1.0"
    assert done.stdout.decode() == (
        f"a          IncompatibleVersion: {version}\n"
        "complex    serves\n"
        "1 of 2 packages serve\n"
    )


@pytest.mark.parametrize("proc", [True, False])
def test_packages_serve_if_they_answer_in_any_way(package_dir, build_package, proc):
    """Most have no such task. odd returns what is not a payload, cxx fails its way."""
    env = {} if proc else preload.env(build_package, "files", "no-proc")
    status, verdicts, stderr = check(package_dir, **env)
    assert (status, stderr) == (0, [])
    assert list(verdicts) == sorted(os.listdir(package_dir))
    assert set(verdicts.values()) == {"serves"}


VERDICTS = f"""
name   | -DNO_NAME   | InvalidLibrary: .*__spider_tdl_package_get_name
symbol | -DUNDEFINED | InvalidLibrary: .*undefined symbol: nothing_defines_this
utf8   | {odd.declares(bytes([255]))} | InvalidUtf8:
init   | -DINIT=failure("ExecutionError","no\\x20licence")
  | PackageInitError: ExecutionError: no licence
error  | -DINIT=copied(1,"\\xc1",1)   | ErrorPayloadDeserializationFailure:
crash  | -DINIT=(abort(),number(1)) | .*SIGABRT
exit   | -DINIT=(_exit(7),number(1)) | .*exit code 7
hang   | -DINIT=(pause(),number(1)) | .*killed
"""


@rows("flag, verdict", VERDICTS)
def test_a_verdict_is_the_error_and_the_others_are_checked(stage, flag, verdict):
    status, verdicts, _ = check(stage(a=[], bad=[flag], c=[]), "--timeout", "1.5")
    assert status == 1
    assert re.match(verdict, verdicts.pop("bad"))
    assert verdicts == {"a": "serves", "c": "serves"}


@rows(
    "end",
    {
        "crash": "abort()",
        "hang": "pause()",
    },
)
def test_a_new_executor_loads_again_what_has_served(stage, end):
    """Otherwise two packages that declare one name would both serve."""
    bad = f"-DINIT=({end},number(1))"
    directory = stage(a=[], bad=[bad], c=[odd.declares("a")], d=[])
    _, verdicts, _ = check(directory, "--timeout", "1.5")
    assert verdicts.pop("bad") != "serves"
    assert verdicts == {"a": "serves", "c": "DuplicatePackage: a", "d": "serves"}


@rows("given, found", {"unset": ({}, "warn"), "set": ({"RUST_LOG": "info"}, "info")})
def test_executors_log_warnings_if_nothing_else_is_set(stage, given, found):
    level = '-DINIT=(puts(getenv("RUST_LOG")),number(1))'
    assert check(stage(a=[level]), **given) == (0, {"a": "serves"}, [found])


def test_a_package_that_declares_another_name_is_a_warning(stage):
    directory = stage(wanted=[odd.declares("found")])
    done = cli.call("check", "--package-dir", directory)
    assert done.status == 0
    (line,) = map(json.loads, done.stderr.splitlines())
    message = "A package declares another name."
    fields = {"message": message, "package": "wanted", "declared": "found"}
    assert (line["level"], line["fields"]) == ("WARN", fields)


# ------------------------------------------------------------------- which packages


def test_directories_without_a_library_do_not_count(stage):
    directory = stage(good=[])
    for name in ("lost+found", "text", ".cache"):
        (directory / name).mkdir()
    (directory / "text" / "good.so").touch()
    (directory / "README").write_text("no package")
    line = "skipped, because there is no lib*.so: lost+found, text"
    assert check(directory) == (0, {"good": "serves"}, [line])


def test_what_cannot_be_read_is_a_failure(stage):
    directory = stage(good=[])
    for name in ("locked", "secret", "text"):
        (directory / name).mkdir()
    (directory / "link").symlink_to("nowhere")
    (directory / "loop").symlink_to("loop")
    library = directory / "secret" / "libsecret.so"
    shutil.copy(directory / "good" / "libgood.so", library)
    library.chmod(0)
    (directory / "text" / "libtext.so").write_text("INPUT(libreal.so)\n" * 10)
    (directory / "locked").chmod(0)
    status, verdicts, stderr = check(directory, shell=cli.WITHOUT_RIGHTS)
    assert (status, stderr) == (1, [])
    assert verdicts.pop("good") == "serves"
    for name, text in {
        "link": "No such file or directory",
        "locked": "Permission denied",
        "loop": "Too many levels of symbolic links",
        "secret": "Permission denied",
        "text": "invalid ELF header",
    }.items():
        assert text in verdicts.pop(name)
    assert verdicts == {}


@pytest.mark.parametrize("name", ["none", "", "..", "/etc", "a/b", "\udcff"])
def test_only_the_named_packages_are_asked_in_their_order(package_dir, name):
    status, verdicts, _ = check(package_dir, "process", name, "complex")
    assert status == 1
    assert verdicts.pop("process") == "serves"
    assert verdicts.popitem() == ("complex", "serves")
    assert re.match("InvalidLibrary: |expected text", *verdicts.values())


def assert_clash(directory, text):
    """Either package serves alone, and neither one after the other."""
    for first, second in (("one", "two"), ("two", "one")):
        assert check(directory, first)[1] == {first: "serves"}
        verdicts = check(directory, first, second)[1]
        assert verdicts.pop(first) == "serves"
        assert text in verdicts.pop(second)


def test_packages_that_declare_one_name_clash(stage):
    flags = [odd.declares("same")]
    assert_clash(stage(one=flags, two=flags), "DuplicatePackage: same")


def test_packages_that_need_too_much_static_tls_clash(stage, tmp_path):
    header = tmp_path / "tls.h"
    header.write_text("""
__thread char tls[1400];
__attribute__((constructor)) static void use(void) { *(volatile char *)tls = 1; }
""")
    flags = ["-include", str(header), "-ftls-model=initial-exec"]
    assert_clash(stage(one=flags, two=flags), "static TLS")


def test_packages_whose_libraries_have_one_soname_clash(stage, tmp_path, build_package):
    flags = {}
    for name in ("one", "two"):
        source = tmp_path / f"{name}.c"
        source.write_text(f"int only_in_{name}(void) {{ return 1; }}\n")
        library = build_package(source, "-Wl,-soname,libinner.so")
        inner = tmp_path / name / "libinner.so"
        build.stage(tmp_path, name, library).rename(inner)
        constructor = f"-DCONSTRUCTOR=only_in_{name}()"
        undeclared = "-Wno-implicit-function-declaration"
        flags[name] = [constructor, str(inner), "-Wl,-rpath,$ORIGIN", undeclared]
    assert_clash(stage(**flags), "undefined symbol")


def test_a_directory_without_packages_is_a_failure(tmp_path):
    done = cli.call("check", "--package-dir", tmp_path)
    text = f"{tmp_path}: expected directories with packages, found none"
    assert (done.status, done.stdout, done.complaint) == (1, b"", text)


def test_a_directory_that_cannot_be_listed_is_wrong_usage(tmp_path):
    tmp_path.chmod(0o311)
    done = cli.call("check", "--package-dir", tmp_path, shell=cli.WITHOUT_RIGHTS)
    assert (done.status, done.complaint) == (2, f"{tmp_path}: Permission denied")
