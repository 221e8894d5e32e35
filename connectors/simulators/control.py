"""The control routes beneath `/_sim/`: read the ledger, arm faults, move the clock, set cards.

Errors are problem documents (RFC 9457) that name the member at fault. These routes have no
authentication: the simulators listen on the loopback and their money is not real.
"""

from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from connectors.simulators.clock import SimClock, rfc3339
from connectors.simulators.faults import FaultError, FaultOrder, Faults
from connectors.simulators.ledger import Account, Ledger

CONTROL_PREFIX = "/_sim/"
ADVANCE_MAX_S = 10 * 365 * 86_400
BALANCE_MAX = 10**15


class Answer(NamedTuple):
    """An HTTP answer of a control route."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"


class Problem(Exception):
    """Something the caller of a control route got wrong.

    Args:
        status: HTTP status. code: slug, stable. detail: what is wrong, naming the member.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail

    def answer(self) -> Answer:
        """Render as `application/problem+json`."""
        body = {
            "type": f"/problems/{self.code}",
            "title": self.code.replace("-", " ").capitalize(),
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        return Answer(msgspec.json.encode(body), self.status, "application/problem+json")


class Scheme(Protocol):
    """What the control routes need of a scheme."""

    name: str
    statuses: tuple[str, ...]
    """Card statuses that `POST /_sim/cards` takes, besides the processor's own codes."""

    @property
    def ledger(self) -> Ledger[Any]: ...

    @property
    def clock(self) -> SimClock: ...

    @property
    def faults(self) -> Faults: ...

    def is_status(self, status: str) -> bool:
        """Whether a card can have this status."""
        ...

    def reset(self) -> None:
        """Forget everything, faults and clock included."""
        ...


class ClockOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /_sim/clock`."""

    advance_seconds: float


class CardOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Body of `POST /_sim/cards`. What is absent stays as it is."""

    pan: str
    expiry: str | None = None
    phone: str | None = None
    balance: int | None = None
    status: str | int | None = None

    def __repr__(self) -> str:
        return "<CardOrder>"


Query = Mapping[str, str]
Route = Callable[[Query, bytes], Any]


class Control:
    """The control routes of one scheme.

    Args:
        extra: routes of the scheme's own, `(method, path)` to a function of query and body that
            returns what to answer as JSON, or an `Answer`.
    """

    def __init__(
        self, scheme: Scheme, extra: Mapping[tuple[str, str], Route] | None = None
    ) -> None:
        self._scheme = scheme
        self._routes: dict[tuple[str, str], Route] = {
            ("GET", "/_sim/"): self._index,
            ("GET", "/_sim/ledger"): self._ledger,
            ("GET", "/_sim/faults"): self._faults_list,
            ("POST", "/_sim/faults"): self._faults_order,
            ("DELETE", "/_sim/faults"): self._faults_clear,
            ("POST", "/_sim/reset"): self._reset,
            ("GET", "/_sim/clock"): self._clock_read,
            ("POST", "/_sim/clock"): self._clock_advance,
            ("POST", "/_sim/cards"): self._card,
            **(extra or {}),
        }

    def answer(self, method: str, path: str, query: Query, body: bytes) -> Answer:
        """Answer one control request; never raises for what the caller got wrong."""
        route = self._routes.get((method, path))
        try:
            if route is None:
                allowed = [known for known, at in self._routes if at == path]
                if allowed:
                    raise Problem(405, "method-not-allowed", f"{path} takes {', '.join(allowed)}")
                raise Problem(404, "not-found", "GET /_sim/ lists what there is")
            result = route(query, body)
        except Problem as problem:
            return problem.answer()
        if isinstance(result, Answer):
            return result
        return Answer(msgspec.json.encode(result))

    def _index(self, query: Query, body: bytes) -> Any:
        return {
            "scheme": self._scheme.name,
            "routes": [f"{method} {path}" for method, path in self._routes],
        }

    def _ledger(self, query: Query, body: bytes) -> Any:
        limit = _natural(query, "limit")
        offset = _natural(query, "offset")
        return self._scheme.ledger.view(ref=query.get("ref"), limit=limit, offset=offset or 0)

    def _faults_list(self, query: Query, body: bytes) -> Any:
        return self._scheme.faults.armed()

    def _faults_order(self, query: Query, body: bytes) -> Any:
        try:
            return self._scheme.faults.order(decode(body, FaultOrder))
        except FaultError as error:
            raise Problem(400, "invalid-fault", str(error)) from error

    def _faults_clear(self, query: Query, body: bytes) -> Any:
        self._scheme.faults.clear()
        return []

    def _reset(self, query: Query, body: bytes) -> Any:
        self._scheme.reset()
        return {"reset": True}

    def _clock_read(self, query: Query, body: bytes) -> Any:
        clock = self._scheme.clock
        return {"now": rfc3339(clock.now_ms()), "offset_seconds": clock.offset_ms / 1000}

    def _clock_advance(self, query: Query, body: bytes) -> Any:
        order = decode(body, ClockOrder)
        if not 0 <= order.advance_seconds <= ADVANCE_MAX_S:
            raise Problem(400, "invalid-clock", f"advance_seconds: 0 to {ADVANCE_MAX_S}")
        self._scheme.clock.advance(order.advance_seconds)
        self._scheme.ledger.sweep()
        return self._clock_read(query, body)

    def _card(self, query: Query, body: bytes) -> Any:
        order = decode(body, CardOrder)
        account = self._scheme.ledger.account(order.pan)
        if account is None:
            raise Problem(400, "invalid-card", "pan: not a Luhn-valid number of this scheme's BINs")
        self._card_change(account, order)
        return {
            "pan": account.masked,
            "token": account.token,
            "balance": account.balance,
            "expiry": account.expiry or None,
            "phone": account.phone or None,
            "status": account.status,
        }

    def _card_change(self, account: Account, order: CardOrder) -> None:
        expiry = order.expiry
        if expiry is not None and not (
            len(expiry) == 4 and expiry.isdigit() and "01" <= expiry[2:] <= "12"
        ):
            raise Problem(400, "invalid-card", "expiry: four digits, YYMM")
        phone = None if order.phone is None else phone_of(order.phone)
        if order.balance is not None and abs(order.balance) > BALANCE_MAX:
            raise Problem(400, "invalid-card", f"balance: at most {BALANCE_MAX} either way")
        status = None if order.status is None else str(order.status)
        if status is not None and not self._scheme.is_status(status):
            known = ", ".join(self._scheme.statuses)
            raise Problem(400, "invalid-card", f"status: {known}, or the processor's own code")
        if (expiry, phone, order.balance, status) == (None, None, None, None):
            return
        account.expiry = account.expiry if expiry is None else expiry
        account.phone = account.phone if phone is None else phone
        account.balance = account.balance if order.balance is None else order.balance
        account.status = account.status if status is None else status
        self._scheme.ledger.set_card(account)


T = TypeVar("T")


def decode(body: bytes, shape: type[T]) -> T:
    """Read a control request's body.

    Raises:
        Problem: 400 `invalid-json` or `invalid-body`; the detail names the member at fault.
    """
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise Problem(400, "invalid-body", str(error)) from error
    except msgspec.DecodeError as error:
        raise Problem(400, "invalid-json", str(error)) from error
    except UnicodeDecodeError as error:
        raise Problem(400, "invalid-json", "the body is not UTF-8") from error


def phone_of(text: str) -> str:
    """Return a phone as `+` and digits; the empty text stays empty (no phone is known).

    Raises:
        Problem: 400 `invalid-phone`.
    """
    digits = text.removeprefix("+").strip()
    if digits and not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
        raise Problem(400, "invalid-phone", "phone: a number such as +998901234567")
    return f"+{digits}" if digits else ""


def day_in(query: Query) -> date:
    """Return the `day` that was asked for, `YYYY-MM-DD`.

    Raises:
        Problem: 400 `invalid-query`.
    """
    try:
        return date.fromisoformat(query.get("day", ""))
    except ValueError:
        raise Problem(400, "invalid-query", "day: YYYY-MM-DD") from None


def _natural(query: Query, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Problem(400, "invalid-query", f"{name}: a whole number from 0")
    return int(text)
