"""A pytest plugin for the emulated run: deselects what deselected.txt names, and insists that those tests exist."""

from __future__ import annotations

import pytest

LIST = "tests/aarch64/deselected.txt"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    lines = (config.rootpath / LIST).read_text(encoding="utf-8").splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    kept: list[pytest.Item] = []
    out: list[pytest.Item] = []
    found: set[str] = set()
    for item in items:
        names = listed & {item.nodeid, item.nodeid.partition("[")[0]}
        found |= names
        (out if names else kept).append(item)
    # A run of the whole suite has collected every test, so a name that it lacks is out of date.
    if config.args == config.getini("testpaths") and listed - found:
        raise pytest.UsageError(f"{LIST}: no such tests: {', '.join(sorted(listed - found))}")
    if out:
        items[:] = kept
        config.hook.pytest_deselected(items=out)
