//! The workers of one tick: as many side by side as there may be, each for one repository, begun the
//! moment it is known that there is work. What they do is in [`reconcile`](super::reconcile).

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::Scope;

use anyhow::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Here;
use super::clone::NoAnswer;
use super::observe::reason;
use super::reconcile::Wish;
use super::tick::{OnWord, Orders};
use crate::domain::status::State;
use crate::system::process::Worker;

/// How many workers work at a time. A repository whose script takes an hour holds one place of one
/// tick; the next tick has its own.
const WORKERS: usize = 16;

/// How much of what a worker says counts, in bytes.
const MOST_REPORTED: usize = 16 * 1024;

/// What stood in a worker's way, when it could not be written down where the repository is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hindrance {
    /// The state that it leads to: `unreachable` when a remote is to blame, else `failing`.
    pub state: State,
    /// What it is, as a sentence with its remedy.
    pub reason: String,
}

impl Hindrance {
    /// What `error` comes to.
    pub fn of(error: &Error) -> Self {
        let state = match error.is::<NoAnswer>() {
            true => State::Unreachable,
            false => State::Failing,
        };
        Self { state, reason: reason(error) }
    }

    /// One that is this machine's own.
    pub fn failing(reason: impl Into<String>) -> Self {
        Self { state: State::Failing, reason: reason.into() }
    }
}

/// Starts workers and waits for them.
pub struct Crew<'a> {
    here: &'a Here,
    orders: &'a Orders,
    on_word: &'a OnWord<'a>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    waiting: VecDeque<String>,
    /// Threads that each wait for one worker.
    busy: usize,
    troubles: BTreeMap<String, Option<Hindrance>>,
}

impl<'a> Crew<'a> {
    /// A crew without work. `on_word` hears what its workers say meanwhile.
    pub fn new(here: &'a Here, orders: &'a Orders, on_word: &'a OnWord<'a>) -> Self {
        Self { here, orders, on_word, book: Mutex::default() }
    }

    /// A worker is to work on the repository `name`, at once or as soon as one is free. `scope` ends
    /// when all are done.
    pub fn send<'s>(&'s self, scope: &'s Scope<'s, '_>, name: String) {
        let mut book = self.book();
        book.waiting.push_back(name);
        if book.busy < WORKERS {
            book.busy += 1;
            scope.spawn(|| self.work_off());
        }
    }

    /// The repositories that were worked on, each with what its worker could not write down itself.
    pub fn troubles(self) -> BTreeMap<String, Option<Hindrance>> {
        self.book.into_inner().unwrap_or_else(PoisonError::into_inner).troubles
    }

    fn work_off(&self) {
        loop {
            let mut book = self.book();
            let Some(name) = book.waiting.pop_front() else {
                book.busy -= 1;
                return;
            };
            drop(book);
            let trouble = self.work(&name).unwrap_or_else(|error| Some(Hindrance::of(&error)));
            self.book().troubles.insert(name, trouble);
        }
    }

    fn work(&self, name: &str) -> Result<Option<Hindrance>> {
        let args = worker_args(self.here, self.orders, name);
        let worker = Worker::start(&args, self.here.parcel.as_ref())?;
        let (mut said, mut known) = (Vec::new(), None);
        let ended_well = worker.outlast(|line| match serde_json::from_slice(line) {
            Ok(word) => (self.on_word)(word),
            Err(_) => match serde_json::from_slice(line) {
                Ok(hindrance) => known = Some(hindrance),
                Err(_) if said.len() < MOST_REPORTED => said.extend_from_slice(line),
                Err(_) => {}
            },
        })?;
        Ok(if ended_well { None } else { known.or_else(|| Some(trouble(&said))) })
    }

    /// No thread can leave it half written: each change is one statement.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a worker said before it ended.
fn trouble(said: &[u8]) -> Hindrance {
    Hindrance::failing(match String::from_utf8_lossy(said).trim() {
        "" => "its worker died without an error message; the next tick will retry",
        text => text,
    })
}

fn worker_args(here: &Here, orders: &Orders, name: &str) -> Vec<OsString> {
    let world = &here.settings.world;
    let mut args: Vec<OsString> = Vec::new();
    if here.parcel.is_some() {
        args.extend(["helper".into(), "--user".into(), here.node.user.name.clone().into()]);
    } else {
        if world.own {
            args.extend(["--root".into(), world.root.clone().into()]);
        }
        if world.config_named {
            args.extend(["--config".into(), world.config_file.clone().into()]);
        }
    }
    args.push("worker".into());
    args.extend(["--trigger".into(), orders.trigger.as_str().into()]);
    if orders.is_named() {
        args.push("--named".into());
    }
    if orders.wait {
        args.push("--wait".into());
    }
    match orders.wish {
        Wish::Follow => {}
        Wish::Redo => args.push("--redo".into()),
        Wish::Rollback(revision) => {
            args.extend(["--rollback".into(), revision.to_string().into()]);
        }
        Wish::Accept(revision) => args.extend(["--accept".into(), revision.to_string().into()]),
    }
    args.extend(["--".into(), name.into()]);
    args
}
