//! Which branch or tag appears under which name at a target, and where a target's parts lie. Pure:
//! knows neither what is on the disk nor how a tree gets there.
//!
//! A published tree is a folder named by its revision in a store beside or below the target, and
//! what a reader opens is a symbolic link to it:
//!
//! ```text
//! Checkout  /srv/site      -> .site.pmpy/REVISION
//! Inside    /srv/env/DIR   -> .pmpy/DIR/REVISION
//! Beside    /srv/site_DIR  -> .site.pmpy/DIR/REVISION
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use percent_encoding::{
    AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, percent_encode_byte,
};
use serde::{Deserialize, Serialize};

use super::git::Commit;
use super::paths::Patterns;

/// The longest name that a directory may have, in bytes (`NAME_MAX` of Linux).
pub const LONGEST: usize = 255;

/// Environments that Puppet does not accept: they are sections of its own `puppet.conf`.
const RESERVED: [&str; 4] = ["agent", "main", "master", "user"];

/// What stands for something else in a directory's name.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'+');

/// Where the trees of a repository appear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One tree, at the target itself.
    Checkout,
    /// Many, at `TARGET/DIR`.
    Inside,
    /// Many, at `TARGET_DIR`.
    Beside,
}

/// A target and its layout: which names in which folder belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How the trees lie.
    pub layout: Layout,
    /// The folder that the links are in.
    pub folder: PathBuf,
    /// The last part of the target.
    name: String,
}

impl Target {
    /// Takes the absolute path of a target apart; `None` for `/` and for what is no text.
    pub fn new(layout: Layout, path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_owned();
        let folder = match layout {
            Layout::Inside => path,
            Layout::Checkout | Layout::Beside => path.parent()?,
        };
        Some(Self { layout, folder: folder.to_owned(), name })
    }

    /// The name of the store in the folder.
    pub fn store(&self) -> String {
        match self.layout {
            Layout::Inside => ".pmpy".to_owned(),
            Layout::Checkout | Layout::Beside => format!(".{}.pmpy", self.name),
        }
    }

    /// The name of the link in the folder that shows `directory`; of [`Layout::Checkout`], which has
    /// but one link, whatever `directory` is.
    pub fn link(&self, directory: &str) -> String {
        match self.layout {
            Layout::Checkout => self.name.clone(),
            Layout::Inside => directory.to_owned(),
            Layout::Beside => format!("{}_{directory}", self.name),
        }
    }

    /// How many bytes a directory's name may have here, so that its link can have its own.
    pub fn room(&self) -> usize {
        match self.layout {
            Layout::Checkout | Layout::Inside => LONGEST,
            Layout::Beside => LONGEST.saturating_sub(self.link("").len()),
        }
    }
}

/// How a ref's name becomes a directory's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Names {
    /// Injective: letters, digits, `.`, `_`, `+` and `-` stay, every other byte becomes `%XX`; so do
    /// `.` and `-` at the beginning.
    #[default]
    Exact,
    /// What Puppet accepts as an environment: all but letters, digits and `_` becomes `_`.
    Puppet,
}

/// Why a ref has no directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The ref's name is empty.
    Nameless,
    /// The directory's name would have so many bytes, and so many are possible.
    TooLong {
        /// Bytes that it would have.
        length: usize,
        /// Bytes that it may have.
        room: usize,
    },
    /// Puppet keeps this name for itself.
    Reserved(&'static str),
}

impl fmt::Display for Unfit {
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

impl std::error::Error for Unfit {}

/// The directory of the branch or tag that is called `short`, which is the name without
/// `refs/heads/` or `refs/tags/`. One path component: never empty, never beginning with `.`.
///
/// # Errors
/// When no directory can be called so.
pub fn directory(
    short: &[u8],
    names: Names,
    rename: &BTreeMap<String, String>,
) -> Result<String, Unfit> {
    let renamed = std::str::from_utf8(short).ok().and_then(|name| rename.get(name));
    let name = renamed.map_or(short, String::as_bytes);
    let directory = match names {
        Names::Exact => exact(name),
        Names::Puppet => puppet(name)?,
    };
    match directory.len() {
        0 => Err(Unfit::Nameless),
        length if length > LONGEST => Err(Unfit::TooLong { length, room: LONGEST }),
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

fn puppet(name: &[u8]) -> Result<String, Unfit> {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let name: String = String::from_utf8_lossy(name).chars().map(plain).collect();
    match RESERVED.into_iter().find(|reserved| *reserved == name) {
        Some(reserved) => Err(Unfit::Reserved(reserved)),
        None => Ok(name),
    }
}

/// Our own ref that marks how far the branch or tag called `name` in full was seen; `None`: it is
/// neither. One name without a slash, so that `a` may go and `a/b` come.
pub fn mark(name: &str) -> Option<String> {
    let (kind, short) = match name.strip_prefix("refs/heads/") {
        Some(short) => ("seen", short),
        None => ("seen-tags", name.strip_prefix("refs/tags/")?),
    };
    Some(format!("refs/pmpy/{kind}/{}", exact(short.as_bytes())))
}

/// Which refs are published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refs {
    /// `refs/heads/`
    Branches,
    /// `refs/tags/`
    Tags,
}

impl Refs {
    /// What their full names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Branches => "refs/heads/",
            Self::Tags => "refs/tags/",
        }
    }
}

/// What is configured about many refs at one target.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Which refs.
    pub refs: Refs,
    /// `names`
    pub names: Names,
    /// `rename`: a directory's name by a ref's short one.
    pub rename: BTreeMap<String, String>,
    /// `match`, on short names.
    pub matching: Patterns,
    /// How many bytes a directory's name may have, see [`Target::room`].
    pub room: usize,
}

/// A ref that is to be published, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// Its full name.
    pub name: String,
    /// Where it points; `None`: to no commit that is here.
    pub revision: Option<Commit>,
    /// The directory's name, or in words why it has none.
    pub directory: Result<String, String>,
}

/// Gives each of `refs`, full names and where they point, its directory; refs that the rules leave
/// out are not told of. `there` is what is published now, the ref's full name by the directory's.
///
/// Of several refs with one directory the one that is there already keeps it; else it is one that
/// points to a commit; else the one that is called so; else the first by name. The others have none,
/// and the reason names the winner.
pub fn assign(
    refs: &[(String, Option<Commit>)],
    there: &BTreeMap<String, String>,
    rules: &Rules,
) -> Vec<Assigned> {
    let wanted: Vec<Wanted<'_>> =
        refs.iter().filter_map(|(name, revision)| rules.wanted(name, *revision)).collect();
    let mut winners: BTreeMap<&str, &Wanted<'_>> = BTreeMap::new();
    for one in &wanted {
        let Ok(directory) = &one.directory else { continue };
        let holder = there.get(directory).map(String::as_str);
        let rank = |one: &Wanted<'_>| {
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
    let decided = |one: &Wanted<'_>| {
        let directory = one.directory.as_ref().map_err(Unfit::to_string)?;
        match winners.get(directory.as_str()) {
            Some(winner) if winner.name != one.name => Err(format!(
                "\"{directory}\" is the directory of {}: another name can be given under rename",
                winner.name.escape_debug()
            )),
            _ => Ok(directory.clone()),
        }
    };
    wanted
        .iter()
        .map(|one| Assigned {
            name: one.name.to_owned(),
            revision: one.revision,
            directory: decided(one),
        })
        .collect()
}

/// A ref that the rules select, and the directory that it would have were it alone.
struct Wanted<'a> {
    name: &'a str,
    short: &'a str,
    revision: Option<Commit>,
    directory: Result<String, Unfit>,
}

impl Rules {
    /// Whether the ref called `name` in full is one to be published.
    pub fn selects(&self, name: &str) -> bool {
        let short = name.strip_prefix(self.refs.prefix());
        short.is_some_and(|short| self.matching.matches(short.as_bytes()))
    }

    /// The full name of a ref whose directory can be `directory`, as far as that tells it.
    pub fn name_of(&self, directory: &str) -> String {
        let decoded = percent_decode_str(directory).decode_utf8();
        let short = match (self.names, &decoded) {
            (Names::Exact, Ok(short)) => short,
            _ => directory,
        };
        format!("{}{short}", self.refs.prefix())
    }

    fn wanted<'a>(&self, name: &'a str, revision: Option<Commit>) -> Option<Wanted<'a>> {
        let short = name.strip_prefix(self.refs.prefix())?;
        let directory = directory(short.as_bytes(), self.names, &self.rename).and_then(|name| {
            match name.len() {
                length if length > self.room => Err(Unfit::TooLong { length, room: self.room }),
                _ => Ok(name),
            }
        });
        self.matching.matches(short.as_bytes()).then_some(Wanted {
            name,
            short,
            revision,
            directory,
        })
    }
}

#[cfg(test)]
mod tests;
