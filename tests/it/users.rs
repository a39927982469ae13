//! Root's agent and the clones of other users: everything there is done as their owner.

use std::fs;
use std::os::unix::fs::lchown;
use std::path::{Path, PathBuf};

#[cfg(feature = "servers")]
use crate::sandbox::wait_until;
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, owner, set_mode, text, write_program};
#[cfg(feature = "servers")]
use crate::servers::Running;

mod log_directories;
mod name_service;
pub mod open_files;
mod user_accounts;

/// Who has no rights on any Debian.
const NOBODY: u32 = 65_534;
/// Another one.
const DAEMON: u32 = 1;

/// Says as whom it runs.
const TELLS_WHO: &str = "\
id -u; id -gn; id -G; echo \"$HOME $USER $LOGNAME\"; umask
grep -E '^(Uid|NoNewPrivs)' /proc/self/status
echo \"secret $SECRET\"
echo done > made-by-work
echo \"end $AGENT_REVISION\" >> .temp/runs
";

/// A machine whose clone `ops`, and what it is pulled from, belong to nobody.
pub fn machine(script: &str) -> Sandbox {
    assert_eq!(rustix::process::geteuid().as_raw(), 0, "only root can become somebody else");
    let machine = Sandbox::with("ops", &[("work.sh", script), (".gitignore", "made-by-work\n")]);
    for dir in ["", "root"] {
        set_mode(&machine.path(dir), 0o755);
    }
    // The person at the desk and we look into them as well.
    fs::write(machine.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
    give(&machine, "ops", NOBODY);
    machine
}

pub(super) fn give(machine: &Sandbox, name: &str, user: u32) {
    for place in [machine.clone_of(name), machine.server(name)] {
        give_all(&place, user);
    }
}

pub fn give_all(place: &Path, user: u32) {
    if place.is_dir() && !place.is_symlink() {
        for entry in fs::read_dir(place).unwrap() {
            give_all(&entry.unwrap().path(), user);
        }
    }
    lchown(place, Some(user), Some(user)).unwrap();
}

/// Pushes as the server's owner would have received it.
pub fn push(machine: &Sandbox, files: &[(&str, &str)]) -> String {
    let revision = machine.push("ops", files);
    give_all(&machine.server("ops"), NOBODY);
    revision
}

fn files(machine: &Sandbox) -> Vec<PathBuf> {
    let clone = machine.clone_of("ops");
    machine.files_below(&clone).iter().map(|file| clone.join(file)).collect()
}

/// Nothing in the clone belongs to anybody but its owner.
fn assert_owned(machine: &Sandbox) {
    for file in files(machine) {
        assert_eq!(owner(&file), NOBODY, "{}", file.display());
    }
}

#[test]
fn a_clone_of_another_user_is_worked_on_as_that_user() {
    let machine = machine(TELLS_WHO);
    let revision = push(&machine, &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.state("ops"), "current");
    assert_owned(&machine);

    let log = machine.agent(&["log", "ops"]).ok().stdout;
    for said in
        ["65534\nnogroup\n65534\n", " nobody nobody\n0022\n", "Uid:\t65534\t65534\t65534\t65534"]
    {
        assert!(log.contains(said), "{said}\n{log}");
    }
    assert!(log.contains("NoNewPrivs:\t0"), "scripts may use sudo: {log}");
    assert!(machine.agent(&["explain", "ops"]).ok().stdout.contains("is current"));
    assert!(machine.agent(&["history", "ops"]).ok().stdout.contains("cron"));
    assert!(machine.agent(&["check", "--offline"]).stdout.contains("runs as nobody"));
}

#[test]
fn an_idle_tick_starts_one_helper_for_each_user_however_many_clones_there_are() {
    let machine = machine(TELLS_WHO);
    for (name, user) in [("web", NOBODY), ("dns", NOBODY), ("log", DAEMON)] {
        machine.serve(name, &[("work.sh", TELLS_WHO), (".gitignore", "made-by-work\n")]);
        machine.clone_to_root(name);
        give(&machine, name, user);
    }
    machine.tick().ok();
    let trace = machine.path("trace");
    let mut strace = machine.command("strace");
    strace.args(["-f", "-s", "999", "-e", "trace=execve", "-o", text(&trace)]);
    Ran::of(strace.args(machine.agent_line(&["tick", "--trigger", "cron"]))).ok();
    for name in ["ops", "web", "dns", "log"] {
        assert_eq!(machine.state(name), "current", "{:#}", machine.row(name));
    }
    let trace = fs::read_to_string(trace).unwrap();
    // A static program may ask getent(1) about users.
    let is_ours = |line: &&str| line.contains(" execve(") && !line.contains("/getent\"");
    let started: Vec<&str> = trace.lines().filter(is_ours).collect();
    let helpers_of = |user: &str| {
        let mark = format!("\"helper\", \"--user\", \"{user}\"");
        started.iter().filter(|line| line.contains(&mark)).count()
    };
    assert_eq!((helpers_of("nobody"), helpers_of("daemon")), (1, 1), "{started:#?}");
    assert_eq!(started.len(), 3, "the tick itself and its helpers: {started:#?}");
}

#[test]
fn what_a_person_asks_for_reaches_the_clone_of_another_user() {
    let machine = machine(TELLS_WHO);
    let first = machine.head("ops");
    machine.tick().ok();
    let second = push(&machine, &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(second));

    machine.agent(&["rollback", "ops"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(first));
    assert_eq!(machine.state("ops"), "pinned");
    machine.agent(&["hold", "ops", "because"]).ok();
    assert_eq!(machine.state("ops"), "held");
    machine.agent(&["redo", "ops"]).exits(1);
    machine.agent(&["unhold", "ops"]).ok();
    machine.agent(&["redo", "ops"]).ok();
    assert_owned(&machine);
}

#[test]
fn a_hold_in_the_clone_of_another_user_is_that_of_the_person() {
    let machine = machine(TELLS_WHO);
    machine.tick().ok();
    machine.agent_as("ann", &["hold", "ops", "restore"]).ok();
    let row = machine.row("ops");
    assert_eq!(row["holds"][0]["person"]["sudo_user"], "ann", "{row:#}");
    let said = machine.agent_as("bob", &["unhold", "ops"]).ok().stdout;
    assert!(said.contains("agent unhold ops 1"), "{said}");
    assert_eq!(machine.state("ops"), "held");
    machine.agent_as("ann", &["unhold", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
    let said = machine.agent(&["history", "ops"]).ok().stdout;
    assert!(said.contains("by ann"), "{said}");
    assert_owned(&machine);
}

#[test]
fn the_clone_of_another_user_is_purged_as_that_user() {
    let machine = machine(TELLS_WHO);
    machine.tick().ok();
    let kept = machine.path("kept-file");
    fs::write(&kept, "").unwrap();
    std::os::unix::fs::symlink(&kept, machine.clone_of("ops").join("link")).unwrap();
    machine.agent(&["forget", "ops", "--purge", "--yes"]).ok();
    assert!(!machine.clone_of("ops").exists() && kept.exists());
    assert!(!machine.root().join(".pmpy/log/ops").exists());
}

#[test]
fn a_secret_that_only_root_may_read_reaches_only_the_script() {
    let machine = machine(TELLS_WHO);
    let file = machine.path("secrets.env");
    fs::write(&file, "SECRET=canary\n").unwrap();
    set_mode(&file, 0o600);
    let remote = machine.git(&machine.clone_of("ops"), &["remote", "get-url", "origin"]);
    machine.configure(&format!(
        "[repo.ops]\nurl = \"{}\"\nenv_file = \"{}\"\n[repo.other]\nurl = \"/none\"\nenv = {{ KEY = \"others\" }}\n",
        remote.trim(),
        text(&file)
    ));
    machine.tick();
    assert!(machine.agent(&["log", "ops"]).ok().stdout.contains("secret canary"));
    for file in files(&machine) {
        let content = fs::read(&file).unwrap();
        let found = content.windows(6).any(|word| word == b"canary");
        assert!(!found, "{}", file.display());
    }
}

#[test]
fn a_tick_of_root_does_the_clones_of_several_users_and_its_own() {
    let machine = machine(NOTES_ITS_RUNS);
    let runs = machine.path("runs");
    fs::write(&runs, "").unwrap();
    set_mode(&runs, 0o666);
    for name in ["mine", "other"] {
        machine.serve(name, &[("work.sh", "id -u > .temp/who\n")]);
        machine.clone_to_root(name);
    }
    give(&machine, "other", DAEMON);
    machine.tick().ok();
    let who = |name: &str| fs::read_to_string(machine.clone_of(name).join(".temp/who")).unwrap();
    assert_eq!((who("mine").trim(), who("other").trim()), ("0", "1"));
    assert_eq!(machine.runs().len(), 2, "and nobody's as well");
    for name in ["mine", "ops", "other"] {
        assert_eq!(machine.state(name), "current", "{name}");
    }
}

#[test]
fn a_clone_whose_owner_does_not_exist_is_broken_and_never_roots() {
    let machine = machine(TELLS_WHO);
    give(&machine, "ops", 54_321);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken");
    assert!(row["reason"].as_str().unwrap().contains("54321"), "{row:#}");
    assert!(!machine.clone_of("ops").join("made-by-work").exists());
}

#[test]
fn a_configured_user_who_is_missing_breaks_the_repository_and_no_other() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.serve("other", &[("work.sh", "true\n")]);
    machine.clone_to_root("other");
    machine.configure("[repo.ops]\nuser = \"nobody-of-that-name\"\n");
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken");
    assert!(row["reason"].as_str().unwrap().contains("nobody-of-that-name"), "{row:#}");
    assert!(machine.runs().is_empty());
    assert_eq!(machine.state("other"), "current");
}

#[test]
fn a_clone_that_its_owner_cannot_reach_is_broken_and_says_so() {
    let machine = machine(TELLS_WHO);
    set_mode(&machine.path("root"), 0o700);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(row["state"], "broken", "{row:#}");
    let reason = row["reason"].as_str().unwrap().to_lowercase();
    assert!(reason.contains("permission denied"), "{row:#}");
    let said = machine.agent(&["check", "--offline"]).exits(1).stdout.to_lowercase();
    assert!(said.contains("permission denied"), "{said}");
}

/// The machine publishes instead: nobody's clone `ops` at a target of nobody's, with `keys`.
fn publishes(machine: &Sandbox, keys: &str) -> PathBuf {
    let sites = machine.path("sites");
    fs::create_dir(&sites).unwrap();
    lchown(&sites, Some(NOBODY), Some(NOBODY)).unwrap();
    configure(machine, keys);
    sites.join("ops")
}

/// It goes on publishing there, with other `keys`.
fn configure(machine: &Sandbox, keys: &str) {
    let target = machine.path("sites/ops");
    let settings = format!("mode = \"checkout\"\ntarget = \"{}\"\n{keys}", text(&target));
    machine.configure(&format!("[repo.ops]\n{settings}\n"));
}

/// A program of root's that notes who it is and what it was told.
fn reported(machine: &Sandbox, more: &str) -> PathBuf {
    let program = machine.path("told");
    let text = format!(
        "#!/bin/sh\necho \"$(id -u) $PWD $USER $AGENT_REPO $AGENT_REF $AGENT_REVISION \
         $AGENT_TARGET\" | tee -a \"$0.notes\"\n\
         env | grep -E '^(AGENT_|STAGE|SECRET)' | sort > \"$0.env\"\n{more}\n"
    );
    fs::write(machine.path("told.env"), "").unwrap();
    set_mode(&machine.path("told.env"), 0o666);
    write_program(&program, text);
    fs::write(machine.path("told.notes"), "").unwrap();
    set_mode(&machine.path("told.notes"), 0o666);
    program
}

fn notes(machine: &Sandbox) -> Vec<String> {
    let notes = fs::read_to_string(machine.path("told.notes")).unwrap();
    notes.lines().map(str::to_owned).collect()
}

#[test]
fn what_follows_a_publication_runs_as_root_where_root_says_so_and_the_rest_as_the_owner() {
    let machine = machine("true");
    let program = reported(&machine, "");
    let keys = format!("after = [\"{}\"]\nafter_user = \"root\"", text(&program));
    let target = publishes(&machine, &keys);
    machine.tick().ok();
    let revision = machine.head("ops");
    let target_text = text(&target).to_owned();
    assert_eq!(notes(&machine), [format!("0 / root ops refs/heads/main {revision} {target_text}")]);
    assert_eq!(machine.state("ops"), "current");
    let log = machine.agent(&["log", "ops"]).ok().stdout;
    assert!(log.contains("refs/heads/main"), "its output is in the log: {log}");
    for place in [target.clone(), fs::canonicalize(&target).unwrap()] {
        assert_eq!(owner(&place), NOBODY, "{}", place.display());
    }
    assert_owned(&machine);
}

#[test]
fn health_is_checked_as_the_owner_and_the_way_back_tells_the_program_of_root() {
    let machine = machine("true");
    let program = reported(&machine, "");
    let check = machine.path("is-well");
    let text_of_check = format!(
        "#!/bin/sh\necho \"$(id -u) $AGENT_TRIGGER\" >> {:?}\n[ ! -e bad ]\n",
        text(&machine.path("checked"))
    );
    write_program(&check, text_of_check);
    fs::write(machine.path("checked"), "").unwrap();
    set_mode(&machine.path("checked"), 0o666);
    let keys = format!(
        "after = [{:?}]\nafter_user = \"root\"\nhealth = [{:?}]\nhealth_within = \"1s\"\n\
         on_failure = \"rollback\"",
        text(&program),
        text(&check)
    );
    publishes(&machine, &keys);
    machine.tick().ok();
    let good = machine.lastaction("ops").unwrap();
    let bad = push(&machine, &[("bad", "")]);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert_eq!(
        (&row["state"], &row["bad"]),
        (&"rolled-back".into(), &bad.clone().into()),
        "{row:#}"
    );
    assert_eq!(machine.lastaction("ops"), Some(good));
    let checked = fs::read_to_string(machine.path("checked")).unwrap();
    assert!(checked.lines().all(|line| line.starts_with(&format!("{NOBODY} "))), "{checked}");
    assert!(checked.ends_with(&format!("{NOBODY} rollback\n")), "{checked}");
    let told = notes(&machine);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told.iter().all(|note| note.starts_with("0 / root ops ")), "{told:?}");
    let env = fs::read_to_string(machine.path("told.env")).unwrap();
    assert!(env.contains(&format!("AGENT_FAILED={bad}\n")), "{env}");
    assert!(env.contains("AGENT_TRIGGER=rollback\n"), "{env}");
    assert_owned(&machine);
}

#[test]
fn what_follows_a_publication_runs_as_another_user_than_either() {
    let machine = machine("true");
    let program = reported(&machine, "");
    let keys = format!("after = [\"{}\"]\nafter_user = \"daemon\"", text(&program));
    publishes(&machine, &keys);
    machine.tick().ok();
    let [note] = notes(&machine).try_into().unwrap();
    assert!(note.starts_with(&format!("{DAEMON} / daemon ops ")), "{note}");
}

#[cfg(feature = "servers")]
#[test]
fn a_connection_to_root_that_asks_nothing_delays_nothing() {
    let machine = machine("true");
    let program = reported(&machine, "");
    publishes(&machine, &format!("after = [\"{}\"]\nafter_user = \"root\"", text(&program)));
    // Takes more lines to this machine's ticks of root than there are, and says nothing.
    let script = "import os, re, socket, sys\n\
        os.setgroups([]); os.setgid(65534); os.setuid(65534)\n\
        held = []\n\
        print('ready', flush=True)\n\
        while True:\n\
        \x20   for name in set(re.findall(r'@(pmpy-requests-\\S+)', open('/proc/net/unix').read())):\n\
        \x20       try: of = open('/proc/%s/cmdline' % name.split('-')[2]).read()\n\
        \x20       except OSError: continue\n\
        \x20       line = socket.socket(socket.AF_UNIX)\n\
        \x20       line.setblocking(False)\n\
        \x20       if len(held) < 200 and sys.argv[1] in of and line.connect_ex('\\0' + name) == 0:\n\
        \x20           held.append(line); print(len(held), flush=True)\n";
    let log = machine.path("held");
    let root = machine.root();
    let arguments = ["-c", script, text(&root)];
    let knocks = Running::start(&machine, "/usr/bin/python3", &arguments, &log);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    wait_until("somebody is about to knock", || said().starts_with("ready"));
    machine.tick().ok();
    drop(knocks);
    assert_ne!(said(), "ready\n", "nobody knocked");
    assert_eq!(notes(&machine).len(), 1);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn what_follows_a_publication_as_another_user_gets_what_the_owner_would_get() {
    let machine = machine("true");
    let program = reported(&machine, "[ -e \"$0.fine\" ] || exit 3");
    let secrets = machine.path("secrets.env");
    fs::write(&secrets, "SECRET=canary\n").unwrap();
    set_mode(&secrets, 0o600);
    let keys = format!(
        "after = [\"{}\"]\nafter_user = \"root\"\nenv = {{ STAGE = \"live\" }}\nenv_file = \"{}\"",
        text(&program),
        text(&secrets)
    );
    let target = publishes(&machine, &keys);
    let environment = || fs::read_to_string(machine.path("told.env")).unwrap();
    let expected = |revision: &str, previous: &str, trigger: &str, attempt: u32| {
        let node = rustix::system::uname();
        format!(
            "AGENT_ATTEMPT={attempt}\nAGENT_BRANCH=main\nAGENT_FAILED=\nAGENT_HOST={}\nAGENT_PART=\n\
             AGENT_PREVIOUS={previous}\nAGENT_REF=refs/heads/main\nAGENT_REMOTE={}\nAGENT_REPO=ops\n\
             AGENT_RESUMED=\nAGENT_REVISION={revision}\nAGENT_ROOT={}\nAGENT_STACK=\n\
             AGENT_TARGET={}\nAGENT_TRIGGER={trigger}\nSECRET=canary\nSTAGE=live\n",
            node.nodename().to_str().unwrap(),
            text(&machine.server("ops")),
            text(&machine.root()),
            text(&target),
        )
    };
    let first = machine.head("ops");
    machine.tick();
    assert_eq!(environment(), expected(&first, "", "cron", 1));
    fs::write(machine.path("told.fine"), "").unwrap();
    machine.agent(&["tick", "ops", "--trigger", "timer"]).ok();
    assert_eq!(environment(), expected(&first, "", "timer", 2));
    let second = push(&machine, &[("page", "two\n")]);
    machine.tick().ok();
    assert_eq!(environment(), expected(&second, &first, "cron", 1));

    // A file that its owner writes would say which libraries root's program loads.
    lchown(&secrets, Some(NOBODY), None).unwrap();
    push(&machine, &[("page", "three\n")]);
    machine.tick();
    assert_eq!(environment(), expected(&second, &first, "cron", 1), "it ran nonetheless");
    let row = machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("others than root can write"), "{row:#}");
}

#[test]
fn what_fails_as_root_after_a_publication_is_a_failed_action_and_tried_again() {
    let machine = machine("true");
    let program = reported(&machine, "[ -e \"$0.fine\" ] || exit 3");
    let keys = format!("after = [\"{}\"]\nafter_user = \"root\"", text(&program));
    publishes(&machine, &keys);
    machine.tick();
    assert_eq!(machine.state("ops"), "failing", "{:#}", machine.row("ops"));
    assert_eq!(machine.lastaction("ops"), None);
    fs::write(machine.path("told.fine"), "").unwrap();
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(notes(&machine).len(), 2);
}

#[test]
fn a_target_that_the_user_cannot_reach_is_found_by_check() {
    let machine = machine("true");
    let target = publishes(&machine, "");
    let check = || machine.agent(&["check", "--offline"]).stdout;
    assert!(check().contains("publishes to"), "{}", check());
    let sites = target.parent().unwrap();
    lchown(sites, Some(0), Some(0)).unwrap();
    assert!(check().contains("cannot be written by nobody"), "{}", check());
    set_mode(sites, 0o700);
    assert!(check().contains("cannot be written by nobody"), "{}", check());
}

#[test]
fn after_a_chown_in_a_script_the_remedy_stays_in_view_and_nothing_false_is_said() {
    let machine = Sandbox::with("ops", &[("work.sh", "exit 0\n")]);
    for dir in ["", "root"] {
        set_mode(&machine.path(dir), 0o755);
    }
    machine.tick().ok();
    let first = machine.head("ops");
    let second = machine.push("ops", &[("work.sh", "chown -R daemon: .\n")]);
    machine.tick().exits(1);
    for _ in 0..2 {
        machine.tick();
        assert_eq!(machine.state("ops"), "broken", "{:#}", machine.row("ops"));
        let shown = machine.agent(&["status"]).exits(1).stdout;
        let explained = machine.agent(&["explain", "ops"]).ok().stdout;
        for text in [&shown, &explained] {
            assert!(text.contains("hint: ") && text.contains("chown -R "), "{text}");
        }
        assert!(
            !explained.contains("No revision was applied") && !explained.contains("othing is"),
            "{explained}"
        );
        let revisions = [&first[..7], &second[..7]];
        assert!(revisions.iter().any(|revision| explained.contains(revision)), "{explained}");
        let shown_text = machine.agent(&["history"]).ok();
        assert!(shown_text.stdout.contains(&second[..7]), "{shown_text}");
    }
    // The remedy that is printed.
    give_all(&machine.clone_of("ops"), DAEMON);
    give_all(&machine.server("ops"), DAEMON);
    machine.tick();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.lastaction("ops"), Some(second));
}
