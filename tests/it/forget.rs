//! Forgetting a repository: its configuration, and what `--purge` removes.

use std::fs;
use std::os::unix::fs::symlink;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text, wait_until};

/// A machine on which `init` made `ops`.
fn machine() -> Sandbox {
    let machine = Sandbox::new();
    machine.serve("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "0\n")]);
    let url = format!("ops={}", text(&machine.server("ops")));
    machine.agent(&["init", &url, "--schedule", "none"]).ok();
    machine
}

fn entry(machine: &Sandbox) -> std::path::PathBuf {
    machine.root().join(".pmpy/agent.d/ops.toml")
}

#[test]
fn what_init_made_is_switched_off_and_its_clone_stays() {
    let machine = machine();
    let said = machine.agent(&["forget", "ops"]).ok().stdout;
    assert!(said.contains("active = false"), "{said}");
    assert!(fs::read_to_string(entry(&machine)).unwrap().contains("active = false"));
    machine.push("ops", &[("page", "1\n")]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "inactive");
    assert_eq!(machine.runs().len(), 2, "one run, with its begin and end");
    machine.agent(&["forget", "ops"]).ok();
}

#[test]
fn a_clone_without_an_entry_gets_one() {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    machine.agent(&["forget", "ops"]).ok();
    assert_eq!(fs::read_to_string(entry(&machine)).unwrap(), "[repo.ops]\nactive = false\n");
    assert_eq!(machine.state("ops"), "inactive");
}

#[test]
fn an_entry_of_a_clone_elsewhere_goes() {
    let machine = machine();
    let elsewhere = machine.path("elsewhere");
    fs::rename(machine.clone_of("ops"), &elsewhere).unwrap();
    let server = machine.server("ops");
    let table =
        format!("[repo.ops]\npath = \"{}\"\nurl = \"{}\"\n", text(&elsewhere), text(&server));
    fs::write(entry(&machine), table).unwrap();
    machine.tick().ok();
    machine.agent(&["forget", "ops"]).ok();
    assert!(!entry(&machine).exists() && elsewhere.join("page").exists());
    machine.agent(&["status", "ops"]).exits(2);
}

#[test]
fn an_entry_written_by_hand_is_printed_and_not_edited() {
    let machine = machine();
    let by_hand = format!("# mine\n[repo.ops]\nurl = \"{}\"\n", text(&machine.server("ops")));
    fs::write(entry(&machine), &by_hand).unwrap();
    for command in [&["forget", "ops"][..], &["forget", "ops", "--purge", "--yes"]] {
        let said = machine.agent(command).exits(1).stdout;
        assert!(said.contains("ops.toml") && said.contains("active = false"), "{said}");
    }
    assert_eq!(fs::read_to_string(entry(&machine)).unwrap(), by_hand);
    assert!(machine.clone_of("ops").join("page").exists());
    fs::write(entry(&machine), by_hand + "active = false\n").unwrap();
    machine.agent(&["forget", "ops", "--purge", "--yes"]).ok();
    assert!(!machine.clone_of("ops").exists() && entry(&machine).exists());
}

#[test]
fn purge_needs_a_yes_lists_what_goes_and_removes_it() {
    let machine = machine();
    let kept = machine.path("kept");
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "").unwrap();
    symlink(&kept, machine.clone_of("ops").join("link")).unwrap();
    let asked = machine.agent(&["forget", "ops", "--purge"]).exits(2);
    assert!(asked.stderr.contains("hint: agent forget ops --purge --yes"), "{asked}");
    assert!(machine.clone_of("ops").exists());
    assert_eq!(machine.state("ops"), "current");

    let said = machine.agent(&["forget", "ops", "--purge", "--yes"]).ok().stdout;
    for path in [machine.clone_of("ops"), machine.root().join(".pmpy/log/ops")] {
        assert!(said.contains(text(&path)) && !path.exists(), "{}: {said}", path.display());
    }
    assert!(kept.join("file").exists(), "no link is followed");
    assert!(!entry(&machine).exists());
    machine.tick().ok();
    machine.agent(&["status", "ops"]).exits(2);
}

#[test]
fn on_a_terminal_purge_asks_and_removes_only_after_a_yes() {
    let machine = machine();
    for typed in ["n\n", "\n", "yesterday\n"] {
        let asked = machine.on_terminal(80, typed, &["forget", "ops", "--purge"]).exits(1);
        assert!(asked.stdout.contains(text(&machine.clone_of("ops"))), "{asked}");
        assert!(asked.stdout.contains("nothing was changed"), "{asked}");
        assert_eq!(machine.state("ops"), "current", "after {typed:?}");
    }
    machine.on_terminal(80, "y\n", &["forget", "ops", "--purge"]).ok();
    assert!(!machine.clone_of("ops").exists() && !entry(&machine).exists());
}

#[test]
fn purge_removes_links_and_releases_and_nothing_else_at_the_target() {
    for (mode, shown, store) in
        [("checkout", "site", ".site.pmpy"), ("branches", "site/main", "site/.pmpy")]
    {
        let machine = Sandbox::with("ops", &[("page", "0\n")]);
        let data = machine.path("data");
        fs::create_dir(&data).unwrap();
        let target = data.join("site");
        let own = format!("mode = \"{mode}\"\ntarget = \"{}\"\n", text(&target));
        machine.configure(&format!("[repo.ops]\n{own}"));
        machine.tick().ok();
        assert!(data.join(shown).join("page").exists());
        let foreign = if mode == "branches" { target.join("mine") } else { data.join("mine") };
        fs::write(&foreign, "").unwrap();
        machine.configure(&format!("[repo.ops]\nactive = false\n{own}"));
        machine.agent(&["forget", "ops", "--purge", "--yes"]).ok();
        assert!(data.join(shown).symlink_metadata().is_err(), "{mode}");
        let left: Vec<_> = fs::read_dir(&data).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert!(foreign.exists() && !data.join(store).exists(), "{mode}: {left:?}");
        assert!(!machine.clone_of("ops").exists(), "{mode}");
    }
}

#[test]
fn a_repository_is_not_forgotten_while_it_acts_or_from_within() {
    let script = "echo x > \"$AGENT_ROOT/../began\"\n\
                  \"$AGENT\" --root \"$AGENT_ROOT\" forget ops --purge --yes > \"$AGENT_ROOT/../said\" 2>&1\n\
                  while [ ! -e \"$AGENT_ROOT/../go\" ]; do sleep 0.05; done\n";
    let machine = Sandbox::with("ops", &[("work.sh", script)]);
    let agent = machine.agent_line(&[])[0].clone();
    machine.configure(&format!("[defaults]\nenv = {{ AGENT = \"{agent}\" }}\n"));
    let mut tick = machine.agent_command(&["tick"]).spawn().unwrap();
    wait_until("the script has asked", || {
        fs::read_to_string(machine.path("said")).is_ok_and(|said| said.contains("hint:"))
    });
    let refused = machine.agent(&["forget", "ops", "--purge", "--yes"]).code;
    let within = fs::read_to_string(machine.path("said")).unwrap();
    fs::write(machine.path("go"), "").unwrap();
    tick.wait().unwrap();
    assert_eq!(refused, Some(1));
    assert!(!within.contains("removed\n"), "{within}");
    assert!(machine.clone_of("ops").join("work.sh").exists());
    assert_eq!(machine.state("ops"), "current");
}
