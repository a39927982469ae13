//! Converts the keys of `[bus]` to its settings. Does not know how the bus is used.

use std::time::Duration;

use serde_spanned::Spanned;

use super::faults::ConfigError;
use super::file::{self, ConfigFile, RepoSection};
use super::list::OneOrMany;
use super::source::ConfigTexts;
use super::value::TopicName;
use super::{BusSettings, Settings};
use crate::domain::bus::broker::BrokerSettings;
use crate::domain::bus::message::Topic;

/// The default heart-beat interval of both sides.
const USUAL_HEARTBEAT: Duration = Duration::from_secs(30);
/// The minimum: below it, heart-beats would be most of the traffic; brokers round to seconds.
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);

/// The settings that `[bus]` contains.
pub fn bus(
    source: &ConfigTexts,
    bus: &Spanned<file::BusSection>,
) -> Result<BusSettings, ConfigError> {
    let keys = bus.get_ref();
    let Some(written) = &keys.brokers else {
        let reason = "[bus] names no broker\n\
                      hint: brokers = [\"stomps://amq1.example.org:61614\"]";
        return Err(source.error(bus.span(), reason));
    };
    let listed = &written.get_ref().0;
    let retry = listed.iter().find_map(|entry| entry.0.retry.clone());
    if retry.is_some() && listed.len() > 1 {
        let reason = "a failover: address is in a list, so its options would apply to a part of the list\n\
                      hint: write it alone, or its addresses one by one";
        return Err(source.error(written.span(), reason));
    }
    let heartbeat = match &keys.heartbeat {
        Some(time) if time.get_ref().0 < SHORTEST_HEARTBEAT => {
            let reason = "a heart-beat is at least a second long\nhint: write \"30s\"";
            return Err(source.error(time.span(), reason));
        }
        Some(time) => time.get_ref().0,
        None => USUAL_HEARTBEAT,
    };
    let path = |key: &Option<super::value::AbsolutePath>| key.as_ref().map(|path| path.0.clone());
    Ok(BusSettings {
        brokers: BrokerSettings {
            list: listed.iter().flat_map(|entry| entry.0.brokers.clone()).collect(),
            retry: retry.unwrap_or_default(),
            login_file: path(&keys.login_file),
            ca_file: path(&keys.ca_file),
            host: keys.host.as_ref().map_or_else(|| "/".to_owned(), |host| host.0.clone()),
            heartbeat,
        },
        ignored: listed.iter().flat_map(|entry| entry.0.ignored.clone()).collect(),
        listen_topics: keys.listen_topic.as_ref().map_or_else(|| vec![Topic::default()], topics),
        report_topic: keys.report_topic.as_ref().map(|topic| topic.0.clone()),
        announce_topic: keys
            .announce_topic
            .as_ref()
            .map(|topic| topic.0.clone())
            .unwrap_or_default(),
        spread: keys.spread.as_ref().map_or(Duration::ZERO, |spread| spread.0),
    })
}

impl Settings {
    /// All topics that this machine listens to, sorted; empty without a `[bus]`.
    pub fn listened_topics(&self) -> Vec<Topic> {
        let Some(bus) = &self.bus else { return Vec::new() };
        let own = self.repos.values().chain([&self.unlisted]).flat_map(|repo| &repo.listen_topics);
        let mut topics: Vec<Topic> = bus.listen_topics.iter().chain(own).cloned().collect();
        topics.sort();
        topics.dedup();
        topics
    }
}

/// The topics of a `listen_topic` key.
pub fn topics(written: &OneOrMany<TopicName>) -> Vec<Topic> {
    written.0.iter().map(|topic| topic.0.clone()).collect()
}

/// Refuses a repository's `listen_topic` where there is no `[bus]`.
pub fn refuse_topic_without_bus(
    source: &ConfigTexts,
    file: &ConfigFile,
    repo: &RepoSection,
) -> Result<(), ConfigError> {
    match (&repo.listen_topic, &file.bus) {
        (Some(topic), None) => {
            let reason = "there is no [bus] to listen on\n\
                          hint: add one with its brokers, or leave the key out";
            Err(source.error(topic.span(), reason))
        }
        _ => Ok(()),
    }
}
