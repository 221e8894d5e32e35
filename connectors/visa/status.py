"""VISA's response codes (F39) to the common taxonomy. A code that is not here is `PENDING`."""

from collections.abc import Iterable

from connectors.spi.outcome import Outcome


def _table(rows: Iterable[tuple[Outcome, Iterable[str]]]) -> dict[str, Outcome]:
    table: dict[str, Outcome] = {}
    for outcome, codes in rows:
        for code in codes:
            assert code not in table, f"{code} is mapped twice"
            table[code] = outcome
    return table


RESPONSES = _table(
    (
        (Outcome.APPROVED, ("00", "11", "85")),
        (Outcome.APPROVED_PARTIAL, ("10",)),
        (Outcome.PENDING, ("68",)),
        (Outcome.DUPLICATE, ("94",)),
        (Outcome.INSUFFICIENT_FUNDS, ("51",)),
        (Outcome.LIMIT_AMOUNT, ("61",)),
        (Outcome.LIMIT_COUNT, ("65",)),
        (Outcome.INVALID_CARD, ("14", "15")),
        (Outcome.EXPIRED_CARD, ("54",)),
        (Outcome.CARD_BLOCKED, ("62", "78")),
        (Outcome.PICKUP, ("04", "07", "41", "43")),
        (Outcome.NOT_PERMITTED_CARD, ("52", "53", "57")),
        (Outcome.NOT_PERMITTED_TERMINAL, ("58",)),
        (Outcome.PIN_WRONG, ("55", "86")),
        (Outcome.PIN_TRIES, ("75",)),
        (Outcome.FRAUD_SUSPECT, ("59",)),
        (Outcome.ORIGINAL_NOT_FOUND, ("21", "25", "76", "77")),
        (Outcome.ISSUER_UNAVAILABLE, ("91",)),
        (Outcome.SWITCH_UNAVAILABLE, ("92", "96")),
        (Outcome.FORMAT_ERROR, ("12", "30")),
        (Outcome.INVALID_AMOUNT, ("13",)),
        (Outcome.INVALID_MERCHANT, ("03",)),
        (Outcome.SECURITY, ("63", "81", "82", "N7")),
        # Law (93) and the issuer's wish for more authentication (1A) have no word of their own.
        (Outcome.DO_NOT_HONOR, ("01", "02", "05", "06", "19", "28", "80", "83", "93", "1A")),
    )
)

# What F39 of a reversal's answer settles: undone, or nothing there to undo.
REVERSALS = {
    "00": Outcome.APPROVED,
    "21": Outcome.ORIGINAL_NOT_FOUND,
    "25": Outcome.ORIGINAL_NOT_FOUND,
}


def of_response(code: str) -> Outcome:
    """What F39 of an authorisation's answer means."""
    return RESPONSES.get(code, Outcome.PENDING)


def of_reversal(code: str) -> Outcome:
    """What F39 of a reversal's answer means; anything unlisted is asked again."""
    return REVERSALS.get(code, Outcome.PENDING)


def of_code(code: str) -> Outcome | None:
    """What a code in a callback means; None when it is none of VISA's."""
    return RESPONSES.get(code)
