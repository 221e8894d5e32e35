"""SVGate's results to the common taxonomy. Codes only: message texts are never read.

A code that is not here is `PENDING`: it is asked about, never guessed.
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


ERRORS = _table(
    (
        (Outcome.PENDING, (-301, -302, -307, *range(-311, -307))),
        (Outcome.DUPLICATE, (-207,)),
        (Outcome.INSUFFICIENT_FUNDS, (-239, -240, -260)),
        (Outcome.LIMIT_AMOUNT, (-262,)),
        (Outcome.LIMIT_COUNT, (-381,)),
        (Outcome.INVALID_CARD, (-200, -202, -212, -257, -382)),
        (Outcome.EXPIRED_CARD, (-201, -216)),
        (Outcome.CARD_BLOCKED, (-204, -205, -261)),
        (Outcome.NOT_PERMITTED_CARD, (-258, -383, -398)),
        (
            Outcome.NOT_PERMITTED_TERMINAL,
            (-236, -255, -268, -286, -298, -316, -318, -374, -387),
        ),
        (Outcome.OTP_WRONG, (-269,)),
        (Outcome.OTP_EXPIRED, (-270, -314, -317, -294)),
        (Outcome.OWNER_MISMATCH, (-277, -320, -224, -392, -393)),
        (Outcome.FRAUD_SUSPECT, (-333,)),
        (Outcome.ORIGINAL_NOT_FOUND, (-208, -267, -282, -242)),
        (Outcome.ALREADY_REVERSED, (-389,)),
        (Outcome.ISSUER_UNAVAILABLE, (-244,)),
        (
            Outcome.SWITCH_UNAVAILABLE,
            (-211, -300, *range(-306, -302), *range(-604, -399), *range(-357, -349)),
        ),
        (
            Outcome.FORMAT_ERROR,
            (-100, -103, -199, -209, -251, -252, -329, -330, -384, -385, -386),
        ),
        (Outcome.INVALID_AMOUNT, (-245, -259, -241)),
        (Outcome.INVALID_MERCHANT, (-237, -247, -264, -388)),
        (Outcome.SECURITY, (-321, -322)),
        (Outcome.AUTH_CLIENT, (-256, -291, -319)),
        # JSON-RPC's own: the request was not carried out.
        (Outcome.FORMAT_ERROR, (-32700, -32600, -32601, -32602)),
    )
)
"""`error.code` of a JSON-RPC reply."""

RESPONSES = _table(
    (
        (Outcome.APPROVED, (0,)),
        (Outcome.PENDING, (68,)),
        (Outcome.DUPLICATE, (94,)),
        (Outcome.INSUFFICIENT_FUNDS, (51,)),
        (Outcome.LIMIT_AMOUNT, (61,)),
        (Outcome.LIMIT_COUNT, (65,)),
        (Outcome.INVALID_CARD, (14, 15)),
        (Outcome.EXPIRED_CARD, (54,)),
        (Outcome.CARD_BLOCKED, (62, 78)),
        (Outcome.PICKUP, (4, 7, 41, 43)),
        (Outcome.NOT_PERMITTED_CARD, (52, 53, 57)),
        (Outcome.NOT_PERMITTED_TERMINAL, (58,)),
        (Outcome.PIN_WRONG, (55,)),
        (Outcome.PIN_TRIES, (75,)),
        (Outcome.FRAUD_SUSPECT, (59,)),
        (Outcome.ORIGINAL_NOT_FOUND, (25, 76)),
        (Outcome.ISSUER_UNAVAILABLE, (91,)),
        (Outcome.SWITCH_UNAVAILABLE, (92, 96)),
        (Outcome.FORMAT_ERROR, (12, 30)),
        (Outcome.INVALID_AMOUNT, (13,)),
        (Outcome.INVALID_MERCHANT, (3,)),
        (Outcome.SECURITY, (63,)),
        (Outcome.DO_NOT_HONOR, (1, 2, 5)),
    )
)
"""`resp` of a transaction: ISO 8583's two digits as a number."""

CARD_STATUSES = {
    0: Outcome.APPROVED,
    **dict.fromkeys((1, 2, 3, 4, 15, 16), Outcome.DO_NOT_HONOR),
    5: Outcome.NOT_PERMITTED_CARD,
    **dict.fromkeys((6, 7, 8, 10, 11), Outcome.PICKUP),
    9: Outcome.INVALID_CARD,
    **dict.fromkeys((12, 18, 20, 21), Outcome.CARD_BLOCKED),
    13: Outcome.PIN_TRIES,
    **dict.fromkeys((14, 17), Outcome.PIN_WRONG),
    19: Outcome.FRAUD_SUSPECT,
}
"""`status` of a card object."""


def of_error(code: int) -> Outcome:
    """What a JSON-RPC error means."""
    return ERRORS.get(code, Outcome.PENDING)


def of_response(code: int) -> Outcome:
    """What a transaction's `resp` means."""
    return RESPONSES.get(code, Outcome.PENDING)


def of_code(code: str) -> Outcome | None:
    """What a code in a callback means; None when it is none of ours."""
    try:
        number = int(code)
    except ValueError:
        return None
    return ERRORS.get(number) if number < 0 else RESPONSES.get(number)
