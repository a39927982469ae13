//! Requests to a tick and to a worker. Knows the request, not how it is carried out.

use std::ffi::OsString;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::config::RepoSettings;
use crate::domain::git::Commit;
use crate::domain::repository::action::{ProgressEvent, Trigger};
use crate::domain::repository::history::{ActKind, HistoryEntry};
use crate::domain::repository::request::ActionRequest;
use crate::engine::context::HandedSettings;

/// All that a worker gets from its tick.
#[derive(Serialize, Deserialize)]
pub struct WorkerInput {
    /// The name of the repository.
    pub repo: String,
    /// The path of its clone, as it was configured or found; it may be in no character set.
    pub path: OsString,
    /// The job.
    pub job: WorkerJob,
    /// The settings of the repository; `None`: the worker has them from its helper's input.
    pub settings: Option<HandedSettings>,
}

/// The job of one worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerJob {
    /// The trigger, and what it may override.
    pub request: ActionRequest,
    /// How long to wait for a lock that is taken.
    pub wait: LockWait,
    /// The command of a person, besides following upstream.
    pub command: WorkerCommand,
    /// The person's reason, for the history; `None`: none was given.
    pub reason: Option<String>,
}

/// How long a worker waits for a lock that another one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockWait {
    /// Not at all.
    No,
    /// Until it is free, or the process that started this worker has ended.
    Unlimited,
    /// Until this time since boot at the latest.
    Until(Duration),
}

/// The command of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// No command: follow upstream.
    Follow,
    /// Run the scripts again for the checked-out revision.
    Redo,
    /// Go back to this revision and pin it.
    Rollback(Commit),
    /// Show this revision at the target and pin it.
    Checkout(Commit),
    /// Accept this rewritten upstream revision.
    Accept(Commit),
}

impl WorkerCommand {
    /// The act for the history, and the revision that it names; `None`: there is no command.
    pub fn act(self) -> Option<(ActKind, Option<Commit>)> {
        match self {
            Self::Follow => None,
            Self::Redo => Some((ActKind::Redo, None)),
            Self::Rollback(revision) => Some((ActKind::Rollback, Some(revision))),
            Self::Checkout(revision) => Some((ActKind::Checkout, Some(revision))),
            Self::Accept(revision) => Some((ActKind::Accept, Some(revision))),
        }
    }
}

/// Receiver of each progress event, called at once while a tick works.
pub type ProgressSink<'a> = dyn Fn(ProgressEvent) + Sync + 'a;

/// The options of one tick.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TickOptions {
    /// The repositories of this tick; all when empty.
    pub names: Vec<String>,
    /// Why this tick happens.
    pub trigger: Trigger,
    /// Poll and decide only; change nothing but the record of the remotes' answers.
    pub dry_run: bool,
    /// How long to wait for repositories whose lock is taken.
    pub wait: LockWait,
    /// The command of a person.
    pub command: WorkerCommand,
    /// The person's reason, for the history; `None`: none was given.
    pub reason: Option<String>,
    /// A person passes `window`, `canaries`, `min_age` and `rollout`.
    #[serde(default)]
    pub overrides: bool,
    /// The full names of refs whose deletion a signed web hook announced: an answer without them is
    /// believed at once.
    #[serde(default)]
    pub deleted: Vec<String>,
}

impl TickOptions {
    /// Whether this tick follows upstream. A person's command concerns the clone only and needs no
    /// remote.
    pub fn follow(&self) -> bool {
        self.command == WorkerCommand::Follow
    }

    /// Whether a person named repositories and so wants them polled now. A message also names one, but
    /// anybody can have written it: it overrides nothing.
    pub fn is_named(&self) -> bool {
        let by_a_message = matches!(self.trigger, Trigger::Bus | Trigger::Webhook);
        !self.names.is_empty() && !by_a_message
    }

    /// Whether to poll the remotes of a repository with these settings.
    pub fn asks(&self, settings: &RepoSettings) -> bool {
        // A bus that is connected again says nothing about any single repository.
        let by_itself = matches!(self.trigger, Trigger::Cron | Trigger::Timer)
            || (self.names.is_empty() && matches!(self.trigger, Trigger::Bus | Trigger::Webhook));
        self.follow() && (self.is_named() || settings.poll || !by_itself)
    }

    /// The request on which a decision is based.
    pub fn request(&self) -> ActionRequest {
        ActionRequest { trigger: self.trigger, named: self.is_named(), overrides: self.overrides }
    }

    /// The job of each worker of this tick.
    pub fn job(&self) -> WorkerJob {
        WorkerJob {
            request: self.request(),
            wait: self.wait,
            command: self.command,
            reason: self.reason.clone(),
        }
    }

    /// Whether to start a worker even where one is busy: to wait for it, or to ask it for one more pass.
    /// The news of a message reaches the busy worker in no other way.
    pub fn joins(&self) -> bool {
        self.wait != LockWait::No || matches!(self.trigger, Trigger::Bus | Trigger::Webhook)
    }
}

/// The history of one repository by name, oldest first, or why it cannot be read.
pub type RunHistory = (String, Result<Vec<HistoryEntry>, String>);
