//! The cells of the matrix: clones in each of which one thing is wrong with one file, and how it is judged
//! what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::sandbox::{Ran, Sandbox, set_mode, text};
use crate::users::give_all;

/// Who has no rights on any Debian.
pub const NOBODY: u32 = 65_534;
/// Another one, to whom nothing here belongs.
const DAEMON: u32 = 1;

/// After how many seconds a command counts as one that waits for ever; not a claim about its speed. A
/// tick over a hundred clones on a busy machine is given more.
pub const LIMIT: u32 = 20;
pub const LIMIT_OF_MANY: u32 = 120;

/// What is done to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Pipe,
    Link,
    LinkToNothing,
    Directory,
    Sparse,
    Socket,
    Unreadable,
    OtherOwner,
    ForAll,
    Acl,
}

pub use Fault::{
    Acl, Directory, ForAll, Link, LinkToNothing, OtherOwner, Pipe, Socket, Sparse, Unreadable,
};

pub const FAULTS: [Fault; 10] =
    [Pipe, Link, LinkToNothing, Directory, Sparse, Socket, Unreadable, OtherOwner, ForAll, Acl];

/// Something else than a plain file.
pub const KINDS: &[Fault] = &[Pipe, Link, LinkToNothing, Directory, Sparse, Socket];
/// The right file in the wrong hands.
pub const HANDS: &[Fault] = &[OtherOwner, ForAll, Acl];
/// Root reads it all the same.
pub const CLOSED: &[Fault] = &[Unreadable];

/// What git makes now and then, and the agent, with what is in it.
const NOW_AND_THEN: [(&str, &str); 35] = [
    (".git/FETCH_HEAD", ""),
    (".git/MERGE_HEAD", ""),
    (".git/ORIG_HEAD", ""),
    (".git/commondir", "."),
    (".git/config.lock", ""),
    (".git/config.worktree", ""),
    (".git/gc.pid", ""),
    (".git/HEAD.lock", ""),
    (".git/index.lock", ""),
    (".git/info/attributes", ""),
    (".git/info/grafts", ""),
    (".git/info/sparse-checkout", ""),
    (".git/logs/HEAD", ""),
    (".git/logs/refs/heads/main", ""),
    (".git/logs/refs/pmpy/acted", ""),
    (".git/logs/refs/remotes/origin/main", ""),
    (".git/objects/info/alternates", ""),
    (".git/objects/info/commit-graph", ""),
    (".git/objects/pack/multi-pack-index", ""),
    (".git/packed-refs", ""),
    (".git/packed-refs.lock", ""),
    (".git/refs/heads/main.lock", ""),
    (".git/refs/replace", ""),
    (".git/shallow", ""),
    (".git/shallow.lock", ""),
    (".git/pmpy/again", ""),
    (".git/pmpy/collecting", "{}"),
    (".git/pmpy/heard", ""),
    (".git/pmpy/hold", "{}"),
    (".git/pmpy/journal", "{}"),
    (".git/pmpy/pin", "{}"),
    (".git/pmpy/published", "{}"),
    (".git/pmpy/refs", ""),
    (".git/pmpy/repair", "{}"),
    (".temp/nodeinfo/currentaction.txt", "somebody"),
];

/// Cells in which nothing is wrong with going on, and why. A star stands for anything. That the agent says
/// something of the file is right all the same.
const HARMLESS: [(&str, &[&[Fault]], &str); 24] = [
    (".git*", &[&[Link, LinkToNothing]], "a user's own link to what is that user's, or to nothing"),
    (".git/description", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/ORIG_HEAD", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/gc.pid", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/info/attributes", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/info/refs", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/info/sparse-checkout", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/objects/info/packs", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/objects/pack/*.rev", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/config.worktree", &[CLOSED], "opened only where extensions.worktreeConfig is set"),
    (".git/logs/refs/remotes/origin/HEAD", &[KINDS, HANDS, CLOSED], "the agent does not open it"),
    (".git/pmpy/*", &[HANDS], "its directory lets nobody else in"),
    (".git/pmpy/again", &[KINDS, CLOSED], "that it is there says all; it goes"),
    (".git/pmpy/changed", &[KINDS, CLOSED], "replaced before it is read"),
    (".git/pmpy/collecting", &[KINDS, CLOSED], "counts as no collecting"),
    (".git/pmpy/heard", &[KINDS, CLOSED], "the remote is asked instead"),
    (".git/pmpy/poll", &[KINDS, CLOSED], "counts as never asked, and is replaced"),
    (".git/pmpy/published", &[KINDS, CLOSED], "this clone publishes nothing"),
    (".git/pmpy/refs", &[KINDS, CLOSED], "this clone publishes nothing"),
    (".git/pmpy/repair", &[KINDS, CLOSED], "counts as never looked"),
    (
        ".git/objects/pack/multi-pack-index",
        &[&[Sparse]],
        "libgit2 passes over one that is not whole",
    ),
    (".git/refs/remotes/origin/HEAD", &[&[Directory]], "the agent does not open it"),
    (".git/refs/replace", &[&[Directory]], "it is one"),
    (".temp/nodeinfo/lastaction.txt", &[KINDS, HANDS, CLOSED], "counts as never applied"),
];

/// What is opened under the lock only, so that a look does not meet it.
pub const MET_BY_WORKERS: [&str; 2] = [".git/objects/", ".git/pmpy/"];

/// One clone in which one thing is wrong.
pub struct Cell {
    pub name: String,
    pub file: String,
    pub fault: Fault,
    /// Where a link leads, whatever is there before, and what it was.
    pub victim: PathBuf,
    pub before: Option<Traces>,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} × {:?}", self.file, self.fault)
    }
}

/// What would show that a file was written, replaced, given away or touched.
pub type Traces = (Vec<u8>, u64, u64, u32, u32, i64, i64);

fn traces(file: &Path) -> Option<Traces> {
    let meta = fs::symlink_metadata(file).ok()?;
    if meta.is_dir() {
        // What a user's own link to a directory leads to is worked in.
        return Some((Vec::new(), meta.ino(), 0, meta.mode(), meta.uid(), 0, 0));
    }
    let (size, time, part) = (meta.size(), meta.mtime(), meta.mtime_nsec());
    let content = fs::read(file).unwrap();
    Some((content, meta.ino(), size, meta.mode(), meta.uid(), time, part))
}

impl Cell {
    pub fn is_harmless(&self, by_root: bool) -> bool {
        let is_this = |pattern: &str| match pattern.split_once('*') {
            Some((begin, end)) => self.file.starts_with(begin) && self.file.ends_with(end),
            None => self.file == pattern,
        };
        let listed = |(pattern, faults, _): &(&str, &[&[Fault]], &str)| {
            is_this(pattern) && faults.iter().any(|faults| faults.contains(&self.fault))
        };
        // The content of a lock does not matter.
        let is_lock = self.file == ".git/pmpy/lock" && self.fault == Sparse;
        HARMLESS.iter().any(listed) || is_lock || (by_root && CLOSED.contains(&self.fault))
    }

    /// Whether `said` names the file; an object also by its id, what git is in the middle of in words.
    pub fn is_named_in(&self, said: &str) -> bool {
        let name = Path::new(&self.file).file_name().unwrap().to_str().unwrap();
        let id: String = self.file.replace(".git/objects/", "").replace('/', "");
        let word = match name {
            "MERGE_HEAD" => "merge",
            "shallow" => "shallow",
            _ => name,
        };
        said.contains(name) || said.contains(word) || said.contains(&id)
    }

    /// Whether `said` names what was put right; of a pack and its index the part before the dot.
    pub fn is_healed_in(&self, said: &str) -> bool {
        let name = Path::new(self.file.trim_start_matches(".git/"));
        let stem = name.with_extension("");
        let stem = stem.strip_prefix("objects/pack").unwrap_or(&stem);
        said.contains(text(name)) || said.contains(text(stem))
    }

    /// Makes `path` what the fault says; what was there before is what a link leads to.
    pub fn plant(&mut self, path: &Path) {
        let victim = &self.victim;
        match self.fault {
            Pipe => replace(path, |path| {
                mknodat(CWD, path, FileType::Fifo, Mode::from(0o644), 0).unwrap();
            }),
            Socket => replace(path, |path| drop(UnixListener::bind(path).unwrap())),
            Directory => replace(path, |path| {
                fs::create_dir(path).unwrap();
                fs::write(path.join("content"), "").unwrap();
            }),
            Link => {
                let moved = Ran::of(std::process::Command::new("mv").arg(path).arg(victim));
                moved.ok();
                symlink(victim, path).unwrap();
            }
            LinkToNothing => replace(path, |path| symlink(victim, path).unwrap()),
            Sparse => replace(path, |path| {
                fs::File::create(path).unwrap().set_len(64 << 30).unwrap();
            }),
            Unreadable => set_mode(path, 0),
            OtherOwner => chown(path, Some(DAEMON), None).unwrap(),
            ForAll => set_mode(path, 0o777),
            Acl => {
                let mut setfacl = std::process::Command::new("setfacl");
                Ran::of(setfacl.args(["-m", "u:daemon:rwx"]).arg(path)).ok();
            }
        }
        self.before = traces(&self.victim);
    }

    /// What was done outside, if anything was.
    pub fn damage(&self) -> Option<String> {
        match (&self.before, traces(&self.victim)) {
            (None, Some(_)) => Some("made a file where a link to nothing led".to_owned()),
            (before, after) if *before != after => Some("changed what a link led to".to_owned()),
            _ => None,
        }
    }
}

fn replace(path: &Path, make: impl FnOnce(&Path)) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
    make(path);
}

/// A machine with one clone of `ops`, kept aside as a pattern, with a push that waits to be acted upon.
pub struct Pattern {
    pub machine: Sandbox,
    pattern: PathBuf,
    files: Vec<String>,
    /// What upstream has, and no clone yet.
    pub revision: String,
    pub owner: u32,
}

impl Pattern {
    pub fn new(owner: u32) -> Self {
        assert!(Ran::of(std::process::Command::new("setfacl").arg("--version")).code == Some(0));
        let machine = Sandbox::with("ops", &[("work.sh", "true\n"), ("page", "one\n")]);
        machine.tick().ok();
        machine.push("ops", &[("work.sh", "exit 3\n")]);
        machine.tick().exits(1);
        machine.push("ops", &[("work.sh", "echo said\n"), ("page", "two\n")]);
        machine.tick().ok();
        machine.agent(&["rollback", "ops"]).ok();
        machine.agent(&["unhold", "ops"]).ok();
        machine.agent(&["hold", "ops", "because"]).ok();
        machine.agent(&["unhold", "ops"]).ok();
        let clone = machine.clone_of("ops");
        machine.git(&clone, &["gc", "--quiet"]);
        machine.tick().ok();
        machine.push("ops", &[("page", "three\n")]);
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current");
        let files = files_of(&machine, &clone);
        let revision = machine.push("ops", &[("page", "four\n")]);
        for dir in ["", "root", "server"] {
            set_mode(&machine.path(dir), 0o755);
        }
        fs::write(machine.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
        let pattern = machine.path("pattern");
        fs::rename(clone, &pattern).unwrap();
        fs::create_dir(machine.path("victims")).unwrap();
        set_mode(&machine.path("victims"), 0o755);
        give_all(&pattern, owner);
        give_all(&machine.server("ops"), owner);
        Self { machine, pattern, files, revision, owner }
    }

    /// A clone as it was kept aside.
    pub fn copy(&self, name: &str) -> PathBuf {
        let clone = self.machine.clone_of(name);
        Ran::of(self.machine.command("cp").arg("-a").args([&self.pattern, &clone])).ok();
        clone
    }

    /// A clone for each file, with `fault` in it.
    pub fn cells(&self, fault: Fault) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (number, file) in self.files.iter().enumerate() {
            let is_dir = self.pattern.join(file).is_dir();
            if is_dir && matches!(fault, Directory | Sparse) {
                continue;
            }
            let name = format!("{number:03}");
            let path = self.copy(&name).join(file);
            if let Some((_, content)) = NOW_AND_THEN.iter().find(|(known, _)| known == file)
                && !path.exists()
            {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, content).unwrap();
                give_all(&self.machine.clone_of(&name), self.owner);
            }
            let victim = self.machine.path("victims").join(format!("{fault:?}-{name}"));
            let mut cell = Cell { name, file: file.clone(), fault, victim, before: None };
            cell.plant(&path);
            cells.push(cell);
        }
        self.copy("neighbour");
        cells
    }

    /// Runs the agent so that whatever hangs, and whatever that started, is gone afterwards.
    pub fn agent(&self, seconds: u32, arguments: &[&str]) -> Ran {
        let mut unshare = self.machine.command("unshare");
        unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
        // Whatever were to write out a sparse file in full does not fill this machine's disk.
        unshare.args(["prlimit", "--fsize=1073741824"]);
        unshare.args(["timeout", "-k", "1", &seconds.to_string()]);
        Ran::of(unshare.args(self.machine.agent_line(arguments)))
    }

    pub fn forget(&self, cells: &[Cell]) {
        let names = cells.iter().map(|cell| cell.name.as_str()).chain(["neighbour"]);
        for name in names {
            fs::remove_dir_all(self.machine.clone_of(name)).unwrap();
        }
    }

    /// What is wrong with what a tick made of `cells`.
    pub fn judge(&self, cells: &[Cell], ran: &Ran) -> Vec<String> {
        let mut wrong = Vec::new();
        if ran.code.is_none_or(|code| code > 1) {
            wrong.push(format!("{:?}: exit code {:?}: {}", cells[0].fault, ran.code, ran.stderr));
        }
        let rows = self.rows();
        let applied = |name: &str| self.last_action(name).as_ref() == Some(&self.revision);
        if !applied("neighbour") {
            wrong.push(format!("{:?}: the neighbour was not served: {ran}", cells[0].fault));
        }
        for cell in cells {
            let (state, reason) = rows.get(&cell.name).cloned().unwrap_or_default();
            let fine = state == "current" && applied(&cell.name);
            let reported = match fine {
                // What was wrong is told, with what was done about it.
                true => reason.starts_with("repaired automatically") && cell.is_healed_in(&reason),
                false => state != "behind" && cell.is_named_in(&reason),
            };
            if let Some(damage) = cell.damage() {
                wrong.push(format!("{cell}: {damage}"));
            } else if !(reported || fine && cell.is_harmless(self.owner == 0)) {
                let what = if fine { "goes on as if nothing were" } else { "is not named" };
                wrong.push(format!("{cell}: {what}: {state}: {reason}"));
            }
        }
        wrong
    }

    /// State and reason of each repository, as the last tick wrote them down.
    pub fn rows(&self) -> BTreeMap<String, (String, String)> {
        let file = self.machine.root().join(".pmpy/status.json");
        let status: serde_json::Value =
            serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default();
        let rows = status["repositories"].as_array().cloned().unwrap_or_default();
        let word =
            |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        rows.iter()
            .map(|row| (word(row, "name"), (word(row, "state"), word(row, "reason"))))
            .collect()
    }

    pub fn last_action(&self, name: &str) -> Option<String> {
        let file = self.machine.clone_of(name).join(".temp/nodeinfo/lastaction.txt");
        // What stands there may be a pipe.
        fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file)?;
        Some(fs::read_to_string(file).ok()?.trim().to_owned())
    }
}

/// Every file that a clone has in `.git` and `.temp`, and its directories, and those that git and the
/// agent make now and then. Of the objects, those that the next update opens.
fn files_of(machine: &Sandbox, clone: &Path) -> Vec<String> {
    let mut files: BTreeSet<String> =
        NOW_AND_THEN.iter().map(|(file, _)| (*file).to_owned()).collect();
    let head = machine.git(clone, &["rev-parse", "HEAD", "HEAD^{tree}"]);
    let opened: Vec<String> =
        head.lines().map(|id| format!(".git/objects/{}/{}", &id[..2], &id[2..])).collect();
    for below in [".git", ".temp"] {
        files.insert(below.to_owned());
        for file in machine.files_below(&clone.join(below)) {
            let file = format!("{below}/{}", text(&file));
            let is_object = file.starts_with(".git/objects/") && !file.contains("/pack/");
            let is_loose = is_object && !file.contains("/info/");
            let is_met = !is_loose || opened.contains(&file);
            if is_met && !file.contains("/hooks/") {
                files.insert(file.clone());
            }
            let is_dir_of_objects = is_loose || file.contains("/hooks/");
            for above in Path::new(&file).ancestors().skip(1) {
                let above = text(above);
                if !is_dir_of_objects && !above.is_empty() {
                    files.insert(above.to_owned());
                }
            }
        }
    }
    files.into_iter().collect()
}
