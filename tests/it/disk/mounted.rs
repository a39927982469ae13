//! Disks that a test mounts, which takes root; each is unmounted at the test's end, also when that panics.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::sandbox::{Ran, Sandbox, text};

/// A mount that goes away with the value.
pub struct Mounted {
    at: PathBuf,
}

impl Mounted {
    /// What `mount ARGUMENTS… AT` mounts.
    pub fn of(at: &Path, arguments: &[&str]) -> Self {
        let ran = Ran::of(Command::new("mount").args(arguments).arg(at));
        assert!(ran.code == Some(0), "this test mounts a disk and so needs root\n{ran}");
        Self { at: at.to_owned() }
    }

    /// A disk in memory.
    pub fn tmpfs(at: &Path, options: &str) -> Self {
        // By default everybody may write there.
        let options = format!("{options},mode=0755");
        Self::of(at, &["-t", "tmpfs", "-o", &options, "tmpfs"])
    }

    /// `from` under another name.
    pub fn bind(from: &Path, at: &Path) -> Self {
        Self::of(at, &["--bind", text(from)])
    }

    /// A disk of 16 MB with files that can be made immutable.
    pub fn ext4(machine: &Sandbox, at: &Path) -> Self {
        let image = machine.path("disk");
        File::create(&image).unwrap().set_len(16 << 20).unwrap();
        Ran::of(machine.command("mkfs.ext4").args(["-q", text(&image)])).ok();
        Self::of(at, &["-t", "ext4", "-o", "loop", text(&image)])
    }

    /// Puts what is in `directory` onto a small disk of its own.
    pub fn instead_of(machine: &Sandbox, dir: &Path, options: &str) -> Self {
        let aside = machine.path("aside");
        Ran::of(machine.command("cp").args(["-a", text(dir), text(&aside)])).ok();
        let mounted = Self::tmpfs(dir, options);
        let inside = aside.join(".");
        Ran::of(machine.command("cp").args(["-a", text(&inside), text(dir)])).ok();
        fs::remove_dir_all(aside).unwrap();
        mounted
    }

    /// Mounts it anew with other options.
    pub fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        Ran::of(Command::new("mount").args(["-o", &options]).arg(&self.at)).ok();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that a test left behind must not keep it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}
