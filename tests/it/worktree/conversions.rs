//! Files that git wrote in another form than their blobs have: what git holds for unchanged is replaced,
//! and what somebody changed is kept.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pmpy::domain::repository::change::RepoPath;
use pmpy::system::worktree::ApplyRefusal;

use super::{Lab, Tree, file, tree};

/// A clone with the tree `old` checked out under the configuration `settings`, and a commit of `new`.
fn between(settings: &[(&str, &str)], old: &Tree, new: &Tree) -> (Lab, pmpy::domain::git::Commit) {
    let lab = Lab::new();
    let [from, to] = lab.commits([old, new]);
    for (key, value) in settings {
        lab.git(&["config", key, value]);
    }
    lab.check_out(&from);
    (lab, to)
}

fn attributes(line: &str, page: &str) -> Tree {
    tree([(".gitattributes", file(line)), ("page", file(page)), ("gone", file(page))])
}

/// `new` without the file `gone`.
fn updated(line: &str) -> Tree {
    let mut new = attributes(line, "two\n");
    new.remove("gone");
    new
}

fn set_time(path: &Path, time: SystemTime) {
    File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
}

fn holds(lab: &Lab, path: &str) -> String {
    fs::read_to_string(lab.at(path)).unwrap()
}

/// Makes the index as young as the files, so that stat data alone proves nothing.
fn make_racy(lab: &Lab) {
    set_time(&lab.at(".git/index"), lab.at("page").metadata().unwrap().modified().unwrap());
}

#[test]
fn files_in_gits_form_are_replaced_however_git_made_it() {
    for (settings, line, form) in [
        (vec![], "* text eol=crlf\n", "one\r\n"),
        (vec![("core.autocrlf", "true")], "", "one\r\n"),
        (vec![("core.eol", "crlf")], "* text\n", "one\r\n"),
        (vec![], "page ident\ngone ident\n", "one\n"),
        (vec![], "page text working-tree-encoding=UTF-16LE\n", "one\n"),
        (
            vec![("filter.rot.smudge", "tr a-z b-za"), ("filter.rot.clean", "tr b-za a-z")],
            "page filter=rot\n",
            "pof\n",
        ),
    ] {
        let (lab, to) = between(&settings, &attributes(line, "one\n"), &updated(line));
        let bytes = fs::read(lab.at("page")).unwrap();
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        assert_eq!(text, form, "{line}");
        // An index that is younger than the files, as after any later git command.
        set_time(&lab.at("page"), UNIX_EPOCH);
        set_time(&lab.at("gone"), UNIX_EPOCH);
        lab.git(&["status"]);
        lab.update(&to).unwrap_or_else(|refusal| panic!("{line}: {refusal}"));
        assert_eq!(holds(&lab, "page"), "two\n");
        assert!(!lab.at("gone").exists());
    }
}

#[test]
fn an_expanded_ident_is_no_local_change() {
    let line = "page ident\n";
    let old = attributes(line, "$Id$ one\n");
    let (lab, to) = between(&[], &old, &updated(line));
    assert!(holds(&lab, "page").starts_with("$Id: "));
    lab.update(&to).unwrap();
    assert_eq!(holds(&lab, "page"), "two\n");
}

#[test]
fn line_endings_are_known_for_gits_also_where_stat_data_proves_nothing() {
    let line = "* text eol=crlf\n";
    let old = attributes(line, "one\n");
    // In the moment of the checkout, and after a touch or a chown -R.
    let (lab, to) = between(&[], &old, &updated(line));
    make_racy(&lab);
    lab.update(&to).unwrap();
    assert_eq!(holds(&lab, "page"), "two\n");

    let (lab, to) = between(&[], &old, &updated(line));
    set_time(&lab.at("page"), SystemTime::now());
    std::os::unix::fs::chown(lab.at("gone"), None, None).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(holds(&lab, "page"), "two\n");
}

#[test]
fn what_somebody_changed_in_a_converted_file_is_kept_until_the_remedy() {
    let line = "* text eol=crlf\n";
    for mine in ["one\r\nmine\r\n", "onf\r\n", "mine\n", ""] {
        let (lab, to) = between(&[], &attributes(line, "one\n"), &updated(line));
        fs::write(lab.at("page"), mine).unwrap();
        assert_eq!(lab.dirty(&to), ["page"], "{mine:?}");
        lab.git(&["checkout", "--quiet", "HEAD", "--", "page"]);
        lab.update(&to).unwrap();
        assert_eq!(holds(&lab, "page"), "two\n");
    }
}

#[test]
fn other_line_endings_where_git_converts_nothing_are_somebodys_work() {
    let (lab, to) = between(&[], &attributes("", "one\n"), &updated(""));
    fs::write(lab.at("page"), "one\r\n").unwrap();
    assert_eq!(lab.dirty(&to), ["page"]);
}

#[test]
fn a_change_that_left_no_trace_in_the_stat_data_is_found_by_the_racy_rule() {
    // Without the change time, a change of the same size at the same time leaves no trace.
    let trust = [("core.trustctime", "false")];
    let (lab, to) = between(&trust, &attributes("", "one\n"), &updated(""));
    let time = UNIX_EPOCH + Duration::from_secs(1_000_000);
    set_time(&lab.at("page"), time);
    lab.git(&["status"]);
    fs::write(lab.at("page"), "onf\n").unwrap();
    set_time(&lab.at("page"), time);
    set_time(&lab.at(".git/index"), time);
    assert_eq!(lab.dirty(&to), ["page"]);
    assert_eq!(lab.git(&["diff", "--name-only"]), "page", "git sees it too");
}

#[test]
fn what_git_lfs_brought_is_replaced_and_what_somebody_changed_in_it_is_kept() {
    let large = "the large file\n";
    let sha256 = ring::digest::digest(&ring::digest::SHA256, large.as_bytes());
    let digits: String = sha256.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let pointer = format!(
        "version https://git-lfs.github.com/spec/v1\noid sha256:{digits}\nsize {}\n",
        large.len()
    );
    let line = "page filter=lfs\ngone filter=lfs\n";
    let (lab, to) = between(&[], &attributes(line, &pointer), &updated(line));
    // As `git lfs pull` in a work.sh, whose index entry may be as young as the index.
    fs::write(lab.at("page"), large).unwrap();
    fs::write(lab.at("gone"), "the large filf\n").unwrap();
    assert_eq!(lab.dirty(&to), ["gone"]);
    fs::write(lab.at("gone"), large).unwrap();
    lab.update(&to).unwrap();
    assert_eq!(holds(&lab, "page"), "two\n");
}

#[test]
fn core_ignorecase_changes_nothing() {
    let old = tree([("README", file("1")), ("Sub/f", file("1")), ("both", file("1"))]);
    let new = tree([
        ("readme", file("2")),
        ("sub/f", file("2")),
        ("both", file("2")),
        ("BOTH", file("2")),
    ]);
    let (lab, to) = between(&[("core.ignorecase", "true")], &old, &new);
    lab.update(&to).unwrap();
    assert_eq!(super::snapshot(&lab.repo()), super::expected(&new));
    let staged = lab.git(&["-c", "core.ignorecase=false", "ls-files"]);
    assert_eq!(staged, "BOTH\nboth\nreadme\nsub/f");
    let index = lab.open().index().unwrap();
    assert!(index.staged(&RepoPath::new("readme")).is_some());
    assert!(index.staged(&RepoPath::new("README")).is_none());
}

#[test]
fn a_file_that_is_left_out_on_purpose_is_not_brought_back() {
    let old = tree([("a", file("1")), ("d/b", file("1")), ("k", file("1"))]);
    for left_out in ["a", "d/b"] {
        let new = tree([("a", file("2")), ("d/b", file("2")), ("k", file("1"))]);
        let (lab, to) = between(&[], &old, &new);
        lab.git(&["update-index", "--skip-worktree", left_out]);
        fs::remove_file(lab.at(left_out)).unwrap();
        let outcome = lab.update(&to);
        let Err(ApplyRefusal::Failed(error)) = outcome else { panic!("{outcome:?}") };
        let error = format!("{error:#}");
        assert!(error.contains(left_out) && error.contains("hint: "), "{error}");
        assert!(!lab.at(left_out).exists());
        lab.git(&["update-index", "--no-skip-worktree", left_out]);
        lab.update(&to).unwrap();
    }
}
