//! Work for presence that no tick waits for: it is done in a process of its own, or in `agent listen` in a thread. Does
//! not know what is done.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::PresencePublisher;
use crate::domain::text::EscapeControls;
use crate::engine::context::{Context, HandedSettings};
use crate::engine::error::one_line;
use crate::system::process::{self, ChildAgent};

/// A kind of work, each piece of which is described by a `J`.
pub(super) struct DetachedWork<J> {
    /// What it is, in messages.
    pub name: &'static str,
    /// The hidden command that does it.
    pub command: &'static str,
    /// What a person types instead of that command.
    pub for_people: &'static str,
    /// How long a process may take: then something waits longer than each of its steps may, and the next tick begins
    /// anew.
    pub limit: fn(&J) -> Duration,
    /// Does it. How it ended is in a record, which the next tick reads.
    pub run: fn(&Context, &J) -> Result<()>,
}

/// Work for another process.
#[derive(Serialize, Deserialize)]
struct HandedWork<J> {
    settings: HandedSettings,
    job: J,
}

impl<J: Serialize + DeserializeOwned + Send + 'static> DetachedWork<J> {
    /// Begins `job`.
    ///
    /// # Errors
    /// When no process or thread can be started.
    pub fn begin(&self, context: &Context, job: J, publisher: PresencePublisher) -> Result<()> {
        let settings = context.hand_over(BTreeMap::new());
        match publisher {
            PresencePublisher::Process => {
                let handed = serde_json::to_vec(&HandedWork { settings, job })?;
                let args: [OsString; 2] = ["--quiet".into(), self.command.into()];
                ChildAgent::start_detached(&args, &process::sealed_file(&handed)?)
            }
            PresencePublisher::Thread => {
                // Connections of its own: none of the ticks' waits for these.
                let context = Context::handed_over(settings);
                let (name, work) = (self.name, self.run);
                let run = move || {
                    let done = catch_unwind(AssertUnwindSafe(|| work(&context, &job)));
                    let done = done.unwrap_or_else(|_| Err(anyhow!("it panicked, which is a bug")));
                    if let Err(error) = done {
                        let why = one_line(&error).escape_controls();
                        tracing::warn!("presence: {name} failed: {why}");
                    }
                };
                let spawned = thread::Builder::new().name("presence".to_owned()).spawn(run);
                spawned.map(drop).context("no thread for presence")
            }
        }
    }

    /// Does the work in our standard input.
    ///
    /// # Errors
    /// When there is none, or its record cannot be read or written.
    pub fn run_handed_over(&self) -> Result<()> {
        let (_, content) = process::handed_over().with_context(|| {
            format!("this command is for ticks; a person looks with: {}", self.for_people)
        })?;
        let HandedWork { settings, job } = serde_json::from_slice(&content)?;
        // Signals of the terminal are for the tick.
        process::leave_session();
        let limit = (self.limit)(&job);
        let end = move || {
            thread::sleep(limit);
            std::process::exit(1);
        };
        thread::Builder::new().spawn(end).context("no thread")?;
        (self.run)(&Context::handed_over(settings), &job)
    }
}
