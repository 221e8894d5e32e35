//! The plainest form of an HTTP/1.1 request, read without a parser.
//!
//! Reads only what every reader of HTTP/1.1 must read alike: one request, whole, with an unmistakable
//! end, each header given once, nothing that changes where the body ends, what encodes it, or what
//! becomes of the connection. Whatever else comes is [`Read::Strange`], and left to a parser that
//! then decides alone: so the two can never take the same bytes for different requests.

/// Below every bound of a parser's, so that none can be passed here.
pub const HEAD_BYTES_MAX: usize = 8_000;
pub const HEADERS_MAX: usize = 64;

/// They decide where a request ends, how it is to be read, what becomes of the connection, or
/// whether a browser's page may ask at all.
const TELLING: [&[u8]; 10] = [
    b"connection",
    b"content-encoding",
    b"expect",
    b"keep-alive",
    b"origin",
    b"proxy-connection",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
];
const KEEPS: [&[u8]; 2] = [b"keep-alive", b"Keep-Alive"];
const ACCEPTS: [&[u8]; 2] = [b"*/*", b"application/json"];
/// Digits of the longest length that is looked at.
const LENGTH_DIGITS_MAX: usize = 7;

/// One header as it was sent, and its name in lower case.
#[derive(Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a [u8],
    pub lower: Vec<u8>,
    pub value: &'a [u8],
}

/// What bytes that begin with a first line that is known turn out to be.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<'a> {
    Whole {
        headers: Vec<Header<'a>>,
        body: &'a [u8],
    },
    /// The beginning of a plain request.
    Unfinished,
    /// Only a parser can tell what they are.
    Strange,
}

/// Reads what follows a request's first line. `line_ends_at` is where that ends, before its CRLF; a
/// body longer than `body_bytes_max` is for the parser to refuse.
pub fn read(data: &[u8], line_ends_at: usize, body_bytes_max: usize) -> Read<'_> {
    let Some(after) = data
        .get(line_ends_at..)
        .filter(|it| it.starts_with(b"\r\n"))
    else {
        return Read::Strange;
    };
    let head = match Head::of(after) {
        Some(head) if line_ends_at + head.lines.len() <= HEAD_BYTES_MAX => head,
        _ => return Read::Strange,
    };
    let Some(length) = length_of(&head.headers) else {
        return Read::Strange;
    };
    if length > body_bytes_max {
        return Read::Strange;
    }
    if !head.is_whole {
        return match data.len() < HEAD_BYTES_MAX {
            true => Read::Unfinished,
            false => Read::Strange,
        };
    }
    if find(&head.headers, b"host").is_none() {
        return Read::Strange;
    }
    let body = &after[head.lines.len() + 4..];
    match body.len().cmp(&length) {
        std::cmp::Ordering::Less => Read::Unfinished,
        std::cmp::Ordering::Equal => Read::Whole {
            headers: head.headers,
            body,
        },
        // The beginning of another request, before this one was answered.
        std::cmp::Ordering::Greater => Read::Strange,
    }
}

struct Head<'a> {
    /// Every whole line, each after its CRLF.
    lines: &'a [u8],
    headers: Vec<Header<'a>>,
    /// Whether the empty line that ends a head was seen.
    is_whole: bool,
}

impl<'a> Head<'a> {
    /// The lines from the first CRLF on; `None` when one is not a plain header.
    fn of(after: &'a [u8]) -> Option<Self> {
        let mut headers: Vec<Header<'a>> = Vec::with_capacity(12);
        let mut at = 0;
        let is_whole = loop {
            let (header, length) = match Line::of(&after[at + 2..])? {
                Line::Header(header, length) => (header, length),
                Line::Empty => break true,
                Line::Unfinished => break false,
            };
            let is_known = find(&headers, &header.lower).is_some();
            if is_known || headers.len() == HEADERS_MAX || at > HEAD_BYTES_MAX {
                return None;
            }
            headers.push(header);
            at += 2 + length;
        };
        Some(Self {
            lines: &after[..at],
            headers,
            is_whole,
        })
    }
}

enum Line<'a> {
    /// With the bytes it takes, its CRLF not among them.
    Header(Header<'a>, usize),
    Empty,
    /// What may become a header, or the empty line.
    Unfinished,
}

impl<'a> Line<'a> {
    fn of(rest: &'a [u8]) -> Option<Self> {
        let name_length = run(rest, is_name);
        let (name, after) = rest.split_at(name_length);
        let after = match after {
            [] | [b'\r'] if name.is_empty() || after.is_empty() => return Some(Self::Unfinished),
            [b'\r', b'\n', ..] if name.is_empty() => return Some(Self::Empty),
            [b':', after @ ..] if !name.is_empty() => after,
            _ => return None,
        };
        let (value, end) = after.split_at(run(after, is_value));
        match end {
            [] | [b'\r'] => Some(Self::Unfinished),
            [b'\r', b'\n', ..] => {
                let header = Header {
                    name,
                    lower: name.to_ascii_lowercase(),
                    value: trimmed(value),
                };
                Some(Self::Header(header, name_length + 1 + value.len()))
            }
            _ => None,
        }
    }
}

/// How many bytes are such, from the first on.
fn run(bytes: &[u8], is_such: fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| !is_such(*byte));
    end.unwrap_or(bytes.len())
}

fn trimmed(value: &[u8]) -> &[u8] {
    let is_shown = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let Some(first) = value.iter().position(is_shown) else {
        return b"";
    };
    let last = value.iter().rposition(is_shown).unwrap_or(first);
    &value[first..=last]
}

/// RFC 9110, 5.6.2: a character of a token.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~')
}

fn find<'a>(headers: &[Header<'a>], lower: &[u8]) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|header| header.lower == lower)
        .map(|header| header.value)
}

/// How long the body is; `None` when a header says something that only a parser should answer to.
fn length_of(headers: &[Header<'_>]) -> Option<usize> {
    let telling = headers
        .iter()
        .filter(|header| TELLING.contains(&header.lower.as_slice()))
        .count();
    let only_keeps =
        || telling == 1 && find(headers, b"connection").is_some_and(|said| KEEPS.contains(&said));
    if telling > 0 && !only_keeps() {
        return None;
    }
    if !ACCEPTS.contains(&find(headers, b"accept").unwrap_or(b"*/*")) {
        return None;
    }
    let digits = find(headers, b"content-length").unwrap_or(b"0");
    let is_number = !digits.is_empty()
        && digits.len() <= LENGTH_DIGITS_MAX
        && digits.iter().all(u8::is_ascii_digit)
        && (digits[0] != b'0' || digits.len() == 1);
    is_number.then(|| {
        digits
            .iter()
            .fold(0, |sum, digit| sum * 10 + usize::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests;
