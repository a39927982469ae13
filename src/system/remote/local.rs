//! Remotes on this machine: a path or `file://`. Their refs are read directly; no process starts.
#![expect(clippy::disallowed_types, reason = "part of the wire, which carries libgit2's fetches")]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use git2::{ErrorCode, Repository};
use percent_encoding::percent_decode_str;

use crate::domain::git::{Commit, RefName, Remote};
use crate::domain::remote::{Answer, Dialect, Format, Kinds, Tip, Wanted, Way};
use crate::domain::wire;
use crate::system::files;
use crate::system::git::error::explained;
use crate::system::git::{commit_of, format_of, packs};

/// What a URL of this kind begins with.
const FILE: &str = "file://";

/// The path that a local remote means: in a URL `%20` is a space, as git takes it.
fn path(remote: &Remote) -> PathBuf {
    let url = remote.secret_url();
    match url.get(..FILE.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(FILE) => {
            let path: Vec<u8> = percent_decode_str(&url[FILE.len()..]).collect();
            PathBuf::from(OsString::from_vec(path))
        }
        _ => PathBuf::from(url),
    }
}

/// Where the objects and refs of the repository at `path` are.
fn git_dir(path: &Path) -> PathBuf {
    let below = path.join(".git");
    if below.is_dir() { below } else { path.to_owned() }
}

/// Makes sure that the objects of `remote` can be read to their ends: libgit2 reads them in this
/// process, and never comes back from one that is torn.
///
/// # Errors
/// Says which is torn.
pub(super) fn must_be_whole(remote: &Remote) -> Result<()> {
    match packs::torn_object(&git_dir(&path(remote))) {
        Some(object) => bail!("{remote} is damaged: {} is cut off", object.display()),
        None => Ok(()),
    }
}

fn open(remote: &Remote) -> Result<Repository> {
    let path = path(remote);
    let none: [&std::ffi::OsStr; 0] = [];
    Repository::open_ext(&path, git2::RepositoryOpenFlags::NO_SEARCH, none)
        .map_err(|error| match error.code() {
            ErrorCode::NotFound => {
                anyhow!(
                    "there is no repository\nhint: correct its url, or make one: git init --bare"
                )
            }
            _ => explained(&error),
        })
        .with_context(|| format!("{remote} cannot be opened"))
}

pub(super) fn poll(remote: &Remote, wanted: &Wanted) -> Result<Answer> {
    if let Wanted::Branch(branch) | Wanted::Preferably(branch) = wanted
        && let Some(tip) = plain_ref(&path(remote), branch)
    {
        let format = if tip.0.to_string().len() == 64 { Format::Sha256 } else { Format::Sha1 };
        let branch = Some(branch.clone());
        return Ok(Answer { branch, tip: Some(tip), refs: Vec::new(), way: way(format) });
    }
    let repo = open(remote)?;
    let way = way(format_of(&repo));
    let tip_of = |branch: &RefName| match repo.refname_to_id(&branch.local()) {
        Ok(oid) => commit_of(oid).map(Some),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(anyhow!("{}", error.message()))
            .with_context(|| format!("{remote}: {branch} cannot be read")),
    };
    if let Wanted::Branch(branch) | Wanted::Preferably(branch) = wanted
        && let Some(tip) = tip_of(branch)?
    {
        let branch = Some(branch.clone());
        return Ok(Answer { branch, tip: Some(tip), refs: Vec::new(), way });
    }
    let default = repo.find_reference("HEAD").ok().and_then(|head| {
        head.symbolic_target().ok()??.strip_prefix("refs/heads/")?.parse::<RefName>().ok()
    });
    let branch = wanted.choose(default, |branch| matches!(tip_of(branch), Ok(Some(_))));
    let tip = branch.as_ref().map(tip_of).transpose()?.flatten();
    let refs = match wanted {
        Wanted::Every { kinds, .. } => {
            every(&repo, *kinds).with_context(|| format!("{remote} cannot list its refs"))?
        }
        _ => Vec::new(),
    };
    Ok(Answer { branch, tip, refs, way })
}

/// The branches and tags of `repo`, by name. What stands for another ref is left out.
fn every(repo: &Repository, kinds: Kinds) -> Result<Vec<Tip>> {
    let mut tips = Vec::new();
    for (wanted, glob) in [(kinds.branches, "refs/heads/*"), (kinds.tags, "refs/tags/*")] {
        if !wanted {
            continue;
        }
        for found in repo.references_glob(glob)? {
            let found = found?;
            if let Some(oid) = found.target() {
                tips.push(Tip { name: wire::ref_name(found.name_bytes()), id: commit_of(oid)? });
            }
        }
    }
    tips.sort();
    Ok(tips)
}

fn way(format: Format) -> Way {
    Way { dialect: Dialect::Files, format, ..Way::default() }
}

/// The tip of `branch` as it stands in a file of its own or in `packed-refs`, the two places of
/// gitrepository-layout(5); `None` leaves everything else to libgit2. A poll does no more than this
/// each minute, and opening a repository costs twenty times as much.
fn plain_ref(path: &Path, branch: &RefName) -> Option<Commit> {
    let git_dir = git_dir(path);
    let name = branch.local();
    let read = |file: &str, cap| files::read_small(&git_dir.join(file), cap).ok();
    if let Some(loose) = read(&name, 1024)? {
        return std::str::from_utf8(&loose).ok()?.trim_end().parse().ok();
    }
    let packed = read("packed-refs", 256 << 20)??;
    let line = packed
        .split(|&byte| byte == b'\n')
        .find(|line| line.strip_suffix(name.as_bytes()).is_some_and(|id| id.ends_with(b" ")))?;
    std::str::from_utf8(line).ok()?.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_decoded_and_a_path_is_not() {
        for (remote, expected) in [
            ("file:///srv/a%20b.git", "/srv/a b.git"),
            ("FILE:///srv/%C3%BC%2fx", "/srv/ü/x"),
            ("file:///srv/100%", "/srv/100%"),
            ("/srv/a%20b.git", "/srv/a%20b.git"),
        ] {
            assert_eq!(path(&Remote::new(remote)), Path::new(expected));
        }
    }
}
