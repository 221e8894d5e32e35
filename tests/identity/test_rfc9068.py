"""Access tokens as JWT (RFC 9068, RFC 8725): what is issued. What is refused: hostile tokens."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.identity.model import GRANT_CLIENT
from tests.identity.signers import ISSUER, decoded
from tests.identity.worker import START_MS, Worker

PHONE = "+998901234567"
SECRET = "s3cret"


async def tokens_of(worker: Worker) -> dict[str, str]:
    """Return an access token of a customer, and one of a server."""
    await worker.clients.put(
        client_id="shop", channel="api", subject="mer_1", secret=SECRET, scopes=["payments:read"]
    )
    server = await worker.grant(GRANT_CLIENT, client_id="shop", client_secret=SECRET)
    customer = await worker.log_in(PHONE)
    return {"customer": customer["access_token"], "server": server.body["access_token"]}


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, claims, _ = token.split(".")
    return decoded(header), decoded(claims)


async def test_a_token_is_of_its_own_type(worker: Worker) -> None:
    """RFC 9068, 2.1, and RFC 8725, 3.11: `at+jwt`, so that it is taken for no other JWT."""
    for token in (await tokens_of(worker)).values():
        header, _ = parts(token)
        assert header["typ"] == "at+jwt"
        assert set(header) == {"alg", "typ", "kid"}


async def test_a_token_is_signed_by_a_published_key(worker: Worker) -> None:
    """RFC 9068, 2.1 and 4: asymmetric, never `none`; the key is in the JWKS by its `kid`."""
    keys = (await worker.call("GET", "/.well-known/jwks.json")).body["keys"]
    for token in (await tokens_of(worker)).values():
        header, _ = parts(token)
        (key,) = [one for one in keys if one["kid"] == header["kid"]]
        assert header["alg"] == key["alg"] == "EdDSA"
        x = base64.urlsafe_b64decode(key["x"] + "=")
        signed, _, signature = token.rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        Ed25519PublicKey.from_public_bytes(x).verify(raw, signed.encode())


@pytest.mark.parametrize("who", ["customer", "server"])
async def test_a_token_says_what_it_must(worker: Worker, who: str) -> None:
    """RFC 9068, 2.2: iss, exp, aud, sub, client_id, iat and jti, each of its type."""
    _, claims = parts((await tokens_of(worker))[who])
    assert claims["iss"] == ISSUER
    assert claims["aud"] == "oqim-api"
    assert claims["client_id"] == {"customer": "mobile", "server": "shop"}[who]
    assert claims["iat"] == START_MS // 1_000
    assert claims["exp"] == claims["iat"] + 300
    assert len(claims["jti"]) >= 22, "128 random bits"
    assert claims["sub"].startswith({"customer": "usr_", "server": "mer_"}[who])


async def test_a_scope_that_was_granted_is_in_the_token(worker: Worker) -> None:
    """RFC 9068, 2.2.3: as the answer has it."""
    await tokens_of(worker)
    reply = await worker.grant(
        GRANT_CLIENT, client_id="shop", client_secret=SECRET, scope="payments:read"
    )
    _, claims = parts(reply.body["access_token"])
    assert claims["scope"] == reply.body["scope"] == "payments:read"


async def test_no_two_tokens_are_the_same(worker: Worker) -> None:
    """RFC 9068, 2.2: `jti` is a token's own, also within one second of one session."""
    tokens = await worker.log_in(PHONE)
    seen = {parts(tokens["access_token"])[1]["jti"]}
    token = tokens["refresh_token"]
    for _ in range(5):
        reply = await worker.refresh(token)
        token = reply.body["refresh_token"]
        seen.add(parts(reply.body["access_token"])[1]["jti"])
    assert len(seen) == 6


async def test_a_servers_subject_is_no_customers(worker: Worker) -> None:
    """RFC 9068, 5: a client cannot come by a subject that stands for a person."""
    tokens = await tokens_of(worker)
    subjects = {who: parts(token)[1]["sub"] for who, token in tokens.items()}
    assert subjects["server"].partition("_")[0] != subjects["customer"].partition("_")[0]
