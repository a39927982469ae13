//! An agent that stays up, woken by its timer and the bus, and the cron line beside it on the same
//! machine.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use super::listen::{announces, configure};
use crate::listen::Listener;
use crate::sandbox::{Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};

/// A `work.sh` that is long enough to be run into.
const TAKES_A_WHILE: &str = "\
echo \"start $AGENT_REVISION $AGENT_TRIGGER\" >> \"$AGENT_ROOT/../runs\"
sleep 0.3
echo \"end $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"
";

/// Ends a loop when the test is over, however it ends.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn cron_and_an_agent_that_listens_share_the_work_and_do_none_of_it_twice() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("beside-{kind:?}"));
        let machine = Sandbox::with(&name, &[("work.sh", TAKES_A_WHILE)]);
        configure(&machine, ODD, &[broker.url()], "");
        let configured = fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
        machine.configure(&configured.replace("1h", "1s"));
        announces(&machine, &name, &[broker.url()]);
        let listener = Listener::start(&machine);
        listener.logs("listening on");
        let (over, ticks) = (AtomicBool::new(false), AtomicU64::new(0));
        let last = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    machine.tick().ok();
                    ticks.fetch_add(1, Relaxed);
                }
            });
            let _ends = Ends(&over);
            let mut last = String::new();
            for number in 0..10 {
                last = machine.push(&name, &[("page", &number.to_string())]);
                // Some come during an action, and some when all is quiet.
                let acted = || machine.lastaction(&name).as_ref() == Some(&last);
                if number % 3 == 0 {
                    wait_until("it acts", acted);
                }
            }
            wait_until("the last one is acted upon", || {
                machine.lastaction(&name).as_ref() == Some(&last)
            });
            last
        });
        wait_until("the status says so", || machine.state(&name) == "current");
        assert_eq!(machine.head(&name), last);
        let runs = machine.runs();
        let mut revisions = Vec::new();
        for pair in runs.chunks(2) {
            let [start, end] = pair else { panic!("one was cut off: {runs:?}") };
            let words: Vec<_> = start.split(' ').collect();
            assert_eq!(*end, format!("end {}", words[1]), "two at a time: {runs:?}");
            revisions.push(words[1]);
        }
        println!("{kind:?}: {} ticks of cron beside it, {runs:?}", ticks.load(Relaxed));
        let count = revisions.len();
        revisions.sort_unstable();
        revisions.dedup();
        assert_eq!(revisions.len(), count, "one twice: {runs:?}");
        assert!(listener.log().contains("trigger=bus"), "it was woken as well");
    }
}
