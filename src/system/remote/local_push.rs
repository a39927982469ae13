//! A push into a repository on this machine. libgit2 writes the objects and moves each ref by compare-and-swap; no hook
//! runs and nothing is collected. Only a repository of the own user is written into: its owner could redirect what
//! another user writes.

use anyhow::{Result, anyhow};
use git2::{ErrorClass, ErrorCode, ObjectType};

use super::{PushOrder, local};
use crate::domain::git::Commit;
use crate::domain::remote::FormatMismatch;
use crate::domain::wire::push::{FileCommit, PushOutcome, RefChange};
use crate::system::git::error::explained;
use crate::system::git::index_pack::git_dir_in;
use crate::system::git::{format_of, oid_in};
use crate::system::remote::denied;
use crate::system::trust::{PathWalk, Trust};

/// What is written to: the directory itself, and these in it.
const WRITTEN: [&str; 3] = ["", "objects", "refs"];

/// As [`Wire::push`](super::Wire::push), to a path.
pub(super) fn push(order: &PushOrder) -> Result<Vec<PushOutcome>> {
    let git_dir = git_dir_in(&local::path(order.remote));
    let (walk, trust) = (PathWalk::default(), Trust::own());
    for name in WRITTEN {
        // What is not there is reported by libgit2.
        let Ok(walked) = walk.walk(&git_dir.join(name)) else { continue };
        if let Err(part) = walked.check(&trust) {
            return Err(denied(format!(
                "it is not written into: {part}\n\
                 hint: push as its owner: url = \"ssh://OWNER@localhost{}\"",
                git_dir.display()
            )));
        }
    }
    let repo = local::open(order.remote)?;
    FormatMismatch::check(format_of(&repo), order.format())?;
    let store = repo.odb().map_err(|error| explained(&error))?;
    for (kind, content) in order.commit.into_iter().flat_map(FileCommit::objects) {
        let kind = ObjectType::from_str(kind).ok_or_else(|| anyhow!("{kind} is no type"))?;
        store.write(kind, content).map_err(|error| explained(&error))?;
    }
    // Changes one ref, unless it is not where it has to be: that is the inner error.
    let changed = |change: &RefChange| -> Result<Result<(), git2::Error>> {
        let id = |commit: Option<Commit>| commit.map(|it| oid_in(&repo, &it.0)).transpose();
        let (old, new) = (id(change.old)?, id(change.new)?);
        let is_denied = || repo.config()?.get_bool("receive.denyDeletes");
        if new.is_none() && is_denied().unwrap_or(false) {
            return Ok(Err(git2::Error::new(
                ErrorCode::Invalid,
                ErrorClass::Reference,
                "deletion prohibited by receive.denyDeletes",
            )));
        }
        Ok(match (old, new) {
            (Some(old), Some(new)) => {
                repo.reference_matching(change.name, new, true, old, "presence").map(drop)
            }
            (None, Some(new)) => repo.reference(change.name, new, false, "presence").map(drop),
            // libgit2 compares once more what it removes with what was found here.
            (old, None) => {
                repo.find_reference(change.name).and_then(|mut found| match found.target() == old {
                    true => found.delete(),
                    false => Err(git2::Error::new(
                        ErrorCode::Modified,
                        ErrorClass::Reference,
                        "the ref has moved",
                    )),
                })
            }
        })
    };
    let outcome = |change: &RefChange| match changed(change)? {
        Ok(()) => Ok(PushOutcome::Done),
        Err(error) => match error.code() {
            ErrorCode::Modified | ErrorCode::Exists | ErrorCode::NotFound => {
                Ok(PushOutcome::Rejected("the ref has moved".to_owned()))
            }
            ErrorCode::Invalid if change.new.is_none() => {
                Ok(PushOutcome::Rejected(error.message().to_owned()))
            }
            ErrorCode::Locked => Ok(PushOutcome::Rejected("cannot lock the ref".to_owned())),
            _ => Err(explained(&error)),
        },
    };
    order.changes.iter().map(outcome).collect()
}
