"""SVGate as questions and answers: one call, and the look-ups that flows share."""

import base64
from collections.abc import Mapping
from typing import Any

from yarl import URL

from connectors.spi.outcome import Outcome
from connectors.spi.types import CardData, Instruction, Result
from connectors.transport.faults import TransportFault
from connectors.transport.flow import Ended, pending, with_references
from connectors.transport.http import HttpTransport
from connectors.uzcard import codec, status
from connectors.uzcard.config import Config


class SvgateClient:
    """One SVGate endpoint."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._url = URL(config.base_url)
        credentials = f"{config.login}:{config.password}".encode()
        self.http = HttpTransport(
            config.http,
            {
                "Authorization": "Basic " + base64.b64encode(credentials).decode(),
                "Content-Type": "application/json; charset=utf-8",
                "Accept": "application/json",
            },
        )

    def deadline(self) -> float:
        """The deadline of an operation that starts now."""
        return self.http.deadline()

    async def call(
        self, method: str, params: Mapping[str, Any], reference: str, deadline: float
    ) -> codec.Reply:
        """One request and its reply. Raises TransportFault, or Ended when we were not let in."""
        request_id = reference[:40]
        reply = await self.http.post(
            self._url, codec.encode(method, params, request_id), deadline=deadline
        )
        if reply.status in (401, 403):
            raise Ended(Result(outcome=Outcome.AUTH_CLIENT, processor_code=f"http-{reply.status}"))
        if reply.status != 200:
            raise Ended(pending(f"http-{reply.status}"))
        return codec.decode(reply.body, request_id)

    def acceptor(self, instruction: Instruction) -> dict[str, str]:
        merchant = instruction.merchant
        return {
            "merchantId": self._config.merchant_id or merchant.id,
            "terminalId": self._config.terminal_id or merchant.terminal_id,
        }

    async def token(self, card: CardData, reference: str, deadline: float) -> str:
        """The card's token, asked for when it is not known. No money has moved when this fails."""
        if card.token:
            return card.token
        try:
            reply = await self.call("p2p.info", {"hpan": card.pan.reveal()}, reference, deadline)
            if reply.error is not None:
                raise Ended(_lookup_failed(status.of_error(reply.error), str(reply.error)))
            token = codec.text(codec.mapping(reply.result).get("CARDID"), size_max=32)
        except Ended as ended:
            raise Ended(
                _lookup_failed(ended.result.outcome, ended.result.processor_code or "")
            ) from None
        except TransportFault as fault:
            raise Ended(_lookup_failed(Outcome.PENDING, fault.code)) from None
        if not token:
            raise Ended(_lookup_failed(Outcome.INVALID_CARD, "token-missing"))
        return token

    async def find(self, ext: str, deadline: float) -> list[codec.Transaction]:
        """The transactions of an `ext`; empty when SVGate knows none."""
        reply = await self.call("trans.ext", {"extId": ext}, ext, deadline)
        if reply.error is None:
            return [item for item in codec.transactions(reply.result) if item.ext == ext]
        outcome = status.of_error(reply.error)
        if outcome is Outcome.ORIGINAL_NOT_FOUND:
            return []
        # Whatever else it says is about the question, not about the transaction.
        raise Ended(pending(str(reply.error)))


def declined(code: int) -> Result:
    """What an error says of a message that moves money."""
    return Result(outcome=status.of_error(code), processor_code=str(code))


def of_transaction(found: codec.Transaction, ext: str, amount_minor: int) -> Result:
    """What a transaction says, once it is known to be the one asked for."""
    references = {"ref_num": found.ref_num, "tran_id": found.tran_id}
    matches = found.ext == ext and found.amount == amount_minor and found.currency == codec.CURRENCY
    if not matches:
        return with_references(pending("echo-mismatch"), **references)
    if found.is_reversed:
        return Result(outcome=Outcome.ALREADY_REVERSED, rrn=found.ref_num, references=references)
    if found.is_done:
        return Result(
            outcome=Outcome.APPROVED,
            rrn=found.ref_num,
            approval_code=found.approval_code,
            references=references,
        )
    outcome = status.of_response(found.resp)
    if outcome.money_may_have_moved:
        # Signs that contradict one another: approved by one, not by another.
        outcome = Outcome.PENDING
    return Result(outcome=outcome, processor_code=f"{found.resp:02d}")


def _lookup_failed(outcome: Outcome, code: str) -> Result:
    """Before the money message, which never left: a refusal stands, silence is the switch's."""
    if outcome.money_may_have_moved:
        return Result(
            outcome=Outcome.SWITCH_UNAVAILABLE, sent=False, processor_code=f"lookup:{code}"
        )
    return Result(outcome=outcome, processor_code=f"lookup:{code}")
