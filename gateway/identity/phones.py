"""Phone numbers: one written form (E.164), whatever the customer typed."""

import phonenumbers

HOME_REGION = "UZ"
TEXT_LENGTH_MAX = 32


def normalise(text: str) -> str | None:
    """Return the number as E.164 (`+998901234567`), or None when no plan has such a number.

    Args:
        text: with or without a country code; without one it is a number of Uzbekistan.
    """
    digits = text.strip()
    if len(digits) > TEXT_LENGTH_MAX or not digits.isascii():
        return None
    if digits.startswith("998") and len(digits) == 12:
        digits = f"+{digits}"
    try:
        number = phonenumbers.parse(digits, HOME_REGION)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
