"""No row of the table of faults is forgotten."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.faults.rows import EXCUSED, FAULTS

TESTS = Path(__file__).resolve().parents[1]


def marked() -> set[int]:
    """Return the rows that `@pytest.mark.fault(rows=[...])` names anywhere."""
    found: set[int] = set()
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.fault":
                (rows,) = [one.value for one in node.keywords if one.arg == "rows"]
                found |= set(ast.literal_eval(rows))
    return found


def test_every_row_is_shown_or_excused() -> None:
    """And not both: an excuse ends with the first test."""
    assert marked() | set(EXCUSED) == set(FAULTS)
    assert not marked() & set(EXCUSED)
