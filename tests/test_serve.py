"""The loop: calls and their cache, elapsed_us, results of every shape, and memory."""

import os
import signal
import time

import pytest
from helpers import build, executor, odd, preload, process
from helpers.rows import rows

import protocol
from protocol import RESPONSE_DATA_MAX, ExecutorError, Failure, TdlError

ours = pytest.mark.ours
FUZZ_FACTOR = 10 if "SPIDER_FUZZ_FULL" in os.environ else 1
# glibc then overwrites memory when it is freed.
PERTURB = {"MALLOC_PERTURB_": "165"}
# The inputs of the largest possible request for buffers::echo, with an empty context.
REQUEST = protocol.encode_request(protocol.Execute("buffers", "echo", b"", b""))
INPUTS_MAX = protocol.FRAME_BODY_MAX - len(REQUEST)
# The longest text of a Custom error that a response can carry.
ERROR = ExecutorError("TaskError", TdlError("Custom", "e" * 70_000))
ERROR_TEXT_MAX = RESPONSE_DATA_MAX + 70_000 - len(ERROR.encode())
CUSTOM = protocol.pack({"Custom": "text"})


@pytest.fixture
def add(package_dir, tmp_path, build_package):
    """Put an odd package into the directory tmp_path."""
    build.stage(tmp_path, "buffers", package_dir / "buffers" / "libbuffers.so")

    def add(name, *flags):
        library = odd.build(build_package, odd.declares(name), *flags)
        build.stage(tmp_path, name, library)

    return add


# ------------------------------------------------------------------------------ calls

# Some differ in the last byte only, and some are too long to be cached.
TASK_NAMES = ["add1", "add2", "add", "add12", "", "a\0b", "a\0c", "\u00e9", "\u00e8"]
TASK_NAMES += ["x" * 9000 + "1", "x" * 9000 + "2", "2answer"]


def test_each_request_calls_the_task_that_it_names(spawn, add, tmp_path):
    """The package `one` with the task `2answer` is not `one2` with `answer`."""
    add("one", "-DVALUE=1")
    add("one2", "-DVALUE=2")
    child = spawn(tmp_path)
    for _ in range(3):
        for package, value in (("one", 1), ("one2", 2)):
            assert child.call(package, "answer") == [value]
            for task in TASK_NAMES:
                assert child.call_raw(package, task, b"inputs") == task.encode()


# How many tasks, how long their names are, and the memory that the executor gets.
MANY_TASKS = """
short names | 60000 | 10   | 20
long names  | 3000  | 8000 | 6
"""


@rows("count, size, mebibytes", MANY_TASKS)
def test_the_names_of_tasks_are_not_all_kept(spawn, count, size, mebibytes):
    child = spawn()
    numbers = range(count)
    frames = [executor.raw_request("odd", f"{number:0{size}}") for number in numbers]
    child.exchange(b"".join(frames[:1000]), 1000 * (28 + size))
    process.limit_memory(child.pid, mebibytes << 20)
    child.exchange(b"".join(frames[1000:]), (count - 1000) * (28 + size))
    assert child.finish() == (b"", 0)


DATA = {
    "none": b"",
    "one byte": b"\0",
    "5,120 bytes": bytes(range(256)) * 20,
    "100,000 bytes": b"x" * 100_000,
}


@rows("data", DATA)
def test_a_task_is_given_its_context_and_its_inputs(spawn, data):
    child = spawn()
    inputs = data or bytes(4)
    assert child.call_raw("odd", "inputs", inputs, b"context") == inputs
    assert child.call_raw("odd", "context", b"inputs", data) == data


ODD_NAMES = {
    "empty": "",
    "start of another": "outpu",
    "letters of Unicode": "t\u00e2che \U0001f577",
    "NUL": "a\0b",
    "long": "t" * 1_000_000,
}


@rows("task", ODD_NAMES)
def test_a_task_is_given_its_name(spawn, task):
    child = spawn()
    for _ in range(2):
        assert child.call_raw("odd", task, b"inputs") == task.encode()


def test_no_view_has_a_null_pointer(spawn):
    outputs = spawn().call_raw("odd", "pointers", b"", b"")
    assert protocol.unpack_values(outputs) == [1]


@ours
def test_zero_bytes_of_inputs_become_an_empty_payload(spawn):
    """Also after, and in, a request that fills the whole buffer."""
    child = spawn()
    full = b"\xff" * INPUTS_MAX
    for inputs, context in ((b"", b""), (full, b""), (b"", full), (b"", b"")):
        found = child.call_raw("buffers", "echo", inputs, context)
        assert found == (inputs or bytes(4))
        assert child.call_raw("odd", "context", b"", full[:-10]) == full[:-10]


# ------------------------------------------------------------------------- elapsed_us


def timed(child, *frames):
    """The elapsed_us of each response, and the microseconds of the whole round trip."""
    started = time.perf_counter_ns()
    child.send(b"".join(frames))
    elapsed = [child.receive().elapsed_us for _ in frames]
    return elapsed, (time.perf_counter_ns() - started) / 1000


SLEEPS = """
a success | process | sleep
an error  | buffers | sleep_and_fail
"""


@rows("package, task", SLEEPS)
def test_elapsed_us_is_the_time_of_the_call_alone(spawn, package, task):
    child = spawn()
    child.call(package, f"{task}:0")
    time.sleep(0.3)
    elapsed, round_trip = timed(child, *[executor.request(package, f"{task}:50")] * 3)
    assert min(elapsed) >= 50_000
    assert sum(elapsed) <= round_trip


SLOW = """
constructor  | -DCONSTRUCTOR=usleep(50000)
init         | -DINIT=(usleep(50000),number(0))
failing init | -DINIT=(usleep(50000),failure("Custom",""))
"""


@rows("flag", SLOW)
def test_elapsed_us_covers_the_loading_of_a_package(spawn, add, tmp_path, flag):
    add("slow", flag)
    child = spawn(tmp_path)
    (elapsed,), round_trip = timed(child, executor.request("slow", "answer"))
    assert 50_000 <= elapsed <= round_trip
    (elapsed,), round_trip = timed(child, executor.request("slow", "answer"))
    assert elapsed <= round_trip


# The nanoseconds between two looks at the clock, and what is sent.
STEPS = """
rounded down      | 499         | 0
rounded up        | 500         | 1
rounded down to 1 | 1499        | 1
back              | -1000000000 | 0
"""


@ours
@rows("step, elapsed", STEPS)
def test_elapsed_us_is_rounded_and_not_negative(spawn, build_package, step, elapsed):
    child = spawn(env=preload.env(build_package, "clock", step))
    assert child.serves()
    for task in ("sleep_and_fail:1", "echo", "no_such_task"):
        child.send(executor.request("buffers", task))
        assert child.receive().elapsed_us == elapsed
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


# ---------------------------------------------------------------------------- outputs


def filled(size):
    """The outputs of filled:SIZE."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


# Around what is copied, what a pipe of each size holds, and the largest.
SIZES = [1, 4, 4096, 32_767, 32_768, 32_769, 65_511, 65_512, 65_513, 65_536, 65_537]
SIZES += [262_144, 1_000_001, 5_000_000, RESPONSE_DATA_MAX]


@pytest.mark.parametrize("size", SIZES)
def test_outputs_arrive_whole(spawn, size):
    child = spawn(env=PERTURB)
    for _ in range(3):
        assert child.call_raw("buffers", f"filled:{size}") == filled(size)
    assert child.serves()


@pytest.mark.parametrize("task", ["empty_dangling", "empty_null"])
def test_outputs_of_zero_bytes_are_sent_on(spawn, task):
    child = spawn(env=PERTURB)
    assert [child.call_raw("buffers", task) for _ in range(3)] == [b""] * 3
    assert child.serves()


ONE_MORE = RESPONSE_DATA_MAX + 1
# The task, and the words that its error must have.
TOO_LARGE = f"""
outputs, by 1       | zeros:{ONE_MORE}  | outputs of {ONE_MORE} bytes
outputs, by far     | zeros:67108864    | outputs of 67108864 bytes
outputs without end | endless_outputs:0 | outputs of 18446744073709551615 bytes
error, by 1   | error_of_size:{ERROR_TEXT_MAX + 1 + 13} | an error of {ONE_MORE} bytes
error, by far | error_of_size:67108864  | an error of 67108875 bytes
"""


@ours
@rows("task, words", TOO_LARGE)
def test_what_no_response_can_carry_is_an_error(spawn, task, words):
    child = spawn(env=PERTURB)
    text = f"the task returned {words}; a response holds at most {RESPONSE_DATA_MAX}"
    error = ExecutorError("TaskError", TdlError("SerializationError", text))
    for _ in range(2):
        assert child.call("buffers", task) == error
    assert child.serves()


@ours
def test_outputs_at_a_null_pointer_are_an_error(spawn):
    child = spawn()
    text = "the task returned 5 bytes of outputs at a NULL pointer"
    error = ExecutorError("TaskError", TdlError("SerializationError", text))
    for _ in range(2):
        assert child.call("buffers", "null_with_length:5") == error
    assert child.serves()


# ----------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "is_error", [1, *(pytest.param(n, marks=ours) for n in (2, 128, 255))]
)
def test_is_error_is_any_byte_but_0(spawn, is_error):
    child = spawn()
    error = child.call_raw("buffers", f"echo_error:{is_error}", CUSTOM)
    assert error == ExecutorError("TaskError", TdlError("Custom", "text"))
    assert child.call_raw("buffers", "echo_error:0", CUSTOM) == CUSTOM
    assert child.serves()


# {"DeserializationError": "\u00e9"} in other forms.
FORMS = {
    "canonical": b"\x81\xb4DeserializationError\xa2\xc3\xa9",
    "16 bits": b"\xde\x00\x01\xd9\x14DeserializationError\xd9\x02\xc3\xa9",
    "32 bits": b"\xdf\0\0\0\1\xc5\x00\x14DeserializationError\xc6\0\0\0\2\xc3\xa9",
    "index": b"\x81\x01\xa2\xc3\xa9",
    "bytes after": b"\x81\xcf\0\0\0\0\0\0\0\1\xa2\xc3\xa9 and more",
}


@rows("error", FORMS)
def test_an_error_is_sent_on_in_its_canonical_form(spawn, error):
    child = spawn(env=PERTURB)
    child.send(executor.raw_request("buffers", "echo_error:1", error))
    expected = Failure(b"\x81\xa9TaskError" + FORMS["canonical"])
    assert child.receive().outcome == expected


@pytest.mark.parametrize("size", [0, 1, 20_000, 70_000, 5_000_000, ERROR_TEXT_MAX])
def test_an_error_that_fits_arrives_whole(spawn, size):
    child = spawn(env=PERTURB)
    error = child.call("buffers", f"error_of_size:{size + 13}")
    assert error == ExecutorError("TaskError", TdlError("Custom", "e" * size))
    assert child.serves()


TWO_ENTRIES = protocol.pack({"Custom": "text", "ExecutionError": "text"})
NOT_UTF8 = b"\x81\xa6Custom\xa2\xff\xfe"
# Of the last kind, test_errors.py has more. The size is that of the error.
NO_TDL_ERRORS = f"""
dangling    | empty_error_dangling | `b""` | 0
NULL        | empty_error_null     | `b""` | 0
reserved    | echo_error:1 | `{bytes([0xC1] * 1000)}` | 1000
array       | echo_error:1 | `{bytes([0x91] * 100_000)}` | 100000
two entries | echo_error:1 | `{TWO_ENTRIES}` | {len(TWO_ENTRIES)}
not UTF-8   | echo_error:1 | `{NOT_UTF8}` | {len(NOT_UTF8)}
"""
OUR_NO_TDL_ERRORS = """
NULL with length | null_error_with_length:5 | `b''` | 0
without end      | endless_outputs:1        | `b''` | 0
"""


@rows("task, error, size", NO_TDL_ERRORS, ours=OUR_NO_TDL_ERRORS)
def test_what_is_no_tdl_error_is_reported_as_such(spawn, request, task, error, size):
    child = spawn()
    for _ in range(2):
        found = child.call_raw("buffers", task, error)
        assert found.variant == "ErrorPayloadDeserializationFailure"
        assert 0 < len(found.content.encode()) <= 450
    # The words are this project's.
    is_ours = not request.config.getoption("--executor") and "endless" not in task
    words = f"the package returned an error of {size} bytes that is not a TdlError: "
    assert not is_ours or found.content.startswith(words), found.content
    assert child.serves()


# ---------------------------------------------------------------------- crash reports


@ours
def test_a_crash_over_an_error_of_init_names_the_package(spawn, add, tmp_path):
    add("odd", "-DINIT=owned(1,(void*)8,100)")
    child = spawn(tmp_path)
    child.send(executor.request("odd", "answer"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)
    assert "in odd (loading)\n" in child.stderr()


# ----------------------------------------------------------------------------- memory

# Package, task and inputs; how many buffers the package returns for the first request
# and for each later one; how many requests show that memory does not grow.
OUTCOMES = f"""
echo         | buffers | echo           | `{b"x" * 1000}` | 1 | 1 | 20000
small        | buffers | filled:5000    | `b""` | 1 | 1 | 20000
not copied   | buffers | filled:40000   | `b""` | 1 | 1 | 2000
large        | buffers | filled:1000000 | `b""` | 1 | 1 | 100
error        | buffers | echo_error:1   | `{CUSTOM}` | 1 | 1 | 20000
no TdlError  | buffers | echo_error:1   | `{b"garbage " * 100}` | 1 | 1 | 20000
large error  | buffers | error_of_size:5000 | `b""` | 1 | 1 | 20000
empty        | buffers | empty_dangling | `b""` | 0 | 0 | 20000
no such task | buffers | no_such_task   | `b""` | 1 | 1 | 20000
missing      | missing | task           | `b""` | 0 | 0 | 4000
init         | good_init | answer       | `b""` | 2 | 1 | 20000
init fails   | bad_init  | answer       | `b""` | 1 | 1 | 4000
init fails oddly | garbage_init | answer | `b""` | 1 | 1 | 4000
refused      | refused | answer         | `b""` | 0 | 0 | 2000
"""
OUR_OUTCOMES = f"""
too large       | buffers | zeros:{ONE_MORE} | `b""` | 1 | 1 | 20
too large error | buffers | error_of_size:{ONE_MORE} | `b""` | 1 | 1 | 20
no name         | ..      | task           | `b""` | 0 | 0 | 20000
"""
EACH_OUTCOME = rows(
    "package, task, raw_inputs, first, later, count", OUTCOMES, ours=OUR_OUTCOMES
)


@pytest.fixture
def initialized(add, tmp_path):
    """A package directory for OUTCOMES."""
    add("good_init", odd.INIT_GOOD)
    add("bad_init", odd.init_fails(CUSTOM))
    add("garbage_init", odd.init_fails(b"garbage"))
    add("refused", "-DVERSION=9,0,0")
    return tmp_path


@EACH_OUTCOME
def test_each_buffer_is_freed_once_and_not_read_later(
    spawn, initialized, build_package, package, task, raw_inputs, first, later, count
):
    counts = preload.BufferCounts(build_package, initialized)
    child = spawn(initialized, env=counts.env)
    found = [child.call_raw(package, task, raw_inputs) for _ in range(3)]
    assert found == found[:1] * 3
    if task.startswith("filled"):
        assert found[0] == filled(len(found[0]))
    assert child.finish() == (b"", 0)
    returned = first + 2 * later
    assert counts.read() == (returned, returned, 0)


@EACH_OUTCOME
def test_memory_stays_the_same_over_many_requests(
    request, spawn, initialized, package, task, raw_inputs, first, later, count
):
    child = spawn(initialized)
    frame = executor.raw_request(package, task, raw_inputs)
    child.send(frame)
    size = protocol.FRAME_HEADER_SIZE + len(protocol.encode_response(child.receive()))
    step = min(count, 200)
    child.exchange(frame * step, size * step)
    # The largest outcomes take and give back up to 16 MiB each. Other executors may
    # keep what is in the pipes.
    room = 2 if count > 100 else 40
    if request.config.getoption("--executor"):
        room += 30
    process.limit_memory(child.pid, room << 20)
    for _ in range(0, count * FUZZ_FACTOR, step):
        child.exchange(frame * step, size * step)
    assert child.finish() == (b"", 0)
    assert child.errors() == []
