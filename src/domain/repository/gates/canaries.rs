//! What the machines that `canaries` names have of a revision. Knows no source of their rows.

use crate::domain::git::Commit;
use crate::domain::repository::gate::CanaryReport;
use crate::domain::repository::names::selected;
use crate::domain::repository::state::State;
use crate::domain::repository::status::StatusRow;

/// One machine that `canaries` names.
#[derive(Clone, Debug, PartialEq)]
pub struct CanaryMachine {
    /// Its name.
    pub name: String,
    /// Its row of the repository; `None`: it is silent, or does not have the repository.
    pub row: Option<StatusRow>,
}

impl CanaryReport {
    /// What the `machines` that match `patterns` have of `revision`. `contains` says whether its first argument is
    /// the second or a descendant of it.
    pub fn of(
        machines: &[CanaryMachine],
        patterns: &[String],
        revision: Commit,
        contains: &dyn Fn(Commit, Commit) -> bool,
    ) -> Self {
        let names: Vec<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        let mut report = Self::default();
        let mut chosen = Vec::new();
        for pattern in patterns {
            match selected(std::slice::from_ref(pattern), &names) {
                Ok(names) => chosen.extend(names),
                Err(pattern) => report.left_out.push((pattern, "not known".to_owned())),
            }
        }
        for machine in machines.iter().filter(|machine| chosen.contains(&machine.name)) {
            let name = machine.name.clone();
            match &machine.row {
                None => report.left_out.push((name, "silent".to_owned())),
                Some(row) if is_left_out(row.state) => {
                    report.left_out.push((name, row.state.to_string()));
                }
                Some(row) => {
                    let has = matches!(row.state, State::Current | State::Ahead)
                        && row.upstream.is_some_and(|upstream| contains(upstream, revision));
                    let at = row.head.or(row.acted.as_ref().map(|acted| acted.revision));
                    let at = at.map_or(String::new(), |at| format!(" at {}", at.short()));
                    match has {
                        true => report.with.push(name),
                        false => report.without.push((name, format!("{}{at}", row.state))),
                    }
                }
            }
        }
        report
    }
}

/// Whether a machine in this state says nothing about a revision.
fn is_left_out(state: State) -> bool {
    matches!(state, State::Held | State::Pinned | State::Inactive)
}
