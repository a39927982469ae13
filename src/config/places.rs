//! What may lie where: no repository lies in another, and no target where anything else lies that
//! the agent writes. Judged by the paths as they are written: links on the disk are the doors'
//! business.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_spanned::Spanned;

use super::file::{File, Repo};
use super::modes;
use super::source::{Error, Source};
use super::value::AbsolutePath;
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
    let store = folder(&target.folder.join(target.store()));
    Ok(match layout {
        Layout::Inside => vec![folder(path)],
        Layout::Checkout => vec![folder(path), store],
        Layout::Beside => vec![bytes(&target.folder.join(target.link(""))), store],
    })
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
