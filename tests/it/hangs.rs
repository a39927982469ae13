//! What never answers: a disk below a clone, a process that somebody stopped, a system without threads or
//! `/proc`. Nothing waits for it for ever, its neighbours are served, and what is wrong is told with the
//! remedy.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{Beside, NOTES_ITS_RUNS, Ran, Sandbox, text, wait_until};
use crate::users::{self, give_all};

/// So short that a test does not wait for long.
const BRIEF: &str = "[defaults]\nnetwork_timeout = \"1s\"\n";

/// Runs the agent on a disk that never answers about `file`.
fn on_a_dead_disk(machine: &Sandbox, file: &Path, arguments: &[&str]) -> Ran {
    let (out, err) = (machine.path("dead.out"), machine.path("dead.err"));
    let mut strace = machine.command("strace");
    // As a grandchild: it waits until the end for what it holds, and we for the agent alone.
    strace.args([
        "-D",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "inject=openat:delay_enter=600s",
        "-P",
    ]);
    strace.arg(file).args(machine.agent_line(arguments)).stdin(Stdio::null());
    strace.stdout(fs::File::create(&out).unwrap()).stderr(fs::File::create(&err).unwrap());
    let mut agent = strace.spawn().unwrap();
    let proc = PathBuf::from(format!("/proc/{}", agent.id()));
    let mut tracer = 0;
    wait_until("the agent gives up", || {
        let status = fs::read_to_string(proc.join("status")).unwrap_or_default();
        let field = |name| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        tracer = field("TracerPid:").and_then(|it| it.parse().ok()).unwrap_or(tracer).max(tracer);
        field("State:").is_none_or(|state| state.starts_with('Z'))
    });
    send(tracer, Signal::KILL);
    let code = agent.wait().unwrap().code();
    let read = |path| fs::read_to_string(path).unwrap();
    Ran { line: format!("{strace:?}"), code, stdout: read(out), stderr: read(err) }
}

fn head_of(machine: &Sandbox, name: &str) -> PathBuf {
    machine.clone_of(name).join(".git/HEAD")
}

/// The children of process `pid`, with the letter of their state.
fn children(pid: u32) -> Vec<(u32, char)> {
    let stats = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let number: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(format!("/proc/{number}/stat")).ok()?;
        let mut fields = stat.rsplit_once(") ")?.1.split(' ');
        let state = fields.next()?.chars().next()?;
        let parent: u32 = fields.next()?.parse().ok()?;
        (parent == pid).then_some((number, state))
    });
    stats.collect()
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
}

/// One clone hangs in `ops`, beside `web`, which has news: told, and the neighbour is served.
#[track_caller]
fn one_that_hangs_is_reported_and_the_other_served(machine: &Sandbox) {
    let head = head_of(machine, "ops");
    let before = machine.row("ops")["acted"].clone();
    let revision = machine.push("web", &[("page", "two\n")]);
    let last_tick = find(machine, "last-tick");
    fs::File::options()
        .write(true)
        .open(&last_tick)
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH)
        .unwrap();

    let tick = on_a_dead_disk(machine, &head, &["tick", "--trigger", "cron"]).exits(1);
    assert!(tick.stdout.contains("ops") && tick.stdout.contains("did not end within"), "{tick}");
    assert!(tick.stdout.contains(text(&head)), "the file is named: {tick}");
    assert_eq!(machine.lastaction("web"), Some(revision), "the neighbour is served: {tick}");
    let touched = fs::metadata(&last_tick).unwrap().modified().unwrap();
    assert_ne!(touched, std::time::UNIX_EPOCH, "a tick came");
    let reported: serde_json::Value =
        serde_json::from_slice(&fs::read(find(machine, "status.json")).unwrap()).unwrap();
    let rows = reported["repositories"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "ops").unwrap();
    assert_eq!((&row["state"], &row["acted"]), (&"broken".into(), &before), "{row:#}");

    for arguments in [&["status"][..], &["check", "--offline"], &["explain", "ops"]] {
        let ran = on_a_dead_disk(machine, &head, arguments).exits(1);
        let said = format!("{}{}", ran.stdout, ran.stderr).replace("\n", " ");
        assert!(said.contains("did not end within"), "{ran}");
    }
    let nagios = on_a_dead_disk(machine, &head, &["status", "--nagios"]).exits(2);
    assert!(nagios.stdout.contains("ops"), "{nagios}");
    let hold = on_a_dead_disk(machine, &head, &["hold", "--all", "why"]).exits(1);
    assert!(hold.stdout.contains("web: held") && hold.stderr.contains("did not end"), "{hold}");
    let unhold = on_a_dead_disk(machine, &head, &["unhold", "--all"]).exits(1);
    assert!(unhold.stdout.contains("web: lifted"), "{unhold}");
    on_a_dead_disk(machine, &head, &["history"]).ok();

    // Once the disk answers, all is well, and nothing is left that hung.
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

fn find(machine: &Sandbox, name: &str) -> PathBuf {
    let files = machine.files_below(&machine.root());
    let found = files.iter().find(|path| path.ends_with(name) && path.starts_with(".pmpy"));
    machine.root().join(found.unwrap_or_else(|| panic!("no {name} in {files:?}")))
}

#[test]
fn a_clone_on_a_disk_that_hangs_is_reported_and_its_neighbour_served() {
    let machine = Sandbox::new();
    for name in ["ops", "web"] {
        machine.serve(name, &[("work.sh", NOTES_ITS_RUNS)]);
        machine.clone_to_root(name);
    }
    machine.configure(BRIEF);
    machine.tick().ok();
    one_that_hangs_is_reported_and_the_other_served(&machine);
}

#[test]
fn a_clone_of_another_user_on_a_disk_that_hangs_is_reported_and_its_neighbour_served() {
    let machine = users::machine("true\n");
    machine.serve("web", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("web");
    machine.configure(BRIEF);
    machine.tick().ok();
    one_that_hangs_is_reported_and_the_other_served(&machine);
}

#[test]
fn of_two_clones_of_one_user_the_one_that_hangs_keeps_nothing_from_the_other() {
    let machine = users::machine("true\n");
    machine.serve("web", &[("work.sh", "true\n")]);
    machine.clone_to_root("web");
    for place in [machine.clone_of("web"), machine.server("web")] {
        give_all(&place, 65_534);
    }
    machine.configure(BRIEF);
    machine.tick().ok();
    let revision = machine.push("web", &[("page", "two\n")]);
    give_all(&machine.server("web"), 65_534);
    on_a_dead_disk(&machine, &head_of(&machine, "ops"), &["tick", "--trigger", "cron"]).exits(1);
    assert_eq!(machine.lastaction("web"), Some(revision));
}

#[test]
fn a_helper_that_somebody_stopped_is_ended_and_reported() {
    let machine = users::machine("true\n");
    machine.tick().ok();
    // A server that takes the connection and says nothing keeps the helper at work.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("git://{}/ops.git", silent.local_addr().unwrap());
    machine.configure(&format!("[repo.ops]\nurl = {url:?}\ninsecure = true\n"));
    let tick = Beside::heard(&mut machine.agent_command(&["tick", "--trigger", "cron"]));
    let _line = silent.accept().unwrap();
    let helpers = children(tick.id());
    let [(helper, _)] = helpers.as_slice() else { panic!("one helper was expected: {helpers:?}") };
    send(*helper, Signal::STOP);
    let (code, said) = tick.finish();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the helper that works as nobody"), "{said}");
    assert!(!Path::new(&format!("/proc/{helper}")).exists(), "it was ended");
}

#[test]
fn a_worker_that_somebody_stopped_is_reported_by_each_tick_until_it_continues() {
    let script = "echo $PPID > \"$AGENT_ROOT/../worker\"; kill -STOP $PPID\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    // Its output would be waited for as long as the worker has it open.
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let out = machine.path("tick.out");
    tick.stdin(Stdio::null()).stdout(fs::File::create(&out).unwrap()).stderr(Stdio::null());
    assert_eq!(tick.status().unwrap().code(), Some(1));
    let first = fs::read_to_string(out).unwrap();
    let worker = fs::read_to_string(machine.path("worker")).unwrap().trim().to_owned();
    let remedy = format!("kill -CONT {worker}");
    assert!(first.contains(&remedy), "{first}");
    // It does not end with its tick: it holds the lock, and its script may still run.
    assert!(Path::new(&format!("/proc/{worker}")).exists());
    let second = machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "failing", "{second}");
    let explain = machine.agent(&["explain", "ops"]).ok();
    assert!(explain.stdout.contains(&remedy), "{explain}");

    send(worker.parse().unwrap(), Signal::CONT);
    wait_until("the worker goes on", || machine.lastaction("ops").is_some());
    wait_until("it ends", || !Path::new(&format!("/proc/{worker}")).exists());
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_lock_that_a_stopped_process_holds_is_reported_even_without_a_journal() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    machine.push("ops", &[("page", "two\n")]);
    let lock = machine.private("ops", "lock");
    let mut flock = machine.command("flock");
    let holder = Beside::heard(flock.arg(&lock).args(["-c", "echo held; exec sleep 600"]));
    wait_until("it is locked", || {
        let tried = Ran::of(machine.command("flock").args(["-n", text(&lock), "true"]));
        tried.code == Some(1)
    });
    // Both have it: the one that waits, and the one that it started.
    let sleeper = children(holder.id())[0].0;
    machine.tick().ok();
    for pid in [sleeper, holder.id()] {
        send(pid, Signal::STOP);
    }
    let reported = machine.tick().exits(1);
    assert!(reported.stdout.contains("kill -CONT"), "{reported}");
    send(sleeper, Signal::KILL);
    drop(holder);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_worker_that_hangs_ends_itself_and_says_why() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.configure(BRIEF);
    machine.tick().ok();
    machine.push("ops", &[("page", "two\n")]);
    // Opened by a worker, and by no look.
    let lock = machine.private("ops", "lock");
    let ran = on_a_dead_disk(&machine, &lock, &["tick", "--trigger", "cron"]).exits(1);
    assert!(ran.stdout.contains("did not end within"), "{ran}");
    assert!(ran.stdout.contains(text(&lock)), "the file is named: {ran}");
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
    assert_eq!(machine.row("ops")["attempt"], 1, "it counts: {:#}", machine.row("ops"));
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn ticks_behind_a_look_that_hangs_do_not_pile_up() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    // A process that cannot be ended looks into it.
    let stuck = Beside::heard(machine.command("sleep").arg("600"));
    let pid = stuck.id();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start: u64 = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().parse().unwrap();
    let noted = serde_json::json!({ "ops": { "pid": pid, "start": start } });
    let file = find(&machine, "status.json").with_file_name("hanging.json");
    fs::write(&file, noted.to_string()).unwrap();
    machine.push("ops", &[("page", "two\n")]);
    let runs = machine.runs().len();
    for _ in 0..2 {
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "broken");
    }
    let row = machine.row("ops");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("still hangs in process {pid}")), "{row:#}");
    machine.agent(&["hold", "ops", "why"]).exits(1);
    assert_eq!(machine.runs().len(), runs, "nothing else is begun there");
    drop(stuck);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(fs::read_to_string(&file).unwrap().trim(), "{}");
}

#[test]
fn a_tick_that_is_stopped_while_it_reports_keeps_no_other_from_reporting() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 1\n")]);
    machine.tick().exits(1);
    let lock = find(&machine, "status.json").with_file_name("lock");
    let mut flock = machine.command("flock");
    let holder = Beside::heard(flock.arg(&lock).args(["-c", "echo held; exec sleep 600"]));
    wait_until("it is locked", || {
        Ran::of(machine.command("flock").args(["-n", text(&lock), "true"])).code == Some(1)
    });
    let sleeper = children(holder.id())[0].0;
    machine.push("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let reported = machine.tick().exits(1);
    assert!(reported.stderr.contains("another tick does not end its report"), "{reported}");
    assert_eq!(machine.state("ops"), "current");
    let status = fs::read_to_string(find(&machine, "status.json")).unwrap();
    assert!(status.contains("\"current\""), "{status}");
    send(sleeper, Signal::KILL);
}

#[test]
fn a_caller_that_ignores_its_children_changes_nothing() {
    let script = "echo \"end $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"\n\
                  grep SigIgn /proc/self/status >> \"$AGENT_ROOT/../ignored\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let mut tick = machine.command("env");
    tick.arg("--ignore-signal=CHLD").args(machine.agent_line(&["tick", "--trigger", "cron"]));
    for _ in 0..2 {
        Ran::of(&mut tick).ok();
    }
    assert_eq!(machine.runs().len(), 1);
    assert_eq!(machine.state("ops"), "current");
    let ignored = fs::read_to_string(machine.path("ignored")).unwrap();
    let mask = u64::from_str_radix(ignored.split_whitespace().last().unwrap(), 16).unwrap();
    assert_eq!(mask & 1 << 16, 0, "a script waits for its children as well: {ignored}");
}

#[test]
fn a_deadline_holds_where_the_kernel_gives_no_handles_on_processes() {
    for errno in ["ENOSYS", "EPERM"] {
        let script = "echo $$ > \"$AGENT_ROOT/../script\"\nsleep 600\n";
        let machine = Sandbox::with("ops", &[("work.sh", script)]);
        machine.configure("[repo.ops]\ntimeout = \"1s\"\n");
        let mut strace = machine.command("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e"]);
        strace.arg(format!("inject=pidfd_open:error={errno}"));
        let ran = Ran::of(strace.args(machine.agent_line(&["tick", "--trigger", "cron"]))).exits(1);
        assert!(ran.stdout.contains("timed out") || ran.stdout.contains("longer than"), "{ran}");
        let script = fs::read_to_string(machine.path("script")).unwrap();
        assert!(!Path::new("/proc").join(script.trim()).exists(), "it was ended");
    }
}

#[test]
fn as_the_first_process_listen_reaps_what_loses_its_parent() {
    let script = "( ( sleep 0.2; touch \"$AGENT_ROOT/../orphan\" ) & )\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let mut unshare = machine.command("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    let unshare = Beside::heard(unshare.args(machine.agent_line(&["listen"])));
    wait_until("the orphan has ended", || machine.path("orphan").exists());
    wait_until("the action is recorded", || machine.lastaction("ops").is_some());
    let init = children(unshare.id())[0].0;
    wait_until("nothing that has ended is left", || {
        children(init).iter().all(|(_, state)| *state != 'Z')
    });
    send(init, Signal::TERM);
    let (code, said) = unshare.finish();
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn without_proc_or_dev_null_the_error_names_what_is_missing() {
    let news = |machine: &Sandbox| machine.push("ops", &[("page", "two\n")]);
    for (place, remedy) in
        [("/proc", "mount -t proc proc /proc"), ("/dev", "mknod -m 666 /dev/null")]
    {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
        machine.tick().ok();
        news(&machine);
        let mut unshare = machine.command("unshare");
        let line = format!("mount -t tmpfs none {place} && exec \"$@\"");
        unshare.args(["--mount", "sh", "-c", &line, "sh"]);
        let ran = Ran::of(unshare.args(machine.agent_line(&["tick", "ops"]))).exits(1);
        assert!(ran.stdout.contains(remedy), "{ran}");
        assert!(!ran.stderr.contains("is a bug"), "{ran}");
        machine.agent(&["tick", "ops"]).ok();
        assert_eq!(machine.state("ops"), "current");
    }
}

#[test]
fn without_threads_the_error_names_what_is_missing() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    // Whose processes are those of this test alone.
    const NUMBER: u32 = 59_117;
    give_all(&machine.path("."), NUMBER);
    for arguments in [&["tick"][..], &["status"], &["check", "--offline"], &["hold", "ops", "why"]]
    {
        let mut limited = machine.command("prlimit");
        limited.args(["--nproc=1:1", "setpriv", "--clear-groups"]);
        limited.args([&format!("--reuid={NUMBER}"), &format!("--regid={NUMBER}")]);
        let ran = Ran::of(limited.args(machine.agent_line(arguments))).exits(1);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("cannot start a thread"), "{ran}");
        assert!(!said.contains("is a bug"), "{ran}");
    }
    assert_eq!(machine.runs().len(), 0);
}
