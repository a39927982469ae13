//! What messages claim is nothing to the agent: whoever wrote them, whatever they say and however often,
//! they make it look, and the ref decides.

use std::fs;
use std::time::Instant;

use pmpy::system::host::since_boot;
use pmpy::system::stomp::BrokerConnection;

use super::listen::{applies, configure, machine, settles};
use super::{PATIENCE, brokers, message, publish};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};
use crate::servers::{Daemon, Proxy};

const NONE: &str = "0000000000000000000000000000000000000000";

/// A message as the hooks write it, that claims what it likes.
fn claims(repo: &str, old: &str, new: &str, name: &str) -> String {
    format!("repo: {repo}\noldrev: {old}\nnewrev: {new}\nrefname: {name}\n commit {new}\n")
}

#[test]
fn a_flood_about_one_repository_is_a_pass_a_second_at_most() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let topic = format!("test.passes.{kind:?}");
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        // Whoever looks is counted on the way.
        let daemon = Daemon::of(&machine);
        let line = Proxy::to(daemon.port());
        let url = line.url_of(&daemon.url("ops"));
        machine.git(&machine.clone_of("ops"), &["remote", "set-url", "origin", &url]);
        let more = format!("listen_topic = {topic:?}\n[repo.ops]\ninsecure = true\n");
        configure(&machine, ODD, &[broker.url()], &more);
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        line.forget_counts();
        let everything = brokers(&[broker.url()], dir.path(), ODD);
        let deadline = since_boot() + PATIENCE;
        let mut connection =
            BrokerConnection::open(&everything.list[0], &everything, deadline).unwrap();
        let one = message(&topic, "[ops] refs/heads/main", "repo: ops\n");
        let start = Instant::now();
        connection.publish(vec![one.clone(); 5_000], deadline).unwrap();
        let revision = machine.push("ops", &[("page", "new")]);
        connection.publish(vec![one; 5_000], deadline).unwrap();
        connection.disconnect();
        applies(&machine, "ops", &revision);
        settles(&machine, &listener);
        let (looks, seconds) = (line.counts().connections, start.elapsed().as_secs());
        println!("{kind:?}: 10,000 messages, {looks} connections in {seconds} s");
        // Each pass asks once, and the one that finds news asks and fetches.
        assert!(looks <= 2 * (seconds + 3), "{looks} in {seconds} s");
        assert_eq!(machine.runs().len(), 4, "each revision once: {:?}", machine.runs());
    }
}

#[test]
fn duplicated_reordered_and_forged_messages_are_nothing_to_a_ref() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let (name, topic) = ("ops", format!("test.forged.{kind:?}"));
        let (machine, listener) =
            machine(name, &[broker.url()], &format!("listen_topic = {topic:?}\n"));
        settles(&machine, &listener);
        let first = machine.lastaction(name).unwrap();
        let second = machine.push(name, &[("page", "2")]);
        let third = machine.push(name, &[("page", "3")]);
        let branch = "refs/heads/main";
        let nowhere = "1234567890123456789012345678901234567890";
        // The newest is told first, then the older ones, each twice, then what never was.
        for (old, new) in [
            (&*second, &*third),
            (&*first, &*second),
            (&*second, &*third),
            (&*first, &*second),
            (&*third, &*first),
            (&*third, nowhere),
            (&*third, NONE),
        ] {
            let subject = format!("[{name}] {branch} {new}");
            let body = claims(name, old, new, branch);
            publish(&broker.url(), dir.path(), &message(&topic, &subject, body));
        }
        applies(&machine, name, &third);
        settles(&machine, &listener);
        assert_eq!(machine.lastaction(name), Some(third.clone()));
        assert_eq!(machine.head(name), third);
        let ends = machine.runs().iter().filter(|run| run.starts_with("end")).count();
        assert!(ends <= 3, "no revision twice: {:?}", machine.runs());
        assert_eq!(machine.state(name), "current");
    }
}

#[test]
fn a_forged_delete_removes_nothing() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let topic = format!("test.deleted.{kind:?}");
        let machine = Sandbox::with("sites", &[("page", "old")]);
        let target = machine.path("target");
        let more = format!(
            "listen_topic = {topic:?}\n[repo.sites]\nmode = \"branches\"\ntarget = {target:?}\n"
        );
        let desk = machine.desk("sites");
        machine.git(&desk, &["push", "--quiet", "origin", "HEAD:staging"]);
        configure(&machine, ODD, &[broker.url()], &more);
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let tip = machine.git(&desk, &["rev-parse", "HEAD"]);
        for name in ["refs/heads/staging", "refs/heads/main", "refs/heads/../..", "/"] {
            let body = claims("sites", &tip, NONE, name);
            publish(&broker.url(), dir.path(), &message(&topic, "", body));
        }
        machine.push("sites", &[("page", "new")]);
        publish(&broker.url(), dir.path(), &message(&topic, "[sites] x", ""));
        let page = |branch: &str| fs::read_to_string(target.join(branch).join("page")).unwrap();
        wait_until("what was pushed is there", || page("main") == "new");
        assert_eq!(page("staging"), "old");
        // A real one does, and its message need not even say so.
        machine.git(&desk, &["push", "--quiet", "origin", ":staging"]);
        machine.answered_twice("sites", "refs/heads/staging");
        publish(&broker.url(), dir.path(), &message(&topic, "[sites] x", ""));
        wait_until("what was deleted is gone", || !target.join("staging").exists());
        assert_eq!(page("main"), "new");
    }
}

#[test]
fn a_hundred_thousand_strangers_and_twenty_megabytes_cost_little() {
    for kind in KINDS {
        // One of its own: others would have to wait.
        let (broker, dir) = (Broker::start(kind), tempfile::tempdir().unwrap());
        let topic = format!("test.strangers.{kind:?}");
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        configure(&machine, ODD, &[broker.url()], &format!("listen_topic = {topic:?}\n"));
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let everything = brokers(&[broker.url()], dir.path(), ODD);
        let deadline = since_boot() + 3 * PATIENCE;
        let mut connection =
            BrokerConnection::open(&everything.list[0], &everything, deadline).unwrap();
        for round in 0..20 {
            let strangers = (0..5_000).map(|number| {
                let name = format!("stranger-{round}-{number}");
                message(&topic, &format!("[{name}] refs/heads/main"), format!("repo: {name}\n"))
            });
            assert_eq!(connection.publish(strangers.collect(), deadline).unwrap(), 0);
        }
        let huge = message(&topic, "[stranger] x", vec![b'x'; 20 << 20]);
        assert_eq!(connection.publish(vec![huge], deadline).unwrap(), 0);
        let revision = machine.push("ops", &[("page", "new")]);
        let frame =
            message(&topic, "[ops] refs/heads/main", b"repo: ops\n\xff\xfe\x1b[2J".to_vec());
        connection.publish(vec![frame], deadline).unwrap();
        applies(&machine, "ops", &revision);
        assert_eq!(listener.log().matches("unknown repositories").count(), 1, "{}", listener.log());
        assert_eq!(listener.log().matches("listening on").count(), 1, "{}", listener.log());
        let most = listener.most_memory();
        println!("{kind:?}: {} MB at most", most >> 20);
        assert!(most < 50 << 20, "{most} bytes");
    }
}

#[test]
fn reports_that_no_broker_takes_are_dropped_counted_and_reported() {
    let machine = Sandbox::with("sites", &[("page", "old")]);
    let hole = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("stomp://{}", hole.local_addr().unwrap());
    let target = machine.path("target");
    let more = format!(
        "report_topic = \"future.events.agent\"\n\
         [repo.sites]\nmode = \"branches\"\ntarget = {target:?}\n"
    );
    let desk = machine.desk("sites");
    let many: Vec<String> = (0..150).map(|number| format!("HEAD:refs/heads/b{number}")).collect();
    let refs: Vec<&str> = many.iter().map(String::as_str).collect();
    machine.git(&desk, &[&["push", "--quiet", "origin"], &*refs].concat());
    configure(&machine, ODD, &[url], &more);
    let listener = Listener::start(&machine);
    // Each part has the patience of one wait: all of them may take minutes on a busy machine.
    for part in (15..=150).step_by(15) {
        let there = || fs::read_dir(&target).map_or(0, |entries| entries.flatten().count());
        wait_until(&format!("{part} are published"), || there() >= part);
    }
    // A hundred and fifty begin and end, and 256 reports wait.
    listener.logs("reports that could not be sent: ");
    assert_eq!(listener.log().matches("reports that").count(), 1, "{}", listener.log());
}
