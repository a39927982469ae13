//! Readers beside a machine that goes on publishing.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{Mode, OFlags, openat};

use super::Publisher;

const FILES: [&str; 3] = ["page", "style/plain.css", "z/last"];

/// How often it is published.
fn times() -> usize {
    if std::env::var_os("PMPY_LONG").is_some() { 1_000 } else { 100 }
}

/// What one look met.
enum Met {
    Whole,
    Mix,
    /// A release that lost its name meanwhile: the reader slept for longer than it was kept.
    Retired,
    Missing,
}

/// Every file of the tree in the one directory that is met.
fn look(site: &Publisher) -> Met {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Between the two names of its path the reader may sleep as well.
    let open = || rustix::fs::open(site.at("main"), flags, Mode::empty());
    let Ok(dir) = open().or_else(|_| open()) else { return Met::Missing };
    let read = |name: &&str| {
        let file = openat(&dir, *name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        Some(text)
    };
    let texts: Option<Vec<String>> = FILES.iter().map(read).collect();
    if texts.as_ref().is_some_and(|texts| texts.iter().all(|text| *text == texts[0])) {
        return Met::Whole;
    }
    // Where the directory is by now, whatever became of its name.
    let now = fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd())).unwrap();
    let now = now.to_string_lossy();
    match texts {
        _ if now.contains(".pmpy-tmp-") || now.ends_with(" (deleted)") => Met::Retired,
        Some(_) => Met::Mix,
        None => Met::Missing,
    }
}

#[test]
fn a_reader_meets_one_whole_tree_while_one_after_the_other_is_published() {
    let site = Publisher::new("branches", "");
    let publish = |number: usize| {
        let text = format!("{number}\n");
        site.push_files("main", &FILES.map(|name| (name, text.as_str())));
        site.machine.tick().ok();
    };
    publish(0);
    let times = times();
    let enough = AtomicBool::new(false);
    let look_on = || {
        let (mut whole, mut mixed, mut retired, mut missing) = (0_usize, 0, 0, 0);
        while !enough.load(Ordering::Relaxed) {
            let count = match look(&site) {
                Met::Whole => &mut whole,
                Met::Mix => &mut mixed,
                Met::Retired => &mut retired,
                Met::Missing => &mut missing,
            };
            *count += 1;
        }
        (whole, mixed, retired, missing)
    };
    let (whole, mixed, retired, missing) = thread::scope(|scope| {
        let reader = scope.spawn(look_on);
        (1..=times).for_each(publish);
        enough.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!(
        "readers: publications={times} whole={whole} mixed={mixed} retired={retired} missing={missing}"
    );
    assert_eq!((mixed, missing), (0, 0));
    assert!(whole > times, "only {whole} looks");
    assert_eq!(site.page("main"), Some(times.to_string()));
}
