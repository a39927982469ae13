//! `bootstrap/install.sh` with a release: a directory with programs for several machines, their checksums, and a
//! signature of these.

use std::fs;

use crate::install::{AGENT, read};
use crate::machine_copy::MachineCopy;

/// The target whose program a release has for this machine.
pub fn static_target() -> String {
    let libc = if cfg!(target_arch = "arm") { "musleabihf" } else { "musl" };
    let arch = if cfg!(target_arch = "arm") { "armv7" } else { std::env::consts::ARCH };
    format!("{arch}-unknown-linux-{libc}")
}

/// A signed release in `/srv/release` of the copy, which holds this build's agent; returns its signers, of whom the
/// second has signed nothing.
fn release(machine: &MachineCopy) -> [&'static str; 2] {
    machine.write("/srv/release/install.sh", &read("install.sh"));
    let agent = machine.path("/srv/release").join(format!("agent-{}", static_target()));
    fs::copy(AGENT, &agent).unwrap();
    machine.write("/srv/share/share/man/man1/agent.1.gz", "page");
    machine.write("/srv/share/share/bash-completion/completions/agent", "completion");
    machine
        .sh("cd /srv/release
             tar -czf agent-share.tar.gz -C /srv/share .
             sha256sum -- * > /srv/sums && mv /srv/sums SHA256SUMS
             for key in maker other; do
                 ssh-keygen -q -t ed25519 -N '' -f /srv/$key
                 echo \"$key namespaces=\\\"push-me-pull-you\\\" $(cat /srv/$key.pub)\" > /srv/$key.signers
             done
             ssh-keygen -q -Y sign -f /srv/maker -n push-me-pull-you SHA256SUMS")
        .ok();
    ["/srv/maker.signers", "/srv/other.signers"]
}

#[test]
fn a_signed_release_is_installed_as_a_whole_and_goes_as_a_whole() {
    let machine = MachineCopy::without_agent();
    let [signers, _] = release(&machine);
    let line = format!("sh /srv/release/install.sh --signers {signers}");
    let said = machine.sh(&format!("{line} --dry-run")).ok().stdout;
    assert!(
        said.contains("would run: mv -f ") && said.contains("share/man/man1/agent.1.gz"),
        "{said}"
    );
    assert!(!machine.path("/usr/local/bin/agent").exists(), "a rehearsal does nothing");
    let said = machine.sh(&line).ok().stdout;
    assert!(said.contains("Good \"push-me-pull-you\" signature for maker"), "{said}");
    machine.sh("pmpy --version").ok();
    assert_eq!(machine.read("/usr/local/share/man/man1/agent.1.gz"), "page");
    assert_eq!(machine.read("/usr/local/share/bash-completion/completions/agent"), "completion");

    machine.agent(&["schedule", "cron"]).ok();
    machine.write("/usr/local/share/man/man1/other.1", "somebody else's");
    let uninstall = "sh /srv/release/install.sh --uninstall";
    let said = machine.sh(&format!("{uninstall} --dry-run")).ok().stdout;
    assert!(said.contains("would run: rm -f /usr/local/bin/agent"), "{said}");
    machine.sh("agent --version").ok();
    machine.sh(uninstall).ok();
    for gone in [
        "/usr/local/bin/agent",
        "/usr/local/bin/pmpy",
        "/usr/local/share/man/man1/agent.1.gz",
        "/usr/local/share/bash-completion/completions/agent",
        "/usr/local/share/push-me-pull-you",
        "/etc/cron.d/pmpy",
    ] {
        assert!(machine.path(gone).symlink_metadata().is_err(), "{gone}");
    }
    assert!(machine.path("/usr/local/share/man/man1/other.1").exists());
    let ran = machine.sh(uninstall).exits(1);
    assert!(ran.stderr.contains("there is no agent in /usr/local/bin"), "{ran}");
}

#[test]
fn a_release_that_somebody_changed_or_another_signed_is_not_installed() {
    let machine = MachineCopy::without_agent();
    let [maker, other] = release(&machine);
    let refused = |signers: &str, words: &str| {
        let ran = machine.sh(&format!("sh /srv/release/install.sh {signers}")).exits(1);
        assert!(ran.stderr.contains(words), "no \"{words}\" in\n{ran}");
        assert!(!machine.path("/usr/local/bin/agent").exists(), "{ran}");
        assert!(!machine.path("/usr/local/share/man/man1/agent.1.gz").exists(), "{ran}");
    };
    let maker = format!("--signers {maker}");
    refused(&format!("--signers {other}"), "is of no one in /srv/other.signers");
    refused("--signers /srv/nothing", "there is no file /srv/nothing");
    refused("--release http://127.0.0.1:9", "may be changed on the way");
    machine.sh(&format!("sh /srv/release/install.sh --from /srv/sums {maker}")).exits(2);
    let agent = format!("/srv/release/agent-{}", static_target());
    machine.sh(&format!("cp {agent} /srv/agent && echo >> {agent}")).ok();
    refused(&maker, "is not what was meant");
    machine.sh(&format!("cp /srv/agent {agent}; echo >> /srv/release/agent-share.tar.gz")).ok();
    refused(&maker, "is not what was meant");
    machine.sh("echo >> /srv/release/SHA256SUMS").ok();
    refused(&maker, "does not match its SHA256SUMS");
    machine.sh("cd /srv/release; sed -i /agent-.*-linux/d SHA256SUMS").ok();
    refused("", "lists no agent-");
    machine.sh("rm /srv/release/SHA256SUMS.sig").ok();
    refused(&maker, "there is no file /srv/release/SHA256SUMS.sig");
}
