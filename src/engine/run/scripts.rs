//! The scripts of one action: their command lines, their environment, the outcome of their end. Does not
//! start them; which scripts run is decided elsewhere.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::config::RepoSettings;
use crate::domain::env_file;
use crate::domain::git::{Commit, RefName};
use crate::domain::repository::action::{Outcome, ProgressEvent, RunStarted, Trigger};
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths;
use crate::engine::repository::drift::PendingRepair;
use crate::engine::repository::machine_id::id_is_late;
use crate::engine::repository::{Repository, tree};
use crate::system::host::{self, since_boot};
use crate::system::lock::JournalStep;
use crate::system::logs::ActionLog;
use crate::system::process::{self, ScriptCommand, WaitOutcome};
use crate::system::users::User;
use crate::system::{files, scripts};

/// Records a machine id that came after the init scripts ran, so that it distinguishes this machine from
/// those made from its disk.
///
/// # Errors
/// When the record cannot be written.
pub fn adopt_id(repository: &Repository) -> Result<()> {
    if id_is_late(repository.context, &repository.records.memory()?) {
        init_succeeded(repository)
    } else {
        Ok(())
    }
}

/// Records that the init scripts ran on this machine.
///
/// # Errors
/// When the record cannot be written.
pub fn init_succeeded(repository: &Repository) -> Result<()> {
    let mut memory = repository.records.memory()?;
    memory.init_done = Some(repository.context.node.machine_id.clone());
    repository.records.put_memory(&memory)
}

/// The minimal environment of a user.
pub fn environment_of(user: &User) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    let mut set = |key: &str, value: OsString| env.push((key.into(), value));
    set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
    set("HOME", user.home.clone().into());
    set("USER", user.name.clone().into());
    set("LOGNAME", user.name.clone().into());
    set("SHELL", user.shell.clone().into());
    set("LANG", "C.UTF-8".into());
    if let Some(zone) = host::time_zone() {
        set("TZ", zone.into());
    }
    env
}

/// The variables that do not depend on the run: the user's, those of `env_file`, and `env`. A later one
/// overrides an earlier one of that name.
///
/// # Errors
/// When `env_file` cannot be read, is readable by others, or is invalid.
pub fn standing_environment(
    context: &Context,
    settings: &RepoSettings,
) -> Result<Vec<(OsString, OsString)>> {
    standing_environment_of(&context.node.user, settings)
}

/// [`standing_environment`], for a program that runs as `user`.
///
/// # Errors
/// As [`standing_environment`].
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

/// Writes the file for `AGENT_CHANGED`: the `paths` and those of a `repair` whose scripts have not succeeded yet, or every
/// path of `revision`, each ended by NUL.
/// Returns its path. `number` tells programs apart that run side by side.
///
/// # Errors
/// When it cannot be written.
pub fn put_changed(
    repository: &Repository,
    paths: Option<Vec<Vec<u8>>>,
    revision: Commit,
    number: usize,
    repair: Option<&PendingRepair>,
) -> Result<PathBuf> {
    let paths = match (paths, repair) {
        (Some(paths), Some(repair)) => repair.paths(repository).map(|repaired| {
            let all: BTreeSet<Vec<u8>> = paths.into_iter().chain(repaired).collect();
            all.into_iter().collect()
        }),
        (paths, _) => paths,
    };
    let paths = paths.unwrap_or_else(|| tree::every_path(&repository.git, revision));
    let list: Vec<u8> = paths.into_iter().flat_map(|path| [path, vec![0]].concat()).collect();
    repository.records.put_changed(&list, number)
}

/// The whole environment of the scripts.
///
/// # Errors
/// As [`standing_environment`].
pub fn environment(
    repository: &Repository,
    settings: &RepoSettings,
    step: &JournalStep,
    trigger: Trigger,
    changed: &Path,
) -> Result<Vec<(OsString, OsString)>> {
    let mut env = standing_environment(repository.context, settings)?;
    env.extend(
        ActionEnv::of(repository, step, trigger)
            .environment(repository.context, &repository.repo.name),
    );
    env.push(("AGENT_CHANGED".into(), changed.into()));
    Ok(env)
}

/// The facts about a run that its programs get as variables.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActionEnv {
    /// The followed branch.
    pub branch: RefName,
    /// The remote, without credentials; empty where there is none.
    pub remote: String,
    /// The revision to deploy.
    pub revision: Commit,
    /// The revision deployed before; `None`: none.
    pub previous: Option<Commit>,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// Whether an earlier run of the same revision was interrupted.
    pub resumed: bool,
    /// The trigger.
    pub trigger: Trigger,
    /// The bad revision that the machine leaves; `None`: none.
    #[serde(default)]
    pub failed: Option<Commit>,
}

impl ActionEnv {
    /// The facts of one run.
    pub fn of(repository: &Repository, step: &JournalStep, trigger: Trigger) -> Self {
        Self {
            branch: step.upstream().clone(),
            remote: repository.remotes.first().map_or_else(String::new, ToString::to_string),
            revision: step.target,
            previous: step.previous,
            attempt: step.attempt,
            resumed: step.resumed,
            trigger,
            failed: step.leaves,
        }
    }

    /// The variables for these facts, the repository `name` and this machine.
    pub fn environment(&self, context: &Context, name: &str) -> Vec<(OsString, OsString)> {
        let of = |value: &Option<String>| value.clone().unwrap_or_default();
        let previous = self.previous.map_or_else(String::new, |id| id.to_string());
        let failed = self.failed.map_or_else(String::new, |id| id.to_string());
        let variables: [(&str, OsString); 13] = [
            ("AGENT_REPO", name.into()),
            ("AGENT_ROOT", context.settings.world.root.clone().into()),
            ("AGENT_BRANCH", self.branch.as_str().into()),
            ("AGENT_REMOTE", self.remote.clone().into()),
            ("AGENT_REVISION", self.revision.to_string().into()),
            ("AGENT_PREVIOUS", previous.into()),
            ("AGENT_TRIGGER", self.trigger.as_str().into()),
            ("AGENT_FAILED", failed.into()),
            ("AGENT_ATTEMPT", self.attempt.to_string().into()),
            ("AGENT_RESUMED", if self.resumed { "1" } else { "" }.into()),
            ("AGENT_PART", of(&context.part).into()),
            ("AGENT_STACK", of(&context.stack).into()),
            ("AGENT_HOST", context.node.host.clone().into()),
        ];
        variables.into_iter().map(|(key, value)| (key.into(), value)).collect()
    }
}

/// Prints a progress event for the process that waits for this worker or helper. A failure to print does
/// not stop the work.
pub fn emit(word: ProgressEvent) {
    emit_within(word, Duration::ZERO);
}

/// Does the same as [`emit`], and waits up to `patience` for a slow reader; returns whether the event was printed.
pub fn emit_within(word: ProgressEvent, patience: Duration) -> bool {
    // Text and ids always serialize.
    process::print_line(&serde_json::to_string(&word).unwrap_or_default(), patience)
}

/// Emits that an action begins.
pub fn report_begun(begun: RunStarted) {
    emit(ProgressEvent::Begun(begun));
}

/// Emits that the one action of `step` begins.
pub fn report_step(repository: &Repository, step: &JournalStep, at: DateTime<Utc>) {
    let (repo, revision, previous) = (repository.repo.name.clone(), step.target, step.previous);
    report_begun(RunStarted { repo, reference: None, revision, previous, at });
}

/// Emits that the output of an action of `repository` goes to `log`.
pub fn report_log(repository: &Repository, log: &ActionLog) {
    let (repo, log) = (repository.repo.name.clone(), log.name().to_owned());
    emit(ProgressEvent::Logs { repo, log });
}

/// Programs to run one after the other.
pub struct CommandList {
    /// Each program's name for messages, and its argv.
    commands: Vec<(String, Vec<OsString>)>,
    working_dir: PathBuf,
    /// Device and inode of the directory, where it was checked; the child process compares them.
    id: Option<(u64, u64)>,
    env: Vec<(OsString, OsString)>,
    /// The user to run as; `None`: this process's own user.
    user: Option<User>,
}

impl CommandList {
    /// The scripts of one tree, run at its top.
    ///
    /// # Errors
    /// When one cannot be run. Found before the first of them runs: a missing script must not let the
    /// others run in vain.
    pub fn scripts(
        context: &Context,
        dir: &Path,
        list: &[String],
        env: &[(OsString, OsString)],
    ) -> Result<Self> {
        let id = safe_paths::scripts(context, dir, list)?;
        let command = |name: &String| Ok((name.clone(), scripts::command(dir, name)?));
        let commands = list.iter().map(command).collect::<Result<_>>()?;
        let dir = dir.to_owned();
        Ok(Self { commands, working_dir: dir, id: Some(id), env: env.to_vec(), user: None })
    }

    /// One program of `before`, run at the top of the tree `dir`: a script of that tree, or a program of the machine.
    ///
    /// # Errors
    /// As [`CommandList::scripts`] and [`CommandList::one`].
    pub fn before(
        context: &Context,
        program: &String,
        dir: &Path,
        env: &[(OsString, OsString)],
    ) -> Result<Self> {
        match Path::new(program).is_absolute() {
            true => Self::one(context, std::slice::from_ref(program), dir, env, None),
            false => Self::scripts(context, dir, std::slice::from_ref(program), env),
        }
    }

    /// One program with its arguments, run in one directory as `user`.
    ///
    /// # Errors
    /// When there is no such program, or another user than the one who runs it could exchange it.
    pub fn one(
        context: &Context,
        argv: &[String],
        dir: &Path,
        env: &[(OsString, OsString)],
        user: Option<User>,
    ) -> Result<Self> {
        let name = argv.first().cloned().unwrap_or_default();
        let uid = user.as_ref().unwrap_or(&context.node.user).uid;
        let program = safe_paths::program(context, &name, env, dir, uid)?;
        let arguments = argv.iter().skip(1).map(OsString::from);
        let argv = std::iter::once(program.into_os_string()).chain(arguments).collect();
        let dir = dir.to_owned();
        Ok(Self {
            commands: vec![(name, argv)],
            working_dir: dir,
            id: None,
            env: env.to_vec(),
            user,
        })
    }

    /// Each program's name for messages, and the program with all that it is started with.
    pub fn into_commands(self) -> impl Iterator<Item = (String, ScriptCommand)> {
        let Self { commands, working_dir, id, env, user } = self;
        commands.into_iter().map(move |(name, argv)| {
            let (working_dir, env) = (working_dir.clone(), env.clone());
            (name, ScriptCommand { argv, working_dir, id, env, user: user.clone() })
        })
    }
}

/// The log to keep of an action that ended; `None`: it is removed, because a timed action succeeded
/// without output. With `when = "always"` such logs would displace all others within the hour.
///
/// # Errors
/// When it cannot be removed.
pub fn log_to_keep(
    log: ActionLog,
    dir: &Path,
    step: &mut JournalStep,
    trigger: Trigger,
    outcome: &Outcome,
) -> Result<Option<ActionLog>> {
    let by_the_clock =
        matches!(trigger, Trigger::Cron | Trigger::Timer) && step.previous == Some(step.target);
    if !by_the_clock || *outcome != Outcome::Succeeded || !log.says_nothing() {
        return Ok(Some(log));
    }
    log.remove_from(dir)?;
    step.log = None;
    Ok(None)
}

/// The outcome that follows from the end of a program; exit code 75 defers the action.
pub fn outcome_of(ended: WaitOutcome) -> Outcome {
    match ended {
        WaitOutcome::Exited(0) => Outcome::Succeeded,
        WaitOutcome::Exited(75) => Outcome::Deferred,
        WaitOutcome::Exited(code) => Outcome::Failed { code },
        WaitOutcome::Signalled(signal) => Outcome::Killed { signal },
        WaitOutcome::TimedOut => Outcome::TimedOut,
    }
}

/// The deadline of scripts that start now, as time since boot.
pub fn deadline(timeout: Duration) -> Duration {
    since_boot() + timeout
}

/// The time from `since` to `now` in seconds; 0 when the clock was set back meanwhile.
pub fn seconds_since(since: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    (now - since).to_std().map_or(0.0, |time| time.as_secs_f64())
}
