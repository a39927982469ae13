//! Self-repair: whatever a power cut makes of the files of a `.git` (nothing, half of them, garbage),
//! two ticks later the machine is current again, or says what a person has to do, which the test then
//! does. The files of the worktree stay as they are, and no recorded revision is run again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text};

const NAME: &str = "ops";
const WORK: &str = "bin/work/common/work.sh";

/// What may become of a file.
#[derive(Clone, Copy, Debug)]
enum Ruin {
    Empty,
    Truncated,
    Garbage,
}

const RUINS: [Ruin; 3] = [Ruin::Empty, Ruin::Truncated, Ruin::Garbage];

impl Ruin {
    fn of(self, content: &[u8]) -> Vec<u8> {
        match self {
            Self::Empty => Vec::new(),
            Self::Truncated => content[..content.len() / 2].to_vec(),
            Self::Garbage => content.iter().map(|byte| byte.wrapping_mul(7) ^ 0xa5).collect(),
        }
    }

    fn strike(self, file: &Path) {
        let content = fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        // A clone of a path shares its objects with the server: that file stays.
        fs::remove_file(file).unwrap();
        fs::write(file, self.of(&content)).unwrap();
    }
}

/// A machine that has acted upon two revisions, each fetched by the agent.
fn machine() -> Sandbox {
    let machine = Sandbox::with(NAME, &[(WORK, NOTES_ITS_RUNS), ("docs/page", "one\n")]);
    machine.tick().ok();
    machine.push(NAME, &[("docs/page", "two\n")]);
    machine.tick().ok();
    assert_eq!(machine.state(NAME), "current", "{}", machine.row(NAME));
    machine
}

fn git_dir(machine: &Sandbox) -> PathBuf {
    machine.clone_of(NAME).join(".git")
}

/// The files of the worktree and what is in them; the agent's own directory left out.
fn worktree(machine: &Sandbox) -> Vec<(PathBuf, Vec<u8>)> {
    let clone = machine.clone_of(NAME);
    let mut files = machine.files_below(&clone);
    files.retain(|file| !file.starts_with(".git") && !file.starts_with(".temp"));
    files.into_iter().map(|file| (file.clone(), fs::read(clone.join(&file)).unwrap())).collect()
}

/// Every revision that has a script's `end` line ran once.
#[track_caller]
fn nothing_ran_twice(machine: &Sandbox) {
    let mut ends: Vec<String> =
        machine.runs().into_iter().filter(|line| line.starts_with("end")).collect();
    ends.sort();
    let all = ends.len();
    ends.dedup();
    assert_eq!(all, ends.len(), "a recorded revision was run again: {:?}", machine.runs());
}

/// Two ticks, and everything is as it ought to be at `revision`.
#[track_caller]
fn current_in_two_ticks(machine: &Sandbox, revision: &str, what: &str) {
    let ticks = [machine.tick(), machine.tick()];
    let row = machine.row(NAME);
    assert_eq!(row["state"], "current", "{what}: {row:#}\n{}\n{}", ticks[0], ticks[1]);
    assert_eq!(machine.lastaction(NAME).as_deref(), Some(revision), "{what}");
    assert_eq!(machine.head(NAME), revision, "{what}");
    assert_eq!(machine.differences(NAME), "", "{what}");
    machine.git(&machine.clone_of(NAME), &["fsck", "--strict", "--no-dangling"]);
    nothing_ran_twice(machine);
}

/// Strikes `file` with each ruin: first nothing else happens, then upstream moves.
fn heals(file: impl Fn(&Sandbox) -> PathBuf) {
    for ruin in RUINS {
        let machine = machine();
        let before = worktree(&machine);
        let head = machine.head(NAME);
        ruin.strike(&file(&machine));
        let what = format!("{ruin:?}");
        machine.tick();
        machine.tick();
        assert_eq!(worktree(&machine), before, "{what}: the worktree is not touched");
        assert_eq!(machine.lastaction(NAME), Some(head), "{what}");
        nothing_ran_twice(&machine);

        let next = machine.push(NAME, &[("docs/page", "three\n"), ("docs/more", "more\n")]);
        current_in_two_ticks(&machine, &next, &what);
    }
}

fn below_git(name: &'static str) -> impl Fn(&Sandbox) -> PathBuf {
    move |machine| git_dir(machine).join(name)
}

#[test]
fn a_damaged_branch_comes_back_from_its_log() {
    heals(below_git("refs/heads/main"));
}

#[test]
fn a_damaged_branch_comes_back_from_its_log_whatever_alphabet_that_is_in() {
    for shift in 0..4 {
        let machine = machine();
        let revision = machine.push_with(NAME, |desk| {
            fs::write(desk.join("docs/page"), "three\n").unwrap();
        });
        machine.tick().ok();
        assert_eq!(machine.lastaction(NAME).as_ref(), Some(&revision));
        // As a person's own commit would have it, wherever a character begins.
        let log = git_dir(&machine).join("logs/refs/heads/main");
        let text = fs::read_to_string(&log).unwrap();
        let (rest, last) = text.trim_end().rsplit_once('\n').unwrap();
        let ids = last.split(' ').take(2).collect::<Vec<_>>().join(" ");
        let name = format!("{}{}", "x".repeat(shift), "日".repeat(40));
        fs::write(&log, format!("{rest}\n{ids} {name} <p@example.org> 1 +0000\tx\n")).unwrap();
        Ruin::Empty.strike(&git_dir(&machine).join("refs/heads/main"));
        machine.tick();
        assert_eq!(machine.head(NAME), revision, "{shift}");
    }
}

#[test]
fn a_damaged_branch_without_a_log_comes_back_from_the_records() {
    heals(|machine| {
        let git_dir = git_dir(machine);
        fs::remove_dir_all(git_dir.join("logs")).unwrap();
        git_dir.join("refs/heads/main")
    });
}

#[test]
fn a_damaged_remote_tracking_ref_is_fetched_again() {
    heals(below_git("refs/remotes/origin/main"));
}

#[test]
fn a_damaged_high_water_mark_is_rebuilt() {
    heals(below_git("refs/pmpy/seen/main"));
}

#[test]
fn a_damaged_acted_ref_is_rebuilt() {
    heals(below_git("refs/pmpy/acted"));
}

#[test]
fn damaged_packed_refs_are_rebuilt() {
    heals(|machine| {
        machine.git(&machine.clone_of(NAME), &["pack-refs", "--all"]);
        git_dir(machine).join("packed-refs")
    });
}

#[test]
fn a_damaged_head_is_put_on_its_branch_again() {
    heals(below_git("HEAD"));
}

#[test]
fn a_damaged_index_is_made_anew() {
    heals(below_git("index"));
}

/// The file of a loose object of HEAD, which `name` names as rev-parse does.
fn loose(name: &'static str) -> impl Fn(&Sandbox) -> PathBuf {
    move |machine| {
        let clone = machine.clone_of(NAME);
        let packs: Vec<PathBuf> = files_in(machine, "objects/pack", "pack");
        for pack in packs {
            let away = clone.join("pack");
            fs::rename(&pack, &away).unwrap();
            let _ = fs::remove_file(pack.with_extension("idx"));
            let _ = fs::remove_file(pack.with_extension("rev"));
            let mut unpack = machine.command("git");
            unpack.current_dir(&clone).args(["unpack-objects", "-q"]);
            unpack.stdin(fs::File::open(&away).unwrap());
            assert!(unpack.status().unwrap().success());
            fs::remove_file(away).unwrap();
        }
        let id = machine.git(&clone, &["rev-parse", name]);
        git_dir(machine).join("objects").join(&id[..2]).join(&id[2..])
    }
}

fn files_in(machine: &Sandbox, dir: &str, extension: &str) -> Vec<PathBuf> {
    let dir = git_dir(machine).join(dir);
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == extension));
    files.sort_by_key(|path| path.metadata().unwrap().len());
    files
}

/// The largest file of this kind in the store, once everything is in one pack.
fn packed(extension: &'static str) -> impl Fn(&Sandbox) -> PathBuf {
    move |machine| {
        machine.git(&machine.clone_of(NAME), &["gc", "--quiet"]);
        files_in(machine, "objects/pack", extension).pop().unwrap()
    }
}

#[test]
fn a_damaged_commit_is_fetched_again() {
    heals(loose("HEAD"));
}

#[test]
fn a_damaged_tree_is_fetched_again() {
    heals(loose("HEAD:docs"));
}

#[test]
fn a_damaged_file_is_fetched_again() {
    heals(loose("HEAD:docs/page"));
}

#[test]
fn a_damaged_pack_is_fetched_again() {
    heals(packed("pack"));
}

#[test]
fn a_pack_whose_index_is_damaged_is_fetched_again() {
    heals(packed("idx"));
}

#[test]
fn a_damaged_configuration_is_written_anew_where_the_url_is_configured() {
    for ruin in RUINS {
        let machine = machine();
        let server = machine.server(NAME);
        let settings = format!("[repo.{NAME}]\nurl = \"{}\"\nbranch = \"main\"\n", text(&server));
        fs::write(machine.root().join(".pmpy/agent.toml"), settings).unwrap();
        let before = worktree(&machine);
        let head = machine.head(NAME);
        ruin.strike(&git_dir(&machine).join("config"));
        current_in_two_ticks(&machine, &head, &format!("{ruin:?}"));
        assert_eq!(worktree(&machine), before);
        let next = machine.push(NAME, &[("docs/page", "three\n")]);
        current_in_two_ticks(&machine, &next, &format!("{ruin:?}"));
        let url = machine.git(&machine.clone_of(NAME), &["config", "remote.origin.url"]);
        assert_eq!(url, text(&server));
    }
}

#[test]
fn a_damaged_configuration_is_broken_with_the_lines_to_write_where_no_url_is_known() {
    for ruin in RUINS {
        let machine = machine();
        let before = worktree(&machine);
        ruin.strike(&git_dir(&machine).join("config"));
        machine.tick().exits(1);
        let again = machine.tick().exits(1);
        let row = machine.row(NAME);
        assert_eq!(row["state"], "broken", "{ruin:?}: {row:#}");
        assert_eq!(again.stdout + &again.stderr, "", "it is told once");
        assert_eq!(worktree(&machine), before);

        let reason = row["reason"].as_str().unwrap();
        let (_, remedy) = reason.split_once("printf").expect(reason);
        let command = format!("printf{remedy}").replace("URL", text(&machine.server(NAME)));
        let mut shell = machine.command("bash");
        assert!(shell.args(["-c", &command]).status().unwrap().success(), "{command}");
        let next = machine.push(NAME, &[("docs/page", "three\n")]);
        current_in_two_ticks(&machine, &next, &format!("{ruin:?}"));
    }
}

#[test]
fn a_rewind_is_refused_even_when_the_high_water_mark_was_damaged() {
    for ruin in RUINS {
        let machine = machine();
        let head = machine.head(NAME);
        ruin.strike(&git_dir(&machine).join("refs/pmpy/seen/main"));
        let desk = machine.desk(NAME);
        machine.git(&desk, &["reset", "--quiet", "--hard", "HEAD~1"]);
        machine.git(&desk, &["push", "--quiet", "--force", "origin", "HEAD:main"]);
        machine.tick();
        machine.answered_twice(NAME, "refs/heads/main");
        machine.tick();
        assert_eq!(machine.state(NAME), "rewritten", "{ruin:?}: {:#}", machine.row(NAME));
        assert_eq!(machine.head(NAME), head);
    }
}

#[test]
fn local_commits_that_no_remote_has_cannot_be_brought_back_and_that_is_said() {
    let machine = machine();
    let clone = machine.clone_of(NAME);
    fs::write(clone.join("local"), "only here\n").unwrap();
    machine.git(&clone, &["add", "local"]);
    machine.git(&clone, &["commit", "--quiet", "--message", "Only here"]);
    machine.tick().ok();
    assert_eq!(machine.state(NAME), "ahead");
    let id = machine.git(&clone, &["rev-parse", "HEAD"]);
    Ruin::Empty.strike(&git_dir(&machine).join("objects").join(&id[..2]).join(&id[2..]));
    let before = worktree(&machine);
    machine.push(NAME, &[("docs/page", "three\n")]);
    machine.tick();
    machine.tick();
    let row = machine.row(NAME);
    assert_eq!(row["state"], "broken", "{row:#}");
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains("git -C") && reason.contains("reset origin/"), "{reason}");
    assert_eq!(worktree(&machine), before);

    machine.git(&clone, &["update-ref", "refs/heads/main", "origin/main"]);
    machine.git(&clone, &["reset", "--quiet"]);
    fs::remove_file(clone.join("local")).unwrap();
    let next = machine.push(NAME, &[("docs/page", "four\n")]);
    machine.tick();
    machine.tick();
    assert_eq!(machine.lastaction(NAME), Some(next), "{:#}", machine.row(NAME));
}

/// A clone with a branch whose commit no remote has, in a pack whose index is damaged.
fn machine_with_local_commits_in_a_damaged_pack() -> (Sandbox, String) {
    let machine = machine();
    let clone = machine.clone_of(NAME);
    let id = machine.git(&clone, &["commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", "Only here"]);
    machine.git(&clone, &["update-ref", "refs/heads/mine", &id]);
    Ruin::Truncated.strike(&packed("idx")(&machine));
    (machine, id)
}

#[test]
fn what_was_put_aside_with_local_commits_is_kept_and_its_place_is_named() {
    let (machine, id) = machine_with_local_commits_in_a_damaged_pack();
    let next = machine.push(NAME, &[("docs/page", "three\n")]);
    current_in_two_ticks(&machine, &next, "the branch of the machine");
    let row = machine.row(NAME);
    let reason = row["reason"].as_str().unwrap();
    assert!(reason.contains(&format!("refs/heads/mine pointed to {id}")), "{reason}");
    let (_, kept) = reason.split_once("is kept in ").expect(reason);
    let kept = PathBuf::from(kept.split([';', ' ']).next().unwrap());
    // A month later it is still there, and a person brings everything back.
    let old = kept.with_file_name("20200101T000000Z.kept");
    fs::rename(&kept, &old).unwrap();
    let other = old.with_extension("");
    fs::create_dir(&other).unwrap();
    let next = machine.push(NAME, &[("docs/page", "four\n")]);
    current_in_two_ticks(&machine, &next, "later");
    assert!(old.exists() && !other.exists());
    let clone = machine.clone_of(NAME);
    let unpack = format!("git unpack-objects -q -r < {}/objects/pack/pack-*.pack", text(&old));
    let mut shell = machine.command("bash");
    assert!(shell.current_dir(&clone).args(["-c", &unpack]).status().unwrap().success());
    assert_eq!(machine.git(&clone, &["log", "-1", "--format=%s", &id]), "Only here");
}

#[test]
fn a_remote_that_does_not_answer_is_no_reason_to_repair_anything() {
    let machine = machine();
    let server = machine.server(NAME);
    fs::rename(&server, server.with_extension("away")).unwrap();
    machine.tick();
    machine.tick();
    assert_eq!(machine.state(NAME), "unreachable");
    assert!(!git_dir(&machine).join("pmpy/quarantine").exists());
    assert!(!git_dir(&machine).join("pmpy/repair").exists());
}

#[test]
fn a_repair_that_needs_the_remote_is_made_once_the_remote_is_back() {
    let machine = machine();
    let next = machine.push(NAME, &[("docs/page", "three\n")]);
    Ruin::Garbage.strike(&packed("pack")(&machine));
    let server = machine.server(NAME);
    let objects = server.join("objects");
    fs::rename(&objects, server.join("away")).unwrap();
    fs::create_dir(&objects).unwrap();
    machine.tick();
    assert_ne!(machine.state(NAME), "current");
    fs::remove_dir_all(&objects).unwrap();
    fs::rename(server.join("away"), &objects).unwrap();
    current_in_two_ticks(&machine, &next, "once it is back");
}

#[test]
fn a_torn_object_on_the_server_is_reported_and_hangs_nothing() {
    let machine = machine();
    machine.push(NAME, &[("docs/page", "three\n")]);
    let server = machine.server(NAME);
    let id = machine.git(&server, &["rev-parse", "main:docs/page"]);
    Ruin::Truncated.strike(&server.join("objects").join(&id[..2]).join(&id[2..]));
    machine.tick();
    let row = machine.row(NAME);
    assert_eq!(row["state"], "unreachable", "{row:#}");
    assert!(row["reason"].as_str().unwrap().contains("is cut off"), "{row:#}");
}

fn aged(file: &Path, minutes: u64) {
    let time = SystemTime::now() - Duration::from_secs(60 * minutes);
    fs::File::options().write(true).open(file).unwrap().set_modified(time).unwrap();
}

const LOCKS: [&str; 5] =
    ["index.lock", "HEAD.lock", "packed-refs.lock", "shallow.lock", "refs/heads/main.lock"];

#[test]
fn a_fresh_lock_of_somebody_elses_is_reported_and_left() {
    let machine = machine();
    let lock = git_dir(&machine).join("index.lock");
    fs::write(&lock, "").unwrap();
    let next = machine.push(NAME, &[("docs/page", "three\n")]);
    let before = worktree(&machine);
    machine.tick().exits(1);
    assert!(lock.exists());
    let row = machine.row(NAME);
    let reason = row["reason"].as_str().unwrap();
    for reported in ["index.lock", "since", "ten minutes"] {
        assert!(reason.contains(reported), "{reported}: {reason}");
    }
    assert_eq!(worktree(&machine), before, "nothing is begun that could not be ended");

    fs::remove_file(lock).unwrap();
    current_in_two_ticks(&machine, &next, "once it is gone");
}

#[test]
fn an_old_lock_that_no_process_has_open_is_swept_whatever_its_name() {
    let machine = machine();
    for name in LOCKS {
        let lock = git_dir(&machine).join(name);
        fs::write(&lock, "").unwrap();
        aged(&lock, 11);
        let next = machine.push(NAME, &[("docs/page", name)]);
        machine.tick().ok();
        assert_eq!(machine.lastaction(NAME), Some(next), "{name}: {:#}", machine.row(NAME));
        assert!(!lock.exists(), "{name}");
    }
}

#[test]
fn an_old_lock_that_a_process_has_open_is_left() {
    let machine = machine();
    let lock = git_dir(&machine).join("index.lock");
    let open = fs::File::create(&lock).unwrap();
    aged(&lock, 11);
    let next = machine.push(NAME, &[("docs/page", "three\n")]);
    machine.tick().exits(1);
    assert!(lock.exists());
    drop(open);
    current_in_two_ticks(&machine, &next, "once it is closed");
}

#[test]
fn what_killed_fetches_received_is_removed() {
    let machine = machine();
    let packs = git_dir(&machine).join("objects/pack");
    fs::write(packs.join("pack_git2_abc123"), [0; 4096]).unwrap();
    fs::write(packs.join("tmp_pack_old"), [0; 4096]).unwrap();
    aged(&packs.join("tmp_pack_old"), 11);
    fs::write(packs.join("tmp_pack_new"), [0; 4096]).unwrap();
    machine.push(NAME, &[("docs/page", "three\n")]);
    machine.tick().ok();
    let left = |name: &str| packs.join(name).exists();
    assert!(!left("pack_git2_abc123"));
    assert!(!left("tmp_pack_old"));
    assert!(left("tmp_pack_new"), "somebody's git may be writing it now");
}

#[test]
fn a_repair_is_mentioned_in_the_status_and_what_was_damaged_is_kept() {
    let machine = machine();
    let file = git_dir(&machine).join("HEAD");
    fs::write(&file, "garbage").unwrap();
    machine.tick();
    machine.tick().ok();
    let row = machine.row(NAME);
    assert_eq!(row["state"], "current");
    assert!(row["reason"].as_str().unwrap().contains("HEAD"), "{row:#}");
    let kept = git_dir(&machine).join("pmpy/quarantine");
    let kept: Vec<PathBuf> = fs::read_dir(kept).unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(fs::read_to_string(kept[0].join("HEAD")).unwrap(), "garbage");
}
