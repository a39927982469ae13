//! `on_change` of `[presence]`: when it runs, what it is told, and what it does not believe.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Child;

use serde_json::json;

use super::*;
use crate::sandbox::wait_until;

/// A moment at which a look is over for long.
const LONG_AGO: &str = "2020-01-01T00:00:00Z";

/// A machine that reacts to others in `status`.
struct Reactor<'a> {
    status: &'a Status<'a>,
}

impl<'a> Reactor<'a> {
    /// Runs `script` at changes; `more` are other keys of `[presence]`. The script is in `work`.
    fn of(status: &'a Status<'a>, script: &str, more: &str) -> Self {
        let reactor = Self { status };
        let program = reactor.file("program");
        fs::write(&program, format!("#!/bin/sh\ncd {}\n{script}", text(&reactor.file(""))))
            .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        reactor.configure(&[text(&program)], more);
        reactor
    }

    fn configure(&self, argv: &[&str], more: &str) {
        self.status.machine.configure(&format!(
            "[node]\nname = \"lb01\"\n[presence]\nurl = {:?}\non_change = {argv:?}\n{more}\n",
            self.status.path
        ));
    }

    fn file(&self, name: &str) -> PathBuf {
        let dir = self.status.machine.path("reactor");
        fs::create_dir_all(&dir).unwrap();
        dir.join(name)
    }

    fn record_file(&self) -> PathBuf {
        self.status.machine.root().join(".pmpy/reactions.json")
    }

    fn record(&self) -> Value {
        serde_json::from_slice(&fs::read(self.record_file()).unwrap_or_default())
            .unwrap_or_default()
    }

    /// Lets the pauses pass.
    fn time_passes(&self) {
        let mut record = self.record();
        if record.is_object() {
            record["looked"] = LONG_AGO.into();
            if record["failure"]["run"].is_object() {
                record["failure"]["run"]["at"] = LONG_AGO.into();
            }
            fs::write(self.record_file(), record.to_string()).unwrap();
        }
    }

    /// Whether the look that was begun has ended, and the publication too.
    fn rests(&self) -> bool {
        let is_free = |lock: &str| {
            let lock = self.status.machine.root().join(".pmpy").join(lock);
            let mut flock = self.status.machine.command("flock");
            Ran::of(flock.args(["--nonblock", text(&lock), "true"])).code == Some(0)
        };
        let looked = self.record()["looked"].as_str().is_some_and(|looked| looked != LONG_AGO);
        looked && is_free("reactions.lock") && is_free("presence.lock")
    }

    /// One tick a minute later, and the look that it begins, to its end.
    #[track_caller]
    fn minute(&self) {
        self.time_passes();
        self.status.machine.tick().ok();
        wait_until("the look has ended", || self.rests());
    }

    /// What the script wrote to `name`.
    fn said(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    fn runs(&self) -> usize {
        self.said("runs").lines().count()
    }
}

/// Keeps what it is told, and notes that it ran.
const KEEPS: &str =
    "tr '\\0' '\\n' < \"$AGENT_HOSTS_FILE\" > hosts\nenv > environment\necho run >> runs\n";

#[test]
fn it_runs_when_a_host_that_counts_changes_and_is_passed_all_of_them() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    for host in ["app01", "app02", "evil"] {
        status.publish(host, &at(host, "current", NEW));
    }
    let reactor = Reactor::of(&status, KEEPS, "require = [\"app01\", \"app02\", \"app09\"]");
    reactor.minute();
    let told = |state: &str| {
        format!(
            "name=app01 state=current\nname=app01 repository=ops state=current revision={NEW}\n\
             name=app02 state={state}\nname=app02 repository=ops state={state} revision={NEW}\n"
        )
    };
    assert_eq!(reactor.said("hosts"), told("current"));
    let environment = reactor.said("environment");
    assert!(environment.contains("\nPATH=/usr/local/sbin:") || environment.starts_with("PATH="));
    assert!(!environment.contains("AGENT_ROOT"), "{environment}");
    // What moves without a change of state, and hosts that do not count.
    status.publish("app01", &at("app01", "current", NEW));
    status.publish("evil", &at("evil", "failing", NEW));
    reactor.minute();
    reactor.minute();
    assert_eq!(reactor.runs(), 1);
    status.publish("app02", &at("app02", "failing", NEW));
    reactor.minute();
    assert_eq!((reactor.runs(), reactor.said("hosts")), (2, told("failing")));
    // Without a minute in between nothing looks.
    status.publish("app02", &at("app02", "current", NEW));
    let looked = reactor.record()["looked"].clone();
    machine.tick().ok();
    assert_eq!(reactor.record()["looked"], looked);
    // Silence comes without any ref that moves.
    let mut away = at("app02", "current", NEW);
    away["at"] = json!(ago(Duration::hours(7)));
    status.publish("app02", &away);
    reactor.minute();
    for entry in fs::read_dir(machine.root().join(".pmpy/fleet")).unwrap() {
        let path = entry.unwrap().path();
        let Ok(mut kept) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else {
            continue;
        };
        for (name, sighting) in kept["refs"].as_object_mut().unwrap() {
            if name.contains("app02") {
                sighting["moved"] = json!(ago(Duration::hours(9)));
            }
        }
        fs::write(path, kept.to_string()).unwrap();
    }
    reactor.minute();
    assert_eq!(reactor.runs(), 4);
    assert!(reactor.said("hosts").contains("name=app02 state=silent\n"));
    let shown = machine.agent(&["-v", "status"]).ok().stdout;
    assert!(
        shown.contains("presence: on_change last ran") && shown.contains("with 2 hosts"),
        "{shown}"
    );
    let check = machine.agent(&["check"]).stdout;
    assert!(check.contains("on_change last ran"), "{check}");
    // Another program is told anew; a configuration is read by each tick.
    let other = reactor.file("program");
    reactor.configure(&[text(&other), "again"], "require = [\"app01\"]");
    reactor.minute();
    assert_eq!(reactor.runs(), 5);
    assert!(!reactor.said("hosts").contains("app02"));
}

#[test]
fn names_that_a_program_could_misread_are_left_out_and_named() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    for host in ["app01", "App02", "app_3"] {
        status.publish(host, &at(host, "current", NEW));
    }
    let mut evil = row("current", NEW);
    evil["name"] = json!("x\u{0}name=app09 state=current");
    status.publish("app04", &presence("app04", json!([evil])));
    let reactor = Reactor::of(&status, KEEPS, "own_refs = true");
    reactor.minute();
    let hosts = reactor.said("hosts");
    assert!(
        hosts.contains("name=app01 ") && hosts.contains("name=app04 state=current\n"),
        "{hosts}"
    );
    assert!(
        !hosts.contains("App02") && !hosts.contains("app_3") && !hosts.contains("app09"),
        "{hosts}"
    );
    let check = machine.agent(&["check"]).stdout;
    assert!(check.contains("on_change leaves out App02 app_3"), "{check}");
}

#[test]
fn a_run_that_fails_is_repeated_and_a_server_that_is_away_or_empty_runs_nothing() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("app01", &at("app01", "current", NEW));
    let script = "echo run >> runs; printf '\\033[2Jout\\n'; test -e good || exit 3\n";
    let reactor = Reactor::of(&status, script, "require = [\"app01\"]");
    reactor.minute();
    let failed = |words: &str| {
        let shown = machine.agent(&["-v", "status"]).ok().stdout;
        let check = machine.agent(&["check"]).exits(1).stdout;
        assert!(shown.contains("on_change has not run yet; fails since"), "{shown}");
        assert!(shown.contains(words) && check.contains(words), "{shown}{check}");
    };
    failed("program exited 3");
    // The pause after it is not over.
    let mut record = reactor.record();
    record["looked"] = LONG_AGO.into();
    fs::write(reactor.record_file(), record.to_string()).unwrap();
    machine.tick().ok();
    wait_until("the look has ended", || reactor.rests());
    assert_eq!(reactor.runs(), 1);
    reactor.minute();
    assert_eq!(
        (reactor.runs(), reactor.record()["failure"]["run"]["times"].clone()),
        (2, json!(2))
    );
    // A quarter of an hour later one line says so, and the tick is fine all the same.
    let mut record = reactor.record();
    record["failure"]["since"] = LONG_AGO.into();
    fs::write(reactor.record_file(), record.to_string()).unwrap();
    let said = machine.tick().ok();
    assert!(format!("{said}").contains("on_change fails since 2020-01-01"), "{said}");
    fs::write(reactor.file("good"), "").unwrap();
    reactor.minute();
    assert!(reactor.record()["failure"].is_null(), "{:#}", reactor.record());
    assert_eq!(reactor.runs(), 3);
    let refs = status.path.join("away");
    fs::rename(status.path.join("refs"), &refs).unwrap();
    reactor.minute();
    assert!(reactor.record()["failure"]["reason"].is_string(), "{:#}", reactor.record());
    fs::rename(&refs, status.path.join("refs")).unwrap();
    machine.git(&status.path, &["update-ref", "-d", "refs/heads/app01/state"]);
    reactor.minute();
    let reason = reactor.record()["failure"]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("none of the hosts that count"), "{reason}");
    assert_eq!(reactor.runs(), 3);
    status.publish("app01", &at("app01", "current", NEW));
    reactor.minute();
    assert_eq!(reactor.runs(), 3, "what was told is true again");
    assert!(reactor.record()["failure"].is_null(), "{:#}", reactor.record());
}

#[test]
fn a_program_that_another_user_could_exchange_or_that_floods_is_not_run_on() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("app01", &at("app01", "current", NEW));
    let reactor = Reactor::of(&status, "echo run >> runs; yes\n", "require = [\"app01\"]");
    reactor.minute();
    let reason = |words: &str| {
        let record = reactor.record();
        assert!(record["failure"]["reason"].as_str().unwrap().contains(words), "{record:#}");
    };
    reason("printed more than a megabyte and was ended");
    fs::set_permissions(reactor.file("program"), fs::Permissions::from_mode(0o777)).unwrap();
    reactor.minute();
    reason("the program of on_change is not run");
    assert_eq!(reactor.runs(), 1);
}

/// The program waits until `go` is there, and notes its begin and end.
const WAITS: &str =
    "trap '' TERM\necho begin >> runs\nwhile ! test -e go; do sleep 0.05; done\necho end >> runs\n";

/// Ends the process of ours that looks.
fn kill_the_look(machine: &Sandbox) {
    let root = machine.root();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let files = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
        let holds = |file: fs::DirEntry| {
            fs::read_link(file.path()).is_ok_and(|it| it == root.join(".pmpy/reactions.lock"))
        };
        if String::from_utf8_lossy(&line).contains("react-to-presence") && { files }.any(holds) {
            let pid: i32 = entry.file_name().to_string_lossy().parse().unwrap();
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
}

#[test]
fn two_never_run_at_once_also_when_the_agent_is_killed() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("app01", &at("app01", "current", NEW));
    let reactor = Reactor::of(&status, WAITS, "require = [\"app01\"]");
    let ticks: Vec<Child> = (0..4)
        .map(|_| machine.agent_command(&["tick", "--trigger", "cron"]).spawn().unwrap())
        .collect();
    wait_until("the program runs", || reactor.runs() == 1);
    for mut tick in ticks {
        assert!(tick.wait().unwrap().success());
    }
    let running = machine.root().join(".pmpy/reactions.running");
    wait_until("it is named", || running.exists());
    kill_the_look(&machine);
    reactor.time_passes();
    machine.tick().ok();
    // The next look waits for the program of the killed one.
    fs::write(reactor.file("go"), "").unwrap();
    wait_until("both have ended", || reactor.runs() >= 4 && reactor.rests());
    assert_eq!(reactor.said("runs"), "begin\nend\nbegin\nend\n");
    assert!(reactor.record()["passed"].is_string() && !running.exists());
}

#[test]
fn a_program_that_hangs_is_ended_with_its_whole_group_and_its_agent_may_be_dead() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("app01", &at("app01", "current", NEW));
    let hangs = "echo run >> runs\ntest -e good && exit 0\nsleep 1000 & echo $! > child; wait\n";
    let reactor = Reactor::of(&status, hangs, "require = [\"app01\"]");
    machine.tick().ok();
    let running = machine.root().join(".pmpy/reactions.running");
    wait_until("it hangs", || running.exists() && !reactor.said("child").trim().is_empty());
    kill_the_look(&machine);
    let child = PathBuf::from("/proc").join(reactor.said("child").trim());
    assert!(child.exists());
    // Its minute is over.
    let mut named: Value = serde_json::from_slice(&fs::read(&running).unwrap()).unwrap();
    named["deadline"] = json!({"secs": 0, "nanos": 0});
    fs::write(&running, named.to_string()).unwrap();
    fs::write(reactor.file("good"), "").unwrap();
    reactor.minute();
    wait_until("what it began is ended", || !child.exists());
    assert_eq!(reactor.runs(), 2);
    assert!(reactor.record()["failure"].is_null());
}

#[test]
fn an_agent_that_listens_reacts_too() {
    let machine = Sandbox::new();
    let status = Status::on(&machine);
    status.publish("app01", &at("app01", "current", NEW));
    let reactor = Reactor::of(&status, KEEPS, "require = [\"app01\"]\n[listen]\nevery = \"1h\"");
    let _listener = crate::listen::Listener::start(&machine);
    wait_until("it has run", || reactor.runs() == 1 && reactor.rests());
    assert!(reactor.record()["ran"].is_string());
}

/// Ends HAProxy with its workers.
#[cfg(feature = "servers")]
struct Balancer(Child);

#[cfg(feature = "servers")]
impl Drop for Balancer {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_raw(self.0.id() as i32).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.0.wait();
    }
}

/// A server on `host` that answers with its name, until the test ends.
#[cfg(feature = "servers")]
fn serve(host: &'static str, port: u16) {
    let listener = std::net::TcpListener::bind((host, port)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut request = [0; 1024];
            let _ = std::io::Read::read(&mut stream, &mut request);
            let _ =
                write!(stream, "HTTP/1.0 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len());
        }
    });
}

#[cfg(feature = "servers")]
#[test]
fn haproxy_balances_over_the_hosts_that_are_well() {
    use std::collections::BTreeSet;

    let machine = Sandbox::new();
    let status = Status::on(&machine);
    let hosts = ["127.0.0.11", "127.0.0.12", "127.0.0.13"];
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (port, front) = (free(), free());
    for host in hosts {
        serve(host, port);
        status.publish(host, &at(host, "current", NEW));
    }
    let dir = machine.path("haproxy");
    fs::create_dir_all(&dir).unwrap();
    let (main, list) = (dir.join("1-main.cfg"), dir.join("2-app.cfg"));
    fs::write(
        &main,
        format!(
            "global\n  stats socket {}/socket\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 5s\n  timeout \
             server 5s\n  option httpclose\nfrontend web\n  bind 127.0.0.1:{front}\n  default_backend app\n",
            text(&dir)
        ),
    )
    .unwrap();
    fs::write(&list, "backend app\n").unwrap();
    let mut haproxy = machine.command("haproxy");
    haproxy.args(["-W", "-db", "-f", text(&main), "-f", text(&list)]);
    let haproxy = Balancer(haproxy.spawn().unwrap());
    let reload = format!("kill -USR2 {}", haproxy.0.id());
    let example = format!("{}/examples/haproxy/rebuild-haproxy", env!("CARGO_MANIFEST_DIR"));
    let program = dir.join("rebuild-haproxy");
    fs::copy(example, &program).unwrap();
    let reactor = Reactor { status: &status };
    let argv = [text(&program), text(&list), &port.to_string(), &reload];
    reactor.configure(&argv, &format!("require = {hosts:?}"));
    let answer = || {
        let mut curl = machine.command("curl");
        Ran::of(curl.args(["-s", "--max-time", "5", &format!("http://127.0.0.1:{front}/")])).stdout
    };
    let balances = |over: &[&str]| {
        reactor.minute();
        let over: BTreeSet<String> = over.iter().map(|host| (*host).to_owned()).collect();
        wait_until("haproxy has the new list", || {
            (0..9).map(|_| answer()).collect::<BTreeSet<_>>() == over
        });
    };
    wait_until("haproxy serves, without a backend", || answer().contains("503"));
    balances(&hosts);
    status.publish(hosts[1], &at(hosts[1], "failing", NEW));
    balances(&[hosts[0], hosts[2]]);
    let mut away = at(hosts[2], "current", NEW);
    away["every"] = json!(600);
    status.publish(hosts[2], &away);
    status.publish(hosts[1], &at(hosts[1], "current", NEW));
    balances(&hosts);
    let kept = machine.root().join(".pmpy/fleet");
    for path in fs::read_dir(kept).unwrap().map(|entry| entry.unwrap().path()) {
        let Ok(mut kept) = serde_json::from_slice::<Value>(&fs::read(&path).unwrap()) else {
            continue;
        };
        kept["refs"][format!("refs/heads/{}/state", hosts[2])]["moved"] =
            json!(ago(Duration::hours(1)));
        fs::write(path, kept.to_string()).unwrap();
    }
    balances(&[hosts[0], hosts[1]]);
    status.publish(hosts[2], &away);
    balances(&hosts);
}
