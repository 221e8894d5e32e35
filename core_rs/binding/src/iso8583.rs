//! Python face of the ISO 8583 codec: `Iso8583(dialect).pack(...)` and `.unpack(...)`.

use oqim_engine::iso8583::{Dialect, Fault, Packer, Path, Unpacker, Value};
use pyo3::create_exception;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};

create_exception!(
    gateway._core,
    Iso8583Error,
    PyValueError,
    "A message that does not fit its specification: names the field's path, never its value."
);

fn fault(error: oqim_engine::iso8583::Iso8583Error) -> PyErr {
    Iso8583Error::new_err(error.to_string())
}

/// The codec of one dialect. Holds nothing but the dialect and may be shared by threads.
#[pyclass(frozen, module = "gateway._core")]
pub struct Iso8583 {
    dialect: &'static Dialect,
}

#[pymethods]
impl Iso8583 {
    #[new]
    fn new(dialect: &str) -> PyResult<Self> {
        let unknown = || oqim_engine::iso8583::Iso8583Error {
            path: Path::Dialect,
            fault: Fault::Unknown,
        };
        let dialect = Dialect::named(dialect).ok_or_else(|| fault(unknown()))?;
        Ok(Self { dialect })
    }

    /// Return MTI, bitmaps and fields of one message. Raises Iso8583Error.
    fn pack<'py>(
        &self,
        py: Python<'py>,
        mti: &str,
        fields: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let mut sorted: Vec<(u8, Bound<'py, PyAny>)> = Vec::with_capacity(fields.len());
        for (number, value) in fields.iter() {
            // A number past 255 has no path of its own to name.
            let number: u8 = number.extract().map_err(|_| {
                Iso8583Error::new_err("fields: a field number is not an integer of 2 to 128")
            })?;
            sorted.push((number, value));
        }
        sorted.sort_unstable_by_key(|(number, _)| *number);
        let mut packer = Packer::new(self.dialect, mti).map_err(fault)?;
        for (number, value) in &sorted {
            if let Ok(text) = value.cast::<PyString>() {
                let text = text.to_str().map_err(|_| {
                    Iso8583Error::new_err(format!("F{number}: {}", Fault::NotPrintable))
                })?;
                packer.push(*number, Value::Text(text)).map_err(fault)?;
            } else if let Ok(bytes) = value.cast::<PyBytes>() {
                packer
                    .push(*number, Value::Bytes(bytes.as_bytes()))
                    .map_err(fault)?;
            } else {
                return Err(PyTypeError::new_err(format!(
                    "F{number}: must be str or bytes"
                )));
            }
        }
        Ok(packer.finish(|message| PyBytes::new(py, message)))
    }

    /// Return MTI and fields of one whole message. Raises Iso8583Error, also on trailing bytes.
    fn unpack<'py>(
        &self,
        py: Python<'py>,
        message: &[u8],
    ) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyDict>)> {
        let mut unpacker = Unpacker::new(self.dialect, message).map_err(fault)?;
        let mti = PyString::new(py, unpacker.mti());
        let fields = PyDict::new(py);
        while let Some((number, value)) = unpacker.next_field().map_err(fault)? {
            match value {
                Value::Text(text) => fields.set_item(number, text)?,
                Value::Bytes(bytes) => fields.set_item(number, PyBytes::new(py, bytes))?,
            }
        }
        Ok((mti, fields))
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Iso8583>()?;
    module.add("Iso8583Error", module.py().get_type::<Iso8583Error>())
}
