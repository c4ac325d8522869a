#!/usr/bin/env -S python3 -IS
"""A task executor for Spider, in Python, on the standard library alone.

Started without arguments, it serves one parent: it reads framed requests on stdin, loads native task packages
`$SPIDER_TDL_PACKAGE_DIR/<package>/lib<package>.so`, calls their tasks, and writes framed responses to stdout. Its logs
are JSON lines on stderr. The language is in protocol.py. Started with arguments, it is a command line; see `--help`.

The way of a request, which is also the order of this file:

    stdin -> Channel (one buffer, fixed in memory) -> protocol.locate_request (offsets) -> TdlPackageManager (a loaded
    package) -> the task, called with pointers into the buffer -> the package's own buffer -> stdout -> free

One request at a time, on the main thread. A program that wants to drive executors uses ExecutorHandle.
"""

from __future__ import annotations

import _thread
import ctypes
import faulthandler
import os
import sys
import time
from ctypes import c_char, c_char_p, c_int, c_size_t, c_uint8, c_uint32, c_ulong, c_void_p
from stat import S_ISDIR, S_ISREG
from struct import Struct
from types import FunctionType

if __name__ == "__main__" and sys.flags.isolated:
    # An isolated interpreter leaves the script's own directory out of its path.
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))

import protocol
from protocol import (
    FAILURE,
    FRAME_BODY_MAX,
    FRAME_HEADER_SIZE,
    RESPONSE_OVERHEAD,
    SUCCESS,
    DuplicatePackage,
    ErrorPayloadDeserializationFailure,
    ExecutorError,
    Failure,
    IncompatibleVersion,
    InvalidLibrary,
    InvalidUtf8,
    PackageInitError,
    ProtocolError,
    SerializationError,
    Success,
    TaskError,
    TdlError,
    TruncatedError,
    decode_names,
    decode_request,
    decode_tdl_error,
    frame_end,
    locate_request,
    response_head,
    response_tail,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Iterator, NoReturn, Sequence, Union

    Path = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]"]

    from protocol import Buffer
    from protocol import Version as VersionNumbers

__version__ = "0.1.0"

# The version of the package ABI, which is Spider's executor's own version.
ABI_VERSION = (0, 1, 0)
PACKAGE_DIR_VARIABLE = "SPIDER_TDL_PACKAGE_DIR"

# Every exit that is not a clean end of the input or a Shutdown.
EXIT_FAILURE = 1

_libc = ctypes.CDLL(None)
_libc.dlopen.argtypes = [c_char_p, c_int]
_libc.dlopen.restype = c_void_p
_libc.dlsym.argtypes = [c_void_p, c_char_p]
_libc.dlsym.restype = c_void_p
_libc.dlclose.argtypes = [c_void_p]
_libc.dlerror.restype = c_char_p
_libc.aligned_alloc.argtypes = [c_size_t, c_size_t]
_libc.aligned_alloc.restype = c_void_p
# Functions that another thread calls are looked up here: the loader's lock, which a look-up takes, is held while a
# package is loaded, and whoever has Python's lock must not wait for it.
_poll = _libc.poll
_fflush = _libc.fflush
_free = _libc.free
_free.argtypes = [c_void_p]
_free.restype = None


# ----------------------------------------------------------------------------------------------------------------- logs

ERROR, WARN, INFO, DEBUG, TRACE = 1, 2, 3, 4, 5
_LEVELS = {"off": 0, "error": ERROR, "warn": WARN, "info": INFO, "debug": DEBUG, "trace": TRACE}
_LEVELS.update((str(level), level) for level in range(6))
_LOG_TARGET = "spider_task_executor"
# A parent drops a line of more than 64 KiB; a character takes up to 12 bytes when it is escaped.
_LOG_TEXT_MAX = 2000

_JSON_ESCAPES = {code: f"\\u{code:04x}" for code in range(32)}
_JSON_ESCAPES.update({ord("\n"): "\\n", ord("\t"): "\\t", ord("\r"): "\\r", ord('"'): '\\"', ord("\\"): "\\\\"})


def parse_log_filter(text: str) -> tuple[int, list[str]]:
    """Read a RUST_LOG filter: the level that holds for this program, and the directives that cannot be parsed."""
    level, best, bad = ERROR, -1, []
    for directive in filter(None, map(str.strip, text.split(","))):
        target, has_level, name = directive.partition("=")
        if not has_level and target.lower() in _LEVELS:
            target, name = "", target
        elif not has_level:
            name = "trace"
        name = name.strip().lower()
        target = target.strip()
        is_target = target.replace("_", "").replace("-", "").replace(":", "").isalnum()
        if name not in _LEVELS or not (is_target or (not target and not has_level)):
            bad.append(directive)
        elif _LOG_TARGET.startswith(target) and len(target) >= best:
            level, best = _LEVELS[name], len(target)
    return level, bad


class Log:
    """JSON lines, one `write` each, to a descriptor that tasks do not know."""

    def __init__(self, fd: int, level: int) -> None:
        self.fd = fd
        self.level = level

    def error(self, message: str, **fields: object) -> None:
        if self.level >= ERROR:
            self._write("ERROR", message, fields)

    def warn(self, message: str, **fields: object) -> None:
        if self.level >= WARN:
            self._write("WARN", message, fields)

    def info(self, message: str, **fields: object) -> None:
        if self.level >= INFO:
            self._write("INFO", message, fields)

    def debug(self, message: str, **fields: object) -> None:
        if self.level >= DEBUG:
            self._write("DEBUG", message, fields)

    def trace(self, message: str, **fields: object) -> None:
        if self.level >= TRACE:
            self._write("TRACE", message, fields)

    def notice(self, message: str, **fields: object) -> None:
        """A warning that is written whatever the filter says: it is about the filter, or for a person."""
        self._write("WARN", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        seconds, nanoseconds = divmod(time.time_ns(), 1000000000)
        shown = ['"message":' + _json(message)]
        shown += [f'"{name}":{_json(value)}' for name, value in fields.items()]
        second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
        line = (
            f'{{"timestamp":"{second}.{nanoseconds // 1000:06d}Z","level":"{level}","fields":{{{",".join(shown)}}},'
            f'"filename":"spider_executor.py","line_number":{sys._getframe(2).f_lineno}}}\n'
        )
        # A lone surrogate, from a path that is not UTF-8, is valid in JSON as an escape.
        data = line.encode("utf-8", "backslashreplace")
        # A task may have closed every descriptor but stderr. If nobody reads the logs, that is no reason to stop.
        for fd in (self.fd, 2):
            try:
                _write_all(fd, data)
                break
            except OSError:
                pass


def _json(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if len(text) > _LOG_TEXT_MAX:
        text = text[:_LOG_TEXT_MAX] + "…"
    return f'"{text.translate(_JSON_ESCAPES)}"'


# -------------------------------------------------------------------------------------------------------------- channel


class Channel:
    """The pipes to the parent, and the buffer that requests are read into.

    Only `take` makes one of a process's own stdin and stdout. `running` is the call that is under way, if any.
    """

    def __init__(self, input_fd: int, output_fd: int) -> None:
        self.input_fd = input_fd
        self.output_fd = output_fd
        # Room for the largest frame, on pages of its own, which cost nothing before they are used; and one page more.
        self.address: int = _libc.aligned_alloc(_PAGE, _FRAME_MAX + _PAGE)
        if not self.address:
            raise MemoryError
        self.buffer: Any = (c_char * _FRAME_MAX).from_address(self.address)
        # A byte that is 1, but 0 in a copy of this process, however it was made: the kernel wipes its page.
        self.original: Any = c_uint8.from_address(self.address + _FRAME_MAX)
        _libc.madvise(c_void_p(self.address + _FRAME_MAX), c_size_t(_PAGE), _MADV_WIPEONFORK)
        self.original.value = 1
        self.running: Callable[[], Any] | None = None
        self._limits: list[Any] = []

    @classmethod
    def take(cls) -> Channel:
        """Make fd 0 and 1 the executor's own, under numbers that tasks do not use, and give tasks others.

        A task then reads EOF from stdin, and what it prints goes where the logs go. Raises _StartError if one of them
        is closed.
        """
        ends = []
        for fd, name in enumerate(("stdin", "stdout")):
            try:
                ends.append(_move_high(fd))
            except OSError as error:
                raise _StartError(f"{name}: expected a pipe from the parent, found {error.strerror}") from None
        channel = cls(*ends)
        channel._limits = [_get_limit(resource) for resource in range(_RLIMIT_COUNT)]
        for fd in (channel.input_fd, channel.output_fd):
            # Fails if it is no pipe, or if that is more than an unprivileged user may have.
            _libc.fcntl(fd, _F_SETPIPE_SZ, 1 << 20)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        if null > 2:
            os.close(null)
        os.dup2(2, 1)
        return channel

    def requests(self) -> Iterator[tuple[int, int]]:
        """Read frames, and give each body's start and end in the buffer, until the input ends between two frames.

        A body stays in place until the next one is asked for. Raises TruncatedError if the input ends inside a frame,
        ProtocolError if a frame is too long, OSError.
        """
        buffer, input_fd = self.buffer, self.input_fd
        view = memoryview(buffer).cast("B")
        whole = [view]
        start = filled = 0
        while True:
            if filled - start >= FRAME_HEADER_SIZE:
                end = frame_end(buffer, start)
                if end <= filled:
                    yield start + FRAME_HEADER_SIZE, end
                    start = end
                    if start == filled:
                        start = filled = 0
                    continue
            if start:
                view[: filled - start] = view[start:filled]
                start, filled = 0, filled - start
            try:
                count = os.readv(input_fd, [view[filled:]] if filled else whole)
            except BlockingIOError:
                _wait(input_fd, _POLLIN)
                continue
            if count == 0:
                if filled:
                    raise TruncatedError(
                        f"expected the rest of a frame, found the end of the input {filled} bytes into it"
                    )
                return
            filled += count

    def restore_limits(self) -> None:
        """Undo what a task may have done to the resource limits, which would keep other packages from loading."""
        for resource, (soft, _) in enumerate(self._limits):
            # A hard limit that was lowered stays so: mostly it cannot be raised again.
            hard = _get_limit(resource)[1]
            _libc.setrlimit(resource, (c_ulong * 2)(min(soft, hard), hard))

    def send(self, head: bytes, data: Buffer, tail: bytes) -> None:
        """Write a response from where its parts are. Raises OSError."""
        parts = [memoryview(head), memoryview(data), memoryview(tail)]
        while parts:
            try:
                count = os.writev(self.output_fd, parts)
            except BlockingIOError:
                _wait(self.output_fd, _POLLOUT)
                continue
            while parts and count >= len(parts[0]):
                count -= len(parts.pop(0))
            if count:
                parts[0] = parts[0][count:]


_POLLIN, _POLLOUT = 1, 4
_MADV_WIPEONFORK = 18
_PAGE = 4096
_FRAME_MAX = FRAME_BODY_MAX + _PAGE
_F_DUPFD_CLOEXEC, _F_SETPIPE_SZ = 1030, 1031
_EMFILE = 24
_RLIMIT_NOFILE = 7
_RLIMIT_COUNT = 16
# Above the descriptors that a program closes in a loop, if the limit on open files lets us go there.
_HIGH_FD = 4000


def _move_high(fd: int) -> int:
    """Duplicate a descriptor to a high number, close-on-exec. Raises OSError if it is closed."""
    limit = _get_limit(_RLIMIT_NOFILE)
    soft, hard = limit
    ceiling = min(hard, _HIGH_FD + 16)
    if soft < ceiling:
        # A descriptor stays valid when the limit goes back below its number.
        _libc.setrlimit(_RLIMIT_NOFILE, (c_ulong * 2)(ceiling, hard))
    try:
        os.fstat(fd)
        # Of libc, as all of fcntl here: the module would be one more import at start.
        duplicate: int = _libc.fcntl(fd, _F_DUPFD_CLOEXEC, max(3, min(_HIGH_FD, max(soft, ceiling) - 16)))
        if duplicate < 0:
            raise OSError(_EMFILE, "no descriptor is left for it")
        return duplicate
    finally:
        _libc.setrlimit(_RLIMIT_NOFILE, limit)


def _get_limit(resource: int) -> Any:
    limit = (c_ulong * 2)()
    _libc.getrlimit(resource, limit)
    return limit


def _wait(fd: int, event: int, milliseconds: int = -1) -> bool:
    """Wait until a descriptor is ready, or broken; returns whether it is.

    By libc's poll: a module might not load any more in a process whose limits a task has lowered. struct pollfd is the
    descriptor, then the events that are waited for, then those that have come.
    """
    return int(_poll((c_int * 2)(fd, event), 1, milliseconds)) > 0


def _write_all(fd: int, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    while True:
        try:
            count = os.write(fd, data)
        except BlockingIOError:
            _wait(fd, _POLLOUT)
            continue
        if count == len(data):
            return
        data = data[count:]


# ------------------------------------------------------------------------------------------------------------- packages


class _Version(ctypes.Structure):
    _fields_ = [("major", c_uint32), ("minor", c_uint32), ("patch", c_uint32)]


class _View(ctypes.Structure):
    _fields_ = [("pointer", c_void_p), ("length", c_size_t)]


class _CallResult(ctypes.Structure):
    # Any byte but 0 is an error; c_bool would leave that to the compiler.
    _fields_ = [("is_error", c_uint8), ("pointer", c_void_p), ("length", c_size_t)]


_GET_VERSION = ctypes.CFUNCTYPE(_Version)
_GET_NAME = ctypes.CFUNCTYPE(_View)
_INIT = ctypes.CFUNCTYPE(_CallResult)
_EXECUTE = ctypes.CFUNCTYPE(_CallResult, _View, _View, _View)

# What a package returned, at any address: only as much of it is read as the package says is there.
_Memory: Any = c_char * (1 << 40)

_SHOWN_MAX = 8192
# A declared name of more bytes is a length that the package has not set.
_NAME_MAX = 1 << 16

_RTLD_NOW, _RTLD_NOLOAD = 2, 4


class TdlPackage:
    """A native package: a shared library that exports the functions of the package ABI. `load` makes one.

    `path` is the file, `name` what it declares (often, but not always, its directory's name), `version` the ABI
    version that it was built for, `call` the native function that executes a task.
    """

    path: str
    name: str
    version: VersionNumbers
    call: Callable[..., Any]

    # The files, by path, whose libraries the loader has kept although they were refused. It knows a library by the
    # spelling of its path, so another file gets another spelling, for the loader to look at it.
    _kept: dict[bytes, list[tuple[int, int]]] = {}

    def __init__(self, file: bytes) -> None:
        self.path = _shown(file)
        try:
            status = os.stat(file)
            self._file_id = (status.st_dev, status.st_ino)
        except OSError:
            self._file_id = (0, 0)  # The loader says why.
        kept = self._kept.get(file, [])
        spellings = kept.index(self._file_id) if self._file_id in kept else len(kept)
        head, tail = os.path.split(file)
        self._spelling = os.path.join(head, b"./" * spellings + tail)
        self._handle = _libc.dlopen(self._spelling, _RTLD_NOW)
        if not self._handle:
            raise InvalidLibrary(self._loader_error())

    @classmethod
    def load(cls, path: Path, before_init: Callable[[TdlPackage], None] | None = None) -> TdlPackage:
        """Load the library at `path` and run its init function; `before_init` may refuse it once its name is known.

        Raises ExecutorError; the library is closed again then, so that a mended file can be loaded later.
        """
        file = os.fsencode(path)
        if b"/" not in file:
            file = b"./" + file  # The loader would search for it in the directories of the system.
        check_elf(file)
        package = cls(file)
        try:
            package.version = package._read_version()
            package.name = package._read_name()
            if before_init is not None:
                before_init(package)
            package._init()
            package.call = _EXECUTE(package._require(b"__spider_tdl_package_execute"))
        except ExecutorError:
            if not package._close() and package._file_id not in cls._kept.setdefault(file, []):
                cls._kept[file].append(package._file_id)
            raise
        return package

    def execute(self, task_func: str, raw_ctx: bytes, raw_inputs: bytes) -> Success | Failure:
        """Run a task on the calling thread. One that fails is a Failure; one that crashes takes the process along."""
        parts = (task_func.encode("utf-8", "surrogatepass"), raw_ctx, raw_inputs)
        result = self.call(*(_View(ctypes.cast(c_char_p(part), c_void_p), len(part)) for part in parts))
        if result.is_error:
            return Failure(_wrap_error(TaskError, result).encode())
        if result.length and not result.pointer:
            return Failure(_null_outputs(result.length).encode())
        outputs = _read_memory(result)
        _release(result)
        return Success(outputs)

    def _init(self) -> None:
        address = _libc.dlsym(self._handle, b"__spider_tdl_package_init")
        if address:
            result = _INIT(address)()
            if result.is_error:
                raise _wrap_error(PackageInitError, result)
            _release(result)

    def _require(self, symbol: bytes) -> int:
        address: int | None = _libc.dlsym(self._handle, symbol)
        if not address:
            raise InvalidLibrary(self._loader_error())
        return address

    def _read_version(self) -> VersionNumbers:
        found = _GET_VERSION(self._require(b"__spider_tdl_package_get_version"))()
        version = (found.major, found.minor, found.patch)
        significant = 2 if ABI_VERSION[0] == 0 else 1
        if version[:significant] != ABI_VERSION[:significant]:
            raise IncompatibleVersion(version, ABI_VERSION)
        return version

    def _read_name(self) -> str:
        view = _GET_NAME(self._require(b"__spider_tdl_package_get_name"))()
        if view.length and not view.pointer:
            raise InvalidLibrary(f"{self.path}: the declared name is a NULL pointer with length {view.length}")
        if view.length > _NAME_MAX:
            raise InvalidLibrary(f"{self.path}: expected a declared name, found one of {view.length} bytes")
        try:
            return str(_read_memory(view), "utf-8")
        except UnicodeDecodeError as error:
            raise InvalidUtf8(f"{self.path}: the declared name is not UTF-8: {error}") from None

    def _loader_error(self) -> str:
        """The loader's message for what just failed, with the file's name."""
        message = _shown(_libc.dlerror() or b"the loader gave no reason")
        return message if self.path in message else f"{self.path}: {message}"

    def _close(self) -> bool:
        """Unload the library; returns whether the loader let go of it."""
        _libc.dlclose(self._handle)
        kept = _libc.dlopen(self._spelling, _RTLD_NOW | _RTLD_NOLOAD)
        if kept:
            _libc.dlclose(kept)
        return not kept


def _shown(path: bytes) -> str:
    """A path, or a message with one in it, as text that can be sent."""
    if len(path) > _SHOWN_MAX:
        path = path[:_SHOWN_MAX] + b"..."  # Longer than any path that leads somewhere.
    return path.decode("utf-8", "backslashreplace")


def _read_memory(view: Any) -> bytes:
    return bytes(_Memory.from_address(view.pointer)[: view.length]) if view.length else b""


def _release(result: Any) -> None:
    """Free what a package returned. A pointer with length 0 may dangle."""
    if result.length:
        _free(result.pointer)


def _null_outputs(size: int) -> TaskError:
    return TaskError(SerializationError(f"the task returned a NULL pointer as outputs of {size} bytes"))


def _wrap_error(wrapper: Callable[[TdlError], ExecutorError], result: Any) -> ExecutorError:
    """What a package returned as its error, in `wrapper` if it is a TdlError. Frees it."""
    size = result.length if result.pointer else 0
    data = memoryview(_Memory.from_address(result.pointer)).cast("B")[:size] if size else b""
    try:
        return wrapper(decode_tdl_error(data)[0])
    except ProtocolError as error:
        return ErrorPayloadDeserializationFailure(f"the package's error of {size} bytes is not a TdlError: {error}")
    finally:
        _release(result)


class TdlPackageManager:
    """The packages of one directory, each loaded when it is first asked for and kept until exit."""

    def __init__(self, package_dir: Path) -> None:
        # Absolute now: a task may change the working directory.
        self._package_dir = os.path.abspath(os.fsencode(package_dir))
        self._by_request: dict[str, TdlPackage] = {}
        self._by_name: dict[str, TdlPackage] = {}
        self._by_file: dict[tuple[int, int], TdlPackage] = {}

    def names(self) -> list[str]:
        """The names that the loaded packages declare, in the order of loading."""
        return list(self._by_name)

    def get(self, name: str) -> TdlPackage | None:
        """The package that was loaded when `name` was asked for, or None."""
        return self._by_request.get(name)

    def load(self, name: str) -> TdlPackage:
        """The package in `<package_dir>/<name>/lib<name>.so`, loaded the first time. Raises ExecutorError.

        Two names that lead to one file are one package; two files that declare one name are a DuplicatePackage. A
        failure is not remembered.
        """
        package = self._by_request.get(name)
        if package is not None:
            return package
        path = library_path(self._package_dir, name)
        try:
            status = os.stat(path)
        except OSError as error:
            # In the loader's words.
            raise InvalidLibrary(f"{_shown(path)}: cannot open shared object file: {error.strerror}") from None
        file_id = (status.st_dev, status.st_ino)
        package = self._by_file.get(file_id)
        if package is None:
            package = TdlPackage.load(path, self._refuse_duplicate)
            self._by_name[package.name] = self._by_file[file_id] = package
        self._by_request[name] = package
        return package

    def _refuse_duplicate(self, package: TdlPackage) -> None:
        if package.name in self._by_name:
            raise DuplicatePackage(package.name)


def library_path(package_dir: bytes, name: str) -> bytes:
    """Where the library of the package `name` is. Raises InvalidLibrary if that is no name of a directory."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise InvalidLibrary(
            f"{_shown(package_dir)}: expected the name of a directory in it as the package, found {name[:200]!a}"
        )
    encoded = name.encode("utf-8", "surrogatepass")
    return b"%s/%s/lib%s.so" % (package_dir, encoded, encoded)


# https://refspecs.linuxfoundation.org/elf/gabi4+/ch4.eheader.html: class, byte order | type, machine, program headers'
# offset, their size and number | of each: type, offset and size in the file.
_ELF_HEADER = Struct("<4sBB10xHHIQQQIHHH")
_ELF_SEGMENT = Struct("<I4xQ16xQ16x")
_ELF_CLASSES = {1: "32-bit", 2: "64-bit"}
_ELF_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}


def check_elf(path: bytes) -> None:
    """Refuse a library for another machine, and one that is cut short, which would kill the process in the loader.

    What else is wrong with a file, its absence included, is left to the loader, which says it well. Raises
    InvalidLibrary.
    """
    try:
        # A FIFO must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return
    except ValueError as error:
        raise InvalidLibrary(f"{_shown(path)}: {error}") from None
    try:
        problem = _elf_problem(fd)
    except OSError as error:
        problem = f"cannot read file data: {error.strerror}"  # In the loader's words.
    finally:
        os.close(fd)
    if problem:
        raise InvalidLibrary(f"{_shown(path)}: {problem}")


def _elf_problem(fd: int) -> str | None:
    status = os.fstat(fd)
    if not S_ISREG(status.st_mode):
        return f"expected a shared library, found a {'directory' if S_ISDIR(status.st_mode) else 'special file'}"
    header = os.pread(fd, _ELF_HEADER.size, 0)
    if len(header) < _ELF_HEADER.size:
        return f"file too short: expected an ELF shared library, found {status.st_size} bytes"
    magic, elf_class, order, _, machine, _, _, segments_at, _, _, _, segment_size, segment_count = _ELF_HEADER.unpack(
        header
    )
    if magic != b"\x7fELF":
        return f"invalid ELF header: expected an ELF shared library, found a file that begins with {header[:4].hex()}"
    here = os.uname().machine
    if here not in ("x86_64", "aarch64"):
        return None
    if elf_class != 2 or order != 1 or _ELF_MACHINES.get(machine) != here:
        return "built for another machine: expected 64-bit {}, found {} {}".format(
            here,
            _ELF_CLASSES.get(elf_class, f"class {elf_class}"),
            _ELF_MACHINES.get(machine, f"machine {machine}"),
        )
    end = segments_at + segment_size * segment_count
    if end <= status.st_size:
        segments = os.pread(fd, segment_size * segment_count, segments_at)
        for at in range(0, len(segments) - _ELF_SEGMENT.size + 1, max(segment_size, _ELF_SEGMENT.size)):
            _, offset, size = _ELF_SEGMENT.unpack_from(segments, at)
            end = max(end, offset + size)
    if end > status.st_size:
        return f"file cut short: expected at least {end} bytes, found {status.st_size}; copy it again"
    return None


# ---------------------------------------------------------------------------------------------------------------- serve

# A call is kept by the names of its package and task. The parent chooses these, so their number and size have bounds.
_CALLS_MAX = 16384
_KEY_SIZE_MAX = 512
_LABEL_MAX = 256

# Outputs up to this size are written in one piece with what is around them; larger ones from where they are.
_COPY_MAX = 32768
_DATA_MAX = FRAME_BODY_MAX - RESPONSE_OVERHEAD

_set_views = Struct("PNPNPN").pack_into


def serve(channel: Channel, manager: TdlPackageManager, log: Log) -> None:
    """Answer requests, in order, until Shutdown or the end of the input.

    Raises ProtocolError if the input is not the protocol and OSError if the channel breaks: the parent and we no longer
    agree, or it is gone, so there is no reply.
    """
    buffer, address, original, output_fd = channel.buffer, channel.address, channel.original, channel.output_fd
    views = bytearray(3 * ctypes.sizeof(_View))
    arguments = tuple((_View * 3).from_buffer(views))
    # By the bytes of a request up to the end of the task's name.
    calls: dict[bytes, Callable[[], Any]] = {}
    log_requests, log_calls = log.level >= DEBUG, log.level >= TRACE
    monotonic_ns = time.monotonic_ns

    for start, end in channel.requests():
        try:
            fields = locate_request(buffer, start, end)
        except ProtocolError:
            decode_request(buffer[start:end])  # The same error, with offsets that do not depend on how it arrived.
            raise
        if fields is None:
            log.info("Received shutdown request.")
            return
        _, _, task_at, task_size, ctx_at, ctx_size, inputs_at, inputs_size = fields
        key = buffer[start : task_at + task_size]

        started = monotonic_ns()
        try:
            call = calls.get(key)
            if call is None:
                call = _prepare(channel, manager, log, *decode_names(key), arguments)
                if len(key) <= _KEY_SIZE_MAX:
                    if len(calls) == _CALLS_MAX:
                        calls.clear()
                    calls[key] = call
            _set_views(
                views, 0, address + task_at, task_size, address + ctx_at, ctx_size, address + inputs_at, inputs_size
            )
            if log_calls:
                package, task = decode_names(key)
                log.trace("Calling the task.", package=package, task=task, ctx_size=ctx_size, inputs_size=inputs_size)
            channel.running = call
            result = call()
            channel.running = None
            if not original.value:
                raise ChildProcessError("a child that was forked by a task")
            if result.is_error:
                raise _wrap_error(TaskError, result)
            size, pointer = result.length, result.pointer
            if size and not pointer:
                raise _null_outputs(size)
            if size > _DATA_MAX:
                _free(pointer)
                raise _too_large("outputs", size, log, decode_names(key))
        except ExecutorError as error:
            data = error.encode()
            if len(data) > _DATA_MAX:
                data = _too_large("an error", len(data), log, decode_names(key)).encode()
            elapsed_us = (monotonic_ns() - started + 500) // 1000
            outcome, size = type(error).__name__, len(data)
            channel.send(response_head(FAILURE, size), data, response_tail(elapsed_us))
        else:
            elapsed_us = (monotonic_ns() - started + 500) // 1000
            outcome = "Success"
            if size <= _COPY_MAX:
                outputs = _Memory.from_address(pointer)[:size] if size else b""
                _write_all(output_fd, b"".join((response_head(SUCCESS, size), outputs, response_tail(elapsed_us))))
            else:
                large = memoryview(_Memory.from_address(pointer))[:size]
                channel.send(response_head(SUCCESS, size), large, response_tail(elapsed_us))
            if size:
                _free(pointer)

        if inputs_at + inputs_size != end:
            package, task = decode_names(key)
            behind = end - inputs_at - inputs_size
            log.warn("Ignored bytes behind the request.", package=package, task=task, size=behind)
        if log_requests:
            package, task = decode_names(key)
            log.debug(
                "Request answered.",
                package=package,
                task=task,
                ctx_size=ctx_size,
                inputs_size=inputs_size,
                outcome=outcome,
                response_size=size,
                elapsed_us=elapsed_us,
            )


def _too_large(what: str, size: int, log: Log, names: tuple[str, str]) -> TaskError:
    """The error in place of what no response can carry."""
    log.warn("Replaced a response that is too large.", package=names[0], task=names[1], size=size, limit=_DATA_MAX)
    return TaskError(
        SerializationError(f"the task returned {what} of {size} bytes; a response holds at most {_DATA_MAX}")
    )


def _prepare(
    channel: Channel, manager: TdlPackageManager, log: Log, package: str, task: str, arguments: tuple[Any, ...]
) -> Callable[[], Any]:
    """A task's call, with the arguments that are in place when it is made; loads the package if need be.

    Raises ExecutorError.
    """
    loaded = manager.get(package)
    if loaded is None:
        known = len(manager.names())
        channel.restore_limits()
        channel.running = _named(f"{package[:_LABEL_MAX]} (loading)", manager.load, (package,))
        pid = os.getpid()
        try:
            loaded = channel.running()
        finally:
            channel.running = None
        if os.getpid() != pid:
            raise ChildProcessError("a child that was forked while a package was loaded")
        if len(manager.names()) > known:
            log.info("Package loaded.", package=package, version=".".join(map(str, loaded.version)), path=loaded.path)
        if loaded.name != package:
            log.warn("The package declares another name than its directory's.", package=package, declared=loaded.name)
    return _named(f"{package[:_LABEL_MAX]}::{task[:_LABEL_MAX]}", loaded.call, arguments)


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _named(label: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
    """A call of `function` whose frame is called `label`: that is how the report of a crash names the task."""
    return FunctionType(_call.__code__.replace(co_name=label), {}, label, (function, arguments))


# -------------------------------------------------------------------------------------------------------------- process

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_VOID_FUNCTION = ctypes.CFUNCTYPE(None)
_EXIT_FUNCTION = ctypes.CFUNCTYPE(None, c_int, c_void_p)
_SIGINT, _SIG_DFL, _SIG_IGN = 2, None, 1
_EFAULT = 14
_IONBF = 2


def serve_process() -> NoReturn:
    """Serve on this process's stdin and stdout, and end the process: 0 after Shutdown or the end of the input, else 1.

    The process is the executor's own: it takes descriptors 0 and 1, the handlers of signals and the end of the process.
    """
    level, unreadable = parse_log_filter(os.environ.get("RUST_LOG", ""))
    log = Log(_take_stderr(), level)
    log.info("Executor starts.")
    for directive in unreadable:
        log.notice("RUST_LOG: expected LEVEL or TARGET=LEVEL; skipped a directive.", directive=directive)

    status = EXIT_FAILURE
    pid = os.getpid()
    process = None
    try:
        if os.isatty(0):
            log.notice("Waiting for requests from a Spider execution manager on stdin; for people there is --help.")
        manager = TdlPackageManager(_package_dir())
        channel = Channel.take()
        process = _Process(channel, log)
        serve(channel, manager, log)
        log.info("Executor exits.")
        status = 0
    except Exception as error:
        if os.getpid() != pid:
            log.error("A process that a task forked returned into the executor; it was ended.", parent=pid)
            os._exit(EXIT_FAILURE)
        log.error(_reason(error), err=str(error) or type(error).__name__)
    if process is not None:
        process.ending = True
    # Not Python's own exit: packages' destructors and atexit handlers must run, Python's tidying up need not.
    _libc.exit(status)
    raise AssertionError("exit returned")


class _StartError(Exception):
    """The executor cannot start as it was called."""


def _reason(error: Exception) -> str:
    """What went wrong, for the log."""
    if isinstance(error, _StartError):
        return "The executor cannot start."
    if isinstance(error, ProtocolError):
        return "The input is not what the protocol says."
    if isinstance(error, BrokenPipeError):
        return "The parent no longer reads responses."
    if isinstance(error, OSError):
        if error.errno == _EFAULT:
            return "A task returned a pointer to memory that is not there."
        return "The connection to the parent broke."
    if isinstance(error, MemoryError):
        return "Out of memory."
    return f"Internal error in line {_line_of(error)}; please report it."


def _line_of(error: Exception) -> int:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_lineno if trace is not None else 0


def _take_stderr() -> int:
    """A descriptor for the logs that a task does not hit, or one that leads nowhere if stderr is closed."""
    try:
        return _move_high(2)
    except OSError:
        # Fill the gap, so that no other file becomes fd 2.
        null = os.open(os.devnull, os.O_RDWR)
        if null != 2:
            os.dup2(null, 2)
            os.close(null)  # It must not pass for a stdin or stdout that is closed as well.
        return 2


def _package_dir() -> bytes:
    """The directory that the environment names. Raises _StartError."""
    path = os.environb.get(PACKAGE_DIR_VARIABLE.encode())
    if not path:
        problem = "it is empty" if path == b"" else "it is not set"
    elif not os.path.isdir(path):
        problem = f"found {_shown(path)}"
    else:
        try:
            return os.path.abspath(path)
        except FileNotFoundError:
            problem = f"found {_shown(path)} in a working directory that was removed"
    raise _StartError(f"{PACKAGE_DIR_VARIABLE}: expected the directory of the task packages, {problem}")


class _Process:
    """What guards the process while tasks run in it; made before any package is loaded."""

    def __init__(self, channel: Channel, log: Log) -> None:
        self.channel = channel
        self.log = log
        self.pid = os.getpid()
        self.ending = False
        faulthandler.enable(log.fd, all_threads=True)
        self._set_native_defaults()
        # The callbacks live as long as the process.
        self._callbacks = (_EXIT_FUNCTION(self._exiting), _VOID_FUNCTION(self._forked))
        _libc.on_exit(self._callbacks[0], None)
        self._guard_forks()
        try:
            started = _thread.allocate_lock()
            started.acquire()
            _thread.start_new_thread(self._watch, (started,))
            # It must have the memory that it takes before a task can limit the process's.
            started.acquire()
        except RuntimeError as error:
            log.warn("No thread to notice that the parent is gone while a task runs.", err=error)

    def _set_native_defaults(self) -> None:
        # Python's handler of SIGINT cannot run while native code does.
        _libc.signal.restype = c_void_p
        _libc.signal.argtypes = [c_int, c_void_p]
        if _libc.signal(_SIGINT, _SIG_DFL) == _SIG_IGN:
            _libc.signal(_SIGINT, _SIG_IGN)
        # What a task has printed must survive its crash.
        _libc.setvbuf(c_void_p.in_dll(_libc, "stdout"), None, _IONBF, 0)
        # Keep a task's large buffers in the process, rather than fault them in again for each task. glibc only.
        if hasattr(_libc, "mallopt"):
            _libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
            _libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)

    def _guard_forks(self) -> None:
        """Have forked children close the channel: they must neither answer nor keep its pipes open."""
        # Around a fork the thread takes Python's lock, and Python is told as os.fork tells it. Otherwise the child can
        # find that lock held, or asked for, by a thread that it does not have, and wait for that thread for good.
        api = ctypes.pythonapi
        handlers = (
            (api.PyOS_BeforeFork, api.PyOS_AfterFork_Parent, api.PyOS_AfterFork_Child),
            (api.PyGILState_Ensure, api.PyEval_SaveThread, self._callbacks[1]),
            (None, None, api.PyEval_SaveThread),
        )
        # What runs before a fork runs in the reverse order of registration.
        for before, parent, child in handlers:
            pointers = [function and ctypes.cast(function, c_void_p) for function in (before, parent, child)]
            _libc["__register_atfork"](*pointers, None)

    def _forked(self) -> None:
        for fd in (self.channel.input_fd, self.channel.output_fd):
            try:
                os.close(fd)
            except OSError:
                pass  # The task has closed it, or this is a child's child.

    def _exiting(self, status: int, _: object) -> None:
        """Runs when something calls `exit`: if it was not the executor, that must not look like a clean end."""
        if self.ending or os.getpid() != self.pid:
            return
        self.log.error(f"exit({status}) was called by native code.", task=self._running())
        _fflush(None)
        os._exit(EXIT_FAILURE)

    def _watch(self, started: _thread.LockType) -> None:
        """End the process if a task runs on although the parent has closed its end of stdout.

        The main thread notices by itself at any other time. A closed stdin says nothing: the reply may still be wanted.
        """
        started.release()
        while True:
            # No event is waited for but that it breaks. A signal whose handler runs on this thread ends the wait, too.
            if _wait(self.channel.output_fd, 0) and self.channel.running is not None:
                # The logs may be full, with nobody to read them any more.
                if _wait(self.log.fd, _POLLOUT, 0):
                    self.log.error("The parent is gone while a task runs.", task=self._running())
                os._exit(EXIT_FAILURE)
            time.sleep(0.1)

    def _running(self) -> str:
        call = self.channel.running
        return "none" if call is None else call.__code__.co_name


# ---------------------------------------------------------------------------------------------------- the parent's side


class TaskSuccess(protocol.Record):
    """The task returned: `outputs` are its values, decoded; `elapsed_us` the executor's time for it."""

    __slots__ = ("outputs", "elapsed_us")

    def __init__(self, outputs: list[Any], elapsed_us: int) -> None:
        self.outputs = outputs
        self.elapsed_us = elapsed_us


class TaskFailure(protocol.Record):
    """The task failed or could not be run; the executor lives on."""

    __slots__ = ("error", "elapsed_us")

    def __init__(self, error: ExecutorError, elapsed_us: int) -> None:
        self.error = error
        self.elapsed_us = elapsed_us


class TaskTimeout(protocol.Record):
    """There was no reply within `seconds`; the executor was killed."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class TaskCrash(protocol.Record):
    """The executor ended without a reply: `exit_code` says how, or `signal` names what killed it."""

    __slots__ = ("exit_code", "signal")

    def __init__(self, exit_code: int | None, signal: str | None) -> None:
        self.exit_code = exit_code
        self.signal = signal

    def __str__(self) -> str:
        return f"killed by {self.signal}" if self.signal else f"exit code {self.exit_code}"


if TYPE_CHECKING:
    Outcome = Union[TaskSuccess, TaskFailure, TaskTimeout, TaskCrash]


class ExecutorGone(RuntimeError):
    """The handle's executor has ended, so it can run nothing more. Spawn another."""


# How long an executor may take to end once its streams are closed, in seconds.
_END_TIMEOUT = 5.0


class ExecutorHandle:
    """An executor process, driven from Python: one request at a time, no thread.

    A context manager; on leaving it the process has ended and its pipes are closed.
    """

    def __init__(
        self,
        package_dir: Path,
        command: Sequence[str] | None = None,
        env: dict[str, str] | None = None,
        stderr: Any = None,
    ) -> None:
        """Spawn `command` (this program, if None) with `env` (this process's own, if None) and the package directory.

        `stderr` is where the logs go, as `subprocess.Popen` takes it; None leaves them on this process's stderr. From
        `subprocess.PIPE` somebody must read, or an executor that logs much stops.
        """
        import subprocess

        environment = dict(os.environ if env is None else env)
        environment[PACKAGE_DIR_VARIABLE] = os.fsdecode(package_dir)
        self._process = subprocess.Popen(
            list(command) if command is not None else own_command(),
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin, self._process.stdout
        os.set_blocking(self._input.fileno(), False)
        os.set_blocking(self._output.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> Any:
        """The reading end of the logs, if `stderr` was `subprocess.PIPE`."""
        return self._process.stderr

    def execute(
        self,
        package: str,
        task_func: str,
        *values: Any,
        timeout: float | None = None,
        context: protocol.TaskContext | None = None,
    ) -> Outcome:
        """Run a task with `values` as its inputs (see `protocol.pack`), for at most `timeout` seconds.

        After a timeout or a crash the handle is of no more use. Raises ProtocolError if a value cannot be sent or the
        reply cannot be read, ExecutorGone.
        """
        raw_ctx = (protocol.TaskContext() if context is None else context).encode()
        response = self.request(protocol.Execute(package, task_func, raw_ctx, protocol.pack_values(*values)), timeout)
        if not isinstance(response, protocol.Result):
            return response
        if isinstance(response.outcome, Failure):
            return TaskFailure(protocol.decode_executor_error(response.outcome.error)[0], response.elapsed_us)
        return TaskSuccess(protocol.unpack_values(response.outcome.outputs), response.elapsed_us)

    def request(
        self, request: protocol.Execute, timeout: float | None = None
    ) -> protocol.Result | TaskTimeout | TaskCrash:
        """Send a request as it is and read the response as it is; otherwise like `execute`."""
        frame = protocol.encode_frame(protocol.encode_request(request))
        if self._process.returncode is not None:
            raise ExecutorGone(f"executor {self.pid} has ended: {self._crash()}")
        try:
            return self._exchange(frame, timeout)
        except BaseException:
            self._kill()
            raise

    def _exchange(self, frame: bytes, timeout: float | None) -> protocol.Result | TaskTimeout | TaskCrash:
        import select

        deadline = None if timeout is None else time.monotonic() + timeout
        input_fd, output_fd = self._input.fileno(), self._output.fileno()
        unsent = memoryview(frame)
        received = bytearray()
        end = FRAME_HEADER_SIZE
        poll = select.poll()
        poll.register(output_fd, select.POLLIN)
        poll.register(input_fd, select.POLLOUT)
        while len(received) < end:
            # A day at a time: `poll` takes no more than 24.
            remaining = None if deadline is None else min(max(0.0, deadline - time.monotonic()), 86400.0)
            events = poll.poll(None if remaining is None else remaining * 1000)
            if not events and remaining == 0.0:
                self._kill()
                return TaskTimeout(timeout or 0.0)
            for fd, _ in events:
                if fd == input_fd:
                    try:
                        unsent = unsent[os.write(input_fd, unsent) :]
                    except BrokenPipeError:
                        unsent = unsent[:0]  # It has ended, or will not read on; what it has to say is in its output.
                    if not unsent:
                        poll.unregister(input_fd)
                else:
                    chunk = os.read(output_fd, 1 << 20)
                    if not chunk:
                        return self._ended(remaining, timeout)
                    received += chunk
                    if len(received) >= FRAME_HEADER_SIZE:
                        end = frame_end(received, 0)
        if len(received) > end:
            raise ProtocolError(f"expected one response, found {len(received) - end} bytes behind it")
        return protocol.decode_response(received, FRAME_HEADER_SIZE, end)[0]

    def shutdown(self, timeout: float = _END_TIMEOUT) -> int:
        """Ask the executor to exit, and wait; returns its exit code (negative: the signal that ended it)."""
        if self._process.returncode is None:
            try:
                os.write(self._input.fileno(), protocol.encode_frame(protocol.encode_request(protocol.Shutdown())))
            except BrokenPipeError:
                pass
        self.close(timeout)
        return self._process.returncode

    def close(self, timeout: float = _END_TIMEOUT) -> None:
        """Close the pipes and wait for the executor to end; kill it if it has not after `timeout` seconds."""
        import subprocess

        self._input.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def __enter__(self) -> ExecutorHandle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._input.close()
        self._output.close()

    def _ended(self, remaining: float | None, timeout: float | None) -> TaskTimeout | TaskCrash:
        """What became of the process, which has closed its stdout.

        To end it gets what remains of `timeout`, and no more than _END_TIMEOUT; all in seconds.
        """
        import subprocess

        grace = _END_TIMEOUT if remaining is None else min(remaining, _END_TIMEOUT)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            if grace < _END_TIMEOUT:
                self._kill()
                return TaskTimeout(timeout or 0.0)
        self._kill()
        return self._crash()

    def _crash(self) -> TaskCrash:
        return _crash_of(self._process.returncode)


def _crash_of(status: int | None) -> TaskCrash:
    """What a process's exit status, in the way of `subprocess`, says of its end."""
    import signal

    if status is not None and status < 0:
        try:
            return TaskCrash(None, signal.Signals(-status).name)
        except ValueError:
            return TaskCrash(None, f"signal {-status}")
    return TaskCrash(status, None)


# The executable file that holds both modules, if this is in it, and how its #! line starts it: .ci/executable.py.
_archive: tuple[str, str] | None = None


def own_command() -> list[str]:
    """The command that starts this program as an executor."""
    if _archive is not None:
        start, path = _archive
        return [sys.executable, "-IS", "-c", start, path]
    # Imported, not run as a script, which would be compiled at every start.
    directory = os.path.dirname(os.path.abspath(__file__))
    start = f"import sys; sys.path.insert(0, {directory!r}); from spider_executor import main; sys.exit(main())"
    return [sys.executable, "-IS", "-c", start]


# --------------------------------------------------------------------------------------------------------- command line

# Beside EXIT_FAILURE; the last two are what a shell reports for SIGINT and SIGPIPE.
EXIT_USAGE, EXIT_NO_REPLY, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 2, 3, 130, 141

# Each command's options, and what the option's value is called, if it takes one.
_OPTIONS: dict[str, dict[str, str | None]] = {
    "run": {
        "--package-dir": "DIR",
        "--timeout": "SECONDS",
        "--repeat": "N",
        "--raw": None,
        "--commit": None,
        "--context": "FILE",
        "--executor": "PATH",
        "--in-process": None,
    },
    "check": {"--package-dir": "DIR", "--timeout": "SECONDS", "--json": None},
}
# What `check` starts for each package; not for people.
_PROBE = "_probe"
_CHECK_TIMEOUT = 10

_HELP = """\
spider-task-executor: runs the native task packages of a Spider cluster.

Usage
  spider-task-executor
      serve the Spider execution manager that started it
  spider-task-executor run [OPTION ...] PACKAGE TASK [VALUE ...]
      run one task
  spider-task-executor check [OPTION ...] [PACKAGE ...]
      see whether packages would serve
  spider-task-executor --help | --version

A PACKAGE is a directory's name; its library is DIR/PACKAGE/libPACKAGE.so.

Without arguments
  Reads requests on stdin and writes responses to stdout until a Shutdown
  request or the end of stdin. Logs go to stderr, one JSON object a line.

run
  Starts an executor, sends it a request with the VALUEs as the task's inputs,
  and prints the outputs on stdout: one JSON array on one line. The executor's
  time for it, or the error, goes to stderr.

  A VALUE is JSON: 1 is an integer, 1.0 a double, null is none, an object is a
  map, an array a list, a struct or bytes. @FILE takes it from a file, - from
  stdin. Of the outputs, msgpack's bin is printed as an array of integers,
  and doubles that JSON cannot write as NaN, Infinity and -Infinity.

  --package-dir DIR    where the packages are (default: the environment's)
  --timeout SECONDS    kill an executor that takes longer to reply
  --repeat N           send the request N times to one executor and print the
                       times: minimum, median, 99th percentile, maximum; the
                       first request loads the package
  --raw                write the outputs' bytes as they were received
  --commit             run a commit task; the VALUEs are its graph's outputs
  --context FILE       send the bytes of FILE as the task's context (msgpack)
  --executor PATH      start this executor instead of this program
  --in-process         run the task in this process, for debuggers; what the
                       task prints goes to stderr

check
  Loads each package, or all in the directory, in a process of its own, and
  prints a table; then each problem, and what to do about it.

  --package-dir DIR    where the packages are (default: the environment's)
  --timeout SECONDS    how long a package may take to load (default: 10)
  --json               print all that was found as a JSON object

Environment
  SPIDER_TDL_PACKAGE_DIR   where the packages are
  RUST_LOG                 an executor's logs: off, error (the default), warn,
                           info, debug, trace, or TARGET=LEVEL[,...]; the
                           target is spider_task_executor

Exit codes
    0  success; check: all packages would serve
    1  the task failed; check: a package would not serve; without arguments:
       malformed input or a lost connection
    2  wrong usage
    3  run: no reply; the executor crashed, timed out, or broke the protocol
  130  interrupted
  141  stdout was closed early

Examples
  spider-task-executor run --package-dir packages sums add 1 2
  spider-task-executor run complex complex::add '[[[1.0, 2.0]]]' @other.json
  spider-task-executor run --commit sums assert_outputs_sum_zero 3 -3
  spider-task-executor run --repeat 1000 --timeout 5 sums add 1 2
  spider-task-executor check --json | python3 -m json.tool
  gdb --args python3 -m spider_executor run --in-process sums add 1 2
"""


class _CommandError(Exception):
    """The command ends with `status`; the text says why."""

    def __init__(self, text: str, status: int = EXIT_USAGE) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve if there are no arguments, else run a command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        serve_process()
    # If a standard stream is closed, no pipe may take its number.
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass
    try:
        return _run_command(arguments[0], arguments[1:])
    except _CommandError as error:
        _say(f"spider-task-executor: {error}")
        return error.status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _say(f"spider-task-executor: {where}{error.strerror}")
        return EXIT_USAGE if where else EXIT_FAILURE


def _run_command(command: str, arguments: Sequence[str]) -> int:
    if command == _PROBE:
        return _probe(os.fsencode(arguments[0]))
    before_values = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if command in ("--help", "-h", "help") or "--help" in before_values or "-h" in before_values:
        _print(_HELP)
        return 0
    if command == "--version":
        _print(f"spider-task-executor {__version__}, package ABI {_dotted(ABI_VERSION)}\n")
        return 0
    if command not in _OPTIONS:
        kind = "option" if command.startswith("-") else "command"
        hint = _did_you_mean(command, [*_OPTIONS, "--help", "--version"])
        raise _CommandError(f"unknown {kind} {command}{hint}; see --help")
    options, values = _parse(command, arguments)
    return _run(options, values) if command == "run" else _check(options, values)


def _parse(command: str, arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Part a command's options, which may stand anywhere before a `--`, from the rest."""
    known = _OPTIONS[command]
    options: dict[str, str] = {}
    values: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            values.extend(rest)
        elif not argument.startswith("-") or argument in ("-", "-Infinity") or argument[1].isdigit():
            values.append(argument)
        else:
            name, has_value, value = argument.partition("=")
            if name not in known:
                raise _CommandError(f"{command}: unknown option {name}{_did_you_mean(name, known)}; see --help")
            metavar = known[name]
            if metavar is None and has_value:
                raise _CommandError(f"{command}: {name} takes no value")
            if metavar is not None and not has_value:
                value = next(rest, "")
            if metavar is not None and not value:
                raise _CommandError(f"{command}: {name}: expected {metavar}")
            options[name] = value
    return options, values


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    import difflib

    return "".join(f"; did you mean {match}?" for match in difflib.get_close_matches(word, known, 1))


def _number(options: dict[str, str], name: str, kind: type[int] | type[float], highest: int) -> Any:
    """The value of an option that takes a positive number, or None."""
    text = options.get(name)
    if text is None:
        return None
    try:
        number = kind(text)
    except ValueError:
        number = 0
    if not 0 < number <= highest:
        raise _CommandError(f"{name}: expected a positive number ({kind.__name__}) up to {highest}, found {text}")
    return number


def _directory(options: dict[str, str]) -> bytes:
    """The directory of the packages, from the option or the environment, absolute."""
    path = options.get("--package-dir")
    if path is None:
        try:
            return os.path.abspath(_package_dir())
        except _StartError as error:
            raise _CommandError(f"{error}; --package-dir DIR names it as well") from None
    if not os.path.isdir(path):
        raise _CommandError(f"--package-dir: expected the directory of the task packages, found {path}")
    return os.path.abspath(os.fsencode(path))


def _staged(directory: bytes) -> list[str]:
    """The names in a directory that are, or may have been meant as, packages."""
    paths = {os.fsdecode(name): os.path.join(directory, name) for name in os.listdir(directory)}
    return sorted(
        name
        for name, path in paths.items()
        if not name.startswith(".") and (os.path.isdir(path) or os.path.islink(path) or name.endswith(".so"))
    )


def _print(text: str) -> None:
    """Write to stdout. Raises OSError."""
    _write_all(1, text.encode("utf-8", "backslashreplace"))


def _say(text: str) -> None:
    """Write one line to stderr."""
    try:
        _write_all(2, f"{_one_line(text)}\n".encode())
    except OSError:
        pass


def _one_line(text: str) -> str:
    """Text that may come from a package, without what would move a terminal's cursor."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


# ------------------------------------------------------------------------------------------------------------------ run


def _run(options: dict[str, str], values: list[str]) -> int:
    if len(values) < 2:
        raise _CommandError("run: expected PACKAGE TASK [VALUE ...]; see --help")
    for one, other in (("--commit", "--context"), ("--in-process", "--executor"), ("--in-process", "--timeout")):
        if one in options and other in options:
            raise _CommandError(f"run: {one} and {other} exclude each other")
    directory = _directory(options)
    timeout = _number(options, "--timeout", float, 1000000)
    times = _number(options, "--repeat", int, 1000000000) or 1
    request = _request(options, *values)

    output_fd = 1
    try:
        if "--in-process" in options:
            # What the task prints is no output.
            output_fd = os.dup(1)
            os.dup2(2, 1)
            outputs = _repeat(times, _in_process(directory, request))
        else:
            command = [options["--executor"]] if "--executor" in options else None
            with ExecutorHandle(directory, command) as handle:
                outputs = _repeat(times, lambda: handle.request(request, timeout))
    except ExecutorError as error:
        names = _staged(directory)
        hint = "" if request.package in names else _did_you_mean(request.package, names)
        raise _CommandError(f"{request.package} {request.task_func}: {error}{hint}", EXIT_FAILURE) from None
    _write_all(output_fd, outputs if "--raw" in options else _show_outputs(outputs).encode())
    return 0


def _request(options: dict[str, str], package: str, task: str, *values: str) -> protocol.Execute:
    """The request that the command line describes."""
    # `json` and `_printable` recurse; this is enough for the deepest msgpack.
    sys.setrecursionlimit(5 * protocol.MSGPACK_DEPTH_MAX)
    # Arguments are UTF-8, whatever the locale says.
    package, task, *texts = (os.fsencode(text).decode("utf-8", "surrogateescape") for text in (package, task, *values))
    parsed = [_read_value(position, text) for position, text in enumerate(texts, 1)]
    context = protocol.TaskContext()
    try:
        payload = protocol.pack_values(*parsed)
        if "--commit" in options:
            outputs = bytes((protocol.PLAIN,)) + payload
            context = protocol.TaskContext(task_id=protocol.COMMIT, graph_outputs=outputs)
            payload = protocol.pack_values()
        raw_ctx = _read_file(options["--context"]) if "--context" in options else context.encode()
        request = protocol.Execute(package, task, raw_ctx, payload)
        protocol.encode_frame(protocol.encode_request(request))
    except ProtocolError as error:
        raise _CommandError(f"run: no request can carry this: {error}") from None
    return request


def _read_value(position: int, text: str) -> Any:
    """A value from the command line: JSON, `@` and the name of a file with JSON in it, or `-` for JSON on stdin."""
    import json

    data: str | bytes = text
    where = f"value {position}"
    if text == "-":
        data, where = _read_file(0), f"{where} (stdin)"
    elif text == "@":
        raise _CommandError(f"run: {where}: expected the name of a file behind @")
    elif text.startswith("@"):
        data, where = _read_file(text[1:]), f"{where} ({text[1:]})"
    try:
        return json.loads(data, parse_float=_read_double)
    except RecursionError:
        problem = "it is nested too deep"
    except ValueError as error:
        problem = str(error)
        if text[:1] not in '-@0123456789"[{':
            problem += f"""; a string needs quotes of its own: '"{text}"'"""
    raise _CommandError(f"run: {where}: expected JSON: {problem}")


def _read_double(text: str) -> float:
    value = float(text)
    if value in (float("inf"), -float("inf")):
        raise ValueError(f"{text} does not fit a double")
    return value


def _read_file(path: str | int) -> bytes:
    with open(path, "rb", closefd=path != 0) as file:
        return file.read()


def _in_process(directory: bytes, request: protocol.Execute) -> Callable[[], protocol.Result]:
    """What executes a request in this very process."""
    import signal

    # Python's own handler cannot run while native code does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    manager = TdlPackageManager(directory)

    def execute() -> protocol.Result:
        started = time.monotonic_ns()
        package = manager.load(request.package)
        outcome = package.execute(request.task_func, request.raw_ctx, request.raw_inputs)
        return protocol.Result(outcome, (time.monotonic_ns() - started) // 1000)

    return execute


def _repeat(
    times: int, execute: Callable[[], protocol.Result | TaskTimeout | TaskCrash], say: Callable[[str], None] = _say
) -> bytes:
    """Execute a number of times and say how long it took; returns the outputs. Raises ExecutorError."""
    elapsed, round_trips = [], []
    outputs = b""
    for _ in range(times):
        started = time.monotonic_ns()
        try:
            response = execute()
            if isinstance(response, TaskTimeout):
                raise _CommandError(
                    f"run: no reply within {response.seconds:g} s; the executor was killed", EXIT_NO_REPLY
                )
            if isinstance(response, TaskCrash):
                raise _CommandError(f"run: the executor ended without a reply: {response}", EXIT_NO_REPLY)
            if isinstance(response.outcome, Failure):
                raise protocol.decode_executor_error(response.outcome.error)[0]
        except ProtocolError as error:
            raise _CommandError(f"run: the executor's reply cannot be read: {error}", EXIT_NO_REPLY) from None
        round_trips.append((time.monotonic_ns() - started) // 1000)
        elapsed.append(response.elapsed_us)
        outputs = response.outcome.outputs

    if times == 1:
        say(f"elapsed: {elapsed[0]} µs")
    else:
        say(f"{f'µs, {times} requests':20}{'min':>10}{'P50':>10}{'P99':>10}{'max':>10}")
        for name, samples in (("in the executor", elapsed), ("round trip", round_trips)):
            samples.sort()
            # The smallest sample that as many percent of all samples do not exceed.
            ranks = (0, (times * 50 - 1) // 100, (times * 99 - 1) // 100, times - 1)
            say(f"{name:20}" + "".join(f"{samples[rank]:10}" for rank in ranks))
    return outputs


def _show_outputs(outputs: bytes) -> str:
    try:
        return _to_json(protocol.unpack_values(outputs))
    except ProtocolError as error:
        raise _CommandError(
            f"run: the task's outputs cannot be read: {error}; --raw writes them as they are", EXIT_FAILURE
        ) from None


def _to_json(value: Any) -> str:
    """One line of JSON."""
    import json

    return json.dumps(_printable(value), ensure_ascii=False) + "\n"


def _printable(value: Any) -> Any:
    """A value that `json` takes: bytes as an array of integers, and in a string where they are a map's key."""
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, list):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {str(list(key)) if isinstance(key, bytes) else key: _printable(item) for key, item in value.items()}
    return value


# ---------------------------------------------------------------------------------------------------------------- check

_SYMBOL_PREFIX = "__spider_tdl_package_"
_SYMBOLS = ("get_version", "get_name", "init", "execute")

# What to do about an error: the advice behind the first text that is in it.
_ADVICE = (
    ("PackageInitError", "Init says why; it sees this command's environment: check with that of the executors."),
    ("ErrorPayloadDeserializationFailure", "Have init return its error as a TdlError in msgpack."),
    ("IncompatibleVersion", f"Build it for version {ABI_VERSION[0]}.{ABI_VERSION[1]} of the package ABI."),
    ("InvalidUtf8", "Have get_name return UTF-8."),
    ("another machine", "Build it for the machine that runs the executors."),
    ("cut short", "Copy it again, to another name first, and then rename it."),
    (f"symbol: {_SYMBOL_PREFIX}", "Export the functions of the package ABI; SPIDER_TDL_PACKAGE of spider_tdl.h does."),
    ("undefined symbol", "Link it with the library that defines the symbol."),
    ("' not found (required by", "Build it on a system whose libraries are no newer than those here."),
    ("", "Stage a shared library that the loader takes."),
)


def _check(options: dict[str, str], names: list[str]) -> int:
    directory = _directory(options)
    timeout = _number(options, "--timeout", float, 1000000) or _CHECK_TIMEOUT
    reports = [_examine(directory, name, timeout) for name in names or _staged(directory)]
    _compare_names(reports)
    for report in reports:
        report["serves"] = not report["problems"]
    all_serve = bool(reports) and all(report["serves"] for report in reports)

    if "--json" in options:
        here = {"machine": os.uname().machine, "abi_version": _dotted(ABI_VERSION)}
        _print(_to_json({"package_dir": os.fsdecode(directory), **here, "all_serve": all_serve, "packages": reports}))
    elif reports:
        _print("".join(f"{_one_line(line)}\n" for line in _table(reports)))
    else:
        raise _CommandError(f"check: no packages in {os.fsdecode(directory)}", EXIT_FAILURE)
    return 0 if all_serve else EXIT_FAILURE


def _examine(directory: bytes, name: str, timeout: float) -> dict[str, Any]:
    """Everything about one package, in the form of `check --json`; None is unknown."""
    path = _staged_path(directory, name)
    target = os.path.realpath(path)
    report: dict[str, Any] = {
        "package": name,
        "path": os.fsdecode(path),
        "leads_to": os.fsdecode(target) if target != path else None,
        "elf_class": None,
        "machine": None,
        "abi_version": None,
        "declared_name": None,
        "symbols": None,
        "missing_dependencies": [],
        "init": "not reached",
        "problems": [],
        "warnings": [],
    }
    try:
        report["elf_class"], report["machine"] = _elf_target(path)
    except OSError as error:
        others = [other for other in _staged(directory) if other != name]
        hint = "" if os.path.lexists(path) else _did_you_mean(name, others)
        _add(report, "problems", f"{os.fsdecode(target)}: {error.strerror}", f"Stage the library there{hint or '.'}")
        return report

    found, ending = _load_apart(directory, path, timeout)
    error_text = found.pop("error", None)
    report.update(found)
    if report["declared_name"] is not None:
        failed = ending or (error_text and error_text.startswith(("PackageInitError", "ErrorPayload")))
        has_init = f"{_SYMBOL_PREFIX}init" in report["symbols"]
        report["init"] = "failed" if failed else "succeeded" if has_init else "none"
    if error_text and report["symbols"] is None and report["machine"]:
        report["missing_dependencies"] = _missing_dependencies(path, timeout)

    if report["missing_dependencies"]:
        missing = ", ".join(report["missing_dependencies"])
        advice = "Install what is missing, or put its directory into LD_LIBRARY_PATH or the library's run path."
        _add(report, "problems", f"the loader does not find {missing}", advice)
    elif error_text:
        _add(report, "problems", error_text, next(advice for part, advice in _ADVICE if part in error_text))
    elif ending:
        where = "init" if report["declared_name"] is not None else "get_version or get_name"
        where = where if report["symbols"] is not None else "a constructor"
        _add(report, "problems", f"{where}: {ending}", f"Debug it: gdb --args {_debug_command(directory, name)}")
    elif report["declared_name"] != name:
        _add(
            report,
            "warnings",
            f"it declares another name than its directory's: {report['declared_name']}",
            "Rename one of the two; Spider's own executor refuses all but the first request for such a package.",
        )
    return report


def _staged_path(directory: bytes, name: str) -> bytes:
    try:
        return library_path(directory, name)
    except InvalidLibrary as error:
        raise _CommandError(f"check: {error.args[0]}") from None


def _add(report: dict[str, Any], kind: str, text: str, advice: str) -> None:
    report[kind].append({"text": text, "advice": advice})


def _debug_command(directory: bytes, name: str) -> str:
    import shlex

    command = [*own_command(), "run", "--in-process", "--package-dir", os.fsdecode(directory), name, "any-task"]
    return " ".join(map(shlex.quote, command))


def _elf_target(path: bytes) -> tuple[str | None, str | None]:
    """The class and the machine that a file is for, if it is an ELF file. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        header = os.read(fd, 20) if S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    if len(header) < 20 or not header.startswith(b"\x7fELF"):
        return None, None
    machine = int.from_bytes(header[18:], "big" if header[5] == 2 else "little")
    return _ELF_CLASSES.get(header[4], f"class {header[4]}"), _ELF_MACHINES.get(machine, f"machine {machine}")


def _load_apart(directory: bytes, path: bytes, timeout: float) -> tuple[dict[str, Any], str | None]:
    """What `_probe` tells of a package, and how its process ended, if it did before all was told."""
    import json
    import subprocess

    environment = {**os.environ, PACKAGE_DIR_VARIABLE: os.fsdecode(directory)}
    # Not pipes: a process that the package has started would keep them open. Nor files: no directory may be writable.
    with open(os.memfd_create("told"), "r+b") as told, open(os.memfd_create("printed"), "r+b") as printed:
        process = subprocess.Popen(
            [*own_command(), _PROBE, os.fsdecode(path)],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=printed,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
            ending = f"the process ended, {_crash_of(process.returncode)}"
        except subprocess.TimeoutExpired:
            ending = f"no end after {timeout:g} s"
        finally:
            # With all that the package has started.
            try:
                os.killpg(process.pid, 9)
            except ProcessLookupError:
                pass
            process.wait()
        told.seek(0)
        found: dict[str, Any] = {}
        for line in told:
            found.update(json.loads(line))
        printed.seek(max(0, printed.seek(0, os.SEEK_END) - 1000))
        last_lines = printed.read().decode("utf-8", "backslashreplace").strip().splitlines()[-1:]
    if found.pop("told_all", False):
        return found, None
    return found, ending + "".join(f"; it printed: {line}" for line in last_lines)


def _probe(path: bytes) -> NoReturn:
    """Load a package and tell what is found on the way, one JSON object a line."""
    import json

    # What the package prints must not come between.
    output_fd = _move_high(1)
    os.dup2(2, 1)

    def tell(**found: Any) -> None:
        _write_all(output_fd, (json.dumps(found) + "\n").encode())

    try:
        check_elf(path)
        handle = _libc.dlopen(path, _RTLD_NOW)
        if handle:
            names = [_SYMBOL_PREFIX + name for name in _SYMBOLS]
            tell(symbols=[name for name in names if _libc.dlsym(handle, name.encode())])
        TdlPackage.load(path, lambda package: tell(declared_name=package.name, abi_version=_dotted(package.version)))
    except IncompatibleVersion as error:
        tell(error=str(error), abi_version=_dotted(error.package))
    except ExecutorError as error:
        tell(error=str(error))
    tell(told_all=True)
    os._exit(0)


def _missing_dependencies(path: bytes, timeout: float) -> list[str]:
    """The libraries that a library needs, or that one of those needs, and that the loader does not find."""
    import subprocess

    with open("/proc/self/maps", "rb") as maps:
        files = [line.rstrip().rpartition(b" ")[2] for line in maps]
    loader = next((file for file in files if os.path.basename(file).startswith(b"ld-")), None)
    if loader is None:
        return []
    try:
        listing = subprocess.run(
            [loader, path],
            env={**os.environ, "LD_TRACE_LOADED_OBJECTS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = (line.partition(b" => ") for line in listing.splitlines())
    return list(dict.fromkeys(_shown(name.strip()) for name, _, file in lines if file.startswith(b"not found")))


def _compare_names(reports: list[dict[str, Any]]) -> None:
    """Add the problem of packages in different files that declare one name."""
    loadable: dict[str, list[dict[str, Any]]] = {}
    for report in reports:
        if not report["problems"]:
            loadable.setdefault(report["declared_name"], []).append(report)
    for name, namesakes in loadable.items():
        for report in namesakes:
            others = [other["package"] for other in namesakes if not os.path.samefile(other["path"], report["path"])]
            if others:
                text = (
                    f"{', '.join(others)} declares the name {name} too; an executor refuses all but the first it loads"
                )
                _add(report, "problems", text, "Give each its own name, or remove all but one.")


def _table(reports: list[dict[str, Any]]) -> Iterator[str]:
    """The lines for people: a table, and below it what is wrong and what to do."""
    rows = [("PACKAGE", "SERVES", "DECLARES", "ABI", "BUILT FOR", "SYMBOLS", "INIT", "LIBRARY")]
    for report in reports:
        symbols = report["symbols"]
        lacking = [name for name in _SYMBOLS if name != "init" and _SYMBOL_PREFIX + name not in (symbols or ())]
        rows.append(
            (
                report["package"],
                "yes" if report["serves"] else "NO",
                report["declared_name"] or "-",
                report["abi_version"] or "-",
                f"{report['elf_class']} {report['machine']}" if report["machine"] else "-",
                "-" if symbols is None else f"no {', '.join(lacking)}" if lacking else "all",
                report["init"],
                report["path"] + (f" -> {report['leads_to']}" if report["leads_to"] else ""),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
    for report in reports:
        for kind in ("problems", "warnings"):
            for entry in report[kind]:
                yield ""
                yield f"{report['package']}: {kind[:-1]}: {entry['text']}"
                yield f"    {entry['advice']}"


if __name__ == "__main__":
    sys.exit(main())
