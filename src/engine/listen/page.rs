//! The page of `agent listen`: this machine, and the fleet where presence is configured. Answers requests without the
//! loop, which also answers metrics, health and status here. Does not know HTTP, nor how a page looks.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};

use super::ListenerEvent;
use super::http::asks;
use super::shared_look::SharedLook;
use crate::config::{PageSettings, PresenceSettings, Settings};
use crate::domain::fleet::{Fleet, FleetFilter};
use crate::domain::page::fleet::{FleetFailure, FleetPage};
use crate::domain::page::hosts::PageHosts;
use crate::domain::page::machine::MachinePage;
use crate::domain::page::{PageLinks, fleet as fleet_page, machine as machine_page};
use crate::domain::repository::history::HistoryEntry;
use crate::domain::repository::status::MachineStatus;
use crate::engine::context::Context;
use crate::engine::error::one_line;
use crate::engine::fleet::{self, FleetLook};
use crate::engine::machine::presence;
use crate::engine::{operator, tick};
use crate::system::host::{self, Host};
use crate::system::web::{Replaceable, WebRequest, WebResponse, WebRoutes, WebServer};

/// How long a survey of this machine is reused.
const MACHINE_FRESH: Duration = Duration::from_secs(1);
/// How long somebody waits for a survey of this machine.
const MACHINE_PATIENCE: Duration = Duration::from_secs(8);
/// How long a look at the fleet is reused: the status server is asked no more often.
const FLEET_FRESH: Duration = Duration::from_secs(60);
/// How long somebody waits for the status server, before the page shows what is known.
const FLEET_PATIENCE: Duration = Duration::from_secs(2);

/// The listener of the page, as configured.
#[derive(Debug)]
pub struct PageListener {
    bind: SocketAddr,
    hosts: Replaceable<PageHosts>,
    /// What the server uses.
    shown: Replaceable<Arc<PageViews>>,
    /// What it shall use from [`PageListener::take_effect`] on.
    next: Option<(PageSettings, Arc<PageViews>)>,
    server: Arc<WebServer>,
}

/// What the pages show, by one configuration.
#[derive(Debug)]
struct PageViews {
    settings: Arc<Settings>,
    machine: Arc<SharedLook<Result<MachineView, String>>>,
    fleet: Arc<SharedLook<FleetView>>,
}

/// This machine at a moment.
#[derive(Debug)]
struct MachineView {
    status: MachineStatus,
    histories: Vec<(String, Result<Vec<HistoryEntry>, String>)>,
}

/// What is known of the fleet.
#[derive(Debug)]
struct FleetView {
    /// What the last look that succeeded has found; `None`: none did.
    seen: Option<Arc<SeenFleet>>,
    /// Since when looks fail, and why the last one did.
    failure: Option<(DateTime<Utc>, String)>,
}

/// The fleet at a moment.
#[derive(Debug)]
struct SeenFleet {
    /// Judged at the moment of the look: no machine becomes silent because the server does not answer.
    fleet: Fleet,
    /// The number of other branches.
    others: usize,
}

impl PageListener {
    /// Opens the listener by `settings`; `None` where they have none. On the same address the server of `before`
    /// continues, and changes only with [`PageListener::take_effect`].
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(super) fn open(
        settings: &Settings,
        before: Option<&Self>,
        sender: &SyncSender<ListenerEvent>,
    ) -> Result<Option<Self>> {
        let Some(page) = &settings.page else { return Ok(None) };
        let views = Arc::new(PageViews::new(settings, before));
        if let Some(before) = before.filter(|before| before.bind == page.bind) {
            return Ok(Some(Self {
                bind: before.bind,
                hosts: before.hosts.clone(),
                shown: before.shown.clone(),
                next: Some((page.clone(), views)),
                server: Arc::clone(&before.server),
            }));
        }
        let (hosts, shown) = (Replaceable::new(page.hosts()), Replaceable::new(views));
        let (loop_answers, views) = (asks(sender.clone()), shown.clone());
        let answer = move |request| {
            let views = Arc::clone(&views.read());
            match request {
                WebRequest::Machine => views.machine(),
                WebRequest::Fleet => views.fleet(),
                request => loop_answers(request),
            }
        };
        let server = WebServer::start(page.bind, WebRoutes::Page(hosts.clone()), answer)?;
        tracing::info!("serving the page on http://{}/", server.address());
        let server = Arc::new(server);
        Ok(Some(Self { bind: page.bind, hosts, shown, next: None, server }))
    }

    /// Lets the server use the configuration with which this was opened.
    pub(super) fn take_effect(&mut self) {
        let Some((page, views)) = self.next.take() else { return };
        self.hosts.replace(page.hosts());
        self.shown.replace(views);
        tracing::debug!("the page continues on http://{}/", self.server.address());
    }
}

impl PageViews {
    fn new(settings: &Settings, before: Option<&PageListener>) -> Self {
        let before = before.map(|before| Arc::clone(&before.shown.read()));
        // Of another status repository nothing is known yet.
        let same = before.filter(|before| before.settings.presence == settings.presence);
        let fleet = same.map(|same| Arc::clone(&same.fleet));
        Self {
            settings: Arc::new(settings.clone()),
            machine: Arc::new(SharedLook::new(MACHINE_FRESH, MACHINE_PATIENCE)),
            fleet: fleet.unwrap_or_else(|| Arc::new(SharedLook::new(FLEET_FRESH, FLEET_PATIENCE))),
        }
    }

    fn links(&self) -> PageLinks {
        PageLinks { has_fleet: self.settings.presence.is_some() }
    }

    /// The page of this machine.
    fn machine(&self) -> WebResponse {
        let settings = Arc::clone(&self.settings);
        let look = move |_| MachineView::read(&settings).map_err(|error| one_line(&error));
        let Some(seen) = self.machine.get("page", look) else {
            return WebResponse::words(503, "the repositories are still being read; try again");
        };
        match seen.as_ref() {
            Ok(MachineView { status, histories }) => {
                let name = self.settings.node_name.as_deref().unwrap_or(&status.host);
                let (links, now) = (self.links(), host::now());
                let page = MachinePage { name, status, histories, links, now };
                WebResponse::html(machine_page::html(&page))
            }
            Err(why) => WebResponse::words(500, why),
        }
    }

    /// The page of the fleet.
    fn fleet(&self) -> WebResponse {
        let Some(presence) = &self.settings.presence else {
            let text = "there is no fleet: set url in [presence], see agent.toml(5)";
            return WebResponse::words(404, text);
        };
        let settings = Arc::clone(&self.settings);
        let view =
            self.fleet.get("fleet", move |before| FleetView::look(&settings, before.as_deref()));
        let now = host::now();
        let failure = match view.as_deref().map(|view| &view.failure) {
            Some(Some((since, why))) => Some(FleetFailure::Fails { since: *since, why }),
            Some(None) => None,
            None => Some(FleetFailure::NoAnswerYet),
        };
        let seen = view.as_deref().and_then(|view| view.seen.clone());
        let seen = seen.unwrap_or_else(|| Arc::new(self.kept(presence, now)));
        let page = FleetPage {
            fleet: &seen.fleet,
            remote: presence.remote.to_string(),
            others: seen.others,
            failure,
            links: Some(self.links()),
            now,
        };
        WebResponse::html(fleet_page::html(&page))
    }

    /// The fleet as an earlier process has seen it, at the moment of the newest publication.
    fn kept(&self, presence: &PresenceSettings, now: DateTime<Utc>) -> SeenFleet {
        let context = Context::bare(Settings::clone(&self.settings), Host::current());
        let members = fleet::kept(&context, &presence.remote);
        let newest = members.iter().map(|it| it.sighting.moved.unwrap_or(it.sighting.first_seen));
        let at = newest.max().unwrap_or(now).min(now);
        SeenFleet { fleet: Fleet::judged(members, &FleetFilter::default(), at), others: 0 }
    }
}

impl MachineView {
    fn read(settings: &Settings) -> Result<Self> {
        let context = Context::new(settings.clone(), Host::current())?;
        let status = tick::survey(&context, &[])?;
        let histories = operator::histories(&context, &[])?;
        Ok(Self { status, histories })
    }
}

impl FleetView {
    /// Looks; on failure with what was seen `before`.
    fn look(settings: &Settings, before: Option<&Self>) -> Self {
        let now = host::now();
        match Self::ask(settings, now) {
            Ok(FleetLook { members, others }) => {
                let fleet = Fleet::judged(members, &FleetFilter::default(), now);
                Self { seen: Some(Arc::new(SeenFleet { fleet, others })), failure: None }
            }
            Err(error) => {
                let why = one_line(&error);
                let since = before.and_then(|before| Some(before.failure.as_ref()?.0));
                let seen = before.and_then(|before| before.seen.clone());
                Self { seen, failure: Some((since.unwrap_or(now), why)) }
            }
        }
    }

    fn ask(settings: &Settings, now: DateTime<Utc>) -> Result<FleetLook> {
        let context = Context::new(settings.clone(), Host::current())?;
        let presence = context.settings.presence.as_ref().context("there is no [presence]")?;
        let status = presence::status_repository(&context, presence)?;
        fleet::look(&context, &status, &fleet::everyone(), now)
    }
}
