//! `gateway._core`: conversions between Python and the engine. It holds no rules.

mod core;
mod http;
mod iso8583;
mod rules;
mod tally;

use pyo3::prelude::*;

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    core::register(module)?;
    http::register(module)?;
    iso8583::register(module)?;
    rules::register(module)?;
    tally::register(module)
}
