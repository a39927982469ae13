//! A [`Machine`]: the engine's functions on the root of a [`Sandbox`]. Each call reads the configuration
//! and opens the repositories anew, as each command does.

use std::fs;
use std::ops::Deref;

use pmpy::config::{ConfigLocations, Settings};
use pmpy::domain::git::Commit;
use pmpy::domain::repository::action::{FinishedRun, Trigger};
use pmpy::domain::repository::decision::{Decision, decide};
use pmpy::domain::repository::observed::{Observed, UpstreamTip};
use pmpy::domain::repository::request::ActionRequest;
use pmpy::domain::repository::status::StatusRow;
use pmpy::engine::context::Context;
use pmpy::engine::discovery::{self, RepoEntry};
use pmpy::engine::operator;
use pmpy::engine::repository::Repository;
use pmpy::engine::repository::observe::{self, OpenOutcome};
use pmpy::engine::request::{LockWait, TickOptions, WorkerCommand};
use pmpy::engine::tick::{self, TickReport};
use pmpy::system::host::{self, Host};
use pmpy::system::repo_state::PollRecord;

use crate::sandbox::Sandbox;

/// The repository of most tests.
pub const NAME: &str = "ops";
/// The script that an action runs.
pub const WORK: &str = "bin/work/common/work.sh";

/// A machine whose engine is called in this process.
pub struct Machine(pub Sandbox);

impl Deref for Machine {
    type Target = Sandbox;

    fn deref(&self) -> &Sandbox {
        &self.0
    }
}

impl Machine {
    /// A machine without repositories.
    pub fn new() -> Self {
        Self(Sandbox::new())
    }

    /// A machine with the clone [`NAME`] of a repository with these files; no tick has run.
    pub fn with(files: &[(&str, &str)]) -> Self {
        Self(Sandbox::with(NAME, files))
    }

    /// The same, with settings for [`NAME`], deployed by a first tick.
    pub fn deployed(settings: &str, files: &[(&str, &str)]) -> Self {
        let machine = Self::with(files);
        machine.set(settings);
        machine.tick();
        machine
    }

    /// Writes the settings of [`NAME`].
    pub fn set(&self, settings: &str) {
        self.configure(&format!("[repo.{NAME}]\n{settings}\n"));
    }

    /// The settings by the configuration as it is now.
    pub fn settings(&self) -> Settings {
        let root = Some(self.root());
        Settings::load(&ConfigLocations { root, ..ConfigLocations::default() }).unwrap()
    }

    /// What every step of the engine starts from.
    pub fn context(&self) -> Context {
        Context::new(self.settings(), Host::current()).unwrap()
    }

    /// The repository [`NAME`] as discovery finds it.
    pub fn entry(&self) -> RepoEntry {
        discovery::one(&self.context(), NAME).unwrap()
    }

    /// The error that opening [`NAME`] ends with: damaged or broken, and the reason.
    pub fn fault(&self) -> (&'static str, String) {
        let (context, entry) = (self.context(), self.entry());
        match observe::open(&context, &entry) {
            OpenOutcome::Ready(_) => ("ready", String::new()),
            OpenOutcome::Missing => ("missing", String::new()),
            OpenOutcome::Damaged(reason) => ("damaged", reason),
            OpenOutcome::Broken(reason) => ("broken", reason),
        }
    }

    /// Calls `look` with [`NAME`], open.
    #[track_caller]
    pub fn open<T>(&self, look: impl FnOnce(&Repository) -> T) -> T {
        let (context, entry) = (self.context(), self.entry());
        match observe::open(&context, &entry) {
            OpenOutcome::Ready(repository) => look(&repository),
            _ => panic!("{NAME} cannot be opened: {:?}", self.fault()),
        }
    }

    /// Polls [`NAME`] as a tick by cron does, and records nothing.
    #[track_caller]
    pub fn poll(&self) -> PollRecord {
        self.open(|it| it.poll(&it.polled(), ActionRequest::OF_CRON, &[], host::now()).unwrap())
    }

    /// What a tick by cron observes of [`NAME`] and decides.
    #[track_caller]
    pub fn decision(&self) -> (Observed, Decision) {
        let polled = self.poll();
        self.open(|it| {
            let now = host::now();
            let seen = it.observe(&polled, now);
            let decision = decide(&seen, &it.policy(&seen), ActionRequest::OF_CRON, now);
            (seen, decision)
        })
    }

    /// The tip that upstream has, as a tick observes it.
    pub fn upstream(&self) -> UpstreamTip {
        self.decision().0.upstream
    }

    /// One tick by cron.
    #[track_caller]
    pub fn tick(&self) -> TickReport {
        self.tick_with(|_| {})
    }

    /// One tick by cron with some options changed.
    #[track_caller]
    pub fn tick_with(&self, change: impl FnOnce(&mut TickOptions)) -> TickReport {
        let mut options = TickOptions {
            overrides: false,
            names: Vec::new(),
            trigger: Trigger::Cron,
            dry_run: false,
            wait: LockWait::No,
            command: WorkerCommand::Follow,
            reason: None,
            deleted: Vec::new(),
        };
        change(&mut options);
        tick::tick(&self.context(), &options, &drop).unwrap()
    }

    /// A person's command for [`NAME`].
    #[track_caller]
    pub fn order(&self, trigger: Trigger, command: WorkerCommand) -> TickReport {
        self.tick_with(|options| {
            options.names = vec![NAME.to_owned()];
            options.trigger = trigger;
            options.command = command;
        })
    }

    /// The row of `name` in the status.
    #[track_caller]
    pub fn status_of(&self, name: &str) -> StatusRow {
        let status = tick::survey(&self.context(), &[name.to_owned()]).unwrap();
        status.repositories.into_iter().next().unwrap()
    }

    /// The row of [`NAME`] in the status.
    #[track_caller]
    pub fn status(&self) -> StatusRow {
        self.status_of(NAME)
    }

    /// The state of [`NAME`] and the reason.
    #[track_caller]
    pub fn state_and_reason(&self) -> (&'static str, String) {
        let row = self.status();
        (row.state.as_str(), row.reason.unwrap_or_default())
    }

    /// Fails with all that is known of [`NAME`] unless its state is `state`.
    #[track_caller]
    pub fn is(&self, state: &str) {
        let row = self.status();
        assert_eq!(row.state.as_str(), state, "{row:#?}");
    }

    /// The finished runs of [`NAME`], oldest first.
    #[track_caller]
    pub fn history(&self) -> Vec<FinishedRun> {
        let all = operator::histories(&self.context(), &[NAME.to_owned()]).unwrap();
        let entries = all.into_iter().next().unwrap().1.unwrap();
        entries.iter().filter_map(|entry| entry.run().cloned()).collect()
    }

    /// HEAD of the clone.
    pub fn at(&self) -> Commit {
        commit(&self.head(NAME))
    }

    /// The last revision that was deployed.
    pub fn deployed_at(&self) -> Option<Commit> {
        self.lastaction(NAME).as_deref().map(commit)
    }

    /// Pushes one file to [`NAME`]; returns the revision.
    pub fn pushed(&self, path: &str, content: &str) -> Commit {
        commit(&self.push(NAME, &[(path, content)]))
    }

    /// A file of the clone; `None`: there is none.
    pub fn file(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.clone_of(NAME).join(path)).ok()
    }

    /// Commits one file in the clone, as an administrator would; returns the revision.
    pub fn commit_here(&self, path: &str, content: &str) -> Commit {
        let clone = self.clone_of(NAME);
        fs::write(clone.join(path), content).unwrap();
        self.git(&clone, &["add", "--all"]);
        self.git(&clone, &["commit", "--quiet", "--message", "A local change"]);
        self.at()
    }
}

/// A commit by its id.
pub fn commit(id: &str) -> Commit {
    id.parse().unwrap()
}

/// Fails unless `text` has each of `parts`.
#[track_caller]
pub fn says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is missing in: {text}");
    }
}
