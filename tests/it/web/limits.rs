//! What is too much, too slow or no HTTP at all ends by itself, and nobody else notices.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::{answer, github, machine, signature};
use crate::sandbox::wait_until;

/// How long a request may take, and more than that on a busy machine.
const SOON: (Duration, Duration) = (Duration::from_millis(4500), Duration::from_secs(30));

/// The head of a post that is signed right for `body`, without an end.
fn head(body: &str) -> String {
    format!(
        "POST /hook HTTP/1.1\r\nHost: a\r\nX-GitHub-Event: push\r\n\
         X-Hub-Signature-256: sha256={}\r\n",
        signature(body)
    )
}

/// The most bytes of a body: what the largest push of GitHub's has, and a little more.
const MOST: usize = 25 << 20;

#[test]
fn a_body_may_have_25_mib_and_no_more() {
    let (_machine, _listener, web) = machine("");
    for (size, status) in [(64 << 10, 202), (MOST, 202), (MOST + 1, 413), (MOST + (1 << 20), 413)] {
        let start = github("spog");
        let body = start.clone() + &" ".repeat(size - start.len());
        let whole = format!("{}Content-Length: {size}\r\n\r\n{body}", head(&body));
        let answer = web.say(whole.as_bytes());
        assert_eq!(answer.status, status, "{size} bytes: {answer:?}");
        let chunked = format!(
            "{}Transfer-Encoding: chunked\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n",
            head(&body)
        );
        let answer = web.say(chunked.as_bytes());
        assert_eq!(answer.status, status, "{size} bytes in a chunk: {answer:?}");
    }
    let lies = format!("{}Content-Length: 99999999999\r\n\r\n", head(""));
    assert_eq!(web.say(lies.as_bytes()).status, 413);
    assert_eq!(web.metric("pmpy_hooks_total{result=\"refused\"}"), 5.0);
    // A client that asks before it sends so much need not send it.
    let asks = format!("{}Content-Length: {}\r\nExpect: 100-continue\r\n\r\n", head(""), MOST + 1);
    let answer = web.say(asks.as_bytes());
    assert_eq!(answer.status, 413, "{answer:?}");
    assert!(answer.body.contains("larger than 25 MiB"), "{answer:?}");
}

/// What GitHub says of a push to `repo` of so many bytes, most of them about commits.
pub fn push_of(repo: &str, size: usize) -> String {
    let commit = format!(
        r#"{{"id":"{}","message":"Merge \"a\" {{[","author":{{"name":"Pat"}},"added":["x/y"]}},"#,
        "a".repeat(40)
    );
    let start = github(repo).replace("\"commits\":[]}", "\"commits\":[");
    let commits = commit.repeat((size - start.len()) / commit.len());
    start + commits.trim_end_matches(',') + "]}"
}

#[test]
fn a_push_of_very_many_commits_is_applied() {
    let (machine, _listener, web) = machine("[repo.spog]\npoll = false\n");
    let revision = machine.push("spog", &[("page", "new")]);
    let body = push_of("a/spog", 20 << 20);
    let answer =
        web.say(format!("{}Content-Length: {}\r\n\r\n{body}", head(&body), body.len()).as_bytes());
    assert!(answer.body.contains("accepted: checking a/spog"), "{answer:?}");
    wait_until("it acts", || machine.lastaction("spog").as_ref() == Some(&revision));
}

#[test]
fn a_hook_of_20_mib_takes_no_memory() {
    let (_machine, listener, web) = machine("");
    let say = |body: &str, head: String| {
        let answer =
            web.say(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
        (answer.status, answer.body)
    };
    let large = push_of("a/other", 20 << 20);
    // About an unknown repository: a tick would take memory of its own.
    let small = push_of("a/other", 1 << 20);
    let unsigned = "POST /hook HTTP/1.1\r\nHost: a\r\nX-GitHub-Event: push\r\n".to_owned();
    let forged = head(&small);
    let brackets = format!("{{\"repository\":{}", "[".repeat(20 << 20));
    for (what, body, head, status) in [
        ("signed", &large, head(&large), 202),
        ("without a signature", &large, unsigned, 401),
        ("signed for another body", &large, forged, 401),
        ("brackets", &brackets, head(&brackets), 400),
    ] {
        assert_eq!(say(&small, self::head(&small)).0, 202);
        listener.forget_most_memory();
        let before = listener.most_memory();
        let (answered, text) = say(body, head);
        assert_eq!(answered, status, "{what}: {text}");
        let grown = listener.most_memory().saturating_sub(before);
        println!("{what}: {} KiB", grown >> 10);
        assert!(grown < 1 << 20, "{what}: {grown} bytes");
    }
}

#[test]
fn chunks_without_end_are_ended() {
    let (_machine, _listener, web) = machine("");
    let mut stream = web.connect();
    stream.write_all(format!("{}Transfer-Encoding: chunked\r\n\r\n", head("")).as_bytes()).unwrap();
    let mut sent = 0;
    // As much as is read before it is cut off, and the buffers on the way may hold, and more.
    while sent < 64 << 20 && stream.write_all(b"400\r\n").is_ok() {
        match stream.write_all(&[b'x'; 1024]).and_then(|()| stream.write_all(b"\r\n")) {
            Ok(()) => sent += 1024,
            Err(_) => break,
        }
    }
    assert!(sent < 64 << 20, "it takes whatever comes");
    assert!([413, 0].contains(&answer(stream).status));
    assert_eq!(web.get("/healthz").status, 200);
}

#[test]
fn what_comes_too_slowly_is_ended_after_five_seconds() {
    let (_machine, _listener, web) = machine("");
    let body = github("spog");
    let begun = format!("{}Content-Length: {}\r\n\r\n", head(&body), body.len());
    let chunked = format!("{}Transfer-Encoding: chunked\r\n\r\n", head(&body));
    let drips = "x".repeat(1000);
    thread::scope(|scope| {
        for (what, start, drip, status) in [
            ("nothing", "", "", 0),
            ("half a header", "POST /hook HTTP/1.1\r\nX-Git", "", 0),
            ("a header that drips", "POST /hook HTTP/1.1\r\nX-Git", drips.as_str(), 0),
            ("no body", &begun, "", 408),
            ("half a body", &begun, &body[..40], 408),
            ("chunks that drip", &chunked, &"1\r\nx\r\n".repeat(1000), 408),
        ]
        .map(|(what, start, drip, status)| (what, start.to_owned(), drip.to_owned(), status))
        {
            let web = &web;
            scope.spawn(move || {
                let began = Instant::now();
                let mut stream = web.connect();
                stream.write_all(start.as_bytes()).unwrap();
                let mut dripping = stream.try_clone().unwrap();
                let dripper = thread::spawn(move || {
                    for piece in drip.as_bytes().chunks(1) {
                        if dripping.write_all(piece).is_err() {
                            return;
                        }
                        thread::sleep(Duration::from_millis(20));
                    }
                });
                let ended = answer(stream);
                let took = began.elapsed();
                assert_eq!(ended.status, status, "{what}: {ended:?}");
                assert!(took > SOON.0 && took < SOON.1, "{what}: {took:?}");
                dripper.join().unwrap();
            });
        }
    });
    assert_eq!(web.get("/healthz").status, 200);
}

#[test]
fn the_seventeenth_connection_waits_for_one_of_the_others_to_end() {
    let (_machine, _listener, web) = machine("");
    let began = Instant::now();
    let others: Vec<_> = (0..16).map(|_| web.connect()).collect();
    assert_eq!(web.get("/healthz").status, 200);
    let took = began.elapsed();
    assert!(took > SOON.0 && took < SOON.1, "{took:?}");
    drop(others);
    assert_eq!(web.get("/healthz").status, 200);
}

#[test]
fn a_hundred_who_ask_at_once_are_all_answered() {
    let (_machine, listener, web) = machine("");
    let began = Instant::now();
    thread::scope(|scope| {
        for path in ["/status", "/metrics", "/healthz", "/hook"].repeat(25) {
            let web = &web;
            scope.spawn(move || {
                let answer = web.get(path);
                let expected = if path == "/hook" { 405 } else { 200 };
                assert_eq!(answer.status, expected, "{path}: {answer:?}");
            });
        }
    });
    // What was seen a second ago is told again.
    let looks = listener.log().matches("reading the state of all repositories").count() as u64;
    let most = began.elapsed().as_secs() + 2;
    assert!((1..=most).contains(&looks), "{looks} in {:?}", began.elapsed());
}

#[test]
fn only_what_is_there_is_answered_and_only_to_the_right_method() {
    let (_machine, _listener, web) = machine("");
    let said =
        |line: &str| web.say(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).status;
    for (line, status) in [
        ("GET /hook", 405),
        ("PUT /hook", 405),
        ("DELETE /status", 405),
        ("POST /metrics", 405),
        ("GET /", 404),
        ("GET /status/..", 404),
        ("GET //status", 404),
        ("POST /hook/spog", 404),
        ("HEAD /healthz", 200),
        ("GET /healthz?x=y", 200),
    ] {
        assert_eq!(said(line), status, "{line}");
    }
}

#[test]
fn nothing_behind_a_request_is_taken_for_another_one() {
    let (_machine, _listener, web) = machine("");
    let hidden = "GET /status HTTP/1.1\r\nHost: a\r\n\r\n";
    for framing in [
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 0\r\n\r\n",
        "Content-Length: 0\r\nContent-Length: 5\r\n\r\n",
        "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n",
        "Connection: keep-alive\r\nContent-Length: 0\r\n\r\n",
    ] {
        let answer = web.say(format!("{}{framing}{hidden}", head("")).as_bytes());
        assert!([400, 401].contains(&answer.status), "{framing:?}: {answer:?}");
        assert!(!answer.body.contains("repositories"), "{framing:?}: {answer:?}");
        assert!(!answer.body.contains("HTTP/1.1"), "{framing:?}: {answer:?}");
    }
}

#[test]
fn what_is_no_http_harms_nothing() {
    let (_machine, mut listener, web) = machine("");
    let many: String = (0..100).map(|n| format!("X-{n}: x\r\n")).collect();
    let long = format!("GET /healthz HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for (what, bytes) in [
        ("a hello of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec()),
        ("a preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec()),
        ("a hundred headers", format!("GET /healthz HTTP/1.1\r\n{many}\r\n").into_bytes()),
        ("a megabyte of header", long.into_bytes()),
        ("noughts", vec![0; 4096]),
        ("a path of bytes", b"GET /\xff\xfe HTTP/1.1\r\n\r\n".to_vec()),
        (
            "a broken chunk",
            format!("{}Transfer-Encoding: chunked\r\n\r\nzz\r\n", head("")).into_bytes(),
        ),
    ] {
        let answer = web.say(&bytes);
        let refused = answer.status == 0 || (400..500).contains(&answer.status);
        assert!(refused, "{what}: {answer:?}");
    }
    let odd = b"POST /hook HTTP/1.1\r\nX-GitHub-Event: \xff\xfe\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(web.say(odd).status, 401);
    assert_eq!(web.get("/healthz").status, 200);
    listener.signal(rustix::process::Signal::TERM);
    assert!(listener.end().success());
    assert!(!listener.log().contains("panicked"), "{}", listener.log());
}

#[test]
fn it_ends_at_once_though_somebody_has_not_said_all() {
    let took = || {
        let (_machine, mut listener, web) = machine("");
        let began = Instant::now();
        let mut stream = web.connect();
        stream.write_all(b"POST /hook HTTP/1.1\r\n").unwrap();
        listener.signal(rustix::process::Signal::TERM);
        assert!(listener.end().success());
        began.elapsed()
    };
    // Whoever waits for the rest of a request never ends sooner; a busy machine may seem to wait.
    let all: Vec<_> = (0..3).map(|_| took()).collect();
    assert!(all.iter().any(|took| *took < SOON.0), "{all:?}");
}
