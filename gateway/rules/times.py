"""Moments of rules: Unix milliseconds inside, `timestamptz` in the database, RFC 3339 outside."""

import re
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
# As the core reads it: no lower case, no space for the T, seconds never left out.
_RFC3339 = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})\Z", re.ASCII
)


def moment(at_ms: int) -> datetime:
    """Return Unix milliseconds as the database's time."""
    return _EPOCH + at_ms * _MILLISECOND


def moment_or_none(at_ms: int | None) -> datetime | None:
    """Return the database's time of what may have no moment."""
    return None if at_ms is None else moment(at_ms)


def millis(at: datetime) -> int:
    """Return the database's time as Unix milliseconds, rounded down."""
    return (at - _EPOCH) // _MILLISECOND


def millis_or_none(at: datetime | None) -> int | None:
    """Return Unix milliseconds of what may have no moment."""
    return None if at is None else millis(at)


def parsed(text: str) -> int | None:
    """Return the Unix milliseconds of an RFC 3339 time with an offset, or None."""
    if not _RFC3339.match(text):
        return None
    try:
        return millis(datetime.fromisoformat(text))
    except (ValueError, OverflowError):
        return None
