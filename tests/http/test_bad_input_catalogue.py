"""The catalogue of bad input, whole: every number is refused as it says, or excused with a reason.

Every row is sent to a running sandbox over its own socket. The answer is the problem that the row
names, within five seconds; afterwards nothing was written, no processor was told anything, and what
was sent is not in any log.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.house import House, changed_config, running_house
from tests.http import rows_bodies, rows_callers, rows_flows, rows_members, rows_requests
from tests.http.doors import ANSWERED_WITHIN_S, MARK, assert_refused
from tests.http.rows import Everything, Row, assert_not_logged

ROOT = Path(__file__).resolve().parents[2]
LAST = 96
# Where a number has no row: why, or which test shows it instead.
EXCUSED = {
    20: "products have no least or largest amount of their own: limit policies do, and the answer "
    "is `limit-exceeded`, row 77 (tests/payments/test_limits.py)",
    67: "no refusal: such texts are stored as they came "
    "(tests/http/test_bad_callers.py::test_a_text_is_only_a_text)",
    70: "the one date that is taken, `effective_from` of a rule, is told among all that is wrong "
    "with the rule, `rules-invalid` (tests/rulebook/test_validation.py)",
    52: "tokens bound to keys have a file of their own (tests/identity/test_rfc9449.py)",
    81: "overload needs a server that is full "
    "(tests/kernel/test_turning_away.py::test_each_kind_by_its_share)",
    87: "connectors are told apart by secrets, not by certificates: a stranger's signature is "
    "row 83's (tests/http/test_callbacks.py::test_one_processor_does_not_speak_for_another)",
    89: "no processor's callbacks are XML; HUMO's answers are read without DTD and entities "
    "(tests/connectors/test_codecs.py)",
    90: "what a processor answers never reaches HTTP: a wrong message is an unknown outcome "
    "(tests/connectors/test_codecs.py)",
    91: "files are imported by an operator's command, not over HTTP; a bad line names itself "
    "(tests/reconciliation/test_reports.py)",
    92: "no documents are taken yet",
    93: "no contracts are signed yet",
    94: "no partners are registered yet",
}
# Slow requests are given up early, so that the rows of slowness need not wait.
SETTINGS = {
    "head_timeout_s = 10.0": "head_timeout_s = 1.0",
    "body_timeout_s = 20.0": "body_timeout_s = 1.0",
}

ROWS: dict[int, list[Row]] = defaultdict(list)
for _row in itertools.chain(
    rows_bodies.rows(),
    rows_members.rows(),
    rows_requests.rows(),
    rows_callers.rows(),
    rows_flows.rows(),
):
    ROWS[_row.number].append(_row)


@pytest.fixture(scope="module", params=["plain", "parsed"])
async def bank(request: pytest.FixtureRequest) -> AsyncIterator[House]:
    """A house of its own, in which nothing happens but what the rows do.

    One reads plain requests without a parser, the other parses all: both refuse alike.
    """
    settings = SETTINGS
    if request.param == "parsed":
        settings = SETTINGS | {"is_plain = true": "is_plain = false"}
    with changed_config(settings=settings, limits=rows_flows.LIMITS) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def test_every_number_has_rows_or_an_excuse() -> None:
    """And what is excused by another test is shown by one that is there."""
    numbers = set(range(1, LAST + 1))
    assert set(ROWS) | set(EXCUSED) == numbers
    assert not set(ROWS) & set(EXCUSED)
    for reason in EXCUSED.values():
        for path, test in _tests_in(reason):
            text = (ROOT / path).read_text(encoding="utf-8")
            assert not test or f"def {test}(" in text, f"{path} has no {test}"


def _tests_in(reason: str) -> Iterator[tuple[str, str]]:
    for word in reason.replace("(", " ").replace(")", " ").split():
        if word.startswith("tests/"):
            path, _, test = word.partition("::")
            yield path, test


@pytest.mark.parametrize("number", sorted(ROWS))
async def test_bad_input_is_refused(bank: House, number: int) -> None:
    """As the catalogue says, at once, and nothing is done."""
    books = Everything(bank)
    await books.open()
    for row in ROWS[number]:
        started = time.monotonic()
        try:
            reply = await row.send(bank, books)
            problem = assert_refused(reply, row.status, row.slug)
            if row.pointer is not None:
                assert problem["errors"][0]["pointer"].startswith(row.pointer), problem
            if row.is_arranged:
                await books.assert_untouched()
        except AssertionError as wrong:
            raise AssertionError(f"row {row.number}, {row.what}: {wrong}") from wrong
        assert row.is_arranged or time.monotonic() - started < ANSWERED_WITHIN_S, row.what
        assert reply is not None
        assert MARK.encode() not in reply.raw, f"row {row.number}, {row.what}: it came back"
    await books.assert_untouched()
    assert_not_logged(bank)
