//! One piece of the core's work, so many times: `instructions CASE TIMES`.
//!
//! Run under an instruction counter with two different numbers of times, the difference is what the
//! work itself costs, without what prepares it. `tests/core/instructions.py` does that.

use std::hint::black_box;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use oqim_engine::admit::{Call, Fresh, Stop};
use oqim_engine::iso8583::{Dialect, Packer, Unpacker, Value};
use oqim_engine::json;
use oqim_engine::request;
use oqim_engine::revocation::{RevocationKind, RevocationSet};
use oqim_engine::token::{Claims, Verifier};

#[path = "../tests/house/mod.rs"]
mod house;

use house::{core, key, token, BODY, NOW_S};

const SETS: u64 = 8;
const REVOKED: u64 = 2_000;
const CALLERS: u64 = 1_024;

const FIELDS: [(u8, &str); 16] = [
    (2, "4242424242424242"),
    (3, "000000"),
    (4, "000001250000"),
    (7, "1121143000"),
    (11, "000123"),
    (14, "2812"),
    (18, "5999"),
    (19, "860"),
    (22, "010"),
    (25, "59"),
    (32, "412345"),
    (37, "632514000123"),
    (41, "TERM0001"),
    (42, "MERCHANT0000001"),
    (43, "OQIM TEST SHOP           TASHKENT     UZ"),
    (49, "860"),
];

fn verifier(cache_size_max: usize) -> Verifier {
    let mut verifier = Verifier::new("https://oqim".into(), "oqim-api".into(), cache_size_max);
    let public = key().verifying_key();
    verifier
        .add_key("k1", public.as_bytes())
        .expect("a sound key");
    verifier
}

fn json_parse(times: u64) {
    for _ in 0..times {
        black_box(json::parse(black_box(BODY)).expect("it is JSON"));
    }
}

fn json_body(times: u64) {
    for _ in 0..times {
        let value = request::read_json(black_box(BODY)).expect("it is JSON");
        black_box(request::read_payment(&value).expect("it is a payment"));
        black_box(json::canonical(&value));
    }
}

/// More tokens in turn than are remembered.
fn token_cold(times: u64) {
    let tokens: Vec<Vec<u8>> = (0..8).map(token).collect();
    let mut verifier = verifier(2);
    for token in tokens.iter().cycle().take(times as usize) {
        black_box(verifier.verify(black_box(token), NOW_S).expect("good"));
    }
}

fn token_cached(times: u64) {
    let token = token(0);
    let mut verifier = verifier(1_024);
    for _ in 0..times {
        black_box(verifier.verify(black_box(&token), NOW_S).expect("good"));
    }
}

/// A payment of a caller, a card and subjects that are all in memory, and its release.
fn admit(times: u64) {
    let mut core = core();
    let token = [b"Bearer ", token(0).as_slice()].concat();
    let headers: [(&[u8], &[u8]); 6] = [
        (b"Host", b"api.example"),
        (b"User-Agent", b"oqim-mobile/4.2 (Android 15)"),
        (b"Accept", b"application/json"),
        (b"Content-Type", b"application/json"),
        (b"Authorization", &token),
        (b"Idempotency-Key", b"01KAJ7Y8W0ABCDEFGHJKMNPQRS"),
    ];
    let call = Call {
        method: "POST",
        path: "/v1/payments",
        headers: &headers,
        body: BODY,
        now_ms: NOW_S * 1_000,
        fresh: Fresh::default(),
        is_stepped_up: false,
    };
    match core.admit(call) {
        Err(Stop::Missing(missing)) => {
            assert_eq!(4, missing.subjects.len());
            for subject in &missing.subjects {
                core.book.load(subject, 0, b"").expect("no state yet");
            }
        }
        other => panic!("nothing was in memory: {other:?}"),
    }
    for _ in 0..times {
        let admission = core.admit(black_box(call)).expect("it is admitted");
        core.release(black_box(&admission));
    }
}

/// 64 bits of which no two numbers share many.
fn mixed(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn token_id(number: u64) -> String {
    let bits = u128::from(mixed(number)) << 64 | u128::from(mixed(!number));
    URL_SAFE_NO_PAD.encode(bits.to_be_bytes())
}

/// One question to each of several sets, of other callers each time: how dear a question is depends
/// on a table's keys, which differ from set to set and from start to start, and many do less so.
fn revocation(times: u64) {
    let sets: Vec<RevocationSet> = (0..SETS).map(|_| revoked()).collect();
    let callers: Vec<Claims> = (REVOKED..REVOKED + CALLERS)
        .map(|number| Claims {
            sub: format!("usr_{:026}", mixed(number)),
            client_id: "mobile-app".into(),
            sid: format!("ses_{:026}", mixed(number)),
            jti: token_id(number),
            iat: NOW_S,
            ..Claims::default()
        })
        .collect();
    for (number, claims) in (0..times).zip(callers.iter().cycle()) {
        for set in &sets {
            assert!(!set.refuses(black_box(claims)), "{number}");
        }
    }
}

fn revoked() -> RevocationSet {
    let mut set = RevocationSet::default();
    for number in 0..REVOKED {
        let kind = match number % 3 {
            0 => RevocationKind::Token,
            1 => RevocationKind::Session,
            _ => RevocationKind::Subject,
        };
        set.apply(number as i64, kind, &token_id(number), NOW_S, NOW_S + 300);
    }
    set
}

fn iso8583(times: u64) {
    let dialect = Dialect::named("visa-binary").expect("the dialect exists");
    for _ in 0..times {
        let mut packer = Packer::new(dialect, "0100").expect("four digits");
        for (number, text) in black_box(FIELDS) {
            packer.push(number, Value::Text(text)).expect("it fits");
        }
        packer.finish(|message| {
            let mut unpacker = Unpacker::new(dialect, message).expect("a message");
            while let Some(field) = unpacker.next_field().expect("a field") {
                black_box(field);
            }
        });
    }
}

/// A name, and what does its work so many times.
type Case = (&'static str, fn(u64));

const CASES: [Case; 7] = [
    ("admit", admit),
    ("json_parse", json_parse),
    ("json_body", json_body),
    ("token_cold", token_cold),
    ("token_cached", token_cached),
    ("revocation", revocation),
    ("iso8583", iso8583),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [name, times] => {
            let case = CASES.iter().find(|(known, _)| known == name);
            let (_, run) = case.expect("a case of the list");
            run(times.parse().expect("a number of times"));
        }
        // Also what `cargo bench` and `cargo test --benches` do.
        _ => CASES.iter().for_each(|(name, _)| println!("{name}")),
    }
}
