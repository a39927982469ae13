//! The followed tag of one repository: which was seen here last, and how upstream's answer relates to it. The
//! tag that was fetched last is kept as one ref, and each that was accepted by name as another: the high-water
//! mark, as `refs/pmpy/seen` is for branches. Asks no remote.

use anyhow::Result;

use crate::domain::followed::{ChosenTag, SeenTag, TagRelation};
use crate::domain::git::{Commit, RefName};
use crate::domain::versions::TagPattern;
use crate::engine::repository::Repository;
use crate::engine::repository::upstream_refs::TAGS;
use crate::system::repo_state::PollRecord;

/// The ref of the newest matching tag as it was fetched last, whether it was accepted or not.
pub(in crate::engine) const FETCHED: &str = "refs/pmpy/fetched-tag";

/// The ref of the followed revision, once it was fetched.
pub(in crate::engine) const REVISION: &str = "refs/pmpy/followed-revision";

/// The prefix of the refs of tags that were accepted here.
pub(in crate::engine) const SEEN: &str = "refs/pmpy/followed-tag/";

impl Repository<'_> {
    /// The pattern of the followed tags; `None`: no tag is followed.
    pub fn tag_pattern(&self) -> Option<TagPattern> {
        self.wanted().pattern().cloned()
    }

    /// The tag that was accepted here last, among those that match now; `None`: none was.
    ///
    /// # Errors
    /// When a ref cannot be read.
    pub fn seen_tag(&self) -> Result<Option<SeenTag>> {
        let Some(pattern) = self.tag_pattern() else { return Ok(None) };
        let refs = self.git.refs_below(SEEN)?;
        let names = refs.iter().filter_map(|name| name.strip_prefix(SEEN));
        let Some(name) = pattern.newest_first(names).first().copied() else { return Ok(None) };
        let Some(id) = self.git.ref_id(&format!("{SEEN}{name}"))? else { return Ok(None) };
        Ok(Some(SeenTag { name: name.to_owned(), id, commit: self.git.peeled(id) }))
    }

    /// Whether `tag` was fetched as it is upstream now.
    ///
    /// # Errors
    /// When a ref cannot be read.
    pub fn has_fetched(&self, tag: &ChosenTag) -> Result<bool> {
        Ok(self.git.ref_id(FETCHED)? == Some(tag.id))
    }

    /// The tag that was seen here last, where `chosen` is neither that one nor a newer one.
    ///
    /// # Errors
    /// When a ref cannot be read.
    pub fn lost_tag(&self, chosen: &ChosenTag) -> Result<Option<(SeenTag, TagRelation)>> {
        let (Some(pattern), Some(seen)) = (self.tag_pattern(), self.seen_tag()?) else {
            return Ok(None);
        };
        let relation = seen.relation(chosen, &pattern);
        let is_lost = matches!(relation, TagRelation::Moved | TagRelation::Gone);
        Ok(is_lost.then_some((seen, relation)))
    }

    /// Makes `chosen` the tag that was seen here last. The new ref comes before the old ones go: a run that
    /// dies in between leaves the old mark, which costs one more decision.
    ///
    /// # Errors
    /// When a ref cannot be written.
    pub fn put_seen_tag(&self, chosen: &ChosenTag) -> Result<()> {
        let Some(pattern) = self.tag_pattern() else { return Ok(()) };
        let Ok(ours) = chosen.name.parse::<RefName>() else { return Ok(()) };
        let name = format!("{SEEN}{ours}");
        let refs = self.git.refs_below(SEEN)?;
        let short = |it: &String| it.strip_prefix(SEEN).map(str::to_owned).unwrap_or_default();
        for other in refs.iter().filter(|it| **it != name) {
            // `v1` and `v1/2` cannot both exist.
            if short(other).parse::<RefName>().is_ok_and(|it| it.is_in_the_way_of(&ours)) {
                self.git.remove_ref(other)?;
            }
        }
        if self.git.ref_id(&name)? != Some(chosen.id) {
            self.git.set_logged_ref(&name, chosen.id, "seen upstream")?;
        }
        let others: Vec<String> = refs.iter().map(short).filter(|it| *it != chosen.name).collect();
        for other in pattern.newest_first(others.iter().map(String::as_str)) {
            self.git.remove_ref(&format!("{SEEN}{other}"))?;
        }
        Ok(())
    }

    /// Moves the mark to the fetched tag, unless the tag that was seen last moved or went: only a person, a
    /// setting or a newer tag ends that.
    ///
    /// # Errors
    /// When a ref cannot be read or written.
    pub fn raise_seen_tag(&self, chosen: &ChosenTag) -> Result<()> {
        match self.lost_tag(chosen)? {
            Some(_) => Ok(()),
            None => self.put_seen_tag(chosen),
        }
    }

    /// Moves the mark to the tag that was fetched last, once its commit `target` was applied.
    ///
    /// # Errors
    /// When a ref cannot be read or written.
    pub fn lower_seen_tag(&self, target: Commit) -> Result<()> {
        match self.polled().tag {
            Some(tag) if tag.commit == target && self.has_fetched(&tag)? => self.put_seen_tag(&tag),
            _ => Ok(()),
        }
    }

    /// The answer `said` with what this clone knows of the chosen tag: the commit behind it, and whether a tag
    /// of that name was ever listed before.
    pub(in crate::engine) fn with_tag_known(
        &self,
        said: PollRecord,
        before: &PollRecord,
    ) -> PollRecord {
        let Some(tag) = said.tag.clone() else { return said };
        let known = before.tag.as_ref().filter(|known| known.is_same_as(&tag));
        let (commit, is_new) = match known {
            Some(known) => (known.commit, known.is_new),
            None => {
                let listed = self.records.listed_tags();
                let is_new = listed.is_some_and(|names| !names.contains(&tag.name));
                (self.git.peeled(tag.id).unwrap_or(tag.commit), is_new)
            }
        };
        PollRecord { tip: Some(commit), tag: Some(ChosenTag { commit, is_new, ..tag }), ..said }
    }
}

/// The full name of a tag.
pub(in crate::engine) fn full_name(tag: &str) -> String {
    format!("{TAGS}{tag}")
}
