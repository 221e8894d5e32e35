"""HUMO's SOAP 1.1 messages and JSON card information. Pure; knows no flow and no outcome.

Replies are read by local names, so that any namespace prefix does. A document type, an entity or
anything else that does not fit is `OutcomeUnknown("reply-unreadable")`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape

import lxml.etree as etree  # type: ignore[import-untyped]  # lxml ships no types
import msgspec

from connectors.transport.faults import OutcomeUnknown

CURRENCY = "860"
ACTION_CREATED, ACTION_FINISHED = 4, 10

_HEAD = (
    '<?xml version="1.0" encoding="UTF-8"?>'
    '<SOAP-ENV:Envelope xmlns:SOAP-ENV="http://schemas.xmlsoap.org/soap/envelope/"'
    ' xmlns:ebppif1="urn:PaymentServer"><SOAP-ENV:Body>'
)
_TAIL = "</SOAP-ENV:Body></SOAP-ENV:Envelope>"
_ITEMS_MAX = 500

Items = Iterable[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A SOAP reply. `repr` shows no details: they may hold a masked card number.

    Args:
        name: local name of the body's element.
        error: of a fault: an action code, or -1.
        action: 4 accepted and awaiting confirmation, 10 finished; None when not told.
    """

    name: str
    error: int | None = None
    payment_id: str = ""
    payment_ref: str = ""
    action: int | None = None
    details: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def final_code(self) -> int | None:
        """The authorisation's final action code, when told."""
        return _number(self.details.get("auth_action_code_final"))

    @property
    def amount(self) -> int | None:
        """The amount it speaks of, in tiyin, when told."""
        value = self.details.get("transaction_amount", self.details.get("amount"))
        return _number(value)

    @property
    def currency(self) -> str | None:
        return self.details.get("ccy_code")


@dataclass(frozen=True, slots=True)
class CardInfo:
    """What of a card's information is used. `expiry` is YYMM, when told."""

    action_code: int
    is_phone_on: bool
    phone: str | None = field(default=None, repr=False)
    expiry: str | None = field(default=None, repr=False)


def unreadable() -> OutcomeUnknown:
    return OutcomeUnknown("reply-unreadable")


def _tag(name: str, value: str) -> str:
    return f"<ebppif1:{name}>{escape(value)}</ebppif1:{name}>"


def _item(name: str, value: str) -> str:
    return (
        f"<ebppif1:item><ebppif1:name>{escape(name)}</ebppif1:name>"
        f"<ebppif1:value>{escape(value)}</ebppif1:value></ebppif1:item>"
    )


def _details(items: Items) -> str:
    return f"<ebppif1:details>{''.join(_item(*item) for item in items)}</ebppif1:details>"


def _message(element: str, content: str, attributes: str = "") -> bytes:
    return (f"{_HEAD}<ebppif1:{element}{attributes}>{content}</ebppif1:{element}>{_TAIL}").encode()


def create(biller: str, reference: str, items: Items, originator: str) -> bytes:
    """Create a payment: `paymentRef` and `sessionID` are our reference."""
    return _message(
        "Payment",
        _tag("language", "en")
        + _tag("billerRef", biller)
        + _tag("payinstrRef", biller)
        + _tag("sessionID", reference)
        + _tag("paymentRef", reference)
        + _details(items)
        + _tag("paymentOriginator", originator),
    )


def create_transfer(switching: str, reference: str, items: Items, originator: str) -> bytes:
    """Create a card to card transfer."""
    return _message(
        "Request",
        _tag("language", "en")
        + f"<ebppif1:switchingID>{_tag('value', switching)}</ebppif1:switchingID>"
        + _tag("autoSwitch", "1")
        + _tag("paymentRef", reference)
        + _details(items)
        + _tag("paymentOriginator", originator),
        ' SOAP-ENV:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"',
    )


def confirm(reference: str, originator: str, amount_minor: int | None = None) -> bytes:
    """Finish a created payment, for a smaller amount when one is given."""
    items = [] if amount_minor is None else [("amount", str(amount_minor))]
    return _message(
        "Payment",
        _tag("paymentRef", reference)
        + (_details(items) if items else "")
        + _tag("confirmed", "true")
        + _tag("finished", "true")
        + _tag("paymentOriginator", originator),
    )


def cancel(reference: str, originator: str) -> bytes:
    """Undo a payment that is not finished."""
    return _message(
        "CancelRequest", _tag("paymentRef", reference) + _tag("paymentOriginator", originator)
    )


def give_back(reference: str, items: Items, originator: str) -> bytes:
    """Refund a finished payment; its items stand bare, outside of `details`."""
    return _message(
        "ReturnPayment",
        _tag("paymentRef", reference)
        + "".join(_item(*item) for item in items)
        + _tag("paymentOriginator", originator),
    )


def get_payment(reference: str, originator: str) -> bytes:
    """Ask what became of a payment."""
    return _message(
        "GetPayment",
        _tag("paymentRef", reference)
        + _tag("sessionID", "")
        + _tag("paymentOriginator", originator),
    )


def decode(body: bytes) -> Reply:
    """Read a SOAP reply.

    Raises:
        OutcomeUnknown: it is not one.
    """
    content = _body(body)
    name = _local(content)
    if name == "Fault":
        error = next(
            (_number(node.text) for node in content.iter() if _local(node) == "error"), None
        )
        if error is None:
            raise unreadable()
        return Reply(name=name, error=error)
    values: dict[str, str] = {}
    details: dict[str, str] = {}
    for child in content:
        if _local(child) == "details":
            details = _read_items(child)
        elif not len(child):
            values[_local(child)] = _text(child)
    action = values.get("action") or details.get("action")
    return Reply(
        name=name,
        payment_id=values.get("paymentID", ""),
        payment_ref=values.get("paymentRef", ""),
        action=_number(action),
        details=details,
    )


def _body(document: bytes) -> Any:
    """The element inside of the SOAP body."""
    # A parser holds state and is not shared; making one costs less than reading a reply.
    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, huge_tree=False, recover=False
    )
    try:
        root = etree.fromstring(document, parser)
    except (etree.XMLSyntaxError, ValueError):
        raise unreadable() from None
    if root is None or root.getroottree().docinfo.internalDTD is not None:
        raise unreadable()
    for child in root:
        if _local(child) == "Body" and len(child):
            return child[0]
    raise unreadable()


def _local(node: Any) -> str:
    """Local name; empty for comments and the like."""
    tag = node.tag
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _text(node: Any) -> str:
    text = (node.text or "").strip()
    if len(text) > 4_096 or (len(node) and _local(node[0]) == ""):
        raise unreadable()
    return text


def _read_items(details: Any) -> dict[str, str]:
    items: dict[str, str] = {}
    for item in details:
        if len(items) >= _ITEMS_MAX:
            raise unreadable()
        name = value = ""
        for node in item:
            tag = _local(node)
            if tag == "name":
                name = _text(node)
            elif tag == "value":
                value = _text(node)
        if name:
            items[name] = value
    return items


def _number(text: str | None) -> int | None:
    """Digits with an optional minus; None when absent or anything else."""
    if text is None or len(text) > 18:
        return None
    text = text.strip()
    digits = text.removeprefix("-")
    return int(text) if digits.isascii() and digits.isdigit() else None


def encode_card(pan: str, request_id: str) -> bytes:
    """Ask for a card's information."""
    return msgspec.json.encode(
        {"id": request_id, "params": {"primaryAccountNumber": pan, "mb_flag": 1}}
    )


def decode_card(body: bytes) -> CardInfo | int:
    """Read a card's information, or the code of the error that came instead."""
    try:
        message = msgspec.json.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise unreadable() from None
    message = _object(message)
    error = message.get("error")
    if error is not None:
        code = _number(str(_object(error).get("code")))
        if code is None:
            raise unreadable()
        return code
    result = _object(message.get("result"))
    card = _object(result.get("card"))
    items = _object(card.get("statuses")).get("item")
    codes = [
        _number(str(item.get("actionCode")))
        for item in (items if isinstance(items, list) else [items])
        if isinstance(item, dict) and item.get("type") == "card"
    ]
    if len(codes) != 1 or codes[0] is None:
        raise unreadable()
    phone_service = result.get("mb")
    phone_service = phone_service if isinstance(phone_service, dict) else {}
    phone = phone_service.get("phone")
    expiry = card.get("expiry")
    return CardInfo(
        action_code=codes[0],
        is_phone_on=phone_service.get("state") == "on",
        phone="+" + phone.removeprefix("+") if isinstance(phone, str) and phone else None,
        expiry=expiry if isinstance(expiry, str) and len(expiry) == 4 else None,
    )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise unreadable()
    return value
