//! Looks at the canaries of a revision that waits, in one request for all repositories of a tick that wait for the same
//! ones. Decides nothing.

use std::sync::PoisonError;

use anyhow::{Context as _, Result, anyhow};
use chrono::{DateTime, Utc};

use super::presence_report::own_ref;
use super::row_before;
use crate::config::RepoSettings;
use crate::domain::fleet::Member;
use crate::domain::git::Commit;
use crate::domain::repository::gate::{CanaryReport, Gate};
use crate::domain::repository::gates::canaries::{self, CanaryMachine, CanaryQuestion};
use crate::domain::repository::observed::Observed;
use crate::domain::repository::status::MachineStatus;
use crate::engine::context::{CanaryLook, Context};
use crate::engine::discovery::RepoEntry;
use crate::engine::error::one_line;
use crate::engine::fleet::{self, StatusRepository};
use crate::engine::repository::Repository;
use crate::system::repo_state::SeenCanaries;

/// What the canaries have of the revision that waits, seen at `now`; `None`: none waits, or there are no canaries here.
/// It is recorded where it changed.
///
/// # Errors
/// When it cannot be recorded.
pub fn look(
    repository: &Repository,
    seen: &Observed,
    now: DateTime<Utc>,
) -> Result<Option<CanaryReport>> {
    let repo = repository.repo;
    let patterns = &repo.settings.policy.gates.canaries;
    let Some(waiting) = &seen.gates.waiting else { return Ok(None) };
    if patterns.is_empty() || seen.gates.is_canary {
        return Ok(None);
    }
    let revision = waiting.revision;
    let before = seen.gates.canaries.as_ref();
    let contains =
        |tip: Commit, commit: Commit| repository.git.contains(tip, commit).unwrap_or(false);
    let report = match machines(repository.context, &repo.settings, now) {
        Ok(machines) => {
            let question = CanaryQuestion { patterns, repo: &repo.name, revision };
            CanaryReport::of(&machines, question, &contains).after(before, now)
        }
        Err(why) => CanaryReport::unread(&why, before, now),
    };
    if before != Some(&report) {
        let seen = SeenCanaries { revision, report: report.clone() };
        repository.records.put_canaries(&seen).context("cannot record what the canaries have")?;
    }
    Ok(Some(report))
}

/// Lets the tick of root look for the helper that works on `repos`, whose user cannot: for those that waited for canaries
/// at the last tick.
pub fn for_helper(
    context: &Context,
    repos: &[RepoEntry],
    before: &Option<MachineStatus>,
    now: DateTime<Utc>,
) {
    let waited = |repo: &&RepoEntry| {
        let gate = row_before(before, &repo.name).and_then(|row| row.gate);
        gate.is_some_and(|gate| gate.gate == Gate::Canaries)
    };
    for repo in repos.iter().filter(waited) {
        // The helper reports why they cannot be read.
        let _ = machines(context, &repo.settings, now);
    }
}

/// The machines that the canaries of `settings` may be, as they publish; the error is for people.
fn machines(context: &Context, settings: &RepoSettings, now: DateTime<Utc>) -> CanaryLook {
    let patterns = &settings.policy.gates.canaries;
    let mut beginnings: Vec<String> = patterns.iter().map(|it| canaries::beginning(it)).collect();
    beginnings.sort();
    beginnings.dedup();
    // Repositories that wait for the same canaries wait for one look.
    let mut looks = context.canaries.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = looks.get(&beginnings) {
        return known.clone();
    }
    let found = ask(context, &beginnings, now).map_err(|error| one_line(&error));
    looks.insert(beginnings, found.clone());
    found
}

fn ask(context: &Context, beginnings: &[String], now: DateTime<Utc>) -> Result<Vec<CanaryMachine>> {
    if context.helper_input.is_some() {
        return Err(anyhow!("the next tick of root looks at them"));
    }
    let presence = context.settings.presence.as_ref().context("there is no [presence]")?;
    let own = own_ref(context)?;
    let reach = presence.reach.clone();
    let status = StatusRepository { remote: presence.remote.clone(), reach };
    let found = fleet::look(context, &status, beginnings, now)?;
    // A canary has the same repositories in the same place: not those of another user, nor of another root.
    let is_alike =
        |member: &Member| (member.name.user(), member.name.world()) == (own.user(), own.world());
    Ok(found.members.into_iter().filter(is_alike).map(|member| machine(member, now)).collect())
}

fn machine(member: Member, now: DateTime<Utc>) -> CanaryMachine {
    let rows = match member.presence() {
        None => Err("unreadable".to_owned()),
        Some(presence) if presence.contested.is_some() => Err("contested".to_owned()),
        Some(_) if member.silence(now).is_some() => Err("silent".to_owned()),
        Some(presence) => Ok(presence.repositories.clone()),
    };
    CanaryMachine { name: member.name.host().to_owned(), rows }
}
