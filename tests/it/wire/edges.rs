//! Servers that lie about where their history ends.

use crate::sandbox::Sandbox;
use crate::servers::Https;

use super::{acted, mitm_proxy, news, pull_from, reason, trusting};

/// Answers a fetch with so many commits that are said to be without their parents, and no pack.
fn claims_edges(server: &Https, count: usize) -> String {
    let script = format!(
        "fetching || {{ pass_on; exit; }}\nresult\nprintf '0011shallow-info\\n'\n\
         seq {count} | while read -r n; do printf '0035shallow %040d\\n' \"$n\"; done\n\
         printf '0001000dpackfile\\n000c\\001garbage0000'\n"
    );
    mitm_proxy::meddle(server, &format!("edges-{count}"), &script)
}

/// Refuses what such a server sends because of `words`; the clone has nothing of it, and follows a good
/// server afterwards.
#[track_caller]
fn takes_no_harm(machine: &Sandbox, server: &Https, count: usize, words: &str) {
    let way = claims_edges(server, count);
    pull_from(machine, &trusting(server), &[("ops", server.url_at(&way, "ops"))]);
    let revision = news(machine, "ops", words);
    machine.tick();
    assert!(reason(machine, "ops").contains(words), "{:#}", machine.row("ops"));
    assert!(!machine.clone_of("ops").join(".git/shallow").exists());
    pull_from(machine, &trusting(server), &[("ops", server.url("ops"))]);
    machine.agent(&["tick", "ops"]).ok();
    assert_eq!(machine.lastaction("ops"), Some(revision));
}

#[test]
fn edges_without_number_are_refused_and_those_of_a_bad_pack_forgotten() {
    let machine = acted(&["ops"]);
    let server = Https::of(&machine);
    takes_no_harm(&machine, &server, 100_001, "more than 100000 commits without their parents");
    takes_no_harm(&machine, &server, 10, "its pack ends in the middle");
}
