"""Exchange rates of the central bank: soums per `nominal` units of a currency, by date.

A rate once stored is never changed: what was decided by it must be found again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any

import asyncpg
import msgspec

from gateway.core import RuleSet
from gateway.kernel import audit
from gateway.kernel.clock import Clock, system_clock
from gateway.kernel.db import pool as pools
from gateway.rules import store
from gateway.rules.drafts import compiled

_FILE_BYTES_MAX = 16 * 1024 * 1024

Currency = Annotated[str, msgspec.Meta(pattern="^[A-Z]{3}$")]
Decimal = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,12}(\.[0-9]{1,6})?$")]


class RatesError(Exception):
    """A file of rates that cannot be used; the text names the place and what is wrong."""


class Rate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One rate, as the document of rules has it."""

    currency: Currency
    date: date
    rate: Decimal
    nominal: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class _Published(msgspec.Struct):
    """One rate as the central bank publishes it; it says more than is read."""

    Ccy: Currency
    Nominal: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,7}$")]
    Rate: Decimal
    Date: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{2}\.[0-9]{2}\.[0-9]{4}$")]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did.

    Args:
        generation: the one it made; None when every rate was there already.
    """

    generation: int | None
    added: int
    known: int


def read_published(text: bytes) -> list[Rate]:
    """Return the rates of a file of the central bank. Raises RatesError."""
    if len(text) > _FILE_BYTES_MAX:
        raise RatesError("the file is larger than 16 MiB")
    try:
        rows = msgspec.json.decode(text, type=list[_Published])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RatesError(f"not the central bank's form: {error}") from None
    rates: dict[tuple[str, date], Rate] = {}
    for place, row in enumerate(rows):
        try:
            day = datetime.strptime(row.Date, "%d.%m.%Y").date()
        except ValueError:
            raise RatesError(f"row {place}: there is no such date") from None
        rate = Rate(row.Ccy, day, row.Rate, int(row.Nominal))
        if rates.setdefault((rate.currency, day), rate) != rate:
            raise RatesError(f"row {place}: another rate of the same currency and date")
    if not rates:
        raise RatesError("the file holds no rates")
    return list(rates.values())


async def import_rates(pool: asyncpg.Pool, text: bytes, *, clock: Clock, actor: str) -> Imported:
    """Store the rates of a file of the central bank as a new generation; workers follow by it.

    Args:
        text: JSON as the central bank publishes it: `[{"Ccy", "Nominal", "Rate", "Date"}, ...]`.
        actor: who imports, for the audit log.

    Raises:
        RatesError: the file cannot be used, or contradicts a stored rate. Nothing is stored.
    """
    rates = read_published(text)
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute(store.LOCK)
        newest = await store.newest(connection)
        if newest == 0:
            raise RatesError("there are no rules yet: start the gateway once")
        fresh = await _fresh(connection, rates)
        if not fresh:
            return Imported(None, 0, len(rates))
        at_ms = clock()
        before = await store.read_generation(connection, newest)
        read = await compiled(before.entries, [*before.rates, *as_document(fresh)])
        if not isinstance(read, RuleSet):
            raise RatesError("; ".join(f"{pointer}: {detail}" for pointer, detail in read))
        seq = await store.add_generation(
            connection,
            at_ms=at_ms,
            actor=actor,
            proposal_id=None,
            before=before.entries,
            after=before.entries,
        )
        await add_rates(connection, fresh, seq)
        await audit.record(
            connection,
            at_ms=at_ms,
            actor=actor,
            action="rates.import",
            object=f"generation:{seq}",
            detail={
                "added": len(fresh),
                "currencies": sorted({rate.currency for rate in fresh}),
                "dates": sorted({rate.date.isoformat() for rate in fresh}),
            },
        )
    return Imported(seq, len(fresh), len(rates) - len(fresh))


async def import_file(database_url: str, text: bytes, *, actor: str) -> Imported:
    """Import a file into a database of one's own connection; see `import_rates`."""
    pool = await pools.create(database_url, size_max=1, command_timeout_s=60.0)
    try:
        return await import_rates(pool, text, clock=system_clock, actor=actor)
    finally:
        await pool.close()


def as_document(rates: Sequence[Rate]) -> list[dict[str, Any]]:
    """Return rates as the document of rules has them."""
    rows: list[dict[str, Any]] = msgspec.to_builtins(rates)
    return rows


async def _fresh(connection: Any, rates: Sequence[Rate]) -> list[Rate]:
    """Return the rates that are not stored yet. Raises RatesError for one stored otherwise."""
    rows = await connection.fetch(
        store.GET_RATES_OF, [rate.currency for rate in rates], [rate.date for rate in rates]
    )
    stored = {(row["currency"], row["date"]): Rate(**dict(row)) for row in rows}
    for rate in rates:
        known = stored.get((rate.currency, rate.date))
        if known is not None and known != rate:
            told = f"{rate.currency} of {rate.date} is stored as {known.rate} per {known.nominal}"
            raise RatesError(f"{told}; a stored rate is not changed")
    return [rate for rate in rates if (rate.currency, rate.date) not in stored]


async def add_rates(connection: Any, rates: Sequence[Rate], seq: int) -> None:
    """Write rates as of a generation, in the transaction that makes it."""
    rows = [(rate.currency, rate.date, rate.rate, rate.nominal, seq) for rate in rates]
    await connection.executemany(store.ADD_RATE, rows)
