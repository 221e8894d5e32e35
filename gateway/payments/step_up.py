"""Payments that pass once the customer has given a stronger authentication: a one-time code.

Such a payment is durable and waits in `requires_action`; it has taken nothing from any limit, and
nothing was sent. Confirming it decides it again, from the request as it was made, with the limits
as they are by then; what was not confirmed in time is canceled, and so is what waits for a session
that has ended, in the transaction that ends it.

A code is bound to what it confirms: the payment, its amount, currency and payee, and a number used
once. Given for anything else it is good for nothing any more.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import msgspec
import structlog

from gateway.cards.service import PhoneOf
from gateway.core import Admission, Core, Refusal
from gateway.identity.challenges import locked
from gateway.identity.codes import Codes, is_same
from gateway.identity.endings import Ending
from gateway.identity.messenger import Messenger
from gateway.kernel import audit
from gateway.kernel.audit.chain import Shard
from gateway.kernel.clock import Clock
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem, RefusedByCore
from gateway.kernel.ids import new_id, place_in
from gateway.kernel.vault import Vault
from gateway.payments import rows, statements, store
from gateway.payments.model import REQUIRES_ACTION, Payment
from gateway.payments.replays import Replays
from gateway.payments.trace_texts import amount_of
from gateway.payments.views import destination_of, payment_json
from gateway.settings import Identity

log = structlog.get_logger("payments")

_CREATED = 201
_NONCE_BYTES = 16

Hold = Callable[[Any, str], Awaitable[bool]]
"""Whether a session is alive, and stays so until the connection's transaction ends."""
AreAlive = Callable[[Sequence[str]], Awaitable[bool]]
"""Whether none of some sessions has ended."""


class Stated(msgspec.Struct, frozen=True):
    """What a customer confirms: the code and, as far as the app says it, what was shown.

    Args:
        amount: minor units.
        destination: as the payment shows it.
    """

    code: str
    amount: int | None = None
    currency: str | None = None
    destination: dict[str, str] | None = None
    nonce: str | None = None

    def __repr__(self) -> str:
        return "Stated(...)"


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A payment whose code was right, with the request it is decided again from."""

    payment_id: str
    version: int
    total_debit: int
    total_credit: int
    body: bytes
    confirmation_id: str


class StepUps:
    """Begins, confirms and expires step-ups.

    Args:
        settings: how long codes live, and how many wrong ones lock.
        worker: this process's number in `workers`.
    """

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        core: Core,
        clock: Clock,
        vault: Vault,
        codes: Codes,
        messenger: Messenger,
        phone_of: PhoneOf,
        replays: Replays,
        hold: Hold,
        are_alive: AreAlive,
        settings: Identity,
        worker: int,
    ) -> None:
        self._pool = pool
        self._core = core
        self._clock = clock
        self._vault = vault
        self._codes = codes
        self._messenger = messenger
        self._phone_of = phone_of
        self._replays = replays
        self._hold = hold
        self._are_alive = are_alive
        self._settings = settings
        self._chain = Shard(f"worker-{worker}.waiting")
        self._writing = asyncio.Lock()

    # Beginning ----------------------------------------------------------------------------------

    async def begin(self, request: Request, admission: Admission, payment: Payment) -> Response:
        """Keep a payment that waits for its code, send the code, and answer 201.

        Args:
            payment: as decided, in `requires_action`.

        Raises:
            Problem: limit-exceeded for a client that cannot confirm; otp-locked; invalid-token
                when the session has just ended.
        """
        session_id = self._session_of(request)
        expires_at_ms = self._clock() + self._settings.code_ttl_s * 1000
        nonce = secrets.token_urlsafe(_NONCE_BYTES)
        payment.details["confirm_by_ms"] = expires_at_ms
        payment.details["confirm_nonce"] = nonce
        body = payment_json(payment, [])
        try:
            phone = await self._phone_of(payment.owner)
        except LookupError:
            detail = "A stronger authentication is needed, which this client cannot give."
            raise Problem("limit-exceeded", detail) from None
        code = self._codes.new()
        scope, fingerprint = admission.idempotency
        kept = (
            payment.id,
            payment.owner,
            self._vault.seal(request.body.decode(), bound_to=request_binding(payment.id)),
            self._codes.hash(code, bound_to=payment.id),
            expires_at_ms,
            session_id or None,
            nonce,
            self._codes.hash(code, bound_to=_binding(payment, nonce, request.body)),
        )
        # One writer a chain of decisions: who waits here holds no connection.
        async with self._writing:
            is_new = await self._begin_write(payment, body, session_id, scope, fingerprint, kept)
        if not is_new:
            return await self._replays.answer(scope, fingerprint)
        await self._messenger.send(to=phone, text=_message(payment, code), code=code)
        return Response(_CREATED, body, (("Location", f"/v1/payments/{payment.id}"),))

    def _session_of(self, request: Request) -> str:
        claims = self._core.authorize(request.raw_headers, "", request.received_at_ms)
        if isinstance(claims, Refusal):
            raise RefusedByCore(claims)
        return claims.sid

    async def _begin_write(
        self,
        payment: Payment,
        body: bytes,
        session_id: str,
        scope: bytes,
        fingerprint: bytes,
        kept: tuple[object, ...],
    ) -> bool:
        """Write the payment, its step-up and the decision; False when its key is in use."""
        at_ms = self._clock()
        decision_id = new_id("dec_", at_ms)
        document = rows.waiting_document_of(payment, decision_id)
        link = self._chain.link(at_ms=at_ms, decisions=[(decision_id, document)])
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                if session_id and not await self._hold(connection, session_id):
                    raise Problem("invalid-token", "The session has ended.")
                key = await connection.fetchval(store.CLAIM_KEY, scope, fingerprint, payment.id)
                if key is None:
                    return False
                await self._check_lock(connection, payment.owner)
                await connection.execute(
                    statements.INSERT_WAITING, rows.waiting(payment), _CREATED, body.decode()
                )
                await connection.execute(store.INSERT_STEP_UP, *kept, decision_id, payment.record)
                await connection.execute(store.INSERT_DECISION, *link.arguments)
        except Problem:
            raise
        except BaseException:
            # It may have been written all the same.
            self._chain.renew()
            raise
        self._chain.written(link)
        return True

    async def _check_lock(self, connection: Any, owner: str) -> None:
        """Refuse a customer who gave too many wrong codes lately."""
        lock_ms = self._settings.code_lock_s * 1000
        row = await connection.fetchrow(store.WRONG_CODES, owner, _moment(self._clock() - lock_ms))
        if row["tries"] >= self._settings.code_tries_max:
            raise locked(row["expires_at_ms"] + lock_ms - self._clock())

    # Confirming ---------------------------------------------------------------------------------

    async def check(self, owner: str, session_id: str, payment_id: str, said: Stated) -> Confirmed:
        """Take one try of a code.

        Args:
            session_id: of who confirms; it may be another of the customer's than the one that
                asked, and both must be alive.

        Raises:
            Problem: not-found, invalid-state, otp-expired, otp-invalid, otp-locked,
                otp-already-used, sca-binding-mismatch.
        """
        now_ms = self._clock()
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(store.LOCK_CODES, owner)
            row = await connection.fetchrow(
                store.TRY_CODE,
                payment_id,
                owner,
                self._settings.code_tries_max,
                _moment(now_ms - self._settings.code_lock_s * 1000),
            )
        if row is None:
            raise await self._why_not(owner, payment_id, said.code)
        if row["expires_at_ms"] <= now_ms:
            raise Problem("otp-expired", "The code has expired; make the payment again.")
        sessions = [one for one in (row["session_id"], session_id) if one]
        if not await self._are_alive(sessions):
            raise Problem("invalid-state", "The session that asked for the payment has ended.")
        if not self._is_code(row["code_hash"], payment_id, said.code):
            raise await self._wrong(owner, payment_id, said.code)
        found = await self._pool.fetchrow(store.GET_PAYMENT, payment_id)
        assert found is not None, "its step-up refers to it"
        payment = store.payment_of(found)
        body = self._vault.open(row["request_sealed"], bound_to=request_binding(payment_id))
        if not self._is_bound(row, payment, body.encode(), said):
            raise await self._burn(payment_id)
        await self._pool.execute(store.GIVE_TRY_BACK, payment_id)
        return Confirmed(
            payment_id=payment_id,
            version=row["version"],
            total_debit=row["total_debit"],
            total_credit=row["total_credit"],
            body=body.encode(),
            confirmation_id=new_id("cnf_", now_ms, place_in(payment_id)),
        )

    def _is_bound(self, row: Any, payment: Payment, body: bytes, said: Stated) -> bool:
        """Whether the code was sent for exactly what is stored, and that is what is stated."""
        stated = (
            said.amount in (None, payment.amount_minor)
            and said.currency in (None, payment.currency)
            and said.destination in (None, destination_of(payment))
            and said.nonce in (None, row["nonce"])
        )
        if row["binding_hash"] is None:
            # Sent by a version that bound it to the payment alone.
            return stated
        bound = self._codes.hash(said.code, bound_to=_binding(payment, row["nonce"], body))
        return stated and is_same(row["binding_hash"], bound)

    async def _burn(self, payment_id: str) -> Problem:
        """Make a code good for nothing, as it was given for something else."""
        await self._pool.execute(store.BURN_CODE, payment_id)
        log.warning("a code was given for something else than it confirms", payment=payment_id)
        return Problem("sca-binding-mismatch", "This code is for another payment; pay anew.")

    async def _why_not(self, owner: str, payment_id: str, code: str) -> Problem:
        row = await self._pool.fetchrow(store.GET_STEP_UP, payment_id, owner)
        if row is None:
            return Problem("not-found", "There is no such payment.")
        is_right = row["code_hash"] is not None and self._is_code(
            row["code_hash"], payment_id, code
        )
        if is_right and (row["confirmation_id"] is not None or row["burnt_at"] is not None):
            return Problem("otp-already-used", f"The payment is {row['status']}.")
        if row["status"] != REQUIRES_ACTION or row["confirmation_id"] is not None:
            return Problem("invalid-state", f"The payment is {row['status']}.")
        if row["burnt_at"] is not None:
            return Problem("otp-invalid", "Its code is good for nothing any more; pay anew.")
        return locked(row["expires_at_ms"] + self._settings.code_lock_s * 1000 - self._clock())

    async def _wrong(self, owner: str, payment_id: str, code: str) -> Problem:
        for row in await self._pool.fetch(store.OTHER_CODES, owner, payment_id):
            if self._is_code(row["code_hash"], row["payment_id"], code):
                return await self._burn(row["payment_id"])
        return Problem("otp-invalid", "Enter the code that was sent for this payment.")

    def _is_code(self, code_hash: bytes, payment_id: str, code: str) -> bool:
        return is_same(code_hash, self._codes.hash(code, bound_to=payment_id))

    async def answered(self, confirmation_id: str, response: Response) -> None:
        """Keep the answer to a confirmation, for when it is asked again under its key."""
        await self._pool.execute(
            store.STORE_CONFIRMATION, confirmation_id, response.status, response.body.decode()
        )

    async def expire(self) -> None:
        """Cancel what was not confirmed in time."""
        await self._pool.execute(store.EXPIRE_STEP_UPS)


async def cancel_of_sessions(
    connection: Any, session_ids: Sequence[str], ending: Ending, at_ms: int
) -> None:
    """Cancel what waits for sessions to confirm it, in the transaction that ends them.

    It has taken nothing from any limit and posted nothing; whoever listens is told of it.
    """
    if not session_ids:
        return
    for row in await connection.fetch(store.CANCEL_OF_SESSIONS, list(session_ids)):
        await audit.record(
            connection,
            at_ms=at_ms,
            actor=ending.by,
            action="payment.cancel",
            object=row["id"],
            detail={"because": f"session ended: {ending.reason}", "session": row["session_id"]},
        )


def _message(payment: Payment, code: str) -> str:
    """Return what the customer reads beside the code: what it confirms, as far as it has words."""
    what = amount_of(payment.amount_minor, payment.currency, "en")
    last4 = payment.details.get("destination_last4")
    to = f" to *{last4}" if last4 else ""
    return f"Oqim: {code} confirms {what}{to}. Tell it to nobody."


def _binding(payment: Payment, nonce: str, body: bytes) -> str:
    """Return all that a code confirms, as one text."""
    return msgspec.json.encode(
        [
            "payment",
            payment.id,
            payment.amount_minor,
            payment.currency,
            destination_of(payment),
            nonce,
            hashlib.sha256(body).hexdigest(),
        ]
    ).decode()


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def request_binding(payment_id: str) -> str:
    """Return what a waiting request is sealed to."""
    return f"step_ups.request:{payment_id}"
