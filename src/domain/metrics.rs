//! A status as Prometheus text (exposition format 0.0.4), for `metrics_file` and node_exporter's
//! textfile collector. Knows no file; counts nothing that the status does not say.

use std::fmt::Write as _;

use super::status::{State, Status};

/// The whole file, every line ended.
pub fn text(status: &Status) -> String {
    let mut page = Page::default();
    page.family("pmpy_build_info", "The version of the agent that wrote this; always 1.");
    page.sample(&[("version", &status.agent)], 1);

    page.family(
        "pmpy_healthy",
        "1 when ticks happen, there is a repository and none needs attention.",
    );
    page.sample(&[], u8::from(status.healthy));

    page.family("pmpy_last_tick_timestamp_seconds", "When the last tick ended.");
    if let Some(last) = status.last_tick {
        page.sample(&[], last.timestamp());
    }

    page.family("pmpy_repository_state", "1 for the state that the repository is in, else 0.");
    for row in &status.repositories {
        for state in State::ALL {
            let labels = [("repository", row.name.as_str()), ("state", state.as_str())];
            page.sample(&labels, u8::from(row.state == state));
        }
    }

    page.family(
        "pmpy_last_success_timestamp_seconds",
        "When a revision was last acted upon with success.",
    );
    for row in &status.repositories {
        if let Some(at) = row.acted.as_ref().and_then(|acted| acted.at) {
            page.sample(&[("repository", &row.name)], at.timestamp());
        }
    }

    page.family("pmpy_attempt", "Which attempt failed last; 0 when none did.");
    for row in &status.repositories {
        page.sample(&[("repository", &row.name)], row.attempt);
    }

    page.family("pmpy_action_seconds", "How long the last successful action took.");
    for row in &status.repositories {
        if let Some(seconds) = row.acted.as_ref().and_then(|acted| acted.seconds) {
            page.sample(&[("repository", &row.name)], seconds);
        }
    }
    page.text
}

/// Text in the making. Every metric here is a gauge.
#[derive(Default)]
struct Page {
    text: String,
    family: &'static str,
}

impl Page {
    fn family(&mut self, name: &'static str, help: &str) {
        self.family = name;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = match labels.as_slice() {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "{}{labels} {value}", self.family);
    }
}

/// A label's value by the rules of the format: only these three are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::status::{Acted, Row};

    fn status() -> Status {
        let row = Row {
            acted: Some(Acted {
                revision: "ab".repeat(20).parse().unwrap(),
                subject: None,
                at: Some("2026-11-22T08:00:00Z".parse().unwrap()),
                trigger: None,
                outcome: None,
                seconds: Some(0.8),
            }),
            attempt: 3,
            ..Row::bare("spog", State::Failing, "2026-11-22T09:00:00Z".parse().unwrap())
        };
        let odd = Row { name: "a\"b\\c\nd".into(), acted: None, attempt: 0, ..row.clone() };
        Status {
            agent: "0.1.0".into(),
            host: "web01".into(),
            part: None,
            stack: None,
            root: "/root/gitrepo".into(),
            at: "2026-11-22T09:00:00Z".parse().unwrap(),
            last_tick: Some("2026-11-22T08:59:31Z".parse().unwrap()),
            healthy: false,
            repositories: vec![odd, row],
        }
    }

    #[test]
    fn every_metric_is_there_with_its_value() {
        let text = text(&status());
        for line in [
            "pmpy_build_info{version=\"0.1.0\"} 1",
            "pmpy_healthy 0",
            "pmpy_last_tick_timestamp_seconds 1795337971",
            "pmpy_repository_state{repository=\"spog\",state=\"failing\"} 1",
            "pmpy_repository_state{repository=\"spog\",state=\"current\"} 0",
            "pmpy_last_success_timestamp_seconds{repository=\"spog\"} 1795334400",
            "pmpy_attempt{repository=\"spog\"} 3",
            "pmpy_action_seconds{repository=\"spog\"} 0.8",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn each_family_is_announced_once_and_its_samples_follow_it() {
        let text = text(&status());
        let mut family = "";
        let mut announced = Vec::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.strip_suffix(" gauge").unwrap();
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
