//! What the look for drift costs: 50,000 files that are unchanged, ours against `git status`, in turns on the same clone.
//! Prints milliseconds of processor time, medians of the rounds, and the ratio; below 1 ours takes less.
//!
//! `cargo bench --bench drift [-- ROUNDS [FILES]]`

#![allow(clippy::disallowed_methods, reason = "it starts git")]

use std::fmt::Write as _;
use std::path::Path;

use nix::sys::resource::UsageWho;
use pmpy::domain::repository::change::TreeChange;
use pmpy::engine::repository::drift::IndexedFiles;
use pmpy::system::git::Git;
use pmpy::system::worktree::Worktree;

#[path = "figures/mod.rs"]
mod figures;
#[path = "git/mod.rs"]
mod git;

use git::git;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let files = numbers.next().unwrap_or(50_000);
    let dir = tempfile::tempdir().unwrap();
    let clone = dir.path().join("clone");
    serve(&clone, files);
    // Git compares all content once after a checkout: the index is as old as the files.
    std::thread::sleep(std::time::Duration::from_secs(2));
    git(&clone, &["update-index", "--refresh", "-q", "--really-refresh"], b"");
    let (mut by_git, mut by_us) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let before = figures::processor_of_children();
        git(&clone, &["--no-optional-locks", "status", "--porcelain", "--untracked-files=no"], b"");
        let git = figures::processor_of_children() - before;
        let before = figures::processor(UsageWho::RUSAGE_SELF);
        assert_eq!(look(&clone), 0);
        let ours = figures::processor(UsageWho::RUSAGE_SELF) - before;
        // The first round fills the caches.
        if round > 0 {
            by_git.push(git);
            by_us.push(ours);
        }
    }
    let (git, ours) = (figures::median(by_git), figures::median(by_us));
    println!("{files} files: git status {git:.0} ms, ours {ours:.0} ms; ratio {:.2}", ours / git);
}

/// What a worker does for a look; the number of files that differ.
fn look(clone: &Path) -> usize {
    let git = Git::open(clone).unwrap();
    let head = git.resolve("HEAD").unwrap();
    let tree = TreeChange::listing(git.tree_of(&head).unwrap(), &git).unwrap();
    let known = IndexedFiles::of(&git).unwrap();
    Worktree::open(clone).unwrap().differences(&tree, &git, &known).unwrap().len()
}

/// A clone with so many files, all checked out.
fn serve(clone: &Path, files: usize) {
    std::fs::create_dir(clone).unwrap();
    git(clone, &["init", "--quiet", "--initial-branch=main"], b"");
    let mut stream = String::from("commit refs/heads/main\n");
    writeln!(stream, "committer Pat Pusher <pat@example.org> 1 +0000\ndata 0").unwrap();
    for number in 0..files {
        let content = format!("content of file {number}\n");
        let (dir, below) = (number % 97, number % 13);
        writeln!(stream, "M 100644 inline d{dir}/e{below}/f{number}").unwrap();
        writeln!(stream, "data {}\n{content}", content.len()).unwrap();
    }
    git(clone, &["fast-import", "--quiet"], stream.as_bytes());
    git(clone, &["reset", "--quiet", "--hard", "main"], b"");
}
