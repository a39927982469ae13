//! One publication: the push, and what follows when the ref is not where this machine left it. Each step is recorded
//! before it is taken, so that a machine that dies in between recognizes what it sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use chrono::{DateTime, Utc};

use super::PresenceJob;
use crate::config::PresenceSettings;
use crate::domain::git::Commit;
use crate::domain::remote::{ConnectionSettings, FormatMismatch, RemoteFailure};
use crate::domain::report::presence::{
    ContestedPresence, FoundPublication, LastPublication, MOST_BYTES, OwnRefVerdict, PRESENCE_FILE,
    Presence, PresenceId, PresenceRecord, SentPublication,
};
use crate::domain::wire::push::{
    FileCommit, FileCommitText, NOT_UNPACKED, PushOutcome, RefChange, is_policy,
};
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths::{self, SafePaths};
use crate::engine::discovery::{CloneState, RepoEntry};
use crate::engine::error::{one_line, reason};
use crate::engine::tick::passwords;
use crate::engine::tick::presence_report::{own_id, record};
use crate::system::agent_state::{AgentState, PRESENCE};
use crate::system::git::{FileError, Git};
use crate::system::remote::{FetchGoal, FetchOrder, PushOrder};
use crate::system::temp_dir::TempDir;
use crate::system::{files, host};

/// The most requests of one publication, each of which has its own time limit.
pub(super) const MOST_REQUESTS: u32 = 20;
/// The most pushes of one publication.
const MOST_PUSHES: u32 = 6;
/// The first pause before a push that met another one's lock; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(150);
/// The name of the lock of all who publish in this world.
const LOCK: &str = "presence.lock";

/// Publishes `job`, unless another process does, or has just done so.
///
/// # Errors
/// When the record cannot be written. Why a publication failed is in the record.
pub(super) fn publish(context: &Context, job: &PresenceJob) -> Result<()> {
    safe_paths::state(context)?;
    let machine = AgentState::at(&context.settings.world.state);
    let Some(_turn) = machine.lock_within(LOCK, Duration::ZERO)? else { return Ok(()) };
    let remote = job.presence.remote.to_string();
    let name = job.branch.local();
    let known = record(context, &remote, &name);
    let mut record = known.unwrap_or_else(|| PresenceRecord::new(remote, name, own_id(context)));
    let now = host::now();
    // Another process may have published since the tick looked.
    if !record.is_due(&job.digest, job.publication.every, now) {
        return Ok(());
    }
    (record.tried, record.id) = (Some(now), own_id(context));
    let mut publication = OnePublication { context, job, machine, record, now };
    publication.keep()?;
    if let Err(error) = publication.run() {
        tracing::debug!("not published: {}", one_line(&error));
        publication.record.failed(reason(&error), now);
    }
    publication.keep()
}

/// A publication under way.
struct OnePublication<'a> {
    context: &'a Context,
    job: &'a PresenceJob,
    machine: AgentState,
    record: PresenceRecord,
    now: DateTime<Utc>,
}

impl OnePublication<'_> {
    fn keep(&self) -> Result<()> {
        self.machine.put(PRESENCE, &self.record)
    }

    /// Publishes; the error is why nothing was published, for a person.
    fn run(&mut self) -> Result<()> {
        check_files(self.context, &self.job.presence)?;
        let published = self.publish();
        if let Err(error) = &published
            && let Some(RemoteFailure::Credentials) = error.downcast_ref()
        {
            self.drop_password();
        }
        if published.as_ref().is_err_and(Error::is::<FormatMismatch>) {
            // The repository was made anew: the next attempt asks it first.
            self.record.begin_anew();
            (self.record.format, self.record.hints) = (None, None);
        }
        published
    }

    fn publish(&mut self) -> Result<()> {
        let Some(mut old) = self.begin()? else { return Ok(()) };
        let mut pause = FIRST_PAUSE;
        for _ in 0..MOST_PUSHES {
            let commit = self.commit(old, None)?;
            let PushOutcome::Rejected(why) = self.push(old, &commit)? else {
                self.took(commit.id);
                return Ok(());
            };
            let tip = self.tip()?;
            if tip == Some(commit.id) {
                self.took(commit.id);
                return Ok(());
            }
            if tip == old {
                if is_policy(&why) {
                    return Err(self.refused(&why));
                }
                // Another push held a lock. Machines that met do not meet again.
                thread::sleep(pause.mul_f64(0.5 + self.context.node.share()));
                pause *= 2;
            }
            if let Some(tip) = tip
                && self.is_lost_to_another(tip)?
            {
                return Ok(());
            }
            old = tip;
            if pause > FIRST_PAUSE * 2_u32.pow(MOST_PUSHES - 2) {
                return Err(self.refused(&why));
            }
        }
        bail!(
            "{} is moved by others all the time\nhint: which machines are called {}?",
            self.record.name,
            self.job.publication.host
        )
    }

    /// Where the own ref should be now: `Some(None)`: it should not exist; `None`: it is another machine's.
    fn begin(&mut self) -> Result<Option<Option<Commit>>> {
        if self.record.contested.is_some() {
            if self.tip()?.is_some() {
                return Ok(None);
            }
            // The ref was removed: a person has decided who may publish.
            self.record.begin_anew();
            return Ok(Some(None));
        }
        match (&self.record.last, self.record.format) {
            (Some(last), Some(_)) => Ok(Some(Some(last.commit))),
            _ => match self.tip()? {
                Some(tip) if self.is_lost_to_another(tip)? => Ok(None),
                tip => Ok(Some(tip)),
            },
        }
    }

    /// Whether the own ref, which is at `tip`, is that of a machine that publishes still. Both say so then, and stop.
    fn is_lost_to_another(&mut self, tip: Commit) -> Result<bool> {
        if self.record.knows(tip) {
            return Ok(false);
        }
        let found = self.look_at(tip)?;
        match self.record.judge(&found, self.now) {
            OwnRefVerdict::Ours => Ok(false),
            OwnRefVerdict::TakeOver(other) => {
                tracing::info!("presence: replacing the machine {}", other.short());
                Ok(false)
            }
            OwnRefVerdict::Contested(other) => {
                self.contest(tip, other, found.is_contested);
                Ok(true)
            }
        }
    }

    /// Stops publishing, and says so at the ref, once: the other machine finds it there.
    fn contest(&mut self, tip: Commit, other: PresenceId, is_said: bool) {
        let contested = ContestedPresence { other, since: self.now };
        self.record.contested = Some(contested.clone());
        self.record.failure = None;
        if is_said {
            return;
        }
        let said = self.commit(Some(tip), Some(contested));
        if let Err(error) = said.and_then(|commit| self.push(Some(tip), &commit)) {
            tracing::debug!("it is not said at the ref: {error:#}");
        }
    }

    /// The commit of this publication after `old`, with a number of its own.
    fn commit(
        &mut self,
        old: Option<Commit>,
        contested: Option<ContestedPresence>,
    ) -> Result<FileCommit> {
        let PresenceJob { presence, publication, .. } = self.job;
        let seq = self.record.seq.saturating_add(1);
        let publication = Presence { seq, contested, ..publication.clone() };
        let author = format!("agent <agent@{}>", publication.host);
        let text = FileCommitText {
            file: PRESENCE_FILE,
            content: &publication.to_bytes()?,
            parent: old.filter(|_| presence.history),
            author: &author,
            seconds: publication.at.timestamp(),
            message: &publication.subject(),
        };
        let format = self.record.format.unwrap_or_default();
        let commit = FileCommit::new(format, &text).context("the commit has no id")?;
        self.record.sends(SentPublication { commit: commit.id, seq });
        // Before it is sent: this machine knows it when it finds it at the ref.
        self.keep()?;
        Ok(commit)
    }

    fn push(&mut self, old: Option<Commit>, commit: &FileCommit) -> Result<PushOutcome> {
        let PresenceJob { presence, branch, .. } = self.job;
        let (remote, reach) = (&presence.remote, &presence.reach);
        let name = branch.local();
        let changes = [RefChange { name: &name, old, new: Some(commit.id) }];
        let order = PushOrder { remote, reach, changes: &changes, commit: Some(commit) };
        let (outcomes, hints) = self.context.wire.push(&order, &self.record.push_hints)?;
        self.record.push_hints = hints;
        outcomes.into_iter().next().context("the push has no outcome")
    }

    fn took(&mut self, commit: Commit) {
        let digest = self.job.digest.clone();
        self.record.published(LastPublication { commit, at: self.job.publication.at, digest });
    }

    /// Asks for the tip of the own ref, and learns the object format.
    fn tip(&mut self) -> Result<Option<Commit>> {
        let PresenceJob { presence, branch, .. } = self.job;
        let known = self.record.hints.as_ref();
        let answer = self.context.wire.tip(&presence.remote, branch, &presence.reach, known)?;
        self.record.format = Some(answer.way.format);
        self.record.hints = Some(answer.way);
        Ok(answer.tip)
    }

    /// What is at the own ref.
    fn look_at(&self, tip: Commit) -> Result<FoundPublication> {
        let dir = TempDir::make("pmpy-presence")?;
        let found = self.fetched(tip, dir.path().join("look"));
        if let Err(error) = dir.remove() {
            tracing::debug!("{error:#}");
        }
        let text = found.with_context(|| {
            format!("what is at {} of {} cannot be read", self.record.name, self.record.remote)
        })?;
        let no_publication = |why: String| {
            anyhow!(
                "{} is at a commit that no agent published: {why}\n\
                 hint: remove that branch there, or set another name below [node]",
                self.record.name
            )
        };
        let bytes = text.ok_or_else(|| no_publication(format!("it has no {PRESENCE_FILE}")))?;
        let presence =
            Presence::parse(&bytes).map_err(|fault| no_publication(fault.to_string()))?;
        Ok(FoundPublication::of(&presence))
    }

    fn fetched(&self, tip: Commit, into: PathBuf) -> Result<Option<Vec<u8>>> {
        let PresenceJob { presence, branch, .. } = self.job;
        let git = Git::create(&into, &presence.remote, tip.0.format(), branch)?;
        let reach = ConnectionSettings { depth: 1, ..presence.reach.clone() };
        let order = FetchOrder {
            remote: &presence.remote,
            reach: &reach,
            goal: FetchGoal::Branch { branch, to: &branch.tracking(), tip: Some(tip) },
            way: self.record.hints.as_ref(),
        };
        self.context.wire.fetch(&git, &order, &mut |_| {})?;
        git.file_at(tip, PRESENCE_FILE, MOST_BYTES).map_err(FileError::into_error)
    }

    /// Removes a password of `password_command` that was refused: the next attempt gets another one.
    fn drop_password(&self) {
        let presence = &self.job.presence;
        let file = presence.remote.server().and_then(|it| presence.reach.cached_password(&it));
        if let Some(file) = file
            && let (Some(dir), Some(name)) = (file.parent(), file.file_name())
        {
            // One that stays is refused again.
            let _ = files::remove_lazily(dir, &name.to_string_lossy());
        }
    }

    /// The error for a push that the server refuses for the reason `why`, each time.
    fn refused(&self, why: &str) -> Error {
        let host = &self.job.publication.host;
        let hint = if why.contains("non-fast-forward") {
            "set history = true, or there: git config receive.denyNonFastForwards false".to_owned()
        } else if why.starts_with(NOT_UNPACKED) {
            "is its disk full, or may it not write in the repository?".to_owned()
        } else if is_policy(why) {
            format!("may this key write {}?", self.record.name)
        } else {
            format!("is there a branch called {host}, which is in the way of {host}/state?")
        };
        anyhow!("{} does not take it: {why}\nhint: {hint}", self.record.remote)
    }
}

/// Checks that no other user can exchange a file with a secret, and lets the program of `password_command` print the
/// password.
///
/// # Errors
/// When another user could; says which file, with the remedy.
pub(super) fn check_files(context: &Context, presence: &PresenceSettings) -> Result<()> {
    let entry = as_entry(context, presence);
    if let Some(fault) = entry.paths.settings_fault(context, &entry) {
        bail!("{fault}");
    }
    if !presence.password_command.is_empty() {
        passwords::refresh(context, &[entry], &None, None);
    }
    Ok(())
}

/// Presence as an entry, for the code that checks the files of one.
fn as_entry(context: &Context, presence: &PresenceSettings) -> RepoEntry {
    let paths = Arc::new(SafePaths::new(context));
    let state = context.settings.world.state.clone();
    RepoEntry {
        name: "presence".to_owned(),
        path: state.clone(),
        listed: state,
        trust: paths.trust(context.node.user.uid),
        paths,
        settings: presence.as_repo(),
        found: CloneState::Clone,
    }
}
