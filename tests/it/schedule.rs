//! `agent schedule`: what is installed is what `bootstrap/` holds, everything else in a crontab stays,
//! and cron really runs it.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Child;

use pmpy::domain::hash::fraction;
use pmpy::system::host::Host;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};

const CRON_FILE: &str = "/etc/cron.d/pmpy";
const UNIT: &str = "/etc/systemd/system/pmpy.service";
const LINE: &str = "* * * * * /usr/local/bin/agent tick --trigger cron --splay 20s\n";

fn bootstrap(file: &str) -> String {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("bootstrap");
    fs::read_to_string(dir.join(file)).unwrap()
}

/// A daemon of the copy's, ended with it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn for_root_cron_gets_the_file_that_bootstrap_holds() {
    let machine = MachineCopy::new();
    let said = machine.agent(&["schedule", "cron"]).ok().stdout;
    assert_eq!(said, "installed /etc/cron.d/pmpy\n");
    assert_eq!(machine.read(CRON_FILE), bootstrap("cron/pmpy"));
    let meta = fs::metadata(machine.path(CRON_FILE)).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o644, "cron refuses what others may write");

    let said = machine.agent(&["schedule", "cron"]).ok().stdout;
    assert_eq!(said, "already installed: /etc/cron.d/pmpy\n");
    assert_eq!(machine.agent(&["schedule", "none", "--print"]).ok().stdout, "/etc/cron.d/pmpy\n");
    let said = machine.agent(&["schedule", "none"]).ok().stdout;
    assert_eq!(said, "removed /etc/cron.d/pmpy\n");
    assert!(!machine.path(CRON_FILE).exists());
    assert_eq!(machine.agent(&["schedule", "none"]).ok().stdout, "nothing was installed\n");
}

#[test]
fn a_cron_file_that_cron_ignores_is_reported_and_repaired() {
    let machine = MachineCopy::new();
    machine.agent(&["schedule", "cron"]).ok();
    let mine = format!("MAILTO=ops@example.org\n{}", bootstrap("cron/pmpy"));
    let file = machine.path(CRON_FILE);
    for (makes, reason) in [
        ("chmod 664 FILE", "its mode is 0664, not 0644"),
        ("chown 33 FILE", "it belongs to user 33, not to root"),
        ("mv FILE /etc/cron.real; ln -s /etc/cron.real FILE", "it is a symbolic link"),
        ("ln FILE /etc/cron.d/.second", "it has a second name, a hard link"),
    ] {
        machine.write(CRON_FILE, &mine);
        machine.sh(&makes.replace("FILE", CRON_FILE)).ok();
        let checked = machine.agent(&["check", "--offline"]).stdout;
        assert!(checked.contains(reason), "{makes}: {checked}");
        assert!(!checked.contains("All is well"), "{makes}: {checked}");
        let said = machine.agent(&["schedule", "cron"]).ok().stdout;
        assert!(said.starts_with(&format!("repaired {CRON_FILE}, which cron ignored: {reason}")));
        let meta = fs::symlink_metadata(&file).unwrap();
        assert!(meta.is_file() && meta.nlink() == 1 && meta.uid() == 0, "{makes}: {meta:?}");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o644, "{makes}");
        // What another user may have written does not become root's job.
        assert_eq!(machine.read(CRON_FILE), bootstrap("cron/pmpy"), "{makes}");
        let is_link = makes.contains("ln -s");
        assert_eq!(said.contains("backup of its other lines: /var/lib/pmpy/replaced/"), !is_link);
        machine.sh("! ls /var/lib/pmpy/replaced || grep -q MAILTO /var/lib/pmpy/replaced/*").ok();
        machine.sh("rm -f /etc/cron.d/.second /etc/cron.real").ok();
    }
    // A name with a dot is for people who put the line there themselves.
    machine.agent(&["schedule", "none"]).ok();
    machine.write("/etc/cron.d/pmpy.cron", &bootstrap("cron/pmpy"));
    let checked = machine.agent(&["check", "--offline"]).stdout;
    assert!(checked.contains("cron ignores /etc/cron.d/pmpy.cron: its name has"), "{checked}");
}

/// What `check` says about what makes the machine tick.
fn about_schedule(machine: &MachineCopy) -> String {
    let checked = machine.agent(&["check", "--offline"]).stdout;
    let lines: Vec<&str> = checked.lines().collect();
    let is_about = |line: &&str| line.split_whitespace().nth(1) == Some("schedule");
    let at = lines.iter().position(is_about).unwrap();
    let with_hint = lines.iter().skip(at).take(2);
    with_hint.flat_map(|line| line.split_whitespace()).collect::<Vec<_>>().join(" ")
}

#[test]
fn all_is_well_only_where_something_really_makes_the_machine_tick() {
    let machine = MachineCopy::new();
    let about = about_schedule(&machine);
    assert!(about.starts_with("warn schedule nothing here makes the agent tick"), "{about}");
    assert!(about.contains("hint: agent schedule cron"), "{about}");
    let shown = machine.agent(&["schedule"]).exits(1).stdout;
    assert!(shown.starts_with("nothing is installed\nhint: agent schedule cron"), "{shown}");
    let said = machine.agent(&["schedule", "cron"]).ok().stderr;
    assert!(said.contains("cron does not run"), "{said}");
    let shown = machine.agent(&["schedule"]).exits(1).stdout;
    assert!(shown.contains("and cron does not run\nhint: service cron start\n"), "{shown}");
    let about = about_schedule(&machine);
    assert!(
        about.starts_with("bad schedule nothing makes the agent tick: there is /etc/"),
        "{about}"
    );
    assert!(about.contains("and cron does not run hint: service cron start"), "{about}");
    let reported = machine.agent(&["status"]).stdout;
    assert!(reported.contains("and cron does not run\nhint: service cron start"), "{reported}");
    {
        let _cron = Daemon(machine.command(&["cron", "-f"]).spawn().unwrap());
        wait_until("cron runs", || {
            about_schedule(&machine)
                .starts_with("ok schedule /etc/cron.d/pmpy makes the agent tick")
        });
        let shown = machine.agent(&["schedule"]).ok().stdout;
        assert_eq!(shown, "/etc/cron.d/pmpy makes the agent tick\n");
        machine.sh("kill $(cat /run/crond.pid)").ok();
    }
    // The unit, where systemd does not run.
    machine.agent(&["schedule", "systemd"]).ok();
    let about = about_schedule(&machine);
    assert!(about.contains("there is pmpy.service, and systemd does not run here"), "{about}");
    // The line of another user's agent does not make this one tick.
    machine.agent(&["schedule", "none"]).ok();
    machine.as_pat("agent schedule cron").ok();
    assert!(about_schedule(&machine).contains("nothing here makes the agent tick"));
}

#[test]
fn where_cron_reads_no_system_crontabs_root_gets_a_line_in_the_own_crontab() {
    for (what, makes) in [
        ("BusyBox", "touch /usr/bin/busybox; ln -s /usr/bin/busybox /usr/sbin/crond"),
        ("dcron", "echo \"dillon's cron daemon\" > /usr/sbin/crond; chmod 755 /usr/sbin/crond"),
    ] {
        let machine = MachineCopy::new();
        machine.sh(&format!("rm -f /usr/sbin/cron /usr/sbin/crond; {makes}")).ok();
        // As it was copied from another machine.
        machine.write(CRON_FILE, &bootstrap("cron/pmpy"));
        let about = about_schedule(&machine);
        assert!(about.contains(&format!("does not read {CRON_FILE}")), "{what}: {about}");
        assert!(about.contains("hint: agent schedule cron"), "{what}: {about}");
        machine.agent(&["schedule", "cron"]).ok();
        // Without the user that a system crontab names.
        assert!(machine.sh("crontab -l").ok().stdout.ends_with(LINE), "{what}");
        let shown = machine.agent(&["schedule", "none", "--print"]).ok().stdout;
        assert_eq!(shown, "the crontab of root\n", "{what}");
        machine.agent(&["schedule", "none"]).ok();
        assert!(!machine.sh("crontab -l || true").ok().stdout.contains("agent"), "{what}");
    }
}

#[test]
fn what_to_install_is_named_for_the_package_manager_that_is_there() {
    for (manager, hint) in [
        ("dnf", "dnf install cronie"),
        ("apk", "apk add cronie"),
        ("pacman", "pacman -S cronie"),
        ("zypper", "zypper install cron"),
    ] {
        let machine = MachineCopy::new();
        machine
            .sh(&format!("rm -f /usr/sbin/cron /usr/bin/apt-get; touch /usr/bin/{manager}"))
            .ok();
        let ran = machine.agent(&["schedule", "cron"]).exits(1);
        assert!(ran.stderr.contains(&format!("hint: {hint}, then repeat this")), "{ran}");
    }
}

#[test]
fn what_an_administrator_added_to_the_file_stays() {
    let machine = MachineCopy::new();
    machine.agent(&["schedule", "cron"]).ok();
    let mine = format!("MAILTO=ops@example.org\n{}", bootstrap("cron/pmpy"));
    machine.write(CRON_FILE, &mine);
    machine.agent(&["schedule", "cron"]).ok();
    assert_eq!(machine.read(CRON_FILE), mine);
    machine.agent(&["schedule", "none"]).ok();
    assert_eq!(machine.read(CRON_FILE), "MAILTO=ops@example.org\n");
}

#[test]
fn a_user_gets_a_line_in_the_own_crontab_and_keeps_every_other() {
    let machine = MachineCopy::new();
    let mine = "MAILTO=pat\n# mine\n0 5 * * * date +\\%F\n";
    machine.sh(&format!("mkdir -p /home; cat > /tmp/mine <<'END'\n{mine}END")).ok();
    machine.as_pat("crontab /tmp/mine; agent schedule cron").ok();
    let crontab = machine.as_pat("crontab -l").ok().stdout;
    assert!(crontab.starts_with(mine), "{crontab}");
    assert!(crontab.ends_with(LINE), "{crontab}");
    assert!(!machine.path(CRON_FILE).exists());
    machine.as_pat("agent schedule none").ok();
    assert_eq!(machine.as_pat("crontab -l").ok().stdout, mine);
    // Where there was none, none is left.
    machine.as_pat("crontab -r; agent schedule cron; agent schedule none").ok();
    assert!(machine.as_pat("crontab -l").exits(1).stderr.contains("no crontab for pat"));
}

#[test]
fn print_shows_the_files_and_touches_nothing() {
    let machine = MachineCopy::new();
    for (how, file) in [("cron", "cron/pmpy"), ("systemd", "systemd/pmpy.service")] {
        assert_eq!(machine.agent(&["schedule", how, "--print"]).ok().stdout, bootstrap(file));
    }
    assert!(!machine.path(CRON_FILE).exists());
    assert!(!machine.path(UNIT).exists());
    assert_eq!(
        machine.agent(&["schedule", "none", "--print"]).ok().stdout,
        "nothing is installed\n"
    );
}

#[test]
fn for_a_world_of_its_own_nothing_is_installed_and_the_line_is_printed() {
    let machine = Sandbox::new();
    let said = machine.agent(&["schedule", "cron"]).ok().stdout;
    let root = machine.root();
    let line = format!("agent --root {} tick --trigger cron --splay 20s\n", text(&root));
    assert!(said.starts_with("To tick each minute, put this line into "), "{said}");
    assert!(said.ends_with(&line), "{said}");
    machine.agent(&["schedule", "none"]).ok();
}

#[test]
fn systemd_finds_nothing_to_say_about_the_unit() {
    let machine = MachineCopy::new();
    machine.write(UNIT, &bootstrap("systemd/pmpy.service"));
    let ran = machine.sh(&format!("systemd-analyze verify --man=no {UNIT}")).ok();
    assert!(!ran.stderr.contains("pmpy"), "{ran}");
}

#[test]
fn the_unit_takes_no_right_from_the_scripts_and_stops_without_them() {
    let unit = bootstrap("systemd/pmpy.service");
    let settings: Vec<&str> = unit.lines().filter(|line| !line.starts_with('#')).collect();
    for taken in ["NoNewPrivileges", "Protect", "Private", "Restrict", "Limit", "Capability"] {
        assert!(
            !settings.iter().any(|line| line.starts_with(taken)),
            "{taken}: scripts inherit it"
        );
    }
    for kept in ["KillMode=process", "WatchdogSec=2min", "NotifyAccess=main", "TasksMax=infinity"] {
        assert!(settings.contains(&kept), "{kept}");
    }
}

#[test]
fn the_drop_in_that_the_docs_show_is_one() {
    let machine = MachineCopy::new();
    let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let docs = fs::read_to_string(docs).unwrap();
    let shown = docs.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
    machine.write(UNIT, &bootstrap("systemd/pmpy.service"));
    machine.write(&format!("{UNIT}.d/fewer-rights.conf"), shown);
    let ran = machine.sh(&format!("systemd-analyze verify --man=no {UNIT}")).ok();
    assert!(!ran.stderr.contains("pmpy") && !ran.stderr.contains("fewer-rights"), "{ran}");
    // A word that systemd does not know is told.
    machine.write(&format!("{UNIT}.d/fewer-rights.conf"), "[Service]\nNoNewPrivilege=yes\n");
    let ran = machine.sh(&format!("systemd-analyze verify --man=no {UNIT} 2>&1 || true")).ok();
    assert!(ran.stdout.contains("NoNewPrivilege"), "{ran}");
}

#[test]
fn the_unit_takes_the_place_of_the_cron_line() {
    let machine = MachineCopy::new();
    machine.agent(&["schedule", "cron"]).ok();
    // systemd does not run in the copy; systemctl sees that and only makes the link.
    let ran = machine.agent(&["schedule", "systemd"]).ok();
    assert!(ran.stdout.contains("at the next boot"), "{ran}");
    assert_eq!(machine.read(UNIT), bootstrap("systemd/pmpy.service"));
    let link = machine.path("/etc/systemd/system/multi-user.target.wants/pmpy.service");
    assert!(link.symlink_metadata().is_ok());
    assert!(!machine.path(CRON_FILE).exists());
    machine.agent(&["schedule", "cron"]).ok();
    assert!(!machine.path(UNIT).exists());
    assert!(link.symlink_metadata().is_err());
    assert_eq!(machine.read(CRON_FILE), bootstrap("cron/pmpy"));
}

#[test]
fn a_machine_without_cron_is_shown_what_to_install() {
    let machine = MachineCopy::new();
    machine.sh("rm -f /usr/sbin/cron").ok();
    let ran = machine.agent(&["schedule", "cron"]).exits(1);
    assert!(ran.stderr.contains("there is no cron on this machine"), "{ran}");
    assert!(ran.stderr.contains("hint: apt-get install cron"), "{ran}");
    assert!(!machine.path(CRON_FILE).exists());
}

/// As the first users of the idea installed it.
const OLD_CRONTAB: &str = "MAILTO=\"\"\n* * * * *  /root/bin/cron_1m.sh\n";
const OLD_LOOP: &str = "#!/bin/bash\nfor dir in /root/gitrepo/*; do\n  cd $dir && git pull\n  \
                        ./bin/work/common/work.sh\ndone\n";

#[test]
fn the_loop_that_people_had_before_is_pointed_at_and_taken_over_with_one_command() {
    let machine = MachineCopy::new();
    machine.write("/root/bin/cron_1m.sh", OLD_LOOP);
    machine.write("/tmp/old", OLD_CRONTAB);
    machine.write("/etc/cron.d/site", "0 4 * * * www cd /srv/site && git pull\n");
    machine.sh("crontab /tmp/old").ok();

    let said = machine.agent(&["schedule", "cron"]).ok().stdout;
    assert!(said.contains("/crontabs/root:2: * * * * *  /root/bin/cron_1m.sh\n"), "{said}");
    assert!(said.ends_with("hint: agent schedule cron --replace replaces it\n"), "{said}");
    assert_eq!(machine.sh("crontab -l").ok().stdout, OLD_CRONTAB, "not without being asked");
    let checked = machine.agent(&["check", "--offline"]).stdout;
    assert!(checked.contains("cron_1m.sh"), "{checked}");
    let reported = machine.agent(&["status"]).stdout;
    assert!(reported.contains("warning: another loop pulls here: /var/spool/cron/"), "{reported}");
    assert!(reported.ends_with("hint: agent schedule cron --replace replaces it\n"), "{reported}");

    let said = machine.agent(&["schedule", "cron", "--replace"]).ok().stdout;
    assert!(
        said.contains("not changed, because it does not name /root/gitrepo: /etc/cron.d/site:1"),
        "{said}"
    );
    let crontab = machine.sh("crontab -l").ok().stdout;
    let lines: Vec<&str> = crontab.lines().collect();
    assert_eq!(lines[0], "MAILTO=\"\"");
    assert!(lines[1].starts_with("# 20") && lines[1].ends_with("took over from:"), "{crontab}");
    assert_eq!(lines[2..], ["# * * * * *  /root/bin/cron_1m.sh"]);
    let kept = fs::read_dir(machine.path("/var/lib/pmpy/replaced")).unwrap().next().unwrap();
    assert_eq!(fs::read_to_string(kept.unwrap().path()).unwrap(), OLD_CRONTAB);
    assert_eq!(machine.read("/etc/cron.d/site"), "0 4 * * * www cd /srv/site && git pull\n");
    assert!(!machine.agent(&["status"]).stdout.contains("another loop"));

    let said = machine.agent(&["schedule", "cron", "--replace"]).ok().stdout;
    assert!(!said.contains("commented out"), "{said}");
}

#[test]
fn a_user_takes_over_the_own_loop() {
    let machine = MachineCopy::new();
    let ran = machine.as_pat(
        "echo '* * * * * cd ~/gitrepo/ops && git pull -q && ./work.sh' | crontab -
         agent schedule cron --replace; crontab -l",
    );
    assert!(ran.stdout.contains("\n# * * * * * cd ~/gitrepo/ops"), "{ran}");
    assert!(ran.ok().stdout.ends_with(LINE));
}

/// A file of the copy's that is no UTF-8 text.
fn write_bytes(machine: &MachineCopy, path: &str, content: &[u8]) {
    let file = machine.path(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, content).unwrap();
}

#[test]
fn a_crontab_that_is_odd_stops_neither_schedule_nor_init_nor_the_taking_over_of_another() {
    let machine = MachineCopy::new();
    let spool = "/var/spool/cron/crontabs";
    let pulls = b"* * * * * cd /root/gitrepo/ops && git pull\n";
    let latin = [b"# f\xfcr alles\n", &pulls[..]].concat();
    // Somebody who is gone, what crontab(1) has not finished, a comment of other times, a directory, and one
    // that is larger than any crontab.
    for name in ["gone", "tmp.x1Y2z3"] {
        write_bytes(&machine, &format!("{spool}/{name}"), pulls);
    }
    write_bytes(
        &machine,
        "/etc/crontab",
        b"# f\xfcr alles\n* * * * * root cd ~/gitrepo/ops && git pull\n",
    );
    write_bytes(&machine, "/etc/cron.d/large", &vec![b'#'; 300 * 1024]);
    fs::create_dir(machine.path("/etc/cron.d/directory")).unwrap();
    write_bytes(&machine, "/tmp/mine", &latin);
    machine.sh("crontab /tmp/mine").ok();

    machine.sandbox.serve("ops", &[("work.sh", "true\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    let said = machine.agent(&["init", &url]).ok().stdout;
    assert!(
        said.contains("warning: whether another loop pulls here is unknown: /etc/cron.d/large")
    );
    assert!(said.contains("/crontabs/root:2: "), "as crontab -l shows it: {said}");
    assert!(!said.contains("gone") && !said.contains("tmp."), "{said}");
    let checked = machine.agent(&["check", "--offline"]).stdout;
    assert!(checked.contains("/crontabs/root:2: "), "{checked}");
    machine.agent(&["schedule", "systemd"]).ok();

    let ran = machine.agent(&["schedule", "cron", "--replace"]).exits(1);
    assert!(ran.stderr.contains("/etc/cron.d/large cannot be read"), "{ran}");
    fs::remove_file(machine.path("/etc/cron.d/large")).unwrap();
    machine.agent(&["schedule", "cron", "--replace"]).ok();
    for (path, lines) in [("/etc/crontab", 4), ("/tmp/after", 4)] {
        machine.sh("crontab -l > /tmp/after").ok();
        let content = fs::read(machine.path(path)).unwrap();
        assert!(content.starts_with(b"# f\xfcr alles\n# 20"), "{path}: byte for byte");
        let kept = content.split(|byte| *byte == b'\n').count();
        assert_eq!(kept, lines, "{}", content.escape_ascii());
    }
    assert_eq!(fs::read(machine.path(&format!("{spool}/gone"))).unwrap(), pulls);
}

#[test]
fn loops_about_other_directories_and_other_peoples_clones_are_left_alone() {
    let machine = MachineCopy::new();
    machine.as_pat("true").ok();
    machine.write("/home/pat/bin/cron_1m.sh", "cd ~/gitrepo/site && git pull\n");
    let theirs = "* * * * * /home/pat/bin/cron_1m.sh\n* * * * * cd ~/gitrepo/site && git pull\n";
    machine.write("/tmp/theirs", theirs);
    machine.sh("crontab -u pat /tmp/theirs").ok();
    let mine = "* * * * * cd /root/gitrepo-old/app && git pull\n";
    machine.write("/tmp/mine", mine);
    machine.sh("crontab /tmp/mine").ok();
    let of_pat = "* * * * * pat cd ~/gitrepo/site && git pull\n";
    machine.write("/etc/cron.d/site", of_pat);

    let said = machine.agent(&["schedule", "cron", "--replace"]).ok().stdout;
    assert_eq!(
        said.matches("not changed, because it does not name /root/gitrepo: ").count(),
        4,
        "{said}"
    );
    assert_eq!(machine.sh("crontab -l -u pat").ok().stdout, theirs);
    assert_eq!(machine.sh("crontab -l").ok().stdout, mine);
    assert_eq!(machine.read("/etc/cron.d/site"), of_pat);
}

#[test]
fn the_hint_names_what_is_installed_and_nothing_is_taken_over_without_something_that_pulls() {
    let machine = MachineCopy::new();
    machine.sh("echo '* * * * * cd ~/gitrepo/ops && git pull' | crontab -").ok();
    let said = machine.agent(&["schedule", "systemd"]).ok().stdout;
    assert!(said.ends_with("hint: agent schedule systemd --replace replaces it\n"), "{said}");
    let checked = machine.agent(&["check", "--offline"]).stdout;
    assert!(checked.contains("agent schedule systemd --replace replaces it"), "{checked}");

    let ran = machine.agent(&["schedule", "none", "--replace"]).exits(2);
    assert!(ran.stderr.contains("without a pull loop"), "{ran}");
    assert!(machine.path(UNIT).exists(), "and nothing is done");
    machine.agent(&["schedule", "systemd", "--replace"]).ok();
    assert!(machine.path(UNIT).exists());
    assert!(machine.sh("crontab -l").ok().stdout.contains("\n# * * * * * cd ~/gitrepo/ops"));
}

#[test]
fn what_ticks_is_taken_away_whatever_is_wrong_with_the_configuration() {
    let machine = MachineCopy::new();
    for (path, content) in
        [("/etc/pmpy/agent.toml", "this is none\n"), ("/root/nodeinfo/nodepart.txt", "../web\n")]
    {
        machine.agent(&["schedule", "cron"]).ok();
        machine.write(path, content);
        let said = machine.agent(&["schedule", "none"]).ok().stdout;
        assert!(said.starts_with("removed /etc/cron.d/pmpy\n"), "{path}: {said}");
        assert!(!machine.path(CRON_FILE).exists(), "{path}");
        fs::remove_file(machine.path(path)).unwrap();
    }
}

/// The second of the minute, with its fraction.
fn second_of_the_minute() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    now.as_secs_f64() % 60.0
}

#[test]
fn cron_runs_the_installed_line_and_a_push_is_applied_within_seventy_seconds() {
    let machine = MachineCopy::new();
    let runs = machine.sandbox.path("runs");
    let work = NOTES_ITS_RUNS.replace("$AGENT_ROOT/../runs", text(&runs));
    machine.sandbox.serve("ops", &[("work.sh", &work)]);
    let server = machine.sandbox.server("ops");
    machine.sh(&format!("git clone -q {} /root/gitrepo/ops", text(&server))).ok();
    machine.agent(&["schedule", "cron"]).ok();
    // This machine's part of the twenty seconds is the same in every minute, so that from one look to the
    // next it is a minute. Cron, which has only begun, has not looked in this one: a push ten seconds
    // behind the look that it missed waits for fifty.
    let node = Host::current();
    let splay = 20.0 * fraction(&[node.machine_id.as_bytes(), node.host.as_bytes()]);
    wait_until("a good moment", || (splay + 10.0..58.0).contains(&second_of_the_minute()));
    let _cron = Daemon(machine.command(&["cron", "-f"]).spawn().unwrap());
    let begun = std::time::Instant::now();
    let revision = machine.sandbox.push("ops", &[("page", "new\n")]);
    let acted = machine.path("/root/gitrepo/ops/.temp/nodeinfo/lastaction.txt");
    let wanted = format!("{revision}\n");
    while fs::read_to_string(&acted).ok().as_ref() != Some(&wanted) {
        assert!(begun.elapsed().as_secs() < 180, "cron did not run the line");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    println!("a push was acted upon after {:.0} s", begun.elapsed().as_secs_f64());
    wait_until("the status is told", || machine.state("ops") == "current");
    assert!(machine.sandbox.runs().iter().any(|run| *run == format!("start {revision} 1")));
}
