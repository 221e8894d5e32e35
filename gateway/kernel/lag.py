"""How late the event loop is: whatever it does for long keeps everything else waiting."""

import asyncio

PERIOD_S = 0.1
_KEPT = 100


class LoopLag:
    """Asks to be woken every tenth of a second, and notes how much later it was.

    Attributes:
        total_s: all lateness so far; its growth in a second is the share of it that was lost.
    """

    def __init__(self) -> None:
        self._late_s: list[float] = []
        self._timer: asyncio.TimerHandle | None = None
        self.total_s = 0.0

    @property
    def latest_max_s(self) -> float:
        """The longest of the last ten seconds."""
        return max(self._late_s, default=0.0)

    def start(self) -> None:
        """Begin, on the running loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + PERIOD_S
        self._timer = loop.call_at(due, self._woken, due)

    def stop(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _woken(self, due: float) -> None:
        late_s = max(0.0, asyncio.get_running_loop().time() - due)
        self.total_s += late_s
        self._late_s.append(late_s)
        del self._late_s[:-_KEPT]
        self.start()
