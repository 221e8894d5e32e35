"""Logging in by one-time code, as an app does it. Nothing here imports the product."""

from __future__ import annotations

import itertools

from tests.house import House, Reply
from tests.http.doors import call

_phones = itertools.count(1)
OTP = "urn:oqim:params:oauth:grant-type:otp"


def fresh_phone() -> str:
    return f"+99890555{next(_phones):04}"


async def challenge(house: House, phone: str) -> tuple[str, str]:
    """Ask for a code; return the challenge and the code that was sent."""
    reply = await call(house, "POST", "/v1/auth/challenges", {"phone": phone})
    assert reply.status == 201, reply.raw
    sent = await call(house, "GET", f"/sandbox/v1/messages?to={phone.replace('+', '%2B')}")
    return reply.body["challenge_id"], sent.body["data"][0]["code"]


async def exchange(house: House, challenge_id: str, code: str) -> Reply:
    form = {
        "grant_type": OTP,
        "challenge_id": challenge_id,
        "code": code,
        "device_id": "test",
        "client_id": "mobile",
    }
    return await call(house, "POST", "/oauth/token", data=form)


def other(code: str) -> str:
    """Return a code of the same form that was not sent."""
    return ("B" if code[0] == "A" else "A") + code[1:]
