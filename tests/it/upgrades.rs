//! Two versions of the agent on one machine, one after the other: what the later one wrote, the earlier
//! one leaves as it is, and says so.

use std::fs;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox};

/// What a later version may write: its number, and nothing else that this one knows.
const LATER: &str = r#"{"format": 99, "attempt": {"brave": ["new", "world"]}, "phase": 7}"#;

#[test]
fn what_a_newer_agent_wrote_is_left_alone_and_told() {
    for file in ["state", "journal"] {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
        machine.tick().ok();
        let (path, acted) = (machine.private("ops", file), machine.lastaction("ops"));
        fs::write(&path, LATER).unwrap();
        let revision = machine.push("ops", &[("page", "two\n")]);
        for command in [&["tick", "--trigger", "cron"][..], &["tick", "ops"], &["redo", "ops"]] {
            machine.agent(command).exits(1);
            let row = machine.row("ops");
            assert_eq!(row["state"], "broken", "{row:#}");
            let reason = row["reason"].as_str().unwrap();
            assert!(
                reason.contains(&format!("pmpy/{file} was written by a newer agent")),
                "{row:#}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), LATER, "{file}");
            assert_eq!(machine.lastaction("ops"), acted, "{file}");
        }
        // The newer one is back and has finished, or a person decided.
        fs::remove_file(&path).unwrap();
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{file}");
    }
}

#[test]
fn the_version_tells_of_the_library_that_reads_foreign_objects() {
    let machine = Sandbox::new();
    let told = machine.agent(&["--version"]).ok().stdout;
    let (major, minor, patch) = git2::Version::get().libgit2_version();
    assert!(told.contains(&format!("libgit2 {major}.{minor}.{patch}")), "{told}");
}
