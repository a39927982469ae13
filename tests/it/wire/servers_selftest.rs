//! What the tests of the wire stand on: the servers and proxies themselves, with plain git as the
//! client.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::sandbox::{Ran, Sandbox};

use crate::servers::{
    Behaviour, Daemon, Face, HttpProxy, Https, PASSWORD, PASSWORDS_ONLY, Proxy, Sshd, USER,
};

/// `git ls-remote` of `url`, as a client that trusts the tests' CA.
fn ask(machine: &Sandbox, server: &Https, url: &str) -> Ran {
    Ran::of(git(machine, server).args(["ls-remote", url, "refs/heads/main"]))
}

fn git(machine: &Sandbox, server: &Https) -> Command {
    let mut command = machine.command("git");
    command.env("GIT_SSL_CAINFO", server.ca_file()).env("GIT_TERMINAL_PROMPT", "0");
    command
}

#[test]
fn git_clones_over_https_and_the_access_log_says_how() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    let server = Https::of(&machine);
    let url = server.url("ops");
    Ran::of(git(&machine, &server).args(["clone", "--quiet", &url, "copy"])).ok();
    assert_eq!(std::fs::read_to_string(machine.path("copy/page")).unwrap(), "old");
    let requests = server.requests();
    assert_eq!(requests[0].uri, "/ops.git/info/refs?service=git-upload-pack");
    assert_eq!(requests[0].status, 200);
    assert_eq!(requests[0].git_protocol, "version=2");
    assert!(!requests[0].authorized);
    assert_eq!(requests[0].http, "HTTP/2.0");
    assert!(requests.iter().all(|request| request.connection == requests[0].connection));
}

#[test]
fn each_way_of_the_https_server_is_what_it_is_called() {
    let machine = Sandbox::with("ops", &[]);
    let server = Https::of(&machine);
    let revision = machine.head("ops");
    let answer = format!("{revision}\trefs/heads/main\n");
    let reported = |url: &str| ask(&machine, &server, url);

    machine.git(&machine.server("ops"), &["update-server-info"]);
    for way in ["", "v0/", "redirect/301/", "redirect/302/", "redirect/307/v0/", "dumb/"] {
        assert_eq!(reported(&server.url_at(way, "ops")).ok().stdout, answer, "{way}");
    }
    let with_password = format!("https://{USER}:{}@", PASSWORD.replace(' ', "%20"));
    let url = server.url_at("auth/", "ops").replace("https://", &with_password);
    assert_eq!(reported(&url).ok().stdout, answer);
    server.change_password("other");
    assert!(reported(&url).exits(128).stderr.contains("Authentication failed"));

    server.forget_requests();
    for status in [401, 403, 404, 429, 500, 503] {
        reported(&server.url_at(&format!("status/{status}/"), "ops")).exits(128);
        assert_eq!(server.requests().last().unwrap().status, status);
    }
    reported(&server.url_at("loop/", "ops")).exits(128);
    reported(&server.url_at("elsewhere/", "ops")).exits(128);
    let last = server.requests().pop().unwrap();
    assert_eq!((last.port, last.status), (server.port(Face::Other), 401));

    server.answer_with("hello", "printf 'Content-Type: text/plain\\n\\nhello'");
    reported(&server.url_at("cgi/hello/", "ops"));
    assert_eq!(server.requests().last().unwrap().status, 200);
}

#[test]
fn each_face_of_the_https_server_shows_its_own_certificate() {
    let machine = Sandbox::with("ops", &[]);
    let server = Https::of(&machine);
    let reported = |face| ask(&machine, &server, &server.url_on(face, "ops"));
    for face in [Face::Good, Face::Other, Face::Plain] {
        reported(face).ok();
    }
    for face in [Face::Expired, Face::SelfSigned, Face::WrongHost] {
        let ran = reported(face).exits(128);
        assert!(ran.stderr.contains("certificate"), "{face:?}: {ran}");
    }
    assert!(reported(Face::ClientCertificate).exits(128).stderr.contains("400"));
    let certificate = server.client_certificate();
    let mut command = git(&machine, &server);
    command.env("GIT_SSL_CERT", &certificate).env("GIT_SSL_KEY", &certificate);
    Ran::of(command.args(["ls-remote", &server.url_on(Face::ClientCertificate, "ops")])).ok();
}

#[test]
fn git_clones_over_ssh_and_is_kept_from_all_else() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    let mut server = Sshd::of(&machine);
    let reported = |server: &Sshd, command: &[&str]| {
        let mut git = machine.command("git");
        Ran::of(git.env("GIT_SSH_COMMAND", server.ssh_command()).args(command))
    };
    let url = server.url("ops");
    reported(&server, &["clone", "--quiet", &url, "copy"]).ok();
    assert_eq!(std::fs::read_to_string(machine.path("copy/page")).unwrap(), "old");
    let path = machine.server("ops");
    assert_eq!(server.commands(), [format!("version=2\tgit-upload-pack '{}'", path.display())]);
    assert_eq!(server.logins(), 1);

    server.restart_with(PASSWORDS_ONLY);
    assert!(
        reported(&server, &["ls-remote", &url]).exits(128).stderr.contains("denied (password)")
    );
    server.change_host_key();
    let ran = reported(&server, &["ls-remote", &url]).exits(128);
    assert!(ran.stderr.contains("HOST IDENTIFICATION HAS CHANGED"), "{ran}");
}

#[test]
fn git_clones_from_the_daemon() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    let server = Daemon::of(&machine);
    machine.git(&machine.path(""), &["clone", "--quiet", &server.url("ops"), "copy"]);
    assert_eq!(std::fs::read_to_string(machine.path("copy/page")).unwrap(), "old");
}

#[test]
fn a_server_takes_all_its_processes_with_it() {
    let machine = Sandbox::with("ops", &[]);
    let server = Sshd::of(&machine);
    let mut line = server.ssh_command();
    line.push_str(" -N -o ControlMaster=yes -o ControlPath=none");
    let user_and_port = [format!("-p{}", server.port()), "127.0.0.1".to_owned()];
    let words: Vec<&str> = line.split(' ').skip(1).collect();
    let mut client = machine.command("ssh");
    client.args(words).args(user_and_port).stderr(Stdio::null());
    let mut client = client.spawn().unwrap();
    crate::sandbox::wait_until("the client is in", || server.logins() == 1);
    let processes = server.processes();
    assert!(processes.len() > 1, "the connection has a process of its own: {processes:?}");
    drop(server);
    // The end of its connection ends the client, too.
    client.wait().unwrap();
}

#[test]
fn the_proxy_counts_and_delays() {
    let machine = Sandbox::with("ops", &[]);
    let server = Https::of(&machine);
    let line = Proxy::with_round_trip(server.port(Face::Good), Duration::from_millis(50));
    let start = Instant::now();
    ask(&machine, &server, &line.url_of(&server.url("ops"))).ok();
    let counts = line.counts();
    assert_eq!(counts.connections, 1);
    // TLS, the capabilities, the refs, in as few turns as HTTP/2 takes.
    assert!((3..=5).contains(&counts.turns), "{counts:?}");
    assert!(counts.up > 500 && counts.down > 1_000, "{counts:?}");
    assert!(start.elapsed() >= Duration::from_millis(50 * 3), "each of them took a round trip");
    line.forget_counts();
    assert_eq!(line.counts().up, 0);
}

#[test]
fn the_proxy_misbehaves_as_configured() {
    let machine = Sandbox::with("ops", &[("page", "old")]);
    let server = Daemon::of(&machine);
    let line = Proxy::to(server.port());
    let url = line.url_of(&server.url("ops"));
    let reported = || Ran::of(machine.command("git").args(["ls-remote", &url]));
    reported().ok();
    for (behaviour, why) in [
        (Behaviour::CloseAfter(10), "Could not read"),
        (Behaviour::ResetAfter(0), "reset"),
        (Behaviour::ResetAfter(10), "reset"),
        (Behaviour::Flood(b"xxxx".to_vec()), "protocol error"),
        // The last digit of the first length: 3f becomes 3e, or the like.
        (Behaviour::FlipBitOf(3), "fatal"),
    ] {
        line.behave(behaviour.clone());
        let ran = reported().exits(128);
        assert!(ran.stderr.contains(why), "{behaviour:?}: {ran}");
    }
    line.behave(Behaviour::ResetEverySecond);
    let codes: Vec<_> = (0..4).map(|_| reported().code).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 2);

    line.behave(Behaviour::Drip(Duration::from_millis(1)));
    reported().ok();
    line.behave(Behaviour::BlackHole);
    let mut waiting = machine.command("timeout");
    Ran::of(waiting.args(["1", "git", "ls-remote", &url])).exits(124);
}

#[test]
fn the_web_proxy_lets_through_who_knows_the_password() {
    let machine = Sandbox::with("ops", &[]);
    let server = Https::of(&machine);
    let url = server.url("ops");
    let reported = |proxy: &str| {
        Ran::of(git(&machine, &server).env("HTTPS_PROXY", proxy).args(["ls-remote", &url]))
    };
    let open = HttpProxy::open();
    reported(&open.url()).ok();
    assert_eq!(open.connected(), 1);
    assert_eq!(open.hosts(), [format!("localhost:{}", server.port(Face::Good))]);
    let closed = HttpProxy::with_password();
    assert!(reported(&closed.url()).exits(128).stderr.contains("407"));
    assert_eq!((closed.connected(), closed.refused()), (0, 1));
    reported(&closed.url_with_password()).ok();
    assert_eq!(closed.connected(), 1);
}
