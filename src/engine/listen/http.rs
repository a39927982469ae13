//! Web hooks and HTTP requests for status, metrics and health. A hook is a hint to run a tick, as a bus
//! message is; with `announce` it is also sent to the bus. A bus message is never sent there again. Does
//! not know HTTP itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use super::subscriptions::HookedRepos;
use super::{Listener, ListenerEvent, TickCause};
use crate::config::{self, Settings};
use crate::domain::bus::message::{PushMessage, bare_news};
use crate::domain::bus::stomp::StompFrame;
use crate::domain::bus::webhook::{
    PushNotification, WebhookRefusal, WebhookSecrets, WebhookVerdict,
};
use crate::domain::report::metrics::{BusSession, HintOutcome, ListenerCounters};
use crate::domain::repository::status::MachineStatus;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::listen::status_endpoint::{self, PageFormat};
use crate::engine::tick;
use crate::system::agent_state::AgentState;
use crate::system::files;
use crate::system::host::{self, Host, since_boot};
use crate::system::web::{Replaceable, WebRequest, WebResponse, WebRoutes, WebServer};

/// The maximum size of a secret file, in bytes.
const CAP: u64 = 64 << 10;
/// The maximum time that a caller waits for the response.
const PATIENCE: Duration = Duration::from_secs(8);

/// The HTTP listener, as configured.
#[derive(Debug)]
pub struct HttpListener {
    settings: config::WebhookSettings,
    secrets: Replaceable<WebhookSecrets>,
    server: Arc<WebServer>,
}

impl HttpListener {
    /// Opens the listener by `settings`, secret included; `None` where they have none. On the same address
    /// the server of `before` continues.
    ///
    /// # Errors
    /// When the secret cannot be used or the address cannot be bound. `before` is unchanged then.
    pub(super) fn open(
        settings: &Settings,
        before: Option<&Self>,
        sender: &SyncSender<ListenerEvent>,
    ) -> Result<Option<Self>> {
        let Some(settings) = &settings.webhook else { return Ok(None) };
        let read = secrets(settings)?;
        let (secrets, server) = match before.filter(|before| before.settings.bind == settings.bind)
        {
            Some(before) => {
                before.secrets.replace(read);
                (before.secrets.clone(), Arc::clone(&before.server))
            }
            None => {
                let secrets = Replaceable::new(read);
                let routes = WebRoutes::Hooks(secrets.clone());
                let server = WebServer::start(settings.bind, routes, asks(sender.clone()))?;
                tracing::info!("listening for web hooks on {}", server.address());
                (secrets, Arc::new(server))
            }
        };
        Ok(Some(Self { settings: settings.clone(), secrets, server }))
    }
}

/// Reads the secrets that sign web hooks.
///
/// # Errors
/// When they cannot be read, others can read them as well, or there is none.
pub fn secrets(settings: &config::WebhookSettings) -> Result<WebhookSecrets> {
    let file = &settings.secret_file;
    let unusable = || format!("the secret of web hooks, {}, cannot be used", file.display());
    let text = files::read_private(file, CAP).with_context(unusable)?;
    WebhookSecrets::new(&text).map_err(Error::msg).with_context(unusable)
}

/// A handler that lets the loop answer each request.
pub(super) fn asks(
    sender: SyncSender<ListenerEvent>,
) -> impl Fn(WebRequest) -> WebResponse + Send + Sync + 'static {
    move |call| {
        let (reply, answer) = mpsc::sync_channel(1);
        let answer = match sender.try_send(ListenerEvent::Called(call, reply)) {
            Ok(()) => answer.recv_timeout(PATIENCE).ok(),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| WebResponse::words(503, "the agent is busy; try again"))
    }
}

impl Listener {
    /// Answers a request, now or when the survey is done.
    pub(super) fn answer(&mut self, call: WebRequest, reply: SyncSender<WebResponse>) {
        let form = match call {
            WebRequest::Hook(verdict) => {
                return status_endpoint::send_response(&reply, self.hooked(verdict));
            }
            WebRequest::Health => {
                let last_tick = AgentState::at(&self.settings.world.state).last_tick();
                return status_endpoint::send_response(
                    &reply,
                    status_endpoint::health(last_tick, host::now()),
                );
            }
            WebRequest::Machine | WebRequest::Fleet => {
                let answer = WebResponse::words(404, "the page has an address of its own");
                return status_endpoint::send_response(&reply, answer);
            }
            WebRequest::Metrics => PageFormat::Metrics,
            WebRequest::Status => PageFormat::Json,
        };
        let figures = self.figures();
        if self.pages.ask(form, reply, &figures, since_boot()) {
            self.start_survey();
        }
    }

    /// Answers the requests that wait for the survey.
    pub(super) fn looked(&mut self, seen: Result<MachineStatus, String>) {
        let figures = self.figures();
        self.pages.looked(seen, &figures, since_boot());
    }

    /// Starts a survey of all repositories in a thread; it polls no remote.
    fn start_survey(&mut self) {
        tracing::debug!("reading the state of all repositories");
        let (settings, sender) = (self.settings.clone(), self.sender.clone());
        let survey = || tick::survey(&Context::new(settings, Host::current())?, &[]);
        let run = move || {
            let seen = catch_unwind(AssertUnwindSafe(survey));
            let seen = seen.unwrap_or_else(|_| {
                bail!("the agent panics while it reads the repositories, which is a bug")
            });
            // The send fails only when the receiver is gone.
            drop(sender.send(ListenerEvent::Looked(seen.map_err(|error| one_line(&error)))));
        };
        if let Err(error) = thread::Builder::new().name("status".to_owned()).spawn(run) {
            self.looked(Err(format!("no thread to read the state of all repositories: {error}")));
        }
    }

    /// The present counters.
    fn figures(&self) -> ListenerCounters {
        let mut figures = self.figures.clone();
        if let (Some(counted), Some(session)) = (&mut figures.session, &self.session) {
            *counted =
                BusSession { sent: session.sent(), dropped: session.dropped(), ..counted.clone() };
        }
        figures
    }

    fn hooked(&mut self, verdict: WebhookVerdict) -> WebResponse {
        if self.web.is_none() {
            return WebResponse::words(503, "web hooks are no longer accepted");
        }
        let (heard, answer) = match verdict {
            WebhookVerdict::News(news) => self.accept_push(&news),
            WebhookVerdict::Ping => {
                (HintOutcome::Other, WebResponse::words(200, "the signature matches secret_file"))
            }
            WebhookVerdict::UnsignedPing => {
                let text = "the connection works; this test is not signed, so the first push shows \
                            whether the secret matches";
                (HintOutcome::Other, WebResponse::words(200, text))
            }
            WebhookVerdict::Other(what) => {
                (HintOutcome::Other, WebResponse::words(202, format!("nothing to do: {what}")))
            }
            WebhookVerdict::Refused(refusal) => (HintOutcome::Refused, self.refuse(refusal)),
        };
        *self.figures.hooks.entry(heard).or_default() += 1;
        answer
    }

    fn refuse(&mut self, refusal: WebhookRefusal) -> WebResponse {
        if let Some(count) = self.refused.count(since_boot()) {
            tracing::warn!("web hooks that were refused: {count}; of the last, {refusal}");
        }
        WebResponse::words(refusal.status(), refusal.to_string())
    }

    /// Requests a tick of the pushed repository, and announces the push on the bus if configured.
    fn accept_push(&mut self, news: &PushNotification) -> (HintOutcome, WebResponse) {
        let [full, short] = news.names();
        let found = self.audience.hooked(full);
        if self.web.as_ref().is_some_and(|web| web.settings.announce) {
            let called = found.as_ref().map(|found| found.called.clone());
            self.publish_push(news, called.as_deref().unwrap_or(short));
        }
        let shown = full.escape_controls();
        let Some(HookedRepos { repos, .. }) = found else {
            self.count_unknown(full);
            let known = self.audience.known_to_hooks();
            let text =
                format!("no repository named \"{shown}\" listens to web hooks here; {known}");
            return (HintOutcome::Unknown, WebResponse::words(202, text));
        };
        let names = news.updates.iter().map(|update| &update.name).chain(&news.deleted);
        let names: Vec<&String> = names.collect();
        let concerned = |repo: &String| {
            let settings = self.settings.of_repo(repo);
            names.is_empty() || names.iter().any(|name| settings.may_follow(name))
        };
        let repos: Vec<String> = repos.into_iter().filter(concerned).collect();
        if repos.is_empty() {
            let text = format!("nothing to do: nothing here follows what was pushed to {shown}");
            return (HintOutcome::Other, WebResponse::words(202, text));
        }
        let local = repos.iter().map(|repo| repo.escape_controls()).collect::<Vec<_>>().join(", ");
        for repo in repos {
            self.command(Some(repo), TickCause::of_push(&news.deleted));
        }
        let text = format!("accepted: checking {shown}; {local} will be looked at at once");
        (HintOutcome::Known, WebResponse::words(202, text))
    }

    /// Announces the push on the bus, where the repository is called `repo`.
    fn publish_push(&self, news: &PushNotification, repo: &str) {
        let (Some(bus), Some(session)) = (&self.settings.bus, &self.session) else { return };
        let topic = &bus.announce_topic;
        let moved = news.updates.iter().filter(|update| update.old.or(update.new).is_some());
        let frame = |update| PushMessage { repo, update, user: &news.user, log: &[] }.frame(topic);
        let mut frames: Vec<StompFrame> = moved.map(frame).collect();
        if frames.is_empty() {
            frames.push(bare_news(topic, repo));
        }
        for frame in frames {
            session.send(frame);
        }
    }
}
