//! Another client of the brokers: Python's `stomp.py`, as it is. What it writes is understood here, and
//! what we write is understood there.

use std::fs;
use std::path::{Path, PathBuf};

use super::listen::{announces, applies, machine, settles};
use crate::sandbox::{Ran, Sandbox, text, wait_until};
use crate::servers::Running;
use crate::servers::brokers::{AGENT, Broker, HOOK, KINDS};

/// Where `tests/run` puts it.
const STOMP_PY: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/stomp.py");

/// Connects as `sys.argv` says; what follows there is left in `rest`.
const CONNECTED: &str = "\
import json, sys, threading, time
sys.path.insert(0, sys.argv[1])
import stomp
port, user, password, *rest = sys.argv[2:]
received = threading.Event()
class Told(stomp.ConnectionListener):
    def on_receipt(self, frame):
        print('up', flush=True)
        received.set()
    def on_message(self, frame):
        told = {'subject': frame.headers.get('subject'), 'body': frame.body}
        print(json.dumps(told), flush=True)
client = stomp.Connection12([('127.0.0.1', int(port))], vhost='/', heartbeats=(10000, 10000))
client.set_listener('', Told())
client.connect(user, password, wait=True)
";
const SENDS: &str = "\
subject = {'subject': rest[1]} if rest[1] else {}
client.send('/topic/' + rest[0], rest[2], headers={'receipt': 'sent', **subject})
if not received.wait(60): sys.exit('no receipt')
client.disconnect()
";
const LISTENS: &str = "\
for number, topic in enumerate(rest):
    client.subscribe('/topic/' + topic, id=str(number), ack='auto', headers={'receipt': topic})
time.sleep(600)
";

/// A Python program that does this with a connection to `broker`.
fn program(machine: &Sandbox, name: &str, does: &str) -> PathBuf {
    assert!(Path::new(STOMP_PY).exists(), "there is no {STOMP_PY} (tests/run installs it)");
    let file = machine.path(name);
    fs::write(&file, format!("{CONNECTED}{does}")).unwrap();
    file
}

/// Its command line, with who it is to the broker.
fn arguments<'a>(file: &'a Path, port: &'a str, login: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    let (user, password) = login.split_once(':').unwrap();
    [&[text(file), STOMP_PY, port, user, password], rest].concat()
}

/// The message of 2012, about another repository and another revision.
fn seed(repo: &str, old: &str, new: &str) -> (String, String) {
    (
        format!("[{repo}] refs/heads/main {new}"),
        format!(
            "repo: {repo}\noldrev: {old}\nnewrev: {new}\nrefname: refs/heads/main\n commit {new}\n\
             Author: Pat Pusher <pat@example.org>\nDate:   Wed Mar 14 11:55:15 2012 +0000\n\n    \
             bonkle\n\ndiff --git a/bonkle b/bonkle\nindex 1169e1c..48ee005 100644\n\
             --- a/bonkle\n+++ b/bonkle\n@@ -26,3 +26,4 @@ bonkle\n bonkle\n bonkle\n bonkle\n+bonkle\n"
        ),
    )
}

/// The same as it was printed in 2012, to be copied as it stands.
const SEED: &str = "\
[spog] refs/heads/master aa794ab6cc1a4a504fd908efc938c0f241557ad4
repo: spog
oldrev: dc01649eee870d1a9f051f046165890c4c5e197d
newrev: aa794ab6cc1a4a504fd908efc938c0f241557ad4
refname: refs/heads/master
 commit aa794ab6cc1a4a504fd908efc938c0f241557ad4
Author: John Hawkes-Reed <john.hawkes-reed@futurenet.com>
Date:   Wed Mar 14 11:55:15 2012 +0000

    bonkle

diff --git a/bonkle b/bonkle
index 1169e1c..48ee005 100644
--- a/bonkle
+++ b/bonkle
@@ -26,3 +26,4 @@ bonkle
 bonkle
 bonkle
 bonkle
+bonkle
";

#[test]
fn what_stomp_py_sends_wakes_the_agent() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("from-python-{kind:?}"));
        let (machine, listener) = machine(&name, &[broker.url()], "");
        settles(&machine, &listener);
        let old = machine.lastaction(&name).unwrap();
        let new = machine.push(&name, &[("bonkle", "bonkle")]);
        let (file, port) = (program(&machine, "send.py", SENDS), broker.port().to_string());
        let (subject, body) = seed(&name, &old, &new);
        let arguments = arguments(&file, &port, HOOK, &["future.git.commits", &subject, &body]);
        let sent = Ran::of(machine.command("/usr/bin/python3").args(arguments)).ok();
        assert!(sent.stdout.contains("up"), "{sent}");
        applies(&machine, &name, &new);
        wait_until("the status says so", || machine.state(&name) == "current");
        assert_eq!(machine.row(&name)["acted"]["trigger"], "bus");
    }
}

#[test]
fn the_message_of_2012_pasted_as_it_was_printed_wakes_the_agent() {
    let (_, without_its_first_line) = SEED.split_once('\n').unwrap();
    for kind in KINDS {
        // Where nobody else speaks of this name, and who sends may write.
        let (broker, topic) = (Broker::shared(kind), format!("future.events.seed.{kind:?}"));
        let (machine, listener) =
            machine("spog", &[broker.url()], &format!("listen_topic = {topic:?}\n"));
        settles(&machine, &listener);
        let (file, port) = (program(&machine, "send.py", SENDS), broker.port().to_string());
        for body in [SEED, without_its_first_line] {
            let new = machine.push("spog", &[("bonkle", body)]);
            let arguments = arguments(&file, &port, AGENT, &[&topic, "", body]);
            Ran::of(machine.command("/usr/bin/python3").args(arguments)).ok();
            applies(&machine, "spog", &new);
        }
    }
}

#[test]
fn what_we_send_is_read_by_stomp_py() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("to-python-{kind:?}"));
        let reported = format!("future.events.python.{kind:?}");
        let (machine, listener) =
            machine(&name, &[broker.url()], &format!("report_topic = {reported:?}\n"));
        settles(&machine, &listener);
        let (file, port) = (program(&machine, "listen.py", LISTENS), broker.port().to_string());
        let log = machine.path("listen.py.log");
        let arguments = arguments(&file, &port, AGENT, &["future.git.commits", &reported]);
        let _python = Running::start(&machine, "/usr/bin/python3", &arguments, &log);
        let heard = || fs::read_to_string(&log).unwrap();
        wait_until("it listens", || heard().matches("up\n").count() == 2);
        announces(&machine, &name, &[broker.url()]);
        let new = machine.push(&name, &[("page", "new")]);
        wait_until("it hears the report", || heard().contains("succeeded"));
        // All tests share the first topic.
        let ours: Vec<serde_json::Value> = heard()
            .lines()
            .filter(|line| line.contains(&name))
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        let said = |text: &str| {
            let found = ours.iter().find(|it| it["subject"].as_str().unwrap().ends_with(text));
            found.unwrap_or_else(|| panic!("nothing ends with {text}: {ours:?}"))
        };
        let announced = said(&format!("[{name}] refs/heads/main {new}"));
        let body = announced["body"].as_str().unwrap();
        assert!(body.starts_with(&format!("repo: {name}\noldrev: ")), "{body}");
        let started: serde_json::Value =
            serde_json::from_str(said(": started")["body"].as_str().unwrap()).unwrap();
        assert_eq!((&started["state"], &started["revision"]), (&"started".into(), &new.into()));
    }
}
