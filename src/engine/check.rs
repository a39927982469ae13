//! What a person should put right before it shows: a verdict on everything that the agent depends
//! on, each with what to do. Changes nothing.

use std::path::Path;
use std::thread;

use anyhow::{Error, Result};
use chrono::{DateTime, Datelike, Duration, Utc};
use serde::{Deserialize, Serialize};

use super::Here;
use super::delegate;
use super::roster::{self, Found};
use super::schedule;
use crate::config::{self, Settings};
use crate::domain::status::Status;
use crate::system::access;
use crate::system::machine::Machine;
use crate::system::node::{self, Node};
use crate::system::root::{self, Kind};

mod bus;
mod reports;
mod repository;
mod rivals;
mod target;
mod webhook;

/// The year of the first agent: a clock before it is wrong.
const FIRST_YEAR: i32 = 2026;
/// How far ahead of the clock a file may be without the clock having been set back.
const JITTER: Duration = Duration::minutes(1);
/// Under this much room, in bytes, the next fetch or log may be the one that does not fit.
const LITTLE_ROOM: u64 = 100_000_000;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and somebody should know.
    Warn,
    /// Does not work.
    Bad,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// What it is about: a part of the machine, or a repository.
    pub subject: String,
    /// How bad it is.
    pub level: Level,
    /// What was found, as a sentence.
    pub text: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl Verdict {
    /// `text` may end with a line `hint: …`, which becomes the remedy.
    fn new(level: Level, subject: &str, text: impl AsRef<str>) -> Self {
        let (text, remedy) = match text.as_ref().split_once("\nhint: ") {
            Some((text, remedy)) => (text, Some(remedy.to_owned())),
            None => (text.as_ref(), None),
        };
        Self { subject: subject.to_owned(), level, text: text.to_owned(), remedy }
    }

    fn ok(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(Level::Ok, subject, text)
    }

    fn warn(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(Level::Warn, subject, text)
    }

    fn bad(subject: &str, text: impl AsRef<str>) -> Self {
        Self::new(Level::Bad, subject, text)
    }

    /// An error with all its causes in one sentence, and all its hints.
    fn of(level: Level, subject: &str, error: &Error) -> Self {
        let mut said: Vec<String> = Vec::new();
        let mut hints: Vec<String> = Vec::new();
        for cause in error.chain() {
            let Self { text, remedy, .. } = Self::new(level, subject, cause.to_string());
            // Many libraries repeat their cause in their own message.
            if !said.iter().any(|known| known.contains(&text)) {
                said.push(text);
            }
            hints.extend(remedy.filter(|remedy| !hints.contains(remedy)));
        }
        let remedy = (!hints.is_empty()).then(|| hints.join("; "));
        Self { remedy, ..Self::new(level, subject, said.join(": ")) }
    }
}

/// How many repositories are looked at at a time.
const SIDE_BY_SIDE: usize = 16;

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Everything, the remotes too.
    Remotes,
    /// Only what is on this machine.
    Machine,
}

/// The verdict on a configuration that cannot be used. Nothing else can be judged then.
pub fn misconfigured(error: &config::Error) -> Verdict {
    Verdict::bad("configuration", error.to_string())
}

/// Looks at everything. `base` is the folder in which this machine's crontabs are, `/`.
pub fn check(settings: Settings, node: Node, scope: Scope, base: &Path) -> Vec<Verdict> {
    let now = node::now();
    let mut verdicts = vec![configuration(&settings)];
    let here = match Here::new(settings.clone(), node.clone()) {
        Ok(here) => {
            verdicts.push(identity(&here));
            here
        }
        Err(error) => {
            verdicts.push(Verdict::of(Level::Bad, "node", &error));
            Here::bare(settings, node)
        }
    };
    verdicts.push(program(&here));
    verdicts.push(clock(now));
    let last = Machine::at(&here.settings.world.state).last_tick();
    verdicts.push(ticks(last, now, &schedule::advice(&here)));
    verdicts.extend(timer(here.settings.every));
    verdicts.extend(folders(&here));
    verdicts.extend(reports::verdicts(&here));
    verdicts.extend(repositories(&here, scope, now));
    verdicts.extend(here.settings.bus.iter().flat_map(|bus| bus::verdicts(bus, scope)));
    verdicts.extend(here.settings.webhook.iter().flat_map(webhook::verdicts));
    verdicts.push(rivals::verdict(&here, base));
    verdicts
}

fn configuration(settings: &Settings) -> Verdict {
    let world = &settings.world;
    let text = match settings.files.as_slice() {
        [] => format!("the defaults: there is no {}", world.config_file.display()),
        files => files.join(", "),
    };
    Verdict::ok("configuration", text)
}

fn identity(here: &Here) -> Verdict {
    let name = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
    let (part, stack) = (name(&here.part), name(&here.stack));
    Verdict::ok("node", format!("{}, part {part}, stack {stack}", here.node.host))
}

/// Whoever can replace the agent decides what its user runs each minute.
fn program(here: &Here) -> Verdict {
    let program = node::program();
    let user = &here.node.user;
    match access::replaceable_by_others(&program, user.uid) {
        Ok(None) => Verdict::ok("program", program.display().to_string()),
        Ok(Some(part)) => Verdict::warn(
            "program",
            format!(
                "others than {} can replace {}: they may write {}\n\
                 hint: install -o root -g root -m 755 agent /usr/local/bin/agent",
                user.name,
                program.display(),
                part.display()
            ),
        ),
        Err(error) => Verdict::of(Level::Warn, "program", &error),
    }
}

fn clock(now: DateTime<Utc>) -> Verdict {
    let says = now.format("%Y-%m-%d %H:%M UTC");
    if now.year() < FIRST_YEAR {
        let text = format!(
            "it is {says} here, which cannot be: certificates and waiting times go wrong\n\
             hint: set the clock, and keep it right: timedatectl set-ntp true"
        );
        return Verdict::bad("clock", text);
    }
    Verdict::ok("clock", says.to_string())
}

fn ticks(last: Option<DateTime<Utc>>, now: DateTime<Utc>, advice: &str) -> Verdict {
    let schedule = format!("hint: {advice}");
    let Some(last) = last else {
        return Verdict::warn("tick", format!("there was none yet\n{schedule}"));
    };
    let age = now - last;
    if age < -JITTER {
        let text = "the last one is in the future: the clock was set back since\n\
                    hint: when the clock is right now, the next tick puts that right";
        return Verdict::warn("tick", text);
    }
    if age > Status::longest_silence() {
        let minutes = age.num_minutes();
        let text = format!("none for {minutes} minutes, so nothing new is pulled\n{schedule}");
        return Verdict::bad("tick", text);
    }
    Verdict::ok("tick", format!("the last one was {} s ago", age.num_seconds().max(0)))
}

/// What is to be said of a timer that calls this often.
fn timer(every: std::time::Duration) -> Option<Verdict> {
    let silence = Status::longest_silence();
    let is_short = Duration::from_std(every).is_ok_and(|every| every <= silence - JITTER);
    (!is_short).then(|| {
        let text = format!(
            "every = \"{}\" is so long that between two ticks all seems to have stopped: \
             that is so after {} minutes\n\
             hint: write \"4m\" or less, or let cron tick as well",
            humantime::format_duration(every),
            silence.num_minutes()
        );
        Verdict::warn("listen", text)
    })
}

/// The folders in which the agent keeps what is the machine's.
fn folders(here: &Here) -> Vec<Verdict> {
    let world = &here.settings.world;
    [("state", &world.state), ("logs", &world.logs)]
        .into_iter()
        .flat_map(|(subject, folder)| {
            let told = match access::writable(folder) {
                Ok(()) => Verdict::ok(subject, folder.display().to_string()),
                Err(error) => {
                    let (us, shown) = (&here.node.user.name, folder.display());
                    let hint = match folder.exists() {
                        true => format!("hint: as root: chown {us} {shown}"),
                        false => format!("hint: as root: install -d -o {us} {shown}"),
                    };
                    let error = error.context(format!("{}\n{hint}", folder.display()));
                    Verdict::of(Level::Bad, subject, &error)
                }
            };
            [Some(told), room(subject, folder)].into_iter().flatten()
        })
        .collect()
}

/// That there is little room where `folder` is, if so.
fn room(subject: &str, folder: &Path) -> Option<Verdict> {
    match access::free_space(folder) {
        Ok(free) if free >= LITTLE_ROOM => None,
        Ok(free) => Some(Verdict::warn(
            subject,
            format!(
                "only {} MB are free at {}\nhint: make room: what does not fit is tried again, \
                 and nothing new arrives until then",
                free / 1_000_000,
                folder.display()
            ),
        )),
        Err(error) => Some(Verdict::of(Level::Warn, subject, &error)),
    }
}

/// The root, each repository, and what else lies under the root.
fn repositories(here: &Here, scope: Scope, now: DateTime<Utc>) -> Vec<Verdict> {
    let root = &here.settings.world.root;
    let all = match roster::repositories(here) {
        Ok(all) => all,
        Err(error) => {
            let error = error.context(format!(
                "no repository can be found\nhint: let {} read {}",
                here.node.user.name,
                root.display()
            ));
            return vec![Verdict::of(Level::Bad, "root", &error)];
        }
    };
    let mut verdicts = vec![match all.len() {
        0 => Verdict::warn(
            "root",
            format!("there is no repository under {} yet\nhint: agent init URL", root.display()),
        ),
        1 => Verdict::ok("root", format!("{}, 1 repository", root.display())),
        many => Verdict::ok("root", format!("{}, {many} repositories", root.display())),
    }];
    if scope == Scope::Machine && !all.is_empty() {
        verdicts.push(Verdict::ok("remotes", "not asked"));
    }
    let sorted = delegate::sort(here, all.clone());
    verdicts.extend(side_by_side(here, &sorted.ours, scope, now));
    for (user, repos) in &sorted.theirs {
        let found = delegate::check(here, user, repos, scope);
        verdicts.extend(found.unwrap_or_else(|error| {
            repos.iter().map(|repo| Verdict::of(Level::Bad, &repo.name, &error)).collect()
        }));
    }
    verdicts.extend(sorted.nobodys.into_iter().map(|(repo, why)| Verdict::bad(&repo.name, why)));
    verdicts.extend(strangers(here, &all));
    verdicts
}

/// What a helper finds out about all that was handed over to it.
///
/// # Errors
/// When nothing can be said at all.
pub fn errand(here: &Here, scope: Scope) -> Result<Vec<Verdict>> {
    Ok(side_by_side(here, &roster::repositories(here)?, scope, node::now()))
}

fn side_by_side(
    here: &Here,
    repos: &[roster::Repo],
    scope: Scope,
    now: DateTime<Utc>,
) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    // One remote that does not answer must not keep a person waiting for all the others.
    for some in repos.chunks(SIDE_BY_SIDE) {
        let found = thread::scope(|threads| {
            let looks: Vec<_> = some
                .iter()
                .map(|repo| threads.spawn(|| repository::verdicts(here, repo, scope, now)))
                .collect();
            looks.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
        });
        for (repo, found) in some.iter().zip(found) {
            verdicts.extend(found.unwrap_or_else(|_| {
                vec![Verdict::bad(&repo.name, "looking at it makes the agent fail, which is a bug")]
            }));
        }
    }
    verdicts
}

/// Folders under the root that are left alone.
fn strangers(here: &Here, all: &[roster::Repo]) -> Vec<Verdict> {
    // That it can be read was found out before.
    let entries = root::entries(&here.settings.world.root).unwrap_or_default();
    let listed = |entry: &root::Entry| all.iter().find(|repo| repo.path == entry.path);
    let mut verdicts = Vec::new();
    for entry in entries.iter().filter(|entry| listed(entry).is_none()) {
        let text = match entry.kind {
            Kind::Plain => format!("{} is no repository and left alone", entry.path.display()),
            kind => {
                let same = |repo: &&roster::Repo| {
                    repo.found == Found::Clone && root::kind_of(&repo.path) == kind
                };
                let Some(first) = all.iter().find(same) else { continue };
                format!("{} is a second name of {}", entry.path.display(), first.name)
            }
        };
        verdicts.push(Verdict::ok("root", text));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_from_before_the_agent_was_made_is_wrong() {
        assert_eq!(clock(at("1970-01-01T00:03:00Z")).level, Level::Bad);
        assert_eq!(clock(at("2025-12-31T23:59:59Z")).level, Level::Bad);
        assert_eq!(clock(at("2026-01-01T00:00:00Z")).level, Level::Ok);
    }

    #[test]
    fn silence_comes_with_the_line_that_ends_it() {
        let now = at("2026-11-22T09:00:00Z");
        let advice = "agent schedule cron";
        for (last, level, remedy) in [
            (None, Level::Warn, "agent schedule cron"),
            (Some("2026-11-22T08:54:00Z"), Level::Bad, "agent schedule cron"),
            (Some("2026-11-22T08:56:00Z"), Level::Ok, ""),
            (Some("2026-11-22T09:00:30Z"), Level::Ok, ""),
            (Some("2026-11-22T09:02:00Z"), Level::Warn, "next tick"),
        ] {
            let verdict = ticks(last.map(at), now, advice);
            assert_eq!(verdict.level, level, "{last:?}");
            assert!(verdict.remedy.unwrap_or_default().contains(remedy), "{last:?}");
        }
    }

    #[test]
    fn an_error_becomes_a_sentence_with_its_causes_and_its_hints() {
        let error = anyhow!("permission denied\nhint: run it as root")
            .context("cannot open: permission denied")
            .context("ops is out of reach\nhint: ask its owner");
        let verdict = Verdict::of(Level::Bad, "ops", &error);
        assert_eq!(verdict.text, "ops is out of reach: cannot open: permission denied");
        assert_eq!(verdict.remedy.unwrap(), "ask its owner; run it as root");
    }
}
