//! `agent check`: findings of each level.

use pmpy::cmd::check;
use pmpy::engine::finding::{CheckFinding, FindingLevel};

use crate::{Sheet, plain};

fn finding(level: FindingLevel, subject: &str, text: &str, remedy: Option<&str>) -> CheckFinding {
    let (subject, text, remedy) = (subject.into(), text.into(), remedy.map(str::to_owned));
    CheckFinding { subject, level, text, remedy }
}

#[test]
fn findings_are_listed_with_their_hints_and_counted() {
    let ok = finding(FindingLevel::Ok, "root", "/root/gitrepo, 2 repositories", None);
    let warning = finding(
        FindingLevel::Warn,
        "tick",
        "there was none yet",
        Some("let cron call it: agent schedule cron"),
    );
    let bad = finding(
        FindingLevel::Bad,
        "site",
        "git.example.org denied access",
        Some("see which key is used: key_file"),
    );
    let mut sheet = Sheet::default();
    for (title, findings) in [
        ("in order", vec![ok.clone()]),
        ("a warning", vec![ok.clone(), warning.clone()]),
        ("an error", vec![ok.clone(), bad.clone()]),
        ("both", vec![ok, warning.clone(), warning, bad.clone(), bad]),
    ] {
        sheet.add(title, &plain(&check::text(&findings, FindingLevel::Ok)));
        sheet.add(&format!("{title}, -q"), &plain(&check::text(&findings, FindingLevel::Warn)));
    }
    sheet.same("check");
}
