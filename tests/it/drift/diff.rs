//! `agent diff REPO`: as git would, escaped for terminals, and nothing is changed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::{idle, users};

/// What `git diff` says of the clone.
fn by_git(machine: &Sandbox) -> String {
    let clone = machine.clone_of("ops");
    machine.git(&clone, &["diff", "--no-ext-diff", "--abbrev=7", "HEAD"])
}

#[test]
fn the_difference_is_shown_as_git_would() {
    let machine = machine("");
    assert_eq!(machine.agent(&["diff", "ops"]).exits(0).stdout, "");
    write(&machine, "etc/nginx.conf", "listen 81\nand more");
    fs::remove_file(file(&machine, "etc/ssl/key")).unwrap();
    fs::set_permissions(file(&machine, "version.txt"), fs::Permissions::from_mode(0o755)).unwrap();
    write(&machine, "work.sh", "a\0b\n");
    let before = idle::traces(&machine);
    let shown = machine.agent(&["diff", "ops"]).exits(1).stdout;
    assert_eq!(before, idle::traces(&machine), "nothing is written");
    assert_eq!(shown.trim_end(), by_git(&machine).trim_end());
    fs::remove_file(file(&machine, "version.txt")).unwrap();
    symlink("elsewhere", file(&machine, "version.txt")).unwrap();
    let shown = machine.agent(&["diff", "ops"]).exits(1).stdout;
    assert_eq!(shown.trim_end(), by_git(&machine).trim_end());
}

#[test]
fn a_terminal_gets_no_control_characters_and_a_pipe_gets_what_is_there() {
    let machine = machine("");
    write(&machine, "version.txt", "\u{1b}]0;owned\u{7}\n");
    let piped = machine.agent(&["diff", "ops"]).exits(1).stdout;
    assert!(piped.contains("+\u{1b}]0;owned\u{7}\n"), "{piped:?}");
    let typed = machine.on_terminal(80, "", &["diff", "ops"]).stdout;
    assert!(!typed.contains("\u{1b}]0") && typed.contains("+\\u{1b}]0;owned\\u{7}"), "{typed:?}");
}

#[test]
fn what_is_published_is_compared_and_named_by_its_directory() {
    let machine = Sandbox::new();
    machine.serve("ops", &FILES);
    let keys = format!("mode = \"branches\"\ntarget = {:?}\n", machine.path("site"));
    set(&machine, &keys);
    machine.tick().ok();
    fs::write(machine.path("site/main/version.txt"), "2\n").unwrap();
    let shown = machine.agent(&["diff", "ops"]).exits(1).stdout;
    assert!(shown.starts_with("diff --git a/main/version.txt b/main/version.txt\n"), "{shown}");
    assert!(shown.ends_with("@@ -1 +1 @@\n-1\n+2\n"), "{shown}");
}

#[test]
fn where_there_is_nothing_to_compare_it_says_so() {
    let machine = Sandbox::with("ops", &FILES);
    let said = machine.agent(&["diff", "ops"]).exits(1).stderr;
    assert!(said.contains("no revision was applied yet"), "{said}");
    set(&machine, "mode = \"fetch\"\n");
    machine.tick().ok();
    let said = machine.agent(&["diff", "ops"]).exits(1).stderr;
    assert!(said.contains("ops is only fetched"), "{said}");
    machine.agent(&["diff", "dns"]).exits(2);
}

#[test]
fn it_works_on_the_clone_of_another_user() {
    let machine = users::machine("true\n");
    machine.tick().ok();
    machine.agent(&["diff", "ops"]).exits(0);
    fs::write(file(&machine, "work.sh"), "false\n").unwrap();
    let shown = machine.agent(&["diff", "ops"]).exits(1).stdout;
    assert!(shown.ends_with("-true\n+false\n"), "{shown}");
}
