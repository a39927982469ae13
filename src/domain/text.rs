//! Foreign text, moments, durations and numbers as messages show them.

use chrono::{DateTime, Datelike, Duration, Timelike, Utc};

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

/// A time relative to `now`: `7 min ago`, `in 3 days`.
pub fn ago(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let away = now - at;
    if away.num_seconds() == 0 {
        "just now".to_owned()
    } else if away > Duration::zero() {
        format!("{} ago", span(away))
    } else {
        format!("in {}", span(-away))
    }
}

/// A duration in its largest unit: `31 s`, `7 min`, `5 h`, `3 days`.
pub fn span(length: Duration) -> String {
    let seconds = length.num_seconds().max(0);
    match seconds {
        ..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        86_400..172_800 => "1 day".to_owned(),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// A measured duration: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 0 min`.
pub fn seconds(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    match whole {
        ..10 => format!("{:.1} s", seconds.max(0.0)),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A number and its noun, whose plural ends with an s: `1 machine`, `2,000 machines`.
pub fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", thousands(count))
}

/// A number with its thousands apart: `1,234,567`.
pub fn thousands(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
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

    #[test]
    fn durations_have_the_precision_that_matters() {
        for (length, text) in [
            (0.84, "0.8 s"),
            (42.6, "42 s"),
            (185.0, "3 min 5 s"),
            (7260.0, "2 h 1 min"),
            (-1.0, "0.0 s"),
            (f64::NAN, "0.0 s"),
        ] {
            assert_eq!(seconds(length), text);
        }
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(number), text);
        }
    }
}
