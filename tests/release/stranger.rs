//! A stranger on a fresh Debian 11 and 12, with git and without a toolchain: the install block and the quick start of
//! README.md and both tutorials, typed as they stand there, and the fleet's page, an upgrade and the removal. Only the
//! addresses of example servers give way to those of the test.

use std::fs::{self, File};
use std::io::Write;

use crate::dist;
use crate::machine_copy::{MachineCopy, debootstrapped};
use crate::sandbox::{Ran, text};
use crate::servers::{Face, Https, PASSWORD, Running, Sshd, USER, free_port};
use crate::tutorials::{self, blocks};

const PACKAGES: &str = "cron,ca-certificates,curl,openssh-client,git";
/// What the README calls the release's address.
const RELEASE: &str =
    concat!("https://downloads.example.org/push-me-pull-you/", env!("CARGO_PKG_VERSION"));
const WORK: &str = "echo \"release $(cat page)\" >> /root/runs\n";

/// Types `block` in root's home, and prints what came: `--nocapture` shows a reader the whole walk.
#[track_caller]
fn typed(machine: &MachineCopy, block: &str) -> Ran {
    let ran = machine.sh(&format!("cd /root\n{block}")).ok();
    println!("$ {}\n{}{}", block.trim_end().replace('\n', "\n$ "), ran.stdout, ran.stderr);
    ran
}

/// The first block below this heading of README.md.
fn from_readme(title: &str) -> String {
    blocks("../README.md", title).swap_remove(0)
}

#[test]
fn a_stranger_comes_from_the_readme_to_a_fleet_and_leaves() {
    for (name, suite) in [("debian-11-with-git", "bullseye"), ("debian-12-with-git", "bookworm")] {
        let machine = MachineCopy::over(&debootstrapped(name, suite, PACKAGES));
        machine.sh("! command -v cc && ! command -v cargo").ok();
        let port = free_port();
        let port_text = port.to_string();
        let arguments =
            ["-m", "http.server", "--bind", "127.0.0.1", "--directory", text(dist()), &port_text];
        let log = machine.sandbox.path("downloads.log");
        let python = "/usr/bin/python3";
        let _downloads =
            Running::start(&machine.sandbox, python, &arguments, &log).listening_on(port);

        let key = fs::read_to_string(dist().with_extension("key.pub")).unwrap();
        machine.write("/root/release.signers", &format!("releases {key}"));
        let install = from_readme("Install");
        assert!(install.contains(RELEASE), "{install}");
        let install = install.replace(RELEASE, &format!("http://127.0.0.1:{port}"));
        typed(&machine, &install);

        over_ssh(&machine);
        over_https(&machine);
        // The tutorials have their own machines.
        typed(&machine, "agent schedule none; agent forget ops --purge --yes");
        tutorials::first_server(&machine);
        tutorials::production(&machine, || {
            let seen = "agent fleet --url /srv/git/status.git --html /root/fleet.html";
            typed(&machine, seen);
            let page = machine.read("/root/fleet.html");
            for host in ["canary", "web1", "web2"] {
                assert!(page.contains(host), "{suite}: {host} is not on the page");
            }
        });

        // An upgrade, and the removal.
        typed(&machine, &format!("{install}\nagent --version"));
        let removing = blocks("removing.md", "Removing it").swap_remove(0);
        typed(&machine, &removing);
        let left = "find /usr/local /etc /var/lib /var/log -name agent -o -name '*pmpy*'";
        assert_eq!(machine.sh(left).ok().stdout, "", "{suite}");
    }
}

/// The quick start, with a key that the machine makes; then a push.
fn over_ssh(machine: &MachineCopy) {
    let server = Sshd::of(&machine.sandbox);
    machine.sandbox.serve("ops", &[("work.sh", WORK), ("page", "one\n")]);
    let quick_start = from_readme("Quick start");
    let (keys, rest) = quick_start.split_once("ssh-keyscan git.example.org").unwrap();
    typed(machine, keys);
    // What its owner does at the git server: it gives the key access.
    let key = machine.read("/etc/pmpy/ops.key.pub");
    let accepted = server.client_key().with_extension("pub");
    File::options().append(true).open(accepted).unwrap().write_all(key.as_bytes()).unwrap();
    let scan = format!("ssh-keyscan -p {} 127.0.0.1{rest}", server.port());
    let scan = scan.replace("git@git.example.org:ops.git", &server.url("ops"));
    assert!(!scan.contains("example.org"), "{scan}");
    let live = typed(machine, &scan);
    assert!(live.stdout.contains("ops  current"), "{live}");
    machine.sandbox.push("ops", &[("page", "two\n")]);
    typed(machine, "agent tick --trigger cron; agent status");
    assert_eq!(machine.read("/root/runs"), "release one\nrelease two\n");
}

/// A private repository with a token in a file.
fn over_https(machine: &MachineCopy) {
    let server = Https::of(&machine.sandbox);
    machine.sandbox.serve("site", &[("work.sh", WORK), ("page", "site one\n")]);
    machine.write("/etc/pmpy/ca.pem", &fs::read_to_string(server.ca_file()).unwrap());
    machine.write("/etc/pmpy/site.token", &format!("{PASSWORD}\n"));
    let url = format!("https://127.0.0.1:{}/auth/site.git", server.port(Face::Good));
    let toml = format!(
        "[repo.site]\nurl = \"{url}\"\nca_file = \"/etc/pmpy/ca.pem\"\nusername = \"{USER}\"\n\
         password_file = \"/etc/pmpy/site.token\"\n"
    );
    machine.write("/etc/pmpy/agent.d/site.toml", &toml);
    typed(machine, "chmod 600 /etc/pmpy/site.token; agent tick site; agent check || true");
    machine.sandbox.push("site", &[("page", "site two\n")]);
    typed(machine, "agent tick --trigger cron; agent status");
    assert!(machine.read("/root/runs").ends_with("release site one\nrelease site two\n"));
    typed(machine, "rm -r /etc/pmpy/agent.d/site.toml /root/gitrepo/site");
}
