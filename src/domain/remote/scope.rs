//! What a remote is asked for. Knows no answer and no protocol.

use std::collections::BTreeSet;

use crate::domain::followed::{Followed, TagScope};
use crate::domain::git::{Commit, RefName};
use crate::domain::versions::TagPattern;

/// The branch or refs that a poll asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollScope {
    /// This branch.
    Branch(RefName),
    /// This branch, and where the remote's HEAD is.
    WithHead(RefName),
    /// The remote's default branch.
    Default,
    /// The tags that match a pattern, and the remote's default branch.
    Tag(TagScope),
    /// The remote's default branch, to know that it answers: this revision is wanted, and no ref names it.
    Revision(Commit),
    /// The branches whose names begin with one of these.
    Branches(Vec<String>),
    /// Every ref of some kinds, and the tip of what is followed; without it that of the default branch.
    Every {
        /// What is followed.
        followed: Followed,
        /// The kinds of refs.
        kinds: RefKinds,
    },
}

/// The kinds of refs that a poll asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefKinds {
    /// Refs below `refs/heads/`.
    pub branches: bool,
    /// Refs below `refs/tags/`.
    pub tags: bool,
}

/// A branch or a tag of a remote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RefTip {
    /// The full name, which is foreign text and may be one that git does not allow.
    pub name: String,
    /// The object: a commit, or the tag object of an annotated tag.
    pub id: Commit,
}

impl PollScope {
    /// The branch that is asked for by its name; `None`: the default branch.
    pub fn branch(&self) -> Option<&RefName> {
        match self {
            Self::Branch(branch) | Self::WithHead(branch) => Some(branch),
            Self::Every { followed, .. } => followed.branch(),
            Self::Default | Self::Tag(_) | Self::Revision(_) | Self::Branches(_) => None,
        }
    }

    /// The kinds of refs that are listed one by one.
    pub fn kinds(&self) -> RefKinds {
        match self {
            Self::Every { kinds, .. } => *kinds,
            Self::Tag(_) => RefKinds { branches: false, tags: true },
            Self::Branches(_) => RefKinds { branches: true, tags: false },
            Self::Branch(_) | Self::WithHead(_) | Self::Default | Self::Revision(_) => {
                RefKinds { branches: false, tags: false }
            }
        }
    }

    /// Whether the branch `name`, without `refs/heads/`, is listed where branches are.
    pub fn lists_branch(&self, name: &str) -> bool {
        match self {
            Self::Branches(beginnings) => {
                beginnings.iter().any(|beginning| name.starts_with(beginning.as_str()))
            }
            _ => true,
        }
    }

    /// The pattern or the revision that is followed; `None`: a branch is.
    pub fn fixed(&self) -> Option<String> {
        match self {
            Self::Tag(scope) => Some(scope.pattern.to_string()),
            Self::Revision(revision) => Some(revision.to_string()),
            Self::Every { followed, .. } => followed.fixed(),
            Self::Branch(_) | Self::WithHead(_) | Self::Default | Self::Branches(_) => None,
        }
    }

    /// The tags of which the newest is followed.
    pub fn tag_scope(&self) -> Option<&TagScope> {
        match self {
            Self::Tag(scope) | Self::Every { followed: Followed::Tag(scope), .. } => Some(scope),
            _ => None,
        }
    }

    /// The pattern of the tags of which the newest is followed.
    pub fn pattern(&self) -> Option<&TagPattern> {
        self.tag_scope().map(|scope| &scope.pattern)
    }

    /// The revision that is followed, where it is a fixed one.
    pub fn revision(&self) -> Option<Commit> {
        match self {
            Self::Revision(revision)
            | Self::Every { followed: Followed::Revision(revision), .. } => Some(*revision),
            _ => None,
        }
    }

    /// This scope without the tags whose objects are known to be no commits.
    pub fn without(self, no_commits: &BTreeSet<Commit>) -> Self {
        let without = |scope: TagScope| TagScope { no_commits: no_commits.clone(), ..scope };
        match self {
            Self::Tag(scope) => Self::Tag(without(scope)),
            Self::Every { followed: Followed::Tag(scope), kinds } => {
                Self::Every { followed: Followed::Tag(without(scope)), kinds }
            }
            other => other,
        }
    }
}
