//! What is reported is what was done on the machine, whoever did it, and each of it once.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;

use super::listen::{configure, machine, settles};
use super::{Listening, brokers};
use crate::listen::{Listener, WAITS_FOR_GO};
use crate::sandbox::{Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};

/// The next report: which revision, and how it stands with it.
#[track_caller]
fn next(people: &Listening) -> (String, String) {
    let report: Value = serde_json::from_slice(&people.message().body).unwrap();
    let said = |key: &str| report[key].as_str().unwrap().to_owned();
    (said("revision"), said("state"))
}

#[test]
fn an_action_that_outlives_the_agent_is_reported_by_the_next_one() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let printed = format!("future.events.outlived.{kind:?}");
        let people = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &[&printed]);
        people.up();
        let machine = Sandbox::with("ops", &[("work.sh", WAITS_FOR_GO)]);
        configure(&machine, ODD, &[broker.url()], &format!("report_topic = {printed:?}\n"));
        let configured = fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
        machine.configure(&configured.replace("1h", "1s"));
        let revision = machine.git(&machine.desk("ops"), &["rev-parse", "HEAD"]);
        let mut listener = Listener::start(&machine);
        assert_eq!(next(&people), (revision.clone(), "started".to_owned()));
        wait_until("the script runs", || !machine.runs().is_empty());
        listener.signal(Signal::TERM);
        assert!(listener.end().success());
        let listener = Listener::start(&machine);
        listener.logs("listening on");
        fs::write(machine.path("go"), "").unwrap();
        assert_eq!(next(&people), (revision, "succeeded".to_owned()), "{kind:?}");
    }
}

#[test]
fn what_cron_and_people_did_is_reported_once_and_nothing_that_was_before() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let printed = format!("future.events.others.{kind:?}");
        let people = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &[&printed]);
        people.up();
        let (machine, listener) =
            machine("ops", &[broker.url()], &format!("report_topic = {printed:?}\n"));
        settles(&machine, &listener);
        let before = machine.lastaction("ops").unwrap();
        let revision = machine.push("ops", &[("page", "new")]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops").as_ref(), Some(&revision));
        machine.agent(&["redo", "ops"]).ok();
        machine.agent(&["rollback", "ops"]).ok();
        // None of its own ticks has anything to do.
        let looks = || {
            let ticks = || listener.log().matches("a tick is over").count();
            let seen = ticks();
            listener.signal(Signal::HUP);
            wait_until("it has looked", || ticks() > seen);
        };
        looks();
        for revision in [&revision, &revision, &before] {
            assert_eq!(next(&people), (revision.clone(), "succeeded".to_owned()), "{kind:?}");
        }
        looks();
        let work = "exit 3";
        machine.agent(&["unhold", "ops"]).ok();
        let failed = machine.push("ops", &[("work.sh", work)]);
        machine.tick().exits(1);
        looks();
        assert_eq!(next(&people), (failed, "failed".to_owned()), "nothing came twice");
    }
}
