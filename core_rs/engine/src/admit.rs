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

use crate::book::{Book, Known, Member, Staged};
use crate::cache::{GenerationalCache, Use};
use crate::commission::{self, Commission, CommissionError};
use crate::frame::{
    access_token, check_media, idempotency_key, idempotency_of, Headers, Idempotency, Scheme,
};
use crate::headroom::{self, Headroom};
use crate::json;
use crate::limits::{asks_of, judge, Ask, Judgement, Verdict};
use crate::problem::{FieldError, Refusal};
use crate::quote::{self, Priced};
use crate::rates::RateError;
use crate::record::{Context, Prefix};
use crate::request::{self, Destination, PaymentRequest};
use crate::revocation::RevocationSet;
use crate::routing::{Leg, NoRoute, RoutingTable};
use crate::rules::{Facts, RuleSet};
use crate::text::hex;
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
    /// A stronger authentication was given for it.
    pub is_stepped_up: bool,
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

/// A payment that may go on to the journal, or that waits for a stronger authentication.
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
    pub legs: Arc<[Leg]>,
    pub at_ms: i64,
    /// Admitted and reserved, or to be stepped up, with nothing reserved.
    pub verdict: Verdict,
    pub is_stepped_up: bool,
    asks: Vec<Ask>,
    judgement: Judgement,
    prefix: Prefix,
}

impl Admission {
    /// The stored form of the decision as it was judged when the payment was admitted.
    pub fn record(&self) -> Vec<u8> {
        self.record_of(&self.judgement)
    }

    /// The stored form of the decision as it was judged when its batch was staged.
    pub fn record_of(&self, judgement: &Judgement) -> Vec<u8> {
        self.prefix
            .judged(&self.request.currency, &self.asks, judgement)
    }

    /// Refused for what was judged.
    pub fn refused(&self, judgement: &Judgement) -> Refused {
        Refused {
            refusal: refusal_of_breaches(judgement),
            idempotency: Some(self.idempotency),
            decided: Some(Decided {
                owner: self.claims.sub.clone(),
                merchant: self.merchant.clone(),
                record: self.record_of(judgement),
            }),
        }
    }

    /// The same payment, waiting for a stronger authentication; nothing is reserved for it.
    pub fn stepping_up(&self, judgement: Judgement) -> Self {
        Self {
            verdict: Verdict::StepUp,
            judgement,
            ..self.clone()
        }
    }

    /// The policies that ask for a stronger authentication.
    pub fn step_up_policies(&self) -> impl Iterator<Item = &str> {
        let breaches = self.judgement.breaches.iter();
        breaches.map(|(_, breach)| breach.policy.id.as_str())
    }
}

#[derive(Debug)]
pub enum Stop {
    Refused(Box<Refused>),
    Missing(Missing),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(Refused {
            refusal,
            idempotency: None,
            decided: None,
        }))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub refusal: Refusal,
    /// When an earlier answer under the same key takes precedence.
    pub idempotency: Option<Idempotency>,
    /// What is to be stored, when a decision was made.
    pub decided: Option<Decided>,
}

/// A refusal to be stored: whose it is, and the decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub owner: String,
    pub merchant: Option<String>,
    pub record: Vec<u8>,
}

/// A decision before it is bound to a request's key.
struct Decision {
    scheme: String,
    source_version: Option<i32>,
    merchant: Option<String>,
    priced: Priced,
    legs: Arc<[Leg]>,
    asks: Vec<Ask>,
    prefix: Prefix,
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
    /// Keyed once: that is half of what one number takes.
    lookup: Hmac<Sha256>,
    pub verifier: Verifier,
    pub revocations: RevocationSet,
    rules: Arc<RuleSet>,
    generation: u64,
    routing: Arc<RoutingTable>,
    /// `None`: the database holds no such card.
    cards: GenerationalCache<String, Option<Arc<Card>>>,
    merchants: GenerationalCache<String, Option<Arc<Merchant>>>,
    pub book: Book,
}

impl Core {
    pub fn new(
        settings: Settings,
        rules: Arc<RuleSet>,
        generation: u64,
        routing: RoutingTable,
    ) -> Self {
        let lookup = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&settings.lookup_key)
            .expect("HMAC takes a key of any length");
        Self {
            lookup,
            verifier: Verifier::new(
                settings.issuer.clone(),
                settings.audience.clone(),
                settings.token_cache_size_max,
            ),
            revocations: RevocationSet::default(),
            rules,
            generation,
            routing: Arc::new(routing),
            cards: GenerationalCache::new(settings.card_cache_size_max.div_ceil(2)),
            merchants: GenerationalCache::new(settings.card_cache_size_max.div_ceil(2)),
            book: Book::new(settings.subject_cache_size_max),
            settings,
        }
    }

    /// How its caches were used, by name.
    pub fn cache_usage(&self) -> [(&'static str, Use); 4] {
        [
            ("tokens", self.verifier.usage()),
            ("cards", self.cards.usage()),
            ("merchants", self.merchants.usage()),
            ("states", self.book.usage()),
        ]
    }

    /// Decides by another set of rules from the next decision on.
    pub fn use_rules(&mut self, rules: Arc<RuleSet>, generation: u64) {
        self.rules = rules;
        self.generation = generation;
    }

    pub fn generation(&self) -> u64 {
        self.generation
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
        let mut mac = self.lookup.clone();
        mac.update(pan.as_bytes());
        hex(&mac.finalize().into_bytes())
    }

    /// Who asks, when their token is ours, alive, not revoked, and permits `scope`.
    ///
    /// A token bound to a key is taken under the scheme DPoP alone, and no other token is. The
    /// proof of the key is not looked at here: whoever is told of claims with a `jkt` demands it.
    pub fn authorize(
        &mut self,
        headers: &Headers<'_>,
        scope: &str,
        now_ms: i64,
    ) -> Result<Arc<Claims>, Refusal> {
        let (scheme, token) = access_token(headers)?;
        let claims = self.inspect(token, now_ms)?;
        let is_bound = !claims.jkt.is_empty();
        if is_bound && scheme == Scheme::Bearer {
            let detail = "The token is bound to a key: send Authorization: DPoP, and a proof.";
            return Err(Refusal::new("invalid-token", detail));
        }
        if !is_bound && scheme == Scheme::Dpop {
            let detail = "The token is bound to no key: send Authorization: Bearer.";
            return Err(Refusal::new("invalid-token", detail));
        }
        if !scope.is_empty() && !claims.permits(scope) {
            let detail = format!("The scope {scope} is needed.");
            return Err(Refusal::new("insufficient-scope", detail));
        }
        Ok(claims)
    }

    /// What a token says that is ours, alive and not revoked, whoever holds it.
    pub fn inspect(&mut self, token: &[u8], now_ms: i64) -> Result<Arc<Claims>, Refusal> {
        let invalid = |detail: &str| Refusal::new("invalid-token", detail);
        let claims = self
            .verifier
            .verify(token, now_ms.div_euclid(1_000))
            .map_err(|error| invalid(&format!("{error}.")))?;
        if self.revocations.refuses(&claims) {
            return Err(invalid("the token has been revoked."));
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
        let decision = self.decide(&claims, &request, call).map_err(|mut stop| {
            if let Stop::Refused(refused) = &mut stop {
                let is_decision = refused.refusal.is_decision;
                refused.idempotency = is_decision.then_some(idempotency);
            }
            stop
        })?;
        let known = Known::new(&self.book);
        let judgement = judge(&decision.asks, call.is_stepped_up, &known);
        let unknown = known.unknown();
        if !unknown.is_empty() {
            return Err(missing_subjects(unknown.iter().map(|subject| &**subject)));
        }
        if judgement.verdict != Verdict::Admit && !call.fresh.states {
            return Err(missing_subjects(counted(&decision.asks)));
        }
        let admission = Admission {
            verdict: judgement.verdict,
            is_stepped_up: call.is_stepped_up,
            claims,
            idempotency,
            request,
            scheme: decision.scheme,
            source_version: decision.source_version,
            merchant: decision.merchant,
            commission: decision.priced.commission,
            legs: decision.legs,
            at_ms: call.now_ms,
            asks: decision.asks,
            judgement,
            prefix: decision.prefix,
        };
        match admission.verdict {
            Verdict::Admit => self.book.reserve(&admission.asks),
            Verdict::StepUp => {}
            Verdict::Refuse => {
                return Err(Stop::Refused(Box::new(
                    admission.refused(&admission.judgement),
                )))
            }
        }
        Ok(admission)
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
            &decision.priced,
            expires_at_ms,
        );
        let (limits, _) = headroom::of(&self.book, &decision.asks).map_err(rate_refusal)?;
        let commission = &decision.priced.commission;
        let answer = QuoteAnswer {
            quote_id,
            expires_at: rfc3339(expires_at_ms),
            amount: request.amount,
            currency: &request.currency,
            commission,
            total_debit: commission.total_debit,
            total_credit: commission.total_credit,
            limits,
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
        let facts = Facts {
            operation,
            source_scheme: &card.scheme,
            currency: HEADROOM_CURRENCY,
            source_card: &card.lookup,
            issuer_bin: issuer_bin(&card),
            ..facts_of(claims)
        };
        let asks = asks_of(&self.rules, &facts, 0, now_ms).map_err(rate_refusal)?;
        self.check_fresh(&asks, fresh)?;
        let (limits, least) = headroom::of(&self.book, &asks).map_err(rate_refusal)?;
        let answer = LimitsAnswer {
            card: card_id,
            operation,
            currency: HEADROOM_CURRENCY,
            remaining_amount: least.amount,
            remaining_count: least.count,
            grows_at: least.grows_at_ms.map(rfc3339),
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
            Err(Stop::Refused(refused))
                if !call.fresh.parties && RESTS_ON_PARTIES.contains(&refused.refusal.slug) =>
            {
                return Err(Stop::Missing(parties_of(claims, request)));
            }
            found => found?,
        };
        let source = parties.source.as_deref();
        let merchant = parties.merchant.as_ref();
        let facts = Facts {
            operation: request.operation,
            source_scheme: source.map_or("", |card| &card.scheme),
            destination_scheme: &parties.destination_scheme,
            merchant: merchant.map_or("", |(id, _)| id),
            mcc: merchant.map_or("", |(_, merchant)| &merchant.mcc),
            country: merchant.map_or("", |(_, merchant)| &merchant.country),
            currency: &request.currency,
            source_card: source.map_or("", |card| &card.lookup),
            destination_card: parties.destination_lookup.as_deref().unwrap_or(""),
            issuer_bin: source.map_or("", issuer_bin),
            ..facts_of(claims)
        };
        let mut context = Context {
            generation: self.generation,
            at_ms: now_ms,
            priced: None,
            revocation_seq: self.revocations.applied_seq(),
            session: &claims.sid,
            plan: "",
            plan_version: 0,
            is_stepped_up: call.is_stepped_up,
        };
        let refused = |refusal: Refusal| {
            let prefix = Prefix::new(&context, &facts, request.amount);
            Stop::Refused(Box::new(Refused {
                decided: Some(Decided {
                    owner: claims.sub.clone(),
                    merchant: merchant.map(|(id, _)| id.clone()),
                    record: prefix.refused(refusal.slug),
                }),
                refusal,
                idempotency: None,
            }))
        };
        let legs = self
            .routing
            .legs(
                facts.operation,
                facts.source_scheme,
                facts.destination_scheme,
                facts.currency,
            )
            .map_err(|reason| refused(no_route(reason)))?;
        let priced = match &request.quote_id {
            Some(id) => quote::open(&self.settings.quote_key, id, &claims.sub, request, now_ms)?,
            None => Priced {
                commission: commission_of(&self.rules, &facts, request.amount, now_ms)
                    .map_err(refused)?,
                generation: self.generation,
                at_ms: now_ms,
            },
        };
        let asks = asks_of(&self.rules, &facts, request.amount, now_ms)
            .map_err(|error| refused(rate_refusal(error)))?;
        let scheme = match facts.source_scheme {
            "" => facts.destination_scheme,
            scheme => scheme,
        };
        context.plan = &priced.commission.plan;
        context.plan_version = priced.commission.version;
        if request.quote_id.is_some() {
            context.priced = Some((priced.generation, priced.at_ms));
        }
        let prefix = Prefix::new(&context, &facts, request.amount);
        Ok(Decision {
            scheme: scheme.to_owned(),
            source_version: source.map(|card| card.version),
            merchant: parties.merchant.map(|(id, _)| id),
            prefix,
            priced,
            legs: Arc::clone(legs),
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

    /// Judges a batch of admissions again, for the write that makes them durable.
    pub fn stage(&mut self, batch: &[&Admission]) -> Staged {
        let members: Vec<Member<'_>> = batch
            .iter()
            .map(|admission| Member {
                asks: &admission.asks,
                is_stepped_up: admission.is_stepped_up,
            })
            .collect();
        self.book.stage(&members)
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
        commission::compute(plan, amount_minor).map_err(commission_refusal)
    }

    /// What of a commission has been given back once `refunded` of `captured` has been refunded.
    pub fn commission_returned(
        &self,
        plan: &str,
        version: u32,
        total: i64,
        captured: i64,
        refunded: i64,
    ) -> Result<i64, Refusal> {
        let plan = self
            .rules
            .plan_version(plan, version)
            .ok_or_else(plan_missing)?;
        commission::returned(plan.on_refund, total, captured, refunded)
            .map_err(|error| commission_refusal(error.into()))
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
        .filter_map(Ask::taken)
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

fn commission_of(
    rules: &RuleSet,
    facts: &Facts<'_>,
    amount: i64,
    at_ms: i64,
) -> Result<Commission, Refusal> {
    let plan = rules.plan_for(facts, at_ms).ok_or_else(plan_missing)?;
    commission::compute(plan, amount).map_err(commission_refusal)
}

fn rate_refusal(error: RateError) -> Refusal {
    match error {
        RateError::Missing => Refusal::decision(
            "exchange-rate-missing",
            "A limit counts in another currency, and no rate of it is known for today.",
        ),
        RateError::Overflow => Refusal::decision(
            "amount-out-of-range",
            "The amount does not fit once it is converted.",
        ),
    }
}

fn no_route(reason: NoRoute) -> Refusal {
    match reason {
        NoRoute::Operation => Refusal::decision(
            "unsupported-operation",
            "No route carries this operation between these schemes.",
        ),
        NoRoute::Currency => Refusal::decision(
            "currency-not-supported",
            "This route does not carry this currency.",
        ),
    }
}

fn issuer_bin(card: &Card) -> &str {
    card.bin.get(..ISSUER_BIN_LENGTH).unwrap_or("")
}

/// What rules may ask of the one who pays.
fn facts_of(claims: &Claims) -> Facts<'_> {
    let is_user = claims.sub.starts_with("usr_");
    Facts {
        tier: &claims.tier,
        channel: &claims.channel,
        user: if is_user { &claims.sub } else { "" },
        device: &claims.device,
        ..Facts::default()
    }
}

/// The refusal of the first breach in precedence, listing all.
fn refusal_of_breaches(judgement: &Judgement) -> Refusal {
    let details = judgement.breaches.iter().map(|(_, breach)| breach.detail());
    let errors: Vec<FieldError> = details
        .map(|detail| FieldError {
            pointer: "/amount".to_owned(),
            detail,
        })
        .collect();
    let detail = errors
        .first()
        .map_or_else(String::new, |error| error.detail.clone());
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
    grows_at: Option<String>,
    limits: Vec<Headroom>,
}
