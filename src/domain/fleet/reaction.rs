//! What a machine passes to a program about other machines: the hosts that count and their states, as a text in which nothing
//! is that another machine made up, and when the program is to run. Runs nothing.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::{Fleet, FleetFilter, Member};
use crate::domain::repository::status::ReactionReport;
use crate::domain::text::hexadecimal;

/// The shortest time between two looks: ticks that come each minute look each time.
const BETWEEN_LOOKS: TimeDelta = TimeDelta::seconds(50);
/// The longest pause after a run that failed, in minutes.
const LONGEST: i64 = 15;
/// How long failures last before a person has to know.
const GRACE: TimeDelta = TimeDelta::minutes(15);
/// The most names of hosts that are left out and named.
const MOST_NAMED: usize = 10;
/// The most bytes of the name of a repository that is passed.
const MOST_OF_A_NAME: usize = 100;

/// The hosts that count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReactionHosts {
    /// Only these.
    Required(BTreeSet<String>),
    /// All: on the server each key can write only its own branch.
    All,
}

impl ReactionHosts {
    /// The beginnings of the refs of the hosts that count, without `refs/heads/`.
    pub fn beginnings(&self) -> Vec<String> {
        match self {
            Self::Required(hosts) => hosts.iter().map(|host| format!("{host}/state")).collect(),
            Self::All => vec![String::new()],
        }
    }
}

/// Whether a host of this name is passed on: `[a-z0-9][a-z0-9.-]*`.
pub fn is_passed(name: &str) -> bool {
    let is_start = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.bytes().next().is_some_and(is_start)
        && name.bytes().all(|byte| is_start(byte) || byte == b'.' || byte == b'-')
}

/// Whether a repository of this name is passed on: letters, digits, `.`, `_` and `-`, beginning with a letter or digit.
fn is_plain(name: &str) -> bool {
    name.len() <= MOST_OF_A_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
}

/// The hosts that count, with their states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostSet {
    /// The records, each ended by a NUL: fields `key=value`, with a space between two. `name=HOST state=STATE` for a host,
    /// then `name=HOST repository=NAME state=STATE revision=ID` for each of its repositories; the id is empty where none
    /// was applied.
    pub records: Vec<u8>,
    /// How many hosts there are.
    pub hosts: usize,
    /// Some names of hosts that are left out, because a program could take them for something else.
    pub left_out: Vec<String>,
}

impl HostSet {
    /// What `members` say at `now` of themselves, of the hosts that count. What users of these hosts publish does not.
    pub fn of(members: Vec<Member>, hosts: &ReactionHosts, now: DateTime<Utc>) -> Self {
        let mut set = Self::default();
        let counts = |member: &Member| {
            let is_required = match hosts {
                ReactionHosts::Required(names) => names.contains(member.name.host()),
                ReactionHosts::All => true,
            };
            member.name.user().is_none() && is_required
        };
        let members = members.into_iter().filter(counts).collect();
        let mut machines = Fleet::judged(members, &FleetFilter::default(), now).machines;
        machines.sort_by(|one, other| one.member.name.cmp(&other.member.name));
        let mut record = |text: String| {
            set.records.extend_from_slice(text.as_bytes());
            set.records.push(0);
        };
        for machine in &mut machines {
            let host = machine.member.name.host();
            if !is_passed(host) {
                if set.left_out.len() < MOST_NAMED {
                    set.left_out.push(host.to_owned());
                }
                continue;
            }
            set.hosts += 1;
            record(format!("name={host} state={}", machine.verdict.as_str()));
            machine.rows.sort_by(|one, other| one.name.cmp(&other.name));
            for row in machine.rows.iter().filter(|row| is_plain(&row.name)) {
                let state = row.state.known().map_or("unknown", |state| state.as_str());
                let revision = row.acted.as_ref().map(|acted| acted.revision.to_string());
                record(format!(
                    "name={host} repository={} state={state} revision={}",
                    row.name,
                    revision.unwrap_or_default()
                ));
            }
        }
        set
    }

    /// The digest of what is passed to `argv`.
    pub fn digest(&self, argv: &[String]) -> String {
        let mut text = argv.join("\0").into_bytes();
        text.extend_from_slice(b"\0\0");
        text.extend_from_slice(&self.records);
        hexadecimal(digest(&SHA256, &text).as_ref())
    }
}

/// What is remembered of the looks and runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReactionRecord {
    /// When the last look began.
    looked: Option<DateTime<Utc>>,
    /// The digest of what was passed to the last successful run.
    passed: Option<String>,
    /// When that run ended.
    ran: Option<DateTime<Utc>>,
    /// How many hosts were passed to it.
    #[serde(default)]
    hosts: usize,
    /// Names of hosts that were left out at the last look.
    #[serde(default)]
    left_out: Vec<String>,
    /// What fails; `None`: nothing.
    failure: Option<ReactionFailure>,
}

/// Looks or runs that failed, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReactionFailure {
    since: DateTime<Utc>,
    reason: String,
    /// The last run; `None`: no run failed, the looks do.
    run: Option<FailedRun>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FailedRun {
    at: DateTime<Utc>,
    /// The digest of what was passed to it.
    digest: String,
    /// How many runs failed with the same.
    times: u32,
}

impl ReactionRecord {
    /// Whether it is time to look at `now`.
    pub fn is_look_due(&self, now: DateTime<Utc>) -> bool {
        self.looked.is_none_or(|looked| (now - looked).abs() >= BETWEEN_LOOKS)
    }

    /// Remembers that a look begins.
    pub fn looks(&mut self, now: DateTime<Utc>) {
        self.looked = Some(now);
    }

    /// Remembers what a look left out; returns whether that is news.
    pub fn leaves_out(&mut self, names: &[String]) -> bool {
        let is_news = self.left_out != names;
        names.clone_into(&mut self.left_out);
        is_news && !names.is_empty()
    }

    /// Whether the program is to run with what has this digest, now.
    pub fn is_due(&self, digest: &str, now: DateTime<Utc>) -> bool {
        let run = self.failure.as_ref().and_then(|failure| failure.run.as_ref());
        match run.filter(|run| run.digest == digest) {
            Some(run) => {
                let minutes = (1_i64 << run.times.saturating_sub(1).min(8)).min(LONGEST);
                (now - run.at).abs() >= TimeDelta::minutes(minutes) - TimeDelta::seconds(10)
            }
            None => self.passed.as_deref() != Some(digest),
        }
    }

    /// Remembers that the look succeeded.
    pub fn is_well(&mut self) {
        self.failure.take_if(|failure| failure.run.is_none());
    }

    /// Forgets runs that failed, where what was passed before is true again.
    pub fn is_passed_already(&mut self, digest: &str) {
        if self.passed.as_deref() == Some(digest) {
            self.failure = None;
        }
    }

    /// Remembers a run that succeeded.
    pub fn ran(&mut self, digest: String, hosts: usize, now: DateTime<Utc>) {
        (self.passed, self.ran, self.hosts, self.failure) = (Some(digest), Some(now), hosts, None);
    }

    /// Remembers a look (`digest`: `None`) or a run that failed.
    pub fn failed(&mut self, reason: String, digest: Option<String>, now: DateTime<Utc>) {
        let last = self.failure.take();
        let since = last.as_ref().map_or(now, |last| last.since.min(now));
        let before = last.and_then(|last| last.run);
        let run = match digest {
            None => before,
            Some(digest) => {
                let same = before.filter(|run| run.digest == digest);
                let times = same.map_or(1, |run| run.times.saturating_add(1));
                Some(FailedRun { at: now, digest, times })
            }
        };
        self.failure = Some(ReactionFailure { since, reason, run });
    }

    /// What is known, for people and programs.
    pub fn report(&self) -> ReactionReport {
        ReactionReport {
            ran: self.ran,
            hosts: self.hosts,
            failing_since: self.failure.as_ref().map(|failure| failure.since),
            reason: self.failure.as_ref().map(|failure| failure.reason.clone()),
            left_out: self.left_out.clone(),
        }
    }

    /// Since when a person should know of failures, and why; `None`: there is nothing to know yet.
    pub fn trouble(&self, now: DateTime<Utc>) -> Option<(DateTime<Utc>, &str)> {
        let failure = self.failure.as_ref().filter(|failure| now - failure.since >= GRACE)?;
        Some((failure.since, &failure.reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fleet::{Said, Sighting};
    use crate::domain::report::presence::{Presence, PresenceRef};

    fn at(minutes: i64) -> DateTime<Utc> {
        "2026-11-30T12:00:00Z".parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(minutes)
    }

    fn member(name: &str, repositories: &str) -> Member {
        let said = format!(
            "{{\"presence\":1,\"host\":\"app01\",\"user\":null,\"world\":null,\"id\":\"{}\",\"seq\":1,\
             \"at\":\"2026-11-30T12:00:00Z\",\"every\":14400,\"agent\":\"0\",\"repositories\":[{repositories}]}}",
            "0".repeat(64)
        );
        let presence = Presence::parse(said.as_bytes()).unwrap();
        let sighting = Sighting {
            id: "a".repeat(40).parse().unwrap(),
            first_seen: at(0),
            moved: None,
            said: Said::Presence(Box::new(presence)),
        };
        let name = PresenceRef::parse(&format!("refs/heads/{name}/state")).unwrap();
        Member { name, sighting }
    }

    fn records(set: &HostSet) -> Vec<String> {
        let records = set.records.split_inclusive(|&byte| byte == 0);
        records
            .map(|it| String::from_utf8(it.strip_suffix(b"\0").unwrap().to_vec()).unwrap())
            .collect()
    }

    #[test]
    fn a_host_is_passed_with_its_state_and_its_repositories_and_nothing_hostile() {
        let evil = "{\"name\":\"a b\\u0000name=app02\",\"state\":\"current\"},\
                    {\"name\":\"$(reboot)\",\"state\":\"current\"},\
                    {\"name\":\"ops\",\"state\":\"\\u001b]0;x state=current\"},\
                    {\"name\":\"db\",\"state\":\"failing\"}";
        let members = vec![
            member("web_1", ""),
            member("app02", ""),
            member("app01", evil),
            member("app01/deploy", ""),
            member("App03", ""),
        ];
        let set = HostSet::of(members.clone(), &ReactionHosts::All, at(1));
        assert_eq!(
            records(&set),
            [
                "name=app01 state=failing",
                "name=app01 repository=db state=failing revision=",
                "name=app01 repository=ops state=unknown revision=",
                "name=app02 state=empty",
            ]
        );
        assert_eq!(
            (set.hosts, set.left_out.as_slice()),
            (2, &["App03".to_owned(), "web_1".to_owned()][..])
        );
        let required =
            ReactionHosts::Required(BTreeSet::from(["app02".to_owned(), "app09".to_owned()]));
        let set = HostSet::of(members, &required, at(1));
        assert_eq!(records(&set), ["name=app02 state=empty"]);
    }

    #[test]
    fn silence_is_a_change_without_any_ref_that_moves() {
        let set =
            |minutes| HostSet::of(vec![member("app01", "")], &ReactionHosts::All, at(minutes));
        assert_eq!(set(1).digest(&[]), set(479).digest(&[]));
        assert_ne!(set(1).digest(&[]), set(481).digest(&[]));
        assert_eq!(records(&set(481)), ["name=app01 state=silent"]);
        assert_ne!(set(1).digest(&[]), set(1).digest(&["/bin/other".to_owned()]));
    }

    #[test]
    fn a_run_that_failed_is_repeated_with_growing_pauses_and_news_at_once() {
        let mut record = ReactionRecord::default();
        assert!(record.is_look_due(at(0)) && record.is_due("a", at(0)));
        record.ran("a".into(), 2, at(0));
        assert!(!record.is_due("a", at(600)) && record.is_due("b", at(1)));
        record.failed("exited 1".into(), Some("b".into()), at(1));
        assert!(!record.is_due("b", at(1)) && record.is_due("b", at(2)));
        for minute in 2..9 {
            record.failed("exited 1".into(), Some("b".into()), at(minute));
        }
        assert!(
            !record.is_due("b", at(22)) && record.is_due("b", at(23)) && record.is_due("c", at(9))
        );
        assert_eq!(record.trouble(at(15)), None);
        assert_eq!(record.trouble(at(16)).map(|(since, _)| since), Some(at(1)));
        // A look that fails in between changes nothing of that.
        record.failed("away".into(), None, at(10));
        record.is_well();
        assert!(!record.is_due("b", at(22)) && record.report().reason.is_some());
        record.is_passed_already("a");
        assert_eq!(record.report().failing_since, None, "what was passed last is true again");
    }

    #[test]
    fn names_that_a_program_could_misread_are_left_out() {
        assert!(["app01", "db.example.org", "0-a"].into_iter().all(is_passed));
        assert!(!["", "-rf", ".app", "App01", "a_b", "a b", "a\n", "ä"].into_iter().any(is_passed));
    }
}
