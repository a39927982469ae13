//! Checks whether the status can be published. Publishes nothing.

use crate::domain::repository::status::ReactionReport;
use crate::domain::text::{EscapeControls, utc_minute};
use crate::engine::context::Context;
use crate::engine::finding::{CheckFinding, CheckScope, FindingLevel};
use crate::engine::machine::presence::own_tip;
use crate::engine::tick::presence_report::{own_ref, report};
use crate::system::host;

const SUBJECT: &str = "presence";

/// The findings for `[presence]`; none without it.
pub fn verdicts(context: &Context, scope: CheckScope) -> Vec<CheckFinding> {
    let Some(presence) = &context.settings.presence else { return Vec::new() };
    let place = match own_ref(context) {
        Ok(place) => place,
        Err(error) => return vec![CheckFinding::of(FindingLevel::Bad, SUBJECT, &error.into())],
    };
    let remote = presence.remote.to_string().escape_controls();
    let mut findings = match scope {
        CheckScope::Machine => vec![CheckFinding::ok(SUBJECT, format!("{remote} is not asked"))],
        CheckScope::Remotes => vec![match own_tip(context, presence, &place) {
            Ok(tip) => {
                let what = tip.map_or("has no such branch yet".to_owned(), |tip| tip.short());
                let branch = place.to_string().replacen("refs/heads/", "", 1);
                CheckFinding::ok(SUBJECT, format!("{remote} answers; {branch}: {what}"))
            }
            Err(error) => CheckFinding::of(FindingLevel::Bad, SUBJECT, &error),
        }],
    };
    let Some(report) = report(context, host::now()) else { return findings };
    findings.extend(match (report.failing_since, report.reason, report.published) {
        (Some(since), Some(reason), _) => {
            let text = format!("not published since {}: {reason}", utc_minute(since));
            Some(CheckFinding::bad(SUBJECT, text))
        }
        (_, _, Some(at)) => {
            Some(CheckFinding::ok(SUBJECT, format!("last published {}", utc_minute(at))))
        }
        (_, _, None) => None,
    });
    findings.extend(report.on_change.iter().flat_map(reaction));
    findings
}

/// The findings for `on_change`.
fn reaction(report: &ReactionReport) -> Vec<CheckFinding> {
    let mut findings = Vec::new();
    if let (Some(since), Some(reason)) = (report.failing_since, &report.reason) {
        let text = format!("on_change fails since {}: {reason}", utc_minute(since));
        findings.push(CheckFinding::bad(SUBJECT, text));
    } else if let Some(at) = report.ran {
        let text = format!("on_change last ran {}, with {} hosts", utc_minute(at), report.hosts);
        findings.push(CheckFinding::ok(SUBJECT, text));
    }
    if !report.left_out.is_empty() {
        let names = report.left_out.join(" ").escape_controls();
        let text = format!(
            "on_change leaves out {names}: a program could misread these names\n\
             hint: below [node] there: a name of a-z, 0-9, '.' and '-'"
        );
        findings.push(CheckFinding::new(FindingLevel::Warn, SUBJECT, text));
    }
    findings
}
