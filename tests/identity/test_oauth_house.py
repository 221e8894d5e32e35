"""Bound tokens and clients with keys at the whole product: every route, hot ones too."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.identity.model import GRANT_OTP
from gateway.identity.registering import SCOPES
from tests.house import House, Reply, new_key
from tests.http.test_bad_callers import Forger, challenge, fresh_phone
from tests.identity.signers import Signer, decoded

INVALID = (401, "invalid-dpop-proof")


class Holder:
    """A customer's app that holds a key, and a token bound to it."""

    def __init__(self, house: House, token: str, signer: Signer) -> None:
        self.house = house
        self.token = token
        self.signer = signer

    def headers(self, method: str, path: str, **changes: Any) -> dict[str, str]:
        """Return the two headers of a request."""
        proof = self.signer.proof(
            method,
            self.house.base_url + path.partition("?")[0],
            at_s=time.time(),
            **{"token": self.token, **changes},
        )
        return {"Authorization": f"DPoP {self.token}", "DPoP": proof}

    async def call(self, method: str, path: str, body: Any = None, key: str | None = None) -> Reply:
        """Make a request as it should be made."""
        headers = self.headers(method, path)
        return await self.house.call(method, path, body, headers=headers, key=key)


@pytest.fixture
def holder(house: House, forger: Forger) -> Holder:
    """The first seeded customer, with a bound token."""
    signer = Signer()
    return Holder(house, forger.token({"cnf": {"jkt": signer.jkt}}), signer)


async def test_an_app_logs_in_with_a_key_and_goes_on_with_it(house: House) -> None:
    """A login with a proof, requests, a renewal: by public means, at the sandbox's address."""
    challenge_id, code = await challenge(house, fresh_phone())
    signer = Signer("EdDSA")
    form = {
        "grant_type": GRANT_OTP,
        "challenge_id": challenge_id,
        "code": code,
        "device_id": "phone",
    }
    for _ in range(2):
        url = f"{house.base_url}/oauth/token"
        proof = signer.proof("POST", url, at_s=time.time())
        reply = await house.call("POST", "/oauth/token", data=form, headers={"DPoP": proof})
        assert reply.status == 200, reply.raw
        assert reply.body["token_type"] == "DPoP"
        app = Holder(house, reply.body["access_token"], signer)
        assert (await app.call("GET", "/v1/sessions")).status == 200
        assert (await app.call("GET", "/v1/payments?limit=1")).status == 200
        form = {"grant_type": "refresh_token", "refresh_token": reply.body["refresh_token"]}


async def test_a_payment_is_made_with_a_proof_each_time(house: House, holder: Holder) -> None:
    """Hot routes: the same proof is refused; a new one with the same key is answered again."""
    body, key = house.purchase(0, "humo", 10_000), new_key()
    headers = holder.headers("POST", "/v1/payments")
    paid = await house.call("POST", "/v1/payments", body, headers=headers, key=key)
    assert paid.status == 201, paid.raw
    replayed = await house.call("POST", "/v1/payments", body, headers=headers, key=key)
    assert (replayed.status, replayed.code) == INVALID
    again = await holder.call("POST", "/v1/payments", body, key)
    assert (again.status, again.body) == (201, paid.body)
    assert again.headers["idempotent-replayed"] == "true"
    quoted = await holder.call("POST", "/v1/payments/quote", body)
    assert quoted.status == 200


@pytest.mark.parametrize("path", ["/v1/payments", "/v1/payments/quote"])
async def test_a_hot_route_demands_the_proof(house: House, holder: Holder, path: str) -> None:
    """Each way of doing without is refused, and nothing is paid."""
    count = "SELECT count(*) FROM payments"
    before = (await house.rows(count))[0][0]
    other = holder.headers("POST", "/v1/payments/quote" if path == "/v1/payments" else "/v1/x")
    good = holder.headers("POST", path)
    bearer = {"Authorization": f"Bearer {holder.token}"}
    wrong = [
        (bearer, (401, "invalid-token")),
        (bearer | {"DPoP": good["DPoP"]}, (401, "invalid-token")),
        ({"Authorization": f"DPoP {holder.token}"}, INVALID),
        (other, INVALID),
        (holder.headers("GET", path), INVALID),
        (holder.headers("POST", path, token="another"), INVALID),
        (
            {
                "Authorization": good["Authorization"],
                "DPoP": Signer().proof(
                    "POST", house.base_url + path, at_s=time.time(), token=holder.token
                ),
            },
            INVALID,
        ),
        ({"Authorization": f"DPoP\t{holder.token}", "DPoP": good["DPoP"]}, (401, "invalid-token")),
        ({"Authorization": f"\x0bDPoP {holder.token}"}, None),
    ]
    for headers, verdict in wrong:
        body = house.purchase(0, "humo", 10_000)
        reply = await raw_call(house, path, body, headers)
        if verdict is None:
            assert reply is None or reply.status in (400, 401)
        else:
            assert reply is not None
            assert (reply.status, reply.code) == verdict, headers
    assert (await house.rows(count))[0][0] == before


async def raw_call(house: House, path: str, body: Any, headers: dict[str, str]) -> Reply | None:
    """Send a POST with header values that a client library would not send."""
    data = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: oqim",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        f"Idempotency-Key: {new_key()}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return await house.send("\r\n".join([*lines, "", ""]).encode("latin-1") + data)


async def test_of_many_uses_of_one_proof_one_pays(house: House, holder: Holder) -> None:
    """At two workers at one moment, under keys of their own."""
    body, headers = house.purchase(0, "uzcard", 10_000), holder.headers("POST", "/v1/payments")

    async def pay() -> int:
        # Connections of their own, so that both workers are asked.
        async with aiohttp.ClientSession() as http:
            sent = headers | {"Idempotency-Key": new_key()}
            url = house.base_url + "/v1/payments"
            async with http.post(url, json=body, headers=sent) as reply:
                return reply.status

    statuses = await asyncio.gather(*(pay() for _ in range(20)))
    assert sorted(statuses) == [201] + [401] * 19


async def test_every_route_that_takes_a_token_demands_the_proof(
    house: House, forger: Forger
) -> None:
    """As the served document lists them, with a bound token that has every scope there is."""
    document = (await house.call("GET", "/openapi.json")).body
    scopes = document["components"]["securitySchemes"]["oauth"]["flows"]["clientCredentials"]
    signer = Signer()
    token = forger.token({"cnf": {"jkt": signer.jkt}, "scope": " ".join(scopes["scopes"])})
    asked = 0
    for template, operations in document["paths"].items():
        path = "/".join("x" if part.startswith("{") else part for part in template.split("/"))
        for method, operation in operations.items():
            if not operation["security"]:
                continue
            for scheme, verdict in (("DPoP", INVALID), ("Bearer", (401, "invalid-token"))):
                headers = {"Authorization": f"{scheme} {token}"}
                reply = await house.call(method.upper(), path, headers=headers)
                assert (reply.status, reply.code) == verdict, f"{method} {template}"
            assert "401" in operation["responses"]
            asked += 1
    assert asked > 50


async def test_a_stream_of_events_goes_on_with_its_proof(house: House, holder: Holder) -> None:
    """The proof is of the request that opened it; what follows needs none."""
    headers = holder.headers("GET", "/v1/events")
    async with house.http.get(f"{house.base_url}/v1/events", headers=headers) as stream:
        assert stream.status == 200, await stream.text()
        body = house.purchase(0, "visa", 10_000)
        assert (await holder.call("POST", "/v1/payments", body, new_key())).status == 201
        async with asyncio.timeout(10):
            async for line in stream.content:
                if line.startswith(b"event: payment"):
                    break


# Clients, from the command line -------------------------------------------------------------


def written(folder: Path, *signers: Signer) -> str:
    """Write the signers' public keys to a file."""
    keys = [{**one.jwk, "kid": one.kid} for one in signers]
    path = folder / "keys.json"
    path.write_text(json.dumps({"keys": keys}))
    return str(path)


async def run(house: House, *words: str) -> tuple[int, str]:
    """Run `oqim`; returns its status, and what it printed."""
    done = await asyncio.to_thread(house.oqim, *words)
    return done.returncode, done.stdout + done.stderr


async def token_of(house: House, client: str, signer: Signer, **changes: Any) -> Reply:
    """Ask for a token by an assertion, and with a proof."""
    form = signer.assertion(client, at_s=time.time(), **changes)
    proof = signer.proof("POST", f"{house.base_url}/oauth/token", at_s=time.time())
    data = {"grant_type": "client_credentials", **form}
    return await house.call("POST", "/oauth/token", data=data, headers={"DPoP": proof})


async def test_a_server_with_keys_of_its_own_is_added_and_asks(
    house: House, tmp_path: Path
) -> None:
    """`oqim clients add ... --keys --dpop required`: an assertion and a proof, and no secret."""
    signer = Signer("ES256", kid="k1")
    words = ["clients", "add", "keyed-shop", "--kind", "server", "--merchant", house.merchant["id"]]
    words += ["--scope", "payments:read", "--scope", "limits:read"]
    words += ["--keys", written(tmp_path, signer), "--dpop", "required"]
    status, printed = await run(house, *words)
    assert (status, printed) == (0, "keyed-shop\n")
    reply = await token_of(house, "keyed-shop", signer)
    assert reply.status == 200, reply.raw
    assert reply.body["token_type"] == "DPoP"
    claims = decoded(reply.body["access_token"].split(".")[1])
    assert (claims["sub"], claims["client_id"]) == (house.merchant["id"], "keyed-shop")
    assert claims["scope"] == "payments:read limits:read"
    shop = Holder(house, reply.body["access_token"], signer)
    assert (await shop.call("GET", "/v1/payments?limit=1")).status == 200
    for _, listed in [await run(house, "clients", "list")]:
        assert f"keyed-shop  api  {house.merchant['id']}  private_key_jwt  dpop=required" in listed
    (row,) = await house.rows("SELECT actor, detail FROM audit_log WHERE object = 'keyed-shop'")
    assert row["actor"].startswith("cli:")
    assert signer.jkt in row["detail"]

    # From one key to another without a gap, and then to a secret.
    following = Signer("EdDSA", kid="k2")
    both = written(tmp_path, signer, following)
    assert (await run(house, "clients", "change", "keyed-shop", "--keys", both))[0] == 0
    for one in (signer, following):
        assert (await token_of(house, "keyed-shop", one)).status == 200
    one = written(tmp_path, following)
    assert (await run(house, "clients", "change", "keyed-shop", "--keys", one))[0] == 0
    assert (await token_of(house, "keyed-shop", signer)).code == "invalid-client"
    assert (await token_of(house, "keyed-shop", following)).status == 200
    status, printed = await run(
        house, "clients", "change", "keyed-shop", "--new-secret", "--dpop", "off"
    )
    secret = printed.split("Its secret, shown once: ")[1].strip()
    form = {"client_id": "keyed-shop", "client_secret": secret}
    data = {"grant_type": "client_credentials", **form}
    assert (await house.call("POST", "/oauth/token", data=data)).body["token_type"] == "Bearer"
    assert (await token_of(house, "keyed-shop", following)).code == "invalid-client"


async def test_what_cannot_be_a_client_is_told(house: House, tmp_path: Path) -> None:
    """Status 2 and one line that says what to do, and nothing is added."""
    merchant = house.merchant["id"]
    server = ["--kind", "server", "--merchant", merchant, "--scope", "payments:read"]
    good = Signer("EdDSA", kid="a")
    private = tmp_path / "private.json"
    private.write_text(json.dumps({"keys": [{**good.jwk, "d": good.jwk["x"]}]}))
    short = tmp_path / "short.json"
    short.write_text(Signer("PS256", private=rsa.generate_private_key(65_537, 1_024)).jwks())
    weak = tmp_path / "weak.json"
    weak.write_text(json.dumps({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "A" * 43}]}))
    unnamed = tmp_path / "unnamed.json"
    unnamed.write_text(json.dumps({"keys": [good.jwk, Signer("EdDSA").jwk]}))
    twice = tmp_path / "twice.json"
    twice.write_text(json.dumps({"keys": [{**good.jwk, "kid": "a"}, {**good.jwk, "kid": "b"}]}))
    refused = [
        (["Bad Id", *server], "an id has"),
        (["sandbox-shop", *server], "already"),
        (["new", "--kind", "server", "--scope", "payments:read"], "--merchant"),
        (["new", *server[:3], "mer_nobody", *server[4:]], "no merchant"),
        (["new", *server[:4], "--scope", "admin:audit:read"], "admin:audit:read"),
        (["new", "--kind", "app", "--merchant", merchant, "--scope", "cards:read"], "an app"),
        (["new", *server, "--keys", str(tmp_path / "nothing.json")], "nothing.json"),
        (["new", *server, "--keys", str(private)], "private key"),
        (["new", *server, "--keys", str(short)], "2048"),
        (["new", *server, "--keys", str(weak)], "small order"),
        (["new", *server, "--keys", str(unnamed)], "kid"),
        (["new", *server, "--keys", str(twice)], "twice"),
    ]
    for words, text in refused:
        status, printed = await run(house, "clients", "add", *words)
        assert status == 2, words
        assert text in printed, words
        assert printed.startswith("oqim: "), words
    for words, text in (
        (["nobody", "--dpop", "off"], "no client"),
        (["mobile", "--dpop", "off"], "settings.toml"),
        (["sandbox-shop", "--new-secret", "--keys", str(weak)], "never both"),
    ):
        status, printed = await run(house, "clients", "change", *words)
        assert (status, text in printed) == (2, True), words
    assert await house.rows("SELECT FROM clients WHERE id IN ('new', 'Bad Id', 'nobody')") == []


async def test_what_a_client_can_be_given_is_what_routes_ask_for(house: House) -> None:
    """Every scope of the served document that is not an operator's, and the one of payouts."""
    document = (await house.call("GET", "/openapi.json")).body
    scopes = document["components"]["securitySchemes"]["oauth"]["flows"]["clientCredentials"]
    asked = {one for one in scopes["scopes"] if not one.startswith("admin:")}
    assert set(SCOPES) == asked | {"payments:payout"}


async def test_signing_keys_are_listed_and_rotated(house: House) -> None:
    """`oqim keys`: the new one is published within a minute and signs later; tokens live on."""
    token = house.user(1)["access_token"]
    (before,) = (await house.call("GET", "/.well-known/jwks.json")).body["keys"]
    status, printed = await run(house, "keys", "rotate")
    assert status == 0, printed
    made = printed.strip()
    status, listed = await run(house, "keys", "list")
    assert [line.split("  ")[0] for line in listed.splitlines()] == [before["kid"], made]
    assert "signs" in listed.splitlines()[0]
    assert "until" in listed.splitlines()[0]
    assert "verifies" in listed.splitlines()[1]
    assert (await house.call("GET", "/v1/sessions", token=token)).status == 200
    status, printed = await run(house, "keys", "drop", made)
    assert status == 0, printed
    status, printed = await run(house, "keys", "drop", made)
    assert (status, printed) == (2, f"oqim: there is no key {made}\n")
    acts = await house.rows("SELECT action FROM audit_log WHERE object = $1 ORDER BY id", made)
    assert [row["action"] for row in acts] == ["signing_key.add", "signing_key.drop"]
