//! What can be wrong with a message. Names where and what, never the value: a field may hold a PAN.

use std::fmt;

/// Where in a message a fault is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Dialect,
    Message,
    Mti,
    Bitmap,
    SecondaryBitmap,
    Field(u8),
    FieldLength(u8),
}

impl fmt::Display for Path {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Dialect => out.write_str("dialect"),
            Path::Message => out.write_str("message"),
            Path::Mti => out.write_str("mti"),
            Path::Bitmap => out.write_str("bitmap"),
            Path::SecondaryBitmap => out.write_str("bitmap.secondary"),
            Path::Field(number) => write!(out, "F{number}"),
            Path::FieldLength(number) => write!(out, "F{number}.length"),
        }
    }
}

/// What is wrong there. Counts are lengths, which tell nothing of a value's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("is not known")]
    Unknown,
    #[error("is not defined in this dialect")]
    Undefined,
    #[error("needs {needed} bytes, {left} are left")]
    Short { needed: usize, left: usize },
    #[error("{excess} bytes follow the last field")]
    Trailing { excess: usize },
    #[error("must be {width} long, is {length}")]
    Width { width: usize, length: usize },
    #[error("must be at most {max} long, is {length}")]
    TooLong { max: usize, length: usize },
    #[error("is empty")]
    Empty,
    #[error("has a character that is not a decimal digit")]
    NotDigits,
    #[error("has a filler that is not zero")]
    Filler,
    #[error("has a character that is not printable ASCII")]
    NotPrintable,
    #[error("must be text")]
    NotText,
    #[error("must be bytes")]
    NotBytes,
    #[error("is not in ascending order or is given twice")]
    Order,
}

/// A message that does not fit its specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {fault}")]
pub struct Iso8583Error {
    pub path: Path,
    pub fault: Fault,
}

impl Iso8583Error {
    pub(super) fn new(path: Path, fault: Fault) -> Self {
        Self { path, fault }
    }
}
