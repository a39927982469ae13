//! What the repository's scripts are given, how long they may take, and what follows from how they
//! end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode, text, wait_until};

/// A script that writes `who` and exits with `code`.
fn says(who: &str, code: u8) -> String {
    format!("echo {who} >> \"$AGENT_ROOT/../runs\"\nexit {code}\n")
}

/// Writes the environment that the script was started with, not what bash makes of it.
const NOTES_ITS_ENVIRONMENT: &str = "cat /proc/$$/environ > \"$AGENT_ROOT/../environment\"\n";

fn environment(machine: &Sandbox) -> BTreeMap<String, String> {
    let text = fs::read_to_string(machine.path("environment")).unwrap();
    text.split_terminator('\0')
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Whether the process whose number is in DIR/`file` still runs.
fn lives(machine: &Sandbox, file: &str) -> bool {
    let pid = fs::read_to_string(machine.path(file)).unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    stat.is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_ladder_spelled_stacktype_and_one_spelled_stack_are_both_climbed() {
    let machine = Sandbox::new();
    machine.configure("[node]\npart = \"web\"\nstack = \"shop\"\n");
    let places = [
        "common",
        "part/web",
        "part/db",
        "stacktype/shop",
        "stack/shop/part/web",
        "stack/blog",
        "stacktype/shop/part/db",
    ];
    let files: Vec<_> = places
        .iter()
        .map(|place| (format!("bin/work/{place}/work.sh"), says(place, 0)))
        .chain([("work.sh".to_owned(), says("top", 0))])
        .collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine.serve("ops", &files);
    machine.clone_to_root("ops");
    machine.tick().ok();
    assert_eq!(machine.runs(), ["common", "part/web", "stacktype/shop", "stack/shop/part/web"]);
}

#[test]
fn work_sh_at_the_top_runs_when_there_is_no_ladder() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("top", 0))]);
    machine.tick().ok();
    assert_eq!(machine.runs(), ["top"]);
}

#[test]
fn a_repository_without_scripts_is_merged_and_current() {
    let machine = Sandbox::with("ops", &[("page", "one\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}

#[test]
fn the_first_script_that_fails_ends_the_ladder() {
    let machine = Sandbox::new();
    machine.configure("[node]\npart = \"web\"\nstack = \"shop\"\n");
    machine.serve(
        "ops",
        &[
            ("bin/work/common/work.sh", &says("common", 0)),
            ("bin/work/part/web/work.sh", &says("part", 4)),
            ("bin/work/stack/shop/work.sh", &says("stack", 0)),
        ],
    );
    machine.clone_to_root("ops");
    machine.tick().exits(1);
    assert_eq!(machine.runs(), ["common", "part"]);
    assert_eq!(machine.lastaction("ops"), None);
}

#[test]
fn configured_scripts_replace_the_ladder() {
    let machine = Sandbox::with(
        "ops",
        &[("work.sh", &says("ladder", 0)), ("b.sh", &says("b", 0)), ("a.sh", &says("a", 0))],
    );
    machine.configure("[repo.ops]\nscripts = [\"b.sh\", \"a.sh\"]\n");
    machine.tick().ok();
    assert_eq!(machine.runs(), ["b", "a"]);
}

#[test]
fn a_configured_script_that_is_missing_fails_before_any_other_has_run() {
    let machine = Sandbox::with("ops", &[("a.sh", &says("a", 0))]);
    machine.configure("[repo.ops]\nscripts = [\"a.sh\", \"gone.sh\"]\n");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing");
    assert!(row["reason"].to_string().contains("gone.sh"), "{row:#}");
    assert_eq!(machine.runs(), Vec::<String>::new());
}

#[test]
fn a_script_is_given_exactly_the_environment_of_the_contract() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_ENVIRONMENT)]);
    machine.configure("[node]\npart = \"web\"\n");
    let revision = machine.head("ops");
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    tick.env("TZ", "Europe/Zurich").env("SECRET", "canary").env("BASH_ENV", "/etc/passwd");
    Ran::of(&mut tick).ok();

    let passwd = Ran::of(machine.command("sh").args(["-c", "getent passwd $(id -u)"])).ok().stdout;
    let user: Vec<&str> = passwd.trim().split(':').collect();
    let (clone, root) = (machine.clone_of("ops"), machine.root());
    let changed = clone.join(".git/pmpy/changed");
    let host = Ran::of(machine.command("uname").arg("-n")).ok().stdout;
    let expected: BTreeMap<String, String> = [
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", user[5]),
        ("USER", user[0]),
        ("LOGNAME", user[0]),
        ("SHELL", user[6]),
        ("LANG", "C.UTF-8"),
        ("TZ", "Europe/Zurich"),
        ("AGENT_REPO", "ops"),
        ("AGENT_ROOT", text(&root)),
        ("AGENT_BRANCH", "main"),
        ("AGENT_REMOTE", text(&machine.server("ops"))),
        ("AGENT_REVISION", &revision),
        ("AGENT_PREVIOUS", ""),
        ("AGENT_CHANGED", text(&changed)),
        ("AGENT_TRIGGER", "cron"),
        ("AGENT_ATTEMPT", "1"),
        ("AGENT_RESUMED", ""),
        ("AGENT_FAILED", ""),
        ("AGENT_PART", "web"),
        ("AGENT_STACK", ""),
        ("AGENT_HOST", host.trim()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    assert_eq!(environment(&machine), expected);

    let next = machine.push("ops", &[("page", "two\n")]);
    machine.agent(&["tick", "--trigger", "bus"]).ok();
    let found = environment(&machine);
    assert_eq!(found["AGENT_REVISION"], next);
    assert_eq!(found["AGENT_PREVIOUS"], revision);
    assert_eq!(found["AGENT_TRIGGER"], "bus");
    assert!(!found.contains_key("TZ"));
}

#[test]
fn env_wins_over_env_file_and_neither_over_the_agents_own() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_ENVIRONMENT)]);
    let secrets = machine.path("secrets.env");
    fs::write(&secrets, "# secrets\nTOKEN='a b$c'\nSTAGE=test\nAGENT_REPO=evil\n").unwrap();
    set_mode(&secrets, 0o600);
    machine.configure(&format!(
        "[repo.ops]\nenv = {{ STAGE = \"production\", PATH = \"/opt/bin:/usr/bin:/bin\" }}\nenv_file = \"{}\"\n",
        text(&secrets)
    ));
    machine.tick().ok();
    let found = environment(&machine);
    assert_eq!(found["TOKEN"], "a b$c");
    assert_eq!(found["STAGE"], "production");
    assert_eq!(found["PATH"], "/opt/bin:/usr/bin:/bin");
    assert_eq!(found["AGENT_REPO"], "ops");
}

#[test]
fn an_env_file_that_others_can_read_is_refused_and_nothing_runs() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    let secrets = machine.path("secrets.env");
    fs::write(&secrets, "TOKEN=canary\n").unwrap();
    set_mode(&secrets, 0o644);
    machine.configure(&format!("[repo.ops]\nenv_file = \"{}\"\n", text(&secrets)));
    let ran = machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing");
    assert!(row["reason"].to_string().contains("chmod o-r"), "{row:#}");
    assert_eq!(machine.runs(), Vec::<String>::new());
    assert!(!format!("{ran}{row}").contains("canary"));

    set_mode(&secrets, 0o640);
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn what_hinders_the_agent_is_no_attempt_and_does_not_reset_the_count() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 1\n")]);
    machine.tick().exits(1);
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.row("ops")["attempt"], 2);
    let secrets = machine.path("secrets.env");
    machine.configure(&format!("[repo.ops]\nenv_file = \"{}\"\n", text(&secrets)));
    machine.agent(&["tick", "ops"]).exits(1);
    assert!(machine.row("ops")["reason"].to_string().contains("secrets.env"));
    fs::write(&secrets, "").unwrap();
    set_mode(&secrets, 0o600);
    machine.tick().exits(1);
    assert_eq!(machine.row("ops")["attempt"], 3);
}

#[test]
fn agent_changed_lists_every_path_first_and_then_the_difference() {
    let script = "tr '\\0' '|' < \"$AGENT_CHANGED\" >> \"$AGENT_ROOT/../runs\"\n\
                  echo >> \"$AGENT_ROOT/../runs\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", script), ("a/b", "1"), ("gone", "1")]);
    machine.tick().ok();
    machine.push_with("ops", |desk| {
        fs::write(desk.join("a/b"), "2").unwrap();
        fs::write(desk.join("new file"), "2").unwrap();
        fs::remove_file(desk.join("gone")).unwrap();
    });
    machine.tick().ok();
    machine.agent(&["redo", "ops"]).ok();
    let mut lines = machine.runs().into_iter().map(|line| {
        let mut paths: Vec<_> = line.split_terminator('|').map(str::to_owned).collect();
        paths.sort();
        paths
    });
    assert_eq!(lines.next().unwrap(), ["a/b", "gone", "work.sh"]);
    assert_eq!(lines.next().unwrap(), ["a/b", "gone", "new file"]);
    assert_eq!(lines.next().unwrap(), Vec::<String>::new(), "a redo changes nothing");
}

#[test]
fn a_script_starts_in_the_repository_alone_and_with_the_usual_surroundings() {
    // Each line by a program of its own: a redirection of bash itself would be one of its files.
    let script = "\
        to=\"$AGENT_ROOT/../around\"\n\
        pwd > \"$to\"; umask >> \"$to\"\n\
        for fd in 0 1 2; do readlink /proc/$$/fd/$fd >> \"$to\"; done\n\
        cut -d' ' -f1,5,6 /proc/$$/stat >> \"$to\"\n\
        yes | head -n 1 > /dev/null; echo ${PIPESTATUS[0]} >> \"$to\"\n\
        for fd in /proc/$$/fd/*; do readlink $fd >> \"$to\"; done\ntrue\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let agent = machine.agent_line(&["tick"]).join(" ");
    Ran::of(machine.command("sh").args(["-c", &format!("umask 077; exec {agent}")])).ok();
    let around = fs::read_to_string(machine.path("around")).unwrap();
    let lines: Vec<&str> = around.lines().collect();
    assert_eq!(lines[0], text(&machine.clone_of("ops")));
    assert_eq!(lines[1], "0022", "the umask");
    assert_eq!(lines[2], "/dev/null");
    assert!(Path::new(lines[3]).starts_with(machine.root().join(".pmpy/log/ops")), "{}", lines[3]);
    assert_eq!(lines[3], lines[4], "stdout and stderr are one file");
    let [pid, group, session] = lines[5].split(' ').collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!((pid, pid), (group, session), "a group and a session of its own");
    assert_eq!(lines[6], "141", "a broken pipe ends a program as it always does");
    let below = text(&machine.root()).to_owned();
    let left_open: Vec<_> = lines[7..].iter().filter(|path| path.starts_with(&below)).collect();
    let script = machine.clone_of("ops").join("work.sh");
    assert_eq!(left_open, [&lines[3], &lines[3], &text(&script)], "the log twice and the script");
}

#[test]
fn output_goes_to_a_log_with_a_beginning_and_an_end_that_others_cannot_read() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo out\necho err >&2\nprintf half\n")]);
    let agent = machine.agent_line(&["tick"]).join(" ");
    Ran::of(machine.command("sh").args(["-c", &format!("umask 077; exec {agent}")])).ok();
    let log = machine.agent(&["log", "ops"]).ok().stdout;
    let lines: Vec<&str> = log.lines().collect();
    let head = machine.head("ops");
    assert!(lines[0].starts_with("Start ") && lines[0].contains(&head), "{log}");
    assert_eq!(lines[1..4], ["out", "err", "half"]);
    assert!(lines[4].starts_with("Finish ") && lines[4].contains("succeeded"), "{log}");
    assert_eq!(lines.len(), 5);

    let dir = machine.root().join(".pmpy/log/ops");
    let files = machine.files_below(&dir);
    assert_eq!(files.len(), 1);
    assert_eq!(mode(&dir.join(&files[0])), 0o640);
    assert_eq!(mode(&dir), 0o750);
    let last_tick = machine.root().join(".pmpy/last-tick");
    assert_eq!(mode(&last_tick), 0o644, "monitoring may read this");
}

#[test]
fn a_script_ended_by_a_signal_is_a_failure_that_names_it() {
    let machine = Sandbox::with("ops", &[("work.sh", "kill -KILL $$\n")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing");
    assert!(row["reason"].to_string().contains("killed by signal 9"), "{row:#}");
}

#[test]
fn an_interpreter_that_is_missing_is_a_failure_that_names_it() {
    let machine = Sandbox::with("ops", &[("work.sh", "#!/opt/none/python9 -u\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    let log = machine.agent(&["log", "ops"]).ok().stdout;
    assert!(log.contains("/opt/none/python9"), "{log}");
    let row = machine.row("ops");
    assert!(row["reason"].to_string().contains("exited 127"), "as in a shell: {row:#}");
    assert!(machine.row("ops")["next_try"].is_string());
}

#[test]
fn at_the_timeout_the_script_and_all_its_children_are_ended() {
    let script = "\
        (trap '' TERM; exec sleep 300) & echo $! > \"$AGENT_ROOT/../deaf\"\n\
        trap 'echo caught >> \"$AGENT_ROOT/../runs\"; exit 0' TERM\n\
        sleep 300 & wait\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.configure("[repo.ops]\ntimeout = \"1s\"\n");
    machine.tick().exits(1);
    assert_eq!(machine.runs(), ["caught"], "TERM comes before KILL");
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing");
    assert!(row["reason"].to_string().contains("timed out"), "{row:#}");
    wait_until("the grandchild is gone", || !lives(&machine, "deaf"));
}

#[test]
fn a_script_deaf_to_term_is_killed_ten_seconds_later() {
    let script = "echo $$ > \"$AGENT_ROOT/../deaf\"\ntrap '' TERM\nsleep 300\nsleep 300\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.configure("[repo.ops]\ntimeout = \"1s\"\n");
    let start = Instant::now();
    machine.tick().exits(1);
    assert!(start.elapsed() >= Duration::from_secs(11), "{:?}", start.elapsed());
    assert!(!lives(&machine, "deaf"));
    assert_eq!(machine.state("ops"), "failing");
}

#[test]
fn a_daemon_that_is_left_behind_delays_no_tick_and_is_left_alone() {
    let script = "sleep 60 & echo $! > \"$AGENT_ROOT/../daemon\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.tick().ok();
    assert!(lives(&machine, "daemon"));
    assert_eq!(machine.state("ops"), "current");
    machine.push("ops", &[("work.sh", "true\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current", "it holds no lock either");
    assert!(lives(&machine, "daemon"));
    let pid = fs::read_to_string(machine.path("daemon")).unwrap();
    Ran::of(machine.command("kill").arg(pid.trim())).ok();
}

#[test]
fn a_failure_waits_a_minute_and_is_then_tried_again() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("run", 1))]);
    machine.tick().exits(1);
    let next: DateTime<Utc> = machine.row("ops")["next_try"].as_str().unwrap().parse().unwrap();
    let away = (next - DateTime::<Utc>::from(SystemTime::now())).num_seconds();
    assert!((30..=72).contains(&away), "the next try is {away} s away");
    machine.tick().exits(1);
    assert_eq!(machine.runs().len(), 1, "its time has not come");

    machine.wait_is_over("ops");
    machine.tick().exits(1);
    assert_eq!(machine.runs().len(), 2);
    assert_eq!(machine.row("ops")["attempt"], 2);
    let next: DateTime<Utc> = machine.row("ops")["next_try"].as_str().unwrap().parse().unwrap();
    let away = (next - DateTime::<Utc>::from(SystemTime::now())).num_seconds();
    assert!((80..=144).contains(&away), "the next try is {away} s away");
}

#[test]
fn a_new_revision_or_a_person_does_not_wait() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("bad", 1))]);
    machine.tick().exits(1);
    machine.agent(&["tick", "ops"]).exits(1);
    assert_eq!(machine.runs(), ["bad", "bad"]);
    assert_eq!(machine.row("ops")["attempt"], 2);
    machine.push("ops", &[("work.sh", &says("good", 0))]);
    machine.tick().ok();
    assert_eq!(machine.runs(), ["bad", "bad", "good"]);
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.row("ops")["attempt"], 0);
}

#[test]
fn a_redo_that_fails_is_tried_again_like_any_other() {
    let script = "echo run >> \"$AGENT_ROOT/../runs\"\n[ ! -e \"$AGENT_ROOT/../bad\" ]\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    machine.tick().ok();
    fs::write(machine.path("bad"), "").unwrap();
    machine.agent(&["redo", "ops"]).exits(1);
    assert_eq!(machine.state("ops"), "failing");
    fs::remove_file(machine.path("bad")).unwrap();
    machine.tick().exits(1);
    machine.wait_is_over("ops");
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 3);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn always_acts_at_each_tick() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("run", 0))]);
    machine.configure("[repo.ops]\nwhen = \"always\"\n");
    for _ in 0..3 {
        machine.tick().ok();
    }
    assert_eq!(machine.runs().len(), 3);
    let history = machine.agent(&["history", "ops"]).ok().stdout;
    assert_eq!(history.lines().count(), 1, "folded into one line:\n{history}");
    assert!(history.contains("×3"), "{history}");
}

#[test]
fn an_hour_acts_again_after_an_hour_without_news() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("run", 0))]);
    machine.configure("[repo.ops]\nwhen = \"1h\"\n");
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 1);
    let record = machine.clone_of("ops").join(".temp/nodeinfo/lastaction.txt");
    let hour = Duration::from_secs(3600);
    File::options()
        .write(true)
        .open(record)
        .unwrap()
        .set_modified(SystemTime::now() - hour)
        .unwrap();
    machine.tick().ok();
    machine.tick().ok();
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn paths_that_do_not_matter_are_merged_without_an_action() {
    let machine = Sandbox::with("ops", &[("work.sh", &says("run", 0)), ("web/page", "1")]);
    machine.configure("[repo.ops]\npaths = [\"web/**\", \"!**/*.md\"]\n");
    machine.tick().ok();
    let acted = machine.head("ops");
    for (path, runs) in [("docs", 1), ("web/notes.md", 1), ("web/page", 2)] {
        let revision = machine.push("ops", &[(path, "new")]);
        machine.tick().ok();
        assert_eq!(machine.runs().len(), runs, "{path}");
        assert_eq!(machine.head("ops"), revision, "merged all the same");
        assert!(fs::read_to_string(machine.clone_of("ops").join(path)).unwrap() == "new");
        if runs == 1 {
            let row = machine.row("ops");
            assert_eq!(row["state"], "current");
            let reason = format!("nothing relevant since {}", &acted[..7]);
            assert_eq!(row["reason"], reason.as_str());
            machine.tick().ok();
        }
    }
    assert_eq!(machine.runs().len(), 2);
}

#[test]
fn a_script_that_moves_head_itself_leaves_the_record_at_what_was_applied() {
    let script = "export GIT_CONFIG_NOSYSTEM=1\n\
                  git -c user.name=s -c user.email=s commit --quiet --allow-empty -m by-script\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let revision = machine.head("ops");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn a_script_that_removes_its_records_directory_is_recorded_all_the_same() {
    let machine = Sandbox::with("ops", &[("work.sh", "rm -rf .temp\n")]);
    machine.tick();
    machine.tick();
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_repository_without_a_script_for_this_machine_says_what_was_looked_for() {
    let words = "no script for this machine: looked for bin/work/common/work.sh, \
                 bin/work/part/web/work.sh and work.sh";
    let machine = Sandbox::new();
    machine.serve("ops", &[("bin/work/part/db/work.sh", "exit 1\n")]);
    let init =
        machine.agent(&["init", text(&machine.server("ops")), "--part", "web", "--schedule=none"]);
    assert!(init.ok().stdout.contains(words));
    machine.push("ops", &[("page", "two")]);
    let ran = machine.agent(&["tick", "-v"]).ok();
    assert!(ran.stdout.contains(words), "{ran}");
    for command in [&["tick", "ops"][..], &["status"], &["explain", "ops"]] {
        let ran = machine.agent(command).ok();
        assert!(ran.stdout.contains(words), "{command:?}: {ran}");
    }
    let history = machine.agent(&["history", "ops"]).ok().stdout;
    assert_eq!(history.matches("nothing to run").count(), 2, "{history}");
    assert_eq!(machine.row("ops")["state"], "current");
    machine.push("ops", &[("work.sh", "true\n")]);
    assert!(!machine.agent(&["tick", "-v"]).ok().stdout.contains("no script"));
    assert!(machine.row("ops")["reason"].is_null(), "{:#}", machine.row("ops"));
}
