//! What a power cut or a dying disk leaves of a `.git`, and the moves that put it right. It is found
//! in the files themselves, for libgit2 does not open what is damaged. Each move may be cut off and
//! made again, and nothing that is taken away is lost: it goes to `.git/pmpy/quarantine/TIME/`.
//!
//! Which move is made, and from which source, is the engine's business. Objects are in [`super::packs`].

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use git2::{ObjectType, Oid};

use super::error::UnknownKind;
use super::packs::torn_object;
use super::{Git, id_of, oid_of};
use crate::domain::git::{Commit, Id, RefName};
use crate::system::files;

/// The most that a file of refs or their log may hold, in bytes.
const CAP: u64 = 256 << 20;
/// The most that a small file, such as `HEAD`, may hold.
const SMALL: u64 = 1 << 20;

/// How the folders of the quarantine are named: by their time, in UTC.
pub const TIME: &str = "%Y%m%dT%H%M%SZ";

/// Something that cannot be what git wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// `config`: what is wrong with it.
    Config(String),
    /// `HEAD`.
    Head,
    /// `packed-refs`.
    PackedRefs,
    /// The file of this ref.
    Ref(String),
    /// This ref is gone, and its log is not.
    Lost(String),
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(what) => write!(f, "the configuration .git/config {what}"),
            Self::Head => f.write_str("the file .git/HEAD is damaged"),
            Self::PackedRefs => f.write_str("the file .git/packed-refs is damaged"),
            Self::Ref(name) => write!(f, "the ref {} is damaged", name.escape_debug()),
            Self::Lost(name) => {
                write!(f, "the ref {} is gone, and its log is not", name.escape_debug())
            }
        }
    }
}

/// What libgit2 passes over in silence, looked for each time a repository is opened: two small looks.
pub fn is_suspicious(git_dir: &Path) -> bool {
    let config = files::read_small(&git_dir.join("config"), SMALL);
    matches!(config, Ok(Some(text)) if text.last() != Some(&b'\n'))
        || fs::symlink_metadata(git_dir.join("packed-refs"))
            .is_ok_and(|meta| meta.is_file() && meta.len() == 0)
}

/// Everything that is wrong with configuration, HEAD and refs, the most fundamental first.
pub fn look(git_dir: &Path) -> Vec<Damage> {
    // Refs in another format are not for us to judge.
    if git_dir.join("reftable").exists() {
        return Vec::new();
    }
    let mut found: Vec<Damage> = config_damage(git_dir).into_iter().collect();
    let packed = packed_refs(git_dir);
    if packed.as_ref().is_some_and(|packed| !packed.whole) {
        found.push(Damage::PackedRefs);
    }
    let mut refs = packed.map(|packed| packed.refs).unwrap_or_default();
    for name in names_below(git_dir, Path::new("refs")) {
        match read_ref(git_dir, &name) {
            Value::Commit(commit) => drop(refs.insert(name, commit)),
            Value::Symbolic | Value::Missing => {}
            Value::Damaged => found.push(Damage::Ref(name)),
        }
    }
    let head = head(git_dir, |name| refs.contains_key(name));
    if head.is_none() {
        found.push(Damage::Head);
    }
    let lost = |name: &String| {
        let ours = name.starts_with("refs/pmpy/") || head.as_ref() == Some(name);
        ours && !refs.contains_key(name) && !found.contains(&Damage::Ref(name.clone()))
    };
    let lost: Vec<Damage> = names_below(&git_dir.join("logs"), Path::new("refs"))
        .into_iter()
        .filter(|name| lost(name) && last_logged(git_dir, name).is_some())
        .map(Damage::Lost)
        .collect();
    found.extend(lost);
    found
}

/// The full name in HEAD; the id where it is detached; `None` when it cannot be what git wrote.
fn head(git_dir: &Path, exists: impl Fn(&str) -> bool) -> Option<String> {
    let bytes = files::read_small(&git_dir.join("HEAD"), SMALL).ok()??;
    let text = std::str::from_utf8(&bytes).ok()?;
    let whole = text.ends_with('\n');
    let Some(name) = text.strip_prefix("ref:").map(str::trim) else {
        return text.trim_end().parse::<Id>().ok().map(|id| id.to_string());
    };
    // Git ends the line; a person's `printf` may not.
    let good = name.starts_with("refs/") && (whole || exists(name));
    good.then(|| name.to_owned())
}

/// The full name of the branch that HEAD is on.
pub fn head_name(git_dir: &Path) -> Option<String> {
    head(git_dir, |_| true).filter(|name| name.starts_with("refs/heads/"))
}

fn config_damage(git_dir: &Path) -> Option<Damage> {
    let path = git_dir.join("config");
    let bytes = files::read_small(&path, SMALL).ok()??;
    if bytes.trim_ascii().is_empty() {
        return Some(Damage::Config("is empty".to_owned()));
    }
    let config = match git2::Config::open(&path) {
        Ok(config) => config,
        Err(error) => {
            let why = error.message().escape_debug();
            return Some(Damage::Config(format!("cannot be read ({why})")));
        }
    };
    let lacks = |key: &str| config.get_entry(key).is_err();
    let cut_off = bytes.last() != Some(&b'\n')
        && ["core.repositoryformatversion", "remote.origin.url", "remote.origin.fetch"]
            .into_iter()
            .any(lacks);
    cut_off.then(|| Damage::Config("is cut off".to_owned()))
}

/// What the file of a ref holds.
enum Value {
    Commit(Commit),
    Symbolic,
    Missing,
    Damaged,
}

fn read_ref(git_dir: &Path, name: &str) -> Value {
    match files::read_small(&git_dir.join(name), SMALL) {
        Ok(Some(bytes)) => {
            let text = String::from_utf8_lossy(&bytes);
            let word = text.split(char::is_whitespace).next().unwrap_or_default();
            match word.parse() {
                Ok(commit) => Value::Commit(commit),
                Err(_) if text.starts_with("ref: refs/") => Value::Symbolic,
                Err(_) => Value::Damaged,
            }
        }
        Ok(None) => Value::Missing,
        Err(_) => Value::Damaged,
    }
}

/// The files below `folder/below`, by their paths from `folder`; locks and names that are no text
/// left out.
fn names_below(folder: &Path, below: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut pending = vec![below.to_owned()];
    while let Some(relative) = pending.pop() {
        let Ok(entries) = fs::read_dir(folder.join(&relative)) else { continue };
        for entry in entries.flatten() {
            let path = relative.join(entry.file_name());
            match (entry.file_type(), path.to_str()) {
                (Ok(kind), _) if kind.is_dir() => pending.push(path),
                (Ok(_), Some(name)) if !name.ends_with(".lock") => names.push(name.to_owned()),
                _ => {}
            }
        }
    }
    names.sort();
    names
}

/// `packed-refs`, as far as it can be read.
struct Packed {
    refs: BTreeMap<String, Commit>,
    whole: bool,
}

fn packed_refs(git_dir: &Path) -> Option<Packed> {
    let bytes = files::read_small(&git_dir.join("packed-refs"), CAP).ok()??;
    let mut refs = BTreeMap::new();
    let mut whole = bytes.last() == Some(&b'\n');
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        let line = std::str::from_utf8(line).unwrap_or_default();
        let Some(line) = line.strip_suffix('\n') else {
            whole = false;
            continue;
        };
        let peeled = line.strip_prefix('^').is_some_and(|id| id.parse::<Id>().is_ok());
        let named = line.split_once(' ').and_then(|(id, name)| Some((id.parse().ok()?, name)));
        match named {
            Some((commit, name)) if name.starts_with("refs/") => {
                refs.insert(name.to_owned(), commit);
            }
            _ if peeled || line.starts_with('#') => {}
            _ => whole = false,
        }
    }
    Some(Packed { refs, whole })
}

/// Every ref that can be read, by its full name, and what it points at.
pub fn refs(git_dir: &Path) -> BTreeMap<String, Commit> {
    let mut refs = packed_refs(git_dir).map(|packed| packed.refs).unwrap_or_default();
    for name in names_below(git_dir, Path::new("refs")) {
        if let Value::Commit(commit) = read_ref(git_dir, &name) {
            refs.insert(name, commit);
        }
    }
    refs
}

/// The branches that have a log.
pub fn logged_branches(git_dir: &Path) -> Vec<String> {
    names_below(&git_dir.join("logs"), Path::new("refs/heads"))
}

/// Where a ref last pointed by its own log; lines that a power cut tore are passed over.
pub fn last_logged(git_dir: &Path, name: &str) -> Option<Commit> {
    logged(git_dir, name).into_iter().next()
}

/// Everything that a ref ever pointed at, by its own log, newest first.
pub fn logged(git_dir: &Path, name: &str) -> Vec<Commit> {
    let log = files::read_small(&git_dir.join("logs").join(name), CAP);
    let Ok(Some(bytes)) = log else { return Vec::new() };
    bytes
        .split(|&byte| byte == b'\n')
        .rev()
        .filter_map(|line| {
            // What follows is anybody's text.
            let mut words = line.splitn(3, |&byte| byte == b' ').map(std::str::from_utf8);
            let _before: Id = words.next()?.ok()?.parse().ok()?;
            words.next()?.ok()?.parse().ok()
        })
        .filter(|commit: &Commit| commit.0.as_bytes().iter().any(|&byte| byte != 0))
        .collect()
}

/// Points a ref at `commit` by replacing its file in one move, whatever the file holds now.
///
/// # Errors
/// When it cannot be written.
pub fn put_ref(git_dir: &Path, name: &str, commit: Commit) -> Result<()> {
    let path = git_dir.join(name);
    let (Some(folder), Some(file)) = (path.parent(), path.file_name().and_then(|it| it.to_str()))
    else {
        bail!("\"{}\" is no name of a ref", name.escape_debug())
    };
    files::ensure_dir(folder, 0o755)?;
    files::put(folder, file, format!("{commit}\n").as_bytes(), 0o644)
}

/// Replaces `packed-refs` by those of its lines that can be read.
///
/// # Errors
/// When it cannot be written.
pub fn put_packed_refs(git_dir: &Path) -> Result<()> {
    let refs = packed_refs(git_dir).map(|packed| packed.refs).unwrap_or_default();
    if refs.is_empty() {
        return files::remove(git_dir, "packed-refs");
    }
    // Without the header that promises an order and peeled tags, of which some may be cut off.
    let lines: String = refs.iter().map(|(name, commit)| format!("{commit} {name}\n")).collect();
    files::put(git_dir, "packed-refs", lines.as_bytes(), 0o644)
}

/// Puts HEAD on `branch`.
///
/// # Errors
/// When it cannot be written.
pub fn put_head(git_dir: &Path, branch: &RefName) -> Result<()> {
    files::put(git_dir, "HEAD", format!("ref: {}\n", branch.local()).as_bytes(), 0o644)
}

/// Replaces `config`; its mode stays.
///
/// # Errors
/// When it cannot be written.
pub fn put_config(git_dir: &Path, text: &str) -> Result<()> {
    let mode = fs::metadata(git_dir.join("config")).map_or(0o600, |meta| meta.permissions().mode());
    files::put(git_dir, "config", text.as_bytes(), mode & 0o777)
}

/// Where what is taken out of a `.git` is kept.
pub struct Quarantine {
    git_dir: PathBuf,
    folder: PathBuf,
}

impl Quarantine {
    /// One that begins at `now`; its folder is made when something comes into it.
    pub fn begin(git_dir: &Path, now: DateTime<Utc>) -> Self {
        let folder = git_dir.join("pmpy/quarantine").join(now.format(TIME).to_string());
        Self { git_dir: git_dir.to_owned(), folder }
    }

    /// Where that is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Moves `.git/NAME`, a file or a folder, here. That it is gone already is fine.
    ///
    /// # Errors
    /// When it cannot be moved.
    pub fn take(&self, name: &str) -> Result<()> {
        let to = self.place(name)?;
        match fs::rename(self.git_dir.join(name), &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.cannot("moved", name))
            }
            _ => Ok(()),
        }
    }

    /// Keeps a copy of `.git/NAME`, which is about to be replaced.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn keep(&self, name: &str) -> Result<()> {
        let to = self.place(name)?;
        match fs::copy(self.git_dir.join(name), &to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| self.cannot("copied", name))
            }
            _ => Ok(()),
        }
    }

    fn place(&self, name: &str) -> Result<PathBuf> {
        let to = self.folder.join(name);
        if let Some(parent) = to.parent() {
            files::ensure_dir(parent, 0o700)?;
        }
        Ok(to)
    }

    fn cannot(&self, what: &str, name: &str) -> String {
        let from = self.git_dir.join(name);
        format!("{} cannot be {what} to {}", from.display(), self.folder.display())
    }
}

impl Git {
    /// As [`Git::ref_commit`], for a ref with a log of its own: one that is gone while its log is
    /// there was lost, not removed, for removing takes the log along.
    ///
    /// # Errors
    /// When the ref cannot be read, or was lost.
    pub fn kept_ref(&self, name: &str) -> Result<Option<Commit>> {
        match self.ref_commit(name)? {
            None if last_logged(self.git_dir(), name).is_some() => {
                bail!(Damage::Lost(name.to_owned()).to_string())
            }
            found => Ok(found),
        }
    }

    /// Whether the index is damaged, and not just of a kind that libgit2 does not know.
    pub fn index_is_damaged(&self) -> bool {
        self.index().err().is_some_and(|error| error.downcast_ref::<UnknownKind>().is_none())
    }

    /// Whether the object can be read and is what its name says.
    pub fn reads(&self, id: Id) -> bool {
        let read = |oid| self.repo.odb().and_then(|odb| odb.read(oid).map(drop));
        !self.is_torn(&id) && oid_of(&id).is_ok_and(|oid| read(oid).is_ok())
    }

    /// The first object that cannot be read of those that `commits` need: all of their history, and
    /// every folder and file of the commits themselves.
    ///
    /// # Errors
    /// When the object store cannot be opened at all.
    pub fn unreadable(&self, commits: &[Commit]) -> Result<Option<Id>> {
        if let Some(id) = torn_object(self.git_dir()).and_then(|path| id_of_file(&path)) {
            return Ok(Some(id));
        }
        let odb = self.repo.odb().context("the object store cannot be opened")?;
        let mut seen = HashSet::new();
        let mut trees = Vec::new();
        let mut pending = Vec::new();
        for commit in commits {
            pending.push(oid_of(&commit.0)?);
        }
        let tips: HashSet<Oid> = pending.iter().copied().collect();
        while let Some(oid) = pending.pop() {
            if !seen.insert(oid) {
                continue;
            }
            let Ok(commit) = self.repo.find_commit(oid) else { return id_of(oid).map(Some) };
            pending.extend(commit.parent_ids());
            if tips.contains(&oid) {
                trees.push(commit.tree_id());
            }
        }
        while let Some(oid) = trees.pop() {
            if !seen.insert(oid) {
                continue;
            }
            let Ok(tree) = self.repo.find_tree(oid) else { return id_of(oid).map(Some) };
            for entry in &tree {
                match entry.kind() {
                    Some(ObjectType::Tree) => trees.push(entry.id()),
                    Some(ObjectType::Blob)
                        if seen.insert(entry.id()) && odb.read(entry.id()).is_err() =>
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

/// The id of the loose object in this file.
fn id_of_file(path: &Path) -> Option<Id> {
    let folder = path.parent()?.file_name()?.to_str()?;
    format!("{folder}{}", path.file_name()?.to_str()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git_dir(head: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for below in ["refs/heads", "logs/refs/heads"] {
            fs::create_dir_all(folder.path().join(below)).unwrap();
        }
        write(&folder, "HEAD", head);
        folder
    }

    #[expect(clippy::disallowed_methods, reason = "a test damages files")]
    fn write(folder: &tempfile::TempDir, name: &str, text: &str) {
        fs::write(folder.path().join(name), text).unwrap();
    }

    const ONE: &str = "1111111111111111111111111111111111111111";

    #[test]
    fn a_head_is_damaged_unless_it_is_what_git_writes() {
        for good in ["ref: refs/heads/main\n", &format!("{ONE}\n")] {
            assert_eq!(look(git_dir(good).path()), [], "{good:?}");
        }
        for bad in ["", "\0\0\0", "ref: refs/heads/ma", "ref: \n", "garbage\n"] {
            assert_eq!(look(git_dir(bad).path()), [Damage::Head], "{bad:?}");
        }
        let by_hand = git_dir("ref: refs/heads/main");
        write(&by_hand, "refs/heads/main", ONE);
        assert_eq!(look(by_hand.path()), [], "without the end of the line, but on a branch");
    }

    #[test]
    fn what_can_be_read_of_packed_refs_is_kept() {
        let folder = git_dir("ref: refs/heads/main\n");
        let good = format!("# pack-refs with: peeled\n{ONE} refs/heads/main\n^{ONE}\n");
        write(&folder, "packed-refs", &good);
        assert_eq!(look(folder.path()), []);
        write(&folder, "packed-refs", &format!("{good}{ONE} refs/ta"));
        assert_eq!(look(folder.path()), [Damage::PackedRefs]);
        put_packed_refs(folder.path()).unwrap();
        assert_eq!(look(folder.path()), []);
        assert_eq!(refs(folder.path()).len(), 1);
    }

    #[test]
    fn a_torn_line_of_a_log_is_passed_over() {
        let folder = git_dir("ref: refs/heads/main\n");
        let zero = "0".repeat(40);
        let line = format!("{zero} {ONE} A <a@b> 1 +0000\tclone\n");
        write(&folder, "logs/refs/heads/main", &format!("{line}{ONE} 2222"));
        assert_eq!(last_logged(folder.path(), "refs/heads/main").unwrap().to_string(), ONE);
        let lost = Damage::Lost("refs/heads/main".to_owned());
        assert_eq!(look(folder.path()), [lost], "the branch is gone, and its log is not");
    }
}
