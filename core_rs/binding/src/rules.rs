//! The face of the rules by themselves: reading them, deciding a history, replaying decisions.

use std::sync::Arc;

use oqim_engine::decide;
use oqim_engine::explain;
use oqim_engine::record::{Change, Record};
use oqim_engine::rules;
use oqim_engine::simulate::{self, Happened};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyBytes;
use pyo3::IntoPyObjectExt as _;

use crate::core::{guarded, value_error};

/// Commission plans, limit policies and rates, read and consistent; never changes.
#[pyclass(frozen, module = "gateway._core")]
pub struct RuleSet {
    pub inner: Arc<rules::RuleSet>,
}

/// `None`: it ended. `(captured,)`: it was captured. `(captured, before, after)`: refunds moved.
pub fn change_of(amounts: Option<&[i64]>) -> PyResult<Change> {
    match amounts {
        None => Ok(Change::Ended),
        Some([amount]) => Ok(Change::Captured { amount: *amount }),
        Some([captured, before, after]) => Ok(Change::Refunded {
            captured: *captured,
            before: *before,
            after: *after,
        }),
        Some(_) => Err(PyValueError::new_err("a change has one amount or three")),
    }
}

/// Reads `{"commission_plans": [...], "limit_policies": [...], "rates": [...]}`; the set, or
/// `[(pointer, sentence), ...]` of everything that is wrong.
#[pyfunction]
fn read_rules(py: Python<'_>, text: PyBackedBytes) -> PyResult<Py<PyAny>> {
    match py.detach(|| guarded(|| rules::read(&text)))? {
        Ok(set) => RuleSet {
            inner: Arc::new(set),
        }
        .into_py_any(py),
        Err(faults) => {
            let faults = faults.into_iter();
            let pairs: Vec<(String, String)> =
                faults.map(|fault| (fault.pointer, fault.detail)).collect();
            pairs.into_py_any(py)
        }
    }
}

/// A stored decision as JSON. Raises ValueError when it cannot be read.
#[pyfunction]
fn record_json<'py>(py: Python<'py>, record: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let record = Record::read(record).map_err(value_error)?;
    let told = guarded(|| explain::json(&record))?;
    Ok(PyBytes::new(py, &told))
}

/// Decides dated histories by the rules alone.
#[pyclass(module = "gateway._core")]
pub struct Decider {
    inner: decide::Decider,
}

#[pymethods]
impl Decider {
    /// Raises ValueError that names everything wrong with the rules.
    #[new]
    fn new(py: Python<'_>, rules: PyBackedBytes) -> PyResult<Self> {
        let set = py
            .detach(|| guarded(|| rules::read(&rules)))?
            .map_err(|faults| {
                let faults = faults.iter();
                let told: Vec<String> = faults
                    .map(|fault| format!("{}: {}", fault.pointer, fault.detail))
                    .collect();
                PyValueError::new_err(told.join("\n"))
            })?;
        Ok(Self {
            inner: decide::Decider::new(Arc::new(set)),
        })
    }

    /// Decides whole lines. Raises ValueError of `(message, output of the lines before)`.
    fn feed<'py>(
        &mut self,
        py: Python<'py>,
        lines: PyBackedBytes,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut out = String::with_capacity(lines.len() * 2);
        let fed = py.detach(|| guarded(|| self.inner.feed(&lines, &mut out)))?;
        let out = PyBytes::new(py, out.as_bytes());
        match fed {
            Ok(()) => Ok(out),
            Err(error) => Err(PyValueError::new_err((error.to_string(), out.unbind()))),
        }
    }
}

/// A replay of recorded decisions against a draft of the rules.
#[pyclass(module = "gateway._core")]
#[derive(Default)]
pub struct Simulation {
    inner: simulate::Simulation,
}

/// `(kind, id, record, before, after, text)`: the text of a decision is its commission lines, of a
/// refund the amount captured.
type Event = (
    PyBackedStr,
    PyBackedStr,
    PyBackedBytes,
    i64,
    i64,
    PyBackedStr,
);

fn happened((kind, id, record, before, after, lines): &Event) -> PyResult<Happened<'_>> {
    let change = match &**kind {
        "decision" => return Ok(Happened::Decision { id, record, lines }),
        "end" if *after == 0 => Change::Ended,
        "end" => Change::Captured { amount: *after },
        "refund" => {
            let captured = lines.parse();
            Change::Refunded {
                captured: captured
                    .map_err(|_| PyValueError::new_err("a refund says what was captured"))?,
                before: *before,
                after: *after,
            }
        }
        _ => {
            return Err(PyValueError::new_err(
                "kind must be decision, end or refund",
            ))
        }
    };
    Ok(Happened::Change { id, record, change })
}

#[pymethods]
impl Simulation {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Gives the set that decisions of a generation are made again by.
    #[pyo3(name = "use")]
    fn use_rules(&mut self, generation: u64, rules: &RuleSet) {
        self.inner.use_rules(generation, Arc::clone(&rules.inner));
    }

    /// Replays a batch, in order of time. Raises ValueError for what cannot be replayed.
    fn feed(&mut self, py: Python<'_>, events: Vec<Event>) -> PyResult<()> {
        let happened = events.iter().map(happened).collect::<PyResult<Vec<_>>>()?;
        py.detach(|| {
            happened
                .into_iter()
                .try_for_each(|one| self.inner.feed(one))
        })
        .map_err(value_error)
    }

    /// What differs so far, as JSON.
    fn report<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.inner.report())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<RuleSet>()?;
    module.add_class::<Decider>()?;
    module.add_class::<Simulation>()?;
    module.add_function(wrap_pyfunction!(read_rules, module)?)?;
    module.add_function(wrap_pyfunction!(record_json, module)?)
}
