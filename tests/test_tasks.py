"""What the two test packages do, through a real executor."""

from __future__ import annotations

import protocol
import pytest
from protocol import Custom, DeserializationError, ExecutionError, TaskError, TaskNotFound
from spider_executor import TaskCrash, TaskFailure, TaskSuccess

DEADLINE = 20


def run(handle, package, task, *values, **options):
    return handle.execute(package, task, *values, timeout=DEADLINE, **options)


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 1), (2, 1), (10, 55), (20, 6765)])
def test_a_task_returns(handle, n, expected):
    outcome = run(handle, "integration_test_tasks", "fibonacci", n)
    assert isinstance(outcome, TaskSuccess)
    assert outcome.outputs == [expected]
    assert outcome.elapsed_us >= 0
