//! What is told over HTTP: whether ticks happen, metrics, and the status.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use super::{Web, configured, last_tick_was, machine, put_secret};
use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};

#[test]
fn health_is_whether_ticks_happen() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    put_secret(&machine, "hush\n");
    // The timer does not call before the test is over.
    machine.configure(&format!("splay = \"365d\"\n{}", configured(&machine, "")));
    let listener = Listener::start(&machine);
    let web = Web::of(&listener);
    let says = |status, words: &str| {
        let answer = web.get("/healthz");
        assert_eq!((answer.status, answer.body.as_str()), (status, words));
    };
    says(503, "no tick yet\n");
    machine.agent(&["tick", "--splay", "0s"]).ok();
    says(200, "ok\n");
    last_tick_was(&machine, Duration::from_secs(4 * 60));
    says(200, "ok\n");
    last_tick_was(&machine, Duration::from_secs(7 * 60));
    says(503, "no tick for 7 min\n");
    machine.agent(&["tick", "--splay", "0s"]).ok();
    says(200, "ok\n");
}

#[test]
fn the_status_is_that_of_agent_status() {
    let (machine, _listener, web) = machine("");
    machine.serve("other", &[("work.sh", "exit 75")]);
    machine.clone_to_root("other");
    machine.tick().ok();
    machine.agent(&["hold", "other", "say \"no\""]).ok();
    let timeless = |text: &str| {
        let mut status: Value = serde_json::from_str(text).unwrap();
        assert!(status["at"].take().is_string());
        status
    };
    let answer = web.get("/status");
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    let shown = machine.agent(&["status", "--json"]).stdout;
    assert_eq!(timeless(&answer.body), timeless(&shown));
    assert_eq!(timeless(&answer.body)["repositories"][0]["state"], "held");
}

/// Whether `line` is a sample of the exposition format: `NAME{LABEL="VALUE",…} NUMBER`.
fn is_sample(line: &str) -> bool {
    let is_name = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    let Some((metric, value)) = line.rsplit_once(' ') else { return false };
    let (name, labels) = match metric.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix("\"}")),
        None => (metric, Some("")),
    };
    let mut labels =
        labels.into_iter().flat_map(|all| all.split("\",")).filter(|it| !it.is_empty());
    is_name(name)
        && value.parse::<f64>().is_ok()
        && labels.all(|label| label.split_once("=\"").is_some_and(|(name, _)| is_name(name)))
}

#[test]
fn metrics_are_those_of_the_file_and_what_was_counted() {
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("pmpy.prom");
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    put_secret(&machine, "hush\n");
    let bus = "[bus]\nbrokers = \"stomp://127.0.0.1:1\"\n";
    let own = format!("metrics_file = {:?}\n{}", text(&file), configured(&machine, bus));
    machine.configure(&own);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let listener = Listener::start(&machine);
    let web = Web::of(&listener);
    wait_until("it acts", || machine.state("spog") == "current" && file.exists());
    listener.logs("no message bus");
    let page = web.get("/metrics");
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{page:?}");
    for line in page.body.lines() {
        let is_comment = ["# HELP pmpy_", "# TYPE pmpy_"].iter().any(|it| line.starts_with(it));
        assert!(is_comment || is_sample(line), "{line}");
    }
    wait_until("the file says the same", || {
        let written = fs::read_to_string(&file).unwrap();
        let timeless = |line: &&str| !line.starts_with("pmpy_last_tick");
        let page = web.get("/metrics").body;
        written.lines().filter(timeless).all(|line| page.lines().any(|other| other == line))
    });
    let families: Vec<_> = page
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let documented: Vec<_> = include_str!("../../../docs/operations.md")
        .lines()
        .filter(|line| line.starts_with("| `pmpy_"))
        .filter_map(|line| line.split(['`', '{']).nth(1))
        // Only with [presence].
        .filter(|name| *name != "pmpy_presence_last_success_timestamp_seconds")
        .collect();
    assert_eq!(families, documented, "docs/operations.md names each of them, in this order");
    for (metric, value) in [
        ("pmpy_repository_state{repository=\"spog\",state=\"current\"}", 1.0),
        ("pmpy_attempt{repository=\"spog\"}", 0.0),
        ("pmpy_ticks_total{trigger=\"timer\"}", 1.0),
        ("pmpy_looks_total{repository=\"spog\"}", 1.0),
        ("pmpy_polls_total{repository=\"spog\",result=\"answered\"}", 1.0),
        // Of files no bytes are counted.
        ("pmpy_bytes_total{repository=\"spog\"}", 0.0),
        ("pmpy_bus_up", 0.0),
        ("pmpy_bus_dropped_total", 0.0),
    ] {
        assert!(page.body.contains(&format!("{metric} ")), "{metric} is missing\n{}", page.body);
        assert_eq!(web.metric(metric), value, "{metric}");
    }
    for metric in [
        "pmpy_last_success_timestamp_seconds{repository=\"spog\"}",
        "pmpy_action_seconds{repository=\"spog\"}",
        "pmpy_bus_since_timestamp_seconds",
    ] {
        assert!(web.metric(metric) > 0.0, "{metric}");
    }
}

#[test]
fn check_says_whether_the_secret_is_one_and_who_reaches_the_address() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    let world = configured(&machine, "").replace("127.0.0.1", "0.0.0.0");
    machine.configure(&world);
    let said = || machine.agent(&["check", "--offline"]).stdout;
    assert!(said().contains("webhook.secret, cannot be used"), "{}", said());
    assert!(said().contains("others reach 0.0.0.0:0, where there is no TLS"), "{}", said());
    put_secret(&machine, "hush\n");
    machine.configure(&configured(&machine, ""));
    assert!(said().contains("the secret can be read"), "{}", said());
    assert!(said().contains("only this machine reaches 127.0.0.1:0"), "{}", said());
    assert!(!said().contains("hush"), "{}", said());
}

#[test]
fn an_address_that_is_taken_is_reported_and_the_old_one_stays() {
    let (_first, _first_listener, web) = machine("");
    let taken = format!("127.0.0.1:{}", web.port);
    let (second, listener, own) = machine("");
    let moved = configured(&second, "").replace("127.0.0.1:0", &taken);
    second.configure(&moved);
    listener.signal(rustix::process::Signal::HUP);
    listener.logs("configuration not reloaded");
    assert!(
        listener.log().contains(&format!("cannot listen for web hooks on {taken}")),
        "{}",
        listener.log()
    );
    assert_eq!(own.get("/healthz").status, 200);
    let ran = second.agent(&["listen"]).exits(1);
    assert!(ran.stderr.contains("hint: "), "{ran}");
}
