"""Failpoints: named steps of a payment at which a test has a worker fail on purpose.

Armed by `OQIM_FAILPOINTS`, in a sandbox's worker (`OQIM_SANDBOX=1`) and nowhere else: elsewhere the
variable has no effect at all. A point that is not armed costs one look into an empty mapping. Never
touches what it stands beside: a point either lets its caller go on, or fails it as the world does.
"""

import asyncio
import os
import signal
from collections.abc import Mapping
from random import Random
from typing import Annotated, Literal

import msgspec

from gateway.settings import SettingsError

VARIABLE = "OQIM_FAILPOINTS"

NAMES = frozenset(
    {
        # A payment, in the order of its life.
        "before_intent_commit",
        "after_intent_commit",
        "before_send",
        "after_reply",
        "before_fact_commit",
        "after_fact_commit",
        "before_answer",
        # What is undone, and what is taken up again.
        "before_reversal",
        "after_reversal",
        "after_recovery_claim",
        # A capture, a cancel or a refund.
        "before_action_claim",
        "after_action_claim",
        "after_action_reply",
        # What two operators have agreed on of a payment, before the payment is told.
        "before_review_settled",
        # A processor's own word.
        "after_callback_stored",
    }
)
"""Every point there is."""


class Failpoint(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What happens at a point.

    Attributes:
        action: `kill` this process as the kernel would; `delay` for `seconds`; `error` as a lost
            connection is one; `drop`: never go on.
        probability: of each passing that is left by the rest.
        seed: of the generator that decides, so that a run can be had again.
        count: how many passings of this process it meets at most; None is any number.
        after: how many passings of this process it lets by first.
        ticket: a file; the point acts only for the passing that removes it, in whichever process.
    """

    action: Literal["kill", "delay", "error", "drop"]
    probability: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 1.0
    seed: int = 0
    count: Annotated[int, msgspec.Meta(ge=1)] | None = None
    after: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds: Annotated[float, msgspec.Meta(ge=0.0, le=3600.0)] = 0.5
    ticket: str | None = None


class _Armed:
    """One failpoint, and what it has met so far."""

    def __init__(self, name: str, failpoint: Failpoint) -> None:
        self.failpoint = failpoint
        self._random = Random(f"{name} {failpoint.seed}")
        self._passed = 0
        self._met = 0

    def meets(self) -> bool:
        """Whether this passing is the one."""
        failpoint = self.failpoint
        self._passed += 1
        if self._passed <= failpoint.after:
            return False
        if failpoint.count is not None and self._met >= failpoint.count:
            return False
        if failpoint.probability < 1.0 and self._random.random() >= failpoint.probability:
            return False
        if failpoint.ticket is not None:
            try:
                os.unlink(failpoint.ticket)
            except FileNotFoundError:
                return False
        self._met += 1
        return True


def read(environment: Mapping[str, str]) -> dict[str, list[Failpoint]]:
    """Return what the environment arms: by name, in the order in which they are tried.

    The variable is a JSON object of names to one failpoint, or to a list of them. Empty outside of
    a sandbox.

    Raises:
        SettingsError: it cannot be read, or names a point there is not.
    """
    text = environment.get(VARIABLE, "")
    if not text or environment.get("OQIM_SANDBOX") != "1":
        return {}
    try:
        given = msgspec.json.decode(text, type=dict[str, Failpoint | list[Failpoint]])
    except msgspec.DecodeError as error:
        raise SettingsError(f"{VARIABLE}: {error}") from error
    unknown = sorted(given.keys() - NAMES)
    if unknown:
        raise SettingsError(f"{VARIABLE}: there is no {', '.join(unknown)}")
    return {name: one if isinstance(one, list) else [one] for name, one in given.items()}


def arm(failpoints: Mapping[str, list[Failpoint]]) -> None:
    """Arm these and no others, in this process."""
    _armed.clear()
    for name, several in failpoints.items():
        _armed[name] = [_Armed(name, failpoint) for failpoint in several]


async def hit(name: str) -> None:
    """Pass a point.

    Raises:
        ConnectionResetError: the point is armed with `error`.
    """
    if _armed:
        assert name in NAMES, f"{name} is not among the names"
        for armed in _armed.get(name, ()):
            if armed.meets():
                await _act(name, armed.failpoint)


async def _act(name: str, failpoint: Failpoint) -> None:
    match failpoint.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "delay":
            await asyncio.sleep(failpoint.seconds)
        case "error":
            raise ConnectionResetError(f"failpoint {name}")
        case "drop":
            await asyncio.get_running_loop().create_future()


_armed: dict[str, list[_Armed]] = {}
arm(read(os.environ))
