//! Real servers for the tests of the wire and the bus, each owned by the value that started it (but for
//! [`brokers`]): nginx with
//! fcgiwrap and git-http-backend ([`Https`]), OpenSSH ([`Sshd`]), git daemon ([`Daemon`]), and two
//! proxies of our own, one that misbehaves ([`Proxy`]) and one that web clients know
//! ([`HttpProxy`]). They listen on free ports of the loopback device, write into the sandbox's directory
//! only, serve `DIR/server`, and end with the value or with the thread that started them,
//! whichever is first. They know nothing of the agent.
//!
//! ```ignore
//! let machine = Sandbox::with("ops", &[("page", "old")]);
//! let server = Https::of(&machine);
//! server.url("ops");                              // https://localhost:PORT/ops.git, protocol v2
//! server.url_at("v0/", "ops");                    // the ways are listed in https.rs
//! server.url_on(Face::Expired, "ops");            // the same with an expired certificate
//! machine.command("git").env("GIT_SSL_CAINFO", server.ca_file());
//! let made = server.requests();                   // what the access log says
//!
//! let line = Proxy::with_round_trip(server.port(Face::Good), Duration::from_millis(20));
//! line.url_of(&server.url("ops"));                // the same through the proxy
//! line.behave(Behaviour::Drip(Duration::from_millis(50)));
//! line.counts();                                  // connections, bytes each way, turns
//!
//! let server = Sshd::of(&machine);
//! server.url("ops");                              // ssh://USER@127.0.0.1:PORT/DIR/server/ops.git
//! server.client_key(); server.known_hosts();
//! server.restart_with("MaxSessions 1\n");
//! server.change_host_key();
//!
//! Daemon::of(&machine).url("ops");                // git://127.0.0.1:PORT/ops.git
//! ```

#![allow(dead_code, unused_imports, reason = "each test uses a part of it")]

pub mod brokers;
pub mod certificates;
mod daemon;
mod fakes;
mod http_proxy;
mod https;
mod proxy;
mod sshd;

use std::collections::HashMap;
use std::fs::{self, File};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

pub use daemon::Daemon;
pub use fakes::{Fake, FakeServer};
pub use http_proxy::HttpProxy;
pub use https::{Face, Https, Request};
pub use proxy::{Behaviour, Counts, Proxy};
pub use sshd::{PASSWORDS_ONLY, Sshd};

use crate::sandbox::{Sandbox, wait_until};

/// The user whom the servers and the proxy know.
pub const USER: &str = "pat";
/// The password of [`USER`].
pub const PASSWORD: &str = "open sesame";

/// A port of the loopback device that nothing listens on. Below those that the kernel gives to
/// clients, so that it stays free until the caller takes it.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() * 61 % 20_000).unwrap();
    loop {
        let port = 10_000 + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let is_free = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if is_free && (!has_ipv6() || TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_ok()) {
            return port;
        }
    }
}

/// Whether the loopback device has `::1`. Where it has, the servers listen there as well.
pub fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// `url`, which names this machine, by its IPv6 address.
pub fn over_ipv6(url: &str) -> String {
    assert!(has_ipv6(), "this test needs ::1 on the loopback device");
    let place = |url: &str, name| url.replacen(name, "[::1]", 1);
    place(&place(url, "127.0.0.1"), "localhost")
}

/// A running server. Dropping it kills it and every process that it started.
pub struct Running {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Running {
    /// Starts `program` in the sandbox's environment with its output in the file `log`.
    pub fn start(machine: &Sandbox, program: &str, arguments: &[&str], log: &Path) -> Self {
        Self::start_with(machine, program, arguments, log, Stdio::null())
    }

    /// The same with something on its standard input.
    pub fn start_with(
        machine: &Sandbox,
        program: &str,
        arguments: &[&str],
        log: &Path,
        input: Stdio,
    ) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        // It ends with the thread that started it, so that no server outlives an aborted test.
        let child = machine
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "--", program])
            .args(arguments)
            .env("PATH", path_with_sbin())
            .stdin(input)
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        Self { name: program.to_owned(), log: log.to_owned(), child }
    }

    /// This, once it answers on `port`; panics with its log when it ends before.
    #[track_caller]
    pub fn listening_on(mut self, port: u16) -> Self {
        wait_until(&format!("{} listens", self.name), || {
            if let Some(status) = self.child.try_wait().unwrap() {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                panic!("{} ended with {status} (tests/run installs it)\n{log}", self.name);
            }
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        });
        self
    }

    /// It and every process that it started, children of children included.
    pub fn processes(&self) -> Vec<Pid> {
        let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
            if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
                children.entry(parent).or_default().push(id);
            }
        }
        let mut found = vec![i32::try_from(self.child.id()).unwrap()];
        let mut next = 0;
        while let Some(id) = found.get(next) {
            found.extend(children.remove(id).unwrap_or_default());
            next += 1;
        }
        found.into_iter().filter_map(Pid::from_raw).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Those that left the group, as sshd's do, are found as its children.
        for process in self.processes() {
            let _ = kill_process(process, Signal::KILL);
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// The caller's PATH and the directories where Debian has its servers.
fn path_with_sbin() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{path}:/usr/sbin:/sbin:/usr/local/sbin")
}

/// Where git has its own programs.
fn git_exec_path(machine: &Sandbox) -> PathBuf {
    PathBuf::from(machine.git(&machine.path(""), &["--exec-path"]))
}
