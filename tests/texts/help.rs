//! The help of every command.

use clap::CommandFactory;
use pmpy::cli::Cli;

use crate::{Sheet, plain};

#[test]
fn every_command_has_its_help() {
    // Neither the reader's terminal nor the environment decides what it says.
    let agent = Cli::command().term_width(100).disable_help_subcommand(true);
    let mut agent = agent.mut_args(|argument| argument.hide_env_values(true));
    agent.build();
    let mut sheet = Sheet::default();
    sheet.add("agent --help", &plain(&agent.render_long_help().to_string()));
    for command in agent.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
        let title = format!("agent {} --help", command.get_name());
        sheet.add(&title, &plain(&command.render_long_help().to_string()));
    }
    sheet.same("help");
}
