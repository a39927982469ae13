//! Schedules the evaluation of many repositories side by side: one connection for few repositories on a
//! server, more for many. No server waits for another. Does not know how one repository is evaluated.
//!
//! An evaluation may hang in the kernel, and nothing in this process can end it. So all of them run in
//! threads that can be left behind: the caller gets a row for each repository, built from known facts when
//! its evaluation took too long. A thread that hangs ends with its evaluation, or with the process.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;
use std::{mem, vec};

use chrono::{DateTime, Utc};

use crate::domain::repository::status::StatusRow;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::IS_A_BUG;
use crate::engine::repository::limits;
use crate::engine::request::TickOptions;
use crate::engine::tick::evaluation::{RepoReport, RepoServices, RepoTask};
use crate::system::host::since_boot;
use crate::system::pid::Process;

/// The time that a queue waits for its next start until it gets another thread.
const PATIENCE: Duration = Duration::from_secs(2);
/// The interval at which the coordinator checks for late evaluations and stuck queues.
const BEAT: Duration = Duration::from_millis(500);

/// The number of connections at a time to a server that has `jobs` repositories. Each connection costs a
/// handshake and memory: for a hundred repositories at 20 ms, sixteen took 290 ms and 114 KB, ten 390 and
/// 104, eight 450 and 101.
fn max_concurrency(jobs: usize) -> usize {
    match jobs {
        0..=3 => 1,
        4..=30 => 4,
        _ => 10,
    }
}

/// Repositories to be evaluated together.
pub struct EvaluationRound {
    /// The configuration and the host.
    pub context: Context,
    /// One task for each repository.
    pub tasks: Vec<EvaluationTask>,
    /// The tick's orders; `None`: evaluate only, ask no remote.
    pub options: Option<TickOptions>,
    /// The time of the round.
    pub now: DateTime<Utc>,
}

/// One repository of a round.
pub struct EvaluationTask {
    /// The repository.
    pub repo: RepoEntry,
    /// Its row by the last tick.
    pub was: Option<StatusRow>,
    /// Whether the round's orders apply to it.
    pub is_asked: bool,
}

impl EvaluationTask {
    /// The report when nothing could be seen: because of `why`, with the hanging thread `hangs`.
    fn unseen(&self, why: String, hangs: Option<Process>, now: DateTime<Utc>) -> RepoReport {
        RepoReport::unseen(&self.repo, why, self.was.clone(), hangs, now)
    }
}

/// Evaluates all of `round`; `found` gets each report as soon as it is there, in the calling thread.
pub fn all(round: EvaluationRound, mut found: impl FnMut(RepoReport)) {
    let round = Arc::new(round);
    let mut left: BTreeMap<&str, &EvaluationTask> =
        round.tasks.iter().map(|task| (task.repo.name.as_str(), task)).collect();
    if left.is_empty() {
        return;
    }
    let (sender, receiver) = mpsc::channel();
    let shared = Arc::clone(&round);
    let begun = thread::Builder::new().spawn(move || coordinate(&shared, sender));
    let why = match begun {
        Ok(_) => {
            for looked in receiver.into_iter().flatten() {
                left.remove(looked.name.as_str());
                found(looked);
            }
            IS_A_BUG.to_owned()
        }
        Err(error) => format!("{error}: {}", limits::no_thread()),
    };
    for task in left.into_values() {
        found(task.unseen(why.clone(), None, round.now));
    }
}

struct TaskQueue<T> {
    waiting: vec::IntoIter<T>,
    /// When an item was taken or another thread was started last; as time since boot.
    moved: Duration,
}

impl<T> TaskQueue<T> {
    fn of(all: Vec<T>) -> Self {
        Self { waiting: all.into_iter(), moved: since_boot() }
    }

    fn next(&mut self) -> Option<T> {
        self.moved = since_boot();
        self.waiting.next()
    }

    fn is_empty(&self) -> bool {
        self.waiting.len() == 0
    }

    /// Whether one more thread is needed because the present ones take no more items.
    fn is_stuck(&mut self, now: Duration) -> bool {
        let is_stuck = !self.is_empty() && now.saturating_sub(self.moved) >= PATIENCE;
        if is_stuck {
            self.moved = now;
        }
        is_stuck
    }
}

struct RunningTask {
    /// The thread's id.
    thread: i32,
    limit: Duration,
    /// When it started, as time since boot.
    since: Duration,
}

/// The progress of a round, shared by its threads.
struct RoundProgress<'a> {
    /// Repositories whose clones are not opened yet.
    unopened: TaskQueue<&'a EvaluationTask>,
    /// Opened repositories, until all are open and can be sorted by server.
    opened: Vec<RepoTask<'a>>,
    is_sorted: bool,
    /// One queue for disks and one for each server; the first queue needs no server.
    queues: Vec<TaskQueue<RepoTask<'a>>>,
    /// The queues that need another thread.
    wanted: Vec<usize>,
    flights: BTreeMap<&'a str, RunningTask>,
    done: Vec<RepoReport>,
    /// Wakes the coordinator.
    has_news: bool,
}

impl<'a> RoundProgress<'a> {
    fn begin(&mut self, name: &'a str, thread: i32, limit: Duration) {
        self.flights.insert(name, RunningTask { thread, limit, since: since_boot() });
    }

    /// Removes the running task; `false`: it was given up before, and its result does not count.
    fn end(&mut self, name: &str) -> bool {
        self.flights.remove(name).is_some()
    }

    /// Sorts the opened repositories into the queues.
    fn sort(&mut self) {
        let mut places: BTreeMap<RepoServices, Vec<RepoTask>> = BTreeMap::new();
        for job in mem::take(&mut self.opened) {
            places.entry(job.place()).or_default().push(job);
        }
        let mut at_once = places.remove(&RepoServices::Nowhere).unwrap_or_default();
        if places.keys().all(|place| *place == RepoServices::Disk) {
            // No other queue exists, so a hanging disk delays only repositories on disks.
            at_once.extend(places.remove(&RepoServices::Disk).unwrap_or_default());
        }
        self.queues.push(TaskQueue::of(at_once));
        for (place, jobs) in places {
            let width = if place == RepoServices::Disk { 1 } else { max_concurrency(jobs.len()) };
            self.wanted.extend(std::iter::repeat_n(self.queues.len(), width));
            self.queues.push(TaskQueue::of(jobs));
        }
        self.is_sorted = true;
    }

    /// Gives up evaluations that take too long, and asks for threads where others wait behind them.
    fn beat(&mut self, round: &'a EvaluationRound, now: Duration) -> MissingThreads {
        let late = |flight: &RunningTask| now.saturating_sub(flight.since) >= flight.limit;
        let late: BTreeSet<&str> =
            self.flights.iter().filter(|(_, flight)| late(flight)).map(|(name, _)| *name).collect();
        for task in round.tasks.iter().filter(|task| late.contains(task.repo.name.as_str())) {
            let Some(flight) = self.flights.remove(task.repo.name.as_str()) else { continue };
            let thread = Process::find(flight.thread);
            let why = limits::hangs(limits::LOOKING, &task.repo.path, flight.limit, thread);
            self.done.push(task.unseen(why, thread, round.now));
        }
        let waits = |flight: &RunningTask| now.saturating_sub(flight.since) >= PATIENCE;
        if !self.is_sorted && self.unopened.is_empty() && self.flights.values().all(waits) {
            self.sort();
            self.wanted.push(0);
        }
        let removal_failure = self
            .queues
            .iter_mut()
            .enumerate()
            .filter_map(|(at, queue)| queue.is_stuck(now).then_some(at));
        self.wanted.extend(removal_failure);
        MissingThreads { opens: self.unopened.is_stuck(now), looks: mem::take(&mut self.wanted) }
    }
}

/// Threads that have to be started.
struct MissingThreads {
    /// One thread that opens clones.
    opens: bool,
    /// One thread for each of these queues.
    looks: Vec<usize>,
}

/// The round's progress, and the signal that wakes its coordinator.
struct RoundMonitor<'a> {
    round: &'a EvaluationRound,
    board: Mutex<RoundProgress<'a>>,
    news: Condvar,
}

impl<'a> RoundMonitor<'a> {
    /// Ignores poisoning: no thread can leave the progress half written.
    fn board(&self) -> MutexGuard<'_, RoundProgress<'a>> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens clones until all are open, then evaluates those that need no server.
    fn open(&self) {
        let thread = Process::current_thread();
        loop {
            let mut board = self.board();
            let Some(task) = board.unopened.next() else { break };
            let EvaluationTask { repo, was, is_asked } = task;
            board.begin(&repo.name, thread, limits::evaluation_timeout(&repo.settings));
            drop(board);
            let EvaluationRound { context, options, now, .. } = self.round;
            let options = options.as_ref().filter(|_| *is_asked);
            let job = RepoTask::new(context, repo, was.clone(), options, *now);
            let mut board = self.board();
            if !board.end(&repo.name) {
                continue;
            }
            if board.is_sorted {
                let at = board.queues.len();
                board.queues.push(TaskQueue::of(vec![job]));
                board.wanted.push(at);
                board.has_news = true;
                self.news.notify_one();
            } else {
                board.opened.push(job);
            }
        }
        let mut board = self.board();
        if board.is_sorted || !board.flights.is_empty() {
            return;
        }
        board.sort();
        if !board.wanted.is_empty() {
            board.has_news = true;
            self.news.notify_one();
        }
        drop(board);
        self.evaluate(0);
    }

    /// Works off queue `at`, together with other threads.
    fn evaluate(&self, at: usize) {
        let thread = Process::current_thread();
        loop {
            let mut board = self.board();
            let Some(job) = board.queues.get_mut(at).and_then(TaskQueue::next) else { return };
            let name = &job.repo().name;
            board.begin(name, thread, job.limit());
            drop(board);
            let looked = job.evaluate();
            let mut board = self.board();
            if !board.end(name) {
                continue;
            }
            let is_last = board.queues.get(at).is_none_or(TaskQueue::is_empty);
            let is_news = is_last || looked.is_work();
            board.done.push(looked);
            if is_news && !mem::replace(&mut board.has_news, true) {
                self.news.notify_one();
            }
        }
    }
}

/// Starts the threads of `round`, supervises them and sends their reports; its own thread lasts as long as
/// the last of them.
fn coordinate(round: &EvaluationRound, sender: Sender<Vec<RepoReport>>) {
    let board = RoundProgress {
        unopened: TaskQueue::of(round.tasks.iter().collect()),
        opened: Vec::with_capacity(round.tasks.len()),
        is_sorted: false,
        queues: Vec::new(),
        wanted: Vec::new(),
        flights: BTreeMap::new(),
        done: Vec::new(),
        has_news: false,
    };
    let room = &RoundMonitor { round, board: Mutex::new(board), news: Condvar::new() };
    let mut left = round.tasks.len();
    thread::scope(|scope| {
        worker_thread(scope, || room.open());
        let mut next_beat = since_boot() + BEAT;
        while left > 0 {
            let wait = next_beat.saturating_sub(since_boot());
            let waited = room.news.wait_timeout_while(room.board(), wait, |it| !it.has_news);
            let (mut board, _) = waited.unwrap_or_else(PoisonError::into_inner);
            board.has_news = false;
            let now = since_boot();
            let worker_threads = if now >= next_beat {
                next_beat = now + BEAT;
                board.beat(round, now)
            } else {
                MissingThreads { opens: false, looks: mem::take(&mut board.wanted) }
            };
            let done = mem::take(&mut board.done);
            drop(board);
            left -= done.len().min(left);
            // The receiver is gone only when the tick itself is over.
            let _ = sender.send(done);
            if worker_threads.opens {
                worker_thread(scope, || room.open());
            }
            for at in worker_threads.looks {
                worker_thread(scope, move || room.evaluate(at));
            }
        }
        // The caller stops receiving now; only this thread waits for what hangs.
        drop(sender);
    });
}

/// Starts `work` in a thread; where the system gives none, runs it in this one.
fn worker_thread<'s>(scope: &'s Scope<'s, '_>, work: impl FnOnce() + Copy + Send + 's) {
    if thread::Builder::new().spawn_scoped(scope, work).is_err() {
        work();
    }
}
