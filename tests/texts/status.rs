//! `agent status` and the notices of a tick, on one machine with a repository in each state.

use std::collections::BTreeMap;

use chrono::Duration;
use pmpy::cmd::format;
use pmpy::cmd::status::{self, DetailLevel, TextForm};
use pmpy::domain::publish::release_paths::LeftFiles;
use pmpy::domain::remote::{LastPoll, RemoteHints, WireDialect};
use pmpy::domain::report::notices::{Notice, ReportedState, StateChange};
use pmpy::domain::repository::state::State;
use pmpy::domain::repository::status::{LastDeployed, MachineStatus, PublishedRef, StatusRow};

use crate::{Sheet, commit, now, plain, same};

/// A reason that such a state may have, with its hint.
fn reason(state: State) -> Option<&'static str> {
    match state {
        State::Acting => Some("bbbbbbb since just now (pid 4711)"),
        State::Broken => Some(
            "HEAD is detached: no branch is checked out\nhint: git -C /root/gitrepo/x switch main",
        ),
        State::Held => Some("by ann: release day\nhint: agent unhold x"),
        State::Pinned => Some("rolled back by ann\nhint: agent unhold x"),
        State::RolledBack => Some(
            "bbbbbbb failed its health check; back at aaaaaaa since 2026-11-22 08:40 UTC; waits for a newer revision",
        ),
        State::Failing => Some("bin/work/common/work.sh exited 3 at bbbbbbb"),
        State::Waiting => Some("bin/work/common/work.sh said \"not now\" (exit 75) at bbbbbbb"),
        State::Refused => Some("bbbbbbb has a path .temp/x\nhint: remove it in a new commit"),
        State::Rewritten => Some("upstream no longer has aaaaaaa\nhint: agent accept x bbbbbbb"),
        State::Diverged => Some("HEAD and upstream each have commits of their own"),
        State::Dirty => Some("local changes in page"),
        State::NoRef => Some("https://git.example.org/x.git has no branch main; it has: trunk"),
        State::Denied => Some("https://git.example.org/x.git: access denied (403)"),
        State::Unreachable => Some("git.example.org does not answer"),
        State::Behind => Some("bbbbbbb is fetched and not deployed yet"),
        State::New | State::Ahead | State::Current | State::Inactive => None,
    }
}

fn row(state: State) -> StatusRow {
    let (attempt, next_try) = match state {
        State::Failing => (3, Some(now() + Duration::minutes(4))),
        State::Waiting => (1, None),
        _ => (0, None),
    };
    let acted = (state != State::New).then(|| LastDeployed {
        tag: None,
        revision: commit('a'),
        signer: None,
        subject: Some("Serve the new page to everybody who asks for it".into()),
        at: Some(now() - Duration::minutes(7)),
        trigger: Some("cron".into()),
        outcome: Some("succeeded".into()),
        seconds: Some(0.8),
    });
    StatusRow {
        bad: (state == State::RolledBack).then(|| commit('b')),
        gate: None,
        tag: None,
        name: format!("{state}-repository"),
        path: format!("/root/gitrepo/{state}"),
        remote: Some("https://git.example.org/site.git".into()),
        branch: Some("main".into()),
        state,
        reason: reason(state).map(str::to_owned),
        conditions: vec![state],
        since: now() - Duration::minutes(20),
        head: Some(commit('a')),
        upstream: Some(commit('b')),
        acted,
        attempt,
        next_try,
        asked: None,
        refusals: 0,
        mirror_lags: false,
        gaps: None,
        left: None,
        holds: Vec::new(),
        ignored_keys: Vec::new(),
        drifted: None,
        actions: BTreeMap::new(),
        left_alone: Default::default(),
        published: Vec::new(),
    }
}

/// A repository that publishes three branches, one of them refused.
fn publisher() -> StatusRow {
    let entry = |name: &str, state, reason: Option<&str>| PublishedRef {
        name: format!("refs/heads/{name}"),
        revision: (state != State::Refused).then(|| commit('a')),
        path: format!("/data/sites/{name}"),
        state,
        reason: reason.map(str::to_owned),
        bad: None,
    };
    let way = RemoteHints {
        dialect: WireDialect::Direct,
        bytes: 812,
        milliseconds: 43,
        since: Some(now() - Duration::hours(30)),
        ..RemoteHints::default()
    };
    let remote = "https://git.example.org/site.git".to_owned();
    let asked = LastPoll { remote, mirror: true, way, on_demand: false };
    StatusRow {
        tag: None,
        name: "publisher".into(),
        asked: Some(asked),
        left: Some(LeftFiles {
            path: "/data/sites/.pmpy/.left".into(),
            files: 3,
            bytes: 70_215,
            is_more: false,
        }),
        published: vec![
            entry("main", State::Current, None),
            entry("next", State::Refused, Some("a path .temp/x\nhint: remove it")),
            entry("old", State::Held, Some("by its own .pmpy.toml: freeze")),
        ],
        ..row(State::Refused)
    }
}

fn machine(repositories: Vec<StatusRow>) -> MachineStatus {
    MachineStatus {
        agent: "0.1.0".into(),
        host: "web01".into(),
        part: Some("web".into()),
        stack: Some("blue".into()),
        root: "/root/gitrepo".into(),
        at: now(),
        last_tick: Some(now() - Duration::seconds(31)),
        healthy: true,
        configuration: None,
        presence: None,
        repositories,
    }
}

/// A repository in each state, and one that publishes.
fn every_state() -> MachineStatus {
    machine(State::ALL.into_iter().map(row).chain([publisher()]).collect())
}

fn text(status: &MachineStatus, detail: DetailLevel, width: Option<u16>) -> String {
    plain(&status::text(status, TextForm { detail, ..TextForm::brief(width) }, now()))
}

#[test]
fn each_state_has_its_line() {
    same("status", &text(&every_state(), DetailLevel::Brief, None));
}

#[test]
fn problems_are_listed_alone_and_a_failing_script_speaks() {
    let output = |row: &StatusRow| match row.state {
        State::Failing => vec!["+ make".to_owned(), "make: *** no rule\u{1b}[2J".to_owned()],
        _ => Vec::new(),
    };
    let form = TextForm { problems_only: true, output: &output, ..TextForm::brief(None) };
    same("status-problems", &plain(&status::text(&every_state(), form, now())));
}

#[test]
fn a_state_has_the_colour_of_its_meaning() {
    let mut sheet = Sheet::default();
    for state in State::ALL {
        let text = status::text(&machine(vec![row(state)]), TextForm::brief(None), now());
        let line = text.lines().find(|line| line.contains("-repository")).unwrap_or_default();
        let colour =
            [("9m", "red"), ("11m", "yellow"), ("10m", "green"), ("12m", "blue"), ("2m", "dim")];
        let (_, cell) = line.split_once("-repository").unwrap_or_default();
        let (code, _) = cell.split_once(state.as_str()).unwrap_or_default();
        let code = code.rsplit([';', '[']).next().unwrap_or_default();
        let named = colour.into_iter().find(|(end, _)| *end == code);
        sheet.add(state.as_str(), named.map_or(code, |(_, name)| name));
    }
    sheet.same("status-colours");
}

#[test]
fn a_terminal_cuts_the_subject_and_a_narrow_one_the_clock() {
    let mut sheet = Sheet::default();
    for width in [60, 80, 100, 140] {
        let told = text(&every_state(), DetailLevel::Brief, Some(width));
        sheet.add(&format!("{width} columns"), &told);
    }
    sheet.same("status-widths");
}

#[test]
fn verbose_has_every_fact() {
    let rows = vec![row(State::Current), row(State::Failing), publisher()];
    same("status-verbose", &text(&machine(rows), DetailLevel::Full, None));
}

#[test]
fn a_machine_without_ticks_or_repositories_says_what_to_do() {
    let mut sheet = Sheet::default();
    let empty = machine(Vec::new());
    let current = || vec![row(State::Current)];
    let silent = Some(now() - Duration::hours(2));
    for (title, status) in [
        ("no repository", empty.clone()),
        ("no tick, no repository", MachineStatus { last_tick: None, ..empty }),
        ("no tick", MachineStatus { last_tick: None, ..machine(current()) }),
        ("no tick for two hours", MachineStatus { last_tick: silent, ..machine(current()) }),
    ] {
        sheet.add(title, &text(&status, DetailLevel::Brief, None));
        sheet.add(&format!("{title}: --oneline"), &plain(&status::oneline(&status, now())));
        sheet.add(&format!("{title}: --nagios"), &status::nagios(Some(&status)).0);
    }
    sheet.same("status-without");
}

#[test]
fn prompts_and_monitoring_get_one_line() {
    let mut sheet = Sheet::default();
    let two = machine(vec![row(State::Current), row(State::Held)]);
    for (title, status) in [("two in order", two), ("each state", every_state())] {
        sheet.add(&format!("{title}: --oneline"), &plain(&status::oneline(&status, now())));
        sheet.add(&format!("{title}: --nagios"), &status::nagios(Some(&status)).0);
    }
    sheet.same("status-lines");
}

#[test]
fn a_notice_names_the_change_and_its_reason() {
    let reported = |state| ReportedState {
        state,
        branch: Some("master".into()),
        since: now() - Duration::hours(30),
        at: now() - Duration::hours(30),
    };
    let mut sheet = Sheet::default();
    for (change, was, state) in [
        (StateChange::Worse, Some(State::Current), State::Failing),
        (StateChange::Worse, None, State::Broken),
        (StateChange::Still, Some(State::Rewritten), State::Rewritten),
        (StateChange::Better, Some(State::Failing), State::Current),
        (StateChange::Moved, Some(State::Current), State::Current),
    ] {
        let notice = Notice { change, was: was.map(reported), row: row(state) };
        sheet.add(&format!("{change:?}"), &plain(&format::notice(&notice, now())));
    }
    sheet.same("notices");
}
