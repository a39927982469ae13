//! What is remembered of a server that takes pushes.

use serde::{Deserialize, Serialize};

/// How a server took the last push.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushHints {
    /// It wants to be asked for its capabilities before it takes anything.
    #[serde(default)]
    pub is_asked_first: bool,
    /// The target of redirects, without credentials; `None`: no redirect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// It wants credentials; they are sent with the first request.
    #[serde(default)]
    pub wants_login: bool,
}
