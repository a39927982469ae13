//! Debian 11 and 12 as they come from debootstrap, without a toolchain: from the installer to its undoing.

use std::fs;
use std::path::Path;

use crate::artefact;
use crate::dist;
use crate::machine_copy::{MachineCopy, debootstrapped};
use crate::sandbox::{Ran, text};
use crate::servers::{Face, Https, Sshd};

/// What a server has; libnss-extrausers is a name service of its own, as LDAP's is.
const PACKAGES: &str = "cron,ca-certificates,curl,openssh-client,libnss-extrausers";
const SUITES: [(&str, &str); 2] = [("bare-debian-11", "bullseye"), ("bare-debian-12", "bookworm")];

/// A machine of this Debian that sees the release as `/srv/dist`, and a key in `/srv/signers` that has signed it.
pub fn machine(name: &str, suite: &str) -> MachineCopy {
    let machine =
        MachineCopy::over(&debootstrapped(name, suite, PACKAGES)).showing(dist(), "/srv/dist");
    let key = fs::read_to_string(dist().with_extension("key.pub"))
        .expect("tests/run --release signs with a key next to the directory");
    machine.write("/srv/signers", &format!("releases {key}"));
    machine
}

const WORK: &str = "echo \"$AGENT_REVISION $AGENT_TRIGGER\" >> /root/runs\n";

fn revisions(machine: &MachineCopy) -> Vec<String> {
    machine.read("/root/runs").lines().map(|line| line[..40].to_owned()).collect()
}

#[test]
fn the_static_program_lives_on_each_debian_from_installation_to_removal() {
    for (name, suite) in SUITES {
        let machine = machine(name, suite);
        let install = "sh /srv/dist/install.sh --signers /srv/signers";
        machine.sh(install).ok();
        let version = machine.agent(&["--version"]).ok().stdout;
        assert!(version.contains("-linux-musl, static musl, libgit2 "), "{version}");
        let loaded = machine.sh("ldd /usr/local/bin/agent 2>&1 || true").ok().stdout;
        assert!(loaded.contains("not a dynamic") || loaded.contains("statically"), "{loaded}");

        // Over https, with an authority of one's own.
        let server = Https::of(&machine.sandbox);
        machine.sandbox.serve("ops", &[("work.sh", WORK)]);
        let first = machine.sandbox.push("ops", &[("page", "one\n")]);
        let url = format!("https://127.0.0.1:{}/ops.git", server.port(Face::Good));
        machine.write("/etc/pmpy/ca.pem", &fs::read_to_string(server.ca_file()).unwrap());
        machine.agent(&["init", &url, "--ca-file", "/etc/pmpy/ca.pem"]).ok();
        assert_eq!(machine.state("ops"), "current", "{suite}");
        assert!(machine.read("/etc/cron.d/pmpy").contains("/usr/local/bin/agent tick"));

        // Over ssh, with the OpenSSH of that Debian.
        let sshd = Sshd::of(&machine.sandbox);
        let other = machine.sandbox.serve("web", &[("work.sh", WORK)]);
        let (key, known) = (sshd.client_key(), sshd.known_hosts());
        let init = ["init", &sshd.url("web"), "--key", text(&key), "--known-hosts", text(&known)];
        machine.agent(&init).ok();
        let second = machine.sandbox.push("ops", &[("page", "two\n")]);
        let third = machine.sandbox.push("web", &[("page", "two\n")]);
        let ran = machine.agent(&["tick", "--trigger", "cron"]).ok();
        assert_eq!(ran.stdout, "", "{ran}");
        let runs = revisions(&machine);
        assert_eq!(runs[..2], [first, other], "{suite}");
        assert!(runs[2..].contains(&second) && runs[2..].contains(&third), "{suite}: {runs:?}");
        machine.agent(&["status"]).ok();
        machine.agent(&["check"]);

        // An upgrade, and everything that the installer brought goes again.
        machine.sh(&format!("{install} && agent --version")).ok();
        machine.sandbox.push("ops", &[("page", "three\n")]);
        machine.agent(&["tick", "ops"]).ok();
        machine.sh("sh /srv/dist/install.sh --uninstall").ok();
        let left = machine.sh("find /usr/local /etc/cron.d -name '*agent*' -o -name '*pmpy*'").ok();
        assert_eq!(left.stdout, "", "{suite}");
        assert!(machine.path("/root/gitrepo/ops/.git").exists(), "repositories stay");
    }
}

#[test]
fn the_package_is_installed_upgraded_and_removed_on_each_debian() {
    for (name, suite) in SUITES {
        let machine = machine(name, suite);
        let package = artefact("push-me-pull-you_", "_amd64.deb");
        let package = format!("/srv/dist/{}", text(Path::new(package.file_name().unwrap())));
        machine.sh(&format!("dpkg --install {package}")).ok();
        let version = machine.agent(&["--version"]).ok().stdout;
        assert!(version.contains("-linux-gnu, glibc, libgit2 "), "{version}");
        let revision = machine.sandbox.serve("ops", &[("work.sh", WORK)]);
        machine.agent(&["init", text(&machine.sandbox.server("ops"))]).ok();
        machine.sh(&format!("dpkg --install {package}")).ok();
        assert_eq!(revisions(&machine), [revision], "{suite}");
        machine.sh("dpkg --remove push-me-pull-you").ok();
        assert!(!machine.path("/etc/cron.d/pmpy").exists(), "nothing calls what is gone");
        machine.sh("dpkg --purge push-me-pull-you").ok();
        assert!(!machine.path("/var/lib/pmpy").exists());
    }
}

#[test]
fn a_user_that_only_a_name_service_knows_works_with_all_its_groups() {
    for (name, suite) in SUITES {
        let machine = machine(name, suite);
        machine.sh("sh /srv/dist/install.sh --signers /srv/signers").ok();
        machine.write(
            "/etc/nsswitch.conf",
            "passwd: files extrausers\ngroup: files extrausers\nhosts: files dns\n",
        );
        let users = "/var/lib/extrausers";
        machine.write(&format!("{users}/passwd"), "kim:x:5001:5001:Kim:/home/kim:/bin/sh\n");
        machine.write(&format!("{users}/group"), "kim:x:5001:\nstaff2:x:5002:kim\n");
        machine.sh("install -d -o 5001 -g 5001 /home/kim").ok();
        machine.sh("id kim && ! grep kim /etc/passwd").ok();

        let server = Https::of(&machine.sandbox);
        let work = "id -un > who; id -G >> who; echo \"$HOME $USER\" >> who\n";
        machine.sandbox.serve("ops", &[("work.sh", work), (".gitignore", "who\n")]);
        let url = format!("https://127.0.0.1:{}/ops.git", server.port(Face::Good));
        machine.write("/etc/pmpy/ca.pem", &fs::read_to_string(server.ca_file()).unwrap());
        machine.write(
            "/etc/pmpy/agent.toml",
            &format!(
                "[repo.ops]\nurl = \"{url}\"\nca_file = \"/etc/pmpy/ca.pem\"\n\
                 user = \"kim\"\npath = \"/home/kim/ops\"\n"
            ),
        );
        let ran = machine.agent(&["tick", "ops"]).ok();
        assert_eq!(machine.read("/home/kim/ops/who"), "kim\n5001 5002\n/home/kim kim\n", "{ran}");
        let owner = machine.sh("stat -c %u:%g /home/kim/ops/.git/HEAD").ok().stdout;
        assert_eq!(owner, "5001:5001\n");

        // Gone from there, it is gone: that service is on this machine and would have said so.
        machine.write(&format!("{users}/passwd"), "");
        machine.agent(&["tick", "ops"]).exits(1);
        assert_eq!(machine.state("ops"), "broken", "{suite}");
        // A service that may be down is waited for.
        machine.write("/etc/nsswitch.conf", "passwd: files hesiod\ngroup: files extrausers\n");
        machine.agent(&["tick", "ops"]).exits(1);
        assert_eq!(machine.state("ops"), "unreachable", "{suite}");
        // A getent that hangs ends at its deadline, and is asked for nothing that the files know.
        let root = Ran::of(&mut machine.command(&["agent", "status", "--json"])).ok();
        assert!(root.stdout.contains("hesiod answered"), "{root}");
    }
}
