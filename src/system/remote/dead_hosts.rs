//! The servers that cannot be reached or ask for a pause: found out once, and then reported to every
//! repository there in the same tick. Polls nothing itself.
//!
//! A server that accepted the connection and then said nothing is never among them: it may be silent
//! about one repository only.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result};

use crate::domain::remote::RemoteFailure;

/// The known servers, each with its failure and the message for users.
#[derive(Debug, Default)]
pub(super) struct DeadHosts(Mutex<BTreeMap<String, (RemoteFailure, String)>>);

impl DeadHosts {
    /// Runs `ask` for `server`, unless the server cannot be reached or asks for a pause.
    ///
    /// # Errors
    /// Those of `ask`; of which `RemoteFailure::Server` and `RemoteFailure::Later` are remembered.
    pub(super) fn unless<T>(&self, server: &str, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        self.remember(server, ask, |it| {
            matches!(it, RemoteFailure::Server | RemoteFailure::Later(_))
        })
    }

    /// Runs `ask` for `server`, unless the server asks for a pause.
    ///
    /// # Errors
    /// Those of `ask`; of which `RemoteFailure::Later` is remembered.
    pub(super) fn unless_busy<T>(
        &self,
        server: &str,
        ask: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.remember(server, ask, |it| matches!(it, RemoteFailure::Later(_)))
    }

    fn remember<T>(
        &self,
        server: &str,
        ask: impl FnOnce() -> Result<T>,
        concerns_all: fn(RemoteFailure) -> bool,
    ) -> Result<T> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((trouble, reason)) = known().get(server) {
            return Err(Error::new(*trouble).context(reason.clone()));
        }
        let asked = ask();
        if let Err(error) = &asked
            && let Some(trouble) = error.downcast_ref().copied().filter(|it| concerns_all(*it))
        {
            // The message next to the failure is about the server; those before it are about the
            // repository.
            let reason = error.chain().rev().nth(1).unwrap_or(error.root_cause());
            known().insert(server.to_owned(), (trouble, reason.to_string()));
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use crate::system::remote::dead_hosts::*;
    use anyhow::anyhow;

    #[test]
    fn a_server_that_refuses_connections_is_asked_once_and_a_silent_one_each_time() {
        let silent = DeadHosts::default();
        let mut asked = 0;
        let mut ask = |server: &str, error: Error| {
            let answered: Result<()> = silent.unless(server, || {
                asked += 1;
                Err(error.context("a repository"))
            });
            assert!(answered.is_err());
            asked
        };
        let dead = || Error::new(RemoteFailure::Server).context("dead");
        assert_eq!((ask("one", dead()), ask("one", dead()), ask("other", dead())), (1, 1, 2));
        assert_eq!((ask("third", anyhow!("slow")), ask("third", anyhow!("slow"))), (3, 4));
        let later = || Error::new(RemoteFailure::Later(None)).context("later");
        assert_eq!((ask("fourth", later()), ask("fourth", later())), (5, 5));
        let led_to_nobody = silent.unless_busy("fifth", || -> Result<()> { Err(dead()) });
        assert!(led_to_nobody.is_err() && silent.unless_busy("fifth", || Ok(())).is_ok());
        let error = silent.unless("one", || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "dead", "what was said of the repository is left out");
    }
}
