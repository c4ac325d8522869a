"""A shorter run of the soak: many requests leave memory and descriptors as they are. No time is judged."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SOAK = Path(__file__).resolve().parent / "bench" / "soak.py"
GROWTH_LIMIT_KIB = 1024


def test_memory_and_descriptors_do_not_grow() -> None:
    done = subprocess.run(
        [sys.executable, str(SOAK), "--quick"],
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    table = done.stdout
    growths = re.findall(r"\| (.*?) +\| resident memory, KiB, .*? \| +\d+ \| +\d+ \(([+-]\d+)\) \|", table)
    assert [subject for subject, _ in growths] == ["100,000 tiny requests", "1,000 requests of 1 MiB"], done
    assert all(int(growth) < GROWTH_LIMIT_KIB for _, growth in growths), table
    held = re.findall(r"\| open descriptors, .*? \| +(\d+) \| +(\d+) \|", table)
    assert len(held) == 2
    assert all(before == after for before, after in held), table
    assert done.returncode == 0
    for subject in ("100,000 requests answered", "50 packages loaded", "10,000 task names used"):
        assert re.search(rf"\| 1(,000)? and {subject}.*round trip P50, µs +\| +\d", table), table
