//! Formats text for people, the same in every command: times, durations, foreign text, tables. Knows no
//! command and decides nothing; only [`print()`] writes.

use std::borrow::Cow;
use std::fmt::Display;
use std::io;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Duration, Local, TimeZone, Utc};
use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Row as Line, Table, Width,
};

use crate::domain::remote::LastPoll;
use crate::domain::report::error_report::ErrorReport;
use crate::domain::report::notices::{Notice, StateChange};
use crate::domain::repository::drift::{DriftRecord, DriftedFile};
use crate::domain::repository::gate::GateWait;
use crate::domain::repository::hold::Hold;
use crate::domain::repository::state::{Severity, State, Tone};
use crate::domain::repository::status::StatusRow;
use crate::domain::text::EscapeControls;
pub use crate::domain::text::{ago, seconds, span};

/// A time relative to `now`: `7 min ago, 03:12 +0100`; with the date when it is a day or more away.
pub fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    when_in(&Local, at, now)
}

fn when_in<Z>(zone: &Z, at: DateTime<Utc>, now: DateTime<Utc>) -> String
where
    Z: TimeZone<Offset: Display>,
{
    let local = at.with_timezone(zone);
    format!("{}, {}", ago(at, now), local.format(clock_format(at, now)))
}

/// The second half of [`when`]: `03:12 +0100`, with the date when it is a day or more away.
pub fn clock(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    at.with_timezone(&Local).format(clock_format(at, now)).to_string()
}

fn clock_format(at: DateTime<Utc>, now: DateTime<Utc>) -> &'static str {
    if (now - at).abs() < Duration::days(1) { "%H:%M %z" } else { "%Y-%m-%d %H:%M %z" }
}

/// A moment to come, with its weekday and how far away it is: `Mon 02:00 +0100 (in 5 h)`; with the date when it is six
/// days or more away.
pub fn moment(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    moment_in(&Local, at, now)
}

fn moment_in<Z>(zone: &Z, at: DateTime<Utc>, now: DateTime<Utc>) -> String
where
    Z: TimeZone<Offset: Display>,
{
    let local = at.with_timezone(zone);
    let form = match (at - now).num_hours() {
        ..24 if local.date_naive() == now.with_timezone(zone).date_naive() => "%H:%M %z",
        ..144 => "%a %H:%M %z",
        _ => "%a %Y-%m-%d %H:%M %z",
    };
    format!("{} ({})", local.format(form), ago(at, now))
}

/// [`when`] for a table on a terminal of `width` columns: under 100 columns without the clock time, which would take
/// the place of the subject.
pub fn when_fitting(width: Option<u16>, at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match width {
        Some(..100) => ago(at, now),
        _ => when(at, now),
    }
}

/// Foreign text made safe for one line of a terminal: characters that could move the cursor, break the
/// line or hide are written as escapes. Quotes and backslashes cannot, and stay.
pub fn escaped(text: &str) -> String {
    text.escape_controls()
}

/// Splits a reason into its sentence and the optional hint, both escaped.
pub fn reason_and_hint(reason: &str) -> (String, Option<String>) {
    let report = ErrorReport::parse(reason);
    (escaped(&report.sentence()), report.hint().map(|hint| escaped(&hint)))
}

/// The details of a row besides its state, in one line: the reason, the attempt and the time of the next
/// one; `None` when there are none.
pub fn details(row: &StatusRow, now: DateTime<Utc>) -> Option<String> {
    let mut parts = Vec::new();
    if row.state == State::Held && !row.holds.is_empty() {
        parts.extend(row.holds.iter().map(|hold| held(hold, now)));
    } else if let Some(gate) = &row.gate {
        let command = format!("tick {}", escaped(&row.name));
        parts.push(self::gate(gate, now).replace("tick REPO", &command));
    } else {
        parts.extend(row.reason.as_deref().map(|reason| reason_and_hint(reason).0));
    }
    parts.extend(pauses(row, now));
    if row.attempt > 0 {
        parts.push(format!("attempt {}", row.attempt));
        parts.push(match row.next_try.filter(|&next| next > now) {
            Some(next) => format!("next try {}", when(next, now)),
            None => "next try at the next tick".to_owned(),
        });
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Which remotes are not polled again yet, where that is why nothing moves, and how to poll them all the same;
/// `None`: there is none.
fn pauses(row: &StatusRow, now: DateTime<Utc>) -> Option<String> {
    let state = row.hidden_state().unwrap_or(row.state);
    let reason = ErrorReport::parse(row.reason.as_deref().unwrap_or_default());
    // With one remote the reason names it already.
    let is_one = reason.sentences().count() < 2;
    let pauses: Vec<_> = row
        .left_alone
        .iter()
        .filter(|(_, left)| left.lasts(now))
        .map(|(remote, left)| {
            let whose = if is_one { String::new() } else { format!("{} is ", escaped(remote)) };
            let what = if left.pack.is_some() { "fetched" } else { "polled" };
            format!("{whose}not {what} again before {}", clock(left.until, now))
        })
        .collect();
    let counts = matches!(state, State::Denied | State::Unreachable) && !pauses.is_empty();
    counts.then(|| format!("{}; now: agent tick {}", pauses.join(", "), escaped(&row.name)))
}

/// A line for each file of `found` that is named, and one for the others.
pub fn drifted(found: &DriftRecord) -> Vec<String> {
    let line = |file: &DriftedFile| format!("{} ({})", escaped(&file.path), file.how.as_str());
    let others = found.files.saturating_sub(found.first.len());
    let others = (others > 0).then(|| format!("and {others} more"));
    found.first.iter().map(line).chain(others).collect()
}

/// A gate that is shut: why, and until when.
pub fn gate(gate: &GateWait, now: DateTime<Utc>) -> String {
    let until = gate.until.map(|until| moment(until, now));
    reason_and_hint(&gate.with_moment(until.as_deref())).0
}

/// By whom, why, and until when.
pub fn held(hold: &Hold, now: DateTime<Utc>) -> String {
    let until = hold.until.map(|until| format!(", ends {}", when(until, now)));
    format!("{}{}", hold.sentence(), until.unwrap_or_default())
}

/// The sentence about a key in `.pmpy.toml` that this version does not know.
pub fn ignored_key(key: &str) -> String {
    format!("the key {} in .pmpy.toml is not known to this version of the agent", escaped(key))
}

/// A notice as one line, such as
/// `spog: failing (was current): 1234abc exited 1, attempt 1, next try in 2 min, 03:12 +0100`.
pub fn notice(notice: &Notice, now: DateTime<Utc>) -> String {
    let row = &notice.row;
    let name = escaped(&row.name);
    let state = row.shown_state();
    let head = match (notice.change, &notice.was) {
        (StateChange::Moved, was) => {
            let old = was.as_ref().and_then(|was| was.branch.as_deref()).unwrap_or("another one");
            let new = row.branch.as_deref().unwrap_or_default();
            return format!("{name}: now follows {} (was {})", escaped(new), escaped(old));
        }
        (StateChange::Worse, Some(was)) => format!("{name}: {state} (was {})", was.state),
        (StateChange::Worse, None) => format!("{name}: {state}"),
        (StateChange::Still, was) => {
            let since = was.as_ref().map_or(row.since, |was| was.since);
            format!("{name}: still {state}, since {}", when(since, now))
        }
        (StateChange::Better, Some(was)) => {
            format!("{name}: {state} (was {} for {})", was.state, span(now - was.since))
        }
        (StateChange::Better, None) => format!("{name}: {state}"),
    };
    let acted = row.acted.as_ref().filter(|_| notice.change == StateChange::Better).map(|acted| {
        let subject =
            acted.subject.as_deref().map_or(String::new(), |s| format!(" {}", escaped(s)));
        format!("{}{subject}", acted.named())
    });
    // The notice may be read in a mail, far from the machine.
    let hint = row.reason.as_deref().and_then(|reason| reason_and_hint(reason).1);
    let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
    match details(row, now).or(acted) {
        Some(details) => format!("{head}: {details}{hint}"),
        None => head,
    }
}

/// The colour of a severity.
pub fn colour(severity: Severity) -> Color {
    match severity {
        Severity::Ok => Color::Green,
        Severity::Warning => Color::Yellow,
        Severity::Critical => Color::Red,
    }
}

/// A cell in the colour of its meaning.
pub fn toned(text: &str, tone: Tone) -> Cell {
    let cell = Cell::new(text);
    match tone {
        Tone::Bad => cell.fg(Color::Red),
        Tone::Open => cell.fg(Color::Yellow),
        Tone::Busy => cell.fg(Color::Blue),
        Tone::Good => cell.fg(Color::Green),
        Tone::Dim => cell.add_attribute(Attribute::Dim),
    }
}

/// `text` behind `indent`; on a terminal of `width` columns in lines that fit, broken between words.
pub fn wrapped(text: &str, indent: &str, width: Option<u16>) -> Vec<String> {
    let Some(width) = width else { return vec![format!("{indent}{text}")] };
    let hanging = format!("{indent}  ");
    let options = textwrap::Options::new(usize::from(width).max(20))
        .initial_indent(indent)
        .subsequent_indent(&hanging)
        // A path or an address stays whole where it fits into a line.
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .word_separator(textwrap::WordSeparator::AsciiSpace);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

/// The width of the terminal on stdout in columns; `None` when it is a pipe or a file.
pub fn width() -> Option<u16> {
    Table::new().width()
}

/// One line of text for each row, in aligned columns without borders. Where they do not fit into `width`,
/// the column `elastic` is cut. Always coloured: [`print()`] removes the colours if needed.
pub fn table(rows: Vec<Vec<Cell>>, elastic: usize, width: Option<u16>) -> Vec<String> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).force_no_tty().enforce_styling();
    // The padding stays unstyled, because it is trimmed at the end of the line.
    table.style_text_only();
    for cells in rows {
        let mut line = Line::from(cells);
        line.max_height(1);
        table.add_row(line);
    }
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        column.set_constraint(if at == elastic {
            // Room for a short revision, the sign of a cut, and the padding.
            ColumnConstraint::LowerBoundary(Width::Fixed(10))
        } else {
            ColumnConstraint::ContentWidth
        });
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// Writes to stdout, without colours when that is no terminal or `NO_COLOR` is set. A closed pipe, as of
/// `head`, is no error.
///
/// # Errors
/// When stdout cannot be written.
pub fn print(text: &str) -> Result<()> {
    print_to(anstream::stdout().lock(), text.as_bytes())
}

/// Writes `bytes` to `out`, the standard output, as they are. A closed pipe is no error.
///
/// # Errors
/// When it cannot be written.
pub fn print_to(mut out: impl io::Write, bytes: &[u8]) -> Result<()> {
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to the standard output"),
    }
}

/// The remote that answered last, how it was polled, and when: at the last tick, unless it gave no answer then
/// or ticks do not poll it. `None`: none has answered yet.
pub fn last_poll(
    row: &StatusRow,
    last_tick: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Option<String> {
    let LastPoll { remote, mirror, way, on_demand } = row.asked.as_ref()?;
    let mirror = if *mirror { " (a mirror)" } else { "" };
    let is_silent = |state| matches!(state, &State::Unreachable | &State::Denied);
    let at = match last_tick {
        _ if is_silent(&row.state) => {
            format!("; no answer since {}", when(row.since, now))
        }
        _ if row.conditions.iter().any(is_silent) => "; no answer now".to_owned(),
        Some(tick) if !on_demand => format!(", {}", when(tick, now)),
        _ => String::new(),
    };
    Some(format!("{}{mirror}: {way}{at}", escaped(remote)))
}

#[cfg(test)]
mod tests {
    use chrono::FixedOffset;

    use crate::cmd::format::*;
    use crate::domain::report::notices::ReportedState;

    fn now() -> DateTime<Utc> {
        "2026-11-22T02:19:00Z".parse().unwrap()
    }

    #[test]
    fn times_are_relative_plus_local_with_offset() {
        let zone = FixedOffset::east_opt(3600).unwrap();
        for (away, text) in [
            (Duration::zero(), "just now, 03:19 +0100"),
            (Duration::seconds(31), "31 s ago, 03:18 +0100"),
            (Duration::minutes(7), "7 min ago, 03:12 +0100"),
            (Duration::hours(23), "23 h ago, 04:19 +0100"),
            (Duration::hours(25), "1 day ago, 2026-11-21 02:19 +0100"),
            (Duration::days(40), "40 days ago, 2026-10-13 03:19 +0100"),
            (Duration::minutes(-4), "in 4 min, 03:23 +0100"),
            (Duration::days(-2), "in 2 days, 2026-11-24 03:19 +0100"),
        ] {
            assert_eq!(when_in(&zone, now() - away, now()), text);
        }
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal_and_stays_readable() {
        for (text, shown) in [
            ("don't \"quote\" C:\\x", "don't \"quote\" C:\\x"),
            ("Grüße, 世界", "Grüße, 世界"),
            ("\u{1b}[2Jx\r\ny\t\0", "\\u{1b}[2Jx\\r\\ny\\t\\0"),
            ("evil\u{202e}txt\u{9b}", "evil\\u{202e}txt\\u{9b}"),
            ("", ""),
        ] {
            assert_eq!(escaped(text), shown);
        }
    }

    fn row(state: State) -> StatusRow {
        StatusRow::bare("spog", state, now())
    }

    #[test]
    fn a_notice_says_what_it_was_why_and_what_comes_next() {
        let failing = StatusRow {
            reason: Some("1234abc exited 1\nhint: not in one line".into()),
            attempt: 1,
            next_try: Some(now() + Duration::minutes(2)),
            ..row(State::Failing)
        };
        let was = ReportedState { state: State::Current, branch: None, since: now(), at: now() };
        let reported = Notice { change: StateChange::Worse, was: Some(was), row: failing.clone() };
        let text = notice(&reported, now());
        let start = "spog: failing (was current): 1234abc exited 1, attempt 1, next try in 2 min, ";
        assert!(text.starts_with(start), "{text}");

        let was = ReportedState {
            state: State::Failing,
            branch: None,
            since: now() - Duration::days(3),
            at: now(),
        };
        let reported = Notice { change: StateChange::Still, was: Some(was.clone()), row: failing };
        let text = notice(&reported, now());
        assert!(text.starts_with("spog: still failing, since 3 days ago, "), "{text}");

        let reported =
            Notice { change: StateChange::Better, was: Some(was), row: row(State::Current) };
        assert_eq!(notice(&reported, now()), "spog: current (was failing for 3 days)");
    }

    #[test]
    fn a_table_fits_its_terminal_by_cutting_the_elastic_column() {
        let rows = || {
            ["short", "a subject that is far too long for any narrow terminal"]
                .map(|subject| vec![Cell::new("spog"), Cell::new(subject), Cell::new("7 min ago")])
                .to_vec()
        };
        let lines = table(rows(), 1, Some(40));
        assert_eq!(lines.len(), 2);
        assert!(lines.iter().all(|line| line.chars().count() <= 40), "{lines:?}");
        assert!(lines[1].contains('…') && lines[1].ends_with("7 min ago"), "{lines:?}");
        assert!(table(rows(), 1, None)[1].contains("narrow terminal"));
        assert_eq!(table(Vec::new(), 0, None), Vec::<String>::new());
    }
}
