"""Misbehaviour on demand: which fault meets which message.

A fault is armed by count or by rate and concerns money messages, unless it names a method. The
draw for a rate comes from a seeded generator, so that a run can be had again.
"""

from random import Random
from typing import NamedTuple

import msgspec

KINDS = (
    "decline",
    "delay",
    "drop_reply_after_commit",
    "drop_request",
    "duplicate_reply",
    "garbage",
    "wrong_amount",
    "by_amount",
)
DELAY_DEFAULT_S = 0.5
DELAY_BY_AMOUNT_S = 30.0
DELAY_MAX_S = 3600.0
COUNT_MAX = 10**9
ARMED_MAX = 64


class FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /_sim/faults`."""

    kind: str
    count: int | None = None
    rate: float | None = None
    code: str | int | None = None
    seconds: float | None = None
    method: str | None = None


class Armed(msgspec.Struct, omit_defaults=True):
    """One armed fault. `count` is how many messages it will still meet; None is any number."""

    kind: str
    count: int | None = None
    rate: float | None = None
    code: str | None = None
    seconds: float | None = None
    method: str | None = None


class Drawn(NamedTuple):
    """What befalls one message: a delay before it is looked at, then at most one kind."""

    delay_s: float
    kind: str | None
    code: str | None


class AmountCodes(NamedTuple):
    """A scheme's codes for the deterministic table of amounts ending in ..51, ..91, ..94, ..59."""

    no_funds: str
    issuer_down: str
    duplicate: str
    fraud: str


class FaultError(ValueError):
    """An order that makes no sense; the text says which member and why."""


class Faults:
    """The armed faults of one scheme.

    Args:
        codes: for `by_amount`, and `no_funds` for a `decline` that names no code.
        seed: of the generator that decides rates.
    """

    def __init__(self, codes: AmountCodes, seed: int) -> None:
        self._codes = codes
        self._seed = seed
        self._random = Random(seed)
        self._armed: list[Armed] = []

    @property
    def is_armed(self) -> bool:
        """Whether any fault is armed: the fast path's one question."""
        return bool(self._armed)

    def armed(self) -> list[Armed]:
        """List what is armed."""
        return list(self._armed)

    def clear(self) -> None:
        """Disarm everything and start the generator anew."""
        self._armed.clear()
        self._random.seed(self._seed)

    def order(self, order: FaultOrder) -> list[Armed]:
        """Arm, replace (same kind and method) or, with count 0, disarm.

        Raises:
            FaultError: the order makes no sense.
        """
        _check(order)
        if order.count == 0:
            self._armed = [
                armed
                for armed in self._armed
                if armed.kind != order.kind
                or (order.method is not None and armed.method != order.method)
            ]
            return self.armed()
        self._armed = [
            armed
            for armed in self._armed
            if armed.kind != order.kind or armed.method != order.method
        ]
        if len(self._armed) >= ARMED_MAX:
            raise FaultError(f"count: {ARMED_MAX} faults are armed already")
        code = None if order.code is None else str(order.code)
        if order.kind == "decline" and code is None:
            code = self._codes.no_funds
        self._armed.append(
            Armed(
                kind=order.kind,
                count=order.count,
                rate=order.rate,
                code=code,
                seconds=order.seconds,
                method=order.method,
            )
        )
        return self.armed()

    def draw(self, names: tuple[str, ...], is_money: bool, amount: int) -> Drawn | None:
        """Decide what befalls a message.

        Args:
            names: what the message may be called in a fault's `method`.
            is_money: whether faults without a method concern it.
            amount: its minor units, for `by_amount`.

        Returns: None when nothing does.
        """
        delay_s = 0.0
        kind: str | None = None
        code: str | None = None
        for armed in tuple(self._armed):
            if armed.method is None:
                if not is_money:
                    continue
            elif armed.method not in names:
                continue
            if armed.kind == "delay":
                if self._hits(armed):
                    delay_s += DELAY_DEFAULT_S if armed.seconds is None else armed.seconds
            elif kind is not None:
                continue
            elif armed.kind == "by_amount":
                met = self._by_amount(amount, armed)
                if met is not None and self._hits(armed):
                    delay_s += met.delay_s
                    kind, code = met.kind, met.code
            elif self._hits(armed):
                kind, code = armed.kind, armed.code
        if kind is None and delay_s == 0.0:
            return None
        return Drawn(delay_s, kind, code)

    def _hits(self, armed: Armed) -> bool:
        if armed.rate is not None and self._random.random() >= armed.rate:
            return False
        if armed.count is not None:
            armed.count -= 1
            if armed.count == 0:
                self._armed.remove(armed)
        return True

    def _by_amount(self, amount: int, armed: Armed) -> Drawn | None:
        match amount % 100:
            case 51:
                return Drawn(0.0, "decline", self._codes.no_funds)
            case 91:
                return Drawn(0.0, "decline", self._codes.issuer_down)
            case 94:
                return Drawn(0.0, "decline", self._codes.duplicate)
            case 59:
                return Drawn(0.0, "decline", self._codes.fraud)
            case 68:
                return Drawn(0.0, "drop_reply_after_commit", None)
            case 7:
                seconds = DELAY_BY_AMOUNT_S if armed.seconds is None else armed.seconds
                return Drawn(seconds, None, None)
        return None


def _check(order: FaultOrder) -> None:
    if order.kind not in KINDS:
        raise FaultError(f"kind: one of {', '.join(KINDS)}")
    if order.count is not None and order.rate is not None:
        raise FaultError("rate: give count or rate, not both")
    if order.count is None and order.rate is None and order.kind != "by_amount":
        raise FaultError("count: give count (how many messages) or rate (0 to 1)")
    if order.count is not None and not 0 <= order.count <= COUNT_MAX:
        raise FaultError(f"count: 0 to {COUNT_MAX}; 0 disarms")
    if order.rate is not None and not 0 <= order.rate <= 1:
        raise FaultError("rate: 0 to 1")
    if order.seconds is not None:
        if order.kind not in ("delay", "by_amount"):
            raise FaultError("seconds: only a delay has them")
        if not 0 <= order.seconds <= DELAY_MAX_S:
            raise FaultError(f"seconds: 0 to {DELAY_MAX_S:g}")
    if order.code is not None and order.kind != "decline":
        raise FaultError("code: only a decline has one")
