//! Many repositories looked at side by side: one connection for a few on the same server, some more
//! for many, never one server waiting for another, and no repository for long for its neighbours.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use std::vec;

use super::look::{Job, Looked, Place};
use crate::system::node::since_boot;

/// How long the next one in a queue waits until another lane is opened for it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often that is looked after.
const BEAT: Duration = Duration::from_millis(500);

/// How many are asked at a time on a server that has `jobs` of ours. Each connection costs a handshake,
/// and memory: for a hundred repositories at 20 ms, sixteen took 290 ms and 114 KB, ten 390 and 104,
/// eight 450 and 101.
fn abreast(jobs: usize) -> usize {
    match jobs {
        0..=3 => 1,
        4..=30 => 4,
        _ => 10,
    }
}

/// Repositories in the same place, which wait for their turn.
struct Queue<'a> {
    waiting: vec::IntoIter<Job<'a>>,
    /// When one was taken, or another lane was opened, last; as time since boot.
    moved: Duration,
    /// Where lanes report to; `None`: nobody waits any more.
    report: Option<Sender<Looked>>,
}

impl<'a> Queue<'a> {
    fn next(&mut self) -> Option<Job<'a>> {
        let next = self.waiting.next();
        self.moved = since_boot();
        if self.waiting.len() == 0 {
            self.report = None;
        }
        next
    }

    /// Whether one more lane is wanted, because those that there are do not get on.
    fn is_stuck(&mut self) -> bool {
        let now = since_boot();
        let is_stuck = self.report.is_some() && now.saturating_sub(self.moved) >= PATIENCE;
        if is_stuck {
            self.moved = now;
        }
        is_stuck
    }
}

/// No thread can leave it half written.
fn locked<'q, 'a>(queue: &'q Mutex<Queue<'a>>) -> MutexGuard<'q, Queue<'a>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Works off `queue` beside others.
fn lane(queue: &Mutex<Queue>) {
    let Some(report) = locked(queue).report.clone() else { return };
    loop {
        let next = locked(queue).next();
        let Some(job) = next else { return };
        // Nobody listens any more only when the tick itself is over.
        let _ = report.send(job.look());
    }
}

/// Looks at all of `jobs`; `found` gets each as soon as it is known, in this thread.
pub fn all(jobs: Vec<Job>, mut found: impl FnMut(Looked)) {
    let mut places: BTreeMap<Place, Vec<Job>> = BTreeMap::new();
    for job in jobs {
        places.entry(job.place()).or_default().push(job);
    }
    let mut at_once = places.remove(&Place::Nowhere).unwrap_or_default();
    if places.keys().all(|place| *place == Place::Disk) {
        // Nobody is there that a disk which hangs could delay, but those on disks.
        at_once.extend(places.remove(&Place::Disk).unwrap_or_default());
    }
    let (sender, looked) = mpsc::channel();
    let queues: Vec<_> = places
        .into_iter()
        .map(|(place, jobs)| {
            let width = if place == Place::Disk { 1 } else { abreast(jobs.len()) };
            let report = Some(sender.clone());
            let queue = Queue { waiting: jobs.into_iter(), moved: since_boot(), report };
            (width, Mutex::new(queue))
        })
        .collect();
    drop(sender);
    thread::scope(|scope| {
        for (width, queue) in &queues {
            for _ in 0..*width {
                scope.spawn(|| lane(queue));
            }
        }
        // What asks nobody needs no thread.
        for job in at_once {
            found(job.look());
        }
        let mut next_beat = since_boot() + BEAT;
        loop {
            match looked.recv_timeout(next_beat.saturating_sub(since_boot())) {
                Ok(it) => found(it),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    for (_, queue) in &queues {
                        if locked(queue).is_stuck() {
                            scope.spawn(|| lane(queue));
                        }
                    }
                    next_beat = since_boot() + BEAT;
                }
            }
        }
    });
}
