//! A good token first; then every way in which one can be wrong, by tables; then what is remembered.

use curve25519_dalek::Scalar;
use ed25519_dalek::{Signer as _, SigningKey};
use hmac::{Hmac, Mac as _};
use proptest::prelude::*;
use sha2::{Digest as _, Sha256, Sha512};

use super::TokenError::{Claims as Unusable, Expired, Malformed, Signature as Forged, UnknownKey};
use super::*;

const NOW: i64 = 1_795_000_000;
const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;
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
    };
    let claims = verifier().verify(&good(), NOW).unwrap();
    assert_eq!(expected, *claims);
    assert!(claims.permits("a") && claims.permits("b"));
    assert!(!claims.permits("c") && !claims.permits("a b") && !claims.permits(""));
}

#[test]
fn a_header_is_ours_or_refused() {
    for (header, expected) in [
        (HEADER, Ok(())),
        (r#"{"kid":"k1","typ":"at+jwt","alg":"EdDSA"}"#, Ok(())),
        (
            " {\"alg\" : \"EdDSA\",\n\"typ\":\"at+jwt\",\"kid\":\"k1\"} ",
            Ok(()),
        ),
        // One media type in three spellings (RFC 7515 4.1.9, RFC 9068 2.1).
        (r#"{"alg":"EdDSA","typ":"AT+JWT","kid":"k1"}"#, Ok(())),
        (
            r#"{"alg":"EdDSA","typ":"application/at+jwt","kid":"k1"}"#,
            Ok(()),
        ),
        (
            r#"{"alg":"EdDSA","typ":"Application/AT+jwt","kid":"k1"}"#,
            Ok(()),
        ),
        (
            r#"{"\u0061lg":"EdDSA","typ":"at+jwt","kid":"k\u0031"}"#,
            Ok(()),
        ),
        (r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#, Err(Malformed)),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt ","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"logout+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (r#"{"alg":"EdDSA","typ":"","kid":"k1"}"#, Err(Malformed)),
        (r#"{"alg":"EdDSA","kid":"k1"}"#, Err(Malformed)),
        (
            r#"{"alg":"none","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"None","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"RS256","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"PS256","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"ES256","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"ES256K","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"Ed448","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"eddsa","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA\u0000","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (r#"{"alg":"","typ":"at+jwt","kid":"k1"}"#, Err(Malformed)),
        (r#"{"alg":null,"typ":"at+jwt","kid":"k1"}"#, Err(Malformed)),
        (
            r#"{"alg":["EdDSA"],"typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (r#"{"typ":"at+jwt","kid":"k1"}"#, Err(Malformed)),
        (r#"{"alg":"EdDSA","typ":"at+jwt"}"#, Err(UnknownKey)),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":""}"#,
            Err(UnknownKey),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k2"}"#,
            Err(UnknownKey),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"K1"}"#,
            Err(UnknownKey),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1 "}"#,
            Err(UnknownKey),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"../k1"}"#,
            Err(UnknownKey),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"' OR 1=1"}"#,
            Err(UnknownKey),
        ),
        (r#"{"alg":"EdDSA","typ":"at+jwt","kid":1}"#, Err(Malformed)),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":["k1"]}"#,
            Err(Malformed),
        ),
        // Keys and rules of the sender's own.
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","jku":"https://evil"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","jwk":{"kty":"OKP"}}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","x5u":"https://evil"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","x5c":["MIIB"]}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","x5t":"AAAA"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","x5t#S256":"AA"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","crit":["exp"],"exp":1}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","crit":[]}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","b64":false}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","b64":true}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","zip":"DEF"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","cty":"JWT"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","enc":"A128GCM"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","url":"https://a"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","":""}"#,
            Err(Malformed),
        ),
        // Two readers could each see another one.
        (
            r#"{"alg":"none","alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","\u0061lg":"EdDSA","typ":"at+jwt","kid":"k1"}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k2","kid":"k1"}"#,
            Err(Malformed),
        ),
        ("", Err(Malformed)),
        ("{}", Err(Malformed)),
        ("[]", Err(Malformed)),
        ("null", Err(Malformed)),
        ("\"EdDSA\"", Err(Malformed)),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}{}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1",}"#,
            Err(Malformed),
        ),
        (
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"} x"#,
            Err(Malformed),
        ),
    ] {
        assert_eq!(expected, outcome(&sign(header, &payload("{}"))), "{header}");
    }
}

#[test]
fn claims_are_usable_here_or_refused() {
    for (changes, expected) in [
        ("{}", Ok(())),
        (r#"{"aud":["oqim-api"]}"#, Ok(())),
        (r#"{"aud":["other","oqim-api"]}"#, Ok(())),
        (r#"{"scope":null}"#, Ok(())),
        (r#"{"scope":""}"#, Ok(())),
        (
            r#"{"sid":null,"tier":null,"device":null,"channel":null}"#,
            Ok(()),
        ),
        (r#"{"email":"a@b","groups":[1,2]}"#, Ok(())),
        (r#"{"iss":"https://evil"}"#, Err(Unusable)),
        (r#"{"iss":"https://oqim/"}"#, Err(Unusable)),
        (r#"{"iss":["https://oqim"]}"#, Err(Unusable)),
        (r#"{"iss":null}"#, Err(Unusable)),
        (r#"{"aud":"other"}"#, Err(Unusable)),
        (r#"{"aud":"oqim-api "}"#, Err(Unusable)),
        (r#"{"aud":["other"]}"#, Err(Unusable)),
        (r#"{"aud":[]}"#, Err(Unusable)),
        (r#"{"aud":[["oqim-api"]]}"#, Err(Unusable)),
        (r#"{"aud":["oqim-api",1]}"#, Err(Unusable)),
        (r#"{"aud":{"oqim-api":1}}"#, Err(Unusable)),
        (r#"{"aud":null}"#, Err(Unusable)),
        (r#"{"sub":""}"#, Err(Unusable)),
        (r#"{"sub":null}"#, Err(Unusable)),
        (r#"{"sub":1}"#, Err(Unusable)),
        (r#"{"jti":null}"#, Err(Unusable)),
        (r#"{"jti":""}"#, Err(Unusable)),
        (r#"{"jti":["j1"]}"#, Err(Unusable)),
        (r#"{"client_id":7}"#, Err(Unusable)),
        (r#"{"client_id":null}"#, Err(Unusable)),
        (r#"{"scope":["a"]}"#, Err(Unusable)),
        (r#"{"sid":1}"#, Err(Unusable)),
        (r#"{"tier":false}"#, Err(Unusable)),
        (r#"{"channel":{}}"#, Err(Unusable)),
        (r#"{"device":[]}"#, Err(Unusable)),
        (r#"{"cnf":{"jkt":"AAAA"}}"#, Err(Unusable)),
        (r#"{"iat":null}"#, Err(Unusable)),
        (r#"{"exp":null}"#, Err(Unusable)),
        (r#"{"exp":"1795000200"}"#, Err(Unusable)),
        (r#"{"exp":1795000200.5}"#, Err(Unusable)),
        (r#"{"iat":1794999900.0}"#, Err(Unusable)),
        (r#"{"exp":[1795000200]}"#, Err(Unusable)),
        (r#"{"exp":true}"#, Err(Unusable)),
        (r#"{"nbf":"1"}"#, Err(Unusable)),
        (r#"{"nbf":0.5}"#, Err(Unusable)),
    ] {
        assert_eq!(
            expected,
            outcome(&sign(HEADER, &payload(changes))),
            "{changes}"
        );
    }
}

#[test]
fn a_payload_that_two_readers_could_read_otherwise_is_refused() {
    let plain = payload("{}");
    let with = |more: &str| format!("{},{more}}}", plain.strip_suffix('}').unwrap());
    for body in [
        with(r#""sub":"usr_2""#),
        with(r#""s\u0075b":"usr_2""#),
        with(r#""exp":1795000200"#),
        with(r#""x":{"y":1,"y":2}"#),
        with(r#""exp2":1e400,"#),
        with(r#""x":"\ud800""#),
        format!("{plain}{plain}"),
        format!("\u{feff}{plain}"),
        format!("[{plain}]"),
        plain.replace("1795000200", "1.7950002e9"),
        plain.replace("1795000200", "+1795000200"),
        plain.replace("1795000200", "01795000200"),
        plain.replace("1795000200", "179500020000000000000000"),
        plain.replace('"', "'"),
        String::new(),
        "null".into(),
    ] {
        assert_eq!(Err(Unusable), outcome(&sign(HEADER, &body)), "{body}");
    }
    let latin = [plain.as_bytes(), b"\xe9"].concat();
    let signed = format!("{}.{}", base64(HEADER), base64(latin));
    let token = join(&signed, &key().sign(signed.as_bytes()).to_bytes());
    assert_eq!(Err(Unusable), outcome(&token));
}

#[test]
fn times_count_to_the_second() {
    let (min, max) = (i64::MIN, i64::MAX);
    // iat, nbf, exp, each from now; then what comes of it.
    for (iat, nbf, exp, expected) in [
        (-100, -100, 1, Ok(())),
        (-100, -100, 0, Err(Expired)),
        (-100, -100, -1, Err(Expired)),
        (60, -100, 200, Ok(())),
        (61, -100, 200, Err(Unusable)),
        (-100, 60, 200, Ok(())),
        (-100, 61, 200, Err(Unusable)),
        (0, 0, 43_200, Ok(())),
        (0, 0, 43_201, Err(Unusable)),
        (-43_199, 0, 1, Ok(())),
        (-43_200, 0, 1, Err(Unusable)),
        (10, 0, 11, Ok(())),
        (10, 0, 10, Err(Unusable)),
        (10, 0, 9, Err(Unusable)),
        (min - NOW.wrapping_neg(), 0, 10, Err(Unusable)),
        (0, 0, max - NOW, Err(Unusable)),
        (0, max - NOW, 10, Err(Unusable)),
    ] {
        let changes = format!(
            r#"{{"iat":{},"nbf":{},"exp":{}}}"#,
            NOW.wrapping_add(iat),
            NOW + nbf,
            NOW + exp
        );
        let token = sign(HEADER, &payload(&changes));
        assert_eq!(expected, outcome(&token), "{iat} {nbf} {exp}");
    }
    for now in [i64::MIN, 0, i64::MAX] {
        assert!(verifier().verify(&good(), now).is_err(), "{now}");
    }
}

#[test]
fn three_parts_in_canonical_base64url_are_a_token_and_nothing_else_is() {
    let token = String::from_utf8(good()).unwrap();
    let parts: Vec<&str> = token.split('.').collect();
    let (header, body, signature) = (parts[0], parts[1], parts[2]);
    // 64 bytes leave four spare bits in the last character.
    let spare = {
        let last = signature.chars().last().unwrap();
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let next = alphabet
            .chars()
            .nth(alphabet.find(last).unwrap() + 1)
            .unwrap();
        format!("{}{next}", &signature[..signature.len() - 1])
    };
    for (why, text) in [
        ("nothing", String::new()),
        ("a dot", ".".into()),
        ("two dots", "..".into()),
        ("one part", header.into()),
        ("two parts", format!("{header}.{body}")),
        ("four parts", format!("{token}.{signature}")),
        (
            "five parts, as if encrypted",
            format!("{header}.{body}.{signature}.AAAA.AAAA"),
        ),
        ("a dot after", format!("{token}.")),
        ("a dot before", format!(".{token}")),
        ("no header", format!(".{body}.{signature}")),
        ("padding of the signature", format!("{token}==")),
        (
            "padding of the header",
            format!("{header}=.{body}.{signature}"),
        ),
        ("spare bits", format!("{header}.{body}.{spare}")),
        ("a length that base64 never has", format!("{token}AAA")),
        ("a space before", format!(" {token}")),
        ("a space after", format!("{token} ")),
        ("a line end after", format!("{token}\n")),
        ("a NUL after", format!("{token}\0")),
        ("the other alphabet", token.replace(['-', '_'], "+")),
        (
            "a character beyond ASCII",
            format!("{header}.{body}.{signature}é"),
        ),
        ("percent encoding", token.replace('.', "%2E")),
        ("JSON serialization", format!(r#"{{"payload":"{body}"}}"#)),
    ] {
        assert_eq!(Err(Malformed), outcome(text.as_bytes()), "{why}");
    }
    for (why, text, expected) in [
        ("no signature", format!("{header}.{body}."), Forged),
        ("a byte too many", format!("{token}A"), Forged),
        ("no payload", format!("{header}..{signature}"), Forged),
        (
            "padding of the payload",
            format!("{header}.{body}=.{signature}"),
            Forged,
        ),
        (
            "a line end within the payload",
            format!("{header}.{}\n{}.{signature}", &body[..4], &body[4..]),
            Forged,
        ),
        (
            "parts swapped",
            format!("{body}.{header}.{signature}"),
            Malformed,
        ),
    ] {
        assert_eq!(Err(expected), outcome(text.as_bytes()), "{why}");
    }
    assert!(
        token.contains(['-', '_']),
        "the other alphabet was tried on a token that has both"
    );
}

/// Also what was signed as it is must be canonical: two texts would be one token.
#[test]
fn a_signed_payload_in_another_base64_is_refused() {
    let body = payload(r#"{"filler":"???>>>"}"#);
    let standard = base64::engine::general_purpose::STANDARD_NO_PAD.encode(&body);
    let plain = base64(&body);
    assert_ne!(plain, standard);
    let spaced = format!("{} {}", &plain[..8], &plain[8..]);
    for (text, expected) in [
        (plain.clone(), Ok(())),
        (standard, Err(Malformed)),
        (spaced, Err(Malformed)),
        (plain.clone() + "=", Err(Malformed)),
        (plain.clone() + "==", Err(Malformed)),
        (plain + "\n", Err(Malformed)),
    ] {
        let signed = format!("{}.{text}", base64(HEADER));
        let token = join(&signed, &key().sign(signed.as_bytes()).to_bytes());
        assert_eq!(expected, outcome(&token), "{text}");
    }
}

#[test]
fn a_token_has_4096_bytes_at_most() {
    // Base64 leaves out every fourth length, hence the spaces in the header.
    let of_length = |length: usize| {
        let sizes = (2_600..3_000).flat_map(|size| (0..3).map(move |spaces| (size, spaces)));
        let tokens = sizes.map(|(size, spaces)| {
            let body = payload(&format!(r#"{{"filler":"{}"}}"#, "x".repeat(size)));
            sign(&(HEADER.to_owned() + &" ".repeat(spaces)), &body)
        });
        tokens
            .into_iter()
            .find(|token| token.len() == length)
            .unwrap()
    };
    let (largest, too_large) = (of_length(TOKEN_BYTES_MAX), of_length(TOKEN_BYTES_MAX + 1));
    assert_eq!(TOKEN_BYTES_MAX, largest.len());
    assert_eq!(TOKEN_BYTES_MAX + 1, too_large.len());
    assert_eq!(Ok(()), outcome(&largest));
    assert_eq!(Err(Malformed), outcome(&too_large));
    assert_eq!(Err(Malformed), outcome(&vec![b'A'; 1 << 20]));
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
