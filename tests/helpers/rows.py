"""Tables of test cases, in which each row has a name.

rows(arguments, table, ours={}, marks={})   the decorator of a test with a table
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest


def rows(
    arguments: str,
    table: Mapping[str, object],
    ours: Mapping[str, object] | None = None,
    marks: Mapping[str, pytest.MarkDecorator] | None = None,
) -> pytest.MarkDecorator:
    """Run a test once for each row: rows("size, reply", {"small": (1, b"x")}).

    With one argument, a row is its value. The rows in `ours` hold for this project's
    executor only. `marks` has marks for some rows by their names.
    """
    is_single = "," not in arguments
    parameters = []
    for rows_of, mark in ((table, ()), (ours or {}, (pytest.mark.ours,))):
        for name, row in rows_of.items():
            more = (marks[name],) if marks and name in marks else ()
            values = (row,) if is_single else row
            parameters.append(pytest.param(*values, id=name, marks=mark + more))
    return pytest.mark.parametrize(arguments, parameters)
