//! Who is served what: hosts, methods, headers, reloads, many visitors at once, and a status server that is gone.

use std::net::{TcpListener, TcpStream};
use std::thread;

use rustix::process::Signal;

use super::*;
use crate::servers::{Face, Https, free_port};

#[test]
fn only_reading_is_served_and_only_to_who_means_this_host() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.configure(&configured("allowed_hosts = [\"web01.example.org\"]\n"));
    machine.agent(&["tick", "--splay", "0s"]).ok();
    let listener = Listener::start(&machine);
    let web = Web::of_page(&listener);
    for host in ["localhost", "127.0.0.1:9420", "WEB01.example.org:443"] {
        let answer = ask(&web, "GET", "/", host);
        assert_eq!(answer.status, 200, "{host}: {answer:?}");
        assert!(answer.body.contains("spog"), "{answer:?}");
    }
    for host in ["evil.example", "web01.example.org.evil.example", ""] {
        for path in ["/", "/status", "/metrics", "/healthz", "/nothing"] {
            let answer = ask(&web, "GET", path, host);
            assert_eq!(answer.status, 421, "{host}: {answer:?}");
            assert!(
                answer.body.contains("allowed_hosts") && !answer.body.contains("spog"),
                "{answer:?}"
            );
        }
    }
    for request in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    ] {
        let answer = web.say(request.as_bytes());
        assert!(matches!(answer.status, 400 | 421), "{request}: {answer:?}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        for path in ["/", "/fleet", "/hook", "/metrics"] {
            let answer = ask(&web, method, path, "localhost");
            assert_eq!(answer.status, 405, "{method} {path}: {answer:?}");
            assert!(answer.head.contains("allow: GET, HEAD"), "{answer:?}");
        }
    }
    let head = ask(&web, "HEAD", "/", "localhost");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert_eq!(get(&web, "/hook").status, 404);
    let fleet = get(&web, "/fleet");
    assert_eq!(fleet.status, 404);
    assert!(fleet.body.contains("[presence]"), "{fleet:?}");
    assert_eq!((get(&web, "/healthz").status, get(&web, "/metrics").status), (200, 200));
    let status: Value = serde_json::from_str(&get(&web, "/status").body).unwrap();
    assert_eq!(status["repositories"][0]["name"], "spog");
    for answer in [get(&web, "/"), fleet, ask(&web, "GET", "/", "evil.example")] {
        for header in [
            "content-security-policy: default-src 'none'; style-src 'sha256-",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{header} is missing: {}", answer.head);
        }
    }
}

#[test]
fn a_reload_opens_keeps_moves_and_closes_the_page() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.configure("[listen]\nevery = \"1h\"\n");
    let listener = Listener::start(&machine);
    let mut reloads = 0;
    let mut reload = |toml: &str| {
        machine.configure(toml);
        listener.signal(Signal::HUP);
        reloads += 1;
        listener.logs_times("configuration reloaded", reloads);
    };
    reload(&configured(""));
    let web = Web::of_page(&listener);
    assert_eq!((get(&web, "/").status, get(&web, "/fleet").status), (200, 404));
    assert_eq!(ask(&web, "GET", "/", "web01.example.org").status, 421);

    // The same address, other settings: nobody is turned away meanwhile.
    let more = "allowed_hosts = [\"web01.example.org\"]\n";
    let status = Status::on(&machine);
    reload(&configured(&format!("{more}{}", presence_at(text(&status.path)))));
    assert_eq!(ask(&web, "GET", "/fleet", "web01.example.org").status, 200);
    listener.logs_times("serving the page on", 1);

    let other = configured(more).replace("127.0.0.1:0", &format!("127.0.0.1:{}", free_port()));
    reload(&other);
    listener.logs_times("serving the page on", 2);
    let moved = Web::of_page(&listener);
    assert_eq!(get(&moved, "/").status, 200);
    let is_closed = |web: &Web| TcpStream::connect(("127.0.0.1", web.port())).is_err();
    wait_until("the old one is closed", || is_closed(&web));

    let second = Sandbox::new();
    second.configure(&other);
    let taken = second.agent(&["listen"]).exits(1).stderr;
    assert!(taken.contains("cannot listen for the page on") && taken.contains("hint: "), "{taken}");
    let same = "[webhook]\nsecret_file = \"/nowhere\"\nbind = \"127.0.0.1:9\"\n[page]\nbind = \"127.0.0.1:9\"\n";
    second.configure(same);
    let said = second.agent(&["listen"]).exits(2).stderr;
    assert!(said.contains("cannot have the same address"), "{said}");

    reload("[listen]\nevery = \"1h\"\n");
    wait_until("it is closed", || is_closed(&moved));
}

/// `[presence]` over plain http.
fn insecure_at(url: &str) -> String {
    presence_at(url) + "insecure = true\n"
}

/// How often the status repository was asked for its refs.
fn looks(https: &Https) -> usize {
    https
        .requests()
        .iter()
        .filter(|it| it.method == "POST" && it.uri.contains("git-upload-pack"))
        .count()
}

#[test]
fn a_hundred_visitors_at_once_are_one_request_in_a_minute() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &presence("web01", json!([row("current", NEW)])));
    let https = Https::of(&machine);
    machine.configure(&configured(&insecure_at(&https.url_on(Face::Plain, "status"))));
    let listener = Listener::start(&machine);
    let web = Web::of_page(&listener);
    // The first look fetches what it finds.
    is_seen(&web);
    assert!(get(&web, "/fleet").body.contains("web01"));
    let first = looks(&https);
    assert_eq!(first, 2, "the refs, and what they point at: {:?}", https.requests());
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let answer = get(&web, "/fleet");
                assert!(answer.status == 200 && answer.body.contains("web01"), "{answer:?}");
            });
        }
    });
    assert_eq!(looks(&https), first, "{:?}", https.requests());

    // A new process knows nothing, and a hundred come at once.
    drop(listener);
    https.forget_requests();
    let listener = Listener::start(&machine);
    let web = Web::of_page(&listener);
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| assert!(get(&web, "/fleet").body.contains("web01")));
        }
    });
    is_seen(&web);
    assert_eq!(looks(&https), 1, "{:?}", https.requests());
}

#[test]
fn a_status_server_that_is_gone_or_hangs_delays_nobody_else() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    let status = Status::on(&machine);
    status.publish("web01", &presence("web01", json!([row("current", NEW)])));
    let (listener, web) = listener(&machine, &status);
    assert!(get(&web, "/fleet").body.contains("web01"));
    drop(listener);

    // Gone: what an earlier process has seen, and why there is nothing newer.
    fs::rename(&status.path, machine.path("gone")).unwrap();
    let (listener, web) = super::listener(&machine, &status);
    let page = get(&web, "/fleet").body;
    assert!(page.contains("cannot be read since"), "{page}");
    assert!(page.contains("web01") && page.contains("Shown is what was seen"), "{page}");
    drop(listener);

    // It takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    machine.configure(&configured(&insecure_at(&format!("http://{address}/status.git"))));
    let listener = Listener::start(&machine);
    let web = Web::of_page(&listener);
    let page = get(&web, "/fleet");
    assert!(page.status == 200 && page.body.contains("has not answered yet"), "{page:?}");
    assert_eq!(get(&web, "/").status, 200);
    drop(listener);
}

#[test]
fn the_page_in_a_file_is_replaced_whole_and_ends_as_the_text_does() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("web01", &presence("web01", json!([row("current", NEW)])));
    status.publish("db01", &presence("db01", json!([row("failing", OLD)])));
    let file = machine.path("fleet.html");
    let url = ["fleet", "--url", text(&status.path)];
    let fleet = |more: &[&str]| machine.agent(&[&url[..], more].concat());
    fleet(&["--html", text(&file)]).exits(1);
    let all = fs::read_to_string(&file).unwrap();
    assert!(all.contains("web01") && all.ends_with("</html>"), "{all}");
    let ran = fleet(&["--hosts", "web*", "--html", "fleet.html"]).ok();
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    let some = fs::read_to_string(&file).unwrap();
    assert!(some.contains("web01") && !some.contains("db01"), "{some}");
    let printed = fleet(&["ops", "--state", "failing", "--html", "-"]).exits(1).stdout;
    assert!(printed.starts_with("<!DOCTYPE html>") && printed.contains("db01"), "{printed}");
    for other in ["--json", "--nagios"] {
        fleet(&["--html", "-", other]).exits(2);
    }
    let wrong = fleet(&["--html", "/nowhere/fleet.html"]).exits(1).stderr;
    assert!(wrong.contains("cannot write the page of the fleet to /nowhere/fleet.html"), "{wrong}");
    // The server is gone: the old page stays.
    fs::rename(&status.path, machine.path("gone")).unwrap();
    fleet(&["--html", text(&file)]).exits(1);
    assert_eq!(fs::read_to_string(&file).unwrap(), some);
}

#[test]
fn check_says_where_the_page_is_and_who_reads_it() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    let said = |bind: &str| {
        machine.configure(&format!("[page]\nbind = {bind:?}\n"));
        machine.agent(&["check", "--offline"]).stdout
    };
    let own = said("127.0.0.1:9420");
    assert!(
        own.contains("agent listen serves it on http://127.0.0.1:9420/, to this machine only"),
        "{own}"
    );
    let open = said("0.0.0.0:9420");
    assert!(open.contains("who reaches it reads states, revisions and reasons"), "{open}");
    assert!(open.contains("a web server with TLS and a password before it"), "{open}");
}

#[test]
fn a_wrong_key_of_the_page_is_reported_with_its_place() {
    let machine = Sandbox::new();
    for (toml, place, words) in [
        ("[page]\n", "1:1", "hint: bind = \"127.0.0.1:9420\""),
        ("[page]\nbind = \"9420\"\n", "2:8", "write an IP address and a port"),
        ("[page]\nallowed_hosts = [\"https://a\"]\n", "2:18", "without scheme and port"),
        ("[page]\nallowed_hosts = [\"a:80\"]\n", "2:18", "\"a:80\" is no host"),
        ("[page]\nport = 1\n", "2:1", "port"),
    ] {
        machine.configure(toml);
        let said = machine.agent(&["status"]).exits(2).stderr;
        assert!(said.contains(&format!("agent.toml:{place}: ")) && said.contains(words), "{said}");
    }
}
