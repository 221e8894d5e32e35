//! Every problem the platform can answer (RFC 9457), as one table, and its bytes.
//!
//! The gateway builds its own problems and the pages at `/problems/<slug>` from the same table, so
//! that a slug has one status, one title and one meaning everywhere.

use serde::Serialize;

/// One kind of problem. `retryable`: the same request may succeed later without being changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    pub slug: &'static str,
    pub status: u16,
    pub retryable: bool,
    pub title: &'static str,
}

const fn kind(slug: &'static str, status: u16, retryable: bool, title: &'static str) -> Kind {
    Kind {
        slug,
        status,
        retryable,
        title,
    }
}

/// In the order in which a request meets them.
pub const KINDS: &[Kind] = &[
    // The frame.
    kind(
        "malformed-request",
        400,
        false,
        "The HTTP request could not be read",
    ),
    kind(
        "invalid-request",
        400,
        false,
        "The request is not well formed",
    ),
    kind(
        "not-found",
        404,
        false,
        "There is nothing here, or it is not yours",
    ),
    kind(
        "method-not-allowed",
        405,
        false,
        "This path does not answer this method",
    ),
    kind(
        "not-acceptable",
        406,
        false,
        "Only application/json can be answered",
    ),
    kind(
        "request-timeout",
        408,
        true,
        "The request did not arrive in time",
    ),
    kind(
        "payload-too-large",
        413,
        false,
        "The body is larger than 64 KiB",
    ),
    kind("uri-too-long", 414, false, "The URL is longer than 8 KiB"),
    kind(
        "unsupported-media-type",
        415,
        false,
        "The body's media type is not the one expected",
    ),
    kind(
        "unsupported-content-encoding",
        415,
        false,
        "Compressed bodies are not accepted",
    ),
    kind(
        "header-too-large",
        431,
        false,
        "A header is larger than 8 KiB",
    ),
    // Rules, changed by two people.
    kind(
        "rules-invalid",
        422,
        false,
        "The rule cannot be used as it is",
    ),
    kind(
        "insufficient-user-authentication",
        401,
        true,
        "Authenticate again before doing this",
    ),
    kind(
        "four-eyes-required",
        403,
        false,
        "Another operator must approve this",
    ),
    kind(
        "precondition-required",
        428,
        false,
        "If-Match is needed, with what the change is made of",
    ),
    kind(
        "precondition-failed",
        412,
        false,
        "It was changed since it was read",
    ),
    kind(
        "proposal-stale",
        409,
        false,
        "What it is about has changed since this was proposed",
    ),
    kind(
        "simulation-running",
        409,
        true,
        "Another simulation is running",
    ),
    // Who asks.
    kind("unauthenticated", 401, false, "An access token is needed"),
    kind("invalid-token", 401, false, "The access token is not valid"),
    kind(
        "invalid-dpop-proof",
        401,
        false,
        "The proof of the token's key is not valid",
    ),
    kind(
        "use-dpop-nonce",
        401,
        false,
        "The proof of the token's key needs a newer nonce",
    ),
    kind(
        "invalid-client",
        401,
        false,
        "The client could not be authenticated",
    ),
    kind(
        "insufficient-scope",
        403,
        false,
        "The access token does not permit this",
    ),
    kind(
        "client-network-not-allowed",
        403,
        false,
        "This client may not ask from this address",
    ),
    kind(
        "origin-not-allowed",
        403,
        false,
        "Pages of this origin may not ask this",
    ),
    kind(
        "invalid-grant",
        400,
        false,
        "The grant is not valid, or has been used",
    ),
    kind(
        "unauthorized-client",
        400,
        false,
        "The client may not use this grant type",
    ),
    kind(
        "invalid-scope",
        400,
        false,
        "The scope asked for cannot be granted",
    ),
    kind(
        "device-limit-reached",
        403,
        false,
        "As many devices are logged in as may be",
    ),
    kind(
        "unsupported-grant-type",
        400,
        false,
        "This grant type is not supported",
    ),
    kind(
        "otp-invalid",
        422,
        false,
        "The one-time code is not the one sent",
    ),
    kind("otp-expired", 422, false, "The one-time code has expired"),
    kind(
        "otp-already-used",
        409,
        false,
        "The one-time code has been used",
    ),
    kind(
        "sca-binding-mismatch",
        422,
        false,
        "The one-time code is for another payment",
    ),
    kind(
        "otp-locked",
        429,
        true,
        "Too many wrong codes; wait before asking for another",
    ),
    kind("rate-limited", 429, true, "Too many requests"),
    // The request.
    kind(
        "idempotency-key-missing",
        400,
        false,
        "An Idempotency-Key header is needed",
    ),
    kind(
        "idempotency-key-invalid",
        400,
        false,
        "The Idempotency-Key header is not usable",
    ),
    kind(
        "idempotency-key-reused",
        422,
        false,
        "The key was used for another request",
    ),
    kind(
        "idempotency-in-progress",
        409,
        true,
        "The first request with this key is still running",
    ),
    kind(
        "invalid-deadline",
        400,
        false,
        "Deadline-Ms is not a positive number of milliseconds",
    ),
    kind(
        "deadline-exceeded",
        504,
        true,
        "The deadline passed before anything was done",
    ),
    kind(
        "invalid-query",
        400,
        false,
        "A query parameter is unknown, repeated or out of range",
    ),
    kind(
        "invalid-cursor",
        400,
        false,
        "The cursor is not one that was given for this list",
    ),
    kind("malformed-json", 400, false, "The body is not valid JSON"),
    kind(
        "invalid-encoding",
        400,
        false,
        "The body is not valid UTF-8",
    ),
    kind("duplicate-member", 400, false, "A member appears twice"),
    kind("too-deep", 400, false, "The body is nested too deeply"),
    kind(
        "schema-violation",
        422,
        false,
        "The body does not have the expected shape",
    ),
    kind(
        "unknown-member",
        422,
        false,
        "The body has a member that is not known",
    ),
    kind(
        "read-only-member",
        422,
        false,
        "The body sets a member that cannot be set",
    ),
    kind(
        "invalid-character",
        422,
        false,
        "A text holds a character that is not allowed",
    ),
    kind("too-long", 422, false, "A text is too long"),
    kind(
        "invalid-amount",
        422,
        false,
        "The amount is not a positive integer of minor units",
    ),
    kind(
        "amount-out-of-range",
        422,
        false,
        "The amount is larger than can be accepted",
    ),
    kind(
        "invalid-currency",
        422,
        false,
        "The currency is not an ISO 4217 code",
    ),
    kind("invalid-phone", 422, false, "The phone number is not valid"),
    kind("invalid-pan", 422, false, "The card number is not valid"),
    kind(
        "invalid-expiry",
        422,
        false,
        "The expiry is not a month to come",
    ),
    kind(
        "invalid-cvv",
        422,
        false,
        "The security code is not accepted here",
    ),
    kind(
        "unsupported-scheme",
        422,
        false,
        "No supported scheme issues this card",
    ),
    kind(
        "currency-not-supported",
        422,
        false,
        "This scheme does not take this currency",
    ),
    kind(
        "unsupported-operation",
        422,
        false,
        "No route carries this operation",
    ),
    // What it touches.
    kind(
        "card-not-active",
        409,
        false,
        "The card has not been verified",
    ),
    kind(
        "card-already-added",
        409,
        false,
        "This card has been added already",
    ),
    kind(
        "card-limit-reached",
        409,
        false,
        "No more cards can be added",
    ),
    kind(
        "card-refused",
        422,
        false,
        "The issuer does not let this card be added",
    ),
    kind(
        "quote-invalid",
        422,
        false,
        "The quote is not one of ours, or is for another payment",
    ),
    kind("quote-expired", 422, false, "The quote has expired"),
    kind(
        "commission-plan-missing",
        422,
        false,
        "No commission plan covers this operation",
    ),
    kind(
        "commission-exceeds-amount",
        422,
        false,
        "The commission is larger than the amount",
    ),
    kind("limit-exceeded", 422, false, "A limit would be exceeded"),
    kind(
        "exchange-rate-missing",
        503,
        true,
        "The exchange rate that a limit needs is not known",
    ),
    kind(
        "invalid-state",
        409,
        false,
        "The payment's state does not permit this",
    ),
    kind(
        "capture-exceeds-authorized",
        422,
        false,
        "More than was authorised cannot be captured",
    ),
    kind(
        "refund-exceeds-captured",
        422,
        false,
        "More than was captured cannot be refunded",
    ),
    kind(
        "refund-not-supported",
        422,
        false,
        "The processor does not support this refund",
    ),
    // Webhooks.
    kind(
        "url-not-allowed",
        422,
        false,
        "Events are not sent to such a URL",
    ),
    kind(
        "webhook-limit-reached",
        409,
        false,
        "No more webhook endpoints can be added",
    ),
    kind(
        "webhook-disabled",
        409,
        false,
        "The webhook endpoint is switched off",
    ),
    // Callbacks.
    kind(
        "callback-invalid",
        400,
        false,
        "The callback cannot be read",
    ),
    kind(
        "callback-signature-invalid",
        401,
        false,
        "The callback's signature does not match",
    ),
    kind(
        "callback-timestamp-invalid",
        401,
        false,
        "The callback's timestamp is not current",
    ),
    kind(
        "callback-conflict",
        409,
        false,
        "Another callback came with the same id",
    ),
    // Ours.
    kind(
        "revocation-feed-stale",
        503,
        true,
        "Revocations cannot be read; money does not move",
    ),
    kind(
        "processor-unavailable",
        503,
        true,
        "The processor cannot be reached; nothing was sent",
    ),
    kind("overloaded", 503, true, "The gateway is busy"),
    kind(
        "unavailable",
        503,
        true,
        "Something the gateway needs is away; nothing was done",
    ),
    kind("internal-error", 500, true, "The gateway has a fault"),
];

/// The kind of a slug. Every slug used in this crate is in the table (a test holds it).
pub fn kind_of(slug: &str) -> Kind {
    KINDS
        .iter()
        .copied()
        .find(|kind| kind.slug == slug)
        .unwrap_or(Kind {
            slug: "internal-error",
            status: 500,
            retryable: true,
            title: "The gateway has a fault",
        })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// RFC 6901 pointer into the body.
    pub pointer: String,
    pub detail: String,
}

/// A refusal, ready to be answered. Nothing of the input is echoed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub slug: &'static str,
    pub detail: String,
    pub errors: Vec<FieldError>,
    /// A decision on a well-formed request of a known caller: an earlier answer under the same
    /// idempotency key takes precedence over it.
    pub is_decision: bool,
}

impl Refusal {
    pub fn new(slug: &'static str, detail: impl Into<String>) -> Self {
        Self {
            slug,
            detail: detail.into(),
            errors: Vec::new(),
            is_decision: false,
        }
    }

    pub fn decision(slug: &'static str, detail: impl Into<String>) -> Self {
        Self {
            is_decision: true,
            ..Self::new(slug, detail)
        }
    }

    pub fn at(slug: &'static str, pointer: impl Into<String>, detail: &str) -> Self {
        let errors = vec![FieldError {
            pointer: pointer.into(),
            detail: detail.to_owned(),
        }];
        Self {
            errors,
            ..Self::new(slug, detail)
        }
    }

    pub fn status(&self) -> u16 {
        kind_of(self.slug).status
    }

    /// The `application/problem+json` body.
    ///
    /// `decision_id` names the stored decision, when the refusal is one.
    pub fn body(&self, request_id: &str, decision_id: Option<&str>) -> Vec<u8> {
        let kind = kind_of(self.slug);
        let body = Body {
            r#type: format!("/problems/{}", kind.slug),
            title: kind.title,
            status: kind.status,
            detail: &self.detail,
            code: kind.slug,
            request_id,
            retryable: kind.retryable,
            decision_id,
            errors: &self.errors,
        };
        serde_json::to_vec(&body).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: &'a str,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    decision_id: Option<&'a str>,
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    errors: &'a [FieldError],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slugs_are_unique_and_statuses_are_errors() {
        for (index, kind) in KINDS.iter().enumerate() {
            assert!((400..=599).contains(&kind.status), "{}", kind.slug);
            assert!(
                KINDS[..index].iter().all(|other| other.slug != kind.slug),
                "{}",
                kind.slug
            );
        }
    }

    #[test]
    fn a_body_names_its_kind_and_the_request() {
        let refusal = Refusal::at("invalid-amount", "/amount", "must be at least 1");
        let body: serde_json::Value = serde_json::from_slice(&refusal.body("req_1", None)).unwrap();
        assert_eq!("/problems/invalid-amount", body["type"]);
        assert_eq!(422, body["status"]);
        assert_eq!("req_1", body["request_id"]);
        assert_eq!("/amount", body["errors"][0]["pointer"]);
    }
}
