//! Foreign text and moments as messages show them.

use chrono::{DateTime, Datelike, Timelike, Utc};

/// Foreign text made safe for one line of a terminal or of a log.
pub trait EscapeControls {
    /// Writes characters that could move the cursor, break the line or hide as escapes. Quotes and
    /// backslashes cannot, and stay.
    fn escape_controls(&self) -> String;
}

impl EscapeControls for str {
    fn escape_controls(&self) -> String {
        let harmless = ['\'', '"', '\\'];
        self.split_inclusive(harmless)
            .map(|piece| match piece.strip_suffix(harmless) {
                Some(before) => format!("{}{}", before.escape_debug(), &piece[before.len()..]),
                None => piece.escape_debug().to_string(),
            })
            .collect()
    }
}

/// `at` for people, to the minute: `2026-11-30 14:32 UTC`. Written by hand: reading a format costs more than all else in
/// the decision about a repository that waits.
pub fn utc_minute(at: DateTime<Utc>) -> String {
    let (year, month, day) = (at.year(), at.month(), at.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", at.hour(), at.minute())
}

/// `bytes` in hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_written_to_the_minute() {
        let at: DateTime<Utc> = "2026-03-04T05:06:59Z".parse().unwrap();
        assert_eq!(utc_minute(at), "2026-03-04 05:06 UTC");
        assert_eq!(utc_minute(at), at.format("%Y-%m-%d %H:%M UTC").to_string());
    }

    #[test]
    fn only_what_could_mislead_a_reader_is_escaped() {
        assert_eq!(r#"'a' "b" c\d é 世"#.escape_controls(), r#"'a' "b" c\d é 世"#);
        assert_eq!("\u{1b}[2J\n\u{202e}".escape_controls(), r"\u{1b}[2J\n\u{202e}");
    }
}
