//! Lookups of a static build, which cannot load the services of nsswitch.conf(5): it reads passwd and group
//! itself where they are asked first, and otherwise asks getent(1). Where only the files are configured,
//! or there is no getent and so no glibc, no program is started.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{GroupKey, GroupMembers, NameDatabase, NameServiceError, User};
use crate::domain::text::EscapeControls;
use crate::system::clock::since_boot;
use crate::system::files;
use crate::system::process::{WaitOutcome, run_with_input};

/// Where getent(1) is; never searched for in `PATH`.
const GETENT: [&str; 2] = ["/usr/bin/getent", "/bin/getent"];
/// Longest time that getent may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long an answer is used again: a tick asks about one user for each of its clones.
const LIFETIME: Duration = Duration::from_secs(5);
/// Largest passwd or group file.
const LARGEST: u64 = 16 << 20;
/// Services that are on this machine, so that they answer: what they do not know does not exist. getent
/// exits alike when an entry is missing and when a service does not answer.
const LOCAL: [&str; 7] =
    ["files", "compat", "altfiles", "extrausers", "db", "systemd", "mymachines"];

/// Answers by database and key, each with the time when it came.
type Answers = Mutex<BTreeMap<(NameDatabase, String), (Duration, Option<String>)>>;

/// The name service of one machine.
struct NameService {
    /// Directory of passwd, group and nsswitch.conf.
    etc: PathBuf,
    /// Path of getent(1); `None` where there is none.
    getent: Option<PathBuf>,
    answers: Answers,
}

static HERE: LazyLock<NameService> = LazyLock::new(|| NameService {
    etc: PathBuf::from("/etc"),
    getent: GETENT.iter().map(PathBuf::from).find(|path| path.exists()),
    answers: Mutex::default(),
});

pub fn user_by_number(uid: u32) -> Result<Option<User>, NameServiceError> {
    HERE.user_by_number(uid)
}

pub fn user_by_name(name: &str) -> Result<Option<User>, NameServiceError> {
    HERE.user_by_name(name)
}

pub fn group_by_key(key: GroupKey<'_>) -> Result<Option<GroupMembers>, NameServiceError> {
    HERE.group_by_key(key)
}

pub fn group_ids(user: &User) -> Result<Vec<u32>> {
    HERE.group_ids(user)
}

impl NameService {
    fn user_by_number(&self, uid: u32) -> Result<Option<User>, NameServiceError> {
        self.find(NameDatabase::Passwd, &uid.to_string(), |line| {
            user(line).filter(|user| user.uid == uid)
        })
    }

    fn user_by_name(&self, name: &str) -> Result<Option<User>, NameServiceError> {
        // A service may spell the name in its own way, such as pat@example.org.
        let found = |line: &str, exact: bool| user(line).filter(|it| !exact || it.name == name);
        self.find_name(NameDatabase::Passwd, name, found)
    }

    fn group_by_key(&self, key: GroupKey<'_>) -> Result<Option<GroupMembers>, NameServiceError> {
        match key {
            GroupKey::Name(name) => {
                let found =
                    |line: &str, exact: bool| group(line).filter(|it| !exact || it.name == name);
                self.find_name(NameDatabase::Group, name, found)
            }
            GroupKey::Number(gid) => self.find(NameDatabase::Group, &gid.to_string(), |line| {
                group(line).filter(|group| group.gid == gid)
            }),
        }
    }

    /// Numbers of the groups that list `user`.
    fn group_ids(&self, user: &User) -> Result<Vec<u32>> {
        let mut services = self.services(NameDatabase::Initgroups);
        if services.is_empty() {
            services = self.services(NameDatabase::Group);
        }
        if !self.is_asked(&services) {
            let groups = self.lines(NameDatabase::Group)?;
            let groups = groups.lines().filter_map(group);
            return Ok(groups
                .filter(|group| group.members.contains(&user.name))
                .map(|group| group.gid)
                .collect());
        }
        let line = self.ask(NameDatabase::Initgroups, &user.name)?.unwrap_or_default();
        // The name, which may hold spaces, and the numbers.
        let numbers = line.strip_prefix(&user.name).context("getent answered for another user")?;
        let numbers = numbers.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>();
        numbers.with_context(|| format!("getent answered \"{}\"", line.escape_controls()))
    }

    /// [`NameService::find`] by a name, which getent does not take for a number or an option.
    fn find_name<T>(
        &self,
        database: NameDatabase,
        name: &str,
        parse: impl Fn(&str, bool) -> Option<T>,
    ) -> Result<Option<T>, NameServiceError> {
        let digits = name.trim_start().trim_start_matches(['+', '-']);
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number || name.starts_with('-') || name.contains(['\0', '\n', ':']) {
            // The files alone may have such a name.
            return self.in_file(database, |line| parse(line, true));
        }
        if let Some(found) = self.in_file(database, |line| parse(line, true))? {
            return Ok(Some(found));
        }
        self.elsewhere(database, name, |line| parse(line, false))
    }

    /// The first entry that `parse` takes, from the files or from getent.
    fn find<T>(
        &self,
        database: NameDatabase,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, NameServiceError> {
        match self.in_file(database, &parse)? {
            Some(found) => Ok(Some(found)),
            None => self.elsewhere(database, key, parse),
        }
    }

    /// The entry in the file of the database, if nsswitch.conf names the files.
    fn in_file<T>(
        &self,
        database: NameDatabase,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, NameServiceError> {
        let services = self.services(database);
        let has_files =
            services.iter().any(|service| ["files", "compat"].contains(&service.as_str()));
        if !services.is_empty() && !has_files {
            return Ok(None);
        }
        Ok(self.lines(database)?.lines().find_map(parse))
    }

    /// The entry that getent prints, where there is more to ask than files.
    fn elsewhere<T>(
        &self,
        database: NameDatabase,
        key: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, NameServiceError> {
        let services = self.services(database);
        if !self.is_asked(&services) {
            return Ok(None);
        }
        let Some(line) = self.ask(database, key)? else {
            let remote = services.iter().find(|service| !LOCAL.contains(&service.as_str()));
            return match remote {
                Some(service) => Err(database.error(
                    &key.escape_controls(),
                    format!("getent finds none, and does not tell whether {service} answered"),
                )),
                None => Ok(None),
            };
        };
        Ok(parse(&line))
    }

    /// Whether getent knows more than the files.
    fn is_asked(&self, services: &[String]) -> bool {
        self.getent.is_some() && services.iter().any(|service| service != "files")
    }

    /// The first line that getent prints for `key`; `None` when it finds nothing.
    fn ask(&self, database: NameDatabase, key: &str) -> Result<Option<String>, NameServiceError> {
        let slot = (database, key.to_owned());
        let now = since_boot();
        let known = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((when, answer)) = known.get(&slot)
            && now.saturating_sub(*when) < LIFETIME
        {
            return Ok(answer.clone());
        }
        drop(known);
        let shown = key.escape_controls();
        let failed = |cause: String| database.error(&shown, cause);
        let Some(getent) = &self.getent else { return Ok(None) };
        let argv = [&getent.to_string_lossy(), database.name(), key];
        let asked =
            run_with_input(&argv, b"", DEADLINE).map_err(|error| failed(format!("{error:#}")))?;
        let answer = match asked.ended {
            WaitOutcome::Exited(0) => {
                let output = String::from_utf8_lossy(&asked.output);
                output.lines().next().map(str::to_owned)
            }
            WaitOutcome::Exited(2) => None,
            WaitOutcome::Exited(code) => {
                return Err(failed(format!("getent exited with code {code} {}", asked.complaints)));
            }
            WaitOutcome::Signalled(signal) => {
                return Err(failed(format!("signal {signal} ended getent")));
            }
            WaitOutcome::TimedOut => {
                return Err(failed(format!("getent took longer than {} s", DEADLINE.as_secs())));
            }
        };
        let mut known = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (when, _)| now.saturating_sub(*when) < LIFETIME);
        known.insert(slot, (now, answer.clone()));
        Ok(answer)
    }

    /// Services that nsswitch.conf names for the database, in their order; none where it has no line, which
    /// means the files.
    fn services(&self, database: NameDatabase) -> Vec<String> {
        let read = files::read_small(&self.etc.join("nsswitch.conf"), 64 << 10).ok().flatten();
        services(&String::from_utf8_lossy(&read.unwrap_or_default()), database.name())
    }

    /// Content of the file of the database; empty where there is none.
    fn lines(&self, database: NameDatabase) -> Result<String, NameServiceError> {
        let path = self.etc.join(database.name());
        let read = files::read_small(&path, LARGEST);
        let bytes = read.map_err(|error| database.error("*", format!("{error:#}")))?;
        Ok(String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned())
    }
}

/// Services of `database` in the text of nsswitch.conf, without what to do after an answer (`[…]`).
fn services(text: &str, database: &str) -> Vec<String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let found =
        lines.filter_map(|line| line.strip_prefix(database)?.trim_start().strip_prefix(':'));
    let mut services = Vec::new();
    for part in found.flat_map(|line| line.split(']')) {
        let names = part.split('[').next().unwrap_or_default();
        services.extend(names.split_whitespace().map(str::to_owned));
    }
    services
}

/// A line of passwd(5): `name:password:uid:gid:comment:home:shell`.
fn user(line: &str) -> Option<User> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields.as_slice() else { return None };
    if name.is_empty() {
        return None;
    }
    let shell = if shell.is_empty() { "/bin/sh" } else { shell };
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    let (home, shell) = (PathBuf::from(home), PathBuf::from(shell));
    Some(User { uid, gid, name: (*name).to_owned(), home, shell })
}

/// A line of group(5): `name:password:gid:member,member`.
fn group(line: &str) -> Option<GroupMembers> {
    let fields: Vec<&str> = line.split(':').collect();
    let [name, _, gid, members] = fields.as_slice() else { return None };
    if name.is_empty() {
        return None;
    }
    let members = members.split(',').filter(|member| !member.is_empty());
    Some(GroupMembers {
        gid: gid.parse().ok()?,
        name: (*name).to_owned(),
        members: members.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests;
