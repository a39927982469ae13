//! Polls the remotes of one repository in their order and records their answers. Decides nothing about
//! what to do with a new tip.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Error, Result};
use chrono::{DateTime, Utc};

use crate::domain::followed::{ChosenTag, SeenTag, TagRelation};
use crate::domain::git::{Commit, Remote, RemoteScheme};
use crate::domain::remote::{
    Backoff, BackoffList, BackoffPolicy, ConnectionSettings, FormatMismatch, PollAnswer, PollScope,
    RemoteHead, RemoteHints, UnansweredProbe,
};
use crate::domain::repository::observed::Unreachable;
use crate::domain::repository::request::ActionRequest;
use crate::domain::wire::ProtocolError;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::repository::doubt::{self, Trust};
use crate::engine::repository::upstream_refs::TAGS;
use crate::engine::repository::{Repository, limits};
use crate::system::git::upstream;
use crate::system::repo_state::{PollRecord, RefListing};
use crate::system::watchdog;

pub use self::answers::AnswerRelation;
use self::answers::{Answers, is_denial, stamp};
pub(in crate::engine) use self::answers::{NoAnswer, without_answer};

mod answers;

/// One poll: the remotes, the settings and the refs to ask for.
#[derive(Clone, Copy)]
pub struct PollRequest<'a> {
    /// The remotes, in order.
    pub remotes: &'a [Remote],
    /// The connection settings.
    pub reach: &'a ConnectionSettings,
    /// The refs to ask for.
    pub wanted: &'a PollScope,
    /// Whether to skip remotes in backoff.
    pub backoff: BackoffPolicy,
    /// The clone that the poll is for; `None`: it is not cloned yet.
    pub repository: Option<&'a Repository<'a>>,
}

impl Repository<'_> {
    /// Polls one remote for `wanted`. `known`: hints from its last answer.
    ///
    /// # Errors
    /// As [`Wire::poll`](crate::system::remote::Wire::poll), with the remedy.
    pub fn ask(
        &self,
        remote: &Remote,
        wanted: &PollScope,
        known: Option<&RemoteHints>,
    ) -> Result<PollAnswer> {
        let (reach, format) = (&self.repo.settings.reach, Some(self.git.format()));
        let answer = self.context.wire.poll(remote, wanted, reach, known, format);
        answer.map_err(|error| self.with_remedy(error, remote))
    }

    /// Adds the remedy to `error`, where `remote` has another object format than the clone.
    pub(in crate::engine) fn with_remedy(&self, error: Error, remote: &Remote) -> Error {
        if !error.is::<FormatMismatch>() {
            return match self.explained_by(remote) {
                Some(text) => error.context(text),
                None => error,
            };
        }
        let (path, root) = (&self.repo.path, &self.context.settings.world.root);
        // Below the root the old clone would be one more repository.
        let sibling = if path.parent() == Some(root) { root } else { path };
        let aside = sibling.with_file_name(format!("{}.{}", self.repo.name, self.git.format()));
        let (path, aside) = (path.display(), aside.display());
        let clone = match (self.repo.settings.urls.is_empty(), &self.context.helper_input) {
            (false, _) => String::new(),
            (true, None) => format!(" && git clone {remote} {path}"),
            // A clone of root's in its place would be worked on as root from the next tick on.
            (true, Some(_)) => {
                let user = &self.context.node.user.name;
                format!(
                    " && install -d -o {user} {path} \
                     && su -s /bin/sh -c 'git clone {remote} {path}' {user}"
                )
            }
        };
        let name = &self.repo.name;
        error.context(format!(
            "none of its objects can be fetched into this clone\n\
             hint: to clone it anew: mv {path} {aside}{clone} && agent tick {name}"
        ))
    }

    /// What the clone's configuration has for `remote` that the agent does not use, with what replaces it.
    fn explained_by(&self, remote: &Remote) -> Option<String> {
        let scheme = remote.scheme()?;
        let mut unused = self.git.unused_settings(&self.source);
        unused.retain(|setting| upstream::concerns(setting, scheme));
        let unused = Some(unused.join(", ")).filter(|unused| !unused.is_empty())?;
        let instead = match scheme {
            RemoteScheme::Ssh => "key_file and known_hosts, or a Host in ~/.ssh/config",
            RemoteScheme::Http | RemoteScheme::Https => {
                "username, password_file, ca_file, client_cert and proxy"
            }
            RemoteScheme::Local | RemoteScheme::Git => "the address itself as url",
        };
        Some(format!(
            "the clone's configuration has {unused}, which git uses and the agent does not\n\
             hint: set {instead}; for another address set url"
        ))
    }

    /// The sentence about what the agent does not use of the clone's configuration; `None`: nothing.
    pub fn unused_settings(&self) -> Option<String> {
        let unused = self.git.unused_settings(&self.source);
        (!unused.is_empty()).then(|| {
            format!(
                "git pull uses these settings of the clone, and the agent does not: {}\n\
                 hint: what replaces them is in docs/moving.md; where nothing is needed, remove them",
                unused.join(", ")
            )
        })
    }

    /// Polls the remotes in order; the first answer that is not behind what was seen here counts. The
    /// answer is recorded when it differs from `before`. `deleted`: see [`TickOptions`](crate::engine::request::TickOptions).
    ///
    /// # Errors
    /// When the record cannot be written, or the clone cannot be read.
    pub fn poll(
        &self,
        before: &PollRecord,
        request: ActionRequest,
        deleted: &[String],
        now: DateTime<Utc>,
    ) -> Result<PollRecord> {
        let (remotes, reach) = (self.remotes.as_slice(), &self.repo.settings.reach);
        let (wanted, backoff) = (&self.wanted(), request.backoff());
        let wanted = &wanted.clone().without(&before.no_commits);
        let question = PollRequest { remotes, reach, wanted, backoff, repository: Some(self) };
        let listing = match self.fetches_all() {
            true => self.records.listing()?.unwrap_or_default(),
            false => RefListing::default(),
        };
        let standing = |answer: &PollRecord| self.standing(answer, before, &listing);
        let mut after = ask(self.context, question, before, &standing, now)?;
        if let Some(tip) = after.tip
            && before.unreachable.is_some()
            && before.tip == Some(tip)
            && !self.git.has(tip)
        {
            // The remote answers, but a fetch of the tip that it names failed. Only a fetch that
            // succeeds ends this.
            after.unreachable = after.unreachable.or_else(|| before.unreachable.clone());
        }
        let mut after =
            doubt::weigh(self, after, before, &listing, Trust { request, deleted }, now);
        if let Some(revision) = wanted.revision() {
            after = self.without_missing(revision, after, before, backoff, now);
        }
        after.no_commits.clone_from(&before.no_commits);
        self.put_tag_names(&mut after, before)?;
        if after.says_the_same(before) {
            return Ok(PollRecord { refs: after.refs, bytes: after.bytes, ..before.clone() });
        }
        if self.records.exist() {
            self.records.put_polled(&after)?;
        }
        Ok(after)
    }

    /// The answer `after` to a poll for a `revision` that no remote had when it was last asked for it: it is
    /// not wanted again before the pause is over.
    fn without_missing(
        &self,
        revision: Commit,
        after: PollRecord,
        before: &PollRecord,
        backoff: BackoffPolicy,
        now: DateTime<Utc>,
    ) -> PollRecord {
        if before.no_ref.is_none() || after.unreachable.is_some() || self.git.has(revision) {
            return after;
        }
        let pauses =
            backoff == BackoffPolicy::Respect && after.all_left_alone(&self.remotes, now).is_some();
        let tip = after.tip.filter(|_| !pauses);
        PollRecord { tip, no_ref: before.no_ref.clone(), ..after }
    }

    /// Stores the names of the tags that a remote just listed, where they differ from those of `before`.
    fn put_tag_names(&self, after: &mut PollRecord, before: &PollRecord) -> Result<()> {
        let Some(names) = after.tags.take() else {
            after.tag_names = before.tag_names;
            return Ok(());
        };
        let mut hasher = DefaultHasher::new();
        names.hash(&mut hasher);
        after.tag_names = Some(hasher.finish());
        if after.tag_names != before.tag_names && self.records.exist() {
            self.records.add_listed_tags(names)?;
        }
        Ok(())
    }

    /// The refs that the tick which started this worker has just listed, or else the answer of
    /// [`Repository::poll`].
    ///
    /// # Errors
    /// As [`Repository::poll`].
    pub fn take_or_poll(
        &self,
        before: PollRecord,
        request: ActionRequest,
        now: DateTime<Utc>,
    ) -> Result<PollRecord> {
        match self.records.take_heard(now) {
            Some(tips) if before.known => Ok(PollRecord { refs: Some(tips), ..before }),
            _ => self.poll(&before, request, &[], now),
        }
    }

    /// How `answer` relates to what was seen here, and to another remote's answer. With one remote
    /// alone there is no other to ask.
    fn standing(
        &self,
        answer: &PollRecord,
        before: &PollRecord,
        listing: &RefListing,
    ) -> Result<AnswerRelation> {
        if self.remotes.len() < 2 {
            return Ok(AnswerRelation::Sound);
        }
        for tip in answer.refs.iter().flatten() {
            if let Some(seen) = listing.get(&tip.name).filter(|seen| seen.tip.id != tip.id)
                && let (Some(seen), Some(context)) = (seen.commit, self.git.peeled(tip.id))
                && self.git.contains(seen, context)?
            {
                return Ok(AnswerRelation::Behind);
            }
        }
        if let Some(tag) = &answer.tag {
            return self.standing_of_tag(tag, answer, before);
        }
        let tip = answer.tip.filter(|_| !self.fetches_all());
        let Some(tip) = tip.filter(|&tip| self.git.has(tip)) else {
            return Ok(AnswerRelation::Sound);
        };
        if answer.remote != before.remote
            && before.tip.is_some_and(|expected| !self.git.has(expected))
        {
            return Ok(AnswerRelation::Outdone);
        }
        let mark = match &answer.branch {
            Some(branch) => self.git.kept_ref(&branch.seen())?,
            None => None,
        };
        Ok(match mark {
            Some(mark) if mark != tip && self.git.contains(mark, tip)? => AnswerRelation::Behind,
            _ => AnswerRelation::Sound,
        })
    }
}

impl Repository<'_> {
    /// As [`Repository::standing`], of the newest tag of an answer.
    fn standing_of_tag(
        &self,
        tag: &ChosenTag,
        answer: &PollRecord,
        before: &PollRecord,
    ) -> Result<AnswerRelation> {
        let lacks = |lost: TagRelation| lost == TagRelation::Gone;
        if self.lost_tag(tag)?.is_some_and(|(_, lost)| lacks(lost)) {
            return Ok(AnswerRelation::Behind);
        }
        let expected = before.tag.as_ref().filter(|_| answer.remote != before.remote);
        if let (Some(expected), Some(pattern)) = (expected, self.tag_pattern()) {
            let ChosenTag { name, id, commit, .. } = expected.clone();
            let expected = SeenTag { name, id, commit: Some(commit) };
            if lacks(expected.relation(tag, &pattern)) {
                return Ok(AnswerRelation::Outdone);
            }
        }
        Ok(AnswerRelation::Sound)
    }
}

/// Polls the remotes in order until an answer is not behind what was seen.
///
/// # Errors
/// The errors of `standing`.
pub fn ask(
    context: &Context,
    question: PollRequest,
    before: &PollRecord,
    standing: &dyn Fn(&PollRecord) -> Result<AnswerRelation>,
    now: DateTime<Utc>,
) -> Result<PollRecord> {
    let PollRequest { remotes, reach, wanted, .. } = question;
    let mut answers = Answers::default();
    let mut left_alone = BackoffList::new();
    let mut discovery_first = before.discovery_first.clone();
    let mut rest = remotes.iter().enumerate();
    for (number, remote) in rest.by_ref() {
        if let Some(left) = skipped(question, before, remote, now) {
            answers.none.leave(left);
            left_alone.insert(remote.to_string(), left.clone());
            continue;
        }
        let known = before.hints_for(remote);
        let known = known.as_ref();
        let _step =
            watchdog::within("asking its remote", reach.limit.saturating_add(limits::SLACK));
        let answer = match question.repository {
            Some(repository) => repository.ask(remote, wanted, known),
            None => context.wire.poll(remote, wanted, reach, known, None),
        };
        match answer {
            Ok(answer) => {
                let mirror = number > 0;
                let head = answer.head.clone().filter(|_| !mirror);
                let said = PollRecord { mirror, ..said(remote, answer, wanted, known, now) };
                let said = under_its_new_name(said, head, before);
                let said = match question.repository {
                    Some(repository) => repository.with_tag_known(said, before),
                    None => said,
                };
                let kept = before.left_alone.get(&remote.to_string());
                if let Some(left) = kept.filter(|left| left.pack == Some(said.listed_as())) {
                    left_alone.insert(remote.to_string(), left.clone());
                }
                let standing = standing(&said)?;
                answers.add(standing, said);
                if answers.newest.is_some() {
                    break;
                }
            }
            Err(error) => {
                // An error message in git's protocol, in place of the refs, is the server's refusal.
                let message = error.downcast_ref::<ProtocolError>();
                let is_denied =
                    is_denial(&error) || matches!(message, Some(ProtocolError::ServerMessage(_)));
                answers.none.add(&mut left_alone, before, (remote, reach), &error, now);
                answers.none.refused = answers.none.refused.max(is_denied.then_some(true));
                if error.is::<UnansweredProbe>() {
                    discovery_first.insert(remote.to_string());
                }
            }
        }
    }
    // A remote that was not asked keeps its backoff.
    for remote in rest.map(|(_, remote)| remote.to_string()) {
        let left = before.left_alone.get(&remote).cloned();
        left_alone.extend(left.map(|left| (remote, left)));
    }
    Ok(match answers.best() {
        Ok(best) => PollRecord { left_alone, ..best },
        Err(none) => {
            let way = before.way.clone().map(RemoteHints::after_failure);
            let (refs, bytes) = (None, None);
            let before = before.clone();
            let polled = PollRecord { left_alone, discovery_first, refs, way, bytes, ..before };
            without_answer(polled, none, now)
        }
    })
}

/// The backoff for which `remote` is not asked; `None`: it is asked.
fn skipped<'a>(
    question: PollRequest,
    before: &'a PollRecord,
    remote: &Remote,
    now: DateTime<Utc>,
) -> Option<&'a Backoff> {
    if question.backoff != BackoffPolicy::Respect {
        return None;
    }
    let left = before.leaves_alone(remote, now).filter(|left| left.pack.is_none())?;
    let is_unchanged = left.credentials.is_none_or(|it| it == stamp(question.reach));
    is_unchanged.then_some(left)
}

/// The record of an answer of `remote`; `known`: hints from its answer before.
pub(in crate::engine) fn said(
    remote: &Remote,
    answer: PollAnswer,
    wanted: &PollScope,
    known: Option<&RemoteHints>,
    now: DateTime<Utc>,
) -> PollRecord {
    let same = known.filter(|known| known.is_the_same(&answer.way));
    let since = answer.way.since.or(same.and_then(|known| known.since));
    // A time later than now was written before the clock was set back.
    let since = since.filter(|since| *since <= now).or(Some(now));
    let no_ref =
        answer.no_ref(remote, wanted).map(|reason| Unreachable { since: now, reason, refusals: 0 });
    let names = answer.refs.iter().filter_map(|tip| tip.name.strip_prefix(TAGS));
    let tags = wanted.pattern().map(|_| names.map(str::to_owned).collect());
    PollRecord {
        wanted: wanted.branch().cloned(),
        fixed: wanted.fixed(),
        tag: answer.tag,
        tags,
        remote_head: answer.head.map(|head| head.branch),
        no_ref,
        branch: answer.branch,
        tip: answer.tip,
        known: true,
        refs: matches!(wanted, PollScope::Every { .. }).then_some(answer.refs),
        bytes: Some(answer.way.bytes),
        remote: Some(remote.to_string()),
        way: Some(RemoteHints { since, ..answer.way }),
        ..PollRecord::default()
    }
}

/// What `said` means where the wanted branch was the first remote's `head` and goes by another name now.
/// Also keeps what is known of that HEAD and since when the branch is missing.
fn under_its_new_name(
    said: PollRecord,
    head: Option<RemoteHead>,
    before: &PollRecord,
) -> PollRecord {
    if said.tip.is_some() {
        let is_first = !said.mirror && said.remote_head.is_some();
        let remote_head = if is_first { said.remote_head } else { before.remote_head.clone() };
        return PollRecord { remote_head, ..said };
    }
    let remote_head = before.remote_head.clone();
    let was_head = said.wanted.is_some() && remote_head == said.wanted;
    match head.filter(|head| was_head && Some(&head.branch) != said.wanted.as_ref()) {
        Some(RemoteHead { branch, tip }) if tip.is_some() => {
            PollRecord { branch: Some(branch), tip, no_ref: None, remote_head, ..said }
        }
        _ => {
            let no_ref = said.no_ref.map(|why| match &before.no_ref {
                Some(known) => Unreachable { since: known.since.min(why.since), ..why },
                None => why,
            });
            PollRecord { no_ref, remote_head, ..said }
        }
    }
}

/// Polls the remotes of a repository that is not cloned yet.
///
/// # Errors
/// When what is configured to be followed cannot be resolved.
pub fn ask_before_cloning(
    context: &Context,
    repo: &RepoEntry,
    before: &PollRecord,
    backoff: BackoffPolicy,
    now: DateTime<Utc>,
) -> Result<PollRecord> {
    let wanted = repo.wanted(context)?;
    let (remotes, reach) = (repo.settings.urls.as_slice(), &repo.settings.reach);
    let question = PollRequest { remotes, reach, wanted: &wanted, backoff, repository: None };
    ask(context, question, before, &|_| Ok(AnswerRelation::Sound), now)
}
