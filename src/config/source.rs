//! The configuration as text: files are read, parsed and laid over one another here, and every
//! complaint about them becomes `FILE:LINE:COLUMN: what is wrong` with a hint. Knows which keys
//! there are, not what they mean.
//!
//! All texts share one row of offsets, one text after the other, so that a span of the merged
//! tables still tells its file.

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

/// The most that one file may hold, in bytes.
const LARGEST: u64 = 1 << 20;

/// How like two words have to be (Jaro-Winkler, 0 to 1) for one to be suggested for the other.
const ALIKE: f64 = 0.8;

/// What is wrong with the configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// `FILE:LINE:COLUMN`, `FILE` where no line is to blame, or nothing where no file is.
    place: Option<String>,
    message: String,
    hint: Option<String>,
    denied: bool,
}

impl Error {
    /// `reason` is a sentence, after which a line `hint: …` may follow.
    pub(super) fn new(place: Option<String>, reason: &str) -> Self {
        let (message, hint) = match reason.split_once("\nhint: ") {
            Some((message, hint)) => (message, Some(hint.to_owned())),
            None => (reason, None),
        };
        Self { place, message: message.to_owned(), hint, denied: false }
    }

    /// `place` could not be read.
    fn unread(place: String, error: &io::Error) -> Self {
        let denied = error.kind() == io::ErrorKind::PermissionDenied;
        Self { denied, ..Self::new(Some(place), &cannot_read(error)) }
    }

    /// Whether it is not for this user to read.
    pub fn is_denied(&self) -> bool {
        self.denied
    }
}

impl fmt::Display for Error {
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

impl std::error::Error for Error {}

/// The texts of the configuration, in the order in which they were found.
#[derive(Debug, Default)]
pub struct Source {
    texts: Vec<Text>,
}

#[derive(Debug)]
struct Text {
    name: String,
    text: String,
    /// Where its first byte is in the common row of offsets.
    start: usize,
}

impl Source {
    /// Adds a text by the name that errors shall call it.
    pub fn add(&mut self, name: impl Into<String>, text: impl Into<String>) {
        // One more than the length, so that the very end still belongs to its own text.
        let start = self.texts.last().map_or(0, |last| last.start + last.text.len() + 1);
        self.texts.push(Text { name: name.into(), text: text.into(), start });
    }

    /// The names of all texts, in the order in which they were found.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|text| text.name.as_str())
    }

    /// Adds the file at `path`; `false` when there is none.
    pub fn add_file(&mut self, path: &Path) -> Result<bool, Error> {
        let name = path.display().to_string().escape_debug().to_string();
        match read(path) {
            Ok(Some(text)) => {
                self.add(name, text);
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(Unread::Failed(error)) => Err(Error::unread(name, &error)),
            Err(Unread::Unfit(reason)) => Err(Error::new(Some(name), &reason)),
        }
    }

    /// Adds every `*.toml` in the folder `dir`, by name. Hidden ones are left out: editors put
    /// their unfinished files there.
    pub fn add_folder(&mut self, dir: &Path) -> Result<(), Error> {
        let failed = |error: &io::Error| {
            let name = dir.display().to_string().escape_debug().to_string();
            Error::unread(name, error)
        };
        let entries = match fs::read_dir(dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
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
        // One that went away since the folder was listed is no longer asked for.
        paths.iter().try_for_each(|path| self.add_file(path).map(drop))
    }

    /// Everything that was added, taken together.
    pub(super) fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let mut all = DeTable::new();
        for text in &self.texts {
            let table = DeTable::parse(&text.text)
                .map_err(|error| self.explain(&error, text.start, syntax))?
                .into_inner();
            self.merge(&mut all, shifted(table, text.start), Depth::Top)?;
        }
        T::deserialize(Deserializer::from(Spanned::new(0..0, all)))
            .map_err(|error| self.explain(&error, 0, judgement))
    }

    /// Lays `from` over `into`. Sections may be spread over files; what they hold may not be said
    /// twice.
    fn merge<'a>(
        &self,
        into: &mut DeTable<'a>,
        from: DeTable<'a>,
        depth: Depth,
    ) -> Result<(), Error> {
        for (key, value) in from {
            let first = into.get_key_value(key.get_ref().as_ref()).map(|(key, _)| key.span());
            let Some(first) = first else {
                into.insert(key, value);
                continue;
            };
            match (into.get_mut(key.get_ref().as_ref()).map(Spanned::get_mut), value.into_inner()) {
                (Some(DeValue::Table(known)), DeValue::Table(more)) if depth == Depth::Top => {
                    self.merge(known, more, Depth::Section)?;
                }
                _ => {
                    return Err(self.error(
                        key.span(),
                        &format!(
                            "\"{}\" is set in two files\nhint: it is set at {} already; keep one",
                            key.get_ref().escape_debug(),
                            self.place(first.start)
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    /// What is wrong with the value or key at `span`.
    pub(super) fn error(&self, span: Range<usize>, reason: &str) -> Error {
        Error::new(Some(self.place(span.start)), reason)
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

    /// A complaint of the parser, whose offsets count from `start`, in the words of `reason`.
    fn explain(&self, error: &toml::de::Error, start: usize, reason: fn(&str) -> String) -> Error {
        let place = error.span().map(|span| self.place(span.start + start));
        Error::new(place, &reason(error.message()))
    }
}

/// How far down a table is in its file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    Section,
}

/// The table with all its spans moved on by `by`.
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

/// Why a file is not read.
enum Unread {
    /// The system says no.
    Failed(io::Error),
    /// It is none that could be a configuration: the reason.
    Unfit(String),
}

/// The text of a regular file; `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, Unread> {
    // Opening a pipe that nobody writes to would wait for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Unread::Failed(error)),
    };
    if !file.metadata().map_err(Unread::Failed)?.is_file() {
        let reason = "is not a regular file\nhint: put a plain text file there";
        return Err(Unread::Unfit(reason.to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(Unread::Failed)?;
    if bytes.len() as u64 > LARGEST {
        let reason = "is larger than 1 MiB, which no configuration is\n\
                      hint: see what was put there";
        return Err(Unread::Unfit(reason.to_owned()));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        Unread::Unfit(format!(
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

/// What the parser says of a text that is no TOML.
fn syntax(message: &str) -> String {
    if message == "duplicate key" {
        return "this stands here for the second time\nhint: keep one of the two".to_owned();
    }
    format!(
        "not valid TOML: {}\nhint: texts stand in double quotes, lists in [ ], and a section begins \
         with [NAME]",
        message.escape_debug()
    )
}

/// What is said of a key or value: by serde, or by the value's own judge, who needs no other words.
fn judgement(message: &str) -> String {
    if let Some((given, known)) = unknown(message, "unknown field") {
        return format!(
            "unknown key \"{}\"\nhint: {}",
            given.escape_debug(),
            elsewhere(given).or_else(|| instead(given, &known)).unwrap_or_else(|| one_of(&known))
        );
    }
    if let Some((given, known)) = unknown(message, "unknown variant") {
        return format!(
            "unknown word \"{}\"\nhint: {}",
            given.escape_debug(),
            instead(given, &known).unwrap_or_else(|| one_of(&known))
        );
    }
    if message == "wanted string or table" {
        return "wrong kind of value\nhint: write one word in double quotes".to_owned();
    }
    let wrong = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        let instead = match expected {
            "a string" => "a text in double quotes",
            "a boolean" => "true or false",
            "a sequence" => "a list, such as [\"a\", \"b\"]",
            "u32" => "a whole number, 0 or above",
            table if table == "a map" || table.starts_with("struct ") => "a section or a table",
            other => other,
        };
        return format!("wrong kind of value: {found}\nhint: write {instead}");
    }
    message.to_owned()
}

/// The word that was given and those that are known, from serde's "KIND `a`, expected …".
fn unknown<'a>(message: &'a str, kind: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let rest = message.strip_prefix(kind)?.strip_prefix(" `")?;
    let (given, expected) = rest.rsplit_once("`, expected ")?;
    Some((given, expected.split('`').skip(1).step_by(2).collect()))
}

/// "did you mean …", when a known word is like the given one.
fn instead(given: &str, known: &[&str]) -> Option<String> {
    let (likeness, nearest) = known
        .iter()
        .map(|word| (strsim::jaro_winkler(given, word), word))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))?;
    (likeness >= ALIKE).then(|| format!("did you mean \"{nearest}\"?"))
}

/// The section in which a key would be at home.
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
