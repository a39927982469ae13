//! Tests of the names of refs, of the file, and of the subject of its commit.

use chrono::{DateTime, Duration, Utc};

use super::*;

const NEW: &str = "62fd60d5f35eb2d7b8c3e5a6f6d1b0a3c4e5f607";

fn now() -> DateTime<Utc> {
    "2026-11-30T14:32:10Z".parse().unwrap()
}

fn id() -> PresenceId {
    PresenceId::of("4711", 0, b"/root/gitrepo")
}

fn row(name: &str, state: State) -> StatusRow {
    let acted = LastDeployed {
        revision: NEW.parse().unwrap(),
        tag: None,
        subject: Some("Release 2".into()),
        signer: None,
        at: Some(now()),
        trigger: Some("cron".into()),
        outcome: Some("succeeded".into()),
        seconds: Some(0.8),
    };
    StatusRow { acted: Some(acted), ..StatusRow::bare(name, state, now()) }
}

fn status(repositories: Vec<StatusRow>) -> MachineStatus {
    MachineStatus {
        agent: "0.2.0".into(),
        host: "web01".into(),
        part: Some("appnode".into()),
        stack: None,
        root: "/root/gitrepo".into(),
        at: now(),
        last_tick: Some(now()),
        healthy: true,
        configuration: None,
        presence: None,
        repositories,
    }
}

fn presence(repositories: Vec<StatusRow>) -> Presence {
    let place = PresenceRef::of_machine("web01").unwrap();
    Presence::of(&place, id(), 14_400, &status(repositories))
}

#[test]
fn a_ref_name_is_read_as_it_is_written() {
    let world = Some(world_name("test", b"/srv/test"));
    let refs = [
        (PresenceRef::of_machine("web01"), "refs/heads/web01/state"),
        (PresenceRef::of_user("web01", "deploy", None), "refs/heads/web01/deploy/state"),
        (
            PresenceRef::of_user("web01.example.org", "root", world),
            "refs/heads/web01.example.org/root/test-6f3f3b03/state",
        ),
    ];
    for (made, name) in refs {
        let made = made.unwrap();
        let without_digits = |name: &str| name.split("test-").next().unwrap().to_owned();
        assert_eq!(without_digits(&made.to_string()), without_digits(name));
        assert_eq!(PresenceRef::parse(&made.to_string()), Some(made));
    }
}

#[test]
fn what_is_no_ref_of_presence_is_none() {
    let long = format!("refs/heads/{}/state", "a".repeat(200));
    let others = [
        "",
        "refs/heads/state",
        "refs/heads//state",
        "refs/heads/web01",
        "refs/tags/web01/state",
        "refs/heads/web01/state/state",
        "refs/heads/web01/root/state",
        "refs/heads/web01/deploy/test/state",
        "refs/heads/web01/deploy/test-0123ABCD/state",
        "refs/heads/web01/deploy/test-01234567/more/state",
        "refs/heads/-web01/state",
        "refs/heads/.web01/state",
        "refs/heads/web..01/state",
        "refs/heads/web01./state",
        "refs/heads/web01.lock/state",
        "refs/heads/web 01/state",
        "refs/heads/web\u{1b}[2J/state",
        "refs/heads/wéb/state",
        long.as_str(),
    ];
    for name in others {
        assert_eq!(PresenceRef::parse(name), None, "{name:?}");
    }
}

#[test]
fn a_user_called_state_and_a_name_that_no_ref_can_have_are_refused() {
    let state = PresenceRef::of_user("web01", "state", None);
    assert_eq!(state, Err(InvalidPresenceName::UserCalledState));
    assert!(PresenceRef::of_user("web01", "EXAMPLE\\deploy", None).is_err());
    assert!(PresenceRef::of_machine("").is_err());
    assert!(PresenceRef::of_machine("web 01").is_err());
}

#[test]
fn the_directory_of_a_world_becomes_a_part_of_a_ref_whatever_its_name() {
    for name in
        ["test", ".hidden", "a..b", "x.lock", "mit Leerzeichen", "ü", "a/b", &"x".repeat(255), ""]
    {
        let world = Some(world_name(name, name.as_bytes()));
        let made = PresenceRef::of_user("web01", "deploy", world).unwrap();
        assert_eq!(PresenceRef::parse(&made.to_string()).as_ref(), Some(&made), "{made}");
    }
    assert_ne!(world_name("test", b"/a/test"), world_name("test", b"/b/test"));
}

#[test]
fn an_id_differs_by_machine_user_and_root_and_reveals_none() {
    assert_eq!(id(), PresenceId::of("4711", 0, b"/root/gitrepo"));
    assert_ne!(id(), PresenceId::of("4712", 0, b"/root/gitrepo"));
    assert_ne!(id(), PresenceId::of("4711", 1, b"/root/gitrepo"));
    assert_ne!(id(), PresenceId::of("4711", 0, b"/srv"));
    assert!(!id().to_string().contains("4711"));
    assert!(PresenceId::try_from("4711".to_owned()).is_err());
}

#[test]
fn a_publication_is_read_as_it_is_written() {
    let mut held = row("db", State::Held);
    held.holds = vec![Hold {
        number: 1,
        by: "ann".into(),
        reason: "migration".into(),
        since: now(),
        until: Some(now() + Duration::hours(2)),
        ..Hold::default()
    }];
    let mut published = row("site", State::Failing);
    published.published = vec![PublishedRef {
        name: "refs/heads/main".into(),
        revision: Some(NEW.parse().unwrap()),
        path: "/srv/www/site".into(),
        state: State::Current,
        reason: None,
        bad: None,
    }];
    let mut written = presence(vec![held, published, row("ops", State::Current)]);
    written.seq = 7;
    written.contested = Some(ContestedPresence { other: id(), since: now() });
    assert_eq!(Presence::parse(&written.to_bytes().unwrap()), Ok(written));
}

#[test]
fn neither_paths_nor_attempts_nor_people_s_addresses_are_published() {
    let mut failing = row("ops", State::Failing);
    failing.attempt = 4711;
    failing.path = "/root/gitrepo/secret-place".into();
    failing.holds = vec![Hold {
        person: Some(crate::domain::repository::hold::Person {
            from: Some("192.0.2.7".into()),
            ..Default::default()
        }),
        ..Hold::default()
    }];
    let text = String::from_utf8(presence(vec![failing]).to_bytes().unwrap()).unwrap();
    for word in ["4711", "secret-place", "192.0.2.7", "cron", "0.8"] {
        assert!(!text.contains(word), "{word} is in {text}");
    }
}

#[test]
fn a_newer_agent_s_fields_and_states_are_no_fault() {
    let text = format!(
        r#"{{"presence": 2, "host": "web01", "id": "{}", "seq": 3, "at": "2026-11-30T14:32:10Z", "mood": [1],
            "repositories": [{{"name": "ops", "state": "dreaming", "depth": {{}}}}]}}"#,
        id()
    );
    let read = Presence::parse(text.as_bytes()).unwrap();
    assert_eq!(read.repositories[0].state, PresenceState::Other("dreaming".into()));
    assert_eq!(read.every, 0);
}

#[test]
fn hostile_bytes_are_a_fault() {
    let large = vec![b' '; MOST_BYTES + 1];
    assert_eq!(Presence::parse(&large), Err(PresenceFault::TooLarge(MOST_BYTES + 1)));
    let deep = "[".repeat(100_000);
    assert!(matches!(Presence::parse(deep.as_bytes()), Err(PresenceFault::Malformed(_))));
    assert!(matches!(Presence::parse(b"\xff\xfe"), Err(PresenceFault::Malformed(_))));
    let rows = vec![r#"{"name":"a","state":"new"}"#; MOST_REPOSITORIES + 1].join(",");
    let text = format!(
        r#"{{"presence":1,"host":"a","id":"{}","seq":1,"at":"2026-11-30T14:32:10Z","repositories":[{rows}]}}"#,
        id()
    );
    let fault = Presence::parse(text.as_bytes());
    assert_eq!(fault, Err(PresenceFault::TooMany(MOST_REPOSITORIES + 1)));
}

#[test]
fn a_publication_that_would_be_too_large_keeps_what_is_worst() {
    let mut rows: Vec<StatusRow> =
        (0..12_000).map(|number| row(&format!("repo{number:05}"), State::Current)).collect();
    for row in &mut rows {
        row.reason = Some("ü".repeat(3000));
    }
    rows[11_999].state = State::Failing;
    let bytes = presence(rows).to_bytes().unwrap();
    let read = Presence::parse(&bytes).unwrap();
    assert!(read.repositories.iter().any(|row| row.name == "repo11999"));
    assert_eq!(read.left_out + read.repositories.len(), 12_000);
    assert!(bytes.len() > MOST_BYTES / 2, "no more is left out than needed: {}", bytes.len());
}

#[test]
fn a_repository_with_very_many_refs_keeps_the_worst_of_them() {
    let published = |number: usize, state| PublishedRef {
        name: format!("refs/heads/feature-{number:05}"),
        revision: Some(NEW.parse().unwrap()),
        path: String::new(),
        state,
        reason: None,
        bad: None,
    };
    let mut site = row("site", State::Failing);
    site.published = (0..9999).map(|number| published(number, State::Current)).collect();
    site.published.push(published(9999, State::Failing));
    let read = Presence::parse(&presence(vec![site]).to_bytes().unwrap()).unwrap();
    let kept = &read.repositories[0].published;
    assert_eq!((kept.len(), kept[0].name.as_str()), (100, "refs/heads/feature-09999"));
}

#[test]
fn the_subject_counts_the_states_and_names_the_worst() {
    let subject = |rows: &[(&str, State)]| {
        presence(rows.iter().map(|(name, state)| row(name, *state)).collect()).subject()
    };
    let (current, failing) = (State::Current, State::Failing);
    assert_eq!(
        subject(&[("a", current), ("b", current), ("c", current), ("db", failing)]),
        "3 current, 1 failing: db at 62fd60d"
    );
    assert_eq!(subject(&[("a", current), ("b", current)]), "2 current");
    assert_eq!(subject(&[("ops", current)]), "1 current: ops at 62fd60d");
    assert_eq!(subject(&[]), "no repository");
    let many: Vec<_> = ["a", "b", "c", "d"].iter().map(|&name| (name, failing)).collect();
    assert_eq!(subject(&many), "4 failing: a at 62fd60d, b at 62fd60d, c at 62fd60d, …");
}

#[test]
fn only_what_people_would_call_news_changes_the_digest() {
    let digest = |row: &StatusRow| presence(vec![row.clone()]).digest().unwrap();
    let before = row("ops", State::Current);
    let mut other = before.clone();
    (other.since, other.attempt, other.refusals) = (now() + Duration::hours(1), 3, 1);
    assert_eq!(digest(&before), digest(&other));
    let mut later = presence(vec![before.clone()]);
    (later.seq, later.at) = (9, now() + Duration::hours(1));
    assert_eq!(later.digest().unwrap(), digest(&before));
    let changes: [fn(&mut StatusRow); 4] = [
        |row| row.state = State::Ahead,
        |row| row.reason = Some("because".into()),
        |row| row.upstream = Some("1".repeat(40).parse().unwrap()),
        |row| row.holds.push(Hold::default()),
    ];
    for change in changes {
        let mut other = before.clone();
        change(&mut other);
        assert_ne!(digest(&before), digest(&other));
    }
}
