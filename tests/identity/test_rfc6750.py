"""Bearer tokens (RFC 6750) at resources: where they may be, and how a refusal is told."""

from __future__ import annotations

from tests.identity.worker import Worker

PHONE = "+998901234567"
PATH = "/v1/sessions"


async def test_a_token_is_in_the_authorization_header(worker: Worker) -> None:
    """Section 2.1: the scheme in any case, one token after it."""
    token = (await worker.log_in(PHONE))["access_token"]
    for scheme in ("Bearer", "bearer", "BEARER"):
        reply = await worker.call("GET", PATH, headers={"Authorization": f"{scheme} {token}"})
        assert reply.status == 200


async def test_a_token_is_nowhere_else(worker: Worker) -> None:
    """Sections 2.2, 2.3 and 5.3: neither in a form nor in the address, where it would be logged."""
    token = (await worker.log_in(PHONE))["access_token"]
    in_address = await worker.call("GET", f"{PATH}?access_token={token}")
    assert in_address.verdict in ((401, "unauthenticated"), (400, "invalid-query"))
    form = {"access_token": token}
    in_form = await worker.call("POST", f"{PATH}/revoke-others", form=form)
    assert in_form.verdict == (401, "unauthenticated")
    cookie = await worker.call("GET", PATH, headers={"Cookie": f"access_token={token}"})
    assert cookie.verdict == (401, "unauthenticated")


async def test_two_tokens_are_refused(worker: Worker) -> None:
    """Section 2: one method a request, and one token."""
    token = (await worker.log_in(PHONE))["access_token"]
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    async with worker.http.get(worker.base_url + PATH, headers=headers) as reply:
        assert (reply.status, (await reply.json())["code"]) == (400, "invalid-request")


async def test_who_gives_no_token_is_told_the_scheme_and_no_error(worker: Worker) -> None:
    """Section 3.1: no error code for a request without any authentication."""
    reply = await worker.call("GET", PATH)
    assert reply.verdict == (401, "unauthenticated")
    assert reply.headers["WWW-Authenticate"] == "Bearer"


async def test_a_token_that_is_not_valid_is_told_so(worker: Worker) -> None:
    """Section 3.1: 401 with `invalid_token`, whatever is wrong with it."""
    token = (await worker.log_in(PHONE))["access_token"]
    worker.clock.advance(300)
    for text in (token, "x", "a.b.c"):
        reply = await worker.call("GET", PATH, token=text)
        assert reply.verdict == (401, "invalid-token")
        assert reply.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


async def test_a_token_that_permits_too_little_is_told_so(worker: Worker) -> None:
    """Section 3.1: 403 with `insufficient_scope`, and the scope that is needed."""
    token = worker.tokens.issue(
        sub="usr_1", client_id="mobile", scope=["cards:read"], channel="mobile"
    )
    reply = await worker.call("GET", PATH, token=token)
    assert reply.verdict == (403, "insufficient-scope")
    assert reply.headers["WWW-Authenticate"] == 'Bearer error="insufficient_scope"'
    assert "sessions:read" in reply.body["detail"]


async def test_answers_to_tokens_are_not_kept(worker: Worker) -> None:
    """Section 5.3: what was given to one who authenticated is given to no other from a cache."""
    token = (await worker.log_in(PHONE))["access_token"]
    reply = await worker.call("GET", PATH, token=token)
    assert reply.headers["Cache-Control"] == "no-store"
