//! Reads the parts of a certificate that rustls does not give out: its time and its names. Judges nothing
//! and verifies no signature.

use chrono::{DateTime, NaiveDateTime, Utc};

/// DER tags.
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// The object ids of a common name and of the alternative names.
const COMMON_NAME: &[u8] = &[0x55, 4, 3];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 29, 17];

/// The time and the names of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CertificateFacts {
    pub(super) not_before: DateTime<Utc>,
    pub(super) not_after: DateTime<Utc>,
    /// The last common name of the subject.
    pub(super) common_name: Option<String>,
    /// Whether it has alternative names: then the common name does not count.
    pub(super) has_alternatives: bool,
}

/// The names in a certificate, in DER, as they are compared: byte by byte.
pub(super) struct CertificateNames<'a> {
    pub(super) issuer: &'a [u8],
    pub(super) subject: &'a [u8],
    validity: &'a [u8],
    /// What is behind the subject.
    rest: &'a [u8],
}

/// The names in the DER form of a certificate, which may end behind them; `None`: it is none.
pub(super) fn names(certificate: &[u8]) -> Option<CertificateNames<'_>> {
    let mut rest = inside(inside(certificate, SEQUENCE)?, SEQUENCE)?;
    if rest.first() == Some(&VERSION) {
        value(&mut rest, VERSION)?;
    }
    value(&mut rest, INTEGER)?;
    value(&mut rest, SEQUENCE)?; // The algorithm.
    let issuer = value(&mut rest, SEQUENCE)?;
    let validity = value(&mut rest, SEQUENCE)?;
    let subject = value(&mut rest, SEQUENCE)?;
    Some(CertificateNames { issuer, subject, validity, rest })
}

impl CertificateFacts {
    /// The facts in the DER form of a certificate; `None`: it is none.
    pub(super) fn read(certificate: &[u8]) -> Option<Self> {
        let CertificateNames { mut validity, mut subject, mut rest, .. } = names(certificate)?;
        let (not_before, not_after) = (time(&mut validity)?, time(&mut validity)?);
        let mut common_name = None;
        while let Some((_, mut set)) = next(&mut subject) {
            let mut pair = value(&mut set, SEQUENCE)?;
            if value(&mut pair, OBJECT_ID)? == COMMON_NAME {
                common_name = Some(String::from_utf8(next(&mut pair)?.1.to_vec()).ok()?);
            }
        }
        let mut has_alternatives = false;
        while let Some((tag, mut wrapped)) = next(&mut rest) {
            if tag == EXTENSIONS {
                let mut extensions = value(&mut wrapped, SEQUENCE)?;
                while let Some((_, mut extension)) = next(&mut extensions) {
                    has_alternatives |= value(&mut extension, OBJECT_ID)? == ALTERNATIVE_NAMES;
                }
            }
        }
        Some(Self { not_before, not_after, common_name, has_alternatives })
    }
}

/// The tag and the length of the first value in `bytes`, and what is behind them.
fn header(bytes: &[u8]) -> Option<(u8, usize, &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    if first < 0x80 {
        return Some((tag, usize::from(first), rest));
    }
    let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
    if digits.is_empty() || digits.len() > 3 {
        return None;
    }
    let length = digits.iter().fold(0, |length, &digit| length << 8 | usize::from(digit));
    Some((tag, length, rest))
}

/// Takes the next value off `bytes`, with its tag.
fn next<'a>(bytes: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (tag, length, rest) = header(bytes)?;
    let (value, behind) = rest.split_at_checked(length)?;
    *bytes = behind;
    Some((tag, value))
}

/// What is in the value with which `bytes` begin, which has `tag` and may be cut off.
fn inside(bytes: &[u8], tag: u8) -> Option<&[u8]> {
    header(bytes).filter(|(found, ..)| *found == tag).map(|(_, _, inside)| inside)
}

/// Takes the next value, which has `tag`, off `bytes`.
fn value<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    next(bytes).filter(|(found, _)| *found == tag).map(|(_, value)| value)
}

/// Takes a time off `bytes`: with two digits for the years 1950 to 2049, or with four.
fn time(bytes: &mut &[u8]) -> Option<DateTime<Utc>> {
    let (tag, text) = next(bytes)?;
    let text = std::str::from_utf8(text).ok()?;
    let century = match (tag, text.get(..2)?) {
        (UTC_TIME, year) if year < "50" => "20",
        (UTC_TIME, _) => "19",
        _ => "",
    };
    let time = NaiveDateTime::parse_from_str(&format!("{century}{text}"), "%Y%m%d%H%M%SZ").ok()?;
    Some(time.and_utc())
}
