//! `agent log`: the output of a repository's last actions. Output of scripts is foreign: it is shown
//! without its colours and cannot control the terminal. Does not know where logs are.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::adapter::strip_str;
use anyhow::{Result, bail};

use super::helper;
use crate::cli;
use crate::cmd::format;
use crate::engine::context::Context;
use crate::engine::run::log;
use crate::engine::tick::user_helper::CommandExtent;
use crate::exit::ExitStatus;
use crate::system::logs::{self, LogReader};

/// The interval at which a followed log is read.
const PAUSE: Duration = Duration::from_millis(200);

/// `agent log REPO [-n N] [-f]`; the newest log comes last.
///
/// # Errors
/// When the repository is not known, there is no log, or one cannot be read.
pub fn run(context: &Context, args: &cli::LogArgs) -> Result<ExitStatus> {
    let extent = if args.follow { CommandExtent::Endless } else { CommandExtent::Look };
    let (ours, code) = helper::ours(context, std::slice::from_ref(&args.repo), extent)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    let dir = log::log_dir(context, &repo.name);
    let mut out = anstream::stdout().lock();
    let printed = match args.follow {
        false => print(&repo.name, &dir, args.count, &mut out),
        true => follow(&dir, &mut out),
    };
    match printed {
        Err(error) if !is_gone(&error) => Err(error),
        _ => Ok(ExitStatus::Fine),
    }
}

/// Whether the error is a closed pipe: a reader such as `head` has ended.
fn is_gone(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

fn print(name: &str, dir: &Path, count: usize, out: &mut impl Write) -> Result<()> {
    let newest = logs::list(dir)?;
    if newest.is_empty() {
        bail!(
            "there is no log of {}: no action of it has run here yet\n\
             hint: to see why: agent explain {0}",
            format::escaped(name)
        );
    }
    let several = count > 1 && newest.len() > 1;
    for entry in newest.iter().take(count).rev() {
        if several {
            title(&entry.path, out)?;
        }
        let mut reader = LogReader::open(&entry.path)?;
        loop {
            let lines = reader.lines()?;
            if lines.is_empty() {
                break;
            }
            write_lines(&lines, out)?;
        }
        write_lines(reader.rest().as_slice(), out)?;
    }
    Ok(out.flush()?)
}

/// Prints the newest log as it grows, and continues with a newer one when there is one; ends with the
/// action.
fn follow(dir: &Path, out: &mut impl Write) -> Result<()> {
    let mut current: Option<(PathBuf, LogReader)> = None;
    loop {
        // Listed before reading, so that no line of the old log is missed.
        let newest = logs::list(dir)?.into_iter().next().map(|entry| entry.path);
        if let Some((_, reader)) = &mut current {
            loop {
                let lines = reader.lines()?;
                if lines.is_empty() {
                    break;
                }
                write_lines(&lines, out)?;
                if lines.last().is_some_and(|last| logs::is_finish(last)) {
                    return Ok(out.flush()?);
                }
            }
            out.flush()?;
        }
        match newest {
            Some(newest) if current.as_ref().is_none_or(|(path, _)| *path != newest) => {
                if current.is_some() {
                    title(&newest, out)?;
                }
                let reader = LogReader::open(&newest)?;
                current = Some((newest, reader));
            }
            _ => std::thread::sleep(PAUSE),
        }
    }
}

/// Prints the heading of a log, in the form of head(1) and tail(1).
fn title(path: &Path, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "==> {} <==", format::escaped(&path.to_string_lossy()))
}

fn write_lines(lines: &[String], out: &mut impl Write) -> io::Result<()> {
    for line in lines {
        writeln!(out, "{}", harmless(line))?;
    }
    Ok(())
}

/// A line of a script's output without its colours, and without what controls the terminal.
pub(super) fn harmless(line: &str) -> String {
    let plain = strip_str(line).to_string();
    // Tabs are harmless and stay.
    let cells: Vec<_> = plain.split('\t').map(format::escaped).collect();
    cells.join("\t")
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use chrono::{DateTime, Utc};

    use super::*;
    use crate::domain::git::Commit;
    use crate::domain::repository::action::Outcome;
    use crate::system::logs::ActionLog;

    fn at(minute: u32) -> DateTime<Utc> {
        format!("2026-11-22T09:{minute:02}:00Z").parse().unwrap()
    }

    fn log(dir: &Path, minute: u32) -> ActionLog {
        let revision: Commit = "ab".repeat(20).parse().unwrap();
        let log = ActionLog::create(dir, at(minute), &revision).unwrap();
        log.start("abababa");
        log
    }

    fn finished(dir: &Path, minute: u32, output: &str) {
        let log = log(dir, minute);
        log.file().write_all(output.as_bytes()).unwrap();
        log.finish(at(minute), &Outcome::Succeeded, 0.1);
    }

    fn printed(dir: &Path, count: usize) -> String {
        let mut out = Vec::new();
        print("spog", dir, count, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_last_log_is_printed_and_on_request_the_ones_before_it() {
        let temp = tempfile::tempdir().unwrap();
        for minute in 1..=3 {
            finished(temp.path(), minute, &format!("output {minute}\n"));
        }
        assert_eq!(
            printed(temp.path(), 1),
            "Start 20261122-090300 abababa\noutput 3\nFinish 20261122-090300 succeeded, 0.1 s\n"
        );
        let two = printed(temp.path(), 2);
        assert!(two.starts_with("==> "), "{two}");
        assert!(two.find("output 2").unwrap() < two.find("output 3").unwrap());
        assert!(!two.contains("output 1"));
    }

    #[test]
    fn no_log_is_an_error_that_says_where_to_look() {
        let temp = tempfile::tempdir().unwrap();
        let error = print("spog", temp.path(), 1, &mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains("no log of spog") && error.contains("\nhint: "), "{error}");
    }

    #[test]
    fn output_loses_its_colours_and_cannot_steer_the_terminal() {
        let temp = tempfile::tempdir().unwrap();
        finished(temp.path(), 1, "\u{1b}[31mred\u{1b}[0m\ttab don't\n\u{1b}]0;title\u{7}x\u{9b}\n");
        let text = printed(temp.path(), 1);
        assert!(text.contains("\nred\ttab don't\n"), "{text}");
        assert!(!text.contains(['\u{1b}', '\u{7}', '\u{9b}']), "{text:?}");
    }

    /// Passes on each write as it comes.
    struct Pipe(mpsc::Sender<String>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.0.send(text).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn wait_for(text: &str, pipe: &mpsc::Receiver<String>) -> String {
        let mut all = String::new();
        while !all.contains(text) {
            all += &pipe.recv().unwrap();
        }
        all
    }

    #[test]
    fn a_followed_log_is_printed_as_it_grows_and_ends_with_the_action() {
        let temp = tempfile::tempdir().unwrap();
        let (sender, pipe) = mpsc::channel();
        std::thread::scope(|scope| {
            let dir = temp.path();
            let follower = scope.spawn(move || follow(dir, &mut Pipe(sender)));
            let log = log(dir, 1);
            log.file().write_all(b"one\n").unwrap();
            wait_for("one\n", &pipe);
            log.file().write_all(b"two\n").unwrap();
            wait_for("two\n", &pipe);
            log.finish(at(1), &Outcome::Succeeded, 0.1);
            follower.join().unwrap().unwrap();
            assert!(wait_for("succeeded", &pipe).contains("Finish"));
        });
    }

    #[test]
    fn a_follower_continues_with_the_action_that_comes_after_a_cut_off_one() {
        let temp = tempfile::tempdir().unwrap();
        let (sender, pipe) = mpsc::channel();
        std::thread::scope(|scope| {
            let dir = temp.path();
            let cut_off = log(dir, 1);
            cut_off.file().write_all(b"one\n").unwrap();
            let follower = scope.spawn(move || follow(dir, &mut Pipe(sender)));
            wait_for("one\n", &pipe);
            finished(dir, 2, "two\n");
            let rest = wait_for("Finish", &pipe);
            assert!(rest.contains("==> ") && rest.contains("two\n"), "{rest}");
            follower.join().unwrap().unwrap();
        });
    }

    #[test]
    fn a_reader_that_goes_away_ends_it_in_peace() {
        let temp = tempfile::tempdir().unwrap();
        finished(temp.path(), 1, "output\n");
        let (sender, pipe) = mpsc::channel();
        drop(pipe);
        let error = print("spog", temp.path(), 1, &mut Pipe(sender)).unwrap_err();
        assert!(is_gone(&error));
    }
}
