//! Whom an entry names: a kind and a value, whole, kept in the fewest bytes.
//!
//! The values we make ourselves are 128 random or dated bits written as text; they are packed back
//! into 16 bytes where that loses nothing, and any other value is kept as it is. What was packed
//! is unpacked before it is compared, so that a name is equal to no other.

use super::RevocationKind;
use crate::token::TOKEN_BYTES_MAX;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// In place of a digit's value where there is no digit; above every value.
const NONE: u8 = 0x80;
static FROM_BASE64URL: [u8; 256] = values_of(BASE64URL);
static FROM_CROCKFORD: [u8; 256] = values_of(CROCKFORD);

/// 128 bits in base64url without padding.
const RANDOM_LENGTH: usize = 22;
/// Three small letters and an underscore, then 128 bits in Crockford's base 32.
const ID_LENGTH: usize = 30;

const FORM_RANDOM: u8 = 0;
const FORM_ID: u8 = 4;
const FORM_PLAIN: u8 = 8;

const fn values_of(alphabet: &[u8]) -> [u8; 256] {
    let mut table = [NONE; 256];
    let mut value = 0;
    while value < alphabet.len() {
        table[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    table
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name<'a> {
    /// 0 to 3; also the kind's place in a table.
    pub(super) kind: u8,
    text: &'a [u8],
}

/// Room for what a packed name is unpacked to.
pub(super) type Scratch = [u8; ID_LENGTH];

impl<'a> Name<'a> {
    /// `None` when no token can hold such a value.
    pub(super) fn new(kind: RevocationKind, value: &'a str) -> Option<Self> {
        let text = value.as_bytes();
        let is_possible = (1..=TOKEN_BYTES_MAX).contains(&text.len());
        is_possible.then_some(Self {
            kind: kind_code(kind),
            text,
        })
    }

    /// One byte of kind and form; then 16 bytes (random), 3 letters and 16 bytes (id), or a length
    /// of two bytes, low first, and the value itself (plain).
    pub(super) fn packed(&self) -> Vec<u8> {
        let bits = match self.text.len() {
            RANDOM_LENGTH => random_bits(self.text),
            ID_LENGTH => id_bits(self.text),
            _ => None,
        };
        let mut packed = Vec::with_capacity(3 + self.text.len());
        match bits {
            Some(bits) if self.text.len() == RANDOM_LENGTH => {
                packed.push(self.kind | FORM_RANDOM);
                packed.extend_from_slice(&bits.to_be_bytes());
            }
            Some(bits) => {
                packed.push(self.kind | FORM_ID);
                packed.extend_from_slice(&self.text[..3]);
                packed.extend_from_slice(&bits.to_be_bytes());
            }
            None => {
                let length = u16::try_from(self.text.len()).unwrap_or(u16::MAX);
                packed.push(self.kind | FORM_PLAIN);
                packed.extend_from_slice(&length.to_le_bytes());
                packed.extend_from_slice(self.text);
            }
        }
        packed
    }

    /// The name that `record` begins with.
    pub(super) fn unpack(record: &'a [u8], scratch: &'a mut Scratch) -> Self {
        let kind = kind_code_of(record);
        let text = match record[0] & !3 {
            FORM_RANDOM => {
                write_random(&record[1..17], scratch);
                &scratch[..RANDOM_LENGTH]
            }
            FORM_ID => {
                write_id(&record[1..4], &record[4..20], scratch);
                &scratch[..]
            }
            _ => &record[3..packed_length(record)],
        };
        Self { kind, text }
    }
}

pub(super) fn kind_code(kind: RevocationKind) -> u8 {
    match kind {
        RevocationKind::Token => 0,
        RevocationKind::Session => 1,
        RevocationKind::Subject => 2,
        RevocationKind::Client => 3,
    }
}

pub(super) fn kind_code_of(record: &[u8]) -> u8 {
    record[0] & 3
}

/// Length of the packed name that `record` begins with.
pub(super) fn packed_length(record: &[u8]) -> usize {
    match record[0] & !3 {
        FORM_RANDOM => 17,
        FORM_ID => 20,
        _ => 3 + usize::from(u16::from_le_bytes([record[1], record[2]])),
    }
}

/// The number that `digits` write, of `width` bits each, or `None` where one is not a digit.
fn number(table: &[u8; 256], width: u32, digits: &[u8]) -> Option<u128> {
    let mut number = 0;
    for digit in digits {
        let value = table[usize::from(*digit)];
        if value == NONE {
            return None;
        }
        number = number << width | u128::from(value);
    }
    Some(number)
}

/// 21 digits of 6 bits and the upper 2 of the last, whose other bits must be zero.
fn random_bits(text: &[u8]) -> Option<u128> {
    let (digits, last) = text.split_at(RANDOM_LENGTH - 1);
    let last = number(&FROM_BASE64URL, 6, last).filter(|last| last & 0xf == 0)?;
    Some(number(&FROM_BASE64URL, 6, digits)? << 2 | last >> 4)
}

/// 26 digits hold 130 bits: the first must leave its upper two empty.
fn id_bits(text: &[u8]) -> Option<u128> {
    let (prefix, digits) = text.split_at(4);
    let has_prefix = prefix[..3].iter().all(u8::is_ascii_lowercase) && prefix[3] == b'_';
    if !has_prefix || digits[0] > b'7' {
        return None;
    }
    number(&FROM_CROCKFORD, 5, digits)
}

fn write_random(bits: &[u8], out: &mut Scratch) {
    let bits = bits_of(bits);
    for (place, out) in out[..RANDOM_LENGTH - 1].iter_mut().enumerate() {
        *out = BASE64URL[(bits >> (122 - 6 * place)) as usize & 63];
    }
    out[RANDOM_LENGTH - 1] = BASE64URL[(bits << 4) as usize & 63];
}

fn write_id(letters: &[u8], bits: &[u8], out: &mut Scratch) {
    let bits = bits_of(bits);
    out[..3].copy_from_slice(letters);
    out[3] = b'_';
    for (place, out) in out[4..].iter_mut().enumerate() {
        *out = CROCKFORD[(bits >> (125 - 5 * place)) as usize & 31];
    }
}

fn bits_of(bytes: &[u8]) -> u128 {
    bytes
        .iter()
        .fold(0, |bits, byte| bits << 8 | u128::from(*byte))
}
