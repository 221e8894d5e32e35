"""SVGate's JSON-RPC 2.0: requests to bytes, replies to values. Pure; knows no flow and no outcome.

Numbers arrive now as numbers, now as text; both are taken. Anything else that does not fit is
`OutcomeUnknown("reply-unreadable")`: a reply that cannot be read says nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec

from connectors.transport.faults import OutcomeUnknown

CURRENCY = "860"
NO_REFERENCE = "000000000000"
TASHKENT = timezone(timedelta(hours=5))


@dataclass(frozen=True, slots=True)
class Reply:
    """A JSON-RPC reply: an error code, or a result. `repr` shows no result: it may hold a token."""

    error: int | None = None
    result: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Transaction:
    """What of a transaction object is used. `resp` is ISO 8583's response as a number."""

    ref_num: str
    tran_id: str
    ext: str
    amount: int
    currency: str
    status: str
    resp: int
    approval_code: str | None

    @property
    def is_done(self) -> bool:
        """Whether money moved: every sign of it, or it did not."""
        return self.status == "OK" and self.resp == 0 and self.ref_num not in ("", NO_REFERENCE)

    @property
    def is_reversed(self) -> bool:
        return self.status == "ROK"


@dataclass(frozen=True, slots=True)
class Hold:
    """What of a hold is used. `status`: 0 active, 1 charged, 2 dismissed, 3 expired."""

    hold_id: str
    amount: int
    created_at_ms: int
    status: int


def unreadable() -> OutcomeUnknown:
    return OutcomeUnknown("reply-unreadable")


def encode(method: str, params: Mapping[str, Any], request_id: str) -> bytes:
    """One request. The id is made of the operation's reference, so that it is always the same."""
    return msgspec.json.encode(
        {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    )


def decode(body: bytes, request_id: str) -> Reply:
    """Read a reply to the request of that id.

    Raises:
        OutcomeUnknown: it is not one.
    """
    try:
        envelope = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise unreadable() from None
    if not isinstance(envelope, dict) or envelope.get("jsonrpc") != "2.0":
        raise unreadable()
    if envelope.get("id") != request_id:
        raise OutcomeUnknown("reply-mismatch")
    error = envelope.get("error")
    if error is not None:
        code = error.get("code") if isinstance(error, dict) else None
        if type(code) is not int:
            raise unreadable()
        return Reply(error=code)
    if envelope.get("result") is None:
        raise unreadable()
    return Reply(result=envelope["result"])


def mapping(value: Any) -> Mapping[str, Any]:
    """`value`, which must be an object."""
    if not isinstance(value, dict):
        raise unreadable()
    return value


def text(value: Any, *, size_max: int = 64) -> str:
    """A short printable text, or a number as text; empty when absent."""
    if value is None:
        return ""
    if type(value) is int:
        value = str(value)
    if not isinstance(value, str) or len(value) > size_max or not value.isascii():
        raise unreadable()
    if value and not value.isprintable():
        raise unreadable()
    return value


def number(value: Any) -> int:
    """A whole number, or its digits as text; never absent and never a fraction."""
    if type(value) is int:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 18:
        return int(value)
    raise unreadable()


def transaction(value: Any) -> Transaction:
    """Read a transaction object."""
    fields = mapping(value)
    return Transaction(
        ref_num=text(fields.get("refNum")),
        tran_id=text(fields.get("id")),
        ext=text(fields.get("ext"), size_max=75),
        amount=number(fields.get("amount")),
        currency=text(fields.get("currency")),
        status=text(fields.get("status")),
        resp=number(fields.get("resp")),
        approval_code=text(fields.get("field38")) or None,
    )


def transactions(value: Any) -> list[Transaction]:
    """Read the array that `trans.ext` and `trans.reverse` answer."""
    if not isinstance(value, list) or len(value) > 1_000:
        raise unreadable()
    return [transaction(item) for item in value]


def hold(value: Any) -> Hold:
    """Read a hold as `hold.get.id` shows it."""
    fields = mapping(value)
    return Hold(
        hold_id=text(fields.get("hid")),
        amount=number(fields.get("reqamt")),
        created_at_ms=_milliseconds(fields.get("createTime")),
        status=number(fields.get("status")),
    )


def holds(value: Any) -> list[Hold]:
    """Read the holds of a card; one alone is taken too."""
    if isinstance(value, dict):
        return [hold(value)]
    if not isinstance(value, list) or len(value) > 10_000:
        raise unreadable()
    return [hold(item) for item in value]


def _milliseconds(value: Any) -> int:
    """A time as Unix milliseconds, or as a date and time of Tashkent."""
    if isinstance(value, str) and not value.isdigit():
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            raise unreadable() from None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=TASHKENT)
        return int(moment.timestamp() * 1000)
    return number(value)


def date12(at_ms: int) -> str:
    """YYMMDDhhmmss of Tashkent (ISO 8583:1993 F12)."""
    return datetime.fromtimestamp(at_ms // 1000, tz=TASHKENT).strftime("%y%m%d%H%M%S")
