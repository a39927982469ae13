//! The holds of a repository on a person's order: sets one, lists whose they are, lifts those that the order
//! names. Does not know what a hold stops.

use anyhow::{Context as _, Result, bail};
use chrono::{DateTime, Utc};

use crate::domain::repository::history::ActKind;
use crate::domain::repository::hold::{Hold, Person, UNREADABLE, next_number};
use crate::engine::context::Context;
use crate::engine::discovery::{CloneState, RepoEntry};
use crate::engine::repository::observe::{self, OpenOutcome};
use crate::engine::run::record::{self, OrderedAct};
use crate::system::host;
use crate::system::lock::{self, CurrentAction};
use crate::system::repo_state::RepoRecords;

/// A person's order to hold.
#[derive(Clone, Debug, Default)]
pub struct HoldOrder {
    /// Why.
    pub reason: String,
    /// The end; `None`: when a person lifts it.
    pub until: Option<DateTime<Utc>>,
    /// Whether it is for every repository.
    pub all: bool,
}

/// The holds that an `unhold` lifts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnholdScope {
    /// Those of the caller, and the caller's pin.
    Own,
    /// The one with this number.
    Number(u32),
    /// All of this repository.
    Everybody,
    /// What `hold --all` set.
    All,
}

/// What holds a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldKind {
    /// `agent hold`.
    Order,
    /// A `currentaction.txt` that the agent did not write.
    CurrentAction,
    /// The pin of a rollback.
    Pin,
}

/// One of the holds of a repository, a pin included.
#[derive(Clone, Debug)]
pub struct ListedHold {
    /// What holds.
    pub kind: HoldKind,
    /// By whom, why, since when; of a pin the revision.
    pub hold: Hold,
    is_own: bool,
}

impl ListedHold {
    fn is_in(&self, scope: UnholdScope) -> bool {
        match scope {
            UnholdScope::Own => self.is_own,
            UnholdScope::Number(number) => self.hold.number == number,
            UnholdScope::Everybody => true,
            UnholdScope::All => self.kind == HoldKind::Order && self.hold.all,
        }
    }
}

/// The result of an `unhold`.
#[derive(Clone, Debug)]
pub struct UnholdOutcome {
    /// What was lifted.
    pub lifted: Vec<ListedHold>,
    /// What still holds.
    pub left: Vec<ListedHold>,
}

/// The records of a repository, even of a broken one: a hold must always be possible.
fn records(context: &Context, repo: &RepoEntry) -> Result<RepoRecords> {
    if let OpenOutcome::Ready(repository) = observe::open(context, repo) {
        repository.records.make(repository.git.git_dir())?;
        return Ok(repository.records);
    }
    if repo.found == CloneState::Missing {
        bail!(
            "{0} is not cloned yet, so there is nothing to hold\n\
             hint: to keep it from being cloned, write active = false under [repo.{0}]",
            repo.name
        );
    }
    let git_dir = crate::system::git::git_dir_of(&repo.path)
        .with_context(|| format!("{} has no git directory to keep a hold in", repo.name))?;
    let records = RepoRecords::of(&git_dir, &repo.path);
    records.make(&git_dir)?;
    Ok(records)
}

/// Adds a hold to those of a repository, so that it takes no action.
///
/// # Errors
/// When the hold cannot be written.
pub fn hold(context: &Context, repo: &RepoEntry, order: &HoldOrder) -> Result<()> {
    let HoldOrder { reason, until, all } = order.clone();
    let (person, since) = (context.person(), host::now());
    let (by, person) = (person.name.clone(), Some(person));
    let act = OrderedAct { reason: Some(reason.clone()), until, ..OrderedAct::new(ActKind::Hold) };
    let hold = Hold { by, reason, since, until, person, all, number: 0 };
    let records = records(context, repo)?;
    records
        .change_holds(since, |holds| holds.push(hold))
        .with_context(|| format!("{} cannot be held", repo.name))?;
    record::act(context, &repo.name, &records, &act)
}

/// Lifts the holds of `scope`; of a foreign `currentaction.txt` that removes the file.
///
/// # Errors
/// When there is no hold of that number, or something cannot be removed.
pub fn unhold(context: &Context, repo: &RepoEntry, scope: UnholdScope) -> Result<UnholdOutcome> {
    let (records, now) = (records(context, repo)?, host::now());
    let all = listed(&records, &context.person(), now)?;
    let (lifted, left): (Vec<_>, Vec<_>) = all.into_iter().partition(|it| it.is_in(scope));
    if let (UnholdScope::Number(number), true) = (scope, lifted.is_empty()) {
        bail!(
            "{0} has no hold {number}\nhint: to see which there are: agent status -v {0}",
            repo.name
        );
    }
    let has = |kind| lifted.iter().any(|it| it.kind == kind);
    if has(HoldKind::Order) {
        let is_lifted = |hold: &Hold| {
            lifted.iter().any(|it| it.kind == HoldKind::Order && it.hold.number == hold.number)
        };
        records.change_holds(now, |holds| holds.retain(|hold| !is_lifted(hold)))?;
    }
    if has(HoldKind::Pin) {
        records.lift_pin()?;
    }
    if has(HoldKind::CurrentAction) {
        lock::remove_foreign_current_action(&records)?;
    }
    if !lifted.is_empty() {
        let reasons: Vec<String> = lifted.iter().map(|it| it.hold.sentence()).collect();
        let reason = Some(reasons.join("; "));
        let act = OrderedAct { reason, ..OrderedAct::new(ActKind::Unhold) };
        record::act(context, &repo.name, &records, &act)?;
    }
    Ok(UnholdOutcome { lifted, left })
}

/// Everything that holds a repository at `now`, and which of it `person` set.
fn listed(records: &RepoRecords, person: &Person, now: DateTime<Utc>) -> Result<Vec<ListedHold>> {
    let holds = records.holds(now);
    let mut number = next_number(&holds);
    let mut all: Vec<ListedHold> = holds
        .into_iter()
        .map(|hold| ListedHold { kind: HoldKind::Order, is_own: hold.is_of(person), hold })
        .collect();
    if let Some(found) = foreign_current_action(records)? {
        // Only the owner of a file is known, and sudo makes that root.
        let is_own = found.uid == person.uid;
        let hold = Hold { number, ..found.as_hold() };
        all.push(ListedHold { kind: HoldKind::CurrentAction, hold, is_own });
        number += 1;
    }
    let pin = records.pin().transpose();
    all.extend(pin.map(|pin| match pin {
        Ok(pin) => {
            let is_own = pin.is_of(person);
            let reason = format!("rolled back to {}", pin.revision.short());
            let hold = Hold { number, by: pin.by, reason, since: pin.since, ..Hold::default() };
            ListedHold { kind: HoldKind::Pin, hold, is_own }
        }
        Err(error) => {
            let (by, reason) = (UNREADABLE.to_owned(), format!("{error:#}"));
            let hold = Hold { number, by, reason, since: now, ..Hold::default() };
            ListedHold { kind: HoldKind::Pin, hold, is_own: true }
        }
    }));
    Ok(all)
}

/// The `currentaction.txt` that is not of one of our runs. While a run is active, or left its journal, the
/// run removes its own.
fn foreign_current_action(records: &RepoRecords) -> Result<Option<CurrentAction>> {
    let journal = lock::journal(records)?;
    let found = lock::current_action(records);
    Ok(found.filter(|found| journal.is_none_or(|journal| !found.is_of(&journal))))
}
