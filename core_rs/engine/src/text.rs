//! Short texts made without a formatter, which costs more than what it writes.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal digits, two a byte.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// As many digits as the largest number has.
pub const NUMBER_DIGITS_MAX: usize = 20;

/// The decimal digits of a number, in `room`.
pub fn digits_of(number: u64, room: &mut [u8; NUMBER_DIGITS_MAX]) -> &str {
    let mut left = number;
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = DIGITS[(left % 10) as usize];
        left /= 10;
        if left == 0 {
            break;
        }
    }
    std::str::from_utf8(&room[at..]).expect("digits are ASCII")
}

/// Writes a number; one that 64 bits do not hold is too rare to be written quickly.
pub fn push_number(number: i128, text: &mut String) {
    match u64::try_from(number) {
        Ok(number) => text.push_str(digits_of(number, &mut [0; NUMBER_DIGITS_MAX])),
        Err(_) => text.push_str(&number.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_a_formatter_does() {
        let around = |number: i128| [number - 1, number, number + 1];
        let edges = [
            0,
            10,
            100,
            1 << 53,
            i64::MAX.into(),
            u64::MAX.into(),
            1 << 100,
        ];
        for number in edges.into_iter().flat_map(around) {
            let mut text = String::from("=");
            push_number(number, &mut text);
            assert_eq!(format!("={number}"), text);
        }
    }

    #[test]
    fn digits_are_two_a_byte() {
        assert_eq!("", hex(b""));
        assert_eq!("000f10a9ff", hex(&[0, 15, 16, 0xa9, 255]));
    }
}
