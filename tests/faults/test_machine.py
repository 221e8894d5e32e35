"""Ten thousand histories of payments under a clock of their own: no socket, no database, no wait.

The states and what results make of them (`outcomes`, `model`) are driven by a processor that loses
requests and answers, answers late and twice, calls back and now and then says what is not so; its
own book is the judge. A history is its seed, which a failure names.
"""

from __future__ import annotations

import heapq
import itertools
import json
import os
from random import Random
from typing import Any

import pytest

from connectors.spi import Outcome, Result
from gateway.payments import outcomes
from gateway.payments.entries import ALL, Fact
from gateway.payments.model import Attempt, Payment
from gateway.payments.outcomes import Contradiction, Next

HISTORIES = int(os.environ.get("OQIM_HISTORIES", "10000"))
APPROVED = Result(outcome=Outcome.APPROVED)
DECLINED = Result(outcome=Outcome.INSUFFICIENT_FUNDS)
PENDING = Result(outcome=Outcome.PENDING)
# A request arrives sooner than a processor that never saw it is believed.
ARRIVES_WITHIN_S = 12.0
NOT_FOUND_FINAL_S = 15.0
TIMEOUT_S = 10.0
TERMINAL = frozenset({"succeeded", "failed", "canceled"})
SHAPES = [
    ("purchase", [("uzcard", "purchase")], False),
    ("purchase", [("visa", "purchase")], False),
    ("purchase", [("uzcard", "purchase")], True),
    ("purchase", [("visa", "purchase")], True),
    ("transfer", [("visa", "debit"), ("visa", "credit")], False),
    ("transfer", [("uzcard", "transfer")], False),
]


def new_payment(operation: str, legs: list[tuple[str, str]], is_hold: bool) -> Payment:
    """Return a payment that was just decided."""
    return Payment(
        id="pay_01M80R9897H1GJM7FMCA865X9Z", version=1, owner="usr_1", client_id="mobile",
        operation=operation, status="processing", scheme=legs[0][0], amount_minor=1_000_000,
        currency="UZS", total_debit=1_010_000, total_credit=1_000_000, source_card_id="card_1",
        destination_card_id=None if operation == "purchase" else "card_2", destination_pan=None,
        merchant_id="mer_1" if operation == "purchase" else None, is_manual_capture=is_hold,
        commission_total=10_000, commission_vat=1_071, commission_payer="sender",
        commission_plan="plan", commission_version=1, legs=legs, record=b"",
        details={"metadata": {}}, created_at_ms=0,
    )  # fmt: skip


class History:
    """One payment from its intent to its end.

    Raises:
        AssertionError: something does not hold; the text names it.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.payment = new_payment(*self.random.choice(SHAPES))
        self.attempts: list[Attempt] = []
        self.now_s = 0.0
        # What the processor holds, by attempt; what it never saw is not in it.
        self.truth: dict[str, str] = {}
        self.reversals: set[str] = set()
        self.given_back = self.posted = self.ended = 0
        self.has_lies = False
        self._events: list[tuple[float, int, str, str, Result]] = []
        self._numbers = itertools.count()
        first = outcomes.new_attempt(self.payment, 1, 1, 0)
        self.attempts = [first]
        self.send(first)

    # Time ---------------------------------------------------------------------------------------

    def later(self, wait_s: float, kind: str, attempt_id: str, result: Result = PENDING) -> None:
        event = (self.now_s + wait_s, next(self._numbers), kind, attempt_id, result)
        heapq.heappush(self._events, event)

    def run(self) -> None:
        """Live through it; then everything must have come to an end, as the processor has it."""
        for _ in range(2_000):
            if not self._events:
                break
            self.now_s, _, kind, attempt_id, result = heapq.heappop(self._events)
            getattr(self, f"on_{kind}")(attempt_id, result)
        assert not self._events, "I13: it does not come to an end"
        self.check_end()

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    # The processor ------------------------------------------------------------------------------

    def send(self, attempt: Attempt) -> None:
        """Send a request, which may be lost; whoever sent it waits only so long."""
        if self.chance(0.85):
            self.later(self.random.uniform(0, ARRIVES_WITHIN_S), "arrive", attempt.id)
        self.later(TIMEOUT_S, "result", attempt.id, PENDING)
        if self.chance(0.04):
            self.has_lies = True
            lie = self.random.choice((APPROVED, DECLINED))
            self.later(self.random.uniform(0, 60), "callback", attempt.id, lie)

    def on_arrive(self, attempt_id: str, _: Result) -> None:
        if attempt_id in self.reversals:
            return
        is_approved = self.chance(0.75)
        self.truth[attempt_id] = "approved" if is_approved else "declined"
        result = APPROVED if is_approved else DECLINED
        for _copy in range(self.random.choice((0, 1, 1, 1, 2))):
            self.later(self.random.uniform(0, 20), "reply", attempt_id, result)
        for _copy in range(self.random.choice((0, 0, 0, 1, 3))):
            self.later(self.random.uniform(0, 40), "callback", attempt_id, result)

    def on_reverse(self, attempt_id: str, _: Result) -> None:
        """A reversal reaches the processor: what was done is undone, what comes is refused."""
        self.reversals.add(attempt_id)
        if self.truth.get(attempt_id) == "approved":
            self.truth[attempt_id] = "reversed"
        if self.chance(0.6):
            self.later(self.random.uniform(0, 2), "acknowledged", attempt_id)

    # The gateway --------------------------------------------------------------------------------

    def attempt(self, attempt_id: str) -> Attempt:
        return next(one for one in self.attempts if one.id == attempt_id)

    def on_reply(self, attempt_id: str, result: Result) -> None:
        # An answer nobody waits for any more is dropped by the transport.
        if self.now_s - self.attempt(attempt_id).created_at_ms / 1000 <= TIMEOUT_S:
            self.apply(attempt_id, result, "reply")

    def on_result(self, attempt_id: str, result: Result) -> None:
        self.apply(attempt_id, result, "reply")
        if self.attempt(attempt_id).is_open:
            self.later(0.5, "recover", attempt_id)

    def on_callback(self, attempt_id: str, result: Result) -> None:
        # Amid a reversal: tests/faults/test_mistakes.py has what becomes of that.
        if attempt_id not in self.reversals:
            self.apply(attempt_id, result, "callback")

    def on_recover(self, attempt_id: str, _: Result) -> None:
        attempt = self.attempt(attempt_id)
        if not attempt.is_open:
            return
        self.later(self.random.uniform(1, 10), "recover", attempt_id)
        if self.chance(0.3):
            return
        if attempt.state == "reversing" or attempt.connector == "visa":
            self.on_reverse(attempt_id, PENDING)
            return
        truth = self.truth.get(attempt_id)
        age_s = self.now_s - attempt.created_at_ms / 1000
        not_found = Outcome.ORIGINAL_NOT_FOUND if age_s >= NOT_FOUND_FINAL_S else Outcome.PENDING
        result = {
            "approved": APPROVED,
            "declined": DECLINED,
            "reversed": Result(outcome=Outcome.ALREADY_REVERSED),
        }.get(truth or "", Result(outcome=not_found))
        self.apply(attempt_id, result, "inquiry")

    def on_acknowledged(self, attempt_id: str, _: Result) -> None:
        attempt = self.attempt(attempt_id)
        if attempt.is_open:
            self.record(*outcomes.reversed_(self.payment, self.attempts, attempt))

    def apply(self, attempt_id: str, result: Result, source: str) -> None:
        """What became known of an attempt joins the payment."""
        attempt = self.attempt(attempt_id)
        following = None
        if attempt.leg < len(self.payment.legs):
            now_ms = round(self.now_s * 1000)
            following = outcomes.new_attempt(self.payment, attempt.leg + 1, 2, now_ms)
        before = (self.payment.status, attempt.state)
        try:
            concluded = outcomes.conclude(
                self.payment, self.attempts, attempt, result, source=source, following=following
            )
        except Contradiction:
            assert self.has_lies, "I12: the truth contradicts what is recorded"
            concluded = None
        assert (self.payment.status, attempt.state) == before, "what was read was changed"
        if concluded is not None:
            self.record(*concluded)

    def record(self, fact: Fact, after: list[Attempt], following: Next) -> None:
        """Make a fact the present, if it may be."""
        assert fact.payment.version == self.payment.version, "I12: the version it was read at"
        was, now = self.payment.status, fact.payment.status
        assert was not in TERMINAL, f"I12: {was} is left for {now}"
        if fact.entry is not None:
            assert sum(fact.entry.amounts_minor) == 0, "I1: it does not sum to zero"
        self.posted += fact.entry is not None
        self.ended += now in TERMINAL
        if fact.give_back is not None:
            assert fact.give_back == ALL, "all of it, before anything is captured"
            self.given_back += 1
            is_charged = "approved" in self.truth.values() and not self.has_lies
            assert not is_charged, "I5: headroom is given back for what is charged"
        if fact.response is not None:
            body = fact.response[1]
            is_settled = now in TERMINAL or now == "requires_capture"
            assert (body is None) == is_settled, "what goes on to change is kept, and nothing else"
            shown = json.loads(body)["status"] if body is not None else now
            assert shown == now, "what is told is not what is recorded"
        if now in TERMINAL or now == "requires_capture":
            assert not any(one.is_open for one in after), f"I4: {now} while a leg is in doubt"
        self.payment, self.attempts = fact.payment, after
        self.payment.version += 1
        if following is Next.SEND:
            self.send(fact.sent[0])
        for one in after:
            if one.state == "reversing" and following is Next.REVERSE:
                self.later(0, "recover", one.id)

    def check_end(self) -> None:
        """Compare the end with the processor's book."""
        status = self.payment.status
        assert status in TERMINAL or status == "requires_capture", f"I13: it stays {status}"
        assert self.ended <= 1, "I12: it ended twice"
        assert self.posted == (status == "succeeded"), f"I1: {status}, posted {self.posted} times"
        assert self.given_back == (status == "failed"), f"I6: {status}, {self.given_back} times"
        if self.has_lies:
            return
        charged = [one for one in self.attempts if self.truth.get(one.id) == "approved"]
        legs = len(self.payment.legs) if status != "failed" else 0
        assert len(charged) == legs, f"I4: {status}, {len(charged)} legs charged: {self.truth}"


def run(count: int, first: int = 0) -> None:
    """Run so many histories; the seed of one that fails is in its error."""
    for seed in range(first, first + count):
        try:
            History(seed).run()
        except AssertionError as error:
            raise AssertionError(f"history {seed}: {error}") from error


@pytest.mark.fault(rows=[17, 18, 31, 32], what="10,000 histories of events in any order")
def test_every_history_ends_as_the_processor_has_it(seed: int) -> None:
    """Whatever is lost, late, told twice or told wrongly."""
    run(HISTORIES, first=(seed - 1) * HISTORIES)


def test_headroom_given_back_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given back when the reversal is asked for, it is found in a history of this run."""
    undo: Any = outcomes.undo

    def early(*arguments: Any) -> Any:
        fact, after, following = undo(*arguments)
        fact.give_back = ALL if following is Next.REVERSE else fact.give_back
        return fact, after, following

    monkeypatch.setattr(outcomes, "undo", early)
    with pytest.raises(AssertionError, match=r"history [0-9]+: I5"):
        run(HISTORIES)


def test_unknown_taken_for_failed_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time-out that ends a payment is found in a history of this run."""
    state_after: Any = outcomes.state_after

    def impatient(attempt: Attempt, outcome: Outcome) -> Any:
        return "declined" if outcome.is_unknown else state_after(attempt, outcome)

    monkeypatch.setattr(outcomes, "state_after", impatient)
    with pytest.raises(AssertionError, match=r"history [0-9]+: I"):
        run(HISTORIES)
