"""What the two test packages do, through a real executor: tasks of every outcome, commit and cleanup, init, structs."""

from __future__ import annotations

import re

import pytest
from helpers import executor

import protocol
from protocol import (
    Custom,
    DeserializationError,
    Execute,
    ExecutionError,
    Failure,
    InvalidTaskContext,
    PackageInitError,
    Success,
    TaskContext,
    TaskError,
    TaskNotFound,
)
from spider_executor import ExecutorHandle, TaskCrash, TaskFailure, TaskSuccess

TASKS = "integration_test_tasks"


@pytest.fixture(scope="module")
def handle(executor_command, package_dir):
    """One executor for all tests here but those that end it or need an environment."""
    with ExecutorHandle(package_dir, executor_command) as handle:
        yield handle


def run(handle, package, task, *values, **options):
    return handle.execute(package, task, *values, timeout=executor.DEADLINE, **options)


def returned(outcome):
    assert isinstance(outcome, TaskSuccess), outcome
    assert outcome.elapsed_us >= 0
    return outcome.outputs


def failed(outcome):
    """The TdlError that a task returned."""
    assert isinstance(outcome, TaskFailure), outcome
    assert isinstance(outcome.error, TaskError), outcome
    return outcome.error.error


def answer(handle, package, task, raw_ctx, raw_inputs):
    """The outcome of a request whose parts are given as bytes."""
    return handle.request(Execute(package, task, raw_ctx, raw_inputs), executor.DEADLINE).outcome


def commit(*values, first=b"\x00"):
    return TaskContext(1, "Commit", 2, 3, first + protocol.pack_values(*values))


# ------------------------------------------------------------------------------------------------ returns, fails, dies


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 1), (2, 1), (10, 55), (20, 6765)])
def test_a_task_returns(handle, n, expected):
    assert returned(run(handle, TASKS, "fibonacci", n)) == [expected]


def test_the_bytes_of_what_it_returns(handle):
    raw_ctx = bytes.fromhex("95 01 81 a5 496e646578 02 03 04 c0")
    for raw_inputs, outputs in (
        ("01000000 01000000 0a", "01000000 01000000 37"),
        ("01000000 01000000 0d", "01000000 02000000 cce9"),
        ("01000000 01000000 0e", "01000000 03000000 cd0179"),
    ):
        response = answer(handle, TASKS, "fibonacci", raw_ctx, bytes.fromhex(raw_inputs))
        assert response == Success(bytes.fromhex(outputs))


def test_a_task_fails(handle):
    assert failed(run(handle, TASKS, "always_fail")) == ExecutionError("always_fail: intentional failure")
    response = answer(handle, TASKS, "always_fail", TaskContext().encode(), bytes(4))
    assert response == Failure(b"\x81\xa9TaskError\x81\xaeExecutionError\xd9\x20always_fail: intentional failure")
    # The executor goes on.
    assert returned(run(handle, TASKS, "fibonacci", 10)) == [55]


def test_a_task_crashes(executor_command, package_dir):
    with ExecutorHandle(package_dir, executor_command) as handle:
        assert returned(run(handle, TASKS, "fibonacci", 10)) == [55]
        assert run(handle, TASKS, "always_panic") == TaskCrash(None, "SIGABRT")


@pytest.mark.parametrize("package", [TASKS, "complex"])
@pytest.mark.parametrize(
    "task", ["fibonacc", "fibonacci2", "Fibonacci", "", "complex::", "nötig 🕷", "x" * 5000, "a\0b"]
)
def test_an_unknown_task(handle, package, task):
    assert failed(run(handle, package, task)) == TaskNotFound(task)


@pytest.mark.parametrize(
    "strings", [[], [""], ["a"], ["é", "日本🕷", "\0", "x" * 300], [f"/var/log/{n}" for n in range(100)]]
)
def test_echo(handle, strings):
    assert returned(run(handle, TASKS, "sleep_and_echo", strings)) == [strings]


def test_the_echo_sleeps(spawn):
    child = spawn(env={"SPIDER_INSTRUMENT_SLEEP_US": "30000"})
    child.send(executor.request(TASKS, "sleep_and_echo", ["x"]))
    response = child.receive()
    assert executor.outcome(response) == [["x"]]
    assert response.elapsed_us >= 30000


# -------------------------------------------------------------------------------------------------------------- inputs


@pytest.mark.parametrize(
    "text", ["0a", "cc0a", "cd000a", "ce0000000a", "cf000000000000000a", "d00a", "d1000a", "d20000000a", "0ac1"]
)
def test_a_number_in_any_width(handle, text):
    """An integer is taken in every form that holds it; bytes behind it are ignored."""
    raw_inputs = protocol.encode_payload([bytes.fromhex(text)])
    assert answer(handle, TASKS, "fibonacci", TaskContext().encode(), raw_inputs) == Success(protocol.pack_values(55))


WRONG_INPUTS = [
    ("fibonacci", ()),
    ("fibonacci", (1, 2)),
    ("fibonacci", (-1,)),
    ("fibonacci", (1.0,)),
    ("fibonacci", ("10",)),
    ("fibonacci", (None,)),
    ("fibonacci", (True,)),
    ("fibonacci", ([10],)),
    ("fibonacci", ({},)),
    ("always_fail", (1,)),
    ("always_panic", (1,)),
    ("assert_initialized", (None,)),
    ("sleep_and_echo", ()),
    ("sleep_and_echo", ("x",)),
    ("sleep_and_echo", (["x", 1],)),
    ("sleep_and_echo", ({"x": "y"},)),
    ("sleep_and_echo", (["x"], ["y"])),
    ("complex::add", ()),
    ("complex::add", ([[]],)),
    ("complex::add", ([[]], [[]], [[]])),
    ("complex::add", ([[]], 1)),
    ("complex::add", ([[[1.0, 2.0, 3.0]]], [[[1.0, 2.0]]])),
    ("complex::add", ([[[1.0]]], [[[1.0]]])),
    ("complex::add", ([[["1", 2.0]]], [[[1.0, 2.0]]])),
    ("complex::dot_product", ([[], []], [[]])),
    ("complex::cross_product", ([], [])),
    ("complex::always_fail", (1,)),
]


def package_of(task):
    return "complex" if task.startswith("complex") else TASKS


@pytest.mark.parametrize(("task", "values"), WRONG_INPUTS)
def test_wrong_inputs(handle, task, values):
    error = failed(run(handle, package_of(task), task, *values))
    assert isinstance(error, DeserializationError)
    assert error.text


@pytest.mark.ours
@pytest.mark.parametrize(
    ("task", "values", "text"),
    [
        ("fibonacci", (), r"inputs\[0\].*found"),
        ("fibonacci", (1, 2), r"2"),
        ("fibonacci", ("10",), r"inputs\[0\].*found"),
        ("fibonacci", (-1,), r"inputs\[0\].*found.*-1"),
        ("fibonacci", (1.5,), r"inputs\[0\].*found"),
        ("sleep_and_echo", (["x", 1],), r"inputs\[0\].*\[1\].*found"),
        ("complex::add", ([[]],), r"inputs\[1\].*found"),
        ("complex::add", ([[]], 1), r"inputs\[1\].*found"),
        ("complex::add", ([[]], [[[1.0, 2.0], [1.0, None]]]), r"inputs\[1\].*\[1\].*im.*found"),
        ("complex::always_fail", (1,), r"1"),
    ],
)
def test_wrong_inputs_say_where_and_what(handle, task, values, text):
    assert re.search(text, failed(run(handle, package_of(task), task, *values)).text)


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "010000",
        "01000000",
        "01000000 01000000",
        "01000000 02000000 0a",
        "ffffffff",
        "01000000 ffffffff 0a",
        "01000000 00000000",
        "01000000 01000000 c1",
    ],
)
def test_a_payload_that_is_none(handle, payload):
    response = answer(handle, TASKS, "fibonacci", TaskContext().encode(), bytes.fromhex(payload))
    assert isinstance(response, Failure)
    error, _ = protocol.decode_executor_error(response.error)
    assert isinstance(error, TaskError)
    assert isinstance(error.error, DeserializationError)


def test_bytes_behind_the_payload_and_the_context_are_ignored(handle):
    raw_ctx = TaskContext().encode() + b"\xc1\xc1"
    raw_inputs = protocol.pack_values(10) + b"\xff\xff"
    assert answer(handle, TASKS, "fibonacci", raw_ctx, raw_inputs) == Success(protocol.pack_values(55))


@pytest.mark.parametrize("context", ["", "c0", "c1", "90", "94 00 81a5496e64657800 00 00", "95 00 07 00 00 c0", "95"])
def test_a_context_that_is_none(handle, context):
    response = answer(handle, TASKS, "fibonacci", bytes.fromhex(context), protocol.pack_values(10))
    assert isinstance(response, Failure)
    error, _ = protocol.decode_executor_error(response.error)
    assert isinstance(error, TaskError)
    assert isinstance(error.error, (InvalidTaskContext, DeserializationError))


# --------------------------------------------------------------------------------------------------- commit and cleanup


@pytest.mark.parametrize(
    "values", [(0,), (5, -5), (200, -150, -50), (2**40, -(2**40)), (2**63 - 1, -(2**63), 1), [0] * 200]
)
def test_commit(handle, values):
    assert returned(run(handle, TASKS, "assert_outputs_sum_zero", context=commit(*values))) == []
    response = answer(handle, TASKS, "assert_outputs_sum_zero", commit(*values).encode(), bytes(4))
    assert response == Success(bytes(4))


@pytest.mark.parametrize(
    ("values", "total"), [((1,), 1), ((5, -6), -1), ((70000, 70000), 140000), ((-(2**63),), -(2**63))]
)
def test_commit_refuses_another_sum(handle, values, total):
    error = failed(run(handle, TASKS, "assert_outputs_sum_zero", context=commit(*values)))
    assert error.text.endswith(f"do not sum to zero: got {total}")


def test_commit_refuses_no_outputs(handle):
    error = failed(run(handle, TASKS, "assert_outputs_sum_zero", context=commit()))
    assert "outputs empty" in error.text


@pytest.mark.parametrize("context", [TaskContext(1, 7, 2, 3), TaskContext(1, "Cleanup", 2, 3)])
def test_a_commit_task_is_run_as_another(handle, context):
    error = failed(run(handle, TASKS, "assert_outputs_sum_zero", context=context))
    assert "not a commit task" in error.text


@pytest.mark.ours
@pytest.mark.parametrize("context", [TaskContext(), commit(), commit(1)])
def test_what_commit_refuses_is_an_execution_error(handle, context):
    assert isinstance(failed(run(handle, TASKS, "assert_outputs_sum_zero", context=context)), ExecutionError)


@pytest.mark.parametrize("values", [("5",), (0, None), (1.0,), ([0],), (2**63,)])
def test_commit_takes_only_i64(handle, values):
    assert isinstance(
        failed(run(handle, TASKS, "assert_outputs_sum_zero", context=commit(*values))), DeserializationError
    )


@pytest.mark.parametrize("outputs", [b"", b"\x02\x00\x00\x00\x00", b"\x00", b"\x00\x01\x00\x00\x00", b"\xff"])
def test_commit_with_graph_outputs_that_are_none(handle, outputs):
    context = TaskContext(1, "Commit", 2, 3, outputs)
    assert isinstance(run(handle, TASKS, "assert_outputs_sum_zero", context=context), TaskFailure)
    assert returned(run(handle, TASKS, "assert_outputs_sum_zero", context=commit(0))) == []


def test_graph_outputs_as_bin(handle):
    buffer = b"\x00" + protocol.pack_values(300, -300)
    raw_ctx = protocol.pack([1, "Commit", 2, 3, buffer])
    assert answer(handle, TASKS, "assert_outputs_sum_zero", raw_ctx, bytes(4)) == Success(bytes(4))
    raw_ctx = protocol.pack([1, "Commit", 2, 3, list(buffer)])
    assert answer(handle, TASKS, "assert_outputs_sum_zero", raw_ctx, bytes(4)) == Success(bytes(4))


def test_commit_takes_no_inputs(handle):
    assert isinstance(failed(run(handle, TASKS, "assert_outputs_sum_zero", 1, context=commit(0))), DeserializationError)


def test_a_cleanup_task_has_zero_bytes_of_inputs(handle):
    raw_ctx = TaskContext(1, "Cleanup", 2, 3).encode()
    for raw_inputs in (b"", bytes(4)):
        assert answer(handle, TASKS, "assert_initialized", raw_ctx, raw_inputs) == Success(bytes(4))


def test_any_task_can_be_a_commit_task(handle):
    assert returned(run(handle, TASKS, "fibonacci", 10, context=commit(1, 2))) == [55]


# ---------------------------------------------------------------------------------------------------------------- init


def test_the_package_was_initialized(handle):
    assert returned(run(handle, TASKS, "assert_initialized")) == []
    assert returned(run(handle, TASKS, "assert_initialized")) == []


def test_init_fails(spawn):
    child = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": "1"})
    for task in ("assert_initialized", "fibonacci", "no such task"):
        error = child.call(TASKS, task)
        assert isinstance(error, PackageInitError)
        assert isinstance(error.error, ExecutionError)
    # Other packages are not concerned.
    assert child.call("complex", "complex::always_fail") == TaskError(Custom("this task always fails"))
    assert child.finish() == (b"", 0)


# ------------------------------------------------------------------------------------------------------------- complex


def vector(*numbers):
    """A struct of one field: a list of structs of two."""
    return [[[number.real, number.imag] for number in numbers]]


A = (1 + 2j, 3 - 4j, -0.5 + 0j)
B = (0 + 1j, 2.5 + 2j, 1e3 - 1e-3j)


@pytest.mark.parametrize(
    ("task", "a", "b", "expected"),
    [
        ("add", A, B, vector(*(x + y for x, y in zip(A, B)))),
        ("sub", A, B, vector(*(x - y for x, y in zip(A, B)))),
        ("add", (), (), [[]]),
        ("sub", (1j,), (1j,), [[[0.0, 0.0]]]),
        ("dot_product", (1 + 2j, 3 + 4j), (5 + 6j, 7 + 8j), [-18.0, 68.0]),
        ("dot_product", (1j,), (1j,), [-1.0, 0.0]),
        ("dot_product", (), (), [0.0, 0.0]),
        ("cross_product", (1 + 0j, 0j, 0j), (0j, 1 + 0j, 0j), vector(0j, 0j, 1 + 0j)),
        ("cross_product", (1 + 2j, 3 + 4j, 5 + 6j), (6 + 5j, 4 + 3j, 2 + 1j), vector(-28j, 56j, -28j)),
        ("cross_product", (1 + 0j, 2 + 0j, 3 + 0j), (4 + 0j, 5 + 0j, 7 + 1j), vector(-1 + 2j, 5 - 1j, -3 + 0j)),
    ],
)
def test_complex(handle, task, a, b, expected):
    assert returned(run(handle, "complex", f"complex::{task}", vector(*a), vector(*b))) == [expected]


def test_complex_bytes(handle):
    raw_inputs = protocol.pack_values(vector(1.5 - 2j), vector(0.5 + 1j))
    response = answer(handle, "complex", "complex::add", TaskContext().encode(), raw_inputs)
    value = bytes.fromhex("91 91 92 cb4000000000000000 cbbff0000000000000")
    assert response == Success(protocol.encode_payload([value]))


def test_complex_many(handle):
    numbers = [complex(n, -n) for n in range(1000)]
    outputs = returned(run(handle, "complex", "complex::add", vector(*numbers), vector(*numbers)))
    assert outputs == [vector(*(2 * number for number in numbers))]


def test_integers_and_f32_are_taken_as_doubles(handle):
    a = [[[1, -2], [protocol.Float32(0.5), 2**40]]]
    assert returned(run(handle, "complex", "complex::add", a, vector(0j, 0j))) == [[[[1.0, -2.0], [0.5, 2.0**40]]]]


@pytest.mark.parametrize("task", ["add", "sub", "dot_product"])
def test_complex_of_different_lengths(handle, task):
    error = failed(run(handle, "complex", f"complex::{task}", vector(*[0j] * 12), vector(*[0j] * 7)))
    assert isinstance(error, ExecutionError)
    assert {"12", "7"} <= set(re.findall(r"\d+", error.text))


@pytest.mark.parametrize(("a", "b"), [(3, 4), *(pytest.param(n, n, marks=pytest.mark.ours) for n in (0, 2, 4))])
def test_a_cross_product_needs_three_elements(handle, a, b):
    error = failed(run(handle, "complex", "complex::cross_product", vector(*[0j] * a), vector(*[0j] * b)))
    assert isinstance(error, ExecutionError)
    assert {str(a), str(b)} <= set(re.findall(r"\d+", error.text))


def test_complex_always_fail(handle):
    assert failed(run(handle, "complex", "complex::always_fail")) == Custom("this task always fails")


def test_two_packages_in_one_process(handle):
    for _ in range(3):
        assert returned(run(handle, TASKS, "fibonacci", 10)) == [55]
        assert failed(run(handle, "complex", "complex::always_fail")) == Custom("this task always fails")
        # Neither has the other's tasks.
        assert failed(run(handle, "complex", "fibonacci", 10)) == TaskNotFound("fibonacci")
        assert failed(run(handle, TASKS, "complex::add")) == TaskNotFound("complex::add")
