"""Processors' callbacks: believed by their signature alone, applied once, never against a fact.

Signed with the reference library of Standard Webhooks, which the sender may be thought to use.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from standardwebhooks import Webhook

from tests.house import House, Reply, changed_config, new_key, running_house, until
from tests.http.doors import SCHEMES, assert_refused, call

UNKNOWN_ATTEMPT = "att_01JZ8QK0Y3V5N6W7X8Z9A0B1C21"
# Doubt is cheap to make, and nobody but the callback ends it while a test looks.
CONNECTORS = {
    "timeout_ms = 10000": "timeout_ms = 700",
    'terminal_id = "OQIM0001"': 'terminal_id = "OQIM0001"\ntimeout_ms = 700',
}
SETTINGS = {"poll_s = 0.5": "poll_s = 60.0", "command_timeout_s = 10.0": "command_timeout_s = 1.0"}


@pytest.fixture(scope="module")
async def doubtful() -> AsyncIterator[House]:
    """A house whose processors are given up early and not asked again."""
    with changed_config(connectors=CONNECTORS, settings=SETTINGS) as environment:
        async with running_house(workers=2, environment=environment) as house:
            yield house


def event(reference: str, amount: int, state: str = "approved", **more: Any) -> bytes:
    """Return a callback's body."""
    data = {"reference": reference, "state": state, "amount": amount, "currency": "UZS"} | more
    return json.dumps({"type": "operation.updated", "data": data}).encode()


def signed(
    house: House, connector: str, body: bytes, *, name: str | None = None, age_s: int = 0
) -> dict[str, str]:
    """Return the headers that make a body believed."""
    name = name or new_key()
    moment = int(time.time()) - age_s
    webhook = Webhook(house.description["callbacks"][connector])
    return {
        "Content-Type": "application/json",
        "webhook-id": name,
        "webhook-timestamp": str(moment),
        "webhook-signature": webhook.sign(
            name, datetime.fromtimestamp(moment, tz=UTC), body.decode()
        ),
    }


async def deliver(
    house: House, connector: str, body: bytes, headers: dict[str, str] | None = None
) -> Reply:
    """Call back, signed unless headers are given."""
    sent = signed(house, connector, body) if headers is None else headers
    return await call(house, "POST", f"/v1/callbacks/{connector}", data=body, headers=sent)


async def told(house: House, connector: str, body: bytes) -> str:
    """Call back, and return what was made of it."""
    headers = signed(house, connector, body)
    reply = await deliver(house, connector, body, headers)
    assert (reply.status, reply.body) == (200, {"received": True}), reply.raw
    (row,) = await stored(house, headers["webhook-id"])
    return str(row["state"])


async def stored(house: House, name: str) -> list[asyncpg.Record]:
    return await house.rows("SELECT state, body FROM callbacks WHERE event_id = $1", name)


async def count(house: House, table: str) -> int:
    assert table in ("callbacks", "conflicts", "payments")
    return int((await house.rows(f"SELECT count(*) FROM {table}"))[0][0])


async def conflicts(house: House, payment: dict[str, Any]) -> list[str]:
    rows = await house.rows("SELECT detail FROM conflicts WHERE payment_id = $1", payment["id"])
    return [row["detail"] for row in rows]


async def paid(house: House, user: int, scheme: str, amount: int) -> dict[str, Any]:
    reply = await house.pay(user, house.purchase(user, scheme, amount))
    assert (reply.status, reply.body["status"]) == (201, "succeeded"), reply.raw
    payment: dict[str, Any] = reply.body
    return payment


async def read(house: House, user: int, payment: dict[str, Any]) -> dict[str, Any]:
    token = house.user(user)["access_token"]
    reply = await house.call("GET", f"/v1/payments/{payment['id']}", token=token)
    found: dict[str, Any] = reply.body
    return found


# Settling what was in doubt -----------------------------------------------------------------------

# The message that commits the money, so that the processor holds it when its answer is lost.
COMMITS = {"uzcard": "trans.pay.purpose", "humo": "confirm", "visa": "purchase"}


async def in_doubt(house: House, user: int, scheme: str, amount: int) -> dict[str, Any]:
    """Pay, and lose the processor's answer."""
    lost = {"kind": "drop_reply_after_commit", "count": 1, "method": COMMITS[scheme]}
    async with house.fault(scheme, **lost):
        reply = await house.pay(user, house.purchase(user, scheme, amount))
    assert (reply.status, reply.body["status"]) == (202, "processing"), reply.raw
    payment: dict[str, Any] = reply.body
    return payment


@pytest.mark.fault(rows=[32], what="told before anybody asks")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_a_callback_ends_doubt_before_anybody_asks(doubtful: House, scheme: str) -> None:
    """What the processor did is known as soon as it says so, and is charged once."""
    payment = await in_doubt(doubtful, 1, scheme, 1_234_500)
    body = event(payment["attempts"][0]["id"], payment["total_debit"], rrn="777000777001")
    assert await told(doubtful, scheme, body) == "applied"
    after = await read(doubtful, 1, payment)
    assert (after["status"], after["amount_received"]) == ("succeeded", 1_234_500)
    (attempt,) = after["attempts"]
    assert (attempt["state"], attempt["outcome_source"]) == ("captured", "callback")
    assert attempt["rrn"] == "777000777001"
    assert await conflicts(doubtful, payment) == []
    held = [one for one in await doubtful.ledger(scheme) if one["amount"] == 1_234_500]
    assert [one["state"] for one in held] == ["approved"], "charged once"
    # Told again under another name, it is no news.
    assert await told(doubtful, scheme, body) == "ignored"


@pytest.mark.parametrize(("scheme", "code"), [("uzcard", "-240"), ("humo", "116")])
async def test_a_decline_that_is_told_gives_the_headroom_back(
    doubtful: House, scheme: str, code: str
) -> None:
    before = await used(doubtful, 2, scheme)
    async with doubtful.fault(scheme, kind="drop_request", count=1):
        reply = await doubtful.pay(2, doubtful.purchase(2, scheme, 2_345_600))
    assert reply.status == 202, reply.raw
    assert await used(doubtful, 2, scheme) == before + 2_345_600, "reserved while in doubt"
    payment = reply.body
    body = event(payment["attempts"][0]["id"], payment["total_debit"], "declined", code=code)
    assert await told(doubtful, scheme, body) == "applied"
    after = await read(doubtful, 2, payment)
    assert (after["status"], after["amount_received"]) == ("failed", 0)
    assert after["decline"]["code"] == "insufficient_funds"
    assert await used(doubtful, 2, scheme) == before


async def used(house: House, user: int, scheme: str) -> int:
    """Return what is used of a card's day."""
    card, token = house.user(user)["cards"][scheme], house.user(user)["access_token"]
    reply = await house.call("GET", f"/v1/limits?card={card}&operation=purchase", token=token)
    (day,) = [one for one in reply.body["limits"] if one["policy"] == "card-day"]
    return int(day["used_amount"])


@pytest.mark.fault(rows=[30], what="copies at once")
async def test_many_copies_at_once_are_applied_once(doubtful: House) -> None:
    """A sender that repeats itself is answered 2xx each time."""
    payment = await in_doubt(doubtful, 3, "uzcard", 3_456_700)
    body = event(payment["attempts"][0]["id"], payment["total_debit"])
    headers = signed(doubtful, "uzcard", body)
    replies = await asyncio.gather(*(deliver(doubtful, "uzcard", body, headers) for _ in range(20)))
    assert [one.status for one in replies] == [200] * 20
    (row,) = await stored(doubtful, headers["webhook-id"])
    assert (row["state"], bytes(row["body"])) == ("applied", body)
    rows = await doubtful.rows(
        "SELECT type FROM outbox WHERE payment_id = $1 AND type = 'payment.succeeded'",
        payment["id"],
    )
    assert len(rows) == 1, "told once"
    assert await conflicts(doubtful, payment) == []


async def test_a_callback_that_could_not_be_applied_is_applied_when_it_comes_again(
    doubtful: House,
) -> None:
    """Stored is not applied: while the books are away the sender is told to come again."""
    payment = await in_doubt(doubtful, 4, "uzcard", 4_567_800)
    body = event(payment["attempts"][0]["id"], payment["total_debit"])
    headers = signed(doubtful, "uzcard", body)
    connection = await asyncpg.connect(doubtful.description["database_url"])
    try:
        async with connection.transaction():
            await connection.execute(
                "SELECT 1 FROM payments WHERE id = $1 FOR UPDATE", payment["id"]
            )
            reply = await deliver(doubtful, "uzcard", body, headers)
            assert_refused(reply, 503, "unavailable")
            (row,) = await stored(doubtful, headers["webhook-id"])
            assert row["state"] == "received"
    finally:
        await connection.close()

    async def concluded() -> bool:
        again = await deliver(doubtful, "uzcard", body, headers)
        assert again.status == 200, again.raw
        (row,) = await stored(doubtful, headers["webhook-id"])
        # Ignored, when the books took the first after all as soon as they were back.
        return row["state"] in ("applied", "ignored")

    await until(concluded, within_s=20)
    after = await read(doubtful, 4, payment)
    assert (after["status"], after["amount_received"]) == ("succeeded", 4_567_800)
    assert after["attempts"][0]["outcome_source"] == "callback"
    assert await conflicts(doubtful, payment) == []


# What is known already ----------------------------------------------------------------------------


async def test_what_agrees_with_a_fact_is_no_news(house: House) -> None:
    payment = await paid(house, 30, "humo", 1_111_100)
    body = event(payment["attempts"][0]["id"], payment["total_debit"])
    assert await told(house, "humo", body) == "ignored"
    assert await read(house, 30, payment) == payment
    assert await conflicts(house, payment) == []


@pytest.mark.fault(rows=[31], what="told the opposite afterwards")
@pytest.mark.parametrize(
    "change",
    [
        {"state": "declined", "code": "51"},
        {"state": "reversed"},
        {"amount": 1},
        {"amount": 10**15},
        {"currency": "USD"},
    ],
)
async def test_what_contradicts_a_fact_is_kept_for_an_operator(
    house: House, change: dict[str, Any]
) -> None:
    """A terminal state is never overwritten; two truths are a conflict, kept once."""
    payment = await paid(house, 31, "uzcard", 2_222_200)
    data = {"state": "approved"} | change
    body = event(payment["attempts"][0]["id"], data.pop("amount", payment["total_debit"]), **data)
    headers = signed(house, "uzcard", body)
    for _ in range(3):
        reply = await deliver(house, "uzcard", body, headers)
        assert reply.status == 200, reply.raw
    assert await read(house, 31, payment) == payment, "nothing changed"
    (detail,) = await conflicts(house, payment)
    assert payment["attempts"][0]["id"] in detail
    (row,) = await stored(house, headers["webhook-id"])
    assert row["state"] in ("conflict", "ignored")


@pytest.mark.fault(rows=[33], what="about nothing of ours")
@pytest.mark.parametrize("scheme", SCHEMES)
async def test_what_is_about_nothing_of_ours_is_parked(house: House, scheme: str) -> None:
    payments = await count(house, "payments")
    assert await told(house, scheme, event(UNKNOWN_ATTEMPT, 100)) == "parked"
    assert await told(house, scheme, event("whatever", 100)) == "parked"
    assert await count(house, "payments") == payments


async def test_one_processor_does_not_speak_for_another(house: House) -> None:
    """A true signature of UZCARD says nothing of HUMO's attempts."""
    payment = await paid(house, 32, "humo", 3_333_300)
    body = event(payment["attempts"][0]["id"], payment["total_debit"], "reversed")
    assert await told(house, "uzcard", body) == "parked"
    reply = await deliver(house, "humo", body, signed(house, "uzcard", body))
    assert_refused(reply, 401, "callback-signature-invalid")
    assert await read(house, 32, payment) == payment
    assert await conflicts(house, payment) == []


# What is not believed -----------------------------------------------------------------------------

BODY = event(UNKNOWN_ATTEMPT, 100)
BAD_HEADERS: list[tuple[int, dict[str, str | None], int, str]] = [
    (83, {"webhook-signature": None}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": ""}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": "v1"}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": "v1,"}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": "v1,%%%"}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": "v1,AAAA"}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": "v1," + "A" * 44}, 401, "callback-signature-invalid"),
    (83, {"webhook-signature": " ".join(["v1,AAAA"] * 1_000)}, 401, "callback-signature-invalid"),
    (84, {"webhook-timestamp": None}, 401, "callback-timestamp-invalid"),
    (84, {"webhook-timestamp": "now"}, 401, "callback-timestamp-invalid"),
    (84, {"webhook-timestamp": "1.5"}, 401, "callback-timestamp-invalid"),
    (84, {"webhook-timestamp": "-1"}, 401, "callback-timestamp-invalid"),
    (84, {"webhook-timestamp": "1" + "0" * 30}, 401, "callback-timestamp-invalid"),
    (85, {"webhook-id": None}, 400, "callback-invalid"),
    (85, {"webhook-id": ""}, 400, "callback-invalid"),
    (85, {"webhook-id": "a.b"}, 400, "callback-invalid"),
    (85, {"webhook-id": "x" * 5_000}, 400, "callback-invalid"),
]


@pytest.mark.fault(rows=[34], what="forged")
@pytest.mark.parametrize(("row", "change", "status", "slug"), BAD_HEADERS)
async def test_a_callback_without_a_true_signature_is_refused(
    house: House, row: int, change: dict[str, str | None], status: int, slug: str
) -> None:
    before = await count(house, "callbacks")
    headers = {
        name: value
        for name, value in (signed(house, "uzcard", BODY) | change).items()
        if value is not None
    }
    assert_refused(await deliver(house, "uzcard", BODY, headers), status, slug)
    assert await count(house, "callbacks") == before, f"row {row}: it was stored"


@pytest.mark.fault(rows=[34], what="old")
@pytest.mark.parametrize("age_s", [301 + 5, -301 - 5, 86_400])
async def test_an_old_signature_is_refused(house: House, age_s: int) -> None:
    """Row 84: what was true five minutes ago may be a replay."""
    before = await count(house, "callbacks")
    headers = signed(house, "uzcard", BODY, age_s=age_s)
    reply = await deliver(house, "uzcard", BODY, headers)
    assert_refused(reply, 401, "callback-timestamp-invalid")
    assert await count(house, "callbacks") == before


async def test_a_changed_body_is_refused(house: House) -> None:
    """Row 86: one byte, one space, or the same JSON written anew."""
    before = await count(house, "callbacks")
    headers = signed(house, "uzcard", BODY)
    rewritten = json.dumps(json.loads(BODY), separators=(",", ":")).encode()
    for changed in (BODY.replace(b"100", b"101"), BODY + b" ", rewritten, b"", b"\xff" + BODY):
        assert changed != BODY
        reply = await deliver(house, "uzcard", changed, headers)
        assert_refused(reply, 401, "callback-signature-invalid")
    assert await count(house, "callbacks") == before
    assert (await deliver(house, "uzcard", BODY, headers)).status == 200, "as it was signed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"type":"other","data":{}}',
        event("", 100),
        event(UNKNOWN_ATTEMPT, 0),
        event(UNKNOWN_ATTEMPT, -1),
        event(UNKNOWN_ATTEMPT, 100, "perhaps"),
        event(UNKNOWN_ATTEMPT, 100, currency="soum"),
        event(UNKNOWN_ATTEMPT, 100, rrn=7),
        event(UNKNOWN_ATTEMPT, 100).replace(b"100", b"1.5"),
        event(UNKNOWN_ATTEMPT, 100).replace(b"100", b"NaN"),
        event("att_\x00", 100),
        b"[" * 60_000,
    ],
)
async def test_a_true_signature_does_not_make_a_true_form(house: House, body: bytes) -> None:
    before = await count(house, "callbacks")
    assert_refused(await deliver(house, "uzcard", body), 400, "callback-invalid")
    assert await count(house, "callbacks") == before


async def test_one_name_has_one_body(house: House) -> None:
    """Row 88."""
    headers = signed(house, "uzcard", BODY)
    assert (await deliver(house, "uzcard", BODY, headers)).status == 200
    other = event(UNKNOWN_ATTEMPT, 101)
    changed = signed(house, "uzcard", other, name=headers["webhook-id"])
    assert_refused(await deliver(house, "uzcard", other, changed), 409, "callback-conflict")
    (row,) = await stored(house, headers["webhook-id"])
    assert bytes(row["body"]) == BODY, "the first stays"
    # Names are each sender's own.
    elsewhere = signed(house, "humo", other, name=headers["webhook-id"])
    assert (await deliver(house, "humo", other, elsewhere)).status == 200


async def test_a_processor_that_is_not_there_is_not_found(house: House) -> None:
    reply = await deliver(house, "amex", BODY, signed(house, "uzcard", BODY))
    assert_refused(reply, 404, "not-found")


async def test_a_callback_has_a_bound(house: House) -> None:
    body = BODY + b" " * 65_536
    assert_refused(await deliver(house, "uzcard", body), 413, "payload-too-large")
