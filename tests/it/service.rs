//! The service under a real systemd, which boots in namespaces from a copy of this machine: an action goes
//! through a restart and an upgrade of the agent, also with the rights that the documentation takes away.

use std::fs;
use std::path::PathBuf;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, install_agent, text};

const BOOT: &str = include_str!("service/boot.sh");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
const DROP_IN: &str = "/etc/systemd/system/pmpy.service.d/override.conf";

/// What begins before the agent is stopped, and ends when there is a file `go`. Its file lies where a private
/// `/tmp` would end with the service.
const WORK: &str = r#"
file=$(mktemp /tmp/action.XXXXXX)
other=$(mktemp /var/tmp/action.XXXXXX)
echo begun >> @/begun
until [ -e @/go ]; do sleep 0.1; done
[ -e "$file" ] && [ -e "$other" ] && mktemp /tmp/action.XXXXXX && echo whole >> @/whole
"#;

/// What the steps of a test begin with.
const PRELUDE: &str = r#"
exec > @/log 2>&1
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
trap 'echo "exit $?"; systemctl --force --force poweroff' EXIT
until_true() { for wait in $(seq 1200); do ! "$@" || return 0; sleep 0.1; done; echo "never: $*"; exit 1; }
lines() { [ -e "@/$1" ] && [ "$(wc -l < "@/$1")" -ge "$2" ]; }
succeeded() { [ "$(agent history ops | grep -c succeeded)" -ge "$1" ]; }
"#;

/// The first documented block in this language that holds this text.
fn documented(language: &str, holding: &str) -> &'static str {
    let begin = format!("```{language}\n");
    let blocks = OPERATIONS.split(begin.as_str()).skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(holding)).unwrap()
}

/// A cgroup for one boot in each hierarchy, removed in the end.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn new(name: &str) -> Self {
        let all = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];
        let all = all.into_iter().map(PathBuf::from);
        let made = all.filter(|dir| dir.join("cgroup.procs").exists()).map(|dir| dir.join(name));
        let made: Vec<PathBuf> = made.collect();
        made.iter().for_each(|dir| fs::create_dir(dir).unwrap());
        assert!(!made.is_empty(), "there is no cgroup to boot a systemd in");
        Self(made)
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for dir in &self.0 {
            let find = ["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"];
            let _ = std::process::Command::new("find").arg(text(dir)).args(find).output();
        }
    }
}

/// A machine with a clone of `ops` and an agent that can be replaced, whose systemd has not booted yet.
fn machine() -> MachineCopy {
    let machine = MachineCopy::without_agent();
    install_agent(&machine.path("/usr/local/bin/agent"));
    let work = in_sandbox(&machine, WORK);
    machine.sandbox.serve("ops", &[("work.sh", &work)]);
    let server = machine.sandbox.server("ops");
    machine.sh(&format!("git clone -q {} /root/gitrepo/ops", text(&server))).ok();
    machine
}

/// `script` with the sandbox's directory, which has one path inside and outside, in the place of `@`.
fn in_sandbox(machine: &MachineCopy, script: &str) -> String {
    script.replace("@/", &format!("{}/", text(&machine.sandbox.path("")).trim_end_matches('/')))
}

/// Boots the machine's systemd, which carries out `steps` and ends; what they printed.
#[track_caller]
fn boot(machine: &MachineCopy, steps: &str) -> String {
    let go = machine.sandbox.path("go.sh");
    fs::write(&go, in_sandbox(machine, &format!("{PRELUDE}{steps}"))).unwrap();
    machine.write(
        "/etc/systemd/system/go.target",
        "[Unit]\nDefaultDependencies=no\nWants=go.service\n",
    );
    machine.write(
        "/etc/systemd/system/go.service",
        &format!("[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/bash {}\n", text(&go)),
    );
    let boot = machine.sandbox.path("boot.sh");
    fs::write(&boot, BOOT).unwrap();
    let name = machine.sandbox.path("").file_name().unwrap().to_string_lossy().into_owned();
    let cgroups = Cgroups::new(&name);
    let joins: String =
        cgroups.0.iter().map(|dir| format!("echo $$ > {}/cgroup.procs\n", text(dir))).collect();
    let script = format!(
        "{joins}exec timeout --signal=KILL 300 unshare --pid --fork --mount --uts --ipc --cgroup --net \
         --kill-child sh {} {}",
        text(&boot),
        text(&machine.path("/"))
    );
    let ran = Ran::of(machine.sandbox.command("sh").args(["-c", &script]));
    let log = fs::read_to_string(machine.sandbox.path("log")).unwrap_or_default();
    assert!(log.contains("\nexit 0\n"), "{log}\n{ran}");
    log
}

/// An action begins, the agent is restarted and replaced, and only then may the action end.
const THROUGH_RESTART_AND_UPGRADE: &str = r#"
agent schedule systemd
until_true lines begun 1
systemctl restart pmpy
systemctl is-active pmpy
cp /usr/local/bin/agent /usr/local/bin/.agent.new
mv /usr/local/bin/.agent.new /usr/local/bin/agent
systemctl restart pmpy
systemctl is-active pmpy
touch @/go
until_true lines whole 1
until_true succeeded 1
lines begun 2 && exit 9
"#;

#[test]
fn an_action_continues_while_the_service_is_restarted_and_upgraded() {
    let machine = machine();
    boot(&machine, &format!("{THROUGH_RESTART_AND_UPGRADE}exit 0\n"));
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn a_service_that_is_dead_and_a_cron_that_is_not_started_are_reported() {
    let machine = machine();
    let log = boot(
        &machine,
        r#"
touch @/go
agent schedule systemd
until_true succeeded 1
agent check --offline | grep ' schedule '
systemctl stop pmpy
agent check --offline | grep -A 1 ' schedule ' || true
agent schedule cron
agent check --offline | grep -A 1 ' schedule ' || true
url=$(git -C /root/gitrepo/ops remote get-url origin)
agent init "$url" && exit 7
cron -f &
until_true sh -c "agent check --offline | grep 'ok .* schedule .*/etc/cron.d/pmpy makes'"
agent init "$url"
agent check --offline
kill $!
exit 0
"#,
    );
    for part in [
        "pmpy.service makes the agent tick",
        "pmpy.service is inactive",
        "hint: systemctl restart pmpy",
        "cron does not run",
        "hint: systemctl enable --now cron",
        "/etc/cron.d/pmpy makes the agent tick",
    ] {
        assert!(log.contains(part), "no {part:?} in\n{log}");
    }
}

#[test]
fn the_service_with_fewer_rights_starts_acts_and_keeps_what_the_unit_promises() {
    let machine = machine();
    // What the drop-in names need not be there.
    machine.sh("rm -rf /var/www /etc/pmpy /var/lib/pmpy /var/log/pmpy").ok();
    machine.write(DROP_IN, documented("ini", "ProtectSystem"));
    let steps = format!(
        "{THROUGH_RESTART_AND_UPGRADE}\
         # As documented: through the service.\n{}\
         until_true lines whole 2\n\
         until_true succeeded 1\n\
         agent history ops\n\
         # The rights are really taken away.\n\
         pid=$(systemctl show --property=MainPID --value pmpy)\n\
         nsenter --target $pid --mount touch /usr/local/forbidden && exit 8\n\
         nsenter --target $pid --mount touch /root/allowed\n\
         grep -q '^NoNewPrivs:.1' /proc/$pid/status\n\
         exit 0\n",
        documented("sh", "systemctl restart pmpy")
    );
    let log = boot(&machine, &steps);
    assert_eq!(machine.state("ops"), "current", "{log}");
    let mut history = log.lines().filter(|line| line.contains("succeeded")).peekable();
    assert!(history.peek().is_some() && history.all(|line| line.contains("timer")), "{log}");
    assert!(log.contains("/usr/local/forbidden': Read-only file system"), "{log}");
}
