//! All repositories at once: a bad one stops no other, and a person hears of a change once.

use std::fs;

use pmpy::engine::tick;

use crate::machine::{Machine, NAME, WORK, says};
use crate::sandbox::NOTES_ITS_RUNS;

tests![
    a_broken_neighbour_stops_no_other,
    a_failure_is_reported_once_and_its_end_once,
    a_named_tick_looks_at_no_other_repository,
    an_unknown_name_ends_the_tick_before_it_begins,
    a_guest_reads_the_status_of_the_last_tick,
    without_poll_only_a_person_makes_a_tick_ask,
    hundreds_of_neighbours_are_all_seen,
];

fn with_neighbour() -> Machine {
    let machine = Machine::with(&[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    machine.serve("web", &[("page", "one")]);
    machine.clone_to_root("web");
    machine
}

fn a_broken_neighbour_stops_no_other() {
    let machine = with_neighbour();
    fs::write(
        machine.clone_of("web").join(".git/MERGE_HEAD"),
        format!("{}\n", machine.head("web")),
    )
    .unwrap();
    let report = machine.tick();
    let states: Vec<_> = report
        .status
        .repositories
        .iter()
        .map(|row| (row.name.as_str(), row.state.as_str()))
        .collect();
    assert_eq!(states, [(NAME, "current"), ("web", "broken")]);
}

fn a_failure_is_reported_once_and_its_end_once() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    machine.pushed(WORK, "exit 1");
    assert_eq!(machine.tick().notices.len(), 1);
    machine.tick_with(|options| options.names = vec![NAME.to_owned()]);
    assert!(machine.tick().notices.is_empty());
    machine.pushed(WORK, "true");
    let report = machine.tick();
    assert_eq!((report.notices.len(), report.changes.len()), (1, 1), "{report:#?}");
    assert!(machine.tick().notices.is_empty());
}

fn a_named_tick_looks_at_no_other_repository() {
    let machine = with_neighbour();
    machine.tick_with(|options| options.names = vec!["web".to_owned()]);
    assert!(machine.lastaction("web").is_some());
    assert_eq!(machine.deployed_at(), None);
}

fn an_unknown_name_ends_the_tick_before_it_begins() {
    let machine = with_neighbour();
    let options = pmpy::engine::request::TickOptions {
        overrides: false,
        names: vec!["wbe".to_owned()],
        trigger: pmpy::domain::repository::action::Trigger::Manual,
        dry_run: false,
        wait: pmpy::engine::request::LockWait::No,
        command: pmpy::engine::request::WorkerCommand::Follow,
        reason: None,
        deleted: Vec::new(),
    };
    let error = tick::tick(&machine.context(), &options, &drop).unwrap_err();
    says(&error.to_string(), &["\"wbe\"", "web"]);
    assert!(tick::last_status(&machine.settings().world, &[]).is_none());
}

fn a_guest_reads_the_status_of_the_last_tick() {
    let machine = with_neighbour();
    machine.tick();
    let world = machine.settings().world;
    let all = tick::last_status(&world, &[]).unwrap();
    assert_eq!(all.repositories.len(), 2);
    assert!(all.last_tick.is_some() && all.healthy);
    let one = tick::last_status(&world, &["web".to_owned()]).unwrap();
    assert_eq!(one.repositories.len(), 1);
    assert!(tick::last_status(&world, &["wbe".to_owned()]).is_none());
}

fn without_poll_only_a_person_makes_a_tick_ask() {
    let machine = Machine::deployed("poll = false", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    machine.tick_with(|options| options.names = vec![NAME.to_owned()]);
    let first = machine.at();
    let tip = machine.pushed("page", "two");
    machine.tick();
    assert_eq!(machine.at(), first);
    machine.tick_with(|options| options.names = vec![NAME.to_owned()]);
    assert_eq!(machine.at(), tip);
}

fn hundreds_of_neighbours_are_all_seen() {
    let machine = Machine::new();
    machine.serve(NAME, &[("page", "one")]);
    let repositories: String = (0..200)
        .map(|number| format!("[repo.r{number}]\nurl = \"{}/none\"\n", machine.root().display()))
        .collect();
    machine.configure(&repositories);
    let report = machine.tick();
    assert_eq!(report.status.repositories.len(), 200);
    assert!(report.status.repositories.iter().all(|row| row.state.as_str() == "unreachable"));
}
