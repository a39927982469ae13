//! The trust setting: the users and groups that may change what the agent works on, because they are as
//! good as root on that machine.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::text::EscapeControls;

/// A user or a group, as listed in `trusted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Trustee {
    /// A user, by the login name.
    User(String),
    /// All members of a group, by the group's name; written `@NAME`.
    Group(String),
}

impl TryFrom<String> for Trustee {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let name = text.strip_prefix('@').unwrap_or(&text);
        let forbidden = |c: char| c.is_control() || c.is_whitespace() || ":,/@".contains(c);
        if name.is_empty() || name.starts_with('-') || name.contains(forbidden) {
            return Err(format!(
                "\"{}\" is not the name of a user or group\n\
                 hint: write a user such as \"deploy\", or a group such as \"@admin\"",
                text.escape_controls()
            ));
        }
        Ok(match text.strip_prefix('@') {
            Some(group) => Self::Group(group.to_owned()),
            None => Self::User(text),
        })
    }
}

impl From<Trustee> for String {
    fn from(trustee: Trustee) -> Self {
        trustee.to_string()
    }
}

impl fmt::Display for Trustee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => f.write_str(name),
            Self::Group(name) => write!(f, "@{name}"),
        }
    }
}
