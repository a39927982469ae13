//! Whom a message or a web hook is for: which topics are listened to, and which repositories are called
//! what there. A name in either is looked up and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Settings;
use crate::domain::bus::Topic;
use crate::engine::{Here, roster};

/// How often it is told how many messages were about nothing of ours.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The repositories of this machine, as messages call them.
#[derive(Debug, Default)]
pub struct Audience {
    topics: Vec<Topic>,
    /// By the number of a topic and the name in messages.
    called: BTreeMap<(usize, String), Vec<String>>,
    /// By the name in web hooks.
    hooked: BTreeMap<String, Vec<String>>,
}

impl Audience {
    /// As the configuration and the root have it.
    pub fn of(here: &Here) -> Self {
        let settings = &here.settings;
        let mut topics: Vec<Topic> = Vec::new();
        if let Some(bus) = &settings.bus {
            let own = settings.repos.values().chain([&settings.unlisted]);
            topics.extend(bus.listen_topics.iter().cloned());
            topics.extend(own.flat_map(|repo| repo.listen_topics.iter().cloned()));
            topics.sort();
            topics.dedup();
        }
        let mut audience = Self { topics, ..Self::default() };
        // A root that cannot be read is told by the first tick.
        let all = roster::repositories(here).unwrap_or_default();
        audience.know(settings, all.into_iter().map(|repo| repo.name).collect());
        audience
    }

    /// What is to be listened to.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// From now on `names` are the repositories that there are.
    pub fn know(&mut self, settings: &Settings, names: Vec<String>) {
        let usual: &[Topic] = settings.bus.as_ref().map_or(&[], |bus| &bus.listen_topics);
        self.called.clear();
        self.hooked.clear();
        for name in names {
            let repo = settings.repos.get(&name).unwrap_or(&settings.unlisted);
            let topics = match repo.listen_topics.as_slice() {
                [] => usual,
                own => own,
            };
            let called = repo.topic_name.as_ref().unwrap_or(&name);
            // One that is not to look before its own topic says so, a build's for instance, does not
            // look because of the push either.
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

    /// The repositories that a message to this topic means when it says `name`.
    pub fn called(&self, topic: &Topic, name: &str) -> Vec<String> {
        let Ok(number) = self.topics.binary_search(topic) else { return Vec::new() };
        self.called.get(&(number, name.to_owned())).cloned().unwrap_or_default()
    }

    /// The repositories that a web hook means when it says `name`.
    pub fn hooked(&self, name: &str) -> Vec<String> {
        self.hooked.get(name).cloned().unwrap_or_default()
    }
}

/// Counts what is worth a line a day.
#[derive(Debug, Default)]
pub struct Tally {
    count: u64,
    told: Option<Duration>,
}

impl Tally {
    /// One more, at `now` since boot; how many there were since the last line when it is time for one.
    pub fn count(&mut self, now: Duration) -> Option<u64> {
        self.count += 1;
        let is_time = self.told.is_none_or(|told| now >= told + DAY);
        is_time.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.count)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_once_a_day() {
        let mut tally = Tally::default();
        let now = Duration::from_secs(100);
        assert_eq!(tally.count(now), Some(1));
        for _ in 0..1000 {
            assert_eq!(tally.count(now), None);
        }
        assert_eq!(tally.count(now + DAY), Some(1001));
    }
}
