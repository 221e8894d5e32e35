"""The one place where wall-clock time is read; everything else takes it as an argument."""

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns Unix milliseconds, UTC."""


def system_clock() -> int:
    """Return Unix milliseconds, UTC."""
    return time.time_ns() // 1_000_000
