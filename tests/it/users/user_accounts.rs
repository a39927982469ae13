//! Becoming a user means all of it: numbers, every group, home and names, in whatever is started.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{give, give_all, publishes};
use crate::sandbox::{Ran, Sandbox, set_mode, text, write_program};

/// A user of this machine with groups of its own, which go with the test.
struct Person {
    name: String,
    groups: Vec<String>,
}

impl Person {
    /// `tag` keeps those of several tests apart.
    fn new(tag: &str) -> Self {
        let name = format!("pmpy-{tag}");
        let groups: Vec<String> = ["one", "two", "other"].map(|it| format!("{name}-{it}")).into();
        let person = Self { name, groups };
        // Of a run that was ended in the middle.
        person.remove();
        for group in &person.groups {
            Ran::of(Command::new("groupadd").arg(group)).ok();
        }
        let two = person.groups[..2].join(",");
        let mut add = Command::new("useradd");
        add.args(["--user-group", "--no-create-home", "--home-dir", "/srv/pmpy-home"]);
        Ran::of(add.args(["--groups", &two, &person.name])).ok();
        person
    }

    /// What id(1) says with `flag`; numbers in order.
    fn id(&self, flag: &str) -> Vec<u32> {
        let ran = Ran::of(Command::new("id").args([flag, &self.name])).ok();
        sorted(&ran.stdout)
    }

    /// What a program of this user's has to see.
    fn expected(&self) -> (Vec<u32>, Vec<u32>, Vec<u32>, String) {
        let rest = format!("/srv/pmpy-home {0} {0} 0022", self.name);
        (self.id("-u"), self.id("-g"), self.id("-G"), rest)
    }

    fn usermod(&self, arguments: &[&str]) {
        Ran::of(Command::new("usermod").args(arguments).arg(&self.name)).ok();
    }

    fn remove(&self) {
        let _ = Ran::of(Command::new("userdel").arg(&self.name));
        for group in self.groups.iter().chain([&self.name]) {
            let _ = Ran::of(Command::new("groupdel").arg(group));
        }
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        self.remove();
    }
}

fn sorted(numbers: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = numbers.split_whitespace().map(|it| it.parse().unwrap()).collect();
    numbers.sort_unstable();
    numbers
}

/// Notes who it is in a file of its own, `NOTES.NAME`.
fn dump(name: &str, notes: &Path) -> String {
    format!(
        "{{ id -u; id -g; id -G; echo \"$HOME $USER $LOGNAME $(umask)\"; }} > '{}.{name}'\n",
        text(notes)
    )
}

fn noted(name: &str, notes: &Path) -> (Vec<u32>, Vec<u32>, Vec<u32>, String) {
    let text = fs::read_to_string(format!("{}.{name}", text(notes))).unwrap();
    let [uid, gid, groups, rest] = text.lines().collect::<Vec<_>>().try_into().unwrap();
    (sorted(uid), sorted(gid), sorted(groups), rest.to_owned())
}

/// A machine whose clone `ops`, with these `files`, is the person's, and a directory for notes.
fn machine(person: &Person, files: &[(&str, &str)]) -> Sandbox {
    let machine = Sandbox::with("ops", files);
    for dir in ["", "root"] {
        set_mode(&machine.path(dir), 0o755);
    }
    fs::write(machine.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
    give(&machine, "ops", person.id("-u")[0]);
    machine
}

/// Where programs note who they are.
fn notes(scratch: &tempfile::TempDir) -> std::path::PathBuf {
    set_mode(scratch.path(), 0o777);
    scratch.path().join("who")
}

#[test]
fn a_script_has_its_users_groups_home_and_names_and_follows_their_changes() {
    let person = Person::new("script");
    let scratch = tempfile::tempdir().unwrap();
    let notes = notes(&scratch);
    let machine = machine(&person, &[("work.sh", &dump("work", &notes))]);
    machine.tick().ok();
    let first = person.expected();
    assert_eq!(first.2.len(), 3, "its own group and two more");
    assert_eq!(noted("work", &notes), first);

    // A lock is for logging in; and another primary group counts from the next tick on.
    person.usermod(&["--lock", "--gid", &person.groups[2]]);
    person.usermod(&["--groups", &person.groups[0]]);
    machine.push("ops", &[("page", "two\n")]);
    give_all(&machine.server("ops"), person.id("-u")[0]);
    machine.tick().ok();
    let second = person.expected();
    assert!(second.1 != first.1 && second.2 != first.2, "{second:?}");
    assert_eq!(noted("work", &notes), second);
    assert_eq!(machine.state("ops"), "current");
}

#[test]
fn the_programs_around_a_publication_have_their_users_groups_home_and_names() {
    let person = Person::new("site");
    let scratch = tempfile::tempdir().unwrap();
    let notes = notes(&scratch);
    let before = dump("before", &notes);
    let machine = machine(&person, &[("bin/validate", &before)]);
    let after = machine.path("after");
    write_program(&after, format!("#!/bin/sh\n{}", dump("after", &notes)));
    let keys = format!("before = [\"bin/validate\"]\nafter = [\"{}\"]", text(&after));
    publishes(&machine, &keys);
    give_all(&machine.path("sites"), person.id("-u")[0]);
    machine.tick().ok();
    assert_eq!(noted("before", &notes), person.expected());
    assert_eq!(noted("after", &notes), person.expected());
    assert_eq!(person.expected().2.len(), 3);

    // Root's own repository, and what follows is this user's.
    let rooted = Sandbox::with("ops", &[]);
    for dir in ["", "root"] {
        set_mode(&rooted.path(dir), 0o755);
    }
    fs::copy(&after, rooted.path("after")).unwrap();
    let keys =
        format!("after = [\"{}\"]\nafter_user = \"{}\"", text(&rooted.path("after")), person.name);
    publishes(&rooted, &keys);
    give_all(&rooted.path("sites"), 0);
    fs::remove_file(format!("{}.after", text(&notes))).unwrap();
    rooted.tick().ok();
    assert_eq!(noted("after", &notes), person.expected());
}
