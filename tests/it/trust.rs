//! What another user could exchange is not used: each part of the way to a clone, a target, a key, a
//! program, a configuration. It is told with a remedy that works, and stops no other repository.

use std::fs;
use std::os::unix::fs::{chown, lchown, symlink};
use std::path::Path;

use crate::sandbox::{Ran, Sandbox, set_mode, text, write_program};
use crate::users::give_all;

mod walk;

/// Who has no rights on any Debian.
const NOBODY: u32 = 65_534;

/// A `work.sh` that says in `DIR/runs` as whom which repository's script ran.
const TELLS_WHO: &str = "echo \"$AGENT_REPO $(id -u)\" >> \"$AGENT_ROOT/../runs\"\n";

/// A machine with the neighbour `web`, whose clone is root's and fine, and a directory `theirs` that
/// belongs to somebody else.
fn machine() -> Sandbox {
    assert_eq!(rustix::process::geteuid().as_raw(), 0, "only root can give files away");
    let machine = Sandbox::with("web", &[("work.sh", TELLS_WHO)]);
    for dir in ["", "root", "server"] {
        set_mode(&machine.path(dir), 0o755);
    }
    fs::write(machine.path("home/.gitconfig"), "[safe]\n\tdirectory = *\n").unwrap();
    fs::write(machine.path("runs"), "").unwrap();
    set_mode(&machine.path("runs"), 0o666);
    fs::create_dir(machine.path("theirs")).unwrap();
    set_mode(&machine.path("theirs"), 0o755);
    machine.tick().ok();
    machine
}

/// Clones `name` to `place`, as root.
fn clone_to(machine: &Sandbox, name: &str, place: &str) {
    machine.serve(name, &[("work.sh", TELLS_WHO)]);
    let (server, place) = (machine.server(name), machine.path(place));
    machine.git(&machine.path(""), &["clone", "--quiet", text(&server), text(&place)]);
}

/// One tick with a push to the neighbour, which has to be served; what `name` is told as.
#[track_caller]
fn tick_with_web(machine: &Sandbox, name: &str) -> (String, String) {
    let revision = machine.push("web", &[("page", "more")]);
    let ran = machine.tick();
    assert!(ran.code.is_some_and(|code| code <= 1), "{ran}");
    assert_eq!(machine.lastaction("web"), Some(revision), "the neighbour is served: {ran}");
    reported(machine, name)
}

fn reported(machine: &Sandbox, name: &str) -> (String, String) {
    let row = machine.row(name);
    let word = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    (word("state"), word("reason"))
}

/// Which scripts ran as root, the neighbour's left out.
fn ran_as_root(machine: &Sandbox) -> Vec<String> {
    machine.runs().into_iter().filter(|line| line.ends_with(" 0") && line != "web 0").collect()
}

/// Types the command of the remedy that begins with one of the three programs that change rights.
#[track_caller]
fn type_remedy(machine: &Sandbox, reason: &str) {
    let programs = ["chown ", "chmod ", "setfacl "];
    let at = programs.iter().filter_map(|program| reason.find(program)).min();
    let command = reason[at.unwrap_or_else(|| panic!("no remedy in: {reason}"))..].to_owned();
    let command = command.split(';').next().unwrap().trim().to_owned();
    Ran::of(machine.command("bash").args(["-c", &command])).ok();
}

#[test]
fn a_link_that_its_owner_bends_to_a_clone_of_roots_runs_nothing_as_root() {
    let machine = machine();
    clone_to(&machine, "site", "theirs/repo");
    give_all(&machine.path("theirs"), NOBODY);
    give_all(&machine.server("site"), NOBODY);
    symlink(machine.path("theirs/repo"), machine.clone_of("site")).unwrap();
    assert_eq!(tick_with_web(&machine, "site").0, "current");
    clone_to(&machine, "tool", "opt");
    let before = machine.git(&machine.path("opt"), &["rev-parse", "HEAD"]);
    machine.push("tool", &[("page", "new")]);
    fs::rename(machine.path("theirs/repo"), machine.path("theirs/away")).unwrap();
    symlink(machine.path("opt"), machine.path("theirs/repo")).unwrap();
    lchown(machine.path("theirs/repo"), Some(NOBODY), Some(NOBODY)).unwrap();
    for _ in 0..2 {
        let (state, reason) = tick_with_web(&machine, "site");
        assert_eq!(state, "broken", "{reason}");
        assert!(reason.contains("theirs belongs to nobody"), "{reason}");
    }
    assert_eq!(ran_as_root(&machine), Vec::<String>::new());
    assert_eq!(machine.git(&machine.path("opt"), &["rev-parse", "HEAD"]), before, "not pulled");
}

#[test]
fn each_directory_on_the_way_to_a_clone_is_judged_and_the_remedy_works() {
    let machine = machine();
    fs::create_dir(machine.path("theirs/sub")).unwrap();
    clone_to(&machine, "site", "theirs/sub/site");
    machine.configure(&format!(
        "[repo.site]\npath = \"{}\"\n",
        text(&machine.path("theirs/sub/site"))
    ));
    assert_eq!(tick_with_web(&machine, "site").0, "current");
    type Fault = fn(&Path);
    let faults: [(&str, Fault); 5] = [
        ("belongs to nobody", |part| chown(part, Some(NOBODY), None).unwrap()),
        ("can be written by every user", |part| set_mode(part, 0o757)),
        ("can be written by the group daemon", |part| {
            chown(part, None, Some(1)).unwrap();
            set_mode(part, 0o775);
        }),
        ("can be written by nobody (ACL)", |part| set_acl(part, "u:nobody:rwx")),
        ("can be written by the group daemon (ACL)", |part| set_acl(part, "g:daemon:rwx")),
    ];
    for part in ["theirs", "theirs/sub"] {
        for (words, fault) in &faults {
            let part = machine.path(part);
            let before = machine.runs().len();
            machine.push("site", &[("page", words)]);
            fault(&part);
            let (state, reason) = tick_with_web(&machine, "site");
            assert_eq!(state, "broken", "{words}: {reason}");
            assert!(reason.contains(&format!("{} {words}", text(&part))), "{words}: {reason}");
            assert_eq!(machine.runs().len(), before + 1, "only the neighbour's script ran");
            for command in [&["check", "--offline"][..], &["explain", "site"], &["status"]] {
                let ran = machine.agent(command);
                let said = format!("{}{}", ran.stdout, ran.stderr);
                assert!(said.contains(words), "{command:?}: {ran}");
            }
            type_remedy(&machine, &reason);
            let (state, reason) = tick_with_web(&machine, "site");
            assert_eq!(state, "current", "{words}, put right by its remedy: {reason}");
            chown(&part, Some(0), Some(0)).unwrap();
            set_mode(&part, 0o755);
        }
    }
}

fn set_acl(part: &Path, entry: &str) {
    let mut command = std::process::Command::new("setfacl");
    Ran::of(command.args(["-m", entry]).arg(part)).ok();
}

#[test]
fn whom_the_configuration_trusts_may_write_on_the_way_and_in_the_clone() {
    let machine = machine();
    clone_to(&machine, "site", "theirs/site");
    let entry = format!("[repo.site]\npath = \"{}\"\n", text(&machine.path("theirs/site")));
    chown(machine.path("theirs"), Some(NOBODY), Some(1)).unwrap();
    set_mode(&machine.path("theirs"), 0o775);
    chown(machine.path("theirs/site/.git/config"), None, Some(1)).unwrap();
    set_mode(&machine.path("theirs/site/.git/config"), 0o664);
    machine.configure(&entry);
    assert_eq!(tick_with_web(&machine, "site").0, "broken");
    machine.configure(&format!("trusted = [\"nobody\"]\n{entry}"));
    assert_eq!(tick_with_web(&machine, "site").0, "broken", "the group is another matter");
    machine.configure(&format!("trusted = [\"nobody\", \"@daemon\"]\n{entry}"));
    let (state, reason) = tick_with_web(&machine, "site");
    assert_eq!(state, "current", "{reason}");
}

#[test]
fn a_trustee_without_a_name_is_an_error_of_the_configuration() {
    let machine = machine();
    for wrong in ["\"\"", "\"@\"", "\"a b\"", "\"@@x\"", "1"] {
        machine.configure(&format!("trusted = [{wrong}]\n"));
        let ran = machine.tick().exits(2);
        assert!(ran.stderr.contains("agent.toml:1:"), "{ran}");
    }
}

#[test]
fn each_file_that_the_settings_name_is_judged() {
    let machine = machine();
    clone_to(&machine, "site", "root/site");
    let file = machine.path("theirs/file");
    fs::write(&file, "").unwrap();
    set_mode(&file, 0o600);
    chown(machine.path("theirs"), Some(NOBODY), None).unwrap();
    for key in ["key_file", "known_hosts", "password_file", "ca_file", "client_cert", "env_file"] {
        // Some of them make sense with these alone.
        let url =
            if key.starts_with("k") { "ssh://git@localhost/x" } else { "https://localhost/x" };
        let more = if key == "password_file" { "username = \"x\"\n" } else { "" };
        machine.configure(&format!(
            "[repo.site]\nurl = \"{url}\"\n{more}{key} = \"{}\"\n",
            text(&file)
        ));
        let (state, reason) = tick_with_web(&machine, "site");
        assert_eq!(state, "broken", "{key}: {reason}");
        assert!(reason.contains(key) && reason.contains("theirs belongs to nobody"), "{reason}");
    }
}

#[test]
fn a_configuration_that_another_user_may_write_stops_everything() {
    let machine = machine();
    machine.configure("splay = \"0s\"\n");
    let dir = machine.root().join(".pmpy");
    let (file, more) = (dir.join("agent.toml"), dir.join("agent.d"));
    fs::create_dir(&more).unwrap();
    fs::write(more.join("x.toml"), "").unwrap();
    let usual = |path: &Path| if path.is_dir() { 0o755 } else { 0o644 };
    for path in [&file, &more, &more.join("x.toml"), &dir] {
        machine.push("web", &[("page", text(path))]);
        let before = machine.runs().len();
        set_mode(path, usual(path) | 0o002);
        for command in [&["tick"][..], &["status"], &["check"], &["redo", "web"], &["hold", "web"]]
        {
            let ran = machine.agent(command).exits(2);
            let said = format!("{}{}", ran.stdout, ran.stderr);
            assert!(said.contains("can be written by every user"), "{ran}");
            assert!(said.contains("chmod o-w"), "{ran}");
        }
        set_mode(path, usual(path));
        chown(path, Some(NOBODY), None).unwrap();
        machine.tick().exits(2);
        chown(path, Some(0), None).unwrap();
        assert_eq!(machine.runs().len(), before, "nothing ran");
        machine.tick().ok();
        assert_eq!(machine.runs().len(), before + 1);
    }
    // One that is named likewise; who trusts somebody there says it in that very file.
    let named = machine.path("theirs/agent.toml");
    fs::write(&named, "trusted = [\"nobody\"]\n").unwrap();
    machine.agent(&["--config", text(&named), "tick"]).ok();
    chown(machine.path("theirs"), Some(NOBODY), None).unwrap();
    machine.agent(&["--config", text(&named), "tick"]).exits(2);
}

#[test]
fn a_program_of_on_change_that_another_user_may_exchange_is_not_run_and_that_is_reported_once() {
    let machine = machine();
    let (program, called) = (machine.path("theirs/page"), machine.path("called"));
    write_program(&program, format!("#!/bin/sh\ntouch {}\n", text(&called)));
    chown(machine.path("theirs"), Some(NOBODY), None).unwrap();
    machine.configure(&format!("on_change = [\"{}\"]\n", text(&program)));
    let words = "theirs belongs to nobody";
    let hold = |verb: &str| {
        machine.agent(&[verb, "web"]).ok();
        machine.tick()
    };
    let first = hold("hold");
    assert!(first.stderr.contains(words) && first.stderr.contains("on_change"), "{first}");
    let second = hold("unhold");
    assert!(!second.stderr.contains(words), "{second}");
    let check = machine.agent(&["check", "--offline"]);
    assert!(
        check.stdout.contains("on_change is not run") && check.stdout.contains(words),
        "{check}"
    );
    assert!(machine.agent(&["-v", "status"]).stdout.contains(words));
    assert!(!called.exists(), "it was not run");
    chown(machine.path("theirs"), Some(0), None).unwrap();
    hold("hold");
    assert!(called.exists(), "put right, it is run");
}

#[test]
fn a_secret_is_not_read_by_root_where_its_users_directory_leads() {
    let machine = machine();
    clone_to(&machine, "site", "root/site");
    machine.push("site", &[("work.sh", "echo \"secret=$SECRET\"\n")]);
    give_all(&machine.clone_of("site"), NOBODY);
    give_all(&machine.server("site"), NOBODY);
    let secret = machine.path("secret");
    fs::write(&secret, "SECRET=of-root\n").unwrap();
    set_mode(&secret, 0o600);
    fs::create_dir(machine.path("theirs/etc")).unwrap();
    symlink(&secret, machine.path("theirs/etc/env")).unwrap();
    give_all(&machine.path("theirs"), NOBODY);
    for file in ["theirs/etc/env", "theirs/way/secret"] {
        let _ = symlink(machine.path(""), machine.path("theirs/way"));
        lchown(machine.path("theirs/way"), Some(NOBODY), None).unwrap();
        machine.configure(&format!("[repo.site]\nenv_file = \"{}\"\n", text(&machine.path(file))));
        tick_with_web(&machine, "site");
        assert!(!machine.agent(&["log", "site"]).stdout.contains("of-root"), "{file}");
    }
    // One that root alone decides about is handed over.
    machine.configure(&format!("[repo.site]\nenv_file = \"{}\"\n", text(&secret)));
    machine.agent(&["tick", "site"]);
    assert!(machine.agent(&["log", "site"]).ok().stdout.contains("secret=of-root"));
}

#[test]
fn a_script_in_a_directory_that_another_user_may_write_is_not_run() {
    let machine = machine();
    let script = "bin/work/common/work.sh";
    machine.serve("site", &[(script, TELLS_WHO)]);
    machine.clone_to_root("site");
    assert_eq!(tick_with_web(&machine, "site").0, "current");
    for part in ["bin", "bin/work", "bin/work/common", script] {
        let path = machine.clone_of("site").join(part);
        chown(&path, Some(NOBODY), None).unwrap();
        let before = machine.runs().len();
        machine.push("site", &[("page", part)]);
        let (state, reason) = tick_with_web(&machine, "site");
        assert_eq!(state, "broken", "{part}: {reason}");
        assert!(reason.contains(part) && reason.contains("belongs to nobody"), "{reason}");
        assert_eq!(machine.runs().len(), before + 1, "only the neighbour's script ran");
        type_remedy(&machine, &reason);
        assert_eq!(tick_with_web(&machine, "site").0, "current", "{part}");
    }
}

#[test]
fn a_target_of_roots_in_a_directory_that_another_user_may_write_is_broken_in_every_mode() {
    for (mode, ends) in
        [("checkout", "site"), ("branches", "inside"), ("atomic", "beside"), ("tags", "v")]
    {
        let machine = machine();
        machine.serve("site", &[("page", "one")]);
        machine.git(&machine.desk("site"), &["tag", "v1"]);
        machine.git(&machine.desk("site"), &["push", "--quiet", "origin", "v1"]);
        machine.clone_to_root("site");
        let target = machine.path("theirs").join(ends);
        machine.configure(&format!(
            "[repo.site]\nmode = \"{mode}\"\ntarget = \"{}\"\n",
            text(&target)
        ));
        chown(machine.path("theirs"), Some(NOBODY), None).unwrap();
        let (state, reason) = tick_with_web(&machine, "site");
        assert_eq!(state, "broken", "{mode}: {reason}");
        assert!(reason.contains("theirs belongs to nobody"), "{mode}: {reason}");
        assert_eq!(fs::read_dir(machine.path("theirs")).unwrap().count(), 0, "{mode}");
        assert!(machine.agent(&["checkout", "site", "main"]).code != Some(0), "{mode}");
        type_remedy(&machine, &reason);
        // What a person asked for is remembered until it can be done.
        machine.agent(&["unhold", "site"]);
        let (state, reason) = tick_with_web(&machine, "site");
        assert_eq!(state, "current", "{mode}: {reason}");
    }
}

#[test]
fn a_program_after_a_publication_that_its_repository_could_exchange_is_not_run_as_root() {
    let machine = machine();
    machine.serve("site", &[("page", "one")]);
    machine.clone_to_root("site");
    let (program, called) = (machine.path("theirs/reload"), machine.path("called"));
    write_program(&program, format!("#!/bin/sh\nid -u > {}\n", text(&called)));
    chown(machine.path("theirs"), Some(NOBODY), None).unwrap();
    give_all(&machine.clone_of("site"), NOBODY);
    give_all(&machine.server("site"), NOBODY);
    let sites = machine.path("sites");
    fs::create_dir(&sites).unwrap();
    chown(&sites, Some(NOBODY), None).unwrap();
    machine.configure(&format!(
        "[repo.site]\nmode = \"checkout\"\ntarget = \"{}\"\nafter = [\"{}\"]\nafter_user = \"root\"\n",
        text(&sites.join("site")),
        text(&program)
    ));
    let (state, reason) = tick_with_web(&machine, "site");
    assert!(state != "current" && reason.contains("theirs belongs to nobody"), "{state}: {reason}");
    assert!(!called.exists(), "it ran as {:?}", fs::read_to_string(&called));
    chown(machine.path("theirs"), Some(0), None).unwrap();
    machine.agent(&["tick", "site"]);
    assert_eq!(fs::read_to_string(&called).unwrap(), "0\n", "put right, it is run");
}
