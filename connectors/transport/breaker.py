"""Circuit breaker: stops sending to a processor that does not answer. Never awaits, never sleeps.

closed --failures_max in a row--> open --open_ms later--> half-open --success--> closed
                                   ^--------------failure---------------|

What settles (an inquiry, a reversal) puts no new money in doubt and ends doubt there is: a few are
let through whatever the state, and an answer to one is reason enough to try a payment again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerPolicy:
    """When to stop and when to try again.

    Args:
        failures_max: failures in a row that open the breaker, 1 or more.
        open_ms: how long nothing is sent, in milliseconds.
        probes_max: calls let through at once while half-open, 1 or more.
        settling_probes_max: calls that settle, let through at once while it is not closed.
    """

    failures_max: int = 5
    open_ms: int = 5_000
    probes_max: int = 1
    settling_probes_max: int = 4


class Breaker:
    """One breaker per processor endpoint.

    `admit` gives a ticket; each ticket is given back once, by `succeed`, `fail` or `release`. A
    ticket from before the last change of state is ignored, so that slow calls of an earlier time
    neither close nor open the breaker.
    """

    def __init__(
        self, policy: BreakerPolicy, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._state = BreakerState.CLOSED
        self._ticket = 1
        self._failures = 0
        self._probes = 0
        self._settling = 0
        self._open_until = 0.0

    @property
    def state(self) -> BreakerState:
        """The state a call made now would meet."""
        if self._state is BreakerState.OPEN and self._clock() >= self._open_until:
            return BreakerState.HALF_OPEN
        return self._state

    def would_admit(self, *, is_settling: bool = False) -> bool:
        """Whether `admit` would give a ticket now."""
        if is_settling and self._settling < self._policy.settling_probes_max:
            return True
        state = self.state
        if state is BreakerState.CLOSED:
            return True
        if state is BreakerState.OPEN:
            return False
        return self._state is BreakerState.OPEN or self._probes < self._policy.probes_max

    def admit(self, *, is_settling: bool = False) -> int:
        """Return a ticket for one call, or 0 when the call must not be made."""
        if self._state is BreakerState.CLOSED:
            return self._ticket
        if is_settling and self._settling < self._policy.settling_probes_max:
            self._settling += 1
            return -self._ticket
        if not self.would_admit():
            return 0
        if self._state is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN)
        self._probes += 1
        return self._ticket

    def succeed(self, ticket: int) -> None:
        """The processor answered, whatever it said."""
        if ticket < 0:
            self._settling -= 1
            if self._state is BreakerState.OPEN:
                self._enter(BreakerState.HALF_OPEN)
            return
        if ticket != self._ticket:
            return
        self._failures = 0
        if self._state is BreakerState.HALF_OPEN:
            self._enter(BreakerState.CLOSED)

    def fail(self, ticket: int) -> None:
        """The processor was not reached or did not answer."""
        if ticket < 0:
            self._settling -= 1
        if ticket != self._ticket:
            return
        self._failures += 1
        if self._state is BreakerState.HALF_OPEN or self._failures >= self._policy.failures_max:
            self._enter(BreakerState.OPEN)
            self._open_until = self._clock() + self._policy.open_ms / 1000

    def release(self, ticket: int) -> None:
        """The call ended without telling anything of the processor (its caller went away)."""
        if ticket < 0:
            self._settling -= 1
        elif ticket == self._ticket and self._state is BreakerState.HALF_OPEN:
            self._probes -= 1

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._ticket += 1
        self._failures = 0
        self._probes = 0
