//! A program of the machine's that is asked something: it reads a text, answers and ends, such as
//! crontab(1). Its output goes to files without a name, so that nothing that it leaves behind holds
//! anybody up.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Ended, end_within, parcel, report_file, reported};

/// The most of an answer that is read, in bytes.
const CAP: u64 = 1 << 20;

/// What a program answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// How it ended.
    pub ended: Ended,
    /// What it printed, whole.
    pub output: Vec<u8>,
    /// What it complained of, without the last newline.
    pub complaints: String,
}

/// Runs `argv` with `input` as its standard input, to its end or for `limit`. Messages come in English.
///
/// # Errors
/// When it cannot be started, or answers more than a megabyte.
#[expect(clippy::disallowed_methods, reason = "the one door to processes")]
pub fn ask(argv: &[&str], input: &[u8], limit: Duration) -> Result<Answer> {
    use std::os::unix::process::CommandExt;
    let Some((program, args)) = argv.split_first() else { bail!("nothing to start") };
    let (output, complaints) = (report_file()?, report_file()?);
    let mut child = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(parcel(input)?)
        .stdout(output.try_clone()?)
        .stderr(complaints.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let ended = end_within(&mut child, limit)?;
    if output.metadata()?.len() > CAP {
        bail!("{program} printed more than a megabyte");
    }
    Ok(Answer { ended, output: whole(output)?, complaints: reported(complaints, 4096)? })
}

fn whole(mut file: std::fs::File) -> Result<Vec<u8>> {
    use std::io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
