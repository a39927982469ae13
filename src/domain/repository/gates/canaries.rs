//! What the machines that `canaries` names have of a revision. Knows no source of their rows.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::git::Commit;
use crate::domain::report::presence::PresenceRow;
use crate::domain::repository::gate::{CanaryReport, GateAnswer};
use crate::domain::repository::names::{is_pattern, selected};
use crate::domain::repository::state::State;
use crate::domain::text::EscapeControls;

/// One machine that `canaries` may name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CanaryMachine {
    /// Its name.
    pub name: String,
    /// Its repositories; the error is why they say nothing, such as `silent`.
    pub rows: Result<Vec<PresenceRow>, String>,
}

/// What is asked of the canaries.
#[derive(Clone, Copy, Debug)]
pub struct CanaryQuestion<'a> {
    /// `canaries`: names and patterns.
    pub patterns: &'a [String],
    /// The name of the repository.
    pub repo: &'a str,
    /// The revision that they should have.
    pub revision: Commit,
}

/// The longest beginning that the names selected by `pattern` have in common; the whole name where it is no pattern.
pub fn beginning(pattern: &str) -> String {
    match is_pattern(pattern) {
        true => pattern.chars().take_while(|it| !"*?[{\\".contains(*it)).collect(),
        false => format!("{pattern}/"),
    }
}

/// Whether `patterns` name the machine `name`.
pub fn names(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| selected(std::slice::from_ref(pattern), &[name]).is_ok())
}

impl CanaryReport {
    /// What those of `machines` that are asked have of the revision. `contains` says whether its first argument is the
    /// second or a descendant of it.
    pub fn of(
        machines: &[CanaryMachine],
        question: CanaryQuestion,
        contains: &dyn Fn(Commit, Commit) -> bool,
    ) -> Self {
        let CanaryQuestion { patterns, repo, revision } = question;
        let known: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        let mut report = Self::default();
        let mut chosen = Vec::new();
        for pattern in patterns {
            match selected(std::slice::from_ref(pattern), &known) {
                Ok(names) => chosen.extend(names),
                Err(pattern) => report.left_out.push((pattern, "not known".to_owned())),
            }
        }
        for machine in machines.iter().filter(|machine| chosen.contains(&machine.name)) {
            let name = machine.name.clone();
            let rows = match &machine.rows {
                Ok(rows) => rows,
                Err(why) => {
                    report.left_out.push((name, why.clone()));
                    continue;
                }
            };
            let Some(row) = rows.iter().find(|row| row.name == repo) else {
                report.left_out.push((name, format!("has no {repo}")));
                continue;
            };
            let word = row.state.as_str().escape_controls();
            if row.state.known().is_some_and(is_left_out) {
                report.left_out.push((name, word));
                continue;
            }
            let is_well = matches!(row.state.known(), Some(State::Current | State::Ahead));
            if is_well && row.upstream.is_some_and(|upstream| contains(upstream, revision)) {
                report.with.push(name);
                continue;
            }
            let at = row.acted.as_ref().map(|acted| format!(" at {}", acted.revision.short()));
            report.without.push((name, word + &at.unwrap_or_default()));
        }
        report
    }

    /// That the canaries cannot be read because of `why`, as seen at `now`; `before` is what was seen before.
    pub fn unread(why: &str, before: Option<&Self>, now: DateTime<Utc>) -> Self {
        let unreadable_since = before.and_then(|it| it.unreadable_since).unwrap_or(now);
        let before = before.cloned().unwrap_or_default();
        Self {
            unreadable: Some(why.to_owned()),
            unreadable_since: Some(unreadable_since),
            ..before
        }
    }

    /// This report after `before`, about the same revision: since when every canary has it.
    pub fn after(self, before: Option<&Self>, now: DateTime<Utc>) -> Self {
        let since = before.and_then(|before| before.satisfied_since);
        let is_open = matches!(self.answer(), GateAnswer::Open(_));
        Self { satisfied_since: is_open.then(|| since.unwrap_or(now)), ..self }
    }
}

/// Whether a machine in this state says nothing about a revision.
fn is_left_out(state: State) -> bool {
    matches!(state, State::Held | State::Pinned | State::Inactive)
}
