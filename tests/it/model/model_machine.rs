//! One machine for the model: pushes straight into the server's objects, scripts that do as they are
//! told, workers that are killed, and a quick look at what is on disk. No git process is started: a
//! sequence takes hundreds of steps a minute.
#![expect(clippy::disallowed_types, reason = "pushing through git costs ten times as much")]

use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use git2::{Oid, Repository, Signature, Time};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::sandbox::{Ran, Sandbox};

pub const NAME: &str = "ops";

/// Notes what it sees, and does what `DIR/mode` says. Lines with `!` are wrong.
const OBEDIENT: &str = r#"
world=$AGENT_ROOT/..
note() { echo "$*" >> "$world/runs"; }
exec 9> "$world/one-at-a-time"
flock --nonblock 9 || note '! two at once'
read -r current < .temp/nodeinfo/currentaction.txt
[ "$current" = "$AGENT_REVISION" ] || note "! currentaction.txt names $current"
note "start $AGENT_REVISION"
read -r mode < "$world/mode"
case $mode in
    fail) exit 3 ;;
    defer) exit 75 ;;
    hang) until [ -e "$world/go" ] || [ ! -d "$world" ]; do sleep 0.01; done ;;
esac
note "ok $AGENT_REVISION"
"#;

/// What the script does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Ok,
    Fail,
    Defer,
    Hang,
}

/// The machine, and raw access to its server.
pub struct ModelMachine {
    pub machine: Sandbox,
    server: Repository,
    pages: RefCell<usize>,
    /// How long a worker takes that nobody kills.
    undisturbed: Duration,
}

impl ModelMachine {
    pub fn new() -> Self {
        let machine = Sandbox::with(NAME, &[("work.sh", OBEDIENT), ("page", "page 0\n")]);
        let server = Repository::open_bare(machine.server(NAME)).unwrap();
        let undisturbed = Duration::ZERO;
        let mut setup = Self { machine, server, pages: RefCell::new(0), undisturbed };
        setup.set(Mode::Ok);
        setup.machine.tick().ok();
        setup.push_onto(&setup.tip());
        setup.machine.agent(&["tick", "--dry-run"]).ok();
        let start = Instant::now();
        setup.machine.agent(&["worker", NAME, "--trigger", "cron"]).ok();
        setup.undisturbed = start.elapsed();
        setup
    }

    pub fn set(&self, mode: Mode) {
        let word = format!("{mode:?}\n").to_lowercase();
        fs::write(self.machine.path("mode"), word).unwrap();
    }

    /// The revision that `main` has on the server.
    pub fn tip(&self) -> String {
        self.server.refname_to_id("refs/heads/main").unwrap().to_string()
    }

    /// Puts a revision with another page on top of `parent`, and `main` there.
    pub fn push_onto(&self, parent: &str) -> String {
        let page = self.pages.replace_with(|pages| *pages + 1) + 1;
        let parent = self.server.find_commit(Oid::from_str(parent).unwrap()).unwrap();
        let mut tree = self.server.treebuilder(Some(&parent.tree().unwrap())).unwrap();
        let blob = self.server.blob(format!("page {page}\n").as_bytes()).unwrap();
        tree.insert("page", blob, 0o100_644).unwrap();
        // A file that comes and goes, and one that changes its kind.
        match page % 2 {
            0 => drop(tree.insert("now and then", blob, 0o100_755).unwrap()),
            _ => drop(tree.remove("now and then")),
        }
        let kind = if page.is_multiple_of(3) { 0o120_000 } else { 0o100_644 };
        tree.insert("either", blob, kind).unwrap();
        let tree = self.server.find_tree(tree.write().unwrap()).unwrap();
        // The same revisions at each repetition.
        let time = Time::new(1_800_000_000 + page as i64, 0);
        let pat = Signature::new("Pat Pusher", "pat@example.org", &time).unwrap();
        let message = format!("Page {page}");
        let commit = self.server.commit(None, &pat, &pat, &message, &tree, &[&parent]).unwrap();
        self.server.reference("refs/heads/main", commit, true, "push").unwrap();
        commit.to_string()
    }

    /// The first parent of `revision`, or itself when it is the first of all.
    pub fn parent_of(&self, revision: &str) -> String {
        let commit = self.server.find_commit(Oid::from_str(revision).unwrap()).unwrap();
        commit.parent_id(0).unwrap_or(commit.id()).to_string()
    }

    /// Whether the history of `tip` contains `revision`.
    pub fn contains(&self, tip: &str, revision: &str) -> bool {
        let id = |text| Oid::from_str(text).unwrap();
        tip == revision || self.server.graph_descendant_of(id(tip), id(revision)).unwrap()
    }

    /// What `page` is in `revision`.
    pub fn page_of(&self, revision: &str) -> Vec<u8> {
        let commit = self.server.find_commit(Oid::from_str(revision).unwrap()).unwrap();
        let entry = commit.tree().unwrap().get_name("page").unwrap().id();
        self.server.find_blob(entry).unwrap().content().to_owned()
    }

    /// HEAD of the machine's clone.
    pub fn head(&self) -> String {
        self.local_ref("refs/heads/main").expect("main is there")
    }

    /// The newest upstream tip that was accepted here.
    pub fn mark(&self) -> Option<String> {
        self.local_ref("refs/pmpy/seen/main")
    }

    fn local_ref(&self, name: &str) -> Option<String> {
        let git = self.machine.clone_of(NAME).join(".git");
        if let Ok(loose) = fs::read_to_string(git.join(name)) {
            return Some(loose.trim().to_owned());
        }
        let packed = fs::read_to_string(git.join("packed-refs")).ok()?;
        let line = packed.lines().find(|line| line.ends_with(&format!(" {name}")))?;
        line.split(' ').next().map(str::to_owned)
    }

    /// Revisions whose script began, in order.
    pub fn started(&self) -> Vec<String> {
        self.noted("start ")
    }

    /// Revisions whose script succeeded, in order.
    pub fn succeeded(&self) -> Vec<String> {
        self.noted("ok ")
    }

    /// What the scripts found wrong.
    pub fn complaints(&self) -> Vec<String> {
        self.noted("!")
    }

    fn noted(&self, word: &str) -> Vec<String> {
        let runs = self.machine.runs();
        runs.iter().filter_map(|run| run.strip_prefix(word)).map(str::to_owned).collect()
    }

    /// The pinned revision.
    pub fn pin(&self) -> Option<String> {
        let pin = json(&self.machine.private(NAME, "pin"))?;
        Some(pin["revision"].as_str()?.to_owned())
    }

    /// A tick in the background.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.machine.agent_command(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    /// Runs the worker under strace and kills it on entering the `nth` such call.
    pub fn worker_killed_at(&self, call: &str, nth: usize) {
        self.machine.agent(&["tick", "--dry-run"]);
        let inject = format!("inject=?{call}:signal=SIGKILL:when={nth}");
        let mut strace = self.machine.command("strace");
        strace.args(["-o", "/dev/null", "-e", &inject, "--"]);
        Ran::of(strace.args(self.machine.agent_line(&["worker", NAME, "--trigger", "cron"])));
        self.settle();
    }

    /// Runs the worker and kills it after `percent` hundredths of what it takes undisturbed.
    pub fn worker_killed_after(&self, percent: u32) {
        self.machine.agent(&["tick", "--dry-run"]);
        let mut worker = self.spawn(&["worker", NAME, "--trigger", "cron"]);
        thread::sleep(self.undisturbed * percent / 100);
        worker.kill().unwrap();
        worker.wait().unwrap();
        self.settle();
    }

    /// Kills the worker that the journal names.
    pub fn kill_worker(&self) {
        if let Some(journal) = json(&self.machine.private(NAME, "journal")) {
            kill(&journal["worker"]["pid"]);
        }
    }

    /// Kills the script that the journal names, with everything that it started.
    pub fn kill_script(&self) {
        if let Some(journal) = json(&self.machine.private(NAME, "journal"))
            && let Some(pid) = pid(&journal["script"]["process"]["pid"])
        {
            // That it has ended already is fine.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// What a reboot leaves: nothing runs, and the journal is of another boot.
    pub fn reboot(&self) {
        self.kill_worker();
        self.kill_script();
        self.settle();
        let path = self.machine.private(NAME, "journal");
        if let Some(mut journal) = json(&path) {
            journal["boot_id"] = "00000000-0000-4000-8000-000000000000".into();
            fs::write(path, journal.to_string()).unwrap();
        }
    }

    /// Waits until nothing runs for this machine any more.
    pub fn settle(&self) {
        self.machine.settle(NAME);
    }
}

fn json(path: &Path) -> Option<serde_json::Value> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

fn pid(value: &serde_json::Value) -> Option<Pid> {
    Pid::from_raw(i32::try_from(value.as_i64()?).ok()?)
}

fn kill(value: &serde_json::Value) {
    if let Some(pid) = pid(value) {
        // That it has ended already is fine.
        let _ = kill_process(pid, Signal::KILL);
    }
}
