//! Setting a machine up, and cron jobs that get in the agent's way. Nothing of the real machine is
//! changed or asked.

use std::fs;
use std::path::Path;

use pmpy::engine::machine::bootstrap::{self, ExistingRepo, InitEntry};
use pmpy::engine::machine::{conflicting_cron, schedule};

use crate::machine::{Machine, NAME, WORK, says};
use crate::sandbox::text;

tests![
    pulling_lines_are_found_in_every_crontab_and_in_their_scripts,
    a_comment_and_a_pull_of_something_else_are_left_alone,
    a_root_of_its_own_installs_nothing_on_the_machine,
    the_cron_line_and_the_unit_name_the_root,
    an_entry_that_was_written_is_found_again,
    another_url_under_the_same_name_is_refused,
    a_clone_from_elsewhere_is_mentioned,
    the_part_and_the_stack_are_kept_unless_they_are_given,
];

/// Writes `text` to the file at `path` below the directory of the machine's crontabs.
fn put(base: &Path, path: &str, text: &str) {
    let file = base.join(path);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, text).unwrap();
}

fn jobs(machine: &Machine) -> Vec<String> {
    let (context, base) = (machine.context(), machine.path("base"));
    let scan = pmpy::system::schedule::crontabs(&base);
    let of = |crontab| conflicting_cron::of(&context, &base, crontab);
    let mut jobs: Vec<String> = scan
        .read
        .iter()
        .flat_map(of)
        .filter(|job| job.about_us)
        .map(|job| job.to_string())
        .collect();
    jobs.sort();
    jobs
}

fn pulling_lines_are_found_in_every_crontab_and_in_their_scripts() {
    let machine = Machine::with(&[(WORK, "true")]);
    let (root, base) = (machine.root(), machine.path("base"));
    put(&base, "etc/crontab", &format!("# m h\n* * * * * root cd {}/ops; git pull\n", text(&root)));
    put(&base, "etc/cron.d/loop", "* * * * * root /usr/local/bin/loop\n");
    put(&base, "usr/local/bin/loop", &format!("#!/bin/sh\ncd {}\ngit pull\n", text(&root)));
    let found = jobs(&machine);
    assert_eq!(found.len(), 2, "{found:#?}");
    says(&found[0], &["/etc/cron.d/loop:1:", "/usr/local/bin/loop"]);
    says(&found[1], &["/etc/crontab:2:", "git pull"]);
}

fn a_comment_and_a_pull_of_something_else_are_left_alone() {
    let machine = Machine::with(&[(WORK, "true")]);
    let (root, base) = (machine.root(), machine.path("base"));
    let lines = format!(
        "# * * * * * root cd {0} && git pull\n* * * * * root cd {0}-old && git pull\n\
         * * * * * root agent --root {0} tick\n",
        text(&root)
    );
    put(&base, "etc/crontab", &lines);
    assert_eq!(jobs(&machine), Vec::<String>::new());
}

fn a_root_of_its_own_installs_nothing_on_the_machine() {
    let machine = Machine::new();
    let context = machine.context();
    assert!(schedule::installed(&context).unwrap().is_empty());
    for way in [schedule::ScheduleMethod::Cron, schedule::ScheduleMethod::Systemd] {
        let error = schedule::install(&context, way).unwrap_err().to_string();
        says(&error, &[text(&machine.root())]);
    }
    assert!(schedule::uninstall(&context).is_err());
}

fn the_cron_line_and_the_unit_name_the_root() {
    let machine = Machine::new();
    let context = machine.context();
    let root = format!("--root {}", text(&machine.root()));
    says(&schedule::cron_line(&context).line, &["* * * * * ", &root, "tick --trigger cron"]);
    let unit = schedule::file(&context, schedule::ScheduleMethod::Systemd).unwrap();
    says(&unit, &["ExecStart=", &root, "listen"]);
}

const URL: &str = "https://git.example.org/ops.git";

fn wanted(url: &str) -> InitEntry<'_> {
    InitEntry { name: NAME, url, branch: Some("main"), ..InitEntry::default() }
}

fn an_entry_that_was_written_is_found_again() {
    let machine = Machine::new();
    let context = machine.context();
    assert_eq!(bootstrap::find(&context, &wanted(URL)).unwrap(), ExistingRepo::Nothing);
    bootstrap::write_entry(&context, &wanted(URL)).unwrap();
    let context = machine.context();
    assert_eq!(bootstrap::find(&context, &wanted(URL)).unwrap(), ExistingRepo::Same);
    let other = InitEntry { branch: Some("next"), ..wanted(URL) };
    let ExistingRepo::Other(differences) = bootstrap::find(&context, &other).unwrap() else {
        panic!("another branch is no difference")
    };
    says(&differences.join("\n"), &["branch", "main"]);
}

fn another_url_under_the_same_name_is_refused() {
    let machine = Machine::new();
    bootstrap::write_entry(&machine.context(), &wanted(URL)).unwrap();
    let context = machine.context();
    let error = bootstrap::find(&context, &wanted("https://other.example.org/ops.git"));
    let file = bootstrap::entry_file(&context, NAME);
    says(&error.unwrap_err().to_string(), &[NAME, URL, "hint: ", text(&file)]);
}

fn a_clone_from_elsewhere_is_mentioned() {
    let machine = Machine::with(&[(WORK, "true")]);
    let sentences = bootstrap::about_the_clone(&machine.context(), &wanted(URL));
    says(&sentences.join("\n"), &[text(&machine.server(NAME)), URL]);
    let server = machine.server(NAME);
    let same = bootstrap::about_the_clone(&machine.context(), &wanted(text(&server)));
    assert_eq!(same, Vec::<String>::new());
}

fn the_part_and_the_stack_are_kept_unless_they_are_given() {
    let machine = Machine::new();
    bootstrap::write_node(&machine.context(), Some("web"), Some("blue")).unwrap();
    bootstrap::write_node(&machine.context(), None, Some("green")).unwrap();
    let context = machine.context();
    assert_eq!((context.part.as_deref(), context.stack.as_deref()), (Some("web"), Some("green")));
}
