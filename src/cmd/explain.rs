//! `agent explain`: the whole decision about one repository in sentences. Prints what was observed and
//! decided, and decides nothing itself.

use anyhow::{Result, bail};
use chrono::{DateTime, Utc};

use super::helper;
use crate::cli;
use crate::cmd::format;
use crate::domain::git::Relation;
use crate::domain::report::notices::RevisionPresence;
use crate::domain::repository::decision::{Decision, Plan, PlannedAction, Rule};
use crate::domain::repository::desired::ActionTarget;
use crate::domain::repository::gaps::ContentGaps;
use crate::domain::repository::observed::{Observed, Policy, RerunPolicy, UpstreamTip};
use crate::domain::repository::state::State;
use crate::domain::repository::status::StatusRow;
use crate::engine::context::Context;
use crate::engine::discovery::RepoEntry;
use crate::engine::operator::Explanation;
use crate::engine::repository::limits;
use crate::engine::run::log;
use crate::engine::tick::user_helper::CommandExtent;
use crate::engine::{operator, tick};
use crate::exit::ExitStatus;

mod drift;
mod gates;
mod rules;

/// The number of lines of the output of `before`.
const QUOTED: usize = 10;

/// `agent explain REPO [REVISION]`
///
/// # Errors
/// When the repository cannot be opened, or the revision names nothing.
pub fn run(context: &Context, args: &cli::ExplainArgs) -> Result<ExitStatus> {
    let (ours, code) =
        helper::ours(context, std::slice::from_ref(&args.repo), CommandExtent::Look)?;
    let [repo] = ours.as_slice() else { return Ok(code) };
    let revision = args.revision.clone();
    let explain =
        move |context: &_, repo: &_| operator::explain(context, repo, revision.as_deref());
    let explained = limits::within(context, repo, explain)?;
    let status = tick::survey(context, std::slice::from_ref(&args.repo))?;
    let Some(row) = status.repositories.first() else { bail!("{} is gone", args.repo) };
    format::print(&match &explained.containment {
        Some((revision, found)) => containment(row, revision, *found),
        None => text(row, &explained, status.last_tick, status.at),
    })?;
    if explained.containment.is_none() && row.state == State::Refused && row.attempt > 0 {
        let lines = log::log_tail(context, &row.name, QUOTED);
        let lines = lines.iter().map(|line| format!("  {}\n", format::escaped(line)));
        format::print(&format!("\nWhat before printed\n{}", lines.collect::<String>()))?;
    }
    Ok(ExitStatus::Fine)
}

/// The sentences about the repository in `row`: its observed state, the rule that applies, and the next
/// step with its time, by the decision of the next tick at `now`.
pub fn text(
    row: &StatusRow,
    Explanation { seen, policy, decision, .. }: &Explanation,
    last_tick: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> String {
    let name = format::escaped(&row.name);
    let since = format::when(row.since, now);
    let mut lines = vec![match format::details(row, now) {
        Some(details) => format!("{name} is {} since {since}: {details}.", row.shown_state()),
        None => format!("{name} is {} since {since}.", row.shown_state()),
    }];
    let hint = row.reason.as_deref().and_then(|reason| format::reason_and_hint(reason).1);
    lines.extend(hint.map(|hint| format!("  hint: {hint}")));
    for (title, sentences) in [
        ("What was seen", observed(row, seen, policy, last_tick, now)),
        ("Which rule applies", vec![rules::sentence(decision.rule, policy)]),
        ("Gates", gates::lines(seen, policy, now)),
        ("What happens next", next(row, seen, policy, decision, now)),
    ] {
        if sentences.is_empty() {
            continue;
        }
        lines.push(format!("\n{title}"));
        lines.extend(sentences.into_iter().map(|sentence| format!("  {sentence}")));
    }
    lines.push(String::new());
    lines.join("\n")
}

/// What happens next in a repository, and when.
///
/// # Errors
/// When it cannot be read.
pub fn next_steps(context: &Context, repo: &RepoEntry) -> Result<Vec<String>> {
    let explain = |context: &_, repo: &_| operator::explain(context, repo, None);
    let Explanation { seen, policy, decision, .. } = limits::within(context, repo, explain)?;
    let status = tick::survey(context, std::slice::from_ref(&repo.name))?;
    let Some(row) = status.repositories.first() else { bail!("{} is gone", repo.name) };
    let mut steps = next(row, &seen, &policy, &decision, status.at);
    if matches!(decision.plan, Plan::Fetch { .. } | Plan::Run(_) | Plan::Publish(_)) {
        steps.push(format!("To do it at once: agent tick {}", format::escaped(&row.name)));
    }
    Ok(steps)
}

/// The sentence about whether `revision` is on this machine, and if not, why.
pub fn containment(row: &StatusRow, revision: &str, found: RevisionPresence) -> String {
    let name = format::escaped(&row.name);
    let revision = format::escaped(revision);
    let why = match row.state {
        State::Current | State::Ahead | State::Behind | State::New => String::new(),
        state => format!("; {name} is {state}"),
    };
    match found {
        RevisionPresence::Acted => {
            let acted = row.acted.as_ref().map_or_else(String::new, |acted| {
                format!(": the last applied revision, {}, contains it", acted.revision.short())
            });
            format!("{revision} is here and was applied{acted}.\n")
        }
        RevisionPresence::ContainedInHead => format!(
            "{revision} is in the worktree (HEAD contains it), and no action of it has succeeded \
             yet{why}.\n"
        ),
        RevisionPresence::FetchedNotActed => format!(
            "{revision} was fetched and is not in the worktree: HEAD does not contain it{why}.\n"
        ),
        RevisionPresence::Unknown => format!(
            "{revision} is not here: it was never fetched. Either it was not pushed to the branch \
             that {name} follows, or no tick has fetched it yet{why}.\n"
        ),
    }
}

fn observed(
    row: &StatusRow,
    seen: &Observed,
    policy: &Policy,
    last_tick: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut sentences = clone_and_upstream(row, seen, policy, now);
    sentences.extend(remotes(row, seen, last_tick, now));
    sentences.extend(runs_and_holds(row, seen, policy, now));
    sentences
}

/// Whether the repository was not read to its end: what is missing in what was seen then says nothing.
fn is_unread(row: &StatusRow) -> bool {
    row.state == State::Broken
}

/// The sentences about what is here, what upstream has, and how the two are related.
fn clone_and_upstream(
    row: &StatusRow,
    seen: &Observed,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    if !policy.active {
        sentences.push("It is switched off: active = false.".to_owned());
    }
    let unread = is_unread(row);
    if row.published.is_empty() && seen.refs.is_none() {
        sentences.push(match seen.head {
            Some(head) => format!("HEAD is at {}.", head.short()),
            None if unread => "What is checked out was not read.".to_owned(),
            None => "Nothing is checked out yet.".to_owned(),
        });
    }
    sentences.extend(targets(row));
    sentences.push(upstream(seen, unread, now));
    sentences.extend(seen.without_upstream.as_ref().map(|branch| {
        let branch = format::escaped(branch.as_str());
        format!(
            "The clone's configuration names no upstream for {branch}: the branch of that name is \
             followed; git pull would refuse."
        )
    }));
    if !seen.unused.is_empty() {
        sentences.push(format!(
            "The clone's configuration has what git pull uses and the agent does not: {}.",
            seen.unused.join(", ")
        ));
    }
    let relation = seen.relation.filter(|_| row.published.is_empty());
    sentences.extend(relation.map(|relation| {
        match relation {
            Relation::Same => "HEAD and upstream are the same commit.",
            Relation::Behind => "Upstream has commits that HEAD lacks; HEAD has none of its own.",
            Relation::Ahead => "HEAD has local commits on top of upstream.",
            Relation::Diverged => "HEAD and upstream each have commits that the other lacks.",
        }
        .to_owned()
    }));
    sentences.extend(seen.doubt.as_ref().map(|doubt| {
        format!(
            "{}: after three such answers over two minutes it is believed, or at once with: agent tick {}.",
            format::escaped(doubt),
            format::escaped(&row.name)
        )
    }));
    sentences
}

/// The sentence about what upstream has of what is followed.
fn upstream(seen: &Observed, unread: bool, now: DateTime<Utc>) -> String {
    let what = match (&seen.fixed, &seen.tag, &seen.branch) {
        (Some(pattern), Some(tag), _) => {
            let next = tag.next.as_deref();
            let next = next.map_or(String::new(), |next| {
                format!("; the next older one is {}", format::escaped(next))
            });
            format!(
                "The newest of upstream's tags that match {} ({} of them{next})",
                format::escaped(pattern),
                tag.matching
            )
        }
        (Some(fixed), None, _) => format!("What is followed, {},", format::escaped(fixed)),
        (None, _, Some(branch)) => {
            format!("Upstream's branch {}", format::escaped(branch.as_str()))
        }
        (None, _, None) => "Upstream".to_owned(),
    };
    match seen.upstream {
        UpstreamTip::Unknown if unread => "What is known of upstream was not read.".to_owned(),
        UpstreamTip::Unknown => "No revision of upstream is known yet.".to_owned(),
        UpstreamTip::Empty => match &seen.no_ref {
            Some(why) => format!(
                "{what} does not exist there since {}: {}.",
                format::when(why.since, now),
                format::reason_and_hint(&why.reason).0
            ),
            None => "Upstream has no refs at all.".to_owned(),
        },
        UpstreamTip::Tip { commit, fetched: true } => {
            format!("{what} is {}{}, which is fetched.", at(seen), seen.named(commit))
        }
        UpstreamTip::Tip { commit, fetched: false } => {
            format!("{what} is {}{}, which is not fetched yet.", at(seen), seen.named(commit))
        }
    }
}

/// A branch is at a revision; a tag that was chosen is one.
fn at(seen: &Observed) -> &'static str {
    if seen.fixed.is_some() { "" } else { "at " }
}

/// The sentences about the answers of the remotes.
fn remotes(
    row: &StatusRow,
    seen: &Observed,
    last_tick: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    if seen.lagging {
        sentences.push(
            "Only a mirror answered, and its revision is older than one seen before.".to_owned(),
        );
    } else if let Some(late) = &seen.late {
        sentences
            .push(format!("{} lags behind; another remote was asked too.", format::escaped(late)));
    }
    sentences.extend(
        seen.lost
            .filter(|_| seen.lost_tag.is_none())
            .map(|lost| format!("Upstream once had {} and no longer contains it.", lost.short())),
    );
    sentences.extend(seen.unreachable.as_ref().map(|unreachable| {
        let what = match unreachable.refusals {
            0 => "No remote has answered",
            _ => "A remote refuses access, and no other has the branch,",
        };
        format!(
            "{what} since {}: {}.",
            format::when(unreachable.since, now),
            format::reason_and_hint(&unreachable.reason).0
        )
    }));
    sentences.extend(seen.other_format.as_ref().map(|other| {
        let since = format::when(other.since, now);
        let reason = format::reason_and_hint(&other.reason).0;
        format!("No remote can be followed since {since}: {reason}.")
    }));
    let answer = format::last_poll(row, last_tick, now);
    sentences.extend(answer.map(|answer| format!("Last answer from {answer}.")));
    sentences.extend(row.left_alone.iter().filter(|(_, left)| left.lasts(now)).map(
        |(remote, left)| {
            let name = format::escaped(&row.name);
            format!(
                "{} is not polled again before {} ({}); now: agent tick {name}",
                format::escaped(remote),
                format::when(left.until, now),
                format::reason_and_hint(&left.reason).0
            )
        },
    ));
    sentences
}

/// The sentences about the last runs, and about what a person has set.
fn runs_and_holds(
    row: &StatusRow,
    seen: &Observed,
    policy: &Policy,
    now: DateTime<Utc>,
) -> Vec<String> {
    let mut sentences = Vec::new();
    sentences.push(match seen.acted {
        Some(acted) => {
            let subject = row.acted.as_ref().and_then(|acted| acted.subject.as_deref());
            let subject =
                subject.map_or(String::new(), |text| format!(" {}", format::escaped(text)));
            let at =
                seen.acted_at.map_or(String::new(), |at| format!(", {}", format::when(at, now)));
            format!("The last applied revision is {}{subject}{at}.", seen.named(acted))
        }
        None if is_unread(row) => "Which revision was applied last was not read.".to_owned(),
        None => "No revision was applied yet.".to_owned(),
    });
    sentences.extend(drift::sentences(seen, policy, &format::escaped(&row.name), now));
    let gaps = seen.gaps.iter().flat_map(ContentGaps::sentences);
    sentences.extend(gaps.map(|sentence| format!("{}.", format::escaped(&sentence))));
    let ignored = seen.ignored_keys.iter().map(|key| format::ignored_key(key));
    sentences.extend(ignored.map(|sentence| format!("Ignored: {sentence}.")));
    sentences.extend(seen.attempt.as_ref().map(|attempt| {
        format!(
            "Attempt {} at {} {}.",
            attempt.number,
            attempt.revision.short(),
            format::escaped(&attempt.outcome.to_string())
        )
    }));
    sentences.extend(seen.holds.iter().map(|hold| {
        let (since, name) = (format::when(hold.since, now), format::escaped(&row.name));
        format!(
            "Hold {0}: {1}, since {since}. To lift it: agent unhold {name} {0}",
            hold.number,
            format::held(hold, now)
        )
    }));
    sentences.extend(seen.pin.as_ref().map(|pin| {
        format!(
            "Rolled back to {} by {}, {}.",
            pin.revision.short(),
            format::escaped(&pin.by),
            format::when(pin.since, now)
        )
    }));
    sentences.extend(seen.bad.as_ref().filter(|_| row.bad.is_some()).map(|bad| {
        let back = bad.back_since.map_or_else(
            || "the machine is not back yet".to_owned(),
            |since| format!("the machine is back since {}", format::when(since, now)),
        );
        format!("{}; {back}.", bad.sentence())
    }));
    if seen.stale_journal {
        sentences.push("An interrupted run left its journal.".to_owned());
    }
    if seen.release_lost {
        sentences.push("A release that a target shows is missing; it is written again.".to_owned());
    }
    sentences
}

/// The sentences about the targets; with many refs, only about those that differ from upstream.
fn targets(row: &StatusRow) -> Vec<String> {
    let (current, others): (Vec<_>, Vec<_>) =
        row.published.iter().partition(|entry| entry.state == State::Current);
    let mut sentences: Vec<String> = others
        .into_iter()
        .map(|entry| {
            let shown = entry.revision.map_or("nothing".to_owned(), |revision| revision.short());
            let reason = entry
                .reason
                .as_deref()
                .map_or(String::new(), |reason| format!(": {}", format::reason_and_hint(reason).0));
            let (name, path) = (format::escaped(&entry.name), format::escaped(&entry.path));
            match entry.state {
                State::Inactive => format!("{name} is skipped{reason}."),
                state => format!("{path} shows {shown} of {name}, {state}{reason}."),
            }
        })
        .collect();
    match current.as_slice() {
        [] => {}
        [entry] => sentences.push(format!(
            "{} shows {} of {}.",
            format::escaped(&entry.path),
            entry.revision.map_or_else(String::new, |revision| revision.short()),
            format::escaped(&entry.name)
        )),
        several => sentences.push(format!("{} targets are up to date.", several.len())),
    }
    sentences
}

/// The sentences about the next step, and about what a person can do.
fn next(
    row: &StatusRow,
    seen: &Observed,
    policy: &Policy,
    decision: &Decision,
    now: DateTime<Utc>,
) -> Vec<String> {
    let name = format::escaped(&row.name);
    match &decision.plan {
        Plan::Idle if !policy.active => {
            vec!["Nothing, until its `active` is true again.".to_owned()]
        }
        Plan::Idle if seen.running.is_some() => vec![
            "The action records its result when it ends; then the next tick decides again."
                .to_owned(),
            format!("To watch it: agent log -f {name}"),
        ],
        Plan::Idle if decision.rule == Rule::BadRevision => {
            let bad = row.bad.map_or_else(String::new, |bad| bad.to_string());
            vec![
                "Each tick polls upstream and applies a newer revision.".to_owned(),
                format!("To try this one once more: agent accept {name} {bad}"),
            ]
        }
        Plan::Idle if seen.other_format.is_some() => unblock(row, seen, &name, now),
        Plan::Idle => {
            let mut sentences =
                vec!["Each tick polls upstream and applies a new revision.".to_owned()];
            if let (RerunPolicy::Every(period), Some(at)) = (policy.when, seen.acted_at)
                && let Ok(period) = chrono::Duration::from_std(period)
            {
                sentences.push(format!(
                    "Without a new one, the scripts run again: {}.",
                    format::when(at + period, now)
                ));
            }
            sentences
        }
        Plan::Recover if decision.rule == Rule::Clone => vec![
            "The next tick clones it; after a failure, each tick tries again.".to_owned(),
            format!("To try at once: agent tick {name}"),
        ],
        Plan::Recover => {
            vec!["The next tick recovers the interrupted run, then decides again.".to_owned()]
        }
        Plan::Fetch { tip } => {
            vec![format!("The next tick fetches {}, then decides again.", seen.named(*tip))]
        }
        Plan::Publish(plan) if plan.fetch => {
            vec!["The next tick fetches, then decides again.".to_owned()]
        }
        Plan::Publish(plan) => {
            let publish = plan.publish.iter().map(|due| {
                let (name, revision) = (format::escaped(&due.name), due.revision.short());
                format!("The next tick publishes {name} at {revision}, attempt {}.", due.attempt)
            });
            let remove = plan.remove.iter();
            let remove = remove.map(|name| format!("It removes {}.", format::escaped(name)));
            publish.chain(remove).collect()
        }
        Plan::Sight(Some(target)) => vec![format!(
            "The next tick notes that {} waits, then decides again.",
            target.upstream().short()
        )],
        Plan::Verify { target, .. } => vec![format!(
            "The next tick verifies the signature of {}, then decides again.",
            target.upstream().short()
        )],
        Plan::Sight(None) => vec!["The next tick notes that nothing waits any more.".to_owned()],
        Plan::Wait { .. } | Plan::Stopped if matches!(decision.rule, Rule::Gate(_)) => {
            gates::wait(row, seen, policy, &name, now)
        }
        Plan::Run(_) if decision.rule == Rule::LocalChanges => vec![
            "Each tick checks again, and continues once these files are out of the way.".to_owned(),
            format!("To see them: git -C {} status", format::escaped(&row.path)),
        ],
        Plan::Look => vec![
            "The next tick compares the files with the applied revision, then decides again."
                .to_owned(),
        ],
        Plan::Run(act) => run_in_sentences(act, seen),
        Plan::Wait { until } => vec![
            format!(
                "The next try is due {}, by the first tick after that.",
                format::when(*until, now)
            ),
            format!("To try at once: agent tick {name}"),
        ],
        Plan::Stopped => unblock(row, seen, &name, now),
    }
}

fn run_in_sentences(act: &PlannedAction, seen: &Observed) -> Vec<String> {
    let mut sentences = Vec::new();
    let head = act.head.map_or_else(|| "nothing".to_owned(), |head| seen.named(head));
    match act.target {
        ActionTarget::Commit(target) if act.head == Some(target) => {
            sentences.push(format!("The next tick runs the scripts at {}.", seen.named(target)));
        }
        ActionTarget::Commit(target) => sentences.push(format!(
            "The next tick moves HEAD from {head} to {} and runs the scripts.",
            seen.named(target)
        )),
        ActionTarget::MergeOf(tip) => sentences.push(format!(
            "The next tick merges {} into {head} and runs the scripts.",
            tip.short()
        )),
    }
    if act.attempt > 1 {
        sentences.push(format!("It is attempt {}.", act.attempt));
    }
    if act.saves_head {
        sentences.push("The current HEAD is kept under refs/pmpy/saved/.".to_owned());
    }
    if act.only_if_relevant {
        sentences.push("The scripts run unless `paths` selects nothing that changed.".to_owned());
    }
    sentences
}

/// The sentences on how a person gets a stopped repository to act again.
fn unblock(row: &StatusRow, seen: &Observed, name: &str, now: DateTime<Utc>) -> Vec<String> {
    let first = match row.state {
        State::Broken => "Nothing, until the problem above is fixed.".to_owned(),
        State::Held => match seen.holds.iter().map(|hold| hold.until).max().flatten() {
            Some(until) if seen.holds.iter().all(|hold| hold.until.is_some()) => {
                format!("The hold ends {}.", format::when(until, now))
            }
            _ if seen.holds.is_empty() => {
                "Nothing, until a commit without hold in its .pmpy.toml is pushed.".to_owned()
            }
            _ => "Nothing, until the hold is lifted.".to_owned(),
        },
        State::Refused => "Nothing, until a revision that keeps the rules is pushed.".to_owned(),
        State::Rewritten if seen.other_format.is_some() => {
            "Nothing, until it is cloned anew or a remote has the old revisions again.".to_owned()
        }
        State::Rewritten if seen.lost_tag.is_some() => {
            "Nothing, until upstream has a newer tag or the old one again, or a person takes what it has now."
                .to_owned()
        }
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
            Some(format!("To lift what you set: agent unhold {name}"))
        }
        (State::Held, UpstreamTip::Tip { commit, .. }) => {
            Some(format!("To apply it here all the same: agent accept {name} {commit}"))
        }
        (State::Rewritten, UpstreamTip::Tip { commit, .. }) if seen.other_format.is_none() => {
            Some(format!("To take it: agent accept {name} {commit}"))
        }
        _ => None,
    };
    std::iter::once(first).chain(command).collect()
}

#[cfg(test)]
mod tests;
