//! What holds for any two trees: the result is git's, cutting it off anywhere does no harm, and
//! nobody's local work is lost.

use std::fs;
use std::path::Path;

use anyhow::bail;
use pmpy::domain::repository::change::TreeChange;
use pmpy::system::git::Git;
use pmpy::system::worktree::{ApplyRefusal, Worktree};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{Lab, Leaf, Snapshot, Tree, expected, snapshot};

/// A node of a tree that is being made up.
#[derive(Clone, Debug)]
enum Node {
    Leaf(Leaf),
    Dir(std::collections::BTreeMap<&'static str, Node>),
}

const NAMES: [&str; 4] = ["a", "b", "a-", "c"];

/// Trees over few names and few contents, so that files, directories and links often meet.
fn any_tree() -> impl Strategy<Value = Tree> {
    let content = prop_oneof![Just(String::new()), Just("1".to_owned()), Just("22".to_owned())];
    let target = prop_oneof![Just("a".to_owned()), Just("../b".to_owned()), Just("1".to_owned())];
    let leaf = prop_oneof![
        4 => content.clone().prop_map(Leaf::File),
        1 => content.prop_map(Leaf::Executable),
        2 => target.prop_map(Leaf::Link),
    ];
    let name = prop::sample::select(&NAMES[..]);
    let node = leaf.prop_map(Node::Leaf).prop_recursive(3, 24, 4, move |inner| {
        btree_map(prop::sample::select(&NAMES[..]), inner, 0..4).prop_map(Node::Dir)
    });
    btree_map(name, node, 0..5).prop_map(|top| {
        let mut tree = Tree::new();
        flatten("", &top, &mut tree);
        tree
    })
}

fn flatten(prefix: &str, dir: &std::collections::BTreeMap<&'static str, Node>, tree: &mut Tree) {
    for (name, node) in dir {
        let path = format!("{prefix}{name}");
        match node {
            Node::Leaf(leaf) => drop(tree.insert(path, leaf.clone())),
            Node::Dir(inner) => flatten(&format!("{path}/"), inner, tree),
        }
    }
}

/// Applies `change` to `directory` with an index that is still the old tree's; ends after `steps`
/// changes to the disk. True when it came to its end.
fn apply(dir: &Path, change: &TreeChange, git: &Git, steps: usize) -> bool {
    let worktree = Worktree::open(dir).unwrap();
    worktree.sweep(change).unwrap();
    let staged = |path: &_| change.at(path).and_then(|op| op.old).map(Into::into);
    let ready = worktree.classify(change, git, &staged).unwrap();
    let mut left = steps;
    let mut permit = || {
        if left == 0 {
            bail!("cut off");
        }
        left -= 1;
        Ok(())
    };
    worktree.apply_with(&ready, git, &mut permit).is_ok()
}

/// A new directory with `tree` in it.
fn dir_of(lab: &Lab, name: &str, tree: &Tree) -> std::path::PathBuf {
    let dir = lab.path(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir(&dir).unwrap();
    for (path, (kind, mode, content)) in expected(tree) {
        let path = dir.join(path);
        match kind {
            'd' => fs::create_dir(&path).unwrap(),
            'l' => std::os::unix::fs::symlink(super::os(&content), &path).unwrap(),
            _ => {
                fs::write(&path, content).unwrap();
                super::set_mode(&path, mode);
            }
        }
    }
    dir
}

fn cases(number: u32) -> ProptestConfig {
    ProptestConfig { cases: number, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn an_update_leaves_exactly_what_git_leaves(old in any_tree(), new in any_tree()) {
        let lab = Lab::new();
        let [from, to] = lab.commits([&old, &new]);
        lab.check_out(&from);
        lab.git(&["read-tree", "-m", "-u", &from.to_string(), &to.to_string()]);
        let by_git = snapshot(&lab.repo());

        lab.check_out(&from);
        lab.update(&to).unwrap();
        let ours = snapshot(&lab.repo());
        prop_assert_eq!(&ours, &expected(&new));
        prop_assert_eq!(without_group_bits(ours), without_group_bits(by_git));
        prop_assert_eq!(lab.differences(), "");
    }

    #[test]
    fn an_update_cut_off_anywhere_and_run_again_ends_as_if_nothing_had_happened(
        old in any_tree(), new in any_tree(), newest in any_tree()
    ) {
        let lab = Lab::new();
        let [a, b, c] = lab.commits([&old, &new, &newest]);
        let git = lab.open();
        let (to_b, to_c) = (lab.change(Some(&a), &b), lab.change(Some(&b), &c));
        for steps in 0.. {
            let dir = dir_of(&lab, "w", &old);
            let finished = apply(&dir, &to_b, &git, steps);
            if !finished {
                // Cut off in the recovery as well, then once more, then let through.
                apply(&dir, &to_b, &git, steps / 2);
                apply(&dir, &to_b, &git, 1);
                prop_assert!(apply(&dir, &to_b, &git, usize::MAX));
            }
            prop_assert_eq!(snapshot(&dir), expected(&new), "after {} steps", steps);
            prop_assert!(apply(&dir, &to_b, &git, usize::MAX), "applying it again failed");
            prop_assert_eq!(snapshot(&dir), expected(&new), "applied again");
            prop_assert!(apply(&dir, &to_c, &git, usize::MAX));
            prop_assert_eq!(snapshot(&dir), expected(&newest));
            if finished {
                break;
            }
        }
    }
}

/// Something that a person does to a worktree.
#[derive(Clone, Debug)]
enum Edit {
    Write(&'static str),
    Delete,
    Permissions(u32),
    Link(&'static str),
    Dir(&'static str),
}

fn any_edit() -> impl Strategy<Value = (usize, Vec<&'static str>, Edit)> {
    let edit = prop_oneof![
        Just(Edit::Write("mine")),
        Just(Edit::Write("1")),
        Just(Edit::Write("22")),
        Just(Edit::Delete),
        Just(Edit::Permissions(0o600)),
        Just(Edit::Permissions(0o777)),
        Just(Edit::Link("a")),
        Just(Edit::Link("/etc")),
        Just(Edit::Dir("mine")),
        Just(Edit::Dir("a")),
    ];
    (any::<usize>(), vec(prop::sample::select(&NAMES[..]), 1..4), edit)
}

/// Does `edit` at a path that exists or at a made-up one; whatever cannot be done is left.
fn edit(dir: &Path, pick: usize, names: &[&str], edit: &Edit) {
    let existing: Vec<_> = snapshot(dir).into_keys().collect();
    let path = match existing.get(pick % (existing.len() + 3)) {
        Some(path) => dir.join(path),
        None => dir.join(names.join("/")),
    };
    if let Some(parent) = path.parent() {
        let _ = fs::create_dir_all(parent);
    }
    let clear = || match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => drop(fs::remove_dir_all(&path)),
        Ok(_) => drop(fs::remove_file(&path)),
        Err(_) => {}
    };
    match edit {
        Edit::Write(content) => {
            clear();
            let _ = fs::write(&path, content);
        }
        Edit::Delete => clear(),
        Edit::Permissions(mode) if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) => {
            super::set_mode(&path, *mode);
        }
        Edit::Permissions(_) => {}
        Edit::Link(target) => {
            clear();
            let _ = std::os::unix::fs::symlink(target, &path);
        }
        Edit::Dir(name) => {
            clear();
            let _ = fs::create_dir_all(&path);
            let _ = fs::write(path.join(name), "mine");
        }
    }
}

proptest! {
    #![proptest_config(cases(160))]

    #[test]
    fn local_work_is_kept_whatever_comes(
        old in any_tree(), new in any_tree(), edits in vec(any_edit(), 1..5)
    ) {
        let lab = Lab::new();
        let [a, b] = lab.commits([&old, &new]);
        let git = lab.open();
        let change = lab.change(Some(&a), &b);
        let dir = dir_of(&lab, "w", &old);
        for (pick, names, what) in &edits {
            edit(&dir, *pick, names, what);
        }
        let before = snapshot(&dir);
        let worktree = Worktree::open(&dir).unwrap();
        let staged = |path: &_| change.at(path).and_then(|op| op.old).map(Into::into);
        match worktree.classify(&change, &git, &staged) {
            Err(ApplyRefusal::Dirty(paths)) => {
                prop_assert!(!paths.is_empty());
                prop_assert_eq!(snapshot(&dir), before);
            }
            Err(ApplyRefusal::Failed(error)) => return Err(TestCaseError::fail(format!("{error:#}"))),
            Ok(ready) => {
                worktree.apply(&ready, &git).unwrap();
                let after = snapshot(&dir);
                let wanted = expected(&new);
                for op in &change.ops {
                    let path = Path::new(super::os(op.path.as_bytes()));
                    if op.new.is_some() {
                        prop_assert_eq!(after.get(path), wanted.get(path));
                    }
                }
                for (path, state) in files(&before) {
                    let op = change.ops.iter().find(|op| super::os(op.path.as_bytes()) == path);
                    if op.is_none() {
                        prop_assert_eq!(after.get(path), Some(state), "{:?} was lost", path);
                    }
                }
            }
        }
    }
}

fn files(snapshot: &Snapshot) -> impl Iterator<Item = (&Path, &(char, u32, Vec<u8>))> {
    snapshot.iter().filter(|(_, state)| state.0 != 'd').map(|(path, state)| (path.as_path(), state))
}

/// Git's files have the group's and others' bits that the umask leaves.
fn without_group_bits(snapshot: Snapshot) -> Snapshot {
    let strip = |(path, (kind, mode, content))| (path, (kind, mode & 0o700, content));
    snapshot.into_iter().map(strip).collect()
}
