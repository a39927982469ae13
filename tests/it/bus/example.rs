//! `examples/bus`, with a broker and a login of the test's.

use super::listen::{announces, applies, settles};
use super::{Listening, brokers};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text};
use crate::servers::brokers::{AGENT, Broker, KINDS, ODD, login_file};

const CONFIGURATION: &str = include_str!("../../../examples/bus/agent.toml");
const BROKERS: &str = r#"["stomps://amq1.example.org:61614", "stomps://amq2.example.org:61614"]"#;

#[test]
fn a_push_is_applied_and_reported_as_the_example_has_it() {
    for kind in KINDS {
        let (broker, name) = (Broker::shared(kind), format!("within-a-second-{kind:?}"));
        let dir = tempfile::tempdir().unwrap();
        let people =
            Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &["future.events.agent"]);
        people.up();
        let machine = Sandbox::with(&name, &[("work.sh", NOTES_ITS_RUNS)]);
        let login = login_file(&machine.path(""), AGENT);
        let configuration = CONFIGURATION
            .replace(BROKERS, &format!("{:?}", broker.url()))
            .replace("/etc/pmpy/bus.login", text(&login));
        // Only the bus can be what wakes it.
        machine.configure(&format!("[listen]\nevery = \"1h\"\n{configuration}"));
        machine.tick().ok();
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        announces(&machine, &name, &[broker.url()]);
        let revision = machine.push(&name, &[("page", "new")]);
        applies(&machine, &name, &revision);
        let reported = |state: &str| {
            // Others tell things on that topic as well.
            while let message = people.message()
                && let json = serde_json::from_slice::<serde_json::Value>(&message.body).unwrap()
                && (json["repo"] != name.as_str() || json["state"] != state)
            {}
        };
        reported("started");
        reported("succeeded");
    }
}
