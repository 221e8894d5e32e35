//! Strict JSON: exactly what RFC 8259 allows, and less where two readers could disagree.
//!
//! Refused: invalid UTF-8, a byte-order mark, lone surrogates, duplicate members (also when one is
//! escaped), nesting over [`DEPTH_MAX`], anything after the document. Numbers keep their text.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;
use thiserror::Error;

#[cfg(test)]
mod tests;

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    /// The number's own text.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Value<'a>>),
    Object(Vec<(Cow<'a, str>, Value<'a>)>),
}

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
    let value = parser.value()?;
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
    hasher: RandomState,
}

impl Names {
    /// Whether `members` have the name already. Asked once of each, before it is added.
    fn has(&mut self, members: &[(Cow<'_, str>, Value<'_>)], name: &str) -> bool {
        if members.len() < FEW_MEMBERS {
            return members.iter().any(|(seen, _)| seen == name);
        }
        let Self { places, hasher } = self;
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
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, literal: &str) -> Result<(), JsonError> {
        if self.text[self.at..].starts_with(literal) {
            self.at += literal.len();
            Ok(())
        } else {
            Err(JsonError::Malformed)
        }
    }

    /// Recursion is bounded by [`DEPTH_MAX`].
    fn value(&mut self) -> Result<Value<'a>, JsonError> {
        self.skip_space();
        match self.peek() {
            Some(b'{') => self.object(),
            Some(b'[') => self.array(),
            Some(b'"') => self.string().map(Value::Text),
            Some(b't') => self.expect("true").map(|()| Value::Bool(true)),
            Some(b'f') => self.expect("false").map(|()| Value::Bool(false)),
            Some(b'n') => self.expect("null").map(|()| Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => Err(JsonError::Malformed),
        }
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

    fn object(&mut self) -> Result<Value<'a>, JsonError> {
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        if self.enter(b'}')? {
            return Ok(Value::Object(members));
        }
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
            self.expect(":")?;
            let value = self.value().map_err(|error| error.within(&name))?;
            members.push((name, value));
            if !self.goes_on(b'}')? {
                return Ok(Value::Object(members));
            }
        }
    }

    fn array(&mut self) -> Result<Value<'a>, JsonError> {
        let mut items = Vec::new();
        if self.enter(b']')? {
            return Ok(Value::Array(items));
        }
        loop {
            let index = items.len();
            let item = self
                .value()
                .map_err(|error| error.within(&index.to_string()))?;
            items.push(item);
            if !self.goes_on(b']')? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn number(&mut self) -> Result<Value<'a>, JsonError> {
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
        Ok(Value::Number(&self.text[start..self.at]))
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

    fn string(&mut self) -> Result<Cow<'a, str>, JsonError> {
        self.at += 1;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let plain = &self.text[start..self.at];
                    self.at += 1;
                    return Ok(Cow::Borrowed(plain));
                }
                Some(b'\\') => break,
                Some(0x20..) => self.at += 1,
                _ => return Err(JsonError::Malformed),
            }
        }
        let mut owned = String::from(&self.text[start..self.at]);
        loop {
            let run = self.at;
            while matches!(self.peek(), Some(byte) if byte >= 0x20 && byte != b'"' && byte != b'\\')
            {
                self.at += 1;
            }
            owned.push_str(&self.text[run..self.at]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(owned));
                }
                Some(b'\\') => owned.push(self.escape()?),
                _ => return Err(JsonError::Malformed),
            }
        }
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

/// RFC 6901 pointer of a path of member names and indexes.
pub fn pointer_of<S: AsRef<str>>(path: &[S]) -> String {
    let mut pointer = String::new();
    for step in path {
        pointer.push('/');
        pointer.push_str(&step.as_ref().replace('~', "~0").replace('/', "~1"));
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

/// The pointer of the first text, or member name, that holds a forbidden character.
pub fn find_forbidden(value: &Value<'_>) -> Option<String> {
    let is_bad = |text: &str| {
        // Most text is printable ASCII and nothing else.
        !text.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && text.chars().any(is_forbidden)
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

/// Canonical bytes after RFC 8785: members sorted by UTF-16 code units, shortest escapes, no
/// space. Numbers keep their text, save `-0`: every number we accept is an integer.
pub fn canonical(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write_canonical(value, &mut out);
    out
}

fn write_canonical(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number("-0") => out.push(b'0'),
        Value::Number(text) => out.extend_from_slice(text.as_bytes()),
        Value::Text(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_canonical(item, out);
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_by(|left, right| left.0.encode_utf16().cmp(right.0.encode_utf16()));
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write_canonical(member, out);
            }
            out.push(b'}');
        }
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}
