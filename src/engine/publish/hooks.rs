//! The hooks `before` and `after`, run before and after a release is shown. Does not show releases.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::RepoSettings;
use crate::domain::repository::action::{Outcome, TriedRevisions, Trigger};
use crate::domain::text::EscapeControls;
use crate::engine::repository::{Repository, limits, tree};
use crate::engine::run::guard::RunGuard;
use crate::engine::run::log;
use crate::engine::run::privileged_after_hook::{AfterHookReply, AfterHookRequest};
use crate::engine::run::scripts::{self, ActionEnv, CommandList};
use crate::system::host;
use crate::system::lock::JournalStep;
use crate::system::logs::ActionLog;
use crate::system::users::User;
use crate::system::{privileged_rpc, watchdog};

/// The hooks of one ref that is being published.
pub struct RefHooks<'a, 's> {
    pub repository: &'a Repository<'s>,
    /// The settings, with those of the revision's `.pmpy.toml`.
    pub settings: &'a RepoSettings,
    /// The step to record in the journal.
    pub step: JournalStep,
    /// The full ref name.
    pub reference: String,
    pub trigger: Trigger,
    /// The path that readers open.
    pub target: &'a Path,
    /// The revisions that were tried here since the last success.
    pub tried: TriedRevisions,
    /// The log; `None` until the first program runs.
    pub log: Option<ActionLog>,
}

impl RefHooks<'_, '_> {
    /// Runs `before` in the staged tree.
    ///
    /// # Errors
    /// When a script cannot be run, or the journal cannot be written.
    pub fn before(&mut self, run: &mut RunGuard, dir: &Path) -> Result<Outcome> {
        let list = &self.settings.publish.before;
        if list.is_empty() {
            return Ok(Outcome::Succeeded);
        }
        let env = self.environment()?;
        self.run_hooks(run, CommandList::scripts(self.repository.context, dir, list, &env)?)
    }

    /// Runs `after` at the target.
    ///
    /// # Errors
    /// When it cannot be run, or the journal cannot be written.
    pub fn after(&mut self, run: &mut RunGuard) -> Result<Outcome> {
        let argv = &self.settings.publish.after;
        if argv.is_empty() {
            return Ok(Outcome::Succeeded);
        }
        if let Some(requests) = &self.repository.context.requests
            && self.settings.publish.after_user.is_some()
        {
            return self.let_root_run_it(run, requests);
        }
        let user = self.after_user()?;
        let mut env = self.environment()?;
        if let Some(user) = &user {
            // Later variables win: HOME and USER are those of that user.
            env.extend(scripts::environment_of(user));
        }
        let target = self.target.to_owned();
        self.run_hooks(run, CommandList::one(self.repository.context, argv, &target, &env, user)?)
    }

    /// Requests `after` from root's tick, which can become `after_user`.
    fn let_root_run_it(&mut self, run: &mut RunGuard, requests: &str) -> Result<Outcome> {
        let question = AfterHookRequest {
            repository: self.repository.repo.name.clone(),
            reference: self.reference.clone(),
            facts: ActionEnv::of(self.repository, &self.step, self.trigger),
            target: self.target.to_owned(),
        };
        // Journaled first, so that the next run sees that this one died during `after`.
        run.record_running(&self.step, None)?;
        // Root's tick ends `after` at the same timeout; the extra time lets its answer arrive.
        let limit = self.settings.timeout.saturating_add(limits::STANDSTILL);
        let _step = watchdog::within("waiting for root's tick, which runs after", limit);
        let answer: AfterHookReply = privileged_rpc::call(requests, &question)?;
        self.log()?.add(&answer.said);
        Ok(answer.outcome)
    }

    /// The user to run `after` as; `None`: this process's own user.
    fn after_user(&self) -> Result<Option<User>> {
        let us = &self.repository.context.node.user;
        let Some(name) = &self.settings.publish.after_user else { return Ok(None) };
        let user = User::named(name)?.with_context(|| {
            format!("after_user: there is no user \"{}\" on this machine", name.escape_controls())
        })?;
        match us.uid {
            uid if uid == user.uid => Ok(None),
            0 => Ok(Some(user)),
            _ => bail!(
                "after_user = \"{}\", and the agent runs as {}, who cannot become that user\n\
                 hint: run the agent as root",
                name.escape_controls(),
                us.name
            ),
        }
    }

    fn run_hooks(&mut self, run: &mut RunGuard, hooks: CommandList) -> Result<Outcome> {
        let deadline = scripts::deadline(self.settings.timeout);
        self.log()?;
        let step = self.step.clone();
        let (outcome, _) = run.run_scripts(&step, hooks, self.log()?, deadline)?;
        Ok(outcome)
    }

    /// The log of this ref's programs, created with the first of them.
    fn log(&mut self) -> Result<&ActionLog> {
        let log = match self.log.take() {
            Some(log) => log,
            None => self.begin_log()?,
        };
        self.step.log = Some(log.name().to_owned());
        Ok(self.log.insert(log))
    }

    fn begin_log(&self) -> Result<ActionLog> {
        let Self { repository, step, .. } = self;
        let dir = log::log_dir(repository.context, &repository.repo.name);
        let log = ActionLog::create(&dir, host::now(), &step.target)?;
        log.start(&format!(
            "{} {} {} (previous {}, {}, attempt {})",
            repository.repo.name,
            self.reference.escape_controls(),
            step.target,
            step.previous.map_or_else(|| "none".to_owned(), |id| id.short()),
            self.trigger,
            step.attempt
        ));
        scripts::report_log(repository, &log);
        Ok(log)
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let Self { repository, step, settings, .. } = self;
        let changed = tree::changed_since(&repository.git, step.previous, &self.tried, step.target);
        let list = scripts::put_changed(repository, changed, step.target)?;
        let mut env = scripts::environment(repository, settings, step, self.trigger, &list)?;
        env.push(("AGENT_TARGET".into(), self.target.into()));
        env.push(("AGENT_REF".into(), self.reference.clone().into()));
        Ok(env)
    }
}
