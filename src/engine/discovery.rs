//! The repositories of this machine: the configured ones, and every clone under the root. Looks at paths
//! and owners, opens no repository.

pub mod safe_paths;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};

use crate::config::RepoSettings;
use crate::domain::followed::Followed;
use crate::domain::git::RefName;
use crate::domain::hash;
use crate::domain::remote::PollScope;
use crate::domain::repository::names;
use crate::domain::text::EscapeControls;
use crate::domain::versions::TagPattern;
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths::SafePaths;
use crate::system::host;
use crate::system::repo_dir_scan::{self, RootEntryKind};
use crate::system::trust::Trust;
use crate::system::users::User;

/// One repository of this machine.
#[derive(Clone, Debug)]
pub struct RepoEntry {
    /// The configured name, or that of its directory.
    pub name: String,
    /// The path of its worktree, now or later, resolved so that no other user can redirect it.
    pub path: PathBuf,
    /// The path as it was configured or found, for messages.
    pub listed: PathBuf,
    /// The users who may change it and its dependencies.
    pub trust: Arc<Trust>,
    /// The paths walked during the discovery that found it.
    pub paths: Arc<SafePaths>,
    /// The settings that apply to it.
    pub settings: RepoSettings,
    /// The state of the clone at `path`.
    pub found: CloneState,
}

/// The state of the path of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloneState {
    /// A clone.
    Clone,
    /// Nothing yet, and a url says where to clone from.
    Missing,
    /// Something that the agent cannot work in, with the reason.
    Unfit(String),
}

/// A named repository that does not exist.
#[derive(Debug)]
pub struct UnknownRepo {
    name: String,
    hint: String,
}

impl fmt::Display for UnknownRepo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no repository \"{}\"\nhint: {}", self.name.escape_controls(), self.hint)
    }
}

impl std::error::Error for UnknownRepo {}

/// All repositories, by name. Leaves out directories that are no repository, and a second name of a
/// clone that is already listed.
///
/// # Errors
/// When the root cannot be read.
pub fn repositories(context: &Context) -> Result<Vec<RepoEntry>> {
    let settings = &context.settings;
    let paths = Arc::new(SafePaths::new(context));
    let mut all = BTreeMap::new();
    let mut known = HashSet::new();
    for name in settings.repos.keys() {
        let (repo, kind) = configured_entry(context, &paths, name);
        if let RootEntryKind::Clone { id } = kind {
            known.insert(id);
        }
        all.insert(name.clone(), repo);
    }
    if settings.is_handed_over {
        return Ok(all.into_values().collect());
    }
    for entry in repo_dir_scan::entries(&settings.world.root)? {
        if entry.kind == RootEntryKind::Plain || all.contains_key(&entry.name) {
            continue;
        }
        let place = ClonePath::of(context, &paths, &entry.path, &settings.unlisted);
        let found = match repo_dir_scan::kind_of(&place.real) {
            // The same clone under a second name: a symbolic link or a bind mount.
            RootEntryKind::Clone { id } if !known.insert(id) => continue,
            RootEntryKind::Clone { .. } => CloneState::Clone,
            RootEntryKind::Linked => CloneState::Unfit(LINKED.to_owned()),
            RootEntryKind::Strange(what) => strange(&place.real, what),
            RootEntryKind::Bare => CloneState::Unfit(BARE.to_owned()),
            RootEntryKind::Closed => CloneState::Unfit(CLOSED.to_owned()),
            RootEntryKind::Plain => continue,
        };
        let repo = RepoEntry {
            name: entry.name.clone(),
            path: place.real,
            listed: entry.path,
            trust: place.trust,
            paths: Arc::clone(&paths),
            settings: settings.unlisted.clone(),
            found: place.fault.unwrap_or(found),
        };
        all.insert(entry.name, repo);
    }
    Ok(all.into_values().collect())
}

/// The repository of this name as its entry in the settings describes it, and what is at its path.
fn configured_entry(
    context: &Context,
    paths: &Arc<SafePaths>,
    name: &str,
) -> (RepoEntry, RootEntryKind) {
    let settings = handed_to_workers(context, name);
    let listed = settings.path.clone().unwrap_or_default();
    let place = ClonePath::of(context, paths, &listed, &settings);
    let kind = repo_dir_scan::kind_of(&place.real);
    // Its name, and its path if it could be read, keep it from being taken for one without an entry.
    let found = match &settings.broken {
        Some(reason) => CloneState::Unfit(reason.clone()),
        None => place.fault.unwrap_or_else(|| configured(kind, &place.real, &settings)),
    };
    let (name, paths) = (name.to_owned(), Arc::clone(paths));
    let (path, trust) = (place.real, place.trust);
    (RepoEntry { name, path, listed, trust, paths, settings, found }, kind)
}

/// The settings of the repository of this name, with all that follows from where they stand: its path, and
/// where its passwords are kept.
pub fn handed_to_workers(context: &Context, name: &str) -> RepoSettings {
    let settings = &context.settings;
    let mut own = settings.of_repo(name).clone();
    own.path.get_or_insert_with(|| settings.world.root.join(name));
    if !settings.is_handed_over {
        own.reach.password_cache = password_cache(context, &own);
    }
    own
}

/// The beginning of the names of the files that keep the passwords of `password_command`.
pub(in crate::engine) fn password_cache(
    context: &Context,
    settings: &RepoSettings,
) -> Option<PathBuf> {
    let words: Vec<&[u8]> = settings.password_command.iter().map(|word| word.as_bytes()).collect();
    let world = &context.settings.world;
    let own = host::runtime_dir().filter(|_| !world.own);
    let dir = own.unwrap_or_else(|| world.state.clone()).join("passwords");
    // Without a url the server is not known before the clone is opened.
    (!words.is_empty() && !settings.urls.is_empty())
        .then(|| dir.join(format!("{:016x}", hash::stable(&words))))
}

/// The real path of a repository, and the trust by which it was checked.
struct ClonePath {
    real: PathBuf,
    trust: Arc<Trust>,
    /// The reason to leave the repository alone, if any.
    fault: Option<CloneState>,
}

impl ClonePath {
    fn of(context: &Context, paths: &SafePaths, listed: &Path, settings: &RepoSettings) -> Self {
        let us = context.node.user.uid;
        let unfit = |reason: String| Self {
            real: listed.to_owned(),
            trust: paths.trust(us),
            fault: Some(CloneState::Unfit(reason)),
        };
        let walked = match paths.walk(listed) {
            Ok(walked) => walked,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return unfit(CLOSED.to_owned());
            }
            Err(error) => {
                return unfit(format!("{} cannot be looked at: {error}", listed.display()));
            }
        };
        // Root works on another user's clone as that user; a process that is not root, as itself.
        let uid = match (us, &settings.user) {
            (0, Some(name)) if !context.settings.is_handed_over => {
                match User::named(name) {
                    Ok(Some(user)) => user.uid,
                    // A missing user or a failed look-up is reported by the code that becomes the user.
                    _ => return Self { real: walked.real, trust: paths.trust(us), fault: None },
                }
            }
            (0, None) => walked.owner().unwrap_or(us),
            _ => us,
        };
        let trust = paths.trust(uid);
        let fault = walked.check(&trust).err();
        let fault = fault.map(|part| CloneState::Unfit(safe_paths::of_repository(&part)));
        Self { real: walked.real, trust, fault }
    }
}

/// The state of a path whose `.git` is something other than a directory.
fn strange(path: &Path, what: &str) -> CloneState {
    let path = path.join(".git").display().to_string();
    CloneState::Unfit(format!(
        "{} is {what}, where a directory is expected\nhint: look at what it is, and move it away; then \
         clone again",
        path.escape_controls()
    ))
}

/// The state of the path of a configured repository.
fn configured(kind: RootEntryKind, path: &Path, settings: &RepoSettings) -> CloneState {
    let unfit = |reason: &str| CloneState::Unfit(reason.to_owned());
    match kind {
        RootEntryKind::Clone { .. } => CloneState::Clone,
        RootEntryKind::Linked => unfit(LINKED),
        RootEntryKind::Strange(what) => strange(path, what),
        RootEntryKind::Bare => unfit(BARE),
        RootEntryKind::Closed => unfit(CLOSED),
        RootEntryKind::Plain if path.symlink_metadata().is_ok() && !path.is_dir() => {
            unfit("the path of the clone is not a directory; move it away")
        }
        RootEntryKind::Plain if path.read_dir().is_ok_and(|mut inside| inside.next().is_some()) => {
            unfit(
                "the directory exists, is not a repository and is not empty; \
             move its content away, so that it can be cloned",
            )
        }
        RootEntryKind::Plain if settings.urls.is_empty() => {
            unfit("it does not exist, and no url is configured to clone it from")
        }
        RootEntryKind::Plain => CloneState::Missing,
    }
}

const LINKED: &str = "it is a linked worktree or a submodule; only whole clones are supported: \
                      move it out of the root or clone it";
const CLOSED: &str = "permission denied: the user of the repository cannot reach it; \
                      move it, or let that user into the directories above it";
const BARE: &str = "it is bare: it has no worktree to act in; move it out of the root";

/// The repositories with these names; all when `names` is empty.
///
/// # Errors
/// When the root cannot be read or a name is not known.
pub fn named(context: &Context, names: &[String]) -> Result<Vec<RepoEntry>> {
    let mut all = repositories(context)?;
    known(context, &all, names)?;
    if !names.is_empty() {
        all.retain(|repo| names.contains(&repo.name));
    }
    Ok(all)
}

/// The names of the repositories that `given` selects: names, and patterns such as `app*`. Empty stays empty.
///
/// # Errors
/// When the root cannot be read, or one of `given` selects nothing.
pub fn selected(context: &Context, given: &[String]) -> Result<Vec<String>> {
    if !given.iter().any(|word| names::is_pattern(word)) {
        return Ok(given.to_vec());
    }
    let all = repositories(context)?;
    let known: Vec<_> = all.iter().map(|repo| repo.name.as_str()).collect();
    match names::selected(given, &known) {
        Ok(names) => Ok(names),
        Err(name) => bail!(unknown(context, &all, &name)),
    }
}

/// Checks that each of `names` is in `all`.
///
/// # Errors
/// [`UnknownRepo`] with the names that exist.
pub fn known(context: &Context, all: &[RepoEntry], names: &[String]) -> Result<()> {
    for name in names {
        if !all.iter().any(|repo| repo.name == *name) {
            bail!(unknown(context, all, name));
        }
    }
    Ok(())
}

fn unknown(context: &Context, all: &[RepoEntry], name: &str) -> UnknownRepo {
    let known: Vec<_> = all.iter().map(|repo| repo.name.as_str()).collect();
    let hint = match known.as_slice() {
        [] => format!(
            "there is none yet under {}; add one: agent init URL",
            context.settings.world.root.display()
        ),
        known => format!("there are: {}", known.join(", ")),
    };
    UnknownRepo { name: name.to_owned(), hint }
}

/// The repository with this name.
///
/// # Errors
/// When it is not known.
pub fn one(context: &Context, name: &str) -> Result<RepoEntry> {
    if context.settings.is_handed_over && context.settings.repos.contains_key(name) {
        // Each has a clone of its own: who handed them over saw to that. A worker looks at no other.
        let paths = Arc::new(SafePaths::new(context));
        return Ok(configured_entry(context, &paths, name).0);
    }
    let mut found = named(context, &[name.to_owned()])?;
    match found.pop() {
        Some(repo) => Ok(repo),
        None => bail!(UnknownRepo { name: name.to_owned(), hint: "agent status".to_owned() }),
    }
}

impl RepoEntry {
    /// The configured branch with `{part}`, `{stack}` and `{host}` filled in.
    ///
    /// # Errors
    /// When it names a part or a stack that this machine does not have, or gives no branch name.
    pub fn branch(&self, context: &Context) -> Result<Option<RefName>> {
        let Some(pattern) = &self.settings.branch else { return Ok(None) };
        Ok(Some(filled(context, "branch", pattern)?.parse()?))
    }

    /// What the repository follows, by its configuration.
    ///
    /// # Errors
    /// As [`RepoEntry::branch`].
    pub fn followed(&self, context: &Context) -> Result<Followed> {
        let RepoSettings { tag, revision, .. } = &self.settings;
        Ok(match (tag, revision) {
            (Some(pattern), _) => {
                let pattern: TagPattern = filled(context, "tag", pattern)?.parse()?;
                Followed::Tag(pattern.into())
            }
            (None, Some(revision)) => Followed::Revision(*revision),
            (None, None) => Followed::Branch(self.branch(context)?),
        })
    }

    /// The refs that are polled before there is a clone.
    ///
    /// # Errors
    /// As [`RepoEntry::branch`].
    pub fn wanted(&self, context: &Context) -> Result<PollScope> {
        let followed = self.followed(context)?;
        Ok(match (self.settings.mode.fetched(), followed) {
            (Some(kinds), followed) => PollScope::Every { followed, kinds },
            (None, Followed::Branch(branch)) => {
                branch.map_or(PollScope::Default, PollScope::Branch)
            }
            (None, Followed::Tag(scope)) => PollScope::Tag(scope),
            (None, Followed::Revision(revision)) => PollScope::Revision(revision),
        })
    }
}

/// `pattern`, the value of `key`, with the facts of this machine.
///
/// # Errors
/// When it names a part or a stack that this machine does not have.
fn filled(context: &Context, key: &str, pattern: &str) -> Result<String> {
    let mut name = pattern.replace("{host}", &context.node.host);
    for (place, value) in [("{part}", &context.part), ("{stack}", &context.stack)] {
        match value {
            Some(value) => name = name.replace(place, value),
            None if name.contains(place) => bail!(
                "{key} = \"{pattern}\" needs to know this machine's {}\n\
                     hint: write it into {}",
                place.trim_matches(['{', '}']),
                context.settings.world.nodeinfo.display()
            ),
            None => {}
        }
    }
    Ok(name)
}
