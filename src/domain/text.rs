//! Foreign text as messages show it.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_could_mislead_a_reader_is_escaped() {
        assert_eq!(r#"'a' "b" c\d é 世"#.escape_controls(), r#"'a' "b" c\d é 世"#);
        assert_eq!("\u{1b}[2J\n\u{202e}".escape_controls(), r"\u{1b}[2J\n\u{202e}");
    }
}
