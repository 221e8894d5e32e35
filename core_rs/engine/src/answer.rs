//! An answer as bytes for a socket: HTTP/1.1, its length told, the connection left open.

use thiserror::Error;

use crate::text::{digits_of, NUMBER_DIGITS_MAX};
use crate::window::civil_of_second;

/// Says which by name, never by value.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the header {0} is not one line of ASCII")]
pub struct NotALine(pub String);

/// What every answer carries beside its own headers.
#[derive(Debug)]
pub struct Answers {
    every: Vec<(String, String)>,
}

/// One answer's own part.
#[derive(Debug, Clone, Copy)]
pub struct Own<'a> {
    pub status: u16,
    pub reason: &'a str,
    pub content_type: &'a str,
    pub request_id: &'a str,
    /// In their order. One that every answer carries has its place there, and this value.
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

impl Answers {
    pub fn new(every: Vec<(String, String)>) -> Result<Self, NotALine> {
        for (name, value) in &every {
            check(name, value)?;
        }
        Ok(Self { every })
    }

    /// The whole answer, given at a second of Unix time.
    pub fn write(&self, own: Own<'_>, at_s: i64) -> Result<Vec<u8>, NotALine> {
        check("status", own.reason)?;
        let mut out = Vec::with_capacity(640 + own.body.len());
        out.extend_from_slice(b"HTTP/1.1 ");
        put_number(usize::from(own.status), &mut out);
        put_all(&[" ", own.reason], &mut out);
        let first = [
            ("Content-Type", own.content_type),
            ("X-Request-Id", own.request_id),
        ];
        for (name, value) in first.iter().chain(own.headers) {
            check(name, value)?;
        }
        for (name, value) in first {
            put_all(&["\r\n", name, ": ", value], &mut out);
        }
        for (name, value) in &self.every {
            let value = said(name, own.headers).unwrap_or(value);
            put_all(&["\r\n", name, ": ", value], &mut out);
        }
        for (name, value) in own.headers {
            if !self.every.iter().any(|(other, _)| other == name) {
                put_all(&["\r\n", name, ": ", value], &mut out);
            }
        }
        out.extend_from_slice(b"\r\nContent-Length: ");
        put_number(own.body.len(), &mut out);
        out.extend_from_slice(b"\r\nDate: ");
        put_date(at_s, &mut out);
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(own.body);
        Ok(out)
    }
}

fn said<'a>(name: &str, headers: &[(&str, &'a str)]) -> Option<&'a str> {
    headers
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, value)| *value)
}

/// A line end in a value would be another header, or the beginning of a body.
fn check(name: &str, value: &str) -> Result<(), NotALine> {
    let is_line = |text: &str| {
        text.bytes()
            .all(|byte| byte == b'\t' || byte == b' ' || byte.is_ascii_graphic())
    };
    match is_line(name) && is_line(value) {
        true => Ok(()),
        false => Err(NotALine(name.escape_default().to_string())),
    }
}

fn put_all(parts: &[&str], out: &mut Vec<u8>) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

fn put_number(number: usize, out: &mut Vec<u8>) {
    let mut room = [0; NUMBER_DIGITS_MAX];
    out.extend_from_slice(digits_of(number as u64, &mut room).as_bytes());
}

fn digit(of: usize) -> u8 {
    b"0123456789"[of]
}

/// RFC 9110, 5.6.7: `Sun, 06 Nov 1994 08:49:37 GMT`.
fn put_date(at_s: i64, out: &mut Vec<u8>) {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let civil = civil_of_second(at_s);
    let two = |number: usize| [digit(number / 10 % 10), digit(number % 10)];
    put_all(&[DAYS[civil.weekday], ", "], out);
    out.extend_from_slice(&two(civil.day));
    put_all(&[" ", MONTHS[civil.month - 1], " "], out);
    out.extend_from_slice(&two(civil.year / 100));
    out.extend_from_slice(&two(civil.year));
    for (before, number) in [
        (b' ', civil.hour),
        (b':', civil.minute),
        (b':', civil.second),
    ] {
        out.push(before);
        out.extend_from_slice(&two(number));
    }
    out.extend_from_slice(b" GMT");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> Answers {
        Answers::new(vec![
            ("Cache-Control".to_owned(), "no-store".to_owned()),
            ("Server".to_owned(), "oqim".to_owned()),
        ])
        .unwrap()
    }

    fn written(headers: &[(&str, &str)], body: &[u8]) -> Result<String, NotALine> {
        let own = Own {
            status: 201,
            reason: "Created",
            content_type: "application/json",
            request_id: "req_1",
            headers,
            body,
        };
        let bytes = answers().write(own, 784_111_777)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_answer_has_its_lines_its_length_and_its_date() {
        assert_eq!(
            "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nX-Request-Id: req_1\r\n\
             Cache-Control: no-store\r\nServer: oqim\r\nLocation: /v1/a\r\nContent-Length: 2\r\n\
             Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n\r\n{}",
            written(&[("Location", "/v1/a")], b"{}").unwrap()
        );
    }

    #[test]
    fn what_every_answer_carries_one_may_say_otherwise() {
        let text = written(&[("A", "1"), ("Cache-Control", "max-age=1")], b"").unwrap();
        let lines: Vec<&str> = text.split("\r\n").collect();
        assert_eq!(
            ["Cache-Control: max-age=1", "Server: oqim", "A: 1"],
            lines[3..6]
        );
        assert_eq!("Content-Length: 0", lines[6]);
    }

    #[test]
    fn a_header_cannot_end_a_line() {
        for bad in ["a\r\nX-B: b", "a\nb", "a\rb", "a\0", "\u{451}", "\u{7f}"] {
            assert_eq!(
                Err(NotALine("X-A".to_owned())),
                written(&[("X-A", bad)], b"")
            );
            let every = vec![("X-A".to_owned(), bad.to_owned())];
            assert!(Answers::new(every).is_err());
        }
        assert_eq!(
            Err(NotALine("X\\r\\nA".to_owned())),
            written(&[("X\r\nA", "a")], b"")
        );
    }

    #[test]
    fn numbers_and_dates_are_written_out() {
        for number in [0, 9, 10, 65_536, usize::MAX] {
            let mut out = Vec::new();
            put_number(number, &mut out);
            assert_eq!(number.to_string().as_bytes(), out);
        }
        for (at_s, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_798_761_600, "Fri, 01 Jan 2027 00:00:00 GMT"),
            (4_102_444_799, "Thu, 31 Dec 2099 23:59:59 GMT"),
        ] {
            let mut out = Vec::new();
            put_date(at_s, &mut out);
            assert_eq!(expected.as_bytes(), out, "{at_s}");
        }
    }
}
