use super::*;
use proptest::prelude::*;

const FIRST: &[u8] = b"POST /v1/payments HTTP/1.1";

fn request(lines: &[&str], body: &str) -> Vec<u8> {
    let mut bytes = FIRST.to_vec();
    for line in lines {
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(line.as_bytes());
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

fn of(bytes: &[u8]) -> Read<'_> {
    read(bytes, FIRST.len(), 100)
}

#[test]
fn a_plain_request_is_read_as_it_was_sent() {
    let bytes = request(
        &[
            "Host:oqim",
            "X-Request-Id: \t a b\t ",
            "Content-Length: 2",
            "X:",
        ],
        "{}",
    );
    let Read::Whole { headers, body } = of(&bytes) else {
        panic!("it is plain");
    };
    let found: Vec<(&[u8], &[u8], &[u8])> = headers
        .iter()
        .map(|header| (header.name, header.lower.as_slice(), header.value))
        .collect();
    let expected: Vec<(&[u8], &[u8], &[u8])> = vec![
        (b"Host", b"host", b"oqim"),
        (b"X-Request-Id", b"x-request-id", b"a b"),
        (b"Content-Length", b"content-length", b"2"),
        (b"X", b"x", b""),
    ];
    assert_eq!(expected, found);
    assert_eq!(b"{}", body);
}

#[test]
fn what_readers_might_take_differently_is_strange() {
    let strange: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["Accept: */*"], ""),
        (&["Host: a", "Host: b"], ""),
        (&["Host: a", "host: a"], ""),
        (&["Host : a"], ""),
        (&[": a"], ""),
        (&[" Host: a"], ""),
        (&["Host: a", " folded"], ""),
        (&["Host: a\nX: b"], ""),
        (&["Host: a\rX: b"], ""),
        (&["Host: a\0"], ""),
        (&["Host: \u{451}"], ""),
        (&["Host a"], ""),
        (&["Host: a", "Content-Length: +1"], "x"),
        (&["Host: a", "Content-Length: 01"], "x"),
        (&["Host: a", "Content-Length: 1 "], "xy"),
        (&["Host: a", "Content-Length: 1,1"], "x"),
        (&["Host: a", "Content-Length:"], ""),
        (&["Host: a", "Content-Length: 101"], ""),
        (&["Host: a", "Content-Length: 99999999"], ""),
        (&["Host: a", "Transfer-Encoding: chunked"], ""),
        (&["Host: a", "Content-Encoding: gzip"], ""),
        (&["Host: a", "Expect: 100-continue"], ""),
        (&["Host: a", "Origin: https://a.example"], ""),
        (&["Host: a", "Upgrade: h2c"], ""),
        (&["Host: a", "Connection: close"], ""),
        (&["Host: a", "Connection: keep-alive", "Keep-Alive: 5"], ""),
        (&["Host: a", "Keep-Alive: 5"], ""),
        (&["Host: a", "TE: trailers"], ""),
        (&["Host: a", "Accept: text/html"], ""),
        (&["Host: a"], "GET / HTTP/1.1"),
    ];
    for (lines, body) in strange {
        assert_eq!(Read::Strange, of(&request(lines, body)), "{lines:?}");
    }
    for kept in ["Connection: keep-alive", "Connection: Keep-Alive"] {
        let bytes = request(&["Host: a", kept, "Accept: application/json"], "");
        assert!(matches!(of(&bytes), Read::Whole { .. }), "{kept}");
    }
    assert_eq!(Read::Strange, read(b"GET / HTTP/1.1", 14, 100));
    assert_eq!(Read::Strange, read(b"GET / HTTP/1.1", 99, 100));
}

#[test]
fn more_than_any_parser_takes_is_strange() {
    let long = format!("X: {}", "a".repeat(HEAD_BYTES_MAX));
    assert_eq!(Read::Strange, of(&request(&["Host: a", &long], "")));
    let cut = [FIRST, b"\r\nHost: a\r\n", long.as_bytes()].concat();
    assert_eq!(Read::Strange, of(&cut));
    let many: Vec<String> = (0..=HEADERS_MAX).map(|n| format!("X-{n}: a")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(Read::Strange, of(&request(&many, "")));
    let mut just = vec!["Host: a"];
    just.extend(&many[..HEADERS_MAX - 1]);
    assert!(matches!(of(&request(&just, "")), Read::Whole { .. }));
}

proptest! {
    /// Cut anywhere it is unfinished: a beginning is never taken for a request.
    #[test]
    fn a_beginning_is_unfinished(
        values in proptest::collection::vec("[!-~]([ -~\t]{0,20}[!-~])?", 0..10),
        body in "[ -~]{0,90}",
        cut in any::<prop::sample::Index>(),
    ) {
        let mut lines = vec!["Host: a".to_owned(), format!("Content-Length: {}", body.len())];
        lines.extend(values.iter().enumerate().map(|(n, value)| format!("X-{n}: {value}")));
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let bytes = request(&lines, &body);
        let is_whole = matches!(of(&bytes), Read::Whole { .. });
        prop_assert!(is_whole);
        let least = FIRST.len() + 2;
        let cut = least + cut.index(bytes.len() - least);
        prop_assert_eq!(Read::Unfinished, of(&bytes[..cut]));
    }

    /// Whatever comes, what is taken ends where the bytes end, and has one length.
    #[test]
    fn what_is_taken_is_all_there_is(noise in proptest::collection::vec(any::<u8>(), 0..80)) {
        let mut bytes = request(&["Host: a", "Content-Length: 3"], "abc");
        let at = FIRST.len() + noise.len() % 20;
        bytes.splice(at..at, noise);
        if let Read::Whole { headers, body } = of(&bytes) {
            prop_assert!(bytes.ends_with(body));
            let length = find(&headers, b"content-length").map_or(0, <[u8]>::len);
            prop_assert!(length <= LENGTH_DIGITS_MAX);
        }
    }
}
