//! Servers that cannot be had here, or that no configuration of a real one gives: git's own upload-pack
//! behind plain HTTP, with the answers of each [`Fake`] changed as that server changes them. Where the
//! answers are known from somebody else, the fake names the source.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;

use crate::sandbox::Sandbox;

const RESULT: &str = "application/x-git-upload-pack-result";

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fake {
    /// Version 2, as git itself answers.
    Git,
    /// Version 0 that answers 400 to a fetch without `multi_ack`: Azure DevOps, by
    /// github.com/ConfigButler/gitops-reverser/issues/288.
    Azure,
    /// The same that lost what the first fetch wants: the words after the acknowledgement are from a
    /// Maven log in Adobe's documentation of Cloud Manager ("expected ACK/NAK, got '?TF401035: …").
    AzureMoved,
    /// Version 0 with few capabilities, neither an agent nor the target of HEAD: AWS CodeCommit, by
    /// github.com/isomorphic-git/isomorphic-git/issues/199.
    CodeCommit,
    /// Version 2 that lost what the first fetch wants, in the words of JGit's `WantNotValidException`.
    JGitMoved,
    /// Version 0 that never answers a request for the refs which it did not offer.
    Silent,
    /// The same, and it closes the connection.
    Cut,
    /// The same, and the request after it is not answered either: node-git-server ends its process then.
    Fragile,
    /// The same, and it answers with this status.
    Status(u16),
    /// The same, and it answers with a flush, as a version 0 that reads no wants.
    Flush,
    /// Version 0 with `side-band` only.
    SideBand,
    /// Version 0 without any side-band.
    Bare,
    /// Version 0 that cannot cut a history.
    NoShallow,
    /// Version 0 that gives tips of refs and nothing else, as git does over a connection that stays open.
    TipsOnly,
    /// Version 2 that does not offer `agent` and rejects it.
    NoAgent,
    /// Version 2 whose answers have this content type; empty for none.
    Kind(&'static str),
    /// Version 2 whose answers are coded by gzip, which nobody asked for.
    Gzip,
    /// The same, and a list of refs is followed by 64 MiB of zeros.
    Bomb,
    /// It asks for a login, by Digest only.
    Digest,
    /// It redirects whatever is asked to the server at this address, such as `http://127.0.0.1:80`.
    Redirect(&'static str),
    /// Version 2, which answers 502 to whatever is posted.
    NoPost,
}

/// A running fake. Dropping it ends its listening; connections end with their clients.
pub struct FakeServer {
    address: Ipv4Addr,
    port: u16,
    state: Arc<State>,
}

struct State {
    repositories: PathBuf,
    fake: Mutex<Fake>,
    ended: AtomicBool,
    has_moved: AtomicBool,
    requests: Mutex<Vec<String>>,
}

/// A request: the first line's words, and the body, inflated.
struct Asked {
    method: String,
    path: String,
    version: String,
    body: Vec<u8>,
}

impl FakeServer {
    /// A server of the sandbox's repositories that answers as `fake`.
    pub fn of(machine: &Sandbox, fake: Fake) -> Self {
        Self::at(machine, fake, Ipv4Addr::LOCALHOST)
    }

    /// The same at another address of this machine.
    pub fn at(machine: &Sandbox, fake: Fake, address: Ipv4Addr) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            repositories: machine.path("server"),
            fake: Mutex::new(fake),
            ended: AtomicBool::new(false),
            has_moved: AtomicBool::new(false),
            requests: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.ended.load(Relaxed) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // A client that goes away in the middle is none of its worries.
                thread::spawn(move || drop(shared.serve(client)));
            }
        });
        Self { address, port, state }
    }

    /// The URL of the repository `name`.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}:{}/{name}.git", self.address, self.port)
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on, it answers as `fake`.
    pub fn become_like(&self, fake: Fake) {
        *self.state.fake.lock().unwrap() = fake;
    }

    /// The methods of what was asked since this was last called.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Relaxed);
        let _ = TcpStream::connect((self.address, self.port));
    }
}

/// An answer: status, content type, and body. `None` instead of it: the connection is closed.
type Answer = Option<(u16, &'static str, Vec<u8>)>;

impl State {
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        let Some(asked) = read_request(&mut client)? else { return Ok(()) };
        self.requests.lock().unwrap().push(asked.method.clone());
        let fake = *self.fake.lock().unwrap();
        let is_unasked = asked.body.get(4..).is_some_and(|rest| rest.starts_with(b"command="));
        if fake == Fake::Silent && is_unasked {
            // Until the client gives up.
            let _ = client.read(&mut [0]);
            return Ok(());
        }
        if fake == Fake::Fragile && (is_unasked || self.has_moved.swap(false, Relaxed)) {
            self.has_moved.store(is_unasked, Relaxed);
            return Ok(());
        }
        let Some((status, kind, mut body)) = self.answer(fake, &asked, is_unasked) else {
            return Ok(());
        };
        let mut head = format!("HTTP/1.1 {status} So\r\nConnection: close\r\n");
        if !kind.is_empty() {
            let _ = write!(head, "Content-Type: {kind}\r\n");
        }
        if status == 401 {
            head += "WWW-Authenticate: Digest realm=\"git\", nonce=\"x\", qop=\"auth\"\r\n";
        }
        if let Fake::Redirect(server) = fake {
            let _ = write!(head, "Location: {server}{}\r\n", asked.path);
        }
        if matches!(fake, Fake::Gzip | Fake::Bomb) {
            head += "Content-Encoding: gzip\r\n";
            let mut coder = GzEncoder::new(Vec::new(), Compression::fast());
            coder.write_all(&body)?;
            if fake == Fake::Bomb && asked.method == "POST" {
                io::copy(&mut io::repeat(0).take(64 << 20), &mut coder)?;
            }
            body = coder.finish()?;
        }
        client.write_all(format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes())?;
        client.write_all(&body)
    }

    fn answer(&self, fake: Fake, asked: &Asked, is_unasked: bool) -> Answer {
        if matches!(fake, Fake::Redirect(_)) {
            return Some((302, "", Vec::new()));
        }
        if fake == Fake::Digest {
            return Some((401, "text/plain", b"who?".to_vec()));
        }
        let is_new = matches!(
            fake,
            Fake::Git
                | Fake::JGitMoved
                | Fake::NoAgent
                | Fake::Kind(_)
                | Fake::Gzip
                | Fake::Bomb
                | Fake::NoPost
        );
        let version = if is_new { asked.version.as_str() } else { "" };
        if asked.method == "GET" {
            return Some(self.advertisement(fake, asked, version));
        }
        let refused = |status, words: &str| Some((status, "text/plain", words.as_bytes().to_vec()));
        let result = |body| Some((200, RESULT, body));
        let first_line = asked.body.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let first_line = String::from_utf8_lossy(first_line);
        let is_fetch = asked.body.windows(5).any(|five| five == b"want ");
        match fake {
            Fake::Cut if is_unasked => return None,
            Fake::Status(status) if is_unasked => return refused(status, "no"),
            Fake::NoPost => return refused(502, "bad gateway"),
            Fake::Flush if is_unasked => return result(b"0000".to_vec()),
            Fake::Azure | Fake::AzureMoved if is_fetch && !first_line.contains(" multi_ack") => {
                let words = "TF401041: The Git protocol sent is not as expected (Clients must \
                             support multi-ack.).";
                return refused(400, words);
            }
            Fake::AzureMoved if is_fetch && !self.has_moved.swap(true, Relaxed) => {
                let words = "TF401035: The object '1' does not exist.";
                return result(packet(&format!("\u{3}{words}")));
            }
            Fake::JGitMoved if is_fetch && !self.has_moved.swap(true, Relaxed) => {
                return result(packet("ERR want 1111111111 not valid"));
            }
            Fake::SideBand | Fake::Bare if first_line.contains("side-band-64k") => {
                return refused(400, "not offered");
            }
            Fake::Bare if first_line.contains("side-band") => return refused(400, "not offered"),
            Fake::NoShallow if asked.body.windows(7).any(|it| it == b"deepen ") => {
                return refused(400, "not offered");
            }
            Fake::TipsOnly if is_fetch && !self.wants_tips(asked) => {
                return result(packet("ERR upload-pack: not our ref 1"));
            }
            Fake::NoAgent if asked.body.windows(6).any(|six| six == b"agent=") => {
                return result(packet("ERR unknown capability 'agent'"));
            }
            _ => {}
        }
        let kind = if let Fake::Kind(kind) = fake { kind } else { RESULT };
        Some((200, kind, self.upload_pack(asked, version, &[])))
    }

    fn advertisement(
        &self,
        fake: Fake,
        asked: &Asked,
        version: &str,
    ) -> (u16, &'static str, Vec<u8>) {
        let mut body = self.upload_pack(asked, version, &["--advertise-refs"]);
        let less: &[&str] = match fake {
            Fake::SideBand => &[" side-band-64k"],
            Fake::Bare => &[" side-band-64k", " side-band"],
            Fake::NoShallow => &[" shallow"],
            _ => &[],
        };
        body = with_capabilities(&body, |words| {
            let words = less.iter().fold(words.to_owned(), |words, less| words.replace(less, ""));
            match fake {
                Fake::CodeCommit => "multi_ack_detailed shallow side-band-64k thin-pack \
                                     allow-tip-sha1-in-want allow-reachable-sha1-in-want"
                    .to_owned(),
                _ => words,
            }
        });
        if version.is_empty() {
            let service = [packet("# service=git-upload-pack\n"), b"0000".to_vec()].concat();
            body.splice(0..0, service);
        }
        let kind = if let Fake::Kind(kind) = fake {
            kind
        } else {
            "application/x-git-upload-pack-advertisement"
        };
        (200, kind, body)
    }

    /// Whether everything that is wanted is the tip of a ref.
    fn wants_tips(&self, asked: &Asked) -> bool {
        let list = self.upload_pack(asked, "", &["--advertise-refs"]);
        let list = String::from_utf8_lossy(&list).into_owned();
        let body = String::from_utf8_lossy(&asked.body).into_owned();
        body.split("want ").skip(1).all(|rest| rest.get(..40).is_some_and(|id| list.contains(id)))
    }

    fn upload_pack(&self, asked: &Asked, version: &str, arguments: &[&str]) -> Vec<u8> {
        let name = asked.path.trim_start_matches('/').split('/').next().unwrap();
        let mut child = Command::new("git")
            .args(["upload-pack", "--stateless-rpc"])
            .args(arguments)
            .arg(self.repositories.join(name))
            .env("GIT_PROTOCOL", version)
            .env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It may have answered before it has read everything.
        let _ = child.stdin.take().unwrap().write_all(&asked.body);
        child.wait_with_output().unwrap().stdout
    }
}

/// A list of refs of version 0 with other capabilities.
fn with_capabilities(list: &[u8], change: impl Fn(&str) -> String) -> Vec<u8> {
    let first = list.get(..4).and_then(|four| std::str::from_utf8(four).ok());
    let length = first.and_then(|four| usize::from_str_radix(four, 16).ok()).unwrap_or_default();
    let Some((line, rest)) = list.split_at_checked(length) else { return list.to_vec() };
    let line = String::from_utf8_lossy(line.get(4..).unwrap_or_default()).into_owned();
    match line.split_once('\0') {
        Some((tip, words)) => {
            let changed = packet(&format!("{tip}\0{}\n", change(words.trim_end())));
            [changed.as_slice(), rest].concat()
        }
        None => list.to_vec(),
    }
}

fn packet(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

fn read_request(client: &mut TcpStream) -> io::Result<Option<Asked>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if client.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let header = |wanted: &str| {
        let found = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(wanted).then(|| value.trim().to_owned())
        });
        found.unwrap_or_default()
    };
    let mut body = vec![0; header("Content-Length").parse().unwrap_or(0)];
    client.read_exact(&mut body)?;
    if header("Content-Encoding") == "gzip" {
        let coded = std::mem::take(&mut body);
        GzDecoder::new(coded.as_slice()).read_to_end(&mut body)?;
    }
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Ok(Some(Asked { method, path, version: header("Git-Protocol"), body }))
}
