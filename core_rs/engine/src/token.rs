//! Access tokens: compact JWS, `EdDSA` over Ed25519, `typ: at+jwt` (RFC 7515, RFC 8037, RFC 9068).
//!
//! The signature is checked before anything of the claims is believed; the algorithm is fixed by
//! the key; a header with any member but `alg`, `typ` and `kid` is refused, so that no key, URL or
//! extension of the sender's is ever looked at.

use std::sync::Arc;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use ed25519_dalek::{Signature, VerifyingKey};
use hashbrown::HashMap;
use thiserror::Error;

use crate::cache::GenerationalCache;
use crate::json::{self, Value};

pub(crate) const TOKEN_BYTES_MAX: usize = 4_096;
/// How far a clock of another host may be ahead of ours.
const SKEW_S: i64 = 60;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    #[error("the token is not a compact JWS of ours")]
    Malformed,
    #[error("the token's key is not known")]
    UnknownKey,
    #[error("the token's signature does not match")]
    Signature,
    #[error("the token's claims are not usable here")]
    Claims,
    #[error("the token has expired")]
    Expired,
}

/// The claims of a verified token. Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claims {
    pub sub: String,
    pub client_id: String,
    pub scope: Vec<String>,
    pub sid: String,
    pub jti: String,
    pub iat: i64,
    pub exp: i64,
    pub not_before: i64,
    /// Identification level of the customer (`basic`, `identified`); empty for servers.
    pub tier: String,
    /// How the request came: `mobile`, `api`, `console`.
    pub channel: String,
    /// The device the session belongs to; empty for servers.
    pub device: String,
}

impl Claims {
    pub fn permits(&self, scope: &str) -> bool {
        self.scope.iter().any(|granted| granted == scope)
    }
}

#[derive(Debug)]
pub struct Verifier {
    issuer: String,
    audience: String,
    keys: HashMap<String, VerifyingKey>,
    verified: GenerationalCache<Box<[u8]>, Arc<Claims>>,
}

impl Verifier {
    pub fn new(issuer: String, audience: String, cache_size_max: usize) -> Self {
        Self {
            issuer,
            audience,
            keys: HashMap::new(),
            verified: GenerationalCache::new(cache_size_max.div_ceil(2)),
        }
    }

    /// Adds a key. `public_key` is 32 bytes (RFC 8032).
    pub fn add_key(&mut self, kid: &str, public_key: &[u8]) -> Result<(), TokenError> {
        let bytes: [u8; 32] = public_key.try_into().map_err(|_| TokenError::UnknownKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| TokenError::UnknownKey)?;
        self.keys.insert(kid.to_owned(), key);
        Ok(())
    }

    /// The claims of a token that is ours, signed and in time. Revocation is another question.
    pub fn verify(&mut self, token: &[u8], now_s: i64) -> Result<Arc<Claims>, TokenError> {
        let claims = match self.verified.get(token) {
            Some(claims) => Arc::clone(claims),
            None => {
                let claims = Arc::new(self.verify_uncached(token)?);
                if claims.exp > now_s {
                    self.verified.insert(token.into(), Arc::clone(&claims));
                }
                claims
            }
        };
        if claims.exp <= now_s {
            self.verified.remove(token);
            return Err(TokenError::Expired);
        }
        if claims.iat > now_s + SKEW_S || claims.not_before > now_s + SKEW_S {
            return Err(TokenError::Claims);
        }
        Ok(claims)
    }

    fn verify_uncached(&self, token: &[u8]) -> Result<Claims, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Malformed);
        }
        let mut parts = token.split(|byte| *byte == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(TokenError::Malformed);
        };
        let decode = |part| {
            URL_SAFE_NO_PAD
                .decode(part)
                .map_err(|_| TokenError::Malformed)
        };
        let key = self.key_of(&decode(header)?)?;
        let signature =
            Signature::from_slice(&decode(signature)?).map_err(|_| TokenError::Signature)?;
        let signed = &token[..header.len() + 1 + payload.len()];
        key.verify_strict(signed, &signature)
            .map_err(|_| TokenError::Signature)?;
        self.read_claims(&decode(payload)?)
    }

    fn key_of(&self, header: &[u8]) -> Result<&VerifyingKey, TokenError> {
        let Ok(Value::Object(members)) = json::parse(header) else {
            return Err(TokenError::Malformed);
        };
        let (mut alg, mut typ, mut kid) = ("", "", "");
        for (name, value) in &members {
            let Value::Text(text) = value else {
                return Err(TokenError::Malformed);
            };
            match name.as_ref() {
                "alg" => alg = text,
                "typ" => typ = text,
                "kid" => kid = text,
                _ => return Err(TokenError::Malformed),
            }
        }
        let is_access_token =
            typ.eq_ignore_ascii_case("at+jwt") || typ.eq_ignore_ascii_case("application/at+jwt");
        if alg != "EdDSA" || !is_access_token {
            return Err(TokenError::Malformed);
        }
        self.keys.get(kid).ok_or(TokenError::UnknownKey)
    }

    fn read_claims(&self, payload: &[u8]) -> Result<Claims, TokenError> {
        let Ok(Value::Object(members)) = json::parse(payload) else {
            return Err(TokenError::Claims);
        };
        let find = |name: &str| {
            members
                .iter()
                .find(|(seen, _)| seen == name)
                .map(|(_, v)| v)
        };
        let text = |name: &str| match find(name) {
            Some(Value::Text(text)) if !text.is_empty() => Ok(text.clone().into_owned()),
            _ => Err(TokenError::Claims),
        };
        let optional_text = |name: &str| match find(name) {
            None => Ok(String::new()),
            Some(Value::Text(text)) => Ok(text.clone().into_owned()),
            Some(_) => Err(TokenError::Claims),
        };
        let seconds = |name: &str| match find(name) {
            Some(Value::Number(number)) => number.parse::<i64>().map_err(|_| TokenError::Claims),
            _ => Err(TokenError::Claims),
        };
        let is_for_us = match find("aud") {
            Some(Value::Text(audience)) => *audience == self.audience,
            Some(Value::Array(items)) => items
                .iter()
                .any(|item| matches!(item, Value::Text(audience) if *audience == self.audience)),
            _ => false,
        };
        if text("iss")? != self.issuer || !is_for_us {
            return Err(TokenError::Claims);
        }
        Ok(Claims {
            sub: text("sub")?,
            client_id: text("client_id")?,
            scope: optional_text("scope")?
                .split(' ')
                .map(str::to_owned)
                .collect(),
            sid: optional_text("sid")?,
            jti: text("jti")?,
            iat: seconds("iat")?,
            exp: seconds("exp")?,
            not_before: if find("nbf").is_some() {
                seconds("nbf")?
            } else {
                0
            },
            tier: optional_text("tier")?,
            channel: optional_text("channel")?,
            device: optional_text("device")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    const NOW: i64 = 1_795_000_000;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[7; 32])
    }

    fn verifier() -> Verifier {
        let mut verifier = Verifier::new("https://oqim".into(), "oqim-api".into(), 100);
        verifier
            .add_key("k1", key().verifying_key().as_bytes())
            .unwrap();
        verifier
    }

    fn sign(header: &str, payload: &str) -> Vec<u8> {
        let signed = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature = key().sign(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes())).into_bytes()
    }

    const HEADER: &str = r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#;

    fn payload(changes: &str) -> String {
        let mut members: serde_json::Value = serde_json::from_str(
            r#"{"iss":"https://oqim","aud":"oqim-api","sub":"usr_1","client_id":"app","scope":"a b",
                "sid":"ses_1","jti":"j1","iat":1794999900,"exp":1795000200,"tier":"basic"}"#,
        )
        .unwrap();
        let changes: serde_json::Value = serde_json::from_str(changes).unwrap();
        for (name, value) in changes.as_object().unwrap() {
            members[name] = value.clone();
        }
        members.to_string()
    }

    #[test]
    fn a_good_token_is_verified_and_then_cached_until_it_expires() {
        let mut verifier = verifier();
        let token = sign(HEADER, &payload("{}"));
        let claims = verifier.verify(&token, NOW).unwrap();
        assert_eq!("usr_1", claims.sub);
        assert!(claims.permits("b") && !claims.permits("c"));
        assert!(Arc::ptr_eq(&claims, &verifier.verify(&token, NOW).unwrap()));
        assert_eq!(Err(TokenError::Expired), verifier.verify(&token, NOW + 200));
    }

    #[test]
    fn foreign_headers_are_refused() {
        for header in [
            r#"{"alg":"none","typ":"at+jwt","kid":"k1"}"#,
            r#"{"alg":"HS256","typ":"at+jwt","kid":"k1"}"#,
            r#"{"alg":"EdDSA","typ":"JWT","kid":"k1"}"#,
            r#"{"alg":"EdDSA","kid":"k1"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"../k1"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","jku":"https://evil"}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","jwk":{}}"#,
            r#"{"alg":"EdDSA","typ":"at+jwt","kid":"k1","crit":["exp"]}"#,
            r#"{"alg":"EdDSA","alg":"EdDSA","typ":"at+jwt","kid":"k1"}"#,
            "[]",
        ] {
            let token = sign(header, &payload("{}"));
            assert!(verifier().verify(&token, NOW).is_err(), "{header}");
        }
    }

    #[test]
    fn foreign_claims_are_refused() {
        for changes in [
            r#"{"iss":"https://evil"}"#,
            r#"{"aud":"other"}"#,
            r#"{"aud":["other"]}"#,
            r#"{"aud":null}"#,
            r#"{"sub":""}"#,
            r#"{"jti":null}"#,
            r#"{"client_id":7}"#,
            r#"{"exp":"1795000200"}"#,
            r#"{"exp":1795000200.5}"#,
            r#"{"exp":1794999999}"#,
            r#"{"iat":1795000061}"#,
            r#"{"nbf":1795000061}"#,
        ] {
            let token = sign(HEADER, &payload(changes));
            assert!(verifier().verify(&token, NOW).is_err(), "{changes}");
        }
    }

    #[test]
    fn a_changed_byte_anywhere_is_refused() {
        let token = sign(HEADER, &payload("{}"));
        let mut verifier = verifier();
        for index in 0..token.len() {
            let mut changed = token.clone();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            assert!(verifier.verify(&changed, NOW).is_err(), "byte {index}");
        }
        for suffix in ["=", ".", ".AA", "A"] {
            let longer = [token.as_slice(), suffix.as_bytes()].concat();
            assert!(verifier.verify(&longer, NOW).is_err(), "suffix {suffix}");
        }
    }
}
