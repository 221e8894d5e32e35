"""A report beside our books: every difference is classed once, and goes when it is explained."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import date, timedelta

import asyncpg
import pytest

from connectors.spi.reports import ReportError
from gateway.ledger.chart import Account, Chart
from gateway.proposals.service import Proposals
from gateway.reconciliation.breaks import Breaks
from gateway.reconciliation.imports import Imports
from gateway.reconciliation.model import PostingBody, ProposalBody
from tests.reconciliation.desk import (
    DAY,
    NEXT,
    NOW_MS,
    REPORTS,
    broken,
    match_stale,
    posted,
    take,
)
from tests.reconciliation.files import (
    humo_file,
    humo_row,
    uzcard_file,
    uzcard_row,
    visa_file,
    visa_row,
)
from tests.reconciliation.ours import act, make, noon_ms, rrn_of


async def test_visa_is_known_by_its_own_references(pool: asyncpg.Pool) -> None:
    """Sales, captures of less, refunds by names that only their sequence tells."""
    at = noon_ms(DAY)
    sale, hold = await make(pool, "visa", at), await make(pool, "visa", at, kind="hold", first=10)
    await act(pool, hold[0], "capture", 1_000, at_ms=at + 5)
    await act(pool, sale[0], "refund", 400, at_ms=at + 9, sequence=77)
    rows = [
        visa_row(DAY, sale[0].rrn, 1_000),
        visa_row(DAY, hold[0].rrn, 1_000),
        visa_row(DAY, rrn_of(at, 77), 400, transaction_code="06", processing_code="200000"),
    ]
    imported = await take(pool, "visa", visa_file(rows))
    assert imported.is_new
    assert await broken(pool) == []
    row = await pool.fetchrow("SELECT lines, matched, sums FROM reconciliation_imports")
    assert row is not None
    assert (row["lines"], row["matched"]) == (3, 3)
    assert json.loads(row["sums"]) == [
        {"currency": "UZS", "debits": 2_000, "credits": 400, "net": 1_600, "fees": 2}
    ]
    assert await posted(pool) == {
        "processor:visa": -1_600,
        "processor-fee:visa": 2,
        "settlement:visa": 1_598,
    }


async def test_humo_and_uzcard_are_known_by_ours(pool: asyncpg.Pool) -> None:
    """HUMO captures under the attempt's name, UZCARD under the capture's; both name refunds."""
    at = noon_ms(DAY)
    for connector in ("humo", "uzcard"):
        (sale,) = await make(pool, connector, at, amount=500)
        (hold,) = await make(pool, connector, at, kind="hold", amount=600)
        (sent,) = await make(pool, connector, at, kind="transfer", amount=730, credit=700)
        (whole,) = await make(pool, connector, at, amount=800)
        capture = await act(pool, hold, "capture", 600, at_ms=at)
        part = await act(pool, sale, "refund", 200, at_ms=at)
        back = await act(pool, whole, "refund", 800, at_ms=at)
        if connector == "humo":
            file = humo_file(
                DAY,
                [
                    humo_row(DAY, sale.attempt, 500),
                    humo_row(DAY, hold.attempt, 600, operation="SOAP_DMS"),
                    humo_row(DAY, sent.attempt, 700, operation="P2P", fee="30"),
                    humo_row(DAY, whole.attempt, 800),
                    humo_row(DAY, part, 200, operation="RETURN", original="SOAP_SMS"),
                    humo_row(DAY, back, 800, operation="RETURN", original="SOAP_SMS"),
                ],
            )
        else:
            undone = {"tranType": "REVERSAL", "origTranType": "DEBIT", "reversal": True}
            file = uzcard_file(
                [
                    uzcard_row(DAY, sale.attempt, 500),
                    uzcard_row(DAY, capture, 600),
                    uzcard_row(DAY, sent.attempt, 700, tranType="P2P", commission=30),
                    uzcard_row(DAY, whole.attempt, 800),
                    uzcard_row(DAY, part, 200, **undone),
                    # All of it was undone by the original's own name.
                    uzcard_row(DAY, whole.attempt, 800, **undone),
                ]
            )
        await take(pool, connector, file)
        assert await broken(pool) == []
    balances = await posted(pool)
    assert balances["settlement:humo"] == balances["settlement:uzcard"] == 500 + 600 + 30 - 200


@pytest.mark.fault(rows=[65], what="one report with one of each difference")
async def test_every_difference_is_classed(pool: asyncpg.Pool) -> None:
    """One report with one of each; what matches beside them is settled all the same."""
    at = noon_ms(DAY)
    made = await make(pool, "humo", at, count=8)
    (sent,) = await make(pool, "humo", at, kind="transfer", amount=1_030, credit=1_000)
    (failed,) = await make(pool, "humo", at, state="declined")
    (undone,) = await make(pool, "humo", at, state="reversed")
    (held,) = await make(pool, "humo", at, kind="hold", state="authorized")
    fine, twice, other, refused, late, soon, lost, returned = made
    old = DAY - timedelta(days=60)
    rows = [
        humo_row(DAY, fine.attempt, 1_000),
        humo_row(DAY, twice.attempt, 1_000),
        humo_row(DAY, twice.attempt, 1_000),
        humo_row(DAY, twice.attempt, 1_000),
        humo_row(DAY, other.attempt, 1_001),
        humo_row(DAY, sent.attempt, 1_000, operation="P2P", fee="31"),
        humo_row(DAY, refused.attempt, 1_000, code="116"),
        humo_row(DAY, late.attempt, 1_000, time=f"{old:%Y%m%d}000000"),
        humo_row(DAY, soon.attempt, 1_000, time=f"{NEXT:%Y%m%d}000000"),
        humo_row(DAY, failed.attempt, 1_000),
        humo_row(DAY, undone.attempt, 1_000),
        humo_row(DAY, held.attempt, 1_000, operation="SOAP_DMS"),
        humo_row(DAY, "somebody-elses", 1_000),
        humo_row(DAY, "nobodys-decline", 1_000, code="116"),
        humo_row(DAY, returned.attempt, 1_000),
        humo_row(DAY, returned.attempt, 1_000, operation="REVERSAL", original="SOAP_SMS"),
    ]
    await take(pool, "humo", humo_file(DAY, rows))
    assert await broken(pool) == [
        ("duplicate", twice.attempt),
        ("duplicate", twice.attempt),
        ("amount", other.attempt),
        ("commission", sent.attempt),
        ("status", refused.attempt),
        ("day", late.attempt),
        ("day", soon.attempt),
        ("status", failed.attempt),
        ("status", undone.attempt),
        ("status", held.attempt),
        ("missing_here", "somebody-elses"),
        ("status", returned.attempt),
        ("missing_there", lost.attempt),
    ]
    # What is in doubt is not settled: one sale, one that was said thrice, one that they gave back.
    assert (await posted(pool))["settlement:humo"] == 3_000
    row = await pool.fetchrow(
        "SELECT ours, theirs, line_number FROM reconciliation_breaks WHERE kind = 'amount'"
    )
    assert row is not None
    assert row["line_number"] == 6
    assert json.loads(row["ours"])["amount"] == 1_000
    assert json.loads(row["theirs"])["amount"] == 1_001


async def test_another_currency_is_classed(pool: asyncpg.Pool) -> None:
    """An amount of another currency is not compared."""
    (one,) = await make(pool, "visa", noon_ms(DAY))
    await take(pool, "visa", visa_file([visa_row(DAY, one.rrn, 999, currency="USD")]))
    assert await broken(pool) == [("currency", one.attempt)]
    assert await posted(pool) == {}


async def test_what_was_undone_may_be_reported_with_its_undoing_or_not_at_all(
    pool: asyncpg.Pool,
) -> None:
    """A reversed attempt is even either way, and over the border of a day."""
    at = noon_ms(DAY)
    pair, _, over = await make(pool, "humo", at, count=3, state="reversed")
    back = {"operation": "RETURN", "original": "SOAP_SMS"}
    first = [
        humo_row(DAY, pair.attempt, 1_000),
        humo_row(DAY, pair.attempt, 1_000, **back),
        humo_row(DAY, over.attempt, 1_000),
    ]
    await take(pool, "humo", humo_file(DAY, first))
    assert await broken(pool) == [("status", over.attempt)]
    assert await posted(pool) == {}
    await take(pool, "humo", humo_file(NEXT, [humo_row(NEXT, over.attempt, 1_000, **back)]), NEXT)
    assert await broken(pool, day=NEXT) == []
    assert await match_stale(pool, "humo") == [DAY]
    assert await broken(pool) == []
    assert await posted(pool) == {}, "what came and went is even"


async def test_the_same_report_again_changes_nothing(pool: asyncpg.Pool) -> None:
    """No second revision, no second break, no second posting, no second entry of the audit."""
    one, two = await make(pool, "humo", noon_ms(DAY), count=2)
    file = humo_file(DAY, [humo_row(DAY, one.attempt, 1_000), humo_row(DAY, "x", 5)])
    first = await take(pool, "humo", file)
    before = [await broken(pool), await posted(pool)]
    again = await take(pool, "humo", file)
    assert (again.id, again.is_new) == (first.id, False)
    assert [await broken(pool), await posted(pool)] == before
    assert before[0] == [("missing_here", "x"), ("missing_there", two.attempt)]
    for table in ("reconciliation_imports", "reconciliation_settlements", "audit_log"):
        assert await pool.fetchval(f"SELECT count(*) FROM {table}") == 1, table


async def test_a_corrected_report_takes_the_place_of_the_one_before(pool: asyncpg.Pool) -> None:
    """What it explains is resolved, what stays keeps its age, and the difference is posted."""
    one, two = await make(pool, "humo", noon_ms(DAY), count=2)
    rows = [humo_row(DAY, one.attempt, 999), humo_row(DAY, "x", 5)]
    await take(pool, "humo", humo_file(DAY, rows))
    ages = await pool.fetch("SELECT kind, opened_at FROM reconciliation_breaks ORDER BY id")
    assert [row["kind"] for row in ages] == ["amount", "missing_here", "missing_there"]
    assert await posted(pool) == {}
    rows = [
        humo_row(DAY, "x", 5),
        humo_row(DAY, one.attempt, 1_000),
        humo_row(DAY, two.attempt, 1_000),
    ]
    await take(pool, "humo", humo_file(DAY, rows))
    rows_now = await pool.fetch("SELECT * FROM reconciliation_breaks ORDER BY id")
    assert [row["status"] for row in rows_now] == ["resolved", "open", "resolved"]
    assert rows_now[1]["opened_at"] == ages[1]["opened_at"]
    assert rows_now[1]["line_number"] == 2, "where it is now"
    assert (await posted(pool))["settlement:humo"] == 2_000
    # And back: a report that takes a line away takes its settlement away.
    await take(pool, "humo", humo_file(DAY, rows[:2]))
    assert await broken(pool) == [("missing_here", "x"), ("missing_there", two.attempt)]
    assert (await posted(pool))["settlement:humo"] == 1_000
    revisions = await pool.fetch(
        "SELECT revision, is_current FROM reconciliation_imports ORDER BY revision"
    )
    assert [(row["revision"], row["is_current"]) for row in revisions] == [
        (1, False),
        (2, False),
        (3, True),
    ]
    assert await pool.fetchval("SELECT count(*) FROM reconciliation_lines") == 2


async def test_what_operators_have_posted_is_not_settled_a_second_time(
    pool: asyncpg.Pool,
) -> None:
    """A report that mends the break later finds it done; its neighbours are settled."""
    one, two = await make(pool, "humo", noon_ms(DAY), count=2)
    rows = [humo_row(DAY, one.attempt, 999), humo_row(DAY, two.attempt, 1_000)]
    await take(pool, "humo", humo_file(DAY, rows))
    break_id = await pool.fetchval("SELECT id FROM reconciliation_breaks")
    chart = Chart([Account(f"{name}:*", "asset", "") for name in ("settlement", "processor")])
    proposals = Proposals(pool=pool, clock=lambda: NOW_MS, lives_s=10**9)
    breaks = Breaks(pool, lambda: NOW_MS, chart, proposals)
    postings = [
        PostingBody("settlement:humo", 999, "UZS"),
        PostingBody("processor:humo", -999, "UZS"),
    ]
    await breaks.propose(break_id, ProposalBody("post", "as it was paid", postings), "opr_1")
    await breaks.approve(break_id, "opr_2")
    assert (await posted(pool))["settlement:humo"] == 1_999
    rows[0] = humo_row(DAY, one.attempt, 1_000)
    await take(pool, "humo", humo_file(DAY, rows))
    assert await broken(pool) == []
    assert (await posted(pool))["settlement:humo"] == 1_999


@pytest.mark.fault(rows=[65], what="a line in the report of the wrong day")
async def test_what_a_processor_reports_a_day_late_is_resolved_by_itself(
    pool: asyncpg.Pool,
) -> None:
    """Missing from one day's report, it is in the next; the other way round it never was."""
    evening = noon_ms(NEXT) - 12 * 3_600_000 - 1_000
    late, early = await make(pool, "visa", evening, count=2)
    await take(pool, "visa", visa_file([visa_row(DAY, early.rrn, 1_000)]))
    assert await broken(pool) == [("missing_there", late.attempt)]
    row = visa_row(NEXT, late.rrn, 1_000)
    await take(pool, "visa", visa_file([row]), NEXT)
    assert await broken(pool) == []
    assert (await posted(pool))["processor:visa"] == -2_000


async def test_a_correction_that_takes_a_late_line_away_opens_what_it_had_explained(
    pool: asyncpg.Pool,
) -> None:
    """Resolved by the report of the next day, missing again once that one is corrected."""
    late, _ = await make(pool, "humo", noon_ms(DAY), count=2)
    row = humo_row(DAY, late.attempt, 1_000)
    await take(pool, "humo", humo_file(DAY, []))
    await take(pool, "humo", humo_file(NEXT, [row]), NEXT)
    assert len(await broken(pool)) == 1
    await take(pool, "humo", humo_file(NEXT, []), NEXT)
    assert await match_stale(pool, "humo") == [DAY]
    assert len(await broken(pool, day=DAY)) == 2
    assert await posted(pool) == {}
    assert await match_stale(pool, "humo") == []


@pytest.mark.parametrize("connector", ["humo", "visa"])
async def test_what_is_reversed_by_hand_weeks_later_is_known_still(
    pool: asyncpg.Pool, connector: str
) -> None:
    """The line is of the day of the reversal, the attempt of long before."""
    before = DAY - timedelta(days=20)
    (old,) = await make(pool, connector, noon_ms(before), state="reversed")
    (stands,) = await make(pool, connector, noon_ms(before), first=5)
    changes: dict[str, dict[str, str]] = {
        "humo": {"operation": "REVERSAL", "original": "SOAP_SMS"},
        "visa": {"transaction_code": "25"},
    }
    for day, changed in ((before, {}), (DAY, changes[connector])):
        if connector == "humo":
            names = [old.attempt, stands.attempt]
            file = humo_file(day, [humo_row(day, name, 1_000, **changed) for name in names])
        else:
            file = visa_file([visa_row(day, one.rrn, 1_000, **changed) for one in (old, stands)])
        await take(pool, connector, file, day)
    assert await match_stale(pool, connector) == [before]
    assert await broken(pool) == [("status", stands.attempt)]
    assert (await posted(pool))[f"processor:{connector}"] == -1_000


@pytest.mark.parametrize("order", [(DAY, NEXT), (NEXT, DAY)])
async def test_what_two_days_report_is_a_duplicate_of_the_later(
    pool: asyncpg.Pool, order: tuple[date, date]
) -> None:
    """In whatever order the reports are imported; and it is settled once."""
    (one,) = await make(pool, "humo", noon_ms(DAY))
    for day in order:
        time_of_it = f"{DAY:%Y%m%d}235959"
        file = humo_file(day, [humo_row(DAY, one.attempt, 1_000, time=time_of_it)])
        await take(pool, "humo", file, day)
        await match_stale(pool, "humo")
    assert await broken(pool, day=DAY) == []
    assert await broken(pool, day=NEXT) == [("duplicate", one.attempt)]
    assert (await posted(pool))["settlement:humo"] == 1_000


async def test_of_a_day_that_goes_on_nothing_later_is_missing(pool: asyncpg.Pool) -> None:
    """What was paid while the report was made is not expected in it yet."""
    before, after = noon_ms(DAY), noon_ms(DAY) + 60_000
    (early,) = await make(pool, "humo", before)
    await make(pool, "humo", after)
    await take(pool, "humo", humo_file(DAY, []), now_ms=before + 30_000)
    assert await broken(pool) == [("missing_there", early.attempt)]


async def test_what_became_known_since_is_matched_again(pool: asyncpg.Pool) -> None:
    """A doubt that ends as the report says leaves no break, and is settled."""
    (one,) = await make(pool, "visa", noon_ms(DAY), state="unknown")
    await take(pool, "visa", visa_file([visa_row(DAY, one.rrn, 1_000)]))
    assert await broken(pool) == [("status", one.attempt)]
    assert await posted(pool) == {}
    await pool.execute("UPDATE attempts SET state = 'captured' WHERE id = $1", one.attempt)
    await Imports(pool, lambda: NOW_MS).match_again("visa", REPORTS["visa"], DAY)
    assert await broken(pool) == []
    assert (await posted(pool))["processor:visa"] == -1_000
    assert await pool.fetchval("SELECT matched FROM reconciliation_imports") == 1


async def test_a_report_that_cannot_be_used_changes_nothing(pool: asyncpg.Pool) -> None:
    """Its last line is as good a reason as its first; the connection is sound afterwards."""
    made = await make(pool, "humo", noon_ms(DAY), count=3_000)
    good = humo_file(DAY, [humo_row(DAY, one.attempt, 1_000) for one in made])
    await take(pool, "humo", good)
    before = await posted(pool)
    rows = [humo_row(DAY, one.attempt, 2_000) for one in made]
    cut = humo_file(DAY, rows).rsplit(b"T;", 1)[0]
    with pytest.raises(ReportError, match="line 3001: the file has no trailer"):
        await take(pool, "humo", cut)
    assert await broken(pool) == []
    assert await posted(pool) == before
    assert await pool.fetchval("SELECT count(*) FROM reconciliation_imports") == 1
    assert not (await take(pool, "humo", good)).is_new


async def test_two_imports_at_once_are_one_after_the_other(pool: asyncpg.Pool) -> None:
    """The same report twice at the same moment is imported once."""
    (one,) = await make(pool, "humo", noon_ms(DAY))
    file = humo_file(DAY, [humo_row(DAY, one.attempt, 1_000)])
    both = await asyncio.gather(take(pool, "humo", file), take(pool, "humo", file))
    assert sorted(imported.is_new for imported in both) == [False, True]
    assert (await posted(pool))["settlement:humo"] == 1_000


async def test_a_hundred_thousand_lines_in_seconds(pool: asyncpg.Pool) -> None:
    """Read, matched and settled; a few of them are broken, and are found."""
    made = await make(pool, "visa", noon_ms(DAY), count=100_000)
    rows = [visa_row(DAY, one.rrn, 1_000) for one in made[:-10]]
    rows[5] = visa_row(DAY, made[5].rrn, 1_001)
    rows += [visa_row(DAY, made[7].rrn, 1_000), visa_row(DAY, "ABCDEF123456", 1_000)]
    file = visa_file(rows)
    started = time.monotonic()
    await take(pool, "visa", file)
    elapsed_s = time.monotonic() - started
    kinds = [kind for kind, _ in await broken(pool)]
    assert kinds == ["amount", "duplicate", "missing_here"] + ["missing_there"] * 10
    assert (await posted(pool))["processor:visa"] == -1_000 * (100_000 - 11)
    assert elapsed_s < 30, elapsed_s
