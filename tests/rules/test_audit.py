"""The audit of commissions, over a real database: what the core stored, a tiyin off is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gateway import settings as settings_module
from gateway.audit import commissions as auditing
from gateway.core import Commission, Core, RuleSet, read_rules
from tests.house import House, new_key
from tests.rules.deciders import Json, plan, rules
from tests.services import MIGRATED, Services, fresh_database

PRICED = plan(
    {"name": "bank", "kind": "percent", "percent": "0.75", "vat_percent": "12", "max": 400},
    {"name": "processor", "kind": "fixed", "amount": 7},
    {
        "name": "volume",
        "kind": "tiered",
        "mode": "graduated",
        "rounding": "half_even",
        "tiers": [
            {"up_to": 1000, "percent": "1.5", "fixed": 3},
            {"up_to": None, "percent": "0.5", "fixed": 0},
        ],
    },
    split=[{"party": "bank", "share": "70"}, {"party": "partner", "share": "30"}],
    on_refund="proportional",
)
# The same plan one version on, with another percent.
DEARER = PRICED | {
    "version": 2,
    "components": [PRICED["components"][0] | {"percent": "0.8"}, *PRICED["components"][1:]],
}
AMOUNT = 12_345


@pytest.fixture
async def database(services: Services) -> AsyncIterator[str]:
    """A migrated database that knows the two versions of the plan."""
    async with fresh_database(services, template=MIGRATED) as url:
        await _run(url, "INSERT INTO rule_generations VALUES (1, now(), 'test', NULL)")
        for body in (PRICED, DEARER):
            await _run(
                url,
                "INSERT INTO commission_plans VALUES ($1, $2, $3, 1, now())",
                body["id"],
                body["version"],
                json.dumps(body),
            )
        yield url


async def _run(url: str, statement: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


def _core(body: Json) -> Core:
    settings = settings_module.load()
    compiled = read_rules(json.dumps(rules(plans=[body])).encode())
    assert isinstance(compiled, RuleSet), compiled
    return Core(
        rules=compiled,
        generation=1,
        routing=settings.routing,
        issuer="https://oqim.test",
        audience="test",
        lookup_key=bytes(32),
        quote_key=bytes(32),
        quote_ttl_ms=1,
        feed_age_ms_max=1,
        token_cache_size_max=1,
        card_cache_size_max=1,
        subject_cache_size_max=1,
    )


def _commission(body: Json, amount: int) -> Commission:
    commission = _core(body).commission(body["id"], body["version"], amount)
    assert isinstance(commission, Commission), commission
    return commission


async def _store(
    url: str,
    name: str,
    *,
    body: Json = PRICED,
    captured: int = 0,
    refunded: int = 0,
) -> None:
    """Store a payment as the gateway does: with what the core computes of what counts."""
    commission = _commission(body, captured or AMOUNT)
    returned = _core(body).commission_returned(
        body["id"], body["version"], commission.total, captured or AMOUNT, refunded
    )
    await _run(
        url,
        """
        INSERT INTO payments (
            id, created_at, owner, client_id, operation, scheme, amount_minor, currency,
            is_manual_capture, commission_payer, commission_plan, commission_version, legs,
            details, record, version, status, commission_lines, commission_split,
            commission_total, commission_vat, total_debit, total_credit, amount_received,
            amount_refunding, amount_refunded, commission_returned)
        VALUES ($1, now(), 'usr_1', 'app', 'purchase', 'humo', $2, 'UZS', true, $3, $4, $5, '[]',
            '{}', '', 1, 'succeeded', $6, $7, $8, $9, $10, $11, $12, $13, $13, $14)
        """,
        name,
        AMOUNT,
        commission.payer,
        commission.plan,
        commission.version,
        commission.lines,
        json.dumps(commission.split),
        commission.total,
        commission.vat_total,
        commission.total_debit,
        commission.total_credit,
        captured,
        refunded,
        returned,
    )


async def _audit(
    url: str, plans: auditing.Plans | None = None
) -> tuple[auditing.Report, list[auditing.Difference]]:
    found: list[auditing.Difference] = []
    steps: list[tuple[int, int]] = []
    report = await auditing.audit(
        url,
        plans=plans,
        tell=found.append,
        advance=lambda done, total: steps.append((done, total)),
    )
    assert report.total == (steps[-1][0] if steps else 0)
    assert report.differences == len(found)
    return report, found


async def test_what_the_core_stored_matches(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both versions of a plan, holds captured in part, refunds; over several batches."""
    monkeypatch.setattr(auditing, "BATCH_SIZE_MAX", 2)
    await _store(database, "pay_1")
    await _store(database, "pay_2", body=DEARER)
    await _store(database, "pay_3", captured=10_001)
    await _store(database, "pay_4", captured=10_001, refunded=3333)
    await _store(database, "pay_5", captured=10_001, refunded=10_001)
    assert await _audit(database) == (auditing.Report(total=5, matched=5), [])


async def test_nothing_stored_matches(database: str) -> None:
    assert await _audit(database) == (auditing.Report(), [])


async def test_one_tiyin_off_is_found(database: str) -> None:
    """In one line of one of three payments: both are shown, and the others match."""
    for name in ("pay_1", "pay_2", "pay_3"):
        await _store(database, name)
    lines = await _stored(database, "SELECT commission_lines FROM payments WHERE id = 'pay_2'")
    wrong = json.loads(lines)
    wrong[3]["amount"] += 1
    await _run(
        database,
        "UPDATE payments SET commission_lines = $1 WHERE id = 'pay_2'",
        json.dumps(wrong),
    )
    report, (difference,) = await _audit(database)
    assert (report.total, report.matched) == (3, 2)
    assert (difference.payment_id, difference.line) == ("pay_2", "line 4 (volume, tiered)")
    assert json.loads(difference.stored) == wrong[3]
    assert json.loads(difference.recomputed) == json.loads(lines)[3]


async def _stored(url: str, statement: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


# One payment --------------------------------------------------------------------------------

PLANS = {("plan", 1): PRICED, ("plan", 2): DEARER}


@pytest.fixture
def row() -> dict[str, Any]:
    """A payment's row, as it should be."""
    commission = _commission(PRICED, AMOUNT)
    return {
        "id": "pay_1",
        "amount_minor": AMOUNT,
        "amount_received": 0,
        "amount_refunded": 0,
        "commission_plan": commission.plan,
        "commission_version": commission.version,
        "commission_payer": commission.payer,
        "commission_lines": commission.lines,
        "commission_split": json.dumps(commission.split),
        "commission_total": commission.total,
        "commission_vat": commission.vat_total,
        "commission_returned": 0,
        "total_debit": commission.total_debit,
        "total_credit": commission.total_credit,
    }


def _found(row: dict[str, Any]) -> list[str]:
    return [difference.line for difference in auditing.differences_of(row, PLANS)]


@pytest.mark.parametrize(
    ("column", "change", "line"),
    [
        ("commission_total", 1, "commission_total"),
        ("commission_vat", -1, "commission_vat"),
        ("commission_payer", "bank", "commission_payer"),
        ("total_debit", -1, "total_debit"),
        ("total_credit", 1, "total_credit"),
        ("commission_split", '[["bank", 1]]', "commission_split"),
        ("commission_returned", 1, "commission_returned"),
        ("commission_version", 1, "line 1 (bank, percent)"),
        ("commission_version", 6, "plan"),
        ("commission_plan", "gone", "plan"),
    ],
)
def test_every_column_is_compared(
    row: dict[str, Any], column: str, change: int | str, line: str
) -> None:
    assert _found(row) == []
    row[column] = row[column] + change if isinstance(change, int) else change
    assert _found(row)[0] == line


@pytest.mark.parametrize("number", range(4))
@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("amount", 1),
        ("basis", -1),
        ("exact", "1/7"),
        ("rounding", "down"),
        ("kind", "gift"),
        ("component", "other"),
    ],
)
def test_every_member_of_a_line_is_compared(
    row: dict[str, Any], number: int, member: str, change: int | str
) -> None:
    lines = json.loads(row["commission_lines"])
    right = dict(lines[number])
    lines[number][member] = right[member] + change if isinstance(change, int) else change
    row["commission_lines"] = json.dumps(lines)
    assert [f"line {number + 1} ({right['component']}, {right['kind']})"] == _found(row)


@pytest.mark.parametrize("lines", ["[]", "{}", "null", '["", 1, {}]'])
def test_lines_that_are_none_are_found(row: dict[str, Any], lines: str) -> None:
    """Whatever stands there instead, each line that is missing is told."""
    assert len(_found(row | {"commission_lines": lines})) == 4


def test_a_line_too_many_is_found(row: dict[str, Any]) -> None:
    lines = json.loads(row["commission_lines"])
    row["commission_lines"] = json.dumps([*lines, lines[0]])
    assert _found(row) == ["line 5"]


@pytest.mark.parametrize(
    ("refunded", "returned", "is_right"),
    [(0, 0, True), (0, 1, False), (AMOUNT, 186, True), (AMOUNT, 185, False)],
)
def test_what_refunds_gave_back_is_compared(
    row: dict[str, Any], refunded: int, returned: int, is_right: bool
) -> None:
    """Once everything is refunded, the whole commission is given back, and before, nothing."""
    row |= {"amount_received": AMOUNT, "amount_refunded": refunded}
    found = _found(row | {"commission_returned": returned})
    assert found == ([] if is_right else ["commission_returned"])


# The command --------------------------------------------------------------------------------


async def test_the_command_tells_a_difference_and_its_status(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 when all match; 1 with the payment, the line, both values and the count when not."""
    await _store(database, "pay_1")
    await _store(database, "pay_2")
    assert await asyncio.to_thread(auditing.audit_commissions, database) == 0
    assert capsys.readouterr().out == "commissions: 2 of 2 payments matched, 0 difference(s)\n"
    await _run(database, "UPDATE payments SET total_debit = total_debit + 1 WHERE id = 'pay_2'")
    assert await asyncio.to_thread(auditing.audit_commissions, database) == 1
    assert capsys.readouterr().out == (
        "pay_2  total_debit: stored 12532, recomputed 12531\n"
        "commissions: 1 of 2 payments matched, 1 difference(s)\n"
    )


async def test_the_command_takes_plans_from_a_file(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They stand in for the database's, with which the payment would match."""
    await _store(database, "pay_1")
    file = tmp_path / "rules.json"
    file.write_text(json.dumps(rules(plans=[DEARER | {"version": 1}])))
    status = await asyncio.to_thread(auditing.audit_commissions, database, rules_file=file)
    assert status == 1
    assert "line 1 (bank, percent)" in capsys.readouterr().out


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"commission_plans": [{"id": "plan"}]}'])
def test_a_file_that_is_no_rules_is_told(
    text: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 2, and no database is asked."""
    file = tmp_path / "rules.json"
    if text is not None:
        file.write_text(text)
    assert auditing.audit_commissions("postgresql://nobody@127.0.0.1:1/x", rules_file=file) == 2
    assert str(file) in capsys.readouterr().err


async def test_a_database_that_cannot_be_read_is_told(
    services: Services, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is not there, and one that was never migrated: status 2 and why."""
    status = await asyncio.to_thread(
        auditing.audit_commissions, "postgresql://nobody@127.0.0.1:1/x"
    )
    assert status == 2
    assert "cannot be reached" in capsys.readouterr().err
    async with fresh_database(services) as empty:
        assert await asyncio.to_thread(auditing.audit_commissions, empty) == 2
    assert "oqim migrate" in capsys.readouterr().err


# What really was paid -----------------------------------------------------------------------


async def test_what_was_paid_through_the_door_matches(house: House) -> None:
    """Every payment of the running house, of this test and of others: holds and refunds too."""
    token = await house.merchant_token()
    names = []
    for scheme in ("uzcard", "humo", "visa"):
        body = house.purchase(7, scheme, 1_234_567, capture="manual")
        held = await house.pay(7, body)
        assert held.status == 201, held.raw
        names.append(held.body["id"])
        path = f"/v1/payments/{held.body['id']}"
        reply = await house.call(
            "POST", f"{path}/capture", {"amount": 765_433}, token=token, key=new_key()
        )
        assert reply.status == 200, reply.raw
    report, found = await _audit(house.description["database_url"])
    assert found == []
    assert report.matched == report.total >= len(names)
