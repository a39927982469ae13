//! The high-water mark of each published ref, where going back is refused. It is a ref of the clone and
//! does not depend on the agent's records or on upstream's ref.

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::publish::rules::mark;
use crate::domain::repository::observed::OnRewrite;
use crate::domain::text::EscapeControls;
use crate::engine::error::one_line;
use crate::engine::repository::Repository;
use crate::system::lock::JournalStep;

/// The revision of the ref `name` that was shown last; `None`: no mark.
///
/// # Errors
/// When the mark cannot be read.
pub fn of(repository: &Repository, name: &str) -> Result<Option<Commit>> {
    match mark(name) {
        Some(mark) => repository.git.ref_id(&mark),
        None => Ok(None),
    }
}

/// Sets the mark of the ref `name` to `revision`, which is shown now. A rewritten revision that a person
/// accepted moves the mark back.
pub fn raise(repository: &Repository, name: &str, revision: Commit) {
    if repository.repo.settings.policy.rewritten != OnRewrite::Refuse {
        return;
    }
    let Some(mark) = mark(name) else { return };
    if let Err(error) = repository.git.set_ref(&mark, revision, "published") {
        // The link at the target shows the revision as well.
        tracing::warn!(repository = %repository.repo.name, reference = %name.escape_controls(),
            error = %one_line(&error), "no mark");
    }
}

/// Moves the mark of the followed branch to upstream's rewritten tip, once that was applied.
///
/// # Errors
/// When a ref cannot be read or written.
pub fn lower_mark(repository: &Repository, step: &JournalStep) -> Result<()> {
    let branch = step.upstream();
    let tip = repository.git.ref_id(&repository.tracking(branch))?;
    let mark = repository.git.ref_id(&branch.seen())?;
    if tip == Some(step.target) && mark != tip {
        repository.git.set_logged_ref(&branch.seen(), step.target, "taken")?;
    }
    Ok(())
}
