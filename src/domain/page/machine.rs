//! The page of one machine: its repositories, the worst first, a time line of the last day, and the last actions.

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::describe::{drifted, hold, outcome_tone, outcome_word, revision};
use super::{
    PageKind, PageLinks, badge, class, document, foreign, moment, reason, tally, timeline,
};
use crate::domain::repository::action::{FinishedRun, Outcome};
use crate::domain::repository::history::{HistoryEntry, PersonAct};
use crate::domain::repository::state::{State, Tone};
use crate::domain::repository::status::{MachineStatus, PresenceReport, PublishedRef, StatusRow};
use crate::domain::text::{counted, seconds, span, thousands, utc_minute};

/// The most actions that are listed.
const MOST_ACTIONS: usize = 40;
/// The most published refs of a repository that are listed.
const MOST_REFS: usize = 50;
/// The most repositories that are listed.
const MOST_REPOSITORIES: usize = 1000;

/// What the page of a machine shows.
#[derive(Debug)]
pub struct MachinePage<'a> {
    /// By which it is known.
    pub name: &'a str,
    /// Its status.
    pub status: &'a MachineStatus,
    /// The history of each repository, oldest first, or why it cannot be read.
    pub histories: &'a [(String, Result<Vec<HistoryEntry>, String>)],
    /// The other pages.
    pub links: PageLinks,
    /// The present moment.
    pub now: DateTime<Utc>,
}

/// The page.
pub fn html(page: &MachinePage) -> String {
    let MachinePage { name, status, now, .. } = page;
    let mut rows: Vec<&StatusRow> = status.repositories.iter().collect();
    rows.sort_by_key(|row| (row.tone(*now), row.state, &row.name));
    let content = html! {
        h1 { (foreign(name)) }
        p.lead { (lead(status, *now)) }
        (banners(status, *now))
        section aria-labelledby="repositories" {
            h2 #repositories { "Repositories" }
            @if rows.is_empty() {
                p { "There is no repository." }
            } @else {
                (tally(&counts(&rows, *now)))
                (repositories(&rows, *now))
            }
        }
        section aria-labelledby="day" {
            h2 #day { "The last day" }
            (timeline::figure(page.histories, *now))
        }
        section aria-labelledby="actions" {
            h2 #actions { "Last actions" }
            (actions(page))
        }
    };
    let title = format!("{name}: {}", summary(&rows, *now));
    document(&title, PageKind::Machine, Some(page.links), *now, &content)
}

/// The worst state, for the title.
fn summary(rows: &[&StatusRow], now: DateTime<Utc>) -> String {
    match rows.iter().filter(|row| row.tone(now) == Tone::Bad).count() {
        0 => "no repository needs a person".to_owned(),
        1 => "1 repository needs a person".to_owned(),
        many => format!("{many} repositories need a person"),
    }
}

fn lead(status: &MachineStatus, now: DateTime<Utc>) -> Markup {
    let words = [("part", &status.part), ("stack", &status.stack)];
    html! {
        (match status.repositories.len() {
            1 => "1 repository".to_owned(),
            many => format!("{} repositories", thousands(many)),
        })
        @for (key, value) in words {
            @if let Some(value) = value { " · " (key) " " (foreign(value)) }
        }
        " · agent " (foreign(&status.agent))
        @if let Some(last) = status.last_tick { " · last tick " (moment(last, now)) }
    }
}

/// What concerns the whole machine and needs a person.
fn banners(status: &MachineStatus, now: DateTime<Utc>) -> Markup {
    let silence = match status.last_tick {
        None => Some("No tick has ended here yet.".to_owned()),
        Some(last) if !status.ticks() => Some(format!("No tick for {}.", span(now - last))),
        Some(_) => None,
    };
    html! {
        @if let Some(silence) = silence { p.banner.bad { (silence) } }
        @if let Some(why) = &status.configuration {
            div.banner.bad { "The configuration is not used: " (reason(why)) }
        }
        @if let Some(report) = &status.presence { (presence(report, now)) }
    }
}

fn presence(report: &PresenceReport, now: DateTime<Utc>) -> Markup {
    let why = report.reason.as_deref();
    html! {
        @match (report.failing_since, report.published) {
            (Some(since), _) => div.banner.open {
                "Presence is not published since " (moment(since, now))
                @if let Some(why) = why { ": " (reason(why)) }
            },
            (None, Some(at)) => p.small { "Presence was published " (moment(at, now)) "." },
            (None, None) => p.small { "Presence was not published yet." },
        }
    }
}

fn counts(rows: &[&StatusRow], now: DateTime<Utc>) -> Vec<(String, usize, Tone)> {
    let mut counts: Vec<(String, usize, Tone)> = Vec::new();
    for row in rows {
        let (word, tone) = (row.state.as_str(), row.tone(now));
        match counts.iter_mut().find(|(known, ..)| known == word) {
            Some((_, count, worst)) => (*count, *worst) = (*count + 1, tone.min(*worst)),
            None => counts.push((word.to_owned(), 1, tone)),
        }
    }
    counts
}

fn repositories(rows: &[&StatusRow], now: DateTime<Utc>) -> Markup {
    let left_out = rows.len().saturating_sub(MOST_REPOSITORIES);
    html! {
        table {
            caption { "Each repository, the worst first" }
            thead { tr { th scope="col" { "Repository" } th scope="col" { "State" } th scope="col" { "Revision, and why" } } }
            tbody {
                @for row in rows.iter().take(MOST_REPOSITORIES) {
                    tr {
                        th scope="row" {
                            (foreign(&row.name))
                            @if let Some(what) = row.tag.as_deref().or(row.branch.as_deref()) {
                                div.small { (foreign(what)) }
                            }
                        }
                        td {
                            (badge(&row.shown_state(), row.tone(now)))
                            div.small { "since " (moment(row.since, now)) }
                        }
                        td { (details(row, now)) }
                    }
                }
            }
        }
        @if left_out > 0 { p { "And " (left_out) " more, which are better off: agent status" } }
    }
}

fn details(row: &StatusRow, now: DateTime<Utc>) -> Markup {
    let acted = row.acted.as_ref();
    let wanted = row.upstream.filter(|tip| acted.is_none_or(|acted| acted.revision != *tip));
    let is_held = matches!(row.state, State::Held | State::Pinned) && !row.holds.is_empty();
    let gate = row
        .gate
        .as_ref()
        .map(|gate| gate.sentence().replace("tick REPO", &format!("tick {}", row.name)));
    let why = row.reason.as_deref().filter(|_| !is_held && gate.is_none());
    html! {
        @match acted {
            Some(acted) => div {
                (revision(acted.revision, acted.tag.as_deref(), acted.subject.as_deref()))
                @if let Some(at) = acted.at { " " span.small { (moment(at, now)) } }
            },
            None => div { "nothing was applied yet" },
        }
        @if let Some(tip) = wanted { div { "upstream is at " code { (tip.short()) } } }
        @if let Some(gate) = &gate { div { (reason(gate)) } }
        @if let Some(why) = why { div { (reason(why)) } }
        @if row.attempt > 0 {
            div {
                "attempt " (row.attempt)
                @match row.next_try.filter(|next| *next > now) {
                    Some(next) => { ", next try " (moment(next, now)) },
                    None => ", next try at the next tick",
                }
            }
        }
        @for it in &row.holds { (hold(&it.by, &it.reason, it.since, it.until, now)) }
        (drifted(row.drifted.as_ref().map_or(0, |found| found.files)))
        @if !row.published.is_empty() { (refs(&row.published)) }
    }
}

/// The branches and tags at their targets, those that need somebody first.
fn refs(published: &[PublishedRef]) -> Markup {
    let mut sorted: Vec<&PublishedRef> = published.iter().collect();
    sorted.sort_by_key(|entry| (entry.state.tone(), entry.state, &entry.name));
    let left_out = sorted.len().saturating_sub(MOST_REFS);
    html! {
        details {
            summary { (counted(published.len(), "published ref")) }
            ul {
                @for entry in sorted.into_iter().take(MOST_REFS) {
                    li {
                        (foreign(&entry.name)) " " (badge(entry.state.as_str(), entry.state.tone()))
                        @if let Some(revision) = entry.revision { " " code { (revision.short()) } }
                        @if let Some(why) = &entry.reason { ": " (reason(why)) }
                    }
                }
                @if left_out > 0 { li { "and " (left_out) " more" } }
            }
        }
    }
}

/// The newest entries of all histories.
fn actions(page: &MachinePage) -> Markup {
    let now = page.now;
    let mut entries: Vec<(&str, &HistoryEntry)> = page
        .histories
        .iter()
        .filter_map(|(name, found)| Some((name.as_str(), found.as_ref().ok()?)))
        .flat_map(|(name, all)| all.iter().rev().take(MOST_ACTIONS).map(move |it| (name, it)))
        .collect();
    entries.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.at()));
    entries.truncate(MOST_ACTIONS);
    let unread =
        page.histories.iter().filter_map(|(name, found)| Some((name, found.as_ref().err()?)));
    html! {
        @if entries.is_empty() {
            p { "Nothing was applied yet." }
        } @else {
            table.history {
                caption { "What was done here, the newest first" }
                thead { tr { th scope="col" { "When" } th scope="col" { "What" } th scope="col" { "Outcome" } } }
                tbody {
                    @for (name, entry) in entries {
                        tr {
                            td { (moment(entry.at(), now)) }
                            td { (action(name, entry)) }
                            td { (outcome(entry, now)) }
                        }
                    }
                }
            }
        }
        @for (name, why) in unread {
            p.banner.open { "The history of " (foreign(name)) " cannot be read: " (reason(why)) }
        }
    }
}

fn action(name: &str, entry: &HistoryEntry) -> Markup {
    html! {
        b { (foreign(name)) } " "
        @match entry {
            HistoryEntry::Run(run) => {
                @if let Some(name) = &run.reference { (foreign(name)) " " }
                (revision(run.revision, run.tag.as_deref(), Some(&run.subject)))
            },
            HistoryEntry::Act(act) => {
                (act.act.as_str())
                @if let Some(revision) = act.revision { " " code { (revision.short()) } }
            },
        }
    }
}

fn outcome(entry: &HistoryEntry, now: DateTime<Utc>) -> Markup {
    match entry {
        HistoryEntry::Run(run) => run_outcome(run, now),
        HistoryEntry::Act(PersonAct { who, reason: why, until, .. }) => html! {
            "by " (foreign(&who.name))
            @if let Some(why) = why { div { (reason(why)) } }
            @if let Some(until) = until { div.small { "ends " (moment(*until, now)) } }
        },
    }
}

fn run_outcome(run: &FinishedRun, now: DateTime<Utc>) -> Markup {
    html! {
        span class={ "state " (class(outcome_tone(&run.outcome))) } {
            (outcome_word(&run.outcome)) @if run.count > 1 { " ×" (run.count) }
        }
        div.small {
            (run.trigger.as_str()) ", " (seconds(run.seconds))
            @if run.attempt > 1 { ", attempt " (run.attempt) }
            @if let Some(first) = run.first { ", first " time datetime=(super::machine_time(first)) { (utc_minute(first)) } }
            @if let Some(signer) = &run.signer { ", signed by " (foreign(&signer.to_string())) }
        }
        @if let Outcome::Hindered { reason: why } = &run.outcome { div { (reason(why)) } }
        @if run.at > now { div.small { "by a clock that was ahead" } }
    }
}
