"""Card numbers: which ones a scheme accepts, how they are shown, and the token that names them.

A token is a reversible name of the PAN (a synthetic initialisation vector followed by the masked
digits), so that a token given out before a restart or a reset still names the same card, and so
that no journal holds a card number in the clear. The keys are fixed: these cards are not real.
"""

from hashlib import blake2b

TOKEN_KEY = b"oqim simulator card tokens"
MASK_KEY = b"oqim simulator token masks"
CHECK_BYTES = 8
LONG_PAN_NIBBLES = 20

BINS: dict[str, tuple[str, ...]] = {
    "uzcard": ("8600", "5614"),
    "humo": ("9860",),
    "visa": ("4",),
}
# UZCARD moves money to HUMO cards too, and gives tokens for them.
UZCARD_COUNTERPARTY_BINS = ("8600", "5614", "9860")

_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


def is_luhn_valid(pan: str) -> bool:
    """Tell whether `pan` is 12 to 19 ASCII digits with a right check digit (ISO/IEC 7812-1)."""
    if not (12 <= len(pan) <= 19 and pan.isascii() and pan.isdigit()):
        return False
    digits = pan.encode()
    total = sum(digits[-1::-2]) - 48 * len(digits[-1::-2])
    for digit in digits[-2::-2]:
        total += _DOUBLED[digit - 48]
    return total % 10 == 0


def is_accepted(pan: str, bins: tuple[str, ...]) -> bool:
    """Tell whether a scheme with these `bins` knows `pan` as one of its cards."""
    if not pan.startswith(bins) or not is_luhn_valid(pan):
        return False
    # Both local schemes issue 16 digits only; VISA has 13 to 19.
    return len(pan) == 16 or pan[0] == "4"


def masked(pan: str) -> str:
    """Return the first six and last four digits with stars between."""
    return f"{pan[:6]}{'*' * (len(pan) - 10)}{pan[-4:]}"


def token_of(pan: str) -> str:
    """Name a card: upper-case hex, 32 characters for a PAN of 16 digits, else 36."""
    nibbles = pan if len(pan) == 16 else pan.ljust(LONG_PAN_NIBBLES, "F")
    body = bytes.fromhex(nibbles)
    check = blake2b(body, key=TOKEN_KEY, digest_size=CHECK_BYTES).digest()
    return (check + _mask(check, body)).hex().upper()


def pan_of(token: str) -> str | None:
    """Return the PAN that `token` names, or None when it was never given out."""
    if len(token) not in (32, 36):
        return None
    try:
        raw = bytes.fromhex(token)
    except ValueError:
        return None
    check = raw[:CHECK_BYTES]
    body = _mask(check, raw[CHECK_BYTES:])
    if blake2b(body, key=TOKEN_KEY, digest_size=CHECK_BYTES).digest() != check:
        return None
    return body.hex().upper().rstrip("F")


def _mask(check: bytes, body: bytes) -> bytes:
    stream = blake2b(check, key=MASK_KEY, digest_size=len(body)).digest()
    return bytes(left ^ right for left, right in zip(body, stream, strict=True))
