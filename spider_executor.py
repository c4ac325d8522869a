#!/usr/bin/env -S python3 -IS
"""A task executor for Spider in Python, on the standard library alone.

Without arguments it serves a Spider execution manager: it reads framed requests
on stdin, loads native task packages, calls their tasks on its main thread, and
writes framed responses to stdout. The library of a package is
`$SPIDER_TDL_PACKAGE_DIR/<package>/lib<package>.so`. Logs are JSON lines on stderr.
With arguments it is a command line; see `--help`. protocol.py has the wire format.

The sections of this file:

    process     how the executor starts and ends, and what it logs when it fails
    serve       the loop: find the fields of a request, find the task, answer
    channel     the pipes to the parent, and the buffer that requests are read into
    packages    the package ABI: load libraries, and decode what they return
    guards      crash reports, `exit` called by native code, a parent that is gone
    logs        RUST_LOG, and one JSON object per line
    handle      ExecutorHandle, for Python programs that drive executors
    commands    `run` and `check`
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    # An isolated interpreter does not look for modules in the script's directory.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

# The start of an executor is short: signal, threading and typing take longer to import.
import _signal
import _thread
import ctypes
import errno
import faulthandler
import select
import time
from ctypes import CFUNCTYPE, c_char, c_size_t, c_uint8, c_uint32, c_void_p, py_object
from struct import Struct
from struct import error as StructError
from time import monotonic, monotonic_ns
from types import FunctionType

import protocol
from protocol import (
    FRAME_HEADER_SIZE,
    RESPONSE_DATA_MAX,
    Execute,
    ExecutorError,
    ProtocolError,
    TaskContext,
    TdlError,
    encode_frame,
    encode_request,
    pack_values,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Iterator, NoReturn

__all__ = [
    "ExecutorCrash",
    "ExecutorHandle",
    "TaskTimeout",
    "TdlPackage",
    "TdlPackageManager",
    "main",
    "own_command",
]
__version__ = "0.2.0"

# The C library, and the loader. Calls of its functions release Python's lock.
_libc = ctypes.CDLL(None)

# ---------------------------------------------------------------------------- process

_EXIT_FAILURE = 1
_PACKAGE_DIR_VARIABLE = "SPIDER_TDL_PACKAGE_DIR"


class _ForkedChild(Exception):
    """A child that a package forked has returned into the executor."""


class _State:
    """What the loop, the exit handler and the watchdog share."""

    def __init__(self, log: _Log) -> None:
        self.log = log
        self.pid = os.getpid()
        # The current request up to the end of task_func, or the last one.
        self.request = b""
        # The arguments of its call: the task's name, raw_ctx and raw_inputs.
        self.views: Any = (_View * 3)()
        # Whether native code runs, and whether that is a package being loaded.
        self.is_running = False
        self.is_loading = False
        self.is_ending = False
        self.exit_handler: Any = None

    def task_fields(self) -> Any:
        """Return the log fields that name the current task, or the last one."""
        fields: Any = {}
        context = self.views[1]
        try:
            package, task, _ = protocol.decode_names(self.request, 0, len(self.request))
            fields["task"] = f"{package}::{task}"
            if self.is_loading:
                fields["during"] = f"{package} (loading)"
            ids, _ = protocol.decode_task_ids(
                _read_memory(context.pointer, context.length)
            )
            fields.update(zip(("job_id", "task_id", "task_instance_id"), ids))
        except ProtocolError:
            pass  # There was no task yet, or its context cannot be decoded.
        return fields


def _serve_process() -> NoReturn:
    """Serve on stdin and stdout, then end the process.

    The exit code is 0 after Shutdown and at the end of stdin, otherwise 1.
    """
    level, unreadable = _parse_log_filter(os.environ.get("RUST_LOG", ""))
    log = _Log(2, level)
    state = _State(log)
    status = _EXIT_FAILURE
    # Memory for the ERROR line, if there is no other.
    reserve = bytearray(32768)
    try:
        _restore_signals_and_libc()
        input_fd, output_fd, log.fd = _take_standard_streams()
        log.write(_INFO, "Executor starts.")
        # These warnings appear at every level.
        always = _Log(log.fd, _WARN)
        for directive in unreadable:
            always.write(
                _WARN,
                "RUST_LOG: expected LEVEL or TARGET=LEVEL; skipped one.",
                directive=directive,
            )
        if os.isatty(input_fd):
            always.write(_WARN, "stdin is a terminal; see --help for the commands.")
        manager = TdlPackageManager(_package_dir(log))
        channel = _Channel(input_fd, output_fd)
        _restore_environment()
        _guard(state, output_fd)
        _serve(channel, manager, state)
        log.write(_INFO, "Executor exits.")
        status = 0
    except _ForkedChild:
        log.write(
            _ERROR,
            "A child forked by a package returned into the executor.",
            parent=state.pid,
            **state.task_fields(),
        )
        os._exit(_EXIT_FAILURE)
    except ProtocolError as error:
        log.write(_ERROR, "Protocol error on stdin.", err=error)
    except Exception as error:
        reserve.clear()
        # Without a request, it is the start that has failed.
        log.write(
            _ERROR,
            _ending(error) if state.request else "The executor cannot start.",
            err=str(error) or type(error).__name__,
            **state.task_fields(),
        )
    finally:
        state.is_ending = True
        try:
            # Not sys.exit: the guards need the interpreter until the end.
            _libc.exit(status)
        finally:
            os._exit(status)


def _ending(error: Exception) -> str:
    """Say what has ended the loop."""
    if isinstance(error, (MemoryError, SystemError)):
        # CPython can raise SystemError if it has no memory for a frame.
        return "Out of memory."
    if isinstance(error, BrokenPipeError):
        return "The parent no longer reads responses."
    if not isinstance(error, OSError):
        return "Internal error; please report it."
    if error.errno == errno.EFAULT:
        return "A task returned outputs at an invalid pointer."
    return "The pipe to the parent broke."


def _restore_signals_and_libc() -> None:
    """Undo what Python does to signals and the locale, and let libc print at once.

    SIGPIPE stays ignored: a write to a broken pipe must fail, not end the process.
    """
    # Python's handler of SIGINT cannot run inside native code.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)
    _libc.setlocale(6, b"C")  # LC_ALL
    # What tasks print is written at once: it must survive a crash.
    stdout = c_void_p.in_dll(_libc, "stdout")
    _libc.setvbuf(stdout, None, 2, 0)  # _IONBF


def _take_standard_streams() -> list[int]:
    """Move stdin, stdout and stderr to private descriptors, and give tasks others.

    Tasks get a stdin that is at its end, and stderr as their stdout. Raises OSError,
    and RuntimeError if stdin or stdout is closed.
    """
    for fd, name in enumerate(("stdin", "stdout")):
        if not _is_inherited(fd):
            raise RuntimeError(
                f"{name} is closed; expected a pipe from the execution manager"
            )
        os.set_blocking(fd, True)
    if not _is_inherited(2):
        # closerange does not raise if 2 is closed. Then 2 is the lowest free number.
        os.closerange(2, 3)
        os.set_inheritable(_open_null(), True)
    # Tasks are unlikely to close high numbers.
    first = max(3, min(os.sysconf("SC_OPEN_MAX"), 4096) - 16)
    private = [os.dup2(fd, first + fd, inheritable=False) for fd in range(3)]
    at_end, writing = os.pipe()
    os.close(writing)
    os.dup2(at_end, 0)
    os.close(at_end)
    os.dup2(2, 1)
    return private


def _is_inherited(fd: int) -> bool:
    """Return False if fd was closed at start.

    A library can have opened a file with this number since; that is close-on-exec.
    """
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _open_null() -> int:
    """Open /dev/null. Some chroots have none: there, writes fail with EBADF."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        return os.open("/", os.O_PATH)


def _package_dir(log: _Log) -> str:
    """Return the package directory. Raises RuntimeError if the variable is not set."""
    path = os.environ.get(_PACKAGE_DIR_VARIABLE)
    if not path:
        raise RuntimeError(
            "SPIDER_TDL_PACKAGE_DIR is not set or empty;"
            " expected the directory of the packages"
        )
    if not os.path.isdir(path):
        # It may be a volume that is mounted later.
        log.write(
            _WARN,
            "SPIDER_TDL_PACKAGE_DIR is not a directory; requests fail until it exists.",
            path=path,
        )
    return path


def _restore_environment() -> None:
    """Undo what Python does to LC_CTYPE when it starts in the C locale."""
    # Remove the variable, and put it back if the process was started with it.
    value = os.environb.pop(b"LC_CTYPE", b"UTF-8")
    try:
        with open("/proc/self/environ", "rb") as file:
            _, name, rest = (b"\0" + file.read()).partition(b"\0LC_CTYPE=")
        value = rest.partition(b"\0")[0]
        is_given = name != b""
    except OSError:
        # There is no /proc. Python sets one of these values, so another one was given.
        # A variable that is missing has the default above, and stays missing.
        is_given = value not in (b"C.UTF-8", b"C.utf8", b"UTF-8")
    if is_given:
        os.environb[b"LC_CTYPE"] = value


# ------------------------------------------------------------------------------ serve

# Tasks are cached by package and name. Both limits bound the cache.
_TASKS_MAX = 4096
_KEY_SIZE_MAX = 512

_set_views = Struct("PNPNPN").pack_into


def _serve(channel: _Channel, manager: TdlPackageManager, state: _State) -> None:
    """Answer requests until Shutdown or the end of stdin.

    Raises ProtocolError, OSError, MemoryError, and _ForkedChild in a child.
    """
    log = state.log
    buffer = channel.buffer
    address = channel.address
    # The payload without values: a count of 0, in 4 bytes.
    empty_payload = c_uint32(0)
    # For each task, the function that answers its requests. The key is the bytes of a
    # request up to the end of task_func.
    answers: dict[bytes, Any] = {}

    for start, end in channel.bodies():
        fields = protocol.locate_request(buffer, start, end)
        if fields is None:
            # This is a Shutdown, or decoding it raises ProtocolError. Decode a copy:
            # offsets in errors count from the start of the body.
            protocol.decode_request(buffer[start:end])
            log.write(_INFO, "Received shutdown request.")
            return
        task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size = fields
        inputs = address + inputs_at
        if inputs_size == 0:
            # The inputs of a cleanup task have zero bytes, which Rust packages refuse.
            inputs = ctypes.addressof(empty_payload)
            inputs_size = 4
        _set_views(
            state.views,
            0,
            address + task_at,
            task_size,
            address + ctx_at,
            ctx_size,
            inputs,
            inputs_size,
        )
        key = buffer[start : task_at + task_size]
        state.request = key
        if log.level >= _DEBUG:
            log.write(_DEBUG, "Task starts.", **state.task_fields())

        started = monotonic_ns()
        outcome = "success"
        try:
            answer = answers.get(key)
            if answer is None:
                answer = _find_task(key, channel, manager, state)
                if len(answers) < _TASKS_MAX and len(key) <= _KEY_SIZE_MAX:
                    answers[key] = answer
            elapsed_us, size = answer(started)
        except ExecutorError as error:
            outcome = error.variant
            data = error.encode()
            if len(data) > RESPONSE_DATA_MAX:
                data = _too_large("an error", len(data)).encode()
            size = len(data)
            elapsed_us = channel.send(protocol.FAILURE, data, started)
        if log.level >= _DEBUG:
            log.write(
                _DEBUG,
                "Task ended.",
                **state.task_fields(),
                outcome=outcome,
                elapsed_us=elapsed_us,
                response_size=size,
            )


def _find_task(
    key: bytes, channel: _Channel, manager: TdlPackageManager, state: _State
) -> Any:
    """Return the function that answers requests for a task.

    Load its package if needed. Raises ExecutorError.
    """
    name, task, _ = protocol.decode_names(key, 0, len(key))
    package = manager.loaded.get(name)
    if package is None:
        # A crash in `load` is reported under this name.
        load = _named(TdlPackageManager.load, f"{name} (loading)")
        state.is_running = state.is_loading = True
        try:
            package = load(manager, name)
        except ExecutorError as error:
            state.log.write(
                _WARN, "A package cannot be loaded.", package=name, err=error
            )
            raise
        finally:
            state.is_running = state.is_loading = False
        if package.name != name:
            state.log.write(
                _WARN,
                "A package declares another name.",
                package=name,
                declared=package.name,
            )
    return _named(
        _answer,
        f"{name}::{task}",
        package.execute,
        # They share the memory of state.views: each call sees its own request.
        tuple(state.views),
        channel,
        state,
    )


def _answer(
    started: int, execute: Any, arguments: Any, channel: _Channel, state: _State
) -> tuple[int, int]:
    """Call a task, send its outputs, and free them.

    Each task has a copy of this function that is named after it. So whatever crashes
    here is reported under its name, an invalid pointer and a damaged heap included.
    Returns the elapsed time in microseconds and the size of the outputs in bytes.
    Raises ExecutorError if the task failed.
    """
    state.is_running = True
    result = execute(*arguments)
    state.is_running = False
    is_error, pointer, size = _unpack_result(result)
    if is_error:
        raise _package_error("TaskError", pointer, size)
    if size > RESPONSE_DATA_MAX:
        _free(pointer)
        raise _too_large("outputs", size)
    if size and not pointer:
        text = f"the task returned {size} bytes of outputs at a NULL pointer"
        raise ExecutorError("TaskError", TdlError("SerializationError", text))
    elapsed_us = channel.send(protocol.SUCCESS, _read_memory(pointer, size), started)
    if size:
        _free(pointer)
    return elapsed_us, size


def _named(function: Any, name: str, *defaults: object) -> Any:
    """Copy a function under a name that crash reports show.

    `defaults` are the values of its last parameters: the caller passes the others.
    """
    # faulthandler shows 500 characters of a name.
    code = function.__code__.replace(co_name=name[:400])
    return FunctionType(code, globals(), name, defaults)


# ---------------------------------------------------------------------------- channel

_FRAME_MAX = FRAME_HEADER_SIZE + protocol.FRAME_BODY_MAX
# Up to this size, data is copied so that a response is one write.
_COPY_MAX = 32768
_PIPE_SIZE = 65536
_LARGE_PIPE_SIZE = 262144
# fcntl.h of Linux. The module fcntl has these names since CPython 3.10 only.
_F_SETPIPE_SZ = 1031
_F_GETPIPE_SZ = 1032


class _Channel:
    """The pipes to the parent, and the buffer for requests. Raises MemoryError."""

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self._input_fd = input_fd
        self._output_fd = output_fd
        # A child that was forked by a package must not answer.
        self._pid = os.getpid()
        # The kernel copies faster to memory that starts at a page boundary. Pages that
        # were never used take no memory.
        _libc.calloc.restype = c_void_p
        memory = _libc.calloc(c_size_t(_FRAME_MAX + 4096), 1)
        if not memory:
            raise MemoryError("there is no memory for the largest frame")
        self.address: int = (memory | 4095) + 1
        self.buffer: Any = (c_char * _FRAME_MAX).from_address(self.address)

    def bodies(self) -> Iterator[tuple[int, int]]:
        """Yield where each body starts and ends in the buffer, until stdin ends.

        A body stays valid until the next one is asked for. Raises ProtocolError,
        OSError.
        """
        view = memoryview(self.buffer).cast("B")
        whole = [view]
        # The bytes from `start` to `filled` were read and not yielded yet.
        start = 0
        filled = 0
        while True:
            if filled - start >= FRAME_HEADER_SIZE:
                end = protocol.frame_end(view, start)
                if end <= filled:
                    yield start + FRAME_HEADER_SIZE, end
                    start = end
                    if start == filled:
                        start = filled = 0
                    continue
                if end - start > _PIPE_SIZE:
                    _enlarge_pipe(self._input_fd)
            if start:
                # Move an incomplete frame to the start, where every frame fits.
                view[: filled - start] = view[start:filled]
                filled -= start
                start = 0
            count = os.readv(self._input_fd, [view[filled:]] if filled else whole)
            if count == 0:
                if filled == 0:
                    return
                raise protocol.TruncatedError(
                    f"expected the rest of a frame, found the end after {filled} bytes"
                )
            filled += count

    def send(self, outcome_tag: int, data: Any, started: int) -> int:
        """Write a response.

        `started` is the monotonic time in nanoseconds at which its work began. Returns
        the elapsed time in microseconds, which is part of the response. Raises OSError,
        and _ForkedChild in a child.
        """
        if os.getpid() != self._pid:
            raise _ForkedChild
        # The clock of a virtual machine can step back.
        elapsed_us = max(0, monotonic_ns() - started + 500) // 1000
        size = len(data)
        head = protocol.response_head(outcome_tag, size)
        tail = protocol.response_tail(elapsed_us)
        parts = (head, data, tail)
        if size <= _COPY_MAX:
            written = os.write(self._output_fd, b"".join(parts))
        else:
            if size > _PIPE_SIZE:
                _enlarge_pipe(self._output_fd)
            written = os.writev(self._output_fd, parts)
        while written < len(head) + size + len(tail):
            # A signal has interrupted the write.
            written += os.write(self._output_fd, b"".join(parts)[written:])
        return elapsed_us


def _enlarge_pipe(fd: int) -> None:
    """Enlarge a pipe of the default size.

    Only large frames need this, and all pipes of a user share a small budget.
    """
    if _libc.fcntl(fd, _F_GETPIPE_SZ) == _PIPE_SIZE:
        _libc.fcntl(fd, _F_SETPIPE_SZ, _LARGE_PIPE_SIZE)


# --------------------------------------------------------------------------- packages
#
# The package ABI. Structures are passed and returned by value.


class _Version(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32)]


class _View(ctypes.Structure):
    _fields_ = [("pointer", c_void_p), ("length", c_size_t)]


class _Result(ctypes.Structure):
    # Not c_bool: any byte but 0 is an error.
    _fields_ = [("is_error", c_uint8), ("pointer", c_void_p), ("length", c_size_t)]


# The fields of a _Version, and those of a _Result with the platform's padding.
_unpack_version = Struct("III").unpack_from
_unpack_result = Struct("BPN").unpack_from

# The symbol and the signature of each function. The package owns the memory of its
# name. The buffer of a _Result comes from malloc, and the executor frees it. If its
# length is 0, the pointer may be invalid: it is neither read nor freed. Views that are
# passed to `execute` are valid during the call.
_GET_VERSION = (b"__spider_tdl_package_get_version", CFUNCTYPE(_Version))
_GET_NAME = (b"__spider_tdl_package_get_name", CFUNCTYPE(_View))
# A package need not have this one.
_INIT = (b"__spider_tdl_package_init", CFUNCTYPE(_Result))
# The arguments are the task's name, raw_ctx and raw_inputs.
_EXECUTE = (
    b"__spider_tdl_package_execute",
    CFUNCTYPE(_Result, _View, _View, _View),
)

# The version of Spider's own executor is the version of the package ABI, too. That of
# this program is __version__.
_ABI_VERSION = (0, 1, 0)
# A longer name means that the package did not set the length.
_DECLARED_NAME_MAX = 65536

_libc.dlopen.restype = c_void_p
_libc.dlsym.restype = c_void_p
_libc.dlerror.restype = ctypes.c_char_p
_free = _libc.free
_free.argtypes = [c_void_p]
_free.restype = None


class TdlPackageManager:
    """The packages of one directory, whose path is str, bytes or os.PathLike.

    Each is loaded when it is first requested, and stays loaded. `loaded` has the
    packages by the names that they were requested under.
    """

    def __init__(self, package_dir: Any) -> None:
        # A relative path belongs to the directory in which the process was started.
        try:
            start = os.getcwdb()
        except OSError:
            start = b"/(the working directory is gone)"
        self._package_dir = os.path.join(start, os.fsencode(package_dir))
        self.loaded: dict[str, TdlPackage] = {}
        self._by_file: dict[bytes, TdlPackage] = {}

    def load(self, name: str) -> TdlPackage:
        """Return the package in `<package_dir>/<name>/lib<name>.so`.

        Load it if needed. Names that lead to one real path are one package. After a
        failure, the next request tries again. Raises ExecutorError.
        """
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise _invalid_library(
                "a package name is not empty, '.' or '..' and has no '/' or NUL;"
                f" found {name!a}",
                self._package_dir,
            )
        encoded = name.encode()
        path = b"%s/%s/lib%s.so" % (self._package_dir, encoded, encoded)
        file = os.path.realpath(path)
        if file not in self._by_file:
            taken = {package.name for package in self._by_file.values()}
            self._by_file[file] = TdlPackage(path, taken)
        self.loaded[name] = self._by_file[file]
        return self.loaded[name]


class TdlPackage:
    """A loaded package.

    `name` is the name that it declares, which must not be in the set `taken`.
    `execute` is its native function. Raises ExecutorError.
    """

    def __init__(self, path: bytes, taken: Any = ()) -> None:
        self._path = path
        self._pid = os.getpid()
        _check_elf(path)
        self._library = c_void_p(_libc.dlopen(path, os.RTLD_NOW | os.RTLD_LOCAL))
        if not self._library:
            raise self._loader_error()
        try:
            version = _unpack_version(self._function(_GET_VERSION)())
            # While the major number of the ABI is 0, major and minor must match.
            if version[:2] != _ABI_VERSION[:2]:
                raise ExecutorError("IncompatibleVersion", version + _ABI_VERSION)
            self.name = self._declared_name()
            if self.name in taken:
                raise ExecutorError("DuplicatePackage", self.name)
        except ExecutorError:
            _libc.dlclose(self._library)
            raise
        # From here on the library stays loaded, even after an error: threads and
        # handlers of the package may be in it.
        if _libc.dlsym(self._library, _INIT[0]):
            is_error, pointer, size = _unpack_result(self._function(_INIT)())
            if is_error:
                raise _package_error("PackageInitError", pointer, size)
            if size:
                _free(pointer)
        self.execute = self._function(_EXECUTE)

    def _function(self, function: Any) -> Any:
        """Look up a function by its symbol and signature."""
        if os.getpid() != self._pid:
            # A child that a constructor or another function has forked.
            raise _ForkedChild
        symbol, function_type = function
        address = _libc.dlsym(self._library, symbol)
        if address is None:
            raise self._loader_error()
        return function_type(address)

    def _declared_name(self) -> str:
        view = self._function(_GET_NAME)()
        size = view.length
        if size and (not view.pointer or size > _DECLARED_NAME_MAX):
            problem = f"the declared name has {size} bytes, or its pointer is NULL"
            raise _invalid_library(problem, self._path)
        try:
            return str(_read_memory(view.pointer, size), "utf-8")
        except UnicodeDecodeError as error:
            text = _with_path(f"the declared name: {error}", self._path)
            raise ExecutorError("InvalidUtf8", text) from None

    def _loader_error(self) -> ExecutorError:
        # The text is bytes, as the path is: no locale has a part in it. The loader has
        # none for a symbol whose address is 0.
        return _invalid_library(
            _show(_libc.dlerror() or b"a function of the package is NULL"), self._path
        )


def _too_large(what: str, size: int) -> ExecutorError:
    """Return the error that replaces a response of more than 8 MiB."""
    text = (
        f"the task returned {what} of {size} bytes;"
        f" a response holds at most {RESPONSE_DATA_MAX}"
    )
    return ExecutorError("TaskError", TdlError("SerializationError", text))


def _package_error(variant: str, pointer: Any, size: int) -> ExecutorError:
    """Decode and free the error that a package returned."""
    data = _read_memory(pointer, size) if pointer else b""
    try:
        return ExecutorError(variant, protocol.decode_tdl_error(data)[0])
    except ProtocolError as error:
        text = (
            f"the package returned an error of {len(data)} bytes that is not a"
            f" TdlError: {error}"
        )
        return ExecutorError("ErrorPayloadDeserializationFailure", text)
    finally:
        if size:
            _free(pointer)


# Memory of any size. Slice it to the size that the package returned.
_Memory: Any = c_char * (1 << 40)


def _read_memory(pointer: Any, size: int) -> Any:
    """Return native memory, copied if it is small.

    If the size is 0, the pointer may be invalid.
    """
    if size == 0:
        return b""
    memory = _Memory.from_address(pointer)
    if size <= _COPY_MAX:
        return memory[:size]
    return memoryview(memory).cast("B")[:size]


# https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html
# Header: magic, class and byte order; machine; where the segments are; how many.
_ELF_HEADER = Struct("<6s12xH12xQ16xH")
# Segment: type, offset and size in the file.
_ELF_SEGMENT = Struct("<I4xQ16xQ16x")
_PT_LOAD = 1
# 64 bits, little-endian.
_ELF_MAGIC = b"\x7fELF\2\1"
# For the machine and the size of a pointer in bytes.
_ELF_MACHINES = {("x86_64", 8): 62, ("aarch64", 8): 183}


def _check_elf(path: bytes) -> None:
    """Refuse files for which the loader would block, crash, or mislead.

    The loader reports everything else. Raises ExecutorError.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise _invalid_library("not a regular file", path)
    machine = os.uname().machine
    expected = _ELF_MACHINES.get((machine, ctypes.sizeof(c_void_p)))
    try:
        with open(path, "rb") as file:
            header = file.read(_ELF_HEADER.size)
            magic, found, segments_at, count = _ELF_HEADER.unpack(header)
            if not magic.startswith(b"\x7fELF") or expected is None:
                return
            if magic != _ELF_MAGIC or found != expected:
                raise _invalid_library(
                    f"built for another machine; this one is {machine}", path
                )
            file.seek(segments_at)
            table_size = count * _ELF_SEGMENT.size
            table = file.read(table_size)
            size = os.path.getsize(path)
    except (OSError, ValueError, StructError):
        return  # The loader says why.
    end = segments_at + table_size
    for kind, at, length in _ELF_SEGMENT.iter_unpack(table.ljust(table_size, b"\0")):
        if kind == _PT_LOAD:
            end = max(end, at + length)
    if end > size:
        raise _invalid_library(
            f"file cut short: expected {end} bytes, found {size}", path
        )


# Some managers show people only the first 500 characters of an error. A text of more
# than _ERROR_TEXT_MAX bytes is put together from both ends of the cause and the end of
# the path. The cause can begin with the path of a dependency, and end with a reason.
_ERROR_TEXT_MAX = 450
_CAUSE_START = 200
_CAUSE_END = 50
_PATH_END = 190


def _invalid_library(problem: str, path: bytes) -> ExecutorError:
    return ExecutorError("InvalidLibrary", _with_path(problem, path))


def _with_path(problem: str, path: bytes) -> str:
    """Return an error text with the path.

    If that is too long, put the cause first, cut its middle, and cut the start of the
    path.
    """
    shown = _show(path)
    text = problem if shown in problem else f"{problem}: {shown}"
    if len(text.encode()) <= _ERROR_TEXT_MAX:
        return text
    cause = problem.replace(f"{shown}: ", "").replace(shown, "this library").encode()
    if len(cause) > _CAUSE_START + _CAUSE_END:
        # The middle is the name of a symbol, or the path of another library.
        cause = cause[:_CAUSE_START] + b"..." + cause[-_CAUSE_END:]
    short = cause + b": ..." + shown.encode()[-_PATH_END:]
    return short.decode("utf-8", "ignore")


def _show(data: bytes) -> str:
    """Decode a path or a message, in which bytes can be outside UTF-8."""
    return data.decode("utf-8", "backslashreplace")


# ----------------------------------------------------------------------------- guards


def _guard(state: _State, output_fd: int) -> None:
    """Set up crash reports, the exit handler and the watchdog.

    Call this before a package is loaded.
    """
    # The C stack is named with the loader's help. If the main thread is in the loader,
    # that never ends.
    options: Any = {"c_stack": False} if sys.version_info >= (3, 14) else {}
    faulthandler.enable(state.log.fd, **options)

    # ctypes needs the object for as long as libc may call it.
    state.exit_handler = CFUNCTYPE(None, py_object)(_at_exit)
    # Each thread that calls `exit` takes one registered handler, and many threads can
    # do so together.
    for _ in range(64):
        _libc.__cxa_atexit(state.exit_handler, py_object(state), None)

    # The watchdog inherits the mask: signals are for the threads of tasks.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    is_polling = _thread.allocate_lock()
    is_polling.acquire()
    # The default, RLIMIT_STACK, can be as large as the limit on all memory.
    _thread.stack_size(262144)
    _thread.start_new_thread(_watch, (state, output_fd, is_polling))
    # Wait until it polls: if a task forks while the watchdog holds Python's lock, the
    # child can never get the lock.
    is_polling.acquire()
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _at_exit(state: _State) -> None:
    """End the process with 1 if native code has called `exit`.

    That must not look like a clean end. In a forked child, it is none of our business.
    If a signal handler calls `exit`, each line here can raise an exception: the
    `finally` ends the process all the same.
    """
    is_clean = False
    try:
        is_clean = state.is_ending or os.getpid() != state.pid
        if not is_clean:
            state.log.write(_ERROR, "Native code called exit.", **state.task_fields())
    finally:
        if not is_clean:
            os._exit(_EXIT_FAILURE)


def _watch(state: _State, output_fd: int, is_polling: _thread.LockType) -> None:
    """End the process if nobody reads its stdout while native code runs.

    That is a task, the loading of a package, or an exit handler. If nobody reads its
    stderr, replace that by /dev/null.
    """
    log_fd = state.log.fd
    broken = select.poll()
    writable = select.poll()
    # Events 0: poll reports only errors and hang-ups.
    broken.register(output_fd, 0)
    broken.register(log_fd, 0)
    writable.register(log_fd, select.POLLOUT)
    is_polling.release()
    while True:
        try:
            for fd, _ in broken.poll():
                if fd == log_fd:
                    _discard_prints(log_fd)
                    broken.unregister(log_fd)
                elif state.is_ending:
                    # Give exit handlers this long.
                    time.sleep(2.0)
                    os._exit(_EXIT_FAILURE)
                elif state.is_running:
                    # Do not block on a log pipe that is full.
                    if writable.poll(0):
                        state.log.write(
                            _ERROR,
                            "The parent is gone while a task runs.",
                            **state.task_fields(),
                        )
                    os._exit(_EXIT_FAILURE)
        except (OSError, MemoryError):
            pass  # A task has set a low limit.
        time.sleep(0.1)


def _discard_prints(log_fd: int) -> None:
    """Replace the broken log pipe by /dev/null wherever it is still open.

    Otherwise the next print can end a task.
    """
    pipe = os.fstat(log_fd)
    null = _open_null()
    for fd in (1, 2, log_fd):
        try:
            if os.path.samestat(os.fstat(fd), pipe):
                os.dup2(null, fd, inheritable=fd != log_fd)
        except OSError:
            pass  # A task has closed it.
    os.close(null)


# ------------------------------------------------------------------------------- logs

_LEVEL_NAMES = ("OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")
_ERROR = 1
_WARN = 2
_INFO = 3
_DEBUG = 4
_LOG_TARGET = "spider_task_executor"
# The manager drops lines of more than 64 KiB. An escaped character takes at most 12
# bytes.
_LOG_TEXT_MAX = 2000


def _parse_log_filter(text: str) -> tuple[int, list[str]]:
    """Read RUST_LOG.

    A directive is LEVEL, TARGET=LEVEL, or TARGET, which means trace. It counts if its
    target is a prefix of ours. The longest match wins, and among equals the last.
    Returns the level for this program and the directives that cannot be parsed.
    """
    levels = {}
    for number, name in enumerate(_LEVEL_NAMES):
        levels[str(number)] = number
        levels[name.lower()] = number
    level = _ERROR
    longest = -1
    unreadable = []
    for directive in filter(None, map(str.strip, text.split(","))):
        if not set("[]{}").isdisjoint(directive):
            continue  # A span, for a Rust package that reads the same variable.
        target, equals, name = map(str.strip, directive.rpartition("="))
        name = name.lower()
        if not equals and name not in levels:
            target = directive
            name = "trace"
        path = target.replace("::", "_").replace("-", "_")
        is_valid = path.isidentifier() or not (target or equals)
        if name not in levels or not is_valid:
            unreadable.append(directive)
        elif _LOG_TARGET.startswith(target) and len(target) >= longest:
            level = levels[name]
            longest = len(target)
    return level, unreadable


class _Log:
    """JSON lines, one write() each, to a private descriptor."""

    def __init__(self, fd: int, level: int) -> None:
        self.fd = fd
        self.level = level

    def write(self, level: int, message: str, **fields: object) -> None:
        """Write a line, unless the level filters it out. Failed writes are ignored."""
        if level > self.level:
            return
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        texts = [
            f'"{name}":{_json(value)}'
            for name, value in {"message": message, **fields}.items()
        ]
        line = (
            f'{{"timestamp":"{second}.{nanoseconds // 1000:06d}Z"'
            f',"level":"{_LEVEL_NAMES[level]}"'
            f',"fields":{{{",".join(texts)}}}'
            f',"filename":"spider_executor.py"'
            f',"line_number":{sys._getframe(1).f_lineno}}}\n'
        )
        # Fall back to fd 2 if a task has closed ours. If that fails, drop the line.
        for fd in (self.fd, 2):
            try:
                os.write(fd, line.encode())
                return
            except OSError:
                continue


def _json(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if len(text) > _LOG_TEXT_MAX:
        text = text[:_LOG_TEXT_MAX] + "..."
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_escape(text)}"'


def _escape(text: str) -> str:
    """Write characters that are not printable, such as controls, as JSON does."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape_character(ord(c)) for c in text)


def _escape_character(code: int) -> str:
    if code < 0x10000:
        return f"\\u{code:04x}"
    # A pair of surrogates, which share the bits of code - 0x10000.
    return f"\\u{0xD7C0 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


# ----------------------------------------------------------------------------- handle

# How long an executor may take to end, in seconds.
_END_TIMEOUT = 5.0

# python3 -ISc _START DIRECTORY [ARGUMENT ...] starts this program faster than -m.
# DIRECTORY has both modules. It may also be a zip archive of them.
_START = (
    "import sys;sys.path[:0]=sys.argv[1:2];import spider_executor as e;"
    "sys.exit(e.main(sys.argv[2:]))"
)
# A relative path is resolved before the program can change its working directory.
_DIRECTORY = os.path.dirname(os.path.realpath(__file__))


def own_command() -> list[str]:
    """Return the command that starts this program as an executor.

    Raises ValueError in a program that has no Python interpreter to start.
    """
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ValueError(
            "expected `command`, which starts an executor: this program is frozen or"
            " embeds Python, so there is no interpreter to start"
        )
    return [sys.executable, "-ISc", _START, _DIRECTORY]


class TaskTimeout(TimeoutError):
    """There was no response in time. The executor was killed."""


class ExecutorCrash(Exception):
    """The executor ended without a reply.

    `exit_code` is its exit code, or `signal` the name of the signal that ended it, such
    as "SIGSEGV". The other one is None. Both are None if the exit status is lost.
    """

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.exit_code = status
        self.signal: str | None = None
        if status is not None and status < 0:
            # The first name counts: SIGABRT, not SIGIOT, and SIGHUP, not SIG_UNBLOCK.
            names = {
                getattr(_signal, name): name
                for name in reversed(dir(_signal))
                if name.startswith("SIG")
            }
            self.exit_code = None
            self.signal = names.get(-status, f"signal {-status}")

    def __str__(self) -> str:
        if self.signal is not None:
            return f"the executor was killed by {self.signal}"
        if self.exit_code is not None:
            return f"the executor ended with exit code {self.exit_code}"
        return (
            "the executor ended; its exit status is lost, because this program ignores"
            " SIGCHLD"
        )


class ExecutorHandle:
    """An executor process, driven from Python. It runs one request at a time.

    A context manager: at the end of the block the process has ended. After TaskTimeout,
    ExecutorCrash, a reply that cannot be read, or an interrupt, it has ended as well,
    and the handle cannot be used again. A handle belongs to the process that made it.
    After a fork, the child can only close its copies of the pipes.

    >>> from protocol import TaskContext, pack_values
    >>> outputs = bytes([0]) + pack_values(3, -3)
    >>> commit = TaskContext(task_id="Commit", graph_outputs=outputs)
    >>> tasks = "integration_test_tasks"
    >>> with ExecutorHandle(package_dir) as executor:
    ...     executor.execute(tasks, "fibonacci", 20, timeout=10)
    ...     executor.execute(tasks, "assert_outputs_sum_zero", context=commit)
    [6765]
    []
    """

    _process: Any = None

    def __init__(
        self,
        package_dir: Any,
        command: Any = None,
        env: Any = None,
        stderr: Any = None,
    ) -> None:
        """Spawn `command` (str in a sequence; default: this program) with `env`.

        The default of `env` is the environment of this process. `stderr` is as in
        subprocess.Popen. With PIPE, read `self.stderr`, or an executor that logs much
        blocks. Raises OSError if it cannot be started, and ValueError if `stderr` is
        STDOUT or `own_command` raises it.
        """
        from contextlib import ExitStack
        from subprocess import PIPE, STDOUT, Popen

        if stderr == STDOUT:
            raise ValueError(
                "expected another place for stderr than stdout:"
                " log lines would break the protocol"
            )
        environment = {
            **(os.environ if env is None else env),
            _PACKAGE_DIR_VARIABLE: os.fsdecode(package_dir),
        }
        self.stderr: Any = None
        self._owner = os.getpid()
        # Only the thread that holds the lock may use or close the pipes.
        self._lock = _thread.allocate_lock()
        with ExitStack() as own_ends, ExitStack() as its_ends:
            stdin, self._input = _open_pipe(its_ends, own_ends)
            self._output, stdout = _open_pipe(own_ends, its_ends)
            if stderr == PIPE:
                self.stderr, stderr = _open_pipe(own_ends, its_ends)
            for pipe in (self._input, self._output):
                os.set_blocking(pipe.fileno(), False)
            self._process = Popen(
                command or own_command(),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=environment,
            )
            own_ends.pop_all()
        self.pid = self._process.pid

    def execute(
        self,
        package: str,
        task_func: str,
        *values: Any,
        timeout: float | None = None,
        context: Any = None,
    ) -> list[Any]:
        """Run a task and return its outputs.

        `values` are what protocol.pack takes, `context` is a TaskContext, and `timeout`
        is in seconds. Raises ExecutorError if the task failed, TaskTimeout,
        ExecutorCrash, ProtocolError if a value or the reply is malformed, TypeError if
        the timeout is not a number, and RuntimeError if the executor has ended before,
        another thread is using it, or it belongs to another process.
        """
        context = context or TaskContext()
        payload = pack_values(*values)
        request = Execute(package, task_func, context.encode(), payload)
        return protocol.unpack_values(_outputs_of(self.request(request, timeout)))

    def request(
        self, request: Execute, timeout: float | None = None
    ) -> protocol.Result:
        """Send a request and return its Result, whose outputs or error are bytes.

        Raises what `execute` does, except for ExecutorError.
        """
        frame = encode_frame(encode_request(request))
        deadline = _deadline(timeout)
        self._acquire()
        try:
            if self._input.closed:
                raise RuntimeError(
                    "the executor of this handle has ended; spawn another one"
                )
            return self._exchange(frame, deadline)
        except BaseException:
            self._kill_process()
            raise
        finally:
            self._release()

    def close(self, timeout: float | None = _END_TIMEOUT) -> Any:
        """End the executor, and kill it if it takes more than `timeout` seconds.

        Returns its exit code, or minus the number of the signal that ended it, or None
        if that is lost. Raises RuntimeError if another thread is using the executor.
        """
        deadline = _deadline(timeout)
        if os.getpid() != self._owner:
            self.kill()
            return None
        self._acquire()
        try:
            if not self._input.closed:
                shutdown = encode_request(protocol.Shutdown())
                self._write(encode_frame(shutdown))
                self._input.close()
                self._wait(deadline)
        finally:
            self._kill_process()
            self._release()
        return self._status()

    def kill(self) -> None:
        """Kill the executor. Any thread may do this at any time.

        A thread that is in `execute` gets ExecutorCrash.
        """
        self._kill_process()
        # If a thread is in `execute`, that one closes the pipes. A fork has no thread.
        if self._lock.acquire(False) or os.getpid() != self._owner:
            self._release()

    def __enter__(self) -> ExecutorHandle:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        except RuntimeError:
            self.kill()

    def __del__(self) -> None:
        if self._process is not None:
            self.kill()

    def _acquire(self) -> None:
        if os.getpid() != self._owner:
            raise RuntimeError(
                "this handle belongs to the process that made it;"
                " spawn another executor in this one"
            )
        if not self._lock.acquire(False):
            raise RuntimeError(
                "another thread is using this handle, which runs one request at a time"
            )

    def _exchange(self, frame: bytes, deadline: float) -> protocol.Result:
        """Write the request and read the response, both as far as the pipes allow."""
        received = bytearray()
        end = FRAME_HEADER_SIZE
        pipes = select.poll()
        pipes.register(self._output, select.POLLIN)
        pipes.register(self._input, select.POLLOUT)
        unsent = memoryview(frame)
        while unsent or len(received) < end:
            if unsent:
                unsent = self._write(unsent)
                if not unsent:
                    pipes.unregister(self._input)
            remaining = max(0.0, deadline - monotonic())
            # A day at a time: poll cannot wait longer than 24 days.
            if not pipes.poll(min(1000 * remaining, 86400000)) and not remaining:
                raise TaskTimeout(
                    "no response within the timeout; the executor was killed"
                )
            data = self._output.read(65536)
            if data == b"":
                # Wait for the end of a process that has closed its stdout.
                self._wait(min(deadline, monotonic() + _END_TIMEOUT))
                if self._process.returncode is None:
                    raise TaskTimeout(
                        "the executor closed its stdout but did not end; it was killed"
                    )
                raise ExecutorCrash(self._status())
            received += data or b""
            if len(received) >= FRAME_HEADER_SIZE:
                end = protocol.frame_end(received, 0)
            if len(received) > end:
                raise ProtocolError(
                    "expected one response,"
                    f" found {len(received) - end} more bytes after it"
                )
        return protocol.decode_response(received, FRAME_HEADER_SIZE)[0]

    def _write(self, data: Any) -> Any:
        """Write as much as the pipe takes. Return the rest."""
        try:
            return data[self._input.write(data) or 0 :]
        except BrokenPipeError:
            # The executor stopped reading. It may reply all the same.
            return data[:0]

    def _status(self) -> Any:
        """Return the exit status, or None if the system has not kept it."""
        if _signal.getsignal(_signal.SIGCHLD) == _signal.SIG_IGN:
            return None
        return self._process.returncode

    def _wait(self, deadline: float) -> None:
        """Wait until the process has ended, at most until the deadline."""
        while self._process.poll() is None and monotonic() < deadline:
            time.sleep(0.001)

    def _kill_process(self) -> None:
        """Kill the process, and wait for its end.

        In a fork of the owner, the process is not a child. There, `poll` sets the
        return code, so that _release closes the pipes.
        """
        self._process.poll()
        if os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()

    def _release(self) -> None:
        """Release the lock. If the process has ended, close the pipes before.

        Except for stderr, which may have lines to read.
        """
        if self._process.returncode is not None:
            self._input.close()
            self._output.close()
        self._lock.release()


def _outputs_of(result: protocol.Result) -> bytes:
    """Return the payload of a response. Raises ExecutorError."""
    if isinstance(result.outcome, protocol.Failure):
        raise protocol.decode_executor_error(result.outcome.error)[0]
    return result.outcome.outputs


def _open_pipe(reader: Any, writer: Any) -> list[Any]:
    """Open a pipe above descriptor 2. Each end is closed by an ExitStack.

    Lower numbers are free if this process has no stdin, stdout or stderr. A program
    that reads or writes there must not meet the pipe.
    """
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    low = os.pipe()
    try:
        return [
            owner.enter_context(open(fcntl(fd, F_DUPFD_CLOEXEC, 3), mode, buffering=0))
            for owner, fd, mode in zip((reader, writer), low, ("rb", "wb"))
        ]
    finally:
        for fd in low:
            os.close(fd)


def _deadline(timeout: Any) -> float:
    """Return when a timeout in seconds ends. Raises TypeError."""
    return monotonic() + (float("inf") if timeout is None else timeout)


# --------------------------------------------------------------------------- commands

_EXIT_USAGE = 2
_EXIT_NO_REPLY = 3
_EXIT_INTERRUPTED = 130
_EXIT_BROKEN_PIPE = 141
_CHECK_TASK = "spider_check"
_SERVES = "serves"

_DESCRIPTION = """\
Run the native task packages of a Spider cluster. Without arguments, serve
the execution manager on stdin and stdout. A PACKAGE is the name of a
directory; its library is DIR/PACKAGE/libPACKAGE.so.
"""
_EPILOG = f"""\
exit codes:
  0 success, 1 failure, 2 usage, 3 no response, 130 Ctrl-C, 141 stdout closed
environment:
  {_PACKAGE_DIR_VARIABLE}, and RUST_LOG: off, error (default), warn, info,
  debug, or TARGET=LEVEL[,...]; the target is {_LOG_TARGET}

examples:
  spider-task-executor check --package-dir packages
  spider-task-executor run --package-dir packages sums add 1 2
  spider-task-executor run complex complex::add '[[[1.0, 2.0]]]' @other.json
  gdb -ex 'set follow-fork-mode child' --args python3 spider_executor.py run \\
      --package-dir packages sums add 1 2
"""
_RUN_DESCRIPTION = """\
Send a request to a new executor. Print the outputs as JSON on stdout, and the
time that it took, loading included, on stderr. Options go before PACKAGE. A
VALUE is JSON, @FILE (JSON in a file) or - (JSON on stdin). 1 is an integer and
1.0 a double. null: none; an array: list, struct or Bytes; an object: map or
struct.
"""
_CHECK_DESCRIPTION = f"""\
Load all PACKAGEs in one executor and call its execute function with a task that
no package should have, {_CHECK_TASK}. A package serves if it returns outputs or
an error. The default is each directory in DIR that has a lib*.so, sorted by
name. The order matters if two packages clash, for example because they declare
one name: the first one serves, and the second one fails.
"""


def main(arguments: Any = None) -> int:
    """Serve if there are no arguments, otherwise run a command. Return an exit code.

    `arguments` is a sequence of str; the default is that of the process. Call this on
    the main thread: a command sets the action for SIGCHLD.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if not arguments:
        _serve_process()
    _restore_environment()
    # While SIGCHLD is ignored, exit statuses are lost.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
    try:
        options = _parser().parse_args(arguments)
        if not options.package_dir:
            _complain(
                "expected --package-dir DIR, or SPIDER_TDL_PACKAGE_DIR in the"
                " environment"
            )
        # Raises OSError if it is not a directory.
        os.close(os.open(options.package_dir, os.O_PATH | os.O_DIRECTORY))
        for name in ("timeout", "repeat"):
            value = getattr(options, name, 1)
            if not value > 0:
                _complain(f"--{name}: expected a positive number, found {value}")
        return _run(options) if options.command == "run" else _check(options)
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED
    except ValueError as error:
        # There is no interpreter to start.
        _complain(f"executor: {error}")
    except OSError as error:
        problem = error.strerror
        if error.filename is None:
            _complain(f"executor: cannot be started: {problem}", _EXIT_FAILURE)
        if isinstance(error, FileNotFoundError) and os.path.exists(error.filename):
            problem = "the interpreter in its first line does not exist"
        _complain(f"{error.filename}: {problem}")


def _parser() -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            _complain(f"{message}; see --help")

        def _print_message(self, message: str, file: object = None) -> None:
            # argparse would ignore a stdout that is closed or full.
            _print(message.encode())

    parser = Parser(
        "spider-task-executor",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="run one task",
        description=_RUN_DESCRIPTION,
        allow_abbrev=False,
    )
    check = commands.add_parser(
        "check",
        help="check that packages load",
        description=_CHECK_DESCRIPTION,
        allow_abbrev=False,
    )
    for command, timeout in ((run, float("inf")), (check, 10)):
        command.add_argument(
            "--package-dir",
            metavar="DIR",
            default=os.environ.get(_PACKAGE_DIR_VARIABLE),
            help="default: $SPIDER_TDL_PACKAGE_DIR",
        )
        command.add_argument(
            "--timeout",
            metavar="SECONDS",
            type=float,
            default=timeout,
            help="kill an executor that takes longer (default: %(default)s)",
        )
    run.add_argument(
        "--repeat",
        metavar="N",
        type=int,
        default=1,
        help="send N requests and print the minimum and median of their times",
    )
    run.add_argument(
        "--raw", action="store_true", help="write the bytes of the outputs, not JSON"
    )
    run.add_argument(
        "--commit",
        action="store_true",
        help="run a commit task; the VALUEs are the outputs of its job",
    )
    run.add_argument(
        "--executor",
        metavar="PATH",
        type=os.path.abspath,
        help="start another executor than this program",
    )
    run.add_argument("package", metavar="PACKAGE")
    run.add_argument("task", metavar="TASK")
    values = run.add_argument("values", metavar="VALUE", nargs=argparse.REMAINDER)
    # Some versions of argparse would ask for one.
    values.required = False
    check.add_argument("packages", metavar="PACKAGE", nargs="*")
    return parser


def _complain(text: str, status: int = _EXIT_USAGE) -> NoReturn:
    """Write a line to stderr and exit."""
    _say(f"spider-task-executor: {text}")
    raise SystemExit(status)


def _say(text: str) -> None:
    """Write a line to stderr, if there is one."""
    try:
        _write_all(2, f"{_escape(text)}\n".encode())
    except OSError:
        pass


def _print(data: bytes) -> None:
    """Write to stdout. Exit if that fails."""
    try:
        _write_all(1, data)
    except BrokenPipeError:
        raise SystemExit(_EXIT_BROKEN_PIPE) from None
    except OSError as error:
        _complain(f"stdout: {error.strerror}", _EXIT_FAILURE)


def _write_all(fd: int, data: bytes) -> None:
    # It may be a pipe that does not block.
    os.set_blocking(fd, True)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _run(options: argparse.Namespace) -> int:
    from statistics import median_low

    request = _request(options)
    round_trips = []
    elapsed = []
    try:
        with ExecutorHandle(options.package_dir, options.executor) as executor:
            for _ in range(options.repeat):
                started = monotonic_ns()
                result = executor.request(request, options.timeout)
                round_trips.append((monotonic_ns() - started) // 1000)
                elapsed.append(result.elapsed_us)
                outputs = _outputs_of(result)
    except ExecutorError as error:
        _complain(f"{options.package} {options.task}: {error}", _EXIT_FAILURE)
    except (TaskTimeout, ExecutorCrash, ProtocolError) as error:
        _complain(f"run: no reply: {error}", _EXIT_NO_REPLY)
    if options.repeat == 1:
        _say(f"elapsed: {result.elapsed_us} µs")
    else:
        for name, times in (("round trip", round_trips), ("elapsed_us", elapsed)):
            _say(f"{name}: minimum {min(times)} µs, median {median_low(times)} µs")
    _print(outputs if options.raw else _json_line(outputs))
    return 0


def _request(options: argparse.Namespace) -> Execute:
    context = TaskContext()
    try:
        payload = pack_values(*map(_read_value, options.values))
        if options.commit:
            context.task_id = "Commit"
            context.graph_outputs = b"\0" + payload
            payload = pack_values()
        request = Execute(options.package, options.task, context.encode(), payload)
        encode_frame(encode_request(request))
    except ProtocolError as error:
        _complain(f"no request can carry this: {error}")
    return request


def _read_value(text: str) -> Any:
    import json

    data: Any = text
    source = 0 if text == "-" else text[1:]
    try:
        if text == "-":
            os.set_blocking(0, True)
        if text == "-" or (source and text.startswith("@")):
            with open(source, "rb") as file:
                data = file.read()
        return json.loads(data)
    except OSError as error:
        _complain(f"{source or 'stdin'}: {error.strerror}")
    except (ValueError, RecursionError) as error:
        hint = """a string is written as '"text"', a file as @FILE"""
        if source and text.startswith("-"):
            hint = "options go before PACKAGE"
        _complain(f"VALUE {text[:40]}: expected JSON: {error} ({hint})")


def _json_line(outputs: bytes) -> bytes:
    import json

    try:
        text = json.dumps(
            protocol.unpack_values(outputs),
            ensure_ascii=False,
            allow_nan=False,
            default=list,
        )
    except (ValueError, TypeError) as error:
        _complain(
            f"the outputs cannot be printed as JSON: {error}; --raw writes their bytes",
            _EXIT_FAILURE,
        )
    return f"{_escape(text)}\n".encode()


def _check(options: argparse.Namespace) -> int:
    names = options.packages or _package_names(options.package_dir)
    if not names:
        _complain(
            f"{options.package_dir}: expected directories with packages, found none",
            _EXIT_FAILURE,
        )
    serving: list[str] = []
    executor = None
    for name in names:
        try:
            if executor is None:
                executor = ExecutorHandle(
                    options.package_dir, env={"RUST_LOG": "warn", **os.environ}
                )
                # The next package may clash with those that serve: load them again.
                for package in serving:
                    _verdict(executor, package, options.timeout)
            verdict = _verdict(executor, name, options.timeout)
        except (TaskTimeout, ExecutorCrash, ProtocolError) as error:
            verdict = str(error)
            executor = None
        if verdict == _SERVES:
            serving.append(name)
        width = max(map(len, names))
        _print(f"{_escape(name):{width}}    {_escape(verdict)}\n".encode())
    _print(f"{len(serving)} of {len(names)} packages serve\n".encode())
    return 0 if len(serving) == len(names) else _EXIT_FAILURE


def _package_names(package_dir: str) -> list[str]:
    """Return the directories that have a library. Name the others on stderr."""
    import fnmatch

    names = []
    others = []
    for name in fnmatch.filter(sorted(os.listdir(package_dir)), "[!.]*"):
        try:
            files = os.listdir(os.path.join(package_dir, name))
        except NotADirectoryError:
            continue
        except OSError:
            # Count it as a package: the executor says why it cannot be read.
            files = ["lib.so"]
        if fnmatch.filter(files, "lib*.so"):
            # Names are UTF-8, whatever the locale is.
            names.append(os.fsencode(name).decode("utf-8", "surrogateescape"))
        else:
            others.append(name)
    if others:
        _say(f"skipped, because there is no lib*.so: {', '.join(others)}")
    return names


def _verdict(executor: ExecutorHandle, package: str, timeout: float) -> str:
    request = Execute(
        package,
        _CHECK_TASK,
        TaskContext().encode(),
        pack_values(),
    )
    try:
        _outputs_of(executor.request(request, timeout))
    except ExecutorError as error:
        if error.variant != "TaskError":
            return str(error)
    return _SERVES


if __name__ == "__main__":
    sys.exit(main())
