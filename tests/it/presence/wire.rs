//! What a publication costs on the wire, and how it heals when the ref is not where it was left.

use std::fs;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use super::{
    LONG_AGO, STATUS, edit_record, git, machine, own_ref, path_of, pause_is_over, publication,
    publish, publish_at, published, record, serve_status, settles, tip,
};
use crate::idle::{calls_of_a_tick, writes};
use crate::sandbox::{Ran, Sandbox, text, wait_until};
use crate::servers::{Https, PASSWORD, Request, Sshd, USER};

/// What was asked, each as method and end of the address.
fn asked(requests: &[Request]) -> Vec<String> {
    let of_one = |request: &Request| {
        let end = request.uri.split("status.git/").nth(1).unwrap_or(&request.uri).to_owned();
        format!("{} {end} {}", request.method, request.status)
    };
    let is_about_status = |request: &&Request| request.uri.contains("status.git");
    requests.iter().filter(is_about_status).map(of_one).collect()
}

fn over_https(server: &Https, machine: &Sandbox, url: &str, more: &str) {
    publish_at(machine, url, &format!("ca_file = {:?}\n{more}", server.ca_file()));
}

const PUSH: &str = "POST git-receive-pack 200";
const LOOK: &str = "POST git-upload-pack 200";

#[test]
fn a_publication_over_https_is_one_post() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    published(&machine);
    server.forget_requests();
    let second = published(&machine);
    assert_eq!(asked(&server.requests()), [PUSH]);
    assert_eq!(git(&machine, &["rev-list", "--count", &second]), "2", "the first is its parent");
    git(&machine, &["fsck", "--strict"]);
}

#[test]
fn a_publication_over_ssh_is_one_command() {
    let machine = machine();
    let server = Sshd::of(&machine);
    let keys =
        format!("key_file = {:?}\nknown_hosts = {:?}\n", server.client_key(), server.known_hosts());
    publish_at(&machine, &server.url(STATUS), &keys);
    published(&machine);
    let before = server.commands().len();
    published(&machine);
    let commands = server.commands();
    let push = format!("git-receive-pack '{}'", machine.server(STATUS).display());
    assert_eq!(commands.len(), before + 1, "{commands:#?}");
    assert!(commands[before].ends_with(&push), "{commands:#?}");
}

#[test]
fn a_path_is_published_at_without_any_program_of_git() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    published(&machine);
    let second = published(&machine);
    assert_eq!(git(&machine, &["rev-list", "--count", &second]), "2");
    git(&machine, &["fsck", "--strict"]);
}

#[test]
fn a_repository_with_sha_256_takes_publications_too() {
    let machine = machine();
    fs::remove_dir_all(machine.server(STATUS)).unwrap();
    serve_status(&machine, &["--object-format=sha256"]);
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    published(&machine);
    server.forget_requests();
    assert_eq!(published(&machine).len(), 64);
    assert_eq!(asked(&server.requests()), [PUSH]);
}

#[test]
fn an_idle_tick_publishes_nothing_and_starts_nothing() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    published(&machine);
    machine.tick().ok();
    settles(&machine);
    edit_record(&machine, |record| record["tried"] = "2020-01-01T00:00:00Z".into());
    server.forget_requests();
    let calls = calls_of_a_tick(&machine);
    let started = calls.iter().filter(|call| call.starts_with("execve")).count();
    assert_eq!(started, 1, "only the agent itself is started");
    let written: Vec<&String> = calls
        .iter()
        .filter(|call| writes(call) && !call.contains(" = -1 ") && !call.contains("last-tick"))
        .collect();
    assert!(written.is_empty(), "an idle tick wrote: {written:#?}");
    // musl's call is `open`.
    let opened = calls.iter().filter(|call| call.starts_with("open") && call.contains("presence"));
    assert_eq!(opened.count(), 1, "one file is read");
    assert_eq!(asked(&server.requests()), [""; 0]);
}

#[test]
fn an_old_id_that_is_stale_heals_with_one_look() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    let first = published(&machine);
    let second = published(&machine);
    // The machine died between the push and its record.
    edit_record(&machine, |record| {
        record["last"]["commit"] = json!(first);
        record["sent"] = json!([{"commit": second, "seq": 2}]);
    });
    server.forget_requests();
    let third = published(&machine);
    assert_eq!(asked(&server.requests()), [PUSH, LOOK, PUSH]);
    assert_eq!(git(&machine, &["rev-parse", &format!("{third}^")]), second);
}

#[test]
fn a_ref_that_was_deleted_is_made_again() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    published(&machine);
    git(&machine, &["update-ref", "-d", &own_ref(&machine)]);
    let commit = published(&machine);
    assert_eq!(git(&machine, &["rev-list", "--count", &commit]), "1");
    assert_eq!(publication(&machine)["seq"], 3, "the number counts on: one was refused");
}

#[test]
fn a_push_that_meets_a_lock_is_repeated() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url(STATUS), "");
    published(&machine);
    let lock = machine.server(STATUS).join(format!("{}.lock", own_ref(&machine)));
    fs::write(&lock, "").unwrap();
    server.forget_requests();
    pause_is_over(&machine);
    machine.tick().ok();
    wait_until("a push has met the lock", || asked(&server.requests()).contains(&PUSH.to_owned()));
    fs::remove_file(lock).unwrap();
    settles(&machine);
    let record = record(&machine);
    assert!(record["failure"].is_null(), "{record:#}");
    assert_eq!(tip(&machine).as_deref(), record["last"]["commit"].as_str());
}

#[test]
fn a_login_is_remembered_so_that_a_publication_stays_one_post() {
    let machine = machine();
    let server = Https::of(&machine);
    let password = machine.path("password");
    crate::sandbox::write_program(&password, format!("{PASSWORD}\n"));
    crate::sandbox::set_mode(&password, 0o600);
    let login = format!("username = {USER:?}\npassword_file = {password:?}\n");
    over_https(&server, &machine, &server.url_at("auth/", STATUS), &login);
    published(&machine);
    server.forget_requests();
    published(&machine);
    let requests = server.requests();
    assert_eq!(asked(&requests), [PUSH]);
    assert!(requests[0].authorized);
}

#[test]
fn a_server_that_wants_to_be_asked_first_is_remembered() {
    let machine = machine();
    let server = Https::of(&machine);
    let asked_before = machine.path("asked");
    server.answer_with(
        "strict",
        &format!(
            "PATH_INFO=${{PATH_INFO#/cgi/strict}}; export PATH_INFO\n\
             case \"$REQUEST_METHOD $PATH_INFO $QUERY_STRING\" in\n\
             GET*receive-pack) touch '{0}' ;;\n\
             POST*receive-pack*) [ -e '{0}' ] || {{ printf 'Status: 400 Bad Request\\r\\n\\r\\n'; exit; }}; rm '{0}' ;;\n\
             esac\nexec git http-backend\n",
            text(&asked_before)
        ),
    );
    over_https(&server, &machine, &server.url_at("cgi/strict/", STATUS), "");
    published(&machine);
    let first = asked(&server.requests());
    assert!(first.contains(&"POST git-receive-pack 400".to_owned()), "{first:#?}");
    server.forget_requests();
    published(&machine);
    assert_eq!(
        asked(&server.requests()),
        ["GET info/refs?service=git-receive-pack 200", PUSH],
        "it is not sent unasked again"
    );
}

#[test]
fn behind_a_redirect_the_second_publication_is_one_post() {
    let machine = machine();
    let server = Https::of(&machine);
    over_https(&server, &machine, &server.url_at("redirect/301/", STATUS), "");
    published(&machine);
    server.forget_requests();
    published(&machine);
    assert_eq!(asked(&server.requests()), [PUSH]);
}

#[test]
fn two_hundred_machines_publish_at_once_and_each_does_once() {
    const MACHINES: usize = 200;
    let machine = machine();
    let server = Https::of(&machine);
    let url = server.url(STATUS);
    let roots: Vec<_> =
        (0..MACHINES).map(|number| machine.path(&format!("machine{number}"))).collect();
    for (number, root) in roots.iter().enumerate() {
        fs::create_dir_all(root.join(".pmpy")).unwrap();
        let toml = format!(
            "[node]\nname = \"web{number:03}\"\n[presence]\nurl = {url:?}\nca_file = {:?}\n",
            server.ca_file()
        );
        fs::write(root.join(".pmpy/agent.toml"), toml).unwrap();
    }
    let tick = |root: &Path| {
        let mut agent = machine.command(env!("CARGO_BIN_EXE_agent"));
        Ran::of(agent.args(["--root", text(root), "tick", "--trigger", "cron"])).ok();
    };
    thread::scope(|scope| {
        for some in roots.chunks(MACHINES / 8) {
            scope.spawn(move || some.iter().for_each(|root| tick(root)));
        }
    });
    // A server that is too busy for some of them has them come again a minute later.
    let has_published = |root: &Path| {
        let Ok(lock) = fs::File::open(root.join(".pmpy/presence.lock")) else { return false };
        if lock.try_lock().is_err() {
            return false;
        }
        let file = root.join(".pmpy/presence.json");
        let mut record: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let is_known = record["sent"].is_null() && record["failure"].is_null();
        if !is_known {
            record["tried"] = LONG_AGO.into();
            fs::write(&file, record.to_string()).unwrap();
            drop(lock);
            tick(root);
        }
        is_known && record["last"].is_object()
    };
    for root in &roots {
        wait_until("it has published", || has_published(root));
    }
    let refs = git(&machine, &["for-each-ref", "--format=%(refname)", "refs/heads/"]);
    assert_eq!(refs.lines().count(), MACHINES);
    assert_eq!(git(&machine, &["rev-list", "--all", "--count"]).trim(), MACHINES.to_string());
}

#[test]
fn publications_go_on_where_the_first_push_was_not_the_agent_s_own_tick() {
    let machine = machine();
    publish_at(&machine, &path_of(&machine), "");
    publish(&machine);
    // A tick by a person publishes as cron's does.
    pause_is_over(&machine);
    machine.agent(&["tick"]).ok();
    settles(&machine);
    assert_eq!(publication(&machine)["seq"], 2);
}
