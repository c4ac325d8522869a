"""What the project says about its version is the same everywhere."""

import re

import pytest
from helpers.build import ROOT

import spider_executor

VERSION_LINES = [
    pytest.param("pyproject.toml", r'^version = "(.*)"$', id="pyproject.toml"),
    pytest.param("CHANGELOG.md", r"^## \[(.*)\] - \d{4}-\d\d-\d\d$", id="CHANGELOG.md"),
]


@pytest.mark.parametrize(("name", "line"), VERSION_LINES)
def test_the_newest_version_is_the_program_s(name, line):
    path = ROOT / name
    versions = re.findall(line, path.read_text(encoding="utf-8"), re.MULTILINE)
    assert versions[:1] == [spider_executor.__version__]


def test_releases_are_listed_newest_first():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    dates = re.findall(r"^## \[.*\] - (.*)$", text, re.MULTILINE)
    assert dates == sorted(dates, reverse=True)
    assert len(dates) == text.count("\n## ")
