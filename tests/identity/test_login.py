"""Logging in: one-time codes and what they are exchanged for."""

import asyncio
import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.identity.model import GRANT_OTP
from tests.identity.worker import CODE, Worker, wrong

PHONE = "+998901234567"
ARABIC_DIGITS = "+" + "".join(chr(0x0660 + int(digit)) for digit in PHONE[1:])
OTP = GRANT_OTP
NO_CHALLENGE = "chl_00000000000000000000000000_0123456789abcdef"


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ({}, (422, "schema-violation")),
        ({"phone": 998901234567}, (422, "schema-violation")),
        ({"phone": "9" * 65}, (422, "too-long")),
        ({"phone": PHONE, "channel": "sms"}, (422, "unknown-member")),
        ({"phone": ""}, (422, "invalid-phone")),
        ({"phone": "abc"}, (422, "invalid-phone")),
        ({"phone": "12"}, (422, "invalid-phone")),
        ({"phone": "+99890123456"}, (422, "invalid-phone")),
        ({"phone": "+999901234567"}, (422, "invalid-phone")),
        ({"phone": f"{PHONE};ext=1"}, (422, "invalid-phone")),
        ({"phone": ARABIC_DIGITS}, (422, "invalid-phone")),
    ],
)
async def test_ask_refuses_what_is_no_phone(
    worker: Worker, body: dict[str, Any], verdict: tuple[int, str]
) -> None:
    """A body that names no phone is refused and sends nothing."""
    reply = await worker.call("POST", "/v1/auth/challenges", body=body)
    assert verdict == reply.verdict
    assert await worker.redis.keys("otp:*") == []


@pytest.mark.parametrize("text", [PHONE, "901234567", "998901234567", " +998 90 123-45-67 "])
async def test_ask_reads_a_phone_however_it_is_written(worker: Worker, text: str) -> None:
    """Every way to write a number reaches the same phone, with a code of letters and digits."""
    reply = await worker.call("POST", "/v1/auth/challenges", body={"phone": text})
    assert reply.status == 201
    assert {"challenge_id", "expires_at", "resend_at"} == set(reply.body)
    code = await worker.code(PHONE)
    assert CODE.match(code)
    assert any(one.isdigit() for one in code)
    assert any(one.isalpha() for one in code)


async def test_ask_waits_until_a_code_may_be_sent_again(worker: Worker) -> None:
    """Another code is refused until the resend time, and then replaces the one before."""
    first = await worker.ask(PHONE)
    first_code = await worker.code(PHONE)
    worker.clock.advance(10)
    early = await worker.call("POST", "/v1/auth/challenges", body={"phone": PHONE})
    assert early.verdict == (429, "rate-limited")
    assert early.headers["Retry-After"] == "20"
    worker.clock.advance(20)
    second = await worker.ask(PHONE)
    assert (await worker.use(first, first_code)).verdict == (422, "otp-expired")
    assert (await worker.use(second, await worker.code(PHONE))).status == 200


async def test_ask_keeps_neither_code_nor_phone_in_the_open(worker: Worker) -> None:
    """Of a code there is a keyed hash, and no key names the phone."""
    await worker.ask(PHONE)
    code = await worker.code(PHONE)
    keys = [key async for key in worker.redis.scan_iter("otp:*")]
    assert len(keys) == 2
    for key in keys:
        assert PHONE[1:].encode() not in key
        assert code not in str(await worker.redis.hgetall(key)).upper()
        assert await worker.redis.ttl(key) > 0


@pytest.mark.parametrize(
    ("form", "verdict"),
    [
        ({}, (400, "invalid-request")),
        ({"grant_type": "password"}, (400, "unsupported-grant-type")),
        ({"grant_type": "authorization_code"}, (400, "unsupported-grant-type")),
        ({"grant_type": OTP}, (400, "invalid-request")),
        ({"grant_type": OTP, "challenge_id": "x", "code": "y"}, (400, "invalid-request")),
        (
            {"grant_type": OTP, "challenge_id": "x", "code": "y", "device_id": ""},
            (400, "invalid-request"),
        ),
        (
            {"grant_type": OTP, "challenge_id": "x", "code": "y", "device_id": "d" * 129},
            (400, "invalid-request"),
        ),
        (
            {"grant_type": OTP, "challenge_id": "x", "code": "y", "device_id": "d"},
            (400, "invalid-grant"),
        ),
        (
            {"grant_type": OTP, "challenge_id": NO_CHALLENGE, "code": "y", "device_id": "d"},
            (400, "invalid-grant"),
        ),
        (
            {
                "grant_type": OTP,
                "challenge_id": NO_CHALLENGE,
                "code": "y",
                "device_id": "d",
                "client_id": "nobody",
            },
            (401, "invalid-client"),
        ),
        ({"grant_type": "refresh_token"}, (400, "invalid-request")),
        ({"grant_type": "refresh_token", "refresh_token": "ort_x"}, (400, "invalid-grant")),
        ({"grant_type": "client_credentials"}, (401, "invalid-client")),
        ({"grant_type": "client_credentials", "client_id": "mobile"}, (401, "invalid-client")),
        ({"grant_type": "client_credentials", "client_id": "shop"}, (401, "invalid-client")),
        (
            {"grant_type": "client_credentials", "client_id": "shop", "client_secret": "no"},
            (401, "invalid-client"),
        ),
        (
            {"grant_type": "client_credentials", "client_id": "mobile", "client_secret": ""},
            (401, "invalid-client"),
        ),
    ],
)
async def test_token_refuses(
    worker: Worker, form: dict[str, str], verdict: tuple[int, str]
) -> None:
    """Each grant that cannot be is refused with its own problem."""
    await worker.clients.put(
        client_id="shop", channel="api", subject="mer_1", secret="s3cret", scopes=["payments:read"]
    )
    reply = await worker.call("POST", "/oauth/token", form=form)
    assert verdict == reply.verdict
    assert reply.headers["Cache-Control"] == "no-store"


async def test_token_reads_forms_alone(worker: Worker) -> None:
    """JSON is not what RFC 6749 sends."""
    reply = await worker.call("POST", "/oauth/token", body={"grant_type": OTP})
    assert reply.verdict == (415, "unsupported-media-type")


async def test_wrong_codes_lock_the_phone(worker: Worker) -> None:
    """After three wrong codes the phone is locked for 15 minutes, for right codes too."""
    challenge = await worker.ask(PHONE)
    code = await worker.code(PHONE)
    for _ in range(3):
        assert (await worker.use(challenge, wrong(code))).verdict == (422, "otp-invalid")
    locked = await worker.use(challenge, code)
    assert locked.verdict == (429, "otp-locked")
    assert locked.headers["Retry-After"] == "900"
    worker.clock.advance(899)
    again = await worker.call("POST", "/v1/auth/challenges", body={"phone": PHONE})
    assert again.verdict == (429, "otp-locked")
    assert again.headers["Retry-After"] == "1"
    worker.clock.advance(1)
    await worker.log_in(PHONE)


async def test_wrong_codes_count_over_challenges(worker: Worker) -> None:
    """Asking for another code gives no more guesses."""
    first = await worker.ask(PHONE)
    for _ in range(2):
        await worker.use(first, wrong(await worker.code(PHONE)))
    worker.clock.advance(30)
    second = await worker.ask(PHONE)
    code = await worker.code(PHONE)
    assert (await worker.use(second, wrong(code))).verdict == (422, "otp-invalid")
    assert (await worker.use(second, code)).verdict == (429, "otp-locked")


async def test_guesses_at_once_are_counted(worker: Worker) -> None:
    """Of many guesses at one moment no more than three are looked at."""
    challenge = await worker.ask(PHONE)
    guess = wrong(await worker.code(PHONE))
    replies = await asyncio.gather(*(worker.use(challenge, guess) for _ in range(12)))
    verdicts = sorted(reply.verdict for reply in replies)
    assert verdicts == [(422, "otp-invalid")] * 3 + [(429, "otp-locked")] * 9


async def test_a_code_expires(worker: Worker) -> None:
    """A code works in its last second and not after it."""
    challenge = await worker.ask(PHONE)
    worker.clock.advance(59)
    late = await worker.use(challenge, await worker.code(PHONE))
    assert late.verdict == (422, "otp-expired")
    challenge = await worker.ask(PHONE)
    worker.clock.advance(58.9)
    assert (await worker.use(challenge, (await worker.code(PHONE)).lower())).status == 200


async def test_a_code_is_used_once(worker: Worker) -> None:
    """Of many uses at one moment one logs in; every other hears that it was used."""
    challenge = await worker.ask(PHONE)
    code = await worker.code(PHONE)
    replies = await asyncio.gather(*(worker.use(challenge, code) for _ in range(10)))
    verdicts = sorted(reply.verdict for reply in replies)
    assert verdicts == [(200, "")] + [(409, "otp-already-used")] * 9
    assert await worker.pool.fetchval("SELECT count(*) FROM sessions") == 1


async def test_a_code_belongs_to_its_challenge(worker: Worker) -> None:
    """The code of one phone proves nothing of another."""
    mine = await worker.ask(PHONE)
    await worker.ask("+998901234568")
    other = await worker.code("+998901234568")
    assert (await worker.use(mine, other)).verdict == (422, "otp-invalid")


async def test_a_login_gives_tokens(worker: Worker) -> None:
    """The access token is an at+jwt of the issuer that the published key verifies."""
    answer = await worker.log_in(PHONE, device="phone-1")
    assert answer["token_type"] == "Bearer"
    assert answer["expires_in"] == 300
    header, payload, signature = answer["access_token"].split(".")
    jwks = (await worker.call("GET", "/.well-known/jwks.json")).body
    (jwk,) = jwks["keys"]
    assert {"alg": "EdDSA", "typ": "at+jwt", "kid": jwk["kid"]} == json.loads(_decode(header))
    public = Ed25519PublicKey.from_public_bytes(_decode(jwk["x"]))
    public.verify(_decode(signature), f"{header}.{payload}".encode())
    claims = json.loads(_decode(payload))
    user_id = await worker.pool.fetchval("SELECT id FROM users WHERE phone = $1", PHONE)
    now_s = worker.clock.now_ms // 1_000
    assert {
        "iss": "https://oqim.local",
        "aud": "oqim-api",
        "sub": user_id,
        "client_id": "mobile",
        "scope": answer["scope"],
        "sid": answer["session_id"],
        "jti": claims["jti"],
        "iat": now_s,
        "exp": now_s + 300,
        "tier": "basic",
        "channel": "mobile",
        "device": "phone-1",
    } == claims
    assert "payments:write" in answer["scope"].split()


async def test_a_phone_is_one_customer(worker: Worker) -> None:
    """Logging in again finds the same customer, in another session."""
    first, second = await worker.log_in(PHONE), await worker.log_in(PHONE, device="dev-2")
    assert first["session_id"] != second["session_id"]
    assert await worker.pool.fetchval("SELECT count(*) FROM users") == 1


async def test_a_scope_may_be_narrowed(worker: Worker) -> None:
    """What was asked for is given, and never more than the client may have."""
    form = {"challenge_id": await worker.ask(PHONE), "code": await worker.code(PHONE)}
    reply = await worker.grant(OTP, **form, device_id="d", scope="cards:read admin:rules:approve")
    assert reply.body["scope"] == "cards:read"
    refused = await worker.call("POST", "/v1/sessions/revoke-others", token=_access(reply.body))
    assert refused.verdict == (403, "insufficient-scope")


async def test_metadata_names_what_there_is(worker: Worker) -> None:
    """Every endpoint named is one that answers."""
    metadata = (await worker.call("GET", "/.well-known/oauth-authorization-server")).body
    assert metadata["issuer"] == "https://oqim.local"
    assert {OTP, "refresh_token", "client_credentials"} == set(metadata["grant_types_supported"])
    for name in ("token_endpoint", "revocation_endpoint", "introspection_endpoint"):
        path = metadata[name].removeprefix(metadata["issuer"])
        assert (await worker.call("POST", path, form={})).verdict == (400, "invalid-request")


def _access(answer: dict[str, Any]) -> str:
    return str(answer["access_token"])


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
