"""The one place where clocks are read; everything else takes the time as an argument."""

import os
import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns Unix milliseconds, UTC."""

# A sandbox's worker may be told to believe in another time; nobody else can be.
_SHIFT_MS = (
    round(float(os.environ.get("OQIM_CLOCK_SHIFT_S", "0")) * 1000)
    if os.environ.get("OQIM_SANDBOX") == "1"
    else 0
)
# Linux's goes on while the machine sleeps; elsewhere the monotonic clock has to do.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def system_clock() -> int:
    """Return Unix milliseconds, UTC."""
    return time.time_ns() // 1_000_000 + _SHIFT_MS


def steady_s() -> float:
    """Return seconds that never jump: for leases, against what other hosts count."""
    return time.clock_gettime(_STEADY)
