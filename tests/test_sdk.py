"""Packages written with native/spider_tdl.h: through a real executor, and under the sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import sdk_cases
from helpers import build, executor

import protocol
from protocol import DeserializationError, ExecutionError, PackageInitError, TaskError
from spider_executor import ExecutorHandle, TaskFailure, TaskSuccess

SDK = build.ROOT / "tests" / "sdk"
KITCHEN_SINK = build.ROOT / "native" / "kitchen_sink.c"
SANITIZE = ("-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STARVED = ("-include", str(SDK / "starved.h"))

NOT_UTF8 = protocol.SerializationError("outputs[0]: a string that is not UTF-8")

needs_cxx = pytest.mark.skipif(build.CXX is None, reason="there is no C++ compiler")
packages = pytest.mark.parametrize("package", ["kitchen_sink", pytest.param("typed", marks=needs_cxx)])


@pytest.fixture(scope="module")
def cases() -> list[sdk_cases.Case]:
    return sdk_cases.all_cases()


def of_package(cases: list[sdk_cases.Case], package: str) -> list[sdk_cases.Case]:
    """The C++ package has no tasks for values of any type."""
    missing = () if package == "kitchen_sink" else ("any", "all", "nil", "graph_outputs")
    return [case for case in cases if case.name not in missing]


@pytest.fixture(scope="module")
def sdk_dir(tmp_path_factory, build_package) -> Path:
    directory = tmp_path_factory.mktemp("sdk")
    build.stage(directory, "kitchen_sink", build_package(KITCHEN_SINK))
    if build.CXX is not None:
        build.stage(directory, "typed", build_package(SDK / "typed.cpp"))
        build.stage(directory, "wordcount", build_package(build.ROOT / "native" / "wordcount.cpp"))
    return directory


@pytest.fixture(scope="module")
def sdk(executor_command, sdk_dir):
    with ExecutorHandle(sdk_dir, executor_command) as handle:
        yield handle


def ask(handle, package, case):
    """The outputs' bytes, or the TdlError."""
    request = protocol.Execute(package, case.name, case.context, case.inputs)
    outcome = handle.request(request, executor.DEADLINE).outcome
    if isinstance(outcome, protocol.Success):
        return outcome.outputs
    error, _ = protocol.decode_executor_error(outcome.error)
    assert isinstance(error, TaskError)
    return error.error


@packages
@pytest.mark.parametrize("maker", sdk_cases.MAKERS)
def test_cases(sdk, package, maker):
    for case in of_package(list(maker()), package):
        assert ask(sdk, package, case) == case.expected, case


@packages
def test_truncated_inputs_and_contexts(sdk, package):
    """Cut at every byte: a DeserializationError, and the executor goes on."""
    for name in (*sdk_cases.TASKS, "swap"):
        values = (5, "x") if name == "swap" else (sdk_cases.VALID[name],)
        whole = sdk_cases.Case(name, protocol.pack_values(*values), b"")
        assert isinstance(ask(sdk, package, whole), bytes)
        for size in range(len(whole.inputs)):
            error = ask(sdk, package, whole._replace(inputs=whole.inputs[:size]))
            assert isinstance(error, DeserializationError), (whole, size)
        for size in range(len(whole.context)):
            error = ask(sdk, package, whole._replace(context=whole.context[:size]))
            assert isinstance(error, DeserializationError), (whole, size)
            assert error.text.startswith("context"), (whole, size)


def test_what_an_author_does_wrong(sdk_odd):
    for task, error in (
        ("too_few_elements", protocol.SerializationError("outputs[1] is incomplete: 2 more values were announced")),
        ("bad_utf8", NOT_UTF8),
        ("bad_utf8_in_error", protocol.Custom("caf? ? \N{SNOWMAN} ?")),
        ("fails_twice", protocol.Custom("the first")),
        ("writes_then_fails", ExecutionError("in the end")),
        ("long_error", ExecutionError("x" * 100000)),
        ("null_cstring", protocol.SerializationError("outputs[1]: NULL is no string")),
        ("null_string", None),
    ):
        outcome = sdk_odd.execute("odd", task, timeout=executor.DEADLINE)
        if error is None:
            assert outcome.outputs == ["", []]
        else:
            assert isinstance(outcome, TaskFailure), task
            assert outcome.error == TaskError(error)


@pytest.mark.parametrize("text", ["aé", "日本語 and more", "x" * 200 + "🕷️" * 3 + "é"])
def test_a_part_of_a_string(sdk_odd, text):
    """Written if it is whole characters, though strings that were read are not checked twice."""
    data = text.encode()
    ends = range(len(data) + 1) if len(data) < 50 else (len(data) - 20, len(data) - 2, len(data))
    for start, end in ((first, last) for last in ends for first in range(last + 1)):
        outcome = sdk_odd.execute("odd", "part", text, start, end - start, timeout=executor.DEADLINE)
        try:
            expected = data[start:end].decode()
        except UnicodeDecodeError:
            assert outcome.error.error == NOT_UTF8
        else:
            assert outcome.outputs == [expected]


def test_bytes_as_a_string(sdk_odd):
    for data in (b"", b"abc", "é".encode(), b"\xff", b"a\xff" * 100):
        for value in (data, list(data)):
            outcome = sdk_odd.execute("odd", "bytes_as_string", value, timeout=executor.DEADLINE)
            if b"\xff" in data:
                assert outcome.error.error == NOT_UTF8
            else:
                assert outcome.outputs == [data.decode()]


def test_an_error_ends_loops_and_reads_as_zero(sdk_odd):
    outcome = sdk_odd.execute("odd", "reads_on", "no number", timeout=executor.DEADLINE)
    assert outcome.error == TaskError(DeserializationError("inputs[0]: expected uint64, found a string of length 9"))


def test_a_side_effect_waits_for_the_arguments(sdk_odd, tmp_path):
    """spider_ready is false for one argument too many, and for one that was only peeked at."""
    path = tmp_path / "touched"
    for task in ("touch", "peek_and_touch"):
        outcome = sdk_odd.execute("odd", task, str(path), 1, timeout=executor.DEADLINE)
        assert outcome.error == TaskError(DeserializationError("inputs: expected 1 value, found 2"))
        assert not path.exists()
    assert isinstance(sdk_odd.execute("odd", "touch", str(path), timeout=executor.DEADLINE), TaskSuccess)
    assert path.exists()


def test_reads_partly_and_skips(sdk_odd):
    value = [[1, {"a": [2]}], "skipped", {"k": 7}]
    outcome = sdk_odd.execute("odd", "third_of_three", value, timeout=executor.DEADLINE)
    assert outcome.outputs == [7, 1]


@pytest.mark.parametrize("packed", ["81a16101", "82a161c0a16290", "90", "80", "81a26161", "81c1c1", "82a16101", "81"])
def test_a_struct_of_no_fields(sdk_odd, packed):
    """It may come with fields that are not known, but not damaged."""
    case = sdk_cases.Case("no_fields", sdk_cases.payload(bytes.fromhex(packed)), b"")
    outcome = ask(sdk_odd, "odd", case)
    if packed in ("81a16101", "82a161c0a16290", "90", "80"):
        assert outcome == sdk_cases.payload(b"\xc0")
    else:
        assert isinstance(outcome, DeserializationError)
        assert outcome.text.startswith("inputs[0]: expected ")


@pytest.fixture(scope="module")
def sdk_odd(executor_command, tmp_path_factory, build_package):
    directory = tmp_path_factory.mktemp("odd")
    build.stage(directory, "odd", build_package(SDK / "odd.c"))
    with ExecutorHandle(directory, executor_command) as handle:
        yield handle


# ---- C++ ----


def run(handle, task, *values, package="typed", **options):
    outcome = handle.execute(package, task, *values, timeout=executor.DEADLINE, **options)
    return outcome.outputs if isinstance(outcome, TaskSuccess) else outcome.error.error


@needs_cxx
def test_exceptions_become_errors(sdk):
    assert run(sdk, "throw_exception") == ExecutionError("the reason")
    assert run(sdk, "throw_number") == ExecutionError("unknown C++ exception")
    assert run(sdk, "throw_default", "é %s") == ExecutionError("é %s")
    assert run(sdk, "throw_default", "a\0b") == ExecutionError("a\0b")
    assert run(sdk, "throw_after_fail") == protocol.Custom("the first")
    assert run(sdk, "throw_after_bad_argument", "x") == DeserializationError(
        "inputs[0]: expected int64, found a string of length 1"
    )
    assert isinstance(run(sdk, "exhaust"), ExecutionError)
    assert run(sdk, "int8", 1) == [1]


@needs_cxx
def test_an_init_that_throws(executor_command, sdk_dir):
    env = {**os.environ, "SPIDER_TEST_TYPED_INIT_THROWS": "1"}
    with ExecutorHandle(sdk_dir, executor_command, env) as handle:
        outcome = handle.execute("typed", "nothing", timeout=executor.DEADLINE)
    assert outcome.error == PackageInitError(ExecutionError("init has thrown"))


@needs_cxx
def test_authors_types_and_containers(sdk):
    paths = {"k": [["name", [[1.0, 2.0], [3.0, 4.5]], [True, False]], [None, [], [False, False]]]}
    backwards = {"k": [["name", [[3.0, 4.5], [1.0, 2.0]], [True, False]], [None, [], [False, False]]]}
    assert run(sdk, "reversed", paths) == [backwards]
    named = {"k": [{"flags": [True, False], "points": [{"y": 2, "x": 1}, [3, 4.5]], "name": "name"}]}
    assert run(sdk, "reversed", named) == [{"k": [backwards["k"][0]]}]
    named = {"k": [{"flags": [True, False], "points": []}, {"points": [], "flags": [True, True]}]}
    assert run(sdk, "reversed", named) == [{"k": [[None, [], [True, False]], [None, [], [True, True]]]}]
    paths["k"][1][1] = [[1, "x"]]
    assert run(sdk, "reversed", paths) == DeserializationError(
        "inputs[0][value 0][1].points[0].y: expected double, found a string of length 1"
    )
    assert run(sdk, "odds", "101", b"\x00\x07\x07") == [[[True, False, True], {0: -1, 7: -2}]]
    numbers = list(range(70))
    assert run(sdk, "wide", numbers) == [numbers]
    assert run(sdk, "wide", {f"f{i}": i for i in numbers}) == [numbers]
    assert run(sdk, "shadows", {"depth": 1, "local": 2}) == [[2, 1]]
    assert run(sdk, "nothing") == []
    assert run(sdk, "empty", []) == []


@needs_cxx
def test_a_type_that_contains_itself(sdk):
    assert run(sdk, "depth", sdk_cases.nested(30, lambda inner: [[inner] if inner else []])) == [30]
    case = sdk_cases.Case("depth", sdk_cases.payload(b"\x91" * 1_000_000), b"")
    error = ask(sdk, "typed", case)
    assert isinstance(error, DeserializationError)
    assert error.text.endswith("expected at most 1023 levels, found deeper nesting")


@needs_cxx
def test_graph_outputs_in_cxx(sdk):
    context = protocol.TaskContext(task_id="Commit", graph_outputs=b"\0" + protocol.pack_values(1, -3, 2**62))
    assert run(sdk, "sum_of_outputs", context=context) == [2**62 - 2]
    context = protocol.TaskContext(task_id="Commit", graph_outputs=b"\0" + protocol.pack_values(1, "x"))
    assert run(sdk, "sum_of_outputs", context=context) == DeserializationError(
        "graph_outputs[1]: expected int64, found a string of length 1"
    )


@needs_cxx
def test_wordcount(sdk):
    def wordcount(task, *values):
        return run(sdk, f"wordcount::{task}", *values, package="wordcount")

    first = wordcount("count", ["the quick  brown fox", "", "\tthe lazy dog\n", "été the"])
    assert first == [{"the": 3, "quick": 1, "brown": 1, "fox": 1, "lazy": 1, "dog": 1, "été": 1}]
    assert wordcount("count", []) == [{}]
    total = wordcount("merge", *first, {"the": 1, "fox": 2, "a": 2**62})
    assert total == [{"the": 4, "quick": 1, "brown": 1, "fox": 3, "lazy": 1, "dog": 1, "été": 1, "a": 2**62}]
    assert wordcount("top", *total, 4) == [[["a", 2**62], ["the", 4], ["fox", 3], ["brown", 1]]]
    assert wordcount("top", *total, 2**64 - 1) == [
        [["a", 2**62], ["the", 4], ["fox", 3], ["brown", 1], ["dog", 1], ["lazy", 1], ["quick", 1], ["été", 1]]
    ]
    assert wordcount("merge", {"a": 2**62}, {"a": 2**62}) == ExecutionError(
        'the count of "a" does not fit into 64 bits'
    )
    assert wordcount("count", "a b") == DeserializationError("inputs[0]: expected list, found a string of length 3")


@needs_cxx
def test_the_c_package_compiled_as_cxx(executor_command, tmp_path, build_package, cases):
    """As C++11: the same outcomes."""
    build.stage(tmp_path, "kitchen_sink", build_package(SDK / "kitchen_sink.cpp", "-std=c++11"))
    with ExecutorHandle(tmp_path, executor_command) as handle:
        for case in cases:
            if len(case.inputs) < 1000:
                assert ask(handle, "kitchen_sink", case) == case.expected, case


# ---- zstd ----


def zstd_frame(*blocks: bytes, content_size: int | None = None) -> bytes:
    """A frame of ready-made blocks, with a window of 8 MiB and perhaps a content size."""
    head = b"\x28\xb5\x2f\xfd"
    head += b"\x00\x68" if content_size is None else b"\xc0\x68" + content_size.to_bytes(8, "little")
    return head + b"".join(blocks)


def zstd_block(data: bytes, repeat: int = 0, last: bool = False) -> bytes:
    """A raw block, or one byte repeated (an RLE block)."""
    size = repeat or len(data)
    return (size << 3 | (2 if repeat else 0) | last).to_bytes(3, "little") + data


@pytest.fixture(scope="module")
def zstd(tmp_path_factory, build_package, executor_command):
    """An executor with a kitchen_sink that can decompress, and a program that compresses."""
    directory = tmp_path_factory.mktemp("zstd")
    program = directory / "compress"
    command = [build.CC, "-o", str(program), str(SDK / "compress.c"), "-lzstd"]
    probe = subprocess.run([build.CC, "-E", "-include", "zstd.h", "-x", "c", "/dev/null"], capture_output=True)
    if probe.returncode != 0:
        pytest.skip("there is no zstd.h")
    subprocess.run(command, check=True, timeout=120)
    library = build_package(KITCHEN_SINK, "-DSPIDER_TDL_WITH_ZSTD", "-lzstd")
    build.stage(directory, "kitchen_sink", library)
    with ExecutorHandle(directory, executor_command) as handle:
        yield handle, program


def commit_case(data: bytes) -> sdk_cases.Case:
    return sdk_cases.Case("graph_outputs", sdk_cases.payload(), b"", sdk_cases.commit(data))


def test_compressed_graph_outputs(zstd):
    handle, program = zstd
    for values in ([], [1], ["é" * 100, [1, {"a": None}]] * 10, ["x" * 2_000_000], list(range(50_000))):
        plain = protocol.pack_values(*values)
        compressed = subprocess.run([str(program)], input=plain, stdout=subprocess.PIPE, check=True, timeout=60).stdout
        for frames in (compressed, compressed + compressed):  # what is behind the payload does not matter
            assert ask(handle, "kitchen_sink", commit_case(b"\1" + frames)) == plain
        for size in {*range(min(40, len(compressed))), len(compressed) - 1}:
            error = ask(handle, "kitchen_sink", commit_case(b"\1" + compressed[:size]))
            assert isinstance(error, DeserializationError)
            assert error.text.startswith("graph_outputs: expected ")


def test_damaged_compressed_graph_outputs(zstd):
    handle, _ = zstd
    plain = protocol.pack_values("x")
    good = zstd_frame(zstd_block(plain), zstd_block(b"", last=True))
    assert ask(handle, "kitchen_sink", commit_case(b"\1" + good)) == plain
    for bad in (
        b"garbage",
        good[:-1],
        b"\0" + good,
        zstd_frame(zstd_block(plain, last=True), content_size=2**60),
        zstd_frame(zstd_block(plain, last=True), content_size=1),
    ):
        error = ask(handle, "kitchen_sink", commit_case(b"\1" + bad))
        assert isinstance(error, DeserializationError), bad
        assert error.text.startswith("graph_outputs: ")
    nothing = zstd_frame(zstd_block(b"", last=True))
    error = ask(handle, "kitchen_sink", commit_case(b"\1" + nothing))
    assert error == DeserializationError("graph_outputs: expected a count of 4 bytes, found only 0 bytes")
    # 4 MiB of zeros out of a few bytes: a payload without values.
    zeros = zstd_frame(*[zstd_block(b"\0", 128 * 1024)] * 32, zstd_block(b"", last=True))
    assert ask(handle, "kitchen_sink", commit_case(b"\1" + zeros)) == sdk_cases.payload()


def test_compressed_graph_outputs_without_zstd(sdk):
    error = ask(sdk, "kitchen_sink", commit_case(b"\1" + zstd_frame(zstd_block(b"", last=True))))
    assert error == protocol.InvalidTaskContext(
        "graph_outputs: they are zstd-compressed, and this package was compiled without SPIDER_TDL_WITH_ZSTD"
    )
    # A commit task that does not look at them does not care.
    case = sdk_cases.Case("uint8", sdk_cases.payload(b"\7"), b"", sdk_cases.commit(b"\1garbage"))
    assert ask(sdk, "kitchen_sink", case) == sdk_cases.payload(b"\7")


# ---- Under the sanitizers ----


@pytest.fixture(scope="module")
def driver(tmp_path_factory, build_package):
    """Runs tests/sdk/driver.c on a package, all with ASan and UBSan, and returns what it prints."""
    directory = tmp_path_factory.mktemp("driver")
    program = directory / "driver"
    command = [build.CC, "-std=c99", *SANITIZE, f"-I{build.ROOT / 'native'}", "-rdynamic", "-o", str(program)]
    subprocess.run([*command, str(SDK / "driver.c"), "-ldl"], check=True, timeout=120)

    def drive(mode: str, package: str, cases: list[sdk_cases.Case], *arguments: str, flags: tuple = ()) -> str:
        folder = SDK if package in ("typed", "odd") else build.ROOT / "native"
        source = folder / f"{package}.{'cpp' if package in ('typed', 'wordcount') else 'c'}"
        library = build_package(source, *SANITIZE, *(STARVED if source.suffix == ".c" else ()), *flags)
        file = directory / "cases"
        file.write_bytes(b"".join(case.encode() for case in cases))
        env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0", "UBSAN_OPTIONS": "print_stacktrace=1"}
        result = subprocess.run(
            [str(program), mode, str(library), str(file), *arguments],
            capture_output=True,
            env=env,
            timeout=100,
        )
        assert result.returncode == 0, result.stderr.decode(errors="replace")[-8000:]
        return result.stdout.decode()

    return drive


@packages
def test_sanitized_cases(driver, cases, package):
    chosen = of_package(cases, package)
    chosen.append(sdk_cases.Case("\udcff", b"", protocol.TaskNotFound("?")))  # which no executor would send
    assert driver("replay", package, chosen) == f"{len(chosen)} cases\n"


@packages
def test_sanitized_truncation(driver, cases, package):
    chosen = [case for case in of_package(cases, package) if case.name != "string" or len(case.inputs) < 100]
    count, what = driver("truncate", package, chosen).split()
    assert what == "truncations"
    assert int(count) > 20_000


@pytest.mark.parametrize(
    ("package", "seed", "count"), [("kitchen_sink", 1, 200_000), pytest.param("typed", 2, 60_000, marks=needs_cxx)]
)
def test_sanitized_fuzz(driver, cases, package, seed, count):
    """Nothing but a well-formed outcome, and the readers do accept many of the payloads."""
    printed = driver("fuzz", package, of_package(cases, package), str(seed), str(count))
    words = printed.split()
    assert words[:2] == [str(count), "payloads,"]
    assert int(words[2]) > count // 20


def test_sanitized_starvation(driver, cases):
    """Every allocation may fail: an error, never a crash, a leak or a success."""
    printed = driver("starve", "kitchen_sink", [case for case in cases if len(case.inputs) < 20_000])
    assert int(printed.split()[0]) > 5_000


def test_sanitized_test_packages(driver):
    vector, other = [[[1, 2.5], [-3, 4], [5, 6]]], [[[1, 2]]]
    inputs = [
        (f"complex::{name}", *vectors)
        for name in ("add", "sub", "dot_product", "cross_product")
        for vectors in ((vector, vector), (vector,), (vector, other), (other, other), ([[["x"]]], vector))
    ]
    cases = [sdk_cases.Case(name, protocol.pack_values(*values), b"") for name, *values in inputs]
    assert driver("fuzz", "complex", cases, "3", "10000").startswith("10000 payloads")

    cases = [
        sdk_cases.Case("assert_outputs_sum_zero", sdk_cases.payload(), b"", sdk_cases.commit(b"\0" + payload))
        for payload in (protocol.pack_values(*n) for n in ([1, -1], [2**63 - 1] * 5, [-(2**63)] * 3, [], ["x"]))
    ]
    cases.append(sdk_cases.Case("sleep_and_echo", protocol.pack_values(["a", "é"] * 50), b""))
    cases.append(sdk_cases.Case("always_fail", sdk_cases.payload(), b""))
    assert driver("fuzz", "integration_test_tasks", cases, "4", "5000").startswith("5000 payloads")


def test_sanitized_mistakes(driver):
    text = "aé日本語" * 40
    data = text.encode()
    cases = [
        sdk_cases.Case("bad_utf8", sdk_cases.payload(), NOT_UTF8),
        sdk_cases.Case("bad_utf8_in_error", sdk_cases.payload(), protocol.Custom("caf? ? \N{SNOWMAN} ?")),
        sdk_cases.Case("fails_twice", sdk_cases.payload(), protocol.Custom("the first")),
        sdk_cases.Case("writes_then_fails", sdk_cases.payload(), ExecutionError("in the end")),
        sdk_cases.Case("long_error", sdk_cases.payload(), ExecutionError("x" * 100000)),
        sdk_cases.Case("null_string", sdk_cases.payload(), protocol.pack_values("", [])),
        sdk_cases.Case(
            "null_cstring", sdk_cases.payload(), protocol.SerializationError("outputs[1]: NULL is no string")
        ),
        sdk_cases.Case("bytes_as_string", protocol.pack_values(list(data)), protocol.pack_values(text)),
        sdk_cases.Case("bytes_as_string", protocol.pack_values(b"\xff"), NOT_UTF8),
        sdk_cases.Case("part", protocol.pack_values(text, 3, len(data) - 3), protocol.pack_values(data[3:].decode())),
        sdk_cases.Case("part", protocol.pack_values(text, 2, len(data) - 2), NOT_UTF8),
        sdk_cases.Case("part", protocol.pack_values(text, len(data), 0), protocol.pack_values("")),
        sdk_cases.Case("no_fields", protocol.pack_values({"a": {"b": [1]}}), protocol.pack_values(None)),
        sdk_cases.Case("third_of_three", protocol.pack_values([[1], "x", {"k": 7}]), protocol.pack_values(7, 1)),
        sdk_cases.Case(
            "reads_on",
            protocol.pack_values("no number"),
            DeserializationError("inputs[0]: expected uint64, found a string of length 9"),
        ),
    ]
    assert driver("replay", "odd", cases) == f"{len(cases)} cases\n"
    assert int(driver("starve", "odd", cases).split()[0]) > 20
    assert int(driver("truncate", "odd", cases).split()[0]) > 500


@needs_cxx
def test_sanitized_exceptions(driver):
    numbers = list(range(70))
    cases = [
        sdk_cases.Case("throw_exception", sdk_cases.payload(), ExecutionError("the reason")),
        sdk_cases.Case("throw_number", sdk_cases.payload(), ExecutionError("unknown C++ exception")),
        sdk_cases.Case("throw_default", protocol.pack_values("a\0b"), ExecutionError("a\0b")),
        sdk_cases.Case("throw_after_fail", sdk_cases.payload(), protocol.Custom("the first")),
        sdk_cases.Case("wide", protocol.pack_values({f"f{i}": i for i in numbers}), protocol.pack_values(numbers)),
        sdk_cases.Case(
            "throw_after_bad_argument",
            protocol.pack_values("x"),
            DeserializationError("inputs[0]: expected int64, found a string of length 1"),
        ),
    ]
    assert driver("replay", "typed", cases) == f"{len(cases)} cases\n"


@needs_cxx
def test_sanitized_wordcount(driver):
    counts = {"the": 4, "quick": 1, "été": 2**62}
    too_many = ExecutionError('the count of "été" does not fit into 64 bits')
    cases = [
        sdk_cases.Case("wordcount::count", protocol.pack_values(["b a  a", "", "é"]),
                       protocol.pack_values({"a": 2, "b": 1, "é": 1})),
        sdk_cases.Case("wordcount::merge", protocol.pack_values(counts, counts), too_many),
        sdk_cases.Case("wordcount::top", protocol.pack_values(counts, 2),
                       protocol.pack_values([["été", 2**62], ["the", 4]])),
    ]  # fmt: skip
    assert driver("replay", "wordcount", cases) == "3 cases\n"
    assert driver("fuzz", "wordcount", cases, "5", "10000").startswith("10000 payloads")


def test_sanitized_zstd(driver, zstd):
    _, program = zstd
    cases = []
    for values in ([], [1], ["é" * 100, [1, {"a": None}]] * 10, ["x" * 5_000]):
        plain = protocol.pack_values(*values)
        frame = subprocess.run([str(program)], input=plain, stdout=subprocess.PIPE, check=True, timeout=60).stdout
        for as_bin in (False, True):
            context = sdk_cases.commit(b"\1" + frame, as_bin)
            cases.append(sdk_cases.Case("graph_outputs", sdk_cases.payload(), plain, context))
    flags = ("-DSPIDER_TDL_WITH_ZSTD", "-lzstd")
    assert driver("replay", "kitchen_sink", cases, flags=flags) == "8 cases\n"
    assert int(driver("starve", "kitchen_sink", cases, flags=flags).split()[0]) > 10
    assert int(driver("truncate", "kitchen_sink", cases, flags=flags).split()[0]) > 100
    assert driver("fuzz", "kitchen_sink", cases, "6", "40000", flags=flags).startswith("40000 payloads")
