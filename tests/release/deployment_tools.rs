//! `examples/ansible`, `examples/puppet` and `examples/terraform`: read by the tools themselves, and run against a
//! copy of this machine or of a Debian of debootstrap's, with the release and a repository on its disk.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::dist;
use crate::machine_copy::{MachineCopy, debootstrapped};
use crate::sandbox::{Ran, text};

/// The examples name this version.
const RELEASE: &str =
    concat!("https://downloads.example.org/push-me-pull-you/", env!("CARGO_PKG_VERSION"));
const REPOSITORY: &str = "https://git.example.org/ops.git";

fn example(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(file)).unwrap()
}

/// `machine`, which now sees the release as `/srv/dist`, and the address of its repository.
fn supplied(machine: MachineCopy) -> (MachineCopy, String) {
    let machine = machine.showing(dist(), "/srv/dist");
    machine
        .sandbox
        .serve("ops", &[("bin/work/part/web/work.sh", "echo \"$AGENT_PART\" >> /root/runs\n")]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    (machine, url)
}

#[track_caller]
fn is_live(machine: &MachineCopy, ran: &Ran) {
    assert_eq!(machine.state("ops"), "current", "{ran}");
    assert_eq!(machine.read("/root/runs"), "web\n", "{ran}");
    assert!(machine.read("/etc/cron.d/pmpy").contains("/usr/local/bin/agent tick"));
    machine.sh("pmpy --version").ok();
}

#[test]
fn the_ansible_playbook_makes_a_machine_live_and_changes_nothing_the_second_time() {
    let (machine, url) = supplied(MachineCopy::without_agent());
    let playbook = example("ansible/playbook.yml")
        .replace(RELEASE, "file:///srv/dist")
        .replace(REPOSITORY, &url);
    machine.write("/srv/playbook.yml", &playbook);
    assert!(playbook.contains("file:///srv/dist") && playbook.contains(&url), "{playbook}");
    let tools = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ansible/bin/ansible-playbook");
    let line = format!("cd /srv && LC_ALL=C.UTF-8 {} -i localhost, -c local", text(&tools));
    machine.sh(&format!("{line} --syntax-check playbook.yml")).ok();
    let ran = machine.sh(&format!("{line} playbook.yml")).ok();
    is_live(&machine, &ran);
    let again = machine.sh(&format!("{line} playbook.yml")).ok();
    assert!(again.stdout.contains("changed=0 "), "{again}");
}

#[test]
fn the_puppet_class_makes_a_machine_live_and_changes_nothing_the_second_time() {
    // Debian's package leaves its user in dpkg's list of overrides; where that user is missing later, dpkg installs
    // nothing any more. So Puppet is in a Debian of its own, and not on the machine that runs the tests.
    let debian =
        debootstrapped("puppet-debian-12", "bookworm", "cron,ca-certificates,puppet-agent");
    let (machine, url) = supplied(MachineCopy::over(&debian));
    let listed = fs::read_to_string(dist().join("SHA256SUMS")).unwrap();
    let (sum, _) = listed
        .lines()
        .filter_map(|line| line.split_once("  "))
        .find(|(_, name)| name.ends_with("x86_64-unknown-linux-musl"))
        .unwrap();
    let manifest = example("puppet/pmpy.pp")
        .replace(RELEASE, "/srv/dist")
        .replace(REPOSITORY, &url)
        .replace(&"0".repeat(64), sum);
    machine.write("/srv/pmpy.pp", &manifest);
    machine.sh("puppet parser validate /srv/pmpy.pp").ok();
    let line = "puppet apply --detailed-exitcodes --confdir /srv/puppet --vardir /srv/puppet-var /srv/pmpy.pp";
    // 2: there were changes, and no failure.
    let ran = machine.sh(line).exits(2);
    is_live(&machine, &ran);
    machine.sh(line).ok();
}

#[test]
fn the_user_data_of_terraform_makes_a_machine_live() {
    let source = example("terraform/user_data.tf");
    let mut python = Command::new("/usr/bin/python3");
    python.env("PYTHONPATH", Path::new(env!("CARGO_TARGET_TMPDIR")).join("hcl2"));
    let program = "import hcl2, sys; print(len(hcl2.loads(sys.argv[1])['variable']))";
    assert_eq!(Ran::of(python.args(["-c", program, &source])).ok().stdout, "5\n");

    let (machine, url) = supplied(MachineCopy::without_agent());
    let (_, data) = source.split_once("<<-END\n").unwrap();
    let (data, _) = data.split_once("\n  END").unwrap();
    let key = fs::read_to_string(dist().with_extension("key.pub")).unwrap();
    let listed = fs::read_to_string(dist().join("SHA256SUMS")).unwrap();
    let sum = listed.lines().find_map(|line| line.strip_suffix("  install.sh")).unwrap();
    let mut script: String = data.lines().map(|line| line.trim_start().to_owned() + "\n").collect();
    for (name, value) in [
        ("release", "file:///srv/dist"),
        ("installer_sha256", sum),
        ("signers", &format!("releases {}", key.trim())),
        ("repository", &url),
        ("part", "web"),
    ] {
        let open = format!("${{var.{name}}}");
        assert!(script.contains(&open), "{open} is not used");
        script = script.replace(&open, value);
    }
    assert!(!script.contains("${"), "{script}");
    machine.write("/srv/user-data", &script);
    let ran = machine.sh("sh /srv/user-data").ok();
    is_live(&machine, &ran);
}
