"""Chains of records: each hash covers the record and the hash before it.

`h(n) = SHA-256(h(n-1) || record(n))`, `h(0) = SHA-256("oqim audit " || shard)`; a record is
canonical JSON (RFC 8785). A shard has one writer, so that nobody waits for another: a worker's lane
has its own, named by it, and begins another after a commit of which it does not know what became.

Decisions are not stored twice: a record of `decision_log` holds their ids and the SHA-256 of their
documents, which are made again from the rows when the log is exported.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec

_encode = msgspec.json.Encoder(order="sorted").encode


def canonical(record: dict[str, Any]) -> str:
    """Return a record as RFC 8785 writes it, given integers for numbers and ASCII for names."""
    return _encode(record).decode()


def genesis(shard: str) -> bytes:
    """Return what stands before a shard's first record."""
    return hashlib.sha256(b"oqim audit " + shard.encode()).digest()


def linked(before: bytes, record: str) -> bytes:
    """Return the hash of a record, given the one before it."""
    return hashlib.sha256(before + record.encode()).digest()


def digest(document: str) -> str:
    """Return what a record holds of a decision's document."""
    return hashlib.sha256(document.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Link:
    """One record, to be written with what it tells of."""

    shard: str
    seq: int
    record: str
    hash: bytes

    @property
    def arguments(self) -> tuple[str, int, str, bytes]:
        """The last arguments of a statement that ends with `LINK`."""
        return self.shard, self.seq, self.record, self.hash


class Shard:
    """The end of a chain that one writer makes longer.

    Args:
        name: of the writer, never used before.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._epoch = 0
        self._begin()

    def _begin(self) -> None:
        self._epoch += 1
        self._shard = f"{self._name}.{self._epoch}"
        self._seq = 0
        self._hash = genesis(self._shard)

    def link(self, *, at_ms: int, decisions: list[tuple[str, str]]) -> Link:
        """Return the next record; nothing is known of it before `written`.

        Args:
            at_ms: Unix milliseconds.
            decisions: list[n] of id and document.
        """
        record = canonical(
            {"at": at_ms, "decisions": [[one, digest(document)] for one, document in decisions]}
        )
        return Link(self._shard, self._seq + 1, record, linked(self._hash, record))

    def written(self, link: Link) -> None:
        """Go on after a record whose commit was acknowledged."""
        assert (link.shard, link.seq) == (self._shard, self._seq + 1), "one writer, in order"
        self._seq, self._hash = link.seq, link.hash

    def renew(self) -> None:
        """Begin another chain: nobody knows whether the last record is in this one."""
        self._begin()


LINK = """
    INSERT INTO decision_log (shard, seq, record, hash)
    SELECT {shard}::text, {seq}::bigint, {record}::text, {hash}::bytea"""
"""Writes a link; format it with the numbers of its arguments."""


def payment_document(
    *,
    id: str,
    owner: str,
    client: str,
    operation: str,
    scheme: str,
    amount: int,
    currency: str,
    source_card: str | None,
    destination_card: str | None,
    merchant: str | None,
    decision: bytes,
) -> str:
    """Return what is decided of a payment that was admitted, and never changes afterwards."""
    return canonical(
        {
            "amount": amount,
            "client": client,
            "currency": currency,
            "decision": decision.hex(),
            "destination_card": destination_card,
            "id": id,
            "merchant": merchant,
            "operation": operation,
            "owner": owner,
            "scheme": scheme,
            "source_card": source_card,
        }
    )


def waiting_document(
    *,
    id: str,
    payment: str,
    owner: str,
    amount: int,
    currency: str,
    merchant: str | None,
    decision: bytes,
) -> str:
    """Return what is decided of a payment that must wait for a stronger authentication."""
    return canonical(
        {
            "amount": amount,
            "code": "requires_action",
            "currency": currency,
            "decision": decision.hex(),
            "id": id,
            "merchant": merchant,
            "owner": owner,
            "payment": payment,
        }
    )


def refusal_document(
    *, id: str, owner: str, merchant: str | None, code: str, decision: bytes
) -> str:
    """Return what is decided of a payment that was refused."""
    return canonical(
        {
            "code": code,
            "decision": decision.hex(),
            "id": id,
            "merchant": merchant,
            "owner": owner,
        }
    )
