//! `agent history`: a run with each outcome, of one repository and of two.

use chrono::Duration;
use pmpy::cmd::history;
use pmpy::domain::repository::action::{FinishedRun, Outcome, Trigger};
use pmpy::domain::repository::history::{ActKind, HistoryEntry, PersonAct};
use pmpy::domain::repository::hold::Person;

use crate::{Sheet, commit, now, plain};

fn run(digit: char, minutes_ago: i64, outcome: Outcome) -> FinishedRun {
    FinishedRun {
        tag: None,
        id: format!("{digit}-{minutes_ago}"),
        at: now() - Duration::minutes(minutes_ago),
        revision: commit(digit),
        subject: "Serve the new page to everybody who asks for it".into(),
        reference: None,
        previous: None,
        trigger: Trigger::Cron,
        outcome,
        attempt: 1,
        seconds: 0.84,
        log: Some("1.log".into()),
        tree: None,
        signer: None,
        count: 1,
        first: None,
    }
}

#[test]
fn each_outcome_has_its_line() {
    let reason = "cannot write /root/gitrepo/site/page: no space left\nhint: make room".into();
    let mut runs: Vec<_> = (0..3).map(|n| run('a', 3000 - n, Outcome::Succeeded)).collect();
    runs.push(FinishedRun { log: None, ..run('b', 2000, Outcome::Succeeded) });
    let others = [
        Outcome::Failed { code: 3 },
        Outcome::TimedOut,
        Outcome::Killed { signal: 9 },
        Outcome::Deferred,
        Outcome::Interrupted,
        Outcome::Hindered { reason },
    ];
    runs.extend(others.into_iter().zip(1..).map(|(outcome, at)| run('b', 90 - at, outcome)));
    runs.push(FinishedRun {
        attempt: 4,
        trigger: Trigger::Manual,
        ..run('b', 3, Outcome::TimedOut)
    });
    let mut all: Vec<_> = runs.into_iter().map(HistoryEntry::Run).collect();
    let who = Person { name: "ann".into(), from: Some("10.0.0.7".into()), ..Person::default() };
    let reason = Some("database restore".to_owned());
    for (act, ago) in [(ActKind::Hold, 40), (ActKind::Unhold, 30)] {
        let (at, who, reason) = (now() - Duration::minutes(ago), who.clone(), reason.clone());
        let until = (act == ActKind::Hold).then(|| now() + Duration::hours(1));
        all.push(HistoryEntry::Act(PersonAct { at, act, who, reason, revision: None, until }));
    }
    let (at, act, revision) = (now() - Duration::minutes(8), ActKind::Rollback, Some(commit('a')));
    all.push(HistoryEntry::Act(PersonAct { at, act, who, reason: None, revision, until: None }));
    let one = [("site".to_owned(), all)];
    let reference = Some("refs/heads/next".to_owned());
    let published = FinishedRun { reference, ..run('c', 5, Outcome::Succeeded) };
    let two = [one[0].clone(), ("shop".to_owned(), vec![HistoryEntry::Run(published)])];
    let mut sheet = Sheet::default();
    sheet.add("one repository", &plain(&history::text(&one, 20, None, now())));
    sheet.add("two repositories", &plain(&history::text(&two, 20, None, now())));
    sheet.add("79 columns", &plain(&history::text(&two, 20, Some(79), now())));
    sheet.add("none", &history::text(&[], 20, None, now()));
    sheet.same("history");
}
