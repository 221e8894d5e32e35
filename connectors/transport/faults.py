"""How a transport fails. The only question that matters afterwards: may a byte have left?

    TransportFault
    |-- NotSent          provably no byte left: connect refused, breaker open, queue full
    `-- OutcomeUnknown   anything later: no answer in time, connection lost, unreadable answer

`code` is a short slug, safe to log; no fault carries a message's content.
"""


class TransportFault(Exception):
    """A message without an answer.

    Args:
        code: what happened, as a slug (`connect-refused`, `timeout`, ...).
    """

    sent: bool

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NotSent(TransportFault):
    """Provably no byte of the message left this process."""

    sent = False


class OutcomeUnknown(TransportFault):
    """A byte may have left, and no answer says what became of it."""

    sent = True
