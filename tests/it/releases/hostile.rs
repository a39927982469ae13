//! Stores, slots and releases that somebody tampered with: nothing outside is written or removed,
//! and what is wrong is told with its remedy.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::thread;

use pmpy::domain::repository::change::TreeChange;
use pmpy::system::release::ReleaseStore;
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};

use super::{STORE, Sites, branch, names, new, spog};
use crate::sandbox::set_mode;
use crate::worktree::{expected, snapshot};

/// Somebody's directory, with a file in it.
fn victim(sites: &Sites) -> PathBuf {
    let victim = sites.lab.path("victim");
    fs::create_dir_all(&victim).unwrap();
    fs::write(victim.join("precious"), "precious").unwrap();
    victim
}

#[test]
fn a_store_that_is_a_link_is_refused() {
    let sites = Sites::new();
    let victim = victim(&sites);
    sites.publish(&spog(), 0, &[]).unwrap();
    let open = sites.make().unwrap();
    fs::rename(sites.at(STORE), sites.at("aside")).unwrap();
    symlink(&victim, sites.at(STORE)).unwrap();
    let error = sites.refused();
    assert!(error.contains("symbolic link"), "{error}");
    assert!(error.contains("\nhint: move it away"), "{error}");
    // Who had it open goes on in the real one.
    sites.write(&open, &spog(), 1).unwrap();
    assert!(sites.at("aside").join(sites.revisions[1].to_string()).exists());
    assert_eq!(names(&victim), ["precious"]);
    fs::remove_file(sites.at(STORE)).unwrap();
    fs::write(sites.at(STORE), "").unwrap();
    assert!(sites.refused().contains("is not a directory"));
}

#[test]
fn a_store_that_others_may_write_in_is_refused() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    for mode in [0o775, 0o757, 0o777, 0o1777] {
        set_mode(&sites.at(STORE), mode);
        let error = sites.refused();
        assert!(error.contains(&format!("(mode {mode:04o})")), "{error}");
        assert!(error.contains("\nhint: ") && error.contains("chmod go-w"), "{error}");
    }
}

#[test]
fn a_store_of_somebody_else_is_refused() {
    let sites = Sites::new();
    sites.make().unwrap();
    // Only root may give a directory away.
    if chown(sites.at(STORE), Some(65_534), None).is_err() {
        eprintln!("left out: this user cannot give directories away");
        return;
    }
    let error = sites.refused();
    assert!(error.contains("belongs to user 65534; the agent works as user "), "{error}");
    assert!(error.contains("\nhint: chown -R"), "{error}");
}

#[test]
fn a_store_of_another_repository_is_refused() {
    let sites = Sites::new();
    sites.make().unwrap();
    let other = Path::new("/srv/other/.git");
    let error = format!("{:#}", ReleaseStore::make(&sites.dir(), STORE, other).unwrap_err());
    let here = sites.lab.at(".git");
    assert!(error.contains(&format!("of another repository, {}\n", here.display())), "{error}");
    assert!(error.contains("hint: ") && error.ends_with(".repository: /srv/other/.git"), "{error}");
    assert!(ReleaseStore::open(&sites.dir(), STORE, other).is_err());
    // The remedy works.
    fs::write(sites.at(STORE).join(".repository"), "/srv/other/.git\n").unwrap();
    ReleaseStore::make(&sites.dir(), STORE, other).unwrap();
}

#[test]
fn of_two_repositories_that_make_one_store_at_once_one_has_it() {
    let sites = Sites::new();
    let dir = sites.dir();
    for _ in 0..100 {
        let start = Barrier::new(2);
        let make = |repository: &'static str| {
            start.wait();
            ReleaseStore::make(&dir, STORE, Path::new(repository))
        };
        let (one, other) = thread::scope(|scope| {
            let one = scope.spawn(|| make("/srv/one/.git"));
            (make("/srv/other/.git"), one.join().unwrap())
        });
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
        let error = format!("{:#}", one.err().or(other.err()).unwrap());
        assert!(error.contains("another repository"), "{error}");
        assert_eq!(names(&sites.at(STORE)), [".repository"]);
        fs::remove_dir_all(sites.at(STORE)).unwrap();
    }
}

#[test]
fn a_directory_that_only_has_the_name_of_a_store_is_refused() {
    let sites = Sites::new();
    fs::create_dir(sites.at(STORE)).unwrap();
    fs::write(sites.at(STORE).join("mine"), "").unwrap();
    let error = sites.refused();
    assert!(error.contains("was not made by the agent: it has no file .repository"), "{error}");
    assert_eq!(names(&sites.at(STORE)), ["mine"]);
}

#[test]
fn a_slot_that_is_a_link_is_refused_and_others_continue() {
    let sites = Sites::new();
    let victim = victim(&sites);
    sites.publish(&branch("main"), 0, &[]).unwrap();
    fs::rename(sites.at(STORE).join("main"), sites.at("aside")).unwrap();
    let revision = sites.revisions[0].to_string();
    fs::create_dir(victim.join(revision)).unwrap();
    fs::create_dir(victim.join(".pmpy-tmp-00000000")).unwrap();
    let before = snapshot(&victim);
    symlink(&victim, sites.at(STORE).join("main")).unwrap();

    let error = format!("{:#}", sites.publish(&branch("main"), 1, &[]).unwrap_err());
    assert!(error.contains("symbolic link"), "{error}");
    assert!(sites.remove(&sites.make().unwrap(), &branch("main")).is_err());
    sites.publish(&branch("next"), 1, &[]).unwrap();
    assert_eq!(snapshot(&sites.at("next/")), expected(&new()));
    assert_eq!(snapshot(&victim), before);
}

#[test]
fn removing_a_release_follows_no_link_and_spares_other_names_of_its_files() {
    let sites = Sites::new();
    let victim = victim(&sites);
    sites.publish(&spog(), 0, &[]).unwrap();
    let release = sites.at("spog").canonicalize().unwrap();
    symlink(&victim, release.join("to-directory")).unwrap();
    symlink(victim.join("precious"), release.join("to-file")).unwrap();
    symlink("../../..", release.join("a/up")).unwrap();
    fs::hard_link(victim.join("precious"), release.join("hard")).unwrap();
    fs::hard_link(release.join("page"), sites.lab.path("kept")).unwrap();
    sites.publish(&spog(), 1, &[]).unwrap();
    assert!(!release.exists());
    assert_eq!(fs::read(victim.join("precious")).unwrap(), b"precious");
    assert_eq!(fs::read(sites.lab.path("kept")).unwrap(), b"old");
    let left = sites.at(STORE).join(".left").join(sites.revisions[0].to_string());
    assert_eq!(names(&left), ["a", "hard", "to-directory", "to-file"]);
    assert_eq!(fs::read_link(left.join("to-directory")).unwrap(), victim);
    assert_eq!(victim.join("precious").metadata().unwrap().nlink(), 2);
    assert_eq!(names(&sites.dir()), [STORE, "spog"]);
    // Nor does the removal of what was kept.
    let store = sites.make().unwrap();
    store.expire_left(chrono::Utc::now() + chrono::Duration::days(31)).unwrap();
    assert!(!left.exists());
    assert_eq!(fs::read(victim.join("precious")).unwrap(), b"precious");
    assert_eq!(names(&victim), ["precious"]);
}

#[test]
fn a_release_is_removed_however_deep_somebody_made_it() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let release = sites.at("spog").canonicalize().unwrap();
    plant_depth(&release, 5_000);
    fs::create_dir(release.join("closed")).unwrap();
    fs::write(release.join("closed/file"), "").unwrap();
    set_mode(&release.join("closed"), 0o500);
    sites.publish(&spog(), 1, &[]).unwrap();
    let left = [".left", ".repository", &sites.revisions[1].to_string()];
    assert_eq!(names(&sites.at(STORE)), left);
    let store = sites.make().unwrap();
    let counted = store.left_files().unwrap().unwrap();
    assert!(counted.is_more && counted.files < 5_000, "{counted:?}");
    store.expire_left(chrono::Utc::now() + chrono::Duration::days(31)).unwrap();
    assert_eq!(store.left_files().unwrap(), None);
    assert!(names(&sites.at(STORE).join(".left")).is_empty());
}

/// Makes `depth` directories within directories in `top`, with a file in each.
fn plant_depth(top: &Path, depth: usize) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut here = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&here, "deeper", Mode::RWXU).unwrap();
        here = openat(&here, "deeper", flags, Mode::empty()).unwrap();
        openat(&here, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
}

#[test]
fn a_directory_that_is_filled_while_a_link_takes_its_place_is_not_lost() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    sites.write(&store, &spog(), 0).unwrap();
    for _ in 0..200 {
        fs::create_dir(sites.at("spog")).unwrap();
        let dir = fs::File::open(sites.at("spog")).unwrap();
        let start = Barrier::new(2);
        let (shown, written) = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                start.wait();
                let flags = OFlags::CREATE | OFlags::WRONLY;
                openat(&dir, "mine", flags, Mode::RUSR).is_ok()
            });
            start.wait();
            (store.show(&spog(), sites.revisions[0]), writer.join().unwrap())
        });
        assert_eq!(shown.is_err(), written, "{shown:?}");
        match shown {
            Ok(()) => fs::remove_file(sites.at("spog")).unwrap(),
            Err(_) => {
                assert_eq!(names(&sites.at("spog")), ["mine"]);
                fs::remove_dir_all(sites.at("spog")).unwrap();
            }
        }
        assert_eq!(names(&sites.at(STORE)).len(), 2, "nothing is left in the store");
    }
}

#[test]
fn an_object_that_is_lost_in_the_middle_leaves_nothing() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    let revision = sites.revisions[1];
    let lost = sites.lab.blob(b"lost");
    let first = sites.lab.blob(b"first");
    let tree = sites.lab.raw_tree(&[("100644", b"a", first), ("100644", b"b", lost)]);
    let change = TreeChange::between(None, tree, &sites.git).unwrap();
    let name = lost.to_string();
    let object = format!(".git/objects/{}/{}", &name[..2], &name[2..]);
    fs::remove_file(sites.lab.at(&object)).unwrap();
    let git = sites.lab.open();
    let error = format!("{:#}", store.stage(&spog(), revision, &change, &git).unwrap_err());
    assert!(error.contains("cannot write \"b\"") && error.contains(&name), "{error}");
    assert!(error.contains(&format!("the release {revision} of ")), "{error}");
    assert_eq!(names(&sites.at(STORE)), [".repository"]);
}

#[test]
fn what_is_only_a_difference_is_never_a_release() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    let [old, new] = [sites.revisions[0], sites.revisions[1]];
    let change = sites.lab.change(Some(&old), &new);
    let error = format!("{:#}", store.stage(&spog(), new, &change, &sites.git).unwrap_err());
    assert!(error.contains("a release is a whole tree"), "{error}");
}
