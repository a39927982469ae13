//! `examples/upgrade-agent`: three versions of the agent, brought by pushes to the machine on which they run. They
//! are this build with another number in it, and one that only knows its number.

use std::fs;
use std::path::Path;

use crate::install::{AGENT, sha256};
use crate::install_release::static_target;
use crate::machine_copy::MachineCopy;
use crate::sandbox::{Ran, text, write_program};

const NOW: &str = env!("CARGO_PKG_VERSION");
/// A later version, whose number is as long.
const NEXT: &str = "9.9.8";
const WRONG: &str = "9.9.9";

/// Puts a release into `/srv/VERSION` of the copy: a program, and its checksum.
fn release(machine: &MachineCopy, version: &str, program: &[u8]) -> String {
    let dir = machine.path("/srv").join(version);
    fs::create_dir_all(&dir).unwrap();
    let file = dir.join(format!("agent-{}", static_target()));
    write_program(&file, program);
    format!("{}  agent-{}\n", sha256(text(&file)), static_target())
}

/// This build as another version: its number is replaced wherever it is.
fn as_version(program: &[u8], version: &str) -> Vec<u8> {
    assert_eq!(NOW.len(), version.len());
    let mut out = program.to_vec();
    let mut from = 0;
    while let Some(at) = out[from..].windows(NOW.len()).position(|part| part == NOW.as_bytes()) {
        out[from + at..][..NOW.len()].copy_from_slice(version.as_bytes());
        from += at + NOW.len();
    }
    out
}

fn version(machine: &MachineCopy) -> String {
    let said = machine.agent(&["--version"]).ok().stdout;
    said.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_push_upgrades_the_agent_that_runs_it_and_one_that_does_not_tick_is_taken_back() {
    let machine = MachineCopy::without_agent();
    let small = machine.sandbox.path("agent");
    Ran::of(machine.sandbox.command("strip").args(["-o", text(&small), AGENT])).ok();
    fs::copy(&small, machine.path("/usr/local/bin/agent")).unwrap();
    let program = fs::read(&small).unwrap();

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/upgrade-agent");
    let work = fs::read_to_string(example.join("work.sh")).unwrap();
    let config = fs::read_to_string(example.join("release")).unwrap();
    let pinned = |version: &str| {
        assert!(config.contains(&format!("version={NOW}\n")), "the example names this version");
        config
            .replace(NOW, version)
            .replace("https://downloads.example.org/push-me-pull-you/", "/srv/")
    };
    let sums = "nothing of this machine\n";
    machine
        .sandbox
        .serve("up", &[("work.sh", &work), ("release", &pinned(NOW)), ("SHA256SUMS", sums)]);
    let url = text(&machine.sandbox.server("up")).to_owned();
    machine.agent(&["init", &url]).ok();
    assert_eq!((version(&machine).as_str(), machine.state("up").as_str()), (NOW, "current"));

    let sums = release(&machine, NEXT, &as_version(&program, NEXT));
    machine.sandbox.push("up", &[("release", &pinned(NEXT)), ("SHA256SUMS", &sums)]);
    let ran = machine.agent(&["tick", "up"]).ok();
    assert_eq!(version(&machine), NEXT, "{ran}");

    // It knows its number and does nothing else.
    let broken =
        format!("#!/bin/sh\n[ \"$1\" = --version ] || exit 70\necho 'agent {WRONG} (x)'\n");
    let sums = release(&machine, WRONG, broken.as_bytes());
    machine.sandbox.push("up", &[("release", &pinned(WRONG)), ("SHA256SUMS", &sums)]);
    let ran = machine.agent(&["tick", "up"]).exits(1);
    assert_eq!(
        (version(&machine).as_str(), machine.state("up").as_str()),
        (NEXT, "failing"),
        "{ran}"
    );
    let log = machine.agent(&["log", "up"]).ok().stdout;
    assert!(log.contains(&format!("the agent {WRONG} does not tick; {NEXT} is back")), "{log}");

    // Another program under the same name, and one of another version.
    for (content, words) in [
        (broken.replace("70", "7"), "is not what SHA256SUMS says"),
        (broken.replace(WRONG, "1.2.3"), &*format!("is not version {WRONG} on this machine")),
    ] {
        let real = release(&machine, WRONG, content.as_bytes());
        let sums = if words.contains("SHA256SUMS") { &sums } else { &real };
        machine.sandbox.push("up", &[("SHA256SUMS", sums), ("page", words)]);
        machine.agent(&["tick", "up"]).exits(1);
        assert_eq!(version(&machine), NEXT);
        let log = machine.agent(&["log", "up"]).ok().stdout;
        assert!(log.contains(words), "{log}");
    }

    // Cut off between the rename and the check.
    machine
        .sh("cd /usr/local/bin; cp agent .agent.old; printf '#!/bin/sh\\nexit 70\\n' > agent.x; chmod 755 agent.x")
        .ok();
    machine.sh("cd /root/gitrepo/up && mv /usr/local/bin/agent.x /usr/local/bin/agent; sh work.sh || true").ok();
    assert_eq!(version(&machine), NEXT);

    let sums = release(&machine, WRONG, &as_version(&program, WRONG));
    machine.sandbox.push("up", &[("SHA256SUMS", &sums)]);
    machine.agent(&["tick", "up"]).ok();
    assert_eq!((version(&machine).as_str(), machine.state("up").as_str()), (WRONG, "current"));
    let files = machine.sh("ls -A /usr/local/bin | grep -c agent").ok().stdout;
    assert_eq!(files, "1\n", "nothing is left next to it");
}
