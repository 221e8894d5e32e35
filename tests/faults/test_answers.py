"""What processors answer to what undoes: not found, declined, nonsense, nothing; and what follows.

Rows are those of the table in docs/reliability.md.
"""

from __future__ import annotations

import pytest

from tests.faults.invariants import broken, hold_all
from tests.faults.world import Asked, Clients, ask
from tests.house import House, until
from tests.http.test_callbacks import deliver, event
from tests.payments.books import attempts_of, conflicts, entries, fresh_amount

REVERSAL = ("0400", "0420", "0421")


async def in_doubt(house: House, one: Asked) -> str:
    """Pay over VISA, the answer lost; returns the payment's id."""
    drop = {"kind": "drop_reply_after_commit", "count": 1, "method": "purchase"}
    await house.simulator("POST", "visa", "/_sim/faults", drop)
    reply = await ask(house, one)
    assert reply is not None, "the worker lives"
    assert reply.status == 202, reply.raw
    return str(reply.body["id"])


@pytest.mark.fault(rows=[19], what="reversals that are lost: 0400, then 0420, then 0421 repeated")
async def test_a_reversal_is_advised_until_it_is_acknowledged(
    sandbox: House, clients: Clients
) -> None:
    """Row 19: a request, an advice, and its repeats; headroom is back when one is acknowledged."""
    one = clients.want(21, sandbox.purchase(21, "visa", fresh_amount()))
    for method in REVERSAL:
        lost = {"kind": "drop_request", "count": 1, "method": method}
        await sandbox.simulator("POST", "visa", "/_sim/faults", lost)
    payment_id = await in_doubt(sandbox, one)
    payment = await sandbox.settled(21, payment_id)
    assert payment["status"] == "failed"
    armed = await sandbox.simulator("GET", "visa", "/_sim/faults")
    assert armed == [], "each of the three was sent, and the third again"
    assert [entry["state"] for entry in await entries(sandbox, payment)] == ["reversed"]
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[21, 27], what="reversals declined, or answered with an unknown code")
@pytest.mark.parametrize("code", ["05", "96", "ZZ"])
async def test_a_reversal_that_is_declined_is_asked_again(
    sandbox: House, clients: Clients, code: str
) -> None:
    """Rows 21, 27: no answer but an acknowledgement ends it."""
    one = clients.want(22, sandbox.purchase(22, "visa", fresh_amount()))
    for method in REVERSAL:
        refuse = {"kind": "decline", "count": 1, "method": method, "code": code}
        await sandbox.simulator("POST", "visa", "/_sim/faults", refuse)
    payment_id = await in_doubt(sandbox, one)
    payment = await sandbox.settled(22, payment_id)
    assert payment["status"] == "failed"
    assert await sandbox.simulator("GET", "visa", "/_sim/faults") == []
    assert [entry["state"] for entry in await entries(sandbox, payment)] == ["reversed"]
    await hold_all(sandbox, clients)


@pytest.mark.fault(rows=[20], what="a reversal whose original is said not to be known")
async def test_an_original_not_found_that_is_approved_later(doomed: House) -> None:
    """Row 20: it ends; an approval told afterwards changes nothing and goes to operators."""
    clients = Clients()
    one = clients.want(23, doomed.purchase(23, "visa", fresh_amount()))
    unknown = {"kind": "decline", "count": 1, "method": "0400", "code": "25"}
    await doomed.simulator("POST", "visa", "/_sim/faults", unknown)
    payment_id = await in_doubt(doomed, one)
    payment = await doomed.settled(23, payment_id)
    assert payment["status"] == "failed"
    found = [sentence for sentence in await broken(doomed, clients) if payment_id in sentence]
    assert [sentence[:2] for sentence in found] == ["I4"], "VISA lied, and holds it charged"
    (attempt,) = (await attempts_of(doomed, payment_id))[payment_id]
    await deliver(doomed, "visa", event(attempt.id, payment["total_debit"]))

    async def is_told() -> bool:
        return bool(await conflicts(doomed, payment_id))

    await until(is_told, within_s=10)
    assert (await doomed.settled(23, payment_id))["status"] == "failed"
    token = doomed.description["operators"][0]["access_token"]
    reviews = (await doomed.call("GET", "/admin/v1/reviews?limit=100", token=token)).body["data"]
    assert [review["kind"] for review in reviews if review["payment"] == payment_id] == ["conflict"]
