//! What readers find at a target: whole trees of branches and tags, each on its own.

use std::fs;
use std::path::PathBuf;

use pmpy::domain::repository::status::PublishedRef;
use pmpy::engine::discovery;
use pmpy::engine::operator::checkout::{self, CheckoutAction};

use crate::machine::{Machine, NAME, commit, says};
use crate::sandbox::text;

tests![
    one_branch_appears_at_the_target_and_follows_upstream,
    every_branch_appears_and_goes_with_its_branch,
    atomic_puts_each_branch_next_to_the_target,
    only_the_tags_that_match_appear,
    one_refused_branch_stops_no_other,
    a_directory_of_somebody_else_is_never_replaced,
    a_before_script_that_refuses_keeps_the_old_tree,
    names_are_made_fit_for_puppet,
    a_checkout_by_hand_shows_a_tag_without_the_network,
    a_checkout_of_nothing_known_names_what_was_asked,
    no_person_can_check_out_into_a_configured_target,
    a_store_that_was_lost_is_written_again,
    a_directory_named_by_a_revision_is_not_shown,
];

/// A machine that publishes in `mode`, after its first tick.
fn publisher(mode: &str, more: &str) -> Machine {
    let machine = Machine::with(&[("page", "one")]);
    fs::create_dir(machine.path("targets")).unwrap();
    machine.set(&format!(
        "mode = \"{mode}\"\ntarget = \"{}\"\n{more}",
        text(&machine.path("targets/site"))
    ));
    machine.tick();
    machine
}

fn page(machine: &Machine, below: &str) -> Option<String> {
    fs::read_to_string(machine.path("targets").join(below).join("page")).ok()
}

fn branch(machine: &Machine, name: &str, content: &str) -> String {
    let desk = machine.desk(NAME);
    machine.git(&desk, &["checkout", "--quiet", "-B", name]);
    fs::write(desk.join("page"), content).unwrap();
    machine.git(&desk, &["commit", "--quiet", "--all", "--allow-empty", "--message", "A change"]);
    machine
        .git(&desk, &["push", "--quiet", "--force", "origin", &format!("HEAD:refs/heads/{name}")]);
    machine.git(&desk, &["rev-parse", "HEAD"])
}

fn entry(machine: &Machine, name: &str) -> PublishedRef {
    let all = machine.status().published;
    let found = all.iter().find(|entry| entry.name == name).cloned();
    found.unwrap_or_else(|| panic!("{name} is not in {all:#?}"))
}

fn one_branch_appears_at_the_target_and_follows_upstream() {
    let machine = publisher("checkout", "");
    assert_eq!(page(&machine, "site").as_deref(), Some("one"));
    let tip = machine.pushed("page", "two");
    machine.tick();
    machine.is("current");
    assert_eq!(
        (page(&machine, "site").as_deref(), machine.deployed_at()),
        (Some("two"), Some(tip))
    );
    let release = fs::read_link(machine.path("targets/site")).unwrap();
    says(release.to_str().unwrap(), &[&tip.to_string()]);
    assert_eq!(machine.differences(NAME), "", "the clone's own worktree is left alone");
    assert_eq!(machine.file("page").as_deref(), Some("one"));
}

fn a_store_that_was_lost_is_written_again() {
    for (mode, shown, store) in
        [("checkout", "site", ".site.pmpy"), ("branches", "site/main", "site/.pmpy")]
    {
        let machine = publisher(mode, "");
        fs::remove_dir_all(machine.path("targets").join(store)).unwrap();
        assert_eq!(page(&machine, shown), None);
        machine.tick();
        machine.is("current");
        assert_eq!(page(&machine, shown).as_deref(), Some("one"), "{mode}");
    }
}

fn a_directory_named_by_a_revision_is_not_shown() {
    let machine = publisher("checkout", "");
    let tip = machine.pushed("page", "two");
    let store = machine.path("targets/.site.pmpy");
    fs::create_dir(store.join(tip.to_string())).unwrap();
    fs::write(store.join(tip.to_string()).join("page"), "half").unwrap();
    machine.tick();
    assert_eq!(page(&machine, "site").as_deref(), Some("two"));
    let left = machine.status().left.unwrap();
    assert_eq!((left.files, left.bytes), (1, 4));
    assert!(store.join(".left").join(tip.to_string()).join("page").exists());
}

fn every_branch_appears_and_goes_with_its_branch() {
    let machine = publisher("branches", "");
    branch(&machine, "feature/x", "x");
    machine.tick();
    assert_eq!(page(&machine, "site/main").as_deref(), Some("one"));
    assert_eq!(page(&machine, "site/feature%2Fx").as_deref(), Some("x"));
    machine.git(&machine.server(NAME), &["update-ref", "-d", "refs/heads/feature/x"]);
    machine.answered_twice(NAME, "refs/heads/feature/x");
    machine.tick();
    assert_eq!(page(&machine, "site/feature%2Fx"), None);
    assert_eq!(page(&machine, "site/main").as_deref(), Some("one"));
    machine.is("current");
}

fn atomic_puts_each_branch_next_to_the_target() {
    let machine = publisher("atomic", "");
    branch(&machine, "next", "two");
    machine.tick();
    assert_eq!(page(&machine, "site_main").as_deref(), Some("one"));
    assert_eq!(page(&machine, "site_next").as_deref(), Some("two"));
}

fn only_the_tags_that_match_appear() {
    let machine = publisher("tags", "match = [\"v*\"]");
    let tip = machine.head(NAME);
    for tag in ["refs/tags/v1", "refs/tags/nightly"] {
        machine.git(&machine.server(NAME), &["update-ref", tag, &tip]);
    }
    machine.tick();
    assert_eq!(page(&machine, "site/v1").as_deref(), Some("one"));
    assert_eq!(page(&machine, "site/nightly"), None);
}

fn one_refused_branch_stops_no_other() {
    let machine = publisher("branches", "");
    let desk = machine.desk(NAME);
    machine.git(&desk, &["checkout", "--quiet", "-b", "bad"]);
    fs::create_dir(desk.join(".temp")).unwrap();
    fs::write(desk.join(".temp/x"), "x").unwrap();
    machine.git(&desk, &["add", "--all", "--force"]);
    machine.git(&desk, &["commit", "--quiet", "--message", "Bad"]);
    machine.git(&desk, &["push", "--quiet", "origin", "bad"]);
    machine.git(&desk, &["checkout", "--quiet", "main"]);
    branch(&machine, "zz", "good");
    machine.tick();
    assert_eq!(page(&machine, "site/zz").as_deref(), Some("good"));
    assert_eq!(page(&machine, "site/bad"), None);
    let bad = entry(&machine, "refs/heads/bad");
    assert_eq!(bad.state.as_str(), "refused");
    says(&bad.reason.unwrap(), &[".temp"]);
    machine.is("refused");
}

fn a_directory_of_somebody_else_is_never_replaced() {
    let machine = publisher("branches", "");
    let mine = machine.path("targets/site/next");
    fs::create_dir(&mine).unwrap();
    fs::write(mine.join("page"), "mine").unwrap();
    branch(&machine, "next", "two");
    machine.tick();
    assert_eq!(page(&machine, "site/next").as_deref(), Some("mine"));
    says(&entry(&machine, "refs/heads/next").reason.unwrap(), &[text(&mine)]);
    fs::remove_dir_all(&mine).unwrap();
    machine.tick_with(|options| options.names = vec![NAME.to_owned()]);
    assert_eq!(page(&machine, "site/next").as_deref(), Some("two"));
}

fn a_before_script_that_refuses_keeps_the_old_tree() {
    let machine = publisher("checkout", "before = [\"bin/validate\"]");
    machine.push(NAME, &[("bin/validate", "grep -q good page"), ("page", "good")]);
    machine.tick();
    assert_eq!(page(&machine, "site").as_deref(), Some("good"));
    machine.pushed("page", "bad");
    machine.tick();
    assert_eq!(page(&machine, "site").as_deref(), Some("good"));
    assert_ne!(machine.status().state.as_str(), "current");
    let tip = machine.pushed("page", "good again");
    machine.tick();
    assert_eq!(machine.deployed_at(), Some(tip));
}

fn names_are_made_fit_for_puppet() {
    let machine = publisher("branches", "names = \"puppet\"\nrename = { main = \"production\" }");
    branch(&machine, "fix-12", "two");
    machine.tick();
    assert_eq!(page(&machine, "site/production").as_deref(), Some("one"));
    assert_eq!(page(&machine, "site/fix_12").as_deref(), Some("two"));
}

fn a_checkout_by_hand_shows_a_tag_without_the_network() {
    let machine = publisher("fetch", "");
    let first = machine.head(NAME);
    machine.git(&machine.server(NAME), &["update-ref", "refs/tags/v1", &first]);
    machine.pushed("page", "two");
    machine.tick();
    fs::rename(machine.server(NAME), machine.path("away")).unwrap();
    let (choice, action) =
        checkout::checkout(&machine.context(), &machine.entry(), "v1", None).unwrap();
    assert_eq!((choice.name.as_str(), choice.revision), ("refs/tags/v1", commit(&first)));
    assert_eq!(action, CheckoutAction::Shown(machine.path("targets/site")));
    assert_eq!(page(&machine, "site").as_deref(), Some("one"));
    let to: PathBuf = machine.path("targets/by-hand");
    checkout::checkout(&machine.context(), &machine.entry(), "main", Some(&to)).unwrap();
    assert_eq!(page(&machine, "by-hand").as_deref(), Some("two"));
}

fn a_checkout_of_nothing_known_names_what_was_asked() {
    let machine = publisher("fetch", "");
    let error = checkout::checkout(&machine.context(), &machine.entry(), "v9", None).unwrap_err();
    says(&error.to_string(), &["\"v9\"", "hint: ", "git -C"]);
}

fn no_person_can_check_out_into_a_configured_target() {
    let machine = publisher("branches", "");
    let context = machine.context();
    for taken in [machine.path("targets/site"), machine.path("targets/site/main"), machine.root()] {
        let error = checkout::free_place(&context, &taken).unwrap_err();
        says(&error.to_string(), &["hint: "]);
    }
    checkout::free_place(&context, &machine.path("targets/other")).unwrap();
    assert_eq!(discovery::repositories(&context).unwrap().len(), 1);
}
