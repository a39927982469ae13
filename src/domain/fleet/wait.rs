//! Waits until machines run a revision: where each of them is on its way, and when waiting is over. Knows no remote.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};

use super::{Fleet, JudgedMember, Verdict};
use crate::domain::git::Commit;
use crate::domain::report::presence::PresenceRow;
use crate::domain::repository::state::State;
use crate::domain::text::EscapeControls;

/// What somebody waits for.
#[derive(Clone, Debug)]
pub struct WaitGoal {
    /// The name of the repository.
    pub repo: String,
    /// The revision that the machines are to run; a descendant will do.
    pub revision: Commit,
    /// How long they have to run it, as they should.
    pub stable: Duration,
    /// Machines that may be left out.
    pub ignored: BTreeSet<Absence>,
}

/// Why a machine may not come to the revision for a long time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Absence {
    /// A person holds or pins it.
    Held,
    /// It gives no sign.
    Silent,
}

impl Absence {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Held, Self::Silent];

    /// The word of `--ignore`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Silent => "silent",
        }
    }
}

/// Where a machine is on its way to the revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It ran the revision for as long as it has to.
    Done,
    /// It runs the revision, and has to for this time more.
    Settling(Duration),
    /// It does not run the revision yet; why.
    OnTheWay(String),
    /// Somebody or something keeps it.
    Absent(Absence, String),
    /// It will not run the revision; why.
    Failed(String),
}

/// What waiting has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WaitOutcome {
    /// All machines ran the revision for long enough; how many, and which were left out.
    Reached(usize, Vec<String>),
    /// Some machines are on their way.
    Pending {
        /// How many ran the revision for long enough.
        done: usize,
        /// The others, each with the reason.
        waiting: Vec<(String, String)>,
    },
    /// It never will be, or a person has to decide; why, a line for each machine.
    Over(Vec<String>),
}

/// What waiting for `goal` has come to among the machines of `fleet`. `includes` tells whether a revision is the
/// wanted one or one of its descendants.
pub fn outcome(fleet: &Fleet, goal: &WaitGoal, includes: &dyn Fn(Commit) -> bool) -> WaitOutcome {
    let (mut done, mut waiting, mut over, mut left_out) = (0, Vec::new(), Vec::new(), Vec::new());
    for machine in &fleet.machines {
        let name = machine.member.name.short();
        match progress(machine, goal, includes, fleet.at) {
            Progress::Done => done += 1,
            Progress::Settling(left) => {
                let minutes = (left.num_seconds() + 59) / 60;
                waiting.push((name, format!("there, {minutes} min to go")));
            }
            Progress::OnTheWay(why) => waiting.push((name, why)),
            Progress::Absent(absence, _) if goal.ignored.contains(&absence) => left_out.push(name),
            Progress::Absent(absence, why) => {
                over.push(format!("{name}: {why} (--ignore {} leaves it out)", absence.as_str()));
            }
            Progress::Failed(why) => over.push(format!("{name}: {why}")),
        }
    }
    if !over.is_empty() {
        return WaitOutcome::Over(over);
    }
    match (done, waiting.is_empty()) {
        (0, true) if left_out.is_empty() => {
            WaitOutcome::Over(vec!["no machine has this repository".to_owned()])
        }
        (0, true) => {
            WaitOutcome::Over(vec![format!("every machine was left out: {}", left_out.join(", "))])
        }
        (done, true) => WaitOutcome::Reached(done, left_out),
        (done, false) => WaitOutcome::Pending { done, waiting },
    }
}

/// Where `machine` is on its way to `goal` at `now`.
fn progress(
    machine: &JudgedMember,
    goal: &WaitGoal,
    includes: &dyn Fn(Commit) -> bool,
    now: DateTime<Utc>,
) -> Progress {
    match machine.verdict {
        Verdict::Contested => {
            return Progress::Failed("two machines publish under this name".to_owned());
        }
        Verdict::Unreadable => {
            return Progress::Failed("what it published cannot be read".to_owned());
        }
        Verdict::Silent => {
            let since = machine.silence.map_or(now, |silence| silence.since);
            let why = format!("silent since {}", since.format("%Y-%m-%d %H:%M UTC"));
            return Progress::Absent(Absence::Silent, why);
        }
        Verdict::In(_) | Verdict::Unknown | Verdict::Empty => {}
    }
    let Some(row) = machine.rows.iter().find(|row| row.name == goal.repo) else {
        return Progress::Failed(format!("no longer has {}", goal.repo));
    };
    let runs_it = row.acted.as_ref().is_some_and(|acted| includes(acted.revision));
    // A failure at an older revision is what the wanted one may mend.
    let knows_it = row.upstream.is_some_and(includes) || row.bad.is_some_and(includes);
    let said = || {
        match &row.reason {
            Some(reason) => format!("{}: {}", row.state.as_str(), first_line(reason)),
            None => row.state.as_str().to_owned(),
        }
        .escape_controls()
    };
    match row.state.known() {
        Some(State::Held | State::Pinned) => Progress::Absent(Absence::Held, said()),
        Some(State::Failing | State::Refused | State::RolledBack) if runs_it || knows_it => {
            Progress::Failed(said())
        }
        Some(State::Current | State::Ahead) if runs_it => {
            match goal.stable - steady(machine, row, now) {
                left if left > Duration::zero() => Progress::Settling(left),
                _ => Progress::Done,
            }
        }
        _ => Progress::OnTheWay(said()),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// For how long the machine has run its revision, in its present state: until its publication by its own clock, from
/// then on by the reader's. A wrong clock on the one or the other changes nothing.
fn steady(machine: &JudgedMember, row: &PresenceRow, now: DateTime<Utc>) -> Duration {
    let Some(presence) = machine.member.presence() else { return Duration::zero() };
    let began = row.acted.as_ref().and_then(|acted| acted.at).max(row.since);
    let before = began.map_or(Duration::zero(), |began| presence.at - began);
    let sighting = &machine.member.sighting;
    let after = now - sighting.moved.unwrap_or(sighting.first_seen);
    before.max(Duration::zero()) + after.max(Duration::zero())
}
