//! `agent check`: what is wrong is told before it shows, each with what to do, and what is right is
//! not complained about.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use pmpy::config::{ConfigLocations, Settings};
use pmpy::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use pmpy::engine::operator::check;
use pmpy::system::host::Host;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, set_mode, text};

const WORK: &str = "bin/work/common/work.sh";

fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[(WORK, NOTES_ITS_RUNS)]);
    machine.tick().ok();
    machine
}

fn configure(machine: &Sandbox, toml: &str) {
    fs::create_dir_all(machine.path("root/.pmpy")).unwrap();
    fs::write(machine.path("root/.pmpy/agent.toml"), toml).unwrap();
}

/// The verdicts of a check that ended with `code`, as `level subject text` with single spaces. What
/// the machine's own crontabs hold is not the sandbox's, nor is where the agent was built.
#[track_caller]
fn verdicts(machine: &Sandbox, arguments: &[&str], code: i32) -> Vec<String> {
    let ran = machine.agent(&[&["check"], arguments].concat()).exits(code);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines = ran.stdout.lines().map(words);
    let ours =
        |line: &String| !line.contains("crontabs") && line.split(' ').nth(1) != Some("program");
    lines.filter(ours).collect()
}

#[track_caller]
fn assert_has(verdicts: &[String], level: &str, part: &str) {
    let found = verdicts.iter().any(|line| line.starts_with(level) && line.contains(part));
    assert!(found, "no \"{level} … {part}\" in\n{}", verdicts.join("\n"));
}

#[test]
fn on_a_machine_in_order_nothing_is_complained_about() {
    let machine = machine();
    let found = verdicts(&machine, &[], 0);
    assert!(!found.iter().any(|line| line.starts_with("bad")), "{found:#?}");
    let warned: Vec<_> = found.iter().filter(|line| line.starts_with("warn")).collect();
    assert_eq!(warned, Vec::<&String>::new());
    let tip = machine.head("ops");
    assert_has(&found, "ok configuration", "the defaults");
    assert_has(&found, "ok tick", "the last one was ");
    assert_has(&found, "ok ops", &format!("has main at {}", &tip[..7]));
    assert_has(&found, "ok ops", &format!("{WORK} is run by /"));
}

#[test]
fn a_check_changes_nothing() {
    let machine = Sandbox::with("ops", &[(WORK, NOTES_ITS_RUNS)]);
    let before = machine.files_below(&machine.root());
    verdicts(&machine, &[], 0);
    assert_eq!(machine.files_below(&machine.root()), before);
}

#[test]
fn a_broken_configuration_is_the_first_verdict() {
    let machine = machine();
    configure(&machine, "sply = \"1s\"\n");
    let found = verdicts(&machine, &[], 2);
    assert_has(&found[..1], "bad configuration", "agent.toml:1:1: ");
    assert_has(&found[1..2], "hint:", "did you mean \"splay\"?");
}

#[test]
fn a_part_that_is_no_word_is_reported_and_the_rest_is_checked_all_the_same() {
    let machine = machine();
    fs::create_dir_all(machine.path("root/.pmpy/nodeinfo")).unwrap();
    fs::write(machine.path("root/.pmpy/nodeinfo/nodepart.txt"), "../web\n").unwrap();
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad node", "nodepart.txt holds \"../web\"");
    assert_has(&found, "hint:", "write one word of letters");
    assert_has(&found, "ok ops", WORK);
}

#[test]
fn a_remote_that_is_gone_is_bad_and_offline_it_is_not_asked() {
    let machine = machine();
    fs::remove_dir_all(machine.server("ops")).unwrap();
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "ops.git cannot be opened: there is no repository");
    let found = verdicts(&machine, &["--offline"], 0);
    assert_has(&found, "ok remotes", "not asked");
}

#[test]
fn what_follows_a_tick_is_looked_at_because_cron_hides_it() {
    let machine = machine();
    let dir = machine.path("metrics");
    let file = dir.join("pmpy.prom");
    let program =
        |path: &str| format!("metrics_file = {:?}\non_change = [{path:?}, \"-x\"]\n", text(&file));
    configure(&machine, &program("/opt/none/page"));
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad on_change", "there is no program \"/opt/none/page\"");
    assert_has(&found, "bad metrics", "there is no directory ");
    assert_has(&found, "hint:", &format!("mkdir -p {}", text(&dir)));
    let ran = machine.agent(&["check"]);
    assert!(ran.stdout.ends_with("\n2 errors.\n"), "{ran}");
    configure(&machine, &program("/bin/true"));
    fs::create_dir(&dir).unwrap();
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "ok on_change", "/true");
    assert_has(&found, "ok metrics", "pmpy.prom");
}

#[test]
fn one_mirror_that_answers_is_enough() {
    let machine = machine();
    let server = machine.server("ops");
    let url = format!("[repo.ops]\nurl = [\"/nowhere.git\", \"{}\"]\n", text(&server));
    configure(&machine, &url);
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops", "/nowhere.git cannot be opened");
    assert_has(&found, "ok ops", "has main at");
}

#[test]
fn a_remote_that_is_not_permitted_is_never_connected_to() {
    let machine = machine();
    configure(&machine, "[repo.ops]\nurl = \"http://git.invalid/ops.git\"\n");
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "neither encrypted nor authenticated");
    assert_has(&found, "hint:", "use https or ssh");
}

#[test]
fn a_branch_that_the_remote_lacks_is_bad() {
    let machine = machine();
    configure(&machine, "[repo.ops]\nbranch = \"production\"\n");
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "has no branch production");
}

#[test]
fn a_repository_that_is_to_be_cloned_has_its_remote_asked() {
    let machine = Sandbox::new();
    let revision = machine.serve("ops", &[(WORK, NOTES_ITS_RUNS)]);
    let server = machine.server("ops");
    configure(&machine, &format!("[repo.ops]\nurl = \"{}\"\n", text(&server)));
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "ok ops", "the next tick clones it to ");
    assert_has(&found, "ok ops", &format!("has main at {}", &revision[..7]));
}

#[test]
fn what_stops_a_repository_is_reported_with_what_lifts_it() {
    let machine = machine();
    machine.agent(&["hold", "ops", "moving house"]).ok();
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops", "held: by root: moving house");
    assert_has(&found, "hint:", "agent unhold ops");
    machine.agent(&["unhold", "ops"]).ok();
    fs::write(machine.currentaction("ops"), "db migration\n").unwrap();
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops held: ", "db migration");
}

#[test]
fn a_broken_repository_is_bad_with_its_remedy() {
    let machine = machine();
    machine.git(&machine.clone_of("ops"), &["checkout", "--quiet", "--detach"]);
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "HEAD is detached");
}

#[test]
fn a_script_without_its_interpreter_is_bad() {
    let machine = Sandbox::with("ops", &[("work.sh", "#!/usr/bin/env no-such-language\n")]);
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "work.sh cannot run: there is no program no-such-language");
}

#[test]
fn a_repository_without_any_script_is_noticed() {
    let machine = Sandbox::with("ops", &[("README", "hello\n")]);
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops", "there is no bin/work/common/work.sh, no work.sh");
}

#[test]
fn lines_of_an_older_loop_in_a_script_are_pointed_at() {
    let script = "# currentaction.txt is the agent's\n\
                  test -f .temp/nodeinfo/currentaction.txt && exit\n\
                  git rev-parse HEAD > .temp/nodeinfo/lastaction.txt\n";
    let machine = Sandbox::with("ops", &[(WORK, script)]);
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops", &format!("{WORK}:2 uses a file of the agent's own: test -f"));
}

#[test]
fn secrets_that_everybody_can_read_are_bad() {
    let machine = machine();
    let secrets = machine.path("secrets.env");
    fs::write(&secrets, "TOKEN=1\n").unwrap();
    configure(&machine, &format!("[repo.ops]\nenv_file = \"{}\"\n", text(&secrets)));
    set_mode(&secrets, 0o644);
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "secrets.env can be read by everybody (mode 0644)");
    set_mode(&secrets, 0o600);
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "ok ops", "secrets.env is readable and private");
}

#[test]
fn what_else_lies_under_the_root_is_named() {
    let machine = machine();
    fs::create_dir(machine.path("root/notes")).unwrap();
    symlink("ops", machine.path("root/zops")).unwrap();
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "ok root", "root/notes is not a repository and is ignored");
    assert_has(&found, "ok root", "root/zops is a second name of ops");
}

#[test]
fn when_ticks_stopped_the_line_that_brings_them_back_is_printed() {
    let machine = machine();
    let before = SystemTime::now() - Duration::from_secs(3600);
    let last = File::options().write(true).open(machine.path("root/.pmpy/last-tick")).unwrap();
    last.set_modified(before).unwrap();
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad tick", "none for 60 minutes");
    let in_full = format!("{} --root", env!("CARGO_BIN_EXE_agent"));
    assert_has(&found, "hint:", &in_full);
    assert_has(&found, "hint:", "tick --trigger cron --splay 20s");
}

#[test]
fn with_quiet_only_what_is_not_well_is_printed() {
    let machine = machine();
    machine.agent(&["hold", "ops", "moving house"]).ok();
    let found = verdicts(&machine, &["--quiet"], 0);
    assert_has(&found, "warn ops", "moving house");
    assert!(!found.iter().any(|line| line.starts_with("ok")), "{found:#?}");
}

/// The verdict on the crontabs that a test planted, for the machine's own root or for a world of
/// its own.
fn crontabs(machine: &Sandbox, root: Option<&Path>) -> CheckFinding {
    let sources = ConfigLocations {
        root: root.map(Path::to_owned),
        home: Some(machine.path("home")),
        ..ConfigLocations::default()
    };
    let settings = Settings::load(&sources).unwrap();
    check::check(settings, Host::current(), CheckScope::Machine, &machine.path("base"))
        .into_iter()
        .find(|verdict| verdict.subject == "crontabs")
        .unwrap()
}

fn plant(machine: &Sandbox, path: &str, content: &str) {
    let file = machine.path("base").join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

#[test]
fn a_crontab_that_pulls_is_a_rival_wherever_it_is() {
    for place in ["etc/crontab", "etc/cron.d/ops", "var/spool/cron/crontabs/root"] {
        let machine = Sandbox::new();
        plant(&machine, place, "MAILTO=root\n\n* * * * * root cd /srv/ops && git pull -q\n");
        let verdict = crontabs(&machine, None);
        assert_eq!(verdict.level, FindingLevel::Warn, "{place}");
        let line = format!("/{place}:3: * * * * * root cd /srv/ops && git pull -q");
        assert!(verdict.text.contains(&line), "{verdict:?}");
        assert!(verdict.remedy.unwrap().starts_with("remove it"));
    }
}

#[test]
fn a_crontab_whose_script_pulls_is_a_rival_and_of_another_world_only_when_it_is_about_it() {
    let machine = Sandbox::new();
    plant(&machine, "etc/cron.d/ops", "* * * * * root /usr/local/bin/update\n");
    plant(&machine, "usr/local/bin/update", "#!/bin/sh\ncd /srv/ops\ngit pull\n");
    assert_eq!(crontabs(&machine, None).level, FindingLevel::Warn);
    let root = machine.root();
    assert_eq!(crontabs(&machine, Some(&root)).level, FindingLevel::Ok);
    let about = format!("#!/bin/sh\ncd {}/ops\ngit pull\n", text(&root));
    plant(&machine, "usr/local/bin/update", &about);
    assert_eq!(crontabs(&machine, Some(&root)).level, FindingLevel::Warn);
}

#[test]
fn crontabs_that_pull_nothing_are_no_rivals() {
    let machine = Sandbox::new();
    plant(&machine, "etc/cron.d/pmpy", "* * * * * root agent tick --trigger cron --splay 20s\n");
    plant(&machine, "etc/crontab", "# * * * * * root git pull\n17 * * * * root run-parts /etc\n");
    assert_eq!(crontabs(&machine, None).level, FindingLevel::Ok);
}

#[test]
fn a_target_that_cannot_be_is_bad_with_what_to_do_and_one_that_can_is_not() {
    let machine = machine();
    let publishes = |target: &str, keys: &str| {
        let target = machine.path(target);
        let keys = format!("mode = \"checkout\"\ntarget = \"{}\"\n{keys}", text(&target));
        configure(&machine, &format!("[repo.ops]\n{keys}\n"));
    };
    fs::write(machine.path("file"), "").unwrap();
    publishes("file/site", "");
    let found = verdicts(&machine, &[], 1);
    assert_has(&found, "bad ops", "file is no directory to enter");
    publishes("nowhere/site", "");
    // The first publication makes the directory.
    assert_has(&verdicts(&machine, &[], 0), "ok ops", "publishes to");
    fs::create_dir(machine.path("nowhere")).unwrap();
    assert_has(&verdicts(&machine, &[], 0), "ok ops", "publishes to");

    fs::write(machine.path("nowhere/site"), "somebody's").unwrap();
    assert_has(&verdicts(&machine, &[], 1), "bad ops", "was not made by the agent");
    fs::remove_file(machine.path("nowhere/site")).unwrap();

    publishes("nowhere/site", "after = [\"no-such-program\"]");
    assert_has(&verdicts(&machine, &[], 1), "bad ops", "no program \"no-such-program\"");
    publishes("nowhere/site", "after = [\"true\"]\nafter_user = \"no-such-user\"");
    assert_has(&verdicts(&machine, &[], 1), "bad ops", "no user \"no-such-user\"");
    publishes("nowhere/site", "after = [\"true\"]\nafter_user = \"daemon\"");
    assert_has(&verdicts(&machine, &[], 0), "ok ops", "after: ");
}

#[test]
fn a_timer_that_looks_like_silence_is_reported() {
    let machine = machine();
    configure(&machine, "[listen]\nevery = \"10m\"\n");
    assert_has(&verdicts(&machine, &[], 0), "warn listen", "is too long: after");
    configure(&machine, "[listen]\nevery = \"4m\"\n");
    let found = verdicts(&machine, &[], 0);
    assert!(!found.iter().any(|line| line.contains("listen")), "{found:?}");
}

#[test]
fn a_depth_that_does_nothing_is_reported() {
    let machine = machine();
    let url = format!("file://{}", text(&machine.server("ops")));
    configure(&machine, &format!("[repo.ops]\nurl = \"{url}\"\ndepth = 3\n"));
    let found = verdicts(&machine, &[], 0);
    assert_has(&found, "warn ops", &format!("depth = 3 does nothing for {url}"));
    assert_has(&found, "hint:", "leave depth out, or pull over https or ssh");
    assert_has(&found, "ok ops", "has main at");
}
