//! Golden vector first, then every way a message can be wrong, then properties.

use super::*;
use proptest::prelude::*;

const GOLDEN: &str = "01007224648108e08000104242424242424242000000000001250000112114300000012328\
125999086001005906412345f6f3f2f5f1f4f0f0f0f1f2f3e3c5d9d4f0f0f0f1d4c5d9c3c8c1d5e3f0f0f0f0f0f0f1d6d8\
c9d440e3c5e2e340e2c8d6d74040404040404040404040e3c1e2c8d2c5d5e34040404040e4e90860";

const FIELDS: [(u8, &str); 16] = [
    (2, "4242424242424242"),
    (3, "000000"),
    (4, "000001250000"),
    (7, "1121143000"),
    (11, "000123"),
    (14, "2812"),
    (18, "5999"),
    (19, "860"),
    (22, "010"),
    (25, "59"),
    (32, "412345"),
    (37, "632514000123"),
    (41, "TERM0001"),
    (42, "MERCHANT0000001"),
    (43, "OQIM TEST SHOP           TASHKENT     UZ"),
    (49, "860"),
];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Owned {
    Text(String),
    Bytes(Vec<u8>),
}

type Message = (String, Vec<(u8, Owned)>);

fn dialect() -> &'static Dialect {
    Dialect::named("visa-binary").expect("the dialect exists")
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|index| u8::from_str_radix(&text[2 * index..2 * index + 2], 16).expect("hex"))
        .collect()
}

fn pack(mti: &str, fields: &[(u8, Owned)]) -> Result<Vec<u8>, Iso8583Error> {
    let mut packer = Packer::new(dialect(), mti)?;
    for (number, value) in fields {
        match value {
            Owned::Text(text) => packer.push(*number, Value::Text(text))?,
            Owned::Bytes(bytes) => packer.push(*number, Value::Bytes(bytes))?,
        }
    }
    Ok(packer.finish(<[u8]>::to_vec))
}

fn unpack(message: &[u8]) -> Result<Message, Iso8583Error> {
    let mut unpacker = Unpacker::new(dialect(), message)?;
    let mti = unpacker.mti().to_owned();
    let mut fields = Vec::new();
    while let Some((number, value)) = unpacker.next_field()? {
        fields.push((
            number,
            match value {
                Value::Text(text) => Owned::Text(text.to_owned()),
                Value::Bytes(bytes) => Owned::Bytes(bytes.to_vec()),
            },
        ));
    }
    Ok((mti, fields))
}

fn texts(fields: &[(u8, &str)]) -> Vec<(u8, Owned)> {
    fields
        .iter()
        .map(|(number, text)| (*number, Owned::Text((*text).to_owned())))
        .collect()
}

fn error(message: &[u8]) -> String {
    unpack(message).expect_err("must be refused").to_string()
}

#[test]
fn golden_message_packs_byte_for_byte() {
    assert_eq!(hex(GOLDEN), pack("0100", &texts(&FIELDS)).unwrap());
}

#[test]
fn golden_message_unpacks_to_its_fields() {
    assert_eq!(
        ("0100".to_owned(), texts(&FIELDS)),
        unpack(&hex(GOLDEN)).unwrap()
    );
}

#[test]
fn bitmaps_are_the_known_ones() {
    let width = |number: u8| match dialect().field(number).expect("defined").length {
        Length::Fixed(width) => usize::from(width),
        Length::Var { .. } => 6,
    };
    let cases: [(&str, &[u8], &str); 4] = [
        (
            "0110",
            &[2, 3, 4, 7, 11, 19, 25, 32, 37, 38, 39, 41, 42, 49],
            "722020810ec08000",
        ),
        (
            "0400",
            &[
                2, 3, 4, 7, 11, 14, 18, 19, 22, 25, 32, 37, 38, 41, 42, 43, 49, 90,
            ],
            "f22464810ce080000000004000000000",
        ),
        ("0800", &[7, 11, 37, 70], "82200000080000000400000000000000"),
        (
            "0810",
            &[7, 11, 37, 39, 70],
            "822000000a0000000400000000000000",
        ),
    ];
    for (mti, numbers, bitmap) in cases {
        let fields: Vec<_> = numbers
            .iter()
            .map(|n| (*n, Owned::Text("0".repeat(width(*n)))))
            .collect();
        let packed = pack(mti, &fields).unwrap();
        let bitmap = hex(bitmap);
        assert_eq!(bitmap, packed[2..2 + bitmap.len()]);
        assert_eq!((mti.to_owned(), fields), unpack(&packed).unwrap());
    }
}

#[test]
fn every_truncation_of_a_message_is_refused() {
    let golden = hex(GOLDEN);
    for length in 0..golden.len() {
        assert!(
            unpack(&golden[..length]).is_err(),
            "{length} bytes were accepted"
        );
    }
}

#[test]
fn faults_name_the_path_and_never_the_value() {
    let golden = hex(GOLDEN);
    let patched = |index: usize, byte: u8| {
        let mut message = golden.clone();
        message[index] = byte;
        message
    };
    let mut trailing = golden.clone();
    trailing.push(0);
    assert_eq!("message: 1 bytes follow the last field", error(&trailing));
    assert_eq!("mti: needs 2 bytes, 0 are left", error(&[]));
    assert_eq!(
        "mti: has a character that is not a decimal digit",
        error(&patched(0, 0xa1))
    );
    assert_eq!("bitmap: needs 8 bytes, 1 are left", error(&golden[..3]));
    assert_eq!(
        "F2.length: must be at most 19 long, is 20",
        error(&patched(10, 20))
    );
    assert_eq!("F2.length: is empty", error(&patched(10, 0)));
    assert_eq!(
        "F2: has a character that is not a decimal digit",
        error(&patched(11, 0x4a))
    );
    assert_eq!(
        "F8: is not defined in this dialect",
        error(&patched(2, 0x73))
    );
    assert_eq!(
        "F19: has a filler that is not zero",
        error(&patched(40, 0x18))
    );
    assert_eq!(
        "F22: has a filler that is not zero",
        error(&patched(43, 0x01))
    );
    assert_eq!(
        "F37: has a character that is not printable ASCII",
        error(&patched(53, 0x00))
    );
}

#[test]
fn a_secondary_bitmap_must_name_something() {
    let message = hex("0800820000000000000000000000000000001121143000");
    assert_eq!("bitmap.secondary: is empty", error(&message));
    assert_eq!(
        "bitmap.secondary: needs 8 bytes, 0 are left",
        error(&hex("08008000000000000000"))
    );
}

#[test]
fn packing_refuses_what_does_not_fit() {
    let one = |number: u8, value: Owned| pack("0100", &[(number, value)]).unwrap_err().to_string();
    let text = |text: &str| Owned::Text(text.to_owned());
    assert_eq!("F4: must be 12 long, is 0", one(4, text("")));
    assert_eq!("F4: must be 12 long, is 3", one(4, text("100")));
    assert_eq!(
        "F3: has a character that is not a decimal digit",
        one(3, text("00 000"))
    );
    assert_eq!(
        "F2: must be at most 19 long, is 20",
        one(2, text("00000000000000000000"))
    );
    assert_eq!("F2: is empty", one(2, text("")));
    assert_eq!(
        "F39: has a character that is not printable ASCII",
        one(39, text("0\n"))
    );
    assert_eq!(
        "F37: has a character that is not printable ASCII",
        one(37, text("1234567890ü"))
    );
    assert_eq!("F62: must be bytes", one(62, text("ab")));
    assert_eq!("F3: must be text", one(3, Owned::Bytes(vec![0; 6])));
    assert_eq!("F35: is not defined in this dialect", one(35, text("1")));
    assert_eq!("F0: is not defined in this dialect", one(0, text("1")));
    assert_eq!("F1: is not defined in this dialect", one(1, text("1")));
    assert_eq!("F255: is not defined in this dialect", one(255, text("1")));
    assert_eq!(
        "F62: must be at most 255 long, is 256",
        one(62, Owned::Bytes(vec![0; 256]))
    );
    let twice = texts(&[(3, "000000"), (3, "000000")]);
    let order = pack("0100", &twice).unwrap_err().to_string();
    assert_eq!("F3: is not in ascending order or is given twice", order);
    assert_eq!(
        "mti: must be 4 long, is 3",
        pack("100", &[]).unwrap_err().to_string()
    );
}

#[test]
fn a_field_that_is_refused_leaves_the_message_as_it_was() {
    for (number, bad) in [
        (2, "4242x24242424242"),
        (3, "00000x"),
        (32, "41234x"),
        (37, "63251400012\n"),
        (102, "account\0"),
        (44, "twenty-six characters long"),
        (32, ""),
    ] {
        let mut packer = Packer::new(dialect(), "0100").unwrap();
        if number > 2 {
            packer.push(2, Value::Text("4242424242424242")).unwrap();
        }
        assert!(packer.push(number, Value::Text(bad)).is_err(), "{bad:?}");
        packer.push(103, Value::Text("account 2")).unwrap();
        let fields = [(2, "4242424242424242"), (103, "account 2")];
        let expected = texts(if number > 2 { &fields } else { &fields[1..] });
        let message = packer.finish(<[u8]>::to_vec);
        assert_eq!(
            ("0100".to_owned(), expected),
            unpack(&message).unwrap(),
            "{bad:?}"
        );
    }
}

#[test]
fn a_dialect_is_found_by_its_name_only() {
    assert_eq!("visa-binary", dialect().name);
    assert!(Dialect::named("VISA-BINARY").is_none());
}

fn any_value(field: Field) -> BoxedStrategy<Owned> {
    let (least, most) = match field.length {
        Length::Fixed(width) => (usize::from(width), usize::from(width)),
        Length::Var { max } => (
            usize::from(matches!(field.encoding, Encoding::Bcd(_))),
            usize::from(max),
        ),
    };
    let text = |low: u8, high: u8| {
        prop::collection::vec(low..=high, least..=most)
            .prop_map(|bytes| Owned::Text(String::from_utf8(bytes).expect("ASCII")))
            .boxed()
    };
    match field.encoding {
        Encoding::Bcd(_) => text(b'0', b'9'),
        Encoding::Ebcdic => text(b' ', b'~'),
        Encoding::Binary => prop::collection::vec(any::<u8>(), least..=most)
            .prop_map(Owned::Bytes)
            .boxed(),
    }
}

fn any_message() -> impl Strategy<Value = Message> {
    let defined: Vec<u8> = (2..=FIELD_MAX)
        .filter(|n| dialect().field(*n).is_some())
        .collect();
    let count = defined.len();
    let fields = prop::sample::subsequence(defined, 0..=count).prop_flat_map(|numbers| {
        numbers
            .into_iter()
            .map(|n| any_value(*dialect().field(n).expect("defined")).prop_map(move |v| (n, v)))
            .collect::<Vec<_>>()
    });
    ("[0-9]{4}", fields)
}

proptest! {
    #[test]
    fn unpacking_what_was_packed_changes_nothing(message in any_message()) {
        let packed = pack(&message.0, &message.1).unwrap();
        prop_assert_eq!(message, unpack(&packed).unwrap());
    }

    #[test]
    fn packing_what_was_unpacked_changes_nothing(
        message in any_message(), index in any::<prop::sample::Index>(), byte in any::<u8>()
    ) {
        let mut packed = pack(&message.0, &message.1).unwrap();
        let index = index.index(packed.len());
        packed[index] = byte;
        if let Ok((mti, fields)) = unpack(&packed) {
            prop_assert_eq!(packed, pack(&mti, &fields).unwrap());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = unpack(&bytes);
    }

    #[test]
    fn every_ebcdic_byte_that_is_read_is_written_back(byte in any::<u8>()) {
        let message = [&hex("01000000000002000000")[..], &[byte, 0x40]].concat();
        if let Ok((mti, fields)) = unpack(&message) {
            prop_assert_eq!(message, pack(&mti, &fields).unwrap());
        }
    }
}
