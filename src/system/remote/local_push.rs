//! A push into a repository on this machine. libgit2 writes the objects and moves the ref by compare-and-swap; no hook
//! runs and nothing is collected. Only a repository of the own user is written into: its owner could redirect what
//! another user writes.

use anyhow::{Result, anyhow};
use git2::{ErrorCode, ObjectType};

use super::{PushOrder, local};
use crate::domain::remote::FormatMismatch;
use crate::domain::wire::push::PushOutcome;
use crate::system::git::error::explained;
use crate::system::git::index_pack::git_dir_in;
use crate::system::git::{format_of, oid_in};
use crate::system::remote::denied;
use crate::system::trust::{PathWalk, Trust};

/// What is written to: the directory itself, and these in it.
const WRITTEN: [&str; 3] = ["", "objects", "refs"];

/// As [`Wire::push`](super::Wire::push), to a path.
pub(super) fn push(order: &PushOrder) -> Result<PushOutcome> {
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
    FormatMismatch::check(format_of(&repo), order.commit.format())?;
    let store = repo.odb().map_err(|error| explained(&error))?;
    for (kind, content) in order.commit.objects() {
        let kind = ObjectType::from_str(kind).ok_or_else(|| anyhow!("{kind} is no type"))?;
        store.write(kind, content).map_err(|error| explained(&error))?;
    }
    let (name, new) = (order.branch.local(), oid_in(&repo, &order.commit.id.0)?);
    let moved = match order.old {
        Some(old) => {
            let old = oid_in(&repo, &old.0)?;
            repo.reference_matching(&name, new, true, old, "presence")
        }
        None => repo.reference(&name, new, false, "presence"),
    };
    match moved {
        Ok(_) => Ok(PushOutcome::Done),
        Err(error) => match error.code() {
            ErrorCode::Modified | ErrorCode::Exists | ErrorCode::NotFound => {
                Ok(PushOutcome::Rejected("the ref has moved".to_owned()))
            }
            ErrorCode::Locked => Ok(PushOutcome::Rejected("cannot lock the ref".to_owned())),
            _ => Err(explained(&error)),
        },
    }
}
