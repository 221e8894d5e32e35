//! What an entry is found by: its kind and its value, whole, in the fewest bytes.
//!
//! The values we make ourselves are 128 random or dated bits written as text; they are packed back
//! into 16 bytes when that loses nothing, and any other value is kept as it is. Two values never
//! share a key: each form is read in one way only, and the first byte says which form it is.

use std::ops::Deref;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine as _;

use super::RevocationKind;
use crate::token::TOKEN_BYTES_MAX;

/// 128 bits in base64url without padding.
const RANDOM_LENGTH: usize = 22;
/// Three small letters and an underscore, then 128 bits in Crockford's base 32.
const ID_PREFIX_LENGTH: usize = 4;
const ID_LENGTH: usize = ID_PREFIX_LENGTH + 26;
const INLINE_LENGTH: usize = 40;

const FORM_RANDOM: u8 = 0;
const FORM_ID: u8 = 4;
const FORM_PLAIN: u8 = 8;

/// Value of each Crockford character, `NONE` for every other byte.
const NONE: u8 = u8::MAX;
static CROCKFORD: [u8; 256] = {
    let alphabet = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    let mut table = [NONE; 256];
    let mut value = 0;
    while value < alphabet.len() {
        table[alphabet[value] as usize] = value as u8;
        value += 1;
    }
    table
};

/// Layout: one byte of kind and form; then 16 bytes (random), 3 letters and 16 bytes (id), or a
/// length of two bytes and the value itself (plain).
pub(super) enum Key {
    Short([u8; INLINE_LENGTH], usize),
    Long(Vec<u8>),
}

impl Key {
    /// `None` when no token can hold such a value.
    pub(super) fn new(kind: RevocationKind, value: &str) -> Option<Self> {
        let text = value.as_bytes();
        if text.is_empty() || text.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let kind = kind_code(kind);
        Some(match text.len() {
            RANDOM_LENGTH => random(kind, text),
            ID_LENGTH => id(kind, text),
            _ => None,
        }
        .unwrap_or_else(|| plain(kind, text)))
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Short(bytes, length) => &bytes[..*length],
            Self::Long(bytes) => bytes,
        }
    }
}

/// 0 to 3; also the place of a kind in a table.
pub(super) fn kind_code(kind: RevocationKind) -> u8 {
    match kind {
        RevocationKind::Token => 0,
        RevocationKind::Session => 1,
        RevocationKind::Subject => 2,
        RevocationKind::Client => 3,
    }
}

pub(super) fn kind_code_of(first_byte: u8) -> u8 {
    first_byte & 3
}

/// Length of the key that `bytes` begins with.
pub(super) fn key_length(bytes: &[u8]) -> usize {
    match bytes[0] & !3 {
        FORM_RANDOM => 1 + 16,
        FORM_ID => 1 + ID_PREFIX_LENGTH - 1 + 16,
        _ => 3 + usize::from(u16::from_le_bytes([bytes[1], bytes[2]])),
    }
}

fn short(parts: &[&[u8]]) -> Key {
    let mut bytes = [0; INLINE_LENGTH];
    let mut length = 0;
    for part in parts {
        bytes[length..length + part.len()].copy_from_slice(part);
        length += part.len();
    }
    Key::Short(bytes, length)
}

fn random(kind: u8, text: &[u8]) -> Option<Key> {
    let mut bits = [0; 16];
    // Refuses spare bits that are not zero, so that no two texts give the same bytes.
    let length = URL_SAFE_NO_PAD.decode_slice(text, &mut bits).ok()?;
    (length == bits.len()).then(|| short(&[&[kind | FORM_RANDOM], &bits]))
}

fn id(kind: u8, text: &[u8]) -> Option<Key> {
    let (prefix, digits) = text.split_at(ID_PREFIX_LENGTH);
    let (letters, underscore) = prefix.split_at(ID_PREFIX_LENGTH - 1);
    // 26 digits hold 130 bits: the first must leave its upper two empty.
    if !letters.iter().all(u8::is_ascii_lowercase) || underscore != b"_" || digits[0] > b'7' {
        return None;
    }
    let mut bits: u128 = 0;
    for digit in digits {
        let value = CROCKFORD[usize::from(*digit)];
        if value == NONE {
            return None;
        }
        bits = bits << 5 | u128::from(value);
    }
    Some(short(&[&[kind | FORM_ID], letters, &bits.to_be_bytes()]))
}

fn plain(kind: u8, text: &[u8]) -> Key {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    let head = [kind | FORM_PLAIN, length[0], length[1]];
    if head.len() + text.len() <= INLINE_LENGTH {
        short(&[&head, text])
    } else {
        Key::Long([&head, text].concat())
    }
}
