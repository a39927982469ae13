//! The RPM package, with an RPM database of its own (`rpm --root`) on a disk that has a shell.

use std::path::Path;

use crate::artefact;
use crate::debian::machine;
use crate::sandbox::{Ran, text};

#[test]
fn it_is_installed_upgraded_and_erased_in_a_root_of_its_own() {
    let machine = machine("bare-debian-12", "bookworm");
    let package = artefact("push-me-pull-you-", ".x86_64.rpm");
    let root = machine.path("/");
    let rpm = |arguments: &[&str]| {
        let mut command = machine.sandbox.command("rpm");
        // The database is empty: bash and glibc are there, and it does not know.
        Ran::of(command.args(["--root", text(&root), "--nodeps"]).args(arguments)).ok()
    };
    rpm(&["--install", text(&package)]);
    for line in ["pmpy --version", "test -s /usr/share/doc/push-me-pull-you/examples/agent.toml"] {
        machine.sh(line).ok();
    }
    let version = machine.agent(&["--version"]).ok().stdout;
    assert!(version.contains("-linux-gnu, glibc, libgit2 "), "{version}");
    for (file, begins) in [
        ("/usr/share/zsh/site-functions/_agent", "#compdef agent\n"),
        ("/usr/lib/systemd/system/pmpy.service", "# \"agent schedule systemd\""),
    ] {
        assert!(machine.read(file).starts_with(begins), "{file}");
    }
    assert!(machine.path("/usr/share/man/man1/agent-status.1.gz").exists());
    assert!(!machine.path("/etc/cron.d/pmpy").exists(), "nothing runs before a person says so");

    let revision =
        machine.sandbox.serve("ops", &[("work.sh", "echo \"$AGENT_REVISION\" >> /root/runs\n")]);
    machine.agent(&["init", text(&machine.sandbox.server("ops"))]).ok();
    assert!(machine.read("/etc/cron.d/pmpy").contains("root /usr/bin/agent tick"));
    rpm(&["--upgrade", "--force", text(&package)]);
    assert!(machine.path("/etc/cron.d/pmpy").exists(), "an upgrade leaves the schedule");
    assert_eq!(machine.read("/root/runs"), format!("{revision}\n"));

    rpm(&["--erase", "push-me-pull-you"]);
    for gone in [
        "/usr/bin/agent",
        "/usr/bin/pmpy",
        "/etc/cron.d/pmpy",
        "/usr/lib/systemd/system/pmpy.service",
    ] {
        assert!(!machine.path(gone).exists(), "{gone}");
    }
    assert!(machine.path("/root/gitrepo/ops/.git").exists(), "repositories stay");
}

#[test]
fn both_packages_name_their_processor_and_what_they_need() {
    for arch in ["x86_64", "aarch64"] {
        let package = artefact("push-me-pull-you-", &format!(".{arch}.rpm"));
        let ask = |query: &str| {
            let mut rpm = std::process::Command::new("rpm");
            Ran::of(rpm.args(["--query", "--package", query, text(&package)])).ok().stdout
        };
        assert!(ask("--info").contains(&format!("Architecture: {arch}\n")));
        let requires = ask("--requires");
        assert!(requires.contains("glibc >= 2.17\n") && requires.contains("bash\n"), "{requires}");
        let name = Path::new(package.file_name().unwrap());
        assert!(text(name).contains(env!("CARGO_PKG_VERSION")), "{}", name.display());
    }
}
