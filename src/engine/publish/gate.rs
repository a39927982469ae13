//! `before` and `after`: the programs on both sides of showing a release.

use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::config::RepoSettings;
use crate::domain::action::{Outcome, Trigger};
use crate::engine::afterwards::{Answer, Question};
use crate::engine::apply;
use crate::engine::observe::Site;
use crate::engine::scripts::{self, Facts, Programs};
use crate::engine::steer;
use crate::system::lock::{ActionLock, Journal, Phase, Step};
use crate::system::logs::Log;
use crate::system::node::{self, User};
use crate::system::requests;

/// One ref on its way through `before`, showing and `after`.
pub struct Passage<'a, 's> {
    pub site: &'a Site<'s>,
    pub lock: &'a ActionLock,
    /// The settings, as the revision sees them.
    pub settings: &'a RepoSettings,
    /// What is acted upon.
    pub step: Step,
    /// The full name of the ref.
    pub reference: String,
    pub trigger: Trigger,
    /// The path that readers open.
    pub target: &'a Path,
    /// Made with the first program.
    pub log: Option<Log>,
}

impl Passage<'_, '_> {
    /// Runs `before` in the staged tree at `folder`.
    ///
    /// # Errors
    /// When a script cannot be run or written down.
    pub fn before(&mut self, journal: &mut Journal, folder: &Path) -> Result<Outcome> {
        let list = &self.settings.publish.before;
        if list.is_empty() {
            return Ok(Outcome::Succeeded);
        }
        let env = self.environment()?;
        self.run(journal, Programs::scripts(folder, list, &env)?)
    }

    /// Runs `after` at the target.
    ///
    /// # Errors
    /// When it cannot be run or written down.
    pub fn after(&mut self, journal: &mut Journal) -> Result<Outcome> {
        let argv = &self.settings.publish.after;
        if argv.is_empty() {
            return Ok(Outcome::Succeeded);
        }
        if let Some(requests) = &self.site.here.requests
            && self.settings.publish.after_user.is_some()
        {
            return self.let_root_run_it(journal, requests);
        }
        let user = self.after_user()?;
        let mut env = self.environment()?;
        if let Some(user) = &user {
            // Later ones win: who it is, is that user.
            env.extend(scripts::environment_of(user));
        }
        let target = self.target.to_owned();
        self.run(journal, Programs::one(argv, &target, &env, user))
    }

    /// Asks root's tick, which becomes whom we cannot.
    fn let_root_run_it(&mut self, journal: &mut Journal, requests: &str) -> Result<Outcome> {
        let question = Question {
            repository: self.site.repo.name.clone(),
            reference: self.reference.clone(),
            facts: Facts::of(self.site, &self.step, self.trigger),
            target: self.target.to_owned(),
        };
        // Written down, so that a death is found to have happened in the middle of it.
        journal.step = Some(self.step.clone());
        journal.phase = Phase::Run;
        self.lock.write(journal)?;
        let answer: Answer = requests::ask(requests, &question)?;
        self.log()?.add(&answer.said);
        Ok(answer.outcome)
    }

    /// As whom `after` runs, when that is somebody else than us.
    fn after_user(&self) -> Result<Option<User>> {
        let us = &self.site.here.node.user;
        let Some(name) = &self.settings.publish.after_user else { return Ok(None) };
        let user = User::named(name).with_context(|| {
            format!("after_user: there is no user \"{}\" on this machine", name.escape_debug())
        })?;
        match us.uid {
            uid if uid == user.uid => Ok(None),
            0 => Ok(Some(user)),
            _ => bail!(
                "after_user = \"{}\", and this is {}, who cannot become it\n\
                 hint: run the agent as root",
                name.escape_debug(),
                us.name
            ),
        }
    }

    fn run(&mut self, journal: &mut Journal, programs: Programs) -> Result<Outcome> {
        let (lock, deadline) = (self.lock, scripts::deadline(self.settings.timeout));
        self.log()?;
        journal.step = Some(self.step.clone());
        scripts::run(lock, journal, programs, self.log()?, deadline)
    }

    /// The log of this ref's programs, made with the first of them.
    fn log(&mut self) -> Result<&Log> {
        let log = match self.log.take() {
            Some(log) => log,
            None => self.begin_log()?,
        };
        self.step.log = Some(log.name().to_owned());
        Ok(self.log.insert(log))
    }

    fn begin_log(&self) -> Result<Log> {
        let Self { site, step, .. } = self;
        let folder = steer::log_folder(site.here, &site.repo.name);
        let log = Log::create(&folder, node::now(), &step.target)?;
        log.start(&format!(
            "{} {} {} (previous {}, {}, attempt {})",
            site.repo.name,
            self.reference.escape_debug(),
            step.target,
            step.previous.map_or_else(|| "none".to_owned(), |id| id.short()),
            self.trigger,
            step.attempt
        ));
        Ok(log)
    }

    fn environment(&self) -> Result<Vec<(OsString, OsString)>> {
        let Self { site, step, settings, .. } = self;
        let changed = apply::changed_since(&site.git, step.previous, step.target)
            .unwrap_or_else(|| apply::every_path(&site.git, step.target));
        let list = site.records.put_changed(&apply::nul_separated(&changed))?;
        let mut env = scripts::environment(site, settings, step, self.trigger, &list)?;
        env.push(("AGENT_TARGET".into(), self.target.into()));
        env.push(("AGENT_REF".into(), self.reference.clone().into()));
        Ok(env)
    }
}
