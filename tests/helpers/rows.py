"""Tables of test cases, in which each row has a name.

lines(text)                             a table from lines of "name | cell | cell"
rows(arguments, table, ours="", cxx="") the decorator of a test with a table
"""

import ast
import re

import pytest

from helpers import build

LITERAL = re.compile(r"`.*`|-?(?:0|[1-9]\d*)|None|True|False")


def lines(text):
    """Read a table with a row per line: {name: [cell, cell]}. The cells are text.

    An indented line continues the line before.
    """
    found = {}
    whole = text.strip().replace("\n ", " ")
    for line in whole.splitlines():
        name, *cells = map(str.strip, line.split("|"))
        assert name not in found, f"expected each name once, found {name} again"
        found[name] = cells
    return found


def _value(cell):
    if LITERAL.fullmatch(cell):
        return ast.literal_eval(cell.strip("`"))
    return cell


def rows(arguments, table, ours="", cxx=""):
    """Run a test once for each row: rows("size, reply", {"small": (1, b"x")}).

    With one argument, a row is its value. A table may also be text for `lines`. There a
    cell that is an int, None, a bool, or in `backquotes` is a literal of Python. The
    rows in `ours` hold for this project's executor only. Those in `cxx` need C++.
    """
    parts = (
        (table, ()),
        (ours, pytest.mark.ours),
        (cxx, build.needs("C++ compiler")),
    )
    parameters = []
    for part, marks in parts:
        if isinstance(part, str):
            read = {name: map(_value, cells) for name, cells in lines(part).items()}
        elif "," in arguments:
            read = part
        else:
            read = {name: [value] for name, value in part.items()}
        for name, values in read.items():
            parameters.append(pytest.param(*values, id=name, marks=marks))
    return pytest.mark.parametrize(arguments, parameters)
