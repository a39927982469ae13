//! Prints the completions for a shell; packages install them where the shell looks for them. They offer what
//! people type, and ask `agent completions --names` for the names of the repositories.

use std::io::Write;

use anyhow::{Context, Result};
use clap::{Arg, Command, CommandFactory, ValueHint};
use clap_complete::Shell;

use crate::cli::{Cli, CompletionsArgs, GlobalArgs};
use crate::cmd::format;
use crate::engine::{discovery, tick};
use crate::exit::ExitStatus;

/// Arguments that are names of repositories, by their names in the grammar.
const REPOSITORIES: [&str; 3] = ["repo", "repos", "words"];

/// What zsh asks for the names of repositories. The grammar's nearest hint is that of user names.
const ZSH_NAMES: &str = r#"
_agent_repositories() {
    local -a names
    names=("${(@f)$(agent completions --names 2>/dev/null)}")
    compadd -a names
}
"#;

/// Prints the completions for the shell of `args`, or the names of the repositories.
///
/// # Errors
/// When stdout cannot be written.
pub fn run(global: &GlobalArgs, args: &CompletionsArgs) -> Result<ExitStatus> {
    let Some(shell) = args.shell else { return names(global) };
    let mut program = program();
    // Generated into memory first: the generator panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut program, "agent", &mut text);
    let text = with_names(shell, &program, String::from_utf8(text)?);
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the completions")?;
    Ok(ExitStatus::Fine)
}

/// Prints the names of the repositories, a line each. Nothing else is printed, whatever is wrong: a person is
/// in the middle of a line.
fn names(global: &GlobalArgs) -> Result<ExitStatus> {
    let own = super::context(global).and_then(|context| discovery::repositories(&context));
    let mut names: Vec<_> = own.unwrap_or_default().into_iter().map(|repo| repo.name).collect();
    if names.is_empty() && global.root.is_none() {
        let machine = tick::machine_status(&[]).map(|status| status.repositories);
        names.extend(machine.unwrap_or_default().into_iter().map(|row| row.name));
    }
    // No shell could insert a name with a line break.
    names.retain(|name| !name.contains(char::is_control));
    format::print(&names.into_iter().map(|name| name + "\n").collect::<String>())?;
    Ok(ExitStatus::Fine)
}

/// What people type: the grammar without the commands that are the agent's own.
fn program() -> Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let hinted = |argument: Arg| match is_repository(&argument) {
        true => argument.value_hint(ValueHint::Username),
        false => argument,
    };
    let shown = shown.map(|command| match takes_names(&command) {
        true => command.mut_args(hinted),
        false => command,
    });
    Command::new("agent")
        .version(env!("CARGO_PKG_VERSION"))
        .args(whole.get_arguments().cloned())
        .subcommands(shown)
}

fn takes_names(command: &Command) -> bool {
    // What `init` takes are addresses.
    command.get_name() != "init" && command.get_arguments().any(is_repository)
}

fn is_repository(argument: &Arg) -> bool {
    argument.is_positional() && REPOSITORIES.contains(&argument.get_id().as_str())
}

/// The completions with what offers the names of repositories.
fn with_names(shell: Shell, program: &Command, text: String) -> String {
    let commands: Vec<&str> = program
        .get_subcommands()
        .filter(|command| takes_names(command))
        .map(Command::get_name)
        .collect();
    match shell {
        Shell::Bash => text + &bash(&commands),
        Shell::Zsh => {
            let at = text.find("\n_agent()").unwrap_or(text.len());
            let (head, rest) = text.split_at(at);
            format!("{head}{ZSH_NAMES}{}", rest.replace(":_users", ":_agent_repositories"))
        }
        Shell::Fish => {
            let line = |name: &&str| {
                // What can be forgotten of a fleet is a machine.
                let but = match *name {
                    "fleet" => "; and not __fish_seen_subcommand_from forget",
                    _ => "",
                };
                format!(
                    "complete -c agent -n \"__fish_seen_subcommand_from {name}{but}\" -f \
                     -a \"(agent completions --names 2>/dev/null)\"\n"
                )
            };
            text + &commands.iter().map(line).collect::<String>()
        }
        _ => text,
    }
}

/// Adds the names to what the generated function offers.
fn bash(commands: &[&str]) -> String {
    format!(
        r#"
_agent_with_names() {{
    local word command=""
    _agent "$@"
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case "$word" in
        -*) ;;
        *) command=$word && break ;;
        esac
    done
    # What can be forgotten is a machine.
    case " ${{COMP_WORDS[*]}} " in *" fleet forget "*) return ;; esac
    case "$command" in
    {})
        case "${{COMP_WORDS[COMP_CWORD]}}" in
        -*) ;;
        *)
            local IFS=$'\n'
            COMPREPLY=($(compgen -W "$(agent completions --names 2>/dev/null)" -- "${{COMP_WORDS[COMP_CWORD]}}"))
            ;;
        esac
        ;;
    esac
}}

complete -F _agent_with_names -o nosort -o bashdefault -o default agent
"#,
        commands.join(" | ")
    )
}
