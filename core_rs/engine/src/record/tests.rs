use super::*;
use crate::limits::{asks_of, judge, Counts};
use crate::rules::{self, RuleSet};
use crate::state::Counter;
use crate::window::Place;
use proptest::prelude::*;

const AT: i64 = 1_795_237_200_000;

struct Used(Usage);

impl Counts for Used {
    fn used(&self, _: &Taken, _: Place) -> Usage {
        self.0
    }

    fn counted(&self, taken: &Taken, _: Place) -> Vec<Counter> {
        vec![Counter {
            id: taken.counter,
            window: taken.window,
            amount: self.0.amount,
            count: self.0.count,
        }]
    }
}

fn rules() -> RuleSet {
    let text = r#"{"limit_policies":[
        {"id":"alone","subject":"platform","currency":"UZS","min_amount":1,"max_amount":99,
         "window":{"kind":"operation"}},
        {"id":"day","subject":"card","currency":"UZS","max_amount":1000,"restore_on_refund":true,
         "window":{"kind":"calendar","unit":"day"}},
        {"id":"dollars","subject":"user","currency":"USD","max_amount":1000,"max_count":7,
         "on_breach":"step_up","window":{"kind":"rolling","seconds":3600}}],
        "rates":[{"currency":"USD","date":"2026-11-21","rate":"3"}]}"#;
    rules::read(text.as_bytes()).unwrap()
}

const CARD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn facts() -> Facts<'static> {
    Facts {
        operation: "purchase",
        currency: "UZS",
        source_card: CARD,
        user: "usr_1",
        merchant: "mer_1",
        device: "д1",
        ..Facts::default()
    }
}

fn written(amount: i64, used: Usage) -> Vec<u8> {
    let rules = rules();
    let asks = asks_of(&rules, &facts(), amount, AT).unwrap();
    let judgement = judge(&asks, false, &Used(used));
    let context = Context {
        generation: 300,
        at_ms: AT,
        priced: Some((299, AT - 5)),
        revocation_seq: 12,
        session: "ses_1",
        plan: "p",
        plan_version: 2,
        is_stepped_up: true,
    };
    Prefix::new(&context, &facts(), amount).judged("UZS", &asks, &judgement)
}

#[test]
fn what_was_decided_is_read_again() {
    let used = Usage {
        amount: 990,
        count: 3,
    };
    let bytes = written(100, used);
    let record = Record::read(&bytes).unwrap();
    assert_eq!(Verdict::Refuse, record.verdict);
    assert_eq!("limit-exceeded", record.code);
    assert_eq!(
        (300, AT, Some((299, AT - 5))),
        (record.generation, record.at_ms, record.priced)
    );
    assert_eq!(facts(), record.facts());
    assert_eq!(
        ("p", 2, "ses_1"),
        (record.plan, record.plan_version, &*record.session)
    );
    let asks = &record.asks;
    assert_eq!(
        vec!["alone", "day", "dollars"],
        asks.iter().map(|ask| ask.policy).collect::<Vec<_>>()
    );
    // 100 tiyin is a third of a cent more than 33 cents.
    assert_eq!(
        vec![100, 100, 34],
        asks.iter().map(|ask| ask.amount).collect::<Vec<_>>()
    );
    assert_eq!(Measure::Amount, asks[0].broken.unwrap().measure);
    assert_eq!(Window::Rolling { seconds: 3600 }, asks[2].window);
    for (ask, policy) in asks.iter().zip(rules().policies_for(&facts(), AT)) {
        assert_eq!(policy.counter, ask.counter());
        assert_eq!(policy.caps, ask.caps);
        assert_eq!(policy.on_breach, ask.on_breach);
    }
    // Room for a card, a user, a merchant and three limits in less than a third of a kilobyte.
    assert!(bytes.len() < 330, "{}", bytes.len());
}

#[test]
fn headroom_is_given_back_as_it_was_taken() {
    let bytes = written(50, Usage::default());
    let record = Record::read(&bytes).unwrap();
    let given = |change: Change| -> Vec<(String, i64, u32)> {
        record
            .given_back(change)
            .into_iter()
            .map(|taken| {
                (
                    taken.subject.to_string(),
                    taken.usage.amount,
                    taken.usage.count,
                )
            })
            .collect()
    };
    let card = format!("card:{CARD}");
    // 50 tiyin were counted as 17 cents, 20 as 7.
    assert_eq!(
        vec![(card.clone(), 50, 1), ("user:usr_1".into(), 17, 1)],
        given(Change::Ended)
    );
    assert_eq!(
        vec![(card.clone(), 30, 0), ("user:usr_1".into(), 10, 0)],
        given(Change::Captured { amount: 20 })
    );
    // Only the policy that restores on a refund gets it.
    let refunded = Change::Refunded {
        captured: 20,
        before: 5,
        after: 15,
    };
    assert_eq!(vec![(card, 10, 0)], given(refunded));
}

proptest! {
    #[test]
    fn bytes_from_anywhere_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::read(&bytes);
    }

    #[test]
    fn a_damaged_record_is_an_error_or_another_record(
        at in 0usize..300, to in any::<u8>(), amount in 1i64..1_000
    ) {
        let mut bytes = written(amount, Usage::default());
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(record) = Record::read(&bytes) {
            let _ = record.given_back(Change::Ended);
            let _ = crate::explain::json(&record);
        }
    }
}
