//! The hidden commands: `worker` works on one repository and outlives the tick that started it;
//! `stage` becomes a script.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};

use super::helper;
use crate::cli;
use crate::domain::plan::Request;
use crate::engine::crew::Hindrance;
use crate::engine::reconcile::{self, Order, Wish};
use crate::engine::{Here, roster};
use crate::exit::Code;
use crate::system::process;
use crate::system::remote::Progress;

/// Works on one repository. What cannot be written down is printed for the tick that waits.
///
/// # Errors
/// When the arguments are none that a tick gives.
pub fn run(here: &Here, args: &cli::Worker) -> Result<Code> {
    // Away from the terminal and the tick: Ctrl-C ends the waiting, not the action.
    process::leave_session();
    let repo = roster::one(here, &args.repo)?;
    let revision = |text: &String| text.parse().with_context(|| format!("--{text}"));
    let wish = match (args.redo, &args.rollback, &args.accept) {
        (true, ..) => Wish::Redo,
        (_, Some(text), _) => Wish::Rollback(revision(text)?),
        (_, _, Some(text)) => Wish::Accept(revision(text)?),
        _ => Wish::Follow,
    };
    let order = Order {
        request: Request { trigger: args.trigger, named: args.named },
        wait: args.wait,
        wish,
    };
    let mut bar = Bar::of_stderr();
    let done = reconcile::work(here, &repo, &order, &mut |progress| bar.show(progress));
    bar.clear();
    match done {
        Ok(_) => Ok(Code::Fine),
        Err(error) => {
            super::show::print(&serde_json::to_string(&Hindrance::of(&error))?)?;
            Ok(Code::Attention)
        }
    }
}

/// Becomes a script.
///
/// # Errors
/// When it does not.
pub fn stage(args: &cli::Stage) -> Result<Code> {
    if let Some(user) = &args.user {
        let folder = std::env::current_dir();
        helper::become_user(user)?;
        // The folder may be out of the user's reach; then the program begins at the top.
        let _ = folder.and_then(std::env::set_current_dir);
    }
    match process::become_script(&args.program)? {}
}

/// A progress bar for a fetch that somebody watches.
struct Bar {
    watched: bool,
    shown: Option<ProgressBar>,
}

impl Bar {
    fn of_stderr() -> Self {
        Self { watched: std::io::stderr().is_terminal(), shown: None }
    }

    fn show(&mut self, progress: Progress) {
        if !self.watched {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let style = "{bar:40} {pos}/{len} objects, {msg}";
            ProgressBar::new(0).with_style(
                ProgressStyle::with_template(style).unwrap_or(ProgressStyle::default_bar()),
            )
        });
        bar.set_length(progress.total as u64);
        bar.set_position(progress.received as u64);
        bar.set_message(indicatif::HumanBytes(progress.bytes as u64).to_string());
    }

    fn clear(self) {
        if let Some(bar) = self.shown {
            bar.finish_and_clear();
        }
    }
}
