"""DPoP (RFC 9449) through the door of a worker: what it demands of proofs, tokens and answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway.identity.model import GRANT_OTP
from tests.identity.fixtures import Place
from tests.identity.signers import (
    ISSUER,
    TOKEN_URL,
    Signer,
    ath_of,
    base64url,
    compact,
    decoded,
)
from tests.identity.worker import START_MS, Hand, Reply, Worker, running_worker

PHONE = "+998901234567"
PATH = "/v1/sessions"
URL = ISSUER + PATH
INVALID = (401, "invalid-dpop-proof")
# When the tests begin: long enough after the worker that its memory of proofs reaches back.
NOW_S = START_MS // 1_000 + 60


@pytest.fixture
async def worker(worker: Worker, clock: Hand) -> Worker:
    """A worker that has run for a minute."""
    clock.advance(60)
    return worker


def now_s(worker: Worker) -> float:
    return worker.clock() / 1_000


async def log_in(worker: Worker, signer: Signer, *, device: str = "dev-1") -> dict[str, Any]:
    """Log in with a proof; the tokens are bound to its key."""
    reply = await token_request(worker, signer, **await otp(worker, device=device))
    assert reply.status == 200, reply.raw
    tokens: dict[str, Any] = reply.body
    return tokens


async def otp(worker: Worker, *, device: str = "dev-1") -> dict[str, str]:
    """Return the form of a login."""
    challenge = await worker.ask(PHONE)
    return {
        "grant_type": GRANT_OTP,
        "challenge_id": challenge,
        "code": await worker.code(PHONE),
        "device_id": device,
    }


async def token_request(worker: Worker, signer: Signer, **form: str) -> Reply:
    proof = signer.proof("POST", TOKEN_URL, at_s=now_s(worker))
    return await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})


async def refresh(worker: Worker, signer: Signer | None, token: str) -> Reply:
    form = {"grant_type": "refresh_token", "refresh_token": token}
    if signer is None:
        return await worker.call("POST", "/oauth/token", form=form)
    return await token_request(worker, signer, **form)


async def ask(
    worker: Worker,
    token: str,
    proof: str | None,
    *,
    scheme: str = "DPoP",
    method: str = "GET",
    path: str = PATH,
) -> Reply:
    headers = {"Authorization": f"{scheme} {token}"}
    if proof is not None:
        headers["DPoP"] = proof
    return await worker.call(method, path, headers=headers)


# The token endpoint -------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
async def test_a_proof_at_the_token_endpoint_binds_the_token_to_its_key(
    worker: Worker, alg: str
) -> None:
    """Section 5 and 6.1: `token_type` is DPoP, and `cnf.jkt` the key's thumbprint."""
    signer = Signer(alg)
    tokens = await log_in(worker, signer)
    assert tokens["token_type"] == "DPoP"
    assert decoded(tokens["access_token"].split(".")[1])["cnf"] == {"jkt": signer.jkt}


async def test_without_a_proof_the_token_is_its_bearers(worker: Worker) -> None:
    """Section 5: a client that may do without is given a Bearer token, and it has no `cnf`."""
    tokens = await worker.log_in(PHONE)
    assert tokens["token_type"] == "Bearer"
    assert "cnf" not in decoded(tokens["access_token"].split(".")[1])


async def test_a_client_that_does_not_use_proofs_gets_bearer_tokens(
    place: Place, clock: Hand
) -> None:
    """Section 5: whether tokens are bound is the client's registration; the header is ignored."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, mobile_dpop="off") as worker:
        clock.advance(60)
        tokens = await log_in(worker, Signer())
        assert tokens["token_type"] == "Bearer"
        reply = await worker.call("GET", PATH, token=tokens["access_token"])
        assert reply.status == 200


async def test_a_client_that_must_prove_its_key_gets_nothing_without(
    place: Place, clock: Hand
) -> None:
    """Section 5.2: `dpop_bound_access_tokens`; the error is `invalid_dpop_proof`."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, mobile_dpop="required") as worker:
        clock.advance(60)
        form = await otp(worker)
        reply = await worker.call("POST", "/oauth/token", form=form)
        assert reply.verdict == (400, "invalid-dpop-proof")
        assert reply.body["error"] == "invalid_dpop_proof"
        assert (await token_request(worker, Signer(), **form)).status == 200


async def test_a_bad_proof_is_a_bad_request_of_the_token_endpoint(worker: Worker) -> None:
    """Section 5: 400 `invalid_dpop_proof`, as RFC 6749 (5.2) answers; the grant is not used up."""
    signer, form = Signer(), await otp(worker)
    proof = signer.proof("POST", ISSUER + "/oauth/revoke", at_s=now_s(worker))
    reply = await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})
    assert reply.verdict == (400, "invalid-dpop-proof")
    assert reply.body["status"] == 400
    assert reply.body["error"] == "invalid_dpop_proof"
    assert "WWW-Authenticate" not in reply.headers
    assert (await token_request(worker, signer, **form)).status == 200


async def test_a_public_clients_refresh_token_is_bound_to_the_key(worker: Worker) -> None:
    """Section 5: it is renewed by the same key alone, however often, and ended by nobody else."""
    signer = Signer()
    tokens = await log_in(worker, signer)
    token = tokens["refresh_token"]
    other = await refresh(worker, Signer(), token)
    assert (other.verdict, other.body["error"]) == ((400, "invalid-grant"), "invalid_grant")
    none = await refresh(worker, None, token)
    assert none.verdict == (400, "invalid-dpop-proof")
    for _ in range(2):
        renewed = await refresh(worker, signer, token)
        assert renewed.status == 200, renewed.raw
        assert renewed.body["token_type"] == "DPoP"
        assert decoded(renewed.body["access_token"].split(".")[1])["cnf"] == {"jkt": signer.jkt}
        token = renewed.body["refresh_token"]


async def test_a_session_without_a_key_is_bound_by_the_first_proof(worker: Worker) -> None:
    """Section 5: the refresh token issued in answer to a proof is bound to its key."""
    signer = Signer()
    tokens = await worker.log_in(PHONE)
    renewed = await refresh(worker, signer, tokens["refresh_token"])
    assert renewed.body["token_type"] == "DPoP"
    again = await refresh(worker, None, renewed.body["refresh_token"])
    assert again.verdict == (400, "invalid-dpop-proof")
    assert (await refresh(worker, signer, renewed.body["refresh_token"])).status == 200


async def test_a_lost_answer_is_given_again_to_the_same_key_alone(worker: Worker) -> None:
    """Section 5: the successor of a token that was just used is bound as the token was."""
    signer = Signer()
    token = (await log_in(worker, signer))["refresh_token"]
    first = await refresh(worker, signer, token)
    assert (await refresh(worker, Signer(), token)).verdict == (400, "invalid-grant")
    second = await refresh(worker, signer, token)
    assert second.body["refresh_token"] == first.body["refresh_token"]


async def test_a_servers_tokens_are_bound_too(worker: Worker) -> None:
    """Section 5: any grant; a confidential client proves its key at the token endpoint alone."""
    signer = Signer("EdDSA")
    await worker.clients.put(
        client_id="shop",
        channel="api",
        subject="mer_1",
        secret="s3cret",
        scopes=["sessions:read"],
        dpop="required",
    )
    form = {"grant_type": "client_credentials", "client_id": "shop", "client_secret": "s3cret"}
    assert (await worker.call("POST", "/oauth/token", form=form)).verdict == (
        400,
        "invalid-dpop-proof",
    )
    reply = await token_request(worker, signer, **form)
    assert reply.body["token_type"] == "DPoP"
    token = reply.body["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).status == 200


# Resources ----------------------------------------------------------------------------------


@pytest.mark.parametrize("alg", ["EdDSA", "ES256"])
async def test_a_bound_token_with_a_proof_is_accepted(worker: Worker, alg: str) -> None:
    """Section 7.1: `Authorization: DPoP`, and one DPoP header with a proof for this request."""
    signer = Signer(alg)
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).status == 200
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof, scheme="dpop")).status == 200


async def test_a_bound_token_is_no_bearer_token(worker: Worker) -> None:
    """Section 7.2: presented as Bearer, with or without a proof, it is refused."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    for given in (None, proof):
        reply = await ask(worker, token, given, scheme="Bearer")
        assert reply.verdict == (401, "invalid-token")
        assert 'error="invalid_token"' in reply.headers["WWW-Authenticate"]


async def test_a_bearer_token_is_no_bound_token(worker: Worker) -> None:
    """Section 7.1: under DPoP a token without `cnf` is refused, whatever proof is beside it."""
    signer = Signer()
    token = (await worker.log_in(PHONE))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).verdict == (401, "invalid-token")
    assert (await ask(worker, token, None)).verdict == (401, "invalid-token")
    assert (await ask(worker, token, proof, scheme="Bearer")).status == 200


async def test_a_refusal_names_the_algorithms(worker: Worker) -> None:
    """Section 7.1: `WWW-Authenticate: DPoP` with `error`, and the metadata's algorithms."""
    token = (await log_in(worker, Signer()))["access_token"]
    reply = await ask(worker, token, None)
    assert reply.verdict == INVALID
    metadata = await worker.call("GET", "/.well-known/oauth-authorization-server")
    algs = " ".join(metadata.body["dpop_signing_alg_values_supported"])
    expected = f'DPoP error="invalid_dpop_proof", algs="{algs}"'
    assert reply.headers["WWW-Authenticate"] == expected
    for text, path, error in (
        ("x", PATH, "invalid_token"),
        (token, "/admin/v1/revocations/1", "insufficient_scope"),
    ):
        reply = await ask(worker, text, None, path=path)
        assert reply.headers["WWW-Authenticate"] == f'DPoP error="{error}", algs="{algs}"'


def _altered(text: str, part: int, change: Mapping[str, Any]) -> str:
    """Return a JWS with other claims or another header under the old signature."""
    parts = text.split(".")
    parts[part] = base64url(json.dumps(decoded(parts[part]) | change).encode())
    return ".".join(parts)


# What is changed of a good proof: members of its claims, or of its header.
PROOFS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("no jti", {"jti": None}, {}),
    ("empty jti", {"jti": ""}, {}),
    ("jti that is no text", {"jti": 7}, {}),
    ("jti too long", {"jti": "j" * 513}, {}),
    ("no htm", {"htm": None}, {}),
    ("another method", {"htm": "POST"}, {}),
    ("method in small letters", {"htm": "get"}, {}),
    ("no htu", {"htu": None}, {}),
    ("another path", {"htu": ISSUER + "/v1/cards"}, {}),
    ("another host", {"htu": "https://evil.example" + PATH}, {}),
    ("a host that ends alike", {"htu": "https://evil-oqim.local" + PATH}, {}),
    ("another scheme", {"htu": URL.replace("https", "http")}, {}),
    ("another port", {"htu": "https://oqim.local:444" + PATH}, {}),
    ("a path alone", {"htu": PATH}, {}),
    ("a query", {"htu": URL + "?limit=1"}, {}),
    ("an empty query", {"htu": URL + "?"}, {}),
    ("a fragment", {"htu": URL + "#a"}, {}),
    ("somebody in it", {"htu": "https://user@oqim.local" + PATH}, {}),
    ("a slash more", {"htu": URL + "/"}, {}),
    ("a tab in it", {"htu": URL.replace("v1", "v\t1")}, {}),
    ("no iat", {"iat": None}, {}),
    ("iat that is a text", {"iat": str(NOW_S)}, {}),
    ("iat that is true", {"iat": True}, {}),
    ("an old iat", {"iat": NOW_S - 61}, {}),
    ("a late iat", {"iat": NOW_S + 11}, {}),
    ("iat in milliseconds", {"iat": NOW_S * 1_000}, {}),
    ("a negative iat", {"iat": -1}, {}),
    ("no ath", {"ath": None}, {}),
    ("another ath", {"ath": ath_of("another")}, {}),
    ("ath that is padded", {"ath": ath_of("another") + "="}, {}),
    ("ath that is no text", {"ath": 7}, {}),
    ("no typ", {}, {"typ": None}),
    ("another typ", {}, {"typ": "JWT"}),
    ("an access token's typ", {}, {"typ": "at+jwt"}),
    ("typ that is no text", {}, {"typ": 7}),
    ("no alg", {}, {"alg": None}),
    ("alg none", {}, {"alg": "none"}),
    ("alg HS256", {}, {"alg": "HS256"}),
    ("alg of another key", {}, {"alg": "EdDSA"}),
    ("alg RS256", {}, {"alg": "RS256"}),
    ("alg in small letters", {}, {"alg": "es256"}),
    ("no jwk", {}, {"jwk": None}),
    ("jwk that is a text", {}, {"jwk": "key"}),
    ("jwk of a secret", {}, {"jwk": {"kty": "oct", "k": "c2VjcmV0"}}),
    ("jwk without kty", {}, {"jwk": {"crv": "P-256"}}),
    ("jwk of another key", {}, {"jwk": Signer("ES256").jwk}),
    ("jwk off the curve", {}, {"jwk": {**Signer("ES256").jwk, "x": base64url(b"\x01" * 32)}}),
    ("jwk of a longer curve", {}, {"jwk": Signer("ES384").jwk}),
    ("crit", {}, {"crit": ["exp"]}),
    ("crit of nothing", {}, {"crit": []}),
    ("b64", {}, {"b64": False}),
    ("zip", {}, {"zip": "DEF"}),
]


async def test_a_proof_that_is_wrong_is_refused(worker: Worker) -> None:
    """Section 4.3: each of its checks; 401 with a problem, and a good proof still passes."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    for what, claims, header in PROOFS:
        proof = signer.proof(
            "GET", URL, at_s=now_s(worker), **{"token": token, "header": header, **claims}
        )
        assert (what, INVALID) == (what, (await ask(worker, token, proof)).verdict)
    good = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, good)).status == 200


async def test_a_proof_that_is_no_jws_is_refused(worker: Worker) -> None:
    """Section 4.3, 2 and 7: it is one well-formed JWT, and its signature is by its own key."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    good = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    header, claims, signature = good.split(".")
    twice = compact(
        signer.private,
        "ES256",
        json.dumps({"typ": "dpop+jwt", "alg": "ES256", "jwk": signer.jwk}),
        json.dumps(decoded(claims))[:-1] + ', "jti": "another"}',
    )
    private = {"header": {"jwk": {**signer.jwk, "d": base64url(b"\x01" * 32)}}}
    wrong = {
        "empty": "",
        "text": "proof",
        "two parts": f"{header}.{claims}",
        "four parts": f"{good}.{signature}",
        "no signature": f"{header}.{claims}.",
        "padded": f"{good}==",
        "plain base64": good.replace("-", "+").replace("_", "/") + "+",
        "altered claims": _altered(good, 1, {"jti": "other"}),
        "altered header": _altered(good, 0, {"jwk": Signer().jwk}),
        "signature of nothing": f"{header}.{claims}.{base64url(bytes(64))}",
        "DER": f"{header}.{claims}.{base64url(bytes.fromhex('3006' + '020101' * 2))}",
        "cut": good[:-1],
        "two jti": twice,
        "private key": signer.proof("GET", URL, at_s=now_s(worker), token=token, **private),
        "an access token": token,
        "two in one header": f"{good}, {good}",
        "not ASCII": good + "\xe9",
        "too long": signer.proof("GET", URL, at_s=now_s(worker), token=token, more="x" * 5_000),
    }
    for what, proof in wrong.items():
        assert (what, INVALID) == (what, (await ask(worker, token, proof)).verdict)
    assert (await ask(worker, token, good)).status == 200


async def test_there_is_one_proof(worker: Worker) -> None:
    """Section 4.3, 1: not more than one DPoP header."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proofs = [signer.proof("GET", URL, at_s=now_s(worker), token=token) for _ in range(2)]
    headers = [("Authorization", f"DPoP {token}"), *(("DPoP", one) for one in proofs)]
    async with worker.http.get(worker.base_url + PATH, headers=headers) as reply:
        assert (reply.status, (await reply.json())["code"]) == INVALID


async def test_a_proof_of_another_key_is_refused(worker: Worker) -> None:
    """Section 4.3, 12: the key of the proof is the one that the token is bound to."""
    token = (await log_in(worker, Signer()))["access_token"]
    proof = Signer().proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).verdict == INVALID


async def test_a_proof_of_another_token_is_refused(worker: Worker) -> None:
    """Section 4.3, 12: two tokens of one key each need their own `ath`."""
    signer = Signer()
    first = (await log_in(worker, signer, device="a"))["access_token"]
    worker.clock.advance(60)
    second = (await log_in(worker, signer, device="b"))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=first)
    assert (await ask(worker, second, proof)).verdict == INVALID


@pytest.mark.parametrize(
    "htu",
    [
        URL,
        "HTTPS://oqim.local" + PATH,
        "https://OQIM.Local" + PATH,
        "https://oqim.local:443" + PATH,
        "https://oqim.local/v1/%73essions",
    ],
)
async def test_an_address_may_be_written_otherwise(worker: Worker, htu: str) -> None:
    """Section 4.3: `htu` is compared after normalisation (RFC 3986, 6.2.2 and 6.2.3)."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", htu, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).status == 200


async def test_the_query_of_a_request_is_not_in_its_proof(worker: Worker) -> None:
    """Section 4.2: `htu` is the address without query and fragment."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof, path=f"{PATH}?limit=1")).status == 200


async def test_a_proof_lives_as_long_as_the_settings_say(worker: Worker, clock: Hand) -> None:
    """Section 4.3, 11: `iat` is within bounds, a clock that is a little ahead included."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    for age_s, status in ((60, 200), (61, 401), (-10, 200), (-11, 401)):
        clock.advance(20)
        proof = signer.proof("GET", URL, at_s=now_s(worker) - age_s, token=token)
        assert (age_s, status) == (age_s, (await ask(worker, token, proof)).status)


async def test_whose_clock_is_wrong_goes_by_a_nonce(worker: Worker) -> None:
    """Section 4.3, 11: a nonce of ours says when a proof was made, whatever its `iat` says."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    for off_s in (-86_400, 86_400):
        wrong_s = now_s(worker) + off_s
        refused = await ask(worker, token, signer.proof("GET", URL, at_s=wrong_s, token=token))
        assert refused.verdict == INVALID
        nonce = refused.headers["DPoP-Nonce"]
        proof = signer.proof("GET", URL, at_s=wrong_s, token=token, nonce=nonce)
        assert (await ask(worker, token, proof)).status == 200
        assert (await ask(worker, token, proof)).verdict == INVALID


# Once ---------------------------------------------------------------------------------------


async def test_a_proof_works_once(worker: Worker, clock: Hand) -> None:
    """Section 11.1: its `jti` is not accepted twice in its time, for another request neither."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token, jti="once")
    assert (await ask(worker, token, proof)).status == 200
    assert (await ask(worker, token, proof)).verdict == INVALID
    clock.advance(59)
    assert (await ask(worker, token, proof)).verdict == INVALID
    other = signer.proof("GET", URL, at_s=now_s(worker), token=token, jti="once")
    assert (await ask(worker, token, other)).verdict == INVALID


async def test_two_keys_may_use_the_same_jti(worker: Worker) -> None:
    """Section 4.2: a `jti` is its maker's own; somebody else's cannot spoil it."""
    for device in ("a", "b"):
        signer = Signer()
        token = (await log_in(worker, signer, device=device))["access_token"]
        proof = signer.proof("GET", URL, at_s=now_s(worker), token=token, jti="same")
        assert (await ask(worker, token, proof)).status == 200
        worker.clock.advance(60)


async def test_a_proof_works_once_across_workers(place: Place, clock: Hand, worker: Worker) -> None:
    """Section 11.1: of many uses at one moment, at two workers, one is accepted."""
    signer = Signer()
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock) as second:
        token = (await log_in(worker, signer))["access_token"]
        proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
        replies = await asyncio.gather(*(ask(one, token, proof) for one in (worker, second) * 10))
    verdicts = sorted(reply.verdict for reply in replies)
    assert verdicts == [(200, "")] + [INVALID] * 19


async def test_a_proof_at_the_token_endpoint_works_once(worker: Worker) -> None:
    """Section 11.1: there too."""
    signer = Signer()
    proof = signer.proof("POST", TOKEN_URL, at_s=now_s(worker))
    form = await otp(worker)
    first = await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})
    assert first.status == 200
    form = {"grant_type": "refresh_token", "refresh_token": first.body["refresh_token"]}
    again = await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})
    assert again.verdict == (400, "invalid-dpop-proof")
    assert (await refresh(worker, signer, form["refresh_token"])).status == 200


async def test_what_was_seen_is_forgotten_when_it_cannot_come_again(worker: Worker) -> None:
    """Section 11.1: kept for as long as any worker may accept the proof, and no longer."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).status == 200
    seen = [key async for key in worker.redis.scan_iter("dpop:*") if not key.endswith(b"since")]
    assert len(seen) == 2, "the proof of the login, and this one"
    for key in seen:
        assert 110_000 < await worker.redis.pttl(key) <= 120_000


async def test_bearer_tokens_ask_nothing_of_redis(worker: Worker) -> None:
    """A request whose token is bound to no key makes no call for it."""
    token = (await worker.log_in(PHONE))["access_token"]
    await worker.presence.flush()
    before = (await worker.redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    for _ in range(5):
        assert (await worker.call("GET", PATH, token=token)).status == 200
    assert (await worker.redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == before


# Nonces -------------------------------------------------------------------------------------


async def test_a_nonce_is_asked_for_where_the_settings_say_so(place: Place, clock: Hand) -> None:
    """Sections 8 and 9: `use_dpop_nonce` with DPoP-Nonce; a proof with that nonce is accepted."""
    signer = Signer()
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, dpop_nonce_required=True) as worker:
        clock.advance(60)
        form = await otp(worker)
        asked = await token_request(worker, signer, **form)
        assert asked.verdict == (400, "use-dpop-nonce")
        assert asked.body["error"] == "use_dpop_nonce"
        nonce = asked.headers["DPoP-Nonce"]
        proof = signer.proof("POST", TOKEN_URL, at_s=now_s(worker), nonce=nonce)
        given = await worker.call("POST", "/oauth/token", form=form, headers={"DPoP": proof})
        token = given.body["access_token"]
        proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
        asked = await ask(worker, token, proof)
        assert asked.verdict == (401, "use-dpop-nonce")
        assert asked.headers["WWW-Authenticate"].startswith('DPoP error="use_dpop_nonce"')
        nonce = asked.headers["DPoP-Nonce"]
        for used, status in (
            (nonce, 200),
            (nonce, 200),
            (nonce[:-2] + ("BB" if nonce.endswith("AA") else "AA"), 401),
            ("x", 401),
        ):
            proof = signer.proof("GET", URL, at_s=now_s(worker), token=token, nonce=used)
            assert (await ask(worker, token, proof)).status == status
        clock.advance(299)
        proof = signer.proof("GET", URL, at_s=now_s(worker), token=token, nonce=nonce)
        assert (await ask(worker, token, proof)).status == 200
        clock.advance(0.5)
        late = signer.proof("GET", URL, at_s=now_s(worker), token=token, nonce="bm9uY2U")
        assert (await ask(worker, token, late)).verdict == (401, "use-dpop-nonce")


async def test_a_nonce_ends(worker: Worker, clock: Hand) -> None:
    """Section 8: it is good for five minutes; then a newer one is asked for."""
    signer = Signer()
    token = worker.tokens.issue(
        sub="usr_1",
        client_id="mobile",
        scope=["sessions:read"],
        channel="mobile",
        jkt=signer.jkt,
        ttl_s=3_600,
    )
    old = signer.proof("GET", URL, at_s=now_s(worker) - 3_600, token=token)
    nonce = (await ask(worker, token, old)).headers["DPoP-Nonce"]
    for wait_s, verdict in ((300, (200, "")), (1, (401, "use-dpop-nonce"))):
        clock.advance(wait_s)
        proof = signer.proof("GET", URL, at_s=now_s(worker), token=token, nonce=nonce)
        assert (await ask(worker, token, proof)).verdict == verdict


# When Redis is away, or has forgotten -------------------------------------------------------


async def test_a_proof_from_before_the_memory_begins_needs_a_nonce(
    worker: Worker, clock: Hand
) -> None:
    """Section 11.1: what may have been used before Redis lost what it had is not believed."""
    signer = Signer()
    token = (await log_in(worker, signer))["access_token"]
    proof = signer.proof("GET", URL, at_s=now_s(worker), token=token)
    assert (await ask(worker, token, proof)).status == 200
    await worker.redis.flushall()
    replayed = await ask(worker, token, proof)
    assert replayed.verdict == (401, "use-dpop-nonce")
    nonce = replayed.headers["DPoP-Nonce"]
    fresh = signer.proof("GET", URL, at_s=now_s(worker), token=token, nonce=nonce)
    assert (await ask(worker, token, fresh)).status == 200
    assert (await ask(worker, token, fresh)).verdict == INVALID
    clock.advance(11)
    later = signer.proof("GET", URL, at_s=now_s(worker), token=token, jti=_jti(proof))
    assert (await ask(worker, token, later)).status == 200, "the memory reaches back far enough"


async def test_without_redis_bound_tokens_are_not_believed(place: Place, clock: Hand) -> None:
    """Section 11.1: 503 where single use cannot be known; who needs no proof goes on."""
    signer = Signer()
    nowhere = "redis://127.0.0.1:1/0"
    async with running_worker(place.database_url, nowhere, clock=clock) as worker:
        said = {"sub": "usr_1", "client_id": "mobile", "scope": ["cards:read"], "channel": "mobile"}
        bound = worker.tokens.issue(**said, jkt=signer.jkt)
        proof = signer.proof("GET", ISSUER + "/v1/cards", at_s=now_s(worker), token=bound)
        reply = await ask(worker, bound, proof, path="/v1/cards")
        assert reply.verdict == (503, "unavailable")
        assert "Retry-After" in reply.headers
        wrong = signer.proof("POST", ISSUER + "/v1/cards", at_s=now_s(worker), token=bound)
        assert (await ask(worker, bound, wrong, path="/v1/cards")).verdict == INVALID
        token = worker.tokens.issue(**said)
        assert (await worker.call("GET", "/v1/cards", token=token)).status == 200


def _jti(proof: str) -> str:
    return str(decoded(proof.split(".")[1])["jti"])
