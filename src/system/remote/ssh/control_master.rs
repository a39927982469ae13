//! The shared ssh connections, one for each server and each set of login settings. The first process
//! opens it, and it stays open for the next tick. This file knows the sockets and decides which process
//! may use one when; it starts no process.

use std::collections::HashMap;
use std::fs::{DirEntry, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};

use crate::domain::hash;
use crate::domain::remote::{ConnectionSettings, RemoteFailure};
use crate::system::files;
use crate::system::host::since_boot;
use crate::system::remote::address::RemoteAddress;
use crate::system::remote::duplex_stream::CONNECT;
use crate::system::users::User;

/// The most processes that use one server at once: sshd lets ten sessions share a connection by default.
const MOST: usize = 8;
/// How long the others wait for a connection that only ssh knows to be open.
const SOON: Duration = Duration::from_secs(2);
/// How often to check whether another process is still opening the connection.
const BEAT: Duration = Duration::from_millis(20);
/// The longest path that ssh can bind a socket to; ssh adds a dot and 16 characters while it binds.
const LONGEST: usize = 104 - 17;
/// The length of ssh's expansion of `%C`, in characters.
const EXPANDED: usize = 40;
/// The files that also decide the login and the host: a changed file means another connection.
const SETTINGS: [&str; 3] = ["/etc/ssh/ssh_config", "/etc/ssh/ssh_config.d", ".ssh/config"];

/// The shared connections of this process.
#[derive(Debug, Default)]
pub struct ControlMasters {
    dirs: Vec<PathBuf>,
    dir: OnceLock<Option<PathBuf>>,
    gates: Mutex<HashMap<String, Arc<ConnectionGate>>>,
}

impl ControlMasters {
    /// Puts the sockets into the first of `directories` that can be made private and whose path is short
    /// enough, else into a directory in `/tmp`.
    pub fn below(directories: Vec<PathBuf>) -> Self {
        Self { dirs: directories, ..Self::default() }
    }

    /// The gate to the server at `address`, for logins with the settings `reach` and the ssh `command`.
    pub fn gate(
        &self,
        address: &RemoteAddress,
        reach: &ConnectionSettings,
        command: Option<&str>,
    ) -> Arc<ConnectionGate> {
        let user = User::current();
        let usual = SETTINGS.map(|name| user.home.join(name));
        let files = [reach.key_file.as_deref(), reach.known_hosts.as_deref()];
        let mut parts = vec![
            format!("{}@{address}", address.user.as_deref().unwrap_or_default()),
            command.unwrap_or_default().to_owned(),
        ];
        // A replaced file must not give access through a connection that the old one opened.
        parts.extend(files.into_iter().chain(usual.iter().map(|path| Some(path.as_path()))).map(
            |path| {
                let found = path.and_then(|path| std::fs::metadata(path).ok());
                let state = found.map(|it| (it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
                format!("{path:?} {state:?}")
            },
        ));
        // Two agents with different directories on one machine share no connection.
        parts.extend(self.dirs.iter().map(|directory| directory.display().to_string()));
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        let name = format!("{:012x}", hash::stable(&parts) >> 16);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(name).or_insert_with_key(|name| {
            let directory = self.dir.get_or_init(|| private_dir(&self.dirs, &user));
            let socket = directory.as_ref().map(|directory| directory.join(name));
            Arc::new(ConnectionGate { socket, ..ConnectionGate::default() })
        });
        Arc::clone(gate)
    }
}

/// The first usable directory; `None` when no connection can be shared.
fn private_dir(directories: &[PathBuf], user: &User) -> Option<PathBuf> {
    let last = PathBuf::from(format!("/tmp/pmpy-{}", user.uid));
    let fits = |directory: &&PathBuf| directory.as_os_str().len() + 13 + EXPANDED <= LONGEST;
    let is_private = |directory: &&PathBuf| {
        files::ensure_dir(directory, 0o700).is_ok()
            && directory.symlink_metadata().is_ok_and(|found| {
                found.is_dir() && found.uid() == user.uid && found.mode() & 0o077 == 0
            })
    };
    directories.iter().chain([&last]).filter(fits).find(is_private).cloned()
}

/// The way in which the processes for one server share connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharingMode {
    /// Over the agent's own socket, whose path begins like this.
    Ours(PathBuf),
    /// As the user's ssh configuration says.
    Theirs,
    /// Unknown: the program that runs is not OpenSSH.
    Unknown,
}

/// Limits the processes for one server: the first runs alone until its connection is open, then at most
/// eight run at once.
#[derive(Debug, Default)]
pub struct ConnectionGate {
    socket: Option<PathBuf>,
    book: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct GateState {
    inside: usize,
    /// Whether one of them is opening the connection.
    opening: bool,
    /// How connections are shared, once that is known and the first connection is open.
    settled: Option<SharingMode>,
    /// The number of failed openings, and the message of the last one.
    failures: (usize, String),
}

impl ConnectionGate {
    /// The beginning of the socket's path; `None` when no connection can be shared.
    pub fn socket(&self) -> Option<PathBuf> {
        self.socket.clone()
    }

    /// Whether the agent's connection is open. A socket that a dead connection left counts too: ssh
    /// replaces it.
    fn is_open(&self) -> bool {
        let place = self.socket.as_ref().and_then(|socket| socket.parent().zip(socket.file_name()));
        let Some((directory, name)) = place else { return false };
        let is_socket = |entry: &DirEntry| {
            let found = entry.file_name();
            let rest = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
            // A name with a dot is a socket that ssh is about to rename, or the lock.
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'.'))
        };
        std::fs::read_dir(directory).is_ok_and(|entries| entries.flatten().any(|it| is_socket(&it)))
    }

    /// Takes the lock that keeps other processes from opening the connection, and waits for it until
    /// `deadline` (time since boot). `None` when another process held it and has finished, at the
    /// deadline, or when the lock cannot be opened.
    fn lock(&self, deadline: Duration) -> Option<File> {
        let path = self.socket.as_ref()?.with_extension("lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        if fs2::FileExt::try_lock_exclusive(&file).is_ok() {
            return Some(file);
        }
        // All that wait continue together: one after the other, each would wait for a server that does
        // not answer. The deadline limits the wait for a process that hangs.
        while fs2::FileExt::try_lock_shared(&file).is_err() && since_boot() < deadline {
            thread::sleep(BEAT);
        }
        None
    }

    /// Waits at most `limit` for a permit for one more process, and then less than that for another
    /// process that opens the connection.
    ///
    /// # Errors
    /// When the server was found not to answer in the meantime, or the time is over.
    pub fn enter(self: &Arc<Self>, limit: Duration) -> Result<GatePermit> {
        let deadline = since_boot() + limit;
        let mut book = self.book();
        let before = book.failures.0;
        while book.opening || book.inside >= MOST {
            let left = deadline.saturating_sub(since_boot());
            if left.is_zero() {
                return Err(anyhow!(
                    "the time is over before its turn came: others that ask the same server take it all"
                ));
            }
            let waited = self.changed.wait_timeout(book, left);
            book = waited.unwrap_or_else(PoisonError::into_inner).0;
            if book.failures.0 != before {
                return Err(Error::new(RemoteFailure::Server).context(book.failures.1.clone()));
            }
        }
        let ours = || self.socket.clone().filter(|_| self.is_open()).map(SharingMode::Ours);
        let sharing = match &book.settled {
            // The agent's connections end when they are unused for a while.
            Some(SharingMode::Ours(_)) | None => ours(),
            settled => settled.clone(),
        };
        book.inside += 1;
        book.opening = sharing.is_none();
        let (gate, began, opens) = (Arc::clone(self), since_boot(), book.opening);
        let mut pass = GatePermit { gate, began, opens, sharing, lock: None };
        drop(book);
        if pass.opens {
            pass.lock = self.lock(began + CONNECT.min(limit / 2));
            if let Some(sharing) = ours() {
                pass.decided(sharing);
                pass.opened();
            }
        }
        Ok(pass)
    }

    /// Locks the state. A poisoned lock is fine: no thread can leave the state half written.
    fn book(&self) -> MutexGuard<'_, GateState> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permission to run one process for a server; it ends when the value is dropped.
#[derive(Debug)]
pub struct GatePermit {
    gate: Arc<ConnectionGate>,
    /// As time since boot.
    began: Duration,
    opens: bool,
    sharing: Option<SharingMode>,
    /// Keeps other processes from opening the connection, too.
    lock: Option<File>,
}

impl GatePermit {
    /// How its connection is shared; `None` when it is the first process, and this is not known yet.
    pub fn sharing(&self) -> Option<SharingMode> {
        self.sharing.clone()
    }

    /// Records how its connection is shared.
    pub fn decided(&mut self, sharing: SharingMode) -> SharingMode {
        self.sharing = Some(sharing.clone());
        sharing
    }

    /// When its turn came, as time since boot.
    pub fn began(&self) -> Duration {
        self.began
    }

    /// Whether the others wait for this process to open the connection.
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// Checks whether the connection is open, as far as that can be seen from outside ssh.
    pub fn update_state(&mut self) {
        let is_open = match &self.sharing {
            Some(SharingMode::Ours(_)) => self.gate.is_open(),
            _ => since_boot().saturating_sub(self.began) >= SOON,
        };
        if is_open {
            self.opened();
        }
    }

    /// Records that the connection is open, and lets the others in.
    pub fn opened(&mut self) {
        if !self.opens {
            return;
        }
        self.opens = false;
        self.lock = None;
        let mut book = self.gate.book();
        book.opening = false;
        // Where no connection can be shared, the others need not wait for each other.
        book.settled = match &self.sharing {
            Some(SharingMode::Ours(_)) if !self.gate.is_open() => Some(SharingMode::Theirs),
            sharing => sharing.clone(),
        };
        self.gate.changed.notify_all();
    }

    /// Records that the server does not answer: the waiting processes need not try.
    pub fn failed(&mut self, error: &Error) {
        if self.opens {
            let mut book = self.gate.book();
            book.failures = (book.failures.0 + 1, error.to_string());
        }
    }
}

impl Drop for GatePermit {
    fn drop(&mut self) {
        let mut book = self.gate.book();
        book.inside -= 1;
        book.opening &= !self.opens;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use crate::domain::git::Remote;
    use crate::system::remote::ssh::control_master::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn address(url: &str) -> RemoteAddress {
        RemoteAddress::of(&Remote::new(url)).unwrap()
    }

    fn masters() -> (tempfile::TempDir, ControlMasters) {
        let directory = tempfile::tempdir().unwrap();
        let masters = ControlMasters::below(vec![directory.path().join("s")]);
        (directory, masters)
    }

    #[test]
    fn who_gets_in_otherwise_gets_another_connection() {
        let (directory, masters) = masters();
        let key = directory.path().join("key");
        let keyed = ConnectionSettings { key_file: Some(key), ..ConnectionSettings::default() };
        let socket = |url: &str, reach: &ConnectionSettings| {
            masters.gate(&address(url), reach, None).socket()
        };
        let usual = socket("git@host:a", &ConnectionSettings::default()).unwrap();
        assert_eq!(socket("ssh://git@host/b", &ConnectionSettings::default()), Some(usual.clone()));
        let others = [
            socket("joe@host:a", &ConnectionSettings::default()),
            socket("git@other:a", &ConnectionSettings::default()),
            socket("ssh://git@host:23/a", &ConnectionSettings::default()),
            socket("git@host:a", &keyed),
            {
                files::put(directory.path(), "key", b"new", 0o600).unwrap();
                socket("git@host:a", &keyed)
            },
            masters
                .gate(&address("git@host:a"), &ConnectionSettings::default(), Some("ssh -v"))
                .socket(),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(other.as_ref(), Some(&usual), "{index}");
            assert!(!others[..index].contains(other), "{index}");
        }
    }

    #[test]
    fn a_directory_that_others_may_enter_or_with_too_long_a_name_holds_no_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let (open, long, good) = (path.join("open"), path.join("x".repeat(60)), path.join("g"));
        files::ensure_dir(&open, 0o755).unwrap();
        let chosen = private_dir(&[open, long.clone(), good.clone()], &User::current());
        assert_eq!(chosen, Some(good));
        assert!(!long.exists());
    }

    #[test]
    fn the_first_passes_alone_and_then_no_more_than_eight_at_once() {
        let (_dir, masters) = masters();
        let gate = masters.gate(&address("host:a"), &ConnectionSettings::default(), None);
        let (most, now) = (Mutex::new(0), Mutex::new(0));
        let mut first = gate.enter(LIMIT).unwrap();
        assert_eq!(first.sharing(), None);
        first.decided(SharingMode::Theirs);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let pass = gate.enter(LIMIT).unwrap();
                    assert_eq!(pass.sharing(), Some(SharingMode::Theirs));
                    let inside = {
                        let mut now = now.lock().unwrap();
                        *now += 1;
                        *now
                    };
                    let mut most = most.lock().unwrap();
                    *most = inside.max(*most);
                    drop(most);
                    *now.lock().unwrap() -= 1;
                });
            }
            assert_eq!(*now.lock().unwrap(), 0, "they wait for the first");
            first.opened();
        });
        assert!((1..MOST).contains(&most.into_inner().unwrap()), "the first is still inside");
    }

    #[test]
    fn who_waited_for_a_server_that_does_not_answer_need_not_ask_it() {
        let (_dir, masters) = masters();
        let gate = masters.gate(&address("host:a"), &ConnectionSettings::default(), None);
        let mut first = gate.enter(LIMIT).unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..3).map(|_| scope.spawn(|| gate.enter(LIMIT).map(|_| ()))).collect();
            first.failed(&anyhow::anyhow!("host does not answer"));
            drop(first);
            for waiter in waiting {
                // A thread that came too late opens it itself.
                if let Err(error) = waiter.join().unwrap() {
                    assert_eq!(error.to_string(), "host does not answer");
                }
            }
        });
        assert_eq!(gate.enter(LIMIT).unwrap().sharing(), None, "the next tick tries again");
    }

    #[test]
    fn another_process_that_hangs_with_the_lock_delays_no_other_for_long() {
        let (_dir, masters) = masters();
        let gate = masters.gate(&address("host:a"), &ConnectionSettings::default(), None);
        let path = gate.socket().unwrap().with_extension("lock");
        let other = File::create(path).unwrap();
        fs2::FileExt::lock_exclusive(&other).unwrap();
        let pass = gate.enter(Duration::from_millis(100)).unwrap();
        assert!(pass.opens() && pass.lock.is_none(), "it opens one all the same");
    }

    #[test]
    fn who_waits_for_one_that_hangs_gets_an_answer_in_time() {
        let (_dir, masters) = masters();
        let gate = masters.gate(&address("host:a"), &ConnectionSettings::default(), None);
        let _first = gate.enter(LIMIT).unwrap();
        let error = gate.enter(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().starts_with("the time is over before its turn came"), "{error}");
        assert_eq!(error.downcast_ref::<RemoteFailure>(), None);
    }

    #[test]
    fn the_others_pass_as_soon_as_the_socket_is_there_and_nothing_was_said_yet() {
        let (_dir, masters) = masters();
        let gate = masters.gate(&address("host:a"), &ConnectionSettings::default(), None);
        let socket = gate.socket().unwrap();
        let mut first = gate.enter(LIMIT).unwrap();
        first.decided(SharingMode::Ours(socket.clone()));
        first.update_state();
        assert!(first.opens());
        File::create(format!("{}0", socket.display())).unwrap();
        first.update_state();
        assert!(!first.opens());
        assert_eq!(gate.enter(LIMIT).unwrap().sharing(), Some(SharingMode::Ours(socket)));
    }
}
