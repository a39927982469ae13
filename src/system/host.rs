//! This machine: host name, machine and boot id, node part and stack, the calling user, the environment.
//! Knows nothing of repositories.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};

pub use super::clock::{now, since_boot};
use super::files;
use super::users::{NameServiceError, User, user_name};
use crate::domain::hash;
use crate::domain::repository::hold::Person;
use crate::domain::text::EscapeControls;

/// Identity of this host and of the user that runs the agent.
#[derive(Clone, Debug)]
pub struct Host {
    /// Host name, as in uname(2).
    pub host: String,
    /// `/etc/machine-id`; empty where it is missing.
    pub machine_id: String,
    /// `/proc/sys/kernel/random/boot_id`: new at each boot.
    pub boot_id: String,
    /// The effective user of this process.
    pub user: User,
    /// Error of the name service when it does not answer; then only the user's number is known.
    pub unnamed: Option<NameServiceError>,
}

/// Memory of this machine in bytes, or the smallest limit of the control groups of this process.
pub fn memory() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit.max(1)));
    let read = |path: &Path| {
        let bytes = files::read_small(path, 64 << 10).ok().flatten()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kind, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (top, file) = match kind {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        let within = Path::new(group.trim_start_matches('/')).to_owned();
        let is_about_memory = kind.is_empty() || kind.split(',').any(|it| it == "memory");
        // In a container the group's own path may not exist; the top always does.
        let groups: Vec<PathBuf> = within.ancestors().map(|it| Path::new(top).join(it)).collect();
        groups.into_iter().filter(move |_| is_about_memory).map(move |group| group.join(file))
    });
    // A group without a limit has "max", or a number beyond all memory.
    limits.filter_map(|path| read(&path)?.trim().parse().ok()).fold(machine, u64::min)
}

impl Host {
    /// Reads the identity of this host. Fields that cannot be read are empty: none is worth a failure.
    pub fn current() -> Self {
        let (user, unnamed) = User::current_or_why_not();
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            machine_id: first_line("/etc/machine-id"),
            boot_id: boot_id(),
            user,
            unnamed,
        }
    }
}

/// The id of this boot; empty where the kernel does not tell.
pub fn boot_id() -> String {
    first_line("/proc/sys/kernel/random/boot_id")
}

fn first_line(path: &str) -> String {
    let bytes = files::read_small(Path::new(path), 4096).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

impl Host {
    /// This machine's fraction of any splay, in `0.0..1.0`: constant, and different on each machine,
    /// also on machines that share a host name or come from one image.
    pub fn share(&self) -> f64 {
        hash::fraction(&[self.machine_id.as_bytes(), self.host.as_bytes()])
    }
}

/// Path of the running executable.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("agent"))
}

/// When the running executable was put on this machine, by its change time, which no package sets; `None`: it cannot be
/// read.
pub fn installed_at() -> Option<DateTime<Utc>> {
    static INSTALLED: OnceLock<Option<DateTime<Utc>>> = OnceLock::new();
    *INSTALLED.get_or_init(|| {
        // Also where an upgrade has put another one in its place.
        let found = Path::new("/proc/self/exe").metadata().ok()?;
        DateTime::from_timestamp(found.ctime(), 0)
    })
}

/// Command line of this process, the program first.
pub fn command_line() -> Vec<OsString> {
    std::env::args_os().collect()
}

/// The [`command_line`] without the program.
pub fn arguments() -> Vec<OsString> {
    std::env::args_os().skip(1).collect()
}

/// Whether `variable` is set to the empty string.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn is_empty(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| value.is_empty())
}

/// The person behind this process: its login, what sudo(8) says, its user, and where it came from.
pub fn person() -> Person {
    let login = files::read_small(Path::new("/proc/self/loginuid"), 32).ok().flatten();
    let login = login.and_then(|bytes| String::from_utf8_lossy(&bytes).trim().parse().ok());
    let login = login.filter(|&uid| uid != u32::MAX);
    let sudo_user = variable(&["SUDO_USER"]);
    let name = match (login, &sudo_user) {
        (Some(uid), _) => user_name(uid),
        (None, Some(name)) => name.clone(),
        (None, None) => User::current().name,
    };
    let client = variable(&["SSH_CONNECTION"]);
    let client = client.and_then(|text| text.split_whitespace().next().map(str::to_owned));
    let terminal = || {
        std::io::stdin()
            .is_terminal()
            .then(|| std::fs::read_link("/proc/self/fd/0").ok())
            .flatten()
            .map(|path| path.display().to_string())
    };
    let uid = rustix::process::geteuid().as_raw();
    Person { name, login, sudo_user, uid, from: client.or_else(terminal) }
}

/// Value of `HOME`; `None` when it is unset or empty.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn home() -> Option<PathBuf> {
    std::env::var_os("HOME").filter(|home| !home.is_empty()).map(PathBuf::from)
}

/// Value of `PATH`; `None` when it is unset.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn search_path() -> Option<OsString> {
    std::env::var_os("PATH")
}

/// Value of the first of the variables `names` that is set, not empty and text.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn variable(names: &[&str]) -> Option<String> {
    names.iter().filter_map(|name| std::env::var(name).ok()).find(|value| !value.is_empty())
}

/// Directory for data that lasts until shutdown, or for a user until logout; it may not exist yet.
/// `None` where the system has none for this user.
pub fn runtime_dir() -> Option<PathBuf> {
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Some(PathBuf::from("/run/pmpy"));
    }
    let users = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    users.is_dir().then(|| users.join("pmpy"))
}

/// Whether a script of the agent started this process: `AGENT_REPO` is in its environment.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn within_an_action() -> bool {
    std::env::var_os("AGENT_REPO").is_some()
}

/// Whether standard output is a terminal that shows characters outside of ASCII, as far as the environment tells
/// (locale(7)).
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn shows_unicode() -> bool {
    use std::io::IsTerminal as _;
    let set = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set).unwrap_or_default();
    let is_utf8 = locale.to_ascii_uppercase().replace('-', "").contains("UTF8");
    is_utf8 && std::io::stdout().is_terminal()
}

/// Value of `TZ`, the one variable that scripts inherit.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment besides the CLI")]
pub fn time_zone() -> Option<String> {
    std::env::var("TZ").ok()
}

/// The one word in the first of the files `names` in `directory` that exists and is not empty, or `None`.
///
/// # Errors
/// When the file cannot be read, or holds anything but `[A-Za-z0-9._-]+` not beginning with `-` or `.`:
/// the word becomes part of a path.
pub fn word(directory: &Path, names: &[&str]) -> Result<Option<String>> {
    for name in names {
        let path = directory.join(name);
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
                text.chars().take(80).collect::<String>().escape_controls()
            );
        }
        return Ok(Some(text));
    }
    Ok(None)
}

/// Owner (user id) of the file at `path`, following links.
///
/// # Errors
/// When its attributes cannot be read.
pub fn owner(path: &Path) -> Result<u32> {
    let meta =
        std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    Ok(meta.uid())
}

/// Whether the file at `path` belongs to the effective user; also `true` when it is missing.
pub fn owns(path: &Path) -> bool {
    owner(path).map_or(true, |uid| uid == rustix::process::geteuid().as_raw())
}

#[cfg(test)]
mod tests {
    use crate::system::host::*;

    fn share(machine_id: &str, host: &str) -> f64 {
        let (machine_id, host) = (machine_id.to_owned(), host.to_owned());
        Host { machine_id, host, ..Host::current() }.share()
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
