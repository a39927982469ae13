//! A throw-away copy of this very machine, or of another one's disk, for what belongs to a whole
//! machine: /etc, crontabs, units, packages, root's own directories. Everything is read from the disk below
//! and written into memory; nothing of it reaches that disk, and all of it is gone in the end. Needs
//! root, as mounting does.
//!
//! Its `/etc/cron.d`, crontabs, `/etc/pmpy`, `/root` and `/tmp` are empty, the agent is
//! `/usr/local/bin/agent`, and the sandbox's directory has the same path inside as outside.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use crate::disk::Mounted;
use crate::sandbox::{Ran, Sandbox, text};

/// The disk of a Debian with these packages, made once: what debootstrap made stays in cargo's target directory. Who
/// changes the packages removes that.
pub fn debootstrapped(name: &str, suite: &str, packages: &str) -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let disk = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if !disk.exists() {
        let new = disk.with_extension("new");
        let script = "
            command -v debootstrap >/dev/null || { echo 'there is no debootstrap; tests/run installs it'; exit 1; }
            rm -rf --one-file-system \"$1\"
            # The mirror that this machine itself installs from.
            mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' |
                grep -v security | head -n 1)
            debootstrap --variant=minbase --include=\"$2\" \"$3\" \"$1\" \"$mirror\" || {
                tail -n 20 \"$1/debootstrap/debootstrap.log\"
                echo \"debootstrap needs root, and a mirror of Debian's: $mirror\"
                exit 1
            }";
        let mut make = Command::new("sh");
        make.args(["-euc", script, "sh", text(&new), packages, suite]);
        Ran::of(&mut make).ok();
        fs::rename(new, &disk).unwrap();
    }
    disk
}

/// The copy, and the git server and the desk beside it.
pub struct MachineCopy {
    // Unmounted in this order, the last mounted first, before their directory goes.
    mounts: Vec<Mounted>,
    /// The git server and the person who pushes.
    pub sandbox: Sandbox,
}

impl MachineCopy {
    /// A copy with an agent that is not scheduled yet.
    pub fn new() -> Self {
        let bare = Self::without_agent();
        let agent = bare.path("/usr/local/bin/agent");
        fs::write(&agent, "").unwrap();
        bare.with(Mounted::bind(Path::new(env!("CARGO_BIN_EXE_agent")), &agent))
    }

    /// A copy that never had an agent.
    pub fn without_agent() -> Self {
        Self::over(Path::new("/")).bound("/dev")
    }

    /// A machine whose disk is the directory `below`, with what is there of an agent taken away.
    pub fn over(below: &Path) -> Self {
        let sandbox = Sandbox::new();
        let memory = sandbox.path("copy");
        fs::create_dir(&memory).unwrap();
        let mut mounts = vec![Mounted::tmpfs(&memory, "mode=755")];
        for dir in ["upper", "work", "root"] {
            fs::create_dir(memory.join(dir)).unwrap();
        }
        let root = memory.join("root");
        let layers =
            format!("lowerdir={1},upperdir={0}/upper,workdir={0}/work", text(&memory), text(below));
        mounts.push(Mounted::of(&root, &["-t", "overlay", "-o", &layers, "overlay"]));
        let mut machine = Self { mounts, sandbox };
        for dir in ["root", "tmp", "run", "var/spool/cron", "etc/cron.d"] {
            let inside = machine.path(dir);
            fs::create_dir_all(&inside).unwrap();
            // Emptying it would take a minute where there is much in it.
            machine = machine.with(Mounted::tmpfs(&inside, "mode=755"));
        }
        let _ = fs::remove_dir_all(root.join("etc/pmpy"));
        for gone in
            ["etc/crontab", "usr/local/bin/agent", "usr/local/bin/pmpy", "etc/profile.d/pmpy.sh"]
        {
            let _ = fs::remove_file(root.join(gone));
        }
        let spool = "mkdir -m 1730 /var/spool/cron/crontabs && chgrp crontab /var/spool/cron/crontabs; \
                     chmod 1777 /tmp";
        let machine = machine.bound("/proc");
        let dir = machine.sandbox.path("");
        let machine = machine.showing(&dir, text(&dir));
        machine.sh(spool).ok();
        machine
    }

    fn with(mut self, mount: Mounted) -> Self {
        self.mounts.push(mount);
        self
    }

    /// This copy with `from` of the machine below shown as `inside`.
    pub fn showing(self, from: &Path, inside: &str) -> Self {
        let at = self.path(inside);
        fs::create_dir_all(&at).unwrap();
        self.with(Mounted::bind(from, &at))
    }

    fn bound(self, dir: &str) -> Self {
        let inside = self.path(dir);
        self.with(Mounted::of(&inside, &["--rbind", "--make-rslave", dir]))
    }

    /// Where `inside` of the copy is from outside.
    pub fn path(&self, inside: &str) -> PathBuf {
        self.sandbox.path("copy/root").join(inside.trim_start_matches('/'))
    }

    /// What the file `inside` holds; panics when there is none.
    #[track_caller]
    pub fn read(&self, inside: &str) -> String {
        fs::read_to_string(self.path(inside)).unwrap_or_else(|error| panic!("{inside}: {error}"))
    }

    /// Puts a file into the copy, with the directories above it.
    pub fn write(&self, inside: &str, content: &str) {
        let file = self.path(inside);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, content).unwrap();
    }

    /// A program in the copy, as root and with little more than a PATH in its environment.
    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = self.sandbox.command("chroot");
        command
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .arg(self.path("/"))
            .args(line);
        command
    }

    /// Runs the agent in the copy, as root.
    pub fn agent(&self, arguments: &[&str]) -> Ran {
        Ran::of(&mut self.command(&[&["agent"], arguments].concat()))
    }

    /// Runs a line of shell in the copy, as root.
    pub fn sh(&self, line: &str) -> Ran {
        Ran::of(&mut self.command(&["sh", "-euc", line]))
    }

    /// Runs a line of shell in the copy, as the user `pat`, who is made for it.
    pub fn as_pat(&self, line: &str) -> Ran {
        self.sh("id pat 2>/dev/null || useradd --create-home --shell /bin/sh pat").ok();
        let mut command = self.command(&[
            "runuser",
            "-u",
            "pat",
            "--",
            "env",
            "HOME=/home/pat",
            "sh",
            "-euc",
            line,
        ]);
        Ran::of(&mut command)
    }

    /// What `status --json` says of `name`.
    #[track_caller]
    pub fn state(&self, name: &str) -> String {
        let ran = self.agent(&["status", "--json"]);
        let status: serde_json::Value = serde_json::from_str(&ran.stdout)
            .unwrap_or_else(|error| panic!("status --json is no JSON: {error}\n{ran}"));
        let rows = status["repositories"].as_array().unwrap();
        let row = rows.iter().find(|row| row["name"] == name);
        row.map_or_else(|| "unknown".to_owned(), |row| row["state"].as_str().unwrap().to_owned())
    }
}

impl Drop for MachineCopy {
    fn drop(&mut self) {
        // The last mounted first.
        while self.mounts.pop().is_some() {}
    }
}
