//! Tells the build for which target and of which commit it is, so that `--version` can say so. `PMPY_COMMIT`
//! wins; a tarball has no git and says nothing of a commit, and neither does a build for work on the agent,
//! which would have to be made anew at each commit.

#![expect(
    clippy::disallowed_methods,
    reason = "a build script asks cargo by the environment, and git by starting it"
)]

use std::env;
use std::path::Path;
use std::process::Command;

/// Prints it for cargo.
pub fn main() {
    println!("cargo::rerun-if-changed=build/commit.rs");
    println!("cargo::rerun-if-env-changed=PMPY_COMMIT");
    // Cargo always says it.
    println!("cargo::rustc-env=PMPY_TARGET={}", env::var("TARGET").unwrap_or_default());
    let debug = env::var("PROFILE").is_ok_and(|profile| profile == "debug");
    if debug || env::var_os("PMPY_COMMIT").is_some() || !is_our_own() {
        return;
    }
    // A file that is named and is not there would be taken for one that has changed.
    let refs = git(&["symbolic-ref", "HEAD"]);
    let names = ["HEAD", "packed-refs"].map(str::to_owned).into_iter().chain(refs);
    for file in names.filter_map(|name| git(&["rev-parse", "--git-path", &name])) {
        if Path::new(&file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=PMPY_COMMIT={commit}");
    }
}

/// Whether git's repository here is the agent's, and not one that its sources were unpacked into.
fn is_our_own() -> bool {
    let top =
        git(&["rev-parse", "--show-toplevel"]).and_then(|top| Path::new(&top).canonicalize().ok());
    top.is_some() && top == env::current_dir().and_then(|here| here.canonicalize()).ok()
}

/// What git says in one line, if it says something.
fn git(arguments: &[&str]) -> Option<String> {
    let said = Command::new("git").args(arguments).output().ok()?;
    let line = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (said.status.success() && !line.is_empty()).then_some(line)
}
