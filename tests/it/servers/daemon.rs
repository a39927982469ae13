//! A git daemon: git's own protocol, without encryption and without credentials.

use crate::sandbox::{Sandbox, text};

use super::{Running, free_port, git_exec_path, has_ipv6};

/// A git daemon that serves every repository of the sandbox's server.
pub struct Daemon {
    port: u16,
    _running: Running,
}

impl Daemon {
    /// Starts it.
    pub fn of(machine: &Sandbox) -> Self {
        let port = free_port();
        let base = format!("--base-path={}", text(&machine.path("server")));
        let program = git_exec_path(machine).join("git-daemon");
        let own_port = format!("--port={port}");
        let mut arguments = vec![
            "--listen=127.0.0.1",
            &own_port,
            &base,
            "--export-all",
            "--reuseaddr",
            "--informative-errors",
            "--max-connections=0",
        ];
        if has_ipv6() {
            arguments.push("--listen=::1");
        }
        let log = machine.path(&format!("git-daemon-{port}.log"));
        let running = Running::start(machine, text(&program), &arguments, &log);
        Self { port, _running: running.listening_on(port) }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of the repository `name`.
    pub fn url(&self, name: &str) -> String {
        format!("git://127.0.0.1:{}/{name}.git", self.port)
    }
}
