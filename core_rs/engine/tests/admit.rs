//! The whole decision on a payment: what it comes to, which refusal comes first, and what must be
//! read before either.

use std::borrow::Cow;

use oqim_engine::admit::{Admission, Call, Card, Core, Fresh, Missing, Stop};
use oqim_engine::revocation::RevocationKind;

mod house;

use house::{bound_token, core, token, BODY, NOW_S};

const NOW_MS: i64 = NOW_S * 1_000;
const USER: &str = "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS";
const CARD: &str = "card_01KAJ7Y8W0ABCDEFGHJKMNPQRS";
const READ: Fresh = Fresh {
    parties: true,
    states: true,
};

/// One request, and when it came.
struct Asked {
    headers: Vec<(&'static str, String)>,
    body: Cow<'static, str>,
    now_ms: i64,
    fresh: Fresh,
}

impl Asked {
    fn good() -> Self {
        let token = String::from_utf8(token(0)).unwrap();
        Self {
            headers: vec![
                ("Authorization", format!("Bearer {token}")),
                ("Content-Type", "application/json".to_owned()),
                ("Idempotency-Key", "k1".to_owned()),
            ],
            body: std::str::from_utf8(BODY).unwrap().into(),
            now_ms: NOW_MS,
            fresh: READ,
        }
    }

    fn with_body(from: &str, to: &str) -> Self {
        let mut asked = Self::good();
        asked.change_body(from, to);
        asked
    }

    fn change_body(&mut self, from: &str, to: &str) {
        let body = std::str::from_utf8(BODY).unwrap();
        assert!(body.contains(from));
        self.body = body.replace(from, to).into();
    }

    fn admit(&self, core: &mut Core) -> Result<Admission, Stop> {
        self.call(|call| core.admit(call))
    }

    fn call<T>(&self, decide: impl FnOnce(Call<'_>) -> T) -> T {
        let headers: Vec<(&[u8], &[u8])> = self
            .headers
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()))
            .collect();
        decide(Call {
            method: "POST",
            path: "/v1/payments",
            headers: &headers,
            body: self.body.as_bytes(),
            now_ms: self.now_ms,
            fresh: self.fresh,
            is_stepped_up: false,
        })
    }
}

fn missing<T>(answer: Result<T, Stop>) -> Missing {
    match answer {
        Err(Stop::Missing(missing)) => missing,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("nothing was missing"),
    }
}

/// The slug of a refusal, and whether it is of a request with a key to be answered again under.
fn refused<T>(answer: Result<T, Stop>) -> (&'static str, bool) {
    match answer {
        Err(Stop::Refused(refused)) => (refused.refusal.slug, refused.idempotency.is_some()),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was not refused"),
    }
}

/// A core in which everything that the good request touches is in memory.
fn ready() -> Core {
    let mut core = core();
    let subjects = missing(Asked::good().admit(&mut core)).subjects;
    assert_eq!(4, subjects.len());
    for subject in subjects {
        core.book.load(&subject, 0, b"").unwrap();
    }
    core
}

#[test]
fn a_good_payment_is_admitted_at_its_price() {
    let mut core = ready();
    let mut asked = Asked::good();
    asked.fresh = Fresh::default();
    let admission = asked.admit(&mut core).unwrap();
    // 1% of 1,000,000, 0.75% of 9,000,000, 0.5% of 5,000,000, and each tier's own; 12% of that as
    // VAT; 20,000 to the processor.
    let bank = 10_000 + 67_500 + 25_000 + 10_000 + 20_000;
    let total = bank + bank * 12 / 100 + 20_000;
    assert_eq!(168_400, total);
    assert_eq!(total, admission.commission.total);
    assert_eq!(15_000_000 + total, admission.commission.total_debit);
    assert_eq!(15_000_000, admission.commission.total_credit);
    assert_eq!(USER, admission.claims.sub);
    assert_eq!("humo", admission.scheme);
    assert_eq!(Some(1), admission.source_version);
    assert_eq!(NOW_MS, admission.at_ms);
    let legs: Vec<_> = admission
        .legs
        .iter()
        .map(|leg| (&*leg.connector, &*leg.kind))
        .collect();
    assert_eq!(vec![("humo", "transfer")], legs);
}

#[test]
fn a_token_bound_to_a_key_is_no_bearer_token_and_another_is_nothing_else() {
    let text = |token: Vec<u8>| String::from_utf8(token).unwrap();
    let (bound, plain) = (text(bound_token()), text(token(0)));
    let sent = |authorization: String| {
        let mut asked = Asked::good();
        asked.headers[0].1 = authorization;
        asked
    };
    let mut core = ready();
    for wrong in [format!("Bearer {bound}"), format!("DPoP {plain}")] {
        let asked = sent(wrong);
        assert_eq!(("invalid-token", false), refused(asked.admit(&mut core)));
        let quoted = asked.call(|call| core.quote(call));
        assert_eq!(("invalid-token", false), refused(quoted));
    }
    let admission = sent(format!("dpop {bound}")).admit(&mut core).unwrap();
    assert_eq!(43, admission.claims.jkt.len());
    let inspected = core.inspect(bound.as_bytes(), NOW_MS).unwrap();
    assert_eq!(admission.claims, inspected);
    let mut asked = sent(format!("DPoP {bound}"));
    asked
        .headers
        .push(("Authorization", format!("Bearer {plain}")));
    assert_eq!(("invalid-request", false), refused(asked.admit(&mut core)));
}

type Fault = (&'static str, bool, fn(&mut Asked, &mut Core));

/// In the order in which they are found; a fault hides all that come after it.
const FAULTS: [Fault; 15] = [
    ("unauthenticated", false, |asked, _| {
        asked.headers.retain(|(name, _)| *name != "Authorization");
    }),
    ("invalid-token", false, |_, core| {
        let jti = "AAECAwQFBgcICQoLDA0O00";
        core.revocations
            .apply(1, RevocationKind::Token, jti, 0, NOW_S + 300);
    }),
    ("revocation-feed-stale", false, |asked, _| {
        asked.now_ms += 5_001
    }),
    ("unsupported-content-encoding", false, |asked, _| {
        asked.headers.push(("Content-Encoding", "gzip".to_owned()));
    }),
    ("unsupported-media-type", false, |asked, _| {
        asked.headers[1].1 = "text/plain".to_owned();
    }),
    ("idempotency-key-missing", false, |asked, _| {
        asked.headers.retain(|(name, _)| *name != "Idempotency-Key");
    }),
    ("malformed-json", false, |asked, _| asked.body = "{".into()),
    ("duplicate-member", false, |asked, _| {
        asked.body = r#"{"amount":1,"amount":1}"#.into();
    }),
    ("invalid-character", false, |asked, _| {
        asked.change_body("Ijara", "Ij\u{202e}ara");
    }),
    ("unknown-member", false, |asked, _| {
        asked.change_body("\"capture\"", "\"captured\"");
    }),
    ("invalid-amount", false, |asked, _| {
        asked.change_body("15000000", "15000000.5");
    }),
    ("not-found", true, |_, core| {
        put_card(core, "usr_other", true)
    }),
    ("card-not-active", true, |_, core| {
        put_card(core, USER, false)
    }),
    ("unsupported-scheme", true, |asked, _| {
        asked.change_body("9860010000000009", "4242424242424242");
    }),
    ("limit-exceeded", true, |_, core| {
        let mut other = Asked::good();
        other.fresh = Fresh::default();
        while other.admit(core).is_ok() {}
    }),
];

fn put_card(core: &mut Core, owner: &str, is_active: bool) {
    let card = Card {
        owner: owner.to_owned(),
        scheme: "humo".to_owned(),
        bin: "986001".to_owned(),
        lookup: core.lookup_of("9860010000000025"),
        is_active,
        version: 1,
    };
    core.put_card(CARD, Some(card));
}

#[test]
fn the_first_fault_is_the_answer() {
    for (number, (slug, has_key, _)) in FAULTS.iter().enumerate() {
        let (mut asked, mut core) = (Asked::good(), ready());
        // The last first, since whatever spoils the body or the card anew spoils it most.
        for (_, _, spoil) in FAULTS[number..].iter().rev() {
            spoil(&mut asked, &mut core);
        }
        assert_eq!((*slug, *has_key), refused(asked.admit(&mut core)), "{slug}");
    }
}

#[test]
fn each_fault_alone_is_enough() {
    for (slug, has_key, spoil) in FAULTS {
        let (mut asked, mut core) = (Asked::good(), ready());
        spoil(&mut asked, &mut core);
        assert_eq!((slug, has_key), refused(asked.admit(&mut core)), "{slug}");
    }
}

#[test]
fn faults_of_what_no_rule_carries_are_told_apart() {
    for (from, to, slug) in [
        ("\"UZS\"", "\"USD\"", "currency-not-supported"),
        ("\"transfer\"", "\"payout\"", "schema-violation"),
        ("9860010000000009", "9860010000000008", "invalid-pan"),
        ("15000000", "0", "invalid-amount"),
        ("15000000", "1000000000000001", "invalid-amount"),
        ("15000000", "\"15000000\"", "schema-violation"),
        (
            "\"purpose\": \"01\"",
            "\"status\": \"done\"",
            "read-only-member",
        ),
    ] {
        let mut core = ready();
        let (found, _) = refused(Asked::with_body(from, to).admit(&mut core));
        assert_eq!(slug, found, "{to}");
    }
}

#[test]
fn what_is_not_in_memory_is_named_and_nothing_is_reserved() {
    let mut core = ready();
    core.forget_card(CARD);
    let mut asked = Asked::good();
    asked.fresh = Fresh::default();
    let expected = Missing {
        cards: vec![CARD.to_owned()],
        ..Missing::default()
    };
    assert_eq!(expected, missing(asked.admit(&mut core)));
    let mut to_merchant = Asked::with_body("\"transfer\"", "\"purchase\"");
    let pan = "{\"pan\": \"9860010000000009\"}";
    to_merchant.body = to_merchant
        .body
        .replace(pan, "{\"merchant\": \"mer_1\"}")
        .into();
    let named = missing(to_merchant.admit(&mut core));
    assert_eq!(
        (1, vec!["mer_1".to_owned()]),
        (named.cards.len(), named.merchants)
    );
    put_card(&mut core, USER, true);
    for _ in 0..1_000 {
        asked.admit(&mut core).unwrap();
    }
}

/// Another worker may have changed what this one remembers.
#[test]
fn no_refusal_rests_on_memory_alone() {
    let mut core = ready();
    let mut asked = Asked::good();
    asked.fresh = Fresh::default();
    for (owner, is_active, slug) in [
        ("usr_other", true, "not-found"),
        (USER, false, "card-not-active"),
    ] {
        put_card(&mut core, owner, is_active);
        assert_eq!(vec![CARD.to_owned()], missing(asked.admit(&mut core)).cards);
        assert_eq!(slug, refused(Asked::good().admit(&mut core)).0);
    }
    put_card(&mut core, USER, true);
    let admitted: Vec<Admission> = (0..1_000)
        .map(|_| asked.admit(&mut core).unwrap())
        .collect();
    assert_eq!(4, missing(asked.admit(&mut core)).subjects.len());
    assert_eq!(
        ("limit-exceeded", true),
        refused(Asked::good().admit(&mut core))
    );
    core.release(&admitted[0]);
    assert!(
        asked.admit(&mut core).is_ok(),
        "what is released is free again"
    );
    assert_eq!("limit-exceeded", refused(Asked::good().admit(&mut core)).0);
}

#[test]
fn a_quote_is_the_same_decision_and_takes_nothing() {
    let mut core = ready();
    let asked = Asked::good();
    let mut unread = Asked::good();
    unread.fresh = Fresh::default();
    assert_eq!(
        4,
        missing(unread.call(|call| core.quote(call))).subjects.len()
    );
    for _ in 0..1_001 {
        let bytes = asked.call(|call| core.quote(call)).unwrap();
        let quote: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(168_400, quote["commission"]["total"]);
        assert_eq!(15_168_400, quote["total_debit"]);
    }
    assert!(asked.admit(&mut core).is_ok());
}

#[test]
fn headroom_is_what_the_limits_leave() {
    let mut core = ready();
    let claims = Asked::good().call(|call| core.authorize(call.headers, "", NOW_MS).unwrap());
    let mut told = |fresh| core.limits(&claims, CARD, "transfer", NOW_MS, fresh);
    assert_eq!(3, missing(told(Fresh::default())).subjects.len());
    let bytes = told(READ).unwrap();
    let headroom: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(100_000_000_000_000_i64, headroom["remaining_amount"]);
    assert_eq!(1_000, headroom["remaining_count"]);
    assert_eq!(CARD, headroom["card"]);
    let other = core.limits(&claims, "card_other", "transfer", NOW_MS, READ);
    assert_eq!(vec!["card_other".to_owned()], missing(other).cards);
    put_card(&mut core, "usr_other", true);
    let anothers = core.limits(&claims, CARD, "transfer", NOW_MS, READ);
    assert_eq!("not-found", refused(anothers).0);
}
