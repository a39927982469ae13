//! Looks for a revision that need not be the tip of a ref: by its whole id, where the server gives that, else in
//! the history of all its refs. Does not know which remote is asked, or why.

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::remote::{RefTip, RemoteFailure, RemoteHints};
use crate::system::files::DiskFault;
use crate::system::git::Git;
use crate::system::remote::FetchedRef;

/// The refs that keep what is fetched while the revision is looked for.
const LOOKED_AT: &str = "refs/pmpy/looked-at/";

/// Fetches some refs, from a remote that was polled this way.
pub type FetchRefs<'a> = dyn FnMut(Option<&RemoteHints>, &[FetchedRef]) -> Result<()> + 'a;

/// A search at one remote.
pub struct RevisionSearch<'a, 'f> {
    /// The clone.
    pub git: &'a Git,
    /// How the remote was polled.
    pub way: Option<&'a RemoteHints>,
    /// The fetch from that remote.
    pub fetch: &'a mut FetchRefs<'f>,
}

impl RevisionSearch<'_, '_> {
    /// The commit with the id `text`, also an abbreviated one, after it was fetched; `None`: the remote has none
    /// such. `refs` lists the refs of the remote. No ref keeps the commit afterwards.
    ///
    /// # Errors
    /// When the remote cannot be asked, the disk fails, or a ref cannot be written.
    pub fn run(
        self,
        text: &str,
        refs: impl FnOnce() -> Result<Vec<RefTip>>,
    ) -> Result<Option<Commit>> {
        let Self { git, way, fetch } = self;
        let looked_at = |from: &str, id: Commit| FetchedRef {
            from: from.to_owned(),
            to: format!("{LOOKED_AT}{id}"),
            id,
        };
        let mut attempt = |updates: &[FetchedRef]| match fetch(way, updates) {
            Err(error) if is_final(&error) => Err(error),
            Err(error) => {
                tracing::debug!("{text} is not to be had so: {error:#}");
                Ok(None)
            }
            Ok(()) => Ok(git.resolve(text).ok()),
        };
        let by_id = text.parse::<Commit>().ok().filter(|id| id.0.format() == git.format());
        let mut found = match by_id {
            Some(id) => attempt(&[looked_at(text, id)])?,
            None => None,
        };
        if found.is_none() {
            let mut updates: Vec<FetchedRef> =
                refs()?.iter().map(|tip| looked_at(&tip.name, tip.id)).collect();
            updates.sort_by_key(|update| update.id);
            updates.dedup_by_key(|update| update.id);
            if !updates.is_empty() {
                found = attempt(&updates)?;
            }
        }
        let names = git.refs_below(LOOKED_AT)?;
        git.move_refs(
            &names.into_iter().map(|name| (name, None)).collect::<Vec<_>>(),
            "looked at",
        )?;
        Ok(found)
    }
}

/// Whether another request of the same remote would be useless.
fn is_final(error: &anyhow::Error) -> bool {
    let failure = error.downcast_ref::<RemoteFailure>();
    DiskFault::of(error).is_some() || failure.is_some_and(|it| *it != RemoteFailure::Pack)
}
