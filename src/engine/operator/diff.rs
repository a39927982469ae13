//! `agent diff`: how the files here differ from the applied revision, as git shows it. Reads only.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};

use crate::domain::git::ObjectId;
use crate::domain::repository::change::{EntryMode, ObjectSource, PathOp, RepoPath};
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::repository::Repository;
use crate::engine::repository::drift::{self, ComparedTree};
use crate::system::git::hunks;
use crate::system::host;
use crate::system::worktree::compare::DiskFile;

/// The largest file whose lines are compared, in bytes.
const LARGEST: u64 = 32 << 20;
/// The largest difference of all files, in bytes.
const MOST: usize = 64 << 20;

/// The difference of a repository from its applied revision.
pub struct Difference {
    /// The files, as git-diff(1) prints them.
    pub text: Vec<u8>,
    /// How many files differ.
    pub files: usize,
    /// How many of them are not in the text, which would become too long.
    pub left_out: usize,
}

/// The difference of the files of `repo` from the revision that is applied; `drift_ignore` is left out.
///
/// # Errors
/// When nothing is applied yet or nothing is written here, or something cannot be read.
pub fn diff(context: &Context, repo: &RepoEntry) -> Result<Difference> {
    let repository = &super::repository(context, repo)?;
    let name = &repo.name;
    let seen = repository.observe(&repository.polled(), host::now());
    if seen.has_no_files {
        bail!(
            "{name} is only fetched, and none of its files is written anywhere\n\
             hint: to see a revision that is here: git -C {} show REVISION",
            repo.path.display()
        );
    }
    let Some(revision) = seen.compared().or(seen.acted) else {
        bail!(
            "{name}: no revision was applied yet, so there is nothing to compare with\n\
             hint: agent tick {name}"
        );
    };
    let mut all = Difference { text: Vec::new(), files: 0, left_out: 0 };
    for tree in drift::compare(repository, revision)? {
        for op in tree.found.iter().filter_map(|(at, _)| tree.tree.ops.get(*at)) {
            all.files += 1;
            if all.text.len() >= MOST {
                all.left_out += 1;
                continue;
            }
            let shown = of_file(repository, &tree, op);
            all.text.extend(shown.with_context(|| format!("{name}: \"{}\"", op.path))?);
        }
    }
    Ok(all)
}

/// One side of a file.
struct Side {
    mode: &'static str,
    id: ObjectId,
    /// `None`: it is too large.
    content: Option<Vec<u8>>,
}

fn of_file(repository: &Repository, tree: &ComparedTree, op: &PathOp) -> Result<Vec<u8>> {
    let Some(entry) = op.new else { return Ok(Vec::new()) };
    let git = &repository.git;
    let mode = entry.mode.octal();
    let old = match entry.mode {
        // Its commit is in another repository.
        EntryMode::Submodule => Side { mode, id: entry.id, content: Some(Vec::new()) },
        _ if git.blob_size(&entry.id)? > LARGEST => Side { mode, id: entry.id, content: None },
        _ => Side { mode, id: entry.id, content: Some(git.blob(&entry.id)?.as_ref().to_vec()) },
    };
    let new = match tree.worktree.found(&op.path, LARGEST, git)? {
        None => None,
        Some(DiskFile { is_link, is_executable, id, content }) => {
            let mode = match (is_link, is_executable) {
                (true, _) => EntryMode::Link,
                (false, true) => EntryMode::Executable,
                (false, false) => EntryMode::File,
            };
            Some(Side { mode: mode.octal(), id, content })
        }
    };
    let path = tree.key(&op.path);
    let is_link = |mode: &str| mode == EntryMode::Link.octal();
    match new {
        // Git shows another kind as a file that went and one that came.
        Some(new) if is_link(old.mode) != is_link(new.mode) => {
            let mut text = section(&path, Some(&old), None)?;
            text.extend(section(&path, None, Some(&new))?);
            Ok(text)
        }
        new => section(&path, Some(&old), new.as_ref()),
    }
}

/// The section of one file, as git-diff(1) writes it.
fn section(path: &RepoPath, old: Option<&Side>, new: Option<&Side>) -> Result<Vec<u8>> {
    let (from, to) = (quoted(b"a/", path), quoted(b"b/", path));
    let mut head = format!("diff --git {from} {to}\n");
    match (old, new) {
        (Some(old), Some(new)) if old.mode != new.mode => {
            write!(head, "old mode {}\nnew mode {}\n", old.mode, new.mode)?;
        }
        (Some(old), None) => writeln!(head, "deleted file mode {}", old.mode)?,
        (None, Some(new)) => writeln!(head, "new file mode {}", new.mode)?,
        _ => {}
    }
    let id = |side: Option<&Side>| side.map(|side| side.id);
    if id(old) == id(new) {
        return Ok(head.into_bytes());
    }
    let short = |side: Option<&Side>| {
        let text = side.map_or_else(|| "0".repeat(7), |side| side.id.to_string());
        text.chars().take(7).collect::<String>()
    };
    let mode = match (old, new) {
        (Some(old), Some(new)) if old.mode == new.mode => format!(" {}", old.mode),
        _ => String::new(),
    };
    writeln!(head, "index {}..{}{mode}", short(old), short(new))?;
    let from = old.map_or("/dev/null", |_| from.as_str());
    let to = new.map_or("/dev/null", |_| to.as_str());
    let content = |side: Option<&Side>| match side {
        None => Some(Vec::new()),
        Some(side) => side.content.clone().filter(|content| !hunks::is_binary(content)),
    };
    let (Some(old), Some(new)) = (content(old), content(new)) else {
        writeln!(head, "Binary files {from} and {to} differ")?;
        return Ok(head.into_bytes());
    };
    let hunks = hunks::hunks(&old, &new)?;
    if !hunks.is_empty() {
        write!(head, "--- {from}\n+++ {to}\n")?;
    }
    Ok([head.into_bytes(), hunks].concat())
}

/// A path with its prefix, quoted where git-diff(1) does (`core.quotePath`).
fn quoted(prefix: &[u8], path: &RepoPath) -> String {
    let bytes = [prefix, path.as_bytes()].concat();
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    let mut text = String::new();
    for byte in &bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            plain if is_plain(plain) => text.push(char::from(*plain)),
            other => text.push_str(&format!("\\{other:03o}")),
        }
    }
    if bytes.iter().all(is_plain) { text } else { format!("\"{text}\"") }
}
