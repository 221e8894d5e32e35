"""A card's number shows itself to nobody who does not ask for it by name."""

import json
import pickle

import msgspec
import pytest

from connectors.spi import CardData, Pan

DIGITS = "8600000000000015"


def test_no_text_of_a_number_has_its_digits() -> None:
    """`repr`, `str`, `format`, f-strings and the repr of whatever holds it."""
    pan = Pan(DIGITS)
    texts = [repr(pan), str(pan), f"{pan}", f"{pan!r:>30}", f"{pan}", f"{[pan]}"]
    texts.append(repr(CardData("uzcard", pan, expiry="3012")))
    for text in texts:
        assert not any(character.isdigit() for character in text), text
    assert "3012" not in texts[-1]


@pytest.mark.parametrize("write", [pickle.dumps, json.dumps, msgspec.json.encode, hash])
def test_a_number_is_not_written_by_accident(write: object) -> None:
    """Nothing turns it into bytes, and it is no key of a table."""
    assert callable(write)
    with pytest.raises(TypeError) as refused:
        write(Pan(DIGITS))
    assert DIGITS not in str(refused.value)


@pytest.mark.parametrize("wrong", ["", "86000000000", "8" * 20, "8600 0000 0000 0015", "٨" * 16])
def test_what_is_no_number_is_refused_without_being_told(wrong: str) -> None:
    """The error does not echo what was given."""
    with pytest.raises(ValueError, match="12 to 19 digits") as refused:
        Pan(wrong)
    assert not wrong or wrong not in str(refused.value)


def test_numbers_are_equal_by_their_digits() -> None:
    """And what may be shown of one is its first six and last four."""
    assert Pan(DIGITS) == Pan(DIGITS)
    assert Pan(DIGITS) != Pan("9860000000000018")
    assert Pan(DIGITS) != DIGITS
    assert (Pan(DIGITS).first6, Pan(DIGITS).last4) == ("860000", "0015")
    assert Pan(DIGITS).reveal() == DIGITS
