"""What a served process has imported: modules that take long to start do not belong into it."""

from __future__ import annotations

import re

import pytest
from helpers import executor

import protocol

pytestmark = pytest.mark.ours

SLOW = {
    "argparse",
    "asyncio",
    "collections",
    "contextlib",
    "dataclasses",
    "datetime",
    "enum",
    "functools",
    "inspect",
    "json",
    "logging",
    "pathlib",
    "random",
    "re",
    "shutil",
    "signal",
    "site",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "traceback",
    "typing",
    "unittest",
}


def test_imports(package_dir):
    """Over a whole life: tasks that return and fail, a package that is missing, every level of log, an error."""
    command = [executor.OWN_COMMAND[0], "-X", "importtime", *executor.OWN_COMMAND[1:]]
    child = executor.Executor(command, package_dir, env={"RUST_LOG": "trace,bad=directive"})
    try:
        assert child.call("integration_test_tasks", "fibonacci", 10) == [55]
        assert isinstance(child.call("integration_test_tasks", "always_fail"), protocol.TaskError)
        assert isinstance(child.call("nowhere", "task"), protocol.InvalidLibrary)
        assert child.finish(bytes(4)) == (b"", 1)
        imported = {name.strip() for name in re.findall(r"(?m)^import time:.*\|(.*)$", child.stderr())}
    finally:
        child.kill()
    assert {"protocol", "ctypes", "struct"} <= imported
    assert imported & SLOW == set()
