//! What people, scripts and monitoring see of a followed tag.

use std::fs;

use super::{annotated, machine, release};
use crate::sandbox::Sandbox;

const PRINTS: &str = "#!/bin/sh\necho \"$AGENT_REF $AGENT_BRANCH\" >>\"$AGENT_ROOT/.pmpy/refs\"\n";

fn printing(followed: &str) -> Sandbox {
    let machine = machine(followed);
    machine.push("ops", &[("bin/work/common/work.sh", PRINTS)]);
    machine
}

#[test]
fn status_shows_the_tag_and_its_revision() {
    let machine = machine("tag = \"v1.*\"");
    let older = release(&machine, "v1.9");
    let newest = annotated(&machine, "v1.10");
    machine.tick().ok();
    let named = format!("v1.10 ({})", &newest[..7]);
    for arguments in [&["status"][..], &["status", "-v"], &["status", "--oneline"], &["history"]] {
        let shown = machine.agent(arguments).stdout;
        assert!(shown.contains(&named) || arguments.contains(&"-v"), "{arguments:?}: {shown}");
    }
    let verbose = machine.agent(&["status", "-v"]).stdout;
    assert!(verbose.contains("tag         v1.10"), "{verbose}");
    let row = machine.row("ops");
    assert_eq!((&row["tag"], &row["acted"]["tag"]), (&"v1.10".into(), &"v1.10".into()));
    assert_eq!((row["upstream"].as_str(), row["branch"].as_str()), (Some(&*newest), Some("main")));
    let metrics = machine.agent(&["status", "--json"]).stdout;
    assert!(metrics.contains("\"tag\": \"v1.10\""), "{metrics}");
    let dry = {
        release(&machine, "v1.11");
        machine.agent(&["tick", "--dry-run"]).stdout
    };
    assert!(dry.contains("would fetch v1.11 ("), "{dry}");
    assert_ne!(older, newest);
}

#[test]
fn explain_says_how_the_tag_was_chosen() {
    let machine = machine("tag = \"v1.*\"");
    for tag in ["v1.8", "v1.9", "v1.10", "v2.0"] {
        release(&machine, tag);
    }
    machine.tick().ok();
    let text = machine.agent(&["explain", "ops"]).stdout;
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let expected = "The newest of upstream's tags that match v1.* (3 of them; the next older one is v1.9) is v1.10 (";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn scripts_get_the_tag_as_agent_ref_and_the_branch_as_it_is() {
    let machine = printing("tag = \"v1.*\"");
    annotated(&machine, "v1.10");
    machine.tick().ok();
    let seen = fs::read_to_string(machine.path("root/.pmpy/refs"));
    assert_eq!(seen.unwrap(), "refs/tags/v1.10 main\n");
}

#[test]
fn lastaction_is_the_commit_also_of_an_annotated_tag() {
    let machine = machine("tag = \"v1.*\"");
    let commit = annotated(&machine, "v1.10");
    machine.tick().ok();
    assert_eq!(machine.lastaction("ops"), Some(commit));
}
