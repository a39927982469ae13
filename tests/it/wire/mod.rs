//! The wire: remotes over https, ssh and git's own protocol, on the real servers of
//! [`servers`](crate::servers). Here is what its modules share.

mod branches;
mod credentials;
mod daemon;
mod edges;
mod faults;
mod formats;
mod https;
mod isolation;
mod leniency;
mod limits;
mod mirrors;
mod mitm_proxy;
mod one_request;
mod own_certificate;
mod password_command;
mod redirects;
mod refusals;
mod relay;
mod reporting;
mod servers_selftest;
mod ssh;
mod system_bundle;
mod warm;

use std::fmt::Write;
use std::fs;
use std::time::{Duration, Instant};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};
use crate::servers::Https;

/// A machine with clones of `names`, each acted upon.
fn acted(names: &[&str]) -> Sandbox {
    let machine = Sandbox::new();
    for name in names {
        machine.serve(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.tick().ok();
    for name in names {
        assert_eq!(machine.lastaction(name), Some(machine.head(name)));
    }
    machine
}

/// From now on the machine pulls each repository from its URL; `defaults` are lines of
/// `[defaults]`.
fn pull_from(machine: &Sandbox, defaults: &str, urls: &[(&str, String)]) {
    let mut toml = format!("[defaults]\n{defaults}\n");
    for (name, url) in urls {
        let _ = write!(toml, "[repo.{name}]\nurl = {url:?}\n");
    }
    machine.configure(&toml);
}

/// The line that makes the machine trust `server`.
fn trusting(server: &Https) -> String {
    format!("ca_file = {:?}\n", server.ca_file())
}

/// Why `name` is not better, as `status` says it.
#[track_caller]
fn reason(machine: &Sandbox, name: &str) -> String {
    machine.row(name)["reason"].as_str().unwrap_or_default().to_owned()
}

/// A new revision that says `word`; it is returned.
fn news(machine: &Sandbox, name: &str, word: &str) -> String {
    machine.push(name, &[("page", word)])
}

/// One tick and how long it took.
fn timed_tick(machine: &Sandbox) -> (Ran, Duration) {
    let start = Instant::now();
    let ran = machine.tick();
    (ran, start.elapsed())
}

/// What `tick` gives while the configuration's `network_timeout` is two seconds. Only a tick that must give up
/// a server has so little: on a busy machine, a healthy one may need more.
fn with_little_time<T>(machine: &Sandbox, tick: impl FnOnce() -> T) -> T {
    let file = machine.root().join(".pmpy/agent.toml");
    let toml = fs::read_to_string(&file).unwrap();
    let hasty = toml.replacen("[defaults]\n", "[defaults]\nnetwork_timeout = \"2s\"\n", 1);
    assert_ne!(toml, hasty, "it has no defaults");
    fs::write(&file, hasty).unwrap();
    let given = tick();
    fs::write(&file, toml).unwrap();
    given
}

/// Ticks until `name` is at `revision`; panics when it is not after a few.
#[track_caller]
fn converges(machine: &Sandbox, name: &str, revision: &str) {
    for _ in 0..3 {
        machine.tick();
        if machine.lastaction(name).as_deref() == Some(revision) {
            assert_eq!(machine.differences(name), "");
            machine.git(&machine.clone_of(name), &["fsck", "--full", "--strict"]);
            return;
        }
    }
    panic!("{name} did not come to {revision}: {:#}", machine.row(name));
}
