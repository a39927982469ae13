//! Web hooks, and those who ask over HTTP how it stands. A hook is a hint to look, as a message on the
//! bus is; with `announce` the bus is told of it. What came from the bus is never told there again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail};

use super::pages::{self, Form};
use super::{Listener, News};
use crate::config::{self, Settings};
use crate::domain::action::Trigger;
use crate::domain::bus::{Announcement, bare_news};
use crate::domain::metrics::{Figures, Heard, Session};
use crate::domain::status::Status;
use crate::domain::stomp::Frame;
use crate::domain::webhook::{self, Headers, Secret, Verdict};
use crate::engine::observe::one_line;
use crate::engine::{Here, tick};
use crate::system::files;
use crate::system::machine::Machine;
use crate::system::node::{self, Node, since_boot};
use crate::system::web::{Answer, Call, Server};

/// The most bytes that a file with a secret may have.
const CAP: u64 = 64 << 10;
/// How long whoever calls waits at most to be answered.
const PATIENCE: Duration = Duration::from_secs(8);

/// The listener over HTTP, as the settings have it.
#[derive(Debug)]
pub struct Web {
    settings: config::Webhook,
    secret: Secret,
    server: Arc<Server>,
}

impl Web {
    /// As `settings` have it now, secret included; `None` where they have none. On the same address the
    /// server of `before` goes on.
    ///
    /// # Errors
    /// When the secret cannot be used or the address not be had. `before` is as it was.
    pub(super) fn open(
        settings: &Settings,
        before: Option<&Self>,
        tell: &SyncSender<News>,
    ) -> Result<Option<Self>> {
        let Some(settings) = &settings.webhook else { return Ok(None) };
        let secret = secret(settings)?;
        let server = match before.filter(|before| before.settings.bind == settings.bind) {
            Some(before) => Arc::clone(&before.server),
            None => {
                let server = Server::start(settings.bind, asks(tell.clone()))?;
                tracing::info!("hears web hooks on {}", server.address());
                Arc::new(server)
            }
        };
        Ok(Some(Self { settings: settings.clone(), secret, server }))
    }
}

/// The secret that web hooks are signed with.
///
/// # Errors
/// When it cannot be read, others can read it as well, or there is nothing in it.
pub fn secret(settings: &config::Webhook) -> Result<Secret> {
    let file = &settings.secret_file;
    let told = || format!("the secret of web hooks, {}, cannot be used", file.display());
    let text = files::read_private(file, CAP).with_context(told)?;
    Secret::new(&text).map_err(Error::msg).with_context(told)
}

/// Has the loop answer each call.
fn asks(tell: SyncSender<News>) -> impl Fn(Call) -> Answer + Send + Sync + 'static {
    move |call| {
        let (reply, answer) = mpsc::sync_channel(1);
        let answer = match tell.try_send(News::Called(call, reply)) {
            Ok(()) => answer.recv_timeout(PATIENCE).ok(),
            Err(_) => None,
        };
        answer.unwrap_or_else(|| Answer::words(503, "the agent has too much to do; try again"))
    }
}

impl Listener {
    /// Answers whoever calls, now or once it was looked.
    pub(super) fn answer(&mut self, call: Call, reply: SyncSender<Answer>) {
        let form = match call {
            Call::Hook { headers, body } => {
                return pages::tell(&reply, self.hooked(&headers, &body));
            }
            Call::Health => {
                let last_tick = Machine::at(&self.settings.world.state).last_tick();
                return pages::tell(&reply, pages::health(last_tick, node::now()));
            }
            Call::Metrics => Form::Metrics,
            Call::Status => Form::Json,
        };
        let figures = self.figures();
        if self.pages.ask(form, reply, &figures, since_boot()) {
            self.look();
        }
    }

    /// It was looked for those who asked.
    pub(super) fn looked(&mut self, seen: Result<Status, String>) {
        let figures = self.figures();
        self.pages.looked(seen, &figures, since_boot());
    }

    /// Looks how everything stands, and asks no remote.
    fn look(&mut self) {
        tracing::debug!("it is looked how everything stands");
        let (settings, tell) = (self.settings.clone(), self.tell.clone());
        let survey = || tick::survey(&Here::new(settings, Node::here())?, &[]);
        let run = move || {
            let seen = catch_unwind(AssertUnwindSafe(survey));
            let seen =
                seen.unwrap_or_else(|_| bail!("looking makes the agent fail, which is a bug"));
            // It fails only when nobody listens any more.
            drop(tell.send(News::Looked(seen.map_err(|error| one_line(&error)))));
        };
        if let Err(error) = thread::Builder::new().name("status".to_owned()).spawn(run) {
            self.looked(Err(format!("no thread to look how everything stands: {error}")));
        }
    }

    /// What was counted, as it is now.
    fn figures(&self) -> Figures {
        let mut figures = self.figures.clone();
        if let (Some(told), Some(session)) = (&mut figures.session, &self.session) {
            *told = Session { sent: session.sent(), dropped: session.dropped(), ..told.clone() };
        }
        figures
    }

    fn hooked(&mut self, headers: &Headers, body: &[u8]) -> Answer {
        let Some(web) = &self.web else { return Answer::words(503, "web hooks are heard no more") };
        let (heard, answer) = match webhook::judge(headers, body, &web.secret) {
            Verdict::News(news) => self.heard(&news),
            Verdict::Ping => (Heard::Other, Answer::words(200, "the secret is right")),
            Verdict::Other(what) => {
                (Heard::Other, Answer::words(202, format!("nothing to do: {what}")))
            }
            Verdict::Refused(refusal) => {
                if let Some(count) = self.refused.count(since_boot()) {
                    tracing::warn!("web hooks that were refused: {count}; of the last, {refusal}");
                }
                (Heard::Refused, Answer::words(refusal.status(), refusal.to_string()))
            }
        };
        *self.figures.hooks.entry(heard).or_default() += 1;
        answer
    }

    /// A repository has news: it is looked at, and others are told if that is wanted.
    fn heard(&mut self, news: &webhook::News) -> (Heard, Answer) {
        let [full, short] = news.names();
        let called = |name: &&str| !self.audience.hooked(name).is_empty();
        let name = [full, short].into_iter().find(called);
        if self.web.as_ref().is_some_and(|web| web.settings.announce) {
            self.announce(news, name.unwrap_or(short));
        }
        let shown = full.escape_debug();
        let Some(name) = name else {
            self.count_unknown(full);
            let text = format!("no repository here is called \"{shown}\" and listens to web hooks");
            return (Heard::Unknown, Answer::words(202, text));
        };
        for repo in self.audience.hooked(name) {
            self.wish(Some(repo), Trigger::Webhook);
        }
        (Heard::Known, Answer::words(202, format!("\"{shown}\" will be looked at")))
    }

    /// Tells the bus, which calls the repository `repo`.
    fn announce(&self, news: &webhook::News, repo: &str) {
        let (Some(bus), Some(session)) = (&self.settings.bus, &self.session) else { return };
        let topic = &bus.announce_topic;
        let moved = news.updates.iter().filter(|update| update.old.or(update.new).is_some());
        let frame = |update| Announcement { repo, update, user: &news.user, log: &[] }.frame(topic);
        let mut frames: Vec<Frame> = moved.map(frame).collect();
        if frames.is_empty() {
            frames.push(bare_news(topic, repo));
        }
        for frame in frames {
            session.send(frame);
        }
    }
}
