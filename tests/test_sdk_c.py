"""native/spider_tdl.h: its readers, its writers, and what compilers say. helpers/sdk_cases.py has the plain calls."""

from __future__ import annotations

import ctypes
import os
import re

import pytest
from helpers import build, sdk, sdk_cases
from helpers.sdk import Case, Compilation, Raw, commit, payload, wrong

from protocol import ExecutorError, TdlError

KITCHEN_SINK, SCRIPT = build.NATIVE / "kitchen_sink.c", sdk.SOURCES / "script.c"
FULL = bool(os.environ.get("SPIDER_FUZZ_FULL"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory, build_package):
    """Memory errors, leaks and undefined behaviour are found in this process, and end it."""
    driver = sdk.Driver(tmp_path_factory.mktemp("driver"), build_package, sdk.SANITIZE)
    driver.libraries(KITCHEN_SINK, SCRIPT)
    return driver


@pytest.fixture(scope="module")
def kitchen_sink(driver):
    return driver.library(KITCHEN_SINK)


@pytest.mark.parametrize("make", sdk_cases.MAKERS, ids=lambda make: make.__name__)
def test_outcomes_are(driver, kitchen_sink, make):
    driver.replay(kitchen_sink, sdk_cases.cases_of(make))


def test_inputs_and_contexts_that_are_cut_anywhere_are_refused(driver, kitchen_sink):
    cases = sdk_cases.all_cases(2000 if FULL else 200)
    assert driver.run("truncate", kitchen_sink, cases[:: 1 if FULL else 5])[0] > 5_000


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
def test_fuzzed_calls_of_the_test_packages_have_well_formed_outcomes(driver, package):
    vectors = [[[[1, 2.5], [-3, 4], [5, 6]]], [[[1, 2]]], [[["x"]]], [[]]]
    cases = [
        Case(f"complex::{task}", payload(a, b), b"")
        for task in ("add", "sub", "dot_product", "cross_product") for a in vectors for b in vectors
    ]  # fmt: skip
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


# ----------------------------------------------------------------------------------------------- one call after another

READY = TdlError("Custom", "ready")
TWO = {"b": 2}
NO_ROOM = "out of memory: no room for"
EVERYTHING = (
    "uint64 string cstring bytes int8 boolean double float list map option struct:a,b tuple:2 nil skip peek count "
    "alloc:1 reject:x ready fail graph count peek int8 List:3 Nil Begin_list End_map Cstring:x"
)

# Operations of script.c, arguments that are not read to their ends, and the error.
UNREAD = [
    ("list", [[1, "x", 3]], "[1]: expected 0 values, found 3"),
    ("list int64", [[1, "x", 3]], "[1]: expected 1 value, found 3"),
    ("list int64 int64", [[1, 2, 3]], "[1]: expected 2 values, found 3"),
    ("list list", [[[5]]], "[1][0]: expected 0 values, found 1"),
    ("list list int64 list", [[[5], [6]]], "[1][1]: expected 0 values, found 1"),
    ("list peek", [[1]], "[1]: expected 0 values, found 1"),
    ("list", [b"\1\2"], "[1]: expected 0 values, found 2"),
    ("map", [{1: 2}], "[1]: expected 0 keys and values, found 2"),
    ("map int64", [{1: 2}], "[1]: expected 1 keys and values, found 2"),
    (
        "map int64 map int64",
        [{1: {3: 4}}],
        "[1][value 0]: expected 1 keys and values, found 2",
    ),
    ("tuple:2 int64", [[1, 2]], "[1]: expected 1 value, found 2"),
    ("struct:a,b int64", [[1, 2]], "[1]: expected 1 value, found 2"),
    ("struct:a,b int64", [{"a": 1, "b": 2}], "[1]: expected 1 value, found 2"),
    ("struct:a,b list", [{"a": [5], "b": 2}], "[1].a: expected 0 values, found 1"),
    ("int64", [1, 2], ": expected 2 values, found 3"),
    ("int64 peek", [1, 2], ": expected 2 values, found 3"),
    ("option", [1], ": expected 1 value, found 2"),
]

# Operations, arguments, and what the readers return, or the error.
READS = [
    *((f"{do} {end}".strip(), values, f"inputs{error}") for do, values, error in UNREAD for end in ("", "ready")),
    *((do, values, READY) for do, values in (
        ("int64 ready", [1]), ("list int64 int64 list ready", [[1, 2, []]]), ("list list ready", [[[]]]),
        ("map int64 map int64 int64 ready", [{1: {3: 4}}]), ("struct:a,b int64 skip ready", [[1, [2, 3]]]),
        ("struct:a,b int64 option ready", [{"a": 1}]),
    )),
    ("list int64 int64 int64 list", [[1, 2, 3], []], "3 1 2 3 0"),
    # A list may come as binary.
    ("list int64 uint8 int8 peek string", [b"\1\xff\x7f", "x"], "3 1 255 127 string x"),
    ("list list uint8 int64", [[b"\1", 5]], "2 1 1 5"),
    ("list int8", [b"\xff"], "inputs[1][0]: expected int8, found the integer 255"),
    ("list bytes", [[b"\1\2"]], "1 0102"),
    # An absent field is nil for spider_read_option, spider_peek, spider_skip and spider_read_nil.
    ("struct:a,b option int64", [TWO], "0 2"),
    ("struct:a,b peek option int64", [TWO], "nil 0 2"),
    ("struct:a,b peek skip int64", [TWO], "nil 2"),
    ("struct:a,b skip int64", [TWO], "2"),
    ("struct:a,b nil peek int64", [TWO], "unsigned 2"),
    ("struct:a,b skip int64", [[1, 2]], "2"),
    ("struct:a,b int64 skip", [{"a": 1}], "1"),
    ("struct:a,b int64", [TWO], "inputs[1].a: expected int64, but the field is missing"),
    ("struct:a,b peek int64", [TWO], "inputs[1].a: expected int64, but the field is missing"),
    # A struct without fields; a map may have others.
    ("struct:", [{}], ""),
    ("struct: int64", [{"a": {"b": [1]}}, 5], "5"),
    ("struct: int64", [[], 5], "5"),
    ("struct:", [[1]], "inputs[1]: expected a struct of 0 (), found an array of length 1"),
    # Structs that came as maps, one within another.
    ("struct:a,b struct:c,d int64 int64 int64", [{"b": 1, "x": 0, "a": {"d": 3, "c": 2}}], "2 3 1"),
    ("struct:a,b list struct:c int64 struct:c int64 int64", [{"b": 9, "a": [{"c": 1}, [2]]}], "2 1 2 9"),
    ("list struct:a int64 int64", [[{"a": 1}, 2]], "2 1 2"),
    ("struct:a list uint8 string", [{"a": b"\5"}, "x"], "1 5 x"),
    # Text for C.
    ("cstring cstring", ["", "é x"], " é x"),
    ("cstring", [b"ab"], "ab"),
    ("list cstring cstring", [["a", "a\0b"]], "inputs[1][1]: expected a string without a NUL, found a NUL"),
    ("cstring", [5], "inputs[1]: expected string, found the integer 5"),
    # What an author refuses has the position of the value that was read last.
    ("string reject:a_color", ["x"], "inputs[1]: expected a_color, found argument number 1"),
    ("list int8 int8 reject:even", [[2, 3]], "inputs[1][1]: expected even, found argument number 1"),
    ("map string reject:x", [{"k": 1}], "inputs[1][key 0]: expected x, found argument number 1"),
    ("struct:ab,cd int8 reject:x", [[1, 2]], "inputs[1].ab: expected x, found argument number 1"),
    ("list reject:short", [[1, 2]], "inputs[1]: expected short, found argument number 1"),
    ("int8 reject:x", ["no"], "inputs[1]: expected int8, found a string of length 2"),
    # Types, and values that nobody wants.
    ("peek nil peek boolean peek int8 peek int8", [None, True, 1, -1], "nil boolean 1 unsigned 1 negative -1"),
    ("peek float peek double peek string", [sdk.float32(1.5), 2.5, "x"], "float 1.5 double 2.5 string x"),
    ("peek skip peek skip peek skip peek", [b"x", [1], {1: 2}], "binary array map end"),
    ("peek skip", [Raw(sdk_cases.EXTENSIONS[0][0])], "extension"),
    ("tuple:3 skip skip map skip uint8", [[[1, {"a": [2]}], "skipped", {"k": 7}]], "1 7"),
    ("peek", [Raw(b"\xc1")], f"inputs[1]: expected a value, found {sdk_cases.END}"),
    ("skip", [Raw(b"\x91\xc1")], f"inputs[1]: expected a value, found {sdk_cases.END}"),
    ("skip", [Raw(b"\x92\x01")], f"inputs[1]: expected a value, found {sdk_cases.END}"),
    ("peek float", [1e300], "double inf"),
    ("count int8", [5], "2 5"),
    # After an error, each call does nothing and returns zero; the first error is the outcome.
    (EVERYTHING, ["no number"], "inputs[1]: expected uint64, found a string of length 9"),
    ("fail fail", [b"the first", b"the second"], TdlError("Custom", "the first")),
    ("fail", [b"caf\xe9 \xff \xe2\x98\x83 \xe2"], TdlError("Custom", "caf? ? ☃ ?")),
    ("fail", [b"x" * 5000], TdlError("Custom", "x" * 4095)),
    *((f"alloc:{size}", [], TdlError("SerializationError", f"{NO_ROOM} {2**60 - 1} times {size} bytes"))
      for size in (1, 16, 100)),
]  # fmt: skip

ONE = ": more values were written than announced: 1 (several outputs need spider_write_count)"
LACKS_END, NOT_UTF8 = (
    "[0]: a list or map was begun, but not ended",
    "[0]: a string that is not UTF-8",
)

# Operations, arguments, and the outputs, or the error.
WRITES = [
    ("Nil", [], [None]),
    ("Option:0", [], [None]),
    ("Option:1 Int64:5", [], [5]),
    ("Count:0", [], []),
    ("Count:3 Int64:5 List:2 Nil Nil Cstring:é", [], [5, [None, None], "é"]),
    ("Struct:x,y Int64:1 Tuple:1 Cstring:", [], [[1, [""]]]),
    ("Map:2 Int64:1 Nil Int64:2 Map:0", [], [{1: None, 2: {}}]),
    ("Count:2 Null_string Null_bytes", [], ["", []]),
    # Lists and maps whose lengths are known at their ends.
    *((f"Begin_list Ints:{n} End_list", [], [[i % 100 for i in range(n)]]) for n in (0, 1, 15, 16, 65535, 65536)),
    *((f"Begin_map Ints:{2 * n} End_map", [], [Raw(head + bytes(i % 100 for i in range(2 * n)))])
      for n, head in ((0, b"\x80"), (1, b"\x81"), (15, b"\x8f"), (16, b"\xde\0\x10"), (65536, b"\xdf\0\1\0\0"))),
    ("Begin_list " * 128 + "End_list " * 128, [], [sdk_cases.nested(127, lambda inner: [inner or []])]),
    ("Begin_list List:2 Nil Nil Begin_map Nil Begin_list End_list End_map Int64:-1 End_list", [],
     [[[None, None], {None: []}, -1]]),
    ("Map:1 Begin_list End_list Begin_list Ints:20 End_list", [], [{(): list(range(20))}]),
    ("Count:2 Begin_list Ints:17 End_list Int64:300", [], [list(range(17)), 300]),
    # More, or less, than announced.
    ("List:2 Nil", [], "[0]: 1 more value was announced"),
    ("Count:2 Nil Map:2 Nil Nil", [], "[1]: 2 more values were announced"),
    ("Struct:a,b Nil", [], "[0]: 1 more value was announced"),
    ("List:2 Int64:0 Int64:1 Int64:2", [], ONE),
    ("Map:1 Nil Nil Nil", [], ONE),
    ("Nil Nil", [], ONE),
    ("Count:2 Nil List:1 Nil Nil", [], ": more values were written than announced: 2"),
    ("Count:0 Nil", [], ": more values were written than announced: 0"),
    ("Count:3 Nil Nil", [], ": 3 were announced, but only 2 written"),
    ("Nil Count:1", [], ": spider_write_count must precede the first output"),
    # Ends that do not fit.
    *((do, [], f"[{i}]: spider_write_{what}_end without spider_write_{what}_begin, or before its last value") for do, i, what in (
        ("End_list", 0, "list"), ("Count:2 Nil End_map", 1, "map"), ("List:1 End_list", 0, "list"),
        ("Begin_list End_map", 0, "map"), ("Begin_map Nil End_map", 0, "map"),
        ("Begin_map Nil Nil End_list", 0, "list"), ("Begin_list List:2 Nil End_list", 0, "list"),
        ("Begin_list End_list End_list", 1, "list"),
    )),
    ("Begin_list Nil", [], LACKS_END),
    ("List:1 Begin_map", [], LACKS_END),
    ("Begin_list " * 129, [], "[0]: more than 128 lists and maps of unknown length are open"),
    # Each text is checked, wherever it is from.
    ("Text", [b"\xff"], NOT_UTF8),
    ("Text", [b"a" * 100 + b"\xe2\x82"], NOT_UTF8),
    ("Text", [list("é".encode())], ["é"]),
    ("Part:0:2", ["é"], ["é"]),
    ("Part:2", ["é日本"], ["日本"]),
    ("Part:0:1", ["é"], NOT_UTF8),
    ("Part:1", ["é"], NOT_UTF8),
    ("list Part:0:3 string", [["a", "b"]], NOT_UTF8),  # over two strings
    ("Count:2 Nil Null_cstring", [], "[1]: NULL is not a string"),
    # A task that fails has no outputs.
    ("Begin_list Ints:70000 fail", [b"in the end"], TdlError("Custom", "in the end")),
]  # fmt: skip


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
    if isinstance(outcome, str):
        outcome = TdlError("SerializationError", f"outputs{outcome}")
    return script(
        operations,
        arguments,
        payload(*outcome) if isinstance(outcome, list) else outcome,
    )


def test_a_task_reads(driver):
    driver.replay(driver.library(SCRIPT), [script(*case) for case in READS])


def test_a_task_writes(driver):
    cases = [written(*case) for case in WRITES]
    driver.replay(driver.library(SCRIPT), cases)
    assert driver.run("starve", driver.library(SCRIPT), cases)[0] > len(cases)


def test_graph_outputs_are_read_as_arguments_are(driver):
    context = commit(b"\0" + payload([1, 2], 3))
    cases = [
        ("graph count list int8 int8", "2 2 1 2"),
        ("graph list int8", "graph_outputs[0]: expected 1 value, found 2"),
        ("graph list int8 ready", "graph_outputs[0]: expected 1 value, found 2"),
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
    arrays = sdk_cases.nested(400, lambda inner: [inner, 1])
    # After a struct, its levels are free again.
    several = [sdk_cases.nested(32, lambda inner: {"a": inner})] * 3
    cases = [
        ("struct:d,last " * 32 + "nil" + " int8" * 32, deep["d"], "1 " * 31 + "1"),
        ("struct:d,last " * 33, deep, f"inputs[1]{'.d' * 32}{error}"),
        ("struct:a,b " * 400 + "nil" + " int8" * 400, arrays, "1 " * 399 + "1"),
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
        "a struct of more than 64 fields cannot be read from a map, and this one has 65: "
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


# ----------------------------------------------------------------------------------------------------------------- zstd


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
    cases += [(b"garbage that is longer", wrong(f"{damaged}Unknown frame descriptor"))]
    for size in (1, 2**60):
        frame = zstd_frame(zstd_block(small, last=True), content_size=size)
        cases += [(frame, wrong(f"{damaged}Data corruption detected"))]
    calls = [
        Case("graph_outputs", payload(), outcome, commit(b"\1" + frame, True))
        for frame, outcome in cases
    ]
    driver.replay(kitchen_sink, calls)
    assert driver.run("starve", kitchen_sink, calls[:6])[0] > 10


def test_compressed_graph_outputs_need_zstd(driver):
    text = "graph_outputs: they are zstd-compressed, and this package was compiled without SPIDER_TDL_WITH_ZSTD"
    case = script(
        "graph count", [], TdlError("InvalidTaskContext", text), commit(b"\1damaged")
    )
    driver.replay(driver.library(SCRIPT), [case])


# ------------------------------------------------------------------------------------------------------------ compilers

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
DECLARATIONS = '#include "spider_tdl.h"\n#include "spider_tdl.h"\n#include <unistd.h>\n#include <math.h>\n'


def test_there_is_no_warning():
    """In packages, in files with declarations only, and in an implementation of which little is used."""
    texts = [
        DECLARATIONS,
        ONE_TASK + PACKAGE % '{"add", add}' + '#include "spider_tdl.h"\n',
    ]
    others = [build.NATIVE / "integration_test_tasks.c", build.NATIVE / "complex.c"]
    with_zstd = ("-DSPIDER_TDL_WITH_ZSTD",) if build.has("zstd.h") else ()
    compilations = []
    for compiler in (*sdk.C_COMPILERS, *sdk.CXX_COMPILERS):
        is_c = compiler in sdk.C_COMPILERS
        first, *rest = ("c99", "c11") if is_c else ("c++11", "c++17", "c++20")
        # With optimization, compilers see more.
        flags = (*sdk.STRICT, "-O1", "-S", "-o", os.devnull, *with_zstd)
        compilations.append(Compilation(compiler, first, KITCHEN_SINK, flags))
        for source in (*texts, *(others if is_c or FULL else ())):
            compilations.append(
                Compilation(compiler, first, source, (*sdk.STRICT, "-fsyntax-only"))
            )
        for standard in rest:
            compilations.append(
                Compilation(
                    compiler, standard, KITCHEN_SINK, (*sdk.STRICT, "-fsyntax-only")
                )
            )
    assert not [
        (compilation, text)
        for compilation, code, text in sdk.run_all(compilations)
        if code != 0 or text
    ]


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
    error = f"the package's task number {number} has no name, no function, or the name of another task"
    expected = ExecutorError("PackageInitError", TdlError("ExecutionError", error))
    child = spawn(tmp_path)
    assert [child.call("sums", "a", 1, 2), child.call("sums", "twice", 1, 2)] == [
        expected
    ] * 2


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


# ---------------------------------------------------------------------------------------------------- the test packages


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_cross_product_names_the_length_that_it_needs(spawn, size):
    error = spawn().call(
        "complex", "complex::cross_product", *[[[[0.0, 0.0]] * size]] * 2
    )
    assert error.content.kind == "ExecutionError"
    assert "length 3" in error.content.text


def test_a_failing_init_says_that_it_was_told_to(spawn):
    error = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": "1"}).call(
        "integration_test_tasks", "fibonacci", 1
    )
    assert error.kind == "PackageInitError"
    assert "init failure requested" in error.content.text
