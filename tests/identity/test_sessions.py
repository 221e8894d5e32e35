"""Staying logged in and logging out: refresh tokens, sessions, and who hears of their end."""

import asyncio
import base64
from typing import Any

import pytest

from tests.house import until
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Worker, running_worker

PHONE, OTHER = "+998901234567", "+998901234568"
INVALID = (400, "invalid-grant")


async def _is_in(worker: Worker, tokens: dict[str, Any]) -> bool:
    reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    assert reply.verdict in ((200, ""), (401, "invalid-token"))
    return reply.status == 200


async def test_a_refresh_token_of_another_device_ends_the_session(worker: Worker) -> None:
    """Whoever has a copy elsewhere gets nothing, and the session is over everywhere."""
    tokens = await worker.log_in(PHONE, device="mine")
    assert (await worker.refresh(tokens["refresh_token"], device_id="his")).verdict == INVALID
    assert not await _is_in(worker, tokens)
    assert (await worker.refresh(tokens["refresh_token"], device_id="mine")).verdict == INVALID


@pytest.mark.fault(rows=[48], what="the session ends")
async def test_a_refresh_token_used_after_grace_ends_the_session(worker: Worker) -> None:
    """A copy used later ends the session that its successor kept alive."""
    first = await worker.log_in(PHONE)
    second = (await worker.refresh(first["refresh_token"])).body
    worker.clock.advance(10.001)
    assert (await worker.refresh(first["refresh_token"])).verdict == INVALID
    assert not await _is_in(worker, second)
    assert (await worker.refresh(second["refresh_token"])).verdict == INVALID
    kinds = await worker.pool.fetch("SELECT kind, value FROM revocations")
    assert [("sid", first["session_id"])] == [tuple(row) for row in kinds]


async def test_a_refresh_token_expires(worker: Worker) -> None:
    """Thirty days unused are the end; each use gives thirty more."""
    tokens = await worker.log_in(PHONE)
    worker.clock.advance(2_592_000 - 1)
    tokens = (await worker.refresh(tokens["refresh_token"])).body
    worker.clock.advance(2_592_000 - 1)
    tokens = (await worker.refresh(tokens["refresh_token"])).body
    worker.clock.advance(2_592_000)
    assert (await worker.refresh(tokens["refresh_token"])).verdict == INVALID


async def test_a_refresh_token_is_of_its_client(worker: Worker) -> None:
    """Another client cannot use it, and the session lives on."""
    await worker.clients.put(
        client_id="web", channel="mobile", subject=None, secret=None, scopes=[]
    )
    tokens = await worker.log_in(PHONE)
    assert (await worker.refresh(tokens["refresh_token"], client_id="web")).verdict == INVALID
    reply = await worker.refresh(tokens["refresh_token"], client_id="mobile", device_id="dev-1")
    assert reply.status == 200


@pytest.mark.fault(rows=[47], what="one successor for a while")
async def test_refreshing_gives_one_successor_for_a_while(worker: Worker) -> None:
    """An app that lost the answer asks again at once and gets the same; nothing else changes."""
    first = await worker.log_in(PHONE)
    replies = await asyncio.gather(
        *(worker.refresh(first["refresh_token"], device_id="dev-1") for _ in range(8))
    )
    assert {200} == {reply.status for reply in replies}
    successors = {reply.body["refresh_token"] for reply in replies}
    assert len(successors) == 1
    assert first["refresh_token"] not in successors
    assert {first["session_id"]} == {reply.body["session_id"] for reply in replies}
    worker.clock.advance(10)
    again = await worker.refresh(first["refresh_token"])
    assert successors == {again.body["refresh_token"]}


async def test_refresh_tokens_that_expired_are_deleted(worker: Worker) -> None:
    """A session that lives on does not keep every token it ever had."""
    tokens = await worker.log_in(PHONE)
    for _ in range(3):
        worker.clock.advance(2_592_000 - 1)
        tokens = (await worker.refresh(tokens["refresh_token"])).body
        expired = "SELECT count(*) FROM refresh_tokens WHERE expires_at < to_timestamp($1)"
        assert await worker.pool.fetchval(expired, worker.clock.now_ms / 1_000) == 0
    assert await worker.pool.fetchval("SELECT count(*) FROM refresh_tokens") == 2


async def test_no_refresh_token_is_kept_in_the_open(worker: Worker) -> None:
    """A copy of the database logs nobody in."""
    first = await worker.log_in(PHONE)
    second = (await worker.refresh(first["refresh_token"])).body
    dump = str(await worker.pool.fetch("SELECT * FROM refresh_tokens"))
    for tokens in (first, second):
        assert tokens["refresh_token"] not in dump
        assert tokens["refresh_token"].encode().hex() not in dump


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        ("?limit=0", (400, "invalid-query")),
        ("?limit=101", (400, "invalid-query")),
        ("?limit=x", (400, "invalid-query")),
        ("?page=1", (400, "invalid-query")),
        ("?cursor=", (400, "invalid-cursor")),
        ("?cursor=AAAA", (400, "invalid-cursor")),
    ],
)
async def test_list_refuses(worker: Worker, query: str, verdict: tuple[int, str]) -> None:
    """A page that cannot be is refused."""
    token = (await worker.log_in(PHONE))["access_token"]
    assert verdict == (await worker.call("GET", f"/v1/sessions{query}", token=token)).verdict


async def test_list_shows_a_customers_devices_page_by_page(worker: Worker) -> None:
    """The latest login comes first, the asking one is marked, another customer's cursor is not."""
    logins = []
    for number in range(3):
        logins.append(await worker.log_in(PHONE, device=f"dev-{number}"))
        worker.clock.advance(1)
    stranger = await worker.log_in(OTHER)
    token = logins[1]["access_token"]
    first = (await worker.call("GET", "/v1/sessions?limit=2", token=token)).body
    path = f"/v1/sessions?limit=2&cursor={first['next_cursor']}"
    second = (await worker.call("GET", path, token=token)).body
    shown = first["data"] + second["data"]
    assert [one["session_id"] for one in reversed(logins)] == [one["id"] for one in shown]
    assert [one["is_current"] for one in shown] == [False, True, False]
    assert shown[0]["device_id"] == "dev-2"
    assert second["next_cursor"] is None
    foreign = await worker.call("GET", path, token=stranger["access_token"])
    assert foreign.verdict == (400, "invalid-cursor")


async def test_another_customers_session_is_unknown(worker: Worker) -> None:
    """It cannot be ended, and is told apart from no session by nothing."""
    mine, his = await worker.log_in(PHONE), await worker.log_in(OTHER)
    for session_id in (his["session_id"], "ses_none", "x'; --"):
        path = f"/v1/sessions/{session_id}"
        reply = await worker.call("DELETE", path, token=mine["access_token"])
        assert reply.verdict == (404, "not-found")
    assert await _is_in(worker, his)


async def test_ending_a_session_ends_its_tokens_at_once(worker: Worker) -> None:
    """The next request with its access token is refused; ending it again changes nothing."""
    mine = await worker.log_in(PHONE)
    lost = await worker.log_in(PHONE, device="lost")
    path = f"/v1/sessions/{lost['session_id']}"
    for _ in range(2):
        assert (await worker.call("DELETE", path, token=mine["access_token"])).status == 204
        assert not await _is_in(worker, lost)
    assert (await worker.refresh(lost["refresh_token"])).verdict == INVALID
    assert await _is_in(worker, mine)
    assert await worker.pool.fetchval("SELECT count(*) FROM revocations") == 1


async def test_ending_the_others_keeps_the_one_that_asks(worker: Worker) -> None:
    """Every other device is logged out, and nobody else's."""
    mine = await worker.log_in(PHONE)
    others = [await worker.log_in(PHONE, device=f"d{number}") for number in range(3)]
    stranger = await worker.log_in(OTHER)
    token = mine["access_token"]
    reply = await worker.call("POST", "/v1/sessions/revoke-others", token=token)
    assert reply.body == {"revoked": 3}
    assert [await _is_in(worker, one) for one in others] == [False] * 3
    assert await _is_in(worker, mine)
    assert await _is_in(worker, stranger)


async def test_two_devices_may_end_each_other(worker: Worker) -> None:
    """Nobody waits for anybody forever, and at least one of them is out."""
    for _ in range(3):
        one, two = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
        replies = await asyncio.gather(
            *(
                worker.call("POST", "/v1/sessions/revoke-others", token=tokens["access_token"])
                for tokens in (one, two)
            )
        )
        assert {reply.status for reply in replies} <= {200, 401}
        assert not (await _is_in(worker, one) and await _is_in(worker, two))


async def test_another_worker_hears_of_the_end(place: Place, clock: Hand, worker: Worker) -> None:
    """A session ended at one worker is refused at another within the feed's bound."""
    tokens = await worker.log_in(PHONE)
    async with running_worker(place.database_url, place.redis_url, clock=clock) as other:
        assert await _is_in(other, tokens)
        path = f"/v1/sessions/{tokens['session_id']}"
        assert (await worker.call("DELETE", path, token=tokens["access_token"])).status == 204

        async def is_out() -> bool:
            return not await _is_in(other, tokens)

        assert await until(is_out, within_s=2)
    async with running_worker(place.database_url, place.redis_url, clock=clock) as late:
        assert not await _is_in(late, tokens)


# RFC 7009, RFC 7662 ----------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "x", "ort_x", "a.b.c", "é", "x" * 4_096])
async def test_revoke_answers_alike_for_what_is_no_token(worker: Worker, token: str) -> None:
    """There is nothing to learn from it."""
    reply = await worker.call("POST", "/oauth/revoke", form={"token": token})
    assert reply.verdict == (200, "")


async def test_revoke_of_a_refresh_token_ends_the_session(worker: Worker) -> None:
    """With a wrong hint too, and for a token that was used already."""
    tokens = await worker.log_in(PHONE)
    later = (await worker.refresh(tokens["refresh_token"])).body
    form = {"token": tokens["refresh_token"], "token_type_hint": "access_token"}
    assert (await worker.call("POST", "/oauth/revoke", form=form)).status == 200
    assert not await _is_in(worker, later)
    assert (await worker.refresh(later["refresh_token"])).verdict == INVALID


async def test_an_apps_bearer_token_is_no_client_authentication(worker: Worker) -> None:
    """An app that sends its token with everything can still refresh and log out."""
    tokens = await worker.log_in(PHONE)
    access = tokens["access_token"]
    form = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    later = await worker.call("POST", "/oauth/token", form=form, token=access)
    assert later.status == 200
    form = {"token": later.body["refresh_token"]}
    assert (await worker.call("POST", "/oauth/revoke", form=form, token=access)).status == 200
    assert not await _is_in(worker, tokens)


async def test_revoke_of_an_access_token_ends_that_token_alone(worker: Worker) -> None:
    """The session can be refreshed."""
    tokens = await worker.log_in(PHONE)
    form = {"token": tokens["access_token"], "token_type_hint": "refresh_token"}
    assert (await worker.call("POST", "/oauth/revoke", form=form)).status == 200
    assert not await _is_in(worker, tokens)
    assert await _is_in(worker, (await worker.refresh(tokens["refresh_token"])).body)


async def _shop_token(worker: Worker, name: str) -> str:
    await worker.clients.put(
        client_id=name, channel="api", subject=f"mer_{name}", secret="s3cret", scopes=["a", "b"]
    )
    reply = await worker.grant("client_credentials", client_id=name, client_secret="s3cret")
    assert reply.status == 200, reply.raw
    assert {"access_token", "token_type", "expires_in", "scope"} == set(reply.body)
    return str(reply.body["access_token"])


async def _is_active(worker: Worker, name: str, token: str) -> bool:
    form = {"token": token, "client_id": name, "client_secret": "s3cret"}
    reply = await worker.call("POST", "/oauth/introspect", form=form)
    assert reply.status == 200, reply.raw
    if not reply.body["active"]:
        assert reply.body == {"active": False}
    return bool(reply.body["active"])


async def test_a_clients_token_is_its_own(worker: Worker) -> None:
    """Others can neither revoke nor inspect it, and one with a secret must give it."""
    token = await _shop_token(worker, "one")
    await _shop_token(worker, "two")
    nobody = await worker.call("POST", "/oauth/revoke", form={"token": token})
    assert nobody.verdict == (401, "invalid-client")
    other = {"token": token, "client_id": "two", "client_secret": "s3cret"}
    assert (await worker.call("POST", "/oauth/revoke", form=other)).status == 200
    assert not await _is_active(worker, "two", token)
    assert await _is_active(worker, "one", token)
    own = other | {"client_id": "one"}
    assert (await worker.call("POST", "/oauth/revoke", form=own)).status == 200
    assert not await _is_active(worker, "one", token)


async def test_introspect_needs_a_client_with_a_secret(worker: Worker) -> None:
    """An app without one learns nothing."""
    tokens = await worker.log_in(PHONE)
    for form in ({}, {"client_id": "mobile"}):
        form = {"token": tokens["access_token"], **form}
        reply = await worker.call("POST", "/oauth/introspect", form=form)
        assert reply.verdict == (401, "invalid-client")
        assert reply.headers["WWW-Authenticate"].startswith("Basic")


async def test_introspect_tells_what_a_token_is(worker: Worker) -> None:
    """Claims of one that is active; that and nothing more of one that is not."""
    token = await _shop_token(worker, "one")
    form = {"token": token, "client_id": "one", "client_secret": "s3cret"}
    told = (await worker.call("POST", "/oauth/introspect", form=form)).body
    assert (
        told["active"],
        told["sub"],
        told["scope"],
        told["client_id"],
    ) == (True, "mer_one", "a b", "one")
    assert "sid" not in told
    worker.clock.advance(300)
    assert not await _is_active(worker, "one", token)
    assert not await _is_active(worker, "one", "nothing")


@pytest.mark.parametrize(
    ("user", "password", "form", "verdict"),
    [
        ("shop", "s3cret", {}, (200, "")),
        ("shop", "s3cret", {"client_id": "shop"}, (200, "")),
        ("shop", "s3cret", {"client_id": "other"}, (400, "invalid-request")),
        ("shop", "s3cret", {"client_secret": "s3cret"}, (400, "invalid-request")),
        ("shop", "wrong", {}, (401, "invalid-client")),
        ("shop", "", {}, (401, "invalid-client")),
        ("shop", "x" * 300, {}, (401, "invalid-client")),
        ("nobody", "s3cret", {}, (401, "invalid-client")),
        ("mobile", "", {}, (401, "invalid-client")),
    ],
)
async def test_basic_authentication(
    worker: Worker, user: str, password: str, form: dict[str, str], verdict: tuple[int, str]
) -> None:
    """HTTP Basic is one way to authenticate, and no other may be mixed in."""
    await _shop_token(worker, "shop")
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {encoded}"}
    sent = {"grant_type": "client_credentials", **form}
    reply = await worker.call("POST", "/oauth/token", form=sent, headers=headers)
    assert verdict == reply.verdict


@pytest.mark.parametrize(
    "value", ["Bearer x", "Digest x", "Basic", "Basic !!", "Basic eA==", "Basic /w=="]
)
async def test_basic_that_cannot_be_read(worker: Worker, value: str) -> None:
    """It authenticates nobody."""
    form = {"grant_type": "client_credentials"}
    reply = await worker.call("POST", "/oauth/token", form=form, headers={"Authorization": value})
    assert reply.verdict == (401, "invalid-client")
