//! The object format of a repository, and the only conversion from an object id to libgit2's. Reads no
//! objects.
#![expect(clippy::disallowed_types, reason = "part of the one door to libgit2")]

use anyhow::{Result, ensure};
use git2::{Oid, Repository};

use super::Git;
use crate::domain::git::{Commit, ObjectFormat, ObjectId};

/// The hash by which a repository names its objects, as of when it was opened.
pub fn format_of(repo: &Repository) -> ObjectFormat {
    match repo.object_format() {
        git2::ObjectFormat::Sha256 => ObjectFormat::Sha256,
        git2::ObjectFormat::Sha1 => ObjectFormat::Sha1,
    }
}

/// Converts an id for libgit2, for use in `repo`; accepts only an id of the object format of `repo`.
/// libgit2 reserves the path of a loose object by the format of the repository and writes it by that of
/// the id, so a longer id overflows the heap.
///
/// # Errors
/// When the id has the length of the other format.
#[expect(clippy::disallowed_methods, reason = "the door that compares the formats")]
pub fn oid_in(repo: &Repository, id: &ObjectId) -> Result<Oid> {
    let format = format_of(repo);
    ensure!(id.format() == format, "{id} is no object id here, where {format} names objects");
    Ok(Oid::from_bytes(id.as_bytes())?)
}

/// Parses an id of this format, or of either where the format is unknown; `None` for other text.
pub(super) fn id_in(format: Option<ObjectFormat>, text: &str) -> Option<Commit> {
    let id: Commit = text.parse().ok()?;
    format.is_none_or(|format| id.0.format() == format).then_some(id)
}

impl Git {
    /// The hash by which the repository names its objects, as of when it was opened.
    pub fn format(&self) -> ObjectFormat {
        format_of(&self.repo)
    }

    /// Converts an id for libgit2, as [`oid_in`].
    ///
    /// # Errors
    /// When the id has the length of the other format.
    pub(in crate::system) fn oid(&self, id: &ObjectId) -> Result<Oid> {
        oid_in(&self.repo, id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_passes_into_a_repository_of_the_other_format() {
        let lengths = [(ObjectFormat::Sha1, 20), (ObjectFormat::Sha256, 32)];
        for (format, fits) in lengths {
            let dir = tempfile::tempdir().unwrap();
            let mut options = git2::RepositoryInitOptions::new();
            options.bare(true).object_format(match format {
                ObjectFormat::Sha1 => git2::ObjectFormat::Sha1,
                ObjectFormat::Sha256 => git2::ObjectFormat::Sha256,
            });
            let repo = Repository::init_opts(dir.path(), &options).unwrap();
            for (_, length) in lengths {
                let id = ObjectId::from_bytes(&vec![0xab; length]).unwrap();
                assert_eq!(oid_in(&repo, &id).is_ok(), length == fits, "{format} {length}");
            }
        }
    }

    #[test]
    fn a_text_is_an_id_in_its_own_format_or_where_none_is_known() {
        let (short, long) = ("ab".repeat(20), "ab".repeat(32));
        for (format, fits) in [
            (None, [true, true]),
            (Some(ObjectFormat::Sha1), [true, false]),
            (Some(ObjectFormat::Sha256), [false, true]),
        ] {
            assert_eq!([&short, &long].map(|text| id_in(format, text).is_some()), fits);
        }
        assert_eq!(id_in(None, "abc"), None);
    }
}
