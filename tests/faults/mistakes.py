"""Five mistakes that a payment platform is known to make, each put back into a worker on purpose.

`python -m tests.faults.mistakes NAME` is a gateway worker that makes one of them. Whoever can break
the product so, and is not found out by the invariants, has found that the invariants are blind.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

from connectors.spi import Outcome, Result
from gateway.cli import app
from gateway.kernel.errors import Unavailable
from gateway.kernel.http.messages import Response
from gateway.kernel.ids import new_id
from gateway.kernel.lease import Lease
from gateway.payments import carrying, outcomes, store
from gateway.payments.actions import Actions
from gateway.payments.carrying import Carrier
from gateway.payments.entries import ALL
from gateway.payments.facts import FactLane
from gateway.payments.model import FAILED, copy_of


def capture_again() -> None:
    """A capture in doubt is asked for again under another name, as if it were another."""
    send: Any = Actions._send

    async def send_again(self: Actions, action: Any, *rest: Any) -> Result:
        renamed = dataclasses.replace(action, id=new_id("cap_", action.created_at_ms))
        result: Result = await send(self, renamed if action.tries else action, *rest)
        return result

    Actions._send = send_again  # type: ignore[method-assign]


def refunds_unseen() -> None:
    """A refund is claimed without a look at the others that are under way."""
    condition = "AND amount_received - amount_refunding >= $2\n  AND amount_refunding = $4"
    assert condition in store.CLAIM_REFUND, "the claim has changed: change the mistake"
    unseen = store.CLAIM_REFUND.replace(condition, "AND $4::bigint >= 0")
    unseen = unseen.replace("AND commission_returning = $5", "AND $5::bigint >= 0")
    counted = "amount_refunding = amount_refunding + $2"
    assert counted in unseen, "the claim has changed: change the mistake"
    store.CLAIM_REFUND = unseen.replace(
        counted, "amount_refunding = least(amount_received, amount_refunding + $2)"
    )


def unknown_fails_by_time() -> None:
    """What nobody can say yet is declared failed when its time comes."""

    async def resolve(self: Carrier, attempt: Any, **waits: Any) -> None:
        result = Result(outcome=Outcome.SYSTEM_ERROR)
        await self.settle(attempt, result, source="inquiry", wait_s=waits["wait_s"])

    Carrier.resolve = resolve  # type: ignore[method-assign, assignment]


def headroom_before_reversal() -> None:
    """Headroom is given back when a reversal is asked for, not when it is acknowledged."""
    undo: Any = outcomes.undo

    def undo_early(*arguments: Any) -> Any:
        fact, after, following = undo(*arguments)
        is_asked = following is outcomes.Next.REVERSE
        fact.give_back = ALL if is_asked else None
        return fact, after, following

    outcomes.undo = undo_early


def commit_unknown_is_failure() -> None:
    """A connection that is lost in a commit is taken for a payment that failed."""

    async def give_up(self: FactLane, entries: Any, error: BaseException) -> None:
        for entry in entries:
            entry.fail(Unavailable("the outcome could not be written"))

    async def carry(self: Carrier, payment: Any, attempts: Any, *rest: Any) -> Response:
        try:
            return await self._send_legs(payment, attempts, *rest)
        except Unavailable:
            payment = copy_of(payment)
            payment.become(FAILED)
            return carrying._told(payment, attempts)

    FactLane._look_up = give_up  # type: ignore[method-assign]
    Carrier.carry = carry  # type: ignore[method-assign]


def dead_worker_sends() -> None:
    """A worker that others have taken for dead goes on where it was stopped."""
    Lease.check = lambda self, since=None: None  # type: ignore[method-assign]


MISTAKES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        capture_again,
        refunds_unseen,
        unknown_fails_by_time,
        headroom_before_reversal,
        commit_unknown_is_failure,
        dead_worker_sends,
    )
}

if __name__ == "__main__":
    MISTAKES[sys.argv[1]]()
    app(["serve"])
