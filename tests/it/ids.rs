//! Object ids of the wrong length: wherever one stands, in the files of git, in ours, in an argument or at
//! the remote, the agent ends by itself, its neighbours are served, and what it says is true. What libgit2
//! would do with such an id is shown in `memory`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::bad_input::ended;
use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, owner, text};

mod anywhere;
mod remotes;

/// The two object formats, as git calls them.
pub(crate) const FORMATS: [&str; 2] = ["sha1", "sha256"];

/// The object format that `format` is not.
pub(crate) fn other(format: &str) -> &'static str {
    if format == FORMATS[0] { FORMATS[1] } else { FORMATS[0] }
}

/// How people call an object format.
pub(crate) fn called(format: &str) -> &'static str {
    if format == FORMATS[0] { "SHA-1" } else { "SHA-256" }
}

/// Puts a repository with objects of `format` on the server, in the place of what is there under `name`;
/// returns its first revision.
pub(crate) fn serve_in(machine: &Sandbox, format: &str, name: &str, word: &str) -> String {
    let (server, desk) = (machine.server(name), machine.desk(name));
    let object_format = format!("--object-format={format}");
    let init = ["init", "--quiet", &object_format, "--initial-branch=main"];
    for dir in [&server, &desk] {
        let _ = fs::remove_dir_all(dir);
    }
    machine.git(&machine.path(""), &[&init[..], &["--bare", text(&server)]].concat());
    machine.git(&machine.path(""), &[&init[..], &[text(&desk)]].concat());
    machine.git(&desk, &["remote", "add", "origin", text(&server)]);
    machine.push(name, &[("bin/work/common/work.sh", NOTES_ITS_RUNS), ("page", word)])
}

/// What an agent that ended by itself exits with.
#[track_caller]
pub(crate) fn by_itself(ran: Ran) -> Ran {
    assert!(matches!(ran.code, Some(0..=2)), "{ran}");
    ran
}

/// Why `name` is not better, as `status` says it.
#[track_caller]
pub(crate) fn reason(machine: &Sandbox, name: &str) -> String {
    machine.row(name)["reason"].as_str().unwrap_or_default().to_owned()
}

/// Runs the commands that `reason` names behind its hint, as a person would type them.
#[track_caller]
fn advised(machine: &Sandbox, reason: &str) -> Ran {
    let (_, line) = reason.rsplit_once("anew: ").unwrap_or_else(|| panic!("no advice: {reason}"));
    let agent = machine.agent_line(&[]).join(" ");
    let line = line.replace("agent ", &format!("{agent} "));
    Ran::of(machine.command("sh").args(["-ec", &line]))
}

fn machine_in(format: &str) -> Sandbox {
    let machine = Sandbox::new();
    serve_in(&machine, format, "ops", "one");
    machine.clone_to_root("ops");
    machine
}

#[test]
fn a_remote_that_was_made_anew_with_another_hash_is_reported_and_what_was_good_continues() {
    for format in FORMATS {
        let machine = machine_in(format);
        serve_in(&machine, FORMATS[0], "zgood", "one");
        machine.clone_to_root("zgood");
        machine.tick().ok();
        let good = machine.lastaction("ops").unwrap();
        let new = serve_in(&machine, other(format), "ops", "two");
        let neighbour = machine.push("zgood", &[("page", "two")]);
        by_itself(machine.tick()).exits(1);
        assert_eq!(machine.lastaction("zgood"), Some(neighbour), "{format}");
        assert_eq!(machine.state("ops"), "rewritten", "{format}");
        let why = reason(&machine, "ops");
        let named = format!("by {}, and the clone by {}", called(other(format)), called(format));
        assert!(why.contains(&named) && !why.contains("accept"), "{why}");
        let explained = machine.agent(&["explain", "ops"]).ok().stdout;
        assert!(explained.contains(&named) && !explained.contains("agent accept"), "{explained}");
        let taken = by_itself(machine.agent(&["accept", "ops", &new])).exits(1);
        assert!(taken.stderr.contains(&named), "{taken}");
        for line in [&["tick", "ops"][..], &["check"], &["status"], &["status", "-v"]] {
            by_itself(machine.agent(line)).exits(1);
        }
        let unknown = machine.agent(&["explain", "ops", &new]).ok();
        assert!(unknown.stdout.contains("is not here"), "{unknown}");
        assert_eq!(machine.tick().stdout, "", "{format}: it is told once");
        let before = ended(&machine);
        by_itself(machine.agent(&["redo", "ops"]));
        assert_eq!((ended(&machine), machine.head("ops")), (before + 1, good.clone()), "{format}");
        let clone = machine.clone_of("ops");
        fs::remove_file(clone.join(".temp/nodeinfo/lastaction.txt")).unwrap();
        machine.tick();
        assert_eq!((ended(&machine), machine.lastaction("ops")), (before + 2, Some(good)));
        advised(&machine, &reason(&machine, "ops")).ok();
        assert_eq!(machine.lastaction("ops"), Some(new), "{:#}", machine.row("ops"));
        machine.agent(&["status"]).ok();
        let named = machine.status()["repositories"].as_array().unwrap().len();
        assert_eq!(named, 2, "the old clone is no repository of the agent's any more");
    }
}

#[test]
fn it_heals_when_the_remote_has_the_old_revisions_again() {
    let machine = machine_in("sha1");
    machine.tick().ok();
    let away = machine.path("away.git");
    fs::rename(machine.server("ops"), &away).unwrap();
    let desk = machine.path("away");
    fs::rename(machine.desk("ops"), &desk).unwrap();
    serve_in(&machine, "sha256", "ops", "two");
    machine.tick().exits(1);
    fs::remove_dir_all(machine.server("ops")).unwrap();
    fs::remove_dir_all(machine.desk("ops")).unwrap();
    fs::rename(&away, machine.server("ops")).unwrap();
    fs::rename(&desk, machine.desk("ops")).unwrap();
    let revision = machine.push("ops", &[("page", "three")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
}

#[test]
fn a_failed_revision_is_tried_again_while_the_remote_has_another_hash() {
    let machine = machine_in("sha1");
    machine.push("ops", &[("bin/work/common/work.sh", "[ -e ../../ready ]\n")]);
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "failing");
    serve_in(&machine, "sha256", "ops", "two");
    machine.tick();
    fs::write(machine.path("ready"), "").unwrap();
    machine.wait_is_over("ops");
    machine.tick();
    assert_eq!(machine.state("ops"), "rewritten", "{:#}", machine.row("ops"));
    assert_eq!(machine.lastaction("ops"), Some(machine.head("ops")));
}

#[test]
fn another_url_with_the_right_hash_is_followed_in_its_place() {
    let machine = machine_in("sha1");
    machine.tick().ok();
    let mirror = machine.path("mirror.git");
    fs::rename(machine.server("ops"), &mirror).unwrap();
    let desk = machine.path("mirror");
    fs::rename(machine.desk("ops"), &desk).unwrap();
    serve_in(&machine, "sha256", "ops", "two");
    let urls = format!("[repo.ops]\nurl = [{:?}, {mirror:?}]\n", machine.server("ops"));
    machine.configure(&urls);
    fs::write(desk.join("page"), "three").unwrap();
    machine.git(&desk, &["commit", "--quiet", "--all", "--message", "More"]);
    machine.git(&desk, &["push", "--quiet", text(&mirror), "HEAD:main"]);
    machine.tick().ok();
    let revision = machine.git(&desk, &["rev-parse", "HEAD"]);
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    fs::remove_dir_all(&mirror).unwrap();
    machine.tick().exits(1);
    assert_eq!(machine.state("ops"), "rewritten", "what is said counts for more than silence");
    assert!(reason(&machine, "ops").contains("SHA-256"), "{}", reason(&machine, "ops"));
}

#[test]
fn in_the_clone_of_another_user_it_is_reported_and_cloned_anew_as_that_user() {
    let machine = crate::users::machine(NOTES_ITS_RUNS);
    fs::write(machine.path("runs"), "").unwrap();
    crate::sandbox::set_mode(&machine.path("runs"), 0o666);
    serve_in(&machine, "sha1", "zgood", "one");
    machine.clone_to_root("zgood");
    machine.tick().ok();
    let (clone, user) = (machine.clone_of("ops"), owner(&machine.clone_of("ops")));
    let good = machine.lastaction("ops");
    for (file, text) in [
        (clone.join(".git/refs/heads/odd"), format!("{}\n", "ab".repeat(32))),
        (machine.private("ops", "repair"), "{}".to_owned()),
        (clone.join(".temp/nodeinfo/lastaction.txt"), format!("{}\n", "ab".repeat(32))),
    ] {
        fs::write(&file, text).unwrap();
        crate::users::give_all(&file, user);
    }
    by_itself(machine.tick()).ok();
    assert_eq!(machine.lastaction("ops"), good, "acted once more, as of a file that is damaged");
    let new = serve_in(&machine, "sha256", "ops", "two");
    crate::users::give_all(&machine.server("ops"), user);
    let neighbour = machine.push("zgood", &[("page", "two")]);
    by_itself(machine.tick()).exits(1);
    assert_eq!(machine.lastaction("zgood"), Some(neighbour));
    assert_eq!((machine.state("ops"), machine.lastaction("ops")), ("rewritten".to_owned(), good));
    for line in
        [&["status"][..], &["check"], &["explain", "ops"], &["redo", "ops"], &["hold", "ops"]]
    {
        by_itself(machine.agent(line));
    }
    machine.agent(&["unhold", "ops"]).ok();
    advised(&machine, &reason(&machine, "ops")).ok();
    assert_eq!(machine.lastaction("ops"), Some(new));
    assert_eq!(owner(&machine.clone_of("ops").join(".git/HEAD")), user);
}

#[test]
fn in_each_mode_the_advice_leads_to_what_the_remote_has_now() {
    let modes = ["in-place", "fetch", "checkout", "branches", "atomic", "tags"];
    for (mode, rewritten) in modes.iter().flat_map(|mode| [(mode, "refuse"), (mode, "follow")]) {
        let machine = Sandbox::new();
        let tag = |machine: &Sandbox| {
            let desk = machine.desk("ops");
            machine.git(&desk, &["tag", "v1"]);
            machine.git(&desk, &["push", "--quiet", "--force", "origin", "v1"]);
        };
        serve_in(&machine, "sha1", "ops", "one");
        tag(&machine);
        let target = machine.path("shown/ops");
        fs::create_dir_all(if mode == &"checkout" {
            machine.path("shown")
        } else {
            target.clone()
        })
        .unwrap();
        let place = match *mode {
            "in-place" | "fetch" => String::new(),
            _ => format!("target = {target:?}\n"),
        };
        machine.configure(&format!(
            "[repo.ops]\nurl = {:?}\nmode = \"{mode}\"\nrewritten = \"{rewritten}\"\n{place}",
            machine.server("ops")
        ));
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{mode}: {:#}", machine.row("ops"));
        let new = serve_in(&machine, "sha256", "ops", "two");
        tag(&machine);
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "rewritten", "{mode}");
        let page = |name: &str| {
            let file = match *mode {
                "in-place" | "fetch" => machine.clone_of("ops").join("page"),
                "checkout" => target.join("page"),
                "atomic" => machine.path(&format!("shown/ops_{name}/page")),
                _ => target.join(name).join("page"),
            };
            fs::read_to_string(file).unwrap_or_default()
        };
        let name = if mode == &"tags" { "v1" } else { "main" };
        assert!(mode == &"fetch" || page(name) == "one", "{mode}: what was shown stays");
        for line in [&["redo", "ops"][..], &["check"], &["explain", "ops"], &["tick", "ops"]] {
            by_itself(machine.agent(line));
        }
        by_itself(advised(&machine, &reason(&machine, "ops")));
        if machine.state("ops") == "rewritten" {
            // What stands at a target is of a history that the new one lacks, which is for a person to take.
            let why = reason(&machine, "ops");
            assert!(rewritten == "refuse" && why.contains("agent accept ops"), "{mode}: {why}");
            let (_, revision) = why.rsplit_once("accept ops ").unwrap();
            by_itself(machine.agent(&["accept", "ops", revision])).ok();
        }
        machine.tick().ok();
        assert_eq!(machine.state("ops"), "current", "{mode}: {:#}", machine.row("ops"));
        assert!(mode == &"fetch" || page(name) == "two", "{mode}, {rewritten}");
        assert_eq!(machine.lastaction("ops"), Some(new), "{mode}, {rewritten}");
    }
}

#[test]
fn a_configuration_that_names_the_other_hash_is_put_right() {
    for format in FORMATS {
        let machine = machine_in(format);
        machine.tick().ok();
        let clone = machine.clone_of("ops");
        machine.git(&clone, &["config", "gc.auto", "7"]);
        machine.git(&clone, &["config", "core.repositoryFormatVersion", "1"]);
        machine.git(&clone, &["config", "extensions.objectFormat", other(format)]);
        by_itself(machine.tick());
        assert_eq!(machine.state("ops"), "current", "{format}: {:#}", machine.row("ops"));
        let revision = machine.push("ops", &[("page", "two")]);
        machine.tick().ok();
        assert_eq!(machine.lastaction("ops"), Some(revision), "{format}");
        assert_eq!(machine.git(&clone, &["rev-parse", "--show-object-format"]), format);
        assert_eq!(machine.git(&clone, &["config", "gc.auto"]), "7", "all else stays");
        assert_eq!(machine.differences("ops"), "");
    }
}

#[test]
fn a_push_that_a_hook_is_given_by_the_other_hash_is_an_error_and_no_more() {
    let machine = machine_in("sha1");
    let ids = ["0".repeat(64), "ab".repeat(32)];
    let line = format!("{} {} refs/heads/main\n", ids[0], ids[1]);
    machine.configure("[bus]\nbrokers = [\"stomp://127.0.0.1:9\"]\nannounce_topic = \"x\"\n");
    let file = machine.path("pushed");
    fs::write(&file, line).unwrap();
    let agent = machine.agent_line(&["notify"]).join(" ");
    let script = format!("{agent} < {}", text(&file));
    let mut hook = machine.command("sh");
    hook.args(["-c", &script]).current_dir(machine.server("ops")).env("GIT_DIR", ".");
    by_itself(Ran::of(&mut hook));
}

/// Every file below `directory`, copied to `to`, which is replaced.
fn copied(machine: &Sandbox, dir: &Path, to: &Path) -> PathBuf {
    let _ = fs::remove_dir_all(to);
    Ran::of(machine.command("cp").arg("-a").args([dir, to])).ok();
    to.to_owned()
}
