//! The help of every command.

use clap::CommandFactory;
use pmpy::cli::{Cli, help};

use crate::{Sheet, plain};

#[test]
fn every_command_has_its_help() {
    // Neither the reader's terminal nor the environment decides what it says.
    let agent = help::for_people(Cli::command()).term_width(100).disable_help_subcommand(true);
    let mut agent = agent.mut_args(|argument| argument.hide_env_values(true));
    agent.build();
    let mut sheet = Sheet::default();
    sheet.add("agent --help", &plain(&agent.render_long_help().to_string()));
    let shown = |name: &str| help::GROUPS.iter().any(|(_, names)| names.contains(&name));
    for command in agent.get_subcommands_mut().filter(|command| shown(command.get_name())) {
        let title = format!("agent {} --help", command.get_name());
        sheet.add(&title, &plain(&command.render_long_help().to_string()));
        for inner in command.get_subcommands_mut() {
            let title = title.replace("--help", &format!("{} --help", inner.get_name()));
            sheet.add(&title, &plain(&inner.render_long_help().to_string()));
        }
    }
    sheet.same("help");
}
