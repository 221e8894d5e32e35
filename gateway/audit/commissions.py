"""Every stored commission, computed again by the oracle: `oqim audit commissions`.

The core computed each line when the payment was admitted or captured, and stored it with the exact
value. Here a second implementation, which shares no code with the core, computes it again from the
version of the plan that the payment names, and every difference is told, down to one minor unit.

Reads only, in batches by key, each a snapshot of its own: payments go on meanwhile. What is made
after the audit began is left to the next one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import asyncpg

from gateway.kernel.db.pool import CONNECTION_LOST
from gateway.kernel.progress import Counter
from gateway.oracle.commission import Commission, Line, commission_on, returned_by_refunds

BATCH_SIZE_MAX = 1000
CONNECT_TIMEOUT_S = 10.0

EXIT_MATCHED, EXIT_DIFFERENT, EXIT_UNREADABLE = 0, 1, 2

Plans = Mapping[tuple[str, int], Mapping[str, Any]]
"""The JSON of every plan there ever was, by id and version."""


class AuditError(Exception):
    """The audit cannot be made; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing about a payment that is stored otherwise than it is computed.

    Attributes:
        line: the line's number from 1 and its names, or the stored column.
        stored: as it is stored; empty when it is not.
        recomputed: as it should be; empty when it should not be there.
    """

    payment_id: str
    line: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        return (
            f"{self.payment_id}  {self.line}: "
            f"stored {self.stored or 'nothing'}, recomputed {self.recomputed or 'nothing'}"
        )


@dataclass(slots=True)
class Report:
    """How many payments were there, how many matched, and how many differences there are."""

    total: int = 0
    matched: int = 0
    differences: int = 0

    def __str__(self) -> str:
        return (
            f"commissions: {self.matched} of {self.total} payments matched, "
            f"{self.differences} difference(s)"
        )


def audit_commissions(database_url: str, *, rules_file: Path | None = None) -> int:
    """Audit a database and tell it: progress on standard error, differences on standard output.

    Args:
        rules_file: JSON with `commission_plans`, used instead of the plans in the database.

    Returns:
        The exit status: 0 when everything matched, 1 when something did not, 2 when the audit
        could not be made.
    """
    counter = Counter("payments", sys.stderr)
    try:
        with counter:
            report = asyncio.run(
                audit(
                    database_url,
                    plans=None if rules_file is None else read_plans(rules_file),
                    tell=lambda difference: counter.print(str(difference)),
                    advance=counter.advance,
                )
            )
    except AuditError as error:
        print(f"oqim: {error}", file=sys.stderr)
        return EXIT_UNREADABLE
    print(report)
    return EXIT_DIFFERENT if report.differences else EXIT_MATCHED


def read_plans(file: Path) -> Plans:
    """Read the plans of a rules document.

    Raises:
        AuditError: it is not there, or not such a document.
    """
    try:
        document = json.loads(file.read_bytes())
        return {(plan["id"], plan["version"]): plan for plan in document["commission_plans"]}
    except OSError as error:
        raise AuditError(f"{file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise AuditError(
            f'{file} is not JSON with "commission_plans", each with an id and a version'
        ) from None


async def audit(
    database_url: str,
    *,
    plans: Plans | None = None,
    tell: Callable[[Difference], None],
    advance: Callable[[int, int], None],
) -> Report:
    """Recompute the commission of every payment that is stored now.

    Args:
        plans: used instead of those in the database.
        tell: called with every difference, in the order of the payments' ids.
        advance: called after every batch with how many payments are done, and of how many.

    Raises:
        AuditError: the database cannot be read.
    """
    async with _connected(database_url) as connection:
        if plans is None:
            plans = await _stored_plans(connection)
        report = Report()
        expected, last = await _extent(connection)
        async for batch in _payments(connection, last):
            for payment in batch:
                differences = list(differences_of(payment, plans))
                report.total += 1
                report.matched += not differences
                report.differences += len(differences)
                for difference in differences:
                    tell(difference)
            advance(report.total, max(expected, report.total))
    return report


def differences_of(payment: Mapping[str, Any], plans: Plans) -> Iterator[Difference]:
    """Recompute one payment's commission and compare everything that is stored of it.

    Args:
        payment: its row.
    """
    name, version = payment["commission_plan"], payment["commission_version"]
    plan = plans.get((name, version))
    if plan is None:
        plan_name = f"{name} version {version}"
        yield Difference(payment["id"], "plan", plan_name, "no such plan")
        return
    # Of a captured hold, what was captured; of what has not succeeded, what was asked for.
    commission = commission_on(plan, payment["amount_received"] or payment["amount_minor"])
    yield from _line_differences(payment, commission)
    for column, recomputed in (
        ("commission_payer", commission.payer),
        ("commission_total", commission.total),
        ("commission_vat", commission.vat_total),
        ("total_debit", commission.total_debit),
        ("total_credit", commission.total_credit),
    ):
        if payment[column] != recomputed:
            yield Difference(payment["id"], column, str(payment[column]), str(recomputed))
    split = [list(part) for part in commission.split.items()]
    if json.loads(payment["commission_split"]) != split:
        yield Difference(
            payment["id"], "commission_split", payment["commission_split"], json.dumps(split)
        )
    returned = _returned(payment, plan, commission)
    if returned is not None and payment["commission_returned"] != returned:
        stored = str(payment["commission_returned"])
        yield Difference(payment["id"], "commission_returned", stored, str(returned))


def _returned(
    payment: Mapping[str, Any], plan: Mapping[str, Any], commission: Commission
) -> int | None:
    """Return what refunds gave back of the commission, where that is certain.

    Before everything is refunded, it depends by a minor unit on the order in which refunds began,
    those among them that failed included.
    """
    captured, refunded = payment["amount_received"], payment["amount_refunded"]
    if 0 < refunded < captured:
        return None
    return returned_by_refunds(
        plan, total=commission.total, captured=captured or 1, refunded=refunded
    )


def _line_differences(payment: Mapping[str, Any], commission: Commission) -> Iterator[Difference]:
    stored = json.loads(payment["commission_lines"])
    if not isinstance(stored, list):
        stored = [stored]
    pairs = zip_longest(stored, commission.lines)
    for number, (one, line) in enumerate(pairs, start=1):
        other = None if line is None else _as_stored(line)
        if one != other:
            what = "" if line is None else f" ({line.component}, {line.kind})"
            yield Difference(payment["id"], f"line {number}{what}", _shown(one), _shown(other))


def _shown(line: object) -> str:
    return "" if line is None else json.dumps(line, ensure_ascii=False)


def _as_stored(line: Line) -> dict[str, Any]:
    return {
        "component": line.component,
        "kind": line.kind,
        "basis": line.basis,
        "exact": str(line.exact),
        "rounding": line.rounding,
        "amount": line.amount,
    }


@asynccontextmanager
async def _connected(database_url: str) -> AsyncIterator[Any]:
    try:
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_TIMEOUT_S,
            server_settings={
                "application_name": "oqim audit",
                "default_transaction_read_only": "on",
            },
        )
    except (*CONNECTION_LOST, asyncpg.PostgresError, ValueError) as error:
        raise AuditError(f"the database cannot be reached: {error}") from None
    try:
        yield connection
    except asyncpg.UndefinedTableError as error:
        raise AuditError(f"{error}; `oqim migrate` brings a database up to date") from None
    except CONNECTION_LOST as error:
        raise AuditError(f"the database went away: {error}") from None
    finally:
        await connection.close()


async def _stored_plans(connection: Any) -> Plans:
    rows = await connection.fetch("SELECT id, version, body FROM commission_plans")
    return {
        (row["id"], row["version"]): json.loads(row["body"])
        | {"id": row["id"], "version": row["version"]}
        for row in rows
    }


async def _extent(connection: Any) -> tuple[int, str]:
    row = await connection.fetchrow(
        "SELECT count(*) AS total, coalesce(max(id), '') AS last FROM payments"
    )
    return row["total"], row["last"]


async def _payments(connection: Any, last: str) -> AsyncIterator[list[Mapping[str, Any]]]:
    after = ""
    while batch := await connection.fetch(
        """
        SELECT id, amount_minor, amount_received, commission_plan, commission_version,
            commission_payer, commission_lines, commission_total, commission_vat,
            total_debit, total_credit, commission_split, commission_returned, amount_refunded
        FROM payments WHERE id > $1 AND id <= $2 ORDER BY id LIMIT $3
        """,
        after,
        last,
        BATCH_SIZE_MAX,
    ):
        yield batch
        after = batch[-1]["id"]
