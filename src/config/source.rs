//! The configuration as text: reads, parses and merges files, and turns every error into
//! `FILE:LINE:COLUMN: what is wrong` with a hint. Knows which keys exist, not what they mean.
//!
//! All texts share one range of offsets, one text after the other, so that a span of the merged tables
//! still identifies its file.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::de::DeserializeOwned;
use serde_spanned::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::file;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::text::EscapeControls;

/// The maximum size of a file, in bytes.
const LARGEST: u64 = 1 << 20;

/// The least similarity of two words (Jaro-Winkler, 0 to 1) for a suggestion.
const ALIKE: f64 = 0.8;

/// A fault in the configuration, and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// `FILE:LINE:COLUMN`, `FILE` for a whole file, `None` without a file.
    place: Option<String>,
    message: String,
    hint: Option<String>,
    denied: bool,
}

impl ConfigError {
    /// An error; `reason` is a sentence, optionally followed by a line `hint: …`.
    pub(super) fn new(place: Option<String>, reason: &str) -> Self {
        let report = ErrorReport::parse(reason);
        let message = report.sentences().collect::<Vec<_>>().join(": ");
        Self { place, message, hint: report.hint(), denied: false }
    }

    /// The error for a `place` that could not be read.
    fn unread(place: String, error: &io::Error) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        Self { denied, ..Self::new(Some(place), &cannot_read(error)) }
    }

    /// The error for a file or directory at `path` that must not be used; `reason` is a sentence, optionally
    /// followed by a line `hint: …`.
    pub fn of_path(path: &Path, reason: &str) -> Self {
        Self::new(Some(path.display().to_string().escape_controls()), reason)
    }

    /// Whether this user may not read the file.
    pub fn is_denied(&self) -> bool {
        self.denied
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Every `*.toml` in the directory `dir`, by name; none where it does not exist. Hidden files are left
/// out: editors put their unfinished files there.
///
/// # Errors
/// When the directory cannot be listed.
pub fn files_in(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |error: &io::Error| {
        let name = dir.display().to_string().escape_controls();
        ConfigError::unread(name, error)
    };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(&error)),
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| failed(&error))?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        if name.ends_with(b".toml") && !name.starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// The texts of the configuration, in the order of reading.
#[derive(Debug, Default)]
pub struct ConfigTexts {
    texts: Vec<SourceText>,
}

#[derive(Debug)]
struct SourceText {
    name: String,
    text: String,
    /// The offset of its first byte in the common range.
    start: usize,
}

impl ConfigTexts {
    /// Adds a text under the name that errors show.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        // One more than the length, so that the end position still belongs to its own text.
        let start = self.texts.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.texts.push(SourceText { name: name.into(), text: text.into(), start });
    }

    /// The names of all texts, in the order of reading.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| text.name.as_str())
    }

    /// Adds the file at `path`; `false` when there is none.
    pub fn add_file(&mut self, path: &Path) -> Result<bool, ConfigError> {
        let name = path.display().to_string().escape_controls();
        match read(path) {
            Ok(Some(text)) => {
                self.add(name, text);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(ReadFailure::Failed(error)) => Err(ConfigError::unread(name, &error)),
            Err(ReadFailure::Unfit(reason)) => Err(ConfigError::new(Some(name), &reason)),
        }
    }

    /// Adds every file that [`files_in`] finds in the directory `dir`.
    pub fn add_dir(&mut self, dir: &Path) -> Result<(), ConfigError> {
        // A file that was removed since the listing is skipped.
        files_in(dir)?.iter().try_for_each(|path| self.add_file(path).map(drop))
    }

    /// Parses all texts, merged into one.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, ConfigError> {
        self.judged(self.merged()?)
    }

    /// Parses all texts, merged into one, without the keys that `known` lacks; returns these too, in the order of
    /// the alphabet.
    pub(super) fn parse_known<T: DeserializeOwned>(
        &self,
        known: &[&str],
    ) -> Result<(T, Vec<String>), ConfigError> {
        let mut all = self.merged()?;
        let is_unknown = |key: &String| !known.contains(&key.as_str());
        let keys = all.keys().map(|key| key.get_ref().to_string());
        let unknown: Vec<String> = keys.filter(is_unknown).collect();
        for key in &unknown {
            all.remove(key.as_str());
        }
        Ok((self.judged(all)?, unknown))
    }

    fn merged(&self) -> Result<DeTable<'_>, ConfigError> {
        let mut all = DeTable::new();
        for text in &self.texts {
            let table = DeTable::parse(&text.text)
                .map_err(|error| {
                    let at = error.span().map_or(0, |span| span.start);
                    self.explain(&error, text.start, |message| syntax(message, &text.text, at))
                })?
                .into_inner();
            self.merge(&mut all, shifted(table, text.start), TableDepth::Top)?;
        }
        Ok(all)
    }

    fn judged<T: DeserializeOwned>(&self, all: DeTable<'_>) -> Result<T, ConfigError> {
        T::deserialize(Deserializer::from(Spanned::new(0..0, all)))
            .map_err(|error| self.explain(&error, 0, judgement))
    }

    /// Merges `from` into `into`. Sections may be spread over files; a key in them may be set only once.
    fn merge<'a>(
        &self,
        into: &mut DeTable<'a>,
        from: DeTable<'a>,
        depth: TableDepth,
    ) -> Result<(), ConfigError> {
        for (key, value) in from {
            let first = into.get_key_value(key.get_ref().as_ref()).map(|(key, _)| key.span());
            let Some(first) = first else {
                into.insert(key, value);
                continue;
            };
            match (into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.into_inner()) {
                (Some(DeValue::Table(known)), DeValue::Table(more)) if depth == TableDepth::Top => {
                    self.merge(known, more, TableDepth::Section)?;
                }
                _ => {
                    return Err(self.error(
                        key.span(),
                        &format!(
                            "\"{}\" is set in two files\nhint: it is set at {} already; keep one",
                            key.get_ref().escape_controls(),
                            self.place(first.start)
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// An error about the value or key at `span`.
    pub(super) fn error(&self, span: Range<usize>, reason: &str) -> ConfigError {
        ConfigError::new(Some(self.place(span.start)), reason)
    }

    /// `FILE:LINE:COLUMN` of an offset; columns count characters.
    pub(super) fn place(&self, offset: usize) -> String {
        let Some(text) = self.texts.iter().rev().find(|text| text.start <= offset) else {
            return String::new();
        };
        let before = text.text.get(..offset - text.start).unwrap_or(&text.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{}:{line}:{column}", text.name)
    }

    /// The error for a parser error, whose offsets count from `start`; `reason` rewrites its message.
    fn explain(
        &self,
        error: &toml::de::Error,
        start: usize,
        reason: impl Fn(&str) -> String,
    ) -> ConfigError {
        let place = error.span().map(|span| self.place(span.start + start));
        ConfigError::new(place, &reason(error.message()))
    }
}

/// The depth of a table in its file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum TableDepth {
    Top,
    Section,
}

/// The table with all its spans moved by `by`.
fn shifted(table: DeTable<'_>, by: usize) -> DeTable<'_> {
    fn value(old: Spanned<DeValue<'_>>, by: usize) -> Spanned<DeValue<'_>> {
        let span = moved(old.span(), by);
        let new = match old.into_inner() {
            DeValue::Table(table) => DeValue::Table(shifted(table, by)),
            DeValue::Array(list) => {
                DeValue::Array(list.into_iter().map(|item| value(item, by)).collect())
            }
            plain => plain,
        };
        Spanned::new(span, new)
    }
    fn moved(span: Range<usize>, by: usize) -> Range<usize> {
        span.start + by..span.end + by
    }
    table
        .into_iter()
        .map(|(key, old)| (Spanned::new(moved(key.span(), by), key.into_inner()), value(old, by)))
        .collect()
}

/// The reason why a file is not read.
enum ReadFailure {
    /// A system error.
    Failed(io::Error),
    /// The file cannot be a configuration, for this reason.
    Unfit(String),
}

/// The text of a regular file; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, ReadFailure> {
    // Without NONBLOCK, opening a pipe without a writer would wait for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ReadFailure::Failed(error)),
    };
    if !file.metadata().map_err(ReadFailure::Failed)?.is_file() {
        let reason = "is not a regular file\nhint: put a plain text file there";
        return Err(ReadFailure::Unfit(reason.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(ReadFailure::Failed)?;
    if bytes.len() as u64 > LARGEST {
        let reason = "is larger than 1 MiB, which no configuration is\n\
                      hint: see what was put there";
        return Err(ReadFailure::Unfit(reason.to_owned()));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        ReadFailure::Unfit(format!(
            "is not UTF-8 text: byte {} is the first bad one\nhint: save it as UTF-8",
            error.utf8_error().valid_up_to() + 1
        ))
    })
}

fn cannot_read(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "\nhint: run this as its owner or as root",
        _ => "",
    };
    format!("cannot be read: {error}{hint}")
}

/// The message for a `text` that is not TOML; the parser stopped at the offset `at`.
fn syntax(message: &str, text: &str, at: usize) -> String {
    if message == "duplicate key" {
        return duplicate(text, at);
    }
    format!(
        "not valid TOML: {}\nhint: strings need double quotes, lists [ ], and a section begins \
         with [NAME]",
        message.escape_controls()
    )
}

/// The message for a section or key that is set again at the offset `at`, with the line of the first one.
fn duplicate(text: &str, at: usize) -> String {
    let name = |line: &str| match line.trim_start().strip_prefix('[') {
        Some(section) => format!("section [{}]", section.split(']').next().unwrap_or(section)),
        None => format!("key \"{}\"", line.split('=').next().unwrap_or(line).trim()),
    };
    let lines: Vec<&str> = text.lines().collect();
    let here = text.get(..at).unwrap_or(text).matches('\n').count();
    let again = lines.get(here).map_or_else(String::new, |line| name(line));
    // The same key in another section is another key.
    let is_key = again.starts_with("key");
    let before = lines.iter().enumerate().take(here).rev();
    let first = before
        .take_while(|(_, line)| !is_key || !line.trim_start().starts_with('['))
        .filter(|(_, line)| name(line) == again)
        .last();
    let first = first.map_or_else(String::new, |(line, _)| format!("; first at line {}", line + 1));
    format!("duplicate {}{first}\nhint: keep one of the two", again.escape_controls())
}

/// The message for a key or value: rewrites serde's, and keeps those of our own checks.
fn judgement(message: &str) -> String {
    if let Some((given, known)) = unknown(message, "unknown field") {
        return format!(
            "unknown key \"{}\"\nhint: {}",
            given.escape_controls(),
            elsewhere(given)
                .or_else(|| suggestion(given, &known))
                .unwrap_or_else(|| one_of(&known))
        );
    }
    if let Some((given, known)) = unknown(message, "unknown variant") {
        return format!(
            "unknown word \"{}\"\nhint: {}",
            given.escape_controls(),
            suggestion(given, &known).unwrap_or_else(|| one_of(&known))
        );
    }
    if message == "wanted string or table" {
        return "expected one word in double quotes".to_owned();
    }
    let wrong = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        let instead = match expected {
            "a string" => "a string in double quotes",
            "a boolean" => "true or false",
            "a sequence" => "a list, such as [\"a\", \"b\"]",
            "u32" => "a whole number, 0 or above",
            table if table == "a map" || table.starts_with("struct ") => "a section or a table",
            other => other,
        };
        return format!("expected {instead}, found {}", found.replace('`', ""));
    }
    message.to_owned()
}

/// The given word and the known ones, from serde's "KIND `a`, expected …".
fn unknown<'a>(message: &'a str, kind: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix(kind)?.strip_prefix(" `")?;
    let (given, expected) = rest.rsplit_once("`, expected ")?;
    Some((given, expected.split('`').skip(1).step_by(2).collect()))
}

/// "did you mean …", when a known word is similar to the given one.
fn suggestion(given: &str, known: &[&str]) -> Option<String> {
    let (likeness, nearest) = known
        .iter()
        .map(|word| (strsim::jaro_winkler(given, word), word))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= ALIKE).then(|| format!("did you mean \"{nearest}\"?"))
}

/// A hint at the section that has such a key; `None`: none has.
fn elsewhere(given: &str) -> Option<String> {
    let homes: Vec<_> = file::sections()
        .into_iter()
        .filter(|(_, keys)| keys.contains(&given))
        .map(|(section, _)| if section.is_empty() { "the top of the file" } else { section })
        .collect();
    (!homes.is_empty()).then(|| format!("it belongs in {}", homes.join(" or ")))
}

fn one_of(known: &[&str]) -> String {
    let mut known = known.to_vec();
    known.sort_unstable();
    format!("write one of {}", known.join(", "))
}
