"""The small rows: what one decision, one token and one ISO 8583 message cost, against a peer.

No service and no network: the core, the second implementation of the rules, PyJWT and pyiso8583, in
turns in one process, so that what the machine does meanwhile falls on all. What is told are
microseconds of this run and, what counts, ratios of neighbours.
"""

import base64
import gc
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from statistics import median
from typing import Any

import iso8583
import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import settings as settings_module
from gateway.bench.message import FIELDS, MTI, SPEC
from gateway.bench.rows import Ratio
from gateway.core import Admission, Claims, Core, Iso8583, RuleSet, read_rules
from gateway.oracle.history import History
from gateway.oracle.lines import read_line
from gateway.sandbox.progress import Progress

NOW_MS = 1_795_237_200_000
CARD, OWNER, MERCHANT = "card_1", "usr_1", "mer_1"
# The oracle looks at every rule: more of them would measure patience.
POLICIES_THAT_CANNOT_MATCH = 10
# As many as are looked at in a round, of which the cache keeps a tenth: each is seen as if first.
TOKENS_COLD = 1_000
TOKENS_KEPT = 100

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

    microseconds: list[float]

    def ratios_to(self, other: "Timing") -> list[float]:
        """Return how many times this one's time another's is, one a round."""
        pairs = zip(self.microseconds, other.microseconds, strict=True)
        return [theirs / ours for ours, theirs in pairs]


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


Headers = tuple[tuple[bytes, bytes], ...]


def headers_of(bearer: bytes) -> Headers:
    """Return a payment's headers, as the gateway has them from the socket."""
    return (
        (b"Authorization", b"Bearer " + bearer),
        (b"Content-Type", b"application/json"),
        (b"Idempotency-Key", b"key-1"),
    )


class Subject:
    """A core with what one purchase needs in memory."""

    def __init__(
        self, key: Ed25519PrivateKey, cannot_match: int, *, subjects_max: int = 100
    ) -> None:
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
            token_cache_size_max=TOKENS_KEPT,
            card_cache_size_max=20_000,
            subject_cache_size_max=subjects_max,
        )
        self.core.add_key("k1", key.public_key().public_bytes_raw())
        self.core.mark_fresh(NOW_MS)
        lookup = self.core.lookup_of("4242420000000018")
        self.core.put_card(CARD, OWNER, "visa", "424242", lookup, True, 1)
        self.core.put_merchant(MERCHANT, "5411", "UZ")
        subjects = [f"card:{lookup}", f"user:{OWNER}", f"merchant:{MERCHANT}", "platform:oqim"]
        for subject in (*subjects, "issuer_bin:424242", "scheme:visa"):
            self.core.load_state(subject, 0, b"")
        self.body = self.body_of(CARD)

    def body_of(self, card: str) -> bytes:
        """Return a purchase by a card."""
        body = {
            "operation": "purchase",
            "amount": 150_000_000,
            "currency": "UZS",
            "source": {"card": card},
            "destination": {"merchant": MERCHANT},
            "description": "d" * 120,
            "metadata": {"order": "1001", "note": "n" * 100},
        }
        return json.dumps(body).encode()

    def admit(self, headers: Headers, body: bytes | None = None) -> None:
        """Decide one purchase, and forget it again."""
        self.core.release(self.decide(headers, body))

    def decide(self, headers: Headers, body: bytes | None = None) -> Admission:
        """Decide one purchase, by its card unless another body is given."""
        asked = body or self.body
        answer = self.core.admit("POST", "/v1/payments", headers, asked, NOW_MS, (True, True))
        assert isinstance(answer, Admission), answer
        return answer


class Oracle:
    """The same purchase by the second implementation, each under an id of its own.

    Args:
        decisions: how many are made; their lines are written here, before the clock.
    """

    def __init__(self, decisions: int) -> None:
        self._history = History(rules(POLICIES_THAT_CANNOT_MATCH))
        at = "2026-11-21T10:00:00+05:00"
        pay = {
            "at": at,
            "event": "pay",
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
        end = {"at": at, "event": "cancel"}
        self._lines = iter(
            [
                tuple(json.dumps(event | {"id": f"p{number}"}).encode() for event in (pay, end))
                for number in range(decisions)
            ]
        )

    def decide(self) -> None:
        """Decide one purchase, and cancel it again."""
        pay, end = next(self._lines)
        decided = self._history.feed(read_line(pay))
        assert decided["decision"] == "admit", decided
        self._history.feed(read_line(end))


Call = Callable[[], object]


def timed(
    calls: Sequence[tuple[Call, int]], *, rounds: int, title: str, progress: Progress
) -> list[Timing]:
    """Time calls in turns, after a round that warms up.

    Args:
        calls: what is called, and how often a round.

    Returns:
        list[n] of Timing, same order.
    """
    timings = [Timing([]) for _ in calls]
    gc.collect()
    with progress.step(title) as step:
        for number in range(rounds + 1):
            step.note(f"round {number} of {rounds}" if number else "warming up")
            for timing, (call, count) in zip(timings, calls, strict=True):
                started = time.perf_counter_ns()
                for _ in range(count):
                    call()
                elapsed_us = (time.perf_counter_ns() - started) / 1000 / count
                if number:
                    timing.microseconds.append(elapsed_us)
    return timings


def ratio_of(row: str, what: str, against: str, ours: Timing, theirs: Timing, **more: Any) -> Ratio:
    """Return what two timings of the same rounds say; `more` are further fields of a Ratio."""
    ratios = ours.ratios_to(theirs)
    return Ratio(
        row=row,
        what=what,
        against=against,
        ours_us=median(ours.microseconds),
        theirs_us=median(theirs.microseconds),
        ratio=median(ratios),
        least=min(ratios),
        greatest=max(ratios),
        **more,
    )


def admit(*, rounds: int, progress: Progress) -> list[Ratio]:
    """Compare one admission, forgotten again, with the same decision in plain Python.

    Headers, body and lines are there before the clock starts. The oracle reads a line of JSON; it
    verifies no token, and looks at no header.
    """
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    each = 200
    subject = Subject(key, POLICIES_THAT_CANNOT_MATCH)
    oracle = Oracle(decisions=each * (rounds + 1))
    headers = headers_of(token(key, 0))
    calls: list[tuple[Call, int]] = [
        (lambda: subject.admit(headers), 5_000),
        (oracle.decide, each),
    ]
    ours, theirs = timed(calls, rounds=rounds, title="admit", progress=progress)
    what = f"`core.admit`: token cached, 8 policies, 12 tiers, {len(subject.body)} bytes"
    against = "the test oracle, plain Python"
    return [ratio_of("admit", what, against, ours, theirs, goal=50.0, limit_us=10.0)]


def tokens(*, rounds: int, progress: Progress) -> list[Ratio]:
    """Compare the verification of a token, remembered and seen first, with PyJWT's."""
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    core, public = Subject(key, 0).core, key.public_key()
    remembered = ((b"Authorization", b"Bearer " + token(key, 0)),)
    cold = [token(key, number) for number in range(TOKENS_COLD)]
    ours_next, theirs_next = cycle(cold), cycle(cold)

    def cached() -> None:
        core.authorize(remembered, "payments:write", NOW_MS)

    def first_seen() -> None:
        core.inspect(next(ours_next), NOW_MS)

    def pyjwt() -> None:
        jwt.decode(
            next(theirs_next),
            public,
            algorithms=["EdDSA"],
            audience="oqim-api",
            issuer="https://oqim.local",
            # Its clock cannot be given.
            options={"verify_exp": False, "verify_iat": False},
        )

    assert isinstance(core.authorize(remembered, "payments:write", NOW_MS), Claims)
    assert isinstance(core.inspect(cold[0], NOW_MS), Claims)
    calls: list[tuple[Call, int]] = [
        (cached, 20_000),
        (first_seen, TOKENS_COLD),
        (pyjwt, TOKENS_COLD),
    ]
    hot, unseen, theirs = timed(calls, rounds=rounds, title="token", progress=progress)
    what, against = "verify an EdDSA token", "PyJWT decode"
    return [
        ratio_of("token", f"{what}, remembered", against, hot, theirs, goal=100.0),
        ratio_of("token", f"{what}, never seen", against, unseen, theirs, goal=2.0),
    ]


def messages(*, rounds: int, progress: Progress) -> list[Ratio]:
    """Compare unpacking and packing of one authorization request with pyiso8583's."""
    codec = Iso8583("visa-binary")
    packed = codec.pack(MTI, FIELDS)
    decoded, _ = iso8583.decode(packed, SPEC)
    assert bytes(iso8583.encode(decoded, SPEC)[0]) == packed, "the peers write different bytes"
    assert codec.unpack(packed) == (MTI, FIELDS)

    def ours() -> None:
        mti, fields = codec.unpack(packed)
        codec.pack(mti, fields)

    def theirs() -> None:
        doc, _ = iso8583.decode(packed, SPEC)
        iso8583.encode(doc, SPEC)

    calls: list[tuple[Call, int]] = [(ours, 20_000), (theirs, 1_000)]
    one, other = timed(calls, rounds=rounds, title="iso8583", progress=progress)
    what = f"ISO 8583 unpack and pack, {MTI} of {len(FIELDS)} fields"
    return [ratio_of("iso8583", what, "pyiso8583", one, other, goal=20.0)]


MICRO: dict[str, Callable[..., list[Ratio]]] = {
    "iso8583": messages,
    "token": tokens,
    "admit": admit,
}
