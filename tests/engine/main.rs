//! The engine through the library, on temporary repositories: no installed program, no server, no root.
//! Each test is a sentence over real git and the functions of `pmpy::engine`.
//!
//! The engine starts its own program for scripts, packs and workers. Here that program is this test, so
//! `main` is the agent's wherever the engine named the process `agent`.

#![allow(
    clippy::disallowed_methods,
    reason = "tests start programs, write files and read the environment as a person would"
)]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

#[path = "../../src/main.rs"]
mod agent;
#[path = "../it/sandbox.rs"]
#[allow(dead_code, reason = "the part that starts the installed program is for tests/it")]
mod sandbox;

/// The tests of a module. A function that is left out is dead code, which clippy reports.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        pub const TESTS: &[(&str, fn())] =
            &[$((concat!(module_path!(), "::", stringify!($name)), $name)),*];
    };
}

mod action;
mod check;
mod discovery;
mod machine;
mod observe;
mod operator;
mod publish;
mod repair;
mod schedule;
mod tick;

fn main() -> ExitCode {
    if std::env::args_os().next().is_some_and(|name| name == "agent") {
        return agent::main();
    }
    // What is synced to a disk takes most of the time, and no test here asks what a power cut leaves.
    if std::env::var_os("TMPDIR").is_none() && std::path::Path::new("/dev/shm").is_dir() {
        tempfile::env::override_temp_dir("/dev/shm".as_ref()).unwrap();
    }
    pmpy::system::ffi::set_up_libgit2(true).unwrap();
    pmpy::system::process::usual_umask();
    let all = [
        discovery::TESTS,
        observe::TESTS,
        action::TESTS,
        publish::TESTS,
        operator::TESTS,
        repair::TESTS,
        tick::TESTS,
        check::TESTS,
        schedule::TESTS,
    ];
    let trial = |&(name, test): &(&str, fn())| {
        let name = name.trim_start_matches("engine::");
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let trials = all.into_iter().flatten().map(trial).collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
