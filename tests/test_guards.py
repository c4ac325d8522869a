"""What native code does to the process: crashes, `exit`, forks, signals, and what it leaves; parents that are gone."""

import os
import resource
import select
import signal
import subprocess
import time

import pytest
from helpers import build, executor, odd, process
from helpers.executor import request

FULL = "SPIDER_FUZZ_FULL" in os.environ
needs_cxx = build.needs("C++ compiler")


@pytest.fixture
def group(spawn):
    """An executor that leads a process group, in which tasks may leave processes."""
    return spawn(start_new_session=True)


def check_error(child, message, call=None):
    """The log has one ERROR line. It starts with this message and names the call, if any."""
    fields = child.only_error()
    assert fields["message"].startswith(message)
    assert call is None or call in fields.values()
    return fields


# ----------------------------------------------------------------------------------------------------- crashes and exit

CRASHES = [
    ("crashing", "sigsegv:8", -signal.SIGSEGV),
    ("crashing", "sigabrt", -signal.SIGABRT),
    ("crashing", "sigbus", -signal.SIGBUS),
    ("crashing", "sigfpe", -signal.SIGFPE),
    pytest.param("crashing", "stack_overflow", -signal.SIGSEGV, marks=pytest.mark.ours),
    ("crashing", f"raise:{int(signal.SIGILL)}", -signal.SIGILL),
    ("crashing", "crash_in_a_thread", -signal.SIGSEGV),
    pytest.param(
        "descriptors", "print_and_crash", -signal.SIGABRT, marks=pytest.mark.ours
    ),
    pytest.param("cxx", "uncaught", -signal.SIGABRT, marks=needs_cxx),
    pytest.param("cxx", "forget_thread", -signal.SIGABRT, marks=needs_cxx),
]
OTHER_ENDS = [
    ("crashing", f"raise:{int(signal.SIGKILL)}", -signal.SIGKILL),
    ("odd", "crash", -signal.SIGABRT),
    ("integration_test_tasks", "always_panic", -signal.SIGABRT),
    *(("exiting", f"_exit:{status}", status) for status in (0, 7)),
]


@pytest.mark.parametrize(("package", "task", "status"), CRASHES + OTHER_ENDS)
def test_a_crash_or__exit_is_the_end_of_stdout_and_shows_in_the_exit_status(
    spawn, package, task, status
):
    child = spawn()
    assert child.serves()
    child.send(request(package, task) + request("buffers", "echo"))
    assert child.read_to_end() == (b"", status)


@pytest.mark.ours
@pytest.mark.parametrize(("package", "task", "status"), CRASHES)
def test_a_crash_report_names_package_and_task_and_comes_after_what_was_printed(
    spawn, package, task, status
):
    child = spawn()
    assert child.call("descriptors", "print_unflushed") == [1]
    assert child.call("crashing", "no_such_task").variant == "TaskError"
    child.call("crashing", "raise:0")
    child.send(request(package, task))
    assert child.read_to_end() == (b"", status)
    assert f"in {package}::{task}\n" in child.stderr()
    assert child.stderr().count(f"in {package}::") == 1
    assert "no_such_task" not in child.stderr()
    assert child.stderr().startswith(
        "unflushed" + "last words" * (task == "print_and_crash")
    )


@pytest.mark.ours
@pytest.mark.parametrize(
    ("package", "task"),
    [("descriptors", "close_standard"), ("signals", "restore_defaults")],
)
def test_a_crash_after_a_task_took_away_descriptors_or_handlers(spawn, package, task):
    child = spawn()
    assert child.call(package, task) == [1]
    child.send(request("crashing", "sigsegv"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)
    assert ("in crashing::sigsegv\n" in child.stderr()) == (task == "close_standard")


@pytest.mark.ours
@pytest.mark.parametrize(
    ("end", "status"), [("abort()", -signal.SIGABRT), ("exit(0)", 1)]
)
@pytest.mark.parametrize("flag", ["-DCONSTRUCTOR={}", "-DINIT=({},number(0))"])
def test_a_crash_or_exit_while_a_package_loads_names_it(
    spawn, build_package, tmp_path, flag, end, status
):
    build.stage(tmp_path, "odd", odd.build(build_package, flag.format(end)))
    child = spawn(tmp_path)
    child.send(request("odd", "answer"))
    assert child.read_to_end() == (b"", status)
    assert "odd (loading)" in child.stderr()


@pytest.mark.ours
def test_outputs_at_an_invalid_address(spawn):
    """The kernel refuses to send a large buffer, and the executor itself crashes on a small one."""
    child = spawn()
    child.send(request("crashing", "invalid_outputs:100000"))
    assert child.read_to_end() == (b"", 1)
    check_error(
        child,
        "A task returned outputs at an invalid pointer.",
        "crashing::invalid_outputs:100000",
    )
    child = spawn()
    child.send(request("crashing", "invalid_outputs:100"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)


@pytest.mark.ours
@pytest.mark.parametrize(
    "task", ["exit:0", "exit:3", "exit_from_a_thread:0", "exit_beside_a_reader:0"]
)
def test_exit_in_a_task_is_no_clean_end(group, task):
    assert group.call("exiting", "print_at_exit") == [1]
    group.send(request("exiting", task))
    assert group.read_to_end() == (b"", 1)
    check_error(group, "Native code called exit.", f"exiting::{task}")


@pytest.mark.ours
def test_exit_in_a_signal_handler_never_looks_like_a_clean_end(spawn):
    """It interrupts whatever the executor does. It may hang; then the parent's timeout ends it."""
    ended = 0
    for _ in range(1000 if FULL else 20):
        child = spawn()
        child.send(
            request("exiting", "exit_in_a_handler:0") + request("buffers", "echo") * 200
        )
        try:
            # Not closed: the end of stdin would be a clean end.
            child.process.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            continue
        # Python's code in a signal handler can crash, too.
        assert child.process.returncode != 0
        child.check_log()
        child.kill()
        ended += child.process.returncode == 1
    assert ended


# ----------------------------------------------------------------------------------------------------------------- fork


def check_ended_child(child):
    fields = check_error(
        child, "A child forked by a package returned into the executor"
    )
    assert fields["parent"] == child.pid


@pytest.mark.ours
@pytest.mark.parametrize(
    "task", ["return_twice", "return_twice_failing", "return_twice_by_clone"]
)
def test_a_child_that_returns_from_a_task_never_answers(group, task):
    assert group.call("exiting", "print_at_exit") == [1]
    assert group.call("forking", task) == [1]  # the child's exit status
    assert group.serves()
    assert group.finish() == (b"", 0)
    check_ended_child(group)
    assert (
        group.stderr().count("handler\n") == 1
    )  # the exit handlers did not run in the child


@pytest.mark.ours
@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (["-DCONSTRUCTOR=fork_and_wait()"], None),
        (["-DCONSTRUCTOR=fork_and_wait()", "-DVERSION=9,9,9"], "IncompatibleVersion"),
        (["-DCONSTRUCTOR=fork_and_wait()", "-DNO_EXECUTE"], "InvalidLibrary"),
        (["-DINIT=(fork_and_wait(),number(0))"], None),
        (['-DINIT=(fork_and_wait(),failure("Custom","no"))'], "PackageInitError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_a_child_that_returns_from_loading_never_answers(
    spawn, build_package, tmp_path, flags, kind
):
    build.stage(tmp_path, "odd", odd.build(build_package, *flags))
    trace = odd.Trace(tmp_path)
    child = spawn(tmp_path, env=trace.env, start_new_session=True)
    found = child.call("odd", "child")
    assert found == [1] if kind is None else found.variant == kind
    assert child.finish() == (b"", 0)
    check_ended_child(child)
    assert trace.take().count("execute") == (
        kind is None
    )  # the child has not run the task


@pytest.mark.parametrize(
    ("task", "status"),
    [
        ("exit_in_child:0", 0),
        ("exit_in_child:5", 5),
        ("fork_twice", 0),
        ("close_and_fork", 0),
    ],
)
def test_a_child_may_exit_or_fork(group, task, status):
    assert group.call("forking", task) == [status]
    assert group.serves()
    assert group.finish() == (b"", 0)
    assert group.stderr() == ""


@pytest.mark.ours
def test_a_program_that_outlives_a_crash_does_not_delay_the_end_of_stdout(group):
    group.send(request("forking", "leave_program_and_crash"))
    assert group.read_to_end() == (b"", -signal.SIGABRT)
    os.killpg(group.pid, 0)  # the program lives


def test_threads_that_fork_while_others_fork_and_requests_are_served(spawn):
    """A handler around fork that takes Python's lock makes such children hang."""
    for _ in range(200 if FULL else 3):
        child = spawn(start_new_session=True)
        assert child.call("forking", "start_forking:4") == [4]
        for _ in range(5):
            (forks,) = child.call("forking", "count_forks")
            assert (
                executor.responses(
                    child.exchange(request("buffers", "echo", 1) * 200, 37 * 200)
                )
                == [[1]] * 200
            )
            executor.wait_for(
                lambda: child.call("forking", "count_forks") > [forks], "a fork"
            )  # noqa: B023
        assert child.call("forking", "stop_forking") == [0]
        assert child.call("forking", "fork_in_new_threads:20") == [20]
        assert child.finish() == (b"", 0)


# ------------------------------------------------------------------------------------------------ a parent that is gone


@pytest.mark.ours
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("call", ["crashing::hang", "crashing::spin", "odd (loading)"])
def test_a_running_task_or_init_function_ends_when_nobody_reads_stdout(
    spawn, build_package, package_dir, tmp_path, call, both
):
    build.stage(
        tmp_path,
        "odd",
        odd.build(
            build_package, '-DINIT=(fputs("waiting\\n",stderr),pause(),number(0))'
        ),
    )
    package, _, task = call.replace(" (loading)", "::answer").partition("::")
    child = spawn(tmp_path if package == "odd" else package_dir)
    child.send(request(package, task))
    executor.wait_for(child.stderr, "the call")
    child.close_output()
    if both:
        child.close_input()
    assert child.wait() == 1
    check_error(child, "The parent is gone while a task runs.", call)


@pytest.mark.ours
@pytest.mark.parametrize(
    "request_before", [("buffers", "echo"), ("none", "task"), ("buffers", "none")]
)
def test_an_idle_executor_is_not_ended_by_the_watchdog(spawn, request_before):
    """After a success, a failed load or an error, no task runs. The end of stdin is a clean end."""
    child = spawn()
    child.call(*request_before)
    child.close_output()
    time.sleep(0.4)
    assert child.process.poll() is None
    child.close_input()
    assert child.wait() == 0
    assert child.stderr() == ""


@pytest.mark.ours
@pytest.mark.parametrize(
    ("package", "task"),
    [
        ("exiting", "wait_in_an_exit_handler"),
        ("exiting", "wait_in_a_destructor"),
        pytest.param("cxx", "wait_in_a_destructor", marks=needs_cxx),
    ],
)
def test_an_end_that_waits_is_over_when_the_parent_is_gone(spawn, package, task):
    child = spawn()
    assert child.call(package, task) == [1]
    child.close_input()
    executor.wait_for(lambda: "waiting" in child.stderr(), "the exit handler")
    time.sleep(0.4)
    assert child.process.poll() is None  # the parent is there
    child.close_output()
    assert child.wait() == 1


@pytest.mark.ours
def test_exit_handlers_have_time_when_the_parent_is_gone(spawn):
    child = spawn()
    assert child.call("exiting", "sleep_in_an_exit_handler:500") == [1]
    child.close_input()
    executor.wait_for(lambda: "sleeping" in child.stderr(), "the exit handler")
    child.close_output()
    assert child.wait() == 0
    assert child.stderr() == "sleeping\nslept\n"


@pytest.mark.ours
def test_the_watchdog_does_not_block_on_a_log_pipe_that_is_full(spawn):
    log, stderr = os.pipe()
    child = spawn(stderr=stderr)
    os.close(stderr)
    with open(log, "rb", 0) as reader:
        child.send(request("crashing", "hang"))
        executor.wait_for(lambda: select.select([reader], [], [], 0)[0], "the task")
        # Another open file: O_NONBLOCK must not be that of the executor's own.
        writer = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_NONBLOCK)
        try:
            for size in (4096, 1):
                while select.select([], [writer], [], 0)[1]:
                    os.write(writer, bytes(size))
        except BlockingIOError:
            pass
        os.close(writer)
        child.close_output()
        assert child.wait() == 1


# -------------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize(
    "task", ["wait_on_a_thread", "read_signalfd", "handle_on_main"]
)
def test_signals_for_a_tasks_threads_do_not_land_on_another_thread(spawn, task):
    assert spawn().call("signals", task) == [50]


@pytest.mark.ours
def test_every_thread_but_the_main_one_blocks_all_signals(spawn):
    child = spawn()
    assert child.serves()
    (watchdog,) = (
        thread for thread in process.threads(child.pid) if thread != child.pid
    )
    assert process.blocked_signals(child.pid, child.pid) == set()
    # The C library keeps 32 and 33 for itself, and nobody can block two others.
    expected = set(range(1, 65)) - {32, 33, 34, signal.SIGKILL, signal.SIGSTOP}
    assert expected <= process.blocked_signals(child.pid, watchdog)


@pytest.mark.parametrize(("size", "count"), [(30_000, 10), (8_000_000, 1)])
def test_a_signal_that_interrupts_a_write_costs_no_byte(spawn, size, count):
    """The pipe is full when a timer's signal comes, so a part of a reply has been written."""
    child = spawn()
    assert child.call("signals", "interrupt") == [1]
    child.send(request("buffers", f"filled:{size}") * count)
    executor.wait_for(
        lambda: select.select([child.process.stdout], [], [], 0)[0], "a reply"
    )
    time.sleep(0.05)
    for _ in range(count):
        assert (
            child.receive().outcome.outputs
            == (bytes(range(251)) * (size // 251 + 1))[:size]
        )


# ----------------------------------------------------------------------------------------------------- what tasks leave

# Spider's executor loses a relative package directory, and unloads the handler of a timer's signals before it exits.
LEFT = "threads:8 change_environment clear_environment change_umask change_locale block_all restore_defaults"
OURS_LEFT = [
    pytest.param(task, marks=pytest.mark.ours)
    for task in ("interrupt", "change_directory")
]


@pytest.mark.parametrize("task", [*LEFT.split(), *OURS_LEFT])
def test_what_a_task_leaves_does_not_matter_to_the_next(spawn, package_dir, task):
    # A relative package directory, which the process's own no longer leads to if a task has changed it.
    child = spawn(package_dir.name, cwd=str(package_dir.parent))
    package = (
        "signals"
        if task in ("block_all", "interrupt", "restore_defaults")
        else "process"
    )
    assert child.call(package, task) == [1]
    for _ in range(100):
        assert child.serves()
    # Long enough for a few of the timer's signals.
    assert child.call("integration_test_tasks", "fibonacci", 30) == [832040]
    assert child.call("missing", "task").variant == "InvalidLibrary"
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


# Spider's executor does not survive the last four. With the last two no package can be loaded.
LIMITS = ["CORE", "FSIZE", "MEMLOCK", "NPROC", "STACK", "DATA", "AS", "NOFILE"]


@pytest.mark.parametrize(
    "name",
    [*LIMITS[:4], *(pytest.param(name, marks=pytest.mark.ours) for name in LIMITS[4:])],
)
def test_a_limit_of_0_that_a_task_leaves(spawn, name):
    child = spawn()
    assert child.serves()
    assert child.call("process", f"limit:{getattr(resource, f'RLIMIT_{name}')}") == [1]
    for _ in range(100):
        assert child.serves()
    found = child.call("odd", "answer")
    assert (
        found.variant == "InvalidLibrary" if name in ("AS", "NOFILE") else found == [1]
    )
    assert child.serves()
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""


@pytest.mark.ours
@pytest.mark.parametrize("task", ["import", "run"])
def test_a_package_can_use_the_interpreter_it_runs_in(spawn, task):
    child = spawn()
    for _ in range(2):
        assert child.call("python", task) == [1]
    assert child.finish() == (b"", 0)
    assert child.stderr() == ""
