//! What it costs to judge 1,000 new commits that are signed, by a key of each kind, and what `git log --format=%G?` of
//! the same commits costs, in turns. Prints milliseconds, medians of the rounds.
//!
//! `cargo bench --bench signatures [-- ROUNDS [COMMITS]]`; needs git and ssh-keygen.

#![allow(
    clippy::disallowed_methods,
    reason = "it starts git and ssh-keygen, and writes their files"
)]

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use jiff::tz::TimeZone;
use pmpy::domain::git::{Commit, ObjectFormat};
use pmpy::domain::repository::change::ObjectError;
use pmpy::domain::signature::allowed_signers::AllowedSigners;
use pmpy::domain::signature::way::{Accepted, HistorySource, judge};

#[path = "figures/mod.rs"]
#[allow(dead_code, reason = "the time of other processes is measured as it passes")]
mod figures;

const KINDS: [(&str, &str); 3] = [("ed25519", "256"), ("ecdsa", "256"), ("rsa", "3072")];

/// The commits of a repository, in memory: reading them is not measured.
struct History(HashMap<Commit, Vec<u8>>);

impl HistorySource for History {
    fn format(&self) -> ObjectFormat {
        ObjectFormat::Sha1
    }

    fn commit_bytes(&self, id: Commit) -> Result<Vec<u8>, ObjectError> {
        self.0.get(&id).cloned().ok_or(ObjectError::Missing(id.0))
    }
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let count = numbers.next().unwrap_or(1_000);
    let dir = tempfile::tempdir().unwrap();
    for (kind, bits) in KINDS {
        let repo = dir.path().join(kind);
        let (text, commits) = repository(&repo, kind, bits, count);
        let (history, first, tip) = (objects(&repo, &commits), commits[0], commits[count]);
        let (mut ours, mut gits) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let start = Instant::now();
            let signers = AllowedSigners::parse(text.as_bytes(), &TimeZone::UTC).unwrap();
            let accepted = Accepted { own: Some(first), ..Accepted::default() };
            let vouched = judge(&history, &signers, tip, &accepted).unwrap();
            ours.push(start.elapsed().as_secs_f64() * 1000.0);
            assert_eq!(vouched.commits, count);
            let start = Instant::now();
            let verdicts = git(&repo, &["log", "--format=%G?", &format!("-{count}")]);
            gits.push(start.elapsed().as_secs_f64() * 1000.0);
            assert_eq!(verdicts.lines().filter(|verdict| *verdict == "G").count(), count);
        }
        let (ours, gits) = (figures::median(ours), figures::median(gits));
        println!("{count} commits signed by {kind} {bits}: {ours:.1} ms; git log: {gits:.0} ms");
    }
}

fn git(repo: &Path, line: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(repo).args(line).output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A repository with `count` signed commits on top of a first one; returns its file of signers, and its commits, the
/// oldest first.
fn repository(repo: &Path, kind: &str, bits: &str, count: usize) -> (String, Vec<Commit>) {
    fs::create_dir(repo).unwrap();
    let (key, signers) = (repo.join("key"), repo.join("signers"));
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-b", bits, "-N", "", "-C", "", "-f"])
        .arg(&key)
        .status();
    assert!(made.unwrap().success());
    let text = format!("ops@example.com {}", fs::read_to_string(repo.join("key.pub")).unwrap());
    fs::write(&signers, &text).unwrap();
    git(repo, &["init", "-q", "-b", "main"]);
    for (name, value) in [
        ("gpg.format", "ssh"),
        ("gpg.ssh.allowedSignersFile", signers.to_str().unwrap()),
        ("user.signingKey", key.to_str().unwrap()),
        ("user.name", "Pat Pusher"),
        ("user.email", "pat@example.org"),
        ("gc.auto", "0"),
    ] {
        git(repo, &["config", name, value]);
    }
    for number in 0..=count {
        let message = format!("Commit {number}");
        git(repo, &["commit", "-q", "--allow-empty", "-S", "-m", &message]);
    }
    let all = git(repo, &["rev-list", "--reverse", "HEAD"]);
    (text, all.lines().map(|line| line.parse().unwrap()).collect())
}

fn objects(repo: &Path, commits: &[Commit]) -> History {
    let read = |commit: &Commit| {
        let text = git(repo, &["cat-file", "commit", &commit.to_string()]);
        (*commit, text.into_bytes())
    };
    History(commits.iter().map(read).collect())
}
