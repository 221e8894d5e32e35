//! Strict JSON: exactly what RFC 8259 allows, and less where two readers could disagree.
//!
//! Refused: invalid UTF-8, a byte-order mark, lone surrogates, duplicate members (also when one is
//! escaped), nesting over [`DEPTH_MAX`], anything after the document. Numbers keep their text.

use std::borrow::Cow;

use thiserror::Error;

pub const DEPTH_MAX: usize = 32;

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
        path: Vec::new(),
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
    at: usize,
    path: Vec<String>,
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

    fn enter(&mut self, step: String) -> Result<(), JsonError> {
        if self.path.len() == DEPTH_MAX {
            return Err(JsonError::TooDeep);
        }
        self.path.push(step);
        Ok(())
    }

    fn object(&mut self) -> Result<Value<'a>, JsonError> {
        self.at += 1;
        let mut members: Vec<(Cow<'a, str>, Value<'a>)> = Vec::new();
        self.enter(String::new())?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            self.path.pop();
            return Ok(Value::Object(members));
        }
        loop {
            self.skip_space();
            if self.peek() != Some(b'"') {
                return Err(JsonError::Malformed);
            }
            let name = self.string()?;
            if let Some(step) = self.path.last_mut() {
                step.clear();
                step.push_str(&name);
            }
            if members.iter().any(|(seen, _)| *seen == name) {
                return Err(JsonError::Duplicate {
                    pointer: pointer_of(&self.path),
                });
            }
            self.skip_space();
            self.expect(":")?;
            let value = self.value()?;
            members.push((name, value));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(JsonError::Malformed),
            }
        }
        self.at += 1;
        self.path.pop();
        Ok(Value::Object(members))
    }

    fn array(&mut self) -> Result<Value<'a>, JsonError> {
        self.at += 1;
        let mut items = Vec::new();
        self.enter(String::from("0"))?;
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            self.path.pop();
            return Ok(Value::Array(items));
        }
        loop {
            if let Some(step) = self.path.last_mut() {
                *step = items.len().to_string();
            }
            items.push(self.value()?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(JsonError::Malformed),
            }
        }
        self.at += 1;
        self.path.pop();
        Ok(Value::Array(items))
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
    let mut stack: Vec<(String, &Value<'_>)> = vec![(String::new(), value)];
    while let Some((pointer, value)) = stack.pop() {
        match value {
            Value::Text(text) if text.chars().any(is_forbidden) => return Some(pointer),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate().rev() {
                    stack.push((format!("{pointer}/{index}"), item));
                }
            }
            Value::Object(members) => {
                if members
                    .iter()
                    .any(|(name, _)| name.chars().any(is_forbidden))
                {
                    return Some(pointer);
                }
                for (name, member) in members.iter().rev() {
                    stack.push((format!("{pointer}{}", pointer_of(&[name])), member));
                }
            }
            _ => {}
        }
    }
    None
}

/// The pointer of the first number that is not written as an integer.
pub fn find_fraction(value: &Value<'_>) -> Option<String> {
    let mut stack: Vec<(String, &Value<'_>)> = vec![(String::new(), value)];
    while let Some((pointer, value)) = stack.pop() {
        match value {
            Value::Number(text) if text.contains(['.', 'e', 'E']) => return Some(pointer),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate().rev() {
                    stack.push((format!("{pointer}/{index}"), item));
                }
            }
            Value::Object(members) => {
                for (name, member) in members.iter().rev() {
                    stack.push((format!("{pointer}{}", pointer_of(&[name])), member));
                }
            }
            _ => {}
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        use JsonError::{Encoding, Malformed, TooDeep};
        let deep = "[".repeat(33);
        let rows: Vec<(&[u8], JsonError)> = vec![
            (b"", Malformed),
            (b"{", Malformed),
            (b"{} {}", Malformed),
            (b"{'a':1}", Malformed),
            (b"{\"a\":1,}", Malformed),
            (b"[1,]", Malformed),
            (b"/**/1", Malformed),
            (b"NaN", Malformed),
            (b"-Infinity", Malformed),
            (b"01", Malformed),
            (b"+1", Malformed),
            (b"1.", Malformed),
            (b".5", Malformed),
            (b"1e", Malformed),
            (b"\"\x01\"", Malformed),
            (b"\"\\x\"", Malformed),
            (b"\"\\u12\"", Malformed),
            (b"\"abc", Malformed),
            (b"tru", Malformed),
            (b"\xff", Encoding),
            (b"\xef\xbb\xbf{}", Encoding),
            (b"\"\xc0\xaf\"", Encoding),
            (b"{\x00\"\x00", Malformed),
            (b"\"\\ud800\"", Encoding),
            (b"\"\\udc00\"", Encoding),
            (b"\"\\ud800\\u0041\"", Encoding),
            (deep.as_bytes(), TooDeep),
        ];
        for (body, expected) in rows {
            assert_eq!(
                Err(expected),
                parse(body),
                "{}",
                String::from_utf8_lossy(body)
            );
        }
    }

    #[test]
    fn a_duplicate_is_found_also_nested_and_escaped() {
        let pointer = |body: &str| match parse(body.as_bytes()) {
            Err(JsonError::Duplicate { pointer }) => pointer,
            other => panic!("{other:?}"),
        };
        assert_eq!("/a", pointer(r#"{"a":1,"a":2}"#));
        assert_eq!("/amount", pointer(r#"{"amount":1,"\u0061mount":2}"#));
        assert_eq!("/x/1/b~1c", pointer(r#"{"x":[0,{"b/c":1,"b/c":1}]}"#));
    }

    #[test]
    fn canonical_form_sorts_and_unescapes() {
        let value = parse(br#" { "b" : [1, -0], "a\u0041" : "\u00e9\n\/" } "#).unwrap();
        assert_eq!(
            "{\"aA\":\"é\\n/\",\"b\":[1,0]}".as_bytes(),
            canonical(&value)
        );
    }

    #[test]
    fn forbidden_characters_are_pointed_at() {
        let found = |body: &str| find_forbidden(&parse(body.as_bytes()).unwrap());
        assert_eq!(Some(String::from("/a/0")), found(r#"{"a":["\u0000"]}"#));
        assert_eq!(Some(String::from("/n")), found(r#"{"n":"a\u202eb"}"#));
        assert_eq!(None, found(r#"{"n":"Ўқитувчи — it's O‘zbek"}"#));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
        }

        #[test]
        fn canonical_is_a_fixed_point(name in ".{0,8}", text in ".{0,16}", number in any::<i64>()) {
            let body = serde_json::json!({name: [text, number, null, true]}).to_string();
            let once = canonical(&parse(body.as_bytes()).unwrap());
            prop_assert_eq!(&once, &canonical(&parse(&once).unwrap()));
        }
    }
}
