"""The command `check`: one executor is asked for a task of each package, and its answers are the verdicts."""

import os
import re
import shutil

import pytest
from helpers import build, cli, odd, preload

pytestmark = pytest.mark.ours


@pytest.fixture
def stage(tmp_path, build_package):
    """Stage packages, each with its own flags for odd.c. Return their directory."""

    def stage(**packages):
        for name, flags in packages.items():
            build.stage(
                tmp_path, name, odd.build(build_package, odd.declares(name), *flags)
            )
        return tmp_path

    return stage


def check(directory, *arguments, shell='exec "$@"', **env):
    """Run the command. Return its exit status, the verdicts by package, its last line, and stderr."""
    done = cli.call("check", "--package-dir", directory, *arguments, shell=shell, **env)
    *lines, last = done.stdout.decode().splitlines() or [""]
    verdicts = dict(re.split(" {4,}", line, maxsplit=1) for line in lines)
    serving = list(verdicts.values()).count("serves")
    if done.status < 2:
        assert last == f"{serving} of {len(verdicts)} packages serve"
        assert done.status == (serving < len(verdicts))
    return done.status, verdicts, done.stderr


def test_stdout_is_one_line_per_package_and_a_sum_without_what_a_package_prints(stage):
    directory = stage(
        complex=['-DINIT=(printf("hello\\n"),number(1))'], a=["-DVERSION=0,9,7"]
    )
    done = cli.call("check", SPIDER_TDL_PACKAGE_DIR=str(directory))
    assert (done.status, done.stderr) == (1, "hello\n")
    assert done.stdout.decode() == (
        "a          IncompatibleVersion: the package was built for 0.9.7, this executor is 0.1.0\n"
        "complex    serves\n"
        "1 of 2 packages serve\n"
    )


def test_packages_serve_if_they_answer_with_outputs_or_with_any_error_of_a_task_even_without_proc(
    package_dir, build_package
):
    """Most of these have no such task. odd returns outputs that are not a payload, cxx fails in its own way."""
    for env in ({}, preload.files(build_package, "no-proc")):
        status, verdicts, stderr = check(package_dir, **env)
        assert (status, stderr) == (0, "")
        assert list(verdicts) == sorted(entry.name for entry in os.scandir(package_dir))
        assert set(verdicts.values()) == {"serves"}


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (
            ["-DNO_NAME"],
            "InvalidLibrary: .*undefined symbol: __spider_tdl_package_get_name",
        ),
        (["-DUNDEFINED"], "InvalidLibrary: .*undefined symbol: nothing_defines_this"),
        ([odd.declares(b"\xff")], "InvalidUtf8: "),
        (
            ['-DINIT=failure("ExecutionError","no\\x20licence")'],
            "PackageInitError: ExecutionError: no licence",
        ),
        (['-DINIT=copied(1,"\\xc1",1)'], "ErrorPayloadDeserializationFailure: "),
        (["-DINIT=(abort(),number(1))"], ".*SIGABRT"),
        (["-DINIT=(_exit(7),number(1))"], ".*exit code 7"),
        (["-DINIT=(pause(),number(1))"], ".*killed"),
    ],
)
def test_a_verdict_is_the_executors_own_error_and_the_others_are_asked_nevertheless(
    stage, flags, verdict
):
    status, verdicts, _ = check(stage(a=[], bad=flags, c=[]), "--timeout", "1.5")
    assert status == 1
    assert re.match(verdict, verdicts.pop("bad"))
    assert verdicts == {"a": "serves", "c": "serves"}


def test_what_is_not_a_library_is_not_a_package(stage):
    directory = stage(good=[])
    for name in ("empty", "text", "locked", ".cache"):
        (directory / name).mkdir()
    (directory / "text" / "libtext.so").write_text("INPUT(libreal.so)\n" * 10)
    shutil.copy(
        directory / "good" / "libgood.so", directory / "locked" / "liblocked.so"
    )
    (directory / "locked" / "liblocked.so").chmod(0)
    (directory / "README").write_text("no package")
    status, verdicts, stderr = check(directory, shell=cli.WITHOUT_RIGHTS)
    assert (status, stderr) == (1, "")
    assert list(verdicts) == ["empty", "good", "locked", "text"]
    assert "No such file or directory" in verdicts["empty"]
    assert "Permission denied" in verdicts["locked"]
    assert "invalid ELF header" in verdicts["text"]


@pytest.mark.parametrize("name", ["none", "", "..", "/etc", "a/b", "\udcff"])
def test_only_the_named_packages_are_asked_in_their_order(package_dir, name):
    status, verdicts, _ = check(package_dir, "process", name, "complex")
    assert (status, verdicts.pop("process"), verdicts.popitem()) == (
        1,
        "serves",
        ("complex", "serves"),
    )
    assert re.match("InvalidLibrary: |expected text", *verdicts.values())


# The second of two packages cannot be loaded after the first, whichever that is.
TLS = "__thread char tls[1400];\n__attribute__((constructor)) static void use(void) { *(volatile char *)tls = 1; }\n"


@pytest.mark.parametrize(
    ("how", "verdict"),
    [
        ("name", "DuplicatePackage: same"),
        ("tls", "static TLS"),
        ("soname", "undefined symbol"),
    ],
)
def test_packages_that_load_alone_but_not_together_are_found(
    tmp_path, build_package, how, verdict
):
    for name in ("one", "two"):
        flags = [odd.declares("same" if how == "name" else name)]
        if how == "tls":
            (tmp_path / "tls.h").write_text(TLS)
            flags += ["-include", str(tmp_path / "tls.h"), "-ftls-model=initial-exec"]
        if how == "soname":
            (tmp_path / f"{name}.c").write_text(
                f"int only_in_{name}(void) {{ return 1; }}\n"
            )
            inner = build_package(tmp_path / f"{name}.c", "-Wl,-soname,libinner.so")
            build.stage(tmp_path, name, inner).rename(tmp_path / name / "libinner.so")
            flags += [
                f"-DCONSTRUCTOR=only_in_{name}()",
                str(tmp_path / name / "libinner.so"),
                "-Wl,-rpath,$ORIGIN",
            ]
            flags += ["-Wno-implicit-function-declaration"]
        build.stage(tmp_path, name, odd.build(build_package, *flags))
    for first, second in (("one", "two"), ("two", "one")):
        assert check(tmp_path, first)[1] == {first: "serves"}
        verdicts = check(tmp_path, first, second)[1]
        assert verdicts[first] == "serves"
        assert verdict in verdicts[second]


def test_a_directory_without_packages_or_without_permission_is_an_error(tmp_path):
    assert (
        "expected directories with packages"
        in cli.call("check", "--package-dir", tmp_path).complaint
    )
    tmp_path.chmod(0o311)
    done = cli.call("check", "--package-dir", tmp_path, shell=cli.WITHOUT_RIGHTS)
    assert (done.status, done.complaint) == (2, f"{tmp_path}: Permission denied")
