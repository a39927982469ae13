//! Many at once: ticks, workers that died, people with git in their hands, two names for one
//! repository, a machine that was booted in between. One acts at a time, each revision is acted upon
//! once, and whoever is not needed leaves at once.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::disk::Mounted;
use crate::sandbox::{Beside, NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};

const NAME: &str = "ops";
const TICK: [&str; 3] = ["tick", "--trigger", "cron"];

/// The number of the worker whose run goes on in `ops`.
pub fn worker(machine: &Sandbox) -> u64 {
    let journal = fs::read(machine.private(NAME, "journal")).unwrap();
    let journal: Value = serde_json::from_slice(&journal).unwrap();
    journal["worker"]["pid"].as_u64().unwrap()
}

/// Notes its beginning and its end, and when another runs beside it.
const ALONE: &str = "\
world=$AGENT_ROOT/..
exec 9> \"$world/one-at-a-time\"
flock --nonblock 9 || echo '! two at once' >> \"$world/runs\"
echo \"start $AGENT_REVISION $AGENT_RESUMED\" >> \"$world/runs\"
";

/// Then waits for `DIR/go`.
fn waiting() -> String {
    format!(
        "{ALONE}until [ -e \"$world/go\" ] || [ ! -d \"$world\" ]; do sleep 0.02; done\n\
         echo \"end $AGENT_REVISION\" >> \"$world/runs\"\n"
    )
}

fn go(machine: &Sandbox) {
    fs::write(machine.path("go"), "").unwrap();
}

/// A machine whose script runs and waits, and the tick that waits for it.
fn in_the_middle() -> (Sandbox, Beside, String) {
    let machine = Sandbox::with(NAME, &[("work.sh", &waiting())]);
    let revision = machine.head(NAME);
    let tick = Beside::tick(&machine);
    wait_until("the script runs", || machine.runs().len() == 1);
    (machine, tick, revision)
}

fn kill(pid: u64) {
    Ran::of(Command::new("kill").args(["-KILL", &pid.to_string()])).ok();
    wait_until("it is dead", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
    });
}

/// Lets a worker begin, and kills it when it is about to open the file `lock` in `.git`.
fn killed_before(machine: &Sandbox, lock: &str) {
    let lock = machine.clone_of(NAME).join(".git").join(lock);
    let mut strace = machine.command("strace");
    strace
        .args(["-o", "/dev/null", "-P", text(&lock), "-e", "inject=openat:signal=SIGKILL", "--"])
        .args(machine.agent_line(&["worker", NAME, "--trigger", "cron"]));
    let ran = Ran::of(&mut strace);
    assert_eq!(ran.code, None, "it was to be killed: {ran}");
}

fn is_long() -> bool {
    std::env::var_os("PMPY_LONG").is_some()
}

#[test]
fn of_fifty_ticks_at_once_one_acts_and_the_others_leave() {
    let script = format!("{ALONE}sleep 0.05\necho \"end $AGENT_REVISION\" >> \"$world/runs\"\n");
    let machine = Sandbox::with(NAME, &[("work.sh", &script)]);
    let rounds = if is_long() { 200 } else { 20 };
    for round in 0..rounds {
        let revision = machine.push(NAME, &[("page", &format!("{round}\n"))]);
        let before = machine.runs().len();
        let ticks: Vec<_> = (0..50)
            .map(|_| {
                let mut tick = machine.agent_command(&TICK);
                tick.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
                tick.spawn().unwrap()
            })
            .collect();
        for tick in ticks {
            let output = tick.wait_with_output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.code() == Some(0) && said.is_empty(), "round {round}: {said}");
        }
        assert_eq!(machine.lastaction(NAME).as_ref(), Some(&revision), "round {round}");
        let expected = [format!("start {revision} "), format!("end {revision}")];
        assert_eq!(machine.runs()[before..], expected, "round {round}");
    }
    assert_eq!(machine.state(NAME), "current");
    assert_eq!(machine.differences(NAME), "");
}

#[test]
fn a_tick_that_finds_it_busy_leaves_at_once_and_is_not_in_the_way() {
    let (machine, tick, revision) = in_the_middle();
    // The script waits for us: a process that waited for it would not come back. Only a named tick is asked
    // whether the revision is here.
    let named = ["tick", NAME];
    for (arguments, code) in
        [(&TICK[..], 0), (&named, 1), (&["worker", NAME, "--trigger", "cron"], 0)]
    {
        let ran = machine.agent(arguments).exits(code);
        assert_eq!(ran.stderr, "", "{ran}");
    }
    assert_eq!(machine.state(NAME), "acting");
    go(&machine);
    assert_eq!(tick.code(), Some(0));
    assert_eq!(machine.runs(), [format!("start {revision} "), format!("end {revision}")]);
}

#[test]
fn a_person_with_git_and_the_agent_do_not_lose_each_others_work() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS), ("page", "0\n")]);
    machine.configure("[repo.ops]\nupdate = \"merge\"\n");
    machine.tick().ok();
    let clone = machine.clone_of(NAME);
    let git =
        |arguments: &[&str]| Ran::of(machine.command("git").current_dir(&clone).args(arguments));
    // A command that meets the agent's lock is typed again, as people do.
    let insist = |arguments: &[&str]| {
        let mut ran = git(arguments);
        for _ in 0..500 {
            if ran.code == Some(0) {
                return;
            }
            thread::sleep(Duration::from_millis(10));
            ran = git(arguments);
        }
        panic!("git never has its turn: {ran}\n{:#}", machine.row(NAME));
    };
    let mut committed = Vec::new();
    // Two commits a round at most: a person who never stops would fill the clone with loose objects.
    let (turn, turns) = mpsc::sync_channel(2);
    thread::scope(|scope| {
        let person = scope.spawn(|| {
            let turns = turns;
            let mut committed = Vec::new();
            while turns.recv().is_ok() {
                let name = format!("note-{}", committed.len());
                fs::write(clone.join(&name), "mine\n").unwrap();
                insist(&["add", &name]);
                git(&["fetch", "--quiet"]);
                git(&["status"]);
                insist(&["commit", "--quiet", "--message", &name, "--", &name]);
                committed.push(name);
            }
            committed
        });
        let rounds = if is_long() { 200 } else { 12 };
        for round in 1..=rounds {
            for _ in 0..2 {
                let _ = turn.try_send(());
            }
            machine.push(NAME, &[("page", &format!("{round}\n")), ("other/file", "x\n")]);
            let ran = machine.tick();
            // Not 70, and nothing that a later tick does not mend.
            assert!(matches!(ran.code, Some(0 | 1)), "{ran}");
        }
        drop(turn);
        committed = person.join().unwrap();
    });
    let mut last = None;
    let quiet = (0..5).any(|_| {
        last = Some(machine.agent(&["tick", NAME, "--trigger", "cron"]));
        matches!(machine.state(NAME).as_str(), "current" | "ahead")
    });
    assert!(quiet, "{:#}\n{}", machine.row(NAME), last.unwrap());
    assert_eq!(machine.lastaction(NAME), Some(machine.head(NAME)));
    machine.git(&clone, &["merge-base", "--is-ancestor", "origin/main", "HEAD"]);
    assert_eq!(machine.differences(NAME), "");
    machine.git(&clone, &["fsck", "--strict"]);
    assert!(!committed.is_empty());
    for name in committed {
        assert_eq!(machine.git(&clone, &["show", &format!("HEAD:{name}")]), "mine");
    }
    let page = machine.git(&clone, &["show", "HEAD:page"]);
    assert_eq!(page, machine.git(&machine.desk(NAME), &["show", "HEAD:page"]));
}

#[test]
fn a_commit_in_the_middle_of_an_update_is_kept_and_nothing_is_stuck() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.configure("[repo.ops]\nupdate = \"merge\"\n");
    machine.tick().ok();
    let clone = machine.clone_of(NAME);
    machine.push(NAME, &[("page", "two\n")]);
    machine.agent(&["tick", "--dry-run"]);
    // The files are new then, and the branch is not.
    killed_before(&machine, "refs/heads/main.lock");
    assert_eq!(fs::read_to_string(clone.join("page")).unwrap(), "two\n");
    fs::write(clone.join("note"), "mine\n").unwrap();
    machine.git(&clone, &["add", "note"]);
    machine.git(&clone, &["commit", "--quiet", "--message", "mine", "--", "note"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction(NAME), Some(machine.head(NAME)));
    assert_eq!(machine.git(&clone, &["show", "HEAD:note"]), "mine");
    assert_eq!(machine.git(&clone, &["show", "HEAD:page"]), "two");
    assert_eq!(machine.differences(NAME), "");
}

#[test]
fn a_lock_of_a_git_command_that_still_runs_is_left_to_it() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.configure("[repo.ops]\nupdate = \"merge\"\n");
    machine.tick().ok();
    let clone = machine.clone_of(NAME);
    machine.push(NAME, &[("page", "two\n")]);
    machine.agent(&["tick", "--dry-run"]);
    killed_before(&machine, "refs/remotes/origin/main.lock");

    fs::write(clone.join("note"), "mine\n").unwrap();
    machine.git(&clone, &["add", "note"]);
    let editor = "sh -c 'until [ -e ../../go ] || [ ! -e . ]; do sleep 0.02; done; echo mine > $0'";
    let mut commit = machine.command("git");
    commit.current_dir(&clone).env("GIT_EDITOR", editor).args(["commit", "--quiet", "--all"]);
    let commit = Beside::start(&mut commit);
    let lock = clone.join(".git/index.lock");
    wait_until("the editor is open", || lock.exists());
    machine.tick().exits(1);
    assert!(lock.exists(), "it is git's, though no process has it open");
    let row = machine.row(NAME);
    assert!(row["reason"].to_string().contains("another git command runs here"), "{row:#}");
    go(&machine);
    assert_eq!(commit.code(), Some(0));
    machine.tick().ok();
    assert_eq!(machine.lastaction(NAME), Some(machine.head(NAME)));
    assert_eq!(machine.git(&clone, &["show", "HEAD:note"]), "mine");
    assert_eq!(machine.git(&clone, &["show", "HEAD:page"]), "two");
    assert_eq!(machine.differences(NAME), "");
}

#[test]
fn a_lock_file_that_is_removed_while_it_is_held_lets_no_other_in() {
    let (machine, tick, revision) = in_the_middle();
    fs::remove_file(machine.private(NAME, "lock")).unwrap();
    for arguments in [
        &TICK[..],
        &["worker", NAME, "--trigger", "cron"],
        &["worker", NAME, "--trigger", "cron", "--named", "--redo"],
    ] {
        machine.agent(arguments).ok();
    }
    machine.agent(&["tick", NAME]).exits(1);
    assert_eq!(machine.runs().len(), 1);
    let waits = Beside::start(&mut machine.agent_command(&["tick", NAME, "--wait"]));
    go(&machine);
    assert_eq!((tick.code(), waits.code()), (Some(0), Some(0)));
    assert_eq!(machine.runs(), [format!("start {revision} "), format!("end {revision}")]);
    assert_eq!(machine.state(NAME), "current");
}

#[test]
fn two_names_for_one_repository_are_one_repository() {
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    symlink(machine.clone_of(NAME), machine.clone_of("a-link")).unwrap();
    let twin = machine.clone_of("twin");
    fs::create_dir(&twin).unwrap();
    let _twin = Mounted::bind(&machine.clone_of(NAME), &twin);
    // Another root with the same repository in it, as a second agent would have.
    let other = machine.path("other-root");
    fs::create_dir(&other).unwrap();
    symlink(machine.clone_of(NAME), other.join("elsewhere")).unwrap();
    for round in 1..=3 {
        let revision = machine.push(NAME, &[("page", &format!("{round}\n"))]);
        let second = |command: &mut Command| {
            Beside::start(command.args(["--root", text(&other)]).args(TICK))
        };
        let ticks = [
            Beside::tick(&machine),
            second(&mut machine.command(env!("CARGO_BIN_EXE_agent"))),
            Beside::tick(&machine),
        ];
        for tick in ticks {
            assert_eq!(tick.code(), Some(0));
        }
        assert_eq!(machine.runs().len(), 2 * round, "one start and one end each");
        let rows = machine.status()["repositories"].clone();
        assert_eq!(rows.as_array().unwrap().len(), 1, "{rows:#}");
        assert_eq!(rows[0]["acted"]["revision"], revision.as_str());
    }
}

#[test]
fn a_script_whose_worker_was_killed_is_waited_for_and_then_run_again() {
    let (machine, tick, revision) = in_the_middle();
    kill(worker(&machine));
    // The tick says that its worker died, and in the same breath that the script goes on.
    assert_eq!(tick.code(), Some(0));
    for _ in 0..3 {
        machine.tick().ok();
        assert_eq!(machine.state(NAME), "acting");
    }
    assert_eq!(machine.runs(), [format!("start {revision} ")]);
    assert_eq!(machine.lastaction(NAME), None);
    go(&machine);
    wait_until("the script has ended", || machine.runs().len() == 2);
    wait_until("the next tick acts", || {
        machine.tick().ok();
        machine.state(NAME) == "current"
    });
    assert_eq!(machine.lastaction(NAME).as_ref(), Some(&revision));
    let (start, end) = (format!("start {revision} "), format!("end {revision}"));
    assert_eq!(machine.runs(), [start, end.clone(), format!("start {revision} 1"), end]);
    let history = machine.agent(&["history", NAME]).ok().stdout;
    assert!(history.contains("interrupted"), "{history}");
}

#[test]
fn after_a_reboot_no_tick_waits_for_a_process_that_only_has_the_same_number() {
    let (machine, tick, revision) = in_the_middle();
    kill(worker(&machine));
    assert_eq!(tick.code(), Some(0));
    // The script of the other boot lives on under its number, and is nobody that we know.
    fs::remove_file(machine.path("one-at-a-time")).unwrap();
    let boot = machine.path("boot_id");
    fs::write(&boot, "11111111-2222-3333-4444-555555555555\n").unwrap();
    let line = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
    let mut rebooted = machine.command("unshare");
    rebooted.args(["--mount", "sh", "-c", line, text(&boot)]).args(machine.agent_line(&TICK));
    let rebooted = Beside::start(&mut rebooted);
    wait_until("it runs again", || machine.runs().len() == 2);
    assert_eq!(machine.runs()[1], format!("start {revision} 1"), "told of the run cut off");
    go(&machine);
    assert_eq!(rebooted.code(), Some(0));
    wait_until("both have ended", || machine.runs().len() == 4);
    assert!(!machine.runs().iter().any(|run| run.starts_with('!')), "{:?}", machine.runs());
    assert_eq!(machine.lastaction(NAME).as_ref(), Some(&revision));
}

#[test]
fn a_lock_that_others_could_hold_open_can_be_opened_by_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let machine = Sandbox::with(NAME, &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let lock = machine.private(NAME, "lock");
    assert_eq!(mode(lock.parent().unwrap()), 0o700);
    assert_eq!(mode(&lock), 0o600);
    // A pipe or a link under that name is told, and neither waited for nor followed.
    fs::remove_file(&lock).unwrap();
    let victim = machine.path("victim");
    File::create(&victim).unwrap();
    symlink(&victim, &lock).unwrap();
    machine.push(NAME, &[("page", "two\n")]);
    machine.tick().exits(1);
    assert!(machine.row(NAME)["reason"].to_string().contains("lock"), "{:#}", machine.row(NAME));
    fs::remove_file(&lock).unwrap();
    machine.tick().ok();
    assert_eq!(machine.state(NAME), "current");
}
