//! The request for a plan: its trigger, and what the person behind it overrides.

use serde::{Deserialize, Serialize};

use crate::domain::remote::BackoffPolicy;
use crate::domain::repository::action::Trigger;

/// The trigger of a pass, and what the person who started it overrides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionRequest {
    /// The reason for this pass.
    pub trigger: Trigger,
    /// A person named this repository: backoff is ignored, holds are not.
    pub named: bool,
    /// A person passes `window`, `canaries`, `min_age` and `rollout`.
    #[serde(default)]
    pub overrides: bool,
}

impl ActionRequest {
    /// The request of a tick that cron starts, which overrides nothing.
    pub const OF_CRON: Self = Self { trigger: Trigger::Cron, named: false, overrides: false };

    /// Whether an answer of a remote is believed that would otherwise have to be repeated: a person who
    /// names a repository wants what its remote has now.
    pub fn believes_at_once(self) -> bool {
        self.named && self.trigger == Trigger::Manual
    }

    /// The backoff policy for polling: a person who names a repository, or ticks at a terminal, wants an
    /// answer at any cost.
    pub fn backoff(self) -> BackoffPolicy {
        match self.named || self.trigger == Trigger::Manual {
            true => BackoffPolicy::Ignore,
            false => BackoffPolicy::Respect,
        }
    }
}
