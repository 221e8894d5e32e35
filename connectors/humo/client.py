"""HUMO's two services as questions and answers."""

import base64

from yarl import URL

from connectors.humo import codec, status
from connectors.humo.config import Config
from connectors.spi.outcome import Outcome
from connectors.spi.types import Result
from connectors.transport.faults import OutcomeUnknown
from connectors.transport.flow import Ended, pending
from connectors.transport.http import HttpTransport


class HumoClient:
    """The payment server and the card information service of one endpoint."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._url = URL(config.base_url + "/")
        self._card_url = URL(config.card_url)
        self.http = HttpTransport(config.http, {})
        credentials = f"{config.login}:{config.password}".encode()
        self._soap_headers = {
            "Authorization": "Basic " + base64.b64encode(credentials).decode(),
            "Content-Type": "text/xml; charset=utf-8",
            "SOAPAction": '""',
        }
        self._card_headers = {
            "Authorization": f"Bearer {config.token}",
            "Content-Type": "application/json",
        }

    def deadline(self) -> float:
        """The deadline of an operation that starts now."""
        return self.http.deadline()

    async def call(self, message: bytes, reference: str, deadline: float) -> codec.Reply:
        """One SOAP message and its reply, a fault included.

        Raises:
            TransportFault: no answer that can be read, or one about another payment.
            Ended: we were not let in.
        """
        reply = await self.http.post(
            self._url, message, deadline=deadline, headers=self._soap_headers
        )
        if reply.status in (401, 403):
            raise Ended(Result(outcome=Outcome.AUTH_CLIENT, processor_code=f"http-{reply.status}"))
        # A fault travels with status 500.
        if reply.status not in (200, 500):
            raise Ended(pending(f"http-{reply.status}"))
        answer = codec.decode(reply.body)
        if answer.payment_ref and answer.payment_ref != reference:
            raise OutcomeUnknown("reply-mismatch")
        return answer

    async def payment(self, reference: str, deadline: float) -> codec.Reply | None:
        """What HUMO holds of a payment; None when it never saw it.

        Raises:
            Ended: it would not say.
        """
        answer = await self.call(
            codec.get_payment(reference, self._config.login), reference, deadline
        )
        if answer.error is None:
            if answer.name != "GetPaymentResponse" or answer.payment_ref != reference:
                raise OutcomeUnknown("reply-mismatch")
            return answer
        if status.of_action(answer.error) is Outcome.ORIGINAL_NOT_FOUND:
            return None
        raise Ended(pending(str(answer.error)))

    async def cancel(self, reference: str, deadline: float) -> int | None:
        """Undo an unfinished payment; the error's code when it would not be undone."""
        answer = await self.call(codec.cancel(reference, self._config.login), reference, deadline)
        if answer.error is None and answer.name != "CancelRequestResponse":
            raise OutcomeUnknown("reply-mismatch")
        return answer.error

    async def card(self, pan: str, request_id: str) -> codec.CardInfo | int:
        """A card's information, or the code of the error that came instead."""
        reply = await self.http.post(
            self._card_url,
            codec.encode_card(pan, request_id),
            deadline=self.deadline(),
            headers=self._card_headers,
        )
        if reply.status in (401, 403):
            raise Ended(Result(outcome=Outcome.AUTH_CLIENT, processor_code=f"http-{reply.status}"))
        if reply.status >= 500:
            raise Ended(pending(f"http-{reply.status}"))
        return codec.decode_card(reply.body)
