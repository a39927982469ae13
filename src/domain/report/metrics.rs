//! The status as Prometheus text (exposition format 0.0.4), for `metrics_file` with node_exporter's
//! textfile collector, and for scrapes of a resident agent, which adds its counters. Knows no file and
//! no connection.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write as _};

use chrono::{DateTime, Utc};

use crate::domain::git::Commit;
use crate::domain::repository::action::{Outcome, Trigger};
use crate::domain::repository::state::State;
use crate::domain::repository::status::MachineStatus;

/// The counters of a resident agent since its start.
#[derive(Clone, Debug, Default)]
pub struct ListenerCounters {
    /// Ticks, by trigger.
    pub ticks: BTreeMap<Trigger, u64>,
    /// Evaluations, by repository.
    pub looks: BTreeMap<String, u64>,
    /// Polls, by repository and outcome.
    pub polls: BTreeMap<(String, PollOutcome), u64>,
    /// Bytes of polls and fetches, by repository.
    pub bytes: BTreeMap<String, u64>,
    /// Web hooks, by outcome.
    pub hooks: BTreeMap<HintOutcome, u64>,
    /// Bus messages, by outcome.
    pub messages: BTreeMap<HintOutcome, u64>,
    /// The bus connection; `None`: no bus is configured.
    pub session: Option<BusSession>,
}

/// The outcome of a hint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HintOutcome {
    /// The hint names a repository of this machine.
    Known,
    /// The hint names a repository that is not on this machine, or none.
    Unknown,
    /// The hint is about something other than a push.
    Other,
    /// The hint was refused.
    Refused,
}

impl Display for HintOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Known => "known",
            Self::Unknown => "unknown",
            Self::Other => "other",
            Self::Refused => "refused",
        })
    }
}

/// The outcome of polling the remotes of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PollOutcome {
    /// A remote answered.
    Yes,
    /// No remote answered.
    No,
}

impl PollOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "answered",
            Self::No => "failed",
        }
    }
}

/// The connection to the bus.
#[derive(Clone, Debug)]
pub struct BusSession {
    /// The connected broker; `None`: not connected.
    pub broker: Option<String>,
    /// When it was connected or disconnected.
    pub since: DateTime<Utc>,
    /// The number of sent messages.
    pub sent: u64,
    /// The number of messages that could not be sent.
    pub dropped: u64,
}

/// The whole metrics file; every line has a line end.
pub fn text(status: &MachineStatus) -> String {
    let mut page = MetricsText::default();
    page.family("pmpy_build_info", "The version of the agent that wrote this; always 1.");
    page.sample(&[("version", &status.agent)], 1);

    page.family(
        "pmpy_healthy",
        "1 when ticks happen, there is a repository and none needs attention.",
    );
    page.sample(&[], u8::from(status.healthy));

    page.family("pmpy_configuration_usable", "0 when no tick uses the configuration: it is wrong.");
    page.sample(&[], u8::from(status.configuration.is_none()));

    page.family("pmpy_node_info", "What this machine is; always 1.");
    let (part, stack) = (status.part.as_deref(), status.stack.as_deref());
    let labels = [
        ("name", status.host.as_str()),
        ("part", part.unwrap_or_default()),
        ("stack", stack.unwrap_or_default()),
    ];
    page.sample(&labels, 1);

    page.family("pmpy_last_tick_timestamp_seconds", "When the last tick ended.");
    if let Some(last) = status.last_tick {
        page.sample(&[], last.timestamp());
    }

    if let Some(presence) = &status.presence {
        page.family(
            "pmpy_presence_last_success_timestamp_seconds",
            "When the status was last published.",
        );
        if let Some(published) = presence.published {
            page.sample(&[], published.timestamp());
        }
    }

    page.family("pmpy_repository_state", "1 for the state that the repository is in, else 0.");
    for row in &status.repositories {
        for state in State::ALL {
            let labels = [("repository", row.name.as_str()), ("state", state.as_str())];
            page.sample(&labels, u8::from(row.state == state));
        }
    }

    page.family(
        "pmpy_repository_info",
        "The revision that is checked out, that upstream has and that was applied last; always 1.",
    );
    for row in &status.repositories {
        let written = |id: Option<Commit>| id.map_or_else(String::new, |id| id.to_string());
        let (head, upstream) = (written(row.head), written(row.upstream));
        let acted = written(row.acted.as_ref().map(|acted| acted.revision));
        let labels = [
            ("repository", row.name.as_str()),
            ("branch", row.branch.as_deref().unwrap_or_default()),
            ("head", &head),
            ("upstream", &upstream),
            ("acted", &acted),
        ];
        page.sample(&labels, 1);
    }

    page.family(
        "pmpy_hold_end_timestamp_seconds",
        "When the last hold ends; none is written without a hold, or where a person has to lift one.",
    );
    for row in &status.repositories {
        let ends: Option<Vec<_>> = row.holds.iter().map(|hold| hold.until).collect();
        if let Some(last) = ends.and_then(|ends| ends.into_iter().max()) {
            page.sample(&[("repository", &row.name)], last.timestamp());
        }
    }

    page.family(
        "pmpy_last_success_timestamp_seconds",
        "When a revision was last applied with success.",
    );
    for row in &status.repositories {
        if let Some(at) = row.acted.as_ref().and_then(|acted| acted.at) {
            page.sample(&[("repository", &row.name)], at.timestamp());
        }
    }

    page.family(
        "pmpy_tag_info",
        "1 for the tag that was applied last, where the newest tag is followed.",
    );
    for row in &status.repositories {
        if let Some(tag) = row.acted.as_ref().and_then(|acted| acted.tag.as_deref()) {
            page.sample(&[("repository", &row.name), ("tag", tag)], 1);
        }
    }

    page.family(
        "pmpy_bad_revision_info",
        "1 for each revision that turned out bad here and is not applied again; of several refs with its ref.",
    );
    for row in &status.repositories {
        let of_refs = row.published.iter().filter_map(|it| Some((it.name.as_str(), it.bad?)));
        let of_refs: Vec<_> = of_refs.collect();
        let of_row = row.bad.map(|bad| ("", bad)).filter(|_| of_refs.is_empty());
        for (name, bad) in of_refs.into_iter().chain(of_row) {
            let revision = bad.to_string();
            page.sample(&[("repository", &row.name), ("ref", name), ("revision", &revision)], 1);
        }
    }

    page.family("pmpy_attempt", "Which attempt failed last; 0 when none did.");
    for row in &status.repositories {
        page.sample(&[("repository", &row.name)], row.attempt);
    }

    page.family(
        "pmpy_drifted_files",
        "Files that differ from the applied revision; none is written before the first comparison.",
    );
    for row in &status.repositories {
        if let Some(drifted) = &row.drifted {
            page.sample(&[("repository", &row.name)], drifted.files);
        }
    }

    page.family("pmpy_action_seconds", "How long the last successful action took.");
    for row in &status.repositories {
        if let Some(seconds) = row.acted.as_ref().and_then(|acted| acted.seconds) {
            page.sample(&[("repository", &row.name)], seconds);
        }
    }

    page.counter("pmpy_actions_total", "Actions since the first one here, by outcome.");
    for row in status.repositories.iter().filter(|row| !row.actions.is_empty()) {
        // The words are ours: the row may be another user's.
        for word in Outcome::WORDS {
            let count = row.actions.get(word).copied().unwrap_or_default();
            page.sample(&[("repository", &row.name), ("outcome", word)], count);
        }
    }

    let asked = || {
        let rows = status.repositories.iter();
        rows.filter_map(|row| Some((row.name.as_str(), &row.asked.as_ref()?.way)))
    };
    page.family("pmpy_poll_bytes", "Bytes of the last measured poll.");
    for (name, way) in asked() {
        page.sample(&[("repository", name)], way.bytes);
    }
    page.family("pmpy_poll_seconds", "Duration of the last measured poll.");
    for (name, way) in asked() {
        page.sample(&[("repository", name)], way.milliseconds as f64 / 1000.0);
    }
    page.text
}

/// The metrics that a resident agent adds to [`text`].
pub fn staying(figures: &ListenerCounters) -> String {
    let mut page = MetricsText::default();
    page.counter("pmpy_ticks_total", "Ticks of agent listen, by trigger.");
    for (trigger, count) in &figures.ticks {
        page.sample(&[("trigger", trigger.as_str())], count);
    }
    page.counter("pmpy_looks_total", "How often it checked a repository.");
    for (name, count) in &figures.looks {
        page.sample(&[("repository", name)], count);
    }
    page.counter("pmpy_polls_total", "Polls, by whether a remote answered.");
    for ((name, answered), count) in &figures.polls {
        page.sample(&[("repository", name), ("result", answered.as_str())], count);
    }
    page.counter("pmpy_bytes_total", "Bytes of its polls and of fetched packs.");
    for (name, bytes) in &figures.bytes {
        page.sample(&[("repository", name)], bytes);
    }
    page.counter("pmpy_hooks_total", "Web hooks, by result.");
    for (heard, count) in &figures.hooks {
        page.sample(&[("result", &heard.to_string())], count);
    }
    page.counter("pmpy_messages_total", "Messages on the bus, by result.");
    for (heard, count) in &figures.messages {
        page.sample(&[("result", &heard.to_string())], count);
    }
    let Some(session) = &figures.session else { return page.text };
    page.family("pmpy_bus_up", "1 when it is connected to a broker.");
    page.sample(&[], u8::from(session.broker.is_some()));
    page.family("pmpy_bus_broker_info", "The broker that it is connected to; always 1.");
    if let Some(broker) = &session.broker {
        page.sample(&[("broker", broker)], 1);
    }
    page.family("pmpy_bus_since_timestamp_seconds", "When it connected, or lost the connection.");
    page.sample(&[], session.since.timestamp());
    page.counter("pmpy_bus_sent_total", "Messages that it sent.");
    page.sample(&[], session.sent);
    page.counter("pmpy_bus_dropped_total", "Messages that it could not send.");
    page.sample(&[], session.dropped);
    page.text
}

/// The metrics text under construction.
#[derive(Default)]
struct MetricsText {
    text: String,
    family: &'static str,
}

impl MetricsText {
    /// Begins a gauge.
    fn family(&mut self, name: &'static str, help: &str) {
        self.write_header(name, help, "gauge");
    }

    /// Begins a counter.
    fn counter(&mut self, name: &'static str, help: &str) {
        self.write_header(name, help, "counter");
    }

    fn write_header(&mut self, name: &'static str, help: &str, kind: &str) {
        self.family = name;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.family);
    }
}

/// A label value, escaped by the rules of the format: only these three characters.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use crate::domain::report::metrics::*;
    use crate::domain::repository::hold::Hold;
    use crate::domain::repository::status::{LastDeployed, StatusRow};

    fn status() -> MachineStatus {
        let ends = "2026-11-22T10:00:00Z".parse().unwrap();
        let row = StatusRow {
            acted: Some(LastDeployed {
                tag: Some("v1.10".into()),
                revision: "ab".repeat(20).parse().unwrap(),
                signer: None,
                subject: None,
                at: Some("2026-11-22T08:00:00Z".parse().unwrap()),
                trigger: None,
                outcome: None,
                seconds: Some(0.8),
            }),
            actions: BTreeMap::from([("failed".into(), 7), ("\"} 1\nx".into(), 9)]),
            attempt: 3,
            branch: Some("main".into()),
            holds: vec![Hold { until: Some(ends), ..Hold::default() }],
            ..StatusRow::bare("spog", State::Failing, "2026-11-22T09:00:00Z".parse().unwrap())
        };
        let odd = StatusRow { name: "a\"b\\c\nd".into(), acted: None, attempt: 0, ..row.clone() };
        MachineStatus {
            agent: "0.1.0".into(),
            host: "web01".into(),
            part: None,
            stack: None,
            root: "/root/gitrepo".into(),
            at: "2026-11-22T09:00:00Z".parse().unwrap(),
            last_tick: Some("2026-11-22T08:59:31Z".parse().unwrap()),
            healthy: false,
            configuration: None,
            presence: None,
            repositories: vec![odd, row],
        }
    }

    #[test]
    fn every_metric_is_there_with_its_value() {
        let text = text(&status());
        for line in [
            "pmpy_build_info{version=\"0.1.0\"} 1",
            "pmpy_healthy 0",
            "pmpy_configuration_usable 1",
            "pmpy_node_info{name=\"web01\",part=\"\",stack=\"\"} 1",
            "pmpy_hold_end_timestamp_seconds{repository=\"spog\"} 1795341600",
            "pmpy_last_tick_timestamp_seconds 1795337971",
            "pmpy_repository_state{repository=\"spog\",state=\"failing\"} 1",
            "pmpy_repository_state{repository=\"spog\",state=\"current\"} 0",
            "pmpy_last_success_timestamp_seconds{repository=\"spog\"} 1795334400",
            concat!(
                "pmpy_repository_info{repository=\"spog\",branch=\"main\",head=\"\",upstream=\"\",",
                "acted=\"abababababababababababababababababababab\"} 1"
            ),
            "pmpy_tag_info{repository=\"spog\",tag=\"v1.10\"} 1",
            "pmpy_attempt{repository=\"spog\"} 3",
            "pmpy_actions_total{repository=\"spog\",outcome=\"failed\"} 7",
            "pmpy_actions_total{repository=\"spog\",outcome=\"succeeded\"} 0",
            "pmpy_action_seconds{repository=\"spog\"} 0.8",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }

    fn figures() -> ListenerCounters {
        ListenerCounters {
            ticks: BTreeMap::from([(Trigger::Timer, 3), (Trigger::Webhook, 1)]),
            looks: BTreeMap::from([("spog".to_owned(), 4)]),
            polls: BTreeMap::from([
                (("spog".to_owned(), PollOutcome::Yes), 3),
                (("spog".to_owned(), PollOutcome::No), 1),
            ]),
            bytes: BTreeMap::from([("spog".to_owned(), 8)]),
            hooks: BTreeMap::from([(HintOutcome::Known, 1), (HintOutcome::Refused, 2)]),
            messages: BTreeMap::new(),
            session: Some(BusSession {
                broker: Some("stomps://amq1:61614".to_owned()),
                since: "2026-11-22T08:00:00Z".parse().unwrap(),
                sent: 5,
                dropped: 6,
            }),
        }
    }

    #[test]
    fn what_an_agent_that_stays_up_has_counted_is_added() {
        let text = staying(&figures());
        for line in [
            "pmpy_ticks_total{trigger=\"timer\"} 3",
            "pmpy_looks_total{repository=\"spog\"} 4",
            "pmpy_polls_total{repository=\"spog\",result=\"answered\"} 3",
            "pmpy_polls_total{repository=\"spog\",result=\"failed\"} 1",
            "pmpy_bytes_total{repository=\"spog\"} 8",
            "pmpy_hooks_total{result=\"refused\"} 2",
            "pmpy_bus_up 1",
            "pmpy_bus_broker_info{broker=\"stomps://amq1:61614\"} 1",
            "pmpy_bus_since_timestamp_seconds 1795334400",
            "pmpy_bus_sent_total 5",
            "pmpy_bus_dropped_total 6",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        assert!(!staying(&ListenerCounters::default()).contains("pmpy_bus"));
    }

    #[test]
    fn each_family_is_announced_once_and_its_samples_follow_it() {
        let text = text(&status()) + &staying(&figures());
        let mut family = "";
        let mut announced = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let kind;
                (family, kind) = rest.split_once(' ').unwrap();
                assert_eq!(kind == "counter", family.ends_with("_total"), "{line}");
                assert!(!announced.contains(&family), "{family} twice");
                announced.push(family);
            } else if !line.starts_with('#') {
                let name = line.split(['{', ' ']).next().unwrap();
                assert_eq!(name, family);
            }
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_repository_is_in_exactly_one_state() {
        let text = text(&status());
        let ones = text
            .lines()
            .filter(|line| line.starts_with("pmpy_repository_state") && line.ends_with(" 1"));
        assert_eq!(ones.count(), 2);
    }

    #[test]
    fn odd_names_cannot_break_out_of_their_label() {
        assert!(text(&status()).contains("pmpy_attempt{repository=\"a\\\"b\\\\c\\nd\"} 0\n"));
    }
}
