"""An executor on raw pipes, with a deadline on every wait.

DEADLINE                        seconds that only a hang exceeds
request, raw_request            the frame of an Execute; SHUTDOWN is that of a Shutdown
outcome, responses              what came back, as Python values
wait_for                        polls a condition
Executor                        the process, in these groups:
    send, receive, call, call_raw, serves, read, exchange
    close_input, close_output, finish, end_silently, read_to_end, wait, kill
    stderr, stderr_bytes, log_lines, errors, only_error, check_log
"""

import json
import os
import select
import signal
import subprocess
import tempfile
import time

import protocol
import spider_executor

OWN_COMMAND = spider_executor.own_command()
DEADLINE = 20.0
CONTEXT = protocol.TaskContext().encode()
SHUTDOWN = protocol.encode_frame(protocol.encode_request(protocol.Shutdown()))


def raw_request(package, task, raw_inputs=b"", raw_ctx=CONTEXT):
    """The frame of a request with inputs that need not be a payload."""
    execute = protocol.Execute(package, task, raw_ctx, raw_inputs)
    return protocol.encode_frame(protocol.encode_request(execute))


def request(package, task, *values, context=CONTEXT):
    """The frame of a request."""
    return raw_request(package, task, protocol.pack_values(*values), context)


def outcome(result):
    """A response's outputs as a list of Python values, or its ExecutorError."""
    if isinstance(result.outcome, protocol.Success):
        return protocol.unpack_values(result.outcome.outputs)
    data = result.outcome.error
    error, end = protocol.decode_executor_error(data)
    assert not data[end:], f"expected the end after {error!r}, found {data[end:]!r}"
    return error


def _decode_result(body):
    result, end = protocol.decode_response(body)
    assert not body[end:], f"expected the end after {result!r}, found {body[end:]!r}"
    return result


def responses(output):
    """The outcomes of all responses in what an executor wrote.

    Raises ProtocolError if the last response is not complete.
    """
    found = []
    offset = 0
    while offset < len(output):
        body, offset = protocol.decode_frame(output, offset)
        found.append(outcome(_decode_result(body)))
    return found


def wait_for(condition, what):
    """Poll until `condition()` holds."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"expected {what} within {DEADLINE} s"
        time.sleep(0.01)


class Executor:
    """An executor on pipes, in a process group of its own.

    Its stderr is a file, so it cannot block there. `env` changes the test's own
    environment; None as a value removes a variable. With `shell`, a line of sh
    starts the executor: 'ulimit -n 20; exec "$@"'. The other options are Popen's.
    """

    def __init__(
        self,
        command,
        package_dir,
        env=None,
        shell=None,
        **options,
    ):
        variables = {
            **os.environ,
            "RUST_LOG": None,
            "SPIDER_TDL_PACKAGE_DIR": str(package_dir),
            **(env or {}),
        }
        if shell is not None:
            command = ["sh", "-c", shell, "sh", *command]
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115, kill closes it
        defaults = {
            "bufsize": 0,
            "env": {
                name: value for name, value in variables.items() if value is not None
            },
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": self._stderr,
            "start_new_session": True,
        }
        self.process = subprocess.Popen(command, **{**defaults, **options})

    @property
    def pid(self):
        return self.process.pid

    # --------------------------------------------------------------------- requests

    def exchange(self, data, size):
        """Write `data` and read `size` bytes of stdout, both at once."""
        unsent = memoryview(data)
        received = bytearray()
        while unsent or len(received) < size:
            if self._wait_for_pipes(len(received) < size, bool(unsent)):
                received += self._read_some(size - len(received))
            else:
                unsent = unsent[os.write(self.process.stdin.fileno(), unsent) :]
        return bytes(received)

    def _wait_for_pipes(self, reads, writes):
        """Wait until stdout can be read (return True) or stdin written (False)."""
        outputs = [self.process.stdout] if reads else []
        inputs = [self.process.stdin] if writes else []
        for stream in inputs:
            os.set_blocking(stream.fileno(), False)
        readable, writable, _ = select.select(outputs, inputs, [], DEADLINE)
        wanted = "output" if reads else "room for input"
        assert readable or writable, f"expected {wanted}, found none; {self._state()}"
        return bool(readable)

    def _read_some(self, size):
        chunk = os.read(self.process.stdout.fileno(), size)
        if not chunk:
            self.wait()
        assert chunk, f"expected {size} more bytes, found the end; {self._state()}"
        return chunk

    def send(self, data):
        """Write all of `data` and read nothing meanwhile."""
        self.exchange(data, 0)

    def read(self, size):
        """Read exactly `size` bytes of stdout."""
        return self.exchange(b"", size)

    def receive(self):
        """Read one response."""
        header = self.read(protocol.FRAME_HEADER_SIZE)
        return _decode_result(self.read(int.from_bytes(header, "big")))

    def call(self, package, task, *values, context=CONTEXT):
        """Run a task; return its outputs or the ExecutorError."""
        self.send(request(package, task, *values, context=context))
        return outcome(self.receive())

    def call_raw(self, package, task, raw_inputs=b"", raw_ctx=CONTEXT):
        """The same with bytes; return the outputs' bytes or the ExecutorError."""
        self.send(raw_request(package, task, raw_inputs, raw_ctx))
        result = self.receive()
        if isinstance(result.outcome, protocol.Success):
            return result.outcome.outputs
        return outcome(result)

    def serves(self):
        """Whether a good request gets its reply."""
        return self.call("buffers", "echo", "still", 1) == ["still", 1]

    # ---------------------------------------------------------------------- the end

    def close_input(self):
        self.process.stdin.close()

    def close_output(self):
        self.process.stdout.close()

    def finish(self, data=b""):
        """Send `data` and the end of the input.

        Return the rest of stdout and the exit status.
        """
        output, _ = self._until_deadline(self.process.communicate, data)
        return output, self.process.returncode

    def end_silently(self):
        """Check that it ends with 0, without output or logs, when stdin ends."""
        found = (*self.finish(), self.stderr())
        assert found == (b"", 0, ""), f"expected a silent end, found {found}"

    def read_to_end(self):
        """Read stdout to its end without closing stdin.

        Return what came and the exit status.
        """
        output = bytearray()
        while self._wait_for_pipes(True, False):
            chunk = os.read(self.process.stdout.fileno(), 1 << 20)
            if not chunk:
                break
            output += chunk
        return bytes(output), self.wait()

    def wait(self):
        """Wait for the end; return the exit status."""
        return self._until_deadline(self.process.wait)

    def _until_deadline(self, function, *arguments):
        try:
            return function(*arguments, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"expected the executor's end within {DEADLINE} s; {self._state()}"
            ) from None

    def kill(self):
        """Kill the process group, and close the pipes and stderr."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(DEADLINE)
        self._last_stderr = self.stderr_bytes()
        for stream in (self.process.stdin, self.process.stdout, self._stderr):
            if stream is not None:
                stream.close()

    # ------------------------------------------------------------------------- logs

    def _state(self):
        return f"exit status {self.process.poll()}, stderr: {self.stderr_bytes()!r}"

    def stderr(self):
        """What was written to stderr so far. Bytes that are not UTF-8 fail the test."""
        return self.stderr_bytes().decode("utf-8")

    def stderr_bytes(self):
        if self._stderr.closed:
            return self._last_stderr
        fd = self._stderr.fileno()
        return os.pread(fd, os.fstat(fd).st_size, 0)

    def _json_lines(self, start):
        """The lines that begin with `start`. Each must be JSON."""
        found = []
        # Not splitlines: for it, lines end at other characters, too.
        for line in self.stderr().split("\n"):
            if line and line.startswith(start):
                try:
                    found.append(json.loads(line))
                except ValueError as error:
                    raise AssertionError(
                        f"expected a line of JSON, found {line!r}: {error}"
                    ) from None
        return found

    def log_lines(self):
        """All lines of stderr, which must be JSON."""
        return self._json_lines("")

    def errors(self):
        """The ERROR lines of stderr."""
        return [line for line in self._json_lines("{") if line["level"] == "ERROR"]

    def only_error(self):
        """The fields of the log's one ERROR line."""
        errors = self.errors()
        assert len(errors) == 1, f"expected one ERROR line, found {self.stderr()!r}"
        return errors[0]["fields"]

    def check_log(self):
        """Whatever happened: stderr is UTF-8 without traceback, its log lines JSON."""
        _, traceback, rest = self.stderr().partition(
            "Traceback (most recent call last)"
        )
        assert not traceback, f"expected no traceback, found {traceback}{rest}"
        self._json_lines('{"timestamp"')
