//! A dialect is data: for each field its kind of length, its encoding and where its filler goes.

/// Highest field number: a primary and a secondary bitmap.
pub const FIELD_MAX: u8 = 128;

/// Where the filler nibble of an odd number of packed digits stands. The filler is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filler {
    Left,
    Right,
}

/// How a value lies on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Decimal digits, two to a byte.
    Bcd(Filler),
    /// Printable ASCII, as EBCDIC code page 037, one character to a byte.
    Ebcdic,
    /// Bytes as they are.
    Binary,
}

/// Length, counted in digits, characters or bytes according to the encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    Fixed(u8),
    /// One binary byte holds the count.
    Var {
        max: u8,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    pub length: Length,
    pub encoding: Encoding,
}

/// The fields of one dialect, indexed by number; 0 and 1 (the bitmaps) are always `None`.
pub struct Dialect {
    pub name: &'static str,
    fields: [Option<Field>; FIELD_MAX as usize + 1],
}

impl Dialect {
    /// The dialect of that name, if there is one.
    pub fn named(name: &str) -> Option<&'static Dialect> {
        DIALECTS
            .iter()
            .copied()
            .find(|dialect| dialect.name == name)
    }

    pub fn field(&self, number: u8) -> Option<&Field> {
        self.fields
            .get(usize::from(number))
            .and_then(Option::as_ref)
    }

    const fn new(name: &'static str, list: &[(u8, Field)]) -> Self {
        let mut fields = [None; FIELD_MAX as usize + 1];
        let mut index = 0;
        while index < list.len() {
            let (number, field) = list[index];
            assert!(number >= 2 && number <= FIELD_MAX && fields[number as usize].is_none());
            fields[number as usize] = Some(field);
            index += 1;
        }
        Self { name, fields }
    }
}

const fn n(width: u8) -> Field {
    Field {
        length: Length::Fixed(width),
        encoding: Encoding::Bcd(Filler::Left),
    }
}

const fn n_right(width: u8) -> Field {
    Field {
        length: Length::Fixed(width),
        encoding: Encoding::Bcd(Filler::Right),
    }
}

const fn n_var(max: u8) -> Field {
    Field {
        length: Length::Var { max },
        encoding: Encoding::Bcd(Filler::Left),
    }
}

const fn ans(width: u8) -> Field {
    Field {
        length: Length::Fixed(width),
        encoding: Encoding::Ebcdic,
    }
}

const fn ans_var(max: u8) -> Field {
    Field {
        length: Length::Var { max },
        encoding: Encoding::Ebcdic,
    }
}

const fn b_var(max: u8) -> Field {
    Field {
        length: Length::Var { max },
        encoding: Encoding::Binary,
    }
}

/// The BASE I-like binary profile.
///
/// Tracks (35, 36, 45) and the PIN block (52) are left out on purpose: sensitive authentication
/// data has no way in or out of this product.
static VISA_BINARY: Dialect = Dialect::new(
    "visa-binary",
    &[
        (2, n_var(19)),     // primary account number
        (3, n(6)),          // processing code
        (4, n(12)),         // amount, transaction
        (5, n(12)),         // amount, settlement
        (6, n(12)),         // amount, cardholder billing
        (7, n(10)),         // transmission date and time, MMDDhhmmss UTC
        (9, n(8)),          // conversion rate, settlement
        (10, n(8)),         // conversion rate, cardholder billing
        (11, n(6)),         // system trace audit number
        (12, n(6)),         // local time
        (13, n(4)),         // local date
        (14, n(4)),         // expiry, YYMM
        (15, n(4)),         // settlement date
        (16, n(4)),         // conversion date
        (18, n(4)),         // merchant category
        (19, n(3)),         // acquirer country
        (20, n(3)),         // PAN country
        (22, n_right(3)),   // point of service entry mode: three digits, then the filler
        (23, n(3)),         // card sequence number
        (25, n(2)),         // point of service condition
        (26, n(2)),         // PIN capture code
        (32, n_var(11)),    // acquiring institution
        (33, n_var(11)),    // forwarding institution
        (37, ans(12)),      // retrieval reference number
        (38, ans(6)),       // authorisation code
        (39, ans(2)),       // response code
        (41, ans(8)),       // terminal
        (42, ans(15)),      // card acceptor
        (43, ans(40)),      // name 25, city 13, country 2
        (44, ans_var(25)),  // additional response
        (48, b_var(255)),   // private data
        (49, n(3)),         // currency, transaction
        (50, n(3)),         // currency, settlement
        (51, n(3)),         // currency, cardholder billing
        (53, n(16)),        // security control
        (54, ans_var(120)), // additional amounts
        (55, b_var(255)),   // chip data
        (60, b_var(255)),   // point of service
        (62, b_var(255)),   // payment service
        (63, b_var(255)),   // network
        (70, n(3)),         // network management code
        (73, n(6)),         // action date
        (90, n(42)),        // original data elements
        (95, ans(42)),      // replacement amounts
        (100, n_var(11)),   // receiving institution
        (102, ans_var(28)), // account 1
        (103, ans_var(28)), // account 2
        (126, b_var(255)),  // private, network
    ],
);

static DIALECTS: [&Dialect; 1] = [&VISA_BINARY];
