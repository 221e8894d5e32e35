"""What the usual gateway stands on: its own schema, its cards sealed by its own key, its sessions.

Everything is made anew at each start but payments, postings and keys, which stay until the database
goes: the books are checked over all of them.
"""

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import asyncpg
import redis.asyncio
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from connectors.simulators.pans import token_of
from gateway.sandbox.seed import with_check_digit
from loadtests.seed import PREFIXES

TASHKENT = timezone(timedelta(hours=5))
SESSIONS_A_TIME = 1_000
NONCE_BYTES = 12

SCHEMA = """
CREATE SCHEMA IF NOT EXISTS usual;
CREATE TABLE IF NOT EXISTS usual.cards (
    id text COLLATE "C" PRIMARY KEY, owner text NOT NULL, scheme text NOT NULL,
    token_sealed bytea NOT NULL, status text NOT NULL
);
CREATE TABLE IF NOT EXISTS usual.merchants (
    id text COLLATE "C" PRIMARY KEY, acceptor_id text NOT NULL, terminal_id text NOT NULL,
    mcc text NOT NULL
);
CREATE TABLE IF NOT EXISTS usual.payments (
    id text COLLATE "C" PRIMARY KEY, created_at timestamptz NOT NULL, owner text NOT NULL,
    client_id text NOT NULL, operation text NOT NULL, scheme text NOT NULL,
    amount_minor bigint NOT NULL, currency text NOT NULL, source_card_id text NOT NULL,
    merchant_id text NOT NULL, commission_total bigint NOT NULL, commission_vat bigint NOT NULL,
    total_debit bigint NOT NULL, total_credit bigint NOT NULL, details json NOT NULL,
    status text NOT NULL, decline_code text, response_status smallint, response_body text,
    updated_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);
CREATE TABLE IF NOT EXISTS usual.attempts (
    id text COLLATE "C" PRIMARY KEY, payment_id text NOT NULL, connector text NOT NULL,
    state text NOT NULL, rrn text, approval_code text, processor_code text,
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);
CREATE TABLE IF NOT EXISTS usual.idempotency_keys (
    scope bytea PRIMARY KEY, fingerprint bytea NOT NULL, payment_id text NOT NULL
);
CREATE TABLE IF NOT EXISTS usual.postings (
    entry_id text COLLATE "C" NOT NULL, line smallint NOT NULL, account text NOT NULL,
    amount_minor bigint NOT NULL, currency text NOT NULL,
    posted_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (entry_id, line)
);
CREATE TABLE IF NOT EXISTS usual.outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, payment_id text NOT NULL,
    type text NOT NULL, data json NOT NULL, created_at timestamptz NOT NULL DEFAULT now()
);
TRUNCATE usual.cards, usual.merchants;
INSERT INTO usual.merchants SELECT id, acceptor_id, terminal_id, mcc FROM public.merchants;
"""
CARDS = ("id", "owner", "scheme", "token_sealed", "status")


class Seal:
    """Seals processors' tokens as the other gateway does: AES-256-GCM, bound to the card."""

    def __init__(self, secret: str) -> None:
        # One key for all peers of a database: they have its cards in common.
        self._cipher = AESGCM(hashlib.sha256(secret.encode()).digest())

    def seal(self, text: str, card_id: str) -> bytes:
        """Return nonce and ciphertext."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, text.encode(), card_id.encode())

    def open(self, sealed: bytes, card_id: str) -> str:
        """Return what was sealed for this card. Raises InvalidTag."""
        nonce, text = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:]
        return self._cipher.decrypt(nonce, text, card_id.encode()).decode()


@dataclass(frozen=True, slots=True)
class Limits:
    """The policies that match an identified customer's purchase, in minor units of UZS."""

    operation_max: int = 1_000_000_000_000
    card_day_max: int = 5_000_000_000_000
    user_month_max: int = 50_000_000_000_000
    # Longer than the window, so that a counter outlives what it counts.
    card_day_ttl_s: int = 2 * 86_400
    user_month_ttl_s: int = 33 * 86_400


LIMITS = Limits()


def limit_keys(card: str, owner: str) -> tuple[str, str]:
    """Return the counters of a card's day and a user's month, in Tashkent."""
    now = datetime.now(tz=UTC).astimezone(TASHKENT)
    return f"usual:limit:card:{card}:{now:%Y%m%d}", f"usual:limit:user:{owner}:{now:%Y%m}"


def session_key(owner: str) -> str:
    """Return where a user's session is."""
    return f"usual:session:{owner}"


async def prepare(
    connection: Any, client: "redis.asyncio.Redis", seeded: dict[str, Any], secret: str
) -> Seal:
    """Make the schema, the cards and the sessions of seeded users; returns what opens the cards.

    Args:
        seeded: what `loadtests/seed.py` wrote: user and card number n are each other's.
        secret: what the key of the cards is made of; the same for all who serve one database.
    """
    seal = Seal(secret)
    owners = [_subject(token) for token in seeded["tokens"]]
    async with connection.transaction():
        await connection.execute(SCHEMA)
        await connection.copy_records_to_table(
            "cards", schema_name="usual", records=_cards(seal, seeded, owners), columns=CARDS
        )
    await connection.execute("ANALYZE usual.cards, usual.merchants")
    for first in range(0, len(owners), SESSIONS_A_TIME):
        async with client.pipeline(transaction=False) as pipeline:
            for owner in owners[first : first + SESSIONS_A_TIME]:
                pipeline.set(session_key(owner), json.dumps({"user": owner, "device": "d1"}))
            await pipeline.execute()
    return seal


def _cards(seal: Seal, seeded: dict[str, Any], owners: list[str]) -> Iterator[tuple[Any, ...]]:
    for number, (card_id, owner) in enumerate(zip(seeded["cards"]["uzcard"], owners, strict=True)):
        pan = with_check_digit(f"{PREFIXES['uzcard']}{number:09}")
        yield card_id, owner, "uzcard", seal.seal(token_of(pan), card_id), "active"


def _subject(token: str) -> str:
    """Return whom a token is about; the server verifies it, this only reads it."""
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return str(claims["sub"])


async def connect(database_url: str) -> Any:
    """Open the connection that prepares."""
    return await asyncpg.connect(database_url, command_timeout=60.0)
