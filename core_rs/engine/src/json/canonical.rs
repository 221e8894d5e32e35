//! The one form of a document by which two are the same request (RFC 8785).

use std::borrow::Cow;

use super::{plain_length, Member, Value};

/// Canonical bytes after RFC 8785: members sorted by UTF-16 code units, shortest escapes, no
/// space. Numbers keep their text, save `-0`: every number we accept is an integer.
pub fn canonical(value: &Value<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
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
            out.push(b'{');
            for (index, (_, (name, member))) in sorted(members).into_iter().enumerate() {
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

/// Members in their order, each with the front of its name.
fn sorted<'v, 'a>(members: &'v [Member<'a>]) -> Vec<(u64, &'v Member<'a>)> {
    let mut sorted: Vec<_> = members
        .iter()
        .map(|member| (front_of(&member.0), member))
        .collect();
    // Of ASCII the bytes are in the same order, and compared sooner: mostly by their fronts alone.
    if members.iter().all(|(name, _)| name.is_ascii()) {
        sorted.sort_by(|(left, one), (right, other)| {
            left.cmp(right).then_with(|| one.0.cmp(&other.0))
        });
    } else {
        let units = |member: &'v Member<'a>| member.0.encode_utf16();
        sorted.sort_by(|(_, one), (_, other)| units(one).cmp(units(other)));
    }
    sorted
}

/// The first bytes of a name as a number of the same order; a shorter name is followed by zeros,
/// below every byte.
fn front_of(name: &str) -> u64 {
    let mut front = [0; 8];
    for (place, byte) in front.iter_mut().zip(name.as_bytes()) {
        *place = *byte;
    }
    u64::from_be_bytes(front)
}

#[expect(clippy::ptr_arg, reason = "that it is borrowed says something of it")]
fn write_text(text: &Cow<'_, str>, out: &mut Vec<u8>) {
    out.push(b'"');
    if let Cow::Borrowed(plain) = text {
        // It stood like this in a document, and needs no escape here either.
        debug_assert_eq!(plain.len(), plain_length(plain.as_bytes()));
        out.extend_from_slice(plain.as_bytes());
        out.push(b'"');
        return;
    }
    let mut rest = text.as_bytes();
    loop {
        let (plain, after) = rest.split_at(plain_length(rest));
        out.extend_from_slice(plain);
        let Some((byte, after)) = after.split_first() else {
            break;
        };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
        rest = after;
    }
    out.push(b'"');
}
