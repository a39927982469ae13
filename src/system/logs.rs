//! The logs of actions: one file for each action, one directory for each repository.
//!
//! ```text
//! LOGS/                                                0755: every user can reach his own logs
//! LOGS/NAME/20261122T090000.250Z-1234abcd5678.log      0640 in a directory of 0750, its user's
//! LOGS/NAME/20261122T090000.250Z-1234abcd5678-2.log    a second one within that millisecond
//! ```
//!
//! The user of a repository owns its directory and may plant anything there, while root quotes logs in
//! mails and shows them. So every log is opened through a handle of its directory, never through a
//! link, and only where it is a plain file of the directory's owner.
//!
//! The script writes into the file itself: a pipe would tie us to any process that it leaves running.
//! So the size is limited from outside: while the script runs, the middle of a long log is freed on
//! disk; when it ends, the file is compacted. Both work on the open file only, because by then the
//! process may have no more access to the directory, and because a daemon that still writes into the
//! file must not continue in an unlinked one.
//!
//! Knows nothing of repositories, states or retries.

use std::fs::File;
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use rustix::fs::{AtFlags, FallocateFlags, FileType, Mode, OFlags, fallocate, openat, unlinkat};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid};

use super::files::{self, DiskFault};
use crate::domain::git::Commit;
use crate::domain::repository::action::Outcome;
use crate::domain::text::EscapeControls;

mod directory;

pub use directory::{dir_name, give_to};

/// Bytes kept of the beginning of a log.
const HEAD: u64 = 5_000_000;
/// Bytes kept of the end of a log.
const TAIL: u64 = 5_000_000;
/// Bytes reserved for our own lines: the note about the omitted part, and the last line.
const OWN_LINES: u64 = 64 * 1024;
/// Number of logs that are kept for each repository.
const KEPT: usize = 50;
/// Bytes from the end of the file in which [`tail`] searches.
const TAIL_REACH: u64 = 64 * 1024;
/// Bytes that [`LogReader`] reads at once; an unfinished line is cut at this length.
const PIECE: usize = 64 * 1024;

/// Milliseconds make the order of the names that of the actions.
const FILE_TIME: &str = "%Y%m%dT%H%M%S%.3fZ";
const LINE_TIME: &str = "%Y%m%d-%H%M%S";

/// Log of a running action.
#[derive(Debug)]
pub struct ActionLog {
    name: String,
    started: DateTime<Utc>,
    /// For the script: every write goes to the end.
    appending: File,
    /// For the agent: a file in append mode cannot be written in the middle.
    whole: File,
}

impl ActionLog {
    /// Creates the log of an action on `revision` that starts at `at`, and the directory `dir` where it
    /// is missing. Never overwrites a log.
    ///
    /// # Errors
    /// When the directory or the file cannot be created.
    pub fn create(dir: &Path, at: DateTime<Utc>, revision: &Commit) -> Result<Self> {
        let handle = directory::open_for(dir, geteuid(), getegid())?;
        // A default ACL on it would let others read the files created in it.
        directory::drop_acl(&handle)
            .with_context(|| format!("cannot take the access list from {}", printable(dir)))?;
        // A script that cannot write its output fails half-way at its next line. So it must not begin.
        let free = fs2::available_space(dir)
            .with_context(|| format!("cannot look at the disk of the logs {}", printable(dir)))?;
        if free < OWN_LINES {
            let message = format!("there is no room for a log in {}", printable(dir));
            return Err(Error::new(DiskFault::Full).context(message));
        }
        let stem = format!("{}-{}", at.format(FILE_TIME), &revision.to_string()[..12]);
        for number in 1..100 {
            let name = match number {
                1 => format!("{stem}.log"),
                _ => format!("{stem}-{number}.log"),
            };
            let path = dir.join(&name);
            let message = || format!("cannot make the log {}", printable(&path));
            let whole = match files::create_new(&handle, name.as_bytes(), 0o640) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(message)?,
            };
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let appending =
                File::from(openat(&handle, &name, flags, Mode::empty()).with_context(message)?);
            return Ok(Self { name, started: at, appending, whole });
        }
        bail!("cannot make the log {}: there are 99 of that moment", printable(&dir.join(stem)))
    }

    /// File name of the log, without its directory.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file for the script's stdout and stderr.
    pub fn file(&self) -> &File {
        &self.appending
    }

    /// Writes the first line: `Start TIME about`.
    pub fn start(&self, about: &str) {
        self.line("Start", self.started, about);
    }

    /// Whether the log has only our first line.
    pub fn says_nothing(&self) -> bool {
        let mut text = vec![0; PIECE];
        let Ok(read) = self.whole.read_at(&mut text, 0) else { return false };
        text.truncate(read);
        text.iter().position(|byte| *byte == b'\n').is_some_and(|end| end + 1 == read)
    }

    /// Removes the log from the directory that it was created in.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_from(self, dir: &Path) -> Result<()> {
        files::remove_lazily(dir, &self.name)
    }

    /// Appends the output of another program.
    pub fn add(&self, text: &str) {
        // A failed write does not change the result of that program.
        let _ = (&self.appending).write_all(text.as_bytes());
    }

    /// Frees the middle of a long log on disk; the file keeps its length. Call it regularly while the
    /// script runs.
    pub fn curb(&self) {
        let Ok(metadata) = self.whole.metadata() else { return };
        let on_disk = metadata.blocks() * 512;
        let slack = 1 << 20;
        let Some(middle) = middle(metadata.len()) else { return };
        if on_disk > HEAD + TAIL + slack {
            // Some file systems cannot do it. Then the log stays long until the script ends, which is
            // better than ending the script.
            let _ = fallocate(
                &self.whole,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                middle.start,
                middle.end - middle.start,
            );
        }
    }

    /// Compacts a long log to its head and tail, and writes the last line: `Finish TIME outcome,
    /// seconds`.
    pub fn finish(self, at: DateTime<Utc>, outcome: &Outcome, seconds: f64) {
        // On failure the log is long, but complete.
        let _ = self.close_up();
        self.line("Finish", at, &format!("{outcome}, {seconds:.1} s"));
    }

    /// Writes one line of our own, on a new line even if the script's last line is unfinished.
    fn line(&self, word: &str, at: DateTime<Utc>, about: &str) {
        let open_line = self.whole.metadata().is_ok_and(|metadata| {
            let mut last = [b'\n'];
            let end = metadata.len();
            end > 0 && self.whole.read_exact_at(&mut last, end - 1).is_ok() && last != [b'\n']
        });
        let break_line = if open_line { "\n" } else { "" };
        let text =
            format!("{break_line}{word} {} {}\n", at.format(LINE_TIME), about.escape_controls());
        // A full disk must not fail the action: the same facts are also recorded elsewhere.
        let _ = (&self.appending).write_all(text.as_bytes());
    }

    /// Moves the tail up to the head. If the process is killed meanwhile, the log has a head, a part of
    /// the tail and a hole, and is still readable.
    fn close_up(&self) -> io::Result<()> {
        let Some(middle) = middle(self.whole.metadata()?.len()) else { return Ok(()) };
        let note = left_out(&middle);
        self.whole.write_all_at(note.as_bytes(), middle.start)?;
        let mut to = middle.start + note.len() as u64;
        let mut from = middle.end;
        let mut piece = vec![0; PIECE];
        loop {
            let read = self.whole.read_at(&mut piece, from)?;
            if read == 0 {
                return self.whole.set_len(to);
            }
            self.whole.write_all_at(&piece[..read], to)?;
            from += read as u64;
            to += read as u64;
        }
    }
}

/// Byte range to omit from a log of `len` bytes; `None` when all of it is kept.
fn middle(len: u64) -> Option<Range<u64>> {
    (len > HEAD + TAIL + OWN_LINES).then(|| HEAD..len - TAIL)
}

/// The line that replaces the omitted bytes.
fn left_out(middle: &Range<u64>) -> String {
    let digits = (middle.end - middle.start).to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("\n… {grouped} bytes left out …\n")
}

/// A log file on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Path of the log file.
    pub path: PathBuf,
    /// Start of its action.
    pub at: DateTime<Utc>,
    /// First 12 digits of the deployed commit id.
    pub revision: String,
    /// 1 for the first log of that time and revision.
    number: u32,
}

/// Lists the logs in the directory `dir`, newest first, and skips other files. A missing directory has
/// none.
///
/// # Errors
/// When the directory cannot be read.
pub fn list(dir: &Path) -> Result<Vec<LogEntry>> {
    let about = || format!("cannot read the log directory {}", printable(dir));
    let Some(handle) = directory::open(dir).with_context(about)? else { return Ok(Vec::new()) };
    let mut entries = Vec::new();
    for (name, kind) in handle.entries().with_context(about)? {
        let name = std::str::from_utf8(&name).ok().filter(|_| kind == FileType::RegularFile);
        entries.extend(name.and_then(|name| {
            let (at, revision, number) = read_name(name)?;
            Some(LogEntry { path: dir.join(name), at, revision: revision.to_owned(), number })
        }));
    }
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.number)));
    Ok(entries)
}

/// Whether a log of ours may have this name.
pub fn is_log_name(name: &str) -> bool {
    read_name(name).is_some()
}

/// Parses start, revision and number from the name of a log; `None` when it is not one of ours.
fn read_name(name: &str) -> Option<(DateTime<Utc>, &str, u32)> {
    let mut parts = name.strip_suffix(".log")?.split('-');
    let at = NaiveDateTime::parse_from_str(parts.next()?, FILE_TIME).ok()?.and_utc();
    let revision = parts.next()?;
    let hex = revision.len() == 12 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = parts.next().map_or(Some(1), |number| number.parse().ok())?;
    (hex && parts.next().is_none()).then_some((at, revision, number))
}

/// Removes logs in `dir` beyond the newest 50 or older than 30 days at `now`; never the newest.
///
/// # Errors
/// When the directory cannot be read or a log cannot be removed.
pub fn prune(dir: &Path, now: DateTime<Utc>) -> Result<()> {
    let about = || format!("cannot remove old logs in {}", printable(dir));
    let Some(handle) = directory::open(dir).with_context(about)? else { return Ok(()) };
    for (place, entry) in list(dir)?.iter().enumerate().skip(1) {
        if place >= KEPT || now - entry.at > Duration::days(30) {
            let name = entry.path.file_name().unwrap_or_default();
            match unlinkat(&handle, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => {
                    let message = format!("cannot remove the old log {}", printable(&entry.path));
                    return Err(error).context(message);
                }
            }
        }
    }
    Ok(())
}

/// At most the last `lines` lines of the script's output within the last 64 KiB of the log; without our
/// own lines.
///
/// # Errors
/// When the log cannot be read.
pub fn tail(path: &Path, lines: usize) -> Result<Vec<String>> {
    let about = || format!("cannot read the log {}", printable(path));
    let file = directory::open_log(path)?;
    let len = file.metadata().with_context(about)?.len();
    let from = len.saturating_sub(TAIL_REACH);
    let mut bytes = vec![0; (len - from) as usize];
    let read = file.read_at(&mut bytes, from).with_context(about)?;
    bytes.truncate(read);
    let text = String::from_utf8_lossy(&bytes);
    // The first line may be incomplete, or our own.
    let own_first = from > 0 || is_own(text.lines().next().unwrap_or_default(), "Start");
    let mut all: Vec<&str> = text.lines().skip(usize::from(own_first)).collect();
    if all.last().is_some_and(|last| is_finish(last)) {
        all.pop();
    }
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect())
}

/// Whether this is the last line of a log. A script may print the same; only the end of `log -f`
/// depends on it.
pub fn is_finish(line: &str) -> bool {
    is_own(line, "Finish")
}

fn is_own(line: &str, word: &str) -> bool {
    let mut words = line.splitn(3, ' ');
    words.next() == Some(word)
        && words.next().is_some_and(|at| NaiveDateTime::parse_from_str(at, LINE_TIME).is_ok())
        && words.next().is_some()
}

/// Reads a log from its beginning, also during writing. Skips a hole in the middle, with the line that
/// reports it.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    file: File,
    at: u64,
    open_line: Vec<u8>,
}

impl LogReader {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = directory::open_log(path)?;
        Ok(Self { path: path.to_owned(), file, at: 0, open_line: Vec::new() })
    }

    /// Reads the next lines; empty when there are no more yet. An unfinished line is kept until it
    /// ends.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        loop {
            let mut piece = vec![0; PIECE];
            let read = self
                .read(&mut piece)
                .with_context(|| format!("cannot read the log {}", printable(&self.path)))?;
            self.open_line.extend(&piece[..read]);
            let end = match self.open_line.iter().rposition(|&byte| byte == b'\n') {
                Some(end) => end + 1,
                None if self.open_line.len() >= PIECE => self.open_line.len(),
                None if read == 0 => return Ok(Vec::new()),
                None => continue,
            };
            let rest = self.open_line.split_off(end);
            let complete = std::mem::replace(&mut self.open_line, rest);
            return Ok(String::from_utf8_lossy(&complete).lines().map(str::to_owned).collect());
        }
    }

    /// The unfinished last line, for a log that no longer grows; `None` when there is none.
    pub fn rest(self) -> Option<String> {
        (!self.open_line.is_empty()).then(|| String::from_utf8_lossy(&self.open_line).into_owned())
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let len = self.file.metadata()?.len();
        if len < self.at {
            // The log was compacted after we had read this far. What was written after that is at its
            // end.
            self.at = self.last_line(len)?;
            self.open_line.clear();
        }
        let mut limit = piece.len();
        if let Some(middle) = middle(len).filter(|middle| self.at < middle.end) {
            if self.at >= middle.start {
                let note = left_out(&(self.at..middle.end));
                self.at = middle.end;
                // The note is far shorter than the buffer.
                piece[..note.len()].copy_from_slice(note.as_bytes());
                return Ok(note.len());
            }
            limit = limit.min((middle.start - self.at) as usize);
        }
        let read = self.file.read_at(&mut piece[..limit], self.at)?;
        self.at += read as u64;
        Ok(read)
    }

    /// Offset of the last line in a log of `len` bytes.
    fn last_line(&self, len: u64) -> io::Result<u64> {
        let from = len.saturating_sub(4096);
        let mut bytes = vec![0; (len - from) as usize];
        let read = self.file.read_at(&mut bytes, from)?;
        let before_end = &bytes[..read.saturating_sub(1)];
        let start = before_end.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Ok(from + start as u64)
    }
}

fn printable(path: &Path) -> String {
    path.to_string_lossy().escape_controls()
}

#[cfg(test)]
mod tests;
