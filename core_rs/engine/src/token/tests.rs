//! A good token and what is remembered of it; by tables, every way in which one can be wrong.

mod claims;
mod form;
mod signature;

use ed25519_dalek::{Signer as _, SigningKey};
use proptest::prelude::*;

use super::TokenError::{Claims as Unusable, Expired, Malformed, Signature as Forged, UnknownKey};
use super::*;

const NOW: i64 = 1_795_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn verifier() -> Verifier {
    let mut verifier = Verifier::new("https://oqim".into(), "oqim-api".into(), 100);
    let public = key().verifying_key();
    verifier.add_key("k1", public.as_bytes()).unwrap();
    verifier
}

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn join(signed: &str, signature: &[u8]) -> Vec<u8> {
    format!("{signed}.{}", base64(signature)).into_bytes()
}

fn sign_by(key: &SigningKey, header: &str, payload: &str) -> Vec<u8> {
    let signed = format!("{}.{}", base64(header), base64(payload));
    join(&signed, &key.sign(signed.as_bytes()).to_bytes())
}

fn sign(header: &str, payload: &str) -> Vec<u8> {
    sign_by(&key(), header, payload)
}

/// The claims of a good token with some members put otherwise; `null` takes one away.
fn payload(changes: &str) -> String {
    let mut members: serde_json::Value = serde_json::from_str(
        r#"{"iss":"https://oqim","aud":"oqim-api","sub":"usr_1","client_id":"app","scope":"a b",
            "sid":"ses_1","jti":"j1","iat":1794999900,"exp":1795000200,"tier":"basic",
            "channel":"mobile","device":"d1"}"#,
    )
    .unwrap();
    let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
    let members_now = members.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members_now.remove(name);
        } else {
            members_now.insert(name.clone(), value.clone());
        }
    }
    members.to_string()
}

fn good() -> Vec<u8> {
    sign(HEADER, &payload("{}"))
}

fn outcome(token: &[u8]) -> Result<(), TokenError> {
    verifier().verify(token, NOW).map(|_| ())
}

#[test]
fn a_good_token_says_who_asks() {
    let expected = Claims {
        sub: "usr_1".into(),
        client_id: "app".into(),
        scope: vec!["a".into(), "b".into()],
        sid: "ses_1".into(),
        jti: "j1".into(),
        iat: 1_794_999_900,
        exp: 1_795_000_200,
        not_before: 0,
        tier: "basic".into(),
        channel: "mobile".into(),
        device: "d1".into(),
        jkt: String::new(),
    };
    let claims = verifier().verify(&good(), NOW).unwrap();
    assert_eq!(expected, *claims);
    assert!(claims.permits("a") && claims.permits("b"));
    assert!(!claims.permits("c") && !claims.permits("a b") && !claims.permits(""));
}

#[test]
fn a_token_is_verified_once_and_then_remembered_until_it_expires() {
    let mut verifier = verifier();
    let token = good();
    let claims = verifier.verify(&token, NOW).unwrap();
    assert!(Arc::ptr_eq(
        &claims,
        &verifier.verify(&token, NOW + 199).unwrap()
    ));
    assert_eq!(Err(Expired), verifier.verify(&token, NOW + 200));
    assert!(verifier.verified.is_empty());
    assert_eq!(Err(Expired), verifier.verify(&token, NOW + 200));
    assert!(
        verifier.verified.is_empty(),
        "what has expired is not remembered"
    );
}

#[test]
fn a_remembered_token_is_in_time_or_refused() {
    let mut verifier = verifier();
    let token = sign(HEADER, &payload(r#"{"nbf":1795000050}"#));
    let early = NOW - 100;
    assert_eq!(Err(Unusable), verifier.verify(&token, early));
    assert!(verifier.verify(&token, NOW).is_ok());
    assert_eq!(Err(Unusable), verifier.verify(&token, early));
    assert!(verifier.verify(&token, NOW).is_ok());
}

#[test]
fn with_its_key_a_token_is_forgotten() {
    let mut verifier = verifier();
    let public = key().verifying_key();
    let other = SigningKey::from_bytes(&[8; 32]).verifying_key();
    let token = good();
    assert!(verifier.verify(&token, NOW).is_ok());
    verifier.remove_key("k2");
    verifier.add_key("k1", public.as_bytes()).unwrap();
    assert_eq!(1, verifier.verified.len(), "nothing has changed for it");
    verifier.remove_key("k1");
    assert_eq!(Err(UnknownKey), verifier.verify(&token, NOW));
    verifier.add_key("k1", public.as_bytes()).unwrap();
    assert!(verifier.verify(&token, NOW).is_ok());
    verifier.add_key("k1", other.as_bytes()).unwrap();
    assert_eq!(Err(Forged), verifier.verify(&token, NOW));
}

#[test]
fn what_is_remembered_has_a_bound() {
    let mut verifier = Verifier::new("https://oqim".into(), "oqim-api".into(), 9);
    let public = key().verifying_key();
    verifier.add_key("k1", public.as_bytes()).unwrap();
    for number in 0..40 {
        let token = sign(HEADER, &payload(&format!(r#"{{"jti":"j{number}"}}"#)));
        verifier.verify(&token, NOW).unwrap();
        assert!(verifier.verified.len() <= 10);
    }
}

#[test]
fn errors_say_what_is_wrong_and_nothing_of_the_token() {
    let texts = [Malformed, UnknownKey, Forged, Unusable, Expired].map(|error| error.to_string());
    let expected = [
        "the token is not a compact JWS of ours",
        "the token's key is not known",
        "the token's signature does not match",
        "the token's claims are not usable here",
        "the token has expired",
    ];
    assert_eq!(expected, texts.each_ref().map(String::as_str));
}

proptest! {
    #[test]
    fn one_changed_bit_is_enough(index in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut token = good();
        let index = index.index(token.len());
        token[index] ^= 1 << bit;
        prop_assert!(outcome(&token).is_err());
    }

    #[test]
    fn a_token_cut_anywhere_is_refused(at in any::<prop::sample::Index>()) {
        let token = good();
        prop_assert!(outcome(&token[..at.index(token.len())]).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic(token in prop::collection::vec(any::<u8>(), 0..300), now: i64) {
        prop_assert!(verifier().verify(&token, now).is_err());
    }

    #[test]
    fn no_signed_parts_make_it_panic(header in ".{0,60}", body in ".{0,80}", now: i64) {
        prop_assert!(verifier().verify(&sign(&header, &body), now).is_err());
        prop_assert!(verifier().verify(&sign(HEADER, &body), now).is_err());
    }

    #[test]
    fn signed_times_are_judged_without_overflow(iat: i64, exp: i64, nbf: i64, now: i64) {
        let body = payload(&format!(r#"{{"iat":{iat},"exp":{exp},"nbf":{nbf}}}"#));
        let verified = verifier().verify(&sign(HEADER, &body), now);
        let lives = i128::from(exp) - i128::from(iat);
        let latest = i128::from(now) + 60;
        let expected = (1..=43_200).contains(&lives) && exp > now
            && i128::from(iat) <= latest && i128::from(nbf) <= latest;
        prop_assert_eq!(expected, verified.is_ok());
    }
}
