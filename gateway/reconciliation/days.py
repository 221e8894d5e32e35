"""Business days of Tashkent, and the ids that were given out in a span of them. Pure."""

from datetime import UTC, date, datetime, timedelta, timezone

from gateway.kernel.ids import ALPHABET, LENGTH

TASHKENT = timezone(timedelta(hours=5))


FIRST_DAY = date(2020, 1, 1)
"""Of which no report can be any more."""


def can_be_reported(day: date, now_ms: int) -> bool:
    """Whether there can be a report of a business day."""
    return FIRST_DAY <= day <= business_day(now_ms)


def business_day(at_ms: int) -> date:
    """Return the business day of a moment, Unix milliseconds."""
    return datetime.fromtimestamp(at_ms / 1000, TASHKENT).date()


def begins_ms(day: date) -> int:
    """Return the moment a business day begins, Unix milliseconds."""
    return round(datetime(day.year, day.month, day.day, tzinfo=TASHKENT).timestamp() * 1000)


def first_id(prefix: str, at_ms: int) -> str:
    """Return what every id of that prefix given out from a moment on is no less than."""
    number, digits = at_ms << 80, []
    for _ in range(LENGTH):
        digits.append(ALPHABET[number & 31])
        number >>= 5
    return prefix + "".join(reversed(digits))


def utc(at_ms: int) -> datetime:
    """Return a moment as the database takes it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC)
