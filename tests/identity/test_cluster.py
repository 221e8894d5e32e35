"""A Redis Cluster is the Redis: three nodes, and what needs Redis is on all of them.

Logins, sessions' live state, the stream of revocations, rates of clients and proofs of keys each go
to the node that has their slot; one node lost takes none of the money's ways along.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis.asyncio

from gateway.sandbox.datadir import free_port
from gateway.sandbox.installs import find_valkey
from tests.house import House, running_house, until
from tests.identity.hammer import by_access_token, log_in

SLOTS = 16_384
NODES = 3


@dataclass(slots=True)
class Node:
    """One server of the cluster."""

    port: int
    bus: int
    process: subprocess.Popen[bytes]


@asynccontextmanager
async def running_cluster(folder: Path) -> AsyncIterator[list[Node]]:
    """Run three nodes that share the slots among them."""
    nodes = []
    try:
        for number in range(NODES):
            home = folder / f"node-{number}"
            home.mkdir()
            port, bus = free_port(), free_port()
            process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
                [
                    str(find_valkey()),
                    *("--port", str(port), "--cluster-port", str(bus), "--bind", "127.0.0.1"),
                    *("--cluster-enabled", "yes", "--dir", str(home), "--save", ""),
                    *("--cluster-node-timeout", "2000", "--cluster-require-full-coverage", "no"),
                ],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            nodes.append(Node(port, bus, process))
        clients = [redis.asyncio.Redis(port=node.port) for node in nodes]
        for number, client in enumerate(clients):
            await until(lambda client=client: _answers(client), within_s=10)
            first, last = number * SLOTS // NODES, (number + 1) * SLOTS // NODES - 1
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            met = ("MEET", "127.0.0.1", node.port, node.bus)
            await clients[0].execute_command("CLUSTER", *met)
        for client in clients:
            await until(lambda client=client: _is_whole(client), within_s=20)
            await client.aclose()
        yield nodes
    finally:
        for node in nodes:
            node.process.kill()
            await asyncio.to_thread(node.process.wait, 10)


async def _answers(client: redis.asyncio.Redis) -> bool:
    try:
        return bool(await client.ping())
    except redis.exceptions.ConnectionError:
        return False


async def _is_whole(client: redis.asyncio.Redis) -> bool:
    told = (await client.execute_command("CLUSTER", "INFO")).decode()
    return "cluster_state:ok" in told and f"cluster_known_nodes:{NODES}" in told


@pytest.fixture(scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Node]]:
    async with running_cluster(tmp_path_factory.mktemp("cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
async def spread(cluster: list[Node]) -> AsyncIterator[House]:
    """A sandbox of two workers whose Redis is the cluster."""
    url = f"redis+cluster://127.0.0.1:{cluster[0].port}"
    async with running_house(workers=2, environment={"OQIM_REDIS_URL": url}) as house:
        yield house


async def test_logins_and_sessions_are_on_every_node(spread: House, cluster: list[Node]) -> None:
    """Many customers log in and are seen; what is kept of them is spread."""
    for _ in range(12):
        login = await log_in(spread)
        listed = await spread.call("GET", "/v1/sessions", token=login.access_token)
        assert (listed.status, len(listed.body["data"])) == (200, 1)

    async def is_spread() -> bool:
        sizes = []
        for node in cluster:
            client = redis.asyncio.Redis(port=node.port)
            sizes.append(await client.dbsize())
            await client.aclose()
        return all(sizes)

    await until(is_spread, within_s=10)


async def test_a_revocation_is_kept_and_heard_of_at_once(spread: House) -> None:
    """When the call has returned no worker accepts the token; the stream carried it."""
    for _ in range(20):
        login = await log_in(spread)
        await by_access_token(spread, login)
        for _ in range(6):
            reply = await spread.call("GET", "/v1/sessions", token=login.access_token)
            assert (reply.status, reply.code) == (401, "invalid-token")
    text = (await spread.call("GET", "/metrics")).raw.decode()
    assert 'oqim_revocation_stream_total{kind="unpublished"' not in text


async def test_a_rate_is_one_over_all_workers(spread: House) -> None:
    """Two workers share one client's bucket through the node that has it."""
    client = spread.merchant["client_id"]
    limits = ("clients", "limit", client, "--rate", "5", "--burst", "10")
    done = await asyncio.to_thread(spread.oqim, *limits)
    assert done.returncode == 0, done.stderr
    try:
        token = await spread.merchant_token()

        async def is_limited() -> bool:
            reply = await spread.call("GET", "/v1/payments?limit=1", token=token)
            return "ratelimit" in reply.headers

        await until(is_limited, within_s=5)
        await asyncio.sleep(2.5)
        replies = await asyncio.gather(
            *(spread.call("GET", "/v1/payments?limit=1", token=token) for _ in range(60))
        )
        passed = sum(reply.status == 200 for reply in replies)
        assert 10 <= passed <= 20, passed
        assert {200, 429} == {reply.status for reply in replies}
    finally:
        undone = await asyncio.to_thread(spread.oqim, "clients", "limit", client)
        assert undone.returncode == 0, undone.stderr


async def test_payments_need_no_node(spread: House, cluster: list[Node]) -> None:
    """Last: one node is lost, then all; money goes on, and what needs Redis says so."""
    cluster[1].process.kill()
    for amount in range(20):
        reply = await spread.pay(amount, spread.purchase(amount, "uzcard", 5_000 + amount))
        assert reply.status == 201, reply.raw
    for node in cluster:
        node.process.kill()
    for amount in range(20):
        reply = await spread.pay(amount, spread.purchase(amount, "uzcard", 7_000 + amount))
        assert reply.status == 201, reply.raw
    asked = await spread.call("POST", "/v1/auth/challenges", {"phone": "+998901234567"})
    assert (asked.status, asked.code) == (503, "unavailable"), asked.raw
    assert await spread.is_ready()
