//! `agent init`: make this machine live. What can be done without the network comes first, so that
//! whatever is cut off afterwards is finished by the next ticks; each step looks at what is there
//! already, so that the whole may be said again at any time.

use std::path::{Path, PathBuf};

use anyhow::{Context, Error, Result};

use super::{schedule as scheduling, show, status, tick};
use crate::cli::{self, Global};
use crate::config::NamedAddress;
use crate::domain::action::Trigger;
use crate::domain::status::{Row, State, Status};
use crate::engine::bootstrap::{self, Entry, Found};
use crate::engine::reconcile::Wish;
use crate::engine::schedule::{self, Way};
use crate::engine::tick::Orders;
use crate::engine::{Here, roster, steer};
use crate::exit::{Code, Usage};
use crate::system::node::Node;

/// Writes the node information and the configuration, installs the schedule, clones, runs the init
/// ladder, ticks once and shows the status.
///
/// # Errors
/// When something cannot be written, or a repository of that name is configured otherwise; what is
/// done by then, and what not, is a part of the error.
pub fn run(global: &Global, args: &cli::Init) -> Result<Code> {
    let repos = addresses(args)?;
    let here = before(global, args)?;
    judge(&here, args, &repos)?;
    let (key, known_hosts) = (whole(args.key.as_deref())?, whole(args.known_hosts.as_deref())?);
    let entries: Vec<Entry> = repos
        .iter()
        .map(|repo| Entry {
            name: &repo.name,
            url: repo.address.secret_url(),
            branch: args.branch.as_deref(),
            key: key.as_deref(),
            known_hosts: known_hosts.as_deref(),
        })
        .collect();
    // Before anything is written: one that contradicts the configuration stops all.
    let found: Vec<Found> =
        entries.iter().map(|entry| bootstrap::find(&here, entry)).collect::<Result<_>>()?;

    let mut account = Account { done: Vec::new(), quiet: global.quiet, unheard: None };
    let written = write(&here, args, entries.iter().zip(&found), &mut account);
    account.told(written, "the configuration, the schedule, the clone and the first tick")?;
    // What was just written counts from here on.
    let here = super::here(global);
    let here = account.told(here, "the schedule, the clone and the first tick")?;
    let scheduled = install(&here, args.schedule, &mut account);
    let ticked = first_tick(&here, global, (args, &repos), &mut account);
    account.told(ticked, "the first tick")?;
    let now = crate::engine::tick::survey(&here, &[])?;
    let open = unfinished(&now, &repos);
    account.say(&status::text(&now, status::Detail::Brief, show::width(), now.at));
    let scheduled = scheduled.context("nothing makes this machine tick yet")?;
    if !open.is_empty() {
        let open = open.join(", ");
        account.say(&format!(
            "\nNot finished: {open}. The next tick goes on with it; what is done stays done.\n"
        ));
    }
    account.say(&hints(&here, scheduled)?);
    account.heard()?;
    Ok(if open.is_empty() { Code::Fine } else { Code::Attention })
}

/// What is known before anything is written. Node information that cannot be used stands in nobody's
/// way who says which part or stack this is.
fn before(global: &Global, args: &cli::Init) -> Result<Here> {
    match super::here(global) {
        Err(_) if args.part.is_some() || args.stack.is_some() => {
            Ok(Here::bare(super::settings(global)?, Node::here()))
        }
        known => known,
    }
}

/// The repositories that were asked for and are not live: what is to be acted upon there was not. To a
/// tick that is no trouble as long as it can wait; to somebody who waits for a machine to be live it is.
fn unfinished<'a>(now: &'a Status, repos: &[NamedAddress]) -> Vec<&'a str> {
    let asked = |row: &&Row| repos.iter().any(|repo| repo.name == row.name);
    let live = [State::Pinned, State::Ahead, State::Current, State::Inactive];
    let open = |row: &&Row| {
        row.needs_attention(now.at) || !row.conditions.iter().any(|state| live.contains(state))
    };
    now.repositories.iter().filter(asked).filter(open).map(|row| row.name.as_str()).collect()
}

/// The addresses as they were given; what is none of them is shown without its password.
fn addresses(args: &cli::Init) -> Result<Vec<NamedAddress>, Usage> {
    args.repos.iter().map(|text| text.parse().map_err(Usage)).collect()
}

/// What cannot be carried out as it stands.
fn judge(here: &Here, args: &cli::Init, repos: &[NamedAddress]) -> Result<(), Usage> {
    if here.settings.world.config_named {
        return Err(Usage(
            "with --config, agent.d is not read, so there is no place to write to\n\
             hint: leave out --config, or write [repo.NAME] into that file and run: agent tick"
                .to_owned(),
        ));
    }
    let node =
        [("part", &args.part, &here.settings.part), ("stack", &args.stack, &here.settings.stack)];
    for (what, asked, configured) in node {
        if let (Some(asked), Some(configured)) = (asked, configured)
            && asked != configured
        {
            let file = here.settings.world.config_file.display();
            return Err(Usage(format!(
                "this machine is {what} {configured} by [node] in {file}, which wins over \
                 --{what} {asked}\nhint: change it there, or leave out --{what}"
            )));
        }
    }
    let twice = |(index, repo): (usize, &NamedAddress)| {
        repos.iter().take(index).any(|other| other.name == repo.name).then(|| repo.name.clone())
    };
    if let Some(name) = repos.iter().enumerate().find_map(twice) {
        return Err(Usage(format!(
            "two repositories would have the name \"{name}\"\nhint: write NAME=URL for one of them"
        )));
    }
    Ok(())
}

/// A path as the configuration takes it, wherever the caller stands.
fn whole(path: Option<&Path>) -> Result<Option<PathBuf>> {
    let whole = path.map(std::path::absolute).transpose();
    whole.context("the path of the key or of known_hosts cannot be made out")
}

/// What was done so far.
struct Account {
    done: Vec<String>,
    quiet: bool,
    /// Why the first of what was said was not heard; that stops nothing.
    unheard: Option<Error>,
}

impl Account {
    fn did(&mut self, sentence: String) {
        self.say(&format!("{}\n", show::escaped(&sentence)));
        self.done.push(sentence);
    }

    fn say(&mut self, text: &str) {
        if !self.quiet
            && let Err(error) = show::print(text)
        {
            self.unheard.get_or_insert(error);
        }
    }

    /// Whether all that was said was heard.
    fn heard(self) -> Result<()> {
        self.unheard.map_or(Ok(()), Err)
    }

    /// An error says as well what was done before it, and what was not.
    fn told<T>(&self, outcome: Result<T>, undone: &str) -> Result<T> {
        let account = || {
            let done = match self.done.as_slice() {
                [] => "nothing".to_owned(),
                done => done.join("; "),
            };
            format!(
                "the machine is not live yet. Done: {done}. Not done: {undone}\n\
                 hint: what is done stays done: put that right, and say the same again"
            )
        };
        outcome.map_err(|error: Error| error.context(account()))
    }
}

fn write<'a>(
    here: &Here,
    args: &cli::Init,
    entries: impl Iterator<Item = (&'a Entry<'a>, &'a Found)>,
    account: &mut Account,
) -> Result<()> {
    bootstrap::write_node(here, args.part.as_deref(), args.stack.as_deref())?;
    for (what, word) in [("part", &args.part), ("stack", &args.stack)] {
        if let Some(word) = word {
            let folder = here.settings.world.nodeinfo.display();
            account.did(format!("this machine is {what} {word}: {folder}"));
        }
    }
    for (entry, found) in entries {
        let file = bootstrap::entry_file(here, entry.name);
        match found {
            Found::Nothing => {
                bootstrap::write_entry(here, entry)?;
                account.did(format!("{} is configured: {}", entry.name, file.display()));
            }
            Found::Same => account.did(format!("{} was configured already", entry.name)),
            Found::Other(differences) => {
                for difference in differences {
                    account.did(format!("{difference}; change it in {}", file.display()));
                }
            }
        }
        if let Some(sentence) = bootstrap::comes_from_elsewhere(here, entry) {
            account.did(sentence);
        }
    }
    Ok(())
}

/// Installs what is to tick; tells whether something ticks now.
fn install(here: &Here, asked: Option<cli::Schedule>, account: &mut Account) -> Result<bool> {
    if here.settings.world.own {
        return Ok(false);
    }
    let installed = schedule::installed(here)?;
    let way = match asked {
        Some(how) => scheduling::way(how),
        // What somebody chose before is not chosen anew.
        None if !installed.is_empty() => None,
        None => schedule::is_usual(here).then_some(Way::Cron),
    };
    let Some(way) = way else { return Ok(!installed.is_empty()) };
    for sentence in schedule::install(here, way)? {
        account.did(sentence);
    }
    Ok(true)
}

fn first_tick(
    here: &Here,
    global: &Global,
    (args, repos): (&cli::Init, &[NamedAddress]),
    account: &mut Account,
) -> Result<()> {
    let names: Vec<String> = repos.iter().map(|repo| repo.name.clone()).collect();
    if args.again {
        for repo in roster::named(here, &names)? {
            if matches!(repo.found, roster::Found::Clone) {
                steer::init_again(here, &repo)?;
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
    let say = |text: &str| {
        account.say(text);
        Ok(())
    };
    tick::perform_telling(here, global, &orders, say).map(drop)
}

/// What a person may still have to do.
fn hints(here: &Here, ticks: bool) -> Result<String> {
    let mut text = String::new();
    if !ticks {
        text += &format!("\n{}", scheduling::by_hand(here, Some(Way::Cron))?);
    }
    if !here.settings.world.own {
        text += &scheduling::loops_beside(here);
    }
    Ok(text)
}
