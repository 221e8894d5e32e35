"""Windows: what of the past still counts at a moment, and when it stops counting.

Calendar windows are those of Asia/Tashkent, UTC+5 without daylight saving, weeks from Monday. A
rolling window of W counts in buckets of W/60, cut from the Unix epoch on: what was taken in a
bucket counts until the whole bucket is older than W. So it is never generous, and late by W/60 at
most.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

TASHKENT = timezone(timedelta(hours=5))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
BUCKETS = 60

Window = Mapping[str, Any]


def is_counted(window: Window, taken_at: datetime, now: datetime) -> bool:
    """Return whether what was taken at one moment still counts at a later one."""
    if window["kind"] == "operation":
        return False
    if window["kind"] == "calendar":
        return _begin(window["unit"], now) <= taken_at
    return _bucket_end(window["seconds"], taken_at) > now - timedelta(seconds=window["seconds"])


def resets_at(window: Window, counted: Iterable[datetime], now: datetime) -> datetime | None:
    """Return when something that is counted leaves.

    Args:
        counted: the moments at which it was taken.

    Returns:
        A calendar window's end; of a rolling one the moment the oldest leaves, None when nothing
        is counted; None for a single operation.
    """
    if window["kind"] == "operation":
        return None
    if window["kind"] == "calendar":
        return _end(window["unit"], now)
    seconds = window["seconds"]
    ends = [_bucket_end(seconds, taken_at) for taken_at in counted]
    return min(ends) + timedelta(seconds=seconds) if ends else None


def _bucket_end(seconds: int, at: datetime) -> datetime:
    size = seconds * 1000 // BUCKETS * MILLISECOND
    return EPOCH + ((at - EPOCH) // size + 1) * size


def _begin(unit: str, at: datetime) -> datetime:
    local = at.astimezone(TASHKENT).replace(minute=0, second=0, microsecond=0)
    if unit == "hour":
        return local
    day = local.replace(hour=0)
    if unit == "day":
        return day
    if unit == "week":
        return day - timedelta(days=day.weekday())
    if unit == "month":
        return day.replace(day=1)
    if unit == "year":
        return day.replace(month=1, day=1)
    raise ValueError(f"no such unit: {unit}")


def _end(unit: str, at: datetime) -> datetime:
    begin = _begin(unit, at)
    if unit == "hour":
        return begin + timedelta(hours=1)
    if unit == "day":
        return begin + timedelta(days=1)
    if unit == "week":
        return begin + timedelta(weeks=1)
    if unit == "month":
        # The 1st and 31 days are always in the next month.
        return (begin + timedelta(days=31)).replace(day=1)
    return begin.replace(year=begin.year + 1)
