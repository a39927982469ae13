//! Ends a process of ours that makes no progress: each step has a time limit, and a thread checks it. A
//! hanging system call cannot be interrupted from within, but the process can end. Does not know the
//! steps.

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{mem, thread};

use anyhow::{Context, Result};

use crate::system::host::since_boot;

/// Bytes of a file that are written between two progress reports.
const PORTION: usize = 8 << 20;

static WATCH: DeadlineWatch = DeadlineWatch::new();

struct DeadlineWatch {
    step: Mutex<TimedStep>,
    changed: Condvar,
    /// Whether a watchdog thread runs; without one there is nothing to wake.
    is_watched: AtomicBool,
}

impl DeadlineWatch {
    const fn new() -> Self {
        let (step, changed) = (Mutex::new(TimedStep::NONE), Condvar::new());
        Self { step, changed, is_watched: AtomicBool::new(false) }
    }

    /// Begins the next step and returns the one before.
    fn begin(&self, name: &'static str, limit: Duration) -> TimedStep {
        let new = TimedStep { name, limit, since: since_boot(), is_over: false };
        let before = mem::replace(&mut *step(self), new);
        if self.is_watched.load(Ordering::Relaxed) {
            self.changed.notify_all();
        }
        before
    }

    /// Waits until a step exceeds its limit, then calls `end` in this thread.
    fn watch(&self, end: impl FnOnce(TimedStep)) {
        let mut step = step(self);
        while step.left() > Duration::ZERO {
            let left = step.left();
            let waited = self.changed.wait_timeout(step, left);
            step = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        step.is_over = true;
        let late = *step;
        drop(step);
        end(late);
    }
}

/// A step with a time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimedStep {
    /// Activity of the step, such as `fetching`.
    pub name: &'static str,
    /// Time limit; `MAX` when the step has its own deadline.
    pub limit: Duration,
    /// Start or last progress, as time since boot.
    since: Duration,
    /// Whether the limit passed, so that the process ends.
    is_over: bool,
}

impl TimedStep {
    const NONE: Self =
        Self { name: "", limit: Duration::MAX, since: Duration::ZERO, is_over: false };

    /// Time until the limit.
    fn left(&self) -> Duration {
        self.since.saturating_add(self.limit).saturating_sub(since_boot())
    }
}

/// Locks the current step. A panic cannot leave it half written, so poisoning is ignored.
fn step(watch: &DeadlineWatch) -> MutexGuard<'_, TimedStep> {
    let mut step = watch.step.lock().unwrap_or_else(PoisonError::into_inner);
    // A thread that continues after all must do nothing more: its failure is already reported.
    while step.is_over {
        step = watch.changed.wait(step).unwrap_or_else(PoisonError::into_inner);
    }
    step
}

/// Starts the watchdog: a step over its limit ends this process by `end`, which does not return.
///
/// # Errors
/// When the system provides no thread.
pub fn start(end: impl FnOnce(TimedStep) + Send + 'static) -> Result<()> {
    // Set it before the thread first reads the step, so that a later step wakes it.
    WATCH.is_watched.store(true, Ordering::Relaxed);
    thread::Builder::new()
        .name("watchdog".to_owned())
        .spawn(|| WATCH.watch(end))
        .map(drop)
        .context("cannot start the watchdog thread")
}

/// Begins the next step with the time limit `limit`.
pub fn begin(name: &'static str, limit: Duration) {
    WATCH.begin(name, limit);
}

/// Reports progress, such as a finished file: the time of the step restarts.
pub fn progress() {
    WATCH.step.lock().unwrap_or_else(PoisonError::into_inner).since = since_boot();
}

/// Writes `bytes` into `file`, with progress reports, so that a slow disk does not exceed the limit.
///
/// # Errors
/// When the write fails.
pub fn write_all(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(PORTION).try_for_each(|portion| {
        progress();
        file.write_all(portion)
    })
}

/// A step within another one, which continues when this value is dropped.
#[must_use]
pub struct NestedStep(TimedStep);

/// Begins a step within the current one.
pub fn within(name: &'static str, limit: Duration) -> NestedStep {
    NestedStep(WATCH.begin(name, limit))
}

/// Pauses the current step while it waits for something that has its own deadline.
pub fn pause() -> NestedStep {
    within("", Duration::MAX)
}

impl Drop for NestedStep {
    fn drop(&mut self) {
        begin(self.0.name, self.0.limit);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_step_that_gets_on_lasts_and_one_that_does_not_is_reported() {
        let watch = &DeadlineWatch::new();
        watch.is_watched.store(true, Ordering::Relaxed);
        let (sender, receiver) = mpsc::channel();
        let limit = Duration::from_millis(100);
        thread::scope(|scope| {
            scope.spawn(|| {
                watch.watch(|late| {
                    sender.send(late.name).unwrap();
                });
            });
            watch.begin("first", Duration::MAX);
            assert!(
                receiver.recv_timeout(2 * limit).is_err(),
                "what has its own deadline is let be"
            );
            watch.begin("second", Duration::from_secs(600));
            watch.begin("third", limit);
            assert_eq!(receiver.recv().unwrap(), "third");
        });
        assert!(watch.step.lock().unwrap().is_over, "nothing gets on any more");
    }
}
