//! `agent explain`: the whole decision about one repository in sentences. It repeats what was
//! observed and decided and decides nothing itself.

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::{helper, show};
use crate::cli;
use crate::domain::git::Relation;
use crate::domain::plan::{
    Act, Finding, Observed, OnRewrite, Plan, Policy, Target, Update, Upstream, When,
};
use crate::domain::report::Containment;
use crate::domain::status::{Row, State};
use crate::engine::{Here, steer, tick};
use crate::exit::Code;

/// `agent explain REPO [REVISION]`
///
/// # Errors
/// When the repository cannot be looked into, or the revision names nothing.
pub fn run(here: &Here, args: &cli::Explain) -> Result<Code> {
    let (ours, code) = helper::ours(here, std::slice::from_ref(&args.repo))?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    let status = tick::survey(here, std::slice::from_ref(&args.repo))?;
    let Some(row) = status.repositories.first() else { bail!("{} is gone", args.repo) };
    let explained = steer::explain(here, repo, args.revision.as_deref())?;
    show::print(&match &explained.containment {
        Some((revision, found)) => containment(row, revision, *found),
        None => text(row, &explained.seen, &explained.policy, &explained.plan, status.at),
    })?;
    Ok(Code::Fine)
}

/// What was seen of the repository in `row`, which rule applied, what happens next and when. `plan`
/// is what the next tick would do at `now`.
pub fn text(
    row: &Row,
    seen: &Observed,
    policy: &Policy,
    plan: &Plan,
    now: DateTime<Utc>,
) -> String {
    let name = show::escaped(&row.name);
    let since = show::when(row.since, now);
    let mut lines = vec![match show::details(row, now) {
        Some(details) => format!("{name} is {} since {since}: {details}.", row.state),
        None => format!("{name} is {} since {since}.", row.state),
    }];
    let hint = row.reason.as_deref().and_then(|reason| show::reason_and_hint(reason).1);
    lines.extend(hint.map(|hint| format!("  hint: {hint}")));
    for (title, sentences) in [
        ("What was seen", observed(row, seen, policy, now)),
        ("Which rule applies", vec![rule(row, seen, policy, plan)]),
        ("What happens next", next(row, seen, policy, plan, now)),
    ] {
        lines.push(format!("\n{title}"));
        lines.extend(sentences.into_iter().map(|sentence| format!("  {sentence}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// Whether `revision` is here, and if not, why.
pub fn containment(row: &Row, revision: &str, found: Containment) -> String {
    let name = show::escaped(&row.name);
    let revision = show::escaped(revision);
    let why = match row.state {
        State::Current | State::Ahead | State::Behind | State::New => String::new(),
        state => format!("; {name} is {state}"),
    };
    match found {
        Containment::Acted => {
            let acted = row.acted.as_ref().map_or_else(String::new, |acted| {
                format!(": the last revision acted upon, {}, contains it", acted.revision.short())
            });
            format!("{revision} is here and was acted upon{acted}.\n")
        }
        Containment::ContainedInHead => format!(
            "{revision} is in the worktree (HEAD contains it), and no action upon it has \
             succeeded yet{why}.\n"
        ),
        Containment::FetchedNotActed => format!(
            "{revision} was fetched and is not in the worktree: HEAD does not contain it{why}.\n"
        ),
        Containment::Unknown => format!(
            "{revision} is not here: it was never fetched. Either it was not pushed to the branch \
             that {name} follows, or no tick has fetched it yet{why}.\n"
        ),
    }
}

fn observed(row: &Row, seen: &Observed, policy: &Policy, now: DateTime<Utc>) -> Vec<String> {
    let mut told = Vec::new();
    if !policy.active {
        told.push("It is switched off: active = false.".to_owned());
    }
    if row.published.is_empty() && seen.refs.is_none() {
        told.push(match seen.head {
            Some(head) => format!("HEAD is at {}.", head.short()),
            None => "Nothing is checked out yet.".to_owned(),
        });
    }
    told.extend(targets(row));
    let branch = match &seen.branch {
        Some(branch) => format!("Upstream's branch {}", show::escaped(branch.as_str())),
        None => "Upstream".to_owned(),
    };
    told.push(match seen.upstream {
        Upstream::Unknown => "Nothing is known of upstream yet.".to_owned(),
        Upstream::Empty => format!("{branch} does not exist there."),
        Upstream::Tip { commit, fetched: true } => {
            format!("{branch} is at {}, which is fetched.", commit.short())
        }
        Upstream::Tip { commit, fetched: false } => {
            format!("{branch} is at {}, which is not fetched yet.", commit.short())
        }
    });
    let relation = seen.relation.filter(|_| row.published.is_empty());
    told.extend(relation.map(|relation| {
        match relation {
            Relation::Same => "HEAD and upstream are the same commit.",
            Relation::Behind => "Upstream has commits that HEAD lacks; HEAD has none of its own.",
            Relation::Ahead => "HEAD has local commits on top of upstream.",
            Relation::Diverged => "HEAD and upstream each have commits that the other lacks.",
        }
        .to_owned()
    }));
    if seen.lagging {
        told.push("Only a mirror answered that is older than what was seen before.".to_owned());
    } else if let Some(late) = &seen.late {
        told.push(format!("{} lags behind; another remote was asked too.", show::escaped(late)));
    }
    told.extend(
        seen.lost
            .map(|lost| format!("Upstream once had {} and no longer contains it.", lost.short())),
    );
    told.extend(seen.unreachable.as_ref().map(|unreachable| {
        format!(
            "No remote has answered since {}: {}.",
            show::when(unreachable.since, now),
            show::reason_and_hint(&unreachable.reason).0
        )
    }));
    told.extend(
        seen.asked.as_ref().map(|asked| format!("Last answer from {}.", show::asked(asked, now))),
    );
    told.extend(row.left_alone.iter().filter(|(_, left)| left.lasts(now)).map(|(remote, left)| {
        let name = show::escaped(&row.name);
        format!(
            "{} is left alone until {}, as it asked or because it refused us; at once with: \
             agent tick {name}",
            show::escaped(remote),
            show::when(left.until, now)
        )
    }));
    told.push(match seen.acted {
        Some(acted) => {
            let subject = row.acted.as_ref().and_then(|acted| acted.subject.as_deref());
            let subject = subject.map_or(String::new(), |text| format!(" {}", show::escaped(text)));
            let at = seen.acted_at.map_or(String::new(), |at| format!(", {}", show::when(at, now)));
            format!("The last revision acted upon is {}{subject}{at}.", acted.short())
        }
        None => "No revision was ever acted upon.".to_owned(),
    });
    told.extend(seen.attempt.as_ref().map(|attempt| {
        format!(
            "Attempt {} at {} {}.",
            attempt.number,
            attempt.revision.short(),
            show::escaped(&attempt.outcome.to_string())
        )
    }));
    told.extend(seen.holds.iter().map(|hold| {
        let until =
            hold.until.map_or(String::new(), |until| format!(", ends {}", show::when(until, now)));
        format!(
            "Held by {}, {}{until}: {}.",
            show::escaped(&hold.by),
            show::when(hold.since, now),
            show::escaped(&hold.reason)
        )
    }));
    told.extend(seen.pin.as_ref().map(|pin| {
        format!(
            "Rolled back to {} by {}, {}.",
            pin.revision.short(),
            show::escaped(&pin.by),
            show::when(pin.since, now)
        )
    }));
    if seen.leftover {
        told.push("A run that died left its journal.".to_owned());
    }
    told
}

/// What stands at the targets; of many, those that are not as upstream has them.
fn targets(row: &Row) -> Vec<String> {
    let (current, others): (Vec<_>, Vec<_>) =
        row.published.iter().partition(|entry| entry.state == State::Current);
    let mut told: Vec<String> = others
        .into_iter()
        .map(|entry| {
            let shown = entry.revision.map_or("nothing".to_owned(), |revision| revision.short());
            let reason = entry
                .reason
                .as_deref()
                .map_or(String::new(), |reason| format!(": {}", show::reason_and_hint(reason).0));
            let (name, path) = (show::escaped(&entry.name), show::escaped(&entry.path));
            match entry.state {
                State::Inactive => format!("{name} is left out{reason}."),
                state => format!("{path} shows {shown} of {name}, {state}{reason}."),
            }
        })
        .collect();
    match current.as_slice() {
        [] => {}
        [entry] => told.push(format!(
            "{} shows {} of {}.",
            show::escaped(&entry.path),
            entry.revision.map_or_else(String::new, |revision| revision.short()),
            show::escaped(&entry.name)
        )),
        several => told.push(format!("{} targets are up to date.", several.len())),
    }
    told
}

/// The rule behind the plan.
fn rule(row: &Row, seen: &Observed, policy: &Policy, plan: &Plan) -> String {
    match plan {
        Plan::Idle if !policy.active => "What is switched off is not looked at.".to_owned(),
        Plan::Idle if seen.running.is_some() => {
            "An action runs. There is never a second one beside it.".to_owned()
        }
        Plan::Idle if seen.lagging => "A lagging mirror never moves us back.".to_owned(),
        Plan::Idle if matches!(seen.upstream, Upstream::Empty | Upstream::Unknown) => {
            "Without a branch upstream there is nowhere to go; what is here stays.".to_owned()
        }
        Plan::Idle if is_irrelevant(seen) => {
            "`paths` selects nothing that changed since the last revision acted upon.".to_owned()
        }
        Plan::Idle => {
            "The revision that should be here is here and was acted upon: nothing to do.".to_owned()
        }
        Plan::Recover if is_to_be_cloned(seen) => {
            "A repository that is not here yet is cloned first.".to_owned()
        }
        Plan::Recover => {
            "What a dead run began is put right before anything else, even on hold.".to_owned()
        }
        Plan::Fetch { .. } => {
            "What upstream has must be here before it is decided upon.".to_owned()
        }
        Plan::Publish(plan) if plan.fetch => {
            "What upstream has must be here before it is decided upon.".to_owned()
        }
        Plan::Publish(_) => {
            "Each target shows what its branch or tag is; a target whose ref is gone goes."
                .to_owned()
        }
        Plan::Run(_) if row.state == State::Dirty => {
            "What somebody changed here is never written over.".to_owned()
        }
        Plan::Run(_) if row.state == State::Waiting => {
            "A script that said \"not now\" is run again at each tick.".to_owned()
        }
        Plan::Run(act) => why_run(act, policy),
        Plan::Wait { .. } if row.state == State::Unreachable => {
            "A remote that asks for it or refuses us is left alone, for five minutes at most."
                .to_owned()
        }
        Plan::Wait { .. } => {
            "A failed revision is tried again after 1, 2, 4 … minutes, at most an \
             hour; at once when a new one arrives or a person says so."
                .to_owned()
        }
        Plan::Stopped => why_stopped(seen, policy),
    }
}

/// Nothing of it is here, not even a run that died.
fn is_to_be_cloned(seen: &Observed) -> bool {
    seen.head.is_none() && seen.acted.is_none() && seen.damaged.is_none() && !seen.leftover
}

fn is_irrelevant(seen: &Observed) -> bool {
    let finding = seen.verdict.as_ref().map(|verdict| &verdict.finding);
    matches!(finding, Some(Finding::Irrelevant { .. }))
}

fn why_run(act: &Act, policy: &Policy) -> String {
    let moves = act.head.map(Target::Commit) != Some(act.target);
    if act.resumed {
        "A run that was cut off is run again.".to_owned()
    } else if act.attempt > 1 {
        "The wait after the failed attempt is over.".to_owned()
    } else if act.previous.is_none() {
        "A revision that was never acted upon is acted upon.".to_owned()
    } else if moves || act.previous.map(Target::Commit) != Some(act.target) {
        "A revision other than the last one acted upon is acted upon.".to_owned()
    } else {
        match policy.when {
            When::Always => "when = \"always\": every tick acts.".to_owned(),
            When::Every(period) => format!(
                "`when`: the last success is longer ago than {}.",
                show::seconds(period.as_secs_f64())
            ),
            When::Changed => "A person asked for it.".to_owned(),
        }
    }
}

fn why_stopped(seen: &Observed, policy: &Policy) -> String {
    if seen.broken.is_some() {
        return "What cannot be read safely is not touched.".to_owned();
    }
    if !seen.holds.is_empty() {
        return "A hold stops everything but the clearing up after a dead run.".to_owned();
    }
    if seen.lost.is_some() && policy.rewritten == OnRewrite::Refuse {
        return "rewritten = \"refuse\": history that upstream threw away is not followed."
            .to_owned();
    }
    match seen.verdict.as_ref().map(|verdict| &verdict.finding) {
        Some(Finding::Refused { .. }) => {
            "A revision whose tree breaks the rules is never checked out.".to_owned()
        }
        Some(Finding::Held { .. }) => {
            "The revision's own .pmpy.toml stops it, on every machine.".to_owned()
        }
        Some(Finding::Conflict { .. }) => "A merge with conflicts needs a person.".to_owned(),
        _ if policy.update == Update::FastForward => {
            "update = \"fast-forward\": local commits are neither merged nor dropped.".to_owned()
        }
        _ => "Only a person or a new revision can bring it on.".to_owned(),
    }
}

/// What happens next, and what a person can do about it.
fn next(
    row: &Row,
    seen: &Observed,
    policy: &Policy,
    plan: &Plan,
    now: DateTime<Utc>,
) -> Vec<String> {
    let name = show::escaped(&row.name);
    match plan {
        Plan::Idle if !policy.active => {
            vec!["Nothing, until its `active` is true again.".to_owned()]
        }
        Plan::Idle if seen.running.is_some() => vec![
            "The action records itself when it ends; the next tick looks again.".to_owned(),
            format!("To watch it: agent log -f {name}"),
        ],
        Plan::Idle => {
            let mut told =
                vec!["Each tick asks upstream; a new revision is acted upon.".to_owned()];
            if let (When::Every(period), Some(at)) = (policy.when, seen.acted_at)
                && let Ok(period) = chrono::Duration::from_std(period)
            {
                told.push(format!("And without one: {}.", show::when(at + period, now)));
            }
            told
        }
        Plan::Recover if is_to_be_cloned(seen) => vec![
            "The next tick clones it; when that fails, each one tries again.".to_owned(),
            format!("To try at once: agent tick {name}"),
        ],
        Plan::Recover => vec!["The next tick clears up, then decides again.".to_owned()],
        Plan::Fetch { tip } => {
            vec![format!("The next tick fetches {}, then decides again.", tip.short())]
        }
        Plan::Publish(plan) if plan.fetch => {
            vec!["The next tick fetches, then decides again.".to_owned()]
        }
        Plan::Publish(plan) => {
            let publish = plan.publish.iter().map(|due| {
                let (name, revision) = (show::escaped(&due.name), due.revision.short());
                format!("The next tick publishes {name} at {revision}, attempt {}.", due.attempt)
            });
            let remove = plan.remove.iter();
            let remove = remove.map(|name| format!("It takes away {}.", show::escaped(name)));
            publish.chain(remove).collect()
        }
        Plan::Run(_) if row.state == State::Dirty => vec![
            "Each tick looks again, and goes on once these files are out of the way.".to_owned(),
            format!("To see them: git -C {} status", show::escaped(&row.path)),
        ],
        Plan::Run(act) => run_in_sentences(act),
        Plan::Wait { until } => vec![
            format!("The first tick after that time tries again: {}.", show::when(*until, now)),
            format!("To try at once: agent tick {name}"),
        ],
        Plan::Stopped => unblock(row, seen, &name, now),
    }
}

fn run_in_sentences(act: &Act) -> Vec<String> {
    let mut told = Vec::new();
    let head = act.head.map_or_else(|| "nothing".to_owned(), |head| head.short());
    match act.target {
        Target::Commit(target) if act.head == Some(target) => {
            told.push(format!("The next tick runs the scripts at {}.", target.short()));
        }
        Target::Commit(target) => told.push(format!(
            "The next tick moves HEAD from {head} to {} and runs the scripts.",
            target.short()
        )),
        Target::MergeOf(tip) => told.push(format!(
            "The next tick merges {} into {head} and runs the scripts.",
            tip.short()
        )),
    }
    if act.attempt > 1 {
        told.push(format!("It is attempt {}.", act.attempt));
    }
    if act.saves_head {
        told.push("The current HEAD is kept under refs/pmpy/saved/.".to_owned());
    }
    if act.only_if_relevant {
        told.push("The scripts run unless `paths` selects nothing that changed.".to_owned());
    }
    told
}

/// How a person brings a stopped repository on.
fn unblock(row: &Row, seen: &Observed, name: &str, now: DateTime<Utc>) -> Vec<String> {
    let first = match row.state {
        State::Broken => "Nothing, until the problem above is fixed.".to_owned(),
        State::Held => match seen.holds.iter().map(|hold| hold.until).max().flatten() {
            Some(until) if seen.holds.iter().all(|hold| hold.until.is_some()) => {
                format!("The hold ends {}.", show::when(until, now))
            }
            _ => "Nothing, until the hold is lifted.".to_owned(),
        },
        State::Refused => "Nothing, until a revision that keeps the rules is pushed.".to_owned(),
        State::Rewritten => {
            "Nothing, until upstream contains the old revision again or a person takes the new one."
                .to_owned()
        }
        State::Diverged => {
            "Nothing, until the local commits are pushed or dropped, or upstream moves.".to_owned()
        }
        _ => "Nothing, until a new revision arrives or a person steps in.".to_owned(),
    };
    let command = match (row.state, seen.upstream) {
        (State::Held, _) if !seen.holds.is_empty() => {
            Some(format!("To lift it now: agent unhold {name}"))
        }
        (State::Rewritten, Upstream::Tip { commit, .. }) => {
            Some(format!("To take it: agent accept {name} {commit}"))
        }
        _ => None,
    };
    std::iter::once(first).chain(command).collect()
}

#[cfg(test)]
mod tests;
