//! Reads a helper's replies and enforces its time limits. Does not know what a helper does.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::mem;
use std::time::Duration;

use anyhow::{Error, anyhow, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{HelperReport, HelperRequest, attended, begin, environment, helper_input};
use crate::domain::repository::action::ProgressEvent;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::WorkerError;
use crate::engine::finding::RepoFindings;
use crate::engine::repository::limits;
use crate::engine::request::{ProgressSink, RunHistory};
use crate::system::pid::Process;
use crate::system::process::{ChildAgent, ChildFinish, OutputMode};
use crate::system::users::User;

/// The maximum of bytes that a helper may answer.
const MOST_ANSWERED: usize = 16 << 20;
/// The time limit for a helper's end after its last reply.
const LAST_WORD: Duration = Duration::from_secs(3);

/// All replies of one helper.
pub struct HelperReplies<T> {
    /// The replies, repository by repository; one that was worked on has an earlier reply before that.
    pub items: Vec<T>,
    /// The reason for missing replies; `None`: all are there.
    pub failure: Option<Error>,
    /// The helper's process, when it is still there after it was killed.
    pub remains: Option<Process>,
}

/// A helper's reply about one repository.
pub trait RepoReply: Serialize + DeserializeOwned {
    /// The repository's name.
    fn name(&self) -> &str;

    /// Whether no further reply about the repository follows.
    fn is_last(&self) -> bool {
        true
    }
}

impl RepoReply for HelperReport {
    fn name(&self) -> &str {
        &self.row.name
    }

    fn is_last(&self) -> bool {
        self.is_last
    }
}

impl RepoReply for RepoFindings {
    fn name(&self) -> &str {
        &self.0
    }
}

impl RepoReply for RunHistory {
    fn name(&self) -> &str {
        &self.0
    }
}

/// Starts a helper and collects its replies. `limit` is the time until the first reply and from each new
/// repository to the next.
pub(super) fn ask_for<T: RepoReply>(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    helper_request: HelperRequest,
    limit: Duration,
    progress: &ProgressSink,
) -> HelperReplies<T> {
    let mut answers = HelperReplies { items: Vec::new(), failure: None, remains: None };
    let HelperReplies { items, remains, .. } = &mut answers;
    let done = attended(context, user, repos, |requests| {
        let helper_input = helper_input(context, user, repos, helper_request, requests)?;
        let args: Vec<OsString> =
            begin(context, user).into_iter().chain(["helper-request".into()]).collect();
        let mut helper =
            ChildAgent::start_for(&args, &environment(user), &helper_input, OutputMode::Piped)?;
        let (mut said, mut most) = (Vec::new(), MOST_ANSWERED);
        let mut unseen: BTreeSet<&str> = repos.iter().map(|repo| repo.name.as_str()).collect();
        let mut open = unseen.clone();
        let mut is_ours = true;
        let mut worker_error: Option<WorkerError> = None;
        let finish = helper.wait_for_exit(limit, |piece| {
            most = most.saturating_sub(piece.len());
            if most > 0 {
                said.extend_from_slice(piece);
            }
            if !piece.ends_with(b"\n") {
                return None;
            }
            let line = mem::take(&mut said);
            // A helper may report its own repositories and no others.
            let own = |name: &str| repos.iter().any(|repo| repo.name == name);
            if let Ok(word) = serde_json::from_slice::<ProgressEvent>(&line) {
                if own(word.repo()) {
                    progress(word);
                }
                return None;
            }
            let Ok(item) = serde_json::from_slice::<T>(&line) else {
                // The reason why it cannot answer comes before anything else.
                worker_error = worker_error.take().or_else(|| serde_json::from_slice(&line).ok());
                return None;
            };
            let is_news = unseen.remove(item.name()) | (item.is_last() && open.remove(item.name()));
            is_ours &= own(item.name());
            items.push(item);
            match (unseen.is_empty(), open.is_empty()) {
                _ if !is_news => None,
                (false, _) => Some(limit),
                (true, false) => Some(limits::helper_works(repos)),
                // All replies are there; the helper only has to end.
                (true, true) => Some(LAST_WORD),
            }
        })?;
        // The last line may lack its line feed.
        let worker_error =
            worker_error.or_else(|| serde_json::from_slice::<WorkerError>(&said).ok());
        let complete = open.is_empty();
        let no_answer =
            || anyhow!("the helper that works as {} ended without an answer", user.name);
        if !is_ours {
            items.clear();
        }
        match finish {
            _ if !is_ours => {
                *remains = helper.end();
                bail!("the helper of {} reports other repositories than those requested", user.name)
            }
            ChildFinish::Code(0) if complete => Ok(()),
            ChildFinish::Code(_) if worker_error.is_some() => {
                Err(worker_error.map_or_else(no_answer, Error::new))
            }
            ChildFinish::Code(_) => Err(no_answer()),
            finish => {
                let error = unfinished(user, helper.process(), finish);
                *remains = helper.end();
                if complete { Ok(()) } else { Err(error) }
            }
        }
    });
    answers.failure = done.err();
    answers
}

/// The error for a helper of `user` that did not end by itself and was ended.
pub(super) fn unfinished(user: &User, helper: Process, finish: ChildFinish) -> Error {
    let (name, pid) = (&user.name, helper.pid);
    match finish {
        ChildFinish::Stopped => anyhow!(
            "the helper that works as {name} (process {pid}) was stopped by a signal, and was ended\n\
             hint: find out who sends signals to processes of the agent: as {name}, or as root"
        ),
        _ => anyhow!(
            "the helper that works as {name} (process {pid}) did not say in time how the clones of \
             {name} are, and was ended\n\
             hint: see whether their disk answers, and remove what is no file: \
             find CLONE/.git -not -type f -not -type d"
        ),
    }
}
