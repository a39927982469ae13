//! Which commits have to be signed before a revision is applied, and whether they are.
//!
//! Who signs a merge vouches for its tree. So every commit on the way of first parents from the commit that was
//! accepted last has to be signed; where that way does not lead there, every commit that no accepted one contains.

use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::fmt;

use chrono::{DateTime, Utc};

use super::allowed_signers::{AllowedSigners, GIT, Signer, SignerFault};
use super::public_key::{Fingerprint, KeyFault};
use super::signed_object::{self, CommitObject, SignedBytes};
use super::ssh_signature::{BEGIN, SignatureFault, SshSignature};
use crate::domain::git::{Commit, ObjectFormat};
use crate::domain::repository::change::ObjectError;
use crate::domain::text::{EscapeControls, utc_minute};

/// Commits and tags by id, read from the objects themselves: neither grafts nor `shallow` nor replace refs count.
pub trait HistorySource {
    /// The object format of the repository.
    fn format(&self) -> ObjectFormat;

    /// The bytes of the commit `id`.
    ///
    /// # Errors
    /// When it cannot be read.
    fn commit_bytes(&self, id: Commit) -> Result<Vec<u8>, ObjectError>;
}

/// What was accepted here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The commit that was accepted last of what is judged; `None`: it is new here.
    pub own: Option<Commit>,
    /// The commits that were accepted last of all other refs.
    pub others: Vec<Commit>,
    /// The commit that a first clone has to descend from.
    pub introduction: Option<Commit>,
}

/// A revision that may be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouched {
    /// Who signed the revision, or the tag; `None`: it was accepted before.
    pub signer: Option<Signer>,
    /// How many commits were verified for it.
    pub commits: usize,
}

/// Why a revision may not be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This commit does not count.
    Commit(Commit, Why),
    /// The tag of the ref of this name does not count.
    Tag(String, Why),
    /// A parent of the first is not in the clone.
    MissingParent(Commit, Commit),
    /// The revision does not descend from the introduction.
    NotDescended(Commit, Commit),
}

/// Why a signature does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    Unsigned,
    /// It is of a kind that is not supported.
    OtherKind,
    /// The object is not one that git makes.
    Malformed,
    /// The tag has another name than its ref.
    Renamed(String),
    /// The signature itself, by this key.
    Signature(Option<Fingerprint>, SignatureFault),
    /// The key with this fingerprint does not count.
    Signer(Fingerprint, SignerFault),
}

/// Why there is no answer, or a bad one.
#[derive(Debug)]
pub enum JudgeError {
    /// The revision may not be applied.
    Refused(Refusal),
    /// An object cannot be read, which is no fault of the revision.
    Unreadable(ObjectError),
}

impl From<ObjectError> for JudgeError {
    fn from(error: ObjectError) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Refusal> for JudgeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Why {
    /// What is wrong, as the end of a sentence about the commit or the tag. `file` is the file of the signers.
    pub fn sentence(&self, file: &str) -> String {
        match self {
            Self::Unsigned => "is not signed".to_owned(),
            Self::OtherKind => {
                "is signed, but not by an ssh key (git config gpg.format ssh)".to_owned()
            }
            Self::Malformed => "is not an object as git makes it".to_owned(),
            Self::Renamed(name) => {
                format!("is a tag that was signed as {}", name.escape_controls())
            }
            Self::Signature(key, fault) => {
                let by = key.as_ref().map_or_else(String::new, |key| format!(" by {key}"));
                match fault {
                    SignatureFault::Malformed => "has a signature that cannot be read".to_owned(),
                    SignatureFault::Namespace(other) => {
                        format!(
                            "has a signature{by} for \"{}\", not for git",
                            other.escape_controls()
                        )
                    }
                    SignatureFault::Key(KeyFault::Kind(kind)) => {
                        format!(
                            "is signed by a key of the kind {}, which may not sign",
                            kind.escape_controls()
                        )
                    }
                    SignatureFault::Key(fault) => {
                        format!("has a signature{by}, whose key is wrong: {fault}")
                    }
                    SignatureFault::Untouched => {
                        format!("is signed{by} without a touch of that key")
                    }
                    SignatureFault::Wrong => {
                        format!("has a wrong signature{by}: it was changed after it was signed")
                    }
                }
            }
            Self::Signer(key, fault) => match fault {
                SignerFault::Unlisted => {
                    format!("is signed by {key}, which {file} does not list")
                }
                SignerFault::OtherNamespace => {
                    format!("is signed by {key}, which {file} lists for other namespaces than git")
                }
                SignerFault::NotYetValid(from) => {
                    format!("is signed by {key}, which {file} lists from {} on", utc_minute(*from))
                }
                SignerFault::Expired(until) => {
                    format!("is signed by {key}, which {file} lists until {}", utc_minute(*until))
                }
            },
        }
    }
}

impl fmt::Display for Accepted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.own {
            Some(own) => write!(f, "since {}", own.short()),
            None => f.write_str("at its beginning here"),
        }
    }
}

/// Judges whether `tip` may be applied.
///
/// # Errors
/// See [`JudgeError`].
pub fn judge(
    source: &impl HistorySource,
    signers: &AllowedSigners,
    tip: Commit,
    accepted: &Accepted,
) -> Result<Vouched, JudgeError> {
    let way = Way { source, accepted };
    let mut newest = way.newest_accepted();
    let mut vouched = Vouched { signer: None, commits: 0 };
    // The oldest first: the one before has then been accepted.
    let ToVerify { steps, unless_in } = way.to_verify(tip)?;
    let mut hidden = None;
    for commit in steps.into_iter().rev() {
        let verdict = way.read(commit)?.ok_or(Why::Malformed).and_then(|object| {
            let at = newest.map_or(object.committed_at, |newest| newest.max(object.committed_at));
            Ok((signer_of(signers, &object.signed, at)?, at))
        });
        match verdict {
            Ok((signer, at)) => {
                vouched.commits += 1;
                newest = Some(at);
                if commit == tip {
                    vouched.signer = Some(signer);
                }
            }
            Err(_) if way.was_hidden(commit, tip, &unless_in, &mut hidden)? => {}
            Err(why) => return Err(Refusal::Commit(commit, why).into()),
        }
    }
    Ok(vouched)
}

/// Judges whether the annotated tag with these bytes, of the ref `refs/tags/NAME`, may be applied.
///
/// # Errors
/// See [`JudgeError`].
pub fn judge_tag(
    source: &impl HistorySource,
    signers: &AllowedSigners,
    (name, bytes): (&str, &[u8]),
    accepted: &Accepted,
) -> Result<Vouched, JudgeError> {
    let refused = |why| Refusal::Tag(name.to_owned(), why);
    let tag = signed_object::tag(bytes, source.format()).ok_or_else(|| refused(Why::Malformed))?;
    let way = Way { source, accepted };
    let newest = way.newest_accepted();
    // One without a tagger is not older than its commit.
    let tagged_at = tag.tagged_at.or_else(|| way.date_of(Commit(tag.object)));
    let at = tagged_at.into_iter().chain(newest).max().unwrap_or(DateTime::UNIX_EPOCH);
    let signer = signer_of(signers, &tag.signed, at).map_err(refused)?;
    if tag.name != name.as_bytes() {
        let other = String::from_utf8_lossy(&tag.name).chars().take(100).collect();
        return Err(refused(Why::Renamed(other)).into());
    }
    Ok(Vouched { signer: Some(signer), commits: 0 })
}

/// Whether `commit` was accepted here: it is on the way of first parents of a commit that was.
///
/// # Errors
/// When a commit cannot be read.
pub fn was_accepted(
    source: &impl HistorySource,
    commit: Commit,
    accepted: &Accepted,
) -> Result<bool, ObjectError> {
    let way = Way { source, accepted };
    let mut seen = HashSet::new();
    for tip in accepted.own.iter().chain(&accepted.others) {
        let mut next = Some(*tip);
        while let Some(here) = next.filter(|here| seen.insert(*here)) {
            if here == commit {
                return Ok(true);
            }
            next = match way.read(here) {
                Err(ObjectError::Missing(_)) => None,
                object => object?.and_then(|object| object.parents.first().copied()),
            };
        }
    }
    Ok(false)
}

/// Who signed `signed`, which counts as made at `at`.
fn signer_of(
    signers: &AllowedSigners,
    signed: &SignedBytes,
    at: DateTime<Utc>,
) -> Result<Signer, Why> {
    let armored = signed.signature.as_deref().ok_or(Why::Unsigned)?;
    if !armored.starts_with(BEGIN.as_bytes()) {
        return Err(Why::OtherKind);
    }
    let signature = SshSignature::parse(armored).map_err(|fault| Why::Signature(None, fault))?;
    let fingerprint = signature.fingerprint();
    // Whether it is listed first: what an unknown key signed is not worth the arithmetic.
    let signer = match signers.find(fingerprint, at) {
        Ok(signer) => Ok(signer),
        Err(SignerFault::Unlisted) => {
            return Err(Why::Signer(fingerprint.clone(), SignerFault::Unlisted));
        }
        Err(fault) => Err(Why::Signer(fingerprint.clone(), fault)),
    };
    signature
        .verify(&signed.payload, GIT)
        .map_err(|fault| Why::Signature(Some(fingerprint.clone()), fault))?;
    signer.map(|signer| Signer {
        principals: signer.principals.escape_controls(),
        fingerprint: fingerprint.clone(),
    })
}

/// Commits that have to be signed, the newest first. Ids alone: of a long history the commits themselves are much.
struct ToVerify {
    steps: Vec<Commit>,
    /// Unless one of these contains them: dates that are out of order may have hidden that.
    unless_in: Vec<Commit>,
}

impl ToVerify {
    fn all(steps: Vec<Commit>) -> Self {
        Self { steps, unless_in: Vec::new() }
    }
}

struct Way<'a, S> {
    source: &'a S,
    accepted: &'a Accepted,
}

impl<S: HistorySource> Way<'_, S> {
    fn read(&self, commit: Commit) -> Result<Option<CommitObject>, ObjectError> {
        let bytes = self.source.commit_bytes(commit)?;
        Ok(signed_object::commit(&bytes, self.source.format()))
    }

    /// The date of the commit that was accepted last; `None`: none was, or it cannot be read any more.
    fn newest_accepted(&self) -> Option<DateTime<Utc>> {
        match self.accepted.own {
            Some(own) => self.date_of(own),
            None => self.accepted.others.iter().filter_map(|other| self.date_of(*other)).max(),
        }
    }

    /// The date of a commit; `None`: it is none, or cannot be read.
    fn date_of(&self, commit: Commit) -> Option<DateTime<Utc>> {
        self.read(commit).ok().flatten().map(|object| object.committed_at)
    }

    /// The commits that have to be signed before `tip` is applied.
    fn to_verify(&self, tip: Commit) -> Result<ToVerify, JudgeError> {
        let Accepted { own, others, introduction } = self.accepted;
        if *own == Some(tip) || others.contains(&tip) {
            return Ok(ToVerify::all(Vec::new()));
        }
        let tip_alone = || Ok(ToVerify::all(vec![tip]));
        let start = match introduction {
            Some(introduction) if own.is_none() && others.is_empty() => {
                if !self.history_of(&[tip])?.contains(introduction) {
                    return Err(Refusal::NotDescended(tip, *introduction).into());
                }
                Some(*introduction)
            }
            _ => *own,
        };
        let from: Vec<Commit> = start.iter().chain(others).copied().collect();
        // Of what is new here, its hash covers the rest.
        if from.is_empty() || start == Some(tip) {
            return tip_alone();
        }
        if let Some(start) = start
            && let Some(way) = self.first_parents(tip, start)?
        {
            return Ok(ToVerify::all(way));
        }
        let steps = self.not_contained(tip, &from)?;
        if steps.contains(&tip) {
            return Ok(ToVerify { steps, unless_in: from });
        }
        // It is contained, and so is all that it contains. A commit that was merged was vouched for by the merge, and
        // as a revision of its own by its signature.
        match was_accepted(self.source, tip, self.accepted)? {
            true => Ok(ToVerify::all(Vec::new())),
            false => tip_alone(),
        }
    }

    /// The way of first parents from `tip` down to `start`, without it; `None`: it does not lead there.
    fn first_parents(
        &self,
        tip: Commit,
        start: Commit,
    ) -> Result<Option<Vec<Commit>>, ObjectError> {
        let (mut way, mut here) = (Vec::new(), tip);
        while here != start {
            let object = match self.read(here) {
                Err(ObjectError::Missing(_)) if here != tip => return Ok(None),
                object => object?,
            };
            let Some(parent) = object.and_then(|object| object.parents.first().copied()) else {
                return Ok(None);
            };
            way.push(here);
            here = parent;
        }
        Ok(Some(way))
    }

    /// The commits that `tip` contains and none of `from`, the newest first. Dates that are out of order may leave
    /// some in that one of `from` contains.
    fn not_contained(&self, tip: Commit, from: &[Commit]) -> Result<Vec<Commit>, JudgeError> {
        let mut walk = Walk::default();
        for start in from {
            match self.read(*start) {
                Err(ObjectError::Missing(_)) => {}
                object => walk.meet(*start, object?, true),
            }
        }
        walk.meet(tip, self.read(tip)?, false);
        let mut between = Vec::new();
        while walk.open > 0 {
            let Some((commit, object)) = walk.next() else { break };
            let is_contained = walk.contained.contains(&commit);
            for parent in object.into_iter().flat_map(|object| object.parents) {
                if walk.knows(parent, is_contained) {
                    continue;
                }
                match self.read(parent) {
                    Err(ObjectError::Missing(_)) if is_contained => {}
                    Err(ObjectError::Missing(_)) => {
                        return Err(Refusal::MissingParent(commit, parent).into());
                    }
                    object => walk.meet(parent, object?, is_contained),
                }
            }
            if !is_contained {
                between.push(commit);
            }
        }
        between.retain(|commit| !walk.contained.contains(commit));
        Ok(between)
    }

    /// Whether one of `unless_in` contains `commit` after all. The revision itself must have been accepted. `history`
    /// is what they contain, once that was needed.
    fn was_hidden(
        &self,
        commit: Commit,
        tip: Commit,
        unless_in: &[Commit],
        history: &mut Option<HashSet<Commit>>,
    ) -> Result<bool, ObjectError> {
        if unless_in.is_empty() {
            return Ok(false);
        }
        if commit == tip {
            return was_accepted(self.source, tip, self.accepted);
        }
        let history = match history {
            Some(history) => history,
            None => history.insert(self.history_of(unless_in)?),
        };
        Ok(history.contains(&commit))
    }

    /// All commits that one of `tips` contains, and they themselves.
    fn history_of(&self, tips: &[Commit]) -> Result<HashSet<Commit>, ObjectError> {
        let (mut seen, mut open) = (HashSet::from_iter(tips.iter().copied()), tips.to_vec());
        while let Some(commit) = open.pop() {
            match self.read(commit) {
                // One that was collected meanwhile hides nothing.
                Err(ObjectError::Missing(_)) => {}
                object => {
                    let parents = object?.into_iter().flat_map(|object| object.parents);
                    open.extend(parents.filter(|parent| seen.insert(*parent)));
                }
            }
        }
        Ok(seen)
    }
}

/// A walk through two histories at once, the newest commits first.
#[derive(Default)]
struct Walk {
    /// By date, then by id.
    queue: BinaryHeap<(DateTime<Utc>, Commit)>,
    objects: HashMap<Commit, Option<CommitObject>>,
    /// Commits that an accepted one contains.
    contained: HashSet<Commit>,
    /// How many in the queue are not known to be contained.
    open: usize,
    queued: BTreeSet<Commit>,
}

impl Walk {
    /// Adds a commit that is not known.
    fn meet(&mut self, commit: Commit, object: Option<CommitObject>, is_contained: bool) {
        let date = object.as_ref().map_or(DateTime::<Utc>::MIN_UTC, |it| it.committed_at);
        if self.objects.insert(commit, object).is_some() {
            return;
        }
        if is_contained {
            self.contained.insert(commit);
        } else {
            self.open += 1;
        }
        self.queued.insert(commit);
        self.queue.push((date, commit));
    }

    /// Whether `commit` was met before; notes that it is contained, where it is.
    fn knows(&mut self, commit: Commit, is_contained: bool) -> bool {
        if !self.objects.contains_key(&commit) {
            return false;
        }
        if is_contained && self.contained.insert(commit) && self.queued.contains(&commit) {
            self.open -= 1;
        }
        true
    }

    /// The newest commit, and what it says; `None` in it: it is not one that git makes.
    fn next(&mut self) -> Option<(Commit, Option<CommitObject>)> {
        let (_, commit) = self.queue.pop()?;
        self.queued.remove(&commit);
        if !self.contained.contains(&commit) {
            self.open -= 1;
        }
        let object = self.objects.get_mut(&commit)?.take();
        Some((commit, object))
    }
}

#[cfg(test)]
mod tests;
