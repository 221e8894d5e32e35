"""Replaying recorded decisions: unchanged rules differ in none, and a change is told exactly."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import settings as settings_module
from gateway.bench.small_rows import token
from gateway.core import Admission, Core, Missing, Refusal, RuleSet, Simulation, read_rules

DECISIONS = 100_000
START_MS = 1_795_237_200_000
CARDS, MERCHANTS = 300, 40
BATCH = 64

Event = tuple[str, str, bytes, int, int, str]


def document(*, cap: int = 3_000_000, percent: str = "0.7", more: tuple[Any, ...] = ()) -> bytes:
    """Rules with every kind of window, two currencies, and a plan in tiers."""
    policies = [
        {"id": "day", "subject": "card", "max_amount": cap, "max_count": 12,
         "window": {"kind": "calendar", "unit": "day"}, "currency": "UZS"},
        {"id": "hour", "subject": "merchant", "max_amount": 60_000_000,
         "window": {"kind": "rolling", "seconds": 3_600}, "currency": "UZS",
         "restore_on_refund": True},
        {"id": "dollars", "subject": "user", "max_amount": 900_000, "currency": "USD",
         "window": {"kind": "calendar", "unit": "month"}},
        {"id": "single", "subject": "platform", "min_amount": 500, "max_amount": 990_000,
         "window": {"kind": "operation"}, "currency": "UZS"},
        *more,
    ]  # fmt: skip
    plan = {
        "id": "p", "payer": "receiver", "on_refund": "proportional",
        "components": [
            {"name": "bank", "kind": "percent", "percent": percent, "vat_percent": "12"},
            {"name": "step", "kind": "tiered", "mode": "volume",
             "tiers": [{"up_to": 400_000, "percent": "1"}, {"percent": "0.5"}]},
        ],
    }  # fmt: skip
    rate = {"currency": "USD", "date": "2026-11-20", "rate": "12021.22"}
    everything = {"limit_policies": policies, "commission_plans": [plan], "rates": [rate]}
    return json.dumps(everything).encode()


def compiled(text: bytes) -> RuleSet:
    """Read rules that are known to be right."""
    rules = read_rules(text)
    assert isinstance(rules, RuleSet), rules
    return rules


@dataclass
class Past:
    """A worker's decisions as they are kept, and what became of its payments."""

    core: Core
    key: Ed25519PrivateKey
    random: random.Random
    events: list[Event] = field(default_factory=list)
    alive: list[tuple[str, bytes, int]] = field(default_factory=list)
    captured: list[tuple[str, bytes, int, int]] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    bearer: bytes = b""

    def admit(self, card: int, merchant: int, amount: int, at_ms: int) -> Admission | Refusal:
        """Decide one purchase; a subject without a state has none yet."""
        body = {
            "operation": "purchase",
            "amount": amount,
            "currency": "UZS",
            "source": {"card": f"card_{card}"},
            "destination": {"merchant": f"mer_{merchant}"},
        }
        headers = (
            (b"Authorization", b"Bearer " + self.bearer),
            (b"Content-Type", b"application/json"),
            (b"Idempotency-Key", b"k"),
        )
        sent = json.dumps(body).encode()
        fresh = (False, False)
        while True:
            answer = self.core.admit("POST", "/v1/payments", headers, sent, at_ms, fresh)
            if not isinstance(answer, Missing):
                return answer
            # The only worker: what it holds is newer than a row that was never written.
            for subject in answer.subjects:
                self.core.load_state(subject, 0, b"")
            fresh = (True, True)

    def decide(self, count: int, at_ms: int) -> int:
        """Decide a batch, write it, and let some of what is alive end."""
        admitted: list[tuple[str, Admission]] = []
        self.bearer = token(self.key, 0, at_ms=at_ms)
        for _ in range(count):
            at_ms += self.random.randint(0, 1_500)
            answer = self.admit(
                self.random.randrange(CARDS),
                self.random.randrange(MERCHANTS),
                self.random.randint(1, 1_000_000),
                at_ms,
            )
            name = f"d{len(self.events) + len(admitted)}-{at_ms}"
            if isinstance(answer, Refusal):
                assert answer.decision is not None, answer.slug
                self.keep(name, answer.decision[2], "")
            else:
                admitted.append((name, answer))
        staged = self.core.stage([admission for _, admission in admitted])
        self.core.commit(staged)
        for index, record in zip(staged.admitted, staged.records, strict=True):
            name, admission = admitted[index]
            self.keep(name, record, admission.commission.lines)
            self.alive.append((name, record, admission.amount_minor))
        for index, refused in staged.refused:
            assert isinstance(refused, Refusal)
            assert refused.decision is not None
            self.keep(admitted[index][0], refused.decision[2], "")
        self.end()
        return at_ms

    def keep(self, name: str, record: bytes, lines: str) -> None:
        """Keep a decision."""
        self.events.append(("decision", name, record, 0, 0, lines))
        verdict = "admit" if lines else "refuse"
        self.verdicts[verdict] = self.verdicts.get(verdict, 0) + 1

    def end(self) -> None:
        """Decline, capture in part, or refund some of what is alive."""
        changes: list[tuple[bytes, tuple[int, ...] | None]] = []
        self.random.shuffle(self.alive)
        for _ in range(min(len(self.alive), BATCH // 3)):
            name, record, amount = self.alive.pop()
            if self.random.random() < 0.4:
                changes.append((record, None))
                self.events.append(("end", name, record, amount, 0, ""))
                continue
            part = self.random.randint(1, amount)
            changes.append((record, (part,)))
            self.events.append(("end", name, record, amount, part, ""))
            self.captured.append((name, record, part, 0))
        for _ in range(min(len(self.captured), 5)):
            name, record, captured, before = self.captured.pop()
            after = self.random.randint(before, captured)
            changes.append((record, (captured, before, after)))
            self.events.append(("refund", name, record, before, after, str(captured)))
        staged = self.core.stage_give_back(changes)
        assert not staged.deferred
        self.core.commit(staged)


@pytest.fixture(scope="module")
def past() -> Past:
    """A hundred thousand decisions by two generations of rules, across a midnight."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    settings = settings_module.load({})
    core = Core(
        rules=compiled(document()),
        generation=1,
        routing=settings.routing,
        issuer="https://oqim.local",
        audience="oqim-api",
        lookup_key=bytes(32),
        quote_key=bytes(32),
        quote_ttl_ms=1,
        feed_age_ms_max=10**12,
        token_cache_size_max=10,
        card_cache_size_max=10_000,
        subject_cache_size_max=100_000,
    )
    core.add_key("k1", key.public_key().public_bytes_raw())
    core.mark_fresh(START_MS)
    for number in range(CARDS):
        lookup = core.lookup_of(f"4242{number:012d}")
        core.put_card(f"card_{number}", "usr_1", "visa", "424242", lookup, True, 1)
    for number in range(MERCHANTS):
        core.put_merchant(f"mer_{number}", "5411", "UZ")
    past = Past(core, key, random.Random(20261121))
    at_ms = START_MS
    while sum(past.verdicts.values()) < DECISIONS:
        at_ms = past.decide(BATCH, at_ms)
        if core.generation == 1 and sum(past.verdicts.values()) > DECISIONS // 2:
            core.use_rules(compiled(document(cap=2_000_000, percent="0.9")), 2)
    return past


def replay(past: Past, first: bytes, second: bytes) -> Any:
    """Replay everything, the first generation by one document and the second by another."""
    simulation = Simulation()
    simulation.use(1, compiled(first))
    simulation.use(2, compiled(second))
    for start in range(0, len(past.events), 5_000):
        simulation.feed(past.events[start : start + 5_000])
    return json.loads(simulation.report())


SECOND = document(cap=2_000_000, percent="0.9")


def test_with_the_rules_unchanged_no_decision_differs(past: Past) -> None:
    """Not one of a hundred thousand, nor a tiyin of commission."""
    assert min(past.verdicts.values()) > DECISIONS // 10, past.verdicts
    report = replay(past, document(), SECOND)
    assert report["decisions"] >= DECISIONS
    assert report["differing"] == 0
    assert report["newly_refused"]["count"] == report["newly_allowed"]["count"] == 0
    assert report["commission"] == []


def test_a_lower_cap_is_told_with_the_merchants_it_hits(past: Past) -> None:
    """Who is newly refused, for how much, and the twenty merchants that lose most."""
    report = replay(past, document(cap=1_500_000), document(cap=1_500_000, percent="0.9"))
    refused = report["newly_refused"]
    assert refused["count"] > 100
    assert refused["sum"]["UZS"] > 0
    merchants = refused["merchants"]
    assert len(merchants) == 20
    counts = [one["count"] for one in merchants]
    assert counts == sorted(counts, reverse=True)


def test_a_removed_policy_lets_more_through(past: Past) -> None:
    """What it had refused is allowed, and what that fills is counted."""
    wide = 10**15
    report = replay(past, document(cap=wide), document(cap=wide, percent="0.9"))
    assert report["newly_allowed"]["count"] > 100
    assert report["decisions"] >= DECISIONS


def test_a_new_policy_is_counted_from_the_beginning_of_the_replay(past: Past) -> None:
    """It counts what the replay lets through, of the subject it is about."""
    one_each = {
        "id": "new", "subject": "merchant", "max_count": 1, "currency": "UZS",
        "window": {"kind": "calendar", "unit": "year"},
    }  # fmt: skip
    first = document(more=(one_each,))
    report = replay(past, first, document(cap=2_000_000, percent="0.9", more=(one_each,)))
    admitted = past.verdicts["admit"]
    # Whoever was declined has given its place back, and a few more have passed.
    assert admitted - report["newly_refused"]["count"] >= MERCHANTS
    assert report["newly_refused"]["count"] > admitted * 0.9


def test_a_commission_change_is_told_by_component(past: Past) -> None:
    """Before and after, of what was charged."""
    report = replay(past, document(percent="1.4"), SECOND)
    (bank, vat) = [one for one in report["commission"] if one["component"] == "bank"]
    assert {bank["kind"], vat["kind"]} == {"commission", "vat"}
    assert all(one["change"] == one["after"] - one["before"] > 0 for one in (bank, vat))
    assert report["newly_refused"]["count"] == 0


def test_what_cannot_be_replayed_is_an_error(past: Past) -> None:
    """A generation that was not given, and bytes that are no record."""
    simulation = Simulation()
    with pytest.raises(ValueError, match="generation 1"):
        simulation.feed(past.events[:1])
    with pytest.raises(ValueError, match="cannot be read"):
        simulation.feed([("decision", "x", b"\x07", 0, 0, "")])
