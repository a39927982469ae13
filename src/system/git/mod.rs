//! The only user of libgit2: opens repositories, reads their state, merges, reads and writes refs. It
//! never checks out a tree, never starts a program, and reads no configuration but the repository's own.
//! The protocol with remotes is in `system::remote`.
//!
//! [`packed_refs`] writes many refs at once, [`objects`] has objects and the index, [`packs`] the files
//! of the object store, [`repair`] the damaged ones.
#![expect(clippy::disallowed_types, reason = "the one door to libgit2")]

use std::cell::{Cell, OnceCell};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use git2::{Config, ErrorCode, ObjectType, Oid, Repository, RepositoryOpenFlags, RepositoryState};

use self::error::explained;
use self::history::History;
use crate::domain::git::{Commit, ObjectFormat, ObjectId, RefName, Relation, Remote, RemoteScheme};
use crate::domain::text::EscapeControls;
use crate::system::files;
use crate::system::trust::Trust;

pub(super) use self::format::{format_of, oid_in};

pub mod config;
pub mod damage;
pub mod error;
mod format;
mod history;
pub mod hunks;
pub mod index_pack;
pub mod log;
mod loose_refs;
pub mod merge;
pub mod objects;
pub mod ownership;
pub mod packed_refs;
pub mod packs;
pub mod quarantine;
mod refs;
pub mod repair;
pub mod size_limits;
pub mod torn_objects;
pub mod upstream;

/// The ref of the deployed commit. Its log is the machine's own history, and it keeps the commits from
/// garbage collection.
pub const ACTED: &str = "refs/pmpy/acted";

/// An open repository.
pub struct Git {
    repo: Repository,
    /// The first torn loose object; `None` inside when there is none. Looked for once, before the first
    /// walk through many objects.
    torn: OnceCell<Option<(PathBuf, ObjectId)>>,
    /// Bytes of the largest blob that is held in memory. Determined at the first use, since an idle tick
    /// never needs it.
    max_file: OnceCell<u64>,
    /// The users who may change the repository.
    trust: Arc<Trust>,
    /// Why its object store must not be opened, if so. Checked once, before the first object is read.
    store_fault: OnceCell<Option<String>>,
    /// The configuration, see [`Git::settings`].
    settings: OnceCell<Vec<(String, Option<String>)>>,
    /// Whether the configuration ends with a newline, as git writes it.
    config_ends: bool,
    /// Whether a directory was found in the place of a ref's file.
    directory_met: Cell<bool>,
    /// The commit that was checked out when HEAD was first read.
    began_at: OnceCell<Option<Commit>>,
}

/// The reason why a file of a commit cannot be read.
#[derive(Debug)]
pub enum FileError {
    /// It is no file, or larger than allowed; this is the same in every clone.
    Unfit(String),
    /// It cannot be read in this clone.
    Unreadable(anyhow::Error),
}

impl FileError {
    /// The error for a caller that treats both alike.
    pub fn into_error(self) -> anyhow::Error {
        match self {
            Self::Unfit(why) => anyhow::Error::msg(why),
            Self::Unreadable(error) => error,
        }
    }
}

impl From<anyhow::Error> for FileError {
    fn from(error: anyhow::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl From<git2::Error> for FileError {
    fn from(error: git2::Error) -> Self {
        Self::Unreadable(explained(&error))
    }
}

/// The state of HEAD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// On this branch, at this commit; `None` while the branch has no commit.
    Branch(RefName, Option<Commit>),
    /// On no branch.
    Detached,
    /// A symbolic ref to a name that is no branch.
    NonBranch(String),
}

/// The version of the built-in libgit2.
pub fn libgit2_version() -> String {
    let (major, minor, patch) = git2::Version::get().libgit2_version();
    format!("{major}.{minor}.{patch}")
}

pub(super) fn commit_of(oid: Oid) -> Result<Commit> {
    id_of(oid).map(Commit)
}

pub(super) fn id_of(oid: Oid) -> Result<ObjectId> {
    ObjectId::from_bytes(oid.as_bytes()).context("libgit2 gave an object id of an unknown length")
}

fn missing(error: &git2::Error) -> bool {
    error.code() == ErrorCode::NotFound
}

impl Git {
    /// Opens a clone as [`Git::open_trusting`], with trust in root and the user that the agent runs as.
    ///
    /// # Errors
    /// As for [`Git::open_trusting`].
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_trusting(path, &Arc::new(Trust::own()))
    }

    /// Opens the clone whose worktree is at `path`, a real path; never searches upwards.
    ///
    /// # Errors
    /// When libgit2 cannot read it, or a user outside `trust` may change it.
    pub fn open_trusting(path: &Path, trust: &Arc<Trust>) -> Result<Self> {
        let config = ownership::check_opened(path, trust)?;
        let none: [&std::ffi::OsStr; 0] = [];
        let repo = Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, none)
            .map_err(|error| explained(&error))
            .with_context(|| format!("cannot open the repository at {}", path.display()))?;
        let ends = |text: Vec<u8>| text.last() == Some(&b'\n');
        Ok(Self { config_ends: config.is_none_or(ends), ..Self::of(repo, Arc::clone(trust)) })
    }

    fn of(repo: Repository, trust: Arc<Trust>) -> Self {
        let (torn, max_file, store_fault) = (OnceCell::new(), OnceCell::new(), OnceCell::new());
        let (settings, directory_met) = (OnceCell::new(), Cell::new(false));
        let began_at = OnceCell::new();
        let config_ends = true;
        Self {
            repo,
            torn,
            max_file,
            trust,
            store_fault,
            settings,
            config_ends,
            directory_met,
            began_at,
        }
    }

    /// Fails when libgit2 must not open the files of the object store that it opens by itself. Every
    /// method that reads an object calls this first.
    fn plain_store(&self) -> Result<()> {
        let look = || ownership::check_store(self.git_dir(), &self.trust).err();
        match self.store_fault.get_or_init(|| look().map(|fault| fault.to_string())) {
            Some(fault) => bail!(fault.clone()),
            None => Ok(()),
        }
    }

    /// Fails when a loose object is torn: see [`torn_objects::torn_object`]. Every method that reads
    /// more than one object calls this first.
    ///
    /// # Errors
    /// When an object is torn; names it.
    pub fn no_torn_object(&self) -> Result<()> {
        self.plain_store()?;
        match self.torn.get_or_init(|| torn_objects::torn_object(self.git_dir(), self.format())) {
            Some((path, _)) => bail!("the object {} is damaged", path.display()),
            None => Ok(()),
        }
    }

    /// Whether the file of this object is torn.
    fn is_torn(&self, id: &ObjectId) -> bool {
        let name = id.to_string();
        let (dir, rest) = name.split_at(2);
        torn_objects::is_torn(&self.git_dir().join("objects").join(dir).join(rest))
    }

    /// Why nothing may be done in the repository, with the remedy; `None` when it may be used.
    /// `worktree` is where it was found.
    pub fn obstacle(&self, worktree: &Path) -> Option<String> {
        if self.repo.is_worktree() {
            return Some(
                "it is a linked worktree; only whole clones are supported: \
                 move it out of the root or clone it"
                    .to_owned(),
            );
        }
        if self.repo.commondir() != self.repo.path() {
            return Some(format!(
                "its .git/commondir takes objects, refs and configuration from {}; \
                 only whole clones are supported: clone it",
                self.repo.commondir().display()
            ));
        }
        if self.repo.is_bare() {
            return Some("it is bare: it has no worktree to act in; clone it elsewhere".to_owned());
        }
        let elsewhere = self.repo.workdir().filter(|workdir| !same_dir(workdir, worktree));
        if let Some(elsewhere) = elsewhere {
            return Some(format!(
                "core.worktree in its configuration puts its files at {}; \
                 the agent writes nowhere else than here: git -C {} config --unset core.worktree",
                elsewhere.display(),
                worktree.display()
            ));
        }
        let unfinished = match self.repo.state() {
            RepositoryState::Clean => return None,
            RepositoryState::Merge => ("merge", "git merge --abort"),
            RepositoryState::Revert | RepositoryState::RevertSequence => {
                ("revert", "git revert --abort")
            }
            RepositoryState::CherryPick | RepositoryState::CherryPickSequence => {
                ("cherry-pick", "git cherry-pick --abort")
            }
            RepositoryState::Bisect => ("bisect", "git bisect reset"),
            RepositoryState::Rebase
            | RepositoryState::RebaseInteractive
            | RepositoryState::RebaseMerge => ("rebase", "git rebase --abort"),
            RepositoryState::ApplyMailbox | RepositoryState::ApplyMailboxOrRebase => {
                ("git am", "git am --abort")
            }
        };
        Some(format!(
            "a {} is in progress; finish it, or drop it with: {}",
            unfinished.0, unfinished.1
        ))
    }

    /// Why the files here may not be updated, with the remedy: a sparse checkout leaves some of them out,
    /// and the agent keeps whole worktrees. `None` when there is none. `worktree` is where it was found.
    pub fn sparse_checkout(&self, worktree: &Path) -> Option<String> {
        let sparse = self.settings().iter().rfind(|(key, _)| key == "core.sparsecheckout");
        // A key without a value is true (git-config(1)).
        let is_true = |value: &Option<String>| {
            value.as_deref().is_none_or(|value| Config::parse_bool(value).unwrap_or(false))
        };
        sparse.is_some_and(|(_, value)| is_true(value)).then(|| {
            let clone = worktree.display();
            format!(
                "it is a sparse checkout (core.sparseCheckout), which leaves files out on purpose, and \
                 the agent keeps whole worktrees; take them all in: git -C {clone} sparse-checkout \
                 disable; or show a whole tree elsewhere, with mode = \"checkout\" and a target"
            )
        })
    }

    /// The path of `.git`.
    pub fn git_dir(&self) -> &Path {
        self.repo.path()
    }

    /// The branch or the commit that HEAD is on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn head(&self) -> Result<Head> {
        let head = self
            .repo
            .find_reference("HEAD")
            .context("HEAD cannot be read; it should hold a line such as: ref: refs/heads/main")?;
        let Ok(Some(target)) = head.symbolic_target() else { return Ok(Head::Detached) };
        let Some(Ok(branch)) = target.strip_prefix("refs/heads/").map(str::parse::<RefName>) else {
            return Ok(Head::NonBranch(target.escape_controls()));
        };
        let commit = self.ref_id(&branch.local())?;
        let _ = self.began_at.set(commit);
        Ok(Head::Branch(branch, commit))
    }

    /// The commit that was checked out when HEAD was first read here, or now if it was not.
    pub(super) fn began_at(&self) -> Option<Commit> {
        let now = || self.repo.refname_to_id("HEAD").ok().and_then(|head| commit_of(head).ok());
        *self.began_at.get_or_init(now)
    }

    /// Whether `commit` is in the object store.
    pub fn has(&self, commit: Commit) -> bool {
        self.plain_store().is_ok()
            && self
                .oid(&commit.0)
                .is_ok_and(|oid| !self.is_torn(&commit.0) && self.raw_commit(oid).is_ok())
    }

    /// The relation of `head` to `tip`. Both have to be in the object store.
    ///
    /// # Errors
    /// When history cannot be read.
    pub fn relation(&self, head: Commit, tip: Commit) -> Result<Relation> {
        Ok(if head == tip {
            Relation::Same
        } else if self.contains(tip, head)? {
            Relation::Behind
        } else if self.contains(head, tip)? {
            Relation::Ahead
        } else {
            Relation::Diverged
        })
    }

    /// Whether the history of `tip` contains `commit`.
    ///
    /// # Errors
    /// When history cannot be read.
    pub fn contains(&self, tip: Commit, commit: Commit) -> Result<bool> {
        if tip == commit {
            return Ok(true);
        }
        // A commit of the other object format is in no history here.
        let (Ok(from), Ok(to)) = (self.oid(&tip.0), self.oid(&commit.0)) else { return Ok(false) };
        self.no_torn_object()?;
        match self.repo.graph_descendant_of(from, to) {
            Ok(contains) => Ok(contains),
            // A commit that was collected, or that a shallow clone lacks, is in no history. When both
            // commits are here and one between them is not, that is damage, and says nothing about
            // upstream.
            Err(error) if missing(&error) && (self.repo.is_shallow() || !self.has(commit)) => {
                Ok(false)
            }
            Err(error) => History::of(&self.repo)
                .and_then(|history| history.contains(from, to))
                .map_err(|_| error)
                .with_context(|| format!("the history between {commit} and {tip} cannot be read")),
        }
    }

    /// Reads commit `oid`, whatever its author line is.
    fn raw_commit(&self, oid: Oid) -> Result<history::RawCommit> {
        history::raw_commit(&self.repo, oid)
    }

    /// The committer's time of `commit`; `None` when it cannot be read.
    pub fn committed_at(&self, commit: Commit) -> Option<chrono::DateTime<chrono::Utc>> {
        let oid = self.oid(&commit.0).ok()?;
        let seconds = self.raw_commit(oid).ok()?.time;
        chrono::DateTime::from_timestamp(seconds, 0)
    }

    /// The first line of a commit's message, at most 200 characters; empty when it cannot be read.
    pub fn subject(&self, commit: Commit) -> String {
        let readable = self.plain_store().is_ok() && !self.is_torn(&commit.0);
        let Some(oid) = self.oid(&commit.0).ok().filter(|_| readable) else { return String::new() };
        let line = match self.repo.find_commit(oid) {
            Ok(commit) => commit.summary_bytes().unwrap_or_default().to_owned(),
            Err(_) => {
                let message = self.raw_commit(oid).map_or_else(|_| Vec::new(), |raw| raw.message);
                let line = message.split(|&byte| byte == b'\n').find(|line| !line.is_empty());
                line.unwrap_or_default().to_owned()
            }
        };
        String::from_utf8_lossy(&line).chars().take(200).collect()
    }

    /// The commit that `text` names: a full or abbreviated id, a branch, a tag, `main~2`, …
    ///
    /// # Errors
    /// When it names no commit in this repository.
    pub fn resolve(&self, text: &str) -> Result<Commit> {
        let shown = text.escape_controls();
        self.no_torn_object()?;
        self.no_oversized_ref()?;
        if let Some(commit) = self.plainly_named(text) {
            return Ok(commit);
        }
        let object =
            self.repo.revparse_single(text).map_err(|error| explained(&error)).with_context(
                || {
                    format!(
                        "\"{shown}\" names nothing that is here\n\
                     hint: to see what is: git -C {} log --oneline --all",
                        self.repo.workdir().unwrap_or(self.repo.path()).display()
                    )
                },
            )?;
        let commit =
            object.peel_to_commit().with_context(|| format!("\"{shown}\" names no commit"))?;
        commit_of(commit.id())
    }

    /// The commit whose full id or whose ref `text` is; `None` for all else that names one.
    fn plainly_named(&self, text: &str) -> Option<Commit> {
        let oid = match text.parse::<ObjectId>() {
            Ok(id) => self.oid(&id).ok()?,
            Err(_) => self.repo.resolve_reference_from_short_name(text).ok()?.target()?,
        };
        let oid = history::peeled(&self.repo, oid).ok()?;
        self.raw_commit(oid).ok().and_then(|_| commit_of(oid).ok())
    }

    /// A file at the top of a commit's tree, of at most `cap` bytes; `None` when there is none.
    ///
    /// # Errors
    /// When the file is unfit or unreadable; see [`FileError`].
    pub fn file_at(
        &self,
        commit: Commit,
        name: &str,
        cap: usize,
    ) -> Result<Option<Vec<u8>>, FileError> {
        self.no_torn_object()?;
        let tree = self.repo.find_tree(self.raw_commit(self.oid(&commit.0)?)?.tree)?;
        let Some(entry) = tree.get_name(name) else { return Ok(None) };
        if entry.kind() != Some(ObjectType::Blob) {
            return Err(FileError::Unfit(format!("{name} is no file")));
        }
        // The size first: a push could bring a file that fills the memory.
        let (size, _) = self.repo.odb()?.read_header(entry.id())?;
        if size > cap {
            return Err(FileError::Unfit(format!("{name} is larger than {cap} bytes")));
        }
        Ok(Some(self.repo.find_blob(entry.id())?.content().to_owned()))
    }

    /// Whether the object, of any kind, is in the object store.
    pub fn has_object(&self, id: Commit) -> bool {
        self.plain_store().is_ok()
            && self.oid(&id.0).is_ok_and(|oid| self.repo.odb().is_ok_and(|odb| odb.exists(oid)))
    }

    /// The commit that an object is or, as an annotated tag, points at; `None` for other objects.
    pub fn peeled(&self, id: Commit) -> Option<Commit> {
        self.plain_store().ok()?;
        let oid = history::peeled(&self.repo, self.oid(&id.0).ok()?).ok()?;
        self.raw_commit(oid).ok().and_then(|_| commit_of(oid).ok())
    }

    /// The value of `key` in the repository's own configuration; `None` when it has none.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.values(key).pop()
    }

    /// The repository's own configuration as it was when it was first asked for: libgit2 looks whether the
    /// file has changed at each question. Names as libgit2 normalizes them, in the order of the file; empty
    /// when it cannot be read.
    fn settings(&self) -> &[(String, Option<String>)] {
        self.settings.get_or_init(|| {
            let mut found = Vec::new();
            if let Ok(config) = self.repo.config()
                && let Ok(mut entries) = config.entries(None)
            {
                while let Some(Ok(entry)) = entries.next() {
                    let value = entry.value().ok().map(str::to_owned);
                    found.extend(entry.name().ok().map(|name| (name.to_owned(), value)));
                }
            }
            found
        })
    }

    /// Makes an empty clone of `remote` at `path`, on `branch`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(
        path: &Path,
        remote: &Remote,
        format: ObjectFormat,
        branch: &RefName,
    ) -> Result<Self> {
        // This makes the directories before libgit2 does, without the default ACL of the directory
        // above, which could let another user write there.
        files::make_private_tree(path, ".git")
            .with_context(|| format!("cannot make a clone at {}", path.display()))?;
        let mut options = git2::RepositoryInitOptions::new();
        options.no_reinit(true).external_template(false).initial_head(branch.as_str());
        options.object_format(match format {
            ObjectFormat::Sha1 => git2::ObjectFormat::Sha1,
            ObjectFormat::Sha256 => git2::ObjectFormat::Sha256,
        });
        let repo = Repository::init_opts(path, &options)
            .map_err(|error| explained(&error))
            .with_context(|| format!("cannot make a clone at {}", path.display()))?;
        repo.remote("origin", &public_url(remote))
            .map_err(|error| explained(&error))
            .context("cannot name the remote")?;
        Ok(Self::of(repo, Arc::new(Trust::own())))
    }

    /// Records that `branch` follows the same branch of `remote`, as git-clone(1) does, unless it follows
    /// something.
    fn follow(&self, branch: &RefName, remote: &str) -> Result<()> {
        let mut config = self.repo.config()?;
        if config.get_string(&format!("branch.{branch}.merge")).is_ok() {
            return Ok(());
        }
        config.set_str(&format!("branch.{branch}.remote"), remote)?;
        config.set_str(&format!("branch.{branch}.merge"), &branch.local())?;
        Ok(())
    }

    /// The repository as libgit2 has it, for what a fetch reads in it.
    pub(super) fn repository(&self) -> &Repository {
        &self.repo
    }
}

/// The address of a remote for a clone's configuration, without a password: every user may read that
/// file.
pub fn public_url(remote: &Remote) -> String {
    match remote.scheme() {
        Some(RemoteScheme::Http | RemoteScheme::Https) => remote.to_string(),
        _ => remote.secret_url().to_owned(),
    }
}

/// Whether two paths lead to the same directory.
fn same_dir(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    one == other || matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// The git directory of a worktree, without opening the repository; `None` when `.git` is no directory.
pub fn git_dir_of(worktree: &Path) -> Option<PathBuf> {
    let git = worktree.join(".git");
    git.symlink_metadata().is_ok_and(|meta| meta.is_dir()).then_some(git)
}
