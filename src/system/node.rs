//! This machine: host, machine and boot id, part and stack, the caller, the clocks. The only
//! reader of the wall clock.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use rustix::time::{ClockId, clock_gettime};

use uzers::os::unix::UserExt;

use super::files;
use crate::domain::hash;

/// Who and where we are.
#[derive(Clone, Debug)]
pub struct Node {
    /// The host name, as uname(2) has it.
    pub host: String,
    /// `/etc/machine-id`; empty where there is none.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`: new with each boot.
    pub boot_id: String,
    /// The user that we run as.
    pub user: User,
}

/// A user, from passwd.
#[derive(Clone, Debug)]
pub struct User {
    /// The number.
    pub uid: u32,
    /// The number of the primary group.
    pub gid: u32,
    /// The login name, or the number where there is no entry.
    pub name: String,
    /// The home folder; `/` where there is no entry.
    pub home: PathBuf,
    /// The login shell.
    pub shell: PathBuf,
}

/// The wall clock. Read it once per decision and hand the value on.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Time since boot, suspended time included; never set back.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

impl Node {
    /// Reads who we are. What cannot be read is empty: none of it is worth stopping for.
    pub fn here() -> Self {
        let line = |path: &str| {
            files::read_small(Path::new(path), 4096)
                .ok()
                .flatten()
                .map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
                .unwrap_or_default()
        };
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine_id: line("/etc/machine-id"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            user: User::current(),
        }
    }
}

impl Node {
    /// The part of any wait that is this machine's own, in `0.0..1.0`: always the same, and another one
    /// on each machine, also on those that share a name or were made of one image.
    pub fn share(&self) -> f64 {
        hash::fraction(&[self.machine_id.as_bytes(), self.host.as_bytes()])
    }
}

impl User {
    /// The user that we run as.
    pub fn current() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::numbered(uid).unwrap_or_else(|| Self {
            uid,
            gid: rustix::process::getegid().as_raw(),
            name: uid.to_string(),
            home: PathBuf::from("/"),
            shell: PathBuf::from("/bin/sh"),
        })
    }

    /// The user with this number; `None` where passwd has none such.
    pub fn numbered(uid: u32) -> Option<Self> {
        uzers::get_user_by_uid(uid).map(Self::from)
    }

    /// The user with this name; `None` where passwd has none such.
    pub fn named(name: &str) -> Option<Self> {
        uzers::get_user_by_name(name).map(Self::from)
    }
}

impl From<uzers::User> for User {
    fn from(user: uzers::User) -> Self {
        Self {
            uid: user.uid(),
            gid: user.primary_group_id(),
            name: user.name().to_string_lossy().into_owned(),
            home: user.home_dir().to_owned(),
            shell: user.shell().to_owned(),
        }
    }
}

/// The name of the user with number `uid`, or the number.
pub fn user_name(uid: u32) -> String {
    uzers::get_user_by_uid(uid)
        .map_or_else(|| uid.to_string(), |user| user.name().to_string_lossy().into_owned())
}

/// The file that this program was started from.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("agent"))
}

/// The command line that we were started with, the program first.
pub fn command_line() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// [`command_line`] without the program.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// Whether `variable` is set to nothing.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn is_empty(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// The user who asked: behind sudo(8) the one who typed it.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn person() -> String {
    std::env::var("SUDO_USER").unwrap_or_else(|_| User::current().name)
}

/// `HOME`, where it is set.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// `PATH`, where it is set.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn search_path() -> Option<OsString> {
    std::env::var_os("PATH")
}

/// The first of the variables `names` that is set, not empty and text.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn variable(names: &[&str]) -> Option<String> {
    names.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
}

/// The folder for what lives as long as the machine is up, or as its user is logged in; need not
/// exist yet. `None` where the system has none for us.
pub fn runtime_folder() -> Option<PathBuf> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Some(PathBuf::from("/run/pmpy"));
    }
    let users = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    users.is_dir().then(|| users.join("pmpy"))
}

/// Whether a script of ours started us: it has its repository's name in its environment.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn within_an_action() -> bool {
    std::env::var_os("AGENT_REPO").is_some()
}

/// `TZ`, the one variable that scripts inherit.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment beside the CLI")]
pub fn time_zone() -> Option<String> {
    std::env::var("TZ").ok()
}

/// The one word in the first of `names` that exists under `folder`, or `None`.
///
/// # Errors
/// When the file cannot be read, or holds anything but `[A-Za-z0-9._-]+` not beginning with `-` or
/// `.`: the word becomes part of a path.
pub fn word(folder: &Path, names: &[&str]) -> Result<Option<String>> {
    for name in names {
        let path = folder.join(name);
        let Some(bytes) = files::read_small(&path, 4096)? else { continue };
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if text.is_empty() {
            continue;
        }
        let good = !text.starts_with(['-', '.'])
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !good {
            bail!(
                "{} holds \"{}\"\nhint: write one word of letters, digits, '.', '_' and '-', \
                 not beginning with '-' or '.'",
                path.display(),
                text.chars().take(80).collect::<String>().escape_debug()
            );
        }
        return Ok(Some(text));
    }
    Ok(None)
}

/// The owner of what is at `path`, links followed.
///
/// # Errors
/// When it cannot be looked at.
pub fn owner(path: &Path) -> Result<u32> {
    let meta =
        std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(meta.uid())
}

/// Whether what is at `path` belongs to the user that we run as; also when there is nothing.
pub fn owns(path: &Path) -> bool {
    owner(path).map_or(true, |uid| uid == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(machine_id: &str, host: &str) -> f64 {
        let (machine_id, host) = (machine_id.to_owned(), host.to_owned());
        Node { machine_id, host, ..Node::here() }.share()
    }

    #[test]
    fn the_share_of_a_machine_is_its_own_and_always_the_same() {
        assert_eq!(share("4711", "web01"), share("4711", "web01"));
        assert_ne!(share("4711", "web01"), share("4712", "web01"), "two that share a name");
        assert_ne!(share("4711", "web01"), share("4711", "web02"), "two made of one image");
        assert_ne!(share("4711", "web01"), share("", "4711web01"));
    }

    #[test]
    fn the_shares_of_a_fleet_are_spread_evenly() {
        for image in ["", "4711"] {
            let mut seconds = [0_u32; 20];
            for host in 0..10_000 {
                let id = if image.is_empty() { format!("{host:032x}") } else { image.to_owned() };
                let second = (share(&id, &format!("web{host:05}")) * 20.0) as usize;
                *seconds.get_mut(second).unwrap() += 1;
            }
            assert!(seconds.iter().all(|&hosts| (400..600).contains(&hosts)), "{seconds:?}");
        }
    }
}
