//! A decision as it is stored: its inputs, what it had counted, the versions it was made by.
//!
//! Enough to explain it, to make it again by other rules, and to give back the headroom it took,
//! without the rules of its day. Layout, format 1: numbers are LEB128 varints (signed ones
//! zigzagged), texts twice their size and UTF-8; a text of hexadecimal digits is packed, two in a
//! byte, which the size's lowest bit says.
//!
//! format u8, flags u8, generation, moment, [priced generation, priced moment], revocation number,
//! session, plan, version, the facts in the order of [`listed`], amount, code, number of asks; then each ask:
//! policy, version, subject u8, window u8 [seconds], flags u8, [currency, factor], window number,
//! [amount], used amount, used count, [caps], [measure u8, resets, passes].

use std::borrow::Cow;
use std::sync::Arc;

use thiserror::Error;

use crate::limits::{Ask, Judgement, Measure, Verdict};
use crate::rates::Factor;
use crate::rules::{counter_of, Caps, Facts, OnBreach, SubjectKind};
use crate::state::{Taken, Usage};
use crate::text::hex;
use crate::window::{CalendarUnit, Window, ROLLING_SECONDS};

const FORMAT: u8 = 1;
/// The end of the year 9999, in Unix milliseconds.
const MOMENT_MAX: i64 = 253_402_300_799_999;

const IS_STEPPED_UP: u8 = 0x04;
const IS_PRICED: u8 = 0x08;

const OTHER_CURRENCY: u8 = 0x01;
const RESTORES: u8 = 0x02;
const STEPS_UP: u8 = 0x04;
const HAS_FLOOR: u8 = 0x08;
const HAS_MAX: u8 = 0x10;
const HAS_COUNT: u8 = 0x20;
const IS_BROKEN: u8 = 0x40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a stored decision cannot be read")]
pub struct RecordError;

/// What a decision was made on, beside the rules and the counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Context<'a> {
    /// The number of the set of rules that decided it.
    pub generation: u64,
    pub at_ms: i64,
    /// The set and the moment of the quote it was made by.
    pub priced: Option<(u64, i64)>,
    /// Every revocation up to this one was known.
    pub revocation_seq: i64,
    pub session: &'a str,
    /// The plan that priced it; empty when none did.
    pub plan: &'a str,
    pub plan_version: u32,
    pub is_stepped_up: bool,
}

/// One limit as it was judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedAsk<'a> {
    pub policy: &'a str,
    pub version: u32,
    pub subject: SubjectKind,
    pub window: Window,
    pub window_number: i64,
    pub currency: Cow<'a, str>,
    pub factor: Factor,
    /// Minor units of the policy's currency.
    pub amount: i64,
    pub used: Usage,
    pub caps: Caps,
    pub on_breach: OnBreach,
    pub restore_on_refund: bool,
    pub broken: Option<Broken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken {
    pub measure: Measure,
    pub resets_at_ms: Option<i64>,
    pub passes_at_ms: Option<i64>,
}

impl RecordedAsk<'_> {
    pub fn counter(&self) -> u64 {
        counter_of(self.policy, self.subject, self.window, &self.currency)
    }
}

/// A stored decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<'a> {
    pub verdict: Verdict,
    pub generation: u64,
    pub at_ms: i64,
    pub priced: Option<(u64, i64)>,
    pub revocation_seq: i64,
    pub is_stepped_up: bool,
    /// The problem's slug, or empty.
    pub code: Cow<'a, str>,
    pub session: Cow<'a, str>,
    pub plan: &'a str,
    pub plan_version: u32,
    facts: [Cow<'a, str>; FACTS],
    pub amount: i64,
    pub asks: Vec<RecordedAsk<'a>>,
}

const FACTS: usize = 14;

fn listed<'a>(facts: &Facts<'a>) -> [&'a str; FACTS] {
    [
        facts.operation,
        facts.currency,
        facts.source_scheme,
        facts.destination_scheme,
        facts.tier,
        facts.channel,
        facts.merchant,
        facts.mcc,
        facts.country,
        facts.source_card,
        facts.destination_card,
        facts.issuer_bin,
        facts.user,
        facts.device,
    ]
}

/// The part of a record that is known before its limits are judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prefix(Vec<u8>);

impl Prefix {
    pub fn new(context: &Context<'_>, facts: &Facts<'_>, amount_minor: i64) -> Self {
        let mut out = Vec::with_capacity(384);
        let mut flags = 0;
        if context.is_stepped_up {
            flags |= IS_STEPPED_UP;
        }
        if context.priced.is_some() {
            flags |= IS_PRICED;
        }
        out.extend_from_slice(&[FORMAT, flags]);
        put(&mut out, context.generation);
        put_signed(&mut out, context.at_ms);
        if let Some((generation, at_ms)) = context.priced {
            put(&mut out, generation);
            put_signed(&mut out, at_ms);
        }
        put_signed(&mut out, context.revocation_seq);
        put_text(&mut out, context.session);
        put_plain(&mut out, context.plan);
        put(&mut out, context.plan_version.into());
        for fact in listed(facts) {
            put_text(&mut out, fact);
        }
        put_signed(&mut out, amount_minor);
        Self(out)
    }

    /// The whole record of a decision that never came to its limits.
    pub fn refused(&self, code: &str) -> Vec<u8> {
        let mut out = self.with(Verdict::Refuse, code);
        put(&mut out, 0);
        out
    }

    /// The whole record of a decision whose limits were judged.
    pub fn judged(&self, currency: &str, asks: &[Ask], judgement: &Judgement) -> Vec<u8> {
        let code = match judgement.verdict {
            Verdict::Refuse => "limit-exceeded",
            _ => "",
        };
        let mut out = self.with(judgement.verdict, code);
        put(&mut out, asks.len() as u64);
        let mut breaches = judgement.breaches.iter().peekable();
        for (number, (ask, used)) in asks.iter().zip(&judgement.used).enumerate() {
            let broken = breaches
                .next_if(|(broken, _)| *broken == number)
                .map(|(_, breach)| Broken {
                    measure: breach.measure,
                    resets_at_ms: breach.resets_at_ms,
                    passes_at_ms: breach.passes_at_ms,
                });
            put_ask(&mut out, currency, ask, *used, broken);
        }
        out
    }

    fn with(&self, verdict: Verdict, code: &str) -> Vec<u8> {
        let mut out = self.0.clone();
        out[1] |= verdict as u8;
        put_text(&mut out, code);
        out
    }
}

fn put_ask(out: &mut Vec<u8>, currency: &str, ask: &Ask, used: Usage, broken: Option<Broken>) {
    let policy = &ask.policy;
    put_plain(out, &policy.id);
    put(out, policy.version.into());
    out.push(policy.subject as u8);
    let window = match policy.window {
        Window::Operation => 0,
        Window::Calendar(unit) => 1 + unit as u8,
        Window::Rolling { .. } => 6,
    };
    out.push(window);
    if let Window::Rolling { seconds } = policy.window {
        put(out, seconds.into());
    }
    let caps = policy.caps;
    let is_converted = policy.currency != currency;
    let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
    out.push(
        flag(is_converted, OTHER_CURRENCY)
            | flag(policy.restore_on_refund, RESTORES)
            | flag(policy.on_breach == OnBreach::StepUp, STEPS_UP)
            | flag(caps.min_amount.is_some(), HAS_FLOOR)
            | flag(caps.max_amount.is_some(), HAS_MAX)
            | flag(caps.max_count.is_some(), HAS_COUNT)
            | flag(broken.is_some(), IS_BROKEN),
    );
    put_signed(out, ask.taken().map_or(0, |taken| taken.window));
    if is_converted {
        put_text(out, &policy.currency);
        put_wide(out, ask.factor.numerator.unsigned_abs());
        put_wide(out, ask.factor.denominator.unsigned_abs());
        put_signed(out, ask.amount);
    }
    put_signed(out, used.amount);
    put(out, used.count.into());
    for cap in [caps.min_amount, caps.max_amount].into_iter().flatten() {
        put_signed(out, cap);
    }
    if let Some(count) = caps.max_count {
        put(out, count.into());
    }
    if let Some(broken) = broken {
        out.push(broken.measure as u8);
        for moment in [broken.resets_at_ms, broken.passes_at_ms] {
            // Zero is no moment; 1970 is none either.
            put_signed(out, moment.unwrap_or(0));
        }
    }
}

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// The same of a part of a rate, which may not fit 64 bits.
fn put_wide(out: &mut Vec<u8>, mut number: u128) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_signed(out: &mut Vec<u8>, number: i64) {
    put(out, ((number << 1) ^ (number >> 63)) as u64);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    if is_packable(text) {
        // Of a digit and a letter alike, the low half with nine added to a letter's is its value.
        let value = |byte: u8| (byte & 15) + 9 * (byte >> 6);
        let pairs = text.as_bytes().chunks_exact(2);
        put(out, pairs.len() as u64 * 2 + 1);
        out.extend(pairs.map(|pair| value(pair[0]) << 4 | value(pair[1])));
    } else {
        put_plain(out, text);
    }
}

fn put_plain(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64 * 2);
    out.extend_from_slice(text.as_bytes());
}

/// Whether a text is long, and of lower-case hexadecimal digits alone: two go into a byte.
fn is_packable(text: &str) -> bool {
    // No early end, so that bytes are looked at many at a time.
    let is_digits = |all, byte| all & matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.len() >= 16 && text.len() % 2 == 0 && text.bytes().fold(true, is_digits)
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Result<u8, RecordError> {
        let (byte, rest) = self.bytes.split_first().ok_or(RecordError)?;
        self.bytes = rest;
        Ok(*byte)
    }

    fn wide(&mut self) -> Result<u128, RecordError> {
        let mut number: u128 = 0;
        for shift in (0..126).step_by(7) {
            let byte = self.byte()?;
            number |= u128::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(RecordError)
    }

    fn number<T: TryFrom<u128>>(&mut self) -> Result<T, RecordError> {
        T::try_from(self.wide()?).map_err(|_| RecordError)
    }

    fn signed(&mut self) -> Result<i64, RecordError> {
        let number: u64 = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    /// A moment, not beyond the year 9999.
    fn within_time(&mut self) -> Result<i64, RecordError> {
        let number = self.signed()?;
        (-MOMENT_MAX..=MOMENT_MAX)
            .contains(&number)
            .then_some(number)
            .ok_or(RecordError)
    }

    fn moment(&mut self) -> Result<Option<i64>, RecordError> {
        Ok(Some(self.within_time()?).filter(|at_ms| *at_ms != 0))
    }

    fn text(&mut self) -> Result<Cow<'a, str>, RecordError> {
        let length: usize = self.number()?;
        let size = length / 2;
        if self.bytes.len() < size {
            return Err(RecordError);
        }
        let (text, rest) = self.bytes.split_at(size);
        self.bytes = rest;
        if length % 2 == 0 {
            let text = std::str::from_utf8(text).map_err(|_| RecordError)?;
            return Ok(Cow::Borrowed(text));
        }
        Ok(Cow::Owned(hex(text)))
    }

    fn plain_text(&mut self) -> Result<&'a str, RecordError> {
        match self.text()? {
            Cow::Borrowed(text) => Ok(text),
            Cow::Owned(_) => Err(RecordError),
        }
    }
}

impl<'a> Record<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader { bytes };
        if reader.byte()? != FORMAT {
            return Err(RecordError);
        }
        let flags = reader.byte()?;
        let verdict = match flags & 0x03 {
            0 => Verdict::Admit,
            1 => Verdict::Refuse,
            2 => Verdict::StepUp,
            _ => return Err(RecordError),
        };
        let generation = reader.number()?;
        let at_ms = reader.within_time()?;
        let priced = if flags & IS_PRICED == 0 {
            None
        } else {
            Some((reader.number()?, reader.within_time()?))
        };
        let revocation_seq = reader.signed()?;
        let session = reader.text()?;
        let plan = reader.plain_text()?;
        let plan_version = reader.number()?;
        let mut facts: [Cow<'a, str>; FACTS] = Default::default();
        for fact in &mut facts {
            *fact = reader.text()?;
        }
        let amount = reader.signed()?;
        let code = reader.text()?;
        let mut asks = Vec::new();
        for _ in 0..reader.number::<usize>()? {
            asks.push(read_ask(&mut reader, &facts[1], amount)?);
        }
        if !reader.bytes.is_empty() {
            return Err(RecordError);
        }
        Ok(Self {
            verdict,
            generation,
            at_ms,
            priced,
            revocation_seq,
            is_stepped_up: flags & IS_STEPPED_UP != 0,
            code,
            session,
            plan,
            plan_version,
            facts,
            amount,
            asks,
        })
    }

    pub fn facts(&self) -> Facts<'_> {
        let fact = |number: usize| self.facts[number].as_ref();
        Facts {
            operation: fact(0),
            currency: fact(1),
            source_scheme: fact(2),
            destination_scheme: fact(3),
            tier: fact(4),
            channel: fact(5),
            merchant: fact(6),
            mcc: fact(7),
            country: fact(8),
            source_card: fact(9),
            destination_card: fact(10),
            issuer_bin: fact(11),
            user: fact(12),
            device: fact(13),
        }
    }

    /// What each limit gives back when the payment ends, or counts for less than it did.
    pub fn given_back(&self, change: Change) -> Vec<Taken> {
        let facts = self.facts();
        let part = |ask: &RecordedAsk<'_>, from: i64, to: i64| {
            // What was counted converts up, as it did when it was taken.
            let counted = |amount: i64| ask.factor.up(amount).unwrap_or(0);
            Usage {
                amount: counted(from).saturating_sub(counted(to)),
                count: 0,
            }
        };
        self.asks
            .iter()
            .filter(|ask| ask.window != Window::Operation)
            .filter_map(|ask| {
                let usage = match change {
                    Change::Ended => Usage {
                        amount: ask.amount,
                        count: 1,
                    },
                    Change::Captured { amount } => part(ask, self.amount, amount),
                    Change::Refunded { .. } if !ask.restore_on_refund => return None,
                    Change::Refunded {
                        captured,
                        before,
                        after,
                    } => part(
                        ask,
                        captured.saturating_sub(before),
                        captured.saturating_sub(after),
                    ),
                };
                let id = facts.subject(ask.subject)?;
                Some(Taken {
                    subject: Arc::from(ask.subject.of(id)),
                    counter: ask.counter(),
                    window: ask.window_number,
                    usage,
                })
            })
            .filter(|taken| taken.usage != Usage::default())
            .collect()
    }
}

/// What became of a payment that was counted. Amounts are minor units of its currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Declined, canceled, expired: nothing of it counts.
    Ended,
    /// Captured for no more than was authorised.
    Captured { amount: i64 },
    /// Refunds went from `before` to `after` of what was captured.
    Refunded {
        captured: i64,
        before: i64,
        after: i64,
    },
}

fn read_ask<'a>(
    reader: &mut Reader<'a>,
    payment_currency: &Cow<'a, str>,
    payment_amount: i64,
) -> Result<RecordedAsk<'a>, RecordError> {
    let policy = reader.plain_text()?;
    let version = reader.number()?;
    let subject = SubjectKind::ALL
        .get(usize::from(reader.byte()?))
        .map(|(_, kind)| *kind)
        .ok_or(RecordError)?;
    let window = match reader.byte()? {
        0 => Window::Operation,
        6 => {
            let seconds = reader.number()?;
            if !ROLLING_SECONDS.contains(&seconds) {
                return Err(RecordError);
            }
            Window::Rolling { seconds }
        }
        unit => {
            let unit = CalendarUnit::ALL.get(usize::from(unit) - 1);
            Window::Calendar(*unit.ok_or(RecordError)?)
        }
    };
    let flags = reader.byte()?;
    let has = |flag: u8| flags & flag != 0;
    let window_number = reader.signed()?;
    let is_of_time = match (window.place(-MOMENT_MAX), window.place(MOMENT_MAX)) {
        (Some(first), Some(last)) => (first.index..=last.index).contains(&window_number),
        _ => window_number == 0,
    };
    if !is_of_time {
        return Err(RecordError);
    }
    let (currency, factor, amount) = if has(OTHER_CURRENCY) {
        let currency = reader.text()?;
        let factor = Factor {
            numerator: reader.number()?,
            denominator: reader.number()?,
        };
        if factor.numerator < 1 || factor.denominator < 1 {
            return Err(RecordError);
        }
        (currency, factor, reader.signed()?)
    } else {
        (payment_currency.clone(), Factor::ONE, payment_amount)
    };
    let used = Usage {
        amount: reader.signed()?,
        count: reader.number()?,
    };
    let mut caps = Caps::default();
    if has(HAS_FLOOR) {
        caps.min_amount = Some(reader.signed()?);
    }
    if has(HAS_MAX) {
        caps.max_amount = Some(reader.signed()?);
    }
    if has(HAS_COUNT) {
        caps.max_count = Some(reader.number()?);
    }
    let broken = if has(IS_BROKEN) {
        let measure = match reader.byte()? {
            0 => Measure::Floor,
            1 => Measure::Amount,
            2 => Measure::Count,
            _ => return Err(RecordError),
        };
        Some(Broken {
            measure,
            resets_at_ms: reader.moment()?,
            passes_at_ms: reader.moment()?,
        })
    } else {
        None
    };
    Ok(RecordedAsk {
        policy,
        version,
        subject,
        window,
        window_number,
        currency,
        factor,
        amount,
        used,
        caps,
        on_breach: if has(STEPS_UP) {
            OnBreach::StepUp
        } else {
            OnBreach::Refuse
        },
        restore_on_refund: has(RESTORES),
        broken,
    })
}

#[cfg(test)]
mod tests;
