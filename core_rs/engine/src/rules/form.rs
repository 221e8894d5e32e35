//! The form of rules: JSON, as the admin API takes it.

use super::index::{Match, MatchKey};
use super::{
    counter_of, Caps, Component, ComponentKind, Effective, OnBreach, OnRefund, Payer, Plan, Policy,
    Share, SubjectKind, Tier, TierMode,
};
use crate::json::{self, JsonError, Value};
use crate::money::{parse_percent, Rounding, AMOUNT_MAX, PERCENT_HUNDRED};
use crate::problem::FieldError;
use crate::rates::{parse_rate, Rates, NOMINAL_MAX};
use crate::reading::{is_currency, is_plain, Faults, Object};
use crate::window::{parse_date, parse_rfc3339, CalendarUnit, Window, ROLLING_SECONDS};

const ID_LENGTH_MAX: usize = 64;
const VALUE_LENGTH_MAX: usize = 64;
const PRIORITY_MAX: i64 = 1_000_000;
/// A policy's caps are in its own currency, and may hold many payments.
const CAP_MAX: i64 = 1_000_000_000_000_000_000;

pub struct RulesForm {
    pub plans: Vec<Plan>,
    pub policies: Vec<Policy>,
    pub rates: Rates,
}

pub fn read(text: &[u8]) -> Result<RulesForm, Vec<FieldError>> {
    let document = json::parse(text).map_err(|error| {
        let pointer = match &error {
            JsonError::Duplicate { pointer } => pointer.clone(),
            _ => String::new(),
        };
        let detail = error.to_string();
        vec![FieldError { pointer, detail }]
    })?;
    let mut faults = Faults::default();
    let mut rates = Rates::default();
    let known = ["commission_plans", "limit_policies", "rates"];
    let mut plans = Vec::new();
    let mut policies = Vec::new();
    if let Some(object) = Object::read(&document, &known, &mut faults) {
        plans = object.list("commission_plans", &mut faults, plan);
        policies = object.list("limit_policies", &mut faults, policy);
        object.list("rates", &mut faults, |value, faults| {
            rate(value, &mut rates, faults)
        });
    }
    if !faults.found.is_empty() {
        return Err(faults.found);
    }
    Ok(RulesForm {
        plans,
        policies,
        rates,
    })
}

fn id(object: &Object<'_, '_>, faults: &mut Faults) -> Option<String> {
    let id = object.needed_text("id", ID_LENGTH_MAX, faults)?;
    let is_id = id
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if !is_id {
        faults.at(
            "id",
            "May have letters, digits, hyphens, dots and underscores.",
        );
    }
    is_id.then(|| id.to_owned())
}

fn version(object: &Object<'_, '_>, faults: &mut Faults) -> Option<u32> {
    // A set that was never changed need not number its rules.
    if object.get("version").is_none() {
        return Some(1);
    }
    let version = object.integer("version", 1, i64::from(u32::MAX), faults)?;
    u32::try_from(version).ok()
}

fn effective(object: &Object<'_, '_>, faults: &mut Faults) -> Option<Effective> {
    let mut moment = |name: &str, absent: i64| {
        if object.get(name).is_none() {
            return Some(absent);
        }
        let at_ms = object.text(name, 40, faults).map(parse_rfc3339);
        if at_ms == Some(None) {
            faults.at(name, "Must be an RFC 3339 time with an offset.");
        }
        at_ms.flatten()
    };
    let from_ms = moment("effective_from", i64::MIN);
    let to_ms = moment("effective_to", i64::MAX);
    let effective = Effective {
        from_ms: from_ms?,
        to_ms: to_ms?,
    };
    if effective.from_ms >= effective.to_ms {
        faults.at("effective_to", "Must be after effective_from.");
        return None;
    }
    Some(effective)
}

fn priority(object: &Object<'_, '_>, faults: &mut Faults) -> i64 {
    object
        .integer("priority", -PRIORITY_MAX, PRIORITY_MAX, faults)
        .unwrap_or(0)
}

/// Lists of values by what they are of; an empty list asks for nothing, as an absent one.
fn matching(object: &Object<'_, '_>, table: &[(&str, MatchKey)], faults: &mut Faults) -> Match {
    let mut wanted = Match::new();
    let Some(value) = object.get("match") else {
        return wanted;
    };
    faults.enter("match");
    let known: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    if let Some(lists) = Object::read(value, &known, faults) {
        for (name, value) in lists.members() {
            let Some((_, key)) = table.iter().find(|(known, _)| known == name) else {
                continue;
            };
            let mut values = match_values(name, value, faults);
            values.sort_unstable();
            values.dedup();
            if !values.is_empty() {
                wanted.insert(*key, values);
            }
        }
    }
    faults.leave();
    wanted
}

fn match_values(name: &str, value: &Value<'_>, faults: &mut Faults) -> Vec<String> {
    let items = match value {
        Value::Null => return Vec::new(),
        Value::Array(items) => items,
        _ => {
            faults.at(name, "Must be a list of texts.");
            return Vec::new();
        }
    };
    faults.enter(name.to_owned());
    let mut values = Vec::with_capacity(items.len());
    for (number, item) in items.iter().enumerate() {
        match item {
            Value::Text(text) if is_plain(text, VALUE_LENGTH_MAX) => {
                if name == "operation" && !super::OPERATIONS.contains(&text.as_ref()) {
                    let detail = "Must be purchase, transfer or payout.";
                    faults.at(&number.to_string(), detail);
                }
                values.push(text.clone().into_owned());
            }
            _ => faults.at(&number.to_string(), "Must be text of 1 to 64 bytes."),
        }
    }
    faults.leave();
    values
}

fn percent(object: &Object<'_, '_>, name: &str, faults: &mut Faults) -> Option<i64> {
    let millionths = match object.get(name)? {
        Value::Text(text) => parse_percent(text).ok(),
        _ => None,
    };
    if millionths.is_none() {
        let detail = "Must be a decimal string from 0 to 100 with up to 6 fraction digits.";
        faults.at(name, detail);
    }
    millionths
}

fn amount(object: &Object<'_, '_>, name: &str, faults: &mut Faults) -> Option<i64> {
    object.integer(name, 0, AMOUNT_MAX, faults)
}

fn plan(value: &Value<'_>, faults: &mut Faults) -> Option<Plan> {
    let known = [
        "id",
        "version",
        "effective_from",
        "effective_to",
        "priority",
        "match",
        "payer",
        "components",
        "split",
        "on_refund",
    ];
    let object = Object::read(value, &known, faults)?;
    let id = id(&object, faults);
    let version = version(&object, faults);
    let effective = effective(&object, faults);
    let priority = priority(&object, faults);
    let matching = matching(&object, &MatchKey::OF_PLANS, faults);
    let payer = object.needed_choice("payer", &Payer::ALL, faults);
    let mut names: Vec<String> = Vec::new();
    let components = object.list("components", faults, |value, faults| {
        let component = component(value, faults)?;
        if names.contains(&component.name) {
            faults.at("name", "Another component has this name.");
        }
        names.push(component.name.clone());
        Some(component)
    });
    let split = split(&object, faults);
    let on_refund = object
        .choice("on_refund", &OnRefund::ALL, faults)
        .unwrap_or(OnRefund::None);
    Some(Plan {
        id: id?,
        version: version?,
        payer: payer?,
        components,
        split,
        on_refund,
        priority,
        matching,
        effective: effective?,
    })
}

fn split(object: &Object<'_, '_>, faults: &mut Faults) -> Vec<Share> {
    let before = faults.found.len();
    let split = object.list("split", faults, |value, faults| {
        let share = Object::read(value, &["party", "share"], faults)?;
        let party = share.needed_text("party", ID_LENGTH_MAX, faults);
        if share.get("share").is_none() {
            faults.at("share", "This member is needed.");
        }
        let share_millionths = percent(&share, "share", faults);
        Some(Share {
            party: party?.to_owned(),
            share_millionths: share_millionths?,
        })
    });
    if faults.found.len() > before || split.is_empty() {
        return split;
    }
    for (number, share) in split.iter().enumerate() {
        if split[..number].iter().any(|one| one.party == share.party) {
            faults.at("split", "A party has one share.");
        }
    }
    let sum: i64 = split.iter().map(|share| share.share_millionths).sum();
    if sum != PERCENT_HUNDRED {
        faults.at("split", "The shares must sum to 100.");
    }
    split
}

const KINDS: [(&str, &[&str]); 3] = [
    (
        "fixed",
        &["name", "kind", "rounding", "vat_percent", "amount"],
    ),
    (
        "percent",
        &[
            "name",
            "kind",
            "rounding",
            "vat_percent",
            "percent",
            "min",
            "max",
        ],
    ),
    (
        "tiered",
        &[
            "name",
            "kind",
            "rounding",
            "vat_percent",
            "mode",
            "tiers",
            "min",
            "max",
        ],
    ),
];

fn component(value: &Value<'_>, faults: &mut Faults) -> Option<Component> {
    let kind = match value {
        Value::Object(members) => members.iter().find_map(|(name, value)| match value {
            Value::Text(text) if name == "kind" => KINDS.iter().find(|(known, _)| known == text),
            _ => None,
        }),
        _ => {
            faults.at("", "Must be an object.");
            return None;
        }
    };
    let Some((kind, known)) = kind else {
        faults.at("kind", "Must be one of: fixed, percent, tiered.");
        return None;
    };
    let object = Object::read(value, known, faults)?;
    let name = object.needed_text("name", ID_LENGTH_MAX, faults);
    let rounding = object.choice("rounding", &Rounding::ALL, faults);
    let vat_millionths = percent(&object, "vat_percent", faults);
    let (min, max) = (
        amount(&object, "min", faults),
        amount(&object, "max", faults),
    );
    if min.is_some_and(|min| max.is_some_and(|max| min > max)) {
        faults.at("min", "Must not be over max.");
    }
    let needed = match *kind {
        "fixed" => "amount",
        "percent" => "percent",
        _ => "tiers",
    };
    if object.get(needed).is_none() {
        faults.at(needed, "This member is needed.");
    }
    let kind = match *kind {
        "fixed" => ComponentKind::Fixed {
            amount_minor: amount(&object, "amount", faults)?,
        },
        "percent" => ComponentKind::Percent {
            percent_millionths: percent(&object, "percent", faults)?,
        },
        _ => ComponentKind::Tiered {
            tiers: tiers(&object, faults),
            mode: object.needed_choice("mode", &TierMode::ALL, faults)?,
        },
    };
    Some(Component {
        name: name?.to_owned(),
        kind,
        rounding: rounding.unwrap_or_default(),
        min_minor: min.unwrap_or(0),
        max_minor: max.unwrap_or(i64::MAX),
        vat_millionths,
    })
}

/// Tiers in order, without gaps: each begins where the one before it ends, and the last has no end.
fn tiers(object: &Object<'_, '_>, faults: &mut Faults) -> Vec<Tier> {
    let mut previous: Option<Option<i64>> = None;
    let tiers = object.list("tiers", faults, |value, faults| {
        let tier = Object::read(value, &["up_to", "percent", "fixed"], faults)?;
        let up_to = tier.integer("up_to", 1, AMOUNT_MAX, faults);
        match (previous, up_to) {
            (Some(None), _) => faults.at("", "The tier before this one has no end."),
            (Some(Some(before)), Some(up_to)) if up_to <= before => {
                faults.at("up_to", "Must be over the tier before it.");
            }
            _ => {}
        }
        previous = Some(up_to);
        Some(Tier {
            up_to,
            percent_millionths: percent(&tier, "percent", faults).unwrap_or(0),
            fixed_minor: amount(&tier, "fixed", faults).unwrap_or(0),
        })
    });
    if !matches!(previous, Some(None)) && object.get("tiers").is_some() {
        faults.at("tiers", "The last tier must have no end (\"up_to\": null).");
    }
    tiers
}

fn policy(value: &Value<'_>, faults: &mut Faults) -> Option<Policy> {
    let known = [
        "id",
        "version",
        "effective_from",
        "effective_to",
        "priority",
        "subject",
        "match",
        "window",
        "min_amount",
        "max_amount",
        "max_count",
        "currency",
        "on_breach",
        "restore_on_refund",
    ];
    let object = Object::read(value, &known, faults)?;
    let id = id(&object, faults);
    let version = version(&object, faults);
    let effective = effective(&object, faults);
    let priority = priority(&object, faults);
    let subject = object.needed_choice("subject", &SubjectKind::ALL, faults);
    let matching = matching(&object, &MatchKey::OF_POLICIES, faults);
    let window = window(&object, faults);
    let caps = caps(&object, window, faults);
    let currency = object.needed_text("currency", 3, faults);
    if currency.is_some_and(|currency| !is_currency(currency)) {
        faults.at(
            "currency",
            "Must be an ISO 4217 code of three capital letters.",
        );
    }
    let on_breach = object
        .choice("on_breach", &OnBreach::ALL, faults)
        .unwrap_or(OnBreach::Refuse);
    let restore_on_refund = object
        .boolean("restore_on_refund", faults)
        .unwrap_or_default();
    let (id, subject, window) = (id?, subject?, window?);
    let currency = currency?.to_owned();
    Some(Policy {
        counter: counter_of(&id, subject, window, &currency),
        id,
        version: version?,
        subject,
        window,
        caps,
        currency,
        on_breach,
        restore_on_refund,
        priority,
        matching,
        effective: effective?,
        rank: 0,
    })
}

fn caps(object: &Object<'_, '_>, window: Option<Window>, faults: &mut Faults) -> Caps {
    let cap = |name: &str, faults: &mut Faults| object.integer(name, 0, CAP_MAX, faults);
    let caps = Caps {
        min_amount: cap("min_amount", faults),
        max_amount: cap("max_amount", faults),
        max_count: object
            .integer("max_count", 0, i64::from(u32::MAX - 1), faults)
            .and_then(|count| u32::try_from(count).ok()),
    };
    let given = ["min_amount", "max_amount", "max_count"];
    if given.iter().all(|name| object.get(name).is_none()) {
        faults.at(
            "",
            "A policy has a min_amount, a max_amount or a max_count.",
        );
    }
    if caps.min_amount.is_some() && window.is_some_and(|window| window != Window::Operation) {
        faults.at("min_amount", "Belongs to an operation window.");
    }
    let is_over = |min: i64| caps.max_amount.is_some_and(|max| min > max);
    if caps.min_amount.is_some_and(is_over) {
        faults.at("min_amount", "Must not be over max_amount.");
    }
    caps
}

fn window(object: &Object<'_, '_>, faults: &mut Faults) -> Option<Window> {
    let Some(value) = object.get("window") else {
        faults.at("window", "This member is needed.");
        return None;
    };
    faults.enter("window");
    let window = window_of(value, faults);
    faults.leave();
    window
}

fn window_of(value: &Value<'_>, faults: &mut Faults) -> Option<Window> {
    let object = Object::read(value, &["kind", "unit", "seconds"], faults)?;
    let kinds = [("operation", 0), ("calendar", 1), ("rolling", 2)];
    let kind = object.needed_choice("kind", &kinds, faults)?;
    for (name, of) in [("unit", 1), ("seconds", 2)] {
        if kind != of && object.get(name).is_some() {
            faults.at(name, "Does not belong to this kind of window.");
        }
    }
    match kind {
        0 => Some(Window::Operation),
        1 => {
            let units = CalendarUnit::ALL.map(|unit| (unit.name(), unit));
            object
                .needed_choice("unit", &units, faults)
                .map(Window::Calendar)
        }
        _ => {
            let (low, high) = (*ROLLING_SECONDS.start(), *ROLLING_SECONDS.end());
            let seconds = object.needed_integer("seconds", low.into(), high.into(), faults)?;
            let seconds = u32::try_from(seconds).ok()?;
            Some(Window::Rolling { seconds })
        }
    }
}

fn rate(value: &Value<'_>, rates: &mut Rates, faults: &mut Faults) -> Option<()> {
    let object = Object::read(value, &["currency", "date", "rate", "nominal"], faults)?;
    let currency = object.needed_text("currency", 3, faults);
    if currency.is_some_and(|currency| !is_currency(currency) || currency == "UZS") {
        faults.at("currency", "Must be an ISO 4217 code other than UZS.");
        return None;
    }
    let day = object.needed_text("date", 10, faults).and_then(|text| {
        let day = parse_date(text);
        if day.is_none() {
            faults.at("date", "Must be a date, YYYY-MM-DD.");
        }
        day
    });
    let soum_millionths = object.needed_text("rate", 19, faults).and_then(|text| {
        let rate = parse_rate(text);
        if rate.is_none() {
            faults.at(
                "rate",
                "Must be a decimal string over 0, with up to 6 fraction digits.",
            );
        }
        rate
    });
    let nominal = match object.get("nominal") {
        None => Some(1),
        Some(_) => object.integer("nominal", 1, NOMINAL_MAX, faults),
    };
    if !rates.add(currency?, day?, soum_millionths?, nominal?) {
        faults.at("date", "This currency has a rate of this date already.");
    }
    Some(())
}
