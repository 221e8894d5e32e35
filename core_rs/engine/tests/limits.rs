//! What a caller is told of a limit that stopped a payment.

use oqim_engine::limits::{asks_of, judge, Breach, Counts, Verdict};
use oqim_engine::rules::{self, Facts};
use oqim_engine::state::{Counter, Taken, Usage};
use oqim_engine::window::{parse_rfc3339, Place};

/// Everything counts as much, in the window of the payment; nothing has no window.
struct Used(i64, u32);

impl Counts for Used {
    fn used(&self, _: &Taken, _: Place) -> Usage {
        Usage {
            amount: self.0,
            count: self.1,
        }
    }

    fn counted(&self, taken: &Taken, _: Place) -> Vec<Counter> {
        let counter = Counter {
            id: taken.counter,
            window: taken.window,
            amount: self.0,
            count: self.1,
        };
        (self.0 > 0 || self.1 > 0)
            .then_some(counter)
            .into_iter()
            .collect()
    }
}

/// The one breach of a limit of 1,000 a day, or 2 payments, no less than 5 each, in UZS.
fn breach(amount: i64, currency: &str, used: &Used) -> Breach {
    let rules = rules::read(
        br#"{"limit_policies":[
             {"id":"day","subject":"card","currency":"UZS","max_amount":1000,"max_count":2,
              "window":{"kind":"calendar","unit":"day"}},
             {"id":"least","subject":"platform","currency":"UZS","min_amount":5,
              "window":{"kind":"operation"}}],
            "rates":[{"currency":"USD","date":"2026-11-21","rate":"100"}]}"#,
    )
    .unwrap();
    let facts = Facts {
        operation: "purchase",
        currency,
        source_card: "c1",
        ..Facts::default()
    };
    let at_ms = parse_rfc3339("2026-11-21T10:00:00+05:00").unwrap();
    let asks = asks_of(&rules, &facts, amount, at_ms).unwrap();
    let mut judgement = judge(&asks, false, used);
    assert_eq!(Verdict::Refuse, judgement.verdict);
    assert_eq!(1, judgement.breaches.len());
    judgement.breaches.remove(0).1
}

#[test]
fn a_limit_that_the_first_payment_breaks_has_a_day_too() {
    let midnight = parse_rfc3339("2026-11-22T00:00:00+05:00");
    let first = breach(1_001, "UZS", &Used(0, 0));
    assert_eq!((midnight, None), (first.resets_at_ms, first.passes_at_ms));
    let later = breach(501, "UZS", &Used(500, 1));
    assert_eq!(
        (midnight, midnight),
        (later.resets_at_ms, later.passes_at_ms)
    );
}

#[test]
fn the_largest_amount_that_would_pass_is_told_when_there_is_one() {
    for (currency, amount, used, largest) in [
        ("UZS", 1_001, 0, Some(1_000)),
        ("UZS", 501, 500, Some(500)),
        ("UZS", 5, 999, Some(1)),
        ("UZS", 5, 1_000, None),
        ("UZS", 5, 1_500, None),
        // A cent is a hundred tiyin here.
        ("USD", 11, 0, Some(10)),
        ("USD", 10, 900, Some(1)),
        ("USD", 10, 901, None),
    ] {
        let told = breach(amount, currency, &Used(used, 1)).passes_amount;
        assert_eq!(largest, told, "{amount} {currency} after {used}");
    }
}

#[test]
fn each_measure_has_its_sentence() {
    for (amount, used, sentence) in [
        (
            501,
            Used(500, 1),
            "limit day on this card: 500 minor units of UZS are left; it grows again at \
             2026-11-22T00:00:00.000+05:00",
        ),
        (
            5,
            Used(10, 2),
            "limit day on this card: no more payments; it grows again at \
             2026-11-22T00:00:00.000+05:00",
        ),
        (
            4,
            Used(0, 0),
            "limit least: the amount is below the least accepted",
        ),
    ] {
        assert_eq!(sentence, breach(amount, "UZS", &used).detail());
    }
}

#[test]
fn a_verdict_has_the_name_of_the_door_to_the_rules() {
    let names = [Verdict::Admit, Verdict::StepUp, Verdict::Refuse].map(Verdict::name);
    assert_eq!(["admit", "step_up", "refuse"], names);
}
