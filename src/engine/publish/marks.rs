//! How far each published ref was seen, where going back is refused: known from the clone alone,
//! whatever became of our records and of the ref meanwhile.

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::plan::OnRewrite;
use crate::domain::publish::mark;
use crate::engine::observe::{Site, one_line};

/// What was shown last of the ref `name`.
///
/// # Errors
/// When the mark cannot be read.
pub fn of(site: &Site, name: &str) -> Result<Option<Commit>> {
    match mark(name) {
        Some(mark) => site.git.ref_commit(&mark),
        None => Ok(None),
    }
}

/// Marks that `revision` of the ref `name` is shown. One that a person accepted lies behind the mark
/// and moves it back.
pub fn raise(site: &Site, name: &str, revision: Commit) {
    if site.repo.settings.policy.rewritten != OnRewrite::Refuse {
        return;
    }
    let Some(mark) = mark(name) else { return };
    if let Err(error) = site.git.set_ref(&mark, revision, "published") {
        // What is shown is known from its link as well.
        tracing::warn!(repository = %site.repo.name, reference = %name.escape_debug(),
            error = %one_line(&error), "no mark");
    }
}
