//! What a server says of its branches: none at all, renamed, deleted, moved while it is asked.

use crate::sandbox::{NOTES_ITS_RUNS, Sandbox, text};
use crate::servers::Https;

use super::{acted, converges, mitm_proxy, news, pull_from, trusting};

/// The URL of `ops` as it is on the server, and the machine that pulls it.
fn over_https(machine: &Sandbox) -> Https {
    let server = Https::of(machine);
    pull_from(machine, &trusting(&server), &[("ops", server.url("ops"))]);
    server
}

#[test]
fn an_empty_repository_is_new_until_something_is_pushed() {
    let machine = Sandbox::new();
    let bare = machine.server("ops");
    let dir = machine.path("");
    machine.git(&dir, &["init", "--quiet", "--bare", "--initial-branch=main", text(&bare)]);
    let _server = over_https(&machine);
    machine.tick().ok();
    assert_eq!(machine.state("ops"), "new", "{:#}", machine.row("ops"));
    let desk = machine.desk("ops");
    machine.git(&dir, &["clone", "--quiet", text(&bare), text(&desk)]);
    let revision = machine.push("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    converges(&machine, "ops", &revision);
}

#[test]
fn a_repository_that_is_missing_is_cloned() {
    let machine = Sandbox::new();
    let revision = machine.serve("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    let _server = over_https(&machine);
    converges(&machine, "ops", &revision);
    assert_eq!(machine.runs().last(), Some(&format!("end {revision}")));
}

#[test]
fn a_repository_of_sha_256_is_cloned_and_followed() {
    let machine = Sandbox::new();
    let (bare, desk, dir) = (machine.server("ops"), machine.desk("ops"), machine.path(""));
    let format = "--object-format=sha256";
    let branch = "--initial-branch=main";
    machine.git(&dir, &["init", "--quiet", "--bare", format, branch, text(&bare)]);
    machine.git(&dir, &["init", "--quiet", format, branch, text(&desk)]);
    machine.git(&desk, &["remote", "add", "origin", text(&bare)]);
    let first = machine.push("ops", &[("bin/work/common/work.sh", NOTES_ITS_RUNS)]);
    assert_eq!(first.len(), 64);
    let server = over_https(&machine);
    converges(&machine, "ops", &first);
    let second = news(&machine, "ops", "new");
    converges(&machine, "ops", &second);
    server.forget_requests();
    machine.tick().ok();
    assert_eq!(server.requests().len(), 1, "the format is known by now");
}

#[test]
fn a_changed_branch_is_published_with_one_question_and_one_fetch() {
    let machine = Sandbox::new();
    machine.serve("ops", &[("page", "old")]);
    let server = Https::of(&machine);
    machine.configure(&format!(
        "[defaults]\n{}[repo.ops]\nurl = {:?}\nmode = \"branches\"\ntarget = {:?}\n",
        trusting(&server),
        server.url("ops"),
        machine.path("published")
    ));
    std::fs::create_dir(machine.path("published")).unwrap();
    machine.tick().ok();
    assert_eq!(server.requests().len(), 3, "the first time asks what the server can do");
    news(&machine, "ops", "new");
    server.forget_requests();
    machine.tick().ok();
    let page = std::fs::read_to_string(machine.path("published/main/page")).unwrap();
    assert_eq!((page.as_str(), server.requests().len()), ("new", 2));
}

#[test]
fn a_default_branch_that_was_renamed_is_followed_and_reported_once() {
    let machine = acted(&["ops"]);
    let _server = over_https(&machine);
    machine.tick().ok();
    let bare = machine.server("ops");
    machine.git(&bare, &["branch", "-m", "main", "trunk"]);
    let desk = machine.desk("ops");
    std::fs::write(desk.join("page"), "new").unwrap();
    machine.git(&desk, &["add", "--all"]);
    machine.git(&desk, &["commit", "--quiet", "--message", "On the trunk"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:trunk"]);
    let revision = machine.git(&desk, &["rev-parse", "HEAD"]);
    machine.answered_twice("ops", "refs/heads/main");
    let reported: Vec<bool> = (0..4)
        .map(|_| machine.tick().ok().stdout)
        .map(|said| said.contains("ops: now follows trunk (was main)"))
        .collect();
    assert_eq!(machine.lastaction("ops"), Some(revision), "{:#}", machine.row("ops"));
    assert_eq!(reported.iter().filter(|reported| **reported).count(), 1, "{reported:?}");
}

#[test]
fn a_branch_that_was_deleted_leaves_everything_as_it_is() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    machine.configure(&format!(
        "[defaults]\n{}[repo.ops]\nurl = {:?}\nbranch = \"main\"\n",
        trusting(&server),
        server.url("ops")
    ));
    let good = machine.lastaction("ops");
    machine.git(&machine.server("ops"), &["update-ref", "-d", "refs/heads/main"]);
    machine.tick().ok();
    machine.answered_twice("ops", "refs/heads/main");
    machine.tick().exits(1);
    assert_eq!(machine.lastaction("ops"), good);
    assert_eq!(machine.state("ops"), "no-ref", "{:#}", machine.row("ops"));
    let revision = news(&machine, "ops", "back again");
    converges(&machine, "ops", &revision);
}

#[test]
fn a_branch_whose_name_only_begins_like_the_wanted_one_is_not_taken_for_it() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    machine.configure(&format!(
        "[defaults]\n{}[repo.ops]\nurl = {:?}\nbranch = \"main\"\n",
        trusting(&server),
        server.url("ops")
    ));
    let good = machine.lastaction("ops");
    let desk = machine.desk("ops");
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "Not for us"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/main2"]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), good);
    assert_eq!(machine.state("ops"), "current", "{:#}", machine.row("ops"));
}

#[test]
fn a_tip_that_moves_between_poll_and_fetch_is_caught_up_with() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let first = news(&machine, "ops", "first");
    let bare = machine.server("ops");
    // The second one is on the server already, and becomes main while the first is fetched.
    let desk = machine.desk("ops");
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "The second"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/next"]);
    let second = machine.git(&desk, &["rev-parse", "HEAD"]);
    let command = format!("git --git-dir='{}' update-ref refs/heads/main {second}", text(&bare));
    let way = mitm_proxy::before_a_fetch(&machine, &server, &command);
    pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
    converges(&machine, "ops", &second);
    assert_ne!(first, second);
}

#[test]
fn a_tip_that_is_gone_when_it_is_fetched_is_asked_for_anew() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    let base = machine.head("ops");
    let gone = news(&machine, "ops", "gone before it was seen");
    let bare = machine.server("ops");
    let desk = machine.desk("ops");
    machine.git(&desk, &["reset", "--quiet", "--hard", &base]);
    machine.git(&desk, &["commit", "--quiet", "--allow-empty", "--message", "Instead"]);
    machine.git(&desk, &["push", "--quiet", "origin", "HEAD:refs/heads/instead"]);
    let instead = machine.git(&desk, &["rev-parse", "HEAD"]);
    let git = format!("git --git-dir='{}'", text(&bare));
    let command = format!(
        "{git} update-ref refs/heads/main {instead}; {git} reflog expire --expire=now --all; \
         {git} prune --expire=now"
    );
    let way = mitm_proxy::before_a_fetch(&machine, &server, &command);
    pull_from(&machine, &trusting(&server), &[("ops", server.url_at(&way, "ops"))]);
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(instead), "{:#}", machine.row("ops"));
    assert_ne!(machine.lastaction("ops"), Some(gone));
}
