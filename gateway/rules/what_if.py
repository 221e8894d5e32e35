"""Simulations that operators ask for: read, checked against the rules of now, begun, cancelled."""

from typing import Any

import asyncpg
import msgspec

from gateway.kernel import audit
from gateway.kernel.clock import Clock
from gateway.kernel.http.problems import Problem
from gateway.rules import store
from gateway.rules.document import LISTS, Fault, Kind
from gateway.rules.drafts import Draft, Wish, faults_of_wish, invalid, read_draft, wish_of
from gateway.rules.model import Deletions
from gateway.rules.simulations import OPEN_MAX, Simulations
from gateway.rules.times import parsed


class Asked(msgspec.Struct, forbid_unknown_fields=True):
    """A simulation as it was sent; each draft is read by the core."""

    from_: str = msgspec.field(name="from")
    to: str
    commission_plans: list[msgspec.Raw] | None = None
    limit_policies: list[msgspec.Raw] | None = None
    delete: Deletions | None = None


class WhatIfs:
    """The use cases."""

    def __init__(self, *, pool: asyncpg.Pool, clock: Clock, simulations: Simulations) -> None:
        self._pool = pool
        self._clock = clock
        self._simulations = simulations

    async def start(self, asked: Asked, actor: str) -> dict[str, Any]:
        """Begin a simulation, and return its view.

        Raises:
            Problem: `rules-invalid` with everything that is wrong; `simulation-running` when too
                many are waiting.
        """
        at_ms = self._clock()
        from_ms, to_ms, faults = _span(asked, at_ms)
        drafts, places = _drafts(asked, faults)
        async with self._pool.acquire() as connection:
            deletes = await self._deletes(connection, asked.delete or Deletions(), faults)
            puts = [
                wish_of(one, await store.next_version(connection, one.kind, one.id)).puts[0]
                for one in drafts
            ]
            wish = Wish(puts, deletes)
            newest = await store.read_generation(connection, await store.newest(connection))
            faults += await faults_of_wish(wish, places, newest.entries, newest.rates, at_ms=at_ms)
            if faults:
                raise invalid(faults)
            async with connection.transaction():
                await connection.execute(store.LOCK)
                if await self._simulations.count_open(connection) >= OPEN_MAX:
                    raise Problem("simulation-running", "Wait for those that are running.")
                simulation_id = await self._simulations.add(
                    connection, wish=wish, from_ms=from_ms, to_ms=to_ms, actor=actor, at_ms=at_ms
                )
                await audit.record(
                    connection,
                    at_ms=at_ms,
                    actor=actor,
                    action="simulation.start",
                    object=simulation_id,
                    detail={
                        "from": asked.from_,
                        "to": asked.to,
                        "puts": [f"{put.kind} {put.id}" for put in puts],
                        "deletes": [f"{kind} {id}" for kind, id in deletes],
                    },
                )
        self._simulations.wake()
        return await self.get(simulation_id)

    async def _deletes(
        self, connection: Any, asked: Deletions, faults: list[Fault]
    ) -> list[tuple[Kind, str]]:
        wanted: dict[Kind, list[str]] = {
            "plan": asked.commission_plans,
            "policy": asked.limit_policies,
        }
        for kind, ids in wanted.items():
            for place, id in enumerate(ids):
                if await store.next_version(connection, kind, id) == 1:
                    pointer = f"/delete/{LISTS[kind]}/{place}"
                    faults.append((pointer, "There is no such rule."))
        return [(kind, id) for kind, ids in wanted.items() for id in ids]

    async def get(self, simulation_id: str) -> dict[str, Any]:
        """Return a simulation's view. Raises Problem `not-found`."""
        view = await self._simulations.view(simulation_id)
        if view is None:
            raise Problem("not-found", "There is no such simulation.")
        return view

    async def cancel(self, simulation_id: str, actor: str) -> dict[str, Any]:
        """End a simulation that is running, and return its view.

        Raises:
            Problem: `not-found`; `invalid-state` when it has ended.
        """
        async with self._pool.acquire() as connection, connection.transaction():
            was_running = await self._simulations.cancel(connection, simulation_id)
            if was_running:
                await audit.record(
                    connection,
                    at_ms=self._clock(),
                    actor=actor,
                    action="simulation.cancel",
                    object=simulation_id,
                    detail={},
                )
        view = await self.get(simulation_id)
        if not was_running:
            raise Problem("invalid-state", "The simulation has ended.")
        return view


def _span(asked: Asked, at_ms: int) -> tuple[int, int, list[Fault]]:
    """Return `[from, to)` in Unix milliseconds, nothing of it to come, and what is wrong."""
    faults: list[Fault] = []
    moments = []
    for name, text in (("from", asked.from_), ("to", asked.to)):
        moment = parsed(text)
        if moment is None:
            faults.append((f"/{name}", "Must be an RFC 3339 time with an offset."))
        moments.append(min(moment or 0, at_ms))
    from_ms, to_ms = moments
    if not faults and from_ms >= to_ms:
        faults.append(("/from", "Must be before to, and before now."))
    return from_ms, to_ms, faults


def _drafts(asked: Asked, faults: list[Fault]) -> tuple[list[Draft], list[str]]:
    """Return the drafts and where each was sent; adds to `faults`."""
    lists: dict[Kind, list[msgspec.Raw]] = {
        "plan": asked.commission_plans or [],
        "policy": asked.limit_policies or [],
    }
    drafts, places = [], []
    for kind, bodies in lists.items():
        for place, body in enumerate(bodies):
            pointer = f"/{LISTS[kind]}/{place}"
            draft, found = read_draft(kind, bytes(body), at=pointer)
            faults += found
            drafts.append(draft)
            places.append(pointer)
    return drafts, places
