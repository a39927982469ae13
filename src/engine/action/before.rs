//! Asks `before`: the last gate, and the only one that starts processes. It runs before anything on the machine
//! changes, in the tree that is to be applied. Does not decide when it is asked.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};

use crate::config::RepoSettings;
use crate::domain::git::Commit;
use crate::domain::repository::action::{Attempt, Outcome, Trigger};
use crate::engine::error::{is_untrusted, one_line};
use crate::engine::repository::{Repository, drift, tags, tree};
use crate::engine::run::log;
use crate::engine::run::scripts::{self, CommandList};
use crate::system::files;
use crate::system::host;
use crate::system::lock::{ActionLock, Journal, JournalStep, RunPhase, RunningScript};
use crate::system::logs::ActionLog;
use crate::system::release::{export_tree, remove_directory};

/// The directory of the tree that `before` runs in, below `.git/pmpy`; in it, one directory named like the
/// revision.
const EXPORT: &str = "tree";

/// One question to `before`.
pub struct BeforeQuestion<'a> {
    /// The repository.
    pub repository: &'a Repository<'a>,
    /// Its lock.
    pub lock: &'a ActionLock,
    /// The settings, with those of the revision.
    pub settings: &'a RepoSettings,
    /// The deployment that is asked about.
    pub step: &'a JournalStep,
    /// The revision of upstream, by which the answer is remembered.
    pub revision: Commit,
    /// The trigger of the action.
    pub trigger: Trigger,
    /// The staged tree; `None`: an export is made.
    pub staged: Option<&'a Path>,
}

impl BeforeQuestion<'_> {
    /// Runs the programs until one does not say yes, and records the answer; `true` when all said yes. The journal
    /// names each program while it runs.
    ///
    /// # Errors
    /// When a record cannot be written, or another user could exchange a program.
    pub fn ask(&self, journal: &mut Journal) -> Result<bool> {
        let now = host::now();
        let dir = match self.staged {
            Some(staged) => staged.to_owned(),
            None => export(self.repository, self.step.target)?,
        };
        let mut memory = self.repository.records.memory()?;
        let logs = log::log_dir(self.repository.context, &self.repository.repo.name);
        if let Some(old) = memory.before_log.take() {
            files::remove_lazily(&logs, &old)?;
        }
        let log = ActionLog::create(&logs, now, &self.step.target)?;
        log.start(&format!("{} before {}", self.repository.repo.name, self.step.target));
        memory.before_log = Some(log.name().to_owned());
        // Before a program may kill this process: the next worker replaces the log.
        self.repository.records.put_memory(&memory)?;
        scripts::report_log(self.repository, &log);
        let (outcome, program) = self.run(journal, &dir, &log)?;
        log.finish(host::now(), &outcome, scripts::seconds_since(now, host::now()));
        self.record(outcome, program, host::now())
    }

    fn run(
        &self,
        journal: &mut Journal,
        dir: &Path,
        log: &ActionLog,
    ) -> Result<(Outcome, Option<String>)> {
        let env = self.environment(dir)?;
        let deadline = scripts::deadline(self.settings.timeout);
        for program in &self.settings.publish.before {
            let list = match CommandList::before(self.repository.context, program, dir, &env) {
                Ok(list) => list,
                Err(error) if is_untrusted(&error) => return Err(error),
                Err(error) => {
                    let reason = one_line(&error);
                    return Ok((Outcome::Hindered { reason }, None));
                }
            };
            for (name, script) in list.into_commands() {
                tracing::info!(script = %name, "asking before");
                let gated = script.spawn_gated(log.file())?;
                let script = Some(RunningScript { process: gated.process(), deadline });
                journal.phase = RunPhase::Before { revision: self.step.target, script };
                self.lock.write(journal)?;
                let outcome = scripts::outcome_of(gated.release(deadline, || log.curb())?);
                if outcome != Outcome::Succeeded {
                    return Ok((outcome, Some(name)));
                }
            }
        }
        Ok((Outcome::Succeeded, None))
    }

    fn environment(&self, dir: &Path) -> Result<Vec<(OsString, OsString)>> {
        let Self { repository, step, .. } = self;
        let tried = repository.records.memory()?.tried;
        let changed = tree::changed_since(&repository.git, step.previous, &tried, step.target);
        let list = scripts::put_changed(
            repository,
            changed,
            step.target,
            0,
            drift::pending(repository)?.as_ref(),
        )?;
        let mut env = scripts::environment(repository, self.settings, step, self.trigger, &list)?;
        env.push(("AGENT_TREE".into(), dir.into()));
        let target = self.settings.target();
        let reference = match (&step.tag, &target) {
            (Some(tag), _) => Some(tags::full_name(tag)),
            (None, Some(_)) => Some(step.upstream().local()),
            (None, None) => None,
        };
        env.extend(reference.map(|reference| ("AGENT_REF".into(), reference.into())));
        if let Some(target) = target {
            env.push(("AGENT_TARGET".into(), target.links_dir.join(target.link("")).into()));
        }
        Ok(env)
    }

    fn record(
        &self,
        outcome: Outcome,
        program: Option<String>,
        now: DateTime<Utc>,
    ) -> Result<bool> {
        let mut memory = self.repository.records.memory()?;
        let said_yes = outcome == Outcome::Succeeded;
        if said_yes {
            if self.staged.is_none() {
                remove_export(self.repository)?;
            }
            memory.allowed = Some(self.revision);
            memory.attempt = memory.attempt.filter(|attempt| !attempt.is_of_before);
        } else {
            let (last, host) = (memory.attempt.as_ref(), &self.repository.context.node.host);
            let attempt = Attempt::of_before(outcome, self.revision, last, host, now);
            memory.attempt = Some(Attempt { script: program, ..attempt });
        }
        self.repository.records.put_memory(&memory)?;
        Ok(said_yes)
    }
}

/// The tree of `revision` in a directory of its own, made once for each revision.
fn export(repository: &Repository, revision: Commit) -> Result<PathBuf> {
    let parent = repository.records.private.join(EXPORT);
    let tree = tree::whole_tree(&repository.git, &repository.git, revision)?;
    let message = || format!("cannot write the tree of {} for before", revision.short());
    export_tree(&parent, &revision.to_string(), &tree, &repository.git).with_context(message)
}

/// Removes the tree that `before` ran in.
fn remove_export(repository: &Repository) -> Result<()> {
    let parent = repository.records.private.join(EXPORT);
    remove_directory(&parent, None, "")
}
