//! `agent forget`: ends the work on a repository, and on request removes what belongs to it. Its configuration
//! first, so that no tick works on it or clones it again meanwhile; each step may be repeated. Does not ask a
//! person.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::engine::action::reconcile;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::machine::bootstrap;
use crate::engine::operator::must_be_outside;
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::repository::targets;
use crate::engine::run::log;
use crate::system::git::git_dir_of;
use crate::system::repo_state::RepoRecords;
use crate::system::{files, lock, release};

/// The maximum size of a configuration file, in bytes.
const LARGEST: u64 = 1 << 20;

/// The change of the configuration that ends the work on a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryChange {
    /// It is switched off already.
    None,
    /// Write this text to `agent.d/NAME.toml`.
    Write(String),
    /// Remove `agent.d/NAME.toml`: the clone lies outside the root, so nothing else lists it.
    Remove,
    /// A person has to change these files, which `init` did not write.
    ByHand(Vec<PathBuf>),
}

/// What `forget` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForgetExtent {
    /// The work on the repository.
    Work,
    /// Also what belongs to it.
    Everything,
}

/// What `forget` does about a repository.
#[derive(Clone, Debug)]
pub struct ForgetPlan {
    /// The change of the configuration.
    pub entry: EntryChange,
    /// The file that `init` writes for it.
    pub file: PathBuf,
    /// What `--purge` removes.
    pub purge: Vec<PathBuf>,
}

/// The plan for `repo`.
///
/// # Errors
/// When the configuration cannot be read.
pub fn plan(context: &Context, repo: &RepoEntry, extent: ForgetExtent) -> Result<ForgetPlan> {
    let file = bootstrap::entry_file(context, &repo.name);
    let entry = entry_change(context, repo, &file, extent)?;
    Ok(ForgetPlan { entry, purge: owned(context, repo), file })
}

/// What exists of the clone, the targets, their store and the logs.
fn owned(context: &Context, repo: &RepoEntry) -> Vec<PathBuf> {
    let mut all = vec![repo.listed.clone()];
    if let Some(target) = repo.settings.target() {
        all.extend(repo.settings.publish.target.clone());
        all.push(target.links_dir.join(target.store()));
    }
    all.push(log::log_dir(context, &repo.name));
    all.retain(|path| path.symlink_metadata().is_ok());
    all
}

fn entry_change(
    context: &Context,
    repo: &RepoEntry,
    file: &Path,
    extent: ForgetExtent,
) -> Result<EntryChange> {
    let (name, world) = (&repo.name, &context.settings.world);
    let mut mentioned = Vec::new();
    for path in context.settings.files.iter().map(PathBuf::from) {
        let Some(bytes) = files::read_small(&path, LARGEST)? else { continue };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let table: toml::Table = text.parse().with_context(|| path.display().to_string())?;
        if table.get("repo").and_then(|repos| repos.get(name)).is_some() {
            mentioned.push((path, table, text));
        }
    }
    // A purge that is cut off is given again by name, so the entry goes last.
    let stays = repo.listed.starts_with(&world.root) || extent == ForgetExtent::Everything;
    match mentioned.as_slice() {
        _ if !repo.settings.policy.active => Ok(EntryChange::None),
        // A file that `--config` names is the whole configuration.
        [] if world.config_named => Ok(EntryChange::ByHand(vec![world.config_file.clone()])),
        [] => inactive(toml::Table::new(), name).map(EntryChange::Write),
        [(path, table, text)] if path == file && is_of_init(table, text, name) => match stays {
            true => inactive(table.clone(), name).map(EntryChange::Write),
            false => Ok(EntryChange::Remove),
        },
        all => Ok(EntryChange::ByHand(all.iter().map(|(path, ..)| path.clone()).collect())),
    }
}

/// Whether the file is as `init` writes it: one repository and nothing else, in the form of the serializer.
fn is_of_init(table: &toml::Table, text: &str, name: &str) -> bool {
    let repos = table.get("repo").and_then(toml::Value::as_table);
    let is_alone = table.len() == 1 && repos.is_some_and(|repos| repos.len() == 1);
    let has_it = repos.is_some_and(|repos| repos.contains_key(name));
    is_alone && has_it && toml::to_string(table).is_ok_and(|written| written == text)
}

/// The text of the entry `name` with `active = false`.
fn inactive(mut table: toml::Table, name: &str) -> Result<String> {
    let empty = || toml::Value::Table(toml::Table::new());
    let repos = table.entry("repo").or_insert_with(empty).as_table_mut();
    let entry = repos.map(|repos| repos.entry(name).or_insert_with(empty));
    let entry = entry.and_then(toml::Value::as_table_mut).context("the entry is no table")?;
    entry.insert("active".to_owned(), toml::Value::Boolean(false));
    Ok(toml::to_string(&table)?)
}

/// Fails while an action runs in `repo`, or when this process belongs to one.
///
/// # Errors
/// When it does.
pub fn must_rest(context: &Context, repo: &RepoEntry) -> Result<()> {
    let Some(records) = records(repo) else { return Ok(()) };
    must_be_outside(context, repo, &records)?;
    match lock::journal(&records)?.filter(|run| run.boot_id == context.node.boot_id) {
        Some(run) if run.worker.lives() || run.phase.scripts().any(|it| it.process.lives()) => {
            bail!(runs(repo))
        }
        _ => Ok(()),
    }
}

/// The error while an action runs.
pub fn runs(repo: &RepoEntry) -> String {
    format!(
        "{0}: an action runs, so it is not forgotten now\n\
         hint: try again when agent status says that it ended; to watch it: agent log {0} -f",
        repo.name
    )
}

fn records(repo: &RepoEntry) -> Option<RepoRecords> {
    Some(RepoRecords::of(&git_dir_of(&repo.path)?, &repo.path))
}

/// Changes the configuration by `plan`.
///
/// # Errors
/// When it cannot be written.
pub fn change_entry(plan: &ForgetPlan) -> Result<()> {
    let (Some(dir), Some(name)) = (plan.file.parent(), plan.file.file_name()) else {
        bail!("{} is no file", plan.file.display())
    };
    let name = name.to_string_lossy();
    match &plan.entry {
        EntryChange::None | EntryChange::ByHand(_) => Ok(()),
        EntryChange::Write(text) => {
            files::ensure_dir(dir, 0o755)?;
            files::sweep(dir)?;
            // 0600: a URL may contain a password.
            files::put(dir, &name, text.as_bytes(), 0o600)
        }
        EntryChange::Remove => files::remove(dir, &name),
    }
}

/// Removes the targets and the clone of one of our repositories, under its lock.
///
/// # Errors
/// When an action runs, or something there is not ours.
pub fn purge_clone(context: &Context, repo: &RepoEntry) -> Result<()> {
    if repo.path.symlink_metadata().is_err() {
        return Ok(());
    }
    let (Some(records), Some(git_dir)) = (records(repo), git_dir_of(&repo.path)) else {
        bail!(
            "{0} is no clone and stays\nhint: look at what it is: ls -la {0}",
            repo.path.display()
        )
    };
    records.make(&git_dir)?;
    let Some(lock) = reconcile::take_lock(context, &records, &|| false)? else { bail!(runs(repo)) };
    if let OpenOutcome::Ready(repository) = observe::open_whole(context, repo) {
        targets::remove_all(&repository)?;
    }
    // `.git` goes last, so that what a crash leaves is still known as a clone. The lock goes with it.
    let removed = release::remove_directory(&repo.path, Some(context.node.user.uid), ".git");
    drop(lock);
    removed
}

/// Removes the logs of a repository, the empty directory of its clone, and its entry.
///
/// # Errors
/// When something cannot be removed.
pub fn purge_rest(context: &Context, repo: &RepoEntry, plan: &ForgetPlan) -> Result<()> {
    release::remove_directory(&log::log_dir(context, &repo.name), None, "")?;
    match fs::remove_dir(&repo.path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {}", repo.path.display()));
        }
        _ => {}
    }
    if matches!(plan.entry, EntryChange::Write(_)) || is_ours_and_off(context, repo, plan) {
        change_entry(&ForgetPlan { entry: EntryChange::Remove, ..plan.clone() })?;
    }
    Ok(())
}

/// Whether the entry of a repository that was switched off before is only the file that `forget` writes.
fn is_ours_and_off(context: &Context, repo: &RepoEntry, plan: &ForgetPlan) -> bool {
    let text = files::read_small(&plan.file, LARGEST).ok().flatten();
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok());
    let table = text.as_ref().and_then(|text| text.parse::<toml::Table>().ok());
    let (Some(text), Some(table)) = (text, table) else { return false };
    plan.entry == EntryChange::None
        && !context.settings.world.config_named
        && is_of_init(&table, &text, &repo.name)
}
