//! Whatever stands in the place of a file that the agent, or git for it, reads or writes: each file of
//! `.git`, of the agent's own records, state and logs, once as a pipe, a link, a directory, 64 GiB of
//! nothing, a socket, unreadable, or in other hands. Each time the agent comes to an end, changes nothing
//! outside, serves the neighbour, and says which file it was, or the file is one that does not matter.
//!
//! The files are those of a real clone that has been through an action, a failure, a hold, a rollback and
//! git's housekeeping, and those that git makes now and then. One tick meets all clones of one fault.
//! With `PMPY_LONG` set, the commands that only look, and `hold`, meet them as well, and all of it is done
//! with clones of another user, too.

mod cells;

use std::fs;
use std::path::Path;

use cells::{
    CLOSED, Cell, Directory, FAULTS, Fault, LIMIT, LIMIT_OF_MANY, MET_BY_WORKERS, NOBODY, Pattern,
    Sparse, Unreadable,
};

use crate::sandbox::{Ran, text};

#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn is_long() -> bool {
    std::env::var_os("PMPY_LONG").is_some()
}

/// One tick for each fault over clones of `owner`.
fn ticks(owner: u32, faults: &[Fault]) -> Vec<String> {
    let pattern = Pattern::new(owner);
    let mut wrong = Vec::new();
    for fault in faults {
        let cells = pattern.cells(*fault);
        let ran = pattern.agent(LIMIT_OF_MANY, &["tick", "--trigger", "cron"]);
        match ran.code {
            Some(124 | 137) => {
                wrong.push(format!("{fault:?}: a tick over all of them does not end"));
                pattern.forget(&cells);
                wrong.extend(one_by_one(&pattern, *fault));
            }
            _ => {
                wrong.extend(pattern.judge(&cells, &ran));
                pattern.forget(&cells);
            }
        }
    }
    wrong
}

/// Which of the cells it is that a tick does not get over.
fn one_by_one(pattern: &Pattern, fault: Fault) -> Vec<String> {
    let (root, aside) = (pattern.machine.root(), pattern.machine.path("aside"));
    let cells = pattern.cells(fault);
    fs::create_dir(&aside).unwrap();
    let bring = |name: &str, from: &Path, to: &Path| fs::rename(from.join(name), to.join(name));
    for cell in &cells {
        bring(&cell.name, &root, &aside).unwrap();
    }
    let mut wrong = Vec::new();
    for cell in &cells {
        bring(&cell.name, &aside, &root).unwrap();
        let ran = pattern.agent(LIMIT, &["tick", "--trigger", "cron"]);
        match ran.code {
            Some(124 | 137) => wrong.push(format!("{cell}: a tick does not end")),
            _ => wrong.extend(pattern.judge(std::slice::from_ref(cell), &ran)),
        }
        fs::remove_dir_all(root.join(&cell.name)).unwrap();
    }
    fs::remove_dir_all(&aside).unwrap();
    fs::remove_dir_all(root.join("neighbour")).unwrap();
    wrong
}

#[test]
fn whatever_is_in_the_place_of_a_file_of_a_clone_a_tick_ends_and_names_it() {
    let faults: Vec<Fault> = FAULTS.into_iter().filter(|fault| *fault != Unreadable).collect();
    let (some, others) = faults.split_at(5);
    let mut wrong = std::thread::scope(|threads| {
        let side = threads.spawn(|| ticks(0, some));
        let mut wrong = ticks(0, others);
        wrong.extend(side.join().unwrap());
        wrong
    });
    // Root reads everything.
    wrong.extend(ticks(NOBODY, if is_long() { &FAULTS } else { CLOSED }));
    assert_none(&wrong);
}

/// What each command that only looks, and `hold`, makes of every cell; with `PMPY_LONG` only, for there are
/// thousands.
#[test]
fn whatever_is_in_the_place_of_a_file_of_a_clone_every_command_ends_and_names_it() {
    let mut wrong = Vec::new();
    for owner in [0, NOBODY] {
        let pattern = Pattern::new(owner);
        for fault in if is_long() { &FAULTS[..] } else { &[] } {
            let cells = pattern.cells(*fault);
            wrong.extend(looks(&pattern, &cells));
            pattern.forget(&cells);
        }
    }
    assert_none(&wrong);
}

fn looks(pattern: &Pattern, cells: &[Cell]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut judge = |cell: &Cell, command: &str, ran: &Ran, said: &str| {
        let met_later = MET_BY_WORKERS.iter().any(|place| cell.file.starts_with(place));
        let right = cell.is_named_in(said) || cell.is_harmless(pattern.owner == 0);
        let is_done = command == "hold" && ran.code == Some(0);
        if ran.code.is_none_or(|code| code > 1) {
            wrong.push(format!("{cell}: {command} exits {:?}: {}", ran.code, ran.stderr));
        } else if let Some(damage) = cell.damage() {
            wrong.push(format!("{cell}: {command} {damage}"));
        } else if !right && !is_done && !met_later {
            wrong.push(format!("{cell}: {command} does not name it: {said}"));
        }
    };
    for command in [&["status", "-v"][..], &["check", "--offline"]] {
        let ran = pattern.agent(LIMIT_OF_MANY, command);
        let said = format!("{}{}", ran.stdout, ran.stderr);
        assert!(said.contains("neighbour"), "{command:?}: {ran}");
        for cell in cells {
            // What is said of this one: from its name to the next.
            let own: String = said
                .split_inclusive('\n')
                .skip_while(|line| !line.contains(&cell.name))
                .take_while(|line| line.contains(&cell.name) || line.starts_with(' '))
                .collect();
            judge(cell, command[0], &ran, &own);
        }
    }
    for cell in cells {
        for command in ["explain", "hold"] {
            let ran = pattern.agent(LIMIT, &[command, &cell.name]);
            judge(cell, command, &ran, &format!("{}{}", ran.stdout, ran.stderr));
        }
    }
    wrong
}

/// The files of the machine: of its state, and of the logs of `ops`, whose directory is the last.
const OF_THE_MACHINE: [&str; 7] =
    ["last-tick", "status.json", "reported.json", "lock", "log", "log/ops", "log/ops/LOG"];

#[test]
fn whatever_is_in_the_place_of_a_file_of_the_machine_a_tick_ends_and_serves_every_repository() {
    let mut wrong = Vec::new();
    for owner in if is_long() { &[0, NOBODY][..] } else { &[0] } {
        let pattern = Pattern::new(*owner);
        let (root, kept) = (pattern.machine.root(), pattern.machine.path("kept"));
        for name in ["ops", "neighbour"] {
            pattern.copy(name);
        }
        fs::rename(&root, &kept).unwrap();
        for (number, (file, fault)) in OF_THE_MACHINE
            .iter()
            .flat_map(|file| FAULTS.into_iter().map(move |fault| (file, fault)))
            .enumerate()
        {
            Ran::of(pattern.machine.command("cp").arg("-a").args([&kept, &root])).ok();
            let logs = root.join(".pmpy/log/ops");
            let log = fs::read_dir(&logs).unwrap().next().unwrap().unwrap().file_name();
            let path = root.join(".pmpy").join(file.replace("LOG", log.to_str().unwrap()));
            if !(path.is_dir() && matches!(fault, Directory | Sparse)) {
                let victim = pattern.machine.path("victims").join(format!("machine-{number}"));
                let file = (*file).to_owned();
                let mut cell = Cell { name: "ops".to_owned(), file, fault, victim, before: None };
                cell.plant(&path);
                let ran = pattern.agent(LIMIT, &["tick", "--trigger", "cron"]);
                wrong.extend(of_the_machine(&pattern, &cell, &ran, &path));
            }
            fs::remove_dir_all(&root).unwrap();
        }
    }
    assert_none(&wrong);
}

/// What is wrong with what a tick made of a file of the machine.
fn of_the_machine(pattern: &Pattern, cell: &Cell, ran: &Ran, path: &Path) -> Option<String> {
    let applied = |name: &str| pattern.last_action(name).as_ref() == Some(&pattern.revision);
    let said = format!("{}{}", ran.stdout, ran.stderr);
    let is_named = cell.is_named_in(&said) || said.contains(text(path));
    let is_of_all = cell.file == "log";
    let whole = pattern.rows().get("neighbour").is_some_and(|(state, _)| state == "current");
    if ran.code.is_none_or(|code| code > 1) {
        Some(format!("{cell}: exit code {:?}: {said}", ran.code))
    } else if let Some(damage) = cell.damage() {
        Some(format!("{cell}: {damage}"))
    } else if !(applied("neighbour") || is_of_all && is_named) {
        Some(format!("{cell}: the neighbour was not served: {said}"))
    } else if !applied("ops") && !is_named {
        Some(format!("{cell}: ops was not served, and why is not told: {said}"))
    } else if !whole && !is_named {
        Some(format!("{cell}: the status was not written, and why is not told: {said}"))
    } else {
        None
    }
}
