//! The spans limits count over, as numbers.
//!
//! Asia/Tashkent is UTC+5 all year round; weeks begin on Monday.

use serde::{Deserialize, Serialize};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const TASHKENT_OFFSET_MS: i64 = 5 * HOUR_MS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarUnit {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Window {
    /// This payment alone.
    Operation {},
    Calendar {
        unit: CalendarUnit,
    },
}

impl CalendarUnit {
    /// The number of the window that holds a moment; windows of one unit are numbered in order.
    pub fn index(self, at_ms: i64) -> i32 {
        let local_ms = at_ms + TASHKENT_OFFSET_MS;
        let day = local_ms.div_euclid(DAY_MS);
        let index = match self {
            Self::Hour => local_ms.div_euclid(HOUR_MS),
            Self::Day => day,
            // Day 0 (1970-01-01) was a Thursday, so day -3 was a Monday.
            Self::Week => (day + 3).div_euclid(7),
            Self::Month => {
                let (year, month) = civil_from_day(day);
                year * 12 + month - 1
            }
            Self::Year => civil_from_day(day).0,
        };
        i32::try_from(index).unwrap_or(i32::MAX)
    }

    /// When the window after the one that holds `at_ms` begins, in Unix milliseconds.
    pub fn resets_at_ms(self, at_ms: i64) -> i64 {
        let next = i64::from(self.index(at_ms)) + 1;
        let local_ms = match self {
            Self::Hour => next * HOUR_MS,
            Self::Day => next * DAY_MS,
            Self::Week => (next * 7 - 3) * DAY_MS,
            Self::Month => day_from_civil(next.div_euclid(12), next.rem_euclid(12) + 1) * DAY_MS,
            Self::Year => day_from_civil(next, 1) * DAY_MS,
        };
        local_ms - TASHKENT_OFFSET_MS
    }
}

/// Days in the 400-year cycle of the Gregorian calendar, and from 0000-03-01 to 1970-01-01.
const CYCLE_DAYS: i64 = 146_097;
const EPOCH_FROM_MARCH_ZERO: i64 = 719_468;

/// (year, month 1..12) of a day counted from 1970-01-01, counting years from March so that the
/// leap day comes last.
fn civil_from_day(day: i64) -> (i64, i64) {
    let shifted = day + EPOCH_FROM_MARCH_ZERO;
    let cycle = shifted.div_euclid(CYCLE_DAYS);
    let day_of_cycle = shifted.rem_euclid(CYCLE_DAYS);
    let year_of_cycle = (day_of_cycle - day_of_cycle / 1_460 + day_of_cycle / 36_524
        - day_of_cycle / (CYCLE_DAYS - 1))
        / 365;
    let day_of_year =
        day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
    (year, month)
}

/// The day number of the first of a month.
fn day_from_civil(year: i64, month: i64) -> i64 {
    let year_from_march = year - i64::from(month <= 2);
    let cycle = year_from_march.div_euclid(400);
    let year_of_cycle = year_from_march.rem_euclid(400);
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5;
    let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    cycle * CYCLE_DAYS + day_of_cycle - EPOCH_FROM_MARCH_ZERO
}

/// RFC 3339 in Asia/Tashkent, to the millisecond.
pub fn rfc3339(at_ms: i64) -> String {
    let local_ms = at_ms + TASHKENT_OFFSET_MS;
    let day = local_ms.div_euclid(DAY_MS);
    let of_day = local_ms.rem_euclid(DAY_MS);
    let (year, month) = civil_from_day(day);
    let day_of_month = day - day_from_civil(year, month) + 1;
    format!(
        "{year:04}-{month:02}-{day_of_month:02}T{:02}:{:02}:{:02}.{:03}+05:00",
        of_day / HOUR_MS,
        of_day / 60_000 % 60,
        of_day / 1_000 % 60,
        of_day % 1_000
    )
}

/// Unix milliseconds of an RFC 3339 time with an offset (`2026-11-01T00:00:00+05:00`).
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| digits.parse().ok())?
    };
    let separators = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')];
    let bytes = text.as_bytes();
    if separators
        .iter()
        .any(|(at, expected)| bytes.get(*at) != Some(expected))
    {
        return None;
    }
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    let offset_minutes = match text.get(19..)? {
        "Z" => 0,
        offset if offset.len() == 6 && bytes[22] == b':' => {
            let minutes = number(20..22)? * 60 + number(23..25)?;
            match bytes[19] {
                b'+' => minutes,
                b'-' => -minutes,
                _ => return None,
            }
        }
        _ => return None,
    };
    let in_range =
        year >= 1 && (1..=12).contains(&month) && hour < 24 && minute < 60 && second < 60;
    if !in_range {
        return None;
    }
    let first = day_from_civil(year, month);
    let next_first = day_from_civil(year + month / 12, month % 12 + 1);
    if day < 1 || day > next_first - first {
        return None;
    }
    let local_s = (first + day - 1) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some((local_s - offset_minutes * 60) * 1_000)
}

/// (year, month) in Tashkent: what a card's expiry is compared with.
pub fn year_month(at_ms: i64) -> (i64, i64) {
    civil_from_day((at_ms + TASHKENT_OFFSET_MS).div_euclid(DAY_MS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // 2026-11-21T19:00:00Z is midnight of 22 November in Tashkent, a Sunday.
    const MIDNIGHT: i64 = 1_795_287_600_000;

    #[test]
    fn a_day_changes_at_midnight_in_tashkent() {
        assert_eq!("2026-11-22T00:00:00.000+05:00", rfc3339(MIDNIGHT));
        let day = CalendarUnit::Day;
        assert_eq!(day.index(MIDNIGHT - 1) + 1, day.index(MIDNIGHT));
        assert_eq!(MIDNIGHT, day.resets_at_ms(MIDNIGHT - 1));
        assert_eq!(MIDNIGHT + DAY_MS, day.resets_at_ms(MIDNIGHT));
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        assert_eq!(
            "2026-11-23T00:00:00.000+05:00",
            rfc3339(CalendarUnit::Week.resets_at_ms(MIDNIGHT))
        );
        assert_eq!(
            "2026-12-01T00:00:00.000+05:00",
            rfc3339(CalendarUnit::Month.resets_at_ms(MIDNIGHT))
        );
        assert_eq!(
            "2027-01-01T00:00:00.000+05:00",
            rfc3339(CalendarUnit::Year.resets_at_ms(MIDNIGHT))
        );
        assert_eq!("2024-02-29T05:00:00.000+05:00", rfc3339(1_709_164_800_000));
    }

    #[test]
    fn times_with_an_offset_are_read_and_impossible_ones_refused() {
        assert_eq!(Some(MIDNIGHT), parse_rfc3339("2026-11-22T00:00:00+05:00"));
        assert_eq!(Some(MIDNIGHT), parse_rfc3339("2026-11-21T19:00:00Z"));
        for bad in [
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:00:00",
            "0000-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22",
            "",
        ] {
            assert_eq!(None, parse_rfc3339(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_the_window_that_resets_after_it(at in 0i64..7_000_000_000_000) {
            for unit in [CalendarUnit::Hour, CalendarUnit::Day, CalendarUnit::Week,
                         CalendarUnit::Month, CalendarUnit::Year] {
                let end = unit.resets_at_ms(at);
                prop_assert!(end > at);
                prop_assert_eq!(unit.index(end - 1), unit.index(at));
                prop_assert_eq!(unit.index(end), unit.index(at) + 1);
            }
        }
    }
}
