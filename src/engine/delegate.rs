//! Repositories of other users. Root neither opens nor reads what somebody else owns: a helper of ours
//! becomes that user and does what is to be done there, one helper for each user. What it has to know,
//! secrets that only root may read among it, comes to it in a parcel, and it answers in JSON, which is
//! taken for what a stranger says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::afterwards::{self, Question};
use super::check::{self, Scope, Verdict};
use super::observe;
use super::roster::{Found, Repo};
use super::steer::{self, History};
use super::tick::{self, OnWord, Orders};
use super::{Here, scripts};
use crate::config::{RepoSettings, Settings, World};
use crate::domain::action::Word;
use crate::domain::plan::Plan;
use crate::domain::status::Row;
use crate::system::node::{self, Node, User};
use crate::system::process::{self, Speaks, Worker};
use crate::system::requests::Requests;
use crate::system::{files, logs};

/// The most that a helper may answer, in bytes.
const MOST_ANSWERED: usize = 16 << 20;
/// The most that a file with secrets may hold, in bytes.
const MOST_SECRET: u64 = 1 << 20;

/// What a helper is sent out for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Errand {
    /// To look at everything, and with orders to ask remotes and to work.
    Look(Option<Orders>),
    /// To judge everything.
    Check(Scope),
    /// To tell what was acted upon.
    History,
    /// To do what its own command line says.
    Command,
}

/// What a helper has to know.
#[derive(Serialize, Deserialize)]
struct Parcel {
    errand: Errand,
    world: World,
    part: Option<String>,
    stack: Option<String>,
    repos: BTreeMap<String, RepoSettings>,
    secrets: BTreeMap<PathBuf, String>,
    /// Where root's tick can be asked.
    requests: Option<String>,
}

/// One repository, as its helper found it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// How it stands.
    pub row: Row,
    /// What is to be done.
    pub plan: Option<Plan>,
}

/// Repositories by who works on them.
#[derive(Default)]
pub struct Sorted {
    /// We do.
    pub ours: Vec<Repo>,
    /// A helper does, which becomes this user.
    pub theirs: Vec<(User, Vec<Repo>)>,
    /// Nobody can: why.
    pub nobodys: Vec<(Repo, String)>,
}

/// Who works on which of `repositories`.
pub fn sort(here: &Here, repositories: Vec<Repo>) -> Sorted {
    let mut sorted = Sorted::default();
    for repo in repositories {
        match user_of(here, &repo) {
            Ok(None) => sorted.ours.push(repo),
            Ok(Some(user)) => {
                match sorted.theirs.iter_mut().find(|(known, _)| known.uid == user.uid) {
                    Some((_, repos)) => repos.push(repo),
                    None => sorted.theirs.push((user, vec![repo])),
                }
            }
            Err(reason) => sorted.nobodys.push((repo, observe::reason(&reason))),
        }
    }
    sorted
}

/// As whom `repo` is worked on, when that is somebody else.
///
/// # Errors
/// When there is no such user, or we cannot become it.
fn user_of(here: &Here, repo: &Repo) -> Result<Option<User>> {
    let us = &here.node.user;
    if here.parcel.is_some() {
        return Ok(None);
    }
    let user = match &repo.settings.user {
        Some(name) => Some(User::named(name).with_context(|| {
            format!(
                "there is no user \"{}\" on this machine\n\
                 hint: make one with: adduser --system {0}, or correct user",
                name.escape_debug()
            )
        })?),
        None if us.uid == 0 && repo.found == Found::Clone => match node::owner(&repo.path)? {
            0 => None,
            uid => Some(User::numbered(uid).with_context(|| {
                format!(
                    "it belongs to user number {uid}, who does not exist on this machine\n\
                     hint: give it to somebody: chown -R USER {}",
                    repo.path.display()
                )
            })?),
        },
        None => None,
    };
    match user {
        Some(user) if user.uid == us.uid => Ok(None),
        Some(user) if us.uid != 0 => bail!(
            "user = \"{}\", and this is {}, who cannot become it\n\
             hint: run the agent as root, or as {0}",
            user.name.escape_debug(),
            us.name
        ),
        other => Ok(other),
    }
}

/// Lets a helper look at `repos` of `user`, and with orders work on them; `on_word` hears
/// what is said there meanwhile.
///
/// # Errors
/// When it cannot be started, or does not answer as it should.
pub fn look(
    here: &Here,
    user: &User,
    repos: &[Repo],
    orders: Option<&Orders>,
    on_word: &OnWord,
) -> Result<Vec<Report>> {
    let errand = Errand::Look(orders.cloned());
    let found: Vec<Report> = answer(here, user, repos, errand, on_word)?;
    let expected = |found: &Report| repos.iter().any(|repo| repo.name == found.row.name);
    if found.len() != repos.len() || !found.iter().all(expected) {
        bail!("the helper of {} speaks of other repositories than it was asked about", user.name);
    }
    Ok(found)
}

/// Lets a helper judge `repos` of `user`.
///
/// # Errors
/// As [`look`].
pub fn check(here: &Here, user: &User, repos: &[Repo], scope: Scope) -> Result<Vec<Verdict>> {
    answer(here, user, repos, Errand::Check(scope), &drop)
}

/// Lets a helper tell what was acted upon in `repos` of `user`.
///
/// # Errors
/// As [`look`].
pub fn histories(here: &Here, user: &User, repos: &[Repo]) -> Result<Vec<History>> {
    answer(here, user, repos, Errand::History, &drop)
}

/// Carries out the command line `args` as `user`, for its `repos`; what it prints appears where ours
/// does. The exit code.
///
/// # Errors
/// When no helper can be started.
pub fn command(here: &Here, user: &User, repos: &[Repo], args: &[OsString]) -> Result<u8> {
    let args: Vec<OsString> = begin(user).into_iter().chain(args.iter().cloned()).collect();
    attended(here, user, repos, |requests| {
        let parcel = parcel(here, user, repos, Errand::Command, requests)?;
        Worker::start_for(&args, &environment(user), &parcel, Speaks::BesideUs)?.code()
    })
}

/// Does `work`, which lets processes of `user` work on `repos`, and meanwhile what those may ask for.
fn attended<T>(
    here: &Here,
    user: &User,
    repos: &[Repo],
    work: impl FnOnce(Option<&str>) -> Result<T>,
) -> Result<T> {
    if !afterwards::is_needed(repos) {
        return work(None);
    }
    let requests = Requests::open()?;
    let answer = |question: Question| afterwards::answer(here, repos, &question);
    requests.during(user.uid, answer, || work(Some(requests.name())))?
}

fn answer<T: DeserializeOwned>(
    here: &Here,
    user: &User,
    repos: &[Repo],
    errand: Errand,
    on_word: &OnWord,
) -> Result<T> {
    let mut said = Vec::new();
    let mut args = begin(user);
    args.push("errand".into());
    attended(here, user, repos, |requests| {
        let parcel = parcel(here, user, repos, errand, requests)?;
        let helper = Worker::start_for(&args, &environment(user), &parcel, Speaks::ToUs)?;
        helper.outlast(|line| match serde_json::from_slice::<Word>(line) {
            // It may speak of what is its own and of nothing else.
            Ok(word) if repos.iter().any(|repo| repo.name == word.repo()) => on_word(word),
            Ok(_) => {}
            Err(_) if said.len() < MOST_ANSWERED => said.extend_from_slice(line),
            Err(_) => {}
        })
    })?;
    serde_json::from_slice(&said)
        .ok()
        .with_context(|| format!("the helper that works as {} ended without an answer", user.name))
}

fn begin(user: &User) -> Vec<OsString> {
    vec!["helper".into(), "--user".into(), user.name.clone().into()]
}

fn environment(user: &User) -> Vec<(OsString, OsString)> {
    let mut env = scripts::environment_of(user);
    env.push(("SUDO_USER".into(), node::person().into()));
    env
}

fn parcel(
    here: &Here,
    user: &User,
    repos: &[Repo],
    errand: Errand,
    requests: Option<&str>,
) -> Result<File> {
    let mut secrets = BTreeMap::new();
    let mut settings = BTreeMap::new();
    for repo in repos {
        logs::give_to(&here.settings.world.logs, &repo.name, user.uid, user.gid)?;
        let own = &repo.settings;
        for path in [&own.env_file, &own.reach.password_file, &own.reach.client_cert] {
            // What root cannot read either is told by whom it hinders.
            if let Some(path) = path
                && let Ok(text) = files::read_private(path, MOST_SECRET)
            {
                secrets.insert(path.clone(), text);
            }
        }
        let path = Some(repo.path.clone());
        settings.insert(repo.name.clone(), RepoSettings { path, ..own.clone() });
    }
    let parcel = Parcel {
        errand,
        world: here.settings.world.clone(),
        part: here.part.clone(),
        stack: here.stack.clone(),
        repos: settings,
        secrets,
        requests: requests.map(str::to_owned),
    };
    process::parcel(&serde_json::to_vec(&parcel)?)
}

/// What was handed over to us, who are a helper or work for one.
///
/// # Errors
/// When nothing was.
pub fn unpack() -> Result<(Here, Errand)> {
    let (file, content) = process::handed_over()?;
    let parcel: Parcel = serde_json::from_slice(&content).context("the parcel is unreadable")?;
    files::hand_over(parcel.secrets);
    let settings = Settings::handed_over(parcel.world, parcel.repos);
    let (part, stack, requests) = (parcel.part, parcel.stack, parcel.requests);
    let errand = parcel.errand;
    let (parcel, requests) = (Some(file), requests);
    let here = Here { part, stack, parcel, requests, ..Here::bare(settings, Node::here()) };
    Ok((here, errand))
}

/// Does what a helper was sent out for; the answer in JSON.
///
/// # Errors
/// When the errand is none of these.
pub fn run(here: &Here, errand: &Errand) -> Result<String> {
    Ok(match errand {
        Errand::Look(orders) => {
            serde_json::to_string(&tick::errand(here, orders.as_ref(), &scripts::tell)?)?
        }
        Errand::Check(scope) => serde_json::to_string(&check::errand(here, *scope)?)?,
        Errand::History => serde_json::to_string(&steer::histories(here, &[])?)?,
        Errand::Command => bail!("there is no errand"),
    })
}
