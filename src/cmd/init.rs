//! `agent init`: make this machine live. What can be done without the network comes first, so that
//! whatever is cut off afterwards is finished by the next ticks.

use anyhow::Result;

use super::{show, status, tick};
use crate::cli::{self, Global};
use crate::domain::action::Trigger;
use crate::engine::bootstrap::{self, CronLine, Entry};
use crate::engine::reconcile::Wish;
use crate::engine::tick::Orders;
use crate::engine::{Here, roster, steer};
use crate::exit::{Code, Usage};

/// Writes the node information and the configuration, clones, runs the init ladder, ticks once and
/// shows the status.
///
/// # Errors
/// When something cannot be written, or a repository of that name is configured otherwise.
pub fn run(global: &Global, args: &cli::Init) -> Result<Code> {
    let here = super::here(global)?;
    if here.settings.world.config_named {
        return Err(Usage(
            "with --config, agent.d is not read, so there is no place to write to\n\
             hint: leave out --config, or write [repo.NAME] into that file and run: agent tick"
                .to_owned(),
        )
        .into());
    }
    bootstrap::write_node(&here, args.part.as_deref(), args.stack.as_deref())?;
    let mut names = Vec::new();
    for repo in &args.repos {
        let entry = Entry {
            name: &repo.name,
            url: repo.address.secret_url(),
            branch: args.branch.as_deref(),
        };
        if let Some(note) = bootstrap::write_entry(&here, &entry)? {
            show::print(&format!("{note}\n"))?;
        }
        names.push(repo.name.clone());
    }
    // What was just written counts from here on.
    let here = super::here(global)?;
    if args.again {
        for repo in roster::named(&here, &names)? {
            if matches!(repo.found, roster::Found::Clone) {
                steer::init_again(&here, &repo)?;
            }
        }
    }
    let orders = Orders {
        names,
        // What is well is left alone, unless a person says that it is to run again.
        trigger: if args.again { Trigger::Redo } else { Trigger::Bootstrap },
        dry_run: false,
        wait: true,
        wish: Wish::Follow,
    };
    let code = tick::perform(&here, global, &orders)?;
    show_status(&here, global)?;
    show::print(&schedule_hint(&here))?;
    Ok(code)
}

fn show_status(here: &Here, global: &Global) -> Result<()> {
    if global.quiet {
        return Ok(());
    }
    let now = crate::engine::tick::survey(here, &[])?;
    show::print(&status::text(&now, status::Detail::Brief, show::width(), now.at))
}

/// The line that makes ticks happen: this version installs none itself.
fn schedule_hint(here: &Here) -> String {
    let CronLine { place, line } = bootstrap::cron_line(here);
    format!("\nTo tick each minute, put this line into {place}:\n{line}\n")
}
