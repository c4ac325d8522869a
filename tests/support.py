"""What the tests share: compiling and staging packages, and an executor on raw pipes, with a deadline on every wait."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import protocol
import spider_executor

ROOT = Path(__file__).resolve().parent.parent
OWN_COMMAND = spider_executor.own_command()

CC = os.environ.get("CC", "cc")
CXX = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)

# No wait in a test is meant to come near this many seconds; one that does has failed.
DEADLINE = 20.0


class PackageBuilder:
    """Compiles a source file into a shared library, once for each set of flags."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.built: dict[tuple[Path, tuple[str, ...]], Path] = {}

    def __call__(self, source: Path, *flags: str) -> Path:
        key = (source, flags)
        if key not in self.built:
            library = self.directory / f"{len(self.built)}-{source.stem}.so"
            is_c = source.suffix == ".c"
            compiler = [CC, "-std=gnu99"] if is_c else [str(CXX), "-std=c++17"]
            command = [*compiler, "-O2", "-fPIC", "-shared", f"-I{ROOT / 'native'}", "-o", str(library), str(source)]
            subprocess.run([*command, *flags], check=True, timeout=120)
            self.built[key] = library
        return self.built[key]


def stage(package_dir: Path, name: str, library: Path) -> Path:
    """Copy a library to where an executor looks for the package `name`."""
    target = package_dir / name / f"lib{name}.so"
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(library, target)
    return target


def execute(package: str, task: str, *values: object, context: bytes | None = None) -> bytes:
    """The frame of a request."""
    raw_ctx = protocol.TaskContext().encode() if context is None else context
    request = protocol.Execute(package, task, raw_ctx, protocol.pack_values(*values))
    return protocol.encode_frame(protocol.encode_request(request))


SHUTDOWN = protocol.encode_frame(protocol.encode_request(protocol.Shutdown()))


class Child:
    """An executor on pipes of its own. Its stderr goes to a file, so that it never blocks on it."""

    def __init__(
        self,
        command: list[str],
        package_dir: object,
        env: dict[str, str | None] | None = None,
        **options: object,
    ) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "RUST_LOG"}
        environment["SPIDER_TDL_PACKAGE_DIR"] = str(package_dir)
        for name, value in (env or {}).items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, closed by kill
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr, **options}
        self.process = subprocess.Popen(command, bufsize=0, env=environment, **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, data: bytes) -> None:
        """Write all of `data` to the executor, reading nothing meanwhile."""
        assert self.process.stdin is not None
        fd = self.process.stdin.fileno()
        os.set_blocking(fd, False)
        view, deadline = memoryview(data), time.monotonic() + DEADLINE
        while view:
            _, ready, _ = select.select([], [fd], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the executor does not read its input"
            view = view[os.write(fd, view) :]

    def receive(self) -> protocol.Result:
        """Read one response."""
        body = self._read(int.from_bytes(self._read(protocol.FRAME_HEADER_SIZE), "big"))
        response, end = protocol.decode_response(body)
        assert end == len(body)
        return response

    def _read(self, size: int) -> bytes:
        assert self.process.stdout is not None
        fd = self.process.stdout.fileno()
        data, deadline = b"", time.monotonic() + DEADLINE
        while len(data) < size:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no response; stderr: {self.stderr()!r}"
            chunk = os.read(fd, size - len(data))
            assert chunk, f"end of stdout, exit status {self.process.wait(DEADLINE)}; stderr: {self.stderr()!r}"
            data += chunk
        return data

    def call(self, package: str, task: str, *values: object, context: bytes | None = None) -> object:
        """Run a task; returns its outputs or the ExecutorError."""
        self.send(execute(package, task, *values, context=context))
        return outcome(self.receive())

    def close_input(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    def finish(self, data: bytes = b"") -> tuple[bytes, int]:
        """Send `data` and the end of the input; returns the rest of stdout and the exit status."""
        try:
            output, _ = self.process.communicate(data, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the executor has not ended; stderr: {self.stderr()!r}") from None
        return output, self.process.returncode

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the executor has not ended; stderr: {self.stderr()!r}") from None

    def stderr(self) -> str:
        """What was written to stderr so far. A line that is not UTF-8 fails the test."""
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), size, 0).decode("utf-8")

    def log_lines(self) -> list[dict]:
        """The JSON lines of stderr; any other line is an error."""
        # Not splitlines, which takes more for a line's end than a newline.
        return [json.loads(line) for line in self.stderr().split("\n") if line]

    def errors(self) -> list[dict]:
        """The ERROR lines of stderr."""
        lines = [json.loads(line) for line in self.stderr().split("\n") if line.startswith("{")]
        return [line for line in lines if line["level"] == "ERROR"]

    def kill(self) -> None:
        """End the executor, if it has not, and close what belongs to it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait(DEADLINE)
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                stream.close()


def outcome(response: protocol.Result) -> object:
    """A response's outputs as Python values, or its ExecutorError."""
    if isinstance(response.outcome, protocol.Success):
        return protocol.unpack_values(response.outcome.outputs)
    return protocol.decode_executor_error(response.outcome.error)[0]


def responses(output: bytes) -> list[object]:
    """All responses in what an executor wrote; a torn one is an error."""
    found, offset = [], 0
    while offset < len(output):
        body, offset = protocol.decode_frame(output, offset)
        response, end = protocol.decode_response(body)
        assert end == len(body)
        found.append(outcome(response))
    return found


def wait_for(condition: object, what: str, seconds: float = DEADLINE) -> None:
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.01)
