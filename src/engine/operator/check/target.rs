//! Checks where a repository publishes: whether the user may write there, and whether `after` can run.
//! Publishes nothing.

use std::path::Path;

use super::room;
use crate::domain::publish::rules::{PublishTarget, TargetLayout};
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{RepoEntry, safe_paths};
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::repository::{Repository, targets};
use crate::engine::run::scripts;
use crate::system::users::User;
use crate::system::{permissions, release};

/// The findings for the target of `repo` that need no clone.
pub fn verdicts(context: &Context, repo: &RepoEntry) -> Vec<CheckFinding> {
    let Some(target) = repo.settings.target() else { return Vec::new() };
    let name = &repo.name;
    let mut found = vec![reachable(context, repo, &target)];
    found.extend(room(name, &target.links_dir));
    found.extend(after(context, repo));
    found
}

/// The finding for what blocks the target.
pub fn in_the_way(repository: &Repository) -> Option<CheckFinding> {
    let settings = &repository.repo.settings;
    if settings.mode.refs().is_some() {
        // With many refs, the status reports each one.
        return None;
    }
    let error = targets::published_revision(repository).err()?;
    Some(CheckFinding::of(FindingLevel::Bad, &repository.repo.name, &error))
}

/// The finding for files that an application wrote into releases.
pub fn left_files(repository: &Repository) -> Option<CheckFinding> {
    let left = targets::left_files(repository)?.sentence();
    Some(CheckFinding::warn(
        &repository.repo.name,
        format!(
            "{left}\n\
             hint: move away what is needed; name the directories that an application writes in shared"
        ),
    ))
}

/// Checks whether releases can be put there.
fn reachable(context: &Context, repo: &RepoEntry, target: &PublishTarget) -> CheckFinding {
    let us = &context.node.user.name;
    let dir = target.links_dir.display();
    let shown = repo.settings.publish.target.as_deref().unwrap_or(&target.links_dir).display();
    // A missing directory is made by the first publication, where that is possible.
    let needed = targets::needed_dir(target);
    if !needed.is_dir() && permissions::writable(needed).is_err() {
        let missing = targets::missing_dir(needed);
        return CheckFinding::bad(
            &repo.name,
            format!(
                "its target {shown} cannot be used: {} {}, and {us} cannot make it\n\
                 hint: as root: install -d -o {us} {}",
                missing.display(),
                if missing.exists() { "is no directory to enter" } else { "does not exist" },
                needed.display()
            ),
        );
    }
    if let Err(error) = repo.paths.target(repo, &target.links_dir) {
        return CheckFinding::of(FindingLevel::Bad, &repo.name, &error);
    }
    if target.layout == TargetLayout::Inside
        && let Err(error) = release::check_dir(&target.links_dir)
    {
        let error = error.context(format!("its target {shown} cannot be used"));
        return CheckFinding::of(FindingLevel::Bad, &repo.name, &error);
    }
    match permissions::writable(&target.links_dir) {
        Ok(()) => CheckFinding::ok(&repo.name, format!("publishes to {shown} as {us}")),
        Err(error) => {
            let error = error.context(format!(
                "its target {shown} cannot be written by {us}\n\
                 hint: give {dir} to {us} with chown, or choose another target"
            ));
            CheckFinding::of(FindingLevel::Bad, &repo.name, &error)
        }
    }
}

/// Checks whether `after` can run.
fn after(context: &Context, repo: &RepoEntry) -> Option<CheckFinding> {
    let publish = &repo.settings.publish;
    let program = publish.after.first()?;
    let us = &context.node.user;
    let mut uid = us.uid;
    if let Some(name) = &publish.after_user {
        let known = match User::named(name) {
            Ok(known) => known,
            Err(error) => {
                return Some(CheckFinding::of(FindingLevel::Bad, &repo.name, &error.into()));
            }
        };
        let Some(user) = known else {
            let text = format!(
                "after_user: there is no user \"{}\"\nhint: make it, or correct after_user",
                name.escape_controls()
            );
            return Some(CheckFinding::bad(&repo.name, text));
        };
        uid = user.uid;
        // A helper that works for root lets root's tick run it.
        if user.uid != us.uid && us.uid != 0 && context.helper_input.is_none() {
            let text = format!(
                "after_user: {} cannot become {}\nhint: run the agent as root",
                us.name, user.name
            );
            return Some(CheckFinding::bad(&repo.name, text));
        }
    }
    let env = scripts::environment_of(us);
    Some(match safe_paths::program(context, program, &env, Path::new("/"), uid) {
        Ok(found) => CheckFinding::ok(&repo.name, format!("after: {} runs", found.display())),
        Err(error) => {
            CheckFinding::of(FindingLevel::Bad, &repo.name, &error.context("after cannot be run"))
        }
    })
}
