"""The journal against a real PostgreSQL: one bad row, a lost connection, another worker.

Intents are made by the core from real requests; the batches are the ones the product would form.
"""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import settings as settings_module
from gateway.app.ground import make_core
from gateway.core import Admission, Core, Missing, Refusal
from gateway.kernel.db import pool as pools
from gateway.kernel.errors import Unavailable
from gateway.kernel.ids import new_id
from gateway.kernel.secrets import Keys
from gateway.limits.states import read_states
from gateway.payments.entries import (
    ALL,
    OPENED,
    REPLAYED,
    CardChanged,
    Fact,
    Intent,
    OpenAnswer,
    VersionMoved,
)
from gateway.payments.journal import Journal
from gateway.payments.model import FAILED, Payment
from gateway.payments.outcomes import new_attempt
from tests.cores import rules_of
from tests.services import MIGRATED, Services, fresh_database

NOW_MS = 1_795_000_000_000
POOL_SIZE_MAX = 6
CARD, OWNER, MERCHANT = "card_1", "usr_1", "mer_1"
KEYS = Keys(
    lookup=b"l" * 32, quote=b"q" * 32, cursor=b"c" * 32, codes=b"o" * 32,
    callbacks={},
)  # fmt: skip


@dataclass
class Bench:
    """A journal with a core of its own: one worker."""

    pool: asyncpg.Pool
    core: Core
    journal: Journal
    token: str
    _made: int = 0

    async def admit(self, amount: int, *, key: str | None = None) -> Admission | Refusal:
        """Decide a purchase; what the core misses is read as the product reads it."""
        self._made += 1
        headers = (
            (b"Authorization", f"Bearer {self.token}".encode()),
            (b"Content-Type", b"application/json"),
            (b"Idempotency-Key", (key or f"key-{id(self)}-{self._made}").encode()),
        )
        body = json.dumps(
            {
                "operation": "purchase",
                "amount": amount,
                "currency": "UZS",
                "source": {"card": CARD},
                "destination": {"merchant": MERCHANT},
            }
        ).encode()
        fresh = True, False
        while True:
            answer = self.core.admit("POST", "/v1/payments", headers, body, NOW_MS, fresh)
            if not isinstance(answer, Missing):
                return answer
            async with self.pool.acquire() as connection:
                await read_states(connection, self.core, answer.subjects)
            fresh = True, True

    def intent(self, admission: Admission, *, owner: str = OWNER) -> Intent:
        commission = admission.commission
        payment = Payment(
            id=new_id("pay_", NOW_MS),
            version=1,
            owner=owner,
            client_id="mobile",
            operation="purchase",
            status="processing",
            scheme=admission.scheme,
            amount_minor=admission.amount_minor,
            currency="UZS",
            total_debit=commission.total_debit,
            total_credit=commission.total_credit,
            source_card_id=CARD,
            destination_card_id=None,
            destination_pan=None,
            merchant_id=MERCHANT,
            is_manual_capture=False,
            commission_total=commission.total,
            commission_vat=commission.vat_total,
            commission_payer=commission.payer,
            commission_plan=commission.plan,
            commission_version=commission.version,
            legs=admission.legs,
            record=b"",
            details={"metadata": {}},
            created_at_ms=NOW_MS,
            commission_lines=commission.lines,
        )
        scope, fingerprint = admission.idempotency
        attempt = new_attempt(payment, 1, 1, NOW_MS)
        return Intent(payment, attempt, admission, scope, fingerprint, payment.id)

    async def opened(self, amount: int) -> tuple[Payment, OpenAnswer]:
        admission = await self.admit(amount)
        assert isinstance(admission, Admission), admission
        intent = self.intent(admission)
        return intent.payment, await self.journal.open(intent)

    async def used(self) -> int:
        """Return what the database holds to be used of the card's day."""
        async with self.pool.acquire() as connection:
            states = await connection.fetch("SELECT subject FROM limit_states")
            await read_states(connection, self.core, [row["subject"] for row in states])
        probe = await self.admit(1)
        assert isinstance(probe, Admission), probe
        claims = self.core.authorize(
            ((b"Authorization", f"Bearer {self.token}".encode()),), "", NOW_MS
        )
        self.core.release(probe)
        assert not isinstance(claims, Refusal)
        answer = self.core.limits(claims, CARD, "purchase", NOW_MS, (True, True))
        assert isinstance(answer, bytes)
        limits = {one["policy"]: one["used_amount"] for one in json.loads(answer)["limits"]}
        return int(limits["card-day"])


def _token(key: Ed25519PrivateKey) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    now_s = NOW_MS // 1000
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}
    claims = {
        "iss": "https://oqim.local", "aud": "oqim-api", "sub": OWNER, "client_id": "mobile",
        "scope": "payments:write limits:read", "jti": "j1", "iat": now_s, "exp": now_s + 300,
        "tier": "identified", "channel": "mobile",
    }  # fmt: skip
    signed = f"{part(header)}.{part(claims)}"
    signature = base64.urlsafe_b64encode(key.sign(signed.encode())).rstrip(b"=").decode()
    return f"{signed}.{signature}"


async def _bench(database_url: str, *, worker: int = 1) -> Bench:
    """Make a worker: its own pool, core and journal over one database."""
    settings = settings_module.load({})
    core = make_core(settings, KEYS, rules_of(settings), 1)
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    core.add_key("k1", key.public_key().public_bytes_raw())
    core.mark_fresh(NOW_MS)
    core.put_card(CARD, OWNER, "visa", "424242", core.lookup_of("4242420000000018"), True, 1)
    core.put_merchant(MERCHANT, "5411", "UZ")
    pool = await pools.create(database_url, size_max=POOL_SIZE_MAX, command_timeout_s=10.0)
    journal = Journal(
        pool, core, worker=worker, batch_size_max=512, queue_size_max=8192, hot_subject_s=5.0
    )
    return Bench(pool, core, journal, _token(key))


@pytest.fixture
async def database(services: Services) -> AsyncIterator[str]:
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO cards (id, owner, scheme, bin, last4, expiry, lookup, pan_sealed, status)"
            " VALUES ($1, $2, 'visa', '424242', '0018', '3012', 'x', '', 'active')",
            CARD,
            OWNER,
        )
        await connection.close()
        yield url


@pytest.fixture
async def bench(database: str) -> AsyncIterator[Bench]:
    bench = await _bench(database)
    yield bench
    await bench.journal.close()
    await bench.pool.close()


async def test_what_queues_together_is_written_in_one_batch(bench: Bench) -> None:
    """A hundred at once are a batch or two, and all of them count."""
    admissions = [await bench.admit(100) for _ in range(100)]
    futures = [
        bench.journal.intents.submit(bench.intent(one))
        for one in admissions
        if isinstance(one, Admission)
    ]
    assert [await future for future in futures] == [OPENED] * 100
    assert bench.journal.intents.batches <= 2
    assert await bench.used() == 100 * 100


async def test_one_bad_row_does_not_fail_its_neighbours(bench: Bench) -> None:
    """A batch that the database refuses is bisected until the one that caused it is alone."""
    good, bad = [], []
    for number in range(64):
        admission = await bench.admit(100)
        assert isinstance(admission, Admission)
        # PostgreSQL's text cannot hold a NUL.
        owner = "usr_\x00" if number in (17, 40) else OWNER
        future = bench.journal.intents.submit(bench.intent(admission, owner=owner))
        (good if owner == OWNER else bad).append(future)
    assert [await future for future in good] == [OPENED] * 62
    for future in bad:
        with pytest.raises(asyncpg.PostgresError):
            await future
    assert await bench.pool.fetchval("SELECT count(*) FROM payments") == 62
    assert await bench.used() == 62 * 100, "what was refused took nothing"


async def test_one_key_twice_in_a_batch_is_one_payment(bench: Bench) -> None:
    """The second of two copies is told to look for the first's answer, and takes nothing."""
    first, second = await bench.admit(100, key="same"), await bench.admit(100, key="same")
    assert isinstance(first, Admission)
    assert isinstance(second, Admission)
    futures = [bench.journal.intents.submit(bench.intent(one)) for one in (first, second)]
    assert [await future for future in futures] == [OPENED, REPLAYED]
    third = await bench.admit(100, key="same")
    assert isinstance(third, Admission)
    assert await bench.journal.open(bench.intent(third)) == REPLAYED
    assert await bench.used() == 100


async def test_another_workers_counts_are_read_and_never_overwritten(
    bench: Bench, database: str
) -> None:
    """Two workers that remember different states write in turn, and the sum is exact."""
    other = await _bench(database, worker=2)
    try:
        for _ in range(5):
            for worker in (bench, other, other, bench):
                _, answer = await worker.opened(1_000)
                assert answer == OPENED
        assert await bench.used() == 20 * 1_000
        assert await other.used() == 20 * 1_000
    finally:
        await other.journal.close()
        await other.pool.close()


async def test_a_card_that_changed_is_told_and_nothing_is_written(bench: Bench) -> None:
    """The card's row decides at the moment of the commit, not what the core remembers."""
    await bench.pool.execute("UPDATE cards SET version = 2, status = 'deleted'")
    _, answer = await bench.opened(100)
    assert isinstance(answer, CardChanged)
    assert await bench.pool.fetchval("SELECT count(*) FROM payments") == 0
    assert await bench.pool.fetchval("SELECT count(*) FROM idempotency_keys") == 0


async def test_a_lost_connection_is_replaced_and_its_commit_looked_up(bench: Bench) -> None:
    """Killing every connection fails what was not written and nothing after it."""
    await bench.opened(100)
    await bench.pool.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        " AND application_name = 'oqim'"
    )
    told: list[OpenAnswer] = []
    # Each of the pool's connections may be found dead once, by the write or by the look-up.
    for _ in range(POOL_SIZE_MAX + 5):
        try:
            _, answer = await bench.opened(100)
        except Unavailable:
            continue
        told.append(answer)
    assert told == [OPENED] * len(told)
    assert len(told) >= 5, "new connections are used after the lost ones"
    written = await bench.pool.fetchval("SELECT count(*) FROM payments")
    assert written == 1 + len(told), "what was told is written, and nothing else"
    assert await bench.used() == written * 100


async def test_a_decline_gives_headroom_back_in_its_own_commit(bench: Bench) -> None:
    """Two facts at one version: the first is recorded, the second is told that it came late."""
    payment, _ = await bench.opened(700)
    payment.become(FAILED)
    payment.decline_code = "insufficient_funds"
    await bench.journal.record(Fact(payment, event="payment.failed", give_back=ALL))
    assert await bench.used() == 0
    with pytest.raises(VersionMoved):
        await bench.journal.record(Fact(payment, event="payment.failed", give_back=ALL))
    events = await bench.pool.fetch("SELECT sequence, type FROM outbox")
    assert [(row["sequence"], row["type"]) for row in events] == [(2, "payment.failed")]
