//! Windows in a zone with daylight saving time: what is open, when it opens next, and what is no window.

use super::*;

/// Central Europe: an hour is skipped on 2026-03-29 at 02:00 and repeated on 2026-10-25 at 03:00.
fn berlin() -> TimeZone {
    TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
}

fn parse(entries: &[&str]) -> Result<Window, String> {
    entries.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>().try_into()
}

fn window(entries: &[&str]) -> Window {
    parse(entries).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[track_caller]
fn assert_open(entries: &[&str], open: &[&str], shut: &[&str]) {
    let window = window(entries);
    for (times, expected) in [(open, true), (shut, false)] {
        for time in times {
            assert_eq!(window.is_open(&berlin(), at(time)), expected, "{entries:?} at {time}");
        }
    }
}

#[test]
fn a_window_has_days_dates_ranges_lists_and_hours_over_midnight() {
    // 2026-11-30 is a Monday; local time is one hour ahead.
    assert_open(
        &["Mon-Fri 02:00-04:00"],
        &["2026-11-30T01:00:00Z", "2026-12-04T02:59:59Z"],
        &["2026-11-30T00:59:59Z", "2026-11-30T03:00:00Z", "2026-12-05T01:30:00Z"],
    );
    assert_open(
        &["Sun"],
        &["2026-11-28T23:00:00Z", "2026-11-29T22:59:00Z"],
        &["2026-11-29T23:00:00Z"],
    );
    assert_open(
        &["Mon,Wed,Fri-Sat 22:00-02:00"],
        &["2026-11-30T21:00:00Z", "2026-12-01T00:59:00Z", "2026-12-05T00:30:00Z"],
        &["2026-12-01T01:00:00Z", "2026-12-01T21:30:00Z", "2026-12-06T01:30:00Z"],
    );
    assert_open(
        &["Sat-Mon"],
        &["2026-11-30T12:00:00Z", "2026-12-05T12:00:00Z"],
        &["2026-12-01T12:00:00Z"],
    );
    assert_open(
        &["01:00-02:00,13:00-14:00"],
        &["2026-12-01T00:30:00Z", "2026-12-01T12:30:00Z"],
        &["2026-12-01T11:30:00Z"],
    );
    assert_open(
        &["2026-12-24", "2026-12-28..2026-12-30 10:00-24:00"],
        &["2026-12-24T10:00:00Z", "2026-12-29T22:59:00Z"],
        &["2026-12-25T10:00:00Z", "2026-12-29T08:59:00Z", "2026-12-31T10:00:00Z"],
    );
}

#[test]
fn an_entry_with_an_exclamation_mark_shuts_it_and_wins() {
    assert_open(
        &["Mon-Fri 02:00-04:00", "!2026-12-20..2027-01-06"],
        &["2026-12-18T01:30:00Z", "2027-01-07T01:30:00Z"],
        &["2026-12-21T01:30:00Z", "2027-01-06T01:30:00Z"],
    );
    assert_open(&["!Fri 12:00-24:00"], &["2026-12-04T10:00:00Z"], &["2026-12-04T12:00:00Z"]);
}

#[test]
fn what_is_no_entry_is_an_error_that_quotes_it() {
    for (entries, named) in [
        (&["Mon-Fry 02:00-04:00"][..], "Mon-Fry 02:00-04:00"),
        (&["02:00"], "02:00"),
        (&["25:00-26:00"], "25:00-26:00"),
        (&["2:00-4:00"], "2:00-4:00"),
        (&["04:00-04:00"], "04:00-04:00"),
        (&["24:00-02:00"], "24:00-02:00"),
        (&["2026-13-01"], "2026-13-01"),
        (&["20261224"], "20261224"),
        (&["2027-01-06..2026-12-20"], "2027-01-06..2026-12-20"),
        (&["Mon 02:00-04:00 Tue"], "Mon 02:00-04:00 Tue"),
        (&["!"], "!"),
        (&[""], ""),
        (&["Mon,,Tue"], "Mon,,Tue"),
        (&["\u{1b}[31m"], "\\u{1b}"),
    ] {
        let error = parse(entries).unwrap_err();
        assert!(error.contains(named) && error.contains("\nhint: "), "{entries:?}: {error}");
    }
    assert!(parse(&[]).unwrap_err().contains("names no hours"));
    assert!(parse(&["urgent"]).unwrap_err().contains("names no hours"));
}

#[test]
fn a_window_that_never_opens_is_an_error() {
    for entries in [&["Mon", "!Mon"][..], &["02:00-04:00", "!00:00-12:00"], &["!Mon-Sun"]] {
        assert!(parse(entries).unwrap_err().contains("never opens"), "{entries:?}");
    }
    for entries in [&["Mon", "!Mon 00:00-12:00"][..], &["Mon", "!2026-01-01..2099-01-01"]] {
        assert!(parse(entries).is_ok(), "{entries:?}");
    }
}

#[test]
fn it_is_written_as_it_was_read_and_knows_urgent() {
    let entries = ["Mon-Fri 02:00-04:00", "urgent"];
    let window = window(&entries);
    assert!(window.lets_urgent());
    let text = serde_json::to_string(&window).unwrap();
    assert_eq!(serde_json::from_str::<Window>(&text).unwrap(), window);
    assert_eq!(Vec::<String>::from(window), entries);
}

fn opening(entries: &[&str], after: &str) -> Opening {
    window(entries).next_opening(&berlin(), at(after))
}

#[test]
fn the_next_opening_is_the_first_open_minute() {
    for (entries, after, expected) in [
        (&["Mon-Fri 02:00-04:00"][..], "2026-11-30T04:00:00Z", "2026-12-01T01:00:00Z"),
        (&["Mon-Fri 02:00-04:00"], "2026-12-04T10:00:00Z", "2026-12-07T01:00:00Z"),
        (
            &["Mon-Fri 02:00-04:00", "!2026-12-20..2027-01-06"],
            "2026-12-19T10:00:00Z",
            "2027-01-07T01:00:00Z",
        ),
        (&["Mon", "!Mon 00:00-09:30"], "2026-11-29T10:00:00Z", "2026-11-30T08:30:00Z"),
        (&["2030-02-01"], "2026-11-29T10:00:00Z", "2030-01-31T23:00:00Z"),
        (&["Sun"], "2026-11-29T10:00:30Z", "2026-11-29T10:00:30Z"),
    ] {
        assert_eq!(opening(entries, after).at, Some(at(expected)), "{entries:?} after {after}");
    }
    assert_eq!(opening(&["2026-11-01"], "2026-11-29T10:00:00Z").at, None);
}

#[test]
fn an_hour_that_daylight_saving_time_skips_is_not_waited_for() {
    let found = opening(&["Sun 02:00-03:00"], "2026-03-28T12:00:00Z");
    assert_eq!(found.at, Some(at("2026-04-05T00:00:00Z")));
    assert_eq!(found.skipped.as_deref(), Some("2026-03-29 02:00"));
    // What is left of a longer one is used: clocks go from 02:00 to 03:00.
    let found = opening(&["Sun 02:30-05:00"], "2026-03-28T12:00:00Z");
    assert_eq!(found.at, Some(at("2026-03-29T01:00:00Z")));
}

#[test]
fn an_hour_that_daylight_saving_time_repeats_is_open_twice() {
    assert_open(
        &["Sun 02:00-03:00"],
        &["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"],
        &["2026-10-24T23:59:59Z", "2026-10-25T02:00:00Z"],
    );
    let found = opening(&["Sun 02:00-02:30"], "2026-10-25T00:45:00Z");
    assert_eq!(found.at, Some(at("2026-10-25T01:00:00Z")), "the second time");
}

#[test]
fn only_open_minutes_are_counted() {
    let hours = |hours: u64| Duration::from_secs(hours * 3600);
    let window = window(&["Mon-Fri 02:00-04:00"]);
    let after = |start, amount| window.after_open_time(&berlin(), at(start), amount).unwrap();
    assert_eq!(after("2026-11-30T01:00:00Z", hours(1)), at("2026-11-30T02:00:00Z"));
    assert_eq!(after("2026-11-30T02:00:00Z", hours(2)), at("2026-12-01T02:00:00Z"));
    assert_eq!(after("2026-12-04T02:30:00Z", hours(3)), at("2026-12-08T01:30:00Z"));
    let always = super::Window::try_from(vec!["!2020-01-01".to_owned()]).unwrap();
    let start = at("2026-11-30T01:00:00Z");
    assert_eq!(
        always.after_open_time(&berlin(), start, hours(50)),
        Some(at("2026-12-02T03:00:00Z"))
    );
}
