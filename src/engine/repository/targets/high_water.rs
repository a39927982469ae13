//! The marks of published refs: the high-water mark, where going back is refused, and what turned out bad. They are
//! refs of the clone and do not depend on the agent's records or on upstream's refs.

use anyhow::Result;

use crate::domain::git::Commit;
use crate::domain::publish::rules::{bad_mark, mark};
use crate::domain::publish::state::{DesiredRefs, PublishRecord};
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

/// Fills in what the marks say of the `desired` refs: which revision a ref would lose, and which is bad there.
///
/// # Errors
/// When a mark or a commit cannot be read.
pub fn fill_marks(
    repository: &Repository,
    book: &PublishRecord,
    desired: &mut [DesiredRefs],
) -> Result<()> {
    let git = &repository.git;
    let refuses = repository.repo.settings.policy.rewritten == OnRewrite::Refuse;
    for it in desired {
        let Ok((revision, _)) = &it.release else { continue };
        let entry = book.get(&it.name);
        // On an idle tick no mark of a bad revision is looked up.
        let is_good = entry.is_some_and(|entry| entry.good == Some(*revision));
        if let (Some(mark), false) = (bad_mark(&it.name, *revision), is_good) {
            it.is_bad = git.ref_id(&mark)?.is_some();
        }
        if !refuses {
            continue;
        }
        // A ref that comes back must contain what was shown before it went.
        let shown = match entry.and_then(|entry| entry.shown) {
            Some(shown) => Some(shown),
            None => of(repository, &it.name)?,
        };
        if let Some(shown) = shown
            && *revision != shown
            && !git.contains(*revision, shown)?
        {
            it.rewrites = Some(shown);
            it.goes_back = git.has(shown) && git.contains(shown, *revision)?;
        }
    }
    Ok(())
}

/// Moves the mark of what is followed to upstream's rewritten tip, once that was applied.
///
/// # Errors
/// When a ref cannot be read or written.
pub fn lower_mark(repository: &Repository, step: &JournalStep) -> Result<()> {
    if repository.followed.fixed().is_some() {
        return repository.lower_seen_tag(step.target);
    }
    let branch = step.upstream();
    let tip = repository.git.ref_id(&repository.tracking(branch))?;
    let mark = repository.git.ref_id(&branch.seen())?;
    if tip == Some(step.target) && mark != tip {
        repository.git.set_logged_ref(&branch.seen(), step.target, "taken")?;
    }
    Ok(())
}
