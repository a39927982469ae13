//! Sessions that go wrong: each fault is told in one line, and passes.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use pmpy::domain::bus::broker::BrokerSettings;
use pmpy::domain::bus::stomp::{StompFrame, StompVersion};

use super::{Listening, PATIENCE, beating, brokers, message, publish};
use crate::sandbox::{Ran, Sandbox, wait_until};
use crate::servers::brokers::{AGENT, Broker, ELSEWHERE, HOOK, KINDS, ODD, login_file};
use crate::servers::{Behaviour, Proxy, free_port};

/// How often a broker is asked for what it says: one that has much to do does not always answer in time.
const PATIENT: usize = 4;

/// Why a session with `brokers` does not come about.
#[track_caller]
fn reported(brokers: &BrokerSettings) -> String {
    reported_with(brokers, "")
}

/// Why a session with `brokers` does not come about: the first reason that has `words` in it, of the
/// first few.
#[track_caller]
fn reported_with(brokers: &BrokerSettings, words: &str) -> String {
    let listening = Listening::to(brokers, &["future.git.commits"]);
    let mut last = String::new();
    for _ in 0..PATIENT {
        let (why, again_in) = listening.down();
        assert!(again_in >= Duration::from_secs(1), "{again_in:?}");
        last = why;
        if last.contains(words) {
            break;
        }
    }
    last
}

/// What `broker` replies to a message to `topic` whose head is one that nobody should write.
fn says(broker: &Broker, topic: &str, head: &[u8]) -> String {
    let (user, password) = ODD.split_once(':').unwrap();
    let connect = StompFrame::new("CONNECT").with("accept-version", "1.2").with("host", "/");
    let connect = connect.with("login", user).with("passcode", password);
    let mut stream = TcpStream::connect(("127.0.0.1", broker.port())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut reads_until = |word: &str, bytes: &[u8]| {
        // It may hang up before it has read them all.
        let _ = stream.write_all(bytes);
        let (mut reply, mut piece) = (String::new(), [0; 4096]);
        while !reply.contains(word)
            && !reply.contains("ERROR")
            && let Ok(length @ 1..) = stream.read(&mut piece)
        {
            reply.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
        reply
    };
    reads_until("CONNECTED", &connect.encode(StompVersion::V10).unwrap());
    let begin = format!("SEND\ndestination:/topic/{topic}\nreceipt:r\n");
    reads_until("receipt-id:r", &[begin.as_bytes(), head, b"\nx\0"].concat())
}

#[test]
fn a_client_that_is_refused_gets_the_reason() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let url = [broker.url()];
        for login in ["agent:wrong", "nobody:at all"] {
            // ActiveMQ now and then hangs up before its reason is out.
            let why = reported_with(&brokers(&url, dir.path(), login), "it refuses the connection");
            assert!(why.starts_with(&format!("the broker {} cannot be used: ", url[0])), "{why}");
            assert!(
                why.contains("it refuses the connection") && why.contains("login_file"),
                "{why}"
            );
            assert!(!why.contains("wrong\"") && !why.contains("at all"), "{why}");
        }
        // It may announce and not listen.
        let why = reported_with(&brokers(&url, dir.path(), HOOK), "it says: ");
        assert!(why.contains("is over: it says: "), "{why}");
        let mut elsewhere = brokers(&url, dir.path(), AGENT);
        elsewhere.login_file = Some(dir.path().join("none"));
        assert!(reported(&elsewhere).contains("none is not there"));
    }
    let broker = Broker::shared(KINDS[0]);
    let dir = tempfile::tempdir().unwrap();
    let mut elsewhere = brokers(&[broker.url()], dir.path(), AGENT);
    elsewhere.host = "stompgit".to_owned();
    let why = reported_with(&elsewhere, "it refuses the connection");
    assert!(why.contains("hint: set host to the virtual host"), "{why}");
}

#[test]
fn only_a_certificate_that_is_right_is_trusted() {
    let machine = Sandbox::new();
    for kind in KINDS {
        let broker = Broker::shared(kind);
        let dir = machine.path("");
        let mut reached = brokers(&[broker.tls_url()], &dir, AGENT);
        let stranger = "the certificate of localhost is signed by an unknown CA";
        let why = reported_with(&reached, stranger);
        assert!(why.contains(stranger), "{why}");
        reached.ca_file = Some(broker.ca_file().with_file_name("self-signed.pem"));
        let why = reported_with(&reached, stranger);
        assert!(why.contains(stranger), "{why}");

        let elsewhere = [format!("stomps://{ELSEWHERE}:{}", broker.tls_port())];
        let mut reached = brokers(&elsewhere, &dir, AGENT);
        reached.ca_file = Some(broker.ca_file());
        let another = format!("the certificate of {ELSEWHERE} is for another name");
        let why = reported_with(&reached, &another);
        assert!(why.contains(&another), "{why}");

        // The one without TLS where it is expected, and the other way round.
        let to = |scheme: &str, port| [format!("{scheme}://localhost:{port}")];
        let mut reached = brokers(&to("stomps", broker.port()), &dir, AGENT);
        reached.ca_file = Some(broker.ca_file());
        let hint = "hint: is this the port for TLS?";
        let why = reported_with(&reached, hint);
        assert!(why.contains(hint), "{kind:?}: {why}");
        let hint = "hint: is this the port for STOMP";
        let why = reported_with(&brokers(&to("stomp", broker.tls_port()), &dir, AGENT), hint);
        assert!(why.contains(hint), "{kind:?}: {why}");
    }
}

#[test]
fn a_certificate_that_is_expired_is_not_trusted() {
    for kind in KINDS {
        let (machine, broker) = (Sandbox::new(), Broker::shared(kind));
        let login = login_file(&machine.path(""), AGENT);
        machine.configure(&format!(
            "[bus]\nbrokers = {:?}\nca_file = {:?}\nlogin_file = {login:?}\n",
            broker.tls_url(),
            broker.ca_file()
        ));
        let said = machine.agent(&["check"]).stdout;
        assert!(said.contains(&format!("connected to {}", broker.tls_url())), "{kind:?}: {said}");
        let mut later = machine.command("faketime");
        later.env("NO_FAKE_STAT", "1").args(["-f", "+365d"]).args(machine.agent_line(&["check"]));
        let said = Ran::of(&mut later).stdout;
        assert!(said.contains("the certificate of localhost expired on 20"), "{kind:?}: {said}");
    }
}
#[test]
fn a_broker_that_hangs_is_left_after_three_beats() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let line = Proxy::to(broker.port());
        let through = format!("stomp://127.0.0.1:{}", line.port());
        let urls = [through.clone(), broker.url()];
        let reached = beating(brokers(&urls, dir.path(), ODD));
        let listening = Listening::to(&reached, &["test.hung"]);
        assert_eq!(listening.up(), through);
        line.behave(Behaviour::BlackHole);
        let (why, _) = listening.down();
        assert!(why.ends_with("it hangs: 3 heart-beats did not come"), "{why}");
        assert_eq!(listening.up(), broker.url());
    }
}

#[test]
fn a_server_that_answers_nothing_or_nonsense_is_left_in_time() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let line = Proxy::to(broker.port());
        let through = format!("stomp://127.0.0.1:{}", line.port());
        for (behaviour, reason) in [
            (Behaviour::BlackHole, "it takes the connection and does not answer"),
            (Behaviour::CloseAfter(5), "it ends the connection"),
            (Behaviour::ResetAfter(5), "the connection broke off"),
            (Behaviour::Flood(b"xxxx".to_vec()), "the answer is not STOMP"),
            (Behaviour::Flood(b"\n".to_vec()), "it takes the connection and does not answer"),
            (Behaviour::Flood(b"A".to_vec()), "the answer is not STOMP"),
            (Behaviour::Flood(b"CONNECTED\n\n\0".to_vec()), "it does not confirm the subscription"),
        ] {
            line.behave(behaviour.clone());
            let why =
                reported_with(&brokers(std::slice::from_ref(&through), dir.path(), ODD), reason);
            assert!(why.contains(reason), "{kind:?}: {behaviour:?}: {why}");
            // And the next one has its turn.
            let both = [through.clone(), broker.url()];
            let listening = Listening::to(&brokers(&both, dir.path(), ODD), &["test.left"]);
            assert_eq!(listening.up(), broker.url(), "{kind:?}: {behaviour:?}");
        }
        let tls = Proxy::to(broker.tls_port());
        tls.behave(Behaviour::BlackHole);
        let silent = format!("stomps://localhost:{}", tls.port());
        let reason = "says nothing, not even for TLS";
        let why = reported_with(&brokers(&[silent], dir.path(), ODD), reason);
        assert!(why.contains(reason), "{kind:?}: {why}");
    }
    // Longer than the part of a name may be: nobody is asked for it.
    let nobody = format!("stomp://{}", "n".repeat(64));
    let dir = tempfile::tempdir().unwrap();
    assert!(reported(&brokers(&[nobody], dir.path(), ODD)).contains("name is not known"));
}

#[test]
fn a_session_ends_while_its_broker_talks_without_end() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let line = Proxy::to(broker.port());
        let through = [format!("stomp://127.0.0.1:{}", line.port())];
        let listening = Listening::to(&brokers(&through, dir.path(), ODD), &["test.endless"]);
        listening.up();
        line.behave(Behaviour::Flood(b"\n".to_vec()));
        publish(&broker.url(), dir.path(), &message("test.endless", "x", "y"));
        line.forget_counts();
        wait_until("it floods", || line.counts().down > 1 << 20);
        let Listening { session, events } = listening;
        drop(session);
        // Its thread held the other end.
        assert!(matches!(events.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected)));
    }
}

#[test]
fn a_broker_that_was_killed_is_found_again() {
    for kind in KINDS {
        let (mut broker, dir) = (Broker::start(kind), tempfile::tempdir().unwrap());
        let listening = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &["test.kill"]);
        listening.up();
        broker.kill();
        listening.down();
        // It says so each time, and never too often.
        assert!(listening.down().1 >= Duration::from_secs(1));
        broker.start_again();
        listening.up();
        publish(&broker.url(), dir.path(), &message("test.kill", "back", "x"));
        assert_eq!(listening.message().header("subject"), Some("back"), "{kind:?}");
    }
}

#[test]
fn messages_meant_to_hurt_do_not_end_the_session() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let listening = Listening::to(&brokers(&[broker.url()], dir.path(), ODD), &["test.hurt"]);
        listening.up();
        let many = (0..300).fold(message("test.hurt", "many", "x"), |frame, number| {
            frame.with(&format!("h{number}"), "x")
        });
        for frame in [
            many,
            message("test.hurt", &"x".repeat(8_500), "long"),
            message("test.hurt", "big", vec![b'x'; 3 << 20]),
            message("test.hurt", "\u{1b}[2J\r\n[spog]", b"\x1b[2J\0\xff".to_vec()),
        ] {
            publish(&broker.url(), dir.path(), &frame);
            let heard = listening.message();
            assert!(heard.body.len() <= 64 << 10 && heard.headers.len() <= 32);
            assert_eq!(heard.header("subscription"), Some("0"), "{kind:?}");
        }
        // One that comes again would be left out by the broker.
        let long = |number| format!("h{number}:{}\n", "x".repeat(60_000));
        let long: String = (0..20).map(long).collect();
        for (head, is_relayed) in [
            (&b"h:a\0b\n"[..], &KINDS[..]),
            // ActiveMQ knows how long a header may be.
            (long.as_bytes(), &KINDS[..1]),
            (b"h:a\\tb\n", &[]),
            (b"no colon\n", &[]),
            (b":x\n", &[]),
            (b"h:a\rb\r\n", &[]),
            (b"\xff\xfe:\xff\n", &[]),
            (b"content-length :1\n", &[]),
            (b"subscription:7\ncontent-length:1\n", &[]),
        ] {
            let reply = says(broker, "test.hurt", head);
            let is_taken = reply.contains("receipt-id:r");
            assert!(is_taken || !is_relayed.contains(&kind), "{kind:?}: {reply:?}");
            if is_taken {
                let heard = listening.message();
                assert_eq!(heard.header("subscription"), Some("0"), "{kind:?}: {heard:?}");
            }
        }
        publish(&broker.url(), dir.path(), &message("test.hurt", "at last", "x"));
        assert_eq!(listening.message().header("subject"), Some("at last"), "{kind:?}");
    }
}

/// How many messages of a flood are on their way at a time: more than the 256 that a session keeps.
const UNDERWAY: u64 = 500;

#[test]
fn a_flood_is_taken_and_what_cannot_be_sent_is_counted() {
    for kind in KINDS {
        let (broker, dir) = (Broker::shared(kind), tempfile::tempdir().unwrap());
        let reached = brokers(&[broker.url()], dir.path(), ODD);
        let listening = Listening::to(&reached, &["test.flood"]);
        listening.up();
        // A broker may hold back or discard messages for a subscriber that is far behind. How far it is
        // behind depends on how busy the machine is, so only so many are on their way.
        let (mut sent, mut received) = (0, 0);
        while received < 20_000 {
            if sent < 20_000 && sent - received < UNDERWAY {
                let before = listening.session.dropped();
                listening.session.send(message("test.flood", "x", "y"));
                sent += u64::from(listening.session.dropped() == before);
            } else {
                listening.message();
                received += 1;
            }
        }
        let down = format!("stomp://127.0.0.1:{}", free_port());
        let nobody = Listening::to(&brokers(&[down], dir.path(), ODD), &["test.flood"]);
        for _ in 0..300 {
            nobody.session.send(message("test.flood", "x", "y"));
        }
        assert_eq!(nobody.session.dropped(), 300 - 256);
    }
}

#[test]
fn what_is_left_of_a_broker_is_nothing() {
    let broker = Broker::start(KINDS[1]);
    let dir = broker.ca_file().parent().unwrap().to_owned();
    let port = broker.port();
    drop(broker);
    wait_until("its port is free", || std::net::TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert!(fs::metadata(dir).is_err());
}
