"""The usual gateway's way of a payment, idiomatic: a statement a row, a transaction a write.

What is the same as in the gateway that it is compared with, and what is not, is said in
usual_gateway.py, which serves it.
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import aiohttp
import jwt
import redis.asyncio
from aiohttp import web

from gateway.kernel.ids import new_id
from loadtests.peers.usual_ground import LIMITS, Seal, limit_keys, session_key

ISSUER, AUDIENCE, SCOPE = "https://oqim.local", "oqim-api", "payments:write"
ROUTE = "POST /v1/payments"
PERCENT, VAT_PERCENT = Decimal("1"), Decimal("12")
DESCRIPTION_MAX, KEY_MAX, AMOUNT_MAX = 200, 255, 10**15


class Refused(Exception):
    """The request ends here. `slug` is the problem's."""

    def __init__(self, status: int, slug: str) -> None:
        super().__init__(slug)
        self.status, self.slug = status, slug


class Claims(NamedTuple):
    """What of a token is used."""

    sub: str
    client_id: str


class Found(NamedTuple):
    """The payment's card and merchant. `token_sealed` opens with the card's id alone."""

    token_sealed: bytes
    acceptor_id: str
    terminal_id: str


@dataclass(slots=True)
class Payment:
    """One payment under way. Amounts are minor units of UZS."""

    claims: Claims
    body: Mapping[str, Any]
    scope: bytes
    fingerprint: bytes
    commission: int
    vat: int
    # Of the limits: named once, so that what is given back at midnight was taken there.
    counters: tuple[str, str]
    id: str = field(default_factory=lambda: new_id("pay_", int(time.time() * 1000)))
    created_at: datetime = field(default_factory=lambda: datetime.now(tz=UTC))
    status: str = "processing"
    decline: str | None = None
    rrn: str | None = None
    approval_code: str | None = None

    @property
    def attempt_id(self) -> str:
        return f"att_{self.id[4:]}1"

    @property
    def amount(self) -> int:
        return int(self.body["amount"])

    @property
    def card(self) -> str:
        return str(self.body["source"]["card"])

    @property
    def merchant(self) -> str:
        return str(self.body["destination"]["merchant"])

    @property
    def details(self) -> dict[str, Any]:
        return {name: self.body.get(name) for name in ("description", "metadata")}

    def row(self) -> tuple[Any, ...]:
        """Return what the intent inserts, the details as JSON text last."""
        return (
            self.id, self.created_at, self.claims.sub, self.claims.client_id, "purchase", "uzcard",
            self.amount, "UZS", self.card, self.merchant, self.commission + self.vat, self.vat,
            self.amount, self.amount - self.commission - self.vat, json.dumps(self.details),
        )  # fmt: skip

    def postings(self) -> list[tuple[str, int, str, int, str]]:
        """Return the journal entry of a success: it sums to zero."""
        total = self.commission + self.vat
        lines = [
            ("processor:uzcard", self.amount),
            (f"merchant:{self.merchant}", total - self.amount),
            ("commission:income", -self.commission),
            ("vat:payable", -self.vat),
        ]
        return [
            (self.id, n, account, amount, "UZS") for n, (account, amount) in enumerate(lines, 1)
        ]

    def answer(self) -> dict[str, Any]:
        """Return what the client is told."""
        is_paid = self.status == "succeeded"
        total = self.commission + self.vat
        return {
            "id": self.id, "status": self.status, "operation": "purchase", "amount": self.amount,
            "currency": "UZS", "amount_capturable": 0,
            "amount_received": self.amount if is_paid else 0, "amount_refunded": 0,
            "commission": {"total": total, "payer": "receiver", "plan": "purchase", "version": 1},
            "total_debit": self.amount, "total_credit": self.amount - total, "scheme": "uzcard",
            "source": {"card": self.card}, "destination": {"merchant": self.merchant},
            "capture": "automatic", "description": self.body.get("description"),
            "attempts": [{
                "id": self.attempt_id, "connector": "uzcard",
                "state": "authorized" if is_paid else self.status, "rrn": self.rrn,
                "approval_code": self.approval_code, "outcome_source": "reply",
            }],
            "decline": {"code": self.decline} if self.decline else None, "next_action": None,
            "created_at": self.created_at.isoformat(timespec="milliseconds"),
            "metadata": self.body.get("metadata") or {},
        }  # fmt: skip


LOOK_UP_KEY = """
SELECT k.fingerprint, p.response_status, p.response_body FROM usual.idempotency_keys k
JOIN usual.payments p ON p.id = k.payment_id WHERE k.scope = $1
"""
CARD = "SELECT owner, scheme, token_sealed, status FROM usual.cards WHERE id = $1"
MERCHANT = "SELECT acceptor_id, terminal_id FROM usual.merchants WHERE id = $1"
ADD_KEY = """
INSERT INTO usual.idempotency_keys (scope, fingerprint, payment_id) VALUES ($1, $2, $3)
ON CONFLICT DO NOTHING RETURNING true
"""
ADD_PAYMENT = """
INSERT INTO usual.payments (id, created_at, owner, client_id, operation, scheme, amount_minor,
    currency, source_card_id, merchant_id, commission_total, commission_vat, total_debit,
    total_credit, details, status)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, 'processing')
"""
ADD_ATTEMPT = """
INSERT INTO usual.attempts (id, payment_id, connector, state) VALUES ($1, $2, 'uzcard', 'sent')
"""
END_PAYMENT = """
UPDATE usual.payments SET status = $2, decline_code = $3, response_status = $4,
    response_body = $5, updated_at = now() WHERE id = $1
"""
END_ATTEMPT = """
UPDATE usual.attempts SET state = $2, rrn = $3, approval_code = $4, processor_code = $5
WHERE id = $1
"""
ADD_POSTING = """
INSERT INTO usual.postings (entry_id, line, account, amount_minor, currency)
VALUES ($1, $2, $3, $4, $5)
"""
ADD_EVENT = "INSERT INTO usual.outbox (payment_id, type, data) VALUES ($1, $2, $3)"


@dataclass(slots=True)
class Ground:
    """What a gateway stands on, open."""

    pool: Any
    redis: "redis.asyncio.Redis"
    http: aiohttp.ClientSession
    processor_url: str
    keys: Mapping[str, Any]
    seal: Seal


class Gateway:
    """The idiomatic one: a statement a row, a transaction a write."""

    loads: Callable[[bytes], Any] = staticmethod(json.loads)
    unreadable: tuple[type[Exception], ...] = (ValueError,)

    def __init__(self, ground: Ground) -> None:
        self.ground = ground

    def dumps(self, value: Any) -> bytes:
        """Return compact JSON."""
        return json.dumps(value, separators=(",", ":")).encode()

    async def pay(self, request: web.Request) -> web.Response:
        """POST /v1/payments."""
        try:
            return await self._pay(request)
        except Refused as refused:
            body = self.dumps({"status": refused.status, "code": refused.slug})
            return web.Response(
                status=refused.status, body=body, content_type="application/problem+json"
            )

    async def _pay(self, request: web.Request) -> web.Response:
        claims = self.verify(request.headers.get("Authorization", ""))
        raw = await request.read()
        try:
            body = self.loads(raw)
        except self.unreadable:
            raise Refused(400, "malformed-body") from None
        payment = begin(claims, body, request.headers.get("Idempotency-Key", ""))
        found = await self.look_up(payment)
        if isinstance(found, web.Response):
            return found
        await self.reserve(payment)
        if not await self.open(payment):
            # The key was taken between the look and the insert.
            await self.give_back(payment)
            again = await self.look_up(payment)
            assert isinstance(again, web.Response)
            return again
        code = await self.ask_processor(payment, found)
        if payment.status == "failed":
            await self.give_back(payment)
        status = 202 if payment.status == "processing" else 201
        body = self.dumps(payment.answer())
        await self.end(payment, code, status, body.decode())
        return web.Response(status=status, body=body, content_type="application/json")

    def verify(self, authorization: str) -> Claims:
        """Return whose a bearer token is. Raises Refused."""
        token = authorization.removeprefix("Bearer ")
        try:
            key = self.ground.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=ISSUER)
        except (jwt.InvalidTokenError, KeyError):
            raise Refused(401, "invalid-token") from None
        if SCOPE not in claims["scope"].split():
            raise Refused(403, "insufficient-scope")
        return Claims(claims["sub"], claims["client_id"])

    async def look_up(self, payment: Payment) -> Found | web.Response:
        """Return the card and the merchant, or the answer that the key has. Raises Refused."""
        async with self.ground.pool.acquire() as connection:
            known = await connection.fetchrow(LOOK_UP_KEY, payment.scope)
            if known is not None:
                return replay(payment, *known)
            card = await connection.fetchrow(CARD, payment.card)
            if card is None or card["owner"] != payment.claims.sub:
                raise Refused(404, "card-not-found")
            if card["status"] != "active" or card["scheme"] != "uzcard":
                raise Refused(422, "card-not-usable")
            merchant = await connection.fetchrow(MERCHANT, payment.merchant)
            if merchant is None:
                raise Refused(404, "merchant-not-found")
        return Found(card["token_sealed"], merchant["acceptor_id"], merchant["terminal_id"])

    async def reserve(self, payment: Payment) -> None:
        """See that the session lives, and take from the limits. Raises Refused."""
        if not await self.ground.redis.get(session_key(payment.claims.sub)):
            raise Refused(401, "session-ended")
        if payment.amount > LIMITS.operation_max:
            raise Refused(422, "limit-exceeded")
        card, user = payment.counters
        async with self.ground.redis.pipeline(transaction=True) as pipeline:
            pipeline.incrby(card, payment.amount)
            pipeline.expire(card, LIMITS.card_day_ttl_s)
            pipeline.incrby(user, payment.amount)
            pipeline.expire(user, LIMITS.user_month_ttl_s)
            of_card, _, of_user, _ = await pipeline.execute()
        if of_card > LIMITS.card_day_max or of_user > LIMITS.user_month_max:
            await self.give_back(payment)
            raise Refused(422, "limit-exceeded")

    async def give_back(self, payment: Payment) -> None:
        """Return what was taken from the limits."""
        async with self.ground.redis.pipeline(transaction=True) as pipeline:
            for key in payment.counters:
                pipeline.decrby(key, payment.amount)
            await pipeline.execute()

    async def open(self, payment: Payment) -> bool:
        """Commit the intent. False: the key was used meanwhile, and nothing was written."""
        async with self.ground.pool.acquire() as connection, connection.transaction():
            key = (payment.scope, payment.fingerprint, payment.id)
            if not await connection.fetchval(ADD_KEY, *key):
                return False
            await connection.execute(ADD_PAYMENT, *payment.row())
            await connection.execute(ADD_ATTEMPT, payment.attempt_id, payment.id)
        return True

    async def end(self, payment: Payment, code: str | None, status: int, body: str) -> None:
        """Commit the outcome with the answer that will be given."""
        state = "authorized" if payment.status == "succeeded" else payment.status
        async with self.ground.pool.acquire() as connection, connection.transaction():
            await connection.execute(
                END_PAYMENT, payment.id, payment.status, payment.decline, status, body
            )
            await connection.execute(
                END_ATTEMPT, payment.attempt_id, state, payment.rrn, payment.approval_code, code
            )
            if payment.status == "succeeded":
                for posting in payment.postings():
                    await connection.execute(ADD_POSTING, *posting)
            await connection.execute(ADD_EVENT, payment.id, f"payment.{payment.status}", body)

    async def ask_processor(self, payment: Payment, found: Found) -> str | None:
        """Pay at UZCARD; sets the payment's status. Returns the processor's code of a decline."""
        order = {
            "purpose": "payment", "receiverId": found.acceptor_id, "amount": payment.amount,
            "cardId": self.ground.seal.open(found.token_sealed, payment.card), "commission": 0,
            "currency": "860", "ext": payment.attempt_id, "merchantId": found.acceptor_id,
            "terminalId": found.terminal_id,
        }  # fmt: skip
        call = {"jsonrpc": "2.0", "id": payment.id, "method": "trans.pay.purpose"}
        data = self.dumps(call | {"params": {"tran": order}})
        try:
            async with self.ground.http.post(self.ground.processor_url, data=data) as answer:
                reply = self.loads(await answer.read())
        except (aiohttp.ClientError, TimeoutError, *self.unreadable):
            # It may have been paid: unknown, and nobody here asks again.
            return None
        if "error" in reply:
            payment.status, payment.decline = "failed", "declined"
            return str(reply["error"]["code"])
        paid = reply["result"]
        is_ours = paid["ext"] == payment.attempt_id and paid["amount"] == payment.amount
        if is_ours and paid["status"] == "OK" and paid["resp"] == 0:
            payment.status = "succeeded"
            payment.rrn, payment.approval_code = paid["refNum"], paid["field38"]
        return None


def begin(claims: Claims, body: Any, key: str) -> Payment:
    """Check a request and price it. Raises Refused."""
    key = key.strip('"')
    if not 0 < len(key) <= KEY_MAX:
        raise Refused(400, "idempotency-key-missing")
    try:
        amount = body["amount"]
        is_good = (
            body["operation"] == "purchase"
            and body["currency"] == "UZS"
            and type(amount) is int
            and 0 < amount <= AMOUNT_MAX
            and isinstance(body["source"]["card"], str)
            and isinstance(body["destination"]["merchant"], str)
            and body.get("capture", "automatic") == "automatic"
            and len(body.get("description") or "") <= DESCRIPTION_MAX
        )
    except (KeyError, TypeError):
        is_good = False
    if not is_good:
        raise Refused(400, "invalid-body")
    commission = _part(Decimal(amount), PERCENT)
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return Payment(
        claims=claims,
        body=body,
        scope=_digest(claims.client_id, claims.sub, ROUTE, key)[:16],
        fingerprint=_digest(ROUTE, canonical),
        commission=int(commission),
        vat=int(_part(commission, VAT_PERCENT)),
        counters=limit_keys(body["source"]["card"], claims.sub),
    )


def _part(amount: Decimal, percent: Decimal) -> Decimal:
    return (amount * percent / 100).quantize(Decimal(1), rounding=ROUND_HALF_UP)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\0".join(parts).encode()).digest()


def replay(payment: Payment, fingerprint: bytes, status: int | None, body: str) -> web.Response:
    """Return the stored answer of a key. Raises Refused."""
    if fingerprint != payment.fingerprint:
        raise Refused(422, "idempotency-key-reused")
    if status is None:
        raise Refused(409, "idempotency-in-progress")
    headers = {"Idempotent-Replayed": "true"}
    return web.Response(
        status=status, body=body.encode(), content_type="application/json", headers=headers
    )
