//! Deaths: between any two steps, and with what each step itself leaves half done. Running again
//! ends where nothing had happened.

use std::collections::BTreeSet;
use std::fs;
use std::mem;
use std::os::unix::fs::{MetadataExt, symlink};

use pmpy::system::release::{LinkState, Slot};

use super::{STORE, Sites, branch, names, new, old, spog};
use crate::sandbox::set_mode;
use crate::worktree::{expected, snapshot};

/// Does the first `steps` steps of publishing the new revision instead of the old, and dies.
fn die_after(sites: &Sites, place: &Slot, steps: usize) {
    let revision = sites.revisions[1];
    let mut left = steps;
    let mut permitted = || {
        left = left.saturating_sub(1);
        left > 0 || steps == ALL
    };
    let store = sites.make().unwrap();
    let change = sites.lab.change(None, &revision);
    let staged = store.stage(place, revision, &change, &sites.git).unwrap();
    if !permitted() {
        // A death cleans nothing up.
        return mem::forget(staged);
    }
    store.sync().unwrap();
    staged.publish().unwrap();
    if permitted() {
        store.show(place, revision).unwrap();
    }
    if permitted() {
        let surplus = store.surplus(place, &BTreeSet::new()).unwrap();
        surplus.iter().for_each(|release| store.retire(release).unwrap());
    }
    if permitted() {
        sites.sweep(&store).unwrap();
    }
}

/// The number of steps that [`die_after`] knows.
const ALL: usize = 5;

/// Sure that publishing again ends as if nothing had happened before.
#[track_caller]
fn continues(sites: &Sites, place: &Slot, link: &str) {
    sites.publish(place, 1, &[]).unwrap();
    assert_eq!(snapshot(&sites.at(link).join("")), expected(&new()));
    assert_eq!(names(&sites.dir()), [STORE, link]);
    let text = fs::read_link(sites.at(link)).unwrap();
    assert!(text.starts_with(STORE) && text.ends_with(sites.revisions[1].to_string()), "{text:?}");
    let left = snapshot(&sites.at(STORE));
    let odd = left.keys().find(|path| path.to_string_lossy().contains(".pmpy-"));
    assert_eq!(odd, None);
    assert_eq!(left.keys().filter(|path| path.ends_with("page")).count(), 1);
}

#[test]
fn a_death_between_any_two_steps_is_repaired_by_running_again() {
    for place in [spog(), branch("main")] {
        let link = if place == spog() { "spog" } else { "main" };
        for steps in 1..=ALL {
            let sites = Sites::new();
            sites.publish(&place, 0, &[]).unwrap();
            die_after(&sites, &place, steps);
            let shown = if steps < 3 { old() } else { new() };
            assert_eq!(snapshot(&sites.at(link).join("")), expected(&shown), "{steps}");
            continues(&sites, &place, link);
        }
    }
}

#[test]
fn a_store_that_was_made_half_is_taken_over() {
    let sites = Sites::new();
    // Before its mode was set.
    fs::create_dir(sites.at(STORE)).unwrap();
    set_mode(&sites.at(STORE), 0o700);
    assert!(sites.open().unwrap().is_none());
    // Before its marker got its name.
    fs::write(sites.at(STORE).join(".pmpy-tmp-00000000"), "/half").unwrap();
    assert!(sites.open().unwrap().is_none());
    continues(&sites, &spog(), "spog");
    assert_eq!(names(&sites.at(STORE))[0], ".repository");
}

#[test]
fn a_link_that_did_not_come_to_its_place_goes() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let text = format!("{STORE}/{}", sites.revisions[1]);
    symlink(text, sites.at(STORE).join(".pmpy-link-00000007")).unwrap();
    continues(&sites, &spog(), "spog");
}

#[test]
fn an_empty_directory_whose_place_was_taken_goes_and_one_that_was_filled_stays() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let aside = sites.at(STORE).join(".pmpy-link-00000007");
    fs::create_dir(&aside).unwrap();
    continues(&sites, &spog(), "spog");

    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("mine"), "").unwrap();
    fs::create_dir(sites.at(STORE).join(".pmpy-tmp-00000007")).unwrap();
    let error = format!("{:#}", sites.sweep(&sites.make().unwrap()).unwrap_err());
    assert!(
        error.contains(".pmpy-link-00000007: another process put something into it"),
        "{error}"
    );
    assert!(aside.join("mine").exists());
    assert!(!sites.at(STORE).join(".pmpy-tmp-00000007").exists(), "the rest is swept");
}

#[test]
fn a_slot_that_readers_could_not_enter_yet_is_opened_to_them() {
    let sites = Sites::new();
    sites.make().unwrap();
    fs::create_dir(sites.at(STORE).join("main")).unwrap();
    set_mode(&sites.at(STORE).join("main"), 0o700);
    continues(&sites, &branch("main"), "main");
    assert_eq!(sites.at(STORE).join("main").metadata().unwrap().mode() & 0o777, 0o755);
}

#[test]
fn a_release_that_was_written_twice_is_the_second_one_and_keeps_what_was_added_to_the_first() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    sites.write(&store, &spog(), 0).unwrap();
    let first = sites.at(STORE).join(sites.revisions[0].to_string());
    fs::write(first.join("first"), "").unwrap();
    sites.write(&store, &spog(), 0).unwrap();
    assert_eq!(snapshot(&first), expected(&old()));
    sites.sweep(&store).unwrap();
    let revision = sites.revisions[0].to_string();
    assert_eq!(names(&sites.at(STORE)), [".left", ".repository", &revision]);
    assert_eq!(names(&sites.at(STORE).join(".left").join(revision)), ["first"]);
}

#[test]
fn what_is_dropped_before_it_is_sealed_goes_away_and_is_private_until_then() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    let revision = sites.revisions[0];
    let change = sites.lab.change(None, &revision);
    let staged = store.stage(&spog(), revision, &change, &sites.git).unwrap();
    assert_eq!(staged.path().metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(snapshot(staged.path()), expected(&old()));
    assert!(!store.has(&spog(), revision).unwrap());
    drop(staged);
    assert_eq!(names(&sites.at(STORE)), [".repository"]);
}

#[test]
fn a_link_whose_release_somebody_removed_is_known_and_mended() {
    let sites = Sites::new();
    sites.publish(&spog(), 1, &[]).unwrap();
    fs::remove_dir_all(sites.at("spog").canonicalize().unwrap()).unwrap();
    assert_eq!(sites.standing(&spog()), LinkState::Ours(sites.revisions[1]));
    assert!(!sites.make().unwrap().has(&spog(), sites.revisions[1]).unwrap());
    continues(&sites, &spog(), "spog");
}
