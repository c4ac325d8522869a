#!/usr/bin/env -S python3 -IS
"""A task executor for Spider in Python, on the standard library alone.

Without arguments it serves a Spider execution manager: it reads framed requests on stdin, loads native task packages
`$SPIDER_TDL_PACKAGE_DIR/<package>/lib<package>.so`, calls their tasks on its main thread, and writes framed responses
to stdout. Logs are JSON lines on stderr. With arguments it is a command line; see `--help`. protocol.py has the wire
format. The sections of this file:

    process     how the executor starts and ends, and what it logs when it fails
    serve       the loop: find the fields of a request, find the call, call, answer, free
    channel     the pipes to the parent, and the buffer that requests are read into
    packages    load libraries, and decode what their functions return
    guards      crash reports, `exit` called by native code, a parent that is gone
    logs        RUST_LOG, and one JSON object per line
    handle      ExecutorHandle, for Python programs that drive executors
    commands    `run` and `check`
"""

from __future__ import annotations

import _signal
import os
import sys

if __name__ == "__main__":
    if (
        len(sys.argv) == 1
        and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler
    ):
        # Ctrl-C must not end the imports with a traceback.
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    if sys.flags.isolated:
        # An isolated interpreter does not look for modules in the directory of the script.
        sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import _thread
import ctypes
import errno
import faulthandler
import select
import time
from ctypes import c_char, c_char_p, c_size_t, c_uint8, c_uint32, c_void_p
from struct import Struct
from struct import error as StructError
from types import FunctionType

import protocol
from protocol import (
    FAILURE,
    RESPONSE_DATA_MAX,
    SUCCESS,
    ExecutorError,
    ProtocolError,
    TdlError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any, Callable, Container, Iterator, NoReturn, Sequence, Union

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

__all__ = [
    "ExecutorCrash",
    "ExecutorHandle",
    "TaskTimeout",
    "TdlPackage",
    "TdlPackageManager",
    "main",
    "own_command",
]
__version__ = "0.1.0"

_libc = ctypes.CDLL(None)
_libc.calloc.restype = _libc.dlsym.restype = c_void_p
_libc.free.argtypes, _libc.free.restype = [c_void_p], None

# -------------------------------------------------------------------------------------------------------------- process

EXIT_FAILURE = 1
PACKAGE_DIR_VARIABLE = "SPIDER_TDL_PACKAGE_DIR"


class _Process:
    """What the loop, the exit handler and the watchdog share. `call` is the current or the last call into a package."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.pid = os.getpid()
        self.call: Any = None
        self.running = False
        self.ending = False
        self.exit_handler: Any = None

    def call_name(self) -> str:
        return "none" if self.call is None else self.call.__name__


def serve_process() -> NoReturn:
    """Serve on stdin and stdout, then end the process: with 0 after Shutdown or the end of stdin, otherwise with 1."""
    # Python's handler of SIGINT cannot run inside native code. Python ignores SIGXFSZ; tasks get its default action.
    if _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
        _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGXFSZ, _signal.SIG_DFL)

    level, unreadable = parse_log_filter(os.environ.get("RUST_LOG", ""))
    log = Log(2, level)
    process = _Process(log)
    status, is_serving = EXIT_FAILURE, False
    try:
        log.fd = _take_stderr()
        log.write(INFO, "Executor starts.")
        always = Log(log.fd, WARN)
        for directive in unreadable:
            always.write(
                WARN,
                "RUST_LOG: expected LEVEL or TARGET=LEVEL; skipped a directive.",
                directive=directive,
            )
        if os.isatty(0):
            always.write(
                WARN, "stdin is a terminal: waiting for framed requests; see --help."
            )
        package_dir = os.environ.get(PACKAGE_DIR_VARIABLE)
        if not package_dir:
            state = "not set" if package_dir is None else "empty"
            raise RuntimeError(
                f"{PACKAGE_DIR_VARIABLE} is {state}; expected the directory of the packages"
            )
        if not os.path.isdir(package_dir):
            # It may be a volume that is mounted later.
            log.write(
                WARN,
                f"{PACKAGE_DIR_VARIABLE} is no directory; requests fail until it is.",
                path=package_dir,
            )
        manager = TdlPackageManager(package_dir)
        channel = Channel(process.pid)
        _restore_environment()
        guard(process, channel.output_fd)
        is_serving = True
        serve(channel, manager, process)
        log.write(INFO, "Executor exits.")
        status = 0
    except ChildProcessError:
        log.write(
            ERROR,
            "A child forked by a package returned into the executor; it was ended.",
            parent=process.pid,
        )
        os._exit(EXIT_FAILURE)
    except Exception as error:
        message = _failure(error) if is_serving else "The executor cannot start."
        log.write(
            ERROR,
            message,
            err=str(error) or type(error).__name__,
            last_call=process.call_name(),
        )
    finally:
        process.ending = True
        # Not sys.exit: our exit handler and the watchdog need the interpreter until the end.
        _libc.exit(status)
    raise AssertionError("exit returned")


def _failure(error: Exception) -> str:
    """Say what happened while the executor was serving."""
    if isinstance(error, ProtocolError):
        return "Protocol error on stdin."
    if isinstance(error, BrokenPipeError):
        return "The parent no longer reads responses."
    if isinstance(error, OSError):
        is_pointer = error.errno == errno.EFAULT
        return (
            "A task returned outputs at an invalid pointer."
            if is_pointer
            else "The pipe to the parent broke."
        )
    return (
        "Out of memory."
        if isinstance(error, MemoryError)
        else "Internal error; please report it."
    )


def _restore_environment() -> None:
    """Give tasks the environment and the locale that the parent set up. Python has changed both."""
    try:
        with open("/proc/self/environ", "rb") as file:
            _, is_set, rest = (b"\0" + file.read()).partition(b"\0LC_CTYPE=")
        if is_set:
            os.environb[b"LC_CTYPE"] = rest.partition(b"\0")[0]
        else:
            os.environ.pop("LC_CTYPE", None)
    except OSError:
        pass
    _libc.setlocale(6, b"C")  # LC_ALL
    # Without a buffer, what a task has printed survives its crash.
    _libc.setvbuf(c_void_p.in_dll(_libc, "stdout"), None, 2, c_size_t(0))  # _IONBF


# ---------------------------------------------------------------------------------------------------------------- serve

# Calls are cached by package and task. Both limits bound the cache.
_CALLS_MAX, _KEY_SIZE_MAX = 16384, 512

_set_views = Struct("PNPNPN").pack_into


def serve(channel: Channel, manager: TdlPackageManager, process: _Process) -> None:
    """Answer requests until Shutdown or the end of stdin. Raises ProtocolError, OSError, ChildProcessError."""
    log, buffer, address = process.log, channel.buffer, channel.address
    # The arguments of every call are three views. `_set_views` sets all of their fields at once.
    views = bytearray(3 * ctypes.sizeof(_View))
    arguments = tuple((_View * 3).from_buffer(views))
    # The key is the bytes of a request up to the end of task_func.
    calls: dict[bytes, Callable[..., Any]] = {}

    for start, end in channel.bodies():
        fields = protocol.locate_request(buffer, start, end)
        if fields is None:
            # Decode a copy: offsets in errors count from the start of the body.
            protocol.decode_request(buffer[start:end])
            log.write(INFO, "Received shutdown request.")
            return
        task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size = fields
        if inputs_size == 0:
            # The inputs of a cleanup task have zero bytes, which Rust packages refuse.
            inputs_at, inputs_size = _EMPTY_PAYLOAD_AT, 4
        key = buffer[start : task_at + task_size]

        started = time.monotonic_ns()
        try:
            call = calls.get(key)
            if call is None:
                call = _find_call(key, manager, process, arguments)
                if len(calls) < _CALLS_MAX and len(key) <= _KEY_SIZE_MAX:
                    calls[key] = call
            _set_views(
                views,
                0,
                address + task_at,
                task_size,
                address + ctx_at,
                ctx_size,
                address + inputs_at,
                inputs_size,
            )
            process.call = call
            process.running = True
            result = call()
            process.running = False
            # Through the named function, too: an invalid pointer crashes here, and a damaged heap in `_free`.
            data = call(read_outputs, (result,))
        except ExecutorError as error:
            process.running = False
            data = error.encode()
            if len(data) > RESPONSE_DATA_MAX:
                data = _too_large("an error", len(data)).encode()
            channel.send(FAILURE, data, _elapsed_us(started))
        else:
            channel.send(SUCCESS, data, _elapsed_us(started))
            call(_free, (result,))
        if log.level >= DEBUG:
            log.write(
                DEBUG,
                "Request answered.",
                task=process.call_name(),
                response_size=len(data),
            )


def _find_call(
    key: bytes,
    manager: TdlPackageManager,
    process: _Process,
    arguments: tuple[Any, ...],
) -> Callable[..., Any]:
    """Return a function that calls the task with `arguments`. Load its package if needed. Raises ExecutorError."""
    package, task, _ = protocol.decode_names(key, 0, len(key))
    process.call = _named_call(f"{package} (loading)", manager.load, (package,))
    process.running = True
    loaded = process.call()
    if os.getpid() != process.pid:
        # A child that returns from a constructor or from init must not run the task, too.
        raise ChildProcessError
    return _named_call(f"{package}::{task}", loaded.call, arguments)


def _elapsed_us(started: int) -> int:
    """Return the microseconds since `started`, rounded. The clock of a virtual machine can step back: that gives 0."""
    return max(0, (time.monotonic_ns() - started + 500) // 1000)


def _too_large(what: str, size: int) -> ExecutorError:
    """The error that replaces a response of more than 8 MiB."""
    text = f"the task returned {what} of {size} bytes; a response holds at most {RESPONSE_DATA_MAX}"
    return ExecutorError("TaskError", TdlError("SerializationError", text))


# -------------------------------------------------------------------------------------------------------------- channel

_FRAME_MAX = protocol.FRAME_HEADER_SIZE + protocol.FRAME_BODY_MAX
# The empty payload: four zero bytes after the space for one frame.
_EMPTY_PAYLOAD_AT = _FRAME_MAX
# Up to this size, data is copied so that a response is one write.
_COPY_MAX = 32 << 10
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_PIPE_SIZE, _LARGE_PIPE_SIZE = 64 << 10, 256 << 10


class Channel:
    """The pipes to the parent, and the buffer for requests. Raises OSError, RuntimeError, MemoryError."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        for fd, name in enumerate(("stdin", "stdout")):
            if not _is_inherited(fd):
                raise RuntimeError(
                    f"{name} is closed; expected a pipe from the execution manager"
                )
        self.input_fd, self.output_fd = _duplicate_high(0), _duplicate_high(1)
        os.set_blocking(self.input_fd, True)
        os.set_blocking(self.output_fd, True)
        # Tasks get a stdin that is at its end, and stderr as their stdout.
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.dup2(2, 1)
        os.close(reading)
        os.close(writing)
        # Zeros at a page boundary, where the kernel copies faster. Pages take no memory before they are used.
        memory = _libc.calloc(c_size_t(_FRAME_MAX + 8192), c_size_t(1))
        if not memory:
            raise MemoryError("there is no memory for the largest frame")
        self.address: int = (memory | 4095) + 1
        self.buffer: Any = (c_char * (_FRAME_MAX + 4)).from_address(self.address)

    def bodies(self) -> Iterator[tuple[int, int]]:
        """Yield where each body starts and ends in the buffer, until stdin ends. Raises ProtocolError, OSError."""
        view = memoryview(self.buffer).cast("B")[:_FRAME_MAX]
        whole = [view]
        start, filled, is_enlarged = 0, 0, False
        while True:
            if filled - start >= protocol.FRAME_HEADER_SIZE:
                end = protocol.frame_end(view, start)
                if end <= filled:
                    yield start + protocol.FRAME_HEADER_SIZE, end
                    start = end
                    if start == filled:
                        start = filled = 0
                    continue
                if end - start > _PIPE_SIZE and not is_enlarged:
                    is_enlarged = True
                    _enlarge_pipe(self.input_fd)
            if start:
                # Move an incomplete frame to the start of the buffer, where every frame fits.
                view[: filled - start] = view[start:filled]
                start, filled = 0, filled - start
            count = os.readv(self.input_fd, [view[filled:]] if filled else whole)
            if count == 0:
                if filled:
                    raise protocol.TruncatedError(
                        f"expected the rest of a frame, found the end after {filled} bytes"
                    )
                return
            filled += count

    def send(self, outcome_tag: int, data: bytes | memoryview, elapsed_us: int) -> None:
        """Write a response. Raises OSError, and ChildProcessError in a child of the executor, which must not answer."""
        if os.getpid() != self._pid:
            raise ChildProcessError
        size = len(data)
        parts = [
            protocol.response_head(outcome_tag, size),
            data,
            protocol.response_tail(elapsed_us),
        ]
        if size <= _COPY_MAX:
            frame = b"".join(parts)
            count = os.write(self.output_fd, frame)
            if count == len(frame):
                return
            parts = [frame[count:]]
        elif size > _PIPE_SIZE:
            _enlarge_pipe(self.output_fd)
        while parts:
            count = os.writev(self.output_fd, parts)
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = memoryview(parts[0])[count:]


def _enlarge_pipe(fd: int) -> None:
    """Enlarge a pipe of the default size. Do it only for large frames: all pipes of a user share a small budget."""
    if _libc.fcntl(fd, _F_GETPIPE_SZ) == _PIPE_SIZE:
        _libc.fcntl(fd, _F_SETPIPE_SZ, _LARGE_PIPE_SIZE)


def _is_inherited(fd: int) -> bool:
    """False if fd was closed at start, even if a library has opened a file with this number since."""
    try:
        return os.get_inheritable(fd)
    except OSError:
        return False


def _duplicate_high(fd: int) -> int:
    """Duplicate a descriptor to a high number, which tasks are unlikely to close. Raises OSError."""
    limit = min(os.sysconf("SC_OPEN_MAX"), 4096)
    return os.dup2(fd, max(3, limit - 16) + fd, inheritable=False)


def _take_stderr() -> int:
    """Return a private descriptor for the logs. If stderr is closed, fd 2 becomes /dev/null. Raises OSError."""
    if not _is_inherited(2):
        null = os.open(os.devnull, os.O_RDWR)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)
        os.set_inheritable(2, True)
    return _duplicate_high(2)


# ------------------------------------------------------------------------------------------------------------- packages

# The version of the package ABI is the version of Spider's executor.
_ABI_VERSION = (0, 1, 0)
# A longer name means that the package did not set the length.
_DECLARED_NAME_MAX = 64 << 10
# The end of a longer error text is cut off on its way to the user.
_ERROR_TEXT_MAX = 450


class _Version(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32)]


class _View(ctypes.Structure):
    _fields_ = [("pointer", c_void_p), ("length", c_size_t)]


class _Result(ctypes.Structure):
    # Not c_bool: any byte but 0 is an error.
    _fields_ = [("is_error", c_uint8), ("pointer", c_void_p), ("length", c_size_t)]


# Package memory of any size. Slice it to the length that the package returned.
_Memory: Any = c_char * (1 << 40)


class TdlPackageManager:
    """The packages of one directory. Each is loaded when it is first requested, and stays loaded."""

    def __init__(self, package_dir: Path) -> None:
        self._package_dir = os.path.abspath(os.fsencode(package_dir))
        self._by_name: dict[str, TdlPackage] = {}
        self._by_file: dict[bytes, TdlPackage] = {}

    def load(self, name: str) -> TdlPackage:
        """Return the package in `<package_dir>/<name>/lib<name>.so`. Load it if needed. Raises ExecutorError.

        Names that lead to one real path are one package. After a failure, the next request tries again.
        """
        if name in self._by_name:
            return self._by_name[name]
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise _invalid_library(
                f"expected a package name without / or NUL, found {name[:20]!a}",
                self._package_dir,
            )
        encoded = name.encode()
        path = b"%s/%s/lib%s.so" % (self._package_dir, encoded, encoded)
        file = os.path.realpath(path)
        if file not in self._by_file:
            self._by_file[file] = TdlPackage(
                path, {package.name for package in self._by_file.values()}
            )
        self._by_name[name] = self._by_file[file]
        return self._by_file[file]

    def execute(self, request: protocol.Execute) -> protocol.Result:
        """Run a task in this process, for debuggers and tests. A task that crashes ends the process."""
        started = time.monotonic_ns()
        parts = (
            request.task_func.encode(),
            request.raw_ctx,
            request.raw_inputs or protocol.encode_payload([]),
        )
        try:
            call = self.load(request.package).call
            result = call(
                *(
                    _View(ctypes.cast(c_char_p(part), c_void_p), len(part))
                    for part in parts
                )
            )
            outputs = bytes(read_outputs(result))
        except ExecutorError as error:
            return protocol.Result(
                protocol.Failure(error.encode()), _elapsed_us(started)
            )
        _free(result)
        return protocol.Result(protocol.Success(outputs), _elapsed_us(started))


class TdlPackage:
    """A loaded package: the `name` that it declares, which must not be in `taken`, and its native function `call`."""

    def __init__(self, path: bytes, taken: Container[str] = ()) -> None:
        self._path = path
        _check_elf(path)
        try:
            self._library = ctypes.CDLL(os.fsdecode(path))
        except (OSError, UnicodeDecodeError) as error:
            raise _invalid_library(error, path) from None
        try:
            found = self._function("get_version", _Version)()
            # The major number of this executor is 0, so major and minor must match.
            if (found.major, found.minor) != _ABI_VERSION[:2]:
                raise ExecutorError(
                    "IncompatibleVersion",
                    (found.major, found.minor, found.patch, *_ABI_VERSION),
                )
            view = self._function("get_name", _View)()
            if view.length and (not view.pointer or view.length > _DECLARED_NAME_MAX):
                raise _invalid_library(
                    f"the declared name has {view.length} bytes at address {view.pointer}",
                    path,
                )
            try:
                self.name = bytes(_memory(view)).decode()
            except UnicodeDecodeError as error:
                raise ExecutorError(
                    "InvalidUtf8", _with_path(f"the declared name: {error}", path)
                ) from None
            if self.name in taken:
                raise ExecutorError("DuplicatePackage", self.name)
        except ExecutorError:
            _libc.dlclose(c_void_p(self._library._handle))
            raise
        # From here on the library stays loaded, even after an error: threads and handlers of the package may be in it.
        if (
            _libc.dlsym(c_void_p(self._library._handle), b"__spider_tdl_package_init")
            is not None
        ):
            result = self._function("init", _Result)()
            if result.is_error:
                raise _package_error("PackageInitError", result)
            _free(result)
        self.call = self._function("execute", _Result, _View, _View, _View)

    def _function(self, name: str, restype: Any, *argtypes: Any) -> Any:
        try:
            function = self._library[f"__spider_tdl_package_{name}"]
        except (AttributeError, UnicodeDecodeError) as error:
            raise _invalid_library(error, self._path) from None
        function.restype, function.argtypes = restype, argtypes
        return function


def read_outputs(result: Any) -> memoryview | bytes:
    """Return the outputs of a task. The caller frees the result, unless this raises ExecutorError."""
    if result.is_error:
        raise _package_error("TaskError", result)
    size = result.length
    if size and not result.pointer:
        text = f"the task returned {size} bytes of outputs at a NULL pointer"
        raise ExecutorError("TaskError", TdlError("SerializationError", text))
    if size > RESPONSE_DATA_MAX:
        _free(result)
        raise _too_large("outputs", size)
    return _memory(result)


def _package_error(kind: str, result: Any) -> ExecutorError:
    """Decode and free the error that a package returned."""
    data = _memory(result) if result.pointer else b""
    try:
        return ExecutorError(kind, protocol.decode_tdl_error(data)[0])
    except ProtocolError as error:
        text = f"the package returned an error of {len(data)} bytes that is not a TdlError: {error}"
        return ExecutorError("ErrorPayloadDeserializationFailure", text)
    finally:
        _free(result)


def _free(result: Any) -> None:
    """Free the buffer of a _Result. Length 0 means that there is none, whatever the pointer is."""
    if result.length:
        _libc.free(result.pointer)


def _memory(view: Any) -> bytes | memoryview:
    """The memory of a _View or a _Result, copied if it is small. If the length is 0, the pointer may be invalid."""
    if not view.length:
        return b""
    memory = _Memory.from_address(view.pointer)
    return (
        bytes(memory[: view.length])
        if view.length <= _COPY_MAX
        else memoryview(memory).cast("B")[: view.length]
    )


# https://refspecs.linuxfoundation.org/elf/gabi4+/contents.html: magic, class, byte order | machine | offsets of the
# program headers and of the section headers | number of program headers | size and number of section headers.
_ELF_HEADER = Struct("<6s12xH12xQQ8xHHH2x")
_ELF_SEGMENT = Struct("<I4xQ40x")
_PT_LOAD = 1
_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def _check_elf(path: bytes) -> None:
    """Refuse files that would block or crash the loader, or get a misleading message. Raises ExecutorError."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise _invalid_library("not a regular file", path)
    try:
        with open(path, "rb") as file:
            header, machine = file.read(_ELF_HEADER.size), os.uname().machine
            if (
                len(header) < _ELF_HEADER.size
                or not header.startswith(b"\x7fELF")
                or machine not in _ELF_MACHINES
            ):
                return
            magic, found, segments_at, sections_at, segments, section_size, sections = (
                _ELF_HEADER.unpack(header)
            )
            if magic[4:] != b"\2\1" or found != _ELF_MACHINES[machine]:
                raise _invalid_library(
                    f"built for another machine; this one is {machine}", path
                )
            # Section headers come last in a library.
            size, end = os.path.getsize(path), sections_at + section_size * sections
            if end > size:
                raise _invalid_library(
                    f"file cut short: expected {end} bytes, found {size}", path
                )
            file.seek(segments_at)
            table = file.read(_ELF_SEGMENT.size * segments)
            loaded = [
                offset
                for kind, offset in _ELF_SEGMENT.iter_unpack(table)
                if kind == _PT_LOAD
            ]
    except (OSError, ValueError, OverflowError, StructError):
        return  # The loader says why.
    # Linkers put the first page of the file into the first segment. Without it, the loader can crash.
    if loaded and loaded[0] >= 4096:
        raise _invalid_library("damaged file: no segment has its first page", path)


def _invalid_library(problem: str | Exception, path: bytes) -> ExecutorError:
    # Before CPython 3.13, ctypes cannot decode a message with a path that is not UTF-8.
    message = (
        problem.object
        if isinstance(problem, UnicodeDecodeError)
        else os.fsencode(str(problem))
    )
    return ExecutorError(
        "InvalidLibrary", _with_path(message.decode("utf-8", "backslashreplace"), path)
    )


def _with_path(problem: str, path: bytes) -> str:
    """Return an error text with the path. If it is too long, put the problem first and cut the start of the path."""
    shown = path.decode("utf-8", "backslashreplace")
    text = problem if shown in problem else f"{problem}: {shown}"
    if len(text.encode()) <= _ERROR_TEXT_MAX:
        return text
    # A message of the loader ends with the cause.
    problem = (
        problem.replace(f"{shown}: ", "")
        .replace(shown, "this library")
        .encode()[-250:]
        .decode("utf-8", "ignore")
    )
    return f"{problem}: ...{shown.encode()[-190:].decode('utf-8', 'ignore')}"


# --------------------------------------------------------------------------------------------------------------- guards

_ExitHandler = ctypes.CFUNCTYPE(None, c_void_p)


def guard(process: _Process, output_fd: int) -> None:
    """Set up the crash report, the exit handler and the watchdog. Call this before a package is loaded."""
    faulthandler.enable(process.log.fd)
    # ctypes needs the object for as long as libc may call it.
    process.exit_handler = _ExitHandler(lambda _: _at_exit(process))
    _libc.__cxa_atexit(process.exit_handler, None, None)
    # The watchdog inherits the mask: it must not get signals that are meant for the threads of tasks.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
    polling = _thread.allocate_lock()
    polling.acquire()
    _thread.start_new_thread(_watch, (process, output_fd, polling))
    # Wait until it polls: if a task forks while the watchdog holds Python's lock, the child can never get the lock.
    polling.acquire()
    _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


def _named_call(
    name: str, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> Callable[..., Any]:
    """Return a function with this name, which crash reports show. It calls `function` with `arguments`."""
    name = name[:400]
    code = (lambda function, arguments: function(*arguments)).__code__
    return FunctionType(
        code.replace(co_name=name), globals(), name, (function, arguments)
    )


def _at_exit(process: _Process) -> None:
    """End the process with 1 if native code has called `exit`, which must not look like a clean end."""
    if process.ending or os.getpid() != process.pid:
        return
    try:
        process.log.write(ERROR, "Native code called exit.", task=process.call_name())
    finally:
        os._exit(EXIT_FAILURE)


def _watch(process: _Process, output_fd: int, polling: _thread.LockType) -> None:
    """End the process if nobody reads its stdout while a task or an exit handler runs."""
    log_fd = process.log.fd
    broken, writable = select.poll(), select.poll()
    # Events 0: poll reports only errors and hang-ups.
    broken.register(output_fd, 0)
    broken.register(log_fd, 0)
    writable.register(log_fd, select.POLLOUT)
    polling.release()
    while True:
        try:
            for fd, _ in broken.poll():
                if fd == log_fd:
                    _discard_prints(log_fd)
                    broken.unregister(log_fd)
                elif process.ending:
                    time.sleep(2.0)  # Exit handlers may take this long.
                    os._exit(EXIT_FAILURE)
                elif process.running:
                    # Do not block on a log pipe that is full.
                    if writable.poll(0):
                        process.log.write(
                            ERROR,
                            "The parent is gone while a task runs.",
                            task=process.call_name(),
                        )
                    os._exit(EXIT_FAILURE)
        except (OSError, MemoryError):
            pass  # A task has set a low limit.
        time.sleep(0.1)


def _discard_prints(log_fd: int) -> None:
    """Replace the broken log pipe by /dev/null wherever it is still open. Otherwise the next print can end a task."""
    pipe, null = os.fstat(log_fd), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    for fd in (1, 2, log_fd):
        try:
            if os.path.samestat(os.fstat(fd), pipe):
                os.dup2(null, fd, inheritable=fd != log_fd)
        except OSError:
            pass  # A task has closed it.
    os.close(null)


# ----------------------------------------------------------------------------------------------------------------- logs

_LEVEL_NAMES = ("OFF", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")
OFF, ERROR, WARN, INFO, DEBUG, TRACE = range(6)
_LOG_TARGET = "spider_task_executor"
# The manager drops lines of more than 64 KiB. An escaped character takes at most 12 bytes.
_LOG_TEXT_MAX = 2000


def parse_log_filter(text: str) -> tuple[int, list[str]]:
    """Read RUST_LOG. Return the level for this program and the directives that cannot be parsed."""
    levels = {name.lower(): level for level, name in enumerate(_LEVEL_NAMES)}
    levels.update((str(level), level) for level in range(6))
    level, longest, unreadable = ERROR, -1, []
    for directive in filter(None, map(str.strip, text.split(","))):
        target, equals, name = (part.strip() for part in directive.partition("="))
        if not equals:
            target, name = (
                ("", target) if target.lower() in levels else (target, "trace")
            )
        # "=debug" lacks a target; "debug" needs none.
        is_target = (
            target.translate({ord(mark): "x" for mark in "_-:"}).isalnum()
            if target
            else not equals
        )
        if name.lower() not in levels or not is_target:
            unreadable.append(directive)
        elif _LOG_TARGET.startswith(target) and len(target) >= longest:
            level, longest = levels[name.lower()], len(target)
    return level, unreadable


class Log:
    """JSON lines, one write() each, to a private descriptor."""

    def __init__(self, fd: int, level: int) -> None:
        self.fd = fd
        self.level = level

    def write(self, level: int, message: str, **fields: object) -> None:
        if level > self.level:
            return
        seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        texts = ",".join(
            f'"{name}":{_json(value)}'
            for name, value in {"message": message, **fields}.items()
        )
        line = (
            f'{{"timestamp":"{second}.{nanoseconds // 1000:06d}Z","level":"{_LEVEL_NAMES[level]}","fields":{{{texts}}},'
            f'"filename":"spider_executor.py","line_number":{sys._getframe(1).f_lineno}}}\n'
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
    return f'"{escape(text)}"'


def escape(text: str) -> str:
    """Write control characters, bidirectional characters and lone surrogates as JSON does."""
    if text.isprintable():
        return text
    units = memoryview(
        text.encode(f"utf-16-{sys.byteorder[0]}e", "surrogatepass")
    ).cast("H")
    return "".join(
        chr(unit) if chr(unit).isprintable() else f"\\u{unit:04x}" for unit in units
    )


# --------------------------------------------------------------------------------------------------------------- handle

# How long an executor may take to end, in seconds.
_END_TIMEOUT = 5.0

# python3 -ISc START PATH [ARGUMENT ...] starts this program faster than -m. PATH is the directory or the archive with
# both modules. Without an ARGUMENT, SIGINT (2) gets its default action (0) before the imports, unless ignored (1).
START = (
    "import sys,_signal as s;len(sys.argv)>2 or s.getsignal(2)==1 or s.signal(2,0);del sys.argv[0];"
    "sys.path.insert(0,sys.argv[0]);import spider_executor as e;sys.exit(e.main())"
)


def own_command() -> list[str]:
    """Return the command that starts this program as an executor."""
    return [sys.executable, "-ISc", START, os.path.dirname(os.path.realpath(__file__))]


class TaskTimeout(TimeoutError):
    """There was no response in time. The executor was killed."""


class ExecutorCrash(Exception):
    """The executor ended without a reply, with `exit_code` or by `signal` ("SIGSEGV"); the other one is None."""

    def __init__(self, status: int) -> None:
        import signal

        super().__init__(status)
        names = {-number: number.name for number in signal.Signals}
        self.exit_code = status if status >= 0 else None
        self.signal = names.get(status, f"signal {-status}") if status < 0 else None

    def __str__(self) -> str:
        how = (
            f"was killed by {self.signal}"
            if self.signal
            else f"ended with exit code {self.exit_code}"
        )
        return f"the executor {how}"


class ExecutorHandle:
    """An executor process, driven from Python. It runs one request at a time.

    A context manager: at the end of the block the process has ended. After TaskTimeout, ExecutorCrash, a reply that
    cannot be read, or an interrupt, it has ended as well, and the handle cannot be used again.

    >>> from protocol import TaskContext, pack_values
    >>> commit = TaskContext(task_id="Commit", graph_outputs=bytes([0]) + pack_values(3, -3))
    >>> with ExecutorHandle(package_dir) as executor:
    ...     executor.execute("integration_test_tasks", "fibonacci", 20, timeout=10)
    ...     executor.execute("integration_test_tasks", "assert_outputs_sum_zero", context=commit)
    [6765]
    []
    """

    _process: Any = None

    def __init__(
        self,
        package_dir: Path,
        command: Sequence[str] | None = None,
        env: Any = None,
        stderr: Any = None,
    ) -> None:
        """Spawn `command` (default: this program) with the environment `env` (default: that of this process).

        `stderr` is as in subprocess.Popen. With PIPE, read `self.stderr`, or an executor that logs much blocks. Raises
        OSError, and ValueError for STDOUT.
        """
        import selectors
        from subprocess import PIPE, STDOUT, Popen

        if stderr == STDOUT:
            raise ValueError(
                "expected another place for stderr than stdout: log lines would break the protocol"
            )
        environment = {
            **(os.environ if env is None else env),
            PACKAGE_DIR_VARIABLE: os.fsdecode(package_dir),
        }
        # If a standard stream of this process is closed, no pipe may take its number.
        placeholders = [os.open("/", os.O_RDONLY) for _ in range(3)]
        try:
            self._selector = selectors.DefaultSelector()
            argv = command or own_command()
            self._process = Popen(
                argv, bufsize=0, stdin=PIPE, stdout=PIPE, stderr=stderr, env=environment
            )
        finally:
            for fd in placeholders:
                os.close(fd)
        self.pid: int = self._process.pid
        self.stderr: Any = self._process.stderr
        self._lock = _thread.allocate_lock()
        self._input, self._output = (
            self._process.stdin.fileno(),
            self._process.stdout.fileno(),
        )
        os.set_blocking(self._input, False)
        os.set_blocking(self._output, False)
        self._selector.register(self._output, selectors.EVENT_READ)

    def execute(
        self,
        package: str,
        task_func: str,
        *values: Any,
        timeout: float | None = None,
        context: Any = None,
    ) -> list[Any]:
        """Run a task and return its outputs; see protocol.pack for `values`, and TaskContext for `context`.

        Raises ExecutorError if the task failed, TaskTimeout after `timeout` seconds, ExecutorCrash, ProtocolError if a
        value or the reply is malformed, RuntimeError if the executor has ended before or another thread is using it.
        """
        raw_ctx = (protocol.TaskContext() if context is None else context).encode()
        request = protocol.Execute(
            package, task_func, raw_ctx, protocol.pack_values(*values)
        )
        outcome = self.request(request, timeout).outcome
        if isinstance(outcome, protocol.Failure):
            raise protocol.decode_executor_error(outcome.error)[0]
        return protocol.unpack_values(outcome.outputs)

    def request(
        self, request: protocol.Execute, timeout: float | None = None
    ) -> protocol.Result:
        """Send a request and return the response undecoded. Raises what `execute` does, except for ExecutorError."""
        frame = protocol.encode_frame(protocol.encode_request(request))
        self._acquire()
        try:
            if self._process.returncode is not None:
                raise RuntimeError(
                    "the executor of this handle has ended; spawn another one"
                )
            return self._exchange(
                frame, time.monotonic() + (float("inf") if timeout is None else timeout)
            )
        except BaseException:
            self._kill()
            raise
        finally:
            self._lock.release()

    def _acquire(self) -> None:
        if not self._lock.acquire(False):
            raise RuntimeError(
                "another thread is using this handle, which runs one request at a time"
            )

    def _exchange(self, frame: bytes, deadline: float) -> protocol.Result:
        received, filled, end = bytearray(4096), 0, protocol.FRAME_HEADER_SIZE
        unsent = self._send(memoryview(frame))
        if unsent:
            self._selector.register(self._input, 2)  # EVENT_WRITE
        while unsent or filled < end:
            remaining = max(0.0, deadline - time.monotonic())
            # A day at a time: epoll cannot wait longer than 24 days.
            ready = self._selector.select(min(remaining, 86400.0))
            if not ready and not remaining:
                raise TaskTimeout(
                    "no response within the timeout; the executor was killed"
                )
            for key, _ in ready:
                if key.fd == self._input:
                    unsent = self._send(unsent)
                    if not unsent:
                        self._selector.unregister(self._input)
                else:
                    count = os.readv(self._output, [memoryview(received)[filled:]])
                    if not count:
                        raise self._end_of_output(deadline)
                    filled += count
            if filled >= protocol.FRAME_HEADER_SIZE:
                end = protocol.frame_end(received, 0)
                received += bytes(
                    max(0, end + 1 - len(received))
                )  # One more, to notice bytes after the response.
                if filled > end:
                    raise ProtocolError(
                        f"expected one response, found {filled - end} more bytes after it"
                    )
        return protocol.decode_response(
            memoryview(received), protocol.FRAME_HEADER_SIZE, end
        )[0]

    def _send(self, data: memoryview) -> memoryview:
        """Write as much as the pipe takes. Return the rest."""
        try:
            return data[os.write(self._input, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return data[:0]  # The executor stopped reading. It may reply all the same.

    def _end_of_output(self, deadline: float) -> Exception:
        """Wait for a process that has closed its stdout, at most until the deadline. Return what to raise."""
        from subprocess import TimeoutExpired

        try:
            return ExecutorCrash(
                self._process.wait(
                    min(max(0.0, deadline - time.monotonic()), _END_TIMEOUT)
                )
            )
        except TimeoutExpired:
            return TaskTimeout(
                "the executor closed its stdout but did not end; it was killed"
            )

    def close(self, timeout: float = _END_TIMEOUT) -> int:
        """Send Shutdown, close stdin, wait at most `timeout` seconds, then kill the executor. Return its exit status.

        That is its exit code, or minus the number of the signal that ended it. Raises RuntimeError like `execute`.
        """
        from subprocess import TimeoutExpired

        self._acquire()
        try:
            if self._process.returncode is None:
                self._send(
                    memoryview(
                        protocol.encode_frame(
                            protocol.encode_request(protocol.Shutdown())
                        )
                    )
                )
                self._process.stdin.close()
                self._process.wait(timeout)
        except TimeoutExpired:
            pass
        finally:
            self._kill()
            self._lock.release()
        return int(self._process.returncode)

    def _kill(self) -> None:
        """Kill the process if it has not ended. Close the pipes, except for stderr, which may have lines to read."""
        # In a fork of this process, poll() finds no process to kill.
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        self._process.stdin.close()
        self._process.stdout.close()

    def __enter__(self) -> ExecutorHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._process is not None:
            self._kill()


# ------------------------------------------------------------------------------------------------------------- commands

EXIT_USAGE, EXIT_NO_REPLY, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 3, 130, 141
_CHECK_TASK, _SERVES = "spider_check", "serves"

_DESCRIPTION = """\
Run the native task packages of a Spider cluster. Without arguments, serve
the execution manager on stdin and stdout. A PACKAGE is the name of a
directory; its library is DIR/PACKAGE/libPACKAGE.so.
"""
_EPILOG = f"""\
exit codes:
  0 success, 1 failure, 2 usage, 3 no response, 130 Ctrl-C, 141 stdout closed
environment:
  {PACKAGE_DIR_VARIABLE}, and RUST_LOG: off, error (default), warn, info,
  debug, or TARGET=LEVEL[,...]; the target is {_LOG_TARGET}

examples:
  spider-task-executor run --package-dir packages sums add 1 2
  spider-task-executor run complex complex::add '[[[1.0, 2.0]]]' @other.json
  gdb --args /usr/bin/python3 spider_executor.py run --in-process sums add 1 2
"""
_RUN_DESCRIPTION = """\
Send a request to a new executor. Print the outputs as JSON on stdout, and the
time that it took, loading included, on stderr. Options go before PACKAGE. A
VALUE is JSON, @FILE (JSON in a file) or - (JSON on stdin). 1 is an integer, 1.0
a double, null is none, an array a list, a struct or bytes, an object a map.
"""
_CHECK_DESCRIPTION = f"""\
Load each PACKAGE (default: all in DIR) in one executor and call its execute
function with a task that no package should have, {_CHECK_TASK}. A package
serves if it returns outputs or an error. The order matters if packages clash.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve if there are no arguments (default: those of the process), otherwise run a command. Return an exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        serve_process()
    # If a standard stream is closed, no file may take its number.
    while os.open("/", os.O_RDONLY) <= 2:
        pass
    _restore_environment()
    _signal.signal(
        _signal.SIGCHLD, _signal.SIG_DFL
    )  # If it is ignored, exit statuses are lost.
    for number in (
        _signal.SIGTERM,
        _signal.SIGHUP,
    ):  # Unwind, so that no executor is left.
        if _signal.getsignal(number) == _signal.SIG_DFL:
            _signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        options = _parser().parse_args(arguments)
        if not options.package_dir:
            _fail(
                f"expected --package-dir DIR, or {PACKAGE_DIR_VARIABLE} in the environment"
            )
        os.stat(
            os.path.join(options.package_dir, ".")
        )  # Raises OSError if it is not a directory.
        for name in ("timeout", "repeat"):
            value = getattr(options, name, None)
            if value is not None and not value > 0:
                _fail(f"--{name}: expected a positive number, found {value}")
        return _run(options) if options.command == "run" else _check(options)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except OSError as error:
        name = "stdin" if error.filename == 0 else error.filename or "stdout"
        if isinstance(error, FileNotFoundError) and os.path.exists(name):
            _fail(f"{name}: the interpreter in its first line does not exist")
        _fail(
            f"{name}: {error.strerror}",
            EXIT_FAILURE if name == "stdout" else EXIT_USAGE,
        )


def _parser() -> argparse.ArgumentParser:
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            _fail(f"{message}; see --help")

        def _print_message(self, message: str, file: object = None) -> None:
            _print(message.encode())  # argparse would ignore a broken stdout.

    style: Any = {
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "allow_abbrev": False,
    }
    parser = Parser(
        "spider-task-executor", description=_DESCRIPTION, epilog=_EPILOG, **style
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {__version__}"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run", help="run one task", description=_RUN_DESCRIPTION, **style
    )
    check = commands.add_parser(
        "check",
        help="check that packages load",
        description=_CHECK_DESCRIPTION,
        **style,
    )
    for command in (run, check):
        default = os.environ.get(PACKAGE_DIR_VARIABLE, "")
        command.add_argument(
            "--package-dir",
            metavar="DIR",
            default=default,
            help=f"default: ${PACKAGE_DIR_VARIABLE}",
        )
    run.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        help="kill an executor that does not reply in time",
    )
    run.add_argument(
        "--repeat",
        metavar="N",
        type=int,
        default=1,
        help="send N requests and print their times",
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
        "--executor", metavar="PATH", help="start another executor than this program"
    )
    run.add_argument(
        "--in-process",
        action="store_true",
        help="run the task in this process, for debuggers",
    )
    run.add_argument("package", metavar="PACKAGE")
    run.add_argument("task", metavar="TASK")
    run.add_argument("values", metavar="VALUE", nargs=argparse.REMAINDER)
    check.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=10,
        help="for each package (default: 10)",
    )
    check.add_argument("packages", metavar="PACKAGE", nargs="*")
    return parser


def _fail(text: str, status: int = EXIT_USAGE) -> NoReturn:
    _say(f"spider-task-executor: {text}")
    raise SystemExit(status)


def _say(text: str) -> None:
    """Write a line to stderr."""
    try:
        os.write(2, f"{escape(text)}\n".encode())
    except OSError:
        pass


def _print(data: bytes, fd: int = 1) -> None:
    while data:
        data = data[os.write(fd, data) :]


def _run(options: argparse.Namespace) -> int:
    if options.in_process and (options.executor or options.timeout):
        _fail("run: --in-process excludes --executor and --timeout")
    request = _request(options)
    output_fd = os.dup(1)
    try:
        if options.in_process:
            # Python's handlers cannot run inside native code.
            for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
                _signal.signal(number, _signal.SIG_DFL)
            # What the task prints is not an output.
            os.dup2(2, 1)
            manager = TdlPackageManager(options.package_dir)
            outputs = _repeat(options, lambda: manager.execute(request))
        else:
            command = (
                None
                if options.executor is None
                else [os.path.abspath(options.executor)]
            )
            with ExecutorHandle(options.package_dir, command) as executor:
                outputs = _repeat(
                    options, lambda: executor.request(request, options.timeout)
                )
    except ExecutorError as error:
        _fail(f"{options.package} {options.task}: {error}", EXIT_FAILURE)
    except (TaskTimeout, ExecutorCrash, ProtocolError) as error:
        _fail(f"run: no reply: {error}", EXIT_NO_REPLY)
    if not options.raw:
        import json

        try:
            text = json.dumps(
                protocol.unpack_values(outputs), ensure_ascii=False, default=list
            )
        except (ProtocolError, TypeError) as error:
            _fail(
                f"run: the outputs cannot be printed as JSON: {error}; --raw writes their bytes",
                EXIT_FAILURE,
            )
        outputs = f"{escape(text)}\n".encode()
    _print(outputs, output_fd)
    return 0


def _request(options: argparse.Namespace) -> protocol.Execute:
    # json needs a few levels of recursion for each level of a value.
    sys.setrecursionlimit(5 * protocol.MSGPACK_DEPTH_MAX)
    values = [_read_value(text) for text in options.values]
    context = protocol.TaskContext()
    try:
        payload = protocol.pack_values(*values)
        if options.commit:
            context = protocol.TaskContext(
                task_id="Commit", graph_outputs=bytes([0]) + payload
            )
            payload = protocol.encode_payload([])
        request = protocol.Execute(
            options.package, options.task, context.encode(), payload
        )
        protocol.encode_frame(protocol.encode_request(request))
    except ProtocolError as error:
        _fail(f"no request can carry this: {error}")
    return request


def _read_value(text: str) -> Any:
    import json

    data: str | bytes = text
    if text == "-" or text.startswith("@"):
        with open(text[1:] or 0, "rb", closefd=text != "-") as file:
            data = file.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        hint = (
            "options go before PACKAGE"
            if text.startswith("-")
            else """a string is written as '"text"'"""
        )
        _fail(f"expected JSON, found {text[:40]}: {error} ({hint})")


def _repeat(
    options: argparse.Namespace, execute: Callable[[], protocol.Result]
) -> bytes:
    """Execute --repeat times and print how long it took. Return the last outputs. Raises ExecutorError."""
    import threading

    notice = threading.Timer(
        5.0, _say, ["run: still waiting; --timeout SECONDS limits the wait"]
    )
    notice.daemon = True
    if options.timeout is None and os.isatty(2):
        notice.start()
    elapsed, round_trips, outputs = [], [], b""
    for _ in range(options.repeat):
        started = time.monotonic_ns()
        result = execute()
        round_trips.append(_elapsed_us(started))
        elapsed.append(result.elapsed_us)
        if isinstance(result.outcome, protocol.Failure):
            raise protocol.decode_executor_error(result.outcome.error)[0]
        outputs = result.outcome.outputs
    notice.cancel()
    if options.repeat == 1:
        _say(f"elapsed: {elapsed[0]} µs")
        return outputs
    for name, samples in (
        ("in the executor", sorted(elapsed)),
        ("round trip", sorted(round_trips)),
    ):
        p50, p99 = (
            samples[(len(samples) - 1) // 2],
            samples[(len(samples) - 1) * 99 // 100],
        )
        _say(
            f"{name:15}  min {samples[0]} µs, P50 {p50} µs, P99 {p99} µs, max {samples[-1]} µs"
        )
    return outputs


def _check(options: argparse.Namespace) -> int:
    names = options.packages or sorted(
        entry.name
        for entry in os.scandir(options.package_dir)
        if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        _fail(
            f"{options.package_dir}: expected directories with packages, found none",
            EXIT_FAILURE,
        )
    executor, serving, context = None, 0, protocol.TaskContext().encode()
    for name in names:
        executor = executor or ExecutorHandle(options.package_dir)
        try:
            request = protocol.Execute(
                name, _CHECK_TASK, context, protocol.encode_payload([])
            )
            outcome, verdict = (
                executor.request(request, options.timeout).outcome,
                _SERVES,
            )
            if isinstance(outcome, protocol.Failure):
                error = protocol.decode_executor_error(outcome.error)[0]
                verdict = _SERVES if error.kind == "TaskError" else str(error)
        except (TaskTimeout, ExecutorCrash, ProtocolError) as problem:
            verdict = str(problem)
            executor = None
        serving += verdict == _SERVES
        _print(f"{escape(name):{max(map(len, names))}}    {escape(verdict)}\n".encode())
    _print(f"{serving} of {len(names)} packages serve\n".encode())
    return 0 if serving == len(names) else EXIT_FAILURE


if __name__ == "__main__":
    sys.exit(main())
