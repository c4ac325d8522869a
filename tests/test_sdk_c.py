"""native/spider_tdl.h: what its readers, its writers and its compilers do. helpers/sdk_cases.py has the plain calls."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

import pytest
from helpers import build, sdk, sdk_cases
from helpers.sdk import Case, Compilation, Raw, commit, payload, wrong

from protocol import ExecutorError, TdlError

KITCHEN_SINK, SCRIPT = build.NATIVE / "kitchen_sink.c", sdk.SOURCES / "script.c"
BUILD = ("-O2", "-fPIC", "-shared", "-o")
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
    driver.replay(kitchen_sink, list(make()))


def test_inputs_and_contexts_that_are_cut_anywhere_are_refused(driver, kitchen_sink):
    cases = [case for case in sdk_cases.all_cases() if len(case.inputs) < (2000 if FULL else 200)]
    (count,) = driver.run("truncate", kitchen_sink, cases)
    assert count > 10_000


def test_a_refused_allocation_is_an_error_and_leaks_nothing(driver, kitchen_sink):
    cases = [case for case in sdk_cases.all_cases() if len(case.inputs) < 20_000]
    (count,) = driver.run("starve", kitchen_sink, cases[:: 1 if FULL else 5])
    assert count > 500


def test_fuzzed_calls_have_well_formed_outcomes(driver, kitchen_sink):
    calls = 1_000_000 if FULL else 30_000
    count, accepted = driver.run("fuzz", kitchen_sink, sdk_cases.all_cases(), 1, calls)
    assert count == calls
    assert accepted > calls // 20


def test_a_real_executor_runs_the_package(spawn, build_package, tmp_path):
    build.stage(tmp_path, "kitchen_sink", build_package(KITCHEN_SINK))
    child = spawn(tmp_path)
    for task, value in sdk_cases.TASKS.items():
        assert child.call_raw("kitchen_sink", task, payload(value)) == payload(value)
    error = wrong("inputs[0][1]: expected int64, found a string of length 1")
    assert child.call("kitchen_sink", "list", [1, "x"]) == ExecutorError("TaskError", error)


@build.needs("ThreadSanitizer")
def test_threads_share_nothing(tmp_path, build_package):
    """Each call may come from another thread."""
    driver = sdk.Driver(tmp_path, build_package, sdk.THREADS)
    cases = [case for case in sdk_cases.all_cases() if len(case.inputs) < 200]
    driver.replay(driver.library(KITCHEN_SINK), cases[::7], "threads")


def other_compilers():
    if build.CXX is not None:
        yield build.CXX, "c++11"
    yield from ((compiler, "c99") for compiler in sdk.C_COMPILERS[1:])


@pytest.mark.parametrize(("compiler", "standard"), other_compilers())
def test_outcomes_do_not_depend_on_the_compiler(driver, tmp_path, compiler, standard):
    library = tmp_path / "libkitchen_sink.so"
    Compilation(compiler, standard, KITCHEN_SINK, (*BUILD, library)).succeeds()
    assert set(sdk.exported(library)) == sdk.EXPORTED
    driver.replay(library, sdk_cases.all_cases())


# ---------------------------------------------------------------------------------------------- a task's calls, in order

READY = TdlError("Custom", "ready")
TWO = {"b": 2}


def unread(where: str, read: int, count: int, what: str = "value") -> TdlError:
    what += "s" if what == "value" and read != 1 else ""
    return wrong(f"inputs{where}: expected {read} {what}, found {count}")


def unwritten(text: str) -> TdlError:
    return TdlError("SerializationError", f"outputs{text}")


def script(operations: str, *arguments: object, outcome: object, context: bytes = sdk.CONTEXT) -> Case:
    expected = outcome if isinstance(outcome, (TdlError, bytes)) else payload(outcome)
    return Case("script", payload(operations, *arguments), expected, context)


# Operations, arguments, and the results as text, or the error.
READS = [
    # What is not read is an error, and before a side effect, spider_ready is false.
    *(
        (f"{operations} {end}".strip(), values, error)
        for operations, values, error in (
            ("list", [[1, "x", 3]], unread("[1]", 0, 3)),
            ("list int64", [[1, "x", 3]], unread("[1]", 1, 3)),
            ("list int64 int64", [[1, 2, 3]], unread("[1]", 2, 3)),
            ("list list", [[[5]]], unread("[1][0]", 0, 1)),
            ("list list int64 list", [[[5], [6]]], unread("[1][1]", 0, 1)),
            ("list peek", [[1]], unread("[1]", 0, 1)),
            ("list", [b"\1\2"], unread("[1]", 0, 2)),
            ("map", [{1: 2}], unread("[1]", 0, 2, "keys and values")),
            ("map int64", [{1: 2}], unread("[1]", 1, 2, "keys and values")),
            ("map int64 map int64", [{1: {3: 4}}], unread("[1][value 0]", 1, 2, "keys and values")),
            ("tuple:2 int64", [[1, 2]], unread("[1]", 1, 2)),
            ("struct:a,b int64", [[1, 2]], unread("[1]", 1, 2)),
            ("struct:a,b int64", [{"a": 1, "b": 2}], unread("[1]", 1, 2)),
            ("struct:a,b list", [{"a": [5], "b": 2}], unread("[1].a", 0, 1)),
            ("int64", [1, 2], unread("", 2, 3)),
            ("int64 peek", [1, 2], unread("", 2, 3)),
            ("peek", [1], unread("", 1, 2)),
            ("option", [1], unread("", 1, 2)),
        )
        for end in ("", "ready")
    ),
    ("list int64 int64 int64 list", [[1, 2, 3], []], "3 1 2 3 0"),
    # A list may come as binary.
    ("list int64 uint8 int8 peek string", [b"\1\xff\x7f", "x"], "3 1 255 127 string x"),
    ("list list uint8 int64", [[b"\1", 5]], "2 1 1 5"),
    ("list int8", [b"\xff"], wrong("inputs[1][0]: expected int8, found the integer 255")),
    ("list bytes", [[b"\1\2"]], "1 0102"),
    # An absent field is nil for spider_read_option, spider_peek, spider_skip and spider_read_nil.
    ("struct:a,b option int64", [TWO], "0 2"),
    ("struct:a,b peek option int64", [TWO], "nil 0 2"),
    ("struct:a,b peek skip int64", [TWO], "nil 2"),
    ("struct:a,b skip int64", [TWO], "2"),
    ("struct:a,b nil peek int64", [TWO], "unsigned 2"),
    ("struct:a,b skip int64", [[1, 2]], "2"),
    ("struct:a,b int64 skip", [{"a": 1}], "1"),
    ("struct:a,b int64", [TWO], wrong("inputs[1].a: expected int64, found no such field")),
    ("struct:a,b peek int64", [TWO], wrong("inputs[1].a: expected int64, found no such field")),
    # A struct without fields; a map may have others.
    ("struct:", [{}], ""),
    ("struct: int64", [{"a": {"b": [1]}}, 5], "5"),
    ("struct: int64", [[], 5], "5"),
    ("struct:", [[1]], wrong("inputs[1]: expected a struct of 0 (), found an array of length 1")),
    # Fields in any order, some of them structs that came as maps, too.
    ("struct:a,b struct:c,d int64 int64 int64", [{"b": 1, "x": 0, "a": {"d": 3, "c": 2}}], "2 3 1"),
    ("struct:a,b list struct:c int64 struct:c int64 int64", [{"b": 9, "a": [{"c": 1}, [2]]}], "2 1 2 9"),
    ("list struct:a int64 int64", [[{"a": 1}, 2]], "2 1 2"),
    ("struct:a list uint8 string", [{"a": b"\5"}, "x"], "1 5 x"),
    # Text for C.
    ("cstring cstring", ["", "é x"], " é x"),
    ("cstring", [b"ab"], "ab"),
    ("cstring", ["a\0b"], wrong("inputs[1]: expected a string without a NUL, found a NUL")),
    ("list cstring cstring", [["a", "\0"]], wrong("inputs[1][1]: expected a string without a NUL, found a NUL")),
    ("cstring", [5], wrong("inputs[1]: expected string, found the integer 5")),
    # What an author refuses has the position of the value that was read last.
    ("string reject:a_color", ["x"], wrong("inputs[1]: expected a_color, found argument number 1")),
    ("list int8 int8 reject:even", [[2, 3]], wrong("inputs[1][1]: expected even, found argument number 1")),
    ("map string reject:x", [{"k": 1}], wrong("inputs[1][key 0]: expected x, found argument number 1")),
    ("struct:ab,cd int8 reject:x", [[1, 2]], wrong("inputs[1].ab: expected x, found argument number 1")),
    ("list reject:short", [[1, 2]], wrong("inputs[1]: expected short, found argument number 1")),
    ("int8 reject:x", ["no"], wrong("inputs[1]: expected int8, found a string of length 2")),
    # Types, and values that nobody wants.
    ("peek nil peek boolean peek int8 peek int8", [None, True, 1, -1], "nil boolean 1 unsigned 1 negative -1"),
    ("peek float peek double peek string", [sdk.float32(1.5), 2.5, "x"], "float 1.5 double 2.5 string x"),
    ("peek skip peek skip peek skip peek", [b"x", [1], {1: 2}], "binary array map end"),
    ("peek skip", [Raw(sdk_cases.EXTENSIONS[0])], "extension"),
    ("tuple:3 skip skip map skip uint8", [[[1, {"a": [2]}], "skipped", {"k": 7}]], "1 7"),
    ("peek", [Raw(b"\xc1")], wrong(f"inputs[1]: expected a value, found {sdk_cases.END}")),
    ("skip", [Raw(b"\x91\xc1")], wrong(f"inputs[1]: expected a value, found {sdk_cases.END}")),
    ("skip", [Raw(b"\x92\x01")], wrong(f"inputs[1]: expected a value, found {sdk_cases.END}")),
    ("peek float", [1e300], "double inf"),
    ("count int8", [5], "2 5"),
    # After an error, each call does nothing and returns zero; the first error is the outcome.
    (
        "uint64 string cstring bytes int8 boolean double float list map option struct:a,b tuple:2 nil skip peek count "
        "alloc:1 reject:x ready fail graph count peek int8 List:3 Nil Begin_list End_map Cstring:x",
        ["no number"],
        wrong("inputs[1]: expected uint64, found a string of length 9"),
    ),
    ("fail fail", [b"the first", b"the second"], TdlError("Custom", "the first")),
    ("Cstring:lost List:5 fail", [b"in the end"], TdlError("Custom", "in the end")),
    ("fail", [b"caf\xe9 \xff \xe2\x98\x83 \xe2"], TdlError("Custom", "caf? ? ☃ ?")),
    ("fail", [b"x" * 5000], TdlError("Custom", "x" * 4095)),
    *(
        (
            "alloc:" + size,
            [],
            TdlError("SerializationError", f"out of memory: no room for {2**60 - 1} times {size} bytes"),
        )
        for size in ("1", "16", "100")
    ),
    ("int64 ready", [1], READY),
    ("list int64 int64 list ready", [[1, 2, []]], READY),
    ("map int64 map int64 int64 ready", [{1: {3: 4}}], READY),
    ("list list ready", [[[]]], READY),
    ("struct:a,b int64 skip ready", [[1, [2, 3]]], READY),
    ("struct:a,b int64 option ready", [{"a": 1}], READY),
]

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
    *(
        (f"Begin_map Ints:{2 * n} End_map", [], [Raw(head + bytes(i % 100 for i in range(2 * n)))])
        for n, head in ((0, b"\x80"), (1, b"\x81"), (15, b"\x8f"), (16, b"\xde\0\x10"), (65536, b"\xdf\0\1\0\0"))
    ),
    ("Begin_list " * 128 + "End_list " * 128, [], [sdk_cases.nested(128, lambda inner: [inner] if inner is not None else [])]),
    ("Begin_list List:2 Nil Nil Begin_map Nil Begin_list End_list End_map Int64:-1 End_list", [],
     [[[None, None], {None: []}, -1]]),
    ("Map:1 Begin_list End_list Begin_list Ints:20 End_list", [], [{(): list(range(20))}]),
    ("Count:2 Begin_list Ints:17 End_list Int64:300", [], [list(range(17)), 300]),
    # More, or less, than announced.
    ("List:2 Nil", [], unwritten("[0]: 1 more value was announced")),
    ("Count:2 Nil Map:2 Nil Nil", [], unwritten("[1]: 2 more values were announced")),
    ("Struct:a,b Nil", [], unwritten("[0]: 1 more value was announced")),
    ("List:2 Int64:0 Int64:1 Int64:2", [], unwritten(": more values were written than announced: 1 (several outputs need "
     "spider_write_count)")),
    ("Nil Nil", [], unwritten(": more values were written than announced: 1 (several outputs need spider_write_count)")),
    ("Map:1 Nil Nil Nil", [], unwritten(": more values were written than announced: 1 (several outputs need "
     "spider_write_count)")),
    ("Count:2 Nil List:1 Nil Nil", [], unwritten(": more values were written than announced: 2")),
    ("Count:0 Nil", [], unwritten(": more values were written than announced: 0")),
    ("Count:3 Nil Nil", [], unwritten(": 3 were announced, but only 2 written")),
    ("Nil Count:1", [], unwritten(": spider_write_count must precede the first output")),
    # Ends that do not fit.
    *(
        (operations, [], unwritten(f"[{i}]: spider_end_{what} without spider_begin_{what}, or before its last value"))
        for operations, i, what in (
            ("End_list", 0, "list"),
            ("Count:2 Nil End_map", 1, "map"),
            ("List:1 End_list", 0, "list"),
            ("Begin_list End_map", 0, "map"),
            ("Begin_map Nil End_map", 0, "map"),
            ("Begin_map Nil Nil End_list", 0, "list"),
            ("Begin_list List:2 Nil End_list", 0, "list"),
            ("Begin_list End_list End_list", 1, "list"),
        )
    ),
    ("Begin_list Nil", [], unwritten("[0]: a list or map was begun, but not ended")),
    ("List:1 Begin_map", [], unwritten("[0]: a list or map was begun, but not ended")),
    ("Begin_list " * 129, [], unwritten("[0]: too many lists and maps of unknown length are open")),
    # Text that is not UTF-8, wherever it is from: each text is checked.
    ("Text", [b"\xff"], unwritten("[0]: a string that is not UTF-8")),
    ("Count:2 Nil Text", [b"a" * 100 + b"\xe2\x82"], unwritten("[1]: a string that is not UTF-8")),
    ("Text", [list("é".encode())], ["é"]),
    ("Count:2 Nil Null_cstring", [], unwritten("[1]: NULL is not a string")),
    ("Part:0:2", ["é"], ["é"]),
    ("Part:2", ["é日本"], ["日本"]),
    ("Part:0:1", ["é"], unwritten("[0]: a string that is not UTF-8")),
    ("Part:1", ["é"], unwritten("[0]: a string that is not UTF-8")),
    ("list Part:0:3 string", [["a", "b"]], unwritten("[0]: a string that is not UTF-8")),  # over two strings
]  # fmt: skip


def test_a_task_reads(driver):
    driver.replay(driver.library(SCRIPT), [script(do, *values, outcome=result) for do, values, result in READS])


def test_a_task_writes(driver):
    results = [(do, values, payload(*out) if isinstance(out, list) else out) for do, values, out in WRITES]
    driver.replay(driver.library(SCRIPT), [script(do, *values, outcome=out) for do, values, out in results])


def test_what_a_task_does_survives_a_lack_of_memory(driver):
    cases = [script(do, *values, outcome=payload(0)) for do, values, out in WRITES if isinstance(out, list)]
    assert driver.run("starve", driver.library(SCRIPT), cases)[0] > len(cases)


def test_structs_as_maps_have_a_depth_of_32(driver):
    """Reading them takes time for each level. As arrays, structs are read at once."""
    cases = []
    for depth, error in ((32, None), (33, "a map of at most 64 fields, at most 32 deep, found more")):
        value = sdk_cases.nested(depth, lambda inner: {"deep": inner, "last": 1})
        operations = "struct:deep,last " * depth + "nil" + " int8" * depth
        outcome = wrong(f"inputs[1]{'.deep' * 32}: expected {error}") if error else "1 " * 31 + "1"
        cases.append(script(operations, value, outcome=outcome))
    value = sdk_cases.nested(400, lambda inner: [inner, 1])
    cases.append(script("struct:a,b " * 400 + "nil" + " int8" * 400, value, outcome="1 " * 399 + "1"))
    # The places are free again after each struct.
    value = [sdk_cases.nested(32, lambda inner: {"a": inner})] * 3
    cases.append(script("list " + ("struct:a " * 32 + "nil ") * 3, value, outcome="3"))
    names = [f"f{i}" for i in range(65)]
    for count in (64, 65):
        values = {name: 1 for name in reversed(names[:count])}
        error = wrong("inputs[1]: expected a map of at most 64 fields, at most 32 deep, found more")
        operations = f"struct:{','.join(names[:count])}" + " int8" * count
        cases.append(script(operations, values, outcome="1 " * 63 + "1" if count == 64 else error))
        cases.append(script(operations, [1] * count, outcome="1 " * (count - 1) + "1"))
    driver.replay(driver.library(SCRIPT), cases)


def test_structs_as_maps_take_steps_in_proportion_to_their_size(spawn, build_package, tmp_path):
    """The compiler counts the calls of functions."""
    build.stage(tmp_path, "steps", build_package(sdk.SOURCES / "steps.c", "-finstrument-functions"))
    child = spawn(tmp_path)

    def steps(task: str, size: int) -> int:
        node: object = {"other": [None] * size, "last": 1}
        for _ in range(30):
            node = {"next": node, "last": 1}
        wide = {**dict.fromkeys("abcdefgh", 1), **{i: i for i in range(size)}}
        (count,) = child.call("steps", task, wide if task == "wide" else node)
        return count

    for task in ("nested", "wide"):
        assert steps(task, 1000) < steps(task, 4000) < 5 * steps(task, 1000)


# ----------------------------------------------------------------------------------------------------------------- zstd


def zstd_frame(*blocks: bytes, content_size: int | None = None) -> bytes:
    """A frame of blocks with a window of 8 MiB, and with a size that it may declare."""
    head = b"\x00\x68" if content_size is None else b"\xc0\x68" + content_size.to_bytes(8, "little")
    return b"\x28\xb5\x2f\xfd" + head + b"".join(blocks)


def zstd_block(data: bytes, repeat: int = 0, last: bool = False) -> bytes:
    """A block of plain data, or of one byte repeated."""
    return ((repeat or len(data)) << 3 | (2 if repeat else 0) | last).to_bytes(3, "little") + data


def compressed(data: bytes) -> bytes:
    zstd = ctypes.CDLL("libzstd.so.1")
    room = ctypes.create_string_buffer(len(data) + 1000)
    zstd.ZSTD_compress.restype = ctypes.c_size_t
    zstd.ZSTD_compress.argtypes = (ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int)
    size = zstd.ZSTD_compress(room, len(room), data, len(data), 3)
    return room.raw[:size]


@build.needs("zstd.h")
def test_compressed_graph_outputs_are_read(driver, kitchen_sink):
    cases = []
    for values in ([], [1], ["é" * 100, [1, {"a": None}]] * 10, ["x" * 2_000_000], list(range(50_000))):
        plain = payload(*values)
        frame = compressed(plain)
        for data in (frame, frame + frame):  # bytes after the payload do not matter
            cases.append(Case("graph_outputs", payload(), plain, commit(b"\1" + data, as_bin=True)))
    plain = payload("x")
    frame = zstd_frame(zstd_block(plain), zstd_block(b"", last=True))
    cases.append(Case("graph_outputs", payload(), plain, commit(b"\1" + frame)))
    # 4 MiB of zeros: a payload without values.
    zeros = zstd_frame(*[zstd_block(b"\0", 128 * 1024)] * 32, zstd_block(b"", last=True))
    cases.append(Case("graph_outputs", payload(), payload(), commit(b"\1" + zeros)))
    driver.replay(kitchen_sink, cases)
    assert driver.run("starve", kitchen_sink, cases[4:6])[0] > 10


@build.needs("zstd.h")
def test_damaged_compressed_graph_outputs_are_refused(driver, kitchen_sink):
    plain = payload("x")
    good = zstd_frame(zstd_block(plain), zstd_block(b"", last=True))
    found = "graph_outputs: expected zstd, found damaged bytes:"
    cases = [
        Case("graph_outputs", payload(), wrong(f"{found} truncated"), commit(b"\1" + good[:n]))
        for n in range(len(good))
    ]
    for bad, text in (
        (b"garbage that is longer", "Unknown frame descriptor"),
        (zstd_frame(zstd_block(plain, last=True), content_size=1), "Data corruption detected"),
        (zstd_frame(zstd_block(plain, last=True), content_size=2**60), "Data corruption detected"),
    ):
        cases.append(Case("graph_outputs", payload(), wrong(f"{found} {text}"), commit(b"\1" + bad)))
    driver.replay(kitchen_sink, cases)


def test_compressed_graph_outputs_need_zstd(driver):
    text = "graph_outputs: they are zstd-compressed, and this package was compiled without SPIDER_TDL_WITH_ZSTD"
    error = TdlError("InvalidTaskContext", text)
    driver.replay(driver.library(SCRIPT), [script("graph count", outcome=error, context=commit(b"\1garbage"))])


def test_graph_outputs_are_read_to_the_end_of_what_was_begun(driver):
    context = commit(b"\0" + payload([1, 2], 3))
    unread = wrong("graph_outputs[0]: expected 1 value, found 2")
    cases = [
        script("graph count list int8 int8", outcome="2 2 1 2", context=context),
        *(script(f"graph list int8{end}", outcome=unread, context=context) for end in ("", " ready")),
        script("graph list int8 bytes", outcome=wrong("graph_outputs[0][1]: expected Bytes, found the integer 2"),
               context=context),
    ]  # fmt: skip
    driver.replay(driver.library(SCRIPT), cases)


# ------------------------------------------------------------------------------------------------------------- compiling

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
ALL_OF_IT = ONE_TASK + PACKAGE % '{"add", add}' + '#include "spider_tdl.h"\n'
DECLARATIONS = '#include "spider_tdl.h"\n#include "spider_tdl.h"\n#include <unistd.h>\n#include <math.h>\n'


def test_there_is_no_warning():
    """In packages, in files with declarations only, and in an implementation of which little is used."""
    standards = [(c, "c99", "c11") for c in sdk.C_COMPILERS] + [
        (c, "c++11", "c++17", "c++20") for c in sdk.CXX_COMPILERS
    ]
    others = [build.NATIVE / "integration_test_tasks.c", build.NATIVE / "complex.c"]
    others += [sdk.SOURCES / "two_files.c", sdk.SOURCES / "other_file.c"]
    compilations = []
    for compiler, first, *rest in standards:
        # With optimization, the compiler sees more.
        compilations.append(Compilation(compiler, first, KITCHEN_SINK, (*sdk.STRICT, "-O1", "-S", "-o", os.devnull)))
        for source in (*others, DECLARATIONS, ALL_OF_IT):
            compilations.append(Compilation(compiler, first, source, (*sdk.STRICT, "-fsyntax-only")))
        for standard in rest:
            for source in (KITCHEN_SINK, ALL_OF_IT, *(others if FULL else ())):
                compilations.append(Compilation(compiler, standard, source, (*sdk.STRICT, "-fsyntax-only")))
        if build.has("zstd.h"):
            flags = (*sdk.STRICT, "-fsyntax-only", "-DSPIDER_TDL_WITH_ZSTD")
            compilations.append(Compilation(compiler, first, KITCHEN_SINK, flags))
    assert not [(compilation, text) for compilation, code, text in sdk.run_all(compilations) if code != 0 or text]


def compile_package(text: str, path: Path, compiler: str = build.CC) -> Path:
    Compilation(compiler, "c99", text, (*BUILD, "-s", path)).succeeds()
    return path


@pytest.mark.parametrize("compiler", sdk.C_COMPILERS)
def test_a_package_of_one_task_is_small(compiler, tmp_path):
    library = compile_package(ONE_TASK + PACKAGE % '{"add", add}', tmp_path / "sums.so", compiler)
    assert library.stat().st_size <= 25 * 1024


@pytest.mark.parametrize(
    ("tasks", "number"),
    [
        ('{"twice", add}, {"a", add}, {"twice", other}', 3),
        ('{"twice", add}, {"twice", other}, {"a", add}', 2),
        ('{"twice", add}, {"twice", add}', 2),
        ('{"a", add}, {NULL, add}', 2),
        ('{"a", NULL}, {"b", add}', 1),
    ],
)
def test_a_list_of_tasks_with_a_mistake_is_refused(spawn, tmp_path, tasks, number):
    text = ONE_TASK + "static void other(spider_task *task) { add(task); (void)other; }\n" + PACKAGE % tasks
    build.stage(tmp_path, "sums", compile_package(text, tmp_path / "sums.so"))
    error = f"the package's task number {number} has no name, no function, or the name of another task"
    expected = ExecutorError("PackageInitError", TdlError("ExecutionError", error))
    child = spawn(tmp_path)
    assert [child.call("sums", "a", 1, 2), child.call("sums", "twice", 1, 2)] == [expected] * 2


def test_a_package_of_several_files_exports_four_symbols(spawn, build_package, tmp_path):
    """Its readers work in each of them."""
    library = build_package(sdk.SOURCES / "two_files.c", str(sdk.SOURCES / "other_file.c"))
    assert set(sdk.exported(library)) == sdk.EXPORTED
    build.stage(tmp_path, "two_files", library)
    child = spawn(tmp_path)
    assert child.call("two_files", "sum", {"b": 2, "a": 1}) == [3]
    error = wrong("inputs[0][value 1]: expected int64, found a string of length 1")
    assert child.call("two_files", "sum", {"a": 1, "b": "x"}) == ExecutorError("TaskError", error)


@pytest.mark.parametrize("flags", [(), ("-O0",), ("-O0", "-fvisibility=hidden")], ids=" ".join)
def test_a_package_of_one_file_exports_four_symbols(build_package, flags):
    assert set(sdk.exported(build_package(build.NATIVE / "complex.c", *flags))) == sdk.EXPORTED


def test_a_package_needs_the_implementation():
    code, text = Compilation(build.CC, "c99", '#include "spider_tdl.h"\n' + PACKAGE % "{}").run()
    assert code != 0
    assert "define_SPIDER_TDL_IMPLEMENTATION_before_you_include_spider_tdl_h" in text


def test_names_agree():
    """Each reader has a writer of its name, and the enumerators of a type have one prefix."""
    header = (build.NATIVE / "spider_tdl.h").read_text().partition("==== Implementation")[0]
    declared = re.findall(r"^SPIDER__API .*\bspider_(read|write)_(\w+)\(", header, re.MULTILINE)
    names = {half: {name for found, name in declared if found == half} for half in ("read", "write")}
    assert names["read"] == names["write"]
    assert {"cstring", "count", "option", "struct", "uint64"} <= names["read"]
    assert not re.search(r"uint32_t (count|size)", header.partition("---- Readers")[2])
    enums = re.findall(r"typedef enum \w+ \{(.*?)\}", header, re.DOTALL)
    assert [{word[: len("SPIDER_T")] for word in re.findall(r"\w+", enum)} for enum in enums] == [
        {"SPIDER_E"}, {"SPIDER_T"}, {"SPIDER_T"},
    ]  # fmt: skip
    assert re.search(r"^#define SPIDER_TDL_HEADER_VERSION \d+$", header, re.MULTILINE)


# ----------------------------------------------------------------------------------------------------- the test packages


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_cross_product_of_another_length_names_the_length(spawn, size):
    error = spawn().call("complex", "complex::cross_product", *[[[[0.0, 0.0]] * size]] * 2)
    assert error.content.kind == "ExecutionError"
    assert "length 3" in error.content.text


def test_a_failing_init_names_the_reason(spawn):
    error = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": "1"}).call("integration_test_tasks", "fibonacci", 1)
    assert error.kind == "PackageInitError"
    assert "init failure requested" in error.content.text


@pytest.mark.parametrize("package", ["complex", "integration_test_tasks"])
def test_fuzzed_calls_of_the_test_packages_have_well_formed_outcomes(driver, package):
    vectors = [[[[1, 2.5], [-3, 4], [5, 6]]], [[[1, 2]]], [[["x"]]], [[]]]
    cases = [
        Case(f"complex::{name}", payload(a, b), b"")
        for name in ("add", "sub", "dot_product", "cross_product")
        for a in vectors
        for b in vectors
    ]
    if package == "integration_test_tasks":
        sums = ([1, -1], [2**63 - 1] * 5, [-(2**63)] * 3, [], ["x"])
        cases = [Case("assert_outputs_sum_zero", payload(), b"", commit(b"\0" + payload(*sum))) for sum in sums]
        cases += [Case("sleep_and_echo", payload(["a", "é"] * 50), b""), Case("always_fail", payload(), b"")]
    library = driver.library(build.NATIVE / f"{package}.c")
    assert driver.run("fuzz", library, cases, 3, 100_000 if FULL else 3000)[0] >= 3000


def test_the_version_of_the_interface(build_package):
    """An executor of version 0.1 runs packages of each 0.1."""
    library = ctypes.CDLL(str(build_package(KITCHEN_SINK)))
    fields = [(name, ctypes.c_uint32) for name in ("major", "minor", "patch")]
    version = type("Version", (ctypes.Structure,), {"_fields_": fields})
    library.__spider_tdl_package_get_version.restype = version
    found = library.__spider_tdl_package_get_version()
    assert (found.major, found.minor, found.patch) == (0, 1, 0)
