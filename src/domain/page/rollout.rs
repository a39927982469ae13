//! How the wanted revision of each repository advances through a fleet: how many machines run it, what the others do,
//! and when each began.

use chrono::{DateTime, Duration, Utc};
use maud::{Markup, html};

use super::describe::revision;
use super::{bar, foreign, machine_time, moment};
use crate::domain::fleet::{Fleet, JudgedMember, Verdict};
use crate::domain::git::Commit;
use crate::domain::report::presence::PresenceRow;
use crate::domain::repository::state::{State, Tone};
use crate::domain::text::{counted, thousands, utc_minute};

/// The most repositories that are shown: those that are not everywhere come first.
const MOST_ROLLOUTS: usize = 50;
/// Who began before this does not tell how a revision advances: its clock was wrong, or it went back.
const LONGEST: Duration = Duration::days(7);
/// The fewest machines that make a curve.
const FEWEST: usize = 4;

/// How far a revision is.
#[derive(Debug, PartialEq)]
pub(super) struct RolloutCount {
    /// Machines that run it, and are well.
    pub with: usize,
    /// Machines that do not run it yet, for a reason that may pass.
    pub open: usize,
    /// Machines that somebody holds.
    pub held: usize,
    /// Machines that need a person.
    pub bad: usize,
    /// Machines that gave no sign for too long.
    pub silent: usize,
    /// When the machines that run it began, in order.
    pub begun: Vec<DateTime<Utc>>,
}

impl RolloutCount {
    fn of(fleet: &Fleet, followed: RepoBranch, wanted: Commit) -> Self {
        let mut count = Self { with: 0, open: 0, held: 0, bad: 0, silent: 0, begun: Vec::new() };
        for (machine, row) in rows(fleet, followed) {
            let runs_it = row.acted.as_ref().filter(|acted| acted.revision == wanted);
            match row.state.known() {
                _ if machine.verdict == Verdict::Silent => count.silent += 1,
                _ if row.tone(fleet.at) == Tone::Bad => count.bad += 1,
                _ if runs_it.is_some() => count.with += 1,
                Some(State::Held | State::Pinned) => count.held += 1,
                _ => count.open += 1,
            }
            count.begun.extend(runs_it.and_then(|acted| acted.at));
        }
        count.begun.sort_unstable();
        count
    }

    fn all(&self) -> usize {
        self.with + self.open + self.held + self.bad + self.silent
    }

    fn is_done(&self) -> bool {
        self.with == self.all()
    }

    /// All of it in words.
    fn sentence(&self) -> String {
        let others = [
            (self.open, "to come"),
            (self.held, "held"),
            (self.bad, "in need of a person"),
            (self.silent, "silent"),
        ];
        let others: Vec<String> = others
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", thousands(*count)))
            .collect();
        let with = format!("{} of {}", thousands(self.with), counted(self.all(), "machine"));
        let run = if self.all() == 1 { "runs" } else { "run" };
        match others.as_slice() {
            [] => format!("{with} {run} it"),
            others => format!("{with} {run} it; {}", others.join(", ")),
        }
    }
}

/// A repository, and the branch of it that machines follow.
type RepoBranch<'a> = (&'a str, Option<&'a str>);

fn rows<'a>(
    fleet: &'a Fleet,
    (repository, branch): RepoBranch<'a>,
) -> impl Iterator<Item = (&'a JudgedMember, &'a PresenceRow)> {
    let row_of = move |machine: &'a JudgedMember| {
        let is_meant =
            |row: &&PresenceRow| row.name == repository && row.branch.as_deref() == branch;
        let row = machine.rows.iter().find(is_meant)?;
        Some((machine, row))
    };
    fleet.machines.iter().filter_map(row_of)
}

/// Each repository, for each branch that is followed, with the revision that it should run.
pub(super) fn rollouts(fleet: &Fleet, now: DateTime<Utc>) -> Markup {
    let mut all: Vec<_> = fleet
        .wanted()
        .into_iter()
        .map(|(followed, wanted)| {
            (followed, wanted.revision, RolloutCount::of(fleet, followed, wanted.revision))
        })
        .collect();
    all.sort_by_key(|(followed, _, count)| (count.is_done(), *followed));
    let left_out = all.len().saturating_sub(MOST_ROLLOUTS);
    html! {
        @for (followed, wanted, count) in all.iter().take(MOST_ROLLOUTS) {
            (rollout(fleet, *followed, *wanted, count, now))
        }
        @if left_out > 0 { p { "And " (thousands(left_out)) " more." } }
        @if all.is_empty() { p { "No machine says yet what it should run." } }
    }
}

fn rollout(
    fleet: &Fleet,
    (repository, branch): RepoBranch,
    wanted: Commit,
    count: &RolloutCount,
    now: DateTime<Utc>,
) -> Markup {
    let sentence = count.sentence();
    let shares = [
        (count.with, "good"),
        (count.open, "open"),
        (count.held, "held"),
        (count.bad, "bad"),
        (count.silent, "dim"),
    ];
    html! {
        div.rollout {
            h3 { (foreign(repository)) }
            p {
                @if let Some(branch) = branch { (foreign(branch)) " is " }
                (revision(wanted, None, fleet.subject(repository, wanted)))
            }
            (bar(&shares, &sentence))
            p {
                (sentence) "."
                @if let (Some(first), Some(last)) = (count.begun.first(), count.begun.last()) {
                    " " span.small { "First " (moment(*first, now)) ", last " (moment(*last, now)) "." }
                }
            }
            @if count.open > 0 { (curve(&count.begun, count.all(), now)) }
        }
    }
}

/// How many machines ran it at each moment since the first one began.
fn curve(begun: &[DateTime<Utc>], all: usize, now: DateTime<Utc>) -> Markup {
    let recent: Vec<DateTime<Utc>> =
        begun.iter().map(|at| (*at).clamp(now - LONGEST, now)).collect();
    let Some(first) = recent.first().filter(|_| recent.len() >= FEWEST) else { return html! {} };
    let length = (now - *first).num_seconds().max(1) as f64;
    let place = |at: DateTime<Utc>| 1000.0 * (at - *first).num_seconds() as f64 / length;
    let level = |count: usize| 100.0 - 100.0 * count as f64 / all as f64;
    let mut path = "M0 100".to_owned();
    for (before, at) in recent.iter().enumerate() {
        path += &format!(" H{:.1} V{:.1}", place(*at), level(before + 1));
    }
    path += " H1000";
    let area = format!("{path} V100 Z");
    let text = format!("{} since {}", counted(recent.len(), "machine"), utc_minute(*first));
    html! {
        figure.curve {
            svg role="img" aria-label=(text) width="100%" height="64" viewBox="0 0 1000 100" preserveAspectRatio="none" {
                path.area d=(area) {}
                path.step d=(path) vector-effect="non-scaling-stroke" {}
            }
            figcaption {
                span { time datetime=(machine_time(*first)) { (utc_minute(*first)) } }
                span { "machines that run it, of " (thousands(all)) }
                span { "now" }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::page::tests::{NEW, OLD, fleet_of, machine, now, with};

    #[test]
    fn a_rollout_counts_who_runs_it_and_why_the_others_do_not() {
        let fleet = fleet_of(vec![
            machine("web01", State::Current, NEW),
            machine("web02", State::Ahead, NEW),
            machine("web03", State::Behind, OLD),
            machine("web04", State::Held, OLD),
            machine("web05", State::Failing, OLD),
            with(machine("web06", State::Current, NEW), |it| it.at = now() - Duration::days(3)),
        ]);
        let count = RolloutCount::of(&fleet, ("ops", Some("main")), NEW.parse().unwrap());
        let found = (count.with, count.open, count.held, count.bad, count.silent);
        assert_eq!((found, count.begun.len()), ((2, 1, 1, 1, 1), 3));
        assert_eq!(
            count.sentence(),
            "2 of 6 machines run it; 1 to come, 1 held, 1 in need of a person, 1 silent"
        );
        assert!(!count.is_done());
    }

    #[test]
    fn a_curve_begins_with_the_first_machine_and_ends_now() {
        let hours = [5, 4, 2, 1].map(|hours| now() - Duration::hours(hours));
        let text = curve(&hours, 8, now()).into_string();
        assert!(
            text.contains("d=\"M0 100 H0.0 V87.5 H200.0 V75.0 H600.0 V62.5 H800.0 V50.0 H1000\""),
            "{text}"
        );
        assert_eq!(curve(&hours[..3], 8, now()).into_string(), "", "three are no curve");
        // A clock that is years off does not press the others together.
        let off = [now() - Duration::days(9000), hours[0], hours[1], now() + Duration::days(9)];
        let text = curve(&off, 8, now()).into_string();
        assert!(text.contains("H970.2") && text.contains("H1000.0 V50.0 H1000\""), "{text}");
    }
}
