//! Two versions of the agent on one machine, one after the other: what the later one wrote, the earlier
//! one leaves as it is, and says so; the run that the earlier one left, the later one completes.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox};

/// What a later version may write: its number, and nothing else that this one knows.
const LATER: &str = r#"{"format": 99, "attempt": {"brave": ["new", "world"]}, "phase": 7}"#;

/// What `build/commit.rs`, run in `directory` as for a build of this profile, tells cargo of the commit.
fn reported_commit(
    script: &Path,
    dir: &Path,
    profile: &str,
    given: Option<&str>,
) -> Option<String> {
    let mut run = std::process::Command::new(script);
    run.current_dir(dir).env("PROFILE", profile).env_remove("PMPY_COMMIT");
    run.envs(given.map(|commit| ("PMPY_COMMIT", commit)));
    let reported = Ran::of(&mut run).ok().stdout;
    reported
        .lines()
        .find_map(|line| line.strip_prefix("cargo::rustc-env=PMPY_COMMIT=").map(str::to_owned))
}

#[test]
fn a_release_build_names_its_commit_and_one_without_git_none() {
    let sandbox = Sandbox::new();
    let script = sandbox.path("build-script");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("build/commit.rs");
    let mut rustc = std::process::Command::new("rustc");
    rustc.args(["--edition", "2024", "-A", "unknown_lints", "-o"]).arg(&script).arg(&source);
    Ran::of(&mut rustc).ok();
    let commit = sandbox.serve("ops", &[("page", "new")]);
    let desk = sandbox.desk("ops");
    assert_eq!(reported_commit(&script, &desk, "release", None).as_deref(), Some(&commit[..12]));
    assert_eq!(
        reported_commit(&script, &desk, "release", Some("given")),
        None,
        "what is given wins"
    );
    assert_eq!(reported_commit(&script, &desk, "debug", None), None);
    // A tarball, and one that was unpacked into somebody's repository.
    assert_eq!(reported_commit(&script, &sandbox.path("home"), "release", None), None);
    std::fs::create_dir(desk.join("vendor")).unwrap();
    assert_eq!(reported_commit(&script, &desk.join("vendor"), "release", None), None);
}

#[test]
fn what_a_newer_agent_wrote_is_left_alone_and_reported() {
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
fn the_version_names_the_target_and_the_libraries() {
    let machine = Sandbox::new();
    let reported = machine.agent(&["--version"]).ok().stdout;
    let target = format!("{}-unknown-linux-", std::env::consts::ARCH);
    assert!(reported.starts_with(&format!("agent {} (", env!("CARGO_PKG_VERSION"))), "{reported}");
    assert!(reported.contains(&target), "{reported}");
    assert_eq!(reported.contains("-gnu, glibc, "), cfg!(target_env = "gnu"), "{reported}");
    let (major, minor, patch) = git2::Version::get().libgit2_version();
    assert!(reported.contains(&format!("libgit2 {major}.{minor}.{patch}")), "{reported}");
}

/// Notes the revision, the attempt, and whether an earlier run was cut off.
const NOTES_ITS_ATTEMPT: &str =
    "echo \"$AGENT_REVISION $AGENT_ATTEMPT $AGENT_RESUMED\" >> \"$AGENT_ROOT/../runs\"\n";

/// The journal of a run in format 1, as its last version wrote it in each phase from `apply` on.
const OLDER_JOURNAL: &str = concat!(
    r#"{"format":1,"id":"20261122T090000.718092508Z-2883","phase":"PHASE","trigger":"cron","#,
    r#""since":"2026-11-22T09:00:00.718092508Z","boot_id":"BOOT","worker":{"pid":2883,"#,
    r#""start":2867471},"step":{"branch":"main","reference":null,"head":"HEAD","#,
    r#""target":"TARGET","previous":"HEAD","attempt":1,"resumed":false,"current":"#,
    r#"{"seconds":SECONDS,"nanoseconds":NANOS,"text":"TARGET\n"},"script":SCRIPT,"#,
    r#""culprit":CULPRIT,"log":LOG,"ended":ENDED}}"#
);
const OLDER_LOG: &str = r#""20261122T090000.909Z-84f937694ebc.log""#;

/// A machine on which an older agent died while it deployed the revision that is returned.
struct DeadRun {
    machine: Sandbox,
    head: String,
    target: String,
}

impl DeadRun {
    fn new() -> Self {
        let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_ATTEMPT), ("page", "one\n")]);
        machine.tick().ok();
        fs::remove_file(machine.path("runs")).unwrap();
        let head = machine.head("ops");
        let target = machine.push("ops", &[("page", "two\n")]);
        machine.git(&machine.clone_of("ops"), &["fetch", "--quiet"]);
        Self { machine, head, target }
    }

    /// One whose files, index and branch are at the target.
    fn applied() -> Self {
        let run = Self::new();
        run.machine
            .git(&run.machine.clone_of("ops"), &["merge", "--quiet", "--ff-only", &run.target]);
        run
    }

    /// Leaves `currentaction.txt` and the journal, with each of `values` in place of its name.
    fn leave_journal(&self, phase: &str, values: &[(&str, &str)]) {
        let current = self.machine.currentaction("ops");
        fs::write(&current, format!("{}\n", self.target)).unwrap();
        let found = fs::metadata(&current).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let mut text = OLDER_JOURNAL
            .replace("PHASE", phase)
            .replace("BOOT", boot.trim())
            .replace("HEAD", &self.head)
            .replace("TARGET", &self.target)
            .replace("SECONDS", &found.mtime().to_string())
            .replace("NANOS", &found.mtime_nsec().to_string());
        for (name, value) in values {
            text = text.replace(name, value);
        }
        for name in ["SCRIPT", "CULPRIT", "LOG", "ENDED"] {
            text = text.replace(name, "null");
        }
        fs::write(self.machine.private("ops", "journal"), text).unwrap();
    }

    fn history(&self) -> String {
        fs::read_to_string(self.machine.private("ops", "history")).unwrap()
    }

    /// One tick leaves nothing of the run, and the repository at `revision`.
    fn is_completed_by_a_tick_at(&self, revision: &str) {
        self.machine.tick().ok();
        assert_eq!(self.machine.state("ops"), "current");
        assert_eq!(self.machine.lastaction("ops").as_deref(), Some(revision));
        self.leaves_nothing();
    }

    fn leaves_nothing(&self) {
        assert!(!self.machine.private("ops", "journal").exists());
        assert!(!self.machine.currentaction("ops").exists());
    }
}

#[test]
fn a_fetch_that_an_older_agent_left_is_made_again() {
    let run = DeadRun::new();
    let journal = r#"{"format":1,"id":"20261122T090000.718092508Z-2883","phase":"fetch","#;
    let rest = r#""trigger":"cron","since":"2026-11-22T09:00:00.718092508Z","boot_id":"x","#;
    let journal = format!("{journal}{rest}\"worker\":{{\"pid\":2883,\"start\":1}},\"step\":null}}");
    fs::write(run.machine.private("ops", "journal"), journal).unwrap();
    run.is_completed_by_a_tick_at(&run.target);
    assert_eq!(run.machine.runs(), [format!("{} 1 ", run.target)]);
}

#[test]
fn an_update_that_an_older_agent_left_half_written_is_completed() {
    let run = DeadRun::new();
    fs::write(run.machine.clone_of("ops").join("page"), "two\n").unwrap();
    run.leave_journal("apply", &[]);
    // From between two revisions, no later one can be applied.
    let later = run.machine.push("ops", &[("page", "three\n")]);
    run.is_completed_by_a_tick_at(&later);
    assert_eq!(run.machine.runs(), [format!("{later} 1 ")]);
}

#[test]
fn a_script_that_an_older_agent_left_is_waited_for_and_counted_as_interrupted() {
    let run = DeadRun::applied();
    let mut script = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap();
    let stat = fs::read_to_string(format!("/proc/{}/stat", script.id())).unwrap();
    let start = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().to_owned();
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let seconds: u64 = uptime.split('.').next().unwrap().parse().unwrap();
    let running = format!(
        r#"{{"process":{{"pid":{},"start":{start}}},"deadline":{{"secs":{},"nanos":991319609}}}}"#,
        script.id(),
        seconds + 3600
    );
    run.leave_journal("run", &[("SCRIPT", &running), ("LOG", OLDER_LOG)]);
    run.machine.tick().ok();
    let row = run.machine.row("ops");
    assert_eq!(row["state"], "acting", "{row:#}");
    assert!(row["reason"].to_string().contains(&format!("(pid {})", script.id())), "{row:#}");
    assert!(run.machine.runs().is_empty(), "never two at once");

    script.kill().unwrap();
    script.wait().unwrap();
    run.is_completed_by_a_tick_at(&run.target);
    assert_eq!(run.machine.runs(), [format!("{} 2 1", run.target)]);
    let history = run.history();
    assert!(history.contains(r#"{"kind":"interrupted"}"#), "{history}");
    assert!(history.contains(OLDER_LOG), "{history}");
}

#[test]
fn a_success_that_an_older_agent_left_is_recorded_and_not_run_again() {
    let run = DeadRun::applied();
    let ended =
        r#"{"outcome":{"kind":"succeeded"},"seconds":0.161620015,"at":"2026-11-22T09:00:01Z"}"#;
    run.leave_journal("done", &[("LOG", OLDER_LOG), ("ENDED", ended)]);
    run.is_completed_by_a_tick_at(&run.target);
    assert!(run.machine.runs().is_empty(), "it is recorded");
    let history = run.history();
    assert!(history.contains("20261122T090000.718092508Z-2883"), "{history}");
    assert!(history.contains(OLDER_LOG), "{history}");
}

#[test]
fn a_failure_that_an_older_agent_left_is_recorded_with_its_script() {
    let run = DeadRun::applied();
    let ended = format!(
        r#"{{"outcome":{{"kind":"failed","code":3}},"seconds":0.161620015,"at":"{}"}}"#,
        chrono::Utc::now().to_rfc3339()
    );
    let values = [("CULPRIT", "\"work.sh\""), ("LOG", OLDER_LOG), ("ENDED", &*ended)];
    run.leave_journal("done", &values);
    run.machine.tick().exits(1);
    let row = run.machine.row("ops");
    assert_eq!(row["state"], "failing", "{row:#}");
    assert!(row["reason"].to_string().contains("work.sh exited 3 at"), "{row:#}");
    assert!(run.machine.runs().is_empty(), "it waits until its next try");
    run.leaves_nothing();
}

#[test]
fn the_one_hold_of_an_older_agent_counts_and_is_lifted_by_its_author_only() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    let older = r#"{"by":"ann","reason":"restore","since":"2026-11-22T09:00:00Z","until":null}"#;
    fs::write(machine.private("ops", "hold"), older).unwrap();
    assert_eq!(machine.state("ops"), "held");
    machine.agent_as("bob", &["hold", "ops", "a test"]).ok();
    machine.agent_as("bob", &["unhold", "ops"]).ok();
    let row = machine.row("ops");
    assert_eq!((&row["state"], &row["holds"][0]["by"]), (&"held".into(), &"ann".into()), "{row:#}");
    // What the older agent reads after a downgrade.
    let text = fs::read_to_string(machine.private("ops", "hold")).unwrap();
    let read: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&read["by"], &read["reason"]), (&"ann".into(), &"restore".into()));
    machine.agent_as("ann", &["unhold", "ops"]).ok();
    assert_eq!(machine.state("ops"), "current");
}
