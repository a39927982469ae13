//! This machine: host name, machine and boot id, node part and stack, the calling user, the clocks. The
//! only reader of the wall clock. Knows nothing of repositories.

use std::collections::BTreeSet;
use std::ffi::{CString, OsString};
use std::fmt;
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{DateTime, Utc};
use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, getgrouplist};
use rustix::time::{ClockId, clock_gettime};

use super::files;
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

/// The name service (nsswitch.conf(5)) does not answer, so it is unknown whether the user or group
/// exists. Work that depends on the answer must wait.
#[derive(Clone, Debug)]
pub struct NameServiceError {
    database: NameDatabase,
    key: String,
    cause: Errno,
}

/// Databases of nsswitch.conf(5) that are queried here.
#[derive(Clone, Copy, Debug)]
enum NameDatabase {
    Passwd,
    Group,
}

impl NameDatabase {
    /// Builds the error of a lookup of `key`.
    fn error(self, key: impl fmt::Display) -> impl Fn(Errno) -> NameServiceError {
        move |cause| NameServiceError { database: self, key: key.to_string(), cause }
    }
}

impl fmt::Display for NameServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { database, key, cause } = self;
        let (what, database) = match database {
            NameDatabase::Passwd => ("user", "passwd"),
            NameDatabase::Group => ("group", "group"),
        };
        write!(
            f,
            "the name service does not answer for {what} {key}: {}\n\
             hint: the next tick asks again; to see it fail: getent {database} {key}; /etc/nsswitch.conf \
             says which services are asked, such as sssd",
            cause.desc().to_lowercase()
        )
    }
}

impl std::error::Error for NameServiceError {}

/// A user from the passwd database.
#[derive(Clone, Debug)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Id of the primary group.
    pub gid: u32,
    /// Login name, or the number where there is no entry.
    pub name: String,
    /// Home directory; `/` where there is no entry.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

/// Current wall clock time. Read it once per decision and pass the value on.
#[expect(clippy::disallowed_methods, reason = "the one reader of the wall clock")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Time since boot, including suspended time; it never goes back.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
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

impl User {
    /// The effective user of this process; only its number where the name service knows no more.
    pub fn current() -> Self {
        Self::current_or_why_not().0
    }

    /// [`User::current`], and the error of the name service where only the number is known. Root has
    /// the same name everywhere, so it does not depend on the name service.
    fn current_or_why_not() -> (Self, Option<NameServiceError>) {
        let uid = rustix::process::geteuid().as_raw();
        let (name, home, error) = match Self::numbered(uid) {
            Ok(Some(user)) => return (user, None),
            Ok(None) => (uid.to_string(), "/", None),
            Err(_) if uid == 0 => ("root".to_owned(), "/root", None),
            Err(error) => (uid.to_string(), "/", Some(error)),
        };
        let gid = rustix::process::getegid().as_raw();
        let (home, shell) = (PathBuf::from(home), PathBuf::from("/bin/sh"));
        (Self { uid, gid, name, home, shell }, error)
    }

    /// Looks up a user by its number; `None` when it does not exist.
    ///
    /// # Errors
    /// When the name service does not answer.
    pub fn numbered(uid: u32) -> Result<Option<Self>, NameServiceError> {
        let found = nix::unistd::User::from_uid(Uid::from_raw(uid));
        Ok(found.map_err(NameDatabase::Passwd.error(uid))?.map(Self::from))
    }

    /// Looks up a user by its name; `None` when it does not exist.
    ///
    /// # Errors
    /// When the name service does not answer.
    pub fn named(name: &str) -> Result<Option<Self>, NameServiceError> {
        let found = nix::unistd::User::from_name(name);
        Ok(found.map_err(NameDatabase::Passwd.error(name.escape_controls()))?.map(Self::from))
    }

    /// Ids of all groups of this user, including the primary group.
    ///
    /// # Errors
    /// When the name service does not answer, or there are more groups than the kernel accepts.
    pub fn groups(&self) -> Result<BTreeSet<u32>> {
        // getgrouplist(3) skips services that do not answer. So query the primary group first: if its
        // service is down, so are the other groups of this user.
        Group::from_gid(Gid::from_raw(self.gid)).map_err(NameDatabase::Group.error(self.gid))?;
        let name = CString::new(self.name.as_str()).context("a name with a NUL byte")?;
        let groups = getgrouplist(&name, Gid::from_raw(self.gid))
            .with_context(|| format!("the groups of {} cannot be read", self.name))?;
        Ok(groups.into_iter().map(Gid::as_raw).chain([self.gid]).collect())
    }
}

/// A group from the name service.
#[derive(Clone, Debug)]
pub struct GroupMembers {
    /// Group id.
    pub gid: u32,
    /// Group name.
    pub name: String,
    /// Login names that the group entry lists; it does not list users whose primary group it is.
    pub members: Vec<String>,
}

/// Key of a group lookup.
#[derive(Clone, Copy, Debug)]
pub enum GroupKey<'a> {
    /// Lookup by name.
    Name(&'a str),
    /// Lookup by number.
    Number(u32),
}

/// Looks up a group by its name or number; `None` when it does not exist.
///
/// # Errors
/// When the name service does not answer.
pub fn group_members(key: GroupKey<'_>) -> Result<Option<GroupMembers>, NameServiceError> {
    let found = match key {
        GroupKey::Name(name) => {
            Group::from_name(name).map_err(NameDatabase::Group.error(name.escape_controls()))
        }
        GroupKey::Number(gid) => {
            Group::from_gid(Gid::from_raw(gid)).map_err(NameDatabase::Group.error(gid))
        }
    };
    Ok(found?.map(|group| GroupMembers {
        gid: group.gid.as_raw(),
        name: group.name,
        members: group.mem,
    }))
}

impl From<nix::unistd::User> for User {
    fn from(user: nix::unistd::User) -> Self {
        Self {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            name: user.name,
            home: user.dir,
            shell: user.shell,
        }
    }
}

/// Name of the user with number `uid`, or the number.
pub fn user_name(uid: u32) -> String {
    User::numbered(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

/// Path of the running executable.
pub fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| PathBuf::from("agent"))
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

/// Package managers, with their command line and their names for Debian's packages `cron` and
/// `openssh-client`.
const MANAGERS: [(&str, &str, [&str; 2]); 5] = [
    ("apt-get", "apt-get install", ["cron", "openssh-client"]),
    ("dnf", "dnf install", ["cronie", "openssh-clients"]),
    ("apk", "apk add", ["cronie", "openssh-client"]),
    ("pacman", "pacman -S", ["cronie", "openssh"]),
    ("zypper", "zypper install", ["cron", "openssh-clients"]),
];

/// The command that installs `package`, as Debian calls it, with the package manager of this machine.
pub fn install_command(package: &str) -> String {
    let is_there = |name: &str| {
        ["/usr/bin", "/bin", "/sbin", "/usr/sbin"]
            .iter()
            .any(|dir| Path::new(dir).join(name).exists())
    };
    install_command_with(package, is_there)
}

fn install_command_with(package: &str, is_there: impl Fn(&str) -> bool) -> String {
    let found = MANAGERS.iter().find(|(program, ..)| is_there(program)).unwrap_or(&MANAGERS[0]);
    let (_, command, [cron, ssh]) = found;
    let name = match package {
        "cron" => cron,
        "openssh-client" => ssh,
        other => other,
    };
    format!("{command} {name}")
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
