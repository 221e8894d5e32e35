"""The simulators' clock: the machine's, moved forward by `POST /_sim/clock`.

Holds and one-time codes age by it; nothing here ever goes back, except at a reset.
"""

import time
from datetime import UTC, datetime


class SimClock:
    """Wall clock of one scheme with an offset.

    Durations on it are of wall time: what it serves are the processor's time stamps and the ages
    of holds in days, which a real processor also takes from its calendar.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self._second = -1
        self._date7 = ""
        self._date12 = ""

    def now_ms(self) -> int:
        """Return Unix milliseconds, UTC, as this scheme sees them."""
        return time.time_ns() // 1_000_000 + self.offset_ms

    def advance(self, seconds: float) -> None:
        """Move the clock forward. Args: seconds, not negative."""
        self.offset_ms += round(seconds * 1000)

    def reset(self) -> None:
        """Go back to the machine's time."""
        self.offset_ms = 0

    def stamps(self, moment_ms: int) -> tuple[str, str]:
        """Return ISO 8583 F7 `MMDDhhmmss` and F12:1993 `YYMMDDhhmmss` of a moment, UTC.

        The last second is kept: at thousands of messages a second formatting would show.
        """
        second = moment_ms // 1000
        if second != self._second:
            self._date12 = time.strftime("%y%m%d%H%M%S", time.gmtime(second))
            self._date7 = self._date12[2:]
            self._second = second
        return self._date7, self._date12

    def is_past_expiry(self, expiry: str) -> bool:
        """Tell whether a card's expiry `YYMM` (valid through its month) has passed."""
        return self.stamps(self.now_ms())[1][:4] > expiry


def rfc3339(moment_ms: int) -> str:
    """Format Unix milliseconds as RFC 3339, UTC, with milliseconds."""
    text = datetime.fromtimestamp(moment_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{moment_ms % 1000:03d}Z"
