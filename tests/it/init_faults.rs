//! `agent init` on machines that lack something, or that somebody else worked on before: what can be
//! done is done, the rest is told with the next step, and once it is put right the next tick, or the
//! same command again, goes on.

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, text};
#[cfg(feature = "servers")]
use crate::servers::Https;

const CRON_FILE: &str = "/etc/cron.d/pmpy";

/// A machine, and a repository whose scripts note that they ran.
fn machine() -> MachineCopy {
    let machine = MachineCopy::new();
    let files = [
        ("bin/init/common/init.sh", "echo init >> /root/runs\n"),
        ("bin/work/common/work.sh", "echo work >> /root/runs\n"),
    ];
    machine.sandbox.serve("ops", &files);
    machine
}

fn init(machine: &MachineCopy, more: &[&str]) -> Ran {
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&[&["init", &url], more].concat())
}

#[track_caller]
fn says(ran: &Ran, words: &[&str]) {
    for word in words {
        assert!(ran.stdout.contains(word) || ran.stderr.contains(word), "no \"{word}\" in\n{ran}");
    }
}

/// Sure that init and work ran once each.
#[track_caller]
fn is_live(machine: &MachineCopy) {
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.read("/root/runs"), "init\nwork\n");
}

#[test]
fn without_git_nothing_is_missing() {
    let machine = machine();
    machine.sh("rm -f $(which -a git); ! command -v git").ok();
    init(&machine, &[]).ok();
    is_live(&machine);
    machine.sandbox.push("ops", &[("page", "new")]);
    machine.agent(&["tick"]).ok();
    assert_eq!(machine.read("/root/runs"), "init\nwork\nwork\n");
}

#[test]
fn without_systemd_the_unit_is_refused_before_anything_is_written_and_cron_is_named() {
    let machine = machine();
    machine.sh("rm -rf /usr/bin/systemctl /bin/systemctl /etc/systemd/system").ok();
    let ran = init(&machine, &["--schedule", "systemd"]).exits(1);
    says(&ran, &["no schedule is installed", "there is no systemd on this machine"]);
    says(&ran, &["hint: agent schedule cron"]);
    is_live(&machine);
    assert!(!machine.path("/etc/systemd/system").exists());
    machine.agent(&["schedule", "cron"]).ok();
    machine.agent(&["schedule", "systemd"]).exits(1);
    assert!(machine.path(CRON_FILE).exists(), "what ticks is not taken away");
}

#[test]
fn on_a_read_only_etc_what_is_not_done_is_listed() {
    let machine = machine();
    machine.sh("mount -o bind /etc /etc && mount -o remount,bind,ro /etc").ok();
    let ran = init(&machine, &["--part", "web"]).exits(1);
    says(&ran, &["Done: this machine is part web", "Not done: the configuration", "/etc/pmpy"]);
    says(&ran, &["Read-only file system", "run the same command again"]);
    machine.sh("umount /etc").ok();
    init(&machine, &["--part", "web"]).ok();
    is_live(&machine);
}

#[test]
fn where_cron_has_no_place_to_write_to_the_machine_is_live_and_says_that_nothing_ticks() {
    let machine = machine();
    machine.sh("mount -t tmpfs -o ro none /etc/cron.d").ok();
    let ran = init(&machine, &[]).exits(1);
    says(&ran, &["no schedule is installed", "/etc/cron.d", "Read-only file system"]);
    is_live(&machine);
    machine.sh("umount /etc/cron.d").ok();
    init(&machine, &[]).ok();
    assert!(machine.path(CRON_FILE).exists());
    is_live(&machine);
}

#[test]
fn on_a_full_disk_the_clone_waits_for_space_and_the_next_tick_finishes() {
    let machine = machine();
    machine
        .sh("mkdir /root/gitrepo && mount -t tmpfs -o size=64k none /root/gitrepo
             dd if=/dev/zero of=/root/gitrepo/.ballast bs=4k 2>/dev/null || true")
        .ok();
    let ran = init(&machine, &[]).exits(1);
    says(&ran, &["No space left on device", "Not ready yet: ops. The next tick retries"]);
    says(&ran, &["free some space"]);
    assert_eq!(machine.state("ops"), "failing", "the remote is not to blame");
    assert!(machine.path(CRON_FILE).exists() && !machine.path("/root/runs").exists(), "{ran}");
    machine.sh("rm /root/gitrepo/.ballast && mount -o remount,size=64m /root/gitrepo").ok();
    machine.agent(&["tick", "ops"]).ok();
    is_live(&machine);
}

#[test]
fn a_clone_made_by_hand_is_adopted_with_what_is_in_it() {
    let machine = machine();
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine
        .sh(&format!(
            "git clone -q {url} /root/gitrepo/ops; echo mine > /root/gitrepo/ops/notes.txt"
        ))
        .ok();
    init(&machine, &[]).ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.read("/root/gitrepo/ops/notes.txt"), "mine\n");
    assert_eq!(machine.read("/root/runs"), "work\n", "init.sh is for clones of the agent's");
}

#[test]
fn what_lies_where_the_clone_belongs_and_is_none_is_left_alone_and_named() {
    let machine = machine();
    machine.write("/root/gitrepo/ops/precious", "mine");
    let ran = init(&machine, &[]).exits(1);
    says(&ran, &["is not a repository and is not empty; move its content away"]);
    assert_eq!(machine.read("/root/gitrepo/ops/precious"), "mine");
    machine.sh("mv /root/gitrepo/ops /root/aside").ok();
    machine.agent(&["tick", "ops"]).ok();
    is_live(&machine);
}

#[test]
fn a_file_where_the_clone_belongs_is_left_alone_and_named() {
    let machine = machine();
    machine.write("/root/gitrepo/ops", "mine");
    let ran = init(&machine, &[]).exits(1);
    says(&ran, &["the path of the clone is not a directory; move it away"]);
    assert_eq!(machine.state("ops"), "broken");
    assert_eq!(machine.read("/root/gitrepo/ops"), "mine");
    machine.sh("rm /root/gitrepo/ops").ok();
    machine.agent(&["tick", "ops"]).ok();
    is_live(&machine);
}

#[test]
fn a_root_that_may_not_be_written_is_reported_at_once_with_what_to_do() {
    let machine = machine();
    machine.sh("mkdir /root/gitrepo && mount -t tmpfs -o ro none /root/gitrepo").ok();
    let ran = init(&machine, &[]).exits(1);
    says(&ran, &["Read-only file system", "make the file system writable"]);
    assert_eq!(machine.state("ops"), "failing");
    // Cron's tick mails it at once, and once.
    machine.sh("rm -rf /var/lib/pmpy/*").ok();
    let ran = machine.agent(&["tick", "--trigger", "cron"]).exits(1);
    says(&ran, &["ops: failing", "make the file system writable"]);
    machine.sh("umount /root/gitrepo").ok();
    machine.agent(&["tick", "ops"]).ok();
    is_live(&machine);
}

#[test]
fn a_branch_that_names_a_part_which_this_machine_does_not_have_is_broken_before_it_is_cloned() {
    let machine = machine();
    let ran = init(&machine, &["--branch", "{part}"]).exits(1);
    says(&ran, &["branch = \"{part}\" needs to know this machine's part"]);
    assert_eq!(machine.state("ops"), "broken");
}

#[test]
fn a_clone_of_another_address_is_adopted_and_said_to_come_from_there() {
    let machine = machine();
    machine.sandbox.serve("other", &[("work.sh", "true\n")]);
    let other = text(&machine.sandbox.server("other")).to_owned();
    machine.sh(&format!("git clone -q {other} /root/gitrepo/ops")).ok();
    let ran = init(&machine, &[]);
    says(&ran, &[&format!("ops: the existing clone comes from {other}; from now on it follows ")]);
}

#[cfg(feature = "servers")]
#[test]
fn under_a_clock_of_1970_tls_says_what_the_clock_says_and_the_next_tick_finishes() {
    let machine = machine();
    let server = Https::of(&machine.sandbox);
    let authority = std::fs::read_to_string(server.ca_file()).unwrap();
    machine.write("/etc/pmpy/ca.pem", &authority);
    machine.write("/etc/pmpy/agent.toml", "[defaults]\nca_file = \"/etc/pmpy/ca.pem\"\n");
    let url = server.url("ops");
    let clock = ["env", "NO_FAKE_STAT=1", "faketime", "-f", "@1970-01-02 00:00:00"];
    let line = [&clock[..], &["agent", "init", &url]].concat();
    let ran = Ran::of(&mut machine.command(&line)).exits(1);
    says(&ran, &["the clock says 1970-01-02", "Not ready yet: ops"]);
    assert!(machine.path(CRON_FILE).exists());
    machine.agent(&["tick", "ops"]).ok();
    is_live(&machine);
}

/// The scripts of the first users, as they told them; the loop is what their `init.sh` installs.
const OLD_INIT: &str = "\
#!/bin/bash
mkdir -p /root/bin
cp bin/init/common/cron_1m.sh /root/bin/
chmod +x /root/bin/cron_1m.sh
crontab - <<'END'
MAILTO=\"\"
* * * * *  /root/bin/cron_1m.sh
END
";
const OLD_LOOP: &str = "\
#!/bin/bash
mkdir -p /root/log
for repo in /root/gitrepo/*/; do
    name=$(basename $repo)
    cd $repo
    if [[ -e ./.temp/nodeinfo/currentaction.txt ]]; then continue; fi
    echo \"Start $(date +%Y%m%d-%H%M%S)\" >> /root/log/${name}_log.txt
    git pull >> /root/log/${name}_log.txt 2>> /root/log/${name}_error.txt
    source bin/work/common/work.sh
    echo \"Finish $(date +%Y%m%d-%H%M%S)\" >> /root/log/${name}_log.txt
done
";

#[test]
fn a_repository_of_the_first_users_does_what_it_did_and_its_own_loop_is_replaced_by_one_command() {
    let machine = MachineCopy::new();
    let ladder = ["common", "part/appnode", "stacktype/shop", "stacktype/shop/part/appnode"];
    let note = |step: &str, place: &str| format!("echo {step}:{place} >> /root/runs\n");
    let mut files = vec![("bin/init/common/cron_1m.sh".to_owned(), OLD_LOOP.to_owned())];
    for place in ladder {
        let old = if place == "common" { OLD_INIT } else { "" };
        let init = format!("{old}{}", note("init", place));
        files.push((format!("bin/init/{place}/init.sh"), init));
        files.push((format!("bin/work/{place}/work.sh"), note("work", place)));
    }
    files.push((".gitignore".to_owned(), ".temp\n".to_owned()));
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine.sandbox.serve("ops", &files);

    let ran = init(&machine, &["--part", "appnode", "--stack", "shop"]).ok();
    says(&ran, &["another loop pulls here: ", "hint: agent schedule cron --replace replaces it"]);
    let all = |step: &str| ladder.map(|place| format!("{step}:{place}\n")).concat();
    assert_eq!(machine.read("/root/runs"), all("init") + &all("work"));
    let crontab = machine.sh("crontab -l").ok().stdout;
    assert_eq!(crontab, "MAILTO=\"\"\n* * * * *  /root/bin/cron_1m.sh\n");
    says(&machine.agent(&["status"]), &["agent schedule cron --replace replaces it"]);

    machine.agent(&["schedule", "cron", "--replace"]).ok();
    let crontab = machine.sh("crontab -l").ok().stdout;
    assert!(crontab.lines().skip(1).all(|line| line.starts_with('#')), "{crontab}");
    let revision = machine.sandbox.push("ops", &[("page", "new")]);
    machine.agent(&["tick", "--trigger", "cron"]).ok();
    assert_eq!(machine.read("/root/runs"), all("init") + &all("work") + &all("work"));
    let acted = machine.read("/root/gitrepo/ops/.temp/nodeinfo/lastaction.txt");
    assert_eq!(acted, format!("{revision}\n"));
    assert!(!machine.path("/root/gitrepo/ops/.temp/nodeinfo/currentaction.txt").exists());
}
