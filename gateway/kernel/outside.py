"""Connectors as the gateway calls them: what waits for a processor is outside the door meanwhile.

Counts the calls under way to each processor, and how long each took. Changes no argument, no result
and no exception.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import Any

from connectors.spi import (
    CallbackEvent,
    CardCheck,
    CardData,
    CardLink,
    Connector,
    Instruction,
    Result,
)
from gateway.kernel.http.admission import outside
from gateway.kernel.metrics import Histograms


class _Call(outside):
    """A call under way."""

    __slots__ = ("_began_s", "_name", "_of")

    def __init__(self, of: "Outside", name: str) -> None:
        self._of = of
        self._name = name

    def __enter__(self) -> None:
        self._of.in_flight += 1
        self._began_s = perf_counter()
        super().__enter__()

    def __exit__(self, *error: object) -> None:
        self._of.in_flight -= 1
        self._of.seconds.of(self._of.name, self._name).observe(perf_counter() - self._began_s)
        super().__exit__(*error)


class Outside:
    """One connector, watched.

    Attributes:
        in_flight: calls under way, whoever made them.
        seconds: how long they took, by connector and call.
    """

    def __init__(self, connector: Connector, seconds: Histograms) -> None:
        self.name = connector.name
        self.settle_by = connector.settle_by
        self.capture_partial = connector.capture_partial
        self.refund_partial = connector.refund_partial
        self.in_flight = 0
        self.seconds = seconds
        self._connector = connector

    def __getattr__(self, name: str) -> Any:
        """Return what a connector can do beside its interface, as it is."""
        return getattr(self._connector, name)

    async def start(self) -> None:
        await self._connector.start()

    async def close(self) -> None:
        await self._connector.close()

    def is_ready(self) -> bool:
        return self._connector.is_ready()

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        with _Call(self, "check_card"):
            return await self._connector.check_card(card, phone=phone, reference=reference)

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        with _Call(self, "link_card"):
            return await self._connector.link_card(card, challenge=challenge, code=code)

    async def authorize(self, instruction: Instruction) -> Result:
        with _Call(self, "authorize"):
            return await self._connector.authorize(instruction)

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        with _Call(self, "capture"):
            return await self._connector.capture(
                instruction, reference=reference, amount_minor=amount_minor
            )

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        with _Call(self, "cancel"):
            return await self._connector.cancel(instruction, reference=reference)

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        with _Call(self, "refund"):
            return await self._connector.refund(
                instruction, reference=reference, sequence=sequence, amount_minor=amount_minor
            )

    async def reverse(self, instruction: Instruction) -> Result:
        with _Call(self, "reverse"):
            return await self._connector.reverse(instruction)

    async def inquire(self, instruction: Instruction) -> Result:
        with _Call(self, "inquire"):
            return await self._connector.inquire(instruction)

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        with _Call(self, "inquire_refund"):
            return await self._connector.inquire_refund(instruction, reference=reference)

    def verify_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> CallbackEvent:
        return self._connector.verify_callback(headers, body, now_ms=now_ms)
