//! The logs of actions: one file for each, one folder for each repository.
//!
//! ```text
//! LOGS/NAME/20261122T090000.250Z-1234abcd5678.log      0640 in a folder of 0750
//! LOGS/NAME/20261122T090000.250Z-1234abcd5678-2.log    a second one within that millisecond
//! ```
//!
//! The script writes into the file itself: a pipe would tie us to whatever it leaves running. So
//! the size is kept down from beside it: while it runs, the middle of a long log is freed on disk;
//! at its end the file is closed up. Both work on the open file alone, because by then the process
//! may have lost the right to the folder, and because a daemon that still writes into the file must
//! not go on in one that nobody can see.
//!
//! Knows nothing of repositories, states or retries.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Error, Result, bail};
use chrono::{DateTime, Duration, NaiveDateTime, Utc};
use rustix::fs::{FallocateFlags, fallocate, fchown, fstat};
use rustix::process::{Gid, Uid};

use super::files::{self, Fault};
use crate::domain::action::Outcome;
use crate::domain::git::Commit;

/// How much of the beginning of a log is kept, in bytes.
const HEAD: u64 = 5_000_000;
/// How much of its end is kept, in bytes.
const TAIL: u64 = 5_000_000;
/// Room for our own lines: how much was left out between the two, and the last one.
const OWN_LINES: u64 = 64 * 1024;
/// How many logs of a repository are kept.
const KEPT: usize = 50;
/// How far back [`tail`] looks, in bytes.
const TAIL_REACH: u64 = 64 * 1024;
/// How much [`Reader`] takes at once, and where it cuts a line that does not end, in bytes.
const PIECE: usize = 64 * 1024;

/// Fine enough that the order of the names is that of the actions.
const FILE_TIME: &str = "%Y%m%dT%H%M%S%.3fZ";
const LINE_TIME: &str = "%Y%m%d-%H%M%S";

/// The log of an action that runs.
#[derive(Debug)]
pub struct Log {
    name: String,
    started: DateTime<Utc>,
    /// For the script: every write goes to the end.
    appending: File,
    /// For us: appending files cannot be written in the middle.
    whole: File,
}

/// The folder for the logs of repository `name` below the folder of all logs: `name` itself, with
/// everything outside `[A-Za-z0-9._-]` and a leading dot written as `%XX`.
pub fn folder_name(name: &str) -> String {
    let mut folder = String::new();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if at == 0 => folder.push_str("%2E"),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-' => {
                folder.push(char::from(byte));
            }
            _ => folder.push_str(&format!("%{byte:02X}")),
        }
    }
    folder
}

/// Makes the folder of `name`'s logs below `logs`, and gives it to the user who writes there.
///
/// # Errors
/// When it cannot be made or given away.
pub fn give_to(logs: &Path, name: &str, uid: u32, gid: u32) -> Result<()> {
    let name = folder_name(name);
    let told = || format!("cannot make the folder for logs {}", shown(&logs.join(&name)));
    files::ensure_dir(logs, 0o755)?;
    match DirBuilder::new().mode(0o750).create(logs.join(&name)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(told);
        }
        _ => {}
    }
    let folder = files::Dir::open(logs)?.beneath(name.as_bytes()).with_context(told)?;
    let meta = fstat(&folder)?;
    if (meta.st_uid, meta.st_gid) == (uid, gid) {
        return Ok(());
    }
    fchown(&folder, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).with_context(told)
}

impl Log {
    /// Makes the folder `dir` where it is missing, and in it the log of an action upon `revision`
    /// that starts at `at`. Never touches a log that is there.
    ///
    /// # Errors
    /// When the folder or the file cannot be made.
    pub fn create(dir: &Path, at: DateTime<Utc>, revision: &Commit) -> Result<Self> {
        // Only the logs are not for everybody; what lies above them may hold the status.
        if let Some(above) = dir.parent().and_then(Path::parent) {
            files::ensure_dir(above, 0o755)?;
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .with_context(|| format!("cannot make the folder for logs {}", shown(dir)))?;
        // A script that can say nothing fails at its next word, half-way. It had better not begin.
        let free = fs2::available_space(dir)
            .with_context(|| format!("cannot look at the disk of the logs {}", shown(dir)))?;
        if free < OWN_LINES {
            let told = format!("there is no room for a log in {}", shown(dir));
            return Err(Error::new(Fault::Full).context(told));
        }
        let stem = format!("{}-{}", at.format(FILE_TIME), &revision.to_string()[..12]);
        for number in 1..100 {
            let name = match number {
                1 => format!("{stem}.log"),
                _ => format!("{stem}-{number}.log"),
            };
            let path = dir.join(&name);
            let made = OpenOptions::new().append(true).create_new(true).mode(0o640).open(&path);
            let appending = match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(|| format!("cannot make the log {}", shown(&path)))?,
            };
            let whole = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open the log {}", shown(&path)))?;
            return Ok(Self { name, started: at, appending, whole });
        }
        bail!("cannot make the log {}: there are 99 of that moment", shown(&dir.join(stem)))
    }

    /// The file's name in its folder.
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

    /// Whether there is nothing in it yet but our first line.
    pub fn says_nothing(&self) -> bool {
        let mut text = vec![0; PIECE];
        let Ok(read) = self.whole.read_at(&mut text, 0) else { return false };
        text.truncate(read);
        text.iter().position(|byte| *byte == b'\n').is_some_and(|end| end + 1 == read)
    }

    /// Takes it away again from the folder that it was made in.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_from(self, dir: &Path) -> Result<()> {
        files::remove_lazily(dir, &self.name)
    }

    /// Adds what a program printed elsewhere.
    pub fn add(&self, text: &str) {
        // What cannot be kept of it changes nothing about how it ended.
        let _ = (&self.appending).write_all(text.as_bytes());
    }

    /// Frees the middle of a long log on disk; the file keeps its length. To be called now and
    /// then while the script runs.
    pub fn curb(&self) {
        let Ok(metadata) = self.whole.metadata() else { return };
        let on_disk = metadata.blocks() * 512;
        let slack = 1 << 20;
        let Some(middle) = middle(metadata.len()) else { return };
        if on_disk > HEAD + TAIL + slack {
            // Some file systems cannot do it. Then the log is long until the script ends, which is
            // better than ending the script.
            let _ = fallocate(
                &self.whole,
                FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                middle.start,
                middle.end - middle.start,
            );
        }
    }

    /// Closes up a long log to its head and tail, and writes the last line:
    /// `Finish TIME outcome, seconds`.
    pub fn finish(self, at: DateTime<Utc>, outcome: &Outcome, seconds: f64) {
        // A log that could not be closed up is long, and complete.
        let _ = self.close_up();
        self.line("Finish", at, &format!("{outcome}, {seconds:.1} s"));
    }

    /// One line of our own, at the beginning of a line whatever the script left.
    fn line(&self, word: &str, at: DateTime<Utc>, about: &str) {
        let open_line = self.whole.metadata().is_ok_and(|metadata| {
            let mut last = [b'\n'];
            let end = metadata.len();
            end > 0 && self.whole.read_exact_at(&mut last, end - 1).is_ok() && last != [b'\n']
        });
        let break_line = if open_line { "\n" } else { "" };
        let text =
            format!("{break_line}{word} {} {}\n", at.format(LINE_TIME), about.escape_debug());
        // A full disk must not fail the action: the line says nothing that is not recorded
        // elsewhere as well.
        let _ = (&self.appending).write_all(text.as_bytes());
    }

    /// Moves the tail up to the head. Killed in the middle of it, the log has a head, a part of
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

/// What is left out of a log of `len` bytes; `None` when all of it is kept.
fn middle(len: u64) -> Option<Range<u64>> {
    (len > HEAD + TAIL + OWN_LINES).then(|| HEAD..len - TAIL)
}

/// The line in the place of what is left out.
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

/// A log on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Where it is.
    pub path: PathBuf,
    /// When its action started.
    pub at: DateTime<Utc>,
    /// The first 12 digits of the revision acted upon.
    pub revision: String,
    /// 1 for the first log of that moment and revision.
    number: u32,
}

/// The logs in the folder `dir`, newest first. Other files are nobody's business; a missing folder
/// has none.
///
/// # Errors
/// When the folder cannot be read.
pub fn list(dir: &Path) -> Result<Vec<LogEntry>> {
    let about = || format!("cannot read the folder for logs {}", shown(dir));
    let files = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        files => files.with_context(about)?,
    };
    let mut entries = Vec::new();
    for file in files {
        let file = file.with_context(about)?;
        let regular = file.file_type().is_ok_and(|kind| kind.is_file());
        entries.extend(file.file_name().to_str().filter(|_| regular).and_then(|name| {
            let (at, revision, number) = read_name(name)?;
            Some(LogEntry { path: file.path(), at, revision: revision.to_owned(), number })
        }));
    }
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.number)));
    Ok(entries)
}

/// Start, revision and number from the name of a log; `None` when it is not one of ours.
fn read_name(name: &str) -> Option<(DateTime<Utc>, &str, u32)> {
    let mut parts = name.strip_suffix(".log")?.split('-');
    let at = NaiveDateTime::parse_from_str(parts.next()?, FILE_TIME).ok()?.and_utc();
    let revision = parts.next()?;
    let hex = revision.len() == 12 && revision.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = parts.next().map_or(Some(1), |number| number.parse().ok())?;
    (hex && parts.next().is_none()).then_some((at, revision, number))
}

/// Removes what is beyond the newest 50 logs in `dir` or older than 30 days at `now`; never the
/// newest.
///
/// # Errors
/// When the folder cannot be read or a log cannot be removed.
pub fn prune(dir: &Path, now: DateTime<Utc>) -> Result<()> {
    for (place, entry) in list(dir)?.iter().enumerate().skip(1) {
        if place >= KEPT || now - entry.at > Duration::days(30) {
            match fs::remove_file(&entry.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed
                    .with_context(|| format!("cannot remove the old log {}", shown(&entry.path)))?,
            }
        }
    }
    Ok(())
}

/// At most the last `lines` lines of what the script wrote, as far as they lie within the last
/// 64 KiB; without our own lines.
///
/// # Errors
/// When the log cannot be read.
pub fn tail(path: &Path, lines: usize) -> Result<Vec<String>> {
    let about = || format!("cannot read the log {}", shown(path));
    let file = File::open(path).with_context(about)?;
    let len = file.metadata().with_context(about)?.len();
    let from = len.saturating_sub(TAIL_REACH);
    let mut bytes = vec![0; (len - from) as usize];
    let read = file.read_at(&mut bytes, from).with_context(about)?;
    bytes.truncate(read);
    let text = String::from_utf8_lossy(&bytes);
    // The first line is a part of one, or our own.
    let own_first = from > 0 || is_own(text.lines().next().unwrap_or_default(), "Start");
    let mut all: Vec<&str> = text.lines().skip(usize::from(own_first)).collect();
    if all.last().is_some_and(|last| is_finish(last)) {
        all.pop();
    }
    Ok(all[all.len().saturating_sub(lines)..].iter().map(|&line| line.to_owned()).collect())
}

/// Whether this is the last line of a log. A script may write the same; nothing but the end of
/// `log -f` depends on it.
pub fn is_finish(line: &str) -> bool {
    is_own(line, "Finish")
}

fn is_own(line: &str, word: &str) -> bool {
    let mut words = line.splitn(3, ' ');
    words.next() == Some(word)
        && words.next().is_some_and(|at| NaiveDateTime::parse_from_str(at, LINE_TIME).is_ok())
        && words.next().is_some()
}

/// Reads a log from its beginning, also while it is written: a hole in the middle is passed over
/// with the line that says so.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    at: u64,
    open_line: Vec<u8>,
}

impl Reader {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file =
            File::open(path).with_context(|| format!("cannot open the log {}", shown(path)))?;
        Ok(Self { path: path.to_owned(), file, at: 0, open_line: Vec::new() })
    }

    /// The next lines; empty when there is nothing more yet. A line without its end waits for it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        loop {
            let mut piece = vec![0; PIECE];
            let read = self
                .read(&mut piece)
                .with_context(|| format!("cannot read the log {}", shown(&self.path)))?;
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

    /// The last line, when it has no end; for a log that will not grow.
    pub fn rest(self) -> Option<String> {
        (!self.open_line.is_empty()).then(|| String::from_utf8_lossy(&self.open_line).into_owned())
    }

    fn read(&mut self, piece: &mut [u8]) -> io::Result<usize> {
        let len = self.file.metadata()?.len();
        if len < self.at {
            // It was closed up after we had read this far. What came after that is at its end.
            self.at = self.last_line(len)?;
            self.open_line.clear();
        }
        let mut limit = piece.len();
        if let Some(middle) = middle(len).filter(|middle| self.at < middle.end) {
            if self.at >= middle.start {
                let note = left_out(&(self.at..middle.end));
                self.at = middle.end;
                // Far shorter than any piece.
                piece[..note.len()].copy_from_slice(note.as_bytes());
                return Ok(note.len());
            }
            limit = limit.min((middle.start - self.at) as usize);
        }
        let read = self.file.read_at(&mut piece[..limit], self.at)?;
        self.at += read as u64;
        Ok(read)
    }

    /// Where the last line of a log of `len` bytes begins.
    fn last_line(&self, len: u64) -> io::Result<u64> {
        let from = len.saturating_sub(4096);
        let mut bytes = vec![0; (len - from) as usize];
        let read = self.file.read_at(&mut bytes, from)?;
        let before_end = &bytes[..read.saturating_sub(1)];
        let start = before_end.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        Ok(from + start as u64)
    }
}

fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

#[cfg(test)]
mod tests;
