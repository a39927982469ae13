//! Tests of `status`.

use anstream::adapter::strip_str;
use chrono::Duration;

use super::*;
use crate::domain::repository::status::LastDeployed;

fn now() -> DateTime<Utc> {
    "2026-11-22T09:00:00Z".parse().unwrap()
}

fn row(name: &str, state: State) -> StatusRow {
    let revision = "1234abcd56".repeat(4).parse().unwrap();
    StatusRow {
        path: format!("/root/gitrepo/{name}"),
        remote: Some("https://git.example.org/spog".into()),
        branch: Some("main".into()),
        head: Some(revision),
        upstream: Some(revision),
        acted: Some(LastDeployed {
            tag: None,
            revision,
            signer: None,
            subject: Some("bonkle".into()),
            at: Some(now() - Duration::minutes(7)),
            trigger: Some("cron".into()),
            outcome: Some("succeeded".into()),
            seconds: Some(0.8),
        }),
        ..StatusRow::bare(name, state, now() - Duration::minutes(7))
    }
}

fn failing() -> StatusRow {
    StatusRow {
        reason: Some("1234abc exited 1".into()),
        attempt: 3,
        next_try: Some(now() + Duration::minutes(4)),
        ..row("ops", State::Failing)
    }
}

fn status(repositories: Vec<StatusRow>) -> MachineStatus {
    MachineStatus {
        agent: "0.1.0".into(),
        host: "web01".into(),
        part: Some("appnode".into()),
        stack: None,
        root: "/root/gitrepo".into(),
        at: now(),
        last_tick: Some(now() - Duration::seconds(31)),
        healthy: true,
        configuration: None,
        presence: None,
        repositories,
    }
    .with_health()
}

fn plain(status: &MachineStatus, detail: DetailLevel, width: Option<u16>) -> String {
    strip_str(&text(status, TextForm { detail, ..TextForm::brief(width) }, now())).to_string()
}

#[test]
fn a_status_is_a_headline_and_a_line_for_each_repository() {
    let text =
        plain(&status(vec![failing(), row("spog", State::Current)]), DetailLevel::Brief, None);
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("web01 · part appnode · /root/gitrepo · last tick 31 s ago, "));
    assert_eq!(lines[1..3], ["2 repositories: 1 failing, 1 current", ""]);
    assert!(lines[3].starts_with("ops   failing  1234abc bonkle  7 min ago, "), "{text}");
    assert!(lines[4].starts_with("    1234abc exited 1, attempt 3, next try in 4 min, "));
    assert!(lines[5].starts_with("spog  current  1234abc bonkle  7 min ago, "));
    assert_eq!(lines.len(), 6);
    assert!(text.ends_with('\n'));
}

#[test]
fn a_hint_is_on_its_own_line() {
    let broken = StatusRow {
        reason: Some("it is a bare repository\nhint: clone it anew".into()),
        ..row("ops", State::Broken)
    };
    let text = plain(&status(vec![broken]), DetailLevel::Brief, None);
    assert!(text.ends_with("    it is a bare repository\n    hint: clone it anew\n"), "{text}");
}

#[test]
fn stopped_ticks_and_an_empty_root_are_reported_with_the_next_command() {
    let mut stopped = status(Vec::new());
    stopped.last_tick = Some(now() - Duration::hours(2));
    let text = plain(&stopped, DetailLevel::Brief, None);
    assert!(text.contains("warning: no tick for 2 h"), "{text}");
    assert_eq!(exit_code(&stopped), ExitStatus::Attention);
    assert!(text.contains("agent tick"));
    assert!(text.contains("warning: there is no repository under /root/gitrepo"));
    assert!(text.contains("agent init"));
    assert!(oneline(&stopped, now()).starts_with("no tick for 2 h · no repository\n"));

    stopped.last_tick = None;
    assert!(plain(&stopped, DetailLevel::Brief, None).contains("warning: no tick has run here"));
}

#[test]
fn verbose_adds_all_that_is_known() {
    let mut spog = row("spog", State::Failing);
    spog.attempt = 2;
    spog.next_try = Some(now() + Duration::minutes(1));
    spog.published.push(PublishedRef {
        name: "refs/heads/main".into(),
        revision: spog.head,
        path: "/data/sites/main".into(),
        state: State::Current,
        reason: None,
        bad: None,
    });
    let text = plain(&status(vec![spog]), DetailLevel::Full, None);
    let revision = "1234abcd56".repeat(4);
    for part in [
        "    path        /root/gitrepo/spog\n",
        "    remote      https://git.example.org/spog\n",
        "    branch      main\n",
        &format!("    head        {revision}\n"),
        &format!("    upstream    {revision}\n"),
        &format!("    acted       {revision}, cron, succeeded, took 0.8 s, 7 min ago, "),
        "    conditions  failing\n",
        "    attempt     2\n",
        "    next try    in 1 min, ",
        "    refs/heads/main current 1234abc at /data/sites/main\n",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
}

#[test]
fn no_line_is_wider_than_its_terminal() {
    let mut long = row("spog", State::Current);
    long.acted.as_mut().unwrap().subject = Some("a very long subject 世界 ".repeat(9));
    let reason = Some("no answer from the server within ten seconds and twice more".into());
    let away = StatusRow { reason, ..row("ops", State::Unreachable) };
    let status = status(vec![long, away]);
    for width in [50, 60, 80, 100, 132] {
        let text = plain(&status, DetailLevel::Brief, Some(width));
        for line in text.lines() {
            assert!(line.chars().count() <= width.into(), "{width}: {line}");
        }
        for line in text.lines().filter(|line| line.starts_with("ops") || line.starts_with("spog"))
        {
            assert!(line.contains("7 min ago"), "{width}: {line}");
        }
    }
}

#[test]
fn foreign_text_cannot_steer_the_terminal() {
    let mut evil = failing();
    let text_of_evil = "\u{1b}]0;x\u{7}\r\n|";
    evil.name = text_of_evil.into();
    evil.path = text_of_evil.into();
    evil.remote = Some(text_of_evil.into());
    evil.branch = Some(text_of_evil.into());
    evil.reason = Some(text_of_evil.into());
    evil.acted.as_mut().unwrap().subject = Some(text_of_evil.into());
    evil.acted.as_mut().unwrap().trigger = Some(text_of_evil.into());
    evil.published.push(PublishedRef {
        name: text_of_evil.into(),
        revision: None,
        path: text_of_evil.into(),
        state: State::Refused,
        reason: Some(text_of_evil.into()),
        bad: None,
    });
    let mut status = status(vec![evil]);
    status.host = text_of_evil.into();
    status.root = text_of_evil.into();
    status.part = Some(text_of_evil.into());
    let (nagios, _) = nagios(Some(&status));
    for text in [plain(&status, DetailLevel::Full, None), oneline(&status, now()), nagios.clone()] {
        assert!(!text.contains(['\u{1b}', '\u{7}', '\r']), "{text}");
    }
    assert_eq!(oneline(&status, now()).lines().count(), 1);
    assert_eq!(nagios.lines().count(), 1);
    assert_eq!(nagios.matches('|').count(), 1);
}

#[test]
fn a_prompt_gets_one_line_in_total() {
    let status = status(vec![row("spog", State::Current), failing()]);
    assert_eq!(
        oneline(&status, now()),
        "spog current 1234abc 7 min ago · ops failing (attempt 3)\n"
    );
}

#[test]
fn monitoring_gets_a_word_an_exit_code_and_performance_data() {
    let rows = vec![row("a", State::Current), row("b", State::Current)];
    assert_eq!(
        nagios(Some(&status(rows.clone()))),
        (
            "PMPY OK - 2 repositories current | repositories=2;;;0 attention=0;;;0 \
             failing=0;;;0 held=0;;;0 last_tick=31s;;300;0\n"
                .to_owned(),
            0
        )
    );
    let held = status(vec![row("a", State::Current), row("b", State::Held)]);
    let (text, code) = nagios(Some(&held));
    assert!(text.starts_with("PMPY OK - 2 repositories: 1 held, 1 current | "), "{text}");
    assert_eq!(code, 0);
}

#[test]
fn monitoring_hears_of_the_worst_first() {
    let dirty = StatusRow { reason: Some("a|b".into()), ..row("a", State::Dirty) };
    let (text, code) = nagios(Some(&status(vec![dirty.clone()])));
    assert!(text.starts_with("PMPY WARNING - a dirty: a/b | "), "{text}");
    assert_eq!(code, 1);

    let (text, code) = nagios(Some(&status(vec![dirty, failing()])));
    let start = "PMPY CRITICAL - ops failing (attempt 3): 1234abc exited 1; a dirty: a/b | ";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("attention=2;;;0 failing=1;;;0"));
    assert_eq!(code, 2);

    let many = (0..9).map(|n| row(&format!("r{n}"), State::Broken)).collect();
    assert!(nagios(Some(&status(many))).0.contains("r4 broken; and 4 more | "));
}

#[test]
fn monitoring_hears_of_silence_and_emptiness() {
    let mut stopped = status(vec![row("a", State::Current)]);
    stopped.last_tick = Some(now() - Duration::minutes(6));
    let (text, code) = nagios(Some(&stopped));
    assert!(text.starts_with("PMPY CRITICAL - no tick for 6 min | "), "{text}");
    assert_eq!(code, 2);
    stopped.last_tick = None;
    assert_eq!(nagios(Some(&stopped)).1, 3);
    assert_eq!(nagios(None).1, 3);
    assert_eq!(nagios(Some(&status(Vec::new()))).1, 1);
}

#[test]
fn the_exit_code_says_whether_a_person_should_look() {
    assert_eq!(exit_code(&status(vec![row("a", State::Held)])), ExitStatus::Fine);
    assert_eq!(exit_code(&status(vec![row("a", State::Unreachable)])), ExitStatus::Fine);
    assert_eq!(
        exit_code(&status(vec![row("a", State::Current), failing()])),
        ExitStatus::Attention
    );
}

#[test]
fn json_is_what_the_contract_shows() {
    let text = json(&status(vec![row("spog", State::Current)])).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["healthy"], true);
    assert_eq!(value["stack"], serde_json::Value::Null);
    assert_eq!(value["last_tick"], "2026-11-22T08:59:29Z");
    let spog = &value["repositories"][0];
    assert_eq!(spog["state"], "current");
    assert_eq!(spog["acted"]["subject"], "bonkle");
    assert_eq!(spog["published"], serde_json::json!([]));
    assert_eq!(
        serde_json::from_str::<MachineStatus>(&text).unwrap(),
        status(vec![row("spog", State::Current)])
    );
}
