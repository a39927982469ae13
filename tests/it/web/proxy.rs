//! Behind nginx with TLS, as the documentation has it.

use std::fs;
use std::process::Command;

use super::{Web, github, machine, secret_file, signature};
use crate::sandbox::{Ran, Sandbox, text, wait_until};
use crate::servers::certificates::Certificates;
use crate::servers::{Running, free_port};

const OPERATIONS: &str = include_str!("../../../docs/operations.md");

/// The first block in this language.
fn documented(language: &str, holding: &str) -> &'static str {
    let begin = format!("```{language}\n");
    let blocks = OPERATIONS.split(begin.as_str()).skip(1);
    let mut blocks = blocks.map(|rest| rest.split("```").next().unwrap());
    blocks.find(|block| block.contains(holding)).unwrap()
}

/// nginx with the documented server, on a port of its own, and with this limit of bodies.
fn nginx(machine: &Sandbox, web: &Web, limit: &str) -> (Running, u16) {
    let (dir, port) = (machine.path("nginx"), free_port());
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    Certificates::get().write_into(&dir);
    let certificate = dir.join("good.pem");
    let server = documented("nginx", "location")
        .replace("listen 443", &format!("listen 127.0.0.1:{port}"))
        .replace("hooks.example.org", "localhost")
        .replace("client_max_body_size 25m", &format!("client_max_body_size {limit}"))
        .replace("/etc/ssl/hooks.pem", text(&certificate))
        .replace("/etc/ssl/hooks.key", text(&certificate))
        .replace("127.0.0.1:9419", &format!("127.0.0.1:{}", web.port));
    let at = text(&dir);
    let whole = format!(
        "daemon off; master_process off; pid {at}/pid; events {{}} http {{ access_log off;\n\
         client_body_temp_path {at}/b; proxy_temp_path {at}/p; fastcgi_temp_path {at}/f;\n\
         uwsgi_temp_path {at}/u; scgi_temp_path {at}/s;\n{server}}}\n"
    );
    let (file, log) = (dir.join("nginx.conf"), dir.join("error.log"));
    fs::write(&file, whole).unwrap();
    let arguments = ["-p", at, "-c", text(&file), "-e", text(&log)];
    (Running::start(machine, "nginx", &arguments, &log).listening_on(port), port)
}

#[test]
fn behind_nginx_hooks_get_through_and_nothing_else_does() {
    let (machine, _listener, web) = machine("");
    let (_nginx, port) = nginx(&machine, &web, "25m");
    let ca = machine.path("nginx/ca.pem");
    let curl = |path: &str, more: &[&str]| {
        let url = format!("https://localhost:{port}{path}");
        let usual = ["--silent", "--write-out", "%{http_code}", "--cacert", text(&ca)];
        Ran::of(machine.command("curl").args(usual).args(more).arg(url)).ok().stdout
    };
    let revision = machine.push("spog", &[("page", "new")]);
    let body = github("a/spog");
    let signed = format!("X-Hub-Signature-256: sha256={}", signature(&body));
    let event = ["--header", "X-GitHub-Event: push", "--data-binary"];
    let said = curl("/hook", &[&event[..], &[&body, "--header", &signed]].concat());
    assert!(said.ends_with("spog will be looked at at once\n202"), "{said}");
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
    let said = curl("/hook", &[&event[..], &[&body]].concat());
    assert!(said.ends_with("401"), "{said}");
    for path in ["/status", "/metrics", "/healthz", "/hook/../status", "/"] {
        let said = curl(path, &["--path-as-is"]);
        assert!(said.ends_with("404") && !said.contains("spog"), "{path}: {said}");
    }
}

#[test]
fn a_large_hook_gets_through_nginx_and_one_too_large_is_answered() {
    let (machine, _listener, web) = machine("");
    let ca = machine.path("nginx/ca.pem");
    let said = |port: u16, size: usize| {
        let url = format!("https://localhost:{port}/hook");
        let body = super::limits::push_of("a/other", size);
        let file = machine.path("body");
        fs::write(&file, &body).unwrap();
        let signed = format!("X-Hub-Signature-256: sha256={}", signature(&body));
        let data = format!("@{}", text(&file));
        let mut curl = machine.command("curl");
        curl.args(["--silent", "--write-out", "%{http_code}", "--cacert", text(&ca)]);
        curl.args(["--header", "X-GitHub-Event: push", "--header", &signed]);
        Ran::of(curl.args(["--data-binary", &data, &url])).ok().stdout
    };
    let (documented, port) = nginx(&machine, &web, "25m");
    let answer = said(port, 24 << 20);
    assert!(answer.contains("no repository named") && answer.ends_with("202"), "{answer}");
    assert!(said(port, 30 << 20).ends_with("413"));
    drop(documented);
    // Where the proxy has no limit of its own, the answer is the agent's.
    let (_nginx, port) = nginx(&machine, &web, "0");
    let answer = said(port, 30 << 20);
    assert!(answer.contains("larger than 25 MiB") && answer.ends_with("413"), "{answer}");
}

#[test]
fn a_client_that_can_sign_calls_as_it_is_documented() {
    let (machine, _listener, web) = machine("");
    let revision = machine.push("spog", &[("page", "new")]);
    let script = documented("sh", "X-Pmpy-Signature")
        .replace("/etc/pmpy/webhook.secret", text(&secret_file(&machine)))
        .replace("127.0.0.1:9419", &format!("127.0.0.1:{}", web.port));
    let mut shell: Command = machine.command("sh");
    let ran = Ran::of(shell.args(["-euc", &script])).ok();
    assert!(ran.stdout.starts_with("accepted: checking spog; "), "{ran}");
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
}
