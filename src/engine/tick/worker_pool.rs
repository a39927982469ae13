//! Runs the workers of one tick: up to a maximum side by side, each for one repository, started as soon as
//! there is work. Does not know what they do: see [`reconcile`](crate::engine::action::reconcile).

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

use anyhow::Result;

use crate::engine::context::Context;
use crate::engine::discovery::{self, RepoEntry};
use crate::engine::error::WorkerError;
use crate::engine::repository::{limits, observe};
use crate::engine::request::{ProgressSink, TickOptions, WorkerInput};
use crate::system::frames;
use crate::system::pid::Process;
use crate::system::process::{ChildAgent, ChildFinish};

/// The number of workers at a time. A repository whose script takes an hour holds one place of one tick;
/// the next tick has its own.
const WORKERS: usize = 16;

/// The limit of a worker's plain output, in bytes; the rest is ignored.
const MOST_REPORTED: usize = 16 * 1024;

/// The time limit for a worker's end after it has reported why it failed.
const LAST_WORD: Duration = Duration::from_secs(3);

/// Starts workers and waits for them.
pub struct WorkerPool<'a> {
    context: &'a Context,
    options: &'a TickOptions,
    progress: &'a ProgressSink<'a>,
    /// The paths of repositories whose names do not tell them.
    paths: BTreeMap<String, PathBuf>,
    book: Mutex<PoolBook>,
}

#[derive(Default)]
struct PoolBook {
    waiting: VecDeque<String>,
    /// The number of threads; each waits for one worker.
    busy: usize,
    ended: BTreeMap<String, WorkerResult>,
}

/// The result of one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerResult {
    /// The error that the worker could not record itself.
    pub trouble: Option<WorkerError>,
    /// The worker's process, when it exceeded its time and was not stopped.
    pub hangs: Option<Process>,
}

impl<'a> WorkerPool<'a> {
    /// A pool without work, for some of `repositories`. `progress` receives the progress events of its
    /// workers.
    pub fn new(
        context: &'a Context,
        options: &'a TickOptions,
        progress: &'a ProgressSink<'a>,
        repositories: &[RepoEntry],
    ) -> Self {
        let root = &context.settings.world.root;
        let is_odd = |repo: &&RepoEntry| {
            repo.settings.path.is_none() && repo.listed != root.join(&repo.name)
        };
        let odd = repositories.iter().filter(is_odd);
        let paths = odd.map(|repo| (repo.name.clone(), repo.listed.clone())).collect();
        Self { context, options, progress, paths, book: Mutex::default() }
    }

    /// Queues work on the repository `name`; it starts at once, or when a worker is free. `scope` ends when
    /// all work is done.
    pub fn send<'s>(&'s self, scope: &'s Scope<'s, '_>, name: String) {
        let mut book = self.book();
        book.waiting.push_back(name);
        if book.busy == WORKERS {
            return;
        }
        match thread::Builder::new().spawn_scoped(scope, || self.work_off()) {
            Ok(_) => book.busy += 1,
            // The busy threads work off the queue.
            Err(_) if book.busy > 0 => {}
            Err(error) => {
                let why = WorkerError::failing(format!("{error}: {}", limits::no_thread()));
                let ended = WorkerResult { trouble: Some(why), hangs: None };
                let waiting = mem::take(&mut book.waiting);
                book.ended.extend(waiting.into_iter().map(|name| (name, ended.clone())));
            }
        }
    }

    /// The results of all workers, by repository name.
    pub fn ended(self) -> BTreeMap<String, WorkerResult> {
        self.book.into_inner().unwrap_or_else(PoisonError::into_inner).ended
    }

    fn work_off(&self) {
        loop {
            let mut book = self.book();
            let Some(name) = book.waiting.pop_front() else {
                book.busy -= 1;
                return;
            };
            drop(book);
            let ended = self.work(&name).unwrap_or_else(|error| WorkerResult {
                trouble: Some(WorkerError::of(&error)),
                hangs: None,
            });
            self.book().ended.insert(name, ended);
        }
    }

    fn work(&self, name: &str) -> Result<WorkerResult> {
        let args = worker_args(self.context, self.options);
        let mut settings = discovery::handed_to_workers(self.context, name);
        // Its name does not tell the path of a clone without an entry, where that is no text.
        let path = settings.path.take();
        let path = self.paths.get(name).cloned().or(path).unwrap_or_default();
        let limit = limits::work(&settings);
        let (mut worker, line) = ChildAgent::start(&args, self.context.helper_input.as_deref())?;
        let input = WorkerInput {
            repo: name.to_owned(),
            path: path.into_os_string(),
            job: self.options.job(),
            settings: (self.context.helper_input.is_none())
                .then(|| self.context.hand_over([(name.to_owned(), settings)].into())),
        };
        // A worker that takes nothing ends without its job, and says why.
        let _ = frames::send_json(&line, &input);
        let (mut said, mut known) = (Vec::new(), None);
        let finish = worker.wait_for_exit(limit, |report| {
            if let Ok(event) = serde_json::from_slice(report) {
                (self.progress)(event);
                return Some(limit);
            }
            if let Ok(request) = serde_json::from_slice(report) {
                self.context.wire.relay(&request, &line);
                return Some(limit);
            }
            if let Ok(worker_error) = serde_json::from_slice(report) {
                known = Some(worker_error);
                // A worker error is its last line.
                return Some(LAST_WORD);
            }
            if said.len() < MOST_REPORTED {
                said.extend_from_slice(report);
            }
            None
        })?;
        let process = worker.process();
        let known = known.or_else(|| match finish {
            ChildFinish::Code(0) => None,
            ChildFinish::Code(_) => Some(trouble(&said)),
            ChildFinish::Overdue => Some(WorkerError::failing(observe::overdue(process))),
            ChildFinish::Stopped => Some(WorkerError::failing(observe::stopped(process))),
        });
        if !matches!(finish, ChildFinish::Code(_)) {
            // The worker may hold the lock and run an action, so the tick never ends it.
            worker.detach();
        }
        let trouble = known.filter(|_| finish != ChildFinish::Code(0));
        Ok(WorkerResult { trouble, hangs: (finish == ChildFinish::Overdue).then_some(process) })
    }

    /// Ignores poisoning: each change is one statement, so no thread can leave the book half written.
    fn book(&self) -> MutexGuard<'_, PoolBook> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error by the plain output of a worker that failed.
fn trouble(said: &[u8]) -> WorkerError {
    WorkerError::failing(match String::from_utf8_lossy(said).trim() {
        "" => "the worker process was killed; the next tick retries",
        text => text,
    })
}

fn worker_args(context: &Context, options: &TickOptions) -> Vec<OsString> {
    let mut args: Vec<OsString> = context.log_args.clone();
    if args.is_empty() && options.names.len() != 1 {
        // The progress bars of several workers would spoil each other.
        args.push("--quiet".into());
    }
    if context.helper_input.is_some() {
        args.extend(["helper".into(), "--user".into(), context.node.user.name.clone().into()]);
    }
    args.push("worker".into());
    args
}
