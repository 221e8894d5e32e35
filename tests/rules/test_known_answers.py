"""What is published about the rules, answer by answer, in the order in which it is published.

Every table is asked of the engine and of the oracle.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.oracle.windows import TASHKENT
from tests.rules.deciders import (
    OPERATION,
    Decide,
    Json,
    at,
    by_engine,
    by_oracle,
    calendar,
    later,
    pay,
    plan,
    policy,
    rolling,
    rules,
)


@pytest.fixture(params=[by_engine, by_oracle], ids=["engine", "oracle"])
def decide(request: pytest.FixtureRequest) -> Decide:
    """Whoever is asked."""
    chosen: Decide = request.param
    return chosen


# Commissions --------------------------------------------------------------------------------

TRANSFER_HUMO = {
    "id": "transfer-humo",
    "version": 3,
    "effective_from": "2026-11-01T00:00:00+05:00",
    "effective_to": None,
    "priority": 100,
    "match": {
        "operation": ["transfer"],
        "source_scheme": ["humo"],
        "destination_scheme": ["uzcard", "humo"],
        "tier": ["identified"],
        "channel": ["mobile"],
        "merchant": [],
        "mcc": [],
        "currency": ["UZS"],
    },
    "payer": "sender",
    "components": [
        {
            "name": "bank",
            "kind": "percent",
            "percent": "0.5",
            "min": 50000,
            "max": 5000000,
            "rounding": "half_up",
            "vat_percent": "12",
        },
        {"name": "processor", "kind": "fixed", "amount": 20000},
        {
            "name": "volume",
            "kind": "tiered",
            "mode": "graduated",
            "rounding": "half_even",
            "tiers": [
                {"up_to": 100000000, "percent": "1", "fixed": 0},
                {"up_to": None, "percent": "0.5", "fixed": 20000},
            ],
        },
    ],
    "split": [{"party": "bank", "share": "70"}, {"party": "partner", "share": "30"}],
    "on_refund": "none",
}


def _transfer(amount: int, **changes: Any) -> Json:
    facts = {"operation": "transfer", "destination_scheme": "uzcard", "tier": "identified"}
    return pay("p1", amount, **(facts | changes))


def test_the_worked_example(decide: Decide) -> None:
    """1.5 million soum by the published plan: every line, the total, the split, the debit."""
    (answer,) = decide(rules(plans=[TRANSFER_HUMO]), [_transfer(150_000_000)])
    assert answer == {
        "id": "p1",
        "event": "pay",
        "decision": "admit",
        "code": None,
        "breaches": [],
        "commission": {
            "total": 2_130_000,
            "payer": "sender",
            "plan": "transfer-humo",
            "lines": [
                {"component": "bank", "amount": 750_000, "exact": "750000"},
                {"component": "bank", "amount": 90_000, "exact": "90000"},
                {"component": "processor", "amount": 20_000, "exact": "20000"},
                {"component": "volume", "amount": 1_270_000, "exact": "1270000"},
            ],
            "split": {"bank": 1_491_000, "partner": 639_000},
        },
        "total_debit": 152_130_000,
        "total_credit": 150_000_000,
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"operation": "purchase"},
        {"source_scheme": "uzcard"},
        {"source_scheme": None},
        {"destination_scheme": "visa"},
        {"destination_scheme": None},
        {"tier": "basic"},
        {"channel": "web"},
        {"currency": "USD"},
        {"at": "2026-10-31T23:59:59.999+05:00"},
        {"at": "2026-10-31T18:59:59Z"},
    ],
)
def test_no_plan_that_matches_refuses(decide: Decide, changes: Json) -> None:
    (answer,) = decide(rules(plans=[TRANSFER_HUMO]), [_transfer(1000, **changes)])
    assert answer == {
        "id": "p1",
        "event": "pay",
        "decision": "refuse",
        "code": "commission-plan-missing",
        "breaches": [],
        "commission": None,
        "total_debit": None,
        "total_credit": None,
    }


@pytest.mark.parametrize(
    ("total", "shares", "parts"),
    [
        (99, ["50", "50"], [50, 49]),
        (99, ["20", "20", "20", "20", "20"], [20, 20, 20, 20, 19]),
        (100, ["80", "14", "3", "3"], [80, 14, 3, 3]),
        (0, ["33.333333", "66.666667"], [0, 0]),
    ],
)
def test_a_split_leaves_nothing_over(
    decide: Decide, total: int, shares: list[str], parts: list[int]
) -> None:
    split = [{"party": f"party-{one}", "share": share} for one, share in enumerate(shares)]
    ours = plan({"name": "ours", "kind": "fixed", "amount": total}, split=split)
    (answer,) = decide(rules(plans=[ours]), [pay("p1", 1000)])
    assert parts == list(answer["commission"]["split"].values())
    assert [one["party"] for one in split] == list(answer["commission"]["split"])


STEPS = [
    {"up_to": 1000_00, "percent": "1", "fixed": 200_00},
    {"up_to": 10000_00, "percent": "2", "fixed": 300_00},
    {"up_to": None, "percent": "3", "fixed": 400_00},
]
TENTHS = [
    {"up_to": 1000_00, "percent": "10", "fixed": 0},
    {"up_to": 10000_00, "percent": "5", "fixed": 0},
    {"up_to": None, "percent": "1", "fixed": 0},
]


@pytest.mark.parametrize(
    ("mode", "tiers", "amount", "total"),
    [
        ("graduated", STEPS, 500_00, 205_00),
        ("graduated", STEPS, 1050_00, 511_00),
        ("graduated", STEPS, 5050_00, 591_00),
        ("volume", TENTHS, 15000_00, 150_00),
        ("graduated", TENTHS, 15000_00, 600_00),
        # An amount equal to `up_to` lies wholly in that tier; a unit more does not.
        ("graduated", STEPS, 1000_00, 210_00),
        ("graduated", STEPS, 1000_01, 510_00),
        ("volume", TENTHS, 1000_00, 100_00),
        ("volume", TENTHS, 1000_01, 50_00),
    ],
)
def test_tiers(decide: Decide, mode: str, tiers: list[Json], amount: int, total: int) -> None:
    """The published steps, in minor units."""
    ours = plan({"name": "ours", "kind": "tiered", "mode": mode, "tiers": tiers})
    (answer,) = decide(rules(plans=[ours]), [pay("p1", amount)])
    assert total == answer["commission"]["total"]


@pytest.mark.parametrize(
    ("rounding", "percent", "amount", "exact", "rounded"),
    [
        ("half_up", "0.5", 100, "1/2", 1),
        ("half_even", "0.5", 100, "1/2", 0),
        ("half_even", "0.5", 300, "3/2", 2),
        ("half_even", "0.5", 102, "51/100", 1),
        ("up", "0.000001", 1, "1/100000000", 1),
        ("up", "1", 100, "1", 1),
        ("down", "0.999999", 100, "999999/1000000", 0),
        (None, "7.5", 100, "15/2", 8),
    ],
)
def test_rounding(
    decide: Decide, rounding: str | None, percent: str, amount: int, exact: str, rounded: int
) -> None:
    """Rounded once, by the named rule; ties away from zero when none is named."""
    component = {"name": "ours", "kind": "percent", "percent": percent}
    if rounding is not None:
        component["rounding"] = rounding
    (answer,) = decide(rules(plans=[plan(component)]), [pay("p1", amount)])
    expected = [{"component": "ours", "amount": rounded, "exact": exact}]
    assert expected == answer["commission"]["lines"]


@pytest.mark.parametrize(
    ("payer", "amount", "debit", "credit"),
    [
        ("sender", 100, 200, 100),
        ("receiver", 101, 101, 1),
        ("bank", 100, 100, 100),
        ("receiver", 100, None, None),
        ("receiver", 99, None, None),
    ],
)
def test_the_payer_carries_the_commission(
    decide: Decide, payer: str, amount: int, debit: int | None, credit: int | None
) -> None:
    """A receiver left without one minor unit is a refusal."""
    ours = plan({"name": "ours", "kind": "fixed", "amount": 100}, payer=payer)
    (answer,) = decide(rules(plans=[ours]), [pay("p1", amount)])
    assert (debit, credit) == (answer["total_debit"], answer["total_credit"])
    assert (None if debit else "commission-exceeds-amount") == answer["code"]


@pytest.mark.parametrize(
    ("on_refund", "returned"),
    [("none", [0, 0, 0, 0]), ("full", [0, 0, 0, 10]), ("proportional", [3, 3, 3, 1])],
)
def test_refunds_give_the_commission_back(
    decide: Decide, on_refund: str, returned: list[int]
) -> None:
    """Of 10 on a captured 100, refunded by 33, 33, 33 and 1."""
    ours = plan({"name": "ours", "kind": "percent", "percent": "10"}, on_refund=on_refund)
    lines = [pay("p1", 200), later("capture", "p1", amount=100)]
    lines += [later("refund", "p1", amount=amount) for amount in (33, 33, 33, 1)]
    answers = decide(rules(plans=[ours]), lines)
    assert returned == [answer["commission_returned"] for answer in answers[2:]]
    assert all(answer["ok"] for answer in answers[1:])


def test_a_capture_has_its_commission_anew(decide: Decide) -> None:
    """By the version of the authorization, though another is in force by then."""
    component = {"name": "ours", "kind": "percent", "percent": "10"}
    versions = [
        plan(component, effective_to=at(60)),
        plan(component | {"percent": "50"}, version=2, effective_from=at(60)),
    ]
    lines = [
        pay("p1", 200),
        pay("p2", 200, at(60)),
        later("capture", "p1", at(61), amount=100),
    ]
    answers = decide(rules(plans=versions), lines)
    assert [answer["commission"]["total"] for answer in answers] == [20, 100, 10]


# Limits -------------------------------------------------------------------------------------


def _verdicts(answers: list[Json]) -> list[str | bool]:
    """Return the decision of each payment, and whether each event after one was done."""
    return [answer["decision"] if "decision" in answer else answer["ok"] for answer in answers]


def test_ten_in_a_rolling_minute(decide: Decide) -> None:
    """At t=0..9: the 11th at t=10 is refused, and told t=61, from when on it passes."""
    ours = rules(policies=[policy(window=rolling(60), max_count=10)])
    taken = [pay(f"p{second}", 1, at(second)) for second in range(10)]
    tries = [pay("a", 1, at(10)), pay("b", 1, at(60.999)), pay("c", 1, at(61))]
    answers = decide(ours, [*taken, *tries, pay("d", 1, at(61))])
    assert _verdicts(answers) == ["admit"] * 10 + ["refuse", "refuse", "admit", "refuse"]
    assert answers[10] == {
        "id": "a",
        "event": "pay",
        "decision": "refuse",
        "code": "limit-exceeded",
        "breaches": [{"policy": "policy", "used": 10, "asked": 1, "cap": 10, "resets_at": at(61)}],
        "commission": None,
        "total_debit": None,
        "total_credit": None,
    }


def test_a_thousand_in_a_rolling_day(decide: Decide) -> None:
    """600 passes, 500 is refused, 400 passes."""
    ours = rules(policies=[policy(window=rolling(86_400), max_amount=1000)])
    lines = [pay("p1", 600, at(0)), pay("p2", 500, at(1)), pay("p3", 400, at(2))]
    answers = decide(ours, lines)
    assert _verdicts(answers) == ["admit", "refuse", "admit"]
    # Buckets of 24 minutes, counted from the Unix epoch: the one that holds 10:00 ends at 10:12.
    resets_at = at(86_400 + 12 * 60)
    expected = {"policy": "policy", "used": 600, "asked": 500, "cap": 1000}
    assert [expected | {"resets_at": resets_at}] == answers[1]["breaches"]


def test_single_month_and_year(decide: Decide) -> None:
    """Single 1000, month 10000 and year 12000: the year bites in the second month."""
    ours = rules(
        policies=[
            policy(id="single", window=OPERATION, max_amount=1000),
            policy(id="month", window=calendar("month"), max_amount=10_000),
            policy(id="year", window=calendar("year"), max_amount=12_000),
        ]
    )
    january, february, next_year = (
        datetime(year, month, 1, tzinfo=TASHKENT).isoformat(timespec="milliseconds")
        for year, month in ((2026, 1), (2026, 2), (2027, 1))
    )
    lines = [
        pay("single", 1001, january),
        *(pay(f"january-{number}", 1000, january) for number in range(11)),
        *(pay(f"february-{number}", 1000, february) for number in range(3)),
        pay("next-year", 1000, next_year),
    ]
    answers = decide(ours, lines)
    passed = {answer["id"] for answer in answers if answer["decision"] == "admit"}
    assert passed == {
        *(f"january-{number}" for number in range(10)),
        *("february-0", "february-1", "next-year"),
    }
    refused = {answer["id"]: answer["breaches"] for answer in answers if answer["breaches"]}
    assert refused == {
        "single": [{"policy": "single", "used": 0, "asked": 1001, "cap": 1000, "resets_at": None}],
        "january-10": [
            {
                "policy": "month",
                "used": 10_000,
                "asked": 1000,
                "cap": 10_000,
                "resets_at": february,
            }
        ],
        "february-2": [
            {
                "policy": "year",
                "used": 12_000,
                "asked": 1000,
                "cap": 12_000,
                "resets_at": next_year,
            }
        ],
    }


@pytest.mark.parametrize(
    ("end", "left"),
    [
        ([later("capture", "hold", amount=100)], 23),
        ([later("capture", "hold", amount=123)], 0),
        ([later("cancel", "hold")], 123),
        ([later("decline", "hold")], 123),
        ([later("capture", "hold", amount=124)], 0),
        ([later("capture", "hold", amount=100), later("refund", "hold", amount=100)], 23),
    ],
)
def test_what_a_hold_returns(decide: Decide, end: list[Json], left: int) -> None:
    """Hold 123 of 123, capture 100: 23 return; cancel: 123 return. A refund gives back nothing."""
    ours = rules(policies=[policy(max_amount=123)])
    lines = [pay("hold", 123), *end, pay("more", left + 1)]
    lines += [pay("left", left)] if left else []
    answers = decide(ours, lines)[1 + len(end) :]
    assert [{"used": 123 - left, "asked": left + 1}] == [
        {"used": breach["used"], "asked": breach["asked"]} for breach in answers[0]["breaches"]
    ]
    assert ["refuse", "admit"][: len(answers)] == _verdicts(answers)


@pytest.mark.parametrize("first", ["capture", "cancel", "decline"])
@pytest.mark.parametrize("second", ["capture", "cancel", "decline"])
def test_the_end_is_the_end(decide: Decide, first: str, second: str) -> None:
    """A second capture or a cancel after the end is refused, and changes nothing."""
    ours = rules(policies=[policy(max_amount=123)])
    ends = [
        later(event, "hold", **({"amount": 23} if event == "capture" else {}))
        for event in (first, second)
    ]
    answers = decide(ours, [pay("hold", 123), *ends, pay("more", 100), pay("most", 23)])
    assert _verdicts(answers)[1:4] == [True, False, "admit"]
    assert ("refuse" if first == "capture" else "admit") == answers[4]["decision"]
    assert {
        "id": "hold",
        "event": second,
        "ok": False,
        "commission": None,
        "commission_returned": 0,
    } == answers[2]


@pytest.mark.fault(rows=[51], what="either side of midnight and of a month")
@pytest.mark.parametrize(
    ("unit", "last", "first"),
    [
        ("hour", "2026-11-21T10:59:59.999+05:00", "2026-11-21T11:00:00.000+05:00"),
        ("day", "2026-11-21T23:59:59.999+05:00", "2026-11-22T00:00:00.000+05:00"),
        ("week", "2026-11-22T23:59:59.999+05:00", "2026-11-23T00:00:00.000+05:00"),
        ("month", "2026-11-30T23:59:59.999+05:00", "2026-12-01T00:00:00.000+05:00"),
        ("year", "2026-12-31T23:59:59.999+05:00", "2027-01-01T00:00:00.000+05:00"),
    ],
)
def test_calendar_windows_are_those_of_tashkent(
    decide: Decide, unit: str, last: str, first: str
) -> None:
    """Each ends where its first millisecond says, weeks on Monday."""
    ours = rules(policies=[policy(window=calendar(unit), max_count=1)])
    lines = [pay("p1", 1), pay("p2", 1, last), pay("p3", 1, first)]
    answers = decide(ours, lines)
    assert _verdicts(answers) == ["admit", "refuse", "admit"]
    assert first == answers[1]["breaches"][0]["resets_at"]


@pytest.mark.parametrize(
    ("subject", "fact"),
    [
        ("card", "source_card"),
        ("destination_card", "destination_card"),
        ("user", "user"),
        ("merchant", "merchant"),
        ("device", "device"),
        ("issuer_bin", "issuer_bin"),
        ("scheme", "source_scheme"),
        ("platform", None),
    ],
)
def test_subjects(decide: Decide, subject: str, fact: str | None) -> None:
    """Each counts for itself; a payment without it is not counted, but for the platform's."""
    ours = rules(policies=[policy(subject=subject, max_count=1)])
    others = {fact: "another"} if fact else {}
    nobody = {fact: None} if fact else {}
    one = {fact: "one"} if fact else {}
    lines = [
        pay("one", 1, **one),
        pay("again", 1, **one),
        pay("other", 1, **others),
        pay("nobody", 1, **nobody),
        pay("nobody-again", 1, **nobody),
    ]
    rest = ["admit", "admit", "admit"] if fact else ["refuse", "refuse", "refuse"]
    assert ["admit", "refuse", *rest] == _verdicts(decide(ours, lines))


def test_precedence_of_reasons(decide: Decide) -> None:
    """Operation windows first, then by priority, high first, then by id; all are listed."""
    ours = rules(
        policies=[
            policy(id="d-low", priority=1, max_amount=1),
            policy(id="c-high", priority=9, max_count=0),
            policy(id="b-high", priority=9, max_amount=1),
            policy(id="z-single", priority=0, window=OPERATION, max_amount=1),
            policy(id="y-single", priority=5, window=OPERATION, min_amount=3, max_amount=9),
            policy(id="a-passes", priority=99, max_amount=2),
        ]
    )
    (answer,) = decide(ours, [pay("p1", 2)])
    assert [breach["policy"] for breach in answer["breaches"]] == [
        "y-single",
        "z-single",
        "b-high",
        "c-high",
        "d-low",
    ]
    assert [(breach["used"], breach["asked"], breach["cap"]) for breach in answer["breaches"]] == [
        (0, 2, 3),
        (0, 2, 1),
        (0, 2, 1),
        (0, 1, 0),
        (0, 2, 1),
    ]


@pytest.mark.parametrize(
    ("others", "decision"), [([], "step_up"), ([policy(id="hard", max_amount=1)], "refuse")]
)
def test_step_up_reserves_nothing(decide: Decide, others: list[Json], decision: str) -> None:
    """A refusal outweighs it; what waits for a stronger authentication takes no headroom."""
    soft = policy(id="soft", max_amount=10, on_breach="step_up")
    ours = rules(policies=[soft, *others])
    lines = [pay("p1", 11), later("cancel", "p1"), pay("p2", 1), later("cancel", "p2")]
    answers = decide(ours, lines)
    assert [decision, False, "admit", True] == _verdicts(answers)
    assert ("limit-exceeded" if others else None) == answers[0]["code"]
    assert {"soft", *(one["id"] for one in others)} == {
        breach["policy"] for breach in answers[0]["breaches"]
    }
    assert (11 if not others else None) == answers[0]["total_debit"]


def test_a_changed_policy_applies_to_the_counts_already_made(decide: Decide) -> None:
    """Lowering the cap below what is used refuses the next payment; another window is another."""
    ours = rules(
        policies=[
            policy(max_amount=100, effective_to=at(60)),
            policy(version=2, max_amount=50, effective_from=at(60), effective_to=at(120)),
            policy(version=3, max_amount=50, window=calendar("week"), effective_from=at(120)),
        ]
    )
    lines = [
        pay("p1", 80),
        pay("p2", 1, at(60)),
        later("capture", "p1", at(61), amount=49),
        pay("p3", 1, at(62)),
        pay("p4", 50, at(120)),
        pay("p5", 1, at(121)),
    ]
    answers = decide(ours, lines)
    assert _verdicts(answers) == ["admit", "refuse", True, "admit", "admit", "refuse"]


DOLLAR = {"currency": "USD", "date": "2026-11-21", "rate": "12021.22", "nominal": 1}


@pytest.mark.parametrize(
    ("amount", "currency", "day", "counted"),
    [
        # 1 cent is 120.2122 soum is 12021.22 tiyin.
        (1, "USD", 21, 12_022),
        (100, "USD", 21, 1_202_122),
        (1, "JPY", 21, 7769),
        (1, "UZS", 1, 1),
        (1, "USD", 20, None),
        (1, "USD", 35, 12_022),
        (1, "USD", 36, None),
        (1, "EUR", 21, None),
    ],
)
def test_other_currencies_count_at_the_rate_of_the_day(
    decide: Decide, amount: int, currency: str, day: int, counted: int | None
) -> None:
    """Rounded up; the rate is of that day in Tashkent or of the 14 before it."""
    yen = {"currency": "JPY", "date": "2026-11-21", "rate": "776.85", "nominal": 10}
    ours = rules(policies=[policy(max_amount=0)], rates=[DOLLAR, yen])
    when = (datetime(2026, 11, 1, tzinfo=TASHKENT) + timedelta(days=day - 1)).isoformat()
    (answer,) = decide(ours, [pay("p1", amount, when, currency=currency)])
    assert ([] if counted is None else [counted]) == [
        breach["asked"] for breach in answer["breaches"]
    ]
    assert ("exchange-rate-missing" if counted is None else "limit-exceeded") == answer["code"]
