//! The spans limits count over, as numbers.
//!
//! Asia/Tashkent is UTC+5 all year round; weeks begin on Monday.

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;
const TASHKENT_OFFSET_MS: i64 = 5 * HOUR_MS;

/// A rolling window is counted in sixtieths: what was taken is free again at most one of them late.
const ROLLING_PARTS: i64 = 60;
/// Parts kept behind the oldest that counts, for workers whose clocks differ.
const ROLLING_PARTS_SPARE: i64 = 4;
/// 60 seconds to 31 days.
pub const ROLLING_SECONDS: std::ops::RangeInclusive<u32> = 60..=31 * 86_400;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CalendarUnit {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// This payment alone.
    Operation,
    Calendar(CalendarUnit),
    /// Everything in `(t - seconds, t]`, in parts of a sixtieth.
    Rolling {
        seconds: u32,
    },
}

/// Where a moment falls in a window's numbering, and which numbers count then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub index: i64,
    pub counted_from: i64,
    pub counted_to: i64,
    /// Numbers below this can be forgotten.
    pub kept_from: i64,
}

impl Window {
    /// `None` for an operation window: nothing is counted.
    pub fn place(self, at_ms: i64) -> Option<Place> {
        match self {
            Self::Operation => None,
            Self::Calendar(unit) => {
                let index = unit.index(at_ms);
                Some(Place {
                    index,
                    counted_from: index,
                    counted_to: index,
                    // The one before is kept, for payments that end after their window did.
                    kept_from: index - 1,
                })
            }
            Self::Rolling { seconds } => {
                let part_ms = rolling_part_ms(seconds);
                // A part counts while its end lies after the window's beginning.
                let counted_from = (at_ms - i64::from(seconds) * 1_000).div_euclid(part_ms);
                Some(Place {
                    index: at_ms.div_euclid(part_ms),
                    counted_from,
                    counted_to: i64::MAX,
                    kept_from: counted_from - ROLLING_PARTS_SPARE,
                })
            }
        }
    }

    /// When what was taken in window `index` counts no longer, in Unix milliseconds.
    pub fn frees_at_ms(self, index: i64) -> Option<i64> {
        match self {
            Self::Operation => None,
            Self::Calendar(unit) => Some(unit.end_ms(index)),
            Self::Rolling { seconds } => {
                Some((index + 1) * rolling_part_ms(seconds) + i64::from(seconds) * 1_000)
            }
        }
    }

    /// `operation`, `hour` ... `year`, `rolling`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Operation => "operation",
            Self::Calendar(unit) => unit.name(),
            Self::Rolling { .. } => "rolling",
        }
    }
}

fn rolling_part_ms(seconds: u32) -> i64 {
    i64::from(seconds) * 1_000 / ROLLING_PARTS
}

impl CalendarUnit {
    pub const ALL: [Self; 5] = [Self::Hour, Self::Day, Self::Week, Self::Month, Self::Year];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// The number of the window that holds a moment; windows of one unit are numbered in order.
    pub fn index(self, at_ms: i64) -> i64 {
        let local_ms = at_ms + TASHKENT_OFFSET_MS;
        let day = local_ms.div_euclid(DAY_MS);
        match self {
            Self::Hour => local_ms.div_euclid(HOUR_MS),
            Self::Day => day,
            // Day 0 (1970-01-01) was a Thursday, so day -3 was a Monday.
            Self::Week => (day + 3).div_euclid(7),
            Self::Month => {
                let (year, month) = civil_from_day(day);
                year * 12 + month - 1
            }
            Self::Year => civil_from_day(day).0,
        }
    }

    /// When window `index` ends, in Unix milliseconds.
    pub fn end_ms(self, index: i64) -> i64 {
        let next = index + 1;
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

/// The number of the day in Tashkent that holds a moment, counted from 1970-01-01.
pub fn day(at_ms: i64) -> i64 {
    CalendarUnit::Day.index(at_ms)
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

/// A second as the calendar of UTC has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Civil {
    pub year: usize,
    /// From 1.
    pub month: usize,
    /// From 1.
    pub day: usize,
    /// From 0, a Thursday, as 1970-01-01 was.
    pub weekday: usize,
    pub hour: usize,
    pub minute: usize,
    pub second: usize,
}

/// The first and the last second of four digits of a year that began with 1970.
const FOUR_DIGITS_S: (i64, i64) = (0, 253_402_300_799);

/// A second of Unix time in UTC; one that is before 1970 or past 9999 is the nearest that is not.
pub fn civil_of_second(at_s: i64) -> Civil {
    let at_s = at_s.clamp(FOUR_DIGITS_S.0, FOUR_DIGITS_S.1);
    let (day, of_day) = (at_s / (DAY_MS / 1_000), at_s % (DAY_MS / 1_000));
    let (year, month) = civil_from_day(day);
    let whole = |number: i64| usize::try_from(number).unwrap_or(0);
    Civil {
        year: whole(year),
        month: whole(month),
        day: whole(day - day_from_civil(year, month) + 1),
        weekday: whole(day % 7),
        hour: whole(of_day / 3_600),
        minute: whole(of_day / 60 % 60),
        second: whole(of_day % 60),
    }
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

/// Unix milliseconds of an RFC 3339 time with an offset (`2026-11-01T00:00:00.5+05:00`); what is
/// finer than a millisecond is cut off.
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
    let fraction_length = match bytes.get(19) {
        Some(b'.') => text[20..].bytes().take_while(u8::is_ascii_digit).count(),
        _ => 0,
    };
    let (millisecond, offset_at) = match fraction_length {
        0 => (0, 19),
        1..=9 => {
            let digits = number(20..20 + fraction_length.min(3))?;
            let scale = [100, 10, 1][fraction_length.min(3) - 1];
            (digits * scale, 20 + fraction_length)
        }
        _ => return None,
    };
    let offset_minutes = match text.get(offset_at..)? {
        "Z" => 0,
        offset if offset.len() == 6 && offset.as_bytes()[3] == b':' => {
            let hours = number(offset_at + 1..offset_at + 3)?;
            let minutes = number(offset_at + 4..offset_at + 6)?;
            if hours > 23 || minutes > 59 {
                return None;
            }
            let minutes = hours * 60 + minutes;
            match bytes[offset_at] {
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
    let day = day_of_date(year, month, day)?;
    let local_s = day * 86_400 + hour * 3_600 + minute * 60 + second;
    Some((local_s - offset_minutes * 60) * 1_000 + millisecond)
}

/// The day number of a date that exists.
fn day_of_date(year: i64, month: i64, day: i64) -> Option<i64> {
    let first = day_from_civil(year, month);
    let next_first = day_from_civil(year + month / 12, month % 12 + 1);
    (day >= 1 && day <= next_first - first).then_some(first + day - 1)
}

/// The day number of `YYYY-MM-DD`, counted from 1970-01-01.
pub fn parse_date(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let is_date = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        });
    if !is_date {
        return None;
    }
    let (year, month): (i64, i64) = (text[..4].parse().ok()?, text[5..7].parse().ok()?);
    let day = text[8..].parse().ok()?;
    if year < 1 || !(1..=12).contains(&month) {
        return None;
    }
    day_of_date(year, month, day)
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

    fn end_of(unit: CalendarUnit) -> i64 {
        unit.end_ms(unit.index(MIDNIGHT))
    }

    #[test]
    fn a_day_changes_at_midnight_in_tashkent() {
        assert_eq!("2026-11-22T00:00:00.000+05:00", rfc3339(MIDNIGHT));
        let day = CalendarUnit::Day;
        assert_eq!(day.index(MIDNIGHT - 1) + 1, day.index(MIDNIGHT));
        assert_eq!(MIDNIGHT, day.end_ms(day.index(MIDNIGHT - 1)));
        assert_eq!(MIDNIGHT + DAY_MS, day.end_ms(day.index(MIDNIGHT)));
    }

    #[test]
    fn weeks_begin_on_monday_and_months_on_the_first() {
        assert_eq!(
            "2026-11-23T00:00:00.000+05:00",
            rfc3339(end_of(CalendarUnit::Week))
        );
        assert_eq!(
            "2026-12-01T00:00:00.000+05:00",
            rfc3339(end_of(CalendarUnit::Month))
        );
        assert_eq!(
            "2027-01-01T00:00:00.000+05:00",
            rfc3339(end_of(CalendarUnit::Year))
        );
        assert_eq!("2024-02-29T05:00:00.000+05:00", rfc3339(1_709_164_800_000));
    }

    #[test]
    fn times_with_an_offset_are_read_and_impossible_ones_refused() {
        assert_eq!(Some(MIDNIGHT), parse_rfc3339("2026-11-22T00:00:00+05:00"));
        assert_eq!(Some(MIDNIGHT), parse_rfc3339("2026-11-21T19:00:00Z"));
        for (fraction, milliseconds) in [("5", 500), ("05", 50), ("999", 999), ("123999999", 123)] {
            let text = format!("2026-11-22T00:00:00.{fraction}+05:00");
            assert_eq!(
                Some(MIDNIGHT + milliseconds),
                parse_rfc3339(&text),
                "{text}"
            );
        }
        assert_eq!(Some(day(MIDNIGHT)), parse_date("2026-11-22"));
        for bad in [
            "2026-02-29",
            "2026-13-01",
            "2026-1-01",
            "0000-01-01",
            "2026-11-22T",
            "",
        ] {
            assert_eq!(None, parse_date(bad), "{bad}");
        }
        for bad in [
            "2026-02-29T00:00:00Z",
            "2026-11-22T24:00:00Z",
            "2026-11-22T00:00:00",
            "0000-01-01T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-22",
            "2026-11-22T00:00:00.Z",
            "2026-11-22T00:00:00.1234567890Z",
            "2026-11-22T00:00:00+24:00",
            "2026-11-22T00:00:00+05:60",
            "2026-11-22T00:00:00+0500",
            "",
        ] {
            assert_eq!(None, parse_rfc3339(bad), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_lies_in_the_window_that_resets_after_it(at in 0i64..7_000_000_000_000) {
            for unit in CalendarUnit::ALL {
                let end = unit.end_ms(unit.index(at));
                prop_assert!(end > at);
                prop_assert_eq!(unit.index(end - 1), unit.index(at));
                prop_assert_eq!(unit.index(end), unit.index(at) + 1);
            }
        }

        /// Never generous, and never stingy by more than a sixtieth.
        #[test]
        fn a_rolling_window_counts_what_it_must_and_frees_in_time(
            seconds in ROLLING_SECONDS, taken in 0i64..7_000_000_000_000, later in 0i64..3_000_000_000
        ) {
            let window = Window::Rolling { seconds };
            let index = window.place(taken).unwrap().index;
            let at = taken + later;
            let place = window.place(at).unwrap();
            let counts = (place.counted_from..=place.counted_to).contains(&index);
            let window_ms = i64::from(seconds) * 1_000;
            if taken > at - window_ms {
                prop_assert!(counts);
            }
            if at >= taken + window_ms + window_ms / 60 {
                prop_assert!(!counts);
            }
            prop_assert_eq!(counts, at < window.frees_at_ms(index).unwrap());
        }
    }
}
