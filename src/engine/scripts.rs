//! Running the scripts of one action, in order, until one does not succeed.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Here;
use super::observe::Site;
use crate::config::RepoSettings;
use crate::domain::action::{Begun, Outcome, Trigger, Word};
use crate::domain::env_file;
use crate::domain::git::{Commit, RefName};
use crate::domain::ladder::{self, Ladder};
use crate::system::files;
use crate::system::lock::{ActionLock, Journal, Phase, Running, Step};
use crate::system::logs::Log;
use crate::system::node::{self, User, since_boot};
use crate::system::process::{self, Ended, Script};
use crate::system::record::Memory;
use crate::system::scripts;

/// What an action runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Agenda {
    /// The init ladder, where it is due.
    pub init: Vec<String>,
    /// The work ladder, or the configured scripts.
    pub work: Vec<String>,
}

impl Agenda {
    /// The scripts that exist in the worktree. `settings` are those of the revision.
    pub fn of(site: &Site, settings: &RepoSettings, init_due: bool) -> Self {
        let here = site.here;
        let worktree = &site.repo.path;
        let existing = |ladder| {
            let rungs: Vec<_> = ladder::rungs(ladder, here.part.as_deref(), here.stack.as_deref())
                .into_iter()
                .filter(|rung| scripts::exists(worktree, rung))
                .collect();
            let fallback = ladder::fallback(ladder);
            if rungs.is_empty() && scripts::exists(worktree, fallback) {
                return vec![fallback.to_owned()];
            }
            rungs
        };
        if !site.runs_scripts() {
            return Self::default();
        }
        Self {
            init: if init_due { existing(Ladder::Init) } else { Vec::new() },
            work: settings.scripts.clone().unwrap_or_else(|| existing(Ladder::Work)),
        }
    }

    /// Whether nothing is to run.
    pub fn is_empty(&self) -> bool {
        self.init.is_empty() && self.work.is_empty()
    }
}

/// Whether the init ladder is still to run: once per clone that the agent made, and again on a
/// machine that was made of this one's disk.
pub fn init_due(here: &Here, memory: &Memory) -> bool {
    let us = here.node.machine_id.as_str();
    let here_already = |done: &str| done == us || !is_known(done) || !is_known(us);
    memory.init_due && !memory.init_done.as_deref().is_some_and(here_already)
}

/// Whether an id tells one machine from another. Before the first boot there is none, or the word that
/// stands for none (machine-id(5)).
fn is_known(id: &str) -> bool {
    !id.is_empty() && id != "uninitialized"
}

/// Whether the init ladder ran here before this machine had an id, and now it has one.
pub fn id_is_late(here: &Here, memory: &Memory) -> bool {
    let nameless = memory.init_done.as_deref().is_some_and(|done| !is_known(done));
    nameless && is_known(&here.node.machine_id)
}

/// Remembers an id that came late, so that it tells this machine from those that are made of its disk.
///
/// # Errors
/// When that cannot be written.
pub fn adopt_id(site: &Site) -> Result<()> {
    if id_is_late(site.here, &site.records.memory()?) { init_succeeded(site) } else { Ok(()) }
}

/// Remembers that the init ladder ran on this machine.
///
/// # Errors
/// When that cannot be written.
pub fn init_succeeded(site: &Site) -> Result<()> {
    let mut memory = site.records.memory()?;
    memory.init_done = Some(site.here.node.machine_id.clone());
    site.records.put_memory(&memory)
}

/// Whether this machine was made of the disk of one on which the init ladder had run.
pub fn made_elsewhere(here: &Here, memory: &Memory) -> bool {
    init_due(here, memory) && memory.init_done.is_some()
}

/// What a user has at least, whoever starts something in that name.
pub fn environment_of(user: &User) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |key: &str, value: OsString| env.push((key.into(), value));
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    set("HOME", user.home.clone().into());
    set("USER", user.name.clone().into());
    set("LOGNAME", user.name.clone().into());
    set("SHELL", user.shell.clone().into());
    set("LANG", "C.UTF-8".into());
    if let Some(zone) = node::time_zone() {
        set("TZ", zone.into());
    }
    env
}

/// The variables that do not depend on the run: the user's, those of `env_file`, and `env`. A later
/// one wins over an earlier one of that name.
///
/// # Errors
/// When `env_file` cannot be read, can be read by others, or holds something else than variables.
pub fn standing_environment(
    here: &Here,
    settings: &RepoSettings,
) -> Result<Vec<(OsString, OsString)>> {
    standing_environment_of(&here.node.user, settings)
}

/// [`standing_environment`], for a program that runs as `user`.
///
/// # Errors
/// Likewise.
pub fn standing_environment_of(
    user: &User,
    settings: &RepoSettings,
) -> Result<Vec<(OsString, OsString)>> {
    let mut env = environment_of(user);
    let mut set = |key: &str, value: OsString| env.push((key.into(), value));
    if let Some(path) = &settings.env_file {
        let text = files::read_private(path, 1 << 20)?;
        let pairs = env_file::parse(&text)
            .map_err(anyhow::Error::msg)
            .with_context(|| format!("env_file {}", path.display()))?;
        for (key, value) in pairs {
            set(&key, value.into());
        }
    }
    for (key, value) in &settings.env {
        set(key, value.into());
    }
    Ok(env)
}

/// The whole environment of the scripts.
///
/// # Errors
/// As [`standing_environment`].
pub fn environment(
    site: &Site,
    settings: &RepoSettings,
    step: &Step,
    trigger: Trigger,
    changed: &Path,
) -> Result<Vec<(OsString, OsString)>> {
    let mut env = standing_environment(site.here, settings)?;
    env.extend(Facts::of(site, step, trigger).told(site.here, &site.repo.name));
    env.push(("AGENT_CHANGED".into(), changed.into()));
    Ok(env)
}

/// What a program is told of the run that it is part of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The branch that is followed.
    pub branch: RefName,
    /// Where it comes from, without credentials; empty where there is no remote.
    pub remote: String,
    /// What is acted upon.
    pub revision: Commit,
    /// What was before it.
    pub previous: Option<Commit>,
    /// 1, 2, 3 …
    pub attempt: u32,
    /// An earlier run of the same revision was cut off.
    pub resumed: bool,
    /// Why now.
    pub trigger: Trigger,
}

impl Facts {
    /// Those of one run.
    pub fn of(site: &Site, step: &Step, trigger: Trigger) -> Self {
        Self {
            branch: step.branch.clone(),
            remote: site.remotes.first().map_or_else(String::new, ToString::to_string),
            revision: step.target,
            previous: step.previous,
            attempt: step.attempt,
            resumed: step.resumed,
            trigger,
        }
    }

    /// The variables that say so, and whose repository `name` and which machine this is.
    pub fn told(&self, here: &Here, name: &str) -> Vec<(OsString, OsString)> {
        let of = |value: &Option<String>| value.clone().unwrap_or_default();
        let previous = self.previous.map_or_else(String::new, |id| id.to_string());
        let told: [(&str, OsString); 12] = [
            ("AGENT_REPO", name.into()),
            ("AGENT_ROOT", here.settings.world.root.clone().into()),
            ("AGENT_BRANCH", self.branch.as_str().into()),
            ("AGENT_REMOTE", self.remote.clone().into()),
            ("AGENT_REVISION", self.revision.to_string().into()),
            ("AGENT_PREVIOUS", previous.into()),
            ("AGENT_TRIGGER", self.trigger.as_str().into()),
            ("AGENT_ATTEMPT", self.attempt.to_string().into()),
            ("AGENT_RESUMED", if self.resumed { "1" } else { "" }.into()),
            ("AGENT_PART", of(&here.part).into()),
            ("AGENT_STACK", of(&here.stack).into()),
            ("AGENT_HOST", here.node.host.clone().into()),
        ];
        told.into_iter().map(|(key, value)| (key.into(), value)).collect()
    }
}

/// Tells whoever waits for this worker or helper. Whether that is heard is nothing to the work.
pub fn tell(word: Word) {
    // Text and ids cannot fail to be written.
    process::say(&serde_json::to_string(&word).unwrap_or_default());
}

/// [`tell`] that an action begins.
pub fn tell_begun(begun: Begun) {
    tell(Word::Begun(begun));
}

/// [`tell_begun`] of the one action that `step` is.
pub fn tell_step(site: &Site, step: &Step, at: DateTime<Utc>) {
    let (repo, revision, previous) = (site.repo.name.clone(), step.target, step.previous);
    tell_begun(Begun { repo, reference: None, revision, previous, at });
}

/// Programs that are run one after the other.
pub struct Programs {
    /// What each is called, and its arguments.
    commands: Vec<(String, Vec<OsString>)>,
    folder: PathBuf,
    env: Vec<(OsString, OsString)>,
    /// As whom, when that is somebody else than us.
    user: Option<User>,
}

impl Programs {
    /// Scripts of the tree at `folder`.
    ///
    /// # Errors
    /// When one cannot be run. To be found before the first of them runs: one that is missing must
    /// not let the others run for nothing.
    pub fn scripts(folder: &Path, list: &[String], env: &[(OsString, OsString)]) -> Result<Self> {
        let command = |name: &String| Ok((name.clone(), scripts::command(folder, name)?));
        let commands = list.iter().map(command).collect::<Result<_>>()?;
        Ok(Self { commands, folder: folder.to_owned(), env: env.to_vec(), user: None })
    }

    /// One program with its arguments, run in `folder`.
    pub fn one(
        argv: &[String],
        folder: &Path,
        env: &[(OsString, OsString)],
        user: Option<User>,
    ) -> Self {
        let name = argv.first().cloned().unwrap_or_default();
        let commands = vec![(name, argv.iter().map(OsString::from).collect())];
        Self { commands, folder: folder.to_owned(), env: env.to_vec(), user }
    }
}

/// Runs `programs` in order under `deadline` (time since boot); each is written into the journal
/// before its first instruction.
///
/// # Errors
/// When one cannot be started or written down.
pub fn run(
    lock: &ActionLock,
    journal: &mut Journal,
    programs: Programs,
    log: &Log,
    deadline: Duration,
) -> Result<Outcome> {
    let Programs { commands, folder, env, user } = programs;
    for (name, argv) in commands {
        tracing::info!(script = %name, "running");
        let (folder, env, user) = (folder.clone(), env.clone(), user.clone());
        let script = Script { argv, folder, env, user: user.map(|user| user.name) };
        let staged = script.stage(log.file())?;
        journal.phase = Phase::Run;
        if let Some(step) = &mut journal.step {
            step.script = Some(Running { process: staged.process(), deadline });
        }
        lock.write(journal)?;
        let outcome = outcome_of(staged.go(deadline, || log.curb())?);
        if outcome == Outcome::Succeeded {
            continue;
        }
        tracing::info!(script = %name, %outcome, "ended");
        if let Some(step) = &mut journal.step {
            step.culprit = Some(name);
        }
        return Ok(outcome);
    }
    Ok(Outcome::Succeeded)
}

/// The log that is kept of an action that ended: none of one by the clock that succeeded without a word.
/// With `when = "always"` those would push out all that say something within the hour.
///
/// # Errors
/// When it cannot be removed.
pub fn log_to_keep(
    log: Log,
    folder: PathBuf,
    step: &mut Step,
    trigger: Trigger,
    outcome: &Outcome,
) -> Result<Option<(Log, PathBuf)>> {
    let by_the_clock =
        matches!(trigger, Trigger::Cron | Trigger::Timer) && step.previous == Some(step.target);
    if !by_the_clock || *outcome != Outcome::Succeeded || !log.says_nothing() {
        return Ok(Some((log, folder)));
    }
    log.remove_from(&folder)?;
    step.log = None;
    Ok(None)
}

/// What the end of a program means.
pub fn outcome_of(ended: Ended) -> Outcome {
    match ended {
        Ended::Exited(0) => Outcome::Succeeded,
        Ended::Exited(75) => Outcome::Deferred,
        Ended::Exited(code) => Outcome::Failed { code },
        Ended::Signalled(signal) => Outcome::Killed { signal },
        Ended::TimedOut => Outcome::TimedOut,
    }
}

/// When scripts that start now have to be done, as time since boot.
pub fn deadline(timeout: Duration) -> Duration {
    since_boot() + timeout
}

/// How long ago `since` was, in seconds; 0 when the clock was set back meanwhile.
pub fn seconds_since(since: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    (now - since).to_std().map_or(0.0, |time| time.as_secs_f64())
}
