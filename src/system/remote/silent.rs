//! Servers that nobody can connect to, or that ask to be left alone: found out once, told to everybody
//! who wants to ask there in the same tick. One that was connected to and then said nothing may have
//! been silent about one repository only, and is never among them.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use anyhow::{Error, Result};

use crate::domain::remote::Trouble;

/// Those that are known, what it is about them, and what was said of them then.
#[derive(Debug, Default)]
pub(super) struct Silent(Mutex<BTreeMap<String, (Trouble, String)>>);

impl Silent {
    /// Lets `ask` ask at `server`, unless nobody can connect to it or it asks to be left alone.
    ///
    /// # Errors
    /// Those of `ask`; of which [`Trouble::Server`] and [`Trouble::Later`] are remembered.
    pub(super) fn unless<T>(&self, server: &str, ask: impl FnOnce() -> Result<T>) -> Result<T> {
        self.remember(server, ask, |it| matches!(it, Trouble::Server | Trouble::Later(_)))
    }

    /// Lets `ask` ask at `server`, unless it asks to be left alone.
    ///
    /// # Errors
    /// Those of `ask`; of which [`Trouble::Later`] is remembered.
    pub(super) fn unless_busy<T>(
        &self,
        server: &str,
        ask: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        self.remember(server, ask, |it| matches!(it, Trouble::Later(_)))
    }

    fn remember<T>(
        &self,
        server: &str,
        ask: impl FnOnce() -> Result<T>,
        concerns_all: fn(Trouble) -> bool,
    ) -> Result<T> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((trouble, reason)) = known().get(server) {
            return Err(Error::new(*trouble).context(reason.clone()));
        }
        let asked = ask();
        if let Err(error) = &asked
            && let Some(trouble) = error.downcast_ref().copied().filter(|it| concerns_all(*it))
        {
            // The words around the trouble speak of the server, those before them of the repository.
            let reason = error.chain().rev().nth(1).unwrap_or(error.root_cause());
            known().insert(server.to_owned(), (trouble, reason.to_string()));
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn whom_nobody_can_connect_to_is_asked_once_and_whoever_says_nothing_each_time() {
        let silent = Silent::default();
        let mut asked = 0;
        let mut ask = |server: &str, error: Error| {
            let answered: Result<()> = silent.unless(server, || {
                asked += 1;
                Err(error.context("a repository"))
            });
            assert!(answered.is_err());
            asked
        };
        let dead = || Error::new(Trouble::Server).context("dead");
        assert_eq!((ask("one", dead()), ask("one", dead()), ask("other", dead())), (1, 1, 2));
        assert_eq!((ask("third", anyhow!("slow")), ask("third", anyhow!("slow"))), (3, 4));
        let later = || Error::new(Trouble::Later(None)).context("later");
        assert_eq!((ask("fourth", later()), ask("fourth", later())), (5, 5));
        let led_to_nobody = silent.unless_busy("fifth", || -> Result<()> { Err(dead()) });
        assert!(led_to_nobody.is_err() && silent.unless_busy("fifth", || Ok(())).is_ok());
        let error = silent.unless("one", || Ok(())).unwrap_err();
        assert_eq!(error.to_string(), "dead", "what was said of the repository is left out");
    }
}
