//! Finds what a power cut or a failing disk damaged in a `.git`, and holds the steps that repair it. It
//! reads the files themselves, because libgit2 does not open a damaged repository. Each step may be cut
//! off and repeated. Nothing is lost: what a step removes goes to `.git/pmpy/quarantine/TIME/`.
//!
//! The engine decides which step to take and from which source. Objects are in [`super::packs`].

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use git2::{ObjectType, Oid};

use super::config::{config_damage, configured};
use super::error::UnknownIndexKind;
use super::format::id_in;
use super::history::History;
use super::{Git, id_of};
use crate::domain::git::{Commit, ObjectFormat, ObjectId, RefName};
use crate::domain::text::EscapeControls;
use crate::system::files::{self, ReadError};
use crate::system::git::damage::Damage;
use crate::system::git::size_limits::{LOG, PACKED_REFS, SMALL, names_below};
use crate::system::git::torn_objects::torn_object;
use crate::system::watchdog;

/// All damage in configuration, HEAD and refs, the most fundamental first.
pub fn find_damage(git_dir: &Path) -> Vec<Damage> {
    // Refs in another format are not judged here.
    if git_dir.join("reftable").exists() {
        return Vec::new();
    }
    let mut found: Vec<Damage> = config_damage(git_dir).into_iter().collect();
    let format = if found.is_empty() { configured(git_dir) } else { None };
    let packed = packed_refs(git_dir, format);
    if packed.as_ref().is_some_and(|packed| !packed.whole) {
        found.push(Damage::PackedRefs);
    }
    let mut refs = packed.map(|packed| packed.refs).unwrap_or_default();
    let names = names_below(git_dir, Path::new("refs"));
    let logs = names_below(&git_dir.join("logs"), Path::new("refs"));
    // A log is no sign of a lost ref when the refs cannot be listed.
    let logs = names.as_ref().ok().and(logs.ok()).unwrap_or_default();
    for name in names.unwrap_or_default() {
        match read_ref(git_dir, &name, format) {
            RefValue::Commit(commit) => drop(refs.insert(name, commit)),
            RefValue::Symbolic | RefValue::Missing => {}
            RefValue::Damaged => found.push(Damage::Ref(name)),
        }
    }
    let head = head(git_dir, format, |name| refs.contains_key(name));
    if head.is_none() {
        found.push(Damage::Head);
    }
    let lost = |name: &String| {
        let ours = name.starts_with("refs/pmpy/") || head.as_ref() == Some(name);
        // With a directory in the place of its file, `packed-refs` holds an old value of the ref.
        let is_gone = !refs.contains_key(name) || git_dir.join(name).is_dir();
        ours && is_gone && !found.contains(&Damage::Ref(name.clone()))
    };
    let lost: Vec<Damage> = logs
        .into_iter()
        .filter(|name| lost(name) && last_logged(git_dir, name).is_some())
        .map(Damage::Lost)
        .collect();
    found.extend(lost);
    found
}

/// The full ref name in HEAD, or the id when HEAD is detached; `None` when git cannot have written it.
fn head(
    git_dir: &Path,
    format: Option<ObjectFormat>,
    exists: impl Fn(&str) -> bool,
) -> Option<String> {
    let bytes = files::read_small(&git_dir.join("HEAD"), SMALL).ok()??;
    let text = std::str::from_utf8(&bytes).ok()?;
    let whole = text.ends_with('\n');
    let Some(name) = text.strip_prefix("ref:").map(str::trim) else {
        return id_in(format, text.trim_end()).map(|id| id.to_string());
    };
    // Git ends the line; somebody's `printf` may not.
    let good = name.starts_with("refs/") && (whole || exists(name));
    good.then(|| name.to_owned())
}

/// The full name of the branch that HEAD is on; `None` when it is on none.
pub fn head_name(git_dir: &Path) -> Option<String> {
    head(git_dir, None, |_| true).filter(|name| name.starts_with("refs/heads/"))
}

/// The content of a ref's file.
enum RefValue {
    Commit(Commit),
    Symbolic,
    Missing,
    Damaged,
}

fn read_ref(git_dir: &Path, name: &str, format: Option<ObjectFormat>) -> RefValue {
    match files::read_small(&git_dir.join(name), SMALL) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            let word = text.split(char::is_whitespace).next().unwrap_or_default();
            match id_in(format, word) {
                Some(commit) => RefValue::Commit(commit),
                None if text.starts_with("ref: refs/") => RefValue::Symbolic,
                None => RefValue::Damaged,
            }
        }
        Ok(None) => RefValue::Missing,
        Err(_) => RefValue::Damaged,
    }
}

/// The refs of `packed-refs`, as far as it can be read.
struct ReadablePackedRefs {
    refs: BTreeMap<String, Commit>,
    whole: bool,
}

fn packed_refs(git_dir: &Path, format: Option<ObjectFormat>) -> Option<ReadablePackedRefs> {
    let bytes = match files::read_small(&git_dir.join("packed-refs"), PACKED_REFS) {
        Ok(bytes) => bytes?,
        Err(ReadError::TooLarge { .. }) => {
            return Some(ReadablePackedRefs { refs: BTreeMap::new(), whole: false });
        }
        Err(_) => return None,
    };
    let mut refs = BTreeMap::new();
    let mut whole = bytes.last() == Some(&b'\n');
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let line = std::str::from_utf8(line).unwrap_or_default();
        let Some(line) = line.strip_suffix('\n') else {
            whole = false;
            continue;
        };
        let peeled = line.strip_prefix('^').is_some_and(|id| id_in(format, id).is_some());
        let named = line.split_once(' ').and_then(|(id, name)| Some((id_in(format, id)?, name)));
        match named {
            Some((commit, name)) if name.starts_with("refs/") => {
                refs.insert(name.to_owned(), commit);
            }
            _ if peeled || line.starts_with('#') => {}
            _ => whole = false,
        }
    }
    Some(ReadablePackedRefs { refs, whole })
}

/// Every ref that can be read, by its full name, with its target.
pub fn refs(git_dir: &Path) -> BTreeMap<String, Commit> {
    let format = configured(git_dir);
    let mut refs = packed_refs(git_dir, format).map(|packed| packed.refs).unwrap_or_default();
    for name in names_below(git_dir, Path::new("refs")).unwrap_or_default() {
        if let RefValue::Commit(commit) = read_ref(git_dir, &name, format) {
            refs.insert(name, commit);
        }
    }
    refs
}

/// The full names of the branches that have a log.
pub fn logged_branches(git_dir: &Path) -> Vec<String> {
    names_below(&git_dir.join("logs"), Path::new("refs/heads")).unwrap_or_default()
}

/// The last target of a ref by its own log, without the lines that a power cut tore; `None` when there
/// is none.
pub fn last_logged(git_dir: &Path, name: &str) -> Option<Commit> {
    logged(git_dir, name).into_iter().next()
}

/// All targets of a ref by its own log, newest first.
pub fn logged(git_dir: &Path, name: &str) -> Vec<Commit> {
    let log = files::read_small(&git_dir.join("logs").join(name), LOG);
    let Ok(Some(bytes)) = log else { return Vec::new() };
    let format = configured(git_dir);
    bytes
        .split(|&byte| byte == b'\n')
        .rev()
        .filter_map(|line| {
            // The rest of the line is free text.
            let mut words = line.splitn(3, |&byte| byte == b' ').map(std::str::from_utf8);
            id_in(format, words.next()?.ok()?)?;
            id_in(format, words.next()?.ok()?)
        })
        .filter(|commit: &Commit| commit.0.as_bytes().iter().any(|&byte| byte != 0))
        .collect()
}

/// Points a ref at `commit`: replaces its file by one rename, whatever the file holds now.
///
/// # Errors
/// When it cannot be written.
pub fn put_ref(git_dir: &Path, name: &str, commit: Commit) -> Result<()> {
    let path = git_dir.join(name);
    let (Some(dir), Some(file)) = (path.parent(), path.file_name().and_then(|it| it.to_str()))
    else {
        bail!("\"{}\" is no name of a ref", name.escape_controls())
    };
    files::ensure_dir(dir, 0o755)?;
    remove_empty_directories(&path);
    files::put(dir, file, format!("{commit}\n").as_bytes(), 0o644)
}

/// Removes the empty directories that removed refs left at `path`, as git does when it writes a ref. A
/// directory that is not empty stays, and then no ref can be written there.
fn remove_empty_directories(path: &Path) {
    if path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            remove_empty_directories(&entry.path());
        }
        // The write that follows reports a directory that stays.
        let _ = fs::remove_dir(path);
    }
}

/// Replaces `packed-refs` by its readable lines.
///
/// # Errors
/// When it cannot be written.
pub fn put_packed_refs(git_dir: &Path) -> Result<()> {
    let packed = packed_refs(git_dir, configured(git_dir));
    let refs = packed.map(|packed| packed.refs).unwrap_or_default();
    if refs.is_empty() {
        return files::remove(git_dir, "packed-refs");
    }
    // Leaves out the header: it promises an order and peeled tags, and some of those may be cut off.
    let lines: String = refs.iter().map(|(name, commit)| format!("{commit} {name}\n")).collect();
    files::put(git_dir, "packed-refs", lines.as_bytes(), 0o644)
}

/// Points HEAD at `branch`.
///
/// # Errors
/// When it cannot be written.
pub fn put_head(git_dir: &Path, branch: &RefName) -> Result<()> {
    files::put(git_dir, "HEAD", format!("ref: {}\n", branch.local()).as_bytes(), 0o644)
}

/// Replaces `config` and keeps its mode.
///
/// # Errors
/// When it cannot be written.
pub fn put_config(git_dir: &Path, text: &str) -> Result<()> {
    let mode = fs::metadata(git_dir.join("config")).map_or(0o600, |meta| meta.permissions().mode());
    files::put(git_dir, "config", text.as_bytes(), mode & 0o777)
}

impl Git {
    /// Whether something looks like the result of a power cut that libgit2 does not report. Checked each
    /// time a repository is opened.
    pub fn is_suspicious(&self) -> bool {
        !self.config_ends
            || self.directory_met.get()
            || fs::symlink_metadata(self.git_dir().join("packed-refs"))
                .is_ok_and(|meta| meta.is_file() && meta.len() == 0)
    }

    /// As [`Git::ref_id`], for a ref with a log of its own. A missing ref with a log is lost: removing a
    /// ref removes its log too.
    ///
    /// # Errors
    /// When the ref cannot be read, or was lost.
    pub fn kept_ref(&self, name: &str) -> Result<Option<Commit>> {
        match self.ref_id(name)? {
            None if last_logged(self.git_dir(), name).is_some() => {
                bail!(Damage::Lost(name.to_owned()).to_string())
            }
            found => Ok(found),
        }
    }

    /// Whether the index is damaged. An index of a kind that libgit2 does not know is not damaged.
    pub fn index_is_damaged(&self) -> bool {
        self.index().err().is_some_and(|error| error.downcast_ref::<UnknownIndexKind>().is_none())
    }

    /// The first unreadable object of those that `commits` need: their whole history, and every
    /// directory and file of the commits themselves; `None` when all can be read.
    ///
    /// # Errors
    /// When the object store cannot be opened at all.
    pub fn unreadable(&self, commits: &[Commit]) -> Result<Option<ObjectId>> {
        if let Some((_, id)) = torn_object(self.git_dir(), self.format()) {
            return Ok(Some(id));
        }
        let odb = self.repo.odb().context("the object store cannot be opened")?;
        let history = History::of(&self.repo)?;
        let mut seen = HashSet::new();
        let mut trees = Vec::new();
        let mut pending = Vec::new();
        for commit in commits {
            let Ok(oid) = self.oid(&commit.0) else { return Ok(Some(commit.0)) };
            pending.push(oid);
        }
        let tips: HashSet<Oid> = pending.iter().copied().collect();
        while let Some(oid) = pending.pop() {
            if !seen.insert(oid) {
                continue;
            }
            watchdog::progress();
            let Ok(commit) = history.commit(oid) else { return id_of(oid).map(Some) };
            pending.extend(commit.parents);
            if tips.contains(&oid) {
                trees.push(commit.tree);
            }
        }
        while let Some(oid) = trees.pop() {
            if !seen.insert(oid) {
                continue;
            }
            watchdog::progress();
            let Ok(tree) = self.repo.find_tree(oid) else { return id_of(oid).map(Some) };
            for entry in &tree {
                match entry.kind() {
                    Some(ObjectType::Tree) => trees.push(entry.id()),
                    Some(ObjectType::Blob)
                        if seen.insert(entry.id()) && !self.reads_from(&odb, entry.id()) =>
                    {
                        return id_of(entry.id()).map(Some);
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git_dir(head: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for below in ["refs/heads", "logs/refs/heads"] {
            fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        write(&dir, "HEAD", head);
        dir
    }

    #[expect(clippy::disallowed_methods, reason = "a test damages files")]
    fn write(dir: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(dir.path().join(name), text).unwrap();
    }

    const ONE: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn a_head_is_damaged_unless_it_is_what_git_writes() {
        for good in ["ref: refs/heads/main\n", &format!("{ONE}\n")] {
            assert_eq!(find_damage(git_dir(good).path()), [], "{good:?}");
        }
        for bad in ["", "\0\0\0", "ref: refs/heads/ma", "ref: \n", "garbage\n"] {
            assert_eq!(find_damage(git_dir(bad).path()), [Damage::Head], "{bad:?}");
        }
        let by_hand = git_dir("ref: refs/heads/main");
        write(&by_hand, "refs/heads/main", ONE);
        assert_eq!(find_damage(by_hand.path()), [], "without the end of the line, but on a branch");
    }

    #[test]
    fn what_can_be_read_of_packed_refs_is_kept() {
        let dir = git_dir("ref: refs/heads/main\n");
        let good = format!("# pack-refs with: peeled\n{ONE} refs/heads/main\n^{ONE}\n");
        write(&dir, "packed-refs", &good);
        assert_eq!(find_damage(dir.path()), []);
        write(&dir, "packed-refs", &format!("{good}{ONE} refs/ta"));
        assert_eq!(find_damage(dir.path()), [Damage::PackedRefs]);
        put_packed_refs(dir.path()).unwrap();
        assert_eq!(find_damage(dir.path()), []);
        assert_eq!(refs(dir.path()).len(), 1);
    }

    #[test]
    fn a_torn_line_of_a_log_is_passed_over() {
        let dir = git_dir("ref: refs/heads/main\n");
        let zero = "0".repeat(40);
        let line = format!("{zero} {ONE} A <a@b> 1 +0000\tclone\n");
        write(&dir, "logs/refs/heads/main", &format!("{line}{ONE} 2222"));
        assert_eq!(last_logged(dir.path(), "refs/heads/main").unwrap().to_string(), ONE);
        let lost = Damage::Lost("refs/heads/main".to_owned());
        assert_eq!(find_damage(dir.path()), [lost], "the branch is gone, and its log is not");
    }
}
