"""Authorization server metadata (RFC 8414): each member is compared with what the endpoints do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.identity.model import GRANT_CLIENT, GRANT_OTP, GRANT_REFRESH
from tests.identity.signers import ISSUER, TOKEN_URL, Signer, decoded
from tests.identity.worker import START_MS, Hand, Reply, Worker

PATH = "/.well-known/oauth-authorization-server"
PHONE = "+998901234567"
NOW_S = START_MS // 1_000
SECRET = "s3cret"
SCOPES = ["payments:read"]
ENDPOINTS = ("token", "revocation", "introspection")


async def metadata(worker: Worker) -> dict[str, Any]:
    """Return the document."""
    told: dict[str, Any] = (await worker.call("GET", PATH)).body
    return told


async def post(worker: Worker, url: str, form: dict[str, str], **headers: str) -> Reply:
    """Post to an endpoint that the document names."""
    assert url.startswith(f"{ISSUER}/")
    return await worker.call("POST", url.removeprefix(ISSUER), form=form, headers=headers)


async def test_the_document_is_json_at_the_well_known_place(worker: Worker) -> None:
    """Section 3: 200 and `application/json`; it may be kept for a while."""
    reply = await worker.call("GET", PATH)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["Cache-Control"] == "public, max-age=60"


async def test_the_issuer_is_that_of_tokens(worker: Worker) -> None:
    """Sections 2 and 3.3: an https URL without query and fragment, the `iss` of every token."""
    told = await metadata(worker)
    assert told["issuer"] == ISSUER
    assert told["issuer"].startswith("https://")
    assert not set("?#") & set(told["issuer"])
    token = (await worker.log_in(PHONE))["access_token"]
    assert decoded(token.split(".")[1])["iss"] == told["issuer"]


async def test_every_member_is_one_that_is_looked_at_here(worker: Worker) -> None:
    """Section 2: a member that is added is compared with what is done, in this file."""
    assert set(await metadata(worker)) == {
        "issuer",
        "token_endpoint",
        "jwks_uri",
        "revocation_endpoint",
        "introspection_endpoint",
        "scopes_supported",
        "response_types_supported",
        "grant_types_supported",
        "service_documentation",
        "dpop_signing_alg_values_supported",
        *(f"{one}_endpoint_auth_methods_supported" for one in ENDPOINTS),
        *(f"{one}_endpoint_auth_signing_alg_values_supported" for one in ENDPOINTS),
    }


async def test_every_endpoint_answers(worker: Worker) -> None:
    """Section 2: each URL is one of ours, and takes what its RFC says."""
    told = await metadata(worker)
    for one in ENDPOINTS:
        url = told[f"{one}_endpoint"]
        assert (await post(worker, url, {})).verdict == (400, "invalid-request"), url
        path = url.removeprefix(ISSUER)
        assert (await worker.call("GET", path)).verdict == (405, "method-not-allowed")
    keys = await worker.call("GET", told["jwks_uri"].removeprefix(ISSUER))
    assert keys.status == 200
    assert [key["kty"] for key in keys.body["keys"]] == ["OKP"]
    assert told["service_documentation"] == f"{ISSUER}/docs"


async def test_the_published_keys_are_those_of_tokens(worker: Worker) -> None:
    """Section 2, `jwks_uri`: signatures are verified by the keys that are there."""
    told = await metadata(worker)
    keys = (await worker.call("GET", told["jwks_uri"].removeprefix(ISSUER))).body["keys"]
    token = (await worker.log_in(PHONE))["access_token"]
    header = decoded(token.split(".")[0])
    (key,) = [one for one in keys if one["kid"] == header["kid"]]
    assert (key["alg"], key["use"], key["crv"]) == (header["alg"], "sig", "Ed25519")
    assert set(key) == {"kty", "crv", "alg", "use", "kid", "x"}, "and nothing private"


async def test_grant_types_are_those_that_are_taken(worker: Worker) -> None:
    """Section 2, `grant_types_supported`: those, and no other of RFC 6749, 8693 and 8628."""
    told = await metadata(worker)
    taken = []
    for grant_type in (
        GRANT_OTP,
        GRANT_REFRESH,
        GRANT_CLIENT,
        "authorization_code",
        "implicit",
        "password",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "urn:ietf:params:oauth:grant-type:token-exchange",
        "urn:ietf:params:oauth:grant-type:device_code",
    ):
        reply = await post(worker, told["token_endpoint"], {"grant_type": grant_type})
        if reply.verdict != (400, "unsupported-grant-type"):
            taken.append(grant_type)
    assert taken == told["grant_types_supported"]
    assert told["response_types_supported"] == [], "nobody is sent elsewhere to log in"
    for path in ("/oauth/authorize", "/authorize"):
        assert (await worker.call("GET", path)).status == 404


async def test_scopes_are_those_that_a_login_gives(worker: Worker) -> None:
    """Section 2, `scopes_supported`: what is granted when nothing was asked for."""
    told = await metadata(worker)
    assert (await worker.log_in(PHONE))["scope"].split() == told["scopes_supported"]


def _basic(_: Signer) -> tuple[dict[str, str], dict[str, str]]:
    return {}, {"Authorization": "Basic c2VjcmV0aXZlOnMzY3JldA=="}


def _post(_: Signer) -> tuple[dict[str, str], dict[str, str]]:
    return {"client_id": "secretive", "client_secret": SECRET}, {}


def _assertion(signer: Signer) -> tuple[dict[str, str], dict[str, str]]:
    return signer.assertion("keyed", at_s=NOW_S), {}


def _none(_: Signer) -> tuple[dict[str, str], dict[str, str]]:
    return {"client_id": "mobile"}, {}


# How a client of each method says who it is.
METHODS: dict[str, Callable[[Signer], tuple[dict[str, str], dict[str, str]]]] = {
    "none": _none,
    "client_secret_basic": _basic,
    "client_secret_post": _post,
    "private_key_jwt": _assertion,
}
NOT_SUPPORTED = {"client_secret_jwt", "tls_client_auth", "self_signed_tls_client_auth"}


async def test_methods_of_authentication_are_those_that_work(worker: Worker) -> None:
    """Section 2: at each of the three endpoints a client of each method is who it says."""
    signer = Signer()
    told = await metadata(worker)
    put: Callable[..., Awaitable[None]] = worker.clients.put
    common = {"channel": "api", "subject": "mer_1", "scopes": SCOPES}
    await put(client_id="secretive", secret=SECRET, **common)
    await put(client_id="keyed", secret=None, jwks=signer.jwks(), **common)
    working: dict[str, list[str]] = {one: [] for one in ENDPOINTS}
    for method, said in METHODS.items():
        grant_type = GRANT_CLIENT
        if method == "none":
            # An app shows who it is by what it brings.
            tokens = await worker.log_in(PHONE)
            grant_type, brought = GRANT_REFRESH, {"refresh_token": tokens["refresh_token"]}
        else:
            brought = {}
        form, headers = said(signer)
        asked = {"grant_type": grant_type, **brought, **form}
        reply = await post(worker, told["token_endpoint"], asked, **headers)
        if reply.status == 200:
            working["token"].append(method)
        token = reply.body["access_token"]
        for one in ("introspection", "revocation"):
            form, headers = said(signer)
            reply = await post(worker, told[f"{one}_endpoint"], {"token": token, **form}, **headers)
            if reply.status == 200:
                working[one].append(method)
    for one in ENDPOINTS:
        named = told[f"{one}_endpoint_auth_methods_supported"]
        assert working[one] == named, one
        assert not NOT_SUPPORTED & set(named)


async def test_algorithms_of_assertions_are_those_that_are_taken(worker: Worker) -> None:
    """Section 2: required where `private_key_jwt` is; `none` is never among them."""
    told = await metadata(worker)
    taken = []
    for alg in ("EdDSA", "ES256", "PS256", "RS256"):
        signer = Signer(alg)
        await worker.clients.put(
            client_id="keyed",
            channel="api",
            subject="mer_1",
            secret=None,
            scopes=SCOPES,
            jwks=signer.jwks(),
        )
        form = signer.assertion("keyed", at_s=NOW_S)
        asked = {"grant_type": GRANT_CLIENT, **form}
        if (await post(worker, told["token_endpoint"], asked)).status == 200:
            taken.append(alg)
    for one in ENDPOINTS:
        assert taken == told[f"{one}_endpoint_auth_signing_alg_values_supported"]


async def test_algorithms_of_proofs_are_those_that_are_taken(worker: Worker, clock: Hand) -> None:
    """RFC 9449, 5.1: `dpop_signing_alg_values_supported`, asymmetric and never `none`."""
    told = await metadata(worker)
    clock.advance(60)
    taken = []
    for alg in ("EdDSA", "ES256", "PS256", "RS256", "ES384"):
        tokens = await worker.log_in(PHONE)
        proof = Signer(alg).proof("POST", TOKEN_URL, at_s=worker.clock() / 1_000)
        form = {"grant_type": GRANT_REFRESH, "refresh_token": tokens["refresh_token"]}
        reply = await post(worker, told["token_endpoint"], form, DPoP=proof)
        if reply.status == 200:
            taken.append(alg)
        clock.advance(30)
    assert taken == told["dpop_signing_alg_values_supported"]
