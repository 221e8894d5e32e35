"""Payments that pass once the customer has given a stronger authentication: a one-time code.

Such a payment is durable and waits in `requires_action`; it has taken nothing from any limit, and
nothing was sent. Confirming it decides it again, from the request as it was made, with the limits
as they are by then; what was not confirmed in time is canceled.
"""

from dataclasses import dataclass

import asyncpg

from gateway.cards.service import PhoneOf
from gateway.core import Admission
from gateway.identity.codes import Codes, is_same
from gateway.identity.messenger import Messenger
from gateway.kernel.clock import Clock
from gateway.kernel.http.messages import Request, Response
from gateway.kernel.http.problems import Problem
from gateway.kernel.ids import new_id
from gateway.kernel.vault import Vault
from gateway.payments import rows, statements, store
from gateway.payments.model import REQUIRES_ACTION, Payment, payment_json
from gateway.payments.replays import Replays

CODE_TTL_S = 300
CODE_TRIES_MAX = 5
_CREATED = 201


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
    """Begins, confirms and expires step-ups."""

    def __init__(
        self,
        *,
        pool: asyncpg.Pool,
        clock: Clock,
        vault: Vault,
        codes: Codes,
        messenger: Messenger,
        phone_of: PhoneOf,
        replays: Replays,
    ) -> None:
        self._pool = pool
        self._clock = clock
        self._vault = vault
        self._codes = codes
        self._messenger = messenger
        self._phone_of = phone_of
        self._replays = replays

    async def begin(self, request: Request, admission: Admission, payment: Payment) -> Response:
        """Keep a payment that waits for its code, send the code, and answer 201.

        Args:
            payment: as decided, in `requires_action`.
        """
        expires_at_ms = self._clock() + CODE_TTL_S * 1000
        payment.details["confirm_by_ms"] = expires_at_ms
        body = payment_json(payment, [])
        try:
            phone = await self._phone_of(payment.owner)
        except LookupError:
            detail = "A stronger authentication is needed, which this client cannot give."
            raise Problem("limit-exceeded", detail) from None
        code = self._codes.new()
        scope, fingerprint = admission.idempotency
        async with self._pool.acquire() as connection, connection.transaction():
            key = await connection.fetchval(store.CLAIM_KEY, scope, fingerprint, payment.id)
            if key is not None:
                await connection.execute(
                    statements.INSERT_WAITING, rows.waiting(payment), _CREATED, body.decode()
                )
                await connection.execute(
                    store.INSERT_STEP_UP,
                    payment.id,
                    payment.owner,
                    self._vault.seal(request.body.decode(), bound_to=request_binding(payment.id)),
                    self._codes.hash(code, bound_to=payment.id),
                    expires_at_ms,
                )
        if key is None:
            return await self._replays.answer(scope, fingerprint)
        text = f"Oqim: {code} confirms your payment. Tell it to nobody."
        await self._messenger.send(to=phone, text=text, code=code)
        return Response(_CREATED, body, (("Location", f"/v1/payments/{payment.id}"),))

    async def check(self, owner: str, payment_id: str, code: str) -> Confirmed:
        """Take one try of a code.

        Raises:
            Problem: not-found, invalid-state, otp-expired, otp-invalid, otp-locked,
                otp-already-used, sca-binding-mismatch.
        """
        row = await self._pool.fetchrow(store.TRY_CODE, payment_id, owner, CODE_TRIES_MAX)
        if row is None:
            raise await self._why_not(owner, payment_id, code)
        if row["expires_at_ms"] <= self._clock():
            raise Problem("otp-expired", "The code has expired; make the payment again.")
        if not self._is_code(row["code_hash"], payment_id, code):
            raise await self._wrong(owner, payment_id, code)
        body = self._vault.open(row["request_sealed"], bound_to=request_binding(payment_id))
        return Confirmed(
            payment_id=payment_id,
            version=row["version"],
            total_debit=row["total_debit"],
            total_credit=row["total_credit"],
            body=body.encode(),
            confirmation_id=new_id("cnf_", self._clock()),
        )

    async def _why_not(self, owner: str, payment_id: str, code: str) -> Problem:
        row = await self._pool.fetchrow(store.GET_STEP_UP, payment_id, owner)
        if row is None:
            return Problem("not-found", "There is no such payment.")
        if row["status"] == REQUIRES_ACTION and row["confirmation_id"] is None:
            return Problem("otp-locked", "Too many wrong codes; make the payment again.")
        if row["confirmation_id"] is not None and self._is_code(row["code_hash"], payment_id, code):
            return Problem("otp-already-used", f"The payment is {row['status']}.")
        return Problem("invalid-state", f"The payment is {row['status']}.")

    async def _wrong(self, owner: str, payment_id: str, code: str) -> Problem:
        for row in await self._pool.fetch(store.OTHER_CODES, owner, payment_id):
            if self._is_code(row["code_hash"], row["payment_id"], code):
                return Problem("sca-binding-mismatch", "This code is for another payment.")
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


def request_binding(payment_id: str) -> str:
    """Return what a waiting request is sealed to."""
    return f"step_ups.request:{payment_id}"
