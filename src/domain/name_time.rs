//! A time in the name of a file, a directory or a ref: UTC, to the second.

use chrono::{DateTime, NaiveDateTime, Utc};

const FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// `at` as part of a name, such as `20261130T140300Z`.
pub fn name(at: DateTime<Utc>) -> String {
    at.format(FORMAT).to_string()
}

/// The time that [`name`] wrote; `None`: it is another name.
pub fn parse(name: &str) -> Option<DateTime<Utc>> {
    NaiveDateTime::parse_from_str(name, FORMAT).ok().map(|time| time.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_as_it_was_written() {
        let at = "2026-11-30T14:03:00Z".parse().unwrap();
        assert_eq!(name(at), "20261130T140300Z");
        assert_eq!(parse("20261130T140300Z"), Some(at));
        for other in ["", "20261130T140300Z-1", "20261130T140300.5Z", "20261330T140300Z", "état"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
