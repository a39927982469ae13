//! Runs a system program that reads a text, prints a result and ends, such as crontab(1). Its output
//! goes to memory files, so that no background process that it leaves blocks us. Does not know the
//! programs.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{WaitOutcome, end_within, report_file, reported, sealed_file};

/// Largest output that is read, in bytes.
const CAP: u64 = 1 << 20;

/// Output of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildOutput {
    /// Exit status, signal or timeout of the program.
    pub ended: WaitOutcome,
    /// Complete stdout.
    pub output: Vec<u8>,
    /// The stderr without its last newline.
    pub complaints: String,
}

/// Runs `argv` with `input` as its standard input, at most for `limit`, with messages in English.
///
/// # Errors
/// When it cannot be started, or prints more than a megabyte.
#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
pub fn run_with_input(argv: &[&str], input: &[u8], limit: Duration) -> Result<ChildOutput> {
    use std::os::unix::process::CommandExt;
    let Some((program, args)) = argv.split_first() else { bail!("nothing to start") };
    let (output, complaints) = (report_file()?, report_file()?);
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(sealed_file(input)?)
        .stdout(output.try_clone()?)
        .stderr(complaints.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let ended = end_within(&mut child, limit)?;
    if output.metadata()?.len() > CAP {
        bail!("{program} printed more than a megabyte");
    }
    Ok(ChildOutput { ended, output: whole(output)?, complaints: reported(complaints, 4096)? })
}

fn whole(mut file: std::fs::File) -> Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
