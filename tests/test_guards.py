"""What native code does to the process: crashes, `exit`, forks, signals, limits.

And what happens to running code when the parent is gone.
"""

import os
import resource
import select
import signal
import subprocess
import time
from contextlib import contextmanager

import pytest
from helpers import build, executor, odd, process
from helpers.executor import request
from helpers.rows import rows

from protocol import TaskContext

FULL = "SPIDER_FUZZ_FULL" in os.environ
ours = pytest.mark.ours

# The ids in the context of each request that ends in an ERROR line.
IDS = {"job_id": 7, "task_id": 3, "task_instance_id": 12}


def ask(task):
    """The frame of a request for "package::task", as logs name it."""
    return request(*task.split("::"), context=TaskContext(**IDS).encode())


def check_error(child, message, task, **more):
    """The log has one ERROR line about a task, with exactly these fields."""
    expected = {"message": message, "task": task, **IDS, **more}
    found = child.only_error()
    assert found == expected, f"expected {expected}, found {found}"


@pytest.fixture
def stage_odd(build_package, tmp_path):
    """Stage a variant of the package "odd": stage_odd(*flags) is its directory."""

    def stage(*flags):
        build.stage(tmp_path, "odd", odd.build(build_package, *flags))
        return tmp_path

    return stage


# --------------------------------------------------------------------- crashes and exit

CRASHES = f"""
segmentation fault | crashing::sigsegv:8         | {-signal.SIGSEGV}
abort              | crashing::sigabrt           | {-signal.SIGABRT}
bus error          | crashing::sigbus            | {-signal.SIGBUS}
division           | crashing::sigfpe            | {-signal.SIGFPE}
in a thread        | crashing::crash_in_a_thread | {-signal.SIGSEGV}
illegal            | crashing::raise:{int(signal.SIGILL)} | {-signal.SIGILL}
"""
OUR_CRASHES = f"""
stack overflow     | crashing::stack_overflow     | {-signal.SIGSEGV}
after a print      | descriptors::print_and_crash | {-signal.SIGABRT}
"""
CXX_CRASHES = f"""
exception          | cxx::uncaught      | {-signal.SIGABRT}
forgotten thread   | cxx::forget_thread | {-signal.SIGABRT}
"""
# No crash report can name these.
OTHER_ENDS = f"""{CRASHES}\
kill     | crashing::raise:{int(signal.SIGKILL)} | {-signal.SIGKILL}
_exit(0) | exiting::_exit:0 | 0
_exit(7) | exiting::_exit:7 | 7
"""


@rows("task, status", OTHER_ENDS, ours=OUR_CRASHES, cxx=CXX_CRASHES)
def test_a_crash_ends_stdout_and_shows_in_the_status(spawn, task, status):
    child = spawn()
    assert child.serves()
    child.send(ask(task) + request("buffers", "echo"))
    assert child.read_to_end() == (b"", status)


@ours
@rows("task, status", CRASHES, ours=OUR_CRASHES, cxx=CXX_CRASHES)
def test_a_crash_report_names_the_task_after_its_prints(spawn, task, status):
    child = spawn()
    assert child.call("descriptors", "print_unflushed") == [1]
    assert child.call("crashing", "no_such_task").variant == "TaskError"
    child.call("crashing", "raise:0")
    child.send(ask(task))
    assert child.read_to_end() == (b"", status)
    printed, _, report = child.stderr().partition("Fatal Python error")
    words = "last words" if "print_and_crash" in task else ""
    assert printed.startswith(f"unflushed{words}")
    named = [line for line in report.splitlines() if "::" in line]
    assert [line.rpartition(" in ")[2] for line in named] == [task]


@ours
def test_a_crash_report_needs_no_standard_descriptor(spawn):
    child = spawn()
    assert child.call("descriptors", "close_standard") == [1]
    child.send(ask("crashing::sigsegv"))
    assert child.read_to_end() == (b"", -signal.SIGSEGV)
    assert "in crashing::sigsegv\n" in child.stderr()


# In a thread, while the main one has the loader's lock.
THREAD = "pthread_t t; pthread_create(&t,0,(void*){},0); pthread_join(t,0)"


# Each may call a function. The thread needs more runs than one.
WHILE_LOADING = f"""
constructor | -DCONSTRUCTOR=((void(*)(int)){{}})(0)        | 1
init        | -DINIT=(((void(*)(int)){{}})(0),number(0))   | 1
thread      | -DCONSTRUCTOR={THREAD}                     | 20
"""


@ours
@rows("end, status", {"abort": ("abort", -signal.SIGABRT), "exit": ("exit", 1)})
@rows("flag, runs", WHILE_LOADING)
def test_an_end_while_a_package_loads_names_it(
    spawn, stage_odd, flag, runs, end, status
):
    directory = stage_odd(flag.format(end))
    for _ in range(runs):
        child = spawn(directory)
        child.send(ask("odd::answer"))
        assert child.read_to_end() == (b"", status)
        assert "odd (loading)" in child.stderr()
        if end == "exit":
            loading = {"during": "odd (loading)"}
            check_error(child, "Native code called exit.", "odd::answer", **loading)
        child.kill()


@ours
def test_the_kernel_refuses_large_outputs_at_a_bad_address(spawn):
    child = spawn()
    child.send(ask("crashing::invalid_outputs:100000"))
    assert child.read_to_end() == (b"", 1)
    message = "A task returned outputs at an invalid pointer."
    reason = {"err": "[Errno 14] Bad address"}
    check_error(child, message, "crashing::invalid_outputs:100000", **reason)


@ours
@pytest.mark.parametrize(
    "task",
    [
        "crashing::invalid_outputs:100",
        "crashing::invalid_error",
        "crashing::bad_free",
        "buffers::bad_error",
    ],
)
def test_a_crash_after_the_call_names_the_task(spawn, task):
    """The executor itself crashes on what the task returned."""
    child = spawn()
    child.send(ask(task))
    output, status = child.read_to_end()
    assert output == b"" or "free" in task
    assert status in (-signal.SIGSEGV, -signal.SIGABRT)
    assert f"in {task}\n" in child.stderr()


@ours
@pytest.mark.parametrize(
    "task", ["exit:0", "exit:3", "exit_from_a_thread:0", "exit_beside_a_reader:0"]
)
def test_exit_in_a_task_is_no_clean_end(spawn, task):
    child = spawn()
    assert child.call("exiting", "print_at_exit") == [1]
    child.send(ask(f"exiting::{task}"))
    assert child.read_to_end() == (b"", 1)
    check_error(child, "Native code called exit.", f"exiting::{task}")


@contextmanager
def full_log(spawn):
    """An executor whose log pipe is full, and the reading end of the pipe."""
    log, stderr = os.pipe()
    with open(log, "rb", 0) as reader, open(stderr, "wb", 0) as writer:
        while select.select([], [writer], [], 0)[1]:
            writer.write(bytes(4096))
        yield spawn(stderr=writer), reader


@ours
@pytest.mark.parametrize("threads", [8, 40])
def test_threads_that_exit_together_never_end_it_cleanly(spawn, threads):
    """Each takes one exit handler off the list of the C library.

    The first one waits until its ERROR line is written.
    """
    for _ in range(200 if FULL else 3):
        with full_log(spawn) as (child, reader):
            child.send(ask(f"exiting::exit_together:{threads}"))
            time.sleep(0.2)
            reader.read(1 << 20)
            assert child.read_to_end() == (b"", 1)
            child.kill()


@ours
def test_exit_in_a_signal_handler_is_never_a_clean_end(spawn):
    """It interrupts whatever the executor does.

    It may hang. Then the parent's timeout ends it.
    """
    ended = 0
    for _ in range(1000 if FULL else 20):
        child = spawn()
        child.send(ask("exiting::exit_in_a_handler:0"))
        child.send(request("buffers", "echo") * 200)
        try:
            # stdin stays open: its end would be a clean end.
            child.process.wait(2)
        except subprocess.TimeoutExpired:
            child.kill()
            continue
        # Python's code in a signal handler can crash, too.
        assert child.process.returncode != 0
        child.check_log()
        child.kill()
        ended += child.process.returncode == 1
    assert ended


# --------------------------------------------------------------------------------- fork

RETURNED = "A child forked by a package returned into the executor."


@ours
@pytest.mark.parametrize(
    "task", ["return_twice", "return_twice_failing", "return_twice_by_clone"]
)
def test_a_child_that_returns_from_a_task_never_answers(spawn, task):
    child = spawn()
    assert child.call("exiting", "print_at_exit") == [1]
    child.send(ask(f"forking::{task}"))
    assert executor.outcome(child.receive()) == [1]  # the child's exit status
    assert child.serves()
    assert child.finish() == (b"", 0)
    check_error(child, RETURNED, f"forking::{task}", parent=child.pid)
    # The child runs no exit handlers.
    assert child.stderr().count("handler\n") == 1


# Flags, the functions of the package that are called, and the variant of the error.
FORKS_WHILE_LOADING = f"""
constructor | -DCONSTRUCTOR=fork_and_wait() | load version name execute | None
constructor and init | -DCONSTRUCTOR=fork_and_wait() {odd.INIT_GOOD}
  | load version name init execute | None
constructor and wrong version | -DCONSTRUCTOR=fork_and_wait() -DVERSION=9,9,9
  | load version unload | IncompatibleVersion
constructor and no execute | -DCONSTRUCTOR=fork_and_wait() -DNO_EXECUTE
  | load version name | InvalidLibrary
init | -DINIT=(fork_and_wait(),number(0)) | load version name init execute | None
failing init | -DINIT=(fork_and_wait(),failure("Custom","no"))
  | load version name init | PackageInitError
"""


@ours
@rows("flags, calls, variant", FORKS_WHILE_LOADING)
def test_a_child_that_returns_from_loading_does_nothing(
    spawn, stage_odd, tmp_path, flags, calls, variant
):
    trace = odd.Trace(tmp_path)
    child = spawn(stage_odd(*flags.split()), env=trace.env)
    child.send(ask("odd::child"))
    found = executor.outcome(child.receive())
    # The exit status of the child, or the error.
    assert found == [1] if variant is None else found.variant == variant
    assert trace.take() == calls.split()
    assert child.finish() == (b"", 0)
    check_error(child, RETURNED, "odd::child", parent=child.pid)


@rows(
    "task, status",
    """
exits with 0 | exit_in_child:0 | 0
exits with 5 | exit_in_child:5 | 5
forks        | fork_twice      | 0
closes       | close_and_fork  | 0
""",
)
def test_a_child_may_exit_or_fork(spawn, task, status):
    child = spawn()
    assert child.call("forking", task) == [status]
    assert child.serves()
    child.end_silently()


@ours
def test_a_program_that_outlives_a_crash_delays_nothing(spawn):
    child = spawn()
    child.send(ask("forking::leave_program_and_crash"))
    assert child.read_to_end() == (b"", -signal.SIGABRT)
    os.killpg(child.pid, 0)  # the program lives


def test_threads_that_fork_leave_no_child_that_hangs(spawn):
    """A handler around fork that takes Python's lock makes such children hang."""
    echoes = request("buffers", "echo", 1) * 200
    for _ in range(200 if FULL else 3):
        child = spawn()
        assert child.call("forking", "start_forking:4") == [4]
        for _ in range(5):
            forks = child.call("forking", "count_forks")
            replies = child.exchange(echoes, 37 * 200)
            assert executor.responses(replies) == [[1]] * 200
            executor.wait_for(
                lambda: child.call("forking", "count_forks") > forks,  # noqa: B023
                "a fork",
            )
        assert child.call("forking", "stop_forking") == [0]
        assert child.call("forking", "fork_in_new_threads:20") == [20]
        assert child.finish() == (b"", 0)


# ---------------------------------------------------------------- a parent that is gone

WAITS = 'fputs("waiting\\n",stderr),pause()'
GONE = "The parent is gone while a task runs."


@ours
@rows(
    "closes_input",
    {
        "stdout": False,
        "both": True,
    },
)
@pytest.mark.parametrize("task", ["crashing::hang", "crashing::spin"])
def test_a_task_ends_when_nobody_reads_stdout(spawn, task, closes_input):
    child = spawn()
    child.send(ask(task))
    executor.wait_for(child.stderr, "the task")
    child.close_output()
    if closes_input:
        child.close_input()
    assert child.wait() == 1
    check_error(child, GONE, task)


@ours
@pytest.mark.parametrize(
    "flag", [f"-DINIT=({WAITS},number(0))", f"-DCONSTRUCTOR={WAITS}"]
)
def test_loading_ends_when_nobody_reads_stdout(spawn, stage_odd, flag):
    child = spawn(stage_odd(flag))
    child.send(ask("odd::answer"))
    executor.wait_for(child.stderr, "the call")
    child.close_output()
    assert child.wait() == 1
    check_error(child, GONE, "odd::answer", during="odd (loading)")


@ours
@pytest.mark.parametrize("before", ["buffers::echo", "none::task", "buffers::none"])
def test_the_watchdog_sleeps_beside_an_idle_executor(spawn, before):
    """After a success, a failed load or an error, no task runs."""
    child = spawn()
    child.call(*before.split("::"))
    (watchdog,) = set(process.threads(child.pid)) - {child.pid}
    child.close_output()

    def sleeps():
        states = set()
        for _ in range(200):
            time.sleep(0.001)
            states.add(process.state(child.pid, watchdog))
        return states == {"S"}

    executor.wait_for(sleeps, "the watchdog to sleep")
    child.close_input()
    assert child.wait() == 0
    assert child.stderr() == ""


@ours
@rows(
    "task",
    """
exit handler | exiting::wait_in_an_exit_handler
destructor   | exiting::wait_in_a_destructor
""",
    cxx="C++ destructor | cxx::wait_in_a_destructor",
)
def test_an_end_that_waits_is_over_when_the_parent_is_gone(spawn, task):
    child = spawn()
    assert child.call(*task.split("::")) == [1]
    child.close_input()
    executor.wait_for(lambda: "waiting" in child.stderr(), "the exit handler")
    time.sleep(0.4)
    assert child.process.poll() is None  # the parent is there
    child.close_output()
    assert child.wait() == 1


@ours
def test_exit_handlers_have_time_when_the_parent_is_gone(spawn):
    child = spawn()
    assert child.call("exiting", "sleep_in_an_exit_handler:500") == [1]
    child.close_input()
    executor.wait_for(lambda: "sleeping" in child.stderr(), "the exit handler")
    child.close_output()
    assert child.wait() == 0
    assert child.stderr() == "sleeping\nslept\n"


@ours
def test_the_watchdog_does_not_block_on_a_full_log_pipe(spawn):
    with full_log(spawn) as (child, _):
        child.send(ask("crashing::hang"))
        child.close_output()
        assert child.wait() == 1


# ------------------------------------------------------------------------------ signals


@ours
@pytest.mark.parametrize(
    "task", ["wait_on_a_thread", "read_signalfd", "handle_on_main"]
)
def test_signals_for_a_tasks_threads_land_on_no_other(spawn, task):
    assert spawn().call("signals", task) == [50]


@ours
def test_all_threads_but_the_main_one_block_all_signals(spawn):
    child = spawn()
    assert child.serves()
    (watchdog,) = set(process.threads(child.pid)) - {child.pid}
    assert process.blocked_signals(child.pid, child.pid) == set()
    # The C library keeps 32 and 33 for itself, and nobody can block two others.
    expected = set(range(1, 65)) - {32, 33, 34, signal.SIGKILL, signal.SIGSTOP}
    assert expected <= process.blocked_signals(child.pid, watchdog)


@rows("size, count", {"small": (30_000, 10), "large": (8_000_000, 1)})
def test_a_signal_that_interrupts_a_write_costs_no_byte(spawn, size, count):
    """The pipe is full when a timer's signal comes. Part of a reply is written then."""
    child = spawn()
    assert child.call("signals", "interrupt") == [1]
    child.send(request("buffers", f"filled:{size}") * count)
    stdout = child.process.stdout
    executor.wait_for(lambda: select.select([stdout], [], [], 0)[0], "a reply")
    time.sleep(0.05)
    expected = (bytes(range(251)) * (size // 251 + 1))[:size]
    for _ in range(count):
        assert child.receive().outcome.outputs == expected


# --------------------------------------------------------------------- what tasks leave

LEFT = """
threads           | process::threads:8
environment       | process::change_environment
empty environment | process::clear_environment
umask             | process::change_umask
locale            | process::change_locale
blocked signals   | signals::block_all
default actions   | signals::restore_defaults
"""
# Spider's executor loses a relative package directory, and it unloads the handler of a
# timer's signals before it exits.
OUR_LEFT = """
directory         | process::change_directory
timer             | signals::interrupt
"""


@rows("task", LEFT, ours=OUR_LEFT)
def test_what_a_task_leaves_does_not_matter_to_the_next(spawn, package_dir, task):
    child = spawn(package_dir.name, cwd=str(package_dir.parent))
    assert child.call(*task.split("::")) == [1]
    for _ in range(100):
        assert child.serves()
    # Long enough for a few of the timer's signals.
    assert child.call("integration_test_tasks", "fibonacci", 30) == [832040]
    assert child.call("missing", "task").variant == "InvalidLibrary"
    child.end_silently()


# Limits, and whether a package can still be loaded.
LIMITS = """
core    | CORE    | True
file    | FSIZE   | True
locked  | MEMLOCK | True
threads | NPROC   | True
"""
OUR_LIMITS = """
stack   | STACK   | True
data    | DATA    | True
memory  | AS      | False
files   | NOFILE  | False
"""


@rows("name, can_load", LIMITS, ours=OUR_LIMITS)
def test_a_limit_of_0_that_a_task_leaves(spawn, name, can_load):
    child = spawn()
    assert child.serves()
    limit = getattr(resource, f"RLIMIT_{name}")
    assert child.call("process", f"limit:{limit}") == [1]
    for _ in range(100):
        assert child.serves()
    found = child.call("odd", "answer")
    assert found == [1] if can_load else found.variant == "InvalidLibrary"
    assert child.serves()
    child.end_silently()


@ours
def test_a_package_can_use_the_interpreter_it_runs_in(spawn):
    child = spawn()
    for task in ("import", "run", "import", "run"):
        assert child.call("python", task) == [1]
    child.end_silently()
