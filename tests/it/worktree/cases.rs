//! One promise each: local work in the way, links, hard links, permissions, submodules, leftovers.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use pmpy::domain::repository::change::RepoPath;
use pmpy::system::worktree::{ApplyRefusal, Worktree};

use super::{Lab, Leaf, Tree, expected, file, link, set_mode, snapshot, tree};

/// A worktree at the first tree, and a commit of the second.
fn between(old: &Tree, new: &Tree) -> (Lab, pmpy::domain::git::Commit) {
    let lab = Lab::new();
    let [from, to] = lab.commits([old, new]);
    lab.check_out(&from);
    (lab, to)
}

#[test]
fn a_local_change_in_the_way_stops_everything_and_nothing_is_touched() {
    let old = tree([("a", file("1")), ("b", file("1")), ("c", file("1")), ("d/e", file("1"))]);
    let new = tree([("a", file("2")), ("b", file("2")), ("d/f", file("2"))]);
    let (lab, to) = between(&old, &new);
    fs::write(lab.at("b"), "mine").unwrap();
    fs::write(lab.at("c"), "mine").unwrap();
    fs::write(lab.at("d/e"), "m").unwrap();
    assert_eq!(lab.dirty(&to), ["b", "c", "d/e"]);
}

#[test]
fn local_changes_elsewhere_stop_nothing() {
    let old = tree([("a", file("1")), ("b", file("1"))]);
    let new = tree([("a", file("2")), ("b", file("1"))]);
    let (lab, to) = between(&old, &new);
    fs::write(lab.at("b"), "mine").unwrap();
    fs::write(lab.at("untracked"), "mine").unwrap();
    lab.update(&to).unwrap();
    assert_eq!(lab.differences(), " M b\n?? untracked");
    assert_eq!(fs::read(lab.at("b")).unwrap(), b"mine");
}

#[test]
fn an_untracked_file_in_the_way_is_fine_only_when_it_is_what_comes() {
    let old = tree([(".gitignore", file("ignored\n"))]);
    let mut new = old.clone();
    new.extend(tree([("x", file("new")), ("ignored", file("new")), ("l", link("new"))]));
    let (lab, to) = between(&old, &new);
    fs::write(lab.at("x"), "mine").unwrap();
    assert_eq!(lab.dirty(&to), ["x"]);
    fs::write(lab.at("x"), "new").unwrap();
    fs::write(lab.at("ignored"), "mine").unwrap();
    assert_eq!(lab.dirty(&to), ["ignored"]);
    fs::write(lab.at("ignored"), "new").unwrap();
    // A file with the link's target as its content has the link's id and is still no link.
    fs::write(lab.at("l"), "new").unwrap();
    assert_eq!(lab.dirty(&to), ["l"]);
    fs::remove_file(lab.at("l")).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
    assert_eq!(lab.differences(), "");
}

#[test]
fn things_that_are_no_files_are_never_replaced() {
    let (lab, to) = between(&tree([("k", file("1"))]), &tree([("k", file("1")), ("p", file("2"))]));
    let pipe = lab.at("p");
    let bits = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, bits, 0).unwrap();
    assert_eq!(lab.dirty(&to), ["p"]);
}

#[test]
fn a_staged_difference_on_a_changed_path_is_local_work() {
    let old = tree([("a", file("1")), ("b", file("1")), ("c", file("1"))]);
    let new = tree([("a", file("2")), ("b", file("2")), ("c", file("1")), ("n", file("2"))]);
    let (lab, to) = between(&old, &new);
    // Staged, and then the worktree put back: only the index still has it.
    fs::write(lab.at("a"), "staged").unwrap();
    lab.git(&["add", "a"]);
    fs::write(lab.at("a"), "1").unwrap();
    lab.git(&["rm", "--cached", "--quiet", "b"]);
    fs::write(lab.at("n"), "staged").unwrap();
    lab.git(&["add", "n"]);
    fs::remove_file(lab.at("n")).unwrap();
    assert_eq!(lab.dirty(&to), ["a", "b", "n"]);
    lab.git(&["reset", "--quiet", "--", "a", "b", "n"]);
    fs::write(lab.at("c"), "staged").unwrap();
    lab.git(&["add", "c"]);
    lab.update(&to).unwrap();
    assert_eq!(lab.differences(), "M  c");
}

#[test]
fn deleted_files_are_restored_and_permissions_are_reset() {
    let old = tree([("a", file("1")), ("b", file("1")), ("c/d", file("1")), ("e", file("1"))]);
    let new = tree([("a", file("2")), ("b", file("2")), ("e", Leaf::Executable("1".to_owned()))]);
    let (lab, to) = between(&old, &new);
    fs::remove_file(lab.at("a")).unwrap();
    set_mode(&lab.at("b"), 0o777);
    fs::remove_dir_all(lab.at("c")).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
    assert_eq!(lab.differences(), "");
}

#[test]
fn somebodys_directory_in_the_way_of_a_file_is_kept_and_an_empty_one_is_not() {
    let old = tree([("d/tracked", file("1")), ("k", file("1"))]);
    let new = tree([("d", file("2")), ("k", file("1"))]);
    let (lab, to) = between(&old, &new);
    fs::create_dir_all(lab.at("d/sub/empty")).unwrap();
    fs::write(lab.at("d/sub/mine"), "mine").unwrap();
    assert_eq!(lab.dirty(&to), ["d/sub/mine"]);
    fs::remove_file(lab.at("d/sub/mine")).unwrap();
    fs::create_dir_all(lab.at("d/sub/other/.git")).unwrap();
    fs::write(lab.at("d/sub/other/.git/HEAD"), "ref: refs/heads/main\n").unwrap();
    assert_eq!(lab.dirty(&to), ["d/sub/other/.git/HEAD"]);
    fs::remove_file(lab.at("d/sub/other/.git/HEAD")).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
}

#[test]
fn a_file_is_never_written_through_a_link_of_an_earlier_push() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    let (lab, to) = between(&tree([("k", file("1"))]), &tree([("nd", link(target))]));
    lab.update(&to).unwrap();
    let [next] = lab.commits([&tree([("nd/x", file("evil"))])]);
    lab.update(&next).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(snapshot(&lab.repo()), expected(&tree([("nd/x", file("evil"))])));
    assert_eq!(lab.differences(), "");
}

#[test]
fn a_link_that_somebody_put_in_place_of_a_directory_is_local_work() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), "1").unwrap();
    fs::write(outside.path().join("gone"), "1").unwrap();
    let old = tree([("d/a", file("1")), ("d/gone", file("1"))]);
    let (lab, to) = between(&old, &tree([("d/a", file("2"))]));
    fs::remove_dir_all(lab.at("d")).unwrap();
    symlink(outside.path(), lab.at("d")).unwrap();
    assert_eq!(lab.dirty(&to), ["d"]);
    // Where everything below goes anyway, the link and what it leads to are left alone.
    let [none] = lab.commits([&tree([("k", file("1"))])]);
    lab.update(&none).unwrap();
    assert!(lab.at("d").is_symlink());
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn a_hard_link_elsewhere_keeps_its_content_and_its_permissions() {
    let old = tree([("a", file("1")), ("b", file("1")), ("gone", file("1"))]);
    let new = tree([("a", file("2")), ("b", Leaf::Executable("1".to_owned()))]);
    let (lab, to) = between(&old, &new);
    let victim = lab.path("victim");
    fs::hard_link(lab.at("a"), &victim).unwrap();
    fs::hard_link(lab.at("b"), lab.path("other")).unwrap();
    // Two tracked paths may share one file as well.
    fs::remove_file(lab.at("gone")).unwrap();
    fs::hard_link(&victim, lab.at("gone")).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), b"1");
    assert_eq!(fs::metadata(lab.path("other")).unwrap().mode() & 0o7777, 0o644);
    assert_eq!(snapshot(&lab.repo()), expected(&new));
}

#[test]
fn a_running_script_keeps_the_file_that_it_reads() {
    let script = |text: &str| tree([("work.sh", Leaf::Executable(text.to_owned()))]);
    let (lab, to) = between(&script("old"), &script("new"));
    let open = fs::File::open(lab.at("work.sh")).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(std::io::read_to_string(open).unwrap(), "old");
    assert_eq!(fs::read(lab.at("work.sh")).unwrap(), b"new");
}

#[test]
fn a_directory_in_which_something_stays_is_not_made_anew() {
    let (lab, to) = between(&tree([("d/e/a", file("1"))]), &tree([("d/e/b", file("1"))]));
    let before = fs::metadata(lab.at("d/e")).unwrap().ino();
    lab.update(&to).unwrap();
    assert_eq!(fs::metadata(lab.at("d/e")).unwrap().ino(), before);
    assert_eq!(snapshot(&lab.repo()), expected(&tree([("d/e/b", file("1"))])));
}

#[test]
fn what_is_already_there_is_not_written_again() {
    let new = tree([("a", file("2")), ("b", file("2"))]);
    let (lab, to) = between(&tree([("a", file("1"))]), &new);
    fs::write(lab.at("b"), "2").unwrap();
    set_mode(&lab.at("b"), 0o644);
    let before = fs::metadata(lab.at("b")).unwrap().ino();
    lab.update(&to).unwrap();
    assert_eq!(fs::metadata(lab.at("b")).unwrap().ino(), before);
    assert_eq!(lab.differences(), "");
}

#[test]
fn a_submodule_is_an_empty_directory_and_somebodys_content_in_it_stays() {
    let old = tree([("s", file("1")), ("gone", Leaf::Submodule), ("kept", Leaf::Submodule)]);
    let new = tree([("s", Leaf::Submodule), ("gone", file("2")), ("d/s", Leaf::Submodule)]);
    let (lab, to) = between(&old, &new);
    fs::write(lab.at("kept/mine"), "mine").unwrap();
    let from = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let said: Vec<String> =
        lab.change(Some(&from), &to).submodules().map(ToString::to_string).collect();
    assert_eq!(said, ["d/s", "s"]);
    lab.update(&to).unwrap();
    assert_eq!(lab.differences(), "?? kept/");
    fs::remove_dir_all(lab.at("kept")).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
}

#[test]
fn filters_and_line_endings_of_the_repository_change_nothing() {
    let attributes = "* text eol=crlf ident filter=evil\n";
    let new = tree([(".gitattributes", file(attributes)), ("a", file("$Id$\nline\n"))]);
    let (lab, to) = between(&tree([("k", file("1"))]), &new);
    lab.git(&["config", "filter.evil.smudge", "touch ../ran; cat"]);
    lab.git(&["config", "filter.evil.required", "true"]);
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
    assert!(!lab.path("ran").exists());
}

#[test]
fn a_repository_with_sha256_is_updated_as_well() {
    let lab = Lab::with_format("sha256");
    let old = tree([("a", file("1")), ("d/b", file("1"))]);
    let new = tree([("a", file("2")), ("d/c", link("b"))]);
    let [from, to] = lab.commits([&old, &new]);
    lab.check_out(&from);
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&new));
    assert_eq!(lab.differences(), "");
}

#[test]
fn a_damaged_index_is_reported_and_can_be_rebuilt() {
    let (lab, to) = between(&tree([("a", file("1"))]), &tree([("a", file("2")), ("b", file("2"))]));
    for damage in [b"".as_slice(), b"DIRC garbage", &[0; 500]] {
        fs::write(lab.at(".git/index"), damage).unwrap();
        let git = lab.open();
        let error = git.index().err().expect("the index is damaged").to_string();
        assert!(error.contains(".git/index"), "{error}");
        let head = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
        git.rebuild_index(&git.tree_of(&head).unwrap()).unwrap();
        assert_eq!(lab.differences(), "");
    }
    lab.update(&to).unwrap();
    assert_eq!(lab.differences(), "");
}

#[test]
fn an_index_that_is_locked_is_reported_with_what_to_do() {
    let (lab, to) = between(&tree([("a", file("1"))]), &tree([("a", file("2"))]));
    let git = lab.open();
    let head = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
    fs::write(lab.at(".git/index.lock"), "").unwrap();
    let error = git.update_index(&lab.change(Some(&head), &to), &[]).unwrap_err().to_string();
    assert!(error.contains("hint: "), "{error}");
}

#[test]
fn leftovers_are_swept_and_nothing_else_is() {
    let (lab, to) = between(&tree([("d/a", file("1"))]), &tree([("d/a", file("2"))]));
    let leftover = ".pmpy-tmp-0000002a";
    for dir in ["", "d/", "other/deep/", ".git/", ".temp/", "nested/"] {
        fs::create_dir_all(lab.at(dir)).unwrap();
        fs::write(lab.at(&format!("{dir}{leftover}")), "half").unwrap();
    }
    fs::create_dir(lab.at("nested/.git")).unwrap();
    for mine in [".pmpy-tmp-", ".pmpy-tmp-mine", "d/x.pmpy-tmp-0000002a"] {
        fs::write(lab.at(mine), "mine").unwrap();
    }
    fs::create_dir(lab.at("d/.pmpy-tmp-00000001")).unwrap();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join(leftover), "mine").unwrap();
    symlink(outside.path(), lab.at("link")).unwrap();
    let left = |dirs: &[&str]| -> Vec<String> {
        let all = dirs.iter().map(|dir| format!("{dir}{leftover}"));
        all.filter(|path| lab.at(path).exists()).collect()
    };

    let head = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let worktree = Worktree::open(&lab.repo()).unwrap();
    worktree.sweep(&lab.change(Some(&head), &to)).unwrap();
    assert_eq!(
        left(&["", "d/", "other/deep/"]),
        [leftover.to_owned(), format!("other/deep/{leftover}")]
    );
    worktree.sweep_all().unwrap();
    assert!(left(&["", "d/", "other/deep/"]).is_empty());
    assert_eq!(left(&[".git/", ".temp/", "nested/", "link/"]).len(), 4);
    for mine in [".pmpy-tmp-", ".pmpy-tmp-mine", "d/x.pmpy-tmp-0000002a", "d/.pmpy-tmp-00000001"] {
        assert!(lab.at(mine).exists(), "{mine}");
    }
}

#[test]
fn what_somebody_changes_between_the_look_and_the_write_is_kept() {
    let old = tree([("a", file("1")), ("gone", file("1"))]);
    let (lab, to) = between(&old, &tree([("a", file("2")), ("n", file("2"))]));
    let head = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let change = lab.change(Some(&head), &to);
    let git = lab.open();
    let worktree = Worktree::open(&lab.repo()).unwrap();
    for (path, content) in [("gone", "1"), ("a", "1"), ("n", "")] {
        let ready = worktree
            .classify(&change, &git, &|path| change.at(path).and_then(|op| op.old).map(Into::into))
            .unwrap();
        fs::write(lab.at(path), "mine").unwrap();
        let error = format!("{:#}", worktree.apply(&ready, &git).unwrap_err());
        assert!(error.contains(path), "{error}");
        assert_eq!(fs::read(lab.at(path)).unwrap(), b"mine");
        if content.is_empty() {
            fs::remove_file(lab.at(path)).unwrap();
        } else {
            fs::write(lab.at(path), content).unwrap();
        }
    }
}

#[test]
fn what_fails_before_all_content_is_on_disk_leaves_the_old_tree_whole() {
    let old = tree([("a", file("1")), ("gone", file("1")), ("z", file("1"))]);
    let (lab, to) = between(&old, &tree([("a", file("2")), ("d/n", file("2")), ("z", file("3"))]));
    let head = lab.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let change = lab.change(Some(&head), &to);
    let git = lab.open();
    let worktree = Worktree::open(&lab.repo()).unwrap();
    let staged = |path: &RepoPath| change.at(path).and_then(|op| op.old).map(Into::into);
    let ready = worktree.classify(&change, &git, &staged).unwrap();
    let lost = lab.blob(b"3").to_string();
    fs::remove_file(lab.at(&format!(".git/objects/{}/{}", &lost[..2], &lost[2..]))).unwrap();
    let error = format!("{:#}", worktree.apply(&ready, &git).unwrap_err());
    assert!(error.contains("\"z\"") && error.contains(&lost), "{error}");
    let mut left = snapshot(&lab.repo());
    assert_eq!(left.remove(Path::new("d")), Some(('d', 0, Vec::new())));
    assert_eq!(left, expected(&old));
}

#[test]
fn an_immutable_file_is_found_before_the_first_write() {
    let (lab, to) = between(&tree([("a", file("1")), ("b", file("1"))]), &tree([("a", file("2"))]));
    let fixed =
        rustix::fs::open(lab.at("b"), rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
            .unwrap();
    let plain = rustix::fs::ioctl_getflags(&fixed).unwrap();
    rustix::fs::ioctl_setflags(&fixed, plain | rustix::fs::IFlags::IMMUTABLE)
        .expect("only root may, and only where the file system knows it, as ext4 does");
    let before = snapshot(&lab.repo());
    let outcome = lab.update(&to);
    rustix::fs::ioctl_setflags(&fixed, plain).unwrap();
    let Err(ApplyRefusal::Failed(error)) = outcome else { panic!("{outcome:?}") };
    assert!(format!("{error:#}").contains("\"b\""), "{error:#}");
    assert_eq!(snapshot(&lab.repo()), before);
}

#[test]
fn a_change_of_more_than_256_files_is_applied_just_the_same() {
    let many = |content: &str| -> Tree {
        (0..600).map(|n| (format!("d{}/f{n}", n % 7), file(&format!("{content}{n}")))).collect()
    };
    let (lab, to) = between(&many("old"), &many("new"));
    lab.update(&to).unwrap();
    assert_eq!(snapshot(&lab.repo()), expected(&many("new")));
    assert_eq!(lab.differences(), "");
}

#[test]
fn paths_that_are_no_utf8_are_written_and_shown() {
    let lab = Lab::new();
    let from = lab.raw_tree(&[]);
    let to = lab.raw_tree(&[("100644", b"\xff\xe9", lab.blob(b"x"))]);
    let git = lab.open();
    let change =
        pmpy::domain::repository::change::TreeChange::between(Some(from), to, &git).unwrap();
    let worktree = Worktree::open(&lab.repo()).unwrap();
    let ready = worktree.classify(&change, &git, &|_| None).unwrap();
    let written = worktree.apply(&ready, &git).unwrap();
    assert_eq!(written[0].path, RepoPath::new(b"\xff\xe9"));
    assert_eq!(written[0].path.to_string(), "\\xff\\xe9");
    assert_eq!(fs::read(lab.repo().join(Path::new(super::os(b"\xff\xe9")))).unwrap(), b"x");
}

#[test]
fn new_files_and_directories_get_the_modes_that_git_gives() {
    let new = tree([
        ("page", file("2")),
        ("tool", Leaf::Executable("2".to_owned())),
        ("d/e/page", file("2")),
        ("module", Leaf::Submodule),
    ]);
    let access = |lab: &Lab| {
        let mut list = std::process::Command::new("getfacl");
        let found = list.args(["-R", "-n", "."]).current_dir(lab.repo()).output().unwrap();
        assert!(found.status.success(), "{found:?}");
        let text = String::from_utf8(found.stdout).unwrap();
        let parts = text.split("\n\n").filter(|part| !part.starts_with("# file: .git"));
        parts.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    for acl in ["", "d:u:daemon:rwx", "d:g:daemon:rwx,d:o::---", "d:u::rwx,d:g::---,d:o::---"] {
        let [by_git, by_us] = [(); 2].map(|()| {
            let (lab, to) = between(&tree([("k", file("1"))]), &new);
            // New entries get the group of the directory.
            std::os::unix::fs::chown(lab.repo(), None, Some(1)).unwrap();
            set_mode(&lab.repo(), 0o2755);
            if !acl.is_empty() {
                let mut set = std::process::Command::new("setfacl");
                assert!(set.args(["-m", acl]).arg(lab.repo()).status().unwrap().success());
            }
            (lab, to)
        });
        by_git.0.check_out(&by_git.1);
        by_us.0.update(&by_us.1).unwrap();
        assert_eq!(access(&by_us.0), access(&by_git.0), "{acl}");
        assert!(access(&by_us.0).iter().any(|part| part.contains("# file: d/e/page")));
    }
}
