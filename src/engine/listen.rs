//! The agent as a service: bus, web hooks, a timer and signals -> debounced requests -> ticks. The loop
//! itself only notes and passes on. Every tick runs in its own thread, so that no long action delays
//! another repository, a heart-beat or the end. A message or hook decides only when a tick runs. Does not
//! know what is done with a finished tick.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use self::bus::SessionEvent;
use self::http::HttpListener;
use self::page::PageListener;
use self::report_publisher::ReportPublisher;
use self::status_endpoint::StatusEndpoint;
use self::subscriptions::{RateLimitedLog, Subscriptions};
use super::operator::action_reports::EndedRuns;
use super::tick::{self, TickReport};
use crate::config::Settings;
use crate::domain::bus::debounce::{self, Debouncer, PassOutcome};
use crate::domain::report::metrics::ListenerCounters;
use crate::domain::repository::action::{ProgressEvent, Trigger};
use crate::domain::repository::status::MachineStatus;
use crate::domain::text::EscapeControls;
use crate::engine::context::Context;
use crate::engine::discovery;
use crate::engine::error::{one_line, reason};
use crate::engine::request::{LockWait, ProgressSink, TickOptions, WorkerCommand};
use crate::system::host::{self, Host, since_boot};
use crate::system::remote::OpenConnections;
use crate::system::sd_notify::SdNotify;
use crate::system::signals::{self, SignalRequest};
use crate::system::stomp::session::StompSession;
use crate::system::web::{WebRequest, WebResponse};

pub mod announce;
mod bus;
pub mod http;
mod page;
mod report_publisher;
mod shared_look;
mod status_endpoint;
mod subscriptions;

/// The maximum of queued events. A bus that sends more at a time has to wait.
const WAITING: usize = 1024;
/// The maximum of deleted refs that are kept for a waiting tick; the others are found by repeated polls.
const MOST_DELETED: usize = 1000;

fn log_topics(settings: &Settings) {
    let context = Context::bare(settings.clone(), Host::current());
    let repositories = match discovery::repositories(&context).map_or(0, |all| all.len()) {
        1 => "1 repository".to_owned(),
        many => format!("{many} repositories"),
    };
    let brokers = settings.bus.iter().flat_map(|bus| &bus.brokers.list).map(ToString::to_string);
    let bus = brokers.collect::<Vec<_>>().join(", ");
    let bus = if bus.is_empty() { "none" } else { bus.as_str() };
    let root = settings.world.root.display().to_string();
    tracing::info!("{}: {repositories}, bus: {bus}; up", root.escape_controls());
}

/// The callback for each finished tick; ticks may finish at the same time.
pub type TickFinished = Arc<dyn Fn(&Context, &TickReport) + Send + Sync>;

/// Runs until a signal ends it. `load` reads the configuration, at the start and on each reload.
///
/// # Errors
/// When the first configuration cannot be used, or the system gives no thread.
pub fn listen(load: &dyn Fn() -> Result<Settings>, finish: TickFinished) -> Result<()> {
    let supervisor = SdNotify::of_ours()?;
    let (sender, news) = mpsc::sync_channel(WAITING);
    let signal_sender = sender.clone();
    // The send fails only when the receiver is gone, which is the end.
    signals::watch(move |asked| drop(signal_sender.send(ListenerEvent::Asked(asked))))?;
    let mut listener = Listener::new(load()?, sender, finish)?;
    supervisor.ready();
    log_topics(&listener.settings);
    let stay = stay(&mut listener, &news, &supervisor, load);
    supervisor.stopping();
    stay
}

fn stay(
    listener: &mut Listener,
    news: &Receiver<ListenerEvent>,
    supervisor: &SdNotify,
    load: &dyn Fn() -> Result<Settings>,
) -> Result<()> {
    let mut beat = supervisor.beat().map(|every| (every, since_boot()));
    loop {
        let now = since_boot();
        if let Some((every, at)) = &mut beat
            && *at <= now
        {
            supervisor.alive();
            *at = now + *every;
        }
        listener.begin(now);
        let next = beat.map_or(listener.next(), |(_, at)| at.min(listener.next()));
        match news.recv_timeout(next.saturating_sub(since_boot())) {
            Ok(ListenerEvent::Asked(SignalRequest::End)) => {
                tracing::info!("shutting down; running actions continue");
                return Ok(());
            }
            Ok(ListenerEvent::Asked(SignalRequest::Reload)) => listener.reload(load())?,
            Ok(news) => listener.handle_event(news),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// An event for the loop.
enum ListenerEvent {
    /// A signal came.
    Asked(SignalRequest),
    /// The bus session with this number reports.
    Bus(u64, SessionEvent),
    /// An HTTP request came; the sender takes the response.
    Called(WebRequest, SyncSender<WebResponse>),
    /// The survey of all repositories is done, for the waiting HTTP requests.
    Looked(Result<MachineStatus, String>),
    /// A worker reports progress.
    Said(ProgressEvent),
    /// A tick is over.
    Passed(TickRequest, TickResult),
    /// The records of ended actions, whichever process ran them.
    Acted(Vec<EndedRuns>),
}

/// The reason and the extent of one tick.
#[derive(Clone, Debug)]
enum TickRequest {
    /// All repositories, by the timer.
    Timer,
    /// A repository that a message or a web hook named; `None`: all, because the bus is back.
    Wake(Option<String>, TickCause),
}

/// The cause of a tick.
#[derive(Clone, Debug)]
struct TickCause {
    trigger: Trigger,
    /// The full names of refs whose deletion a signed web hook announced.
    deleted: BTreeSet<String>,
}

impl TickCause {
    /// A message on the bus, or its return.
    fn of_bus() -> Self {
        Self { trigger: Trigger::Bus, deleted: BTreeSet::new() }
    }

    /// A web hook that announces the deletion of these refs.
    fn of_push(deleted: &[String]) -> Self {
        Self { trigger: Trigger::Webhook, deleted: deleted.iter().cloned().collect() }
    }
}

/// The result of one tick.
struct TickResult {
    found: PassOutcome,
    /// The repositories that were evaluated.
    looked: Vec<String>,
    /// All repositories of the machine; `None`: they could not be listed.
    names: Option<Vec<String>>,
}

struct Listener {
    settings: Settings,
    machine_id: String,
    audience: Subscriptions,
    wakes: Debouncer<Option<String>>,
    /// The cause of each waiting request.
    causes: BTreeMap<Option<String>, TickCause>,
    /// The number of running ticks.
    running: usize,
    /// The timer's next tick, as time since boot.
    timer: Duration,
    unknown: RateLimitedLog,
    refused: RateLimitedLog,
    figures: ListenerCounters,
    web: Option<HttpListener>,
    page: Option<PageListener>,
    pages: StatusEndpoint,
    reporter: ReportPublisher,
    /// The reasons for a missing bus that were logged since it was there last.
    reasons: BTreeSet<String>,
    /// Dropping it ends the session.
    session: Option<StompSession>,
    /// The session's number; earlier sessions may still send events.
    session_number: u64,
    sender: SyncSender<ListenerEvent>,
    finish: TickFinished,
    /// What the ticks leave open, so that the poll for a message is one round trip.
    connections: OpenConnections,
}

impl Listener {
    fn new(
        settings: Settings,
        sender: SyncSender<ListenerEvent>,
        finish: TickFinished,
    ) -> Result<Self> {
        let context = Context::new(settings.clone(), Host::current())?;
        let mut listener = Self {
            timer: since_boot() + splay(&context),
            audience: Subscriptions::of(&context),
            web: HttpListener::open(&settings, None, &sender)?,
            page: PageListener::open(&settings, None, &sender)?,
            settings,
            machine_id: context.node.machine_id,
            wakes: Debouncer::default(),
            causes: BTreeMap::new(),
            running: 0,
            unknown: RateLimitedLog::default(),
            refused: RateLimitedLog::default(),
            figures: ListenerCounters::default(),
            pages: StatusEndpoint::default(),
            reporter: ReportPublisher::new(context.node.host, host::now()),
            reasons: BTreeSet::new(),
            session: None,
            session_number: 0,
            sender,
            finish,
            connections: OpenConnections::default(),
        };
        listener.connect()?;
        Ok(listener)
    }

    /// Applies the configuration as loaded now, unless it cannot be used.
    fn reload(&mut self, loaded: Result<Settings>) -> Result<()> {
        let usable = loaded.and_then(|settings| {
            let context = Context::new(settings, Host::current())?;
            let page = PageListener::open(&context.settings, self.page.as_ref(), &self.sender)?;
            // Last, because it replaces the secrets of a server that continues.
            let web = HttpListener::open(&context.settings, self.web.as_ref(), &self.sender)?;
            Ok((context, web, page))
        });
        match usable {
            Ok((context, web, page)) => {
                self.web = web;
                self.page = page;
                self.page.iter_mut().for_each(PageListener::take_effect);
                self.audience = Subscriptions::of(&context);
                // Soon, because it may contain something new; but a whole fleet may reload in one second.
                self.timer = self.timer.min(since_boot() + splay(&context));
                if self.report_topic().is_none() {
                    self.reporter = ReportPublisher::new(context.node.host, host::now());
                }
                self.settings = Arc::unwrap_or_clone(context.settings);
                tracing::info!("configuration reloaded");
                self.connect()
            }
            Err(error) => {
                let why = one_line(&error);
                tracing::error!("configuration not reloaded: {}", why.escape_controls());
                self.settings.rejected = Some(reason(&error));
                // A tick writes that into the status.
                self.timer = self.timer.min(since_boot());
                Ok(())
            }
        }
    }

    /// Starts the ticks that are due.
    fn begin(&mut self, now: Duration) {
        if self.timer <= now {
            let next = self.timer + self.settings.every;
            // This one tick makes up for all missed ones.
            self.timer = if next > now { next } else { now + self.settings.every };
            self.pass(TickRequest::Timer);
        }
        for what in self.wakes.begin(now) {
            let cause = self.causes.remove(&what).unwrap_or_else(TickCause::of_bus);
            self.pass(TickRequest::Wake(what, cause));
        }
    }

    fn next(&self) -> Duration {
        self.wakes.next().map_or(self.timer, |wake| wake.min(self.timer))
    }

    fn handle_event(&mut self, news: ListenerEvent) {
        match news {
            ListenerEvent::Asked(_) => {}
            ListenerEvent::Bus(number, said) => self.hear_session(number, said),
            ListenerEvent::Called(call, reply) => self.answer(call, reply),
            ListenerEvent::Looked(seen) => self.looked(seen),
            ListenerEvent::Said(word) => self.hear_of_work(word),
            ListenerEvent::Acted(actions) => {
                self.report(|reporter, session, topic| {
                    reporter.publish_runs(session, topic, &actions)
                });
            }
            ListenerEvent::Passed(pass, TickResult { found, looked, names }) => {
                if let TickRequest::Wake(what, _) = &pass {
                    self.wakes.ended(what, found, since_boot());
                }
                self.running -= 1;
                tracing::debug!(trigger = %pass.trigger(), "a tick is over");
                if self.running == 0 && self.wakes.next().is_none() {
                    tracing::debug!("nothing is due before the timer");
                }
                for name in looked {
                    *self.figures.looks.entry(name).or_default() += 1;
                }
                if let Some(names) = names {
                    self.audience.know(&self.settings, names);
                }
            }
        }
    }

    fn count_unknown(&mut self, name: &str) {
        if let Some(count) = self.unknown.count(since_boot()) {
            let name = name.escape_controls();
            tracing::info!(
                "messages about unknown repositories: {count}, the last about \"{name}\""
            );
        }
    }

    /// Requests a tick: after a message, which a whole fleet receives, with a wait that spreads the fleet's
    /// polls; after anything else now.
    fn command(&mut self, what: Option<String>, cause: TickCause) {
        let now = since_boot();
        let TickCause { trigger, deleted } = cause;
        // The first trigger counts, and every deletion up to the limit.
        let none = || TickCause { trigger, deleted: BTreeSet::new() };
        let waiting = self.causes.entry(what.clone()).or_insert_with(none);
        let room = MOST_DELETED.saturating_sub(waiting.deleted.len());
        waiting.deleted.extend(deleted.into_iter().take(room));
        if trigger != Trigger::Bus {
            return self.wakes.bring_forward(what, now);
        }
        let spread = self.settings.bus.as_ref().map_or(Duration::ZERO, |bus| bus.spread);
        let name = what.as_deref().unwrap_or_default();
        let wait = debounce::wait(spread, &self.machine_id, &self.reporter.host, name, now);
        let (repository, after_ms) = (name.escape_controls(), wait.as_millis());
        tracing::debug!(%repository, %trigger, after_ms, "a tick is requested");
        self.wakes.command(what, now + wait);
    }

    fn pass(&mut self, pass: TickRequest) {
        *self.figures.ticks.entry(pass.trigger()).or_default() += 1;
        self.running += 1;
        tracing::debug!(trigger = %pass.trigger(), "a tick begins");
        let (settings, sender, finish) =
            (self.settings.clone(), self.sender.clone(), Arc::clone(&self.finish));
        let (begun, connections) = (pass.clone(), self.connections.clone());
        let seen = self.reporter.seen();
        let run = move || {
            let reports = settings.bus.as_ref().is_some_and(|bus| bus.report_topic.is_some());
            // Both sends fail only when the receiver is gone.
            let said = |word| drop(sender.send(ListenerEvent::Said(word)));
            let done =
                catch_unwind(AssertUnwindSafe(|| perform(settings, &pass, &connections, &said)));
            let done = done.unwrap_or_else(|_| Err(anyhow!("it panicked, which is a bug")));
            let over = |passed| drop(sender.send(ListenerEvent::Passed(pass, passed)));
            let acted = |actions| drop(sender.send(ListenerEvent::Acted(actions)));
            match done {
                Ok((context, tick)) => {
                    over(TickResult::of(&tick));
                    if reports {
                        acted(seen.ended(&context, &tick));
                    }
                    finish(&context, &tick);
                }
                Err(error) => {
                    tracing::error!("a tick failed: {}", one_line(&error).escape_controls());
                    over(TickResult::NOTHING);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("tick".to_owned()).spawn(run) {
            tracing::error!(%error, "no thread for a tick; the next tick does its work");
            self.handle_event(ListenerEvent::Passed(begun, TickResult::NOTHING));
        }
    }
}

impl TickRequest {
    fn trigger(&self) -> Trigger {
        match self {
            Self::Timer => Trigger::Timer,
            Self::Wake(_, cause) => cause.trigger,
        }
    }
}

impl TickResult {
    const NOTHING: Self = Self { found: PassOutcome::Nothing, looked: Vec::new(), names: None };

    fn of(tick: &TickReport) -> Self {
        let work = tick.decisions.iter().any(|(_, plan)| plan.is_work());
        let rows = tick.status.repositories.iter();
        Self {
            found: if work { PassOutcome::Work } else { PassOutcome::Nothing },
            looked: tick.decisions.iter().map(|(name, _)| name.clone()).collect(),
            names: Some(rows.map(|row| row.name.clone()).collect()),
        }
    }
}

/// This machine's share of the `splay`.
fn splay(context: &Context) -> Duration {
    context.settings.splay.mul_f64(context.node.share())
}

/// Runs one tick as cron would, with the host's present facts.
fn perform(
    settings: Settings,
    pass: &TickRequest,
    connections: &OpenConnections,
    progress: &ProgressSink,
) -> Result<(Context, TickReport)> {
    let context = Context::new(settings, Host::current())
        .context("the node information cannot be used")?
        .sharing(connections);
    let (names, deleted) = match pass {
        TickRequest::Timer => (Vec::new(), Vec::new()),
        TickRequest::Wake(what, cause) => {
            (what.iter().cloned().collect(), cause.deleted.iter().cloned().collect())
        }
    };
    let trigger = pass.trigger();
    let options = TickOptions {
        names,
        trigger,
        dry_run: false,
        wait: LockWait::No,
        command: WorkerCommand::Follow,
        reason: None,
        overrides: false,
        deleted,
    };
    let tick = tick::tick(&context, &options, progress)?;
    Ok((context, tick))
}
