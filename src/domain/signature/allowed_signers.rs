//! The file of the keys that may sign, in OpenSSH's format (ssh-keygen(1), ALLOWED SIGNERS).

use std::fmt;

use chrono::{DateTime, Utc};
use globset::Glob;
use jiff::civil;
use jiff::tz::{AmbiguousOffset, TimeZone};
use serde::{Deserialize, Serialize};

use super::public_key::{Fingerprint, KeyFault, KeyKind, PublicKey};
use crate::domain::text::EscapeControls;

/// The namespace of what git signs.
pub const GIT: &str = "git";

/// The keys that may sign, in the order of their lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllowedSigners(Vec<AllowedSigner>);

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedSigner {
    /// Whose key it is, as the line says: patterns, separated by commas.
    pub principals: String,
    /// The key.
    pub key: PublicKey,
    /// What the key may sign, as patterns; `None`: everything.
    namespaces: Option<String>,
    /// What it signed before this moment does not count.
    pub valid_after: Option<DateTime<Utc>>,
    /// What it signed after this moment does not count.
    pub valid_before: Option<DateTime<Utc>>,
    /// The number of the line, from 1.
    pub line: usize,
}

/// Who signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// Whose key it is, as the file says.
    pub principals: String,
    /// The fingerprint of the key.
    pub fingerprint: Fingerprint,
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.principals, self.fingerprint)
    }
}

/// What is wrong in the file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignersFault {
    /// The number of the line, from 1.
    pub line: usize,
    /// The column in that line, in characters from 1.
    pub column: usize,
    /// What is wrong, as a sentence without the place.
    pub reason: String,
}

impl fmt::Display for SignersFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.reason)
    }
}

/// Why a key that signed does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignerFault {
    /// No line has it.
    Unlisted,
    /// Its lines are not for the namespace `git`.
    OtherNamespace,
    /// It counts only from this moment on.
    NotYetValid(DateTime<Utc>),
    /// It counted until this moment.
    Expired(DateTime<Utc>),
}

impl AllowedSigners {
    /// Reads the file. `zone` is the zone of the moments that name none.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place. Nothing is passed over: a line that is not understood might be
    /// one that forbids something.
    pub fn parse(text: &[u8], zone: &TimeZone) -> Result<Self, SignersFault> {
        let mut signers = Vec::new();
        for (index, bytes) in text.split(|&byte| byte == b'\n').enumerate() {
            let fault = |(column, reason)| SignersFault { line: index + 1, column, reason };
            let line = std::str::from_utf8(bytes).map_err(|error| {
                let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
                let column = String::from_utf8_lossy(before).chars().count() + 1;
                fault((column, "it is not text in UTF-8".to_owned()))
            })?;
            signers.extend(LineReader::new(line).read(index + 1, zone).map_err(fault)?);
        }
        Ok(Self(signers))
    }

    /// The lines.
    pub fn all(&self) -> &[AllowedSigner] {
        &self.0
    }

    /// The line by which what the key with this fingerprint signed at `at` counts.
    ///
    /// # Errors
    /// Why it does not count. Where several lines have the key, the first that has a reason of time or use.
    pub fn find(
        &self,
        key: &Fingerprint,
        at: DateTime<Utc>,
    ) -> Result<&AllowedSigner, SignerFault> {
        let mut fault = SignerFault::Unlisted;
        for signer in self.0.iter().filter(|signer| signer.key.fingerprint == *key) {
            match signer.fault_at(at) {
                None => return Ok(signer),
                Some(found) if fault == SignerFault::Unlisted => fault = found,
                Some(_) => {}
            }
        }
        Err(fault)
    }
}

impl AllowedSigner {
    /// Whether the key may sign for git at all.
    pub fn is_for_git(&self) -> bool {
        self.namespaces.as_deref().is_none_or(is_for_git)
    }

    fn fault_at(&self, at: DateTime<Utc>) -> Option<SignerFault> {
        if !self.is_for_git() {
            return Some(SignerFault::OtherNamespace);
        }
        if let Some(from) = self.valid_after.filter(|from| at < *from) {
            return Some(SignerFault::NotYetValid(from));
        }
        self.valid_before.filter(|until| at > *until).map(SignerFault::Expired)
    }
}

/// A wrong place: the column from 1, and the sentence.
type Wrong = (usize, String);

/// Reads one line from left to right.
struct LineReader<'a> {
    line: &'a str,
    /// The number of bytes that were read.
    at: usize,
}

/// The options of a line.
#[derive(Default)]
struct Options {
    namespaces: Option<String>,
    valid_after: Option<DateTime<Utc>>,
    valid_before: Option<DateTime<Utc>>,
}

impl<'a> LineReader<'a> {
    fn new(line: &'a str) -> Self {
        Self { line: line.strip_suffix('\r').unwrap_or(line), at: 0 }
    }

    fn rest(&self) -> &'a str {
        self.line.get(self.at..).unwrap_or_default()
    }

    fn wrong<T>(&self, reason: impl Into<String>) -> Result<T, Wrong> {
        let before = self.line.get(..self.at).unwrap_or_default();
        Err((before.chars().count() + 1, reason.into()))
    }

    fn skip_blanks(&mut self) {
        self.at = self.line.len() - self.rest().trim_start_matches([' ', '\t']).len();
    }

    /// The word that begins here, which stays unread.
    fn word(&self) -> &'a str {
        self.rest().split([' ', '\t']).next().unwrap_or_default()
    }

    fn read(mut self, line: usize, zone: &TimeZone) -> Result<Option<AllowedSigner>, Wrong> {
        self.skip_blanks();
        if self.rest().is_empty() || self.rest().starts_with('#') {
            return Ok(None);
        }
        // ssh-keygen takes some of them for blanks, and one for the end of the line.
        if let Some(at) = self.line.find(|c: char| c.is_ascii_control() && c != '\t') {
            self.at = at;
            return self.wrong("a control character is here");
        }
        let principals = self.principals()?;
        self.skip_blanks();
        if self.rest().is_empty() {
            return self.wrong("the key is missing");
        }
        let mut options = Options::default();
        if !looks_like_a_kind(self.word()) {
            options = self.options(zone)?;
            self.skip_blanks();
        }
        let key = self.key()?;
        let Options { namespaces, valid_after, valid_before } = options;
        Ok(Some(AllowedSigner { principals, key, namespaces, valid_after, valid_before, line }))
    }

    fn principals(&mut self) -> Result<String, Wrong> {
        let start = self.at;
        let text = match self.rest().strip_prefix('"') {
            Some(quoted) => {
                let Some((inner, _)) = quoted.split_once('"') else {
                    return self.wrong("the quotation mark is never closed");
                };
                self.at += inner.len() + 2;
                inner
            }
            None => {
                let word = self.word();
                if let Some(quote) = word.find('"') {
                    self.at += quote;
                    return self.wrong("a quotation mark is inside of the names of the signers");
                }
                self.at += word.len();
                word
            }
        };
        let names = |pattern: &str| !pattern.is_empty() && !pattern.starts_with('!');
        if !text.split(',').any(names) {
            self.at = start;
            return self.wrong("no name of a signer is here, such as ops@example.com");
        }
        Ok(text.to_owned())
    }

    fn options(&mut self, zone: &TimeZone) -> Result<Options, Wrong> {
        let mut options = Options::default();
        let before = self.at;
        loop {
            let start = self.at;
            let rest = self.rest();
            let length = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
            let (name, _) = rest.split_at(length);
            let name = name.to_ascii_lowercase();
            let is_free = match name.as_str() {
                "cert-authority" => {
                    return self.wrong(
                        "cert-authority is not supported: certificates do not sign here\n\
                         hint: list the keys of the signers themselves",
                    );
                }
                "namespaces" => options.namespaces.is_none(),
                "valid-after" => options.valid_after.is_none(),
                "valid-before" => options.valid_before.is_none(),
                _ => {
                    return self.wrong(format!(
                        "\"{}\" is neither an option nor a kind of key that may sign; options are \
                         namespaces, valid-after and valid-before, kinds are {}",
                        name.chars().take(60).collect::<String>().escape_controls(),
                        KeyKind::ALL.map(KeyKind::as_str).join(", ")
                    ));
                }
            };
            if !is_free {
                return self.wrong(format!("the option {name} is there twice"));
            }
            self.at += length;
            let value = self.value(&name)?;
            let moment = || match moment(&value, zone) {
                Some(at) => Ok(Some(at)),
                None => {
                    let place = Self { line: self.line, at: start };
                    place.wrong(format!(
                        "{name} is no moment as YYYYMMDD or YYYYMMDDHHMM[SS], with a Z for UTC"
                    ))
                }
            };
            match name.as_str() {
                "namespaces" => options.namespaces = Some(value),
                "valid-after" => options.valid_after = moment()?,
                _ => options.valid_before = moment()?,
            }
            match self.rest().chars().next() {
                Some(',') => self.at += 1,
                Some(' ' | '\t') | None => break,
                Some(_) => return self.wrong("a comma or a space is missing here"),
            }
        }
        if let (Some(after), Some(until)) = (options.valid_after, options.valid_before)
            && until <= after
        {
            self.at = before;
            return self.wrong("valid-before is not after valid-after");
        }
        Ok(options)
    }

    /// The value of the option `name`, in quotation marks.
    fn value(&mut self, name: &str) -> Result<String, Wrong> {
        let Some(rest) = self.rest().strip_prefix("=\"") else {
            return self.wrong(format!("the option {name} needs a value in quotation marks"));
        };
        let mut value = String::new();
        let mut characters = rest.char_indices();
        while let Some((offset, character)) = characters.next() {
            match character {
                '"' => {
                    self.at += "=\"".len() + offset + 1;
                    return Ok(value);
                }
                '\\' if rest.get(offset + 1..).is_some_and(|rest| rest.starts_with('"')) => {
                    characters.next();
                    value.push('"');
                }
                other => value.push(other),
            }
        }
        self.wrong(format!("the value of {name} is never closed"))
    }

    fn key(&mut self) -> Result<PublicKey, Wrong> {
        let name = self.word();
        if name.is_empty() {
            return self.wrong("the key is missing");
        }
        let Some(kind) = KeyKind::named(name.as_bytes()) else {
            let name: String = name.chars().take(60).collect();
            return self.wrong(KeyFault::Kind(name).to_string());
        };
        self.at += name.len();
        self.skip_blanks();
        if self.rest().is_empty() {
            return self.wrong("the key is missing after its kind");
        }
        let key = match PublicKey::from_base64(self.word()) {
            Ok(key) => key,
            Err(fault) => return self.wrong(fault.to_string()),
        };
        match key.kind() == kind {
            true => Ok(key),
            false => self.wrong(format!("the key is one of the kind {}", key.kind().as_str())),
        }
    }
}

/// Whether `word` is the name of a kind of key, also of one that may not sign.
fn looks_like_a_kind(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-", "rsa-", "webauthn-"].iter().any(|start| word.starts_with(start))
        && !word.contains(['=', '"', ','])
}

/// `YYYYMMDD[HHMM[SS]]` in `zone`, or with `Z` or `UTC` in UTC.
fn moment(text: &str, zone: &TimeZone) -> Option<DateTime<Utc>> {
    let upper = text.to_ascii_uppercase();
    let (digits, zone) = match upper.strip_suffix("UTC").or_else(|| upper.strip_suffix('Z')) {
        Some(digits) => (digits, &TimeZone::UTC),
        None => (upper.as_str(), zone),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) || ![8, 12, 14].contains(&digits.len()) {
        return None;
    }
    let number =
        |from: usize, to: usize| digits.get(from..to).map_or(Some(0), |it| it.parse::<i8>().ok());
    let year: i16 = digits.get(..4)?.parse().ok()?;
    let day = civil::Date::new(year, number(4, 6)?, number(6, 8)?).ok()?;
    let time = civil::Time::new(number(8, 10)?, number(10, 12)?, number(12, 14)?, 0).ok()?;
    let moment = day.to_datetime(time);
    // By hand: 99991231, which means never, is too late for a timestamp of this library.
    let offset = match zone.to_ambiguous_timestamp(moment).offset() {
        AmbiguousOffset::Unambiguous { offset } => offset,
        AmbiguousOffset::Gap { before, .. } | AmbiguousOffset::Fold { before, .. } => before,
    };
    let as_utc = moment.duration_since(civil::date(1970, 1, 1).at(0, 0, 0, 0)).as_secs();
    DateTime::from_timestamp(as_utc - i64::from(offset.seconds()), 0)
        .filter(|at| at.timestamp() > 0)
}

/// Whether one of the comma-separated patterns of `list` matches `git` and none with `!` does (ssh_config(5),
/// PATTERNS).
fn is_for_git(list: &str) -> bool {
    let (forbidden, allowed): (Vec<&str>, Vec<&str>) =
        list.split(',').partition(|pattern| pattern.starts_with('!'));
    let matches = |pattern: &str| {
        // These have a meaning for globset, and none here: they are in no pattern that matches.
        let is_plain = !pattern.contains(['[', ']', '{', '}', '\\']);
        // Two stars are more than one for globset.
        let mut simple: Vec<char> = pattern.chars().collect();
        simple.dedup_by(|one, other| *one == '*' && *other == '*');
        let glob = Glob::new(&String::from_iter(simple));
        is_plain && glob.is_ok_and(|glob| glob.compile_matcher().is_match(GIT))
    };
    let forbids = |pattern: &&str| pattern.strip_prefix('!').is_some_and(matches);
    allowed.iter().any(|pattern| matches(pattern)) && !forbidden.iter().any(forbids)
}

#[cfg(test)]
mod tests;
