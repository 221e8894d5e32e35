//! Quotes: a commission promised for a while, sealed so that it need not be stored.
//!
//! A `quote_id` is `qt_` + base64url(payload) + `.` + base64url(HMAC-SHA-256 of the payload). The
//! payload binds the customer and what is paid; a payment that differs is refused.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::commission::Commission;
use crate::problem::Refusal;
use crate::request::{Destination, PaymentRequest};

#[derive(Debug, Serialize, Deserialize)]
struct Payload {
    expires_at_ms: i64,
    bound_to: String,
    generation: u64,
    priced_at_ms: i64,
    total_debit: i64,
    total_credit: i64,
    split: Vec<(String, i64)>,
    commission: Commission,
}

/// A commission, and by which set of rules and at which moment it was computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Priced {
    pub commission: Commission,
    pub generation: u64,
    pub at_ms: i64,
}

/// What a quote is for: who pays what to whom.
fn binding(sub: &str, request: &PaymentRequest) -> String {
    let (kind, destination) = match &request.destination {
        Destination::Card(id) => ("card", id.as_str()),
        Destination::Pan(pan) => ("pan", &**pan),
        Destination::Merchant(id) => ("merchant", id.as_str()),
    };
    let amount = request.amount.to_string();
    let parts = [
        sub,
        request.operation,
        &amount,
        &request.currency,
        request.source_card.as_deref().unwrap_or(""),
        kind,
        destination,
    ];
    URL_SAFE_NO_PAD.encode(Sha256::digest(parts.join("\n")))
}

fn seal(key: &[u8], payload: &[u8]) -> Hmac<Sha256> {
    let mut mac =
        <Hmac<Sha256> as hmac::Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(payload);
    mac
}

pub fn issue(
    key: &[u8],
    sub: &str,
    request: &PaymentRequest,
    priced: &Priced,
    expires_at_ms: i64,
) -> String {
    let commission = priced.commission.clone();
    let payload = serde_json::to_vec(&Payload {
        expires_at_ms,
        bound_to: binding(sub, request),
        generation: priced.generation,
        priced_at_ms: priced.at_ms,
        total_debit: commission.total_debit,
        total_credit: commission.total_credit,
        split: commission.split.clone(),
        commission,
    })
    .unwrap_or_default();
    let tag = seal(key, &payload).finalize().into_bytes();
    format!(
        "qt_{}.{}",
        URL_SAFE_NO_PAD.encode(&payload),
        URL_SAFE_NO_PAD.encode(tag)
    )
}

/// The commission promised, when the quote is ours, for this payment, and in time.
pub fn open(
    key: &[u8],
    quote_id: &str,
    sub: &str,
    request: &PaymentRequest,
    now_ms: i64,
) -> Result<Priced, Refusal> {
    let invalid = || {
        Refusal::decision(
            "quote-invalid",
            "Ask for a new quote for exactly this payment.",
        )
    };
    let (payload, tag) = quote_id
        .strip_prefix("qt_")
        .and_then(|rest| rest.split_once('.'))
        .ok_or_else(invalid)?;
    let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| invalid())?;
    let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| invalid())?;
    seal(key, &payload)
        .verify_slice(&tag)
        .map_err(|_| invalid())?;
    let payload: Payload = serde_json::from_slice(&payload).map_err(|_| invalid())?;
    if payload.bound_to != binding(sub, request) {
        return Err(invalid());
    }
    if payload.expires_at_ms <= now_ms {
        return Err(Refusal::decision("quote-expired", "Ask for a new quote."));
    }
    Ok(Priced {
        commission: Commission {
            total_debit: payload.total_debit,
            total_credit: payload.total_credit,
            split: payload.split,
            ..payload.commission
        },
        generation: payload.generation,
        at_ms: payload.priced_at_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(amount: i64) -> PaymentRequest {
        PaymentRequest {
            operation: "transfer",
            amount,
            currency: "UZS".into(),
            source_card: Some("card_1".into()),
            destination: Destination::Card("card_2".into()),
            is_manual_capture: false,
            description: None,
            purpose: None,
            quote_id: None,
            metadata: Vec::new(),
        }
    }

    #[test]
    fn a_quote_holds_for_its_payment_until_it_expires() {
        let commission = Commission {
            total: 5,
            payer: "sender".into(),
            plan: "p".into(),
            version: 1,
            lines: Vec::new(),
            split: vec![("bank".into(), 5)],
            total_debit: 105,
            total_credit: 100,
        };
        let priced = Priced {
            commission,
            generation: 7,
            at_ms: 3,
        };
        let quote = issue(b"key", "usr_1", &request(100), &priced, 1_000);
        assert_eq!(
            Ok(priced),
            open(b"key", &quote, "usr_1", &request(100), 999)
        );
        let slug = |key: &[u8], quote: &str, sub, amount, now| {
            open(key, quote, sub, &request(amount), now)
                .unwrap_err()
                .slug
        };
        assert_eq!("quote-expired", slug(b"key", &quote, "usr_1", 100, 1_000));
        assert_eq!("quote-invalid", slug(b"key", &quote, "usr_1", 101, 1));
        assert_eq!("quote-invalid", slug(b"key", &quote, "usr_2", 100, 1));
        assert_eq!("quote-invalid", slug(b"other", &quote, "usr_1", 100, 1));
        for bad in ["", "qt_", "qt_.", "qt_e30.AAAA", "x"] {
            assert_eq!("quote-invalid", slug(b"key", bad, "usr_1", 100, 1), "{bad}");
        }
    }
}
