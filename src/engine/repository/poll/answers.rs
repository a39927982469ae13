//! Gathers what the remotes of one repository answered, or why they did not. Polls none.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use crate::domain::git::Remote;
use crate::domain::remote::{
    Backoff, BackoffList, ConnectionSettings, Denial, FormatMismatch, RemoteFailure,
};
use crate::domain::report::error_report::join_reasons;
use crate::domain::repository::observed::{MOST_REFUSALS, Unreachable};
use crate::engine::error::reason;
use crate::system::host;
use crate::system::repo_state::PollRecord;

/// How an answer relates to what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerRelation {
    /// The answer is to be believed.
    Sound,
    /// The answer lacks revisions that were already seen here.
    Behind,
    /// Another remote named a tip that is not here yet, and this answer has nothing new.
    Outdone,
}

/// The answers of the remotes, each the first of its kind.
#[derive(Default)]
pub(super) struct Answers {
    pub newest: Option<PollRecord>,
    /// Those that lack what was seen here or what another remote named.
    late: Option<(AnswerRelation, PollRecord)>,
    /// Those without the branch.
    lacking: Option<PollRecord>,
    pub none: NoAnswer,
}

impl Answers {
    pub fn add(&mut self, standing: AnswerRelation, said: PollRecord) {
        match standing {
            // Another remote may have the branch.
            AnswerRelation::Sound if said.tip.is_none() => drop(self.lacking.get_or_insert(said)),
            AnswerRelation::Sound => self.newest = Some(said),
            behind => drop(self.late.get_or_insert((behind, said))),
        }
    }

    /// The answer that counts.
    ///
    /// # Errors
    /// Why none does.
    pub fn best(self) -> Result<PollRecord, NoAnswer> {
        let Self { newest, late, lacking, none } = self;
        let lags = late.as_ref().and_then(|(_, late)| late.remote.clone());
        match (newest, late) {
            (Some(newest), _) => Ok(PollRecord { lags, ..newest }),
            // All remotes answered and lack what was seen: upstream went back.
            (None, Some((_, late))) if none.reasons.is_empty() && lacking.is_none() => Ok(late),
            // A remote that did not answer may have what was seen.
            (None, Some((AnswerRelation::Behind, late))) => Ok(PollRecord { lags, ..late }),
            // One that refuses may have the branch.
            (None, None) if none.refused.is_none() => lacking.ok_or(none),
            (None, _) => Err(none),
        }
    }
}

/// Why the remotes brought nothing usable.
#[derive(Default)]
pub(in crate::engine) struct NoAnswer {
    reasons: Vec<String>,
    /// Whether a remote refuses access: `true`, it did so now; `false`, before, and it is left alone.
    pub(super) refused: Option<bool>,
    has_other_format: bool,
}

impl NoAnswer {
    /// Adds a remote that is in backoff and was not asked.
    pub fn leave(&mut self, left: &Backoff) {
        self.reasons.push(left.reason.clone());
        self.refused = self.refused.or(left.credentials.map(|_| false));
    }

    /// Adds the `error` of a remote that was asked with the settings of `tried`, and records in
    /// `left_alone` the backoff that follows from it.
    pub fn add(
        &mut self,
        left_alone: &mut BackoffList,
        before: &PollRecord,
        tried: (&Remote, &ConnectionSettings),
        error: &Error,
        now: DateTime<Utc>,
    ) {
        self.reasons.push(leave_alone(left_alone, before, tried, error, now));
        self.refused = self.refused.max(is_denial(error).then_some(true));
        self.has_other_format |= error.is::<FormatMismatch>();
    }

    /// The reasons as a message.
    pub fn reason(&self) -> String {
        if self.reasons.is_empty() {
            return "no remote: neither a url in the configuration nor an origin in the clone\n\
                    hint: set url, or: git remote add origin URL"
                .to_owned();
        }
        let mut reasons = self.reasons.clone();
        // Two remotes may be on one server and fail alike.
        reasons.dedup();
        join_reasons(&reasons)
    }
}

/// Whether somebody must act before the remote can be polled or fetched from.
pub(super) fn is_denial(error: &Error) -> bool {
    error.is::<Denial>() || matches!(error.downcast_ref(), Some(RemoteFailure::Credentials))
}

/// A hash of the attributes of the files that may hold the credentials.
pub(super) fn stamp(reach: &ConnectionSettings) -> u64 {
    let home = host::variable(&["HOME"]).map(PathBuf::from);
    let of_home = |name: &str| home.as_ref().map(|home| home.join(name));
    let own = [".netrc", ".ssh", ".ssh/config", ".ssh/known_hosts"].map(of_home);
    let ConnectionSettings { key_file, known_hosts, password_file, ca_file, client_cert, .. } =
        reach;
    let configured = [key_file, known_hosts, password_file, ca_file, client_cert];
    let mut hasher = DefaultHasher::new();
    for file in configured.into_iter().chain(&own).flatten() {
        let found = std::fs::metadata(file).ok();
        found
            .map(|it| (it.ino(), it.size(), it.mtime(), it.mtime_nsec(), it.mode()))
            .hash(&mut hasher);
    }
    hasher.finish()
}

/// Records in `left_alone` the backoff that follows from the `error` of `remote`, tried with the settings
/// of `reach`; returns the reason.
fn leave_alone(
    left_alone: &mut BackoffList,
    before: &PollRecord,
    (remote, reach): (&Remote, &ConnectionSettings),
    error: &Error,
    now: DateTime<Utc>,
) -> String {
    let remote = remote.to_string();
    let trouble = error.downcast_ref::<RemoteFailure>().copied();
    let known = before.left_alone.get(&remote);
    let pack = (trouble == Some(RemoteFailure::Pack)).then(|| before.listed_as());
    let known = known.filter(|known| known.pack == pack);
    let reason = reason(error);
    match trouble.and_then(|it| Backoff::after(it, &reason, known, now)) {
        Some(left) => {
            let credentials = is_denial(error).then(|| stamp(reach));
            let left = Backoff { pack, credentials, ..left };
            left_alone.entry(remote).insert_entry(left).get().reason.clone()
        }
        None => {
            left_alone.remove(&remote);
            reason
        }
    }
}

/// The record of a poll without a usable answer.
pub(in crate::engine) fn without_answer(
    before: PollRecord,
    none: NoAnswer,
    now: DateTime<Utc>,
) -> PollRecord {
    let (refused, has_other_format) = (none.refused, none.has_other_format);
    let known = if has_other_format { &before.other_format } else { &before.unreachable };
    let known = known.as_ref().filter(|known| (known.refusals > 0) == refused.is_some());
    // A time later than now was written before the clock was set back.
    let since = known.map_or(now, |known| known.since.min(now));
    let refusals = refused.map_or(0, |again| {
        known.map_or(1, |known| (known.refusals + u32::from(again)).min(MOST_REFUSALS))
    });
    let why = Some(Unreachable { since, reason: none.reason(), refusals });
    let (unreachable, other_format) = if has_other_format { (None, why) } else { (why, None) };
    PollRecord { unreachable, other_format, ..before }
}
