//! What the pages say of given documents.

use chrono::{DateTime, Duration, Utc};

use super::fleet::{FleetFailure, FleetPage};
use super::machine::MachinePage;
use super::*;
use crate::domain::fleet::{Fleet, FleetFilter, Member, Said, Sighting};
use crate::domain::report::presence::{
    Presence, PresenceDeployed, PresenceHold, PresenceId, PresenceRef, PresenceRow, PresenceState,
};
use crate::domain::repository::action::{FinishedRun, Outcome, Trigger};
use crate::domain::repository::history::{ActKind, HistoryEntry, PersonAct};
use crate::domain::repository::hold::Person;
use crate::domain::repository::state::State;
use crate::domain::repository::status::{MachineStatus, StatusRow};

pub const OLD: &str = "5f71ff2000000000000000000000000000000000";
pub const NEW: &str = "6b2c3d7000000000000000000000000000000000";

/// Text that would do something where it is not escaped.
const EVIL: &str = "<img src=x onerror=alert(1)>\u{1b}[2J\u{202e}\"'&</style>";

pub fn now() -> DateTime<Utc> {
    "2026-11-30T14:32:00Z".parse().unwrap()
}

/// A machine with one repository `ops`.
pub fn machine(host: &str, state: State, revision: &str) -> Member {
    let hour = now() - Duration::hours(1);
    let row: PresenceRow = serde_json::from_value(serde_json::json!({
        "name": "ops", "state": state, "since": hour, "branch": "main", "upstream": NEW,
        "acted": {"revision": revision, "subject": "Release", "at": hour},
    }))
    .unwrap();
    let name = PresenceRef::parse(&format!("refs/heads/{host}/state")).unwrap();
    let presence = Presence {
        presence: 1,
        host: host.to_owned(),
        user: None,
        world: None,
        id: PresenceId::of(host, 0, b"/root/gitrepo"),
        seq: 1,
        at: now() - Duration::minutes(3),
        every: 4 * 3600,
        agent: "0.2.0".to_owned(),
        part: None,
        stack: None,
        contested: None,
        left_out: 0,
        repositories: vec![row],
    };
    let said = Said::Presence(Box::new(presence));
    let id = revision.parse().unwrap();
    Member { name, sighting: Sighting { id, first_seen: hour, moved: None, said } }
}

/// The same with another publication.
pub fn with(mut member: Member, edit: impl FnOnce(&mut Presence)) -> Member {
    if let Said::Presence(presence) = &mut member.sighting.said {
        edit(presence);
    }
    member
}

pub fn fleet_of(members: Vec<Member>) -> Fleet {
    Fleet::judged(members, &FleetFilter::default(), now())
}

fn fleet_page(fleet: &Fleet, failure: Option<FleetFailure>) -> String {
    let (remote, links) =
        ("git@example.org:status.git".to_owned(), Some(PageLinks { has_fleet: true }));
    fleet::html(&FleetPage { fleet, remote, others: 2, failure, links, now: now() })
}

fn status(rows: Vec<StatusRow>) -> MachineStatus {
    MachineStatus {
        agent: "0.2.0".to_owned(),
        host: "web01".to_owned(),
        part: Some("web".to_owned()),
        stack: None,
        root: "/root/gitrepo".to_owned(),
        at: now(),
        last_tick: Some(now() - Duration::seconds(20)),
        healthy: true,
        configuration: None,
        presence: None,
        repositories: rows,
    }
}

fn run(minutes_ago: i64, outcome: Outcome) -> FinishedRun {
    FinishedRun {
        id: format!("{minutes_ago}"),
        at: now() - Duration::minutes(minutes_ago),
        revision: NEW.parse().unwrap(),
        subject: "Release 2".to_owned(),
        reference: None,
        tag: None,
        previous: None,
        trigger: Trigger::Cron,
        outcome,
        attempt: 1,
        seconds: 0.84,
        log: None,
        tree: None,
        signer: None,
        count: 1,
        first: None,
    }
}

type Histories = Vec<(String, Result<Vec<HistoryEntry>, String>)>;

fn machine_page(status: &MachineStatus, histories: &Histories) -> String {
    let links = PageLinks { has_fleet: true };
    machine::html(&MachinePage { name: &status.host, status, histories, links, now: now() })
}

/// The text without elements and the stylesheet.
fn visible(page: &str) -> String {
    let body = page.split("</style>").last().unwrap();
    let mut text = String::new();
    for piece in body.split('<') {
        text += piece.split_once('>').map_or(piece, |(_, text)| text);
    }
    text
}

/// Whether nothing in `page` can run, load or mislead.
#[track_caller]
fn assert_harmless(page: &str) {
    let tags = page.split('<').skip(1).filter_map(|rest| rest.split('>').next());
    let is_foreign = |tag: &&str| {
        let words = [" src=", " style=", " on", "url(", "javascript:", "data:"];
        ["script", "img", "iframe", "link", "object", "base"].iter().any(|it| tag.starts_with(it))
            || words.iter().any(|word| tag.contains(word))
    };
    let tags: Vec<&str> = tags.collect();
    assert_eq!(tags.iter().filter(|tag| **tag == "/style").count(), 1, "{page}");
    assert_eq!(tags.into_iter().find(is_foreign), None, "{page}");
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"), "{STYLE}");
    let is_bad = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!page.contains(is_bad), "{page:?}");
}

#[test]
fn the_machines_page_shows_the_worst_repository_first_with_its_reason() {
    let mut failing = StatusRow::bare("web", State::Failing, now() - Duration::minutes(12));
    failing.reason = Some("work.sh exited with 1\nhint: agent log web".to_owned());
    failing.attempt = 2;
    failing.next_try = Some(now() + Duration::minutes(4));
    let page = machine_page(
        &status(vec![StatusRow::bare("ops", State::Current, now()), failing]),
        &vec![],
    );
    let text = visible(&page);
    assert!(text.find("web").unwrap() < text.rfind("ops").unwrap(), "{text}");
    assert!(
        text.contains("work.sh exited with 1") && text.contains("hint: agent log web"),
        "{text}"
    );
    assert!(text.contains("attempt 2, next try in 4 min, 14:36"), "{text}");
    assert!(page.contains("<title>web01: 1 repository needs a person</title>"), "{page}");
    assert!(text.contains("last tick 20 s ago, 14:31"), "{text}");
}

#[test]
fn a_machine_without_ticks_or_with_a_wrong_configuration_says_so() {
    let silent = MachineStatus {
        last_tick: Some(now() - Duration::minutes(9)),
        configuration: Some("agent.toml line 3: no such key\nhint: remove it".to_owned()),
        ..status(vec![])
    };
    let text = visible(&machine_page(&silent, &vec![]));
    assert!(text.contains("No tick for 9 min."), "{text}");
    assert!(text.contains("The configuration is not used: agent.toml line 3"), "{text}");
    assert!(text.contains("There is no repository."), "{text}");
}

#[test]
fn actions_and_acts_are_listed_and_drawn() {
    let act = PersonAct {
        at: now() - Duration::minutes(30),
        act: ActKind::Hold,
        who: Person { name: "ann".to_owned(), ..Person::default() },
        reason: Some("migration".to_owned()),
        revision: None,
        until: None,
    };
    let entries = vec![
        HistoryEntry::Run(run(90, Outcome::Succeeded)),
        HistoryEntry::Run(run(60, Outcome::Failed { code: 3 })),
        HistoryEntry::Act(act),
    ];
    let broken = ("old".to_owned(), Err("it is damaged\nhint: look".to_owned()));
    let page = machine_page(&status(vec![]), &vec![("ops".to_owned(), Ok(entries)), broken]);
    let text = visible(&page);
    assert!(
        text.contains("exited 3") && text.contains("by ann") && text.contains("migration"),
        "{text}"
    );
    assert!(text.contains("The history of old cannot be read: it is damaged"), "{text}");
    assert!(
        page.contains("<title id=\"timeline-title\">ops: 2 actions, the last exited 3 1 h ago"),
        "{page}"
    );
    assert_eq!(page.matches("class=\"band ").count(), 2, "{page}");
    assert_eq!(page.matches("class=\"act\"").count(), 1, "{page}");
}

#[test]
fn a_band_lasts_from_one_run_to_the_next() {
    let day = 24 * 60;
    let entries = [
        HistoryEntry::Run(run(3 * day, Outcome::Succeeded)),
        HistoryEntry::Run(run(day / 2, Outcome::TimedOut)),
        HistoryEntry::Run(run(day / 4, Outcome::Succeeded)),
        HistoryEntry::Run(run(day / 8, Outcome::Succeeded)),
    ];
    let bands = timeline::bands(&entries, now());
    let found: Vec<_> = bands.iter().map(|band| (band.span, band.class)).collect();
    assert_eq!(found, [((0.0, 0.5), "good"), ((0.5, 0.75), "bad"), ((0.75, 1.0), "good")]);
    let of_ref =
        FinishedRun { reference: Some("refs/heads/a".to_owned()), ..run(5, Outcome::Succeeded) };
    assert_eq!(timeline::bands(&[HistoryEntry::Run(of_ref)], now()), []);
}

#[test]
fn the_fleets_page_has_the_rollout_the_holds_and_who_runs_what() {
    let mut held = machine("db01", State::Held, OLD);
    held = with(held, |it| {
        it.repositories[0].holds = vec![PresenceHold {
            by: "ann".to_owned(),
            reason: "migration".to_owned(),
            since: now() - Duration::hours(2),
            until: None,
        }];
    });
    let fleet = fleet_of(vec![
        machine("web01", State::Current, NEW),
        machine("web02", State::Failing, OLD),
        held,
    ]);
    let page = fleet_page(&fleet, None);
    let text = visible(&page);
    assert!(text.contains("git@example.org:status.git · 3 machines · 2 other branches"), "{text}");
    assert!(text.contains("main is 6b2c3d7 Release"), "{text}");
    assert!(text.contains("1 of 3 machines run it; 1 held, 1 in need of a person."), "{text}");
    assert!(text.find("web02").unwrap() < text.find("db01").unwrap(), "the worst first: {text}");
    assert!(text.contains("migration") && text.contains("until somebody lifts it"), "{text}");
    assert!(page.contains("<title>Fleet: 1 of 3 machines to look at</title>"), "{page}");
    assert!(!text.contains("cannot be read"), "{text}");
}

#[test]
fn a_fleet_that_cannot_be_read_is_shown_as_it_was() {
    let fleet = fleet_of(vec![machine("web01", State::Current, NEW)]);
    let failure = FleetFailure::Fails {
        since: now() - Duration::minutes(7),
        why: "no route to host\nhint: look",
    };
    let text = visible(&fleet_page(&fleet, Some(failure)));
    let said = "The status repository cannot be read since 7 min ago, 14:25: no route to host";
    assert!(text.contains(said) && text.contains("web01"), "{text}");
    let text = visible(&fleet_page(&fleet, Some(FleetFailure::NoAnswerYet)));
    assert!(text.contains("has not answered yet"), "{text}");
}

#[test]
fn nothing_that_others_write_is_more_than_text() {
    let mut row = StatusRow::bare(EVIL, State::Broken, now());
    row.branch = Some(EVIL.to_owned());
    row.reason = Some(format!("{EVIL}\nhint: {EVIL}"));
    let mut status = status(vec![row]);
    (status.host, status.part) = (EVIL.to_owned(), Some(EVIL.to_owned()));
    let runs = vec![
        HistoryEntry::Run(FinishedRun {
            subject: EVIL.to_owned(),
            ..run(9, Outcome::Hindered { reason: EVIL.to_owned() })
        }),
        HistoryEntry::Act(PersonAct {
            at: now(),
            act: ActKind::Hold,
            who: Person { name: EVIL.to_owned(), ..Person::default() },
            reason: Some(EVIL.to_owned()),
            revision: None,
            until: None,
        }),
    ];
    let page = machine_page(
        &status,
        &vec![(EVIL.to_owned(), Ok(runs)), ("b".to_owned(), Err(EVIL.to_owned()))],
    );
    assert_harmless(&page);
    assert!(
        page.contains("&lt;img src=x onerror=alert(1)&gt;\\u{1b}[2J\\u{202e}&quot;'&amp;"),
        "{page}"
    );

    let evil = with(machine("web01", State::Current, OLD), |it| {
        (it.agent, it.part) = (EVIL.to_owned(), Some(EVIL.to_owned()));
        let row = &mut it.repositories[0];
        row.name = EVIL.to_owned();
        row.state = PresenceState::Other(EVIL.to_owned());
        (row.branch, row.reason) = (Some(EVIL.to_owned()), Some(EVIL.to_owned()));
        row.acted = Some(PresenceDeployed {
            revision: OLD.parse().unwrap(),
            tag: Some(EVIL.to_owned()),
            subject: Some(EVIL.to_owned()),
            signer: None,
            at: Some(now()),
        });
        row.holds = vec![PresenceHold {
            by: EVIL.to_owned(),
            reason: EVIL.to_owned(),
            since: now(),
            until: None,
        }];
    });
    let mut unreadable = machine("web02", State::Current, OLD);
    unreadable.sighting.said = Said::Unreadable(EVIL.to_owned());
    let failure = FleetFailure::Fails { since: now(), why: EVIL };
    assert_harmless(&fleet_page(&fleet_of(vec![evil, unreadable]), Some(failure)));
}

#[test]
fn a_machine_that_publishes_too_much_makes_no_page_without_end() {
    let long = "x".repeat(100_000);
    let huge = with(machine("web01", State::Failing, OLD), |it| {
        let row = PresenceRow { reason: Some(long.clone()), ..it.repositories[0].clone() };
        let named = |number| PresenceRow { name: format!("{number}{long}"), ..row.clone() };
        it.repositories = (0..2000).map(named).collect();
    });
    let page = fleet_page(&fleet_of(vec![huge]), None);
    assert!(page.len() < 400_000, "{} bytes", page.len());
    assert!(visible(&page).contains("and 1,980 more repositories"));
}

#[test]
fn a_page_carries_its_stylesheet_and_allows_nothing_else() {
    let page = fleet_page(&fleet_of(vec![]), None);
    let style =
        page.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
    let hash = BASE64_STANDARD.encode(digest(&SHA256, style.as_bytes()));
    assert!(content_policy().contains(&format!("style-src 'sha256-{hash}'")), "{page}");
    assert!(page.contains("content=\"default-src 'none'; "), "{page}");
    assert!(visible(&page).contains("No machine publishes there."), "{page}");
    let alone = fleet::html(&FleetPage {
        fleet: &fleet_of(vec![]),
        remote: String::new(),
        others: 0,
        failure: None,
        links: None,
        now: now(),
    });
    assert!(!alone.contains("href=\"fleet\"") && !alone.contains("href=\"status\""), "{alone}");
}
