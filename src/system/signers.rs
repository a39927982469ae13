//! The files of the keys that may sign.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use jiff::tz::TimeZone;
use ring::digest::{SHA256, digest};

use crate::domain::signature::allowed_signers::AllowedSigners;
use crate::system::files;

/// The largest file that is read, in bytes: some thousand keys.
const CAP: u64 = 1024 * 1024;

/// One file.
#[derive(Debug, PartialEq, Eq)]
pub struct SignersFile {
    /// Where it is, for people.
    pub name: String,
    /// The hash of its content: a verdict counts while it is the same.
    pub hash: String,
    /// The keys.
    pub signers: AllowedSigners,
}

/// The files that one tick has read: each is read once, however many repositories use it, and anew by the next tick.
#[derive(Debug, Default)]
pub struct SignersFiles(Mutex<BTreeMap<PathBuf, Arc<SignersFile>>>);

impl SignersFiles {
    /// The file at `path`, which the caller has judged: no other user can change it. `zone` is asked for the zone of
    /// moments that name none.
    ///
    /// # Errors
    /// When it is missing, cannot be read, or has something wrong in it.
    pub fn get(
        &self,
        path: &Path,
        zone: impl FnOnce() -> Result<TimeZone>,
    ) -> Result<Arc<SignersFile>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = known.get(path) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(read(path, zone)?);
        known.insert(path.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

fn read(path: &Path, zone: impl FnOnce() -> Result<TimeZone>) -> Result<SignersFile> {
    let name = path.display().to_string();
    let Some((text, _)) = files::read_found(path, CAP)? else {
        return Err(anyhow!(
            "{name} is missing: no commit can be judged, and nothing new is applied\n\
             hint: write the keys that may sign into it; ssh-keygen(1) describes it under ALLOWED SIGNERS"
        ));
    };
    // Most files name no moment, and need no zone.
    let names_moments = text.to_ascii_lowercase().windows(6).any(|word| word == b"valid-");
    let zone = if names_moments { zone()? } else { TimeZone::UTC };
    let signers = AllowedSigners::parse(&text, &zone)
        .map_err(|fault| anyhow!("{name}, {fault}"))
        .context("the keys that may sign cannot be read")?;
    let hash = STANDARD_NO_PAD.encode(digest(&SHA256, &text));
    Ok(SignersFile { name, hash, signers })
}
