"""The packages integration_test_tasks and complex, the project's or Spider's, through a real executor."""

import re

import pytest
from helpers import executor

import protocol
from protocol import ExecutorError, TaskContext, TdlError

ours = pytest.mark.ours
TASKS, COMPLEX = "integration_test_tasks", "complex"


def task_error(kind, text):
    return ExecutorError("TaskError", TdlError(kind, text))


def commit(*values):
    return TaskContext(
        1, "Commit", 2, 3, b"\0" + protocol.pack_values(*values)
    ).encode()


def vector(*numbers):
    """A struct of one field: a list of structs of two."""
    return [[[number.real, number.imag] for number in numbers]]


def package_of(task):
    return COMPLEX if task.startswith("complex") else TASKS


A, B = (1 + 2j, 3 - 4j, -0.5 + 0j), (0 + 1j, 2.5 + 2j, 1e3 - 1e-3j)
MANY = [complex(n, -n) for n in range(1000)]
STRINGS = [
    [],
    [""],
    ["\u00e9", "\u65e5\u672c\U0001f577", "\0", "x" * 300],
    [f"/var/log/{n}" for n in range(100)],
]


@pytest.mark.parametrize(
    ("task", "values", "outputs"),
    [
        *(
            ("fibonacci", [n], [number])
            for n, number in ((0, 0), (1, 1), (2, 1), (10, 55), (20, 6765))
        ),
        *(("sleep_and_echo", [strings], [strings]) for strings in STRINGS),
        ("assert_initialized", [], []),
        (
            "complex::add",
            [vector(*A), vector(*B)],
            [vector(*(a + b for a, b in zip(A, B)))],
        ),
        (
            "complex::sub",
            [vector(*A), vector(*B)],
            [vector(*(a - b for a, b in zip(A, B)))],
        ),
        ("complex::add", [[[]], [[]]], [[[]]]),
        (
            "complex::add",
            [vector(*MANY), vector(*MANY)],
            [vector(*(2 * number for number in MANY))],
        ),
        # Integers are taken as doubles.
        (
            "complex::add",
            [[[[1, -2], [2**40, 0]]], vector(0j, 0j)],
            [[[[1.0, -2.0], [2.0**40, 0.0]]]],
        ),
        (
            "complex::dot_product",
            [vector(1 + 2j, 3 + 4j), vector(5 + 6j, 7 + 8j)],
            [[-18.0, 68.0]],
        ),
        ("complex::dot_product", [[[]], [[]]], [[0.0, 0.0]]),
        (
            "complex::cross_product",
            [vector(1, 0, 0), vector(0, 1, 0)],
            [vector(0j, 0j, 1 + 0j)],
        ),
        (
            "complex::cross_product",
            [vector(1 + 2j, 3 + 4j, 5 + 6j), vector(6 + 5j, 4 + 3j, 2 + 1j)],
            [vector(-28j, 56j, -28j)],
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_task_returns(spawn, task, values, outputs):
    child = spawn()
    for _ in range(2):
        assert child.call(package_of(task), task, *values) == outputs


@pytest.mark.parametrize(
    ("task", "raw_inputs", "outputs"),
    [
        ("fibonacci", "01000000 01000000 0a", "01000000 01000000 37"),
        ("fibonacci", "01000000 01000000 0d", "01000000 02000000 cce9"),
        ("fibonacci", "01000000 01000000 0e", "01000000 03000000 cd0179"),
        # An integer may have any width that holds it, and bytes after the value and after the payload are ignored.
        *(
            ("fibonacci", "01000000 02000000" + ten, "01000000 01000000 37")
            for ten in ("cc0a", "d00a", "0ac1")
        ),
        ("fibonacci", "01000000 09000000 cf000000000000000a", "01000000 01000000 37"),
        ("fibonacci", "01000000 05000000 d20000000a", "01000000 01000000 37"),
        ("fibonacci", "01000000 01000000 0a ffff", "01000000 01000000 37"),
        (
            "complex::add",
            "02000000 0d000000 91 91 92 ca3fc00000 cac0000000 15000000 91 91 92 cb3fe0000000000000 cb3ff0000000000000",
            "01000000 15000000 91 91 92 cb4000000000000000 cbbff0000000000000",
        ),
    ],
)
def test_the_bytes_of_inputs_and_outputs(spawn, task, raw_inputs, outputs):
    raw_ctx = bytes.fromhex("95 01 81 a5 496e646578 02 03 04 c0 c1")
    found = spawn().call_raw(package_of(task), task, bytes.fromhex(raw_inputs), raw_ctx)
    assert found == bytes.fromhex(outputs)


@pytest.mark.parametrize(
    ("package", "task", "error"),
    [
        (
            TASKS,
            "always_fail",
            task_error("ExecutionError", "always_fail: intentional failure"),
        ),
        (
            COMPLEX,
            "complex::always_fail",
            task_error("Custom", "this task always fails"),
        ),
        *(
            (TASKS, task, None)
            for task in (
                "fibonacc",
                "fibonacci2",
                "",
                "a\0b",
                "x" * 5000,
                "complex::sub",
            )
        ),
        *(
            (COMPLEX, task, None)
            for task in ("complex::n\u00f6tig \U0001f577", "fibonacci")
        ),
    ],
    ids=lambda value: ascii(value)[:30],
)
def test_a_task_fails_or_is_missing_and_both_packages_go_on(
    spawn, package, task, error
):
    child = spawn()
    for _ in range(2):
        assert child.call(package, task) == (error or task_error("TaskNotFound", task))
        assert child.call(TASKS, "fibonacci", 10) == [55]
        assert child.call(COMPLEX, "complex::sub", [[]], [[]]) == [[[]]]


LENGTHS = [(name, 12, 7) for name in ("add", "sub", "dot_product", "cross_product")]
LENGTHS += [pytest.param("cross_product", size, size, marks=ours) for size in (0, 2, 4)]


@pytest.mark.parametrize(("name", "a", "b"), LENGTHS)
def test_vectors_of_a_wrong_length_are_refused(spawn, name, a, b):
    error = spawn().call(
        COMPLEX, f"complex::{name}", vector(*[0j] * a), vector(*[0j] * b)
    )
    assert (error.variant, error.content.variant) == ("TaskError", "ExecutionError")
    assert {str(a), str(b)} <= set(re.findall(r"\d+", error.content.text))


@ours
def test_the_echo_sleeps_as_long_as_it_is_told(spawn):
    child = spawn(env={"SPIDER_INSTRUMENT_SLEEP_US": "30000"})
    child.send(executor.request(TASKS, "sleep_and_echo", ["x"]))
    assert child.receive().elapsed_us >= 30_000


def test_a_failing_init_fails_each_request_for_its_package_alone(spawn):
    child = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": "1"})
    for task in ("assert_initialized", "fibonacci", "no such task"):
        error = child.call(TASKS, task)
        assert (error.variant, error.content.variant) == (
            "PackageInitError",
            "ExecutionError",
        )
    assert child.call(COMPLEX, "complex::always_fail") == task_error(
        "Custom", "this task always fails"
    )


@pytest.mark.parametrize(
    ("task", "values", "text"),
    [
        ("fibonacci", [], r"inputs\[0\].*found"),
        ("fibonacci", [1, 2], "2"),
        ("fibonacci", ["10"], r"inputs\[0\].*found"),
        ("fibonacci", [-1], r"inputs\[0\].*found.*-1"),
        *(
            ("fibonacci", [value], r"inputs\[0\].*found")
            for value in (1.5, None, True, [10], {})
        ),
        ("always_fail", [1], ""),
        ("sleep_and_echo", [["x", 1]], r"inputs\[0\].*\[1\].*found"),
        ("sleep_and_echo", [{"x": "y"}], ""),
        ("complex::add", [[[]]], r"inputs\[1\].*found"),
        ("complex::add", [[[]], [[]], [[]]], ""),
        ("complex::add", [[[]], 1], r"inputs\[1\].*found"),
        (
            "complex::add",
            [[[]], [[[1.0, 2.0], [1.0, None]]]],
            r"inputs\[1\].*\[1\].*im.*found",
        ),
        ("complex::add", [[[[1.0, 2.0, 3.0]]], [[[1.0, 2.0]]]], ""),
        ("complex::dot_product", [[[], []], [[]]], ""),
        ("complex::always_fail", [1], "1"),
    ],
    ids=str,
)
def test_wrong_inputs_are_a_deserialization_error(spawn, request, task, values, text):
    error = spawn().call(package_of(task), task, *values)
    assert (error.variant, error.content.variant) == (
        "TaskError",
        "DeserializationError",
    )
    assert error.content.text
    # The words are those of the project's SDK.
    assert request.config.getoption("--package-dir") or re.search(
        text, error.content.text
    )


GOOD_CONTEXT, GOOD_PAYLOAD = "95 00 81a5496e64657800 00 00 c0", "01000000 01000000 0a"
PAYLOADS = [
    "00000000",
    "010000",
    "01000000",
    "01000000 01000000",
    "01000000 02000000 0a",
    "ffffffff",
]
PAYLOADS += ["01000000 ffffffff 0a", "01000000 00000000", "01000000 01000000 c1"]
CONTEXTS = [
    "",
    "c0",
    "c1",
    "90",
    "94 00 81a5496e64657800 00 00",
    "95 00 07 00 00 c0",
    "95",
]
MALFORMED = [(GOOD_CONTEXT, payload) for payload in PAYLOADS] + [
    (context, GOOD_PAYLOAD) for context in CONTEXTS
]


@pytest.mark.parametrize(("raw_ctx", "raw_inputs"), MALFORMED)
def test_a_malformed_payload_or_context_is_an_error(spawn, raw_ctx, raw_inputs):
    error = spawn().call_raw(
        TASKS, "fibonacci", bytes.fromhex(raw_inputs), bytes.fromhex(raw_ctx)
    )
    assert error.variant == "TaskError"
    assert error.content.variant in ("DeserializationError", "InvalidTaskContext")


SUM = "assert_outputs_sum_zero"


@pytest.mark.parametrize(
    "values",
    [[0], [5, -5], [200, -150, -50], [2**63 - 1, -(2**63), 1], [0] * 200],
    ids=len,
)
def test_a_commit_task_sees_the_outputs_of_the_graph_and_takes_no_inputs(spawn, values):
    child = spawn()
    assert child.call(TASKS, SUM, context=commit(*values)) == []
    buffer = b"\0" + protocol.pack_values(*values)
    for form in (buffer, list(buffer)):
        assert child.call_raw(
            TASKS, SUM, bytes(4), protocol.pack([1, "Commit", 2, 3, form])
        ) == bytes(4)
    assert (
        child.call(TASKS, SUM, 1, context=commit(*values)).content.variant
        == "DeserializationError"
    )
    # Any task can be a commit task.
    assert child.call(TASKS, "fibonacci", 10, context=commit(*values)) == [55]


@pytest.mark.parametrize(
    ("context", "kind", "text"),
    [
        (commit(1), "ExecutionError", "do not sum to zero: got 1$"),
        (commit(70000, 70000), "ExecutionError", "do not sum to zero: got 140000$"),
        (commit(-(2**63)), "ExecutionError", f"do not sum to zero: got {-(2**63)}$"),
        (commit(), "ExecutionError", "outputs empty"),
        pytest.param(
            TaskContext(1, 7, 2, 3).encode(),
            "ExecutionError",
            "not a commit task",
            marks=ours,
        ),
        pytest.param(
            TaskContext(1, "Cleanup", 2, 3).encode(),
            "ExecutionError",
            "not a commit task",
            marks=ours,
        ),
        *(
            (commit(*values), "DeserializationError", "")
            for values in (["5"], [0, None], [1.0], [[0]], [2**63])
        ),
        *(
            (TaskContext(1, "Commit", 2, 3, outputs).encode(), None, "")
            for outputs in (b"", b"\x02\0\0\0\0", b"\0", b"\0\1\0\0\0", b"\xff")
        ),
    ],
)
def test_a_commit_task_refuses_other_outputs(spawn, request, context, kind, text):
    child = spawn()
    error = child.call(TASKS, SUM, context=context)
    assert error.variant == "TaskError"
    # Which kind a wrong sum is, is this project's choice.
    assert (
        kind is None
        or error.content.variant == kind
        or (text and request.config.getoption("--package-dir"))
    )
    assert re.search(text, error.content.text)
    assert child.call(TASKS, SUM, context=commit(0)) == []


@pytest.mark.parametrize("raw_inputs", [bytes(4), pytest.param(b"", marks=ours)])
def test_a_cleanup_task_runs(spawn, raw_inputs):
    context = TaskContext(1, "Cleanup", 2, 3).encode()
    assert spawn().call_raw(TASKS, "assert_initialized", raw_inputs, context) == bytes(
        4
    )
