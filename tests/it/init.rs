//! `agent init` on a whole machine: everything is written where it belongs, in the order that lets the
//! next tick finish whatever was cut off, and whoever reads what it says knows what is done and what
//! is not.

use std::fs;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, text, wait_until};

const ENTRY: &str = "/etc/pmpy/agent.d/ops.toml";
const CRON_FILE: &str = "/etc/cron.d/pmpy";

/// Takes everything away that `init` makes.
const START_OVER: &str = "rm -rf /root/runs /root/gitrepo /root/nodeinfo /etc/pmpy/agent.d \
                          /etc/cron.d/pmpy /var/lib/pmpy /var/log/pmpy";

/// A machine, and a repository whose scripts write who they are into `/root/runs`.
fn machine() -> MachineCopy {
    let machine = MachineCopy::new();
    let says = |who: &str| format!("echo {who} >> /root/runs\n");
    let places = ["common", "part/web", "stack/shop"];
    let files: Vec<(String, String)> = ["init", "work"]
        .iter()
        .flat_map(|step| {
            places.map(|place| {
                (format!("bin/{step}/{place}/{step}.sh"), says(&format!("{step}:{place}")))
            })
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine.sandbox.serve("ops", &files);
    machine
}

fn url(machine: &MachineCopy) -> String {
    text(&machine.sandbox.server("ops")).to_owned()
}

fn init(machine: &MachineCopy, more: &[&str]) -> Ran {
    let url = url(machine);
    machine.agent(&[&["init", &url], more].concat())
}

fn runs(machine: &MachineCopy) -> Vec<String> {
    let text = fs::read_to_string(machine.path("/root/runs")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// Lets a failed attempt's wait be over by naming the repository.
fn tick(machine: &MachineCopy) -> Ran {
    machine.agent(&["tick", "ops"])
}

#[test]
fn one_command_makes_a_server_live() {
    let machine = machine();
    let said = init(&machine, &["--part", "web", "--stack", "shop"]).ok().stdout;
    assert_eq!(machine.read("/root/nodeinfo/nodepart.txt"), "web\n");
    assert_eq!(machine.read("/root/nodeinfo/stacktype.txt"), "shop\n");
    assert_eq!(machine.read(ENTRY), format!("[repo.ops]\nurl = \"{}\"\n", url(&machine)));
    assert!(machine.read(CRON_FILE).contains("agent tick --trigger cron --splay 20s\n"));
    assert_eq!(machine.state("ops"), "current");
    let ladder = ["common", "part/web", "stack/shop"];
    let expected: Vec<String> =
        ["init", "work"].iter().flat_map(|step| ladder.map(|it| format!("{step}:{it}"))).collect();
    assert_eq!(runs(&machine), expected);
    for words in
        ["this machine is part web", "ops is configured", "installed /etc/cron.d/pmpy", "current"]
    {
        assert!(said.contains(words), "no \"{words}\" in\n{said}");
    }
    // Said again, nothing is done again.
    init(&machine, &["--part", "web"]).ok();
    assert_eq!(runs(&machine), expected);
}

#[test]
fn presence_is_configured_and_the_first_tick_publishes() {
    let machine = machine();
    let status = machine.sandbox.server("status");
    machine.sandbox.git(&machine.sandbox.path(""), &["init", "--quiet", "--bare", text(&status)]);
    let said = init(&machine, &["--presence", text(&status)]).ok().stdout;
    assert!(said.contains("presence is configured: /etc/pmpy/agent.d/presence.toml"), "{said}");
    let entry = machine.read("/etc/pmpy/agent.d/presence.toml");
    assert_eq!(entry, format!("[presence]\nurl = \"{}\"\n", text(&status)));
    wait_until("the first tick has published", || {
        let record = fs::read_to_string(machine.path("/var/lib/pmpy/presence.json"));
        record.is_ok_and(|record| record.contains("\"last\""))
    });
    let refs = machine.sandbox.git(&status, &["for-each-ref", "--format=%(refname)"]);
    let host = Ran::of(machine.sandbox.command("uname").arg("-n")).ok().stdout;
    assert_eq!(refs, format!("refs/heads/{}/state", host.trim()));
    // Said again, it stays; another address is no silent change.
    let said = init(&machine, &["--presence", text(&status)]).ok().stdout;
    assert!(said.contains("presence was configured already"), "{said}");
    let ran = init(&machine, &["--presence", "/srv/other.git"]).exits(1);
    assert!(ran.stderr.contains("configured already, with another url"), "{ran}");
}

#[test]
fn killed_at_any_step_it_is_finished_by_saying_it_again() {
    let machine = machine();
    let url = url(&machine);
    let mut points = 0;
    for call in ["renameat", "renameat2", "mkdir", "unlinkat", "utimensat", "clone3", "vfork"] {
        for nth in 1.. {
            machine.sh(START_OVER).ok();
            let inject = format!("inject={call}:signal=KILL:when={nth}");
            let strace = ["strace", "-qq", "-o", "/dev/null", "-e", &inject];
            let line = ["agent", "init", &url, "--part", "web"];
            let killed = Ran::of(&mut machine.command(&[&strace[..], &line].concat()));
            if killed.code == Some(0) {
                break;
            }
            points += 1;
            let point = format!("killed at {call} {nth}");
            assert!(killed.code.is_none(), "{point}: a signal was to end it\n{killed}");
            let ran = init(&machine, &["--part", "web"]).ok();
            assert_eq!(machine.state("ops"), "current", "{point}\n{ran}");
            assert_eq!(machine.read("/root/nodeinfo/nodepart.txt"), "web\n");
            assert!(machine.path(CRON_FILE).exists(), "{point}\n{ran}");
            let expected = ["init:common", "init:part/web", "work:common", "work:part/web"];
            assert_eq!(runs(&machine), expected, "{point}\n{ran}");
            let find = "find /etc/pmpy/ /etc/cron.d /root/nodeinfo -name '.*.new'";
            assert_eq!(machine.sh(find).ok().stdout, "", "{point}: something is left behind");
        }
    }
    println!("init: killed at {points} calls");
    assert!(points > 8, "only {points} calls were found");
}

#[test]
fn without_the_network_everything_else_is_done_and_the_next_tick_finishes() {
    let machine = machine();
    let (server, away) = (machine.sandbox.server("ops"), machine.sandbox.path("away"));
    fs::rename(&server, &away).unwrap();
    let ran = init(&machine, &["--part", "web"]).exits(1);
    assert!(ran.stdout.contains("Not ready yet: ops. The next tick retries"), "{ran}");
    assert!(ran.stdout.contains("unreachable") || ran.stdout.contains("failing"), "{ran}");
    assert!(machine.path(ENTRY).exists() && machine.path(CRON_FILE).exists(), "{ran}");
    assert!(runs(&machine).is_empty());
    fs::rename(&away, &server).unwrap();
    tick(&machine).ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(runs(&machine), ["init:common", "init:part/web", "work:common", "work:part/web"]);
}

#[test]
fn an_init_script_that_fails_is_reported_and_tried_again_until_it_succeeds() {
    let machine = machine();
    let broken = [("bin/init/common/init.sh", "echo no disk >&2; exit 3\n")];
    machine.sandbox.push("ops", &broken);
    let ran = init(&machine, &[]).exits(1);
    assert_eq!(machine.state("ops"), "failing", "{ran}");
    assert!(ran.stdout.contains("no disk"), "{ran}");
    assert!(machine.path(CRON_FILE).exists());
    machine.sandbox.push("ops", &[("bin/init/common/init.sh", "echo init >> /root/runs\n")]);
    tick(&machine).ok();
    assert_eq!(runs(&machine), ["init", "work:common"]);
}

#[test]
fn what_cannot_be_written_is_reported_with_what_is_done_and_what_is_not() {
    let machine = machine();
    machine.sh("mkdir -p /etc/pmpy && mount -t tmpfs -o ro none /etc/pmpy").ok();
    let ran = init(&machine, &["--part", "web"]).exits(1);
    for words in [
        "the machine is not live yet. Done: this machine is part web: /root/nodeinfo. Not done: ",
        "Read-only file system",
        "run the same command again",
    ] {
        assert!(ran.stderr.contains(words), "no \"{words}\" in\n{ran}");
    }
    machine.sh("umount /etc/pmpy").ok();
    init(&machine, &["--part", "web"]).ok();
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn without_cron_the_machine_works_and_says_that_nothing_ticks() {
    let machine = machine();
    machine.sh("rm -f /usr/sbin/cron").ok();
    let ran = init(&machine, &[]).exits(1);
    assert!(ran.stderr.contains("no schedule is installed"), "{ran}");
    assert!(ran.stderr.contains("hint: apt-get install cron"), "{ran}");
    assert_eq!(machine.state("ops"), "current");
    init(&machine, &["--schedule", "none"]).ok();
}

#[test]
fn several_repositories_with_names_of_their_own_come_at_once() {
    let machine = machine();
    machine.sandbox.serve("site", &[("work.sh", "echo site >> /root/runs\n")]);
    let (ops, site) = (url(&machine), text(&machine.sandbox.server("site")).to_owned());
    machine.agent(&["init", &format!("one={ops}"), &site]).ok();
    assert_eq!(machine.state("one"), "current");
    assert_eq!(machine.state("site"), "current");

    let ran = machine.agent(&["init", &ops, &format!("ops={site}")]).exits(2);
    assert!(ran.stderr.contains("two repositories would have the name \"ops\""), "{ran}");
    let ran = machine.agent(&["init", &format!("new={ops}"), &format!("one={site}")]).exits(1);
    assert!(ran.stderr.contains("\"one\" is configured already, with another url"), "{ran}");
    assert!(!machine.path("/etc/pmpy/agent.d/new.toml").exists(), "nothing of it is done");
}

#[test]
fn a_key_and_known_hosts_are_configured_as_whole_paths_and_may_come_later() {
    let machine = machine();
    let url = url(&machine);
    let line = format!("cd /etc && agent init {url} --key pmpy/ops.key --known-hosts /root/known");
    machine.sh(&line).ok();
    let entry = machine.read(ENTRY);
    assert!(entry.contains("key_file = \"/etc/pmpy/ops.key\"\n"), "{entry}");
    assert!(entry.contains("known_hosts = \"/root/known\"\n"), "{entry}");
    let said = init(&machine, &["--key", "/root/other.key"]).ok().stdout;
    assert!(said.contains("ops: key_file stays as it is configured (/etc/pmpy/ops.key)"), "{said}");
    assert_eq!(machine.read(ENTRY), entry);
}

#[test]
fn an_id_that_comes_late_is_no_other_machine() {
    let machine = machine();
    let id = |text: &str| {
        let write = format!("echo {text} > /etc/machine-id");
        machine.sh("rm -f /etc/machine-id").ok();
        machine.sh(if text.is_empty() { "true" } else { &write }).ok();
    };
    id("");
    init(&machine, &[]).ok();
    let once = ["init:common", "work:common"];
    let real = "0123456789abcdef0123456789abcdef";
    for text in ["uninitialized", "", real, "", "uninitialized", real] {
        id(text);
        tick(&machine).ok();
        assert_eq!(runs(&machine), once, "\"{text}\"");
    }
    // The first real one counts from then on.
    id("fedcba9876543210fedcba9876543210");
    tick(&machine).ok();
    assert_eq!(runs(&machine), [once, once].concat());
}

#[test]
fn a_machine_is_not_called_live_before_it_applied_what_is_there() {
    let machine = machine();
    let of = |more: &[&str], words: &[&str]| {
        machine.sh(START_OVER).ok();
        let ran = init(&machine, more).exits(1);
        for word in [&["Not ready yet: ops. The next tick retries"], words].concat() {
            assert!(ran.stdout.contains(word), "no \"{word}\" in\n{ran}");
        }
    };
    of(&["--branch", "typo"], &["no-ref", "has no branch typo; it has main"]);
    machine.sandbox.push("ops", &[("bin/init/common/init.sh", "exit 75\n")]);
    of(&[], &["waiting", "bin/init/common/init.sh said \"not now\" (exit 75) at "]);
    machine.sandbox.push("ops", &[("bin/init/common/init.sh", "exit 3\n")]);
    of(&[], &["failing", "bin/init/common/init.sh exited 3 at "]);
    machine.sandbox.push("ops", &[(".pmpy.toml", "hold = \"not yet\"\n")]);
    of(&[], &["held", "not yet"]);
}

#[test]
fn without_an_output_init_makes_the_machine_live_and_ends_with_an_error() {
    let machine = machine();
    let url = url(&machine);
    let ran = machine.sh(&format!("agent init {url} --part web > /dev/full")).exits(1);
    assert!(ran.stderr.contains("cannot write to the standard output"), "{ran}");
    assert!(!ran.stderr.contains("not live yet"), "{ran}");
    assert!(machine.path(ENTRY).exists() && machine.path(CRON_FILE).exists(), "{ran}");
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_part_that_the_configuration_overrules_is_refused_and_a_bad_one_is_replaced() {
    let machine = machine();
    machine.write("/root/nodeinfo/nodepart.txt", "../web\n");
    init(&machine, &[]).exits(1);
    init(&machine, &["--part", "web"]).ok();
    assert_eq!(machine.read("/root/nodeinfo/nodepart.txt"), "web\n");

    machine.write("/etc/pmpy/agent.toml", "[node]\npart = \"db\"\n");
    let ran = init(&machine, &["--part", "app"]).exits(2);
    assert!(ran.stderr.contains("part db by [node] in /etc/pmpy/agent.toml"), "{ran}");
    assert!(ran.stderr.contains("hint: change it there"), "{ran}");
    assert_eq!(machine.read("/root/nodeinfo/nodepart.txt"), "web\n");
    init(&machine, &["--part", "db"]).ok();
}

#[test]
fn with_a_root_of_its_own_the_schedule_is_a_persons_to_choose() {
    let machine = machine();
    machine.write("/etc/pmpy/agent.toml", "root = \"/srv/repos\"\n");
    let ran = init(&machine, &[]).ok();
    assert!(!machine.path(CRON_FILE).exists(), "{ran}");
    assert!(ran.stdout.contains("put this line into /etc/cron.d/pmpy:\n* * * * * root "), "{ran}");
    assert!(machine.path("/srv/repos/ops/.git").exists());
    init(&machine, &["--schedule", "cron"]).ok();
    assert!(machine.path(CRON_FILE).exists());
}

#[test]
fn init_installs_what_ticks_again_unless_somebody_says_none() {
    let machine = machine();
    init(&machine, &[]).ok();
    machine.agent(&["schedule", "none"]).ok();
    let ran = init(&machine, &["--schedule", "none"]).ok();
    assert!(!machine.path(CRON_FILE).exists(), "{ran}");
    init(&machine, &[]).ok();
    assert!(machine.path(CRON_FILE).exists());
}

#[test]
fn a_machine_that_was_made_of_anothers_disk_starts_anew() {
    let machine = machine();
    init(&machine, &[]).ok();
    assert_eq!(runs(&machine), ["init:common", "work:common"]);
    machine
        .sh("rm -f /etc/machine-id; echo 0123456789abcdef0123456789abcdef > /etc/machine-id")
        .ok();
    machine.agent(&["tick"]).ok();
    assert_eq!(runs(&machine)[2..], ["init:common", "work:common"]);
    machine.agent(&["tick"]).ok();
    assert_eq!(runs(&machine).len(), 4, "once");
}

#[test]
fn another_user_needs_no_root_and_is_given_the_line() {
    let machine = machine();
    machine.sandbox.serve("site", &[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("site")).to_owned();
    let dir = text(&machine.sandbox.path("")).to_owned();
    machine.as_pat("true").ok();
    machine.sh(&format!("chmod 755 {dir} && chown -R pat {dir}/server/site.git")).ok();
    let ran = machine.as_pat(&format!("agent init {url}"));
    assert!(ran.stdout.contains("put this line into your crontab (crontab -e):\n"), "{ran}");
    assert!(ran.ok().stdout.contains("current"));
    assert!(machine.path("/home/pat/.config/pmpy/agent.d/site.toml").exists());
    assert!(!machine.path(CRON_FILE).exists());
    machine.as_pat(&format!("agent init {url} --schedule cron; crontab -l | grep -q splay")).ok();
}

#[test]
fn a_part_or_a_stack_that_is_no_word_is_refused_before_anything_is_written() {
    let machine = machine();
    for bad in ["../web", "web server", ""] {
        for option in ["--part", "--stack"] {
            init(&machine, &[option, bad]).exits(2);
        }
    }
    assert!(!machine.path("/root/nodeinfo").exists());
    assert!(!machine.path(ENTRY).exists());
}
