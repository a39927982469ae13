//! Records the first sight of a revision that waits for a gate, and judges what is in it: what may not run at all
//! is reported at once, not when the gates are open. Changes nothing else on the machine.

use anyhow::Result;
use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::observed::Observed;
use crate::domain::repository::sight::{Clocks, FirstSight};
use crate::engine::action::deploy;
use crate::engine::repository::{Repository, tree};
use crate::engine::run::record;
use crate::system::repo_state::ActionState;

/// Records that `target` is seen at `now`, or continues the wait of before a reboot; `None`: nothing waits
/// any more.
///
/// # Errors
/// When the record cannot be written, or the revision cannot be read.
pub fn record(
    repository: &Repository,
    seen: &Observed,
    target: Option<ActionTarget>,
    now: DateTime<Utc>,
) -> Result<()> {
    let mut memory = repository.records.memory()?;
    let clocks = repository.clocks(now);
    memory.sight = match (target, memory.sight.take()) {
        (None, _) => None,
        (Some(target), Some(known)) if known.revision == target.upstream() => {
            Some(known.renewed(&clocks))
        }
        (Some(target), before) => {
            Some(first(repository, &memory, target.upstream(), before, &clocks)?)
        }
    };
    repository.records.put_memory(&memory)?;
    let Some(target) = target else { return Ok(()) };
    if let Some(finding) = deploy::judge(repository, seen, target)? {
        record::verdict(repository, target.upstream(), finding, now)?;
    }
    Ok(())
}

fn first(
    repository: &Repository,
    memory: &ActionState,
    revision: Commit,
    before: Option<FirstSight>,
    clocks: &Clocks,
) -> Result<FirstSight> {
    let succeeded = |revision| repository.succeeded_before(revision, memory.acted.as_ref());
    let failed = memory.attempt.as_ref().filter(|attempt| {
        attempt.ran_scripts()
            && !matches!(attempt.outcome, Outcome::Deferred | Outcome::Unchecked)
            && attempt.revision != revision
    });
    // The judgement of the revision reports a wrong value.
    let urgent = tree::tree_settings(&repository.git, revision).ok().and_then(|tree| tree.urgent);
    let oldest = before.map(|before| before.known_for(clocks).saturating_add(before.oldest));
    Ok(FirstSight {
        revision,
        at: clocks.now,
        boot_id: clocks.boot_id.to_owned(),
        since_boot: clocks.since_boot,
        waited: std::time::Duration::ZERO,
        oldest: oldest.unwrap_or_default(),
        urgent: urgent.filter(|urgent| memory.heeded.as_ref() != Some(urgent)),
        succeeded_before: succeeded(revision)?,
        mends: match failed {
            Some(attempt) => !succeeded(attempt.revision)?,
            None => false,
        },
    })
}
