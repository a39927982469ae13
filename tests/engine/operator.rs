//! What people ask for besides following upstream: hold, roll back, accept, explain, history.

use std::fs;

use chrono::Duration;
use pmpy::domain::report::notices::RevisionPresence;
use pmpy::domain::repository::action::{Outcome, Trigger};
use pmpy::domain::repository::decision::Rule;
use pmpy::engine::operator::{self, HoldKind, HoldOrder, UnholdScope};
use pmpy::engine::request::WorkerCommand;
use pmpy::system::host;

use crate::machine::{Machine, NAME, WORK, says};
use crate::sandbox::{NOTES_ITS_RUNS, text};

tests![
    a_hold_stops_the_next_revision_until_it_is_lifted,
    a_hold_whose_time_is_over_holds_nothing,
    a_command_on_a_held_repository_names_the_hold,
    what_is_not_cloned_cannot_be_held_and_the_error_says_what_to_write,
    a_broken_repository_can_still_be_held,
    unhold_removes_a_foreign_currentaction,
    a_rollback_stays_until_unhold_and_a_second_one_goes_further_back,
    a_rollback_without_an_earlier_success_asks_for_a_revision,
    many_refs_cannot_be_rolled_back_as_one,
    only_the_tip_that_was_refused_can_be_accepted,
    the_history_has_each_run_with_its_outcome,
    a_history_that_cannot_be_read_hides_no_other,
    explain_says_where_a_revision_is,
    explain_works_for_what_is_broken_or_not_cloned,
    init_scripts_run_once_more_on_request,
];

/// Deployed twice: the first and the second revision.
fn twice() -> Machine {
    let machine = Machine::deployed("", &[(WORK, NOTES_ITS_RUNS), ("page", "one")]);
    machine.pushed("page", "two");
    machine.tick();
    machine
}

fn order(reason: &str) -> HoldOrder {
    HoldOrder { reason: reason.to_owned(), ..HoldOrder::default() }
}

fn lifted(machine: &Machine, scope: UnholdScope) -> Vec<(HoldKind, String)> {
    let outcome = operator::unhold(&machine.context(), &machine.entry(), scope).unwrap();
    outcome.lifted.into_iter().map(|it| (it.kind, it.hold.reason)).collect()
}

fn a_hold_stops_the_next_revision_until_it_is_lifted() {
    let machine = twice();
    let second = machine.at();
    operator::hold(&machine.context(), &machine.entry(), &order("release day")).unwrap();
    let tip = machine.pushed("page", "three");
    machine.tick();
    let (state, reason) = machine.state_and_reason();
    assert_eq!((state, machine.at()), ("held", second));
    says(&reason, &["release day"]);
    assert_eq!(lifted(&machine, UnholdScope::Own), [(HoldKind::Order, "release day".to_owned())]);
    machine.tick();
    assert_eq!(machine.deployed_at(), Some(tip));
}

fn a_hold_whose_time_is_over_holds_nothing() {
    let machine = twice();
    let past = host::now() - Duration::minutes(1);
    let lunch = HoldOrder { until: Some(past), ..order("lunch") };
    operator::hold(&machine.context(), &machine.entry(), &lunch).unwrap();
    let tip = machine.pushed("page", "three");
    machine.tick();
    assert_eq!(machine.deployed_at(), Some(tip));
}

fn a_command_on_a_held_repository_names_the_hold() {
    let machine = twice();
    let (context, entry) = (machine.context(), machine.entry());
    operator::accepts_orders(&context, &entry).unwrap();
    operator::hold(&context, &entry, &order("release day")).unwrap();
    let error = operator::accepts_orders(&context, &entry).unwrap_err().to_string();
    says(&error, &[NAME, "release day", "agent unhold ops"]);
}

fn what_is_not_cloned_cannot_be_held_and_the_error_says_what_to_write() {
    let machine = Machine::new();
    machine.set("url = \"https://git.example.org/ops.git\"");
    let error = operator::hold(&machine.context(), &machine.entry(), &order("no")).unwrap_err();
    says(&error.to_string(), &[NAME, "active = false", "[repo.ops]"]);
}

fn a_broken_repository_can_still_be_held() {
    let machine = twice();
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "--detach"]);
    machine.is("broken");
    operator::hold(&machine.context(), &machine.entry(), &order("being repaired")).unwrap();
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "main"]);
    machine.is("held");
}

fn unhold_removes_a_foreign_currentaction() {
    let machine = twice();
    fs::write(machine.currentaction(NAME), "db migration\n").unwrap();
    machine.is("held");
    let found = lifted(&machine, UnholdScope::All);
    assert!(found.is_empty() && machine.currentaction(NAME).exists(), "{found:?}");
    let found = lifted(&machine, UnholdScope::Own);
    assert_eq!(found, [(HoldKind::CurrentAction, "db migration".to_owned())]);
    assert!(!machine.currentaction(NAME).exists());
    machine.is("current");
}

fn rolled_back(machine: &Machine) {
    let target = operator::rollback_target(&machine.context(), &machine.entry(), None);
    let target = target.unwrap().revision;
    machine.order(Trigger::Rollback, WorkerCommand::Rollback(target));
    machine.is("pinned");
    assert_eq!((machine.at(), machine.deployed_at()), (target, Some(target)));
}

fn a_rollback_stays_until_unhold_and_a_second_one_goes_further_back() {
    let machine = twice();
    let first = machine.history()[0].revision;
    let second = machine.at();
    let third = machine.pushed("page", "three");
    machine.tick();
    rolled_back(&machine);
    assert_eq!((machine.at(), machine.file("page").as_deref()), (second, Some("two")));
    machine.tick();
    assert_eq!(machine.at(), second, "a tick left the pin");
    rolled_back(&machine);
    assert_eq!(machine.at(), first);
    assert!(lifted(&machine, UnholdScope::All).is_empty());
    machine.is("pinned");
    assert_eq!(lifted(&machine, UnholdScope::Own)[0].0, HoldKind::Pin);
    machine.tick();
    assert_eq!(machine.deployed_at(), Some(third));
}

fn a_rollback_without_an_earlier_success_asks_for_a_revision() {
    let machine = Machine::deployed("", &[(WORK, "true")]);
    let (context, entry) = (machine.context(), machine.entry());
    let error = operator::rollback_target(&context, &entry, None).unwrap_err().to_string();
    says(&error, &["agent rollback ops REVISION"]);
    let error = operator::rollback_target(&context, &entry, Some("abcdef1")).unwrap_err();
    says(&format!("{error:#}"), &[NAME, "abcdef1"]);
    let named = operator::rollback_target(&context, &entry, Some("main")).unwrap();
    assert_eq!(named.revision, machine.at());
}

fn many_refs_cannot_be_rolled_back_as_one() {
    let machine = Machine::with(&[("page", "one")]);
    fs::create_dir(machine.path("targets")).unwrap();
    let target = machine.path("targets/site");
    machine.set(&format!("mode = \"branches\"\ntarget = \"{}\"", text(&target)));
    machine.tick();
    let error = operator::rollback_target(&machine.context(), &machine.entry(), None).unwrap_err();
    says(&error.to_string(), &["agent hold ops"]);
}

fn only_the_tip_that_was_refused_can_be_accepted() {
    let machine = twice();
    let (context, entry) = (machine.context(), machine.entry());
    machine.git(&machine.desk(NAME), &["reset", "--quiet", "--hard", "HEAD~1"]);
    let new = machine.pushed("page", "three");
    machine.tick();
    let acceptable = |text: &str| operator::acceptable(&context, &entry, text);
    assert_eq!(acceptable(&new.to_string()).unwrap(), new);
    assert_eq!(acceptable(&new.short()).unwrap(), new);
    for other in [machine.at().to_string(), new.to_string()[..6].to_owned()] {
        let error = acceptable(&other).unwrap_err().to_string();
        says(&error, &[&other, &format!("agent accept ops {new}")]);
    }
}

fn the_history_has_each_run_with_its_outcome() {
    let machine = twice();
    machine.pushed(WORK, "exit 4");
    machine.tick();
    let runs = machine.history();
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.clone()).collect();
    let (good, bad) = (Outcome::Succeeded, Outcome::Failed { code: 4 });
    assert_eq!(outcomes, [good.clone(), good, bad]);
    assert_eq!(runs[1].previous, Some(runs[0].revision));
    assert_eq!((runs[2].subject.as_str(), runs[2].trigger), ("A change", Trigger::Cron));
    assert!(runs.iter().all(|run| run.log.is_some()), "{runs:#?}");
}

fn a_history_that_cannot_be_read_hides_no_other() {
    let machine = twice();
    machine.serve("web", &[("page", "one")]);
    machine.clone_to_root("web");
    machine.tick();
    machine.git(&machine.clone_of("web"), &["checkout", "--quiet", "--detach"]);
    let all = operator::histories(&machine.context(), &[]).unwrap();
    let names: Vec<_> = all.iter().map(|(name, runs)| (name.as_str(), runs.is_ok())).collect();
    assert_eq!(names, [(NAME, true), ("web", false)]);
    says(all[1].1.as_ref().unwrap_err(), &["web"]);
}

fn explain_says_where_a_revision_is() {
    let machine = twice();
    let acted = machine.at();
    let local = machine.commit_here("mine", "mine");
    let (context, entry) = (machine.context(), machine.entry());
    let place = |text: &str| {
        operator::explain(&context, &entry, Some(text)).unwrap().containment.unwrap().1
    };
    assert_eq!(place(&acted.to_string()), RevisionPresence::Acted);
    assert_eq!(place(&local.to_string()), RevisionPresence::ContainedInHead);
    assert_eq!(place("0123456789"), RevisionPresence::Unknown);
    assert!(operator::explain(&context, &entry, Some("no-such-branch")).is_err());
}

fn explain_works_for_what_is_broken_or_not_cloned() {
    let machine = twice();
    machine.git(&machine.clone_of(NAME), &["checkout", "--quiet", "--detach"]);
    let told = operator::explain(&machine.context(), &machine.entry(), None).unwrap();
    assert_eq!(told.decision.rule, Rule::Unreadable);
    let machine = Machine::new();
    machine.set("url = \"https://git.example.org/ops.git\"");
    let told = operator::explain(&machine.context(), &machine.entry(), None).unwrap();
    assert_eq!(told.decision.rule, Rule::Clone);
}

fn init_scripts_run_once_more_on_request() {
    let machine = Machine::new();
    let init = "echo init >> \"$AGENT_ROOT/../runs\"";
    machine.serve(NAME, &[("bin/init/common/init.sh", init)]);
    machine.set(&format!("url = \"{}\"", text(&machine.server(NAME))));
    machine.tick();
    machine.tick();
    assert_eq!(machine.runs(), ["init"]);
    operator::init_again(&machine.context(), &machine.entry()).unwrap();
    machine.order(Trigger::Redo, WorkerCommand::Redo);
    assert_eq!(machine.runs(), ["init", "init"]);
}
