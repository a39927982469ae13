//! The side-by-side probe (`tests/probe`) comes to its end, and whatever fault it strikes with, the
//! agent continues by itself or says what a person has to do.

use std::fs;

use crate::sandbox::{Ran, Sandbox};

#[test]
fn the_agent_continues_or_says_why_not_whatever_strikes() {
    let machine = Sandbox::new();
    let probe = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/probe");
    let mut command = machine.command(probe);
    command.arg(env!("CARGO_BIN_EXE_agent")).env("TMPDIR", machine.path(""));
    let table = Ran::of(&mut command).ok().stdout;
    println!("{table}");
    let rows: Vec<Vec<&str>> =
        table.lines().skip(2).map(|row| row.split(" | ").collect()).collect();
    let faults = fs::read_to_string(probe).unwrap();
    let faults = faults.lines().filter(|line| line.starts_with("compare ")).count();
    assert_eq!(rows.len(), faults, "{table}");
    for row in rows {
        let [fault, _, agent] = row.as_slice() else { panic!("no row of three: {row:?}") };
        assert!(agent.starts_with("continues") || agent.starts_with("says"), "{fault}: {agent}");
    }
}
