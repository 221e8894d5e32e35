//! Strict JSON: exactly what RFC 8259 allows, and less where two readers could disagree.
//!
//! Refused: invalid UTF-8, a byte-order mark, lone surrogates, duplicate members (also when one is
//! escaped), nesting over [`DEPTH_MAX`], anything after the document. Numbers keep their text.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use thiserror::Error;

mod canonical;

#[cfg(test)]
mod tests;

pub use canonical::canonical;

pub const DEPTH_MAX: usize = 32;
/// Members up to which looking through those before is the fastest way to find a duplicate.
const FEW_MEMBERS: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum JsonError {
    #[error("the body is not valid JSON")]
    Malformed,
    #[error("the body is not valid UTF-8 text without a byte-order mark")]
    Encoding,
    #[error("a member appears twice")]
    Duplicate { pointer: String },
    #[error("the body is nested too deeply")]
    TooDeep,
}

impl JsonError {
    /// The same, as seen from what holds the value at `step`.
    fn within(self, step: &str) -> Self {
        match self {
            Self::Duplicate { pointer } => Self::Duplicate {
                pointer: pointer_of(&[step]) + &pointer,
            },
            other => other,
        }
    }
}

/// A text, or a member's name, is borrowed from the document when it has no escape there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// The number's own text.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Vec<Member<'a>>),
}

/// A name and its value.
pub type Member<'a> = (Cow<'a, str>, Value<'a>);

pub fn parse(body: &[u8]) -> Result<Value<'_>, JsonError> {
    let text = std::str::from_utf8(body).map_err(|_| JsonError::Encoding)?;
    if text.starts_with('\u{feff}') {
        return Err(JsonError::Encoding);
    }
    let mut parser = Parser {
        text,
        at: 0,
        depth: 0,
    };
    let mut value = Value::Null;
    parser.value(&mut value)?;
    parser.skip_space();
    if parser.at == text.len() {
        Ok(value)
    } else {
        Err(JsonError::Malformed)
    }
}

struct Parser<'a> {
    text: &'a str,
    /// Always at the start of a character.
    at: usize,
    depth: usize,
}

/// Finds a member's name among those before it.
///
/// Beyond a few the names are hashed, under keys that no sender can know, so that a body made of
/// nothing but members costs no more than its length.
#[derive(Default)]
struct Names {
    places: HashTable<usize>,
    /// Made when there are more than a few.
    hasher: Option<RandomState>,
}

impl Names {
    /// Whether `members` have the name already. Asked once of each, before it is added.
    fn has(&mut self, members: &[Member<'_>], name: &str) -> bool {
        if members.len() < FEW_MEMBERS {
            return members.iter().any(|(seen, _)| seen == name);
        }
        let Self { places, hasher } = self;
        let hasher = hasher.get_or_insert_with(RandomState::new);
        let hash_at = |place: &usize| hasher.hash_one(members[*place].0.as_ref());
        while places.len() < members.len() {
            let place = places.len();
            places.insert_unique(hash_at(&place), place, hash_at);
        }
        places
            .find(hasher.hash_one(name), |place| members[*place].0 == name)
            .is_some()
    }
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        let rest = &self.text.as_bytes()[self.at..];
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        let length = rest.iter().position(|byte| !is_space(byte));
        self.at += length.unwrap_or(rest.len());
    }

    fn expect(&mut self, literal: &str) -> Result<(), JsonError> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(JsonError::Malformed)
        }
    }

    /// Reads a value into its place: handed back, it would be copied at every level.
    ///
    /// Recursion is bounded by [`DEPTH_MAX`].
    fn value(&mut self, place: &mut Value<'a>) -> Result<(), JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => *place = Value::Object(self.object()?),
            Some(b'[') => *place = Value::Array(self.array()?),
            Some(b'"') => *place = Value::Text(self.string()?),
            Some(b't') => *place = self.expect("true").map(|()| Value::Bool(true))?,
            Some(b'f') => *place = self.expect("false").map(|()| Value::Bool(false))?,
            Some(b'n') => *place = self.expect("null").map(|()| Value::Null)?,
            Some(b'-' | b'0'..=b'9') => *place = Value::Number(self.number()?),
            _ => return Err(JsonError::Malformed),
        }
        Ok(())
    }

    /// Steps into an object or array, past its bracket; says whether it is empty, and then also
    /// past the closing one.
    fn enter(&mut self, close: u8) -> Result<bool, JsonError> {
        if self.depth == DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.skip_space();
        let is_empty = self.peek() == Some(close);
        if is_empty {
            self.at += 1;
        } else {
            self.depth += 1;
        }
        Ok(is_empty)
    }

    /// Steps past a comma, and says so, or past the closing bracket.
    fn goes_on(&mut self, close: u8) -> Result<bool, JsonError> {
        self.skip_space();
        let byte = self.peek();
        if byte != Some(b',') && byte != Some(close) {
            return Err(JsonError::Malformed);
        }
        self.at += 1;
        let goes_on = byte == Some(b',');
        if !goes_on {
            self.depth -= 1;
        }
        Ok(goes_on)
    }

    fn object(&mut self) -> Result<Vec<Member<'a>>, JsonError> {
        if self.enter(b'}')? {
            return Ok(Vec::new());
        }
        // As many as a request's body has.
        let mut members: Vec<Member<'a>> = Vec::with_capacity(8);
        let mut names = Names::default();
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(JsonError::Malformed);
            }
            let name = self.string()?;
            if names.has(&members, &name) {
                let pointer = pointer_of(&[name]);
                return Err(JsonError::Duplicate { pointer });
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(JsonError::Malformed);
            }
            self.at += 1;
            let mut value = Value::Null;
            let read = self.value(&mut value);
            read.map_err(|error| error.within(&name))?;
            members.push((name, value));
            if !self.goes_on(b'}')? {
                return Ok(members);
            }
        }
    }

    fn array(&mut self) -> Result<Vec<Value<'a>>, JsonError> {
        let mut items = Vec::new();
        if self.enter(b']')? {
            return Ok(items);
        }
        loop {
            let mut item = Value::Null;
            let read = self.value(&mut item);
            read.map_err(|error| error.within(&items.len().to_string()))?;
            items.push(item);
            if !self.goes_on(b']')? {
                return Ok(items);
            }
        }
    }

    fn number(&mut self) -> Result<&'a str, JsonError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(JsonError::Malformed),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(&self.text[start..self.at])
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        self.digits();
        if self.at == start {
            return Err(JsonError::Malformed);
        }
        Ok(())
    }

    #[inline]
    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let start = self.at;
        let plain = self.plain_run();
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        self.at = start;
        self.escaped().map(Cow::Owned)
    }

    /// A text that is not all plain, after its opening quote.
    #[inline(never)]
    fn escaped(&mut self) -> Result<String, JsonError> {
        let mut owned = String::from(self.plain_run());
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(owned);
                }
                Some(b'\\') => owned.push(self.escape()?),
                _ => return Err(JsonError::Malformed),
            }
            owned.push_str(self.plain_run());
        }
    }

    /// Text up to a quote, a backslash, a control character or the end.
    fn plain_run(&mut self) -> &'a str {
        let start = self.at;
        self.at += plain_length(&self.text.as_bytes()[start..]);
        &self.text[start..self.at]
    }

    fn escape(&mut self) -> Result<char, JsonError> {
        self.at += 1;
        let escaped = self.peek().ok_or(JsonError::Malformed)?;
        self.at += 1;
        Ok(match escaped {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode(),
            _ => return Err(JsonError::Malformed),
        })
    }

    fn unicode(&mut self) -> Result<char, JsonError> {
        let first = self.hex4()?;
        let code = match first {
            0xd800..=0xdbff => {
                if self.expect("\\u").is_err() {
                    return Err(JsonError::Encoding);
                }
                let second = self.hex4()?;
                if !(0xdc00..=0xdfff).contains(&second) {
                    return Err(JsonError::Encoding);
                }
                0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)
            }
            _ => first,
        };
        char::from_u32(code).ok_or(JsonError::Encoding)
    }

    fn hex4(&mut self) -> Result<u32, JsonError> {
        let digits = self
            .text
            .as_bytes()
            .get(self.at..self.at + 4)
            .ok_or(JsonError::Malformed)?;
        let mut code = 0;
        for digit in digits {
            let value = char::from(*digit)
                .to_digit(16)
                .ok_or(JsonError::Malformed)?;
            code = code * 16 + value;
        }
        self.at += 4;
        Ok(code)
    }
}

/// How many bytes there are before a quote, a backslash or a control character.
///
/// Looks at eight bytes at a time. A byte less `n` borrows when it is below `n`, and so sets its
/// highest bit; what that marks above the first such byte may be wrong, and is not looked at.
fn plain_length(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::MAX / 255;
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let mut rest = bytes;
    while let Some((chunk, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * u64::from(b'"'));
        let backslash = word ^ (ONES * u64::from(b'\\'));
        let over = (below(word, 0x20) | below(quote, 1) | below(backslash, 1)) & (ONES * 0x80);
        if over != 0 {
            return bytes.len() - rest.len() + (over.trailing_zeros() / 8) as usize;
        }
        rest = after;
    }
    let is_over = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    let left = rest.iter().position(is_over).unwrap_or(rest.len());
    bytes.len() - rest.len() + left
}

/// RFC 6901 pointer of a path of member names and indexes.
pub fn pointer_of<S: AsRef<str>>(path: &[S]) -> String {
    let mut pointer = String::new();
    for step in path {
        pointer.push('/');
        for character in step.as_ref().chars() {
            match character {
                '~' => pointer.push_str("~0"),
                '/' => pointer.push_str("~1"),
                plain => pointer.push(plain),
            }
        }
    }
    pointer
}

/// Characters that no text of ours may hold: controls, and the invisible ones that make a text
/// read otherwise than it is stored (bidirectional controls, zero-width).
pub fn is_forbidden(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Whether a document is ASCII and escapes nothing, as most are: none of its texts can hold a
/// forbidden character then, since the controls below 0x20 stand in no text as they are.
pub fn is_harmless(document: &[u8]) -> bool {
    // No early end, so that bytes are looked at many at a time.
    document
        .iter()
        .fold(true, |all, byte| all & (*byte < 0x7f) & (*byte != b'\\'))
}

/// The pointer of the first text, or member name, that holds a forbidden character.
pub fn find_forbidden(value: &Value<'_>) -> Option<String> {
    let is_bad = |text: &str| {
        // Most text is printable ASCII and nothing else.
        let is_printable = |all, byte| all & (0x20..0x7f).contains(&byte);
        !text.bytes().fold(true, is_printable) && text.chars().any(is_forbidden)
    };
    find(value, &|value| match value {
        Value::Text(text) => is_bad(text),
        Value::Object(members) => members.iter().any(|(name, _)| is_bad(name)),
        _ => false,
    })
}

/// The pointer of the first number that is not written as an integer.
pub fn find_fraction(value: &Value<'_>) -> Option<String> {
    find(
        value,
        &|value| matches!(value, Value::Number(text) if text.contains(['.', 'e', 'E'])),
    )
}

/// The pointer of the first value, in the order of the document, of which `is_it` holds.
///
/// Recursion is bounded by [`DEPTH_MAX`].
fn find(value: &Value<'_>, is_it: &impl Fn(&Value<'_>) -> bool) -> Option<String> {
    if is_it(value) {
        return Some(String::new());
    }
    match value {
        Value::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            let below = find(item, is_it)?;
            Some(pointer_of(&[index.to_string()]) + &below)
        }),
        Value::Object(members) => members.iter().find_map(|(name, member)| {
            let below = find(member, is_it)?;
            Some(pointer_of(&[name]) + &below)
        }),
        _ => None,
    }
}
