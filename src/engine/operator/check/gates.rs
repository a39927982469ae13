//! Checks the gates of a repository: who may sign, whether its window ever opens, and whether the programs of `before`
//! and `health` can be run. Asks none of them.

use std::collections::BTreeSet;

use chrono::{SecondsFormat, TimeDelta};

use crate::domain::signature::allowed_signers::AllowedSigner;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery::{RepoEntry, safe_paths};
use crate::engine::finding::{CheckFinding, FindingLevel};
use crate::engine::repository::signatures;
use crate::engine::run::scripts;
use crate::system::host;

/// How long before a key ends it is warned of.
const ENDS_SOON: TimeDelta = TimeDelta::days(60);

/// The findings for the signers, for the window and for the machine's programs of `before` and `health`.
pub fn verdicts(context: &Context, repo: &RepoEntry) -> Vec<CheckFinding> {
    let mut all = signers(context, repo);
    all.extend(window(context, repo));
    let before = repo.settings.publish.before.iter().map(|program| ("before", program));
    let health = repo.settings.health.program.first().map(|program| ("health", program));
    let programs = before.chain(health).filter(|(_, program)| program.starts_with('/'));
    all.extend(programs.map(|(key, program)| can_run(context, repo, key, program)));
    all
}

/// The keys of `allowed_signers`: how many there are, and which end soon.
fn signers(context: &Context, repo: &RepoEntry) -> Vec<CheckFinding> {
    let (name, now) = (&repo.name, host::now());
    let file = match signatures::signers(context, repo) {
        Ok(Some(file)) => file,
        Ok(None) => return Vec::new(),
        Err(error) => return vec![CheckFinding::of(FindingLevel::Bad, name, &error)],
    };
    let path = file.name.escape_controls();
    let usable: Vec<&AllowedSigner> = file
        .signers
        .all()
        .iter()
        .filter(|it| it.is_for_git() && it.valid_before.is_none_or(|until| until > now))
        .collect();
    let keys: BTreeSet<String> = usable.iter().map(|it| it.key.fingerprint().to_string()).collect();
    let mut all = vec![match keys.len() {
        0 => CheckFinding::warn(
            name,
            format!(
                "{path} has no key that may sign for git now: nothing new is applied\nhint: add one"
            ),
        ),
        1 => CheckFinding::warn(
            name,
            format!(
                "{path} has one key that may sign: without it nothing new is applied\n\
                 hint: add a second one, and keep it elsewhere"
            ),
        ),
        count => CheckFinding::ok(name, format!("{path} has {count} keys that may sign")),
    }];
    let ends_soon =
        |it: &&&AllowedSigner| it.valid_before.is_some_and(|until| until - now < ENDS_SOON);
    all.extend(usable.iter().filter(ends_soon).map(|it| {
        let until =
            it.valid_before.map_or_else(String::new, |at| at.format("%Y-%m-%d").to_string());
        CheckFinding::warn(
            name,
            format!(
                "the key of {} in line {} of {path} counts until {until}\n\
                 hint: add its successor now, so that machines that are off for a while know both",
                it.principals.escape_controls(),
                it.line
            ),
        )
    }));
    all
}

fn window(context: &Context, repo: &RepoEntry) -> Option<CheckFinding> {
    let (gates, name) = (&repo.settings.policy.gates, &repo.name);
    let window = gates.window.as_ref()?;
    let zone = match context.zones.get(gates.window_zone.as_ref()) {
        Ok(zone) => zone,
        Err(error) => return Some(CheckFinding::of(FindingLevel::Bad, name, &error)),
    };
    let now = host::now();
    Some(match window.next_opening(&zone, now).at {
        None => CheckFinding::warn(
            name,
            "its window never opens again: a new revision would wait for ever\n\
             hint: write the hours and dates in which actions may begin",
        ),
        Some(at) if at <= now => CheckFinding::ok(name, "its window is open"),
        Some(at) => {
            let at = at.to_rfc3339_opts(SecondsFormat::Secs, true);
            CheckFinding::ok(name, format!("its window opens {at}"))
        }
    })
}

fn can_run(context: &Context, repo: &RepoEntry, key: &'static str, program: &str) -> CheckFinding {
    let env = scripts::environment_of(&context.node.user);
    let uid = context.node.user.uid;
    match safe_paths::program(context, program, &env, &repo.path, uid) {
        Ok(_) => {
            CheckFinding::ok(&repo.name, format!("{key} can run {}", program.escape_controls()))
        }
        Err(error) => CheckFinding::of(FindingLevel::Bad, &repo.name, &error.context(key)),
    }
}
