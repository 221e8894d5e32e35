"""What two people had proposed before there was one mechanism is kept by it, and given back."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from gateway.kernel.db import migrate
from tests.services import Services, fresh_database

BEFORE = """
INSERT INTO operators (id, name, roles) VALUES ('opr_a', 'A', '{viewer}'), ('opr_b', 'B', '{}');
INSERT INTO operator_proposals VALUES
    ('prp_1', 'opr_a', '{risk}', false, 'moves', 'proposed', 'opr_b', now(), NULL, NULL),
    ('prp_2', 'opr_a', '{viewer}', false, 'new', 'active', 'opr_b', now(), 'opr_c', now()),
    ('prp_3', 'opr_b', '{risk}', true, 'no', 'rejected', 'opr_a', now(), 'opr_a', now());
INSERT INTO rule_generations (seq, created_at, actor) VALUES (1, now(), 'files');
INSERT INTO rule_proposals (id, kind, action, target_id, body, effective_from, based_on_version,
    based_on_generation, warnings, status, proposed_by, proposed_at, decided_by, decided_at, reason,
    generation, version)
VALUES
    ('prp_4', 'plan', 'put', 'p', '{"id": "p", "priority": 1}', '2999-01-01T00:00:00.123Z', NULL, 0,
        '{careful}', 'proposed', 'opr_a', now(), NULL, NULL, NULL, NULL, NULL),
    ('prp_5', 'policy', 'delete', 'q', NULL, '2026-01-01T00:00:00Z', 3, 1, '{}', 'approved',
        'opr_a', now(), 'opr_b', now(), NULL, 1, NULL),
    ('prp_6', 'policy', 'put', 'q', '{"id": "q"}', NULL, 3, 1, '{}', 'withdrawn', 'opr_a', now(),
        'opr_a', now(), 'no more', NULL, NULL);
INSERT INTO simulations (id, proposal_id, draft, from_at, to_at, status, started_by, created_at)
VALUES ('sim_1', 'prp_4', '{}', now(), now(), 'done', 'opr_a', now());
INSERT INTO reconciliation_breaks (id, connector, business_day, kind, name, side, status, action,
    note, postings, proposed_by, proposed_at, decided_by, decided_at, entry_id)
VALUES
    ('brk_000000000001', 'humo', '2026-11-01', 'amount', 'a', 'payment', 'open', NULL, NULL, NULL,
        NULL, NULL, NULL, NULL, NULL),
    ('brk_000000000002', 'humo', '2026-11-01', 'amount', 'b', 'payment', 'proposed', 'accept',
        'known', '[]', 'opr_a', now(), NULL, NULL, NULL),
    ('brk_000000000003', 'humo', '2026-11-01', 'amount', 'c', 'payment', 'posted', 'post', 'paid',
        '[{"account": "x:y", "amount": 1, "currency": "UZS"}]', 'opr_a', now(), 'opr_b', now(),
        'adj_000000000003');
INSERT INTO payments (id, created_at, owner, client_id, operation, scheme, amount_minor, currency,
    is_manual_capture, commission_payer, commission_plan, commission_version, legs, record, details,
    commission_lines, version, status, total_debit, total_credit, commission_total, commission_vat)
VALUES ('pay_1', now(), 'usr_1', 'mobile', 'purchase', 'visa', 1, 'UZS', false, 'sender', 'p', 1,
    '[]', '', '{}', '[]', 1, 'processing', 1, 1, 0, 0);
INSERT INTO attempts (id, payment_id, leg, connector, kind, state, sequence, created_at_ms, worker)
VALUES ('att_1', 'pay_1', 1, 'visa', 'purchase', 'unknown', 1, 1, 1);
INSERT INTO reviews (id, payment_id, kind, subject_id, reason, status, outcome, note, proposed_by,
    proposed_at, decided_by, decided_at)
VALUES
    ('rev_11', 'pay_1', 'attempt', 'att_1', 'old', 'proposed', 'declined', 'said so', 'opr_a',
        now(), NULL, NULL),
    ('rev_12', 'pay_1', 'conflict', '7', 'odd', 'settled', 'noted', 'seen', 'opr_a', now(), 'opr_b',
        now()),
    ('rev_13', 'pay_1', 'conflict', '8', 'odd', 'open', NULL, NULL, NULL, NULL, NULL, NULL);
"""
TABLES = ("operator_proposals", "rule_proposals", "reviews", "reconciliation_breaks", "simulations")


async def _everything(connection: Any) -> dict[str, list[dict[str, Any]]]:
    found = {}
    for table in TABLES:
        rows = await connection.fetch(f"SELECT * FROM {table} ORDER BY id")
        found[table] = [dict(row) for row in rows]
    return found


async def _roll_back_to_before(url: str) -> None:
    """Undo migrations until there are no proposals of all kinds."""
    connection = await asyncpg.connect(url)
    try:
        while await connection.fetchval("SELECT to_regclass('proposals') IS NOT NULL"):
            assert await asyncio.to_thread(migrate.roll_back, url, lambda _: None) == 1
    finally:
        await connection.close()


async def test_what_was_proposed_before_goes_on(services: Services) -> None:
    """Forward, each under its kind with its version; and back, as it was."""
    async with fresh_database(services) as url:
        await asyncio.to_thread(migrate.apply, url, lambda _: None)
        await _roll_back_to_before(url)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(BEFORE)
            before = await _everything(connection)
            await asyncio.to_thread(migrate.apply, url, lambda _: None)
            rows = await connection.fetch(
                "SELECT kind, subject, status, base_version, proposal_status(p, now()) AS shown"
                " FROM proposals p ORDER BY kind, id"
            )
            assert [tuple(row)[:3] for row in rows] == [
                ("break", "brk_000000000002", "proposed"),
                ("break", "brk_000000000003", "approved"),
                ("plan", "p", "proposed"),
                ("policy", "q", "approved"),
                ("policy", "q", "withdrawn"),
                ("review", "rev_11", "proposed"),
                ("review", "rev_12", "approved"),
                ("roles", "opr_a", "proposed"),
                ("roles", "opr_a", "approved"),
                ("roles", "opr_b", "rejected"),
            ]
            versions = {row["subject"]: row["base_version"] for row in rows}
            assert (versions["p"], versions["rev_11"]) == ("0", "unknown")
            assert {row["base_version"] for row in rows if row["subject"] == "opr_a"} == {
                "viewer|false"
            }
            assert [row["shown"] for row in rows if row["kind"] == "policy"] == [
                "active",
                "withdrawn",
            ]
            moved = await connection.fetch("SELECT * FROM rule_proposals ORDER BY id")
            for old, new in zip(before["rule_proposals"], moved, strict=True):
                assert old == dict(new)
            await connection.close()
            await _roll_back_to_before(url)
            connection = await asyncpg.connect(url)
            assert await _everything(connection) == before
        finally:
            await connection.close()
