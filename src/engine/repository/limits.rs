//! Time limits for everything that another user, a disk, a server or a child process can make hang.
//! System calls on files have no deadline of their own, so each is made in a thread or a process that
//! can be left behind.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::config::RepoSettings;
use crate::domain::repository::health::OnFailure;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::system::host::since_boot;
use crate::system::pid::Process;
use crate::system::process::MORE_TASKS;
use crate::system::watchdog::TimedStep;

/// The name, in messages, of the step that reads a clone.
pub const LOOKING: &str = "looking into it";
/// The upper limit for reading a clone without asking a remote.
const LOOK: Duration = Duration::from_secs(15);
/// The extra time of each waiting process over the one it waits for, so that the one with the more
/// precise error reports it.
const GRACE: Duration = Duration::from_secs(2);
/// The extra time after its own deadline at which a step that speaks with a remote is ended.
pub const SLACK: Duration = Duration::from_secs(12);
/// The limit for a step on a disk during which it finishes no file.
pub const STANDSTILL: Duration = Duration::from_secs(60);

/// The limit for reading a clone without asking a remote.
pub fn evaluation_timeout(settings: &RepoSettings) -> Duration {
    settings.reach.limit.min(LOOK) + GRACE
}

/// The limit for reading a clone and asking its remotes one after the other.
pub fn poll_timeout(settings: &RepoSettings) -> Duration {
    let remotes = settings.urls.len().max(1) as u32;
    (remotes * settings.reach.limit).saturating_add(evaluation_timeout(settings))
}

/// The limit for what [`poll_timeout`] does not count: a look at the canaries, which are listed and fetched, after such a
/// look for another repository.
pub fn canaries_timeout(context: &Context, settings: &RepoSettings) -> Duration {
    let presence = context.settings.presence.as_ref();
    let presence = presence.filter(|_| !settings.policy.gates.canaries.is_empty());
    presence.map_or(Duration::ZERO, |presence| 4 * presence.reach.limit)
}

/// The limit for a fetch from one remote, until all of it is in the object store; the fetch should end
/// by itself before that.
pub fn fetch(settings: &RepoSettings) -> Duration {
    settings.reach.limit.saturating_add(SLACK)
}

/// The limit for a worker's silence: it fetches, runs scripts, publishes and cleans up.
pub fn work(settings: &RepoSettings) -> Duration {
    let action = settings.timeout.saturating_add(settings.health.within);
    let actions = match settings.health.on_failure {
        OnFailure::Stay => action,
        OnFailure::Rollback => action.saturating_mul(2),
    };
    let most = actions.max(GC_LIMIT);
    [2 * poll_timeout(settings), 2 * STANDSTILL].into_iter().fold(most, Duration::saturating_add)
}

/// The limit until a helper reports on the next of `repos`; `asked`: it asks their remotes.
pub fn helper(repos: &[RepoEntry], asked: bool) -> Duration {
    let one = |repo: &RepoEntry| match asked {
        true => poll_timeout(&repo.settings).saturating_add(evaluation_timeout(&repo.settings)),
        false => 2 * evaluation_timeout(&repo.settings),
    };
    repos.iter().map(one).max().unwrap_or_default().saturating_add(GRACE)
}

/// The limit until a helper that has read `repos` reports the end of its first worker.
pub fn helper_works(repos: &[RepoEntry]) -> Duration {
    repos.iter().map(|repo| work(&repo.settings)).max().unwrap_or_default().saturating_add(GRACE)
}

/// A read of a clone in a thread that is left behind when it hangs.
pub struct BoundedOpen<T> {
    receiver: Receiver<thread::Result<Result<T>>>,
    /// The id of the thread, once it runs.
    number: Arc<OnceLock<i32>>,
    path: PathBuf,
    since: Duration,
    limit: Duration,
}

impl<T: Send + 'static> BoundedOpen<T> {
    /// Starts `look` on `repo` in a thread; it has `limit`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn begin(
        context: &Context,
        repo: &RepoEntry,
        limit: Duration,
        look: impl FnOnce(&Context, &RepoEntry) -> Result<T> + Send + 'static,
    ) -> Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let number = Arc::new(OnceLock::new());
        let (path, ours) = (repo.path.clone(), Arc::clone(&number));
        let (context, repo) = (context.clone(), repo.clone());
        let run = move || {
            // Cannot fail: it is set once.
            let _ = ours.set(Process::current_thread());
            // The receiver is gone when it took too long.
            let _ = sender.send(catch_unwind(AssertUnwindSafe(|| look(&context, &repo))));
        };
        thread::Builder::new().spawn(run).with_context(no_thread)?;
        Ok(Self { receiver, number, path, since: since_boot(), limit })
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// The errors of `look`, and a timeout.
    pub fn end(self) -> Result<T> {
        let left = (self.since + self.limit).saturating_sub(since_boot());
        match self.receiver.recv_timeout(left) {
            Ok(Ok(done)) => done,
            Ok(Err(panic)) => resume_unwind(panic),
            Err(_) => {
                let thread = self.number.get().and_then(|number| Process::find(*number));
                bail!(hangs(LOOKING, &self.path, self.limit, thread))
            }
        }
    }
}

/// Runs `look` on `repo` within the limit and waits for its result.
///
/// # Errors
/// As [`BoundedOpen::begin`] and [`BoundedOpen::end`].
pub fn within<T: Send + 'static>(
    context: &Context,
    repo: &RepoEntry,
    look: impl FnOnce(&Context, &RepoEntry) -> Result<T> + Send + 'static,
) -> Result<T> {
    let limit = self::evaluation_timeout(&repo.settings);
    BoundedOpen::begin(context, repo, limit, look)?.end()
}

/// The message for a thread that cannot be started.
pub fn no_thread() -> String {
    format!("cannot start a thread\nhint: {MORE_TASKS}")
}

/// The message for a `step` in the clone at `path` that did not end or progress within `limit`; `thread`
/// made it.
pub fn hangs(step: &str, path: &Path, limit: Duration, thread: Option<Process>) -> String {
    let (path, limit) = (path.display(), limit.as_secs());
    match thread.and_then(Process::waits_for) {
        Some(file) => format!(
            "{step} did not end within {limit} s: it waits for {0}\n\
             hint: see what that is: ls -l {0}; remove a pipe or a device, mount again a disk that \
             does not answer",
            file.escape_controls()
        ),
        None => format!(
            "{step} did not end within {limit} s: {path} does not answer\n\
             hint: see whether its disk answers, and remove what is no file: \
             find {path}/.git -not -type f -not -type d"
        ),
    }
}

/// The message of a worker for `repo` that made no progress in the step `late` and ended itself.
pub fn standstill(repo: &RepoEntry, late: TimedStep) -> String {
    hangs(late.name, &repo.path, late.limit, Some(Process::current()))
}

/// The message for an earlier read of a clone, or work on it, that still hangs in `process`.
pub fn still_hangs(process: Process) -> String {
    let pid = process.pid;
    format!(
        "an earlier attempt to read it still hangs in process {pid}, and no other one is started\n\
         hint: see what it waits for: cat /proc/{pid}/wchan; mount again a disk that does not answer. \
         Should that be a thread of agent listen: systemctl restart pmpy"
    )
}

/// The limit for git's garbage collection.
pub const GC_LIMIT: Duration = Duration::from_secs(15 * 60);
