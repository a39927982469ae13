//! Tests of `logs`.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

fn now() -> DateTime<Utc> {
    "2026-11-22T09:00:00Z".parse().unwrap()
}

fn revision() -> Commit {
    "1234abcd56".repeat(4).parse().unwrap()
}

fn log(dir: &Path) -> ActionLog {
    ActionLog::create(dir, now(), &revision()).unwrap()
}

fn everything(path: &Path) -> Vec<String> {
    let mut reader = LogReader::open(path).unwrap();
    let mut all = Vec::new();
    loop {
        let lines = reader.lines().unwrap();
        if lines.is_empty() {
            all.extend(reader.rest());
            return all;
        }
        all.extend(lines);
    }
}

#[test]
fn a_log_has_a_first_and_a_last_line_around_what_the_script_wrote() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("logs/spog");
    let log = log(&dir);
    log.start("1234abc, cron, attempt 1");
    log.file().write_all(b"hello\nno newline at the end").unwrap();
    let path = dir.join(log.name());
    log.finish(now() + Duration::seconds(2), &Outcome::Failed { code: 1 }, 2.04);
    assert_eq!(path.file_name().unwrap(), "20261122T090000.000Z-1234abcd5612.log");
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        "Start 20261122-090000 1234abc, cron, attempt 1\nhello\nno newline at the end\n\
         Finish 20261122-090002 exited 1, 2.0 s\n"
    );
    assert_eq!(tail(&path, 10).unwrap(), ["hello", "no newline at the end"]);
    assert_eq!(tail(&path, 1).unwrap(), ["no newline at the end"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o137, 0);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o027, 0);
}

#[test]
fn the_latest_log_is_that_of_the_latest_action_however_quick() {
    let temp = tempfile::tempdir().unwrap();
    let at: DateTime<Utc> = "2026-11-22T09:00:00.100Z".parse().unwrap();
    for (later, revision) in [(0, "f"), (7, "1"), (350, "e")] {
        let revision = revision.repeat(40).parse().unwrap();
        ActionLog::create(temp.path(), at + Duration::milliseconds(later), &revision).unwrap();
    }
    let order: Vec<_> =
        list(temp.path()).unwrap().into_iter().map(|entry| entry.revision).collect();
    assert_eq!(order, ["e", "1", "f"].map(|digit| digit.repeat(12)));
}

#[test]
fn two_actions_at_the_same_moment_have_two_logs() {
    let temp = tempfile::tempdir().unwrap();
    let first = log(temp.path());
    let second = log(temp.path());
    assert_eq!(second.name(), "20261122T090000.000Z-1234abcd5612-2.log");
    let newest = list(temp.path()).unwrap();
    assert_eq!(newest[0].path, temp.path().join(second.name()));
    assert_eq!(newest[1].path, temp.path().join(first.name()));
    assert_eq!(newest[1].revision, "1234abcd5612");
}

#[test]
fn a_reason_with_control_characters_stays_one_line() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    let path = temp.path().join(log.name());
    let outcome = Outcome::Hindered { reason: "disk\nfull\u{1b}[2J".into() };
    log.finish(now(), &outcome, 0.0);
    let text = fs::read_to_string(path).unwrap();
    assert_eq!(text, "Finish 20261122-090000 disk\\nfull\\u{1b}[2J, 0.0 s\n");
}

#[test]
fn a_script_that_writes_a_hundred_megabytes_takes_ten_and_keeps_its_head_and_tail() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    log.start("a flood");
    let line = "x".repeat(99) + "\n";
    let megabyte = line.repeat(10_000);
    for written in 1..=120 {
        log.file().write_all(megabyte.as_bytes()).unwrap();
        if written % 20 == 0 {
            log.curb();
            let on_disk = log.file().metadata().unwrap().blocks() * 512;
            assert!(on_disk < 11_000_000, "{on_disk} bytes on disk");
        }
    }
    let path = temp.path().join(log.name());
    assert!(fs::metadata(&path).unwrap().len() > 120_000_000);

    // A reader sees the same during the run as at the end, except for the last line.
    log.file().write_all(b"the end\n").unwrap();
    let meanwhile = everything(&path);
    log.finish(now(), &Outcome::Succeeded, 3.0);
    let text = fs::read_to_string(&path).unwrap();
    assert!((10_000_000..10_001_000).contains(&text.len()), "{} bytes", text.len());
    assert!(!text.contains('\0'));
    assert!(text.starts_with("Start 20261122-090000 a flood\nxxx"));
    assert!(text.contains("\n… 110,000,038 bytes left out …\n"));
    assert!(text.ends_with("x\nthe end\nFinish 20261122-090000 succeeded, 3.0 s\n"));
    let mut lines: Vec<_> = text.lines().collect();
    lines.pop();
    // Not `assert_eq`, which would print ten megabytes.
    assert!(meanwhile == lines);
    assert!(everything(&path) == text.lines().collect::<Vec<_>>());
}

#[test]
fn a_daemon_left_behind_continues_writing_into_the_log_that_is_seen() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    let path = temp.path().join(log.name());
    let daemon = log.file().try_clone().unwrap();
    log.file().write_all(&vec![b'x'; 12_000_000]).unwrap();
    log.finish(now(), &Outcome::Succeeded, 1.0);
    (&daemon).write_all(b"still here\n").unwrap();
    assert!(fs::read_to_string(&path).unwrap().ends_with(" s\nstill here\n"));
}

#[test]
fn a_log_that_only_just_fits_is_left_alone() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    let path = temp.path().join(log.name());
    log.file().write_all(&vec![b'x'; (HEAD + TAIL + OWN_LINES) as usize]).unwrap();
    log.curb();
    log.finish(now(), &Outcome::Succeeded, 1.0);
    assert!(!fs::read_to_string(path).unwrap().contains("left out"));
}

#[test]
fn a_reader_finds_its_place_after_the_log_was_closed_up() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    let path = temp.path().join(log.name());
    log.file().write_all("x".repeat(99).as_bytes()).unwrap();
    log.file().write_all(&"\ny".repeat(8_000_000).into_bytes()).unwrap();
    let mut reader = LogReader::open(&path).unwrap();
    while !reader.lines().unwrap().is_empty() {}
    log.finish(now(), &Outcome::Succeeded, 1.0);
    assert_eq!(reader.lines().unwrap(), ["Finish 20261122-090000 succeeded, 1.0 s"]);
}

#[test]
fn an_endless_line_is_cut_and_bytes_that_are_no_text_are_shown() {
    let temp = tempfile::tempdir().unwrap();
    let log = log(temp.path());
    let path = temp.path().join(log.name());
    log.file().write_all(&[b'x'; 3 * PIECE]).unwrap();
    log.file().write_all(b"\n\xff\n").unwrap();
    let lines = everything(&path);
    assert!(lines.iter().all(|line| line.len() <= 2 * PIECE));
    assert_eq!(lines.last().unwrap(), "\u{fffd}");
    assert_eq!(tail(&path, 1).unwrap(), ["\u{fffd}"]);
}

#[test]
fn a_full_disk_does_not_fail_the_action() {
    let full = || OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let name = "full.log".to_owned();
    let log = ActionLog { name, started: now(), appending: full(), whole: full() };
    log.start("nothing fits");
    log.curb();
    log.finish(now(), &Outcome::Succeeded, 0.1);
}

#[test]
fn the_newest_fifty_of_the_last_thirty_days_stay() {
    let temp = tempfile::tempdir().unwrap();
    let foreign = temp.path().join("notes.log");
    File::create(&foreign).unwrap();
    for hours in 0..60 {
        ActionLog::create(temp.path(), now() - Duration::hours(hours), &revision()).unwrap();
    }
    prune(temp.path(), now()).unwrap();
    let kept = list(temp.path()).unwrap();
    assert_eq!(kept.len(), 50);
    assert_eq!(kept[49].at, now() - Duration::hours(49));

    prune(temp.path(), now() + Duration::days(29)).unwrap();
    assert_eq!(list(temp.path()).unwrap().len(), 25);
    prune(temp.path(), now() + Duration::days(365)).unwrap();
    assert_eq!(list(temp.path()).unwrap().len(), 1, "the newest is never removed");
    assert!(foreign.exists());
}

#[test]
fn foreign_files_are_not_logs_and_a_missing_directory_has_none() {
    let temp = tempfile::tempdir().unwrap();
    for name in ["a.log", "20261122T090000Z-xyz.log", "20261122T090000Z-1234abcd5612.log~"] {
        File::create(temp.path().join(name)).unwrap();
    }
    fs::create_dir(temp.path().join("20261122T090000Z-1234abcd5612.log")).unwrap();
    assert_eq!(list(temp.path()).unwrap(), []);
    assert_eq!(list(&temp.path().join("missing")).unwrap(), []);
}

#[test]
fn any_name_becomes_one_harmless_directory() {
    for (name, directory) in [
        ("spog", "spog"),
        ("a.b-c_d", "a.b-c_d"),
        ("..", "%2E."),
        (".git", "%2Egit"),
        ("a/b", "a%2Fb"),
        ("50% ü\n", "50%25%20%C3%BC%0A"),
    ] {
        assert_eq!(dir_name(name), directory);
    }
}

#[test]
fn a_name_that_is_too_long_in_its_disguise_gets_a_directory_of_its_own() {
    let long = |last: &str| dir_name(&format!("{}{last}", "ü".repeat(127)));
    assert_eq!(long("a").len(), 255);
    assert_ne!(long("a"), long("b"));
    assert_eq!(long("a"), long("a"));
    assert!(!dir_name(&"+".repeat(85)).contains('+'), "no other name looks like it");
    let temp = tempfile::tempdir().unwrap();
    log(&temp.path().join(long("a")));
}

#[test]
fn in_any_order_of_users_the_way_to_the_logs_is_open_and_the_logs_are_not() {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let temp = tempfile::tempdir().unwrap();
    let logs = temp.path().join("log");
    let path = logs.join("a").join(log(&logs.join("a")).name());
    assert_eq!((mode(&logs), mode(&logs.join("a")), mode(&path)), (0o755, 0o750, 0o640));
    // The mode that older versions set.
    fs::set_permissions(&logs, fs::Permissions::from_mode(0o750)).unwrap();
    log(&logs.join("b"));
    assert_eq!(mode(&logs), 0o755);
}

#[test]
fn what_is_planted_in_the_place_of_a_log_is_neither_followed_nor_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let (logs, victim) = (temp.path().join("log"), temp.path().join("victim"));
    let dir = logs.join("spog");
    fs::create_dir_all(&dir).unwrap();
    fs::copy("/etc/hostname", &victim).unwrap();
    let at = |second: u32| dir.join(format!("20261122T0900{second:02}.000Z-1234abcd5612.log"));
    symlink(&victim, at(1)).unwrap();
    fs::create_dir(at(2)).unwrap();
    let (dot, mode) = (rustix::fs::CWD, Mode::RUSR | Mode::WUSR);
    rustix::fs::mknodat(dot, at(3), FileType::Fifo, mode, 0).unwrap();
    assert_eq!(list(&dir).unwrap(), []);
    for second in 1..=3 {
        LogReader::open(&at(second)).unwrap_err();
        tail(&at(second), 9).unwrap_err();
    }
    prune(&dir, now() + Duration::days(365)).unwrap();
    // The whole directory of a repository may also be a link.
    symlink(&dir, logs.join("link")).unwrap();
    list(&logs.join("link")).unwrap_err();
    let error = ActionLog::create(&logs.join("link"), now(), &revision()).unwrap_err();
    assert!(error.to_string().contains("log/link is no directory"), "{error}");
}

#[test]
fn a_line_that_only_resembles_ours_is_the_scripts() {
    assert!(is_finish("Finish 20261122-090002 exited 1, 2.0 s"));
    for line in ["Finish", "Finish line crossed", "Finished 20261122-090002 x", ""] {
        assert!(!is_finish(line), "{line}");
    }
}
