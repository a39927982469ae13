//! The Debian package, from being built to being purged, in a throw-away copy of the machine. It holds
//! the agent of this test's build; `cargo deb` has to be there.

use std::fs;
use std::path::PathBuf;

use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, Sandbox, text, wait_until};

/// Builds the package of this version into the sandbox's directory.
fn build(sandbox: &Sandbox, version: &str) -> PathBuf {
    let to = sandbox.path(&format!("package-{version}.deb"));
    let top = env!("CARGO_MANIFEST_DIR");
    // Without what only debuggers read: a tenth of it.
    let agent = sandbox.path("agent");
    Ran::of(sandbox.command("strip").args(["-o", text(&agent), env!("CARGO_BIN_EXE_agent")])).ok();
    let mut build = std::process::Command::new(format!("{top}/bootstrap/deb/build"));
    build.arg(&agent).args(["--compress-system", "--deb-version", version, "--output"]).arg(&to);
    Ran::of(&mut build).ok();
    to
}

#[test]
fn it_installs_upgrades_during_a_running_action_goes_and_leaves_the_repositories() {
    let machine = MachineCopy::without_agent();
    let package = build(&machine.sandbox, "0.1.0-1");
    let package = text(&package);
    machine.sh(&format!("dpkg --install {package}")).ok();
    machine.sh("pmpy --version; test -s /usr/share/doc/push-me-pull-you/examples/agent.toml").ok();
    for page in ["man1/agent.1", "man1/agent-status.1", "man5/agent.toml.5"] {
        let reported = machine.sh(&format!("zcat /usr/share/man/{page}.gz")).ok().stdout;
        assert!(reported.contains(".TH"), "{page}");
    }
    machine.sh("bash -n /usr/share/bash-completion/completions/agent").ok();
    for (completion, begins) in [
        ("zsh/vendor-completions/_agent", "#compdef agent\n"),
        ("fish/vendor_completions.d/agent.fish", "# Print an optspec for argparse"),
    ] {
        let text = machine.read(&format!("/usr/share/{completion}"));
        assert!(text.starts_with(begins) && text.contains("rollback"), "{completion}");
    }
    let ran =
        machine.sh("systemd-analyze verify --man=no /usr/lib/systemd/system/pmpy.service").ok();
    assert!(!ran.stderr.contains("pmpy"), "{ran}");
    assert!(!machine.path("/etc/cron.d/pmpy").exists(), "nothing runs before a person says so");

    let work =
        "while [ -e /tmp/wait ]; do sleep 0.1; done\necho \"$AGENT_REVISION\" >> /root/runs\n";
    let first = machine.sandbox.serve("ops", &[("work.sh", work)]);
    let url = text(&machine.sandbox.server("ops")).to_owned();
    machine.agent(&["init", &url]).ok();
    assert!(machine.read("/etc/cron.d/pmpy").contains("root /usr/bin/agent tick"));

    machine.write("/tmp/wait", "");
    let second = machine.sandbox.push("ops", &[("page", "new\n")]);
    let mut tick = machine.command(&["agent", "tick"]).spawn().unwrap();
    wait_until("the action runs", || machine.state("ops") == "acting");
    let newer = build(&machine.sandbox, "0.1.0-2");
    machine.sh(&format!("dpkg --install {}", text(&newer))).ok();
    let version = machine.sh("dpkg-query --show --showformat '${Version}' push-me-pull-you").ok();
    assert_eq!(version.stdout, "0.1.0-2");
    assert_eq!(machine.state("ops"), "acting", "an upgrade leaves it alone");
    fs::remove_file(machine.path("/tmp/wait")).unwrap();
    assert!(tick.wait().unwrap().success());
    assert_eq!(machine.read("/root/runs"), format!("{first}\n{second}\n"));
    assert_eq!(machine.state("ops"), "current");

    machine.agent(&["schedule", "systemd"]).ok();
    let link = machine.path("/etc/systemd/system/multi-user.target.wants/pmpy.service");
    assert!(link.symlink_metadata().is_ok());
    // What is wrong with the configuration keeps nothing that calls the agent.
    machine.write("/etc/pmpy/agent.toml", "this is none\n");
    machine.sh("dpkg --remove push-me-pull-you").ok();
    assert!(!machine.path("/usr/bin/agent").exists());
    assert!(!machine.path("/etc/cron.d/pmpy").exists(), "nothing calls what is gone");
    assert!(link.symlink_metadata().is_err(), "and nothing starts it");
    assert!(machine.path("/etc/pmpy/agent.d/ops.toml").exists());
    machine.sh("dpkg --purge push-me-pull-you").ok();
    for gone in [
        "/etc/pmpy",
        "/var/lib/pmpy",
        "/var/log/pmpy",
        "/etc/systemd/system/pmpy.service",
        "/usr/lib/systemd/system/pmpy.service",
        "/usr/share/bash-completion/completions/agent",
    ] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    let head = machine.sh("git -C /root/gitrepo/ops rev-parse HEAD").ok().stdout;
    assert_eq!(head.trim(), second, "the repositories stay");
}
