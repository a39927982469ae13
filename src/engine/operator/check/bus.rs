//! Checks whether the brokers of the message bus accept us. Does not know what is sent there.

use std::io;
use std::thread::{self, ScopedJoinHandle};

use crate::config::BusSettings;
use crate::domain::bus::broker::{Broker, BrokerSettings};
use crate::domain::bus::message::Topic;
use crate::domain::text::EscapeControls;
use crate::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use crate::system::host::since_boot;
use crate::system::stomp::{ANSWER, BrokerConnection};

const SUBJECT: &str = "bus";

/// The findings for `bus`, and for the topics that this machine listens to.
pub fn verdicts(bus: &BusSettings, topics: &[Topic], scope: CheckScope) -> Vec<CheckFinding> {
    let mut verdicts = match scope {
        CheckScope::Remotes => check_brokers(&bus.brokers),
        CheckScope::Machine => vec![CheckFinding::ok(SUBJECT, "its brokers are not asked")],
    };
    if !bus.ignored.is_empty() {
        let ignored = bus.ignored.join(", ");
        let text = format!(
            "these options of brokers have no effect: {}\n\
             hint: leave them out; names count with their case, as maxReconnectDelay does",
            ignored.escape_controls()
        );
        verdicts.push(CheckFinding::warn(SUBJECT, text));
    }
    let queues = topics.iter().filter_map(Topic::queue_warning);
    verdicts.extend(queues.map(|warning| CheckFinding::warn(SUBJECT, warning)));
    verdicts
}

/// Checks each broker. One that fails is bad only when no other works.
fn check_brokers(brokers: &BrokerSettings) -> Vec<CheckFinding> {
    let ask = |broker: &Broker| {
        let connection = BrokerConnection::open(broker, brokers, since_boot() + 2 * ANSWER)?;
        connection.disconnect();
        anyhow::Ok(())
    };
    let answers = thread::scope(|threads| {
        let begin = |broker| thread::Builder::new().spawn_scoped(threads, move || ask(broker));
        let asking: Vec<_> = brokers.list.iter().map(|broker| (broker, begin(broker))).collect();
        // Without a thread the brokers take turns.
        let end = |(broker, begun): (_, io::Result<ScopedJoinHandle<_>>)| match begun {
            Ok(begun) => begun.join(),
            Err(_) => Ok(ask(broker)),
        };
        asking.into_iter().map(end).collect::<Vec<_>>()
    });
    let is_any_good = answers.iter().any(|answer| matches!(answer, Ok(Ok(()))));
    let level = if is_any_good { FindingLevel::Warn } else { FindingLevel::Bad };
    brokers
        .list
        .iter()
        .zip(answers)
        .map(|(broker, answer)| match answer {
            Ok(Ok(())) => CheckFinding::ok(SUBJECT, format!("connected to {broker}")),
            Ok(Err(error)) => CheckFinding::of(level, SUBJECT, &error),
            Err(_) => {
                CheckFinding::bad(SUBJECT, "the agent panics while it connects, which is a bug")
            }
        })
        .collect()
}
