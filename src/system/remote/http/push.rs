//! Pushes over https:// and http://. The push is sent straight to `git-receive-pack`, without a request for the
//! server's refs and capabilities: one round trip, and nothing that grows with the number of refs. A server that does
//! not take it is asked first, as git does, and then always.

use anyhow::{Context, Error, Result};

use super::HttpRemotes;
use super::client::{HttpClient, HttpRequest, REPORT};
use super::reply::HttpReply;
use super::url::HttpUrl;
use crate::domain::remote::{FormatMismatch, PushHints, RemoteFailure, RemoteHints};
use crate::domain::wire::push::PushOutcome;
use crate::domain::wire::{Capabilities, RefQuery};
use crate::system::host;
use crate::system::remote::http::{MOST_REFS, advertised, errors, not_git};
use crate::system::remote::{PushOrder, denied};

/// The end of the address where a server reports what it takes.
const DISCOVER: &str = "info/refs?service=git-receive-pack";
/// The most bytes of a report.
const MOST_REPORTED: u64 = 64 << 10;

/// A push that was not taken.
struct PushFailure {
    reason: Error,
    /// What the server answered; `None`: nothing.
    status: Option<u16>,
}

impl PushFailure {
    /// Whether it is of no use to ask the server for what it takes.
    fn is_final(&self) -> bool {
        match self.status {
            None | Some(401 | 403 | 413 | 429) => true,
            Some(_) => self.reason.is::<RemoteFailure>(),
        }
    }

    /// Whether the next push may be taken unasked all the same: behind the redirect, or when the server is well.
    fn is_passing(&self) -> bool {
        matches!(self.status, Some(300..=399 | 500..))
    }
}

impl HttpRemotes {
    /// As [`Wire::push`](crate::system::remote::Wire::push), over HTTP.
    pub(in crate::system::remote) fn push(
        &self,
        order: &PushOrder,
        known: &PushHints,
    ) -> Result<(Vec<PushOutcome>, PushHints)> {
        let client = HttpClient::new(&self.shared, order.remote, order.reach)?;
        let login = RemoteHints { wants_login: known.wants_login, ..RemoteHints::default() };
        client.recall(Some(&login));
        let place = match &known.base {
            Some(base) => HttpUrl::parse(base)?.0,
            None => client.home.clone(),
        };
        let mut refused_unasked = known.refused_unasked;
        if !known.asks_first(host::now()) {
            match client.push_to(&place, order, None) {
                Ok(outcome) => {
                    let (base, wants_login) = (known.base.clone(), client.is_asked_who());
                    return Ok((outcome, PushHints { refused_unasked: None, base, wants_login }));
                }
                Err(failure) if failure.is_final() && place == client.home => {
                    return Err(failure.reason);
                }
                Err(failure) => {
                    tracing::debug!("a push was not taken unasked: {:#}", failure.reason);
                    refused_unasked = (!failure.is_passing()).then(host::now);
                }
            }
        }
        let (place, offered) = client.ask_for_pushes(order)?;
        let pushed = client.push_to(&place, order, Some(&offered));
        let outcome = pushed.map_err(|failure| failure.reason)?;
        let base = (place != client.home).then(|| place.to_string());
        let wants_login = client.is_asked_who();
        Ok((outcome, PushHints { refused_unasked, base, wants_login }))
    }
}

impl HttpClient<'_> {
    /// Sends the push of `order` to `place`, which has the capabilities `offered`; `None`: it was not asked.
    fn push_to(
        &self,
        place: &HttpUrl,
        order: &PushOrder,
        offered: Option<&Capabilities>,
    ) -> Result<Vec<PushOutcome>, PushFailure> {
        let unsent = |reason| PushFailure { reason, status: None };
        let request = order.request(offered).map_err(unsent)?;
        let reply = self.ask(place, HttpRequest::Push(&request)).map_err(unsent)?;
        let status = reply.status;
        let failed = |reason| PushFailure { reason, status: Some(status) };
        if status != 200 {
            return Err(failed(refused(place, reply)));
        }
        let kind = reply.kind.clone();
        let report = reply.into_bytes(MOST_REPORTED).map_err(|error| failed(error.into()))?;
        order.outcomes(&report).map_err(|error| {
            let is_report = kind == REPORT;
            failed(match is_report {
                true => Error::new(error).context(format!("{place} does not report on the push")),
                false => not_git(place, &kind),
            })
        })
    }

    /// Asks for what the server takes, following redirects; its refs are not kept.
    fn ask_for_pushes(&self, order: &PushOrder) -> Result<(HttpUrl, Capabilities)> {
        let (place, reply) = self.introduced(DISCOVER).map_err(may_not_push)?;
        if reply.kind != "application/x-git-receive-pack-advertisement" {
            let kind = reply.kind.clone();
            reply.drain();
            return Err(not_git(&place, &kind));
        }
        let said = advertised(reply.into_reader(MOST_REFS), &RefQuery::default())
            .with_context(|| format!("{place} does not say what it takes"))?;
        let own = order.format();
        FormatMismatch::check(said.format_or(own), own)
            .with_context(|| format!("{place} does not take the push"))?;
        Ok((place, said.capabilities))
    }
}

/// The error for an answer to a push with another status than 200.
fn refused(place: &HttpUrl, reply: HttpReply) -> Error {
    let (status, later) = (reply.status, reply.later);
    reply.drain();
    match status {
        413 => denied(format!(
            "{place} takes no request of this size (413)\n\
             hint: allow larger ones there: in nginx with client_max_body_size"
        )),
        300..=399 => Error::msg(format!("{place} redirects a push ({status})")),
        _ => may_not_push(errors::refused(place, status, later)),
    }
}

/// `error`, with what a push needs where access was denied.
fn may_not_push(error: Error) -> Error {
    match error.downcast_ref() {
        Some(RemoteFailure::Credentials) if error.to_string().contains("(403)") => {
            let text = error.to_string();
            let sentence = text.lines().next().unwrap_or_default();
            Error::new(RemoteFailure::Credentials).context(format!(
                "{sentence}\nhint: may this user or token push there? git-http-backend(1) also needs \
                 http.receivepack = true in the repository"
            ))
        }
        _ => error,
    }
}
