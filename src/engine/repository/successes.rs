//! What succeeded here before, by its tree, and what turned out bad: a revert is another revision with an old tree.

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::repository::action::{FinishedRun, Outcome};
use crate::domain::repository::health::BadRevision;
use crate::domain::repository::observed::Observed;
use crate::engine::repository::Repository;

impl Repository<'_> {
    /// Whether a revision with the tree of `revision` succeeded here. `last`: the latest success, which the history
    /// may lack.
    ///
    /// # Errors
    /// When the history cannot be read.
    pub fn succeeded_before(&self, revision: Commit, last: Option<&FinishedRun>) -> Result<bool> {
        let runs = self.records.history()?;
        Ok(self.has_tree(runs.iter().chain(last), revision))
    }

    /// Whether one of `runs` at the ref `name` succeeded with the tree of `revision`, or `good` has it, the latest
    /// success there, which the history may lack.
    pub fn succeeded_at(
        &self,
        name: &str,
        runs: &[FinishedRun],
        (good, revision): (Commit, Commit),
    ) -> bool {
        let of_ref = runs.iter().filter(|run| run.reference.as_deref() == Some(name));
        let tree_of = |revision: Commit| self.git.tree_of(&revision).ok();
        self.has_tree(of_ref, revision) || tree_of(good) == tree_of(revision)
    }

    /// Whether one of `runs` succeeded with the tree of `revision`.
    fn has_tree<'a>(&self, runs: impl Iterator<Item = &'a FinishedRun>, revision: Commit) -> bool {
        let tree_of = |revision: Commit| self.git.tree_of(&revision).ok();
        let Some(tree) = tree_of(revision) else { return false };
        let mut successes = runs.filter(|run| run.outcome == Outcome::Succeeded);
        successes.any(|run| run.tree.or_else(|| tree_of(run.revision)) == Some(tree))
    }

    /// Fills in the revision that is bad here; `seen` has the recorded one already. On an idle tick, when upstream's
    /// tip is applied, no ref is looked up.
    pub(super) fn fill_bad(&self, seen: &mut Observed) -> Result<()> {
        let known = seen.bad.take();
        let is_marked = |commit: Commit| -> Result<bool> {
            let mark = BadRevision::mark(commit);
            Ok(seen.acted != Some(commit) && self.git.ref_id(&mark)?.is_some())
        };
        let tip = seen.upstream_tip();
        let upstream_is_bad = tip.map_or(Ok(false), is_marked)?;
        let head = seen.head.filter(|head| seen.acted.is_some() && Some(*head) != seen.acted);
        let head_is_bad = match head {
            Some(_) if head == tip => upstream_is_bad,
            Some(head) => is_marked(head)?,
            None => false,
        };
        let of = |revision: Commit| {
            let known = known.filter(|known| known.revision == revision);
            known.unwrap_or(BadRevision { revision, cause: None, back_since: None })
        };
        seen.upstream_is_bad = upstream_is_bad;
        seen.bad = match (known.filter(|known| known.back_since.is_none()), head, tip) {
            (Some(leaving), ..) => Some(leaving),
            (None, Some(head), _) if head_is_bad => {
                Some(BadRevision { back_since: None, ..of(head) })
            }
            (None, _, Some(tip)) if upstream_is_bad => {
                let is_back = seen.head == seen.acted && !seen.is_tried;
                let since = of(tip).back_since.or(seen.acted_at.filter(|_| is_back));
                Some(BadRevision { back_since: since, ..of(tip) })
            }
            _ => None,
        };
        Ok(())
    }
}
