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
