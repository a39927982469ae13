//! Polls and fetches over a path or `file://` on this machine. A poll reads the refs directly and starts
//! no process; it knows no git protocol.
#![expect(clippy::disallowed_types, reason = "part of the wire, which carries libgit2's fetches")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use git2::{ErrorClass, ErrorCode, Repository};
use percent_encoding::percent_decode_str;

use super::receive::FetchDelivery;
use super::{FetchGoal, FetchOrder, FetchProgress, FetchedRef, shallow};
use crate::domain::git::{Commit, ObjectFormat, RefName, Remote};
use crate::domain::remote::{
    FormatMismatch, PollAnswer, PollScope, RefKinds, RefTip, RemoteFailure, RemoteHead,
    RemoteHints, WireDialect,
};
use crate::domain::wire::{self, AdvertisedRef};
use crate::system::files;
use crate::system::git::error::explained;
use crate::system::git::index_pack::git_dir_in;
use crate::system::git::size_limits::names_below;
use crate::system::git::{Git, commit_of, format_of};
use crate::system::host::since_boot;
use crate::system::process::DuplexChild;

/// The beginning of a URL of this kind.
const FILE: &str = "file://";

/// The path of a local remote. In a URL `%20` is a space, as in git.
pub(super) fn path(remote: &Remote) -> PathBuf {
    let url = remote.secret_url();
    match url.get(..FILE.len()) {
        Some(scheme) if scheme.eq_ignore_ascii_case(FILE) => {
            let path: Vec<u8> = percent_decode_str(&url[FILE.len()..]).collect();
            PathBuf::from(OsString::from_vec(path))
        }
        _ => PathBuf::from(url),
    }
}

/// Fetches the refs of `order` into `git`. A process of its own reads the remote and writes a pack,
/// since the owner of those files decides how much time and memory that takes.
///
/// # Errors
/// When the remote cannot be read, or does not give all of it in time; see [`FetchDelivery::receive_pack`].
pub(super) fn fetch(
    git: &Git,
    order: &FetchOrder,
    progress: &mut dyn FnMut(FetchProgress),
) -> Result<()> {
    let path = path(order.remote);
    let delivery = FetchDelivery::new(git, order)?;
    let edges = shallow::read(&git_dir_in(&path), git.format())?;
    let mut polled = order.goal.polled();
    let mut last = anyhow!("it says something else each time");
    // One attempt more after the branch moved.
    for _ in 0..2 {
        let updates = match (polled.take(), order.goal) {
            (Some(updates), _) => updates,
            (None, FetchGoal::Refs(_)) => break,
            (None, FetchGoal::Branch { branch, to, .. }) => {
                let answer = poll(order.remote, &PollScope::Branch(branch.clone()), None)?;
                FormatMismatch::check(answer.way.format, git.format())?;
                let tip = answer.tip;
                vec![FetchedRef::of(
                    branch,
                    to,
                    tip.with_context(|| format!("it has no branch {branch}"))?,
                )]
            }
        };
        let wants = delivery.missing(&updates)?;
        if wants.is_empty() {
            return Ok(());
        }
        let mut packer = Some(PackProcess::start(git, &path, &wants, order.reach.limit)?);
        let mut read = |into: &mut [u8]| match &mut packer {
            Some(running) => match running.read(into)? {
                0 => packer.take().map_or(Ok(()), PackProcess::finish).map(|()| 0),
                count => Ok(count),
            },
            None => Ok(0),
        };
        match delivery.receive_pack(&updates, &edges, &mut read, progress) {
            Err(error) if error.is::<PackFailure>() => last = error,
            outcome => return outcome,
        }
    }
    Err(last)
}

/// The process that reads the remote.
struct PackProcess {
    dialogue: DuplexChild,
    limit: Duration,
    deadline: Duration,
}

/// The reason why the process that reads the remote could not make a pack.
#[derive(Debug)]
struct PackFailure(String);

impl fmt::Display for PackFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PackFailure {}

impl PackProcess {
    fn start(git: &Git, from: &Path, wants: &[Commit], limit: Duration) -> Result<Self> {
        let mut args: Vec<OsString> = ["pack-objects", "--into"].map(OsString::from).to_vec();
        args.extend([git.git_dir().into(), "--".into(), from.into()]);
        let mut dialogue = DuplexChild::start_ours(&args)
            .context("cannot start the process that reads the remote")?;
        let deadline = since_boot() + limit;
        let wanted: String = wants.iter().map(|want| format!("{want}\n")).collect();
        let mut rest = wanted.as_bytes();
        while !rest.is_empty() {
            match dialogue.write(rest, deadline.saturating_sub(since_boot())) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                // The way the process ends gives a better reason.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => break,
                Err(error) => return Err(error).context("the remote is not read"),
            }
        }
        dialogue.close_input();
        Ok(Self { dialogue, limit, deadline })
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize> {
        let patience = self.deadline.saturating_sub(since_boot());
        self.dialogue.read(into, patience).map_err(|error| match error.kind() {
            ErrorKind::TimedOut => {
                anyhow!("reading it took longer than {}", humantime::format_duration(self.limit))
            }
            _ => Error::new(error).context("it cannot be read"),
        })
    }

    fn finish(self) -> Result<()> {
        let farewell = self.dialogue.finish(self.deadline.saturating_sub(since_boot()))?;
        match farewell.code {
            Some(0) => Ok(()),
            Some(_) => Err(PackFailure(farewell.complaints.trim_end().to_owned()).into()),
            None => Err(Error::new(RemoteFailure::Pack).context(
                "reading it needs more memory than that may use\n\
                 hint: look whether it is damaged: git fsck; then: git repack -adf",
            )),
        }
    }
}

pub(super) fn open(remote: &Remote) -> Result<Repository> {
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

pub(super) fn poll(
    remote: &Remote,
    wanted: &PollScope,
    known: Option<&RemoteHints>,
) -> Result<PollAnswer> {
    let path = path(remote);
    if let PollScope::Branch(branch) | PollScope::WithHead(branch) = wanted
        && let Some(tip) = plain_ref(&path, branch)
        // For an id of another length, only the configuration shows whether the repository changed its
        // format.
        && known.is_some_and(|way| way.format == tip.0.format())
    {
        let head = match wanted {
            PollScope::WithHead(_) => plain_head(&path),
            _ => None,
        };
        let head = head.map(|branch| RemoteHead { branch, tip: None });
        let (branch, refs, others) = (Some(branch.clone()), Vec::new(), Vec::new());
        let way = way(tip.0.format());
        return Ok(PollAnswer {
            branch,
            tip: Some(tip),
            tag: None,
            refs,
            head,
            others,
            is_tag: false,
            way,
        });
    }
    let repo = open(remote)?;
    let way = way(format_of(&repo));
    let tip_of = |branch: &RefName| match repo.refname_to_id(&branch.local()) {
        Ok(oid) => commit_of(oid).map(Some),
        Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
        Err(error) => Err(anyhow!("{}", error.message()))
            .with_context(|| format!("{remote}: {branch} cannot be read")),
    };
    let default = repo.find_reference("HEAD").ok().and_then(|head| {
        head.symbolic_target().ok()??.strip_prefix("refs/heads/")?.parse::<RefName>().ok()
    });
    // A HEAD that names nothing is not listed by a server either.
    let head = default.and_then(|branch| {
        let tip = Some(tip_of(&branch).ok()??);
        Some(RemoteHead { branch, tip })
    });
    let branch = wanted.branch().cloned().or_else(|| head.as_ref().map(|it| it.branch.clone()));
    let mut refs = list_refs(&repo, wanted.kinds())
        .with_context(|| format!("{remote} cannot list its refs"))?;
    let is_listed = |name: &str| {
        name.strip_prefix("refs/heads/").is_none_or(|branch| wanted.lists_branch(branch))
    };
    refs.retain(|tip| is_listed(&tip.name));
    let tag = wanted.pattern().and_then(|_| wire::chosen_tag(wanted, &with_peeled(&repo, &refs)));
    let tip = match (wanted.fixed(), wanted.revision()) {
        (None, _) => branch.as_ref().map(tip_of).transpose()?.flatten(),
        (Some(_), None) => tag.as_ref().map(|tag| tag.commit),
        (Some(_), revision) => revision,
    };
    Ok(PollAnswer { branch, tip, tag, refs, head, others: Vec::new(), is_tag: false, way })
}

/// The same refs as a server lists them. The object behind an annotated tag is only in `packed-refs`: the
/// tag itself is not read, its owner decides how large it is. The clone knows it after the fetch.
fn with_peeled(repo: &Repository, refs: &[RefTip]) -> Vec<AdvertisedRef> {
    let listed = |tip: &RefTip| {
        let peeled = repo.find_reference(&tip.name).ok().and_then(|found| found.target_peel());
        let peeled = peeled.and_then(|oid| commit_of(oid).ok());
        AdvertisedRef { name: tip.name.clone(), id: tip.id, target: None, peeled }
    };
    refs.iter().map(listed).collect()
}

/// The branches and tags of `repo`, by name, without symbolic refs.
///
/// # Errors
/// Also when a file or directory below `refs` cannot be read: libgit2 skips it, and a branch that is
/// missing in the list is removed from its target.
fn list_refs(repo: &Repository, kinds: RefKinds) -> Result<Vec<RefTip>> {
    let mut tips = Vec::new();
    for (wanted, prefix) in [(kinds.branches, "refs/heads"), (kinds.tags, "refs/tags")] {
        if !wanted {
            continue;
        }
        let files = names_below(repo.commondir(), Path::new(prefix))?;
        let mut listed = BTreeSet::new();
        for found in repo.references_glob(&format!("{prefix}/*"))? {
            let found = found?;
            listed.insert(found.name_bytes().to_vec());
            tips.extend(tip(&found)?);
        }
        for name in files.iter().filter(|name| !listed.contains(name.as_bytes())) {
            match repo.find_reference(name) {
                Ok(found) => tips.extend(tip(&found)?),
                Err(error) if error.class() == ErrorClass::Os => {
                    return Err(explained(&error)).with_context(|| format!("cannot read {name}"));
                }
                // Removed in the meantime, or not a ref that git would list.
                Err(_) => {}
            }
        }
    }
    tips.sort();
    Ok(tips)
}

/// The object that a ref points at; `None` for a symbolic ref.
fn tip(found: &git2::Reference<'_>) -> Result<Option<RefTip>> {
    let tip = |oid| Ok(RefTip { name: wire::ref_name(found.name_bytes()), id: commit_of(oid)? });
    found.target().map(tip).transpose()
}

fn way(format: ObjectFormat) -> RemoteHints {
    RemoteHints { dialect: WireDialect::Files, format, ..RemoteHints::default() }
}

/// The tip of `branch` in a file of its own or in `packed-refs`, the two places of
/// gitrepository-layout(5); `None` leaves everything else to libgit2. This is all that a poll each
/// minute does: opening a repository costs twenty times as much.
fn plain_ref(path: &Path, branch: &RefName) -> Option<Commit> {
    let git_dir = git_dir_in(path);
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

/// The branch that the file HEAD names; `None` leaves everything else out.
fn plain_head(path: &Path) -> Option<RefName> {
    let head = files::read_small(&git_dir_in(path).join("HEAD"), 1024).ok()??;
    std::str::from_utf8(&head).ok()?.trim_end().strip_prefix("ref: refs/heads/")?.parse().ok()
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
