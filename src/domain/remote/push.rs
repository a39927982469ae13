//! What is remembered of a server that takes pushes.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How long a server is asked first, before a push is sent unasked again.
const KEPT: TimeDelta = TimeDelta::days(1);

/// How a server took the last push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushHints {
    /// When it did not take a push unasked; `None`: it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_unasked: Option<DateTime<Utc>>,
    /// The target of redirects, without credentials; `None`: no redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// It wants credentials; they are sent with the first request.
    #[serde(default)]
    pub wants_login: bool,
}

impl PushHints {
    /// Whether the server is to be asked for what it takes before a push at `now`.
    pub fn asks_first(&self, now: DateTime<Utc>) -> bool {
        self.refused_unasked.is_some_and(|refused| (now - refused).abs() < KEPT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_asked_first_for_a_day() {
        let now: DateTime<Utc> = "2026-11-30T12:00:00Z".parse().unwrap();
        let hints = PushHints { refused_unasked: Some(now), ..PushHints::default() };
        assert!(!PushHints::default().asks_first(now));
        assert!(hints.asks_first(now + TimeDelta::hours(23)));
        assert!(!hints.asks_first(now + TimeDelta::hours(24)));
        assert!(!hints.asks_first(now - TimeDelta::days(365)), "the clock was set back");
    }
}
