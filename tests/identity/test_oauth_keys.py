"""Signing keys from their first day to their last, with the clock moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from gateway.identity.keys import ACCESS_TOKEN_TTL_S_MAX, SIGNS_AFTER_S, ends_at_s
from tests.identity.fixtures import Place
from tests.identity.signers import decoded
from tests.identity.worker import Hand, Worker, running_worker

DAY_S = 86_400
PHONE = "+998901234567"


async def listed(worker: Worker) -> list[str]:
    """Return the keys that are published."""
    jwks = await worker.call("GET", "/.well-known/jwks.json")
    return [key["kid"] for key in jwks.body["keys"]]


def token(worker: Worker, *, ttl_s: int = 300) -> str:
    """Return a token of a server."""
    return worker.tokens.issue(
        sub="mer_1", client_id="shop", scope=["sessions:read"], channel="api", ttl_s=ttl_s
    )


def kid_of(text: str) -> str:
    return str(decoded(text.split(".")[0])["kid"])


async def is_accepted(worker: Worker, text: str) -> bool:
    return (await worker.call("GET", "/v1/sessions", token=text)).status == 200


@pytest.fixture
async def worker(worker: Worker, clock: Hand) -> Worker:
    """A worker whose first key is a while old: keys are in the order in which they were made."""
    clock.advance(600)
    return worker


@pytest.fixture
async def second(place: Place, clock: Hand) -> AsyncIterator[Worker]:
    """Another worker of the same house."""
    async with running_worker(place.database_url, place.redis_url, clock=clock) as worker:
        yield worker


async def test_a_key_signs_once_every_worker_has_had_time_to_read_it(
    worker: Worker, second: Worker, clock: Hand
) -> None:
    """Published and accepted at once, used later: nobody is shown a token by an unknown key."""
    (old,) = await listed(worker)
    new = await worker.keys.rotate()
    assert await listed(worker) == [old, new]
    assert kid_of(token(worker)) == old
    clock.advance(SIGNS_AFTER_S - 1)
    for one in (worker, second):
        await one.keys.load()
        assert await listed(one) == [old, new]
        assert kid_of(token(one)) == old
    clock.advance(1)
    await worker.keys.load()
    by_new, by_old = token(worker), token(second)
    assert (kid_of(by_new), kid_of(by_old)) == (new, old)
    for one in (worker, second):
        assert await is_accepted(one, by_new)
        assert await is_accepted(one, by_old)


async def test_a_token_by_the_old_key_is_accepted_until_it_must_have_expired(
    worker: Worker, second: Worker, clock: Hand
) -> None:
    """The last one that it can have signed lives to its end; then the key is nowhere."""
    created_s = clock.now_ms / 1_000
    old = (await listed(worker))[0]
    new = await worker.keys.rotate()
    clock.advance(SIGNS_AFTER_S)
    # The other worker has not looked since: it signs by the old key, as late as it may be.
    clock.advance(60)
    last = token(second, ttl_s=ACCESS_TOKEN_TTL_S_MAX)
    assert kid_of(last) == old
    clock.advance(ACCESS_TOKEN_TTL_S_MAX - 1)
    for one in (worker, second):
        await one.keys.load()
        assert await is_accepted(one, last), "in its last second"
        assert await listed(one) == [old, new]
    clock.advance(1)
    assert not await is_accepted(worker, last), "it has expired, whatever its key"
    clock.now_ms = int(ends_at_s(created_s) * 1_000)
    for one in (worker, second):
        await one.keys.load()
        assert await listed(one) == [new]
        assert await is_accepted(one, token(one))


async def test_a_key_that_has_ended_verifies_nothing(
    worker: Worker, second: Worker, clock: Hand
) -> None:
    """Not even a token that has not expired, of a worker that has read no keys for half a day."""
    created_s = clock.now_ms / 1_000
    await worker.keys.rotate()
    clock.now_ms = int(ends_at_s(created_s) * 1_000)
    late = token(second)
    assert await is_accepted(worker, late), "nobody has read that the key has ended"
    await worker.keys.load()
    assert not await is_accepted(worker, late)
    await second.keys.load()
    assert not await is_accepted(second, late)
    assert await is_accepted(second, token(worker))


async def test_workers_agree_on_one_new_key_when_the_time_has_come(
    place: Place, clock: Hand
) -> None:
    """By itself, after `signing_key_life_s`; noted in the audit log as the gateway's own act."""
    urls = place.database_url, place.redis_url
    async with (
        running_worker(*urls, clock=clock, signing_key_life_s=90 * DAY_S) as worker,
        running_worker(*urls, clock=clock, signing_key_life_s=90 * DAY_S) as second,
    ):
        (first,) = await listed(worker)
        clock.advance(90 * DAY_S - 1)
        await worker.keys.load()
        assert await listed(worker) == [first]
        clock.advance(1)
        for one in (worker, second):
            await one.keys.load()
        assert await listed(worker) == await listed(second)
        (_, made) = await listed(worker)
        rows = await worker.pool.fetch("SELECT actor, action, object FROM audit_log")
        assert [tuple(row) for row in rows] == [("gateway", "signing_key.add", made)]
        clock.advance(DAY_S)
        for one in (worker, second):
            await one.keys.load()
            assert await listed(one) == [made]
        rows = await worker.pool.fetch("SELECT action, object FROM audit_log ORDER BY id")
        assert tuple(rows[-1]) == ("signing_key.drop", first)


async def test_no_key_is_made_by_itself_where_the_settings_say_so(
    place: Place, clock: Hand
) -> None:
    """`signing_key_life_s = 0`."""
    urls = place.database_url, place.redis_url
    async with running_worker(*urls, clock=clock, signing_key_life_s=0) as worker:
        before = await listed(worker)
        clock.advance(3_650 * DAY_S)
        await worker.keys.load()
        assert await listed(worker) == before


async def test_a_dropped_key_is_refused_at_the_next_reading(
    worker: Worker, second: Worker, clock: Hand
) -> None:
    """Whatever it signed, at every worker; another signs from then on, a new one if need be."""
    text = token(worker)
    kid = kid_of(text)
    assert await is_accepted(second, text), "it is remembered there as verified"
    assert await worker.keys.drop(kid, actor="opr_1")
    assert not await worker.keys.drop(kid, actor="opr_1")
    await second.keys.load()
    (made,) = await listed(worker)
    assert made != kid
    for one in (worker, second):
        assert await listed(one) == [made]
        assert not await is_accepted(one, text)
        assert await is_accepted(one, token(one))
    acts = await worker.pool.fetch("SELECT actor, action, object FROM audit_log")
    assert ("opr_1", "signing_key.drop", kid) in [tuple(row) for row in acts]


async def test_a_session_goes_on_over_a_rotation(worker: Worker, clock: Hand) -> None:
    """A customer notices nothing: tokens by both keys, renewed in between."""
    tokens = await worker.log_in(PHONE)
    await worker.keys.rotate()
    clock.advance(SIGNS_AFTER_S)
    await worker.keys.load()
    assert await is_accepted(worker, tokens["access_token"])
    renewed = (await worker.refresh(tokens["refresh_token"])).body
    assert kid_of(renewed["access_token"]) != kid_of(tokens["access_token"])
    for one in (tokens, renewed):
        assert await is_accepted(worker, one["access_token"])
