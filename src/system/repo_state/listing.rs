//! The refs of a remote at the last complete fetch, and the refs published at the targets. Does not
//! know which of them to publish.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::{RepoRecords, files};
use crate::domain::git::Commit;
use crate::domain::publish::state::PublishRecord;
use crate::domain::remote::RefTip;
use crate::domain::text::EscapeControls;

/// Largest list of refs, in bytes: half a million refs.
const LIST_CAP: u64 = 64 << 20;

const HEARD: &str = "heard";
const TAG_NAMES: &str = "tag-names";
/// Time for which a list counts as the remote's current state: a poll result may be that long on its
/// way.
const FRESH: TimeDelta = TimeDelta::seconds(30);

/// Content of a list without refs, because an empty file means a lost one.
const NONE: &str = "# no refs";

/// The file `refs`: refs of the remote at the last complete fetch, sorted by name. One line for each,
/// such as `ID COMMIT refs/tags/v1`, with `-` for a ref whose commit is not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RefListing(pub Vec<ListedRef>);

/// A ref of a [`RefListing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRef {
    /// Name and object id of the ref at the remote.
    pub tip: RefTip,
    /// The commit that it points to; `None` when there is none in this clone.
    pub commit: Option<Commit>,
}

impl RefListing {
    /// Whether the remote's refs are unchanged.
    pub fn says(&self, tips: &[RefTip]) -> bool {
        self.0.iter().map(|fetched| &fetched.tip).eq(tips)
    }

    /// Looks up a ref by its full name.
    pub fn get(&self, name: &str) -> Option<&ListedRef> {
        let at = self.0.binary_search_by(|fetched| fetched.tip.name.as_str().cmp(name)).ok()?;
        self.0.get(at)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| -> Result<ListedRef> {
            let read = || {
                let (id, rest) = line.split_once(' ')?;
                let (commit, name) = rest.split_once(' ')?;
                let commit = match commit {
                    "-" => None,
                    commit => Some(commit.parse().ok()?),
                };
                Some(ListedRef {
                    tip: RefTip { name: name.to_owned(), id: id.parse().ok()? },
                    commit,
                })
            };
            read().with_context(|| format!("\"{}\" is no ref", line.escape_controls()))
        };
        let lines = text.lines().filter(|line| *line != NONE);
        lines.map(line).collect::<Result<_>>().map(Self)
    }

    pub(super) fn text(&self) -> String {
        if self.0.is_empty() {
            return format!("{NONE}\n");
        }
        let mut text = String::new();
        for ListedRef { tip: RefTip { name, id }, commit } in &self.0 {
            let commit = commit.map_or_else(|| "-".to_owned(), |commit| commit.to_string());
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{id} {commit} {name}");
        }
        text
    }
}

impl RepoRecords {
    /// Refs of the remote at the last complete fetch; `None` when there was none, or the list is lost.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged.
    pub fn listing(&self) -> Result<Option<RefListing>> {
        let path = self.private.join("refs");
        let bytes = files::read_small(&path, LIST_CAP)?.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(bytes).context("it is no text");
        let listing = text.and_then(|text| self.belonging(RefListing::parse(&text)?));
        listing.map(Some).with_context(|| {
            format!(
                "{} cannot be used\nhint: remove it; what is published stays, and the next tick that \
                 reaches the remote asks it anew",
                path.display()
            )
        })
    }

    /// Records the refs of the remote.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_listing(&self, listing: &RefListing) -> Result<()> {
        files::put(&self.private, "refs", listing.text().as_bytes(), 0o600)
    }

    /// The names of all tags that the remote ever listed, while a tag is followed; `None`: none are stored.
    pub fn listed_tags(&self) -> Option<BTreeSet<String>> {
        let bytes = files::read_small(&self.private.join(TAG_NAMES), LIST_CAP).ok()??;
        Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    /// Adds `names` to the names of listed tags. Without a sync: names that a power cut takes count as new
    /// once more, which a person may have to look at.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn add_listed_tags(&self, names: impl IntoIterator<Item = String>) -> Result<()> {
        let mut all = self.listed_tags().unwrap_or_default();
        all.extend(names);
        let text: String = all.iter().flat_map(|line| [line, "\n"]).collect();
        files::put_lazily(&self.private, TAG_NAMES, text.as_bytes(), 0o600)
    }

    /// Stores `tips`, just listed by a remote, for the worker that starts for them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_heard(&self, tips: &[RefTip]) -> Result<()> {
        let fetched = |tip: &RefTip| ListedRef { tip: tip.clone(), commit: None };
        let listing = RefListing(tips.iter().map(fetched).collect());
        files::put_lazily(&self.private, HEARD, listing.text().as_bytes(), 0o600)
    }

    /// Takes the list that [`RepoRecords::put_heard`] stored shortly before `now`; `None` when there is
    /// none or it is too old, so that the remote must be polled again.
    pub fn take_heard(&self, now: DateTime<Utc>) -> Option<Vec<RefTip>> {
        let heard = self.heard(now);
        // If the removal fails, the file soon becomes too old to be used.
        let _ = std::fs::remove_file(self.private.join(HEARD));
        heard
    }

    /// The list that [`RepoRecords::take_heard`] would take.
    pub fn heard(&self, now: DateTime<Utc>) -> Option<Vec<RefTip>> {
        let path = self.private.join(HEARD);
        let written: DateTime<Utc> = path.symlink_metadata().ok()?.modified().ok()?.into();
        // If the clock was set back in the meantime, its age is unknown.
        let is_fresh = (TimeDelta::zero()..FRESH).contains(&(now - written));
        let bytes = files::read_small(&path, LIST_CAP).ok()??;
        let listing = RefListing::parse(std::str::from_utf8(&bytes).ok()?).ok()?;
        let listing = self.belonging(listing).ok()?;
        is_fresh.then(|| listing.0.into_iter().map(|fetched| fetched.tip).collect())
    }

    /// Record of what is published at the targets.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn book(&self) -> Result<PublishRecord> {
        let path = self.private.join("published");
        let Some(bytes) = files::read_small(&path, LIST_CAP)? else {
            return Ok(PublishRecord::new());
        };
        self.parse(&bytes).with_context(|| {
            format!(
                "{} cannot be used\nhint: remove it; what is at the targets is found by its \
                 links, and published again where upstream still has it",
                path.display()
            )
        })
    }

    /// Stores the record of what is published at the targets.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_book(&self, book: &PublishRecord) -> Result<()> {
        self.put("published", book)
    }

    /// Reads `sealed`: the paths of the releases that were written completely. `None`: no
    /// build that seals releases published yet. An unreadable one counts as empty: then a release is
    /// written anew before it is shown again.
    pub fn sealed(&self) -> Option<BTreeSet<String>> {
        let read = files::read_small(&self.private.join("sealed"), LIST_CAP);
        let bytes = read.unwrap_or_else(|error| {
            tracing::warn!(%error, "no release counts as sealed");
            Some(Vec::new())
        })?;
        Some(String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect())
    }

    /// Replaces `sealed`, without a sync: a seal that a power cut takes costs one more writing of the
    /// release.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_sealed(&self, sealed: &BTreeSet<String>) -> Result<()> {
        let text: String = sealed.iter().flat_map(|line| [line, "\n"]).collect();
        files::put_lazily(&self.private, "sealed", text.as_bytes(), 0o600)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn records(dir: &Path) -> RepoRecords {
        RepoRecords { private: dir.into(), public: dir.into(), format: None }
    }

    #[test]
    fn what_was_heard_is_taken_once_and_not_when_it_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        let tips =
            vec![RefTip { name: "refs/heads/a".into(), id: "ab".repeat(20).parse().unwrap() }];
        let put = || {
            records.put_heard(&tips).unwrap();
            let file = std::fs::metadata(dir.path().join(HEARD)).unwrap();
            DateTime::<Utc>::from(file.modified().unwrap())
        };
        let now = put();
        assert_eq!(records.take_heard(now), Some(tips.clone()));
        assert_eq!(records.take_heard(now), None);
        for later in [FRESH, TimeDelta::seconds(-1)] {
            let now = put() + later;
            assert_eq!(records.take_heard(now), None, "{later}");
            assert_eq!(records.take_heard(now - later), None, "what is old goes");
        }
    }

    #[test]
    fn a_listing_survives_being_written_and_read() {
        let id: Commit = "ab".repeat(20).parse().unwrap();
        let fetched =
            |name: &str, commit| ListedRef { tip: RefTip { name: name.into(), id }, commit };
        let listing =
            RefListing(vec![fetched("refs/heads/$(id)", Some(id)), fetched("refs/tags/v1", None)]);
        assert_eq!(RefListing::parse(&listing.text()).unwrap(), listing);
        assert_eq!(listing.get("refs/tags/v1"), listing.0.last());
        assert_eq!(listing.get("refs/tags/v2"), None);
        assert!(RefListing::parse("ab cd").is_err());
    }

    #[test]
    fn a_list_that_is_lost_is_not_one_of_no_refs() {
        let dir = tempfile::tempdir().unwrap();
        let records = records(dir.path());
        assert_eq!(records.listing().unwrap(), None);
        records.put_listing(&RefListing::default()).unwrap();
        assert_eq!(records.listing().unwrap(), Some(RefListing::default()));
        files::put(dir.path(), "refs", b"", 0o600).unwrap();
        assert_eq!(records.listing().unwrap(), None);
    }
}
