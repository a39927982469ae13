//! The programs for ARM under qemu's user-mode emulation. A tick starts its own program; where the kernel can be told
//! to emulate (binfmt_misc, in a user namespace of the test's), a whole tick runs, else a single worker.

use std::fs;
use std::path::{Path, PathBuf};

use crate::dist;
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, text};

/// Rust's target, and the name of qemu's program and file for binfmt_misc.
const PROCESSORS: [(&str, &str); 2] =
    [("aarch64-unknown-linux-musl", "aarch64"), ("armv7-unknown-linux-musleabihf", "arm")];

/// A machine with a clone of `ops`, and the revision that waits for it.
fn machine(files: &[(&str, &str)]) -> (Sandbox, String) {
    let machine = Sandbox::with("ops", files);
    let revision = machine.push("ops", &[("page", "two\n")]);
    (machine, revision)
}

/// The program that `tests/run --release tools` has unpacked.
fn emulator(qemu: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("qemu/usr/bin/qemu-{qemu}"))
}

fn emulated(machine: &Sandbox, target: &str, qemu: &str, arguments: &[&str]) -> Ran {
    let program = dist().join(format!("agent-{target}"));
    let mut command = machine.command(text(&emulator(qemu)));
    Ran::of(command.arg(program).args(["--root", text(&machine.root())]).args(arguments))
}

#[test]
fn programs_for_arm_say_what_they_are_check_and_report() {
    for (target, qemu) in PROCESSORS {
        let (machine, _) = machine(&[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
        let version = emulated(&machine, target, qemu, &["--version"]).ok().stdout;
        assert!(version.contains(&format!("{target}, static musl, libgit2 ")), "{version}");
        let checked = emulated(&machine, target, qemu, &["check", "--offline"]);
        assert!(checked.stdout.contains("ops"), "{checked}");
        let status = emulated(&machine, target, qemu, &["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
        assert_eq!(status["repositories"][0]["name"], "ops", "{status:#}");
    }
}

#[test]
fn a_worker_for_arm_writes_the_files_of_a_fetched_revision() {
    for (target, qemu) in PROCESSORS {
        let (machine, _) = machine(&[("page", "one\n")]);
        machine.configure("[repo.ops]\nmode = \"in-place\"\n");
        // To take in a pack, a worker starts its own program as well. It acts on the last poll.
        machine.git(&machine.clone_of("ops"), &["fetch", "--quiet"]);
        emulated(&machine, target, qemu, &["tick", "--dry-run"]).ok();
        let line = ["worker", "ops", "--trigger", "cron"];
        let ran = emulated(&machine, target, qemu, &line);
        assert_eq!(ran.code, Some(0), "{target}: {ran}");
        let page = fs::read_to_string(machine.clone_of("ops").join("page")).unwrap();
        assert_eq!(page, "two\n", "{target}: {ran}");
    }
}

#[test]
fn a_whole_tick_for_arm_runs_the_script_where_the_kernel_emulates() {
    for (target, qemu) in PROCESSORS {
        let (machine, revision) = machine(&[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
        let emulator = emulator(qemu);
        let config = format!("../share/qemu/binfmt.d/qemu-{qemu}.conf");
        let config = fs::read_to_string(emulator.parent().unwrap().join(config)).unwrap();
        let mut fields: Vec<&str> = config.trim().split(':').collect();
        (fields[6], fields[7]) = (text(&emulator), "F");
        let script = "
            mount -t binfmt_misc none /proc/sys/fs/binfmt_misc || exit 77
            printf %s \"$0\" > /proc/sys/fs/binfmt_misc/register
            exec \"$@\"";
        let program = dist().join(format!("agent-{target}"));
        let mut tick = machine.command("unshare");
        tick.args(["--user", "--map-root-user", "--mount", "sh", "-euc", script])
            .arg(fields.join(":"))
            .arg(&program)
            .args(["--root", text(&machine.root()), "tick"]);
        let ran = Ran::of(&mut tick);
        if ran.code == Some(77) {
            // Before Linux 6.7 a namespace has none of its own; the worker above is what can be shown there.
            println!("not run: this kernel has no binfmt_misc for a user namespace");
            return;
        }
        assert_eq!(ran.code, Some(0), "{target}: {ran}");
        assert_eq!(machine.lastaction("ops"), Some(revision.clone()), "{target}: {ran}");
        assert!(machine.runs().contains(&format!("end {revision}")), "{target}: {ran}");
    }
}
