//! `agent listen` on real brokers: a message makes it look at once, whatever else it says, and a bus
//! that is lost costs nothing but the wait for the timer.

use std::fs;
use std::time::{Duration, Instant};

use pmpy::domain::bus::stomp::StompFrame;

use super::{Listening, brokers, hook, message, publish};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::brokers::{AGENT, Broker, KINDS, ODD, login_file};
use crate::servers::{Behaviour, Proxy};
use crate::users;

/// A machine with one clone that has been acted upon, and an agent on it that listens; its timer does
/// not call during a test.
pub(super) fn machine(name: &str, urls: &[String], more: &str) -> (Sandbox, Listener) {
    machine_as(ODD, name, urls, more)
}

pub(super) fn machine_as(
    login: &str,
    name: &str,
    urls: &[String],
    more: &str,
) -> (Sandbox, Listener) {
    let machine = Sandbox::with(name, &[("work.sh", NOTES_ITS_RUNS)]);
    configure(&machine, login, urls, more);
    machine.tick().ok();
    let listener = Listener::start(&machine);
    (machine, listener)
}

pub(super) fn configure(machine: &Sandbox, login: &str, urls: &[String], more: &str) {
    let login = login_file(&machine.path(""), login);
    machine.configure(&format!(
        "[listen]\nevery = \"1h\"\n[bus]\nbrokers = {urls:?}\nlogin_file = {login:?}\n\
         {more}"
    ));
}

/// News of `name`, as the oldest hooks have written it.
fn news(name: &str) -> StompFrame {
    message("future.git.commits", &format!("[{name}] refs/heads/main"), format!("repo: {name}\n"))
}

#[track_caller]
pub(super) fn applies(machine: &Sandbox, name: &str, revision: &str) {
    wait_until("it acts", || machine.lastaction(name).as_deref() == Some(revision));
}

/// Waits until it listens, and every pass is over that this and what it has heard since made it begin.
#[track_caller]
pub(super) fn settles(machine: &Sandbox, listener: &Listener) {
    listener.logs("listening on");
    wait_until("nothing is due", || {
        let log = listener.log();
        let quiet = log.rfind("nothing is due before the timer");
        let begun =
            ["listening on", "configuration reloaded", "a tick is requested", "a tick begins"];
        begun.iter().all(|begun| log.rfind(begun) < quiet)
    });
    assert!(machine.path("root/.pmpy/last-tick").exists());
}

/// How many passes it has begun.
fn passes(listener: &Listener) -> usize {
    listener.log().matches("a tick begins").count()
}

#[test]
fn a_message_applies_a_push_at_once() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let name = format!("at-once-{kind:?}");
        let (machine, listener) = machine(&name, &[broker.url()], "");
        settles(&machine, &listener);
        let revision = machine.push(&name, &[("page", "new")]);
        let start = Instant::now();
        publish(&broker.url(), dir.path(), &news(&name));
        // The timer calls once an hour.
        applies(&machine, &name, &revision);
        println!("{kind:?}: acted upon after {:?}", start.elapsed());
        wait_until("the status says so", || machine.state(&name) == "current");
        assert_eq!(machine.row(&name)["acted"]["trigger"], "bus");
    }
}

#[test]
fn a_queue_is_warned_of_when_it_is_listened_to() {
    let machine = Sandbox::new();
    machine.configure(
        "[bus]\nbrokers = \"stomp://127.0.0.1:1\"\nlisten_topic = [\"a\", \"/queue/b\"]\n",
    );
    let listener = Listener::start(&machine);
    listener
        .logs("/queue/b is a queue: of several machines that listen, only one gets each message");
}

#[test]
fn messages_about_nothing_of_ours_are_one_line_and_no_tick() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let topic = format!("test.unknown.{kind:?}");
        let reached = format!("listen_topic = {topic:?}\n");
        let (machine, listener) = machine("ops", &[broker.url()], &reached);
        settles(&machine, &listener);
        let before = passes(&listener);
        for (subject, body) in
            [("[../ops] x", ""), ("", "repo: \u{1b}[2J\n"), ("[OPS] x", ""), ("none", "none")]
        {
            publish(&broker.url(), dir.path(), &message(&topic, subject, body));
        }
        publish(&broker.url(), dir.path(), &news("ops"));
        listener.logs("messages about unknown repositories: 1, ");
        publish(&broker.url(), dir.path(), &message(&topic, "[ops] refs/heads/main", ""));
        // It came last, and is all that was acted upon.
        wait_until("the one for us is seen", || passes(&listener) > before);
        settles(&machine, &listener);
        assert_eq!(passes(&listener), before + 1, "{}", listener.log());
        assert_eq!(listener.log().matches("unknown repositories").count(), 1, "{}", listener.log());
        assert!(!listener.log().contains('\u{1b}'));
    }
}

#[test]
fn a_message_about_a_ref_that_is_not_followed_is_no_tick() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let topic = format!("test.ref.{kind:?}");
        let more = format!("listen_topic = {topic:?}\n[repo.ops]\nbranch = \"main\"\n");
        let (machine, listener) = machine("ops", &[broker.url()], &more);
        settles(&machine, &listener);
        let before = passes(&listener);
        for name in ["refs/heads/side", "refs/tags/v1", "refs/notes/commits"] {
            let body = format!("repo: ops\nrefname: {name}\n");
            publish(&broker.url(), dir.path(), &message(&topic, "", body));
        }
        let revision = machine.push("ops", &[("page", "new")]);
        let body = "repo: ops\nrefname: refs/heads/main\n";
        publish(&broker.url(), dir.path(), &message(&topic, "", body));
        applies(&machine, "ops", &revision);
        settles(&machine, &listener);
        assert_eq!(passes(&listener), before + 1, "{}", listener.log());
    }
}

#[test]
fn a_broker_that_was_killed_is_found_again_and_what_was_missed_is_made_up_for() {
    for kind in KINDS {
        let mut broker = Broker::start(kind);
        let (machine, listener) = machine("ops", &[broker.url()], "");
        settles(&machine, &listener);
        broker.kill();
        listener.logs("no message bus: ");
        let revision = machine.push("ops", &[("page", "new")]);
        broker.start_again();
        applies(&machine, "ops", &revision);
        let dir = tempfile::tempdir().unwrap();
        let revision = machine.push("ops", &[("page", "newer")]);
        publish(&broker.url(), dir.path(), &news("ops"));
        applies(&machine, "ops", &revision);
    }
}

#[test]
fn a_broker_that_hangs_is_reported_in_a_line_and_found_again_when_it_resumes() {
    for kind in KINDS {
        let broker = Broker::start(kind);
        let (machine, listener) = machine("ops", &[broker.url()], "heartbeat = \"2s\"\n");
        settles(&machine, &listener);
        broker.hang();
        listener.logs("it hangs: 3 heart-beats did not come");
        let revision = machine.push("ops", &[("page", "new")]);
        broker.resume();
        applies(&machine, "ops", &revision);
    }
}

#[test]
fn with_every_broker_down_the_timer_continues_and_what_follows_is_heard_again() {
    let lines = KINDS.map(|kind| Proxy::to(Broker::shared(kind).port()));
    let urls = lines.each_ref().map(|line| format!("stomp://127.0.0.1:{}", line.port()));
    let topic = "listen_topic = \"test.down\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    configure(&machine, ODD, &urls, topic);
    let configured = fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
    machine.configure(&configured.replace("1h", "1s"));
    let listener = Listener::start(&machine);
    listener.logs("listening on");
    lines.iter().for_each(|line| line.behave(Behaviour::ResetAfter(0)));
    lines.iter().for_each(Proxy::cut);
    listener.logs("no message bus: ");
    let mut revision = String::new();
    for number in 0..4 {
        revision = machine.push("ops", &[("page", &number.to_string())]);
        applies(&machine, "ops", &revision);
    }
    // From now on only what a bus says counts.
    machine.configure(&configured);
    listener.signal(rustix::process::Signal::HUP);
    listener.logs("configuration reloaded");
    settles(&machine, &listener);
    let missed = machine.push("ops", &[("page", "missed")]);
    assert_eq!(machine.lastaction("ops"), Some(revision));
    lines.iter().for_each(|line| line.behave(Behaviour::Faithful));
    applies(&machine, "ops", &missed);
    let heard = machine.push("ops", &[("page", "heard")]);
    let dir = tempfile::tempdir().unwrap();
    // Whichever of the two it listens on.
    for kind in KINDS {
        let message = message("test.down", "[ops] refs/heads/main", "repo: ops\n");
        publish(&Broker::shared(kind).url(), dir.path(), &message);
    }
    applies(&machine, "ops", &heard);
    assert!(listener.log().matches("no message bus").count() < 10, "{}", listener.log());
}

#[test]
fn a_message_is_applied_within_the_spread() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let name = format!("spread-{kind:?}");
        let (machine, listener) = machine(&name, &[broker.url()], "spread = \"2s\"\n");
        let mut all = Vec::new();
        for number in 0..5 {
            settles(&machine, &listener);
            let before = passes(&listener);
            let revision = machine.push(&name, &[("page", &number.to_string())]);
            let start = Instant::now();
            publish(&broker.url(), dir.path(), &news(&name));
            wait_until("a pass begins", || passes(&listener) > before);
            let waited = start.elapsed();
            let log = listener.log();
            let wish = log.lines().rfind(|line| line.contains("a tick is requested")).unwrap();
            let (_, after) = wish.split_once("after_ms=").unwrap();
            let after: u64 = after.split(' ').next().unwrap().parse().unwrap();
            assert!(after < 2000, "{wish}");
            assert!(waited >= Duration::from_millis(after), "{waited:?}: {wish}");
            all.push(after);
            applies(&machine, &name, &revision);
        }
        println!("{kind:?}: {all:?} ms");
        // Two waits may be the same by chance, and all five hardly ever.
        assert!(
            all.iter().any(|after| *after != all[0]),
            "each message has a wait of its own: {all:?}"
        );
    }
}

#[test]
fn while_a_broker_answers_nothing_the_timer_continues() {
    for kind in KINDS {
        let line = Proxy::to(Broker::shared(kind).port());
        line.behave(Behaviour::BlackHole);
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        configure(&machine, ODD, &[format!("stomp://127.0.0.1:{}", line.port())], "");
        let configured = fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
        machine.configure(&configured.replace("1h", "1s"));
        let listener = Listener::start(&machine);
        listener.logs("it takes the connection and does not answer");
        let revision = machine.push("ops", &[("page", "new")]);
        applies(&machine, "ops", &revision);
        line.behave(Behaviour::Faithful);
        listener.logs("listening on");
        assert_eq!(listener.log().matches("no message bus").count(), 1, "{}", listener.log());
    }
}

/// A `post-receive` hook for `name` on the server: `agent notify` as it is documented.
pub(super) fn announces(machine: &Sandbox, name: &str, urls: &[String]) {
    hook::install(machine, name, hook::PLAIN, urls);
}

#[test]
fn from_the_push_over_the_action_to_the_report() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let (name, reported) = (format!("end-to-end-{kind:?}"), format!("future.events.{kind:?}"));
        let people = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &[&reported]);
        people.up();
        let (machine, listener) =
            machine_as(AGENT, &name, &[broker.url()], &format!("report_topic = {reported:?}\n"));
        settles(&machine, &listener);
        announces(&machine, &name, &[broker.url()]);
        let mut previous = machine.lastaction(&name).unwrap();
        for (work, state) in [(NOTES_ITS_RUNS, "succeeded"), ("exit 3", "failed")] {
            let revision = machine.push(&name, &[("work.sh", work), ("page", state)]);
            for state in ["started", state] {
                let heard = people.message();
                let json: serde_json::Value = serde_json::from_slice(&heard.body).unwrap();
                assert_eq!((&json["repo"], &json["state"]), (&name.as_str().into(), &state.into()));
                assert_eq!(json["revision"], revision.as_str());
                assert!(heard.header("subject").unwrap().contains(&name));
                assert_eq!(json["previous"], previous.as_str());
            }
            if state == "succeeded" {
                assert_eq!(machine.lastaction(&name).as_ref(), Some(&revision));
                previous = revision;
            }
        }
        let failing = || machine.state(&name) == "failing";
        wait_until("the status says so", failing);
        // A message is no person: what failed waits for its next try.
        settles(&machine, &listener);
        let (runs, before) = (machine.row(&name)["attempt"].clone(), passes(&listener));
        publish(&broker.url(), dir.path(), &news(&name));
        wait_until("a pass begins", || passes(&listener) > before);
        settles(&machine, &listener);
        assert_eq!(machine.row(&name)["attempt"], runs);
    }
}

#[test]
fn what_begins_and_ends_in_the_name_of_another_user_is_reported_as_well() {
    for kind in KINDS {
        let broker = Broker::shared(kind);
        let (topic, reported) =
            (format!("test.another.{kind:?}"), format!("test.another.told.{kind:?}"));
        let machine = users::machine("true\n");
        let topics = format!("listen_topic = {topic:?}\nreport_topic = {reported:?}\n");
        configure(&machine, ODD, &[broker.url()], &topics);
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let dir = tempfile::tempdir().unwrap();
        let people = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &[&reported]);
        people.up();
        let reported = |revision: &str, state: &str| {
            let json: serde_json::Value = serde_json::from_slice(&people.message().body).unwrap();
            assert_eq!((&json["state"], &json["revision"]), (&state.into(), &revision.into()));
        };
        let revision = users::push(&machine, &[("page", "new")]);
        publish(&broker.url(), dir.path(), &message(&topic, "[ops] refs/heads/main", ""));
        reported(&revision, "started");
        reported(&revision, "succeeded");
        // And what cron did there beside it.
        settles(&machine, &listener);
        let revision = users::push(&machine, &[("page", "newer")]);
        machine.tick().ok();
        listener.signal(rustix::process::Signal::HUP);
        reported(&revision, "succeeded");
    }
}

#[test]
fn a_repository_listens_to_its_own_topic_and_only_there() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let own = "[repo.tested]\npoll = false\ntopic_name = \"sites/tested\"\n\
                   listen_topic = \"test.tested\"\n";
        let (machine, listener) = machine("tested", &[broker.url()], own);
        settles(&machine, &listener);
        let revision = machine.push("tested", &[("page", "new")]);
        publish(&broker.url(), dir.path(), &news("tested"));
        publish(&broker.url(), dir.path(), &news("sites/tested"));
        listener.logs("unknown repositories");
        assert_ne!(machine.lastaction("tested").as_ref(), Some(&revision));
        publish(&broker.url(), dir.path(), &message("test.tested", "[sites/tested] x", ""));
        applies(&machine, "tested", &revision);
    }
}
