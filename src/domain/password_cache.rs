//! The names of the files that keep passwords of `password_command`. Reads none of them.

use std::path::PathBuf;

use crate::domain::hash;
use crate::domain::remote::ConnectionSettings;

/// The extension of the file that says why `password_command` failed; its first line is how often, in a row.
pub const FAILED_PASSWORD: &str = "failed";

impl ConnectionSettings {
    /// The file that keeps the password of `password_command` for a server, which is named by scheme, host and port
    /// as [`Remote::server`](crate::domain::git::Remote::server) does; `None`: there is no such program.
    pub fn cached_password(&self, server: &str) -> Option<PathBuf> {
        let mut file = self.password_cache.clone()?.into_os_string();
        file.push(format!("-{:016x}", hash::stable(&[server.as_bytes()])));
        Some(file.into())
    }
}
