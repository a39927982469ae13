//! The remotes of one repository, asked in their order where its branch is; and what they said, kept.

use anyhow::Result;
use chrono::{DateTime, Utc};

use super::Here;
use super::observe::{Site, one_line};
use crate::domain::git::Remote;
use crate::domain::plan::Unreachable;
use crate::domain::remote::{LeftAlone, Reach, Trouble, Wanted, Way};
use crate::system::record::Polled;

impl Site<'_> {
    /// Asks the remotes where the branch is; the first that answers counts. What they said is
    /// written down when it differs from what they said `before`.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn poll(&self, before: &Polled, now: DateTime<Utc>) -> Result<Polled> {
        let reach = &self.repo.settings.reach;
        let mut after = ask(self.here, &self.remotes, reach, &self.wanted(), before, now);
        if let Some(tip) = after.tip
            && before.unreachable.is_some()
            && before.tip == Some(tip)
            && !self.git.has(tip)
        {
            // It answers, and what it says it has could not be had. Only a fetch ends that.
            after.unreachable = after.unreachable.or_else(|| before.unreachable.clone());
        }
        if after.says_the_same(before) {
            return Ok(Polled { refs: after.refs, bytes: after.bytes, ..before.clone() });
        }
        if self.records.exist() {
            self.records.put_polled(&after)?;
        }
        Ok(after)
    }

    /// What whoever sent a worker has just heard of the refs, or else as [`Site::poll`].
    ///
    /// # Errors
    /// As there.
    pub fn hear(&self, before: Polled, now: DateTime<Utc>) -> Result<Polled> {
        match self.records.take_heard(now) {
            Some(tips) if before.known => Ok(Polled { refs: Some(tips), ..before }),
            _ => self.poll(&before, now),
        }
    }
}

/// Asks each of `remotes` until one answers.
pub fn ask(
    here: &Here,
    remotes: &[Remote],
    reach: &Reach,
    wanted: &Wanted,
    before: &Polled,
    now: DateTime<Utc>,
) -> Polled {
    let mut failures = Vec::new();
    let mut left_alone = None;
    for (number, remote) in remotes.iter().enumerate() {
        let known = before.way_of(remote);
        match here.wire.poll(remote, wanted, reach, known) {
            Ok(answer) => {
                let same = known.filter(|known| known.is_the_same(&answer.way));
                let since = answer.way.since.or(same.and_then(|known| known.since));
                // What is younger than now was written under a clock that has since been set back.
                let since = since.filter(|since| *since <= now).or(Some(now));
                return Polled {
                    branch: answer.branch,
                    tip: answer.tip,
                    known: true,
                    refs: matches!(wanted, Wanted::Every { .. }).then_some(answer.refs),
                    listed: false,
                    bytes: Some(answer.way.bytes),
                    mirror: number > 0,
                    remote: Some(remote.to_string()),
                    way: Some(Way { since, ..answer.way }),
                    unreachable: None,
                    left_alone: None,
                };
            }
            Err(error) => {
                let trouble = error.downcast_ref::<Trouble>().copied();
                let after = trouble.and_then(|it| LeftAlone::after(it, before.left_alone, now));
                left_alone = left_alone.max(after);
                failures.push(one_line(&error));
            }
        }
    }
    let reason = match failures.as_slice() {
        [] => "no remote: neither a url in the configuration nor an origin in the clone; \
               set url, or: git remote add origin URL"
            .to_owned(),
        failures => failures.join("; "),
    };
    // What is younger than now was written under a clock that has since been set back.
    let since = before.unreachable.as_ref().map_or(now, |known| known.since.min(now));
    // Where redirects led may be what does not answer.
    let way = before.way.clone().map(|way| Way { base: None, ..way });
    Polled {
        unreachable: Some(Unreachable { since, reason }),
        left_alone,
        refs: None,
        way,
        bytes: None,
        ..before.clone()
    }
}
