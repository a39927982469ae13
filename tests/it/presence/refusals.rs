//! Servers that are away, hang, refuse or lie: the tick is as it is without presence, and a person is told why.

use std::process::Stdio;

use super::{
    STATUS, git, machine, own_ref, path_of, pause_is_over, publish, publish_at, published, reason,
    record, settles, tip,
};
use crate::sandbox::{Sandbox, set_mode, text};
use crate::servers::{Behaviour, Face, Https, Proxy};

/// A tick with a new revision, after the pause: its exit code and output, and what is applied.
fn tick_with_news(machine: &Sandbox, word: &str) -> (Option<i32>, String, Option<String>) {
    let revision = machine.push("ops", &[("page", word)]);
    pause_is_over(machine);
    let ran = machine.tick();
    let applied = machine.lastaction("ops");
    assert_eq!(applied.as_ref(), Some(&revision), "{ran}");
    (ran.code, ran.stdout + &ran.stderr, applied)
}

#[test]
fn a_status_server_that_is_away_changes_no_tick() {
    let machine = machine();
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url(STATUS));
    publish_at(&machine, &url, &format!("ca_file = {:?}", server.ca_file()));
    published(&machine);
    let (code, said, _) = tick_with_news(&machine, "with");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    settles(&machine);
    line.behave(Behaviour::ResetAfter(0));
    let (code, said, _) = tick_with_news(&machine, "without");
    assert_eq!((code, said.as_str()), (Some(0), ""));
    settles(&machine);
    assert!(record(&machine)["failure"]["since"].is_string());
    line.behave(Behaviour::Faithful);
    published(&machine);
}

#[test]
fn a_tick_ends_while_the_status_server_hangs() {
    let machine = machine();
    let server = Https::of(&machine);
    let line = Proxy::to(server.port(Face::Good));
    let url = line.url_of(&server.url(STATUS));
    let ca = format!("ca_file = {:?}", server.ca_file());
    publish_at(&machine, &url, &ca);
    published(&machine);
    line.behave(Behaviour::BlackHole);
    pause_is_over(&machine);
    // With a pipe, as cron has one: what publishes must not keep it open.
    let mut tick = machine.agent_command(&["tick", "--trigger", "cron"]);
    let ran = tick.stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    assert!(ran.status.success());
    crate::sandbox::wait_until("something hangs at the server", || {
        record(&machine)["sent"].is_array()
    });
    let lock = machine.root().join(".pmpy/presence.lock");
    let mut flock = machine.command("flock");
    let is_held = crate::sandbox::Ran::of(flock.args(["--nonblock", text(&lock), "true"]));
    assert_eq!(is_held.code, Some(1), "the tick ended, and what publishes still waits");
    machine.tick().ok();
    line.cut();
    settles(&machine);
}

#[test]
fn where_force_pushes_are_forbidden_history_is_needed_and_that_is_said() {
    let machine = machine();
    let server = Https::of(&machine);
    let ca = format!("ca_file = {:?}\n", server.ca_file());
    git(&machine, &["config", "receive.denyNonFastForwards", "true"]);
    publish_at(&machine, &server.url(STATUS), &ca);
    published(&machine);
    published(&machine);
    publish_at(&machine, &server.url(STATUS), &format!("{ca}history = false"));
    publish(&machine);
    let why = reason(&machine);
    assert!(why.contains("non-fast-forward") && why.contains("history = true"), "{why}");
    git(&machine, &["config", "receive.denyNonFastForwards", "false"]);
    let commit = published(&machine);
    assert_eq!(git(&machine, &["rev-list", "--count", &commit]), "1");
}

#[test]
fn a_hook_that_refuses_is_reported_after_one_push() {
    let machine = machine();
    let server = Https::of(&machine);
    publish_at(&machine, &server.url(STATUS), &format!("ca_file = {:?}", server.ca_file()));
    published(&machine);
    let hook = machine.server(STATUS).join("hooks/update");
    crate::sandbox::write_program(&hook, "#!/bin/sh\nexit 1\n");
    server.forget_requests();
    publish(&machine);
    let why = reason(&machine);
    assert!(why.contains("hook declined") && why.contains("may this key write"), "{why}");
    let pushes = server.requests().into_iter().filter(|it| it.uri.ends_with("git-receive-pack"));
    assert_eq!(pushes.count(), 1);
}

#[test]
fn a_server_without_receive_pack_is_reported_with_its_key() {
    let machine = machine();
    let server = Https::of(&machine);
    git(&machine, &["config", "http.receivepack", "false"]);
    publish_at(&machine, &server.url(STATUS), &format!("ca_file = {:?}", server.ca_file()));
    publish(&machine);
    assert!(reason(&machine).contains("http.receivepack = true"), "{}", reason(&machine));
}

#[test]
fn lies_of_a_server_are_no_success() {
    let machine = machine();
    let server = Https::of(&machine);
    let header = "printf 'Content-Type: application/x-git-receive-pack-result\\r\\n\\r\\n'";
    let lies = [
        "printf '000eunpack ok\\n0000'",
        "printf '0019ok refs/heads/other\\n0000'",
        "yes 0019ok | head -c 1000000",
        "printf 'zzzz'",
        "true",
    ];
    for (number, lie) in lies.iter().enumerate() {
        let script = format!(
            "PATH_INFO=${{PATH_INFO#/cgi/liar}}; export PATH_INFO\n\
             case \"$REQUEST_METHOD $PATH_INFO\" in\n\
             POST*receive-pack) {header}; {lie}; exit ;;\n\
             esac\nexec git http-backend\n"
        );
        server.answer_with("liar", &script);
        publish_at(
            &machine,
            &server.url_at("cgi/liar/", STATUS),
            &format!("ca_file = {:?}", server.ca_file()),
        );
        publish(&machine);
        let record = record(&machine);
        assert!(record["failure"]["reason"].is_string(), "{number}: {record:#}");
        assert!(record["last"].is_null(), "{number}: {record:#}");
    }
}

#[test]
fn a_broken_or_foreign_record_is_replaced() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let file = super::record_file(&machine);
    for damage in ["", "{", "{\"remote\": 7}", "null", "\0\0\0\0"] {
        std::fs::write(&file, damage).unwrap();
        machine.tick().ok();
        settles(&machine);
        let record = record(&machine);
        assert!(record["failure"].is_null() && record["contested"].is_null(), "{record:#}");
        assert!(record["last"]["commit"].is_string(), "{record:#}");
    }
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(machine.path("elsewhere"), &file).unwrap();
    std::fs::write(machine.path("elsewhere"), "foreign").unwrap();
    machine.tick().ok();
    settles(&machine);
    assert_eq!(std::fs::read_to_string(machine.path("elsewhere")).unwrap(), "foreign");
    let count = git(&machine, &["rev-list", "--count", &own_ref(&machine)]);
    assert_eq!(count, "7", "each publication has the last one as its parent");
}

#[test]
fn a_path_that_another_user_owns_is_not_written_into() {
    let machine = machine();
    set_mode(&machine.path(""), 0o755);
    crate::users::give_all(&machine.server(STATUS), 65534);
    publish_at(&machine, &path_of(&machine), "");
    publish(&machine);
    assert!(reason(&machine).contains("is not owned by current user"), "{}", reason(&machine));
    assert_eq!(tip(&machine), None);
}
