"""Payments that wait for a code: bound to what they confirm, tried thrice, used once, in time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.verify import verify
from tests.house import House, new_key, running_house, until
from tests.payments.stepping_up import (
    AMOUNT,
    careful_config,
    change,
    code_of,
    confirm,
    log_in,
    status_of,
    waiting,
)

CODE_LIVES_S = 59
LOCK_S = 900


@pytest.fixture(scope="module")
async def house() -> AsyncIterator[House]:
    """A house where transfers wait for a code."""
    with careful_config() as environment:
        async with running_house(environment=environment) as house:
            yield house


async def charged(house: House) -> int:
    """Count what UZCARD paid out of such transfers."""
    return sum(one["amount"] == AMOUNT for one in await house.ledger("uzcard"))


async def test_a_step_up_is_confirmed_by_a_code_and_pays_once(house: House) -> None:
    """It waits, sends nothing, and goes through once the code is given."""
    body = house.transfer(6, "uzcard", 7, "uzcard", AMOUNT)
    key = new_key()
    asked = await house.pay(6, body, key=key)
    assert (asked.status, asked.body["status"]) == (201, "requires_action")
    payment_id = asked.body["id"]
    assert asked.body["next_action"]["confirm"] == f"/v1/payments/{payment_id}/confirm"
    assert asked.body["attempts"] == []
    code = await code_of(house, 6)
    wrong = await confirm(house, 6, payment_id, "WRONG2")
    assert (wrong.status, wrong.code) == (422, "otp-invalid")
    stranger = await confirm(house, 7, payment_id, code)
    assert stranger.status == 404
    once = new_key()
    paid = await confirm(house, 6, payment_id, code, key=once)
    assert (paid.status, paid.body["status"], paid.body["id"]) == (201, "succeeded", payment_id)
    again = await confirm(house, 6, payment_id, code, key=once)
    assert again.raw == paid.raw
    assert again.headers["idempotent-replayed"] == "true"
    other_key = await confirm(house, 6, payment_id, code)
    assert (other_key.status, other_key.code) == (409, "otp-already-used")
    # The first key goes on answering what it answered.
    assert (await house.pay(6, body, key=key)).raw == asked.raw
    token = house.description["operators"][0]["access_token"]
    shown = await house.call("GET", f"/v1/payments/{payment_id}/trace", token=token)
    limits = [one for one in shown.body["steps"] if one["step"] == "limit"]
    (careful,) = [one for one in limits if one["detail"]["policy"] == "careful"]
    assert (careful["outcome"], careful["detail"]["is_breached"]) == ("passed", True)
    assert await charged(house) >= 1


async def test_the_message_says_what_the_code_confirms(house: House) -> None:
    """The amount, so that whoever reads it sees what another has made of the payment."""
    await waiting(house, 32)
    phone = house.user(32)["phone"].replace("+", "%2B")
    sent = (await house.call("GET", f"/sandbox/v1/messages?to={phone}")).body["data"][0]
    assert sent["text"].startswith(f"Oqim: {sent['code']} confirms 15,000.00 UZS"), sent["text"]


async def test_what_is_stated_rightly_is_paid(house: House) -> None:
    """An app that says all it showed is believed when it is what was decided."""
    payment = await waiting(house, 8)
    said = {name: payment[name] for name in ("amount", "currency", "destination")}
    said["nonce"] = payment["next_action"]["nonce"]
    paid = await confirm(house, 8, payment["id"], await code_of(house, 8), **said)
    assert (paid.status, paid.body["status"]) == (201, "succeeded"), paid.raw


@pytest.mark.parametrize(
    ("user", "said"),
    [
        (10, {"amount": AMOUNT + 1}),
        (11, {"currency": "USD"}),
        (12, {"destination": {"card": "card_00000000000000000000000000"}}),
        (13, {"nonce": "another"}),
    ],
)
async def test_a_code_given_for_anything_else_is_burnt(
    house: House, user: int, said: dict[str, Any]
) -> None:
    """One field that is not what the code was sent for: refused, and the code ends with it."""
    payment = await waiting(house, user)
    code = await code_of(house, user)
    reply = await confirm(house, user, payment["id"], code, **said)
    assert (reply.status, reply.code) == (422, "sca-binding-mismatch"), reply.raw
    late = await confirm(house, user, payment["id"], code)
    assert (late.status, late.code) == (409, "otp-already-used")
    assert await status_of(house, payment["id"]) == "requires_action", "nothing was sent"


async def test_a_code_given_for_another_payment_is_burnt(house: House) -> None:
    """Where it is given nothing is lost; what it was sent for cannot be confirmed any more."""
    first = await waiting(house, 14)
    code = await code_of(house, 14)
    second = await waiting(house, 14)
    mixed_up = await confirm(house, 14, second["id"], code)
    assert (mixed_up.status, mixed_up.code) == (422, "sca-binding-mismatch")
    assert (await confirm(house, 14, first["id"], code)).code == "otp-already-used"
    paid = await confirm(house, 14, second["id"], await code_of(house, 14))
    assert (paid.status, paid.body["status"]) == (201, "succeeded"), paid.raw


@pytest.mark.parametrize(
    ("user", "table", "column", "value"),
    [
        (15, "payments", "amount_minor", "1"),
        (16, "payments", "currency", "'USD'"),
        (17, "payments", "destination_card_id", "'card_00000000000000000000000000'"),
        (18, "step_ups", "nonce", "'another'"),
    ],
)
async def test_what_is_changed_where_it_is_kept_is_not_confirmed(
    house: House, user: int, table: str, column: str, value: str
) -> None:
    """Whoever can write to the database cannot have a customer's code confirm something else."""
    payment = await waiting(house, user)
    key = "id" if table == "payments" else "payment_id"
    (row,) = await house.rows(f"SELECT {column} FROM {table} WHERE {key} = $1", payment["id"])
    done = await change(
        house, f"UPDATE {table} SET {column} = {value} WHERE {key} = $1", payment["id"]
    )
    assert done == "UPDATE 1"
    reply = await confirm(house, user, payment["id"], await code_of(house, user))
    assert (reply.status, reply.code) == (422, "sca-binding-mismatch"), reply.raw
    assert await status_of(house, payment["id"]) == "requires_action"
    # As it was: the audit log tells the other tests of this one otherwise.
    await change(
        house, f"UPDATE {table} SET {column} = $2 WHERE {key} = $1", payment["id"], row[column]
    )


async def test_three_wrong_codes_lock_for_a_quarter_of_an_hour(house: House) -> None:
    """Over all payments: neither the right code helps, nor a payment made anew."""
    first, code = await waiting(house, 20), await code_of(house, 20)
    second = await waiting(house, 20)
    for payment in (first, second, first):
        wrong = await confirm(house, 20, payment["id"], "WRONG2")
        assert (wrong.status, wrong.code) == (422, "otp-invalid")
    locked = await confirm(house, 20, first["id"], code)
    assert (locked.status, locked.code) == (429, "otp-locked")
    assert LOCK_S <= int(locked.headers["retry-after"]) <= LOCK_S + CODE_LIVES_S
    body = house.transfer(20, "uzcard", 21, "uzcard", AMOUNT)
    anew = await house.pay(20, body)
    assert (anew.status, anew.code) == (429, "otp-locked")
    assert LOCK_S <= int(anew.headers["retry-after"]) <= LOCK_S + CODE_LIVES_S
    # The time passes.
    await change(
        house,
        "UPDATE step_ups SET expires_at = expires_at - interval '16 minutes' WHERE owner = $1",
        house.user(20)["id"],
    )
    assert (await house.pay(20, body)).status == 201


async def test_guesses_at_once_are_counted(house: House) -> None:
    """Of many at one moment, over two payments, no more than three are looked at."""
    payments = [await waiting(house, 22), await waiting(house, 22)]
    replies = await asyncio.gather(
        *(confirm(house, 22, payments[number % 2]["id"], "WRONG2") for number in range(12))
    )
    codes = sorted(str(reply.code) for reply in replies)
    assert codes == ["otp-invalid"] * 3 + ["otp-locked"] * 9


async def test_a_code_is_used_once(house: House) -> None:
    """Of many confirmations at one moment one pays."""
    payment = await waiting(house, 24)
    before, code = await charged(house), await code_of(house, 24)
    replies = await asyncio.gather(*(confirm(house, 24, payment["id"], code) for _ in range(6)))
    assert [reply.status for reply in replies].count(201) == 1, [one.raw for one in replies]
    assert {reply.status for reply in replies if reply.status != 201} <= {409, 429}
    assert await charged(house) == before + 1


async def test_a_code_lives_59_seconds_and_what_waits_is_canceled_then(house: House) -> None:
    """It is canceled by itself, and the code helps no more."""
    payment = await waiting(house, 26)
    code = await code_of(house, 26)
    made = datetime.fromisoformat(payment["created_at"])
    ends = datetime.fromisoformat(payment["next_action"]["expires_at"])
    assert 0 <= (ends - made).total_seconds() - CODE_LIVES_S < 2
    await change(
        house, "UPDATE step_ups SET expires_at = now() WHERE payment_id = $1", payment["id"]
    )

    async def canceled() -> bool:
        token = house.user(26)["access_token"]
        shown = await house.call("GET", f"/v1/payments/{payment['id']}", token=token)
        return bool(shown.body["status"] == "canceled" and shown.body["next_action"] is None)

    await until(canceled, within_s=15)
    late = await confirm(house, 26, payment["id"], code)
    assert (late.status, late.code) == (409, "invalid-state")


async def test_another_session_of_the_same_customer_may_confirm(house: House) -> None:
    """The code came to the customer's phone; which device it is typed on is the customer's."""
    other = await log_in(house, 28)
    payment = await waiting(house, 28)
    code = await code_of(house, 28)
    paid = await confirm(house, 28, payment["id"], code, token=other.access_token)
    assert (paid.status, paid.body["status"]) == (201, "succeeded"), paid.raw


async def test_that_it_must_wait_is_decided_on_record(house: House, tmp_path: Path) -> None:
    """The decision log has it before anybody confirms, and what it says stays true afterwards."""
    payment = await waiting(house, 30)
    (row,) = await house.rows(
        "SELECT decision_id FROM step_ups WHERE payment_id = $1", payment["id"]
    )

    async def exported() -> dict[str, Any]:
        """Return the documents of an export that holds, by id."""
        file = tmp_path / f"{new_key()}.jsonl"
        done = await asyncio.to_thread(house.oqim, "audit", "export", "--out", str(file))
        assert done.returncode == 0, done.stderr
        lines = file.read_bytes().splitlines()
        assert verify(lines, key=None, anchor=None).faults == []
        told = [json.loads(line) for line in lines]
        documents = [one for one in told if one["type"] == "document"]
        return {one["id"]: json.loads(one["document"]) for one in documents}

    before = await exported()
    decided = before[row["decision_id"]]
    assert (decided["code"], decided["payment"]) == ("requires_action", payment["id"])
    assert (decided["amount"], decided["owner"]) == (AMOUNT, house.user(30)["id"])
    assert payment["id"] not in before, "that it is paid is not decided yet"
    paid = await confirm(house, 30, payment["id"], await code_of(house, 30))
    assert paid.body["status"] == "succeeded"
    after = await exported()
    assert after[row["decision_id"]] == decided
    assert payment["id"] in after
