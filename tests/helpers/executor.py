"""An executor on raw pipes, with a deadline on every wait.

DEADLINE                        seconds that only a hang exceeds
request, raw_request            the frame of an Execute; SHUTDOWN is the other request's frame
outcome, responses              what came back, as Python values
wait_for                        polls a condition
Executor                        the process: send, receive, call, serves, exchange, finish, read_to_end, wait, kill;
                                stderr, log_lines, errors, only_error, check_log
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable

import protocol
import spider_executor

OWN_COMMAND = spider_executor.own_command()
DEADLINE = 20.0
CONTEXT = protocol.TaskContext().encode()
SHUTDOWN = protocol.encode_frame(protocol.encode_request(protocol.Shutdown()))


def raw_request(
    package: str, task: str, raw_inputs: bytes = b"", raw_ctx: bytes = CONTEXT
) -> bytes:
    """The frame of a request with inputs that need not be a payload."""
    return protocol.encode_frame(
        protocol.encode_request(protocol.Execute(package, task, raw_ctx, raw_inputs))
    )


def request(
    package: str, task: str, *values: object, context: bytes = CONTEXT
) -> bytes:
    """The frame of a request."""
    return raw_request(package, task, protocol.pack_values(*values), context)


def outcome(result: protocol.Result) -> object:
    """A response's outputs as a list of Python values, or its ExecutorError."""
    if isinstance(result.outcome, protocol.Success):
        return protocol.unpack_values(result.outcome.outputs)
    error, end = protocol.decode_executor_error(result.outcome.error)
    assert end == len(result.outcome.error)
    return error


def responses(output: bytes) -> list[object]:
    """The outcomes of all responses in what an executor wrote. An incomplete response is an error."""
    found, offset = [], 0
    while offset < len(output):
        body, offset = protocol.decode_frame(output, offset)
        result, end = protocol.decode_response(body)
        assert end == len(body)
        found.append(outcome(result))
    return found


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE} s for {what}"
        time.sleep(0.01)


class Executor:
    """An executor on pipes. Its stderr goes to a file, so it cannot block there.

    `env` changes the test's own environment; None as a value removes a variable. With `shell`, a line of sh starts the
    executor: 'ulimit -n 20; exec "$@"'.
    """

    def __init__(
        self,
        command: list[str],
        package_dir: object,
        env: dict[str, str | None] | None = None,
        shell: str | None = None,
        **options: object,
    ) -> None:
        changes = {
            "RUST_LOG": None,
            "SPIDER_TDL_PACKAGE_DIR": str(package_dir),
            **(env or {}),
        }
        environment = {
            name: value
            for name, value in {**os.environ, **changes}.items()
            if value is not None
        }
        if shell is not None:
            command = ["sh", "-c", shell, "sh", *command]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, kill closes it
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self._stderr,
            **options,
        }
        self.process = subprocess.Popen(command, bufsize=0, env=environment, **options)

    @property
    def pid(self) -> int:
        return self.process.pid

    # ------------------------------------------------------------------------------------------------------- requests

    def send(self, data: bytes) -> None:
        """Write all of `data` and read nothing meanwhile."""
        fd = self.process.stdin.fileno()
        os.set_blocking(fd, False)
        view, deadline = memoryview(data), time.monotonic() + DEADLINE
        while view:
            _, ready, _ = select.select(
                [], [fd], [], max(0.0, deadline - time.monotonic())
            )
            assert ready, "the executor does not read its input"
            view = view[os.write(fd, view) :]

    def receive(self) -> protocol.Result:
        """Read one response."""
        body = self.read(int.from_bytes(self.read(protocol.FRAME_HEADER_SIZE), "big"))
        result, end = protocol.decode_response(body)
        assert end == len(body)
        return result

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes of stdout."""
        data, deadline = bytearray(), time.monotonic() + DEADLINE
        while len(data) < size:
            chunk = self._read_some(size - len(data), deadline)
            assert chunk, (
                f"end of stdout, exit status {self.wait()}; stderr: {self.stderr()!r}"
            )
            data += chunk
        return bytes(data)

    def _read_some(self, size: int, deadline: float) -> bytes:
        fd = self.process.stdout.fileno()
        ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"no output; stderr: {self.stderr()!r}"
        return os.read(fd, size)

    def call(
        self, package: str, task: str, *values: object, context: bytes = CONTEXT
    ) -> object:
        """Run a task; returns its outputs or the ExecutorError."""
        self.send(request(package, task, *values, context=context))
        return outcome(self.receive())

    def call_raw(
        self, package: str, task: str, raw_inputs: bytes = b"", raw_ctx: bytes = CONTEXT
    ) -> object:
        """The same with bytes; returns the outputs' bytes or the ExecutorError."""
        self.send(raw_request(package, task, raw_inputs, raw_ctx))
        result = self.receive()
        return (
            result.outcome.outputs
            if isinstance(result.outcome, protocol.Success)
            else outcome(result)
        )

    def serves(self) -> bool:
        """Whether a good request gets its reply."""
        return self.call("buffers", "echo", "still", 1) == ["still", 1]

    def exchange(self, data: bytes, size: int) -> bytes:
        """Write `data` and read `size` bytes at the same time. Each read and each write has its own deadline."""
        input_fd, output_fd = self.process.stdin.fileno(), self.process.stdout.fileno()
        os.set_blocking(input_fd, False)
        unsent, received = memoryview(data), bytearray()
        while len(received) < size:
            readable, writable, _ = select.select(
                [output_fd], [input_fd] if unsent else [], [], DEADLINE
            )
            assert readable or writable, f"stalled; stderr: {self.stderr()!r}"
            if writable:
                unsent = unsent[os.write(input_fd, unsent[: 1 << 20]) :]
            if readable:
                chunk = os.read(output_fd, 1 << 20)
                assert chunk, (
                    f"end of stdout, exit status {self.wait()}; stderr: {self.stderr()!r}"
                )
                received += chunk
        return bytes(received)

    # -------------------------------------------------------------------------------------------------------- the end

    def close_input(self) -> None:
        self.process.stdin.close()

    def close_output(self) -> None:
        self.process.stdout.close()

    def finish(self, data: bytes = b"") -> tuple[bytes, int]:
        """Send `data` and the end of the input; returns the rest of stdout and the exit status."""
        try:
            output, _ = self.process.communicate(data, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the executor has not ended; stderr: {self.stderr()!r}"
            ) from None
        return output, self.process.returncode

    def read_to_end(self) -> tuple[bytes, int]:
        """Read stdout to its end without closing stdin; returns what came and the exit status."""
        output, deadline = bytearray(), time.monotonic() + DEADLINE
        while True:
            chunk = self._read_some(1 << 20, deadline)
            if not chunk:
                return bytes(output), self.wait()
            output += chunk

    def wait(self) -> int:
        """Wait for the end; returns the exit status."""
        try:
            return self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"the executor has not ended; stderr: {self.stderr()!r}"
            ) from None

    def kill(self) -> None:
        """End the executor if it lives, and close its pipes and its stderr."""
        self.process.kill()
        self.process.wait(DEADLINE)
        if not self._stderr.closed:
            self._last_stderr = self.stderr_bytes()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    # ----------------------------------------------------------------------------------------------------------- logs

    def stderr(self) -> str:
        """What was written to stderr so far. Bytes that are not UTF-8 fail the test."""
        return self.stderr_bytes().decode("utf-8")

    def stderr_bytes(self) -> bytes:
        if self._stderr.closed:
            return self._last_stderr
        return os.pread(
            self._stderr.fileno(), os.fstat(self._stderr.fileno()).st_size, 0
        )

    # The text is not split by splitlines, which takes other characters than a newline for the end of a line, too.
    def log_lines(self) -> list[dict]:
        """All lines of stderr, which must be JSON."""
        return [json.loads(line) for line in self.stderr().split("\n") if line]

    def errors(self) -> list[dict]:
        """The ERROR lines of stderr."""
        lines = [
            json.loads(line)
            for line in self.stderr().split("\n")
            if line.startswith("{")
        ]
        return [line for line in lines if line["level"] == "ERROR"]

    def only_error(self) -> dict:
        """The fields of the log's one ERROR line."""
        (line,) = self.errors()
        return line["fields"]

    def check_log(self) -> None:
        """Whatever happened: stderr is UTF-8, has no traceback, and its log lines are JSON."""
        text = self.stderr()
        assert "Traceback (most recent call last)" not in text
        for line in text.split("\n"):
            if line.startswith('{"timestamp"'):
                json.loads(line)
