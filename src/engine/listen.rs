//! Staying up: the bus, web hooks, a timer and signals -> coalesced wishes -> ticks. The loop itself only
//! notes and hands on; every tick runs in a thread of its own, so that no action, however long, holds up
//! another repository, a heart-beat or the end. What a message or a hook says decides when we look,
//! nothing else. Does not know what becomes of a finished tick.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use self::audience::{Audience, Tally};
use self::bus::Said;
use self::pages::Pages;
use self::reporter::{Ended, Reporter};
use self::web::Web;
use super::Here;
use super::observe::one_line;
use super::reconcile::Wish;
use super::roster;
use super::tick::{self, OnWord, Orders, Tick};
use crate::config::Settings;
use crate::domain::action::{Trigger, Word};
use crate::domain::metrics::Figures;
use crate::domain::status::Status;
use crate::domain::wake::{self, Found, Wakes};
use crate::system::node::{self, Node, since_boot};
use crate::system::signals::{self, Asked};
use crate::system::stomp::session::Session;
use crate::system::supervisor::Supervisor;
use crate::system::web::{Answer, Call};

mod audience;
mod bus;
mod pages;
mod reporter;
pub mod web;

/// How much news waits to be looked at. A bus that brings more at a time has to wait.
const WAITING: usize = 1024;

fn tell_what_is_listened_for(settings: &Settings) {
    let here = Here::bare(settings.clone(), Node::here());
    let repositories = match roster::repositories(&here).map_or(0, |all| all.len()) {
        1 => "1 repository".to_owned(),
        many => format!("{many} repositories"),
    };
    let brokers = settings.bus.iter().flat_map(|bus| &bus.brokers.list).map(ToString::to_string);
    let bus = brokers.collect::<Vec<_>>().join(", ");
    let bus = if bus.is_empty() { "none" } else { bus.as_str() };
    let root = settings.world.root.display().to_string();
    tracing::info!("{}: {repositories}, bus: {bus}; up", root.escape_debug());
}

/// What is done with each finished tick; ticks may finish at the same time.
pub type Finish = Arc<dyn Fn(&Here, &Tick) + Send + Sync>;

/// Stays up until a signal says otherwise. `load` reads the configuration, now and when it is asked for
/// again.
///
/// # Errors
/// When the configuration cannot be used at the start, or the system gives no thread.
pub fn listen(load: &dyn Fn() -> Result<Settings>, finish: Finish) -> Result<()> {
    let supervisor = Supervisor::of_ours()?;
    let (tell, news) = mpsc::sync_channel(WAITING);
    let teller = tell.clone();
    // It fails only when nobody listens any more, which is the end.
    signals::watch(move |asked| drop(teller.send(News::Asked(asked))))?;
    let mut listener = Listener::new(load()?, tell, finish)?;
    supervisor.ready();
    tell_what_is_listened_for(&listener.settings);
    let stay = stay(&mut listener, &news, &supervisor, load);
    supervisor.stopping();
    stay
}

fn stay(
    listener: &mut Listener,
    news: &Receiver<News>,
    supervisor: &Supervisor,
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
            Ok(News::Asked(Asked::End)) => {
                tracing::info!("ends; what runs goes on and records itself");
                return Ok(());
            }
            Ok(News::Asked(Asked::Reload)) => listener.reload(load())?,
            Ok(news) => listener.hear(news),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// What the loop is told.
enum News {
    /// By the system.
    Asked(Asked),
    /// By the session with this number.
    Bus(u64, Said),
    /// Somebody calls over HTTP, and is to be answered there.
    Called(Call, SyncSender<Answer>),
    /// It was looked how everything stands, for those who asked.
    Looked(Result<Status, String>),
    /// Somebody who works says so.
    Said(Word),
    /// A pass is over.
    Passed(Pass, Passed),
    /// What is recorded of actions that ended, whoever began them.
    Acted(Vec<Ended>),
}

/// One tick: why, and of what.
#[derive(Clone, Debug)]
enum Pass {
    /// Everything: it is time.
    Timer,
    /// A repository that a message or a web hook named, or everything, because the bus is back.
    Wake(Option<String>, Trigger),
}

/// What came of it.
struct Passed {
    found: Found,
    /// The repositories that were looked at.
    looked: Vec<String>,
    /// All repositories that there are; `None`: it could not be found out.
    names: Option<Vec<String>>,
}

struct Listener {
    settings: Settings,
    machine_id: String,
    audience: Audience,
    wakes: Wakes<Option<String>>,
    /// Who wished first for what is due.
    causes: BTreeMap<Option<String>, Trigger>,
    /// How many ticks of ours run.
    running: usize,
    /// When the timer calls next, since boot.
    timer: Duration,
    unknown: Tally,
    refused: Tally,
    figures: Figures,
    web: Option<Web>,
    pages: Pages,
    reporter: Reporter,
    /// Why there was no bus, since there was one.
    reasons: BTreeSet<String>,
    /// Ends when it is replaced.
    session: Option<Session>,
    /// Which one it is: those before it may still have something to say.
    session_number: u64,
    tell: SyncSender<News>,
    finish: Finish,
}

impl Listener {
    fn new(settings: Settings, tell: SyncSender<News>, finish: Finish) -> Result<Self> {
        let here = Here::new(settings.clone(), Node::here())?;
        let mut listener = Self {
            timer: since_boot() + splay(&here),
            audience: Audience::of(&here),
            web: Web::open(&settings, None, &tell)?,
            settings,
            machine_id: here.node.machine_id,
            wakes: Wakes::default(),
            causes: BTreeMap::new(),
            running: 0,
            unknown: Tally::default(),
            refused: Tally::default(),
            figures: Figures::default(),
            pages: Pages::default(),
            reporter: Reporter::new(here.node.host, node::now()),
            reasons: BTreeSet::new(),
            session: None,
            session_number: 0,
            tell,
            finish,
        };
        listener.connect()?;
        Ok(listener)
    }

    /// Takes the configuration as it is now, unless it cannot be used.
    fn reload(&mut self, loaded: Result<Settings>) -> Result<()> {
        let usable = loaded.and_then(|settings| {
            let web = Web::open(&settings, self.web.as_ref(), &self.tell)?;
            Ok((Here::new(settings, Node::here())?, web))
        });
        match usable {
            Ok((here, web)) => {
                self.web = web;
                self.audience = Audience::of(&here);
                // Soon, for something may be new in it; but a whole fleet may read it in one second.
                self.timer = self.timer.min(since_boot() + splay(&here));
                if self.report_topic().is_none() {
                    self.reporter = Reporter::new(here.node.host, node::now());
                }
                self.settings = here.settings;
                tracing::info!("the configuration was read anew");
                self.connect()
            }
            Err(error) => {
                let why = one_line(&error);
                tracing::error!("the configuration stays as it was: {}", why.escape_debug());
                Ok(())
            }
        }
    }

    /// Begins what is due.
    fn begin(&mut self, now: Duration) {
        if self.timer <= now {
            let next = self.timer + self.settings.every;
            // What was missed is made up for by this one tick.
            self.timer = if next > now { next } else { now + self.settings.every };
            self.pass(Pass::Timer);
        }
        for what in self.wakes.begin(now) {
            let trigger = self.causes.remove(&what).unwrap_or(Trigger::Bus);
            self.pass(Pass::Wake(what, trigger));
        }
    }

    fn next(&self) -> Duration {
        self.wakes.next().map_or(self.timer, |wake| wake.min(self.timer))
    }

    fn hear(&mut self, news: News) {
        match news {
            News::Asked(_) => {}
            News::Bus(number, said) => self.hear_session(number, said),
            News::Called(call, reply) => self.answer(call, reply),
            News::Looked(seen) => self.looked(seen),
            News::Said(word) => self.hear_of_work(word),
            News::Acted(actions) => {
                self.report(|reporter, session, topic| reporter.tell(session, topic, &actions));
            }
            News::Passed(pass, Passed { found, looked, names }) => {
                if let Pass::Wake(what, _) = &pass {
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
            let name = name.escape_debug();
            tracing::info!(
                "messages about no repository of ours: {count}, the last about \"{name}\""
            );
        }
    }

    /// A pass is wanted: after a message, which a fleet hears, after the wait that keeps it from asking
    /// all at once; after anything else now.
    fn wish(&mut self, what: Option<String>, trigger: Trigger) {
        let now = since_boot();
        self.causes.entry(what.clone()).or_insert(trigger);
        if trigger != Trigger::Bus {
            return self.wakes.hasten(what, now);
        }
        let spread = self.settings.bus.as_ref().map_or(Duration::ZERO, |bus| bus.spread);
        let name = what.as_deref().unwrap_or_default();
        let wait = wake::wait(spread, &self.machine_id, &self.reporter.host, name, now);
        let (repository, after_ms) = (name.escape_debug(), wait.as_millis());
        tracing::debug!(%repository, %trigger, after_ms, "a tick is wished for");
        self.wakes.wish(what, now + wait);
    }

    fn pass(&mut self, pass: Pass) {
        *self.figures.ticks.entry(pass.trigger()).or_default() += 1;
        self.running += 1;
        tracing::debug!(trigger = %pass.trigger(), "a tick begins");
        let (settings, tell, finish) =
            (self.settings.clone(), self.tell.clone(), Arc::clone(&self.finish));
        let begun = pass.clone();
        let seen = self.reporter.seen();
        let run = move || {
            let reports = settings.bus.as_ref().is_some_and(|bus| bus.report_topic.is_some());
            // Both fail only when nobody listens any more.
            let said = |word| drop(tell.send(News::Said(word)));
            let done = catch_unwind(AssertUnwindSafe(|| perform(settings, &pass, &said)));
            let done = done.unwrap_or_else(|_| Err(anyhow!("it panicked, which is a bug")));
            let over = |passed| drop(tell.send(News::Passed(pass, passed)));
            let acted = |actions| drop(tell.send(News::Acted(actions)));
            match done {
                Ok((here, tick)) => {
                    over(Passed::of(&tick));
                    if reports {
                        acted(seen.ended(&here, &tick));
                    }
                    finish(&here, &tick);
                }
                Err(error) => {
                    tracing::error!("a tick failed: {}", one_line(&error).escape_debug());
                    over(Passed::NOTHING);
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("tick".to_owned()).spawn(run) {
            tracing::error!(%error, "no thread for a tick; the next one makes up for it");
            self.hear(News::Passed(begun, Passed::NOTHING));
        }
    }
}

impl Pass {
    fn trigger(&self) -> Trigger {
        match self {
            Self::Timer => Trigger::Timer,
            Self::Wake(_, trigger) => *trigger,
        }
    }
}

impl Passed {
    const NOTHING: Self = Self { found: Found::Nothing, looked: Vec::new(), names: None };

    fn of(tick: &Tick) -> Self {
        let work = tick.decisions.iter().any(|(_, plan)| plan.is_work());
        let rows = tick.status.repositories.iter();
        Self {
            found: if work { Found::Work } else { Found::Nothing },
            looked: tick.decisions.iter().map(|(name, _)| name.clone()).collect(),
            names: Some(rows.map(|row| row.name.clone()).collect()),
        }
    }
}

/// This machine's own part of the `splay`.
fn splay(here: &Here) -> Duration {
    here.settings.splay.mul_f64(here.node.share())
}

/// One tick, as cron would have it: with what the machine says of itself now.
fn perform(settings: Settings, pass: &Pass, on_word: &OnWord) -> Result<(Here, Tick)> {
    let here = Here::new(settings, Node::here()).context("the node information cannot be used")?;
    let names = match pass {
        Pass::Timer => Vec::new(),
        Pass::Wake(what, _) => what.iter().cloned().collect(),
    };
    let trigger = pass.trigger();
    let orders = Orders { names, trigger, dry_run: false, wait: false, wish: Wish::Follow };
    let tick = tick::tick(&here, &orders, on_word)?;
    Ok((here, tick))
}
