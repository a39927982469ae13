//! The order of tags as versions, and the pattern that selects them. Knows no remote and no clone: names in, an
//! order out.
//!
//! The leading letters that all versions among the matching tags share are left off (`v`, `release-`); where they
//! differ, only a "v" is. The
//! numeric fields count by number, a missing one is 0. A pre-release (`-rc1`) is older than its release, and
//! counts only where the pattern names one. A tag that is no version is older than each that is one.

use std::cmp::Ordering;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};

use crate::domain::git::RefName;
use crate::domain::text::EscapeControls;

/// A pattern for the short names of tags, such as `v1.*`: `*` and `?` match no slash, `**` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagPattern(String);

/// The error for a text that is no [`TagPattern`], as a sentence.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidTagPattern(String);

impl fmt::Display for InvalidTagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for InvalidTagPattern {}

impl TagPattern {
    /// The pattern itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns `true` if it may match several names.
    pub fn is_wild(&self) -> bool {
        self.0.contains(WILD)
    }

    /// The beginning that all matching names have; the whole name where there is no wildcard.
    pub fn literal(&self) -> &str {
        self.0.split(WILD).next().unwrap_or_default()
    }

    /// The names that match and count, the newest first.
    pub fn newest_first<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<&'n str> {
        let mut ranked = self.versions(names);
        if !self.counts_pre_releases(&ranked) {
            ranked.retain(|it| !it.is_pre_release());
        }
        // `None`, a tag that is no version, is the smallest.
        ranked.sort_by(|one, other| {
            let by_name = || natural(one.name, other.name).then_with(|| one.name.cmp(other.name));
            one.version.cmp(&other.version).then_with(by_name).reverse()
        });
        ranked.into_iter().map(|it| it.name).collect()
    }

    /// The names that match and do not count, because they are pre-releases and the pattern names none.
    pub fn pre_releases_left_out<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Vec<&'n str> {
        let mut all = self.versions(names);
        match self.counts_pre_releases(&all) {
            true => Vec::new(),
            false => {
                all.retain(VersionedName::is_pre_release);
                all.into_iter().map(|it| it.name).collect()
            }
        }
    }

    /// The names that match, with their versions.
    fn versions<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> Vec<VersionedName<'n>> {
        let matcher = self.matcher();
        let is_match = |name: &&str| match &matcher {
            Some(matcher) => matcher.is_match(name),
            None => *name == self.0,
        };
        let matching: Vec<&str> = names.into_iter().filter(is_match).collect();
        let letters = LeadingLetters::of(&matching);
        let version = |name: &'n str| Version::parse(letters.strip(name)?);
        let versions: Vec<_> = matching.iter().map(|name| version(name)).collect();
        let versioned = matching.iter().zip(versions);
        versioned.map(|(&name, version)| VersionedName { name, version }).collect()
    }

    /// Whether the pattern says something of a pre-release, after the letters that all versions share. A
    /// range of characters is none.
    fn counts_pre_releases(&self, matching: &[VersionedName]) -> bool {
        if !self.is_wild() {
            return true;
        }
        let names: Vec<&str> = matching.iter().map(|it| it.name).collect();
        let letters = match LeadingLetters::of(&names) {
            LeadingLetters::Shared(letters) => letters,
            LeadingLetters::Mixed => "",
        };
        let shared = self.0.bytes().zip(letters.bytes()).take_while(|(one, other)| one == other);
        let mut is_range = false;
        self.0.bytes().skip(shared.count()).any(|byte| {
            match byte {
                b'[' => is_range = true,
                b']' => is_range = false,
                _ => {}
            }
            byte == b'-' && !is_range
        })
    }

    /// `None` without a wildcard: then only the name itself matches.
    fn matcher(&self) -> Option<GlobMatcher> {
        if !self.is_wild() {
            return None;
        }
        // It was built once when the pattern was made.
        let glob = GlobBuilder::new(&self.0).literal_separator(true).build().ok()?;
        Some(glob.compile_matcher())
    }
}

/// The characters that begin a wildcard.
const WILD: [char; 3] = ['*', '?', '['];

impl TryFrom<String> for TagPattern {
    type Error = InvalidTagPattern;

    fn try_from(text: String) -> Result<Self, InvalidTagPattern> {
        let bad = |why: &str| InvalidTagPattern(format!("\"{}\" {why}", text.escape_controls()));
        if text.starts_with("refs/") || text.starts_with('/') {
            return Err(bad("never matches: the names of tags count without refs/tags/"));
        }
        if text.contains(['{', '}', '\\']) {
            return Err(bad("is no pattern for tags: only *, ? and [abc] are wildcards"));
        }
        let wild = text.contains(WILD);
        if !wild && text.parse::<RefName>().is_err() {
            return Err(bad("is not a tag name git accepts"));
        }
        let glob = GlobBuilder::new(&text).literal_separator(true).build();
        match glob {
            Err(error) if wild => Err(bad(&format!(
                "is not a pattern: {}",
                error.kind().to_string().escape_controls()
            ))),
            _ => Ok(Self(text)),
        }
    }
}

impl std::str::FromStr for TagPattern {
    type Err = InvalidTagPattern;

    fn from_str(text: &str) -> Result<Self, InvalidTagPattern> {
        Self::try_from(text.to_owned())
    }
}

impl From<TagPattern> for String {
    fn from(pattern: TagPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The leading letters of the versions among some names.
enum LeadingLetters<'n> {
    /// All have these.
    Shared(&'n str),
    /// They differ: then a version begins with its number, or with a "v".
    Mixed,
}

impl<'n> LeadingLetters<'n> {
    /// Those of `names`; what is no version, whatever is left off, does not count.
    fn of(names: &[&'n str]) -> Self {
        let of_version = |name: &&'n str| {
            let below = name.rfind('/').map_or(0, |slash| slash + 1);
            let digit = name.get(below..)?.find(|c: char| c.is_ascii_digit())? + below;
            Version::parse(name.get(digit..)?).and(name.get(..digit))
        };
        let mut letters = names.iter().filter_map(of_version);
        let first = letters.next().unwrap_or_default();
        if letters.all(|other| other == first) { Self::Shared(first) } else { Self::Mixed }
    }

    /// The part of a version's name behind them.
    fn strip<'m>(&self, name: &'m str) -> Option<&'m str> {
        match self {
            Self::Shared(letters) => name.strip_prefix(letters),
            Self::Mixed => Some(name.strip_prefix(['v', 'V']).unwrap_or(name)),
        }
    }
}

/// A name with its version; `None`: it is none.
struct VersionedName<'n> {
    name: &'n str,
    version: Option<Version<'n>>,
}

impl VersionedName<'_> {
    fn is_pre_release(&self) -> bool {
        self.version.as_ref().is_some_and(|version| version.pre_release.is_some())
    }
}

/// A version such as `1.10` or `2.0.0-rc1`.
#[derive(Clone, Debug)]
struct Version<'n> {
    /// The numeric fields, as digits: they may be of any length.
    fields: Vec<&'n str>,
    /// The text behind the hyphen; `None`: it is a release.
    pre_release: Option<&'n str>,
}

impl<'n> Version<'n> {
    /// `None` where `text` is no version. What follows a plus sign does not count, as in semver.
    fn parse(text: &'n str) -> Option<Self> {
        let text = text.split('+').next()?;
        let (core, pre_release) = match text.split_once('-') {
            Some((core, pre_release)) => (core, Some(pre_release)),
            None => (text, None),
        };
        let is_number =
            |field: &&str| !field.is_empty() && field.bytes().all(|it| it.is_ascii_digit());
        let is_word = |it: &str| {
            !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let fields: Vec<&str> = core.split('.').collect();
        let is_version = fields.iter().all(is_number)
            && pre_release.is_none_or(|text| text.split('.').all(is_word));
        is_version.then_some(Self { fields, pre_release })
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let count = self.fields.len().max(other.fields.len());
        let field = |version: &Self, at: usize| version.fields.get(at).copied().unwrap_or("0");
        let by_field = (0..count).map(|at| by_number(field(self, at), field(other, at)));
        let by_field = by_field.fold(Ordering::Equal, Ordering::then);
        let by_pre_release = || match (self.pre_release, other.pre_release) {
            (None, None) => Ordering::Equal,
            (None, Some(_)) => Ordering::Greater,
            (Some(_), None) => Ordering::Less,
            (Some(one), Some(other)) => {
                let words = |text: &str| text.split('.').count();
                let pairs = one.split('.').zip(other.split('.'));
                let by_word = pairs.map(|(one, other)| Word(one).cmp(&Word(other)));
                by_word
                    .fold(Ordering::Equal, Ordering::then)
                    .then_with(|| words(one).cmp(&words(other)))
            }
        };
        by_field.then_with(by_pre_release)
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Version<'_> {}

/// One of the words of a pre-release, which dots separate.
struct Word<'n>(&'n str);

impl Word<'_> {
    /// As in semver, a number is older than a word. Unlike there, numbers within a word count as such:
    /// `rc10` is newer than `rc2`, as git sorts them.
    fn cmp(&self, other: &Self) -> Ordering {
        let is_number = |it: &Self| it.0.bytes().all(|byte| byte.is_ascii_digit());
        match (is_number(self), is_number(other)) {
            (true, true) => by_number(self.0, other.0),
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => natural(self.0, other.0),
        }
    }
}

/// Compares two texts of digits by their number, of whatever length.
fn by_number(one: &str, other: &str) -> Ordering {
    let (one, other) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
    one.len().cmp(&other.len()).then_with(|| one.cmp(other))
}

/// Compares two texts byte by byte, and the numbers in them by number.
fn natural(one: &str, other: &str) -> Ordering {
    let (mut one, mut other) = (one, other);
    loop {
        let (digits, its_digits) = (leading_digits(one), leading_digits(other));
        let (by, rest, its_rest) = if digits.is_empty() || its_digits.is_empty() {
            let (mut chars, mut its_chars) = (one.chars(), other.chars());
            match (chars.next(), its_chars.next()) {
                (None, None) => return Ordering::Equal,
                (first, its_first) => (first.cmp(&its_first), chars.as_str(), its_chars.as_str()),
            }
        } else {
            let by = by_number(digits, its_digits);
            let (rest, its_rest) = (one.get(digits.len()..), other.get(its_digits.len()..));
            (by, rest.unwrap_or_default(), its_rest.unwrap_or_default())
        };
        if by != Ordering::Equal {
            return by;
        }
        (one, other) = (rest, its_rest);
    }
}

fn leading_digits(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests;
