"""VISA's messages as fields: built from an instruction alone, answers compared with it. Pure.

F7 (MMDDhhmmss UTC), F11 and F37 (YDDDHH and F11) derive from the attempt's time and sequence, so
that a message made again after a crash is the same message. Field by field encoding is the core's.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from connectors.spi.types import CardData, Instruction, Kind, Merchant
from connectors.transport.correlation import Fields

CURRENCIES = {
    "AED": "784",
    "CHF": "756",
    "CNY": "156",
    "EUR": "978",
    "GBP": "826",
    "KGS": "417",
    "KZT": "398",
    "RUB": "643",
    "TJS": "972",
    "TRY": "949",
    "USD": "840",
    "UZS": "860",
}
_ALPHA = {number: name for name, number in CURRENCIES.items()}

AMOUNT_MAX = 10**12 - 1

PROCESSING = {
    Kind.PURCHASE: "000000",
    Kind.HOLD: "000000",
    Kind.DEBIT: "100000",
    Kind.CREDIT: "260000",
}
REFUND = "200000"

ECOMMERCE, PREAUTHORISED, ACCOUNT_CHECK = "59", "06", "51"

_TRACE_MAX = 999_999


@dataclass(frozen=True, slots=True)
class Names:
    """What a message is known by: transmission time (F7), trace (F11) and reference (F37)."""

    transmitted: str
    trace: str
    reference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquirer:
    """Who sends: acquiring institution (F32), its country (F19), entry mode (F22)."""

    acquirer_id: str
    country_code: str
    entry_mode: str


def names(*, sequence: int, created_at_ms: int) -> Names:
    """The names of the message of that sequence and time."""
    transmitted, hour = _moment(created_at_ms // 1000)
    trace = f"{1 + sequence % _TRACE_MAX:06d}"
    return Names(transmitted=transmitted, trace=trace, reference=hour + trace)


@lru_cache(maxsize=64)
def _moment(at_s: int) -> tuple[str, str]:
    """MMDDhhmmss, and YDDDhh with the last digit of the year, of a second in UTC."""
    moment = datetime.fromtimestamp(at_s, tz=UTC)
    return f"{moment:%m%d%H%M%S}", f"{moment.year % 10}{moment:%j%H}"


def _text(value: str, width: int) -> str:
    """Printable ASCII, cut and padded to the field's width: a name is never a reason to fail."""
    if not (value.isascii() and value.isprintable()):
        value = "".join(char if " " <= char <= "~" else "?" for char in value)
    return value[:width].ljust(width)


@lru_cache(maxsize=4096)
def _acceptor(merchant: Merchant) -> tuple[str, str, str]:
    """F41 to F43: terminal, acceptor, and its name and location."""
    location = _text(merchant.name, 25) + _text(merchant.city, 13) + _text(merchant.country, 2)
    return _text(merchant.terminal_id, 8), _text(merchant.id, 15), location


def _common(
    card: CardData, merchant: Merchant, acquirer: Acquirer, message: Names, condition: str
) -> Fields:
    fields: Fields = {
        2: card.pan.reveal(),
        7: message.transmitted,
        11: message.trace,
        18: merchant.mcc,
        19: acquirer.country_code,
        22: acquirer.entry_mode,
        25: condition,
        32: acquirer.acquirer_id,
        37: message.reference,
    }
    fields[41], fields[42], fields[43] = _acceptor(merchant)
    if card.expiry is not None:
        fields[14] = card.expiry
    return fields


def _of(instruction: Instruction, acquirer: Acquirer, message: Names) -> Fields:
    """The fields that every message about an attempt carries."""
    condition = PREAUTHORISED if instruction.kind is Kind.HOLD else ECOMMERCE
    fields = _common(instruction.card, instruction.merchant, acquirer, message, condition)
    fields[3] = PROCESSING[instruction.kind]
    fields[4] = f"{instruction.amount_minor:012d}"
    fields[49] = CURRENCIES[instruction.currency]
    return fields


def original_names(instruction: Instruction) -> Names:
    """The names of an attempt's authorisation."""
    return names(sequence=instruction.sequence, created_at_ms=instruction.created_at_ms)


def original_data(instruction: Instruction, acquirer: Acquirer) -> str:
    """F90 of an attempt: MTI 4, trace 6, transmission time 10, acquirer 11, forwarder 11."""
    original = original_names(instruction)
    return f"0100{original.trace}{original.transmitted}{acquirer.acquirer_id:0>11}{'':0>11}"


def authorisation(instruction: Instruction, acquirer: Acquirer) -> Fields:
    """0100 of an attempt."""
    return _of(instruction, acquirer, original_names(instruction))


def completion(instruction: Instruction, acquirer: Acquirer, amount_minor: int) -> Fields:
    """0120 (repeated as 0121) that a hold is taken, for as much as is taken."""
    fields = _reversing(instruction, acquirer)
    fields[4] = f"{amount_minor:012d}"
    return fields


def reversal(instruction: Instruction, acquirer: Acquirer) -> Fields:
    """0400, or 0420 (repeated as 0421), of an attempt."""
    return _reversing(instruction, acquirer)


def _reversing(instruction: Instruction, acquirer: Acquirer) -> Fields:
    fields = _of(instruction, acquirer, original_names(instruction))
    approval_code = instruction.references.get("approval_code", "")
    if approval_code:
        fields[38] = _text(approval_code, 6)
    fields[90] = original_data(instruction, acquirer)
    return fields


def refund(
    instruction: Instruction, acquirer: Acquirer, *, sequence: int, amount_minor: int
) -> Fields:
    """0100 that gives money back, named by the refund's own sequence."""
    message = names(sequence=sequence, created_at_ms=instruction.created_at_ms)
    fields = _of(instruction, acquirer, message)
    fields[3] = REFUND
    fields[4] = f"{amount_minor:012d}"
    fields[25] = ECOMMERCE
    fields[90] = original_data(instruction, acquirer)
    return fields


def account_check(card: CardData, merchant: Merchant, acquirer: Acquirer, message: Names) -> Fields:
    """0100 of nothing, which asks whether an account is good."""
    fields = _common(card, merchant, acquirer, message, ACCOUNT_CHECK)
    fields[3] = "000000"
    fields[4] = f"{0:012d}"
    fields[49] = CURRENCIES["UZS"]
    return fields


def is_echo(request: Fields, answer: Fields, *, is_money: bool) -> bool:
    """Whether an answer speaks of what was asked: every name it repeats must be the one sent.

    Args:
        is_money: amount and currency must be repeated, not only agree when they are.
    """
    for number in (2, 3, 4, 7, 11, 32, 37, 41, 42, 49):
        if number in answer and answer[number] != request.get(number):
            return False
    return not is_money or (4 in answer and 49 in answer)


def text(fields: Fields, number: int) -> str | None:
    """A text field without its padding; None when absent or blank."""
    value = fields.get(number)
    return (value.strip() or None) if isinstance(value, str) else None


def currency_name(number: str | bytes | None) -> str | None:
    """ISO 4217 alpha-3 of a numeric code, when it is one we know."""
    return _ALPHA.get(number) if isinstance(number, str) else None
