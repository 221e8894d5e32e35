//! The face of plain requests and of their answers: bytes in, Python's own objects out, and back.

use oqim_engine::answer::{self, Own};
use oqim_engine::plain::{self, Header, Read};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::core::value_error;

/// A whole request after its first line.
#[pyclass(frozen, module = "gateway._core")]
struct Plain {
    /// Pairs of name and value, as they were sent.
    #[pyo3(get)]
    headers: Py<PyTuple>,
    /// The same values by their names in lower case.
    #[pyo3(get)]
    named: Py<PyDict>,
    #[pyo3(get)]
    body: Py<PyBytes>,
}

/// What else can be told of bytes that begin with a first line that is known.
#[pyclass(frozen, eq, module = "gateway._core")]
#[derive(Clone, Copy, PartialEq)]
enum Told {
    #[pyo3(name = "UNFINISHED")]
    Unfinished,
    #[pyo3(name = "STRANGE")]
    Strange,
}

fn whole(py: Python<'_>, headers: &[Header<'_>], body: &[u8]) -> PyResult<Plain> {
    let named = PyDict::new(py);
    let mut pairs = Vec::with_capacity(headers.len());
    for header in headers {
        let value = PyBytes::new(py, header.value);
        named.set_item(PyBytes::new(py, &header.lower), &value)?;
        pairs.push((PyBytes::new(py, header.name), value).into_pyobject(py)?);
    }
    Ok(Plain {
        headers: PyTuple::new(py, pairs)?.unbind(),
        named: named.unbind(),
        body: PyBytes::new(py, body).unbind(),
    })
}

/// Read what follows a request's first line: a Plain, or Told.
#[pyfunction]
fn read_plain(
    py: Python<'_>,
    data: &[u8],
    line_ends_at: usize,
    body_bytes_max: usize,
) -> PyResult<Py<PyAny>> {
    match plain::read(data, line_ends_at, body_bytes_max) {
        Read::Whole { headers, body } => Ok(Py::new(py, whole(py, &headers, body)?)?.into_any()),
        Read::Unfinished => Ok(Py::new(py, Told::Unfinished)?.into_any()),
        Read::Strange => Ok(Py::new(py, Told::Strange)?.into_any()),
    }
}

/// Writes answers as bytes for a socket; the connection stays open.
#[pyclass(frozen, module = "gateway._core")]
struct RawAnswers {
    inner: answer::Answers,
}

#[pymethods]
impl RawAnswers {
    #[new]
    fn new(every: Vec<(String, String)>) -> PyResult<Self> {
        let inner = answer::Answers::new(every).map_err(value_error)?;
        Ok(Self { inner })
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "an answer's parts, each of another kind"
    )]
    fn write<'py>(
        &self,
        py: Python<'py>,
        status: u16,
        reason: &str,
        content_type: &str,
        request_id: &str,
        headers: Vec<(PyBackedStr, PyBackedStr)>,
        body: &[u8],
        at_s: i64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let headers: Vec<(&str, &str)> = headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        let own = Own {
            status,
            reason,
            content_type,
            request_id,
            headers: &headers,
            body,
        };
        let bytes = self.inner.write(own, at_s).map_err(value_error)?;
        Ok(PyBytes::new(py, &bytes))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("HEADERS_MAX", plain::HEADERS_MAX)?;
    module.add_class::<Plain>()?;
    module.add_class::<RawAnswers>()?;
    module.add_class::<Told>()?;
    module.add_function(wrap_pyfunction!(read_plain, module)?)
}
