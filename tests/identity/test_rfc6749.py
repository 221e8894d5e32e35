"""OAuth 2.0 (RFC 6749) at the token endpoint: forms, clients, scopes, answers and errors."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import quote_plus

import pytest

from gateway.identity.model import GRANT_CLIENT, GRANT_OTP, GRANT_REFRESH
from tests.identity.signers import decoded
from tests.identity.worker import Hand, Reply, Worker

PHONE = "+998901234567"
TOKEN = "/oauth/token"
FORM = "application/x-www-form-urlencoded"
SECRET = "s3cret: ü&=%+"
SCOPES = ["limits:read", "payments:read", "payments:write"]
# RFC 6749, appendix A: what error codes and their descriptions are made of.
ERROR_CHARACTERS = {chr(code) for code in range(0x20, 0x7F)} - {'"', "\\"}


async def shop(worker: Worker, *, client_id: str = "shop") -> None:
    """Register a server with a secret."""
    await worker.clients.put(
        client_id=client_id, channel="api", subject="mer_1", secret=SECRET, scopes=SCOPES
    )


def basic(client_id: str, secret: str) -> dict[str, str]:
    """Return HTTP Basic of a client, each half form-encoded first (2.3.1)."""
    text = f"{quote_plus(client_id)}:{quote_plus(secret)}"
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


async def send(worker: Worker, body: bytes | str, **headers: str) -> Reply:
    """Post bytes as they are."""
    data = body.encode() if isinstance(body, str) else body
    sent = {"Content-Type": FORM, **{name.replace("_", "-"): one for name, one in headers.items()}}
    async with worker.http.post(worker.base_url + TOKEN, data=data, headers=sent) as reply:
        return Reply(reply.status, dict(reply.headers), await reply.read())


async def grant(worker: Worker, **form: str) -> Reply:
    """Ask as the shop, by its secret in the form."""
    said = {"client_id": "shop", "client_secret": SECRET}
    return await worker.grant(GRANT_CLIENT, **(said | form))


# Requests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD"])
async def test_the_token_endpoint_takes_post_alone(worker: Worker, method: str) -> None:
    """Section 3.2: the client uses POST."""
    async with worker.http.request(method, worker.base_url + TOKEN) as reply:
        assert reply.status == 405
        assert reply.headers["Allow"] == "POST"


async def test_parameters_come_in_the_body_alone(worker: Worker) -> None:
    """Section 2.3.1: credentials are never in the request's URI."""
    await shop(worker)
    path = f"{TOKEN}?grant_type=client_credentials&client_id=shop&client_secret=x"
    assert (await worker.call("POST", path)).verdict == (400, "invalid-query")


async def test_a_form_is_a_form(worker: Worker) -> None:
    """Section 3.2: `application/x-www-form-urlencoded` in UTF-8, with its parameters or without."""
    await shop(worker)
    body = f"grant_type=client_credentials&client_id=shop&client_secret={quote_plus(SECRET)}"
    for content_type, status in (
        (FORM, 200),
        (f"{FORM}; charset=UTF-8", 200),
        (FORM.upper(), 200),
        ("application/json", 415),
        ("multipart/form-data; boundary=x", 415),
        ("text/plain", 415),
        ("", 415),
    ):
        reply = await send(worker, body, Content_Type=content_type)
        assert (content_type, status) == (content_type, reply.status)
        if status != 200:
            assert reply.body["error"] == "invalid_request"


async def test_a_parameter_is_given_once(worker: Worker) -> None:
    """Section 3.2: repeated it is `invalid_request`, the same value or another, empty or not."""
    await shop(worker)
    good = f"grant_type=client_credentials&client_id=shop&client_secret={quote_plus(SECRET)}"
    for more in ("grant_type=client_credentials", "client_id=shop", "client_id=", "scope=&scope="):
        reply = await send(worker, f"{good}&{more}")
        assert (reply.status, reply.body["error"]) == (400, "invalid_request"), more
    assert (await send(worker, good)).status == 200


async def test_a_parameter_without_a_value_is_none(worker: Worker) -> None:
    """Section 3.2: as if it had been left out."""
    await shop(worker)
    assert (await grant(worker, scope="", refresh_token="", device_id="")).status == 200
    assert (await worker.grant("")).verdict == (400, "invalid-request")
    reply = await worker.grant(GRANT_REFRESH, refresh_token="")
    assert reply.verdict == (400, "invalid-request")


async def test_parameters_that_are_not_known_are_ignored(worker: Worker) -> None:
    """Section 3.2: and whatever they say."""
    await shop(worker)
    reply = await grant(worker, audience="x", resource="https://x", redirect_uri="y", state="z")
    assert reply.status == 200


async def test_what_cannot_be_read_is_an_invalid_request(worker: Worker) -> None:
    """Section 5.2: never a fault of ours."""
    for body in (
        b"",
        b"grant_type",
        b"=",
        b"&&&",
        b"grant_type=%ff",
        b"grant_type=\xff",
        b"grant_type=a%00b",
        b"grant_type=client_credentials&client_id=%00",
        b"grant_type=client_credentials&scope=%0a",
        b"grant_type=" + b"x" * 5_000,
        b"\x00",
        b'{"grant_type": "client_credentials"}',
    ):
        reply = await send(worker, body)
        assert reply.status == 400, body
        assert reply.body["error"] == "invalid_request", body


async def test_a_grant_type_is_needed_and_known(worker: Worker) -> None:
    """Section 5.2: `invalid_request` without one, `unsupported_grant_type` for another."""
    for form, error in (
        ({"client_id": "mobile"}, "invalid_request"),
        ({"grant_type": "password", "username": "a", "password": "b"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code", "code": "x"}, "unsupported_grant_type"),
        ({"grant_type": "Client_Credentials"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials "}, "unsupported_grant_type"),
    ):
        reply = await worker.call("POST", TOKEN, form=form)
        assert (reply.status, reply.body["error"]) == (400, error), form


# Clients ------------------------------------------------------------------------------------


async def test_a_client_gives_its_secret_by_basic_or_in_the_form(worker: Worker) -> None:
    """Section 2.3.1: the halves of Basic are form-encoded, so that any character may be in them."""
    await shop(worker, client_id="shop:1 &ü")
    form = {"grant_type": GRANT_CLIENT}
    reply = await worker.call("POST", TOKEN, form=form, headers=basic("shop:1 &ü", SECRET))
    assert reply.status == 200, reply.raw
    reply = await worker.grant(GRANT_CLIENT, client_id="shop:1 &ü", client_secret=SECRET)
    assert reply.status == 200


async def test_one_method_of_authentication_a_request(worker: Worker) -> None:
    """Section 2.3: not more than one; client_id may be repeated in the form when it is the same."""
    await shop(worker)
    good = basic("shop", SECRET)
    for form, status in (
        ({}, 200),
        ({"client_id": "shop"}, 200),
        ({"client_id": "other"}, 400),
        ({"client_secret": SECRET}, 400),
        ({"client_id": "shop", "client_secret": SECRET}, 400),
    ):
        data = {"grant_type": GRANT_CLIENT, **form}
        reply = await worker.call("POST", TOKEN, form=data, headers=good)
        assert (form, status) == (form, reply.status)
    headers = [("Content-Type", FORM), *good.items(), *good.items()]
    data = b"grant_type=client_credentials"
    async with worker.http.post(worker.base_url + TOKEN, data=data, headers=headers) as twice:
        assert (twice.status, (await twice.json())["error"]) == (400, "invalid_request")


BASIC: list[bytes] = [
    b"",
    b"shop",
    b":",
    b"shop:",
    b":s3cret",
    b"shop:wrong",
    b"nobody:s3cret",
    b"sh%00op:s3cret",
    b"shop:%00",
    b"\x00:\x00",
    b"%ff:%ff",
    b"\xff\xfe:x",
    b"shop:" + b"x" * 4_000,
    b"x" * 4_000 + b":x",
    b"' OR 1=1 --:x",
    b"mobile:x",
]


async def test_a_client_that_fails_to_authenticate_is_challenged(worker: Worker) -> None:
    """Section 5.2: `invalid_client`, 401, and WWW-Authenticate with the scheme that was used."""
    await shop(worker)
    form = {"grant_type": GRANT_CLIENT}
    credentials = [f"Basic {base64.b64encode(one).decode()}" for one in BASIC]
    for authorization in (
        *credentials,
        "Basic",
        "Basic !",
        "Basic c2hvcA",
        "Basic c2hvcDp4==",
        "Digest x",
    ):
        reply = await worker.call(
            "POST", TOKEN, form=form, headers={"Authorization": authorization}
        )
        assert (authorization, reply.verdict) == (authorization, (401, "invalid-client"))
        assert reply.body["error"] == "invalid_client"
        assert reply.headers["WWW-Authenticate"].startswith("Basic realm=")


async def test_nobody_learns_which_clients_there_are(worker: Worker) -> None:
    """Section 10.2 and 10.10: an unknown client and a wrong secret are answered alike."""
    await shop(worker)
    answers = []
    for client_id in ("shop", "nobody"):
        reply = await worker.grant(GRANT_CLIENT, client_id=client_id, client_secret="wrong")
        answers.append({name: one for name, one in reply.body.items() if name != "request_id"})
    assert answers[0] == answers[1]


async def test_client_credentials_are_for_confidential_clients(worker: Worker) -> None:
    """Section 4.4: an app, which keeps no secret, and a request that names nobody get nothing."""
    for form in ({}, {"client_id": "mobile"}, {"client_id": "mobile", "client_secret": "x"}):
        reply = await worker.grant(GRANT_CLIENT, **form)
        assert (reply.status, reply.body["error"]) == (401, "invalid_client")


async def test_client_credentials_give_no_refresh_token(worker: Worker) -> None:
    """Section 4.4.3."""
    await shop(worker)
    reply = await grant(worker)
    assert set(reply.body) == {"access_token", "token_type", "expires_in", "scope"}


async def test_a_server_does_not_carry_customers(worker: Worker) -> None:
    """Section 5.2: an authenticated client that may not use a grant type: `unauthorized_client`."""
    await shop(worker)
    form = {
        "challenge_id": await worker.ask(PHONE),
        "code": await worker.code(PHONE),
        "device_id": "d",
    }
    said = {"client_id": "shop", "client_secret": SECRET}
    reply = await worker.grant(GRANT_OTP, **form, **said)
    assert (reply.status, reply.body["error"]) == (400, "unauthorized_client")
    assert (await worker.grant(GRANT_OTP, **form)).status == 200, "the code was not used up"


async def test_an_access_token_says_nothing_of_the_client(worker: Worker) -> None:
    """An app that sends its token with everything is answered as one that does not."""
    tokens = await worker.log_in(PHONE)
    for scheme in ("Bearer", "DPoP"):
        form = {"grant_type": GRANT_REFRESH, "refresh_token": tokens["refresh_token"]}
        headers = {"Authorization": f"{scheme} {tokens['access_token']}"}
        reply = await worker.call("POST", TOKEN, form=form, headers=headers)
        assert reply.status == 200
        tokens = reply.body


# Scopes -------------------------------------------------------------------------------------


async def test_the_scope_of_the_answer_is_what_was_granted(worker: Worker) -> None:
    """Section 3.3: everything when nothing was asked; less than asked is told."""
    await shop(worker)
    for asked, granted in (
        (None, "limits:read payments:read payments:write"),
        ("payments:read", "payments:read"),
        ("payments:write limits:read", "limits:read payments:write"),
        ("payments:read payments:read", "payments:read"),
        ("payments:read admin:rules:approve", "payments:read"),
    ):
        reply = await grant(worker, **({} if asked is None else {"scope": asked}))
        assert (asked, granted) == (asked, reply.body["scope"])
        assert decoded(reply.body["access_token"].split(".")[1])["scope"] == granted


async def test_a_scope_that_cannot_be_is_invalid(worker: Worker) -> None:
    """Sections 3.3 and 5.2: not well formed, unknown or beyond what may be granted."""
    await shop(worker)
    for scope in (
        "admin:rules:approve",
        "nothing",
        "PAYMENTS:READ",
        " ",
        " payments:read",
        "payments:read ",
        "payments:read  limits:read",
        'payments:read"',
        "payments:read\\",
        "payments:read é",
        "payments:read,limits:read",
        "*",
    ):
        reply = await grant(worker, scope=scope)
        assert (scope, reply.status) == (scope, 400)
        assert reply.body["error"] == "invalid_scope"


async def test_a_refresh_gives_what_the_login_gave_and_never_more(worker: Worker) -> None:
    """Section 6: nothing that was not granted originally; left out, it is the same again."""
    form = {"challenge_id": await worker.ask(PHONE), "code": await worker.code(PHONE)}
    login = await worker.grant(GRANT_OTP, **form, device_id="d", scope="cards:read sessions:read")
    token = login.body["refresh_token"]
    for scope in ("payments:write", "cards:read payments:write"):
        reply = await worker.refresh(token, scope=scope)
        assert (reply.status, reply.body["error"]) == (400, "invalid_scope")
    narrow = await worker.refresh(token, scope="cards:read")
    assert narrow.body["scope"] == "cards:read"
    wide = await worker.refresh(narrow.body["refresh_token"])
    assert wide.body["scope"] == login.body["scope"] == "cards:read sessions:read"
    assert decoded(wide.body["access_token"].split(".")[1])["scope"] == login.body["scope"]


async def test_what_a_client_may_no_longer_have_is_not_renewed(worker: Worker) -> None:
    """Section 6: a refresh gives what was granted and still may be."""
    await worker.clients.put(
        client_id="app", channel="mobile", subject=None, secret=None, scopes=["cards:read", "x:y"]
    )
    form = {"challenge_id": await worker.ask(PHONE), "code": await worker.code(PHONE)}
    login = await worker.grant(GRANT_OTP, **form, device_id="d", client_id="app")
    assert login.body["scope"] == "cards:read x:y"
    await worker.clients.put(
        client_id="app", channel="mobile", subject=None, secret=None, scopes=["cards:read"]
    )
    assert (await worker.refresh(login.body["refresh_token"])).body["scope"] == "cards:read"


# Refresh tokens -----------------------------------------------------------------------------


async def test_a_refresh_token_is_its_clients_own(worker: Worker) -> None:
    """Sections 6 and 10.4: for another client it is `invalid_grant`, and it still works."""
    await shop(worker)
    await worker.clients.put(
        client_id="app", channel="mobile", subject=None, secret=None, scopes=["cards:read"]
    )
    token = (await worker.log_in(PHONE))["refresh_token"]
    for said in ({"client_id": "app"}, {"client_id": "shop", "client_secret": SECRET}):
        reply = await worker.refresh(token, **said)
        assert (reply.status, reply.body["error"]) == (400, "invalid_grant")
    assert (await worker.refresh(token, client_id="mobile")).status == 200


async def test_a_confidential_client_authenticates_to_renew(worker: Worker) -> None:
    """Section 6: whoever was given credentials must give them, not the token alone."""
    await worker.clients.put(
        client_id="kiosk", channel="mobile", subject=None, secret=SECRET, scopes=["cards:read"]
    )
    said = {"client_id": "kiosk", "client_secret": SECRET}
    form = {"challenge_id": await worker.ask(PHONE), "code": await worker.code(PHONE)}
    login = await worker.grant(GRANT_OTP, **form, device_id="d", **said)
    token = login.body["refresh_token"]
    for wrong in ({}, {"client_id": "kiosk"}, said | {"client_secret": "wrong"}):
        reply = await worker.refresh(token, **wrong)
        assert (reply.status, reply.body["error"]) == (401, "invalid_client")
    assert (await worker.refresh(token, **said)).status == 200


async def test_a_refresh_token_that_is_none_is_an_invalid_grant(worker: Worker) -> None:
    """Section 5.2: unknown, ended, or something else altogether."""
    tokens = await worker.log_in(PHONE)
    for text in ("x", "ort_x", tokens["access_token"], "é", "x" * 4_096):
        reply = await worker.refresh(text)
        assert (reply.status, reply.body["error"]) == (400, "invalid_grant"), text


# Answers ------------------------------------------------------------------------------------


async def test_a_good_answer_has_what_it_must(worker: Worker) -> None:
    """Section 5.1: JSON that is not kept; `token_type`, and seconds until it expires."""
    await worker.log_in(PHONE)
    worker.clock.advance(60)
    form = {"challenge_id": await worker.ask(PHONE), "code": await worker.code(PHONE)}
    reply = await worker.grant(GRANT_OTP, **form, device_id="d")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "application/json"
    assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == ("no-store", "no-cache")
    assert reply.body["token_type"] == "Bearer"
    claims = decoded(reply.body["access_token"].split(".")[1])
    assert reply.body["expires_in"] == claims["exp"] - claims["iat"] == 300
    assert set(reply.body) == {
        "access_token",
        "token_type",
        "expires_in",
        "scope",
        "refresh_token",
        "session_id",
    }


ERRORS: list[tuple[dict[str, Any], int, str]] = [
    ({}, 400, "invalid_request"),
    ({"grant_type": "x"}, 400, "unsupported_grant_type"),
    ({"grant_type": GRANT_OTP}, 400, "invalid_request"),
    (
        {"grant_type": GRANT_OTP, "challenge_id": "x", "code": "y", "device_id": "d"},
        400,
        "invalid_grant",
    ),
    ({"grant_type": GRANT_REFRESH}, 400, "invalid_request"),
    ({"grant_type": GRANT_REFRESH, "refresh_token": "x"}, 400, "invalid_grant"),
    ({"grant_type": GRANT_REFRESH, "refresh_token": "x", "client_id": "y"}, 401, "invalid_client"),
    ({"grant_type": GRANT_CLIENT}, 401, "invalid_client"),
    ({"grant_type": GRANT_CLIENT, "scope": "  "}, 400, "invalid_scope"),
]


async def test_an_error_has_what_it_must(worker: Worker) -> None:
    """Section 5.2: `error` by its name, a description in its characters, and nothing is kept."""
    for form, status, error in ERRORS:
        reply = await worker.call("POST", TOKEN, form=form)
        assert (form, status) == (form, reply.status)
        assert reply.body["error"] == error
        assert reply.body["error_description"] == reply.body["detail"].replace('"', "'")
        assert set(reply.body["error_description"]) <= ERROR_CHARACTERS
        assert (reply.headers["Cache-Control"], reply.headers["Pragma"]) == (
            "no-store",
            "no-cache",
        )
        assert reply.headers["Content-Type"] == "application/problem+json"
        assert reply.body["status"] == status


async def test_a_wrong_code_is_an_invalid_grant(worker: Worker, clock: Hand) -> None:
    """Section 5.2: with the house's own status and code, and OAuth's name beside them."""
    challenge = await worker.ask(PHONE)
    form = {"challenge_id": challenge, "code": "WRONG2", "device_id": "d"}
    for status, code in ((422, "otp-invalid"), (422, "otp-invalid"), (422, "otp-invalid")):
        reply = await worker.grant(GRANT_OTP, **form)
        assert (reply.verdict, reply.body["error"]) == ((status, code), "invalid_grant")
    locked = await worker.grant(GRANT_OTP, **form)
    assert (locked.verdict, locked.body["error"]) == ((429, "otp-locked"), "invalid_grant")
    assert "Retry-After" in locked.headers


async def test_nothing_that_was_sent_comes_back(worker: Worker) -> None:
    """Section 10: neither a secret nor a token nor a code is in an answer to a bad request."""
    await shop(worker)
    secrets = {"client_secret": "my-secret-1", "refresh_token": "my-token-2", "code": "my-code-3"}
    for grant_type in (GRANT_CLIENT, GRANT_REFRESH, GRANT_OTP, "x"):
        reply = await worker.grant(grant_type, client_id="shop", **secrets)
        assert reply.status >= 400
        for one in secrets.values():
            assert one not in json.dumps(reply.body)
