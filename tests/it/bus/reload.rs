//! `agent listen` that reads its configuration anew: what it had said and heard before is not lost, and
//! the broker of before has no more say. And what comes while something else is awaited.

use std::fs;
use std::io::Read;
use std::net::TcpListener;

use rustix::process::Signal;

use super::listen::{applies, configure, settles};
use super::{message, publish};
use crate::listen::{Listener, WAITS_FOR_GO};
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};
use crate::servers::{Behaviour, Proxy};
use crate::web::{self, SECRET, Web};

/// What `agent.toml` says of web hooks.
fn hears_hooks(machine: &Sandbox) -> String {
    web::put_secret(machine, &format!("{SECRET}\n"));
    let configured = web::configured(machine, "");
    configured[configured.find("[webhook]").unwrap()..].to_owned()
}

fn reloads(listener: &Listener, times: usize) {
    listener.signal(Signal::HUP);
    listener.logs_times("configuration reloaded", times);
}

#[test]
fn after_a_reload_the_broker_of_before_has_no_more_say() {
    for kind in KINDS {
        let broker = Broker::shared(kind);
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let hole = TcpListener::bind("127.0.0.1:0").unwrap();
        let old = format!("stomp://{}", hole.local_addr().unwrap());
        let hooks = hears_hooks(&machine);
        configure(&machine, ODD, std::slice::from_ref(&old), &hooks);
        let listener = Listener::start(&machine);
        let (mut taken, _) = hole.accept().unwrap();
        configure(&machine, ODD, &[broker.url()], &hooks);
        reloads(&listener, 1);
        listener.logs("listening on");
        // It waits for an answer, gives up, and has nobody to tell.
        taken.read_to_end(&mut Vec::new()).unwrap();
        wait_until("the session of before is over", || listener.threads("bus") == 1);
        let web = Web::of(&listener);
        assert_eq!(web.metric("pmpy_bus_up"), 1.0, "{}", web.get("/metrics").body);
        assert!(web.get("/metrics").body.contains(&broker.url()));
        let log = listener.log();
        // The line that says what is listened to at the start names it, and no other one.
        let reported = log.lines().filter(|line| line.contains(&old) && !line.ends_with("; up"));
        assert_eq!(reported.count(), 0, "{log}");
    }
}

#[test]
fn a_reload_that_changes_nothing_about_the_bus_keeps_its_session() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let topic = format!("test.kept.{kind:?}");
        let more = |bus: &str| {
            let hooks = hears_hooks(&machine);
            format!(
                "listen_topic = {topic:?}\nreport_topic = \"test.kept.told\"\n{bus}{hooks}\
                 [repo.ops]\npoll = false\n"
            )
        };
        configure(&machine, ODD, &[broker.url()], &more(""));
        machine.agent(&["tick", "ops"]).ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let web = Web::of(&listener);
        let acts = |page: &str| {
            let revision = machine.push("ops", &[("page", page)]);
            publish(&broker.url(), dir.path(), &message(&topic, "[ops] refs/heads/main", ""));
            applies(&machine, "ops", &revision);
        };
        acts("before");
        // That it begins and that it ended.
        wait_until("it is told", || web.metric("pmpy_bus_sent_total") == 2.0);
        configure(&machine, ODD, &[broker.url()], &more("spread = \"1s\"\n"));
        reloads(&listener, 1);
        acts("after");
        wait_until("it is told", || web.metric("pmpy_bus_sent_total") == 4.0);
        assert_eq!(listener.log().matches("listening on").count(), 1, "{}", listener.log());
    }
}

#[test]
fn a_reload_that_changes_the_topics_continues_counting() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let more = |topics: &[String]| {
            let hooks = hears_hooks(&machine);
            format!("listen_topic = {topics:?}\nreport_topic = \"test.counted\"\n{hooks}")
        };
        // In the order of the alphabet, in which topics are numbered.
        let topics = ["a", "b"].map(|name| format!("test.counted.{name}.{kind:?}"));
        configure(&machine, ODD, &[broker.url()], &more(&topics[1..]));
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let web = Web::of(&listener);
        let acts = |topic: &str| {
            let revision = machine.push("ops", &[("page", topic)]);
            publish(&broker.url(), dir.path(), &message(topic, "[ops] refs/heads/main", ""));
            applies(&machine, "ops", &revision);
        };
        acts(&topics[1]);
        wait_until("it is told", || web.metric("pmpy_bus_sent_total") == 2.0);
        configure(&machine, ODD, &[broker.url()], &more(&topics));
        reloads(&listener, 1);
        listener.logs_times("listening on", 2);
        settles(&machine, &listener);
        topics.iter().for_each(|topic| acts(topic));
        wait_until("it is told", || web.metric("pmpy_bus_sent_total") == 6.0);
        assert_eq!(web.metric("pmpy_bus_dropped_total"), 0.0);
    }
}

#[test]
fn a_web_hook_does_not_wait_for_the_spread_of_a_message() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let topic = format!("test.hurry.{kind:?}");
        let hooks = hears_hooks(&machine);
        let more = format!("listen_topic = {topic:?}\nspread = \"365d\"\n{hooks}");
        configure(&machine, ODD, &[broker.url()], &more);
        machine.tick().ok();
        let listener = Listener::start(&machine);
        // The pass that follows the connection waits for its part of a year.
        listener.logs("listening on");
        listener.logs("a tick is over");
        let web = Web::of(&listener);
        let revision = machine.push("ops", &[("page", "new")]);
        publish(&broker.url(), dir.path(), &message(&topic, "[ops] refs/heads/main", ""));
        wait_until("it is heard", || web.metric("pmpy_messages_total{result=\"known\"}") == 1.0);
        assert_eq!(web.push("ops").status, 202);
        applies(&machine, "ops", &revision);
    }
}

#[test]
fn after_a_loss_no_repository_waits_for_the_script_of_another() {
    for kind in KINDS {
        let line = Proxy::to(Broker::shared(kind).port());
        let (machine, listener) = {
            let machine = Sandbox::with("slow", &[("work.sh", WAITS_FOR_GO)]);
            machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS)]);
            machine.clone_to_root("ops");
            let topic = "listen_topic = \"test.loss\"\n";
            configure(&machine, ODD, &[format!("stomp://127.0.0.1:{}", line.port())], topic);
            fs::write(machine.path("go"), "").unwrap();
            machine.tick().ok();
            fs::remove_file(machine.path("go")).unwrap();
            let listener = Listener::start(&machine);
            settles(&machine, &listener);
            (machine, listener)
        };
        let before = machine.lastaction("slow");
        let misses = |name: &str, times: usize| {
            line.behave(Behaviour::ResetAfter(0));
            line.cut();
            let revision = machine.push(name, &[("page", "new")]);
            line.behave(Behaviour::Faithful);
            listener.logs_times("listening on", times);
            revision
        };
        misses("slow", 2);
        wait_until("its script runs", || machine.currentaction("slow").exists());
        let revision = misses("ops", 3);
        applies(&machine, "ops", &revision);
        assert_eq!(machine.lastaction("slow"), before);
        fs::write(machine.path("go"), "").unwrap();
        wait_until("it ends", || machine.lastaction("slow") != before);
    }
}
