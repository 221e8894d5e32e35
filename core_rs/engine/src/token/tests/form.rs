//! What a token looks like: its parts, their base64, its header, its length.

use super::*;

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
