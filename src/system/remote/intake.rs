//! Takes in a pack: gives the bytes and a deadline to a process of its own, which builds the pack and
//! its index (see `system::git::index_pack`). However that process ends, by this side, by the kernel or
//! in libgit2, the reason is one sentence here. It knows no remote.
//!
//! Order: the pack moves into the store only after all of it was judged; a pack that does not get so far
//! is removed.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

use super::FetchProgress;
use crate::domain::remote::RemoteFailure;
use crate::domain::text::EscapeControls;
use crate::system::git::Git;
use crate::system::git::index_pack::{IndexerEvent, out_of_memory};
use crate::system::git::packs::STAGING;
use crate::system::host::since_boot;
use crate::system::process::DuplexChild;

/// How much longer than the network limit it may take to build the index.
const INDEXING: Duration = Duration::from_secs(10);
/// How long a process may take to end after its last line.
const FAREWELL: Duration = Duration::from_secs(5);
const PIECE: usize = 4 << 10;

/// A pack on its way into a clone.
pub(super) struct PackIntake<'a> {
    git: &'a Git,
    /// The process that builds the index; `None` once it has ended.
    indexer: Option<DuplexChild>,
    limit: Duration,
    deadline: Duration,
    /// Output of the process that is no whole line yet.
    said: Vec<u8>,
    /// Objects received so far, and in all.
    objects: (usize, usize),
    /// The result, once the process sent it.
    outcome: Option<IndexerEvent>,
}

impl<'a> PackIntake<'a> {
    /// Starts the intake of a pack that comes until `deadline` (time since boot), which follows from
    /// `limit`. A delta may make no object larger than [`Git::max_file`].
    ///
    /// # Errors
    /// When the staging directory cannot be made, or no process started.
    pub fn begin(git: &'a Git, limit: Duration, deadline: Duration) -> Result<Self> {
        git.staging()?;
        let mut args: Vec<OsString> = ["index-pack", "--largest"].map(OsString::from).to_vec();
        args.extend([git.max_file().to_string().into(), "--".into(), git.git_dir().into()]);
        let indexer = DuplexChild::start_ours(&args)
            .context("cannot start the process that takes in a pack")?;
        let (said, objects, outcome) = (Vec::new(), (0, 0), None);
        Ok(Self { git, indexer: Some(indexer), limit, deadline, said, objects, outcome })
    }

    /// Takes the next bytes of the pack. `received` is the number of bytes of the answer, with these.
    ///
    /// # Errors
    /// When the pack cannot be taken in; says why.
    pub fn write(
        &mut self,
        mut bytes: &[u8],
        received: usize,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        while !bytes.is_empty() {
            let patience = self.deadline.saturating_sub(since_boot());
            let Some(indexer) = &mut self.indexer else { bail!("nothing takes in the pack") };
            match indexer.write(bytes, patience) {
                Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // The process has sent the reason.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => return Err(self.reason()),
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    bail!("it took longer than {}", humantime::format_duration(self.limit))
                }
                Err(error) => return Err(error).context("the pack cannot be handed on"),
            }
            self.hear(Duration::ZERO, received, progress)?;
        }
        Ok(())
    }

    /// Waits until the index is built, and moves both into the store.
    ///
    /// # Errors
    /// When the pack cannot be taken in; says why.
    pub fn finish(
        mut self,
        received: usize,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        if let Some(indexer) = &mut self.indexer {
            indexer.close_input();
        }
        let end = self.deadline + INDEXING;
        while self.outcome.is_none() {
            if !self.hear(end.saturating_sub(since_boot()), received, progress)? {
                break;
            }
        }
        match self.outcome {
            // All objects have arrived, also for a pack that was too short for a progress line.
            Some(IndexerEvent::Done) => {
                let (objects, total) = self.objects;
                progress(FetchProgress::Received { received: objects, total, bytes: received });
            }
            _ => return Err(self.reason()),
        }
        self.git.adopt(&self.git.git_dir().join(STAGING))?;
        Ok(())
    }

    /// Reads the output of the process, for at most `patience`; returns whether more may come.
    fn hear(
        &mut self,
        patience: Duration,
        received: usize,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<bool> {
        let Some(indexer) = &mut self.indexer else { return Ok(false) };
        let mut piece = [0; PIECE];
        match indexer.read(&mut piece, patience) {
            Ok(0) => return Ok(false),
            Ok(count) => self.said.extend_from_slice(piece.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::TimedOut && patience.is_zero() => {
                return Ok(since_boot() < self.deadline + INDEXING);
            }
            Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(false),
            Err(error) => return Err(error).context("the process that takes in a pack is lost"),
        }
        while let Some(end) = self.said.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.said.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(IndexerEvent::Progress { received: objects, total }) => {
                    self.objects = (objects, total);
                    progress(FetchProgress::Received { received: objects, total, bytes: received });
                }
                Ok(event) => self.outcome = Some(event),
                // The end of the process explains any other output.
                Err(_) => {}
            }
        }
        Ok(true)
    }

    /// The reason why the process did not complete.
    fn reason(&mut self) -> Error {
        let end = self.deadline + INDEXING;
        while self.outcome.is_none() {
            let patience = end.saturating_sub(since_boot()).min(FAREWELL);
            if !matches!(self.hear(patience, 0, &mut |_| {}), Ok(true)) {
                break;
            }
        }
        let late = since_boot() >= end;
        let farewell = self.indexer.take().map(|indexer| indexer.finish(Duration::ZERO));
        let cause = match (self.outcome.take(), farewell) {
            (Some(IndexerEvent::Failed { reason, fault: Some(fault) }), _) => {
                return Error::new(fault).context(reason);
            }
            (Some(IndexerEvent::Failed { reason, fault: None }), _) => reason,
            (_, Some(Ok(farewell))) if !late && farewell.code.is_some() => {
                let complaint = farewell.complaints.lines().next().unwrap_or_default();
                format!("its pack cannot be taken in: {}", complaint.escape_controls())
            }
            _ if late => format!(
                "taking in its pack takes longer than {} and {}\n\
                 hint: raise network_timeout; a pack that holds an object twice takes for ever",
                humantime::format_duration(self.limit),
                humantime::format_duration(INDEXING)
            ),
            // The kernel or the allocator ended it.
            _ => out_of_memory(),
        };
        Error::new(RemoteFailure::Pack).context(cause)
    }
}

impl Drop for PackIntake<'_> {
    fn drop(&mut self) {
        // The process first: it writes into that directory.
        self.indexer = None;
        // The intake of the next pack removes what stays.
        let _ = fs::remove_dir_all(self.git.git_dir().join(STAGING));
    }
}
