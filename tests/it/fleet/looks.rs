//! What a look asks the server for, what it keeps, and what it makes of publications that are wrong.

use std::fs;

use serde_json::json;

use super::*;

#[test]
fn what_is_wrong_with_one_machine_is_said_of_it_and_stops_no_other() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    status.put("text/state", "status.json", b"it is fine");
    status.put("large/state", "status.json", &vec![b' '; (1 << 20) + 1]);
    status.put("other/state", "readme.txt", b"hello");
    status.publish("thief", &at("web01", "failing", NEW));
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    status.put("deep/state", "status.json", &deep);
    // Branches that are no machine's.
    for name in ["main", "web01/root/state"] {
        status.put(name, "status.json", b"{}");
    }
    let said = status.json();
    let names: Vec<_> = said["machines"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(names.len(), 6, "{said:#}");
    assert_eq!(said["counts"], json!({"current": 1, "unreadable": 5}));
    for (name, why) in [
        ("text", "cannot be read"),
        ("large", "larger than"),
        ("other", "no status.json"),
        ("thief", "another machine"),
        ("deep", "cannot be read"),
    ] {
        let found = said["machines"].as_array().unwrap().iter().find(|it| it["name"] == name);
        let unreadable = found.unwrap()["unreadable"].as_str().unwrap();
        assert!(unreadable.contains(why), "{name}: {unreadable}");
    }
    let shown = status.fleet(&[]).exits(1).stdout;
    assert!(shown.contains("2 other branches"), "{shown}");
}

#[test]
fn a_ref_that_is_deleted_is_no_machine_any_longer() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    status.publish("web02", &at("web02", "failing", OLD));
    status.fleet(&[]).exits(1);
    machine.git(&status.path, &["update-ref", "-d", "refs/heads/web02/state"]);
    let shown = status.fleet(&[]).ok().stdout;
    assert!(shown.contains("1 machine\n") && !shown.contains("web02"), "{shown}");
}

#[test]
fn a_damaged_cache_and_what_a_killed_look_left_are_no_trouble() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    status.fleet(&[]).ok();
    let kept = machine.root().join(".pmpy/fleet");
    let file = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
    let file =
        file.into_iter().find(|path| path.extension().is_some_and(|it| it == "json")).unwrap();
    for damage in ["", "{", "null", "[]", r#"{"format":7}"#] {
        fs::write(&file, damage).unwrap();
        let left = file.with_extension("incoming");
        fs::create_dir_all(left.join("objects/.git/objects")).unwrap();
        fs::write(left.join("objects/x"), "left").unwrap();
        let shown = status.fleet(&[]).ok().stdout;
        assert!(shown.contains("web01"), "{damage:?}: {shown}");
        assert!(!left.exists(), "{damage:?}");
    }
}

#[test]
fn a_status_repository_of_sha_256_is_read() {
    let machine = Sandbox::new();
    let status = Status::with_format(&machine, "sha256");
    status.publish("web01", &at("web01", "current", NEW));
    assert!(status.fleet(&[]).ok().stdout.contains("web01"));
    status.publish("web01", &at("web01", "failing", NEW));
    status.fleet(&[]).exits(1);
}

#[cfg(feature = "servers")]
#[test]
fn a_look_at_a_fleet_that_did_not_move_is_one_request_and_at_one_that_moved_two() {
    use crate::servers::Https;

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    for number in 0..20 {
        let host = format!("web{number:02}");
        status.publish(&host, &at(&host, "current", NEW));
    }
    let server = Https::of(&machine);
    machine.configure(&format!("[defaults]\nca_file = {:?}\n", server.ca_file()));
    let url = server.url("status");
    let look = || {
        server.forget_requests();
        let shown = machine.agent(&["fleet", "--url", &url]).ok().stdout;
        assert!(shown.contains("20 machines"), "{shown}");
        server.requests().len()
    };
    look();
    assert_eq!(look(), 1);
    assert_eq!(look(), 1);
    for host in ["web03", "web04", "web05"] {
        status.publish(host, &at(host, "ahead", NEW));
    }
    assert_eq!(look(), 2, "{:#?}", server.requests());
    assert_eq!(look(), 1);
}

#[cfg(feature = "servers")]
#[test]
fn a_fleet_is_seen_over_ssh_with_the_key_of_the_defaults() {
    use crate::servers::Sshd;

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    let server = Sshd::of(&machine);
    let (key, hosts) = (server.client_key(), server.known_hosts());
    machine.configure(&format!("[defaults]\nkey_file = {key:?}\nknown_hosts = {hosts:?}\n"));
    let url = server.url("status");
    let shown = machine.agent(&["fleet", "--url", &url]).ok().stdout;
    assert!(shown.contains("web01"), "{shown}");
}

#[cfg(feature = "servers")]
#[test]
fn a_fleet_is_seen_with_the_password_that_a_program_prints() {
    use crate::servers::{Https, PASSWORD, USER};

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &at("web01", "current", NEW));
    let server = Https::of(&machine);
    machine.configure(&format!(
        "[presence]\nurl = {:?}\nca_file = {:?}\nusername = {USER:?}\n\
         password_command = [\"/bin/echo\", {PASSWORD:?}]\n",
        server.url_at("auth/", "status"),
        server.ca_file(),
    ));
    let shown = machine.agent(&["fleet"]).ok().stdout;
    assert!(shown.contains("web01"), "{shown}");
}
