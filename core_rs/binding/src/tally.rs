//! The face of what is counted. An observation stays attached to the interpreter: it is shorter than
//! letting go of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use oqim_engine::tally;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::core::value_error;

/// A number that only grows.
#[pyclass(frozen, module = "gateway._core")]
struct Counter {
    inner: AtomicU64,
}

#[pymethods]
impl Counter {
    #[new]
    fn new() -> Self {
        Self {
            inner: AtomicU64::new(0),
        }
    }

    #[pyo3(signature = (amount = 1))]
    fn add(&self, amount: u64) {
        self.inner.fetch_add(amount, Relaxed);
    }

    #[getter]
    fn value(&self) -> u64 {
        self.inner.load(Relaxed)
    }
}

/// How many values were at most each bound, and the sum of all.
#[pyclass(frozen, module = "gateway._core")]
struct Histogram {
    inner: tally::Histogram,
}

#[pymethods]
impl Histogram {
    #[new]
    fn new(bounds: Vec<f64>) -> PyResult<Self> {
        let inner = tally::Histogram::new(&bounds).map_err(value_error)?;
        Ok(Self { inner })
    }

    fn observe(&self, value: f64) {
        self.inner.observe(value);
    }

    fn read(&self) -> (Vec<u64>, f64) {
        self.inner.read()
    }
}

/// The answers of one route: how many of each status, and how many seconds they took.
#[pyclass(frozen, module = "gateway._core")]
struct Answers {
    inner: tally::Answers,
}

#[pymethods]
impl Answers {
    #[new]
    fn new(bounds: Vec<f64>) -> PyResult<Self> {
        let inner = tally::Answers::new(&bounds).map_err(value_error)?;
        Ok(Self { inner })
    }

    fn observe(&self, status: u16, seconds: f64) -> PyResult<()> {
        if self.inner.observe(status, seconds) {
            return Ok(());
        }
        Err(PyValueError::new_err("a status is 100 to 599"))
    }

    fn statuses(&self) -> Vec<(u16, u64)> {
        self.inner.statuses()
    }

    fn seconds(&self) -> (Vec<u64>, f64) {
        self.inner.seconds().read()
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Counter>()?;
    module.add_class::<Histogram>()?;
    module.add_class::<Answers>()
}
