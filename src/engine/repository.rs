//! One open repository: open, observe, poll, check for damage, read its targets. Neither fetches nor
//! changes HEAD, index or worktree.

use anyhow::Result;

use crate::config::RepoMode;
use crate::domain::followed::Followed;
use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::remote::PollScope;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::system::git::upstream::{PullSource, PulledBranch};
use crate::system::git::{Git, Head};
use crate::system::repo_state::{PollRecord, RepoRecords};

pub mod damage;
mod doubt;
pub mod drift;
mod gate_facts;
pub mod limits;
pub mod machine_id;
pub mod observe;
pub mod poll;
pub mod script_files;
pub(in crate::engine) mod signatures;
pub(in crate::engine) mod successes;
pub(in crate::engine) mod tags;
pub mod targets;
pub mod tree;
pub mod upstream_refs;

/// A repository that is open.
pub struct Repository<'a> {
    /// Settings and machine.
    pub context: &'a Context,
    /// The entry of the repository, with its settings.
    pub repo: &'a RepoEntry,
    /// The git repository: objects, refs, index.
    pub git: Git,
    /// The agent's records about it.
    pub records: RepoRecords,
    /// HEAD, as it was when the repository was opened.
    pub head: Head,
    /// What is followed, by the configuration.
    pub followed: Followed,
    /// The configured branch; `None`: none is configured.
    pub branch: Option<RefName>,
    /// The branch and the remote that the clone's own configuration names.
    pub source: PullSource,
    /// The agent made the clone, and no branch in it has a commit yet.
    pub is_fresh: bool,
    /// The remotes to pull from, in order.
    pub remotes: Vec<Remote>,
}

impl Repository<'_> {
    /// The checked-out commit; `None`: HEAD is on no branch, or on one without commits.
    pub fn head_commit(&self) -> Option<Commit> {
        match self.head {
            Head::Branch(_, commit) => commit,
            _ => None,
        }
    }

    /// The refs to poll for: the tags that match, where a tag is followed; the configured branch, else the one that `git pull` would take, else (a fresh
    /// clone of the agent's) the remote's default; or every ref, where all are fetched.
    pub fn wanted(&self) -> PollScope {
        if let Some(kinds) = self.repo.settings.mode.fetched() {
            return PollScope::Every { followed: self.followed.clone(), kinds };
        }
        match &self.followed {
            Followed::Tag(scope) => return PollScope::Tag(scope.clone()),
            Followed::Revision(revision) => return PollScope::Revision(*revision),
            Followed::Branch(_) => {}
        }
        match (&self.branch, &self.source.branch) {
            (Some(branch), _) => PollScope::Branch(branch.clone()),
            (None, PulledBranch::Configured(branch) | PulledBranch::SameName(branch))
                if !self.is_fresh =>
            {
                PollScope::WithHead(branch.clone())
            }
            _ => PollScope::Default,
        }
    }

    /// The last answer of the remotes, as far as it is about what is wanted now.
    pub fn polled(&self) -> PollRecord {
        self.records.polled().about(&self.wanted())
    }

    /// The checked-out branch, where nothing names an upstream for it, and the branch of its name is
    /// followed.
    pub fn without_upstream(&self) -> Option<RefName> {
        match (&self.followed, &self.source.branch) {
            (Followed::Branch(None), PulledBranch::SameName(branch)) if !self.is_fresh => {
                Some(branch.clone())
            }
            _ => None,
        }
    }

    /// The tracking ref of `branch`.
    pub fn tracking(&self, branch: &RefName) -> String {
        match self.fetches_all() {
            true => branch.tracking(),
            false => format!("refs/remotes/{}/{branch}", self.source.kept_below),
        }
    }

    /// The newest tip of `branch` that this machine has seen upstream: in its own record, else in what
    /// git fetched; `None`: upstream never had the branch, as far as is known here.
    ///
    /// # Errors
    /// When a ref cannot be read, or was lost.
    pub fn newest_seen(&self, branch: &RefName) -> Result<Option<Commit>> {
        match self.git.kept_ref(&branch.seen())? {
            Some(mark) => Ok(Some(mark)),
            None => self.git.ref_id(&self.tracking(branch)),
        }
    }

    /// The local branch that HEAD is to be on while upstream's branch `followed` is followed; `None`: it
    /// is not known yet.
    pub fn local_branch(&self, followed: Option<&RefName>) -> Option<RefName> {
        match (&self.branch, &self.head) {
            _ if self.publishes() => followed.cloned(),
            (Some(branch), _) => Some(branch.clone()),
            (None, Head::Branch(..)) if self.is_renamed(followed) => followed.cloned(),
            (None, Head::Branch(branch, _)) => {
                followed.filter(|_| self.is_fresh).or(Some(branch)).cloned()
            }
            (None, _) => None,
        }
    }

    /// Whether upstream renamed its default branch to `followed`.
    pub fn is_renamed(&self, followed: Option<&RefName>) -> bool {
        match (&self.wanted(), followed) {
            (PollScope::WithHead(wanted), Some(followed)) => wanted != followed,
            _ => false,
        }
    }

    /// Whether the agent leaves HEAD and the worktree alone, because it publishes or only fetches.
    pub fn publishes(&self) -> bool {
        !matches!(self.repo.settings.mode, RepoMode::Work | RepoMode::InPlace)
    }

    /// Whether every ref of some kind is fetched, and each is published by itself.
    pub fn fetches_all(&self) -> bool {
        self.repo.settings.mode.fetched().is_some()
    }

    /// Whether this mode runs scripts.
    pub fn runs_scripts(&self) -> bool {
        self.repo.settings.mode == RepoMode::Work
    }
}
