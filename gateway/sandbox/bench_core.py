"""`oqim bench --core`: what one decision costs, against the same decision in plain Python.

No service and no network: the core, the second implementation of the rules and PyJWT, in turns in
one process, so that what the machine does meanwhile falls on all. What is told are microseconds of
this run and, what counts, ratios of neighbours.
"""

import base64
import gc
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import settings as settings_module
from gateway.core import Admission, Core, RuleSet, read_rules
from gateway.oracle.history import History
from gateway.oracle.lines import read_line
from gateway.sandbox.progress import Progress

NOW_MS = 1_795_237_200_000
CARD, OWNER, MERCHANT = "card_1", "usr_1", "mer_1"
POLICIES_THAT_CANNOT_MATCH = (10, 1_000, 100_000)
# The oracle looks at every rule: more of them would measure patience.
ORACLE_POLICIES = 10
TOKENS_COLD = 2_000

_SUBJECTS = ("card", "user", "merchant", "device", "platform", "issuer_bin", "scheme", "card")
_WINDOWS: tuple[dict[str, Any], ...] = (
    {"kind": "calendar", "unit": "day"},
    {"kind": "calendar", "unit": "month"},
    {"kind": "calendar", "unit": "year"},
    {"kind": "calendar", "unit": "week"},
    {"kind": "operation"},
    {"kind": "calendar", "unit": "hour"},
    {"kind": "rolling", "seconds": 3600},
    {"kind": "rolling", "seconds": 86400},
)


@dataclass(frozen=True, slots=True)
class Timing:
    """One thing that was timed, in turns with the others.

    Attributes:
        microseconds: of one call, one figure a round.
    """

    name: str
    microseconds: list[float]

    def ratio_to(self, other: "Timing") -> float:
        """Return how many times this one's time another's is; the median over the rounds."""
        pairs = zip(self.microseconds, other.microseconds, strict=True)
        return median(theirs / ours for ours, theirs in pairs)


def rules(cannot_match: int) -> dict[str, Any]:
    """Return eight policies and a plan of twelve tiers that match, and many that cannot."""
    tiers = [{"up_to": 10**6 * 3**n, "percent": f"1.{n:02d}", "fixed": n} for n in range(11)]
    plan = {
        "id": "tiers",
        "version": 1,
        "priority": 0,
        "payer": "receiver",
        "match": {"operation": ["purchase"]},
        "components": [
            {
                "name": "tiers",
                "kind": "tiered",
                "mode": "graduated",
                "tiers": [*tiers, {"up_to": None, "percent": "0.5", "fixed": 12}],
                "vat_percent": "12",
            }
        ],
    }
    policies = [
        {
            "id": f"policy-{number}",
            "version": 1,
            "priority": 0,
            "subject": subject,
            "window": window,
            "max_amount": 10**15,
            "currency": "UZS",
        }
        for number, (subject, window) in enumerate(zip(_SUBJECTS, _WINDOWS, strict=True))
    ]
    for number in range(cannot_match):
        match = {"operation": ["purchase"], "merchant": [f"mer_other{number}"]}
        policies.append(policies[0] | {"id": f"other-{number}", "match": match})
    others = [
        plan | {"id": f"other-{n}", "match": {"merchant": [f"mer_other{n}"]}, "priority": 1}
        for n in range(cannot_match)
    ]
    return {"commission_plans": [plan, *others], "limit_policies": policies}


def _part(value: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")


def token(key: Ed25519PrivateKey, number: int, *, at_ms: int = NOW_MS) -> bytes:
    """Return an access token, signed."""
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}
    claims = {
        "iss": "https://oqim.local",
        "aud": "oqim-api",
        "sub": OWNER,
        "client_id": "mobile",
        "scope": "payments:write limits:read",
        "sid": "ses_1",
        "jti": f"j{number}",
        "iat": at_ms // 1000,
        "exp": at_ms // 1000 + 300,
        "tier": "identified",
        "channel": "mobile",
    }
    signed = _part(header) + b"." + _part(claims)
    signature = base64.urlsafe_b64encode(key.sign(signed)).rstrip(b"=")
    return signed + b"." + signature


class Subject:
    """A core with what one purchase needs in memory."""

    def __init__(self, key: Ed25519PrivateKey, cannot_match: int) -> None:
        settings = settings_module.load({})
        compiled = read_rules(json.dumps(rules(cannot_match)).encode())
        assert isinstance(compiled, RuleSet), compiled
        self.core = Core(
            rules=compiled,
            generation=1,
            routing=settings.routing,
            issuer="https://oqim.local",
            audience="oqim-api",
            lookup_key=bytes(32),
            quote_key=bytes(32),
            quote_ttl_ms=1,
            feed_age_ms_max=5_000,
            token_cache_size_max=100,
            card_cache_size_max=100,
            subject_cache_size_max=100,
        )
        self.core.add_key("k1", key.public_key().public_bytes_raw())
        self.core.mark_fresh(NOW_MS)
        lookup = self.core.lookup_of("4242420000000018")
        self.core.put_card(CARD, OWNER, "visa", "424242", lookup, True, 1)
        self.core.put_merchant(MERCHANT, "5411", "UZ")
        subjects = [f"card:{lookup}", f"user:{OWNER}", f"merchant:{MERCHANT}", "platform:oqim"]
        for subject in (*subjects, "issuer_bin:424242", "scheme:visa"):
            self.core.load_state(subject, 0, b"")
        body = {
            "operation": "purchase",
            "amount": 150_000_000,
            "currency": "UZS",
            "source": {"card": CARD},
            "destination": {"merchant": MERCHANT},
            "description": "d" * 120,
            "metadata": {"order": "1001", "note": "n" * 100},
        }
        self.body = json.dumps(body).encode()

    def admit(self, bearer: bytes) -> None:
        """Decide one purchase, and forget it again."""
        headers = (
            (b"Authorization", b"Bearer " + bearer),
            (b"Content-Type", b"application/json"),
            (b"Idempotency-Key", b"key-1"),
        )
        answer = self.core.admit("POST", "/v1/payments", headers, self.body, NOW_MS, (True, True))
        assert isinstance(answer, Admission), answer
        self.core.release(answer)


class Oracle:
    """The same purchase by the second implementation."""

    def __init__(self) -> None:
        self._history = History(rules(ORACLE_POLICIES))
        self._number = 0

    def decide(self) -> None:
        """Decide one purchase, and cancel it again."""
        self._number += 1
        name = f"p{self._number}"
        pay = {
            "at": "2026-11-21T10:00:00+05:00",
            "event": "pay",
            "id": name,
            "operation": "purchase",
            "amount": 150_000_000,
            "currency": "UZS",
            "source_scheme": "visa",
            "source_card": CARD,
            "issuer_bin": "424242",
            "user": OWNER,
            "merchant": MERCHANT,
            "mcc": "5411",
            "country": "UZ",
            "tier": "identified",
            "channel": "mobile",
        }
        decided = self._history.feed(read_line(json.dumps(pay).encode()))
        assert decided["decision"] == "admit", decided
        end = {"at": pay["at"], "event": "cancel", "id": name}
        self._history.feed(read_line(json.dumps(end).encode()))


def timed(
    named: Iterable[tuple[str, Callable[[], None], int]], *, rounds: int, progress: Progress
) -> list[Timing]:
    """Time calls in turns.

    Args:
        named: a name, what is called, and how often a round.
    """
    timings = [(Timing(name, []), call, count) for name, call, count in named]
    gc.collect()
    with progress.step("Timing decisions") as step:
        for number in range(rounds + 1):
            step.note(f"round {number} of {rounds}" if number else "warming up")
            for timing, call, count in timings:
                started = time.perf_counter_ns()
                for _ in range(count):
                    call()
                elapsed_us = (time.perf_counter_ns() - started) / 1000 / count
                if number:
                    timing.microseconds.append(elapsed_us)
    return [timing for timing, _, _ in timings]


def measure(*, rounds: int, progress: Progress) -> list[str]:
    """Return a Markdown table of what decisions cost."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    cached = token(key, 0)
    cold = [token(key, number) for number in range(TOKENS_COLD)]
    turn = iter(range(10**9))
    with progress.step("Reading 100,000 policies and plans"):
        subjects = {count: Subject(key, count) for count in POLICIES_THAT_CANNOT_MATCH}
    oracle = Oracle()
    few = subjects[POLICIES_THAT_CANNOT_MATCH[0]]
    public = key.public_key()

    def peer() -> None:
        jwt.decode(
            cached,
            public,
            algorithms=["EdDSA"],
            audience="oqim-api",
            options={"verify_exp": False, "verify_iat": False},
        )

    headers = ((b"Authorization", b"Bearer " + cached),)
    named: list[tuple[str, Callable[[], None], int]] = [
        (
            f"core.admit, {count:,} policies and plans that cannot match",
            lambda subject=subject: subject.admit(cached),  # type: ignore[misc]  # bound now
            5_000,
        )
        for count, subject in subjects.items()
    ]
    named += [
        ("core.admit, token never seen", lambda: few.admit(cold[next(turn) % TOKENS_COLD]), 1_000),
        ("the oracle, same decision", oracle.decide, 200),
        ("core.authorize, token cached", lambda: _authorize(few.core, headers), 5_000),
        ("PyJWT decode, EdDSA", peer, 1_000),
    ]
    base, some, many, unseen, plain, verified, pyjwt = timed(
        named, rounds=rounds, progress=progress
    )
    return [
        "| decision | us | against | ratio |",
        "|---|---|---|---|",
        *(
            f"| {one.name} | {median(one.microseconds):.1f} | {against} | {ratio} |"
            for one, against, ratio in (
                (base, "the oracle", f"{base.ratio_to(plain):.0f}x faster"),
                (some, "10", f"{1 / some.ratio_to(base):.2f}x"),
                (many, "10", f"{1 / many.ratio_to(base):.2f}x"),
                (unseen, "PyJWT alone", f"{unseen.ratio_to(pyjwt):.1f}x faster"),
                (plain, "", ""),
                (verified, "PyJWT", f"{verified.ratio_to(pyjwt):.0f}x faster"),
                (pyjwt, "", ""),
            )
        ),
    ]


def _authorize(core: Core, headers: tuple[tuple[bytes, bytes], ...]) -> None:
    core.authorize(headers, "payments:write", NOW_MS)


def run(*, rounds: int) -> int:
    """Measure, and print the table. Returns the exit code."""
    for line in measure(rounds=rounds, progress=Progress()):
        print(line)
    return 0
