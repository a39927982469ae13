//! The seals of releases: the agent's own record of those that it wrote completely. A directory in the
//! store that has no seal was made by another program, whatever its name is.

use std::collections::BTreeSet;

use anyhow::Result;

use super::TargetStore;
use crate::domain::git::Commit;
use crate::domain::repository::action::Outcome;
use crate::domain::repository::change::{ObjectSource, TreeChange};
use crate::domain::text::EscapeControls;
use crate::engine::repository::{Repository, tree};
use crate::system::release::{Release, Slot};

/// The use that can be made of what has the name of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum ReleaseState {
    /// It is sealed, and its content is that of its revision.
    Whole,
    /// It has the name and is not to be used: a new one takes its place.
    Unfit,
    /// There is nothing of that name.
    Absent,
}

impl TargetStore {
    /// Compares the release of `revision` with `tree`, its complete content. What may not be used again
    /// and is not shown loses its name: a release of ours is retired, what another program made is moved
    /// aside.
    ///
    /// # Errors
    /// When the store cannot be read or written.
    pub(in crate::engine) fn release_state(
        &self,
        seals: &Seals,
        place: &Slot,
        revision: Commit,
        tree: &TreeChange,
        objects: &impl ObjectSource,
    ) -> Result<ReleaseState> {
        let release = || Release { place: place.clone(), revision };
        if self.store.is_obstructed(place, revision)? {
            self.store.set_aside(&release())?;
        }
        if !self.store.has(place, revision)? {
            return Ok(ReleaseState::Absent);
        }
        let is_sealed = seals.contains(self, place, revision);
        let is_whole = self.store.is_whole(place, revision, tree, &self.shared, objects);
        if is_sealed && is_whole {
            return Ok(ReleaseState::Whole);
        }
        if self.store.standing(place)?.shows(revision) {
            return Ok(ReleaseState::Unfit);
        }
        match is_sealed || is_whole {
            true => self.store.retire(&release())?,
            false => self.store.set_aside(&release())?,
        }
        Ok(ReleaseState::Absent)
    }

    /// Records that the releases of `written` are complete, before they get their names. Their content
    /// has to be on disk.
    ///
    /// # Errors
    /// When the record cannot be read or written.
    pub(in crate::engine) fn seal(
        &self,
        repository: &Repository,
        written: &[(Slot, Commit)],
    ) -> Result<()> {
        if written.is_empty() {
            return Ok(());
        }
        let mut lines = Seals::read(repository)?.into_lines(self)?;
        lines.extend(written.iter().map(|(place, revision)| self.seal_of(place, *revision)));
        repository.records.put_sealed(&lines)
    }

    /// The line of a release in the record.
    fn seal_of(&self, place: &Slot, revision: Commit) -> String {
        self.store.release_path(place, revision).display().to_string().escape_controls()
    }

    /// Retires the sealed ones of `surplus`, and moves aside what another program made under such a name.
    ///
    /// # Errors
    /// When the store or the record cannot be read or written.
    pub(in crate::engine) fn retire(
        &self,
        repository: &Repository,
        surplus: &[Release],
    ) -> Result<()> {
        if surplus.is_empty() {
            return Ok(());
        }
        let seals = Seals::read(repository)?;
        for release in surplus {
            let Release { place, revision } = release;
            let is_whole = || {
                let git = &repository.git;
                let tree = tree::whole_tree(git, git, *revision);
                tree.is_ok_and(|tree| {
                    self.store.is_whole(place, *revision, &tree, &self.shared, git)
                })
            };
            match seals.contains(self, place, *revision) || is_whole() {
                true => self.store.retire(release)?,
                false => self.store.set_aside(release)?,
            }
        }
        let mut lines = seals.into_lines(self)?;
        for Release { place, revision } in surplus {
            lines.remove(&self.seal_of(place, *revision));
        }
        repository.records.put_sealed(&lines)
    }
}

/// The record of sealed releases.
pub(in crate::engine) enum Seals {
    /// Their paths.
    Lines(BTreeSet<String>),
    /// A build that sealed no releases published them: those count that it deployed with success.
    Deployed(BTreeSet<Commit>),
}

impl Seals {
    /// Reads the record of `repository`.
    ///
    /// # Errors
    /// When there is none and the history cannot be read either.
    pub(in crate::engine) fn read(repository: &Repository) -> Result<Self> {
        if let Some(lines) = repository.records.sealed() {
            return Ok(Self::Lines(lines));
        }
        let history = repository.records.history()?;
        let deployed = history.iter().filter(|run| run.outcome == Outcome::Succeeded);
        Ok(Self::Deployed(deployed.map(|run| run.revision).collect()))
    }

    fn contains(&self, target_store: &TargetStore, place: &Slot, revision: Commit) -> bool {
        match self {
            Self::Lines(lines) => lines.contains(&target_store.seal_of(place, revision)),
            Self::Deployed(revisions) => revisions.contains(&revision),
        }
    }

    /// Returns `true` if a release of `revision` was sealed, at whatever place.
    pub(in crate::engine) fn knows(&self, revision: Commit) -> bool {
        match self {
            Self::Lines(lines) => {
                let name = format!("/{revision}");
                lines.iter().any(|line| line.ends_with(&name))
            }
            Self::Deployed(revisions) => revisions.contains(&revision),
        }
    }

    /// The paths of the sealed releases.
    fn into_lines(self, target_store: &TargetStore) -> Result<BTreeSet<String>> {
        let revisions = match self {
            Self::Lines(lines) => return Ok(lines),
            Self::Deployed(revisions) => revisions,
        };
        let releases = target_store.store.all_releases()?;
        let sealed = releases.iter().filter(|release| revisions.contains(&release.revision));
        Ok(sealed.map(|it| target_store.seal_of(&it.place, it.revision)).collect())
    }
}
