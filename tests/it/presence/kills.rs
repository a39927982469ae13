//! What publishes is killed at each call that changes a file or reaches the server; the next publication puts it right.

use std::fs;

use super::{
    git, machine, own_ref, pause_is_over, publication, publish_at, published, record, record_file,
};
use crate::sandbox::{Ran, text, wait_until};
use crate::servers::Https;

/// Calls of the process that publishes, and of no idle tick.
const CALLS: &str = "rename,renameat,renameat2,connect,sendto,fsync,ftruncate";

#[test]
fn killed_anywhere_it_goes_on_with_the_next_publication() {
    let machine = machine();
    let server = Https::of(&machine);
    publish_at(&machine, &server.url(super::STATUS), &format!("ca_file = {:?}", server.ca_file()));
    published(&machine);
    let trace = machine.path("trace");
    let mut kills = 0;
    for number in 1..40 {
        pause_is_over(&machine);
        let inject = format!("inject={CALLS}:signal=KILL:when={number}");
        let line = machine.agent_line(&["tick", "--trigger", "cron"]);
        let mut strace = machine.command("strace");
        strace.args(["-f", "-o", text(&trace), "-e", &format!("trace={CALLS}"), "-e", &inject]);
        // strace ends when all that it follows has ended.
        Ran::of(strace.args(line));
        let killed = fs::read_to_string(&trace).unwrap().contains("+++ killed by SIGKILL +++");
        let is_whole =
            serde_json::from_slice::<serde_json::Value>(&fs::read(record_file(&machine)).unwrap());
        assert!(is_whole.is_ok(), "after kill {number}");
        if !killed {
            break;
        }
        kills += 1;
        published(&machine);
        let record = record(&machine);
        assert!(record["twin_seen"].is_null(), "after kill {number}: {record:#}");
    }
    assert!(kills >= 3, "only {kills} kills");
    wait_until("no lock is left at the server", || {
        !machine.server(super::STATUS).join(format!("{}.lock", own_ref(&machine))).exists()
    });
    git(&machine, &["fsck", "--strict"]);
    let seq = publication(&machine)["seq"].as_u64().unwrap();
    assert!(seq > kills, "each counted");
}
