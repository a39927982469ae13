//! What a repository follows, and the choice of one tag among those that a remote lists. Knows no remote and no
//! clone.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::git::{Commit, RefName};
use crate::domain::text::EscapeControls;
use crate::domain::versions::TagPattern;

/// What a repository follows: one of the keys `branch`, `tag` and `revision`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Followed {
    /// A branch; `None`: none is configured.
    Branch(Option<RefName>),
    /// The newest tag that matches.
    Tag(TagScope),
    /// Exactly this revision.
    Revision(Commit),
}

impl Followed {
    /// The configured branch.
    pub fn branch(&self) -> Option<&RefName> {
        match self {
            Self::Branch(branch) => branch.as_ref(),
            Self::Tag(_) | Self::Revision(_) => None,
        }
    }

    /// The pattern or the revision; `None`: a branch is followed.
    pub fn fixed(&self) -> Option<String> {
        match self {
            Self::Branch(_) => None,
            Self::Tag(scope) => Some(scope.pattern.to_string()),
            Self::Revision(revision) => Some(revision.to_string()),
        }
    }
}

/// The tags that a poll asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagScope {
    /// The pattern for their names.
    pub pattern: TagPattern,
    /// The objects of tags that are known to be no commits: they are no candidates.
    pub no_commits: BTreeSet<Commit>,
}

impl From<TagPattern> for TagScope {
    fn from(pattern: TagPattern) -> Self {
        Self { pattern, no_commits: BTreeSet::new() }
    }
}

/// A tag that a remote lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTag {
    /// The short name.
    pub name: String,
    /// The object that it names: a commit, or the tag object of an annotated tag.
    pub id: Commit,
    /// The object behind it, as the remote says; for a light tag `id` itself. It may be no commit.
    pub peeled: Commit,
}

/// The newest tag that matches the pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChosenTag {
    /// The short name.
    pub name: String,
    /// The object that it names.
    pub id: Commit,
    /// The commit behind it.
    pub commit: Commit,
    /// How many tags match and count.
    pub matching: usize,
    /// The next newest of them; `None`: there is no other.
    #[serde(default)]
    pub next: Option<String>,
    /// No earlier answer had a tag of this name: it counts though a newer one went.
    #[serde(default)]
    pub is_new: bool,
}

impl ChosenTag {
    /// The newest of `tags` in `scope`.
    pub fn of(scope: &TagScope, tags: &[ListedTag]) -> Option<Self> {
        let listed = tags.iter().filter(|tag| !scope.no_commits.contains(&tag.id));
        let names = scope.pattern.newest_first(listed.map(|tag| tag.name.as_str()));
        let newest = *names.first()?;
        let tag = tags.iter().find(|tag| tag.name == newest)?;
        Some(Self {
            name: tag.name.clone(),
            id: tag.id,
            commit: tag.peeled,
            matching: names.len(),
            next: names.get(1).map(|&next| next.to_owned()),
            is_new: false,
        })
    }

    /// `v1.10 (6b2c3d7)`, for people.
    pub fn escaped(&self) -> String {
        named(Some(&self.name), self.commit)
    }

    /// Returns `true` if both are the same tag at the same object.
    pub fn is_same_as(&self, other: &Self) -> bool {
        (&self.name, self.id) == (&other.name, other.id)
    }
}

/// A revision for people, with the tag that it was chosen by: `v1.10 (6b2c3d7)`, else `6b2c3d7`.
pub fn named(tag: Option<&str>, revision: Commit) -> String {
    match tag {
        Some(tag) => format!("{} ({})", tag.escape_controls(), revision.short()),
        None => revision.short(),
    }
}

/// The tag that was applied last, or was to be: what a newer answer is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenTag {
    /// The short name.
    pub name: String,
    /// The object that it named then.
    pub id: Commit,
    /// The commit behind it; `None`: it cannot be read here any more.
    pub commit: Option<Commit>,
}

/// How the chosen tag relates to the one that was seen here last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRelation {
    /// It is that tag, where it was, or leads to the same commit.
    Same,
    /// It is a newer one, or one that was never seen before.
    Newer,
    /// It is that tag at another object.
    Moved,
    /// That tag went, and the newest of the rest was there before.
    Gone,
}

impl SeenTag {
    /// How `chosen`, by `pattern`, relates to this one.
    pub fn relation(&self, chosen: &ChosenTag, pattern: &TagPattern) -> TagRelation {
        let is_newer = || {
            let both = [self.name.as_str(), chosen.name.as_str()];
            pattern.newest_first(both).first() == Some(&chosen.name.as_str())
        };
        if self.commit == Some(chosen.commit) {
            TagRelation::Same
        } else if self.name == chosen.name {
            if self.id == chosen.id { TagRelation::Same } else { TagRelation::Moved }
        } else if chosen.is_new || is_newer() {
            TagRelation::Newer
        } else {
            TagRelation::Gone
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: &str) -> Commit {
        digit.repeat(40).parse().unwrap()
    }

    fn chosen(name: &str, digit: &str, is_new: bool) -> ChosenTag {
        let (id, name, next) = (commit(digit), name.to_owned(), None);
        ChosenTag { name, id, commit: id, matching: 1, next, is_new }
    }

    #[test]
    fn a_tag_that_moved_or_went_is_told_from_a_newer_one() {
        let pattern: TagPattern = "v*".parse().unwrap();
        let (name, id) = ("v1.10".to_owned(), commit("a"));
        let seen = SeenTag { name, id, commit: Some(id) };
        for (name, digit, is_new, expected) in [
            ("v1.10", "a", false, TagRelation::Same),
            ("v1.10", "b", true, TagRelation::Moved),
            ("v1.11", "b", false, TagRelation::Newer),
            ("v1.9", "b", false, TagRelation::Gone),
            ("v1.9.1", "b", true, TagRelation::Newer),
            ("v1.9", "a", false, TagRelation::Same),
        ] {
            let relation = seen.relation(&chosen(name, digit, is_new), &pattern);
            assert_eq!(relation, expected, "{name} {digit} {is_new}");
        }
    }

    #[test]
    fn a_tag_that_names_no_commit_is_no_candidate() {
        let listed = |name: &str, digit: &str| {
            let (id, name) = (commit(digit), name.to_owned());
            ListedTag { name, id, peeled: id }
        };
        let tags = [listed("v1", "a"), listed("v2", "b"), listed("v3", "c"), listed("w9", "d")];
        let mut scope = TagScope::from("v*".parse::<TagPattern>().unwrap());
        let newest = ChosenTag::of(&scope, &tags).unwrap();
        assert_eq!((newest.escaped().as_str(), newest.matching), ("v3 (ccccccc)", 3));
        scope.no_commits.insert(commit("c"));
        let without = ChosenTag::of(&scope, &tags).unwrap();
        assert_eq!((without.name.as_str(), without.next.as_deref()), ("v2", Some("v1")));
    }
}
