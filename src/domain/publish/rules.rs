//! The directory names of branches and tags at a target, and the layout of a target. Pure: knows neither
//! what is on the disk nor how a tree gets there.
//!
//! A published tree is a directory named by its revision, in a store next to or below the target.
//! Readers open a symbolic link to it:
//!
//! ```text
//! Checkout  /srv/site      -> .site.pmpy/REVISION
//! Inside    /srv/env/DIR   -> .pmpy/DIR/REVISION
//! Sibling   /srv/site_DIR  -> .site.pmpy/DIR/REVISION
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, percent_encode_byte,
};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::paths::PathPatterns;
use crate::domain::text::EscapeControls;

/// The limit of a directory's name in bytes (`NAME_MAX` of Linux).
pub const LONGEST: usize = 255;

/// Environment names that Puppet does not accept: they are sections of its own `puppet.conf`.
const RESERVED: [&str; 4] = ["agent", "main", "master", "user"];

/// The bytes that are percent-encoded in a directory's name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'+');

/// The layout of a repository's published trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetLayout {
    /// One tree, at the target itself.
    Checkout,
    /// Many trees, at `TARGET/DIR`.
    Inside,
    /// Many trees, at `TARGET_DIR`.
    Sibling,
}

/// A target and its layout, which give the names of its links and its store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishTarget {
    /// The layout of the trees.
    pub layout: TargetLayout,
    /// The directory that holds the links.
    pub links_dir: PathBuf,
    /// The last part of the target's path.
    name: String,
}

impl PublishTarget {
    /// Splits the absolute path of a target; `None` for `/` and for a name that is no UTF-8.
    pub fn new(layout: TargetLayout, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let dir = match layout {
            TargetLayout::Inside => path,
            TargetLayout::Checkout | TargetLayout::Sibling => path.parent()?,
        };
        Some(Self { layout, links_dir: dir.to_owned(), name })
    }

    /// The name of the store in the directory of the links.
    pub fn store(&self) -> String {
        match self.layout {
            TargetLayout::Inside => ".pmpy".to_owned(),
            TargetLayout::Checkout | TargetLayout::Sibling => format!(".{}.pmpy", self.name),
        }
    }

    /// The name of the link that shows `directory`. [`TargetLayout::Checkout`] has only one link and
    /// ignores `directory`.
    pub fn link(&self, directory: &str) -> String {
        match self.layout {
            TargetLayout::Checkout => self.name.clone(),
            TargetLayout::Inside => directory.to_owned(),
            TargetLayout::Sibling => format!("{}_{directory}", self.name),
        }
    }

    /// The limit of a directory's name in bytes, so that the name of its link fits too.
    pub fn room(&self) -> usize {
        match self.layout {
            TargetLayout::Checkout | TargetLayout::Inside => LONGEST,
            TargetLayout::Sibling => LONGEST.saturating_sub(self.link("").len()),
        }
    }
}

/// The rule that turns a ref's name into a directory's name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamingRule {
    /// Injective: letters, digits, `.`, `_`, `+` and `-` stay, every other byte becomes `%XX`; so does a
    /// leading `.` or `-`.
    #[default]
    Exact,
    /// A valid Puppet environment name: every character but letters, digits and `_` becomes `_`.
    Puppet,
}

/// The reason why a ref has no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamingError {
    /// The ref's name is empty.
    Nameless,
    /// The directory's name is too long.
    TooLong {
        /// The length in bytes that it would have.
        length: usize,
        /// The limit in bytes.
        room: usize,
    },
    /// Puppet reserves this name.
    Reserved(&'static str),
}

impl fmt::Display for NamingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nameless => f.write_str("it has no name"),
            Self::TooLong { length, room } => write!(
                f,
                "its directory's name would have {length} bytes, and {room} are possible: a shorter \
                 one can be given under rename"
            ),
            Self::Reserved(name) => write!(
                f,
                "Puppet accepts no environment called \"{name}\": another name can be given under \
                 rename"
            ),
        }
    }
}

impl std::error::Error for NamingError {}

/// The directory for the branch or tag `short`, its name without `refs/heads/` or `refs/tags/`. One path
/// component: never empty, never beginning with `.`.
///
/// # Errors
/// The name gives no valid directory.
pub fn directory(
    short: &[u8],
    names: NamingRule,
    rename: &BTreeMap<String, String>,
) -> Result<String, NamingError> {
    let renamed = std::str::from_utf8(short).ok().and_then(|name| rename.get(name));
    let name = renamed.map_or(short, String::as_bytes);
    let directory = match names {
        NamingRule::Exact => exact(name),
        NamingRule::Puppet => puppet(name)?,
    };
    match directory.len() {
        0 => Err(NamingError::Nameless),
        length if length > LONGEST => Err(NamingError::TooLong { length, room: LONGEST }),
        _ => Ok(directory),
    }
}

fn exact(name: &[u8]) -> String {
    match name {
        [first @ (b'.' | b'-'), rest @ ..] => {
            format!("{}{}", percent_encode_byte(*first), percent_encode(rest, ENCODED))
        }
        _ => percent_encode(name, ENCODED).to_string(),
    }
}

fn puppet(name: &[u8]) -> Result<String, NamingError> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = String::from_utf8_lossy(name).chars().map(plain).collect();
    match RESERVED.into_iter().find(|reserved| *reserved == name) {
        Some(reserved) => Err(NamingError::Reserved(reserved)),
        None => Ok(name),
    }
}

/// Our own ref that marks the last seen revision of the branch or tag `name` (full name); `None`: it is
/// neither. The last part has no slash, so that `a/b` can replace `a`.
pub fn mark(name: &str) -> Option<String> {
    own_ref("seen", name)
}

/// Our own ref of the revision of the branch or tag `name` (full name) whose signature was accepted last, as for
/// [`mark`].
pub fn accepted_mark(name: &str) -> Option<String> {
    own_ref("accepted", name)
}

/// Our own ref that marks `revision` as bad at the branch or tag `name` (full name); `None`: it is neither.
pub fn bad_mark(name: &str, revision: Commit) -> Option<String> {
    own_ref("bad-of", name).map(|of_ref| format!("{of_ref}/{revision}"))
}

fn own_ref(kind: &str, name: &str) -> Option<String> {
    let (of_tags, short) = match name.strip_prefix("refs/heads/") {
        Some(short) => ("", short),
        None => ("-tags", name.strip_prefix("refs/tags/")?),
    };
    Some(format!("refs/pmpy/{kind}{of_tags}/{}", exact(short.as_bytes())))
}

/// The kind of refs to publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefSelection {
    /// Refs below `refs/heads/`.
    Branches,
    /// Refs below `refs/tags/`.
    Tags,
}

impl RefSelection {
    /// The prefix of their full names.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Branches => "refs/heads/",
            Self::Tags => "refs/tags/",
        }
    }
}

/// The configured rules for many refs at one target.
#[derive(Clone, Debug)]
pub struct PublishRules {
    /// The kind of refs.
    pub refs: RefSelection,
    /// `names`: the rule for directory names.
    pub names: NamingRule,
    /// `rename`: a directory's name by a ref's short one.
    pub rename: BTreeMap<String, String>,
    /// `match`: patterns for short names.
    pub matching: PathPatterns,
    /// The limit of a directory's name in bytes, see [`PublishTarget::room`].
    pub room: usize,
}

/// A ref to publish, with its directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssignedRef {
    /// The full name.
    pub name: String,
    /// The commit; `None`: it points to no commit that is here.
    pub revision: Option<Commit>,
    /// The directory's name, or why it has none, as a message.
    pub directory: Result<String, String>,
}

/// Assigns a directory to each of `refs`, given as full names and commits; refs that the rules exclude
/// are left out. `there` maps the published directories to full ref names.
///
/// When several refs want one directory, the ref that has it keeps it; else one that points to a commit
/// wins; else the one of exactly that name; else the first by name. The others get none, and the reason
/// names the winner.
pub fn assign(
    refs: &[(String, Option<Commit>)],
    there: &BTreeMap<String, String>,
    rules: &PublishRules,
) -> Vec<AssignedRef> {
    let wanted: Vec<SelectedRef<'_>> =
        refs.iter().filter_map(|(name, revision)| rules.wanted(name, *revision)).collect();
    let mut winners: BTreeMap<&str, &SelectedRef<'_>> = BTreeMap::new();
    for one in &wanted {
        let Ok(directory) = &one.directory else { continue };
        let holder = there.get(directory).map(String::as_str);
        let rank = |one: &SelectedRef<'_>| {
            (holder != Some(one.name), one.revision.is_none(), one.short != directory)
        };
        winners
            .entry(directory)
            .and_modify(|best| {
                if (rank(one), one.name) < (rank(best), best.name) {
                    *best = one;
                }
            })
            .or_insert(one);
    }
    let decided = |one: &SelectedRef<'_>| {
        let directory = one.directory.as_ref().map_err(NamingError::to_string)?;
        match winners.get(directory.as_str()) {
            Some(winner) if winner.name != one.name => Err(format!(
                "\"{directory}\" is the directory of {}: another name can be given under rename",
                winner.name.escape_controls()
            )),
            _ => Ok(directory.clone()),
        }
    };
    wanted
        .iter()
        .map(|one| AssignedRef {
            name: one.name.to_owned(),
            revision: one.revision,
            directory: decided(one),
        })
        .collect()
}

/// A selected ref, and the directory that it would have if it were the only one.
struct SelectedRef<'a> {
    name: &'a str,
    short: &'a str,
    revision: Option<Commit>,
    directory: Result<String, NamingError>,
}

impl PublishRules {
    /// Returns `true` if the ref with the full name `name` is to be published.
    pub fn selects(&self, name: &str) -> bool {
        let short = name.strip_prefix(self.refs.prefix());
        short.is_some_and(|short| self.matching.matches(short.as_bytes()))
    }

    /// The full name of a ref that may have the directory `directory`, as far as it can be decoded.
    pub fn name_of(&self, directory: &str) -> String {
        let decoded = percent_decode_str(directory).decode_utf8();
        let short = match (self.names, &decoded) {
            (NamingRule::Exact, Ok(short)) => short,
            _ => directory,
        };
        format!("{}{short}", self.refs.prefix())
    }

    fn wanted<'a>(&self, name: &'a str, revision: Option<Commit>) -> Option<SelectedRef<'a>> {
        let short = name.strip_prefix(self.refs.prefix())?;
        let directory = directory(short.as_bytes(), self.names, &self.rename).and_then(|name| {
            match name.len() {
                length if length > self.room => {
                    Err(NamingError::TooLong { length, room: self.room })
                }
                _ => Ok(name),
            }
        });
        self.matching.matches(short.as_bytes()).then_some(SelectedRef {
            name,
            short,
            revision,
            directory,
        })
    }
}

#[cfg(test)]
mod tests;
