"""The packages integration_test_tasks and complex, the project's or Spider's."""

import re

import pytest
from helpers import executor
from helpers.rows import rows

import protocol
from protocol import ExecutorError, TaskContext, TdlError

ours = pytest.mark.ours
TASKS = "integration_test_tasks"
COMPLEX = "complex"


@pytest.fixture
def has_own_packages(request):
    """Whether the words of errors are those of the project's SDK."""
    return not request.config.getoption("--package-dir")


def package_of(task):
    return COMPLEX if task.startswith("complex") else TASKS


def task_error(variant, text):
    return ExecutorError("TaskError", TdlError(variant, text))


def variant_of(error):
    """The variant of a TdlError, which must be in a TaskError."""
    assert isinstance(error, ExecutorError), f"expected a TaskError, found {error}"
    assert error.variant == "TaskError", f"expected a TaskError, found {error}"
    return error.content.variant


def commit(*values):
    outputs = b"\0" + protocol.pack_values(*values)
    return TaskContext(1, "Commit", 2, 3, outputs).encode()


CLEANUP = TaskContext(1, "Cleanup", 2, 3).encode()


def vector(text):
    """A struct of one field: a list of structs of two."""
    return [[[number.real, number.imag] for number in map(complex, text.split())]]


NONE = [[]]
# The task, its values, and its outputs.
PATHS = [f"/var/log/{number}" for number in range(100)]
RETURNS = rf"""
fibonacci of 0 | fibonacci          | `[0]`   | `[0]`
fibonacci      | fibonacci          | `[20]`  | `[6765]`
no string      | sleep_and_echo     | `[[]]`  | `[[]]`
odd strings    | sleep_and_echo     | `[["", "é日🕷", "\0"]]` | `[["", "é日🕷", "\0"]]`
long string    | sleep_and_echo     | `[["{"x" * 300}"]]` | `[["{"x" * 300}"]]`
many strings   | sleep_and_echo     | `{[PATHS]}` | `{[PATHS]}`
nothing        | assert_initialized | `[]`    | `[]`
doubles | complex::add | `[[[[1, -2]]], [[[0.0, 0.0]]]]` | `[[[[1.0, -2.0]]]]`
"""


@rows("task, values, outputs", RETURNS)
def test_a_task_returns(spawn, task, values, outputs):
    child = spawn()
    for _ in range(2):
        assert child.call(package_of(task), task, *values) == outputs


MANY = " ".join(f"{number}-{number}j" for number in range(1000))
TWICE = " ".join(f"{2 * number}-{2 * number}j" for number in range(1000))
# The task, two vectors of complex numbers, and what comes back.
CALCULATES = f"""
sum            | add | 1+2j 3-4j -0.5 | 1j 2.5+2j 1e3-1e-3j | 1+3j 5.5-2j 999.5-0.001j
difference     | sub | 1+2j 3-4j -0.5 | 1j 2.5+2j 1e3-1e-3j | 1+1j 0.5-6j -1000.5+0.001j
sum of nothing | add | | |
large sum      | add | {MANY} | {MANY} | {TWICE}
product        | dot_product | 1+2j 3+4j | 5+6j 7+8j | -18+68j
product of nothing | dot_product | | | 0j
of axes        | cross_product | 1 0 0 | 0 1 0 | 0 0 1
cross product  | cross_product | 1+2j 3+4j 5+6j | 6+5j 4+3j 2+1j | -28j 56j -28j
"""


@rows("task, a, b, numbers", CALCULATES)
def test_a_task_calculates(spawn, task, a, b, numbers):
    found = spawn().call(COMPLEX, f"complex::{task}", vector(a), vector(b))
    (outputs,) = vector(numbers)
    assert found == (outputs if task == "dot_product" else [[outputs]])


RAW_CONTEXT = "95 01 81 a5 496e646578 02 03 04 c0 c1"
FIFTY_FIVE = "01000000 01000000 37"
# The task, and the bytes of the inputs and of the outputs.
BYTES = f"""
one byte       | fibonacci | 01000000 01000000 0a         | {FIFTY_FIVE}
uint8 outputs  | fibonacci | 01000000 01000000 0d         | 01000000 02000000 cce9
uint16 outputs | fibonacci | 01000000 01000000 0e         | 01000000 03000000 cd0179
uint8          | fibonacci | 01000000 02000000 cc0a       | {FIFTY_FIVE}
int8           | fibonacci | 01000000 02000000 d00a       | {FIFTY_FIVE}
int32          | fibonacci | 01000000 05000000 d20000000a | {FIFTY_FIVE}
uint64         | fibonacci | 01000000 09000000 cf000000000000000a | {FIFTY_FIVE}
after the value   | fibonacci | 01000000 02000000 0ac1    | {FIFTY_FIVE}
after the payload | fibonacci | 01000000 01000000 0a ffff | {FIFTY_FIVE}
floats | complex::add | 02000000
  0d000000 91 91 92 ca3fc00000 cac0000000
  15000000 91 91 92 cb3fe0000000000000 cb3ff0000000000000
  | 01000000 15000000 91 91 92 cb4000000000000000 cbbff0000000000000
"""


@rows("task, raw_inputs, outputs", BYTES)
def test_the_bytes_of_inputs_and_outputs(spawn, task, raw_inputs, outputs):
    raw = (bytes.fromhex(raw_inputs), bytes.fromhex(RAW_CONTEXT))
    found = spawn().call_raw(package_of(task), task, *raw)
    assert found.hex() == outputs.replace(" ", "")


# The package, the task, and its error. None: there is no such task.
FAIL = rf"""
{TASKS} | {TASKS} | always_fail | ExecutionError | always_fail: intentional failure
{COMPLEX} | {COMPLEX} | complex::always_fail | Custom | this task always fails
start of a name    | {TASKS} | fibonacc   | None | None
more than a name   | {TASKS} | fibonacci2 | None | None
empty name         | {TASKS} |            | None | None
NUL in a name      | {TASKS} | `"a\0b"`   | None | None
long name          | {TASKS} | {"x" * 5000} | None | None
letters of Unicode | {COMPLEX} | complex::nötig 🕷 | None | None
of the other one   | {COMPLEX} | fibonacci | None | None
"""


@rows("package, task, variant, text", FAIL)
def test_both_packages_go_on_after_an_error(spawn, package, task, variant, text):
    child = spawn()
    for _ in range(2):
        found = child.call(package, task)
        assert found == task_error(variant or "TaskNotFound", text or task)
        assert child.call(TASKS, "fibonacci", 10) == [55]
        assert child.call(COMPLEX, "complex::sub", NONE, NONE) == [NONE]


# The lengths of two vectors, and what the text names.
LENGTHS = """
add           | add           | 12 | 7 | 12 7
sub           | sub           | 12 | 7 | 12 7
dot_product   | dot_product   | 12 | 7 | 12 7
cross_product | cross_product | 12 | 7 | 12 7
"""
OUR_LENGTHS = """
no vector of 3, but 0 | cross_product | 0 | 0 | 0 3
no vector of 3, but 2 | cross_product | 2 | 2 | 2 3
no vector of 3, but 4 | cross_product | 4 | 4 | 4 3
"""


@rows("name, a, b, named", LENGTHS, ours=OUR_LENGTHS)
def test_vectors_of_a_wrong_length_are_refused(spawn, name, a, b, named):
    vectors = (vector("0 " * a), vector("0 " * b))
    error = spawn().call(COMPLEX, f"complex::{name}", *vectors)
    assert variant_of(error) == "ExecutionError"
    assert set(named.split()) <= set(re.findall(r"\d+", error.content.text))


@ours
def test_the_echo_sleeps_as_long_as_it_is_told(spawn):
    child = spawn(env={"SPIDER_INSTRUMENT_SLEEP_US": "30000"})
    child.send(executor.request(TASKS, "sleep_and_echo", ["x"]))
    assert child.receive().elapsed_us >= 30_000


def test_a_failing_init_fails_its_package_alone(spawn, has_own_packages):
    child = spawn(env={"SPIDER_TEST_TDL_INIT_SHOULD_FAIL": "1"})
    for task in ("assert_initialized", "fibonacci", "no such task"):
        error = child.call(TASKS, task)
        assert error.variant == "PackageInitError"
        assert error.content.variant == "ExecutionError"
        text = error.content.text
        assert "init failure requested" in text or not has_own_packages
    assert child.call(COMPLEX, "complex::always_fail") == task_error(
        "Custom", "this task always fails"
    )


# The task, its values, and a pattern for the text.
WRONG = r"""
too few        | fibonacci      | `[]`           | inputs\[0\].*found
too many       | fibonacci      | `[1, 2]`       | .*2
string         | fibonacci      | `["10"]`       | inputs\[0\].*found
negative       | fibonacci      | `[-1]`         | inputs\[0\].*found.*-1
float          | fibonacci      | `[1.5]`        | inputs\[0\].*found
superfluous    | always_fail    | `[1]`          |
element        | sleep_and_echo | `[["x", 1]]`   | inputs\[0\].*\[1\].*found
map for a list | sleep_and_echo | `[{"x": "y"}]` |
one of two     | complex::add   | `[[[]]]`       | inputs\[1\].*found
three of two   | complex::add   | `[[[]], [[]], [[]]]` |
no struct      | complex::add   | `[[[]], 1]`    | inputs\[1\].*found
field          | complex::add   | `[[[]], [[[1.0, 2.0], [1.0, None]]]]`
  | inputs\[1\].*\[1\].*im.*found
three fields   | complex::add   | `[[[[1.0, 2.0, 3.0]]], [[[1.0, 0.0]]]]` |
two for one    | complex::dot_product | `[[[], []], [[]]]` |
superfluous, complex | complex::always_fail | `[1]` | .*1
"""


@rows("task, values, pattern", WRONG)
def test_wrong_inputs_are_a_deserialization_error(
    spawn, has_own_packages, task, values, pattern
):
    error = spawn().call(package_of(task), task, *values)
    assert variant_of(error) == "DeserializationError"
    text = error.content.text
    assert text
    assert re.search(pattern, text) or not has_own_packages, text


GOOD_CONTEXT = "95 00 81a5496e64657800 00 00 c0"
GOOD_PAYLOAD = "01000000 01000000 0a"
# The context and the inputs of fibonacci.
MALFORMED = f"""
no value              | {GOOD_CONTEXT} | 00000000
half a count          | {GOOD_CONTEXT} | 010000
no length             | {GOOD_CONTEXT} | 01000000
no bytes of the value | {GOOD_CONTEXT} | 01000000 01000000
half a value          | {GOOD_CONTEXT} | 01000000 02000000 0a
endless count         | {GOOD_CONTEXT} | ffffffff
endless value         | {GOOD_CONTEXT} | 01000000 ffffffff 0a
empty value           | {GOOD_CONTEXT} | 01000000 00000000
reserved              | {GOOD_CONTEXT} | 01000000 01000000 c1
no context            |                | {GOOD_PAYLOAD}
nil context           | c0             | {GOOD_PAYLOAD}
reserved context      | c1             | {GOOD_PAYLOAD}
empty context         | `"90"`         | {GOOD_PAYLOAD}
context of 4          | 94 00 81a5496e64657800 00 00 | {GOOD_PAYLOAD}
integer as task id    | 95 00 07 00 00 c0 | {GOOD_PAYLOAD}
context cut short     | `"95"`         | {GOOD_PAYLOAD}
"""


@rows("raw_ctx, raw_inputs", MALFORMED)
def test_a_malformed_request_is_an_error(spawn, raw_ctx, raw_inputs):
    raw = (bytes.fromhex(raw_inputs), bytes.fromhex(raw_ctx))
    error = spawn().call_raw(TASKS, "fibonacci", *raw)
    assert variant_of(error) in ("DeserializationError", "InvalidTaskContext")


SUM = "assert_outputs_sum_zero"
ZERO_SUMS = {"zero": [0], "greatest": [2**63 - 1, -(2**63), 1], "many": [0] * 200}


@rows("values", ZERO_SUMS)
def test_a_commit_task_sees_the_outputs_of_the_graph(spawn, values):
    child = spawn()
    assert child.call(TASKS, SUM, context=commit(*values)) == []
    buffer = b"\0" + protocol.pack_values(*values)
    for form in (buffer, list(buffer)):
        context = protocol.pack([1, "Commit", 2, 3, form])
        assert child.call_raw(TASKS, SUM, bytes(4), context) == bytes(4)


def test_a_commit_task_takes_no_inputs(spawn):
    child = spawn()
    error = child.call(TASKS, SUM, 1, context=commit(0))
    assert variant_of(error) == "DeserializationError"
    # Any task can be a commit task.
    assert child.call(TASKS, "fibonacci", 10, context=commit(1)) == [55]


# The task's id, its outputs as values or as bytes, the variant of the error, and a
# pattern for the text. With None as the variant, any error is right.
OTHER_OUTPUTS = r"""
1          | Commit | `[1]`       | ExecutionError       | do not sum to zero: got 1$
least      | Commit | `[-0x8000000000000000]` | ExecutionError
  | got -9223372036854775808$
nothing    | Commit | `[]`        | ExecutionError       | outputs empty
string     | Commit | `["5"]`     | DeserializationError |
nil        | Commit | `[0, None]` | DeserializationError |
float      | Commit | `[1.0]`     | DeserializationError |
too great  | Commit | `[0x8000000000000000]` | DeserializationError |
no byte    | Commit | `b""`       | None |
first is 2 | Commit | `b"\x02\0\0\0\0"` | None |
first is 255 | Commit | `b"\xff"` | None |
no count   | Commit | `b"\0"`     | None |
half a count | Commit | `b"\0\1\0\0\0"` | None |
"""
OUR_OTHER_OUTPUTS = """
usual task   | 7       | None | ExecutionError | not a commit task
cleanup task | Cleanup | None | ExecutionError | not a commit task
"""


@rows("task_id, outputs, variant, pattern", OTHER_OUTPUTS, ours=OUR_OTHER_OUTPUTS)
def test_a_commit_task_refuses_other_outputs(
    spawn, has_own_packages, task_id, outputs, variant, pattern
):
    if isinstance(outputs, list):
        outputs = b"\0" + protocol.pack_values(*outputs)
    context = TaskContext(1, task_id, 2, 3, outputs).encode()
    child = spawn()
    error = child.call(TASKS, SUM, context=context)
    # Spider's package has another variant for a wrong sum.
    is_ours = has_own_packages or not pattern
    assert variant_of(error) == variant or variant is None or not is_ours
    assert re.search(pattern, error.content.text)
    assert child.call(TASKS, SUM, context=commit(0)) == []


@rows("raw_inputs", {"empty payload": bytes(4)}, ours={"zero bytes": b""})
def test_a_cleanup_task_runs(spawn, raw_inputs):
    child = spawn()
    outputs = child.call_raw(TASKS, "assert_initialized", raw_inputs, CLEANUP)
    assert outputs == bytes(4)
