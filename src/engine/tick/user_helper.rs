//! Runs helpers for the repositories of other users: root neither opens nor reads what another user owns.
//! One helper for each user becomes that user and does the work there. Its input file has what it needs,
//! including secrets that only root may read. It answers in JSON lines as soon as a result is known; root
//! treats them as untrusted. A user's files in a clone may make the helper hang: it has a deadline and is
//! ended then. Its workers are not. Does not know how a repository is evaluated.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::mem;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Error, Result, anyhow, bail};
use replies::{ask_for, unfinished};
use serde::{Deserialize, Serialize};

use crate::config::RepoSettings;
use crate::domain::git::Remote;
use crate::domain::password_cache::FAILED_PASSWORD;
use crate::domain::repository::decision::Plan;
use crate::domain::repository::hold::Person;
use crate::domain::repository::status::StatusRow;
use crate::domain::text::EscapeControls;
use crate::engine::context::{CanaryLook, Context, HandedSettings};
use crate::engine::discovery::{CloneState, RepoEntry, safe_paths};
use crate::engine::finding::{CheckScope, RepoFindings};
use crate::engine::repository::limits;
use crate::engine::request::{ProgressSink, RunHistory, TickOptions};
use crate::engine::run::privileged_after_hook::{self, AfterHookRequest};
use crate::engine::run::scripts;
use crate::system::agent_state::AgentState;
use crate::system::pid::Process;
use crate::system::privileged_rpc::PrivilegedRpc;
use crate::system::process::{self, ChildAgent, ChildFinish, OutputMode};
use crate::system::users::User;
use crate::system::{files, logs};

/// The file that records the hanging processes, by repository name.
pub const HANGING: &str = "hanging.json";
/// The maximum size of a file with secrets, in bytes.
const MOST_SECRET: u64 = 1 << 20;

mod replies;

pub use replies::{HelperReplies, RepoReply};

/// The request that root sends to a helper.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum HelperRequest {
    /// Evaluate all repositories, and with orders poll remotes and work.
    Look(Option<TickOptions>),
    /// Check all repositories.
    Check(CheckScope),
    /// Report the finished runs.
    History,
    /// Carry out the helper's own command line.
    Command,
}

impl HelperRequest {
    /// Whether a person's command is behind it whose author is recorded.
    fn is_order(&self) -> bool {
        match self {
            Self::Look(options) => options.as_ref().is_some_and(|options| !options.follow()),
            Self::Command => true,
            Self::Check(_) | Self::History => false,
        }
    }
}

/// A helper's input, as JSON.
#[derive(Serialize, Deserialize)]
struct HelperInput {
    helper_request: HelperRequest,
    settings: HandedSettings,
    secrets: BTreeMap<PathBuf, String>,
    /// The name of the abstract socket for requests to root's tick.
    requests: Option<String>,
    /// The person whose command it is; `None`: a tick of nobody's.
    asked_by: Option<Person>,
    /// What root saw of canaries.
    canaries: Vec<(Vec<String>, CanaryLook)>,
}

/// A helper's report on one repository.
#[derive(Debug, Serialize, Deserialize)]
pub struct HelperReport {
    /// Its status row.
    pub row: StatusRow,
    /// The decided plan; `None`: there were no orders.
    pub plan: Option<Plan>,
    /// The process that hangs in it.
    pub hangs: Option<Process>,
    /// Whether no further report on it follows: it was worked on, or there is no work.
    pub is_last: bool,
}

/// Repositories, sorted by the user who works on them.
#[derive(Default)]
pub struct ReposByUser {
    /// Those that this process works on.
    pub ours: Vec<RepoEntry>,
    /// Those of other users, each worked on by a helper.
    pub delegated: Vec<(User, Vec<RepoEntry>)>,
    /// Those without a usable user, and why. With a
    /// [`NameServiceError`](crate::system::users::NameServiceError) the user is not known yet.
    pub unusable: Vec<(RepoEntry, Error)>,
    /// Processes that hang since an earlier tick, by repository name.
    pub hanging: BTreeMap<String, Process>,
}

/// Sorts `repositories` by the user who works on them.
pub fn sort_by_user(context: &Context, repositories: Vec<RepoEntry>) -> ReposByUser {
    let mut sorted = ReposByUser { hanging: hanging(context), ..ReposByUser::default() };
    for repo in repositories {
        if let Some(process) = sorted.hanging.get(&repo.name) {
            // Another process would hang as well.
            sorted.unusable.push((repo, anyhow!(limits::still_hangs(*process))));
            continue;
        }
        match user_of(context, &repo) {
            Ok(None) => sorted.ours.push(repo),
            Ok(Some(user)) => {
                match sorted.delegated.iter_mut().find(|(known, _)| known.uid == user.uid) {
                    Some((_, repos)) => repos.push(repo),
                    None => sorted.delegated.push((user, vec![repo])),
                }
            }
            Err(reason) => sorted.unusable.push((repo, reason)),
        }
    }
    sorted
}

/// The processes that still hang since an earlier tick, by repository name.
fn hanging(context: &Context) -> BTreeMap<String, Process> {
    if context.helper_input.is_some() {
        return BTreeMap::new();
    }
    let noted = AgentState::at(&context.settings.world.state).read(HANGING);
    let mut hanging: BTreeMap<String, Process> = noted.unwrap_or_default();
    hanging.retain(|_, process| process.lives());
    hanging
}

/// The user who works on `repo`; `None`: the user of this process.
///
/// # Errors
/// When the user does not exist, we cannot become it, or the name service does not answer.
fn user_of(context: &Context, repo: &RepoEntry) -> Result<Option<User>> {
    let us = &context.node.user;
    if context.helper_input.is_some() {
        return Ok(None);
    }
    if matches!(repo.found, CloneState::Unfit(_))
        && repo.settings.broken.is_none()
        && let Some(error) = repo.trust.unanswered()
    {
        // The user who could change the path may be a trusted one, but the name service does not answer now.
        return Err(error.into());
    }
    // A person's hold is possible in spite of a wrong entry; nothing else of it is used.
    let is_clone = repo.found == CloneState::Clone || repo.settings.broken.is_some();
    if let Some(name) = &repo.settings.publish.after_user {
        // Nothing is published before the `after` user can be looked up. A missing user is reported later.
        User::named(name)?;
    }
    let user = match &repo.settings.user {
        Some(name) => Some(User::named(name)?.with_context(|| {
            format!(
                "there is no user \"{}\" on this machine\n\
                 hint: make one with: adduser --system {0}, or correct user",
                name.escape_controls()
            )
        })?),
        None if us.uid == 0 && is_clone => match repo.trust.uid() {
            0 => None,
            uid => Some(User::numbered(uid)?.with_context(|| {
                format!(
                    "it belongs to user number {uid}, who does not exist on this machine\n\
                     hint: give it to an existing user: chown -R USER {}",
                    repo.listed.display()
                )
            })?),
        },
        None => None,
    };
    match user {
        Some(user) if user.uid == us.uid => Ok(None),
        Some(user) if us.uid != 0 => bail!(
            "user = \"{}\", and the agent runs as {}, who cannot become that user\n\
             hint: run the agent as root, or as {0}",
            user.name.escape_controls(),
            us.name
        ),
        other => Ok(other),
    }
}

/// The extent of a helper's command line, which sets its time limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandExtent {
    /// It reads repositories or writes a record there.
    Look,
    /// It works on a repository, or waits for a worker.
    Work,
    /// It runs until a person ends it.
    Endless,
}

/// Does `work` for each user and their repositories, for all at the same time: a helper that hangs delays
/// no other.
pub fn side_by_side<'a, T: Send>(
    delegated: &'a [(User, Vec<RepoEntry>)],
    work: impl Fn(&'a User, &'a [RepoEntry]) -> T + Sync,
) -> Vec<(&'a [RepoEntry], T)> {
    thread::scope(|scope| {
        let work = &work;
        let begun: Vec<_> = delegated
            .iter()
            .map(|(user, repos)| {
                let work = move || work(user, repos);
                (user, repos, thread::Builder::new().spawn_scoped(scope, work))
            })
            .collect();
        let end = |(user, repos, begun): (&'a User, &'a Vec<RepoEntry>, _)| {
            let done = match begun {
                Ok(begun) => {
                    ScopedJoinHandle::join(begun).unwrap_or_else(|panic| resume_unwind(panic))
                }
                // Without a thread the users take turns.
                Err(_) => work(user, repos),
            };
            (repos.as_slice(), done)
        };
        begun.into_iter().map(end).collect()
    })
}

/// Lets a helper evaluate the `repos` of `user`, and with orders work on them; `progress` receives the
/// progress events.
pub fn run_helper(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    options: Option<&TickOptions>,
    progress: &ProgressSink,
) -> HelperReplies<HelperReport> {
    let asked = options.is_some_and(TickOptions::follow);
    ask_for(
        context,
        user,
        repos,
        HelperRequest::Look(options.cloned()),
        limits::helper(repos, asked),
        progress,
    )
}

/// Lets a helper check the `repos` of `user`.
pub fn check(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    scope: CheckScope,
) -> HelperReplies<RepoFindings> {
    let limit = limits::helper(repos, scope == CheckScope::Remotes);
    ask_for(context, user, repos, HelperRequest::Check(scope), limit, &drop)
}

/// Lets a helper report the finished runs in the `repos` of `user`.
pub fn histories(context: &Context, user: &User, repos: &[RepoEntry]) -> HelperReplies<RunHistory> {
    ask_for(context, user, repos, HelperRequest::History, limits::helper(repos, false), &drop)
}

/// Carries out the command line `args` as `user`, for its `repos`, and returns the exit code. The output
/// goes to our own stdout and stderr.
///
/// # Errors
/// When no helper can be started, or it does not end.
pub fn command(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    args: &[OsString],
    extent: CommandExtent,
) -> Result<u8> {
    let args: Vec<OsString> =
        begin(context, user).into_iter().chain(args.iter().cloned()).collect();
    // The command reads one repository after the other.
    let looks = limits::helper(repos, false).saturating_mul(repos.len().max(1) as u32);
    let limit = match extent {
        CommandExtent::Look => looks,
        // A busy repository may need as long for the other work first, hence twice.
        CommandExtent::Work => looks.saturating_add(2 * limits::helper_works(repos)),
        CommandExtent::Endless => Duration::MAX,
    };
    attended(context, user, repos, |requests| {
        let helper_input = helper_input(context, user, repos, HelperRequest::Command, requests)?;
        let mut helper =
            ChildAgent::start_for(&args, &environment(user), &helper_input, OutputMode::Inherit)?;
        match helper.wait_for_exit(limit, |_| None)? {
            ChildFinish::Code(code) => Ok(code),
            finish => {
                let error = unfinished(user, helper.process(), finish);
                helper.end();
                Err(error)
            }
        }
    })
}

/// Does `work`, which lets processes of `user` work on `repos`, and answers their `after` requests meanwhile.
fn attended<T>(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    work: impl FnOnce(Option<&str>) -> Result<T>,
) -> Result<T> {
    if !privileged_after_hook::is_needed(repos) {
        return work(None);
    }
    let requests = PrivilegedRpc::open()?;
    let answer =
        |question: AfterHookRequest| privileged_after_hook::answer(context, repos, &question);
    requests.during(user.uid, answer, || work(Some(requests.name())))?
}

fn begin(context: &Context, user: &User) -> Vec<OsString> {
    let helper = ["helper".into(), "--user".into(), user.name.clone().into()];
    context.log_args.iter().cloned().chain(helper).collect()
}

fn environment(user: &User) -> Vec<(OsString, OsString)> {
    scripts::environment_of(user)
}

fn helper_input(
    context: &Context,
    user: &User,
    repos: &[RepoEntry],
    helper_request: HelperRequest,
    requests: Option<&str>,
) -> Result<File> {
    let mut secrets = BTreeMap::new();
    let mut settings = BTreeMap::new();
    let asked_by = helper_request.is_order().then(|| context.person());
    for repo in repos {
        if let Err(error) = give_logs(context, user, repo) {
            // The repository's own worker fails when it has something to log; the others continue.
            tracing::warn!(repository = %repo.name, error = format!("{error:#}"), "no log directory");
        }
        let own = &repo.settings;
        let files = [&own.env_file, &own.reach.password_file, &own.reach.client_cert];
        let servers = own.urls.iter().filter_map(Remote::server);
        let cached = servers.filter_map(|server| own.reach.cached_password(&server));
        let cached = cached.flat_map(|file| [file.with_extension(FAILED_PASSWORD), file]);
        for path in files.into_iter().flatten().cloned().chain(cached) {
            if let Some(text) = safe_paths::secret_of_root(context, &path, MOST_SECRET) {
                secrets.insert(path, text);
            }
        }
        // The path as configured: the helper resolves it with its own rights.
        let path = Some(repo.listed.clone());
        settings.insert(repo.name.clone(), RepoSettings { path, ..own.clone() });
    }
    let canaries = context.canaries.lock().unwrap_or_else(PoisonError::into_inner);
    let helper_input = HelperInput {
        helper_request,
        settings: context.hand_over(settings),
        secrets,
        requests: requests.map(str::to_owned),
        asked_by,
        canaries: canaries.clone().into_iter().collect(),
    };
    process::sealed_file(&serde_json::to_vec(&helper_input)?)
}

/// Creates the log directory of `repo`, which `user` cannot, and gives it to that user.
///
/// # Errors
/// When it cannot be created or given away.
pub fn give_logs(context: &Context, user: &User, repo: &RepoEntry) -> Result<()> {
    logs::give_to(&context.settings.world.logs, &repo.name, user.uid, user.gid)
}

pub(in crate::engine) fn print_reply<T: RepoReply>(item: &T) {
    // Rows and findings always serialize, and a caller that is gone does not need them.
    let _ = process::report(&serde_json::to_string(item).unwrap_or_default());
}

/// Reads the input that root handed over to this helper or to its worker.
///
/// # Errors
/// When there is no input, or it is unreadable.
pub fn read_helper_input() -> Result<(Context, HelperRequest)> {
    let (file, content) = process::handed_over()?;
    let mut helper_input: HelperInput =
        serde_json::from_slice(&content).context("the input of the helper is unreadable")?;
    files::hand_over(mem::take(&mut helper_input.secrets));
    let HelperInput { helper_request, settings, requests, asked_by, canaries, .. } = helper_input;
    let canaries = Arc::new(Mutex::new(canaries.into_iter().collect()));
    let helper_input = Some(Arc::new(file));
    let context =
        Context { helper_input, requests, asked_by, canaries, ..Context::handed_over(settings) };
    Ok((context, helper_request))
}
