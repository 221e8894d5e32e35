use super::*;
use crate::limits::{asks_of, Breach};
use crate::record::{Change, Context, Prefix, Record};
use crate::rules::{self, Facts, RuleSet};
use proptest::prelude::*;

const AT: i64 = 1_795_287_600_000;

fn policy(caps: &str) -> RuleSet {
    let text = format!(
        r#"{{"limit_policies":[{{"id":"card-day","version":1,"subject":"card",
            "currency":"UZS","window":{{"kind":"calendar","unit":"day"}},{caps}}}]}}"#
    );
    rules::read(text.as_bytes()).unwrap()
}

const FACTS: Facts<'static> = Facts {
    operation: "purchase",
    currency: "UZS",
    source_card: "1",
    ..EMPTY
};
const EMPTY: Facts<'static> = Facts {
    operation: "",
    currency: "",
    source_scheme: "",
    destination_scheme: "",
    tier: "",
    channel: "",
    merchant: "",
    mcc: "",
    country: "",
    source_card: "",
    destination_card: "",
    issuer_bin: "",
    user: "",
    device: "",
};

fn ask(rules: &RuleSet, amount: i64, at: i64) -> Vec<Ask> {
    asks_of(rules, &FACTS, amount, at).unwrap()
}

fn breaches(book: &Book, asks: &[Ask]) -> Vec<Breach> {
    let found = judge(asks, false, book).breaches.into_iter();
    found.map(|(_, breach)| breach).collect()
}

fn used(book: &Book, asks: &[Ask]) -> (i64, u32) {
    let (taken, place) = asks[0].counted.as_ref().unwrap();
    let used = book.used(taken, *place);
    (used.amount, used.count)
}

fn numbers(members: &[(usize, Judgement)]) -> Vec<usize> {
    members.iter().map(|(number, _)| *number).collect()
}

/// What is stored of a payment of `asks`.
fn record(asks: &[Ask], amount: i64, at: i64) -> Vec<u8> {
    let context = Context {
        at_ms: at,
        ..Context::default()
    };
    let judgement = judge(asks, false, &Next::default());
    Prefix::new(&context, &FACTS, amount).judged("UZS", asks, &judgement)
}

fn stage_one(book: &mut Book, asks: &[Ask]) -> Staged {
    book.stage(&[Member {
        asks,
        is_stepped_up: false,
    }])
}

fn book() -> Book {
    let mut book = Book::new(100);
    book.load("card:1", 0, b"").unwrap();
    book
}

#[test]
fn a_thousand_a_day_passes_600_refuses_500_passes_400() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    for (amount, passes) in [(600, true), (500, false), (400, true), (1, false)] {
        let asks = ask(&policy, amount, AT);
        assert_eq!(passes, breaches(&book, &asks).is_empty(), "{amount}");
        if passes {
            book.reserve(&asks);
            let staged = stage_one(&mut book, &asks);
            assert_eq!(vec![0], numbers(&staged.admitted));
            book.commit(&staged);
        }
    }
    assert!(breaches(&book, &ask(&policy, 1000, AT + 86_400_000)).is_empty());
}

#[test]
fn what_was_admitted_and_not_committed_counts_as_used() {
    let policy = policy(r#""max_count":1"#);
    let mut book = book();
    let first = ask(&policy, 5, AT);
    book.reserve(&first);
    assert_eq!(1, breaches(&book, &ask(&policy, 5, AT)).len());
    book.release(&first);
    assert!(breaches(&book, &ask(&policy, 5, AT)).is_empty());
}

#[test]
fn a_stale_copy_is_evaluated_again_on_what_the_database_holds() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    let asks = ask(&policy, 600, AT);
    book.reserve(&asks);
    let staged = stage_one(&mut book, &asks);
    book.roll_back(&staged);
    // Another worker took 500 meanwhile.
    let mut other = State::default();
    other.take(ask(&policy, 500, AT)[0].taken().unwrap(), 0);
    assert_eq!(
        vec![Arc::from("card:1")],
        stage_one(&mut book, &asks).missing
    );
    book.load("card:1", 1, &other.write()).unwrap();
    let staged = stage_one(&mut book, &asks);
    assert_eq!(1, staged.refused.len());
    assert_eq!(500, staged.refused[0].1.used[0].amount);
    assert!(staged.writes.is_empty());
    assert!(breaches(&book, &ask(&policy, 500, AT)).is_empty());
}

#[test]
fn a_subject_in_flight_defers_the_next_batch() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    let asks = ask(&policy, 100, AT);
    book.reserve(&asks);
    let first = stage_one(&mut book, &asks);
    book.reserve(&asks);
    assert_eq!(vec![0], stage_one(&mut book, &asks).deferred);
    book.commit(&first);
    let second = stage_one(&mut book, &asks);
    assert_eq!(1, second.writes[0].1);
}

#[test]
fn headroom_returns_into_the_window_it_was_taken_from() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    let asks = ask(&policy, 600, AT - 1);
    book.reserve(&asks);
    let staged = stage_one(&mut book, &asks);
    book.commit(&staged);
    let stored = record(&asks, 600, AT - 1);
    // The next day has begun and used 700 of its own.
    let today = ask(&policy, 700, AT);
    book.reserve(&today);
    let staged = stage_one(&mut book, &today);
    book.commit(&staged);
    let staged = book.stage_give_back(&[Record::read(&stored).unwrap().given_back(Change::Ended)]);
    book.commit(&staged);
    assert_eq!((700, 1), used(&book, &today));
    assert_eq!((0, 0), used(&book, &asks));
}

#[test]
fn a_part_given_back_leaves_the_payment_counted() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    let asks = ask(&policy, 123, AT);
    book.reserve(&asks);
    let staged = stage_one(&mut book, &asks);
    book.commit(&staged);
    let stored = record(&asks, 123, AT);
    let captured = Change::Captured { amount: 100 };
    let part = Record::read(&stored).unwrap().given_back(captured);
    let staged = book.stage_give_back(&[part]);
    book.commit(&staged);
    assert_eq!((100, 1), used(&book, &asks));
}

#[test]
fn the_book_is_bounded_and_keeps_what_is_outstanding() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    book.reserve(&ask(&policy, 1, AT));
    for number in 0..10_000 {
        book.load(&format!("card:x{number}"), 0, b"").unwrap();
    }
    assert!(book.len() <= 201, "{}", book.len());
    assert_eq!((1, 1), used(&book, &ask(&policy, 1, AT)));
}

proptest! {

    /// Two workers, each with its own book, against one database with versions: whatever the
    /// interleaving, the committed amount never passes the cap, and ends at what was admitted.
    #[test]
    fn two_books_never_exceed_a_cap(steps in proptest::collection::vec((0usize..2, 1i64..400), 1..60)) {
        let policy = policy(r#""max_amount":1000"#);
        let mut row: (i64, Vec<u8>) = (0, Vec::new());
        let mut books = [book(), book()];
        let mut admitted = 0;
        for (worker, amount) in steps {
            let book = &mut books[worker];
            let asks = ask(&policy, amount, AT);
            if !book.is_known("card:1") {
                book.load("card:1", row.0, &row.1).unwrap();
            }
            if !breaches(book, &asks).is_empty() {
                continue;
            }
            book.reserve(&asks);
            loop {
                let staged = stage_one(book, &asks);
                if !staged.missing.is_empty() {
                    book.load("card:1", row.0, &row.1).unwrap();
                    continue;
                }
                if staged.admitted.is_empty() {
                    break;
                }
                if staged.writes[0].1 == row.0 {
                    row = (row.0 + 1, staged.writes[0].2.clone());
                    book.commit(&staged);
                    admitted += amount;
                    break;
                }
                book.roll_back(&staged);
            }
            let state = State::read(&row.1).unwrap();
            let (taken, place) = asks[0].counted.as_ref().unwrap();
            let total = state.used(taken.counter, *place).amount;
            prop_assert_eq!(admitted, total);
            prop_assert!(total <= 1000);
        }
    }
}

#[test]
fn what_is_asked_for_is_counted_as_there_or_not() {
    let mut book = Book::new(10);
    assert!(!book.is_known("card:1"));
    book.load("card:1", 0, &[]).unwrap();
    assert!(book.is_known("card:1"));
    assert!(book.is_known("card:1"));
    let usage = book.usage();
    assert_eq!((1, 2, 1), (usage.size, usage.hits, usage.misses));
}

#[test]
fn what_a_judgement_would_have_to_read_first_is_noted() {
    let policy = policy(r#""max_amount":1000"#);
    let mut book = book();
    let asks = ask(&policy, 1001, AT);
    let forgotten = Book::new(10);
    let known = Known::new(&forgotten);
    judge(&asks, false, &known);
    assert_eq!(vec![Arc::from("card:1")], known.unknown());

    book.load("card:1", 0, &[]).unwrap();
    let known = Known::new(&book);
    let judgement = judge(&asks, false, &known);
    assert_eq!(Verdict::Refuse, judgement.verdict);
    assert!(known.unknown().is_empty());
}
