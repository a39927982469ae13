//! Readers beside a publisher: none ever meets a mix.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use super::{Sites, branch, names, spog};
use crate::worktree::{Tree, file};

const PUBLISHES: usize = 1_000;
const FILES: usize = 6;

/// A tree whose every file says `number`; some names are only in it.
fn numbered(number: usize) -> Tree {
    let mut tree = Tree::new();
    for n in 0..FILES {
        tree.insert(format!("d{}/f{n}", n % 3), file(&format!("{number}\n")));
    }
    tree.insert(format!("only/{number}"), file(&format!("{number}\n")));
    tree
}

/// The one number that all files of the tree at `top` say; `None` when it is no release any more,
/// because this thread slept for longer than it was kept.
#[track_caller]
fn read_whole(top: &Path) -> Option<usize> {
    let read = || -> io::Result<Vec<usize>> {
        let mut said = Vec::new();
        for n in 0..FILES {
            said.push(number(&top.join(format!("d{}/f{n}", n % 3)))?);
        }
        for entry in fs::read_dir(top.join("only"))? {
            let entry = entry?;
            said.push(entry.file_name().to_str().unwrap().parse().unwrap());
            said.push(number(&entry.path())?);
        }
        Ok(said)
    };
    let said = read();
    let now = top.canonicalize().ok();
    let retired = |now: &PathBuf| now.to_string_lossy().contains(".pmpy-tmp-");
    match said {
        _ if now.as_ref().is_none_or(retired) => None,
        Err(error) => panic!("{now:?} is not whole: {error}"),
        Ok(said) => {
            assert_eq!(said.len(), FILES + 2);
            assert!(said.iter().all(|&one| one == said[0]), "a mix: {said:?}");
            Some(said[0])
        }
    }
}

fn number(path: &Path) -> io::Result<usize> {
    let mut text = String::new();
    File::open(path)?.read_to_string(&mut text)?;
    Ok(text.strip_suffix('\n').expect("a whole line").parse().unwrap())
}

/// Where an open directory is, whatever became of its name.
fn held(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

#[test]
fn readers_meet_the_old_tree_or_the_new_one_through_a_thousand_publishes() {
    let trees: Vec<Tree> = (0..PUBLISHES).map(numbered).collect();
    let sites = Sites::of::<PUBLISHES>(std::array::from_fn(|number| &trees[number]));
    sites.publish(&spog(), 0, &[]).unwrap();
    let target = sites.at("spog");
    let done = AtomicBool::new(false);
    let (whole, single) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        // One holds the directory open that the link showed, and one its real path.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let dir = File::open(&target).expect("there always is a tree");
                let seen = read_whole(&held(&dir)).into_iter().count();
                let release = target.canonicalize().unwrap_or_default();
                let again = read_whole(&release).into_iter().count();
                whole.fetch_add(seen + again, Ordering::Relaxed);
            }
        });
        // One walks through the link for each file: whole files, and never an older one again.
        scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                for n in 0..FILES {
                    // Between two names of one path the thread may sleep for long.
                    let Ok(number) = number(&target.join(format!("d{}/f{n}", n % 3))) else {
                        continue;
                    };
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                    single.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        // Without waiting for the disk, which readers do not meet.
        let store = sites.make().unwrap();
        for number in 1..PUBLISHES {
            let revision = sites.revisions[number];
            let change = sites.lab.change(None, &revision);
            store.stage(&spog(), revision, &change, &sites.git).unwrap().publish().unwrap();
            store.show(&spog(), revision).unwrap();
            let keep = number.saturating_sub(2)..number;
            let keep = keep.map(|number| sites.revisions[number]).collect();
            let surplus = store.surplus(&spog(), &keep).unwrap();
            surplus.iter().for_each(|release| store.retire(release).unwrap());
            sites.sweep(&store).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    let (whole, single) = (whole.into_inner(), single.into_inner());
    assert!(whole > 100 && single > 1_000, "hardly anything was read: {whole} {single}");
    assert_eq!(number(&target.join("d0/f0")).unwrap(), PUBLISHES - 1);
    assert_eq!(names(&sites.at(super::STORE)).len(), 1 + 3, "the current one and two before it");
}

#[test]
fn several_threads_publish_different_branches_at_once() {
    let trees: Vec<Tree> = (0..4).map(numbered).collect();
    let sites = Sites::of::<4>(std::array::from_fn(|number| &trees[number]));
    let store = sites.make().unwrap();
    let changes: Vec<_> = sites.revisions.iter().map(|id| sites.lab.change(None, id)).collect();
    thread::scope(|scope| {
        for thread in 0..4 {
            let (store, changes, sites) = (&store, &changes, &sites);
            let git = sites.lab.open();
            let revision = sites.revisions[thread];
            scope.spawn(move || {
                for n in 0..20 {
                    let place = branch(&format!("b{thread}-{n}"));
                    store
                        .stage(&place, revision, &changes[thread], &git)
                        .unwrap()
                        .publish()
                        .unwrap();
                    store.show(&place, revision).unwrap();
                }
            });
        }
    });
    store.sync().unwrap();
    for thread in 0..4 {
        for n in 0..20 {
            let target = sites.at(&format!("b{thread}-{n}"));
            assert_eq!(read_whole(&target), Some(thread));
        }
    }
}
