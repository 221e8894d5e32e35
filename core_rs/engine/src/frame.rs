//! What surrounds a body: the token's header, the media type, the idempotency key.

use std::borrow::Cow;

use sha2::{Digest as _, Sha256};

use crate::problem::Refusal;
use crate::token::Claims;

const BODY_BYTES_MAX: usize = 65_536;
const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;

/// Header names and values as received.
pub type Headers<'a> = [(&'a [u8], &'a [u8])];

/// Names a request for replay: who asked for which route under which key, and what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Idempotency {
    pub scope: [u8; 16],
    pub fingerprint: [u8; 32],
}

fn header_values<'a>(
    headers: &'a Headers<'a>,
    name: &'a str,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    headers
        .iter()
        .filter(move |(seen, _)| seen.eq_ignore_ascii_case(name.as_bytes()))
        .map(|(_, value)| value.trim_ascii())
}

/// How a token was sent: as its bearer's (RFC 6750), or with a proof of its key (RFC 9449).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    Bearer,
    Dpop,
}

/// The token of exactly one `Authorization: Bearer ...` or `Authorization: DPoP ...`.
pub fn access_token<'a>(headers: &'a Headers<'a>) -> Result<(Scheme, &'a [u8]), Refusal> {
    let mut values = header_values(headers, "authorization");
    let value = values.next().ok_or_else(|| {
        Refusal::new(
            "unauthenticated",
            "Send Authorization: Bearer with an access token.",
        )
    })?;
    if values.next().is_some() {
        return Err(Refusal::new(
            "invalid-request",
            "Send one Authorization header.",
        ));
    }
    let said = [("Bearer ", Scheme::Bearer), ("DPoP ", Scheme::Dpop)];
    said.into_iter()
        .find_map(|(name, scheme)| {
            let (start, rest) = value.split_at_checked(name.len())?;
            let token = rest.trim_ascii_start();
            let is_it = start.eq_ignore_ascii_case(name.as_bytes()) && !token.is_empty();
            is_it.then_some((scheme, token))
        })
        .ok_or_else(|| {
            Refusal::new(
                "invalid-token",
                "Send Authorization: Bearer with an access token.",
            )
        })
}

/// JSON in UTF-8, not compressed, not too large.
pub fn check_media(headers: &Headers<'_>, body: &[u8]) -> Result<(), Refusal> {
    if header_values(headers, "content-encoding").next().is_some() {
        let detail = "Send the body without Content-Encoding.";
        return Err(Refusal::new("unsupported-content-encoding", detail));
    }
    let media = header_values(headers, "content-type")
        .next()
        .unwrap_or_default();
    if media != b"application/json" && !is_json(media) {
        let detail = "Send Content-Type: application/json in UTF-8.";
        return Err(Refusal::new("unsupported-media-type", detail));
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(Refusal::new(
            "payload-too-large",
            "The body may have 64 KiB at most.",
        ));
    }
    Ok(())
}

fn is_json(media: &[u8]) -> bool {
    let media = String::from_utf8_lossy(media).to_ascii_lowercase();
    let mut parts = media.split(';').map(str::trim);
    parts.next() == Some("application/json")
        && parts.all(|parameter| {
            parameter
                .strip_prefix("charset=")
                .is_none_or(|charset| matches!(charset.trim_matches('"'), "utf-8" | "utf8"))
        })
}

/// The `Idempotency-Key`, quoted (RFC 8941 string) or bare, as the text it stands for.
pub fn idempotency_key<'a>(headers: &'a Headers<'a>) -> Result<Cow<'a, str>, Refusal> {
    let invalid = || {
        let detail = "Send one key of 1 to 255 printable ASCII characters, quoted or bare.";
        Refusal::new("idempotency-key-invalid", detail)
    };
    let mut values = header_values(headers, "idempotency-key");
    let value = values.next().ok_or_else(|| {
        let detail = "Send an Idempotency-Key of your own making; repeat it when you retry.";
        Refusal::new("idempotency-key-missing", detail)
    })?;
    if values.next().is_some() || !value.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return Err(invalid());
    }
    let text = std::str::from_utf8(value).map_err(|_| invalid())?;
    let key = match text.strip_prefix('"') {
        None if text.contains('"') => return Err(invalid()),
        None => Cow::Borrowed(text),
        Some(quoted) => Cow::Owned(unquote(quoted).ok_or_else(invalid)?),
    };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_LENGTH_MAX {
        return Err(invalid());
    }
    Ok(key)
}

/// The rest of an RFC 8941 string after its opening quote.
fn unquote(quoted: &str) -> Option<String> {
    let mut key = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    loop {
        match characters.next()? {
            '"' => return characters.next().is_none().then_some(key),
            '\\' => match characters.next()? {
                escaped @ ('"' | '\\') => key.push(escaped),
                _ => return None,
            },
            plain => key.push(plain),
        }
    }
}

/// The scope is the client, whom it acts for, and the route; the fingerprint is what was asked.
pub fn idempotency_of(
    claims: &Claims,
    method: &str,
    path: &str,
    key: &str,
    canonical_body: &[u8],
) -> Idempotency {
    let mut scope = Sha256::new();
    for part in [&claims.client_id, &claims.sub, method, path] {
        scope.update(part.as_bytes());
        scope.update([0]);
    }
    scope.update(key.as_bytes());
    let mut short = [0; 16];
    short.copy_from_slice(&scope.finalize()[..16]);
    let mut fingerprint = Sha256::new();
    fingerprint.update(method.as_bytes());
    fingerprint.update([0]);
    fingerprint.update(path.as_bytes());
    fingerprint.update([0]);
    fingerprint.update(canonical_body);
    Idempotency {
        scope: short,
        fingerprint: fingerprint.finalize().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Result<String, &'static str> {
        let headers: &Headers<'_> = &[(b"idempotency-key", value.as_bytes())];
        let read = idempotency_key(headers).map(Cow::into_owned);
        read.map_err(|refusal| refusal.slug)
    }

    #[test]
    fn a_key_is_the_same_quoted_and_bare() {
        assert_eq!(Ok("rent-1".to_owned()), key("rent-1"));
        assert_eq!(Ok("rent-1".to_owned()), key("\"rent-1\""));
        assert_eq!(Ok("a\"b\\".to_owned()), key(r#""a\"b\\""#));
        for bad in ["\"open", "shut\"", "\"a\"b", "\"\"", r#""\x""#, "ў"] {
            assert_eq!(Err("idempotency-key-invalid"), key(bad), "{bad}");
        }
        assert_eq!(Err("idempotency-key-invalid"), key(&"k".repeat(256)));
        assert_eq!(Ok("k".repeat(255)), key(&"k".repeat(255)));
    }

    #[test]
    fn one_token_is_asked_for() {
        fn slug<'a>(headers: &'a Headers<'a>) -> Result<(Scheme, &'a [u8]), &'static str> {
            access_token(headers).map_err(|refusal| refusal.slug)
        }
        assert_eq!(Err("unauthenticated"), slug(&[]));
        let unusable: [&[u8]; 8] = [
            b"Basic abc",
            b"Bearer ",
            b"Bearer",
            b"DPoP ",
            b"DPoP",
            b"DPoPabc",
            b"Bear",
            b"",
        ];
        for value in unusable {
            assert_eq!(Err("invalid-token"), slug(&[(b"Authorization", value)]));
        }
        assert_eq!(
            Ok((Scheme::Bearer, &b"abc"[..])),
            slug(&[(b"AUTHORIZATION", b"bearer  abc ")])
        );
        assert_eq!(
            Ok((Scheme::Dpop, &b"abc"[..])),
            slug(&[(b"authorization", b"dPoP abc")])
        );
        let twice: &Headers<'_> = &[
            (b"authorization", b"Bearer a"),
            (b"Authorization", b"Bearer b"),
        ];
        assert_eq!(Err("invalid-request"), slug(twice));
    }

    #[test]
    fn only_plain_json_in_utf8_is_read() {
        let slug = |headers: &Headers<'_>, size: usize| {
            check_media(headers, &vec![b' '; size]).map_err(|refusal| refusal.slug)
        };
        let json: &Headers<'_> = &[(b"Content-Type", b"application/json; charset=\"UTF-8\"")];
        assert_eq!(Ok(()), slug(json, BODY_BYTES_MAX));
        assert_eq!(Err("payload-too-large"), slug(json, BODY_BYTES_MAX + 1));
        for other in [
            "text/plain",
            "",
            "application/json; charset=utf-7",
            "application/jsonp",
        ] {
            let headers: &Headers<'_> = &[(b"content-type", other.as_bytes())];
            assert_eq!(Err("unsupported-media-type"), slug(headers, 2), "{other}");
        }
        let zipped: &Headers<'_> = &[
            (b"content-type", b"application/json"),
            (b"content-encoding", b"gzip"),
        ];
        assert_eq!(Err("unsupported-content-encoding"), slug(zipped, 2));
    }
}
