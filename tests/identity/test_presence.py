"""Sessions as they are listed: where they are known from, and how many there may be."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.kernel.errors import Unavailable
from gateway.kernel.redis import FAILURES_MAX
from gateway.sandbox.datadir import free_port
from tests.house import until
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Worker, running_worker

PHONE = "+998901234567"


async def _listed(worker: Worker, tokens: dict[str, Any]) -> dict[str, dict[str, Any]]:
    reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
    assert reply.status == 200, reply.raw
    return {one["id"]: one for one in reply.body["data"]}


async def _keys(worker: Worker) -> set[bytes]:
    return {key async for key in worker.redis.scan_iter("session:*")}


async def _sub(worker: Worker) -> str:
    return str(await worker.pool.fetchval("SELECT id FROM users"))


async def test_a_session_is_seen_wherever_it_asks(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """One worker saw it last, and another tells when and from where."""
    tokens = await worker.log_in(PHONE, device="phone-1")
    clock.advance(100)
    await _listed(worker, tokens)
    await worker.presence.flush()
    clock.advance(100)
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock) as other:
        seen = await other.presence.of(await _sub(worker), [tokens["session_id"]])
        sight = seen[tokens["session_id"]]
        assert sight is not None
        assert sight.seen_at_ms == clock.now_ms - 100_000
        shown = (await _listed(other, tokens))[tokens["session_id"]]
    assert (shown["device_id"], shown["address"], shown["level"]) == ("phone-1", "127.0.0.1", "otp")
    # It asks for the list just now.
    assert shown["last_seen_at"] > shown["last_used_at"]
    assert shown["last_used_at"] == shown["created_at"]


async def test_what_redis_has_lost_is_written_to_it_again(worker: Worker, clock: Hand) -> None:
    """Sessions are the database's; those that do not ask either are there after one list."""
    mine, quiet = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await worker.presence.flush()
    before = await _keys(worker)
    assert len(before) == 2
    await worker.redis.flushall()
    clock.advance(60)
    shown = await _listed(worker, mine)
    assert set(shown) == {mine["session_id"], quiet["session_id"]}
    assert shown[quiet["session_id"]]["last_seen_at"] == shown[quiet["session_id"]]["created_at"]
    await worker.presence.flush()
    assert await _keys(worker) == before


async def test_the_state_of_an_ended_session_goes(worker: Worker) -> None:
    """And nothing of it is written again."""
    mine, lost = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await worker.presence.flush()
    path = f"/v1/sessions/{lost['session_id']}"
    assert (await worker.call("DELETE", path, token=mine["access_token"])).status == 204
    await worker.presence.flush()
    (key,) = await _keys(worker)
    assert key.decode().endswith(mine["session_id"])


async def test_without_redis_sessions_are_begun_listed_and_ended(place: Place, clock: Hand) -> None:
    """Nothing but a one-time code needs it; what is known of a session is what its row says."""
    nowhere = f"redis://127.0.0.1:{free_port()}"
    async with running_worker(place.database_url, nowhere, clock=clock) as worker:
        user_id = await worker.users.of_phone(PHONE)
        grant = await worker.sessions.create(
            user_id=user_id,
            client_id="mobile",
            device_id="a",
            device_name="A",
            address="10.0.0.7",
        )
        tokens = (await worker.refresh(grant.refresh_token)).body
        shown = (await _listed(worker, tokens))[grant.session_id]
        assert (shown["address"], shown["device_name"]) == ("127.0.0.1", "A")
        asked = await worker.call("POST", "/v1/auth/challenges", body={"phone": PHONE})
        assert asked.verdict == (503, "unavailable")
        async with asyncio.timeout(2):
            path = f"/v1/sessions/{grant.session_id}"
            ended = await worker.call("DELETE", path, token=tokens["access_token"])
        assert ended.status == 204


async def test_whom_a_payment_is_of_is_looked_at_later(worker: Worker, clock: Hand) -> None:
    """A hot route leaves its token's header; one that the core refuses was nobody's."""
    good, bad = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await worker.presence.flush()
    form = {"token": bad["access_token"]}
    assert (await worker.call("POST", "/oauth/revoke", form=form)).status == 200
    await worker.redis.flushall()
    for tokens in (good, bad):
        header = f"Bearer {tokens['access_token']}".encode()
        worker.presence.note_header(header, clock.now_ms, "10.0.0.9")
    await worker.presence.flush()
    (key,) = await _keys(worker)
    assert key.decode().endswith(good["session_id"])
    assert await worker.redis.hget(key.decode(), "address") == b"10.0.0.9"


async def test_one_device_too_many_ends_the_oldest(place: Place, clock: Hand) -> None:
    """As many as the settings allow stay, whoever logs in at once."""
    async with running_worker(
        place.database_url, place.redis_url, clock=clock, devices_max=2
    ) as worker:
        logins = []
        for number in range(3):
            logins.append(await worker.log_in(PHONE, device=f"d{number}"))
            clock.advance(1)
        shown = await _listed(worker, logins[2])
        assert set(shown) == {logins[1]["session_id"], logins[2]["session_id"]}
        refused = await worker.call("GET", "/v1/sessions", token=logins[0]["access_token"])
        assert refused.verdict == (401, "invalid-token")
        user_id = await _sub(worker)
        await asyncio.gather(
            *(
                worker.sessions.create(
                    user_id=user_id, client_id="mobile", device_id=f"e{one}", device_name="E"
                )
                for one in range(6)
            )
        )
        alive = "SELECT count(*) FROM sessions WHERE ended_at IS NULL"
        assert await worker.pool.fetchval(alive) == 2


async def test_a_session_ends_in_the_end(place: Place, clock: Hand) -> None:
    """However often it is refreshed; its last tokens live no longer than itself."""
    async with running_worker(
        place.database_url, place.redis_url, clock=clock, session_lifetime_s=400
    ) as worker:
        tokens = await worker.log_in(PHONE)
        assert tokens["expires_in"] == 300
        clock.advance(250)
        tokens = (await worker.refresh(tokens["refresh_token"])).body
        assert tokens["expires_in"] == 150
        clock.advance(149)
        tokens = (await worker.refresh(tokens["refresh_token"])).body
        assert tokens["expires_in"] == 1
        clock.advance(1)
        late = await worker.refresh(tokens["refresh_token"])
        assert late.verdict == (400, "invalid-grant")
        reply = await worker.call("GET", "/v1/sessions", token=tokens["access_token"])
        assert reply.verdict == (401, "invalid-token")


async def test_what_is_noted_is_written_by_itself(worker: Worker) -> None:
    """A second or two later, without anybody's asking."""
    await worker.log_in(PHONE)
    await until(lambda: _keys(worker), within_s=5)


async def test_what_is_restored_is_never_later_than_what_was_seen(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """A list that found nothing in Redis does not overwrite what another worker saw meanwhile."""
    mine, quiet = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    await worker.presence.flush()
    await worker.redis.flushall()
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock) as other:
        await _listed(other, mine)
        clock.advance(50)
        await _listed(worker, quiet)
        await worker.presence.flush()
        await other.presence.flush()
        shown = (await _listed(other, mine))[quiet["session_id"]]
    assert shown["last_seen_at"] > shown["created_at"]


async def test_nothing_is_restored_to_a_redis_that_was_only_away(
    worker: Worker, clock: Hand
) -> None:
    """It knows more than the rows do."""
    mine, quiet = await worker.log_in(PHONE, device="a"), await worker.log_in(PHONE, device="b")
    clock.advance(50)
    await _listed(worker, quiet)
    await worker.presence.flush()
    user_id = await _sub(worker)
    key = f"session:{{{user_id}}}:{quiet['session_id']}"
    seen_at_ms = await worker.redis.hget(key, "seen_at_ms")

    async def refuse() -> None:
        raise ConnectionRefusedError

    for _ in range(FAILURES_MAX):
        with pytest.raises(Unavailable):
            await worker.redis.breaker.run(refuse)
    assert worker.redis.breaker.is_open
    shown = await _listed(worker, mine)
    assert set(shown) == {mine["session_id"], quiet["session_id"]}
    await until(lambda: not worker.redis.breaker.is_open, within_s=5)
    await worker.presence.flush()
    assert await worker.redis.hget(key, "seen_at_ms") == seen_at_ms
