//! How long it takes from a push to the first line of the script, and where that time goes; what an
//! agent costs that waits for messages; and how a fleet hears one.
//!
//! `cargo bench --features servers --bench bus [-- PUSHES [WHAT…]]`, where WHAT is a part of the name of
//! a row; 200 pushes and all rows without. Needs both brokers, which `tests/run` installs.
//!
//! Prints Markdown tables. The repository is a local bare one whose hook is `agent notify`; `agent
//! listen` has it cloned; both are the optimised build. All clocks are this machine's one clock.

#![allow(clippy::disallowed_methods, reason = "it starts programs and reads the clock")]

#[path = "../tests/it/sandbox.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod sandbox;
#[path = "../tests/it/servers/mod.rs"]
mod servers;

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, SystemTime};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pmpy::domain::bus::broker::{BrokerEntry, BrokerSettings, RetryPolicy};
use pmpy::domain::bus::debounce;
use pmpy::domain::bus::message::PushHint;
use pmpy::domain::bus::stomp::StompFrame;
use pmpy::system::host::since_boot;
use pmpy::system::stomp::BrokerConnection;
use pmpy::system::stomp::session::{StompEvent, StompSession};

use sandbox::{Sandbox, set_mode, text, wait_until};
use servers::brokers::{Broker, HOOK, KINDS, Kind, ODD, login_file};

const COMMITS: &str = "future.git.commits";
const REPORTS: &str = "future.events.agent";
/// How many agents a fleet has.
const FLEET: usize = 2000;
/// Over how long a fleet spreads what it does.
const SPREAD: Duration = Duration::from_secs(10);
/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let pushes = words.first().and_then(|word| word.parse().ok()).unwrap_or(200);
    let wanted: Vec<&String> = words.iter().filter(|word| word.parse::<usize>().is_err()).collect();
    let is_wanted =
        |name: &str| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str()));
    for kind in KINDS {
        if is_wanted(&format!("push over {kind:?}")) {
            pushed(kind, pushes);
        }
    }
    for kind in KINDS {
        if is_wanted(&format!("fleet on {kind:?}")) {
            fleet(kind);
        }
    }
    if is_wanted("idle") {
        idle();
    }
}

/// A machine that listens to `broker`.
fn listening(broker: &Broker, more: &str) -> (Sandbox, Agent) {
    let script = "echo $EPOCHREALTIME $AGENT_REVISION >> \"$AGENT_ROOT/../began\"\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let login = login_file(&machine.path(""), ODD);
    machine.configure(&format!(
        "[bus]\nbrokers = \"{}\"\nlogin_file = {login:?}\nreport_topic = \"{REPORTS}\"\n{more}",
        broker.url()
    ));
    machine.tick().ok();
    let log = machine.path("listen.log");
    let child = machine
        .agent_command(&["listen", "-v", "--log-format", "json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let agent = Agent(child);
    wait_until("it listens", || fs::read_to_string(&log).unwrap().contains("listening on"));
    (machine, agent)
}

/// A running `agent listen`; dropping it kills it.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hook as it is documented, with a note of when it began and a log with times.
fn announces(machine: &Sandbox, broker: &Broker) {
    let dir = machine.path("notify");
    fs::create_dir(&dir).unwrap();
    let (configuration, login) = (dir.join("notify.toml"), login_file(&dir, HOOK));
    let brokers = broker.url();
    fs::write(&configuration, format!("[bus]\nbrokers = {brokers:?}\nlogin_file = {login:?}\n"))
        .unwrap();
    let hook = machine.server("ops").join("hooks/post-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let script = format!(
        "#!/bin/bash\necho $EPOCHREALTIME > {}\nexec {} --config {} -v --log-format json notify 2> {}\n",
        text(&machine.path("hook")),
        env!("CARGO_BIN_EXE_agent"),
        text(&configuration),
        text(&machine.path("notify.log"))
    );
    fs::write(&hook, script).unwrap();
    set_mode(&hook, 0o755);
}

/// The moments of one push, in milliseconds since 1970.
#[derive(Clone, Copy)]
struct Moments {
    pushed: f64,
    hook: f64,
    /// The broker has taken us, and the message goes out.
    sent: f64,
    /// The agent has the message.
    heard: f64,
    /// The remote has answered.
    polled: f64,
    fetched: f64,
    action: f64,
    script: f64,
    returned: f64,
}

/// The time between two of them.
type Part = fn(&Moments) -> f64;

/// Measures so many pushes over a broker of this kind.
fn pushed(kind: Kind, pushes: usize) {
    let broker = Broker::shared(kind);
    let (machine, _agent) = listening(broker, "[listen]\nevery = \"1h\"\n");
    announces(&machine, broker);
    let heard = Listening::to(broker, &machine.path(""), &[COMMITS, REPORTS]);
    let desk = machine.desk("ops");
    let mut all = Vec::new();
    // The first ones find nothing in any cache.
    for number in 0..pushes + 10 {
        machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "A change"]);
        let revision = machine.git(&desk, &["rev-parse", "HEAD"]);
        heard.forget();
        let pushed = now();
        machine.git(&desk, &["push", "--quiet", "origin", "HEAD:main"]);
        let returned = now();
        heard.next(|frame| PushHint::read(frame).is_some());
        let (_, begun) = heard.next(|frame| json(frame)["state"] == "started");
        let at: chrono::DateTime<chrono::Utc> = begun["at"].as_str().unwrap().parse().unwrap();
        heard.next(|frame| json(frame)["state"] == "succeeded");
        let began = fs::read_to_string(machine.path("began")).unwrap();
        let line = began.lines().last().unwrap();
        assert!(line.ends_with(&revision), "{line}");
        let hook = fs::read_to_string(machine.path("hook")).unwrap();
        let listens = fs::read_to_string(machine.path("listen.log")).unwrap();
        let notifies = fs::read_to_string(machine.path("notify.log")).unwrap();
        if number >= 10 {
            all.push(Moments {
                pushed,
                hook: bash_time(&hook),
                sent: logged(&notifies, "announces"),
                heard: logged(&listens, "a tick is requested"),
                polled: logged(&listens, "polled"),
                fetched: logged(&listens, "fetched"),
                action: at.timestamp_micros() as f64 / 1e3,
                script: bash_time(line),
                returned,
            });
        }
    }
    println!("\n{kind:?}, {pushes} pushes | median ms | p99 ms\n--- | --: | --:");
    let rows: [(&str, Part); 9] = [
        ("**push to the script's first line**", |it| it.script - it.pushed),
        ("git push until the hook begins", |it| it.hook - it.pushed),
        ("hook: until the broker has taken it in", |it| it.sent - it.hook),
        ("broker: until the agent has the message", |it| it.heard - it.sent),
        ("wake: until the remote has answered", |it| it.polled - it.heard),
        ("fetch: until a worker has it", |it| it.fetched - it.polled),
        ("apply: until the files are in place", |it| it.action - it.fetched),
        ("start: until the script's first line", |it| it.script - it.action),
        ("(git push until it returns)", |it| it.returned - it.pushed),
    ];
    for (name, part) in rows {
        let mut times: Vec<f64> = all.iter().map(part).collect();
        times.sort_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        println!("{name} | {:.1} | {:.1}", at(0.5), at(0.99));
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64() * 1e3
}

/// When the last line of `log` was written that says `message`.
fn logged(log: &str, message: &str) -> f64 {
    let said = format!("\"message\":\"{message}\"");
    let line = log.lines().rfind(|line| line.contains(&said));
    let line = line.unwrap_or_else(|| panic!("nothing says {message} in\n{log}"));
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    let at: chrono::DateTime<chrono::Utc> = line["timestamp"].as_str().unwrap().parse().unwrap();
    at.timestamp_micros() as f64 / 1e3
}

/// `$EPOCHREALTIME` at the beginning of `line`.
fn bash_time(line: &str) -> f64 {
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * 1e3
}

fn json(frame: &StompFrame) -> serde_json::Value {
    serde_json::from_slice(&frame.body).unwrap_or_default()
}

fn brokers(broker: &Broker, dir: &Path) -> BrokerSettings {
    BrokerSettings {
        list: broker.url().parse::<BrokerEntry>().unwrap().brokers,
        retry: RetryPolicy::default(),
        login_file: Some(login_file(dir, ODD)),
        ca_file: None,
        host: "/".to_owned(),
        heartbeat: Duration::from_secs(30),
    }
}

/// A session of our own, whose messages are noted with the time at which they came.
struct Listening {
    _session: StompSession,
    messages: Receiver<(f64, StompFrame)>,
}

impl Listening {
    fn to(broker: &Broker, dir: &Path, topics: &[&str]) -> Self {
        let (sender, messages) = mpsc::channel();
        let (up, is_up) = mpsc::channel();
        let deliver = move |event| match event {
            StompEvent::Message(frame) => drop(sender.send((now(), frame))),
            StompEvent::Up(_) => drop(up.send(())),
            StompEvent::Down { why, .. } => panic!("{why:#}"),
        };
        let topics = topics.iter().map(|name| name.parse().unwrap()).collect();
        let session = StompSession::start(brokers(broker, dir), topics, deliver).unwrap();
        is_up.recv_timeout(PATIENCE).unwrap();
        Self { _session: session, messages }
    }

    fn forget(&self) {
        while self.messages.try_recv().is_ok() {}
    }

    /// The next message that is `wanted`: when it came, and its body.
    fn next(&self, wanted: impl Fn(&StompFrame) -> bool) -> (f64, serde_json::Value) {
        loop {
            let (at, frame) = self.messages.recv_timeout(PATIENCE).expect("a message comes");
            if wanted(&frame) {
                return (at, json(&frame));
            }
        }
    }
}

/// So many sessions as agents have them hear three messages, and would look when their wait is over.
fn fleet(kind: Kind) {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(hard > 3 * FLEET as u64, "{FLEET} sessions need more than {soft} descriptors");
    let broker = Broker::shared(kind);
    let dir = tempfile::tempdir().unwrap();
    let reached = brokers(broker, dir.path());
    let (sender, news) = mpsc::channel();
    let start = Instant::now();
    let sessions: Vec<StompSession> = (0..FLEET)
        .map(|number| {
            let sender = sender.clone();
            let deliver = move |event| drop(sender.send((number, since_boot(), event)));
            let topics = vec!["test.fleet".parse().unwrap()];
            StompSession::start(reached.clone(), topics, deliver).unwrap()
        })
        .collect();
    let mut up = 0;
    while up < FLEET {
        match news.recv_timeout(PATIENCE).expect("they all connect").2 {
            StompEvent::Up(_) => up += 1,
            StompEvent::Down { why, .. } => println!("{why:#}"),
            StompEvent::Message(_) => {}
        }
    }
    println!("\n{kind:?}: {FLEET} sessions in {:.1} s", start.elapsed().as_secs_f64());
    let deadline = since_boot() + PATIENCE;
    let mut connection = BrokerConnection::open(&reached.list[0], &reached, deadline).unwrap();
    for round in 1..=3 {
        let message = StompFrame::new("SEND")
            .with("destination", "/topic/test.fleet")
            .with("subject", "[spog] refs/heads/main");
        let published = since_boot();
        connection.publish(vec![message], deadline).unwrap();
        let mut heard = vec![0_u32; FLEET];
        let (mut came, mut looks) = (Vec::new(), Vec::new());
        while came.len() < FLEET {
            let (number, at, event) = news.recv_timeout(PATIENCE).expect("none is lost");
            let StompEvent::Message(_) = event else { panic!("a session was lost: {event:?}") };
            heard[number] += 1;
            came.push((at - published).as_secs_f64() * 1e3);
            let wait = debounce::wait(SPREAD, "", &format!("web{number}"), "spog", at);
            looks.push((at + wait - published).as_secs_f64());
        }
        assert!(heard.iter().all(|&count| count == 1), "each hears it once");
        came.sort_by(f64::total_cmp);
        let mut seconds = vec![0_u32; SPREAD.as_secs() as usize + 2];
        looks.iter().for_each(|&at| seconds[at as usize] += 1);
        println!(
            "message {round}: all {FLEET} heard it once, the middle one after {:.0} ms, the last after \
             {:.0} ms; over a spread of {} s they look, by the second: {seconds:?}",
            came[FLEET / 2],
            came[FLEET - 1],
            SPREAD.as_secs(),
        );
    }
    drop(sessions);
}

/// What an agent costs that waits for a minute, in which its timer ticks once.
fn idle() {
    let broker = Broker::shared(KINDS[0]);
    let (machine, agent) = listening(broker, "heartbeat = \"10s\"\n[listen]\nevery = \"1m\"\n");
    let last_tick = machine.path("root/.pmpy/last-tick");
    let ticked = || fs::metadata(&last_tick).unwrap().modified().unwrap();
    let mut seen = (ticked(), Instant::now());
    wait_until("what it began at its start is over", || {
        if ticked() != seen.0 {
            seen = (ticked(), Instant::now());
        }
        seen.1.elapsed() > Duration::from_secs(3)
    });
    let (start, before, tick) = (Instant::now(), processor_ms(&agent), ticked());
    std::thread::sleep(Duration::from_secs(60));
    let ticks = u32::from(ticked() != tick);
    let used = processor_ms(&agent) - before;
    let status = fs::read_to_string(format!("/proc/{}/status", agent.0.id())).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e3
    };
    println!(
        "\nidle for {:.0} s, its timer having ticked {ticks} time: less than {:.0} ms of a processor \
         ({:.3} %), {:.1} MB now, {:.1} MB at most",
        start.elapsed().as_secs_f64(),
        used + 10.0,
        (used + 10.0) / start.elapsed().as_secs_f64() / 10.0,
        field("VmRSS:"),
        field("VmHWM:")
    );
}

/// What `agent` and the processes that it waited for have used, in milliseconds; up to ten of them are not
/// counted yet.
fn processor_ms(agent: &Agent) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.0.id())).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<f64> = fields.split(' ').map(|field| field.parse().unwrap_or(0.0)).collect();
    let ticks: f64 = fields[11..15].iter().sum();
    // The kernel tells everybody hundredths of a second.
    ticks * 10.0
}
