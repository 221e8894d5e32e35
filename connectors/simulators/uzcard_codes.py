"""SVGate's error codes, as far as the simulator says them."""

MESSAGES: dict[int, str] = {
    -32700: "Parse error",
    -32601: "Method not found",
    -32600: "Invalid request",
    -103: "Invalid parameters",
    -200: "Card not found",
    -201: "Card expired",
    -202: "Card expiry does not match",
    -204: "Card is blocked",
    -205: "Card is lost or stolen",
    -207: "Transaction with this ext already exists",
    -208: "Transaction not found",
    -236: "Terminal not found",
    -237: "Merchant not found",
    -239: "Insufficient funds for hold",
    -240: "Insufficient funds",
    -241: "Wrong hold period",
    -242: "Hold not found",
    -244: "Issuer is not available",
    -245: "Invalid amount",
    -256: "Access denied",
    -257: "Card token not found",
    -261: "Card is temporarily blocked until",
    -267: "Transaction by ext not found",
    -269: "Wrong one-time code",
    -270: "One-time code expired",
    -277: "Phone number does not match the card",
    -333: "Suspected fraud",
    -380: "Transaction is successful, use trans.reverse",
    -389: "Transaction is already reversed",
}

# "Ask trans.ext later": the money may have moved, so the simulator moves it and then says this.
ASK_LATER = frozenset({-207, -301, -302, -307, -308, -309, -310, -311})

# The switch or the issuer was away, or the caller was refused: the same ext may be tried again.
RETRYABLE = frozenset({-211, -244, -256, -291, -300, -303, -304, -305, -306, -319}) | frozenset(
    range(-604, -399)
)

# What `resp` a declined transaction shows, by the error that it was answered with.
RESP_OF: dict[int, int] = {
    -200: 14,
    -201: 54,
    -202: 54,
    -204: 62,
    -205: 43,
    -236: 58,
    -237: 3,
    -239: 51,
    -240: 51,
    -260: 51,
    -244: 91,
    -245: 13,
    -262: 61,
    -333: 59,
    -381: 65,
}
RESP_DEFAULT = 5

STATUS_CODES: dict[str, int] = {
    "active": 0,
    "blocked": 12,
    "lost": 6,
    "stolen": 7,
    "restricted": 5,
    "fraud": 19,
}
CARD_STATUS_MAX = 21
EXPIRED = "expired"

_REFUSAL_OF_STATUS: dict[int, int] = {6: -205, 7: -205, 9: -200, 10: -205, 19: -333}


def card_status(status: str) -> int:
    """Return the processor's number (0 to 21) of a card status word or number."""
    if status == EXPIRED:
        return 0
    code = STATUS_CODES.get(status)
    return int(status) if code is None else code


def refusal_of_status(status: str) -> int:
    """Return the error that a card in this status is refused with; 0 when it is usable."""
    if status == EXPIRED:
        return -201
    number = card_status(status)
    return 0 if number == 0 else _REFUSAL_OF_STATUS.get(number, -204)
