//! What it costs to publish every branch of a repository: the agent in the mode `branches` against
//! r10k, and against a loop that keeps a worktree of git's for each branch and removes those of
//! branches that are gone. All of them over HTTP from one server, in turns, so that whatever else the
//! machine does meets each. The loop runs a second time with a `sync -f` at its end, which promises what
//! the agent does: what was published is on disk. `TMPDIR=/dev/shm` shows it without a disk.
//!
//! `cargo bench --features servers --bench publish [-- ROUNDS [WHAT…]]`, where WHAT is a part of the
//! name of a row; all rows without. Needs nginx, fcgiwrap, r10k and GNU time.
//!
//! Prints a Markdown table of medians. The memory is that of the agent's largest process; bytes are
//! counted by a proxy and requests by the server. Before each run what the one before it left
//! unwritten is brought to disk, untimed: the agent waits until its own is, and the others do not.

#![allow(clippy::disallowed_methods, reason = "it starts programs and reads the clock")]

mod figures;
#[path = "../tests/it/sandbox.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sandbox;
#[path = "../tests/it/servers/mod.rs"]
mod servers;

use std::cell::Cell;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::time::Instant;

use figures::{median, processor_of_children};
use sandbox::{Ran, Sandbox, text};
use servers::{Face, Https, Proxy};

/// The loop: URL, the clone, the directory with the worktrees, whether they are synced. As good as such a loop gets: a worktree
/// that stands right is only asked.
const LOOP: &str = r#"
set -eu
url=$1 clone=$2 target=$3
if [ ! -d "$clone" ]; then
    git init --quiet --bare "$clone"
    git -C "$clone" remote add origin "$url"
    mkdir "$target"
fi
git -C "$clone" fetch --quiet --prune origin
git -C "$clone" for-each-ref --format='%(objectname) %(refname:lstrip=3)' refs/remotes/origin |
while read -r revision branch; do
    if [ ! -d "$target/$branch" ]; then
        git -C "$clone" worktree add --quiet --force --detach "$target/$branch" "$revision"
    elif [ "$(git -C "$target/$branch" rev-parse HEAD)" != "$revision" ]; then
        git -C "$target/$branch" checkout --quiet --force --detach "$revision"
    fi
done
for directory in "$target"/*/; do
    branch=$(basename "$directory")
    if ! git -C "$clone" show-ref --quiet --verify "refs/remotes/origin/$branch"; then
        git -C "$clone" worktree remove --force "$directory"
    fi
done
[ "$4" = "as it is" ] || sync -f "$target"
"#;

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let rounds = words.first().and_then(|word| word.parse().ok()).unwrap_or(3);
    let wanted: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    println!("{rounds} rounds; ratio: the other / agent\n");
    println!("| | wall ms | ratio | CPU ms | ratio | KB | requests | agent's peak MB |");
    println!("| --- | --: | --: | --: | --: | --: | --: | --: |");
    for (branches, files, who) in [
        (50, 300, &[Who::Agent, Who::R10k, Who::Loop, Who::SyncedLoop][..]),
        (1_000, 5, &[Who::Agent]),
    ] {
        let named = |row: Row| format!("{branches} × {files} files, {}", row.name());
        let rows: Vec<Row> = [Row::Cold, Row::Idle, Row::Changed, Row::Gone]
            .into_iter()
            .filter(|row| {
                wanted.is_empty() || wanted.iter().any(|word| named(*row).contains(*word))
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let bench = Bench::new(branches, files);
        for row in rows {
            bench.row(row, &named(row), rounds, who);
        }
    }
}

/// What the others meet that is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Row {
    /// Nothing is here yet.
    Cold,
    /// Nothing changed.
    Idle,
    /// One file of one branch did.
    Changed,
    /// One branch went, another came.
    Gone,
}

impl Row {
    fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Idle => "nothing changed",
            Self::Changed => "one changed",
            Self::Gone => "one gone, one new",
        }
    }
}

/// Who publishes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Agent,
    R10k,
    Loop,
    SyncedLoop,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::R10k => "r10k",
            Self::Loop => "worktree loop",
            Self::SyncedLoop => "worktree loop, synced",
        }
    }

    /// Its clone.
    fn repository(self) -> &'static str {
        match self {
            Self::Agent => "root/control",
            Self::R10k => "r10k",
            Self::Loop => "loop.git",
            Self::SyncedLoop => "synced-loop.git",
        }
    }

    /// The directory with one tree per branch.
    fn target(self) -> &'static str {
        match self {
            Self::Agent => "published",
            Self::R10k => "environments",
            Self::Loop => "worktrees",
            Self::SyncedLoop => "synced-worktrees",
        }
    }
}

/// What one run cost.
#[derive(Clone, Copy)]
struct Cost {
    wall: f64,
    processor: f64,
    kilobytes: f64,
    requests: f64,
}

/// A repository with many branches on a server, and those who publish it.
struct Bench {
    machine: Sandbox,
    server: Https,
    line: Proxy,
    branches: usize,
    files: usize,
    /// How many times something was pushed.
    pushes: Cell<usize>,
    /// How many directories were moved away.
    forgotten: Cell<usize>,
}

impl Bench {
    fn new(branches: usize, files: usize) -> Self {
        let machine = Sandbox::new();
        let bare = machine.server("control");
        let first = "--initial-branch=e0000";
        machine.git(&machine.path(""), &["init", "--quiet", "--bare", first, text(&bare)]);
        let server = Https::of(&machine);
        let line = Proxy::to(server.port(Face::Plain));
        let url = line.url_of(&server.url_on(Face::Plain, "control"));
        let target = machine.path(Who::Agent.target());
        machine.configure(&format!(
            "[repo.control]\nurl = {url:?}\ninsecure = true\nmode = \"branches\"\ntarget = {target:?}\n"
        ));
        let (cache, basedir) = (machine.path("r10k"), machine.path(Who::R10k.target()));
        let sources = format!("control:\n    remote: {url:?}\n    basedir: {basedir:?}\n");
        let r10k = format!("---\ncachedir: {cache:?}\nsources:\n  {sources}");
        fs::write(machine.path("r10k.yaml"), r10k).unwrap();
        fs::write(machine.path("loop.sh"), LOOP).unwrap();
        let (pushes, forgotten) = (Cell::new(0), Cell::new(0));
        let bench = Self { machine, server, line, branches, files, pushes, forgotten };
        bench.populate();
        bench
    }

    /// Every branch has all files, and a tenth of them differ from branch to branch.
    fn populate(&self) {
        let mut stream = String::new();
        let lines = |what: &str| format!("class profile {{ # {what}\n}}\n").repeat(25);
        for branch in 0..self.branches {
            let _ = write!(stream, "commit refs/heads/{}\n{AUTHOR}", name(branch));
            if branch > 0 {
                let _ = writeln!(stream, "from refs/heads/{}", name(0));
            }
            for file in 0..self.files {
                if branch == 0 || (file + branch) % 10 == 0 {
                    let content = lines(&format!("{branch} {file}"));
                    let path = format!("site/m{}/manifests/f{file}.pp", file / 10);
                    stream += &inline(&path, &content);
                }
            }
        }
        self.import(&stream);
        self.machine.git(&self.machine.server("control"), &["repack", "-adq"]);
    }

    /// Pushes what `row` is about.
    fn push(&self, row: Row) {
        let number = self.pushes.replace(self.pushes.get() + 1);
        let branch = |name: &str| format!("refs/heads/{name}");
        match row {
            Row::Cold | Row::Idle => {}
            Row::Changed => {
                let branch = branch(&name(7));
                let change = inline("site/changed", &format!("{number}\n"));
                self.import(&format!("commit {branch}\n{AUTHOR}from {branch}^0\n{change}"));
            }
            Row::Gone => {
                let bare = self.machine.server("control");
                let new = branch(&format!("n{number}"));
                self.machine.git(&bare, &["update-ref", &new, &branch(&name(8))]);
                if number > 0 {
                    let gone = branch(&format!("n{}", number - 1));
                    self.machine.git(&bare, &["update-ref", "-d", &gone]);
                }
            }
        }
    }

    fn import(&self, stream: &str) {
        let file = self.machine.path("stream");
        fs::write(&file, stream).unwrap();
        let mut import = self.machine.command("sh");
        import.args(["-c", "git fast-import --quiet --force < \"$1\"", "sh", text(&file)]);
        Ran::of(import.current_dir(self.machine.server("control"))).ok();
    }

    fn command(&self, who: Who) -> Command {
        match who {
            Who::Agent => self.machine.agent_command(&["tick", "--trigger", "cron"]),
            Who::R10k => {
                let mut command = self.machine.command("r10k");
                command.args([
                    "deploy",
                    "environment",
                    "-c",
                    text(&self.machine.path("r10k.yaml")),
                ]);
                command
            }
            Who::Loop | Who::SyncedLoop => {
                let url = self.line.url_of(&self.server.url_on(Face::Plain, "control"));
                let mut command = self.machine.command("bash");
                command.arg(self.machine.path("loop.sh")).arg(url);
                command
                    .arg(self.machine.path(who.repository()))
                    .arg(self.machine.path(who.target()));
                command.arg(if who == Who::Loop { "as it is" } else { "synced" });
                command
            }
        }
    }

    /// Moves away all that `who` ever made. It is not removed: ext4 is slow to give out inodes that
    /// were freed a minute ago, and whoever comes next would be measured with that.
    fn forget(&self, who: Who) {
        for made in [who.repository(), who.target()] {
            let dir = self.machine.path(made);
            if dir.exists() {
                let number = self.forgotten.replace(self.forgotten.get() + 1);
                fs::rename(dir, self.machine.path(&format!("forgotten-{number}"))).unwrap();
            }
        }
        if matches!(who, Who::Agent | Who::R10k) {
            fs::create_dir(self.machine.path(who.target())).unwrap();
        }
    }

    /// One run, measured from start to end.
    fn measure(&self, row: Row, who: Who) -> Cost {
        if row == Row::Cold {
            self.forget(who);
        }
        rustix::fs::sync();
        self.line.forget_counts();
        self.server.forget_requests();
        let processor = processor_of_children();
        let start = Instant::now();
        Ran::of(&mut self.command(who)).ok();
        let wall = start.elapsed().as_secs_f64() * 1e3;
        let processor = processor_of_children() - processor;
        let counts = self.line.counts();
        let kilobytes = (counts.up + counts.down) as f64 / 1e3;
        Cost { wall, processor, kilobytes, requests: self.server.requests().len() as f64 }
    }

    /// The size in MB that the agent's largest process has.
    fn peak(&self, row: Row) -> f64 {
        if row == Row::Cold {
            self.forget(Who::Agent);
        }
        let tick = self.command(Who::Agent);
        let mut timed = self.machine.command("/usr/bin/time");
        timed.args(["-f", "%M"]).arg(tick.get_program()).args(tick.get_args());
        let ran = Ran::of(&mut timed).ok();
        let last = ran.stderr.lines().last().and_then(|line| line.parse::<f64>().ok());
        last.expect("GNU time tells the size") / 1024.0
    }

    /// Panics unless `who` has every branch as the server has it.
    fn check(&self, who: Who) {
        let refs = ["for-each-ref", "--format=%(refname:lstrip=2)", "refs/heads"];
        let names = self.machine.git(&self.machine.server("control"), &refs);
        let target = self.machine.path(who.target());
        let mut there: Vec<String> = fs::read_dir(&target)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with('.'))
            .collect();
        there.sort();
        assert_eq!(there, names.lines().collect::<Vec<_>>(), "{}", who.name());
        for name in there {
            let revision = format!("{name}^{{tree}}");
            let bare = self.machine.server("control");
            let listed = self.machine.git(&bare, &["ls-tree", "-r", "--name-only", &revision]);
            for path in listed.lines().step_by(37) {
                let blob =
                    self.machine.git(&bare, &["cat-file", "blob", &format!("{name}:{path}")]);
                let found = fs::read_to_string(target.join(&name).join(path)).unwrap();
                assert_eq!(found.trim_end_matches('\n'), blob, "{}: {name}/{path}", who.name());
            }
        }
    }

    /// All of `whose` in turns, and what is pushed before each round.
    fn row(&self, row: Row, title: &str, rounds: usize, whose: &[Who]) {
        self.push(row);
        for &who in whose {
            if row != Row::Cold && !self.machine.path(who.target()).exists() {
                self.measure(Row::Cold, who);
            }
        }
        let peak = self.peak(row);
        let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); whose.len()];
        for round in 0..rounds {
            self.push(row);
            for turn in 0..whose.len() {
                let turn = (round + turn) % whose.len();
                costs[turn].push(self.measure(row, whose[turn]));
            }
        }
        whose.iter().for_each(|&who| self.check(who));
        let costs: Vec<Cost> = costs.iter().map(|costs| middle(costs)).collect();
        let ours = costs[0];
        for (who, cost) in whose.iter().zip(&costs) {
            let Cost { wall, processor, kilobytes, requests } = cost;
            let (of_wall, of_processor) = (wall / ours.wall, processor / ours.processor);
            let ratio = |ratio: f64| match who {
                Who::Agent => String::new(),
                _ => format!("{ratio:.1}"),
            };
            let peak = if *who == Who::Agent { format!("{peak:.1}") } else { String::new() };
            println!(
                "| {title}: {} | {wall:.0} | {} | {processor:.0} | {} | {kilobytes:.1} | {requests:.0} | {peak} |",
                who.name(),
                ratio(of_wall),
                ratio(of_processor),
            );
        }
    }
}

/// Who makes each commit of a stream for `git fast-import`, and its message.
const AUTHOR: &str = "committer Pat Pusher <pat@example.org> 1795338000 +0000\ndata 2\nx\n";

/// The line of such a stream that gives a file its content.
fn inline(path: &str, content: &str) -> String {
    format!("M 100644 inline {path}\ndata {}\n{content}\n", content.len())
}

/// The name of a branch.
fn name(branch: usize) -> String {
    format!("e{branch:04}")
}

/// Medians.
fn middle(costs: &[Cost]) -> Cost {
    let median = |part: fn(&Cost) -> f64| median(costs.iter().map(part).collect());
    Cost {
        wall: median(|cost| cost.wall),
        processor: median(|cost| cost.processor),
        kilobytes: median(|cost| cost.kilobytes),
        requests: median(|cost| cost.requests),
    }
}
