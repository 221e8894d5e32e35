"""What must hold after a run, whatever its speed: a run that breaks one of these has none.

It only reads, and compares three tellers of the same story: the generator's answers, our database,
the processor's own ledger.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import aiohttp

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
LEFT JOIN payments USING (id) WHERE payments.id IS NULL
"""
OURS = """
SELECT count(*) AS payments, coalesce(sum(total_debit - amount_refunded), 0)::bigint AS amount
FROM payments WHERE operation = 'purchase' AND scheme = $1 AND status = 'succeeded'
"""
UNPOSTED = """
SELECT count(*) FROM payments WHERE status = 'succeeded'
AND NOT EXISTS (SELECT FROM postings WHERE entry_id = payments.id)
AND NOT is_manual_capture
"""


async def broken(
    connection: Any,
    http: aiohttp.ClientSession,
    *,
    scheme: str,
    simulator: str,
    ids_file: Path,
) -> list[str]:
    """Return what does not hold, in sentences; none is the only good answer.

    Args:
        simulator: control URL of the scheme's simulator.
        ids_file: every payment that an answer named, one a line.
    """
    found = []
    still_open = await _until_settled(connection)
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
    ours = await connection.fetchrow(OURS, scheme)
    theirs = await _theirs(http, simulator)
    if (ours["payments"], ours["amount"]) != theirs:
        found.append(
            f"{scheme} holds {theirs[0]} purchases of {theirs[1]} in all, "
            f"we hold {ours['payments']} of {ours['amount']}"
        )
    return found


async def _until_settled(connection: Any) -> int:
    """Wait until no payment is open, or time is up; returns how many are."""
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        still_open: int = await connection.fetchval(OPEN)
        if still_open == 0 or time.monotonic() > deadline:
            return still_open
        await asyncio.sleep(POLL_S)


async def _missing(connection: Any, ids_file: Path) -> int:
    async with connection.transaction():
        await connection.execute(TOLD)
        # One column of ids is valid COPY text as it is.
        await connection.copy_to_table("told", source=ids_file)
        count: int = await connection.fetchval(MISSING)
        return count


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
