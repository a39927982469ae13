//! The gates: may this revision be applied now? One pure function over what was observed, the policy and
//! the time gives the verdict of each gate; the table in [`Cause::needs`] says which gates count for what.
//! People's holds, the hold of a revision and `before` are judged elsewhere and only listed here.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::domain::git::Commit;
use crate::domain::publish::state::{PendingRef, PublishPlan, PublishState};
use crate::domain::repository::action::{Attempt, Trigger};
use crate::domain::repository::desired::{ActionTarget, DesiredHead, goal};
use crate::domain::repository::finding::Finding;
use crate::domain::repository::gate::{
    CanaryReport, Gate, GateAnswer, GateFacts, GatePolicy, GateVerdict, GateWait, SignatureNeed,
    SignedRevision,
};
use crate::domain::repository::observed::{Observed, Policy};
use crate::domain::repository::request::ActionRequest;
use crate::domain::repository::window::Window;
use crate::domain::text::EscapeControls;

pub mod canaries;

/// How long a revision that was let begin is tried again whatever the window says.
const FINISHES_OUTSIDE: TimeDelta = TimeDelta::hours(1);
/// By how much the clock may be behind the newest record before it counts as set back.
const TOLERANCE: TimeDelta = TimeDelta::seconds(60);
/// How many times `min_age` the oldest waiting revision waits at most.
const MOST_AGES: u32 = 3;

/// Why a revision is to be applied: a row of the table of who passes what. Several may be true at once; a
/// gate then counts only if each of them needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A new revision.
    New,
    /// A tree that succeeded here before.
    Revert,
    /// A newer one where the machine is failing at a revision that never succeeded here.
    Mend,
    /// `urgent` in the newest `.pmpy.toml`.
    Urgent,
    /// A person's `tick NAME --override REASON`.
    Override,
    /// The first action of a machine.
    First,
    /// A retry of what the gates once let begin.
    Retry,
    /// `when`, `redo`, or a removed `lastaction.txt`.
    Rerun,
    /// `checkout REPO REF`.
    Checkout,
    /// A new revision on a machine that `canaries` names.
    OnACanary,
    /// Repair of drift.
    Drift,
    /// `rollback`, and the automatic way back.
    WayBack,
    /// `accept REPO REVISION`.
    Accept,
}

/// Whether a gate must be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// It must be open.
    Open,
    /// It does not count.
    None,
    /// It must be open, unless the window has the entry `"urgent"`.
    OpenUnlessUrgent,
    /// It does not count for an hour after the action began.
    OpenAfterAnHour,
    /// The newest revision that a canary has is taken.
    OfACanary,
    /// The revision must have been accepted here.
    AcceptedHere,
}

impl Cause {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::New,
        Self::Revert,
        Self::Mend,
        Self::Urgent,
        Self::Override,
        Self::First,
        Self::Retry,
        Self::Rerun,
        Self::Checkout,
        Self::OnACanary,
        Self::Drift,
        Self::WayBack,
        Self::Accept,
    ];

    /// The table of who passes what: a row for each cause, a column for each gate in the order of [`Gate`].
    pub fn row(self) -> [Need; 8] {
        use Need::{
            AcceptedHere as Here, None as Not, OfACanary, Open as Must, OpenAfterAnHour,
            OpenUnlessUrgent,
        };
        match self {
            //                 people, signers, revision, window, canaries, min_age, rollout, before
            Self::New => [Must, Must, Must, Must, Must, Must, Must, Must],
            Self::Revert => [Must, Must, Must, Must, Not, Not, Not, Must],
            Self::Mend => [Must, Must, Must, Must, Must, Not, Not, Must],
            Self::Urgent => [Must, Must, Must, OpenUnlessUrgent, Not, Not, Not, Must],
            Self::Override => [Must, Must, Must, Not, Not, Not, Not, Must],
            Self::First => [Must, Must, Must, Not, OfACanary, Not, Not, Must],
            Self::Retry => [Must, Must, Must, OpenAfterAnHour, Not, Not, Not, Not],
            Self::Rerun => [Must, Here, Not, Not, Not, Not, Not, Not],
            Self::Checkout => [Must, Here, Must, Not, Not, Not, Not, Must],
            Self::OnACanary => [Must, Must, Must, Must, Not, Must, Not, Must],
            Self::Drift => [Must, Here, Not, Must, Not, Not, Not, Not],
            Self::WayBack => [Not, Here, Not, Not, Not, Not, Not, Not],
            Self::Accept => [Must, Not, Not, Must, Must, Not, Not, Must],
        }
    }

    /// Whether `gate` must be open for it.
    pub fn needs(self, gate: Gate) -> Need {
        // Both lists have the order of `Gate`.
        let place = Gate::ALL.iter().position(|it| *it == gate);
        place.and_then(|place| self.row().get(place).copied()).unwrap_or(Need::Open)
    }

    /// Why a gate does not count, as part of a sentence.
    fn as_reason(self) -> &'static str {
        match self {
            Self::New => "a new revision",
            Self::Revert => "its tree succeeded here before",
            Self::Mend => "this machine fails at a revision that never succeeded here",
            Self::Urgent => "the revision is urgent",
            Self::Override => "a person overrides it",
            Self::First => "the first action of this machine",
            Self::Retry => "the gates let it begin",
            Self::Rerun => "the revision was applied here before",
            Self::Checkout => "a person checks it out",
            Self::OnACanary => "this machine is a canary",
            Self::Drift => "a repair of drift",
            Self::WayBack => "the way back",
            Self::Accept => "a person accepted it",
        }
    }
}

/// The causes for which `target` is to be applied, as `request` asks.
pub fn causes(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target: ActionTarget,
) -> Vec<Cause> {
    let revision = target.upstream();
    let waiting = seen.gates.waiting.as_ref().filter(|waiting| waiting.revision == revision);
    let was_applied = seen.acted == Some(revision)
        || seen.last_success.as_ref().is_some_and(|run| run.revision == revision);
    let pin = seen.pin.as_ref().filter(|pin| pin.revision == revision);
    let is_urgent = || waiting.is_some_and(|waiting| waiting.urgent.is_some());
    let holds: [(Cause, bool); 11] = [
        (Cause::Revert, waiting.is_some_and(|waiting| waiting.succeeded_before)),
        (Cause::Mend, waiting.is_some_and(|waiting| waiting.mends)),
        (Cause::Urgent, !policy.gates.ignores_urgent && is_urgent()),
        (Cause::Override, request.overrides),
        (Cause::First, seen.gates.is_first),
        (Cause::Retry, seen.gates.begun.as_ref().is_some_and(|begun| begun.revision == revision)),
        (Cause::Rerun, was_applied || request.trigger == Trigger::Redo),
        (Cause::Checkout, pin.is_some_and(|pin| pin.is_checkout)),
        (Cause::OnACanary, seen.gates.is_canary),
        (
            Cause::WayBack,
            pin.is_some_and(|pin| !pin.is_checkout) || seen.way_back() == Some(revision),
        ),
        (Cause::Accept, seen.accepted == Some(revision) || seen.unheld == Some(revision)),
    ];
    let others = holds.into_iter().filter(|(_, holds)| *holds).map(|(cause, _)| cause);
    std::iter::once(Cause::New).chain(others).collect()
}

/// The verdicts of all gates that are set, about applying `target` at `now`.
pub fn verdicts(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target: ActionTarget,
    now: DateTime<Utc>,
) -> Vec<GateVerdict> {
    let causes = causes(seen, policy, request, target);
    let judge = Judge { seen, policy: &policy.gates, causes: &causes, target, now };
    let verdict = |gate| Some(GateVerdict { gate, answer: judge.answer(gate)? });
    Gate::ALL.into_iter().filter_map(verdict).collect()
}

/// The verdicts of all gates that are set about the revision that is to be applied next, and that revision;
/// `None`: none waits.
pub fn of_the_next(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> Option<(Commit, Vec<GateVerdict>)> {
    let DesiredHead::Go { target, .. } = goal(seen, policy) else { return None };
    let is_applied =
        seen.acted.map(ActionTarget::Commit) == Some(target) && seen.head == seen.acted;
    (!is_applied).then(|| (target.upstream(), verdicts(seen, policy, request, target, now)))
}

/// The first gate that is shut of those that time, other machines or the wait of a revision open. It is what
/// an idle tick asks.
pub fn first_shut(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target: ActionTarget,
    now: DateTime<Utc>,
) -> Option<GateVerdict> {
    if !policy.gates.is_set() {
        return None;
    }
    let causes = causes(seen, policy, request, target);
    let judge = Judge { seen, policy: &policy.gates, causes: &causes, target, now };
    let of_time = [Gate::Window, Gate::Canaries, Gate::MinAge, Gate::Rollout];
    let verdict = |gate| Some(GateVerdict { gate, answer: judge.answer(gate)? });
    let counts = |gate: &Gate| judge.passed_by(*gate).is_none();
    of_time.into_iter().filter(counts).filter_map(verdict).find(GateVerdict::is_shut)
}

/// The window, where it is shut for a repair of drift at `revision`.
pub fn window_of_repair(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    revision: Commit,
    now: DateTime<Utc>,
) -> Option<GateWait> {
    policy.gates.window.as_ref().filter(|_| !request.overrides)?;
    let target = ActionTarget::Commit(revision);
    let judge = Judge { seen, policy: &policy.gates, causes: &[Cause::Drift], target, now };
    GateVerdict { gate: Gate::Window, answer: judge.answer(Gate::Window)? }.wait()
}

/// The window, where it is shut for a repository whose refs are published one by one.
pub fn window_of_refs(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    now: DateTime<Utc>,
) -> Option<GateWait> {
    let passes = request.overrides || request.trigger == Trigger::Redo || seen.gates.is_first;
    policy.gates.window.as_ref().filter(|_| !passes)?;
    let target = ActionTarget::Commit(seen.refs.as_ref()?.tip.or(seen.acted)?);
    let judge = Judge { seen, policy: &policy.gates, causes: &[], target, now };
    GateVerdict { gate: Gate::Window, answer: judge.window()? }.wait()
}

/// Whether what began at `began` may be finished at `now`, whatever the window says.
pub fn finishes_outside(began: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    (TimeDelta::zero()..FINISHES_OUTSIDE).contains(&(now - began))
}

/// Takes out of `plan` what a shut window keeps from beginning at `now`; `false`: nothing is left. A ref whose attempt
/// began within an hour is tried again, and no window keeps one from going back.
pub fn goes_on(plan: &mut PublishPlan, refs: &PublishState, now: DateTime<Utc>) -> bool {
    let book = &refs.book;
    let goes_on = |due: &PendingRef| {
        if due.leaves.is_some() {
            return true;
        }
        let attempt = book.get(&due.name).and_then(|entry| entry.attempt.as_ref());
        attempt.is_some_and(|attempt| {
            let is_it = attempt.revision == due.revision && attempt.ran_scripts();
            is_it && finishes_outside(attempt.since, now)
        })
    };
    plan.publish.retain(goes_on);
    plan.remove.clear();
    plan.fetch || plan.record.is_some() || !plan.publish.is_empty()
}

/// Whether the first sight of `target` is recorded, on which the gates depend, and of this boot.
pub fn is_sighted(seen: &Observed, target: ActionTarget) -> bool {
    let waiting = seen.gates.waiting.as_ref();
    waiting.is_some_and(|waiting| waiting.revision == target.upstream() && waiting.is_of_this_boot)
}

/// Whether `before` is to be asked about `target`.
pub fn asks_before(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target: ActionTarget,
) -> bool {
    policy.gates.asks_before
        && seen.gates.allowed != Some(target.upstream())
        && causes(seen, policy, request, target)
            .iter()
            .all(|cause| cause.needs(Gate::Before) == Need::Open)
}

/// What `allowed_signers` asks of `target` before it may be applied; `None`: nothing.
pub fn signature_need(
    seen: &Observed,
    policy: &Policy,
    request: ActionRequest,
    target: ActionTarget,
) -> Option<SignatureNeed> {
    policy.gates.signers.as_ref()?;
    let causes = causes(seen, policy, request, target);
    let needs = causes.iter().map(|cause| match cause.needs(Gate::Signers) {
        Need::None => None,
        Need::AcceptedHere => Some(SignatureNeed::AcceptedHere),
        _ => Some(SignatureNeed::Signed),
    });
    // The cause that asks least counts, as for the other gates.
    needs.min().flatten()
}

/// Whether `target` was judged as `need` asks, by the present file of the signers, and may be applied.
pub fn is_signed(seen: &Observed, target: ActionTarget, need: SignatureNeed) -> bool {
    let revision = target.upstream();
    let tag = seen.judged_tag(revision);
    let is_right = |it: &SignedRevision| match need {
        SignatureNeed::AcceptedHere => it.need == need,
        SignatureNeed::Signed => it.need == need && it.tag == tag,
    };
    seen.gates.signed.iter().any(|it| it.revision == revision && is_right(it))
}

/// When every gate is open that time alone opens; `None`: something else is needed, or no time is known.
pub fn all_open_at(
    verdicts: &[GateVerdict],
    policy: &GatePolicy,
    facts: &GateFacts,
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let mut at = now;
    for verdict in verdicts {
        if let GateAnswer::Shut { until, .. } = &verdict.answer {
            at = at.max((*until)?);
        }
    }
    let is_shut = |gate| verdicts.iter().any(|it| it.gate == gate && it.is_shut());
    let counts = verdicts
        .iter()
        .any(|it| it.gate == Gate::Window && !matches!(it.answer, GateAnswer::Passed(_)));
    match (&policy.window, &facts.zone) {
        (Some(window), Some(zone)) if counts && (at > now || is_shut(Gate::Window)) => {
            window.next_opening(zone, at).at
        }
        _ => Some(at),
    }
}

/// The last moment that is shown, in seconds since 1970: the year 9999 in every time zone.
const LAST_MOMENT: i64 = 253_400_000_000;

/// The moment `amount` after `at`, at most the end of the year 9999.
fn later(at: DateTime<Utc>, amount: Duration) -> DateTime<Utc> {
    let amount = TimeDelta::from_std(amount).unwrap_or(TimeDelta::MAX);
    let last = DateTime::from_timestamp(LAST_MOMENT, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    at.checked_add_signed(amount).map_or(last, |it| it.min(last))
}

struct Judge<'a> {
    seen: &'a Observed,
    policy: &'a GatePolicy,
    causes: &'a [Cause],
    target: ActionTarget,
    now: DateTime<Utc>,
}

impl Judge<'_> {
    /// The answer of `gate`; `None`: it is not set.
    fn answer(&self, gate: Gate) -> Option<GateAnswer> {
        let answer = match gate {
            Gate::Holds => self.holds(),
            Gate::Signers => self.signers(),
            Gate::RevisionHold => self.revision_hold(),
            Gate::Window => self.window(),
            Gate::Canaries => self.canaries(),
            Gate::MinAge => self.min_age(),
            Gate::Rollout => self.rollout(),
            Gate::Before => self.before(),
        }?;
        Some(match (answer, self.passed_by(gate)) {
            (GateAnswer::Shut { .. }, Some(cause)) => {
                GateAnswer::Passed(format!("does not count: {}", cause.as_reason()))
            }
            (answer, _) => answer,
        })
    }

    /// The cause for which `gate` does not count.
    fn passed_by(&self, gate: Gate) -> Option<Cause> {
        self.causes.iter().copied().find(|cause| match cause.needs(gate) {
            Need::None => true,
            Need::Open | Need::AcceptedHere => false,
            Need::OpenUnlessUrgent => self.policy.window.as_ref().is_some_and(Window::lets_urgent),
            Need::OpenAfterAnHour => {
                self.seen.gates.begun.as_ref().is_some_and(|it| finishes_outside(it.at, self.now))
            }
            Need::OfACanary => {
                self.seen.gates.canaries.as_ref().is_some_and(CanaryReport::one_has_it)
            }
        })
    }

    fn holds(&self) -> Option<GateAnswer> {
        let reason = format!("held {}", self.seen.holds.first()?.sentence());
        let ends: Option<Vec<_>> = self.seen.holds.iter().map(|hold| hold.until).collect();
        Some(GateAnswer::Shut { reason, until: ends.and_then(|ends| ends.into_iter().max()) })
    }

    fn signers(&self) -> Option<GateAnswer> {
        self.policy.signers.as_ref()?;
        let revision = self.target.upstream();
        if let Some(Finding::Unsigned { reason, .. }) = self.seen.standing(self.target) {
            return Some(GateAnswer::Shut { reason: reason.clone(), until: None });
        }
        let tag = self.seen.judged_tag(revision);
        let is_right = |it: &&SignedRevision| it.revision == revision && it.tag == tag;
        let judged = self.seen.gates.signed.iter().rfind(is_right);
        Some(match judged {
            Some(SignedRevision { signer: Some(signer), commits, .. }) => {
                GateAnswer::Open(match commits {
                    0 | 1 => format!("is signed by {signer}"),
                    more => format!(
                        "is signed by {signer}, and {} commits before it are signed",
                        more - 1
                    ),
                })
            }
            Some(_) => GateAnswer::Open("was accepted here".to_owned()),
            None => GateAnswer::Shut {
                reason: "the next tick verifies its signature".to_owned(),
                until: None,
            },
        })
    }

    fn revision_hold(&self) -> Option<GateAnswer> {
        match self.seen.standing(self.target)? {
            Finding::Held { reason } => {
                Some(GateAnswer::Shut { reason: reason.clone(), until: None })
            }
            _ => None,
        }
    }

    /// The answer when the clock is behind the newest record here: no time of day can be believed then.
    fn wrong_clock(&self) -> Option<GateAnswer> {
        let newest = self.seen.gates.newest_record?;
        (self.now + TOLERANCE < newest).then(|| {
            let said = |at: DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
            GateAnswer::Shut {
                reason: format!(
                    "the clock is behind the newest record here, which is of {}; set the clock, or: \
                     agent tick REPO --override REASON",
                    said(newest)
                ),
                until: None,
            }
        })
    }

    fn window(&self) -> Option<GateAnswer> {
        let window = self.policy.window.as_ref()?;
        if let Some(wrong) = self.wrong_clock() {
            return Some(wrong);
        }
        let zone = self.seen.gates.zone.as_ref()?;
        if window.is_open(zone, self.now) {
            return Some(GateAnswer::Open("is open".to_owned()));
        }
        let opening = window.opening_after(zone, self.now);
        let reason = match (&opening.at, &opening.skipped) {
            (None, _) => "window never opens again".to_owned(),
            (Some(_), None) => "window opens".to_owned(),
            (Some(_), Some(time)) => {
                format!("{time} does not exist by daylight saving time; window opens")
            }
        };
        Some(GateAnswer::Shut { reason, until: opening.at })
    }

    fn canaries(&self) -> Option<GateAnswer> {
        if self.policy.canaries.is_empty() {
            return None;
        }
        Some(match &self.seen.gates.canaries {
            Some(report) => report.answer(),
            None => GateAnswer::Shut {
                reason: "the canaries were not read yet".to_owned(),
                until: None,
            },
        })
    }

    /// The start of the wait of the newest revision, and of the oldest that waits; `None`: not seen yet.
    fn starts(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let waiting = self.seen.gates.waiting.as_ref();
        let waiting = waiting.filter(|waiting| waiting.revision == self.target.upstream())?;
        // The canaries' soak begins when they are satisfied.
        let satisfied = self.seen.gates.canaries.as_ref().and_then(|report| report.satisfied_since);
        let from = |start: DateTime<Utc>| satisfied.map_or(start, |since| start.max(since));
        Some((from(waiting.since), from(waiting.oldest_since)))
    }

    /// When `min_age` is over.
    fn min_age_ends(&self) -> Option<DateTime<Utc>> {
        let (newest, oldest) = self.starts()?;
        let longest = self.policy.min_age.saturating_mul(MOST_AGES);
        Some(later(newest, self.policy.min_age).min(later(oldest, longest)))
    }

    fn min_age(&self) -> Option<GateAnswer> {
        if self.policy.min_age.is_zero() {
            return None;
        }
        Some(self.over_at(self.min_age_ends(), "min_age"))
    }

    fn rollout(&self) -> Option<GateAnswer> {
        if self.policy.rollout.is_zero() {
            return None;
        }
        Some(self.over_at(self.rollout_ends(), "rollout"))
    }

    /// When the part of this machine in the rollout is over: a newer revision restarts it, and none waits longer
    /// than `rollout` past its own part since the oldest that waits.
    fn rollout_ends(&self) -> Option<DateTime<Utc>> {
        let (_, oldest) = self.starts()?;
        let begins = self.min_age_ends()?;
        let rollout = self.policy.rollout;
        let position = self.seen.gates.position.clamp(0.0, 1.0);
        let part = Duration::try_from_secs_f64(rollout.as_secs_f64() * position).unwrap_or(rollout);
        let restarted = self.after_open_time(begins, part);
        let oldest = later(oldest, self.policy.min_age);
        if begins <= oldest {
            // The longest wait is longer than this one.
            return restarted;
        }
        let longest = self.after_open_time(oldest, part.saturating_add(rollout));
        match (restarted, longest) {
            (Some(restarted), Some(longest)) => Some(restarted.min(longest).max(begins)),
            (restarted, longest) => restarted.or(longest),
        }
    }

    /// The moment at which `amount` has passed since `start`, counting only the minutes of the window.
    fn after_open_time(&self, start: DateTime<Utc>, amount: Duration) -> Option<DateTime<Utc>> {
        match (&self.policy.window, &self.seen.gates.zone) {
            (Some(window), Some(zone)) if !amount.is_zero() => {
                window.after_open_time(zone, start, amount)
            }
            _ => Some(later(start, amount)),
        }
    }

    fn over_at(&self, end: Option<DateTime<Utc>>, key: &str) -> GateAnswer {
        if let Some(wrong) = self.wrong_clock() {
            return wrong;
        }
        match end {
            Some(end) if end <= self.now => GateAnswer::Open("is over".to_owned()),
            end => GateAnswer::Shut { reason: format!("waits ({key})"), until: end },
        }
    }

    fn before(&self) -> Option<GateAnswer> {
        if !self.policy.asks_before {
            return None;
        }
        let revision = self.target.upstream();
        if self.seen.gates.allowed == Some(revision) {
            return Some(GateAnswer::Open("said yes".to_owned()));
        }
        let asked = self.seen.attempt_at(self.target).filter(|attempt| attempt.is_of_before);
        Some(match asked {
            Some(attempt) => GateAnswer::Shut {
                reason: Attempt::sentence(attempt).escape_controls(),
                until: attempt.next_try,
            },
            None => GateAnswer::Shut {
                reason: "before is run when all else is open".to_owned(),
                until: None,
            },
        })
    }
}

#[cfg(test)]
#[path = "gates/fleet/tests.rs"]
mod fleet;
#[cfg(test)]
mod tests;
