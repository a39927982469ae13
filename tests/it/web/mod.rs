//! Web hooks and what is told over HTTP, by a real agent that stays up, to a client that writes its bytes
//! itself. Here is what the modules share.

#[cfg(feature = "servers")]
mod figures;
mod forges;
mod limits;
mod pages;
#[cfg(feature = "servers")]
mod proxy;

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use ring::hmac;

use crate::listen::Listener;
use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, set_mode, text, wait_until};

/// What the agent and the forges know.
pub const SECRET: &str = "It's a Secret to Everybody";
/// How long is waited for an answer.
const PATIENCE: Duration = Duration::from_secs(180);

/// The agent's side of HTTP.
pub struct Web {
    port: u16,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's number; 0: the connection ended without a word.
    pub status: u16,
    /// The lines above the text.
    pub head: String,
    /// The text.
    pub body: String,
}

impl Web {
    /// Of this agent.
    pub fn of(listener: &Listener) -> Self {
        Self::after(listener, "listening for web hooks on ")
    }

    /// Where its page is.
    #[cfg(feature = "servers")]
    pub fn of_page(listener: &Listener) -> Self {
        Self::after(listener, "serving the page on ")
    }

    /// The address in the last line of its log that holds `words`.
    fn after(listener: &Listener, words: &str) -> Self {
        let log = listener.log();
        let line = log.lines().rev().find(|line| line.contains(words)).unwrap();
        let port = line.trim_end_matches('/').rsplit(':').next().unwrap();
        Self { port: port.trim().parse().unwrap() }
    }

    /// Where it listens.
    #[cfg(feature = "servers")]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What is answered to these bytes.
    pub fn say(&self, bytes: &[u8]) -> Answer {
        let mut stream = self.connect();
        // It may answer before it has read them all.
        let _ = stream.write_all(bytes);
        answer(stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.say(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes())
    }

    pub fn post(&self, headers: &[(&str, &str)], body: &str) -> Answer {
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let head = format!("POST /hook HTTP/1.1\r\nHost: a\r\n{headers}Content-Length: {length}");
        self.say(format!("{head}\r\n\r\n{body}").as_bytes())
    }

    /// Says what GitHub says of a push to `repo`, with this signature.
    pub fn post_signed(&self, repo: &str, signature: &str) -> Answer {
        let signature = format!("sha256={signature}");
        let headers = [("X-GitHub-Event", "push"), ("X-Hub-Signature-256", signature.as_str())];
        self.post(&headers, &github(repo))
    }

    /// Says what GitHub says of a push to `repo`.
    pub fn push(&self, repo: &str) -> Answer {
        self.post_signed(repo, &signature(&github(repo)))
    }

    /// The value of a metric; 0 where it is not told.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics").body;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }
}

/// What comes until the other side ends the connection.
pub fn answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    // What came before it was cut off counts.
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_ne!(error.kind(), std::io::ErrorKind::WouldBlock, "no answer in {PATIENCE:?}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).map_or(0, |status| status.parse().unwrap());
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// The HMAC of `body`, in hexadecimal digits.
pub fn signature(body: &str) -> String {
    signature_with(SECRET, body)
}

pub fn signature_with(secret: &str, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, body.as_bytes());
    tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What GitHub sends when somebody pushed to `repo`, as far as anybody could look at it.
pub fn github(repo: &str) -> String {
    let short = repo.rsplit('/').next().unwrap();
    format!(
        "{{\"ref\":\"refs/heads/main\",\"before\":\"{0}\",\"after\":\"{1}\",\"created\":false,\
         \"deleted\":false,\"forced\":true,\"repository\":{{\"id\":1,\"name\":\"{short}\",\
         \"full_name\":\"{repo}\",\"private\":true,\"default_branch\":\"main\"}},\
         \"pusher\":{{\"name\":\"pat\",\"email\":\"pat@example.org\"}},\"commits\":[]}}",
        "1".repeat(40),
        "2".repeat(40)
    )
}

/// Where the secret of this machine stands.
pub fn secret_file(machine: &Sandbox) -> PathBuf {
    machine.path("webhook.secret")
}

pub fn put_secret(machine: &Sandbox, secret: &str) {
    fs::write(secret_file(machine), secret).unwrap();
    set_mode(&secret_file(machine), 0o640);
}

/// The configuration of an agent whose timer does not call during a test.
pub fn configured(machine: &Sandbox, more: &str) -> String {
    let file = secret_file(machine);
    format!(
        "[listen]\nevery = \"1h\"\n[webhook]\nbind = \"127.0.0.1:0\"\nsecret_file = {:?}\n{more}",
        text(&file)
    )
}

pub fn last_tick(machine: &Sandbox) -> Option<SystemTime> {
    fs::metadata(machine.path("root/.pmpy/last-tick")).and_then(|meta| meta.modified()).ok()
}

/// As if the last tick had been so long ago.
pub fn last_tick_was(machine: &Sandbox, ago: Duration) {
    let file = File::options().write(true).open(machine.path("root/.pmpy/last-tick")).unwrap();
    file.set_modified(SystemTime::now() - ago).unwrap();
}

/// A machine with the clone `spog` that has been acted upon, and an agent that stays up there and has
/// looked once.
pub fn machine(more: &str) -> (Sandbox, Listener, Web) {
    machine_with(NOTES_ITS_RUNS, more)
}

pub fn machine_with(work: &str, more: &str) -> (Sandbox, Listener, Web) {
    machine_for(work, |_| more.to_owned())
}

/// The same, where the configuration names paths of the machine.
pub fn machine_for(work: &str, more: impl Fn(&Sandbox) -> String) -> (Sandbox, Listener, Web) {
    let machine = Sandbox::with("spog", &[("work.sh", work)]);
    put_secret(&machine, &format!("{SECRET}\n"));
    machine.configure(&configured(&machine, &more(&machine)));
    machine.tick();
    last_tick_was(&machine, Duration::from_secs(60));
    let before = last_tick(&machine);
    let listener = Listener::start(&machine);
    wait_until("it has looked once", || last_tick(&machine) != before);
    let web = Web::of(&listener);
    (machine, listener, web)
}
