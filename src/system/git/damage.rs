//! The kinds of damage to a `.git`, and their descriptions. Finds and repairs none.

use std::fmt;

use crate::domain::git::ObjectFormat;
use crate::domain::text::EscapeControls;

/// A part of a `.git` that git cannot have written like this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// `config` is damaged; with the description.
    Config(String),
    /// `config` names another object format than this one, which the objects have.
    Format(ObjectFormat),
    /// `HEAD` is damaged.
    Head,
    /// `packed-refs` is damaged.
    PackedRefs,
    /// The file of this ref is damaged.
    Ref(String),
    /// This ref is gone, but its log is there.
    Lost(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(what) => write!(f, "the configuration .git/config {what}"),
            Self::Format(format) => {
                write!(
                    f,
                    "the configuration .git/config does not say that objects are named by {format}"
                )
            }
            Self::Head => f.write_str("the file .git/HEAD is damaged"),
            Self::PackedRefs => f.write_str("the file .git/packed-refs is damaged"),
            Self::Ref(name) => write!(f, "the ref {} is damaged", name.escape_controls()),
            Self::Lost(name) => {
                write!(f, "the ref {} is gone, and its log is not", name.escape_controls())
            }
        }
    }
}
