//! The hooks `before` and `after`, run before and after a release is shown. Does not show releases.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::RepoSettings;
use crate::domain::repository::action::{Outcome, TriedRevisions, Trigger};
use crate::domain::text::EscapeControls;
use crate::engine::repository::drift::PendingRepair;
use crate::engine::repository::{Repository, limits, tree};
use crate::engine::run::guard::RunGuard;
use crate::engine::run::health::{self, EndOfWait, HealthCheck, HealthPrograms};
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
    /// The repair of the tree that its programs have not seen with success yet.
    pub repair: Option<PendingRepair>,
    /// The log; `None` until the first program runs.
    pub log: Option<ActionLog>,
}

impl RefHooks<'_, '_> {
    /// Runs `before` in the staged tree; also returns the program that did not say yes.
    ///
    /// # Errors
    /// When a program cannot be run, or the journal cannot be written.
    pub fn before(&mut self, run: &mut RunGuard, dir: &Path) -> Result<(Outcome, Option<String>)> {
        let mut env = self.environment(0)?;
        env.push(("AGENT_TREE".into(), dir.into()));
        for program in &self.settings.publish.before {
            let program = CommandList::before(self.repository.context, program, dir, &env)?;
            let (outcome, name) = self.run_hooks(run, program)?;
            if outcome != Outcome::Succeeded {
                return Ok((outcome, name));
            }
        }
        Ok((Outcome::Succeeded, None))
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
        let mut env = self.environment(0)?;
        if let Some(user) = &user {
            // Later variables win: HOME and USER are those of that user.
            env.extend(scripts::environment_of(user));
        }
        let target = self.target.to_owned();
        let program = CommandList::one(self.repository.context, argv, &target, &env, user)?;
        Ok(self.run_hooks(run, program)?.0)
    }

    /// Checks the health at the target, as the repository's own user, until `end` of the wait.
    ///
    /// # Errors
    /// When the journal cannot be written, or another user could exchange a program.
    pub fn check_health(&mut self, run: &mut RunGuard, end: &dyn EndOfWait) -> Result<Outcome> {
        if HealthPrograms::of(self.repository, self.settings)?.is_none() {
            return Ok(Outcome::Succeeded);
        }
        let check = self.health_check(0)?;
        let (log, outcome) = health::check(self.repository, self.settings, run, check, end)?;
        self.log = Some(log);
        Ok(outcome)
    }

    /// The health check of this ref, which takes its log. `number` tells checks apart that run side by side.
    ///
    /// # Errors
    /// When the log or the list of changed paths cannot be written.
    pub fn health_check(&mut self, number: usize) -> Result<HealthCheck> {
        let env = self.environment(number)?;
        let log = match self.log.take() {
            Some(log) => log,
            None => self.begin_log()?,
        };
        self.step.log = Some(log.name().to_owned());
        Ok(HealthCheck { step: self.step.clone(), dir: self.target.to_owned(), env, log })
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

    fn run_hooks(
        &mut self,
        run: &mut RunGuard,
        hooks: CommandList,
    ) -> Result<(Outcome, Option<String>)> {
        let deadline = scripts::deadline(self.settings.timeout);
        self.log()?;
        let step = self.step.clone();
        run.run_scripts(&step, hooks, self.log()?, deadline)
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

    fn environment(&self, number: usize) -> Result<Vec<(OsString, OsString)>> {
        let Self { repository, step, settings, .. } = self;
        let changed = tree::changed_since(&repository.git, step.previous, &self.tried, step.target);
        let list =
            scripts::put_changed(repository, changed, step.target, number, self.repair.as_ref())?;
        let mut env = scripts::environment(repository, settings, step, self.trigger, &list)?;
        env.push(("AGENT_TARGET".into(), self.target.into()));
        env.push(("AGENT_REF".into(), self.reference.clone().into()));
        Ok(env)
    }
}
