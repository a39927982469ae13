//! `agent fleet forget`: what is removed, what stays, and what a server that refuses is told about.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;

/// The branches of the status repository.
fn branches(status: &Status) -> Vec<String> {
    let refs = ["for-each-ref", "--format=%(refname:short)", "refs/heads"];
    status.machine.git(&status.path, &refs).lines().map(str::to_owned).collect()
}

/// Publications of two machines, of a user on each, and branches that are no machine's.
fn some(status: &Status) {
    for host in ["web01", "web02"] {
        status.publish(host, &at(host, "current", NEW));
        let mut of_user = at(host, "current", NEW);
        of_user["user"] = json!("deploy");
        status.put(&format!("{host}/deploy/state"), "status.json", of_user.to_string().as_bytes());
    }
    for name in ["main", "web01/root/state", "web01/notes"] {
        status.put(name, "status.json", b"{}");
    }
}

const OTHERS: [&str; 3] = ["main", "web01/notes", "web01/root/state"];

#[test]
fn a_machine_that_is_named_goes_with_all_its_users_publish_and_nothing_else_does() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    some(&status);
    let tip = machine.git(&status.path, &["rev-parse", "refs/heads/web01/state"]);
    let before = branches(&status);
    let dry = status.forget(&["web01", "--dry-run"]).ok().stdout;
    let short = &tip[..7];
    let shown = [format!("    web01/state at {short}\n"), "    web01/deploy/state at".to_owned()];
    assert!(shown.iter().all(|line| dry.contains(line.as_str())), "{dry}");
    assert_eq!(branches(&status), before);
    let wrong = status.forget(&["web01", "web09"]).exits(2).stderr;
    assert!(
        wrong.contains("web09: no machine of") && wrong.contains("nothing was removed"),
        "{wrong}"
    );
    assert_eq!(branches(&status), before, "one wrong name stops all");
    let said = status.forget(&["web02/deploy", "web01"]).ok().stdout;
    let line = format!("web01: removed; its branch web01/state was at {tip}\n");
    assert!(said.contains(&line) && said.lines().count() == 3, "{said}");
    assert_eq!(branches(&status), [&OTHERS[..], &["web02/state"]].concat());
    // Nothing is left of them here, nor would it have been looked up again.
    let kept = fs::read_dir(machine.root().join(".pmpy/fleet")).unwrap();
    let kept: String = kept.map(|it| fs::read_to_string(it.unwrap().path()).unwrap()).collect();
    assert!(!kept.contains("web01") && kept.contains("web02"), "{kept}");
    assert!(status.fleet(&[]).ok().stdout.contains("1 machine ·"));
}

#[test]
fn what_was_not_named_is_removed_after_a_question_only() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    some(&status);
    let before = branches(&status);
    let line = ["fleet", "forget", "web0?", "--url", text(&status.path)];
    let unasked = machine.agent(&line).exits(2);
    assert!(unasked.stderr.contains("agent fleet forget 'web0?' --url URL --yes"), "{unasked}");
    assert_eq!(branches(&status), before);
    let no = machine.on_terminal(80, "n\n", &line).exits(1).stdout;
    assert!(no.contains("web02/deploy/state at") && no.contains("nothing was removed"), "{no}");
    assert_eq!(branches(&status), before);
    machine.on_terminal(80, "y\n", &line).ok();
    assert_eq!(branches(&status), OTHERS);
}

#[test]
fn a_repository_called_forget_is_shown_behind_two_dashes() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let mut row = row("current", NEW);
    row["name"] = json!("forget");
    status.publish("web01", &presence("web01", json!([row])));
    let shown = status.fleet(&["--", "forget"]).ok().stdout;
    assert!(shown.contains("forget: main is 6b2c3d7"), "{shown}");
    let late = Status::on(&Sandbox::new()).fleet(&["forget", "web01"]).exits(2).stderr;
    assert!(late.contains("agent fleet forget HOST"), "{late}");
}

#[test]
fn the_silent_are_those_of_whom_this_reader_knows_it() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let old = |host: &str, days: i64| {
        let mut old = at(host, "current", NEW);
        old["at"] = json!(ago(Duration::days(days)));
        status.publish(host, &old);
        old
    };
    old("web01", 0);
    let mut never = old("never", 20);
    never["every"] = json!(0);
    status.publish("never", &never);
    status.put("text/state", "status.json", b"it is fine");
    old("old01", 20);
    old("old02", 20);
    old("new01", 5);
    let silent = |more: &[&str]| status.forget(&[&["--silent", "14d"], more].concat());
    let doubt = silent(&["--yes"]).ok().stdout;
    assert!(doubt.contains("old01: stays: no sign since 20 days ago"), "{doubt}");
    assert!(doubt.contains("by no clock but its own") && !doubt.contains("new01"), "{doubt}");
    assert_eq!(branches(&status).len(), 6);
    // This reader saw them long ago, and nothing since. One of them is there again.
    for entry in fs::read_dir(machine.root().join(".pmpy/fleet")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(mut kept) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else {
            continue;
        };
        for (name, sighting) in kept["refs"].as_object_mut().unwrap() {
            let days = if name.contains("new01") { 5 } else { 18 };
            sighting["first_seen"] = json!(ago(Duration::days(days)));
        }
        fs::write(path, kept.to_string()).unwrap();
    }
    old("old02", 20);
    old("web01", 0);
    let dry = silent(&["--dry-run"]).ok().stdout;
    assert!(dry.contains("old01/state at") && dry.contains("no sign since 20 days ago"), "{dry}");
    assert_eq!(dry.lines().count(), 2, "{dry}");
    silent(&["--yes"]).ok();
    assert_eq!(
        branches(&status),
        ["never/state", "new01/state", "old02/state", "text/state", "web01/state"]
    );
    let none = silent(&[]).ok().stdout;
    assert!(none.ends_with("is silent for so long\n"), "{none}");
}

#[test]
fn a_path_whose_owner_forbids_removals_is_respected() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    machine.git(&status.path, &["config", "receive.denyDeletes", "true"]);
    let refused = status.forget(&["web01"]).exits(1).stderr;
    assert!(refused.contains("does not remove web01: deletion prohibited"), "{refused}");
    machine.git(&status.path, &["config", "receive.denyDeletes", "false"]);
    status.forget(&["web01"]).ok();
}

#[cfg(feature = "servers")]
#[test]
fn over_https_a_refusal_is_explained_and_three_hundred_machines_go_in_four_pushes() {
    use crate::servers::Https;

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let server = Https::of(&machine);
    machine.git(&status.path, &["config", "http.receivepack", "true"]);
    machine.configure(&format!("[defaults]\nca_file = {:?}\n", server.ca_file()));
    let url = server.url("status");
    status.publish("web01", &at("web01", "current", NEW));
    let tip = machine.git(&status.path, &["rev-parse", "refs/heads/web01/state"]);
    let refs: String =
        (0..300).map(|it| format!("create refs/heads/old{it:03}/state {tip}\n")).collect();
    let list = machine.path("refs");
    fs::write(&list, refs).unwrap();
    let mut update = machine.command("git");
    update.args(["-C", text(&status.path), "update-ref", "--stdin"]);
    assert!(update.stdin(fs::File::open(list).unwrap()).status().unwrap().success());

    let forget = |arguments: &[&str]| {
        let line = [&["fleet", "forget", "--url", &url], arguments].concat();
        machine.agent(&line)
    };
    machine.git(&status.path, &["config", "receive.denyDeletes", "true"]);
    let refused = forget(&["web01"]).exits(1).stderr;
    assert!(refused.contains("does not remove web01: deletion prohibited"), "{refused}");
    assert!(refused.contains("hint: in the repository on the server: git config"), "{refused}");
    machine.git(&status.path, &["config", "receive.denyDeletes", "false"]);

    // The hook of docs/presence.md, of a key that is another machine's.
    let hook = status.path.join("hooks/update");
    fs::write(&hook, "#!/bin/sh\ncase \"$1\" in \"refs/heads/old0\"*) exit 0 ;; esac; exit 1\n")
        .unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let own = forget(&["web01", "old000"]).exits(1);
    assert!(own.stderr.contains("does not remove web01: hook declined"), "{own}");
    assert!(own.stderr.contains("key_file below [defaults]"), "{own}");
    assert!(own.stdout.starts_with("old000: removed"), "what may be removed is: {own}");
    fs::remove_file(&hook).unwrap();

    server.forget_requests();
    let said = forget(&["old*", "--yes"]).ok().stdout;
    assert_eq!(said.matches(": removed; ").count(), 299);
    let posts = server.requests();
    let pushes = posts.iter().filter(|it| format!("{it:?}").contains("git-receive-pack")).count();
    assert_eq!(pushes, 3, "{posts:#?}");
    assert_eq!(branches(&status), ["web01/state"]);
}

#[cfg(feature = "servers")]
#[test]
fn over_ssh_a_machine_that_publishes_in_the_same_second_stays_and_is_named() {
    use crate::servers::Sshd;

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    for host in ["web01", "web02"] {
        status.publish(host, &at(host, "failing", OLD));
    }
    let before = machine.git(&status.path, &["rev-parse", "refs/heads/web02/state"]);
    status.publish("web02", &at("web02", "current", NEW));
    let after = machine.git(&status.path, &["rev-parse", "refs/heads/web02/state"]);
    machine.git(&status.path, &["update-ref", "refs/heads/web02/state", &before]);
    // It publishes while the removal is on its way.
    let hook = status.path.join("hooks/pre-receive");
    let publishes = format!(
        "#!/bin/sh\nunset GIT_QUARANTINE_PATH\nexec git update-ref refs/heads/web02/state {after}\n"
    );
    fs::write(&hook, publishes).unwrap();
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    let server = Sshd::of(&machine);
    let (key, hosts) = (server.client_key(), server.known_hosts());
    machine.configure(&format!("[defaults]\nkey_file = {key:?}\nknown_hosts = {hosts:?}\n"));
    let url = server.url("status");
    let ran = machine.agent(&["fleet", "forget", "web01", "web02", "--url", &url]).exits(1).stdout;
    assert!(ran.contains("web01: removed"), "{ran}");
    let stays =
        format!("web02: stays: it has published meanwhile, and web02/state is at {}", &after[..7]);
    assert!(ran.contains(&stays), "{ran}");
    assert_eq!(branches(&status), ["web02/state"]);
}
