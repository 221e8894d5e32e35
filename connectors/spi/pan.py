"""A card's number as a type of its own, which nothing prints, stores or sends by accident."""

import hmac
from typing import NoReturn

LENGTH_MIN, LENGTH_MAX = 12, 19


class Pan:
    """A primary account number (ISO/IEC 7812-1).

    `repr`, `str`, `format` and an f-string show no digit of it; it cannot be pickled, hashed or
    turned into JSON. Whoever needs the digits calls `reveal()`, where that can be seen and searched
    for: to seal them, or to write them into a processor's message.

    Args:
        digits: 12 to 19 ASCII digits; the check digit is looked at where a number comes in.

    Raises:
        ValueError: it is something else; the text does not say what.
    """

    __slots__ = ("_digits",)

    def __init__(self, digits: str) -> None:
        is_number = digits.isascii() and digits.isdigit()
        if not (is_number and LENGTH_MIN <= len(digits) <= LENGTH_MAX):
            raise ValueError("a card's number has 12 to 19 digits")
        self._digits = digits

    def reveal(self) -> str:
        """Return the digits."""
        return self._digits

    @property
    def first6(self) -> str:
        """The issuer's part, which may be shown."""
        return self._digits[:6]

    @property
    def last4(self) -> str:
        """The last four digits, which may be shown."""
        return self._digits[-4:]

    def __repr__(self) -> str:
        return "Pan(...)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pan):
            return NotImplemented
        return hmac.compare_digest(self._digits, other._digits)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a card's number is not pickled")
