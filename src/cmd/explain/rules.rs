//! The sentence of each rule by which a decision is made.

use crate::cmd::format;
use crate::domain::repository::decision::Rule;
use crate::domain::repository::observed::{Policy, RerunPolicy};

/// The sentence of a rule: one table, however long.
pub fn sentence(rule: Rule, policy: &Policy) -> String {
    let sentence = match rule {
        Rule::Inactive => "An inactive repository is not polled.",
        Rule::ActionRuns => "An action runs. There is never a second one in the same repository.",
        Rule::LaggingMirror => "A lagging mirror never moves a clone back.",
        Rule::NoUpstreamBranch => {
            "Upstream does not have the branch, the tag or the revision that is followed; the clone stays as it is."
        }
        Rule::Irrelevant => "`paths` selects nothing that changed since the last applied revision.",
        Rule::OtherFormat => {
            "A clone cannot hold objects of two hashes; the revision that is here stays deployed."
        }
        Rule::UpToDate => {
            "The revision that should be here is here and was applied: nothing to do."
        }
        Rule::Clone => "A repository without a clone is cloned first.",
        Rule::Recovery => "An interrupted run is recovered before anything else, even on hold.",
        Rule::Fetch => "A new upstream revision is fetched before the decision about it.",
        Rule::Targets => {
            "Each target shows the revision of its branch or tag; a target whose ref is gone is removed."
        }
        Rule::LocalChanges => "A local change is never written over.",
        Rule::Deferred => "A script that said \"not now\" is run again at each tick.",
        Rule::Interrupted => "A run that was cut off is run again.",
        Rule::RetryDue => "The wait after the failed attempt is over.",
        Rule::FirstDeployment => "The first revision is applied.",
        Rule::NewRevision => "A revision other than the last applied one is applied.",
        Rule::TriedSince => {
            "An attempt at another revision did not succeed since, and may have changed the machine."
        }
        Rule::RerunDue => match policy.when {
            RerunPolicy::Every(period) => {
                let period = format::seconds(period.as_secs_f64());
                return format!("`when`: the last success is longer ago than {period}.");
            }
            _ => "when = \"always\": every tick acts.",
        },
        Rule::Requested => "A person asked for it.",
        Rule::RemoteBackoff => {
            "A remote that refused access or asked for a pause is not polled, for five minutes at most."
        }
        Rule::AttemptBackoff => {
            "A failed revision is tried again after 1, 2, 4 … minutes, at most an \
             hour; at once when a new one arrives or a person says so."
        }
        Rule::Unreadable => "A clone that cannot be read safely is not changed.",
        Rule::Hold => "A hold stops everything but the recovery of an interrupted run.",
        Rule::Rewritten => "rewritten = \"refuse\": a rewritten history is not followed.",
        Rule::TreeRefused => "A revision whose tree breaks the rules is never checked out.",
        Rule::FileTooLarge => {
            "A revision with a file that is larger than max_file is never checked out."
        }
        Rule::TreeHold => "The revision's own .pmpy.toml holds it, on every machine.",
        Rule::MergeConflict => "A merge with conflicts needs a person.",
        Rule::FastForwardOnly => {
            "update = \"fast-forward\": local commits are neither merged nor dropped."
        }
        Rule::Gate(gate) => {
            return format!(
                "A gate is shut, {}: until all are open nothing on the machine changes.",
                gate.as_str()
            );
        }
        Rule::WayBack => {
            "A revision that turned out bad is left: the last one that succeeded is applied again."
        }
        Rule::BadRevision => {
            "A revision that turned out bad here is not applied again, unless a person accepts it."
        }
        Rule::DriftDue => "The files are compared with the applied revision once in `drift_every`.",
        Rule::Drift => {
            "drift = \"repair\": files that differ from the applied revision are kept and written anew."
        }
        Rule::NeedsPerson => "Only a person or a new revision can change this.",
    };
    sentence.to_owned()
}
