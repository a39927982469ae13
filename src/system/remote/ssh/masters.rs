//! The connections that ssh processes share, one for each server and each way of getting in there: the
//! first process opens it, and it stays for the next tick. Knows where their sockets are, and who may
//! use one when; starts no process.

use std::collections::HashMap;
use std::fs::{DirEntry, File};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Error, Result, anyhow};

use crate::domain::hash;
use crate::domain::remote::{Reach, Trouble};
use crate::system::files;
use crate::system::node::{User, since_boot};
use crate::system::remote::address::Address;
use crate::system::remote::stream::CONNECT;

/// How many processes at once use one server: sshd lets ten sessions share a connection by default.
const MOST: usize = 8;
/// How long the others wait for a connection of which only ssh knows whether it stands.
const SOON: Duration = Duration::from_secs(2);
/// How often it is looked whether another process is still opening the connection.
const BEAT: Duration = Duration::from_millis(20);
/// The longest path that ssh can bind a socket to; it adds a dot and 16 characters while it does.
const LONGEST: usize = 104 - 17;
/// What ssh puts for `%C`, in characters.
const EXPANDED: usize = 40;
/// What else decides who gets in where: another content means another connection.
const SETTINGS: [&str; 3] = ["/etc/ssh/ssh_config", "/etc/ssh/ssh_config.d", ".ssh/config"];

/// All of them.
#[derive(Debug, Default)]
pub struct Masters {
    folders: Vec<PathBuf>,
    folder: OnceLock<Option<PathBuf>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

impl Masters {
    /// With sockets in the first of `folders` that can be made private and has a name that is short
    /// enough, else in the folder for temporary files.
    pub fn below(folders: Vec<PathBuf>) -> Self {
        Self { folders, ..Self::default() }
    }

    /// The gate to the server at `address`, for whoever gets in as `reach` and `command` say.
    pub fn gate(&self, address: &Address, reach: &Reach, command: Option<&str>) -> Arc<Gate> {
        let user = User::current();
        let usual = SETTINGS.map(|name| user.home.join(name));
        let files = [reach.key_file.as_deref(), reach.known_hosts.as_deref()];
        let mut parts = vec![
            format!("{}@{address}", address.user.as_deref().unwrap_or_default()),
            command.unwrap_or_default().to_owned(),
        ];
        // One that was replaced must not let anybody in through what it opened.
        parts.extend(files.into_iter().chain(usual.iter().map(|path| Some(path.as_path()))).map(
            |path| {
                let found = path.and_then(|path| std::fs::metadata(path).ok());
                let state = found.map(|it| (it.ino(), it.len(), it.mtime(), it.mtime_nsec()));
                format!("{path:?} {state:?}")
            },
        ));
        // Two worlds on one machine have nothing in common.
        parts.extend(self.folders.iter().map(|folder| folder.display().to_string()));
        let parts: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        let name = format!("{:012x}", hash::stable(&parts) >> 16);
        let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = gates.entry(name).or_insert_with_key(|name| {
            let folder = self.folder.get_or_init(|| private_folder(&self.folders, &user));
            let socket = folder.as_ref().map(|folder| folder.join(name));
            Arc::new(Gate { socket, ..Gate::default() })
        });
        Arc::clone(gate)
    }
}

/// The first folder that will do; `None`: no connection can be shared.
fn private_folder(folders: &[PathBuf], user: &User) -> Option<PathBuf> {
    let last = PathBuf::from(format!("/tmp/pmpy-{}", user.uid));
    let fits = |folder: &&PathBuf| folder.as_os_str().len() + 13 + EXPANDED <= LONGEST;
    let is_private = |folder: &&PathBuf| {
        files::ensure_dir(folder, 0o700).is_ok()
            && folder.symlink_metadata().is_ok_and(|found| {
                found.is_dir() && found.uid() == user.uid && found.mode() & 0o077 == 0
            })
    };
    folders.iter().chain([&last]).filter(fits).find(is_private).cloned()
}

/// How the processes for one server share connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Over a socket of ours, whose path begins like this.
    Ours(PathBuf),
    /// As their set-up says.
    Theirs,
    /// Nobody knows: what runs is not OpenSSH.
    Unknown,
}

/// Where the processes for one server pass: the first alone, the others when the connection is there,
/// and never too many at once.
#[derive(Debug, Default)]
pub struct Gate {
    socket: Option<PathBuf>,
    book: Mutex<Book>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Book {
    inside: usize,
    /// Whether one of them is opening the connection.
    opening: bool,
    /// How connections are shared, once that is known and the first one stands.
    settled: Option<Sharing>,
    /// How many openings have failed, and the words of the last one.
    failures: (usize, String),
}

impl Gate {
    /// What the path of the socket begins with.
    pub fn socket(&self) -> Option<PathBuf> {
        self.socket.clone()
    }

    /// Whether there is a connection of ours. A socket that a dead one left is as good: ssh replaces
    /// it.
    fn is_open(&self) -> bool {
        let place = self.socket.as_ref().and_then(|socket| socket.parent().zip(socket.file_name()));
        let Some((folder, name)) = place else { return false };
        let is_socket = |entry: &DirEntry| {
            let found = entry.file_name();
            let rest = found.as_encoded_bytes().strip_prefix(name.as_encoded_bytes());
            // One with a dot is about to become one, or is the lock.
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(&b'.'))
        };
        std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|it| is_socket(&it)))
    }

    /// Makes sure, as far as it can be until `deadline` (time since boot), that no other process is
    /// opening the connection: the lock, or nothing when one was, and has come to an end with it.
    fn lock(&self, deadline: Duration) -> Option<File> {
        let path = self.socket.as_ref()?.with_extension("lock");
        let file = File::options().create(true).truncate(false).write(true).open(path).ok()?;
        if fs2::FileExt::try_lock_exclusive(&file).is_ok() {
            return Some(file);
        }
        // Those who wait go on together, as a server that does not answer would hold up each. One that
        // hangs holds up nobody for long.
        while fs2::FileExt::try_lock_shared(&file).is_err() && since_boot() < deadline {
            thread::sleep(BEAT);
        }
        None
    }

    /// Waits at most for `limit` until one more may pass, and then for less than that for another
    /// process.
    ///
    /// # Errors
    /// When the server was found not to answer in the meantime, or the time is over.
    pub fn enter(self: &Arc<Self>, limit: Duration) -> Result<Pass> {
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
                return Err(Error::new(Trouble::Server).context(book.failures.1.clone()));
            }
        }
        let ours = || self.socket.clone().filter(|_| self.is_open()).map(Sharing::Ours);
        let sharing = match &book.settled {
            // Ours end when they were not used for a while.
            Some(Sharing::Ours(_)) | None => ours(),
            settled => settled.clone(),
        };
        book.inside += 1;
        book.opening = sharing.is_none();
        let (gate, began, opens) = (Arc::clone(self), since_boot(), book.opening);
        let mut pass = Pass { gate, began, opens, sharing, lock: None };
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

    /// No thread can leave it half written.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The permission to run one process for a server.
#[derive(Debug)]
pub struct Pass {
    gate: Arc<Gate>,
    /// As time since boot.
    began: Duration,
    opens: bool,
    sharing: Option<Sharing>,
    /// Keeps other processes from opening it, too.
    lock: Option<File>,
}

impl Pass {
    /// How its connection is shared; `None`: it is the first, and nobody knows yet.
    pub fn sharing(&self) -> Option<Sharing> {
        self.sharing.clone()
    }

    /// Now it is known.
    pub fn decided(&mut self, sharing: Sharing) -> Sharing {
        self.sharing = Some(sharing.clone());
        sharing
    }

    /// When its turn came, as time since boot.
    pub fn began(&self) -> Duration {
        self.began
    }

    /// Whether the others wait for it to open the connection.
    pub fn opens(&self) -> bool {
        self.opens
    }

    /// Looks whether the connection stands, as far as that can be seen from here.
    pub fn look(&mut self) {
        let stands = match &self.sharing {
            Some(Sharing::Ours(_)) => self.gate.is_open(),
            _ => since_boot().saturating_sub(self.began) >= SOON,
        };
        if stands {
            self.opened();
        }
    }

    /// The connection stands: the others may pass.
    pub fn opened(&mut self) {
        if !self.opens {
            return;
        }
        self.opens = false;
        self.lock = None;
        let mut book = self.gate.book();
        book.opening = false;
        // Where none can be shared the others need not wait for each other.
        book.settled = match &self.sharing {
            Some(Sharing::Ours(_)) if !self.gate.is_open() => Some(Sharing::Theirs),
            sharing => sharing.clone(),
        };
        self.gate.changed.notify_all();
    }

    /// The server does not answer: nobody who waits needs to try.
    pub fn failed(&mut self, error: &Error) {
        if self.opens {
            let mut book = self.gate.book();
            book.failures = (book.failures.0 + 1, error.to_string());
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut book = self.gate.book();
        book.inside -= 1;
        book.opening &= !self.opens;
        self.gate.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::git::Remote;

    const LIMIT: Duration = Duration::from_secs(60);

    fn address(url: &str) -> Address {
        Address::of(&Remote::new(url)).unwrap()
    }

    fn masters() -> (tempfile::TempDir, Masters) {
        let folder = tempfile::tempdir().unwrap();
        let masters = Masters::below(vec![folder.path().join("s")]);
        (folder, masters)
    }

    #[test]
    fn who_gets_in_otherwise_gets_another_connection() {
        let (folder, masters) = masters();
        let key = folder.path().join("key");
        let keyed = Reach { key_file: Some(key), ..Reach::default() };
        let socket = |url: &str, reach: &Reach| masters.gate(&address(url), reach, None).socket();
        let usual = socket("git@host:a", &Reach::default()).unwrap();
        assert_eq!(socket("ssh://git@host/b", &Reach::default()), Some(usual.clone()));
        let others = [
            socket("joe@host:a", &Reach::default()),
            socket("git@other:a", &Reach::default()),
            socket("ssh://git@host:23/a", &Reach::default()),
            socket("git@host:a", &keyed),
            {
                files::put(folder.path(), "key", b"new", 0o600).unwrap();
                socket("git@host:a", &keyed)
            },
            masters.gate(&address("git@host:a"), &Reach::default(), Some("ssh -v")).socket(),
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(other.as_ref(), Some(&usual), "{index}");
            assert!(!others[..index].contains(other), "{index}");
        }
    }

    #[test]
    fn a_folder_that_others_may_enter_or_with_too_long_a_name_holds_no_socket() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (open, long, good) = (path.join("open"), path.join("x".repeat(60)), path.join("g"));
        files::ensure_dir(&open, 0o755).unwrap();
        let chosen = private_folder(&[open, long.clone(), good.clone()], &User::current());
        assert_eq!(chosen, Some(good));
        assert!(!long.exists());
    }

    #[test]
    fn the_first_passes_alone_and_then_no_more_than_eight_at_once() {
        let (_folder, masters) = masters();
        let gate = masters.gate(&address("host:a"), &Reach::default(), None);
        let (most, now) = (Mutex::new(0), Mutex::new(0));
        let mut first = gate.enter(LIMIT).unwrap();
        assert_eq!(first.sharing(), None);
        first.decided(Sharing::Theirs);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let pass = gate.enter(LIMIT).unwrap();
                    assert_eq!(pass.sharing(), Some(Sharing::Theirs));
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
        let (_folder, masters) = masters();
        let gate = masters.gate(&address("host:a"), &Reach::default(), None);
        let mut first = gate.enter(LIMIT).unwrap();
        std::thread::scope(|scope| {
            let waiting: Vec<_> =
                (0..3).map(|_| scope.spawn(|| gate.enter(LIMIT).map(|_| ()))).collect();
            first.failed(&anyhow::anyhow!("host does not answer"));
            drop(first);
            for waiter in waiting {
                // One that came too late opens it itself.
                if let Err(error) = waiter.join().unwrap() {
                    assert_eq!(error.to_string(), "host does not answer");
                }
            }
        });
        assert_eq!(gate.enter(LIMIT).unwrap().sharing(), None, "the next tick tries again");
    }

    #[test]
    fn another_process_that_hangs_with_the_lock_holds_up_nobody_for_long() {
        let (_folder, masters) = masters();
        let gate = masters.gate(&address("host:a"), &Reach::default(), None);
        let path = gate.socket().unwrap().with_extension("lock");
        let other = File::create(path).unwrap();
        fs2::FileExt::lock_exclusive(&other).unwrap();
        let pass = gate.enter(Duration::from_millis(100)).unwrap();
        assert!(pass.opens() && pass.lock.is_none(), "it opens one all the same");
    }

    #[test]
    fn who_waits_for_one_that_hangs_is_told_in_time() {
        let (_folder, masters) = masters();
        let gate = masters.gate(&address("host:a"), &Reach::default(), None);
        let _first = gate.enter(LIMIT).unwrap();
        let error = gate.enter(Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().starts_with("the time is over before its turn came"), "{error}");
        assert_eq!(error.downcast_ref::<Trouble>(), None);
    }

    #[test]
    fn the_others_pass_as_soon_as_the_socket_is_there_and_nothing_was_said_yet() {
        let (_folder, masters) = masters();
        let gate = masters.gate(&address("host:a"), &Reach::default(), None);
        let socket = gate.socket().unwrap();
        let mut first = gate.enter(LIMIT).unwrap();
        first.decided(Sharing::Ours(socket.clone()));
        first.look();
        assert!(first.opens());
        File::create(format!("{}0", socket.display())).unwrap();
        first.look();
        assert!(!first.opens());
        assert_eq!(gate.enter(LIMIT).unwrap().sharing(), Some(Sharing::Ours(socket)));
    }
}
