//! Checks paths against each other: no repository lies in another, and no target where the agent writes
//! anything else. Checks the paths as written; the file system code checks symlinks on the disk.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_spanned::Spanned;

use super::faults::{ConfigError, ConfigFaults};
use super::file::{ConfigFile, RepoSection};
use super::source::ConfigTexts;
use super::value::{AbsolutePath, repo_name};
use super::{Settings, modes};
use crate::domain::publish::rules::{PublishTarget, TargetLayout};
use crate::domain::text::EscapeControls;

/// The maximum length of a target's last component, in bytes: stores and links are named after it.
const LONGEST_NAME: usize = 200;

/// The path of a repository: as configured, or `ROOT/NAME`; the root where the name leads elsewhere.
pub fn path_of(root: &Path, name: &str, repo: &RepoSection) -> PathBuf {
    let below = || if repo_name(name).is_ok() { root.join(name) } else { root.to_owned() };
    repo.path.as_ref().map_or_else(below, |path| path.get_ref().0.clone())
}

/// Adds to `faults` repositories and targets that would lie in one another, repositories that contain the
/// root, and targets that overlap the root. A repository with other faults keeps what could be read.
pub fn check_paths(
    source: &ConfigTexts,
    root: &Path,
    file: &ConfigFile,
    faults: &mut ConfigFaults,
) {
    let mut claims = Vec::new();
    for (title, repo) in &file.repo {
        let name = title.get_ref().0.as_str();
        let path = path_of(root, name, repo);
        let span = repo.path.as_ref().map_or(title.span(), Spanned::span);
        if root.starts_with(&path) {
            // A name that is no name has the root as its path.
            if repo_name(name).is_ok() {
                faults.add_to_repo(name, holds_root(source, root, name, span));
            }
        } else {
            let begins = dir(&path);
            claims.push(PathClaim { what: ClaimKind::Path, name, begins, path, span });
        }
        // With an unreadable mode, something may lie at the target all the same.
        let unread = faults.has(name).then_some(TargetLayout::Checkout);
        if let (Some(key), Some(layout)) = (&repo.target, modes::of(file, repo).layout().or(unread))
        {
            match begins(source, layout, key) {
                Err(error) => faults.add_to_repo(name, error),
                Ok(all) => claims.extend(all.into_iter().map(|begins| {
                    let (path, span) = (key.get_ref().0.clone(), key.span());
                    PathClaim { what: ClaimKind::Target, name, begins, path, span }
                })),
            }
        }
    }
    refuse_in_root(source, root, &claims, faults);
    refuse_overlaps(source, claims, faults);
}

fn holds_root(source: &ConfigTexts, root: &Path, name: &str, span: Range<usize>) -> ConfigError {
    let reason = format!(
        "the path of \"{name}\" holds the root ({}) itself\n\
         hint: give it a directory of its own, such as {}",
        printable(root),
        printable(&root.join(name))
    );
    source.error(span, &reason)
}

/// Checks that `to`, the path of a tree that no key names, overlaps nothing.
///
/// # Errors
/// When it overlaps something; the error names it and has a hint.
pub fn judge_free(settings: &Settings, to: &Path) -> Result<PublishTarget, String> {
    let shown_to = printable(to);
    let elsewhere = "hint: choose another directory";
    let Some(target) = PublishTarget::new(TargetLayout::Checkout, to) else {
        return Err(format!("{shown_to} cannot be a target\n{elsewhere}"));
    };
    let is_store = |name: &[u8]| name.starts_with(b".") && name.ends_with(b".pmpy");
    if to.iter().any(|name| is_store(name.as_bytes())) {
        return Err(format!(
            "{shown_to} is a place that the agent keeps for releases\n{elsewhere}"
        ));
    }
    let ours = [dir(to), dir(&target.links_dir.join(target.store()))];
    let overlaps = |begins: &[u8]| {
        ours.iter().any(|ours| ours.starts_with(begins) || begins.starts_with(ours))
    };
    let root = &settings.world.root;
    if overlaps(&dir(root)) {
        let root = printable(root);
        return Err(format!("{shown_to} and the root ({root}) overlap\n{elsewhere}"));
    }
    for (name, repo) in &settings.repos {
        if repo.path.as_deref().is_some_and(|path| overlaps(&dir(path))) {
            return Err(format!(
                "{shown_to} lies in the clone of \"{name}\", or the clone in it\n{elsewhere}"
            ));
        }
        let Some(delegated) = repo.target() else { continue };
        let Some(path) = &repo.publish.target else { continue };
        if all_of(&delegated, path).iter().any(|begins| overlaps(begins)) {
            return Err(format!(
                "{shown_to} and the target of \"{name}\" ({}) overlap: the next tick would undo it\n\
                 hint: agent checkout {name} REF, without --to, or choose another directory",
                printable(path)
            ));
        }
    }
    Ok(target)
}

/// A path prefix that belongs to one repository.
struct PathClaim<'a> {
    what: ClaimKind,
    name: &'a str,
    /// With a slash at its end it means a directory and its content.
    begins: Vec<u8>,
    path: PathBuf,
    span: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum ClaimKind {
    Path,
    Target,
}

impl PathClaim<'_> {
    fn title(&self) -> String {
        let what = if self.what == ClaimKind::Path { "path" } else { "target" };
        format!("the {what} of \"{}\"", self.name)
    }
}

/// The path prefixes that a target takes: its links, and their store.
fn begins(
    source: &ConfigTexts,
    layout: TargetLayout,
    key: &Spanned<AbsolutePath>,
) -> Result<Vec<Vec<u8>>, ConfigError> {
    let path = &key.get_ref().0;
    let Some(target) = PublishTarget::new(layout, path) else {
        return Err(source.error(
            key.span(),
            "the whole file system cannot be a target\n\
             hint: write the path of a site or directory, such as \"/srv/site\"",
        ));
    };
    if path.file_name().is_some_and(|name| name.len() > LONGEST_NAME) {
        let reason = format!(
            "the last part of the target is longer than {LONGEST_NAME} bytes\n\
             hint: write a shorter name"
        );
        return Err(source.error(key.span(), &reason));
    }
    Ok(all_of(&target, path))
}

/// The path prefixes of the target at `path`.
fn all_of(target: &PublishTarget, path: &Path) -> Vec<Vec<u8>> {
    let store = dir(&target.links_dir.join(target.store()));
    match target.layout {
        TargetLayout::Inside => vec![dir(path)],
        TargetLayout::Checkout => vec![dir(path), store],
        TargetLayout::Sibling => vec![bytes(&target.links_dir.join(target.link(""))), store],
    }
}

fn refuse_in_root(
    source: &ConfigTexts,
    root: &Path,
    claims: &[PathClaim<'_>],
    faults: &mut ConfigFaults,
) {
    let whole = dir(root);
    let targets = claims.iter().filter(|claim| claim.what == ClaimKind::Target);
    for claim in targets {
        if claim.begins.starts_with(&whole) || whole.starts_with(&claim.begins) {
            let reason = format!(
                "{} and the root ({}) overlap\n\
                 hint: what lies under the root is taken for a repository; write a path elsewhere",
                claim.title(),
                printable(root)
            );
            faults.add_to_repo(claim.name, source.error(claim.span.clone(), &reason));
        }
    }
}

fn refuse_overlaps(
    source: &ConfigTexts,
    mut claims: Vec<PathClaim<'_>>,
    faults: &mut ConfigFaults,
) {
    let overlap = |blamed: &PathClaim<'_>, other: &PathClaim<'_>| {
        let reason = format!(
            "{} and {} overlap\n\
             hint: {} ({}) is {}; give one of them another",
            blamed.title(),
            other.title(),
            other.title(),
            source.place(other.span.start),
            printable(&other.path)
        );
        source.error(blamed.span.clone(), &reason)
    };
    // Sorting puts the claims whose prefix one is directly behind it.
    claims.sort_by(|one, other| one.begins.cmp(&other.begins));
    for (number, outer) in claims.iter().enumerate() {
        let behind = claims.iter().skip(number + 1);
        for inner in behind.take_while(|inner| inner.begins.starts_with(&outer.begins)) {
            // Neither can be served: which of them is meant is not known.
            if inner.name != outer.name {
                faults.add_to_repo(inner.name, overlap(inner, outer));
                faults.add_to_repo(outer.name, overlap(outer, inner));
            } else if !faults.has(inner.name) {
                let is_target = inner.what == ClaimKind::Target;
                let (target, path) = if is_target { (inner, outer) } else { (outer, inner) };
                faults.add_to_repo(target.name, overlap(target, path));
            }
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// The prefix of a directory's path and of every path in it.
fn dir(path: &Path) -> Vec<u8> {
    bytes(&path.join(""))
}

fn printable(path: &Path) -> String {
    path.display().to_string().escape_controls()
}
