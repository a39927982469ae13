//! The configuration as text: reads and parses files, and turns every error into `FILE:LINE:COLUMN: what is
//! wrong` with a hint. Knows which keys exist, not what they mean.
//!
//! All texts share one range of offsets, one text after the other, so that a span of the merged tables
//! still identifies its file.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_spanned::Spanned;
use toml::de::{DeString, DeTable, DeValue, Deserializer, ValueDeserializer};

use super::faults::{ConfigError, ConfigFaults};
use super::file::{self, ConfigFile, RepoSection};
use super::overlay::{self, Override};
use super::value::{RepoName, repo_name};
use crate::domain::text::EscapeControls;

/// The maximum size of a file, in bytes.
const LARGEST: u64 = 1 << 20;

/// The parser's message for what is set twice in one file.
const DUPLICATE: &str = "duplicate key";

/// The least similarity of two words (Jaro-Winkler, 0 to 1) for a suggestion.
const ALIKE: f64 = 0.8;

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

    /// Parses all texts, laid over one another. What is at fault is left out and added to `faults`; also
    /// returns the keys that a later file replaces.
    pub(super) fn parse(&self, faults: &mut ConfigFaults) -> (ConfigFile, Vec<Override>) {
        let (mut all, mut replaced) = (DeTable::new(), Vec::new());
        for text in &self.texts {
            let (table, errors) = DeTable::parse_recoverable(&text.text);
            let mut table = shifted(table.into_inner(), text.start);
            if !self.has_structure(text, &errors, faults) {
                // The metrics say that the configuration cannot be used.
                let metrics = table.remove_entry::<str>("metrics_file");
                table = metrics.into_iter().collect();
            }
            overlay::lay_over(&mut all, table, "", &mut replaced);
        }
        let repos = match all.get("repo").map(|repos| repos.get_ref().is_table()) {
            Some(true) => all.remove("repo").map(Spanned::into_inner),
            _ => None,
        };
        let mut errors = Vec::new();
        let mut file: ConfigFile = self.salvaged(all, &mut errors);
        errors.into_iter().for_each(|error| faults.add(error));
        if let Some(DeValue::Table(repos)) = repos {
            let repos = repos.into_iter().map(|(key, value)| self.section(key, value, faults));
            file.repo = repos.collect();
        }
        faults.keep_repos(|name| file.repo.keys().any(|repo| repo.get_ref().0 == name));
        (file, replaced)
    }

    /// One `[repo.NAME]`, without what is at fault.
    fn section(
        &self,
        key: Spanned<DeString<'_>>,
        value: Spanned<DeValue<'_>>,
        faults: &mut ConfigFaults,
    ) -> (Spanned<RepoName>, RepoSection) {
        let (name, mut errors) = (key.get_ref().to_string(), Vec::new());
        if let Err(reason) = repo_name(&name) {
            errors.push(self.error(key.span(), &reason));
        }
        let section = match value.get_ref().is_table() {
            true => match value.into_inner() {
                DeValue::Table(table) => self.salvaged(table, &mut errors),
                _ => RepoSection::default(),
            },
            false => {
                RepoSection::deserialize(ValueDeserializer::from(value)).unwrap_or_else(|error| {
                    errors.push(self.explain(&error, 0, judgement));
                    RepoSection::default()
                })
            }
        };
        errors.into_iter().for_each(|error| faults.add_to_repo(&name, error));
        (Spanned::new(key.span(), RepoName(name)), section)
    }

    /// The values of `table`. A key at fault is left out, so that all faults are found.
    fn salvaged<T: DeserializeOwned + Default>(
        &self,
        mut table: DeTable<'_>,
        errors: &mut Vec<ConfigError>,
    ) -> T {
        loop {
            let all = Deserializer::from(Spanned::new(0..0, table.clone()));
            let error = match T::deserialize(all) {
                Ok(values) => return values,
                Err(error) => error,
            };
            let key = error.span().and_then(|span| overlay::take_out(&mut table, span.start));
            errors.push(
                self.explain(&error, 0, |message| named(key.as_deref(), &judgement(message))),
            );
            if key.is_none() {
                return T::default();
            }
        }
    }

    /// Adds the syntax errors of `text`, and tells whether its structure is sure in spite of them. After the
    /// first one that leaves it in doubt, no other means much.
    fn has_structure(
        &self,
        text: &SourceText,
        errors: &[toml::de::Error],
        faults: &mut ConfigFaults,
    ) -> bool {
        let at = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
        let error_at = |error: &toml::de::Error| {
            self.explain(error, text.start, |message| syntax(message, &text.text, at(error)))
        };
        for error in errors.iter().filter(|error| error.message() == DUPLICATE) {
            match section_of_repo(&text.text, at(error)) {
                Some(name) => faults.add_to_repo(&name, error_at(error)),
                None => faults.add(error_at(error)),
            }
        }
        let unclear = errors.iter().find(|error| error.message() != DUPLICATE);
        unclear.into_iter().for_each(|error| faults.add(error_at(error)));
        unclear.is_none()
    }

    /// Parses the only text, without the keys that `known` lacks; returns these too, in the order of the
    /// alphabet.
    pub(super) fn parse_known<T: DeserializeOwned>(
        &self,
        known: &[&str],
    ) -> Result<(T, Vec<String>), ConfigError> {
        let text = self.texts.first().map_or("", |text| text.text.as_str());
        let mut all = DeTable::parse(text)
            .map_err(|error| {
                let at = error.span().map_or(0, |span| span.start);
                self.explain(&error, 0, |message| syntax(message, text, at))
            })?
            .into_inner();
        let is_unknown = |key: &String| !known.contains(&key.as_str());
        let keys = all.keys().map(|key| key.get_ref().to_string());
        let unknown: Vec<String> = keys.filter(is_unknown).collect();
        for key in &unknown {
            all.remove(key.as_str());
        }
        let values = T::deserialize(Deserializer::from(Spanned::new(0..0, all)));
        Ok((values.map_err(|error| self.explain(&error, 0, judgement))?, unknown))
    }

    /// An error about the value or key at `span`.
    pub(super) fn error(&self, span: Range<usize>, reason: &str) -> ConfigError {
        ConfigError::at(span.start, Some(self.place(span.start)), reason)
    }

    /// `FILE:LINE:COLUMN` of an offset; columns count characters.
    pub(super) fn place(&self, offset: usize) -> String {
        let Some((line, before)) = self.line_and_text(offset) else { return String::new() };
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{line}:{column}")
    }

    /// `FILE:LINE` of an offset.
    pub(super) fn line(&self, offset: usize) -> String {
        self.line_and_text(offset).map_or_else(String::new, |(line, _)| line)
    }

    /// `FILE:LINE` of an offset, and the text of the file before it.
    fn line_and_text(&self, offset: usize) -> Option<(String, &str)> {
        let text = self.texts.iter().rev().find(|text| text.start <= offset)?;
        let before = text.text.get(..offset - text.start).unwrap_or(&text.text);
        Some((format!("{}:{}", text.name, before.matches('\n').count() + 1), before))
    }

    /// The error for a parser error, whose offsets count from `start`; `reason` rewrites its message.
    fn explain(
        &self,
        error: &toml::de::Error,
        start: usize,
        reason: impl Fn(&str) -> String,
    ) -> ConfigError {
        let at = error.span().map(|span| span.start + start);
        let place = at.map(|at| self.place(at));
        ConfigError::at(at.unwrap_or(0), place, &reason(error.message()))
    }
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

/// The message for a `text` that is not TOML; the parser stopped at the offset `at`.
fn syntax(message: &str, text: &str, at: usize) -> String {
    if message == DUPLICATE {
        return duplicate(text, at);
    }
    format!(
        "not valid TOML: {}\nhint: strings need double quotes, lists [ ], and a section begins \
         with [NAME]",
        message.escape_controls()
    )
}

/// The repository in whose section the offset `at` of `text` lies; `None`: in none, or it is not sure.
fn section_of_repo(text: &str, at: usize) -> Option<String> {
    // In text of several lines, a line may look like a section.
    if text.contains("\"\"\"") || text.contains("'''") {
        return None;
    }
    let line_end = text.get(at..)?.find('\n').map_or(text.len(), |end| at + end);
    let lines = text.get(..line_end)?.lines().rev();
    let header = lines.map(str::trim_start).find(|line| line.starts_with('['))?;
    let header = header.split_inclusive(']').next().unwrap_or_default();
    let table: toml::Table = header.parse().ok()?;
    table.get("repo")?.as_table()?.keys().next().cloned()
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

/// A message about the value of `key`, which it names.
fn named(key: Option<&str>, message: &str) -> String {
    match key {
        Some(key) if !message.starts_with("unknown key") => {
            format!("{}: {message}", key.escape_controls())
        }
        _ => message.to_owned(),
    }
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
        return "expected one word in double quotes\nhint: write one word in double quotes"
            .to_owned();
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
        return format!(
            "expected {instead}, found {}\nhint: write {instead}",
            found.replace('`', "")
        );
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
