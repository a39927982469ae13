//! What the worktree writer promises, over real repositories: it ends where git would end, it never
//! damages what somebody else wrote, and it can be cut off anywhere.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pmpy::domain::git::{Commit, ObjectId};
use pmpy::domain::repository::change::TreeChange;
use pmpy::system::git::Git;
use pmpy::system::worktree::{ApplyRefusal, Worktree};
use tempfile::TempDir;

mod cases;
mod conversions;
mod properties;
mod rules;

/// A repository with a worktree, and room for more beside it.
pub struct Lab {
    dir: TempDir,
}

/// One file, link or submodule of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leaf {
    File(String),
    Executable(String),
    Link(String),
    Submodule,
}

/// A tree: paths and what stands there.
pub type Tree = BTreeMap<String, Leaf>;

/// What a submodule points at; no such commit exists here.
const ELSEWHERE: &str = "1234567890123456789012345678901234567890";

/// What is on disk below a directory: path -> kind, permission bits and content.
pub type Snapshot = BTreeMap<PathBuf, (char, u32, Vec<u8>)>;

pub fn file(content: &str) -> Leaf {
    Leaf::File(content.to_owned())
}

pub fn link(target: &str) -> Leaf {
    Leaf::Link(target.to_owned())
}

pub fn tree<const N: usize>(leaves: [(&str, Leaf); N]) -> Tree {
    leaves.into_iter().map(|(path, leaf)| (path.to_owned(), leaf)).collect()
}

impl Lab {
    pub fn new() -> Self {
        Self::with_format("sha1")
    }

    pub fn with_format(format: &str) -> Self {
        // As the agent sets it when it starts.
        pmpy::system::process::usual_umask();
        let lab = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(lab.repo()).unwrap();
        lab.git(&["init", "--quiet", "--initial-branch=main", "--object-format", format]);
        lab
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The worktree of the repository.
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.repo().join(below)
    }

    pub fn git(&self, arguments: &[&str]) -> String {
        self.git_with(arguments, b"")
    }

    /// Runs git hermetically with `input`; its output without the last newline.
    pub fn git_with(&self, arguments: &[&str], input: &[u8]) -> String {
        let mut command = Command::new("git");
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap());
        command.env("HOME", self.dir.path()).env("GIT_CONFIG_NOSYSTEM", "1");
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Pat Pusher");
            command.env(format!("GIT_{role}_EMAIL"), "pat@example.org");
        }
        command.current_dir(self.repo()).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned()
    }

    /// A commit of each tree, without a parent.
    pub fn commits<const N: usize>(&self, trees: [&Tree; N]) -> [Commit; N] {
        let mut stream = String::new();
        for (number, tree) in trees.into_iter().enumerate() {
            writeln!(stream, "commit refs/heads/t{number}").unwrap();
            writeln!(stream, "committer Pat Pusher <pat@example.org> 1 +0000\ndata 0").unwrap();
            for (path, leaf) in tree {
                match leaf {
                    Leaf::File(content) => inline(&mut stream, "100644", path, content),
                    Leaf::Executable(content) => inline(&mut stream, "100755", path, content),
                    Leaf::Link(target) => inline(&mut stream, "120000", path, target),
                    Leaf::Submodule => writeln!(stream, "M 160000 {ELSEWHERE} {path}").unwrap(),
                }
            }
        }
        self.git_with(&["fast-import", "--quiet", "--force"], stream.as_bytes());
        let names: Vec<String> = (0..N).map(|number| format!("t{number}")).collect();
        let mut arguments = vec!["rev-parse"];
        arguments.extend(names.iter().map(String::as_str));
        let ids = self.git(&arguments);
        let ids: Vec<Commit> = ids.lines().map(|line| line.parse().unwrap()).collect();
        ids.try_into().unwrap()
    }

    /// A blob of `content`.
    pub fn blob(&self, content: &[u8]) -> ObjectId {
        self.git_with(&["hash-object", "-w", "--stdin"], content).parse().unwrap()
    }

    /// A tree object of exactly these entries, whatever they are.
    pub fn raw_tree(&self, entries: &[(&str, &[u8], ObjectId)]) -> ObjectId {
        let mut raw = Vec::new();
        for (mode, name, id) in entries {
            raw.extend_from_slice(mode.as_bytes());
            raw.push(b' ');
            raw.extend_from_slice(name);
            raw.push(0);
            raw.extend_from_slice(id.as_bytes());
        }
        self.raw_object("tree", &raw)
    }

    pub fn raw_object(&self, kind: &str, content: &[u8]) -> ObjectId {
        let arguments = ["hash-object", "--literally", "-t", kind, "-w", "--stdin"];
        self.git_with(&arguments, content).parse().unwrap()
    }

    pub fn open(&self) -> Git {
        Git::open(&self.repo()).unwrap()
    }

    /// The change from one commit to another.
    pub fn change(&self, from: Option<&Commit>, to: &Commit) -> TreeChange {
        let git = self.open();
        let from = from.map(|from| git.tree_of(from).unwrap());
        TreeChange::between(from, git.tree_of(to).unwrap(), &git).unwrap()
    }

    /// Puts the worktree, the index and HEAD at `commit`, as git does it.
    pub fn check_out(&self, commit: &Commit) {
        self.git(&["checkout", "--quiet", "--force", "--detach", &commit.to_string()]);
        self.git(&["clean", "-ffdxq"]);
    }

    /// Updates worktree, index and HEAD from where HEAD is, as the agent does it.
    pub fn update(&self, to: &Commit) -> Result<(), ApplyRefusal> {
        let from: Commit = self.git(&["rev-parse", "HEAD"]).parse().unwrap();
        let change = self.change(Some(&from), to);
        let git = self.open();
        let index = git.index().unwrap();
        let worktree = Worktree::open(&self.repo()).unwrap();
        let ready = worktree.classify(&change, &git, &|path| index.staged(path))?;
        let written = worktree.apply(&ready, &git).unwrap();
        git.update_index(&change, &written).unwrap();
        self.git(&["update-ref", "--no-deref", "HEAD", &to.to_string()]);
        Ok(())
    }

    /// The paths for which the update to `to` is refused; panics when it is not.
    pub fn dirty(&self, to: &Commit) -> Vec<String> {
        let before = snapshot(&self.repo());
        let index = fs::read(self.at(".git/index")).unwrap();
        let paths = match self.update(to) {
            Err(ApplyRefusal::Dirty(paths)) => paths.iter().map(ToString::to_string).collect(),
            other => panic!("not dirty: {other:?}"),
        };
        assert_eq!(snapshot(&self.repo()), before, "a refused update wrote something");
        assert_eq!(fs::read(self.at(".git/index")).unwrap(), index);
        paths
    }

    /// What git has to say about the worktree; empty when nothing differs from HEAD.
    pub fn differences(&self) -> String {
        self.git(&["status", "--porcelain", "--ignored"])
    }
}

fn inline(stream: &mut String, mode: &str, path: &str, content: &str) {
    writeln!(stream, "M {mode} inline {path}\ndata {}\n{content}", content.len()).unwrap();
}

/// Everything below `top`, but `.git` at the top.
pub fn snapshot(top: &Path) -> Snapshot {
    let mut found = Snapshot::new();
    let mut directories = vec![top.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let below = path.strip_prefix(top).unwrap().to_owned();
            if below == Path::new(".git") {
                continue;
            }
            let mode = meta.mode() & 0o7777;
            if meta.is_dir() {
                found.insert(below, ('d', 0, Vec::new()));
                directories.push(path);
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                found.insert(below, ('l', 0, target.as_os_str().as_bytes().to_vec()));
            } else if meta.is_file() {
                found.insert(below, ('f', mode, fs::read(&path).unwrap()));
            } else {
                found.insert(below, ('?', mode, Vec::new()));
            }
        }
    }
    found
}

/// What the disk has to look like for `tree`.
pub fn expected(tree: &Tree) -> Snapshot {
    let mut found = Snapshot::new();
    for (path, leaf) in tree {
        let path = Path::new(path);
        for directory in path.ancestors().skip(1).filter(|directory| *directory != Path::new("")) {
            found.insert(directory.to_owned(), ('d', 0, Vec::new()));
        }
        let state = match leaf {
            Leaf::File(content) => ('f', 0o644, content.clone().into_bytes()),
            Leaf::Executable(content) => ('f', 0o755, content.clone().into_bytes()),
            Leaf::Link(target) => ('l', 0, target.clone().into_bytes()),
            Leaf::Submodule => ('d', 0, Vec::new()),
        };
        found.insert(path.to_owned(), state);
    }
    found
}

pub fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

pub fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
