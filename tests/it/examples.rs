//! The repositories in `examples/` do what their README says, each on a whole machine of its own.

use std::fs;
use std::path::Path;

use crate::machine_copy::MachineCopy;
use crate::sandbox::text;

/// A machine that was made live with the example of this name.
fn live(name: &str, more: &[&str]) -> MachineCopy {
    let machine = MachineCopy::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let files: Vec<(String, String)> = machine
        .sandbox
        .files_below(&example)
        .iter()
        .map(|file| (text(file).to_owned(), fs::read_to_string(example.join(file)).unwrap()))
        .collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine.sandbox.serve(name, &files);
    let url = text(&machine.sandbox.server(name)).to_owned();
    machine.agent(&[&["init", &url], more].concat()).ok();
    assert_eq!(machine.state(name), "current");
    machine
}

#[test]
fn each_example_says_in_ten_lines_and_a_title_what_it_is() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut found = 0;
    for example in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if example.is_dir() {
            let readme = fs::read_to_string(example.join("README.md"))
                .unwrap_or_else(|error| panic!("{}: {error}", example.display()));
            assert!(readme.starts_with("# "), "{}", example.display());
            assert!(readme.lines().count() <= 12, "{} is longer", example.display());
            found += 1;
        }
    }
    assert!(found >= 9, "only {found} examples were found");
}

fn tick(machine: &MachineCopy) {
    let ran = machine.agent(&["tick", "--trigger", "cron"]).ok();
    assert_eq!(ran.stdout, "", "{ran}");
}

#[test]
fn one_site_serves_what_was_pushed_and_what_a_revert_brings_back() {
    let machine = live("one-site", &[]);
    let page = "/var/www/site/index.html";
    let first = machine.sh(&format!("cat {page}")).ok().stdout;
    assert!(first.contains("It works"), "{first}");
    machine.sandbox.push("one-site", &[("site/index.html", "broken")]);
    tick(&machine);
    assert_eq!(machine.sh(&format!("cat {page}")).ok().stdout, "broken");
    machine.sandbox.push_with("one-site", |desk| {
        machine.sandbox.git(desk, &["revert", "--no-edit", "HEAD"]);
    });
    tick(&machine);
    assert_eq!(machine.sh(&format!("cat {page}")).ok().stdout, first);
    assert_eq!(machine.sh("ls /var/www | grep -c site-").ok().stdout, "1\n", "old pages go");
}

#[test]
fn one_site_serves_its_pages_while_the_same_revision_is_applied_again() {
    let machine = live("one-site", &[]);
    let page = "/var/www/site/index.html";
    let first = machine.sh(&format!("cat {page}")).ok().stdout;
    for _ in 0..3 {
        machine.agent(&["redo", "one-site"]).ok();
        assert_eq!(machine.sh(&format!("cat {page}")).ok().stdout, first);
        assert_eq!(machine.sh("ls /var/www | grep -c site-").ok().stdout, "1\n", "old pages go");
    }
    // A run that fails in the middle leaves what is served.
    machine.write("/usr/local/sbin/cp", "#!/bin/sh\nexit 1\n");
    machine.sh("chmod 755 /usr/local/sbin/cp").ok();
    machine.agent(&["redo", "one-site"]).exits(1);
    assert_eq!(machine.sh(&format!("cat {page}")).ok().stdout, first);
}

#[test]
fn each_part_and_stack_gets_what_is_meant_for_it() {
    for (part, stack, files) in [
        (
            "balancer",
            "production",
            [("balancer.conf", Some("app1.example.org\n")), ("mail.conf", None)],
        ),
        ("appnode", "production", [("app.conf", Some("workers = 16\n")), ("mail.conf", None)]),
        (
            "appnode",
            "staging",
            [("app.conf", Some("workers = 2\n")), ("mail.conf", Some("nobody"))],
        ),
        ("database", "staging", [("app.conf", None), ("mail.conf", Some("nobody"))]),
        ("control", "production", [("app.conf", None), ("balancer.conf", None)]),
    ] {
        let machine = live("parts-and-stacks", &["--part", part, "--stack", stack]);
        let server = machine.read("/etc/shop/server");
        assert!(server.starts_with(&format!("part {part}, stack {stack}, revision ")), "{server}");
        for (file, content) in files {
            let found = fs::read_to_string(machine.path(&format!("/etc/shop/{file}"))).ok();
            match content {
                None => assert_eq!(found, None, "{part} of {stack}: {file}"),
                Some(part) => assert!(found.unwrap().contains(part), "{part} of {stack}: {file}"),
            }
        }
        let migrated = machine.path("/var/lib/shop/migrated/001-bonkles.sql").exists();
        assert_eq!(migrated, part == "database");
        assert_eq!(machine.read("/etc/motd").contains("control node"), part == "control");
    }
}

#[test]
fn the_backup_job_runs_by_the_clock_and_is_changed_by_a_push() {
    let machine = live("backup-job", &[]);
    let backups = || machine.sh("ls /var/backups/pmpy").ok().stdout.lines().count();
    assert_eq!(backups(), 1);
    let inside = machine.sh("tar -tzf /var/backups/pmpy/*.tar.gz").ok().stdout;
    assert!(inside.contains("etc/hosts\n"), "{inside}");
    tick(&machine);
    assert_eq!(backups(), 1, "none is due");
    // A day goes by.
    let older =
        "cd /var/backups/pmpy; for f in *; do touch -d '25 hours ago' $f; mv $f 2020$f; done";
    machine.sh(older).ok();
    tick(&machine);
    assert_eq!(backups(), 2, "one is due, and nobody pushed");
    let script = "echo none >> /root/changed\n";
    machine.sandbox.push("backup-job", &[("work.sh", script)]);
    tick(&machine);
    tick(&machine);
    assert_eq!(machine.read("/root/changed"), "none\nnone\n");
}

#[test]
fn the_log_of_the_backup_is_not_pushed_out_by_those_of_ticks_that_had_nothing_to_say() {
    let machine = live("backup-job", &[]);
    let logs = || machine.sh("ls /var/log/pmpy/backup-job").ok().stdout.lines().count();
    assert_eq!(logs(), 1);
    for _ in 0..3 {
        tick(&machine);
    }
    assert_eq!(logs(), 1);
    let reported = machine.agent(&["log", "backup-job"]).ok().stdout;
    assert!(reported.contains("/etc is in /var/backups/pmpy/"), "{reported}");
    let history = machine.agent(&["history", "backup-job", "--json"]).ok().stdout;
    assert!(history.contains("cron"), "that it ran is recorded: {history}");
}

#[test]
fn production_changes_in_its_hours_and_only_to_what_is_agreed_to() {
    let machine = live("production", &[]);
    let page = || machine.read("/srv/production/page.txt");
    assert_eq!(page(), "Release 1\n", "the first action waits for nothing");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/production");
    let config = fs::read_to_string(example.join("agent.toml")).unwrap();
    let url = text(&machine.sandbox.server("production")).to_owned();
    let config = config.replace("https://git.example.org/production.git", &url);
    // The test runs at any hour.
    let shut = config.replace("\"Mon-Thu 02:00-04:00\"", "\"2001-01-01\"");
    assert_ne!(shut, config);
    machine.write("/etc/pmpy/agent.d/production.toml", &shut);
    for name in ["may-act", "is-well"] {
        let program = fs::read_to_string(example.join(name)).unwrap();
        machine.write(&format!("/usr/local/bin/{name}"), &program);
    }
    machine
        .sh("cd /usr/local/bin; chmod 755 may-act is-well; mkdir -p /run; touch /run/maintenance")
        .ok();

    machine.sandbox.push("production", &[("page.txt", "Release 2\n")]);
    tick(&machine);
    assert_eq!((machine.state("production").as_str(), page().as_str()), ("behind", "Release 1\n"));
    machine.sandbox.push("production", &[(".pmpy.toml", "urgent = \"a hole\"\n")]);
    tick(&machine);
    assert_eq!(machine.state("production"), "waiting", "somebody works on the machine");
    machine.sh("rm /run/maintenance").ok();
    tick(&machine);
    assert_eq!((machine.state("production").as_str(), page().as_str()), ("current", "Release 2\n"));

    machine.sandbox.push("production", &[("page.txt", "")]);
    let ran = machine.agent(&["tick", "production", "--override", "try it"]).exits(1);
    assert!(ran.stdout.contains("page.txt is empty"), "{ran}");
    assert_eq!((machine.state("production").as_str(), page().as_str()), ("refused", "Release 2\n"));

    // Not well: back by itself, whatever the window says.
    let soon = shut.replace("health_within = \"2m\"", "health_within = \"1s\"");
    assert_ne!(soon, shut);
    machine.write("/etc/pmpy/agent.d/production.toml", &soon);
    machine.sandbox.push("production", &[("page.txt", "Internal Server Error\n")]);
    machine.agent(&["tick", "production", "--override", "try it"]).exits(1);
    assert_eq!(
        (machine.state("production").as_str(), page().as_str()),
        ("rolled-back", "Release 2\n")
    );
}
