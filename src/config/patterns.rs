//! The patterns of `paths` and `match`: globs, with `!` for what they exclude.

use globset::GlobBuilder;

use crate::domain::text::EscapeControls;

/// A pattern of `paths`: a glob; with `!` it excludes paths.
pub fn pattern(text: &str) -> Result<String, String> {
    let glob = text.strip_prefix('!').unwrap_or(text);
    if glob.is_empty() {
        return Err("a pattern is empty\nhint: write one such as \"web/**\" or \"!**/*.md\"".into());
    }
    if glob.starts_with('/') || glob.ends_with('/') {
        return Err(format!(
            "{} never matches a file\nhint: patterns begin at the top of the repository and match \
             files: write \"{}/**\" for everything in a directory",
            quoted(text),
            glob.trim_matches('/').escape_controls()
        ));
    }
    GlobBuilder::new(glob).literal_separator(true).build().map_err(|error| {
        format!(
            "{} is not a pattern: {}\nhint: write one such as \"web/**\" or \"!**/*.md\"",
            quoted(text),
            // The message repeats characters of the pattern, so it is escaped.
            error.kind().to_string().escape_controls()
        )
    })?;
    Ok(text.to_owned())
}

/// A pattern of `match`: a glob for names of branches or tags; with `!` it excludes names.
pub fn ref_pattern(text: &str) -> Result<String, String> {
    let hint = "hint: write one such as \"v*\" or \"!wip/**\"";
    let glob = text.strip_prefix('!').unwrap_or(text);
    if glob.is_empty() {
        return Err(format!("a pattern is empty\n{hint}"));
    }
    if glob.starts_with(['/', '.']) || glob.starts_with("refs/") || glob.ends_with('/') {
        return Err(format!(
            "{} never matches a branch or tag\n{hint}: names are matched without refs/heads/ or \
             refs/tags/",
            quoted(text)
        ));
    }
    GlobBuilder::new(glob).literal_separator(true).build().map_err(|error| {
        format!(
            "{} is not a pattern: {}\n{hint}",
            quoted(text),
            error.kind().to_string().escape_controls()
        )
    })?;
    Ok(text.to_owned())
}

/// Text as errors show it.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_controls())
}
