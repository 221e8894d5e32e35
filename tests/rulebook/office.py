"""Two operators of a house, and what they do with its rules; through the public door alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp

from tests.house import House, Reply, until

PLANS, POLICIES = "/admin/v1/commission-plans", "/admin/v1/limit-policies"
PROPOSALS, SIMULATIONS = "/admin/v1/proposals", "/admin/v1/simulations"
# What an approval may take when a worker says nothing: what it read last, and its heartbeat.
APPROVED_WITHIN_S = 8.0


def policy(id: str, **changes: Any) -> dict[str, Any]:
    """Return the body of a limit policy that no test's payment meets by chance."""
    return {
        "id": id,
        "priority": 900,
        "subject": "platform",
        "match": {"merchant": ["mer_nobody"]},
        "window": {"kind": "operation"},
        "max_amount": 1_000_000,
        "currency": "UZS",
    } | changes


def plan(id: str, **changes: Any) -> dict[str, Any]:
    """Return the body of a commission plan that no test's payment meets by chance."""
    return {
        "id": id,
        "priority": 900,
        "match": {"operation": ["purchase"], "merchant": [f"mer_{id}"]},
        "payer": "receiver",
        "components": [{"name": "bank", "kind": "percent", "percent": "2"}],
    } | changes


def moment(**ahead: float) -> str:
    """Return a time from now, RFC 3339."""
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat(timespec="milliseconds")


async def span_since(before: str) -> dict[str, str]:
    """Return the span from a moment to now, with all in it that has been answered by now."""
    # A span ends before its last millisecond, in which the last answer may have been given.
    here = moment()
    await until(lambda: moment() > here, within_s=5)
    return {"from": before, "to": moment()}


@dataclass(slots=True)
class Office:
    """The operators' side of a house; the first proposes, the second approves."""

    house: House

    def token(self, number: int) -> str:
        return str(self.house.description["operators"][number]["access_token"])

    def id(self, number: int) -> str:
        return str(self.house.description["operators"][number]["id"])

    async def call(self, method: str, path: str, body: Any = None, *, by: int = 0) -> Reply:
        return await self.house.call(method, path, body, token=self.token(by))

    async def get(self, path: str) -> Any:
        reply = await self.call("GET", path)
        assert reply.status == 200, reply.raw
        return reply.body

    async def propose(self, path: str, body: Mapping[str, Any], *, by: int = 0) -> dict[str, Any]:
        """Propose a rule, and return the proposal."""
        reply = await self.call("POST", path, dict(body), by=by)
        assert reply.status == 201, reply.raw
        proposal: dict[str, Any] = reply.body
        return proposal

    async def decide(self, proposal: Mapping[str, Any], *, by: int = 1) -> Reply:
        """Approve a proposal."""
        return await self.call("POST", f"{PROPOSALS}/{proposal['id']}/approve", by=by)

    async def approve(self, proposal: Mapping[str, Any]) -> dict[str, Any]:
        """Approve a proposal, and return it as it is then."""
        reply = await self.decide(proposal)
        assert reply.status == 200, reply.raw
        approved: dict[str, Any] = reply.body
        return approved

    async def put(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Propose and approve a rule."""
        return await self.approve(await self.propose(path, body))

    async def delete(self, path: str, id: str) -> dict[str, Any]:
        """Propose and approve that a rule ends."""
        reply = await self.call("DELETE", f"{path}/{id}")
        assert reply.status == 201, reply.raw
        return await self.approve(reply.body)

    @asynccontextmanager
    async def in_force(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Have a rule in force, and delete it afterwards."""
        approved = await self.put(path, body)
        try:
            yield approved
        finally:
            await self.delete(path, str(body["id"]))

    async def generation(self) -> int:
        """Return the newest generation."""
        rows = await self.house.rows("SELECT max(seq) FROM rule_generations")
        newest: int = rows[0][0]
        return newest

    async def everywhere(self) -> None:
        """Wait until every worker that lives decides by the newest generation."""

        async def is_applied() -> bool:
            (row,) = await self.house.rows(
                "SELECT min(applied_generation) = (SELECT max(seq) FROM rule_generations) AS yes"
                " FROM workers WHERE seen_at > now() - interval '3 seconds'"
            )
            return bool(row["yes"])

        await until(is_applied, within_s=10)

    async def what_if(self, proposal: Mapping[str, Any]) -> Any:
        """Return what a proposal would have changed, once that was replayed."""

        async def done() -> Any:
            found = (await self.get(f"{PROPOSALS}/{proposal['id']}"))["what_if"]
            return found if found["status"] != "running" else None

        return await until(done, within_s=20)

    async def simulated(self, **body: Any) -> Any:
        """Run a simulation of the last day, and return it once it has ended."""
        reply = await self.call(
            "POST", SIMULATIONS, {"from": moment(days=-1), "to": moment(), **body}
        )
        assert reply.status == 202, reply.raw
        return await self.ended(reply.body["id"])

    async def ended(self, simulation: str) -> Any:
        async def done() -> Any:
            found = await self.get(f"{SIMULATIONS}/{simulation}")
            return found if found["status"] != "running" else None

        return await until(done, within_s=20)


async def pay_alone(house: House, user: int, body: Any) -> Reply:
    """Pay on a connection of its own, so that any worker may get it."""
    async with aiohttp.ClientSession() as session:
        other = House(house.data_dir, house.environment, session, None, house.description)
        return await other.pay(user, body)


async def pay_everywhere(house: House, user: int, body: Any, count: int = 24) -> list[Reply]:
    """Pay so often, each time on a new connection, that every worker gets some."""
    replies = []
    for _ in range(count // 4):
        replies += await asyncio.gather(*(pay_alone(house, user, body) for _ in range(4)))
    return replies


async def workers_of(house: House, payments: list[str]) -> set[int]:
    """Return the workers that made some payments."""
    rows = await house.rows(
        "SELECT DISTINCT worker FROM attempts WHERE payment_id = ANY($1::text[])", payments
    )
    return {row["worker"] for row in rows}
