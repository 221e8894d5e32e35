"""A connector that answers at once, in the gateway's own process: no message, no socket, no ledger.

Only for measuring: what of a payment's cost is not the exchange with a processor. The gateway finds
it as it finds every connector, by its entry point, where this folder is on the path; no wheel holds
it, no default configuration names it, and without the words below among its settings it refuses to
be made. It moves no money, and says of everything that it was done.
"""

from collections.abc import Mapping

from connectors.spi import (
    CallbackEvent,
    CallbackRefused,
    CardCheck,
    CardData,
    CardLink,
    ConnectorContext,
    Instruction,
    Outcome,
    Result,
    SettleBy,
)

# What its section must say: {"moves": "nothing"}.
MOVES_NOTHING = {"moves": "nothing"}


def create(context: ConnectorContext) -> "ImmediateConnector":
    """Make the connector. Raises ValueError when its section does not say what it is."""
    if dict(context.settings) != MOVES_NOTHING:
        raise ValueError(
            f'{context.name}.moves: must be "nothing", and nothing else may be set: this '
            "connector is for measuring alone, and no processor hears of what it approves"
        )
    return ImmediateConnector(context.name)


class ImmediateConnector:
    """Every operation is approved, by names that its instruction gives."""

    settle_by = SettleBy.INQUIRY
    capture_partial = True
    refund_partial = True

    def __init__(self, name: str) -> None:
        self.name = name

    async def start(self) -> None:
        """There is nothing to open."""

    async def close(self) -> None:
        """There is nothing to close."""

    def is_ready(self) -> bool:
        return True

    async def check_card(self, card: CardData, *, phone: str, reference: str) -> CardCheck:
        return CardCheck(outcome=Outcome.APPROVED)

    async def link_card(self, card: CardData, *, challenge: str | None, code: str) -> CardLink:
        return CardLink(outcome=Outcome.APPROVED)

    async def authorize(self, instruction: Instruction) -> Result:
        return _done(instruction)

    async def capture(
        self, instruction: Instruction, *, reference: str, amount_minor: int
    ) -> Result:
        return _done(instruction)

    async def cancel(self, instruction: Instruction, *, reference: str) -> Result:
        return _done(instruction)

    async def refund(
        self, instruction: Instruction, *, reference: str, sequence: int, amount_minor: int
    ) -> Result:
        return _done(instruction)

    async def reverse(self, instruction: Instruction) -> Result:
        return _done(instruction)

    async def inquire(self, instruction: Instruction) -> Result:
        """What an earlier process was told is told again: every instruction was done."""
        return _done(instruction)

    async def inquire_refund(self, instruction: Instruction, *, reference: str) -> Result:
        return _done(instruction)

    def verify_callback(
        self, headers: Mapping[str, str], body: bytes, *, now_ms: int
    ) -> CallbackEvent:
        raise CallbackRefused("callback-invalid", "Nobody calls back.")


def _done(instruction: Instruction) -> Result:
    """Approve, with names as VISA's are long, and the same at each asking."""
    rrn = f"{instruction.sequence % 10**12:012}"
    approval_code = f"{instruction.sequence % 10**6:06}"
    return Result(
        outcome=Outcome.APPROVED,
        processor_code="00",
        rrn=rrn,
        approval_code=approval_code,
        references={"rrn": rrn, "approval_code": approval_code},
    )
