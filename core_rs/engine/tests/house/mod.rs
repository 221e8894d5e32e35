//! A core with rules, a caller's key and a card, as the programs beside it need one.

// Each program that includes this uses some of it.
#![allow(dead_code)]

use std::sync::Arc;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use ed25519_dalek::{Signer as _, SigningKey};
use oqim_engine::admit::{Card, Core, Settings};
use oqim_engine::routing::RoutingTable;
use oqim_engine::rules;

pub const NOW_S: i64 = 1_795_000_000;
pub const BODY: &[u8] = br#"{"operation": "transfer", "amount": 15000000, "currency": "UZS",
 "source": {"card": "card_01KAJ7Y8W0ABCDEFGHJKMNPQRS"}, "destination": {"pan": "9860010000000009"},
 "capture": "automatic", "description": "Ijara haqi, noyabr (uy 12, xonadon 40)", "purpose": "01",
 "metadata": {"order": "A-2026-000123456", "channel": "mobile-app", "note": "O\u2018zbekiston",
 "branch": "00421", "agent": "agent-7"}}"#;

/// Eight limits that all match, three of them rolling, and a tiered plan.
pub const RULES: &[u8] = br#"{
 "commission_plans": [
  {"id": "transfer", "priority": 1, "match": {"operation": ["transfer"], "source_scheme": ["humo"]},
   "payer": "sender", "on_refund": "none",
   "components": [
    {"name": "volume", "kind": "tiered", "mode": "graduated", "rounding": "half_even",
     "vat_percent": "12",
     "tiers": [{"up_to": 1000000, "percent": "1", "fixed": 0},
               {"up_to": 10000000, "percent": "0.75", "fixed": 10000},
               {"up_to": null, "percent": "0.5", "fixed": 20000}]},
    {"name": "processor", "kind": "fixed", "amount": 20000}],
   "split": [{"party": "bank", "share": "70"}, {"party": "partner", "share": "30"}]},
  {"id": "purchase", "priority": 1, "match": {"operation": ["purchase"]}, "payer": "sender",
   "components": [{"name": "fixed", "kind": "fixed", "amount": 1}], "on_refund": "none"}],
 "limit_policies": [
  {"id": "single", "subject": "platform", "window": {"kind": "operation"}, "min_amount": 1,
   "max_amount": 100000000000000, "currency": "UZS"},
  {"id": "card-minute", "subject": "card", "window": {"kind": "rolling", "seconds": 60},
   "max_count": 1000, "currency": "UZS"},
  {"id": "card-day", "subject": "card", "window": {"kind": "calendar", "unit": "day"},
   "max_amount": 100000000000000, "max_count": 1000, "currency": "UZS"},
  {"id": "card-month", "subject": "card", "window": {"kind": "calendar", "unit": "month"},
   "max_amount": 100000000000000, "currency": "UZS", "match": {"tier": ["identified"]}},
  {"id": "user-hour", "subject": "user", "window": {"kind": "rolling", "seconds": 3600},
   "max_amount": 100000000000000, "currency": "UZS"},
  {"id": "user-year", "subject": "user", "window": {"kind": "calendar", "unit": "year"},
   "max_amount": 100000000000000, "currency": "UZS"},
  {"id": "to-card-day", "subject": "destination_card", "currency": "UZS",
   "window": {"kind": "calendar", "unit": "day"}, "max_count": 1000},
  {"id": "device-day", "subject": "device", "window": {"kind": "rolling", "seconds": 86400},
   "max_amount": 100000000000000, "currency": "UZS", "match": {"channel": ["mobile"]}}],
 "rates": []}"#;

pub const ROUTING: &[u8] = br#"{"bins": [{"prefix": "9860", "scheme": "humo"}],
 "routes": [{"operation": "transfer", "source_scheme": "humo", "destination_scheme": "humo",
  "currencies": ["UZS"], "legs": [{"connector": "humo", "kind": "transfer"}]}]}"#;

pub fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

pub fn token(number: u8) -> Vec<u8> {
    token_saying(number, "")
}

/// A token bound to a key (RFC 9449, 6.1).
pub fn bound_token() -> Vec<u8> {
    let thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    token_saying(0, &format!(r#","cnf":{{"jkt":"{thumbprint}"}}"#))
}

fn token_saying(number: u8, more: &str) -> Vec<u8> {
    let header = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
    let claims = format!(
        r#"{{"iss":"https://oqim","aud":"oqim-api","sub":"usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS",
            "client_id":"mobile-app","scope":"payments:write payments:read cards:read limits:read",
            "sid":"ses_01KAJ7Y8W0ABCDEFGHJKMNPQRS","jti":"AAECAwQFBgcICQoLDA0O{number:02}",
            "iat":{NOW_S},"exp":{},"tier":"identified","channel":"mobile","device":"dev_1"{more}}}"#,
        NOW_S + 300
    );
    let parts = [header, &claims].map(|part| URL_SAFE_NO_PAD.encode(part));
    let signed = parts.join(".");
    let signature = key().sign(signed.as_bytes()).to_bytes();
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
}

pub fn core() -> Core {
    let settings = Settings {
        issuer: "https://oqim".into(),
        audience: "oqim-api".into(),
        lookup_key: vec![1; 32],
        quote_key: vec![2; 32],
        quote_ttl_ms: 60_000,
        feed_age_ms_max: 5_000,
        token_cache_size_max: 1_024,
        card_cache_size_max: 1_024,
        subject_cache_size_max: 1_024,
    };
    let rules = Arc::new(rules::read(RULES).expect("rules"));
    let routing = RoutingTable::read(ROUTING).expect("routing");
    let mut core = Core::new(settings, rules, 1, routing);
    let public = key().verifying_key();
    core.verifier
        .add_key("k1", public.as_bytes())
        .expect("a sound key");
    core.revocations.mark_fresh(NOW_S * 1_000);
    let card = Card {
        owner: "usr_01KAJ7Y8W0ABCDEFGHJKMNPQRS".into(),
        scheme: "humo".into(),
        bin: "986001".into(),
        lookup: core.lookup_of("9860010000000025"),
        is_active: true,
        version: 1,
    };
    core.put_card("card_01KAJ7Y8W0ABCDEFGHJKMNPQRS", Some(card));
    core
}
