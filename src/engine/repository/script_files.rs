//! The scripts of the worktree that an action runs. Does not run them.

use anyhow::{Result, bail};

use crate::config::RepoSettings;
use crate::domain::script_paths::{self, ScriptKind};
use crate::engine::discovery::safe_paths;
use crate::engine::error::is_untrusted;
use crate::engine::repository::Repository;
use crate::system::scripts;

/// The error for a script of the worktree that another user could exchange; `None`: all are safe.
pub fn foreign_part(repository: &Repository) -> Option<anyhow::Error> {
    if !repository.runs_scripts() {
        return None;
    }
    // A script that is no plain file is reported by the action that would run it.
    let ScriptPlan { init, work } =
        ScriptPlan::of(repository, &repository.repo.settings, true).ok()?;
    let health = existing(repository, ScriptKind::Health).ok()?;
    let all = [init, work, health].concat();
    safe_paths::scripts(repository.context, &repository.repo.path, &all).err()
}

/// The reason why another user could exchange a program of the machine that `before` or `health` names; `None`: none
/// could.
pub fn foreign_program(repository: &Repository) -> Option<anyhow::Error> {
    let settings = &repository.repo.settings;
    let before = settings.publish.before.iter().map(|program| ("before", program));
    let health = settings.health.program.first().map(|program| ("health", program));
    let context = repository.context;
    let fault = |(key, program): (&'static str, &String)| {
        let fault = safe_paths::own_program_fault(context, key, std::slice::from_ref(program));
        // What is missing refuses the revision, or fails its health check.
        fault.filter(is_untrusted)
    };
    before.chain(health).filter(|(_, program)| program.starts_with('/')).find_map(fault)
}

/// The scripts that an action runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScriptPlan {
    /// The init scripts, where they are due; else empty.
    pub init: Vec<String>,
    /// The work scripts, or the configured `scripts`.
    pub work: Vec<String>,
}

impl ScriptPlan {
    /// The scripts that exist in the worktree. `settings`: those of the revision.
    ///
    /// # Errors
    /// When a script is no plain file, or a configured one is missing.
    pub fn of(repository: &Repository, settings: &RepoSettings, init_due: bool) -> Result<Self> {
        if !repository.runs_scripts() {
            return Ok(Self::default());
        }
        let init = if init_due { existing(repository, ScriptKind::Init)? } else { Vec::new() };
        let Some(work) = &settings.scripts else {
            return Ok(Self { init, work: existing(repository, ScriptKind::Work)? });
        };
        for script in work {
            // An init script may yet create it.
            if !scripts::exists(&repository.repo.path, script)? && init.is_empty() {
                bail!("{script} is not there\nhint: add it, or take it out of scripts");
            }
        }
        Ok(Self { init, work: work.clone() })
    }

    /// Whether there is no script to run.
    pub fn is_empty(&self) -> bool {
        self.init.is_empty() && self.work.is_empty()
    }
}

/// The scripts of this kind that exist in the worktree, else the one fallback script.
pub(in crate::engine) fn existing(
    repository: &Repository,
    script_kind: ScriptKind,
) -> Result<Vec<String>> {
    let (context, worktree) = (repository.context, &repository.repo.path);
    let mut found = Vec::new();
    for candidate in
        script_paths::candidates(script_kind, context.part.as_deref(), context.stack.as_deref())
    {
        if scripts::exists(worktree, &candidate)? {
            found.push(candidate);
        }
    }
    if let Some(fallback) = script_paths::fallback(script_kind)
        && found.is_empty()
        && scripts::exists(worktree, fallback)?
    {
        found.push(fallback.to_owned());
    }
    Ok(found)
}
