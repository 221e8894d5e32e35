//! The whole decision on a payment, in one call.
//!
//! Order: who asks (token, revocation, scope), the frame (media type, idempotency key), the body
//! (strict JSON, types), what it touches (cards, merchant, route), the commission, the limits.
//! The first that fails answers. What the core does not hold in memory is named as missing, to be
//! read in one batch with whatever else waits, and the call is made again.

use std::sync::Arc;

use hmac::{Hmac, Mac as _};
use serde::Serialize;
use sha2::Sha256;

use crate::cache::GenerationalCache;
use crate::commission::{self, Commission, CommissionError};
use crate::frame::{
    bearer_token, check_media, idempotency_key, idempotency_of, Headers, Idempotency,
};
use crate::headroom::{self, Headroom};
use crate::json;
use crate::limits::{self, Ask, Book, Breach, LimitsError, Staged, Taken};
use crate::problem::{FieldError, Refusal};
use crate::quote;
use crate::request::{self, Destination, PaymentRequest};
use crate::revocation::RevocationSet;
use crate::routing::{Leg, NoRoute, RoutingTable};
use crate::rules::{Facts, Rules, SubjectKind};
use crate::token::{Claims, Verifier};
use crate::window::rfc3339;

/// What headroom is told in: the one currency that every route of every scheme takes.
const HEADROOM_CURRENCY: &str = "UZS";
/// Refusals that rest on what is remembered of a card or a merchant.
const RESTS_ON_PARTIES: [&str; 2] = ["not-found", "card-not-active"];
const ISSUER_BIN_LENGTH: usize = 6;

#[derive(Debug, Clone)]
pub struct Settings {
    pub issuer: String,
    pub audience: String,
    /// Key of the HMAC by which a card number is found again.
    pub lookup_key: Vec<u8>,
    pub quote_key: Vec<u8>,
    pub quote_ttl_ms: i64,
    /// Money does not move when revocations were last read longer ago than this.
    pub feed_age_ms_max: i64,
    pub token_cache_size_max: usize,
    pub card_cache_size_max: usize,
    pub subject_cache_size_max: usize,
}

/// A card as decisions need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub owner: String,
    pub scheme: String,
    /// First six digits.
    pub bin: String,
    /// Hex of the keyed hash of its number.
    pub lookup: String,
    pub is_active: bool,
    pub version: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Merchant {
    pub mcc: String,
    pub country: String,
}

/// What must be read before a decision can be made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    pub cards: Vec<String>,
    pub merchants: Vec<String>,
    pub subjects: Vec<String>,
}

/// One request as it came.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: &'a Headers<'a>,
    pub body: &'a [u8],
    pub now_ms: i64,
    pub fresh: Fresh,
}

/// What was read from the database for this very call. What is in memory is enough to admit, since
/// the write verifies it; but not to refuse, nor to be shown: another worker may have changed it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fresh {
    /// The cards and the merchant it names.
    pub parties: bool,
    /// The limit states it touches.
    pub states: bool,
}

/// A payment that may go on to the journal.
#[derive(Debug, Clone)]
pub struct Admission {
    pub claims: Arc<Claims>,
    pub idempotency: Idempotency,
    pub request: PaymentRequest,
    /// The scheme of the source card; of the destination for a payout.
    pub scheme: String,
    pub source_version: Option<i32>,
    /// The merchant paid, or that pays.
    pub merchant: Option<String>,
    pub commission: Commission,
    pub legs: Vec<Leg>,
    pub at_ms: i64,
    asks: Vec<Ask>,
}

impl Admission {
    /// What it takes from limits, to be stored with it.
    pub fn reservation(&self) -> Vec<u8> {
        let taken: Vec<Taken> = self
            .asks
            .iter()
            .filter_map(|ask| ask.taken.clone())
            .collect();
        limits::write_reservation(&taken)
    }
}

#[derive(Debug)]
pub enum Stop {
    Refused {
        refusal: Refusal,
        idempotency: Option<Idempotency>,
    },
    Missing(Missing),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused {
            refusal,
            idempotency: None,
        }
    }
}

/// A decision before it is bound to a request's key.
struct Decision {
    scheme: String,
    source_version: Option<i32>,
    merchant: Option<String>,
    commission: Commission,
    legs: Vec<Leg>,
    asks: Vec<Ask>,
}

/// What a payment touches, as far as it is known.
struct Parties {
    source: Option<Arc<Card>>,
    destination_scheme: String,
    destination_lookup: Option<String>,
    merchant: Option<(String, Arc<Merchant>)>,
}

pub struct Core {
    settings: Settings,
    pub verifier: Verifier,
    pub revocations: RevocationSet,
    rules: Arc<Rules>,
    routing: Arc<RoutingTable>,
    /// `None`: the database holds no such card.
    cards: GenerationalCache<String, Option<Arc<Card>>>,
    merchants: GenerationalCache<String, Option<Arc<Merchant>>>,
    pub book: Book,
}

impl Core {
    pub fn new(settings: Settings, rules: Rules, routing: RoutingTable) -> Self {
        Self {
            verifier: Verifier::new(
                settings.issuer.clone(),
                settings.audience.clone(),
                settings.token_cache_size_max,
            ),
            revocations: RevocationSet::default(),
            rules: Arc::new(rules),
            routing: Arc::new(routing),
            cards: GenerationalCache::new(settings.card_cache_size_max.div_ceil(2)),
            merchants: GenerationalCache::new(settings.card_cache_size_max.div_ceil(2)),
            book: Book::new(settings.subject_cache_size_max),
            settings,
        }
    }

    pub fn put_card(&mut self, id: &str, card: Option<Card>) {
        self.cards.insert(id.to_owned(), card.map(Arc::new));
    }

    pub fn forget_card(&mut self, id: &str) {
        self.cards.remove(id);
    }

    pub fn put_merchant(&mut self, id: &str, merchant: Option<Merchant>) {
        self.merchants.insert(id.to_owned(), merchant.map(Arc::new));
    }

    pub fn scheme_of(&self, pan: &str) -> Option<&str> {
        self.routing.bins.scheme_of(pan)
    }

    /// Hex of the keyed hash by which a card number is found again.
    pub fn lookup_of(&self, pan: &str) -> String {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&self.settings.lookup_key)
            .expect("HMAC takes a key of any length");
        mac.update(pan.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// Who asks, when their token is ours, alive, not revoked, and permits `scope`.
    pub fn authorize(
        &mut self,
        headers: &Headers<'_>,
        scope: &str,
        now_ms: i64,
    ) -> Result<Arc<Claims>, Refusal> {
        let token = bearer_token(headers)?;
        let invalid = |detail: &str| Refusal::new("invalid-token", detail);
        let claims = self
            .verifier
            .verify(token, now_ms.div_euclid(1_000))
            .map_err(|error| invalid(&format!("{error}.")))?;
        if self.revocations.refuses(&claims) {
            return Err(invalid("the token has been revoked."));
        }
        if !scope.is_empty() && !claims.permits(scope) {
            let detail = format!("The scope {scope} is needed.");
            return Err(Refusal::new("insufficient-scope", detail));
        }
        Ok(claims)
    }

    /// Refuses when revocations have not been read lately: closed when blind.
    pub fn check_feed(&self, now_ms: i64) -> Result<(), Refusal> {
        if self
            .revocations
            .is_stale(now_ms, self.settings.feed_age_ms_max)
        {
            let detail = "Revocations have not been read lately; try again with the same key.";
            return Err(Refusal::new("revocation-feed-stale", detail));
        }
        Ok(())
    }

    /// Decides `POST /v1/payments`. What is admitted is counted as used until it is committed,
    /// staged and refused, or dropped.
    pub fn admit(&mut self, call: Call<'_>) -> Result<Admission, Stop> {
        let claims = self.authorize(call.headers, "payments:write", call.now_ms)?;
        self.check_feed(call.now_ms)?;
        check_media(call.headers, call.body)?;
        let key = idempotency_key(call.headers)?;
        let value = request::read_json(call.body)?;
        let request = request::read_payment(&value)?;
        let idempotency = idempotency_of(
            &claims,
            call.method,
            call.path,
            &key,
            &json::canonical(&value),
        );
        let decision = self
            .decide(&claims, &request, call)
            .map_err(|stop| match stop {
                Stop::Refused { refusal, .. } if refusal.is_decision => Stop::Refused {
                    refusal,
                    idempotency: Some(idempotency),
                },
                other => other,
            })?;
        self.check_known(&decision.asks)?;
        let breaches = self.book.breaches(&decision.asks);
        if !breaches.is_empty() {
            if !call.fresh.states {
                return Err(missing_subjects(counted(&decision.asks)));
            }
            let refusal = refusal_of_breaches(&breaches);
            return Err(Stop::Refused {
                refusal,
                idempotency: Some(idempotency),
            });
        }
        self.book
            .reserve(&decision.asks)
            .map_err(|error| fault(&error))?;
        Ok(Admission {
            claims,
            idempotency,
            request,
            scheme: decision.scheme,
            source_version: decision.source_version,
            merchant: decision.merchant,
            commission: decision.commission,
            legs: decision.legs,
            at_ms: call.now_ms,
            asks: decision.asks,
        })
    }

    /// Answers `POST /v1/payments/quote`: the same decision, nothing reserved.
    pub fn quote(&mut self, call: Call<'_>) -> Result<Vec<u8>, Stop> {
        let claims = self.authorize(call.headers, "payments:write", call.now_ms)?;
        check_media(call.headers, call.body)?;
        let value = request::read_json(call.body)?;
        let request = request::read_payment(&value)?;
        let decision = self.decide(&claims, &request, call)?;
        self.check_fresh(&decision.asks, call.fresh)?;
        let expires_at_ms = call.now_ms + self.settings.quote_ttl_ms;
        let quote_id = quote::issue(
            &self.settings.quote_key,
            &claims.sub,
            &request,
            &decision.commission,
            expires_at_ms,
        );
        let answer = QuoteAnswer {
            quote_id,
            expires_at: rfc3339(expires_at_ms),
            amount: request.amount,
            currency: &request.currency,
            commission: &decision.commission,
            total_debit: decision.commission.total_debit,
            total_credit: decision.commission.total_credit,
            limits: headroom::of(&self.book, &decision.asks),
        };
        serde_json::to_vec(&answer).map_err(|_| internal().into())
    }

    /// Answers `GET /v1/limits`: headroom of one of the caller's cards for one operation.
    pub fn limits(
        &mut self,
        claims: &Claims,
        card_id: &str,
        operation: &str,
        now_ms: i64,
        fresh: Fresh,
    ) -> Result<Vec<u8>, Stop> {
        let card = match self.cards.get(card_id) {
            None => {
                let cards = vec![card_id.to_owned()];
                return Err(Stop::Missing(Missing {
                    cards,
                    ..Missing::default()
                }));
            }
            Some(Some(card)) if card.owner == claims.sub => Arc::clone(card),
            Some(_) if !fresh.parties => {
                let cards = vec![card_id.to_owned()];
                return Err(Stop::Missing(Missing {
                    cards,
                    ..Missing::default()
                }));
            }
            Some(_) => return Err(Refusal::new("not-found", "There is no such card.").into()),
        };
        let rules = Arc::clone(&self.rules);
        let facts = Facts {
            operation,
            source_scheme: &card.scheme,
            tier: &claims.tier,
            channel: &claims.channel,
            currency: HEADROOM_CURRENCY,
            at_ms: now_ms,
            ..Facts::default()
        };
        let parties = Parties {
            source: Some(Arc::clone(&card)),
            destination_scheme: String::new(),
            destination_lookup: None,
            merchant: None,
        };
        let asks = asks_of(&rules, &facts, claims, &parties, 0);
        self.check_fresh(&asks, fresh)?;
        let limits = headroom::of(&self.book, &asks);
        let (remaining_amount, remaining_count) = headroom::least(&limits);
        let answer = LimitsAnswer {
            card: card_id,
            operation,
            currency: HEADROOM_CURRENCY,
            remaining_amount,
            remaining_count,
            limits,
        };
        serde_json::to_vec(&answer).map_err(|_| internal().into())
    }

    fn decide(
        &mut self,
        claims: &Claims,
        request: &PaymentRequest,
        call: Call<'_>,
    ) -> Result<Decision, Stop> {
        let now_ms = call.now_ms;
        let parties = match self.parties(claims, request) {
            Err(Stop::Refused { refusal, .. })
                if !call.fresh.parties && RESTS_ON_PARTIES.contains(&refusal.slug) =>
            {
                return Err(Stop::Missing(parties_of(claims, request)));
            }
            found => found?,
        };
        let source_scheme = parties.source.as_ref().map_or("", |card| &card.scheme);
        let routing = Arc::clone(&self.routing);
        let legs = routing
            .legs(
                request.operation,
                source_scheme,
                &parties.destination_scheme,
                &request.currency,
            )
            .map_err(|reason| match reason {
                NoRoute::Operation => Refusal::decision(
                    "unsupported-operation",
                    "No route carries this operation between these schemes.",
                ),
                NoRoute::Currency => Refusal::decision(
                    "currency-not-supported",
                    "This route does not carry this currency.",
                ),
            })?;
        let merchant = parties.merchant.as_ref();
        let facts = Facts {
            operation: request.operation,
            source_scheme,
            destination_scheme: &parties.destination_scheme,
            tier: &claims.tier,
            channel: &claims.channel,
            merchant: merchant.map_or("", |(id, _)| id),
            mcc: merchant.map_or("", |(_, merchant)| &merchant.mcc),
            country: merchant.map_or("", |(_, merchant)| &merchant.country),
            currency: &request.currency,
            at_ms: now_ms,
        };
        let rules = Arc::clone(&self.rules);
        let commission = match &request.quote_id {
            Some(id) => quote::open(&self.settings.quote_key, id, &claims.sub, request, now_ms)?,
            None => commission_of(&rules, &facts, request.amount)?,
        };
        let asks = asks_of(&rules, &facts, claims, &parties, request.amount);
        let scheme = if source_scheme.is_empty() {
            &parties.destination_scheme
        } else {
            source_scheme
        };
        Ok(Decision {
            scheme: scheme.to_owned(),
            source_version: parties.source.as_ref().map(|card| card.version),
            merchant: merchant.map(|(id, _)| id.clone()),
            commission,
            legs: legs.to_vec(),
            asks,
        })
    }

    /// Finds what the request names; another's card is the same as an unknown one.
    fn parties(&mut self, claims: &Claims, request: &PaymentRequest) -> Result<Parties, Stop> {
        let mut missing = Missing::default();
        let source = match &request.source_card {
            Some(id) => self.card(id, &mut missing),
            None => None,
        };
        let mut destination = None;
        let mut merchant_id = None;
        match &request.destination {
            Destination::Card(id) => destination = self.card(id, &mut missing),
            Destination::Merchant(id) => merchant_id = Some(id.clone()),
            Destination::Pan(_) => {}
        }
        if request.operation == "payout" {
            if !claims.permits("payments:payout") {
                let detail = "The scope payments:payout is needed.";
                return Err(Refusal::new("insufficient-scope", detail).into());
            }
            merchant_id = Some(claims.sub.clone());
        }
        let merchant = merchant_id
            .as_ref()
            .and_then(|id| match self.merchants.get(id.as_str()) {
                Some(found) => found.clone(),
                None => {
                    missing.merchants.push(id.clone());
                    None
                }
            });
        if missing != Missing::default() {
            return Err(Stop::Missing(missing));
        }
        let not_found = |pointer: &str, what: &str| Refusal {
            is_decision: true,
            errors: vec![FieldError {
                pointer: pointer.to_owned(),
                detail: what.to_owned(),
            }],
            ..Refusal::new("not-found", what)
        };
        let not_active = || Refusal::decision("card-not-active", "Verify the card first.");
        if request.source_card.is_some() {
            match &source {
                Some(card) if card.owner == claims.sub && card.is_active => {}
                Some(card) if card.owner == claims.sub => return Err(not_active().into()),
                _ => return Err(not_found("/source/card", "There is no such card.").into()),
            }
        }
        let merchant = match (merchant_id, merchant) {
            (None, _) => None,
            (Some(id), Some(merchant)) => Some((id, merchant)),
            (Some(_), None) => {
                return Err(not_found("/destination/merchant", "There is no such merchant.").into())
            }
        };
        let (destination_scheme, destination_lookup) = match (&request.destination, destination) {
            (Destination::Merchant(_), _) => (String::new(), None),
            (Destination::Card(_), Some(card)) if card.is_active => {
                (card.scheme.clone(), Some(card.lookup.clone()))
            }
            (Destination::Card(_), _) => {
                return Err(not_found("/destination/card", "There is no such card.").into())
            }
            (Destination::Pan(pan), _) => {
                let scheme = self
                    .scheme_of(pan)
                    .map(str::to_owned)
                    .ok_or_else(|| Refusal {
                        is_decision: true,
                        ..Refusal::at(
                            "unsupported-scheme",
                            "/destination/pan",
                            "No supported scheme issues this card.",
                        )
                    })?;
                (scheme, Some(self.lookup_of(pan)))
            }
        };
        Ok(Parties {
            source,
            destination_scheme,
            destination_lookup,
            merchant,
        })
    }

    fn card(&mut self, id: &str, missing: &mut Missing) -> Option<Arc<Card>> {
        match self.cards.get(id) {
            Some(found) => found.clone(),
            None => {
                missing.cards.push(id.to_owned());
                None
            }
        }
    }

    /// Names the counted subjects that are not in memory.
    fn check_known(&self, asks: &[Ask]) -> Result<(), Stop> {
        let unknown = counted(asks).filter(|subject| !self.book.is_known(subject));
        let mut unknown = unknown.peekable();
        if unknown.peek().is_none() {
            return Ok(());
        }
        Err(missing_subjects(unknown))
    }

    /// Names every counted subject, unless all were just read.
    fn check_fresh(&self, asks: &[Ask], fresh: Fresh) -> Result<(), Stop> {
        if fresh.states || counted(asks).next().is_none() {
            return self.check_known(asks);
        }
        Err(missing_subjects(counted(asks)))
    }

    /// Evaluates a batch of admissions again, for the write that makes them durable.
    pub fn stage(&mut self, batch: &[&Admission]) -> Result<Staged, LimitsError> {
        let asks: Vec<&[Ask]> = batch
            .iter()
            .map(|admission| admission.asks.as_slice())
            .collect();
        self.book.stage(&asks)
    }

    /// Forgets an admission that will not be committed.
    pub fn release(&mut self, admission: &Admission) {
        self.book.release(&admission.asks);
    }

    /// What a plan's version charges for an amount: for what is captured of a hold.
    pub fn commission(
        &self,
        plan: &str,
        version: u32,
        amount_minor: i64,
    ) -> Result<Commission, Refusal> {
        let plan = self
            .rules
            .plan_version(plan, version)
            .ok_or_else(plan_missing)?;
        commission::compute(&plan, amount_minor).map_err(commission_refusal)
    }
}

/// Every card and merchant a request names.
fn parties_of(claims: &Claims, request: &PaymentRequest) -> Missing {
    let mut named = Missing::default();
    named.cards.extend(request.source_card.clone());
    match &request.destination {
        Destination::Card(id) => named.cards.push(id.clone()),
        Destination::Merchant(id) => named.merchants.push(id.clone()),
        Destination::Pan(_) => {}
    }
    if request.operation == "payout" {
        named.merchants.push(claims.sub.clone());
    }
    named
}

fn counted(asks: &[Ask]) -> impl Iterator<Item = &str> {
    asks.iter()
        .filter_map(|ask| ask.taken.as_ref())
        .map(|taken| &*taken.subject)
}

fn missing_subjects<'a>(subjects: impl Iterator<Item = &'a str>) -> Stop {
    let mut subjects: Vec<String> = subjects.map(str::to_owned).collect();
    subjects.dedup();
    Stop::Missing(Missing {
        subjects,
        ..Missing::default()
    })
}

fn plan_missing() -> Refusal {
    Refusal::decision(
        "commission-plan-missing",
        "No commission plan covers this operation.",
    )
}

fn commission_refusal(error: CommissionError) -> Refusal {
    match error {
        CommissionError::ExceedsAmount => Refusal::decision(
            "commission-exceeds-amount",
            "The commission would leave nothing to credit.",
        ),
        CommissionError::Money(_) => Refusal::decision(
            "amount-out-of-range",
            "The amount and its commission do not fit.",
        ),
    }
}

fn commission_of(rules: &Rules, facts: &Facts<'_>, amount: i64) -> Result<Commission, Refusal> {
    let plan = rules.plan_for(facts).ok_or_else(plan_missing)?;
    commission::compute(&plan, amount).map_err(commission_refusal)
}

/// The matching policies on the payment's subjects; a payment that lacks a subject is not counted.
fn asks_of(
    rules: &Rules,
    facts: &Facts<'_>,
    claims: &Claims,
    parties: &Parties,
    amount: i64,
) -> Vec<Ask> {
    let subject = |kind: SubjectKind| -> Option<Arc<str>> {
        let id = match kind {
            SubjectKind::Card => parties.source.as_ref().map(|card| card.lookup.as_str()),
            SubjectKind::DestinationCard => parties.destination_lookup.as_deref(),
            SubjectKind::User => claims
                .sub
                .starts_with("usr_")
                .then_some(claims.sub.as_str()),
            SubjectKind::Merchant => parties.merchant.as_ref().map(|(id, _)| id.as_str()),
            SubjectKind::Device => Some(claims.device.as_str()).filter(|id| !id.is_empty()),
            SubjectKind::IssuerBin => parties
                .source
                .as_ref()
                .and_then(|card| card.bin.get(..ISSUER_BIN_LENGTH)),
            SubjectKind::Scheme => Some(facts.source_scheme).filter(|scheme| !scheme.is_empty()),
            SubjectKind::Platform => Some("oqim"),
        }?;
        Some(Arc::from(format!("{}:{id}", kind.name())))
    };
    rules
        .policies_for(facts)
        .filter_map(|policy| {
            let subject = subject(policy.subject)?;
            Some(Ask::new(policy, subject, amount, facts.at_ms))
        })
        .collect()
}

/// The refusal of the first breach in precedence, listing all.
pub fn refusal_of_breaches(breaches: &[Breach]) -> Refusal {
    let detail = breaches.first().map_or_else(String::new, Breach::detail);
    let errors = breaches
        .iter()
        .map(|breach| FieldError {
            pointer: "/amount".to_owned(),
            detail: breach.detail(),
        })
        .collect();
    Refusal {
        errors,
        ..Refusal::decision("limit-exceeded", detail)
    }
}

fn internal() -> Refusal {
    Refusal::new(
        "internal-error",
        "The gateway has a fault; nothing was done.",
    )
}

fn fault(error: &LimitsError) -> Refusal {
    Refusal::new("internal-error", format!("{error}; nothing was done."))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct QuoteAnswer<'a> {
    quote_id: String,
    expires_at: String,
    amount: i64,
    currency: &'a str,
    commission: &'a Commission,
    total_debit: i64,
    total_credit: i64,
    limits: Vec<Headroom>,
}

#[derive(Serialize)]
struct LimitsAnswer<'a> {
    card: &'a str,
    operation: &'a str,
    currency: &'a str,
    remaining_amount: Option<i64>,
    remaining_count: Option<u32>,
    limits: Vec<Headroom>,
}
