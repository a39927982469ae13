//! The schedule that starts ticks on this machine: cron's files, user crontabs and systemd units; and the
//! crontabs of all users, with the scripts that they name. Reads, writes and queries them; does not know
//! which is wanted, or which line conflicts with the agent.
//!
//! ```text
//! /etc/cron.d/pmpy                                      root's line
//! the caller's crontab, through crontab(1)              another user's line
//! /etc/systemd/system/pmpy.service                      the unit, where no package brought one
//! ```

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::files;
use super::process::{self, ChildOutput, WaitOutcome};
use crate::domain::crontab::without_head;
use crate::domain::name_time;
use crate::domain::text::EscapeControls;
use crate::system::{host, packages, users};

pub mod cron_daemon;

/// Crontab file of root. Its name has no dot, because cron skips such names.
pub const CRON_FILE: &str = "/etc/cron.d/pmpy";
/// Name of the systemd unit.
pub const UNIT: &str = "pmpy.service";
/// Our own unit, among those of the administrator.
pub const UNIT_FILE: &str = "/etc/systemd/system/pmpy.service";

/// Directories of the units of packages.
const PACKAGED_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Directories of system programs.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Largest crontab, unit or script, in bytes. A larger one counts as unreadable.
const CAP: u64 = 256 * 1024;
/// Time limit for crontab(1) and systemctl(1).
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether systemd is installed, even if another init runs now.
pub fn has_systemd() -> bool {
    is_installed("systemctl")
}

fn is_installed(program: &str) -> bool {
    PROGRAMS.iter().any(|dir| Path::new(dir).join(program).exists())
}

/// Whether systemd is the running init (sd_booted(3)).
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// Replaces the content of a crontab under /etc and keeps its mode.
///
/// # Errors
/// When it cannot be written.
pub fn rewrite(path: &Path, content: &[u8]) -> Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
    replace(path, content, meta.permissions().mode() & 0o7777)
}

/// Content of the caller's own crontab; empty when there is none.
///
/// # Errors
/// When crontab(1) is missing or fails.
pub fn crontab() -> Result<Vec<u8>> {
    let ChildOutput { ended, output, complaints } =
        process::run_with_input(&line(None, "-l"), b"", PATIENCE)
            .with_context(|| unusable("read"))?;
    match ended {
        WaitOutcome::Exited(0) => Ok(output),
        // BusyBox only says that it cannot open the file.
        _ if ["no crontab for", "can't open"].iter().any(|words| complaints.contains(words)) => {
            Ok(Vec::new())
        }
        _ => bail!("the crontab cannot be read: {}", refusal(&complaints)),
    }
}

/// Replaces the crontab of `user`, or the caller's own; removes it when `content` is empty.
///
/// # Errors
/// When crontab(1) fails.
pub fn put_crontab(user: Option<&str>, content: &[u8]) -> Result<()> {
    let what = if content.is_empty() { "-r" } else { "-" };
    let answer = process::run_with_input(&line(user, what), content, PATIENCE)
        .with_context(|| unusable("written"))?;
    ensure!(
        answer.ended == WaitOutcome::Exited(0),
        "the crontab cannot be written: {}",
        refusal(&answer.complaints)
    );
    Ok(())
}

/// The error of a crontab(1) that cannot be started.
fn unusable(done: &str) -> String {
    format!("the crontab cannot be {done}\nhint: {}", packages::install_command("cron"))
}

/// Error message of crontab(1), in one line.
fn refusal(complaints: &str) -> String {
    let words = complaints.split_whitespace().collect::<Vec<_>>().join(" ");
    let hint = match words.contains("not allowed") {
        true => "\nhint: /etc/cron.allow and /etc/cron.deny say who may have one",
        false => "",
    };
    format!("{}{hint}", words.escape_controls())
}

fn line<'a>(user: Option<&'a str>, what: &'a str) -> Vec<&'a str> {
    let mut line = vec!["crontab"];
    line.extend(user.into_iter().flat_map(|user| ["-u", user]));
    line.push(what);
    line
}

/// Path and content of the unit from a package; `None` when there is none.
///
/// # Errors
/// When it cannot be read.
pub fn packaged_unit() -> Result<Option<(String, String)>> {
    for dir in PACKAGED_UNITS {
        let path = format!("{dir}/{UNIT}");
        if let Some(text) = read(&path)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Whether systemd starts the unit at boot.
pub fn unit_is_enabled() -> bool {
    let link = "/etc/systemd/system/multi-user.target.wants/pmpy.service";
    Path::new(link).symlink_metadata().is_ok()
}

/// State of the unit, as `systemctl is-active` says it: `active`, `failed`, `inactive` and others.
///
/// # Errors
/// When systemctl cannot be started.
pub fn unit_state() -> Result<String> {
    let line = ["systemctl", "is-active", UNIT];
    let answer = process::run_with_input(&line, b"", PATIENCE).context("cannot run systemctl")?;
    Ok(String::from_utf8_lossy(&answer.output).trim().to_owned())
}

/// Runs `systemctl ARGUMENTS…`.
///
/// # Errors
/// When systemctl is missing or fails.
pub fn systemctl(arguments: &[&str]) -> Result<()> {
    let line = [&["systemctl"], arguments].concat();
    let answer =
        process::run_with_input(&line, b"", PATIENCE).context("this machine has no systemd")?;
    ensure!(
        answer.ended == WaitOutcome::Exited(0),
        "{} failed: {}",
        line.join(" "),
        answer.complaints.escape_controls()
    );
    Ok(())
}

/// Saves a copy of `content` in `directory`, named after the path `from` and the current time.
///
/// # Errors
/// When it cannot be written.
pub fn keep_copy(dir: &Path, from: &str, content: &[u8]) -> Result<PathBuf> {
    let day = name_time::name(host::now());
    let name = format!("{}.{day}", from.trim_start_matches('/').replace('/', "_"));
    files::ensure_dir(dir, 0o700)?;
    files::put(dir, &name, content, 0o600)?;
    Ok(dir.join(name))
}

/// Content of [`CRON_FILE`] or [`UNIT_FILE`]; `None` when it is missing.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &str) -> Result<Option<String>> {
    let bytes = files::read_small(Path::new(path), CAP)?;
    let text = bytes.map(String::from_utf8).transpose();
    text.with_context(|| format!("{path} is not valid UTF-8"))
}

/// Replaces [`CRON_FILE`] or [`UNIT_FILE`].
///
/// # Errors
/// When it cannot be written, for instance because cron or systemd was never installed.
pub fn put(path: &str, text: &str) -> Result<()> {
    replace(Path::new(path), text.as_bytes(), 0o644)
}

fn replace(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let (dir, name) = parts(path)?;
    files::sweep(dir)?;
    files::put(dir, name, content, mode)
}

/// Removes [`CRON_FILE`] or [`UNIT_FILE`].
///
/// # Errors
/// When it may not be removed.
pub fn remove(path: &str) -> Result<()> {
    let (dir, name) = parts(Path::new(path))?;
    files::remove(dir, name)
}

fn parts(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).with_context(|| format!("{} is no file's path", path.display()))
}

/// A crontab of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundCrontab {
    /// Path of the crontab, without the base directory.
    pub path: PathBuf,
    /// Owner of the crontab; `None` for a system crontab, where each line names a user.
    pub user: Option<String>,
    /// Content in any encoding.
    pub content: Vec<u8>,
}

/// The crontabs of this machine, and those that cannot be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CrontabScan {
    /// Readable crontabs, sorted by path.
    pub read: Vec<FoundCrontab>,
    /// Files and directories that this process has no permission to read.
    pub closed: Vec<PathBuf>,
}

/// Lists every crontab below `base` (`/` on a real machine): the system's own, those of packages, and
/// those of users, both where Debian keeps them and where others do. A file in cron's spool that has no user's
/// name is a temporary file, or belongs to a deleted user; it is left out.
pub fn crontabs(base: &Path) -> CrontabScan {
    let mut found = CrontabScan::default();
    found.add(base, Path::new("/etc/crontab"), None);
    for dir in ["/etc/cron.d", "/var/spool/cron/crontabs", "/var/spool/cron"] {
        let dir = Path::new(dir);
        let is_the_systems = dir.starts_with("/etc");
        match std::fs::read_dir(below(base, dir)) {
            Ok(listing) => {
                let names = listing.flatten().map(|entry| dir.join(entry.file_name()));
                let mut paths: Vec<PathBuf> = names.collect();
                paths.sort();
                for path in paths {
                    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                    found.add(base, &path, name.filter(|_| !is_the_systems));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => found.closed.push(dir.to_owned()),
        }
    }
    found
}

/// Text of a script that a crontab names by its absolute path; `None` when it is missing, binary, or
/// larger than the limit.
pub fn script(base: &Path, path: &Path) -> Option<String> {
    let real = below(base, path).canonicalize().ok()?;
    let bytes = files::read_small(&real, CAP).ok()??;
    (!bytes.contains(&0)).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

impl CrontabScan {
    fn add(&mut self, base: &Path, path: &Path, user: Option<String>) {
        if user.as_ref().is_some_and(|user| matches!(users::User::named(user), Ok(None))) {
            return;
        }
        match files::read_small(&below(base, path), CAP) {
            Ok(Some(mut content)) => {
                if user.is_some() {
                    content = without_head(&content).to_vec();
                }
                self.read.push(FoundCrontab { path: path.to_owned(), user, content });
            }
            Ok(None) | Err(files::ReadError::NotAFile { .. }) => {}
            Err(_) => self.closed.push(path.to_owned()),
        }
    }
}

/// The absolute `path` in the tree whose root is `base`.
pub fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}
