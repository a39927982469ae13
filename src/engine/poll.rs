//! The remotes of one repository, asked in their order where its branch is; and what they said, kept.

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use super::Here;
use super::observe::{Site, joined, reason};
use crate::domain::git::Remote;
use crate::domain::plan::Unreachable;
use crate::domain::remote::{AllLeftAlone, Answer, LeftAlone, Reach, Trouble, Wanted, Way, Whom};
use crate::system::record::{Listing, Polled};

/// Whom to ask for what.
#[derive(Clone, Copy)]
pub struct Question<'a> {
    /// The remotes, in order.
    pub remotes: &'a [Remote],
    /// Under which settings.
    pub reach: &'a Reach,
    /// What.
    pub wanted: &'a Wanted,
    /// Which of them.
    pub whom: Whom,
}

/// How an answer stands to what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may be believed.
    Sound,
    /// It lacks what was seen here.
    Behind,
    /// Another remote told of something that is not here yet, and this one brings nothing new.
    Outdone,
}

impl Site<'_> {
    /// Asks the remotes where the branch is; the first counts that answers and is not behind what was
    /// seen. What they said is written down when it differs from what they said `before`.
    ///
    /// # Errors
    /// When that cannot be written, or what is here cannot be read.
    pub fn poll(&self, before: &Polled, whom: Whom, now: DateTime<Utc>) -> Result<Polled> {
        let (remotes, reach) = (self.remotes.as_slice(), &self.repo.settings.reach);
        let question = Question { remotes, reach, wanted: &self.wanted(), whom };
        let listing = match self.fetches_all() && remotes.len() > 1 {
            true => self.records.listing()?.unwrap_or_default(),
            false => Listing::default(),
        };
        let standing = |answer: &Polled| self.standing(answer, before, &listing);
        let mut after = ask(self.here, question, before, &standing, now)?;
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
    pub fn hear(&self, before: Polled, whom: Whom, now: DateTime<Utc>) -> Result<Polled> {
        match self.records.take_heard(now) {
            Some(tips) if before.known => Ok(Polled { refs: Some(tips), ..before }),
            _ => self.poll(&before, whom, now),
        }
    }

    /// How `answer` stands to what was seen here, and to what another remote said. One remote alone
    /// is believed whatever it says.
    fn standing(&self, answer: &Polled, before: &Polled, listing: &Listing) -> Result<Standing> {
        if self.remotes.len() < 2 {
            return Ok(Standing::Sound);
        }
        for tip in answer.refs.iter().flatten() {
            if let Some(seen) = listing.get(&tip.name).filter(|seen| seen.tip.id != tip.id)
                && let (Some(seen), Some(here)) = (seen.commit, self.git.peeled(tip.id))
                && self.git.contains(seen, here)?
            {
                return Ok(Standing::Behind);
            }
        }
        let tip = answer.tip.filter(|_| !self.fetches_all());
        let Some(tip) = tip.filter(|&tip| self.git.has(tip)) else { return Ok(Standing::Sound) };
        if answer.remote != before.remote && before.tip.is_some_and(|told| !self.git.has(told)) {
            return Ok(Standing::Outdone);
        }
        let mark = match &answer.branch {
            Some(branch) => self.git.kept_ref(&branch.seen())?,
            None => None,
        };
        Ok(match mark {
            Some(mark) if mark != tip && self.git.contains(mark, tip)? => Standing::Behind,
            _ => Standing::Sound,
        })
    }
}

/// Asks the remotes until one answers that is not behind what was seen.
///
/// # Errors
/// Those of `standing`.
pub fn ask(
    here: &Here,
    question: Question,
    before: &Polled,
    standing: &dyn Fn(&Polled) -> Result<Standing>,
    now: DateTime<Utc>,
) -> Result<Polled> {
    let Question { remotes, reach, wanted, whom } = question;
    let mut failures = Vec::new();
    let mut left_alone = AllLeftAlone::new();
    let mut late: Option<(Standing, Polled)> = None;
    let mut rest = remotes.iter().enumerate();
    let mut newest = None;
    for (number, remote) in rest.by_ref() {
        if let (Whom::TheWilling, Some(left)) = (whom, before.leaves_alone(remote, now)) {
            failures.push(left.reason.clone());
            left_alone.insert(remote.to_string(), left.clone());
            continue;
        }
        let known = before.way_of(remote);
        match here.wire.poll(remote, wanted, reach, known) {
            Ok(answer) => {
                let mirror = number > 0;
                let said = Polled { mirror, ..said(remote, answer, wanted, known, now) };
                match standing(&said)? {
                    Standing::Sound => {
                        newest = Some(said);
                        break;
                    }
                    behind => drop(late.get_or_insert((behind, said))),
                }
            }
            Err(error) => {
                leave_alone(&mut left_alone, before, remote, &error, now);
                failures.push(reason(&error));
            }
        }
    }
    // Who was not asked is as before.
    for remote in rest.map(|(_, remote)| remote.to_string()) {
        let left = before.left_alone.get(&remote).cloned();
        left_alone.extend(left.map(|left| (remote, left)));
    }
    let lags = late.as_ref().and_then(|(_, late)| late.remote.clone());
    let reason = match (newest, late, failures.is_empty()) {
        (Some(newest), ..) => return Ok(Polled { lags, left_alone, ..newest }),
        // All of them have gone back.
        (None, Some((_, late)), true) => return Ok(Polled { left_alone, ..late }),
        // Whoever is silent may have what was seen.
        (None, Some((Standing::Behind, late)), false) => {
            return Ok(Polled { lags, left_alone, ..late });
        }
        (None, None, true) => "no remote: neither a url in the configuration nor an origin in the \
                               clone\nhint: set url, or: git remote add origin URL"
            .to_owned(),
        (None, _, _) => {
            // Two of them may be on one server.
            failures.dedup();
            joined(&failures)
        }
    };
    // What is younger than now was written under a clock that has since been set back.
    let since = before.unreachable.as_ref().map_or(now, |known| known.since.min(now));
    let unreachable = Some(Unreachable { since, reason });
    // Where redirects led may be what does not answer.
    let way = before.way.clone().map(|way| Way { base: None, ..way });
    Ok(Polled { unreachable, left_alone, refs: None, way, bytes: None, ..before.clone() })
}

/// What `remote` said, which was asked before as `known`.
pub(super) fn said(
    remote: &Remote,
    answer: Answer,
    wanted: &Wanted,
    known: Option<&Way>,
    now: DateTime<Utc>,
) -> Polled {
    let same = known.filter(|known| known.is_the_same(&answer.way));
    let since = answer.way.since.or(same.and_then(|known| known.since));
    // What is younger than now was written under a clock that has since been set back.
    let since = since.filter(|since| *since <= now).or(Some(now));
    Polled {
        branch: answer.branch,
        tip: answer.tip,
        known: true,
        refs: matches!(wanted, Wanted::Every { .. }).then_some(answer.refs),
        bytes: Some(answer.way.bytes),
        remote: Some(remote.to_string()),
        way: Some(Way { since, ..answer.way }),
        ..Polled::default()
    }
}

/// Writes into `left_alone` what the `error` of `remote` means for later.
pub(super) fn leave_alone(
    left_alone: &mut AllLeftAlone,
    before: &Polled,
    remote: &Remote,
    error: &Error,
    now: DateTime<Utc>,
) {
    let remote = remote.to_string();
    let trouble = error.downcast_ref::<Trouble>().copied();
    let known = before.left_alone.get(&remote);
    let left = trouble.and_then(|it| LeftAlone::after(it, &reason(error), known, now));
    match left {
        Some(left) => drop(left_alone.insert(remote, left)),
        None => drop(left_alone.remove(&remote)),
    }
}
