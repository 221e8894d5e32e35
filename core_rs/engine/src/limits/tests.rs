use std::collections::HashMap;

use super::*;
use crate::rules::{self, RuleSet};
use crate::state::State;

/// 2026-11-21T10:00:00+05:00.
const AT: i64 = 1_795_237_200_000;

#[derive(Default)]
struct Plain(HashMap<Arc<str>, State>);

impl Counts for Plain {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        self.0
            .get(&taken.subject)
            .map_or_else(Usage::default, |state| state.used(taken.counter, place))
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        self.0.get(&taken.subject).map_or_else(Vec::new, |state| {
            state.counted(taken.counter, place).copied().collect()
        })
    }
}

fn policies(all: &[&str]) -> RuleSet {
    let all: Vec<String> = all
        .iter()
        .map(|members| format!(r#"{{"subject":"card","currency":"UZS",{members}}}"#))
        .collect();
    let text = format!(r#"{{"limit_policies":[{}]}}"#, all.join(","));
    rules::read(text.as_bytes()).unwrap()
}

fn facts() -> Facts<'static> {
    Facts {
        operation: "purchase",
        currency: "UZS",
        source_card: "1",
        ..Facts::default()
    }
}

/// Judges a payment, and counts it when it is admitted.
fn pay(rules: &RuleSet, counts: &mut Plain, amount: i64, at_ms: i64) -> Judgement {
    let asks = asks_of(rules, &facts(), amount, at_ms).unwrap();
    let judgement = judge(&asks, false, counts);
    if judgement.verdict == Verdict::Admit {
        for (taken, place) in asks.iter().filter_map(|ask| ask.counted.as_ref()) {
            let state = counts.0.entry(Arc::clone(&taken.subject)).or_default();
            state.take(taken, place.kept_from);
        }
    }
    judgement
}

const ROLLING: &str = r#""window":{"kind":"rolling","seconds":60}"#;

#[test]
fn ten_in_sixty_seconds_let_the_eleventh_pass_at_61() {
    let rules = policies(&[&format!(r#""id":"r","max_count":10,{ROLLING}"#)]);
    let mut counts = Plain::default();
    for second in 0..10 {
        let judged = pay(&rules, &mut counts, 1, AT + second * 1_000);
        assert_eq!(Verdict::Admit, judged.verdict);
    }
    for (second, verdict) in [
        (10, Verdict::Refuse),
        (60, Verdict::Refuse),
        (61, Verdict::Admit),
    ] {
        let judged = pay(&rules, &mut counts, 1, AT + second * 1_000);
        assert_eq!(verdict, judged.verdict, "{second}");
        for (_, breach) in judged.breaches {
            assert_eq!(Some(AT + 61_000), breach.resets_at_ms);
            assert_eq!(Some(AT + 61_000), breach.passes_at_ms);
            assert_eq!((10, 1, 10), breach.figures());
        }
    }
}

#[test]
fn a_rolling_refusal_says_when_enough_will_be_free() {
    let rules = policies(&[&format!(r#""id":"r","max_amount":100,{ROLLING}"#)]);
    let mut counts = Plain::default();
    for (second, amount) in [(0, 30), (10, 30), (20, 30)] {
        pay(&rules, &mut counts, amount, AT + second * 1_000);
    }
    for (amount, first, passes) in [(20, 61, Some(61)), (60, 61, Some(71)), (101, 61, None)] {
        let judged = pay(&rules, &mut counts, amount, AT + 30_000);
        let breach = &judged.breaches[0].1;
        assert_eq!(Some(AT + first * 1_000), breach.resets_at_ms);
        assert_eq!(
            passes.map(|s| AT + s * 1_000),
            breach.passes_at_ms,
            "{amount}"
        );
        assert_eq!(Some(10), breach.passes_amount);
    }
}

#[test]
fn a_single_cap_a_month_and_a_year_bite_in_their_turn() {
    let calendar = |unit: &str| format!(r#""window":{{"kind":"calendar","unit":"{unit}"}}"#);
    let rules = policies(&[
        r#""id":"single","max_amount":1000,"window":{"kind":"operation"}"#,
        &format!(r#""id":"month","max_amount":10000,{}"#, calendar("month")),
        &format!(r#""id":"year","max_amount":12000,{}"#, calendar("year")),
    ]);
    let mut counts = Plain::default();
    let broken = |judged: &Judgement| -> Vec<String> {
        let breaches = judged.breaches.iter();
        breaches
            .map(|(_, breach)| breach.policy.id.clone())
            .collect()
    };
    assert_eq!(
        vec!["single"],
        broken(&pay(&rules, &mut counts, 1_001, AT - 60 * 86_400_000))
    );
    for _ in 0..10 {
        assert!(broken(&pay(&rules, &mut counts, 1_000, AT - 60 * 86_400_000)).is_empty());
    }
    assert_eq!(
        vec!["month"],
        broken(&pay(&rules, &mut counts, 1, AT - 60 * 86_400_000))
    );
    for _ in 0..2 {
        assert!(broken(&pay(&rules, &mut counts, 1_000, AT)).is_empty());
    }
    assert_eq!(vec!["year"], broken(&pay(&rules, &mut counts, 1, AT)));
    assert_eq!(
        vec!["single", "month", "year"],
        broken(&pay(&rules, &mut counts, 9_000, AT)),
        "all that fail are told, the operation first"
    );
}

#[test]
fn a_step_up_asks_only_when_nothing_refuses() {
    let day = r#""window":{"kind":"calendar","unit":"day"}"#;
    let rules = policies(&[
        &format!(r#""id":"ask","max_amount":100,"on_breach":"step_up",{day}"#),
        &format!(r#""id":"stop","max_amount":1000,{day}"#),
    ]);
    for (amount, is_stepped_up, verdict) in [
        (100, false, Verdict::Admit),
        (101, false, Verdict::StepUp),
        (101, true, Verdict::Admit),
        (1_001, false, Verdict::Refuse),
        (1_001, true, Verdict::Refuse),
    ] {
        let asks = asks_of(&rules, &facts(), amount, AT).unwrap();
        let judged = judge(&asks, is_stepped_up, &Plain::default());
        assert_eq!(verdict, judged.verdict, "{amount} {is_stepped_up}");
    }
}

#[test]
fn each_cap_is_met_at_its_edge() {
    let rules = policies(&[
        r#""id":"floor","min_amount":10,"max_amount":20,"window":{"kind":"operation"}"#,
    ]);
    for (amount, broken) in [
        (9, Some(Measure::Floor)),
        (10, None),
        (20, None),
        (21, Some(Measure::Amount)),
    ] {
        let judged = pay(&rules, &mut Plain::default(), amount, AT);
        let found = judged.breaches.first().map(|(_, breach)| breach.measure);
        assert_eq!(broken, found, "{amount}");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_never_wraps() {
    let rules =
        policies(&[r#""id":"count","max_count":9,"window":{"kind":"calendar","unit":"day"}"#]);
    let mut counts = Plain::default();
    assert_eq!(
        Verdict::Admit,
        pay(&rules, &mut counts, i64::MAX, AT).verdict
    );
    assert_eq!(Verdict::Refuse, pay(&rules, &mut counts, 1, AT).verdict);
}

#[test]
fn a_payment_that_lacks_the_subject_is_not_counted() {
    let rules = policies(&[r#""id":"c","max_count":0,"window":{"kind":"calendar","unit":"day"}"#]);
    let facts = Facts {
        source_card: "",
        ..facts()
    };
    assert!(asks_of(&rules, &facts, 1, AT).unwrap().is_empty());
}

#[test]
fn other_currencies_count_converted_and_are_refused_without_a_rate() {
    let text = r#"{"limit_policies":[{"id":"c","subject":"card","currency":"UZS","max_amount":1202122,
        "window":{"kind":"calendar","unit":"day"}}],
        "rates":[{"currency":"USD","date":"2026-11-20","rate":"12021.22"}]}"#;
    let rules = rules::read(text.as_bytes()).unwrap();
    let dollars = Facts {
        currency: "USD",
        ..facts()
    };
    for (amount, is_admitted) in [(100, true), (101, false)] {
        let asks = asks_of(&rules, &dollars, amount, AT).unwrap();
        let judged = judge(&asks, false, &Plain::default());
        assert_eq!(is_admitted, judged.verdict == Verdict::Admit, "{amount}");
    }
    let late = AT + 15 * 86_400_000;
    assert_eq!(
        Err(RateError::Missing),
        asks_of(&rules, &dollars, 1, late).map(|_| ())
    );
}
