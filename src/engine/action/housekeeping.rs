//! Housekeeping after an action, under the lock: packs and loose objects, saved heads, the quarantine.
//! No failure here fails the action: it is logged, and the next action tries again.

use std::path::Path;

use anyhow::{Result, bail};
use chrono::{DateTime, Duration, Utc};

use crate::domain::name_time;
use crate::domain::repository::drift::{self, KEPT_FOR};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::repository::{Repository, limits};
use crate::system::git::packs;
use crate::system::lock::ActionLock;
use crate::system::process::{self, ScriptCommand, WaitOutcome};
use crate::system::repo_state::RunningGc;
use crate::system::{files, host, scripts, stale_files};

/// The limit of git's output that is kept, in bytes.
const MOST_SAID: u64 = 16 * 1024;

/// The number of packs from which they are repacked.
const MANY_PACKS: usize = 50;
/// The number of loose objects from which they are packed, roughly; git's own `gc.auto` is of this
/// order.
const MANY_LOOSE: usize = 5_000;
/// The number of packs from which a warning is logged where `gc.auto` is 0.
const TOO_MANY_PACKS: usize = 200;

/// The time for which a HEAD that left its branch is kept as a ref.
fn saved_for() -> Duration {
    Duration::days(90)
}

/// The time for which damaged files are kept.
fn quarantined_for() -> Duration {
    Duration::days(30)
}

/// Removes old saved heads and quarantined files, and repacks.
pub fn tidy(repository: &Repository, lock: &ActionLock) {
    let now = host::now();
    for outcome in [
        forget_old_heads(repository, now),
        empty_quarantine(repository, now),
        forget_drift(repository, now),
        join(repository, lock),
    ] {
        if let Err(error) = outcome {
            tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "housekeeping");
        }
    }
}

/// Waits for a garbage collection that outlived its worker, and removes the lock files that it left.
///
/// # Errors
/// When waiting fails, or a file that it left cannot be removed.
pub fn wait_for_running_gc(context: &Context, lock: &ActionLock, git_dir: &Path) -> Result<()> {
    let Some(known) = lock.records().collecting() else { return Ok(()) };
    if known.boot_id == context.node.boot_id {
        process::wait_for_exit(known.process, known.deadline, || {})?;
    }
    stale_files::after_death(git_dir, known.since)?;
    lock.records().collected()
}

fn forget_old_heads(repository: &Repository, now: DateTime<Utc>) -> Result<()> {
    for name in repository.git.refs_below("refs/pmpy/saved/")? {
        let since =
            name.rsplit('/').next().and_then(|it| it.split('-').next()).and_then(name_time::parse);
        if since.is_some_and(|since| now - since > saved_for()) {
            repository.git.remove_ref(&name)?;
        }
    }
    Ok(())
}

fn empty_quarantine(repository: &Repository, now: DateTime<Utc>) -> Result<()> {
    let private = &repository.records.private;
    let is_old = |since: DateTime<Utc>| now - since > quarantined_for();
    stale_files::expired(&private.join("quarantine"), |name, _| {
        name_time::parse(name).is_some_and(is_old)
    })?;
    stale_files::expired(private, |name, changed| name == "state.damaged" && is_old(changed.into()))
}

/// Removes what repairs of drift kept for long enough: `TIME/`, `TIME-1/` and their lists.
fn forget_drift(repository: &Repository, now: DateTime<Utc>) -> Result<()> {
    let is_old = |name: &str| drift::began(name).is_some_and(|since| now - since > KEPT_FOR);
    stale_files::expired(&repository.records.private.join("drift"), |name, _| is_old(name))
}

/// Joins packs and loose objects where there are many: with git where it is installed, else without it.
fn join(repository: &Repository, lock: &ActionLock) -> Result<()> {
    let git_dir = repository.git.git_dir();
    let load = packs::load(git_dir);
    if load.packs < MANY_PACKS && load.loose < MANY_LOOSE {
        return Ok(());
    }
    if repository.git.setting("gc.auto").as_deref() == Some("0") {
        if load.packs >= TOO_MANY_PACKS {
            tracing::warn!(repository = %repository.repo.name, packs = load.packs,
                "gc.auto = 0 in its configuration switches housekeeping off: run git gc now and then");
        }
        return Ok(());
    }
    match collect(repository, lock) {
        Ok(GcOutcome::Yes) => Ok(()),
        Ok(GcOutcome::NoGit) => repository.git.join_packs(),
        Err(error) => {
            tracing::warn!(repository = %repository.repo.name, error = %one_line(&error), "git gc");
            repository.git.join_packs()
        }
    }
}

enum GcOutcome {
    Yes,
    /// git is not installed, or might run a program that the repository names.
    NoGit,
}

/// Runs `git gc` at the lowest priority. It never removes what the deployed revisions need: their reflog
/// does not expire.
fn collect(repository: &Repository, lock: &ActionLock) -> Result<GcOutcome> {
    let path = host::search_path().unwrap_or_else(|| "/usr/bin:/bin".into());
    let Some(git) = scripts::find_program("git".as_ref(), &path, &repository.repo.path) else {
        return Ok(GcOutcome::NoGit);
    };
    if repository.git.names_programs_for_gc() {
        return Ok(GcOutcome::NoGit);
    }
    // It writes each pack anew before it removes the old ones.
    files::check_room(repository.git.git_dir(), packs::packed_bytes(repository.git.git_dir()))?;
    let mut argv = vec![git.into_os_string()];
    for setting in [
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "gc.refs/pmpy/*.reflogExpire=never",
        "gc.refs/pmpy/*.reflogExpireUnreachable=never",
        // A large pack is not rewritten because of fifty small ones.
        "gc.bigPackThreshold=2g",
    ] {
        argv.extend(["-c".into(), setting.into()]);
    }
    argv.extend(["gc".into(), "--quiet".into()]);
    let env = [
        ("PATH", path),
        ("HOME", "/".into()),
        ("LANG", "C.UTF-8".into()),
        ("GIT_DIR", repository.git.git_dir().into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
        ("GIT_TERMINAL_PROMPT", "0".into()),
        ("GIT_NO_LAZY_FETCH", "1".into()),
    ];
    let script = ScriptCommand {
        argv,
        working_dir: repository.repo.path.clone(),
        id: None,
        env: env.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        user: None,
    };
    tracing::info!(repository = %repository.repo.name, "git gc");
    let output = process::report_file()?;
    let staged = script.spawn_gated(&output)?;
    staged.lower_priority();
    let deadline = host::since_boot() + limits::GC_LIMIT;
    lock.records().put_collecting(&RunningGc {
        since: host::now(),
        boot_id: repository.context.node.boot_id.clone(),
        process: staged.process(),
        deadline,
    })?;
    let ended = staged.release(deadline, || {})?;
    wait_for_running_gc(repository.context, lock, repository.git.git_dir())?;
    match ended {
        WaitOutcome::Exited(0) => Ok(GcOutcome::Yes),
        WaitOutcome::TimedOut => {
            bail!("took longer than {} minutes and was ended", limits::GC_LIMIT.as_secs() / 60)
        }
        WaitOutcome::Exited(code) => {
            bail!("exited {code}: {}", process::reported(output, MOST_SAID)?.escape_controls())
        }
        WaitOutcome::Signalled(signal) => bail!("was killed by signal {signal}"),
    }
}
