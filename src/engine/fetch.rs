//! Getting what upstream has, and remembering how far it was seen. Decides nothing about it.

use anyhow::{Result, bail};

use super::observe::{Site, one_line};
use super::repair;
use crate::domain::git::{Commit, RefName};
use crate::domain::plan::Unreachable;
use crate::system::files::Fault;
use crate::system::git::Git;
use crate::system::node;
use crate::system::remote::{Order, Progress};

/// Gets `tip`. `false`: no remote gave it; that is written down.
///
/// # Errors
/// When the disk fails, or what was fetched or is here cannot be read.
pub fn fetch(site: &Site, tip: Commit, progress: &mut dyn FnMut(Progress)) -> Result<bool> {
    let mut polled = site.records.polled();
    let Some(branch) = polled.branch.clone() else { return Ok(false) };
    let mut failures = Vec::new();
    let mut remotes = site.remotes();
    // The one that knew of the tip first; a stable sort leaves the others in their order.
    remotes.sort_by_key(|remote| polled.way_of(remote).is_none());
    for remote in remotes {
        tracing::info!(repository = %site.repo.name, %remote, %branch, "fetching");
        let reach = &site.repo.settings.reach;
        let way = polled.way_of(&remote);
        let order = Order { remote: &remote, reach, branch: &branch, tip: Some(tip), way };
        let fetched = site.here.wire.fetch(&site.git, &order, &mut *progress);
        match fetched {
            Ok(()) => {
                // The branch may have moved on between the poll and the fetch.
                polled.tip = site.git.ref_commit(&branch.tracking())?.or(Some(tip));
                if let Some(tip) = polled.tip
                    && !site.git.has(tip)
                {
                    bail!("{tip} was fetched and cannot be read");
                }
                polled.unreachable = None;
                site.records.put_polled(&polled)?;
                if let Some(tip) = polled.tip {
                    raise_mark(&site.git, &branch, tip)?;
                }
                return Ok(true);
            }
            // No remote can do anything about a full disk.
            Err(error) if Fault::of(&error).is_some() => return Err(error),
            Err(error) => failures.push(one_line(&error)),
        }
    }
    let reason = failures.join("; ");
    repair::must_be_sound(site, &reason)?;
    let since = polled.unreachable.as_ref().map_or_else(node::now, |known| known.since);
    polled.unreachable = Some(Unreachable { since, reason });
    site.records.put_polled(&polled)?;
    Ok(false)
}

/// Moves the high-water mark forward to `tip`, never back: going back takes a person or a setting.
fn raise_mark(git: &Git, branch: &RefName, tip: Commit) -> Result<()> {
    let mark = git.kept_ref(&branch.seen())?;
    match mark {
        Some(mark) if mark == tip || !git.contains(tip, mark)? => Ok(()),
        _ => git.set_logged_ref(&branch.seen(), tip, "seen upstream"),
    }
}
