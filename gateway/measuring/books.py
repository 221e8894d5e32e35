"""What must hold after a run, whatever its speed: a run that breaks one of these has none.

It only reads, and compares three tellers of the same story: the generator's answers, our database,
the processor's own ledger.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp

from gateway.measuring.config import CONNECTOR

SETTLED_WITHIN_S = 30.0
POLL_S = 0.1

OPEN = "SELECT count(*) FROM payments WHERE status = 'processing'"
UNBALANCED = """
SELECT count(*) FROM (
    SELECT entry_id FROM postings GROUP BY entry_id, currency HAVING sum(amount_minor) <> 0
) AS unbalanced
"""
TOTALS = "SELECT currency FROM postings GROUP BY currency HAVING sum(amount_minor) <> 0"
TOLD = 'CREATE TEMPORARY TABLE told (id text COLLATE "C") ON COMMIT DROP'
MISSING = """
SELECT count(*) FROM (SELECT DISTINCT id FROM told) AS told
LEFT JOIN {payments} AS payments USING (id) WHERE payments.id IS NULL
"""
OURS = """
SELECT count(*) AS payments, coalesce(sum(total_debit - amount_refunded), 0)::bigint AS amount
FROM payments WHERE operation = 'purchase' AND scheme = $1 AND status = 'succeeded'
"""
# The usual gateway's own books (loadtests/peers/), when it ran on this server.
USUAL_IS_THERE = "SELECT to_regclass('usual.payments') IS NOT NULL"
USUAL = """
SELECT count(*) AS payments, coalesce(sum(total_debit), 0)::bigint AS amount
FROM usual.payments WHERE scheme = $1 AND status = 'succeeded'
"""
USUAL_WRONG = (
    ("SELECT count(*) FROM usual.payments WHERE status = 'processing'", "payments are still open"),
    (
        """
        SELECT count(*) FROM (SELECT FROM usual.postings GROUP BY entry_id, currency
        HAVING sum(amount_minor) <> 0) AS unbalanced
        """,
        "journal entries do not sum to zero",
    ),
    (
        """
        SELECT count(*) FROM usual.payments WHERE status = 'succeeded'
        AND NOT EXISTS (SELECT FROM usual.postings WHERE entry_id = payments.id)
        """,
        "payments succeeded without postings",
    ),
    (
        """
        SELECT count(*) FROM (SELECT payment_id FROM usual.idempotency_keys GROUP BY payment_id
        HAVING count(*) > 1) AS shared
        """,
        "payments have more than one key",
    ),
    (
        """
        SELECT count(*) FROM (SELECT FROM usual.payments WHERE status <> 'failed'
        GROUP BY source_card_id, (created_at AT TIME ZONE 'Asia/Tashkent')::date
        HAVING sum(amount_minor) > 5000000000000) AS over
        """,
        "cards are over the limit of a day",
    ),
)
# Of a scheme whose processor is in the gateway itself there is no other ledger: what was answered,
# what is written and what is posted must agree among themselves.
UNTOLD = """
SELECT count(*) FROM payments WHERE scheme = $1 AND status = 'succeeded'
AND NOT EXISTS (SELECT FROM told WHERE told.id = payments.id)
"""
OWED = """
SELECT coalesce(sum(amount_minor), 0)::bigint FROM postings
WHERE account = 'processor:' || $1 AND EXISTS (
    SELECT FROM payments WHERE payments.id = entry_id AND scheme = $2
)
"""
UNPOSTED = """
SELECT count(*) FROM payments WHERE status = 'succeeded'
AND NOT EXISTS (SELECT FROM entries WHERE entry_id = payments.id)
AND NOT is_manual_capture
"""


async def broken(
    connection: Any,
    http: aiohttp.ClientSession,
    *,
    simulators: Mapping[str, str | None],
    ids_file: Path,
) -> list[str]:
    """Return what does not hold, in sentences; none is the only good answer.

    Args:
        simulators: for each scheme the control URL of its simulator; None: the immediate connector.
        ids_file: every payment that an answer named, one a line.
    """
    found = []
    still_open = await until_settled(connection, SETTLED_WITHIN_S)
    if still_open:
        found.append(f"{still_open} payments are still processing")
    if count := await connection.fetchval(UNBALANCED):
        found.append(f"{count} journal entries do not sum to zero")
    found.extend(
        f"the postings in {row['currency']} do not sum to zero"
        for row in await connection.fetch(TOTALS)
    )
    if count := await connection.fetchval(UNPOSTED):
        found.append(f"{count} payments succeeded without postings")
    if count := await _missing(connection, ids_file):
        found.append(f"{count} payments were answered and are not in the database")
    for scheme, simulator in simulators.items():
        if simulator is None:
            found += await _alone(connection, scheme, ids_file)
        else:
            found += await _compared(connection, http, scheme, simulator)
    return found


async def _compared(
    connection: Any, http: aiohttp.ClientSession, scheme: str, simulator: str
) -> list[str]:
    """Compare a scheme with the ledger of its processor."""
    ours = await connection.fetchrow(OURS, scheme)
    payments, amount = ours["payments"], ours["amount"]
    if await connection.fetchval(USUAL_IS_THERE):
        # Its payments are in the processor's ledger as well.
        usual = await connection.fetchrow(USUAL, scheme)
        payments, amount = payments + usual["payments"], amount + usual["amount"]
    theirs = await _theirs(http, simulator)
    if (payments, amount) == theirs:
        return []
    return [
        f"{scheme} holds {theirs[0]} purchases of {theirs[1]} in all, "
        f"we hold {payments} of {amount}"
    ]


async def _alone(connection: Any, scheme: str, ids_file: Path) -> list[str]:
    """Compare a scheme without a processor with what was answered and with our postings."""
    found = []
    async with connection.transaction():
        await _read_told(connection, ids_file)
        if count := await connection.fetchval(UNTOLD, scheme):
            found.append(f"{count} payments over {scheme} were made and told to nobody")
    ours = await connection.fetchrow(OURS, scheme)
    if (owed := await connection.fetchval(OWED, CONNECTOR, scheme)) != ours["amount"]:
        found.append(f"{scheme} took {ours['amount']} in all, {owed} are posted")
    return found


async def usual_broken(connection: Any, ids_file: Path) -> list[str]:
    """Return what of the usual gateway's books does not hold; the processor's are `broken`'s.

    Args:
        ids_file: every payment that an answer of it named, one a line.
    """
    found = [
        f"the usual way: {count} {what}"
        for statement, what in USUAL_WRONG
        if (count := await connection.fetchval(statement))
    ]
    if count := await _missing(connection, ids_file, "usual.payments"):
        found.append(f"the usual way: {count} payments were answered and are nowhere")
    return found


async def until_settled(
    connection: Any, within_s: float, on_look: Callable[[int], None] | None = None
) -> int:
    """Wait until no payment is open, or time is up; returns how many are.

    Args:
        on_look: is told at each look how many are.
    """
    deadline = time.monotonic() + within_s
    while True:
        still_open: int = await connection.fetchval(OPEN)
        if on_look is not None:
            on_look(still_open)
        if still_open == 0 or time.monotonic() > deadline:
            return still_open
        await asyncio.sleep(POLL_S)


async def _missing(connection: Any, ids_file: Path, payments: str = "payments") -> int:
    async with connection.transaction():
        await _read_told(connection, ids_file)
        count: int = await connection.fetchval(MISSING.format(payments=payments))
        return count


async def _read_told(connection: Any, ids_file: Path) -> None:
    """Make a table of the ids that were answered, which goes with the transaction."""
    await connection.execute(TOLD)
    # One column of ids is valid COPY text as it is.
    await connection.copy_to_table("told", source=ids_file)
    # What is known of the payments may be old, and any plan must do.
    await connection.execute("CREATE INDEX ON told (id)")
    await connection.execute("ANALYZE told")


async def _theirs(http: aiohttp.ClientSession, simulator: str) -> tuple[int, int]:
    """Return how many purchases the processor carried out, and what it took for them."""
    async with http.get(f"{simulator}/_sim/ledger") as answer:
        entries = await answer.json()
    taken = [
        entry.get("captured_amount", entry["amount"]) - entry.get("refunded_amount", 0)
        for entry in entries
        if entry["kind"] == "purchase" and entry["state"] in ("approved", "captured", "refunded")
    ]
    return len(taken), sum(taken)
