"""The usual gateway: what is compared must do the same work, and keep its books."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import redis.asyncio
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.measuring import books
from gateway.measuring.helpers import talker
from loadtests.peers.usual_ground import LIMITS, limit_keys
from tests.measuring.helpers import serving
from tests.services import MIGRATED, Services, fresh_database

# Of oqim[load], as what the peers are made of is.
jwt = pytest.importorskip("jwt")
pytest.importorskip("fastapi")

PEER, FASTAPI = "loadtests.peers.usual_gateway", "loadtests.peers.fastapi_gateway"
MERCHANT = "mer_1"
CARDS = ("card_1", "card_2")
OWNERS = ("usr_1", "usr_2")


@pytest.fixture
async def database_url(services: Services) -> AsyncIterator[str]:
    """A migrated database with a merchant."""
    async with fresh_database(services, template=MIGRATED) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO merchants (id, name, city, country, mcc, acceptor_id, terminal_id) "
            "VALUES ($1, 'Shop', 'Tashkent', 'UZ', '5411', '1', '2')",
            MERCHANT,
        )
        await connection.close()
        yield url


class Uzcard:
    """SVGate's answers to one method, and the signing keys of the gateway beside it."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.paid: list[dict[str, Any]] = []
        self.error: int | None = None

    async def __call__(self, request: web.BaseRequest) -> web.Response:
        if request.path == "/.well-known/jwks.json":
            public = jwt.algorithms.OKPAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
            return web.json_response({"keys": [public | {"kid": "k1", "alg": "EdDSA"}]})
        call = json.loads(await request.read())
        envelope = {"jsonrpc": "2.0", "id": call["id"]}
        if self.error is not None:
            return web.json_response(envelope | {"error": {"code": self.error, "message": ""}})
        order = call["params"]["tran"]
        self.paid.append(order)
        result = {"refNum": "123456789012", "field38": "654321", "status": "OK", "resp": 0}
        echo = {"ext": order["ext"], "amount": order["amount"]}
        return web.json_response(envelope | {"result": result | echo})


@dataclass
class Peer:
    """A usual gateway that runs, over a processor of ours."""

    url: str
    uzcard: Uzcard
    database_url: str
    redis_url: str
    key: Ed25519PrivateKey
    http: aiohttp.ClientSession
    answered: list[str] = field(default_factory=list)

    async def pay(
        self, key: str, *, who: int = 0, card: str = CARDS[0], amount: int = 10_000
    ) -> tuple[int, bytes, bool]:
        """Pay; returns status, body, and whether it was a replay."""
        body = {
            "operation": "purchase",
            "amount": amount,
            "currency": "UZS",
            "source": {"card": card},
            "destination": {"merchant": MERCHANT},
        }
        headers = {"Authorization": f"Bearer {token(self.key, who)}", "Idempotency-Key": key}
        async with self.http.post(f"{self.url}/v1/payments", json=body, headers=headers) as answer:
            text = await answer.read()
            if answer.status in (201, 202):
                self.answered.append(json.loads(text)["id"])
            return answer.status, text, answer.headers.get("Idempotent-Replayed") == "true"

    async def books(self, tmp_path: Path) -> list[str]:
        """Return what of its books does not hold."""
        ids = tmp_path / "ids"
        ids.write_text("".join(f"{one}\n" for one in self.answered))
        connection = await asyncpg.connect(self.database_url)
        try:
            return await books.usual_broken(connection, ids)
        finally:
            await connection.close()

    async def count(self, statement: str) -> int:
        """Return what a statement counts."""
        connection = await asyncpg.connect(self.database_url)
        try:
            found: int = await connection.fetchval(statement)
            return found
        finally:
            await connection.close()

    async def counters(self) -> list[int]:
        """Return what the first user's limits have counted."""
        client = redis.asyncio.Redis.from_url(self.redis_url)
        try:
            return [int(await client.get(one) or 0) for one in limit_keys(CARDS[0], OWNERS[0])]
        finally:
            await client.aclose()


def token(key: Ed25519PrivateKey, who: int, **changes: Any) -> str:
    """Return an access token as the gateway issues them."""
    claims = {
        "iss": "https://oqim.local",
        "aud": "oqim-api",
        "sub": OWNERS[who],
        "client_id": "mobile",
        "scope": "payments:write payments:read",
        "exp": int(time.time()) + 300,
    }
    return jwt.encode(claims | changes, key, algorithm="EdDSA", headers={"kid": "k1"})


@asynccontextmanager
async def running(module: str, *arguments: str) -> AsyncIterator[str]:
    """Run a peer; gives its base URL."""
    async with talker("-W", "error::DeprecationWarning", "-m", module, *arguments) as process:
        async with asyncio.timeout(30):
            port = (await process.hear())["port"]
        yield f"http://127.0.0.1:{port}"
    assert process.process.returncode == 0


@pytest.fixture(params=["idiomatic", "tuned", "fastapi"])
async def peer(
    request: pytest.FixtureRequest, services: Services, database_url: str, tmp_path: Path
) -> AsyncIterator[Peer]:
    """Each of the three."""
    client = redis.asyncio.Redis.from_url(services.redis_url)
    await client.flushall()
    await client.aclose()
    key = Ed25519PrivateKey.generate()
    uzcard = Uzcard(key)
    async with serving(uzcard) as url, aiohttp.ClientSession() as http:
        sandbox = {
            "database_url": database_url,
            "redis_url": services.redis_url,
            "base_url": url,
            "simulators": {"uzcard": url},
        }
        seeded = {"tokens": [token(key, who) for who in (0, 1)], "cards": {"uzcard": CARDS}}
        files = []
        for name, content in (("sandbox", sandbox), ("seeded", seeded)):
            (tmp_path / name).write_text(json.dumps(content))
            files.append(str(tmp_path / name))
        flags = ["--tuned"] if request.param == "tuned" else []
        module = FASTAPI if request.param == "fastapi" else PEER
        async with running(module, *files, *flags) as base_url:
            yield Peer(base_url, uzcard, database_url, services.redis_url, key, http)


async def test_a_payment_is_made_once_and_its_answer_kept(peer: Peer, tmp_path: Path) -> None:
    """The same key and body: the same bytes, and the processor asked once."""
    status, body, is_replay = await peer.pay("k1")
    assert (status, is_replay) == (201, False)
    answer = json.loads(body)
    assert body.startswith(b'{"id":"pay_')
    assert answer["status"] == "succeeded"
    assert answer["commission"]["total"] == 112
    assert answer["total_credit"] == 9_888
    assert await peer.pay("k1") == (201, body, True)
    assert [order["amount"] for order in peer.uzcard.paid] == [10_000]
    assert len(peer.uzcard.paid[0]["cardId"]) == 32
    assert await peer.counters() == [10_000, 10_000]
    assert await peer.books(tmp_path) == []
    assert await peer.count("SELECT count(*) FROM usual.postings") == 4
    assert await peer.count("SELECT count(*) FROM usual.outbox") == 1


async def test_a_key_with_another_body_is_refused(peer: Peer) -> None:
    await peer.pay("k1")
    status, body, _ = await peer.pay("k1", amount=10_001)
    assert (status, json.loads(body)["code"]) == (422, "idempotency-key-reused")
    assert len(peer.uzcard.paid) == 1


async def test_one_key_at_one_moment_pays_once(peer: Peer, tmp_path: Path) -> None:
    """Whoever comes while the first runs is told so, or gets its answer."""
    answers = await asyncio.gather(*(peer.pay("k1") for _ in range(12)))
    assert {status for status, _, _ in answers} <= {201, 409}
    assert len({body for status, body, _ in answers if status == 201}) == 1
    assert len(peer.uzcard.paid) == 1
    assert await peer.counters() == [10_000, 10_000]
    assert await peer.books(tmp_path) == []


async def test_a_decline_gives_the_limits_back(peer: Peer, tmp_path: Path) -> None:
    peer.uzcard.error = -240
    status, body, _ = await peer.pay("k1")
    assert (status, json.loads(body)["status"]) == (201, "failed")
    assert await peer.counters() == [0, 0]
    assert await peer.count("SELECT count(*) FROM usual.postings") == 0
    assert await peer.books(tmp_path) == []


async def test_no_interleaving_passes_a_limit(peer: Peer, tmp_path: Path) -> None:
    """Twenty at once, of which five fit into the card's day."""
    part = LIMITS.card_day_max // 5
    answers = await asyncio.gather(*(peer.pay(f"k{n}", amount=part) for n in range(20)))
    paid = sum(status == 201 for status, _, _ in answers)
    refused = [json.loads(body)["code"] for status, body, _ in answers if status != 201]
    assert set(refused) == {"limit-exceeded"}
    # One that is turned away may have stood in another's way for a moment.
    assert 1 <= paid <= 5
    assert await peer.counters() == [paid * part, paid * part]
    while paid < 5:
        status, _, _ = await peer.pay(f"again-{paid}", amount=part)
        assert status == 201
        paid += 1
    assert (await peer.pay("one-more", amount=part))[0] == 422
    assert len(peer.uzcard.paid) == 5
    assert await peer.books(tmp_path) == []


async def test_who_may_not_pay_is_refused(peer: Peer) -> None:
    """Another's card, an unknown card, another's signature, no amount, an ended session."""
    assert (await peer.pay("k1", card=CARDS[1]))[0] == 404
    assert (await peer.pay("k2", card="card_3"))[0] == 404
    own, peer.key = peer.key, Ed25519PrivateKey.generate()
    assert (await peer.pay("k3"))[0] == 401
    peer.key = own
    assert (await peer.pay("k4"))[0] == 201
    assert (await peer.pay("k6", amount=0))[0] == 400
    client = redis.asyncio.Redis.from_url(peer.redis_url)
    await client.delete(f"usual:session:{OWNERS[0]}")
    await client.aclose()
    assert (await peer.pay("k5"))[0] == 401
    assert len(peer.uzcard.paid) == 1


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("DELETE FROM usual.postings WHERE line = 1", "1 journal entries do not sum to zero"),
        ("DELETE FROM usual.postings", "1 payments succeeded without postings"),
        ("UPDATE usual.payments SET status = 'processing'", "1 payments are still open"),
        (
            "INSERT INTO usual.idempotency_keys SELECT 'x', fingerprint, payment_id "
            "FROM usual.idempotency_keys",
            "1 payments have more than one key",
        ),
        (
            "UPDATE usual.payments SET amount_minor = 5000000000001",
            "1 cards are over the limit of a day",
        ),
        ("UPDATE usual.payments SET id = 'pay_other'", "1 payments were answered and are nowhere"),
    ],
)
@pytest.mark.parametrize("peer", ["tuned"], indirect=True)
async def test_books_that_do_not_hold_are_found(
    peer: Peer, tmp_path: Path, wrong: str, words: str
) -> None:
    await peer.pay("k1")
    assert await peer.books(tmp_path) == []
    connection = await asyncpg.connect(peer.database_url)
    await connection.execute(wrong)
    await connection.close()
    assert f"the usual way: {words}" in await peer.books(tmp_path)
