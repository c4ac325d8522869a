"""Tables of test cases, in which each row has a name.

lines(text)                             a table from lines of "name | cell | cell"
rows(arguments, table, ours="", cxx="") the decorator of a test with a table
"""

import ast

import pytest

from helpers import build


def _cell(text):
    if text.startswith("`"):
        return ast.literal_eval(text.strip("`"))
    return text


def lines(text):
    """Read a table with a row per line: {name: cells}, or {name: cell} if it is one.

    A cell is text, or a literal of Python in `backquotes`. An indented line continues
    the line before.
    """
    found = {}
    whole = text.strip().replace("\n ", " ")
    for line in whole.splitlines():
        name, *texts = line.split("|")
        name = name.strip()
        cells = [_cell(text.strip()) for text in texts]
        assert name not in found, f"expected each name once, found {name} again"
        found[name] = cells if len(cells) > 1 else cells[0]
    return found


def rows(arguments, table, ours="", cxx=""):
    """Run a test once for each row: rows("size, reply", {"small": (1, b"x")}).

    A table may be the text for `lines`. With one argument, a row is its value. The rows
    in `ours` hold for this project's executor only, those in `cxx` need a compiler.
    """
    parts = (
        (table, ()),
        (ours, pytest.mark.ours),
        (cxx, build.needs("C++ compiler")),
    )
    parameters = []
    for part, marks in parts:
        if isinstance(part, str):
            part = lines(part)
        for name, row in part.items():
            values = row if "," in arguments else [row]
            parameters.append(pytest.param(*values, id=name, marks=marks))
    return pytest.mark.parametrize(arguments, parameters)
