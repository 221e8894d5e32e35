"""A line of a history: read strictly, member by member, before anything is decided on it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .windows import MILLISECOND

AMOUNT_MAX = 10**15
TEXT_BYTES_MAX = 128
OPERATIONS = ("purchase", "transfer", "payout")
FACTS = (
    "source_scheme",
    "destination_scheme",
    "source_card",
    "destination_card",
    "issuer_bin",
    "user",
    "merchant",
    "mcc",
    "country",
    "tier",
    "channel",
    "device",
)
"""What may be absent, or null."""

EVENTS: Mapping[str, frozenset[str]] = {
    "pay": frozenset({"operation", "amount", "currency", *FACTS}),
    "decline": frozenset(),
    "cancel": frozenset(),
    "capture": frozenset({"amount"}),
    "refund": frozenset({"amount"}),
}
"""What each event is read for, besides `at`, `event` and `id`. What happens later may repeat what
the payment said; it is passed over."""

_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")
_CURRENCY = re.compile(r"[A-Z]{3}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class MalformedLine(Exception):
    """A line that cannot be read; it says why."""


def read_line(text: str | bytes) -> dict[str, Any]:
    """Read one line.

    Returns:
        Its members, with `at` as a datetime; a fact that is absent is not there.

    Raises:
        MalformedLine: it is not an object of these members.
    """
    try:
        line = json.loads(text, object_pairs_hook=_members)
    except ValueError as error:
        raise MalformedLine(str(error)) from None
    if not isinstance(line, dict):
        raise MalformedLine("not an object")
    event = _text(line, "event")
    if event not in EVENTS:
        raise MalformedLine(f"no such event: {event}")
    unknown = line.keys() - EVENTS["pay"] - {"at", "event", "id"}
    if unknown:
        raise MalformedLine(f"not known: {', '.join(sorted(unknown))}")
    _text(line, "id")
    if "amount" in EVENTS[event]:
        _check_amount(line)
    if event == "pay":
        _check_payment(line)
    return line | {"at": _moment(line.get("at"))}


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise MalformedLine("a member is there twice")
    return members


def _check_payment(line: Mapping[str, Any]) -> None:
    if _text(line, "operation") not in OPERATIONS:
        raise MalformedLine("no such operation")
    if not _CURRENCY.fullmatch(_text(line, "currency")):
        raise MalformedLine("currency is not three capital letters")
    for key in FACTS:
        if line.get(key) is not None:
            _text(line, key)


def _text(line: Mapping[str, Any], key: str) -> str:
    value = line.get(key)
    if not isinstance(value, str):
        raise MalformedLine(f"{key} is not a text")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise MalformedLine(f"{key} has half a character") from None
    if not 1 <= size <= TEXT_BYTES_MAX or _CONTROL.search(value):
        raise MalformedLine(f"{key} is empty, too long, or has control characters")
    return value


def _check_amount(line: Mapping[str, Any]) -> None:
    amount = line.get("amount")
    if not isinstance(amount, int) or isinstance(amount, bool):
        raise MalformedLine("amount is not a whole number of minor units")
    if not 1 <= amount <= AMOUNT_MAX:
        raise MalformedLine("amount is out of range")


def _moment(value: object) -> datetime:
    if not isinstance(value, str) or not _MOMENT.fullmatch(value):
        raise MalformedLine("at is not a moment (RFC 3339)")
    try:
        at = datetime.fromisoformat(value)
    except ValueError as error:
        raise MalformedLine(f"at: {error}") from None
    # What is finer than a millisecond has no meaning here.
    return at - at.microsecond % 1000 * (MILLISECOND / 1000)
