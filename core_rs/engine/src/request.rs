//! The payment request: from strict JSON to types, with every fault pointed at.

use crate::json::{self, JsonError, Member, Value};
use crate::money::AMOUNT_MAX;
use crate::pan::Pan;
use crate::problem::{FieldError, Refusal};

const DESCRIPTION_LENGTH_MAX: usize = 255;
const METADATA_MEMBERS_MAX: usize = 50;
const METADATA_NAME_LENGTH_MAX: usize = 40;
const METADATA_VALUE_LENGTH_MAX: usize = 500;
const ID_LENGTH_MAX: usize = 64;
const QUOTE_LENGTH_MAX: usize = 4_096;
const READ_ONLY: [&str; 16] = [
    "id",
    "status",
    "commission",
    "attempts",
    "decline",
    "scheme",
    "total_debit",
    "total_credit",
    "amount_capturable",
    "amount_received",
    "amount_refunded",
    "next_action",
    "created_at",
    "owner_id",
    "rrn",
    "approval_code",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Card(String),
    Pan(Pan),
    Merchant(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PaymentRequest {
    /// `purchase`, `transfer` or `payout`.
    pub operation: &'static str,
    /// 1 to 10^15 minor units.
    pub amount: i64,
    pub currency: String,
    /// Absent for a payout.
    pub source_card: Option<String>,
    pub destination: Destination,
    /// A hold, to be captured later.
    pub is_manual_capture: bool,
    pub description: Option<String>,
    /// Two digits of the central bank's list.
    pub purpose: Option<String>,
    pub quote_id: Option<String>,
    /// Canonical JSON of the client's own pairs.
    pub metadata: Vec<u8>,
}

/// Reads any body strictly: what cannot be read, or holds a forbidden character, is refused.
pub fn read_json(body: &[u8]) -> Result<Value<'_>, Refusal> {
    let value = json::parse(body).map_err(|error| match error {
        JsonError::Malformed => Refusal::new(
            "malformed-json",
            "The body must be one JSON document (RFC 8259).",
        ),
        JsonError::Encoding => Refusal::new(
            "invalid-encoding",
            "The body must be UTF-8 without a byte-order mark or lone surrogates.",
        ),
        JsonError::Duplicate { pointer } => {
            Refusal::at("duplicate-member", pointer, "A member may appear once.")
        }
        JsonError::TooDeep => {
            Refusal::new("too-deep", "The body may be nested 32 levels deep at most.")
        }
    })?;
    if json::is_harmless(body) {
        return Ok(value);
    }
    match json::find_forbidden(&value) {
        Some(pointer) => Err(Refusal::at(
            "invalid-character",
            pointer,
            "Control, bidirectional and zero-width characters are not accepted.",
        )),
        None => Ok(value),
    }
}

/// Canonical bytes of a body that another reader makes types of.
///
/// Numbers are integers, as everywhere: `1.0` and `1e2`, which such a reader may take for one, are
/// refused here by their text.
pub fn read_canonical(body: &[u8]) -> Result<Vec<u8>, Refusal> {
    let value = read_json(body)?;
    match json::find_fraction(&value) {
        None => Ok(json::canonical(&value)),
        Some(pointer) => {
            let slug = if pointer.ends_with("/amount") {
                "invalid-amount"
            } else {
                "schema-violation"
            };
            let detail = "Must be an integer, without fraction or exponent.";
            let error = FieldError {
                pointer,
                detail: detail.to_owned(),
            };
            Err(Refusal {
                errors: vec![error],
                ..Refusal::new(slug, detail)
            })
        }
    }
}

/// Reads the body of `POST /v1/payments` and `/v1/payments/quote`.
///
/// All faults are collected; the first in the order of members below names the problem.
pub fn read_payment(value: &Value<'_>) -> Result<PaymentRequest, Refusal> {
    let Value::Object(members) = value else {
        return Err(Refusal::at(
            "schema-violation",
            "",
            "The body must be an object.",
        ));
    };
    let mut reader = Reader::of(members);
    let operation = reader.operation();
    let amount = reader.amount();
    let currency = reader.currency();
    let source = reader.source();
    let destination = reader.destination();
    let is_manual_capture = reader.capture();
    let description = reader.text(
        "description",
        reader.members.description,
        DESCRIPTION_LENGTH_MAX,
    );
    let purpose = reader.purpose();
    let quote_id = reader.text("quote_id", reader.members.quote_id, QUOTE_LENGTH_MAX);
    let metadata = reader.metadata();
    reader.check_shape(
        operation,
        source.as_deref(),
        destination.as_ref(),
        is_manual_capture,
    );
    let faults = reader.faults;
    let (Some(operation), Some(amount), Some(currency), Some(destination), true) =
        (operation, amount, currency, destination, faults.is_empty())
    else {
        return Err(refusal_of(faults));
    };
    Ok(PaymentRequest {
        operation,
        amount,
        currency,
        source_card: source,
        destination,
        is_manual_capture,
        description,
        purpose,
        quote_id,
        metadata,
    })
}

/// Says it of characters; a text has no more of them than bytes, which need not be counted.
fn has_at_most(length_max: usize, text: &str) -> bool {
    text.len() <= length_max || text.chars().count() <= length_max
}

type Fault = (&'static str, FieldError);

fn refusal_of(faults: Vec<Fault>) -> Refusal {
    let slug = faults.first().map_or("schema-violation", |(slug, _)| slug);
    let detail = faults
        .first()
        .map_or(String::new(), |(_, error)| error.detail.clone());
    let errors = faults.into_iter().map(|(_, error)| error).collect();
    Refusal {
        errors,
        ..Refusal::new(slug, detail)
    }
}

/// The members by their names, each looked for once; null is the same as absent.
#[derive(Default)]
struct Members<'v> {
    operation: Option<&'v Value<'v>>,
    amount: Option<&'v Value<'v>>,
    currency: Option<&'v Value<'v>>,
    source: Option<&'v Value<'v>>,
    destination: Option<&'v Value<'v>>,
    capture: Option<&'v Value<'v>>,
    description: Option<&'v Value<'v>>,
    purpose: Option<&'v Value<'v>>,
    quote_id: Option<&'v Value<'v>>,
    metadata: Option<&'v Value<'v>>,
}

impl<'v> Members<'v> {
    fn place_of(&mut self, name: &str) -> Option<&mut Option<&'v Value<'v>>> {
        Some(match name {
            "operation" => &mut self.operation,
            "amount" => &mut self.amount,
            "currency" => &mut self.currency,
            "source" => &mut self.source,
            "destination" => &mut self.destination,
            "capture" => &mut self.capture,
            "description" => &mut self.description,
            "purpose" => &mut self.purpose,
            "quote_id" => &mut self.quote_id,
            "metadata" => &mut self.metadata,
            _ => return None,
        })
    }
}

struct Reader<'v> {
    members: Members<'v>,
    faults: Vec<Fault>,
}

impl<'v> Reader<'v> {
    /// Refuses what cannot be set, and what is not known.
    fn of(members: &'v [Member<'v>]) -> Self {
        let mut reader = Self {
            members: Members::default(),
            faults: Vec::new(),
        };
        for (name, value) in members {
            if let Some(place) = reader.members.place_of(name) {
                *place = Some(value).filter(|value| !matches!(value, Value::Null));
                continue;
            }
            let (slug, detail) = match READ_ONLY.contains(&name.as_ref()) {
                true => ("read-only-member", "This member cannot be set."),
                false => ("unknown-member", "This member is not known."),
            };
            reader.fault(slug, &json::pointer_of(&[name]), detail);
        }
        reader
    }

    fn fault(&mut self, slug: &'static str, pointer: &str, detail: &str) {
        let error = FieldError {
            pointer: pointer.to_owned(),
            detail: detail.to_owned(),
        };
        self.faults.push((slug, error));
    }

    fn operation(&mut self) -> Option<&'static str> {
        let operation = match self.members.operation {
            Some(Value::Text(text)) => crate::rules::OPERATIONS
                .into_iter()
                .find(|known| known == text),
            _ => None,
        };
        if operation.is_none() {
            let detail = "Must be purchase, transfer or payout.";
            self.fault("schema-violation", "/operation", detail);
        }
        operation
    }

    fn amount(&mut self) -> Option<i64> {
        let text = match self.members.amount {
            Some(Value::Number(text)) => text,
            Some(_) => {
                self.fault("schema-violation", "/amount", "Must be a JSON integer.");
                return None;
            }
            None => {
                self.fault("schema-violation", "/amount", "An amount is needed.");
                return None;
            }
        };
        match text.parse::<i64>() {
            Ok(amount) if (1..=AMOUNT_MAX).contains(&amount) => Some(amount),
            _ => {
                let detail = "Must be an integer of minor units from 1 to 10^15.";
                self.fault("invalid-amount", "/amount", detail);
                None
            }
        }
    }

    fn currency(&mut self) -> Option<String> {
        match self.members.currency {
            Some(Value::Text(text))
                if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) =>
            {
                Some(text.clone().into_owned())
            }
            Some(Value::Text(_)) => {
                let detail = "Must be an ISO 4217 code of three capital letters.";
                self.fault("invalid-currency", "/currency", detail);
                None
            }
            _ => {
                self.fault(
                    "schema-violation",
                    "/currency",
                    "A currency is needed, as text.",
                );
                None
            }
        }
    }

    /// The one member of an object that names a party: what it is of, and its text.
    fn party(
        &mut self,
        name: &str,
        party: Option<&'v Value<'v>>,
        allowed: &[&str],
    ) -> Option<(&'v str, &'v str)> {
        let Value::Object(members) = party? else {
            let pointer = json::pointer_of(&[name]);
            self.fault("schema-violation", &pointer, "Must be an object.");
            return None;
        };
        match members.as_slice() {
            [(kind, Value::Text(id))] if allowed.contains(&kind.as_ref()) => Some((kind, id)),
            [(kind, _)] if allowed.contains(&kind.as_ref()) => {
                let pointer = json::pointer_of(&[name, kind.as_ref()]);
                self.fault("schema-violation", &pointer, "Must be text.");
                None
            }
            [(kind, _)] => {
                let pointer = json::pointer_of(&[name, kind.as_ref()]);
                self.fault("unknown-member", &pointer, "This member is not known here.");
                None
            }
            _ => {
                let pointer = json::pointer_of(&[name]);
                let detail = format!("Must have exactly one of: {}.", allowed.join(", "));
                self.fault("schema-violation", &pointer, &detail);
                None
            }
        }
    }

    fn source(&mut self) -> Option<String> {
        let (_, id) = self.party("source", self.members.source, &["card"])?;
        self.id_of(id, "card_", "/source/card")
    }

    fn destination(&mut self) -> Option<Destination> {
        let party = self.members.destination;
        if party.is_none() {
            self.fault(
                "schema-violation",
                "/destination",
                "A destination is needed.",
            );
        }
        let (kind, id) = self.party("destination", party, &["merchant", "card", "pan"])?;
        match kind {
            "merchant" => self
                .id_of(id, "mer_", "/destination/merchant")
                .map(Destination::Merchant),
            "card" => self
                .id_of(id, "card_", "/destination/card")
                .map(Destination::Card),
            _ => {
                let pan = Pan::new(id.to_owned());
                if pan.is_none() {
                    let detail = "Must be 12 to 19 digits with a valid check digit.";
                    self.fault("invalid-pan", "/destination/pan", detail);
                }
                pan.map(Destination::Pan)
            }
        }
    }

    fn id_of(&mut self, id: &str, prefix: &str, pointer: &str) -> Option<String> {
        let is_ours = id.len() <= ID_LENGTH_MAX
            && id.strip_prefix(prefix).is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
            });
        if !is_ours {
            // The same answer as for one that is not known, or is another's.
            self.fault("not-found", pointer, "There is no such card or merchant.");
        }
        is_ours.then(|| id.to_owned())
    }

    fn capture(&mut self) -> bool {
        match self.members.capture {
            None => false,
            Some(Value::Text(text)) if text == "automatic" => false,
            Some(Value::Text(text)) if text == "manual" => true,
            Some(_) => {
                self.fault(
                    "schema-violation",
                    "/capture",
                    "Must be automatic or manual.",
                );
                false
            }
        }
    }

    fn text(
        &mut self,
        name: &str,
        value: Option<&'v Value<'v>>,
        length_max: usize,
    ) -> Option<String> {
        let pointer = || json::pointer_of(&[name]);
        match value {
            None => None,
            Some(Value::Text(text)) if has_at_most(length_max, text) => {
                Some(text.clone().into_owned())
            }
            Some(Value::Text(_)) => {
                let detail = format!("May have {length_max} characters at most.");
                self.fault("too-long", &pointer(), &detail);
                None
            }
            Some(_) => {
                self.fault("schema-violation", &pointer(), "Must be text.");
                None
            }
        }
    }

    fn purpose(&mut self) -> Option<String> {
        let purpose = self.text("purpose", self.members.purpose, 2)?;
        let is_code = purpose.len() == 2 && purpose.bytes().all(|byte| byte.is_ascii_digit());
        if !is_code {
            self.fault("schema-violation", "/purpose", "Must be two digits.");
        }
        Some(purpose)
    }

    fn metadata(&mut self) -> Vec<u8> {
        let Some(value) = self.members.metadata else {
            return b"{}".to_vec();
        };
        let Value::Object(members) = value else {
            self.fault(
                "schema-violation",
                "/metadata",
                "Must be an object of texts.",
            );
            return Vec::new();
        };
        if members.len() > METADATA_MEMBERS_MAX {
            self.fault("too-long", "/metadata", "May have 50 members at most.");
        }
        for (name, value) in members {
            let pointer = || json::pointer_of(&["metadata", name.as_ref()]);
            match value {
                Value::Text(text)
                    if has_at_most(METADATA_NAME_LENGTH_MAX, name)
                        && has_at_most(METADATA_VALUE_LENGTH_MAX, text) => {}
                Value::Text(_) => {
                    let detail = "Names may have 40 characters at most, values 500.";
                    self.fault("too-long", &pointer(), detail);
                }
                _ => self.fault("schema-violation", &pointer(), "Must be text."),
            }
        }
        json::canonical(value)
    }

    /// What an operation needs of its parties.
    fn check_shape(
        &mut self,
        operation: Option<&str>,
        source: Option<&str>,
        destination: Option<&Destination>,
        is_manual_capture: bool,
    ) {
        let (Some(operation), Some(destination)) = (operation, destination) else {
            return;
        };
        let goes_to_merchant = matches!(destination, Destination::Merchant(_));
        if (operation == "purchase") != goes_to_merchant {
            let detail = "A purchase goes to a merchant; a transfer or a payout to a card.";
            self.fault("schema-violation", "/destination", detail);
        }
        let has_source = self.members.source.is_some();
        if operation == "payout" && has_source {
            let detail = "A payout is paid by the merchant that asks; it has no source.";
            self.fault("schema-violation", "/source", detail);
        }
        if operation != "payout" && source.is_none() && !has_source {
            self.fault("schema-violation", "/source", "A source card is needed.");
        }
        if operation != "purchase" && is_manual_capture {
            self.fault(
                "schema-violation",
                "/capture",
                "Only a purchase can be captured later.",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"operation":"transfer","amount":150000000,"currency":"UZS",
        "source":{"card":"card_1"},"destination":{"pan":"8600000000000015"},
        "capture":"automatic","description":"rent","purpose":"07","quote_id":null,
        "metadata":{"order":"1001"}}"#;

    fn slug_with(name: &str, value: &str) -> &'static str {
        let mut body: serde_json::Value = serde_json::from_str(GOOD).unwrap();
        body[name] = serde_json::from_str(value).unwrap();
        let text = body.to_string();
        let parsed = json::parse(text.as_bytes()).unwrap();
        read_payment(&parsed).map_or_else(|refusal| refusal.slug, |_| "ok")
    }

    #[test]
    fn a_good_request_is_read_whole() {
        let parsed = json::parse(GOOD.as_bytes()).unwrap();
        let request = read_payment(&parsed).unwrap();
        assert_eq!(
            ("transfer", 150_000_000),
            (request.operation, request.amount)
        );
        assert_eq!(
            Destination::Pan(Pan::new("8600000000000015".into()).unwrap()),
            request.destination
        );
        assert_eq!(br#"{"order":"1001"}"#.to_vec(), request.metadata);
    }

    #[test]
    fn each_bad_member_has_its_problem() {
        for (name, value, slug) in [
            ("amount", "0", "invalid-amount"),
            ("amount", "-5", "invalid-amount"),
            ("amount", "1.5", "invalid-amount"),
            ("amount", "1e2", "invalid-amount"),
            ("amount", "1000000000000001", "invalid-amount"),
            ("amount", "\"100\"", "schema-violation"),
            ("amount", "true", "schema-violation"),
            ("amount", "null", "schema-violation"),
            ("currency", "\"uzs\"", "invalid-currency"),
            ("currency", "\"8600\"", "invalid-currency"),
            ("currency", "860", "schema-violation"),
            ("operation", "\"gift\"", "schema-violation"),
            ("source", "{\"card\":\"card_../x\"}", "not-found"),
            ("source", "{\"pan\":\"8600000000000015\"}", "unknown-member"),
            ("source", "null", "schema-violation"),
            (
                "destination",
                "{\"pan\":\"8600000000000016\"}",
                "invalid-pan",
            ),
            (
                "destination",
                "{\"pan\":\"8600 0000 0000 0015\"}",
                "invalid-pan",
            ),
            (
                "destination",
                "{\"pan\":\"٨٦٠٠٠٠٠٠٠٠٠٠٠٠١٥\"}",
                "invalid-pan",
            ),
            (
                "destination",
                "{\"merchant\":\"mer_1\"}",
                "schema-violation",
            ),
            (
                "destination",
                "{\"card\":\"card_1\",\"pan\":\"1\"}",
                "schema-violation",
            ),
            ("capture", "\"manual\"", "schema-violation"),
            ("purpose", "\"7\"", "schema-violation"),
            ("status", "\"succeeded\"", "read-only-member"),
            ("surprise", "1", "unknown-member"),
            ("metadata", "{\"a\":1}", "schema-violation"),
            ("metadata", "[]", "schema-violation"),
            ("description", "7", "schema-violation"),
        ] {
            assert_eq!(slug, slug_with(name, value), "{name} = {value}");
        }
        let long = format!("\"{}\"", "ў".repeat(256));
        assert_eq!("too-long", slug_with("description", &long));
        assert_eq!(
            "ok",
            slug_with("description", &format!("\"{}\"", "ў".repeat(255)))
        );
    }

    #[test]
    fn a_number_that_is_no_integer_is_refused_by_its_text() {
        for (body, slug, pointer) in [
            (r#"{"amount":1.0}"#, "invalid-amount", "/amount"),
            (r#"{"amount":1e2}"#, "invalid-amount", "/amount"),
            (r#"{"amount":1E2}"#, "invalid-amount", "/amount"),
            (r#"{"a":[0,{"b":-0.5}]}"#, "schema-violation", "/a/1/b"),
        ] {
            let refusal = read_canonical(body.as_bytes()).unwrap_err();
            assert_eq!(
                (slug, pointer),
                (refusal.slug, &*refusal.errors[0].pointer),
                "{body}"
            );
        }
        let good = br#"{"b":"1.5","amount":-10}"#;
        assert_eq!(
            br#"{"amount":-10,"b":"1.5"}"#.to_vec(),
            read_canonical(good).unwrap()
        );
    }
}
