"""HUMO's action codes (ISO 8583:1993, three digits) to the common taxonomy.

Unlisted codes of the 1xx family are declines and of the 2xx family pick-ups; any other unlisted
code says nothing of the money and is `PENDING`.
"""

from collections.abc import Iterable

from connectors.spi.outcome import Outcome


def _table(rows: Iterable[tuple[Outcome, Iterable[int]]]) -> dict[int, Outcome]:
    table: dict[int, Outcome] = {}
    for outcome, codes in rows:
        for code in codes:
            assert code not in table, f"{code} is mapped twice"
            table[code] = outcome
    return table


ACTIONS = _table(
    (
        (Outcome.APPROVED, (0, 1, 3, 4, 5, 6, 7, 400)),
        # 002 is an approval of a part.
        (Outcome.APPROVED_PARTIAL, (2,)),
        (Outcome.PENDING, (909, 911)),
        (Outcome.DUPLICATE, (913,)),
        (Outcome.INSUFFICIENT_FUNDS, (116,)),
        (Outcome.LIMIT_AMOUNT, (121,)),
        (Outcome.LIMIT_COUNT, (123,)),
        (Outcome.INVALID_CARD, (111, 118)),
        (Outcome.EXPIRED_CARD, (101, 201)),
        (Outcome.CARD_BLOCKED, (104, 125, 280, 281)),
        (Outcome.PICKUP, (200, 203, 204, 205, 207, 208, 209)),
        (Outcome.NOT_PERMITTED_CARD, (115, 119)),
        (Outcome.NOT_PERMITTED_TERMINAL, (120,)),
        (Outcome.FRAUD_SUSPECT, (102, 129, 202, 210)),
        (Outcome.ORIGINAL_NOT_FOUND, (914, 601, 602, 603)),
        (Outcome.ISSUER_UNAVAILABLE, (907, 910, 912)),
        (Outcome.SWITCH_UNAVAILABLE, (906,)),
        # -1 is the gateway's own validation.
        (Outcome.FORMAT_ERROR, (-1, 902, 904)),
        (Outcome.INVALID_AMOUNT, (110,)),
        (Outcome.INVALID_MERCHANT, (103, 109)),
        (Outcome.PIN_WRONG, (112, 117, 126, 127, 128)),
        (Outcome.PIN_TRIES, (106, 206)),
        (Outcome.SECURITY, (122, 916, 917, 918, 919, 920)),
        (Outcome.DO_NOT_HONOR, (100, 107, 108)),
    )
)

_FAMILIES = {1: Outcome.DO_NOT_HONOR, 2: Outcome.PICKUP}


def of_action(code: int) -> Outcome:
    """What an action code means."""
    if code in ACTIONS:
        return ACTIONS[code]
    return _FAMILIES.get(code // 100, Outcome.PENDING) if 100 <= code <= 999 else Outcome.PENDING


def of_code(code: str) -> Outcome | None:
    """What a code in a callback means; None when it is none of HUMO's."""
    try:
        number = int(code)
    except ValueError:
        return None
    return of_action(number)
