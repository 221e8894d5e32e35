"""Token revocation (RFC 7009) through a worker's door."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.identity.model import GRANT_OTP
from tests.identity.fixtures import Place
from tests.identity.signers import TOKEN_URL, Signer
from tests.identity.worker import Hand, Reply, Worker, running_worker

PHONE = "+998901234567"
PATH = "/oauth/revoke"
SECRET = "s3cret"


async def revoke(worker: Worker, token: str, **form: str) -> Reply:
    return await worker.call("POST", PATH, form={"token": token, **form})


async def is_in(worker: Worker, tokens: dict[str, Any]) -> bool:
    reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    return reply.status == 200


async def shop_token(worker: Worker, client_id: str = "shop") -> str:
    """Register a server and return a token of its own."""
    await worker.clients.put(
        client_id=client_id,
        channel="api",
        subject="mer_1",
        secret=SECRET,
        scopes=["sessions:read"],
    )
    said = {"client_id": client_id, "client_secret": SECRET}
    return str((await worker.grant("client_credentials", **said)).body["access_token"])


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", None])
@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
async def test_a_token_is_revoked_whatever_the_hint(
    worker: Worker, kind: str, hint: str | None
) -> None:
    """Section 2.1: both kinds; a hint that is wrong or not known changes nothing."""
    tokens = await worker.log_in(PHONE)
    form = {} if hint is None else {"token_type_hint": hint}
    reply = await revoke(worker, tokens[kind], **form)
    assert (reply.status, reply.body) == (200, {})
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")
    assert not await is_in(worker, tokens)


async def test_a_refresh_token_takes_its_access_tokens_with_it(worker: Worker) -> None:
    """Section 2.1: all tokens of the same grant; nothing is renewed either."""
    tokens = await worker.log_in(PHONE)
    renewed = (await worker.refresh(tokens["refresh_token"])).body
    assert (await revoke(worker, renewed["refresh_token"])).status == 200
    for one in (tokens, renewed):
        assert not await is_in(worker, one)
        assert (await worker.refresh(one["refresh_token"])).verdict == (400, "invalid-grant")


async def test_an_access_token_goes_alone(worker: Worker) -> None:
    """Section 2.1: the refresh token may stay, and its client goes on."""
    tokens = await worker.log_in(PHONE)
    assert (await revoke(worker, tokens["access_token"])).status == 200
    renewed = await worker.refresh(tokens["refresh_token"])
    assert renewed.status == 200
    assert await is_in(worker, renewed.body)


async def test_it_is_immediate_everywhere(place: Place, clock: Hand, worker: Worker) -> None:
    """Section 2.1: once it is answered, no worker accepts the token."""
    async with running_worker(place.database_url, place.redis_url, clock=clock) as second:
        tokens = await worker.log_in(PHONE)
        assert await is_in(second, tokens)
        assert (await revoke(worker, tokens["access_token"])).status == 200
        assert not await is_in(second, tokens)


async def test_what_is_no_token_is_revoked_already(worker: Worker) -> None:
    """Section 2.2: 200 for an invalid token: its purpose is met, and there is nothing to learn."""
    tokens = await worker.log_in(PHONE)
    await revoke(worker, tokens["access_token"])
    for text in ("x", "ort_x", "a.b.c", tokens["access_token"], tokens["access_token"][:-1] + "A"):
        reply = await revoke(worker, text)
        assert (reply.status, reply.body) == (200, {}), text


async def test_a_token_must_be_named(worker: Worker) -> None:
    """Section 2.1: `token` is required; errors are those of RFC 6749 (2.2.1)."""
    for form in ({}, {"token_type_hint": "access_token"}, {"Token": "x"}):
        reply = await worker.call("POST", PATH, form=form)
        assert (reply.status, reply.body["error"]) == (400, "invalid_request")
    assert (await worker.call("GET", PATH)).status == 405


async def test_a_confidential_client_authenticates(worker: Worker) -> None:
    """Section 2.1: and without, nothing is revoked."""
    token = await shop_token(worker)
    for said in (
        {},
        {"client_id": "shop"},
        {"client_id": "shop", "client_secret": "wrong"},
        {"client_id": "nobody", "client_secret": SECRET},
    ):
        reply = await revoke(worker, token, **said)
        assert (said, reply.status, reply.body["error"]) == (said, 401, "invalid_client")
    assert await is_in(worker, {"access_token": token})
    good = {"client_id": "shop", "client_secret": SECRET}
    assert (await revoke(worker, token, **good)).status == 200
    assert not await is_in(worker, {"access_token": token})


async def test_another_clients_token_is_not_revoked(worker: Worker) -> None:
    """Section 2.1: it is verified that the token was issued to whoever asks."""
    mine, theirs = await shop_token(worker), await shop_token(worker, "other")
    customer = await worker.log_in(PHONE)
    said = {"client_id": "shop", "client_secret": SECRET}
    for token in (theirs, customer["access_token"], customer["refresh_token"]):
        assert (await revoke(worker, token, **said)).status == 200, "and nobody learns whose it is"
    assert await is_in(worker, {"access_token": theirs})
    assert await is_in(worker, customer)
    assert (await worker.refresh(customer["refresh_token"])).status == 200
    assert await is_in(worker, {"access_token": mine})


async def test_a_bound_token_is_revoked_without_its_key(worker: Worker, clock: Hand) -> None:
    """Section 2: whoever finds a token that is lost may end it, bound to a key or not."""
    clock.advance(60)
    signer = Signer()
    form = {
        "grant_type": GRANT_OTP,
        "challenge_id": await worker.ask(PHONE),
        "code": await worker.code(PHONE),
        "device_id": "d",
    }
    proof = signer.proof("POST", TOKEN_URL, at_s=worker.clock() / 1_000)
    tokens = (await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})).body
    assert tokens["token_type"] == "DPoP"

    async def ask() -> Reply:
        url = "https://oqim.local/v1/sessions"
        token = tokens["access_token"]
        proof = signer.proof("GET", url, at_s=worker.clock() / 1_000, token=token)
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        return await worker.call("GET", "/v1/sessions", headers=headers)

    assert (await ask()).status == 200
    assert (await revoke(worker, tokens["access_token"])).status == 200
    assert (await ask()).verdict == (401, "invalid-token")


async def test_a_proof_that_is_looked_at_while_its_token_is_revoked_is_of_no_use(
    worker: Worker, clock: Hand
) -> None:
    """Section 2.1: revoked while Redis is asked, the token is refused when the answer comes."""
    clock.advance(60)
    signer = Signer()
    token = worker.tokens.issue(
        sub="usr_1", client_id="mobile", scope=["sessions:read"], channel="mobile", jkt=signer.jkt
    )
    proofs = [
        signer.proof(
            "GET", "https://oqim.local/v1/sessions", at_s=worker.clock() / 1_000, token=token
        )
        for _ in range(2)
    ]

    async def ask(proof: str) -> Reply:
        headers = {"Authorization": f"DPoP {token}", "DPoP": proof}
        return await worker.call("GET", "/v1/sessions", headers=headers)

    assert (await ask(proofs[0])).status == 200
    await worker.redis.execute_command("CLIENT", "PAUSE", 400, "ALL")
    asked = asyncio.create_task(ask(proofs[1]))
    await asyncio.sleep(0.05)
    async with worker.pool.acquire() as connection, connection.transaction():
        await worker.revocations.revoke(connection, kind="sub", value="usr_1")
    await worker.feed.poll()
    assert (await asked).verdict == (401, "invalid-token")
