//! Whether a revision may be applied by its signatures: reads who may sign, what was accepted here, and the commits
//! on the way. What was accepted is kept as refs next to the high-water marks, so that lost state cannot be used to go
//! back.

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Error, Result, bail};

use crate::domain::git::Commit;
use crate::domain::publish::rules::accepted_mark;
use crate::domain::remote::PollScope;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::change::ObjectError;
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::{JudgedTag, SignatureNeed, SignedRevision};
use crate::domain::signature::allowed_signers::Signer;
use crate::domain::signature::way::{self, Accepted, JudgeError, Refusal, Vouched, Why};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::error::one_line;
use crate::engine::repository::{Repository, tags};
use crate::system::git::ACTED;
use crate::system::repo_state::LastAction;
use crate::system::signers::SignersFile;

/// The prefix of the refs of what was accepted.
pub(in crate::engine) const ACCEPTED: &str = "refs/pmpy/accepted";
/// The ref of the revision that was accepted last, where the newest of several tags is followed.
const ACCEPTED_TAG: &str = "refs/pmpy/accepted-tag";
/// The ref of the revision that was accepted last, where a fixed one is followed.
const ACCEPTED_REVISION: &str = "refs/pmpy/accepted-revision";

/// The judge of signatures of one repository.
pub(in crate::engine) struct SignatureJudge<'a> {
    repository: &'a Repository<'a>,
    file: Arc<SignersFile>,
    /// The refs of what was accepted, with their commits. Read once, however many refs are judged.
    refs: OnceCell<Vec<(String, Commit)>>,
}

/// The file of the signers of `repo`, where `allowed_signers` is set.
///
/// # Errors
/// When it cannot be used.
pub(in crate::engine) fn signers(
    context: &Context,
    repo: &RepoEntry,
) -> Result<Option<Arc<SignersFile>>> {
    let Some(path) = &repo.settings.policy.gates.signers else { return Ok(None) };
    let file = context.signers.get(path, || context.zones.get(None));
    file.map(Some).context("allowed_signers")
}

impl Repository<'_> {
    /// The judge, where `allowed_signers` is set.
    ///
    /// # Errors
    /// When the file of the signers cannot be used.
    pub(in crate::engine) fn signature_judge(&self) -> Result<Option<SignatureJudge<'_>>> {
        let file = signers(self.context, self.repo)?;
        Ok(file.map(|file| SignatureJudge { repository: self, file, refs: OnceCell::new() }))
    }
}

impl SignatureJudge<'_> {
    /// Judges `target`, the revision that is to be applied where one is followed.
    ///
    /// # Errors
    /// When an object or a record cannot be read.
    pub fn judge(
        &self,
        target: Commit,
        need: SignatureNeed,
    ) -> Result<Result<SignedRevision, Finding>> {
        let vouched = match need {
            SignatureNeed::Signed => self.followed(target),
            SignatureNeed::AcceptedHere => match self.was_accepted(target)? {
                true => Ok(Vouched { signer: None, commits: 0 }),
                false => return Ok(Err(self.never_accepted(target, self.tag_of(target)))),
            },
        };
        let tag = self.tag_of(target);
        Ok(match self.answered(vouched, target, tag.as_ref())? {
            Ok(Vouched { signer, commits }) => Ok(SignedRevision {
                revision: target,
                signers: self.file.hash.clone(),
                need,
                tag,
                signer,
                commits,
            }),
            Err(finding) => Err(finding),
        })
    }

    fn followed(&self, target: Commit) -> Result<Vouched, JudgeError> {
        let repository = self.repository;
        let accepted = self.accepted(&own_ref(repository)).map_err(unreadable(target))?;
        if let Some(tag) = self.tag_of(target) {
            return self.tag_or_commit(&tag.name, tag.id, target, &accepted);
        }
        let mut vouched = Vouched { signer: None, commits: 0 };
        // Local commits and merges of our own are judged by the upstream commit below them.
        for commit in self.upstream_below(target).map_err(unreadable(target))? {
            let one = way::judge(&repository.git, &self.file.signers, commit, &accepted)?;
            vouched.commits += one.commits;
            vouched.signer = one.signer.or(vouched.signer);
        }
        Ok(vouched)
    }

    /// Judges the ref `name` (full name), whose object is `id` and whose commit is `revision`, where each of several
    /// refs is judged by itself. `shown` is what is applied of it, `applied` what is of all refs.
    ///
    /// # Errors
    /// When an object or a record cannot be read.
    pub fn judge_ref(
        &self,
        name: &str,
        id: Commit,
        revision: Commit,
        (shown, applied): (Option<Commit>, &[Commit]),
    ) -> Result<Result<Option<Signer>, Finding>> {
        let mut accepted = match accepted_mark(name) {
            Some(mark) => self.accepted(&mark)?,
            None => self.accepted("")?,
        };
        accepted.own = accepted.own.or(shown);
        accepted.others.extend(applied);
        accepted.others.sort_unstable();
        accepted.others.dedup();
        let vouched = match name.strip_prefix("refs/tags/") {
            Some(tag) => self.tag_or_commit(tag, id, revision, &accepted),
            None => way::judge(&self.repository.git, &self.file.signers, revision, &accepted),
        };
        let tag = name.strip_prefix("refs/tags/");
        let tag = tag.map(|tag| JudgedTag { name: tag.to_owned(), id });
        Ok(self.answered(vouched, revision, tag.as_ref())?.map(|vouched| vouched.signer))
    }

    /// A signed tag suffices; a light one is judged by its commit.
    fn tag_or_commit(
        &self,
        name: &str,
        id: Commit,
        revision: Commit,
        accepted: &Accepted,
    ) -> Result<Vouched, JudgeError> {
        let (git, signers) = (&self.repository.git, &self.file.signers);
        if id == revision {
            return way::judge(git, signers, revision, accepted);
        }
        let bytes = git.tag_bytes(id)?;
        way::judge_tag(git, signers, (name, &bytes), accepted)
    }

    /// Separates what is wrong with the revision from what is wrong with the clone.
    fn answered(
        &self,
        judged: Result<Vouched, JudgeError>,
        revision: Commit,
        tag: Option<&JudgedTag>,
    ) -> Result<Result<Vouched, Finding>> {
        match judged {
            Ok(vouched) => Ok(Ok(vouched)),
            Err(JudgeError::Refused(refusal)) => Ok(Err(self.finding(&refusal, revision, tag))),
            // The same in every clone.
            Err(JudgeError::Unreadable(
                error @ (ObjectError::TooLarge { .. } | ObjectError::WrongKind { .. }),
            )) => Ok(Err(self.unsigned(error.to_string(), tag))),
            Err(JudgeError::Unreadable(error)) => Err(Error::msg(error.to_string())),
        }
    }

    fn unsigned(&self, reason: String, tag: Option<&JudgedTag>) -> Finding {
        Finding::Unsigned { reason, signers: self.file.hash.clone(), tag: tag.cloned() }
    }

    /// The followed tag at `revision`.
    fn tag_of(&self, revision: Commit) -> Option<JudgedTag> {
        let tag = self.repository.polled().tag.filter(|tag| tag.commit == revision)?;
        Some(JudgedTag { name: tag.name, id: tag.id })
    }

    fn finding(&self, refusal: &Refusal, revision: Commit, tag: Option<&JudgedTag>) -> Finding {
        let file = self.file.name.escape_controls();
        let named = |commit: &Commit| self.named(*commit);
        let (sentence, why) = match refusal {
            Refusal::Commit(commit, why) => {
                (format!("{} {}", named(commit), why.sentence(&file)), Some(why))
            }
            Refusal::Tag(name, why) => {
                (format!("the tag {} {}", name.escape_controls(), why.sentence(&file)), Some(why))
            }
            Refusal::MissingParent(commit, parent) => (
                format!(
                    "{} has the parent {}, which is not in the clone",
                    named(commit),
                    parent.short()
                ),
                None,
            ),
            Refusal::NotDescended(commit, since) => (
                format!("{} does not descend from {} (signed_since)", named(commit), since.short()),
                None,
            ),
        };
        let hint = match why {
            Some(Why::Unsigned | Why::OtherKind) => "hint: sign it and push it again",
            Some(Why::Signer(..)) => {
                "hint: if its owner may sign, add the key to that file: cat id.pub shows it"
            }
            _ => "hint: look at what was pushed: git log --show-signature",
        };
        let reason =
            format!("{sentence}\n{hint}; or take it as it is: agent accept REPO {revision} REASON");
        self.unsigned(reason, tag)
    }

    fn never_accepted(&self, target: Commit, tag: Option<JudgedTag>) -> Finding {
        let reason = format!(
            "{} was never accepted here by {}\nhint: go to one that was: agent history REPO",
            self.named(target),
            self.file.name.escape_controls()
        );
        self.unsigned(reason, tag.as_ref())
    }

    fn named(&self, commit: Commit) -> String {
        let subject = self.repository.git.subject(commit).escape_controls();
        format!("{} {subject}", commit.short()).trim_end().to_owned()
    }

    /// What was accepted here. `own` is our ref of what is judged.
    fn accepted(&self, own: &str) -> Result<Accepted> {
        let repository = self.repository;
        let mut accepted = Accepted {
            introduction: repository.repo.settings.policy.gates.signed_since,
            ..Accepted::default()
        };
        let old = match repository.wanted() {
            // Under its new name, the default branch continues from where it was.
            PollScope::WithHead(old) => accepted_mark(&old.local()),
            _ => None,
        };
        let mut of_old = None;
        for (name, commit) in self.accepted_refs()? {
            if name == own {
                accepted.own = Some(*commit);
                continue;
            }
            if old.as_deref() == Some(name) {
                of_old = Some(*commit);
            }
            accepted.others.push(*commit);
        }
        accepted.own = accepted.own.or(of_old);
        if accepted.own.is_none() && accepted.others.is_empty() && !repository.fetches_all() {
            accepted.own = self.start()?;
        }
        Ok(accepted)
    }

    fn accepted_refs(&self) -> Result<&[(String, Commit)]> {
        if let Some(known) = self.refs.get() {
            return Ok(known);
        }
        let git = &self.repository.git;
        let mut refs = Vec::new();
        for name in git.refs_below(ACCEPTED)? {
            refs.extend(git.kept_ref(&name)?.map(|commit| (name, commit)));
        }
        Ok(self.refs.get_or_init(|| refs))
    }

    /// What is applied here before anything was accepted.
    fn start(&self) -> Result<Option<Commit>> {
        let repository = self.repository;
        let applied = match (repository.git.kept_ref(ACTED)?, repository.records.last_action().0) {
            (Some(acted), _) | (None, LastAction::Revision(acted)) => acted,
            _ => return Ok(None),
        };
        Ok(self.upstream_below(applied)?.first().copied())
    }

    /// The commits of upstream that are below `revision`: itself, where upstream has it.
    fn upstream_below(&self, revision: Commit) -> Result<Vec<Commit>> {
        let git = &self.repository.git;
        let is_upstreams = self.repository.polled().tip == Some(revision);
        // Only what is checked out may have commits of this machine.
        let head = self.repository.head_commit().filter(|_| !self.repository.publishes());
        let is_local = |head| git.contains(head, revision);
        if is_upstreams || !head.map_or(Ok(false), is_local)? {
            return Ok(vec![revision]);
        }
        let mut tips = BTreeSet::new();
        for below in ["refs/remotes/", "refs/pmpy/seen", ACCEPTED, "refs/tags/"] {
            for name in git.refs_below(below)? {
                // One that leads nowhere says nothing here.
                tips.extend(git.ref_id(&name).ok().flatten().and_then(|id| git.peeled(id)));
            }
        }
        for name in [tags::FETCHED, tags::REVISION] {
            tips.extend(git.ref_id(name)?.and_then(|id| git.peeled(id)));
        }
        for tip in &tips {
            if git.contains(*tip, revision)? {
                return Ok(vec![revision]);
            }
        }
        let mut bases = BTreeSet::new();
        for tip in tips {
            bases.extend(git.merge_base(tip, revision)?);
        }
        // Only the newest: what one of them contains was below it.
        let mut newest = Vec::new();
        for base in &bases {
            let mut is_below = false;
            for other in bases.iter().filter(|other| *other != base) {
                is_below |= git.contains(*other, *base)?;
            }
            if !is_below {
                newest.push(*base);
            }
        }
        match newest.is_empty() {
            true => Ok(vec![revision]),
            false => Ok(newest),
        }
    }

    /// Whether `revision` was accepted here.
    ///
    /// # Errors
    /// When an object or a record cannot be read.
    pub fn was_accepted(&self, revision: Commit) -> Result<bool> {
        let repository = self.repository;
        let runs = repository.records.history()?;
        let memory = repository.records.memory()?;
        let mut applied = runs.iter().chain(&memory.acted);
        if applied.any(|run| run.revision == revision && run.outcome == Outcome::Succeeded) {
            return Ok(true);
        }
        let accepted = self.accepted(&own_ref(repository))?;
        for commit in self.upstream_below(revision)? {
            let found = way::was_accepted(&repository.git, commit, &accepted);
            if !found.map_err(|error| Error::msg(error.to_string()))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Fails unless `revision`, at which a person wants to be, was accepted here, or may be as what the ref `name`
    /// has, where each ref is judged by itself.
    ///
    /// # Errors
    /// When it may not be applied, with the reason; or something cannot be read.
    pub fn require(&self, revision: Commit, name: Option<&str>) -> Result<()> {
        if self.was_accepted(revision)? {
            return Ok(());
        }
        let finding = match name.filter(|_| self.repository.fetches_all()) {
            Some(name) => {
                let id = self.repository.listed_id(name)?.unwrap_or(revision);
                match self.judge_ref(name, id, revision, (None, &[]))? {
                    Ok(_) => return Ok(()),
                    Err(finding) => finding,
                }
            }
            None => self.never_accepted(revision, None),
        };
        bail!("{}: {}", self.repository.repo.name, finding.state_and_reason().1)
    }
}

impl Repository<'_> {
    /// The object of the ref `name` (full name), as it was fetched; for an annotated tag the tag itself.
    ///
    /// # Errors
    /// When the record cannot be read.
    pub(in crate::engine) fn listed_id(&self, name: &str) -> Result<Option<Commit>> {
        Ok(self.records.listing()?.and_then(|listing| Some(listing.get(name)?.tip.id)))
    }

    /// Records that `revision`, which is applied, was accepted as what the ref `name` (full name) has; does nothing
    /// where signatures do not count.
    ///
    /// # Errors
    /// When the ref cannot be written.
    pub(in crate::engine) fn accept_ref(&self, name: &str, revision: Commit) -> Result<()> {
        match accepted_mark(name).filter(|_| self.repo.settings.policy.gates.signers.is_some()) {
            Some(mark) => self.put_accepted(&mark, revision),
            None => Ok(()),
        }
    }

    /// Records that what upstream has was accepted, where `applied` is it or contains it; a revision of before, at
    /// which a person wants to be, changes nothing.
    ///
    /// # Errors
    /// When a ref cannot be read or written.
    pub(in crate::engine) fn accept_applied(&self, applied: Commit) -> Result<()> {
        if self.repo.settings.policy.gates.signers.is_none() {
            return Ok(());
        }
        let tip = match self.wanted().revision() {
            Some(revision) => Some(revision),
            None => self.polled().tip,
        };
        let Some(tip) = tip.filter(|tip| self.git.has(*tip)) else { return Ok(()) };
        let own = own_ref(self);
        let is_new = match self.git.ref_id(&own)? {
            // A mirror that lags behind takes nothing back.
            Some(known) if applied != tip => !self.git.contains(known, tip)?,
            _ => true,
        };
        match is_new && self.git.contains(applied, tip)? {
            true => self.put_accepted(&own, tip),
            false => Ok(()),
        }
    }

    fn put_accepted(&self, name: &str, revision: Commit) -> Result<()> {
        if self.git.ref_id(name)? == Some(revision) {
            return Ok(());
        }
        self.git.set_logged_ref(name, revision, "accepted by its signature")
    }
}

/// Our own ref of what was accepted of what is followed.
fn own_ref(repository: &Repository) -> String {
    if repository.tag_pattern().is_some() {
        return ACCEPTED_TAG.to_owned();
    }
    if repository.wanted().revision().is_some() {
        return ACCEPTED_REVISION.to_owned();
    }
    let branch = repository.polled().branch.or_else(|| repository.branch.clone());
    branch.and_then(|branch| accepted_mark(&branch.local())).unwrap_or_default()
}

fn unreadable(commit: Commit) -> impl Fn(Error) -> JudgeError {
    move |error| ObjectError::Unreadable { id: commit.0, cause: one_line(&error) }.into()
}
