"""The audit log as one file: `oqim audit export`. What it holds is checked without a database.

One JSON object a line. `header` with the signer's public key; then of every chain its `record`s in
order, each decision's `document` behind the record that tells of it; then the `root`s. Reads one
snapshot: what is written meanwhile is for the next export.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import IO, Any

import asyncpg
import msgspec

from gateway.kernel.audit.chain import payment_document, refusal_document, waiting_document
from gateway.kernel.audit.roots import ACTS, ROOTS

BATCH_SIZE_MAX = 500

_COUNT = """
SELECT (SELECT count(*) FROM audit_log WHERE seq IS NOT NULL)
    + (SELECT count(*) FROM decision_log) + (SELECT count(*) FROM audit_roots)
"""
_ACTS = """
SELECT seq, record, hash, at, actor, action, object, detail FROM audit_log
WHERE seq > $1 ORDER BY seq LIMIT $2
"""
_DECISIONS = """
SELECT shard, seq, record, hash FROM decision_log
WHERE (shard, seq) > ($1, $2) ORDER BY shard, seq LIMIT $3
"""
_ROOTS = "SELECT seq, record, hash, signature FROM audit_roots WHERE seq > $1 ORDER BY seq LIMIT $2"
_PAYMENTS = """
SELECT id, owner, client_id, operation, scheme, amount_minor, currency, source_card_id,
    destination_card_id, merchant_id, record
FROM payments WHERE id = ANY($1::text[])
"""
# What was decided before a payment was confirmed, which decides it anew.
_WAITING = """
SELECT s.decision_id, s.payment_id, s.record, p.owner, p.amount_minor, p.currency, p.merchant_id
FROM step_ups s JOIN payments p ON p.id = s.payment_id WHERE s.decision_id = ANY($1::text[])
"""
_REFUSALS = "SELECT id, owner, merchant_id, code, record FROM refusals WHERE id = ANY($1::text[])"

Advance = Callable[[int, int], None]


class _Decisions(msgspec.Struct):
    decisions: list[tuple[str, str]]


_decisions = msgspec.json.Decoder(_Decisions).decode


async def export(database_url: str, out: IO[bytes], *, public_key: bytes, advance: Advance) -> int:
    """Write the whole log.

    Args:
        public_key: of who signs the roots, 32 bytes.
        advance: told how many records of how many are written.

    Returns:
        How many records were written.
    """
    connection = await asyncpg.connect(database_url)
    written = 0
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            total: int = await connection.fetchval(_COUNT)
            _line(out, {"type": "header", "version": 1, "key": _base64(public_key)})
            for chain in (_acts, _all_decisions, _roots):
                async for line in chain(connection):
                    _line(out, line)
                    if line["type"] != "document":
                        written += 1
                        advance(written, total)
    finally:
        await connection.close()
    return written


def _line(out: IO[bytes], line: dict[str, Any]) -> None:
    out.write(msgspec.json.encode(line) + b"\n")


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


def _record(shard: str, row: asyncpg.Record) -> dict[str, Any]:
    return {
        "type": "record",
        "shard": shard,
        "seq": row["seq"],
        "record": row["record"],
        "hash": row["hash"].hex(),
    }


async def _acts(connection: Any) -> AsyncIterator[dict[str, Any]]:
    last = 0
    while rows := await connection.fetch(_ACTS, last, BATCH_SIZE_MAX):
        for row in rows:
            shown = {
                "action": row["action"],
                "actor": row["actor"],
                "at": round(row["at"].timestamp() * 1000),
                "detail": msgspec.json.decode(row["detail"]),
                "object": row["object"],
            }
            # What the console shows is exported beside what the chain says, to be compared.
            yield _record(ACTS, row) | {"shown": shown}
        last = rows[-1]["seq"]


async def _all_decisions(connection: Any) -> AsyncIterator[dict[str, Any]]:
    last = ("", 0)
    while rows := await connection.fetch(_DECISIONS, *last, BATCH_SIZE_MAX):
        ids = [one for row in rows for one, _ in _decisions(row["record"]).decisions]
        documents = await _documents(connection, ids)
        for row in rows:
            yield _record(row["shard"], row)
            for one, _ in _decisions(row["record"]).decisions:
                if one in documents:
                    yield {"type": "document", "id": one, "document": documents[one]}
        last = (rows[-1]["shard"], rows[-1]["seq"])


async def _documents(connection: Any, ids: list[str]) -> dict[str, str]:
    found = {
        row["id"]: payment_document(
            id=row["id"],
            owner=row["owner"],
            client=row["client_id"],
            operation=row["operation"],
            scheme=row["scheme"],
            amount=row["amount_minor"],
            currency=row["currency"],
            source_card=row["source_card_id"],
            destination_card=row["destination_card_id"],
            merchant=row["merchant_id"],
            decision=row["record"],
        )
        for row in await connection.fetch(_PAYMENTS, ids)
    }
    for row in await connection.fetch(_REFUSALS, ids):
        found[row["id"]] = refusal_document(
            id=row["id"],
            owner=row["owner"],
            merchant=row["merchant_id"],
            code=row["code"],
            decision=row["record"],
        )
    for row in await connection.fetch(_WAITING, ids):
        found[row["decision_id"]] = waiting_document(
            id=row["decision_id"],
            payment=row["payment_id"],
            owner=row["owner"],
            amount=row["amount_minor"],
            currency=row["currency"],
            merchant=row["merchant_id"],
            decision=row["record"],
        )
    return found


async def _roots(connection: Any) -> AsyncIterator[dict[str, Any]]:
    last = 0
    while rows := await connection.fetch(_ROOTS, last, BATCH_SIZE_MAX):
        for row in rows:
            root = _record(ROOTS, row) | {"type": "root", "signature": _base64(row["signature"])}
            yield root
        last = rows[-1]["seq"]


def run(database_url: str, out: IO[bytes], *, public_key: bytes, advance: Advance) -> int:
    """`export`, for a command line."""
    return asyncio.run(export(database_url, out, public_key=public_key, advance=advance))
