//! One look at something slow for all who ask at the same time: many askers cause one look, none waits for long, and
//! what was seen last is there meanwhile. Does not know what is looked at.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::system::host::since_boot;

/// What was seen last, and whether somebody looks now.
#[derive(Debug)]
pub struct SharedLook<T> {
    state: Mutex<LookState<T>>,
    ended: Condvar,
    /// How long what was seen is used, from the beginning of its look.
    fresh: Duration,
    /// How long after the beginning of a look somebody waits for it.
    patience: Duration,
}

#[derive(Debug)]
struct LookState<T> {
    /// When the last look began, as time since boot; `None`: there was none.
    begun: Option<Duration>,
    is_running: bool,
    seen: Option<Arc<T>>,
}

impl<T: Send + Sync + 'static> SharedLook<T> {
    /// Nothing is seen yet.
    pub fn new(fresh: Duration, patience: Duration) -> Self {
        let state = LookState { begun: None, is_running: false, seen: None };
        Self { state: Mutex::new(state), ended: Condvar::new(), fresh, patience }
    }

    /// What was seen last; `None`: nothing yet. Looks anew first where that is old, in a thread named `name`: `look` gets
    /// what was seen before. Waits no longer than until a look has lasted for its patience.
    pub fn get(
        self: &Arc<Self>,
        name: &str,
        look: impl FnOnce(Option<Arc<T>>) -> T + Send + 'static,
    ) -> Option<Arc<T>> {
        let mut state = self.lock();
        let now = since_boot();
        if !state.is_running && state.begun.is_none_or(|begun| now >= begun + self.fresh) {
            (state.is_running, state.begun) = (true, Some(now));
            let (shared, before) = (Arc::clone(self), state.seen.clone());
            let run = move || {
                let seen = catch_unwind(AssertUnwindSafe(|| look(before)));
                shared.end(seen.ok().map(Arc::new));
            };
            if let Err(error) = thread::Builder::new().name(name.to_owned()).spawn(run) {
                tracing::error!(%error, "no thread to look");
                state.is_running = false;
            }
        }
        let enough = state.begun.unwrap_or(now) + self.patience;
        while state.is_running {
            let left = enough.saturating_sub(since_boot());
            if left.is_zero() {
                break;
            }
            let woken = self.ended.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.seen.clone()
    }

    fn lock(&self) -> MutexGuard<'_, LookState<T>> {
        // A panic elsewhere left a whole value behind.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the look with `seen`; `None`: it panicked, and what was seen before stays.
    fn end(&self, seen: Option<Arc<T>>) {
        let mut state = self.lock();
        state.is_running = false;
        if seen.is_some() {
            state.seen = seen;
        }
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Barrier, mpsc};

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn many_who_ask_at_once_cause_one_look() {
        let shared = Arc::new(SharedLook::new(LONG, LONG));
        let (looks, together) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(20)));
        let askers: Vec<_> = (0..20)
            .map(|_| {
                let (shared, looks) = (Arc::clone(&shared), Arc::clone(&looks));
                let together = Arc::clone(&together);
                thread::spawn(move || {
                    together.wait();
                    shared.get("look", move |_| looks.fetch_add(1, Ordering::SeqCst) + 1)
                })
            })
            .collect();
        let seen: Vec<usize> = askers.into_iter().map(|it| *it.join().unwrap().unwrap()).collect();
        assert_eq!((seen, looks.load(Ordering::SeqCst)), (vec![1; 20], 1));
    }

    #[test]
    fn what_was_seen_before_is_there_while_a_look_hangs() {
        let shared = Arc::new(SharedLook::new(Duration::ZERO, LONG));
        assert_eq!(shared.get("look", |_| 1).as_deref(), Some(&1));
        let (hang, hung) = mpsc::channel::<()>();
        let hasty = Arc::new(SharedLook {
            state: Mutex::new(LookState {
                begun: None,
                is_running: false,
                seen: shared.lock().seen.clone(),
            }),
            ended: Condvar::new(),
            fresh: Duration::ZERO,
            patience: Duration::ZERO,
        });
        let look = move |before: Option<Arc<i32>>| {
            // Ends when the test drops its half.
            let _ = hung.recv();
            before.map_or(0, |before| *before + 1)
        };
        assert_eq!(hasty.get("look", look).as_deref(), Some(&1));
        assert_eq!(hasty.get("look", |_| 9).as_deref(), Some(&1), "one look at a time");
        drop(hang);
        while hasty.lock().is_running {
            thread::yield_now();
        }
        assert_eq!(hasty.lock().seen.as_deref(), Some(&2));
    }

    #[test]
    fn a_look_that_panics_leaves_what_was_seen() {
        let shared = Arc::new(SharedLook::new(Duration::ZERO, LONG));
        assert_eq!(shared.get("look", |_| 1).as_deref(), Some(&1));
        let panics = |_: Option<Arc<i32>>| std::panic::resume_unwind(Box::new("a test"));
        assert_eq!(shared.get("look", panics).as_deref(), Some(&1));
        assert_eq!(
            shared.get("look", |before| before.map_or(0, |it| *it + 1)).as_deref(),
            Some(&2)
        );
    }
}
