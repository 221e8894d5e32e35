//! How much a subject may still do, and when it grows.

use std::sync::Arc;

use serde::Serialize;

use crate::limits::{Ask, Book};
use crate::window::{rfc3339, CalendarUnit, Window};

/// One policy's headroom. An absent remainder has no cap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Headroom {
    pub policy: String,
    pub version: u32,
    pub subject: &'static str,
    pub window: &'static str,
    pub max_amount: Option<i64>,
    pub max_count: Option<u32>,
    pub used_amount: i64,
    pub used_count: u32,
    pub remaining_amount: Option<i64>,
    pub remaining_count: Option<u32>,
    pub resets_at: Option<String>,
}

fn window_name(window: Window) -> &'static str {
    match window {
        Window::Operation {} => "operation",
        Window::Calendar { unit } => match unit {
            CalendarUnit::Hour => "hour",
            CalendarUnit::Day => "day",
            CalendarUnit::Week => "week",
            CalendarUnit::Month => "month",
            CalendarUnit::Year => "year",
        },
    }
}

pub fn of(book: &Book, asks: &[Ask]) -> Vec<Headroom> {
    asks.iter()
        .map(|ask| {
            let (used_amount, used_count) =
                ask.taken.as_ref().map_or((0, 0), |taken| book.used(taken));
            let policy = Arc::as_ref(&ask.policy);
            Headroom {
                policy: policy.id.clone(),
                version: policy.version,
                subject: policy.subject.name(),
                window: window_name(policy.window),
                max_amount: policy.max_amount,
                max_count: policy.max_count,
                used_amount,
                used_count,
                remaining_amount: policy.max_amount.map(|cap| (cap - used_amount).max(0)),
                remaining_count: policy.max_count.map(|cap| cap.saturating_sub(used_count)),
                resets_at: ask.resets_at_ms.map(rfc3339),
            }
        })
        .collect()
}

/// The least remaining amount and count over all of them.
pub fn least(all: &[Headroom]) -> (Option<i64>, Option<u32>) {
    (
        all.iter().filter_map(|one| one.remaining_amount).min(),
        all.iter().filter_map(|one| one.remaining_count).min(),
    )
}
