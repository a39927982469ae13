//! Two versions of the agent on one machine, one after the other: what the later one wrote, the earlier
//! one leaves as it is, and says so.

use std::fs;
use std::path::Path;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};

/// What a later version may write: its number, and nothing else that this one knows.
const LATER: &str = r#"{"format": 99, "attempt": {"brave": ["new", "world"]}, "phase": 7}"#;

/// What `build.rs`, run in `folder` as for a build of this profile, tells cargo of the commit.
fn commit_told(script: &Path, folder: &Path, profile: &str, given: Option<&str>) -> Option<String> {
    let mut run = std::process::Command::new(script);
    run.current_dir(folder).env("PROFILE", profile).env_remove("PMPY_COMMIT");
    run.envs(given.map(|commit| ("PMPY_COMMIT", commit)));
    let told = Ran::of(&mut run).ok().stdout;
    told.lines()
        .find_map(|line| line.strip_prefix("cargo::rustc-env=PMPY_COMMIT=").map(str::to_owned))
}

#[test]
fn a_release_build_names_its_commit_and_one_without_git_none() {
    let sandbox = Sandbox::new();
    let script = sandbox.path("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs");
    let mut rustc = std::process::Command::new("rustc");
    rustc.args(["--edition", "2024", "-A", "unknown_lints", "-o"]).arg(&script).arg(&source);
    Ran::of(&mut rustc).ok();
    let commit = sandbox.serve("ops", &[("page", "new")]);
    let desk = sandbox.desk("ops");
    assert_eq!(commit_told(&script, &desk, "release", None).as_deref(), Some(&commit[..12]));
    assert_eq!(commit_told(&script, &desk, "release", Some("given")), None, "what is given wins");
    assert_eq!(commit_told(&script, &desk, "debug", None), None);
    // A tarball, and one that was unpacked into somebody's repository.
    assert_eq!(commit_told(&script, &sandbox.path("home"), "release", None), None);
    std::fs::create_dir(desk.join("vendor")).unwrap();
    assert_eq!(commit_told(&script, &desk.join("vendor"), "release", None), None);
}

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
