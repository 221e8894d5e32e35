"""Two gateways that are loaded together: by a generator each, or one by both.

What a law of workers, hosts or hot limits asks for; it checks what must hold whatever they do.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from gateway.bench.beside import Neighbour, beside
from gateway.measuring.closed_loop import PAYMENTS, answers, closed_loop, complaint, per_second
from gateway.measuring.config import CAP
from gateway.measuring.helpers import Talker, talker
from gateway.measuring.stage import Stage
from gateway.sandbox.progress import Progress, Step

CLIENTS = 64
QUOTES = "/v1/payments/quote"
# Loads until a limit must have been reached.
TRIES_MAX = 20


class Crowd:
    """Two generators, each with a server of its own or both with one.

    Args:
        ports: of the sandbox's gateway, and of the one beside it.
    """

    def __init__(self, stage: Stage, generators: Sequence[Talker], ports: tuple[int, int]) -> None:
        self._stage = stage
        self._generators = generators
        self._ports = ports

    async def load(self, gateways: int, *, scheme: str, seconds: float) -> list[Mapping[str, Any]]:
        """Pay by one gateway or by both for so long, by as many clients; returns what was told."""
        return await self._ask(
            gateways,
            path=PAYMENTS,
            clients=CLIENTS,
            seconds=seconds,
            scheme=scheme,
            ids_file=self._stage.ids_file,
        )

    async def quote(
        self, gateways: int, *, scheme: str, seconds: float | None
    ) -> list[Mapping[str, Any]]:
        """Ask one gateway or both for quotes, each by as many clients; returns what was told.

        Args:
            seconds: None: until each user has asked once, by each generator.
        """
        return await self._ask(
            gateways,
            path=QUOTES,
            clients=CLIENTS * gateways,
            seconds=seconds,
            scheme=scheme,
            ids_file=None,
            is_prepared=True,
        )

    async def _ask(self, gateways: int, *, clients: int, **order: Any) -> list[Mapping[str, Any]]:
        told: list[Mapping[str, Any]] = await asyncio.gather(
            *(
                closed_loop(
                    generator,
                    port=self._ports[number if gateways == 2 else 0],
                    clients=clients // 2,
                    **order,
                )
                for number, generator in enumerate(self._generators)
            )
        )
        return told


@asynccontextmanager
async def crowd(stage: Stage, neighbour: Neighbour) -> AsyncIterator[Crowd]:
    """Run a second generator beside the stage's own; the meters count both."""
    async with talker(stage.loadtests / "generator.py", stage.seeded) as second:
        await second.hear()
        stage.meters.watch("generator", stage.generator.pid, second.pid)
        try:
            yield Crowd(stage, (stage.generator, second), (stage.port, neighbour.port))
        finally:
            stage.meters.watch("generator", stage.generator.pid)


@asynccontextmanager
async def two_gateways(
    stage: Stage, progress: Progress, row: str
) -> AsyncIterator[tuple[Step, Crowd]]:
    """Run a second gateway beside the sandbox's, and a generator for each, as one step."""
    with progress.step(row) as step:
        async with beside(stage) as neighbour, crowd(stage, neighbour) as both:
            yield step, both


def rate_of(told: Sequence[Mapping[str, Any]]) -> float:
    """Return answers a second of all generators together."""
    return sum(map(per_second, told))


def answers_of(told: Sequence[Mapping[str, Any]]) -> int:
    """Return how many answers all generators had together."""
    return sum(map(answers, told))


def complaints(told: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is wrong with the answers of any."""
    return [said for one in told if (said := complaint(one))]


async def until_capped(stage: Stage, both: Crowd, scheme: str, seconds: float) -> list[str]:
    """Pay over a scheme whose merchant has a limit until it is reached; it must be, exactly."""
    answers = {201: 0, 422: 0}
    for _ in range(TRIES_MAX):
        told = await both.load(2, scheme=scheme, seconds=seconds)
        for one in told:
            for status, count in one["statuses"].items():
                answers[int(status)] = answers.get(int(status), 0) + count
        if all("422" in one["statuses"] for one in told):
            break
    found = []
    if others := {status: n for status, n in answers.items() if status not in (201, 422)}:
        found.append(f"unexpected answers of a merchant at its limit: {others}")
    written = await stage.connection.fetchval(
        "SELECT count(*) FROM payments WHERE scheme = $1 AND status <> 'failed'", scheme
    )
    if (answers[201], written) != (CAP, CAP):
        found.append(
            f"a limit of {CAP:,} payments let {answers[201]:,} through, and {written:,} are written"
        )
    return found
