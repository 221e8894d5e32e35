//! A door to the rules alone: a dated history in, its decisions out, one JSON document a line.
//!
//! The same engine that decides payments, without database, network or clock. Deterministic: the
//! same rules and history give the same bytes.

use std::fmt::Write as _;
use std::sync::Arc;

use hashbrown::HashMap;
use thiserror::Error;

use crate::commission::{self, Commission, CommissionError};
use crate::json::{self, Value};
use crate::limits::{asks_of, judge, Ask, Breach, Counts, Judgement, Verdict};
use crate::money::AMOUNT_MAX;
use crate::rates::{Factor, RateError};
use crate::reading::{is_currency, Faults, Object};
use crate::rules::{Facts, Plan, RuleSet, OPERATIONS};
use crate::state::{Counter, State, Taken, Usage};
use crate::window::{parse_rfc3339, rfc3339, Place};

const TEXT_LENGTH_MAX: usize = 128;

/// A line that cannot be decided; nothing after it was.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Counted from 1, over all calls.
    pub line: u64,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    Pay,
    Decline,
    Cancel,
    Capture,
    Refund,
}

const EVENTS: [(&str, Event); 5] = [
    ("pay", Event::Pay),
    ("decline", Event::Decline),
    ("cancel", Event::Cancel),
    ("capture", Event::Capture),
    ("refund", Event::Refund),
];

const MEMBERS: [&str; 18] = [
    "at",
    "event",
    "id",
    "operation",
    "amount",
    "currency",
    "source_scheme",
    "destination_scheme",
    "source_card",
    "destination_card",
    "issuer_bin",
    "user",
    "merchant",
    "mcc",
    "country",
    "tier",
    "channel",
    "device",
];

#[derive(Debug, Default)]
struct States(HashMap<Arc<str>, State>);

impl Counts for States {
    fn used(&self, taken: &Taken, place: Place) -> Usage {
        self.0
            .get(&taken.subject)
            .map_or_else(Usage::default, |state| state.used(taken.counter, place))
    }

    fn counted(&self, taken: &Taken, place: Place) -> Vec<Counter> {
        self.0.get(&taken.subject).map_or_else(Vec::new, |state| {
            state.counted(taken.counter, place).copied().collect()
        })
    }
}

/// What one payment took from one counter, and how to say how much of it is left.
#[derive(Debug)]
struct Held {
    taken: Taken,
    factor: Factor,
    restores: bool,
}

/// A payment that was admitted.
#[derive(Debug)]
struct Paid {
    plan: Arc<Plan>,
    amount: i64,
    held: Box<[Held]>,
    state: PaidState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PaidState {
    Authorized,
    Captured {
        amount: i64,
        refunded: i64,
        total: i64,
        returned: i64,
    },
    Ended,
}

/// Decides histories by one set of rules.
#[derive(Debug)]
pub struct Decider {
    rules: Arc<RuleSet>,
    states: States,
    /// `None`: refused, or waiting for a stronger authentication for ever.
    payments: HashMap<Box<str>, Option<Paid>>,
    last_at_ms: i64,
    line: u64,
}

impl Decider {
    pub fn new(rules: Arc<RuleSet>) -> Self {
        Self {
            rules,
            states: States::default(),
            payments: HashMap::new(),
            last_at_ms: i64::MIN,
            line: 0,
        }
    }

    /// Decides whole lines, appending to `out` a line for each. Empty lines are skipped.
    pub fn feed(&mut self, lines: &[u8], out: &mut String) -> Result<(), LineError> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            self.line += 1;
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            self.decide(line, out).map_err(|reason| LineError {
                line: self.line,
                reason,
            })?;
        }
        Ok(())
    }

    fn decide(&mut self, line: &[u8], out: &mut String) -> Result<(), String> {
        let value = json::parse(line).map_err(|error| error.to_string())?;
        let event = match &value {
            Value::Object(members) => members.iter().find_map(|(name, value)| match value {
                Value::Text(text) if name == "event" => {
                    EVENTS.iter().find(|(known, _)| known == text)
                }
                _ => None,
            }),
            _ => return Err("it is not an object".to_owned()),
        };
        let Some((_, event)) = event else {
            return Err(
                "/event: Must be one of: pay, decline, cancel, capture, refund.".to_owned(),
            );
        };
        let mut faults = Faults::default();
        // What happens later may repeat what the payment said; it is passed over.
        let object = Object::read(&value, &MEMBERS, &mut faults).ok_or("it is not an object")?;
        let id = object.needed_text("id", TEXT_LENGTH_MAX, &mut faults);
        let at_ms = object.needed_text("at", 40, &mut faults).map(parse_rfc3339);
        if at_ms == Some(None) {
            faults.at("at", "Must be an RFC 3339 time with an offset.");
        }
        let amount = match event {
            Event::Decline | Event::Cancel => Some(0),
            _ => object.needed_integer("amount", 1, AMOUNT_MAX, &mut faults),
        };
        let facts = if *event == Event::Pay {
            read_facts(&object, &mut faults)
        } else {
            Some(Facts::default())
        };
        let (Some(id), Some(Some(at_ms)), Some(amount), Some(facts), true) =
            (id, at_ms, amount, facts, faults.found.is_empty())
        else {
            return Err(told(&faults));
        };
        if at_ms < self.last_at_ms {
            return Err("/at: Must not be before the line before it.".to_owned());
        }
        if *event == Event::Pay && self.payments.contains_key(id) {
            return Err("/id: This id was paid under before.".to_owned());
        }
        self.last_at_ms = at_ms;
        match event {
            Event::Pay => self.pay(id, &facts, amount, at_ms, out),
            Event::Decline | Event::Cancel => {
                let is_ok = self.end(id);
                write_change(out, id, *event, is_ok, None, 0);
            }
            Event::Capture => {
                let commission = self.capture(id, amount);
                write_change(
                    out,
                    id,
                    *event,
                    commission.is_some(),
                    commission.as_ref(),
                    0,
                );
            }
            Event::Refund => {
                let returned = self.refund(id, amount);
                write_change(
                    out,
                    id,
                    *event,
                    returned.is_some(),
                    None,
                    returned.unwrap_or(0),
                );
            }
        }
        Ok(())
    }

    fn pay(&mut self, id: &str, facts: &Facts<'_>, amount: i64, at_ms: i64, out: &mut String) {
        let decided = self.judge(facts, amount, at_ms);
        let paid = match &decided {
            Ok(decided) if decided.judgement.verdict == Verdict::Admit => {
                Some(self.take(decided, amount))
            }
            _ => None,
        };
        self.payments.insert(id.into(), paid);
        match decided {
            Ok(decided) => write_decision(out, id, &decided),
            Err(code) => write_refusal(out, id, code),
        }
    }

    fn judge(&self, facts: &Facts<'_>, amount: i64, at_ms: i64) -> Result<Decided, &'static str> {
        let plan = self
            .rules
            .plan_for(facts, at_ms)
            .ok_or("commission-plan-missing")?;
        let commission = commission::compute(plan, amount).map_err(|error| match error {
            CommissionError::ExceedsAmount => "commission-exceeds-amount",
            CommissionError::Money(_) => "amount-out-of-range",
        })?;
        let asks = asks_of(&self.rules, facts, amount, at_ms).map_err(|error| match error {
            RateError::Missing => "exchange-rate-missing",
            RateError::Overflow => "amount-out-of-range",
        })?;
        let judgement = judge(&asks, false, &self.states);
        Ok(Decided {
            plan: Arc::clone(plan),
            commission,
            asks,
            judgement,
        })
    }

    fn take(&mut self, decided: &Decided, amount: i64) -> Paid {
        let mut held = Vec::with_capacity(decided.asks.len());
        for ask in &decided.asks {
            let Some((taken, place)) = &ask.counted else {
                continue;
            };
            let state = self.states.0.entry_ref(&*taken.subject).or_default();
            state.take(taken, place.kept_from);
            held.push(Held {
                taken: taken.clone(),
                factor: ask.factor,
                restores: ask.policy.restore_on_refund,
            });
        }
        Paid {
            plan: Arc::clone(&decided.plan),
            amount,
            held: held.into(),
            state: PaidState::Authorized,
        }
    }

    fn end(&mut self, id: &str) -> bool {
        let Some(Some(paid)) = self.payments.get_mut(id) else {
            return false;
        };
        if paid.state != PaidState::Authorized {
            return false;
        }
        for held in &paid.held {
            give_back(&mut self.states, &held.taken);
        }
        paid.state = PaidState::Ended;
        paid.held = Box::default();
        true
    }

    fn capture(&mut self, id: &str, amount: i64) -> Option<Commission> {
        let paid = self.payments.get_mut(id)?.as_mut()?;
        if paid.state != PaidState::Authorized || amount > paid.amount {
            return None;
        }
        let commission = commission::compute(&paid.plan, amount).ok()?;
        for held in &paid.held {
            give_back_part(&mut self.states, held, paid.amount, amount);
        }
        paid.state = PaidState::Captured {
            amount,
            refunded: 0,
            total: commission.total,
            returned: 0,
        };
        Some(commission)
    }

    fn refund(&mut self, id: &str, asked: i64) -> Option<i64> {
        let paid = self.payments.get_mut(id)?.as_mut()?;
        let PaidState::Captured {
            amount,
            refunded,
            total,
            returned,
        } = paid.state
        else {
            return None;
        };
        let after = refunded.checked_add(asked).filter(|sum| *sum <= amount)?;
        let so_far = commission::returned(paid.plan.on_refund, total, amount, after).ok()?;
        for held in paid.held.iter().filter(|held| held.restores) {
            give_back_part(&mut self.states, held, amount - refunded, amount - after);
        }
        paid.state = PaidState::Captured {
            amount,
            refunded: after,
            total,
            returned: so_far,
        };
        Some(so_far - returned)
    }
}

fn give_back(states: &mut States, taken: &Taken) {
    if let Some(state) = states.0.get_mut(&taken.subject) {
        state.give_back(taken);
    }
}

/// Counts `to` where `from` was counted; the payment goes on counting as one.
fn give_back_part(states: &mut States, held: &Held, from: i64, to: i64) {
    // What fitted when it was taken fits when less of it is left.
    let counted = |amount: i64| held.factor.up(amount).unwrap_or(0);
    let usage = Usage {
        amount: counted(from) - counted(to),
        count: 0,
    };
    let taken = Taken {
        usage,
        ..held.taken.clone()
    };
    give_back(states, &taken);
}

struct Decided {
    plan: Arc<Plan>,
    commission: Commission,
    asks: Vec<Ask>,
    judgement: Judgement,
}

fn told(faults: &Faults) -> String {
    let faults = faults.found.iter();
    let told: Vec<String> = faults
        .map(|fault| format!("{}: {}", fault.pointer, fault.detail))
        .collect();
    told.join(" ")
}

fn read_facts<'v>(object: &Object<'v, '_>, faults: &mut Faults) -> Option<Facts<'v>> {
    let operation = object.needed_text("operation", TEXT_LENGTH_MAX, faults);
    if operation.is_some_and(|operation| !OPERATIONS.contains(&operation)) {
        faults.at("operation", "Must be purchase, transfer or payout.");
    }
    let currency = object.needed_text("currency", 3, faults);
    if currency.is_some_and(|currency| !is_currency(currency)) {
        faults.at(
            "currency",
            "Must be an ISO 4217 code of three capital letters.",
        );
    }
    let mut fact = |name: &str| {
        object
            .text(name, TEXT_LENGTH_MAX, faults)
            .unwrap_or_default()
    };
    Some(Facts {
        source_scheme: fact("source_scheme"),
        destination_scheme: fact("destination_scheme"),
        source_card: fact("source_card"),
        destination_card: fact("destination_card"),
        issuer_bin: fact("issuer_bin"),
        user: fact("user"),
        merchant: fact("merchant"),
        mcc: fact("mcc"),
        country: fact("country"),
        tier: fact("tier"),
        channel: fact("channel"),
        device: fact("device"),
        operation: operation?,
        currency: currency?,
    })
}

// Writing. Ids and names may hold any letter: they are escaped as JSON asks.

fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            other => out.push(other),
        }
    }
    out.push('"');
}

fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _ = out.write_fmt(arguments);
}

fn write_decision(out: &mut String, id: &str, decided: &Decided) {
    let verdict = decided.judgement.verdict;
    out.push_str(r#"{"id":"#);
    put_text(out, id);
    let code = match verdict {
        Verdict::Refuse => r#""limit-exceeded""#,
        _ => "null",
    };
    put(
        out,
        format_args!(
            r#","event":"pay","decision":"{}","code":{code},"breaches":["#,
            verdict.name()
        ),
    );
    for (number, (_, breach)) in decided.judgement.breaches.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write_breach(out, breach);
    }
    out.push_str(r#"],"commission":"#);
    if verdict == Verdict::Refuse {
        out.push_str(r#"null,"total_debit":null,"total_credit":null}"#);
    } else {
        let commission = &decided.commission;
        write_commission(out, commission);
        let (debit, credit) = (commission.total_debit, commission.total_credit);
        put(
            out,
            format_args!(r#","total_debit":{debit},"total_credit":{credit}}}"#),
        );
    }
    out.push('\n');
}

fn write_breach(out: &mut String, breach: &Breach) {
    let (used, asked, cap) = breach.figures();
    out.push_str(r#"{"policy":"#);
    put_text(out, &breach.policy.id);
    put(
        out,
        format_args!(r#","used":{used},"asked":{asked},"cap":{cap},"resets_at":"#),
    );
    match breach.resets_at_ms {
        Some(at_ms) => put(out, format_args!(r#""{}"}}"#, rfc3339(at_ms))),
        None => out.push_str("null}"),
    }
}

fn write_commission(out: &mut String, commission: &Commission) {
    let (total, payer) = (commission.total, &commission.payer);
    put(
        out,
        format_args!(r#"{{"total":{total},"payer":"{payer}","plan":"#),
    );
    put_text(out, &commission.plan);
    out.push_str(r#","lines":["#);
    for (number, line) in commission.lines.iter().enumerate() {
        out.push_str(if number > 0 {
            r#",{"component":"#
        } else {
            r#"{"component":"#
        });
        put_text(out, &line.component);
        let (amount, exact) = (line.amount, &line.exact);
        put(
            out,
            format_args!(r#","amount":{amount},"exact":"{exact}"}}"#),
        );
    }
    out.push_str(r#"],"split":{"#);
    for (number, (party, part)) in commission.split.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        put_text(out, party);
        put(out, format_args!(":{part}"));
    }
    out.push_str("}}");
}

fn write_refusal(out: &mut String, id: &str, code: &str) {
    out.push_str(r#"{"id":"#);
    put_text(out, id);
    put(
        out,
        format_args!(
            r#","event":"pay","decision":"refuse","code":"{code}","breaches":[],"commission":null,"#
        ),
    );
    out.push_str(r#""total_debit":null,"total_credit":null}"#);
    out.push('\n');
}

fn write_change(
    out: &mut String,
    id: &str,
    event: Event,
    is_ok: bool,
    commission: Option<&Commission>,
    returned: i64,
) {
    let name = EVENTS
        .iter()
        .find(|(_, known)| *known == event)
        .map_or("", |(name, _)| name);
    out.push_str(r#"{"id":"#);
    put_text(out, id);
    put(
        out,
        format_args!(r#","event":"{name}","ok":{is_ok},"commission":"#),
    );
    match commission {
        Some(commission) => write_commission(out, commission),
        None => out.push_str("null"),
    }
    put(out, format_args!(r#","commission_returned":{returned}}}"#));
    out.push('\n');
}
