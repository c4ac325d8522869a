"""What pyproject.toml says about the project."""

from __future__ import annotations

import re

from helpers.build import ROOT

import spider_executor


def test_the_version_is_the_same_in_both_places() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.findall(r'^version = "(.*)"$', text, re.MULTILINE) == [
        spider_executor.__version__
    ]
