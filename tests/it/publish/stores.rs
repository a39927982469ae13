//! Stores that were lost, restored in part or written in by other programs: readers get the revision, and
//! what the agent did not make is not lost.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::{NAME, Publisher};
use crate::sandbox::text;

const MODES: [&str; 5] = ["checkout", "branches", "atomic", "tags", "fetch"];

/// A machine that shows the revision of `main` in `mode`, and the path where readers find it.
fn published(mode: &str) -> (Publisher, PathBuf) {
    let site = Publisher::new(mode, "");
    site.set("refs/tags/main", &site.tip("main").unwrap());
    site.machine.tick().ok();
    if mode == "fetch" {
        site.machine.agent(&["checkout", NAME, "main"]).ok();
    }
    let shown = match mode {
        "checkout" | "fetch" => site.at(""),
        "atomic" => site.machine.path("targets/site_main"),
        _ => site.at("main"),
    };
    assert_eq!(page(&shown).as_deref(), Some("one"), "{mode}");
    (site, shown)
}

fn page(shown: &Path) -> Option<String> {
    Some(fs::read_to_string(shown.join("page")).ok()?.trim_end().to_owned())
}

#[test]
fn a_store_that_was_lost_comes_back_with_the_next_tick_and_by_redo() {
    for mode in MODES {
        let (site, shown) = published(mode);
        for command in ["tick", "redo"] {
            fs::remove_dir_all(site.store()).unwrap();
            assert_eq!(page(&shown), None);
            let command: &[&str] = if command == "tick" { &["tick"] } else { &["redo", NAME] };
            site.machine.agent(command).ok();
            assert_eq!(page(&shown).as_deref(), Some("one"), "{mode} {command:?}");
            assert_eq!(site.machine.state(NAME), "current", "{mode} {command:?}");
        }
    }
}

#[test]
fn a_store_that_was_lost_comes_back_where_nothing_relevant_was_pushed() {
    let site = Publisher::new("checkout", "paths = [\"page\"]");
    site.machine.tick().ok();
    site.push_files("main", &[("notes", "irrelevant\n")]);
    site.machine.tick().ok();
    fs::remove_dir_all(site.store()).unwrap();
    site.machine.tick().ok();
    assert_eq!(
        (site.page("").as_deref(), site.machine.state(NAME)),
        (Some("one"), "current".into())
    );
}

#[test]
fn a_store_that_was_lost_shows_what_readers_had_whatever_stops_the_next_revision() {
    type Stop = fn(&Publisher);
    let stops: [(&str, Stop); 4] = [
        ("a hold", |site| drop(site.machine.agent(&["hold", NAME, "a change"]).ok())),
        ("a tree that is refused", |site| {
            site.push_files("main", &[(".temp/x", "")]);
        }),
        ("before, which refuses", |site| {
            site.push_files("main", &[("page", "bad\n")]);
        }),
        ("a server that is away", |site| {
            fs::rename(site.machine.server(NAME), site.machine.path("aside.git")).unwrap();
        }),
    ];
    for mode in ["checkout", "branches"] {
        let directory = if mode == "checkout" { "" } else { "main" };
        for (what, stop) in stops {
            let site = Publisher::new(mode, "before = [\"bin/gate\"]");
            let gate = "#!/bin/sh\nread page < page\n[ \"$page\" != bad ]\n";
            site.push_files("main", &[("bin/gate", gate)]);
            site.machine.tick().ok();
            stop(&site);
            for _ in 0..2 {
                site.machine.tick();
            }
            fs::remove_dir_all(site.store()).unwrap();
            assert_eq!(site.page(directory), None);
            site.machine.tick();
            assert_eq!(site.page(directory).as_deref(), Some("one"), "{mode}: {what}");
        }
    }
}

#[test]
fn a_release_that_is_missing_empty_or_something_else_is_written_anew() {
    type Accident = fn(&Path);
    let accidents: [(&str, Accident); 4] = [
        ("missing", |release| fs::remove_dir_all(release).unwrap()),
        ("empty", |release| {
            fs::remove_dir_all(release).unwrap();
            fs::create_dir(release).unwrap();
        }),
        ("a link", |release| {
            fs::remove_dir_all(release).unwrap();
            symlink("/etc", release).unwrap();
        }),
        ("a file", |release| {
            fs::remove_dir_all(release).unwrap();
            fs::write(release, "restored").unwrap();
        }),
    ];
    for mode in MODES {
        let (site, shown) = published(mode);
        for (what, accident) in accidents {
            accident(
                &site
                    .store()
                    .join(slot(mode))
                    .join(shown.canonicalize().unwrap().file_name().unwrap()),
            );
            site.machine.tick().ok();
            assert_eq!(page(&shown).as_deref(), Some("one"), "{mode}: {what}");
            assert_eq!(site.machine.state(NAME), "current", "{mode}: {what}");
        }
    }
}

fn slot(mode: &str) -> &'static str {
    match mode {
        "checkout" | "fetch" => "",
        _ => "main",
    }
}

#[test]
fn a_target_that_a_person_removed_stays_away_where_only_persons_publish() {
    let (site, shown) = published("fetch");
    fs::remove_file(&shown).unwrap();
    site.machine.tick().ok();
    assert!(shown.symlink_metadata().is_err());
}

#[test]
fn a_revision_without_files_is_shown_and_not_taken_for_a_lost_one() {
    let site = Publisher::new("checkout", "");
    let desk = site.machine.desk(NAME);
    site.machine.git(&desk, &["rm", "-rq", "."]);
    site.machine.git(&desk, &["commit", "--quiet", "--message", "Nothing"]);
    site.set("refs/heads/main", "HEAD");
    site.machine.tick().ok();
    site.machine.agent(&["redo", NAME]).ok();
    let runs = || fs::read_to_string(site.machine.private(NAME, "history")).unwrap();
    let before = runs();
    site.machine.tick().ok();
    assert_eq!((runs(), site.machine.state(NAME)), (before, "current".to_owned()));
}

#[test]
fn a_directory_named_by_a_revision_proves_nothing_and_is_kept() {
    for mode in ["checkout", "branches", "atomic"] {
        let (site, shown) = published(mode);
        let second = site.push("main", "two");
        let release = site.store().join(slot(mode)).join(&second);
        fs::create_dir(&release).unwrap();
        fs::write(release.join("page"), "half").unwrap();
        site.machine.tick().ok();
        assert_eq!(page(&shown).as_deref(), Some("two"), "{mode}");
        assert_eq!(site.left(), [format!("{second}/page")], "{mode}");
        let kept = site.store().join(".left").join(&second).join("page");
        assert_eq!(fs::read_to_string(kept).unwrap(), "half");
        let status = site.machine.agent(&["status", "-v", NAME]).ok().stdout;
        assert!(status.contains("1 file (4 bytes)") && status.contains("/.left"), "{status}");
        let check = site.machine.agent(&["check", "--offline"]).stdout;
        assert!(check.contains("1 file (4 bytes)"), "{check}");
    }
}

#[test]
fn a_whole_tree_without_a_seal_is_written_anew_and_leaves_nothing() {
    let (site, _) = published("checkout");
    let second = site.push("main", "two");
    let desk = site.machine.desk(NAME);
    let release = site.store().join(&second);
    site.machine.git(&desk, &["worktree", "add", "--quiet", "--detach", text(&release), &second]);
    fs::remove_file(release.join(".git")).unwrap();
    let before =
        fs::metadata(release.join("page")).map(|it| std::os::unix::fs::MetadataExt::ino(&it));
    site.machine.tick().ok();
    assert_eq!(site.page("").as_deref(), Some("two"));
    let after = fs::metadata(site.at("page")).map(|it| std::os::unix::fs::MetadataExt::ino(&it));
    assert_ne!(before.unwrap(), after.unwrap(), "the directory of another program was shown");
    assert!(site.left().is_empty(), "{:?}", site.left());
}

#[test]
fn a_kept_release_is_shown_again_only_as_its_revision() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 7] = [
        ("nothing", |_| {}),
        ("content", |release| fs::write(release.join("page"), "eno\n").unwrap()),
        ("a missing file", |release| fs::remove_file(release.join("d/run")).unwrap()),
        ("one more file", |release| fs::write(release.join("d/more"), "more").unwrap()),
        ("a mode", |release| {
            fs::set_permissions(release.join("d/run"), fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("a link", |release| {
            fs::remove_file(release.join("link")).unwrap();
            symlink("/etc", release.join("link")).unwrap();
        }),
        ("a link for a file", |release| {
            fs::rename(release.join("page"), release.join("../page")).unwrap();
            symlink("../page", release.join("page")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let site = Publisher::new("checkout", "");
        let desk = site.machine.desk(NAME);
        fs::create_dir(desk.join("d")).unwrap();
        fs::write(desk.join("d/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(desk.join("d/run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("page", desk.join("link")).unwrap();
        let first = site.push("main", "one");
        site.machine.tick().ok();
        site.push("main", "two");
        site.machine.tick().ok();
        change(&site.store().join(&first));
        site.machine.agent(&["rollback", NAME]).ok();
        assert_eq!(
            (site.shown(""), site.page("").as_deref()),
            (first.clone(), Some("one")),
            "{what}"
        );
        let mode = fs::metadata(site.at("d/run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755, "{what}");
        assert_eq!(fs::read_link(site.at("link")).unwrap(), Path::new("page"), "{what}");
        assert!(!site.at("d/more").exists(), "{what}");
        let left =
            if what == "one more file" { vec![format!("{first}/d/more")] } else { Vec::new() };
        assert_eq!(site.left(), left, "{what}");
    }
}

#[test]
fn releases_of_a_build_without_seals_are_used_again() {
    let site = Publisher::new("checkout", "");
    let first = site.tip("main").unwrap();
    site.machine.tick().ok();
    site.push("main", "two");
    site.machine.tick().ok();
    fs::remove_file(site.machine.private(NAME, "sealed")).unwrap();
    let page = site.store().join(&first).join("page");
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let before = inode(&page);
    site.machine.agent(&["rollback", NAME]).ok();
    assert_eq!(site.shown(""), first);
    assert_eq!(inode(&page), before, "it was written anew");
    // A damaged record costs one more writing, and nothing else.
    fs::write(site.machine.private(NAME, "sealed"), [0xff, 0, b'\n']).unwrap();
    site.machine.agent(&["unhold", NAME]).ok();
    site.machine.tick().ok();
    assert_eq!(site.page("").as_deref(), Some("two"));
    assert!(site.left().is_empty());
}

#[test]
fn missing_directories_above_a_target_are_made() {
    for mode in ["checkout", "branches", "atomic"] {
        let site = Publisher::new(mode, "");
        fs::remove_dir(site.machine.path("targets")).unwrap();
        let check = site.machine.agent(&["check", "--offline"]);
        assert!(check.stdout.contains("publishes to"), "{}", check.stdout);
        site.machine.tick().ok();
        assert_eq!(site.machine.state(NAME), "current", "{mode}");
        let made = fs::metadata(site.machine.path("targets")).unwrap();
        assert_eq!(made.permissions().mode() & 0o7777, 0o755);
    }
}
