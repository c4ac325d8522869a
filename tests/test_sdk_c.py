"""native/spider_tdl.h: its readers, its writers, and what compilers say.

helpers/sdk_cases.py has the plain calls.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest
from helpers import build, sdk, sdk_cases
from helpers.sdk import Case, Compilation, Raw, commit, payload, wrong

from protocol import ExecutorError, TdlError

KITCHEN_SINK, SCRIPT = build.NATIVE / "kitchen_sink.c", sdk.SOURCES / "script.c"
FULL = bool(os.environ.get("SPIDER_FUZZ_FULL"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory, build_package):
    """Memory errors, leaks and undefined behaviour end this process."""
    driver = sdk.Driver(tmp_path_factory.mktemp("driver"), build_package, sdk.SANITIZE)
    driver.libraries(KITCHEN_SINK, SCRIPT)
    return driver


@pytest.fixture(scope="module")
def kitchen_sink(driver):
    return driver.library(KITCHEN_SINK)


@pytest.mark.parametrize("make", sdk_cases.MAKERS, ids=lambda make: make.__name__)
def test_outcomes_are(driver, kitchen_sink, make):
    driver.replay(kitchen_sink, sdk_cases.cases_of(make))


def test_a_refused_allocation_is_an_error_and_leaks_nothing(driver, kitchen_sink):
    cases = sdk_cases.all_cases(20_000)
    assert driver.run("starve", kitchen_sink, cases[:: 1 if FULL else 5])[0] > 500


def test_fuzzed_calls_have_well_formed_outcomes(driver, kitchen_sink):
    calls = 3_000_000 if FULL else 60_000
    count, accepted = driver.run(
        "fuzz", kitchen_sink, sdk_cases.all_cases(5000), 1, calls
    )
    assert count == calls
    assert accepted > calls // 20


@pytest.mark.parametrize("package", ["complex", "integration_test_tasks"])
def test_fuzzed_calls_of_test_packages_have_sound_outcomes(driver, package):
    vectors = [[[[1, 2.5], [-3, 4], [5, 6]]], [[[1, 2]]], [[["x"]]], [[]]]
    cases = [
        Case(f"complex::{task}", payload(a, b), b"")
        for task in ("add", "sub", "dot_product", "cross_product")
        for a in vectors
        for b in vectors
    ]
    if package == "integration_test_tasks":
        sums = ([1, -1], [2**63 - 1] * 5, [-(2**63)] * 3, [], ["x"])
        cases = [
            Case(
                "assert_outputs_sum_zero", payload(), b"", commit(b"\0" + payload(*sum))
            )
            for sum in sums
        ]
        cases += [
            Case("sleep_and_echo", payload(["a", "é"] * 50), b""),
            Case("always_fail", payload(), b""),
        ]
    library = driver.library(build.NATIVE / f"{package}.c")
    assert driver.run("fuzz", library, cases, 3, 100_000 if FULL else 3000)[0] >= 3000


@build.needs("ThreadSanitizer")
def test_threads_share_nothing(tmp_path, build_package):
    driver = sdk.Driver(tmp_path, build_package, sdk.THREADS)
    cases = sdk_cases.all_cases(200)
    driver.replay(driver.library(KITCHEN_SINK), cases[::10], "threads")


# Where there is no C++ compiler, the other C compilers are for another libc.
@build.needs("C++ compiler")
@pytest.mark.parametrize("compiler", sdk.C_COMPILERS[1:] + sdk.CXX_COMPILERS[:1])
def test_outcomes_do_not_depend_on_the_compiler(driver, tmp_path, compiler):
    standard = "c++11" if compiler in sdk.CXX_COMPILERS else "c99"
    library = sdk.package(
        KITCHEN_SINK, tmp_path / "libkitchen_sink.so", compiler, standard
    )
    assert set(sdk.exported(library)) == sdk.EXPORTED
    driver.replay(library, sdk_cases.all_cases()[:: 1 if FULL else 3])


def test_a_real_executor_runs_the_package(spawn, tmp_path):
    sdk.package(KITCHEN_SINK, tmp_path / "kitchen_sink" / "libkitchen_sink.so")
    child = spawn(tmp_path)
    for task, value in sdk_cases.TASKS.items():
        assert child.call_raw("kitchen_sink", task, payload(value)) == payload(value)
    error = wrong("inputs[0][1]: expected int64, found a string of length 1")
    assert child.call("kitchen_sink", "list", [1, "x"]) == ExecutorError(
        "TaskError", error
    )


# --------------------------------------------------------------- one call after another

# What is ignored or skipped counts for the depth, of which 1,023 levels are read.
DEEP = ": expected at most 1023 levels, found deeper nesting"
SKIPS = [
    ("struct:a int64", lambda v: b"\x82\xa1x" + v + b"\xa1a\5", "inputs[1]", "5"),
    ("list skip", lambda v: b"\x91" + v, "inputs[1][0]", "1"),
]
READS = [
    *sdk.rows("reads.txt"),
    ("fail", [b"x" * 5000], TdlError("Custom", "x" * 4095)),
    # One struct that comes as a map after another, with more fields than there is room.
    (
        "list " + "struct:a,b int8 int8 " * 1100,
        [[{"b": 2, "a": 1}] * 1100],
        "1100" + " 1 2" * 1100,
    ),
    *(
        (do, [Raw(form(b"\x91" * levels + b"\xc0"))], outcome)
        for do, form, where, result in SKIPS
        for levels, outcome in ((1022, result), (1023, where + DEEP))
    ),
]
NESTED = sdk_cases.nested(127, lambda inner: [inner or []])
TOO_MANY = "outputs[0]: more than 128 lists and maps of unknown length are open"
WRITES = [
    *sdk.rows("writes.txt"),
    ("Begin_list " * 128 + "End_list " * 128, [], [NESTED]),
    ("Begin_list " * 129, [], TdlError("SerializationError", TOO_MANY)),
    *(
        (f"Begin_list Ints:{n} End_list", [], [[i % 100 for i in range(n)]])
        for n in (65535, 65536)
    ),
]


def script(
    operations: str,
    arguments: list[object],
    outcome: object,
    context: bytes = sdk.CONTEXT,
) -> Case:
    if isinstance(outcome, str):
        is_error = outcome.startswith(("inputs", "graph_outputs"))
        outcome = wrong(outcome) if is_error else payload(outcome)
    return Case("script", payload(operations, *arguments), outcome, context)


def written(operations: str, arguments: list[object], outcome: object) -> Case:
    is_list = isinstance(outcome, list)
    return script(operations, arguments, payload(*outcome) if is_list else outcome)


def test_a_task_reads(driver):
    driver.replay(driver.library(SCRIPT), [script(*case) for case in READS])


def test_a_task_writes(driver):
    cases = [written(*case) for case in WRITES]
    driver.replay(driver.library(SCRIPT), cases)
    assert driver.run("starve", driver.library(SCRIPT), cases)[0] > len(cases)


LONG = "f" * 700
# Operations, an argument, the start of the error and its end.
LONG_ERRORS = [
    (
        "list " * 250 + "int8",
        sdk_cases.nested(250, lambda v: [v]),
        "inputs[1][0][0]",
        "[...]: expected int8, found nil",
    ),
    (
        f"struct:{LONG},b int8",
        ["x", 1],
        "inputs[1].fff",
        "f: expected int8, found a string of length 1",
    ),
    (
        f"struct:{LONG}",
        5,
        "inputs[1]: expected a struct of 1 (fff",
        "f...), found the integer 5",
    ),
    (
        f"variant:{LONG}",
        "g" * 700,
        "inputs[1]: expected one of fff",
        "f..., found the name " + "g" * 97 + "...",
    ),
    (
        f"int8 reject:{LONG}",
        5,
        "inputs[1]: expected fff",
        "f..., found argument number 1",
    ),
    (
        f"struct:{LONG},b " * 8 + f"variant:{LONG}",
        sdk_cases.nested(8, lambda v: [v or "g", 1]),
        "inputs[1].fff",
        "[...]: expected one of " + "f" * 113 + "..., found the name g",
    ),
]


def test_errors_have_450_bytes_and_their_cause(driver, spawn, tmp_path):
    sdk.package(SCRIPT, tmp_path / "script" / "libscript.so")
    child = spawn(tmp_path)
    for do, value, start, end in LONG_ERRORS:
        text = child.call("script", "script", do, value).content.text
        assert text.startswith(start), do
        assert text.endswith(end), do
        assert len(text.encode()) <= 450, do


def test_graph_outputs_are_read_as_arguments_are(driver):
    context = commit(b"\0" + payload([1, 2], [[3, [4]], 5]))
    cases = [
        ("graph count list int8 int8", "2 2 1 2"),
        ("graph list int8", "graph_outputs[0]: expected 1 value, found 2"),
        ("graph list int8 ready", "graph_outputs[0]: expected 1 value, found 2"),
        (
            "graph skip list struct:a,b int8 kind:5 struct:a int8",
            TdlError("Custom", "of kind 5"),
        ),
        (
            "graph list int8 bytes",
            "graph_outputs[0][1]: expected Bytes, found the integer 2",
        ),
    ]
    driver.replay(
        driver.library(SCRIPT),
        [script(do, [], outcome, context) for do, outcome in cases],
    )


def test_structs_as_maps_have_a_depth_of_32(driver):
    """Reading them takes time for each level. As arrays, structs have no such bound."""
    error = ": expected at most 32 structs as maps inside one another, found more"
    deep = sdk_cases.nested(33, lambda inner: {"d": inner, "last": 1})
    arrays = sdk_cases.nested(250, lambda inner: [inner, 1])
    # After a struct, its levels are free again.
    several = [sdk_cases.nested(32, lambda inner: {"a": inner})] * 3
    cases = [
        ("struct:d,last " * 32 + "nil" + " int8" * 32, deep["d"], "1 " * 31 + "1"),
        ("struct:d,last " * 33, deep, f"inputs[1]{'.d' * 32}{error}"),
        ("struct:a,b " * 250 + "nil" + " int8" * 250, arrays, "1 " * 249 + "1"),
        ("list " + ("struct:a " * 32 + "nil ") * 3, several, "3"),
    ]
    driver.replay(
        driver.library(SCRIPT),
        [script(do, [value], outcome) for do, value, outcome in cases],
    )


@pytest.mark.parametrize("count", [64, 65])
def test_structs_as_maps_have_64_fields(driver, count):
    """More is a mistake of the author. As an array, a struct has no such bound."""
    names = [f"f{i}" for i in range(count)]
    operations = f"struct:{','.join(names)}" + " int8" * count
    numbers = "1 " * (count - 1) + "1"
    text = (
        "a struct of more than 64 fields cannot be read from a map, "
        "and this one has 65: "
        f"{','.join(names)[:100]}..."
    )
    error = TdlError("ExecutionError", text)
    as_map = dict.fromkeys(reversed(names), 1)
    cases = [
        script(operations, [as_map], numbers if count == 64 else error),
        script(operations, [[1] * count], numbers),
    ]
    driver.replay(driver.library(SCRIPT), cases)


def test_structs_as_maps_take_steps_in_proportion_to_their_size(
    spawn, build_package, tmp_path
):
    """The compiler counts the calls of functions."""
    build.stage(
        tmp_path,
        "steps",
        build_package(sdk.SOURCES / "steps.c", "-finstrument-functions"),
    )
    child = spawn(tmp_path)

    def steps(task: str, size: int) -> int:
        node: object = {"other": [None] * size, "last": 1}
        for _ in range(30):
            node = {"next": node, "last": 1}
        wide = {**dict.fromkeys("abcdefgh", 1), **{str(i): i for i in range(size)}}
        return child.call("steps", task, wide if task == "wide" else node)[0]

    for task in ("nested", "wide"):
        assert steps(task, 1000) < steps(task, 4000) < 5 * steps(task, 1000)


# --------------------------------------------------------------------------------- zstd


def zstd_frame(*blocks: bytes, content_size: int | None = None) -> bytes:
    """A frame of blocks with a window of 8 MiB, and with a size that it may declare."""
    head = (
        b"\x00\x68"
        if content_size is None
        else b"\xc0\x68" + content_size.to_bytes(8, "little")
    )
    return b"\x28\xb5\x2f\xfd" + head + b"".join(blocks)


def zstd_block(data: bytes, repeat: int = 0, last: bool = False) -> bytes:
    """A block of plain data, or of one byte repeated."""
    return ((repeat or len(data)) << 3 | (2 if repeat else 0) | last).to_bytes(
        3, "little"
    ) + data


def compress(data: bytes) -> bytes:
    function, room = (
        ctypes.CDLL("libzstd.so.1").ZSTD_compress,
        ctypes.create_string_buffer(len(data) + 1000),
    )
    function.argtypes = (
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_char_p,
        ctypes.c_size_t,
        ctypes.c_int,
    )
    size = function(room, len(room), data, len(data), 3)
    return room.raw[:size]


@build.needs("zstd.h")
def test_compressed_graph_outputs_are_read(driver, kitchen_sink):
    last, small = zstd_block(b"", last=True), payload("x")
    whole = zstd_frame(zstd_block(small), last)
    zeros = zstd_frame(
        *[zstd_block(b"\0", 128 * 1024)] * 32, last
    )  # 4 MiB: a payload without values, and more
    cases = [(whole, small), (zeros, payload())]
    for values in (
        [],
        [1],
        ["é" * 100, [1, {"a": None}]] * 10,
        ["x" * 2_000_000],
        list(range(50_000)),
    ):
        frame = compress(payload(*values))
        cases += [(frame, payload(*values)), (frame + frame, payload(*values))]
    damaged = "graph_outputs: expected zstd, found damaged bytes: "
    cases += [
        (whole[:size], wrong(f"{damaged}truncated")) for size in range(len(whole))
    ]
    unknown = wrong(f"{damaged}Unknown frame descriptor")
    # Rust reads frame after frame, and nothing else.
    cases += [(b"garbage that is longer", unknown), (whole + b"more", unknown)]
    for size in (1, 2**60):
        frame = zstd_frame(zstd_block(small, last=True), content_size=size)
        cases += [(frame, wrong(f"{damaged}Data corruption detected"))]
    calls = [
        Case("graph_outputs", payload(), outcome, commit(b"\1" + frame, True))
        for frame, outcome in cases
    ]
    driver.replay(kitchen_sink, calls)
    assert driver.run("starve", kitchen_sink, calls[:6])[0] > 10


@build.needs("zstd.h")
def test_no_memory_for_zstd_is_not_damage(spawn, tmp_path):
    text = "#include <zstd.h>\n#define ZSTD_createDStream() NULL\n" + (
        "#define SPIDER_TDL_IMPLEMENTATION\n#define SPIDER_TDL_WITH_ZSTD\n"
        '#include "spider_tdl.h"\nstatic void f(spider_task *task)\n'
        "{ spider_read_count(task->graph_outputs); }\n"
        'SPIDER_TDL_PACKAGE("p", NULL, {"f", f});\n'
    )
    sdk.package(text, tmp_path / "p" / "libp.so", flags=("-lzstd",))
    frame = zstd_frame(zstd_block(payload(), last=True))
    error = spawn(tmp_path).call_raw("p", "f", payload(), commit(b"\1" + frame, True))
    expected = TdlError("SerializationError", "out of memory: no room for zstd")
    assert error == ExecutorError("TaskError", expected)


def test_compressed_graph_outputs_need_zstd(driver):
    text = (
        "graph_outputs: they are zstd-compressed, "
        "and this package was compiled without SPIDER_TDL_WITH_ZSTD"
    )
    case = script(
        "graph count", [], TdlError("InvalidTaskContext", text), commit(b"\1damaged")
    )
    driver.replay(driver.library(SCRIPT), [case])


# ---------------------------------------------------------------------------- compilers

ONE_TASK = """
#define SPIDER_TDL_IMPLEMENTATION
#include "spider_tdl.h"
static void add(spider_task *task)
{
    int64_t a = spider_read_int64(task->in);
    int64_t b = spider_read_int64(task->in);
    spider_write_int64(task->out, a + b);
}
"""
PACKAGE = 'SPIDER_TDL_PACKAGE("sums", NULL, %s);\n'
DECLARATIONS = (
    '#include "spider_tdl.h"\n' * 2 + "#include <unistd.h>\n#include <math.h>\n"
)


# Names that a program may have defined.
DEFINED = "".join(
    f"#define {name} no\n"
    for name in (
        "unused",
        "used",
        "cold",
        "noinline",
        "always_inline",
        "visibility",
        "format",
        "printf_",
        "nonnull",
        "vector_size",
        "hidden",
        "push",
        "pop",
    )
)


def test_there_is_no_warning():
    """In packages, in declarations, and where little of the header is used."""
    ones = [DECLARATIONS, DEFINED + ONE_TASK + PACKAGE % '{"add", add}']
    others = [build.NATIVE / "integration_test_tasks.c", build.NATIVE / "complex.c"]
    with_zstd = ("-DSPIDER_TDL_WITH_ZSTD",) if build.has("zstd.h") else ()
    compilations = []
    for compiler in (*sdk.C_COMPILERS, *sdk.CXX_COMPILERS):
        is_c = compiler in sdk.C_COMPILERS
        first, *rest = ("c99", "c11") if is_c else ("c++11", "c++17", "c++20")
        check = (*sdk.strict(compiler), "-fsyntax-only")
        # With optimization, compilers see more.
        all_of_it = (*check[:-1], "-O1", "-S", "-o", os.devnull, *with_zstd)
        compilations += [
            Compilation(compiler, first, KITCHEN_SINK, all_of_it),
            *(
                Compilation(compiler, standard, KITCHEN_SINK, check)
                for standard in rest
            ),
            *(
                Compilation(compiler, first, source, check)
                for source in (*ones, *(others if is_c or FULL else ()))
            ),
        ]
    assert not [
        (compilation, text)
        for compilation, code, text in sdk.run_all(compilations)
        if code != 0 or text
    ]


@build.needs("C++ compiler")
def test_the_standard_library_comes_with_exceptions_only():
    """Of C++, the header needs two headers, for the class of its exceptions."""
    for flags, is_there in ((), True), (("-fno-exceptions",), False):
        done = subprocess.run(
            [
                str(build.CXX),
                "-x",
                "c++",
                "-E",
                *flags,
                str(build.NATIVE / "spider_tdl.h"),
            ],
            capture_output=True,
            check=True,
        )
        assert (b"basic_string.h" in done.stdout) is is_there


def test_a_missing_macro_is_in_the_first_line_of_the_linker(tmp_path):
    """Without SPIDER_TDL_SEVERAL_FILES, the implementation is static."""
    text = (sdk.SOURCES / "two_files.c").read_text()
    text = text.replace("#define SPIDER_TDL_SEVERAL_FILES\n", "")
    (tmp_path / "one.c").write_text(text)
    other = ("-fPIC", "-shared", str(sdk.SOURCES / "other_file.c"))
    flags = (*other, "-o", tmp_path / "lib.so")
    code, text = Compilation(build.CC, "c99", tmp_path / "one.c", flags).run()
    assert code != 0
    assert "SPIDER_TDL_SEVERAL_FILES" in text.splitlines()[0], text
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("level", ["-O0", "-O2"])
def test_a_call_takes_at_most_8_kib_of_stack(tmp_path, level):
    program = tmp_path / "stack"
    flags = (level, "-o", program)
    Compilation(build.CC, "gnu99", sdk.SOURCES / "stack.c", flags).succeeds()
    done = subprocess.run([str(program)], stdout=subprocess.PIPE, check=True)
    calls = [line.split() for line in done.stdout.decode().splitlines()]
    assert [outcome for outcome, _ in calls] == ["success"] * 2 + ["error"] * 4
    assert all(0 < int(size) <= 8192 for _, size in calls), calls


@pytest.mark.parametrize("compiler", sdk.C_COMPILERS)
def test_a_package_of_one_task_is_small(compiler, tmp_path):
    library = sdk.package(
        ONE_TASK + PACKAGE % '{"add", add}', tmp_path / "libsums.so", compiler
    )
    assert library.stat().st_size <= 27 * 1024


@pytest.mark.parametrize(
    ("tasks", "number"),
    [
        ('{"twice", add}, {"a", add}, {"twice", other}', 3),
        ('{"twice", add}, {"twice", add}, {"a", add}', 2),
        ('{"a", add}, {NULL, add}', 2),
        ('{"a", NULL}, {"b", add}', 1),
    ],
)
def test_a_list_of_tasks_with_a_mistake_is_refused(spawn, tmp_path, tasks, number):
    text = (
        ONE_TASK
        + "static void other(spider_task *task) { add(task); (void)other; }\n"
        + PACKAGE % tasks
    )
    sdk.package(text, tmp_path / "sums" / "libsums.so")
    error = (
        f"the package's task number {number} has no name, no function, "
        "or the name of another task"
    )
    expected = ExecutorError("PackageInitError", TdlError("ExecutionError", error))
    child = spawn(tmp_path)
    assert [child.call("sums", "a", 1, 2), child.call("sums", "twice", 1, 2)] == [
        expected
    ] * 2


def test_init_has_no_outputs(spawn, tmp_path):
    text = ONE_TASK + "static void init(spider_task *task)\n{ %s }\n" + PACKAGE
    text = text.replace("NULL", "init") % (
        "spider_write_nil(task->out);",
        '{"add", add}',
    )
    sdk.package(text, tmp_path / "sums" / "libsums.so")
    error = "outputs: more values were written than announced: 0"
    expected = TdlError("SerializationError", error)
    outcome = spawn(tmp_path).call("sums", "add", 1, 2)
    assert outcome == ExecutorError("PackageInitError", expected)


def test_a_package_may_have_several_files(spawn, build_package, tmp_path):
    library = build_package(
        sdk.SOURCES / "two_files.c", str(sdk.SOURCES / "other_file.c")
    )
    assert set(sdk.exported(library)) == sdk.EXPORTED
    build.stage(tmp_path, "two_files", library)
    child = spawn(tmp_path)
    assert child.call("two_files", "sum", {"b": 2, "a": 1}) == [3]
    error = wrong("inputs[0][value 1]: expected int64, found a string of length 1")
    assert child.call("two_files", "sum", {"a": 1, "b": "x"}) == ExecutorError(
        "TaskError", error
    )


@pytest.mark.parametrize("flags", [(), ("-O0", "-fvisibility=hidden")], ids=" ".join)
def test_a_package_exports_four_symbols(build_package, flags):
    assert (
        set(sdk.exported(build_package(build.NATIVE / "complex.c", *flags)))
        == sdk.EXPORTED
    )


def test_a_package_needs_the_implementation():
    code, text = Compilation(
        build.CC, "c99", '#include "spider_tdl.h"\n' + PACKAGE % "{}"
    ).run()
    assert code != 0
    assert "define_SPIDER_TDL_IMPLEMENTATION_before_you_include_spider_tdl_h" in text
