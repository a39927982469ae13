//! Packs that whoever sends them made to hurt: each is refused in a sentence, within a bound of memory
//! and time, is not asked for again at once, and stops no other repository.

use std::fs;

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox};

mod forge;
mod server;

use forge::{Kind, Object, Pack};
use server::Server;

/// A machine with a healthy clone `ops`, and `bad` that is to be cloned from `server`.
fn machine(server: &Server, more: &str) -> Sandbox {
    let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    machine.configure(&format!("[repo.bad]\nurl = \"{}\"\ninsecure = true\n{more}", server.url()));
    machine
}

#[track_caller]
fn reason(machine: &Sandbox, name: &str) -> String {
    machine.row(name)["reason"].as_str().unwrap_or_default().to_owned()
}

/// Nothing of a pack that was refused is left, nor a process.
#[track_caller]
fn nothing_is_left(machine: &Sandbox, name: &str) {
    let git = machine.clone_of(name).join(".git");
    assert!(!git.join("objects/tmp_objdir-pmpy").exists(), "the staging directory stays");
    let packs = fs::read_dir(git.join("objects/pack")).map_or(0, |packs| packs.count());
    assert_eq!(packs, 0, "a pack that was refused is in the store");
}

#[test]
fn a_pack_that_breaks_a_rule_is_reported_waits_for_its_turn_and_stops_no_other() {
    let base = Object::new(Kind::Blob, &[b'b'; 100]);
    let other = Object::new(Kind::Blob, b"another");
    let once = base.upon(b"x");
    let commit_of_100_mib = Object::new(Kind::Commit, &[b'c'; 1 << 16]);
    let cases: [(&str, Vec<u8>, &str); 13] = [
        ("twice", Pack::of(&[&base.whole(), &once, &once]), "an object twice"),
        ("whole twice", Pack::of(&[&base.whole(), &base.whole()]), "duplicate object"),
        ("announced", Pack::announcing(u32::MAX, &[&base.whole()]), "announces 4294967295 objects"),
        ("more", Pack::announcing(1, &[&base.whole(), &other.whole()]), "continues after its end"),
        ("fewer", Pack::announcing(3, &[&base.whole(), &other.whole()]), "its pack"),
        ("no base", Pack::of(&[&once]), "missing delta bases"),
        ("cycle", Pack::of(&[&base.upon(b"another"), &other.upon(&[b'b'; 100])]), "missing delta"),
        ("lie", Pack::of(&[&base.announcing(5)]), "more than the 5 bytes"),
        (
            "delta",
            Pack::of(&[&base.whole(), &base.repeated(4 << 30)]),
            "makes an object of 4294967296",
        ),
        (
            "commit",
            Pack::of(&[&Object::bomb(Kind::Commit, 100 << 20)]),
            "a commit of 104857600 bytes",
        ),
        ("tree", Pack::of(&[&Object::bomb(Kind::Tree, 300 << 20)]), "a tree of 314572800 bytes"),
        (
            "commit by delta",
            Pack::of(&[&commit_of_100_mib.whole(), &commit_of_100_mib.repeated(100 << 20)]),
            "a commit of 104857600 bytes",
        ),
        ("chain", Pack::chain(5_000), "more than 4095 deltas in a row"),
    ];
    for (what, pack, expected) in cases {
        let server = Server::start(pack);
        let machine = machine(&server, "");
        machine.tick();
        assert_eq!(machine.state("ops"), "current", "{what}");
        assert_eq!(machine.runs().len(), 2, "{what}: the neighbour acted");
        let reported = reason(&machine, "bad");
        assert!(reported.contains(expected), "{what}: {reported}");
        nothing_is_left(&machine, "bad");
        // Once more, for it may have been damaged on its way; then neither of the next two asks for it.
        machine.tick();
        let fetches = server.fetches();
        assert_eq!(fetches, 2, "{what}");
        machine.tick();
        machine.tick();
        assert_eq!(server.fetches(), fetches, "{what}: fetched again at once");
        assert!(reason(&machine, "bad").contains(expected), "{what}");
        machine.agent(&["tick", "bad"]);
        assert_eq!(server.fetches(), fetches + 1, "{what}: a person wants to know");
    }
}

#[test]
fn an_object_that_two_deltas_make_ends_by_its_memory() {
    let base = Object::new(Kind::Blob, &[b'b'; 100]);
    let pack = Pack::of(&[&base.whole(), &base.upon(&[b'x'; 50]), &base.in_halves(&[b'x'; 50])]);
    let server = Server::start(pack);
    let machine = machine(&server, "");
    machine.tick();
    let reported = reason(&machine, "bad");
    assert!(reported.contains("needs more memory than taking it in may use"), "{reported}");
    assert_eq!(machine.state("ops"), "current");
    nothing_is_left(&machine, "bad");
}

#[test]
fn a_pack_that_takes_for_ever_ends_ten_seconds_behind_the_network_limit() {
    // Each of these objects is made from all before it, and none is small enough to be kept.
    let server = Server::start(Pack::slow_chain(3_000, 2_000_000));
    let machine = machine(&server, "network_timeout = \"2s\"\n");
    machine.tick();
    let reported = reason(&machine, "bad");
    assert!(reported.contains("taking in its pack takes longer than 2s and 10s"), "{reported}");
    assert_eq!(machine.state("ops"), "current");
    nothing_is_left(&machine, "bad");
}

#[test]
fn a_good_revision_is_taken_from_a_mirror_when_the_first_sends_such_a_pack() {
    let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    machine.tick().ok();
    let revision = machine.push("ops", &[("page", "new")]);
    let base = Object::new(Kind::Blob, &[b'b'; 100]);
    let server = Server::announcing(&revision, Pack::of(&[&base.whole(), &base.whole()]));
    machine.configure(&format!(
        "[repo.ops]\nurl = [\"{}\", \"{}\"]\ninsecure = true\n",
        server.url(),
        machine.server("ops").display()
    ));
    machine.tick().ok();
    assert_eq!(server.fetches(), 1);
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn a_remote_on_this_machine_whose_pack_goes_in_circles_ends_at_the_network_limit() {
    let machine = Sandbox::with("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    machine.serve("bad", &[("page", "one")]);
    let server = machine.server("bad");
    let tip = machine.git(&server, &["rev-parse", "main"]);
    forge::replace_by_a_circle(&server, &tip);
    machine.configure(&format!(
        "[repo.bad]\nurl = \"{}\"\nnetwork_timeout = \"2s\"\n",
        server.display()
    ));
    machine.tick();
    let reported = reason(&machine, "bad");
    assert!(reported.contains("reading it"), "{reported}");
    assert_eq!(machine.state("ops"), "current");
    nothing_is_left(&machine, "bad");
}
