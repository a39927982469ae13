//! What makes ticks happen on this machine: cron's own files, people's crontabs and systemd's units.
//! Reads, writes and asks; does not know which is wanted.
//!
//! ```text
//! /etc/cron.d/pmpy                                      root's line
//! the caller's crontab, through crontab(1)              anybody else's
//! /etc/systemd/system/pmpy.service                      the unit, where no package brought one
//! ```

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::process::{self, Answer, Ended};
use super::{files, node};

/// Root's line. Without a dot: cron passes over such names.
pub const CRON_FILE: &str = "/etc/cron.d/pmpy";
/// The unit's name.
pub const UNIT: &str = "pmpy.service";

/// Where an administrator's units are.
const UNITS: &str = "/etc/systemd/system";
/// Where packages put theirs.
const PACKAGED_UNITS: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
/// Every cron there is.
const CRONS: [&str; 5] = ["cron", "crond", "fcron", "bcron-sched", "busybox-cron"];
/// Where a machine has its programs.
const PROGRAMS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The most that a crontab or a unit may hold, in bytes.
const CAP: u64 = 256 * 1024;
/// How long crontab(1) and systemctl(1) may take.
const PATIENCE: Duration = Duration::from_secs(90);

/// Whether a cron is installed.
pub fn has_cron() -> bool {
    CRONS.iter().any(|name| is_installed(name))
}

/// Whether systemd is installed, whatever runs this machine now.
pub fn has_systemd() -> bool {
    is_installed("systemctl")
}

fn is_installed(program: &str) -> bool {
    PROGRAMS.iter().any(|folder| Path::new(folder).join(program).exists())
}

/// Whether systemd runs this machine (sd_booted(3)).
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The content of [`CRON_FILE`]; `None` when there is none.
///
/// # Errors
/// When it cannot be read.
pub fn cron_file() -> Result<Option<String>> {
    read(Path::new(CRON_FILE))
}

/// Replaces the content of [`CRON_FILE`].
///
/// # Errors
/// When it cannot be written, such as where no cron ever was.
pub fn put_cron_file(text: &str) -> Result<()> {
    put(Path::new(CRON_FILE), text.as_bytes(), 0o644)
}

/// Removes [`CRON_FILE`].
///
/// # Errors
/// When it may not be removed.
pub fn remove_cron_file() -> Result<()> {
    remove(Path::new(CRON_FILE))
}

/// Replaces the content of a crontab under /etc, and leaves its mode as it is.
///
/// # Errors
/// When it cannot be written.
pub fn rewrite(path: &Path, content: &[u8]) -> Result<()> {
    let shown = path.display();
    let meta = std::fs::metadata(path).with_context(|| format!("cannot look at {shown}"))?;
    put(path, content, meta.permissions().mode() & 0o7777)
}

/// The caller's own crontab; empty when there is none.
///
/// # Errors
/// When there is no crontab(1), or it refuses.
pub fn crontab() -> Result<Vec<u8>> {
    let Answer { ended, output, complaints } = process::ask(&line(None, "-l"), b"", PATIENCE)
        .context("the crontab cannot be read\nhint: apt-get install cron")?;
    match ended {
        Ended::Exited(0) => Ok(output),
        _ if complaints.contains("no crontab for") => Ok(Vec::new()),
        _ => bail!("the crontab cannot be read: {}", refusal(&complaints)),
    }
}

/// Replaces the crontab of `user`, or the caller's own; an empty one is removed.
///
/// # Errors
/// When crontab(1) refuses.
pub fn put_crontab(user: Option<&str>, content: &[u8]) -> Result<()> {
    let what = if content.is_empty() { "-r" } else { "-" };
    let answer = process::ask(&line(user, what), content, PATIENCE)
        .context("the crontab cannot be written\nhint: apt-get install cron")?;
    ensure!(
        answer.ended == Ended::Exited(0),
        "the crontab cannot be written: {}",
        refusal(&answer.complaints)
    );
    Ok(())
}

/// What crontab(1) says, in one line.
fn refusal(complaints: &str) -> String {
    let words = complaints.split_whitespace().collect::<Vec<_>>().join(" ");
    let hint = match words.contains("not allowed") {
        true => "\nhint: /etc/cron.allow and /etc/cron.deny say who may have one",
        false => "",
    };
    format!("{}{hint}", words.escape_debug())
}

fn line<'a>(user: Option<&'a str>, what: &'a str) -> Vec<&'a str> {
    let mut line = vec!["crontab"];
    line.extend(user.into_iter().flat_map(|user| ["-u", user]));
    line.push(what);
    line
}

/// Our own unit; `None` when there is none.
///
/// # Errors
/// When it cannot be read.
pub fn unit() -> Result<Option<String>> {
    read(&unit_path())
}

/// The unit that a package brought, and where it is; `None` when none did.
///
/// # Errors
/// When it cannot be read.
pub fn packaged_unit() -> Result<Option<(PathBuf, String)>> {
    for folder in PACKAGED_UNITS {
        let path = Path::new(folder).join(UNIT);
        if let Some(text) = read(&path)? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Where our own unit belongs.
pub fn unit_path() -> PathBuf {
    Path::new(UNITS).join(UNIT)
}

/// Replaces our own unit.
///
/// # Errors
/// When it cannot be written, such as where no systemd ever was.
pub fn put_unit(text: &str) -> Result<()> {
    put(&unit_path(), text.as_bytes(), 0o644)
}

/// Removes our own unit.
///
/// # Errors
/// When it may not be removed.
pub fn remove_unit() -> Result<()> {
    remove(&unit_path())
}

/// Whether the unit is started at boot.
pub fn unit_is_enabled() -> bool {
    Path::new(UNITS).join("multi-user.target.wants").join(UNIT).symlink_metadata().is_ok()
}

/// `systemctl ARGUMENTS…`.
///
/// # Errors
/// When there is none, or it refuses.
pub fn systemctl(arguments: &[&str]) -> Result<()> {
    let line = [&["systemctl"], arguments].concat();
    let answer = process::ask(&line, b"", PATIENCE).context("this machine has no systemd")?;
    ensure!(
        answer.ended == Ended::Exited(0),
        "{} failed: {}",
        line.join(" "),
        answer.complaints.escape_debug()
    );
    Ok(())
}

/// Keeps a copy of `content` in `folder`, by the name of the file that it came from.
///
/// # Errors
/// When it cannot be written.
pub fn keep_copy(folder: &Path, from: &str, content: &[u8]) -> Result<PathBuf> {
    let day = node::now().format("%Y%m%dT%H%M%SZ");
    let name = format!("{}.{day}", from.trim_start_matches('/').replace('/', "_"));
    files::ensure_dir(folder, 0o700)?;
    files::put(folder, &name, content, 0o600)?;
    Ok(folder.join(name))
}

fn read(path: &Path) -> Result<Option<String>> {
    let bytes = files::read_small(path, CAP)?;
    let text = bytes.map(String::from_utf8).transpose();
    text.with_context(|| format!("{} is not valid UTF-8", path.display()))
}

fn put(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let (folder, name) = parts(path)?;
    files::sweep(folder)?;
    files::put(folder, name, content, mode)
}

fn remove(path: &Path) -> Result<()> {
    let (folder, name) = parts(path)?;
    files::remove(folder, name)
}

fn parts(path: &Path) -> Result<(&Path, &str)> {
    let name = path.file_name().and_then(|name| name.to_str());
    path.parent().zip(name).with_context(|| format!("{} is no file's path", path.display()))
}
