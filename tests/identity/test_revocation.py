"""The log of revocations, its reading, and the keys tokens are signed with."""

import asyncio

import asyncpg
import pytest

from gateway.core import Refusal
from gateway.identity.revocation import Kind
from gateway.kernel.secrets import KeysError
from tests.identity.fixtures import Place
from tests.identity.worker import Hand, Worker, running_worker


def _token(worker: Worker, *, sub: str = "usr_1", client: str = "app", sid: str = "ses_1") -> str:
    return worker.tokens.issue(
        sub=sub, client_id=client, scope=["a"], sid=sid, channel="mobile", ttl_s=600
    )


def _is_accepted(worker: Worker, token: str) -> bool:
    headers = [(b"Authorization", f"Bearer {token}".encode())]
    return not isinstance(worker.core.authorize(headers, "a", worker.clock()), Refusal)


async def _revoke(worker: Worker, kind: Kind, value: str) -> int:
    async with worker.pool.acquire() as connection, connection.transaction():
        return (await worker.revocations.revoke(connection, kind=kind, value=value)).seq


async def test_numbers_have_no_gaps(worker: Worker) -> None:
    """Revoked at once, some rolled back, they are numbered one after another."""

    async def one(number: int) -> None:
        async with worker.pool.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            await worker.revocations.revoke(connection, kind="jti", value=str(number))
            await (transaction.rollback() if number % 3 == 0 else transaction.commit())

    await asyncio.gather(*(one(number) for number in range(30)))
    rows = await worker.pool.fetch("SELECT seq FROM revocations ORDER BY seq")
    assert list(range(1, 21)) == [row["seq"] for row in rows]
    assert await worker.feed.poll() == 20


@pytest.mark.parametrize(("kind", "value"), [("sid", "ses_1"), ("sub", "usr_1"), ("client", "app")])
async def test_each_kind_refuses_its_own(worker: Worker, kind: Kind, value: str) -> None:
    """What was issued until that second is refused; what comes later, of a subject, is not."""
    refused = _token(worker)
    other = _token(worker, sub="usr_2", client="web", sid="ses_2")
    await _revoke(worker, kind, value)
    await worker.feed.poll()
    assert not _is_accepted(worker, refused)
    assert _is_accepted(worker, other)
    worker.clock.advance(1)
    assert (kind != "sid") == _is_accepted(worker, _token(worker))


@pytest.mark.fault(rows=[46], what="a log that cannot be read")
async def test_an_unreadable_log_closes_money(worker: Worker) -> None:
    """While it cannot be read nothing is marked fresh, and after five seconds money stands."""
    await worker.feed.close()
    await worker.feed.poll()
    worker.clock.advance(5)
    assert worker.core.check_feed(worker.clock()) is None
    worker.pool.terminate()
    with pytest.raises(asyncpg.InterfaceError):
        await worker.feed.poll()
    await worker.feed.catch_up()
    worker.clock.advance(0.001)
    stale = worker.core.check_feed(worker.clock())
    assert stale is not None
    assert stale.slug == "revocation-feed-stale"


async def test_a_slow_log_is_no_reading(worker: Worker) -> None:
    """A reading that does not end in time has failed, and the next may work."""
    await worker.feed.close()
    connection = await worker.pool.acquire()
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE")
    with pytest.raises(TimeoutError):
        await worker.feed.poll()
    await transaction.rollback()
    await worker.pool.release(connection)
    assert await worker.feed.poll() == 0


async def test_pruning_keeps_the_count(worker: Worker) -> None:
    """What no token needs goes, the last number stays, and numbers go on from it."""
    for value in ("a", "b", "c"):
        await _revoke(worker, "sid", value)
    worker.clock.advance(13 * 3_600)
    await worker.revocations.prune(worker.pool)
    assert await worker.pool.fetchval("SELECT count(*) FROM revocations") == 3
    worker.clock.advance(3_600)
    await worker.revocations.prune(worker.pool)
    rows = await worker.pool.fetch("SELECT seq FROM revocations")
    assert [row["seq"] for row in rows] == [3]
    assert await _revoke(worker, "sid", "d") == 4
    assert await worker.feed.poll() == 4


async def test_a_worker_that_starts_late_knows_how_far_the_log_goes(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """Expired revocations are not loaded, but counted."""
    await _revoke(worker, "sid", "ses_1")
    clock.advance(13 * 3_600)
    async with running_worker(place.database_url, place.redis_url, clock=clock) as late:
        assert late.core.applied_seq == 1
        assert _is_accepted(late, _token(late))


async def test_tokens_live_no_longer_than_revocations(worker: Worker) -> None:
    """A token that outlived its revocation would come back."""
    for ttl_s in (0, -1, 12 * 3_600 + 1):
        with pytest.raises(ValueError, match="lives"):
            worker.tokens.issue(
                sub="usr_1", client_id="app", scope=[], channel="mobile", ttl_s=ttl_s
            )
    token = worker.tokens.issue(
        sub="usr_1", client_id="app", scope=["a"], channel="mobile", ttl_s=12 * 3_600
    )
    worker.clock.advance(12 * 3_600 - 1)
    assert _is_accepted(worker, token)


async def test_workers_that_start_together_agree_on_a_key(place: Place, clock: Hand) -> None:
    """There is one first key, and each accepts what the other signs."""
    urls = place.database_url, place.redis_url
    async with asyncio.timeout(20), running_worker(*urls, clock=clock) as one:
        await one.pool.execute("DELETE FROM signing_keys")
        async with (
            running_worker(*urls, clock=clock) as two,
            running_worker(*urls, clock=clock) as three,
        ):
            assert await one.pool.fetchval("SELECT count(*) FROM signing_keys") == 1
            assert _is_accepted(three, _token(two))
            assert _is_accepted(two, _token(three))


async def test_a_new_key_signs_once_everybody_knows_it(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """It is published at once, signs three minutes later, and the old one verifies on."""
    old = worker.keys.current[0]
    clock.advance(600)
    token = _token(worker)
    new = await worker.keys.rotate()
    assert {old, new} == {key["kid"] for key in worker.keys.jwks()}
    assert old == worker.keys.current[0]
    clock.advance(179)
    await worker.keys.load()
    assert old == worker.keys.current[0]
    clock.advance(1)
    await worker.keys.load()
    assert new == worker.keys.current[0]
    assert _is_accepted(worker, token)
    assert _is_accepted(worker, _token(worker))


async def test_keys_of_another_vault_are_refused_at_start(
    place: Place, clock: Hand, worker: Worker
) -> None:
    """A wrong keys file is told at the start, not at the first login."""
    urls = place.database_url, place.redis_url
    with pytest.raises(KeysError, match="vault"):
        async with running_worker(*urls, clock=clock, vault_key=b"x" * 32):
            pass
