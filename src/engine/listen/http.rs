//! Web hooks and HTTP requests for status, metrics and health. A hook is a hint to run a tick, as a bus
//! message is; with `announce` it is also sent to the bus. A bus message is never sent there again. Does
//! not know HTTP itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Error, Result, bail};

use super::{Listener, ListenerEvent};
use crate::config::{self, Settings};
use crate::domain::bus::message::{PushMessage, bare_news};
use crate::domain::bus::stomp::StompFrame;
use crate::domain::bus::webhook::{self, RequestHeaders, WebhookSecret, WebhookVerdict};
use crate::domain::report::metrics::{BusSession, HintOutcome, ListenerCounters};
use crate::domain::repository::action::Trigger;
use crate::domain::repository::status::MachineStatus;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::listen::status_endpoint::{self, PageFormat};
use crate::engine::tick;
use crate::system::agent_state::AgentState;
use crate::system::files;
use crate::system::host::{self, Host, since_boot};
use crate::system::web::{WebRequest, WebResponse, WebServer};

/// The maximum size of a secret file, in bytes.
const CAP: u64 = 64 << 10;
/// The maximum time that a caller waits for the response.
const PATIENCE: Duration = Duration::from_secs(8);

/// The HTTP listener, as configured.
#[derive(Debug)]
pub struct HttpListener {
    settings: config::WebhookSettings,
    secret: WebhookSecret,
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
        let secret = secret(settings)?;
        let server = match before.filter(|before| before.settings.bind == settings.bind) {
            Some(before) => Arc::clone(&before.server),
            None => {
                let server = WebServer::start(settings.bind, asks(sender.clone()))?;
                tracing::info!("listening for web hooks on {}", server.address());
                Arc::new(server)
            }
        };
        Ok(Some(Self { settings: settings.clone(), secret, server }))
    }
}

/// Reads the secret that signs web hooks.
///
/// # Errors
/// When it cannot be read, others can read it as well, or it is empty.
pub fn secret(settings: &config::WebhookSettings) -> Result<WebhookSecret> {
    let file = &settings.secret_file;
    let unusable = || format!("the secret of web hooks, {}, cannot be used", file.display());
    let text = files::read_private(file, CAP).with_context(unusable)?;
    WebhookSecret::new(&text).map_err(Error::msg).with_context(unusable)
}

/// A handler that lets the loop answer each request.
fn asks(
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
            WebRequest::Hook { headers, body } => {
                return status_endpoint::send_response(&reply, self.hooked(&headers, &body));
            }
            WebRequest::Health => {
                let last_tick = AgentState::at(&self.settings.world.state).last_tick();
                return status_endpoint::send_response(
                    &reply,
                    status_endpoint::health(last_tick, host::now()),
                );
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

    fn hooked(&mut self, headers: &RequestHeaders, body: &[u8]) -> WebResponse {
        let Some(web) = &self.web else {
            return WebResponse::words(503, "web hooks are no longer accepted");
        };
        let (heard, answer) = match webhook::verify(headers, body, &web.secret) {
            WebhookVerdict::News(news) => self.accept_push(&news),
            WebhookVerdict::Ping => {
                (HintOutcome::Other, WebResponse::words(200, "the signature matches secret_file"))
            }
            WebhookVerdict::Other(what) => {
                (HintOutcome::Other, WebResponse::words(202, format!("nothing to do: {what}")))
            }
            WebhookVerdict::Refused(refusal) => {
                if let Some(count) = self.refused.count(since_boot()) {
                    tracing::warn!("web hooks that were refused: {count}; of the last, {refusal}");
                }
                (HintOutcome::Refused, WebResponse::words(refusal.status(), refusal.to_string()))
            }
        };
        *self.figures.hooks.entry(heard).or_default() += 1;
        answer
    }

    /// Requests a tick of the pushed repository, and announces the push on the bus if configured.
    fn accept_push(&mut self, news: &webhook::PushNotification) -> (HintOutcome, WebResponse) {
        let [full, short] = news.names();
        let called = |name: &&str| !self.audience.hooked(name).is_empty();
        let name = [full, short].into_iter().find(called);
        if self.web.as_ref().is_some_and(|web| web.settings.announce) {
            self.publish_push(news, name.unwrap_or(short));
        }
        let shown = full.escape_controls();
        let Some(name) = name else {
            self.count_unknown(full);
            let text = format!("no repository named \"{shown}\" listens to web hooks here");
            return (HintOutcome::Unknown, WebResponse::words(202, text));
        };
        for repo in self.audience.hooked(name) {
            self.command(Some(repo), Trigger::Webhook);
        }
        (HintOutcome::Known, WebResponse::words(202, format!("accepted: checking {shown}")))
    }

    /// Announces the push on the bus, where the repository is called `repo`.
    fn publish_push(&self, news: &webhook::PushNotification, repo: &str) {
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
