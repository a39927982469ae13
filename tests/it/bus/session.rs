//! Sessions that go well: said and heard, over TLS, for long, and from one broker to the next.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use pmpy::domain::bus::message::{ActionMessage, ActionStep, PushHint, PushMessage, RefUpdate};
use pmpy::domain::repository::action::Outcome;

use super::{Listening, PATIENCE, beating, brokers, message, publish, topic};
use crate::sandbox::wait_until;
use crate::servers::brokers::{AGENT, Broker, KINDS, ODD, login_file};
use crate::servers::{Proxy, free_port};

const REVISION: &str = "aa794ab6cc1a4a504fd908efc938c0f241557ad4";

#[test]
fn an_announcement_reaches_who_listens() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let listening =
            Listening::to(&brokers(&[broker.url()], dir.path(), AGENT), &["future.git.commits"]);
        assert_eq!(listening.up(), broker.url());
        let line = format!("{} {REVISION} refs/heads/main", "0".repeat(40));
        let update: RefUpdate = line.parse().unwrap();
        let repo = "announced";
        let announcement = PushMessage { repo, update: &update, user: "pat", log: &[] };
        publish(&broker.url(), dir.path(), &announcement.frame(&topic("future.git.commits")));
        loop {
            // All tests share the topic.
            let Some(hint) = PushHint::read(&listening.message()) else { continue };
            if hint.repo == repo {
                assert_eq!(hint.name.as_deref(), Some("refs/heads/main"));
                assert_eq!(hint.claimed.unwrap().to_string(), REVISION);
                break;
            }
        }
    }
}

#[test]
fn whatever_can_be_said_is_heard_as_it_was_said() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let mut reached = brokers(&[broker.tls_url()], dir.path(), ODD);
        reached.ca_file = Some(broker.ca_file());
        let listening = Listening::to(&reached, &["test.words"]);
        assert_eq!(listening.up(), broker.tls_url());
        let long = "ä".repeat(30_000);
        for (subject, body) in [
            ("a:b\\c\nd \u{e9}", &b"text"[..]),
            (" blanks ", b""),
            ("x", b"a\0b\0"),
            ("x", b"\xff\xfe"),
            ("x", long.as_bytes()),
        ] {
            publish(&broker.url(), dir.path(), &message("test.words", subject, body));
            let heard = listening.message();
            assert_eq!(heard.header("subject"), Some(subject), "{kind:?}");
            assert_eq!(heard.header("destination"), Some("/topic/test.words"));
            match std::str::from_utf8(body) {
                Ok(_) => assert_eq!(heard.body, body, "{kind:?}"),
                // ActiveMQ replaces what is no UTF-8.
                Err(_) => assert!(!heard.body.is_empty()),
            }
        }
    }
}

#[test]
fn a_report_goes_out_over_the_session_that_listens() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let url = [broker.url()];
        let people = Listening::to(&brokers(&url, dir.path(), ODD), &["future.events.told"]);
        people.up();
        let agent = Listening::to(&brokers(&url, dir.path(), AGENT), &["future.git.commits"]);
        agent.up();
        let report = ActionMessage {
            host: "web01",
            repo: "spog",
            reference: None,
            revision: REVISION.parse().unwrap(),
            previous: None,
            step: &ActionStep::Ended(Outcome::Succeeded),
            seconds: 1.25,
            at: "2026-11-22T09:00:00Z".parse().unwrap(),
        };
        agent.session.send(report.frame(&topic("future.events.told")));
        let heard = people.message();
        assert_eq!(heard.header("subject"), Some("web01 spog aa794ab: succeeded after 1.2 s"));
        let json: serde_json::Value = serde_json::from_slice(&heard.body).unwrap();
        assert_eq!((&json["state"], &json["host"]), (&"succeeded".into(), &"web01".into()));
        assert_eq!(agent.session.dropped(), 0);
    }
}

#[test]
fn a_session_in_which_nothing_is_said_for_long_stays() {
    let dir = tempfile::tempdir().unwrap();
    let listening = KINDS.map(|kind| {
        let line = Proxy::to(Broker::shared(kind).port());
        let url = [format!("stomp://127.0.0.1:{}", line.port())];
        let reached = beating(brokers(&url, dir.path(), ODD));
        (kind, line, Listening::to(&reached, &["test.silence"]))
    });
    for (_, line, listening) in &listening {
        listening.up();
        line.forget_counts();
    }
    for (_, line, _) in &listening {
        // A broker hangs up on who misses three, and we on it.
        wait_until("each side beats five times", || {
            let counts = line.counts();
            counts.up >= 5 && counts.down >= 5
        });
    }
    for (kind, _, listening) in &listening {
        let url = Broker::shared(*kind).url();
        publish(&url, dir.path(), &message("test.silence", "at last", "x"));
        assert_eq!(listening.message().header("subject"), Some("at last"));
    }
}

#[test]
fn the_next_broker_is_taken_at_once_and_the_login_is_read_each_time() {
    let [rabbitmq, activemq] = KINDS.map(Broker::shared);
    let dir = tempfile::tempdir().unwrap();
    let urls = [format!("stomp://127.0.0.1:{}", free_port()), activemq.url(), rabbitmq.url()];
    let reached = brokers(&urls, dir.path(), ODD);
    let listening = Listening::to(&reached, &["test.next"]);
    let (why, again_in) = listening.down();
    assert!(why.contains("it does not answer: "), "{why}");
    assert_eq!(again_in, Duration::ZERO);
    assert_eq!(listening.up(), activemq.url());

    let wrong = Listening::to(&brokers(&urls[1..], dir.path(), "agent:wrong"), &["test.next"]);
    let (first, second) = (wrong.down(), wrong.down());
    assert_eq!(first.1, Duration::ZERO);
    assert!(second.1 >= Duration::from_secs(1), "all were tried: {second:?}");
    login_file(dir.path(), ODD);
    assert_eq!(wrong.up(), activemq.url());
}

#[test]
fn a_session_that_is_dropped_takes_leave() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let listening = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &["test.bye"]);
        listening.up();
        let Listening { session, events } = listening;
        drop(session);
        // Its thread held the other end.
        assert!(matches!(events.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected)));
    }
}

#[test]
fn a_session_in_the_place_of_another_continues_with_its_counts() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let reached = brokers(&[broker.url()], dir.path(), ODD);
        let Listening { session, .. } = {
            let listening = Listening::to(&reached, &["test.counts"]);
            listening.up();
            listening.session.send(message("test.counts", "x", "y"));
            listening.message();
            listening
        };
        let nowhere = brokers(&[format!("stomp://127.0.0.1:{}", free_port())], dir.path(), ODD);
        let session = session.replace(nowhere, Vec::new(), drop).unwrap();
        for _ in 0..5 {
            session.send(message("test.counts", "x", "y"));
        }
        assert_eq!((session.sent(), session.dropped()), (1, 0));
        let session = session.replace(reached, Vec::new(), drop).unwrap();
        // They waited for a broker that is not asked any more.
        wait_until("they are counted", || session.dropped() == 5);
        assert_eq!(session.sent(), 1);
    }
}
