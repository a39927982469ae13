//! From a forge that knows no bus to everybody on it: a web hook that one agent hears is announced, and
//! the others act, and everybody hears what came of it.

use std::collections::BTreeMap;

use super::{Listening, brokers, message, publish};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD, login_file};
use crate::web::{self, Web};

/// The `[bus]` of a machine that announces to `topic`, listens there, and reports to `told`.
fn bus(machine: &Sandbox, url: &str, topic: &str, reported: &str) -> String {
    let login = login_file(&machine.path(""), ODD);
    format!(
        "[bus]\nbrokers = {url:?}\nlogin_file = {login:?}\nannounce_topic = {topic:?}\n\
         listen_topic = {topic:?}\nreport_topic = {reported:?}\n"
    )
}

#[test]
fn a_hook_that_one_agent_hears_makes_all_of_them_act_and_report() {
    for kind in KINDS {
        let (broker, topic) = (Broker::shared(kind), format!("future.git.bridged.{kind:?}"));
        let reported = format!("future.events.bridged.{kind:?}");
        let dir = tempfile::tempdir().unwrap();
        let reached = brokers(&[broker.url()], dir.path(), ODD);
        let [people, told_people] =
            [&topic, &reported].map(|name| Listening::to(&reached, &[name]));
        people.up();
        told_people.up();

        // One that the forge cannot reach, and that pulls from the same server.
        let bridge = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
        let far = Sandbox::new();
        far.git(&far.root(), &["clone", "--quiet", text(&bridge.server("spog")), "site"]);
        let named = |name: &str| format!("[repo.{name}]\ntopic_name = \"sites/spog\"\n");
        far.configure(&format!(
            "[listen]\nevery = \"1h\"\n{}{}",
            bus(&far, &broker.url(), &topic, &reported),
            named("site")
        ));
        let far_listener = Listener::start(&far);
        far_listener.logs("listening on");

        web::put_secret(&bridge, web::SECRET);
        let own = bus(&bridge, &broker.url(), &topic, &reported);
        let own = format!("announce = true\n{own}{}", named("spog"));
        let announces = web::configured(&bridge, &own);
        bridge.configure(&announces);
        let listener = Listener::start(&bridge);
        listener.logs("listening on");
        let hooks = Web::of(&listener);
        let applies = |revision: &str| {
            for (machine, name) in [(&bridge, "spog"), (&far, "site")] {
                wait_until("it acts", || machine.lastaction(name).as_deref() == Some(revision));
            }
        };
        applies(&bridge.git(&bridge.desk("spog"), &["rev-parse", "HEAD"]));

        let revision = bridge.push("spog", &[("page", "new")]);
        assert_eq!(hooks.push("sites/spog").status, 202);
        applies(&revision);
        wait_until("the status says so", || far.state("site") == "current");
        assert_eq!(far.row("site")["acted"]["trigger"], "bus");
        let mut states: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while states.values().map(Vec::len).sum::<usize>() < 4 {
            let report: serde_json::Value =
                serde_json::from_slice(&told_people.message().body).unwrap();
            let said = |key: &str| report[key].as_str().unwrap().to_owned();
            // What they did at their start is told as well.
            if said("revision") == revision {
                states.entry(said("repo")).or_default().push(said("state"));
            }
        }
        for name in ["spog", "site"] {
            assert_eq!(states[name], ["started", "succeeded"], "{name}");
        }

        // The message says what a hook of our own would.
        let heard = people.message();
        let (old, new) = ("1".repeat(40), "2".repeat(40));
        let subject = format!("[sites/spog] refs/heads/main {new}");
        assert_eq!(heard.header("subject"), Some(subject.as_str()));
        let body = String::from_utf8(heard.body).unwrap();
        let lines: Vec<&str> = body.lines().take(4).collect();
        let expected = [
            "repo: sites/spog".to_owned(),
            format!("oldrev: {old}"),
            format!("newrev: {new}"),
            "refname: refs/heads/main".to_owned(),
        ];
        assert_eq!(lines, expected);

        // What came from the bus is not told there again: the next message is the next hook's.
        publish(&broker.url(), dir.path(), &message(&topic, "[sites/spog] by hand", ""));
        assert_eq!(people.message().header("subject"), Some("[sites/spog] by hand"));
        let looked =
            |name: &str| hooks.metric(&format!("pmpy_messages_total{{result=\"{name}\"}}"));
        wait_until("it has heard its own message and that one", || looked("known") == 2.0);
        // One that is not here is announced by the last part of its name.
        assert!(hooks.push("others/elsewhere").body.contains("no repository named"));
        let heard = people.message();
        let subject = heard.header("subject").unwrap();
        assert!(subject.starts_with("[elsewhere] "), "{subject}");
        // The two, and the begin and the end of two actions.
        wait_until("it was counted", || hooks.metric("pmpy_bus_sent_total") == 6.0);
        assert_eq!(hooks.metric("pmpy_bus_up"), 1.0);
    }
}
