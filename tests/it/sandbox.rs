//! A [`Sandbox`]: one machine and one git server in a temporary directory, and the person who pushes.
//! Real git, the real binary, nothing mocked, nothing outside the directory read or written, no
//! network. It knows the contract's files and commands; it does not know the library.
//!
//! ```text
//! DIR/home              HOME of everything that is started here
//! DIR/server/NAME.git   what the machine pulls from; a bare repository
//! DIR/desk/NAME         the clone that a person edits and pushes from
//! DIR/root/NAME         the machine's clone; DIR/root is the agent's `--root`
//! DIR/runs              one line for each thing that [`NOTES_ITS_RUNS`] saw
//! ```
//!
//! ```ignore
//! let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
//! machine.tick().ok();
//! let revision = machine.push("ops", &[("page", "new")]);
//! machine.tick().ok();
//! assert_eq!(machine.lastaction("ops"), Some(revision));
//! assert_eq!(machine.state("ops"), "current");
//! ```

use std::fmt;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A `work.sh` that writes `start REVISION ATTEMPT` and `end REVISION` into `DIR/runs`.
pub const NOTES_ITS_RUNS: &str = "\
echo \"start $AGENT_REVISION $AGENT_ATTEMPT\" >> \"$AGENT_ROOT/../runs\"
echo \"end $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"
";

/// How long [`wait_until`] waits for what must come; long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// One machine, one git server, one person who pushes.
pub struct Sandbox {
    dir: TempDir,
}

/// What a program did: exit code, output, error output.
#[derive(Debug)]
pub struct Ran {
    /// What was started, for messages.
    pub line: String,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Its output.
    pub stdout: String,
    /// Its error output.
    pub stderr: String,
}

impl Ran {
    /// Runs `command` to its end with nothing on its standard input.
    pub fn of(command: &mut Command) -> Self {
        Self::with_input(command, Stdio::null())
    }

    /// Runs `command` to its end with `input` as its standard input.
    fn with_input(command: &mut Command, input: Stdio) -> Self {
        let line = format!("{command:?}");
        let output = command
            .stdin(input)
            .output()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        Self {
            line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// This, once it is sure that it exited 0; panics with all its output otherwise.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// This, once it is sure that it exited with `code`; panics with all its output otherwise.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(self.code == Some(code), "exit code {code} was expected\n{self}");
        self
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, code, stdout, stderr } = self;
        write!(f, "{line}\nexit code: {code:?}\nstdout:\n{stdout}stderr:\n{stderr}")
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// A machine with an empty root, and a server without repositories.
    pub fn new() -> Self {
        let sandbox = Self { dir: tempfile::tempdir().unwrap() };
        for directory in ["home", "server", "desk", "root"] {
            fs::create_dir(sandbox.path(directory)).unwrap();
        }
        sandbox
    }

    /// A machine with one clone, `name`, of a repository whose first commit holds `files`. No tick
    /// has run yet.
    pub fn with(name: &str, files: &[(&str, &str)]) -> Self {
        let sandbox = Self::new();
        sandbox.serve(name, files);
        sandbox.clone_to_root(name);
        sandbox
    }

    /// A path in the sandbox's directory.
    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The agent's `--root`.
    pub fn root(&self) -> PathBuf {
        self.path("root")
    }

    /// The machine's clone of `name`.
    pub fn clone_of(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// What the machine pulls `name` from; as a URL, it is this path.
    pub fn server(&self, name: &str) -> PathBuf {
        self.path("server").join(format!("{name}.git"))
    }

    /// Where a person edits `name` and pushes from.
    pub fn desk(&self, name: &str) -> PathBuf {
        self.path("desk").join(name)
    }

    /// Puts a new repository on the server, with a first commit of `files` on `main`; returns its
    /// revision. The machine does not know of it yet.
    pub fn serve(&self, name: &str, files: &[(&str, &str)]) -> String {
        let (server, desk) = (self.server(name), self.desk(name));
        let directory = self.dir.path();
        self.git(directory, &["init", "--quiet", "--bare", "--initial-branch=main", text(&server)]);
        self.git(directory, &["init", "--quiet", "--initial-branch=main", text(&desk)]);
        self.git(&desk, &["remote", "add", "origin", text(&server)]);
        self.push(name, files)
    }

    /// Clones `name` from the server into the root, as an administrator would.
    pub fn clone_to_root(&self, name: &str) {
        let (server, clone) = (self.server(name), self.clone_of(name));
        self.git(self.dir.path(), &["clone", "--quiet", text(&server), text(&clone)]);
    }

    /// Writes `files` at the desk, commits everything there and pushes it; returns the revision.
    pub fn push(&self, name: &str, files: &[(&str, &str)]) -> String {
        self.push_with(name, |desk| {
            for (path, content) in files {
                let file = desk.join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, content).unwrap();
            }
        })
    }

    /// Lets `edit` change the desk's files as it likes, commits everything there and pushes it;
    /// returns the revision.
    pub fn push_with(&self, name: &str, edit: impl FnOnce(&Path)) -> String {
        let desk = self.desk(name);
        edit(&desk);
        self.git(&desk, &["add", "--all"]);
        self.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        self.git(&desk, &["push", "--quiet", "--force", "origin", "HEAD:main"]);
        self.git(&desk, &["rev-parse", "HEAD"])
    }

    /// Runs git in `directory`; returns its output without the last newline. Panics when it fails.
    #[track_caller]
    pub fn git(&self, directory: &Path, arguments: &[&str]) -> String {
        let ran = Ran::of(self.command("git").current_dir(directory).args(arguments)).ok();
        ran.stdout.trim_end_matches('\n').to_owned()
    }

    /// Any program in the sandbox's environment: nothing of the caller's but PATH, a HOME of its
    /// own, and a git that reads no configuration of the machine and commits as one fixed person.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", self.path("home"))
            .env("LANG", "C.UTF-8")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .current_dir(self.dir.path());
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Pat Pusher");
            command.env(format!("GIT_{role}_EMAIL"), "pat@example.org");
            command.env(format!("GIT_{role}_DATE"), "2026-11-22T09:00:00Z");
        }
        command
    }

    /// The command line of the agent with the sandbox's root, program first; for those who start
    /// it under another program.
    pub fn agent_line(&self, arguments: &[&str]) -> Vec<String> {
        let root = self.root();
        [env!("CARGO_BIN_EXE_agent"), "--root", text(&root)]
            .iter()
            .chain(arguments)
            .map(|&word| word.to_owned())
            .collect()
    }

    /// The agent with the sandbox's root, not started yet.
    pub fn agent_command(&self, arguments: &[&str]) -> Command {
        let line = self.agent_line(arguments);
        let mut command = self.command(&line[0]);
        command.args(&line[1..]);
        command
    }

    /// Runs the agent with the sandbox's root to its end.
    pub fn agent(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.agent_command(arguments))
    }

    /// Runs the agent on a terminal of so many `columns` on which `typed` is typed, by script(1). Its output has
    /// what the terminal shows, the echo of the typing included.
    pub fn on_terminal(&self, columns: u16, typed: &str, arguments: &[&str]) -> Ran {
        let keys = self.path("typed");
        fs::write(&keys, typed).unwrap();
        let keys = fs::File::open(keys).unwrap();
        Ran::with_input(&mut self.terminal_command(columns, arguments), keys.into())
    }

    /// The agent on a terminal of so many `columns`, not started yet.
    pub fn terminal_command(&self, columns: u16, arguments: &[&str]) -> Command {
        let quoted = |word: String| format!("'{}'", word.replace('\'', r"'\''"));
        let line: Vec<String> = self.agent_line(arguments).into_iter().map(quoted).collect();
        let command = format!("stty cols {columns} rows 50; exec {}", line.join(" "));
        let mut script = self.command("script");
        script.env("TERM", "xterm").args(["-q", "-e", "-c", &command, "/dev/null"]);
        script
    }

    /// Runs the agent as `person` does with sudo.
    pub fn agent_as(&self, person: &str, arguments: &[&str]) -> Ran {
        Ran::of(self.agent_command(arguments).env("SUDO_USER", person))
    }

    /// One tick, as the installed cron line starts it, to its end.
    pub fn tick(&self) -> Ran {
        self.agent(&["tick", "--trigger", "cron"])
    }

    /// Writes the machine's `agent.toml`.
    pub fn configure(&self, toml: &str) {
        let directory = self.root().join(".pmpy");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("agent.toml"), toml).unwrap();
    }

    /// Waits until nothing runs for this machine and its clone `name` any more.
    pub fn settle(&self, name: &str) {
        let (clone, root) = (self.clone_of(name), self.root());
        wait_until("everything on the machine has ended", || !runs_for(&clone, text(&root)));
    }

    /// Lets the time pass that a failed attempt at `name` has to wait.
    #[track_caller]
    pub fn wait_is_over(&self, name: &str) {
        let file = self.private(name, "state");
        let mut state: serde_json::Value =
            serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let next = &mut state["attempt"]["next_try"];
        assert!(next.is_string(), "{name} does not wait: {state:#}");
        *next = "2020-01-01T00:00:00Z".into();
        fs::write(file, state.to_string()).unwrap();
    }

    /// Lets the server of `name` have said twice, long ago, what it says of the ref `reference` now: the
    /// next tick believes it.
    #[track_caller]
    pub fn answered_twice(&self, name: &str, reference: &str) {
        let file = self.private(name, "poll");
        let Ok(text) = fs::read(&file) else { return };
        let mut poll: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let mut git = self.command("git");
        let arguments = ["rev-parse", "--quiet", "--verify", reference];
        let tip = Ran::of(git.current_dir(self.server(name)).args(arguments)).stdout;
        let tip = Some(tip.trim()).filter(|tip| !tip.is_empty());
        let doubt = serde_json::json!({
            "remote": poll["remote"], "name": reference, "tip": tip,
            "since": "2020-01-01T00:00:00Z", "answers": 2,
        });
        let doubts = poll["doubts"].as_array_mut().expect("the record has doubts");
        doubts.retain(|known| known["name"] != reference);
        doubts.push(doubt);
        fs::write(file, poll.to_string()).unwrap();
    }

    /// What `status --json` says.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let ran = self.agent(&["status", "--json"]);
        serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("status --json is no JSON: {error}\n{ran}"))
    }

    /// What `status --json` says of `name`.
    #[track_caller]
    pub fn row(&self, name: &str) -> serde_json::Value {
        let status = self.status();
        let rows = status["repositories"].as_array().expect("status has a list of repositories");
        rows.iter()
            .find(|row| row["name"] == name)
            .unwrap_or_else(|| panic!("status does not know {name}: {status:#}"))
            .clone()
    }

    /// The one word that `status` has for `name`.
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        self.row(name)["state"].as_str().expect("a state is a word").to_owned()
    }

    /// The revision in `lastaction.txt`; `None` without the file. Panics when it holds anything but
    /// one line.
    #[track_caller]
    pub fn lastaction(&self, name: &str) -> Option<String> {
        let file = self.clone_of(name).join(".temp/nodeinfo/lastaction.txt");
        let text = fs::read_to_string(file).ok()?;
        let line = text.strip_suffix('\n').expect("lastaction.txt ends with a newline");
        assert!(!line.contains('\n'), "lastaction.txt has more than one line: {text:?}");
        Some(line.to_owned())
    }

    /// Where `currentaction.txt` of `name` is when there is one.
    pub fn currentaction(&self, name: &str) -> PathBuf {
        self.clone_of(name).join(".temp/nodeinfo/currentaction.txt")
    }

    /// A file of the agent's own in the machine's clone of `name`.
    pub fn private(&self, name: &str, file: &str) -> PathBuf {
        self.clone_of(name).join(".git/pmpy").join(file)
    }

    /// HEAD of the machine's clone.
    #[track_caller]
    pub fn head(&self, name: &str) -> String {
        self.git(&self.clone_of(name), &["rev-parse", "HEAD"])
    }

    /// What `git status` has to say about the machine's clone; empty when nothing differs.
    #[track_caller]
    pub fn differences(&self, name: &str) -> String {
        self.git(&self.clone_of(name), &["--no-optional-locks", "status", "--porcelain"])
    }

    /// The lines in `DIR/runs`.
    pub fn runs(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Every file and directory below `below` that is no directory on the way, relative to it.
    pub fn files_below(&self, below: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut directories = vec![below.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let entry = entry.unwrap();
                match entry.file_type().unwrap().is_dir() {
                    true => directories.push(entry.path()),
                    false => files.push(entry.path().strip_prefix(below).unwrap().to_owned()),
                }
            }
        }
        files.sort();
        files
    }
}

/// Waits for what must come; panics with `what` when it has not come in three minutes.
#[track_caller]
pub fn wait_until(what: &str, mut come: impl FnMut() -> bool) {
    let start = Instant::now();
    while !come() {
        assert!(start.elapsed() < PATIENCE, "still waiting after {PATIENCE:?} until {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A program that runs beside the test; it ends with the test at the latest.
pub struct Beside(Child);

impl Beside {
    /// Starts it without input; what it prints is lost.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// Starts it without input; [`Beside::finish`] has what it prints, which must not be much.
    pub fn heard(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// A tick of cron's.
    pub fn tick(machine: &Sandbox) -> Self {
        Self::start(&mut machine.agent_command(&["tick", "--trigger", "cron"]))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Its exit code and what it printed, once it has ended.
    pub fn finish(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (self.0.wait().unwrap().code(), said)
    }

    /// Its exit code, once it has ended.
    pub fn code(mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sets the permission bits of `file`.
pub fn set_mode(file: &Path, mode: u32) {
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
}

/// Whether some process works in `clone` or has `root` on its command line.
fn runs_for(clone: &Path, root: &str) -> bool {
    fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        let process = entry.path();
        let cwd = fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(clone));
        let named = || {
            let line = fs::read(process.join("cmdline")).unwrap_or_default();
            let reported = String::from_utf8_lossy(&line).contains(root);
            // A process that has ended and waits for its parent to look has no command line.
            reported && entry.file_name() != std::process::id().to_string().as_str()
        };
        cwd || named()
    })
}

/// Makes `file` a program of this content.
///
/// Another process writes it: what a child of the tests that runs beside has inherited as a file open for
/// writing, and has not closed yet, no one can execute ("Text file busy").
pub fn write_program(file: &Path, content: impl AsRef<[u8]>) {
    let mut install = Command::new("install");
    install.args(["-m", "755", "/dev/stdin", text(file)]).stdin(Stdio::piped());
    let mut install = install.spawn().unwrap();
    install.stdin.take().unwrap().write_all(content.as_ref()).unwrap();
    assert!(install.wait().unwrap().success(), "{}", file.display());
}

/// Copies the agent to `file`, as [`write_program`] does.
pub fn install_agent(file: &Path) {
    let agent = env!("CARGO_BIN_EXE_agent");
    let installed = Command::new("install").args(["-m", "755", agent, text(file)]).status();
    assert!(installed.unwrap().success(), "{}", file.display());
}

/// A path of the sandbox as text; they all are UTF-8.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Whose `file` is.
pub fn owner(file: &Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&fs::metadata(file).unwrap())
}
