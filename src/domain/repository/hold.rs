//! Holds of people: who set one, whose it is, and when it ends. Knows neither files nor the clock.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::text::EscapeControls;

/// The person behind a command, as far as the kernel and sudo(8) tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// The name for people: of the login, else of sudo, else of the user.
    pub name: String,
    /// The login uid (audit(8)), which stays the same behind sudo and su; `None`: the kernel has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<u32>,
    /// `SUDO_USER`; `None`: not behind sudo.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// The user id of the command.
    pub uid: u32,
    /// The address of the ssh client, else the terminal; `None`: neither is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

impl Person {
    /// Whether both are the same person: by login uid, else by `SUDO_USER`, else by uid.
    pub fn is(&self, other: &Self) -> bool {
        let number = |it: &Self| it.login.or(Some(it.uid).filter(|_| it.sudo_user.is_none()));
        match (self.login, other.login) {
            (None, None) if self.sudo_user.is_some() || other.sudo_user.is_some() => {
                self.sudo_user == other.sudo_user
            }
            _ => number(self).is_some() && number(self) == number(other),
        }
    }
}

/// The author of a hold in a file that cannot be read.
pub const UNREADABLE: &str = "a hold file that cannot be read";

/// A hold, which keeps this repository from acting.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The number by which `unhold` lifts it, from 1.
    #[serde(default)]
    pub number: u32,
    /// The origin: a user name, `currentaction.txt` or `.pmpy.toml`.
    pub by: String,
    /// The reason, in the words of its author.
    pub reason: String,
    /// When it began.
    pub since: DateTime<Utc>,
    /// When it ends; `None`: when a person lifts it.
    pub until: Option<DateTime<Utc>>,
    /// Who set it; `None`: only `by` is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub person: Option<Person>,
    /// `hold --all` set it.
    #[serde(default)]
    pub all: bool,
}

impl Hold {
    /// Whether `person` set it, as far as is known. A file that cannot be read is everybody's.
    pub fn is_of(&self, person: &Person) -> bool {
        self.by == UNREADABLE || is_of(self.person.as_ref(), &self.by, person)
    }

    /// By whom and why, as a part of a sentence; both are foreign text.
    pub fn sentence(&self) -> String {
        format!("by {}: {}", self.by.escape_controls(), self.reason.escape_controls())
    }

    /// Whether it holds at `now`.
    pub fn lasts(&self, now: DateTime<Utc>) -> bool {
        self.until.is_none_or(|until| until > now)
    }
}

/// Whether `person` set what `author` set; an older agent recorded only the name `by`.
pub(super) fn is_of(author: Option<&Person>, by: &str, person: &Person) -> bool {
    match author {
        Some(author) => author.is(person),
        None => by == person.sudo_user.as_deref().unwrap_or(&person.name),
    }
}

/// The number of the next one after `holds`.
pub fn next_number(holds: &[Hold]) -> u32 {
    holds.iter().map(|hold| hold.number).max().unwrap_or_default().saturating_add(1)
}

/// The end of a hold, as a person writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldEnd {
    /// After this time.
    After(std::time::Duration),
    /// The next such time of day.
    Clock(NaiveTime),
    /// That local time.
    At(NaiveDateTime),
}

impl HoldEnd {
    /// Reads `HH:MM`, `YYYY-MM-DD` (the beginning of that day) or `YYYY-MM-DDTHH:MM`; `None`: it is none of
    /// these.
    pub fn parse_moment(text: &str) -> Option<Self> {
        let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok();
        let begins = |day: NaiveDate| Self::At(day.and_time(NaiveTime::MIN));
        let clock = || NaiveTime::parse_from_str(text, "%H:%M").ok().map(Self::Clock);
        let moment = || NaiveDateTime::parse_from_str(text, "%Y-%m-%dT%H:%M").ok().map(Self::At);
        clock().or_else(|| day().map(begins)).or_else(moment)
    }

    /// The moment in the time zone `zone`, where it is later than `now`.
    ///
    /// # Errors
    /// When it is over, or beyond the calendar.
    pub fn resolve<Z: TimeZone>(
        self,
        zone: &Z,
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, String> {
        let far = || "the time is beyond the calendar\nhint: write an earlier one".to_owned();
        let found = match self {
            Self::After(length) => {
                let length = TimeDelta::from_std(length).map_err(|_| far())?;
                return now.checked_add_signed(length).ok_or_else(far);
            }
            Self::At(local) => moment(zone, local),
            Self::Clock(time) => {
                let today = now.with_timezone(zone).date_naive();
                let days = (0..3).filter_map(|days| today.checked_add_days(Days::new(days)));
                days.filter_map(|day| moment(zone, day.and_time(time))).find(|at| *at > now)
            }
        };
        match found.ok_or_else(far)? {
            at if at > now => Ok(at),
            at => Err(format!(
                "{} is over already\nhint: write a later time, or a duration such as \"2h\"",
                at.with_timezone(zone).naive_local().format("%Y-%m-%d %H:%M")
            )),
        }
    }
}

/// The moment of a local time: the later one where the clock shows it twice, and the end of the gap where the
/// clock skips it, so that a hold never ends early.
fn moment<Z: TimeZone>(zone: &Z, local: NaiveDateTime) -> Option<DateTime<Utc>> {
    // A zone never skips more than a day.
    let at = (0..=24 * 60).find_map(|minutes| {
        let local = local.checked_add_signed(TimeDelta::minutes(minutes))?;
        zone.from_local_datetime(&local).latest()
    })?;
    Some(at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(login: Option<u32>, sudo: Option<&str>, uid: u32) -> Person {
        let (name, sudo_user) = ("x".to_owned(), sudo.map(str::to_owned));
        Person { name, login, sudo_user, uid, from: None }
    }

    #[test]
    fn a_person_is_known_by_login_then_sudo_then_uid() {
        for (one, other, same) in [
            (person(Some(7), Some("ann"), 0), person(Some(7), None, 7), true),
            (person(Some(7), Some("ann"), 0), person(Some(8), Some("ann"), 0), false),
            (person(None, Some("ann"), 0), person(None, Some("ann"), 0), true),
            (person(None, Some("ann"), 0), person(None, Some("bob"), 0), false),
            (person(None, Some("ann"), 0), person(None, None, 0), false),
            (person(None, None, 0), person(None, None, 0), true),
            (person(None, None, 0), person(None, None, 33), false),
            (person(Some(0), None, 0), person(None, None, 0), true),
            (person(Some(7), None, 0), person(None, None, 0), false),
            (person(Some(7), Some("ann"), 0), person(None, Some("ann"), 0), false),
        ] {
            assert_eq!(one.is(&other), same, "{one:?} {other:?}");
            assert_eq!(other.is(&one), same, "{other:?} {one:?}");
        }
    }

    #[test]
    fn an_older_record_is_that_of_its_name() {
        let hold = |by: &str| Hold { by: by.into(), ..Hold::default() };
        let ann = Person { name: "root".into(), ..person(None, Some("ann"), 0) };
        assert!(hold("ann").is_of(&ann) && !hold("root").is_of(&ann));
        assert!(hold(UNREADABLE).is_of(&ann));
    }

    fn at(text: &str) -> HoldEnd {
        HoldEnd::parse_moment(text).unwrap()
    }

    #[test]
    fn an_end_is_the_next_such_time_or_that_moment() {
        let zone = chrono::FixedOffset::east_opt(3600).unwrap();
        let now: DateTime<Utc> = "2026-11-22T09:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("14:30", "2026-11-22T13:30:00Z"),
            ("10:00", "2026-11-23T09:00:00Z"),
            ("09:59", "2026-11-23T08:59:00Z"),
            ("2026-12-24", "2026-12-23T23:00:00Z"),
            ("2026-12-24T18:00", "2026-12-24T17:00:00Z"),
        ] {
            let found = at(text).resolve(&zone, now);
            assert_eq!(found, Ok(expected.parse().unwrap()), "{text}");
        }
        assert!(at("2026-11-22T10:00").resolve(&zone, now).unwrap_err().contains("is over"));
        for text in ["25:00", "2026-13-01", "tomorrow", "", "12", "2026-12-24 18:00"] {
            assert_eq!(HoldEnd::parse_moment(text), None, "{text}");
        }
    }

    /// A zone whose clock goes forward at 01:00 UTC on 29 March 2026 and back on 25 October.
    #[derive(Clone, Debug)]
    struct Summer;

    impl TimeZone for Summer {
        type Offset = chrono::FixedOffset;

        fn from_offset(_: &Self::Offset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, day: &NaiveDate) -> chrono::MappedLocalTime<Self::Offset> {
            self.offset_from_local_datetime(&day.and_time(NaiveTime::MIN))
        }

        fn offset_from_local_datetime(
            &self,
            local: &NaiveDateTime,
        ) -> chrono::MappedLocalTime<Self::Offset> {
            let fits = |hours: i32| {
                let offset = chrono::FixedOffset::east_opt(hours * 3600)?;
                let utc = *local - TimeDelta::hours(hours.into());
                (self.offset_from_utc_datetime(&utc) == offset).then_some(offset)
            };
            match (fits(2), fits(1)) {
                (Some(early), Some(late)) => chrono::MappedLocalTime::Ambiguous(early, late),
                (Some(one), None) | (None, Some(one)) => chrono::MappedLocalTime::Single(one),
                (None, None) => chrono::MappedLocalTime::None,
            }
        }

        fn offset_from_utc_date(&self, day: &NaiveDate) -> Self::Offset {
            self.offset_from_utc_datetime(&day.and_time(NaiveTime::MIN))
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> Self::Offset {
            let change = |day: &str| day.parse::<NaiveDateTime>().unwrap();
            let (from, to) = (change("2026-03-29T01:00:00"), change("2026-10-25T01:00:00"));
            let is_summer = from <= *utc && *utc < to;
            chrono::FixedOffset::east_opt(if is_summer { 7200 } else { 3600 }).unwrap()
        }
    }

    #[test]
    fn a_skipped_time_is_the_end_of_the_gap_and_a_repeated_one_the_later() {
        let before: DateTime<Utc> = "2026-03-28T20:00:00Z".parse().unwrap();
        for text in ["02:30", "2026-03-29T02:00", "2026-03-29T02:59", "03:00"] {
            let found = at(text).resolve(&Summer, before);
            assert_eq!(found, Ok("2026-03-29T01:00:00Z".parse().unwrap()), "{text}");
        }
        let before: DateTime<Utc> = "2026-10-24T23:50:00Z".parse().unwrap();
        for (text, expected) in [
            ("02:30", "2026-10-25T01:30:00Z"),
            ("2026-10-25T02:30", "2026-10-25T01:30:00Z"),
            ("01:55", "2026-10-24T23:55:00Z"),
            ("03:00", "2026-10-25T02:00:00Z"),
        ] {
            assert_eq!(at(text).resolve(&Summer, before), Ok(expected.parse().unwrap()), "{text}");
        }
        // Between the two, the second 02:30 is still to come.
        let between: DateTime<Utc> = "2026-10-25T00:45:00Z".parse().unwrap();
        let found = at("02:30").resolve(&Summer, between);
        assert_eq!(found, Ok("2026-10-25T01:30:00Z".parse().unwrap()));
    }
}
