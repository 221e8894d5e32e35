"""Clients that sign assertions (RFC 7521, RFC 7523): `private_key_jwt` through a worker's door."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from gateway.identity.assertions import Assertions
from tests.identity.fixtures import Place
from tests.identity.signers import (
    ASSERTION_TYPE,
    ISSUER,
    TOKEN_URL,
    Signer,
    base64url,
    compact,
    decoded,
)
from tests.identity.worker import START_MS, Hand, Reply, Worker, running_worker

NOW_S = START_MS // 1_000
INVALID = (401, "invalid-client")


async def add(worker: Worker, *signers: Signer, client_id: str = "shop") -> None:
    """Register a server by its public keys."""
    keys = ", ".join(one.jwks()[len('{"keys": [') : -2] for one in signers)
    await worker.clients.put(
        client_id=client_id,
        channel="api",
        subject="mer_1",
        secret=None,
        scopes=["payments:read", "limits:read"],
        jwks=f'{{"keys": [{keys}]}}',
    )


async def grant(worker: Worker, form: dict[str, str], **more: Any) -> Reply:
    """Ask for a token of one's own."""
    data = {"grant_type": "client_credentials", **form}
    return await worker.call("POST", "/oauth/token", form=data, **more)


@pytest.mark.parametrize("alg", ["EdDSA", "ES256", "PS256"])
@pytest.mark.parametrize("audience", [ISSUER, TOKEN_URL, [ISSUER]])
async def test_a_client_is_known_by_what_it_signed(worker: Worker, alg: str, audience: Any) -> None:
    """RFC 7523, 3: `aud` is this server, by its issuer or its token endpoint, and no other."""
    signer = Signer(alg)
    await add(worker, signer)
    reply = await grant(worker, signer.assertion("shop", at_s=NOW_S, aud=audience))
    assert reply.status == 200, reply.raw
    claims = decoded(reply.body["access_token"].split(".")[1])
    assert (claims["client_id"], claims["sub"]) == ("shop", "mer_1")


async def test_client_id_may_be_left_out_or_be_the_same(worker: Worker) -> None:
    """RFC 7521, 4.2: it is not needed, and names the client of the assertion where it is there."""
    signer = Signer()
    await add(worker, signer)
    await add(worker, Signer(), client_id="other")
    for client_id, verdict in (("shop", (200, "")), ("other", INVALID), ("nobody", INVALID)):
        form = signer.assertion("shop", at_s=NOW_S)
        assert verdict == (await grant(worker, form | {"client_id": client_id})).verdict


# What is otherwise than in a good assertion: members of its claims, or of its header.
WRONG: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("no iss", {"iss": None}, {}),
    ("another iss", {"iss": "other"}, {}),
    ("iss that is this server", {"iss": ISSUER}, {}),
    ("iss that is no text", {"iss": 7}, {}),
    ("no sub", {"sub": None}, {}),
    ("another sub", {"sub": "other"}, {}),
    ("sub of nobody", {"sub": "nobody", "iss": "nobody"}, {}),
    ("sub of an app", {"sub": "mobile", "iss": "mobile"}, {}),
    ("sub with a NUL", {"sub": "sh\x00op"}, {}),
    ("sub that is no text", {"sub": ["shop"]}, {}),
    ("no aud", {"aud": None}, {}),
    ("another aud", {"aud": "https://evil.example"}, {}),
    ("aud of resources", {"aud": "oqim-api"}, {}),
    ("aud of another endpoint", {"aud": f"{ISSUER}/oauth/revoke"}, {}),
    ("aud with a slash", {"aud": f"{ISSUER}/"}, {}),
    ("aud of two", {"aud": [ISSUER, "https://evil.example"]}, {}),
    ("aud of both of ours", {"aud": [ISSUER, TOKEN_URL]}, {}),
    ("aud of nobody", {"aud": []}, {}),
    ("aud that is no text", {"aud": [7]}, {}),
    ("no exp", {"exp": None}, {}),
    ("exp now", {"exp": NOW_S}, {}),
    ("exp long ago", {"exp": 1}, {}),
    ("exp too far", {"exp": NOW_S + 301}, {}),
    ("exp in milliseconds", {"exp": (NOW_S + 60) * 1_000}, {}),
    ("exp that is a text", {"exp": str(NOW_S + 60)}, {}),
    ("exp that is true", {"exp": True}, {}),
    ("not before the future", {"nbf": NOW_S + 61}, {}),
    ("issued in the future", {"iat": NOW_S + 61}, {}),
    ("iat that is a text", {"iat": "now"}, {}),
    ("no jti", {"jti": None}, {}),
    ("empty jti", {"jti": ""}, {}),
    ("jti that is no text", {"jti": 7}, {}),
    ("jti too long", {"jti": "j" * 513}, {}),
    ("an access token's typ", {}, {"typ": "at+jwt"}),
    ("a proof's typ", {}, {"typ": "dpop+jwt"}),
    ("typ that is no text", {}, {"typ": 7}),
    ("no alg", {}, {"alg": None}),
    ("alg none", {}, {"alg": "none"}),
    ("alg HS256", {}, {"alg": "HS256"}),
    ("alg of another key", {}, {"alg": "EdDSA"}),
    ("alg RS256", {}, {"alg": "RS256"}),
    ("kid of nobody", {}, {"kid": "other"}),
    ("kid of a path", {}, {"kid": "../k1"}),
    ("kid that is no text", {}, {"kid": 1}),
    ("crit", {}, {"crit": ["exp"]}),
    ("b64", {}, {"b64": False}),
    ("zip", {}, {"zip": "DEF"}),
]


async def test_an_assertion_that_is_wrong_is_refused(worker: Worker) -> None:
    """RFC 7523, 3, and RFC 8725: 401 `invalid_client`, each for one thing alone."""
    signer = Signer("ES256", kid="k1")
    await add(worker, signer)
    await add(worker, Signer(), client_id="other")
    for what, claims, header in WRONG:
        form = signer.assertion("shop", at_s=NOW_S, header=header, **claims)
        reply = await grant(worker, form)
        assert (what, INVALID) == (what, reply.verdict)
        assert reply.body["error"] == "invalid_client"
    assert (await grant(worker, signer.assertion("shop", at_s=NOW_S))).status == 200


async def test_an_assertion_is_signed_by_one_of_the_clients_keys(worker: Worker) -> None:
    """RFC 7523, 3, 9: nobody else's signature, in no other form, and no key that it brings."""
    signer, stranger = Signer("ES256"), Signer("ES256")
    await add(worker, signer)
    good = signer.assertion("shop", at_s=NOW_S)["client_assertion"]
    header, claims, signature = good.split(".")
    rsa = Signer("RS256")
    await add(worker, rsa, client_id="rsa")
    rs256 = compact(rsa.private, "RS256", '{"alg":"RS256"}', _claims_of("rsa"))
    ps_as_rs = compact(rsa.private, "RS256", '{"alg":"PS256"}', _claims_of("rsa"))
    wrong = {
        "a stranger's": stranger.assertion("shop", at_s=NOW_S)["client_assertion"],
        "a stranger's with its key": stranger.assertion(
            "shop", at_s=NOW_S, header={"jwk": stranger.jwk}
        )["client_assertion"],
        "a key elsewhere": stranger.assertion(
            "shop", at_s=NOW_S, header={"jku": "https://evil.example/jwks"}
        )["client_assertion"],
        "no signature": f"{header}.{claims}.",
        "zeros": f"{header}.{claims}.{base64url(bytes(64))}",
        "padded": f"{good}=",
        "an extra part": f"{good}.{signature}",
        "text": "assertion",
        "RS256": rs256,
        "PS256 signed as RS256": ps_as_rs,
        "too long": "a" * 7_000,
    }
    for what, text in wrong.items():
        form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": text}
        assert (what, INVALID) == (what, (await grant(worker, form)).verdict)
    tokens = await worker.log_in("+998901234567")
    form = {
        "client_assertion_type": ASSERTION_TYPE,
        "client_assertion": tokens["access_token"],
    }
    assert (await grant(worker, form)).verdict == INVALID, "an access token is none"
    form = {"client_assertion_type": ASSERTION_TYPE, "client_assertion": good}
    assert (await grant(worker, form)).status == 200


def _claims_of(client_id: str) -> str:
    return (
        f'{{"iss":"{client_id}","sub":"{client_id}","aud":"{ISSUER}","jti":"r1",'
        f'"exp":{NOW_S + 60}}}'
    )


async def test_of_several_keys_the_kid_says_which(worker: Worker) -> None:
    """RFC 7515, 4.1.4: each by its own name; without a name, the one of that algorithm."""
    first, second = Signer("ES256", kid="a"), Signer("ES256", kid="b")
    third = Signer("EdDSA", kid="c")
    await add(worker, first, second, third)
    for signer in (first, second, third):
        assert (await grant(worker, signer.assertion("shop", at_s=NOW_S))).status == 200
        mixed = signer.assertion(
            "shop", at_s=NOW_S, header={"kid": "a" if signer != first else "b"}
        )
        assert (await grant(worker, mixed)).verdict == INVALID
    unnamed = {"header": {"kid": None}}
    assert (await grant(worker, third.assertion("shop", at_s=NOW_S, **unnamed))).status == 200
    assert (await grant(worker, first.assertion("shop", at_s=NOW_S, **unnamed))).verdict == INVALID


async def test_an_assertion_works_once(worker: Worker, clock: Hand) -> None:
    """RFC 7523, 3, 7: a `jti` is not accepted twice; a later one may not take it again either."""
    signer = Signer()
    await add(worker, signer)
    form = signer.assertion("shop", at_s=NOW_S, jti="once")
    assert (await grant(worker, form)).status == 200
    assert (await grant(worker, form)).verdict == INVALID
    clock.advance(59)
    assert (await grant(worker, form)).verdict == INVALID
    again = signer.assertion("shop", at_s=NOW_S + 59, jti="once")
    assert (await grant(worker, again)).verdict == INVALID


async def test_two_clients_may_use_the_same_jti(worker: Worker) -> None:
    """RFC 7523, 3, 7: it is the issuer's own; nobody can spoil another's."""
    for client_id in ("shop", "other"):
        signer = Signer()
        await add(worker, signer, client_id=client_id)
        form = signer.assertion(client_id, at_s=NOW_S, jti="same")
        assert (await grant(worker, form)).status == 200


async def test_an_assertion_works_once_across_workers(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """RFC 7523, 3, 7: of many uses at one moment at two workers, one; Redis has no part in it."""
    signer = Signer()
    await add(worker, signer)
    form = signer.assertion("shop", at_s=NOW_S)
    async with running_worker(place.database_url, place.redis_url, clock=clock) as second:
        replies = await asyncio.gather(*(grant(one, form) for one in (worker, second) * 8))
        await worker.redis.flushall()
        assert (await grant(second, form)).verdict == INVALID
    assert sorted(reply.status for reply in replies) == [200] + [401] * 15


async def test_a_refused_assertion_is_not_used_up(worker: Worker) -> None:
    """Whoever guesses another's `jti` cannot spend it: only what is signed is remembered."""
    signer = Signer()
    await add(worker, signer)
    forged = Signer().assertion("shop", at_s=NOW_S, jti="mine")
    assert (await grant(worker, forged)).verdict == INVALID
    assert (await grant(worker, signer.assertion("shop", at_s=NOW_S, jti="mine"))).status == 200


async def test_assertions_are_forgotten_when_they_cannot_come_again(
    worker: Worker, clock: Hand
) -> None:
    """Not before any worker's clock could take one for a new one."""
    signer = Signer()
    await add(worker, signer)
    assert (await grant(worker, signer.assertion("shop", at_s=NOW_S))).status == 200
    assertions = Assertions(pool=worker.pool, clock=clock, audiences=(ISSUER,))
    for wait_s, count in ((119, 1), (2, 0)):
        clock.advance(wait_s)
        await assertions.prune()
        assert count == await worker.pool.fetchval("SELECT count(*) FROM client_assertions")


async def test_one_way_of_authenticating_at_a_time(worker: Worker) -> None:
    """RFC 6749, 2.3: a request with two is `invalid_request`, whether they are right or not."""
    signer = Signer()
    await add(worker, signer)
    basic = {"Authorization": "Basic c2hvcDpz"}
    form = signer.assertion("shop", at_s=NOW_S)
    two = [
        (form | {"client_id": "shop", "client_secret": "s"}, {}),
        (form, basic),
        ({"client_id": "shop", "client_secret": "s"}, basic),
    ]
    for both, headers in two:
        reply = await grant(worker, both, headers=headers)
        assert (reply.verdict, reply.body["error"]) == ((400, "invalid-request"), "invalid_request")
    assert (await grant(worker, form)).status == 200


async def test_half_an_assertion_is_refused(worker: Worker) -> None:
    """RFC 7521, 4.2: both members, and the one type that is supported."""
    signer = Signer()
    await add(worker, signer)
    form = signer.assertion("shop", at_s=NOW_S)
    for name in form:
        half = {other: value for other, value in form.items() if other != name}
        assert (await grant(worker, half)).verdict == (400, "invalid-request")
    saml = form | {"client_assertion_type": ASSERTION_TYPE.replace("jwt", "saml2")}
    assert (await grant(worker, saml)).verdict == INVALID


async def test_a_client_authenticates_as_it_was_registered(worker: Worker) -> None:
    """OpenID Connect Registration, 2: keys instead of a secret, never beside it."""
    signer = Signer()
    await add(worker, signer)
    await worker.clients.put(
        client_id="secretive",
        channel="api",
        subject="mer_1",
        secret="s3cret",
        scopes=["limits:read"],
    )
    for form in (
        {"client_id": "shop"},
        {"client_id": "shop", "client_secret": "s3cret"},
        {"client_id": "shop", "client_secret": signer.jkt},
        signer.assertion("secretive", at_s=NOW_S),
        {"client_id": "secretive"},
    ):
        assert (await grant(worker, form)).verdict == INVALID
    with pytest.raises(asyncpg.CheckViolationError, match="clients_one_credential"):
        await worker.clients.put(
            client_id="both",
            channel="api",
            subject="mer_1",
            secret="s3cret",
            jwks=signer.jwks(),
            scopes=[],
        )


async def test_assertions_work_at_every_endpoint_that_asks_who_the_client_is(
    worker: Worker,
) -> None:
    """RFC 7009, 2.1 and RFC 7662, 2.1: as at the token endpoint."""
    signer = Signer("EdDSA")
    await add(worker, signer)
    token = (await grant(worker, signer.assertion("shop", at_s=NOW_S))).body["access_token"]

    async def post(path: str, form: dict[str, str]) -> Reply:
        return await worker.call("POST", path, form={"token": token, **form})

    for path in ("/oauth/introspect", "/oauth/revoke"):
        assert (await post(path, {})).verdict == INVALID
        used = signer.assertion("shop", at_s=NOW_S)
        assert (await post(path, used)).status == 200
        assert (await post(path, used)).verdict == INVALID
        assert (await post(path, Signer().assertion("shop", at_s=NOW_S))).verdict == INVALID
    told = await post("/oauth/introspect", signer.assertion("shop", at_s=NOW_S))
    assert told.body == {"active": False}
