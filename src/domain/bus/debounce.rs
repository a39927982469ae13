//! The start times of passes that a message or a new bus connection asks for. Many requests for one
//! repository become one pass, requests during a pass become one more, and requests without result do
//! not make us poll a server all the time. Time is an argument: the time since boot.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::hash;

/// The pause of a repository after a pass that found nothing to do.
const REST: Duration = Duration::from_secs(1);

/// The passes that are due, running or just over, by their subject `K`.
#[derive(Clone, Debug)]
pub struct Debouncer<K>(BTreeMap<K, PendingPass>);

#[derive(Clone, Copy, Debug, Default)]
struct PendingPass {
    due: Option<Duration>,
    is_running: bool,
    rests_until: Duration,
}

/// The result of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassOutcome {
    /// There was work to do.
    Work,
    /// There was nothing to do.
    Nothing,
}

/// The delay of this machine for a message that came at `now`: up to `spread`, different for each
/// machine, repository and moment, so that a fleet that receives one message does not poll one server at
/// the same instant.
pub fn wait(spread: Duration, machine_id: &str, host: &str, repo: &str, now: Duration) -> Duration {
    let moment = now.as_nanos().to_ne_bytes();
    let parts = [machine_id.as_bytes(), host.as_bytes(), repo.as_bytes(), &moment];
    spread.mul_f64(hash::fraction(&parts))
}

impl<K> Default for Debouncer<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone> Debouncer<K> {
    /// Requests a pass over `what` at `at`. A pass that is already due is enough.
    pub fn command(&mut self, what: K, at: Duration) {
        let wake = self.0.entry(what).or_default();
        wake.due.get_or_insert(at);
    }

    /// Requests a pass over `what` at `at`, also when one is due later.
    pub fn bring_forward(&mut self, what: K, at: Duration) {
        let wake = self.0.entry(what).or_default();
        wake.due = Some(wake.due.map_or(at, |due| due.min(at)));
    }

    /// Ends the wait for a running pass over `what`, which may wait for a script: the next one may
    /// begin.
    pub fn release(&mut self, what: &K) {
        if let Some(wake) = self.0.get_mut(what) {
            wake.is_running = false;
        }
    }

    /// The subjects whose passes begin at `now`; each runs until [`Debouncer::ended`].
    pub fn begin(&mut self, now: Duration) -> Vec<K> {
        let mut begun = Vec::new();
        for (what, wake) in &mut self.0 {
            if wake.begins().is_some_and(|at| at <= now) {
                *wake = PendingPass { due: None, is_running: true, rests_until: now + REST };
                begun.push(what.clone());
            }
        }
        begun
    }

    /// When the next pass is due that does not wait for a running one.
    pub fn next(&self) -> Option<Duration> {
        self.0.values().filter_map(PendingPass::begins).min()
    }

    /// Records the end of the pass over `what`.
    pub fn ended(&mut self, what: &K, found: PassOutcome, now: Duration) {
        if let Some(wake) = self.0.get_mut(what) {
            wake.is_running = false;
            wake.rests_until = match found {
                PassOutcome::Work => now,
                PassOutcome::Nothing => now + REST,
            };
        }
    }
}

impl PendingPass {
    fn begins(&self) -> Option<Duration> {
        self.due.filter(|_| !self.is_running).map(|due| due.max(self.rests_until))
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::bus::debounce::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn many_wishes_before_a_pass_are_one_pass_and_many_during_it_one_more() {
        let mut wakes = Debouncer::default();
        for time in 0..1000 {
            wakes.command("spog", at(100 + time));
        }
        assert_eq!(wakes.next(), Some(at(100)));
        assert!(wakes.begin(at(99)).is_empty());
        assert_eq!(wakes.begin(at(100)), ["spog"]);
        for time in 0..1000 {
            wakes.command("spog", at(101 + time));
        }
        assert_eq!((wakes.next(), wakes.begin(at(5000))), (None, vec![]));
        wakes.ended(&"spog", PassOutcome::Work, at(6000));
        assert_eq!(wakes.begin(at(6000)), ["spog"]);
        wakes.ended(&"spog", PassOutcome::Work, at(6100));
        assert_eq!((wakes.next(), wakes.begin(at(9000))), (None, vec![]));
    }

    #[test]
    fn a_fleet_that_hears_one_message_asks_at_moments_all_over_the_spread() {
        let spread = Duration::from_secs(10);
        let mut asks = [0; 10];
        for host in 0..2000 {
            let waits = wait(spread, "an image's", &format!("web{host}"), "spog", at(7));
            asks[waits.as_secs() as usize] += 1;
        }
        assert!(asks.iter().all(|count| (150..250).contains(count)), "{asks:?}");
        let wait_of = |host, repo, now| wait(spread, "id", host, repo, now);
        let first = wait_of("web1", "spog", at(7));
        assert_eq!(first, wait_of("web1", "spog", at(7)));
        assert_ne!(first, wait_of("web2", "spog", at(7)));
        assert_ne!(first, wait_of("web1", "ops", at(7)));
        assert_ne!(first, wait_of("web1", "spog", at(8)));
        assert_eq!(wait(Duration::ZERO, "id", "web1", "spog", at(7)), Duration::ZERO);
    }

    #[test]
    fn a_message_is_applied_within_the_spread_and_others_do_not_put_it_off() {
        let mut wakes = Debouncer::default();
        let spread = at(5000);
        for now in 0..1000 {
            wakes.command("spog", at(now) + wait(spread, "id", "web1", "spog", at(now)));
        }
        assert_eq!(wakes.next(), Some(wait(spread, "id", "web1", "spog", at(0))));
        assert_eq!(wakes.begin(spread), ["spog"]);
    }

    #[test]
    fn who_is_in_a_hurry_does_not_wait_for_the_spread_of_a_message() {
        let mut wakes = Debouncer::default();
        wakes.command("spog", at(5000));
        wakes.bring_forward("spog", at(10));
        wakes.bring_forward("spog", at(20));
        wakes.command("spog", at(15));
        assert_eq!(wakes.next(), Some(at(10)));
        assert_eq!((wakes.begin(at(10)), wakes.begin(at(9000))), (vec!["spog"], vec![]));
    }

    #[test]
    fn what_waits_for_a_script_can_be_let_go_of_and_yet_there_is_a_rest() {
        let mut wakes = Debouncer::default();
        for number in 0..10 {
            wakes.release(&"all");
            wakes.command("all", at(number * 1000));
            assert_eq!(wakes.begin(at(number * 1000)), ["all"]);
            wakes.release(&"all");
            wakes.command("all", at(number * 1000 + 1));
            assert_eq!(wakes.next(), Some(at(number * 1000) + REST));
        }
    }

    #[test]
    fn one_repository_waits_for_no_other() {
        let mut wakes = Debouncer::default();
        wakes.command("slow", at(0));
        assert_eq!(wakes.begin(at(0)), ["slow"]);
        wakes.command("spog", at(1));
        assert_eq!(wakes.begin(at(1)), ["spog"]);
    }

    #[test]
    fn after_a_pass_that_found_nothing_there_is_a_rest() {
        let mut wakes = Debouncer::default();
        wakes.command("spog", at(0));
        wakes.begin(at(0));
        wakes.ended(&"spog", PassOutcome::Nothing, at(50));
        wakes.command("spog", at(60));
        assert_eq!(wakes.next(), Some(at(50) + REST));
        assert!(wakes.begin(at(60)).is_empty());
        assert_eq!(wakes.begin(at(50) + REST), ["spog"]);
    }
}
