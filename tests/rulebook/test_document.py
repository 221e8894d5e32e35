"""What a change makes of the rules there are: pure, without a database."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core import RuleSet, read_rules
from gateway.rules.document import (
    Entry,
    beside_draft,
    document,
    named_by,
    warnings,
    with_delete,
    with_put,
)
from gateway.rules.times import millis, moment, parsed
from tests.rulebook.office import plan, policy


def entry(
    version: int,
    from_ms: int | None = None,
    to_ms: int | None = None,
    id: str = "p",
    **changes: Any,
) -> Entry:
    body = msgspec.json.encode(policy(id, version=version, **changes))
    return Entry("policy", id, version, body, from_ms, to_ms)


def ranges(entries: list[Entry]) -> dict[int, tuple[int | None, int | None]]:
    return {one.version: (one.from_ms, one.to_ms) for one in entries}


@pytest.mark.parametrize(
    ("before", "at_ms", "expected"),
    [
        ([], 10, {9: (10, None)}),
        ([entry(1)], 10, {1: (None, 10), 9: (10, None)}),
        ([entry(1, 5)], 10, {1: (5, 10), 9: (10, None)}),
        ([entry(1, None, 5)], 10, {1: (None, 5), 9: (10, None)}),
        ([entry(1, None, 15)], 10, {1: (None, 10), 9: (10, None)}),
        ([entry(1, 10)], 10, {9: (10, None)}),
        ([entry(1, None, 20), entry(2, 20)], 10, {1: (None, 10), 9: (10, None)}),
        ([entry(1, None, 5), entry(2, 5)], 10, {1: (None, 5), 2: (5, 10), 9: (10, None)}),
    ],
)
def test_a_version_ends_those_before_it(
    before: list[Entry], at_ms: int, expected: dict[int, Any]
) -> None:
    other = entry(1, id="other")
    after = with_put([*before, other], entry(9), at_ms=at_ms)
    assert ranges([one for one in after if one.id == "p"]) == expected
    assert other in after, "nothing else is touched"


def test_a_deletion_ends_what_there_is_and_what_was_to_come() -> None:
    before = [entry(1, None, 20), entry(2, 20), entry(1, id="other")]
    assert ranges(with_delete(before, "policy", "p", at_ms=10)[:-1]) == {1: (None, 10)}
    assert with_delete(before, "policy", "p", at_ms=10)[-1] == before[-1]


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 40), st.integers(1, 40)), max_size=12),
    st.integers(0, 60),
)
def test_the_highest_version_whose_time_has_come_is_in_force(
    changes: list[tuple[bool, int, int]], at_ms: int
) -> None:
    """Whatever is put and deleted, at every moment one version at most is, and it is the last."""
    entries: list[Entry] = []
    expected: int | None = None
    for version, (is_put, begins, lasts) in enumerate(changes, start=1):
        if is_put:
            entries = with_put(entries, entry(version, None, begins + lasts), at_ms=begins)
        else:
            entries = with_delete(entries, "policy", "p", at_ms=begins)
        if begins <= at_ms:
            expected = version if is_put and at_ms < begins + lasts else None
    in_force = [one.version for one in entries if one.is_in_force(at_ms)]
    assert in_force == ([] if expected is None else [expected])
    assert isinstance(read_rules(document(entries, [])), RuleSet), "no two meet"


def test_a_document_is_what_the_core_reads() -> None:
    from_ms, to_ms = 1_795_000_000_123, 1_795_000_000_456
    text = document([entry(3, from_ms, to_ms)], [{"currency": "USD", "date": "2026-11-20"}])
    read = msgspec.json.decode(text)
    (one,) = read["limit_policies"]
    assert one["version"] == 3
    assert [parsed(one[name]) for name in ("effective_from", "effective_to")] == [from_ms, to_ms]
    assert read["commission_plans"] == []
    assert read["rates"] == [{"currency": "USD", "date": "2026-11-20"}]


def test_what_a_draft_meets_is_named() -> None:
    draft = plan("draft", version=1)
    other = plan("other", version=4, match=draft["match"])
    apart = plan("apart", version=1, priority=5)
    entries = [
        Entry("plan", one["id"], one["version"], msgspec.json.encode(one), None, None)
        for one in (draft, apart, other)
    ]
    read = read_rules(document([entry(1), *entries], []))
    assert isinstance(read, list)
    assert named_by(read, [entry(1), *entries]) == [entries[2]]
    assert beside_draft(entries, [entries[0]], [("plan", "other")]) == [entries[1]]
    assert beside_draft(entries, [], [("policy", "other")]) == entries


def _plan(id: str, operations: list[str] | None, to_ms: int | None = None) -> Entry:
    match = {} if operations is None else {"match": {"operation": operations}}
    return Entry("plan", id, 1, msgspec.json.encode({"id": id} | match), None, to_ms)


def test_it_warns_of_an_operation_without_a_plan() -> None:
    everything, payout = _plan("all", None), _plan("payout", ["payout"])
    ended = _plan("payout", ["payout"], 10)
    assert warnings([everything, payout], [everything, ended], [10]) == []
    assert warnings([payout], [ended], [10]) == [
        "From 1970-01-01T05:00:00.010+05:00 no plan covers payout: it is refused."
    ]
    assert warnings([everything, payout], [_plan("all", None, 10), payout], [10]) == [
        f"From 1970-01-01T05:00:00.010+05:00 no plan covers {operation}: it is refused."
        for operation in ("purchase", "transfer")
    ]
    assert warnings([payout], [_plan("payout", ["payout"], 20)], [10, 20]) == [
        "From 1970-01-01T05:00:00.020+05:00 no plan covers payout: it is refused."
    ]


def test_it_warns_of_a_version_that_never_comes() -> None:
    before = [entry(1, None, 20), entry(2, 20)]
    after = with_put(before, entry(3), at_ms=10)
    assert warnings(before, after, [10]) == ["Version 2, scheduled, never comes into force."]


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-22T10:00:00",
        "2026-11-22 10:00:00Z",
        "2026-11-22t10:00:00Z",
        "2026-11-22T10:00Z",
        "2026-11-22T10:00:00.Z",
        "2026-11-22T10:00:00.1234567890Z",
        "2026-11-22T10:00:60Z",
        "2026-11-22T24:00:00Z",
        "2026-13-01T10:00:00Z",
        "2026-02-29T10:00:00Z",
        "0000-01-01T00:00:00Z",
        "2026-11-22T10:00:00+24:00",
        "2026-11-22T10:00:00+0500",
        "20261122T100000Z",
        "2026-W47-7T10:00:00Z",
        "\u0662026-11-22T10:00:00Z",
        "2026-11-22T10:00:00Z\n",
        "",
    ],
)
def test_what_is_no_moment_is_read_by_nobody(text: str) -> None:
    """Here and in the core: what one took and the other did not would be lost between them."""
    assert parsed(text) is None
    read = read_rules(msgspec.json.encode({"limit_policies": [policy("p", effective_from=text)]}))
    assert isinstance(read, list)
    assert [pointer for pointer, _ in read] == ["/limit_policies/0/effective_from"]


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [
        ("1970-01-01T05:00:00+05:00", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01T00:00:00.0019999Z", 1),
        ("1970-01-01T00:00:00.1Z", 100),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1969-12-31T23:59:59.9989Z", -2),
        ("9999-12-31T18:59:59Z", 253_402_282_799_000),
    ],
)
def test_a_moment_is_read_alike(text: str, at_ms: int) -> None:
    assert parsed(text) == at_ms
    assert millis(moment(at_ms)) == at_ms
    body = policy("p", effective_from=text)
    assert isinstance(read_rules(msgspec.json.encode({"limit_policies": [body]})), RuleSet)
