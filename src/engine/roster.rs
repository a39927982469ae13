//! Which repositories there are: the configured ones, and every clone under the root.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::PathBuf;

use anyhow::{Result, bail};

use super::Here;
use crate::config::RepoSettings;
use crate::domain::git::RefName;
use crate::system::root::{self, Kind};

/// One repository of this machine.
#[derive(Clone, Debug)]
pub struct Repo {
    /// The configured name, or that of its folder.
    pub name: String,
    /// Where its worktree is, or is to be.
    pub path: PathBuf,
    /// What holds for it.
    pub settings: RepoSettings,
    /// What is at `path`.
    pub found: Found,
}

/// What is at a repository's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A clone.
    Clone,
    /// Nothing yet, and there is a url to clone from.
    Missing,
    /// Something that cannot be acted in.
    Unfit(&'static str),
}

/// A repository was named that there is not.
#[derive(Debug)]
pub struct Unknown {
    name: String,
    hint: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no repository \"{}\"\nhint: {}", self.name.escape_debug(), self.hint)
    }
}

impl std::error::Error for Unknown {}

/// All repositories, by name. Folders that are none are left out, and so is the second name of one
/// that was listed already.
///
/// # Errors
/// When the root cannot be read.
pub fn repositories(here: &Here) -> Result<Vec<Repo>> {
    let settings = &here.settings;
    let mut all = BTreeMap::new();
    let mut known = HashSet::new();
    for (name, repo) in &settings.repos {
        let path = repo.path.clone().unwrap_or_else(|| settings.world.root.join(name));
        let kind = root::kind_of(&path);
        if let Kind::Clone { id } = kind {
            known.insert(id);
        }
        let found = match kind {
            Kind::Clone { .. } => Found::Clone,
            Kind::Linked => Found::Unfit(LINKED),
            Kind::Bare => Found::Unfit(BARE),
            Kind::Closed => Found::Unfit(CLOSED),
            Kind::Plain if path.symlink_metadata().is_ok() && !path.is_dir() => Found::Unfit(
                "something else than a folder is where the clone belongs; move it away",
            ),
            Kind::Plain if path.read_dir().is_ok_and(|mut inside| inside.next().is_some()) => {
                Found::Unfit(
                    "the folder is there, is no repository and is not empty; \
                     move its content away, so that it can be cloned",
                )
            }
            Kind::Plain if repo.urls.is_empty() => {
                Found::Unfit("it is not there, and no url says where to clone it from")
            }
            Kind::Plain => Found::Missing,
        };
        all.insert(name.clone(), Repo { name: name.clone(), path, settings: repo.clone(), found });
    }
    if here.parcel.is_some() {
        // Only what was handed over is ours to look at.
        return Ok(all.into_values().collect());
    }
    for entry in root::entries(&settings.world.root)? {
        let found = match entry.kind {
            // The same clone under a second name: a link or a bind mount.
            Kind::Clone { id } if !known.insert(id) => continue,
            Kind::Clone { .. } => Found::Clone,
            Kind::Linked => Found::Unfit(LINKED),
            Kind::Bare => Found::Unfit(BARE),
            Kind::Closed => Found::Unfit(CLOSED),
            Kind::Plain => continue,
        };
        all.entry(entry.name.clone()).or_insert_with(|| Repo {
            name: entry.name,
            path: entry.path,
            settings: settings.unlisted.clone(),
            found,
        });
    }
    Ok(all.into_values().collect())
}

const LINKED: &str = "it is a linked worktree or a submodule; only whole clones are acted upon: \
                      move it out of the root or clone it";
const CLOSED: &str = "permission denied: the user it is worked on as cannot reach it; \
                      move it, or let that user into the folders above it";
const BARE: &str = "it is bare: it has no worktree to act in; move it out of the root";

/// The repositories with these names; all when there are none.
///
/// # Errors
/// When the root cannot be read or a name is not known.
pub fn named(here: &Here, names: &[String]) -> Result<Vec<Repo>> {
    let mut all = repositories(here)?;
    known(here, &all, names)?;
    if !names.is_empty() {
        all.retain(|repo| names.contains(&repo.name));
    }
    Ok(all)
}

/// Whether each of `names` is one of `all`.
///
/// # Errors
/// Says which is not, and which there are.
pub fn known(here: &Here, all: &[Repo], names: &[String]) -> Result<()> {
    for name in names {
        if !all.iter().any(|repo| repo.name == *name) {
            let known: Vec<_> = all.iter().map(|repo| repo.name.as_str()).collect();
            let hint = match known.as_slice() {
                [] => format!(
                    "there is none yet under {}; add one: agent init URL",
                    here.settings.world.root.display()
                ),
                known => format!("there are: {}", known.join(", ")),
            };
            bail!(Unknown { name: name.clone(), hint });
        }
    }
    Ok(())
}

/// The one repository with this name.
///
/// # Errors
/// When it is not known.
pub fn one(here: &Here, name: &str) -> Result<Repo> {
    let mut found = named(here, &[name.to_owned()])?;
    match found.pop() {
        Some(repo) => Ok(repo),
        None => bail!(Unknown { name: name.to_owned(), hint: "agent status".to_owned() }),
    }
}

impl Repo {
    /// The configured branch with `{part}`, `{stack}` and `{host}` filled in.
    ///
    /// # Errors
    /// When it names a part or a stack that this machine does not have, or gives no branch name.
    pub fn branch(&self, here: &Here) -> Result<Option<RefName>> {
        let Some(pattern) = &self.settings.branch else { return Ok(None) };
        let mut name = pattern.replace("{host}", &here.node.host);
        for (place, value) in [("{part}", &here.part), ("{stack}", &here.stack)] {
            match value {
                Some(value) => name = name.replace(place, value),
                None if name.contains(place) => bail!(
                    "branch = \"{pattern}\" needs to know this machine's {}\n\
                     hint: write it into {}",
                    place.trim_matches(['{', '}']),
                    here.settings.world.nodeinfo.display()
                ),
                None => {}
            }
        }
        Ok(Some(name.parse()?))
    }
}
