//! Central-bank rates: what an amount of one currency counts as in another.
//!
//! A rate is soums per `nominal` units of a currency, on a date. The rate of a day is the latest
//! one set on it or before it, as the bank sets none on days off; one older than
//! [`RATE_AGE_DAYS_MAX`] is not known any more.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use thiserror::Error;

use crate::money::greatest_common_divisor;

pub const RATE_AGE_DAYS_MAX: i64 = 14;
const BASE: &str = "UZS";
const WHOLE_DIGITS_MAX: usize = 12;
const FRACTION_DIGITS_MAX: usize = 6;
pub const NOMINAL_MAX: i64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RateError {
    #[error("no rate of the currency is known for the day")]
    Missing,
    #[error("the converted amount does not fit")]
    Overflow,
}

/// Units of one currency's minor unit per minor unit of another, exact and in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Factor {
    pub numerator: i128,
    pub denominator: i128,
}

impl Factor {
    pub const ONE: Self = Self {
        numerator: 1,
        denominator: 1,
    };

    fn of(numerator: i128, denominator: i128) -> Self {
        let divisor = greatest_common_divisor(numerator, denominator).max(1);
        Self {
            numerator: numerator / divisor,
            denominator: denominator / divisor,
        }
    }

    /// The amount converted, rounded up to the minor unit.
    pub fn up(self, amount_minor: i64) -> Result<i64, RateError> {
        self.divided(amount_minor, self.denominator - 1)
    }

    /// The largest amount that converts to no more than `amount_minor`.
    pub fn largest_within(self, amount_minor: i64) -> Result<i64, RateError> {
        Self {
            numerator: self.denominator,
            denominator: self.numerator,
        }
        .divided(amount_minor, 0)
    }

    fn divided(self, amount_minor: i64, add: i128) -> Result<i64, RateError> {
        // Nearly every limit is in the payment's currency; division of 128 bits is a routine.
        if self == Self::ONE {
            return Ok(amount_minor);
        }
        let exact = i128::from(amount_minor)
            .checked_mul(self.numerator)
            .and_then(|product| product.checked_add(add))
            .ok_or(RateError::Overflow)?;
        i64::try_from(exact.div_euclid(self.denominator)).map_err(|_| RateError::Overflow)
    }
}

/// Millionths of a soum per unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    soum_millionths: i128,
    nominal: i128,
}

/// Every stored rate.
#[derive(Debug, Default)]
pub struct Rates {
    by_currency: HashMap<String, BTreeMap<i64, Rate>>,
}

impl Rates {
    /// Adds a rate; `day` is counted from 1970-01-01. False when that day's is there already.
    pub fn add(&mut self, currency: &str, day: i64, soum_millionths: i128, nominal: i64) -> bool {
        let rate = Rate {
            soum_millionths,
            nominal: i128::from(nominal),
        };
        let days = self.by_currency.entry_ref(currency).or_default();
        days.insert(day, rate).is_none()
    }

    fn of(&self, currency: &str, day: i64) -> Result<Rate, RateError> {
        if currency == BASE {
            return Ok(Rate {
                soum_millionths: 1_000_000,
                nominal: 1,
            });
        }
        let days = self.by_currency.get(currency).ok_or(RateError::Missing)?;
        let (_, rate) = days
            .range(day - RATE_AGE_DAYS_MAX..=day)
            .next_back()
            .ok_or(RateError::Missing)?;
        Ok(*rate)
    }

    /// What one minor unit of `from` is in minor units of `to` on a day.
    pub fn factor(&self, from: &str, to: &str, day: i64) -> Result<Factor, RateError> {
        if from == to {
            return Ok(Factor::ONE);
        }
        let (source, target) = (self.of(from, day)?, self.of(to, day)?);
        let product = |parts: [i128; 3]| {
            parts
                .into_iter()
                .try_fold(1i128, i128::checked_mul)
                .ok_or(RateError::Overflow)
        };
        let numerator = [
            source.soum_millionths,
            target.nominal,
            10i128.pow(exponent(to)),
        ];
        let denominator = [
            target.soum_millionths,
            source.nominal,
            10i128.pow(exponent(from)),
        ];
        Ok(Factor::of(product(numerator)?, product(denominator)?))
    }
}

/// Reads `"12021.22"` as millionths of a soum; more than nothing.
pub fn parse_rate(text: &str) -> Option<i128> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole)
        || !digits(fraction)
        || whole.len() > WHOLE_DIGITS_MAX
        || fraction.len() > FRACTION_DIGITS_MAX
    {
        return None;
    }
    let padded = format!("{fraction:0<width$}", width = FRACTION_DIGITS_MAX);
    let millionths = whole.parse::<i128>().ok()? * 1_000_000 + padded.parse::<i128>().ok()?;
    (millionths > 0).then_some(millionths)
}

/// Digits after the point of a currency's minor unit (ISO 4217).
fn exponent(currency: &str) -> u32 {
    match currency {
        "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX"
        | "UYI" | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
        "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
        "CLF" | "UYW" => 4,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates() -> Rates {
        let mut rates = Rates::default();
        rates.add("USD", 100, parse_rate("12021.22").unwrap(), 1);
        rates.add("USD", 110, parse_rate("13000").unwrap(), 1);
        rates.add("JPY", 100, parse_rate("775.5").unwrap(), 10);
        rates
    }

    #[test]
    fn amounts_convert_by_the_days_rate_and_are_rounded_up() {
        for (from, to, day, amount, converted) in [
            ("UZS", "UZS", 1, 7, 7),
            ("USD", "UZS", 100, 100, 1_202_122),
            ("USD", "UZS", 109, 1, 12_022),
            ("USD", "UZS", 110, 1, 13_000),
            ("UZS", "USD", 110, 1_300_000, 100),
            ("UZS", "USD", 110, 1_300_001, 101),
            ("JPY", "UZS", 100, 10, 77_550),
            ("USD", "JPY", 100, 100, 156),
        ] {
            let factor = rates().factor(from, to, day).unwrap();
            assert_eq!(
                Ok(converted),
                factor.up(amount),
                "{from} {to} {day} {amount}"
            );
        }
    }

    #[test]
    fn a_rate_that_is_not_known_is_not_guessed() {
        for (currency, day) in [("EUR", 100), ("USD", 99), ("USD", 125)] {
            let factor = rates().factor(currency, "UZS", day);
            assert_eq!(Err(RateError::Missing), factor, "{currency} {day}");
        }
        assert!(rates().factor("USD", "UZS", 124).is_ok());
    }

    #[test]
    fn rates_are_decimal_text() {
        assert_eq!(Some(12_021_220_000), parse_rate("12021.22"));
        for bad in [
            "",
            "0",
            "0.0",
            "-1",
            "1e3",
            "1.",
            ".5",
            "1.1234567",
            "1234567890123",
        ] {
            assert_eq!(None, parse_rate(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn the_largest_within_is_within_and_largest(cap in 0i64..1_000_000_000_000, rate in 1i128..1_000_000_000_000) {
            let factor = Factor::of(rate, 1_000_000);
            let largest = factor.largest_within(cap).unwrap();
            prop_assert!(factor.up(largest).unwrap() <= cap);
            prop_assert!(factor.up(largest + 1).unwrap() > cap);
        }
    }
}
