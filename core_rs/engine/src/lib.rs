//! The pure core: bytes and numbers in, decisions and bytes out.
//!
//! Knows no Python, no clock, no socket and no file; time is an argument, in Unix milliseconds.
//! Money is an integer of minor units, rates are exact fractions, and every sum is checked.
//!
//! Reading order: [`admit`] is the whole decision; what it calls is in the order of its steps:
//! [`token`], [`revocation`], [`json`], [`request`], [`routing`], [`commission`], [`limits`].
#![forbid(unsafe_code)]

pub mod admit;
pub mod answer;
pub mod book;
pub mod cache;
pub mod commission;
pub mod decide;
pub mod explain;
pub mod frame;
pub mod headroom;
pub mod iso8583;
pub mod json;
pub mod limits;
pub mod money;
pub mod pan;
pub mod plain;
pub mod problem;
pub mod quote;
pub mod rates;
pub mod reading;
pub mod record;
pub mod request;
pub mod revocation;
pub mod routing;
pub mod rules;
pub mod simulate;
pub mod state;
pub mod tally;
pub mod text;
pub mod token;
pub mod window;
