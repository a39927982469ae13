//! Checks everything that the agent depends on, and returns findings with a hint each, so that a person
//! can correct them before they cause a failure. Changes nothing.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::Path;

use anyhow::Result;
use chrono::{DateTime, Datelike, Duration, Utc};

use crate::config::{self, Settings};
use crate::domain::repository::state::{Severity, State};
use crate::domain::repository::status::{MachineStatus, StatusRow};
use crate::engine::context::Context;
use crate::engine::discovery::safe_paths::{self, SafePaths};
use crate::engine::discovery::{self, CloneState};
use crate::engine::error::IS_A_BUG;
use crate::engine::finding::{CheckFinding, CheckScope, FindingLevel, RepoFindings};
use crate::engine::machine::schedule::advice;
use crate::engine::repository::limits::{self, BoundedOpen};
use crate::engine::tick;
use crate::engine::tick::passwords;
use crate::engine::tick::user_helper::{self, HelperReplies};
use crate::system::agent_state::AgentState;
use crate::system::host::{self, Host};
use crate::system::permissions;
use crate::system::repo_dir_scan::{self, RootEntryKind};

mod bus;
mod gates;
mod page;
mod presence;
mod reports;
mod repository;
mod schedule;
mod target;
mod webhook;

/// The year of the first agent: an earlier clock is wrong.
const FIRST_YEAR: i32 = 2026;
/// The tolerance for file times ahead of the clock; beyond it the clock counts as set back.
const JITTER: Duration = Duration::minutes(1);
/// With less free space than this, in bytes, the next fetch or log may not fit.
const LITTLE_ROOM: u64 = 100_000_000;

/// The number of repositories that are checked at a time.
const SIDE_BY_SIDE: usize = 16;

/// The finding for a configuration that cannot be used. Nothing else can be checked then.
pub fn misconfigured(error: &config::ConfigError) -> Vec<CheckFinding> {
    let findings = error.sentences().into_iter();
    findings.map(|sentence| CheckFinding::bad("configuration", sentence)).collect()
}

/// Checks everything. `base` is the directory below which the machine's crontabs are: `/`.
pub fn check(settings: Settings, node: Host, scope: CheckScope, base: &Path) -> Vec<CheckFinding> {
    let now = host::now();
    let mut verdicts = vec![configuration(&settings)];
    let overrides = settings.overrides.iter();
    verdicts.extend(overrides.map(|it| CheckFinding::ok("configuration", it.clone())));
    let context = match Context::new(settings.clone(), node.clone()) {
        Ok(context) => {
            verdicts.push(identity(&context));
            context
        }
        Err(error) => {
            verdicts.push(CheckFinding::of(FindingLevel::Bad, "node", &error));
            Context::bare(settings, node)
        }
    };
    verdicts.push(program(&context));
    verdicts.push(clock(now));
    let last = AgentState::at(&context.settings.world.state).last_tick();
    verdicts.push(ticks(last, now, &advice(&context)));
    verdicts.extend(schedule::ticks(&context, base, last.map(|last| now - last)));
    verdicts.extend(timer(context.settings.every));
    verdicts.extend(dirs(&context));
    verdicts.extend(reports::verdicts(&context));
    verdicts.extend(repositories(&context, scope, now));
    verdicts.extend(safe_paths::section_faults(&context.settings).iter().map(
        |(section, fault)| {
            let subject = match section {
                safe_paths::ConfigSection::Bus => "bus",
                safe_paths::ConfigSection::Webhook => "webhook",
            };
            CheckFinding::of(FindingLevel::Bad, subject, fault)
        },
    ));
    let topics = context.settings.listened_topics();
    verdicts.extend(context.settings.bus.iter().flat_map(|bus| bus::verdicts(bus, &topics, scope)));
    verdicts.extend(context.settings.webhook.iter().flat_map(webhook::verdicts));
    verdicts.extend(context.settings.page.iter().map(page::verdict));
    verdicts.extend(presence::verdicts(&context, scope));
    verdicts.push(schedule::other_loops(&context, base));
    verdicts
}

fn configuration(settings: &Settings) -> CheckFinding {
    let world = &settings.world;
    let text = match settings.files.as_slice() {
        [] => format!("the defaults: there is no {}", world.config_file.display()),
        files => files.join(", "),
    };
    let wrong: Vec<&str> = settings.faults.keys().map(String::as_str).collect();
    if !wrong.is_empty() {
        let text = format!("{text}: nothing is done for {}, see there", wrong.join(", "));
        return CheckFinding::bad("configuration", text);
    }
    CheckFinding::ok("configuration", text)
}

fn identity(context: &Context) -> CheckFinding {
    let name = |word: &Option<String>| word.clone().unwrap_or_else(|| "none".to_owned());
    let (part, stack) = (name(&context.part), name(&context.stack));
    CheckFinding::ok("node", format!("{}, part {part}, stack {stack}", context.node.host))
}

/// Checks who can replace the agent's program: its user runs that program each minute.
fn program(context: &Context) -> CheckFinding {
    let program = host::program();
    let user = &context.node.user;
    match SafePaths::new(context).require(&program, user.uid) {
        Ok(_) => CheckFinding::ok("program", program.display().to_string()),
        Err(error) => {
            let error = error.context(format!(
                "others than {} can replace {}\n\
                 hint: install -o root -g root -m 755 agent /usr/local/bin/agent",
                user.name,
                program.display()
            ));
            CheckFinding::of(FindingLevel::Warn, "program", &error)
        }
    }
}

fn clock(now: DateTime<Utc>) -> CheckFinding {
    let says = now.format("%Y-%m-%d %H:%M UTC");
    if now.year() < FIRST_YEAR {
        let text = format!(
            "the clock says {says}, which is impossible: certificates and waiting times fail\n\
             hint: set the clock, and keep it right: timedatectl set-ntp true"
        );
        return CheckFinding::bad("clock", text);
    }
    CheckFinding::ok("clock", says.to_string())
}

fn ticks(last: Option<DateTime<Utc>>, now: DateTime<Utc>, advice: &str) -> CheckFinding {
    let schedule = format!("hint: {advice}");
    let Some(last) = last else {
        return CheckFinding::warn("tick", format!("there was none yet\n{schedule}"));
    };
    let age = now - last;
    if age < -JITTER {
        let text = "the last one is in the future: the clock was set back since\n\
                    hint: when the clock is right now, the next tick puts that right";
        return CheckFinding::warn("tick", text);
    }
    if age > MachineStatus::longest_silence() {
        let minutes = age.num_minutes();
        let text = format!("none for {minutes} minutes, so nothing new is pulled\n{schedule}");
        return CheckFinding::bad("tick", text);
    }
    CheckFinding::ok("tick", format!("the last one was {} s ago", age.num_seconds().max(0)))
}

/// A warning when the timer's interval `every` is longer than the silence that counts as healthy.
fn timer(every: std::time::Duration) -> Option<CheckFinding> {
    let silence = MachineStatus::longest_silence();
    let is_short = Duration::from_std(every).is_ok_and(|every| every <= silence - JITTER);
    (!is_short).then(|| {
        let text = format!(
            "every = \"{}\" is too long: after {} minutes without a tick, the status reports that \
             ticks are missing\n\
             hint: write \"4m\" or less, or let cron tick as well",
            humantime::format_duration(every),
            silence.num_minutes()
        );
        CheckFinding::warn("listen", text)
    })
}

/// Checks the directories of the agent's own files.
fn dirs(context: &Context) -> Vec<CheckFinding> {
    let world = &context.settings.world;
    // Each repository checks its own log directory.
    [("state", &world.state, safe_paths::state(context)), ("logs", &world.logs, Ok(()))]
        .into_iter()
        .flat_map(|(subject, dir, usable)| {
            if let Err(fault) = usable {
                let finding = CheckFinding::of(FindingLevel::Bad, subject, &fault);
                return [Some(finding), None].into_iter().flatten();
            }
            let finding = match permissions::writable(dir) {
                Ok(()) => CheckFinding::ok(subject, dir.display().to_string()),
                Err(error) => {
                    let (us, shown) = (&context.node.user.name, dir.display());
                    let hint = match dir.exists() {
                        true => format!("hint: as root: chown {us} {shown}"),
                        false => format!("hint: as root: install -d -o {us} {shown}"),
                    };
                    let error = error.context(format!("{}\n{hint}", dir.display()));
                    CheckFinding::of(FindingLevel::Bad, subject, &error)
                }
            };
            [Some(finding), room(subject, dir)].into_iter().flatten()
        })
        .collect()
}

/// A warning about little free disk space; `None`: there is enough.
fn room(subject: &str, dir: &Path) -> Option<CheckFinding> {
    match permissions::free_space(dir) {
        Ok(free) if free >= LITTLE_ROOM => None,
        Ok(free) => Some(CheckFinding::warn(
            subject,
            format!(
                "only {} MB are free at {}\nhint: free some space: until then nothing new arrives",
                free / 1_000_000,
                dir.display()
            ),
        )),
        Err(error) => Some(CheckFinding::of(FindingLevel::Warn, subject, &error)),
    }
}

/// Checks the root, each repository, and what else is below the root.
fn repositories(context: &Context, scope: CheckScope, now: DateTime<Utc>) -> Vec<CheckFinding> {
    let root = &context.settings.world.root;
    let all = match discovery::repositories(context) {
        Ok(all) => all,
        Err(error) => {
            let error = error.context(format!(
                "no repository can be found\nhint: let {} read {}",
                context.node.user.name,
                root.display()
            ));
            return vec![CheckFinding::of(FindingLevel::Bad, "root", &error)];
        }
    };
    let mut verdicts = vec![match all.len() {
        0 => CheckFinding::warn(
            "root",
            format!("there is no repository under {} yet\nhint: agent init URL", root.display()),
        ),
        1 => CheckFinding::ok("root", format!("{}, 1 repository", root.display())),
        many => CheckFinding::ok("root", format!("{}, {many} repositories", root.display())),
    }];
    if scope == CheckScope::Machine && !all.is_empty() {
        verdicts.push(CheckFinding::ok("remotes", "not asked"));
    }
    // The state of one with a wrong entry says all that is known.
    let usable: Vec<_> =
        all.iter().filter(|repo| repo.settings.broken.is_none()).cloned().collect();
    if scope == CheckScope::Remotes {
        passwords::refresh(context, &usable, &None, None);
    }
    let sorted = user_helper::sort_by_user(context, usable);
    verdicts.extend(side_by_side(context, &sorted.ours, scope));
    for (user, repos) in &sorted.delegated {
        verdicts.extend(repos.iter().filter_map(|repo| {
            let error = user_helper::give_logs(context, user, repo).err()?;
            Some(CheckFinding::of(FindingLevel::Bad, &repo.name, &error))
        }));
    }
    let check = |user: &_, repos: &_| user_helper::check(context, user, repos, scope);
    for (repos, answers) in user_helper::side_by_side(&sorted.delegated, check) {
        let HelperReplies { items, failure, .. } = answers;
        let judged: BTreeSet<&str> = items.iter().map(|(name, _)| name.as_str()).collect();
        let left = repos.iter().filter(|repo| !judged.contains(repo.name.as_str()));
        let of_one = |repo: &discovery::RepoEntry| {
            failure.as_ref().map(|error| CheckFinding::of(FindingLevel::Bad, &repo.name, error))
        };
        verdicts.extend(left.filter_map(of_one));
        verdicts.extend(items.into_iter().flat_map(|(_, verdicts)| verdicts));
    }
    let of_nobody = |(repo, why): &(discovery::RepoEntry, _)| {
        CheckFinding::of(FindingLevel::Bad, &repo.name, why)
    };
    verdicts.extend(sorted.unusable.iter().map(of_nobody));
    add_states(context, now, &mut verdicts);
    verdicts.extend(strangers(context, &all));
    verdicts
}

/// Adds the state of each repository, as `agent status` reports it, before its other findings.
fn add_states(context: &Context, now: DateTime<Utc>, verdicts: &mut Vec<CheckFinding>) {
    let rows = match tick::survey(context, &[]) {
        Ok(status) => status.repositories,
        Err(error) => return verdicts.push(CheckFinding::of(FindingLevel::Bad, "status", &error)),
    };
    for row in rows {
        let mut state = state(&row, now);
        // What the state reports already is not repeated, and is as bad as it was found to be.
        verdicts.retain(|it| {
            let is_same = it.subject == row.name && state.text.ends_with(&it.text);
            if is_same {
                state.level = state.level.max(it.level);
            }
            !is_same
        });
        let first = verdicts.iter().position(|it| it.subject == row.name);
        verdicts.insert(first.unwrap_or(verdicts.len()), state);
    }
}

/// The finding for a state: what `agent status` reports as a fault is one here too, and what stops new
/// revisions is worth a warning.
fn state(row: &StatusRow, now: DateTime<Utc>) -> CheckFinding {
    let stops =
        matches!(row.state, State::Held | State::Pinned | State::Waiting | State::Unreachable);
    let level = match (row.needs_attention(now), row.severity(now)) {
        (true, _) | (_, Severity::Critical) => FindingLevel::Bad,
        (false, Severity::Ok) if !stops => FindingLevel::Ok,
        (false, _) => FindingLevel::Warn,
    };
    let is_by_person = row.state == State::Pinned || !row.holds.is_empty();
    let text = match (&row.reason, row.state) {
        (Some(reason), State::Held | State::Pinned) if is_by_person => format!(
            "{}: {reason}\nhint: when that is over: agent unhold {}",
            row.shown_state(),
            row.name
        ),
        (Some(reason), _) => format!("{}: {reason}", row.shown_state()),
        (None, State::Inactive) => "inactive: active = false".to_owned(),
        (None, _) => row.shown_state(),
    };
    CheckFinding::new(level, &row.name, text)
}

/// Checks all repositories of a helper's input; `say` gets the findings.
///
/// # Errors
/// When the repositories cannot be listed.
pub fn helper_request(
    context: &Context,
    scope: CheckScope,
    say: &dyn Fn(&RepoFindings),
) -> Result<()> {
    check_repositories(context, &discovery::repositories(context)?, scope, say);
    Ok(())
}

fn side_by_side(
    context: &Context,
    repos: &[discovery::RepoEntry],
    scope: CheckScope,
) -> Vec<CheckFinding> {
    let verdicts = RefCell::new(Vec::new());
    check_repositories(context, repos, scope, &|(_, found)| {
        verdicts.borrow_mut().extend(found.clone())
    });
    verdicts.into_inner()
}

/// Checks `repos`; `say` gets the findings in their order.
fn check_repositories(
    context: &Context,
    repos: &[discovery::RepoEntry],
    scope: CheckScope,
    say: &dyn Fn(&RepoFindings),
) {
    let look = move |context: &Context, repo: &discovery::RepoEntry| {
        let found = catch_unwind(|| repository::verdicts(context, repo, scope));
        Ok(found.unwrap_or_else(|_| vec![CheckFinding::bad(&repo.name, IS_A_BUG)]))
    };
    // Several at a time: a person must not wait for each remote that does not answer.
    for some in repos.chunks(SIDE_BY_SIDE) {
        let begun: Vec<_> = some
            .iter()
            .map(|repo| {
                let limit = match scope {
                    // The remote is polled after a check whether polling is possible: two time limits.
                    CheckScope::Remotes => 2 * limits::poll_timeout(&repo.settings),
                    CheckScope::Machine => limits::evaluation_timeout(&repo.settings),
                };
                (repo, BoundedOpen::begin(context, repo, limit, look))
            })
            .collect();
        for (repo, look) in begun {
            let found = look.and_then(BoundedOpen::end);
            let of_error = |error| vec![CheckFinding::of(FindingLevel::Bad, &repo.name, &error)];
            say(&(repo.name.clone(), found.unwrap_or_else(of_error)));
        }
    }
}

/// The directories below the root that the agent leaves alone.
fn strangers(context: &Context, all: &[discovery::RepoEntry]) -> Vec<CheckFinding> {
    // The caller has listed the root before.
    let entries = repo_dir_scan::entries(&context.settings.world.root).unwrap_or_default();
    let listed =
        |entry: &repo_dir_scan::RootEntry| all.iter().find(|repo| repo.listed == entry.path);
    let mut verdicts = Vec::new();
    for entry in entries.iter().filter(|entry| listed(entry).is_none()) {
        let text = match entry.kind {
            RootEntryKind::Plain => {
                format!("{} is not a repository and is ignored", entry.path.display())
            }
            kind => {
                let same = |repo: &&discovery::RepoEntry| {
                    repo.found == CloneState::Clone && repo_dir_scan::kind_of(&repo.path) == kind
                };
                let Some(first) = all.iter().find(same) else { continue };
                format!("{} is a second name of {}", entry.path.display(), first.name)
            }
        };
        verdicts.push(CheckFinding::ok("root", text));
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use crate::engine::operator::check::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn a_clock_from_before_the_agent_was_made_is_wrong() {
        assert_eq!(clock(at("1970-01-01T00:03:00Z")).level, FindingLevel::Bad);
        assert_eq!(clock(at("2025-12-31T23:59:59Z")).level, FindingLevel::Bad);
        assert_eq!(clock(at("2026-01-01T00:00:00Z")).level, FindingLevel::Ok);
    }

    #[test]
    fn silence_comes_with_the_line_that_ends_it() {
        let now = at("2026-11-22T09:00:00Z");
        let advice = "agent schedule cron";
        for (last, level, remedy) in [
            (None, FindingLevel::Warn, "agent schedule cron"),
            (Some("2026-11-22T08:54:00Z"), FindingLevel::Bad, "agent schedule cron"),
            (Some("2026-11-22T08:56:00Z"), FindingLevel::Ok, ""),
            (Some("2026-11-22T09:00:30Z"), FindingLevel::Ok, ""),
            (Some("2026-11-22T09:02:00Z"), FindingLevel::Warn, "next tick"),
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
        let verdict = CheckFinding::of(FindingLevel::Bad, "ops", &error);
        assert_eq!(verdict.text, "ops is out of reach: cannot open: permission denied");
        assert_eq!(verdict.remedy.unwrap(), "ask its owner; run it as root");
    }
}
