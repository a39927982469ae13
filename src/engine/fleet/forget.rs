//! Removes machines from a status repository: each ref only where it still is what was listed, so that a machine that
//! publishes meanwhile stays.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::{StatusRepository, cache, everyone, read};
use crate::domain::fleet::Member;
use crate::domain::git::Commit;
use crate::domain::remote::PushHints;
use crate::domain::wire::push::{PushOutcome, RefChange, is_policy};
use crate::engine::context::Context;
use crate::system::remote::PushOrder;

/// The most refs of one push: their report has to be small.
const MOST_REFS: usize = 100;
/// The most attempts where another push holds a lock.
const MOST_PUSHES: u32 = 4;
/// The pause after the first attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(150);

/// How the removal of one machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovalOutcome {
    /// Its ref is gone.
    Removed,
    /// It has published since it was listed; its ref is there now.
    Published(Commit),
    /// The server refuses it, for this reason.
    Refused(String),
}

/// Removes the refs of `members`, which a look has just listed, and what is kept of them here; returns the outcomes in
/// their order.
///
/// # Errors
/// When the repository cannot be reached, or the cache cannot be written.
pub fn forget(
    context: &Context,
    status: &StatusRepository,
    members: &[Member],
) -> Result<Vec<RemovalOutcome>> {
    let mut outcomes = Vec::new();
    let mut hints = PushHints::default();
    for part in members.chunks(MOST_REFS) {
        outcomes.extend(forget_part(context, status, part, &mut hints)?);
    }
    let gone = members.iter().zip(&outcomes).filter(|(_, it)| **it == RemovalOutcome::Removed);
    let cache = cache(context, &status.remote, &everyone());
    let mut record = read(&cache, &status.remote);
    for (member, _) in gone {
        record.refs.remove(&member.name.to_string());
    }
    cache.put(&record).context("cannot keep what was seen of the fleet")?;
    Ok(outcomes)
}

fn forget_part(
    context: &Context,
    status: &StatusRepository,
    members: &[Member],
    hints: &mut PushHints,
) -> Result<Vec<RemovalOutcome>> {
    let names: Vec<String> = members.iter().map(|member| member.name.to_string()).collect();
    let ids = members.iter().map(|member| member.sighting.id);
    let mut left: BTreeMap<&str, Commit> = names.iter().map(String::as_str).zip(ids).collect();
    let mut ended: BTreeMap<&str, RemovalOutcome> = BTreeMap::new();
    let mut pause = PAUSE;
    for attempt in 1..=MOST_PUSHES {
        let refused = push(context, status, &left, hints)?;
        ended.extend(
            left.keys()
                .filter(|name| !refused.contains_key(*name))
                .map(|name| (*name, RemovalOutcome::Removed)),
        );
        left.retain(|name, _| refused.contains_key(name));
        if left.is_empty() {
            break;
        }
        let tips = tips(context, status, &left)?;
        left.retain(|name, id| {
            let why = &refused[name];
            let outcome = match tips.get(*name) {
                None => RemovalOutcome::Removed,
                Some(tip) if tip != id => RemovalOutcome::Published(*tip),
                Some(_) if is_policy(why) || attempt == MOST_PUSHES => {
                    RemovalOutcome::Refused(why.clone())
                }
                Some(_) => return true,
            };
            ended.insert(name, outcome);
            false
        });
        if left.is_empty() {
            break;
        }
        // Another push held a lock.
        thread::sleep(pause);
        pause *= 2;
    }
    Ok(names.iter().filter_map(|name| ended.remove(name.as_str())).collect())
}

/// Pushes the removal of each ref of `left` that is where it was listed; returns the reason for each that the server
/// did not remove.
fn push<'a>(
    context: &Context,
    status: &StatusRepository,
    left: &BTreeMap<&'a str, Commit>,
    hints: &mut PushHints,
) -> Result<BTreeMap<&'a str, String>> {
    let change = |(name, id): (&&'a str, &Commit)| RefChange { name, old: Some(*id), new: None };
    let changes: Vec<RefChange<'a>> = left.iter().map(change).collect();
    let StatusRepository { remote, reach } = status;
    let order = PushOrder { remote, reach, changes: &changes, commit: None };
    let (outcomes, learned) = context.wire.push(&order, hints)?;
    *hints = learned;
    let refused = changes.iter().zip(outcomes).filter_map(|(change, outcome)| match outcome {
        PushOutcome::Done => None,
        PushOutcome::Rejected(why) => Some((change.name, why)),
    });
    Ok(refused.collect())
}

/// Where the refs of `left` are now.
fn tips(
    context: &Context,
    status: &StatusRepository,
    left: &BTreeMap<&str, Commit>,
) -> Result<BTreeMap<String, Commit>> {
    let StatusRepository { remote, reach } = status;
    let beginnings: Vec<String> =
        left.keys().map(|name| name.replacen("refs/heads/", "", 1)).collect();
    let answer = context.wire.branches(remote, &beginnings, reach, None)?;
    Ok(answer.refs.into_iter().map(|tip| (tip.name, tip.id)).collect())
}
