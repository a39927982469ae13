//! Which files differ from the applied revision, and what follows.

use chrono::{DateTime, Utc};

use crate::cmd::format;
use crate::domain::repository::decision::drift::{DriftOutlook, outlook};
use crate::domain::repository::observed::{Observed, Policy};
use crate::domain::repository::request::ActionRequest;

/// What the last look found, each file that it names, and whether they are repaired.
pub fn sentences(seen: &Observed, policy: &Policy, name: &str, now: DateTime<Utc>) -> Vec<String> {
    let Some(found) = &seen.drift else { return Vec::new() };
    let at = format::when(found.at, now);
    let repaired = found.repaired.as_ref().map(|repair| {
        format!("{}, {}.", format::escaped(&repair.sentence()), format::when(repair.at, now))
    });
    let Some(sentence) = found.sentence() else {
        let none = found.revision.map_or_else(
            || format!("No published file differed from its revision {at}."),
            |of| format!("No file differed from {} {at}.", of.short()),
        );
        return std::iter::once(none).chain(repaired).collect();
    };
    let mut all = vec![format!("{}, {at}.", format::escaped(&sentence))];
    all.extend(format::drifted(found).into_iter().map(|file| format!("  {file}")));
    let next = match outlook(seen, policy, ActionRequest::OF_CRON, now) {
        DriftOutlook::Nothing => None,
        DriftOutlook::Reported => Some(format!("To see the difference: agent diff {name}")),
        DriftOutlook::Left => Some(format!(
            "They are not repaired again now: a script may edit them. To see the difference: agent diff {name}"
        )),
        DriftOutlook::Hindered => Some("They are repaired after the next look.".to_owned()),
        DriftOutlook::Held => Some("They are repaired when the hold is lifted.".to_owned()),
        DriftOutlook::Failing => {
            Some("They are repaired when the scripts have succeeded.".to_owned())
        }
        DriftOutlook::Refused => Some(
            "They are not repaired: the signature of the applied revision is refused.".to_owned(),
        ),
        DriftOutlook::Window(wait) => {
            Some(format!("They are repaired later: {}.", format::gate(&wait, now)))
        }
        DriftOutlook::Repaired => Some("The next tick writes them anew.".to_owned()),
    };
    all.into_iter().chain(next).chain(repaired).collect()
}
