"""native/spider_tdl.hpp: tasks that are C++ functions.

Their plain calls are those of test_sdk_c.py.
"""

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


def test_fuzzed_calls_have_well_formed_outcomes(driver, typed):
    calls = 1_000_000 if FULL else 20_000
    count, accepted = driver.run(
        "fuzz", typed, list(filter(is_of_typed, sdk_cases.all_cases(5000))), 2, calls
    )
    assert count == calls
    assert accepted > calls // 20


NUMBERS = list(range(64))
FIELDS = re.findall(r"SPIDER_STRUCT\(shadows, ([^)]*)\)", TYPED.read_text())[0]
FIELDS = [field.strip() for field in FIELDS.split(",")]
THROWN = "ExecutionError"
DEEP = ".children[...]: expected at most 1023 levels, found deeper nesting"

# A task, its arguments, and its outputs or its error.
CALLS = [
    *sdk.rows("calls.txt"),
    # A list announces a terabyte of elements, of which the first is wrong.
    (
        "large_list",
        [Raw(b"\xdd\x02\0\0\0" + bytes([0xC0]) * 2**25)],
        wrong("inputs[0][0]: expected uint8, found nil"),
    ),
    ("wide", [NUMBERS], [NUMBERS]),
    ("wide", [{f"f{i}": i for i in reversed(NUMBERS)}], [NUMBERS]),
    (
        "shadows",
        [dict(zip(reversed(FIELDS), range(100)))],
        [list(reversed(range(len(FIELDS))))],
    ),
    ("depth", [nested(32, lambda inner: {"children": [inner] if inner else []})], [32]),
    (
        "depth",
        [Raw(b"\x91" * 1_000_000)],
        wrong("inputs[0]" + ".children[0]" * 9 + DEEP),
    ),
]


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
    """A Python that is not sanitized must preload what the package needs."""
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


# ---------------------------------------------------------------------------- compilers


def test_there_is_no_warning():
    """Whatever the names of fields are, with -Wshadow, too."""
    dialects = [
        (compiler, standard)
        for compiler in sdk.CXX_COMPILERS
        for standard in ("c++17", "c++20")
    ]
    compilations = [
        Compilation(
            *dialect,
            source,
            (*sdk.strict(dialect[0]), "-Wold-style-cast", "-fsyntax-only"),
        )
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
        '#define SPIDER_TDL_IMPLEMENTATION\n#include "spider_tdl.hpp"\n'
        "#include <set>\nnamespace {\n"
        f'{code}\n}}\nSPIDER_TDL_PACKAGE("p", nullptr, {tasks});\n'
    )


def fields(count: int) -> str:
    return ", ".join(f"f{i}" for i in range(count))


# What is wrong, and what the first error says.
TWO_FIELDS = "struct s { int x, y; }; SPIDER_STRUCT(s, %s); void bad(s) {}"
NO_TYPE = "it needs SPIDER_STRUCT or a function spider_"
NOT_ALLOWED = {
    "a type of the library": ("void bad(std::set<int>) {}", NO_TYPE),
    "an enum": ("enum color { red }; void bad(color) {}", NO_TYPE),
    "a struct": (
        "struct plain { int x; }; "
        "std::vector<std::map<int, plain>> bad() { return {}; }",
        NO_TYPE,
    ),
    "a reference": (
        "void bad(std::string &) {}",
        "a parameter of a task must be a value or a const reference",
    ),
    "65 fields": (
        f"struct s {{}}; SPIDER_STRUCT(s, {fields(65)}); void bad(s) {{}}",
        "SPIDER_STRUCT takes at most 64 fields",
    ),
    "300 fields": (
        f"struct s {{}}; SPIDER_STRUCT(s, {fields(300)}); void bad(s) {{}}",
        "SPIDER_STRUCT takes at most 64 fields",
    ),
    "no such field": (TWO_FIELDS % "x, misspelt", "misspelt"),
    "a field is missing": (TWO_FIELDS % "x", "only 1 name"),
    "no such value": (
        "enum class e { a }; SPIDER_ENUM(e, a, misspelt); void bad(e) {}",
        "misspelt",
    ),
    "an alternative is missing": (
        "struct s { int x; }; SPIDER_STRUCT(s, x); using v = std::variant<s, int>;"
        "SPIDER_VARIANT(v, a); void bad(v) {}",
        "SPIDER_VARIANT names each alternative",
    ),
}


@pytest.mark.parametrize("compiler", sdk.CXX_COMPILERS)
@pytest.mark.parametrize(("code", "rule"), NOT_ALLOWED.values(), ids=NOT_ALLOWED)
def test_the_first_error_names_the_rule(compiler, code, rule):
    status, text = Compilation(compiler, "c++17", package_of(code)).run()
    errors = [line for line in text.splitlines() if "error: " in line]
    assert status != 0
    assert rule in errors[0], text
    assert len(text.splitlines()) <= 60, text


def test_headers_of_two_versions_are_refused():
    text = '#include "spider_tdl.h"\n#undef SPIDER_TDL_HEADER_VERSION\n'
    text += '#define SPIDER_TDL_HEADER_VERSION 100\n#include "spider_tdl.hpp"\n'
    status, said = Compilation(str(build.CXX), "c++17", text).run()
    assert status != 0
    assert "spider_tdl.hpp and spider_tdl.h are of different versions" in said


def test_pointers_characters_and_wide_integers_are_mistakes_too():
    code = (
        "int value;\nint *f1() { return &value; }\n"
        "char f2() { return 'x'; }\nvoid f3(wchar_t) {}\n"
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
        "struct s { int x, y; }; SPIDER_STRUCT(s, y, x);\n"
        "bool f1(bool value, const s &) { return value; }\n"
        'const char *f2() { return "x"; }\n'
        "long long f3(unsigned long, short x) { return x; }\n"
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
        '#define SPIDER_TDL_IMPLEMENTATION\n#include "spider_tdl.h"\n'
        "#include <string>\n"
        'static const std::string name("computed");\n'
        'SPIDER_TDL_PACKAGE("computed", nullptr,\n'
        '    {"lambda", [](spider_task *task) { spider_write_int64(task->out, 5); }},\n'
        "    {name.c_str(),\n"
        "     [](spider_task *task) { spider_write_int64(task->out, 6); }});\n"
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
