//! What a remote had at the last fetch of all its refs, and what of it stands at the targets.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use chrono::{DateTime, TimeDelta, Utc};

use super::{Records, files};
use crate::domain::git::Commit;
use crate::domain::publication::Book;
use crate::domain::remote::Tip;

/// The most that a list of refs may hold: half a million of them.
const LIST_CAP: u64 = 64 << 20;

const HEARD: &str = "heard";
/// How long a list counts as what the remote has: an answer may be on its way as long as that.
const FRESH: TimeDelta = TimeDelta::seconds(30);

/// What a list says that knows of no ref: an empty file is one that was lost.
const NONE: &str = "# no refs";

/// `refs`: what upstream had when its refs were fetched last, by name. One line each, such as
/// `ID COMMIT refs/tags/v1`, with `-` for what stands for no commit here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing(pub Vec<Fetched>);

/// One ref of a [`Listing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// What upstream has.
    pub tip: Tip,
    /// The commit that it stands for, when that is here.
    pub commit: Option<Commit>,
}

impl Listing {
    /// Whether upstream still has what it had.
    pub fn says(&self, tips: &[Tip]) -> bool {
        self.0.iter().map(|fetched| &fetched.tip).eq(tips)
    }

    /// The ref that is called `name` in full.
    pub fn get(&self, name: &str) -> Option<&Fetched> {
        let at = self.0.binary_search_by(|fetched| fetched.tip.name.as_str().cmp(name)).ok()?;
        self.0.get(at)
    }

    pub(super) fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| -> Result<Fetched> {
            let read = || {
                let (id, rest) = line.split_once(' ')?;
                let (commit, name) = rest.split_once(' ')?;
                let commit = match commit {
                    "-" => None,
                    commit => Some(commit.parse().ok()?),
                };
                Some(Fetched { tip: Tip { name: name.to_owned(), id: id.parse().ok()? }, commit })
            };
            read().with_context(|| format!("\"{}\" is no ref", line.escape_debug()))
        };
        let lines = text.lines().filter(|line| *line != NONE);
        lines.map(line).collect::<Result<_>>().map(Self)
    }

    pub(super) fn text(&self) -> String {
        if self.0.is_empty() {
            return format!("{NONE}\n");
        }
        let mut text = String::new();
        for Fetched { tip: Tip { name, id }, commit } in &self.0 {
            let commit = commit.map_or_else(|| "-".to_owned(), |commit| commit.to_string());
            // A String takes everything.
            let _ = writeln!(text, "{id} {commit} {name}");
        }
        text
    }
}

impl Records {
    /// What upstream had at the last fetch of all its refs. `None`: there was none, or what it had is
    /// lost, and nobody knows.
    ///
    /// # Errors
    /// When the file cannot be read or holds something else.
    pub fn listing(&self) -> Result<Option<Listing>> {
        let path = self.private.join("refs");
        let bytes = files::read_small(&path, LIST_CAP)?.unwrap_or_default();
        if bytes.is_empty() {
            return Ok(None);
        }
        let text = String::from_utf8(bytes).context("it is no text");
        text.and_then(|text| Listing::parse(&text)).map(Some).with_context(|| {
            format!(
                "{} cannot be used\nhint: remove it; what is published stays, and the next tick that \
                 reaches the remote asks it anew",
                path.display()
            )
        })
    }

    /// Remembers what upstream had.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_listing(&self, listing: &Listing) -> Result<()> {
        files::put(&self.private, "refs", listing.text().as_bytes(), 0o600)
    }

    /// Leaves `tips`, which a remote listed just now, to the worker that is started for them.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_heard(&self, tips: &[Tip]) -> Result<()> {
        let fetched = |tip: &Tip| Fetched { tip: tip.clone(), commit: None };
        let listing = Listing(tips.iter().map(fetched).collect());
        files::put_lazily(&self.private, HEARD, listing.text().as_bytes(), 0o600)
    }

    /// Takes what [`Records::put_heard`] left in the last moments before `now`. `None`: nothing, and
    /// the remote is to be asked again.
    pub fn take_heard(&self, now: DateTime<Utc>) -> Option<Vec<Tip>> {
        let path = self.private.join(HEARD);
        let written: DateTime<Utc> = path.symlink_metadata().ok()?.modified().ok()?.into();
        // Under a clock that was set back meanwhile nobody can say how old it is.
        let is_fresh = (TimeDelta::zero()..FRESH).contains(&(now - written));
        let bytes = files::read_small(&path, LIST_CAP).ok()??;
        // One that stays is soon too old for anybody.
        let _ = std::fs::remove_file(&path);
        let listing = Listing::parse(std::str::from_utf8(&bytes).ok()?).ok()?;
        is_fresh.then(|| listing.0.into_iter().map(|fetched| fetched.tip).collect())
    }

    /// What stands at the targets.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn book(&self) -> Result<Book> {
        let path = self.private.join("published");
        let Some(bytes) = files::read_small(&path, LIST_CAP)? else { return Ok(Book::new()) };
        serde_json::from_slice(&bytes).with_context(|| {
            format!(
                "{} cannot be used\nhint: remove it; what stands at the targets is found by its links, and \
                 published anew where upstream has it still",
                path.display()
            )
        })
    }

    /// Remembers what stands at the targets.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_book(&self, book: &Book) -> Result<()> {
        self.put("published", book)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_taken_once_and_not_when_it_is_old() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records { private: folder.path().into(), public: folder.path().into() };
        let tips = vec![Tip { name: "refs/heads/a".into(), id: "ab".repeat(20).parse().unwrap() }];
        let put = || {
            records.put_heard(&tips).unwrap();
            let file = std::fs::metadata(folder.path().join(HEARD)).unwrap();
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
        let fetched = |name: &str, commit| Fetched { tip: Tip { name: name.into(), id }, commit };
        let listing =
            Listing(vec![fetched("refs/heads/$(id)", Some(id)), fetched("refs/tags/v1", None)]);
        assert_eq!(Listing::parse(&listing.text()).unwrap(), listing);
        assert_eq!(listing.get("refs/tags/v1"), listing.0.last());
        assert_eq!(listing.get("refs/tags/v2"), None);
        assert!(Listing::parse("ab cd").is_err());
    }

    #[test]
    fn a_list_that_is_lost_is_not_one_of_no_refs() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records { private: folder.path().into(), public: folder.path().into() };
        assert_eq!(records.listing().unwrap(), None);
        records.put_listing(&Listing::default()).unwrap();
        assert_eq!(records.listing().unwrap(), Some(Listing::default()));
        files::put(folder.path(), "refs", b"", 0o600).unwrap();
        assert_eq!(records.listing().unwrap(), None);
    }
}
