//! Credentials: they go to the server that they are for and to nobody else, and no trace of them is
//! left anywhere.

use std::fs;
use std::path::PathBuf;

use crate::sandbox::{Ran, Sandbox, set_mode, text, write_program};
use crate::servers::{Face, HttpProxy, Https, PASSWORD, USER};

use super::{acted, converges, news, pull_from, reason, trusting};

/// A file with the password that only its owner may read.
fn password_file(machine: &Sandbox, password: &str) -> PathBuf {
    let file = machine.path("password");
    fs::write(&file, format!("{password}\n")).unwrap();
    set_mode(&file, 0o600);
    file
}

/// `[defaults]` with the server's authority and a user's password.
fn signed_in(machine: &Sandbox, server: &Https, password: &str) -> String {
    let file = password_file(machine, password);
    format!("{}username = {USER:?}\npassword_file = {file:?}\n", trusting(server))
}

#[test]
fn a_password_is_read_anew_each_time() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let settings = signed_in(&machine, &server, PASSWORD);
    pull_from(&machine, &settings, &[("ops", server.url_at("auth/", "ops"))]);
    let revision = news(&machine, "ops", "new");
    converges(&machine, "ops", &revision);
    server.change_password("changed");
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied");
    password_file(&machine, "changed");
    let revision = news(&machine, "ops", "newer");
    // A file that changed ends the pause.
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
}

#[test]
fn a_redirect_to_another_host_takes_no_credentials_along() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let settings = signed_in(&machine, &server, PASSWORD);
    pull_from(&machine, &settings, &[("ops", server.url_at("elsewhere/", "ops"))]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "denied", "{:#}", machine.row("ops"));
    let other = server.port(Face::Other);
    let requests = server.requests();
    assert!(requests.iter().any(|request| request.port == other), "the other host was asked");
    assert!(requests.iter().all(|request| request.port != other || !request.authorized));

    // Within the same server, they may come along.
    let url = server.url_at("redirect/301/auth/", "ops");
    pull_from(&machine, &settings, &[("ops", url)]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn a_redirect_to_another_host_is_shown_no_client_certificate() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let wary = server.port(Face::ClientCertificate);
    let script = format!(
        "cat >/dev/null; printf 'Status: 302\\nLocation: https://localhost:{wary}/ops.git/info/refs?%s\\n\\n' \
         \"$QUERY_STRING\""
    );
    server.answer_with("wary", &script);
    let settings =
        format!("{}client_cert = {:?}\n", trusting(&server), server.client_certificate());
    pull_from(&machine, &settings, &[("ops", server.url_at("cgi/wary/", "ops"))]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "unreachable", "{:#}", machine.row("ops"));
    let asked_there = || {
        let requests = server.requests();
        requests.into_iter().filter(|request| request.port == wary).collect::<Vec<_>>()
    };
    assert!(!asked_there().is_empty(), "the other host was asked");
    assert!(asked_there().iter().all(|request| request.status == 400), "{:#?}", asked_there());
    // It is for the configured address.
    pull_from(&machine, &settings, &[("ops", server.url_on(Face::ClientCertificate, "ops"))]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn no_person_is_ever_asked_for_a_password() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url_at("auth/", "ops"))]);
    let (asked, ask) = (machine.path("asked"), machine.path("ask"));
    write_program(&ask, format!("#!/bin/sh\n: > '{}'\necho secret\n", text(&asked)));
    let mut agent = machine.agent_command(&["tick", "ops"]);
    agent.env("GIT_ASKPASS", &ask).env("SSH_ASKPASS", &ask).env("DISPLAY", ":0");
    Ran::of(&mut agent).exits(1);
    assert!(!asked.exists());
    assert_eq!(machine.state("ops"), "denied");
}

#[test]
fn no_trace_of_a_credential_is_left_anywhere() {
    const CANARY: &str = "canary-4711";
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    server.change_password(CANARY);
    let mut said = String::new();
    let in_url = server.url_at("auth/", "ops").replace("://", &format!("://{USER}:{CANARY}@"));
    let wrong = server.url_at("auth/", "ops").replace("://", &format!("://{USER}:x{CANARY}@"));
    let proxied = HttpProxy::with_password();
    let bad_proxy = proxied.url().replace("://", &format!("://{USER}:{CANARY}@"));
    let in_file = signed_in(&machine, &server, CANARY);
    let by_proxy = format!("{}proxy = {bad_proxy:?}\n", trusting(&server));
    for (settings, url) in [
        (trusting(&server), in_url.clone()),
        (in_file, server.url_at("auth/", "ops")),
        (trusting(&server), wrong),
        (trusting(&server), in_url.replace("auth/", "status/500/")),
        (trusting(&server), in_url.replace("localhost", "git.invalid")),
        (by_proxy, server.url("ops")),
    ] {
        pull_from(&machine, &settings, &[("ops", url)]);
        machine.push("ops", &[("bin/work/common/work.sh", "env; cat /proc/$PPID/cmdline\n")]);
        let trace = machine.path("trace");
        let agent = machine.agent_line(&["-v", "tick", "ops"]);
        let mut strace = machine.command("strace");
        strace.args(["-f", "-s", "9999", "-v", "-e", "trace=execve", "-o", text(&trace)]);
        said += &Ran::of(strace.args(agent)).to_string();
        said += &fs::read_to_string(&trace).unwrap();
        for command in
            [["status", "-v"], ["status", "--json"], ["explain", "ops"], ["history", "ops"]]
        {
            said += &machine.agent(&command).to_string();
        }
        said += &machine.agent(&["check"]).to_string();
        said += &machine.agent(&["log", "ops"]).to_string();
    }
    assert!(said.contains("AGENT_REMOTE"), "the script's environment was seen");
    assert!(!said.contains(CANARY), "{said}");
    let root = machine.root();
    for file in machine.files_below(&root) {
        let content = fs::read(root.join(&file)).unwrap_or_default();
        let holds = content.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert!(!holds || file.ends_with("agent.toml"), "{} holds it", file.display());
    }
}

/// The canary, and everything that the agent prints of `machine`, with `variables` in its environment.
fn all_that_is_said(machine: &Sandbox, variables: &[(&str, &str)]) -> String {
    let mut said = String::new();
    for line in [
        &["-v", "tick", "ops"] as &[&str],
        &["-v", "tick", "ops", "--dry-run"],
        &["status", "-v"],
        &["status", "--json"],
        &["explain", "ops"],
        &["check"],
    ] {
        let mut agent = machine.agent_command(line);
        agent.envs(variables.iter().copied());
        said += &Ran::of(&mut agent).to_string();
    }
    // The line that was run is in there as well, and not the agent's to say.
    variables.iter().fold(said, |said, (_, value)| said.replace(&format!("{value:?}"), ""))
}

/// Every file below the root that holds `canary`, but for the configuration.
fn files_with(machine: &Sandbox, canary: &str) -> Vec<PathBuf> {
    let root = machine.root();
    let holds = |file: &PathBuf| {
        let content = fs::read(root.join(file)).unwrap_or_default();
        content.windows(canary.len()).any(|window| window == canary.as_bytes())
    };
    let files = machine.files_below(&root).into_iter();
    files.filter(|file| holds(file) && !file.ends_with("agent.toml")).collect()
}

#[test]
fn no_trace_is_left_of_the_password_of_a_proxy_without_a_scheme() {
    const CANARY: &str = "canary-4711";
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let proxied = HttpProxy::with_password();
    let closed = format!("{USER}:{CANARY}@127.0.0.1:1");
    let wrong = proxied.url().replace("http://", &format!("{USER}:{CANARY}@"));
    let strange = format!("http://{USER}:{CANARY}/x@127.0.0.1:1");
    let nobody = HttpProxy::open();
    let no_server = nobody.url().replace("http://", &format!("{USER}:{CANARY}@"));
    for (proxy, url, words) in [
        (wrong, server.url("ops"), "407"),
        (no_server, "https://localhost:1/ops.git".to_owned(), "502"),
        (closed, server.url("ops"), "the proxy http://127.0.0.1:1 does not answer"),
        (strange, server.url("ops"), "proxy"),
    ] {
        pull_from(&machine, &trusting(&server), &[("ops", url)]);
        let said = all_that_is_said(&machine, &[("https_proxy", &proxy)]);
        assert!(reason(&machine, "ops").contains(words), "{words}: {:#}", machine.row("ops"));
        assert!(!said.contains(CANARY), "{said}");
        assert_eq!(files_with(&machine, CANARY), Vec::<PathBuf>::new(), "{words}");
    }
}

#[test]
fn an_address_whose_password_cannot_be_found_is_refused_and_not_shown() {
    const CANARY: &str = "canary-4711";
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    for separator in ["/", "?", "#"] {
        let login = format!("://{USER}:{CANARY}{separator}{CANARY}@");
        let url = server.url_at("auth/", "ops").replace("://", &login);
        pull_from(&machine, &trusting(&server), &[("ops", url.clone())]);
        let said = all_that_is_said(&machine, &[]);
        assert!(said.contains("agent.toml:5:7") && said.contains("%2F"), "{said}");
        assert!(!said.contains(CANARY), "{said}");

        // A clone knows it by itself.
        machine.configure(&trusting(&server).replace("ca_file", "[defaults]\nca_file"));
        let clone = machine.clone_of("ops");
        machine.git(&clone, &["remote", "set-url", "origin", &url]);
        let said = all_that_is_said(&machine, &[]);
        assert!(said.contains("%2F"), "{said}");
        assert!(!said.contains(CANARY), "{said}");
        let holding = files_with(&machine, CANARY);
        assert_eq!(holding, [PathBuf::from("ops/.git/config")], "{separator}");
    }
    // Percent-encoded, it is one like any other.
    let login = format!("://{USER}:{}@", PASSWORD.replace(' ', "%20"));
    let url = server.url_at("auth/", "ops").replace("://", &login);
    pull_from(&machine, &trusting(&server), &[("ops", url)]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn what_the_configuration_and_init_refuse_they_show_without_its_password() {
    const CANARY: &str = "canary-4711";
    let machine = acted(&["ops"]);
    for proxy in [
        format!("{USER}:{CANARY}@proxy.example.org:1"),
        format!("http://{USER}:{CANARY}/x@proxy.example.org:1"),
        format!("http://{CANARY}/x@proxy.example.org:1"),
        format!("socks5://{USER}:{CANARY}@proxy.example.org:1"),
    ] {
        machine.configure(&format!("[defaults]\nproxy = {proxy:?}\n"));
        let ran = machine.agent(&["tick"]).exits(2);
        assert!(ran.stderr.contains("agent.toml:2:9"), "{ran}");
        assert!(!ran.stderr.contains(CANARY), "{ran}");
    }
    machine.configure("");
    for address in [
        format!("htps://bot:{CANARY}@git.example.org/ops.git"),
        format!("ops=htps://bot:{CANARY}@git.example.org/ops.git"),
        format!("https://bot:{CANARY}/x@git.example.org/ops.git"),
        format!("https:/bot:{CANARY}@git.example.org/ops.git"),
        "web=".to_owned(),
    ] {
        let ran = machine.agent(&["init", &address]).exits(2);
        let shown = ran.stdout.clone() + &ran.stderr;
        assert!(shown.contains("hint: ") && !shown.contains(CANARY), "{address}: {shown}");
    }
}

#[test]
fn a_proxy_that_wants_a_password_is_distinguished_from_the_server() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let proxy = HttpProxy::with_password();
    let through = |url: String| format!("{}proxy = {url:?}\n", trusting(&server));
    pull_from(&machine, &through(proxy.url()), &[("ops", server.url("ops"))]);
    machine.tick().exits(1);
    let why = reason(&machine, "ops");
    assert!(why.contains("407") && why.contains("proxy"), "{why}");
    assert_eq!(proxy.connected(), 0);

    let revision = news(&machine, "ops", "new");
    pull_from(&machine, &through(proxy.url_with_password()), &[("ops", server.url("ops"))]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    assert!(proxy.connected() > 0);
}

#[test]
fn the_usual_variables_name_a_proxy() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    pull_from(&machine, &trusting(&server), &[("ops", server.url("ops"))]);
    for (variable, other, passes) in [
        ("https_proxy", "", true),
        ("HTTPS_PROXY", "", true),
        ("ALL_PROXY", "", true),
        ("http_proxy", "", false),
        ("https_proxy", "localhost", false),
        ("https_proxy", ".example.org,localhost", false),
        ("https_proxy", "example.org", true),
    ] {
        let proxy = HttpProxy::open();
        let mut agent = machine.agent_command(&["tick", "ops"]);
        agent.env(variable, proxy.url()).env("no_proxy", other);
        Ran::of(&mut agent).ok();
        assert_eq!(machine.state("ops"), "current", "{variable}: {:#}", machine.row("ops"));
        assert_eq!(proxy.connected() > 0, passes, "{variable}, no_proxy={other}");
    }
}
