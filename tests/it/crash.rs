//! The crash enumerator: kills the agent on entering each of its system calls that change
//! anything, once more at another point of the recovery, and then looks whether the next ticks put
//! all of it right by themselves; and whether one tick does where nothing kills the recovery. Where trees
//! are published, what readers meet is looked at after each kill, before anything is put right.
//!
//! strace injects the kill. It follows no child, so that "the third rename" is that of the one
//! process under test: the tick, the worker of a repository, or the worker that recovers. A call
//! that is killed on entry did not happen; between two kills in a row lies every state that a crash
//! can leave. Random times would prove little: on a busy machine most of them miss.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::sandbox::{Ran, Sandbox, text, wait_until};

mod accepted;
mod orders;
mod points;
mod published;
mod pushed;
mod totals;

use points::{CALLS, Point};
use published::Layout;
pub(crate) use totals::Totals;

pub(crate) const NAME: &str = "ops";
const TICK: [&str; 3] = ["tick", "--trigger", "cron"];
pub(crate) const WORKER: [&str; 4] = ["worker", NAME, "--trigger", "cron"];

/// How many machines are killed side by side.
const LANES: usize = 2;

/// A revision that is not acted upon by then is wedged.
const PATIENCE: Duration = Duration::from_secs(120);

/// After so many bad rounds the rest would tell nothing new.
const ENOUGH: usize = 5;

/// Looks from the inside whether all is as promised while a script runs. Lines with `!` are wrong.
const SUSPICIOUS_WORK: &str = r#"
world=$AGENT_ROOT/..
note() { echo "$* $AGENT_REVISION" >> "$world/runs"; }
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null

exec 9> "$world/one-at-a-time"
flock --nonblock 9 || note '! two at once'
[ "$(head -n 1 .temp/nodeinfo/currentaction.txt)" = "$AGENT_REVISION" ] ||
    note '! currentaction.txt names another revision'
[ "$(cat .temp/nodeinfo/lastaction.txt 2> /dev/null)" != "$AGENT_REVISION" ] ||
    note '! run again after it was recorded'
[ "$(git rev-parse HEAD)" = "$AGENT_REVISION" ] || note '! HEAD is elsewhere'
if grep --quiet "^start $AGENT_REVISION" "$world/runs" && [ "${AGENT_RESUMED-}" != 1 ]; then
    note '! not told that an earlier run was cut off'
fi
# An index of its own holds no times and sizes, so that git compares every byte.
export GIT_INDEX_FILE=$world/index.$$
git read-tree "$AGENT_REVISION" && git diff --quiet &&
    [ -z "$(git ls-files --others --exclude-standard)" ] || note '! torn tree'
rm -f "$GIT_INDEX_FILE"

note start
sleep 0.05
note end
"#;

/// What comes after a kill.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Another one, somewhere in the recovery.
    AnotherKill,
    /// One tick, as cron starts it.
    OneTick,
}

/// One machine that is killed again and again, and the number of revisions pushed to it so far.
pub(crate) struct CrashSetup {
    pub(crate) machine: Sandbox,
    round: usize,
    /// Where trees are published; `None`: the worktree follows.
    layout: Option<Layout>,
    /// How many more files each revision changes.
    crowd: usize,
    /// Whether each action finds as many packs as are repacked after it.
    packs: bool,
}

impl CrashSetup {
    pub(crate) fn new() -> Self {
        Self::of(None)
    }

    fn of(layout: Option<Layout>) -> Self {
        let machine = Sandbox::with(NAME, &[("bin/work/common/work.sh", SUSPICIOUS_WORK)]);
        if let Some(layout) = layout {
            published::configure(&machine, layout);
        }
        let mut setup = Self { machine, round: 0, layout, crowd: 0, packs: false };
        setup.push();
        setup.machine.tick().ok();
        setup
    }

    /// Pushes a revision that changes, adds and removes files and directories, flips an execute bit,
    /// and turns a file into a directory, that into a link, and that into a file again.
    pub(crate) fn push(&mut self) -> String {
        self.round += 1;
        let round = self.round;
        if self.layout == Some(Layout::Branches) {
            published::push_branches(&self.machine, round);
        }
        if self.packs {
            self.add_packs();
        }
        let crowd = self.crowd;
        self.machine.push_with(NAME, |desk| {
            pushed::change(desk, round).unwrap();
            for number in 0..crowd {
                fs::write(desk.join(format!("files/crowd-{number}")), format!("{round}\n"))
                    .unwrap();
            }
        })
    }

    /// Gives the clone fifty packs of one object each, with which it is repacked after its next action.
    fn add_packs(&self) {
        let clone = self.machine.clone_of(NAME);
        let script = "for number in $(seq 50); do
                echo $0 $number | git hash-object -w --stdin |
                    git pack-objects --quiet .git/objects/pack/pack
            done > /dev/null
            git prune-packed --quiet";
        let mut shell = self.machine.command("sh");
        shell.current_dir(&clone).args(["-c", script, &self.round.to_string()]);
        Ran::of(&mut shell).ok();
    }

    /// Lets the agent hear of what was pushed, as the tick that starts a worker does.
    pub(crate) fn poll(&self) {
        self.machine.agent(&["tick", "--dry-run"]);
    }

    /// Runs the agent and kills it at `point`; whether it got that far.
    pub(crate) fn killed(&self, calls: &[&str], nth: usize, arguments: &[&str]) -> bool {
        // A question mark: no complaint about a call that this machine does not have.
        let set: Vec<String> = calls.iter().map(|call| format!("?{call}")).collect();
        let inject = format!("inject={}:signal=SIGKILL:when={nth}", set.join(","));
        let ran = self.traced(&["-e", &inject], arguments);
        match ran.code {
            None => true,
            _ => {
                ran.ok();
                false
            }
        }
    }

    /// Runs the agent under strace, with the calls that are traced in `DIR/trace`.
    fn traced(&self, options: &[&str], arguments: &[&str]) -> Ran {
        let set: Vec<String> = CALLS.iter().map(|call| format!("?{call}")).collect();
        let mut strace = self.machine.command("strace");
        strace
            .args(["-o", text(&self.machine.path("trace"))])
            .args(["-e", &format!("trace={}", set.join(","))])
            .args(options)
            .arg("--")
            .args(self.machine.agent_line(arguments));
        Ran::of(&mut strace)
    }

    /// Every point of a worker that takes one revision in, in the order it comes to them.
    fn points(&mut self) -> Vec<Point> {
        self.push();
        self.poll();
        self.traced(&[], &WORKER).ok();
        let trace = fs::read_to_string(self.machine.path("trace")).unwrap();
        let mut points: Vec<Point> = Vec::new();
        for line in trace.lines() {
            let name = line.split('(').next().unwrap_or_default();
            if let Some(&call) = CALLS.iter().find(|call| **call == name) {
                let nth = points.iter().filter(|point| point.call == call).count() + 1;
                points.push(Point { call, nth });
            }
        }
        points
    }

    /// Ticks until `revision` is acted upon and nothing is under way, or patience ends.
    pub(crate) fn converge(&self, revision: &str, totals: &mut Totals) {
        let start = Instant::now();
        let mut ticks = 0;
        loop {
            let ran = self.machine.tick();
            ticks += 1;
            if self.settled(revision) {
                break;
            }
            if start.elapsed() > PATIENCE {
                totals.wedged += 1;
                totals.findings.push(format!("  wedged; the last tick: {ran}"));
                break;
            }
            // Cut off twice, a revision waits its minute. A person need not: that is what
            // naming the repository is for.
            if self.machine.state(NAME) == "failing" {
                totals.named_ticks += 1;
                self.machine.agent(&["tick", NAME, "--trigger", "cron"]);
            } else {
                thread::sleep(Duration::from_millis(10));
            }
        }
        totals.most_ticks = totals.most_ticks.max(ticks);
    }

    fn settled(&self, revision: &str) -> bool {
        let journal = self.machine.clone_of(NAME).join(".git/pmpy/journal");
        self.machine.lastaction(NAME).as_deref() == Some(revision)
            && !self.machine.currentaction(NAME).exists()
            && !journal.exists()
            && (self.layout.is_none() || self.machine.state(NAME) == "current")
    }

    /// What is not as it has to be once `revision` is acted upon.
    pub(crate) fn findings(&self, revision: &str) -> Vec<String> {
        let clone = self.machine.clone_of(NAME);
        let mut findings = Vec::new();
        let mut expect = |holds: bool, finding: String| {
            if !holds {
                findings.push(format!("  {finding}"));
            }
        };
        if let Some(layout) = self.layout {
            let wrong = published::findings(&self.machine, layout, revision, self.round);
            expect(wrong.is_empty(), wrong.join("\n  "));
        } else {
            let head = self.machine.head(NAME);
            expect(head == revision, format!("HEAD is {head}"));
            let torn = self.bytes_that_differ(revision);
            expect(torn.is_empty(), format!("the files differ from the revision: {torn}"));
        }
        let acted = self.machine.lastaction(NAME);
        expect(acted.as_deref() == Some(revision), format!("lastaction.txt holds {acted:?}"));
        let current = fs::read_to_string(self.machine.currentaction(NAME)).ok();
        expect(current.is_none(), format!("currentaction.txt is left: {current:?}"));
        let row = self.machine.row(NAME);
        expect(
            row["state"] == "current",
            format!("the state is {}: {}", row["state"], row["reason"]),
        );
        let differences = self.machine.differences(NAME);
        expect(differences.is_empty(), format!("git status: {differences}"));
        expect(!clone.join(".git/pmpy/journal").exists(), "the journal is left".to_owned());
        for file in self.machine.files_below(&self.machine.root()) {
            expect(!is_debris(&file), format!("{} is left", file.display()));
        }
        findings
    }

    /// The files that are not as in `revision`, by their bytes: an index of its own holds no times
    /// and sizes that could deceive git.
    fn bytes_that_differ(&self, revision: &str) -> String {
        let clone = self.machine.clone_of(NAME);
        let index = self.machine.path("index");
        let git = |arguments: &[&str]| {
            let mut git = self.machine.command("git");
            git.current_dir(&clone).env("GIT_INDEX_FILE", &index).args(arguments);
            Ran::of(&mut git).ok().stdout
        };
        git(&["read-tree", revision]);
        git(&["diff", "--name-only"])
    }

    /// What readers meet that is not whole, at this very moment.
    fn look(&self, when: &str, totals: &mut Totals) {
        let Some(layout) = self.layout else { return };
        let torn = published::torn(&self.machine, layout, self.round);
        totals.findings.extend(torn.into_iter().map(|torn| format!("  {when}: {torn}")));
    }

    /// Pushes a revision, kills the worker at `first`, the agent at `point`, lets come what comes
    /// `then`, ticks, and looks. Whether `point` was reached.
    fn round(
        &mut self,
        first: Option<&Point>,
        point: &Point,
        victim: &[&str],
        then: Then,
    ) -> (bool, Totals) {
        let mut totals = Totals::default();
        let revision = self.push();
        let before = self.machine.runs().len();
        if victim == WORKER {
            self.poll();
        }
        if let Some(first) = first {
            self.killed(&[first.call], first.nth, &WORKER);
            self.look("after the first kill", &mut totals);
        }
        let hit = self.killed(&[point.call], point.nth, victim);
        if hit {
            totals.points += usize::from(then == Then::AnotherKill);
            self.look("after the kill", &mut totals);
        }
        match then {
            Then::AnotherKill if hit => {
                // Spread over the recovery, and the same at each repetition.
                let nth = 1 + self.round.wrapping_mul(2_654_435_761) / 128 % 24;
                totals.second_kills += usize::from(self.killed(&CALLS, nth, &WORKER));
                self.look("after the second kill", &mut totals);
            }
            Then::OneTick if hit => {
                totals.single_kills += 1;
                // A script outlives its worker, and a tick leaves it alone; cron comes a minute later.
                wait_until("the script has ended", || self.machine.state(NAME) != "acting");
                self.machine.tick();
                if !self.settled(&revision) {
                    let row = self.machine.row(NAME);
                    totals.late.push(format!("{point:?}: {} {}", row["state"], row["reason"]));
                }
            }
            _ => {}
        }
        self.converge(&revision, &mut totals);
        // A git gc outlives its worker, and has locks of its own until it ends.
        self.machine.settle(NAME);
        totals.findings.extend(self.findings(&revision));
        let runs = self.machine.runs();
        let wrong: Vec<&String> =
            runs[before..].iter().filter(|run| run.starts_with('!')).collect();
        totals.wrong_runs += wrong.len();
        totals.findings.extend(wrong.iter().map(|run| format!("  the script saw: {run}")));
        let end = format!("end {revision}");
        match runs[before..].iter().filter(|run| **run == end).count() {
            0 => totals.findings.push("  its script never came to its end".to_owned()),
            1 => {}
            _ => totals.ended_twice += 1,
        }
        if !totals.findings.is_empty() {
            let heading =
                format!("killed at {point:?} (before that: {first:?}), round {}", self.round);
            totals.findings.insert(0, heading);
        }
        (hit, totals)
    }
}

/// Whether a file is what only an unfinished run leaves: a lock of git, a pack that was being
/// received, or a temporary file.
fn is_debris(file: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let in_git = file.components().any(|part| part.as_os_str() == ".git");
    (in_git && name.ends_with(".lock"))
        || name.starts_with("pack_git2_")
        || name.starts_with("tmp_")
        || name.starts_with(".pmpy-tmp")
        || name.starts_with(".pmpy-link")
        || name.starts_with(".currentaction")
        || (name.starts_with('.') && name.ends_with(".new"))
}

/// Kills `victim` at every point, after the worker was killed at each of `firsts`, and judges the totals.
fn enumerate(what: &str, victim: &[&str], firsts: &[Option<Point>], least: usize) {
    enumerate_on(None, what, victim, firsts, least);
}

/// The same on a machine that publishes.
fn enumerate_on(
    layout: Option<Layout>,
    what: &str,
    victim: &[&str],
    firsts: &[Option<Point>],
    least: usize,
) {
    let tasks = firsts.iter().flat_map(|first| CALLS.iter().map(move |call| (first, *call)));
    let queue = Mutex::new(tasks);
    let bad = AtomicUsize::new(0);
    let lane = || {
        let mut setup = CrashSetup::of(layout);
        let mut totals = Totals::default();
        loop {
            let task = queue.lock().unwrap().next();
            let Some((first, call)) = task else { return totals };
            for nth in 1.. {
                let point = Point { call, nth };
                let (hit, mut round) =
                    setup.round(first.as_ref(), &point, victim, Then::AnotherKill);
                if hit && first.is_none() && (victim == TICK || is_followed_by_one_tick(&point)) {
                    round.add(setup.round(None, &point, victim, Then::OneTick).1);
                }
                if !round.findings.is_empty() {
                    bad.fetch_add(1, Ordering::Relaxed);
                    setup = CrashSetup::of(layout);
                }
                totals.add(round);
                if bad.load(Ordering::Relaxed) >= ENOUGH {
                    return totals;
                }
                if !hit {
                    break;
                }
            }
        }
    };
    let mut totals = Totals::default();
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            totals.add(lane.join().unwrap());
        }
    });
    totals.judge(what, least);
}

/// Whether a kill at `point` of a worker is also followed by nothing but one tick: each third of them,
/// and with `PMPY_LONG=1` all.
fn is_followed_by_one_tick(point: &Point) -> bool {
    let call = CALLS.iter().position(|call| *call == point.call).unwrap_or_default();
    (call + point.nth).is_multiple_of(3) || std::env::var_os("PMPY_LONG").is_some()
}

#[test]
fn every_killed_system_call_of_a_tick_is_put_right_by_the_next() {
    enumerate("tick", &TICK, &[None], 5);
}

#[test]
fn every_killed_system_call_of_a_worker_is_put_right_by_the_next_tick() {
    enumerate("worker", &WORKER, &[None], 120);
}

#[test]
fn every_killed_system_call_of_a_recovery_is_put_right_by_the_next_tick() {
    let points = CrashSetup::new().points();
    // While it applies the change, while the script runs, and while it clears up.
    let breaks = [points.len() / 2, points.len() * 3 / 4, points.len().saturating_sub(4)];
    // What makes or removes a file is not called for each revision; these are.
    let always = |point: &&Point| ["write", "fsync"].contains(&point.call);
    let before = |at: usize| points.iter().take(at + 1).rev().find(always).cloned();
    let firsts: Vec<Option<Point>> = breaks.iter().map(|&at| before(at)).collect();
    enumerate("recovery", &WORKER, &firsts, 165);
}

/// So many files are brought to disk by one sync of the file system.
const CROWD: usize = 300;
/// How many points before and behind each such sync are killed.
const AROUND: usize = 8;

#[test]
fn every_kill_around_the_sync_of_many_files_is_put_right_by_the_next_tick() {
    let mut setup = CrashSetup::new();
    setup.crowd = CROWD;
    setup.push();
    setup.machine.tick().ok();
    let points = setup.points();
    let syncs = points.iter().enumerate().filter(|(_, point)| point.call == "syncfs");
    let mut near: Vec<usize> =
        syncs.flat_map(|(at, _)| at.saturating_sub(AROUND)..=at + AROUND).collect();
    near.dedup();
    let mut totals = Totals::default();
    for point in near.into_iter().filter_map(|at| points.get(at)) {
        for then in [Then::AnotherKill, Then::OneTick] {
            totals.add(setup.round(None, point, &WORKER, then).1);
        }
    }
    totals.judge("many files", AROUND);
}

#[test]
fn every_kill_around_git_gc_is_put_right_by_the_next_tick() {
    let mut setup = CrashSetup::new();
    let without = setup.points().len();
    setup.packs = true;
    let points = setup.points();
    assert!(points.len() > without, "{} calls, and {without} without git gc", points.len());
    let mut totals = Totals::default();
    // The last calls of the action itself, and all that come after it.
    for point in &points[without - AROUND..] {
        totals.add(setup.round(None, point, &WORKER, Then::OneTick).1);
    }
    assert!(totals.single_kills >= AROUND, "only {} kills", totals.single_kills);
    totals.judge("git gc", 0);
}

#[test]
fn every_killed_system_call_of_a_publication_of_branches_is_put_right_by_the_next_tick() {
    enumerate_on(Some(Layout::Branches), "branches", &WORKER, &[None], 165);
}

#[test]
fn every_killed_system_call_of_a_publication_of_a_site_is_put_right_by_the_next_tick() {
    enumerate_on(Some(Layout::Checkout), "site", &WORKER, &[None], 115);
}

#[test]
fn an_action_continues_and_records_itself_when_its_tick_is_killed() {
    let patient = "touch \"$AGENT_ROOT/../started\"
        until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.01; done\n";
    let machine = Sandbox::with(NAME, &[("work.sh", patient)]);
    let mut tick = machine.agent_command(&TICK).stdin(Stdio::null()).spawn().unwrap();
    wait_until("the script runs", || machine.path("started").exists());
    tick.kill().unwrap();
    tick.wait().unwrap();
    assert_eq!(machine.state(NAME), "acting");
    assert_eq!(machine.lastaction(NAME), None);

    fs::write(machine.path("go"), "").unwrap();
    wait_until("the action is recorded", || machine.lastaction(NAME).is_some());
    wait_until("the action has cleared up", || !machine.currentaction(NAME).exists());
    assert_eq!(machine.lastaction(NAME), Some(machine.head(NAME)));
}
