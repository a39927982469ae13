//! What a person sees of an action while it runs, and what the log says of it afterwards.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::sandbox::{Ran, Sandbox, text};

const NAME: &str = "ops";
/// Three lines, of which one would change the colour and the title of a terminal.
const SPEAKS: &str = "\
echo first; printf '\\033[31mred\\033[0m \\033]0;title\\007\\tlast\\n'; printf unfinished
";

fn machine(script: &str) -> Sandbox {
    Sandbox::with(NAME, &[("work.sh", script)])
}

/// The lines that the terminal shows.
fn shown(machine: &Sandbox, code: i32, arguments: &[&str]) -> Vec<String> {
    let ran = machine.on_terminal(80, "", arguments).exits(code);
    ran.stdout.replace("^D\u{8}\u{8}", "").lines().map(str::to_owned).collect()
}

/// Fails unless the terminal shows the output of [`SPEAKS`] once, in order, then the result; and no log.
#[track_caller]
fn speaks(lines: &[String], result: &str) {
    let at = |word: &str| {
        let found: Vec<_> = (0..lines.len()).filter(|&line| lines[line].contains(word)).collect();
        assert_eq!(found.len(), 1, "{word}: {lines:#?}");
        found[0]
    };
    let order = [at("first"), at("\tlast"), at("unfinished"), at(result)];
    assert!(order.is_sorted(), "{lines:#?}");
    assert_eq!(lines[order[1]], "red \tlast", "{lines:#?}");
    // The status that `init` prints behind the result has colours of our own.
    let foreign = lines[..order[3]].concat();
    assert!(!foreign.contains(['\u{1b}', '\u{7}']), "{lines:#?}");
    let all = lines.concat();
    for word in ["INFO", "WARN", "Start ", "Finish "] {
        assert!(!all.contains(word), "{word}: {lines:#?}");
    }
}

#[test]
fn every_order_shows_the_output_of_the_script_and_then_the_result() {
    let machine = machine(SPEAKS);
    speaks(&shown(&machine, 0, &["tick", NAME]), "applied");
    speaks(&shown(&machine, 0, &["redo", NAME]), "applied");
    machine.push(NAME, &[("page", "more")]);
    machine.tick().ok();
    speaks(&shown(&machine, 0, &["rollback", NAME]), "ops: applied");
    machine.agent(&["unhold", NAME]).ok();
    machine.tick().ok();

    let desk = machine.desk(NAME);
    machine.git(&desk, &["reset", "--quiet", "--hard", "HEAD^"]);
    let rewritten = machine.push(NAME, &[("page", "rewritten")]);
    machine.tick();
    machine.answered_twice(NAME, "refs/heads/main");
    machine.tick();
    speaks(&shown(&machine, 0, &["accept", NAME, &rewritten]), "applied");

    machine.serve("second", &[("work.sh", SPEAKS)]);
    speaks(&shown(&machine, 0, &["init", text(&machine.server("second"))]), "second: applied");
}

#[test]
fn a_line_is_shown_while_the_script_still_runs() {
    let machine =
        machine("echo begun; while [ ! -e \"$AGENT_ROOT/../go\" ]; do sleep 0.05; done\n");
    let mut command = machine.terminal_command(80, &["tick", NAME]);
    let mut tick = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(tick.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), "begun");
    std::fs::write(machine.path("go"), "").unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    assert!(tick.wait().unwrap().success() && rest.contains("applied"), "{rest}");
}

#[test]
fn the_failure_of_a_script_comes_after_its_output_and_does_not_repeat_it() {
    let machine = machine(&format!("{SPEAKS}exit 3\n"));
    let lines = shown(&machine, 1, &["tick", NAME]);
    speaks(&lines, "failing");
    // What did not run now is quoted.
    let again = shown(&machine, 1, &["tick"]);
    assert!(again.iter().any(|line| line == "    first"), "{again:#?}");
}

#[test]
fn quiet_shows_nothing_and_verbose_logs() {
    let machine = machine(SPEAKS);
    let lines = shown(&machine, 0, &["-q", "tick", NAME]);
    assert!(lines.concat().trim().is_empty(), "{lines:#?}");
    let lines = shown(&machine, 0, &["-v", "redo", NAME]).join("\n");
    for word in ["first", "action ended", "running", "applied"] {
        assert!(lines.contains(word), "{word}: {lines}");
    }
}

#[test]
fn of_several_repositories_each_line_has_its_name() {
    let machine = machine("echo from here\n");
    machine.serve("web", &[("work.sh", "echo from there\n")]);
    machine.clone_to_root("web");
    let lines = shown(&machine, 0, &["tick", NAME, "web"]);
    for line in ["ops | from here", "web | from there"] {
        assert_eq!(lines.iter().filter(|it| *it == line).count(), 1, "{line}: {lines:#?}");
    }
}

#[test]
fn the_output_of_a_clone_of_another_user_is_shown_as_well() {
    let machine = crate::users::machine(SPEAKS);
    speaks(&shown(&machine, 0, &["tick", NAME]), "applied");
    speaks(&shown(&machine, 0, &["redo", NAME]), "applied");
    crate::users::push(&machine, &[("page", "more")]);
    logged(&machine, &["tick", "--trigger", "cron"], 1);
    logged(&machine, &["tick", "--trigger", "cron"], 0);
    logged(&machine, &["redo", NAME], 1);
}

/// The lines about ended actions in the JSON log of a command; there are `count`.
#[track_caller]
fn logged(machine: &Sandbox, arguments: &[&str], count: usize) -> Vec<serde_json::Value> {
    let arguments = [&["--log-format", "json"], arguments].concat();
    let ran: Ran = machine.agent(&arguments);
    let lines = ran.stderr.lines().map(|line| {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}\n{ran}"))
    });
    let ended: Vec<_> =
        lines.filter(|line: &serde_json::Value| line["message"] == "action ended").collect();
    assert_eq!(ended.len(), count, "{ran}");
    ended
}

#[test]
fn off_a_terminal_the_log_has_one_line_for_each_ended_action() {
    let machine = machine("true\n");
    let first = machine.head(NAME);
    let line = &logged(&machine, &["tick", "--trigger", "cron"], 1)[0];
    assert_eq!((&line["repository"], &line["trigger"]), (&NAME.into(), &"cron".into()), "{line}");
    assert_eq!((&line["revision"], &line["previous"]), (&first.as_str().into(), &"".into()));
    assert!(line["outcome"] == "succeeded" && line["seconds"].is_f64(), "{line}");
    logged(&machine, &["tick", "--trigger", "cron"], 0);

    let second = machine.push(NAME, &[("work.sh", "exit 3\n")]);
    let line = &logged(&machine, &["tick", "--trigger", "cron"], 1)[0];
    assert_eq!((&line["revision"], &line["previous"]), (&second.as_str().into(), &first.into()));
    assert_eq!((&line["outcome"], &line["trigger"]), (&"failed".into(), &"cron".into()), "{line}");
    let line = &logged(&machine, &["redo", NAME], 1)[0];
    assert_eq!(line["trigger"], "redo");
    let line = &logged(&machine, &["rollback", NAME], 1)[0];
    assert_eq!((&line["trigger"], &line["outcome"]), (&"rollback".into(), &"succeeded".into()));

    let text = machine.agent(&["-v", "redo", NAME]).ok().stderr;
    let ended: Vec<_> = text.lines().filter(|line| line.contains("action ended")).collect();
    assert_eq!(ended.len(), 1, "{text}");
    for word in [
        "repository=ops ",
        "revision=",
        "previous=",
        "outcome=succeeded ",
        "seconds=",
        "trigger=redo",
    ] {
        assert!(ended[0].contains(word), "{word}: {text}");
    }
    assert!(machine.agent(&["redo", NAME]).ok().stderr.is_empty());
}

#[test]
fn each_published_ref_has_its_line() {
    let machine = machine("true\n");
    let target = machine.path("site");
    machine
        .configure(&format!("[repo.ops]\nmode = \"branches\"\ntarget = \"{}\"\n", text(&target)));
    let lines = logged(&machine, &["tick", "--trigger", "cron"], 1);
    assert_eq!(lines[0]["ref"], "refs/heads/main", "{lines:?}");
}
