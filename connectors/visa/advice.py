"""What arrives unasked on VISA's socket, in the words of `CallbackEvent`. Pure."""

from connectors.spi.outcome import Outcome
from connectors.spi.types import CallbackEvent, Result
from connectors.transport.correlation import Fields
from connectors.visa import codec, status

_ORIGINAL_SIZE = 42


def of_advice(mti: str, fields: Fields) -> CallbackEvent | None:
    """Read a 0120 (decided for the issuer) or 0420 (undone), or a repeat of one.

    Returns:
        The event, named the same by its repeats; None when it does not name its operation.
    """
    reference = codec.text(fields, 37)
    trace, transmitted = codec.text(fields, 11), codec.text(fields, 7)
    if trace is None or transmitted is None or reference is None:
        return None
    is_reversed = mti in ("0420", "0421")
    kind = "0420" if is_reversed else "0120"
    amount = codec.text(fields, 4)
    code = codec.text(fields, 39)
    return CallbackEvent(
        event_id=f"{kind}-{transmitted}-{trace}-{reference}",
        lookup=_lookup(fields, reference, trace, transmitted),
        amount_minor=int(amount) if amount is not None else None,
        currency=codec.currency_name(fields.get(49)),
        reversed=is_reversed,
        result=Result(
            outcome=_outcome(code, is_reversed),
            processor_code=code,
            rrn=reference,
            approval_code=codec.text(fields, 38),
        ),
    )


def _lookup(fields: Fields, reference: str, trace: str, transmitted: str) -> dict[str, str]:
    """The names of the operation spoken of: those of its original, where the message has them."""
    original = fields.get(90)
    if isinstance(original, str) and len(original) == _ORIGINAL_SIZE and original.strip("0"):
        trace, transmitted = original[4:10], original[10:20]
    return {"rrn": reference, "stan": trace, "transmitted": transmitted}


def _outcome(code: str | None, is_reversed: bool) -> Outcome:
    if is_reversed:
        return Outcome.ALREADY_REVERSED
    return status.of_response(code) if code is not None else Outcome.PENDING
