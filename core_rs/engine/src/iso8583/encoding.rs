//! Packed decimals and EBCDIC code page 037, by table. Lengths were checked by the caller.

use super::error::Fault;
use super::spec::Filler;

/// Marks a byte that is not two decimal digits or a character that is not printable ASCII.
const NONE: u8 = 0;

/// EBCDIC code page 037 of the printable ASCII characters, from space to tilde.
const CP037: [u8; 95] = [
    0x40, 0x5a, 0x7f, 0x7b, 0x5b, 0x6c, 0x50, 0x7d, 0x4d, 0x5d, 0x5c, 0x4e, 0x6b, 0x60, 0x4b, 0x61,
    0xf0, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8, 0xf9, 0x7a, 0x5e, 0x4c, 0x7e, 0x6e, 0x6f,
    0x7c, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xd1, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6,
    0xd7, 0xd8, 0xd9, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xba, 0xe0, 0xbb, 0xb0, 0x6d,
    0x79, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96,
    0x97, 0x98, 0x99, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xc0, 0x4f, 0xd0, 0xa1,
];

/// ASCII to EBCDIC; `NONE` where there is no printable character (no printable one is 0x00).
static TO_EBCDIC: [u8; 256] = {
    let mut table = [NONE; 256];
    let mut index = 0;
    while index < CP037.len() {
        table[index + 0x20] = CP037[index];
        index += 1;
    }
    table
};

static FROM_EBCDIC: [u8; 256] = {
    let mut table = [NONE; 256];
    let mut index = 0;
    while index < CP037.len() {
        table[CP037[index] as usize] = index as u8 + 0x20;
        index += 1;
    }
    table
};

/// The two ASCII digits of a packed byte; `NONE` in both places when it is not packed decimal.
static DIGITS: [[u8; 2]; 256] = {
    let mut table = [[NONE; 2]; 256];
    let mut tens = 0;
    while tens < 10 {
        let mut ones = 0;
        while ones < 10 {
            table[tens * 16 + ones] = [b'0' + tens as u8, b'0' + ones as u8];
            ones += 1;
        }
        tens += 1;
    }
    table
};

fn nibble(digit: u8) -> Result<u8, Fault> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        _ => Err(Fault::NotDigits),
    }
}

/// Append `digits` two to a byte; an odd count gets a zero nibble at `filler`.
pub(super) fn pack_digits(digits: &[u8], filler: Filler, out: &mut Vec<u8>) -> Result<(), Fault> {
    let odd = digits.len() % 2 == 1;
    let (first, pairs, last) = match (odd, filler) {
        (false, _) => (None, digits, None),
        (true, Filler::Left) => {
            let (first, rest) = digits.split_at(1);
            (first.first(), rest, None)
        }
        (true, Filler::Right) => {
            let (rest, last) = digits.split_at(digits.len() - 1);
            (None, rest, last.first())
        }
    };
    if let Some(digit) = first {
        out.push(nibble(*digit)?);
    }
    for pair in pairs.chunks_exact(2) {
        out.push(nibble(pair[0])? << 4 | nibble(pair[1])?);
    }
    if let Some(digit) = last {
        out.push(nibble(*digit)? << 4);
    }
    Ok(())
}

/// Write the digits of `packed` to the front of `out`, which holds two for each byte, and return
/// where the `count` digits stand in it.
pub(super) fn unpack_digits(
    packed: &[u8],
    count: usize,
    filler: Filler,
    out: &mut [u8],
) -> Result<std::ops::Range<usize>, Fault> {
    let mut all_digits = true;
    for (byte, pair) in packed.iter().zip(out.chunks_exact_mut(2)) {
        let digits = DIGITS[usize::from(*byte)];
        all_digits &= digits[0] != NONE;
        pair.copy_from_slice(&digits);
    }
    if !all_digits {
        return Err(Fault::NotDigits);
    }
    let start = match (count % 2, filler) {
        (1, Filler::Left) => {
            if out.first() != Some(&b'0') {
                return Err(Fault::Filler);
            }
            1
        }
        (1, Filler::Right) => {
            if out.get(count) != Some(&b'0') {
                return Err(Fault::Filler);
            }
            0
        }
        _ => 0,
    };
    Ok(start..start + count)
}

/// Append printable ASCII as EBCDIC.
pub(super) fn pack_text(text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let start = out.len();
    out.extend(text.iter().map(|byte| TO_EBCDIC[usize::from(*byte)]));
    if out[start..].contains(&NONE) {
        return Err(Fault::NotPrintable);
    }
    Ok(())
}

/// Write EBCDIC as ASCII to the front of `out`, which is at least as long.
pub(super) fn unpack_text(text: &[u8], out: &mut [u8]) -> Result<(), Fault> {
    let mut printable = true;
    for (byte, ascii) in text.iter().zip(out.iter_mut()) {
        *ascii = FROM_EBCDIC[usize::from(*byte)];
        printable &= *ascii != NONE;
    }
    if printable {
        Ok(())
    } else {
        Err(Fault::NotPrintable)
    }
}
