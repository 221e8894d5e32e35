//! Forgeries: other keys, other algorithms' rules, and points and numbers of the wrong kind.

use curve25519_dalek::Scalar;
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256, Sha512};

use super::*;

/// Of the points of small order, every encoding (also those not reduced).
const SMALL_ORDER: [&str; 12] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
];
/// The order of the base point, low first (RFC 8032, section 5.1).
const ORDER: &str = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";

fn hex(text: &str) -> [u8; 32] {
    let byte = |index: usize| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).unwrap();
    std::array::from_fn(byte)
}

#[test]
fn only_the_key_that_is_named_has_signed() {
    let mut verifier = verifier();
    let other = SigningKey::from_bytes(&[8; 32]);
    let public = other.verifying_key();
    verifier.add_key("k2", public.as_bytes()).unwrap();
    let header = HEADER.replace("k1", "k2");
    let body = payload("{}");
    let mut outcome = |token: &[u8]| verifier.verify(token, NOW).map(|_| ());
    assert_eq!(Ok(()), outcome(&sign(HEADER, &body)));
    assert_eq!(Ok(()), outcome(&sign_by(&other, &header, &body)));
    assert_eq!(Err(Forged), outcome(&sign_by(&other, HEADER, &body)));
    assert_eq!(Err(Forged), outcome(&sign(&header, &body)));
    // The signature of another of our own tokens.
    let parts = |token: Vec<u8>| String::from_utf8(token).unwrap();
    let one = parts(sign(HEADER, &body));
    let another = parts(sign(HEADER, &payload(r#"{"sub":"usr_2"}"#)));
    let (signed, _) = one.rsplit_once('.').unwrap();
    let (_, signature) = another.rsplit_once('.').unwrap();
    assert_eq!(
        Err(Forged),
        outcome(format!("{signed}.{signature}").as_bytes())
    );
}

/// Whoever knows the public key knows the secret of an HMAC under it.
#[test]
fn an_hmac_under_the_public_key_is_no_signature() {
    let public = key().verifying_key();
    let as_hex: String = public
        .as_bytes()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    for secret in [
        public.as_bytes().to_vec(),
        base64(public.as_bytes()).into_bytes(),
        as_hex.into(),
    ] {
        for (alg, expected) in [("HS256", Malformed), ("EdDSA", Forged)] {
            let header = HEADER.replace("EdDSA", alg);
            let signed = format!("{}.{}", base64(header), base64(payload("{}")));
            let mut mac = Hmac::<Sha256>::new_from_slice(&secret).unwrap();
            mac.update(signed.as_bytes());
            let digest = mac.finalize().into_bytes();
            assert_eq!(Err(expected), outcome(&join(&signed, &digest)), "{alg}");
            let doubled = [digest, digest].concat();
            assert_eq!(Err(expected), outcome(&join(&signed, &doubled)), "{alg}");
        }
    }
}

/// RFC 8032 section 5.1.7: S is below the group's order, else one signature had many forms.
#[test]
fn a_signature_has_one_form() {
    let signed = format!("{}.{}", base64(HEADER), base64(payload("{}")));
    let mut signature = key().sign(signed.as_bytes()).to_bytes();
    assert_eq!(Ok(()), outcome(&join(&signed, &signature)));
    let mut carry = 0;
    for (byte, order) in signature[32..].iter_mut().zip(hex(ORDER)) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(0, carry);
    assert_eq!(Err(Forged), outcome(&join(&signed, &signature)));
    signature[63] |= 0x80;
    assert_eq!(Err(Forged), outcome(&join(&signed, &signature)));
    assert_eq!(Err(Forged), outcome(&join(&signed, &[0; 64])));
    assert_eq!(Err(Forged), outcome(&join(&signed, &[0xff; 64])));
    assert_eq!(Err(Forged), outcome(&join(&signed, &signature[..63])));
    assert_eq!(
        Err(Forged),
        outcome(&join(&signed, &[&signature[..], &[0]].concat()))
    );
}

/// The holder of a key could make signatures that some verifiers take and others do not.
#[test]
fn a_signature_with_a_point_of_small_order_is_refused() {
    let key = key();
    let signed = format!("{}.{}", base64(HEADER), base64(payload("{}")));
    // R is the neutral point, so that S = H(R, A, M) a solves the equation.
    let neutral = hex(SMALL_ORDER[2]);
    let mut hash = Sha512::new();
    for part in [
        &neutral[..],
        key.verifying_key().as_bytes(),
        signed.as_bytes(),
    ] {
        hash.update(part);
    }
    let s = Scalar::from_bytes_mod_order_wide(&hash.finalize().into()) * key.to_scalar();
    let signature = [neutral, s.to_bytes()].concat();
    let lax = ed25519_dalek::Verifier::verify(
        &key.verifying_key(),
        signed.as_bytes(),
        &Signature::from_slice(&signature).unwrap(),
    );
    assert!(
        lax.is_ok(),
        "the forgery is one that a careless verifier takes"
    );
    assert_eq!(Err(Forged), outcome(&join(&signed, &signature)));
}

#[test]
fn a_key_under_which_anybody_signs_is_not_added() {
    for encoding in SMALL_ORDER {
        let added = verifier().add_key("weak", &hex(encoding));
        assert_eq!(Err(UnknownKey), added, "{encoding}");
    }
    let public = key().verifying_key();
    for (why, bytes) in [
        (
            "no point",
            hex("0200000000000000000000000000000000000000000000000000000000000000").to_vec(),
        ),
        ("too short", public.as_bytes()[..31].to_vec()),
        ("too long", [public.as_bytes(), &[0][..]].concat()),
        ("empty", vec![]),
    ] {
        assert_eq!(Err(UnknownKey), verifier().add_key("k", &bytes), "{why}");
    }
}

#[test]
fn nothing_is_believed_before_the_signature() {
    let other = SigningKey::from_bytes(&[8; 32]);
    for body in [
        payload(r#"{"exp":1}"#),
        payload(r#"{"iss":"https://evil"}"#),
        "{".into(),
    ] {
        assert_eq!(
            Err(Forged),
            outcome(&sign_by(&other, HEADER, &body)),
            "{body}"
        );
    }
}
