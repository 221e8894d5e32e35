"""Holds at SVGate: made without a key of ours, so found again by card, amount and time."""

from collections import OrderedDict

from connectors.spi.outcome import Outcome
from connectors.spi.types import Instruction, Result
from connectors.transport.flow import Ended, pending, with_references
from connectors.uzcard import codec, status
from connectors.uzcard.client import SvgateClient, declined, of_transaction
from connectors.uzcard.config import Config

HOLD_ACTIVE, HOLD_CHARGED, HOLD_DISMISSED, HOLD_EXPIRED = range(4)

# Holds remembered as belonging to an attempt, so that a search does not take them for another.
_KNOWN_HOLDS_MAX = 10_000


class Holds:
    """The flow of holds. Raises `Ended` and `TransportFault`; the connector makes them results."""

    def __init__(self, config: Config, client: SvgateClient) -> None:
        self._config = config
        self._client = client
        self._known_holds: OrderedDict[str, str] = OrderedDict()

    async def create(self, instruction: Instruction, deadline: float) -> Result:
        card = await self._client.token(instruction.card, instruction.reference, deadline)
        params = {
            "hold": {
                "cardId": card,
                **self._client.acceptor(instruction),
                "amount": instruction.amount_minor,
                "time": self._config.hold_minutes,
            }
        }
        reply = await self._client.call("hold.create", params, instruction.reference, deadline)
        if reply.error is not None:
            return declined(reply.error)
        fields = codec.mapping(reply.result)
        hold_id = codec.text(fields.get("id"))
        if codec.number(fields.get("status")) != 0 or not hold_id:
            return pending("status-unknown")
        if fields.get("amount") is not None and (
            codec.number(fields["amount"]) != instruction.amount_minor
        ):
            return with_references(pending("amount-mismatch"), hold_id=hold_id)
        self._remember(hold_id, instruction.reference)
        return Result(outcome=Outcome.APPROVED, references={"hold_id": hold_id})

    def _remember(self, hold_id: str, reference: str) -> None:
        self._known_holds[hold_id] = reference
        if len(self._known_holds) > _KNOWN_HOLDS_MAX:
            self._known_holds.popitem(last=False)

    async def hold_id(self, instruction: Instruction, deadline: float) -> str:
        """The hold's id, looked for on the card when it is not known. Raises Ended without one."""
        hold_id = instruction.references.get("hold_id")
        if hold_id:
            return hold_id
        found = await self.find(instruction, deadline)
        if found is None:
            raise Ended(Result(outcome=Outcome.ORIGINAL_NOT_FOUND))
        return found.hold_id

    async def find(self, instruction: Instruction, deadline: float) -> codec.Hold | None:
        """The attempt's hold, by its id or else by card, amount and time; None when there is none.

        Notes:
            Two holds that fit equally well are `PENDING`: a guess would take another's money.
        """
        hold_id = instruction.references.get("hold_id")
        if hold_id:
            reply = await self._client.call(
                "hold.get.id", {"id": wire_id(hold_id)}, instruction.reference, deadline
            )
            if reply.error is None:
                return codec.hold(reply.result)
            if status.of_error(reply.error) is Outcome.ORIGINAL_NOT_FOUND:
                return None
            raise Ended(pending(str(reply.error)))
        card = await self._client.token(instruction.card, instruction.reference, deadline)
        reply = await self._client.call(
            "hold.get.cardId", {"cardId": card}, instruction.reference, deadline
        )
        if reply.error is not None:
            if status.of_error(reply.error) is Outcome.ORIGINAL_NOT_FOUND:
                return None
            raise Ended(pending(str(reply.error)))
        near = [
            hold
            for hold in codec.holds(reply.result)
            if hold.amount == instruction.amount_minor
            and abs(hold.created_at_ms - instruction.created_at_ms)
            <= self._config.hold_match_window_ms
            and self._known_holds.get(hold.hold_id, instruction.reference) == instruction.reference
        ]
        if len(near) > 1:
            raise Ended(pending("hold-ambiguous"))
        if near:
            self._remember(near[0].hold_id, instruction.reference)
        return near[0] if near else None

    async def dismiss(
        self, instruction: Instruction, hold_id: str, reference: str, deadline: float
    ) -> Result:
        params = {
            "hold": {
                "holdId": wire_id(hold_id),
                **self._client.acceptor(instruction),
                "amount": instruction.amount_minor,
            }
        }
        reply = await self._client.call("hold.dismiss", params, reference, deadline)
        references = {"hold_id": hold_id}
        if reply.error is None:
            if codec.number(codec.mapping(reply.result).get("status")) != 0:
                return pending("status-unknown")
            return Result(outcome=Outcome.APPROVED, references=references)
        if status.of_error(reply.error) is not Outcome.ORIGINAL_NOT_FOUND:
            return declined(reply.error)
        known = await self._client.call(
            "hold.get.id", {"id": wire_id(hold_id)}, reference, deadline
        )
        if known.error is None and codec.hold(known.result).status in (
            HOLD_DISMISSED,
            HOLD_EXPIRED,
        ):
            return Result(outcome=Outcome.APPROVED, references=references)
        return declined(reply.error)

    async def capture(self, instruction: Instruction, reference: str, amount_minor: int) -> Result:
        """`hold.dismiss.charge` with `ext` = `reference`. Safe to ask again."""
        deadline = self._client.deadline()
        hold_id = await self.hold_id(instruction, deadline)
        params = {
            "hold": {
                "holdId": wire_id(hold_id),
                "ext": reference,
                **self._client.acceptor(instruction),
                "port": self._config.port,
                "stan": f"{1 + instruction.sequence % 999_999:06d}",
                "amount": amount_minor,
                "date12": codec.date12(instruction.created_at_ms),
            }
        }
        reply = await self._client.call("hold.dismiss.charge", params, reference, deadline)
        if reply.error is None:
            transaction = codec.transaction(reply.result)
        else:
            outcome = status.of_error(reply.error)
            if outcome not in (Outcome.DUPLICATE, Outcome.ORIGINAL_NOT_FOUND):
                return declined(reply.error)
            # Charged before, perhaps by this very capture.
            found = await self._client.find(reference, deadline)
            if not found and outcome is Outcome.DUPLICATE:
                return pending(str(reply.error))
            if not found:
                return declined(reply.error)
            transaction = found[0]
        result = of_transaction(transaction, reference, amount_minor)
        if result.outcome is not Outcome.APPROVED:
            return result
        return with_references(
            result, hold_id=hold_id, capture_ref=reference, captured_minor=str(amount_minor)
        )

    async def cancel(self, instruction: Instruction, reference: str) -> Result:
        """`hold.dismiss`. A hold that is already dismissed or expired is `APPROVED`."""
        deadline = self._client.deadline()
        hold_id = await self.hold_id(instruction, deadline)
        return await self.dismiss(instruction, hold_id, reference, deadline)


def wire_id(hold_id: str) -> int | str:
    return int(hold_id) if hold_id.isdigit() else hold_id


def of_hold(hold: codec.Hold | None) -> Result:
    if hold is None:
        return Result(outcome=Outcome.ORIGINAL_NOT_FOUND)
    references = {"hold_id": hold.hold_id}
    if hold.status in (HOLD_ACTIVE, HOLD_CHARGED):
        return Result(outcome=Outcome.APPROVED, references=references)
    if hold.status in (HOLD_DISMISSED, HOLD_EXPIRED):
        return Result(outcome=Outcome.ALREADY_REVERSED, references=references)
    return with_references(pending(f"hold-{hold.status}"), **references)
