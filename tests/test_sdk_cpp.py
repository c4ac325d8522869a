"""native/spider_tdl.hpp: tasks that are C++ functions. Their plain calls are those of test_sdk_c.py."""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from helpers import build, sdk, sdk_cases
from helpers.sdk import Case, Compilation, Raw, commit, payload, wrong
from helpers.sdk_cases import nested

from protocol import ExecutorError, TdlError

pytestmark = build.needs("C++ compiler")

TYPED, WORDCOUNT = sdk.SOURCES / "typed.cpp", build.NATIVE / "wordcount.cpp"
FULL = bool(os.environ.get("SPIDER_FUZZ_FULL"))


@pytest.fixture(scope="module")
def driver(tmp_path_factory, build_package):
    driver = sdk.Driver(tmp_path_factory.mktemp("driver"), build_package, sdk.SANITIZE)
    driver.libraries(TYPED, WORDCOUNT)
    return driver


@pytest.fixture(scope="module")
def typed(driver):
    return driver.library(TYPED)


def is_of_typed(case: Case) -> bool:
    return case.task not in ("any", "all", "nil", "graph_outputs")


@pytest.mark.parametrize("make", sdk_cases.MAKERS, ids=lambda make: make.__name__)
def test_outcomes_are_those_of_c(driver, typed, make):
    cases = list(filter(is_of_typed, sdk_cases.cases_of(make)))
    if cases:
        driver.replay(typed, cases)


def test_inputs_and_contexts_that_are_cut_anywhere_are_refused(driver, typed):
    cases = list(filter(is_of_typed, sdk_cases.all_cases(100)))
    (count,) = driver.run("truncate", typed, cases[:: 1 if FULL else 5])
    assert count > 2_000


def test_fuzzed_calls_have_well_formed_outcomes(driver, typed):
    calls = 1_000_000 if FULL else 20_000
    count, accepted = driver.run(
        "fuzz", typed, list(filter(is_of_typed, sdk_cases.all_cases(5000))), 2, calls
    )
    assert count == calls
    assert accepted > calls // 20


PATHS = [["name", [[1.0, 2.0], [3.0, 4.5]], [True, False]], [None, [], [False, False]]]
BACKWARDS = [["name", [[3.0, 4.5], [1.0, 2.0]], [True, False]], PATHS[1]]
NUMBERS = list(range(64))
COUNTS = {"brown": 1, "fox": 1, "lazy": 1, "quick": 1, "the": 3, "été": 1}
MERGED = {"a": 2**62, "brown": 1, "fox": 3, "lazy": 1, "quick": 1, "the": 4, "été": 1}
FIELDS = re.findall(r"SPIDER_STRUCT\(shadows, ([^)]*)\)", TYPED.read_text())[0].split(
    ","
)
FIELDS = [field.strip() for field in FIELDS]
THROWN = "ExecutionError"

# A task, its arguments, and its outputs or its error.
CALLS = [
    # Of two equal keys, the last counts.
    ("map", [Raw(b"\x82\xa1k\x01\xa1k\x02")], [{"k": 2.0}]),
    ("map", [Raw(b"\x83\xa1k\x01\xa1a\x05\xa1k\x02")], [{"a": 5.0, "k": 2.0}]),
    ("unordered", [Raw(b"\x82\xa1k\x01\xa1k\x02")], [{"k": 2}]),
    # A list announces a terabyte of elements, of which the first is wrong.
    ("large_list", [Raw(b"\xdd\x02\0\0\0" + bytes([0xC0]) * 2**25)], wrong("inputs[0][0]: expected uint8, found nil")),
    ("large_list", [b"\1\2"], [2]),
    # Types of authors, in containers; structs as arrays and as maps.
    ("reversed", [{"k": PATHS}], [{"k": BACKWARDS}]),
    ("reversed", [{"k": [{"flags": [True, False], "points": [{"y": 2, "x": 1}, [3, 4.5]], "name": "name"}]}],
     [{"k": BACKWARDS[:1]}]),
    ("reversed", [{"k": [{"flags": [True, False], "points": []}]}], [{"k": [[None, [], [True, False]]]}]),
    ("reversed", [{"k": [PATHS[0], [None, [[1, "x"]], [True, True]]]}],
     wrong("inputs[0][value 0][1].points[0].y: expected double, found a string of length 1")),
    ("reversed", [{"k": [[None, [], [True]]]}],
     wrong("inputs[0][value 0][0].flags: expected a tuple of 2, found an array of length 1")),
    ("odds", ["101", b"\x00\x07\x07"], [[[True, False, True], {0: -1, 7: -2}]]),
    ("wide", [NUMBERS], [NUMBERS]),
    ("wide", [{f"f{i}": i for i in reversed(NUMBERS)}], [NUMBERS]),
    ("shadows", [dict(zip(reversed(FIELDS), range(100)))], [list(reversed(range(len(FIELDS))))]),
    ("depth", [nested(30, lambda inner: [[inner] if inner else []])], [30]),
    ("depth", [nested(32, lambda inner: {"children": [inner] if inner else []})], [32]),
    ("depth", [Raw(b"\x91" * 1_000_000)],
     wrong("inputs[0]" + ".children[0]" * 9 + ".children[...]: expected at most 1023 levels, found deeper nesting")),
    ("nothing", [], []),
    ("nothing", [1], wrong("inputs: expected 0 values, found 1")),
    ("empty", [[]], []),
    # Nothing that is thrown leaves the package.
    ("throw_exception", [], TdlError(THROWN, "the reason")),
    ("throw_number", [], TdlError(THROWN, "unknown C++ exception")),
    ("throw_default", ["é %s"], TdlError(THROWN, "é %s")),
    ("throw_after_fail", [], TdlError("Custom", "the first")),
    ("throw_after_bad_argument", ["x"], wrong("inputs[0]: expected int64, found a string of length 1")),
    ("exhaust", [], TdlError(THROWN, "cannot create std::vector larger than max_size()")),
    # The package wordcount.
    ("wordcount::count", [["the quick  brown fox", "", "\tthe lazy\n", "été the"]], [COUNTS]),
    ("wordcount::count", ["a b"], wrong("inputs[0]: expected list, found a string of length 3")),
    ("wordcount::merge", [COUNTS, {"the": 1, "fox": 2, "a": 2**62}], [MERGED]),
    ("wordcount::merge", [{"a": 2**62}] * 2, TdlError(THROWN, 'the count of "a" does not fit into 64 bits')),
    ("wordcount::top", [MERGED, 4], [[["a", 2**62], ["the", 4], ["fox", 3], ["brown", 1]]]),
    ("wordcount::top", [{"b": 1, "a": 1}, 2**64 - 1], [[["a", 1], ["b", 1]]]),
]  # fmt: skip


def test_a_task_returns(driver, typed):
    cases = [
        Case(task, payload(*values), payload(*out) if isinstance(out, list) else out)
        for task, values, out in CALLS
    ]
    words = [case for case in cases if case.task.startswith("wordcount")]
    for outputs, outcome in (
        ([1, -3, 2**62], payload(2**62 - 2)),
        (
            [1, "x"],
            wrong("graph_outputs[1]: expected int64, found a string of length 1"),
        ),
    ):
        cases.append(
            Case(
                "sum_of_outputs", payload(), outcome, commit(b"\0" + payload(*outputs))
            )
        )
    driver.replay(typed, [case for case in cases if case not in words])
    driver.replay(driver.library(WORDCOUNT), words)
    assert (
        driver.run(
            "fuzz", driver.library(WORDCOUNT), words, 5, 100_000 if FULL else 2_000
        )[0]
        >= 2_000
    )


@pytest.fixture
def typed_executor(spawn, typed, tmp_path):
    """A Python that is not sanitized must preload what the package needs. libstdc++ is necessary for a throw."""
    build.stage(tmp_path, "typed", typed)
    env = {}
    if build.has("sanitizers"):
        commands = [
            [build.CXX, f"-print-file-name={name}"]
            for name in ("libasan.so", "libstdc++.so")
        ]
        paths = [
            subprocess.run(command, capture_output=True, check=True).stdout.decode()
            for command in commands
        ]
        env = {
            "ASAN_OPTIONS": "detect_leaks=0",
            "LD_PRELOAD": " ".join(path.strip() for path in paths),
        }
    return lambda **more: spawn(tmp_path, env={**env, **more})


def test_a_real_executor_runs_the_package(typed_executor):
    child = typed_executor()
    assert child.call("typed", "swap", 5, "x") == ["x", 5]
    assert child.call("typed", "throw_number").content == TdlError(
        THROWN, "unknown C++ exception"
    )
    assert child.call("typed", "int8", 1) == [1]


def test_an_init_that_throws_fails(typed_executor):
    error = TdlError(THROWN, "init has thrown")
    child = typed_executor(SPIDER_TEST_TYPED_INIT_THROWS="1")
    assert child.call("typed", "nothing") == ExecutorError("PackageInitError", error)


# ------------------------------------------------------------------------------------------------------------ compilers


def test_there_is_no_warning():
    """Whatever the names of fields are, with -Wshadow, too."""
    flags = (*sdk.STRICT, "-Wold-style-cast", "-fsyntax-only")
    dialects = [
        (compiler, standard)
        for compiler in sdk.CXX_COMPILERS
        for standard in ("c++17", "c++20")
    ]
    compilations = [
        Compilation(*dialect, source, flags)
        for index, dialect in enumerate(dialects)
        for source in (
            [TYPED, WORDCOUNT] if FULL else [TYPED] if index % 3 == 0 else [WORDCOUNT]
        )
    ]
    assert not [
        (compilation, text)
        for compilation, code, text in sdk.run_all(compilations)
        if code != 0 or text
    ]


def package_of(code: str, *functions: str) -> str:
    tasks = ", ".join(
        f'{{"{name}", spider::typed<{name}>}}' for name in functions or ("bad",)
    )
    return (
        '#define SPIDER_TDL_IMPLEMENTATION\n#include "spider_tdl.hpp"\n#include <set>\nnamespace {\n'
        f'{code}\n}}\nSPIDER_TDL_PACKAGE("p", nullptr, {tasks});\n'
    )


# What is wrong, and words that the first lines of the error have: the type, if a static_assert refuses it.
NOT_ALLOWED = [
    ("void bad(std::set<int>) {}", "std::set<int>"),
    ("enum color { red }; void bad(color) {}", "color"),
    (
        "struct plain { int x; }; std::vector<std::map<int, plain>> bad() { return {}; }",
        "plain",
    ),
    (
        "struct s {}; SPIDER_STRUCT(s, "
        + ", ".join(f"f{i}" for i in range(65))
        + "); void bad(s) {}",
        "most 64 fields",
    ),
    (
        "struct s { int x, y; }; SPIDER_STRUCT(s, x, misspelt); void bad(s) {}",
        "misspelt",
    ),
    ("struct s { int x, y; }; SPIDER_STRUCT(s, x); void bad(s) {}", "only 1 name"),
]


def test_a_mistake_has_one_clear_error():
    compilations = [
        Compilation(str(build.CXX), "c++17", package_of(code))
        for code, _ in NOT_ALLOWED
    ]
    for compiler in sdk.CXX_COMPILERS[1:]:
        codes = NOT_ALLOWED if FULL else NOT_ALLOWED[:1]
        compilations += [
            Compilation(compiler, "c++17", package_of(code)) for code, _ in codes
        ]
    for index, (_, status, text) in enumerate(sdk.run_all(compilations)):
        code, found = NOT_ALLOWED[index % len(NOT_ALLOWED)]
        assert status != 0, code
        assert any(found in line for line in text.splitlines()[:8]), text
        if "int x, y" not in code:
            assert (
                len(re.findall(r"error: static.assert", text))
                == len(re.findall(r"\berror: ", text))
                == 1
            ), text
            assert len(text.splitlines()) < 30, text


def test_pointers_characters_and_wide_integers_are_mistakes_too():
    code = (
        "int value;\nint *f1() { return &value; }\nchar f2() { return 'x'; }\nvoid f3(wchar_t) {}\n"
        "__extension__ typedef __int128 wide;\nvoid f4(wide) {}\nvoid f5(char *) {}\n"
    )
    _, text = Compilation(
        str(build.CXX), "c++17", package_of(code, "f1", "f2", "f3", "f4", "f5")
    ).run()
    assert (
        len(re.findall(r"error: static.assert", text))
        == len(re.findall(r"\berror: ", text))
        == 5
    ), text


def test_what_looks_like_a_mistake_compiles():
    code = (
        "struct s { int x, y; }; SPIDER_STRUCT(s, y, x);\nbool f1(bool value, const s &) { return value; }\n"
        'const char *f2() { return "x"; }\nlong long f3(unsigned long, short x) { return x; }\n'
    )
    Compilation(str(build.CXX), "c++17", package_of(code, "f1", "f2", "f3")).succeeds()


def test_an_older_standard_is_refused():
    status, text = Compilation(
        str(build.CXX), "c++14", '#include "spider_tdl.hpp"\n'
    ).run()
    assert status != 0
    assert "spider_tdl.hpp needs C++17" in text


@pytest.mark.parametrize(
    "source", [WORDCOUNT, TYPED] if FULL else [WORDCOUNT], ids=lambda path: path.stem
)
@pytest.mark.parametrize("flags", [(), ("-O0",)] if FULL else [()], ids="".join)
def test_a_package_exports_four_symbols(build_package, source, flags):
    """And what the compiler instantiates of the standard library, weakly."""
    symbols = sdk.exported(build_package(source, *flags))
    assert {name for name, kind in symbols.items() if kind == "T"} == sdk.EXPORTED
    for name in set(symbols) - sdk.EXPORTED:
        assert symbols[name] in "WV" or flags, (
            f"{symbols[name]} {name} would keep the library from being unloaded"
        )
        assert re.search(r"\b(std|__gnu_cxx)::|^operator ", name), name
        assert not re.search(r"\bspider(::|_\w+(<.*>)?\()", name), name


def test_a_table_of_tasks_may_be_computed(spawn, tmp_path):
    """While the library is loaded: names that are no literals, and lambdas."""
    text = (
        '#define SPIDER_TDL_IMPLEMENTATION\n#include "spider_tdl.h"\n#include <string>\n'
        'static const std::string name("computed");\nSPIDER_TDL_PACKAGE("computed", nullptr,\n'
        '    {"lambda", [](spider_task *task) { spider_write_int64(task->out, 5); }},\n'
        "    {name.c_str(), [](spider_task *task) { spider_write_int64(task->out, 6); }});\n"
    )
    library = tmp_path / "computed" / "libcomputed.so"
    library.parent.mkdir()
    flags = (*sdk.STRICT, "-O0", "-fPIC", "-shared", "-o", library)
    Compilation(str(build.CXX), "c++11", text, flags).succeeds()
    child = spawn(tmp_path)
    assert [child.call("computed", "lambda"), child.call("computed", "computed")] == [
        [5],
        [6],
    ]


def test_a_package_may_do_without_exceptions():
    text = '#define SPIDER_TDL_IMPLEMENTATION\n#include "spider_tdl.h"\n'
    text += (
        'static void f(spider_task *) {}\nSPIDER_TDL_PACKAGE("p", nullptr, {"f", f});\n'
    )
    flags = (*sdk.STRICT, "-fno-exceptions", "-fno-rtti", "-fsyntax-only")
    Compilation(str(build.CXX), "c++17", text, flags).succeeds()
