//! The cron daemons: which one is installed, whether it runs, and which files it ignores. Changes nothing.
//!
//! | daemon | system crontabs | crontabs of users |
//! | --- | --- | --- |
//! | Debian's cron, cronie | `/etc/cron.d`, with a user in each line | crontab(1) |
//! | systemd-cron | the same, as timers of systemd | crontab(1) |
//! | BusyBox's crond | none | crontab(1) |
//! | dcron | `/etc/cron.d`, without a user in the lines | crontab(1) |

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{PROGRAMS, is_installed, systemctl, systemd_runs};
use crate::system::files;

/// The names of the daemons' programs.
const CRONS: [&str; 5] = ["cron", "crond", "fcron", "bcron-sched", "busybox-cron"];
/// What makes systemd-cron's timers.
const GENERATORS: [&str; 2] = [
    "/usr/lib/systemd/system-generators/systemd-crontab-generator",
    "/lib/systemd/system-generators/systemd-crontab-generator",
];
/// The largest program that is searched for the name of its author, in bytes.
const CAP: u64 = 1 << 20;

/// A cron daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CronDaemon {
    /// Debian's, cronie, and all others that read `/etc/cron.d` as these do.
    Cron,
    /// The one of systemd-cron: systemd itself.
    SystemdCron,
    /// The one of BusyBox.
    Busybox,
    /// Dillon's, which Alpine has as well.
    Dcron,
}

impl CronDaemon {
    /// The installed daemon; `None`: there is none.
    pub fn installed() -> Option<Self> {
        let places = |name| PROGRAMS.iter().map(move |dir| Path::new(dir).join(name));
        match CRONS.iter().flat_map(places).find(|path| path.exists()) {
            Some(path) => Some(Self::of_program(&path)),
            None => {
                GENERATORS.iter().any(|path| Path::new(path).exists()).then_some(Self::SystemdCron)
            }
        }
    }

    fn of_program(path: &Path) -> Self {
        let real = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox")) {
            return Self::Busybox;
        }
        let program = files::read_small(&real, CAP).ok().flatten().unwrap_or_default();
        let names = |word: &[u8]| program.windows(word.len()).any(|part| part == word);
        // A program that names its author, or a small one that is known by its package.
        match names(b"dillon's cron") || names(b"Matthew Dillon") {
            true => Self::Dcron,
            false => Self::Cron,
        }
    }

    /// Whether it reads `/etc/cron.d`, with a user in each line.
    pub fn reads_cron_d(self) -> bool {
        matches!(self, Self::Cron | Self::SystemdCron)
    }

    /// Whether it runs on this machine now.
    pub fn runs(self) -> bool {
        match self {
            Self::SystemdCron => {
                systemd_runs() && systemctl(&["is-active", "--quiet", "cron.target"]).is_ok()
            }
            // Where other users' processes are hidden (hidepid), its absence cannot be seen.
            _ => {
                fs::read_to_string("/proc/1/comm").is_err()
                    || processes().any(|process| is_cron(&process))
            }
        }
    }

    /// The command that starts it.
    pub fn start_command(self) -> &'static str {
        let is_debians = is_installed("cron");
        match (self, systemd_runs(), is_installed("rc-service")) {
            (Self::SystemdCron, ..) => "systemctl enable --now cron.target",
            (_, true, _) if is_debians => "systemctl enable --now cron",
            (_, true, _) => "systemctl enable --now crond",
            (_, _, true) => "rc-update add crond && rc-service crond start",
            _ if is_debians => "service cron start",
            _ => "crond",
        }
    }
}

/// Why cron ignores the file `path` below `/etc/cron.d`; `None`: it reads it, or there is no such file.
pub fn ignored_because(path: &Path) -> Option<String> {
    let meta = fs::symlink_metadata(path).ok()?;
    let name = path.file_name()?.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !name.chars().all(plain) {
        return Some(format!(
            "its name has other characters than letters, digits, - and _: {name}"
        ));
    }
    if meta.is_symlink() {
        return Some("it is a symbolic link".to_owned());
    }
    if !meta.is_file() {
        return Some("it is no file".to_owned());
    }
    if meta.uid() != 0 {
        return Some(format!("it belongs to user {}, not to root", meta.uid()));
    }
    if meta.nlink() > 1 {
        return Some("it has a second name, a hard link".to_owned());
    }
    let mode = meta.mode() & 0o7777;
    // Some daemons also refuse what its owner may not read or anybody may run.
    match mode & 0o133 != 0 || mode & 0o400 == 0 {
        true => Some(format!("its mode is {mode:04o}, not 0644")),
        false => None,
    }
}

/// Whether an `agent listen` of this user runs on this machine, which ticks by itself.
pub fn listener_runs() -> bool {
    let user = rustix::process::geteuid().as_raw();
    processes().any(|process| {
        let line = fs::read(process.join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_ours = words.first().is_some_and(|program| {
            [&b"agent"[..], b"pmpy"].iter().any(|name| program.ends_with(name))
        });
        let is_of = |user| fs::metadata(&process).is_ok_and(|meta| meta.uid() == user);
        is_ours
            && words.contains(&&b"listen"[..])
            && !words.iter().any(|word| word.starts_with(b"--root"))
            && is_of(user)
            && is_on_this_machine(&process)
    })
}

/// The directories of all processes below `/proc`.
fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_process = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    entries
        .filter(move |entry| entry.file_name().to_str().is_some_and(is_process))
        .map(|it| it.path())
}

fn is_cron(process: &Path) -> bool {
    let name = fs::read_to_string(process.join("comm")).unwrap_or_default();
    CRONS.contains(&name.trim_end()) && is_on_this_machine(process)
}

/// Whether a process has our root directory: a container on this machine may have a cron of its own. Other
/// users' processes do not show theirs; they count.
fn is_on_this_machine(process: &Path) -> bool {
    let root = |path: PathBuf| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    match (root(process.join("root")), root(PathBuf::from("/"))) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use crate::system::schedule::cron_daemon::*;

    #[test]
    fn a_file_that_cron_ignores_is_known_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pmpy");
        files::put(dir.path(), "pmpy", b"", 0o644).unwrap();
        let because = |path: &Path| ignored_because(path).unwrap_or_default();
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o644);
        let owner = fs::metadata(&file).unwrap().uid();
        if owner == 0 {
            assert_eq!(ignored_because(&file), None);
            for (bits, shown) in [(0o664, "0664"), (0o646, "0646"), (0o755, "0755"), (0o44, "0044")]
            {
                mode(bits);
                assert!(because(&file).contains(shown), "{bits:o}: {}", because(&file));
            }
            mode(0o644);
            let second = dir.path().join("second");
            fs::hard_link(&file, &second).unwrap();
            assert!(because(&file).contains("hard link"));
            fs::remove_file(second).unwrap();
        } else {
            assert!(because(&file).contains("belongs to user"));
        }
        let dotted = dir.path().join("pmpy.cron");
        files::put(dir.path(), "pmpy.cron", b"", 0o644).unwrap();
        assert!(because(&dotted).contains("pmpy.cron"));
        let link = dir.path().join("link");
        symlink(&file, &link).unwrap();
        assert!(because(&link).contains("symbolic link"));
        assert_eq!(ignored_because(&dir.path().join("nothing")), None);
    }

    #[test]
    fn a_daemon_is_known_by_its_program() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, content: &str| {
            files::put(dir.path(), name, content.as_bytes(), 0o755).unwrap();
            dir.path().join(name)
        };
        let busybox = program("busybox", "");
        let link = dir.path().join("crond");
        symlink(busybox, &link).unwrap();
        assert_eq!(CronDaemon::of_program(&link), CronDaemon::Busybox);
        let dcron = program("dcron", "\0crond (dillon's cron daemon)\0");
        assert_eq!(CronDaemon::of_program(&dcron), CronDaemon::Dcron);
        assert_eq!(CronDaemon::of_program(&program("cron", "\0cronie\0")), CronDaemon::Cron);
        assert!(!CronDaemon::Busybox.reads_cron_d() && !CronDaemon::Dcron.reads_cron_d());
    }
}
