//! ISO 8583:1987 codec: MTI, bitmaps and fields of one whole message, and back.
//!
//! Owns the layout only: what fields mean is the connector's. Keeps nothing, panics on no input and
//! puts no value into an error. Widths are exact both ways: a fixed field is given and returned at
//! its full width (leading zeros of a number, trailing spaces of a text), so that unpacking what was
//! packed, and packing what was unpacked, changes nothing.

mod encoding;
mod error;
mod spec;

#[cfg(test)]
mod tests;

pub use error::{Fault, Iso8583Error, Path};
pub use spec::{Dialect, Encoding, Field, Filler, Length, FIELD_MAX};

/// A field's value: digits or printable ASCII, or bytes for a binary field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    Text(&'a str),
    Bytes(&'a [u8]),
}

/// Room for MTI (2) and both bitmaps (16) in front of the fields.
const HEAD: usize = 18;
/// A length byte counts at most 255, packed digits rounded up to pairs.
const SCRATCH: usize = 256;

fn bytes_of(encoding: Encoding, count: usize) -> usize {
    match encoding {
        Encoding::Bcd(_) => count.div_ceil(2),
        Encoding::Ebcdic | Encoding::Binary => count,
    }
}

/// Builds one message, field by field in ascending order.
pub struct Packer {
    dialect: &'static Dialect,
    buffer: Vec<u8>,
    bits: u128,
    last: u8,
}

impl Packer {
    /// Start a message of that type: four decimal digits.
    pub fn new(dialect: &'static Dialect, mti: &str) -> Result<Self, Iso8583Error> {
        let fail = |fault| Iso8583Error::new(Path::Mti, fault);
        let digits = mti.as_bytes();
        if digits.len() != 4 {
            return Err(fail(Fault::Width {
                width: 4,
                length: digits.len(),
            }));
        }
        let mut packed = Vec::with_capacity(2);
        encoding::pack_digits(digits, Filler::Left, &mut packed).map_err(fail)?;
        let mut buffer = Vec::with_capacity(HEAD + 238);
        buffer.resize(HEAD, 0);
        buffer[..2].copy_from_slice(&packed);
        Ok(Self {
            dialect,
            buffer,
            bits: 0,
            last: 1,
        })
    }

    /// Append a field. Numbers must ascend; widths of fixed fields must be exact. A field that is
    /// refused leaves the message as it was.
    pub fn push(&mut self, number: u8, value: Value<'_>) -> Result<(), Iso8583Error> {
        let fail = |fault| Iso8583Error::new(Path::Field(number), fault);
        let field = *self
            .dialect
            .field(number)
            .ok_or_else(|| fail(Fault::Undefined))?;
        if number <= self.last {
            return Err(fail(Fault::Order));
        }
        let content = match (field.encoding, value) {
            (Encoding::Binary, Value::Bytes(bytes)) => bytes,
            (Encoding::Binary, Value::Text(_)) => return Err(fail(Fault::NotBytes)),
            (_, Value::Text(text)) => text.as_bytes(),
            (_, Value::Bytes(_)) => return Err(fail(Fault::NotText)),
        };
        let start = self.buffer.len();
        self.push_length(number, &field, content.len())?;
        let packed = match field.encoding {
            Encoding::Bcd(filler) => encoding::pack_digits(content, filler, &mut self.buffer),
            Encoding::Ebcdic => encoding::pack_text(content, &mut self.buffer),
            Encoding::Binary => {
                self.buffer.extend_from_slice(content);
                Ok(())
            }
        };
        if let Err(fault) = packed {
            self.buffer.truncate(start);
            return Err(fail(fault));
        }
        self.bits |= 1 << (u32::from(FIELD_MAX) - u32::from(number));
        self.last = number;
        Ok(())
    }

    fn push_length(
        &mut self,
        number: u8,
        field: &Field,
        length: usize,
    ) -> Result<(), Iso8583Error> {
        let fail = |fault| Iso8583Error::new(Path::Field(number), fault);
        match field.length {
            Length::Fixed(width) if usize::from(width) != length => Err(fail(Fault::Width {
                width: usize::from(width),
                length,
            })),
            Length::Fixed(_) => Ok(()),
            Length::Var { max } => {
                let count = u8::try_from(length).unwrap_or(u8::MAX);
                if length > usize::from(max) {
                    return Err(fail(Fault::TooLong {
                        max: usize::from(max),
                        length,
                    }));
                }
                // An empty number is not zero: it is no number.
                if count == 0 && matches!(field.encoding, Encoding::Bcd(_)) {
                    return Err(fail(Fault::Empty));
                }
                self.buffer.push(count);
                Ok(())
            }
        }
    }

    /// Write the bitmaps; call `bytes` with the whole message.
    pub fn finish<T>(mut self, bytes: impl FnOnce(&[u8]) -> T) -> T {
        let has_secondary = self.bits << 64 != 0;
        let bits = self.bits | u128::from(has_secondary) << (FIELD_MAX - 1);
        let bitmap = bits.to_be_bytes();
        if has_secondary {
            self.buffer[2..HEAD].copy_from_slice(&bitmap);
            return bytes(&self.buffer);
        }
        // Without a secondary bitmap the message starts eight bytes further in.
        self.buffer.copy_within(0..2, 8);
        self.buffer[10..HEAD].copy_from_slice(&bitmap[..8]);
        bytes(&self.buffer[8..])
    }
}

/// Reads one whole message, field by field.
pub struct Unpacker<'m> {
    dialect: &'static Dialect,
    rest: &'m [u8],
    bits: u128,
    mti: [u8; 4],
    scratch: [u8; SCRATCH],
}

impl<'m> Unpacker<'m> {
    /// Read MTI and bitmaps.
    pub fn new(dialect: &'static Dialect, message: &'m [u8]) -> Result<Self, Iso8583Error> {
        let (mti, rest) = split(message, 2, Path::Mti)?;
        let mut digits = [0; 4];
        encoding::unpack_digits(mti, 4, Filler::Left, &mut digits)
            .map_err(|fault| Iso8583Error::new(Path::Mti, fault))?;
        let (primary, mut rest) = split(rest, 8, Path::Bitmap)?;
        let mut bitmap = [0; 16];
        bitmap[..8].copy_from_slice(primary);
        if primary[0] & 0x80 != 0 {
            let (secondary, after) = split(rest, 8, Path::SecondaryBitmap)?;
            // One message has one form: a secondary bitmap that names nothing is not sent.
            if secondary.iter().all(|byte| *byte == 0) {
                return Err(Iso8583Error::new(Path::SecondaryBitmap, Fault::Empty));
            }
            bitmap[8..].copy_from_slice(secondary);
            rest = after;
        }
        let bits = u128::from_be_bytes(bitmap) & !(1 << (FIELD_MAX - 1));
        Ok(Self {
            dialect,
            rest,
            bits,
            mti: digits,
            scratch: [0; SCRATCH],
        })
    }

    /// The message type: four decimal digits.
    pub fn mti(&self) -> &str {
        std::str::from_utf8(&self.mti).unwrap_or_default()
    }

    /// The next field, in ascending order; `None` after the last, when no byte may be left.
    pub fn next_field(&mut self) -> Result<Option<(u8, Value<'_>)>, Iso8583Error> {
        if self.bits == 0 {
            return match self.rest.len() {
                0 => Ok(None),
                excess => Err(Iso8583Error::new(Path::Message, Fault::Trailing { excess })),
            };
        }
        // Bit 127 is field 1, so the count of leading zeros is the field's number less one.
        let number = self.bits.leading_zeros() as u8 + 1;
        self.bits &= !(1 << (FIELD_MAX - number));
        let fail = |fault| Iso8583Error::new(Path::Field(number), fault);
        let field = *self
            .dialect
            .field(number)
            .ok_or_else(|| fail(Fault::Undefined))?;
        let count = self.next_length(number, &field)?;
        let (content, rest) = split(
            self.rest,
            bytes_of(field.encoding, count),
            Path::Field(number),
        )?;
        self.rest = rest;
        let range = match field.encoding {
            Encoding::Binary => return Ok(Some((number, Value::Bytes(content)))),
            Encoding::Bcd(filler) => {
                encoding::unpack_digits(content, count, filler, &mut self.scratch).map_err(fail)?
            }
            Encoding::Ebcdic => {
                encoding::unpack_text(content, &mut self.scratch).map_err(fail)?;
                0..count
            }
        };
        let text = self
            .scratch
            .get(range)
            .and_then(|bytes| std::str::from_utf8(bytes).ok());
        text.map(|text| Some((number, Value::Text(text))))
            .ok_or_else(|| fail(Fault::NotPrintable))
    }

    fn next_length(&mut self, number: u8, field: &Field) -> Result<usize, Iso8583Error> {
        let max = match field.length {
            Length::Fixed(width) => return Ok(usize::from(width)),
            Length::Var { max } => max,
        };
        let path = Path::FieldLength(number);
        let (prefix, rest) = split(self.rest, 1, path)?;
        let length = usize::from(prefix[0]);
        if length > usize::from(max) {
            return Err(Iso8583Error::new(
                path,
                Fault::TooLong {
                    max: usize::from(max),
                    length,
                },
            ));
        }
        if length == 0 && matches!(field.encoding, Encoding::Bcd(_)) {
            return Err(Iso8583Error::new(path, Fault::Empty));
        }
        self.rest = rest;
        Ok(length)
    }
}

fn split(bytes: &[u8], needed: usize, path: Path) -> Result<(&[u8], &[u8]), Iso8583Error> {
    if bytes.len() < needed {
        let fault = Fault::Short {
            needed,
            left: bytes.len(),
        };
        return Err(Iso8583Error::new(path, fault));
    }
    Ok(bytes.split_at(needed))
}
