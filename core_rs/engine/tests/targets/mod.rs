//! What must hold for any bytes at all. The fuzzer looks for bytes for which it does not; the tests
//! run what it has found over again.

// Each program that includes this uses some of it.
#![allow(dead_code)]

use std::sync::{Arc, LazyLock};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use ed25519_dalek::{Signer as _, SigningKey};
use oqim_engine::commission;
use oqim_engine::decide::Decider;
use oqim_engine::explain;
use oqim_engine::iso8583::{Dialect, Packer, Unpacker, Value};
use oqim_engine::json::{self, JsonError};
use oqim_engine::problem::FieldError;
use oqim_engine::record::{Change, Record};
use oqim_engine::request;
use oqim_engine::rules::{self, Facts, RuleSet};
use oqim_engine::state::State;
use oqim_engine::token::Verifier;

const NOW: i64 = 1_795_000_000;

/// A body is read as another reader reads it, and its canonical bytes mean the same.
pub fn json_body(body: &[u8]) {
    let theirs = serde_json::from_slice::<serde_json::Value>(body);
    match json::parse(body) {
        Ok(value) => {
            let canonical = json::canonical(&value);
            let again = json::parse(&canonical).expect("what is written can be read");
            assert_eq!(canonical, json::canonical(&again));
            // It takes numbers for floats, some of which are too large, and minus zero for another.
            if let Ok(theirs) = theirs {
                if !body.windows(2).any(|pair| pair == b"-0") {
                    assert_eq!(Some(theirs), serde_json::from_slice(&canonical).ok());
                }
            } else {
                assert!(
                    body.iter().any(u8::is_ascii_digit),
                    "only a number is out of range"
                );
            }
            let _ = json::find_fraction(&value);
        }
        Err(JsonError::Malformed | JsonError::Encoding) => assert!(theirs.is_err()),
        Err(JsonError::Duplicate { pointer }) => assert!(pointer.starts_with('/')),
        Err(JsonError::TooDeep) => assert!(body.len() > json::DEPTH_MAX),
    }
    if let Ok(value) = request::read_json(body) {
        assert_eq!(None, json::find_forbidden(&value));
        let _ = request::read_payment(&value);
    }
    let _ = request::read_canonical(body);
}

fn signed(header: &[u8], payload: &[u8]) -> Vec<u8> {
    let key = SigningKey::from_bytes(&[7; 32]);
    let parts = [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part));
    let text = parts.join(".");
    let signature = key.sign(text.as_bytes()).to_bytes();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

/// Nobody without the key makes a token; with the key, only what says what it must is one.
///
/// The bytes are a token, and also, around their first NUL, a header and claims to be signed.
pub fn token(data: &[u8]) {
    let mut verifier = Verifier::new("https://oqim".into(), "oqim-api".into(), 4);
    let public = SigningKey::from_bytes(&[7; 32]).verifying_key();
    verifier
        .add_key("k1", public.as_bytes())
        .expect("a sound key");
    let middle = data
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(data.len());
    let (header, payload) = (&data[..middle], data.get(middle + 1..).unwrap_or_default());
    let made = signed(header, payload);
    assert!(verifier.verify(data, NOW).is_err() || is_acceptable(data));
    let Ok(claims) = verifier.verify(&made, NOW) else {
        return;
    };
    assert!(is_acceptable(&made));
    assert!(claims.exp > NOW && claims.iat <= NOW + 60 && claims.not_before <= NOW + 60);
    assert!(!claims.sub.is_empty() && !claims.jti.is_empty() && !claims.client_id.is_empty());
    assert_eq!(Ok(&claims), verifier.verify(&made, NOW).as_ref());
    assert!(verifier.verify(&made, claims.exp).is_err());
    verifier.remove_key("k1");
    assert!(verifier.verify(&made, NOW).is_err());
}

/// Whether another reader sees in the token's parts what must be there.
fn is_acceptable(token: &[u8]) -> bool {
    let parts: Vec<serde_json::Value> = token
        .split(|byte| *byte == b'.')
        .take(2)
        .filter_map(|part| URL_SAFE_NO_PAD.decode(part).ok())
        .filter_map(|part| serde_json::from_slice(&part).ok())
        .collect();
    let [header, claims] = parts.as_slice() else {
        return false;
    };
    let audience = &claims["aud"];
    header["alg"] == "EdDSA"
        && header["kid"] == "k1"
        && header.as_object().is_some_and(|members| members.len() == 3)
        && claims["iss"] == "https://oqim"
        && claims.get("cnf").is_none_or(is_confirmation)
        && (audience == "oqim-api"
            || audience
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == "oqim-api")))
}

/// Whether a confirmation claim names one key, and nothing else.
fn is_confirmation(claim: &serde_json::Value) -> bool {
    let thumbprint = claim["jkt"].as_str().unwrap_or_default();
    claim.as_object().is_some_and(|members| members.len() == 1)
        && URL_SAFE_NO_PAD
            .decode(thumbprint)
            .is_ok_and(|digest| digest.len() == 32)
}

/// Unpacking and packing undo one another, whichever comes first.
///
/// The bytes are a message, and also fields to be packed: number, length, value.
pub fn iso8583(data: &[u8]) {
    let dialect = Dialect::named("visa-binary").expect("the dialect exists");
    if let Some((mti, fields)) = unpack(dialect, data) {
        let packed = pack(dialect, &mti, &fields).expect("what was unpacked can be packed");
        assert_eq!(data, packed);
    }
    let mut fields = Vec::new();
    let mut rest = data;
    while let [number, length, after @ ..] = rest {
        let (value, after) = after.split_at(after.len().min(usize::from(*length)));
        fields.push((*number, value.to_vec(), std::str::from_utf8(value).is_ok()));
        rest = after;
    }
    if let Some(packed) = pack(dialect, "0100", &fields) {
        let (mti, unpacked) = unpack(dialect, &packed).expect("what was packed can be unpacked");
        assert_eq!("0100", mti);
        let values = |fields: &[Field]| -> Vec<(u8, Vec<u8>)> {
            fields
                .iter()
                .map(|(number, value, _)| (*number, value.clone()))
                .collect()
        };
        assert_eq!(values(&fields), values(&unpacked));
    }
}

/// Number, value, and whether that is text.
type Field = (u8, Vec<u8>, bool);

fn unpack(dialect: &'static Dialect, message: &[u8]) -> Option<(String, Vec<Field>)> {
    let mut unpacker = Unpacker::new(dialect, message).ok()?;
    let mti = unpacker.mti().to_owned();
    let mut fields = Vec::new();
    while let Some((number, value)) = unpacker.next_field().ok()? {
        fields.push(match value {
            Value::Text(text) => (number, text.as_bytes().to_vec(), true),
            Value::Bytes(bytes) => (number, bytes.to_vec(), false),
        });
    }
    Some((mti, fields))
}

/// Text that a binary field should hold is given as bytes.
fn pack(dialect: &'static Dialect, mti: &str, fields: &[Field]) -> Option<Vec<u8>> {
    let mut packer = Packer::new(dialect, mti).ok()?;
    for (number, value, is_text) in fields {
        let text = std::str::from_utf8(value).ok().filter(|_| *is_text);
        let as_text = text.is_some_and(|text| packer.push(*number, Value::Text(text)).is_ok());
        if !as_text {
            packer.push(*number, Value::Bytes(value)).ok()?;
        }
    }
    Some(packer.finish(<[u8]>::to_vec))
}

/// Rules are read, or refused with at least one fault that has a place; what was read answers for
/// any payment at any time.
pub fn rules_file(text: &[u8]) {
    let rules = match rules::read(text) {
        Err(faults) => {
            assert!(!faults.is_empty());
            let is_place =
                |fault: &FieldError| fault.pointer.is_empty() || fault.pointer.starts_with('/');
            assert!(faults.iter().all(is_place));
            return;
        }
        Ok(rules) => rules,
    };
    for operation in ["purchase", "transfer", "payout", ""] {
        for scheme in ["humo", "uzcard", ""] {
            let facts = Facts {
                operation,
                source_scheme: scheme,
                destination_scheme: "humo",
                tier: "basic",
                channel: "mobile",
                currency: "UZS",
                ..Facts::default()
            };
            for at_ms in [0, NOW * 1_000, -62_000_000_000_000, 250_000_000_000_000] {
                let _ = rules.policies_for(&facts, at_ms);
                let Some(plan) = rules.plan_for(&facts, at_ms) else {
                    continue;
                };
                for amount in [1, 99, 1_000_000, 1_000_000_000_000_000] {
                    if let Ok(commission) = commission::compute(plan, amount) {
                        assert!(commission.total >= 0);
                    }
                }
            }
        }
    }
}

/// A history is decided line for line, twice the same, however the bytes are cut.
pub fn history(lines: &[u8]) {
    static RULES: LazyLock<Arc<RuleSet>> = LazyLock::new(|| {
        let text = include_bytes!("rules.json");
        Arc::new(rules::read(text).expect("the rules can be read"))
    });
    let mut out = String::new();
    let whole = Decider::new(Arc::clone(&RULES)).feed(lines, &mut out);
    for line in out.lines() {
        let read: Result<serde_json::Value, _> = serde_json::from_str(line);
        assert!(read.is_ok_and(|value| value.is_object()));
    }
    if let Err(error) = &whole {
        assert!(error.line as usize <= lines.split(|byte| *byte == b'\n').count());
    }
    let middle = lines
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    let (before, after) = lines.split_at(middle);
    let mut decider = Decider::new(Arc::clone(&RULES));
    let mut again = String::new();
    let parts = decider
        .feed(before, &mut again)
        .and_then(|()| decider.feed(after, &mut again));
    assert_eq!((whole, out), (parts, again));
}

/// Bytes that were stored are read or refused, and what was read can be explained and undone.
///
/// The first byte says how many of the next are a limit state; the rest is a decision.
pub fn stored(data: &[u8]) {
    let Some((length, rest)) = data.split_first() else {
        return;
    };
    let (state, record) = rest.split_at(rest.len().min(usize::from(*length)));
    let mut state = State::read(state).ok();
    if let Some(state) = &state {
        assert_eq!(Some(state), State::read(&state.write()).ok().as_ref());
    }
    let Ok(record) = Record::read(record) else {
        return;
    };
    let told: Result<serde_json::Value, _> = serde_json::from_slice(&explain::json(&record));
    assert!(told.is_ok());
    let _ = explain::nearest(&record);
    let amount = record.amount;
    for change in [
        Change::Ended,
        Change::Captured { amount: amount / 2 },
        Change::Refunded {
            captured: amount,
            before: 0,
            after: amount / 3,
        },
    ] {
        for taken in record.given_back(change) {
            if let Some(state) = &mut state {
                state.give_back(&taken);
            }
        }
    }
}
