//! `agent fleet`: what a reader sees of the machines that publish in a status repository. The publications are made by
//! git itself.

mod forgets;
mod looks;
mod reactions;
mod shown;
mod waits;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;

use chrono::{DateTime, Duration, Utc};
use serde_json::{Value, json};

use crate::sandbox::{Ran, Sandbox, text};

pub const OLD: &str = "5f71ff2000000000000000000000000000000000";
pub const NEW: &str = "6b2c3d7000000000000000000000000000000000";

/// A status repository on the sandbox's server.
pub struct Status<'machine> {
    machine: &'machine Sandbox,
    pub path: PathBuf,
}

impl<'machine> Status<'machine> {
    pub fn on(machine: &'machine Sandbox) -> Self {
        Self::with_format(machine, "sha1")
    }

    fn with_format(machine: &'machine Sandbox, format: &str) -> Self {
        let path = machine.server("status");
        let init = ["init", "-q", "--bare", "--object-format", format, text(&path)];
        machine.git(&machine.path(""), &init);
        Self { machine, path }
    }

    /// Puts `status.json` with these bytes at the ref `refs/heads/NAME`, with what was there as its parent.
    pub fn put(&self, name: &str, file: &str, bytes: &[u8]) {
        let mut stream = format!(
            "commit refs/heads/{name}\ncommitter agent@{name} <agent@{name}> 1790000000 +0000\ndata 5\nstate\n"
        )
        .into_bytes();
        let mut before = self.machine.command("git");
        before.args(["-C", text(&self.path), "rev-parse", "-q", "--verify"]);
        if before.arg(format!("refs/heads/{name}")).output().unwrap().status.success() {
            stream.extend(format!("from refs/heads/{name}^0\n").as_bytes());
        }
        stream.extend(format!("M 100644 inline {file}\ndata {}\n", bytes.len()).as_bytes());
        stream.extend(bytes);
        stream.push(b'\n');
        let mut import = self.machine.command("git");
        import.args(["-C", text(&self.path), "fast-import", "--quiet", "--force"]);
        let mut import = import.stdin(Stdio::piped()).spawn().unwrap();
        import.stdin.take().unwrap().write_all(&stream).unwrap();
        assert!(import.wait().unwrap().success());
    }

    /// Lets the machine `host` publish `presence`.
    pub fn publish(&self, host: &str, presence: &Value) {
        let name = format!("{host}/state");
        self.put(&name, "status.json", presence.to_string().as_bytes());
    }

    /// `agent fleet` over its path.
    fn fleet(&self, arguments: &[&str]) -> Ran {
        let url = ["fleet", "--url", text(&self.path)];
        self.machine.agent(&[&url, arguments].concat())
    }

    /// `agent fleet forget` over its path.
    fn forget(&self, arguments: &[&str]) -> Ran {
        let line = [&["fleet", "forget", "--url", text(&self.path)], arguments].concat();
        self.machine.agent(&line)
    }

    /// What `agent fleet --json` says.
    fn json(&self) -> Value {
        serde_json::from_str(&self.fleet(&["--json"]).stdout).unwrap()
    }
}

pub fn ago(length: Duration) -> DateTime<Utc> {
    Utc::now() - length
}

/// What `host` publishes.
pub fn presence(host: &str, repositories: Value) -> Value {
    json!({
        "presence": 1, "host": host, "user": null, "world": null, "id": format!("{:064x}", host.len()), "seq": 1,
        "at": Utc::now(), "every": 14_400, "agent": "0.2.0", "part": "web", "stack": null,
        "repositories": repositories,
    })
}

/// A repository `ops` in `state` at `revision`, for an hour.
pub fn row(state: &str, revision: &str) -> Value {
    let hour = ago(Duration::hours(1));
    json!({
        "name": "ops", "state": state, "since": hour, "branch": "main", "upstream": NEW,
        "acted": {"revision": revision, "subject": "Release", "at": hour},
    })
}

/// What `host` publishes of `ops`.
fn at(host: &str, state: &str, revision: &str) -> Value {
    presence(host, json!([row(state, revision)]))
}
