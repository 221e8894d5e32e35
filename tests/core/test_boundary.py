"""Whatever is handed to the core, a panic of its own never comes out of it.

A panic reaches Python as an exception that is no `Exception`: a handler, or a batch that others
wait for, would end without answering anybody.
"""

import base64
import contextlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import core as core_module
from gateway.core import (
    Admission,
    Claims,
    Core,
    Decider,
    Iso8583,
    Missing,
    RawAnswers,
    RuleSet,
    Simulation,
    read_plain,
)

NOW_S = 1_795_000_000
NOW_MS = NOW_S * 1_000
I64_MIN, I64_MAX = -(2**63), 2**63 - 1
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RULES = json.dumps(
    {
        "commission_plans": [
            {
                "id": "p",
                "payer": "sender",
                "components": [{"name": "b", "kind": "percent", "percent": "1.5"}],
                "on_refund": "proportional",
            }
        ],
        "limit_policies": [
            {
                "id": policy_id,
                "subject": subject,
                "window": window,
                "max_amount": 10**15,
                "currency": currency,
            }
            for policy_id, subject, window, currency in [
                ("single", "platform", {"kind": "operation"}, "UZS"),
                ("minute", "card", {"kind": "rolling", "seconds": 60}, "UZS"),
                ("hour", "user", {"kind": "calendar", "unit": "hour"}, "UZS"),
                ("week", "user", {"kind": "calendar", "unit": "week"}, "USD"),
                ("year", "card", {"kind": "calendar", "unit": "year"}, "UZS"),
            ]
        ],
        "rates": [{"currency": "USD", "date": "2026-11-18", "rate": "12021.22", "nominal": 1}],
    }
).encode()
ROUTING = json.dumps(
    {
        "bins": [{"prefix": "9860", "scheme": "humo"}],
        "routes": [
            {
                "operation": "purchase",
                "source_scheme": "humo",
                "currencies": ["UZS"],
                "legs": [{"connector": "humo", "kind": "purchase"}],
            }
        ],
    }
).encode()
BODY = {
    "operation": "purchase",
    "amount": 1_000,
    "currency": "UZS",
    "source": {"card": "card_1"},
    "destination": {"merchant": "mer_1"},
}


def token(now_s: int = NOW_S) -> bytes:
    """Return a good token, issued at that second."""
    claims = {
        "iss": "https://oqim",
        "aud": "oqim-api",
        "sub": "usr_1",
        "client_id": "app",
        "scope": "payments:write limits:read",
        "sid": "ses_1",
        "jti": "j1",
        "iat": now_s,
        "exp": now_s + 300,
        "tier": "basic",
        "channel": "mobile",
        "device": "d1",
    }
    header = {"alg": "EdDSA", "typ": "at+jwt", "kid": "k1"}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header, claims)
    ]
    signed = b".".join(parts)
    return signed + b"." + base64.urlsafe_b64encode(KEY.sign(signed)).rstrip(b"=")


def headers(now_s: int = NOW_S) -> list[tuple[bytes, bytes]]:
    """Return the headers of a payment request."""
    return [
        (b"Authorization", b"Bearer " + token(now_s)),
        (b"Content-Type", b"application/json"),
        (b"Idempotency-Key", b"k1"),
    ]


@cache
def rules() -> RuleSet:
    """Return the rules, read."""
    read = core_module.read_rules(RULES)
    assert isinstance(read, RuleSet), read
    return read


def new_core() -> Core:
    """Return a core that admits `BODY`."""
    core = Core(
        rules=rules(),
        generation=1,
        routing=ROUTING,
        issuer="https://oqim",
        audience="oqim-api",
        lookup_key=b"l" * 32,
        quote_key=b"q" * 32,
        quote_ttl_ms=60_000,
        feed_age_ms_max=I64_MAX,
        token_cache_size_max=16,
        card_cache_size_max=16,
        subject_cache_size_max=16,
    )
    core.add_key("k1", KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
    core.put_card("card_1", "usr_1", "humo", "986001", "ab" * 32, True, 1)
    core.put_merchant("mer_1", "5411", "UZ")
    return core


def admitted(core: Core, now_ms: int = NOW_MS, amount: int = 1_000) -> Any:
    """Return what comes of `BODY` once everything it touches is loaded."""
    body = json.dumps({**BODY, "amount": amount}).encode()
    call = ("POST", "/v1/payments", headers(now_ms // 1_000), body, now_ms, (True, True))
    answer = core.admit(*call)
    if isinstance(answer, Missing):
        for subject in answer.subjects:
            core.load_state(subject, 0, b"")
        answer = core.admit(*call)
    return answer


def claims_of(core: Core) -> Claims:
    """Return the claims of a good token."""
    claims = core.authorize(headers(), "", NOW_MS)
    assert isinstance(claims, Claims)
    return claims


@cache
def record() -> bytes:
    """Return a stored decision."""
    admission = admitted(new_core())
    assert isinstance(admission, Admission), admission.body("req_1")
    return admission.record


def give_back(given_record: bytes, change: tuple[int, ...] | None) -> object:
    """Give back what a stored decision took, to a card whose state is known."""
    core = new_core()
    core.load_state("card:" + "ab" * 32, 1, b"")
    return core.stage_give_back([(given_record, change)])


i64 = st.one_of(
    st.sampled_from([I64_MIN, I64_MIN + 1, -1, 0, 1, NOW_S, NOW_MS, I64_MAX - 1, I64_MAX]),
    st.integers(I64_MIN, I64_MAX),
)
u64 = st.one_of(st.sampled_from([0, 1, 2**63, 2**64 - 1]), st.integers(0, 2**64 - 1))
# What a clock or a stored row may say, to the year 9999.
moment = st.one_of(st.sampled_from([0, NOW_MS]), st.integers(0, 253_402_300_799_999))
bounds = st.one_of(
    st.just([0.1, 1.0]),
    st.lists(st.floats(), max_size=40),
    st.lists(st.floats(), max_size=40).map(sorted),
)
amount = st.one_of(st.sampled_from([0, 1, 999, 1_000, 10**15]), st.integers(0, 10**15))
# A string of Python may hold what no UTF-8 can.
text = st.one_of(st.text(max_size=40), st.sampled_from(["", "usr_1", "\ud800", "\0", "UZS"]))
raw = st.binary(max_size=200)
heads = st.lists(
    st.sampled_from([b"GET ", b"\r\n", b"Host:", b"Content-Length: 2", b"a", b":", b"\xff", b"{}"]),
    max_size=20,
).map(lambda parts: b"GET " + b"".join(parts))
named_texts = st.lists(st.tuples(text, text), max_size=5)
raw_headers = st.lists(
    st.tuples(
        st.sampled_from(
            [b"authorization", b"content-type", b"idempotency-key", b"content-encoding", b"x"]
        ),
        st.one_of(
            raw,
            st.sampled_from(
                [b"", b"Bearer ", b"application/json", b'"', b'"\\', b"Bearer " + token()]
            ),
        ),
    ),
    max_size=5,
)
json_bytes = st.recursive(
    st.none() | st.booleans() | i64 | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner),
    max_leaves=10,
).map(lambda value: json.dumps(value).encode())
fresh = st.tuples(st.booleans(), st.booleans())


def damaged(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return bytes that are nearly those."""
    places = st.lists(
        st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), min_size=1, max_size=4
    )

    def damage(changes: list[tuple[int, int]]) -> bytes:
        copy = bytearray(whole)
        for at, byte in changes:
            copy[at] = byte
        return bytes(copy)

    return st.one_of(raw, places.map(damage), st.integers(0, len(whole)).map(lambda n: whole[:n]))


Work = Callable[..., object]
CASES: dict[str, tuple[Work, tuple[st.SearchStrategy[Any], ...]]] = {
    "read_plain": (
        read_plain,
        (heads, st.one_of(st.just(4), st.integers(0, 2**64)), st.integers(0, 2**64)),
    ),
    "RawAnswers": (
        lambda *given: RawAnswers(given[0]).write(*given[1:]),
        (named_texts, st.integers(-1, 70_000), text, text, text, named_texts, raw, i64),
    ),
    "add_key": (lambda *given: new_core().add_key(*given), (text, raw)),
    "revoke": (
        lambda *given: new_core().revoke(*given),
        (i64, st.sampled_from(["jti", "sid", "sub", "client", "x"]), text, i64, i64),
    ),
    "mark_fresh": (lambda *given: new_core().mark_fresh(*given), (i64,)),
    "cache_usage": (lambda: new_core().cache_usage(), ()),
    "remove_key": (lambda *given: new_core().remove_key(*given), (text,)),
    "inspect": (lambda *given: new_core().inspect(*given), (raw, i64)),
    "check_feed": (lambda *given: new_core().check_feed(*given), (i64,)),
    "load_state": (
        lambda *given: new_core().load_state(*given),
        (text, i64, raw | raw.map(b"\x02".__add__)),
    ),
    "authorize": (lambda *given: new_core().authorize(*given), (raw_headers, text, i64)),
    "admit": (
        lambda *given: new_core().admit(*given),
        (text, text, raw_headers, raw | json_bytes, i64, fresh),
    ),
    "quote": (
        lambda *given: new_core().quote(*given),
        (text, text, raw_headers, raw | json_bytes, i64, fresh),
    ),
    "limits": (
        lambda *given: (core := new_core()).limits(claims_of(core), *given),
        (text | st.just("card_1"), text | st.just("purchase"), moment, fresh),
    ),
    "stage_give_back": (
        give_back,
        (damaged(record()), st.none() | st.lists(amount, max_size=4).map(tuple)),
    ),
    "commission": (lambda *given: new_core().commission(*given), (st.just("p"), u64, i64)),
    "commission_returned": (
        lambda *given: new_core().commission_returned(*given),
        (st.just("p"), st.just(1), i64, i64, i64),
    ),
    "scheme_of": (lambda *given: new_core().scheme_of(*given), (text,)),
    "lookup_of": (lambda *given: new_core().lookup_of(*given), (text,)),
    "pack": (
        lambda *given: Iso8583("visa-binary").pack(*given),
        (
            text | st.just("0100"),
            st.dictionaries(st.integers(-1, 300), st.text("0123456789 A", max_size=60) | raw),
        ),
    ),
    "unpack": (lambda given: Iso8583("visa-binary").unpack(given), (raw,)),
    "counter": (lambda given: core_module.Counter().add(given), (i64,)),
    "histogram": (
        lambda bounds, value: core_module.Histogram(bounds).observe(value),
        (bounds, st.floats()),
    ),
    "answers": (
        lambda bounds, *given: core_module.Answers(bounds).observe(*given),
        (bounds, st.integers(-1, 70_000), st.floats()),
    ),
    "read_rules": (core_module.read_rules, (damaged(RULES) | json_bytes,)),
    "record_json": (core_module.record_json, (damaged(record()),)),
    "read_body": (core_module.read_body, (raw_headers, raw | json_bytes)),
    "idempotency": (
        lambda *given: core_module.idempotency(claims_of(new_core()), *given),
        (text, text, raw_headers, raw),
    ),
    "is_pan": (core_module.is_pan, (text,)),
    "rfc3339": (core_module.rfc3339, (moment,)),
    "year_month": (core_module.year_month, (moment,)),
    "decide": (lambda given: Decider(RULES).feed(given), (raw | json_bytes,)),
    "simulate": (
        lambda *given: Simulation().feed([given]),
        (text, text, damaged(record()), amount, amount, text),
    ),
    "admitted": (
        lambda now_ms, amount: admitted(new_core(), now_ms, amount),
        (moment, st.integers(1, 10**15)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_core_answers_or_says_what_is_wrong(name: str) -> None:
    """A value that does not fit is a ValueError, a TypeError or an OverflowError."""
    work, strategies = CASES[name]

    @settings(max_examples=200, deadline=None)
    @given(st.tuples(*strategies))
    def check(given_values: tuple[Any, ...]) -> None:
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            work(*given_values)

    check()


def test_what_the_cases_start_from_is_sound() -> None:
    """The core of these tests admits a payment; otherwise they would end at its door."""
    core = new_core()
    admission = admitted(core)

    assert isinstance(admission, Admission)
    assert (admission.amount_minor, admission.sub) == (1_000, "usr_1")
    assert core.stage([admission]).admitted == [0]


def test_every_entrance_of_the_core_is_tried() -> None:
    """A function that is added to the core is added to the cases too."""
    tried_with_others = {"stage", "commit", "unstage", "roll_back", "release", "use_rules"}
    plain = {"put_card", "put_no_card", "forget_card", "put_merchant", "put_no_merchant"}
    attributes = {"applied_seq", "generation", "problem_kinds", "check_version"}
    of_core = {name for name in dir(Core) if not name.startswith("_")}
    of_module = {name for name in core_module.__all__ if name[0].islower()}

    assert of_core | of_module <= {*CASES, *tried_with_others, *plain, *attributes}
