//! What the door to targets promises: readers meet a whole tree, old or new; what somebody else made
//! stays; and it can be cut off anywhere.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use pmpy::domain::git::Commit;
use pmpy::system::git::Git;
use pmpy::system::release::{self, LinkState, ReleasePaths, ReleaseStore, Slot};

use crate::worktree::{Lab, Leaf, Tree, expected, file, link, snapshot, tree};

mod disks;
mod hostile;
mod kills;
mod names;
mod readers;

/// The store of a target that is called `spog`.
const STORE: &str = ".spog.pmpy";

/// A repository with a few revisions, and the directory that they are published in.
pub struct Sites {
    pub lab: Lab,
    pub revisions: Vec<Commit>,
    pub git: Git,
}

impl Sites {
    /// A repository with one revision for each tree.
    pub fn of<const N: usize>(trees: [&Tree; N]) -> Self {
        let lab = Lab::new();
        let revisions = lab.commits(trees).to_vec();
        fs::create_dir(lab.path("sites")).unwrap();
        let git = lab.open();
        Self { lab, revisions, git }
    }

    /// Two revisions that differ in everything.
    pub fn new() -> Self {
        Self::of([&old(), &new()])
    }

    pub fn dir(&self) -> PathBuf {
        self.lab.path("sites")
    }

    pub fn at(&self, below: &str) -> PathBuf {
        self.dir().join(below)
    }

    pub fn make(&self) -> anyhow::Result<ReleaseStore> {
        ReleaseStore::make(&self.dir(), STORE, &self.lab.at(".git"))
    }

    pub fn open(&self) -> anyhow::Result<Option<ReleaseStore>> {
        ReleaseStore::open(&self.dir(), STORE, &self.lab.at(".git"))
    }

    /// Why the store is refused, by both who read and who write.
    #[track_caller]
    pub fn refused(&self) -> String {
        let error = format!("{:#}", self.make().unwrap_err());
        assert_eq!(error, format!("{:#}", self.open().unwrap_err()));
        error
    }

    /// Writes revision `number`, waits for the disk, and makes it a release.
    pub fn write(&self, store: &ReleaseStore, place: &Slot, number: usize) -> anyhow::Result<()> {
        let revision = self.revisions[number];
        let change = self.lab.change(None, &revision);
        let staged = store.stage(place, revision, &change, &self.git)?;
        store.sync()?;
        staged.publish()
    }

    /// All steps for one place; of the older releases those of `keep` stay.
    pub fn publish(&self, place: &Slot, number: usize, keep: &[usize]) -> anyhow::Result<()> {
        let store = self.make()?;
        self.sweep(&store)?;
        if !store.has(place, self.revisions[number])? {
            self.write(&store, place, number)?;
        }
        store.sync()?;
        store.show(place, self.revisions[number])?;
        store.sync()?;
        let keep: BTreeSet<Commit> = keep.iter().map(|&number| self.revisions[number]).collect();
        store.surplus(place, &keep)?.iter().try_for_each(|release| store.retire(release))?;
        store.sync()?;
        self.sweep(&store)
    }

    /// Removes retired releases; keeps what their revisions do not have.
    pub fn sweep(&self, store: &ReleaseStore) -> anyhow::Result<()> {
        let of_revision = |revision| {
            let change = self.lab.change(None, &revision);
            Some(change.ops.into_iter().map(|op| op.path).collect())
        };
        store.sweep(&ReleasePaths { of_revision: &of_revision, shared: &[] })
    }

    /// Takes the link of `place` away, and retires all its releases.
    pub fn remove(&self, store: &ReleaseStore, place: &Slot) -> anyhow::Result<()> {
        store.unlink(place)?;
        store.releases(place)?.iter().try_for_each(|release| store.retire(release))
    }

    /// What stands at `place`.
    #[track_caller]
    pub fn standing(&self, place: &Slot) -> LinkState {
        self.make().unwrap().standing(place).unwrap()
    }

    /// Why what stands at `place` stays; sure that showing a release says the same and leaves it.
    #[track_caller]
    pub fn foreign(&self, place: &Slot) -> String {
        let LinkState::Foreign(words) = self.standing(place) else {
            panic!("{:?}", self.standing(place))
        };
        let before = snapshot(&self.at("spog"));
        let error = self.publish(place, 1, &[]).unwrap_err();
        assert_eq!(format!("{error:#}"), words);
        assert_eq!(snapshot(&self.at("spog")), before);
        words
    }
}

pub fn old() -> Tree {
    tree([
        ("page", file("old")),
        ("gone", file("old")),
        ("run.sh", Leaf::Executable("#!/bin/sh\n".to_owned())),
        ("a-b/c", file("sorted before a/b/c")),
        ("a/b/c", file("old")),
        ("a/link", link("b/c")),
        ("module", Leaf::Submodule),
    ])
}

pub fn new() -> Tree {
    tree([
        ("page", file("new")),
        ("a/b", file("a file where a directory was")),
        ("here", file("new")),
    ])
}

/// The place of a target that shows one branch.
pub fn spog() -> Slot {
    Slot::new("spog", None).unwrap()
}

/// The place of a branch beside others.
pub fn branch(name: &str) -> Slot {
    Slot::new(name, Some(name)).unwrap()
}

/// The names in `directory`, sorted.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_target_shows_a_revision_whole_and_says_which() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    assert_eq!(snapshot(&sites.at("spog/")), expected(&old()));
    let text = fs::read_link(sites.at("spog")).unwrap();
    assert_eq!(text, Path::new(STORE).join(sites.revisions[0].to_string()));

    sites.publish(&spog(), 1, &[0]).unwrap();
    assert_eq!(snapshot(&sites.at("spog/")), expected(&new()));
    assert_eq!(sites.standing(&spog()), LinkState::Ours(sites.revisions[1]));
    let store = sites.open().unwrap().unwrap();
    assert!(store.has(&spog(), sites.revisions[0]).unwrap(), "it was to be kept");
    assert_eq!(names(&sites.dir()), [STORE, "spog"]);

    sites.publish(&spog(), 1, &[]).unwrap();
    assert!(!store.has(&spog(), sites.revisions[0]).unwrap());
    assert_eq!(names(&sites.at(STORE)), [".repository", &sites.revisions[1].to_string()]);
}

#[test]
fn directories_of_a_release_can_be_entered_by_everybody_and_written_by_their_owner_only() {
    let sites = Sites::new();
    sites.publish(&branch("main"), 0, &[]).unwrap();
    let store = sites.at(STORE);
    let release = sites.at("main").canonicalize().unwrap();
    for dir in ["a", "a/b", "module", ".", ".."] {
        assert_eq!(release.join(dir).metadata().unwrap().mode() & 0o7777, 0o755, "{dir}");
    }
    assert_eq!(store.metadata().unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn branches_have_a_slot_each_and_go_without_touching_each_other() {
    let sites = Sites::new();
    let (main, next) = (branch("main"), branch("feature%2Fnext"));
    sites.publish(&main, 0, &[]).unwrap();
    sites.publish(&next, 1, &[]).unwrap();
    assert_eq!(names(&sites.dir()), [STORE, "feature%2Fnext", "main"]);
    assert_eq!(names(&sites.at(STORE)), [".repository", "feature%2Fnext", "main"]);

    let store = sites.make().unwrap();
    sites.remove(&store, &main).unwrap();
    store.sync().unwrap();
    sites.sweep(&store).unwrap();
    assert_eq!(names(&sites.dir()), [STORE, "feature%2Fnext"]);
    assert_eq!(names(&sites.at(STORE)), [".repository", "feature%2Fnext"]);
    assert_eq!(snapshot(&sites.at("feature%2Fnext/")), expected(&new()));
    sites.remove(&store, &main).unwrap();

    sites.publish(&main, 1, &[]).unwrap();
    assert_eq!(snapshot(&sites.at("main/")), expected(&new()));
}

#[test]
fn the_release_that_is_shown_is_never_retired() {
    let sites = Sites::new();
    sites.publish(&spog(), 0, &[]).unwrap();
    let store = sites.make().unwrap();
    sites.write(&store, &spog(), 1).unwrap();
    let surplus = store.surplus(&spog(), &BTreeSet::new()).unwrap();
    surplus.iter().for_each(|release| store.retire(release).unwrap());
    assert!(store.has(&spog(), sites.revisions[0]).unwrap());
    assert!(!store.has(&spog(), sites.revisions[1]).unwrap());
    let error = store.show(&spog(), sites.revisions[1]).unwrap_err().to_string();
    assert!(error.contains("has no release of it"), "{error}");
    assert_eq!(snapshot(&sites.at("spog/")), expected(&old()));
}

#[test]
fn nothing_published_yet_is_no_error_and_makes_nothing() {
    let sites = Sites::new();
    assert!(sites.open().unwrap().is_none());
    fs::remove_dir(sites.dir()).unwrap();
    assert!(sites.open().unwrap().is_none());
    let error = format!("{:#}", sites.make().unwrap_err());
    assert!(error.ends_with(".spog.pmpy: No such file or directory (os error 2)"), "{error}");
    release::make_dir(&sites.dir()).unwrap();
    release::make_dir(&sites.dir()).unwrap();
    assert_eq!(sites.dir().metadata().unwrap().mode() & 0o7777, 0o755);
    let error = release::make_dir(&sites.at("a/b")).unwrap_err().to_string();
    assert!(error.contains("cannot make the directory"), "{error}");
    sites.make().unwrap();
}

#[test]
fn an_empty_directory_gives_way_to_a_link() {
    let sites = Sites::new();
    fs::create_dir(sites.at("spog")).unwrap();
    assert_eq!(sites.standing(&spog()), LinkState::EmptyDir);
    sites.publish(&spog(), 0, &[]).unwrap();
    assert_eq!(snapshot(&sites.at("spog/")), expected(&old()));
    assert_eq!(names(&sites.at(STORE)), [".repository", &sites.revisions[0].to_string()]);
}

#[test]
fn what_the_agent_did_not_make_stays_and_is_reported_in_words() {
    let sites = Sites::new();
    let is = |what: &str| {
        let shown = sites.at("spog");
        format!("{} is {what} and was not made by the agent; move it away", shown.display())
    };
    fs::write(sites.at("spog"), "mine").unwrap();
    assert_eq!(foreign_file(&sites), is("a file"));
    fs::remove_file(sites.at("spog")).unwrap();

    fs::create_dir(sites.at("spog")).unwrap();
    fs::write(sites.at("spog/mine"), "").unwrap();
    assert_eq!(sites.foreign(&spog()), is("a directory that is not empty"));
    fs::remove_dir_all(sites.at("spog")).unwrap();

    rustix::fs::mknodat(
        rustix::fs::CWD,
        sites.at("spog"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert_eq!(foreign_file(&sites), is("neither a directory nor a link"));
    fs::remove_file(sites.at("spog")).unwrap();

    let id = sites.revisions[0].to_string();
    for text in [
        "elsewhere".to_owned(),
        format!("{STORE}/{}", id.to_uppercase()),
        format!("{STORE}/{}", &id[1..]),
        format!("./{STORE}/{id}"),
        format!("{STORE}/../{STORE}/{id}"),
        format!("{STORE}/main/{id}"),
        format!(".other.pmpy/{id}"),
        format!("{STORE}/{id}/"),
        id.clone(),
    ] {
        symlink(&text, sites.at("spog")).unwrap();
        assert_eq!(foreign_file(&sites), is(&format!("a symbolic link to \"{text}\"")));
        assert_eq!(fs::read_link(sites.at("spog")).unwrap(), Path::new(&text));
        let store = sites.make().unwrap();
        store.unlink(&spog()).unwrap();
        assert_eq!(fs::read_link(sites.at("spog")).unwrap(), Path::new(&text));
        fs::remove_file(sites.at("spog")).unwrap();
    }
}

/// Why what stands at the target stays, where it is no directory.
#[track_caller]
fn foreign_file(sites: &Sites) -> String {
    let LinkState::Foreign(words) = sites.standing(&spog()) else { panic!("it is not foreign") };
    let before = sites.at("spog").symlink_metadata().unwrap();
    let error = sites.publish(&spog(), 1, &[]).unwrap_err();
    assert_eq!(format!("{error:#}"), words);
    let after = sites.at("spog").symlink_metadata().unwrap();
    assert_eq!((before.ino(), before.mtime()), (after.ino(), after.mtime()));
    words
}

#[test]
fn of_more_than_a_gibibyte_left_behind_the_oldest_files_go_first() {
    let sites = Sites::new();
    let store = sites.make().unwrap();
    let left = sites.at(STORE).join(".left");
    let day = std::time::Duration::from_secs(86_400);
    for (unit, days) in [("old", 3), ("new", 1)] {
        fs::create_dir_all(left.join(unit).join("d")).unwrap();
        let file = fs::File::create(left.join(unit).join("d/file")).unwrap();
        file.set_len(700 << 20).unwrap();
        file.set_modified(std::time::SystemTime::now() - day * days).unwrap();
    }
    fs::write(left.join("old/small"), "small").unwrap();
    assert_eq!(store.left_files().unwrap().map(|it| it.files), Some(3));
    store.expire_left(chrono::Utc::now()).unwrap();
    assert!(!left.join("old/d/file").exists());
    assert!(left.join("new/d/file").exists() && left.join("old/small").exists());
    // And all of it after its time.
    store.expire_left(chrono::Utc::now() + chrono::Duration::days(29)).unwrap();
    assert_eq!(names(&left), ["new", "old"]);
    store.expire_left(chrono::Utc::now() + chrono::Duration::days(31)).unwrap();
    assert!(names(&left).is_empty());
}

#[test]
fn a_place_is_made_of_names_that_the_store_does_not_use_itself() {
    let revision = "1234567890123456789012345678901234567890";
    let long = "x".repeat(256);
    for link in ["", ".", "..", "a/b", "/etc", "../x", "a\0b", &long] {
        assert!(Slot::new(link, None).is_err(), "{link}");
        assert!(Slot::new("link", Some(link)).is_err(), "{link}");
    }
    for slot in [".repository", ".pmpy-tmp-00000000", ".x", revision] {
        let error = Slot::new("link", Some(slot)).unwrap_err().to_string();
        assert!(error.ends_with("is a name that the agent keeps for itself"), "{error}");
    }
    for name in ["main", "feature%2Fx", "%2Drf", "$(id)", "a\"b", "repository", &long[1..]] {
        Slot::new(name, Some(name)).unwrap();
    }
    Slot::new(".hidden", None).unwrap();
}

#[test]
fn a_release_has_the_modes_that_its_directory_hands_down() {
    let sites = Sites::new();
    std::os::unix::fs::chown(sites.dir(), None, Some(1)).unwrap();
    crate::worktree::set_mode(&sites.dir(), 0o2755);
    let mut set = std::process::Command::new("setfacl");
    assert!(
        set.args(["-m", "d:g:daemon:rwx,d:o::---"]).arg(sites.dir()).status().unwrap().success()
    );
    let place = Slot::new("spog", None).unwrap();
    sites.publish(&place, 0, &[]).unwrap();
    for (path, mode) in [("", 0o2770), ("a", 0o2770), ("page", 0o660), ("run.sh", 0o770)] {
        let found = fs::metadata(sites.at("spog").join(path)).unwrap();
        assert_eq!((found.mode() & 0o7777, found.gid()), (mode, 1), "{path}");
    }
    // Nobody else writes in the store itself.
    assert_eq!(fs::metadata(sites.at(STORE)).unwrap().mode() & 0o022, 0);
    assert!(sites.open().unwrap().is_some());
}
