"""docs/reliability.md promises nothing that no test shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs/reliability.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| fault |")
]


def test_there_are_rows() -> None:
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_every_row_says_what_happens_and_names_tests_that_are_there(row: list[str]) -> None:
    assert len(row) == 4, row
    assert all(row)
    named = re.findall(r"`(\w+\.py)::(\w+)`", row[3])
    assert named, "no test"
    for file, test in named:
        found = [path for path in (ROOT / "tests").glob(f"*/{file}") if f"\ndef {test}(" in path.read_text()]
        assert found, f"there is no {test} in any {file}"
