//! The only user of libgit2: open, observe, fetch, merge, refs. It never checks out a tree, never
//! runs anything, and reads no configuration but the repository's own.
//!
//! Many refs at once are in [`packed`], objects and the index in [`objects`], the files of the object store in [`packs`], damaged ones
//! in [`repair`]; the wire is `system::remote`.
#![expect(clippy::disallowed_types, reason = "the one door to libgit2")]

use std::cell::OnceCell;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use git2::{ErrorCode, Oid, Repository, RepositoryOpenFlags, RepositoryState};

use self::error::{explained, patiently};
use crate::domain::git::{Commit, Id, RefName, Relation, Remote, Scheme};
use crate::domain::remote::Format;

pub mod error;
pub mod log;
pub mod merge;
pub mod objects;
pub mod ownership;
pub mod packed;
pub mod packs;
pub mod repair;

/// The acted revision as a ref: its log is the machine's own history, and it keeps the commits from
/// being collected.
pub const ACTED: &str = "refs/pmpy/acted";

/// One repository, opened.
pub struct Git {
    repo: Repository,
    /// Whether a loose object is torn; looked for once, before the first walk through many objects.
    torn: OnceCell<Option<PathBuf>>,
}

/// What HEAD is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Head {
    /// On this branch; `None` while it has no commit.
    Branch(RefName, Option<Commit>),
    /// On no branch.
    Detached,
    /// It names no branch.
    Odd(String),
}

/// The version of the libgit2 that is built in.
pub fn libgit2_version() -> String {
    let (major, minor, patch) = git2::Version::get().libgit2_version();
    format!("{major}.{minor}.{patch}")
}

pub(super) fn commit_of(oid: Oid) -> Result<Commit> {
    id_of(oid).map(Commit)
}

pub(super) fn id_of(oid: Oid) -> Result<Id> {
    Id::from_bytes(oid.as_bytes()).context("libgit2 gave an object id of an unknown length")
}

pub(super) fn oid_of(id: &Id) -> Result<Oid> {
    Ok(Oid::from_bytes(id.as_bytes())?)
}

fn missing(error: &git2::Error) -> bool {
    error.code() == ErrorCode::NotFound
}

impl Git {
    /// Opens the clone whose worktree is at `path`; never searches upwards.
    ///
    /// # Errors
    /// When libgit2 cannot read it, or others than its user may change it.
    pub fn open(path: &Path) -> Result<Self> {
        ownership::check(path, rustix::process::geteuid().as_raw())?;
        let none: [&std::ffi::OsStr; 0] = [];
        let repo = Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, none)
            .map_err(|error| explained(&error))
            .with_context(|| format!("cannot open the repository at {}", path.display()))?;
        Ok(Self { repo, torn: OnceCell::new() })
    }

    /// Fails when a loose object is torn: see [`packs::torn_object`]. Whatever reads more than one
    /// object asks this first.
    ///
    /// # Errors
    /// Says which.
    pub fn no_torn_object(&self) -> Result<()> {
        match self.torn.get_or_init(|| packs::torn_object(self.git_dir())) {
            Some(path) => bail!("the object {} is damaged", path.display()),
            None => Ok(()),
        }
    }

    /// Whether the file of this one object is torn.
    fn is_torn(&self, id: &Id) -> bool {
        let name = id.to_string();
        let (folder, rest) = name.split_at(2);
        packs::is_torn(&self.git_dir().join("objects").join(folder).join(rest))
    }

    /// Why nothing may be done in it, with the remedy; `None` when all is well. `worktree` is where
    /// it was found.
    pub fn obstacle(&self, worktree: &Path) -> Option<String> {
        if self.repo.is_worktree() {
            return Some(
                "it is a linked worktree; only whole clones are acted upon: \
                 move it out of the root or clone it"
                    .to_owned(),
            );
        }
        if self.repo.commondir() != self.repo.path() {
            return Some(format!(
                "its .git/commondir takes objects, refs and configuration from {}; \
                 only whole clones are acted upon: clone it",
                self.repo.commondir().display()
            ));
        }
        if self.repo.is_bare() {
            return Some("it is bare: it has no worktree to act in; clone it elsewhere".to_owned());
        }
        let elsewhere = self.repo.workdir().filter(|workdir| !same_folder(workdir, worktree));
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

    /// `.git`.
    pub fn git_dir(&self) -> &Path {
        self.repo.path()
    }

    /// What HEAD is.
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
            return Ok(Head::Odd(target.escape_debug().to_string()));
        };
        let commit = self.ref_commit(&branch.local())?;
        Ok(Head::Branch(branch, commit))
    }

    /// The commit that a full ref name points at; `None` when there is no such ref.
    ///
    /// # Errors
    /// When the ref cannot be read, or points at nothing.
    pub fn ref_commit(&self, name: &str) -> Result<Option<Commit>> {
        match self.repo.refname_to_id(name) {
            Ok(oid) => commit_of(oid).map(Some),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("the ref {name} cannot be read")),
        }
    }

    /// Where `origin` points, from the repository's own configuration.
    pub fn origin(&self) -> Option<Remote> {
        let config = self.repo.config().ok()?;
        let url = config.get_string("remote.origin.url").ok()?;
        (!url.is_empty()).then(|| Remote::new(url))
    }

    /// Whether `commit` is in the object store.
    pub fn has(&self, commit: Commit) -> bool {
        !self.is_torn(&commit.0)
            && oid_of(&commit.0).is_ok_and(|oid| self.repo.find_commit(oid).is_ok())
    }

    /// How `head` stands to `tip`. Both must be here.
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
        self.no_torn_object()?;
        match self.repo.graph_descendant_of(oid_of(&tip.0)?, oid_of(&commit.0)?) {
            Ok(contains) => Ok(contains),
            // A commit that was collected, or cut off by a shallow clone, is in nobody's history.
            Err(error) if missing(&error) => Ok(false),
            Err(error) => Err(error)
                .with_context(|| format!("the history between {commit} and {tip} cannot be read")),
        }
    }

    /// The first line of a commit's message, at most 200 characters; empty when it cannot be read.
    pub fn subject(&self, commit: Commit) -> String {
        let found = oid_of(&commit.0)
            .ok()
            .filter(|_| !self.is_torn(&commit.0))
            .and_then(|oid| self.repo.find_commit(oid).ok());
        let line = found.as_ref().and_then(|commit| commit.summary_bytes()).unwrap_or_default();
        String::from_utf8_lossy(line).chars().take(200).collect()
    }

    /// The commit that `text` names: a full or abbreviated id, a branch, a tag, `main~2`, …
    ///
    /// # Errors
    /// When it names no commit that is here.
    pub fn resolve(&self, text: &str) -> Result<Commit> {
        let shown = text.escape_debug();
        self.no_torn_object()?;
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

    /// A file at the top of a commit's tree, of at most `cap` bytes; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, is no file or larger.
    pub fn file_at(&self, commit: Commit, name: &str, cap: usize) -> Result<Option<Vec<u8>>> {
        self.no_torn_object()?;
        let tree = self.repo.find_commit(oid_of(&commit.0)?)?.tree()?;
        let Some(entry) = tree.get_name(name) else { return Ok(None) };
        // The size first: whoever pushes could fill the memory.
        let (size, _) = self.repo.odb()?.read_header(entry.id())?;
        if size > cap {
            bail!("{name} is larger than {cap} bytes");
        }
        let blob =
            entry.to_object(&self.repo)?.into_blob().map_err(|_| anyhow!("{name} is no file"))?;
        Ok(Some(blob.content().to_owned()))
    }

    /// What a ref points at, which of an annotated tag is the tag; `None` when there is no such ref.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn ref_id(&self, name: &str) -> Result<Option<Commit>> {
        match self.repo.refname_to_id(name) {
            Ok(oid) => commit_of(oid).map(Some),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("the ref {name} cannot be read")),
        }
    }

    /// Whether an object of any kind is here.
    pub fn has_object(&self, id: Commit) -> bool {
        oid_of(&id.0).is_ok_and(|oid| self.repo.odb().is_ok_and(|odb| odb.exists(oid)))
    }

    /// The commit that an object is or, as an annotated tag, stands for.
    pub fn peeled(&self, id: Commit) -> Option<Commit> {
        let found = self.repo.find_object(oid_of(&id.0).ok()?, None).ok()?;
        commit_of(found.peel_to_commit().ok()?.id()).ok()
    }

    /// Points a full ref name at `to`, whatever it pointed at before; with a log entry.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_ref(&self, name: &str, to: Commit, message: &str) -> Result<()> {
        self.repo
            .reference(name, oid_of(&to.0)?, true, message)
            .map(drop)
            .map_err(|error| explained(&error))
            .with_context(|| format!("the ref {name} cannot be written"))
    }

    /// As [`Git::set_ref`], for a ref of ours, which git by itself keeps no log of.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_logged_ref(&self, name: &str, to: Commit, message: &str) -> Result<()> {
        self.repo
            .reference_ensure_log(name)
            .with_context(|| format!("the log of the ref {name} cannot be written"))?;
        self.set_ref(name, to, message)
    }

    /// The full names of all refs under `prefix`, such as `refs/pmpy/saved/`; names that are no text
    /// left out.
    ///
    /// # Errors
    /// When refs cannot be listed.
    pub fn refs_below(&self, prefix: &str) -> Result<Vec<String>> {
        let refs = self
            .repo
            .references_glob(&format!("{prefix}*"))
            .with_context(|| format!("the refs below {prefix} cannot be listed"))?;
        Ok(refs.flatten().filter_map(|found| found.name().ok().map(str::to_owned)).collect())
    }

    /// What the repository's own configuration says of `key`.
    pub fn setting(&self, key: &str) -> Option<String> {
        self.repo.config().ok()?.get_string(key).ok()
    }

    /// Removes a ref; nothing there is fine.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_ref(&self, name: &str) -> Result<()> {
        match self.repo.find_reference(name) {
            Ok(mut found) => {
                found.delete().with_context(|| format!("the ref {name} cannot be removed"))
            }
            Err(error) if missing(&error) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("the ref {name} cannot be read")),
        }
    }

    /// Moves `branch` from `from` to `to` and HEAD onto it, provided that nobody moved it meanwhile.
    ///
    /// # Errors
    /// When somebody did, or it cannot be written.
    pub fn move_branch(
        &self,
        branch: &RefName,
        from: Option<Commit>,
        to: Commit,
        message: &str,
    ) -> Result<()> {
        let name = branch.local();
        let moved_by_hand = || {
            format!("{name} was moved by somebody else meanwhile\nhint: the next tick looks again")
        };
        match self.ref_commit(&name)? {
            Some(now) if now == to => {}
            Some(now) => {
                if Some(now) != from && !self.contains(to, now)? {
                    bail!(moved_by_hand());
                }
                let (from, to) = (oid_of(&now.0)?, oid_of(&to.0)?);
                patiently(|| {
                    let moved = self.repo.reference_matching(&name, to, true, from, message);
                    moved.map_err(|error| explained(&error))
                })
                .with_context(|| format!("the ref {name} cannot be moved"))?;
            }
            None => {
                self.repo
                    .reference(&name, oid_of(&to.0)?, false, message)
                    .map_err(|error| explained(&error))
                    .with_context(|| format!("the ref {name} cannot be made"))?;
                self.follow(branch)?;
            }
        }
        match self.head()? {
            Head::Branch(current, _) if current == *branch => Ok(()),
            _ => self
                .repo
                .set_head(&name)
                .map_err(|error| explained(&error))
                .with_context(|| format!("HEAD cannot be put on {name}")),
        }
    }

    /// Makes an empty clone of `remote` at `path`, on `branch`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(path: &Path, remote: &Remote, format: Format, branch: &RefName) -> Result<Self> {
        let mut options = git2::RepositoryInitOptions::new();
        options.no_reinit(true).external_template(false).initial_head(branch.as_str());
        options.object_format(match format {
            Format::Sha1 => git2::ObjectFormat::Sha1,
            Format::Sha256 => git2::ObjectFormat::Sha256,
        });
        let repo = Repository::init_opts(path, &options)
            .map_err(|error| explained(&error))
            .with_context(|| format!("cannot make a clone at {}", path.display()))?;
        repo.remote("origin", &public_url(remote))
            .map_err(|error| explained(&error))
            .context("cannot name the remote")?;
        Ok(Self { repo, torn: OnceCell::new() })
    }

    /// Records that `branch` follows the same one of `origin`, as git-clone(1) does.
    fn follow(&self, branch: &RefName) -> Result<()> {
        let mut config = self.repo.config()?;
        config.set_str(&format!("branch.{branch}.remote"), "origin")?;
        config.set_str(&format!("branch.{branch}.merge"), &branch.local())?;
        Ok(())
    }

    /// The repository for the wire, which takes what to do from our configuration and nothing from
    /// the clone's own: an `insteadOf` there would send the fetch to another server. Every later
    /// use of this value sees an empty configuration as well.
    pub(super) fn for_the_wire(&self) -> Result<&Repository> {
        self.repo.set_config(&git2::Config::new()?)?;
        Ok(&self.repo)
    }
}

/// The address of a remote as it stands in a clone's configuration, which everybody may read: a
/// password stays in ours.
pub fn public_url(remote: &Remote) -> String {
    match remote.scheme() {
        Some(Scheme::Http | Scheme::Https) => remote.to_string(),
        _ => remote.secret_url().to_owned(),
    }
}

/// By which hash a repository names its objects.
pub(super) fn format_of(repo: &Repository) -> Format {
    match repo.object_format() {
        git2::ObjectFormat::Sha256 => Format::Sha256,
        _ => Format::Sha1,
    }
}

/// Whether two paths lead to one folder.
fn same_folder(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| path.metadata().map(|meta| (meta.dev(), meta.ino()));
    one == other || matches!((id(one), id(other)), (Ok(one), Ok(other)) if one == other)
}

/// The git directory of a worktree, found without opening the repository: `.git` where that is a
/// folder.
pub fn git_dir_of(worktree: &Path) -> Option<PathBuf> {
    let git = worktree.join(".git");
    git.symlink_metadata().is_ok_and(|meta| meta.is_dir()).then_some(git)
}
