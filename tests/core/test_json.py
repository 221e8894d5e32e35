"""The one strict JSON reader, through the door that every route uses, by the core's own table."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.core import Refusal, read_body

TABLE = (
    Path(__file__).resolve().parents[2] / "core_rs" / "engine" / "tests" / "tables" / "json.jsonl"
)
ROWS: list[dict[str, Any]] = [json.loads(line) for line in TABLE.read_text().splitlines()]
SLUGS = {"malformed": "malformed-json", "encoding": "invalid-encoding", "too-deep": "too-deep"}
HEADERS = [(b"Content-Type", b"application/json")]


def body_of(row: dict[str, Any]) -> bytes:
    """Return a row's body: written out, as hex, or as one unit many times."""
    if "hex" in row:
        return bytes.fromhex(row["hex"])
    if "body" in row:
        text: str = row["body"]
        return text.encode()
    repeated: str = row.get("before", "") + row["unit"] * row["times"] + row.get("after", "")
    return repeated.encode()


def slug_of(row: dict[str, Any]) -> str | None:
    """Return the problem that a row's body is answered with; None when it is read."""
    if row["parse"] == "ok":
        return row.get("door")
    return SLUGS.get(row["parse"], "duplicate-member")


def digits_of(text: str) -> str:
    """Return an integer's digits, of any number; minus zero is zero."""
    return "0" if text == "-0" else text


@pytest.mark.parametrize("row", ROWS, ids=[row["why"] for row in ROWS])
def test_body_is_read_or_refused_as_the_table_says(row: dict[str, Any]) -> None:
    """A refusal names its problem and, where there is one, the member; it never echoes a value."""
    read = read_body(HEADERS, body_of(row))

    if isinstance(read, bytes):
        assert slug_of(row) is None
        assert row.get("canonical", read.decode()) == read.decode()
        return
    assert isinstance(read, Refusal)
    assert (slug_of(row), 4) == (read.slug, read.status // 100)
    if row["parse"].startswith("duplicate"):
        problem = json.loads(read.body("req_1"))
        assert row["parse"].removeprefix("duplicate ") == problem["errors"][0]["pointer"]


@pytest.mark.parametrize(
    "row", [row for row in ROWS if slug_of(row) is None], ids=lambda row: row["why"]
)
def test_what_is_read_is_what_another_reader_reads(row: dict[str, Any]) -> None:
    """The canonical bytes mean the same to Python's reader as the body that was sent."""
    body = body_of(row)
    read = read_body(HEADERS, body)

    assert isinstance(read, bytes)
    assert json.loads(body, parse_int=digits_of) == json.loads(read, parse_int=digits_of)


def test_table_covers_each_outcome() -> None:
    """Were the table cut short, the tests above would prove little."""
    outcomes = {slug_of(row) for row in ROWS}

    assert {*SLUGS.values(), None, "duplicate-member", "invalid-character"} <= outcomes
    assert {"schema-violation", "invalid-amount"} <= outcomes
    assert len(ROWS) > 250
