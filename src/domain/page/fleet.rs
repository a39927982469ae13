//! The page of a fleet: how many machines are in which state, how each rollout advances, what needs a person, who holds
//! what, and who runs what.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::describe::{drifted, hold, revision};
use super::{
    PageKind, PageLinks, badge, bar, class, document, foreign, moment, reason, rollout, tally,
};
use crate::domain::fleet::{Fleet, JudgedMember, MatrixRow, Said, SignClock};
use crate::domain::report::presence::{PresenceHold, PresenceRow};
use crate::domain::repository::state::Tone;
use crate::domain::text::{counted, thousands};

/// The most machines in a table: the worst.
const MOST_MACHINES: usize = 1000;
/// The most repositories of one machine that are described.
const MOST_ROWS: usize = 20;
/// The most holds that are listed.
const MOST_HOLDS: usize = 500;
/// The most repositories whose revisions are listed, and the most rows of each.
const MOST_MATRICES: (usize, usize) = (100, 50);
/// The names that are visible in a list of machines, and the most that it has in all.
const MOST_NAMES: (usize, usize) = (12, 500);
/// With at most this many machines that are well, their table is open.
const FEW: usize = 10;

/// What the page of a fleet shows.
#[derive(Debug)]
pub struct FleetPage<'a> {
    /// The machines, as they were at the last look.
    pub fleet: &'a Fleet,
    /// The status repository, without credentials.
    pub remote: String,
    /// How many other branches it has.
    pub others: usize,
    /// Why there is nothing newer; `None`: the last look succeeded.
    pub failure: Option<FleetFailure<'a>>,
    /// The other pages; `None`: it is a file by itself.
    pub links: Option<PageLinks>,
    /// The present moment.
    pub now: DateTime<Utc>,
}

/// Why the fleet is shown as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FleetFailure<'a> {
    /// The status repository cannot be read.
    Fails {
        /// Since when.
        since: DateTime<Utc>,
        /// Why, as a sentence, perhaps with a hint.
        why: &'a str,
    },
    /// It was asked, and has not answered yet.
    NoAnswerYet,
}

/// The page.
pub fn html(page: &FleetPage) -> String {
    let FleetPage { fleet, now, .. } = page;
    let of_tones = |tones: &[Tone]| -> Vec<&JudgedMember> {
        fleet.machines.iter().filter(|machine| tones.contains(&machine.tone)).collect()
    };
    let bad = of_tones(&[Tone::Bad]);
    let is_unseen = fleet.machines.is_empty() && page.failure.is_some();
    let holds: Vec<_> = holds(fleet).collect();
    let content = html! {
        h1 { "Fleet" }
        p.lead {
            (foreign(&page.remote))
            @if !is_unseen {
                " · " (counted(fleet.machines.len(), "machine"))
                @if page.others > 0 { " · " (thousands(page.others)) " other branches" }
                " · seen " (moment(fleet.at, *now))
            }
        }
        (banner(page, is_unseen))
        @if is_unseen {} @else if fleet.machines.is_empty() {
            p { "No machine publishes there." }
        } @else {
            (states(fleet))
            section aria-labelledby="rollouts" {
                h2 #rollouts { "Rollouts" }
                (rollout::rollouts(fleet, *now))
            }
            section aria-labelledby="bad" {
                h2 #bad { "Machines to look at" }
                @if bad.is_empty() { p { "No machine needs a person." } } @else {
                    (machines(&bad, "Machines that need a person, the worst first", fleet.at, *now))
                }
            }
            @if !holds.is_empty() {
                section aria-labelledby="holds" {
                    h2 #holds { "Holds" }
                    (hold_table(&holds, *now))
                }
            }
            section aria-labelledby="who" {
                h2 #who { "Who runs what" }
                (matrices(fleet))
            }
            (folded("open", "Machines on their way", &of_tones(&[Tone::Open, Tone::Busy]), page))
            (folded("well", "Machines as they should be", &of_tones(&[Tone::Good, Tone::Dim]), page))
        }
    };
    let title = match is_unseen {
        true => "Fleet: not seen yet".to_owned(),
        false => {
            let machines = counted(fleet.machines.len(), "machine");
            format!("Fleet: {} of {machines} to look at", thousands(bad.len()))
        }
    };
    document(&title, PageKind::Fleet, page.links, *now, &content)
}

/// A section whose table is open where it is short.
fn folded(id: &str, title: &str, all: &[&JudgedMember], page: &FleetPage) -> Markup {
    html! {
        @if !all.is_empty() {
            section aria-labelledby=(id) {
                h2 id=(id) { (title) }
                details open[all.len() <= FEW] {
                    summary { (counted(all.len(), "machine")) }
                    (machines(all, title, page.fleet.at, page.now))
                }
            }
        }
    }
}

fn banner(page: &FleetPage, is_unseen: bool) -> Markup {
    let now = page.now;
    let shown = html! {
        @if is_unseen { " Nothing was seen of it yet." } @else {
            " Shown is what was seen " (moment(page.fleet.at, now)) "."
        }
    };
    html! {
        @match page.failure {
            None => {},
            Some(FleetFailure::NoAnswerYet) => p.banner.open {
                "The status repository has not answered yet." (shown)
            },
            Some(FleetFailure::Fails { since, why }) => div.banner.bad {
                "The status repository cannot be read since " (moment(since, now)) ": " (reason(why))
                div { (shown) }
            },
        }
    }
}

/// How many machines are in which state, in words and as a bar.
fn states(fleet: &Fleet) -> Markup {
    let counts: Vec<(String, usize, Tone)> = fleet
        .by_verdict()
        .iter()
        .map(|(verdict, group)| {
            let tone = group.iter().map(|machine| machine.tone).min().unwrap_or(Tone::Dim);
            (verdict.as_str().to_owned(), group.len(), tone)
        })
        .collect();
    let shares: Vec<(usize, &str)> =
        counts.iter().map(|(_, count, tone)| (*count, class(*tone))).collect();
    let text: Vec<String> =
        counts.iter().map(|(word, count, _)| format!("{} {word}", thousands(*count))).collect();
    html! {
        (tally(&counts))
        (bar(&shares, &format!("Machines by state: {}", text.join(", "))))
    }
}

fn machines(
    all: &[&JudgedMember],
    caption: &str,
    seen: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Markup {
    let left_out = all.len().saturating_sub(MOST_MACHINES);
    html! {
        table {
            caption { (caption) }
            thead { tr { th scope="col" { "Machine" } th scope="col" { "State" } th scope="col" { "Repositories" } } }
            tbody {
                @for machine in all.iter().take(MOST_MACHINES) { (machine_row(machine, seen, now)) }
            }
        }
        @if left_out > 0 { p { "And " (thousands(left_out)) " more: agent fleet -v" } }
    }
}

/// `seen`: the moment of the look, at which the states count.
fn machine_row(machine: &JudgedMember, seen: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let presence = machine.member.presence();
    html! {
        tr {
            th scope="row" {
                (foreign(&machine.member.name.short()))
                @if let Some(presence) = presence {
                    @for word in presence.part.iter().chain(&presence.stack) {
                        " " span.small { (foreign(word)) }
                    }
                    div.small { "agent " (foreign(&presence.agent)) }
                }
            }
            td {
                (badge(machine.verdict.as_str(), machine.tone))
                @if let Some(presence) = presence {
                    div.small { "published " (moment(presence.at, now)) }
                }
            }
            td { (about(machine, seen, now)) }
        }
    }
}

/// What a person should know of a machine.
fn about(machine: &JudgedMember, seen: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let contested = machine.member.presence().and_then(|presence| {
        let name = machine.member.name.short();
        Some(presence.contested.as_ref()?.sentence(&presence.id, &name))
    });
    // Of a machine that is not well, only what is not.
    let is_listed = |row: &&PresenceRow| {
        let is_well = matches!(row.tone(seen), Tone::Good | Tone::Dim) && row.drifted == 0;
        !is_well || matches!(machine.tone, Tone::Good | Tone::Dim)
    };
    let listed: Vec<&PresenceRow> = machine.rows.iter().filter(is_listed).collect();
    let left_out = listed.len().saturating_sub(MOST_ROWS);
    html! {
        @if let Said::Unreadable(why) = &machine.member.sighting.said { div { "unreadable: " (foreign(why)) } }
        @if let Some(why) = contested { div { (reason(&why)) } }
        @if let Some(silence) = machine.silence {
            div {
                "no sign since " (moment(silence.since, now))
                @if silence.clock == SignClock::Machine { ", by its own clock" }
            }
        }
        @for row in listed.into_iter().take(MOST_ROWS) { (repository(row, seen, now)) }
        @if left_out > 0 { div { "and " (thousands(left_out)) " more repositories" } }
    }
}

fn repository(row: &PresenceRow, seen: DateTime<Utc>, now: DateTime<Utc>) -> Markup {
    let acted = row.acted.as_ref();
    let wanted = row.upstream.filter(|tip| acted.is_none_or(|acted| acted.revision != *tip));
    let tone = row.tone(seen);
    let gate = row.gate_wait().map(|gate| gate.sentence());
    html! {
        div.row {
            b { (foreign(&row.name)) } " " (badge(row.state.as_str(), tone))
            @if let Some(since) = row.since { " " span.small { "since " (moment(since, now)) } }
            div {
                @match acted {
                    Some(acted) => (revision(acted.revision, acted.tag.as_deref(), acted.subject.as_deref())),
                    None => "nothing was applied yet",
                }
                @if let Some(tip) = wanted { "; upstream is at " code { (tip.short()) } }
            }
            @match (gate, &row.reason) {
                (Some(gate), _) => div { (reason(&gate)) },
                (None, Some(why)) if row.holds.is_empty() => div { (reason(why)) },
                _ => {},
            }
            @for it in row.holds.iter().take(MOST_ROWS) { (hold(&it.by, &it.reason, it.since, it.until, now)) }
            (drifted(row.drifted))
        }
    }
}

/// All holds, with their machine and repository.
fn holds(fleet: &Fleet) -> impl Iterator<Item = (&JudgedMember, &PresenceRow, &PresenceHold)> {
    fleet.machines.iter().flat_map(|machine| {
        let rows = machine.rows.iter();
        rows.flat_map(move |row| row.holds.iter().map(move |hold| (machine, row, hold)))
    })
}

fn hold_table(
    holds: &[(&JudgedMember, &PresenceRow, &PresenceHold)],
    now: DateTime<Utc>,
) -> Markup {
    let left_out = holds.len().saturating_sub(MOST_HOLDS);
    html! {
        table.holds {
            caption { "Who keeps which repository where it is" }
            thead { tr { th scope="col" { "Machine and repository" } th scope="col" { "By" } th scope="col" { "Why, and until when" } } }
            tbody {
                @for (machine, row, hold) in holds.iter().take(MOST_HOLDS) {
                    tr {
                        th scope="row" { (foreign(&machine.member.name.short())) " " (foreign(&row.name)) }
                        td { (foreign(&hold.by)) }
                        td {
                            (foreign(&hold.reason))
                            div.small {
                                "since " (moment(hold.since, now))
                                @match hold.until {
                                    Some(until) => { "; ends " (moment(until, now)) },
                                    None => "; until somebody lifts it",
                                }
                            }
                        }
                    }
                }
            }
        }
        @if left_out > 0 { p { "And " (thousands(left_out)) " more." } }
    }
}

/// For each repository the machines by revision and state.
fn matrices(fleet: &Fleet) -> Markup {
    let matrix = fleet.matrix();
    let left_out = matrix.len().saturating_sub(MOST_MATRICES.0);
    html! {
        @for (repository, rows) in matrix.iter().take(MOST_MATRICES.0) {
            @let more = rows.len().saturating_sub(MOST_MATRICES.1);
            table.matrix {
                caption { (foreign(repository)) }
                thead { tr { th scope="col" { "Revision" } th scope="col" { "State" } th scope="col" { "Machines" } } }
                tbody {
                    @for row in rows.iter().take(MOST_MATRICES.1) { (matrix_row(fleet, repository, row)) }
                }
            }
            @if more > 0 { p { "And " (thousands(more)) " other revisions and states." } }
        }
        @if left_out > 0 { p { "And " (thousands(left_out)) " more repositories." } }
        @if matrix.is_empty() { p { "No machine has a repository." } }
    }
}

fn matrix_row(fleet: &Fleet, repository: &str, row: &MatrixRow) -> Markup {
    let tones = row.machines.iter().flat_map(|machine| &machine.rows);
    let tones = tones.filter(|it| it.name == repository && it.state == *row.state);
    let tone = tones.map(|it| it.tone(fleet.at)).min().unwrap_or(Tone::Dim);
    html! {
        tr {
            th scope="row" {
                @match row.revision {
                    Some(id) => (revision(id, None, fleet.subject(repository, id))),
                    None => "none yet",
                }
            }
            td { (badge(row.state.as_str(), tone)) }
            td { b { (thousands(row.machines.len())) } " " (names(&row.machines)) }
        }
    }
}

/// The names of machines; many of them behind a summary.
fn names(machines: &[&JudgedMember]) -> Markup {
    let (visible, most) = MOST_NAMES;
    let list = |some: &[&JudgedMember]| {
        html! { @for machine in some { (foreign(&machine.member.name.short())) " " } }
    };
    let (shown, hidden) = machines.split_at(visible.min(machines.len()));
    let (hidden, left_out) = hidden.split_at(hidden.len().min(most - visible));
    html! {
        span.names { (list(shown)) }
        @if !hidden.is_empty() {
            details {
                summary { "and " (thousands(hidden.len() + left_out.len())) " more" }
                span.names { (list(hidden)) }
                @if !left_out.is_empty() { "and " (thousands(left_out.len())) " that are not listed" }
            }
        }
    }
}
