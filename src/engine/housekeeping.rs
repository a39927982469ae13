//! What piles up where one commit after another is fetched and acted upon, and is cleared away after an
//! action, under the lock: packs and loose objects, old heads, what repairs put aside. Nothing of it
//! is worth failing for: what does not work is said in the log and tried again after the next action.

use std::path::Path;

use anyhow::{Result, bail};
use chrono::{DateTime, Duration, NaiveDateTime, Utc};

use super::Here;
use super::observe::{self, Opened, Site, one_line};
use super::roster::Repo;
use crate::system::git::{packs, repair};
use crate::system::lock::ActionLock;
use crate::system::process::{self, Ended, Script};
use crate::system::record::Collecting;
use crate::system::{node, scripts, sweep};

/// How much of what git says counts, in bytes.
const MOST_SAID: u64 = 16 * 1024;

/// From so many packs on they are joined.
const MANY_PACKS: usize = 50;
/// And from about so many loose objects on; git's own `gc.auto` is of this order.
const MANY_LOOSE: usize = 5_000;
/// From so many packs on it is said that nobody joins them.
const TOO_MANY_PACKS: usize = 200;

/// How long git's garbage collection may take.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(15 * 60);

/// How long a HEAD that left its branch is kept as a ref.
fn saved_for() -> Duration {
    Duration::days(90)
}

/// How long what was damaged is kept.
fn quarantined_for() -> Duration {
    Duration::days(30)
}

/// Clears away what has piled up.
pub fn tidy(here: &Here, repo: &Repo, lock: &ActionLock) {
    let Opened::Ready(site) = observe::open(here, repo) else { return };
    let now = node::now();
    for outcome in [forget_old_heads(&site, now), empty_quarantine(&site, now), join(&site, lock)] {
        if let Err(error) = outcome {
            tracing::warn!(repository = %repo.name, error = %one_line(&error), "housekeeping");
        }
    }
}

/// Waits for a garbage collection that outlived its worker: it takes locks, which are nobody's once it
/// has ended.
///
/// # Errors
/// When the kernel does not let us wait, or what it left cannot be removed.
pub fn outlast_collecting(here: &Here, lock: &ActionLock, git_dir: &Path) -> Result<()> {
    let Some(known) = lock.records().collecting() else { return Ok(()) };
    if known.boot_id == here.node.boot_id {
        process::outlast(known.process, known.deadline, || {})?;
    }
    sweep::after_death(git_dir, known.since)?;
    lock.records().collected()
}

fn forget_old_heads(site: &Site, now: DateTime<Utc>) -> Result<()> {
    for name in site.git.refs_below("refs/pmpy/saved/")? {
        let since = name.rsplit('/').next().and_then(|it| it.split('-').next()).and_then(moment);
        if since.is_some_and(|since| now - since > saved_for()) {
            site.git.remove_ref(&name)?;
        }
    }
    Ok(())
}

/// The time in the name of a saved head or a folder of the quarantine.
fn moment(text: &str) -> Option<DateTime<Utc>> {
    NaiveDateTime::parse_from_str(text, repair::TIME).ok().map(|time| time.and_utc())
}

fn empty_quarantine(site: &Site, now: DateTime<Utc>) -> Result<()> {
    let private = &site.records.private;
    let is_old = |since: DateTime<Utc>| now - since > quarantined_for();
    sweep::expired(&private.join("quarantine"), |name, _| moment(name).is_some_and(is_old))?;
    sweep::expired(private, |name, changed| name == "state.damaged" && is_old(changed.into()))
}

/// Joins packs and loose objects where there are many: with git where it is installed, else without.
fn join(site: &Site, lock: &ActionLock) -> Result<()> {
    let git_dir = site.git.git_dir();
    let load = packs::load(git_dir);
    if load.packs < MANY_PACKS && load.loose < MANY_LOOSE {
        return Ok(());
    }
    if site.git.setting("gc.auto").as_deref() == Some("0") {
        if load.packs >= TOO_MANY_PACKS {
            tracing::warn!(repository = %site.repo.name, packs = load.packs,
                "gc.auto = 0 in its configuration: somebody should run git gc now and then");
        }
        return Ok(());
    }
    match collect(site, lock) {
        Ok(Collected::Yes) => Ok(()),
        Ok(Collected::NoGit) => site.git.join_packs(),
        Err(error) => {
            tracing::warn!(repository = %site.repo.name, error = %one_line(&error), "git gc");
            site.git.join_packs()
        }
    }
}

enum Collected {
    Yes,
    /// There is no git, or it might run a program that the repository names.
    NoGit,
}

/// Lets git collect garbage, as the least important process of the machine. What the acted revisions
/// need stays: their log never expires.
fn collect(site: &Site, lock: &ActionLock) -> Result<Collected> {
    let path = node::search_path().unwrap_or_else(|| "/usr/bin:/bin".into());
    let Some(git) = scripts::find_program("git".as_ref(), &path, &site.repo.path) else {
        return Ok(Collected::NoGit);
    };
    if site.git.names_programs_for_gc() {
        return Ok(Collected::NoGit);
    }
    let mut argv = vec![git.into_os_string()];
    for setting in [
        "core.fsmonitor=false",
        "core.hooksPath=/dev/null",
        "gc.refs/pmpy/*.reflogExpire=never",
        "gc.refs/pmpy/*.reflogExpireUnreachable=never",
        // Not written anew for the sake of fifty small ones.
        "gc.bigPackThreshold=2g",
    ] {
        argv.extend(["-c".into(), setting.into()]);
    }
    argv.extend(["gc".into(), "--quiet".into()]);
    let env = [
        ("PATH", path),
        ("HOME", "/".into()),
        ("LANG", "C.UTF-8".into()),
        ("GIT_DIR", site.git.git_dir().into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
        ("GIT_TERMINAL_PROMPT", "0".into()),
        ("GIT_NO_LAZY_FETCH", "1".into()),
    ];
    let script = Script {
        argv,
        folder: site.repo.path.clone(),
        env: env.into_iter().map(|(key, value)| (key.into(), value)).collect(),
        user: None,
    };
    tracing::info!(repository = %site.repo.name, "git gc");
    let output = process::report_file()?;
    let staged = script.stage(&output)?;
    staged.step_back();
    let deadline = node::since_boot() + LIMIT;
    lock.records().put_collecting(&Collecting {
        since: node::now(),
        boot_id: site.here.node.boot_id.clone(),
        process: staged.process(),
        deadline,
    })?;
    let ended = staged.go(deadline, || {})?;
    outlast_collecting(site.here, lock, site.git.git_dir())?;
    match ended {
        Ended::Exited(0) => Ok(Collected::Yes),
        Ended::TimedOut => bail!("took longer than {} minutes and was ended", LIMIT.as_secs() / 60),
        Ended::Exited(code) => {
            bail!("exited {code}: {}", process::reported(output, MOST_SAID)?.escape_debug())
        }
        Ended::Signalled(signal) => bail!("was killed by signal {signal}"),
    }
}
