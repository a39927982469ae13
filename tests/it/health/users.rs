//! The way back in the clone of another user: whose rights the checks, the scripts and `after` have.

use std::fs;

use super::lines;
use crate::sandbox::{owner, set_mode, text, write_program};
use crate::users;

/// Who owns the clone.
const NOBODY: u32 = 65_534;

#[test]
fn the_way_back_is_walked_as_the_clones_user_and_after_as_after_user_never_the_check() {
    for mode in ["work", "checkout", "branches"] {
        let machine = users::machine("cp page \"$AGENT_ROOT/../live\"\n");
        for notes in ["checks", "afters", "live"] {
            fs::write(machine.path(notes), "").unwrap();
            set_mode(&machine.path(notes), 0o666);
        }
        let (check, after) = (machine.path("is-well"), machine.path("after"));
        let (checks, afters) = (machine.path("checks"), machine.path("afters"));
        write_program(
            &check,
            format!(
                "#!/bin/sh\necho \"$(id -u) $AGENT_TRIGGER\" >> {}\n! grep -q bad page\n",
                text(&checks)
            ),
        );
        write_program(
            &after,
            format!(
                "#!/bin/sh\necho \"$(id -u) $AGENT_TRIGGER ${{AGENT_FAILED:-none}}\" >> {}\n",
                text(&afters)
            ),
        );
        let sites = machine.path("sites");
        fs::create_dir(&sites).unwrap();
        users::give_all(&sites, NOBODY);
        let target = match mode {
            "work" => String::new(),
            _ => format!(
                "target = {:?}\nafter = [{after:?}]\nafter_user = \"root\"\n",
                sites.join("ops")
            ),
        };
        machine.configure(&format!(
            "[repo.ops]\nmode = \"{mode}\"\n{target}health = [{check:?}]\nhealth_within = \"1s\"\n\
             on_failure = \"rollback\"\n"
        ));
        users::push(&machine, &[("page", "one\n")]);
        machine.tick().ok();
        let bad = users::push(&machine, &[("page", "bad\n")]);
        machine.tick().exits(1);
        let row = machine.row("ops");
        assert_eq!(
            (&row["state"], &row["bad"]),
            (&"rolled-back".into(), &bad.clone().into()),
            "{row:#}"
        );
        let page = match mode {
            "work" => machine.clone_of("ops").join("page"),
            "checkout" => sites.join("ops/page"),
            _ => sites.join("ops/main/page"),
        };
        assert_eq!(fs::read_to_string(&page).unwrap(), "one\n", "{mode}");
        assert_eq!(owner(&fs::canonicalize(&page).unwrap()), NOBODY, "{mode}");
        let checks = lines(&machine, "checks");
        assert!(checks.iter().all(|it| it.starts_with("65534 ")), "{mode}: {checks:?}");
        assert_eq!(checks.last().unwrap(), "65534 rollback", "{mode}");
        if mode == "work" {
            assert_eq!(fs::read_to_string(machine.path("live")).unwrap(), "one\n");
        } else {
            assert_eq!(lines(&machine, "afters").last().unwrap(), &format!("0 rollback {bad}"));
        }
    }
}
