//! Access tokens: compact JWS, `EdDSA` over Ed25519, `typ: at+jwt` (RFC 7515, RFC 8037, RFC 9068).
//!
//! The signature is checked before anything of the claims is believed; the algorithm is fixed by
//! the key; a header with any member but `alg`, `typ` and `kid` is refused, so that no key, URL or
//! extension of the sender's is ever looked at. A verified token is remembered by all its bytes,
//! while its key is known; that it is in time is asked again at every use.

use std::sync::Arc;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use ed25519_dalek::{Signature, VerifyingKey};
use hashbrown::HashMap;
use thiserror::Error;

use crate::cache::{GenerationalCache, Use};
use crate::json::{self, Value};

#[cfg(test)]
mod tests;

pub(crate) const TOKEN_BYTES_MAX: usize = 4_096;
/// How far a clock of another host may be ahead of ours.
const SKEW_S: i64 = 60;
/// No token lives longer, so that a revocation may be forgotten once all it refuses have expired.
const LIFE_S_MAX: i64 = 12 * 3_600;
/// SHA-256 of a key.
const THUMBPRINT_BYTES: usize = 32;

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
    /// Thumbprint (RFC 7638) of the key that whoever sends the token must prove (RFC 9449); empty
    /// for one that is its bearer's.
    pub jkt: String,
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

    /// Adds a key, or puts another in the place of one. `public_key` is 32 bytes (RFC 8032).
    ///
    /// Refused: what is no point of the curve, and a point of small order, under which anybody can
    /// sign.
    pub fn add_key(&mut self, kid: &str, public_key: &[u8]) -> Result<(), TokenError> {
        let bytes: [u8; 32] = public_key.try_into().map_err(|_| TokenError::UnknownKey)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| TokenError::UnknownKey)?;
        if key.is_weak() {
            return Err(TokenError::UnknownKey);
        }
        if self
            .keys
            .insert(kid.to_owned(), key)
            .is_some_and(|old| old != key)
        {
            self.verified.clear();
        }
        Ok(())
    }

    /// Forgets a key, and with it every token it signed, also those verified already.
    pub fn remove_key(&mut self, kid: &str) {
        if self.keys.remove(kid).is_some() {
            self.verified.clear();
        }
    }

    /// How the cache of verified tokens was used.
    pub fn usage(&self) -> Use {
        self.verified.usage()
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
        let latest_s = now_s.saturating_add(SKEW_S);
        if claims.iat > latest_s || claims.not_before > latest_s {
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
            Some(Value::Array(items)) => {
                items.iter().all(|item| matches!(item, Value::Text(_)))
                    && items.contains(&Value::Text(self.audience.as_str().into()))
            }
            _ => false,
        };
        if text("iss")? != self.issuer || !is_for_us {
            return Err(TokenError::Claims);
        }
        let (iat, exp) = (seconds("iat")?, seconds("exp")?);
        let has_life = exp
            .checked_sub(iat)
            .is_some_and(|life_s| (1..=LIFE_S_MAX).contains(&life_s));
        if !has_life {
            return Err(TokenError::Claims);
        }
        Ok(Claims {
            sub: text("sub")?,
            client_id: text("client_id")?,
            scope: optional_text("scope")?
                .split(' ')
                .filter(|scope| !scope.is_empty())
                .map(str::to_owned)
                .collect(),
            sid: optional_text("sid")?,
            jti: text("jti")?,
            iat,
            exp,
            not_before: if find("nbf").is_some() {
                seconds("nbf")?
            } else {
                0
            },
            tier: optional_text("tier")?,
            channel: optional_text("channel")?,
            device: optional_text("device")?,
            jkt: thumbprint_of(find("cnf"))?,
        })
    }
}

/// The key that a confirmation claim (RFC 7800) names, or nothing where there is none.
///
/// What confirms in another way than by `jkt`, or in two, nobody here could check: it is refused.
fn thumbprint_of(confirmation: Option<&Value<'_>>) -> Result<String, TokenError> {
    let Some(confirmation) = confirmation else {
        return Ok(String::new());
    };
    let Value::Object(members) = confirmation else {
        return Err(TokenError::Claims);
    };
    let [(name, Value::Text(text))] = members.as_slice() else {
        return Err(TokenError::Claims);
    };
    let is_thumbprint = URL_SAFE_NO_PAD
        .decode(text.as_bytes())
        .is_ok_and(|digest| digest.len() == THUMBPRINT_BYTES);
    if name != "jkt" || !is_thumbprint {
        return Err(TokenError::Claims);
    }
    Ok(text.clone().into_owned())
}
