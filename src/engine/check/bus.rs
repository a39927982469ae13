//! The verdict on the message bus: whether its brokers accept us.

use std::thread;

use crate::config::Bus;
use crate::domain::broker::{Broker, Brokers};
use crate::system::node::since_boot;
use crate::system::stomp::{ANSWER, Connection};

use super::{Level, Scope, Verdict};

const SUBJECT: &str = "bus";

/// What is to be said of `bus`.
pub fn verdicts(bus: &Bus, scope: Scope) -> Vec<Verdict> {
    let mut verdicts = match scope {
        Scope::Remotes => asked(&bus.brokers),
        Scope::Machine => vec![Verdict::ok(SUBJECT, "its brokers are not asked")],
    };
    if !bus.ignored.is_empty() {
        let ignored = bus.ignored.join(", ");
        let text = format!(
            "these options of brokers mean nothing: {}\n\
             hint: leave them out; names count with their case, as maxReconnectDelay does",
            ignored.escape_debug()
        );
        verdicts.push(Verdict::warn(SUBJECT, text));
    }
    verdicts
}

/// Each broker by itself. One that is of no use is bad only where no other is left.
fn asked(brokers: &Brokers) -> Vec<Verdict> {
    let ask = |broker: &Broker| {
        let connection = Connection::open(broker, brokers, since_boot() + 2 * ANSWER)?;
        connection.leave();
        anyhow::Ok(())
    };
    let answers = thread::scope(|threads| {
        let asking: Vec<_> =
            brokers.list.iter().map(|broker| threads.spawn(move || ask(broker))).collect();
        asking.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
    });
    let is_any_good = answers.iter().any(|answer| matches!(answer, Ok(Ok(()))));
    let level = if is_any_good { Level::Warn } else { Level::Bad };
    brokers
        .list
        .iter()
        .zip(answers)
        .map(|(broker, answer)| match answer {
            Ok(Ok(())) => Verdict::ok(SUBJECT, format!("connected to {broker}")),
            Ok(Err(error)) => Verdict::of(level, SUBJECT, &error),
            Err(_) => Verdict::bad(SUBJECT, "asking makes the agent fail, which is a bug"),
        })
        .collect()
}
