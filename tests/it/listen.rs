//! `agent listen` without a bus: its timer is cron enough, it obeys signals, and a supervisor hears how
//! it is. What it does with a bus is in `bus::listen`.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, wait_until};
use crate::web::{self, Web};

/// An agent that stays up. Dropping it kills it, and nothing that it started.
pub struct Listener {
    child: Child,
    output: PathBuf,
    log: PathBuf,
}

impl Listener {
    /// Starts it.
    pub fn start(machine: &Sandbox) -> Self {
        Self::start_with(machine, |command| command)
    }

    /// Starts it as `set` says, and waits until it is up.
    pub fn start_with(machine: &Sandbox, set: impl FnOnce(&mut Command) -> &mut Command) -> Self {
        let (output, log) = (machine.path("listen.out"), machine.path("listen.log"));
        let mut command = machine.agent_command(&["listen", "-v"]);
        let child = set(&mut command)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&output).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let listener = Self { child, output, log };
        listener.logs("; up\n");
        listener
    }

    /// The most memory that it had at a time, in bytes.
    pub fn most_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    /// From now on, only what it has from now on counts as the most.
    pub fn forget_most_memory(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").unwrap();
    }

    /// How many threads of this name it has.
    #[cfg(feature = "servers")]
    pub fn threads(&self, name: &str) -> usize {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names =
            tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|found| found.trim_end() == name).count()
    }

    /// Waits until its log holds `text` so many times.
    #[track_caller]
    pub fn logs_times(&self, text: &str, times: usize) {
        wait_until(&format!("its log holds {text:?} {times} times"), || {
            self.log().matches(text).count() == times
        });
    }

    /// Waits until its log holds `text`.
    #[track_caller]
    pub fn logs(&self, text: &str) {
        wait_until(&format!("its log holds {text:?}"), || self.log().contains(text));
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// What it printed so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        let mut ended = None;
        wait_until("it ends", || {
            ended = self.child.try_wait().unwrap();
            ended.is_some()
        });
        ended.unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A `work.sh` that goes on until there is a file `go`.
pub const WAITS_FOR_GO: &str = "\
echo \"start $AGENT_REVISION $AGENT_ATTEMPT\" >> \"$AGENT_ROOT/../runs\"
until [ -e \"$AGENT_ROOT/../go\" ] || [ ! -d \"$AGENT_ROOT\" ]; do sleep 0.05; done
echo \"end $AGENT_REVISION\" >> \"$AGENT_ROOT/../runs\"
";

#[test]
fn the_timer_alone_applies_a_push() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.configure("[listen]\nevery = \"1s\"\n");
    let _listener = Listener::start(&machine);
    wait_until("it acts first", || machine.lastaction("ops").is_some());
    let revision = machine.push("ops", &[("page", "new")]);
    wait_until("it acts upon the push", || machine.lastaction("ops") == Some(revision.clone()));
    wait_until("the status says so", || machine.state("ops") == "current");
    assert_eq!(machine.row("ops")["acted"]["trigger"], "timer");
    assert_eq!(machine.runs().len(), 4, "each revision once: {:?}", machine.runs());
}

#[test]
fn an_action_that_takes_long_delays_no_other_repository() {
    let machine = Sandbox::with("slow", &[("work.sh", WAITS_FOR_GO)]);
    machine.configure("[listen]\nevery = \"1s\"\n");
    machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.clone_to_root("ops");
    let _listener = Listener::start(&machine);
    wait_until("it acts", || machine.lastaction("ops").is_some());
    wait_until("the slow one runs", || machine.currentaction("slow").exists());
    let revision = machine.push("ops", &[("page", "new")]);
    wait_until("it acts upon the push", || machine.lastaction("ops") == Some(revision.clone()));
    assert_eq!(machine.lastaction("slow"), None);
    fs::write(machine.path("go"), "").unwrap();
    wait_until("the slow one ends", || machine.lastaction("slow").is_some());
}

#[test]
fn what_is_news_is_printed_once() {
    let machine = Sandbox::with("ops", &[("work.sh", "echo no such table; exit 3")]);
    machine.configure("[listen]\nevery = \"1s\"\n");
    let listener = Listener::start(&machine);
    wait_until("it is printed", || listener.output().contains("no such table"));
    let printed = listener.output();
    assert!(printed.starts_with("ops: failing"), "{printed}");
    let last_tick = || fs::metadata(machine.path("root/.pmpy/last-tick")).unwrap().modified();
    for _ in 0..2 {
        let before = last_tick().unwrap();
        wait_until("it ticks", || last_tick().unwrap() > before);
    }
    assert_eq!(listener.output(), printed);
}

#[test]
fn at_its_end_the_running_action_continues() {
    for signal in [Signal::TERM, Signal::INT] {
        let machine = Sandbox::with("ops", &[("work.sh", WAITS_FOR_GO)]);
        let mut listener = Listener::start(&machine);
        wait_until("the action runs", || !machine.runs().is_empty());
        listener.signal(signal);
        // The script ends when this test says so.
        assert!(listener.end().success());
        assert_eq!(machine.runs().len(), 1);
        fs::write(machine.path("go"), "").unwrap();
        wait_until("the action ends", || machine.lastaction("ops").is_some());
        assert_eq!(machine.runs().len(), 2);
    }
}

#[test]
fn a_configuration_is_read_anew_and_a_broken_one_is_not_taken() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.configure("[repo.ops]\nactive = false\n[listen]\nevery = \"1s\"\n");
    let listener = Listener::start(&machine);
    let last_tick = machine.path("root/.pmpy/last-tick");
    wait_until("it ticks", || last_tick.exists());
    machine.configure("[listen]\nevery = 1\n");
    listener.signal(Signal::HUP);
    listener.logs("configuration not reloaded");
    assert!(listener.log().contains("agent.toml:2:9"), "{}", listener.log());
    let modified = || fs::metadata(&last_tick).unwrap().modified().unwrap();
    let before = modified();
    wait_until("it ticks as before", || modified() > before);
    assert_eq!(machine.lastaction("ops"), None);
    machine.configure("");
    listener.signal(Signal::HUP);
    wait_until("it acts", || machine.lastaction("ops").is_some());
}

#[test]
fn a_fleet_that_reads_its_configuration_anew_does_not_look_in_the_same_second() {
    let machine = Sandbox::with("spog", &[("work.sh", NOTES_ITS_RUNS)]);
    web::put_secret(&machine, "hush\n");
    machine.configure(&format!("splay = \"365d\"\n{}", web::configured(&machine, "")));
    let listener = Listener::start(&machine);
    let web = Web::of(&listener);
    for times in 1..=2 {
        listener.signal(Signal::HUP);
        listener.logs_times("configuration reloaded", times);
    }
    // What is due begins before anything else is heard.
    assert_eq!(web.metric("pmpy_ticks_total{trigger=\"timer\"}"), 0.0);
    let unhurried = fs::read_to_string(machine.path("root/.pmpy/agent.toml")).unwrap();
    machine.configure(&unhurried.replace("365d", "0s"));
    listener.signal(Signal::HUP);
    wait_until("it acts", || machine.lastaction("spog").is_some());
}

#[test]
fn a_configuration_that_is_broken_at_the_start_is_an_end() {
    let machine = Sandbox::new();
    machine.configure("[listen]\nevery = 1\n");
    let ran = machine.agent(&["listen"]).exits(2);
    assert!(ran.stderr.contains("agent.toml:2:9"), "{ran}");
}

#[test]
fn a_supervisor_hears_that_it_is_up_that_it_lives_and_that_it_ends() {
    let machine = Sandbox::new();
    let path = machine.path("supervisor");
    let hidden = format!("pmpy-test-{}", std::process::id());
    let sockets = [
        (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
        (
            format!("@{hidden}"),
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&hidden).unwrap()).unwrap(),
        ),
    ];
    for (name, socket) in sockets {
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let heard = || {
            let mut bytes = [0; 64];
            // The end of some other test's child interrupts a wait that has a time limit.
            let length = loop {
                match socket.recv(&mut bytes) {
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    received => break received.unwrap(),
                }
            };
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        let mut listener = Listener::start_with(&machine, |command| {
            command.env("NOTIFY_SOCKET", &name).env("WATCHDOG_USEC", "200000")
        });
        assert_eq!(heard(), "READY=1");
        assert_eq!([heard(), heard()], ["WATCHDOG=1", "WATCHDOG=1"]);
        listener.signal(Signal::TERM);
        assert!(listener.end().success());
        while heard() != "STOPPING=1" {}
    }
}
