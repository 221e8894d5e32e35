//! What is counted while the gateway works: counters, and histograms whose buckets are fixed.
//!
//! An observation is two or three relaxed additions: no lock, no allocation, no clock. Whoever reads
//! meanwhile may find one observation in a bucket and not yet in the sum; the next reading has it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// More buckets than this are refused: each is a line of every scrape.
pub const BOUNDS_MAX: usize = 32;
/// The lowest and the highest status of an answer (RFC 9110, section 15).
pub const STATUS_MIN: u16 = 100;
pub const STATUS_MAX: u16 = 599;

const STATUSES: usize = (STATUS_MAX - STATUS_MIN + 1) as usize;
/// Values are kept in millionths, so that a sum of fractions of a second is an integer.
const MILLION: f64 = 1e6;

/// Why buckets cannot be what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bounds are 1 to {BOUNDS_MAX} numbers, each positive and above the one before")]
pub struct BadBounds;

/// How many values were at most each bound, and the sum of all.
pub struct Histogram {
    bounds: Box<[u64]>,
    /// One a bound, and one for what is above them all.
    buckets: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl Histogram {
    /// `bounds` are the highest values of the buckets, in the unit of what is observed.
    pub fn new(bounds: &[f64]) -> Result<Self, BadBounds> {
        if bounds.is_empty() || bounds.len() > BOUNDS_MAX {
            return Err(BadBounds);
        }
        let millionths: Box<[u64]> = bounds.iter().map(|bound| millionths(*bound)).collect();
        let ascend = millionths.windows(2).all(|pair| pair[0] < pair[1]);
        let finite = bounds.iter().all(|bound| bound.is_finite());
        if !ascend || !finite || millionths[0] == 0 {
            return Err(BadBounds);
        }
        let buckets = (0..=millionths.len()).map(|_| AtomicU64::new(0)).collect();
        Ok(Self {
            bounds: millionths,
            buckets,
            sum: AtomicU64::new(0),
        })
    }

    /// Counts one value; what is negative or no number is zero.
    pub fn observe(&self, value: f64) {
        let value = millionths(value);
        let at = self.bounds.partition_point(|bound| *bound < value);
        self.buckets[at].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    /// The number in each bucket, the last above all bounds, and the sum of all values.
    pub fn read(&self) -> (Vec<u64>, f64) {
        let buckets = self.buckets.iter().map(|one| one.load(Relaxed)).collect();
        (buckets, self.sum.load(Relaxed) as f64 / MILLION)
    }
}

/// The answers of one route: how many of each status, and how long they took.
pub struct Answers {
    statuses: Box<[AtomicU64; STATUSES]>,
    seconds: Histogram,
}

impl Answers {
    /// `bounds` are the seconds' buckets.
    pub fn new(bounds: &[f64]) -> Result<Self, BadBounds> {
        Ok(Self {
            statuses: Box::new([const { AtomicU64::new(0) }; STATUSES]),
            seconds: Histogram::new(bounds)?,
        })
    }

    /// Counts one answer. False, and nothing is counted: there is no such status.
    #[must_use]
    pub fn observe(&self, status: u16, seconds: f64) -> bool {
        let at = usize::from(status).wrapping_sub(usize::from(STATUS_MIN));
        let Some(slot) = self.statuses.get(at) else {
            return false;
        };
        slot.fetch_add(1, Relaxed);
        self.seconds.observe(seconds);
        true
    }

    /// Each status that was answered, with how often.
    pub fn statuses(&self) -> Vec<(u16, u64)> {
        (STATUS_MIN..=STATUS_MAX)
            .zip(self.statuses.iter().map(|one| one.load(Relaxed)))
            .filter(|(_, number)| *number > 0)
            .collect()
    }

    /// How long they took.
    pub fn seconds(&self) -> &Histogram {
        &self.seconds
    }
}

/// The cast keeps within u64, and makes zero of what is no number.
fn millionths(value: f64) -> u64 {
    (value * MILLION).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_value_at_a_bound_is_in_its_bucket() {
        let histogram = Histogram::new(&[0.001, 0.5, 10.0]).unwrap();
        for value in [0.0, 0.001, 0.001_001, 0.5, 9.99, 10.0, 10.000_001, 1e9] {
            histogram.observe(value);
        }
        let (buckets, sum) = histogram.read();
        assert_eq!(vec![2, 2, 2, 2], buckets);
        assert!((sum - 1_000_000_030.492_002).abs() < 1e-3, "{sum}");
    }

    #[test]
    fn what_is_no_duration_is_none() {
        let histogram = Histogram::new(&[1.0]).unwrap();
        for value in [-1.0, f64::NAN, f64::NEG_INFINITY, -0.0] {
            histogram.observe(value);
        }
        assert_eq!((vec![4, 0], 0.0), histogram.read());
        histogram.observe(f64::INFINITY);
        assert_eq!(vec![4, 1], histogram.read().0);
    }

    #[test]
    fn bounds_ascend_from_above_zero() {
        let long: Vec<f64> = (1..=33).map(f64::from).collect();
        let cases: [&[f64]; 8] = [
            &[],
            &[0.0],
            &[-1.0, 1.0],
            &[1.0, 1.0],
            &[2.0, 1.0],
            &[1.0, f64::INFINITY],
            &[f64::NAN],
            &long,
        ];
        for bounds in cases {
            assert_eq!(Some(BadBounds), Histogram::new(bounds).err(), "{bounds:?}");
        }
        assert!(Histogram::new(&long[..BOUNDS_MAX]).is_ok());
    }

    #[test]
    fn answers_are_told_by_status() {
        let answers = Answers::new(&[0.1]).unwrap();
        for status in [200, 503, 200, STATUS_MIN, STATUS_MAX] {
            assert!(answers.observe(status, 0.05));
        }
        for status in [0, STATUS_MIN - 1, STATUS_MAX + 1, u16::MAX] {
            assert!(!answers.observe(status, 0.05));
        }
        let told = vec![(100, 1), (200, 2), (503, 1), (599, 1)];
        assert_eq!(told, answers.statuses());
        assert_eq!((vec![5, 0], 0.25), answers.seconds().read());
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let histogram = Histogram::new(&[1.0, 2.0]).unwrap();
        thread::scope(|scope| {
            for value in [0.5, 1.5, 2.5, 0.5] {
                let histogram = &histogram;
                scope.spawn(move || (0..10_000).for_each(|_| histogram.observe(value)));
            }
        });
        assert_eq!((vec![20_000, 10_000, 10_000], 50_000.0), histogram.read());
    }
}
