//! Every kind and condition of clone that git can make: each is worked on like any other, or named with
//! what to do, and then nothing of it is written.

use std::fs;
use std::path::Path;

use crate::sandbox::{NOTES_ITS_RUNS, Ran, Sandbox, set_mode, text};

fn machine() -> Sandbox {
    let machine = Sandbox::with("ops", &[("work.sh", NOTES_ITS_RUNS), ("page", "one\n")]);
    machine.tick().ok();
    machine
}

/// Runs git in the clone of `ops`; a command that stops half-way may well fail.
fn in_clone(machine: &Sandbox, arguments: &[&str]) {
    Ran::of(machine.command("git").current_dir(machine.clone_of("ops")).args(arguments));
}

/// Two local commits that cannot be put upon one another: `main` and `other`.
fn quarrel(machine: &Sandbox) {
    for (branch, page) in [("other", "theirs\n"), ("main", "ours\n")] {
        in_clone(machine, &["switch", "--quiet", "--force-create", branch, "origin/main"]);
        fs::write(machine.clone_of("ops").join("page"), page).unwrap();
        in_clone(machine, &["commit", "--quiet", "--all", "--message", page]);
    }
}

/// Every file of the clone and of its `.git`, with its content, but for what the agent itself keeps
/// there and what only says what was fetched.
fn content(machine: &Sandbox) -> Vec<(String, Vec<u8>)> {
    let clone = machine.clone_of("ops");
    let ours = ["pmpy/", ".temp/", "refs/remotes/", "objects/", "FETCH_HEAD", "shallow"];
    let files = machine.files_below(&clone).into_iter().map(|file| text(&file).to_owned());
    files
        .filter(|file| !ours.iter().any(|part| file.contains(part)))
        .map(|file| (file.clone(), fs::read(clone.join(file)).unwrap_or_default()))
        .collect()
}

#[test]
fn what_a_person_has_begun_is_named_with_what_ends_it_and_left_alone() {
    type Begin = fn(&Sandbox);
    let begun: [(&str, &[&str], Begin); 5] = [
        ("merge", &["merge", "--abort"], |machine| in_clone(machine, &["merge", "other"])),
        ("cherry-pick", &["cherry-pick", "--abort"], |machine| {
            in_clone(machine, &["cherry-pick", "other"]);
        }),
        ("revert", &["revert", "--abort"], |machine| {
            fs::write(machine.clone_of("ops").join("page"), "later\n").unwrap();
            in_clone(machine, &["commit", "--quiet", "--all", "--message", "later"]);
            in_clone(machine, &["revert", "--no-edit", "HEAD~1"]);
        }),
        ("rebase", &["rebase", "--abort"], |machine| in_clone(machine, &["rebase", "other"])),
        ("git am", &["am", "--abort"], |machine| {
            in_clone(machine, &["format-patch", "--quiet", "-1", "-o", "../..", "other"]);
            in_clone(machine, &["am", "../../0001-theirs.patch"]);
        }),
    ];
    for (what, abort, begin) in begun {
        let machine = machine();
        quarrel(&machine);
        begin(&machine);
        machine.push("ops", &[("page", "two\n"), ("new", "two\n")]);
        let before = content(&machine);
        for _ in 0..2 {
            machine.tick().exits(1);
            let row = machine.row("ops");
            assert_eq!(row["state"], "broken", "{what}: {row:#}");
            let reason = row["reason"].as_str().unwrap();
            assert!(reason.contains(&format!("a {what} is in progress")), "{row:#}");
            assert!(reason.contains(&abort.join(" ")), "{row:#}");
        }
        assert_eq!(content(&machine), before, "{what}");
        in_clone(&machine, abort);
        machine.tick().exits(1);
        assert_eq!(machine.state("ops"), "diverged", "{what}");
    }
}

#[test]
fn an_index_of_a_kind_that_only_git_knows_is_reported_with_what_makes_it_plain() {
    let machine = machine();
    in_clone(&machine, &["update-index", "--split-index"]);
    let revision = machine.push("ops", &[("page", "two\n")]);
    let before = content(&machine);
    machine.tick().exits(1);
    let row = machine.row("ops");
    assert!(row["reason"].to_string().contains("git update-index --no-split-index"), "{row:#}");
    assert_eq!(content(&machine), before);
    in_clone(&machine, &["update-index", "--no-split-index"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert_eq!(machine.differences("ops"), "");
}

#[test]
fn other_kinds_of_indexes_and_clones_follow_like_any_other() {
    let kinds: [&[&str]; 6] = [
        &["update-index", "--index-version", "4"],
        &["update-index", "--force-untracked-cache"],
        &["config", "extensions.worktreeConfig", "true"],
        &["config", "core.autocrlf", "true"],
        &["worktree", "add", "--quiet", "-b", "beside", "../../beside"],
        &["pack-refs", "--all"],
    ];
    for kind in kinds {
        let machine = machine();
        machine.git(&machine.clone_of("ops"), kind);
        for page in ["two\n", "three\n"] {
            let revision = machine.push("ops", &[("page", page)]);
            machine.tick().ok();
            assert_eq!(machine.lastaction("ops"), Some(revision), "{kind:?}");
            assert_eq!(machine.state("ops"), "current", "{kind:?}");
            assert_eq!(fs::read_to_string(machine.clone_of("ops").join("page")).unwrap(), page);
        }
    }
}

#[test]
fn a_branch_that_a_person_checked_out_is_followed_unless_another_is_configured() {
    let machine = machine();
    in_clone(&machine, &["switch", "--quiet", "--create", "trial"]);
    in_clone(&machine, &["push", "--quiet", "origin", "trial"]);
    let (head, newest) = (machine.head("ops"), machine.push("ops", &[("page", "two\n")]));
    machine.tick().ok();
    assert_eq!((machine.state("ops"), machine.head("ops")), ("current".to_owned(), head));
    machine.configure("[repo.ops]\nbranch = \"main\"\n");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(newest));
    assert_eq!(machine.row("ops")["branch"], "main");
}

#[test]
fn a_partial_clone_follows_like_any_other_and_asks_no_other_remote() {
    let machine = machine();
    machine.git(&machine.server("ops"), &["config", "uploadpack.allowFilter", "true"]);
    fs::remove_dir_all(machine.clone_of("ops")).unwrap();
    let url = format!("file://{}", text(&machine.server("ops")));
    machine.git(&machine.root(), &["clone", "--quiet", "--filter=blob:none", &url, "ops"]);
    machine.tick().ok();
    let canary = machine.path("canary");
    let helper = format!("ext::sh -c touch% {}", text(&canary));
    machine.configure(&format!("[repo.ops]\nurl = \"{}\"\n", text(&machine.server("ops"))));
    machine.git(&machine.clone_of("ops"), &["config", "remote.origin.url", &helper]);
    let revision = machine.push("ops", &[("page", "two\n"), ("new", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    assert!(!canary.exists());
}

#[test]
fn what_large_file_storage_left_in_git_is_written_as_it_is() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12345\n";
    let machine = machine();
    let attributes = "*.bin filter=lfs diff=lfs merge=lfs -text\n";
    machine.push("ops", &[(".gitattributes", attributes), ("film.bin", pointer)]);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(fs::read_to_string(machine.clone_of("ops").join("film.bin")).unwrap(), pointer);
}

/// What `status -v`, `explain` and `check` say, and the row of `status --json`.
fn reported(machine: &Sandbox) -> ([String; 3], serde_json::Value) {
    let status = machine.agent(&["status", "-v"]).ok().stdout;
    let explain = machine.agent(&["explain", "ops"]).ok().stdout;
    let check = machine.agent(&["check", "--offline"]).ok().stdout;
    ([status, explain, check], machine.row("ops")["gaps"].clone())
}

#[test]
fn submodules_and_lfs_pointers_are_named_with_their_count_and_the_first() {
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 12345\n",
        "0".repeat(64)
    );
    let target = "{}/site";
    for (mode, target) in
        [("work", ""), ("in-place", ""), ("checkout", target), ("branches", target)]
    {
        let machine = machine();
        let target = target.replace("{}", text(&machine.path("")));
        let target = if target.is_empty() { target } else { format!("target = \"{target}\"\n") };
        machine.configure(&format!("[repo.ops]\nmode = \"{mode}\"\n{target}"));
        machine.tick().ok();
        let (texts, gaps) = reported(&machine);
        assert!(
            texts.iter().all(|it| !it.contains("ubmodule") && !it.contains("LFS")),
            "{texts:?}"
        );
        assert!(gaps.is_null(), "{gaps}");

        machine.push_with("ops", |desk| {
            let elsewhere = format!("160000,{},b/sub", "1234567890".repeat(4));
            machine.git(desk, &["update-index", "--add", "--cacheinfo", &elsewhere]);
            fs::create_dir_all(desk.join("b/sub")).unwrap();
            fs::write(desk.join("b.bin"), &pointer).unwrap();
            fs::write(desk.join("a.bin"), &pointer).unwrap();
        });
        machine.tick().ok();
        let check = |paths: [&str; 2]| {
            let (texts, gaps) = reported(&machine);
            for text in texts {
                assert!(
                    text.contains("1 submodule is left empty") && text.contains(paths[0]),
                    "{text}"
                );
                assert!(text.contains("LFS pointer") && text.contains(paths[1]), "{text}");
            }
            gaps
        };
        let gaps = check(["b/sub", "the first is a.bin"]);
        assert_eq!(
            (&gaps["submodules"]["count"], &gaps["submodules"]["first"]),
            (&1.into(), &"b/sub".into())
        );
        assert_eq!(gaps["lfs_pointers"]["count"], 2);

        // A push of something else changes nothing, and one that takes a pointer away does.
        machine.push("ops", &[("page", "three\n")]);
        machine.tick().ok();
        check(["b/sub", "the first is a.bin"]);
        machine.push_with("ops", |desk| fs::remove_file(desk.join("a.bin")).unwrap());
        machine.tick().ok();
        check(["b/sub", "1 file is an LFS pointer"]);
    }
}

#[test]
fn names_that_differ_in_case_or_composition_only_are_different_files() {
    let machine = machine();
    let names = ["Readme", "README", "caf\u{e9}", "cafe\u{301}"];
    machine.push_with("ops", |desk| {
        for name in names {
            fs::write(desk.join(name), name).unwrap();
        }
    });
    machine.tick().ok();
    // One of each pair becomes a directory, the other one goes.
    machine.push_with("ops", |desk| {
        for (name, other) in [("Readme", "README"), ("cafe\u{301}", "caf\u{e9}")] {
            fs::remove_file(desk.join(name)).unwrap();
            fs::remove_file(desk.join(other)).unwrap();
            fs::create_dir(desk.join(name)).unwrap();
            fs::write(desk.join(name).join(other), "inside").unwrap();
        }
    });
    machine.tick().ok();
    let clone = machine.clone_of("ops");
    assert_eq!(machine.state("ops"), "current");
    assert_eq!(machine.differences("ops"), "");
    assert_eq!(fs::read_to_string(clone.join("Readme/README")).unwrap(), "inside");
    assert!(!clone.join("caf\u{e9}").exists());
}

/// Changes one byte of `file`.
fn damage(file: &Path, at: usize) {
    set_mode(file, 0o644);
    let mut bytes = fs::read(file).unwrap();
    let at = at % bytes.len();
    bytes[at] ^= 0x41;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_pack_that_is_damaged_on_the_server_changes_nothing_here() {
    let machine = machine();
    let (server, head) = (machine.server("ops"), machine.head("ops"));
    let mut revision = String::new();
    for number in 0..20 {
        revision = machine.push("ops", &[("page", &format!("page {number}\n").repeat(50))]);
    }
    machine.git(&server, &["repack", "-adq"]);
    let pack = fs::read_dir(server.join("objects/pack")).unwrap();
    let pack = pack.map(|it| it.unwrap().path()).find(|it| it.extension() == Some("pack".as_ref()));
    let pack = pack.unwrap();
    let whole = fs::read(&pack).unwrap();
    let before = content(&machine);
    let mut refused = 0;
    for at in (20..whole.len() - 20).step_by(whole.len() / 12) {
        damage(&pack, at);
        let ran = machine.tick();
        assert!(matches!(ran.code, Some(0 | 1)), "byte {at}: {ran}");
        if machine.lastaction("ops").as_ref() != Some(&revision) {
            refused += 1;
            assert_eq!(machine.head("ops"), head, "byte {at}");
            assert_eq!(content(&machine), before, "byte {at}");
            let row = machine.row("ops");
            assert!(["unreachable", "failing"].iter().any(|it| row["state"] == *it), "{row:#}");
        }
        fs::write(&pack, &whole).unwrap();
    }
    assert!(refused > 0, "no damage was in what the clone lacked");
    // A named one does not wait for anything.
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
    machine.git(&machine.clone_of("ops"), &["fsck", "--strict"]);
}
