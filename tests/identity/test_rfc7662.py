"""Token introspection (RFC 7662) through a worker's door."""

from __future__ import annotations

from typing import Any

from tests.identity.signers import ISSUER, Signer, decoded
from tests.identity.worker import Hand, Reply, Worker

PHONE = "+998901234567"
PATH = "/oauth/introspect"
SECRET = "s3cret"
SAID = {"client_id": "kiosk", "client_secret": SECRET}


async def kiosk(worker: Worker) -> dict[str, Any]:
    """Register a confidential client that carries customers, log one in, return the tokens."""
    await worker.clients.put(
        client_id="kiosk",
        channel="mobile",
        subject=None,
        secret=SECRET,
        scopes=["sessions:read", "cards:read"],
        dpop="optional",
    )
    reply = await worker.grant(
        "urn:oqim:params:oauth:grant-type:otp",
        challenge_id=await worker.ask(PHONE),
        code=await worker.code(PHONE),
        device_id="d",
        **SAID,
    )
    assert reply.status == 200, reply.raw
    tokens: dict[str, Any] = reply.body
    return tokens


async def introspect(worker: Worker, token: str, **form: str) -> Reply:
    return await worker.call("POST", PATH, form={"token": token, **form})


async def test_an_active_token_is_described(worker: Worker) -> None:
    """Section 2.2: `active`, and of the rest what the token itself says."""
    tokens = await kiosk(worker)
    reply = await introspect(worker, tokens["access_token"], **SAID)
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")
    claims = decoded(tokens["access_token"].split(".")[1])
    same = ("scope", "client_id", "sub", "sid", "iss", "aud", "jti", "iat", "exp")
    assert reply.body == {"active": True, "token_type": "Bearer"} | {
        name: claims[name] for name in same
    }
    assert claims["iss"] == ISSUER


async def test_a_refresh_token_is_described(worker: Worker) -> None:
    """Section 2.1: one that would be accepted; nothing is used up by asking."""
    tokens = await kiosk(worker)
    for hint in ("refresh_token", "access_token", "nonsense"):
        reply = await introspect(worker, tokens["refresh_token"], token_type_hint=hint, **SAID)
        assert reply.body["active"] is True
        assert (reply.body["client_id"], reply.body["sid"]) == ("kiosk", tokens["session_id"])
    assert (await worker.refresh(tokens["refresh_token"], **SAID)).status == 200


async def test_of_what_is_not_active_nothing_else_is_said(worker: Worker, clock: Hand) -> None:
    """Section 2.2: `{"active": false}`, the same for every reason."""
    tokens = await kiosk(worker)
    used = tokens["refresh_token"]
    renewed = (await worker.refresh(used, **SAID)).body
    signed, _, signature = tokens["access_token"].rpartition(".")
    forged = f"{signed}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"
    inactive = [used, "x", "ort_x", "a.b.c", forged, "é", "x" * 4_096]
    for token in inactive:
        assert (await introspect(worker, token, **SAID)).body == {"active": False}, token
    clock.advance(300)
    for token in (tokens["access_token"], renewed["access_token"]):
        assert (await introspect(worker, token, **SAID)).body == {"active": False}, "expired"
    fresh = (await worker.refresh(renewed["refresh_token"], **SAID)).body
    assert (await introspect(worker, fresh["access_token"], **SAID)).body["active"]
    form = {"token": fresh["refresh_token"], **SAID}
    assert (await worker.call("POST", "/oauth/revoke", form=form)).status == 200
    for token in (fresh["access_token"], fresh["refresh_token"]):
        assert (await introspect(worker, token, **SAID)).body == {"active": False}, "revoked"


async def test_who_asks_must_be_known(worker: Worker) -> None:
    """Section 2.1: an open endpoint could be used to guess tokens; 401 (2.3)."""
    tokens = await kiosk(worker)
    for said in (
        {},
        {"client_id": "kiosk"},
        {"client_id": "mobile"},
        {"client_id": "kiosk", "client_secret": "wrong"},
        {"client_id": "nobody", "client_secret": SECRET},
    ):
        reply = await introspect(worker, tokens["access_token"], **said)
        assert (said, reply.status, reply.body["error"]) == (said, 401, "invalid_client")
        assert "WWW-Authenticate" in reply.headers
    headers = {"Authorization": f"Bearer {tokens['access_token']}"}
    form = {"token": tokens["access_token"]}
    reply = await worker.call("POST", PATH, form=form, headers=headers)
    assert reply.verdict == (401, "invalid-client"), "a token does not speak for a client"


async def test_anothers_token_is_not_active_for_you(worker: Worker) -> None:
    """Sections 2.2 and 4: a client learns nothing of tokens that are not its own."""
    await kiosk(worker)
    theirs = await worker.log_in("+998901234568")
    for name in ("access_token", "refresh_token"):
        assert (await introspect(worker, theirs[name], **SAID)).body == {"active": False}


async def test_a_token_must_be_named_by_post(worker: Worker) -> None:
    """Section 2.1: `token` is required, in the body of a POST."""
    await kiosk(worker)
    reply = await worker.call("POST", PATH, form=SAID)
    assert (reply.status, reply.body["error"]) == (400, "invalid_request")
    assert (await worker.call("GET", PATH)).status == 405
    assert (await worker.call("POST", f"{PATH}?token=x", form=SAID)).status == 400


async def test_a_bound_token_names_its_key(worker: Worker) -> None:
    """RFC 9449, 6.2: `cnf` with `jkt`, and its type; how it was sent here does not matter."""
    await kiosk(worker)
    signer = Signer()
    token = worker.tokens.issue(
        sub="usr_1", client_id="kiosk", scope=["cards:read"], channel="mobile", jkt=signer.jkt
    )
    told = (await introspect(worker, token, **SAID)).body
    assert (told["active"], told["token_type"], told["cnf"]) == (True, "DPoP", {"jkt": signer.jkt})
