//! The completions in real shells: they offer commands, options and the names of repositories, and nothing that
//! is the agent's own.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sandbox::{Ran, Sandbox, text};

/// A machine with two repositories, and the completions of `shell` in a file.
fn machine(shell: &str) -> (Sandbox, PathBuf) {
    let machine = Sandbox::with("ops", &[("page", "one\n")]);
    machine.serve("odd name", &[("page", "one\n")]);
    machine.clone_to_root("odd name");
    let file = machine.path("completions");
    fs::write(&file, machine.agent(&["completions", shell]).ok().stdout).unwrap();
    (machine, file)
}

/// Runs `program` of `shell`, with the agent on the path and its root set.
#[track_caller]
fn ran(machine: &Sandbox, shell: &str, program: &str) -> Vec<String> {
    let dir = Path::new(env!("CARGO_BIN_EXE_agent")).parent().unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", text(dir));
    let mut command = machine.command(shell);
    command.env("AGENT_ROOT", machine.root()).env("PATH", path).args(["-c", program]);
    let ran = Ran::of(&mut command).ok();
    ran.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn bash_offers_names_where_a_command_takes_one() {
    let (machine, file) = machine("bash");
    let complete = |words: &[&str]| {
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (last, before) = (words[words.len() - 1], words[words.len() - 2]);
        let program = format!(
            "source '{}'; function=$(complete -p agent | sed 's/.*-F \\([^ ]*\\) .*/\\1/'); \
             COMP_WORDS=({}); COMP_CWORD={}; $function agent '{last}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            text(&file),
            quoted.join(" "),
            words.len() - 1
        );
        ran(&machine, "bash", &program)
    };
    assert_eq!(complete(&["agent", "status", ""]), ["odd name", "ops"]);
    assert_eq!(complete(&["agent", "status", "ops", "od"]), ["odd name"]);
    assert_eq!(complete(&["agent", "-v", "hold", "op"]), ["ops"]);
    assert!(complete(&["agent", "status", "--pro"]).contains(&"--problems".to_owned()));
    let commands = complete(&["agent", ""]);
    assert!(commands.contains(&"rollback".to_owned()), "{commands:?}");
    for own in ["worker", "helper", "index-pack", "man"] {
        assert!(!commands.contains(&own.to_owned()), "{own}: {commands:?}");
    }
}

#[test]
fn fish_offers_names_where_a_command_takes_one() {
    let (machine, file) = machine("fish");
    let complete = |line: &str| {
        ran(&machine, "fish", &format!("source '{}'; complete -C '{line}'", text(&file)))
    };
    let found = complete("agent status ");
    assert!(
        found.contains(&"ops".to_owned()) && found.contains(&"odd name".to_owned()),
        "{found:?}"
    );
    assert_eq!(complete("agent log op"), ["ops"]);
    let commands = complete("agent ");
    let is_offered = |name: &str| commands.iter().any(|it| it.split('\t').next() == Some(name));
    assert!(
        is_offered("rollback") && !is_offered("worker") && !is_offered("index-pack"),
        "{commands:?}"
    );
}

#[test]
fn zsh_asks_for_names_where_a_command_takes_one() {
    let (machine, file) = machine("zsh");
    ran(&machine, "zsh", &format!("zsh -n '{}'", text(&file)));
    let written = fs::read_to_string(&file).unwrap();
    for command in ["status", "hold", "log"] {
        let part = written.split(&format!("\n({command})\n")).nth(1).unwrap_or_default();
        let part = part.split(";;").next().unwrap_or_default();
        assert!(part.contains(":_agent_repositories'"), "{command}: {part}");
    }
    let init = written.split("\n(init)\n").nth(1).unwrap_or_default();
    assert!(!init.split(";;").next().unwrap_or_default().contains("_agent_repositories"));
    assert!(!written.contains("_users") && !written.contains("(worker)"), "{written}");
    let names = written.split("\n_agent_repositories() {").nth(1).unwrap();
    let body = names.split("\n}").next().unwrap();
    let program = format!("compadd() {{ print -l -- ${{(P)2}} }}\nf() {{{body}\n}}\nf");
    assert_eq!(ran(&machine, "zsh", &program), ["odd name", "ops"]);
}
