//! An update of 5,000 files: ours against `git merge --ff-only`, in turns on the same disk, each in
//! a clone of its own. Prints the seconds of each round and the ratios of the medians; below 1 we are
//! faster. Ours is on disk when it returns; git's is not, so that its time until then is shown too.
//!
//! `cargo bench --bench apply [-- ROUNDS [FILES]]`

#![allow(clippy::disallowed_methods, reason = "it starts git and reads the clock")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use pmpy::domain::git::Commit;
use pmpy::domain::repository::change::TreeChange;
use pmpy::system::git::Git;
use pmpy::system::worktree::Worktree;

#[path = "git/mod.rs"]
mod git;

use git::git;

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse::<usize>().ok());
    let rounds = numbers.next().unwrap_or(5);
    let files = numbers.next().unwrap_or(5_000);
    let dir = tempfile::tempdir().unwrap();
    let server = dir.path().join("server");
    let [old, new] = serve(&server, files);
    // Each clone is used once: ext4 is slow to give out inodes that were freed a minute ago, so an
    // update that is taken back and done again measures that and little else.
    let clones: Vec<PathBuf> = (0..2 * rounds).map(|n| dir.path().join(n.to_string())).collect();
    for clone in &clones {
        let (url, clone) = (format!("file://{}", server.display()), clone.to_str().unwrap());
        git(dir.path(), &["clone", "--quiet", "--branch", "old", &url, clone], b"");
    }
    rustix::fs::sync();

    let mut by_git = Vec::new();
    let mut by_git_on_disk = Vec::new();
    let mut by_us = Vec::new();
    for (round, pair) in clones.chunks(2).enumerate() {
        let mut turns = [Who::Git, Who::Us];
        turns.rotate_left(round % 2);
        for (clone, who) in pair.iter().zip(turns) {
            let start = Instant::now();
            match who {
                Who::Git => drop(git(clone, &["merge", "--ff-only", "origin/main"], b"")),
                Who::Us => update(clone, &old, &new),
            }
            let done = start.elapsed().as_secs_f64();
            rustix::fs::sync();
            let on_disk = start.elapsed().as_secs_f64();
            match who {
                Who::Git => {
                    by_git.push(done);
                    by_git_on_disk.push(on_disk);
                }
                Who::Us => by_us.push(done),
            }
            let rest = git(clone, &["status", "--porcelain"], b"");
            assert_eq!(rest, "", "the update left something else than git leaves");
        }
        println!(
            "round {round}: git {:.3} s, on disk after {:.3} s, ours {:.3} s",
            by_git[round], by_git_on_disk[round], by_us[round]
        );
    }
    let [git, on_disk, ours] = [by_git, by_git_on_disk, by_us].map(median);
    println!(
        "{files} files: git {git:.3} s, on disk after {on_disk:.3} s, ours {ours:.3} s; \
         ratio {:.2}, to git on disk {:.2}",
        ours / git,
        ours / on_disk
    );
}

enum Who {
    Git,
    Us,
}

/// What the agent does between the fetch and the scripts.
fn update(clone: &Path, old: &Commit, new: &Commit) {
    let git = Git::open(clone).unwrap();
    let from = git.tree_of(old).unwrap();
    let change = TreeChange::between(Some(from), git.tree_of(new).unwrap(), &git).unwrap();
    let worktree = Worktree::open(clone).unwrap();
    let index = git.index().unwrap();
    let ready = worktree.classify(&change, &git, &|path| index.staged(path)).unwrap();
    let written = worktree.apply(&ready, &git).unwrap();
    git.update_index(&change, &written).unwrap();
    let head = ["update-ref", "HEAD", &new.to_string()];
    self::git(clone, &head, b"");
}

/// A repository with two commits that differ in every file.
fn serve(server: &Path, files: usize) -> [Commit; 2] {
    std::fs::create_dir(server).unwrap();
    git(server, &["init", "--quiet", "--bare", "--initial-branch=main"], b"");
    let mut stream = String::new();
    for version in ["old", "new"] {
        writeln!(stream, "commit refs/heads/main").unwrap();
        writeln!(stream, "committer Pat Pusher <pat@example.org> 1 +0000\ndata 0").unwrap();
        for number in 0..files {
            let line = format!("{version} content of file {number}\n");
            let content = line.repeat(10 + number % 100);
            let dir = number % 97;
            writeln!(stream, "M 100644 inline d{dir}/e{}/f{number}", number % 3).unwrap();
            writeln!(stream, "data {}\n{content}", content.len()).unwrap();
        }
    }
    git(server, &["fast-import", "--quiet"], stream.as_bytes());
    git(server, &["branch", "old", "main~1"], b"");
    git(server, &["gc", "--quiet"], b"");
    ["main~1", "main"].map(|name| git(server, &["rev-parse", name], b"").parse().unwrap())
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2]
}
