//! Maps messages and web hooks to repositories: the topics to subscribe to, and the repositories' names
//! there. A name in either is only looked up. Does not know what a message contains besides.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Settings;
use crate::domain::bus::message::Topic;
use crate::engine::context::Context;
use crate::engine::discovery;

/// The interval at which the number of messages about unknown repositories is logged.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The topics to subscribe to, and this machine's repositories by their names in messages.
#[derive(Debug, Default)]
pub struct Subscriptions {
    topics: Vec<Topic>,
    /// By topic number and name in messages.
    called: BTreeMap<(usize, String), Vec<String>>,
    /// By name in web hooks.
    hooked: BTreeMap<String, Vec<String>>,
}

impl Subscriptions {
    /// The subscriptions by the configuration and the repositories below the root.
    pub fn of(context: &Context) -> Self {
        let settings = &context.settings;
        let mut topics: Vec<Topic> = Vec::new();
        if let Some(bus) = &settings.bus {
            let own = settings.repos.values().chain([&settings.unlisted]);
            topics.extend(bus.listen_topics.iter().cloned());
            topics.extend(own.flat_map(|repo| repo.listen_topics.iter().cloned()));
            topics.sort();
            topics.dedup();
        }
        let mut audience = Self { topics, ..Self::default() };
        // The first tick reports a root that cannot be read.
        let all = discovery::repositories(context).unwrap_or_default();
        audience.know(settings, all.into_iter().map(|repo| repo.name).collect());
        audience
    }

    /// The topics to subscribe to.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// Replaces the known repositories by `names`.
    pub fn know(&mut self, settings: &Settings, names: Vec<String>) {
        let usual: &[Topic] = settings.bus.as_ref().map_or(&[], |bus| &bus.listen_topics);
        self.called.clear();
        self.hooked.clear();
        for name in names {
            let repo = settings.of_repo(&name);
            let topics = match repo.listen_topics.as_slice() {
                [] => usual,
                own => own,
            };
            let called = repo.topic_name.as_ref().unwrap_or(&name);
            // A repository that waits for a message on its own topic, a build's for instance, does not
            // react to the push.
            if repo.poll || repo.listen_topics.is_empty() {
                self.hooked.entry(called.clone()).or_default().push(name.clone());
            }
            for topic in topics {
                if let Ok(number) = self.topics.binary_search(topic) {
                    self.called.entry((number, called.clone())).or_default().push(name.clone());
                }
            }
        }
    }

    /// The repositories that a message to this topic means by `name`.
    pub fn called(&self, topic: &Topic, name: &str) -> Vec<String> {
        let Ok(number) = self.topics.binary_search(topic) else { return Vec::new() };
        self.called.get(&(number, name.to_owned())).cloned().unwrap_or_default()
    }

    /// The repositories that a web hook means by `name`.
    pub fn hooked(&self, name: &str) -> Vec<String> {
        self.hooked.get(name).cloned().unwrap_or_default()
    }
}

/// Counts events that are logged at most once a day.
#[derive(Debug, Default)]
pub struct RateLimitedLog {
    count: u64,
    logged: Option<Duration>,
}

impl RateLimitedLog {
    /// Counts one event at `now` since boot; returns the count since the last line when one is due.
    pub fn count(&mut self, now: Duration) -> Option<u64> {
        self.count += 1;
        let is_time = self.logged.is_none_or(|logged| now >= logged + DAY);
        is_time.then(|| {
            self.logged = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::engine::listen::subscriptions::*;

    #[test]
    fn the_first_is_logged_at_once_and_the_others_once_a_day() {
        let mut tally = RateLimitedLog::default();
        let now = Duration::from_secs(100);
        assert_eq!(tally.count(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(tally.count(now), None);
        }
        assert_eq!(tally.count(now + DAY), Some(1001));
    }
}
