//! Maps messages and web hooks to repositories: the topics to subscribe to, and the repositories' names
//! there. A name in either is only looked up. Does not know what a message contains besides.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::Settings;
use crate::domain::bus::hook_names::{HookNames, NameFit};
use crate::domain::bus::message::Topic;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery;

/// The interval at which the number of messages about unknown repositories is logged.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The limit of repositories that an answer names.
const MOST_NAMED: usize = 20;

/// The topics to subscribe to, and this machine's repositories by their names in messages.
#[derive(Debug, Default)]
pub struct Subscriptions {
    topics: Vec<Topic>,
    /// By topic number and name in messages.
    called: BTreeMap<(usize, String), Vec<String>>,
    /// Those that react to web hooks, with their names there.
    hooked: Vec<(HookNames, String)>,
}

/// The repositories that a web hook means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookedRepos {
    /// The name in messages of the one that fits best.
    pub called: String,
    /// All of them.
    pub repos: Vec<String>,
}

impl Subscriptions {
    /// The subscriptions by the configuration and the repositories below the root.
    pub fn of(context: &Context) -> Self {
        let settings = &context.settings;
        let mut audience = Self { topics: settings.listened_topics(), ..Self::default() };
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
                let chosen = repo.topic_name.as_deref();
                self.hooked.push((HookNames::new(&name, chosen, &repo.urls), name.clone()));
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

    /// The repositories that a web hook means by `full`, the forge's name; `None`: it means none. Where a
    /// name fits, those that would fit in another case only are not meant.
    pub fn hooked(&self, full: &str) -> Option<HookedRepos> {
        let fitting = |(names, repo)| HookNames::fit(names, full).map(|fit| (fit, names, repo));
        let mut fits: Vec<(NameFit, &HookNames, &String)> =
            self.hooked.iter().map(|(names, repo)| (names, repo)).filter_map(fitting).collect();
        let (best, names, _) = *fits.iter().max_by_key(|(fit, ..)| *fit)?;
        fits.retain(|(fit, ..)| best == NameFit::OtherCase || *fit > NameFit::OtherCase);
        let repos = fits.into_iter().map(|(.., repo)| repo.clone()).collect();
        Some(HookedRepos { called: names.called.clone(), repos })
    }

    /// The sentence that names the repositories which react to web hooks, for a sender who knows the
    /// secret.
    pub fn known_to_hooks(&self) -> String {
        let named = self.hooked.iter().take(MOST_NAMED);
        let named: Vec<String> = named.map(|(names, _)| names.called.escape_controls()).collect();
        match self.hooked.len().saturating_sub(MOST_NAMED) {
            _ if named.is_empty() => "none does".to_owned(),
            0 => format!("known: {}", named.join(", ")),
            more => format!("known: {}, and {more} more", named.join(", ")),
        }
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
