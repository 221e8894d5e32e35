//! Claims that are usable here, and those that are not; times to the second.

use super::*;

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
        (
            r#"{"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}"#,
            Ok(()),
        ),
        (r#"{"cnf":{"jkt":"AAAA"}}"#, Err(Unusable)),
        (
            r#"{"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I="}}"#,
            Err(Unusable),
        ),
        (
            r#"{"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4J"}}"#,
            Err(Unusable),
        ),
        (
            r#"{"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I","kid":"k"}}"#,
            Err(Unusable),
        ),
        (
            r#"{"cnf":{"x5t#S256":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}"#,
            Err(Unusable),
        ),
        (r#"{"cnf":{"jkt":7}}"#, Err(Unusable)),
        (r#"{"cnf":{"jkt":null}}"#, Err(Unusable)),
        (r#"{"cnf":{}}"#, Err(Unusable)),
        (r#"{"cnf":[]}"#, Err(Unusable)),
        (
            r#"{"cnf":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}"#,
            Err(Unusable),
        ),
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
fn a_token_bound_to_a_key_says_to_which() {
    let thumbprint = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I";
    let bound = payload(&format!(r#"{{"cnf":{{"jkt":"{thumbprint}"}}}}"#));
    let claims = verifier().verify(&sign(HEADER, &bound), NOW).unwrap();
    assert_eq!(thumbprint, claims.jkt);
    assert_eq!("", verifier().verify(&good(), NOW).unwrap().jkt);
}
