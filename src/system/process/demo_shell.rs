//! The bash shell in which the demonstration runs its commands. Does not know which commands.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::{WaitOutcome, end_within, report_file};
use crate::system::packages;

/// A bash shell in which `agent` is this running executable.
#[derive(Clone, Debug)]
pub struct DemoShell {
    /// Working directory.
    pub working_dir: PathBuf,
    /// Complete environment.
    pub env: Vec<(OsString, OsString)>,
}

/// A command line that runs.
pub struct TypedLine {
    child: Child,
    output: File,
}

/// Result of a command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedOutput {
    /// Exit status, signal or timeout of the command.
    pub ended: WaitOutcome,
    /// Combined stdout and stderr; invalid UTF-8 is replaced.
    pub text: String,
}

impl DemoShell {
    /// Defines `agent` as the executable of the shell's parent, this process, even if its file has been
    /// replaced.
    const AGENT: &str = "agent() { (exec -a agent \"/proc/$PPID/exe\" \"$@\"); }\n";

    /// Starts `line` in its own process group.
    ///
    /// # Errors
    /// When bash is missing, or no process can be started.
    #[expect(clippy::disallowed_methods, reason = "the one door to processes")]
    pub fn start(&self, line: &str) -> Result<TypedLine> {
        let output = report_file()?;
        let child = Command::new("bash")
            .arg("-c")
            .arg(format!("{}{line}", Self::AGENT))
            .current_dir(&self.working_dir)
            .env_clear()
            .envs(self.env.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0)
            .spawn()
            .with_context(|| {
                format!("cannot start bash\nhint: {}", packages::install_command("bash"))
            })?;
        Ok(TypedLine { child, output })
    }
}

impl TypedLine {
    /// Waits for the command, at most for `limit`.
    ///
    /// # Errors
    /// When the wait fails, or the output cannot be read.
    pub fn finish(mut self, limit: Duration) -> Result<TypedOutput> {
        let ended = end_within(&mut self.child, limit)?;
        let mut bytes = Vec::new();
        self.output.rewind()?;
        self.output.read_to_end(&mut bytes)?;
        Ok(TypedOutput { ended, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}
