"""The loop: calls and their cache, elapsed_us, results of every shape and size, and the memory that they take."""

import os
import time

import pytest
from helpers import build, cli, executor, odd, preload, process

import protocol
from protocol import RESPONSE_DATA_MAX, ExecutorError, Failure, TdlError

FUZZ_FACTOR = 10 if "SPIDER_FUZZ_FULL" in os.environ else 1
# glibc then overwrites memory when it is freed.
PERTURB = {"MALLOC_PERTURB_": "165"}
# The inputs of the largest possible request for buffers::echo, with an empty context.
INPUTS_MAX = protocol.FRAME_BODY_MAX - len(
    protocol.encode_request(protocol.Execute("buffers", "echo", b"", b""))
)
# The longest text of a Custom error that a response can carry.
ERROR_TEXT_MAX = (
    RESPONSE_DATA_MAX
    + 70_000
    - len(ExecutorError("TaskError", TdlError("Custom", "e" * 70_000)).encode())
)
CUSTOM = protocol.pack({"Custom": "text"})


@pytest.fixture
def add(package_dir, tmp_path, build_package):
    """Put an odd package into the directory tmp_path."""
    build.stage(tmp_path, "buffers", package_dir / "buffers" / "libbuffers.so")

    def put(name, *flags):
        build.stage(
            tmp_path, name, odd.build(build_package, odd.declares(name), *flags)
        )

    return put


# --------------------------------------------------------------------------------------------------------------- calls


def test_each_request_calls_the_task_that_it_names(spawn, add, tmp_path):
    """Some names differ in the last byte, or in where the package's name ends. Some are too long to be cached."""
    add("one", "-DVALUE=1")
    add("one2", "-DVALUE=2")
    child = spawn(tmp_path)
    tasks = [
        "add1",
        "add2",
        "add",
        "add12",
        "",
        "a\0b",
        "a\0c",
        "\u00e9",
        "\u00e8",
        "x" * 9000 + "1",
        "x" * 9000 + "2",
    ]
    for _ in range(3):
        for package, value in (("one", 1), ("one2", 2)):
            assert child.call(package, "answer") == [value]
            for task in [*tasks, "2answer"]:
                assert child.call_raw(package, task, b"inputs") == task.encode()


@pytest.mark.parametrize(
    ("count", "size", "room"), [(60_000, 10, 20 << 20), (3_000, 8_000, 6 << 20)]
)
def test_names_of_tasks_are_not_kept_without_bound(spawn, count, size, room):
    child = spawn()
    frames = [
        executor.raw_request("odd", f"{number:0{size}}") for number in range(count)
    ]
    child.exchange(b"".join(frames[:1000]), 1000 * (28 + size))
    process.limit_memory(child.pid, room)
    child.exchange(b"".join(frames[1000:]), (count - 1000) * (28 + size))
    assert child.finish() == (b"", 0)


@pytest.mark.parametrize(
    "data", [b"", b"\0", bytes(range(256)) * 20, b"x" * 100_000], ids=len
)
def test_a_task_is_given_its_name_its_context_and_its_inputs(spawn, data):
    child = spawn()
    assert child.call_raw(
        "odd", "inputs", data or bytes(4), b"context"
    ) == data or bytes(4)
    assert child.call_raw("odd", "context", b"inputs", data) == data
    for task in ("", "outpu", "t\u00e2che \U0001f577", "a\0b", "t" * 1_000_000):
        assert child.call_raw("odd", task, data) == task.encode()
    # No view has a NULL pointer.
    assert protocol.unpack_values(child.call_raw("odd", "pointers", b"", b"")) == [1]


@pytest.mark.ours
def test_zero_bytes_of_inputs_become_an_empty_payload(spawn):
    """Also after a request that has filled the whole buffer."""
    child = spawn()
    for data in (b"", b"\xff" * INPUTS_MAX):
        assert child.call_raw("buffers", "echo", data, b"") == data or bytes(4)
        assert child.call_raw("buffers", "echo", b"", data[: -len("odd")]) == bytes(4)
        assert (
            child.call_raw("odd", "context", b"", data[: -len("context")])
            == data[: -len("context")]
        )


# ---------------------------------------------------------------------------------------------------------- elapsed_us


def timed(child, *frames):
    """The elapsed_us of each response, after which the microseconds of the whole round trip."""
    started = time.perf_counter_ns()
    child.send(b"".join(frames))
    elapsed = [child.receive().elapsed_us for _ in frames]
    return elapsed, (time.perf_counter_ns() - started) / 1000


@pytest.mark.parametrize(
    ("package", "task"), [("process", "sleep"), ("buffers", "sleep_and_fail")]
)
def test_elapsed_us_is_the_time_of_the_call_alone(spawn, package, task):
    child = spawn()
    child.call(package, f"{task}:0")
    time.sleep(0.3)
    elapsed, round_trip = timed(child, *[executor.request(package, f"{task}:50")] * 3)
    assert min(elapsed) >= 50_000
    assert sum(elapsed) <= round_trip


@pytest.mark.parametrize(
    "where",
    ["-DCONSTRUCTOR={}", "-DINIT=({},number(0))", '-DINIT=({},failure("Custom",""))'],
)
def test_elapsed_us_covers_the_loading_of_a_package(spawn, add, tmp_path, where):
    add("slow", where.format("usleep(50000)"))
    child = spawn(tmp_path)
    (elapsed,), round_trip = timed(child, executor.request("slow", "answer"))
    assert 50_000 <= elapsed <= round_trip
    (elapsed,), round_trip = timed(child, executor.request("slow", "answer"))
    assert elapsed <= round_trip


@pytest.mark.ours
@pytest.mark.parametrize(
    ("step", "elapsed"), [(499, 0), (500, 1), (1499, 1), (1600, 2), (-1_000_000_000, 0)]
)
def test_elapsed_us_is_rounded_and_never_negative(spawn, build_package, step, elapsed):
    """The clock moves by `step` nanoseconds between two looks at it."""
    child = spawn(env=preload.clock(build_package, step))
    assert child.serves()
    for task in ("sleep_and_fail:1", "echo", "no_such_task"):
        child.send(executor.request("buffers", task))
        assert child.receive().elapsed_us == elapsed
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.ours
def test_run_in_process_survives_a_clock_that_steps_back(package_dir, build_package):
    command = ("run", "--in-process", "--package-dir", package_dir, "odd", "answer")
    done = cli.call(*command, **preload.clock(build_package))
    assert (done.status, done.stdout) == (0, b"[1]\n")
    assert "elapsed: 0 \u00b5s" in done.stderr


# -------------------------------------------------------------------------------------------------------------- outputs


SIZES = [
    1,
    4,
    4096,
    *range(32_767, 32_770),
    *range(65_511, 65_514),
    65_536,
    65_537,
    262_144,
    1_000_001,
    5_000_000,
]
OUTPUTS = [(f"filled:{size}", size) for size in (*SIZES, RESPONSE_DATA_MAX)]


@pytest.mark.parametrize(
    ("task", "size"), [*OUTPUTS, ("empty_dangling", 0), ("empty_null", 0)]
)
def test_outputs_arrive_whole(spawn, task, size):
    child = spawn(env=PERTURB)
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    for _ in range(3):
        assert child.call_raw("buffers", task) == expected
    assert child.serves()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("task", "numbers"),
    [
        (f"zeros:{RESPONSE_DATA_MAX + 1}", [RESPONSE_DATA_MAX + 1, RESPONSE_DATA_MAX]),
        (f"zeros:{64 << 20}", [64 << 20, RESPONSE_DATA_MAX]),
        ("endless_outputs:0", [2**64 - 1, RESPONSE_DATA_MAX]),
        (
            f"error_of_size:{ERROR_TEXT_MAX + 1 + 13}",
            [RESPONSE_DATA_MAX + 1, RESPONSE_DATA_MAX],
        ),
        (f"error_of_size:{64 << 20}", [RESPONSE_DATA_MAX]),
        ("null_with_length:5", ["NULL", 5]),
    ],
)
def test_what_no_response_can_carry_is_an_error(spawn, task, numbers):
    child = spawn(env=PERTURB)
    for _ in range(2):
        error = child.call("buffers", task)
        assert (error.variant, error.content.variant) == (
            "TaskError",
            "SerializationError",
        )
        assert all(str(number) in error.content.text for number in numbers)
    assert child.serves()


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "is_error",
    [1, *(pytest.param(byte, marks=pytest.mark.ours) for byte in (2, 128, 255))],
)
def test_is_error_is_any_byte_but_0(spawn, is_error):
    child = spawn()
    error = child.call_raw("buffers", f"echo_error:{is_error}", CUSTOM)
    assert error == ExecutorError("TaskError", TdlError("Custom", "text"))
    assert child.call_raw("buffers", "echo_error:0", CUSTOM) == CUSTOM
    assert child.serves()


@pytest.mark.parametrize(
    "error",
    [
        b"\x81\xb4DeserializationError\xa2\xc3\xa9",
        b"\xde\x00\x01\xd9\x14DeserializationError\xd9\x02\xc3\xa9",
        b"\xdf\x00\x00\x00\x01\xc5\x00\x14DeserializationError\xc6\x00\x00\x00\x02\xc3\xa9",
        b"\x81\x01\xa2\xc3\xa9",
        b"\x81\xcf\x00\x00\x00\x00\x00\x00\x00\x01\xa2\xc3\xa9 and more",
    ],
)
def test_an_error_is_sent_on_in_its_canonical_form(spawn, error):
    child = spawn(env=PERTURB)
    child.send(executor.raw_request("buffers", "echo_error:1", error))
    assert child.receive().outcome == Failure(
        b"\x81\xa9TaskError\x81\xb4DeserializationError\xa2\xc3\xa9"
    )


@pytest.mark.parametrize("size", [0, 1, 20_000, 70_000, 5_000_000, ERROR_TEXT_MAX])
def test_an_error_of_any_size_that_fits_arrives_whole(spawn, size):
    child = spawn(env=PERTURB)
    error = child.call("buffers", f"error_of_size:{size + 13}")
    assert error == ExecutorError("TaskError", TdlError("Custom", "e" * size))
    assert child.serves()


# Of the last kind, test_errors.py has more.
NO_TDL_ERRORS = [
    ("empty_error_dangling", b""),
    ("empty_error_null", b""),
    pytest.param("null_error_with_length:5", b"", marks=pytest.mark.ours),
    pytest.param("endless_outputs:1", b"", marks=pytest.mark.ours),
    ("echo_error:1", b"\xff" * 1000),
    ("echo_error:1", b"\x91" * 100_000),
    ("echo_error:1", b"\x81\xa6Custom\xa2\xff\xfe"),
    ("echo_error:1", protocol.pack({"Custom": "text", "ExecutionError": "text"})),
]


@pytest.mark.parametrize(
    ("task", "error"), NO_TDL_ERRORS, ids=lambda value: ascii(value[:20])
)
def test_an_error_that_is_not_a_tdl_error_is_reported_as_such(spawn, task, error):
    child = spawn()
    for _ in range(2):
        found = child.call_raw("buffers", task, error)
        assert found.variant == "ErrorPayloadDeserializationFailure"
        assert 0 < len(found.content.encode()) <= 450
    assert child.serves()


# --------------------------------------------------------------------------------------------------------------- memory

# Package, task and inputs; how many buffers the package returns for the first request and for each later one; how many
# requests show that memory does not grow.
OUTCOMES = [
    ("buffers", "echo", b"x" * 1000, 1, 1, 20_000),
    ("buffers", "filled:5000", b"", 1, 1, 20_000),
    ("buffers", "filled:40000", b"", 1, 1, 2_000),
    ("buffers", "filled:1000000", b"", 1, 1, 100),
    pytest.param(
        "buffers",
        f"zeros:{RESPONSE_DATA_MAX + 1}",
        b"",
        1,
        1,
        20,
        marks=pytest.mark.ours,
    ),
    ("buffers", "echo_error:1", CUSTOM, 1, 1, 20_000),
    ("buffers", "echo_error:1", b"garbage " * 100, 1, 1, 20_000),
    ("buffers", "error_of_size:5000", b"", 1, 1, 20_000),
    pytest.param(
        "buffers",
        f"error_of_size:{RESPONSE_DATA_MAX}",
        b"",
        1,
        1,
        20,
        marks=pytest.mark.ours,
    ),
    ("buffers", "empty_dangling", b"", 0, 0, 20_000),
    ("buffers", "no_such_task", b"", 1, 1, 20_000),
    ("missing", "task", b"", 0, 0, 4_000),
    pytest.param("..", "task", b"", 0, 0, 20_000, marks=pytest.mark.ours),
    ("good_init", "answer", b"", 2, 1, 20_000),
    ("bad_init", "answer", b"", 1, 1, 4_000),
    ("garbage_init", "answer", b"", 1, 1, 4_000),
    ("refused", "answer", b"", 0, 0, 2_000),
]
EACH_OUTCOME = pytest.mark.parametrize(
    ("package", "task", "raw_inputs", "first", "later", "count"),
    OUTCOMES,
    ids=lambda value: ascii(value)[:24],
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
def test_each_buffer_is_freed_once_and_not_read_afterwards(
    spawn, initialized, build_package, package, task, raw_inputs, first, later, count
):
    counts = preload.BufferCounts(build_package, initialized)
    child = spawn(initialized, env=counts.env)
    found = [child.call_raw(package, task, raw_inputs) for _ in range(3)]
    assert found == found[:1] * 3
    if task.startswith("filled"):
        assert found[0] == (bytes(range(251)) * 4000)[: len(found[0])]
    assert child.finish() == (b"", 0)
    returned = first + 2 * later
    assert counts.read() == (returned, returned, 0)


@EACH_OUTCOME
def test_memory_stays_the_same_over_many_requests(
    spawn, initialized, package, task, raw_inputs, first, later, count
):
    child = spawn(initialized)
    frame = executor.raw_request(package, task, raw_inputs)
    child.send(frame)
    size = protocol.FRAME_HEADER_SIZE + len(protocol.encode_response(child.receive()))
    step = min(count, 200)
    child.exchange(frame * step, size * step)
    # The largest outcomes take and give back up to 16 MiB each.
    process.limit_memory(child.pid, (2 if count > 100 else 40) << 20)
    for _ in range(0, count * FUZZ_FACTOR, step):
        child.exchange(frame * step, size * step)
    assert child.finish() == (b"", 0)
    assert child.errors() == []
