//! The last day of a machine as a picture: a band for each repository in the colour of its last outcome, a mark for
//! each action, a diamond for what a person did. Positions are shares of the width, so that no text is stretched.

use chrono::{DateTime, Duration, Timelike, Utc};
use maud::{Markup, html};

use super::describe::{outcome_tone, outcome_word};
use super::{class, clipped, percent};
use crate::domain::repository::history::HistoryEntry;
use crate::domain::text::{ago, utc_minute};

/// The most repositories that are drawn: those with the newest entries.
const MOST_DRAWN: usize = 40;
/// The most marks in a row: the newest.
const MOST_MARKS: usize = 200;
/// The height of a row in pixels: a line of text and the band.
const HEIGHT: usize = 44;
/// The hours between two lines of the scale.
const STEP: i64 = 6;

/// A part of a row in the colour of one outcome.
#[derive(Debug, PartialEq)]
pub(super) struct TimeBand {
    /// Where it begins and ends, as shares of the width.
    pub span: (f64, f64),
    /// The class of its colour.
    pub class: &'static str,
}

/// The drawing with its legend.
pub(super) fn figure(
    histories: &[(String, Result<Vec<HistoryEntry>, String>)],
    now: DateTime<Utc>,
) -> Markup {
    let mut drawn: Vec<(&str, &[HistoryEntry])> = histories
        .iter()
        .filter_map(|(name, found)| Some((name.as_str(), found.as_ref().ok()?.as_slice())))
        .filter(|(_, entries)| !entries.is_empty())
        .collect();
    let shown = MOST_DRAWN.min(drawn.len());
    if drawn.len() > MOST_DRAWN {
        drawn.sort_by_key(|(_, entries)| std::cmp::Reverse(entries.last().map(HistoryEntry::at)));
    }
    let left_out = drawn.len() - shown;
    drawn.truncate(shown);
    drawn.sort_unstable_by_key(|(name, _)| *name);
    let height = HEIGHT * shown + 26;
    html! {
        @if drawn.is_empty() {
            p { "Nothing was applied yet." }
        } @else {
            figure {
                svg.timeline role="img" aria-labelledby="timeline-title" width="100%" height=(height) {
                    title #timeline-title { (summary(&drawn, now)) }
                    (scale(height, now))
                    @for (at, (name, entries)) in drawn.iter().enumerate() {
                        (draw_history(name, entries, HEIGHT * at, now))
                    }
                }
                figcaption {
                    "A band has the colour of the last outcome: " span.key.good { "succeeded" } ", "
                    span.key.open { "deferred" } ", " span.key.bad { "failed" }
                    ". A line is an action, higher where it failed; a diamond is what a person did."
                    @if left_out > 0 { " Not drawn: " (left_out) " repositories whose last action is older." }
                }
            }
        }
    }
}

/// What the drawing says, in words.
fn summary(drawn: &[(&str, &[HistoryEntry])], now: DateTime<Utc>) -> String {
    let begin = now - Duration::days(1);
    let said = drawn.iter().map(|(name, entries)| {
        let recent = entries.iter().filter(|entry| entry.at() > begin);
        let actions: usize = recent.map(|it| it.run().map_or(0, |run| run.count as usize)).sum();
        let last = entries.iter().rev().find_map(|entry| entry.run());
        let last = last.map_or(String::new(), |run| {
            format!(", the last {} {}", outcome_word(&run.outcome), ago(run.at, now))
        });
        let actions =
            if actions == 1 { "1 action".to_owned() } else { format!("{actions} actions") };
        format!("{}: {actions}{last}", clipped(name))
    });
    said.collect::<Vec<_>>().join("; ")
}

/// Where `at` is, from 0 a day ago to 1 now.
pub(super) fn share(at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    let day = Duration::days(1);
    let since = at - (now - day);
    (since.num_seconds() as f64 / day.num_seconds() as f64).clamp(0.0, 1.0)
}

/// A line for every sixth hour of the clock.
fn scale(height: usize, now: DateTime<Utc>) -> Markup {
    let hour = now
        - Duration::minutes(i64::from(now.minute()))
        - Duration::seconds(i64::from(now.second()));
    let hours = (0..24).map(|back| hour - Duration::hours(back));
    let lines = hours.filter(|hour| i64::from(hour.hour()) % STEP == 0);
    html! {
        @for at in lines {
            @let x = percent(share(at, now));
            // A label at the edge would be cut off.
            @let anchor = match share(at, now) { ..0.06 => "start", 0.94.. => "end", _ => "middle" };
            line.scale x1=(x) x2=(x) y1="0" y2=(height - 20) {}
            text.scale x=(x) y=(height - 6) text-anchor=(anchor) { (at.format("%H:%M")) }
        }
    }
}

/// The bands of a row: from each run to the next one. Refs that are published one by one have no common outcome.
pub(super) fn bands(entries: &[HistoryEntry], now: DateTime<Utc>) -> Vec<TimeBand> {
    let runs: Vec<_> = entries.iter().filter_map(HistoryEntry::run).collect();
    if runs.iter().any(|run| run.reference.is_some()) {
        return Vec::new();
    }
    let mut bands: Vec<TimeBand> = Vec::new();
    for (at, run) in runs.iter().enumerate() {
        let end = runs.get(at + 1).map_or(now, |next| next.first_at());
        let span = (share(run.first_at(), now), share(end, now));
        let class = class(outcome_tone(&run.outcome));
        match bands.last_mut() {
            _ if span.0 >= span.1 => {}
            Some(last) if last.class == class && last.span.1 >= span.0 => last.span.1 = span.1,
            _ => bands.push(TimeBand { span, class }),
        }
    }
    bands
}

fn draw_history(name: &str, entries: &[HistoryEntry], top: usize, now: DateTime<Utc>) -> Markup {
    let begin = now - Duration::days(1);
    let marks = entries.iter().rev().take_while(|entry| entry.at() > begin).take(MOST_MARKS);
    let middle = top + 31;
    html! {
        text.name x="0" y=(top + 16) { (clipped(name)) }
        rect.ground x="0" width="100%" y=(top + 24) height="14" {}
        @for band in bands(entries, now) {
            rect class={ "band " (band.class) } x=(percent(band.span.0))
                width=(percent(band.span.1 - band.span.0)) y=(top + 24) height="14" {}
        }
        @for entry in marks {
            @let x = percent(share(entry.at(), now));
            @match entry {
                HistoryEntry::Run(run) => {
                    @let kind = class(outcome_tone(&run.outcome));
                    @let half = if kind == "good" { 7 } else { 11 };
                    line class={ "mark " (kind) } x1=(x) x2=(x) y1=(middle - half) y2=(middle + half) {
                        title { (run.revision.short()) " " (outcome_word(&run.outcome)) ", " (utc_minute(run.at)) }
                    }
                },
                HistoryEntry::Act(act) => {
                    svg.act x=(x) y=(middle - 6) width="1" height="1" overflow="visible" {
                        title { (act.act.as_str()) " by " (clipped(&act.who.name)) ", " (utc_minute(act.at)) }
                        path d="M0 0 L6 6 L0 12 L-6 6 Z" {}
                    }
                },
            }
        }
    }
}
