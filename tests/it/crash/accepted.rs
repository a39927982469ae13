//! A rewritten branch that a person accepted, and a worker that dies while it deploys that.

use super::published::Layout;
use super::{CrashSetup, NAME, TICK};
use crate::sandbox::wait_until;

/// The calls that give a file its name or take it.
const STEPS: [&str; 7] =
    ["rename", "renameat", "renameat2", "unlink", "unlinkat", "link", "linkat"];

#[test]
fn a_rewritten_branch_that_was_accepted_is_accepted_whatever_kills_the_worker() {
    for layout in [None, Some(Layout::Checkout)] {
        let mut setup = CrashSetup::of(layout);
        setup.push();
        setup.machine.tick().ok();
        let mut points = 0;
        for call in STEPS {
            for nth in 1.. {
                let machine = &setup.machine;
                machine.git(&machine.desk(NAME), &["reset", "--quiet", "--hard", "HEAD~1"]);
                let revision = setup.push();
                let machine = &setup.machine;
                machine.agent(&TICK);
                assert_eq!(machine.state(NAME), "rewritten");
                let accept = ["worker", NAME, "--trigger", "manual", "--accept", &revision];
                let hit = setup.killed(&[call], nth, &accept);

                wait_until("the script has ended", || machine.state(NAME) != "acting");
                machine.agent(&["tick", NAME, "--trigger", "cron"]);
                let what = format!("killed at {call} number {nth}: {:#}", machine.row(NAME));
                if machine.state(NAME) == "rewritten" {
                    // The death came before it was written down; a person says it again.
                    assert_ne!(machine.lastaction(NAME).as_ref(), Some(&revision), "{what}");
                    machine.agent(&["accept", NAME, &revision]).ok();
                }
                assert_eq!(machine.state(NAME), "current", "{what}");
                let findings = setup.findings(&revision);
                assert!(findings.is_empty(), "{what}\n{}", findings.join("\n"));
                if !hit {
                    break;
                }
                points += 1;
            }
        }
        println!("accepted, {}: points={points}", layout.map_or("worktree", |_| "site"));
        assert!(points >= 20, "only {points} points");
    }
}
