//! Hostile revisions and hostile clones, end to end: what a pusher may put into a tree, and what
//! somebody may have put into `.git`, is refused or does no harm. Nothing but our own binary and the
//! work script is ever executed, and nothing is written outside the root.
#![expect(clippy::disallowed_types, reason = "git itself refuses to write most of these objects")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use git2::{ObjectType, Oid, Repository, Signature};

use crate::sandbox::{Ran, Sandbox, text};

mod clones;
mod parts;
mod trees;

const NAME: &str = "ops";

/// How long a tick may take that refuses something: less than any deadline that it could have waited for, and
/// more than a busy machine needs.
const AT_ONCE: Duration = Duration::from_secs(50);

/// A machine that has acted upon a first, harmless revision, and raw access to its server.
struct Target {
    machine: Sandbox,
    server: Repository,
}

/// What is on disk: path -> kind with permission bits, content. Without `.git` and the agent's own
/// directories.
type Snapshot = BTreeMap<PathBuf, (u32, Vec<u8>)>;

impl Target {
    fn new() -> Self {
        let files = [("bin/work/common/work.sh", "exit 0\n"), ("page", "first\n")];
        let machine = Sandbox::with(NAME, &files);
        fs::create_dir(machine.path("outside")).unwrap();
        fs::write(machine.path("outside/victim"), "untouched\n").unwrap();
        machine.tick().ok();
        assert_eq!(machine.state(NAME), "current");
        let server = Repository::open_bare(machine.server(NAME)).unwrap();
        Self { machine, server }
    }

    fn blob(&self, content: &[u8]) -> Oid {
        self.object(ObjectType::Blob, content)
    }

    fn object(&self, kind: ObjectType, content: &[u8]) -> Oid {
        self.server.odb().unwrap().write(kind, content).unwrap()
    }

    /// A tree object of exactly these entries, whatever they are.
    fn tree(&self, entries: &[(&str, &[u8], Oid)]) -> Oid {
        let mut raw = Vec::new();
        for (mode, name, id) in entries {
            raw.extend_from_slice(mode.as_bytes());
            raw.push(b' ');
            raw.extend_from_slice(name);
            raw.push(0);
            raw.extend_from_slice(id.as_bytes());
        }
        self.object(ObjectType::Tree, &raw)
    }

    /// Puts a commit of `tree` on top of `main`, as a push would; returns its id.
    fn push(&self, tree: Oid) -> String {
        let tip = self.server.refname_to_id("refs/heads/main").unwrap();
        let pat = Signature::now("Pat Pusher", "pat@example.org").unwrap();
        let who = format!("{} <{}> 1 +0000", pat.name().unwrap(), pat.email().unwrap());
        let raw = format!("tree {tree}\nparent {tip}\nauthor {who}\ncommitter {who}\n\nA change\n");
        let commit = self.object(ObjectType::Commit, raw.as_bytes());
        self.server.reference("refs/heads/main", commit, true, "push").unwrap();
        commit.to_string()
    }

    /// The tree of the revision that is checked out, which is a good one.
    fn good_tree(&self) -> Oid {
        let head = Oid::from_str(&self.machine.head(NAME)).unwrap();
        self.server.find_commit(head).unwrap().tree_id()
    }

    /// Everything of the worktree and of the directory outside, and nothing of the agent's.
    fn snapshot(&self) -> Snapshot {
        let mut all = Snapshot::new();
        for dir in [self.machine.clone_of(NAME), self.machine.path("outside")] {
            for file in self.machine.files_below(&dir) {
                if file.starts_with(".git") || file.starts_with(".temp") {
                    continue;
                }
                let path = dir.join(file);
                let meta = path.symlink_metadata().unwrap();
                let content = match meta.is_symlink() {
                    true => text(&fs::read_link(&path).unwrap()).as_bytes().to_vec(),
                    false => fs::read(&path).unwrap(),
                };
                all.insert(path, (meta.mode(), content));
            }
        }
        all
    }

    /// One tick of cron, that must not take long.
    fn quick_tick(&self) -> Ran {
        let start = Instant::now();
        let ran = self.machine.tick();
        assert!(start.elapsed() < AT_ONCE, "{:?} for\n{ran}", start.elapsed());
        ran
    }

    /// What `status` gives as the reason.
    fn reason(&self) -> String {
        let row = self.machine.row(NAME);
        row["reason"].as_str().unwrap_or_default().to_owned()
    }

    /// A tree that breaks the rules is refused: nothing of it is written, nothing is run, and the
    /// next good revision on top of it is acted upon.
    #[track_caller]
    fn refuses(&self, what: &str, tree: Oid) -> String {
        self.keeps_out(what, tree, &["refused"])
    }

    /// The same for a tree that not even the server's side of a fetch can make sense of, so that it
    /// may never arrive.
    #[track_caller]
    fn keeps_out_garbage(&self, what: &str, tree: Oid) {
        self.keeps_out(what, tree, &["refused", "unreachable"]);
    }

    #[track_caller]
    fn keeps_out(&self, what: &str, tree: Oid, states: &[&str]) -> String {
        let (good, before) = (self.good_tree(), self.snapshot());
        let acted = self.machine.lastaction(NAME);
        let tip = self.server.refname_to_id("refs/heads/main").unwrap();
        let evil = self.push(tree);
        let ran = self.quick_tick();
        let (state, reason) = (self.machine.state(NAME), self.reason());
        assert!(states.contains(&state.as_str()), "{what}: {state}: {reason}\n{ran}");
        assert!(!reason.contains(|c: char| c.is_control() && c != '\n'), "{what}: {reason:?}");
        assert_eq!(self.snapshot(), before, "{what}");
        assert_eq!(self.machine.lastaction(NAME), acted, "{what}");
        assert_ne!(self.machine.head(NAME), evil, "{what}");
        if state == "unreachable" {
            // No history with it in it can be fetched; it was never seen here, so it may go.
            self.server.reference("refs/heads/main", tip, true, "push").unwrap();
        }
        self.accepts(what, good);
        reason
    }

    /// A tree is taken and acted upon, without harm to what lies outside.
    #[track_caller]
    fn accepts(&self, what: &str, tree: Oid) -> String {
        let revision = self.push(tree);
        let ran = self.quick_tick();
        assert_eq!(self.machine.state(NAME), "current", "{what}: {}\n{ran}", self.reason());
        assert_eq!(self.machine.lastaction(NAME).as_deref(), Some(revision.as_str()), "{what}");
        let victim = fs::read_to_string(self.machine.path("outside/victim")).unwrap();
        assert_eq!(victim, "untouched\n", "{what}");
        assert_eq!(fs::read_dir(self.machine.path("outside")).unwrap().count(), 1, "{what}");
        revision
    }

    fn in_clone(&self, path: &str) -> PathBuf {
        self.machine.clone_of(NAME).join(path)
    }
}

/// What a tick executed, and where it wrote, as strace saw it.
struct Watched {
    executed: Vec<String>,
    written: Vec<String>,
}

/// Runs a tick and everything that it starts under strace.
fn watched_tick(machine: &Sandbox) -> (Ran, Watched) {
    let trace = machine.path("trace");
    let mut strace = machine.command("strace");
    strace.args(["-f", "-y", "-s", "4096", "-o", text(&trace)]);
    strace.args(["-e", "trace=%process,%file,%desc", "-e", "signal=none", "--"]);
    let ran = Ran::of(strace.args(machine.agent_line(&["tick", "--trigger", "cron"])));
    let story = fs::read_to_string(trace).unwrap();
    let calls = || {
        story
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(_, call)| call.trim_start())
            .filter(|call| !call.contains(" = -1 ") && !call.contains("unfinished ..."))
    };
    let executed = calls().filter_map(|call| call.strip_prefix("execve(")).map(first_quoted);
    let written = calls().filter(|call| writes(call)).map(place).collect();
    (ran, Watched { executed: executed.collect(), written })
}

fn first_quoted(call: &str) -> String {
    call.split('"').nth(1).unwrap_or_default().to_owned()
}

/// Whether a call gives a name to something, takes one away, or opens a file for writing.
fn writes(call: &str) -> bool {
    let name = call.split('(').next().unwrap_or_default();
    match name {
        "open" | "openat" | "openat2" | "creat" => {
            ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC"].iter().any(|flag| call.contains(flag))
        }
        "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "mkdir" | "mkdirat"
        | "rmdir" | "link" | "linkat" | "symlink" | "symlinkat" | "chmod" | "fchmodat"
        | "truncate" | "chown" | "lchown" | "fchownat" | "mknod" | "mknodat" => true,
        _ => false,
    }
}

/// The path that such a call is about: the last name in it, below the directory that it is opened from.
fn place(call: &str) -> String {
    let opens = call.starts_with("open");
    let quoted: Vec<&str> = call.split('"').skip(1).step_by(2).collect();
    let name = if opens { quoted.first() } else { quoted.last() };
    let name = name.copied().unwrap_or_default();
    let before = call.rsplit_once(&format!("\"{name}\"")).map_or("", |(before, _)| before);
    let dir = before.rsplit_once('<').and_then(|(_, rest)| rest.split_once('>'));
    let dir = dir.map_or("", |(dir, _)| dir);
    Path::new(dir).join(name).display().to_string()
}

impl Watched {
    /// Nothing ran but us and `others`, and nothing was written but below the root.
    #[track_caller]
    fn stayed_within(&self, machine: &Sandbox, others: &[&str]) {
        let ours = [env!("CARGO_BIN_EXE_agent"), "/proc/self/exe"];
        for program in &self.executed {
            let known = ours.contains(&program.as_str()) || others.contains(&program.as_str());
            assert!(known, "executed: {program}; all: {:?}", self.executed);
        }
        let root = machine.root();
        for path in &self.written {
            let within = Path::new(path).starts_with(&root) || path.starts_with("/dev/");
            assert!(within && !path.contains(".."), "written: {path}");
        }
        assert!(!self.executed.is_empty() && !self.written.is_empty(), "strace saw nothing");
    }
}

#[test]
fn the_reader_of_traces_knows_where_a_call_writes() {
    for (call, path) in [
        (r#"openat(AT_FDCWD</r>, "a", O_WRONLY|O_CREAT, 0600) = 3</r/a>"#, "/r/a"),
        (r#"openat(5</r/d>, "a", O_WRONLY) = 3</r/d/a>"#, "/r/d/a"),
        (r#"renameat(5</r/d>, "a", 6</r/e>, "b") = 0"#, "/r/e/b"),
        (r#"unlink("/r/a") = 0"#, "/r/a"),
        (r#"symlinkat("/etc/passwd", 5</r>, "a") = 0"#, "/r/a"),
    ] {
        assert!(writes(call), "{call}");
        assert_eq!(place(call), path);
    }
    assert!(!writes(r#"openat(AT_FDCWD</r>, "a", O_RDONLY|O_CLOEXEC) = 3</r/a>"#));
}
