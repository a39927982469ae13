//! What may lie where: no repository lies in another, and no target where anything else lies that
//! the agent writes. Judged by the paths as they are written: links on the disk are the doors'
//! business.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_spanned::Spanned;

use super::file::{File, Repo};
use super::source::{Error, Source};
use super::value::AbsolutePath;
use super::{Settings, modes};
use crate::domain::publish::{Layout, Target};

/// The longest that a target's last part may be, in bytes: stores and links are named after it.
const LONGEST_NAME: usize = 200;

/// The path of a repository: as configured, or `ROOT/NAME`.
pub fn path_of(root: &Path, name: &str, repo: &Repo) -> PathBuf {
    repo.path.as_ref().map_or_else(|| root.join(name), |path| path.get_ref().0.clone())
}

/// Refuses repositories and targets that would lie in one another, repositories that the root lies
/// in, and targets that overlap the root.
pub fn judge(source: &Source, root: &Path, file: &File) -> Result<(), Error> {
    let mut claims = Vec::new();
    for (title, repo) in &file.repo {
        let name = title.get_ref().0.as_str();
        let path = path_of(root, name, repo);
        let span = repo.path.as_ref().map_or(title.span(), Spanned::span);
        if root.starts_with(&path) {
            let reason = format!(
                "the path of \"{name}\" holds the root ({}) itself\n\
                 hint: give it a folder of its own, such as {}",
                shown(root),
                shown(&root.join(name))
            );
            return Err(source.error(span, &reason));
        }
        claims.push(Claim { what: What::Path, name, begins: folder(&path), path, span });
        if let (Some(key), Some(layout)) = (&repo.target, modes::of(file, repo).layout()) {
            for begins in begins(source, layout, key)? {
                let path = key.get_ref().0.clone();
                claims.push(Claim { what: What::Target, name, begins, path, span: key.span() });
            }
        }
    }
    refuse_in_root(source, root, &claims)?;
    refuse_overlaps(source, claims)
}

/// Makes sure that `to`, the path of a tree that no key names, is in nobody's way.
///
/// # Errors
/// Says in whose, and what to do.
pub fn judge_free(settings: &Settings, to: &Path) -> Result<Target, String> {
    let shown_to = shown(to);
    let elsewhere = "hint: choose another folder";
    let Some(target) = Target::new(Layout::Checkout, to) else {
        return Err(format!("{shown_to} cannot be a target\n{elsewhere}"));
    };
    let is_store = |name: &[u8]| name.starts_with(b".") && name.ends_with(b".pmpy");
    if to.iter().any(|name| is_store(name.as_bytes())) {
        return Err(format!(
            "{shown_to} is a place that the agent keeps for releases\n{elsewhere}"
        ));
    }
    let ours = [folder(to), folder(&target.folder.join(target.store()))];
    let overlaps = |begins: &[u8]| {
        ours.iter().any(|ours| ours.starts_with(begins) || begins.starts_with(ours))
    };
    let root = &settings.world.root;
    if overlaps(&folder(root)) {
        let root = shown(root);
        return Err(format!("{shown_to} and the root ({root}) overlap\n{elsewhere}"));
    }
    for (name, repo) in &settings.repos {
        if repo.path.as_deref().is_some_and(|path| overlaps(&folder(path))) {
            return Err(format!(
                "{shown_to} lies in the clone of \"{name}\", or the clone in it\n{elsewhere}"
            ));
        }
        let Some(theirs) = repo.target() else { continue };
        let Some(path) = &repo.publish.target else { continue };
        if all_of(&theirs, path).iter().any(|begins| overlaps(begins)) {
            return Err(format!(
                "{shown_to} and the target of \"{name}\" ({}) overlap: the next tick would undo it\n\
                 hint: agent checkout {name} REF, without --to, or choose another folder",
                shown(path)
            ));
        }
    }
    Ok(target)
}

/// Every path that begins so is one repository's.
struct Claim<'a> {
    what: What,
    name: &'a str,
    /// With a slash at its end it is a folder and all that is in it.
    begins: Vec<u8>,
    path: PathBuf,
    span: Range<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Path,
    Target,
}

impl Claim<'_> {
    fn title(&self) -> String {
        let what = if self.what == What::Path { "path" } else { "target" };
        format!("the {what} of \"{}\"", self.name)
    }
}

/// How the paths begin that a target takes: its links, and the store that they lead to.
fn begins(
    source: &Source,
    layout: Layout,
    key: &Spanned<AbsolutePath>,
) -> Result<Vec<Vec<u8>>, Error> {
    let path = &key.get_ref().0;
    let Some(target) = Target::new(layout, path) else {
        return Err(source.error(
            key.span(),
            "the whole file system cannot be a target\n\
             hint: write the path of a site or folder, such as \"/srv/site\"",
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

/// The same of the target at `path`.
fn all_of(target: &Target, path: &Path) -> Vec<Vec<u8>> {
    let store = folder(&target.folder.join(target.store()));
    match target.layout {
        Layout::Inside => vec![folder(path)],
        Layout::Checkout => vec![folder(path), store],
        Layout::Beside => vec![bytes(&target.folder.join(target.link(""))), store],
    }
}

fn refuse_in_root(source: &Source, root: &Path, claims: &[Claim<'_>]) -> Result<(), Error> {
    let whole = folder(root);
    let targets = claims.iter().filter(|claim| claim.what == What::Target);
    for claim in targets {
        if claim.begins.starts_with(&whole) || whole.starts_with(&claim.begins) {
            let reason = format!(
                "{} and the root ({}) overlap\n\
                 hint: what lies under the root is taken for a repository; write a path elsewhere",
                claim.title(),
                shown(root)
            );
            return Err(source.error(claim.span.clone(), &reason));
        }
    }
    Ok(())
}

fn refuse_overlaps(source: &Source, mut claims: Vec<Claim<'_>>) -> Result<(), Error> {
    // Whatever begins as another does comes right behind it.
    claims.sort_by(|one, other| one.begins.cmp(&other.begins));
    for pair in claims.windows(2) {
        let [outer, inner] = pair else { continue };
        if inner.begins.starts_with(&outer.begins) {
            let (blamed, other) = match (outer.what, inner.what) {
                (What::Target, What::Path) => (outer, inner),
                _ => (inner, outer),
            };
            let reason = format!(
                "{} and {} overlap\n\
                 hint: {} ({}) is {}; give one of them another",
                blamed.title(),
                other.title(),
                other.title(),
                source.place(other.span.start),
                shown(&other.path)
            );
            return Err(source.error(blamed.span.clone(), &reason));
        }
    }
    Ok(())
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

/// How the path of a folder begins, and of everything in it.
fn folder(path: &Path) -> Vec<u8> {
    bytes(&path.join(""))
}

fn shown(path: &Path) -> String {
    path.display().to_string().escape_debug().to_string()
}
