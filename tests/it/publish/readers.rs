//! Readers beside a machine that goes on publishing.

use std::fs::File;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::fs::{Mode, OFlags, openat};

use super::Publisher;

const FILES: [&str; 3] = ["page", "style/plain.css", "z/last"];

/// How often it is published.
const TIMES: usize = 100;

/// Every file of the tree in the one folder that was met, or `None` where none was.
fn read(site: &Publisher) -> Option<Vec<String>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(site.at("main"), flags, Mode::empty()).ok()?;
    let read = |name: &&str| {
        let file = openat(&folder, *name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(file).read_to_string(&mut text).ok()?;
        Some(text)
    };
    FILES.iter().map(read).collect()
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
    let enough = AtomicBool::new(false);
    let look_on = || {
        let (mut whole, mut mixed, mut missing) = (0_usize, 0_usize, 0_usize);
        while !enough.load(Ordering::Relaxed) {
            match read(&site) {
                None => missing += 1,
                Some(texts) if texts.iter().all(|text| *text == texts[0]) => whole += 1,
                Some(_) => mixed += 1,
            }
        }
        (whole, mixed, missing)
    };
    let (whole, mixed, missing) = thread::scope(|scope| {
        let reader = scope.spawn(look_on);
        (1..=TIMES).for_each(publish);
        enough.store(true, Ordering::Relaxed);
        reader.join().unwrap()
    });
    println!("readers: publications={TIMES} whole={whole} mixed={mixed} missing={missing}");
    assert_eq!((mixed, missing), (0, 0));
    assert!(whole > TIMES, "only {whole} looks");
    assert_eq!(site.page("main"), Some(TIMES.to_string()));
}
