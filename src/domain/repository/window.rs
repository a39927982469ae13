//! The key `window`: the hours in which an action may begin, and the arithmetic on them. Local time comes
//! from a time zone that the caller has read; knows no file and no clock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use jiff::civil::{Date, DateTime as LocalTime, Weekday};
use jiff::tz::{AmbiguousOffset, AmbiguousTimestamp, TimeZone};
use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use crate::domain::text::EscapeControls;

/// Minutes of a day.
const DAY: u16 = 24 * 60;
/// How far ahead an opening is looked for, in days: windows of one date of a year are found.
const HORIZON: usize = 10 * 366;
/// The word of the entry that lets urgent revisions through.
const URGENT: &str = "urgent";

/// The hours in which an action may begin: in one of its entries, and in none that begins with `!`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Window {
    texts: Vec<String>,
    open: Vec<Entry>,
    shut: Vec<Entry>,
    /// The minutes of a day at which anything may change, in order.
    edges: Vec<u16>,
    lets_urgent: bool,
}

/// One entry: days and the hours that begin on them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    /// Empty: every day.
    days: Vec<Days>,
    /// Minutes of the day, the end after midnight where it is not above the start; never empty.
    times: Vec<(u16, u16)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Days {
    /// The weekdays from the first to the second, over the end of the week where needed.
    Weekdays(Weekday, Weekday),
    /// The dates from the first to the second.
    Dates(Date, Date),
}

/// The next moment at which a window is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The moment; `None`: none within ten years.
    pub at: Option<DateTime<Utc>>,
    /// A local time at which it would have opened, and which daylight saving time skips that day.
    pub skipped: Option<String>,
}

impl TryFrom<Vec<String>> for Window {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Self, String> {
        let (mut open, mut shut, mut lets_urgent) = (Vec::new(), Vec::new(), false);
        for text in &texts {
            match text.trim().strip_prefix('!') {
                None if text.trim() == URGENT => lets_urgent = true,
                None => open.push(entry(text, text)?),
                Some(rest) => shut.push(entry(rest, text)?),
            }
        }
        if open.is_empty() && shut.is_empty() {
            return Err(format!(
                "the window names no hours\n{HINT}, or leave the key out: without it actions begin at any time"
            ));
        }
        let edges = edges(open.iter().chain(&shut));
        let window = Self { texts, open, shut, edges, lets_urgent };
        if window.never_opens() {
            return Err("the window never opens: its entries with ! cover all the others\n\
                        hint: leave one of them out"
                .to_owned());
        }
        Ok(window)
    }
}

impl From<Window> for Vec<String> {
    fn from(window: Window) -> Self {
        window.texts
    }
}

const HINT: &str =
    "hint: write entries such as \"Mon-Fri 02:00-04:00\", \"Sun\" or \"!2026-12-20..2027-01-06\"";

/// Parses one entry without its `!`; `whole` is the text for messages.
fn entry(text: &str, whole: &str) -> Result<Entry, String> {
    let wrong = |why: &str| format!("\"{}\" {why}\n{HINT}", whole.escape_controls());
    let words: Vec<&str> = text.split_whitespace().collect();
    let (days, times) = match words.as_slice() {
        [] => return Err(wrong("is empty")),
        [one] if one.contains(':') => (None, Some(*one)),
        [one] => (Some(*one), None),
        [days, times] => (Some(*days), Some(*times)),
        _ => return Err(wrong("has more than days and hours")),
    };
    let days = days.map_or(Ok(Vec::new()), |days| {
        days.split(',').map(parse_days).collect::<Option<Vec<_>>>().ok_or_else(|| {
            wrong("has days that are none: they are Mon to Sun, and dates as 2026-12-24")
        })
    })?;
    let times = times.map_or(Ok(vec![(0, DAY)]), |times| {
        times.split(',').map(parse_times).collect::<Option<Vec<_>>>().ok_or_else(|| {
            wrong("has hours that are none: they are as 22:00-02:00, and both ends differ")
        })
    })?;
    Ok(Entry { days, times })
}

fn parse_days(text: &str) -> Option<Days> {
    if let Some((from, to)) = text.split_once("..") {
        let (from, to) = (parse_date(from)?, parse_date(to)?);
        return (from <= to).then_some(Days::Dates(from, to));
    }
    if let Some(date) = parse_date(text) {
        return Some(Days::Dates(date, date));
    }
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some(Days::Weekdays(parse_weekday(from)?, parse_weekday(to)?))
}

fn parse_date(text: &str) -> Option<Date> {
    // Other lengths are other notations of ISO 8601.
    text.parse().ok().filter(|_| text.len() == "2026-12-24".len())
}

fn parse_weekday(text: &str) -> Option<Weekday> {
    use Weekday::{Friday, Monday, Saturday, Sunday, Thursday, Tuesday, Wednesday};
    Some(match text.to_ascii_lowercase().as_str() {
        "mon" => Monday,
        "tue" => Tuesday,
        "wed" => Wednesday,
        "thu" => Thursday,
        "fri" => Friday,
        "sat" => Saturday,
        "sun" => Sunday,
        _ => return None,
    })
}

fn parse_times(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (parse_minute(from)?, parse_minute(to)?);
    (from != to && from < DAY && to > 0).then_some((from, to))
}

/// `HH:MM` up to `24:00`.
fn parse_minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true if text.len() == 2 => text.parse::<u16>().ok(),
        _ => None,
    };
    let (hour, minute) = (number(hour)?, number(minute)?);
    (hour < 24 && minute < 60 || (hour, minute) == (24, 0)).then_some(hour * 60 + minute)
}

impl Days {
    fn contain(self, date: Date) -> bool {
        match self {
            Self::Dates(from, to) => (from..=to).contains(&date),
            Self::Weekdays(from, to) => {
                let ahead = |day: Weekday| {
                    (day.to_monday_zero_offset() + 7 - from.to_monday_zero_offset()) % 7
                };
                ahead(date.weekday()) <= ahead(to)
            }
        }
    }
}

impl Entry {
    fn is_on(&self, date: Date) -> bool {
        self.days.is_empty() || self.days.iter().any(|days| days.contain(date))
    }

    fn covers(&self, date: Date, minute: u16) -> bool {
        let today = self.times.iter().any(|&(from, to)| {
            let to = if to > from { to } else { DAY };
            (from..to).contains(&minute)
        });
        if today && self.is_on(date) {
            return true;
        }
        let since_yesterday = self.times.iter().any(|&(from, to)| to < from && minute < to);
        since_yesterday && date.yesterday().is_ok_and(|yesterday| self.is_on(yesterday))
    }
}

impl Window {
    /// Whether an urgent revision need not wait for it.
    pub fn lets_urgent(&self) -> bool {
        self.lets_urgent
    }

    /// Whether an action may begin at `at`.
    pub fn is_open(&self, zone: &TimeZone, at: DateTime<Utc>) -> bool {
        timestamp(at).is_some_and(|at| self.is_open_at(local(zone, at)))
    }

    fn is_open_at(&self, time: LocalTime) -> bool {
        self.covers(time.date(), minute_of(time))
    }

    fn covers(&self, date: Date, minute: u16) -> bool {
        let within = |entries: &[Entry]| entries.iter().any(|entry| entry.covers(date, minute));
        (self.open.is_empty() || within(&self.open)) && !within(&self.shut)
    }

    /// Whether no week ever has an open minute. Dates may lie anywhere, so that only entries of weekdays
    /// prove it.
    fn never_opens(&self) -> bool {
        let has_dates =
            |entry: &Entry| entry.days.iter().any(|days| matches!(days, Days::Dates(..)));
        if self.open.iter().any(has_dates) {
            return false;
        }
        let weekly = Self {
            shut: self.shut.iter().filter(|entry| !has_dates(entry)).cloned().collect(),
            ..self.clone()
        };
        let minutes = edges(weekly.open.iter().chain(&weekly.shut));
        let days =
            std::iter::successors(Some(Date::constant(2026, 6, 1)), |day| day.tomorrow().ok());
        !days.take(7).any(|day| minutes.iter().any(|&minute| weekly.covers(day, minute)))
    }

    /// The next moment from `after` on at which it is open: `after` itself where it is open then.
    pub fn next_opening(&self, zone: &TimeZone, after: DateTime<Utc>) -> Opening {
        match self.is_open(zone, after) {
            true => Opening { at: Some(after), skipped: None },
            false => self.opening_after(zone, after),
        }
    }

    /// The next moment after `after`, at which it is shut, at which it is open.
    pub fn opening_after(&self, zone: &TimeZone, after: DateTime<Utc>) -> Opening {
        self.next_change(zone, after, true)
    }

    /// The next moment after `after` at which it is open, or shut, as `opens` says.
    fn next_change(&self, zone: &TimeZone, after: DateTime<Utc>, opens: bool) -> Opening {
        let mut skipped = None;
        let Some(start) = timestamp(after) else { return Opening { at: None, skipped } };
        let today = local(zone, start).date();
        let days = std::iter::successors(Some(today), |day| day.tomorrow().ok());
        for day in days.take(HORIZON) {
            for &minute in self.edges.iter().filter(|&&minute| self.covers(day, minute) == opens) {
                let time = day.at((minute / 60) as i8, (minute % 60) as i8, 0, 0);
                let ambiguous = zone.to_ambiguous_timestamp(time);
                // Clocks that show `time` once show just that: it is open, or shut, then.
                if let AmbiguousOffset::Unambiguous { .. } = ambiguous.offset() {
                    match ambiguous.compatible() {
                        Ok(at) if at > start => return Opening { at: instant(at), skipped },
                        _ => continue,
                    }
                }
                let moments = moments_of(ambiguous);
                if moments.is_empty() {
                    skipped.get_or_insert_with(|| time.strftime("%Y-%m-%d %H:%M").to_string());
                }
                let moments = moments.into_iter().chain(end_of_gap(zone, ambiguous));
                let changes =
                    |at: &Timestamp| *at > start && self.is_open_at(local(zone, *at)) == opens;
                if let Some(at) = moments.filter(changes).min() {
                    return Opening { at: instant(at), skipped };
                }
            }
        }
        Opening { at: None, skipped }
    }

    /// The moment at which it was open for `amount` since `start`, in all; `None`: not within ten years.
    pub fn after_open_time(
        &self,
        zone: &TimeZone,
        start: DateTime<Utc>,
        amount: Duration,
    ) -> Option<DateTime<Utc>> {
        let mut left = chrono::Duration::from_std(amount).ok()?;
        let mut at = start;
        // A window of some minutes on each day needs many rounds.
        for _ in 0..HORIZON {
            at = self.next_opening(zone, at).at?;
            match self.next_change(zone, at, false).at {
                Some(shuts) if shuts - at < left => {
                    left -= shuts - at;
                    at = shuts;
                }
                _ => return at.checked_add_signed(left),
            }
        }
        None
    }
}

/// The minutes of a day at which anything of `entries` may change, in order.
fn edges<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<u16> {
    let times = entries.flat_map(|entry| &entry.times);
    let mut edges: Vec<u16> = times.flat_map(|&(from, to)| [from, to % DAY]).chain([0]).collect();
    edges.sort_unstable();
    edges.dedup();
    edges
}

/// Whether `text` can be the name of a time zone, such as `Europe/Berlin`, which becomes a part of a path.
pub fn is_zone_name(text: &str) -> bool {
    text.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c))
    })
}

fn minute_of(time: LocalTime) -> u16 {
    // Both are small and never negative.
    time.hour().unsigned_abs() as u16 * 60 + time.minute().unsigned_abs() as u16
}

fn local(zone: &TimeZone, at: Timestamp) -> LocalTime {
    zone.to_datetime(at)
}

fn timestamp(at: DateTime<Utc>) -> Option<Timestamp> {
    Timestamp::new(at.timestamp(), at.timestamp_subsec_nanos() as i32).ok()
}

fn instant(at: Timestamp) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(at.as_second(), at.subsec_nanosecond().unsigned_abs())
}

/// The moments at which clocks show a time that they do not show just once: none in the hour that daylight saving
/// time skips, two in the one that it repeats.
fn moments_of(time: AmbiguousTimestamp) -> Vec<Timestamp> {
    match time.offset() {
        AmbiguousOffset::Gap { .. } => Vec::new(),
        _ => [time.earlier(), time.later()].into_iter().flatten().collect(),
    }
}

/// The end of the hour that daylight saving time skips, where `time` lies in it.
fn end_of_gap(zone: &TimeZone, time: AmbiguousTimestamp) -> Option<Timestamp> {
    if !matches!(time.offset(), AmbiguousOffset::Gap { .. }) {
        return None;
    }
    let behind = time.later().ok()?.checked_add(1.second()).ok()?;
    zone.preceding(behind).next().map(|transition| transition.timestamp())
}

#[cfg(test)]
mod tests;
