"""Small pieces that every connector's flow is made of: results without an answer, early ends."""

from collections.abc import Awaitable, Callable

from connectors.spi.outcome import Outcome
from connectors.spi.types import CardCheck, CardLink, Result
from connectors.transport.bulkhead import settling
from connectors.transport.faults import TransportFault


class Ended(Exception):
    """A flow ends here with this result. Raised and caught inside one connector."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.outcome.code)
        self.result = result


def pending(code: str, *, sent: bool = True, **references: str) -> Result:
    """Nobody can say yet; `code` tells the operator why."""
    return Result(outcome=Outcome.PENDING, sent=sent, processor_code=code, references=references)


def refused(code: str, outcome: Outcome = Outcome.FORMAT_ERROR) -> Ended:
    """This processor cannot be asked that; nothing was sent."""
    return Ended(Result(outcome=outcome, sent=False, processor_code=code))


def of_fault(fault: TransportFault) -> Result:
    """A message that moves money, without an answer."""
    outcome = Outcome.PENDING if fault.sent else Outcome.SWITCH_UNAVAILABLE
    return Result(outcome=outcome, sent=fault.sent, processor_code=fault.code)


def unanswered(fault: TransportFault) -> Result:
    """A question, or a reversal, without an answer: it is asked again."""
    return pending(fault.code, sent=fault.sent)


def with_references(result: Result, **references: str) -> Result:
    """`result` with more references."""
    return Result(
        outcome=result.outcome,
        sent=result.sent,
        processor_code=result.processor_code,
        rrn=result.rrn,
        approval_code=result.approval_code,
        references={**result.references, **references},
    )


def card_check(result: Result) -> CardCheck:
    """A result in the words of `check_card`."""
    return CardCheck(outcome=result.outcome, processor_code=result.processor_code)


def card_link(result: Result) -> CardLink:
    """A result in the words of `link_card`."""
    return CardLink(outcome=result.outcome, processor_code=result.processor_code)


async def conclude(
    flow: Awaitable[Result], on_fault: Callable[[TransportFault], Result] = of_fault
) -> Result:
    """`settle` for what ends something (a capture, a cancel, a refund, a reversal, an inquiry):
    it goes on places of its own."""
    with settling():
        return await settle(flow, on_fault)


async def settle(
    flow: Awaitable[Result], on_fault: Callable[[TransportFault], Result] = of_fault
) -> Result:
    """The flow's result, whatever way it ended. Anything but its two exceptions is a bug."""
    try:
        return await flow
    except Ended as ended:
        return ended.result
    except TransportFault as fault:
        return on_fault(fault)
