"""native/spider_tdl.h as a file: it compiles everywhere without a warning, exports four symbols, finds its tasks."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import build

import protocol
from protocol import ExecutionError, PackageInitError, TaskError, TaskNotFound
from spider_executor import TdlPackage

NATIVE = build.ROOT / "native"
SDK = build.ROOT / "tests" / "sdk"
STRICT = ["-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror", f"-I{NATIVE}"]
EXPORTED = {f"__spider_tdl_package_{name}" for name in ("get_version", "get_name", "init", "execute")}
CONTEXT = protocol.TaskContext().encode()


def compilers(*commands: str | None) -> list[str]:
    """Those that are there, each once."""
    found = {os.path.realpath(str(shutil.which(command))): command for command in reversed(commands) if command}
    return [command for path, command in reversed(list(found.items())) if shutil.which(command)]


C_COMPILERS = compilers(build.CC, "gcc", "clang")
CXX_COMPILERS = compilers(build.CXX, "g++", "clang++")
HAS_ZSTD = not subprocess.run(
    [build.CC, "-E", "-include", "zstd.h", "-x", "c", "/dev/null"], capture_output=True
).returncode
needs_cxx = pytest.mark.skipif(build.CXX is None, reason="there is no C++ compiler")


def compile_strictly(compiler: str, standard: str, source: Path, output: Path, *flags: str) -> None:
    language = "c++" if "++" in standard else "c"
    command = [compiler, f"-std={standard}", *STRICT, *flags, "-fPIC", "-shared", "-x", language, str(source)]
    result = subprocess.run([*command, "-o", str(output)], stderr=subprocess.PIPE, timeout=120)
    assert result.returncode == 0, result.stderr.decode()[:4000]
    assert not result.stderr, result.stderr.decode()[:4000]


@pytest.mark.parametrize("compiler", C_COMPILERS)
def test_c_without_a_warning(compiler, tmp_path):
    for source in ("kitchen_sink.c", "integration_test_tasks.c", "complex.c"):
        compile_strictly(compiler, "c99", NATIVE / source, tmp_path / "x.so", "-O1")
    compile_strictly(compiler, "c99", NATIVE / "kitchen_sink.c", tmp_path / "x.so", "-O1", "-fsanitize=undefined")
    compile_strictly(compiler, "c11", NATIVE / "kitchen_sink.c", tmp_path / "x.so")


@needs_cxx
@pytest.mark.parametrize("compiler", CXX_COMPILERS)
def test_cxx_without_a_warning(compiler, tmp_path):
    compile_strictly(compiler, "c++11", NATIVE / "kitchen_sink.c", tmp_path / "x.so", "-Wno-deprecated")
    for source in (NATIVE / "wordcount.cpp", SDK / "typed.cpp"):
        compile_strictly(compiler, "c++17", source, tmp_path / "x.so", "-Wold-style-cast")


@pytest.mark.parametrize("compiler", [*C_COMPILERS, *CXX_COMPILERS])
def test_the_header_alone(compiler, tmp_path):
    """No unused function is a warning, and no other header is needed before it, or collides behind it."""
    source = tmp_path / "alone.c"
    source.write_text('#include "spider_tdl.h"\n#include "spider_tdl.h"\n#include <unistd.h>\n#include <math.h>\n')
    if compiler in C_COMPILERS:
        compile_strictly(compiler, "c99", source, tmp_path / "x.so")
    else:
        compile_strictly(compiler, "c++11", source, tmp_path / "x.so")
        compile_strictly(compiler, "c++17", source, tmp_path / "x.so", "-fno-exceptions", "-fno-rtti")


def test_zstd_without_a_warning(tmp_path):
    if not HAS_ZSTD:
        pytest.skip("there is no zstd.h")
    flags = ("-DSPIDER_TDL_WITH_ZSTD", "-lzstd")
    compile_strictly(build.CC, "c99", NATIVE / "complex.c", tmp_path / "x.so", *flags)
    if build.CXX is not None:
        compile_strictly(build.CXX, "c++11", NATIVE / "complex.c", tmp_path / "x.so", "-Wno-deprecated", *flags)


def test_plain_commands(tmp_path):
    """The two test packages need a compiler's name, and nothing else."""
    for name in ("integration_test_tasks", "complex"):
        library = tmp_path / f"{name}.so"
        command = [build.CC, "-shared", "-fPIC", "-o", str(library), str(NATIVE / f"{name}.c")]
        subprocess.run(command, check=True, timeout=60)
        assert TdlPackage.load(str(library)).name == name


def symbols(library: Path) -> dict[str, str]:
    """The exported symbols, demangled, and their types as nm prints them."""
    command = ["nm", "-D", "-C", "--defined-only", str(library)]
    lines = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode().splitlines()
    return {name: kind for _, kind, name in (line.split(" ", 2) for line in lines)}


@pytest.mark.parametrize("flags", [(), ("-O0", "-fvisibility=hidden")])
@pytest.mark.parametrize("source", ["native/complex.c", "tests/sdk/two_files.c"])
def test_four_symbols_are_exported(build_package, source, flags):
    if source.endswith("two_files.c"):
        flags = (*flags, str(SDK / "other_file.c"))
    assert set(symbols(build_package(build.ROOT / source, *flags))) == EXPORTED


@needs_cxx
@pytest.mark.parametrize(
    ("source", "flags"),
    [
        ("native/wordcount.cpp", ()),
        ("tests/sdk/typed.cpp", ()),
        ("tests/sdk/typed.cpp", ("-O0",)),
        ("tests/sdk/kitchen_sink.cpp", ("-std=c++11",)),
    ],
)
def test_four_symbols_are_exported_by_cxx(build_package, source, flags):
    """Beside them there are the standard library's own templates, which it declares visible."""
    exported = symbols(build_package(build.ROOT / source, *flags))
    assert {name for name, kind in exported.items() if kind == "T"} == EXPORTED
    others = {name: kind for name, kind in exported.items() if name not in EXPORTED}
    assert not [name for name in others if re.search(r"\bspider(::|_\w+(<.*>)?\()", name)]
    for name, kind in others.items():
        if name.startswith("operator "):
            name = "std::" + name
        assert kind in "WV" or "-O0" in flags, f"{kind} {name}: a unique symbol keeps a library from being unloaded"
        assert re.search(r"\b(std|__gnu_cxx)::", name), name


def package_source(tasks: str) -> str:
    return (
        "#include <string.h>\nstatic unsigned long compared;\n"
        "static int counted(const void *a, const void *b, size_t size) { compared++; return memcmp(a, b, size); }\n"
        '#define memcmp counted\n#include "spider_tdl.h"\n'
        "static void name(spider_task *task) { spider_write_uint64(task->out, compared); }\n"
        f'SPIDER_TDL_PACKAGE("many", NULL, {tasks});\n'
    )


def test_ten_thousand_tasks(tmp_path):
    """Finding one compares it with a few names, not with those before it."""
    source = tmp_path / "many.c"
    names = [f"package::task_{i:05}" for i in range(10_000)]
    source.write_text(package_source(",".join(f'{{"{name}", name}}' for name in names)))
    compile_strictly(build.CC, "c99", source, tmp_path / "many.so")
    package = TdlPackage.load(str(tmp_path / "many.so"))

    def compared(name: str) -> int:
        outcome = package.execute(name, CONTEXT, b"")
        assert isinstance(outcome, protocol.Success)
        return protocol.unpack_values(outcome.outputs)[0]

    before, steps = compared(names[0]), []
    for name in names:
        now = compared(name)
        steps.append(now - before)
        before = now
    # One of them is the context's "Index".
    assert min(steps) == 2
    assert max(steps) < 50
    assert sum(steps) < 4 * len(names)
    for name in ("package::task_10000", "", "x"):
        error, _ = protocol.decode_executor_error(package.execute(name, CONTEXT, b"").error)
        assert error == TaskError(TaskNotFound(name))
    assert compared(names[0]) - before < 150


@pytest.mark.parametrize("where", ["first", "last"])
def test_two_tasks_of_one_name(tmp_path, where):
    names = ["a", "twice", "b", "twice"] if where == "last" else ["twice", "twice", "a", "b"]
    source = tmp_path / "double.c"
    source.write_text(package_source(",".join(f'{{"{name}", name}}' for name in names)))
    compile_strictly(build.CC, "c99", source, tmp_path / "double.so")
    with pytest.raises(PackageInitError) as error:
        TdlPackage.load(str(tmp_path / "double.so"))
    assert error.value == PackageInitError(ExecutionError('the package has two tasks named "twice"'))


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ('{"f", name}, {NULL, NULL}', "the package's tasks[1] has no name"),
        ('{"f", NULL}, {"g", name}', "the package's tasks[0] has no function"),
    ],
)
def test_an_entry_that_is_not_complete(tmp_path, entries, text):
    source = tmp_path / "entry.c"
    source.write_text(package_source(entries))
    compile_strictly(build.CC, "c99", source, tmp_path / "entry.so")
    for _ in range(2):
        with pytest.raises(PackageInitError) as error:
            TdlPackage.load(str(tmp_path / "entry.so"))
        assert error.value == PackageInitError(ExecutionError(text))


@needs_cxx
@pytest.mark.parametrize("standard", ["c++11", "c++17"])
@pytest.mark.parametrize("compiler", CXX_COMPILERS)
def test_a_table_that_is_computed(compiler, standard, tmp_path):
    """While the library is loaded, which is after the constructor functions of C."""
    source = tmp_path / "computed.cpp"
    source.write_text(
        '#include "spider_tdl.h"\n#include <string>\nstatic const std::string name("computed");\n'
        'SPIDER_TDL_PACKAGE("computed", nullptr,\n'
        '    {"lambda", [](spider_task *task) { spider_write_int64(task->out, 5); }},\n'
        "    {name.c_str(), [](spider_task *task) { spider_write_int64(task->out, 6); }});\n"
    )
    compile_strictly(compiler, standard, source, tmp_path / "computed.so", "-O0")
    package = TdlPackage.load(str(tmp_path / "computed.so"))
    assert protocol.unpack_values(package.execute("lambda", CONTEXT, b"").outputs) == [5]
    assert protocol.unpack_values(package.execute("computed", CONTEXT, b"").outputs) == [6]


@needs_cxx
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("with_zstd", ["package", "helper"])
def test_zstd_is_up_to_the_file_of_the_package(tmp_path, order, with_zstd):
    """Whatever the linker makes of functions that two files have."""
    if not HAS_ZSTD:
        pytest.skip("there is no zstd.h")
    (tmp_path / "helper.cpp").write_text(
        '#include "spider_tdl.h"\n__attribute__((visibility("hidden"))) void helper(spider_task *task);\n'
        "void helper(spider_task *task) { spider_write_int64(task->out, spider_read_int64(task->graph_outputs)); }\n"
    )
    (tmp_path / "package.cpp").write_text(
        '#include "spider_tdl.h"\n__attribute__((visibility("hidden"))) void helper(spider_task *task);\n'
        "static void own(spider_task *task)\n"
        "{ spider_write_int64(task->out, spider_read_int64(task->graph_outputs)); }\n"
        'SPIDER_TDL_PACKAGE("mixed", nullptr, {"helper", helper}, {"own", own});\n'
    )
    objects = []
    for name in ("helper", "package"):
        flags = ["-DSPIDER_TDL_WITH_ZSTD"] if name == with_zstd else []
        command = [build.CXX, "-O0", "-fPIC", "-c", f"-I{NATIVE}", *flags, str(tmp_path / f"{name}.cpp")]
        subprocess.run([*command, "-o", str(tmp_path / f"{name}.o")], check=True, timeout=60)
        objects.append(str(tmp_path / f"{name}.o"))
    library = str(tmp_path / "mixed.so")
    subprocess.run([build.CXX, "-shared", "-o", library, *objects[::order], "-lzstd"], check=True, timeout=60)
    package = TdlPackage.load(library)
    body = protocol.pack_values(7)
    frame = b"\x28\xb5\x2f\xfd\x20" + bytes([len(body)]) + (len(body) << 3 | 1).to_bytes(3, "little") + body
    context = protocol.TaskContext(task_id="Commit", graph_outputs=b"\1" + frame).encode()
    for task in ("helper", "own"):
        outcome = package.execute(task, context, b"")
        if with_zstd == "package":
            assert protocol.unpack_values(outcome.outputs) == [7]
        else:
            error, _ = protocol.decode_executor_error(outcome.error)
            assert isinstance(error.error, protocol.InvalidTaskContext)


@needs_cxx
def test_what_does_not_compile(tmp_path):
    """Mistakes that would otherwise be found in production, if at all; the last ones are none."""
    refused = []
    for code in (
        "int value; int *bad() { return &value; }",
        "int value; void *bad() { return &value; }",
        "__int128 bad() { return 1; }",
        "void bad(unsigned __int128) {}",
        "char bad() { return 'x'; }",
        "struct s { int x, y; }; SPIDER_STRUCT(s, x, z); void bad(s) {}",
        "int z; struct s { int x, y; }; SPIDER_STRUCT(s, x, z); void bad(s) {}",
        "struct s { int x, y; }; SPIDER_STRUCT(s, x); void bad(s) {}",
        "struct s { int x, y; }; SPIDER_STRUCT(s, y, x); void bad(s) {}",
        "bool bad(bool value) { return value; }",
        'const char *bad() { return "x"; }',
    ):
        source = tmp_path / "refused.cpp"
        package = 'SPIDER_TDL_PACKAGE("refused", nullptr, {"bad", spider::typed<bad>});'
        source.write_text(f'#include "spider_tdl.h"\nnamespace {{\n{code}\n}}\n{package}\n')
        command = [build.CXX, "-std=gnu++17", "-fsyntax-only", f"-I{NATIVE}", str(source)]
        if subprocess.run(command, stderr=subprocess.DEVNULL, timeout=60).returncode != 0:
            refused.append(code)
    assert len(refused) == 8
    assert not [code for code in refused if "y, x" in code or "bool" in code or "const char" in code]


@needs_cxx
def test_a_task_that_ends_its_thread(tmp_path):
    """It is not taken for an exception, which would end the process."""
    program = tmp_path / "ends"
    warnings = [*STRICT, "-std=c++17", "-pthread", "-o", str(program)]
    subprocess.run([build.CXX, *warnings, str(SDK / "ends_thread.cpp")], check=True, timeout=60)
    result = subprocess.run([str(program)], stdout=subprocess.PIPE, timeout=30)
    assert (result.returncode, result.stdout) == (0, b"joined\n")


def test_two_source_files(build_package, tmp_path):
    """A package may have several, each with the header; the readers work across them."""
    library = build_package(SDK / "two_files.c", str(SDK / "other_file.c"))
    package = TdlPackage.load(str(library))
    outcome = package.execute("sum", CONTEXT, protocol.pack_values({"b": 2, "a": 1}))
    assert protocol.unpack_values(outcome.outputs) == [3]
    error, _ = protocol.decode_executor_error(
        package.execute("sum", CONTEXT, protocol.pack_values({"a": 1, "b": "x"})).error
    )
    text = "inputs[0][value 1]: expected int64, found a string of length 1"
    assert error == TaskError(protocol.DeserializationError(text))


def test_structs_as_maps_are_read_in_one_pass(build_package):
    """However deep they are nested, and however many fields and other entries they have."""
    package = TdlPackage.load(str(build_package(SDK / "steps.c", "-finstrument-functions")))

    def steps_per_entry(task: str, value: object, entries: int) -> float:
        outcome = package.execute(task, CONTEXT, protocol.pack_values(value))
        assert isinstance(outcome, protocol.Success), outcome
        return protocol.unpack_values(outcome.outputs)[0] / entries

    node: object = {"other": [None] * 10_000, "next": None, "last": 1}
    for _ in range(400):
        node = {"next": node, "last": 1}
    assert 1 < steps_per_entry("nested", node, 10_000 + 800) < 40
    wide = {**dict.fromkeys("abcdefgh", 1), **{i: i for i in range(100, 20_000)}}
    assert 1 < steps_per_entry("wide", wide, 20_000) < 40


# ---- native/README.md ----

README = NATIVE / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[tuple[str, str]]:
    """The fenced blocks: their languages and texts."""
    return FENCE.findall(README.read_text(encoding="utf-8"))


def commands() -> list[tuple[str, str]]:
    """What the README types, and what it says is printed; `...` stands for any text."""
    found: list[tuple[str, str]] = []
    for language, text in examples():
        lines = iter(text.splitlines(keepends=True) if language == "console" else ())
        for line in lines:
            if line.startswith("$ "):
                command = line[2:]
                while command.endswith("\\\n"):
                    command += next(lines)
                found.append((command, ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + line)
    return found


def test_the_readme(tmp_path):
    """Every example is compiled and run, in order, and prints what the README says."""
    shutil.copytree(NATIVE, tmp_path / "native")
    shutil.copytree(SDK, tmp_path / "tests" / "sdk")
    for name in ("protocol.py", "spider_executor.py"):
        shutil.copy(build.ROOT / name, tmp_path)
    for language, text in examples():
        if language in ("c", "cpp"):
            name = re.match(r"(?:/\*|//) (\w+\.\w+)", text)
            assert name, f"an example without a file's name: {text[:40]}"
            (tmp_path / name.group(1)).write_text(text, encoding="utf-8")
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    (bin_dir / "python3").symlink_to(sys.executable)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RUST_LOG", "SPIDER_", "PYTHON"))}
    env["PATH"] = f"{bin_dir}{os.pathsep}{env['PATH']}"
    assert len(commands()) > 20
    missing = {tool for tool in ("c++", "gdb", "valgrind") if shutil.which(tool) is None}
    for command, expected in commands():
        if any(f"{tool} " in command for tool in missing) or ("c++" in missing and " words " in command):
            continue
        result = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60
        )
        printed = result.stdout.decode(errors="replace")
        pattern = re.escape(expected).replace(re.escape("..."), ".*?")
        assert re.fullmatch(pattern, printed, re.DOTALL), f"$ {command}{printed}"
    if missing:
        pytest.skip(f"the examples with {', '.join(sorted(missing))}, which are not installed; the others were run")
