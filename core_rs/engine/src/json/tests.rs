//! The grammar by the table that the gateway's tests read too, then what the table cannot hold.

use super::*;
use crate::request::read_canonical;
use proptest::prelude::*;

const TABLE: &str = include_str!("../../tests/tables/json.jsonl");

/// A row's body, written out, as hex, or as one unit many times.
fn body_of(row: &serde_json::Value) -> Vec<u8> {
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    if let Some(hex) = row["hex"].as_str() {
        return (0..hex.len() / 2)
            .map(|index| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap())
            .collect();
    }
    let times = row["times"].as_u64().unwrap_or(0) as usize;
    let middle = text("unit").repeat(times);
    [text("body"), text("before"), &middle, text("after")]
        .concat()
        .into_bytes()
}

fn outcome_of(body: &[u8]) -> String {
    match parse(body) {
        Ok(_) => "ok".into(),
        Err(JsonError::Malformed) => "malformed".into(),
        Err(JsonError::Encoding) => "encoding".into(),
        Err(JsonError::TooDeep) => "too-deep".into(),
        Err(JsonError::Duplicate { pointer }) => format!("duplicate {pointer}"),
    }
}

#[test]
fn every_row_of_the_table_is_read_as_it_says() {
    let mut count = 0;
    for line in TABLE.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let body = body_of(&row);
        assert_eq!(row["parse"], outcome_of(&body), "{line}");
        let door = match row["parse"].as_str().unwrap() {
            "ok" => row["door"].as_str().unwrap_or("ok"),
            "malformed" => "malformed-json",
            "encoding" => "invalid-encoding",
            "too-deep" => "too-deep",
            _ => "duplicate-member",
        };
        let read = read_canonical(&body);
        let slug = read.as_ref().map_or_else(|refusal| refusal.slug, |_| "ok");
        assert_eq!(door, slug, "{line}");
        if let (Some(expected), Ok(canonical)) = (row["canonical"].as_str(), read) {
            assert_eq!(expected, String::from_utf8(canonical).unwrap(), "{line}");
        }
        count += 1;
    }
    assert!(count > 250, "the table has {count} rows");
}

/// Each of a few is compared with those before it; each of many is looked for in a table, so that
/// a body of nothing but members takes time that follows its length.
#[test]
fn the_names_of_many_members_are_in_a_table() {
    let mut names = Names::default();
    let mut members = Vec::new();
    for number in 0..9_000 {
        let name = format!("{number:x}");
        assert!(!names.has(&members, &name));
        let in_table = if number < FEW_MEMBERS { 0 } else { number };
        assert_eq!(in_table, names.places.len());
        members.push((Cow::Owned(name), Value::Null));
    }
    assert!(names.has(&members, "0") && names.has(&members, "2327"));
    let body: Vec<String> = members
        .iter()
        .map(|(name, _)| format!("\"{name}\":0"))
        .collect();
    assert!(parse(format!("{{{}}}", body.join(",")).as_bytes()).is_ok());
}

#[test]
fn the_first_forbidden_character_is_pointed_at() {
    let found = |body: &str| find_forbidden(&parse(body.as_bytes()).unwrap());
    for (body, pointer) in [
        (r#"{"a":["\u0000"]}"#, Some("/a/0")),
        (r#"{"n":"a\u202eb"}"#, Some("/n")),
        (
            r#"{"a":[1,{"b/c":"\u007f"}],"d":"\u0000"}"#,
            Some("/a/1/b~1c"),
        ),
        (r#"{"a":{"x\u200b":"\u0000"},"b":1}"#, Some("/a")),
        (r#""\u0000""#, Some("")),
        (r#"{"n":"Ўқитувчи — it's O‘zbek"}"#, None),
        (r#"{"n":"~ !"}"#, None),
    ] {
        assert_eq!(pointer, found(body).as_deref(), "{body}");
    }
}

#[test]
fn a_document_is_harmless_when_no_text_of_it_need_be_looked_at() {
    for (body, expected) in [
        ("{\"a\": [1, \"~ !\"],\r\n\t\"b\": null}", true),
        ("{\"a\": \"\u{7f}\"}", false),
        ("{\"a\": \"\\u0000\"}", false),
        ("{\"\u{202e}\": 1}", false),
        ("{\"a\": \"\u{9f}\"}", false),
    ] {
        assert_eq!(expected, is_harmless(body.as_bytes()), "{body:?}");
    }
}

#[test]
fn members_are_ordered_by_whole_names() {
    // Alike in their first eight bytes and beyond; a name ends before the one that goes on.
    let ordered = [
        "",
        "\0",
        "a",
        "a\0",
        "aa",
        "abcdefg",
        "abcdefg\0",
        "abcdefgh",
        "abcdefgha",
        "abcdefghb",
        "abcdefgi",
        "b",
    ];
    let members = ordered
        .iter()
        .rev()
        .map(|name| ((*name).to_owned().into(), Value::Null));
    let written = canonical(&Value::Object(members.collect()));
    let Ok(Value::Object(read)) = parse(&written) else {
        panic!("it is an object");
    };
    let names: Vec<&str> = read.iter().map(|(name, _)| name.as_ref()).collect();
    assert_eq!(ordered.as_slice(), names);
}

#[test]
fn forbidden_are_controls_and_what_cannot_be_seen() {
    let forbidden: Vec<(u32, u32)> = vec![
        (0x00, 0x1f),
        (0x7f, 0x9f),
        (0x200b, 0x200f),
        (0x2028, 0x202e),
        (0x2060, 0x2069),
        (0xfeff, 0xfeff),
    ];
    for code in 0..=0x1_0fff {
        if let Some(character) = char::from_u32(code) {
            let expected = forbidden
                .iter()
                .any(|(low, high)| (low..=high).contains(&&code));
            assert_eq!(expected, is_forbidden(character), "U+{code:04X}");
        }
    }
}

#[test]
fn the_first_fraction_is_pointed_at() {
    let found = |body: &str| find_fraction(&parse(body.as_bytes()).unwrap());
    for (body, pointer) in [
        ("1.0", Some("")),
        (r#"{"a":[1,2,3e1],"b":1.5}"#, Some("/a/2")),
        (r#"{"a":"1.5","b":[0.5]}"#, Some("/b/0")),
        (r#"{"a":[1,-2],"b":"1E5"}"#, None),
    ] {
        assert_eq!(pointer, found(body).as_deref(), "{body}");
    }
}

#[test]
fn control_characters_have_one_canonical_form() {
    let all: String = (0..0x20).filter_map(char::from_u32).collect();
    let value = Value::Text(all.into());
    let expected = concat!(
        r#""\u0000\u0001\u0002\u0003\u0004\u0005\u0006\u0007\b\t\n\u000b\f\r\u000e\u000f"#,
        r#"\u0010\u0011\u0012\u0013\u0014\u0015\u0016\u0017\u0018\u0019\u001a\u001b\u001c"#,
        r#"\u001d\u001e\u001f""#
    );
    assert_eq!(expected, String::from_utf8(canonical(&value)).unwrap());
}

#[test]
fn a_run_of_plain_text_ends_where_it_ends() {
    for byte in 0..=u8::MAX {
        let is_over = byte < 0x20 || byte == b'"' || byte == b'\\';
        for (filler, length) in [(b'a', 20), (0xbf, 20), (0x20, 16), (0x7f, 9), (0x23, 7)] {
            for at in 0..length {
                let mut bytes = vec![filler; length];
                bytes[at] = byte;
                let expected = if is_over { at } else { length };
                assert_eq!(
                    expected,
                    plain_length(&bytes),
                    "{byte:#x} at {at} of {length}"
                );
            }
        }
    }
    assert_eq!(0, plain_length(b""));
    assert_eq!(3, plain_length(b"abc\x01\"\\defgh\""));
}

/// Documents as another implementation writes them.
fn any_document() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        "\\PC{0,12}".prop_map(Into::into),
        "[a\"\\\\/\u{8}\n\u{0}é😀]{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 64, 24, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..24)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
    }

    /// Bytes that are nearly JSON get further than any.
    #[test]
    fn what_is_read_is_what_another_reader_reads(
        body in "[\\[\\]{}:,\" 0-9eE+.\\\\ua-]{0,24}"
    ) {
        if let Ok(value) = parse(body.as_bytes()) {
            let theirs: Result<serde_json::Value, _> = serde_json::from_str(&body);
            let ours: Result<serde_json::Value, _> = serde_json::from_slice(&canonical(&value));
            // It alone refuses numbers too large for a float, and turns minus zero into a float.
            if let Ok(theirs) = theirs {
                prop_assert_eq!(theirs.to_string().replace("-0.0", "0"), ours.unwrap().to_string()
                    .replace("-0.0", "0"));
            }
        }
    }

    #[test]
    fn what_another_writes_is_read_and_written_back(document in any_document()) {
        let pretty = serde_json::to_string_pretty(&document).unwrap();
        for body in [document.to_string(), pretty] {
            let written = canonical(&parse(body.as_bytes()).unwrap());
            let read: serde_json::Value = serde_json::from_slice(&written).unwrap();
            prop_assert_eq!(&document, &read);
            prop_assert_eq!(&written, &canonical(&parse(&written).unwrap()));
        }
    }

    #[test]
    fn a_second_member_of_one_name_is_found_wherever_it_is(
        count in 1_usize..60, again in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()
    ) {
        let mut names: Vec<String> = (0..count).map(|n| format!("n{n}")).collect();
        let name = names[again.index(count)].clone();
        names.insert(at.index(count + 1), name.clone());
        let members: Vec<String> = names.iter().map(|name| format!("\"{name}\":0")).collect();
        let body = format!("{{{}}}", members.join(","));
        let pointer = format!("/{name}");
        prop_assert_eq!(Err(JsonError::Duplicate { pointer }), parse(body.as_bytes()));
    }
}
