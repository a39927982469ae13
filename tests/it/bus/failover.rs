//! Brokers as the predecessor's configuration names them: `failover:(…)?…`, passwords as they are.

use rustix::process::Signal;

use super::listen::{applies, settles};
use super::{message, publish};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::servers::brokers::{Broker, KINDS, ODD};
use crate::servers::free_port;

#[test]
fn an_old_address_is_listened_on_unchanged_and_its_useless_options_are_reported() {
    for kind in KINDS {
        let (broker, topic) = (Broker::shared(kind), format!("test.failover.{kind:?}"));
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        let configured = |options: &str| {
            let [gone, there] =
                [free_port(), broker.port()].map(|port| format!("stomp://{ODD}@127.0.0.1:{port}"));
            let url = format!("failover:({gone},{there})?initialReconnectDelay=1000&{options}");
            format!(
                "[listen]\nevery = \"1h\"\n[bus]\nbrokers = {url:?}\nlisten_topic = {topic:?}\n"
            )
        };
        machine.configure(&configured("MaxReconnectDelay=30&Backup=false"));
        let listener = Listener::start(&machine);
        settles(&machine, &listener);
        let reported = "these options of brokers have no effect: ";
        listener.logs(&format!("{reported}MaxReconnectDelay=30, Backup=false\n"));
        let revision = machine.push("ops", &[("page", "new")]);
        let dir = tempfile::tempdir().unwrap();
        publish(&broker.url(), dir.path(), &message(&topic, "[ops] refs/heads/main", ""));
        applies(&machine, "ops", &revision);
        wait_until("the status says so", || machine.state("ops") == "current");
        assert_eq!(machine.row("ops")["acted"]["trigger"], "bus");

        machine.configure(&configured("Timeout=3"));
        listener.signal(Signal::HUP);
        listener.logs(&format!("{reported}Timeout=3\n"));
        settles(&machine, &listener);
        let log = listener.log();
        assert_eq!(log.matches(reported).count(), 2, "{log}");
        let (_, password) = ODD.split_once(':').unwrap();
        assert!(!log.contains(password) && !log.contains("c@%41"), "{log}");
    }
}
